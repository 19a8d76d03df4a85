"""(configuration, state, what is there, now) -> Layout. Pure."""

from collections.abc import Container, Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network

from ..model import (
    DELEGATED,
    ONLINK,
    Config,
    Nat,
    Pair,
    Prefix,
    Problem,
    State,
    Uplink,
    UplinkState,
)
from ..prefix import slice_of
from ..usable import NO_PREFIX
from ..ways import MAIN_TABLE, Route
from . import tunnels
from .model import (
    KERNEL,
    NDPPD,
    RESPONDER,
    Address,
    Answering,
    Assign,
    Layout,
    Link,
    Mapped,
    Neighbour,
    Plans,
    Proxy,
    Seen,
    Traces,
)
from .slices import Shares, name_of, share_out

DEPRECATED = 0
"""A preferred lifetime that ended long ago."""
ON_LINK_METRIC = 255
"""Not that of the kernel's own routes (256): where others have an address in the same prefix, each
has its route."""


def layout(config: Config, state: State, seen: Seen, now: int) -> Layout:
    """What should be there at ``now`` (epoch seconds)."""
    plans, traces = config.plans or Plans(), state.traces or Traces()
    problems: list[Problem] = []
    links = [*tunnels.links(plans, traces, seen, problems), *_dummies(plans, seen, problems)]
    there = {one.name for one in links}
    live = {one.name: _live(config, one.name, state, now) for one in config.uplinks}
    asked = [*(one.uplink for one in plans.assigns), *(one.uplink for one in plans.onward),
             *(one.uplink for one in plans.proxies)]
    problems += [Problem(name, NO_PREFIX) for name in dict.fromkeys(asked) if not live[name]]
    shares = share_out(plans, config, seen.links, _room(live), traces.slices)
    addresses = [*tunnels.addresses(plans, there)]
    for assign in plans.assigns:
        addresses += _assigned(assign, live[assign.uplink], shares, seen, there, problems)
    up = there | {name for name, one in seen.links.items() if one.up}
    routes = dict.fromkeys((*_on_link(addresses, up), *_onward(plans, live, up, problems),
                            *tunnels.routes(plans, traces, there)))
    return Layout(
        links=tuple(links),
        addresses=tuple(dict.fromkeys(addresses)),
        routes=tuple(routes),
        neighbours=tuple(dict.fromkeys(_neighbours(plans, config, state, now))),
        ndppd=tuple(_ndppd(plans, config, state, seen, now)),
        sysctls=tuple(dict(_sysctls(config, plans, seen)).items()),
        slices=shares.rows,
        endpoints=tuple(tunnels.endpoints(plans, links)),
        problems=tuple(dict.fromkeys(problems)),
    )


# ---- links -------------------------------------------------------------------------------------


def _dummies(plans: Plans, seen: Seen, problems: list[Problem]) -> Iterator[Link]:
    for name in dict.fromkeys(one.interface for one in plans.assigns if one.create):
        link = Link(name, "dummy")
        if tunnels.may_be(link, seen.links.get(name)):
            yield link
        else:
            problems.append(Problem(f"link {name}", tunnels.others(name)))


def _on_link(addresses: Iterable[Address], up: Container[str]) -> Iterator[Route]:
    """What is on the link of each address: the kernel is told not to add it, and takes no route by
    a link that is down."""
    links = {(one.interface, int(one.address) >> 128 - one.length, one.length)
             for one in addresses if one.length < 128 and one.interface in up}
    for interface, bits, length in sorted(links):
        network = IPv6Network((bits << 128 - length, length))
        yield Route(network, "unicast", MAIN_TABLE, ON_LINK_METRIC, interface)


# ---- slices of a prefix ------------------------------------------------------------------------


def _uplink(config: Config, name: str, state: State) -> tuple[Uplink, UplinkState]:
    return config.uplink(name), state.uplinks.get(name, UplinkState(0))


def _live(config: Config, name: str, state: State, now: int) -> list[Prefix]:
    """The uplink's prefixes whose time is not over, current ones first."""
    _, known = _uplink(config, name, state)
    return sorted((one for one in known.prefixes if not one.expired(now)),
                  key=lambda one: one.superseded_at is not None)


_slice = lru_cache(slice_of)
"""A thousand rows may be about few slices."""


def _part(prefix: Prefix, length: int, subnet: int) -> IPv6Network | None:
    """The slice, but not one that is the uplink's own (RFC 6603)."""
    found = _slice(prefix.network, max(length, prefix.network.prefixlen), subnet)
    if found is None or (prefix.excluded is not None and found.overlaps(prefix.excluded)):
        return None
    return found


def _room(live: Mapping[str, list[Prefix]]) -> dict[str, int]:
    """The length of the smallest current prefix of each uplink that has one."""
    lengths = {name: [one.network.prefixlen for one in among if one.superseded_at is None]
               for name, among in live.items()}
    return {name: max(among) for name, among in lengths.items() if among}


def _assigned(assign: Assign, prefixes: list[Prefix], shares: Shares, seen: Seen,
              made: Container[str], problems: list[Problem]) -> Iterator[Address]:
    """``made`` are the links that are made when they are not there."""
    numbers = {assign.interface: assign.subnet}
    if assign.pattern:
        numbers = shares.numbers[name_of(assign)]
    for name, number in numbers.items():
        if name not in seen.links and name not in made:
            problems.append(Problem(assign.uplink, f"interface {name} is not there yet: no "
                                                   f"address on it"))
            continue
        if name not in made and not (assign.pattern or seen.links[name].up):
            problems.append(Problem(assign.uplink, f"interface {name} is down: nothing is routed "
                                                   f"to it"))
        for prefix in prefixes:
            if address := _address(assign, name, prefix, number, seen):
                yield address
            elif prefix.superseded_at is None:
                problems.append(Problem(assign.uplink, _no_address(assign, name, prefix, number)))


def _no_address(assign: Assign, name: str, prefix: Prefix, number: int) -> str:
    if _part(prefix, assign.length, number) is not None:
        return f"interface {name} has no MAC address of six octets to make an EUI-64 of"
    return f"{prefix.network} has no subnet {number} of length {assign.length} for {name}"


def _address(assign: Assign, name: str, prefix: Prefix, subnet: int,
             seen: Seen) -> Address | None:
    part = _part(prefix, assign.length, subnet)
    host = assign.host
    if host is None:
        mac = seen.links[name].mac if name in seen.links else b""
        host = eui64(mac) if len(mac) == 6 else None
    if part is None or host is None or host >> 128 - part.prefixlen:
        return None
    preferred = prefix.preferred_until if prefix.superseded_at is None else DEPRECATED
    length = assign.prefix_length or part.prefixlen
    return Address(name, IPv6Address(int(part.network_address) | host), length, preferred,
                   prefix.valid_until)


def eui64(mac: bytes) -> int:
    """The modified EUI-64 interface identifier of six octets (RFC 4291 appendix A)."""
    octets = bytes((mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]))
    return int.from_bytes(octets, "big")


def _onward(plans: Plans, live: Mapping[str, list[Prefix]], up: Container[str],
            problems: list[Problem]) -> Iterator[Route]:
    for one in plans.onward:
        if one.interface not in up:
            problems.append(Problem(one.uplink, f"interface {one.interface} is not there yet or "
                                                f"down: nothing is routed by it"))
            continue
        for prefix in live[one.uplink]:
            part = _part(prefix, one.length, one.subnet)
            if part is not None:
                yield Route(part, "unicast", MAIN_TABLE, one.metric, one.interface, one.via)
            elif prefix.superseded_at is None:
                problems.append(Problem(one.uplink, f"{prefix.network} has no subnet {one.subnet} "
                                                    f"of length {one.length} to route on"))


# ---- neighbours --------------------------------------------------------------------------------


def _asked(plans: Plans, method: str) -> Iterator[Proxy]:
    return (proxy for proxy in plans.proxies if proxy.method == method)


def _parts(proxy: Proxy, config: Config, state: State, now: int) -> Iterator[IPv6Network]:
    """What is answered for: the slice, or single addresses of it."""
    for prefix in _live(config, proxy.uplink, state, now):
        part = _part(prefix, proxy.length, proxy.subnet)
        if part is None:
            continue
        if not proxy.hosts:
            yield part
        for host in proxy.hosts:
            yield IPv6Network(int(part.network_address) | host)


def _neighbours(plans: Plans, config: Config, state: State, now: int) -> Iterator[Neighbour]:
    for proxy in _asked(plans, KERNEL):
        for part in _parts(proxy, config, state, now):
            yield Neighbour(proxy.interface, part.network_address)


def answering(config: Config, state: State, nat: Nat, now: int) -> Iterator[Answering]:
    """What the watcher answers for. With a translation that is for external addresses too, whose
    hosts have internal ones."""
    plans = config.plans or Plans()
    by: dict[str, list[IPv6Network]] = {}
    for proxy in _asked(plans, RESPONDER):
        by.setdefault(proxy.interface, []).extend(_parts(proxy, config, state, now))
    outside = tuple(sorted({uplink.interface for uplink in config.uplinks}))
    for interface, networks in by.items():
        mapped = (Mapped(external, internal, lane.mode)
                  for lane in nat.lanes if lane.interface == interface
                  for internal, external in (*lane.outbound, *map(_turned, lane.inbound)))
        yield Answering(interface, tuple(networks), tuple(dict.fromkeys(mapped)), outside)


def _turned(pair: Pair) -> Pair:
    return pair[1], pair[0]


def _ndppd(plans: Plans, config: Config, state: State, seen: Seen,
           now: int) -> Iterator[tuple[str, tuple[IPv6Network, ...]]]:
    """It has nothing to do with a link that is down: see ndppd.py."""
    by: dict[str, list[IPv6Network]] = {}
    for proxy in _asked(plans, NDPPD):
        up = proxy.interface in seen.links and seen.links[proxy.interface].up
        by.setdefault(proxy.interface, []).extend(
            _parts(proxy, config, state, now) if up else ())
    return ((interface, tuple(networks)) for interface, networks in by.items())


# ---- sysctls -----------------------------------------------------------------------------------


def _sysctls(config: Config, plans: Plans, seen: Seen) -> Iterator[tuple[str, str]]:
    """What all of it needs (Documentation/networking/ip-sysctl.rst), below net.ipv6."""
    if config.plans is None:
        return  # there was a layout, and only its traces are left
    for uplink in config.uplinks:
        interface = uplink.interface
        if uplink.source in (DELEGATED, ONLINK) and seen.accept_ra.get(interface) in ("1", "2"):
            # With forwarding, 1 is as 0. It comes first: who begins to forward forgets the routers
            # that were learned on other interfaces (route.c rt6_purge_dflt_routers).
            yield f"conf/{interface}/accept_ra", "2"
    if config.translations or plans.onward or plans.assigns or plans.proxies or plans.tunnels:
        yield "conf/all/forwarding", "1"
    for interface in dict.fromkeys(one.interface for one in _asked(plans, KERNEL)):
        if interface in seen.links:
            yield f"conf/{interface}/proxy_ndp", "1"
            yield f"neigh/{interface}/proxy_delay", "0"  # else the answer waits up to 0.8 s
