"""Neighbour solicitations as bytes, and what comes back. Written apart from pdreactor's own code.

Run by path:  python3 solicit.py INTERFACE ROUTER_MAC LAST HEX ...

Sends each IPv6 packet on the link, then LAST, and prints the neighbour advertisements that come in,
a line each: "host" or "all" (whom the frame is for), the sender's hardware address, the packet.
Ends with the one that has the target of LAST: who answers does so in the order of the questions, so
what was not answered by then never is. Without it, ends with 1 after some seconds.
"""

import ipaddress
import select
import socket
import struct
import sys
import time
from typing import NamedTuple

ETH_P_IPV6 = 0x86DD
OUTGOING = 4
PATIENCE = 5.0
UNSPECIFIED = "::"


class Advertisement(NamedTuple):
    """All fields of a neighbour advertisement (RFC 4861 section 4.4) and its IPv6 header."""

    label: int  # version, traffic class and flow label
    hop_limit: int
    source: str
    destination: str
    type: int
    code: int
    flags: int  # R, S, O and reserved bits
    target: str
    options: tuple[tuple[int, bytes], ...]
    checksum: bool  # it is right


def solicited_node(target: str) -> str:
    """RFC 4291 section 2.7.1."""
    low = int(ipaddress.IPv6Address(target)) & 0xFFFFFF
    return str(ipaddress.IPv6Address(int(ipaddress.IPv6Address("ff02::1:ff00:0")) | low))


def link_option(mac: str, kind: int = 1) -> bytes:
    """A link-layer address option."""
    return bytes((kind, 1)) + bytes.fromhex(mac.replace(":", ""))


def checksum(source: bytes, destination: bytes, body: bytes) -> int:
    """RFC 8200 section 8.1, word by word."""
    data = source + destination + struct.pack("!II", len(body), 58) + body
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(source: str, destination: str, body: bytes, hop_limit: int = 255) -> bytes:
    """An IPv6 packet with an ICMPv6 message, whose checksum is put there."""
    ends = ipaddress.IPv6Address(source).packed, ipaddress.IPv6Address(destination).packed
    body = body[:2] + bytes(2) + body[4:]
    body = body[:2] + struct.pack("!H", checksum(*ends, body)) + body[4:]
    return struct.pack("!IHBB", 6 << 28, len(body), 58, hop_limit) + b"".join(ends) + body


def solicitation(source: str, target: str, options: bytes = b"", *, destination: str = "",
                 hop_limit: int = 255, kind: int = 135, code: int = 0) -> bytes:
    """An IPv6 packet; the destination is the target's solicited-node address unless given."""
    body = struct.pack("!BBHI", kind, code, 0, 0) + ipaddress.IPv6Address(target).packed + options
    return packet(source, destination or solicited_node(target), body, hop_limit)


def advertisement(data: bytes) -> Advertisement:
    """The fields of one."""
    label, length, _, hops = struct.unpack_from("!IHBB", data)
    source, destination, body = data[8:24], data[24:40], data[40:]
    assert length == len(body), "the payload length is not that of the message"
    kind, code, _, flags = struct.unpack_from("!BBHI", body)
    options, at = [], 24
    while at < len(body):
        options.append((body[at], body[at + 2:at + 8 * body[at + 1]]))
        at += 8 * body[at + 1]
    right = checksum(source, destination, body) == 0
    words = [str(ipaddress.IPv6Address(one)) for one in (source, destination, body[8:24])]
    return Advertisement(label, hops, words[0], words[1], kind, code, flags, words[2],
                         tuple(options), right)


def receiver(data: bytes, router: bytes) -> bytes:
    """The hardware address that a packet is sent to."""
    return b"\x33\x33" + data[36:40] if data[24] == 0xFF else router


def main(interface: str, router: str, *packets: str) -> int:
    """Send and listen."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IPV6))
    link.bind((interface, ETH_P_IPV6))
    mac = bytes.fromhex(router.replace(":", ""))
    last, *others = map(bytes.fromhex, packets)
    for one in (*others, last):
        link.sendto(one, (interface, ETH_P_IPV6, 0, 0, receiver(one, mac)))
    deadline = time.monotonic() + PATIENCE
    while select.select([link], [], [], max(0.0, deadline - time.monotonic()))[0]:
        data, where = link.recvfrom(2048)
        if where[2] == OUTGOING or data[6] != 58 or data[40] != 136:
            continue
        print("host" if where[2] == 0 else "all", where[4].hex(":"), data.hex(), flush=True)
        if data[48:64] == last[48:64]:
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
