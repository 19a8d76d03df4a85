"""The keys of /etc/pdreactor.toml: ``KNOWN`` is the one table of them, and of what each accepts.

Each key has a check, which returns the value as the model wants it or raises ``Refused`` with the
reason, and a default. What needs more than one key to judge is in config.py.
"""

import re
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network
from typing import Any, NamedTuple

from .errors import Refused
from .model import AUTO, DIRECT, SOURCES
from .prefix import parse_address, parse_prefix

REQUIRED = object()
NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
OCTETS = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){1,3}")
NEVER_INTERNAL = tuple(
    (int(net.network_address), int(net.broadcast_address), f"{what} {net}")
    for net, what in (
        (IPv6Network("::/127"), "the unspecified and loopback addresses"),
        (IPv6Network("::ffff:0:0/96"), "the IPv4-mapped addresses"),
        (IPv6Network("fe80::/10"), "the link-local addresses"),
        (IPv6Network("ff00::/8"), "the multicast addresses"),
    )
)


class Key(NamedTuple):
    """What a key accepts, and what it is when it is not there."""

    check: Callable[[Any], Any]
    default: Any = None


def span(network: IPv6Network) -> tuple[int, int]:
    """The first and the last address of a network, as numbers."""
    first = int(network.network_address)
    return first, first + (1 << 128 - network.prefixlen) - 1


# ---- checks of one value ---------------------------------------------------------------------


def string(value: Any) -> str:
    """A string, not empty."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise Refused("must be a string, not empty and without NUL")
    return value


def boolean(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Refused("must be true or false")
    return value


def integer(low: int, high: int) -> Callable[[Any], int]:
    """A check for a whole number."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise Refused(f"must be an integer from {low} to {high}")
        return value

    return check


def choice(*allowed: str) -> Callable[[Any], str]:
    """A check for one of these words."""
    names = " or ".join(f'"{name}"' for name in allowed)

    def check(value: Any) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        raise Refused(f"unknown: must be {names}")

    return check


def listed(value: Any, check: Callable[[Any], Any], what: str) -> tuple[Any, ...]:
    """A list of ``what``, each checked."""
    if not isinstance(value, list):
        raise Refused(f"must be a list of {what}")
    return tuple(check(item) for item in value)


def _absolute(value: Any) -> str:
    if not string(value).startswith("/"):
        raise Refused("must be an absolute path")
    return str(value)


def interface(value: Any) -> str:
    """What dev_valid_name() of the kernel takes, of printable ASCII."""
    name = string(value)
    if len(name) > 15 or name in (".", "..") or not re.fullmatch(r"[!-~]+", name):
        raise Refused("an interface name is 1 to 15 printable ASCII characters without blanks")
    if bad := [c for c in "/:\"'`\\*$%" if c in name]:
        raise Refused(f"an interface name has no {bad[0]}")
    return name


def _iaid(value: Any) -> int:
    """As dhcpcd.conf has it: strtoul() of base 0, or hex octets, or text; padded on the right."""
    text = str(value) if type(value) is int else string(value)
    if NUMBER.fullmatch(text):
        octal = text[0] == "0" and text[1:].isdigit()
        return integer(0, 0xFFFFFFFF)(int(text, 8 if octal else 0) if len(text) < 40 else -1)
    if OCTETS.fullmatch(text):
        return int.from_bytes(bytes.fromhex(text.replace(":", "")).ljust(4, b"\0"), "big")
    octets = text.encode()
    if type(value) is int or len(octets) > 4 or "\\" in text or '"' in text:
        raise Refused("must be a number from 0 to 4294967295, 00:11:22:33, or up to 4 characters")
    return int.from_bytes(octets.ljust(4, b"\0"), "big")


def any_prefix(value: Any) -> IPv6Network:
    """A prefix, also a single address."""
    text = string(value)
    if "." in text and ":" not in text:
        raise Refused("must be an IPv6 prefix; this is IPv4")
    return parse_prefix(text)


def _internal(value: Any) -> IPv6Network:
    network = any_prefix(value)
    if not 8 <= network.prefixlen <= 127:
        raise Refused("its length must be from 8 to 127")
    first, last = span(network)
    for start, end, what in NEVER_INTERNAL:
        if first <= end and start <= last:
            raise Refused(f"must be a unicast prefix; it overlaps {what}")
    return network


def _mask(value: Any) -> int:
    mask = integer(1, 0xFFFFFFFF)(value)
    bits = mask // (mask & -mask)
    if bits & bits + 1 or bits < 0xF:
        raise Refused(f"{mask:#x} must be at least 4 bits in one run")
    return mask


RESERVED = {0: "unspec", 253: "default", 254: "main", 255: "local"}
"""Tables of the kernel's own (linux/rtnetlink.h)."""


def table_number(value: Any) -> int:
    """The number of a routing table for an uplink. Raises Refused."""
    number = integer(1, 0xFFFFFFFF)(value)
    if number in RESERVED:
        raise Refused(f"is the kernel's own table {RESERVED[number]}; take one that nobody uses")
    return number


def _table(value: Any) -> int | str:
    """A number, or a name that config.py looks up."""
    if isinstance(value, str):
        if not re.fullmatch(r"[!-~]{1,64}", value) or value.isdecimal():
            raise Refused("must be a number, or a name from /etc/iproute2/rt_tables")
        return value
    return table_number(value)


def _gateway(value: Any) -> IPv6Address | str:
    text = string(value)
    if text in (AUTO, DIRECT):
        return text
    try:
        address = parse_address(text)
    except Refused as exc:
        raise Refused(f'{exc}; must be "{AUTO}", "{DIRECT}" or the router\'s address') from None
    if address.is_multicast or address.is_loopback or address.is_unspecified:
        raise Refused("must be a unicast address")
    return address


CHAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,21}")
"""ip6tables takes 28 characters (XT_EXTENSION_MAXNAMELEN), and "_guard" is put behind ours."""
TAKEN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING", "ACCEPT", "DROP", "QUEUE",
         "RETURN")


def chain_name(value: Any) -> str:
    """The name of a chain of ours in ip6tables. Raises Refused."""
    name = string(value)
    if not CHAIN.fullmatch(name) or name.upper() in TAKEN or name.isupper():
        raise Refused("must be a letter and up to 21 letters, digits and _ . -, not all of them "
                      "capitals (those are ip6tables' own chains and targets)")
    return name


def _argv(value: Any) -> tuple[str, ...]:
    argv = listed(value, string, "strings")
    if not argv or not argv[0].startswith("/"):
        raise Refused("must begin with the absolute path of a program")
    return argv


def _timeout(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value <= 300:
        raise Refused("must be seconds: more than 0, at most 300")
    return float(value)


def _names(value: Any) -> tuple[str, ...]:
    names = listed(value, string, "uplink names")
    if not names or len(set(names)) < len(names):
        raise Refused("must name at least one uplink, and each one once")
    return names


# ---- the keys --------------------------------------------------------------------------------

KNOWN: dict[str, dict[str, Key]] = {
    "": {"state_dir": Key(_absolute, "/var/lib/pdreactor")},
    "firewall": {
        "backend": Key(choice("auto", "nftables", "iptables", "iptables-legacy"), "auto"),
        "ct_mark_mask": Key(_mask, 0x0FF00000),
        "guard": Key(boolean, True),
    },
    "uplink.NAME": {
        "interface": Key(interface, REQUIRED),
        "source": Key(choice(*SOURCES)),
        "prefix": Key(any_prefix),
        "iaid": Key(_iaid),
        "bypass": Key(lambda value: listed(value, any_prefix, "prefixes"), ()),
        "min_length": Key(integer(16, 128), 32),
        "max_length": Key(integer(16, 128), 64),
        "table": Key(_table),
        "gateway": Key(_gateway, AUTO),
    },
    "translation": {
        "uplink": Key(lambda value: (string(value),)),
        "uplinks": Key(_names),
        "internal": Key(_internal, REQUIRED),
        "subnet": Key(integer(0, 2**63 - 1), 0),
        "on_short": Key(choice("refuse", "partial"), "refuse"),
        "mode": Key(choice("netmap", "stateless", "rfc6296"), "netmap"),
        "inbound": Key(boolean, True),
        "on_expire": Key(choice("keep", "withdraw"), "keep"),
        "hairpin": Key(boolean, True),
    },
    "routing": {"protocol": Key(integer(5, 255), 157), "priority": Key(integer(1, 32000), 15700)},
    "iptables": {
        "jumps": Key(boolean, True),
        "dnat_chain": Key(chain_name, "pdreactor_dnat"),
        "snat_chain": Key(chain_name, "pdreactor_snat"),
    },
    "on_change": {"exec": Key(_argv, REQUIRED), "timeout": Key(_timeout, 10.0)},
}
"""Section -> key -> check and default. ``[[translation]]`` and ``[[on_change]]`` are lists."""

LAYOUT = ("tunnel", "assign", "route", "proxy", "sysctl")
"""Sections whose keys are in layout/keys.py."""

TOP = (*KNOWN[""], *(section.partition(".")[0] for section in KNOWN if section), *LAYOUT)
