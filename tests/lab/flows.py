"""Traffic for test networks. Run by path inside a namespace; SIGTERM ends each and prints JSON.

    flows.py new SOURCE TARGET RATE [SECONDS]   every UDP packet is a new flow
    flows.py running TARGET INTERVAL_MS [SOURCE]    one UDP flow, answered by ``echo``
    flows.py echo ADDRESS                       answers each datagram with the source it saw

``new`` sends to ports 20000 and up and never repeats a 5-tuple: 60,000 source ports for each
destination port. It keeps to its rate on average, with small bursts when it was held up.
"""

import json
import select
import signal
import socket
import struct
import sys
import time
from types import FrameType

FIRST_PORT, LAST_PORT = 20000, 29999
ECHO_PORT = 7777
SOURCE_PORTS = range(1024, 61024)
IPV6_CHECKSUM = 7
CHECKSUM_OFFSET = 6
BURST = 64
TICK = 0.0005
LINGER = 0.5

stopped = False


def stop(_signal: int, _frame: FrameType | None) -> None:
    """End the loops below at their next turn."""
    global stopped
    stopped = True


def ports(number: int) -> tuple[int, int]:
    """Source and destination port of the packet with that number."""
    return (
        SOURCE_PORTS[number % len(SOURCE_PORTS)],
        FIRST_PORT + number // len(SOURCE_PORTS) % (LAST_PORT - FIRST_PORT + 1),
    )


def sender(source: str) -> socket.socket:
    """A raw UDP socket; the kernel fills in the checksum."""
    raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_UDP)
    raw.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, CHECKSUM_OFFSET)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    raw.bind((source, 0))
    return raw


def send_one(raw: socket.socket, target: tuple[str, int], number: int) -> bool:
    """Send the packet with that number; False when the network did not take it."""
    datagram = struct.pack("!HHHHI", *ports(number), 12, 0, number & 0xFFFFFFFF)
    try:
        raw.sendto(datagram, target)
    except OSError:
        return False
    return True


def send_new(source: str, target: str, rate: float, seconds: float) -> dict[str, float]:
    """Send packets of new flows at a rate until time is up or SIGTERM came."""
    raw, where = sender(source), (target, 0)
    begin = time.monotonic()
    number = sent = 0
    while not stopped and (elapsed := time.monotonic() - begin) < seconds:
        for _ in range(min(int(elapsed * rate) - number, BURST)):
            sent += send_one(raw, where, number)
            number += 1
        time.sleep(TICK)
    return {"sent": sent, "refused": number - sent, "seconds": time.monotonic() - begin}


class Running:
    """One numbered UDP flow and what the echo server said about it."""

    def __init__(self, target: str, source: str) -> None:
        """Connect, so that there is one flow only."""
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.socket.bind((source, 0))
        self.socket.connect((target, ECHO_PORT))
        self.sent = 0
        self.answers: dict[int, str] = {}

    def send(self) -> None:
        """Send the next number; what is refused on the way counts as lost."""
        try:
            self.socket.send(b"%d" % self.sent)
        except OSError:
            pass
        self.sent += 1

    def receive(self, until: float) -> None:
        """Take answers until that time."""
        while (left := until - time.monotonic()) > 0:
            if not select.select([self.socket], [], [], left)[0]:
                return
            try:
                number, source = self.socket.recv(200).decode().split()
                self.answers[int(number)] = source
            except OSError:
                pass  # an ICMPv6 error is the answer: lost

    def report(self) -> dict[str, object]:
        """What was sent, what was lost, and the sources in the order they were first seen."""
        order = [self.answers[number] for number in sorted(self.answers)]
        return {
            "sent": self.sent,
            "lost": [number for number in range(self.sent) if number not in self.answers],
            "sources": {source: order.count(source) for source in dict.fromkeys(order)},
        }


def run_flow(target: str, interval: float, source: str) -> dict[str, object]:
    """One datagram each interval until SIGTERM; waits a moment for the last answers."""
    flow = Running(target, source)
    due = time.monotonic()
    while not stopped:
        flow.send()
        due += interval
        flow.receive(due)
    flow.receive(time.monotonic() + LINGER if flow.sent > len(flow.answers) else 0)
    return flow.report()


def echo(address: str) -> dict[str, int]:
    """Answer each datagram with its text and its source; returns how often which was seen."""
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.bind((address, ECHO_PORT))
    seen: dict[str, int] = {}
    print("ready", flush=True)
    while not stopped:
        if not select.select([server], [], [], 0.1)[0]:
            continue
        data, source = server.recvfrom(200)
        seen[source[0]] = seen.get(source[0], 0) + 1
        try:
            server.sendto(data + b" " + source[0].encode(), source)
        except OSError:
            pass  # no way back to such a source: the sender sees a loss
    return seen


def main(mode: str, *rest: str) -> None:
    """Run one mode and print its report."""
    signal.signal(signal.SIGTERM, stop)
    report: object
    if mode == "new":
        source, target, rate, *seconds = rest
        report = send_new(source, target, float(rate), float(seconds[0] if seconds else "inf"))
    elif mode == "running":
        target, interval, *sources = rest
        report = run_flow(target, float(interval) / 1000, sources[0] if sources else "::")
    else:
        report = echo(rest[0])
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
