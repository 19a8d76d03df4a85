"""Packets out, in and around, in every mode and with every backend.

One network serves all tests of a variant: none of them leaves anything behind.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab import SERVER, Lab

from .pd import (
    ALL,
    FAR,
    ISP,
    MEGABYTE,
    NEEDS_ROOT,
    OLD,
    A,
    B,
    Echo,
    Router,
    ask,
    on,
    ping,
    reaches,
)

pytestmark = [*NEEDS_ROOT, on(ALL, scope="module")]


@pytest.fixture
def lab(shared: Router) -> Lab:
    """Its network."""
    return shared.lab


# ---- out and in ------------------------------------------------------------------------------


def test_lan_hosts_leave_with_the_delegated_prefix(lab: Lab, shared: Router) -> None:
    echo = Echo(lab, "isp")
    assert reaches(lab, "a", SERVER)
    assert ask(lab, "a", "udp", SERVER) == ask(lab, "b", "tcp", SERVER) == "same"
    assert echo.sources() == {shared.outside(A), shared.outside(B)}


def test_the_world_reaches_lan_hosts_by_their_external_addresses(
    lab: Lab, shared: Router
) -> None:
    a, b = shared.outside(A), shared.outside(B)
    echo = Echo(lab, "a")
    assert reaches(lab, "isp", a) and reaches(lab, "isp", b)
    assert ask(lab, "isp", "udp", a) == ask(lab, "isp", "tcp", a) == "same"
    assert echo.sources() == {ISP}


@pytest.mark.parametrize(("client", "server"), [("a", "isp"), ("isp", "a")])
def test_a_megabyte_passes_both_ways(
    lab: Lab, shared: Router, client: str, server: str
) -> None:
    Echo(lab, server)
    target = SERVER if server == "isp" else shared.outside(A)
    assert ask(lab, client, "tcp", target, MEGABYTE) == "same"
    assert ask(lab, client, "udp", target, 50_000) == "same"


def test_source_ports_are_kept(lab: Lab, shared: Router) -> None:
    a, b = shared.outside(A), shared.outside(B)
    echo = Echo(lab, "isp", SERVER)
    assert ask(lab, "a", "udp", SERVER, source=30001) == "same"
    assert ask(lab, "b", "udp", SERVER, source=30001) == "same"
    assert ask(lab, "a", "tcp", SERVER, source=30002) == "same"
    assert echo.peers() == [(a, 30001), (b, 30001), (a, 30002)]


def test_what_is_not_translated_is_as_ever(lab: Lab, shared: Router) -> None:
    outside, inside = Echo(lab, "isp", SERVER), Echo(lab, "b")
    assert ask(lab, "a", "tcp", B) == ask(lab, "router", "udp", SERVER) == "same"
    assert reaches(lab, "router", B) and reaches(lab, "a", "fd5e:ed00:1234::1")
    assert (outside.sources(), inside.sources()) == ({"2001:db8:ffff::2"}, {A})
    shown = lab.run("isp", ["ip", "-6", "-br", "addr", "show", "dev", "wan", "scope", "link"])
    local = f"{shown.stdout.split()[2].split('/')[0]}%eth0"
    assert ping(lab, "router", local) == f"answered by {local}"
    assert ping(lab, "router", "ff02::1%eth0").startswith("answered by fe80::")


# ---- hairpin ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["b", "a"])
def test_lan_hosts_reach_each_other_and_themselves_by_external_addresses(
    lab: Lab, shared: Router, host: str
) -> None:
    target = shared.outside({"a": A, "b": B}[host])
    echo = Echo(lab, host)
    assert reaches(lab, "a", target)
    assert ask(lab, "a", "tcp", target, MEGABYTE) == ask(lab, "a", "udp", target) == "same"
    assert echo.sources() == {shared.outside(A)}


def test_the_router_reaches_lan_hosts_by_external_addresses(lab: Lab, shared: Router) -> None:
    a, b = shared.outside(A), shared.outside(B)
    Echo(lab, "a")
    assert shared.routes("type", "unreachable", "exact", OLD)
    assert reaches(lab, "router", a) and reaches(lab, "router", b)
    assert ask(lab, "router", "tcp", a, MEGABYTE) == ask(lab, "router", "udp", a) == "same"


MARKS = """
table inet marks {
    chain pre { type filter hook prerouting priority mangle; meta mark set 0x0fffffff; }
    chain post { type filter hook postrouting priority mangle; meta mark set 0x0fffffff; }
    chain out { type route hook output priority mangle; meta mark set 0x0fffffff; }
}
"""


def test_packet_marks_of_others_do_not_break_hairpin(lab: Lab, shared: Router) -> None:
    """Without conntrack they do, and nothing else."""
    b, tracked = shared.outside(B), shared.variant.tracked
    outside, inside = Echo(lab, "isp"), Echo(lab, "b")
    lab.nft("router", MARKS)
    try:
        assert (ask(lab, "a", "tcp", b, patience=1) == "same") == tracked
        assert reaches(lab, "router", b) or not tracked
        assert ask(lab, "a", "udp", SERVER) == "same"
    finally:
        lab.nft("router", "delete table inet marks")
    assert outside.sources() == {shared.outside(A)}
    assert inside.sources() == {shared.outside(A)} or not tracked
    assert ask(lab, "a", "tcp", b) == "same"


BEFORE_AND_AFTER = """
table ip6 around {
    counter same { }
    counter other { }
    chain pre {
        type filter hook prerouting priority -320;
        iifname { lan0, lan1 } meta mark set 0x5
    }
    chain post {
        type filter hook postrouting priority 320;
        oifname { lan0, lan1 } iifname { lan0, lan1 } meta mark 0x5 counter name same
        oifname { lan0, lan1 } iifname { lan0, lan1 } meta mark != 0x5 counter name other
    }
}
"""


def test_packet_marks_of_others_are_kept_and_ours_do_not_leave(
    lab: Lab, shared: Router
) -> None:
    lab.nft("router", BEFORE_AND_AFTER)
    try:
        assert reaches(lab, "a", shared.outside(B))
        counters = shared.run("nft", "list", "counters", "table", "ip6", "around")
    finally:
        lab.nft("router", "delete table ip6 around")
    same, other = (int(part.split()[0]) for part in counters.split("packets ")[1:])
    assert same > 0 and other == 0, counters


# ---- ICMPv6 errors ---------------------------------------------------------------------------


def unseen(router: Router) -> bool:
    """True for the mode in which errors that the router itself sends to the ISP quote internal
    addresses: nobody out there knows what they are about."""
    return router.variant.mode == "rfc6296"


def test_hops_are_reported_to_lan_hosts(lab: Lab, shared: Router) -> None:
    assert ping(lab, "a", FAR, "-t2") == f"{ISP}: Time exceeded: Hop limit"
    assert ping(lab, "a", FAR, "-t1") == "fd5e:ed00:1234::1: Time exceeded: Hop limit"
    assert ping(lab, "a", "2001:db8:dead::1").startswith(f"{ISP}: Destination unreachable")


def test_hops_into_the_lan_are_reported_to_the_world(lab: Lab, shared: Router) -> None:
    said = ping(lab, "isp", shared.outside(A), "-t1")
    assert said == "nothing" if unseen(shared) else said.endswith("Time exceeded: Hop limit")


def test_a_lan_host_that_is_not_there_is_reported_to_the_world(
    lab: Lab, shared: Router
) -> None:
    lab.sysctl("router", "net.ipv6.neigh.lan0.retrans_time_ms", 100)
    said = ping(lab, "isp", shared.outside("fd5e:ed00:1234::99"))
    assert said == "nothing" if unseen(shared) else "unreachable" in said.lower()


def test_closed_ports_are_reported_both_ways(lab: Lab, shared: Router) -> None:
    a, b = shared.outside(A), shared.outside(B)
    for host, target in (("a", SERVER), ("isp", a), ("a", b), ("router", a)):
        for protocol in ("udp", "tcp"):
            said = ask(lab, host, protocol, target)
            assert said == "failed: Connection refused", f"{host} to {target} by {protocol}"


@contextmanager
def narrow(lab: Lab, machine: str, interface: str) -> Iterator[None]:
    """Less than Ethernet's MTU, and afterwards all is forgotten."""
    lab.run(machine, ["ip", "link", "set", interface, "mtu", "1300"])
    try:
        yield
    finally:
        lab.run(machine, ["ip", "link", "set", interface, "mtu", "1500"])
        for host in ("a", "isp"):
            lab.run(host, ["ip", "-6", "route", "flush", "cache"])


def learned_mtu(lab: Lab, host: str, target: str) -> bool:
    """True when path MTU discovery has told the host of the narrow link."""
    route = lab.run(host, ["ip", "-6", "route", "get", target]).stdout
    return "mtu 1300" in route


def test_a_lan_host_learns_the_path_mtu(lab: Lab, shared: Router) -> None:
    with narrow(lab, "isp", "far"):
        assert ping(lab, "a", FAR, "-s1400", "-Mdo") == f"{ISP}: Packet too big: mtu=1300"
        assert learned_mtu(lab, "a", FAR)
    with narrow(lab, "router", "eth0"):
        assert ping(lab, "a", SERVER, "-s1400", "-Mdo").endswith("Packet too big: mtu=1300")
        assert learned_mtu(lab, "a", SERVER)


def test_a_far_host_learns_the_path_mtu_into_the_lan(lab: Lab, shared: Router) -> None:
    a = shared.outside(A)
    Echo(lab, "a")
    with narrow(lab, "router", "lan0"):
        assert ask(lab, "isp", "tcp", a) == "same"
        said = ask(lab, "isp", "tcp", a, MEGABYTE, patience=1 if unseen(shared) else 20)
        assert learned_mtu(lab, "isp", a) == (not unseen(shared))
    assert said == ("failed: timed out" if unseen(shared) else "same")
