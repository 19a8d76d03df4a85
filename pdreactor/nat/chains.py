"""The translation as chains of ip6tables, drawn up: see iptables.py. Pure."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv6Network

from .. import marks
from ..kernel.xtables import Rule
from ..model import Gate, Holding, Lane, Nat, Pair, Stamp
from ..prefix import GLOBAL_UNICAST, Texts, compact

TABLES = ("raw", "mangle", "nat", "filter")
"""As a packet from outside meets them."""
NEEDED = {"raw": "rfc6296", "mangle": "rfc6296", "nat": "netmap"}
"""Which mode needs the table."""

OWN = "-m addrtype --dst-type LOCAL"
DECRYPTED = "-m policy --dir in --pol ipsec"
IPSEC = "-m policy --dir out --pol ipsec"
NOTRACK = "-j CT --notrack"
NEVER_OUT = ("ff00::/8", "fe80::/10")
LONGEST_NPT = 64
"""xt_NPT, and RFC 6296 section 3.5."""
MOST_AROUND = 256
"""Rules for the sources of hairpin flows, one for each part of a delegation that can be reached and
each internal prefix. Were it more, all of the delegation would count as one part."""


Tables = dict[str, dict[str, tuple[Rule, ...]]]
"""{table: {chain: its rules}}, desired."""


def hooks(held: Holding) -> dict[str, dict[str, str]]:
    """{table: {built-in chain: ours that it jumps to}}."""
    dnat, snat = held.dnat, held.snat
    before, here = {"PREROUTING": dnat, "OUTPUT": f"{dnat}_out"}, {"POSTROUTING": snat}
    return {
        "raw": before,
        "mangle": {**before, "INPUT": f"{snat}_in", **here},
        "nat": {**before, **here},
        "filter": {"FORWARD": f"{snat}_guard", "OUTPUT": f"{snat}_guard"},
    }


class _Draft:
    """Collects the rules of one table. ``ours`` has our chain for each built-in one."""

    def __init__(self, nat: Nat, table: str, ours: Mapping[str, str]) -> None:
        self.nat = nat
        self.uplinks = tuple(dict.fromkeys(gate.interface for gate in nat.gates))
        self.inside = tuple(dict.fromkeys(net for gate in nat.gates for net in gate.internal))
        self._table, self._ours = table, ours
        self._rules: dict[str, list[Rule]] = {chain: [] for chain in ours.values()}
        self.text = Texts()  # the Nat holds the networks of its pairs

    def rule(self, builtin: str, purpose: str, text: str) -> None:
        """Into our chain for that built-in one."""
        chain = self._ours[builtin]
        checksum = zlib.crc32(f"{self._table} {chain} {text}".encode())
        self._rules[chain].append(Rule(f"{purpose} {checksum:08x}", tuple(text.split())))

    def chains(self) -> dict[str, tuple[Rule, ...]]:
        return {chain: tuple(rules) for chain, rules in self._rules.items()}

    def texts(self, pairs: Iterable[Pair]) -> Iterator[tuple[str, str]]:
        return ((self.text(one), self.text(other)) for one, other in pairs)


def render(nat: Nat, held: Holding, guard: bool = False) -> Tables:
    """The chains that do what ``nat`` says. Those of a configured mode stand without a prefix
    too."""
    tables = [table for table in TABLES if NEEDED.get(table) in nat.modes]
    stay = guard and nat.kept is not None
    tables += ["mangle"] * (stay and "mangle" not in tables) + ["filter"] * (guard and nat.guard)
    drafts = {table: _Draft(nat, table, hooks(held)[table]) for table in tables}
    if stay:
        _render_stay(drafts["mangle"])
    for table, draft in drafts.items():
        if table == "mangle" and NEEDED[table] not in nat.modes:
            continue
        RENDER[table](draft, [lane for lane in nat.lanes if lane.mode == NEEDED.get(table)])
    return {table: draft.chains() for table, draft in drafts.items()}


# ---- what more than one table has ----


def _never_translated(draft: _Draft, *builtins: str) -> None:
    """IPsec, and the router's own addresses."""
    for builtin in builtins:
        if builtin in ("PREROUTING", "INPUT"):
            draft.rule(builtin, "decrypted by IPsec", f"{DECRYPTED} -j RETURN")
        else:
            draft.rule(builtin, "IPsec policy", f"{IPSEC} -j RETURN")
        if builtin in ("PREROUTING", "OUTPUT"):
            draft.rule(builtin, "own addresses", f"{OWN} -j RETURN")


def _bypass(draft: _Draft, builtin: str) -> None:
    for gate in draft.nat.gates:
        for network in gate.bypass:
            draft.rule(builtin, f"bypass {gate.interface} {network}",
                       f"-o {gate.interface} -d {network} -j RETURN")


def _end_of_uplinks(draft: _Draft, builtin: str, option: str) -> None:
    """What follows is for packets from inside (-i), or to inside (-o)."""
    for name in draft.uplinks:
        draft.rule(builtin, f"rest of {name}", f"{option} {name} -j RETURN")


def _stamp(draft: _Draft, builtin: str, purpose: str, match: str, networks: Iterable[IPv6Network],
           target: str, value: str) -> None:
    """Put a stamp into our bits of the mark, for these networks."""
    for network in compact(networks):
        draft.rule(builtin, f"stamp {purpose} {network}",
                   f"{match} {network} -j {target} --set-xmark {value}")


def _value(draft: _Draft, stamp: Stamp) -> str:
    return f"{marks.pack(stamp, draft.nat.mask):#010x}/{draft.nat.mask:#010x}"


def _askers(lane: Lane, lanes: Iterable[Lane]) -> tuple[Pair, ...]:
    """(internal, external) of those who use external addresses of this lane from inside: they are
    seen with the external address that they have now."""
    now = tuple(pair for one in lanes if one.uplink == lane.uplink for pair in one.outbound)
    return now or tuple((internal, external) for external, internal in lane.hairpin)


# ---- table nat: mode netmap ----


def _render_nat(draft: _Draft, lanes: list[Lane]) -> None:
    _never_translated(draft, "PREROUTING", "OUTPUT", "POSTROUTING")
    _bypass(draft, "POSTROUTING")
    for lane in lanes:
        _map_out(draft, lane)
        _map_in(draft, "PREROUTING", f"inbound {lane.uplink}", f"-i {lane.interface} -d", lane,
                lane.inbound)
    _end_of_uplinks(draft, "PREROUTING", "-i")
    _end_of_uplinks(draft, "POSTROUTING", "-o")
    for lane in lanes:
        for builtin in ("PREROUTING", "OUTPUT"):
            _map_in(draft, builtin, f"hairpin {lane.uplink}", "-d", lane, lane.hairpin)
        _map_asker(draft, lane, lanes)


def _map_out(draft: _Draft, lane: Lane) -> None:
    purpose, match = f"outbound {lane.uplink}", f"-o {lane.interface} -s"
    sources = (internal for internal, _ in lane.outbound)
    _stamp(draft, "POSTROUTING", purpose, match, sources, "CONNMARK", _value(draft, lane.stamp))
    for internal, external in draft.texts(lane.outbound):
        draft.rule("POSTROUTING", f"{purpose} {internal} {external}",
                   f"{match} {internal} -j NETMAP --to {external}")


def _map_in(draft: _Draft, builtin: str, purpose: str, match: str, lane: Lane,
            pairs: tuple[Pair, ...]) -> None:
    value = _value(draft, lane.stamp._replace(inbound=True))
    targets = (external for external, _ in pairs)
    _stamp(draft, builtin, purpose, match, targets, "CONNMARK", value)
    for external, internal in draft.texts(pairs):
        draft.rule(builtin, f"{purpose} {external} {internal}",
                   f"{match} {external} -j NETMAP --to {internal}")


def _map_asker(draft: _Draft, lane: Lane, lanes: list[Lane]) -> None:
    """What was redirected is known by conntrack's own tuple (--ctorigdst), not by a packet mark
    that others could overwrite."""
    targets = compact(external for external, _ in lane.hairpin)
    askers = _askers(lane, lanes)
    few = len(targets) * len(askers) <= MOST_AROUND
    for target in targets if few else (lane.delegated,):
        redirected = f"-m conntrack --ctstate DNAT --ctorigdst {target}"
        for internal, external in draft.texts(askers):
            draft.rule("POSTROUTING", f"hairpin-source {lane.uplink} {internal} {external}",
                       f"-s {internal} {redirected} -j NETMAP --to {external}")


# ---- tables raw and mangle: mode rfc6296 ----


def _render_raw(draft: _Draft, lanes: list[Lane]) -> None:
    """Neither direction of what mangle translates is tracked: conntrack would see two halves of two
    flows. Between internal prefixes nothing is translated, and all is tracked."""
    draft.rule("PREROUTING", "decrypted by IPsec", f"{DECRYPTED} -j RETURN")
    for network in draft.inside:
        draft.rule("PREROUTING", f"to internal {network}", f"-d {network} -j RETURN")
    for name in draft.uplinks:
        draft.rule("PREROUTING", f"own addresses {name}", f"-i {name} {OWN} -j RETURN")
    for lane in lanes:
        _untrack(draft, "PREROUTING", f"inbound {lane.uplink}", f"-i {lane.interface} -d",
                 (external for external, _ in lane.inbound))
    _end_of_uplinks(draft, "PREROUTING", "-i")
    _untrack(draft, "PREROUTING", "to own address", f"-d {GLOBAL_UNICAST} -s",
             (internal for internal, _ in _around(lanes)), f"{OWN} ")
    draft.rule("PREROUTING", "own addresses", f"{OWN} -j RETURN")
    _never_translated(draft, "OUTPUT")
    _bypass(draft, "OUTPUT")
    for lane in lanes:
        for builtin in ("PREROUTING", "OUTPUT"):
            _untrack(draft, builtin, f"hairpin {lane.uplink}", "-d",
                     (external for external, _ in lane.hairpin))
    for name in draft.uplinks:
        _untrack(draft, "OUTPUT", f"outbound {name}", f"-o {name} -s",
                 (net for lane in lanes if lane.interface == name for net, _ in lane.outbound))
    _untrack_outbound(draft, lanes)


def _untrack_outbound(draft: _Draft, lanes: list[Lane]) -> None:
    """Before routing nobody knows by which interface a packet will leave."""
    bypass = (network for gate in draft.nat.gates for network in gate.bypass)
    for text in dict.fromkeys((*NEVER_OUT, *map(str, bypass))):
        draft.rule("PREROUTING", f"never translated {text}", f"-d {text} -j RETURN")
    outbound = [internal for lane in lanes for internal, _ in lane.outbound]
    inbound = [internal for lane in lanes for _, internal in lane.inbound]
    _untrack(draft, "PREROUTING", "outbound", "-s", (*outbound, *inbound))


def _untrack(draft: _Draft, builtin: str, purpose: str, match: str,
             networks: Iterable[IPv6Network], test: str = "") -> None:
    for network in compact(networks):
        draft.rule(builtin, f"untracked {purpose} {network}", f"{match} {network} {test}{NOTRACK}")


def _render_mangle(draft: _Draft, lanes: list[Lane]) -> None:
    _never_translated(draft, "PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")
    _bypass(draft, "POSTROUTING")
    for lane in lanes:
        _rewrite(draft, "POSTROUTING", f"outbound {lane.uplink}", f"-o {lane.interface} -s", "SNPT",
                 lane.outbound)
        _rewrite(draft, "PREROUTING", f"inbound {lane.uplink}", f"-i {lane.interface} -d", "DNPT",
                 lane.inbound)
    _end_of_uplinks(draft, "PREROUTING", "-i")
    _end_of_uplinks(draft, "INPUT", "-i")
    _end_of_uplinks(draft, "POSTROUTING", "-o")
    for lane in lanes:
        for builtin in ("PREROUTING", "OUTPUT"):
            _turn(draft, builtin, lane)
    for lane in _one_of_each_uplink(lanes):
        for builtin in ("INPUT", "POSTROUTING"):
            _rewrite_asker(draft, builtin, lane, _askers(lane, lanes))
    _rewrite_own_peers(draft, lanes)


def _rewrite(draft: _Draft, builtin: str, purpose: str, match: str, target: str,
             pairs: Iterable[Pair]) -> None:
    short = (pair for pair in pairs if pair[0].prefixlen <= LONGEST_NPT)
    for source, to in draft.texts(short):
        draft.rule(builtin, f"{purpose} {source} {to}",
                   f"{match} {source} -j {target} --src-pfx {source} --dst-pfx {to}")


def _turn(draft: _Draft, builtin: str, lane: Lane) -> None:
    """From inside to an external address: the packet mark says so to the end of its way."""
    purpose, targets = f"hairpin {lane.uplink}", (external for external, _ in lane.hairpin)
    _stamp(draft, builtin, purpose, "-d", targets, "MARK", _value(draft, _mark(lane)))
    _rewrite(draft, builtin, purpose, "-d", "DNPT", lane.hairpin)


def _rewrite_asker(draft: _Draft, builtin: str, lane: Lane, askers: tuple[Pair, ...]) -> None:
    purpose = f"hairpin-source {lane.uplink}"
    marked = f"-m mark --mark {_value(draft, _mark(lane))}"
    for internal, external in draft.texts(askers):
        draft.rule(builtin, f"{purpose} {internal} {external}",
                   f"-s {internal} {marked} -j SNPT --src-pfx {internal} --dst-pfx {external}")
    draft.rule(builtin, f"end of {purpose}",
               f"{marked} -j MARK --set-xmark 0x00000000/{draft.nat.mask:#010x}")


def _rewrite_own_peers(draft: _Draft, lanes: list[Lane]) -> None:
    """The router asks by a global address of its own, and a host answers from its internal one.
    Nothing tells that from a host's own question, so this is seen by its external address as well
    (and raw does not track it)."""
    if not any(lane.hairpin for lane in lanes):
        return
    draft.rule("INPUT", "own questions", "-i lo -j RETURN")
    for network in draft.inside:
        draft.rule("INPUT", f"to internal {network}", f"-d {network} -j RETURN")
    _rewrite(draft, "INPUT", "peer", f"-d {GLOBAL_UNICAST} -s", "SNPT", _around(lanes))


def _around(lanes: list[Lane]) -> tuple[Pair, ...]:
    """All askers, each with one external prefix."""
    firsts: dict[IPv6Network, IPv6Network] = {}
    for lane in _one_of_each_uplink(lanes):
        for internal, external in _askers(lane, lanes):
            firsts.setdefault(internal, external)
    return tuple(firsts.items())


def _one_of_each_uplink(lanes: list[Lane]) -> list[Lane]:
    found: dict[str, Lane] = {}
    for lane in lanes:
        if lane.hairpin:
            found.setdefault(lane.uplink, lane)
    return list(found.values())


def _mark(lane: Lane) -> Stamp:
    """What marks a packet on its way around: its uplink. All prefixes of that are alike here."""
    return Stamp(lane.stamp.uplink, 0, True)


def _render_stay(draft: _Draft) -> None:
    """See stay.py. Nothing ends the chain, since mode rfc6296 may follow: what has another end
    loses the mark again."""
    clear = f"-j MARK --set-xmark 0x00000000/{draft.nat.mask:#010x}"
    for builtin in ("PREROUTING", "OUTPUT"):
        for number in draft.nat.kept or ():
            _keep(draft, builtin, number, "outside", "REPLY")
        for network in draft.inside:
            draft.rule(builtin, f"begun inside {network}",
                       f"-m conntrack --ctdir REPLY --ctorigsrc {network} {clear}")
        for number in draft.nat.kept or ():
            _keep(draft, builtin, number, "inside", "ORIGINAL")
    for name in draft.uplinks:
        draft.rule("PREROUTING", f"from outside {name}", f"-i {name} {clear}")


def _keep(draft: _Draft, builtin: str, number: int, begun: str, direction: str) -> None:
    value, mask = marks.staying(number, draft.nat.mask)
    bit = draft.nat.mask & -draft.nat.mask if begun == "outside" else 0
    draft.rule(builtin, f"begun {begun}, by uplink {number}",
               f"-m connmark --mark {value | bit:#010x}/{mask:#010x} -m conntrack --ctdir "
               f"{direction} -j MARK --set-xmark {value:#010x}/{draft.nat.mask:#010x}")


# ---- table filter: the guard ----


def _render_guard(draft: _Draft, _: list[Lane]) -> None:
    """What FORWARD and OUTPUT can do of the guard: here packets still have their internal source,
    and nobody knows yet whether a new flow will be translated."""
    _never_translated(draft, "FORWARD")
    _bypass(draft, "FORWARD")
    for number in draft.nat.kept or ():
        _let_own(draft, number)
    for gate in draft.nat.gates:
        _refuse_foreign(draft, gate)
        _refuse_unserved(draft, gate)
        for network in _tracked(draft.nat, gate):
            _refuse_untranslated(draft, f"untranslated {gate.interface} {network}",
                                 f"-o {gate.interface} -s {network} -m conntrack")


def _let_own(draft: _Draft, number: int) -> None:
    """After mangle has routed a packet of the router anew, -o still is where it went before
    (nf_hook_state.out)."""
    value, mask = marks.staying(number, draft.nat.mask)
    draft.rule("FORWARD", f"own, by uplink {number}", "-m addrtype --src-type LOCAL -m mark --mark "
               f"{value:#010x}/{mask:#010x} -j RETURN")


def _refuse_foreign(draft: _Draft, gate: Gate) -> None:
    """Sources of another uplink's delegation; flows whose translation conntrack has already, by
    what they will have."""
    for network in gate.foreign:
        for which in (f"-s {network}", f"-m conntrack --ctdir ORIGINAL --ctrepldst {network}",
                      f"-m conntrack --ctdir REPLY --ctorigdst {network}"):
            draft.rule("FORWARD", f"other uplink's source {gate.interface} {network}",
                       f"-o {gate.interface} {which} -j DROP")


def _refuse_unserved(draft: _Draft, gate: Gate) -> None:
    """RFC 7084 L-14. Answers of inbound flows go on."""
    reject = "-j REJECT --reject-with icmp6-policy-fail"
    asking = "-m conntrack --ctdir ORIGINAL "
    for network, which in (*((net, asking) for net in gate.unserved),
                           *((net, "") for net in gate.untracked)):
        draft.rule("FORWARD", f"no usable prefix {gate.interface} {network}",
                   f"-o {gate.interface} -s {network} {which}{reject}")


def _refuse_untranslated(draft: _Draft, purpose: str, match: str) -> None:
    """A confirmed flow has passed the nat table: it is translated, or never will be."""
    for which in ("--ctstate INVALID,UNTRACKED", "--ctdir REPLY ! --ctstate DNAT",
                  "--ctdir ORIGINAL --ctstatus CONFIRMED ! --ctstate SNAT"):
        draft.rule("FORWARD", purpose, f"{match} {which} -j DROP")


def _tracked(nat: Nat, gate: Gate) -> tuple[IPv6Network, ...]:
    """Internal prefixes of mode netmap."""
    lanes = [one for one in nat.lanes if one.interface == gate.interface and one.mode == "netmap"]
    inbound = [internal for lane in lanes for _, internal in lane.inbound]
    outbound = [internal for lane in lanes for internal, _ in lane.outbound]
    return compact((*outbound, *inbound, *gate.unserved))


def closed(nat: Nat, held: Holding) -> dict[str, tuple[Rule, ...]]:
    """The guard while the other tables change: no flow begins."""
    draft = _Draft(nat, "filter", hooks(held)["filter"])
    _never_translated(draft, "FORWARD")
    _bypass(draft, "FORWARD")
    for gate in nat.gates:
        for network in gate.internal:
            draft.rule("FORWARD", f"untranslated {gate.interface} {network}",
                       f"-o {gate.interface} -s {network} -m conntrack --ctstate NEW,UNTRACKED "
                       f"-j DROP")
    return draft.chains()


RENDER = {"raw": _render_raw, "mangle": _render_mangle, "nat": _render_nat,
          "filter": _render_guard}
