"""dhcpcd's environment -> Event. Pure: bytes in, values out.

    /proc/PID/environ -> reasons.relevant? -> parse_environ -> [(name, value), ...] -> interface_of
                      -> event_for(variables, uplink), once for each uplink on that interface

The environment is the server's reply almost untouched (dhcpcd: src/dhcp6.c dhcp6_env,
src/dhcp-common.c dhcp_envoption, src/dhcpcd-definitions.conf): it names prefixes that dhcpcd
itself refused to use. A value meant for an uplink that is not acceptable refuses the whole event.

Names. ``new_dhcp6_ia_pdN_iaid``, ``..._prefixM``, ``..._prefixM_length`` and so on; ``old_`` is the
reply before. Up to dhcpcd 10.3.2 at least, N is 1 for every IA_PD and M is counted on across them,
so that ``new_dhcp6_ia_pd1_iaid`` stands there once for each IA_PD and only the order of the block
tells which prefix is whose: an iaid is followed by its prefixes. Where a shell collapsed the
duplicates that is lost for good, and all prefixes belong to the one iaid left: read the block that
dhcpcd made (/proc/PID/environ), not os.environ. A prefix's lifetimes and length stand before it,
its options after it.

No ``new_`` prefix does not mean no prefix. dhcpcd leaves ``new_`` out of BOUND6 while an address is
in duplicate detection (a later DELEGATED6 on the same interface has it), and with ``anonymous``.
So what was there stays unless a reply with at least one prefix lacks it. A prefix with a bad status
code (RFC 8415 section 21.22) is one that the reply does not have. Lifetimes are the message's, not
counted down, which is why TIMEOUT6 is no reply: its ``new_`` is the lease of before (section 7.7
for infinity; a preferred lifetime above the valid one is invalid by section 21.22).
"""

from collections.abc import Iterable
from ipaddress import IPv6Network
from itertools import pairwise
from typing import NamedTuple

from pdreactor import prefix
from pdreactor.errors import Refused
from pdreactor.model import INFINITE, Delegation, Event, Uplink
from pdreactor.reasons import LEASE, kind_of

MAX_BLOCK = 64 * 1024
"""Bytes. Real blocks have one to two KiB; a DHCPv6 reply fits into a UDP datagram of 64 KiB, and
execve(2) would take 128 KiB for one variable and megabytes for all of them."""

MAX_PREFIXES = 8
"""Valid prefixes of one uplink in one reply: the conntrack mark has three bits to tell them."""

LONGEST_INTERFACE = 15  # IFNAMSIZ - 1

Variables = list[tuple[str, str]]


def reason_of(variables: Variables) -> str:
    """dhcpcd's reason; empty when there is none, which is no call of dhcpcd's."""
    return first(variables, "reason") or ""


def interface_of(variables: Variables) -> str:
    """The kernel's name of the interface; Refused when there is none, or none that a kernel has.

    After dhcpcd 10.3.2 that is ``ifxname``, and ``interface`` is a form that is safe in file names.
    """
    name = first(variables, "ifxname") or first(variables, "interface") or ""
    printable = name.isascii() and name.isprintable()
    if not (printable and 0 < len(name) <= LONGEST_INTERFACE) or name in (".", ".."):
        raise Refused(f"{prefix.shown(name)} is not the name of an interface")
    if any(character in " /:\"'\\`$%*" for character in name):
        raise Refused(f"interface name {prefix.shown(name)} has a character that is not allowed")
    return name


# ---- the raw block ---------------------------------------------------------------------------


def parse_environ(block: bytes) -> Variables:
    """NUL-separated NAME=value; order and duplicates are kept, bytes beyond ASCII become \\xNN."""
    if len(block) > MAX_BLOCK:
        raise Refused(f"environment of {len(block)} bytes is larger than {MAX_BLOCK}")
    variables = []
    for entry in block.split(b"\0"):
        name, equals, value = entry.decode("ascii", "backslashreplace").partition("=")
        if name and equals:
            variables.append((name, value))
    return variables


def first(variables: Variables, name: str) -> str | None:
    """The value of a name where it stands first, as getenv(3) has it; None without it."""
    return next((value for known, value in variables if known == name), None)


class _Item(NamedTuple):
    """One prefix as the block has it, nothing checked."""

    name: str
    iaid: str | None  # None: the block does not tell
    fields: list[tuple[str, str]]  # "" is the address


def _items(variables: Variables, side: str) -> list[_Item]:
    """The prefixes of ``new`` or ``old`` in order, each with the iaid that it belongs to."""
    ours = list(_ours(variables, f"{side}_dhcp6_ia_pd"))
    iaids: dict[str, list[str]] = {}
    for number, name, value in ours:
        if name == "iaid":
            iaids.setdefault(number, []).append(value)
    items: dict[tuple[str, int, str], _Item] = {}
    for number, place, name, value in _placed(ours, iaids):
        index, _, field = name.removeprefix("prefix").partition("_")
        iaid = iaids[number][place - 1] if place else None
        item = _Item(f"{side}_dhcp6_ia_pd{number}_prefix{index}", iaid, [])
        if name.startswith("prefix") and _counts(index):
            items.setdefault((number, place, index), item).fields.append((field, value))
    return list(items.values())


def _ours(variables: Variables, head: str) -> Iterable[tuple[str, str, str]]:
    """(N, the name behind it, value) of the IA_PD variables."""
    for name, value in variables:
        if name.startswith(head):
            number, _, rest = name.removeprefix(head).partition("_")
            if _counts(number):
                yield number, rest, value


def _placed(
    ours: list[tuple[str, str, str]], iaids: dict[str, list[str]]
) -> Iterable[tuple[str, int, str, str]]:
    """The same with the place (from 1) of the iaid before each, 0 where there is none.

    An N with one iaid only needs no order: it is in place 1 wherever it stands.
    """
    seen = {number: 1 for number, values in iaids.items() if len(values) == 1}
    for number, name, value in ours:
        if name == "iaid" and len(iaids[number]) > 1:
            seen[number] = seen.get(number, 0) + 1
        yield number, seen.get(number, 0), name, value


def _counts(text: str) -> bool:
    """True for the N and M of a name."""
    return text.isascii() and text.isdecimal()


# ---- one prefix ------------------------------------------------------------------------------


def _delegated(item: _Item) -> bool:
    """False when a status code says that the server did not delegate it."""
    return not any(field == "status_code" and value != "0" for field, value in item.fields)


def _text(item: _Item, field: str) -> str | None:
    """The value of a field; the same name with two values is refused."""
    values = {value for known, value in item.fields if known == field}
    if len(values) > 1:
        raise Refused(f"{field or 'address'} is there twice, with different values")
    return values.pop() if values else None


def _needed(item: _Item, field: str) -> str:
    text = _text(item, field)
    if text is None:
        raise Refused(f"{field or 'address'} is missing")
    return text


def _lifetimes(item: _Item) -> tuple[int | None, int | None]:
    preferred = prefix.parse_decimal(_needed(item, "pltime"), "preferred lifetime", INFINITE)
    valid = prefix.parse_decimal(_needed(item, "vltime"), "valid lifetime", INFINITE)
    if preferred > valid:
        raise Refused(f"preferred lifetime {preferred} is longer than the valid one, {valid}")
    return (
        None if preferred == INFINITE else preferred,
        None if valid == INFINITE else valid,
    )


def _hex(text: str, what: str) -> bytes:
    digits = text.isascii() and text.isalnum()  # fromhex() skips blanks
    try:
        return bytes.fromhex(text if digits else "?")
    except ValueError:
        raise Refused(f"{what} {prefix.shown(text)} is not hexadecimal") from None


def _iaid(item: _Item) -> int | None:
    if item.iaid is None:
        return None
    octets = _hex(item.iaid, "iaid")
    if len(octets) != 4:
        raise Refused(f"iaid {prefix.shown(item.iaid)} has not four octets")
    return int.from_bytes(octets, "big")


def _excluded(item: _Item, network: IPv6Network) -> IPv6Network | None:
    length = _text(item, "pd_exclude_prefix_len")
    subnet_id = _text(item, "pd_exclude_subnetID")
    if length is None and subnet_id is None:
        return None
    bits = prefix.parse_decimal(length or "", "excluded prefix length", 128)
    return prefix.excluded(network, bits, _hex(subnet_id or "", "excluded subnet ID"))


def _parse(item: _Item, uplink: Uplink) -> Delegation | None:
    """The prefix, checked; None when it belongs to another IA_PD than the uplink's."""
    try:
        iaid = _iaid(item)
        if uplink.iaid not in (None, iaid):
            return None
        network = prefix.parse_network(_needed(item, ""), _needed(item, "length"), mask=True)
        prefix.acceptable(network, min_length=uplink.min_length, max_length=uplink.max_length)
        return Delegation(network, iaid, *_lifetimes(item), _excluded(item, network))
    except Refused as refusal:
        name = prefix.shown(item.name).replace("'", "")
        raise Refused(f"{name}: {refusal}") from None


# ---- the reply -------------------------------------------------------------------------------


def event_for(variables: Variables, uplink: Uplink) -> Event:
    """What this call says about one uplink on its interface; Refused changes nothing at all.

    ``delegations`` is None when there is no reply for this uplink: no LEASE reason, no ``new_``
    prefix, or only prefixes of other IA_PDs (servers may answer them one by one), unless the reply
    before had some for this one: then they are ``withdrawn``, and ``delegations`` is empty.
    ``withdrawn`` has what only the reply before had, also what that one had at lifetime 0.
    """
    reason, interface = reason_of(variables), interface_of(variables)
    items = [item for item in _items(variables, "new") if _delegated(item)]
    if kind_of(reason) != LEASE or not items:
        return Event(reason, interface)
    new = _checked([found for item in items if (found := _parse(item, uplink))])
    networks = {delegation.network for delegation in new}
    withdrawn = tuple(gone for gone in _old(variables, uplink) if gone.network not in networks)
    return Event(reason, interface, new if new or withdrawn else None, withdrawn)


def _old(variables: Variables, uplink: Uplink) -> tuple[Delegation, ...]:
    """The reply before. What is bad in it was refused when it was new."""
    old: dict[IPv6Network, Delegation] = {}
    for item in _items(variables, "old"):
        try:
            found = _parse(item, uplink) if _delegated(item) else None
        except Refused:
            continue
        if found:
            old.setdefault(found.network, found)
    return tuple(old.values())


def _checked(delegations: list[Delegation]) -> tuple[Delegation, ...]:
    """One of each prefix; Refused when they contradict each other or are too many."""
    by_network: dict[IPv6Network, Delegation] = {}
    for delegation in delegations:
        first = by_network.setdefault(delegation.network, delegation)
        if first._replace(iaid=None) != delegation._replace(iaid=None):
            raise Refused(f"{delegation.network} is there twice, with different values")
    _check_together([one.network for one in by_network.values() if one.valid != 0])
    return tuple(by_network.values())


def _check_together(networks: list[IPv6Network]) -> None:
    """For valid prefixes only: a server may resize one by taking the old one back with 0."""
    if len(networks) > MAX_PREFIXES:
        raise Refused(f"{len(networks)} prefixes in one reply, more than {MAX_PREFIXES}")
    for lower, higher in pairwise(sorted(networks)):
        if lower.overlaps(higher):
            raise Refused(f"{lower} and {higher} overlap in one reply")
