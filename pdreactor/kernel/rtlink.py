"""Links, addresses and proxy neighbours through pyroute2: rtnetlink(7). Beside rtnl.py, which has
routes and rules; takes its open socket."""

import socket
import time
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from ..layout.model import Address, Link, Neighbour, SeenLink
from .rtnl import Rtnl

ALIAS = "pdreactor"
"""IFLA_IFALIAS of the links that we made: no other is changed or deleted."""
NTF_PROXY = 0x8
IFF_UP = 0x1
FOREVER = 0xFFFFFFFF
ANY = IPv4Address(0)
IPPROTO_IPV6 = 41
NOPREFIXROUTE = 0x200
"""IFA_FLAGS: else the kernel adds a route that outlives the address when that has a lifetime
(addrconf.c ipv6_del_addr); routes on the link are ours."""


# ---- links -------------------------------------------------------------------------------------


def links(rtnl: Rtnl) -> dict[str, SeenLink]:
    """All links, by name."""
    found = {}
    for message in rtnl.connection.dump(lambda ip: ip.get_links(), "read the links"):
        name = message.get_attr("IFLA_IFNAME")
        found[name] = SeenLink(_link(name, message), message.get_attr("IFLA_IFALIAS") == ALIAS,
                               bool(message["flags"] & IFF_UP),
                               _octets(message.get_attr("IFLA_ADDRESS")))
    return found


def _octets(text: str | None) -> bytes:
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
    local, remote = (IPv4Address(data.get_attr(f"IFLA_IPTUN_{end}") or 0)
                     for end in ("LOCAL", "REMOTE"))
    return Link(name, kind, mtu, None if local == ANY else local,
                None if remote == ANY else remote, data.get_attr("IFLA_IPTUN_TTL") or 0,
                _sixrd(data))


def _sixrd(data: Any) -> tuple[IPv6Network, IPv4Network] | None:
    """None for 2002::/16 and 0.0.0.0/0, what the kernel begins with."""
    prefix = data.get_attr("IFLA_IPTUN_6RD_PREFIX")
    if prefix is None:
        return None
    six = IPv6Network((prefix, data.get_attr("IFLA_IPTUN_6RD_PREFIXLEN") or 0), strict=False)
    four = IPv4Network((data.get_attr("IFLA_IPTUN_6RD_RELAY_PREFIX") or 0,
                        data.get_attr("IFLA_IPTUN_6RD_RELAY_PREFIXLEN") or 0), strict=False)
    return None if six == IPv6Network("2002::/16") else (six, four)


def make(rtnl: Rtnl, link: Link) -> None:
    """Add a link, and mark it as ours."""
    rtnl.do("link", "add", {"ifname": link.name, "ifalias": ALIAS, **_request(link)},
            f"link {link.name}")
    _raise(rtnl, link)


def change(rtnl: Rtnl, link: Link) -> None:
    """Give a link of ours other values, in place."""
    request = {"index": rtnl.index(link.name), **_request(link)}
    rtnl.do("link", "set", request, f"link {link.name}")
    _raise(rtnl, link)


def _raise(rtnl: Rtnl, link: Link) -> None:
    request: dict[str, Any] = {"index": rtnl.index(link.name), "state": "up"}
    if link.mtu:
        request["mtu"] = link.mtu
    rtnl.do("link", "set", request, f"link {link.name}")


def delete(rtnl: Rtnl, name: str) -> None:
    """Remove a link of ours; its addresses and routes go with it."""
    if index := rtnl.index(name):
        rtnl.do("link", "del", {"index": index}, f"link {name}")


def _request(link: Link) -> dict[str, Any]:
    """A tunnel is changed in place only when all of its values are told (ip_tunnel.c)."""
    if link.kind != "sit":
        return {"kind": link.kind}
    request: dict[str, Any] = {
        "kind": "sit", "sit_local": str(link.local or ANY), "sit_remote": str(link.remote or ANY),
        "sit_ttl": link.ttl, "sit_pmtudisc": 1 if link.ttl else 0, "sit_proto": IPPROTO_IPV6,
    }  # fmt: skip
    if link.sixrd is not None:
        six, four = link.sixrd
        request |= {"sit_6rd_prefix": str(six.network_address), "sit_6rd_prefixlen": six.prefixlen,
                    "sit_6rd_relay_prefix": int(four.network_address),
                    "sit_6rd_relay_prefixlen": four.prefixlen}
    return request


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


def addresses(rtnl: Rtnl) -> list[Address]:
    """All global IPv6 addresses; lifetimes as points in time."""
    names, now = _names(rtnl), int(time.time())
    found = []
    for message in rtnl.connection.dump(
            lambda ip: ip.get_addr(family=socket.AF_INET6), "read the addresses"):
        address = IPv6Address(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
        name = names.get(message["index"])
        if name is None or address.is_link_local or address.is_loopback:
            continue
        life = message.get_attr("IFA_CACHEINFO") or {}
        preferred, valid = (_until(life.get(key, FOREVER), now)
                            for key in ("ifa_preferred", "ifa_valid"))
        found.append(Address(name, address, message["prefixlen"], preferred, valid))
    return found


TICKS = 100
"""USER_HZ, in which the kernel tells how long a route lasts (linux/rtnetlink.h rta_cacheinfo)."""
KERNEL = 2
"""rtm_protocol of what the kernel adds by itself: RTPROT_KERNEL."""


def advertised(rtnl: Rtnl) -> list[Address]:
    """The prefixes of length 64 that router advertisements show on each link: the first address of
    each, with the lifetime. The kernel has a route for it, which ends (net/ipv6/addrconf.c)."""
    names, now = _names(rtnl), int(time.time())
    found = []
    for message in rtnl.connection.dump(
            lambda ip: ip.get_routes(family=socket.AF_INET6), "read the routes"):
        life = message.get_attr("RTA_CACHEINFO") or {}
        left = life.get("rta_expires", 0) // TICKS
        name = names.get(message.get_attr("RTA_OIF") or 0)
        if message["dst_len"] == 64 and message["proto"] == KERNEL and left > 0 and name:
            address = IPv6Address(message.get_attr("RTA_DST"))
            found.append(Address(name, address, 64, now + left, now + left))
    return found


def _until(seconds: int, now: int) -> int | None:
    return None if seconds == FOREVER else now + seconds


def put(rtnl: Rtnl, addresses: Iterable[Address]) -> None:
    """Add addresses, or give those that are there other lifetimes."""
    now = int(time.time())
    for one in addresses:
        life = {"preferred": _left(one.preferred_until, now),
                "valid": max(1, _left(one.valid_until, now))}
        request = {
            "index": rtnl.index(one.interface), "address": str(one.address),
            "prefixlen": one.length, "family": socket.AF_INET6, "IFA_FLAGS": NOPREFIXROUTE,
            **life, "cacheinfo": life,  # 0.7.2 looks into this only, 0.9 into those
        }  # fmt: skip
        rtnl.do("addr", "replace", request, _words(one))


def take(rtnl: Rtnl, addresses: Iterable[Address]) -> None:
    """Remove addresses; one that has gone is fine."""
    for one in addresses:
        if index := rtnl.index(one.interface):
            request = {"index": index, "address": str(one.address), "prefixlen": one.length,
                       "family": socket.AF_INET6}
            rtnl.do("addr", "del", request, _words(one))


def _words(one: Address) -> str:
    return f"address {one.address}/{one.length} on {one.interface}"


def _left(until: int | None, now: int) -> int:
    return FOREVER if until is None else min(max(0, until - now), FOREVER - 1)


# ---- neighbours --------------------------------------------------------------------------------


def neighbours(rtnl: Rtnl) -> list[Neighbour]:
    """All proxy entries."""
    names = _names(rtnl)

    def every(_message: Any) -> bool:
        return True

    # With a filter of ours pyroute2 hands the flags on to the kernel, which has these entries
    # apart; 0.9 calls it dump_filter, 0.7 match.
    dump = rtnl.connection.dump(lambda ip: ip.neigh("dump", family=socket.AF_INET6, flags=NTF_PROXY,
                                        match=every, dump_filter=every), "read the proxy entries")
    return [Neighbour(names[m["ifindex"]], IPv6Address(m.get_attr("NDA_DST"))) for m in dump
            if m["ifindex"] in names and m["flags"] & NTF_PROXY and m.get_attr("NDA_DST")]


def answer(rtnl: Rtnl, command: str, entries: Iterable[Neighbour]) -> None:
    """Add ("add") or remove ("del") proxy entries."""
    for one in entries:
        if index := rtnl.index(one.interface):
            request = {"family": socket.AF_INET6, "flags": NTF_PROXY, "ifindex": index,
                       "dst": str(one.address)}
            rtnl.do("neigh", command, request, f"proxy entry {one.address} on "
                                                     f"{one.interface}")


def _names(rtnl: Rtnl) -> dict[int, str]:
    return dict(socket.if_nameindex())
