"""ICMPv6 errors as they are on a link. Run by path inside a namespace.

    wire.py errors INTERFACE        print each ICMPv6 error that comes in, an IPv6 packet in hex
    wire.py send TARGET HEX ...     send each ICMPv6 message; the kernel puts its checksum there
"""

import socket
import sys

ETH_P_IPV6 = 0x86DD
OUTGOING = 4
NEXT_HEADER, ICMPV6, TYPE = 6, 58, 40
ERRORS = range(1, 5)


def errors(interface: str) -> None:
    """Listen until killed."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IPV6))
    link.bind((interface, ETH_P_IPV6))
    print("ready", flush=True)
    while True:
        packet, where = link.recvfrom(2048)
        error = packet[NEXT_HEADER] == ICMPV6 and packet[TYPE] in ERRORS
        if error and where[2] != OUTGOING:
            print(packet.hex(), flush=True)


def send(target: str, *messages: str) -> None:
    """One after the other."""
    raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    for message in messages:
        raw.sendto(bytes.fromhex(message), (target, 0))


if __name__ == "__main__":
    {"errors": errors, "send": send}[sys.argv[1]](*sys.argv[2:])
