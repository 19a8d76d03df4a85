"""Prefixes that do not come by DHCPv6: from the uplink's own link, from an IPv4 address. Pure."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Network

from ..errors import Refused
from ..events import Variables, first
from ..model import (
    ONLINK,
    SIXRD,
    SIXTOFOUR,
    Config,
    Delegation,
    Event,
    State,
    Uplink,
    UplinkState,
)
from ..prefix import acceptable, parse_decimal, parse_network
from ..transition import after_event, after_refusal
from .model import Address, Plans, Seen, Shown, Sixrd, Traces, Tunnel
from .tunnels import local_of, sixrd_of

TOLERANCE = 5
"""Seconds: the kernel counts lifetimes down in its own way; less is no news."""


def learn(state: State, config: Config, seen: Seen, on_link: Mapping[str, Shown],
          now: int) -> State:
    """The state with what these sources show just now, as if an event told it. ``on_link`` has the
    /64s of each interface."""
    for uplink in config.uplinks:
        try:
            told = _told(uplink, config, state, seen, on_link, now)
            if told is not None and not _known(state, uplink, told, now):
                state = after_event(state, told, uplink, config, now)
        except Refused as refused:
            state = _refused(state, uplink, str(refused), config, now)
    return state


def _refused(state: State, uplink: Uplink, message: str, config: Config, now: int) -> State:
    known = state.uplinks.get(uplink.name, UplinkState(0))
    if known.refusal and known.refusal.message == message:
        return state
    return after_refusal(state, uplink.name, uplink.source, message, config, now)


def _told(uplink: Uplink, config: Config, state: State, seen: Seen,
          on_link: Mapping[str, Shown], now: int) -> Event | None:
    """What the uplink's source shows; None when it shows nothing, or is none of these."""
    if uplink.source == ONLINK:
        return _shown(uplink, on_link.get(uplink.interface, Shown((), False)), state, now)
    if uplink.source not in (SIXTOFOUR, SIXRD):
        return None
    plans, traces = config.plans or Plans(), state.traces or Traces()
    tunnel = next(one for one in plans.tunnels if one.name == uplink.interface)
    network = _derived(tunnel, traces, seen)
    if network is None:
        return None
    before = state.uplinks.get(uplink.name, UplinkState(0)).prefixes
    gone = (Delegation(one.network, None, 0, 0) for one in before if one.network != network)
    return Event(uplink.source, uplink.interface, (Delegation(network, None, None, None), *gone))


def _shown(uplink: Uplink, shown: Shown, state: State, now: int) -> Event | None:
    """What is on the link. While nothing is advertised, as after the link was down, an address that
    somebody wrote down is no reason to give up a prefix whose lifetime is not over; one that the
    uplink has from the source that it had before is given up."""
    found = tuple(Delegation(_network(one), None, _left(one.preferred_until, now),
                             _left(one.valid_until, now)) for one in shown.addresses)
    known = state.uplinks.get(uplink.name, UplinkState(0)).prefixes
    last = any(one.reason in (ONLINK, "import") and one.valid_until is not None
               and not one.expired(now) for one in known)
    return Event(ONLINK, uplink.interface, found) if found and (shown.told or not last) else None


def _network(address: Address) -> IPv6Network:
    network = IPv6Network((address.address, address.length), strict=False)
    acceptable(network, min_length=64, max_length=64)
    return network


def _left(until: int | None, now: int) -> int | None:
    return None if until is None else max(0, until - now)


def _derived(tunnel: Tunnel, traces: Traces, seen: Seen) -> IPv6Network | None:
    """The prefix that follows from the IPv4 address; None while there is none. Raises Refused."""
    local = tunnel.public or local_of(tunnel, seen)
    if local is None:
        return None
    if tunnel.mode == SIXTOFOUR:
        return sixtofour(local)
    told = sixrd_of(tunnel, traces)
    return None if told is None else sixrd(told, local)


def sixtofour(address: IPv4Address) -> IPv6Network:
    """2002:V4ADDR::/48 (RFC 3056 section 2). Raises Refused for an address that is not public."""
    if not (address.is_global or int(address) >> 8 in EXAMPLES):
        raise Refused(f"{address} is not a public IPv4 address, as 6to4 needs; behind NAT say "
                      f"which one is (public = ...)")
    return IPv6Network((0x2002 << 112 | int(address) << 80, 48))


EXAMPLES = (0xC00002, 0xC63364, 0xCB0071)
"""192.0.2.0/24, 198.51.100.0/24 and 203.0.113.0/24 stand for public addresses (RFC 5737)."""


def sixrd(told: Sixrd, address: IPv4Address) -> IPv6Network:
    """The delegated prefix of 6rd: the IPv4 bits that are the customer's own, behind the prefix of
    all (RFC 5969 section 4). Raises Refused when it is longer than /64."""
    own = 32 - told.mask_length
    length = told.prefix.prefixlen + own
    if length > 64:
        raise Refused(f"6rd prefix {told.prefix} and {own} bits of IPv4 are longer than /64")
    bits = int(address) & (1 << own) - 1
    return IPv6Network((int(told.prefix.network_address) | bits << 128 - length, length))


def _known(state: State, uplink: Uplink, told: Event, now: int) -> bool:
    """True when the state says the same already, for at least half of the lifetimes told: router
    advertisements tell them anew all the time, and nobody needs to write that down each time."""
    known = state.uplinks.get(uplink.name, UplinkState(0)).prefixes
    current = {one.network: one for one in known if one.superseded_at is None}
    wanted = {one.network: one for one in told.delegations or () if one.valid != 0}
    if current.keys() != wanted.keys():
        return False
    return all(_lasts(current[net].valid_until, one.valid, now)
               and _lasts(current[net].preferred_until, one.preferred, now)
               for net, one in wanted.items())


def _lasts(until: int | None, told: int | None, now: int) -> bool:
    if until is None or told is None:
        return until is told
    left = max(until, now) - now
    return told // 2 - TOLERANCE <= left <= told + TOLERANCE


# ---- what DHCPv4 tells of 6rd --------------------------------------------------------------------


def told_sixrd(variables: Variables, interface: str) -> Sixrd | None:
    """OPTION_6RD of a lease (RFC 5969 section 7.1.1), as dhcpcd hands it on (``option sixrd``);
    None without. Raises Refused."""
    prefix = first(variables, "new_sixrd_prefix")
    if prefix is None:
        return None
    names = ("mask_len", "prefix_len", "brip_address")
    mask, length, relay = (first(variables, f"new_sixrd_{name}") or "" for name in names)
    network = parse_network(prefix, length, mask=True)
    acceptable(network, min_length=3, max_length=64)
    try:
        relays = [IPv4Address(text) for text in relay.split()]
    except ValueError:
        raise Refused(f"6rd border relay {relay[:40]!r} is not an IPv4 address") from None
    if not relays:
        raise Refused("6rd without a border relay")
    return Sixrd(interface, network, parse_decimal(mask, "6rd IPv4 mask length", 32), relays[0])


def after_lease(state: State, interface: str, told: Sixrd | None) -> State:
    """The state once a DHCPv4 lease of an interface told that, or nothing, of 6rd."""
    traces = state.traces or Traces()
    others: Iterable[Sixrd] = (one for one in traces.sixrd if one.interface != interface)
    sixrd = (*others, *([told] if told else ()))
    return state if sixrd == traces.sixrd else state._replace(traces=traces._replace(sixrd=sixrd))
