"""What the plan for ip6tables does about jumps and about rules of others, and in which order; and
what people are told of it."""

from collections.abc import Callable, Collection
from ipaddress import IPv6Network

import pytest

from pdreactor.errors import KernelBusy, KernelError
from pdreactor.kernel.ip6tables import run
from pdreactor.kernel.xtables import Chains, Commit, Rule, Seen
from pdreactor.model import Gate, Holding, Lane, Nat, Stamp
from pdreactor.nat import chains as drawn
from pdreactor.nat import iptables
from pdreactor.nat.iptables import Change, Observed, Wanted

from .namespace import in_new_network, needs_root
from .test_iptables_golden import (
    ABSENT,
    SCENARIOS,
    VARIANTS,
    go_to,
    listing,
    look,
    observed,
    of,
    rules_only,
    seam,
)

DNAT, SNAT = "pdreactor_dnat", "pdreactor_snat"
PLAIN = Seen("", SNAT, True)
OWN = Seen("", SNAT, False)
OTHER = Seen("something else", "ACCEPT", False)


class Fake:
    """A kernel that takes commits, or refuses them, and forgets them."""

    def __init__(self, refuses: Callable[[Commit], Exception | None] = lambda _: None) -> None:
        self.commits: list[Commit] = []
        self.reads: list[str] = []
        self._refuses = refuses

    def read(self, table: str, chains: Collection[str]) -> Chains:
        self.reads.append(table)
        return {}

    def commit(self, commit: Commit) -> None:
        self.commits.append(commit)
        if error := self._refuses(commit):
            raise error


def with_jumps(*jumps: Seen, name: str = "first-prefix") -> Observed:
    """A scenario in place, with these rules in POSTROUTING of table nat."""
    seen = observed(name)
    return {**seen, "nat": {**seen["nat"], "POSTROUTING": jumps}}


def planned(wanted: Wanted, seen: Observed) -> Change:
    found = iptables.plan(wanted, seen)
    assert found is not None
    return found


def without_jumps(name: str) -> Wanted:
    wanted = SCENARIOS[name]
    return wanted._replace(held=wanted.held._replace(jumps=False))


# ---- jumps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("jumps", [(PLAIN,), (OTHER, PLAIN, OTHER), (OTHER, OWN), (OWN, OWN),
                                   (PLAIN, OWN)])
def test_one_jump_is_enough_wherever_it_stands_and_whoever_made_it(jumps: tuple[Seen, ...]) -> None:
    assert iptables.plan(SCENARIOS["first-prefix"], with_jumps(*jumps)) is None


@pytest.mark.parametrize(
    ("jumps", "jump", "unjump"),
    [((), 1, 0), ((OTHER,), 1, 0), ((PLAIN, PLAIN), 0, 1), ((PLAIN, OTHER, PLAIN, PLAIN), 0, 2),
     ((PLAIN, OWN, PLAIN), 0, 1)],
)
def test_a_missing_jump_is_made_and_plain_ones_too_many_go(
    jumps: tuple[Seen, ...], jump: int, unjump: int
) -> None:
    (commit,) = planned(SCENARIOS["first-prefix"], with_jumps(*jumps)).commits
    one = (("POSTROUTING", SNAT),)
    assert commit == Commit("nat", {}, one * jump, one * unjump)


@pytest.mark.parametrize("jumps", [(), (PLAIN, PLAIN), (OWN,)])
def test_without_jumps_there_is_nothing_to_do_about_them(jumps: tuple[Seen, ...]) -> None:
    assert iptables.plan(without_jumps("first-prefix"), with_jumps(*jumps)) is None
    assert all(not commit.jump for commit in planned(without_jumps("first-prefix"), ABSENT).commits)


# ---- chains ----------------------------------------------------------------------------------


def test_only_chains_that_differ_are_written() -> None:
    seen = observed("first-prefix")
    seen["nat"][DNAT] = seen["nat"][DNAT][1:]
    (commit,) = planned(SCENARIOS["first-prefix"], seen).commits
    assert list(commit.chains) == [DNAT]
    assert not commit.jump and not commit.unjump and not commit.remove


@pytest.mark.parametrize("what", ["missing", "edited", "added", "moved"])
def test_every_edit_of_a_chain_is_seen(what: str) -> None:
    seen = observed("first-prefix")
    rules = seen["nat"][SNAT]
    edits = {"missing": rules[:-1], "edited": (*rules[:-1], OTHER), "added": (*rules, OTHER),
             "moved": rules[::-1]}
    seen["nat"][SNAT] = edits[what]
    assert list(planned(SCENARIOS["first-prefix"], seen).commits[0].chains) == [SNAT]


def test_a_rule_is_known_by_its_table_and_chain_too() -> None:
    tables = drawn.render(npt(), SCENARIOS["first-prefix"].held)
    own = [rule.comment for chains in tables.values() for rules in chains.values()
           for rule in rules if rule.comment.startswith("own addresses ")]
    assert len(own) > 3 and len(set(own)) == len(own)


def npt() -> Nat:
    nat = SCENARIOS["rfc6296-first-prefix"].nat
    assert nat is not None
    return nat


# ---- which tables, in which order --------------------------------------------------------------


def looked_at(wanted: Wanted) -> list[str]:
    kernel = Fake()
    assert set(iptables.observe(kernel, wanted)) == set(kernel.reads)
    return kernel.reads


def test_each_table_that_may_have_something_of_ours_is_looked_at_and_no_other() -> None:
    netmap, other = SCENARIOS["first-prefix"], SCENARIOS["rfc6296-first-prefix"]
    assert looked_at(netmap) == ["nat"]
    assert looked_at(other) == ["raw", "mangle"]
    assert looked_at(netmap._replace(earlier=frozenset({"rfc6296"}))) == ["raw", "mangle", "nat"]
    assert looked_at(netmap._replace(nat=None)) == list(drawn.TABLES)
    legacy = netmap.held._replace(variant="legacy")
    assert looked_at(netmap._replace(held=legacy)) == list(drawn.TABLES)


def tables(change: Change) -> list[str]:
    return [commit.table for commit in change.commits]


def test_what_is_new_comes_before_what_goes() -> None:
    netmap, other = SCENARIOS["first-prefix"], SCENARIOS["rfc6296-first-prefix"]
    assert tables(planned(other, observed("first-prefix"))) == ["mangle", "raw", "nat"]
    assert tables(planned(netmap, observed("rfc6296-first-prefix"))) == ["nat", "raw", "mangle"]


def test_answers_to_a_new_prefix_are_not_tracked_when_they_come() -> None:
    changed = planned(SCENARIOS["rfc6296-prefix-changed"], observed("rfc6296-first-prefix"))
    assert tables(changed) == ["raw", "mangle"]


def test_the_guard_is_closed_while_the_translation_changes() -> None:
    change = planned(SCENARIOS["guarded-first-prefix"], observed("guarded-no-prefix-yet"))
    assert tables(change) == ["filter", "nat", "filter"]
    closed, _, final = change.commits
    (rules,) = closed.chains.values()
    assert any("NEW,UNTRACKED" in rule.words for rule in rules)
    assert final.chains == change.desired["filter"]


def test_a_change_of_prefix_leaves_the_guard_alone() -> None:
    nat = SCENARIOS["prefix-changed"].nat
    wanted = SCENARIOS["guarded-first-prefix"]._replace(nat=nat)
    assert tables(planned(wanted, observed("guarded-first-prefix"))) == ["nat"]


def test_a_guard_that_was_closed_for_nothing_is_opened_again() -> None:
    change = planned(SCENARIOS["guarded-first-prefix"], observed("guarded-no-prefix-yet"))
    kernel = Fake(lambda commit: KernelError("no") if commit.table == "nat" else None)
    with pytest.raises(KernelError, match="no"):
        iptables.apply(kernel, change)
    assert [commit.table for commit in kernel.commits] == ["filter", "nat", "filter"]
    assert kernel.commits[-1].chains == change.desired["filter"]


# ---- removal ---------------------------------------------------------------------------------


def gone(name: str) -> Wanted:
    return SCENARIOS[name]._replace(nat=None)


def test_removal_takes_chains_and_plain_jumps() -> None:
    (commit,) = planned(gone("first-prefix"), observed("first-prefix")).commits
    assert commit.remove == (DNAT, f"{DNAT}_out", SNAT)
    assert ("POSTROUTING", SNAT) in commit.unjump and len(commit.unjump) == 3
    assert not commit.chains


def test_a_chain_that_a_users_rule_jumps_to_is_emptied_and_stays() -> None:
    (commit,) = planned(gone("first-prefix"), with_jumps(OWN, PLAIN)).commits
    assert commit.chains == {SNAT: ()}
    assert commit.remove == (DNAT, f"{DNAT}_out")
    assert ("POSTROUTING", SNAT) in commit.unjump


def test_without_jumps_a_plain_one_is_a_users_too() -> None:
    wanted = without_jumps("first-prefix")._replace(nat=None)
    (commit,) = planned(wanted, observed("first-prefix")).commits
    assert not commit.unjump and not commit.remove
    assert commit.chains == dict.fromkeys((DNAT, f"{DNAT}_out", SNAT), ())


def test_an_emptied_chain_of_a_mode_that_is_over_is_nothing_to_do() -> None:
    left: Observed = {**observed("first-prefix"), "mangle": {SNAT: ()}}
    assert iptables.plan(SCENARIOS["first-prefix"], left) is None
    assert planned(gone("first-prefix"), {"mangle": {SNAT: ()}}).commits[0].remove == (SNAT,)


def test_nothing_to_remove() -> None:
    assert iptables.plan(gone("first-prefix"), ABSENT) is None


def test_a_chain_that_cannot_be_removed_is_emptied() -> None:
    """A rule in a chain of somebody else jumps to it; such chains are not looked at."""
    kernel = Fake(lambda commit: KernelError("busy") if SNAT in commit.remove else None)
    iptables.apply(kernel, planned(gone("first-prefix"), observed("first-prefix")))
    first, emptied, *rest = kernel.commits
    assert emptied.chains == dict.fromkeys(first.remove, ()) and emptied.unjump == first.unjump
    assert [commit.remove for commit in rest] == [(chain,) for chain in first.remove]


def test_a_busy_kernel_is_not_taken_for_a_jump() -> None:
    kernel = Fake(lambda _: KernelBusy("later"))
    with pytest.raises(KernelBusy):
        iptables.apply(kernel, planned(gone("first-prefix"), observed("first-prefix")))
    assert len(kernel.commits) == 1


# ---- told to people --------------------------------------------------------------------------


def test_words() -> None:
    assert iptables.words(planned(SCENARIOS["first-prefix"], ABSENT)) == [
        "create our chains in ip6tables' table nat",
        "translate outbound fd5e:ed00:1234::/58 -> 2001:db8:4000::/58",
        "translate inbound 2001:db8:4000::/58 -> fd5e:ed00:1234::/58",
    ]
    assert iptables.words(planned(SCENARIOS["prefix-changed"], observed("first-prefix"))) == [
        "translate outbound fd5e:ed00:1234::/58 -> 2001:db8:8000::/58",
        "no longer translate outbound fd5e:ed00:1234::/58 -> 2001:db8:4000::/58",
        "translate inbound 2001:db8:8000::/58 -> fd5e:ed00:1234::/58",
    ]
    assert iptables.words(planned(SCENARIOS["first-prefix"], with_jumps())) == [
        "bring our chains in ip6tables' table nat back to what they should be"]
    assert iptables.words(planned(gone("taken-back"), observed("taken-back"))) == [
        "remove our chains from ip6tables' table nat"]
    assert iptables.words(planned(SCENARIOS["rfc6296-no-prefix-yet"], observed("taken-back"))) == [
        "create our chains in ip6tables' table raw",
        "create our chains in ip6tables' table mangle",
        "remove our chains from ip6tables' table nat",
    ]


def test_translated_takes_no_rule_of_others_for_ours() -> None:
    like_ours = Seen("outbound wan fd00::/64 2001:db8::/64 00000000", "ACCEPT", False)
    nothing = {"outbound": frozenset[str](), "inbound": frozenset[str]()}
    assert iptables.translated({"nat": {"POSTROUTING": (like_ours,)}}) == nothing
    assert iptables.translated({"nat": {SNAT: (OTHER, OWN)}}) == nothing
    assert iptables.translated({}) == nothing


@pytest.mark.parametrize(
    ("name", "before", "exposed"),
    [
        ("first-prefix", "", True),
        ("prefix-changed", "first-prefix", False),
        ("first-prefix", "taken-back", True),
        ("rfc6296-prefix-changed", "rfc6296-first-prefix", False),
        ("rfc6296-first-prefix", "first-prefix", True),
        ("guarded-taken-back", "guarded-first-prefix", False),
        ("netmap-and-rfc6296", "first-prefix", True),
    ],
)
def test_exposed(name: str, before: str, exposed: bool) -> None:
    seen = observed(before) if before else ABSENT
    assert iptables.exposed(planned(SCENARIOS[name], seen)) is exposed


def test_exposed_without_a_jump() -> None:
    assert iptables.exposed(planned(SCENARIOS["prefix-changed"], with_jumps()))
    assert not iptables.exposed(planned(without_jumps("prefix-changed"), with_jumps()))
    assert not iptables.exposed(planned(gone("first-prefix"), observed("first-prefix")))


def test_the_look_afterwards_says_when_it_is_not_as_written() -> None:
    change = planned(SCENARIOS["first-prefix"], ABSENT)
    with pytest.raises(KernelError, match="another program changes them at the same time"):
        iptables.clean(Fake(), change)


# ---- many ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["netmap", "rfc6296"])
@pytest.mark.parametrize("step", [1, 2])
def test_a_thousand_pairs_take_rules_in_proportion(mode: str, step: int) -> None:
    nat = many(1000, step, mode)
    tables = drawn.render(nat, SCENARIOS["first-prefix"].held)
    count = sum(len(rules) for chains in tables.values() for rules in chains.values())
    assert count < 18_000


def many(count: int, step: int, mode: str) -> Nat:
    """Pairs of /64 that adjoin, or not."""
    def network(base: int, number: int) -> IPv6Network:
        return IPv6Network((base << 96 | number * step << 64, 64))

    outbound = tuple((network(0xFD5EED00, n), network(0x20010DB8, n)) for n in range(count))
    inbound = tuple((external, internal) for internal, external in outbound)
    lane = Lane("wan", "wan0", Stamp(1, 0, False), IPv6Network("2001:db8::/32"), outbound, inbound,
                inbound, mode)
    gate = Gate("wan0", tuple(internal for internal, _ in outbound), (), (), ())
    return Nat(0x0FF00000, (lane,), (gate,), True, frozenset({mode}))


def test_rfc6296_has_no_prefix_longer_than_64() -> None:
    nat = npt()
    (lane,) = nat.lanes
    pair = (IPv6Network("fd00::/72"), IPv6Network("2001:db8::/72"))
    nat = nat._replace(lanes=(lane._replace(outbound=(pair,), inbound=(pair[::-1],), hairpin=()),))
    found = drawn.render(nat, Holding("nf_tables", DNAT, SNAT, True))["mangle"]
    assert not any("--src-pfx" in rule.words for rules in found.values() for rule in rules)


# ---- in the kernel, beside the rules of others ---------------------------------------------------


def by_hand(variant: str, *arguments: str) -> None:
    program = "ip6tables-legacy" if variant == "legacy" else "ip6tables-nft"
    ran = run([f"/usr/sbin/{program}", "-w", *arguments])
    assert ran.code == 0, ran.err


@needs_root
@pytest.mark.parametrize("variant", VARIANTS)
def test_rules_of_others_stay_and_so_does_what_they_jump_to(variant: str) -> None:
    def work() -> None:
        kernel, wanted = seam(variant), of(variant, "first-prefix")
        go_to(kernel, wanted)
        by_hand(variant, "-t", "nat", "-N", "theirs")
        by_hand(variant, "-t", "nat", "-A", "theirs", "-j", DNAT)
        by_hand(variant, "-t", "nat", "-A", "POSTROUTING", "-o", "wan9", "-j", SNAT)
        by_hand(variant, "-t", "nat", "-A", "POSTROUTING", "-o", "wan9", "-j", "MASQUERADE")
        go_to(kernel, wanted)
        assert iptables.plan(wanted, look(kernel, wanted)) is None
        for _ in range(2):
            go_to(kernel, wanted._replace(nat=None))
            assert set(rules_only(listing(variant))) == {
                "nat :theirs -", f"nat :{DNAT} -", f"nat :{SNAT} -",
                f"nat -A theirs -j {DNAT}", f"nat -A POSTROUTING -o wan9 -j {SNAT}",
                "nat -A POSTROUTING -o wan9 -j MASQUERADE"}
        by_hand(variant, "-t", "nat", "-F", "theirs")
        by_hand(variant, "-t", "nat", "-D", "POSTROUTING", "-o", "wan9", "-j", SNAT)
        go_to(kernel, wanted._replace(nat=None))
        assert set(rules_only(listing(variant))) == {
            "nat :theirs -", "nat -A POSTROUTING -o wan9 -j MASQUERADE"}

    in_new_network(work)


@needs_root
@pytest.mark.parametrize("variant", VARIANTS)
def test_without_jumps_the_users_are_left_alone(variant: str) -> None:
    def work() -> None:
        kernel = seam(variant)
        wanted = of(variant, "first-prefix")
        wanted = wanted._replace(held=wanted.held._replace(jumps=False))
        go_to(kernel, wanted)
        assert not any(line.endswith(f"-j {SNAT}") for line in listing(variant))
        by_hand(variant, "-t", "nat", "-A", "POSTROUTING", "-j", SNAT)
        assert iptables.plan(wanted, look(kernel, wanted)) is None
        go_to(kernel, wanted._replace(nat=None))
        assert set(rules_only(listing(variant))) == {
            f"nat :{SNAT} -", f"nat -A POSTROUTING -j {SNAT}"}

    in_new_network(work)


@needs_root
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_commit_that_fails_leaves_its_table_as_it_was(variant: str) -> None:
    def work() -> None:
        kernel, wanted = seam(variant), of(variant, "first-prefix")
        go_to(kernel, wanted)
        before = listing(variant)
        change = planned(of(variant, "prefix-changed"), look(kernel, wanted))
        bad = {**change.commits[0].chains, DNAT: (Rule("bad", ("-j", "nosuch")),)}
        with pytest.raises(Exception, match="nosuch"):
            iptables.apply(kernel, change._replace(
                commits=(change.commits[0]._replace(chains=bad),)))
        assert listing(variant) == before

    in_new_network(work)
