"""conntrack through pyroute2's nfnetlink socket: nf_conntrack_netlink.c.

Flows are removed by a flush that the kernel filters by mark: at 100,000 entries that is many times
faster than reading them. ``NFCTSocket`` is told the family, because its default is AF_INET.
"""

import errno
import socket
import struct
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from .rtnl import Connection  # first: it explains a missing pyroute2

from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket  # isort: skip


def flush(marks: Iterable[tuple[int, int]]) -> int:
    """Remove every IPv6 flow that has one of these (mark, mask); returns how many there were."""
    connection, number = _connection(), 0
    try:
        for mark, mask in marks:
            if mark & mask:  # 0 would be every flow that is not ours
                number += marked(mark, mask)
                connection.ask(partial(NFCTSocket.flush, mark=mark, mark_mask=mask),
                               f"remove the flows with conntrack mark {mark:#010x}")
    finally:
        connection.close()
    return number


def _connection() -> Connection:
    return Connection(partial(NFCTSocket, nfgen_family=socket.AF_INET6), "conntrack")


CT_GET, CT_NEW = 0x101, 0x100
"""NFNL_SUBSYS_CTNETLINK with IPCTNL_MSG_CT_GET and IPCTNL_MSG_CT_NEW."""
CTA_MARK, CTA_MARK_MASK = 8, 21
REQUEST_DUMP = 0x301
NETLINK_NETFILTER = 12


def marked(mark: int, mask: int) -> int:
    """How many IPv6 flows have that mark: a dump that the kernel filters, of which nothing is read
    but where each message begins. 0 when the kernel does not tell."""
    filters = b"".join(struct.pack("=HH", 8, kind) + struct.pack("!I", value)
                       for kind, value in ((CTA_MARK, mark), (CTA_MARK_MASK, mask)))
    request = struct.pack("=IHHIIBBH", 20 + len(filters), CT_GET, REQUEST_DUMP, 1, 0,
                          socket.AF_INET6, 0, 0) + filters
    number, kind = 0, CT_NEW
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
        sock.settimeout(5)
        try:
            sock.send(request)
            while kind == CT_NEW:
                data, at = sock.recv(1 << 17), 0
                while at < len(data):
                    length, kind = struct.unpack_from("=IH", data, at)
                    number += kind == CT_NEW
                    at += max((length + 3) & ~3, 16)
        except OSError:
            return 0
    return number


MOST_READ = 20_000
"""Entries. Reading more takes pyroute2 seconds, and memory, while dhcpcd waits."""
WORLD = IPv6Network("2000::/3")


def remove_untranslated(internal: list[IPv6Network], near: list[IPv6Network],
                        leaves: Callable[[IPv6Address], bool]) -> int:
    """Remove flows between ``internal`` and the world (not ``near``, and only what
    ``leaves`` by an uplink) whose other direction has the very same addresses. A stamp
    does not count: a flow without an answer gets one from its next packet, and no translation.

    Returns how many; -1 when there is too much to read.
    """
    if _count() > MOST_READ:
        return -1
    connection = _connection()
    try:
        entries = connection.dump(NFCTSocket.dump, "read the conntrack entries")
        found = [tup for entry in entries
                 if (peer := _peer(entry, internal, near)) and leaves(peer)
                 and (tup := _tuple(entry))]
        for tup in found:  # fine: it ended by itself
            connection.ask(partial(NFCTSocket.entry, cmd="del", tuple_orig=tup),
                           "remove a conntrack entry", (errno.ENOENT,))
        return len(found)
    finally:
        connection.close()


def _count() -> int:
    with open("/proc/sys/net/netfilter/nf_conntrack_count", encoding="ascii") as file:
        return int(file.read())


def _peer(entry: Any, internal: list[IPv6Network], near: list[IPv6Network]) -> IPv6Address | None:
    """The far end of a flow that is not translated."""
    ends, back = _addresses(entry, "CTA_TUPLE_ORIG"), _addresses(entry, "CTA_TUPLE_REPLY")
    if not ends or back != ends[::-1]:
        return None
    for here, there in (ends, ends[::-1]):
        if (there in WORLD and any(here in net for net in internal)
                and not any(there in net for net in near)):
            return there
    return None


def _addresses(entry: Any, direction: str) -> tuple[IPv6Address, ...]:
    """(source, destination) of a flow in one direction; nothing of IPv4."""
    found = entry.get_attr(direction)
    texts = [found.get_attr("CTA_TUPLE_IP").get_attr(name)
             for name in ("CTA_IP_V6_SRC", "CTA_IP_V6_DST")] if found else []
    return tuple(map(IPv6Address, texts)) if all(texts) else ()


def _tuple(entry: Any) -> NFCTAttrTuple | None:
    """What names a flow when it is deleted. pyroute2 loses the ports of other protocols than
    these: their deletion would be a wild one."""
    orig = entry.get_attr("CTA_TUPLE_ORIG")
    protocol = orig.get_attr("CTA_TUPLE_PROTO").get_attr("CTA_PROTO_NUM")
    if protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMPV6):
        return None
    return NFCTAttrTuple.from_netlink(socket.AF_INET6, orig)
