"""ICMPv6 errors on the wire: their checksum, their second word, and the addresses they quote."""

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.lab import SERVER, Lab

from .pd import (
    ALL,
    ISP,
    NEEDS_ROOT,
    OLD,
    PORT,
    PYTHON,
    A,
    B,
    Echo,
    Router,
    ask,
    on,
    ping,
)

pytestmark = [*NEEDS_ROOT, on(ALL, scope="module")]

WIRE = str(Path(__file__).with_name("wire.py"))
UNREACHABLE, TOO_BIG, EXCEEDED, PROBLEM = 1, 2, 3, 4
ICMPV6, UDP = 58, 17
UPLINK = "2001:db8:ffff::2"
"""The router's own address on the uplink."""
NOBODY = "fd5e:ed00:1234::98"


@pytest.fixture
def lab(shared: Router) -> Lab:
    """Its network."""
    return shared.lab


class Message(NamedTuple):
    """An error as it was on the wire."""

    source: str
    target: str
    type: int
    code: int
    word: int  # bytes 4 to 7: the MTU, a pointer, or nothing but perhaps a length (RFC 4884)
    quoted_source: str
    quoted_target: str


def address(data: bytes) -> str:
    return str(IPv6Address(data))


def total(data: bytes) -> int:
    """The one's complement sum of its words (RFC 1071)."""
    words = (int.from_bytes(data[at : at + 2].ljust(2, b"\0")) for at in range(0, len(data), 2))
    return sum(words) % 0xFFFF


def read(packet: bytes) -> Message:
    """An error whose checksum is right."""
    message = packet[40 : 40 + int.from_bytes(packet[4:6])]
    pseudo_header = packet[8:40] + len(message).to_bytes(4) + bytes((0, 0, 0, ICMPV6))
    assert total(pseudo_header + message) == 0, f"wrong checksum: {packet.hex()}"
    return Message(
        address(packet[8:24]),
        address(packet[24:40]),
        *message[:2],
        int.from_bytes(message[4:8]),
        address(message[16:32]),
        address(message[32:48]),
    )


class Listener:
    """Sees the errors that come in at a host from now on."""

    def __init__(self, lab: Lab, host: str) -> None:
        interface = "wan" if host == "isp" else "eth0"
        self.lab = lab
        self.process = lab.start(host, [PYTHON, "-IS", WIRE, "errors", interface])
        self.process.wait_output("ready")
        self.seen = 0

    def next(self) -> Message:
        """The first one that was not asked for yet."""
        self.seen += 1
        self.lab.wait(lambda: self.process.output().count("\n") > self.seen, 5, "an error")
        return read(bytes.fromhex(self.process.output().split()[self.seen]))


# ---- what the router and LAN hosts send by themselves ----------------------------------------


@contextmanager
def undone(router: Router, do: str, undo: str) -> Iterator[None]:
    """Something on the router, for a while."""
    router.run("sh", "-c", do)
    try:
        yield
    finally:
        router.run("sh", "-c", undo)


REJECT = (
    "nft 'add table ip6 fw { chain c { type filter hook forward priority 0; "
    "udp dport 81 reject with icmpv6 type admin-prohibited; }; }'"
)


def test_errors_of_the_router_to_the_world(lab: Lab, shared: Router) -> None:
    """Mode rfc6296: SNPT translates what has an internal source, and the router has not. Mode
    netmap: conntrack lets it look as if the LAN host had sent them."""
    a, nobody = shared.outside(A), shared.outside(NOBODY)
    at_isp = Listener(lab, "isp")

    def right(kind: int, code: int, word: int = 0, about: str = A) -> None:
        external = shared.outside(about)
        source = external if shared.variant.tracked else UPLINK
        quoted = about if shared.variant.mode == "rfc6296" else external
        assert at_isp.next() == Message(source, ISP, kind, code, word, ISP, quoted)

    ping(lab, "isp", a, "-t1", "-W0.1")
    right(EXCEEDED, 0)
    with undone(shared, "ip link set lan0 mtu 1300", "ip link set lan0 mtu 1500"):
        ping(lab, "isp", a, "-s1400", "-Mdo", "-W0.1")
        right(TOO_BIG, 0, 1300)
        lab.run("isp", ["ip", "-6", "route", "flush", "cache"])
    lab.sysctl("router", "net.ipv6.neigh.lan0.retrans_time_ms", 50)
    ping(lab, "isp", nobody, "-W0.1")
    right(UNREACHABLE, 3, about=NOBODY)
    with undone(shared, REJECT, "nft delete table ip6 fw"):
        lab.run("isp", ["bash", "-c", f"echo >/dev/udp/{a}/81"])
        right(UNREACHABLE, 1)
    route = f"unreachable {A}/128"
    with undone(shared, f"ip -6 route add {route}", f"ip -6 route del {route}"):
        ping(lab, "isp", a, "-W0.1")
        right(UNREACHABLE, 0)


def test_errors_of_the_router_to_lan_hosts(lab: Lab, shared: Router) -> None:
    at_a, gateway = Listener(lab, "a"), "fd5e:ed00:1234::1"
    ping(lab, "a", SERVER, "-t1", "-W0.1")
    assert at_a.next() == Message(gateway, A, EXCEEDED, 0, 0, A, SERVER)
    with undone(shared, "ip link set eth0 mtu 1300", "ip link set eth0 mtu 1500"):
        ping(lab, "a", SERVER, "-s1400", "-Mdo", "-W0.1")
        assert at_a.next() == Message(gateway, A, TOO_BIG, 0, 1300, A, SERVER)
        lab.run("a", ["ip", "-6", "route", "flush", "cache"])


def test_errors_of_lan_hosts(lab: Lab, shared: Router) -> None:
    """A port is closed: to the world, around to another LAN host, around to the router."""
    a, b = shared.outside(A), shared.outside(B)
    at_isp, at_a = Listener(lab, "isp"), Listener(lab, "a")
    ask(lab, "isp", "udp", a)
    assert at_isp.next() == Message(a, ISP, UNREACHABLE, 4, 0, ISP, a)
    ask(lab, "a", "udp", b)
    assert at_a.next() == Message(b, A, UNREACHABLE, 4, 0, A, b)
    ask(lab, "a", "udp", a)
    assert at_a.next() == Message(a, A, UNREACHABLE, 4, 0, A, a)
    assert ask(lab, "router", "udp", a) == "failed: Connection refused"


# ---- every type, with every second word ------------------------------------------------------

WORDS = {
    "unreachable": (UNREACHABLE, 0),
    "unreachable with a length": (UNREACHABLE, 0x10000000),
    "too big": (TOO_BIG, 1400),
    "exceeded": (EXCEEDED, 0),
    "exceeded with a length": (EXCEEDED, 0x10000000),
    "a problem": (PROBLEM, 0x00000028),
}
BEYOND = {"too big for a jumbogram": (TOO_BIG, 0x00123456), "far behind": (PROBLEM, 0x00010028)}
"""About packets of more than 65,535 bytes (RFC 2675)."""
EXTENSION = bytes.fromhex("2000dfff00000000")
"""Some (RFC 4884 section 7); nobody reads it."""


def error(kind: int, word: int, source: str, target: str, ports: tuple[int, int]) -> str:
    """An ICMPv6 message about a datagram, in hex."""
    datagram = ports[0].to_bytes(2) + ports[1].to_bytes(2) + bytes((0, 88, 0xBE, 0xEF)) + b"x" * 80
    addresses = IPv6Address(source).packed + IPv6Address(target).packed
    quoted = bytes((0x60, 0, 0, 0, 0, 88, UDP, 64)) + addresses + datagram
    return (bytes((kind, 0, 0, 0)) + word.to_bytes(4) + quoted + EXTENSION).hex()


def send(lab: Lab, host: str, target: str, messages: list[str]) -> None:
    """Send all of them."""
    lab.run(host, [PYTHON, "-IS", WIRE, "send", target, *messages])


def test_errors_on_their_way_out(lab: Lab, shared: Router) -> None:
    a = shared.outside(A)
    Echo(lab, "a")
    assert ask(lab, "isp", "udp", a, source=5555) == "same"
    at_isp = Listener(lab, "isp")
    send(lab, "a", ISP, [error(*word, ISP, A, (5555, PORT)) for word in WORDS.values()])
    for name, (kind, word) in WORDS.items():
        assert at_isp.next() == Message(a, ISP, kind, 0, word, ISP, a), name


def test_errors_on_their_way_in(lab: Lab, shared: Router) -> None:
    a = shared.outside(A)
    Echo(lab, "isp")
    assert ask(lab, "a", "udp", SERVER, source=5556) == "same"
    at_a = Listener(lab, "a")
    send(lab, "isp", a, [error(*word, a, SERVER, (5556, PORT)) for word in WORDS.values()])
    for name, (kind, word) in WORDS.items():
        assert at_a.next() == Message(ISP, A, kind, 0, word, A, SERVER), name


def test_errors_on_their_way_around(lab: Lab, shared: Router) -> None:
    a, b = shared.outside(A), shared.outside(B)
    Echo(lab, "b")
    assert ask(lab, "a", "udp", b, source=5557) == "same"
    at_a = Listener(lab, "a")
    send(lab, "b", a, [error(*word, a, B, (5557, PORT)) for word in WORDS.values()])
    for name, (kind, word) in WORDS.items():
        assert at_a.next() == Message(b, A, kind, 0, word, A, b), name


def test_errors_about_jumbograms(lab: Lab, shared: Router) -> None:
    """Mode stateless takes their second word for zero in the other half: nobody believes them."""
    a = shared.outside(A)
    Echo(lab, "a")
    assert ask(lab, "isp", "udp", a, source=5558) == "same"
    at_isp = Listener(lab, "isp")
    send(lab, "a", ISP, [error(*word, ISP, A, (5558, PORT)) for word in BEYOND.values()])
    for name, (kind, word) in BEYOND.items():
        if shared.variant.mode == "stateless":
            with pytest.raises(AssertionError, match="wrong checksum"):
                at_isp.next()
        else:
            assert at_isp.next() == Message(a, ISP, kind, 0, word, ISP, a), name


def test_no_prefix_of_a_neighbour_is_rewritten(lab: Lab, shared: Router) -> None:
    """An error about somebody else's packet passes as it is, but for its own source."""
    a, neighbour = shared.outside(A), OLD.replace("4000::/58", "4000:40::7")
    at_isp = Listener(lab, "isp")
    send(lab, "a", ISP, [error(UNREACHABLE, 0, ISP, neighbour, (1, 2))])
    if shared.variant.tracked:
        ping(lab, "isp", a, "-t1", "-W0.1")
        assert at_isp.next().type == EXCEEDED, "what conntrack knows nothing of is not translated"
    else:
        assert at_isp.next() == Message(a, ISP, UNREACHABLE, 0, 0, ISP, neighbour)
