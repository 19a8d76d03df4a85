"""Lifetimes last as long as they were told to, whatever becomes of the wall clock."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pdreactor import clock, state
from pdreactor.model import Down, Happening, Moment, Refusal, State

from .values import NOW, P1, P2, after, prefixes, reply, told

YEAR = 31_536_000
KNOWN = after(reply(*told(P1, valid=1000)), reply(*told(P2, valid=1000)))
HERE, THERE = "here", "another boot"


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> list[Moment]:
    """What the clocks say: the last one in the list."""
    moments = [Moment(HERE, 50, NOW)]
    monkeypatch.setattr(state, "now", lambda: moments[-1])
    return moments


def left(known: State, here: Moment) -> list[int]:
    """Seconds of valid lifetime that each prefix has."""
    return [p.valid_until - here.wall for p in prefixes(known)]


def told_by(known: State, written: Moment, here: Moment) -> list[int]:
    return left(state.decode(state.encode(known, written), here), here)


BEFORE = left(KNOWN, Moment(HERE, 50, NOW))


@pytest.mark.parametrize(("uplink", "wall", "passed"), [
    (HERE, 10, 10),  # nothing special
    (HERE, YEAR, 10),  # set forward
    (HERE, -YEAR, 10),  # set back
    (HERE, 14, 10),  # two clocks are never quite the same
    (HERE, 6, 10),
])
def test_within_one_boot_nobody_loses_or_wins_time(uplink: str, wall: int, passed: int) -> None:
    here = Moment(uplink, 50 + passed, NOW + wall)
    found = told_by(KNOWN, Moment(HERE, 50, NOW), here)
    assert all(abs(one - (start - passed)) <= clock.SLACK
               for one, start in zip(found, BEFORE, strict=True))


@pytest.mark.parametrize(("written", "wall", "gone"), [
    (NOW, NOW + 300, 300),  # switched off for five minutes
    (NOW, NOW + YEAR, YEAR),
    (NOW, 10, 0),  # no clock of its own: 1970, and nobody knows how long it was off
    (NOW, NOW - YEAR, 0),  # the clock was wrong before
    (100, 200, 100),  # never set at all
    (100, NOW, 0),  # set for the first time
])
def test_over_a_reboot_time_passes_as_far_as_the_clock_can_tell(
        written: int, wall: int, gone: int) -> None:
    known = clock.shifted(KNOWN, written - NOW)
    found = told_by(known, Moment(HERE, 50, written), Moment(THERE, 5, wall))
    assert found == [start - gone for start in BEFORE]


def test_1970_and_then_ntp(moment: list[Moment], tmp_path: Path) -> None:
    """A boot without a clock: what was learned before, and then, expires in time."""
    state.save(str(tmp_path), KNOWN)
    moment.append(Moment(THERE, 8, 8))
    known, _ = state.load(str(tmp_path))
    assert left(known, moment[-1]) == BEFORE
    state.save(str(tmp_path), after(reply(*told(P1, valid=600)), state=known, now=8))
    moment.append(Moment(THERE, 68, NOW + 500))
    known, damage = state.load(str(tmp_path))
    assert left(known, moment[-1])[0] == 540
    assert left(known, moment[-1])[1] == BEFORE[0] - 60
    assert not damage


def test_all_points_in_time_are_moved() -> None:
    uplink = KNOWN.uplinks["wan"]._replace(refusal=Refusal(NOW, "x", "y"), down=Down(NOW, "z"))
    known = KNOWN._replace(uplinks={"wan": uplink}, history=(Happening(NOW, "wan", "x", "y"),))
    moved = clock.shifted(known, YEAR)
    texts = [json.dumps(json.loads(state.encode(one))) for one in (known, moved)]
    for second in range(1100):
        texts[0] = texts[0].replace(str(NOW + second), str(NOW + YEAR + second))
    assert texts[0] == texts[1]
    assert clock.shifted(clock.shifted(known, -YEAR), YEAR) == known


def test_a_file_of_an_earlier_release_has_no_clock(tmp_path: Path, moment: list[Moment]) -> None:
    (tmp_path / state.FILE).write_bytes(state.encode(KNOWN))
    moment.append(Moment(THERE, 5, 10))
    assert state.load(str(tmp_path)) == (KNOWN, "")


@pytest.mark.parametrize("entry", [[], ["x", 1], ["x", -1, 5], ["\x1b", 1, 2], {"boot": 1}, "abcd"])
def test_a_clock_that_is_none_is_damage(entry: object) -> None:
    document = json.loads(state.encode(KNOWN)) | {"clock": entry}
    with pytest.raises(state.DAMAGE):
        state.decode(json.dumps(document).encode(), Moment(HERE, 1, 1))


numbers = st.integers(0, state.LARGEST - 1)
moments = st.builds(Moment, st.sampled_from([HERE, THERE]), numbers, numbers)


@given(moments, moments)
@example(Moment(HERE, 1, 0), Moment(HERE, 1, state.LARGEST - 1))
def test_whatever_the_clocks_say_the_state_can_be_written_again(
        written: Moment, here: Moment) -> None:
    known = state.decode(state.encode(KNOWN, written), here)
    assert state.decode(state.encode(known, here), here) == known
