"""doctor on a real router: faults made by hand are found, a router in order has none."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import SERVER, Lab
from tests.lab.servers import DHCPCD_CONF, HOOK_DIRECTORY

from .pd import (
    ENVIRONMENT,
    IPTABLES,
    NEEDS_ROOT,
    NEW,
    OLD,
    RFC6296,
    STATELESS,
    B,
    Router,
    config,
    dhcp,
    python,
    reaches,
)
from .test_coexistence import FIREWALLS, stateful
from .test_uplinks import TWO

pytestmark = NEEDS_ROOT

CONF = DHCPCD_CONF.format(interface="eth0")
SECOND = CONF.replace("allowinterfaces eth0", "allowinterfaces eth0 eth1") + (
    "interface eth1\n    ipv6only\n    noipv6rs\n    ia_pd 2/::/58 nosuch0/0/58\n")


def equip(router: Router, conf: str = CONF) -> Router:
    """dhcpcd's configuration, and the hook file."""
    router.lab.write("router", "/etc/dhcpcd.conf", conf)
    router.lab.write("router", f"{HOOK_DIRECTORY}/60-pdreactor", "pdreactor-hook\n")
    return router


@pytest.fixture
def router(router: Router) -> Router:
    return equip(router)


@pytest.fixture
def two() -> Iterator[Router]:
    """With two uplinks, each with a table."""
    with Lab(uplinks=2) as lab:
        yield equip(Router(lab, TWO), SECOND)


def doctor(router: Router) -> list[tuple[str, str]]:
    """(check, severity) of each finding, in order; the exit status goes with them."""
    done = router.pd("doctor", "--json", code=None)
    assert done.stderr == ""
    told: dict[str, Any] = json.loads(done.stdout)
    found = [(one["check"], one["severity"]) for one in told["findings"]]
    assert all(one["what"] and one["where"] and one["fix"] for one in told["findings"])
    assert done.returncode == any(severity == "error" for _, severity in found)
    assert told["ok"] == (done.returncode == 0)
    return sorted(found)


def test_a_router_in_order_has_no_fault_and_nothing_is_written(router: Router) -> None:
    """Also beside other people's firewalls: test_coexistence.py has everything pass there."""
    assert router.pd("doctor").stdout == "nothing found that would keep pdreactor from working\n"
    router.hook("BOUND6", dhcp(OLD))
    directory = router.lab.path("router", "/var/lib/pdreactor")
    files = sorted(directory.iterdir())
    with router.unwritten():
        assert doctor(router) == []
    assert sorted(directory.iterdir()) == files
    for name in ("masquerade", "firewalld's chains", "ip6tables", "ip6tables-legacy"):
        router.wipe()
        FIREWALLS[name](router.lab)
        assert (name, doctor(router)) == (name, [])


@pytest.mark.variants
def test_other_backends_and_modes_in_order(router: Router) -> None:
    """On Debian ip6tables is not the legacy variant, which is said."""
    for variant in (IPTABLES[1], RFC6296[0], STATELESS):
        router.variant = variant
        router.configure(config())
        router.set(OLD)
        router.lab.nft("router", stateful(variant))
        legacy = variant.backend == "iptables-legacy"
        assert (variant, doctor(router)) == (variant, [("version", "warning")] * legacy)
        router.wipe()


def test_faults_of_the_machine_and_of_dhcpcd(router: Router) -> None:
    lab = router.lab
    lab.sysctl("router", "net.ipv6.conf.all.forwarding", 0)
    assert doctor(router) == [("forwarding", "error")]
    lab.sysctl("router", "net.ipv6.conf.all.forwarding", 1)

    lab.sysctl("router", "net.ipv6.conf.eth0.accept_ra", 1)
    lab.run("router", ["ip", "-6", "route", "flush", "default"])
    assert doctor(router) == [("accept-ra", "error")]
    lab.sysctl("router", "net.ipv6.conf.eth0.accept_ra", 2)

    lab.write("router", "/etc/dhcpcd.conf", CONF.replace("ia_pd", "#ia_pd"))
    assert doctor(router) == [("dhcpcd-asks", "error")]
    lab.write("router", "/etc/dhcpcd.conf", CONF + "    script /etc/dhcpcd-pd-script\n")
    assert doctor(router) == [("dhcpcd-hook", "warning")]
    lab.path("router", f"{HOOK_DIRECTORY}/60-pdreactor").unlink()
    assert doctor(router) == [("dhcpcd-hook", "error")] * 2
    lab.path("router", "/etc/dhcpcd.conf").unlink()
    assert doctor(router) == []

    router.configure("nonsense = 1\n")
    assert doctor(router) == [("configuration", "error")] * 2
    assert "fix:   correct it" in router.pd("doctor", code=1).stdout


def test_faults_of_firewalls(router: Router) -> None:
    lab = router.lab
    router.hook("BOUND6", dhcp(OLD))
    lab.nft("router", """
        table ip6 early {
            chain first { type nat hook postrouting priority 90; oifname eth0 masquerade; }
            chain perhaps {
                type nat hook postrouting priority 80
                oifname eth0 meta mark 7 masquerade
            }
            chain wall { type filter hook forward priority 5; policy drop;
                ct state vmap { established : accept, related : accept }
                jump lans
            }
            chain lans { iifname { lan0, lan1 } oifname eth0 tcp dport 443 accept; }
            chain marks { type filter hook prerouting priority 0; ct mark set meta mark; }
        }""")
    assert doctor(router) == [("hairpin-drop", "warning"), ("mark", "warning"),
                              ("nat-before", "error"), ("nat-before", "warning")]
    lab.run("router", ["nft", "delete", "table", "ip6", "early"])
    assert doctor(router) == []
    lab.run("router", ["ip6tables", "-P", "FORWARD", "DROP"])
    lab.run("router", ["ip6tables", "-t", "mangle", "-A", "PREROUTING", "-j", "CONNMARK",
                       "--save-mark"])
    lab.run("router", ["ip6tables-legacy", "-A", "INPUT", "-j", "ACCEPT"])
    assert doctor(router) == [
        ("forward-drop", "error"), ("forward-drop", "error"), ("hairpin-drop", "warning"),
        ("mark", "warning"), ("version", "warning")]


@pytest.mark.parametrize("program", ["nft", "ip6tables"])
def test_the_rules_that_it_says_are_accepted_and_do_it(router: Router, program: str) -> None:
    router.hook("BOUND6", dhcp(OLD))
    if program == "nft":
        router.lab.nft("router", "table inet x { chain c { type filter hook forward priority 0; "
                                 "policy drop; }; }")
    else:
        router.run("ip6tables", "-P", "FORWARD", "DROP")
    ways = ("a", SERVER), ("a", router.outside(B))
    assert not any(reaches(router.lab, *way) for way in ways)
    told = json.loads(router.pd("doctor", "--json", code=1).stdout)
    for fix in (one["fix"].removeprefix("accept them there: ") for one in told["findings"]):
        words = f"add rule inet x c {fix}" if program == "nft" else fix
        router.run(program, *words.split(" "))
    assert all(reaches(router.lab, *way) for way in ways)
    assert doctor(router) == []


RULES = ("from fd5e:ed00::/16 lookup 99 priority 7", "lookup 202 priority 15702",
         "not fwmark 0xca6c lookup 51820 priority 20000", "fwmark 7 lookup 51820 priority 20001")
"""One before ours, one at a priority of ours that leads to a table of ours, a harmless one, and one
that takes our bits of the mark for its own. The first has host bits."""


def test_faults_of_routes_and_rules(two: Router) -> None:
    """A reverse path filter is one only without tables: with them its answers are right."""
    lab = two.lab
    two.set(OLD, uplink="one")
    two.set(NEW, uplink="two")
    lab.nft("router", "table inet rp { chain p { type filter hook prerouting priority raw; "
                      "fib saddr . iif oif missing drop; }; }")
    lab.run("router", ["ip6tables", "-t", "raw", "-A", "PREROUTING", "-m", "rpfilter", "--invert",
                       "-j", "DROP"])
    assert doctor(two) == []
    lab.run("router", ["ip", "-6", "route", "add", "default", "dev", "lan0", "table", "201"])
    for rule in RULES:
        lab.run("router", ["ip", "-6", "rule", "add", *rule.split()])
    assert doctor(two) == [("rule", "warning")] * 3 + [("table", "warning")] * 2
    two.pd("restore")
    two.configure(TWO.replace("table = 201", "").replace("table = 202", ""))
    assert doctor(two) == [("reverse-path", "warning")] * 2


def test_without_the_right_to_look(router: Router) -> None:
    argv = ["setpriv", "--bounding-set=-net_admin", "--", *python("pdreactor.cli"), "doctor"]
    done = router.lab.run("router", argv, check=False, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (77, "")
    assert done.stderr.count("\n") == 1 and "root" in done.stderr
