"""Prefixes that follow from IPv4 addresses, by a second way of reckoning; what DHCPv4 tells."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pdreactor.errors import Refused
from pdreactor.events import parse_environ
from pdreactor.layout.model import Address, Plans, Seen, Shown, Sixrd, Traces, Tunnel
from pdreactor.layout.sources import after_lease, learn, sixrd, sixtofour, told_sixrd
from pdreactor.model import ONLINK, SIXTOFOUR, Event, State, Uplink
from pdreactor.transition import after_event

from . import recorded
from .values import NOW, N, config, current, told

A = IPv4Address
addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
public = st.integers(int(A("11.0.0.0")), int(A("99.255.255.255"))).map(IPv4Address)
"""All of these are."""


# ---- 6to4 --------------------------------------------------------------------------------------


@given(public)
def test_6to4_is_the_address_in_hexadecimal_behind_2002(address: IPv4Address) -> None:
    first, second, third, fourth = address.packed
    written = f"2002:{first:02x}{second:02x}:{third:02x}{fourth:02x}::/48"
    assert sixtofour(address) == IPv6Network(written)


@given(public)
def test_6to4_is_what_the_kernel_takes_out_again(address: IPv4Address) -> None:
    assert sixtofour(address).network_address.sixtofour == address


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.2", "172.16.0.1", "100.64.0.1",
                                     "169.254.1.1", "127.0.0.1", "0.0.0.0", "255.255.255.255"])
def test_6to4_refuses_what_is_not_public_and_says_what_to_do(address: str) -> None:
    with pytest.raises(Refused, match=r"is not a public IPv4 address.*public = "):
        sixtofour(A(address))


# ---- 6rd ---------------------------------------------------------------------------------------


def bits(number: int, length: int) -> str:
    return f"{number:0{length}b}"


@given(addresses, st.integers(3, 64), st.integers(0, 32), st.data())
def test_6rd_is_the_prefix_then_the_bits_that_are_not_shared(
    address: IPv4Address, length: int, mask: int, data: st.DataObject
) -> None:
    assume(length + 32 - mask <= 64)
    head = data.draw(st.integers(0, 2**length - 1))
    prefix = IPv6Network((head << 128 - length, length))
    found = sixrd(Sixrd("eth0", prefix, mask, A("192.0.2.1")), address)
    written = bits(head, length) + bits(int(address), 32)[mask:]
    assert found.prefixlen == len(written)
    assert bits(int(found.network_address), 128) == written.ljust(128, "0")


def test_6rd_with_and_without_bits_that_all_share() -> None:
    """10.100.100.1 behind 2001:db8::/32: all 32 bits of it, and the 24 that 10.0.0.0/8 leaves."""
    whole = Sixrd("eth0", N("2001:db8::/32"), 0, A("10.0.0.1"))
    assert sixrd(whole, A("10.100.100.1")) == N("2001:db8:a64:6401::/64")
    assert sixrd(whole._replace(mask_length=8), A("10.100.100.1")) == N("2001:db8:6464:100::/56")


def test_6rd_refuses_what_is_longer_than_a_64() -> None:
    with pytest.raises(Refused, match="2001:db8::/33 and 32 bits of IPv4 are longer than /64"):
        sixrd(Sixrd("eth0", N("2001:db8::/33"), 0, A("10.0.0.1")), A("10.1.1.1"))


# ---- what DHCPv4 tells -------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["59-BOUND-ipv4-6rd", "60-RENEW-ipv4-6rd",
                                  "61-BOUND-ipv4-6rd-two-relays"])
def test_dhcpcd_tells_of_6rd(call: str) -> None:
    variables = parse_environ(recorded.block(f"9.4.1/{call}"))
    told = Sixrd("eth0", N("3fff:600::/32"), 8, A("198.51.100.1"))
    assert told_sixrd(variables, "eth0") == told


def test_a_lease_without_6rd_takes_it_back() -> None:
    told = Sixrd("eth0", N("3fff:600::/32"), 8, A("198.51.100.1"))
    other = told._replace(interface="eth1")
    state = after_lease(after_lease(State({}), "eth0", told), "eth1", other)
    assert after_lease(state, "eth0", None).traces == Traces(sixrd=(other,))
    assert after_lease(state, "eth0", told).traces.sixrd == (other, told)
    variables = parse_environ(recorded.block("9.4.1/51-BOUND-ipv4"))
    assert told_sixrd(variables, "eth0") is None


@pytest.mark.parametrize("name, value, said", [
    ("mask_len", "33", "mask length"),
    ("mask_len", "", "mask length"),
    ("prefix_len", "129", "length"),
    ("prefix", "no", "no"),
    ("prefix", "ff00::", "multicast"),
    ("brip_address", "", "without a border relay"),
    ("brip_address", "here", "not an IPv4 address"),
])
def test_nonsense_of_a_server_is_refused(name: str, value: str, said: str) -> None:
    block = recorded.block("9.4.1/59-BOUND-ipv4-6rd")
    good = {entry.partition(b"=")[0]: entry for entry in block.split(b"\0")}
    key = f"new_sixrd_{name}".encode()
    bad = block.replace(good[key], key + b"=" + value.encode())
    with pytest.raises(Refused, match=said):
        told_sixrd(parse_environ(bad), "eth0")


# ---- the state follows -------------------------------------------------------------------------


TUNNEL = Tunnel("tun6to4", SIXTOFOUR, underlay="eth0")
SIX = Uplink("six", "tun6to4", source=SIXTOFOUR)
CONFIG = config(uplinks=(SIX,), plans=Plans(tunnels=(TUNNEL,)))._replace(translations=())


def seen(*found: str) -> Seen:
    return Seen({}, {"eth0": tuple(A(one) for one in found)}, {})


def test_the_prefix_follows_the_address_and_stays_without_one() -> None:
    known = learn(State({}), CONFIG, seen("192.0.2.1", "192.0.2.9"), {}, NOW)
    assert current(known, "six") == {"2002:c000:201::/48"}
    assert learn(known, CONFIG, seen("192.0.2.1"), {}, NOW + 1) is known
    assert learn(known, CONFIG, seen(), {}, NOW + 1) is known
    moved = learn(known, CONFIG, seen("198.51.100.7"), {}, NOW + 2)
    assert [str(p.network) for p in moved.uplinks["six"].prefixes] == ["2002:c633:6407::/48"]


def test_a_refusal_is_remembered_once() -> None:
    known = learn(State({}), CONFIG, seen("10.0.0.1"), {}, NOW)
    assert "10.0.0.1 is not a public" in known.uplinks["six"].refusal.message
    assert learn(known, CONFIG, seen("10.0.0.1"), {}, NOW + 9) is known


def test_public_counts_in_the_place_of_the_address() -> None:
    behind = TUNNEL._replace(public=A("192.0.2.1"))
    config = CONFIG._replace(plans=Plans(tunnels=(behind,)))
    known = learn(State({}), config, seen("192.168.1.2"), {}, NOW)
    assert current(known, "six") == {"2002:c000:201::/48"}


def test_the_address_6to4_makes_is_global() -> None:
    assert IPv6Address("2002:c000:201::1") in sixtofour(A("192.0.2.1"))


@pytest.mark.parametrize("reason, stays", [
    ("BOUND6", False), ("set", False), ("onlink", True), ("import", True)])
def test_a_fixed_address_outdoes_what_another_source_told_before(reason: str, stays: bool) -> None:
    """Prefix delegation was configured, and is replaced by what is on the link: that counts at
    once. What the link itself showed stays for its lifetime."""
    uplink = Uplink("wan", "eth0", source=ONLINK)
    known = config(uplinks=(uplink,))._replace(translations=())
    event = Event(reason, "eth0", told("2001:db8:4000::/64"))
    before = after_event(State({}), event, uplink, known, NOW)
    fixed = Shown((Address("eth0", IPv6Address("2001:db8:ffff::2"), 64),), False)
    after = learn(before, known, Seen({}, {}, {}), {"eth0": fixed}, NOW)
    assert current(after) == {"2001:db8:4000::/64" if stays else "2001:db8:ffff::/64"}
