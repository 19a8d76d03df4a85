"""The translation as chains of ip6tables: render (pure), observe, diff (pure), apply.

    table    mode netmap                          mode rfc6296 (checksum-neutral, RFC 6296)
    raw                                           NOTRACK: SNPT and DNPT know no conntrack
    mangle                                        SNPT, DNPT (these tables take them nowhere else)
    nat      NETMAP, and the conntrack mark
    filter   the guard, on a kernel without nf_tables: for both modes
    mangle   there also what keeps flows on their uplink: for mode netmap

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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from ..errors import KernelBusy, KernelError
from ..kernel.xtables import BUILTIN, Chains, Commit, Rule, Seen
from ..model import Holding, Nat
from .chains import NEEDED, TABLES, Tables, closed, hooks, render
from .words import differences


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


Observed = dict[str, Chains]
"""The same as the kernel has it: our chains, and the built-in ones that should jump to them."""


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
PAIR = (r"(outbound|inbound|hairpin) [A-Za-z0-9_-]+ (\S+/\d+) (\S+/\d+) [0-9a-f]{8}")


def translated(tables: Translated) -> dict[str, frozenset[str]]:
    """What these tables translate, desired or observed: "outbound" has "INTERNAL : EXTERNAL" texts,
    "inbound" (also from inside: hairpin) has "EXTERNAL : INTERNAL" ones."""
    found: dict[str, set[str]] = {"outbound": set(), "inbound": set(), "hairpin": set()}
    for comment in _comments_of_ours(tables):
        if pair := re.fullmatch(PAIR, comment):
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
             for table in _in_order(wanted.held, observed) if table in desired]
    found = _with_closed_guard(wanted, desired, [commit for commit in found if commit])
    found += [commit for table in ("nat", "raw", "mangle", "filter")
              if table in observed and table not in desired
              and (commit := _removal(wanted, table, observed[table]))]
    return Change(wanted, observed, desired, tuple(found)) if found else None


def _in_order(held: Holding, observed: Observed) -> tuple[str, ...]:
    """Never is a packet untracked and not translated, so mangle begins before raw does. From then
    on raw is first: conntrack is not to see answers to a new prefix."""
    stands = held.dnat in observed.get("raw", {})
    return TABLES if stands else ("mangle", "raw", *TABLES[2:])


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
    unjump = tuple(one for one in plain for _ in range(plain[one] - 1))
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
    shut = guard._replace(chains=closed(wanted.nat, wanted.held))
    return [shut, *others, Commit("filter", desired["filter"])]


def words(change: Change) -> list[str]:
    """The change for people, a line each."""
    before, after = translated(change.observed), translated(change.desired)
    lines = [line for table in TABLES for line in _words_of_table(change, table)]
    lines += differences("outbound", before["outbound"], after["outbound"])
    lines += differences("inbound", before["inbound"], after["inbound"])
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
    modes = change.wanted.nat.modes if change.wanted.nat else ()
    translating = [table for table in ("mangle", "nat") if NEEDED[table] in modes]
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
