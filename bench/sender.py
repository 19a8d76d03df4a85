"""Send UDP packets, each of them a new flow, one by one. SIGTERM ends it and prints JSON.

Run by path:  python3 sender.py TARGET GAP SECONDS COUNT SOURCE...

Waits GAP seconds after each packet (0: as fast as one core can), and ends after SECONDS or COUNT
packets. The sources take turns and need not be addresses of the host. tests/lab/flows.py keeps to
a rate by small bursts; this one is for looking closely, and for as much as can be.
"""

import json
import signal
import socket
import struct
import sys
import time
from types import FrameType

FIRST_PORT, PORTS = 20000, 10000
SOURCE_PORTS = range(1024, 61024)
IPV6_CHECKSUM, IPV6_FREEBIND, CHECKSUM_OFFSET = 7, 78, 6
stopped = False


def stop(_signal: int, _frame: FrameType | None) -> None:
    """End the loop at its next turn."""
    global stopped
    stopped = True


def sender(source: str) -> socket.socket:
    """A raw UDP socket with that source; the kernel fills in the checksum."""
    raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_UDP)
    raw.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, CHECKSUM_OFFSET)
    raw.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    raw.bind((source, 0))
    return raw


def packet(number: int) -> bytes:
    """The datagram with that number; no two have the same ports."""
    port = FIRST_PORT + number // len(SOURCE_PORTS) % PORTS
    return struct.pack("!HHHHI", SOURCE_PORTS[number % len(SOURCE_PORTS)], port, 12, 0, 0)


def main(target: str, gap: str, seconds: str, count: str, *sources: str) -> None:
    """Send until told to stop."""
    signal.signal(signal.SIGTERM, stop)
    sockets, where = [sender(source) for source in sources], (target, 0)
    pause, most, sent = float(gap), int(count), 0
    print("ready", flush=True)
    begin = time.monotonic()
    number = first = int(begin * 1e6)  # none of the flows of a sender before this one
    until = begin + float(seconds)
    while not stopped and number - first < most and time.monotonic() < until:
        try:
            sockets[number % len(sockets)].sendto(packet(number), where)
            sent += 1
        except OSError:
            pass  # refused by this host's own kernel
        number += 1
        if pause:
            time.sleep(pause)
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - begin}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
