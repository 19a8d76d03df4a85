"""The whole way: a real DHCPv6 server, a real dhcpcd, the installed hook, and packets."""

import pytest

from tests.lab import POOLS, SERVER, Lab, Pool
from tests.lab.servers import DHCPCD, DHCPCD_CONF, HOOK_DIRECTORY

from .pd import (
    ALL,
    EACH,
    MODES,
    NEEDS_ROOT,
    NETMAP,
    NEW,
    OLD,
    REJECTED,
    ROOT,
    A,
    B,
    Echo,
    Router,
    ask,
    config,
    on,
    ping,
    reaches,
    unanswered,
)

pytestmark = NEEDS_ROOT

PREFIX = "/var/lib/installed"
HOOK = f"{HOOK_DIRECTORY}/60-pdreactor"
CONF = DHCPCD_CONF.format(interface="eth0")
SCRIPT = f"script {PREFIX}/sbin/pdreactor-hook\n"


@pytest.fixture
def installed(router: Router) -> Router:
    """pdreactor as "make install" puts it there, with the interpreter of the distribution."""
    router.run("make", "-sC", str(ROOT), "install", f"PREFIX={PREFIX}", "SYSTEMD=no", timeout=60)
    return router


@pytest.fixture(params=["hook file", "script"])
def dhcpcd_conf(request: pytest.FixtureRequest, installed: Router) -> str:
    """dhcpcd.conf for both ways of being called; only one of them is there."""
    if request.param == "hook file":
        return CONF
    installed.run("rm", HOOK)
    return SCRIPT + CONF


def has(router: Router, **prefixes: str) -> None:
    """Wait until these are the known prefixes."""
    wanted = {{"old": OLD, "new": NEW}[name]: state for name, state in prefixes.items()}
    router.lab.wait(lambda: router.prefixes() == wanted, 15, f"{wanted} to be known")
    router.lab.wait(lambda: router.pd("plan", code=None).returncode == 0, 5, "the rules")


def follows_the_lease(router: Router, dhcpcd_conf: str) -> None:
    """Bound, renumbered, released."""
    lab, old, new = router.lab, router.outside(A), router.outside(A, NEW)
    echo = Echo(lab, "isp", SERVER)
    lab.start_kea(Pool())
    lab.start_dhcpcd(dhcpcd_conf)
    has(router, old="current")
    assert ask(lab, "a", "tcp", SERVER) == "same"
    assert reaches(lab, "isp", old)
    lab.renumber(POOLS[1])
    lab.dhcpcd_renew()
    has(router, new="current")
    assert ask(lab, "a", "tcp", SERVER) == "same"
    assert reaches(lab, "isp", new) and unanswered(lab, "isp", old)
    assert echo.sources() == {old, new}
    router.run(DHCPCD, "-k", "eth0")
    has(router)
    assert ping(lab, "a", SERVER) == REJECTED
    assert lab.count().leaked == 0


def test_the_prefix_follows_the_lease(installed: Router, dhcpcd_conf: str) -> None:
    follows_the_lease(installed, dhcpcd_conf)


@on(ALL[1:5])
def test_the_prefix_follows_the_lease_in_every_mode(installed: Router) -> None:
    follows_the_lease(installed, CONF)


@on(EACH)
def test_renumbering_under_load(lab: Lab, installed: Router) -> None:
    lab.start_kea(Pool())
    lab.start_dhcpcd(CONF)
    has(installed, old="current")
    lab.conntrack_timeout(2)
    lab.count_prefix(OLD, NEW)
    flows = lab.start_flows()
    lab.renumber(POOLS[1])
    lab.dhcpcd_renew()
    lab.wait(lambda: lab.count().by_prefix[NEW] > 1000, 15, "flows with the new prefix")
    sent = flows.stop()
    lab.wait(lambda: lab.count().arrived >= sent.sent, 5, "all packets")
    count = lab.count()
    assert (count.leaked, sent.refused) == (0, 0)
    assert count.by_prefix[OLD] + count.by_prefix[NEW] == sent.sent


def test_a_stop_keeps_the_prefix(lab: Lab, installed: Router) -> None:
    lab.start_kea(Pool())
    client = lab.start_dhcpcd(CONF)
    has(installed, old="current")
    client.stop()
    lab.wait(lambda: installed.pd("status", code=None).returncode == 0, 5, "all in place")
    assert installed.prefixes() == {OLD: "current"}
    assert reaches(lab, "a", SERVER)
    assert len(installed.routes("exact", OLD, "type", "unreachable")) == 1


@on(MODES)
def test_the_unreachable_route_of_dhcpcd_is_not_doubled(lab: Lab, installed: Router) -> None:
    lab.start_kea(Pool())
    lab.start_dhcpcd(CONF)
    has(installed, old="current")
    installed.pd("restore")
    routes = installed.routes("exact", OLD, "type", "unreachable")
    assert len(routes) == 1, routes
    a, b = installed.outside(A), installed.outside(B)
    assert reaches(lab, "router", a) and reaches(lab, "a", b)


def test_the_next_start_uses_what_was_learned(lab: Lab, installed: Router) -> None:
    lab.start_kea(Pool())
    lab.start_dhcpcd(CONF).stop()
    lab.start_dhcpcd(CONF)
    has(installed, old="current")
    installed.run("nft", "flush", "ruleset")
    installed.pd("restore")
    assert reaches(lab, "a", SERVER)


@on(NETMAP)
def test_in_the_background_without_stderr(lab: Lab, installed: Router) -> None:
    lab.start_kea(Pool())
    lab.write("router", "/etc/dhcpcd.conf", CONF)
    installed.run(DHCPCD, "-q", "-b", "eth0")
    has(installed, old="current")
    assert reaches(lab, "a", SERVER)
    lab.renumber(POOLS[1])
    lab.dhcpcd_renew()
    has(installed, new="current")


def test_a_refusal_is_shown_by_status(lab: Lab, installed: Router, dhcpcd_conf: str) -> None:
    installed.configure(config(uplink="max_length = 56"))
    lab.start_kea(Pool())
    client = lab.start_dhcpcd(dhcpcd_conf)
    lab.wait(lambda: "not between /32 and /56" in installed.pd("status", code=1).stdout, 15, "it")
    assert installed.prefixes() == {}
    assert ping(lab, "a", SERVER) == "nothing" or ping(lab, "a", SERVER) == REJECTED
    client.wait_output("not between /32 and /56")


def test_other_hooks_run_as_if_ours_were_not_there(lab: Lab, installed: Router) -> None:
    report = "set >/run/shell-$reason.after\n"
    lab.write("router", f"{HOOK_DIRECTORY}/60-pa-before", report.replace("after", "before"))
    lab.write("router", f"{HOOK_DIRECTORY}/60-pe-after", report)
    lab.start_kea(Pool())
    lab.start_dhcpcd(CONF)
    has(installed, old="current")
    lab.wait(lambda: lab.path("router", "/run/shell-BOUND6.after").exists(), 5, "the last hook")
    before, after = (
        {
            line
            for line in lab.read("router", f"/run/shell-BOUND6.{when}").splitlines()
            if not line.startswith(("_=", "hook=", "LINENO=", "OPTIND="))
        }
        for when in ("before", "after")
    )
    assert after == before


def test_two_ia_pds_of_one_interface_are_two_uplinks(lab: Lab, installed: Router) -> None:
    installed.configure("""
[uplink.first]
interface = "eth0"
iaid = 1
[uplink.second]
interface = "eth0"
iaid = 2
[[translation]]
uplink = "first"
internal = "fd5e:ed00:1234::/64"
[[translation]]
uplink = "second"
internal = "fd5e:ed00:1234:1::/64"
""")
    echo = Echo(lab, "isp", SERVER)
    lab.start_kea(Pool(delegated_len=64))
    both = "ia_pd 1 nosuch0/0/64\n    ia_pd 2 nosuch1/0/64"
    lab.start_dhcpcd(CONF.replace("ia_pd 1/::/58 nosuch0/0/58", both))
    lab.wait(lambda: installed.pd("status", code=None).returncode == 0, 15, "both prefixes")
    (first,), (second,) = installed.prefixes("first"), installed.prefixes("second")
    assert first != second
    assert ask(lab, "a", "udp", SERVER) == ask(lab, "b", "udp", SERVER) == "same"
    assert echo.sources() == {first.replace("/64", "2"), second.replace("/64", "2")}
    assert lab.count().leaked == 0


def test_without_a_configuration_the_hook_is_silent(lab: Lab, installed: Router) -> None:
    installed.run("rm", "/etc/pdreactor.toml")
    lab.record_hook()
    lab.start_kea(Pool())
    client = lab.start_dhcpcd(CONF)
    lab.wait_hook("BOUND6")
    client.stop()
    assert "pdreactor" not in client.output()
    assert installed.ours() == ""


@on(NETMAP[:2])
def test_uninstall_leaves_nothing(lab: Lab, installed: Router) -> None:
    installed.set(OLD)
    installed.pd("flush", "--forget")
    installed.run("make", "-sC", str(ROOT), "uninstall", f"PREFIX={PREFIX}", "SYSTEMD=no")
    places = (PREFIX, HOOK_DIRECTORY, "/var/lib/pdreactor")
    assert installed.run("find", *places, "-name", "*pdreactor*", check=False) == ""
    assert installed.is_clean() and not installed.routes("proto", "157")
