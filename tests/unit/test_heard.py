"""What the watcher hears, from bytes: netlink notifications and dhcpcd's control socket."""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdreactor.kernel import dhcpcd, netlink, notices, systemd
from pdreactor.kernel.notices import Interest, News, Notices

INTEREST = Interest(frozenset({"wan0"}), 157, frozenset({201, 15700}), frozenset({"pdreactor"}))
RULES, LINK, NOTHING = News(rules=True), News(link=True), News()


class Bare(Notices):
    """Without sockets."""

    def __init__(self) -> None:
        self.interest, self._links = INTEREST, {}


def attribute(kind: int, value: bytes) -> bytes:
    padded = value + b"\0" * (-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + padded


def route(length: int, table: int, protocol: int, kind: int = 1, flags: int = 0) -> bytes:
    return struct.pack("=BBBBBBBBI", socket.AF_INET6, length, 0, 0, table, protocol, 0, kind, flags)


@pytest.mark.parametrize(
    ("payload", "news"),
    [
        (route(64, 254, 157), RULES),  # ours, wherever
        (route(0, 201, 3), RULES),  # in a table of ours
        (route(0, 252, 3), RULES),  # in a table whose number is too large for the header
        (route(0, 254, 9), LINK),  # a default route of main: gateways are learned from it
        (route(48, 254, 16, 7), RULES),  # dhcpcd's unreachable route
        (route(48, 254, 186), NOTHING),  # of a full routing table
        (route(0, 99, 4), NOTHING),
        (route(128, 201, 157, 1, 0x200), NOTHING),  # a cache entry
    ],
)
def test_routes(payload: bytes, news: News) -> None:
    assert Bare()._route(24, payload) == news
    assert Bare()._route(25, payload) == news


def test_rules_of_anybody_count() -> None:
    assert Bare()._route(32, route(0, 254, 0)) == RULES
    assert Bare()._route(28, b"\0" * 12) == NOTHING  # a neighbour


def link(name: str, index: int = 7, flags: int = 0x41) -> bytes:
    return struct.pack("=BxHiII", 0, 1, index, flags, 0) + attribute(3, name.encode() + b"\0")


def address(family: int) -> bytes:
    return struct.pack("=BBBBI", family, 64, 0, 0, 1)  # on lo, which is no uplink


def test_with_a_layout_every_link_and_address_counts() -> None:
    heard = Bare()
    assert heard._route(20, address(socket.AF_INET6)) == NOTHING
    assert heard._route(20, address(socket.AF_INET)) == NOTHING
    heard.interest = INTEREST._replace(everywhere=True)
    for family in (socket.AF_INET, socket.AF_INET6):
        assert heard._route(20, address(family)) == heard._route(21, address(family)) == LINK
    assert heard._route(24, route(64, 254, 2)) == LINK  # of an advertisement
    assert heard._route(24, route(48, 254, 186)) == NOTHING
    taken = struct.pack("=BBBBI", socket.AF_INET6, 64, 0x08, 0, 1) + attribute(1, bytes(15) + b"\1")
    assert heard._route(21, taken) == News(duplicate="::1 on lo")
    assert heard._route(20, taken) == LINK
    assert heard._route(16, link("vif1", index=9)) == LINK
    assert heard._route(16, link("vif1", index=9)) == NOTHING
    assert heard._route(17, link("vif1", index=9)) == LINK


def test_a_link_counts_when_its_state_changes() -> None:
    heard = Bare()
    assert heard._route(16, link("wan0")) == LINK
    assert heard._route(16, link("wan0")) == NOTHING  # the same again, with other figures
    assert heard._route(16, link("wan0", flags=0x1)) == LINK
    assert heard._route(16, link("lan0", index=8)) == NOTHING
    assert heard._route(16, link("old0")) == LINK  # renamed: it is not there any more
    assert heard._route(16, link("wan0")) == LINK
    assert heard._route(17, link("wan0")) == LINK
    assert heard._route(17, link("lan0", index=8)) == NOTHING


def nft(message: int, *attributes: bytes, family: int = socket.AF_INET6) -> tuple[int, bytes]:
    return 10 << 8 | message, struct.pack("=BBH", family, 0, 0) + b"".join(attributes)


def test_nftables_counts_where_our_rules_are() -> None:
    heard, ours = Bare(), attribute(1, b"pdreactor\0")
    assert heard._nftables(*nft(2, ours)) == RULES
    assert heard._nftables(*nft(7, attribute(1, b"others\0"))) == NOTHING
    assert heard._nftables(*nft(7, ours, family=socket.AF_INET)) == NOTHING
    assert heard._nftables(1 << 8, b"\x0a\0\0\0" + ours) == NOTHING  # of conntrack


def test_who_changed_it_is_named() -> None:
    made = attribute(2, struct.pack("!I", 4711)) + attribute(3, b"nft\0")
    assert Bare()._nftables(*nft(15, made)) == News(by="nft (process 4711)")
    own = attribute(2, struct.pack("!I", os.getpid())) + attribute(3, b"python3\0")
    assert Bare()._nftables(*nft(15, own)) == NOTHING


@given(st.binary(max_size=200))
def test_no_datagram_ends_it(data: bytes) -> None:
    for kind, payload in notices._split(data):
        assert 0 <= kind < 1 << 16
        list(netlink.attributes(payload, 4))


# ---- dhcpcd ------------------------------------------------------------------------------------


class Server:
    """Stands for dhcpcd's end of a control socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(str(path))
        self.socket.listen()
        self.asked = b""

    def accept(self) -> socket.socket:
        end, _ = self.socket.accept()
        self.asked = end.recv(100)
        return end


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "sock")
    yield server
    server.socket.close()


def frame(block: bytes) -> bytes:
    return struct.pack("@N", len(block)) + block


def test_events_come_in_pieces_and_together(server: Server, tmp_path: Path) -> None:
    stream = dhcpcd.Stream(str(tmp_path / "sock"), held=False)
    end = server.accept()
    assert server.asked == b"--listen\n\0"
    assert stream.read() == ([], True)
    first, second = frame(b"reason=BOUND6\0"), frame(b"reason=RENEW6\0")
    end.send(first[:11])
    assert stream.read() == ([], True)
    end.send(first[11:] + second)
    assert stream.read() == ([b"reason=BOUND6\0", b"reason=RENEW6\0"], True)
    end.send(first)
    end.close()
    assert stream.read() == ([b"reason=BOUND6\0"], False)


def test_what_is_held_has_a_number_and_an_end(server: Server, tmp_path: Path) -> None:
    stream = dhcpcd.Stream(str(tmp_path / "sock"), held=True)
    end = server.accept()
    assert server.asked == b"--getinterfaces\n\0"
    end.send(struct.pack("@N", 2) + frame(b"a=1\0"))
    assert stream.read() == ([b"a=1\0"], True)
    end.send(frame(b"b=2\0"))
    assert stream.read() == ([b"b=2\0"], False)


def test_nothing_held(server: Server, tmp_path: Path) -> None:
    stream = dhcpcd.Stream(str(tmp_path / "sock"), held=True)
    server.accept().send(struct.pack("@N", 0))
    assert stream.read() == ([], False)


def test_who_sends_without_end_is_left(server: Server, tmp_path: Path) -> None:
    stream = dhcpcd.Stream(str(tmp_path / "sock"), held=False)
    end = server.accept()
    data = struct.pack("@N", 1 << 40) + b"x" * (2 << 20)

    def send() -> None:
        with suppress(OSError):  # when it is left
            end.sendall(data)

    threading.Thread(target=send, daemon=True).start()
    open_ = True
    while open_:
        blocks, open_ = stream.read()
        assert blocks == []
    stream.close()


def test_the_unprivileged_socket_is_preferred(tmp_path: Path) -> None:
    for name in ("sock", "unpriv.sock", "eth0-6.sock", "eth0-6.unpriv.sock", "eth1.sock", "pid"):
        (tmp_path / name).touch()
    assert dhcpcd.paths(str(tmp_path)) == {
        str(tmp_path / name) for name in ("unpriv.sock", "eth0-6.unpriv.sock", "eth1.sock")}
    assert dhcpcd.paths(str(tmp_path / "missing")) == set()


# ---- the service manager -----------------------------------------------------------------------


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (str(tmp_path / "notify"), f"@pdreactor-test-{os.getpid()}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address.replace("@", "\0"))
            monkeypatch.setenv("NOTIFY_SOCKET", address)
            systemd.notify("READY=1", "STATUS=all in place")
            assert manager.recv(100) == b"READY=1\nSTATUS=all in place"
    systemd.notify("READY=1")  # nobody there
    monkeypatch.delenv("NOTIFY_SOCKET")
    systemd.notify("READY=1")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [({}, None), ({"WATCHDOG_USEC": "120000000"}, 120.0), ({"WATCHDOG_USEC": "x"}, None),
     ({"WATCHDOG_USEC": "0"}, None), ({"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}, None)],
)  # fmt: skip
def test_the_watchdog(
    environment: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert systemd.watchdog() == seconds
