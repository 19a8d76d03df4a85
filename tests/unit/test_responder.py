"""Who is answered for, and how often: the parts of the responder that need no network, and its
limits in a network of its own."""

import math
import select
import socket
import subprocess
import time
from ipaddress import IPv6Address, IPv6Network
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdreactor.errors import KernelError
from pdreactor.kernel.fib import Fib
from pdreactor.kernel.packet import ETH_P_IPV6
from pdreactor.layout import responder
from pdreactor.layout.config import plans_of
from pdreactor.layout.draft import answering
from pdreactor.layout.model import Answering, Mapped, Plans, Proxy
from pdreactor.layout.ndp import Solicitation
from pdreactor.layout.responder import SENDERS, Bucket, Responder, _Among, _internal, _Post
from pdreactor.model import ONLINK
from pdreactor.npt import translate
from tests.lab import solicit

from .namespace import in_new_network, needs_root
from .values import NOW, WAN, after, config, reply, told

N = IPv6Network
NETWORKS = st.builds(lambda number, length: N((number >> 128 - length << 128 - length, length)),
                     st.integers(0, (1 << 128) - 1), st.integers(1, 128))


@given(st.lists(NETWORKS, max_size=8), st.data())
def test_the_longest_network_with_an_address_is_found(networks: list[N], data: st.DataObject,
                                                      ) -> None:
    among = _Among((one, one) for one in networks)
    inside = [int(one.network_address) for one in networks] + [int(one.broadcast_address)
                                                              for one in networks]
    number = data.draw(st.integers(0, (1 << 128) - 1) | st.sampled_from(inside or [0]))
    holding = [one for one in networks if IPv6Address(number) in one]
    assert among.find(number) == max(holding, key=lambda one: one.prefixlen, default=None)


@pytest.mark.parametrize("mode", ["netmap", "stateless", "rfc6296"])
def test_the_host_behind_an_external_address(mode: str) -> None:
    inside, outside = N("fd5e:ed00:1234::/64"), N("2001:db8:ffff::/64")
    host = IPv6Address("fd5e:ed00:1234::1:2:3")
    external = IPv6Address("2001:db8:ffff::1:2:3")
    if mode == "rfc6296":
        external = translate(host, inside, outside)
    assert _internal(external.packed, Mapped(outside, inside, mode)) == host.packed


def test_an_address_that_rfc_6296_cannot_translate_has_no_host() -> None:
    pair = Mapped(N("2001:db8:ffff::/64"), N("fd5e:ed00:1234::/64"), "rfc6296")
    assert _internal(pair.external.broadcast_address.packed, pair) == b""


# ---- limits --------------------------------------------------------------------------------------


def test_a_bucket_allows_its_rate_and_no_more() -> None:
    begin = time.monotonic()
    bucket = Bucket(10, begin)
    assert sum(bucket.take(begin) for _ in range(100)) == 10
    assert sum(bucket.take(begin + 0.5) for _ in range(100)) == 5
    assert sum(bucket.take(begin + 100) for _ in range(100)) == 10


def asked(source: int, target: int = 0) -> Solicitation:
    return Solicitation(source.to_bytes(16, "big"), target.to_bytes(16, "big"), b"")


def test_one_sender_does_not_take_what_others_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responder, "FOR_ONE", 10)
    post = _Post(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    now = time.monotonic()
    assert sum(post._allowed(asked(1), now) for _ in range(100)) == 10
    assert sum(post._allowed(asked(2), now) for _ in range(5)) == 5


def test_what_is_remembered_of_senders_is_bounded() -> None:
    post = _Post(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    for number in range(1, 3 * SENDERS):
        post._allowed(asked(number), time.monotonic())
        assert len(post._senders) <= SENDERS


def test_an_address_that_has_asked_on_the_link_is_there_for_a_while() -> None:
    post = _Post(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    now = time.monotonic()
    assert post._allowed(asked(7), now)
    assert not post._allowed(asked(1, target=7), now + responder.RECENT - 1)
    assert post._allowed(asked(1, target=7), now + responder.RECENT + 1)


def ip(*lines: str) -> None:
    subprocess.run(["ip", "-6", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def link() -> socket.socket:
    """The far end of a link "near", behind which there is a route to 2001:db8::/64."""
    ip("link add near type veth peer name far", "link add lan type veth peer name host",
       "link set near addrgenmode none", "link set near up", "link set far up", "link set lan up",
       "link set host up", "addr add fe80::1/64 dev near nodad", "route add 2001:db8::/64 dev lan")
    far = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IPV6))
    far.bind(("far", ETH_P_IPV6))
    return far


def ask(far: socket.socket, number: int, source: str = "fe80::2") -> None:
    for _ in range(number):
        packet = solicit.solicitation(source, "2001:db8::5", solicit.link_option(
            "02:00:00:00:00:02"))
        far.sendto(packet, ("far", ETH_P_IPV6, 0, 0, bytes.fromhex("3333ff000005")))


def answers(far: socket.socket) -> int:
    """Advertisements that wait."""
    found = 0
    while select.select([far], [], [], 0)[0]:
        packet, where = far.recvfrom(2048)
        found += where[2] != 4 and packet[6] == 58 and packet[40] == 136 \
            and packet[48:64] == IPv6Address("2001:db8::5").packed
    return found


ALL = [Answering("near", (N("2001:db8::/64"),))]


@needs_root
def test_too_many_are_left_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing wakes the process, and after the pause it goes on."""
    monkeypatch.setattr(responder, "FOR_ALL", 50)
    monkeypatch.setattr(responder, "PAUSE", 0.3)

    def flood() -> None:
        far, server = link(), Responder()
        server.update(ALL)
        ask(far, 500)
        while server.due == math.inf:
            assert select.select([server], [], [], 5)[0]
            server.read()
        assert 50 <= answers(far) < 100
        assert not select.select([server], [], [], 0)[0]
        server.update([])  # whatever happens meanwhile
        server.update(ALL)
        server._bucket = Bucket(1000, time.monotonic())
        while server.due < math.inf:
            server.read()
        ask(far, 20)
        while select.select([server], [], [], 0)[0]:
            server.read()
        assert answers(far) >= 20
        server.close()

    in_new_network(flood)


@needs_root
def test_nothing_is_kept_of_what_is_asked_for() -> None:
    """Not here, and not in the kernel's table of neighbours."""

    def scan() -> None:
        far, server = link(), Responder()
        server.update(ALL)
        for number in range(300):
            for prefix in ("2001:db8:", "2001:db8:0:1:"):
                target = f"{prefix}:{number + 1:x}"
                far.sendto(solicit.solicitation("fe80::2", target), (
                    "far", ETH_P_IPV6, 0, 0, bytes.fromhex("3333ff000005")))
            server.read()
        [post] = server._posts.values()
        assert len(post._senders) == 1
        known = subprocess.run(["ip", "-6", "neigh", "show", "nud", "all"], capture_output=True,
                               text=True, check=True).stdout
        assert "2001:db8:" not in known and "fe80::2" not in known
        server.close()

    in_new_network(scan)


@needs_root
def test_who_is_not_behind_the_router() -> None:
    """By the way of this link, of another uplink, or of all the internet."""

    def ways() -> None:
        far, server = link(), Responder()
        networks = (N("2001:db8::/32"),)

        def answered(outside: tuple[str, ...] = ()) -> bool:
            server.update([Answering("near", networks, (), outside)])
            ask(far, 1)
            server.read()
            return answers(far) > 0

        assert answered() and answered(outside=("near", "nosuch0"))
        assert not answered(outside=("lan",))
        ip("route replace 2001:db8::/64 dev near")
        assert not answered()
        for prefix, expected in (("default", False), ("2000::/3", False), ("2000::/4", True)):
            ip("route flush 2001:db8::/64", f"route add {prefix} dev lan")
            assert answered() == expected, prefix
        server.close()

    in_new_network(ways)


@needs_root
def test_the_way_to_an_address() -> None:
    def ways() -> None:
        link()
        ip("addr add 2001:db8:1::1/64 dev near nodad", "route add unreachable 2001:db8:2::/64",
           "route add default dev lan",
           "neigh add 2001:db8::7 lladdr 02:00:00:00:00:07 dev lan nud permanent")
        near, lan = map(socket.if_nametoindex, ("near", "lan"))
        fib = Fib()

        def way(text: str) -> tuple[object, ...] | None:
            return fib.way(IPv6Address(text).packed, near)

        assert way("2001:db8::5") == (1, 64, (lan,), False)
        deadline = time.monotonic() + 5
        while way("2001:db8:1::1") != (2, 128, (near,), False):
            assert time.monotonic() < deadline  # the address gets its route a moment later
        assert way("2001:db8:2::1") is None
        assert way("2001:db8:9::1") == (1, 0, (lan,), False)
        ip("route add 2001:db8:3::/64 nexthop via fe80::5 dev lan nexthop via fe80::6 dev near",
           "route add 2001:db8:4::/64 via fe80::5 dev lan")
        assert way("2001:db8:3::1") == (1, 64, (lan, near), True)
        assert way("2001:db8:4::1") == (1, 64, (lan,), True)
        assert fib.knows(IPv6Address("2001:db8::7").packed, lan)
        assert not fib.knows(IPv6Address("2001:db8::7").packed, near)
        assert not fib.knows(IPv6Address("2001:db8::8").packed, lan)
        fib.close()

    in_new_network(ways)


@needs_root
def test_an_interface_that_is_not_there_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def without() -> None:
        server = Responder()
        server.update([Answering("nosuch0", (N("2001:db8::/64"),))])
        link()
        server.update(ALL)
        assert list(server._posts) == ["near"]
        ip("link del near")
        server.update(ALL)
        assert not server._posts
        server.close()

    in_new_network(without)

    def forbidden(_interface: str) -> None:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(responder, "Ear", forbidden)
    with pytest.raises(KernelError, match="RestrictAddressFamilies=AF_PACKET"):
        Responder().update(ALL)


# ---- what is answered for ------------------------------------------------------------------------


def test_what_the_configuration_and_the_state_say() -> None:
    proxies = (Proxy("wan", "wan0", method="responder"),
               Proxy("wan", "wan0", hosts=(5,), method="kernel"),
               Proxy("wan", "wan9", subnet=1, length=66, hosts=(5, 6), method="responder"))
    found = config(uplinks=(WAN._replace(source=ONLINK),), plans=Plans(proxies=proxies))
    state = after(reply(*told("2001:db8:ffff::/64")), uplink=found.uplinks[0], config=found)
    from .scenarios import nat

    assert list(answering(found, state, nat(found), NOW)) == [
        Answering("wan0", (N("2001:db8:ffff::/64"),), (), ("wan0",)),
        Answering("wan9", (N("2001:db8:ffff:0:4000::5"), N("2001:db8:ffff:0:4000::6")), (),
                  ("wan0",)),
    ]
    assert all(one.networks == () for one in answering(found, state, nat(found), NOW + 1000))


UPLINKS = {"wan": {"interface": "eth0"}}


def plans(*rows: dict[str, object]) -> tuple[Plans | None, list[str]]:
    mistakes: list[str] = []
    return plans_of({"proxy": list(rows)}, UPLINKS, [], mistakes), mistakes


def test_what_a_proxy_is_by_default() -> None:
    found, _ = plans({"uplink": "wan"}, {"uplink": "wan", "hosts": ["::5"], "interface": "eth1"})
    assert found and found.proxies == (
        Proxy("wan", "eth0", method="responder"),
        Proxy("wan", "eth1", hosts=(5,), method="kernel"))


@pytest.mark.parametrize(("row", "mistake"), [
    ({}, "proxy[0].uplink: is required"),
    ({"uplink": "dsl"}, "proxy[0].uplink = 'dsl': no such uplink; there is wan"),
    ({"uplink": "wan", "method": "npd6"},
     'proxy[0].method = \'npd6\': unknown: must be "kernel" or "responder" or "ndppd"'),
    ({"uplink": "wan", "method": "kernel"}, 'for all of a slice there is "responder"'),
    ({"uplink": "wan", "hosts": ["::5", "2001:db8::5"]}, "proxy[0].hosts: "),
    ({"uplink": "wan", "hosts": "::5"}, "proxy[0].hosts = '::5': "),
    ({"uplink": "wan", "hosts": ["x"]}, 'must be the last bits of an address, as in "::1"'),
    ({"uplink": "wan", "length": 129}, "proxy[0].length = 129: "),
    ({"uplink": "wan", "interface": "eth0/1"}, "proxy[0].interface = 'eth0/1': "),
    ({"uplink": "wan", "host": ["::1"]}, "unknown key; the nearest is proxy[0].hosts"),
])
def test_mistakes_are_named(row: dict[str, object], mistake: str) -> None:
    found, mistakes = plans(row)
    assert found is None
    assert mistake in "\n".join(mistakes)
