"""Packets through the translation: out, in, around, and the ones that may not leave."""

from collections.abc import Iterable
from ipaddress import IPv6Network

import pytest

from tests.lab import INTERNAL, SERVER, Lab

from .pd import (
    ALL,
    EACH,
    FAR,
    IPTABLES,
    ISP,
    MEGABYTE,
    MODES,
    NEEDS_ROOT,
    NETMAP,
    NEW,
    OLD,
    REJECTED,
    RFC6296,
    STATELESS,
    A,
    B,
    Echo,
    Router,
    Variant,
    ask,
    config,
    dhcp,
    on,
    ping,
    reaches,
    unanswered,
)

pytestmark = NEEDS_ROOT

ISP_2 = "2001:db8:fffe::1"


@pytest.fixture
def translated(router: Router) -> Router:
    """A router that has learned its prefix."""
    router.set(OLD)
    return router


def link_local(lab: Lab, machine: str, interface: str) -> str:
    """Its address that needs no ISP."""
    show = ["ip", "-6", "-br", "addr", "show", "dev", interface, "scope", "link"]
    return lab.run(machine, show).stdout.split()[2].split("/")[0]


@on(EACH)
def test_a_router_without_an_address_on_the_uplink(lab: Lab, translated: Router) -> None:
    """Many ISPs delegate a prefix and number no link."""
    a, b = translated.outside(A), translated.outside(B)
    upstream, here = link_local(lab, "isp", "wan"), link_local(lab, "router", "eth0")
    translated.run("ip", "-6", "addr", "flush", "dev", "eth0", "scope", "global")
    translated.run("ip", "-6", "route", "replace", "default", "via", upstream, "dev", "eth0")
    lab.run("isp", ["ip", "-6", "route", "replace", OLD, "via", here, "dev", "wan"])
    lab.run("router", ["ip", "link", "set", "lan0", "mtu", "1300"])
    echo = Echo(lab, "isp", SERVER)
    Echo(lab, "a")
    for host in ("router", "a"):  # these neighbours have to be found first
        lab.wait(lambda host=host: reaches(lab, host, SERVER), 10, f"a way out for {host}")
    assert ask(lab, "router", "udp", SERVER) == ask(lab, "a", "udp", SERVER) == "same"
    routers_own = {translated.outside(f"fd5e:ed00:1234:{lan}::1") for lan in "01"}
    assert a in echo.sources() and echo.sources() & routers_own
    assert len(echo.sources()) == 2
    if translated.variant.mode != "rfc6296":  # there the router's errors are not understood
        assert ask(lab, "isp", "tcp", a, MEGABYTE) == "same"
        assert ping(lab, "isp", a, "-t1").endswith("Time exceeded: Hop limit")
    assert reaches(lab, "a", b) and reaches(lab, "router", b)
    assert not seen_at_isp(lab)


# ---- hairpin ---------------------------------------------------------------------------------


@on(EACH)
def test_the_router_reaches_lan_hosts_beside_dhcpcds_route(lab: Lab, router: Router) -> None:
    router.run("ip", "-6", "route", "add", "unreachable", OLD, "proto", "dhcp")
    router.set(OLD)
    assert reaches(lab, "router", router.outside(A))


@on(EACH)
def test_hairpin_can_be_switched_off(lab: Lab, router: Router) -> None:
    router.configure(config("hairpin = false"))
    router.set(OLD)
    b = router.outside(B)
    assert unanswered(lab, "a", b) and unanswered(lab, "router", b)
    assert reaches(lab, "isp", b) and reaches(lab, "a", SERVER)


@on(ALL)
def test_the_routers_own_address_inside_the_delegation_stays_its_own(
    lab: Lab, translated: Router
) -> None:
    """Without conntrack nothing tells the answers of LAN hosts from their questions, and so the
    router sees both with their external address."""
    own = translated.outside(B)  # the worst case: translated, it would be a LAN host's
    echo = Echo(lab, "router")
    translated.run("ip", "addr", "add", f"{own}/128", "dev", "eth0", "nodad")
    lab.run("b", ["ip", "link", "set", "eth0", "down"])
    assert reaches(lab, "isp", own) and reaches(lab, "a", own) and reaches(lab, "router", own)
    assert ask(lab, "isp", "tcp", own) == ask(lab, "a", "tcp", own) == "same"
    assert echo.sources() == {ISP, A if translated.variant.tracked else translated.outside(A)}


# ---- the guard -------------------------------------------------------------------------------


def seen_at_isp(lab: Lab) -> bool:
    """True when anything of a flow or a ping with an internal source came out of the uplink."""
    return lab.count().leaked > 0


@on(EACH)
def test_without_a_prefix_lan_hosts_are_told_at_once(lab: Lab, router: Router) -> None:
    router.pd("restore")
    assert ping(lab, "a", SERVER) == ping(lab, "a", FAR) == REJECTED
    assert ask(lab, "a", "tcp", SERVER) == "failed: Permission denied"
    assert not seen_at_isp(lab)


@on(EACH)
def test_a_prefix_that_is_gone_leaves_nothing_untranslated(lab: Lab, translated: Router) -> None:
    assert reaches(lab, "a", SERVER)
    translated.pd("unset", "wan")
    assert ping(lab, "a", SERVER) == REJECTED
    assert unanswered(lab, "isp", translated.outside(A))
    assert not seen_at_isp(lab)


NOTRACK = """
table ip6 raw {
    chain pre { type filter hook prerouting priority raw; iifname { lan0, lan1 } notrack; }
}
"""


@on(EACH)
def test_what_conntrack_does_not_track_does_not_leave_untranslated(
    lab: Lab, translated: Router
) -> None:
    """Where conntrack translates it does not leave at all."""
    tracked = translated.variant.tracked
    lab.nft("router", NOTRACK)
    assert unanswered(lab, "a", SERVER) == tracked
    assert not seen_at_isp(lab)
    assert f"packets {int(tracked)} " in translated.ours()


@on(MODES)
def test_the_routers_internal_address_does_not_leave(lab: Lab, router: Router) -> None:
    inside = "fd5e:ed00:1234::1"
    router.pd("restore")
    assert ping(lab, "router", SERVER, "-I", inside, "-W0.3") == "nothing"
    router.set(OLD)
    assert ping(lab, "router", SERVER, "-I", inside) == f"answered by {SERVER}"
    assert not seen_at_isp(lab)


@on(MODES)
def test_the_guard_can_be_switched_off(lab: Lab, router: Router) -> None:
    text = config() + "[firewall]\nguard = false\n"
    router.configure(text)
    router.pd("restore")
    assert unanswered(lab, "a", SERVER)
    assert seen_at_isp(lab)
    router.set(OLD)
    assert reaches(lab, "a", SERVER)


@on(EACH)
def test_a_link_that_is_down_rejects_and_comes_back(lab: Lab, translated: Router) -> None:
    lab.sysctl("isp", "net.ipv6.conf.wan.keep_addr_on_down", 1)
    lab.run("isp", ["ip", "link", "set", "wan", "down"])
    translated.hook("NOCARRIER")
    assert ping(lab, "a", SERVER) == REJECTED
    assert "has no carrier" in translated.pd("status", code=1).stdout
    lab.run("isp", ["ip", "link", "set", "wan", "up"])
    lab.isp_route(OLD)
    carrier = lab.path("router", "/sys/class/net/eth0/carrier")
    lab.wait(lambda: carrier.read_text() == "1\n", 5, "carrier")
    assert ping(lab, "a", SERVER) == REJECTED
    translated.hook("CARRIER")
    lab.wait(lambda: reaches(lab, "a", SERVER), 5, "the uplink to be in use again")
    assert not seen_at_isp(lab)


@on(EACH)
def test_bypassed_destinations_are_reached_untranslated(lab: Lab, router: Router) -> None:
    router.configure(config(uplink='bypass = ["fd00:cafe::/32"]'))
    router.set(OLD)
    remote = "fd00:cafe::1"
    lab.run("isp", ["ip", "addr", "add", f"{remote}/128", "dev", "lo", "nodad"])
    lab.isp_route("fd5e:ed00:1234::/58")
    echo = Echo(lab, "isp")
    assert ask(lab, "a", "tcp", remote) == "same"
    assert echo.sources() == {A}
    router.pd("unset", "wan")
    assert ask(lab, "a", "tcp", remote) == "same"
    assert ping(lab, "a", SERVER) == REJECTED


@on(EACH)
def test_the_router_talks_ula_with_its_upstream(lab: Lab, router: Router) -> None:
    upstream = "fd00:feed::"
    lab.run("isp", ["ip", "addr", "add", f"{upstream}1/64", "dev", "wan", "nodad"])
    router.run("ip", "addr", "add", f"{upstream}2/64", "dev", "eth0", "nodad")
    echo = Echo(lab, "isp")
    router.pd("restore")
    assert ask(lab, "router", "udp", f"{upstream}1") == "same"
    router.set(OLD)
    assert ask(lab, "router", "tcp", f"{upstream}1") == "same"
    assert echo.sources() == {f"{upstream}2"}


# ---- inbound = false ---------------------------------------------------------------------------


@on([*NETMAP, STATELESS])
def test_without_inbound_nothing_comes_in_by_itself(lab: Lab, router: Router) -> None:
    router.configure(config("inbound = false"))
    router.set(OLD)
    Echo(lab, "a")
    assert unanswered(lab, "isp", router.outside(A))
    assert ask(lab, "isp", "tcp", router.outside(A), patience=1).startswith("failed")


@on(RFC6296)
def test_without_conntrack_and_inbound_there_would_be_no_answers(router: Router) -> None:
    router.configure(config("inbound = false"))
    said = router.pd("check", code=78)
    assert "nothing tells an answer from a new connection" in said.stdout + said.stderr


@on([*NETMAP, STATELESS])
def test_without_inbound_answers_and_hairpin_pass(lab: Lab, router: Router) -> None:
    router.configure(config("inbound = false"))
    router.set(OLD)
    outside, inside = Echo(lab, "isp", SERVER), Echo(lab, "b")
    assert ask(lab, "a", "tcp", SERVER, MEGABYTE) == ask(lab, "a", "udp", SERVER) == "same"
    assert ask(lab, "a", "tcp", router.outside(B)) == "same"
    assert reaches(lab, "router", router.outside(B))
    assert outside.sources() == inside.sources() == {router.outside(A)}


# ---- slices and many translations ------------------------------------------------------------


@on(EACH)
def test_a_slice_of_a_larger_delegation(lab: Lab, router: Router) -> None:
    router.configure(config("subnet = 2"))
    router.set("2001:db8:4000::/56")
    a, b = (router.outside(host, "2001:db8:4000:80::/58") for host in (A, B))
    echo = Echo(lab, "isp", SERVER)
    assert ask(lab, "a", "udp", SERVER) == "same"
    assert echo.sources() == {a}
    assert reaches(lab, "isp", a) and reaches(lab, "a", b)
    assert unanswered(lab, "isp", router.outside(A))
    assert router.routes("type", "unreachable", "exact", "2001:db8:4000::/56")


def test_a_slice_that_is_not_there_is_refused(lab: Lab, router: Router) -> None:
    router.configure(config("subnet = 2"))
    router.set(OLD)
    assert "has no subnet 2" in router.pd("status", code=1).stdout
    assert ping(lab, "a", SERVER) == REJECTED


def test_a_short_delegation_is_refused(lab: Lab, router: Router) -> None:
    router.set("2001:db8:4000::/64")
    assert "is smaller than internal" in router.pd("status", code=1).stdout
    assert ping(lab, "a", SERVER) == ping(lab, "b", SERVER).replace(":1::1", "::1") == REJECTED
    assert not seen_at_isp(lab)


@on(EACH)
def test_a_short_delegation_serves_the_lowest_part(lab: Lab, router: Router) -> None:
    router.configure(config('on_short = "partial"'))
    router.set("2001:db8:4000::/64")
    assert reaches(lab, "a", SERVER) and reaches(lab, "isp", router.outside(A))
    assert ping(lab, "b", SERVER) == REJECTED.replace("::1:", ":1::1:")
    assert not seen_at_isp(lab)


def per_lan(number: int) -> Iterable[IPv6Network]:
    """That many /64 from the beginning of the internal prefix on."""
    base = int(IPv6Network("fd5e:ed00:1234::/48").network_address)
    return (IPv6Network((base + (n << 64), 64)) for n in range(number))


@on([*EACH, IPTABLES[1]])
def test_two_hundred_translations(lab: Lab, router: Router) -> None:
    nets = list(per_lan(200))
    blocks = [
        f'[[translation]]\nuplink = "wan"\ninternal = "{net}"\nsubnet = {200 - n}\n'
        for n, net in enumerate(nets)
    ]
    router.configure('[uplink.wan]\ninterface = "eth0"\n' + "\n".join(blocks))
    router.set("2001:db8:4000::/48")
    a = router.outside(A, "2001:db8:4000:c8::/64", nets[0])
    b = router.outside(B, "2001:db8:4000:c7::/64", nets[1])
    echo = Echo(lab, "isp", SERVER)
    assert ask(lab, "a", "udp", SERVER) == ask(lab, "b", "udp", SERVER) == "same"
    assert echo.sources() == {a, b}
    assert reaches(lab, "isp", a) and reaches(lab, "a", b)
    router.set("2001:db8:8000::/48")
    assert ask(lab, "a", "udp", SERVER) == "same"
    assert router.outside(A, "2001:db8:8000:c8::/64", nets[0]) in echo.sources()
    assert lab.count().leaked == 0
    with router.unwritten():
        router.pd("restore")


@on(EACH)
@pytest.mark.parametrize("number", [1, 17])
def test_a_lan_that_uses_the_delegation_itself(lab: Lab, router: Router, number: int) -> None:
    """Parts of the delegation that nothing translates are routed as ever."""
    blocks = [
        f'[[translation]]\nuplink = "wan"\ninternal = "fd5e:ed00:1234:{n:x}::/64"\nsubnet = {n}\n'
        for n in range(2, 2 + 2 * number, 2)
    ]
    router.configure('[uplink.wan]\ninterface = "eth0"\n' + "\n".join(blocks))
    router.set("2001:db8:4000::/56")
    outside, inside = "2001:db8:4000:f1::2", "2001:db8:4000:f1::1"
    router.run("ip", "addr", "add", f"{inside}/64", "dev", "lan0", "nodad")
    lab.run("a", ["ip", "addr", "add", f"{outside}/64", "dev", "eth0", "nodad"])
    assert reaches(lab, "isp", outside) and reaches(lab, "isp", inside)
    assert ping(lab, "a", SERVER, "-I", outside) == f"answered by {SERVER}"
    assert reaches(lab, "router", outside)


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ('internal = "fd5e:ed00:1234:20::/60"\nsubnet = 1', "overlap"),
        ('internal = "fd5e:ed00:ffff::/58"', "subnet"),
    ],
)
def test_overlapping_translations_are_a_mistake(router: Router, second: str, why: str) -> None:
    router.configure(config() + f'[[translation]]\nuplink = "wan"\n{second}\n')
    said = router.pd("check", code=78)
    assert why in said.stdout + said.stderr
    router.pd("restore", code=78)


@on(ALL)
def test_the_excluded_prefix_is_not_translated(lab: Lab, router: Router) -> None:
    variables = {
        "new_dhcp6_ia_pd1_prefix1": "2001:db8:4000::",
        "new_dhcp6_ia_pd1_prefix1_length": "58",
        "new_dhcp6_ia_pd1_prefix1_pltime": "500",
        "new_dhcp6_ia_pd1_prefix1_vltime": "1000",
        "new_dhcp6_ia_pd1_iaid": "00000001",
        "new_dhcp6_ia_pd1_prefix1_pd_exclude_prefix_len": "64",
        "new_dhcp6_ia_pd1_prefix1_pd_exclude_subnetID": "04",
    }
    router.hook("BOUND6", variables)
    assert reaches(lab, "a", SERVER) and reaches(lab, "isp", router.outside(A))
    assert unanswered(lab, "isp", router.outside(B))
    assert ping(lab, "b", SERVER) == REJECTED.replace("::1:", ":1::1:")
    assert not seen_at_isp(lab)


# ---- several uplinks, static prefixes ------------------------------------------------------

TWO = """
[uplink.first]
interface = "eth0"
[uplink.second]
interface = "eth1"
[[translation]]
uplinks = ["first", "second"]
internal = "fd5e:ed00:1234::/58"
"""
WRONG = """
table ip6 wrong {
    counter sources { }
    chain c {
        type filter hook prerouting priority raw;
        iifname "wan" ip6 saddr 2001:db8:4000::/58 counter name sources
    }
}
"""


@on(EACH)
def test_each_uplink_has_its_own_prefix(variant: Variant) -> None:
    """A flow keeps the prefix that it began with, where conntrack knows of it, and does not leave
    by another uplink; without it each packet is translated for where it leaves."""
    with Lab(uplinks=2) as lab:
        router = Router(lab, TWO, variant)
        router.set(OLD, uplink="first")
        router.set(NEW, uplink="second")
        a, b, b2 = router.outside(A), router.outside(B), router.outside(B, NEW)
        first, second = Echo(lab, "isp", SERVER), Echo(lab, "isp2", SERVER)
        assert ask(lab, "a", "udp", SERVER, source=1001) == "same"
        assert reaches(lab, "isp", a) and reaches(lab, "a", b) and reaches(lab, "a", b2)
        lab.nft("isp2", WRONG)
        router.run("ip", "-6", "route", "replace", "default", "via", ISP_2, "dev", "eth1")
        router.run("ip", "-6", "route", "del", "default", "dev", "eth0")
        assert ask(lab, "a", "udp", SERVER, source=1002) == "same"
        said = ask(lab, "a", "udp", SERVER, source=1001, patience=1)
        assert said == ("failed: timed out" if variant.tracked else "same")
        assert "packets 0 " in lab.run("isp2", ["nft", "list", "ruleset"]).stdout.split("wrong")[1]
        assert (first.sources(), second.sources()) == ({a}, {router.outside(A, NEW)})
        assert lab.count("isp").leaked == lab.count("isp2").leaked == 0


@on(MODES)
def test_a_static_prefix(lab: Lab, router: Router) -> None:
    router.configure(config(uplink=f'prefix = "{OLD}"'))
    router.pd("restore")
    assert reaches(lab, "a", SERVER) and reaches(lab, "isp", router.outside(A))
    router.hook("BOUND6", dhcp(NEW))
    assert router.prefixes() == {OLD: "current"}
    assert "static" in router.pd("set", "wan", NEW, code=64).stderr
    router.configure(config(uplink=f'prefix = "{NEW}"'))
    router.pd("restore")
    assert router.prefixes() == {NEW: "current"}
    old, new = router.outside(A), router.outside(A, NEW)
    assert reaches(lab, "isp", new) and unanswered(lab, "isp", old)


# ---- unreachable route -----------------------------------------------------------------------

NOBODY = "2001:db8:4000:30::99"
CROSSINGS = """
table ip6 crossings {
    counter passes { }
    chain c {
        type filter hook prerouting priority raw;
        iifname "eth0" ip6 daddr 2001:db8:4000::/56 counter name passes
    }
}
"""


def crossings(lab: Lab) -> int:
    """How often a packet to the delegation came over the wire."""
    text = lab.run("router", ["nft", "list", "counter", "ip6", "crossings", "passes"]).stdout
    return int(text.split("packets ")[1].split()[0])


def crosses_once(lab: Lab, router: Router, keys: str) -> bool:
    """A ping from the ISP to an address that nobody has is answered, and not sent back."""
    router.configure(config(keys))
    router.set("2001:db8:4000::/56")
    lab.nft("router", CROSSINGS)
    assert "unreachable" in ping(lab, "isp", "2001:db8:4000:f0::99").lower()
    return crossings(lab) == 1


@on(EACH)
@pytest.mark.parametrize("keys", ["", "hairpin = false"])
def test_an_unassigned_address_crosses_the_wire_once(lab: Lab, router: Router, keys: str) -> None:
    assert crosses_once(lab, router, keys)


@on([NETMAP[0], STATELESS])
def test_an_unassigned_address_crosses_the_wire_once_without_inbound(
    lab: Lab, router: Router
) -> None:
    assert crosses_once(lab, router, "inbound = false")


def test_dhcpcds_unreachable_route_is_kept_and_not_doubled(lab: Lab, router: Router) -> None:
    theirs = ("unreachable", OLD, "dev", "lo", "proto", "dhcp", "metric", "1024")
    router.run("ip", "-6", "route", "add", *theirs)
    router.set(OLD)
    here = router.routes("exact", OLD, "type", "unreachable")
    assert len(here) == 1 and "proto dhcp" in here[0]
    router.run("ip", "-6", "route", "del", *theirs)
    router.pd("restore")
    here = router.routes("exact", OLD, "type", "unreachable")
    assert len(here) == 1 and "proto 157" in here[0]
    router.run("ip", "-6", "route", "add", *theirs)
    router.pd("flush")
    here = router.routes("exact", OLD, "type", "unreachable")
    assert len(here) == 1 and "proto dhcp" in here[0]


def test_flush_takes_our_routes_and_rules_only(lab: Lab, router: Router) -> None:
    router.run("ip", "-6", "route", "add", "unreachable", "2001:db8:7777::/48")
    router.run("ip", "-6", "rule", "add", "to", "2001:db8:7777::/48", "lookup", "77")
    routes, rules = router.routes(), router.run("ip", "-6", "rule")
    router.configure(config(uplink="table = 201"))
    router.set(OLD)
    assert router.routes() != routes and router.run("ip", "-6", "rule") != rules
    router.pd("flush")
    assert router.routes() == routes and router.run("ip", "-6", "rule") == rules
    assert router.ours() == ""


# ---- IPsec -----------------------------------------------------------------------------------


ENDS = "src 2001:db8:ffff::2 dst 2001:db8:ffff::1 proto esp"
KEYS = f"auth hmac(sha256) 0x{'5e' * 32} enc cbc(aes) 0x{'ed' * 16}"
IPSEC = (
    f"ip xfrm state add {ENDS} spi 0x100 mode tunnel {KEYS}",
    f"ip xfrm policy add src {INTERNAL} dst fd00:5ec::/64 dir out tmpl {ENDS} mode tunnel",
)
ESP = """
table ip6 tunnelled {
    counter encrypted { }
    chain c { type filter hook prerouting priority raw; meta l4proto esp counter name encrypted; }
}
"""


@on(EACH)
def test_packets_for_an_ipsec_tunnel_are_not_translated(lab: Lab, translated: Router) -> None:
    for line in IPSEC:
        done = lab.run("router", line.split(), check=False)
        if done.returncode:
            pytest.skip(f"this kernel has no IPsec: {done.stderr.strip()}")
    lab.nft("isp", ESP)
    assert ping(lab, "a", "fd00:5ec::1") == "nothing"
    counted = lab.run("isp", ["nft", "list", "counter", "ip6", "tunnelled", "encrypted"]).stdout
    assert "packets 1 " in counted
    assert translated.outside(A) not in str(translated.flows("-d", "fd00:5ec::1"))
    assert lab.count().leaked == 0
