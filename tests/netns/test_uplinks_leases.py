"""Several uplinks with real leases: one dhcpcd, a DHCPv6 server at each ISP."""

from collections.abc import Iterator

import pytest

from tests.lab import POOLS, Lab, Pool
from tests.lab.servers import DHCPCD_CONF

from .pd import NEEDS_ROOT, NETMAP, NEW, OLD, ROOT, A, B, Router, Variant, on, reaches
from .test_uplinks import TWO, carrier, count_wrong, none_wrong

pytestmark = NEEDS_ROOT

HEAD, _, BLOCK = DHCPCD_CONF.partition("\ninterface {interface}\n")
CONF = "nodev\n" + HEAD.format(interface="eth0 eth1") + "".join(
    f"\ninterface {name}\n{BLOCK}" for name in ("eth0", "eth1"))


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(uplinks=2) as network:
        yield network


@pytest.fixture
def router(lab: Lab, variant: Variant) -> Router:
    """Installed, and bound on both uplinks."""
    router = Router(lab, TWO, variant)
    router.run("make", "-sC", str(ROOT), "install", "PREFIX=/var/lib/installed", "SYSTEMD=no",
               timeout=60)
    lab.start_kea(Pool(POOLS[0]))
    lab.start_kea(Pool(POOLS[1]), "isp2")
    lab.start_dhcpcd(CONF, args=["eth1"])
    lab.wait(lambda: (router.prefixes("one"), router.prefixes("two"))
             == ({OLD: "current"}, {NEW: "current"}), 15, "two leases")
    lab.wait(lambda: router.pd("plan", code=None).returncode == 0, 5, "the rules")
    return router


def moves(router: Router) -> list[str]:
    """What the history says of uplinks that took over."""
    return [one["text"] for one in router.status()["history"] if one["reason"] == "uplink"]


@on(NETMAP)
def test_the_cable_of_the_first_uplink_is_pulled_under_load(lab: Lab, router: Router) -> None:
    count_wrong(lab)
    lab.conntrack_timeout(2)
    lab.count_prefix(OLD)
    lab.count_prefix(NEW, isp="isp2")
    lab.start_echo("b", B)
    inside = lab.start_running_flow(target=B)
    flows = lab.start_flows()
    lab.wait(lambda: lab.count().arrived > 1000, 5, "flows by the first")
    begun = len(moves(router))
    carrier(lab, "isp", "down")
    lab.wait(lambda: lab.count("isp2").arrived > 2000, 10, "flows by the second")
    assert moves(router)[begun:] == [
        "new flows of fd5e:ed00:1234::/58 by two and not one: interface eth0 has no carrier or is "
        "down"]
    assert reaches(lab, "isp2", router.outside(A, NEW))
    lab.reset_count()
    carrier(lab, "isp", "up")
    lab.wait(lambda: lab.count().arrived > 2000, 15, "flows by the first again")
    assert moves(router)[begun + 1:] == ["new flows of fd5e:ed00:1234::/58 by one and not two"]
    before = lab.count("isp2").arrived
    lab.wait(lambda: lab.count().arrived > 4000, 5, "more of them")
    assert lab.count("isp2").arrived == before
    assert flows.stop().refused == 0
    report = inside.stop()
    assert (report.lost, list(report.sources)) == ((), [A])
    for isp in ("isp", "isp2"):
        count = lab.count(isp)
        assert (count.leaked, count.arrived) == (0, sum(count.by_prefix.values()))
    assert none_wrong(lab)


def test_each_lease_has_its_own_changes(lab: Lab, router: Router) -> None:
    """Renumbering at the standby does not touch what goes by the first."""
    lab.start_echo()
    flow = lab.start_running_flow()
    lab.renumber(POOLS[2], "isp2")
    lab.dhcpcd_renew("eth1")
    third = "2001:db8:c000::/58"
    lab.wait(lambda: router.prefixes("two").get(third) == "current", 15, "the new prefix")
    lab.wait(lambda: router.pd("plan", code=None).returncode == 0, 5, "the rules")
    assert reaches(lab, "isp2", router.outside(A, third))
    report = flow.stop()
    assert (report.lost, list(report.sources)) == ((), [router.outside(A)])
