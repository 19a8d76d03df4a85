"""Where the kernel sends packets to one address, and whether it knows a neighbour by it:
rtnetlink(7) from a bare socket, in some microseconds."""

import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

HEADER, ROUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBBBBBI")
"""linux/netlink.h struct nlmsghdr, linux/rtnetlink.h struct rtmsg."""
NEIGHBOUR, HOP = struct.Struct("=BxxxiHBB"), struct.Struct("=HBBi")
"""linux/neighbour.h struct ndmsg, linux/rtnetlink.h struct rtnexthop."""
ATTRIBUTE = struct.Struct("=HH")
RTM_GETROUTE, RTM_NEWROUTE, RTM_GETNEIGH, RTM_NEWNEIGH = 26, 24, 30, 28
REQUEST = 1
RTA_DST, RTA_IIF, RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, NDA_DST = 1, 3, 4, 5, 9, 1
RTM_F_FIB_MATCH = 0x2000
"""The answer is the route, and not what is made of it for one packet: with its length, and with the
interface that a local address is on."""
UNICAST, LOCAL, ANYCAST = 1, 2, 4
"""rtm_type."""
LOOPBACK = 1
"""The index of lo (net/flow.h LOOPBACK_IFINDEX). Of routes by it only local ones do not reject
(fib6_is_reject in net/ipv6/route.c)."""
ALIVE = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80
"""ndm_state: reachable, stale, delay, probe, noarp, permanent; but not incomplete and failed."""
PATIENCE = 1.0


class Way(NamedTuple):
    """The route that a packet takes."""

    kind: int  # UNICAST, LOCAL, ANYCAST, or what rejects
    length: int  # of its prefix
    interfaces: tuple[int, ...]  # by which it may leave
    gateway: bool

    @property
    def own(self) -> bool:
        """The address is the router's own."""
        return self.kind in (LOCAL, ANYCAST)


class Fib:
    """A socket to ask with. Raises OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(PATIENCE)  # for the worst: the answer is there after the request
        self._number = 0

    def close(self) -> None:
        """Ask no more."""
        self._socket.close()

    def way(self, target: bytes, incoming: int) -> Way | None:
        """The route of packets to an address that come in by an interface; None for none, and for
        one that rejects."""
        body = (ROUTE.pack(socket.AF_INET6, 128, 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
                + ATTRIBUTE.pack(20, RTA_DST) + target
                + ATTRIBUTE.pack(8, RTA_IIF) + struct.pack("=i", incoming))
        answer = self._ask(RTM_GETROUTE, body, RTM_NEWROUTE)
        if answer is None:
            return None
        _, length, _, _, _, _, _, kind, _ = ROUTE.unpack_from(answer, HEADER.size)
        told = dict(_attributes(answer, HEADER.size + ROUTE.size))
        if RTA_MULTIPATH in told:
            hops = tuple(_hops(told[RTA_MULTIPATH]))
            return Way(kind, length, tuple(index for index, _ in hops), any(via for _, via in hops))
        out = int.from_bytes(told.get(RTA_OIF, b""), sys.byteorder)
        if out == LOOPBACK and kind != LOCAL:
            return None
        return Way(kind, length, (out,) if out else (), RTA_GATEWAY in told)

    def knows(self, target: bytes, interface: int) -> bool:
        """Whether there is a neighbour by that address on an interface's link, as far as the kernel
        has found out."""
        body = (NEIGHBOUR.pack(socket.AF_INET6, interface, 0, 0, 0)
                + ATTRIBUTE.pack(20, NDA_DST) + target)
        answer = self._ask(RTM_GETNEIGH, body, RTM_NEWNEIGH)
        if answer is None:
            return False
        _, _, state, _, _ = NEIGHBOUR.unpack_from(answer, HEADER.size)
        return bool(state & ALIVE)

    def _ask(self, kind: int, body: bytes, expected: int) -> bytes | None:
        """The answer; None for an error, which for both of these is "there is none"."""
        self._number = self._number % 0xFFFFFFFF + 1
        self._socket.send(HEADER.pack(HEADER.size + len(body), kind, REQUEST, self._number, 0)
                          + body)
        while True:
            answer = self._socket.recv(8192)
            _, found, _, number, _ = HEADER.unpack_from(answer)
            if number == self._number:
                return answer if found == expected else None


def _attributes(message: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + ATTRIBUTE.size <= len(message):
        length, kind = ATTRIBUTE.unpack_from(message, at)
        if length < ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, message[at + ATTRIBUTE.size:at + length]
        at += (length + 3) & ~3


def _hops(value: bytes) -> Iterator[tuple[int, bool]]:
    """(interface, whether by a gateway) of each next hop."""
    at = 0
    while at + HOP.size <= len(value):
        length, _, _, index = HOP.unpack_from(value, at)
        if length < HOP.size:
            return
        yield index, RTA_GATEWAY in dict(_attributes(value[:at + length], at + HOP.size))
        at += (length + 3) & ~3
