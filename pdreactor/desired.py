"""(configuration, state, links, now) -> what the firewall should do. Pure.

For each uplink and each of its prefixes there is a ``Lane``: the newest usable prefix takes the
outbound traffic of a translation, every live one is served inbound. For each interface there is a
``Gate``: what may not leave by it.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv6Network

from . import prefix as arithmetic
from .model import (
    Config,
    Desired,
    Gate,
    Lane,
    Nat,
    Pair,
    Prefix,
    Problem,
    Serving,
    Stamp,
    State,
    Translation,
    Uplink,
    UplinkState,
)
from .usable import NO_PREFIX, why_not


def desired(config: Config, state: State, links: Mapping[str, bool], now: int) -> Desired:
    """What the firewall should do at ``now`` (epoch seconds).

    ``links`` tells of each uplink's interface whether it is up with carrier; an interface that is
    missing there does not exist.
    """
    lanes: list[Lane] = []
    problems: list[Problem] = []
    shared = _shared(config)
    served = {uplink.name: _serve(config, uplink, _known(state, uplink), shared, now, problems)
              for uplink in config.uplinks}
    _take_turns(config, state, links, served)
    for uplink in config.uplinks:
        lanes += _lanes(uplink, _known(state, uplink), served[uplink.name])
        if reason := why_not(uplink, _known(state, uplink), links):
            problems.append(Problem(uplink.name, reason))
    gates = tuple(_gate(config, name, served, state, links) for name in _interfaces(config))
    modes = frozenset(translation.mode for translation in config.translations)
    nat = Nat(config.ct_mark_mask, tuple(lanes), gates, config.guard, modes, _kept(config, state))
    serving = tuple(one for among in served.values() for one in among)
    return Desired(nat, tuple(problems), serving)


def _known(state: State, uplink: Uplink) -> UplinkState:
    return state.uplinks.get(uplink.name, UplinkState(0))


def _kept(config: Config, state: State) -> tuple[int, ...] | None:
    """Flows stay on the uplink that they are on where conntrack knows them and there is a table."""
    tracked = {name for t in config.translations if t.mode in TRACKED for name in t.uplinks}
    uplinks = [u for u in config.uplinks if u.table is not None and u.name in tracked]
    numbers = (_known(state, uplink).number for uplink in uplinks)
    return tuple(number for number in numbers if number) if uplinks else None


# ---- which prefix serves which translation -----------------------------------------------------


def _shared(config: Config) -> frozenset[IPv6Network]:
    """Internal prefixes that have several uplinks, by translations of a prefix around them too."""
    if len(config.uplinks) == 1:
        return frozenset()
    names: dict[tuple[int, int], set[str]] = {}
    for one in config.translations:
        key = int(one.internal.network_address), one.internal.prefixlen
        names.setdefault(key, set()).update(one.uplinks)
    lengths = {length for _, length in names}
    several = {(base, length) for base, length in names if len(set().union(*(
        names.get((base >> 128 - shorter << 128 - shorter, shorter), ())
        for shorter in lengths if shorter <= length))) > 1}
    return frozenset(one.internal for one in config.translations if (
        int(one.internal.network_address), one.internal.prefixlen) in several)


def _serve(config: Config, uplink: Uplink, known: UplinkState, shared: frozenset[IPv6Network],
           now: int, problems: list[Problem]) -> list[Serving]:
    ranked = _ranked(known)
    served: list[Serving] = []
    short: dict[str, int] = {}
    for translation in config.translations:
        if uplink.name not in translation.uplinks:
            continue
        keep = translation.on_expire == "keep" and translation.internal not in shared
        usable = [p for p in ranked if not p.expired(now) or (keep and p.superseded_at is None)]
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


def _take_turns(config: Config, state: State, links: Mapping[str, bool],
                served: dict[str, list[Serving]]) -> None:
    """By one interface a packet leaves with one source: of several uplinks there the most wanted
    that is in use has it."""
    several = {name for name in _interfaces(config)
               if sum(uplink.interface == name for uplink in config.uplinks) > 1}
    where = {u.name: u.interface for u in config.uplinks if u.interface in several}
    if not where:
        return
    outs = {u.name for u in config.uplinks if why_not(u, _known(state, u), links)}
    can = {(one.uplink, one.translation.internal)
           for among in served.values() for one in among if one.outbound}
    turn: dict[tuple[str, IPv6Network], str] = {}
    for translation in config.translations:
        for name in translation.uplinks:
            key = where.get(name, ""), translation.internal
            if name in where and (name, translation.internal) in can:
                first = turn.setdefault(key, name)
                if first in outs and name not in outs:
                    turn[key] = name
    for name in where:
        served[name] = [one._replace(outbound=one.outbound and name == turn[
            where[name], one.translation.internal]) for one in served[name]]


def _ranked(known: UplinkState) -> list[Prefix]:
    """Current prefixes first, the one preferred for longest at the head (RFC 6724 rule 3)."""
    current = [p for p in known.prefixes if p.superseded_at is None]
    current.sort(key=lambda p: float("inf") if p.preferred_until is None else p.preferred_until,
                 reverse=True)
    return current + [p for p in known.prefixes if p.superseded_at is not None]


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
        return NO_PREFIX
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
        if _refuses(uplink, _known(state, uplink), links):
            continue
        for one in served[uplink.name]:
            if one.outbound:
                covered.setdefault(one.translation.internal, []).extend(i for i, _ in one.pairs)
    uncovered = {tracked: [part for t in config.translations if (t.mode in TRACKED) == tracked
                           for part in _uncovered(t.internal, covered.get(t.internal, []))]
                 for tracked in (True, False)}
    return Gate(
        interface=interface,
        internal=arithmetic.compact(t.internal for t in config.translations),
        unserved=_without(uncovered[True], covered),
        untracked=_without(uncovered[False], covered),
        bypass=arithmetic.disjoint(net for u in here for net in u.bypass),
        foreign=arithmetic.disjoint(
            p.network for u in elsewhere for p in _known(state, u).prefixes),
    )


def _without(uncovered: list[IPv6Network], covered: Mapping[IPv6Network, list[IPv6Network]],
             ) -> tuple[IPv6Network, ...]:
    """What no translation covers: internal prefixes may be within others, on other uplinks."""
    holes = (part for parts in covered.values() for part in parts) if uncovered else ()
    return arithmetic.without(uncovered, holes)


def _refuses(uplink: Uplink, known: UplinkState, links: Mapping[str, bool]) -> bool:
    """True when what would leave by the uplink is to be rejected. With a table nothing is led
    there; and a static prefix has no event that would say when its link is back."""
    if uplink.table is not None:
        return False
    return known.down is not None or (uplink.prefix is None and not links.get(uplink.interface))


def _uncovered(internal: IPv6Network, covered: list[IPv6Network]) -> tuple[IPv6Network, ...]:
    return () if internal in covered else arithmetic.subtract(internal, covered)
