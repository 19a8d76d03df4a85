"""Which of two nodes knows more, and what an import makes of the state (pure).

Each node counts what it learned itself (its generation), and remembers how far it has heard of the
others: a version vector. So of two nodes it can be told which one knows more, and that neither
does: both learned something that the other has not heard of. That is a fail-over between two
exports, or split brain.
"""

from ipaddress import IPv6Network
from typing import NamedTuple

from .errors import Refused
from .handover import Export
from .model import Config, Lineage, State, Uplink, UplinkState
from .prefix import acceptable, shown
from .transition import after_import

MOST_HEARD = 8
"""Nodes that are remembered: a node that was set up anew is another one."""
CLOCKS = 60
"""Seconds that a document may seem old, or young, without a word about it."""


def identified(state: State, node: str) -> State:
    """The state with an id; ``node`` is a new random one, used if there is none yet."""
    lineage = state.lineage
    if lineage.node:
        return state
    known = any(uplink.prefixes for uplink in state.uplinks.values())
    generation = max(lineage.generation, int(known))  # learned before anybody counted
    return state._replace(lineage=lineage._replace(node=node, generation=generation))


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
    missed = _missed(state, export, config, now)
    if not _news(mine, export) and not force:
        if not missed and _covered(mine, export):
            return Taken(state)
        raise Refused(f"{what} is older than what this node knows: nothing was changed")
    notes, told = _notes(export, config, now), _told(export, config)
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
    notes += [f"uplink {name} has {_source(known[name])} in {config.path} here: what node "
              f"{_who(export)} learned is left out"
              for name in export.uplinks if name in known and not known[name].learns]
    if abs(now - export.at) > CLOCKS:
        notes.append(f"by the clocks of node {_who(export)} and of this one, what it says is "
                     f"{now - export.at} s old; its lifetimes are counted from now all the same")
    return tuple(notes)


def _source(uplink: Uplink) -> str:
    return "a static prefix" if uplink.prefix is not None else f"source {uplink.source}"


def _told(export: Export, config: Config) -> dict[str, UplinkState]:
    learning = {uplink.name for uplink in config.uplinks if uplink.learns}
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
    return any(_live(state, uplink.name, now) for uplink in config.uplinks if uplink.learns)


def _live(state: State, uplink: str, now: int) -> set[IPv6Network]:
    known = state.uplinks.get(uplink, UplinkState(0)).prefixes
    return {p.network for p in known if p.superseded_at is None and not p.expired(now)}


def _only_here(state: State, told: dict[str, UplinkState], config: Config, now: int) -> str:
    """Prefixes in use here that the other node knows nothing of."""
    found = []
    for uplink in config.uplinks:
        known = told.get(uplink.name, UplinkState(0)).prefixes
        if uplink.learns:
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
