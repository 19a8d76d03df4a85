"""Send UDP packets, each of them a new flow, as many as one core can. Prints JSON at its end.

Run by path:  python3 burst.py INTERFACE NEXT_HOP_MAC SOURCE TARGET COUNT SECONDS

Whole frames go out by sendmmsg(2), BATCH at a time, past this host's routing. Between two batches
a few bytes of all frames are replaced at once, so Python costs some nanoseconds a packet, and the
whole sender a third of what it takes a router to forward one.

veth has no thread of its own: the kernel forwards each packet, through every namespace of the same
machine, before sendmmsg(2) returns. So "cpu", the seconds that this thread had a core for, is the
time of sending and of forwarding, and what else runs on the machine hardly changes it.
"""

import ctypes
import json
import socket
import struct
import sys
import time
from collections.abc import Iterator

BATCH = 256  # frames: the low byte of their source ports
HIGH_BYTES = range(4, 240)  # of source ports: 1024 to 61439
FIRST_PORT, PORTS = 20000, 10000
UDP, HOP_LIMIT, LENGTH = 17, 64, 12
ETHERNET, IPV6 = 14, 40
SOURCE_PORT, TARGET_PORT, AGAINST_SOURCE, AGAINST_TARGET = (
    ETHERNET + IPV6 + offset for offset in (0, 2, 8, 10))
"""Two words of ports, and as payload the complement of each: so the checksum is always the same."""


class Iovec(ctypes.Structure):
    """struct iovec."""

    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Msghdr(ctypes.Structure):
    """struct msghdr."""

    _fields_ = [("name", ctypes.c_void_p), ("namelen", ctypes.c_uint32),
                ("iov", ctypes.POINTER(Iovec)), ("iovlen", ctypes.c_size_t),
                ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t),
                ("flags", ctypes.c_int)]


class Mmsghdr(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = [("header", Msghdr), ("sent", ctypes.c_uint)]


def checksum(data: bytes) -> int:
    """RFC 1071; never the zero that means "none" (RFC 8200 section 8.1)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (0xFFFF - total) or 0xFFFF


def frame(own_mac: bytes, next_hop: bytes, source: str, target: str) -> bytes:
    """A frame with ports of 0."""
    addresses = b"".join(socket.inet_pton(socket.AF_INET6, text) for text in (source, target))
    ports = struct.pack("!HH", 0, 0)
    payload = struct.pack("!HH", 0xFFFF, 0xFFFF)
    pseudo = addresses + struct.pack("!II", LENGTH, UDP)
    correct = checksum(pseudo + ports + struct.pack("!HH", LENGTH, 0) + payload)
    header = struct.pack("!IHBB", 6 << 28, LENGTH, UDP, HOP_LIMIT)
    return (next_hop + own_mac + b"\x86\xdd" + header + addresses + ports
            + struct.pack("!HH", LENGTH, correct) + payload)


class Batch:
    """BATCH frames behind each other, and the headers that sendmmsg(2) takes them by."""

    def __init__(self, one: bytes) -> None:
        self.step = len(one)
        self.frames = bytearray(one * BATCH)
        self._fill = [bytes([value]) * BATCH for value in range(256)]
        self._put(SOURCE_PORT + 1, AGAINST_SOURCE + 1, bytes(range(BATCH)))
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.frames))
        self._vectors = (Iovec * BATCH)(
            *(Iovec(start + number * self.step, self.step) for number in range(BATCH)))
        self.headers = (Mmsghdr * BATCH)()
        for header, vector in zip(self.headers, self._vectors, strict=True):
            header.header.iov, header.header.iovlen = ctypes.pointer(vector), 1

    def number(self, number: int) -> None:
        """Set the ports of the batch with that number; no two batches have the same."""
        port = FIRST_PORT + number // len(HIGH_BYTES) % PORTS
        self._put(SOURCE_PORT, AGAINST_SOURCE, self._fill[HIGH_BYTES[number % len(HIGH_BYTES)]])
        self._put(TARGET_PORT, AGAINST_TARGET, self._fill[port >> 8])
        self._put(TARGET_PORT + 1, AGAINST_TARGET + 1, self._fill[port & 0xFF])

    def __iter__(self) -> Iterator[bytes]:
        return (bytes(self.frames[at:at + self.step])
                for at in range(0, len(self.frames), self.step))

    def _put(self, at: int, against: int, values: bytes) -> None:
        """One byte of each frame, and its complement."""
        self.frames[at::self.step] = values
        self.frames[against::self.step] = values.translate(COMPLEMENT)


COMPLEMENT = bytes(range(255, -1, -1))


def send(interface: str, next_hop: str, source: str, target: str, count: int,
         seconds: float) -> dict[str, float]:
    """Send until ``count`` packets are out, or time is up."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    raw.bind((interface, 0))
    own_mac = raw.getsockname()[4]
    batch = Batch(frame(own_mac, bytes.fromhex(next_hop.replace(":", "")), source, target))
    sendmmsg, file, headers = ctypes.CDLL(None).sendmmsg, raw.fileno(), batch.headers
    begin, cpu = time.monotonic(), time.thread_time()
    number = int(begin * 4000)  # none of the flows of a burst before this one
    sent, until = 0, begin + seconds
    while sent < count and time.monotonic() < until:
        batch.number(number)
        number += 1
        sent += max(sendmmsg(file, headers, BATCH, 0), 0)
    return {"sent": sent, "seconds": time.monotonic() - begin, "cpu": time.thread_time() - cpu}


if __name__ == "__main__":
    interface, next_hop, source, target, count, seconds = sys.argv[1:]
    print(json.dumps(send(interface, next_hop, source, target, int(count), float(seconds))))
