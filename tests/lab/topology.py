"""The plan of a test network: who is connected to whom, and with which addresses.

    a (lan0) ---+
                +--- router --- isp  (eth0, 2001:db8:ffff::/64)
    b (lan1) ---+        \\
                          +---- isp2 (eth1, 2001:db8:fffe::/64), with a second uplink

Each machine's neighbours are entered by hand and duplicate address detection is off, so nothing
is lost or late because of neighbour discovery. Both ends of a link have different interface
numbers: when they happen to be the same in two namespaces, Linux reports carrier a second later.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Network
from itertools import islice

SERVER = "2001:db8:e::1"
POOLS = ("2001:db8:4000::/44", "2001:db8:8000::/44", "2001:db8:c000::/44")
INTERNAL = "fd5e:ed00:1234::/58"

QUIET = (
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.router_solicitations=0",
)
ROUTES = ("net.ipv6.conf.default.forwarding=1", "net.ipv6.conf.all.forwarding=1")
ACCEPT_RA = ("net.ipv6.conf.default.accept_ra=2", "net.ipv6.conf.all.accept_ra=2")


@dataclass(frozen=True)
class Link:
    """A cable from the router to another machine."""

    number: int
    here: str  # the router's interface
    peer: str  # the other machine
    there: str  # its interface
    network: IPv6Network
    router_host: int  # last part of the router's address
    uplink: bool

    @property
    def peer_host(self) -> int:
        """Last part of the other machine's address."""
        return 3 - self.router_host

    def address(self, host: int) -> str:
        """An address on this link."""
        return str(self.network[host])

    def mac(self, host: int) -> str:
        """The hardware address that goes with it."""
        return f"02:00:00:00:{self.number:02x}:{host:02x}"


def links(internal: str, uplinks: int) -> list[Link]:
    """All links of the network."""
    inside = IPv6Network(internal)
    first, second = islice(inside.subnets(new_prefix=64), 2)
    plan = [
        Link(1, "lan0", "a", "eth0", first, 1, False),
        Link(2, "lan1", "b", "eth0", second, 1, False),
        Link(3, "eth0", "isp", "wan", IPv6Network("2001:db8:ffff::/64"), 2, True),
        Link(4, "eth1", "isp2", "wan", IPv6Network("2001:db8:fffe::/64"), 2, True),
    ]
    return plan[: 2 + uplinks]


def settings(machine: str) -> list[str]:
    """The sysctls of a machine, set before it has any interface."""
    if machine == "router":
        return [*QUIET, *ROUTES, *ACCEPT_RA]
    return [*QUIET, *ROUTES] if machine.startswith("isp") else [*QUIET]


def router_batch(plan: list[Link], pids: dict[str, int]) -> Iterator[str]:
    """Lines for ``ip -6 -batch`` in the router."""
    yield "link set lo up"
    for link in plan:
        yield (
            f"link add {link.here} index {10 + link.number} address {link.mac(link.router_host)}"
            f" type veth peer name {link.there} index {20 + link.number}"
            f" address {link.mac(link.peer_host)} netns {pids[link.peer]}"
        )
        yield f"link set {link.here} up"
        yield f"addr add {link.address(link.router_host)}/64 dev {link.here} nodad"
        yield neighbour(link, link.here, link.peer_host)
        if link.uplink:
            yield (
                f"route add default via {link.address(link.peer_host)} dev {link.here}"
                f" metric {1024 + link.number}"
            )


def peer_batch(link: Link) -> Iterator[str]:
    """Lines for ``ip -6 -batch`` in the machine at the other end of a link."""
    router = link.address(link.router_host)
    yield "link set lo up"
    yield f"link set {link.there} up"
    yield f"addr add {link.address(link.peer_host)}/64 dev {link.there} nodad"
    yield neighbour(link, link.there, link.router_host)
    if not link.uplink:
        yield f"route add default via {router} dev {link.there}"
        return
    yield f"addr add {SERVER}/128 dev lo nodad"
    for pool in POOLS:
        yield f"route add {pool} via {router} dev {link.there}"


def neighbour(link: Link, interface: str, host: int) -> str:
    """The line that enters the other end of a link for good."""
    return f"neigh add {link.address(host)} lladdr {link.mac(host)} dev {interface} nud permanent"
