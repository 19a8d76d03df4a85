"""Uplinks without a lease (tunnels, static ISPs), and whoever else has routes and rules."""

import sys
from collections.abc import Iterator

import pytest

from tests.lab import SERVER, Lab

from .pd import (
    ENVIRONMENT,
    NEEDS_ROOT,
    NEW,
    OLD,
    A,
    B,
    Echo,
    Router,
    ask,
    end_processes,
    ping,
    reaches,
)
from .test_uplinks import (
    BY_ONE,
    BY_TWO,
    ROUTER_TWO,
    TWO,
    count_wrong,
    none_wrong,
    sources,
)

pytestmark = NEEDS_ROOT

TUNNELS = """
[uplink.sixxs0]
interface = "eth0"
table = "sixxs0"
prefix = "2001:db8:a::1/128"
[uplink.sixxs1]
interface = "eth1"
table = "sixxs1"
prefix = "2001:db8:b::1/128"
"""
NAMES = "200 sixxs0\n201\tsixxs1 # the other\n"
INSIDE = "fd5e:ed00:1234::1"
ONE, OTHER = "2001:db8:a::1", "2001:db8:b::1"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(uplinks=2) as network:
        yield network


@pytest.fixture
def router(lab: Lab) -> Router:
    """With a prefix on each uplink."""
    router = Router(lab, TWO)
    router.set(OLD, uplink="one")
    router.set(NEW, uplink="two")
    return router


@pytest.fixture
def tunnels(lab: Lab) -> Router:
    """Two single addresses, one at each tunnel; table main knows the way by a third ISP only."""
    lab.write("router", "/etc/iproute2/rt_tables", NAMES)
    router = Router(lab, TUNNELS)
    for isp, interface, address in (("isp", "eth0", ONE), ("isp2", "eth1", OTHER)):
        router.run("ip", "addr", "add", f"{address}/128", "dev", interface, "nodad")
        lab.isp_route(f"{address}/128", isp)
    return router


def all_by_its_own_uplink(lab: Lab, isp: str, address: str) -> None:
    """Of what the router sends from an address."""
    sent = lab.start_flows("router", 200, 0.2, address).wait().sent
    lab.wait(lambda: lab.count(isp).by_prefix[f"{address}/128"] == sent, 5, "all of them")
    assert lab.count(isp).arrived == sent


def test_two_uplinks_two_tables_and_each_answers_by_itself(lab: Lab, tunnels: Router) -> None:
    for isp, address in (("isp", ONE), ("isp2", OTHER)):
        lab.count_prefix(f"{address}/128", isp=isp)
    assert ping(lab, "isp2", OTHER, "-I", SERVER) == "nothing", "main answers by the first"
    tunnels.pd("restore")
    for isp, address in (("isp", ONE), ("isp2", OTHER)):
        assert ping(lab, isp, address, "-I", SERVER) == f"answered by {address}"
        assert ping(lab, "router", SERVER, "-I", address) == f"answered by {SERVER}"
        all_by_its_own_uplink(lab, isp, address)
    assert "table 200" in tunnels.pd("status").stdout
    rules = tunnels.run("ip", "-6", "rule", "show")
    assert f"from {ONE} lookup sixxs0" in rules and f"from {OTHER} lookup sixxs1" in rules
    with tunnels.unwritten():
        tunnels.pd("restore")
    tunnels.pd("flush")
    assert "proto 157" not in tunnels.run("ip", "-6", "rule") + "".join(tunnels.routes())


def test_a_name_that_no_table_has_is_a_mistake(lab: Lab) -> None:
    router = Router(lab, TUNNELS)
    said = router.pd("check", code=78).stderr
    assert "uplink.sixxs0.table" in said and "rt_tables" in said


# ---- gateways ----------------------------------------------------------------------------------


def table(router: Router, number: int = 201) -> str:
    return router.run("ip", "-6", "route", "show", "table", str(number), "default")


def test_the_gateway_is_followed(lab: Lab, router: Router) -> None:
    assert "default via 2001:db8:ffff::1 dev eth0 proto 157" in table(router)
    for route, gateway in (
        (["default", "via", "fe80::1", "dev", "eth0", "metric", "5", "proto", "ra"],
         "via fe80::1 dev eth0"),
        (["default", "dev", "eth0", "metric", "4"], "default dev eth0"),
    ):
        router.run("ip", "-6", "route", "add", *route)
        router.hook("RENEW6")
        assert gateway in table(router)
        assert table(router).count("default") == 2
        with router.unwritten():
            router.hook("RENEW6")


def test_the_mtu_of_the_default_route_is_followed(lab: Lab, router: Router) -> None:
    """dhcpcd puts there what the router advertised."""
    for mtu, answer in (("1400", f"{INSIDE}: Packet too big: mtu=1400"),
                        ("1500", f"answered by {SERVER}")):
        router.run("ip", "-6", "route", "replace", "default", "via", "2001:db8:ffff::1", "dev",
                   "eth0", "metric", "1027", "mtu", mtu)
        router.hook("ROUTERADVERT")
        assert f"mtu {mtu} " in table(router)
        assert ping(lab, "a", SERVER, "-s1420", "-Mdo") == answer
        lab.run("a", ["ip", "-6", "route", "flush", "cache"])
    with router.unwritten():
        router.hook("ROUTERADVERT")


def test_no_default_route_is_no_way_out(lab: Lab, router: Router) -> None:
    router.run("ip", "-6", "route", "del", "default", "dev", "eth0")
    assert router.pd("plan", code=1).stdout
    router.hook("ROUTERADVERT")
    assert sources(lab) == {BY_TWO}
    assert "no default route by eth0" in router.pd("status").stdout
    assert "unreachable default" in table(router) and "via" not in table(router)


def test_an_advertisement_does_not_matter_without_a_table(lab: Lab, router: Router) -> None:
    router.configure(TWO.replace("table = 201\n", "").replace("table = 202\n", ""))
    router.pd("restore")
    router.run("nft", "flush", "ruleset")
    router.hook("ROUTERADVERT")
    assert router.ours() == ""


def test_a_gateway_by_hand(lab: Lab, router: Router) -> None:
    router.configure(TWO.replace("table = 201", 'table = 201\ngateway = "fe80::99"')
                     .replace("table = 202", 'table = 202\ngateway = "none"'))
    router.pd("restore")
    assert "default via fe80::99 dev eth0" in table(router)
    assert "default dev eth1" in table(router, 202)


def test_a_route_that_the_kernel_refuses_keeps_no_other_uplink_from_working(lab: Lab) -> None:
    router = Router(lab, TWO.replace("201", '201\ngateway = "2001:db8:ffff::2"'))  # the router's
    router.pd("set", "one", OLD, code=70)
    assert "by eth0: Invalid argument" in router.pd("set", "two", NEW, code=70).stderr
    assert sources(lab) == {BY_TWO}
    router.configure(TWO)
    router.pd("restore")
    assert sources(lab) == {BY_ONE}
    router.configure(TWO.replace("201", '201\ngateway = "fe80::1"'))
    lab.sysctl("router", "net.ipv6.conf.eth0.disable_ipv6", 1)
    said = router.hook("NOCARRIER", code=70).stderr
    assert "disable_ipv6" in said
    assert sources(lab) == {BY_TWO}
    assert "eth0" not in router.run("ip", "-6", "route", "show", "table", "201")


def test_a_route_of_somebody_else_stays_in_the_table(lab: Lab, router: Router) -> None:
    mine = ["2001:db8:77::/48", "via", "2001:db8:ffff::1", "dev", "eth0", "table", "201"]
    router.run("ip", "-6", "route", "add", *mine)
    router.run("ip", "-6", "route", "add", "default", "via", "fe80::5", "dev", "eth0", "table",
               "201", "metric", "1024")
    with router.unwritten():
        router.pd("restore")
    router.pd("flush")
    assert "via fe80::5" in table(router)
    assert "2001:db8:77::/48" in router.run("ip", "-6", "route", "show", "table", "201")


# ---- other people's rules ----------------------------------------------------------------------


def test_rules_of_others_stay_and_decide_for_their_sources(lab: Lab, router: Router) -> None:
    other = "fd00:77::1"
    router.run("ip", "addr", "add", f"{other}/128", "dev", "lan0", "nodad")
    router.run("ip", "-6", "route", "add", "default", "via", "2001:db8:fffe::1", "dev", "eth1",
               "table", "77")
    for priority in ("100", "20000"):
        router.run("ip", "-6", "rule", "add", "from", other, "lookup", "77", "pref", priority)
        router.pd("restore")
        assert "dev eth1" in router.run("ip", "-6", "route", "get", SERVER, "from", other)
        router.run("ip", "-6", "rule", "del", "pref", priority)
    router.run("ip", "-6", "rule", "add", "from", "fd00:88::/64", "lookup", "77", "pref", "15702")
    before = router.run("ip", "-6", "rule", "show", "lookup", "77")
    router.pd("flush")
    assert router.run("ip", "-6", "rule", "show", "lookup", "77") == before


PEAK = """
import re
from pdreactor.cli import main
print(main(["restore"]), re.search("VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def test_a_pass_with_the_routes_of_half_the_internet_needs_no_more_memory(
    lab: Lab, router: Router
) -> None:
    many = "".join(f"route add 2a00:{n >> 8:x}:{n & 255:x}::/48 via 2001:db8:ffff::1 dev eth0\n"
                   for n in range(20_000))
    lab.run("router", ["ip", "-6", "-batch", "-"], input=many, timeout=60)
    router.run("ip", "-6", "route", "add", "blackhole", OLD)
    done = lab.run("router", [sys.executable, "-c", PEAK], env=ENVIRONMENT, timeout=60)
    code, peak = map(int, done.stdout.split())
    assert code == 0 and peak < 60_000, "kB"
    assert [line for line in router.routes("type", "unreachable") if OLD in line] == []
    with router.unwritten():
        router.pd("restore")


def test_more_specific_routes_of_table_main_are_followed(lab: Lab, router: Router) -> None:
    """With the prefix of the uplink that they lead to."""
    count_wrong(lab)
    router.run("ip", "-6", "route", "add", "2001:db8:e::/48", "via", "2001:db8:fffe::1", "dev",
               "eth1")
    assert sources(lab) == {BY_TWO}
    router.run("ip", "-6", "route", "del", "2001:db8:e::/48")
    assert sources(lab) == {BY_ONE}
    assert none_wrong(lab)


def tunnel(lab: Lab, router: Router) -> None:
    """What "wg-quick up" does for a full tunnel, with a link to host b in place of a tunnel."""
    router.run("ip", "-6", "route", "add", "default", "via", B, "dev", "lan1", "table", "51820")
    router.run("ip", "-6", "rule", "add", "not", "fwmark", "51820", "lookup", "51820")
    router.run("ip", "-6", "rule", "add", "lookup", "main", "suppress_prefixlength", "0")


def way(router: Router, source: str, *options: str) -> str:
    """The interface that a packet of that source takes."""
    iif = ["iif", "lan0"] if source == A else []
    found = router.run("ip", "-6", "route", "get", SERVER, "from", source, *iif, *options)
    return found.partition(" dev ")[2].split()[0]


def test_a_full_tunnel_that_was_there_before_has_what_is_the_routers(lab: Lab) -> None:
    router = Router(lab, TWO)
    tunnel(lab, router)
    router.set(OLD, uplink="one")
    router.set(NEW, uplink="two")
    assert way(router, A) == "eth0"
    assert way(router, ROUTER_TWO) == "eth1"
    assert way(router, "fd00:99::1", "iif", "lan0") == "lan1"
    assert sources(lab) == {BY_ONE}


def test_a_full_tunnel_that_comes_later_has_everything(lab: Lab, router: Router) -> None:
    tunnel(lab, router)
    assert way(router, A) == "lan1"
    assert way(router, ROUTER_TWO) == "lan1"
    router.pd("restore")
    assert way(router, A) == "lan1", "whoever came later stays before us"


def test_marks_that_somebody_restores_do_not_lead_astray(lab: Lab, router: Router) -> None:
    """As wg-quick does with every UDP packet: CONNMARK --restore-mark."""
    count_wrong(lab)
    router.run("ip6tables", "-t", "mangle", "-A", "PREROUTING", "-p", "udp", "-j", "CONNMARK",
               "--restore-mark")
    Echo(lab, "a")
    assert ask(lab, "isp2", "udp", BY_TWO) == ask(lab, "isp", "udp", BY_ONE) == "same"
    Echo(lab, "b")
    assert ask(lab, "a", "udp", router.outside(B, NEW)) == "same"
    assert sources(lab) == {BY_ONE}
    assert none_wrong(lab)


# ---- telling others ----------------------------------------------------------------------------


def test_on_change_is_told_of_both_uplinks(lab: Lab, router: Router) -> None:
    lab.write("router", "/etc/told", "#!/bin/sh\nenv | grep ^PDREACTOR_ >/run/told\n", 0o755)
    router.configure(TWO + '[[on_change]]\nexec = ["/etc/told"]\n')
    router.pd("uplink", "one", "down")
    told = dict(line.split("=", 1) for line in lab.read("router", "/run/told").splitlines())
    assert told == {
        "PDREACTOR_REASON": "uplink one down",
        "PDREACTOR_UPLINK": "two", "PDREACTOR_OLD_UPLINK": "one",
        "PDREACTOR_INTERFACE": "eth1",
        "PDREACTOR_PREFIX": NEW, "PDREACTOR_OLD_PREFIX": OLD,
        "PDREACTOR_INTERNAL": "fd5e:ed00:1234::/58",
    }


# ---- lifetimes ---------------------------------------------------------------------------------


def test_a_lifetime_ends_without_a_word_of_dhcpcd(lab: Lab, router: Router) -> None:
    for isp in ("isp", "isp2"):
        lab.start_echo(isp)
    before, after = lab.sniff(OLD), lab.sniff(NEW, "isp2")
    flow = lab.start_running_flow()
    before.wait()
    router.set(OLD, uplink="one", valid=1)
    lab.wait(lambda: router.pd("plan", code=None).returncode == 1, 5, "the end of the lifetime")
    router.pd("restore")
    after.wait()
    assert list(flow.stop().sources) == [BY_ONE, BY_TWO]
    end_processes(lab)
    assert sources(lab) == {BY_TWO}
    assert router.prefixes("one") in ({}, {OLD: "expired"})
    assert "expired" in router.pd("status").stdout
    router.set(OLD, uplink="one")
    assert sources(lab) == {BY_ONE}


def test_the_only_uplinks_prefix_is_kept(lab: Lab) -> None:
    alone = TWO.replace('uplinks = ["one", "two"]', 'uplink = "one"')
    router = Router(lab, alone)
    router.set(OLD, uplink="one", valid=1)
    lab.wait(lambda: router.prefixes("one") == {OLD: "expired"}, 5, "the end of the lifetime")
    router.pd("restore")
    assert sources(lab) == {BY_ONE}
    router.configure(alone + 'on_expire = "withdraw"\n')
    router.pd("restore")
    assert not reaches(lab, "a", SERVER)


def test_restore_with_an_interface_that_is_not_there_yet(lab: Lab, router: Router) -> None:
    router.configure(TWO.replace("eth0", "ppp0"))
    said = router.pd("restore").stderr
    assert "ppp0 is not there yet" in said
    assert "lookup 202" in router.run("ip", "-6", "rule", "show", "pref", "15702")
