"""What ``doctor`` knows of a machine, and what it says of it: values. Pure."""

from collections.abc import Mapping
from ipaddress import IPv6Address
from typing import NamedTuple

from ..model import Config
from ..ways import Route, Rule

ERROR, WARNING, NOTE = "error", "warning", "note"
"""It cannot work so; it may not; it works, but look at it."""


class Finding(NamedTuple):
    """One thing that is wrong."""

    severity: str
    what: str
    where: str  # a file, a command, a chain
    fix: str


# ---- the firewall ------------------------------------------------------------------------------


class Match(NamedTuple):
    """One condition of a rule. ``key`` is one of iif, oif, saddr, daddr, family, state, status and
    reverse (is there no way back to the source?); "" is any other."""

    key: str
    equal: bool = True
    values: frozenset[str] | None = None  # None: cannot be told


class Marking(NamedTuple):
    """Bits of a mark that a rule sets, or copies from the other kind of mark."""

    kind: str  # "packet" or "flow" (conntrack's)
    bits: int


class Step(NamedTuple):
    """A rule. A rule of nft with a verdict map is one step for each of its elements."""

    matches: tuple[Match, ...] = ()
    verdict: str = ""  # accept, drop, jump, goto, return, nat (rewrites the source), or none
    target: str = ""  # of jump and goto
    markings: tuple[Marking, ...] = ()


class Chain(NamedTuple):
    """A chain; a base chain has a hook."""

    program: str  # who shows it: nft, ip6tables-save, ...
    table: str  # with its family
    name: str
    steps: tuple[Step, ...] = ()
    hook: str = ""
    type: str = ""
    priority: int = 0
    policy: str = "accept"

    def __str__(self) -> str:
        return f"{self.program}: table {self.table}, chain {self.name}"


# ---- routes, interfaces --------------------------------------------------------------------------


class TheirRoute(NamedTuple):
    """A route and the protocol number of who made it."""

    route: Route
    protocol: int


class TheirRule(NamedTuple):
    """A policy rule and the protocol number of who made it."""

    rule: Rule
    protocol: int
    inverted: bool = False  # "not"


class Interface(NamedTuple):
    """An interface of this machine."""

    number: int
    direct: bool = False  # a point-to-point link
    addresses: tuple[IPv6Address, ...] = ()
    ipv4: bool = False  # it has an IPv4 address


# ---- dhcpcd, services ----------------------------------------------------------------------


class Option(NamedTuple):
    """One line of dhcpcd.conf."""

    name: str
    value: str
    line: int
    interface: str = ""  # of the block it is in; "" is global


class Unit(NamedTuple):
    """What the unit of dhcpcd lets its hooks write."""

    name: str
    strict: bool  # ProtectSystem=strict
    writable: tuple[str, ...]  # absolute paths
    enabled: bool


class Directory(NamedTuple):
    """The state directory, or the nearest directory above it that exists."""

    path: str
    owner: int
    mode: int  # permissions
    writable: bool
    is_directory: bool = True


MOST = 50
"""Translations that are looked at one by one: what is wrong with one is wrong with its like."""


class Facts(NamedTuple):
    """Everything that the judges look at. Nothing, None and "" mean that it is not known."""

    config: Config
    mistakes: tuple[str, ...] = ()  # of the configuration
    release: str = ""  # of the kernel
    settings: Mapping[str, str] = {}  # below /proc/sys/net/ipv6/conf: "all/forwarding": "1"
    interfaces: Mapping[str, Interface] = {}
    now: int = 0
    past: int = 0  # a point in time that is over for sure; both since the epoch
    told: Mapping[str, str] = {}  # uplink: the event that told its newest prefix
    state: Directory | None = None
    lacking: frozenset[str] = frozenset()  # Python modules that cannot be found
    programs: frozenset[str] = frozenset()  # that are installed
    nft: tuple[int, ...] = ()  # versions
    dhcpcd: tuple[int, ...] = ()
    variant: str = ""  # of ip6tables: nf_tables or legacy
    refused: str = ""  # what the kernel says of the translation's kind of rule; "" if it takes it
    modules: frozenset[str] = frozenset()  # of the kernel, there or to be loaded
    chains: tuple[Chain, ...] = ()
    flowtables: tuple[str, ...] = ()  # of nftables: flows offloaded past all rules
    routes: tuple[TheirRoute, ...] = ()
    rules: tuple[TheirRule, ...] = ()
    options: tuple[Option, ...] | None = None  # dhcpcd.conf; None: there is none
    hooks: tuple[str, ...] = ()  # files by which dhcpcd calls pdreactor
    units: tuple[Unit, ...] = ()
    timer: bool | None = None  # pdreactor-restore.timer is enabled; None: no systemd
    watched: bool = False  # pdreactor watch runs, or its unit is enabled
    networkd: tuple[str, ...] = ()  # interfaces that systemd-networkd configures
    foreign: Mapping[str, str] = {}  # of networkd.conf: ManageForeignRoutes, ...
    network_manager: tuple[str, ...] = ()  # interfaces that NetworkManager manages
