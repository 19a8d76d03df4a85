"""A table that somebody edited, or that a killed pdreactor left, is found out and repaired."""

from collections.abc import Callable

import pytest

from pdreactor.kernel.nft import Nft
from pdreactor.model import Nat
from pdreactor.nat import gate, nftables
from pdreactor.nat.nftables import Rule, Ruleset
from pdreactor.nat.words import MOST_WORDS

from .namespace import in_new_network, needs_root
from .scenarios import SCENARIOS, table

FIRST, CHANGED = SCENARIOS["first-prefix"], SCENARIOS["prefix-changed"]


def slots(ruleset: Ruleset) -> set[str]:
    return {name.rpartition(".")[2] for name in (*ruleset.sets, *ruleset.maps)}


def chosen(nat: Nat, observed: Ruleset | None) -> Ruleset:
    found = nftables.plan(nat, observed)
    assert found is not None
    return found.desired


# ---- what needs a change ---------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("slot", [1, 2, 7])
def test_a_table_as_desired_needs_no_change_whatever_its_slot(name: str, slot: int) -> None:
    assert nftables.plan(SCENARIOS[name], table(name, slot)) is None


def each_once(ruleset: Ruleset) -> bool:
    """True when no set or map is left over from another slot."""
    names = [name.rpartition(".")[0] for name in (*ruleset.sets, *ruleset.maps)]
    return len(names) == len(set(names))


def new(ruleset: Ruleset, observed: Ruleset) -> set[str]:
    """The slots of what a change has to fill."""
    there = {**observed.sets, **observed.maps}
    return {name.rpartition(".")[2] for name in (*ruleset.sets, *ruleset.maps) if name not in there}


def test_what_is_new_goes_into_a_slot_that_is_not_in_use() -> None:
    assert slots(chosen(FIRST, None)) == {"1"}
    for taken, free in ((1, "2"), (2, "1")):
        before = table("first-prefix", taken)
        assert new(chosen(CHANGED, before), before) == {free}


def test_what_does_not_change_stays_where_it_is() -> None:
    before = table("first-prefix", 1)
    after = chosen(CHANGED, before)
    kept = {name for name in before.maps if name in after.maps}
    assert kept == {"in-wan-0.1"}, "the old prefix is still served inbound"
    assert all(after.maps[name] == before.maps[name] for name in kept)


def test_a_leftover_slot_is_stepped_over() -> None:
    old, left = table("first-prefix", 1), table("first-prefix", 2)
    both = old._replace(sets=old.sets | left.sets, maps=old.maps | left.maps)
    assert new(chosen(CHANGED, both), both) == {"3"}
    assert slots(chosen(FIRST, both)) == {"1"}, "the leftovers have to go"


EDITS: dict[str, Callable[[Ruleset], Ruleset]] = {
    "rule deleted": lambda t: t._replace(
        rules=t.rules | {"postrouting": t.rules["postrouting"][:-1]}),
    "rule twice": lambda t: t._replace(
        rules=t.rules | {"guard": t.rules["guard"] + t.rules["guard"][-1:]}),
    "rule inserted": lambda t: t._replace(
        rules=t.rules | {"guard": (Rule("mine"), *t.rules["guard"])}),
    "rule without comment": lambda t: t._replace(
        rules=t.rules | {"output": (*t.rules["output"], Rule(""))}),
    "rules in another order": lambda t: t._replace(
        rules=t.rules | {"prerouting": t.rules["prerouting"][::-1]}),
    "chain added": lambda t: t._replace(
        hooks=t.hooks | {"x": ("", "", 0)}, rules=t.rules | {"x": ()}),
    "chain gone": lambda t: t._replace(
        hooks={n: h for n, h in t.hooks.items() if n != "output"},
        rules={n: r for n, r in t.rules.items() if n != "output"}),
    "chain with nothing to do": lambda t: t._replace(
        hooks=t.hooks | {"forward": gate.CHAINS["forward"]}, rules=t.rules | {"forward": ()}),
    "other priority": lambda t: t._replace(
        hooks=t.hooks | {"guard": ("filter", "postrouting", 0)}),
    "other policy": lambda t: t._replace(
        hooks=t.hooks | {"guard": ("filter, policy drop", "postrouting", 310)}),
    "set gone": lambda t: t._replace(sets={}),
    "map gone": lambda t: t._replace(maps=dict(list(t.maps.items())[1:])),
    "map emptied": lambda t: t._replace(maps={name: frozenset() for name in t.maps}),
    "element added": lambda t: t._replace(
        maps=t.maps | {"in-wan-0.1": t.maps["in-wan-0.1"] | {"2001:db8::/64 : fd00::/64"}}),
    "element swapped": lambda t: t._replace(
        maps=t.maps | {"in-wan-0.1": frozenset(["2001:db8:4000::/58 : fd00::/58"])}),
    "dormant": lambda t: t._replace(flags=True),
    "counter gone": lambda t: t._replace(counters=frozenset()),
    "set of a stranger": lambda t: t._replace(sets=t.sets | {"mine": frozenset(["::1/128"])}),
    "set of another slot": lambda t: t._replace(sets=t.sets | {"from-wan-0.9": frozenset()}),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edited_table_is_not_as_desired(what: str) -> None:
    edited = EDITS[what](table("first-prefix"))
    found = nftables.plan(FIRST, edited)
    assert found is not None
    have = {**edited.sets, **edited.maps}
    want = {**found.desired.sets, **found.desired.maps}
    assert all(have[name] == want[name] for name in want if name in have), "filled in place"


def test_a_counter_of_somebody_else_is_left_alone() -> None:
    """It counts for whoever put it there, and does nothing."""
    more = table("first-prefix")._replace(counters=frozenset({"guard-0", "mine"}))
    assert nftables.plan(FIRST, more) is None


# ---- for people ------------------------------------------------------------------------------


def words(nat: Nat, observed: Ruleset | None) -> list[str]:
    found = nftables.plan(nat, observed)
    assert found is not None
    return nftables.words(found)


def test_words_for_the_first_table() -> None:
    assert words(SCENARIOS["no-prefix-yet"], None) == ["create table ip6 pdreactor"]
    assert words(FIRST, None) == [
        "create table ip6 pdreactor",
        "translate outbound fd5e:ed00:1234::/58 -> 2001:db8:4000::/58",
        "translate inbound 2001:db8:4000::/58 -> fd5e:ed00:1234::/58",
    ]


def test_words_for_another_prefix() -> None:
    assert words(CHANGED, table("first-prefix")) == [
        "translate outbound fd5e:ed00:1234::/58 -> 2001:db8:8000::/58",
        "no longer translate outbound fd5e:ed00:1234::/58 -> 2001:db8:4000::/58",
        "translate inbound 2001:db8:8000::/58 -> fd5e:ed00:1234::/58",
    ]


def test_words_for_a_repair() -> None:
    edited = EDITS["rule inserted"](table("first-prefix"))
    assert words(FIRST, edited) == [
        "bring the rules of guard in table ip6 pdreactor to what they should be"]


def test_words_are_bounded() -> None:
    texts = frozenset(f"fd00:0:0:{n:x}::/64 : 2001:db8:0:{n:x}::/64" for n in range(1000))
    many = table("first-prefix")._replace(maps={"out-wan-0.1": texts})
    lines = nftables.words(nftables.Change(None, many))
    assert len(lines) == 1 + MOST_WORDS + 1
    assert lines[-1] == f"... and {1000 - MOST_WORDS} more outbound"


# ---- in the kernel ---------------------------------------------------------------------------

BY_HAND = {
    "rule deleted": "flush chain ip6 pdreactor postrouting",
    "rule inserted": 'insert rule ip6 pdreactor guard oifname "wan0" accept',
    "rule inserted with a comment":
        'insert rule ip6 pdreactor guard accept comment "untranslated wan0 c5641e7c"',
    "chain with nothing to do":
        "add chain ip6 pdreactor forward { type filter hook forward priority -5; }; "
        'add rule ip6 pdreactor forward accept comment "mine"',
    "chain added": "add chain ip6 pdreactor mine",
    "chain added with rules": "add chain ip6 pdreactor mine { type filter hook input priority 0; }"
                              "; add rule ip6 pdreactor mine counter drop",
    "jump to a chain added": "add chain ip6 pdreactor mine; "
                             "insert rule ip6 pdreactor guard jump mine",
    "chains added that jump": "add chain ip6 pdreactor a; add chain ip6 pdreactor b; "
                              "add rule ip6 pdreactor a jump b",
    "jump through a verdict map":
        "add chain ip6 pdreactor a; add map ip6 pdreactor mine "
        "{ type ipv6_addr : verdict; elements = { ::1 : jump a }; }; "
        "add rule ip6 pdreactor guard ip6 saddr vmap @mine",
    "base chain made a plain one":
        "flush chain ip6 pdreactor output; delete chain ip6 pdreactor output; "
        "add chain ip6 pdreactor output; add rule ip6 pdreactor guard jump output",
    "plain chain with the name of one that is not there":
        "add chain ip6 pdreactor forward; add rule ip6 pdreactor guard jump forward",
    "rule with a set of a stranger": "add set ip6 pdreactor mine { type ipv6_addr; }; "
                                     "insert rule ip6 pdreactor guard ip6 saddr @mine accept",
    "switched off": "add table ip6 pdreactor { flags dormant; }",
    "policy": "add chain ip6 pdreactor guard { policy drop; }",
    "chain gone": "flush chain ip6 pdreactor guard; delete chain ip6 pdreactor guard",
    "other priority": "flush chain ip6 pdreactor guard; delete chain ip6 pdreactor guard; "
                      "add chain ip6 pdreactor guard "
                      "{ type filter hook postrouting priority 0; policy accept; }",
    "element removed": "delete element ip6 pdreactor from-wan-0.1 { fd5e:ed00:1234::/58 }",
    "element added": "add element ip6 pdreactor from-wan-0.1 { fd00::1-fd00::5 }",
    "map entry removed": "delete element ip6 pdreactor out-wan-0.1 { fd5e:ed00:1234::/58 }",
    "map entry added": "add element ip6 pdreactor in-wan-0.1 "
                       "{ 2001:db8:1::/64 : fd00::/64 }",
    "counter and its rule gone": "flush chain ip6 pdreactor guard; "
                                 "delete counter ip6 pdreactor guard-0",
    "flushed": "flush table ip6 pdreactor",
    "deleted": "delete table ip6 pdreactor",
    "everything": "flush ruleset",
    "empty table": "delete table ip6 pdreactor; add table ip6 pdreactor",
    "leftovers of a killed run":
        "add set ip6 pdreactor from-wan-1.2 { type ipv6_addr; flags interval; }; "
        "add map ip6 pdreactor out-wan-1.2 "
        "{ type ipv6_addr : interval ipv6_addr; flags interval; }",
    "a set of a stranger": "add set ip6 pdreactor mine { type ipv6_addr; }",
    "a map to marks": "add map ip6 pdreactor mine { type ipv6_addr : mark; "
                      "elements = { ::1 : 5 }; }",
}


@needs_root
@pytest.mark.parametrize("what", BY_HAND)
def test_what_hands_changed_in_the_kernel_is_repaired(what: str) -> None:
    def work() -> None:
        nft = Nft()
        apply(nft, None)
        nft.run(BY_HAND[what], "edit it")
        edited = nftables.observe(nft)
        assert nftables.plan(FIRST, edited) is not None
        apply(nft, edited)
        seen = nftables.observe(nft)
        assert nftables.plan(FIRST, seen) is None
        assert seen is not None
        assert each_once(seen)
        assert seen.hooks == nftables.render(FIRST).hooks

    in_new_network(work)


def apply(nft: Nft, observed: Ruleset | None) -> None:
    found = nftables.plan(FIRST, observed)
    assert found is not None
    nftables.apply(nft, found)
    nftables.clean(nft, found)


@needs_root
@pytest.mark.parametrize("steps", [1, 2])
def test_a_pass_killed_after_any_transaction_is_finished_by_the_next(steps: int) -> None:
    def work() -> None:
        nft = Nft()
        apply(nft, None)
        found = nftables.plan(CHANGED, nftables.observe(nft))
        assert found is not None
        for text in nftables.transactions(found)[:steps]:
            nft.run(text, "begin it")
        again = nftables.plan(CHANGED, nftables.observe(nft))
        assert again is not None
        nftables.apply(nft, again)
        nftables.clean(nft, again)
        seen = nftables.observe(nft)
        assert nftables.plan(CHANGED, seen) is None
        assert seen is not None
        assert each_once(seen)

    in_new_network(work)


@needs_root
def test_the_chain_that_rejects_is_there_while_it_has_something_to_reject() -> None:
    """It comes and goes within the switch, and nothing else is made anew for that."""
    without = SCENARIOS["no-prefix-yet"]

    def work() -> None:
        nft = Nft()
        for nat, there in ((without, True), (FIRST, False), (without, True)):
            before = nftables.observe(nft)
            found = nftables.plan(nat, before)
            assert found is not None
            fill, switch, clean = nftables.transactions(found)
            assert ("delete chain ip6 pdreactor forward" in switch) == (before is not None
                                                                        and not there)
            assert "delete chain" not in switch.replace("delete chain ip6 pdreactor forward", "")
            assert "chain" not in fill + clean
            nftables.apply(nft, found)
            nftables.clean(nft, found)
            seen = nftables.observe(nft)
            assert seen is not None
            assert ("forward" in seen.hooks) == ("forward" in seen.rules) == there

    in_new_network(work)


@needs_root
def test_other_peoples_tables_are_never_touched() -> None:
    def work() -> None:
        nft = Nft()
        nft.run("add table ip6 pdreactor2; add table inet pdreactor; add chain inet pdreactor x",
                "make others")
        before = [nft.list_table(*name) for name in (("ip6", "pdreactor2"), ("inet", "pdreactor"))]
        apply(nft, None)
        nft.run(nftables.remove(), "remove ours")
        assert before == [nft.list_table(*name)
                          for name in (("ip6", "pdreactor2"), ("inet", "pdreactor"))]

    in_new_network(work)


@needs_root
def test_ten_thousand_translations_are_read_back_as_written() -> None:
    pairs = frozenset(f"fd00:0:0:{n:x}::/64 : 2001:db8:0:{n:x}::/64" for n in range(1, 10_001))
    large = nftables.place(nftables.render(FIRST), 1)
    large = large._replace(maps={name: pairs for name in large.maps})

    def work() -> None:
        nft = Nft()
        nftables.apply(nft, nftables.Change(None, large))
        nftables.clean(nft, nftables.Change(None, large))
        seen = nftables.observe(nft)
        assert seen is not None
        assert nftables.same(large, seen)

    in_new_network(work)
