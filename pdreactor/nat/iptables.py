"""The translation as chains of ip6tables: render (pure), observe, diff (pure), apply.

    table    mode netmap                          mode rfc6296 (checksum-neutral, RFC 6296)
    raw                                           NOTRACK: SNPT and DNPT know no conntrack
    mangle                                        SNPT, DNPT (these tables take them nowhere else)
    nat      NETMAP, and the conntrack mark
    filter   the guard, on a kernel without nf_tables: for both modes

    built-in chain   ours        in
    PREROUTING       dnat        raw, mangle, nat
    OUTPUT           dnat_out    raw, mangle, nat   (filter: snat_guard)
    INPUT            snat_in     mangle
    POSTROUTING      snat        mangle, nat
    FORWARD          snat_guard  filter

Here ``dnat`` and ``snat`` are ``[iptables] dnat_chain`` and ``snat_chain``. Chains are replaced as
a whole, all that change in one table at once. Each rule carries a comment: what it is for, and a
checksum of its words. A rule is as it should be when its comment is: how ip6tables prints a rule
depends on its version. The comment of a rule that translates has the two prefixes.

Rules of NETMAP see the first packet of a flow only, and decide; rules of SNPT and DNPT see every
packet, and rules behind them see what they made of it.
"""

import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv6Network
from typing import NamedTuple, Protocol

from .. import marks
from ..errors import KernelBusy, KernelError
from ..kernel.xtables import BUILTIN, Chains, Commit, Rule, Seen
from ..model import Gate, Holding, Lane, Nat, Pair, Stamp
from ..prefix import GLOBAL_UNICAST, compact
from .nftables import _differences

TABLES = ("raw", "mangle", "nat", "filter")
"""In the order of a change: a packet that is not tracked yet is translated, never the reverse."""
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


class Wanted(NamedTuple):
    """What one pass wants of the chains ``held``: all of ``nat``, or with None that they go.

    ``earlier`` are modes of earlier configurations: their tables may have chains of ours. ``guard``
    is for a kernel without nf_tables.
    """

    nat: Nat | None
    held: Holding
    guard: bool = False
    earlier: frozenset[str] = frozenset()


class Seam(Protocol):
    """Ip6tables or Libiptc."""

    def read(self, table: str, chains: Collection[str]) -> Chains: ...

    def commit(self, commit: Commit) -> None: ...


Tables = dict[str, dict[str, tuple[Rule, ...]]]
"""{table: {chain: its rules}}, desired."""
Observed = dict[str, Chains]
"""The same as the kernel has it: our chains, and the built-in ones that should jump to them."""


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


# ---- render ------------------------------------------------------------------------------------


class _Draft:
    """Collects the rules of one table. ``ours`` has our chain for each built-in one."""

    def __init__(self, nat: Nat, table: str, ours: Mapping[str, str]) -> None:
        self.nat = nat
        self.uplinks = tuple(dict.fromkeys(gate.interface for gate in nat.gates))
        self.inside = tuple(dict.fromkeys(net for gate in nat.gates for net in gate.internal))
        self._table, self._ours = table, ours
        self._rules: dict[str, list[Rule]] = {chain: [] for chain in ours.values()}
        self._texts: dict[int, str] = {}  # see text()

    def rule(self, builtin: str, purpose: str, text: str) -> None:
        """Into our chain for that built-in one."""
        chain = self._ours[builtin]
        checksum = zlib.crc32(f"{self._table} {chain} {text}".encode())
        self._rules[chain].append(Rule(f"{purpose} {checksum:08x}", tuple(text.split())))

    def chains(self) -> dict[str, tuple[Rule, ...]]:
        return {chain: tuple(rules) for chain, rules in self._rules.items()}

    def text(self, network: IPv6Network) -> str:
        """str(), once for each object: by id(), for hashing ten thousand networks takes long. The
        Nat that is rendered holds the networks of its pairs, so no id() is used again meanwhile."""
        text = self._texts.get(id(network))
        if text is None:
            text = self._texts[id(network)] = str(network)
        return text

    def texts(self, pairs: Iterable[Pair]) -> Iterator[tuple[str, str]]:
        return ((self.text(one), self.text(other)) for one, other in pairs)


def render(nat: Nat, held: Holding, guard: bool = False) -> Tables:
    """The chains that do what ``nat`` says. Those of a configured mode stand without a prefix
    too."""
    tables = [table for table in TABLES if NEEDED.get(table) in nat.modes]
    drafts = {table: _Draft(nat, table, hooks(held)[table])
              for table in (*tables, *["filter"] * (guard and nat.guard))}
    for table, draft in drafts.items():
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
        _untrack(draft, "OUTPUT", f"outbound {lane.uplink}", f"-o {lane.interface} -s",
                 (internal for internal, _ in lane.outbound))
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


# ---- table filter: the guard ----


def _render_guard(draft: _Draft, _: list[Lane]) -> None:
    """What FORWARD and OUTPUT can do of the guard: here packets still have their internal source,
    and nobody knows yet whether a new flow will be translated."""
    _never_translated(draft, "FORWARD")
    _bypass(draft, "FORWARD")
    for gate in draft.nat.gates:
        _refuse_foreign(draft, gate)
        _refuse_unserved(draft, gate)
        for network in _tracked(draft.nat, gate):
            _refuse_untranslated(draft, f"untranslated {gate.interface} {network}",
                                 f"-o {gate.interface} -s {network} -m conntrack")


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


def _closed(nat: Nat, held: Holding) -> dict[str, tuple[Rule, ...]]:
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


# ---- observe -----------------------------------------------------------------------------------


def observe(seam: Seam, wanted: Wanted) -> Observed:
    """Our chains, and the built-in ones that should jump to them."""
    return _read(seam, wanted.held, _looked_at(wanted))


def _looked_at(wanted: Wanted) -> tuple[str, ...]:
    """Looking at a table takes a process with the nf_tables variant, and nothing with the other."""
    if wanted.nat is None or wanted.held.variant == "legacy":
        return TABLES
    modes = wanted.nat.modes | wanted.earlier
    tables = [table for table in TABLES if NEEDED.get(table) in modes]
    return (*tables, *["filter"] * wanted.guard)


def _read(seam: Seam, held: Holding, tables: Iterable[str]) -> Observed:
    return {table: seam.read(table, dict.fromkeys((*ours, *ours.values())))
            for table in tables for ours in [hooks(held)[table]]}


Translated = Mapping[str, Mapping[str, Sequence[Rule | Seen]]]
PAIR = re.compile(r"(outbound|inbound|hairpin) [A-Za-z0-9_-]+ (\S+/\d+) (\S+/\d+) [0-9a-f]{8}")


def translated(tables: Translated) -> dict[str, frozenset[str]]:
    """What these tables translate, desired or observed: "outbound" has "INTERNAL : EXTERNAL" texts,
    "inbound" (also from inside: hairpin) has "EXTERNAL : INTERNAL" ones."""
    found: dict[str, set[str]] = {"outbound": set(), "inbound": set(), "hairpin": set()}
    for comment in _comments_of_ours(tables):
        if pair := PAIR.fullmatch(comment):
            found[pair[1]].add(f"{pair[2]} : {pair[3]}")
    return {"outbound": frozenset(found["outbound"]),
            "inbound": frozenset(found["inbound"] | found["hairpin"])}


def _comments_of_ours(tables: Translated) -> Iterator[str]:
    return (rule.comment for chains in tables.values() for chain, rules in chains.items()
            if chain not in BUILTIN for rule in rules)


# ---- diff --------------------------------------------------------------------------------------


class Change(NamedTuple):
    """What it takes to get from what was observed to what is desired, a commit after the other."""

    wanted: Wanted
    observed: Observed
    desired: Tables
    commits: tuple[Commit, ...]


def plan(wanted: Wanted, observed: Observed) -> Change | None:
    """The change that is needed; None when everything is as it should be."""
    desired = render(wanted.nat, wanted.held, wanted.guard) if wanted.nat else {}
    found = [_replacement(wanted.held, table, desired[table], observed.get(table, {}))
             for table in TABLES if table in desired]
    found = _with_closed_guard(wanted, desired, [commit for commit in found if commit])
    found += [commit for table in ("nat", "mangle", "raw", "filter")
              if table in observed and table not in desired
              and (commit := _removal(wanted, table, observed[table]))]
    return Change(wanted, observed, desired, tuple(found)) if found else None


def _replacement(held: Holding, table: str, desired: Mapping[str, tuple[Rule, ...]],
                 seen: Chains) -> Commit:
    """Chains that differ are written anew."""
    other = {chain: rules for chain, rules in desired.items()
             if chain not in seen or _comments(rules) != _comments(seen[chain])}
    jump, unjump = _jumps(held, table, seen)
    return Commit(table, other, jump, unjump)


def _comments(rules: Sequence[Rule | Seen]) -> list[str]:
    return [rule.comment for rule in rules]


Jump = tuple[str, str]
"""(built-in chain, ours)."""


def _jumps(held: Holding, table: str, seen: Chains) -> tuple[tuple[Jump, ...], tuple[Jump, ...]]:
    """Plain jumps that are missing, and those that are too many. A user's own jump with conditions
    does; so does a plain one wherever it stands."""
    if not held.jumps:
        return (), ()
    plain, others = _count_jumps(held, table, seen)
    jump = tuple(one for one in plain if not plain[one] and not others[one])
    unjump = tuple(one for one in plain for _ in range(plain[one] - (not others[one])))
    return jump, unjump


def _count_jumps(held: Holding, table: str,
                 seen: Chains) -> tuple[dict[Jump, int], dict[Jump, int]]:
    """How many there are of each: plain ones, and others."""
    plain, others = ({(builtin, chain): sum(rule.target == chain and rule.plain == kind
                                            for rule in seen.get(builtin, ()))
                      for builtin, chain in hooks(held)[table].items()} for kind in (True, False))
    return plain, others


def _removal(wanted: Wanted, table: str, seen: Chains) -> Commit:
    """What a user's own rule jumps to is emptied and stays. An empty chain is such a left-over:
    only when all is to go it is worth another try."""
    plain, others = _count_jumps(wanted.held, table, seen)
    unjump = tuple(one for one in plain for _ in range(plain[one])) if wanted.held.jumps else ()
    kept = {one[1] for one in plain if others[one] or (plain[one] and not wanted.held.jumps)}
    there = [chain for chain in dict.fromkeys(hooks(wanted.held)[table].values()) if chain in seen]
    filled = [chain for chain in there if seen[chain]]
    gone = there if wanted.nat is None or unjump else filled
    return Commit(table, {chain: () for chain in filled if chain in kept}, unjump=unjump,
                  remove=tuple(chain for chain in gone if chain not in kept))


def _with_closed_guard(wanted: Wanted, desired: Tables, commits: list[Commit]) -> list[Commit]:
    """When guard and translation change, one after the other, no flow may begin in between."""
    if wanted.nat is None or len(commits) < 2 or commits[-1].table != "filter":
        return commits
    *others, guard = commits
    closed = guard._replace(chains=_closed(wanted.nat, wanted.held))
    return [closed, *others, Commit("filter", desired["filter"])]


def words(change: Change) -> list[str]:
    """The change for people, a line each."""
    before, after = translated(change.observed), translated(change.desired)
    lines = [line for table in TABLES for line in _words_of_table(change, table)]
    lines += _differences("outbound", before["outbound"], after["outbound"])
    lines += _differences("inbound", before["inbound"], after["inbound"])
    changed = " and ".join(dict.fromkeys(commit.table for commit in change.commits))
    return lines or [f"bring our chains in ip6tables' table {changed} back to what they should be"]


def _words_of_table(change: Change, table: str) -> Iterator[str]:
    ours = set(hooks(change.wanted.held)[table].values())
    if all(commit.table != table for commit in change.commits):
        return
    if table not in change.desired:
        yield f"remove our chains from ip6tables' table {table}"
    elif not ours & set(change.observed.get(table, {})):
        yield f"create our chains in ip6tables' table {table}"


def exposed(change: Change) -> bool:
    """True when before this change nothing of this translated, or guarded, in some mode."""
    translating = [table for table in ("mangle", "nat") if table in change.desired]
    return not (_in_force(change, "filter", "untranslated ")
                or all(_in_force(change, table, "outbound ") for table in translating))


def _in_force(change: Change, table: str, purpose: str) -> bool:
    """Whether packets on their way out met a rule for that."""
    held, seen = change.wanted.held, change.observed.get(table, {})
    builtin = "FORWARD" if table == "filter" else "POSTROUTING"
    chain = hooks(held)[table][builtin]
    jumps = not held.jumps or any(rule.target == chain for rule in seen.get(builtin, ()))
    return jumps and any(rule.comment.startswith(purpose) for rule in seen.get(chain, ()))


# ---- apply -------------------------------------------------------------------------------------


def apply(seam: Seam, change: Change) -> None:
    """Run the change. A commit that fails leaves its table as it was; the error says why."""
    try:
        for commit in change.commits:
            _commit(seam, commit)
    except KernelError:
        _open_again(seam, change)
        raise


def _commit(seam: Seam, commit: Commit) -> None:
    try:
        seam.commit(commit)
    except KernelBusy:
        raise
    except KernelError:
        if not commit.remove:
            raise
        _empty(seam, commit)


def _empty(seam: Seam, commit: Commit) -> None:
    """Some chain of somebody else jumps to one of those to be removed: that one stays, empty."""
    seam.commit(commit._replace(chains={**commit.chains, **dict.fromkeys(commit.remove, ())},
                                remove=()))
    for chain in commit.remove:
        try:
            seam.commit(Commit(commit.table, remove=(chain,)))
        except KernelError:
            pass


def _open_again(seam: Seam, change: Change) -> None:
    """The guard must not stay closed when what it was closed for has failed."""
    first, *_, last = (*change.commits, Commit("filter"))[:1] + change.commits[-1:]
    if first.table == "filter" and first is not last:
        try:
            seam.commit(last)
        except KernelError:
            pass  # why the change failed is what counts


def clean(seam: Seam, change: Change) -> None:
    """Look whether the tables are as desired."""
    changed = dict.fromkeys(commit.table for commit in change.commits)
    after = _read(seam, change.wanted.held, changed)
    lenient = change.wanted.nat or Nat(0, (), (), False, frozenset())
    if plan(change.wanted._replace(nat=lenient), {**change.observed, **after}):
        raise KernelError(f"our chains in ip6tables' table {' and '.join(changed)} are not as they "
                          f"were written: another program changes them at the same time")
