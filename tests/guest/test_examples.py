"""Each example of contrib/examples that needs a tunnel or a dummy link: from its configuration,
real packets, another prefix or end point, packets again. Names and addresses are those of the
network here.
"""

from collections.abc import Iterator

import pytest

from tests.lab import SERVER
from tests.netns.pd import ping, reaches
from tests.unit import recorded

from .inside import MINIMAL, Machine, Net, example

ONLINK, NEWLINK = "2001:db8:ffff:", "2001:db8:fffd:"
"""The /64 on the link between router and isp, and another one."""
HERE, THERE = "198.51.100.2", "198.51.100.77"
"""What a has of IPv4, and what it gets."""
PUBLIC, RELAY = "198.51.100.1", "203.0.113.1"
"""What router has."""


def on(net: Net, machine: str, name: str, changes: dict[str, str]) -> Machine:
    """A machine with an example on it, and a pass made."""
    found = Machine(net, example(name, changes), machine)
    found.pd("restore")
    return found


def renumber(net: Net, old: str, new: str) -> None:
    """Another /64 on the link between router and isp."""
    net.ip("isp", f"-6 addr replace {new}:1/64 dev wan nodad")
    net.ip("router", f"-6 addr add {new}:2/64 dev eth0 nodad",
           f"-6 route replace default via {new}:1 dev eth0 metric 1027",
           f"-6 addr del {old}:2/64 dev eth0")


# ---- 6in4 --------------------------------------------------------------------------------------


def test_private_tunnel(net: Net) -> None:
    ends = {"192.0.2.1": PUBLIC, "198.51.100.2": HERE, "::2": "::a:2", "::3": "::a:3"}
    server = on(net, "router", "tunnel-server", ends)
    client = on(net, "a", "tunnel-client",
                {"192.0.2.1": PUBLIC, "::3": "::a:3", "2001:db8:5400:": ONLINK})
    assert reaches(net, "a", SERVER)
    assert reaches(net, "isp", f"{ONLINK}:a:3")
    server.settled()
    client.settled()
    renumber(net, ONLINK, NEWLINK)
    server.pd("restore")
    client.configure(client.text.replace(ONLINK, NEWLINK))
    client.pd("restore")
    assert reaches(net, "a", SERVER)
    assert reaches(net, "isp", f"{NEWLINK}:a:3")
    client.move("eth0", f"{HERE}/24", f"{THERE}/24")
    client.hook("REBIND", {"new_ip_address": THERE})
    server.configure(server.text.replace(HERE, THERE))
    server.pd("restore")
    assert reaches(net, "a", SERVER)
    assert reaches(net, "isp", f"{NEWLINK}:a:3")
    renumber(net, NEWLINK, ONLINK)


def test_tunnel_broker(net: Net) -> None:
    ends = {"192.0.2.1": PUBLIC, "192.0.2.2": HERE}
    server = on(net, "router", "broker-server", ends)
    home = on(net, "a", "broker-home", {**ends, "2001:db8:5400:": ONLINK, "eth1": "lan1"})
    watch = server.start("watch")
    net.ip("b", f"-6 addr add {ONLINK}0:8000::2/67 dev eth0 nodad")
    assert reaches(net, "isp", f"{ONLINK}0:4000::2"), "the kernel answers for home's end"
    net.wait(lambda: reaches(net, "isp", f"{ONLINK}0:8000::2"), 60, "the watch to answer")
    assert reaches(net, "b", SERVER)
    home.settled()
    renumber(net, ONLINK, NEWLINK)
    home.configure(home.text.replace(ONLINK, NEWLINK))
    home.pd("restore")
    net.ip("b", f"-6 addr del {ONLINK}0:8000::2/67 dev eth0",
           f"-6 addr add {NEWLINK}0:8000::2/67 dev eth0 nodad")
    net.wait(lambda: reaches(net, "isp", f"{NEWLINK}0:8000::2"), 60, "the watch to follow")
    assert reaches(net, "b", SERVER)
    assert reaches(net, "isp", f"{NEWLINK}0:4000::2")
    server.settled(60)
    watch.stop()
    net.ip("b", f"-6 addr del {NEWLINK}0:8000::2/67 dev eth0")
    renumber(net, NEWLINK, ONLINK)


def test_two_tunnels(net: Net) -> None:
    for number, remote in (("0", PUBLIC), ("1", RELAY)):
        letter = "ab"[int(number)]
        net.ip("router", f"link add far{number} type sit local {remote} remote {HERE}",
               f"link set far{number} up", f"-6 addr add 2001:db8:{letter}::1/64 dev far{number}")
        net.ip("isp", f"-6 route replace 2001:db8:{letter}::/64 via {ONLINK}:2 dev wan")
    home = on(net, "a", "two-tunnels", {"192.0.2.129": RELAY, '192.0.2.1"': f'{PUBLIC}"'})

    def each() -> None:
        for number, letter in (("0", "a"), ("1", "b")):
            before = counted(net, f"far{number}")
            assert reaches(net, "isp", f"2001:db8:{letter}::2")
            assert counted(net, f"far{number}") == (before[0] + 1, before[1] + 1)

    each()
    home.settled()
    home.move("eth0", f"{HERE}/24", f"{THERE}/24")
    home.hook("BOUND")
    for number, remote in (("0", PUBLIC), ("1", RELAY)):
        net.ip("router", f"link set far{number} type sit local {remote} remote {THERE}")
    each()
    net.ip("router", "link del far0", "link del far1")


def counted(net: Net, link: str) -> tuple[int, int]:
    """Packets that came and went by a link of router."""
    base = f"/sys/class/net/{link}/statistics"
    came, went = (int(net.read("router", f"{base}/{way}_packets")) for way in ("rx", "tx"))
    return came, went


# ---- prefixes from an IPv4 address ------------------------------------------------------------


def sixtofour(address: str) -> str:
    """2002:V4ADDR, written by itself."""
    numbers = [int(part) for part in address.split(".")]
    return f"2002:{numbers[0] << 8 | numbers[1]:x}:{numbers[2] << 8 | numbers[3]:x}"


@pytest.fixture
def relay(net: Net) -> Iterator[Net]:
    """router is a relay of 6to4 towards isp."""
    net.ip("router", f"link add relay type sit local {RELAY} ttl 64", "link set relay up",
           "-6 route add 2002::/16 dev relay")
    net.ip("isp", f"-6 route replace 2002::/16 via {ONLINK}:2 dev wan")
    yield net
    net.ip("router", "link del relay")


def test_6to4(relay: Net) -> None:
    home = on(relay, "a", "6to4", {"192.0.2.254": RELAY, "eth1": "lan1"})
    old, new = sixtofour(HERE), sixtofour(THERE)
    assert home.prefixes("ipv6") == {f"{old}::/48": "current"}
    assert f"{old}:1::1/64" in home.addresses("lan1")
    relay.ip("b", f"-6 addr add {old}:1::2/64 dev eth0 nodad")
    assert reaches(relay, "b", SERVER)
    assert reaches(relay, "isp", f"{old}::1")
    assert "unreachable" in relay.run("isp", ["ping", "-nc1", "-W1", f"{old}:7::7"],
                                      check=False).stdout
    home.settled()
    home.move("eth0", f"{HERE}/24", f"{THERE}/24")
    home.hook("BOUND", {"new_ip_address": THERE})
    assert home.prefixes("ipv6") == {f"{new}::/48": "current"}
    assert {one for one in home.addresses("lan1") if one.startswith("2002")} == {f"{new}:1::1/64"}
    relay.ip("b", f"-6 addr del {old}:1::2/64 dev eth0",
             f"-6 addr add {new}:1::2/64 dev eth0 nodad")
    assert reaches(relay, "b", SERVER)
    home.settled()
    relay.ip("b", f"-6 addr del {new}:1::2/64 dev eth0")


def test_6to4_with_a_translation_that_moves_with_it(relay: Net) -> None:
    translation = '\n[[translation]]\nuplink = "ipv6"\ninternal = "fd5e:ed00:1234:1::/64"\n'
    text = example("6to4", {"192.0.2.254": RELAY, "eth1": "lan1"}) + translation
    home = Machine(relay, text, "a")
    home.pd("restore")
    assert reaches(relay, "b", SERVER)
    assert reaches(relay, "isp", f"{sixtofour(HERE)}::2")
    home.move("eth0", f"{HERE}/24", f"{THERE}/24")
    home.hook("BOUND")
    assert reaches(relay, "b", SERVER)
    assert reaches(relay, "isp", f"{sixtofour(THERE)}::2")


def test_6to4_refuses_a_private_address(net: Net) -> None:
    text = example("6to4", {"192.0.2.254": RELAY, "eth1": "lan1"})
    home = Machine(net, text, "a")
    home.move("eth0", f"{HERE}/24", "10.7.0.2/24")
    home.pd("restore")
    said = home.pd("status", code=1).stdout
    assert "10.7.0.2 is not a public IPv4 address, as 6to4 needs; behind NAT say" in said
    home.move("eth0", "10.7.0.2/24", f"{HERE}/24")
    home.hook("BOUND")
    assert home.prefixes("ipv6") == {f"{sixtofour(HERE)}::/48": "current"}


GATEWAY = """
table ip gateway {
    chain in {
        type nat hook prerouting priority dstnat
        iifname eth0 ip protocol 41 dnat to 192.168.1.2
    }
    chain out {
        type nat hook postrouting priority srcnat
        oifname eth0 ip saddr 192.168.1.2 masquerade
    }
}
"""


def test_6to4_behind_nat(relay: Net) -> None:
    """a is the gateway: it translates IPv4 and hands protocol 41 to b."""
    relay.ip("a", "-4 addr add 192.168.1.1/24 dev lan1")
    relay.ip("b", "-4 addr add 192.168.1.2/24 dev eth0", "-4 route add default via 192.168.1.1")
    relay.nft("a", GATEWAY)
    relay.run("b", ["ip", "-6", "route", "del", "default"])
    host = on(relay, "b", "6to4-behind-nat", {'192.0.2.1"': f'{HERE}"', "192.0.2.254": RELAY})
    assert host.tunnel("tun6to4")["local"] == "192.168.1.2"
    assert host.prefixes("ipv6") == {f"{sixtofour(HERE)}::/48": "current"}
    assert reaches(relay, "b", SERVER)
    relay.run("a", ["conntrack", "-F"])
    assert reaches(relay, "isp", f"{sixtofour(HERE)}::1"), "from outside first"
    host.settled()
    Machine(relay, MINIMAL, "a").move("eth0", f"{HERE}/24", f"{THERE}/24")
    relay.run("a", ["conntrack", "-F"])
    host.configure(host.text.replace(HERE, THERE))
    host.pd("restore")
    assert reaches(relay, "b", SERVER)
    assert reaches(relay, "isp", f"{sixtofour(THERE)}::1")
    relay.run("a", ["nft", "delete", "table", "ip", "gateway"])
    host.pd("flush", "--forget")
    relay.ip("a", "-4 addr del 192.168.1.1/24 dev lan1")
    relay.ip("b", "-4 addr del 192.168.1.2/24 dev eth0",
             "-6 route add default via fd5e:ed00:1234:1::1 dev eth0")


def test_6rd(net: Net) -> None:
    """As dhcpcd told it of a DHCPv4 server that gave 198.51.100.2, and later 198.51.100.77, and of
    3fff:600::/32 for all in 198.0.0.0/8."""
    net.ip("router", f"link add border type sit local {PUBLIC} ttl 64", "link set border up",
           "tunnel 6rd dev border 6rd-prefix 3fff:600::/32 6rd-relay_prefix 198.0.0.0/8",
           "-6 route add 3fff:600:3364::/48 dev border")
    net.ip("isp", f"-6 route replace 3fff:600:3364::/48 via {ONLINK}:2 dev wan")
    home = on(net, "a", "6rd", {"eth1": "lan1"})
    assert "DHCPv4 on eth0 has told nothing of 6rd" in home.pd("status", code=None).stdout
    bad = recorded.block("9.4.1/59-BOUND-ipv4-6rd").replace(b"mask_len=8", b"mask_len=33")
    home.replay(bad, code=65)
    home.replay(recorded.block("9.4.1/59-BOUND-ipv4-6rd"))
    assert home.prefixes("ipv6") == {"3fff:600:3364:200::/56": "current"}
    net.ip("b", "-6 addr add 3fff:600:3364:201::2/64 dev eth0 nodad")
    assert reaches(net, "b", SERVER)
    assert reaches(net, "isp", "3fff:600:3364:200::1")
    home.settled()
    home.move("eth0", f"{HERE}/24", f"{THERE}/24")
    home.replay(recorded.block("9.4.1/61-BOUND-ipv4-6rd-two-relays"))
    assert home.prefixes("ipv6") == {"3fff:600:3364:4d00::/56": "current"}
    assert "3fff:600:3364:4d01::1/64" in home.addresses("lan1")
    assert reaches(net, "isp", "3fff:600:3364:4d00::1")
    home.settled()
    net.ip("b", "-6 addr del 3fff:600:3364:201::2/64 dev eth0")
    net.ip("router", "link del border")


# ---- a /64 on the link -------------------------------------------------------------------------


def answered(net: Net, target: str) -> bool:
    """To isp's address elsewhere: those on the link are behind the tunnel too, as routers have it
    whose upstream has a link-local address only."""
    return ping(net, "isp", target, "-I", SERVER) == f"answered by {target}"


def test_native_64(net: Net) -> None:
    for name, ends in (("router", f"local {PUBLIC} remote {HERE}"),
                       ("a", f"local {HERE} remote {PUBLIC}")):
        net.ip(name, f"link add 6bed4 type sit {ends}", "link set 6bed4 up")
    net.ip("a", f"-6 addr add {ONLINK}:5:0:5/128 dev 6bed4", "-6 route add default dev 6bed4")
    router = on(net, "router", "native-64", {})
    watch = router.start("watch")
    assert {"2001:db8:ffff::11/112", "2001:db8:ffff::30/112"} <= {*router.addresses("dumbo0")}
    net.wait(lambda: answered(net, f"{ONLINK}:5:0:5"), 60, "the watch to answer")
    for address in (f"{ONLINK}:11", f"{ONLINK}:30"):
        assert answered(net, address)
    net.ip("a", f"-6 addr add {NEWLINK}:5:0:5/128 dev 6bed4")
    renumber(net, ONLINK, NEWLINK)
    net.wait(lambda: answered(net, f"{NEWLINK}:5:0:5"), 60, "the watch to follow")
    for address in (f"{NEWLINK}:11", f"{NEWLINK}:30"):
        assert answered(net, address)
    router.settled(60)
    watch.stop()
    router.pd("flush")
    assert router.link("dumbo0") == {}
    renumber(net, NEWLINK, ONLINK)
    for name in ("router", "a"):
        net.ip(name, "link del 6bed4")
