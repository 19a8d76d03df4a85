"""What becomes of points in time when the wall clock is set (pure).

A router without a clock of its own boots in 1970, learns its prefix, and then hears from NTP what
year it is. Nothing has expired then.
"""

from typing import Any

from .model import Moment, State

SLACK = 5
"""Seconds that a wall clock may be off that nobody set: it is slewed, and we count whole ones."""
LAST = (1 << 36) - 1
"""The last point in time that the state file has room for, in the year 4147."""
NOT_SET = 1_700_000_000
"""2023-11-14. No clock that was set has ever shown less to this program."""


def moved(written: Moment, here: Moment) -> int:
    """By how many seconds the wall clock was set since ``written``.

    Nobody knows how long a machine was switched off. But when the clock goes back, or was not set
    at all before, it was set since: then no time has passed.
    """
    passed = here.uptime - written.uptime if here.boot == written.boot else 0
    off = here.wall - written.wall - passed
    if here.boot != written.boot and off > 0 and (written.wall >= NOT_SET or here.wall < NOT_SET):
        return 0
    return off if abs(off) > SLACK else 0


def shifted(state: State, seconds: int) -> State:
    """The state with all points in time so much later."""
    def at(moment: int) -> int:
        return min(max(0, moment + seconds), LAST)

    def maybe(moment: int | None) -> int | None:
        return None if moment is None else at(moment)

    def of(one: Any) -> Any:
        return one and one._replace(at=at(one.at))

    uplinks = {name: uplink._replace(
        prefixes=tuple(p._replace(
            preferred_until=maybe(p.preferred_until), valid_until=maybe(p.valid_until),
            learned_at=at(p.learned_at), updated_at=at(p.updated_at),
            superseded_at=maybe(p.superseded_at)) for p in uplink.prefixes),
        refusal=of(uplink.refusal), down=of(uplink.down))
        for name, uplink in state.uplinks.items()}
    return state._replace(uplinks=uplinks, history=tuple(map(of, state.history)))
