"""``Traces`` as JSON, within the state file. Nothing in it is trusted."""

from ipaddress import IPv4Address, IPv6Address, IPv6Interface, IPv6Network
from typing import Any

from .model import Sixrd, Traces


def encode(traces: Traces) -> dict[str, Any]:
    """As values of JSON."""
    return {
        "sixrd": [[one.interface, str(one.prefix), one.mask_length, str(one.relay)]
                  for one in traces.sixrd],
        "slices": [list(one) for one in traces.slices],
        "placed": [list(one) for one in traces.placed],
        "proxied": [list(one) for one in traces.proxied],
        "sysctls": [list(one) for one in traces.sysctls],
        "endpoints": [list(one) for one in traces.endpoints],
        "ndppd": traces.ndppd,
    }


def decode(document: dict[str, Any]) -> Traces:
    """From values of JSON. Raises ValueError, KeyError or TypeError when they are damaged."""
    return Traces(
        sixrd=tuple(Sixrd(_name(i), IPv6Network(p), _number(m, 32), IPv4Address(r))
                    for i, p, m, r in document["sixrd"]),
        slices=tuple((_text(p, 100), _name(i), _number(n, 1 << 64))
                     for p, i, n in document["slices"]),
        placed=tuple((_name(i), str(IPv6Interface(a))) for i, a in document["placed"]),
        proxied=tuple((_name(i), str(IPv6Address(a))) for i, a in document["proxied"]),
        sysctls=tuple((_key(k), _value(v)) for k, v in document["sysctls"]),
        endpoints=tuple((_name(t), str(IPv4Address(a))) for t, a in document["endpoints"]),
        ndppd=bool(document.get("ndppd")),
    )


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
