"""(configuration, state, links, now) -> what the kernel should hold. Pure.

For each uplink and each of its prefixes there is a ``Lane``: the newest usable prefix takes the
outbound traffic of a translation, every live one is served inbound. For each interface there is a
``Gate``: what may not leave by it.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from ipaddress import IPv6Network

from . import prefix as arithmetic
from .model import (
    MAIN_TABLE,
    Config,
    Desired,
    Gate,
    Lane,
    Nat,
    Pair,
    Prefix,
    Problem,
    Route,
    Rule,
    Serving,
    Stamp,
    State,
    Translation,
    Uplink,
    UplinkState,
)

UNREACHABLE_METRIC = 0x7FFFFFFF
"""Any real route to the same prefix is better than the one that says there is none."""


def desired(config: Config, state: State, links: Mapping[str, bool], now: int) -> Desired:
    """What the kernel should hold at ``now`` (epoch seconds).

    ``links`` tells of each uplink's interface whether it is up with carrier; an interface that is
    missing there does not exist.
    """
    lanes: list[Lane] = []
    served: dict[str, list[Serving]] = {}
    problems: list[Problem] = []
    for uplink in config.uplinks:
        known = state.uplinks.get(uplink.name, UplinkState(0))
        served[uplink.name] = _serve(config, uplink, known, now, problems)
        lanes += _lanes(uplink, known, served[uplink.name])
        problems += _link_problem(uplink, links)
    gates = tuple(_gate(config, name, served, state, links) for name in _interfaces(config))
    modes = frozenset(translation.mode for translation in config.translations)
    nat = Nat(config.ct_mark_mask, tuple(lanes), gates, config.guard, modes)
    routes, rules = _routing(config, state, lanes, now)
    serving = tuple(one for among in served.values() for one in among)
    return Desired(nat, routes, rules, tuple(problems), serving)


# ---- which prefix serves which translation -----------------------------------------------------


def _serve(config: Config, uplink: Uplink, known: UplinkState, now: int,
           problems: list[Problem]) -> list[Serving]:
    ranked = _ranked(known)
    served: list[Serving] = []
    short: dict[str, int] = {}
    for translation in config.translations:
        if uplink.name not in translation.uplinks:
            continue
        usable = [p for p in ranked if _usable(p, translation, now)]
        found = [Serving(translation, uplink.name, p, pairs, False)
                 for p in usable if (pairs := _pairs(translation, p))]
        first = next((i for i, s in enumerate(found) if s.prefix.superseded_at is None), None)
        if first is not None:
            found[first] = found[first]._replace(outbound=True)
        else:
            reason = _why_not(translation, ranked, usable)
            short[reason] = short.get(reason, 0) + 1
        served += found
    problems += [Problem(uplink.name, reason + _times(count)) for reason, count in short.items()]
    return served


def _ranked(known: UplinkState) -> list[Prefix]:
    """Current prefixes first, the one preferred for longest at the head (RFC 6724 rule 3)."""
    current = [p for p in known.prefixes if p.superseded_at is None]
    current.sort(key=lambda p: float("inf") if p.preferred_until is None else p.preferred_until,
                 reverse=True)
    return current + [p for p in known.prefixes if p.superseded_at is not None]


def _usable(prefix: Prefix, translation: Translation, now: int) -> bool:
    if not prefix.expired(now):
        return True
    only = len(translation.uplinks) == 1 and prefix.superseded_at is None
    return only and translation.on_expire == "keep"


def _pairs(translation: Translation, prefix: Prefix) -> tuple[Pair, ...]:
    """What the prefix gives the translation; nothing when its slice is not there.

    RFC 6296 has no mapping for prefixes longer than 64 (section 3.5), which an excluded prefix may
    leave.
    """
    found = _all_pairs(translation, prefix)
    longest = 64 if translation.mode == "rfc6296" else 128
    return tuple(pair for pair in found if pair[0].prefixlen <= longest)


def _all_pairs(translation: Translation, prefix: Prefix) -> tuple[Pair, ...]:
    internal = translation.internal
    if prefix.network.prefixlen > internal.prefixlen:
        if translation.on_short == "refuse":
            return ()
        internal = arithmetic.lowest_part(internal, prefix.network.prefixlen)
    external = arithmetic.slice_of(prefix.network, internal.prefixlen, translation.subnet)
    if external is None:
        return ()
    if prefix.excluded is None:
        return ((internal, external),)
    return arithmetic.pairs(internal, external, (prefix.excluded,))


def _why_not(translation: Translation, ranked: list[Prefix], usable: list[Prefix]) -> str:
    if not ranked:
        return "there is no prefix (none was learned yet, or it was taken back)"
    if not usable:
        return f"{ranked[0].network} has expired, and on_expire or another uplink withdraws it"
    current = next((p for p in usable if p.superseded_at is None), None)
    if current is None:
        return "only superseded prefixes are left: new outbound flows are rejected"
    if translation.mode == "rfc6296" and current.network.prefixlen > 64:
        return f"{current.network} is longer than /64, where RFC 6296 ends (section 3.5)"
    if current.network.prefixlen > translation.internal.prefixlen:
        return (f"{current.network} is smaller than internal {translation.internal}: refused "
                f"(on_short = \"partial\" would translate the lowest part)")
    return (f"{current.network} has no subnet {translation.subnet} of length "
            f"{translation.internal.prefixlen} for {translation.internal}")


def _times(count: int) -> str:
    return f" ({count} translations)" if count > 1 else ""


def _link_problem(uplink: Uplink, links: Mapping[str, bool]) -> list[Problem]:
    if links.get(uplink.interface):
        return []
    what = "has no carrier or is down" if uplink.interface in links else "is not there yet"
    return [Problem(uplink.name, f"interface {uplink.interface} {what}")]


# ---- lanes and gates ---------------------------------------------------------------------------


def _lanes(uplink: Uplink, known: UplinkState, served: list[Serving]) -> list[Lane]:
    """One for each prefix and mode, in the order of the state's prefixes."""
    found: dict[tuple[int, str], list[Serving]] = {}
    for one in served:
        found.setdefault((one.prefix.generation, one.translation.mode), []).append(one)
    modes = dict.fromkeys(one.translation.mode for one in served)
    return [_lane(uplink, known.number, mode, found[p.generation, mode])
            for p in known.prefixes for mode in modes if (p.generation, mode) in found]


TRACKED = ("netmap",)
"""Modes in which conntrack knows to which flow a packet belongs."""


def _lane(uplink: Uplink, number: int, mode: str, served: list[Serving]) -> Lane:
    prefix = served[0].prefix
    answers = mode not in TRACKED
    welcome = [s for s in served if s.translation.inbound or (answers and s.outbound)]
    closed = [s.translation.internal for s in welcome if not s.translation.inbound]
    return Lane(
        uplink=uplink.name,
        interface=uplink.interface,
        stamp=Stamp(number, prefix.generation, False),
        delegated=prefix.network,
        outbound=_sorted(pair for one in served if one.outbound for pair in one.pairs),
        inbound=_inward(welcome),
        hairpin=_inward(one for one in served if one.translation.hairpin),
        mode=mode,
        closed=arithmetic.compact(closed),
    )


def _inward(served: Iterable[Serving]) -> tuple[Pair, ...]:
    return _sorted((external, internal) for one in served for internal, external in one.pairs)


def _sorted(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    return tuple(sorted(pairs, key=_order))


def _order(pair: Pair) -> tuple[int, int]:
    """Much faster than comparing networks, and there may be ten thousand."""
    return int(pair[0].network_address), pair[0].prefixlen


def _interfaces(config: Config) -> list[str]:
    return list(dict.fromkeys(uplink.interface for uplink in config.uplinks))


def _gate(config: Config, interface: str, served: Mapping[str, list[Serving]], state: State,
          links: Mapping[str, bool]) -> Gate:
    here = [u for u in config.uplinks if u.interface == interface]
    elsewhere = [u for u in config.uplinks if u.interface != interface]
    covered: dict[IPv6Network, list[IPv6Network]] = {}
    for uplink in here:
        if not links.get(interface) and uplink.prefix is None:
            continue  # unusable; a static prefix has no event that would say when it is back
        for one in served[uplink.name]:
            if one.outbound:
                covered.setdefault(one.translation.internal, []).extend(i for i, _ in one.pairs)
    uncovered = {tracked: [part for t in config.translations if (t.mode in TRACKED) == tracked
                           for part in _uncovered(t.internal, covered.get(t.internal, []))]
                 for tracked in (True, False)}
    return Gate(
        interface=interface,
        internal=arithmetic.compact(t.internal for t in config.translations),
        unserved=arithmetic.compact(uncovered[True]),
        untracked=arithmetic.compact(uncovered[False]),
        bypass=arithmetic.disjoint(net for u in here for net in u.bypass),
        foreign=arithmetic.disjoint(
            p.network for u in elsewhere
            for p in state.uplinks.get(u.name, UplinkState(0)).prefixes),
    )


def _uncovered(internal: IPv6Network, covered: list[IPv6Network]) -> tuple[IPv6Network, ...]:
    return () if internal in covered else arithmetic.subtract(internal, covered)


# ---- routes --------------------------------------------------------------------------------------


MOST_AROUND = 1000
"""More runs of addresses than this in one delegation are one route for all of it. The router's own
way to parts of the delegation that it routes untranslated is lost then."""


def _around(lane: Lane) -> tuple[IPv6Network, ...]:
    """What the router reaches by hairpin of a delegation, leaving alone parts that it routes."""
    if len(arithmetic.runs(external for external, _ in lane.hairpin)) > MOST_AROUND:
        return (lane.delegated,)
    return arithmetic.collapse(external for external, _ in lane.hairpin)


def _routing(config: Config, state: State, lanes: list[Lane],
             now: int) -> tuple[tuple[Route, ...], tuple[Rule, ...]]:
    """The unreachable route of each delegation (RFC 7084 WPD-5), so that unassigned parts of it do
    not loop between us and the ISP, and a way around it for the router's own hairpin.

    The hairpin's route is of type anycast, and not local, so that nft's ``fib daddr type local``
    still tells the router's own addresses from it (nft_fib_ipv6.c).
    """
    live = [p for u in config.uplinks for p in state.uplinks.get(u.name, UplinkState(0)).prefixes]
    routes = [Route(p.network, "unreachable", MAIN_TABLE, UNREACHABLE_METRIC)
              for p in live if not (p.superseded_at is not None and p.expired(now))]
    around = [network for lane in lanes for network in _around(lane)]
    hairpin = partial(Route, type="anycast", table=config.priority, metric=1024)
    routes += [hairpin(net) for net in around]
    rules = [Rule(config.priority, lane.delegated, "lo", config.priority)
             for lane in lanes if lane.hairpin]
    return tuple(sorted(set(routes))), tuple(sorted(set(rules)))
