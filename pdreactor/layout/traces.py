"""``Traces`` as JSON, within the state file. Nothing in it is trusted."""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Network
from typing import Any

from .model import Sixrd, Traces


def encode(traces: Traces) -> dict[str, Any]:
    """As values of JSON."""
    return {
        "sixrd": [[one.interface, str(one.prefix), one.mask_length, str(one.relay)]
                  for one in traces.sixrd],
        "slices": [list(one) for one in traces.slices],
        "placed": _gathered(traces.placed),
        "proxied": _gathered(traces.proxied),
        "sysctls": [list(one) for one in traces.sysctls],
        "ndppd": traces.ndppd,
        "endpoints": [list(one) for one in traces.endpoints],
    }


def decode(document: dict[str, Any]) -> Traces:
    """From values of JSON. Raises ValueError, KeyError or TypeError when they are damaged."""
    return Traces(
        sixrd=tuple(Sixrd(_name(i), IPv6Network(p), _number(m, 32), IPv4Address(r))
                    for i, p, m, r in document["sixrd"]),
        slices=tuple((_text(p, 100), _name(i), _number(n, 1 << 64))
                     for p, i, n in document["slices"]),
        placed=tuple(_scattered(document["placed"], PLACED)),
        proxied=tuple(_scattered(document["proxied"], PROXIED)),
        sysctls=tuple((_key(k), _value(v)) for k, v in document["sysctls"]),
        ndppd=bool(document.get("ndppd")),
        endpoints=tuple((_name(t), str(IPv4Address(a))) for t, a in document["endpoints"]),
    )


PLACED, PROXIED = re.compile(r"[0-9a-f:]{2,39}/[0-9]{1,3}"), re.compile(r"[0-9a-f:]{2,39}")
"""An address with and without length; what looks like one and is none is like nothing there is."""
Pairs = Iterable[tuple[str, str]]


def _gathered(pairs: Pairs) -> dict[str, str]:
    """{interface: addresses, with blanks between them}: there may be thousands, and they are read
    and written with each event."""
    by: dict[str, list[str]] = {}
    for interface, address in pairs:
        by.setdefault(interface, []).append(address)
    return {interface: " ".join(among) for interface, among in by.items()}


def _scattered(document: Any, pattern: "re.Pattern[str]") -> Pairs:
    for interface, among in document.items():
        name = _name(interface)
        for address in among.split(" "):
            if not pattern.fullmatch(address):
                raise ValueError(f"not an address: {address!r}")
            yield name, address


def _text(value: Any, most: int = 64) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > most:
        raise ValueError(f"not a short line of text: {value!r}")
    return value


def _name(value: Any) -> str:
    """Of an interface."""
    if not 0 < len(_text(value)) <= 15 or "/" in value or value in (".", ".."):
        raise ValueError(f"not the name of an interface: {value!r}")
    return str(value)


def _number(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"not a number from 0 to {most}: {value!r}")
    return value


def _key(value: Any) -> str:
    """Of a setting: three words, none of which leads elsewhere."""
    words = _text(value).split("/")
    if len(words) != 3 or words[0] not in ("conf", "neigh") or {"", ".", ".."} & set(words):
        raise ValueError(f"not the key of a setting: {value!r}")
    return str(value)


def _value(value: Any) -> str:
    if not _text(value).isdecimal():
        raise ValueError(f"not a setting: {value!r}")
    return str(value)
