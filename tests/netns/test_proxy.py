"""Neighbour discovery for hosts behind the router, on a link whose upstream router resolves every
address of a /64: entries of the kernel, and the responder of the watch."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.lab import PYTHON, SCRIPTS
from tests.lab.solicit import Advertisement, advertisement, link_option, solicitation

from .pd import NEEDS_ROOT, Router, end_processes, reaches, unanswered
from .test_watch import Watcher

pytestmark = NEEDS_ROOT

LINK = "2001:db8:ffff:"
UPSTREAM = f"{LINK}:1"
OWN = f"{LINK}:2"
"""The two ends of the upstream link."""
HOST = f"{LINK}0:8000::2"
GATEWAY = f"{LINK}0:8000::1"
LAN = f"{LINK}0:8000::/65"
"""A part of the same /64 that is behind the router."""
NOWHERE = f"{LINK}0:4000::9"
"""An address in it that is on the upstream link, if anywhere."""
PEER = "fe80::feed"
MAC = "02:00:00:00:ee:01"
UPLINK = '[uplink.wan]\ninterface = "eth0"\nsource = "onlink"\n'
RESPONDER = UPLINK + '[[proxy]]\nuplink = "wan"\n'
ENTRIES = RESPONDER + 'hosts = ["::8000:0:0:2", "::8000:0:0:3"]\n'


class Proxy:
    """A router between an upstream router that expects all on its link, and a host."""

    def __init__(self, lab: Lab, text: str) -> None:
        self.lab = lab
        self.router = Router(lab, text)
        self.attach(LAN, GATEWAY, HOST)

    def attach(self, network: str, gateway: str, host: str) -> None:
        """Host a has an address of a network that is routed to it."""
        length = network.partition("/")[2]
        self.router.run("ip", "-6", "addr", "add", f"{gateway}/{length}", "dev", "lan0", "nodad")
        self.lab.run("a", ["ip", "-6", "addr", "add", f"{host}/{length}", "dev", "eth0", "nodad"])

    def ask(self, *packets: bytes, last: str = HOST) -> list[tuple[str, str, Advertisement]]:
        """What comes back for these packets, before the answer for ``last``: (to whom, sender's
        hardware address, packet)."""
        end = solicitation(PEER, last, link_option(MAC))
        argv = [PYTHON, "-I", "-S", str(SCRIPTS / "solicit.py"), "wan", self.mac,
                end.hex(), *(one.hex() for one in packets)]
        done = self.lab.run("isp", argv, check=False)
        assert done.returncode == 0, f"{last} was not answered for: {done.stdout}{done.stderr}"
        lines = (line.split() for line in done.stdout.splitlines())
        return [(to, mac, advertisement(bytes.fromhex(data))) for to, mac, data in lines][:-1]

    @property
    def mac(self) -> str:
        """The hardware address of the router's uplink."""
        return self.lab.link_to("isp").mac(2)

    def targets(self, *targets: str) -> list[str]:
        """Those of the targets that are answered for."""
        found = self.ask(*(solicitation(PEER, one, link_option(MAC)) for one in targets))
        return [one.target for _, _, one in found]


@pytest.fixture(scope="module")
def network() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def standing(network: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The responder, at work."""
    proxy = Proxy(network, RESPONDER)
    proxy.watcher = Watcher(proxy.router, tmp_path_factory.mktemp("notify"))
    yield proxy


# ---- the responder -----------------------------------------------------------------------------


def test_a_host_behind_the_router_is_reached(standing: Proxy) -> None:
    assert reaches(standing.lab, "isp", HOST)


def test_only_what_is_routed_elsewhere_is_answered_for(standing: Proxy) -> None:
    run = standing.router.run
    run("ip", "-6", "route", "add", "unreachable", f"{LINK}0:1000::/80")
    run("ip", "-6", "route", "add", "blackhole", f"{LINK}0:1001::/80")
    run("ip", "-6", "route", "add", "prohibit", f"{LINK}0:1002::/80")
    run("ip", "-6", "route", "add", f"{LINK}0:1003::/80", "dev", "eth0")
    run("ip", "-6", "route", "add", f"{LINK}0:1004::/80", "via", "fe80::b", "dev", "lan1")
    run("ip", "-6", "route", "add", f"{LINK}0:1005::/80", "nexthop", "via", "fe80::b", "dev",
        "lan1", "nexthop", "via", "fe80::b", "dev", "eth0")
    run("ip", "-6", "route", "add", f"{LINK}0:1006::/80", "nexthop", "via", "fe80::b", "dev",
        "lan1", "nexthop", "via", "fe80::c", "dev", "lan1")
    asked = [f"{LINK}0:100{n}::5" for n in range(7)]
    assert standing.targets(*asked) == [f"{LINK}0:1004::5", f"{LINK}0:1006::5"]
    assert standing.targets(UPSTREAM, NOWHERE, HOST, "fd5e:ed00:1234::2", "2001:db8:fffe::1",
                            ) == [HOST]
