"""A table of pdreactor.toml against its keys: values, or the mistakes in it. Pure.

No imports that typing and ipaddress do not need anyway (difflib only to name the nearest key): this
runs on each lease event.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .errors import Refused
from .keys import REQUIRED, TOP, Key
from .prefix import shown

Values = dict[str, Any]
Span = tuple[int, int, int]
"""(first, last, number of whose it is)."""


def read(values: Any, known: Mapping[str, Key], where: str, mistakes: list[str]) -> Values:
    """The values of one table. A key whose value is wrong is missing from the answer."""
    if not isinstance(values, dict):
        mistakes.append(f"{where} = {shown(values)}: must be a table")
        return {}
    answer = {key: row.default for key, row in known.items() if key not in values}
    for key, value in values.items():
        if key not in known:
            mistakes.append(_unknown(where, key, value, known))
            continue
        try:
            answer[key] = known[key].check(value)
        except Refused as exc:
            mistakes.append(f"{at(where, key)} = {shown(value)}: {exc}")
    for key in [key for key in answer if answer[key] is REQUIRED]:
        mistakes.append(f"{at(where, key)}: is required")
        del answer[key]
    return answer


def at(where: str, key: str) -> str:
    """The full name of a key, for people."""
    name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else shown(key)
    return f"{where}.{name}" if where else name


def _unknown(where: str, key: str, value: Any, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # not on the way of a correct configuration

    nearest = get_close_matches(key[:80], list(known) if where else TOP, 1, 0.0)[0]
    return f"{at(where, key)} = {shown(value)}: unknown key; the nearest is {at(where, nearest)}"


def each(document: Values, name: str, known: Mapping[str, Mapping[str, Key]],
         mistakes: list[str]) -> Iterator[Values]:
    """The values of each table of a list, [[name]]."""
    rows = document.get(name, [])
    if not isinstance(rows, list):
        mistakes.append(f"{name} = {shown(rows)}: must be a list of tables, [[{name}]]")
        return
    for index, row in enumerate(rows):
        yield read(row, known[name], f"{name}[{index}]", mistakes)


def overlaps(spans: list[Span]) -> Iterator[tuple[int, int]]:
    """Sorted by start, a span overlaps an earlier one if it starts before the last end so far."""
    end, holder = -1, -1
    for first, last, index in sorted(spans, key=lambda one: (one[0], one[2])):
        if first <= end:
            yield index, holder
        if last > end:
            end, holder = last, index
