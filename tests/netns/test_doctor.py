"""doctor on a real router: faults made by hand are found, a router in order has none."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Lab
from tests.lab.servers import DHCPCD_CONF, HOOK_DIRECTORY

from .pd import IPTABLES, NEEDS_ROOT, NEW, OLD, RFC6296, STATELESS, Router, Variant, dhcp
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


def doctor(router: Router) -> list[tuple[str, str]]:
    """(check, severity) of each finding; the exit status goes with them."""
    done = router.pd("doctor", "--json", code=None)
    told: dict[str, Any] = json.loads(done.stdout)
    assert done.stderr == ""
    found = [(one["check"], one["severity"]) for one in told["findings"]]
    assert all(one["what"] and one["where"] and one["fix"] for one in told["findings"])
    assert done.returncode == ("error" in dict(found).values() or 0)
    assert told["ok"] == (done.returncode == 0)
    return found


def test_a_router_in_order_has_no_fault_and_nothing_is_written(router: Router) -> None:
    assert router.pd("doctor").stdout == "nothing found that would keep pdreactor from working\n"
    router.hook("BOUND6", dhcp(OLD))
    files = sorted(router.lab.path("router", "/var/lib/pdreactor").iterdir())
    with router.unwritten():
        assert doctor(router) == []
    assert sorted(router.lab.path("router", "/var/lib/pdreactor").iterdir()) == files


@pytest.mark.parametrize("variant", [*IPTABLES, STATELESS, RFC6296[0]], ids=str)
@pytest.mark.variants
def test_other_backends_and_modes_in_order(router: Router, variant: Variant) -> None:
    router.hook("BOUND6", dhcp(OLD))
    router.lab.nft("router", stateful(variant))
    expected = [("version", "warning")] if variant.backend == "iptables-legacy" else []
    assert doctor(router) == expected  # ip6tables is the other variant on Debian


@pytest.mark.parametrize(("name", "expected"), [
    ("stateful", []), ("masquerade", []), ("firewalld's chains", []),
    ("at our priorities", []),
    ("ip6tables", [("hairpin-drop", "warning")] * 0),
    ("ip6tables-legacy", []),
])
def test_beside_another_firewall_that_works(
        router: Router, name: str, expected: list[tuple[str, str]]) -> None:
    """Those beside which test_coexistence.py has everything pass."""
    router.hook("BOUND6", dhcp(OLD))
    FIREWALLS[name](router.lab)
    assert doctor(router) == expected


@pytest.fixture
def two() -> Iterator[Router]:
    with Lab(uplinks=2) as lab:
        yield equip(Router(lab, TWO), SECOND)


def test_faults_of_the_machine_and_of_dhcpcd(router: Router) -> None:
    lab = router.lab
    lab.sysctl("router", "net.ipv6.conf.all.forwarding", 0)
    assert doctor(router) == [("forwarding", "error")]
    lab.sysctl("router", "net.ipv6.conf.all.forwarding", 1)

    lab.sysctl("router", "net.ipv6.conf.eth0.accept_ra", 1)
    lab.run("router", ["ip", "-6", "route", "flush", "default"])
    assert doctor(router) == [("accept-ra", "error")]
    lab.sysctl("router", "net.ipv6.conf.eth0.accept_ra", 2)
    assert doctor(router) == []

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
    assert sorted(doctor(router)) == [
        ("hairpin-drop", "warning"), ("mark", "warning"), ("nat-before", "error"),
        ("nat-before", "warning")]
    lab.run("router", ["nft", "delete", "table", "ip6", "early"])
    lab.run("router", ["ip6tables", "-P", "FORWARD", "DROP"])
    lab.run("router", ["ip6tables-legacy", "-A", "INPUT", "-j", "ACCEPT"])
    lab.run("router", ["ip6tables", "-t", "mangle", "-A", "PREROUTING", "-j", "CONNMARK",
                       "--save-mark"])
    assert sorted(doctor(router)) == [
        ("forward-drop", "error"), ("forward-drop", "error"), ("hairpin-drop", "warning"),
        ("mark", "warning"), ("version", "warning")]


def test_faults_of_routes_and_rules(two: Router) -> None:
    lab = two.lab
    two.set(OLD, uplink="one")
    two.set(NEW, uplink="two")
    assert doctor(two) == []
    lab.run("router", ["ip", "-6", "route", "add", "default", "dev", "lan0", "table", "201"])
    for rule in ("from fd5e:ed00::/16 lookup 99 priority 7", "lookup 202 priority 15703"):
        lab.run("router", ["ip", "-6", "rule", "add", *rule.split()])
    lab.run("router", "ip -6 rule add not fwmark 0xca6c lookup 51820 priority 20000".split())
    lab.run("router", "ip -6 rule add fwmark 7 lookup 51820 priority 20001".split())
    assert sorted(doctor(two)) == [("rule", "warning")] * 3 + [("table", "warning")] * 2


def test_a_reverse_path_filter_without_tables(two: Router) -> None:
    two.run("ip6tables", "-t", "raw", "-A", "PREROUTING", "-m", "rpfilter", "--invert", "-j", "DROP")
    two.lab.nft("router", "table inet rp { chain p { type filter hook prerouting priority raw; "
                          "fib saddr . iif oif missing drop; }; }")
    assert doctor(two) == []
    two.configure(TWO.replace("table = 201", "").replace("table = 202", ""))
    assert doctor(two) == [("reverse-path", "warning")] * 2


def test_without_the_right_to_look(router: Router) -> None:
    argv = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--", "sh", "-c",
            "exec \"$@\"", "sh"]
    from .pd import ENVIRONMENT, python
    done = router.lab.run("router", [*argv, *python("pdreactor.cli"), "doctor"], check=False,
                          env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (77, "")
    assert done.stderr.count("\n") == 1 and "root" in done.stderr
