"""Neighbour solicitations and advertisements as bytes (RFC 4861 sections 4.3, 4.4 and 7). Pure.

Addresses are 16 octets here, and not ``IPv6Address``: there may be 10,000 packets a second.
"""

import struct
from typing import NamedTuple

UNSPECIFIED = bytes(16)
ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
ALL_NODES_MAC = bytes.fromhex("333300000001")
"""The same on Ethernet (RFC 2464 section 7)."""
SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")
"""The first 13 octets of a solicited-node multicast address (RFC 4291 section 2.7.1)."""
ICMPV6, HOP_LIMIT = 58, 255
SOLICITATION, ADVERTISEMENT = 135, 136
SOURCE_LINK_ADDRESS, TARGET_LINK_ADDRESS = 1, 2
ROUTER, SOLICITED = 0x80, 0x40
"""Flags R and S of an advertisement. O (0x20) is never set: a proxy must not outdo who has the
address itself (RFC 4861 section 7.2.8)."""
MULTICAST = 0xFF
IPV6 = struct.Struct("!IHBB16s16s")
"""Version, traffic class and flow label; payload length; next header; hop limit; addresses."""
MESSAGE = struct.Struct("!BBHI16s")
"""Type, code, checksum, flags or reserved, target."""
VERSION = 6 << 28
ONES = 0xFFFF
"""A sum in one's complement is one modulo this (RFC 1071)."""


class Solicitation(NamedTuple):
    """A valid one."""

    source: bytes  # UNSPECIFIED: somebody tries whether he may have the address
    target: bytes
    link_address: bytes  # the source link-layer address option; empty without

    @property
    def probe(self) -> bool:
        """Duplicate address detection (RFC 4862 section 5.4)."""
        return self.source == UNSPECIFIED


def solicitation(packet: bytes) -> Solicitation | None:
    """What an IPv6 packet asks for; None for one that is no solicitation, or that a node has to
    discard (RFC 4861 section 7.1.1; RFC 6980: no extension headers)."""
    if len(packet) < IPV6.size + MESSAGE.size:
        return None
    head, length, following, hops, source, destination = IPV6.unpack_from(packet)
    kind, code, _, _, target = MESSAGE.unpack_from(packet, IPV6.size)
    body = packet[IPV6.size:IPV6.size + length]
    if (head >> 28 != 6 or following != ICMPV6 or hops != HOP_LIMIT or kind != SOLICITATION or code
            or len(body) != length or length < MESSAGE.size or target[0] == MULTICAST
            or source[0] == MULTICAST or _sum(source, destination, body)):
        return None
    found = _link_address(body)
    if found is None or (source == UNSPECIFIED
                         and (found or destination != SOLICITED_NODE + target[13:])):
        return None
    return Solicitation(source, target, found)


def _link_address(body: bytes) -> bytes | None:
    """The first source link-layer address option, empty without; None for broken options. Options
    that are not known are passed over (RFC 4861 section 4.6)."""
    at, found = MESSAGE.size, b""
    while at < len(body):
        if at + 2 > len(body) or not (length := body[at + 1] * 8) or at + length > len(body):
            return None
        if body[at] == SOURCE_LINK_ADDRESS and not found:
            found = body[at + 2:at + length]
        at += length
    return found


def advertisement(asked: Solicitation, own: bytes, link_address: bytes) -> bytes:
    """The answer as an IPv6 packet (RFC 4861 section 7.2.4). ``own`` is an address of the interface
    that it leaves by, ``link_address`` the one of that; empty where links have none. Who asks
    without an address is answered at all nodes (RFC 4862 section 5.4.4)."""
    destination = ALL_NODES if asked.probe else asked.source
    flags = (ROUTER if asked.probe else ROUTER | SOLICITED) << 24
    option = link_address and bytes((TARGET_LINK_ADDRESS, 1)) + link_address
    body = MESSAGE.pack(ADVERTISEMENT, 0, 0, flags, asked.target) + option
    body = body[:2] + (-_sum(own, destination, body) % ONES).to_bytes(2, "big") + body[4:]
    return IPV6.pack(VERSION, len(body), ICMPV6, HOP_LIMIT, own, destination) + body


def _sum(source: bytes, destination: bytes, body: bytes) -> int:
    """The sum of message and pseudo-header (RFC 8200 section 8.1), modulo ``ONES``: 0 when the
    checksum in it is right. 2**16 % 0xffff is 1, so a number modulo 0xffff is the sum of its words;
    no body is of odd length, for options are not."""
    return (int.from_bytes(source + destination + body, "big") + len(body) + ICMPV6) % ONES
