"""What one node of a fail-over pair tells the other: the learned state as one document (pure).

The document (``pdreactor export``; all keys are described in pdreactor(8))::

    {"format": 1, "node": {"id", "name"}, "generation": 7, "heard": {id: generation}, "at": epoch,
     "uplinks": {NAME: {"number": 1, "prefixes": [{"prefix", ..., "valid_left": seconds}]}}}

Times are seconds left and seconds ago, so it does not matter what the clocks of the nodes say; like
those of a DHCPv6 reply they count from arrival. A node counts what it learned itself, and says how
far it has heard of the others. So it can be told of two documents which is newer, and that neither
is: both nodes learned something that the other has not heard of (a version vector).

Uplinks go by their name; interface, static prefix and all else of the configuration is each node's
own, and so is what a health checker said of an uplink.
"""

import json
from ipaddress import IPv6Network
from typing import Any, NamedTuple

from .errors import Refused
from .model import Config, Lineage, Prefix, State, UplinkState
from .prefix import acceptable, parse_prefix, shown
from .transition import after_import

FORMAT = 1
LIMIT = 1 << 20
"""Bytes of the largest document that is read."""
MOST_HEARD = 8
"""Nodes that are remembered: a node that was set up anew is another one."""
LONGEST = 1 << 32
"""Seconds and counters are below this."""
CLOCKS = 60
"""Seconds that a document may seem old without a word about it."""


class Export(NamedTuple):
    """A document, parsed; its times are this node's."""

    node: str
    name: str
    generation: int
    heard: dict[str, int]
    at: int  # by the other node's clock
    uplinks: dict[str, UplinkState]


# ---- to a document -----------------------------------------------------------------------------


def identified(state: State, node: str) -> State:
    """The state with an id; ``node`` is a new random one, used if there is none yet."""
    lineage = state.lineage
    if lineage.node:
        return state
    known = any(uplink.prefixes for uplink in state.uplinks.values())
    generation = max(lineage.generation, int(known))  # learned before anybody counted
    return state._replace(lineage=lineage._replace(node=node, generation=generation))


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
                    if uplink.prefix is None and uplink.name in state.uplinks},
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


# ---- into the state ----------------------------------------------------------------------------


class Taken(NamedTuple):
    """The state after an import, and what to say about it: a line each."""

    state: State
    notes: tuple[str, ...] = ()


def taken(state: State, export: Export, config: Config, now: int,
          near: dict[str, list[IPv6Network]], force: bool = False) -> Taken:
    """The state (which has an id) once the document is known; the same object when it says nothing
    new. Raises Refused when it is older, when both nodes learned different prefixes, and for all
    that an event would be refused for. ``force`` takes what is older or different, too."""
    mine, what = state.lineage, f"generation {export.generation} of node {_who(export)}"
    if export.node == mine.node:
        raise Refused(f"{what} is this node's own; if it comes from another machine, that one has "
                      f"a copy of this one's state: run pdreactor flush --forget there")
    notes = _notes(export, config, now)
    missed = _missed(state, export, config, now)
    told = _told(export, config)
    if not _news(mine, export) and not force:
        if not missed and _covered(mine, export):
            return Taken(state, notes)
        raise Refused(f"{what} is older than what this node knows: nothing was changed")
    if missed and not force:
        here = _only_here(state, told, config, now)
        if here:
            raise Refused(f"split brain: this node learned {here} itself, which {what} does not "
                          f"know of and has other prefixes; both nodes seem to be master. Nothing "
                          f"was changed. End dhcpcd where it should not run; pdreactor import "
                          f"--force takes the other node's word")
        notes += (f"this node and node {_who(export)} have both learned from the DHCPv6 server, "
                  f"the same prefixes, without hearing of each other: a fail-over between two "
                  f"imports, or split brain (both master)",)
    for name, uplink in told.items():
        _check(name, uplink, config)
    after = after_import(state, told, config, now, near)
    return Taken(after._replace(lineage=_merged(mine, export)), notes)


def _who(export: Export) -> str:
    return f"{shown(export.name)} ({export.node})"


def _notes(export: Export, config: Config, now: int) -> tuple[str, ...]:
    known = {uplink.name: uplink for uplink in config.uplinks}
    notes = [f"uplink {shown(name)} of node {_who(export)} is not in {config.path} here: left out"
             for name in export.uplinks if name not in known]
    notes += [f"uplink {name} has a static prefix in {config.path} here: what node {_who(export)} "
              f"learned is left out"
              for name in export.uplinks if name in known and known[name].prefix is not None]
    if abs(now - export.at) > CLOCKS:
        notes.append(f"node {_who(export)} says it was {export.at} when it wrote this, here it is "
                     f"{now}: its lifetimes count from now; if the clocks are right, the document "
                     f"is old")
    return tuple(notes)


def _told(export: Export, config: Config) -> dict[str, UplinkState]:
    learning = {uplink.name for uplink in config.uplinks if uplink.prefix is None}
    return {name: uplink for name, uplink in export.uplinks.items() if name in learning}


def _check(name: str, uplink: UplinkState, config: Config) -> None:
    own = config.uplink(name)
    for prefix in uplink.prefixes:
        acceptable(prefix.network, min_length=own.min_length, max_length=own.max_length)


def _news(mine: Lineage, export: Export) -> bool:
    """The other node knows something that this one has not heard of."""
    heard = dict(mine.heard)
    theirs = {**export.heard, export.node: export.generation}
    return any(generation > heard.get(node, 0)
               for node, generation in theirs.items() if node != mine.node)


def _covered(mine: Lineage, export: Export) -> bool:
    """The other node knows all that this one has heard of it."""
    return export.generation >= dict(mine.heard).get(export.node, 0)


def _missed(state: State, export: Export, config: Config, now: int) -> bool:
    """This node learned something itself, and from a lease that still runs, that the other one has
    not heard of and no import has overruled."""
    mine = state.lineage
    if mine.generation <= max(mine.settled, export.heard.get(mine.node, 0)):
        return False
    return any(_live(state, uplink.name, now) for uplink in config.uplinks if uplink.prefix is None)


def _live(state: State, uplink: str, now: int) -> set[IPv6Network]:
    known = state.uplinks.get(uplink, UplinkState(0)).prefixes
    return {p.network for p in known if p.superseded_at is None and not p.expired(now)}


def _only_here(state: State, told: dict[str, UplinkState], config: Config, now: int) -> str:
    """Prefixes in use here that the other node knows nothing of."""
    found = []
    for uplink in config.uplinks:
        known = told.get(uplink.name, UplinkState(0)).prefixes
        if uplink.prefix is None:
            others = _live(state, uplink.name, now) - {p.network for p in known}
            found += [f"{network} on uplink {uplink.name}" for network in sorted(others)]
    return ", ".join(found)


def _merged(mine: Lineage, export: Export) -> Lineage:
    """This node has heard now of all that the other one has."""
    heard = dict(mine.heard)
    for node, generation in (*export.heard.items(), (export.node, export.generation)):
        heard[node] = max(generation, heard.pop(node, 0))
    own = max(mine.generation, heard.pop(mine.node, 0))
    return mine._replace(generation=own, settled=own, heard=tuple(heard.items())[-MOST_HEARD:])
