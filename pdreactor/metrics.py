"""The document of ``status`` in the text form of Prometheus. Pure.

The form is that of its text-based exposition format, version 0.0.4: node_exporter's textfile
collector reads it too.
"""

from collections.abc import Iterable, Iterator
from typing import Any

Labels = dict[str, str]
Sample = tuple[Labels, float | int | None]
"""Labels and a value; None is left out."""


def text(status: dict[str, Any], now: int) -> str:
    """All metrics, each with its help and type."""
    return "".join(_metric(*one) for one in _metrics(status, now))


def _metrics(status: dict[str, Any], now: int) -> Iterator[tuple[str, str, str, Iterable[Sample]]]:
    uplinks, done = status["uplinks"], status["counters"]
    prefixes = [({"uplink": u["name"], "prefix": p["prefix"], "state": p["state"]}, p)
                for u in uplinks for p in u["prefixes"]]
    served = [({"internal": t["internal"], "uplink": by["uplink"]}, by)
              for t in status["translations"] for by in t["uplinks"]]

    yield "ok", "gauge", "1 when all is in place, as the exit code of pdreactor status.", [
        ({}, int(status["ok"]))]
    yield "pending_changes", "gauge", "What a pass would change just now.", [
        ({}, len(status["pending"]))]
    yield "uplink_up", "gauge", "1 when the interface is up and has a carrier.", [
        ({"uplink": u["name"], "interface": u["interface"]}, int(u["up"])) for u in uplinks]
    yield "uplink_set_down", "gauge", "1 when the uplink was set down by hand.", [
        ({"uplink": u["name"]}, int(u["down"] is not None)) for u in uplinks]
    yield "prefix_age_seconds", "gauge", "Since the prefix was first learned.", [
        (labels, now - p["since"]) for labels, p in prefixes]
    yield "prefix_valid_seconds", "gauge", "Left of the valid lifetime; +Inf has no end.", [
        (labels, _left(p["valid_left"])) for labels, p in prefixes]
    yield "prefix_preferred_seconds", "gauge", "Left of the preferred lifetime.", [
        (labels, _left(p["preferred_left"])) for labels, p in prefixes]
    yield "translation_usable", "gauge", "1 when the uplink can take new flows of the prefix.", [
        (labels, int(by["usable"])) for labels, by in served]
    yield "translation_used", "gauge", "1 for the uplink that new flows of the prefix take.", [
        (labels, int(by["used"])) for labels, by in served]
    yield "changes_total", "counter", "Passes that changed the kernel.", [({}, done["changes"])]
    yield "repairs_total", "counter", "Passes of the watch that undid what others had changed.", [
        ({}, done["repairs"])]
    yield "flows_removed_total", "counter", "Entries removed from conntrack.", [
        ({}, done["flows_removed"])]
    yield "guard_packets_total", "counter", "Packets that would have left untranslated.", [
        ({"interface": name}, number) for name, number in done["stopped"].items()]
    yield "last_pass_timestamp_seconds", "gauge", "When a pass ended well last.", [
        ({}, done["last_pass"])]


def _left(seconds: int | None) -> float:
    return float("inf") if seconds is None else seconds


def _metric(name: str, kind: str, help_: str, samples: Iterable[Sample]) -> str:
    lines = [f"pdreactor_{name}{_labels(labels)} {_number(value)}\n"
             for labels, value in samples if value is not None]
    head = f"# HELP pdreactor_{name} {help_}\n# TYPE pdreactor_{name} {kind}\n"
    return head + "".join(lines) if lines else ""


def _labels(labels: Labels) -> str:
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return "+Inf" if value == float("inf") else str(value)
