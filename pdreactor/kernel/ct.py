"""conntrack through pyroute2's nfnetlink socket: nf_conntrack_netlink.c.

Flows are removed by a flush that the kernel filters by mark: at 100,000 entries that is many times
faster than reading them. ``NFCTSocket`` is told the family, because its default is AF_INET.
"""

import errno
import socket
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from .retry import persistently
from .rtnl import dumped, explained  # first: it explains a missing pyroute2

from pyroute2.netlink.exceptions import NetlinkError  # isort: skip
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket  # isort: skip


def flush(marks: Iterable[tuple[int, int]]) -> None:
    """Remove every IPv6 flow that has one of these (mark, mask)."""
    sock = NFCTSocket(nfgen_family=socket.AF_INET6)
    try:
        for mark, mask in marks:
            if mark & mask:  # 0 would be every flow that is not ours
                persistently(partial(_flush, sock, mark, mask))
    finally:
        sock.close()


def _flush(sock: NFCTSocket, mark: int, mask: int) -> None:
    try:
        sock.flush(mark=mark, mark_mask=mask)
    except NetlinkError as exc:
        raise explained(exc, f"remove the flows with conntrack mark {mark:#010x}") from exc


MOST_READ = 20_000
"""Entries. Reading more takes pyroute2 seconds, and memory, while dhcpcd waits."""
WORLD = IPv6Network("2000::/3")


def remove_untranslated(internal: list[IPv6Network], near: list[IPv6Network], mask: int,
                        leaves: Callable[[IPv6Address], bool]) -> int:
    """Remove unstamped flows from ``internal`` to the world (not to ``near``, and only what
    ``leaves`` by an uplink) whose answers come back to the internal address.

    Returns how many; -1 when there is too much to read.
    """
    if _count() > MOST_READ:
        return -1
    sock = NFCTSocket(nfgen_family=socket.AF_INET6)
    try:
        found = [tup for entry in dumped(sock.dump, "read the conntrack entries")
                 if not (entry.get_attr("CTA_MARK") or 0) & mask
                 and (tup := _untranslated(entry, internal, near))
                 and leaves(IPv6Address(tup.daddr))]
        for tup in found:
            _delete(sock, tup)
        return len(found)
    finally:
        sock.close()


def _count() -> int:
    with open("/proc/sys/net/netfilter/nf_conntrack_count", encoding="ascii") as file:
        return int(file.read())


def _untranslated(entry: Any, internal: list[IPv6Network],
                  near: list[IPv6Network]) -> NFCTAttrTuple | None:
    orig, reply = entry.get_attr("CTA_TUPLE_ORIG"), entry.get_attr("CTA_TUPLE_REPLY")
    if orig is None or reply is None or not orig.get_attr("CTA_TUPLE_IP").get_attr("CTA_IP_V6_SRC"):
        return None
    source, target = (IPv6Address(orig.get_attr("CTA_TUPLE_IP").get_attr(name))
                      for name in ("CTA_IP_V6_SRC", "CTA_IP_V6_DST"))
    back = IPv6Address(reply.get_attr("CTA_TUPLE_IP").get_attr("CTA_IP_V6_DST"))
    stray = (source == back and target in WORLD and any(source in net for net in internal)
             and not any(target in net for net in near))
    protocol = orig.get_attr("CTA_TUPLE_PROTO").get_attr("CTA_PROTO_NUM")
    if not stray or protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP,
                                     socket.IPPROTO_ICMPV6):
        return None  # pyroute2 loses the ports of others: their deletion would be a wild one
    return NFCTAttrTuple.from_netlink(socket.AF_INET6, orig)


def _delete(sock: NFCTSocket, tup: NFCTAttrTuple) -> None:
    try:
        sock.entry("del", tuple_orig=tup)
    except NetlinkError as exc:
        if exc.code != errno.ENOENT:  # it ended by itself
            raise explained(exc, "remove a conntrack entry") from exc
