"""Ask for random addresses of a /64 by neighbour solicitations, and judge the answers. Run by path
on the upstream router:

    python3 solicitor.py INTERFACE ROUTER_MAC NETWORK ROUTED RATE SECONDS

One half of the targets is in ROUTED, the other anywhere else in NETWORK. Prints JSON: how many were
asked for, the seconds that took, and how many answers were missing, wrong (not for who asked, or
with other fields than RFC 4861 wants) or unwanted (for what has no route).
"""

import ipaddress
import json
import random
import select
import socket
import struct
import sys
import time

ETH_P_IPV6 = 0x86DD
SO_RCVBUFFORCE = 33
BUFFER = 32 << 20
SOURCE = ipaddress.IPv6Address("fe80::5011").packed
MAC = bytes.fromhex("02000000ee02")
BATCH = 0.001
GRACE = 1.5
"""Seconds to wait for the last answers."""
ROUTER_SOLICITED = 0xC0000000
"""Flags R and S, not O."""


def checksum(source: bytes, destination: bytes, body: bytes) -> int:
    """RFC 8200 section 8.1."""
    data = source + destination + struct.pack("!II", len(body), 58) + body
    return -int.from_bytes(data, "big") % 0xFFFF


def solicitation(target: bytes) -> bytes:
    """An IPv6 packet."""
    destination = bytes.fromhex("ff0200000000000000000001ff") + target[13:]
    body = bytearray(struct.pack("!BBHI", 135, 0, 0, 0) + target + b"\1\1" + MAC)
    body[2:4] = struct.pack("!H", checksum(SOURCE, destination, body))
    return struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + SOURCE + destination + bytes(body)


def targets(network: ipaddress.IPv6Network, routed: ipaddress.IPv6Network,
            count: int) -> list[bytes]:
    """In turn one that is routed and one that is not."""
    found = set()
    while len(found) < count:
        among = routed if len(found) % 2 else network
        address = among[random.randrange(16, among.num_addresses - 16)]
        if (address in routed) == bool(len(found) % 2):
            found.add(address)
    return [one.packed for one in found]


def right(packet: bytes, router: bytes) -> bool:
    """All that RFC 4861 sections 4.4 and 7.2.4 say of an answer of a proxy."""
    label, length, following, hops = struct.unpack_from("!IHBB", packet)
    source, body = packet[8:24], packet[40:]
    return (label == 6 << 28 and length == len(body) == 32 and following == 58 and hops == 255
            and source[:2] == b"\xfe\x80" and packet[24:40] == SOURCE and body[1] == 0
            and struct.unpack_from("!I", body, 4)[0] == ROUTER_SOLICITED
            and body[24:] == b"\2\1" + router and checksum(source, SOURCE, body) == 0)


def main(interface: str, mac: str, network: str, routed: str, rate: str, seconds: str) -> None:
    """Do it."""
    number, part = int(float(rate) * float(seconds)), ipaddress.IPv6Network(routed)
    asked = targets(ipaddress.IPv6Network(network), part, number)
    packets = [(solicitation(one), b"\x33\x33\xff" + one[13:]) for one in asked]
    missing = {one for one in asked if ipaddress.IPv6Address(one) in part}
    wrong = unwanted = 0
    router = bytes.fromhex(mac.replace(":", ""))
    link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
    link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    link.bind((interface, ETH_P_IPV6))
    print("ready", flush=True)
    begin, sent, end = time.monotonic(), 0, 0.0
    while not end or time.monotonic() < end + GRACE:
        due = min(number, int((time.monotonic() - begin) * float(rate)) + 1)
        for packet, receiver in packets[sent:due]:
            link.sendto(packet, (interface, ETH_P_IPV6, 0, 0, receiver))
        if due == number and not end:
            end = time.monotonic()
        sent = due
        select.select([link], [], [], BATCH)
        while True:
            try:
                answer, where = link.recvfrom(2048)
            except BlockingIOError:
                break
            if where[2] == 4 or answer[6] != 58 or answer[40] != 136:
                continue
            target = answer[48:64]
            wrong += not right(answer, router) or where[4] != router
            unwanted += ipaddress.IPv6Address(target) not in part
            missing.discard(target)
        if end and not missing and time.monotonic() > end + BATCH:
            break
    print(json.dumps({"asked": number, "seconds": end - begin, "missing": len(missing),
                      "wrong": wrong, "unwanted": unwanted}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
