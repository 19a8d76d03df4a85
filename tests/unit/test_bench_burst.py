"""bench/burst.py: what it sends are whole, correct packets, and all of them new flows."""

import ctypes
import struct
from ipaddress import IPv6Address

from bench.burst import BATCH, FIRST_PORT, PORTS, Batch, Mmsghdr, Msghdr, checksum, frame

OWN, NEXT = b"\x02\0\0\0\1\2", b"\x02\0\0\0\1\1"
SOURCE, TARGET = "fd5e:ed00:1234::2", "2001:db8:e::1"


def batch(number: int) -> list[bytes]:
    made = Batch(frame(OWN, NEXT, SOURCE, TARGET))
    made.number(number)
    return list(made)


def ports(one: bytes) -> tuple[int, int]:
    source, target = struct.unpack_from("!HH", one, 54)
    return source, target


def test_each_frame_is_a_correct_packet() -> None:
    for number in (0, 1, 239, 240, 12_345_678):
        for one in batch(number):
            assert one[:14] == NEXT + OWN + b"\x86\xdd"
            length, protocol = struct.unpack_from("!HB", one, 18)
            assert (length, protocol) == (len(one) - 54, 17)
            assert one[22:54] == IPv6Address(SOURCE).packed + IPv6Address(TARGET).packed
            assert one[58:60] == one[18:20]  # UDP's own length
            pseudo = one[22:54] + struct.pack("!II", length, protocol)
            # A sum that includes its own checksum is all ones; checksum() makes 0xffff of zero.
            assert checksum(pseudo + one[54:]) == 0xFFFF
            assert one[60:62] != b"\0\0"


def test_no_flow_comes_twice() -> None:
    numbers = [*range(480), 2_359_998]
    flows = [ports(one) for number in numbers for one in batch(number)]
    assert len(set(flows)) == len(flows) == len(numbers) * BATCH


def test_ports_are_those_that_the_isp_counts() -> None:
    for number in (0, 235, 236 * (PORTS - 1), 236 * PORTS):
        for source, target in map(ports, batch(number)):
            assert 1024 <= source < 61440
            assert FIRST_PORT <= target < FIRST_PORT + PORTS


def test_headers_are_laid_out_as_the_kernel_has_them() -> None:
    if ctypes.sizeof(ctypes.c_void_p) == 8:
        assert (ctypes.sizeof(Msghdr), ctypes.sizeof(Mmsghdr)) == (56, 64)
