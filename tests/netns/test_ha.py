"""Two routers with keepalived: what contrib/keepalived and contrib/conntrackd say, done with the
real programs, and what hosts see of a fail-over."""

import re
import shutil
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.lab import SERVER, FlowReport, Lab, Pool, Process
from tests.lab.installed import install
from tests.lab.servers import DHCPCD_CONF
from tests.lab.topology import ROUTERS

from .pd import (
    NEEDS_ROOT,
    OLD,
    PORT,
    PYTHON,
    ROOT,
    STATELESS,
    A,
    Echo,
    Router,
    Variant,
    ask,
    config,
    hold,
    on,
)

pytestmark = NEEDS_ROOT

CONTRIB = ROOT / "contrib"
PAIR = ROOT / ".cache/pair"
TRANSPORT = str(Path(__file__).with_name("transport.py"))
ADDRESS = {"router": "fd5e:ed00:1234::1", "router2": "fd5e:ed00:1234::3"}
OTHER = dict(zip(ROUTERS, reversed(ROUTERS), strict=True))
ASK_PORT = "5999"
INTERVAL = 10

FIREWALL = """
table inet firewall {
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        ct state new iifname "lan0" tcp flags & (syn | ack) == syn accept
        ct state new iifname "lan0" meta l4proto != tcp accept
        ct state new iifname "eth0" tcp dport 4242 tcp flags & (syn | ack) == syn accept
    }
}
"""
"""Lets nothing of a TCP connection pass whose beginning it has not seen."""

ASKED = """
table ip6 asked {
    counter virtual { }
    counter others { }
    chain entry {
        type filter hook prerouting priority -400;
        udp dport 547 ip6 saddr fe80::5e:1 counter name virtual return
        udp dport 547 counter name others
    }
}
"""
"""Counts DHCPv6 messages by their source: that is where a relay routes the prefix."""


def environment() -> dict[str, str]:
    """For the unpacked daemons: their own libraries."""
    libraries = [str(path) for top in ("lib", "usr/lib")
                 for path in (PAIR / top).glob("*-linux-gnu*")]
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH": ":".join(libraries)}


def daemon(lab: Lab, machine: str, name: str, *options: str) -> Process:
    """Start keepalived or conntrackd."""
    program = PAIR / "usr/sbin" / name
    assert program.exists(), f"{program} is missing: run tests/setup.sh as root"
    return lab.start(machine, [str(program), *options], env=environment())


class Pair:
    """Both routers, as contrib describes it."""

    def __init__(self, lab: Lab, variant: Variant) -> None:
        self.lab, self.variant = lab, variant
        self.routers: dict[str, Router] = {}
        self.keepalived: dict[str, Process] = {}
        for machine in ROUTERS:
            install(lab, machine=machine)
            self.routers[machine] = Router(lab, config(), variant, machine)
            self._set_up(machine)

    def _set_up(self, machine: str) -> None:
        lab, source = self.lab, CONTRIB / "keepalived"
        script = lab.path(machine, "/usr/local/sbin/pdreactor-vrrp")
        shutil.copy(source / "pdreactor-vrrp", script)
        conf = (source / "keepalived.conf").read_text()
        if machine == "router2":
            conf = conf.replace("priority 150 ", "priority 100 ")
        lab.write(machine, "/etc/keepalived/keepalived.conf", conf)
        lab.write(machine, "/etc/keepalived/pdreactor-vrrp.toml", self._settings(machine))
        lab.write(machine, "/etc/dhcpcd.conf", DHCPCD_CONF.format(interface="eth0"))
        lab.run(machine, ["ip", "link", "set", "lan1", "down"])
        serve = [PYTHON, "-IS", TRANSPORT, "serve", ADDRESS[machine], ASK_PORT]
        lab.start(machine, [*serve, "/usr/local/sbin/pdreactor", "export"]).wait_output("ready")
        if self.variant.tracked:
            self._set_up_conntrack(machine)

    def _settings(self, machine: str) -> str:
        """Those of contrib with the commands of this network."""
        text = (CONTRIB / "keepalived/pdreactor-vrrp.toml").read_text()
        ask = [PYTHON, "-IS", TRANSPORT, "get", ADDRESS[OTHER[machine]], ASK_PORT]
        text = re.sub(r"(?m)^pull = .*$", f"pull = {ask!r}", text)
        text = re.sub(r"(?m)^every = .*$", "every = 1", text)
        for words, option in (('"dhcpcd", "-x"', "-x"), ('"systemctl", "stop", "dhcpcd"', "-x"),
                              ('"systemctl", "start", "dhcpcd"', "-b")):
            text = text.replace(words, f'"dhcpcd", "-q", "{option}", "eth0"')
        if self.variant.tracked:
            text = text.replace('# ["conntrackd"', '["conntrackd"')
            text = text.replace('["conntrack", "-F"],\n', "")
        assert tomllib.loads(text)["every"] == 1 and "systemctl" not in text
        return text

    def _set_up_conntrack(self, machine: str) -> None:
        conf = (CONTRIB / "conntrackd/conntrackd.conf").read_text()
        if machine == "router2":
            here, there = ADDRESS["router"], ADDRESS["router2"]
            conf = conf.replace(f"IPv6_address {here}\n        IPv6_Destination_Address {there}",
                                f"IPv6_address {there}\n        IPv6_Destination_Address {here}")
        self.lab.write(machine, "/etc/conntrackd/conntrackd.conf", conf)
        start = " ".join(f"{name}='{value}'" for name, value in environment().items())
        self.lab.write(machine, "/usr/local/sbin/conntrackd",
                       f'#!/bin/sh\n{start} exec {PAIR}/usr/sbin/conntrackd "$@"\n', 0o755)
        self.lab.nft(machine, FIREWALL)
        self.lab.sysctl(machine, "net.netfilter.nf_conntrack_tcp_loose", 0)
        daemon(self.lab, machine, "conntrackd")

    def start(self, machine: str) -> None:
        """keepalived comes up."""
        self.keepalived[machine] = daemon(
            self.lab, machine, "keepalived", "-n", "-l", "-D", "-P")

    def power(self, machine: str, up: bool) -> None:
        """All cables of a router out, or in again."""
        for link in self.lab.links:
            state = "up" if up else "down"
            self.lab.run(link.peer, ["ip", "link", "set", link.port(machine), state])

    def is_master(self, machine: str) -> bool:
        """It has the common address and runs the DHCP client."""
        shown = self.routers[machine].run("ip", "-6", "addr", "show", "dev", "eth0")
        return "fe80::5e:1/" in shown and self.runs_dhcpcd(machine)

    def marks(self, machine: str) -> set[str]:
        """The marks in conntrack of the connections under test; none without tracking."""
        if not self.variant.tracked:
            return set()
        flows = self.routers[machine].flows("-p", "tcp", "--dport", str(PORT)).values()
        return {mark for line in flows for mark in re.findall(r"mark=\d+", line)}

    def runs_dhcpcd(self, machine: str) -> bool:
        """The DHCP client is there."""
        return any(self.lab.path(machine, "/run/dhcpcd").glob("*eth0*.pid"))

    def told_by(self, machine: str) -> str:
        """From where this router knows its prefix."""
        (uplink,) = self.routers[machine].status()["uplinks"]
        return str(uplink["prefixes"][0]["event"]) if uplink["prefixes"] else ""

    def follows(self, machine: str) -> None:
        """Wait until this router has what the other one has, and all is in place."""
        router = self.routers[machine]
        self.lab.wait(lambda: router.prefixes() == {OLD: "current"}, 10, f"{machine} to import")
        self.lab.wait(lambda: router.pd("plan", code=None).returncode == 0, 5, "the rules")


@pytest.fixture
def pair(variant: Variant) -> Iterator[Pair]:
    with Lab(routers=2) as lab:
        lab.start_kea(Pool())
        lab.nft("isp", ASKED)
        yield Pair(lab, variant)


def words(*talks: Process) -> list[int]:
    """How often each was answered."""
    return [talk.output().count("word") for talk in talks]


def all_go_on(lab: Lab, *talks: Process) -> None:
    """Wait until each was answered again."""
    before = words(*talks)
    lab.wait(lambda: all(now > old + 3 for now, old in zip(words(*talks), before, strict=True)),
             15, f"TCP to go on: {[talk.tail()[-60:] for talk in talks]}")


def outage(report: FlowReport) -> int:
    """Milliseconds without an answer, the longest time of it."""
    answered = sorted(set(range(report.sent)) - set(report.lost))
    return max(later - earlier for earlier, later in pairwise(answered)) * INTERVAL


@on([STATELESS, Variant()])
def test_a_pair_of_routers(pair: Pair, variant: Variant) -> None:
    """The master loses its cables, comes back as standby, and takes over again when keepalived is
    stopped on the other one."""
    lab, external = pair.lab, pair.routers["router"].outside(A)
    pair.start("router")
    pair.start("router2")
    lab.wait(lambda: pair.is_master("router"), 15, "a master")
    pair.follows("router")
    pair.follows("router2")
    assert pair.told_by("router2") == "import"
    lab.start_echo()
    servers = Echo(lab, "isp", SERVER), Echo(lab, "a")
    talks = hold(lab, "a", SERVER, 30), hold(lab, "isp", external, 30)
    flow = lab.start_running_flow(interval_ms=INTERVAL)
    all_go_on(lab, *talks)
    marks = pair.marks("router")

    pair.power("router", up=False)
    lab.wait(lambda: pair.is_master("router2"), 15, "the other one to take over")
    all_go_on(lab, *talks)
    assert ask(lab, "a", "tcp", SERVER) == "same"
    assert pair.marks("router2") == marks  # of flows that were taken over, and of a new one
    report = flow.stop()
    assert list(report.sources) == [external]
    print(f"\n{variant}, cables out: {outage(report)} ms")
    lab.wait(lambda: "6" in pair.told_by("router2"), 15, "its own lease")
    pair.follows("router2")

    pair.power("router", up=True)
    lab.wait(lambda: not pair.runs_dhcpcd("router"), 15, "the first to step back")
    lab.wait(lambda: pair.told_by("router") == "import", 15, "it to import")
    pair.follows("router")
    flow = lab.start_running_flow(interval_ms=INTERVAL)
    all_go_on(lab, *talks)
    pair.keepalived["router2"].signal(SIGTERM)
    lab.wait(lambda: pair.is_master("router"), 15, "the first to take over again")
    lab.wait(lambda: not pair.runs_dhcpcd("router2"), 15, "the other one to step back")
    all_go_on(lab, *talks)
    assert ask(lab, "a", "tcp", SERVER) == "same"
    assert pair.marks("router") == marks
    report = flow.stop()
    assert list(report.sources) == [external]
    print(f"{variant}, keepalived stopped: {outage(report)} ms")

    assert servers[0].sources() == {external}
    asked = lab.run("isp", ["nft", "list", "counters", "table", "ip6", "asked"]).stdout
    # A client that has not ended yet may say a word when its cable is back.
    assert int(re.findall(r"packets (\d+)", asked)[1]) <= 1, asked
    assert lab.count().leaked == 0
    assert "RELEASE" not in lab.kea().process.output()
