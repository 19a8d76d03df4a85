"""Other people's firewalls beside ours: all of it works, and none of theirs is touched."""

from collections.abc import Callable

import pytest

from tests.lab import SERVER, Lab

from .pd import (
    ISP,
    NEEDS_ROOT,
    NEW,
    NEW_A,
    NEW_B,
    OLD,
    OLD_A,
    OLD_B,
    Echo,
    Router,
    ask,
    dhcp,
    reaches,
)

pytestmark = NEEDS_ROOT

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


def through_ip6tables(lab: Lab) -> None:
    """Load it with ip6tables-nft, or leave the test out where that cannot be."""
    done = lab.run("router", ["ip6tables-nft-restore"], input=IP6TABLES, check=False)
    if done.returncode:
        pytest.skip(f"ip6tables-nft does not work here: {done.stderr.strip()}")


FIREWALLS: dict[str, Callable[[Lab], None]] = {
    "stateful": through_nft(STATEFUL),
    "masquerade": through_nft(MASQUERADE),
    "stateful and masquerade": through_nft(STATEFUL + MASQUERADE),
    "at our priorities": through_nft(LATE),
    "firewalld's chains": through_nft(FIREWALLD),
    "ip6tables": through_ip6tables,
}


def save(router: Router) -> str:
    """All rules but ours, without what counts; both as nft and as ip6tables see them."""
    text = router.run("nft", "-s", "list", "ruleset")
    ours = router.run("nft", "-s", "list", "table", "ip6", "pdreactor", check=False)
    rest = text.replace(ours, "") if ours else text
    lines = router.run("ip6tables-nft-save", check=False).splitlines()
    return rest + "\n".join(line for line in lines if not line.startswith(("#", ":")))


def all_ways(lab: Lab, a: str, b: str) -> dict[str, object]:
    """What is said on every way through the router, and who the servers saw."""
    outside, inside = Echo(lab, "isp"), Echo(lab, "b")
    said: dict[str, object] = {
        "out, ping": reaches(lab, "a", SERVER),
        "out, tcp": ask(lab, "a", "tcp", SERVER, 100_000),
        "in, tcp": ask(lab, "isp", "tcp", b, 100_000),
        "around, udp": ask(lab, "a", "udp", b),
        "outside sees": outside.sources(),
        "inside sees": inside.sources(),
    }
    outside.process.stop()
    inside.process.stop()
    return said


def right(a: str) -> dict[str, object]:
    """What it should be."""
    same = dict.fromkeys(("out, tcp", "in, tcp", "around, udp"), "same")
    return {"out, ping": True, **same, "outside sees": {a}, "inside sees": {ISP, a}}


@pytest.mark.parametrize("load", FIREWALLS.values(), ids=list(FIREWALLS))
@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_beside_another_firewall(
    lab: Lab, router: Router, load: Callable[[Lab], None], first: str
) -> None:
    if first == "ours":
        router.pd("restore")
    load(lab)
    before = save(router)
    router.hook("BOUND6", dhcp(OLD))
    assert all_ways(lab, OLD_A, OLD_B) == right(OLD_A)
    router.hook("RENEW6", dhcp(NEW, old=OLD))
    assert all_ways(lab, NEW_A, NEW_B) == right(NEW_A)
    router.pd("restore")
    assert save(router) == before
    assert lab.count().leaked == 0
    with router.unwritten():
        router.pd("restore")
    router.pd("flush", "--forget")
    assert save(router) == before
    assert router.ours() == ""


def test_a_firewall_that_is_reloaded_under_load_loses_nothing(lab: Lab, router: Router) -> None:
    lab.nft("router", STATEFUL)
    router.set(OLD)
    lab.conntrack_timeout(2)
    flows = lab.start_flows()
    for _ in range(20):
        lab.nft("router", "table inet filter\ndelete table inet filter\n" + STATEFUL)
        router.pd("restore")
    sent = flows.stop()
    lab.wait(lambda: lab.count().arrived >= sent.sent, 5, "all packets")
    assert lab.count().leaked == 0


def test_masquerade_of_others_goes_on(lab: Lab, router: Router) -> None:
    lab.nft("router", MASQUERADE)
    router.set(OLD)
    lab.run("b", ["ip", "addr", "flush", "dev", "eth0", "scope", "global"])
    lab.run("b", ["ip", "addr", "add", "fd99::2/64", "dev", "eth0", "nodad"])
    router.run("ip", "addr", "add", "fd99::1/64", "dev", "lan1", "nodad")
    lab.run("b", ["ip", "-6", "route", "replace", "default", "via", "fd99::1"])
    echo = Echo(lab, "isp", SERVER)
    assert ask(lab, "b", "tcp", SERVER) == ask(lab, "a", "tcp", SERVER) == "same"
    assert echo.sources() == {"2001:db8:ffff::2", OLD_A}


def test_a_packet_that_a_firewall_drops_stays_dropped(lab: Lab, router: Router) -> None:
    lab.nft("router", STATEFUL.replace("ct status dnat accept", ""))
    router.set(OLD)
    assert not reaches(lab, "isp", OLD_A)
    assert not reaches(lab, "a", OLD_B)
    assert reaches(lab, "a", SERVER)
