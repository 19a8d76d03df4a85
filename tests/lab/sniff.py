"""Wait for the first IPv6 packet whose source lies in a prefix, and say when it came.

Run by path:  python3 sniff.py INTERFACE PREFIX

Prints "ready" when it listens. After the first packet it prints its time of arrival as seconds of
CLOCK_MONOTONIC, which is the same for every process of the machine, and ends. The kernel compares
the prefix (a classic BPF program) and takes the time, so a busy machine does not blur it.
"""

import ctypes
import ipaddress
import socket
import struct
import sys
import time

ETH_P_IPV6 = 0x86DD
SO_ATTACH_FILTER = 26
SO_TIMESTAMPNS = 35
SOURCE = 8  # offset of the source address in the IPv6 header
LOAD_WORD, AND, JUMP_EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06


def program(network: ipaddress.IPv6Network) -> list[tuple[int, int, int, int]]:
    """A classic BPF program that accepts sources inside the network."""
    address = struct.unpack("!4I", network.network_address.packed)
    mask = struct.unpack("!4I", network.netmask.packed)
    words = [index for index in range(4) if mask[index]]
    code: list[tuple[int, int, int, int]] = []
    for place, index in enumerate(words):
        to_drop = 3 * (len(words) - place - 1) + 1
        code.append((LOAD_WORD, 0, 0, SOURCE + 4 * index))
        code.append((AND, 0, 0, mask[index]))
        code.append((JUMP_EQUAL, 0, to_drop, address[index]))
    return [*code, (RETURN, 0, 0, 0xFFFF), (RETURN, 0, 0, 0)]


def listen(interface: str, network: ipaddress.IPv6Network) -> socket.socket:
    """A packet socket that receives matching packets only."""
    receiver = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    code = b"".join(struct.pack("HBBI", *line) for line in program(network))
    buffer = ctypes.create_string_buffer(code)
    head = struct.pack("HL", len(code) // 8, ctypes.addressof(buffer))
    receiver.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, head)
    receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    receiver.bind((interface, ETH_P_IPV6))
    return receiver


def arrival(receiver: socket.socket) -> float:
    """Wait for one packet; its time of arrival on the monotonic clock."""
    _data, ancillary, _flags, _address = receiver.recvmsg(256, 256)
    offset = time.time_ns() - time.monotonic_ns()
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("qq", value[:16])
            return float(seconds * 1_000_000_000 + nanoseconds - offset) / 1e9
    return time.monotonic()


def main(interface: str, prefix: str) -> None:
    """Listen, say so, and print the time of the first packet."""
    receiver = listen(interface, ipaddress.IPv6Network(prefix))
    print("ready", flush=True)
    print(f"{arrival(receiver):.6f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
