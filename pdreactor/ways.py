"""The values of routing: which ways there are, and where packets are led. Apart from model.py, for
the translation does not need them, and it comes first."""

from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

MAIN_TABLE = 254
"""linux/rtnetlink.h RT_TABLE_MAIN."""


class Path(NamedTuple):
    """How one interface can be left, as the kernel has it."""

    default: bool  # there is a default route in table main
    gateway: IPv6Address | None = None  # of that route; None: it has none
    direct: bool = False  # a point-to-point link: needs no gateway
    addresses: tuple[IPv6Address, ...] = ()  # the router's own, but link-local ones
    mtu: int = 0  # of that route, as router advertisements have it; 0: that of the interface


class Route(NamedTuple):
    """A route of ours; it carries our protocol number (rtnetlink(7) rtm_protocol)."""

    destination: IPv6Network
    type: str  # "unicast", "unreachable" or "anycast"
    table: int
    metric: int
    interface: str = ""  # of a unicast route; all others are at lo
    gateway: IPv6Address | None = None
    mtu: int = 0  # 0: that of the interface


class Rule(NamedTuple):
    """A policy rule of ours (ip-rule(8))."""

    priority: int
    source: IPv6Network | None = None
    destination: IPv6Network | None = None
    iif: str = ""
    mark: tuple[int, int] = (0, 0)  # fwmark/mask; the mask is 0 when it does not matter
    table: int = 0  # 0: unreachable
    suppress: bool = False  # suppress_prefixlength 0: the table's default route does not count


class Steering(NamedTuple):
    """Where traffic goes: what one pass wants of routes and rules."""

    routes: tuple[Route, ...]
    rules: tuple[Rule, ...]
    leading: tuple[tuple[IPv6Network, str], ...]  # see State
    unusable: dict[str, str]  # {uplink: why no new flow may take it}
