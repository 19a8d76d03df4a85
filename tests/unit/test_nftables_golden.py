"""Each NAT scenario has its text, tests/golden/NAME.nft; and the kernel takes every one of them.

The texts are read by people when they change: ``PDREACTOR_UPDATE_GOLDEN=1 pytest tests/unit/
test_nftables_golden.py`` writes them anew, ``git diff`` shows what that means.
"""

import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from pdreactor.kernel.nft import Nft
from pdreactor.nat import nftables

from .namespace import in_new_network, needs_root
from .scenarios import CHANGES, SCENARIOS, as_observed, change, table

GOLDEN = Path(__file__).parent.parent / "golden"
STEPS = ("fill a fresh slot", "switch the rules", "delete the old slot")


def text(name: str) -> str:
    parts = zip(STEPS, nftables.transactions(change(name)), strict=True)
    return "".join(f"# {number}: {what}\n{lines.rstrip()}\n"
                   for number, (what, lines) in enumerate(parts, 1) if lines)


def transactions(name: str) -> list[str]:
    """The golden text, cut into its transactions."""
    golden = (GOLDEN / f"{name}.nft").read_text(encoding="ascii")
    return re.split(r"^# [1-3]: .*\n", golden, flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_text_of_a_scenario(name: str) -> None:
    path = GOLDEN / f"{name}.nft"
    if os.environ.get("PDREACTOR_UPDATE_GOLDEN"):
        path.write_text(text(name), encoding="ascii")
    assert text(name) == path.read_text(encoding="ascii")


def test_no_golden_text_without_a_scenario() -> None:
    assert {path.stem for path in GOLDEN.glob("*.nft")} == set(SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_change_never_recreates_a_chain_nor_empties_a_map(name: str) -> None:
    """Both lose packets; see the head of nftables.py. What nothing refers to any more may go."""
    fill, switch, clean = (*transactions(name), "", "")[:3]
    forgotten = set(table(CHANGES[name]).hooks) - set(change(name).desired.hooks) if (
        name in CHANGES) else set()
    for lines in (fill, switch):
        deleted = re.findall(r"^delete chain ip6 pdreactor (\S+)$", lines, re.M)
        assert {chain for chain in deleted if "." not in chain} <= forgotten
        assert "flush map" not in lines or forgotten
        assert "flush set" not in lines
        assert "flush table" not in lines
    assert all("." in chain for chain in re.findall("delete chain ip6 pdreactor (.*)", clean))


# ---- in the kernel ---------------------------------------------------------------------------


def run(nft: Nft, name: str) -> None:
    for number, lines in enumerate(transactions(name), 1):
        nft.run(lines, f"{name}, transaction {number}")


@needs_root
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_kernel_takes_the_text_and_a_second_pass_writes_nothing(name: str) -> None:
    def work() -> None:
        nft = Nft()
        if name in CHANGES:
            nftables.apply(nft, nftables.Change(None, placed(CHANGES[name])))
            nftables.clean(nft, nftables.Change(None, placed(CHANGES[name])))
        run(nft, name)
        seen = nftables.observe(nft)
        assert seen == as_observed(change(name).desired)
        assert nftables.plan(SCENARIOS[name], seen) is None

    in_new_network(work)


def placed(name: str) -> nftables.Ruleset:
    return nftables.place(nftables.render(SCENARIOS[name]), 1)


IN_SLOT = r"([a-z]+-[A-Za-z0-9_-]+(?:\.\d+)?)\.\d+"
"""A name with its slot; the chain of a pair has the pair's length before it."""


def listing(nft: Nft) -> dict[str, Any]:
    """The whole table as the kernel has it, but for slots, handles, checksums and their order."""
    objects = nft.list_table("ip6", "pdreactor")
    assert objects is not None
    plain: dict[str, Any] = {}
    for one in objects:
        (kind, body), *_ = one.items()
        if kind == "metainfo":
            continue
        body.pop("handle", None)
        body.pop("comment", None)
        elements = (re.sub(IN_SLOT, r"\1.SLOT", json.dumps(e)) for e in body.get("elem", ()))
        body["elem"] = sorted(elements)
        flat = re.sub(IN_SLOT, r"\1.SLOT", json.dumps(body, sort_keys=True))
        key = f"{kind} {body.get('chain') or body.get('name')}"
        plain.setdefault(re.sub(r"\.\d+$", "", key), []).append(flat)
    return plain


def go_to(nft: Nft, name: str) -> None:
    found = nftables.plan(SCENARIOS[name], nftables.observe(nft))
    if found is not None:
        nftables.apply(nft, found)
        nftables.clean(nft, found)


def built_afresh(name: str) -> dict[str, Any]:
    def work() -> dict[str, Any]:
        nft = Nft()
        go_to(nft, name)
        return listing(nft)

    return in_new_network(work)


@needs_root
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_way_between_scenarios_ends_in_the_table_built_afresh(seed: int) -> None:
    afresh = {name: built_afresh(name) for name in SCENARIOS}
    dice = random.Random(seed)
    way = [name for _ in range(2) for name in dice.sample(sorted(SCENARIOS), len(SCENARIOS))]

    def walk() -> None:
        nft = Nft()
        for step, name in enumerate(way):
            go_to(nft, name)
            seen = nftables.observe(nft)
            assert nftables.plan(SCENARIOS[name], seen) is None, way[: step + 1]
            assert listing(nft) == afresh[name], way[: step + 1]

    in_new_network(walk)


@needs_root
def test_remove_leaves_nothing_twice() -> None:
    def work() -> None:
        nft = Nft()
        go_to(nft, "two-uplinks")
        for _ in range(2):
            nft.run(nftables.remove(), "remove it")
            assert nftables.observe(nft) is None

    in_new_network(work)


@needs_root
def test_a_switch_that_fails_leaves_the_old_rules_and_no_new_maps() -> None:
    def work() -> None:
        nft = Nft()
        go_to(nft, "first-prefix")
        before = nftables.observe(nft)
        found = nftables.plan(SCENARIOS["prefix-changed"], before)
        assert found is not None
        bad = {"guard": (nftables.Rule("bad", "oifname nonsense nonsense"),)}
        with pytest.raises(nftables.KernelError, match="switch"):
            nftables.apply(nft, found._replace(desired=found.desired._replace(rules=bad)))
            nftables.clean(nft, found._replace(desired=found.desired._replace(rules=bad)))
        assert nftables.observe(nft) == before

    in_new_network(work)


@needs_root
def test_a_first_switch_that_fails_leaves_no_table() -> None:
    def work() -> None:
        nft = Nft()
        bad = placed("first-prefix")._replace(rules={"guard": (nftables.Rule("bad", "nonsense"),)})
        with pytest.raises(nftables.KernelError):
            nftables.apply(nft, nftables.Change(None, bad))
            nftables.clean(nft, nftables.Change(None, bad))
        assert nftables.observe(nft) is None

    in_new_network(work)


def test_the_scenarios_differ() -> None:
    """Each golden text is there for a reason: only these are the same table as another one."""
    tables: dict[str, list[str]] = {}
    for name in SCENARIOS:
        tables.setdefault(repr(table(name)), []).append(name)
    alike = sorted(tuple(names) for names in tables.values() if len(names) > 1)
    same = [("first-prefix", "expired-but-kept"), ("link-down", "link-not-there"),
            ("no-prefix-yet", "taken-back", "expired-and-withdrawn", "delegation-too-short")]
    assert alike == [*same, *(tuple(f"stateless-{name}" for name in names) for names in same)]
