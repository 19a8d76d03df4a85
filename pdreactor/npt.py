"""Checksum-neutral prefix translation (RFC 6296), as Linux does it. Pure.

The prefix is exchanged, and one 16-bit word of the rest takes up what that changes in the sum of
all words. So the checksums of TCP, UDP and ICMPv6 stay right, though nobody rewrites them. Words
are counted from 0, as in the kernel's ``s6_addr16``.

The kernel's SNPT and DNPT (net/ipv6/netfilter/ip6t_NPT.c) are the same mapping with the prefixes
exchanged. Where it is more lenient than the RFC so are we, for this tells what packets carry: an
interface identifier of zeros is translated (section 3.7 wants an error), and subnet 0xffff of a /48
is taken for subnet 0, so that only one of the two can be gone back to.
"""

from ipaddress import IPv6Address, IPv6Network

from .errors import Refused
from .prefix import rebase

LONGEST = 64
"""Prefix length: ip6t_npt_checkentry() takes no longer one."""
ONES = 0xFFFF
"""One's complement has two zeros, 0 and this: its sums are those modulo 0xffff, and since
2**16 % 0xffff is 1 any number modulo 0xffff is the sum of its words (RFC 1071 section 1)."""


def adjustment(internal: IPv6Network, external: IPv6Network) -> int:
    """What is added to a word when ``internal`` becomes ``external``: 0 to 0xfffe (section 3.1).

    Raises ValueError for lengths that differ (Linux would take the longer one) or exceed 64.
    """
    if internal.prefixlen != external.prefixlen or internal.prefixlen > LONGEST:
        raise ValueError(f"no RFC 6296 mapping between {internal} and {external}")
    return (int(internal.network_address) - int(external.network_address)) % ONES


def translate(
    address: IPv6Address, source_prefix: IPv6Network, target_prefix: IPv6Network
) -> IPv6Address:
    """The address of ``source_prefix`` as it is in ``target_prefix`` (sections 3.2 and 3.3).

    Raises Refused for an address that no packet can carry across; ValueError as ``adjustment``
    does, and for an address outside ``source_prefix``.
    """
    added = adjustment(source_prefix, target_prefix)
    moved = int(rebase(address, source_prefix, target_prefix))
    at = _adjusted(address, source_prefix.prefixlen)
    word = _word(moved, at)
    return IPv6Address(moved + (((word + added) % ONES - word) << _shift(at)))


def _adjusted(address: IPv6Address, length: int) -> int:
    """Number of the word that takes the adjustment (sections 3.4 and 3.5)."""
    if length <= 48:
        return 3
    for at in range(4, 8):
        if _word(int(address), at) != ONES:
            return at
    raise Refused(f"{address} has only ones in its last 64 bits: RFC 6296 cannot translate it "
                  f"(section 3.5), and its packets are dropped; give the host another address")


def _word(address: int, at: int) -> int:
    return address >> _shift(at) & ONES


def _shift(at: int) -> int:
    return 112 - 16 * at
