"""The plan of a test network: who is connected to whom, and with which addresses.

    a (lan0) ---+
                +--- router --- isp  (eth0, 2001:db8:ffff::/64)
    b (lan1) ---+        \\
                          +---- isp2 (eth1, 2001:db8:fffe::/64), with a second uplink

With two routers, router2 has the same interfaces as router. Each wire is then a switch, inside the
machine at its far end, whose own interface it is:

    router  --- a-1 \\                   / isp-1 --- router
                     eth0 (a)     wan (isp)
    router2 --- a-2 /                   \\ isp-2 --- router2

Hosts and ISPs then send to the link-local address VIRTUAL, which no router has by itself.

Each machine's neighbours are entered by hand and duplicate address detection is off, so nothing
is lost or late because of neighbour discovery. Both ends of a link have different interface
numbers: when they happen to be the same in two namespaces, Linux reports carrier a second later.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv6Network
from itertools import islice

SERVER = "2001:db8:e::1"
POOLS = ("2001:db8:4000::/44", "2001:db8:8000::/44", "2001:db8:c000::/44")
INTERNAL = "fd5e:ed00:1234::/58"
ROUTERS = ("router", "router2")
VIRTUAL = "fe80::5e:1"
"""The routers' common address on each link, where there are two of them."""

QUIET = (
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.router_solicitations=0",
)
ROUTES = ("net.ipv6.conf.default.forwarding=1", "net.ipv6.conf.all.forwarding=1")
ACCEPT_RA = ("net.ipv6.conf.default.accept_ra=2", "net.ipv6.conf.all.accept_ra=2")


@dataclass(frozen=True)
class Link:
    """A cable from the router, or one from each of both, to another machine."""

    number: int
    here: str  # the router's interface
    peer: str  # the other machine
    there: str  # its interface
    network: IPv6Network
    router_host: int  # last part of the router's address
    uplink: bool
    routers: tuple[str, ...] = ROUTERS[:1]

    @property
    def peer_host(self) -> int:
        """Last part of the other machine's address."""
        return 3 - self.router_host

    @property
    def gateway(self) -> str:
        """Whom the other machine sends to."""
        return self.address(self.router_host) if len(self.routers) == 1 else VIRTUAL

    def host_of(self, router: str) -> int:
        """Last part of the address of one of the routers."""
        return self.router_host if router == ROUTERS[0] else 3

    def port(self, router: str) -> str:
        """The interface of the other machine that leads to one of the routers."""
        return self.there if len(self.routers) == 1 else f"{self.peer}-{router[6:] or 1}"

    def address(self, host: int) -> str:
        """An address on this link."""
        return str(self.network[host])

    def mac(self, host: int) -> str:
        """The hardware address that goes with it."""
        return f"02:00:00:00:{self.number:02x}:{host:02x}"


def links(internal: str, uplinks: int, routers: int = 1) -> list[Link]:
    """All links of the network."""
    inside = IPv6Network(internal)
    first, second = islice(inside.subnets(new_prefix=64), 2)
    plan = [
        Link(1, "lan0", "a", "eth0", first, 1, False),
        Link(2, "lan1", "b", "eth0", second, 1, False),
        Link(3, "eth0", "isp", "wan", IPv6Network("2001:db8:ffff::/64"), 2, True),
        Link(4, "eth1", "isp2", "wan", IPv6Network("2001:db8:fffe::/64"), 2, True),
    ]
    return [replace(link, routers=ROUTERS[:routers]) for link in plan[: 2 + uplinks]]


def settings(machine: str) -> list[str]:
    """The sysctls of a machine, set before it has any interface."""
    if machine in ROUTERS:
        return [*QUIET, *ROUTES, *ACCEPT_RA]
    return [*QUIET, *ROUTES] if machine.startswith("isp") else [*QUIET]


def router_batch(plan: list[Link], pids: dict[str, int], router: str) -> Iterator[str]:
    """Lines for ``ip -6 -batch`` in a router."""
    yield "link set lo up"
    for link in plan:
        host = link.host_of(router)
        far = f" address {link.mac(link.peer_host)}" if len(link.routers) == 1 else ""
        yield (
            f"link add {link.here} index {10 + link.number} address {link.mac(host)}"
            f" type veth peer name {link.port(router)} index {10 * host + 20 + link.number}{far}"
            f" netns {pids[link.peer]}"
        )
        yield f"link set {link.here} up"
        yield f"addr add {link.address(host)}/64 dev {link.here} nodad"
        yield neighbour(link, link.here, link.peer_host)
        if link.uplink:
            yield (
                f"route add default via {link.address(link.peer_host)} dev {link.here}"
                f" metric {1024 + link.number}"
            )


def peer_batch(link: Link) -> Iterator[str]:
    """Lines for ``ip -6 -batch`` in the machine at the other end of a link."""
    yield "link set lo up"
    if len(link.routers) > 1:
        yield (
            f"link add {link.there} index {20 + link.number} address {link.mac(link.peer_host)}"
            f" type bridge mcast_snooping 0"
        )
        for router in link.routers:
            yield f"link set {link.port(router)} master {link.there} up"
    yield f"link set {link.there} up"
    yield f"addr add {link.address(link.peer_host)}/64 dev {link.there} nodad"
    for router in link.routers:
        yield neighbour(link, link.there, link.host_of(router))
    if not link.uplink:
        yield f"route add default via {link.gateway} dev {link.there}"
        return
    yield f"addr add {SERVER}/128 dev lo nodad"
    for pool in POOLS:
        yield f"route add {pool} via {link.gateway} dev {link.there}"


def neighbour(link: Link, interface: str, host: int) -> str:
    """The line that enters the other end of a link for good."""
    return f"neigh add {link.address(host)} lladdr {link.mac(host)} dev {interface} nud permanent"
