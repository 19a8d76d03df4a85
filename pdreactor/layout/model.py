"""The values of the layout: what there is beside the translation, as the configuration wants it, as
the state remembers it, and as the kernel should hold it. Imported only where there is any."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING, NamedTuple

from ..model import Problem

if TYPE_CHECKING:
    from ..ways import Route

IN4, SIXTOFOUR, SIXRD = "6in4", "6to4", "6rd"
"""``mode`` of a tunnel: RFC 4213, RFC 3056, RFC 5969."""
KERNEL, RESPONDER, NDPPD = "kernel", "responder", "ndppd"
"""``method`` of a proxy."""


# ---- configuration ---------------------------------------------------------------------------


class Assign(NamedTuple):
    """One ``[[assign]]``: an address from a slice of the prefix on each interface that matches."""

    uplink: str
    interface: str  # a name, or a pattern with * and ?: then each has a slice of its own
    subnet: int = 0  # the slice, with a pattern the first
    length: int = 64  # of the slice
    host: int | None = 1  # the bits behind the slice; None: EUI-64 (RFC 4291 appendix A)
    prefix_length: int | None = None  # of the address; None: as the slice
    create: bool = False  # the interface is a dummy link of ours

    @property
    def pattern(self) -> bool:
        """True when several interfaces may match."""
        return "*" in self.interface or "?" in self.interface


class Onward(NamedTuple):
    """One ``[[route]]``: a slice of the prefix that others have."""

    uplink: str
    interface: str
    via: IPv6Address | None = None
    subnet: int = 0
    length: int = 64
    metric: int = 128


class Tunnel(NamedTuple):
    """One ``[tunnel.NAME]``; the name is that of the link, which is of kind sit."""

    name: str
    mode: str = IN4
    remote: IPv4Address | None = None  # None: any
    local: IPv4Address | None = None  # written down, in the place of ``underlay``
    underlay: str = ""  # the interface whose IPv4 address is the local one
    public: IPv4Address | None = None  # what a NAT makes of the local address
    ttl: int = 64
    mtu: int = 1480
    addresses: tuple[IPv6Interface, ...] = ()
    default: bool = False  # a default route by it in table main
    metric: int = 1024  # of that route
    prefix: IPv6Network | None = None  # of 6rd; None: DHCPv4 tells
    mask_length: int = 0  # of 6rd: the IPv4 bits that all customers share
    relay: IPv4Address | None = None  # of 6rd and 6to4: the way to the rest of the world


class Proxy(NamedTuple):
    """One ``[[proxy]]``: neighbour discovery is answered for others (RFC 4389 section 4)."""

    uplink: str
    interface: str  # where it is asked
    subnet: int = 0
    length: int = 64
    hosts: tuple[int, ...] = ()  # bits behind the slice; none: all of it
    method: str = KERNEL


class Plans(NamedTuple):
    """All of it."""

    assigns: tuple[Assign, ...] = ()
    onward: tuple[Onward, ...] = ()
    tunnels: tuple[Tunnel, ...] = ()
    proxies: tuple[Proxy, ...] = ()
    sysctl: bool = True  # set them; else report them only


# ---- state -----------------------------------------------------------------------------------


class Sixrd(NamedTuple):
    """6rd as a DHCPv4 server tells it on one interface (RFC 5969 section 7.1.1)."""

    interface: str
    prefix: IPv6Network
    mask_length: int
    relay: IPv4Address


class Traces(NamedTuple):
    """What the state remembers: what was learned, and what was put where, so that it can be taken
    away again."""

    sixrd: tuple[Sixrd, ...] = ()
    slices: tuple[tuple[str, str, int], ...] = ()  # (pattern of an [[assign]], interface, slice)
    placed: tuple[tuple[str, str], ...] = ()  # (interface, "ADDRESS/LENGTH")
    proxied: tuple[tuple[str, str], ...] = ()  # (interface, address) that the kernel answers for
    sysctls: tuple[tuple[str, str], ...] = ()  # (key, what it was before)
    ndppd: bool = False  # ndppd's configuration is there, and is ours
    endpoints: tuple[tuple[str, str], ...] = ()  # (tunnel, its IPv4 address here): what was told


# ---- desired ---------------------------------------------------------------------------------


class Link(NamedTuple):
    """A link of ours."""

    name: str
    kind: str  # "sit" or "dummy"
    mtu: int = 0  # 0: as the kernel makes it
    local: IPv4Address | None = None  # None: any
    remote: IPv4Address | None = None
    ttl: int = 0
    sixrd: tuple[IPv6Network, IPv4Network] | None = None  # (prefix, what all share of IPv4)


class Address(NamedTuple):
    """An address of ours; its lifetimes end at points in time (epoch), None is never."""

    interface: str
    address: IPv6Address
    length: int
    preferred_until: int | None = None
    valid_until: int | None = None


class Neighbour(NamedTuple):
    """A proxy entry (ip-neighbour(8))."""

    interface: str
    address: IPv6Address


class Mapped(NamedTuple):
    """A pair of the translation."""

    external: IPv6Network
    internal: IPv6Network
    mode: str = "netmap"


class Answering(NamedTuple):
    """Neighbour discovery on one link is answered for what is in ``networks`` and has a route that
    leaves by none of the interfaces in ``outside``; the hosts of ``mapped`` have internal
    addresses."""

    interface: str
    networks: tuple[IPv6Network, ...]
    mapped: tuple[Mapped, ...] = ()
    outside: tuple[str, ...] = ()  # where other uplinks are


class Layout(NamedTuple):
    """What one pass wants."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: "tuple[Route, ...]" = ()
    neighbours: tuple[Neighbour, ...] = ()
    ndppd: tuple[tuple[str, tuple[IPv6Network, ...]], ...] = ()  # (interface, networks)
    sysctls: tuple[tuple[str, str], ...] = ()  # (key below net.ipv6, value)
    slices: tuple[tuple[str, str, int], ...] = ()  # see Traces
    endpoints: tuple[tuple[str, str], ...] = ()  # see Traces
    problems: tuple[Problem, ...] = ()


# ---- observed --------------------------------------------------------------------------------


class SeenLink(NamedTuple):
    """A link as the kernel has it."""

    link: Link
    ours: bool  # by its alias
    up: bool
    mac: bytes  # of six octets, or empty
    port: bool = False  # of a bridge or the like: addresses belong on that


class SeenAddress(NamedTuple):
    """An address as the kernel has it."""

    address: Address
    protocol: int  # whose it is (IFA_PROTO); 0 in kernels older than 5.18
    failed: bool = False  # another node on the link has it (RFC 4862 section 5.4.5)


class Shown(NamedTuple):
    """The /64s on one link: an address of each, with lifetimes."""

    addresses: tuple[Address, ...]
    told: bool  # by advertisements, or by who gave addresses lifetimes: they say when it is over


class Seen(NamedTuple):
    """What the layout depends on."""

    links: dict[str, SeenLink]
    ipv4: dict[str, tuple[IPv4Address, ...]]  # by interface, the primary one first
    accept_ra: dict[str, str]  # by interface
