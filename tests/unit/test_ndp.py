"""Solicitations and advertisements as bytes: what is taken, what is refused, what is answered. The
other end of each is tests/lab/solicit.py, which shares no code with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdreactor.layout import ndp
from tests.lab import solicit

SOURCE, TARGET, OWN = "fe80::feed", "2001:db8::1:2:3", "fe80::1"
MAC = "02:00:00:00:00:01"
OPTION = solicit.link_option(MAC)
PACKED = {text: solicit.ipaddress.IPv6Address(text).packed for text in (SOURCE, TARGET, OWN)}
UNICAST = st.integers(1, (0xFF << 120) - 1).map(lambda n: str(solicit.ipaddress.IPv6Address(n)))
OPTIONS = st.lists(st.tuples(st.integers(2, 255), st.integers(1, 4)), max_size=4).map(
    lambda found: b"".join(bytes((kind, length)) + bytes(8 * length - 2)
                           for kind, length in found))


@given(UNICAST, UNICAST, OPTIONS, st.booleans())
def test_what_another_node_asks_is_understood(source: str, target: str, others: bytes,
                                              named: bool) -> None:
    packet = solicit.solicitation(source, target, others + (OPTION if named else b""))
    asked = ndp.solicitation(packet)
    assert asked is not None
    assert [str(solicit.ipaddress.IPv6Address(one)) for one in asked[:2]] == [source, target]
    assert asked.link_address == (OPTION[2:] if named else b"")
    assert not asked.probe


@given(UNICAST, OPTIONS)
def test_a_probe_for_duplicates_is_understood(target: str, others: bytes) -> None:
    asked = ndp.solicitation(solicit.solicitation("::", target, others))
    assert asked is not None and asked.probe
    assert ndp.solicitation(solicit.solicitation("::", target, others + OPTION)) is None
    assert ndp.solicitation(solicit.solicitation("::", target, destination=target)) is None


@given(st.binary(max_size=120))
def test_anything_at_all_is_refused(packet: bytes) -> None:
    assert ndp.solicitation(packet) is None


@given(st.binary(max_size=60), st.sampled_from([SOURCE, "::"]))
def test_whatever_follows_the_target_breaks_nothing(rest: bytes, source: str) -> None:
    packet = solicit.solicitation(source, TARGET, rest + bytes(len(rest) % 2))
    asked = ndp.solicitation(packet)
    assert asked is None or asked.target == PACKED[TARGET]


@given(st.integers(0, 8 * 72 - 1), st.sampled_from([SOURCE, "::"]))
def test_a_bit_that_is_wrong_is_seen(bit: int, source: str) -> None:
    """But for those that no checksum covers and no node looks at: traffic class and flow label."""
    packet = solicit.solicitation(source, TARGET, OPTION if source == SOURCE else bytes((14, 1))
                                  + bytes(6))
    octet, mask = bit // 8, 0x80 >> bit % 8
    broken = packet[:octet] + bytes((packet[octet] ^ mask,)) + packet[octet + 1:]
    expected = ndp.solicitation(packet) if 4 <= bit < 32 else None
    assert ndp.solicitation(broken) == expected


@given(st.integers(0, 71))
def test_what_is_cut_off_is_refused(length: int) -> None:
    assert ndp.solicitation(solicit.solicitation(SOURCE, TARGET, OPTION)[:length]) is None


def test_what_the_link_adds_behind_it_does_not_count() -> None:
    """Ethernet fills short frames up."""
    packet = solicit.solicitation(SOURCE, TARGET)
    assert ndp.solicitation(packet + bytes(10)) == ndp.solicitation(packet) is not None


@pytest.mark.parametrize("fields", [
    {"hop_limit": 254}, {"hop_limit": 0}, {"code": 1}, {"kind": 136}, {"kind": 128},
    {"target": "ff02::1"}, {"source": "ff02::1"}, {"options": b"\1\0" + bytes(6)},
    {"options": OPTION + b"\1\1"}, {"options": b"\1\2" + bytes(6)}, {"options": b"\0\0"},
])  # fmt: skip
def test_what_a_node_must_discard(fields: dict[str, object]) -> None:
    """RFC 4861 section 7.1.1."""
    given_ = {"source": SOURCE, "target": TARGET, **fields}
    assert ndp.solicitation(solicit.solicitation(**given_)) is None  # type: ignore[arg-type]


@given(UNICAST, UNICAST, UNICAST, st.binary(min_size=6, max_size=6) | st.just(b""))
def test_every_field_of_an_answer(source: str, target: str, own: str, mac: bytes) -> None:
    """RFC 4861 sections 4.4, 7.2.4 and 7.2.8: R and S, not O; no option where links have no
    addresses."""
    asked = ndp.solicitation(solicit.solicitation(source, target))
    assert asked is not None
    answer = ndp.advertisement(asked, solicit.ipaddress.IPv6Address(own).packed, mac)
    assert solicit.advertisement(answer) == solicit.Advertisement(
        label=6 << 28, hop_limit=255, source=own, destination=source, type=136, code=0,
        flags=0xC0000000, target=target, options=((2, mac),) if mac else (), checksum=True)


@given(UNICAST)
def test_a_probe_is_answered_at_all_nodes(target: str) -> None:
    """RFC 4861 section 7.2.4: S is clear."""
    asked = ndp.solicitation(solicit.solicitation("::", target))
    assert asked is not None
    answer = solicit.advertisement(ndp.advertisement(asked, PACKED[OWN], OPTION[2:]))
    assert (answer.destination, answer.flags, answer.checksum) == ("ff02::1", 0x80000000, True)
