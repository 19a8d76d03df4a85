"""The layout in the kernel: observe, diff, apply. Links are known as ours by their alias, addresses
by their protocol number or by what the state remembers, proxy entries and settings by the latter;
nothing else is touched."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

from ..errors import KernelError, PdreactorError
from ..kernel import rtlink, sysctl
from ..kernel.rtnl import Rtnl
from ..model import Problem
from .model import (
    Address,
    Layout,
    Link,
    Neighbour,
    Seen,
    SeenAddress,
    SeenLink,
    Traces,
)

TOLERANCE = 5
"""Seconds by which the ends of lifetimes may differ: the kernel counts in its own way."""


Ends = tuple[IPv4Address | None, IPv4Address | None]
"""Local and remote of a tunnel."""


class Observed(NamedTuple):
    """What the kernel has, whosever it is."""

    links: dict[str, SeenLink]
    addresses: tuple[SeenAddress, ...]
    neighbours: tuple[Neighbour, ...]
    seen: Seen


class Change(NamedTuple):
    """What to do; empty when all is as desired."""

    clear: tuple[str, ...] = ()  # links that cannot be changed in place, or are in the way
    make: tuple[Link, ...] = ()
    change: tuple[Link, ...] = ()
    delete: tuple[str, ...] = ()
    put: tuple[Address, ...] = ()
    take: tuple[Address, ...] = ()
    answer: tuple[Neighbour, ...] = ()
    silence: tuple[Neighbour, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    restore: tuple[tuple[str, str], ...] = ()
    problems: tuple[Problem, ...] = ()  # what others have in our place

    def __bool__(self) -> bool:
        return any(self[:-1])


def observe(rtnl: Rtnl) -> Observed:
    """What the kernel has."""
    links = rtlink.links(rtnl)
    accept_ra = {name: sysctl.get(f"conf/{name}/accept_ra") for name in links}
    seen = Seen(links, rtlink.ipv4(rtnl), {k: v for k, v in accept_ra.items() if v is not None})
    return Observed(links, tuple(rtlink.addresses(rtnl)), tuple(rtlink.neighbours(rtnl)), seen)


# ---- diff --------------------------------------------------------------------------------------


def plan(observed: Observed, layout: Layout, traces: Traces, *, manage: bool, protocol: int,
         now: int) -> Change:
    """What it takes to get from what the kernel has to the layout. ``protocol`` is the number of
    what is ours."""
    wanted = {link.name: link for link in layout.links}
    there = observed.links
    ours = {name for name, one in there.items() if one.ours}
    gone = tuple(sorted(ours - wanted.keys()))
    ends = {(one.local, one.remote): one.name for one in layout.links if one.kind == "sit"}
    clear = tuple(name for name in sorted(ours) if _in_the_way(there[name].link, ends)
                  or (name in wanted and _other(there[name].link, wanted[name])))
    usable = (there.keys() | wanted.keys()) - set(gone)
    observed = observed._replace(addresses=tuple(
        one for one in observed.addresses if one.address.interface not in clear))
    put, take, problems = _addresses(observed, layout, traces, usable, protocol, now)
    answer, silence = _neighbours(observed, layout, traces, usable)
    sysctls, restore = _sysctls(layout, traces, manage)
    return Change(
        clear=clear,
        make=tuple(link for name, link in wanted.items() if name not in there or name in clear),
        change=tuple(link for name, link in wanted.items() if name in there and name not in clear
                     and not _same(there[name], link)),
        delete=tuple(name for name in gone if name not in clear),
        put=put,
        take=take,
        answer=answer,
        silence=silence,
        sysctls=sysctls,
        restore=restore,
        problems=problems,
    )


def _in_the_way(seen: Link, ends: dict[Ends, str]) -> bool:
    """True when another tunnel is to have its ends: the kernel has each pair once
    (ipip6_tunnel_locate)."""
    return seen.kind == "sit" and ends.get((seen.local, seen.remote), seen.name) != seen.name


def _other(seen: Link, wanted: Link) -> bool:
    """True for what the kernel does not change: the kind, and whether a tunnel has one far end
    (net/ipv6/sit.c ipip6_changelink)."""
    return seen.kind != wanted.kind or (seen.remote is None) != (wanted.remote is None)


def _same(seen: SeenLink, wanted: Link) -> bool:
    found = seen.link if wanted.mtu else seen.link._replace(mtu=0)
    return seen.ours and seen.up and found == wanted


def _key(one: Address) -> tuple[str, str]:
    return one.interface, f"{one.address}/{one.length}"


Addresses = tuple[Address, ...]


def _addresses(observed: Observed, layout: Layout, traces: Traces, usable: set[str], protocol: int,
               now: int) -> tuple[Addresses, Addresses, tuple[Problem, ...]]:
    """What to put and to take. One that others have in the same place stays as it is: an interface
    has an address once, of whatever length."""
    placed = set(traces.placed)
    there = {(one.interface, one.address): one for one, *_ in observed.addresses}
    ours = {(one.interface, one.address) for one, number, _ in observed.addresses
            if number == protocol or _key(one) in placed}
    wanted = {(one.interface, one.address): one for one in layout.addresses
              if one.interface in usable}
    put = [one for where, one in wanted.items() if where not in there or (
        where in ours and not (_lasts_as_long(there[where], one, now)
                               and there[where].length == one.length))]
    take = [one for where, one in there.items() if where in ours and (
        where not in wanted or wanted[where].length != one.length)]
    return tuple(put), tuple(take), tuple(_address_problems(observed, wanted, ours))


Where = tuple[str, IPv6Address]
"""(interface, address): by that the kernel tells addresses apart."""


def _address_problems(observed: Observed, wanted: dict[Where, Address],
                      ours: set[Where]) -> Iterator[Problem]:
    for one, _, failed in observed.addresses:
        where = one.interface, one.address
        if where not in wanted:
            continue
        if failed:
            yield Problem(f"interface {one.interface}", f"another node on the link has address "
                          f"{one.address} (duplicate address detection)")
        elif where not in ours and one.length != wanted[where].length:
            yield Problem(f"interface {one.interface}", f"address {one.address}/{one.length} is "
                          f"not ours, and length {wanted[where].length} is wanted: remove it")


def _lasts_as_long(seen: Address, wanted: Address, now: int) -> bool:
    return (_near(seen.valid_until, wanted.valid_until, now)
            and _near(seen.preferred_until, wanted.preferred_until, now))


def _near(seen: int | None, wanted: int | None, now: int) -> bool:
    """What is long over has to be over."""
    if seen is None or wanted is None:
        return seen is wanted
    tolerance = TOLERANCE if wanted > now - TOLERANCE else 0
    return abs(max(seen, now) - max(wanted, now)) <= tolerance


def _neighbours(observed: Observed, layout: Layout, traces: Traces,
                usable: set[str]) -> tuple[tuple[Neighbour, ...], tuple[Neighbour, ...]]:
    there = set(observed.neighbours)
    wanted = {one: None for one in layout.neighbours if one.interface in usable}
    ours = set(traces.proxied)
    spare = [one for one in observed.neighbours
             if (one.interface, str(one.address)) in ours and one not in wanted]
    return tuple(one for one in wanted if one not in there), tuple(spare)


Settings = tuple[tuple[str, str], ...]


OURS = {"forwarding": "1", "accept_ra": "2", "proxy_ndp": "1", "proxy_delay": "0"}
"""What we set, by the last word of the key; see draft.py. Another value was set by others since."""


def _sysctls(layout: Layout, traces: Traces, manage: bool) -> tuple[Settings, Settings]:
    wanted = dict(layout.sysctls) if manage else {}
    given = {key: value for key, value in wanted.items() if sysctl.get(key) not in (value, None)}
    back = [(key, value) for key, value in reversed(traces.sysctls) if key not in wanted
            and value != sysctl.get(key) == OURS.get(key.rpartition("/")[2])]
    return tuple(given.items()), tuple(back)


def unset(layout: Layout) -> list[str]:
    """What there is to say of sysctls that are not managed."""
    return [f"sysctl {sysctl.name(key)} is {found}, and {value} is needed: set it, "
            f"or let [sysctl] do so"
            for key, value in layout.sysctls if (found := sysctl.get(key)) not in (value, None)]


# ---- traces ------------------------------------------------------------------------------------


def before(traces: Traces, change: Change) -> Traces:
    """What to remember before a change is made: what is put there now is ours."""
    placed = dict.fromkeys((*traces.placed, *map(_key, change.put)))
    entries = ((one.interface, str(one.address)) for one in change.answer)
    known = dict(traces.sysctls)
    values = {key: sysctl.get(key) or "0" for key, _ in change.sysctls if key not in known}
    return traces._replace(
        placed=tuple(placed), proxied=tuple(dict.fromkeys((*traces.proxied, *entries))),
        sysctls=tuple({**known, **values}.items()))


def after(traces: Traces, layout: Layout, observed: Observed, *, manage: bool,
          failed: bool) -> Traces:
    """What to remember once it is made; where something ``failed``, what was there before as
    well."""
    wanted = {_key(one) for one in layout.addresses}
    entries = {(one.interface, str(one.address)) for one in layout.neighbours}
    kept = dict(layout.sysctls) if manage else {}
    if failed:
        wanted |= {_key(one) for one, *_ in observed.addresses}
        entries |= {(one.interface, str(one.address)) for one in observed.neighbours}
        kept |= dict(traces.sysctls)
    return traces._replace(
        placed=tuple(key for key in traces.placed if key in wanted),
        proxied=tuple(key for key in traces.proxied if key in entries),
        sysctls=tuple(one for one in traces.sysctls if one[0] in kept),
        slices=layout.slices)


# ---- apply -------------------------------------------------------------------------------------

Errors = list[PdreactorError]


def lay_links(rtnl: Rtnl, change: Change, failed: Errors) -> Change:
    """Links come first: everything else may be on them. What fails does not keep the rest from
    being done; it is put into ``failed``. Returns the change without it."""
    change = _each(change, "clear", lambda name: rtlink.delete(rtnl, name), failed)
    change = _each(change, "make", lambda link: rtlink.make(rtnl, link), failed)
    return _each(change, "change", lambda link: rtlink.change(rtnl, link), failed)


def lay_addresses(rtnl: Rtnl, change: Change, protocol: int, failed: Errors) -> Change:
    """New ones before old ones go, but for those that only get another length. Routes that need
    them come after. Returns the change without what failed."""
    change = _each(change, "sysctls", lambda one: sysctl.set_(*one), failed)
    again = {(one.interface, one.address) for one in change.put}
    first = [one for one in change.take if (one.interface, one.address) in again]
    rest = [one for one in change.take if (one.interface, one.address) not in again]
    change = _without(change, "take", rtlink.take(rtnl, first), failed)
    change = _without(change, "put", rtlink.put(rtnl, change.put, protocol), failed)
    return _without(change, "take", rtlink.take(rtnl, rest), failed)


def lay_rest(rtnl: Rtnl, change: Change, failed: Errors) -> Change:
    """Neighbours; and links that nobody wants any more. Returns the change without what failed."""
    change = _without(change, "answer", rtlink.answer(rtnl, "add", change.answer), failed)
    change = _without(change, "silence", rtlink.answer(rtnl, "del", change.silence), failed)
    change = _each(change, "delete", lambda name: rtlink.delete(rtnl, name), failed)
    return _each(change, "restore", lambda one: sysctl.set_(*one), failed)


def _each(change: Change, field: str, do: Callable[[Any], object], failed: Errors) -> Change:
    failures: rtlink.Failures = {}
    for one in getattr(change, field):
        try:
            do(one)
        except PdreactorError as exc:
            failures[one] = exc
    return _without(change, field, failures, failed)


def _without(change: Change, field: str, failures: rtlink.Failures, failed: Errors) -> Change:
    """What was done. Of thousands that all fail for one reason nobody reads each."""
    failed += list(failures.values())[:MOST_WORDS]
    if (more := len(failures) - MOST_WORDS) > 0:
        failed.append(KernelError(f"the same or similar for {more} more"))
    return change._replace(**{field: tuple(
        one for one in getattr(change, field) if one not in failures)}) if failures else change


# ---- for people --------------------------------------------------------------------------------

MOST_WORDS = 20


def words(change: Change) -> list[str]:
    """The change, a line each; many addresses are counted."""
    again = {one.name for one in change.make}
    lines = [f"remove link {name}" + ", which cannot be changed in place" * (name in again)
             for name in change.clear]
    lines += [f"add link {_link(one)}" for one in change.make]
    lines += [f"change link to {_link(one)}" for one in change.change]
    lines += [f"set {sysctl.name(key)} = {value}" for key, value in change.sysctls]
    lines += _some("put", [_address(one) for one in change.put])
    lines += _some("remove", [_address(one) for one in change.take])
    lines += _some("answer for", [_neighbour(one) for one in change.answer])
    lines += _some("answer no longer for", [_neighbour(one) for one in change.silence])
    lines += [f"remove link {name}" for name in change.delete]
    return lines + [f"set {sysctl.name(key)} = {value} again"
                    for key, value in change.restore]


def _some(verb: str, found: list[str]) -> list[str]:
    lines = [f"{verb} {one}" for one in found[:MOST_WORDS]]
    more = len(found) - MOST_WORDS
    return [*lines, f"{verb} {more} more like that"] if more > 0 else lines


def _link(one: Link) -> str:
    if one.kind != "sit":
        return f"{one.name} of kind {one.kind}"
    sixrd = f", 6rd {one.sixrd[0]} with {one.sixrd[1]}" if one.sixrd else ""
    return (f"{one.name} of kind sit, local {one.local or 'any'}, remote {one.remote or 'any'}, "
            f"ttl {one.ttl}, mtu {one.mtu}{sixrd}")


def _address(one: Address) -> str:
    over = " (deprecated)" if one.preferred_until == 0 else ""
    return f"address {one.address}/{one.length} on {one.interface}{over}"


def _neighbour(one: Neighbour) -> str:
    return f"{one.address} on {one.interface}"
