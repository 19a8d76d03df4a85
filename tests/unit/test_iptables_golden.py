"""Each NAT scenario has its text for ip6tables, tests/golden/iptables/NAME.txt; and the kernel
takes every one of them, with both variants.

The texts are read by people when they change: ``PDREACTOR_UPDATE_GOLDEN=1 pytest tests/unit/
test_iptables_golden.py`` writes them anew, ``git diff`` shows what that means.
"""

import os
import random
from pathlib import Path

import pytest

from pdreactor.errors import BackendMissing
from pdreactor.kernel import xtables
from pdreactor.kernel.ip6tables import Ip6tables, run
from pdreactor.kernel.libiptc import Libiptc
from pdreactor.model import Holding, Nat
from pdreactor.nat import chains as drawn
from pdreactor.nat import iptables
from pdreactor.nat.chains import Tables
from pdreactor.nat.iptables import Change, Observed, Wanted

from . import scenarios
from .namespace import in_new_network, needs_root

GOLDEN = Path(__file__).parent.parent / "golden" / "iptables"
VARIANTS = ("nf_tables", "legacy")


NETMAP, RFC6296 = scenarios.built("netmap"), scenarios.built("rfc6296")
REFUSED = ("inbound-off", "inbound-and-hairpin-off", "host-routes")
"""Scenarios that the configuration refuses in mode rfc6296."""
GUARDED = ("no-prefix-yet", "first-prefix", "taken-back", "two-uplinks", "bypass")


def both(netmap: str, other: str) -> Nat:
    """Translations of both modes."""
    first, second = NETMAP[netmap], RFC6296[other]
    return first._replace(lanes=first.lanes + second.lanes, modes=first.modes | second.modes)


TABLED = scenarios.SCENARIOS["tables"]
HELD = Holding("nf_tables", "pdreactor_dnat", "pdreactor_snat", True)
LEGACY = HELD._replace(variant="legacy")

SCENARIOS: dict[str, Wanted] = {
    **{name: Wanted(nat, HELD) for name, nat in NETMAP.items()},
    **{f"rfc6296-{name}": Wanted(nat, HELD) for name, nat in RFC6296.items()
       if name not in REFUSED},
    "netmap-and-rfc6296": Wanted(both("first-prefix", "hairpin-off"), HELD),
    **{f"guarded-{name}": Wanted(NETMAP[name], LEGACY, guard=True) for name in GUARDED},
    "guarded-tables": Wanted(TABLED, LEGACY, guard=True),
    "guarded-tables-and-rfc6296": Wanted(
        TABLED._replace(modes=frozenset({"netmap", "rfc6296"})), LEGACY, guard=True),
    "guarded-rfc6296": Wanted(RFC6296["no-prefix-yet"], LEGACY, guard=True),
}
CHANGES = {
    **scenarios.CHANGED,
    **{f"rfc6296-{name}": f"rfc6296-{before}" for name, before in scenarios.CHANGED.items()},
    "guarded-taken-back": "guarded-first-prefix",
    "guarded-tables": "guarded-two-uplinks",
}
"""Scenarios whose golden text is the change from another one; all others begin with nothing."""
ABSENT: Observed = {table: {} for table in drawn.TABLES}


def as_observed(desired: Tables, held: Holding) -> Observed:
    """What observe() makes of these tables once they are in the kernel."""
    return {table: {
        **{chain: tuple(xtables.Seen(rule.comment, rule.words[-1], False) for rule in rules)
           for chain, rules in desired.get(table, {}).items()},
        **{builtin: (xtables.Seen("", chain, True),) * (table in desired)
           for builtin, chain in hooks.items()},
    } for table, hooks in drawn.hooks(held).items()}


def observed(name: str) -> Observed:
    wanted = SCENARIOS[name]
    assert wanted.nat is not None
    return as_observed(drawn.render(wanted.nat, wanted.held, wanted.guard), wanted.held)


def change(name: str) -> Change | None:
    """The change of a scenario's golden text."""
    return iptables.plan(SCENARIOS[name], observed(CHANGES[name]) if name in CHANGES else ABSENT)


def text(name: str) -> str:
    found = change(name)
    return "".join(map(xtables.text, found.commits)) if found else ""


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_text_of_a_scenario(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("PDREACTOR_UPDATE_GOLDEN"):
        path.write_text(text(name), encoding="ascii")
    assert text(name) == path.read_text(encoding="ascii")


def test_no_golden_text_without_a_scenario() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(SCENARIOS)


def test_comments_fit() -> None:
    """xt_comment takes 255 characters and the end of the string."""
    comments = [rule.comment for name in SCENARIOS for table in desired(name).values()
                for rules in table.values() for rule in rules]
    assert max(map(len, comments)) < 128
    assert not any('"' in comment or "\\" in comment for comment in comments)


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_two_rules_of_a_chain_are_the_same(name: str) -> None:
    for chains in desired(name).values():
        for rules in chains.values():
            assert len({rule.words for rule in rules}) == len(rules)


def desired(name: str) -> Tables:
    wanted = SCENARIOS[name]
    assert wanted.nat is not None
    return drawn.render(wanted.nat, wanted.held, wanted.guard)


# ---- in the kernel ---------------------------------------------------------------------------


def seam(variant: str) -> iptables.Seam:
    try:
        return Libiptc() if variant == "legacy" else Ip6tables()
    except BackendMissing as exc:
        pytest.skip(str(exc))


def of(variant: str, name: str) -> Wanted:
    """A scenario's wish for that variant, where a pass may find everything in every table."""
    wanted = SCENARIOS[name]
    return wanted._replace(held=wanted.held._replace(variant=variant),
                           earlier=frozenset({"netmap", "rfc6296"}))


def look(kernel: iptables.Seam, wanted: Wanted) -> Observed:
    """All tables. (A pass with the nf_tables variant never looks into filter: no guard is there.)
    """
    return iptables.observe(kernel, wanted._replace(nat=None))


def go_to(kernel: iptables.Seam, wanted: Wanted) -> None:
    found = iptables.plan(wanted, look(kernel, wanted))
    if found is not None:
        iptables.apply(kernel, found)
        iptables.clean(kernel, found)


def listing(variant: str) -> list[str]:
    """All rules as the kernel has them; chains of one table in the order of their names."""
    prefix = "ip6tables-legacy" if variant == "legacy" else "ip6tables-nft"
    lines = [f"{table} {line}" for table in drawn.TABLES
             for line in run([f"/usr/sbin/{prefix}-save", "-t", table]).out.splitlines()
             if line[:1] in ":-"]
    chains = [line.partition(" [")[0] for line in lines]
    return sorted(chains, key=lambda line: line.split()[:3])


@needs_root
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_kernel_takes_it_and_a_second_pass_writes_nothing(name: str, variant: str) -> None:
    def work() -> None:
        kernel, wanted = seam(variant), of(variant, name)
        if name in CHANGES:
            go_to(kernel, of(variant, CHANGES[name]))
        go_to(kernel, wanted)
        seen = look(kernel, wanted)
        assert iptables.plan(wanted, seen) is None
        assert iptables.translated(seen) == iptables.translated(desired(name))

    in_new_network(work)


def built_afresh(name: str, variant: str) -> list[str]:
    def work() -> list[str]:
        go_to(seam(variant), of(variant, name))
        return listing(variant)

    return in_new_network(work)


@needs_root
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", [1, 2])
def test_any_way_between_scenarios_ends_in_tables_built_afresh(seed: int, variant: str) -> None:
    afresh = {name: built_afresh(name, variant) for name in SCENARIOS}
    way = random.Random(seed).sample(sorted(SCENARIOS), len(SCENARIOS))

    def walk() -> None:
        kernel = seam(variant)
        for step, name in enumerate(way):
            go_to(kernel, of(variant, name))
            assert rules_only(listing(variant)) == rules_only(afresh[name]), way[: step + 1]

    in_new_network(walk)


def rules_only(lines: list[str]) -> list[str]:
    """Without the built-in chains: those of a table that was used once stay."""
    return [line for line in lines if not line.endswith(" ACCEPT")]


@needs_root
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["netmap-and-rfc6296", "guarded-two-uplinks"])
def test_remove_leaves_nothing_twice(name: str, variant: str) -> None:
    def work() -> None:
        kernel, gone = seam(variant), of(variant, name)._replace(nat=None)
        go_to(kernel, of(variant, name))
        for _ in range(2):
            go_to(kernel, gone)
            assert rules_only(listing(variant)) == []
            assert iptables.plan(gone, look(kernel, gone)) is None

    in_new_network(work)


def test_the_scenarios_differ() -> None:
    """Each golden text is there for a reason: only these are the same tables as another one, for
    they differ in the guard, which is not here but in nftables."""
    tables: dict[str, list[str]] = {}
    for name in SCENARIOS:
        tables.setdefault(repr(desired(name)), []).append(name)
    alike = sorted(tuple(names) for names in tables.values() if len(names) > 1)
    first = ("first-prefix", "expired-but-kept", "one-of-two-translations-served", "guard-off",
             "link-down", "link-not-there")
    none = ("no-prefix-yet", "taken-back", "expired-and-withdrawn", "delegation-too-short",
            "guard-off-no-prefix-yet")
    assert alike == [first, ("guarded-no-prefix-yet", "guarded-taken-back"), none,
                     *(tuple(f"rfc6296-{name}" for name in names if f"rfc6296-{name}" in SCENARIOS
                             and (names is none or name != "one-of-two-translations-served"))
                       for names in (first, none))]
