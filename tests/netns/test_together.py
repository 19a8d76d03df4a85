"""What comes together badly: both modes on one uplink, a library that is missing, old flows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import SERVER, Lab

from .pd import NEEDS_ROOT, NETMAP, OLD, STATELESS, A, Echo, Router, ask, config, on, ping, reaches

pytestmark = [*NEEDS_ROOT, pytest.mark.variants]

BOTH = """
[uplink.wan]
interface = "eth0"
[[translation]]
uplink = "wan"
internal = "fd5e:ed00:1234::/64"
mode = "stateless"
[[translation]]
uplink = "wan"
internal = "fd5e:ed00:1234:1::/64"
subnet = 1
"""
OLD_A, OLD_B = "2001:db8:4000::2", "2001:db8:4000:1::2"


def test_both_modes_on_one_uplink(lab: Lab, router: Router) -> None:
    router.configure(BOTH)
    router.set(OLD)
    echo = Echo(lab, "isp", SERVER)
    for host in ("a", "b"):
        Echo(lab, host)
        assert ask(lab, host, "udp", SERVER) == ask(lab, host, "tcp", SERVER) == "same"
    assert echo.sources() == {OLD_A, OLD_B}
    for address in (OLD_A, OLD_B):
        assert reaches(lab, "isp", address) and ask(lab, "isp", "tcp", address) == "same"
        assert reaches(lab, "router", address)
    assert lab.count().leaked == 0
    with router.unwritten():
        router.pd("restore")


def test_the_routers_internal_address_is_closed_too(lab: Lab) -> None:
    router = Router(lab, config("inbound = false"), STATELESS)
    router.set(OLD)
    Echo(lab, "router")
    own = router.outside("fd5e:ed00:1234::1")
    assert not reaches(lab, "isp", own)
    assert ask(lab, "isp", "tcp", own).startswith("failed")
    assert reaches(lab, "a", SERVER)


@pytest.fixture
def without_iptc(lab: Lab) -> Iterator[None]:
    """python-iptables is not installed on the router, as far as one can see there."""
    found = Path("/usr/lib/python3/dist-packages/iptc")
    lab.run("router", ["mount", "-t", "tmpfs", "none", str(found)])
    yield


def test_without_its_library_the_guard_stands_at_least(lab: Lab, without_iptc: None) -> None:
    router = Router(lab, variant=NETMAP[2])
    said = router.pd("set", "wan", OLD, code=69).stderr
    assert "python3-iptables" in said
    assert ping(lab, "a", SERVER) != f"answered by {SERVER}"
    assert lab.count().leaked == 0 and "chain guard" in router.ours()


def test_what_cannot_be_taken_away_now_is_taken_away_later(lab: Lab) -> None:
    router = Router(lab, variant=NETMAP[2])
    router.set(OLD)
    iptc = "/usr/lib/python3/dist-packages/iptc"
    router.run("mount", "-t", "tmpfs", "none", iptc)
    router.variant = NETMAP[0]
    router.configure(config())
    assert "may still be there" in router.pd("restore").stderr
    assert "may still be there" in router.status()["notes"][0]
    assert "pdreactor_" in router.run("ip6tables-legacy-save")
    router.pd("flush", code=69)
    router.run("umount", iptc)
    router.pd("flush")
    assert "pdreactor_" not in router.run("ip6tables-legacy-save")


@on(NETMAP)
def test_a_flow_without_answers_that_began_untranslated_is_not_lost(
    lab: Lab, router: Router
) -> None:
    """Its next packet gets a stamp, and no translation, from the new rules."""
    lab.nft("router", "table ip6 track { chain c { type filter hook forward priority 0; "
                      "ct state new; }; }")
    lab.start_echo()
    flow = lab.start_running_flow(interval_ms=5)
    lab.wait(lambda: router.flows("-p", "udp"), 5, "the flow to begin")
    router.set(OLD)
    lab.wait(lambda: router.outside(A) in str(router.flows("-p", "udp")), 5, "it to be translated")
    assert router.outside(A) in flow.stop().sources


@on(NETMAP[1:])
def test_flush_finds_chains_that_nobody_remembers(lab: Lab, router: Router) -> None:
    router.set(OLD)
    lab.run("router", ["rm", "-r", "/var/lib/pdreactor"])
    router.variant = NETMAP[0]
    router.configure(config())
    router.pd("restore")
    router.pd("flush", "--forget")
    for program in ("ip6tables-legacy-save", "ip6tables-nft-save"):
        assert "pdreactor_" not in router.run(program)
