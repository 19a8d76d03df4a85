"""Links, addresses and proxy neighbours through pyroute2: rtnetlink(7). Beside rtnl.py, which has
routes and rules; takes its open socket."""

import socket
import struct
import sys
import time
from collections.abc import Iterable
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from ..layout.model import Address, Link, Neighbour, SeenAddress, SeenLink
from . import batch
from .batch import Failures as Failures
from .netlink import HEADER, attributes, dumped
from .rtnl import GETROUTE, ROUTE, AddressMessage, NeighbourMessage, Rtnl

ALIAS = "pdreactor"
"""IFLA_IFALIAS of the links that we made: no other is changed or deleted."""
NTF_PROXY = 0x8
IFF_UP = 0x1
FOREVER = 0xFFFFFFFF
ANY = IPv4Address(0)
IPPROTO_IPV6, ARPHRD_ETHER = 41, 1
NOT_6RD = IPv6Network("2002::/16"), IPv4Network("0.0.0.0/0")
"""What a tunnel has that is not for 6rd: the values of 6to4 (net/ipv6/sit.c)."""
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
NOPREFIXROUTE = 0x200
"""IFA_FLAGS: else the kernel adds a route that outlives the address when that has a lifetime
(addrconf.c ipv6_del_addr); routes on the link are ours."""


# ---- links -------------------------------------------------------------------------------------


def links(rtnl: Rtnl) -> dict[str, SeenLink]:
    """All links, by name; but those whose name is no line of text: the kernel takes nearly all
    octets, and no pattern is to match what can be written down nowhere."""
    found = {}
    for message in rtnl.connection.dump(lambda ip: ip.get_links(), "read the links"):
        name = message.get_attr("IFLA_IFNAME")
        if not isinstance(name, str) or not name.isprintable():
            continue
        found[name] = SeenLink(_link(name, message), message.get_attr("IFLA_IFALIAS") == ALIAS,
                               bool(message["flags"] & IFF_UP),
                               _mac(message), _is_port(message))
    return found


def _is_port(message: Any) -> bool:
    """Of a bridge, a bond and the like; a member of a VRF has addresses of its own."""
    info = message.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_SLAVE_KIND") if info else None
    return bool(message.get_attr("IFLA_MASTER")) and kind != "vrf"


def _mac(message: Any) -> bytes:
    """Of Ethernet and the like; empty of others: pyroute2 makes six octets of any address."""
    text = message.get_attr("IFLA_ADDRESS") if message["ifi_type"] == ARPHRD_ETHER else None
    try:
        return bytes.fromhex((text or "").replace(":", ""))
    except ValueError:
        return b""


def _link(name: str, message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info else None) or ""
    mtu = message.get_attr("IFLA_MTU") or 0
    data = info.get_attr("IFLA_INFO_DATA") if info and kind == "sit" else None
    if data is None:
        return Link(name, kind, mtu)
    local, remote = (IPv4Address(data.get_attr(f"IFLA_SIT_{end}") or 0)
                     for end in ("LOCAL", "REMOTE"))
    return Link(name, kind, mtu, None if local == ANY else local,
                None if remote == ANY else remote, data.get_attr("IFLA_SIT_TTL") or 0,
                _sixrd(data))


def _sixrd(data: Any) -> tuple[IPv6Network, IPv4Network] | None:
    """None for ``NOT_6RD``, what the kernel begins with."""
    prefix = data.get_attr("IFLA_SIT_6RD_PREFIX")
    if prefix is None:
        return None
    six = IPv6Network((prefix, data.get_attr("IFLA_SIT_6RD_PREFIXLEN") or 0), strict=False)
    four = IPv4Network((data.get_attr("IFLA_SIT_6RD_RELAY_PREFIX") or 0,
                        data.get_attr("IFLA_SIT_6RD_RELAY_PREFIXLEN") or 0), strict=False)
    return None if (six, four) == NOT_6RD else (six, four)


def make(rtnl: Rtnl, link: Link) -> None:
    """Add a link, then mark it as ours: the kernel takes no alias with a new one."""
    rtnl.do("link", "add", {"ifname": link.name, **_request(link)},
            f"link {link.name} of kind {link.kind}")
    _raise(rtnl, link)


def change(rtnl: Rtnl, link: Link) -> None:
    """Give a link of ours other values, in place."""
    request = {"index": rtnl.index(link.name), **_request(link)}
    rtnl.do("link", "set", request, f"link {link.name}")
    _raise(rtnl, link)


def _raise(rtnl: Rtnl, link: Link) -> None:
    request: dict[str, Any] = {"index": rtnl.index(link.name), "state": "up", "ifalias": ALIAS}
    if link.mtu:
        request["mtu"] = link.mtu
    rtnl.do("link", "set", request, f"link {link.name}")


def delete(rtnl: Rtnl, name: str) -> None:
    """Remove a link of ours; its addresses and routes go with it."""
    if index := rtnl.index(name):
        rtnl.do("link", "del", {"index": index}, f"link {name}")


def _request(link: Link) -> dict[str, Any]:
    """All of its values: what is not told becomes 0, or in 6rd stays (ipip6_changelink)."""
    if link.kind != "sit":
        return {"kind": link.kind}
    request: dict[str, Any] = {
        "kind": "sit", "sit_local": str(link.local or ANY), "sit_remote": str(link.remote or ANY),
        "sit_ttl": link.ttl, "sit_pmtudisc": 1 if link.ttl else 0, "sit_proto": IPPROTO_IPV6,
    }  # fmt: skip
    six, four = link.sixrd or NOT_6RD
    return request | {
        "sit_6rd_prefix": str(six.network_address), "sit_6rd_prefixlen": six.prefixlen,
        "sit_6rd_relay_prefix": str(four.network_address), "sit_6rd_relay_prefixlen": four.prefixlen
    }  # fmt: skip


# ---- addresses ---------------------------------------------------------------------------------


def ipv4(rtnl: Rtnl) -> dict[str, tuple[IPv4Address, ...]]:
    """The IPv4 addresses of each interface, the primary one first."""
    found: dict[str, list[IPv4Address]] = {}
    names = _names(rtnl)
    for message in rtnl.connection.dump(
            lambda ip: ip.get_addr(family=socket.AF_INET), "read the addresses"):
        local = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if local and (name := names.get(message["index"])):
            found.setdefault(name, []).append(IPv4Address(local))
    return {name: tuple(among) for name, among in found.items()}


IFADDR, NDMSG = struct.Struct("=BBBBI"), struct.Struct("=BxxxiHBB")
"""linux/if_addr.h struct ifaddrmsg, linux/neighbour.h struct ndmsg."""
LIFETIMES = struct.Struct("=II")
"""Preferred, valid: the beginning of linux/if_addr.h struct ifa_cacheinfo."""
IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS, IFA_PROTO, NDA_DST = 1, 2, 6, 8, 11, 1
PROTO = struct.Struct("=HHB3x")
"""The attribute IFA_PROTO: Linux 5.18; older kernels ignore it, and so does pyroute2 0.7.2."""
ATTRIBUTE = 4
"""The size of the head of an attribute (struct nlattr)."""
DADFAILED = 0x08


def addresses(rtnl: Rtnl) -> list[SeenAddress]:
    """All global IPv6 addresses; lifetimes as points in time."""
    names, now = _names(rtnl), int(time.time())
    found = []
    request = IFADDR.pack(socket.AF_INET6, 0, 0, 0, 0)
    for message in dumped(RTM_GETADDR, request, "read the addresses"):
        _, length, _, _, index = IFADDR.unpack_from(message)
        known = dict(attributes(message, IFADDR.size))
        address = IPv6Address(known.get(IFA_LOCAL) or known[IFA_ADDRESS])
        name = names.get(index)
        if name is None or address.is_link_local or address.is_loopback:
            continue
        preferred, valid = LIFETIMES.unpack_from(known[IFA_CACHEINFO])
        flags = int.from_bytes(known.get(IFA_FLAGS, b""), sys.byteorder)
        one = Address(name, address, length, _until(preferred, now), _until(valid, now))
        found.append(SeenAddress(one, known.get(IFA_PROTO, b"\0")[0], bool(flags & DADFAILED)))
    return found


TICKS = 100
"""USER_HZ, in which the kernel tells how long a route lasts (linux/rtnetlink.h rta_cacheinfo)."""
RTA_DST, RTA_OIF, RTA_CACHEINFO = 1, 4, 12
EXPIRES = struct.Struct("=8xi")
"""rta_expires, of linux/rtnetlink.h struct rta_cacheinfo."""
RTM_F_PREFIX = 0x800
"""Only routes for prefixes that were advertised (net/ipv6/route.c rt6_dump_route)."""


def advertised(rtnl: Rtnl) -> list[Address]:
    """The prefixes of length 64 that router advertisements show on each link: the first address of
    each, with the valid lifetime for both: the preferred one only an address has."""
    names, now = _names(rtnl), int(time.time())
    found = []
    request = ROUTE.pack(socket.AF_INET6, *[0] * 7, RTM_F_PREFIX)
    for message in dumped(GETROUTE, request, "read the routes"):
        known = dict(attributes(message, ROUTE.size))
        name = names.get(int.from_bytes(known.get(RTA_OIF, b""), sys.byteorder))
        if message[1] == 64 and name and RTA_DST in known:
            ticks = EXPIRES.unpack_from(known.get(RTA_CACHEINFO, bytes(EXPIRES.size)))[0]
            until = now + max(ticks, 0) // TICKS if ticks else None
            found.append(Address(name, IPv6Address(known[RTA_DST]), 64, until, until))
    return found


def _until(seconds: int, now: int) -> int | None:
    return None if seconds == FOREVER else now + seconds


def put(rtnl: Rtnl, addresses: Iterable[Address], protocol: int) -> Failures:
    """Add addresses, or give those that are there other lifetimes. Returns what failed."""
    now, index = int(time.time()), cache(rtnl.index)

    @cache
    def sample(interface: str, length: int, preferred: int | None, valid: int | None) -> bytes:
        life = {"ifa_preferred": _left(preferred, now), "ifa_valid": max(1, _left(valid, now))}
        further = [("IFA_FLAGS", NOPREFIXROUTE), ("IFA_CACHEINFO", life)]
        return _sample(index(interface), length, further) + PROTO.pack(5, IFA_PROTO, protocol)

    return batch.make([
        batch.Request(RTM_NEWADDR, batch.REPLACE, _with(IFADDR.size, one.address, sample(
            one.interface, one.length, one.preferred_until, one.valid_until)), one)
        for one in addresses], lambda one: f"put the {_words(one)}")


def take(rtnl: Rtnl, addresses: Iterable[Address]) -> Failures:
    """Remove addresses; one that has gone is fine. Returns what failed."""
    index = cache(rtnl.index)
    sample = cache(lambda interface, length: _sample(index(interface), length, []))
    return batch.make([
        batch.Request(RTM_DELADDR, 0, _with(IFADDR.size, one.address,
                                            sample(one.interface, one.length)), one, batch.GONE)
        for one in addresses], lambda one: f"remove the {_words(one)}")


def _sample(index: int, length: int, further: list[tuple[str, Any]]) -> bytes:
    """A request about some address of that interface, as pyroute2 encodes it, without the
    header. Thousands differ in the address only."""
    message = AddressMessage()
    message["family"], message["prefixlen"], message["index"] = socket.AF_INET6, length, index
    message["attrs"] = [("IFA_ADDRESS", "::"), *further]
    message.encode()
    return bytes(message.data)[HEADER.size:]


def _with(fixed: int, address: IPv6Address, sample: bytes) -> bytes:
    """The sample about another address; it is the first attribute, behind the fixed part."""
    at = fixed + ATTRIBUTE
    return sample[:at] + address.packed + sample[at + 16:]


def _words(one: Address) -> str:
    return f"address {one.address}/{one.length} on {one.interface}"


def _left(until: int | None, now: int) -> int:
    return FOREVER if until is None else min(max(0, until - now), FOREVER - 1)


# ---- neighbours --------------------------------------------------------------------------------


def neighbours(rtnl: Rtnl) -> list[Neighbour]:
    """All proxy entries."""
    names = _names(rtnl)
    request = NDMSG.pack(socket.AF_INET6, 0, 0, NTF_PROXY, 0)
    found = []
    for message in dumped(RTM_GETNEIGH, request, "read the proxy entries"):
        _, index, _, flags, _ = NDMSG.unpack_from(message)
        known = dict(attributes(message, NDMSG.size))
        if index in names and flags & NTF_PROXY and len(known.get(NDA_DST, b"")) == 16:
            found.append(Neighbour(names[index], IPv6Address(known[NDA_DST])))
    return found


def answer(rtnl: Rtnl, command: str, entries: Iterable[Neighbour]) -> Failures:
    """Add ("add") or remove ("del") proxy entries. Returns what failed."""
    kind, flags, fine = {"add": (RTM_NEWNEIGH, batch.REPLACE, ()),
                         "del": (RTM_DELNEIGH, 0, batch.GONE)}[command]

    @cache
    def sample(interface: str) -> bytes:
        message = NeighbourMessage()
        message["family"], message["flags"] = socket.AF_INET6, NTF_PROXY
        message["ifindex"] = rtnl.index(interface)
        message["attrs"] = [("NDA_DST", "::")]
        message.encode()
        return bytes(message.data)[HEADER.size:]

    return batch.make([
        batch.Request(kind, flags, _with(NDMSG.size, one.address, sample(one.interface)), one, fine)
        for one in entries],
        lambda one: f"{command} the proxy entry {one.address} on {one.interface}")


def _names(rtnl: Rtnl) -> dict[int, str]:
    return dict(socket.if_nameindex())
