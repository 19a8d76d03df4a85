"""Packet sockets for neighbour discovery: packet(7)."""

import array
import socket
import struct
from typing import NamedTuple

ETH_P_IPV6 = 0x86DD
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_ALLMULTI = 263, 1, 2
SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
BUFFER = 8 << 20
"""Some thousand packets: they wait here while a pass is made."""
LARGEST = 2048
"""A solicitation has 72 octets."""
LINK_SCOPE, UNUSABLE = 0x20, 0x40 | 0x08
"""/proc/net/if_inet6: link-local; flags tentative and dadfailed."""

LOAD_BYTE, JUMP_EQUAL, JUMP_GREATER, RETURN = 0x30, 0x15, 0x25, 0x06
PACKET_TYPE = 0xFFFFF004
"""linux/filter.h: SKF_AD_OFF + SKF_AD_PKTTYPE."""
MULTICAST = 2
"""linux/if_packet.h: to us, broadcast, multicast; above are those to other hosts, and our own."""
FILTER = (
    (LOAD_BYTE, 0, 0, PACKET_TYPE), (JUMP_GREATER, 9, 0, MULTICAST),
    (LOAD_BYTE, 0, 0, 6), (JUMP_EQUAL, 0, 7, 58),    # next header: ICMPv6
    (LOAD_BYTE, 0, 0, 7), (JUMP_EQUAL, 0, 5, 255),   # hop limit
    (LOAD_BYTE, 0, 0, 40), (JUMP_EQUAL, 0, 3, 135),  # type: neighbour solicitation
    (LOAD_BYTE, 0, 0, 41), (JUMP_EQUAL, 0, 1, 0),    # code
    (RETURN, 0, 0, LARGEST),
    (RETURN, 0, 0, 0),
)  # fmt: skip
"""Classic BPF (Documentation/networking/filter.rst), over the IPv6 packet."""


class Received(NamedTuple):
    """An IPv6 packet, and the link-layer address of its sender; empty where links have none."""

    packet: bytes
    sender: bytes


class Ear:
    """Receives the neighbour solicitations on one link, whomever they are for, and answers there.
    Raises OSError; ENODEV for an interface that does not exist."""

    def __init__(self, interface: str) -> None:
        self.interface = interface
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_PACKET, kind, 0)
        try:
            _filter(self._socket)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            self._socket.bind((interface, ETH_P_IPV6))
            self.index = socket.if_nametoindex(interface)
            # They go to as many multicast groups as there are targets. Ends with the device.
            request = struct.pack("iHH8x", self.index, PACKET_MR_ALLMULTI, 0)
            self._socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        """Receive no more."""
        self._socket.close()

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    @property
    def bound(self) -> bool:
        """False once its interface has gone, or has another name: one of the same name that comes
        later is another one."""
        return bool(self._socket.getsockname()[0] == self.interface)

    @property
    def link_address(self) -> bytes:
        """The interface's own; empty where links have none, or not one of six octets."""
        found: bytes = self._socket.getsockname()[4]
        return found if len(found) == 6 else b""

    def receive(self) -> Received | None:
        """What came; None when nothing more waits. Raises OSError (ENETDOWN when the link goes
        down; once)."""
        try:
            packet, where = self._socket.recvfrom(LARGEST)
        except BlockingIOError:
            return None
        return Received(packet, where[4])

    def send(self, packet: bytes, receiver: bytes) -> None:
        """An IPv6 packet to a link-layer address. Raises OSError."""
        self._socket.sendto(packet, (self.interface, ETH_P_IPV6, 0, 0, receiver))


def _filter(sock: socket.socket) -> None:
    code = array.array("B", b"".join(struct.pack("HBBI", *line) for line in FILTER))
    place, _ = code.buffer_info()
    program = struct.pack("HP", len(FILTER), place)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def link_local(interface: str) -> bytes:
    """A link-local address of an interface; empty while there is none that can be used
    (/proc/net/if_inet6; that is of the process, and this of the thread, as sockets are)."""
    with open("/proc/thread-self/net/if_inet6", encoding="ascii") as file:
        for address, _, _, scope, flags, name in map(str.split, file):
            if name == interface and int(scope, 16) == LINK_SCOPE and not (
                    int(flags, 16) & UNUSABLE):
                return bytes.fromhex(address)
    return b""
