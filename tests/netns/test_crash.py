"""Crashes and failing kernels, disks and clocks: afterwards one pass makes all as desired."""

from tests.lab import Lab

from .pd import NEEDS_ROOT, NEW, OLD, Router, reaches

pytestmark = NEEDS_ROOT

SWITCHED_OFF = """
[uplink.one]
interface = "eth0"
table = 201
gateway = "fe80::1"
[uplink.two]
interface = "eth1"
table = 202
[[translation]]
uplinks = ["two", "one"]
internal = "fd5e:ed00:1234::/58"
"""


def test_a_route_that_is_refused_does_not_keep_the_other_uplinks_from_theirs() -> None:
    with Lab(uplinks=2) as lab:
        lab.sysctl("router", "net.ipv6.conf.eth0.disable_ipv6", 1)
        router = Router(lab, SWITCHED_OFF)
        done = router.pd("set", "one", OLD, code=70)
        assert "eth0" in done.stderr and "disable_ipv6" in done.stderr
        router.pd("set", "two", NEW, code=70)
        assert reaches(lab, "isp2", router.outside("fd5e:ed00:1234::2", NEW))
        assert "lookup 202" in router.run("ip", "-6", "rule")
        lab.sysctl("router", "net.ipv6.conf.eth0.disable_ipv6", 0)
        router.pd("restore")
        router.pd("plan")
