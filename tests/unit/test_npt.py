"""RFC 6296's arithmetic: its properties, its own example, and Linux's SNPT and DNPT."""

import fcntl
import os
import select
import struct
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pdreactor import npt
from pdreactor.errors import Refused

from .namespace import in_new_network, needs_root

A, N = IPv6Address, IPv6Network
ONES = 2**64 - 1


def network(value: int, length: int) -> IPv6Network:
    return N((value >> (128 - length) << (128 - length), length))


def words(address: IPv6Address) -> tuple[int, ...]:
    return struct.unpack("!8H", address.packed)


def checksum(data: bytes) -> int:
    """The one's complement sum of RFC 1071, by carrying around, with zero written as 0."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0 if total == 0xFFFF else total


WORDS = st.sampled_from((0, 1, 0xFFFE, 0xFFFF)) | st.integers(0, 0xFFFF)
"""One's complement has its pitfalls at the ends."""
VALUES = st.lists(WORDS, min_size=8, max_size=8).map(
    lambda eight: int.from_bytes(struct.pack("!8H", *eight), "big"))


@st.composite
def cases(draw: st.DrawFn) -> tuple[IPv6Address, IPv6Network, IPv6Network]:
    """An address of a prefix, and another prefix of the same length."""
    length = draw(st.integers(0, 64))
    here, there = network(draw(VALUES), length), network(draw(VALUES), length)
    return here[draw(VALUES) % here.num_addresses], here, there


def untranslatable(address: IPv6Address, here: IPv6Network) -> bool:
    return here.prefixlen > 48 and int(address) & ONES == ONES


Case = tuple[IPv6Address, IPv6Network, IPv6Network]


# ---- properties ----------------------------------------------------------------------------------


def test_the_example_of_the_rfc() -> None:
    """RFC 6296 section 3.6."""
    here, there = N("fd01:203:405::/48"), N("2001:db8:1::/48")
    assert npt.adjustment(here, there) == 0xD54F
    assert npt.translate(A("fd01:203:405:1::1234"), here, there) == A("2001:db8:1:d550::1234")
    assert npt.translate(A("2001:db8:1:d550::1234"), there, here) == A("fd01:203:405:1::1234")


@given(cases())
def test_the_checksum_stays_and_the_prefix_is_the_other(case: Case) -> None:
    address, here, there = case
    assume(not untranslatable(address, here))
    moved = npt.translate(address, here, there)
    assert moved in there
    assert checksum(moved.packed) == checksum(address.packed)


@given(cases())
def test_only_one_word_takes_the_adjustment_and_never_becomes_ffff(case: Case) -> None:
    address, here, there = case
    assume(not untranslatable(address, here))
    before, after = words(address), words(npt.translate(address, here, there))
    adjusted = 3
    if here.prefixlen > 48:
        adjusted = next(at for at in range(4, 8) if before[at] != 0xFFFF)
    assert after[adjusted] != 0xFFFF
    host = range(-(-here.prefixlen // 16), 8)
    assert all(before[at] == after[at] for at in host if at != adjusted)


@given(cases())
def test_it_goes_back_but_for_subnet_ffff(case: Case) -> None:
    address, here, there = case
    assume(not untranslatable(address, here))
    back = npt.translate(npt.translate(address, here, there), there, here)
    if here.prefixlen <= 48 and words(address)[3] == 0xFFFF:
        assert int(address) - int(back) == 0xFFFF << 64, "subnet 0 has the same address outside"
    else:
        assert back == address


@given(cases())
def test_the_adjustment_the_other_way_is_its_negative(case: Case) -> None:
    _, here, there = case
    to, back = npt.adjustment(here, there), npt.adjustment(there, here)
    assert 0 <= to < 0xFFFF
    assert (to + back) % 0xFFFF == 0


@pytest.mark.parametrize("length", range(49, 65))
def test_nothing_but_ones_behind_a_long_prefix_is_refused(length: int) -> None:
    here, there = network(int(A("fd5e:ed00:1234::")), length), network(int(A("2001:db8::")), length)
    for source, target in ((here, there), (there, here)):
        with pytest.raises(Refused, match=r"only ones.*give the host another") as refusal:
            npt.translate(source[ONES], source, target)
        assert str(refusal.value).isprintable()


def test_nothing_but_ones_behind_a_short_prefix_is_translated() -> None:
    here, there = N("fd5e:ed00:1234::/48"), N("2001:db8:1::/48")
    assert int(npt.translate(here[ONES], here, there)) & ONES == ONES


@pytest.mark.parametrize(("here", "there"), [
    ("fd00::/65", "2001:db8::/65"), ("fd00::/48", "2001:db8::/56"), ("fd00::/64", "2001:db8::/65")])
def test_lengths_that_have_no_mapping_are_a_mistake(here: str, there: str) -> None:
    with pytest.raises(ValueError, match="no RFC 6296 mapping"):
        npt.translate(N(here)[1], N(here), N(there))


def test_an_address_of_another_prefix_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="cannot move"):
        npt.translate(A("fd01::1"), N("fd00::/48"), N("2001:db8::/48"))


# ---- the kernel's own ----------------------------------------------------------------------------

LENGTHS = (48, 52, 56, 58, 60, 62, 64)
FAR = A("2001:db8:ffff::1")
INSIDE, OUTSIDE = "inside0", "outside0"
WAIT = 3.0
"""Seconds for a packet to come out, at most."""
HOSTS = (2, 0x021122FFFE334455, 0, 0xFFFF << 48 | 1, 0xFFFFFFFF << 32, ONES - 0xFFFF, ONES - 1,
         0xFFFF, 0xFFFE << 48)


PREFIXES = (
    ("fd5e:ed00:{}:cdef::", "2001:db8:{}:8421::"),
    ("fdff:ffff:{}:ffff::", "2002:1:{}:0::"),
    ("fd01:ed01:{}:cdef::", "ed01:fd01:{}:cdef::"),  # the sums are equal: nothing to adjust
)
"""Internal and external ones, before they are cut to a length."""


def prefixes() -> Iterator[tuple[IPv6Network, IPv6Network]]:
    for length in LENGTHS:
        for here, there in PREFIXES:
            yield (network(int(A(here.format(length))), length),
                   network(int(A(there.format(length))), length))


def sources(here: IPv6Network, there: IPv6Network) -> Iterator[IPv6Address]:
    """Addresses of ``here`` with what is special in each word that may take the adjustment."""
    yield from (here[host] for host in HOSTS)
    rest = (1 << 64 - here.prefixlen) - 1
    neutral = 0xFFFF - npt.adjustment(here, there)
    for subnet in {number & rest for number in (0, 1, 0xFFFE, 0xFFFF, neutral)}:
        yield here[subnet << 64 | 0x1234]
    yield here[neutral << 48 | 7]


def udp(source: IPv6Address, target: IPv6Address, number: int) -> bytes:
    """A UDP packet that carries its number, with a good checksum (RFC 8200 section 8.1)."""
    payload = struct.pack("!I", number)
    header = struct.pack("!HHHH", 1234, 4321, 8 + len(payload), 0)
    pseudo = source.packed + target.packed + struct.pack("!II", 8 + len(payload), 17)
    header = header[:6] + struct.pack("!H", 0xFFFF - checksum(pseudo + header + payload))
    fixed = struct.pack("!IHBB", 6 << 28, 8 + len(payload), 17, 64)
    return fixed + source.packed + target.packed + header + payload


def tun(name: str) -> int:
    """A network device whose packets are read and written by us (linux/if_tun.h)."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH14x", name.encode(), 0x1001))
    return device


Arrived = dict[int, tuple[IPv6Address, IPv6Address, bool]]
"""{number: (source, target, whether the checksum is good)}"""


def received(device: int, last: int) -> Arrived:
    """Our packets until the one with the number ``last``."""
    found: Arrived = {}
    until = time.monotonic() + WAIT
    while last not in found and select.select([device], [], [], until - time.monotonic())[0]:
        packet = os.read(device, 2048)
        if packet[6] == 17 and packet[42:44] == struct.pack("!H", 4321):
            pseudo = packet[8:40] + struct.pack("!II", len(packet) - 40, 17)
            number = struct.unpack("!I", packet[48:52])[0]
            found[number] = (A(packet[8:24]), A(packet[24:40]),
                             checksum(pseudo + packet[40:]) == 0)
    return found


def run(*argv: str, text: str = "") -> None:
    subprocess.run(argv, input=text, text=True, check=True, timeout=20, capture_output=True)


def build(iptables: str) -> tuple[int, int]:
    """A router between two devices, with SNPT and DNPT for each pair of prefixes."""
    devices = tun(INSIDE), tun(OUTSIDE)
    for name in (INSIDE, OUTSIDE):
        run("ip", "link", "set", name, "addrgenmode", "none", "txqueuelen", "5000", "up")
    with open("/proc/sys/net/ipv6/conf/all/forwarding", "w") as file:
        file.write("1")
    run("ip", "-6", "route", "add", "default", "dev", INSIDE)
    run("ip", "-6", "route", "add", f"{FAR}", "dev", OUTSIDE)
    rules = [f"-A POSTROUTING -o {OUTSIDE} -s {here} -j SNPT --src-pfx {here} --dst-pfx {there}\n"
             f"-A PREROUTING -i {OUTSIDE} -d {there} -j DNPT --src-pfx {there} --dst-pfx {here}\n"
             for here, there in prefixes()]
    run(f"{iptables}-restore", "-w", "10", text=f"*mangle\n{''.join(rules)}COMMIT\n")
    return devices


def through(device: int, into: int, packets: list[bytes]) -> Arrived:
    """What comes out of ``device`` of packets written ``into`` another; the last one must."""
    for packet in packets:
        os.write(into, packet)
    return received(device, len(packets) - 1)


def seen(iptables: str, questions: list[Case]) -> tuple[list[IPv6Address | None], ...]:
    """What the kernel makes of each address outbound, and of that inbound; None is dropped."""
    inside, outside = build(iptables)
    try:
        out = through(outside, inside, [udp(a, FAR, n) for n, (a, _, _) in enumerate(questions)])
        assert all(good for _, _, good in out.values()), "neutral: no checksum was rewritten"
        moved = {number: source for number, (source, _, _) in out.items()}
        back = through(inside, outside, [
            udp(FAR, moved.get(n, there[ONES]), n) for n, (_, _, there) in enumerate(questions)])
        assert all(good for _, _, good in back.values())
    finally:
        os.close(inside)
        os.close(outside)
    returned = {number: target for number, (_, target, _) in back.items()}
    numbers = range(len(questions))
    return [moved.get(n) for n in numbers], [returned.get(n) for n in numbers]


def ours(question: Case) -> IPv6Address | None:
    try:
        return npt.translate(*question)
    except Refused:
        return None


@needs_root
@pytest.mark.parametrize("iptables", ["ip6tables-nft", "ip6tables-legacy"])
def test_linux_makes_the_same_of_real_packets(iptables: str) -> None:
    questions = [(address, here, there) for here, there in prefixes()
                 for address in (here[ONES], *sources(here, there))]
    out, back = in_new_network(lambda: seen(iptables, questions))
    wanted = [ours(question) for question in questions]
    assert out[-1] is not None, "nothing came through"
    assert out == wanted
    assert back == [moved and npt.translate(moved, there, here)
                    for moved, (_, here, there) in zip(wanted, questions, strict=True)]
    assert {here.prefixlen for moved, (_, here, _) in zip(out, questions, strict=True)
            if moved is None} == {length for length in LENGTHS if length > 48}
