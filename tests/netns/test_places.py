"""Addresses, routes and settings that follow the prefix: [[assign]], [[route]], [sysctl], and
prefixes from the uplink's own link."""

import json
import signal
import sys
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from tests.lab import POOLS, SERVER, Lab, LabError, Pool
from tests.lab.installed import install
from tests.lab.servers import DHCPCD_CONF

from .monitor import ADDRESSES, Monitor
from .pd import (
    ENVIRONMENT,
    NEEDS_ROOT,
    NEW,
    OLD,
    ROOT,
    STATE,
    Echo,
    Router,
    ask,
    config,
    dhcp,
    ping,
    python,
    reaches,
    unanswered,
)
from .test_watch import Watcher

pytestmark = NEEDS_ROOT

ONCE = pytest.mark.variants
"""What does not depend on the libraries."""
UPLINK = '[uplink.wan]\ninterface = "eth0"\n'
LANS = UPLINK + """
[[assign]]
uplink = "wan"
interface = "lan0"
subnet = 1

[[assign]]
uplink = "wan"
interface = "lan1"
subnet = 2
host = "eui64"
"""


class Place(dict[str, Any]):
    """An address, as ip(8) has it."""

    @property
    def deprecated(self) -> bool:
        return bool(self.get("deprecated"))


def addresses(router: Router, interface: str = "lan0", machine: str = "") -> dict[str, Place]:
    """The global addresses of an interface that are not local to the site."""
    argv = ["ip", "-j", "-6", "addr", "show", "dev", interface, "scope", "global"]
    done = router.lab.run(machine or router.machine, argv, check=False).stdout
    found = [one for link in json.loads(done or "[]") for one in link.get("addr_info", ())
             if one]
    return {f"{one['local']}/{one['prefixlen']}": Place(one) for one in found
            if not one["local"].startswith("fd")}


def quiet(router: Router) -> bool:
    """True when the kernel is as desired."""
    return router.pd("plan", code=None).returncode == 0


def host(router: Router, machine: str, address: str) -> str:
    """Give a host an address by hand; returns it without its length."""
    router.lab.run(machine, ["ip", "-6", "addr", "add", address, "dev", "eth0", "nodad"])
    return address.partition("/")[0]


def answers(lab: Lab, target: str) -> None:
    """It is reached from outside; on a busy machine its neighbours may take a moment to find it."""
    lab.wait(lambda: reaches(lab, "isp", target), 5, f"{target} to answer")


@pytest.fixture
def router(lab: Lab) -> Router:
    """With two LANs, and no prefix yet."""
    return Router(lab, LANS)


def everything(router: Router) -> str:
    """What the kernel has of links, addresses, routes, proxy entries and settings."""
    shown = [router.run(*f"ip -6 {words}".split()) for words in (
        "addr show scope global", "route show table all", "rule", "neigh show proxy")]
    kept = [line for line in "\n".join(shown).splitlines() if "_lft" not in line]
    return "\n".join(kept)


# ---- leases ------------------------------------------------------------------------------------


def test_addresses_follow_the_lease(lab: Lab, router: Router) -> None:
    """From the first lease through a renumbering, with dhcpcd's hook and real packets."""
    router.run("make", "-sC", str(ROOT), "install", "PREFIX=/var/lib/installed", "SYSTEMD=no",
               timeout=60)
    lab.start_kea(Pool())
    lab.start_dhcpcd(DHCPCD_CONF.format(interface="eth0"))
    lab.wait(lambda: "2001:db8:4000:1::1/64" in addresses(router), 15, "the first address")
    lab.wait(lambda: quiet(router), 5, "the rest")
    mac = lab.link_to("b").mac(1).replace(":", "")
    identifier = f"{int(mac[:2], 16) ^ 2:02x}{mac[2:6]}fffe{mac[6:]}"
    derived = IPv6Address(int(IPv6Address("2001:db8:4000:2::")) | int(identifier, 16))
    assert list(addresses(router, "lan1")) == [f"{derived}/64"]
    place = addresses(router)["2001:db8:4000:1::1/64"]
    assert 3000 < place["preferred_life_time"] <= 3600 < place["valid_life_time"] <= 7200
    answers(lab, host(router, "a", "2001:db8:4000:1::2/64"))
    answers(lab, host(router, "b", "2001:db8:4000:2::2/64"))
    lab.renumber(POOLS[1])
    lab.dhcpcd_renew()
    lab.wait(lambda: list(addresses(router)) == ["2001:db8:8000:1::1/64"], 15, "the new address")
    lab.wait(lambda: quiet(router), 5, "the rest")
    answers(lab, host(router, "a", "2001:db8:8000:1::2/64"))
    assert "Destination unreachable" in ping(lab, "isp", "2001:db8:8000:3::2")


# ---- the life of an address --------------------------------------------------------------------


def test_an_old_address_is_deprecated_and_goes_at_its_end(lab: Lab, router: Router) -> None:
    router.set(OLD)
    assert not addresses(router)["2001:db8:4000:1::1/64"].deprecated
    inside = host(router, "a", "2001:db8:4000:1::2/64")
    router.set(NEW)
    found = addresses(router)
    assert found["2001:db8:4000:1::1/64"].deprecated
    assert 500 < found["2001:db8:4000:1::1/64"]["valid_life_time"] <= 1000
    assert not found["2001:db8:8000:1::1/64"].deprecated
    answers(lab, inside)  # what came before goes on
    assert quiet(router)
    ending = dict(zip(("", "_length", "_pltime", "_vltime"), (*OLD.split("/"), "0", "1"),
                      strict=True))
    both = {f"new_dhcp6_ia_pd1_prefix2{key}": value for key, value in ending.items()}
    router.hook("RENEW6", dhcp(NEW) | both)
    lab.wait(lambda: list(addresses(router)) == ["2001:db8:8000:1::1/64"], 10, "its end")
    router.pd("restore")
    assert "4000" not in everything(router)


@ONCE
def test_a_prefix_that_is_taken_back_takes_its_addresses_along(router: Router) -> None:
    before = everything(router)
    router.set(OLD)
    router.pd("unset", "wan")
    assert everything(router) == before
    assert quiet(router)


def test_what_is_as_it_should_be_is_not_touched(router: Router) -> None:
    router.set(OLD)
    written, heard = router.lab.read("router", STATE), Monitor(router.lab, ADDRESSES)
    router.pd("restore")
    assert heard.said() == ""
    assert router.lab.read("router", STATE) == written


def test_what_somebody_removes_or_changes_is_put_back(router: Router) -> None:
    router.set(OLD)
    before = everything(router)
    router.run("ip", "-6", "addr", "del", "2001:db8:4000:1::1/64", "dev", "lan0")
    router.run("ip", "-6", "route", "del", "2001:db8:4000:2::/64", "dev", "lan1")
    assert router.pd("plan", code=1).stdout.splitlines() == [
        "add unicast route to 2001:db8:4000:2::/64 dev lan1",
        "put address 2001:db8:4000:1::1/64 on lan0"]
    router.pd("restore")
    assert everything(router) == before
    router.run("ip", "-6", "addr", "change", "2001:db8:4000:1::1/64", "dev", "lan0",
               "valid_lft", "forever", "preferred_lft", "forever")
    router.pd("restore")
    assert addresses(router)["2001:db8:4000:1::1/64"]["valid_life_time"] <= 1000


@ONCE
def test_a_link_that_was_down(lab: Lab, router: Router) -> None:
    router.run("ip", "link", "set", "lan0", "down")
    router.set(OLD)
    assert "interface lan0 is down" in str(router.status()["problems"])
    assert quiet(router)
    router.run("ip", "link", "set", "lan0", "up")
    router.pd("restore")
    answers(lab, host(router, "a", "2001:db8:4000:1::2/64"))
    assert router.status()["problems"] == []


# ---- whose it is -------------------------------------------------------------------------------


def test_addresses_of_others_are_never_touched(router: Router) -> None:
    """Neither in the same prefix, nor the very same address, nor what was there before."""
    for words in ("2001:db8:4000:1::99/64 dev lan0", "2001:db8:4000:1::1/64 dev lan0",
                  "2001:db8:77::1/64 dev lan1"):
        router.run("ip", "-6", "addr", "add", *words.split(), "nodad")
    before = everything(router)
    router.set(OLD)
    assert addresses(router)["2001:db8:4000:1::1/64"]["valid_life_time"] == 4294967295
    assert quiet(router)
    router.set(NEW)
    router.pd("unset", "wan")
    assert everything(router) == before
    router.set(OLD)
    router.pd("flush", "--forget")
    assert everything(router) == before


def test_another_length_is_another_address(router: Router) -> None:
    router.set(OLD)
    shorter = LANS.replace("subnet = 1", "subnet = 1\nprefix_length = 128")
    router.configure(shorter)
    router.pd("restore")
    assert list(addresses(router)) == ["2001:db8:4000:1::1/128"]
    assert quiet(router)
    router.pd("flush")
    router.run("ip", "-6", "addr", "add", "2001:db8:4000:1::1/64", "dev", "lan0", "nodad")
    router.pd("restore")
    assert list(addresses(router)) == ["2001:db8:4000:1::1/64"]
    assert "is not ours, and length 128 is wanted" in str(router.status()["problems"])


def test_a_lost_state_leaves_nothing_behind(router: Router) -> None:
    """What is ours is told by its protocol number as well."""
    before = everything(router)
    router.set(OLD)
    router.run("rm", "-r", "/var/lib/pdreactor")
    router.pd("restore")
    assert everything(router) == before


@ONCE
def test_another_configuration_leaves_nothing_of_the_former(router: Router) -> None:
    router.set(OLD)
    for text in (
        LANS.replace("subnet = 1", "subnet = 3"), LANS.replace("lan0", "eth9"),
        UPLINK + '[[assign]]\nuplink = "wan"\ninterface = "lan1"\nsubnet = 1\n', UPLINK,
    ):
        router.configure(text)
        router.pd("restore")
        after = everything(router)
        router.pd("flush")
        router.pd("restore")
        assert everything(router) == after
    assert "4000" not in after.replace("unreachable 2001:db8:4000::/58", "")


PROXY = """
[[proxy]]
uplink = "wan"
hosts = ["::1", "::2"]
"""
CALLS = ("rename", "sendto")
"""What changes the state file, and most of the kernel."""


@ONCE
def test_a_pass_that_is_killed_is_finished_by_the_next(lab: Lab, router: Router) -> None:
    """Wherever it is killed, what it has put there is known."""
    fixed = f'eth0"\nprefix = "{OLD}'
    bare, text = UPLINK.replace("eth0", fixed), LANS.replace("eth0", fixed, 1) + PROXY

    def traced(*options: str) -> int:
        router.configure(text)
        argv = ["strace", "-qq", "-o", "/run/calls", "-e", f"trace={','.join(CALLS)}", *options,
                *python("pdreactor.cli"), "restore"]
        return lab.run("router", argv, check=False, timeout=30, env=ENVIRONMENT).returncode

    def cleaned() -> bool:
        router.configure(bare)
        router.pd("restore")
        return everything(router) == before

    router.configure(bare)
    router.pd("restore")
    before = everything(router)
    assert traced() == 0
    placed, log = everything(router), lab.read("router", "/run/calls").splitlines()
    assert placed != before and cleaned()
    points = [(call, n) for call in CALLS
              for n in range(1, sum(line.startswith(call) for line in log) + 1)]
    for call, number in points[:2] + points[-6::3]:
        assert traced("-e", f"inject={call}:signal=KILL:when={number}") == -signal.SIGKILL
        assert cleaned(), f"killed at {call} number {number} of {points}"
    assert traced() == 0 and everything(router) == placed


def test_what_the_kernel_refuses_is_said_and_the_rest_is_done(lab: Lab, router: Router) -> None:
    lab.sysctl("router", "net.ipv6.conf.lan0.disable_ipv6", 1)
    said = router.pd("set", "wan", OLD, code=70).stderr
    assert "cannot put the address 2001:db8:4000:1::1/64 on lan0" in said
    assert "IPv6 is switched off on that interface (disable_ipv6)" in said
    assert len(addresses(router, "lan1")) == 1
    again = router.pd("restore", code=70)
    assert again.stdout == "" and "changed" not in again.stderr, "what was not done is not said"
    lab.sysctl("router", "net.ipv6.conf.lan0.disable_ipv6", 0)
    router.pd("restore")
    assert quiet(router) and len(addresses(router)) == 1


@ONCE
def test_an_address_that_another_node_has(lab: Lab, router: Router, tmp_path: Path) -> None:
    """One without end stays, and cannot be used; one with a lifetime goes, and it is no good to put
    it back at once."""
    lab.sysctl("router", "net.ipv6.conf.lan0.accept_dad", 1)
    host(router, "a", "2001:db8:4000:1::1/64")
    said = "another node on the link has address 2001:db8:4000:1::1 "
    router.pd("set", "wan", OLD)
    lab.wait(lambda: said in str(router.status()), 10, "duplicate address detection")
    router.pd("unset", "wan")
    watcher = Watcher(router, tmp_path)
    router.set(OLD)
    watcher.wait(lambda: said in watcher.process.output(), "the same")
    watcher.reload()
    watcher.wait(lambda: watcher.process.output().count(said) == 2, "the same again")
    assert watcher.process.output().count("put address 2001:db8:4000:1::1/64") <= 2


@ONCE
def test_a_disk_that_takes_nothing_more(router: Router) -> None:
    """What was put where is remembered to the next reboot."""
    router.set(OLD)
    before = everything(router)
    for words in ("--bind /var/lib/pdreactor /var/lib/pdreactor",
                  "-o remount,bind,ro /var/lib/pdreactor"):
        router.run("mount", *words.split())
    router.pd("set", "wan", NEW, code=74)
    assert "2001:db8:8000:1::1/64" in addresses(router)
    router.pd("unset", "wan", NEW, code=74)
    assert everything(router) == before.replace("dynamic", "deprecated dynamic") or (
        "8000" not in everything(router))


# ---- slices ------------------------------------------------------------------------------------

SPLIT = UPLINK + """
[[assign]]
uplink = "wan"
interface = "lan0"
subnet = 1
length = 67

[[assign]]
uplink = "wan"
interface = "lan1"
subnet = 7
length = 67
host = "::abc"
"""


@ONCE
def test_a_split_64(lab: Lab, router: Router) -> None:
    """Each LAN has an eighth; for what nobody has there is an error, and no loop."""
    router.configure(SPLIT)
    router.set("2001:db8:4000::/64")
    assert list(addresses(router)) == ["2001:db8:4000:0:2000::1/67"]
    assert list(addresses(router, "lan1")) == ["2001:db8:4000:0:e000::abc/67"]
    said = router.pd("status").stdout
    assert "address 2001:db8:4000:0:2000::1/67 on lan0, in place, valid for 16 min" in said
    one = host(router, "a", "2001:db8:4000:0:2000::2/67")
    other = host(router, "b", "2001:db8:4000:0:e000::2/67")
    answers(lab, one)
    answers(lab, other)
    assert ping(lab, "a", other, "-I", one) == f"answered by {other}"
    count = "table inet loop { chain c { type filter hook prerouting priority 0; " \
            "iifname wan ip6 daddr 2001:db8:4000::/64 counter; }; }"
    lab.nft("isp", count)
    assert "Destination unreachable: No route" in ping(lab, "isp", "2001:db8:4000::9")
    assert "packets 0" in lab.run("isp", ["nft", "list", "table", "inet", "loop"]).stdout


ROUTED = UPLINK + """
[[route]]
uplink = "wan"
interface = "lan0"
via = "{via}"
subnet = 12
length = 60
"""


@ONCE
def test_a_router_downstream(lab: Lab, router: Router) -> None:
    """It has a /60 of the /56, by its link-local address."""
    shown = lab.run("a", "ip -j -6 addr show dev eth0 scope link".split())  # noqa: SIM905
    via = next(one["local"] for link in json.loads(shown.stdout)
               for one in link.get("addr_info", ()) if one)
    router.configure(ROUTED.replace("{via}", via))
    for prefix in ("2001:db8:4000::/56", "2001:db8:8000::/56"):
        router.set(prefix)
        inside = prefix.replace("::/56", ":c5::1")
        lab.run("a", ["ip", "-6", "addr", "add", f"{inside}/128", "dev", "lo", "nodad"])
        answers(lab, inside)
        assert "Destination unreachable" in ping(lab, "isp", prefix.replace("::/56", ":d0::1"))
    answers(lab, "2001:db8:4000:c5::1")  # until its lifetime ends


# ---- interfaces that come and go ---------------------------------------------------------------

VIFS = UPLINK + """
[[assign]]
uplink = "wan"
interface = "vif*"
subnet = 16
"""


def link(router: Router, *names: str) -> None:
    """Interfaces appear, as those of virtual machines do."""
    for name in names:
        router.run("ip", "link", "add", "name", name, "type", "bridge")
        router.run("ip", "link", "set", name, "up")


def slices(router: Router) -> dict[str, list[str]]:
    """The addresses of all vifs."""
    names = [name for name in json_links(router) if name.startswith("vif")]
    return {name: sorted(addresses(router, name)) for name in names}


def json_links(router: Router) -> list[str]:
    return [one["ifname"] for one in json.loads(router.run("ip", "-j", "link"))]


@ONCE
def test_interfaces_that_match_a_pattern_keep_their_slices(router: Router) -> None:
    router.configure(VIFS)
    router.set("2001:db8:4000::/56")
    link(router, "vif2.0", "vif1.0")
    router.pd("restore")
    one, two = ["2001:db8:4000:10::1/64"], ["2001:db8:4000:11::1/64"]
    assert slices(router) == {"vif2.0": two, "vif1.0": one}
    link(router, "vif0.5")
    router.run("ip", "link", "del", "vif1.0")
    router.pd("restore")
    three = ["2001:db8:4000:12::1/64"]
    assert slices(router) == {"vif2.0": two, "vif0.5": three}
    router.run("ip", "link", "del", "vif2.0")
    router.run("ip", "link", "del", "vif0.5")
    router.pd("restore")  # as at boot: none of them is there yet
    router.pd("flush")
    link(router, "vif2.0", "vif1.0")
    router.set("2001:db8:8000::/56")
    assert slices(router) == {"vif2.0": [*two, "2001:db8:8000:11::1/64"],
                              "vif1.0": [*one, "2001:db8:8000:10::1/64"]}
    assert quiet(router)


@ONCE
def test_a_port_of_a_bridge_gets_none(router: Router) -> None:
    router.configure(VIFS.replace("vif*", "*"))
    link(router, "switch")
    router.run("ip", "link", "add", "port", "type", "veth", "peer", "name", "far")
    router.run("ip", "link", "set", "port", "master", "switch", "up")
    router.set("2001:db8:4000::/56")
    got = [name for name in json_links(router) if addresses(router, name.partition("@")[0])]
    assert sorted(got) == ["eth0", "far", "lan0", "lan1", "switch"]
    assert not [one for one in addresses(router, "eth0") if "4000" in one]


def test_the_watch_sees_them_at_once(router: Router, tmp_path: Path) -> None:
    router.configure(VIFS)
    router.set("2001:db8:4000::/56")
    watcher = Watcher(router, tmp_path)
    link(router, "vif1.0")
    watcher.wait(lambda: slices(router) == {"vif1.0": ["2001:db8:4000:10::1/64"]}, "its address")
    watcher.wait(watcher.quiet, "the route")
    router.run("ip", "-6", "addr", "flush", "dev", "vif1.0", "scope", "global")
    watcher.wait(lambda: slices(router) == {"vif1.0": ["2001:db8:4000:10::1/64"]}, "the repair")
    router.run("ip", "link", "del", "vif1.0")
    watcher.wait(lambda: "dev vif1.0" not in everything(router), "the end")
    watcher.wait(watcher.quiet, "all of it")
    watcher.reload()
    with router.unwritten():
        watcher.reload()


VIF_ROUTE = """#!/bin/sh
# What Xen's vif-route does that matters here.
set -e
[ "$(xenstore-read "$XENBUS_PATH/domain")" = web ]
case $1 in
online) ip link set dev "$vif" up ;;
offline) ip link set dev "$vif" down ;;
esac
echo "$1" >>/run/called
"""
XENSTORE_READ = "#!/bin/sh\n[ \"$1\" = backend/vif/7/0/domain ] && echo web\n"
SCRIPTS = "/etc/xen/scripts"


@ONCE
def test_seed_003_xen_links(lab: Lab) -> None:
    """Guest "web", behind a veth in the place of a vif: its interface comes online, the prefix
    changes, it goes."""
    text = UPLINK + section("vif-*", 16) + section("vif-web", 2)
    install(lab, text)
    router = Router(lab, text)
    ours = (ROOT / "contrib/xen/vif-route-pdreactor").read_text()
    for path, script in ((f"{SCRIPTS}/vif-route-pdreactor", ours),
                         (f"{SCRIPTS}/vif-route", VIF_ROUTE),
                         ("/usr/local/sbin/xenstore-read", XENSTORE_READ)):
        lab.write("router", path, script, 0o755)

    def hotplug(command: str, vif: str) -> None:
        env = {"PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "vif": vif,
               "XENBUS_PATH": "backend/vif/7/0"}
        argv = [f"{SCRIPTS}/vif-route-pdreactor", command, "type_if=vif"]
        done = lab.run("router", argv, env=env, timeout=60)
        assert done.stderr.count("\n") == (command == "offline")  # which says that it is down

    def guest(prefix: str) -> None:
        own = prefix.replace("::/56", ":2::2")
        lab.run("b", ["ip", "-6", "addr", "add", f"{own}/64", "dev", "xen0", "nodad"])
        lab.run("b", ["ip", "-6", "route", "replace", "default", "via",
                      own.replace(":2::2", ":2::1"), "dev", "xen0"])
        answers(lab, own)
        assert ping(lab, "b", SERVER, "-I", own) == f"answered by {SERVER}"

    router.set("2001:db8:4000::/56")
    router.run("ip", "link", "add", "vif-web", "type", "veth", "peer", "name", "xen0", "netns",
               str(lab.pid("b")))
    lab.run("b", ["ip", "link", "set", "xen0", "up"])
    hotplug("online", "vif-web")
    lab.wait(lambda: quiet(router), 5, "all of it")
    guest("2001:db8:4000::/56")
    router.set("2001:db8:8000::/56")
    guest("2001:db8:8000::/56")
    hotplug("offline", "vif-web")
    assert "Destination unreachable" in ping(lab, "isp", "2001:db8:8000:2::2")
    router.run("ip", "link", "del", "vif-web")
    assert lab.read("router", "/run/called").split() == ["online", "offline"]


def section(interface: str, subnet: int) -> str:
    return f'[[assign]]\nuplink = "wan"\ninterface = "{interface}"\nsubnet = {subnet}\n'


# ---- the uplink's own link ---------------------------------------------------------------------

ON_LINK = """
[uplink.wan]
interface = "eth0"
source = "onlink"
"""
NATIVE, NEXT = "2001:db8:4000:9::/64", "2001:db8:8000:9::/64"


def test_a_native_64_is_routed_on(lab: Lab, router: Router) -> None:
    """The router's own addresses become single ones, the rest is behind it: seed 004 on lan0 in the
    place of a tunnel. The provider routes the /64 to the router's link-local address."""
    router.configure(ON_LINK + """
[[assign]]
uplink = "wan"
interface = "eth0"
host = "::11"
prefix_length = 128

[[assign]]
uplink = "wan"
interface = "eth0"
host = "::30"
prefix_length = 128

[[assign]]
uplink = "wan"
interface = "lan1"
host = "::1:0:30"
prefix_length = 112

[[route]]
uplink = "wan"
interface = "lan0"
""")
    for native in (NATIVE, NEXT):
        lab.advertise(f"{native},3600,7200")
        lab.wait(lambda native=native: learned(router).get(native) == "current", 5, native)
        own = native.replace("::/64", "::11")
        assert f"{own}/128" in addresses(router, "eth0")
        inside = host(router, "a", native.replace("/64", "a:b:c:d/64").replace("::a", ":a"))
        other = host(router, "b", native.replace("::/64", ":0:1:0:31/112"))
        for target in (own, inside, other):
            answers(lab, target)
        assert quiet(router)
    router.pd("flush", "--forget")
    assert not [one for one in addresses(router, "eth0") if one.endswith("/128")]


def learned(router: Router) -> dict[str, str]:
    """The prefixes after a pass."""
    router.pd("restore")
    return router.prefixes()


@ONCE
def test_advertisements_that_say_the_same_write_nothing(lab: Lab, router: Router) -> None:
    router.configure(ON_LINK)
    lab.advertise(f"{NATIVE},3600,7200")
    lab.wait(lambda: learned(router) == {NATIVE: "current"}, 5, "the prefix")
    written = lab.read("router", STATE)
    lab.advertise(f"{NATIVE},4000,9000")
    lab.wait(lambda: any(place["valid_life_time"] > 8000 for place in addresses(
        router, "eth0").values()), 5, "the longer lifetime")
    router.pd("restore")
    assert lab.read("router", STATE) == written
    lab.advertise(f"{NATIVE},0,9000")
    lab.wait(lambda: learned(router) and lab.read("router", STATE) != written, 5, "deprecation")
    assert router.status()["uplinks"][0]["prefixes"][0]["preferred_left"] == 0


def test_dhcpcd_reads_the_advertisements(lab: Lab, router: Router) -> None:
    """And its hook tells of them."""
    router.configure(ON_LINK + section("eth0", 0) + 'host = "::11"\nprefix_length = 128\n')
    router.run("make", "-sC", str(ROOT), "install", "PREFIX=/var/lib/installed", "SYSTEMD=no",
               timeout=60)
    lab.start_dhcpcd(DHCPCD_CONF.format(interface="eth0").replace("    noipv6rs\n", ""))
    lab.wait(lambda: router.run("sysctl", "-n", "net.ipv6.conf.eth0.accept_ra") == "0\n", 10,
             "dhcpcd to take over")

    for native in (NATIVE, NEXT):
        own = native.replace("::/64", "::11/128")
        for _ in range(5):  # it may not listen yet, and waits for its hook for each that it hears
            lab.advertise(f"{native},3600,7200")
            try:
                lab.wait(lambda own=own: own in addresses(router, "eth0"), 4, own)
                break
            except LabError:
                continue
        assert own in addresses(router, "eth0")


def test_hosts_are_translated_to_an_on_link_64(lab: Lab, router: Router) -> None:
    """The provider looks for each of them on the link: the kernel answers for one."""
    router.configure(ON_LINK + """
[[translation]]
uplink = "wan"
internal = "fd5e:ed00:1234::/64"

[[proxy]]
uplink = "wan"
hosts = ["::2"]

[sysctl]
""")
    lab.run("isp", ["ip", "-6", "addr", "add", "2001:db8:4000:9::ffff/64", "dev", "wan", "nodad"])
    lab.advertise(f"{NATIVE},3600,7200")
    lab.wait(lambda: learned(router) == {NATIVE: "current"}, 5, "the prefix")
    assert quiet(router)
    echo = Echo(lab, "isp", SERVER)
    assert ask(lab, "a", "tcp", SERVER) == "same"
    assert echo.sources() == {"2001:db8:4000:9::2"}
    answers(lab, "2001:db8:4000:9::2")
    assert unanswered(lab, "isp", "2001:db8:4000:9::3")


@pytest.mark.parametrize("name", ["la\\001", "la\\377"], ids=["control", "octet"])
def test_interfaces_without_a_name_that_can_be_written_are_left_alone(
    router: Router, name: str
) -> None:
    """A pattern matches them, and the state file has no room for them."""
    router.configure(LANS.replace('"lan0"', '"la*"').replace('"lan1"', '"eth0"'))
    add = f"ip link add name $(printf '{name}') type veth peer name other"
    router.run("sh", "-c", add)
    router.set(OLD)
    assert router.status()["errors"] == []
    assert {one["interface"] for one in router.status()["layout"]["slices"]} == {"lan0", "lan1"}
    assert quiet(router)


# ---- bad days ------------------------------------------------------------------------------------

BUSY = """
from pdreactor import cli, errors
from pdreactor.layout import laying

def observe(rtnl):
    raise errors.KernelBusy("cannot read the addresses: they change meanwhile")

laying.observe = observe
raise SystemExit(cli.main(["restore"]))
"""


def test_what_cannot_be_looked_at_stays(lab: Lab, router: Router) -> None:
    """A kernel that is too busy to tell what it has is no reason to take routes from the LANs."""
    router.set(OLD)
    before = everything(router)
    done = lab.run("router", [sys.executable, "-c", BUSY], check=False, env=ENVIRONMENT)
    assert done.returncode == 75, done.stderr
    assert everything(router) == before


MISSING = """
import sys

sys.modules["pyroute2"] = None
from pdreactor import cli

raise SystemExit(cli.main(sys.argv[1:]))
"""


def test_one_source_that_cannot_be_looked_at_does_not_keep_others(
    lab: Lab, router: Router
) -> None:
    """A lease is translated although pyroute2 is missing, which only another uplink needs."""
    router.configure(config() + '[uplink.native]\ninterface = "lan1"\nsource = "onlink"\n')
    argv = [sys.executable, "-c", MISSING, "set", "wan", OLD]
    done = lab.run("router", argv, check=False, env=ENVIRONMENT)
    assert done.returncode == 69 and "pyroute2" in done.stderr, done.stderr
    assert "2001:db8:4000::/58" in router.translation()


def test_an_ipv4_lease_counts_although_its_6rd_is_refused(router: Router) -> None:
    router.configure(config() + '[tunnel.isp6]\nmode = "6rd"\nunderlay = "eth0"\n')
    router.set(OLD)
    router.wipe()
    told = {"new_ip_address": "192.0.2.2", "new_sixrd_prefix": "fe80::",
            "new_sixrd_prefix_len": "32", "new_sixrd_mask_len": "0",
            "new_sixrd_brip_address": "192.0.2.1"}
    assert "fe80::/32" in router.hook("BOUND", told, code=65).stderr
    assert "2001:db8:4000::/58" in router.translation()


def test_what_we_have_put_on_the_uplink_is_no_reason_to_refuse_the_prefix(router: Router) -> None:
    """Each renewal of the lease tells the prefix again."""
    router.configure(UPLINK + '[[assign]]\nuplink = "wan"\ninterface = "eth0"\n')
    for _ in range(2):
        router.hook("RENEW6", dhcp(OLD, old=OLD))
    assert "2001:db8:4000::1/64" in addresses(router, "eth0")
    router.run("ip", "-6", "addr", "add", "2001:db8:8000::1/64", "dev", "eth0")
    assert "on the uplink's own link" in router.hook("RENEW6", dhcp(NEW, old=OLD), code=65).stderr


def test_a_configuration_of_ndppd_that_cannot_be_read_is_somebody_elses(router: Router) -> None:
    router.run("mkdir", "/etc/ndppd.conf")
    router.set(OLD)
    assert quiet(router)
    router.configure(LANS + '[[proxy]]\nuplink = "wan"\nmethod = "ndppd"\n')
    assert "is there and not pdreactor's" in router.pd("set", "wan", NEW, code=70).stderr
    assert "2001:db8:8000:1::1/64" in addresses(router)


# ---- settings ----------------------------------------------------------------------------------

SETTINGS = ("conf/all/forwarding", "conf/eth0/accept_ra", "conf/eth0/proxy_ndp",
            "neigh/eth0/proxy_delay")


def settings(router: Router) -> list[str]:
    return [router.run("sysctl", "-n", f"net/ipv6/{key}").strip() for key in SETTINGS]


def test_settings_are_made_and_taken_back(lab: Lab, router: Router) -> None:
    for key, value in zip(SETTINGS[:2], "01", strict=True):
        lab.sysctl("router", f"net/ipv6/{key}", value)
    before = settings(router)
    assert before == ["0", "1", "0", "80"]
    router.configure(LANS + PROXY + "[sysctl]\n")
    planned = router.pd("plan", code=1).stdout.splitlines()
    assert [line for line in planned if line.startswith("set ")] == [
        "set net.ipv6.conf.eth0.accept_ra = 2", "set net.ipv6.conf.all.forwarding = 1",
        "set net.ipv6.conf.eth0.proxy_ndp = 1", "set net.ipv6.neigh.eth0.proxy_delay = 0"]
    lab.advertise(lifetime=1800)
    lab.wait(lambda: advertised_default(router), 5, "the route")
    router.set(OLD)
    assert settings(router) == ["1", "2", "1", "0"]
    assert advertised_default(router)
    assert quiet(router)
    router.configure(LANS + PROXY + "[sysctl]\nmanage = false\n")
    router.pd("restore")
    assert settings(router) == before
    assert "net.ipv6.conf.all.forwarding is 0, and 1 is needed" in str(router.status()["notes"])
    router.configure(LANS + PROXY + "[sysctl]\n")
    router.pd("restore")
    router.run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=0")  # by somebody else
    router.pd("flush")
    assert settings(router) == ["0", "0", "0", "80"]


def test_settings_are_nobodys_once_the_layout_has_gone(lab: Lab, router: Router) -> None:
    """With [sysctl] they are as before then; without it nobody asked for any."""
    for sysctl in ("[sysctl]\n", ""):
        lab.sysctl("router", "net/ipv6/conf/all/forwarding", "0")
        router.configure(LANS + sysctl)
        router.set(OLD)
        assert settings(router)[0] == ("1" if sysctl else "0")
        router.configure(config())
        router.pd("restore")
        assert settings(router)[0] == "0"
        assert "layout" not in json.loads(Path(lab.path("router", STATE)).read_text())
        assert quiet(router)


def advertised_default(router: Router) -> bool:
    return "proto ra" in router.run("ip", "-6", "route", "show", "default")
