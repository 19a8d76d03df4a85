"""Metrics: the document of status as Prometheus reads it, and the counters behind it."""

import json
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pdreactor import counters, metrics

NOW = 1_000_000
LINE = re.compile(r'pdreactor_[a-z_]+(\{[a-z]+="[^"\n]*"(,[a-z]+="[^"\n]*")*\})? (\+Inf|\d+)')
"""A sample, as the exposition format has it."""


def document(**more: object) -> dict[str, object]:
    prefix = {"prefix": "2001:db8:4000::/58", "state": "current", "since": NOW - 90,
              "valid_left": 100, "preferred_left": None}
    return {
        "ok": True,
        "pending": [],
        "uplinks": [{"name": "wan", "interface": "eth0", "up": True, "down": None,
                     "prefixes": [prefix]}],
        "translations": [{"internal": "fd5e:ed00:1234::/58", "uplinks": [
            {"uplink": "wan", "usable": True, "used": True}]}],
        "counters": {"changes": 3, "repairs": 1, "flows_removed": 7, "last_pass": NOW - 5,
                     "stopped": {"eth0": 12}},
        **more,
    }  # fmt: skip


def test_each_figure_is_a_line_with_its_labels() -> None:
    lines = metrics.text(document(), NOW).splitlines()
    where = '{uplink="wan",prefix="2001:db8:4000::/58",state="current"}'
    for line in (
        "pdreactor_ok 1",
        "pdreactor_pending_changes 0",
        'pdreactor_uplink_up{uplink="wan",interface="eth0"} 1',
        'pdreactor_uplink_set_down{uplink="wan"} 0',
        f"pdreactor_prefix_age_seconds{where} 90",
        f"pdreactor_prefix_valid_seconds{where} 100",
        f"pdreactor_prefix_preferred_seconds{where} +Inf",
        'pdreactor_translation_used{internal="fd5e:ed00:1234::/58",uplink="wan"} 1',
        "pdreactor_changes_total 3",
        "pdreactor_repairs_total 1",
        "pdreactor_flows_removed_total 7",
        'pdreactor_guard_packets_total{interface="eth0"} 12',
        f"pdreactor_last_pass_timestamp_seconds {NOW - 5}",
    ):
        assert line in lines
    assert all(line[0] == "#" or LINE.fullmatch(line) for line in lines)


def test_what_is_not_known_is_left_out() -> None:
    bare = document(uplinks=[], translations=[], counters={
        "changes": 0, "repairs": 0, "flows_removed": 0, "last_pass": None, "stopped": {}})
    text = metrics.text(bare, NOW)
    for name in ("uplink_up", "prefix", "guard", "last_pass"):
        assert name not in text


@given(st.text())
def test_no_name_breaks_a_line(name: str) -> None:
    text = metrics.text(document(translations=[{"internal": name, "uplinks": [
        {"uplink": "wan", "usable": True, "used": True}]}]), NOW)
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert f'pdreactor_translation_used{{internal="{escaped}",uplink="wan"}} 1\n' in text


# ---- counters ----------------------------------------------------------------------------------


def test_counters_add_up(tmp_path: Path) -> None:
    assert counters.load(str(tmp_path)) == (0, 0, 0)
    counters.add(str(tmp_path), changes=1, flows_removed=5)
    counters.add(str(tmp_path), changes=1, repairs=1)
    assert counters.load(str(tmp_path)) == counters.Counters(2, 1, 5)
    assert [file.name for file in tmp_path.iterdir()] == [counters.FILE]


def test_damaged_counters_begin_again(tmp_path: Path) -> None:
    for text in ("", "{", "[]", "7", '{"changes": -1, "repairs": "x", "flows_removed": true}'):
        (tmp_path / counters.FILE).write_text(text)
        assert counters.load(str(tmp_path)) == (0, 0, 0)
    counters.add(str(tmp_path), changes=1)
    assert json.loads((tmp_path / counters.FILE).read_text())["changes"] == 1


def test_a_directory_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    counters.add(str(tmp_path / "missing"), changes=1)
    assert counters.load(str(tmp_path / "missing")) == (0, 0, 0)
    assert counters.last_pass(str(tmp_path / "missing")) is None


def test_a_pass_that_never_ended_well_has_no_time(tmp_path: Path) -> None:
    (tmp_path / "pass.lock").write_bytes(b"")
    assert counters.last_pass(str(tmp_path)) is None
    (tmp_path / "pass.lock").write_bytes(b".")
    assert counters.last_pass(str(tmp_path)) is not None
