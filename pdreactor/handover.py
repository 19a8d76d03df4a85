"""What one node of a fail-over pair tells the other: the learned state as one document (pure).

The document (``pdreactor export``; all keys are described in pdreactor(8))::

    {"format": 1, "node": {"id", "name"}, "generation": 7, "heard": {id: generation}, "at": epoch,
     "uplinks": {NAME: {"number": 1, "prefixes": [{"prefix", ..., "valid_left": seconds}]}}}

Times are seconds left and seconds ago, so it does not matter what the clocks of the nodes say; like
those of a DHCPv6 reply they count from arrival. "generation" and "heard" say whose knowledge it is:
see lineage.py.

Uplinks go by their name; interface, static prefix and all else of the configuration is each node's
own, and so is what a health checker said of an uplink.
"""

import json
from ipaddress import IPv6Network
from typing import Any, NamedTuple

from .errors import Refused
from .model import Config, Prefix, State, UplinkState
from .prefix import parse_prefix, shown

FORMAT = 1
LIMIT = 1 << 20
"""Bytes of the largest document that is read."""
LONGEST = 1 << 32
"""Seconds and counters are below this."""


class Export(NamedTuple):
    """A document, parsed; its times are this node's."""

    node: str
    name: str
    generation: int
    heard: dict[str, int]
    at: int  # by the other node's clock
    uplinks: dict[str, UplinkState]


# ---- to a document -----------------------------------------------------------------------------


def document(state: State, config: Config, name: str, now: int) -> dict[str, Any]:
    """What to tell; ``name`` is the node's name for people."""
    lineage = state.lineage
    return {
        "format": FORMAT,
        "node": {"id": lineage.node, "name": name},
        "generation": lineage.generation,
        "heard": dict(lineage.heard),
        "at": now,
        "uplinks": {uplink.name: _uplink_out(state.uplinks[uplink.name], now)
                    for uplink in config.uplinks
                    if uplink.learns and uplink.name in state.uplinks},
    }


def _uplink_out(uplink: UplinkState, now: int) -> dict[str, Any]:
    return {"number": uplink.number, "prefixes": [_prefix_out(p, now) for p in uplink.prefixes]}


def _prefix_out(prefix: Prefix, now: int) -> dict[str, Any]:
    return {
        "prefix": str(prefix.network),
        "iaid": prefix.iaid,
        "excluded": prefix.excluded and str(prefix.excluded),
        "generation": prefix.generation,
        "preferred_left": _left(prefix.preferred_until, now),
        "valid_left": _left(prefix.valid_until, now),
        "learned_ago": max(0, now - prefix.learned_at),
        "updated_ago": max(0, now - prefix.updated_at),
        "superseded_ago": prefix.superseded_at and max(0, now - prefix.superseded_at),
    }


def _left(until: int | None, now: int) -> int | None:
    return None if until is None else max(0, until - now)


# ---- from a document ---------------------------------------------------------------------------


def parse(raw: bytes, now: int) -> Export:
    """A document that came from outside. Raises Refused with one line."""
    if not raw.strip():
        raise Refused("nothing came in: pipe the output of pdreactor export to it, as in "
                      "ssh PEER pdreactor export | pdreactor import")
    if len(raw) > LIMIT:
        raise Refused(f"more than {LIMIT} bytes came in: no output of pdreactor export is so long")
    try:
        return _export(json.loads(raw), now)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        what = f"{type(exc).__name__} {exc}"
        raise Refused(f"what came in is no whole output of pdreactor export "
                      f"({shown(what)})") from exc


def _export(document: dict[str, Any], now: int) -> Export:
    if _number(document["format"]) != FORMAT:
        raise Refused(f"it is of format {document['format']}, this pdreactor knows {FORMAT}: "
                      f"install the same version on both nodes")
    node, heard, uplinks = document["node"], document["heard"], document["uplinks"]
    export = Export(
        node=_id(node["id"]),
        name=_name(node["name"]),
        generation=_number(document["generation"]),
        heard={_id(other): _number(generation) for other, generation in heard.items()},
        at=_number(document["at"], most=1 << 36),
        uplinks={_name(name): _uplink_in(entry, now) for name, entry in uplinks.items()},
    )
    if len({uplink.number for uplink in export.uplinks.values()}) != len(export.uplinks):
        raise ValueError("two uplinks have one number")
    return export


def _uplink_in(entry: dict[str, Any], now: int) -> UplinkState:
    prefixes = tuple(_prefix_in(one, now) for one in entry["prefixes"])
    if len({p.generation for p in prefixes}) != len(prefixes):
        raise ValueError("two prefixes have one generation")
    for number, prefix in enumerate(prefixes):
        if any(prefix.network.overlaps(other.network) for other in prefixes[:number]):
            raise Refused(f"prefix {prefix.network} overlaps another one of its uplink")
    return UplinkState(_number(entry["number"], 1), prefixes)


def _prefix_in(entry: dict[str, Any], now: int) -> Prefix:
    network, excluded = _network(entry["prefix"]), entry["excluded"]
    preferred, valid = _maybe(entry["preferred_left"]), _maybe(entry["valid_left"])
    if valid is not None and (preferred is None or preferred > valid):
        raise Refused(f"prefix {network} has a preferred lifetime longer than the valid one")
    hole = None if excluded is None else _network(excluded)
    if hole is not None and (hole == network or not hole.subnet_of(network)):
        raise Refused(f"excluded prefix {hole} is no part of {network}")
    superseded = _maybe(entry["superseded_ago"])
    return Prefix(
        network=network,
        iaid=_maybe(entry["iaid"]),
        preferred_until=None if preferred is None else now + preferred,
        valid_until=None if valid is None else now + valid,
        generation=_number(entry["generation"]),
        learned_at=_ago(entry["learned_ago"], now),
        updated_at=_ago(entry["updated_ago"], now),
        reason="import",
        excluded=hole,
        superseded_at=None if superseded is None else _ago(superseded, now),
    )


def _network(text: Any) -> IPv6Network:
    if not isinstance(text, str):
        raise ValueError(f"not a prefix: {text!r}")
    return parse_prefix(text)


def _name(text: Any) -> str:
    if not isinstance(text, str) or not text.isprintable() or not 0 < len(text) < 256:
        raise ValueError(f"not a name: {text!r}")
    return text


def _id(text: Any) -> str:
    if not isinstance(text, str) or len(text) != 16 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"not the id of a node: {text!r}")
    return text


def _number(value: Any, low: int = 0, most: int = LONGEST) -> int:
    if type(value) is not int or not low <= value < most:
        raise ValueError(f"not a number from {low}: {value!r}")
    return value


def _maybe(value: Any) -> int | None:
    return None if value is None else _number(value)


def _ago(value: Any, now: int) -> int:
    return max(0, now - _number(value))
