"""The keys of [tunnel.NAME], [[assign]], [[route]], [[proxy]] and [sysctl]; see ../keys.py."""

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Interface
from typing import Any

from ..errors import Refused
from ..keys import REQUIRED, Key, any_prefix, boolean, choice, integer, interface, listed, string
from ..prefix import parse_address
from .model import IN4, KERNEL, NDPPD, RESPONDER, SIXRD, SIXTOFOUR

EUI64 = "eui64"


def _ipv4(value: Any) -> IPv4Address:
    try:
        address = IPv4Address(string(value))
    except ValueError:
        raise Refused("must be an IPv4 address") from None
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise Refused("must be the unicast address of a host")
    return address


def _addressed(value: Any) -> IPv6Interface:
    text = string(value)
    try:
        found = IPv6Interface(text)
    except ValueError:
        raise Refused("must be an IPv6 address with a length, as in 2001:db8::1/64") from None
    if "/" not in text or found.scope_id:
        raise Refused("must be an IPv6 address with a length, as in 2001:db8::1/64")
    if found.is_multicast or found.is_loopback or found.is_unspecified:
        raise Refused("must be a unicast address")
    return found


def _suffix(value: Any) -> int:
    """The bits behind a slice, written as an address: "::1"."""
    try:
        return int(parse_address(string(value)))
    except Refused:
        raise Refused('must be the last bits of an address, as in "::1"') from None


def _host(value: Any) -> int | None:
    """The same, or None for EUI-64."""
    return None if value == EUI64 else _suffix(value)


def _pattern(value: Any) -> str:
    """The name of an interface, or a pattern as of a shell with * and ?."""
    text = string(value)
    interface(re.sub(r"[*?]", "x", text))
    return text


def _via(value: Any) -> IPv6Address:
    address = parse_address(string(value))
    if address.is_multicast or address.is_loopback or address.is_unspecified:
        raise Refused("must be the unicast address of a router")
    return address


SLICE = {
    "uplink": Key(string, REQUIRED),
    "subnet": Key(integer(0, 2**63 - 1), 0),
    "length": Key(integer(3, 128), 64),
}
"""Which part of the prefix."""

KNOWN: dict[str, dict[str, Key]] = {
    "tunnel.NAME": {
        "mode": Key(choice(IN4, SIXTOFOUR, SIXRD), IN4),
        "remote": Key(_ipv4),
        "local": Key(_ipv4),
        "underlay": Key(interface, ""),
        "public": Key(_ipv4),
        "ttl": Key(integer(0, 255), 64),
        "mtu": Key(integer(1280, 65515)),
        "addresses": Key(lambda value: listed(value, _addressed, "addresses"), ()),
        "default": Key(boolean, False),
        "metric": Key(integer(1, 2**32 - 2), 1024),
        "prefix": Key(any_prefix),
        "mask_length": Key(integer(0, 31), 0),
        "relay": Key(_ipv4),
    },
    "assign": {
        **SLICE,
        "interface": Key(_pattern, REQUIRED),
        "host": Key(_host, 1),
        "prefix_length": Key(integer(1, 128)),
        "create": Key(boolean, False),
    },
    "route": {
        **SLICE,
        "interface": Key(interface, REQUIRED),
        "via": Key(_via),
        "metric": Key(integer(1, 2**32 - 2), 128),
    },
    "proxy": {
        **SLICE,
        "interface": Key(interface, ""),
        "hosts": Key(lambda value: listed(value, _suffix, "last bits of addresses"), ()),
        "method": Key(choice(KERNEL, RESPONDER, NDPPD)),
    },
    "sysctl": {"manage": Key(boolean, True)},
}
"""Section -> key -> check and default."""
