"""Prefix arithmetic, and which prefixes are acceptable. Pure: values in, values out.

Whatever reaches this module from outside (a DHCPv6 server, a command line, a state file) is
hostile until ``parse_*`` and ``acceptable`` let it pass. They raise ``Refused`` with one line that
shows the value with ``repr``, so that no control character reaches a log. The functions that
slice and rebase take checked values; they raise ``ValueError`` on misuse, which is a bug.
"""

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv6Address, IPv6Network, summarize_address_range

from pdreactor.errors import Refused
from pdreactor.model import Pair

GLOBAL_UNICAST = IPv6Network("2000::/3")
NEVER_DELEGATED = tuple(
    (IPv6Network(text), what)
    for text, what in (
        ("fc00::/7", "a unique local prefix (RFC 4193)"),
        ("fe80::/10", "a link-local prefix (RFC 4291)"),
        ("ff00::/8", "a multicast prefix (RFC 4291)"),
        ("::ffff:0:0/96", "an IPv4-mapped prefix (RFC 4291)"),
        ("64:ff9b::/96", "the NAT64 prefix (RFC 6052)"),
        ("100::/64", "the discard-only prefix (RFC 6666)"),
        ("2001::/32", "the Teredo prefix (RFC 4380)"),
        ("2002::/16", "the 6to4 prefix (RFC 3056)"),
    )
)
"""No ISP delegates from these. 2001:db8::/32 is not among them: labs use it."""

LONGEST_SHOWN = 80


# ---- from text -------------------------------------------------------------------------------


def shown(value: object) -> str:
    """``repr``, cut short: safe for one line of a log whatever the value is."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def parse_decimal(value: str | int, what: str, maximum: int) -> int:
    """A number from 0 to ``maximum`` in plain decimal: no sign, blank, underscore, leading zero."""
    text = str(value)
    plain = text.isascii() and text.isdecimal() and (text == "0" or text[0] != "0")
    if not plain or len(text) > len(str(maximum)) or int(text) > maximum:
        raise Refused(f"{what} {shown(value)} is not a decimal number from 0 to {maximum}")
    return int(text)


def parse_address(text: str) -> IPv6Address:
    """An IPv6 address without a zone."""
    if "%" in text:
        raise Refused(f"address {shown(text)} has a zone")
    try:
        return IPv6Address(text)
    except AddressValueError:
        raise Refused(f"{shown(text)} is not an IPv6 address") from None


def parse_network(address: str, length: str | int, *, mask: bool = False) -> IPv6Network:
    """A prefix; bits beyond its length are cut off with ``mask`` (servers send them), or wrong."""
    base = parse_address(address)
    bits = parse_decimal(length, "prefix length", 128)
    network = IPv6Network((base, bits), strict=False)
    if network.network_address != base and not mask:
        text = f"{address}/{bits}"
        raise Refused(f"{shown(text)} has bits beyond its length; {network} would be right")
    return network


def parse_prefix(text: str, *, mask: bool = False) -> IPv6Network:
    """A prefix written as ADDRESS/LENGTH."""
    address, slash, length = text.partition("/")
    if not slash:
        raise Refused(f"{shown(text)} is not a prefix: write ADDRESS/LENGTH")
    return parse_network(address, length, mask=mask)


def acceptable(network: IPv6Network, *, min_length: int, max_length: int) -> None:
    """Raise Refused unless an ISP could have delegated this prefix."""
    if network.prefixlen == 0:
        raise Refused(f"{network} is all of IPv6, not a delegated prefix")
    for never, what in NEVER_DELEGATED:
        if network.overlaps(never):
            raise Refused(f"{network} is or overlaps {what}")
    if not network.subnet_of(GLOBAL_UNICAST):
        raise Refused(f"{network} is outside {GLOBAL_UNICAST}, the global unicast addresses")
    if not min_length <= network.prefixlen <= max_length:
        raise Refused(f"{network} is not between /{min_length} and /{max_length} in length")


def excluded(network: IPv6Network, length: int, subnet_id: bytes) -> IPv6Network:
    """The excluded prefix of a delegated one, from its OPTION_PD_EXCLUDE (RFC 6603 section 4.2).

    The subnet ID is the bits between the two lengths, aligned to the left of as few octets as
    hold them, and padded with zeros.
    """
    bits = length - network.prefixlen
    if bits <= 0 or length > 128:
        raise Refused(f"excluded prefix length {length} does not fit into {network}")
    octets = (bits + 7) // 8
    subnet, padding = divmod(int.from_bytes(subnet_id, "big"), 1 << (octets * 8 - bits))
    if len(subnet_id) != octets or padding:
        raise Refused(f"excluded subnet ID '{subnet_id.hex()[:LONGEST_SHOWN]}' is not {bits} bits")
    return IPv6Network((_base(network) | subnet << (128 - length), length))


# ---- slices ----------------------------------------------------------------------------------


def _base(network: IPv6Network) -> int:
    return int(network.network_address)


def slice_of(delegated: IPv6Network, length: int, subnet: int) -> IPv6Network | None:
    """Slice number ``subnet`` of that length; None when the prefix has no such slice."""
    bits = length - delegated.prefixlen
    if bits < 0 or not 0 <= subnet < 1 << bits:
        return None
    return IPv6Network((_base(delegated) | subnet << (128 - length), length))


def lowest_part(internal: IPv6Network, length: int) -> IPv6Network:
    """The first slice of that length; all of ``internal`` when it is not larger than that."""
    return IPv6Network((_base(internal), max(length, internal.prefixlen)))


def rebase(address: IPv6Address, from_network: IPv6Network, to_network: IPv6Network) -> IPv6Address:
    """The address with its prefix exchanged: what NETMAP does to it."""
    if from_network.prefixlen != to_network.prefixlen or address not in from_network:
        raise ValueError(f"{address} cannot move from {from_network} to {to_network}")
    return IPv6Address(_base(to_network) + int(address) - _base(from_network))


def runs(networks: Iterable[IPv6Network]) -> list[tuple[int, int]]:
    """(first, last) of each run of adjoining addresses, as numbers, sorted."""
    found: list[tuple[int, int]] = []
    for start, length in sorted((_base(n), n.prefixlen) for n in networks):
        end = start + (1 << 128 - length) - 1
        if found and start <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def collapse(networks: Iterable[IPv6Network]) -> tuple[IPv6Network, ...]:
    """The same addresses in as few networks as possible, sorted."""
    return tuple(
        network
        for first, last in runs(networks)
        for network in summarize_address_range(IPv6Address(first), IPv6Address(last))
    )


def disjoint(networks: Iterable[IPv6Network]) -> tuple[IPv6Network, ...]:
    """The same addresses without overlaps, sorted; faster than ``collapse``, and merges nothing."""
    kept: list[IPv6Network] = []
    end = -1
    for start, length, network in sorted({(_base(n), n.prefixlen, n) for n in networks}):
        if start > end:
            kept.append(network)
            end = start + (1 << 128 - length) - 1
    return tuple(kept)


def compact(networks: Iterable[IPv6Network]) -> tuple[IPv6Network, ...]:
    """The same addresses, sorted, in fewer networks where that is quick to have: ten thousand
    that adjoin become few, ten thousand that do not are left as they are."""
    given = tuple(networks)
    return collapse(given) if len(runs(given)) <= COMPACT else disjoint(given)


COMPACT = 64
"""Runs of adjoining addresses that ``compact`` takes the time to collapse."""


def subtract(network: IPv6Network, holes: Iterable[IPv6Network]) -> tuple[IPv6Network, ...]:
    """The network without the holes, as few networks as possible, sorted."""
    return _rest(network, runs(hole for hole in holes if hole.overlaps(network)))


def without(
    networks: Iterable[IPv6Network], holes: Iterable[IPv6Network]
) -> tuple[IPv6Network, ...]:
    """``compact`` networks without the holes: of ten thousand each, quick."""
    left: list[IPv6Network] = []
    gaps, position = runs(holes), 0
    for network in compact(networks):
        while position < len(gaps) and gaps[position][1] < _base(network):
            position += 1
        end, last = position, int(network.broadcast_address)
        while end < len(gaps) and gaps[end][0] <= last:
            end += 1
        left += _rest(network, gaps[position:end]) if end > position else (network,)
    return tuple(left)


def _rest(network: IPv6Network, gaps: list[tuple[int, int]]) -> tuple[IPv6Network, ...]:
    first, end = _base(network), int(network.broadcast_address)
    left: list[tuple[int, int]] = []
    for start, last in gaps:
        if start > first:
            left.append((first, start - 1))
        first = max(first, last + 1)
    if first <= end:
        left.append((first, end))
    return tuple(part for start, last in left
                 for part in summarize_address_range(IPv6Address(start), IPv6Address(last)))


def pairs(
    internal: IPv6Network, external: IPv6Network, holes: Iterable[IPv6Network] = ()
) -> tuple[Pair, ...]:
    """(internal part, external part) of equal lengths for all of it but the external holes."""
    return tuple(
        (IPv6Network((rebase(part.network_address, external, internal), part.prefixlen)), part)
        for part in subtract(external, holes)
    )


class Texts:
    """Networks as text, each object once: by id(), for hashing ten thousand networks takes long.
    Whoever holds the networks must outlive this, or an id() could be used again."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}

    def __call__(self, network: IPv6Network) -> str:
        text = self._known.get(id(network))
        if text is None:
            text = self._known[id(network)] = str(network)
        return text
