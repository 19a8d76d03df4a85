"""``status``: one document, and its view for people. Pure.

The document's keys are documented in pdreactor(8) and stable; lifetimes are seconds left, null is
infinite, points in time are seconds since the epoch.
"""

import time
from typing import Any, NamedTuple

from .model import (
    Config,
    Desired,
    Prefix,
    Serving,
    State,
    Translation,
    Uplink,
    UplinkState,
)

MOST_LINES = 40
"""Translations that ``status`` prints for people; ``--json`` has all."""


class View(NamedTuple):
    """What is, what should be, and what a pass would change."""

    known: State
    wanted: Desired
    translated: dict[str, frozenset[str]]  # what the kernel translates: see nftables.translated
    links: dict[str, bool]
    pending: tuple[str, ...]
    damage: str
    notes: tuple[str, ...] = ()  # what users of this machine should know


def status(config: Config, view: View, now: int) -> dict[str, Any]:
    """The document of ``status --json``."""
    kernel = view.translated
    serving: dict[tuple[int, str], list[Serving]] = {}
    for one in view.wanted.serving:
        serving.setdefault(_where(one.translation, one.uplink), []).append(one)
    problems = [{"uplink": p.uplink, "message": p.message} for p in view.wanted.problems]
    translations = [_translation(t, serving, kernel) for t in config.translations]
    wrong = [view.damage] if view.damage else []
    down = {u.name for u in config.uplinks if not view.links.get(u.interface)}
    usable = all(any(u["usable"] and u["uplink"] not in down for u in t["uplinks"])
                 for t in translations)
    return {
        "ok": usable and not view.pending and not wrong,
        "uplinks": [_uplink(u, view, now, u.name not in down) for u in config.uplinks],
        "translations": translations,
        "pending": list(view.pending),
        "problems": problems,
        "errors": wrong,
        "notes": list(view.notes),
        "history": [h._asdict() for h in view.known.history],
    }


def _uplink(uplink: Uplink, view: View, now: int, up: bool) -> dict[str, Any]:
    known = view.known.uplinks.get(uplink.name, UplinkState(0))
    return {
        "name": uplink.name,
        "interface": uplink.interface,
        "up": up,
        "prefixes": [_prefix(p, now) for p in known.prefixes],
        "refusal": known.refusal and known.refusal._asdict(),
    }


def _prefix(prefix: Prefix, now: int) -> dict[str, Any]:
    state = "superseded" if prefix.superseded_at is not None else "current"
    return {
        "prefix": str(prefix.network),
        "iaid": prefix.iaid,
        "excluded": prefix.excluded and str(prefix.excluded),
        "state": "expired" if prefix.expired(now) else state,
        "since": prefix.learned_at,
        "event": prefix.reason,
        "updated": prefix.updated_at,
        "superseded": prefix.superseded_at,
        "preferred_left": _left(prefix.preferred_until, now),
        "valid_left": _left(prefix.valid_until, now),
    }


def _left(until: int | None, now: int) -> int | None:
    return None if until is None else max(0, until - now)


def _translation(translation: Translation, serving: dict[tuple[int, str], list[Serving]],
                 kernel: dict[str, frozenset[str]]) -> dict[str, Any]:
    uplinks = [_by_uplink(name, [s for s in serving.get(_where(translation, name), ())
                                 if s.translation == translation], kernel)
               for name in translation.uplinks]
    return {"internal": str(translation.internal), "mode": translation.mode, "uplinks": uplinks}


def _where(translation: Translation, uplink: str) -> tuple[int, str]:
    return int(translation.internal.network_address), uplink


def _by_uplink(name: str, served: list[Serving],
               kernel: dict[str, frozenset[str]]) -> dict[str, Any]:
    out = [pair for one in served if one.outbound for pair in one.pairs]
    into = [pair for one in served if not one.outbound and one.translation.inbound
            for pair in one.pairs]
    return {
        "uplink": name,
        "usable": bool(out),
        "external": [{"internal": str(i), "external": str(e),
                      "in_place": f"{i} : {e}" in kernel["outbound"]} for i, e in out],
        "inbound_only": [{"internal": str(i), "external": str(e),
                          "in_place": f"{e} : {i}" in kernel["inbound"]} for i, e in into],
    }


# ---- for people ----------------------------------------------------------------------------------


def lines(status: dict[str, Any]) -> list[str]:
    """The document as a person reads it."""
    text = [line for uplink in status["uplinks"] for line in _uplink_lines(uplink)]
    shown = [line for one in status["translations"] for line in _translation_lines(one)]
    text += shown[:MOST_LINES]
    if len(shown) > MOST_LINES:
        text.append(f"... and {len(shown) - MOST_LINES} more lines (all of them: --json)")
    text += [f"wrong: {problem['uplink']}: {problem['message']}" for problem in status["problems"]]
    text += [f"wrong: {error}" for error in status["errors"]]
    text += [f"note: {note}" for note in status["notes"]]
    text += [f"pending: {change}" for change in status["pending"]]
    return [*text, "all in place" if status["ok"] else "NOT all in place"]


def _uplink_lines(uplink: dict[str, Any]) -> list[str]:
    link = "up" if uplink["up"] else "down"
    text = [f"uplink {uplink['name']}: interface {uplink['interface']}, link {link}"]
    text += [f"  {_prefix_line(prefix)}" for prefix in uplink["prefixes"]] or ["  no prefix yet"]
    if uplink["refusal"]:
        refusal = uplink["refusal"]
        text.append(f"  last refused {when(refusal['at'])} ({refusal['reason']}): "
                    f"{refusal['message']}")
    return text


def _prefix_line(prefix: dict[str, Any]) -> str:
    line = f"{prefix['prefix']} {prefix['state']}, since {when(prefix['since'])}"
    line += f" ({prefix['event']} {when(prefix['updated'])})"
    if prefix["state"] == "current":
        return (f"{line}, preferred {forlong(prefix['preferred_left'])}, "
                f"valid {forlong(prefix['valid_left'])}")
    if prefix["state"] == "superseded":
        return (f"{line}, replaced {when(prefix['superseded'])}, served inbound "
                f"{forlong(prefix['valid_left'])}")
    return f"{line}, kept until a new one comes"


def _translation_lines(translation: dict[str, Any]) -> list[str]:
    text = []
    for by in translation["uplinks"]:
        for pair in by["external"]:
            place = "in place" if pair["in_place"] else "NOT in place"
            text.append(f"  {pair['internal']} <-> {pair['external']} ({by['uplink']}), {place}")
        for pair in by["inbound_only"]:
            place = "in place" if pair["in_place"] else "NOT in place"
            text.append(f"  {pair['internal']} <-  {pair['external']} ({by['uplink']}), "
                        f"inbound only, {place}")
        if not by["external"]:
            text.append(f"  not translated outbound ({by['uplink']}): forwarded packets are "
                        f"rejected")
    return [f"translation {translation['internal']} ({translation['mode']})", *text]


def when(moment: int) -> str:
    """A point in time in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def forlong(seconds: int | None) -> str:
    """How long something lasts, for people; None is for ever."""
    return "for ever" if seconds is None else f"for {duration(seconds)}"


def duration(seconds: int) -> str:
    """Seconds for people: the two largest units."""
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    units = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    parts = [f"{count} {unit}" for count, unit in units if count]
    return " ".join(parts[:2]) or "0 s"
