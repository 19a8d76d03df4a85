"""The values that flow through pdreactor: event, configuration, state, desired NAT and routes.

Everything here is frozen and compares by value. The classes are ``typing.NamedTuple`` and not
dataclasses because the hook imports this module on every lease event and ``dataclasses`` costs
more than the whole reaction (it imports ``inspect``); ``typing`` is there already, for tomllib.

Addresses are ``ipaddress`` objects, lifetimes are whole seconds, points in time are seconds since
the epoch (they have to survive a reboot). ``None`` is an infinite lifetime or "not given",
as each field says.
"""

from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .layout.model import Plans, Traces

INFINITE = 0xFFFFFFFF
"""Lifetime that means infinity on the wire (RFC 8415 section 7.7)."""


# ---- event: what one call of dhcpcd's script said ------------------------------------------


class Delegation(NamedTuple):
    """One IA_PD prefix of a DHCPv6 reply (RFC 8415 section 21.22)."""

    network: IPv6Network
    iaid: int | None
    preferred: int | None  # seconds; None = infinite
    valid: int | None  # seconds; None = infinite, 0 = remove now
    excluded: IPv6Network | None = None  # RFC 6603: belongs to the link towards the ISP


class Event(NamedTuple):
    """One lease or link event of one interface, parsed and checked.

    ``delegations`` is None where the event carries no reply at all (carrier, TIMEOUT6 ...); that
    is not the same as a reply without prefixes, which dhcpcd cannot express (see events.py).
    """

    reason: str
    interface: str
    delegations: tuple[Delegation, ...] | None = None  # the reply's, in its order
    withdrawn: tuple[Delegation, ...] = ()  # named only in old_: the reply before had them


# ---- configuration ---------------------------------------------------------------------------


AUTO, DIRECT = "auto", "none"
"""``gateway``: of the interface's default route in table main, or none at all."""


DELEGATED, STATIC, ONLINK, SIXTOFOUR, SIXRD = SOURCES = "pd", "static", "onlink", "6to4", "6rd"
"""``source``: where an uplink's prefix comes from."""


class Uplink(NamedTuple):
    """One ``[uplink.NAME]``."""

    name: str
    interface: str
    iaid: int | None = None
    prefix: IPv6Network | None = None  # static, instead of a learned one
    bypass: tuple[IPv6Network, ...] = ()
    min_length: int = 32
    max_length: int = 64
    table: int | None = None  # source-based routing
    gateway: IPv6Address | str = AUTO  # of that table's default route; or AUTO, or DIRECT
    source: str = DELEGATED

    @property
    def learns(self) -> bool:
        """True where events tell the prefix: neither the configuration nor the kernel shows it."""
        return self.prefix is None and self.source == DELEGATED


class Translation(NamedTuple):
    """One ``[[translation]]``; ``uplinks`` is in order of preference."""

    uplinks: tuple[str, ...]
    internal: IPv6Network
    subnet: int = 0
    on_short: str = "refuse"  # or "partial"
    mode: str = "netmap"
    inbound: bool = True
    on_expire: str = "keep"  # or "withdraw"
    hairpin: bool = True


class Command(NamedTuple):
    """One ``[[on_change]]``: an argv list and its time limit in seconds."""

    argv: tuple[str, ...]
    timeout: float = 10.0


class Config(NamedTuple):
    """/etc/pdreactor.toml, checked; see pdreactor.toml(5)."""

    path: str
    state_dir: str
    uplinks: tuple[Uplink, ...]
    translations: tuple[Translation, ...]
    backend: str = "auto"
    ct_mark_mask: int = 0x0FF00000
    guard: bool = True
    protocol: int = 157
    priority: int = 15700
    jumps: bool = True  # from ip6tables' own chains; else the user's firewall has them
    dnat_chain: str = "pdreactor_dnat"
    snat_chain: str = "pdreactor_snat"
    on_change: tuple[Command, ...] = ()
    warnings: tuple[str, ...] = ()  # one line each: allowed, but look at it
    plans: "Plans | None" = None  # what there is beside the translation

    def uplink(self, name: str) -> Uplink:
        """The uplink of that name; KeyError when the configuration has none."""
        for uplink in self.uplinks:
            if uplink.name == name:
                return uplink
        raise KeyError(name)


# ---- state: what was learned, and survives a reboot ----------------------------------------


class Prefix(NamedTuple):
    """A delegated prefix as the state keeps it."""

    network: IPv6Network
    iaid: int | None
    preferred_until: int | None  # epoch; None = infinite
    valid_until: int | None  # epoch; None = infinite
    generation: int  # unique among the uplink's prefixes: part of the conntrack mark
    learned_at: int  # epoch: first seen
    updated_at: int  # epoch: lifetimes last counted from here
    reason: str  # the event that told it last, e.g. "BOUND6", "set"
    excluded: IPv6Network | None = None
    superseded_at: int | None = None  # epoch; None while it is current

    def expired(self, now: int) -> bool:
        """True once the valid lifetime is over."""
        return self.valid_until is not None and self.valid_until <= now


class Refusal(NamedTuple):
    """The last value refused on an uplink: dhcpcd drops exit codes, so ``status`` shows it."""

    at: int
    reason: str  # the event
    message: str


class Down(NamedTuple):
    """An uplink taken out of use by hand or by a health checker."""

    at: int
    reason: str  # may be empty


class UplinkState(NamedTuple):
    """What is known of one uplink. ``number`` (from 1) stands in the conntrack mark."""

    number: int
    prefixes: tuple[Prefix, ...] = ()
    refusal: Refusal | None = None
    down: Down | None = None


class Happening(NamedTuple):
    """One line of the bounded history."""

    at: int
    uplink: str
    reason: str
    text: str


class Stamp(NamedTuple):
    """What the conntrack mark of a flow says; ``marks.py`` packs it into the mask's bits."""

    uplink: int
    generation: int
    inbound: bool


class Holding(NamedTuple):
    """Chains of ours in one variant of ip6tables ("nf_tables" or "legacy")."""

    variant: str
    dnat: str
    snat: str
    jumps: bool  # from the built-in chains, by us
    modes: tuple[str, ...] = ("netmap", "rfc6296")  # which decide in what tables


class Lineage(NamedTuple):
    """Whose knowledge the state is: see lineage.py."""

    node: str = ""  # random id of this node; empty until it is needed
    generation: int = 0  # grows with each change that this node learned itself
    settled: int = 0  # the generation at the last import: older ones are overruled
    heard: tuple[tuple[str, int], ...] = ()  # (node, generation) of the others that is in it


class State(NamedTuple):
    """The state file. ``doomed`` flows are still to be removed from conntrack, and while
    ``exposed`` those that may have begun untranslated; ``numbers`` is (protocol, priority) of the
    last pass, ``held`` what we may have in ip6tables, ``modes`` how each internal prefix is
    translated, ``leading`` the uplink that new flows of each take ("" for none), ``left`` the
    uplinks out of use whose flows were sent to others, ``tabled`` those with a table."""

    uplinks: dict[str, UplinkState]
    doomed: tuple[Stamp, ...] = ()
    history: tuple[Happening, ...] = ()
    applied: tuple[tuple[str, tuple[IPv6Network, ...]], ...] = ()  # (uplink, what on_change knows)
    exposed: bool = False
    numbers: tuple[int, ...] = ()
    held: tuple[Holding, ...] = ()
    modes: tuple[tuple[IPv6Network, str, str], ...] = ()  # (internal, uplink, mode)
    leading: tuple[tuple[IPv6Network, str], ...] = ()  # (internal, uplink)
    left: tuple[str, ...] = ()
    tabled: tuple[str, ...] = ()
    lineage: Lineage = Lineage()
    traces: "Traces | None" = None  # of the layout


class Moment(NamedTuple):
    """One moment by both clocks of the machine."""

    boot: str  # the boot's id: a boottime of another boot says nothing
    uptime: int  # CLOCK_BOOTTIME, seconds: goes on while the machine is suspended
    wall: int  # seconds since the epoch


# ---- desired: what the kernel should hold ----------------------------------------------------

Pair = tuple[IPv6Network, IPv6Network]
"""(match, replacement): two networks of the same length."""


class Lane(NamedTuple):
    """One delegated prefix in use on one uplink in one mode: what is rewritten to and from it.

    ``outbound`` pairs are (internal, external), empty once the prefix is superseded; ``inbound``
    and ``hairpin`` pairs are (external, internal). Without connection tracking answers need the
    ``inbound`` pairs as well: there ``closed`` has the internal prefixes of ``inbound = false``.
    """

    uplink: str
    interface: str
    stamp: Stamp
    delegated: IPv6Network
    outbound: tuple[Pair, ...]
    inbound: tuple[Pair, ...]
    hairpin: tuple[Pair, ...]
    mode: str = "netmap"
    closed: tuple[IPv6Network, ...] = ()


class Serving(NamedTuple):
    """One translation by one prefix of one uplink: what is rewritten, and how."""

    translation: Translation
    uplink: str
    prefix: Prefix
    pairs: tuple[Pair, ...]  # (internal, external)
    outbound: bool  # this prefix takes the translation's new outbound flows


class Gate(NamedTuple):
    """What may not leave by one interface."""

    interface: str
    internal: tuple[IPv6Network, ...]  # sources that never leave untranslated
    unserved: tuple[IPv6Network, ...]  # of these, what no usable prefix translates: rejected
    bypass: tuple[IPv6Network, ...]  # destinations reached without translation
    foreign: tuple[IPv6Network, ...]  # sources that belong to another uplink's delegation
    untracked: tuple[IPv6Network, ...] = ()  # as unserved, of modes without connection tracking


class Nat(NamedTuple):
    """All of the translation, independent of the firewall backend that makes it so."""

    mask: int
    lanes: tuple[Lane, ...]
    gates: tuple[Gate, ...]
    guard: bool
    modes: frozenset[str] = frozenset({"netmap"})  # of the configured translations
    kept: tuple[int, ...] | None = None  # numbers of the uplinks whose flows stay on them, by mark


class Problem(NamedTuple):
    """Something that keeps a translation from being in place, for ``status``."""

    uplink: str
    message: str


class Desired(NamedTuple):
    """What one pass wants the firewall to do."""

    nat: Nat
    problems: tuple[Problem, ...]
    serving: tuple[Serving, ...] = ()
