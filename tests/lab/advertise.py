"""Send one router advertisement (RFC 4861 section 4.2). Run by path inside a namespace:

    advertise.py INTERFACE ROUTER_LIFETIME PREFIX,PREFERRED,VALID ...

Each prefix is on-link and for autoconfiguration; lifetimes are seconds, 4294967295 is for ever.
"""

import socket
import struct
import sys
from ipaddress import IPv6Network

ROUTER_ADVERTISEMENT, PREFIX_INFORMATION = 134, 3
ON_LINK_AND_AUTONOMOUS = 0xC0
ALL_NODES = "ff02::1"


def prefix_option(text: str) -> bytes:
    """One prefix information option."""
    prefix, preferred, valid = text.split(",")
    network = IPv6Network(prefix)
    return struct.pack("!BBBBIII", PREFIX_INFORMATION, 4, network.prefixlen,
                       ON_LINK_AND_AUTONOMOUS, int(valid), int(preferred), 0) + (
        network.network_address.packed)


def main(interface: str, lifetime: str, *prefixes: str) -> None:
    """Send it to all nodes."""
    head = struct.pack("!BBHBBHII", ROUTER_ADVERTISEMENT, 0, 0, 64, 0, int(lifetime), 0, 0)
    raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    index = socket.if_nametoindex(interface)
    raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    raw.sendto(head + b"".join(map(prefix_option, prefixes)), (ALL_NODES, 0, 0, index))


if __name__ == "__main__":
    main(*sys.argv[1:])
