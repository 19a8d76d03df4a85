"""bench/table.py and bench/plot.py: targets from both sides, and that all views say the same."""

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.measure import Asked, Cleaning, Loss, Placed, Uplinks, Watched
from bench.plot import svg
from bench.rig import Run
from bench.table import Row, Samples, document, forwarding, rows, text


def samples(**changed: Any) -> Samples:
    """Made-up measurements in which every target is met."""
    both = {"pdreactor": [0.032, 0.030, 0.034], "peer": [0.050, 0.051, 0.049]}
    loss = Loss(10, 1000, 0, 0)
    made = Samples(
        first_packet={**both, "stateless": [0.035] * 3, "iptables": [0.038] * 3},
        whole=both,
        memory={"pdreactor": [30_000], "peer": [5_000]},
        losses={"pdreactor": loss, "peer": loss._replace(leaked=1000)},
        irrelevant={"sh": [0.001], "hook file": [0.002], "pdreactor-hook": [0.01], "peer": [0.01]},
        forwarded={"plain": [700e3] * 5, "netmap": [230e3] * 5, "stateless": [600e3] * 5,
                   "iptables": [210e3] * 5},
        uplinks=Uplinks(*([Run(0, 0.2, 30_000, 0, "")] for _ in range(3)), [0.03]),
        placed=Placed(1000, *([Run(0, 0.4, 50_000, 0, "")] for _ in range(2))),
        watched=Watched([0.03] * 4, [0.01] * 4, 0.0003, 42_000),
        translations={1: {"change": [0.1], "first_packet": [0.05], "rate": [90e3]}},
        cleaning=[Cleaning(100_000, 0, 0.3)],
        asked=Asked(300_000, 30.0, 0, 0, 0, 0.3, 42_000),
    )
    return made._replace(**changed)


def row(table: list[Row], name: str) -> Row:
    return next(one for one in table if one.name == name)


@pytest.mark.parametrize(("target", "value", "verdict"), [
    ({"most": 0.8}, 0.8, "ok"), ({"most": 0.8}, 0.81, "MISSED"),
    ({"least": 1.4}, 1.4, "ok"), ({"least": 1.4}, 1.39, "MISSED"),
    ({"most": 0}, 0.1, "MISSED"), ({}, 5, ""),
])
def test_a_target_may_be_a_least_or_a_most(target: dict[str, float], value: float,
                                           verdict: str) -> None:
    one = Row("", "", value, **target)
    assert one.verdict == verdict
    assert one.missed == (verdict == "MISSED")


def test_every_ratio_with_a_target_is_a_row() -> None:
    targets = {one.name: one.target for one in rows(samples()) if one.name.startswith("...")}
    assert {name: target for name, target in targets.items() if target} == {
        "... pdreactor, divided by the peer's": "<= 0.8",
        "... iptables, divided by the peer's": "<= 0.8",
        "... stateless, divided by plain": ">= 0.8",
        "... stateless, divided by netmap": ">= 1.4",
        "... nothing to change": "<= 250",
        "... peak memory": "<= 60",
        "... all of them as they should be": "<= 500",
        "... peak memory with them": "<= 60",
        "... dhcpcd's socket to rules, slowest": "<= 15",
        "... of a core while nothing happens": "<= 0.1",
        "... peak memory of the watch": "<= 50",
        "... not answered, and should be": "<= 0",
        "... answered wrongly, or in vain": "<= 0",
        "... peak memory of that watch": "<= 50",
    }
    assert not any(one.missed for one in rows(samples()))


def test_a_ratio_is_one_of_medians_and_its_spread_one_of_rounds() -> None:
    by = {"plain": [100e3, 200e3, 300e3, 200e3], "netmap": [100e3] * 4,
          "stateless": [100e3, 150e3, 150e3, 150e3]}
    ratio = row(forwarding(samples(forwarded=by)), "... stateless, divided by plain")
    assert (ratio.value, ratio.missed) == (0.75, True)
    assert ratio.spread.endswith("0.50..1.00")


def test_without_a_peer_nothing_is_compared_with_it() -> None:
    alone = {name: [0.03] for name in ("pdreactor", "stateless", "iptables")}
    table = rows(samples(first_packet=alone, whole={"pdreactor": [0.1]}))
    assert not [one for one in table if "the peer's" in one.name]
    assert row(table, "... iptables").peer is None


def test_text_json_and_plot_say_which_targets_are_missed() -> None:
    slow = samples(first_packet={**samples().first_packet, "iptables": [0.045] * 3})
    table = rows(slow)
    name = "... iptables, divided by the peer's"
    line = next(one for one in text(table).splitlines() if one.startswith(name))
    assert "<= 0.8 MISSED" in line
    told = json.loads(json.dumps(document(table, slow, {})))
    assert {one["name"]: one["ok"] for one in told["rows"]}[name] is False
    assert told["samples"]["forwarded"]["stateless"] == [600e3] * 5
    words = " ".join(ElementTree.fromstring(svg(slow)).itertext())
    assert "iptables, divided by the peer's: 0.90, target <= 0.8: missed" in words
    assert "stateless, divided by netmap: 2.61, target >= 1.4: met" in words


@pytest.mark.parametrize("first_packet", [
    {"pdreactor": [0.03]}, {"pdreactor": [0.03], "peer": [0.05], "iptables-legacy": [0.05]}])
def test_the_plot_is_well_formed(first_packet: dict[str, list[float]]) -> None:
    ElementTree.fromstring(svg(samples(first_packet=first_packet)))
