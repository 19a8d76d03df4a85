"""``status``: one document, and its view for people. Pure.

The document's keys are documented in pdreactor(8) and stable; lifetimes are seconds left, null is
infinite, points in time are seconds since the epoch.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv6Network
from types import MappingProxyType
from typing import Any, NamedTuple

from .model import DIRECT, Config, Desired, Prefix, Serving, State, Translation, Uplink, UplinkState
from .ways import Steering

MOST_LINES = 40
"""Lines of translations and of the layout that ``status`` prints; ``--json`` has all."""


LAYOUT = ("links", "addresses", "slices", "proxies")
"""Keys of the layout, lists: there are none without one."""


class View(NamedTuple):
    """What is, what should be, and what a pass would change."""

    known: State
    wanted: Desired
    translated: dict[str, frozenset[str]]  # what the kernel translates: see nftables.translated
    links: dict[str, bool]
    pending: tuple[str, ...]
    damage: str
    notes: tuple[str, ...] = ()  # what users of this machine should know
    steered: Steering = Steering((), (), (), {})
    counters: Mapping[str, Any] = MappingProxyType({})  # as the document has them
    layout: Mapping[str, Any] = MappingProxyType({})  # likewise
    lacking: bool = False  # something of the layout cannot be as it should


def status(config: Config, view: View, now: int) -> dict[str, Any]:
    """The document of ``status --json``."""
    serving: dict[tuple[int, str], list[Serving]] = {}
    for one in view.wanted.serving:
        serving.setdefault(_where(one.translation, one.uplink), []).append(one)
    problems = [{"uplink": p.uplink, "message": p.message} for p in view.wanted.problems]
    leading = dict(view.steered.leading)
    translations = [_translation(t, serving, view, leading) for t in config.translations]
    wrong = [view.damage] if view.damage else []
    usable = all(any(u["usable"] for u in t["uplinks"]) for t in translations)
    return {
        "ok": usable and not view.pending and not wrong and not view.lacking,
        "uplinks": [_uplink(u, view, now) for u in config.uplinks],
        "translations": translations,
        "layout": {key: list(view.layout.get(key, ())) for key in LAYOUT},
        "pending": list(view.pending),
        "problems": problems,
        "errors": wrong,
        "notes": list(view.notes),
        "counters": dict(view.counters),
        "history": [h._asdict() for h in view.known.history],
    }


def _uplink(uplink: Uplink, view: View, now: int) -> dict[str, Any]:
    known = view.known.uplinks.get(uplink.name, UplinkState(0))
    return {
        "name": uplink.name,
        "interface": uplink.interface,
        "up": bool(view.links.get(uplink.interface)),
        "table": uplink.table,
        "gateway": _gateway(uplink, view),
        "down": known.down and known.down._asdict(),
        "why_not": view.steered.unusable.get(uplink.name),
        "prefixes": [_prefix(p, now) for p in known.prefixes],
        "refusal": known.refusal and known.refusal._asdict(),
    }


def _gateway(uplink: Uplink, view: View) -> str | None:
    """Of the default route in the uplink's table."""
    for route in view.steered.routes:
        if route.table == uplink.table and route.type == "unicast":
            return str(route.gateway) if route.gateway else DIRECT
    return None


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
                 view: View, leading: dict[IPv6Network, str]) -> dict[str, Any]:
    uplinks = [_by_uplink(name, [s for s in serving.get(_where(translation, name), ())
                                 if s.translation == translation], view)
               for name in translation.uplinks]
    first = next((u["uplink"] for u in uplinks if u["usable"]), "")
    for one in uplinks:
        one["used"] = leading.get(translation.internal, first) == one["uplink"]
    return {"internal": str(translation.internal), "mode": translation.mode, "uplinks": uplinks}


def _where(translation: Translation, uplink: str) -> tuple[int, str]:
    return int(translation.internal.network_address), uplink


def _by_uplink(name: str, served: list[Serving], view: View) -> dict[str, Any]:
    kernel = view.translated
    out = [pair for one in served if one.outbound for pair in one.pairs]
    into = [pair for one in served if not one.outbound and one.translation.inbound
            for pair in one.pairs]
    return {
        "uplink": name,
        "usable": bool(out) and name not in view.steered.unusable,
        "why_not": view.steered.unusable.get(name) or (None if out else _no_prefix(name, view)),
        "external": [{"internal": str(i), "external": str(e),
                      "in_place": f"{i} : {e}" in kernel["outbound"]} for i, e in out],
        "inbound_only": [{"internal": str(i), "external": str(e),
                          "in_place": f"{e} : {i}" in kernel["inbound"]} for i, e in into],
    }


def _no_prefix(name: str, view: View) -> str:
    """Why an uplink that could be used has no external prefix for a translation."""
    reasons = [p.message for p in view.wanted.problems if p.uplink == name]
    return reasons[0] if reasons else "another uplink on its interface translates outbound"


# ---- for people ----------------------------------------------------------------------------------


def lines(status: dict[str, Any]) -> list[str]:
    """The document as a person reads it."""
    text = [line for uplink in status["uplinks"] for line in _uplink_lines(uplink)]
    text += _some(line for one in status["translations"] for line in _translation_lines(one))
    text += _some(_layout_lines(status["layout"]))
    text += [f"wrong: {problem['uplink']}: {problem['message']}" for problem in status["problems"]]
    text += [f"wrong: {error}" for error in status["errors"]]
    text += [f"note: {note}" for note in status["notes"]]
    text += [f"pending: {change}" for change in status["pending"]]
    return [*text, "all in place" if status["ok"] else "NOT all in place"]


def _some(lines: Iterable[str]) -> list[str]:
    found = list(lines)
    more = len(found) - MOST_LINES
    rest = [f"... and {more} more lines (all of them: --json)"] if more > 0 else []
    return [*found[:MOST_LINES], *rest]


def _layout_lines(layout: dict[str, Any]) -> Iterator[str]:
    for one in layout["links"]:
        ends = f", local {one['local'] or 'any'}, remote {one['remote'] or 'any'}"
        yield (f"link {one['name']} ({one['kind']}){ends if one['kind'] != 'dummy' else ''}, "
               f"{_place(one)}")
    for one in layout["addresses"]:
        life = "" if one["state"] == "preferred" else f"{one['state']}, "
        yield (f"address {one['address']} on {one['interface']}, {_place(one)}, {life}valid "
               f"{forlong(one['valid_left'])}")
    for one in layout["proxies"]:
        place = f", {_place(one)}" if one["in_place"] is not None else ""
        yield f"proxy for {one['target']} on {one['interface']} ({one['method']}){place}"


def _place(one: dict[str, Any]) -> str:
    return "in place" if one["in_place"] else "NOT in place"


def _uplink_lines(uplink: dict[str, Any]) -> list[str]:
    link = "up" if uplink["up"] else "down"
    text = [f"uplink {uplink['name']}: interface {uplink['interface']}, link {link}"
            + _table_words(uplink)]
    if uplink["down"]:
        down = uplink["down"]
        reason = f": {down['reason']}" if down["reason"] else ""
        text.append(f"  set down {when(down['at'])}{reason}")
    text += [f"  {_prefix_line(prefix)}" for prefix in uplink["prefixes"]] or ["  no prefix yet"]
    if uplink["refusal"]:
        refusal = uplink["refusal"]
        text.append(f"  last refused {when(refusal['at'])} ({refusal['reason']}): "
                    f"{refusal['message']}")
    return text


def _table_words(uplink: dict[str, Any]) -> str:
    if uplink["table"] is None:
        return ""
    if uplink["gateway"] is None:
        return f", table {uplink['table']} without a default route"
    via = "" if uplink["gateway"] == DIRECT else f" via {uplink['gateway']}"
    return f", table {uplink['table']} default{via}"


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
    if len(translation["uplinks"]) > 1:
        text = [f"  {number}. {by['uplink']}: {_use_words(by)}"
                for number, by in enumerate(translation["uplinks"], 1)]
    for by in translation["uplinks"]:
        for pair in by["external"]:
            text.append(f"  {pair['internal']} <-> {pair['external']} ({by['uplink']}), "
                        f"{_place(pair)}")
        for pair in by["inbound_only"]:
            text.append(f"  {pair['internal']} <-  {pair['external']} ({by['uplink']}), "
                        f"inbound only, {_place(pair)}")
        if not by["external"] and not any(one["used"] for one in translation["uplinks"]):
            text.append(f"  not translated outbound ({by['uplink']}): forwarded packets are "
                        f"rejected")
    return [f"translation {translation['internal']} ({translation['mode']})", *text]


def _use_words(by: dict[str, Any]) -> str:
    if by["used"]:
        return "takes new flows"
    return f"not used: {by['why_not']}" if by["why_not"] else "ready"


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
