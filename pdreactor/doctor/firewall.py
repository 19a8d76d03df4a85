"""Judges of other people's firewall rules. Pure.

What they say for sure is an error, what may be so a warning: rules can match on more than is known
of a packet here.
"""

from collections.abc import Iterator
from ipaddress import IPv6Network

from ..model import Config, Translation
from .facts import ERROR, WARNING, Chain, Facts, Finding
from .machine import by_nftables, tracked
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
    said = set()
    for name, translation in _served(facts.config):
        if translation.mode == "rfc6296":
            continue
        packet = Packet(oif=name, saddr=translation.internal)
        for chain in _before(facts, translation):
            found = outcomes(chain, packet, index(facts.chains), ours(facts.config))
            if "nat" not in found or (chain, name) in said:
                continue
            said.add((chain, name))
            sure = found == {"nat"}
            yield Finding(
                ERROR if sure else WARNING,
                f"this chain {'rewrites' if sure else 'may rewrite'} sources that leave {name} "
                f"before pdreactor can translate them", str(chain),
                f"leave {translation.internal} out of its masquerade and snat rules"
                + ("" if translation.mode == "stateless" else
                   f", or give the chain a priority above {_priority(facts.config)}"))


def _before(facts: Facts, translation: Translation) -> Iterator[Chain]:
    for chain in facts.chains:
        if chain.type != "nat" or chain.hook != "postrouting":
            continue
        nft = chain.program == "nft"
        if translation.mode == "stateless":
            yield chain
        elif by_nftables(facts.config):
            if chain.priority <= OURS_NFT:
                yield chain
        elif nft and chain.priority < OURS_IP6TABLES or not nft and _same(facts, chain):
            yield chain


def _same(facts: Facts, chain: Chain) -> bool:
    """Whether this is the built-in chain that jumps to ours."""
    return any(step.target in ours(facts.config) for step in chain.steps)


def _priority(config: Config) -> int:
    return OURS_NFT if by_nftables(config) else OURS_IP6TABLES


def ours(config: Config) -> frozenset[str]:
    """The names of our chains of ip6tables."""
    dnat, snat = config.dnat_chain, config.snat_chain
    return frozenset({dnat, snat, f"{dnat}_out", f"{snat}_in", f"{snat}_guard"})


# ---- who drops -----------------------------------------------------------------------------------


def forward(facts: Facts) -> Iterator[Finding]:
    """Chains of the hook forward that drop all that the LAN sends out, or all answers."""
    for name, translation in _served(facts.config):
        lan = _lan(facts, translation.internal)
        ways = [
            ("new flows from", Packet(lan, name, translation.internal, None, _new(translation)),
             _accepting(f'iifname "{lan or "LAN"}" oifname "{name}"', translation)),
            ("answers to", Packet(name, lan, None, translation.internal, _running(translation)),
             "ct state established,related accept" if translation.mode != "rfc6296"
             else "ct state untracked accept"),
        ]
        for what, packet, rule in ways:
            yield from _dropped(facts, packet, ERROR,
                                f"drops all {what} {translation.internal} by {name}",
                                f"accept them there: {rule}")


def hairpin(facts: Facts) -> Iterator[Finding]:
    """Chains of the hook forward that drop what hosts of the LAN send each other by external
    addresses: such a packet leaves by an internal interface again."""
    for translation in facts.config.translations:
        if not translation.hairpin:
            continue
        lan, net = _lan(facts, translation.internal), translation.internal
        if lan is None:
            continue
        status = frozenset({"dnat"}) if translation.mode == "netmap" else frozenset[str]()
        packet = Packet(lan, lan, net, net, _new(translation), status)
        rule = "ct status dnat accept" if translation.mode == "netmap" else _accepting(
            f"ip6 daddr {net}", translation)
        yield from _dropped(facts, packet, WARNING,
                            f"drops what hosts of {net} send each other by their external "
                            f"addresses (hairpin)",
                            f"accept it there: {rule}; or set hairpin = false")


def _dropped(facts: Facts, packet: Packet, severity: str, what: str, fix: str) -> Iterator[Finding]:
    for chain in facts.chains:
        if chain.hook == "forward" and chain.type == "filter" and outcomes(
                chain, packet, index(facts.chains), ours(facts.config)) == {"drop"}:
            yield Finding(severity, f"this chain {what}", str(chain), fix)


def _accepting(selector: str, translation: Translation) -> str:
    state = " ct state untracked" if translation.mode == "rfc6296" else ""
    return f"{selector}{state} accept"


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
    for translation in config.translations:
        for name in translation.uplinks:
            yield config.uplink(name).interface, translation


# ---- marks ---------------------------------------------------------------------------------------


def marks(facts: Facts) -> Iterator[Finding]:
    """Rules that set bits of ``ct_mark_mask`` in the mark of flows, which carry our stamp, or of
    packets, which lead flows to their uplink and hairpins of mode stateless home."""
    config, mask = facts.config, facts.config.ct_mark_mask
    for chain, reached in _reached(facts.chains):
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
