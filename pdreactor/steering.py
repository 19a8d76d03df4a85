"""(configuration, state, links, paths) -> the routes and policy rules. Pure.

Rules, from ``[routing] priority`` on; table main is 254, and what is "inside" are the hosts of
translations whose uplinks have a table:

    +0  from INTERNAL fwmark UPLINK lookup TABLE    a flow stays on the uplink that it is on
    +0  iif lo fwmark UPLINK lookup TABLE           and so do our ICMPv6 errors about it
    +1  from ANY OF OURS lookup main suppress_prefixlength 0   what is not the default route
    +2  from INTERNAL lookup TABLE, or unreachable  new flows: the first usable uplink
    +3  from DELEGATED or ADDRESS lookup TABLE      by the uplink that the source belongs to

The networks of each step, or the marks, are disjoint, so that their order within a step does not
matter. Errors need a rule of their own: when they are led somewhere they still have the source of
some interface, and then conntrack gives them the external address that they are about.
"""

from collections.abc import Container, Mapping
from ipaddress import IPv6Network
from typing import NamedTuple

from . import marks
from . import prefix as arithmetic
from .model import Config, Desired, State, Translation, Uplink, UplinkState
from .usable import next_hop, no_way_out, why_not
from .ways import MAIN_TABLE, Path, Route, Rule, Steering

EVERYTHING = IPv6Network("::/0")
UNREACHABLE_METRIC = 0x7FFFFFFF
"""Any real route to the same prefix is better than the one that says there is none."""
LAST_METRIC = 0xFFFFFFFF
DEFAULT_METRIC = 512
"""Better than what ip(8) gives a default route that somebody adds to the table by hand (1024)."""
AROUND_METRIC = 512
"""Of what is delegated: after routes to what is on a link (256), before the unreachable ones of
dhcpcd (1000 and more). A prefix that is not delegated may itself be on a link, by any metric."""
STAY, INSIDE, NEW, OWN = range(4)
"""The steps."""

Nets = tuple[IPv6Network, ...]


def steering(config: Config, state: State, links: Mapping[str, bool], paths: Mapping[str, Path],
             wanted: Desired, refused: Container[int] = ()) -> Steering:
    """What the kernel should hold of routes and rules, and which uplink new flows take.

    ``paths`` tells of each interface that exists how it can be left; ``refused`` are tables whose
    routes the kernel does not take.
    """
    unusable = {u.name: reason for u in config.uplinks
                if (reason := why_not(u, _known(state, u), links)
                    or no_way_out(u, paths.get(u.interface), refused))}
    tables = {u.name: u.table for u in config.uplinks if u.table is not None}
    shares, leading = _share_out(config, wanted, unusable, tables)
    routes = [*_unreachable(config, state), *_around(config, wanted)]
    rules: list[Rule] = []
    if tables:
        routes += _tables(config, links, paths)
        rules = _rules(config, state, tables, shares, _owned(config, state, paths))
    return Steering(tuple(sorted(set(routes), key=str)), tuple(sorted(set(rules), key=str)),
                    leading, unusable)


def _known(state: State, uplink: Uplink) -> UplinkState:
    return state.uplinks.get(uplink.name, UplinkState(0))


# ---- which uplink new flows take ---------------------------------------------------------------


Shares = dict[str, list[IPv6Network]]
"""{uplink: what it takes the new flows of}; "" for what has no usable uplink."""
Leading = tuple[tuple[IPv6Network, str], ...]


class _Region(NamedTuple):
    """An internal prefix, and who carries it in order of preference."""

    internal: IPv6Network
    longer: Nets  # internal prefixes within it: regions of their own
    offers: list[tuple[Translation, str]]


def _share_out(config: Config, wanted: Desired, unusable: Mapping[str, str],
               tables: Mapping[str, int]) -> tuple[Shares, Leading]:
    """Disjoint parts of the internal prefixes by uplink, and the uplink that takes the most wanted
    part of each. Without a table nobody is told that there is none: table main decides."""
    regions = _regions(config, tables)
    served = {(id(one.translation), one.uplink): tuple(internal for internal, _ in one.pairs)
              for one in wanted.serving if one.outbound} if regions else {}
    shares: Shares = {}
    leading = []
    for region in regions:
        rest = arithmetic.subtract(region.internal, region.longer)
        first = ""
        for translation, uplink in region.offers:
            parts = () if uplink in unusable else served.get((id(translation), uplink), ())
            if taken := _common(parts, rest):
                shares.setdefault(uplink, []).extend(taken)
                rest = () if taken == rest else tuple(
                    left for net in rest for left in arithmetic.subtract(net, taken))
                first = first or uplink
        if region.offers[0][1] in tables:
            shares.setdefault("", []).extend(rest)
        leading.append((region.internal, first))
    return shares, tuple(leading)


def _common(some: Nets, others: Nets) -> Nets:
    """The addresses in both."""
    if some == others:
        return some
    pairs = ((one, other) for one in some for other in others if one.overlaps(other))
    return tuple(one if one.prefixlen >= other.prefixlen else other for one, other in pairs)


def _regions(config: Config, tables: Mapping[str, int]) -> list[_Region]:
    """The internal prefixes for which there is something to decide: several uplinks, or a table.

    A translation of a longer prefix comes before one of a shorter, and then their order in the
    file counts.
    """
    rows: dict[tuple[int, int], list[Translation]] = {}
    for one in config.translations:
        key = int(one.internal.network_address), one.internal.prefixlen
        rows.setdefault(key, []).append(one)
    lengths = sorted({length for _, length in rows}, reverse=True)
    regions = []
    for position, (base, length) in enumerate(ordered := sorted(rows)):
        covering = [one for shorter in lengths if shorter <= length
                    for one in rows.get((base >> 128 - shorter << 128 - shorter, shorter), ())]
        offers = [(one, name) for one in covering for name in one.uplinks]
        if len(offers) > 1 or offers[0][1] in tables:
            longer = _within(ordered, position, rows)
            regions.append(_Region(rows[base, length][0].internal, longer, offers))
    return regions


def _within(ordered: list[tuple[int, int]], position: int,
            rows: Mapping[tuple[int, int], list[Translation]]) -> Nets:
    """Sorted by address and length, those inside a prefix follow it."""
    base, length = ordered[position]
    end = position + 1
    while end < len(ordered) and ordered[end][0] >> 128 - length == base >> 128 - length:
        end += 1
    return tuple(rows[key][0].internal for key in ordered[position + 1 : end])


# ---- rules -------------------------------------------------------------------------------------


def _rules(config: Config, state: State, tables: Mapping[str, int],
           shares: Mapping[str, list[IPv6Network]], owned: Mapping[str, Nets]) -> list[Rule]:
    compact = arithmetic.compact
    first = config.priority
    new = {name: compact(shares[name]) for name in (*tables, "") if shares.get(name)}
    rules = [Rule(first + NEW, net, table=tables.get(name, 0))
             for name, nets in new.items() for net in nets]
    rules += [Rule(first + OWN, net, table=tables[name])
              for name, nets in owned.items() for net in nets]
    ours = [net for nets in (*new.values(), *owned.values()) for net in nets]
    rules += [Rule(first + INSIDE, net, table=MAIN_TABLE, suppress=True) for net in compact(ours)]
    for name, table in tables.items():
        number = state.uplinks.get(name, UplinkState(0)).number
        inside = compact(t.internal for t in config.translations if name in t.uplinks)
        if number and inside:
            stay = Rule(first + STAY, None, mark=marks.staying(number, config.ct_mark_mask),
                        table=table)
            rules += [stay._replace(iif="lo"), *(stay._replace(source=net) for net in inside)]
    return rules


def _owned(config: Config, state: State, paths: Mapping[str, Path]) -> dict[str, Nets]:
    """The sources that belong to each uplink with a table: its prefixes, and the addresses of its
    interface (those of the first uplink there)."""
    prefixes = {u.name: [p.network for p in _known(state, u).prefixes] for u in config.uplinks}
    taken = [net for nets in prefixes.values() for net in nets]
    taken += [translation.internal for translation in config.translations]
    owned: dict[str, Nets] = {}
    interfaces: set[str] = set()
    for uplink in config.uplinks:
        if uplink.table is None:
            continue
        path = None if uplink.interface in interfaces else paths.get(uplink.interface)
        interfaces.add(uplink.interface)
        hosts = [IPv6Network(address) for address in (path.addresses if path else ())]
        free = [host for host in hosts if not any(host.subnet_of(net) for net in taken)]
        taken += free  # the same address may be at several interfaces
        owned[uplink.name] = arithmetic.compact((*prefixes[uplink.name], *free))
    return owned


# ---- routes ------------------------------------------------------------------------------------


def _tables(config: Config, links: Mapping[str, bool], paths: Mapping[str, Path]) -> list[Route]:
    """Of each uplink's table. What cannot leave by the uplink does not leave by another."""
    routes = []
    for uplink in config.uplinks:
        if uplink.table is None:
            continue
        routes.append(Route(EVERYTHING, "unreachable", uplink.table, LAST_METRIC))
        path = paths.get(uplink.interface)
        found, gateway = next_hop(uplink, path)
        if found and links.get(uplink.interface):
            routes.append(Route(EVERYTHING, "unicast", uplink.table, DEFAULT_METRIC,
                                uplink.interface, gateway, path.mtu if path else 0))
    return routes


def _unreachable(config: Config, state: State) -> list[Route]:
    """For each delegation (RFC 7084 WPD-5), so that unassigned parts of it do not loop between us
    and the ISP. A single address has none."""
    live = [p for uplink in config.uplinks for p in _known(state, uplink).prefixes]
    return [Route(p.network, "unreachable", MAIN_TABLE, UNREACHABLE_METRIC)
            for p in live if p.network.prefixlen < 128]


def _around(config: Config, wanted: Desired) -> list[Route]:
    """A way around the unreachable routes for the router's own hairpin.

    The kernel turns a route by lo into a rejecting one, but not into one whose look-up fails
    (fib6_is_reject and ip6_rt_type_to_error in route.c): so what the router sends gets as far as
    the hook output, where it is translated, and what is forwarded does not get past it. It is no
    policy rule for "iif lo", since the first one makes each look-up slower (fib6_rule_lookup in
    fib6_rules.c): a router forwards 7 % less. It is of type anycast, and not local, so that nft's
    ``fib daddr type local`` still tells the router's own addresses from it (nft_fib_ipv6.c).
    """
    return [Route(lane.delegated, "anycast", MAIN_TABLE,
                  AROUND_METRIC if config.uplink(lane.uplink).learns else UNREACHABLE_METRIC - 1)
            for lane in wanted.nat.lanes if lane.hairpin]
