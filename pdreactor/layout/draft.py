"""(configuration, state, what is there, now) -> Layout. Pure."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ..model import (
    DELEGATED,
    MAIN_TABLE,
    ONLINK,
    Config,
    Nat,
    Pair,
    Prefix,
    Problem,
    Route,
    State,
    Uplink,
    UplinkState,
)
from ..prefix import slice_of
from .model import (
    IN4,
    KERNEL,
    NDPPD,
    RESPONDER,
    SIXRD,
    SIXTOFOUR,
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
    Sixrd,
    Traces,
    Tunnel,
)

EVERYTHING = IPv6Network("::/0")
SIXTOFOUR_PREFIX = IPv6Network("2002::/16")
DEPRECATED = 0
"""A preferred lifetime that ended long ago."""
Slices = tuple[tuple[str, str, int], ...]


def layout(config: Config, state: State, seen: Seen, now: int) -> Layout:
    """What should be there at ``now`` (epoch seconds)."""
    plans, traces = config.plans or Plans(), state.traces or Traces()
    problems: list[Problem] = []
    links = [*_tunnels(plans, traces, seen, problems), *_dummies(plans)]
    there = {one.name for one in links}
    slices: list[tuple[str, str, int]] = []
    addresses = [one for tunnel in plans.tunnels if tunnel.name in there for one in _own(tunnel)]
    for assign in plans.assigns:
        addresses += _assigned(assign, plans, config, state, seen, traces, slices, problems, now)
    routes = dict.fromkeys((*_on_link(addresses), *_onward(plans, config, state, seen, now),
                            *_tunnel_routes(plans, traces, there)))
    return Layout(
        links=tuple(links),
        addresses=tuple(dict.fromkeys(addresses)),
        routes=tuple(routes),
        neighbours=tuple(dict.fromkeys(_neighbours(plans, config, state, now))),
        ndppd=tuple(_ndppd(plans, config, state, seen, now)),
        sysctls=tuple(dict(_sysctls(config, plans, seen)).items()),
        slices=tuple(slices),
        problems=tuple(problems),
    )


# ---- links -------------------------------------------------------------------------------------


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


def _tunnels(plans: Plans, traces: Traces, seen: Seen, problems: list[Problem]) -> Iterator[Link]:
    for tunnel in plans.tunnels:
        local = local_of(tunnel, seen)
        if local is None and tunnel.underlay:
            problems.append(Problem(f"tunnel {tunnel.name}",
                                    f"interface {tunnel.underlay} has no IPv4 address"))
            continue
        sixrd = None
        if tunnel.mode == SIXRD:
            told = sixrd_of(tunnel, traces)
            if told is None or local is None:
                problems.append(Problem(f"tunnel {tunnel.name}",
                                        f"DHCPv4 on {tunnel.underlay} has told nothing of 6rd"))
                continue
            shared = IPv4Network((int(local), told.mask_length), strict=False)
            sixrd = told.prefix, shared
        yield Link(tunnel.name, "sit", tunnel.mtu, local, tunnel.remote, tunnel.ttl, sixrd)


def _dummies(plans: Plans) -> Iterator[Link]:
    names = dict.fromkeys(one.interface for one in plans.assigns if one.create)
    return (Link(name, "dummy") for name in names)


def _own(tunnel: Tunnel) -> Iterator[Address]:
    """The addresses that are written down."""
    for one in tunnel.addresses:
        yield Address(tunnel.name, one.ip, one.network.prefixlen)


def _on_link(addresses: Iterable[Address]) -> Iterator[Route]:
    """What is on the link of each address: the kernel is told not to add it."""
    for one in addresses:
        if one.length < 128:
            network = IPv6Network((one.address, one.length), strict=False)
            yield Route(network, "unicast", MAIN_TABLE, 256, one.interface)


def _tunnel_routes(plans: Plans, traces: Traces, there: set[str]) -> Iterator[Route]:
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


# ---- slices of a prefix ------------------------------------------------------------------------


def _uplink(config: Config, name: str, state: State) -> tuple[Uplink, UplinkState]:
    return config.uplink(name), state.uplinks.get(name, UplinkState(0))


def _live(config: Config, name: str, state: State, now: int) -> list[Prefix]:
    """The uplink's prefixes whose time is not over, current ones first."""
    _, known = _uplink(config, name, state)
    return sorted((one for one in known.prefixes if not one.expired(now)),
                  key=lambda one: one.superseded_at is not None)


def _part(prefix: Prefix, length: int, subnet: int) -> IPv6Network | None:
    """The slice, but not one that is the uplink's own (RFC 6603)."""
    found = slice_of(prefix.network, max(length, prefix.network.prefixlen), subnet)
    if found is None or (prefix.excluded is not None and found.overlaps(prefix.excluded)):
        return None
    return found


def _assigned(assign: Assign, plans: Plans, config: Config, state: State, seen: Seen,
              traces: Traces, slices: list[tuple[str, str, int]], problems: list[Problem],
              now: int) -> Iterator[Address]:
    names = [assign.interface]
    if assign.pattern:
        names = sorted(name for name in seen.links if fnmatchcase(name, assign.interface))
    numbers = _numbers(assign, names, traces, plans, config)
    slices += [(assign.interface, name, number) for name, number in numbers.items()
               if assign.pattern]
    for name in names:
        if name not in seen.links and not assign.create:
            problems.append(Problem(assign.uplink, f"interface {name} is not there yet: no "
                                                   f"address on it"))
            continue
        for prefix in _live(config, assign.uplink, state, now):
            if address := _address(assign, name, prefix, numbers[name], seen):
                yield address
            elif prefix.superseded_at is None:
                problems.append(Problem(assign.uplink, _no_slice(prefix, assign, numbers[name])))


def _no_slice(prefix: Prefix, assign: Assign, number: int) -> str:
    return (f"{prefix.network} has no subnet {number} of length {assign.length} for "
            f"{assign.interface}")


def _numbers(assign: Assign, names: list[str], traces: Traces, plans: Plans,
             config: Config) -> dict[str, int]:
    """The slice of each interface: it keeps the one that it had, a new one takes the first that is
    free."""
    if not assign.pattern:
        return dict.fromkeys(names, assign.subnet)
    before = {name: number for pattern, name, number in traces.slices
              if pattern == assign.interface and number >= assign.subnet and name in names}
    used = {*before.values(), *_taken(assign, plans, config)}
    numbers, following = {}, assign.subnet
    for name in names:
        if name not in before:
            while following in used:
                following += 1
            used.add(following)
        numbers[name] = before.get(name, following)
    return numbers


def _taken(assign: Assign, plans: Plans, config: Config) -> Iterator[int]:
    """Slices of the same length that the configuration gives to others on this uplink."""
    others = [(one.subnet, one.length) for one in plans.assigns
              if one.uplink == assign.uplink and one is not assign and one.prefix_length != 128]
    others += [(one.subnet, one.length) for one in plans.onward if one.uplink == assign.uplink]
    others += [(one.subnet, one.internal.prefixlen) for one in config.translations
               if assign.uplink in one.uplinks]
    for subnet, length in others:
        if length >= assign.length:
            yield subnet >> length - assign.length
        else:
            first = subnet << assign.length - length
            yield from range(first, first + min(1 << assign.length - length, MOST_TAKEN))


MOST_TAKEN = 65_536


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


def _onward(plans: Plans, config: Config, state: State, seen: Seen, now: int) -> Iterator[Route]:
    for one in plans.onward:
        for prefix in _live(config, one.uplink, state, now):
            part = _part(prefix, one.length, one.subnet)
            if part is not None and (one.interface in seen.links or _made(one.interface, plans)):
                yield Route(part, "unicast", MAIN_TABLE, one.metric, one.interface, one.via)


def _made(name: str, plans: Plans) -> bool:
    return any(name == tunnel.name for tunnel in plans.tunnels)


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
    if config.translations or plans.onward or plans.assigns or plans.proxies or plans.tunnels:
        yield "conf/all/forwarding", "1"
    for uplink in config.uplinks:
        interface = uplink.interface
        if uplink.source in (DELEGATED, ONLINK) and seen.accept_ra.get(interface) in ("1", "2"):
            yield f"conf/{interface}/accept_ra", "2"  # with forwarding, 1 is as 0
    for interface in dict.fromkeys(one.interface for one in _asked(plans, KERNEL)):
        if interface in seen.links:
            yield f"conf/{interface}/proxy_ndp", "1"
            yield f"neigh/{interface}/proxy_delay", "0"  # else the answer waits up to 0.8 s
