"""How a flow's stamp (uplink, prefix generation, direction) is packed into the conntrack mark.

Only the bits of ``[firewall] ct_mark_mask`` are ours. From the lowest of them upwards::

    default 0x0ff00000:   uuuu ggg d
                          |    |   +- 1: the flow began outside (or is a hairpin); it is served
                          |    |      until its prefix's valid lifetime ends
                          |    +----- generation of the prefix on its uplink
                          +---------- number of the uplink, from 1; 0 = not stamped

Conntrack marks and a flush filtered by them: nf_conntrack_netlink.c, CTA_MARK and CTA_MARK_MASK.
"""

from .model import Stamp


def _widths(mask: int) -> tuple[int, int]:
    """(uplink bits, generation bits) of a mask."""
    spare = mask.bit_count() - 1
    return spare - spare // 2, spare // 2


def _shift(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def generations(mask: int) -> int:
    """How many prefixes of one uplink can be told apart at a time."""
    return 1 << _widths(mask)[1]


def uplinks(mask: int) -> int:
    """How many uplinks can be told apart."""
    return (1 << _widths(mask)[0]) - 1


def pack(stamp: Stamp, mask: int) -> int:
    """The mark bits of a stamp, in place below the mask; ValueError when they do not fit."""
    _, generation_bits = _widths(mask)
    if not 0 < stamp.uplink <= uplinks(mask) or not 0 <= stamp.generation < generations(mask):
        raise ValueError(f"{stamp} does not fit into ct_mark_mask {mask:#010x}")
    bits = (stamp.uplink << generation_bits | stamp.generation) << 1 | stamp.inbound
    return bits << _shift(mask)


def unpack(mark: int, mask: int) -> Stamp | None:
    """The stamp in a conntrack mark, or None for a flow that is not ours."""
    _, generation_bits = _widths(mask)
    bits = (mark & mask) >> _shift(mask)
    uplink = bits >> 1 + generation_bits
    if not uplink:
        return None
    return Stamp(uplink, bits >> 1 & generations(mask) - 1, bool(bits & 1))


def staying(number: int, mask: int) -> tuple[int, int]:
    """(mark, mask) of packets from inside that belong to a flow by this uplink: in the packet mark
    only the uplink counts, and the lowest bit, which other uses of the mark have set."""
    value, which = of_uplink(number, mask)
    return value, which | mask & -mask


def of_uplink(number: int, mask: int) -> tuple[int, int]:
    """(mark, mask) that match every flow of one uplink."""
    below = 1 + _widths(mask)[1] + _shift(mask)
    return pack(Stamp(number, 0, False), mask), mask >> below << below
