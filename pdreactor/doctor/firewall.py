"""Judges of other people's firewall rules. Pure.

What they say for sure is an error, what may be so a warning: rules can match on more than is known
of a packet here.
"""

from collections.abc import Iterator
from ipaddress import IPv6Network
from typing import NamedTuple

from ..model import Config, Translation
from .facts import ERROR, MOST, WARNING, Chain, Facts, Finding
from .machine import by_nftables, legacy, tracked
from .packet import Packet, index, outcomes

OURS_NFT, OURS_IP6TABLES = 95, 100
"""Priorities of the chains that translate the source."""
STAY = -149
"""From here on in prerouting, and in all later hooks, the packet mark is in use."""


def reverse_path(facts: Facts) -> Iterator[Finding]:
    """nft ``fib saddr . iif oif missing drop``, ip6tables ``-m rpfilter``, firewalld's
    IPv6_rpfilter. With tables the policy rules answer by the right uplink, and they let packets in
    (tried); without, table main knows one way only."""
    uplinks = facts.config.uplinks
    without = [one.name for one in uplinks if one.table is None]
    if len({one.interface for one in uplinks}) < 2 or not without:
        return
    for chain in facts.chains:
        if any(step.verdict == "drop" and any(m.key == "reverse" and m.equal for m in step.matches)
               for step in chain.steps):
            fix = "give each uplink a table (source-based routing), or remove this rule"
            if "firewalld" in chain.table:
                fix = ("give each uplink a table (source-based routing), or set IPv6_rpfilter=no "
                       "in /etc/firewalld/firewalld.conf")
            yield Finding(WARNING, f"a reverse path filter: what comes in by an uplink to which "
                                   f"table main has no route back may be dropped (no table: "
                                   f"{', '.join(without)})", str(chain), fix)


# ---- who translates first ----------------------------------------------------------------------


def first(facts: Facts) -> Iterator[Finding]:
    """NAT of others that sees the flow before ours does: the first that translates decides."""
    said, known = set(), index(facts.chains)
    for name, translation in _served(facts.config):
        packet = Packet(oif=name, saddr=translation.internal)
        for chain, sooner in _before(facts, translation):
            found = outcomes(chain, packet, known, ours(facts.config))
            if "nat" not in found or (chain, name) in said:
                continue
            said.add((chain, name))
            sure = sooner and found == {"nat"}
            yield Finding(
                ERROR if sure else WARNING,
                f"this chain {'rewrites' if sure else 'may rewrite'} sources that leave {name} "
                f"before pdreactor can translate them", str(chain),
                f"leave {translation.internal} out of its masquerade and snat rules"
                + (f", or give the chain a priority above {_priority(facts.config)}"
                   if chain.program == "nft" and translation.mode == "netmap" else ""))


def _before(facts: Facts, translation: Translation) -> Iterator[tuple[Chain, bool]]:
    """Chains that come before ours; False for one of the same priority: of those the last to be
    registered comes first. Mode rfc6296 is not tracked, so the hooks of NAT do not see it."""
    ours_is, limit = _program(facts), _priority(facts.config)
    for chain in facts.chains:
        if (chain.type, chain.hook) != ("nat", "postrouting") or translation.mode == "rfc6296":
            continue
        jumps = any(step.target in ours(facts.config) for step in chain.steps)
        if translation.mode == "stateless" or jumps or chain.priority < limit:
            yield chain, True
        elif chain.priority == limit and chain.program != ours_is:
            yield chain, False


def _program(facts: Facts) -> str:
    """Who shows the chain that ours is called from; its jump to ours is put at its head."""
    if by_nftables(facts.config):
        return ""
    return "ip6tables-legacy-save" if legacy(facts) else "ip6tables-nft-save"


def _priority(config: Config) -> int:
    return OURS_NFT if by_nftables(config) else OURS_IP6TABLES


def ours(config: Config) -> frozenset[str]:
    """The names of our chains of ip6tables."""
    dnat, snat = config.dnat_chain, config.snat_chain
    return frozenset({dnat, snat, f"{dnat}_out", f"{snat}_in", f"{snat}_guard"})


# ---- who drops ---------------------------------------------------------------------------------


class Way(NamedTuple):
    """A packet that has to get through, and what would accept it, for nft and for ip6tables."""

    packet: Packet
    nft: str
    ip6tables: str


def forward(facts: Facts) -> Iterator[Finding]:
    """Chains of the hook forward that drop all that the LAN sends out, or all answers."""
    for name, translation in _served(facts.config):
        net, lan = translation.internal, _lan(facts, translation.internal)
        out = Way(Packet(lan, name, net, None, _new(translation)),
                  f'ip6 saddr {net} oifname "{name}"', f"-s {net} -o {name}")
        back = Way(Packet(name, lan, None, net, _running(translation)),
                   "ct state established,related", "-m conntrack --ctstate ESTABLISHED,RELATED")
        if translation.mode == "rfc6296":
            back = back._replace(nft="ct state untracked",
                                 ip6tables="-m conntrack --ctstate UNTRACKED")
        yield from _dropped(facts, out, ERROR, f"drops all new flows from {net} by {name}")
        yield from _dropped(facts, back, ERROR, f"drops all answers to {net} by {name}")


def hairpin(facts: Facts) -> Iterator[Finding]:
    """Chains of the hook forward that drop what hosts of the LAN send each other by external
    addresses: such a packet leaves by an internal interface again."""
    for translation in facts.config.translations[:MOST]:
        net, lan = translation.internal, _lan(facts, translation.internal)
        if not translation.hairpin or lan is None:
            continue
        way = Way(Packet(lan, lan, net, net, _new(translation)),
                  f"ip6 saddr {net} ip6 daddr {net}", f"-s {net} -d {net}")
        if translation.mode == "netmap":
            way = Way(way.packet._replace(status=frozenset({"dnat"})), "ct status dnat",
                      "-m conntrack --ctstate DNAT")
        yield from _dropped(facts, way, WARNING, f"drops what hosts of {net} send each other by "
                                                 f"their external addresses (hairpin)")


def _dropped(facts: Facts, way: Way, severity: str, what: str) -> Iterator[Finding]:
    known = index(facts.chains)
    for chain in facts.chains:
        if (chain.hook, chain.type) == ("forward", "filter") and outcomes(
                chain, way.packet, known, ours(facts.config)) == {"drop"}:
            rule = (f"{way.nft} accept" if chain.program == "nft" else
                    f"-I {chain.name} {way.ip6tables} -j ACCEPT")
            yield Finding(severity, f"this chain {what}", str(chain), f"accept them there: {rule}")


def _new(translation: Translation) -> str:
    return "untracked" if translation.mode == "rfc6296" else "new"


def _running(translation: Translation) -> str:
    return "untracked" if translation.mode == "rfc6296" else "established"


def _lan(facts: Facts, internal: IPv6Network) -> str | None:
    """An interface with an address of the internal prefix."""
    return next((name for name, one in facts.interfaces.items()
                 if any(address in internal for address in one.addresses)), None)


def _served(config: Config) -> Iterator[tuple[str, Translation]]:
    """(interface, translation) for each uplink of each translation."""
    for translation in config.translations[:MOST]:
        for name in translation.uplinks:
            yield config.uplink(name).interface, translation


# ---- marks ---------------------------------------------------------------------------------------


def marks(facts: Facts) -> Iterator[Finding]:
    """Rules that set bits of ``ct_mark_mask`` in the mark of flows, which carry our stamp, or of
    packets, which lead flows to their uplink and hairpins of mode stateless home."""
    config, mask = facts.config, facts.config.ct_mark_mask
    for chain, reached in _reached(facts.chains):
        if chain.name in ours(config):
            continue
        kinds = {one.kind for step in chain.steps for one in step.markings if one.bits & mask}
        used = {"flow"} if tracked(config) else set()
        if _packet_mark_used(config, reached):
            used.add("packet")
        for kind in sorted(kinds & used):
            what = {"flow": "the marks of flows (ct mark, CONNMARK)",
                    "packet": "the marks of packets (meta mark, MARK)"}[kind]
            yield Finding(WARNING, f"a rule sets bits of {mask:#010x} in {what}, which are "
                                   f"pdreactor's", str(chain),
                          "let the rule change its own bits only (\"mark set mark and MASK or "
                          "VALUE\"; --set-xmark VALUE/MASK), or choose other bits for "
                          "firewall.ct_mark_mask")


def _packet_mark_used(config: Config, reached: set[tuple[str, int]]) -> bool:
    if any(one.mode == "stateless" and one.hairpin for one in config.translations):
        return True
    tables = any(one.table is not None for one in config.uplinks) and tracked(config)
    return tables and any(hook == "prerouting" and priority >= STAY for hook, priority in reached)


def _reached(chains: tuple[Chain, ...]) -> Iterator[tuple[Chain, set[tuple[str, int]]]]:
    """Each chain, and the hooks that lead to it."""
    known = index(chains)
    hooks: dict[tuple[str, str, str], set[tuple[str, int]]] = {key: set() for key in known}
    for base in chains:
        rest = [base] if base.hook else []
        while rest:
            chain = rest.pop()
            key = (chain.program, chain.table, chain.name)
            if (base.hook, base.priority) in hooks[key]:
                continue
            hooks[key].add((base.hook, base.priority))
            rest += [known[below] for step in chain.steps if step.target
                     and (below := (chain.program, chain.table, step.target)) in known]
    for key, chain in known.items():
        if hooks[key]:
            yield chain, hooks[key]
