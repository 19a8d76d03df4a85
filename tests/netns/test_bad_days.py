"""What breaks on a bad day, and what goes on nevertheless."""

import json
import os

import pytest

from tests.lab import SERVER, Lab

from .pd import (
    EACH,
    NEEDS_ROOT,
    NETMAP,
    NEW,
    OLD,
    STATE,
    A,
    Echo,
    Router,
    ask,
    config,
    dhcp,
    on,
    tell,
)

pytestmark = NEEDS_ROOT


def begin_untranslated(lab: Lab, router: Router) -> None:
    """A flow of the LAN that conntrack takes in as it is, and that nobody answers."""
    lab.nft("router", "table ip6 track { chain c { type filter hook forward priority 0; "
                      "ct state new; }; }")
    tell(lab, "a", SERVER, 1001)
    assert "sport=1001" in str(router.flows())


GAPS = {
    "table gone": "delete table ip6 pdreactor",
    "table emptied": "flush table ip6 pdreactor",
    "table asleep": "add table ip6 pdreactor { flags dormant; }",
}


def flow_goes_on(lab: Lab) -> bool:
    """The flow that began untranslated is answered."""
    return ask(lab, "a", "udp", SERVER, source=1001) == "same"


@on(EACH)
def test_flows_that_began_on_the_first_day_are_not_lost_for_good(
        lab: Lab, router: Router) -> None:
    """The guard comes with the carrier, the prefix later."""
    begin_untranslated(lab, router)
    Echo(lab, "isp")
    router.hook("CARRIER", {})
    router.hook("BOUND6", dhcp(OLD))
    assert flow_goes_on(lab)


@pytest.mark.parametrize("gap", GAPS)
def test_flows_that_began_while_nothing_stopped_them_are_not_lost_for_good(
        lab: Lab, router: Router, gap: str) -> None:
    router.set(OLD)
    lab.run("router", ["nft", GAPS[gap]])
    begin_untranslated(lab, router)
    Echo(lab, "isp")
    router.pd("restore")
    assert flow_goes_on(lab)


@on(EACH)
def test_flows_that_began_without_any_rules_are_not_lost_for_good(
        lab: Lab, router: Router) -> None:
    router.set(OLD)
    router.wipe()
    begin_untranslated(lab, router)
    Echo(lab, "isp")
    router.pd("restore")
    assert flow_goes_on(lab)


@on(NETMAP)
def test_flows_elsewhere_are_left_alone_when_the_table_is_made(lab: Lab, router: Router) -> None:
    """Untranslated is right for what does not leave by an uplink."""
    lab.run("router", ["ip", "-6", "route", "add", "2a00:1::/32", "via", "fd5e:ed00:1234:1::2"])
    lab.nft("router", "table ip6 track { chain c { type filter hook forward priority 0; "
                      "ct state new; }; }")
    tell(lab, "a", "2a00:1::5", 1001)
    before = router.flows()
    assert "sport=1001" in str(before)
    router.set(OLD)
    assert "sport=1001" in str(router.flows())


@on(NETMAP)
def test_a_read_only_disk_does_not_keep_the_kernel_from_being_right(
        lab: Lab, router: Router) -> None:
    router.set(OLD)
    lab.run("router", ["mount", "-t", "tmpfs", "none", "/mnt"])
    lab.run("router", ["cp", "-a", "/var/lib/pdreactor", "/mnt/"])
    lab.run("router", ["mount", "-o", "remount,ro", "/mnt"])
    there = ("--state-dir", "/mnt/pdreactor")
    router.wipe()
    router.pd(*there, "restore", code=None)
    Echo(lab, "isp")
    assert ask(lab, "a", "udp", SERVER) == "same"
    done = router.pd(*there, "set", "wan", NEW, "--valid", "1000", code=74)
    assert done.stderr.count("\n") <= 2 and "Read-only" in done.stderr
    assert "2001:db8:8000" in router.translation(), "not stored, but applied"
    router.pd(*there, "flush", code=None)
    assert router.is_clean()


def test_what_cannot_be_forgotten_is_said(lab: Lab, router: Router) -> None:
    router.set(OLD)
    directory = os.path.dirname(STATE)
    router.run("mount", "--bind", directory, directory)
    router.run("mount", "-o", "remount,ro,bind", directory)
    assert f"{STATE} could not be removed" in router.pd("flush", "--forget", code=74).stderr
    assert router.is_clean()
    router.run("umount", directory)
    router.pd("flush", "--forget")
    assert not os.path.exists(lab.path("router", STATE))


@on(EACH)
def test_flush_forgets_a_state_of_a_newer_release(lab: Lab, router: Router) -> None:
    router.set(OLD)
    lab.write("router", "/var/lib/pdreactor/state.json", json.dumps({"format": 99}))
    router.pd("restore", code=74)
    router.pd("flush", "--forget")
    assert router.is_clean()
    assert router.routes("proto", "157") == []
    router.pd("restore")


def test_numbers_that_left_the_configuration_leave_nothing_behind(
        lab: Lab, router: Router) -> None:
    router.configure(config(uplink="table = 201"))
    router.set(OLD)
    assert "15700" in router.run("ip", "-6", "rule")
    router.configure(config(
        uplink="table = 201", rest="[routing]\nprotocol = 158\npriority = 16000\n"))
    router.pd("restore")
    assert router.routes("proto", "157") == []
    assert "15700" not in router.run("ip", "-6", "rule")
    assert "16000" in router.run("ip", "-6", "rule")
    with router.unwritten():
        router.pd("restore")


def test_a_static_prefix_works_as_soon_as_the_link_does(lab: Lab, router: Router) -> None:
    """Nobody calls pdreactor when the link of a static uplink comes up."""
    router.configure(config(uplink=f'prefix = "{OLD}"'))
    lab.run("router", ["ip", "link", "set", "eth0", "down"])
    router.pd("restore")
    lab.run("router", ["ip", "link", "set", "eth0", "up"])
    lab.run("router", ["ip", "-6", "addr", "replace", "2001:db8:ffff::2/64", "dev", "eth0",
                       "nodad"])
    lab.run("router", ["ip", "-6", "route", "replace", "default", "via", "2001:db8:ffff::1"])
    lab.run("router", ["ip", "-6", "neigh", "replace", "2001:db8:ffff::1", "lladdr",
                       "02:00:00:00:03:01", "dev", "eth0", "nud", "permanent"])
    echo = Echo(lab, "isp")
    lab.wait(lambda: ask(lab, "a", "udp", SERVER) == "same", 10, "an answer")
    assert echo.sources() == {router.outside(A)}


@on(NETMAP)
def test_an_uplink_that_left_the_configuration_takes_its_flows_along(
        lab: Lab, router: Router) -> None:
    router.set(OLD)
    Echo(lab, "isp")
    assert ask(lab, "a", "udp", SERVER, source=1001) == "same"
    router.configure(config().replace("uplink.wan", "uplink.fibre").replace('"wan"', '"fibre"'))
    router.pd("restore")
    assert "sport=1001" not in str(router.flows())
    assert list(router.status()["uplinks"][0]["prefixes"]) == []
