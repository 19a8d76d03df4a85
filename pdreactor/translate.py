"""``translate``: which address a host has on the other side. Pure.

The document's keys are documented in pdreactor(8) and stable.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address, IPv6Network
from typing import Any, NamedTuple

from . import npt
from .errors import Refused
from .model import Config, Desired, Prefix, Serving, State
from .prefix import rebase

SEE = "see pdreactor status"


class _Way(NamedTuple):
    """One translation that an address takes, from ``source`` to ``target``, of equal lengths."""

    serving: Serving
    source: IPv6Network
    target: IPv6Network


def about(address: IPv6Address, config: Config) -> Config:
    """The configuration without the translations and uplinks that cannot tell of an internal
    address, so that only what concerns it counts as a problem; all of it for any other address."""
    own = tuple(t for t in config.translations if address in t.internal)
    names = {name for translation in own for name in translation.uplinks}
    uplinks = tuple(uplink for uplink in config.uplinks if uplink.name in names)
    return config._replace(uplinks=uplinks, translations=own) if own else config


def answer(address: IPv6Address, config: Config, known: State, wanted: Desired,
           now: int) -> dict[str, Any]:
    """The document of ``translate --json``; ``config`` and ``wanted`` are what ``about`` left.

    ``now`` is in epoch seconds. Raises Refused, with the reason, when there is no such address.
    """
    outbound = any(address in t.internal for t in config.translations)
    results, refusals = [], []
    for way in _ways(address, wanted.serving, outbound):
        try:
            results.append(_result(way, _moved(address, way), now))
        except Refused as refused:
            refusals.append(f"{way.serving.uplink}: {refused}")
    if not results:
        why = (_why_not_outbound(address, wanted) if outbound
               else _why_not_inbound(address, known, wanted, config.path))
        raise Refused("; ".join(dict.fromkeys(refusals)) or why)
    return {"address": str(address), "direction": "outbound" if outbound else "inbound",
            "results": results}


def lines(document: dict[str, Any]) -> list[str]:
    """The document as a person reads it: a line for each result, ``UPLINK ADDRESS (notes)``."""
    return [_line(result, document["direction"]) for result in document["results"]]


def _line(result: dict[str, Any], direction: str) -> str:
    notes = [] if result["state"] == "current" else [result["state"]]
    if direction == "inbound" and not result["inbound"]:
        notes.append("inbound = false: only answers get there")
    return f"{result['uplink']} {result['address']}" + (f" ({', '.join(notes)})" if notes else "")


# ---- the way across ------------------------------------------------------------------------------


def _ways(address: IPv6Address, serving: Iterable[Serving], outbound: bool) -> Iterator[_Way]:
    for one in serving:
        for internal, external in one.pairs:
            if outbound and one.outbound and address in internal:
                yield _Way(one, internal, external)
            if not outbound and _answers(one) and address in external:
                yield _Way(one, external, internal)


def _answers(one: Serving) -> bool:
    """Whether packets from outside get through, be it only as answers."""
    return one.outbound or one.translation.inbound


def _moved(address: IPv6Address, way: _Way) -> IPv6Address:
    if way.serving.translation.mode != "rfc6296":
        return rebase(address, way.source, way.target)
    moved = npt.translate(address, way.source, way.target)
    other = npt.translate(moved, way.target, way.source)
    if other != address:
        raise Refused(f"{address} has no address of its own on the other side: RFC 6296 takes "
                      f"subnet ffff for subnet 0, and {moved} is that of {other}; use another "
                      f"subnet")
    return moved


def _result(way: _Way, moved: IPv6Address, now: int) -> dict[str, Any]:
    return {
        "uplink": way.serving.uplink,
        "address": str(moved),
        "prefix": str(way.serving.prefix.network),
        "mode": way.serving.translation.mode,
        "state": _state(way.serving.prefix, now),
        "inbound": way.serving.translation.inbound,
    }


def _state(prefix: Prefix, now: int) -> str:
    """As ``status`` says it."""
    if prefix.expired(now):
        return "expired"
    return "current" if prefix.superseded_at is None else "superseded"


# ---- why there is none ---------------------------------------------------------------------------


def _why_not_outbound(address: IPv6Address, wanted: Desired) -> str:
    reasons = [f"{one.uplink}: {one.prefix.network} is used, but not for this part of "
               f"{one.translation.internal}" for one in wanted.serving if one.outbound]
    reasons += [f"{problem.uplink}: {problem.message}" for problem in wanted.problems]
    return f"{address} has no external address now: {'; '.join(reasons)}; {SEE}"


def _why_not_inbound(address: IPv6Address, known: State, wanted: Desired, path: str) -> str:
    for one in wanted.serving:
        if any(address in external for _, external in one.pairs):
            return (f"{address} leads to no host: inbound = false, and {one.prefix.network} "
                    f"({one.uplink}) is no longer used outbound; {SEE}")
    for name, uplink in known.uplinks.items():
        for prefix in uplink.prefixes:
            if address in prefix.network:
                return (f"{address} is in {prefix.network} ({name}), but not in a part of it that "
                        f"a translation uses now; {SEE}")
    return (f"{address} is neither in an internal prefix of {path} nor in a delegated one; "
            f"{SEE}")
