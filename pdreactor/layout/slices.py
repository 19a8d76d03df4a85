"""Which slice of the prefix each interface has that matches a pattern. Pure.

An interface keeps its slice for as long as there is room: over passes, over reboots, and while it
is away. A new one takes the first that nobody has or had; when there is none left, that of the
interface which has been away longest. No two have the same one.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from ..model import Config
from .model import Assign, Plans, SeenLink

MOST_AWAY = 500
"""Interfaces that are remembered although they are away."""
Rows = tuple[tuple[str, str, int], ...]
"""(pattern, interface, slice) as in ``Traces``: those away first, the longest away at the head."""
Numbers = dict[str, int]


class Shares(NamedTuple):
    """The slices: by the name of the pattern, and what to remember of it."""

    numbers: dict[str, Numbers]
    rows: Rows


def name_of(assign: Assign) -> str:
    """The name of a pattern: rows that differ in host or prefix length share their slices."""
    return f"{assign.uplink} {assign.interface} {assign.subnet}/{assign.length}"


def share_out(plans: Plans, config: Config, links: Mapping[str, SeenLink],
              room: Mapping[str, int], before: Rows) -> Shares:
    """The slice of each interface of each pattern. ``room`` is the length of the prefix of each
    uplink, where it is known; ``before`` is what the last pass remembered."""
    patterns = {name_of(one): one for one in plans.assigns if one.pattern}
    present = {name: matching(one, plans, config, links) for name, one in patterns.items()}
    taken = {name: _Taken(_written(plans, config, name)) for name in room.keys() | {
        one.uplink for one in plans.assigns}}
    kept = [row for row in before if row[0] in patterns and row[2] >= patterns[row[0]].subnet]
    kept.sort(key=lambda row: row[1] in present[row[0]], reverse=True)  # those here come first
    held: dict[str, Numbers] = {name: {} for name in patterns}
    for name, interface, number in kept:
        one = patterns[name]
        if interface not in held[name] and taken[one.uplink].take(number, one.length):
            held[name][interface] = number
    for name, one in patterns.items():
        for interface in present[name]:
            if interface not in held[name]:
                held[name][interface] = _new(one, held[name], present[name], taken[one.uplink],
                                             room.get(one.uplink))
    numbers = {name: {i: held[name][i] for i in present[name]} for name in patterns}
    return Shares(numbers, tuple(_rows(before, held, numbers)))


def matching(assign: Assign, plans: Plans, config: Config,
             links: Mapping[str, SeenLink]) -> list[str]:
    """The interfaces of a pattern that are there: but loopback, uplinks, ports of bridges, and
    those that another entry of the same uplink names."""
    never = {"lo", *(uplink.interface for uplink in config.uplinks),
             *(one.interface for one in plans.assigns if one.uplink == assign.uplink)}
    return sorted(name for name, one in links.items() if name not in never and not one.port
                  and fnmatchcase(name, assign.interface))


def _new(assign: Assign, held: Numbers, present: Iterable[str], taken: "_Taken",
         length: int | None) -> int:
    number = taken.first(assign.subnet, assign.length)
    if length is not None and number >> max(assign.length - length, 0):
        away = next((name for name in held if name not in present), None)
        if away is not None:
            return held.pop(away)
    taken.take(number, assign.length)
    return number


def _rows(before: Rows, held: Mapping[str, Numbers],
          numbers: Mapping[str, Numbers]) -> Iterator[tuple[str, str, int]]:
    away = [row for row in before if held.get(row[0], {}).get(row[1]) == row[2]
            and row[1] not in numbers[row[0]]]
    yield from away[-MOST_AWAY:]
    for name, among in numbers.items():
        yield from ((name, interface, number) for interface, number in among.items())


def _written(plans: Plans, config: Config, uplink: str) -> Iterator[tuple[int, int]]:
    """(subnet, length) that the configuration gives away on an uplink. Single addresses that are on
    no link are the router's own."""
    for one in plans.assigns:
        if one.uplink == uplink and not one.pattern and one.prefix_length != 128:
            yield one.subnet, one.length
    for route in plans.onward:
        if route.uplink == uplink:
            yield route.subnet, route.length
    for translation in config.translations:
        if uplink in translation.uplinks:
            yield translation.subnet, translation.internal.prefixlen


class _Taken:
    """Slices that are taken, of any length: as spans of the 2^128 addresses behind the prefix."""

    def __init__(self, slices: Iterable[tuple[int, int]]) -> None:
        self._runs: list[tuple[int, int]] = []  # disjoint, sorted; what adjoins is one
        for number, length in slices:
            self._add(*_span(number, length))

    def take(self, number: int, length: int) -> bool:
        """Take one; False when it, or a part of it, is taken."""
        first, last = _span(number, length)
        place = self._place(first)
        if place < len(self._runs) and self._runs[place][0] <= last:
            return False
        self._add(first, last)
        return True

    def first(self, number: int, length: int) -> int:
        """The first free one from there on."""
        while True:
            first, last = _span(number, length)
            place = self._place(first)
            if place == len(self._runs) or self._runs[place][0] > last:
                return number
            number = (self._runs[place][1] >> 128 - length) + 1

    def _place(self, address: int) -> int:
        """Of the first run that ends there or later."""
        return bisect_left(self._runs, address, key=lambda run: run[1])

    def _add(self, first: int, last: int) -> None:
        begin = end = self._place(first - 1)
        while end < len(self._runs) and self._runs[end][0] <= last + 1:
            first, last = min(first, self._runs[end][0]), max(last, self._runs[end][1])
            end += 1
        self._runs[begin:end] = [(first, last)]


def _span(number: int, length: int) -> tuple[int, int]:
    first = number << 128 - length
    return first, first + (1 << 128 - length) - 1
