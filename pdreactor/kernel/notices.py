"""What the kernel tells of its own accord: changes of links, addresses, routes and rules
(rtnetlink(7)) and of nftables (linux/netfilter/nf_tables.h, NFNLGRP_NFTABLES).

Read from bare sockets: of most messages only the header matters, and a router with a full routing
table sees thousands of them.
"""

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from .netlink import attributes

LINK_GROUPS = 1 << 0 | 1 << 4 | 1 << 8 | 1 << 10 | 1 << 18
"""RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE."""
NFT_GROUP = 1 << 6
"""NFNLGRP_NFTABLES."""
NETLINK_NETFILTER = 12
SO_RCVBUFFORCE = 33
BUFFER = 4 << 20
MOST = 20_000
"""Messages that are read at once; what comes faster counts as a change of everything."""

RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR = 16, 17, 20, 21
RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWRULE, RTM_DELRULE = 24, 25, 32, 33
IFLA_IFNAME = 3
IFADDR, IFA_ADDRESS, DADFAILED = struct.Struct("=BBBBI"), 1, 0x08
"""linux/if_addr.h: struct ifaddrmsg, IFA_F_DADFAILED."""
IFF_UP, IFF_RUNNING = 0x1, 0x40
RT_TABLE_COMPAT, RT_TABLE_MAIN = 252, 254
RTPROT_KERNEL = 2
"""rtm_protocol of routes to what is on a link, by an address or an advertisement."""
REJECTING = (6, 7, 8)
"""rtm_type: blackhole, unreachable, prohibit."""
CLONED = 0x200
"""rtm_flags RTM_F_CLONED: a cache entry, not a route."""

NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWGEN = 15
NFTA_TABLE = 1
"""The attribute that names the table, whatever the object: NFTA_TABLE_NAME, NFTA_RULE_TABLE ..."""
NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME = 2, 3


class Interest(NamedTuple):
    """What matters."""

    interfaces: frozenset[str]
    protocol: int  # of our routes and rules
    tables: frozenset[int]  # where we have routes
    nftables: frozenset[str]  # names of the tables of family ip6 where we have rules
    everywhere: bool = False  # all links, what is on them, and IPv4 addresses


class News(NamedTuple):
    """What has changed of it. ``by`` is who changed nftables last, for people."""

    rules: bool = False  # of nftables, or routes and rules where ours are
    link: bool = False  # an interface, its addresses, or how it can be left
    by: str = ""
    duplicate: str = ""  # an address that another node has; the kernel has removed it for that

    def __bool__(self) -> bool:
        return self.rules or self.link

    def together(self, later: "News") -> "News":
        """Both."""
        return News(self.rules or later.rules, self.link or later.link, later.by or self.by,
                    later.duplicate or self.duplicate)


class Notices:
    """Two sockets that listen. Raises OSError when they cannot be opened."""

    def __init__(self, interest: Interest) -> None:
        self.interest = interest
        self._links: dict[int, tuple[str, int]] = {}
        self.sockets = (_listen(socket.NETLINK_ROUTE, LINK_GROUPS),
                        _listen(NETLINK_NETFILTER, NFT_GROUP))

    def close(self) -> None:
        """Listen no more."""
        for sock in self.sockets:
            sock.close()

    def read(self) -> News:
        """All that has come. When the kernel had to drop some of it (ENOBUFS), all has changed."""
        news = News()
        for sock, judge in zip(self.sockets, (self._route, self._nftables), strict=True):
            for kind, payload in _messages(sock):
                one = judge(kind, payload) if kind >= 0 else News(True, True)
                news = news.together(one)
        return news

    # ---- rtnetlink -------------------------------------------------------------------------

    def _route(self, kind: int, payload: bytes) -> News:
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            return News(link=self._link(kind, payload))
        if kind in (RTM_NEWADDR, RTM_DELADDR):
            return self._address(kind, payload)
        if kind in (RTM_NEWROUTE, RTM_DELROUTE):
            return self._one_route(payload)
        return News(rules=kind in (RTM_NEWRULE, RTM_DELRULE))

    def _address(self, kind: int, payload: bytes) -> News:
        """One with a lifetime goes when another node has it (addrconf.c addrconf_dad_stop); to put
        it there again at once would be no good."""
        family, _, flags, _, index = IFADDR.unpack_from(payload)
        name = _name(index)
        if not self.interest.everywhere:
            return News(link=family == socket.AF_INET6
                        and name in (*self.interest.interfaces, ""))
        address = dict(attributes(payload, IFADDR.size)).get(IFA_ADDRESS, b"")
        if kind == RTM_DELADDR and flags & DADFAILED and len(address) == 16:
            return News(duplicate=f"{socket.inet_ntop(family, address)} on {name}")
        return News(link=True)

    def _link(self, kind: int, payload: bytes) -> bool:
        """Whether an interface of ours came, went, or has another state than the last time."""
        index, flags = struct.unpack_from("=iI", payload, 4)
        name = _text(dict(attributes(payload, 16)).get(IFLA_IFNAME, b""))
        before = self._links.pop(index, ("", -1))
        now = ("", -1)
        if kind == RTM_NEWLINK:
            now = self._links[index] = name, flags & (IFF_UP | IFF_RUNNING)
        return before != now and (self.interest.everywhere
                                  or bool({before[0], name} & self.interest.interfaces))

    def _one_route(self, payload: bytes) -> News:
        length, table, protocol, kind = struct.unpack_from("=BxxBBxB", payload, 1)
        if struct.unpack_from("=I", payload, 8)[0] & CLONED:
            return News()
        main = table == RT_TABLE_MAIN
        ours = (protocol == self.interest.protocol or table in self.interest.tables
                or table == RT_TABLE_COMPAT or (main and kind in REJECTING))
        nearby = length == 0 or (self.interest.everywhere and protocol == RTPROT_KERNEL)
        return News(rules=ours, link=main and nearby and not ours)

    # ---- nftables --------------------------------------------------------------------------

    def _nftables(self, kind: int, payload: bytes) -> News:
        subsystem, message = divmod(kind, 256)
        if subsystem != NFNL_SUBSYS_NFTABLES:
            return News()
        known = dict(attributes(payload, 4))
        if message == NFT_MSG_NEWGEN:
            return News(by=_process(known))
        return News(rules=payload[0] == socket.AF_INET6
                    and _text(known.get(NFTA_TABLE, b"")) in self.interest.nftables)


def _listen(protocol: int, groups: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    except OSError:
        pass  # without CAP_NET_ADMIN: the usual size has to do
    sock.bind((0, groups))
    return sock


def _messages(sock: socket.socket) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of each message that waits; type -1 when some were lost."""
    for _ in range(MOST):
        try:
            data, (sender, *_) = sock.recvfrom(1 << 17)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS (netlink(7))
            yield -1, b""
            continue
        if sender == 0:  # the kernel, and nobody who can send to us
            yield from _split(data)
    yield -1, b""


def _split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages of one datagram (struct nlmsghdr)."""
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < 16:
            return
        yield kind, data[at + 16:at + length]
        at += (length + 3) & ~3


def _process(known: dict[int, bytes]) -> str:
    """Who made a transaction of nftables; nothing when it was this process."""
    number = int.from_bytes(known.get(NFTA_GEN_PROC_PID, b""), "big")
    name = _text(known.get(NFTA_GEN_PROC_NAME, b""))
    return f"{name} (process {number})" if number and number != os.getpid() else ""


def _text(value: bytes) -> str:
    return value.split(b"\0")[0].decode("ascii", "replace")


def _name(index: int) -> str:
    """The interface; nothing when it has gone, which may have been any."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""
