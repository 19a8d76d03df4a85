"""Other people's firewalls beside ours: all of it works, and none of theirs is touched."""

from collections.abc import Callable

import pytest

from tests.lab import INTERNAL, SERVER, Lab

from .pd import (
    EACH,
    IPTABLES,
    ISP,
    MODES,
    NEEDS_ROOT,
    NETMAP,
    NEW,
    NFTABLES,
    OLD,
    STATELESS,
    UNTRACKED,
    A,
    B,
    Echo,
    Router,
    Variant,
    ask,
    dhcp,
    on,
    reaches,
    unanswered,
)

pytestmark = NEEDS_ROOT

UPLINK = "2001:db8:ffff::2"
"""The router's own address on the uplink."""

STATEFUL = """
table inet filter {
    counter seen { }
    set allowed { type inet_service; elements = { 22, 4242 }; }
    chain input {
        type filter hook input priority filter; policy drop;
        ct state invalid drop
        ct state established,related accept
        iif lo accept
        meta l4proto ipv6-icmp accept
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state invalid drop
        ct state established,related accept
        ct status dnat accept
        iifname { lan0, lan1 } oifname eth0 counter name seen accept comment "out"
    }
}
"""
MASQUERADE = """
table ip6 nat {
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        oifname eth0 masquerade
    }
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        iifname eth0 tcp dport 8080 redirect to :80
    }
}
table inet nat {
    chain postrouting {
        type nat hook postrouting priority srcnat + 10;
        oifname eth0 counter masquerade fully-random
    }
}
"""
LATE = """
table ip6 late {
    chain same {
        type nat hook postrouting priority 95; policy accept;
        oifname eth0 ip6 saddr fd99::/64 masquerade
    }
    chain guard { type filter hook postrouting priority 310; counter; }
    chain pdreactor { ip6 daddr fd99::1 drop; }
}
table inet pdreactor { chain input { type filter hook input priority 5; counter; }; }
table ip pdreactor { chain x { }; }
"""
FIREWALLD = """
table inet firewalld {
    chain mangle_PREROUTING { type filter hook prerouting priority mangle + 10; policy accept; }
    chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; policy accept; }
    chain nat_POSTROUTING {
        type nat hook postrouting priority srcnat + 10; policy accept;
        oifname eth0 jump nat_POST_external
    }
    chain nat_POST_external { meta nfproto ipv6 oifname != lo masquerade; }
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname lo accept
        meta l4proto ipv6-icmp accept
        ct state invalid drop
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname lo accept
        ct state invalid drop
        oifname eth0 jump filter_FWD_external
        reject with icmpx admin-prohibited
    }
    chain filter_FWD_external { accept; }
}
"""
"""Written after what firewalld 1.3 makes of a zone with masquerade: its priorities and order."""
IP6TABLES = """
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:prefix_dnat - [0:0]
:prefix_snat - [0:0]
-A PREROUTING -i eth0 -j prefix_dnat
-A POSTROUTING -o eth0 -j prefix_snat
-A POSTROUTING -o eth0 -s fd99::/64 -j MASQUERADE
-A prefix_dnat -d 2001:db8:beef::/58 -j NETMAP --to fd99::/58
-A prefix_snat -s fd99::/58 -j NETMAP --to 2001:db8:beef::/58
COMMIT
*mangle
-A PREROUTING -j MARK --set-xmark 0xffffffff/0xffffffff
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT
-A FORWARD -o eth0 -j ACCEPT
COMMIT
"""


def through_nft(text: str) -> Callable[[Lab], None]:
    """Load it with nft."""
    return lambda lab: lab.nft("router", text)


def through_ip6tables(variant: str) -> Callable[[Lab], None]:
    """Load it with ip6tables, or leave the test out where that cannot be."""

    def load(lab: Lab) -> None:
        restore = [f"ip6tables-{variant}-restore"]
        done = lab.run("router", restore, input=IP6TABLES, check=False)
        if done.returncode:
            pytest.skip(f"{restore} does not work here: {done.stderr.strip()}")

    return load


FIREWALLS: dict[str, Callable[[Lab], None]] = {
    "stateful": through_nft(STATEFUL),
    "masquerade": through_nft(MASQUERADE),
    "stateful and masquerade": through_nft(STATEFUL + MASQUERADE),
    "at our priorities": through_nft(LATE),
    "firewalld's chains": through_nft(FIREWALLD),
    "ip6tables": through_ip6tables("nft"),
    "ip6tables-legacy": through_ip6tables("legacy"),
}


def all_ways(router: Router, prefix: str = OLD) -> dict[str, object]:
    """What is said on every way through the router, and who the servers saw."""
    lab, b = router.lab, router.outside(B, prefix)
    outside, inside = Echo(lab, "isp"), Echo(lab, "b")
    said: dict[str, object] = {
        "out, ping": reaches(lab, "a", SERVER),
        "out, tcp": ask(lab, "a", "tcp", SERVER, 100_000),
        "in, tcp": ask(lab, "isp", "tcp", b, 100_000),
        "around, udp": ask(lab, "a", "udp", b),
        "outside sees": outside.sources(),
        "inside sees": inside.sources(),
    }
    outside.stop()
    inside.stop()
    return said


def right(router: Router, prefix: str = OLD) -> dict[str, object]:
    """What it should be."""
    a = router.outside(A, prefix)
    same = dict.fromkeys(("out, tcp", "in, tcp", "around, udp"), "same")
    return {"out, ping": True, **same, "outside sees": {a}, "inside sees": {ISP, a}}


def masqueraded(said: dict[str, object]) -> dict[str, object]:
    """The same when somebody else's masquerade comes first."""
    return {**said, "outside sees": {UPLINK}}


def works_beside(
    router: Router,
    load: Callable[[Lab], None],
    expected: Callable[[dict[str, object]], dict[str, object]] = dict,
) -> None:
    """First prefix, change, restore and flush beside this firewall, which stays as it is."""
    load(router.lab)
    before = router.others(counters=False)
    router.hook("BOUND6", dhcp(OLD))
    assert all_ways(router) == expected(right(router))
    router.hook("RENEW6", dhcp(NEW, old=OLD))
    assert all_ways(router, NEW) == expected(right(router, NEW))
    router.pd("restore")
    assert router.others(counters=False) == before
    assert router.lab.count().leaked == 0
    with router.unwritten():
        router.pd("restore")
    router.pd("flush", "--forget")
    assert router.others(counters=False) == before
    assert router.is_clean()


@pytest.mark.parametrize("load", FIREWALLS.values(), ids=list(FIREWALLS))
@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_beside_another_firewall(router: Router, load: Callable[[Lab], None], first: str) -> None:
    if first == "ours":
        router.pd("restore")
    works_beside(router, load)


@on(IPTABLES)
@pytest.mark.parametrize("name", ["stateful and masquerade", "ip6tables", "ip6tables-legacy"])
def test_ip6tables_beside_another_firewall(router: Router, name: str) -> None:
    """Chains of nat of the same priority: the last to come is asked first."""
    router.pd("restore")
    works_beside(router, FIREWALLS[name], masqueraded if "masquerade" in name else dict)


# ---- modes that conntrack does not know of -----------------------------------------------------

def stateful(variant: Variant) -> str:
    """The stateful firewall as it has to be for the mode."""
    return STATEFUL.replace("ct status dnat accept", {
        "netmap": "ct status dnat accept",
        "stateless": f"ip6 daddr {INTERNAL} accept",
        "rfc6296": "ct state untracked accept",
    }[variant.mode]).replace("iif lo accept", {
        "netmap": "iif lo accept",
        "stateless": "iif lo accept",
        "rfc6296": "ct state untracked accept",
    }[variant.mode])


@on(UNTRACKED)
def test_beside_a_stateful_firewall(lab: Lab, router: Router) -> None:
    """It drops what conntrack calls invalid: there must be no such packet."""
    works_beside(router, through_nft(stateful(router.variant)))
    router.set(OLD)
    a, b = router.outside(A), router.outside(B)
    assert reaches(lab, "isp", a) and reaches(lab, "a", b) and reaches(lab, "router", b)
    for host, target in (("a", SERVER), ("isp", a), ("a", b), ("a", a), ("router", a)):
        for protocol in ("udp", "tcp"):
            assert ask(lab, host, protocol, target) == "failed: Connection refused"
    Echo(lab, "b")
    for protocol in ("udp", "tcp"):
        assert ask(lab, "a", protocol, b, 100_000, source=30001) == "same"
        flows = router.flows("-p", protocol, "--orig-port-src", "30001")
        assert len(flows) == (router.variant == STATELESS)
        assert all(f"src={A} dst={B} " in flow for flow in flows.values())


@on(UNTRACKED)
def test_a_stateful_firewall_that_does_not_know_the_mode(lab: Lab, router: Router) -> None:
    """Mode stateless: nothing comes in by itself. Mode rfc6296: nothing passes."""
    lab.nft("router", STATEFUL)
    router.set(OLD)
    assert reaches(lab, "a", SERVER) == (router.variant == STATELESS)
    assert unanswered(lab, "isp", router.outside(A))
    assert unanswered(lab, "a", router.outside(B))


@on(MODES)
def test_a_firewall_that_is_reloaded_under_load_loses_nothing(lab: Lab, router: Router) -> None:
    firewall = stateful(router.variant)
    lab.nft("router", firewall)
    router.set(OLD)
    lab.conntrack_timeout(2)
    flows = lab.start_flows()
    for _ in range(20 if router.variant == NFTABLES else 8):
        lab.nft("router", "table inet filter\ndelete table inet filter\n" + firewall)
        router.pd("restore")
    sent = flows.stop()
    lab.wait(lambda: lab.count().arrived >= sent.sent, 5, "all packets")
    assert lab.count().leaked == 0


@on(EACH)
def test_masquerade_of_others_goes_on(lab: Lab, router: Router) -> None:
    """Mode stateless: it comes first for everything that it matches."""
    lab.nft("router", MASQUERADE)
    router.set(OLD)
    lab.run("b", ["ip", "addr", "flush", "dev", "eth0", "scope", "global"])
    lab.run("b", ["ip", "addr", "add", "fd99::2/64", "dev", "eth0", "nodad"])
    router.run("ip", "addr", "add", "fd99::1/64", "dev", "lan1", "nodad")
    lab.run("b", ["ip", "-6", "route", "replace", "default", "via", "fd99::1"])
    echo = Echo(lab, "isp", SERVER)
    assert ask(lab, "b", "tcp", SERVER) == ask(lab, "a", "tcp", SERVER) == "same"
    a = UPLINK if router.variant == STATELESS else router.outside(A)
    assert echo.sources() == {UPLINK, a}
    assert lab.count().leaked == 0


@on(NETMAP[:2])
def test_a_packet_that_a_firewall_drops_stays_dropped(lab: Lab, router: Router) -> None:
    lab.nft("router", STATEFUL.replace("ct status dnat accept", ""))
    router.set(OLD)
    assert unanswered(lab, "isp", router.outside(A))
    assert unanswered(lab, "a", router.outside(B))
    assert reaches(lab, "a", SERVER)
