"""Stamps in conntrack marks: only our bits, and all of them come back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdreactor import marks
from pdreactor.model import Stamp

DEFAULT = 0x0FF00000
masks = st.builds(lambda bits, shift: ((1 << bits) - 1) << shift,
                  st.integers(3, 12), st.integers(0, 20))


def test_default_mask_has_room_for_15_uplinks_of_8_prefixes() -> None:
    assert (marks.uplinks(DEFAULT), marks.generations(DEFAULT)) == (15, 8)


@pytest.mark.parametrize(
    ("stamp", "mark"),
    [
        (Stamp(1, 0, False), 0x01000000),
        (Stamp(1, 0, True), 0x01100000),
        (Stamp(1, 1, False), 0x01200000),
        (Stamp(2, 0, False), 0x02000000),
        (Stamp(15, 7, True), 0x0FF00000),
    ],
)
def test_where_the_bits_are(stamp: Stamp, mark: int) -> None:
    """Fixed: a flow keeps its mark over an upgrade."""
    assert marks.pack(stamp, DEFAULT) == mark
    assert marks.unpack(mark, DEFAULT) == stamp


@given(masks, st.data())
def test_every_stamp_that_fits_comes_back(mask: int, data: st.DataObject) -> None:
    stamp = Stamp(data.draw(st.integers(1, marks.uplinks(mask))),
                  data.draw(st.integers(0, marks.generations(mask) - 1)), data.draw(st.booleans()))
    mark = marks.pack(stamp, mask)
    assert mark & ~mask == 0
    assert mark != 0
    others = data.draw(st.integers(0, 0xFFFFFFFF)) & ~mask
    assert marks.unpack(mark | others, mask) == stamp


@pytest.mark.parametrize("mask", [DEFAULT, 0xFF, 0x7, 0x70000000])
def test_no_two_stamps_have_one_mark(mask: int) -> None:
    stamps = [Stamp(u, g, i) for u in range(1, marks.uplinks(mask) + 1)
              for g in range(marks.generations(mask)) for i in (False, True)]
    assert len({marks.pack(stamp, mask) for stamp in stamps}) == len(stamps)


@pytest.mark.parametrize("stamp", [Stamp(0, 0, False), Stamp(16, 0, False), Stamp(1, 8, False),
                                   Stamp(1, -1, False), Stamp(-1, 0, True)])
def test_a_stamp_that_does_not_fit_is_a_bug(stamp: Stamp) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        marks.pack(stamp, DEFAULT)


@pytest.mark.parametrize("mark", [0, 0xF00FFFFF, 0x00100000, 0x00E00000])
def test_a_flow_without_our_uplink_bits_is_not_ours(mark: int) -> None:
    assert marks.unpack(mark, DEFAULT) is None
