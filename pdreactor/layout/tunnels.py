"""(configuration, traces, what is there) -> the tunnels, and what goes with each of them. Pure."""

from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ..model import Problem
from ..ways import MAIN_TABLE, Route
from .model import (
    IN4,
    SIXRD,
    SIXTOFOUR,
    Address,
    Link,
    Plans,
    Seen,
    SeenLink,
    Sixrd,
    Traces,
    Tunnel,
)

EVERYTHING = IPv6Network("::/0")
SIXTOFOUR_PREFIX = IPv6Network("2002::/16")


def local_of(tunnel: Tunnel, seen: Seen) -> IPv4Address | None:
    """The IPv4 address of this end; None when any may be, or when there is none yet."""
    if tunnel.local or not tunnel.underlay:
        return tunnel.local
    return next(iter(seen.ipv4.get(tunnel.underlay, ())), None)


def sixrd_of(tunnel: Tunnel, traces: Traces) -> Sixrd | None:
    """6rd as it is written down, or as DHCPv4 told it; None before it did."""
    if tunnel.prefix is not None and tunnel.relay is not None:
        return Sixrd(tunnel.underlay, tunnel.prefix, tunnel.mask_length, tunnel.relay)
    return next((one for one in traces.sixrd if one.interface == tunnel.underlay), None)


def links(plans: Plans, traces: Traces, seen: Seen, problems: list[Problem]) -> Iterator[Link]:
    """The links that there should be. While an underlay has no address its tunnel stays as it
    is: between two leases nothing that is on it goes."""
    for tunnel in plans.tunnels:
        there = seen.links.get(tunnel.name)
        local = local_of(tunnel, seen)
        if local is None and tunnel.underlay:
            problems.append(_problem(tunnel, f"interface {tunnel.underlay} has no IPv4 address"))
            if there is None or not there.ours:
                continue
            local = there.link.local
        sixrd = None
        if tunnel.mode == SIXRD:
            told = sixrd_of(tunnel, traces)
            if told is None or local is None:
                reason = f"DHCPv4 on {tunnel.underlay} has told nothing of 6rd"
                problems.append(_problem(tunnel, reason))
                continue
            sixrd = told.prefix, IPv4Network((int(local), told.mask_length), strict=False)
        link = Link(tunnel.name, "sit", tunnel.mtu, local, tunnel.remote, tunnel.ttl, sixrd)
        if may_be(link, there):
            yield link
        else:
            problems.append(_problem(tunnel, others(tunnel.name)))


def may_be(link: Link, there: SeenLink | None) -> bool:
    """False where others have made a link of that name. One that is down and has just these values
    was made by a pass that could not finish it."""
    return there is None or there.ours or (
        not there.up and there.link._replace(mtu=0) == link._replace(mtu=0))


def others(name: str) -> str:
    """What to say then."""
    return f"link {name} was made by others and is left alone: remove it, or take another name"


def _problem(tunnel: Tunnel, reason: str) -> Problem:
    return Problem(f"tunnel {tunnel.name}", reason)


def endpoints(plans: Plans, there: Collection[Link]) -> Iterator[tuple[str, str]]:
    """(tunnel, IPv4 address at this end) of those that follow the address of an interface."""
    following = {tunnel.name for tunnel in plans.tunnels if tunnel.underlay}
    return ((link.name, str(link.local)) for link in there
            if link.name in following and link.local is not None)


def addresses(plans: Plans, there: Collection[str]) -> Iterator[Address]:
    """The addresses that are written down."""
    for tunnel in plans.tunnels:
        for one in tunnel.addresses if tunnel.name in there else ():
            yield Address(tunnel.name, one.ip, one.network.prefixlen)


def routes(plans: Plans, traces: Traces, there: Collection[str]) -> Iterator[Route]:
    """By each tunnel: its siblings, and the rest of the world when it is asked for."""
    for tunnel in plans.tunnels:
        if tunnel.name not in there:
            continue
        relay = tunnel.relay
        if tunnel.mode == SIXTOFOUR:
            yield Route(SIXTOFOUR_PREFIX, "unicast", MAIN_TABLE, 256, tunnel.name)
        if tunnel.mode == SIXRD and (told := sixrd_of(tunnel, traces)):
            yield Route(told.prefix, "unicast", MAIN_TABLE, 256, tunnel.name)
            relay = told.relay
        if tunnel.default:
            via = None if tunnel.mode == IN4 or relay is None else IPv6Address(int(relay))
            yield Route(EVERYTHING, "unicast", MAIN_TABLE, tunnel.metric, tunnel.name, via)
