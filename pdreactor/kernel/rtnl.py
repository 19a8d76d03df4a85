"""Routes and rules through pyroute2: rtnetlink(7). Imported only where a pass needs it (100 ms)."""

import errno
import socket
import struct
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from ipaddress import IPv6Address, IPv6Network
from types import TracebackType
from typing import Any, NamedTuple

from ..errors import BackendMissing, KernelError, PermissionDenied
from ..ways import Route, Rule
from . import netlink
from .retry import persistently

try:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ndmsg import ndmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg
except ImportError as exc:
    raise BackendMissing(
        f"pyroute2 cannot be used ({exc}): install python3-pyroute2 on Debian, Ubuntu and Fedora, "
        f"python-pyroute2 on Arch, py3-pyroute2 on Alpine"
    ) from exc

AddressMessage, NeighbourMessage = ifaddrmsg, ndmsg
"""For rtlink.py."""
TYPES = {"unicast": 1, "local": 2, "anycast": 4, "blackhole": 6, "unreachable": 7, "prohibit": 8}
"""rtm_type, as in linux/rtnetlink.h."""
NAMES = {number: name for name, number in TYPES.items()}
LOCAL_TABLE = 255
REJECTING = ("blackhole", "unreachable", "prohibit")


DEFAULT = IPv6Network("::/0")
DEAD = 0x1 | 0x10
"""rtm_flags: RTNH_F_DEAD, RTNH_F_LINKDOWN."""
ONLINK = 0x4
PREFERENCES = {1: 1, 3: -1}
"""RTA_PREF: linux/icmpv6.h ICMPV6_ROUTER_PREF_HIGH and _LOW; all else is medium, 0."""
INVERT = 0x2
"""linux/fib_rules.h FIB_RULE_INVERT."""
UNREACHABLE_RULE = 7
"""linux/fib_rules.h FR_ACT_UNREACHABLE."""


class SeenRoute(NamedTuple):
    """A route as the kernel has it; one of several next hops is a route by itself."""

    route: Route
    protocol: int
    preference: int = 0  # of a router (RFC 4191): high 1, low -1
    dead: bool = False  # its link is down


class SeenRule(NamedTuple):
    """A policy rule as the kernel has it."""

    rule: Rule
    protocol: int
    inverted: bool = False  # FIB_RULE_INVERT: it is for all that does not match


class Rtnl:
    """An open rtnetlink socket; use it in a ``with`` statement."""

    def __enter__(self) -> "Rtnl":
        self.connection = Connection(IPRoute, "rtnetlink")
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.connection.close()

    def routes(self, protocols: Container[int] | None = None) -> Iterator[SeenRoute]:
        """IPv6 routes of all tables, but the kernel's own table local: those of these protocols,
        default routes, and those that reject; without ``protocols`` all of them."""

        def matters(dst_len: int, protocol: int, kind: int) -> bool:
            return (protocols is None or not dst_len or protocol in protocols
                    or NAMES.get(kind) in REJECTING)

        for message in persistently(lambda: _route_messages(matters)):
            table = message.get_attr("RTA_TABLE") or message["table"]
            if table == LOCAL_TABLE:
                continue
            kind = NAMES.get(message["type"], str(message["type"]))
            destination = message.get_attr("RTA_DST")
            network = IPv6Network((destination, message["dst_len"])) if destination else DEFAULT
            metric = message.get_attr("RTA_PRIORITY") or 0
            preference = PREFERENCES.get(message.get_attr("RTA_PREF") or 0, 0)
            for hop in message.get_attr("RTA_MULTIPATH") or (message,):
                interface = "" if kind != "unicast" else _name(hop)
                gateway = hop.get_attr("RTA_GATEWAY")
                route = Route(network, kind, table, metric, interface,
                              IPv6Address(gateway) if gateway else None,
                              _mtu(message) if kind == "unicast" else 0)
                yield SeenRoute(route, message["proto"], preference, bool(hop["flags"] & DEAD))

    def rules(self) -> Iterator[SeenRule]:
        """All IPv6 policy rules, each with what ``Rule`` knows of."""
        for message in self.connection.dump(
                lambda ip: ip.get_rules(family=socket.AF_INET6), "read the policy rules"):
            mark = message.get_attr("FRA_FWMARK") or 0
            mask = message.get_attr("FRA_FWMASK") or 0
            suppress = message.get_attr("FRA_SUPPRESS_PREFIXLEN")
            rule = Rule(message.get_attr("FRA_PRIORITY") or 0,
                        _network(message.get_attr("FRA_SRC"), message["src_len"]),
                        _network(message.get_attr("FRA_DST"), message["dst_len"]),
                        message.get_attr("FRA_IIFNAME") or "", (mark, mask),
                        message.get_attr("FRA_TABLE") or message["table"], suppress == 0)
            yield SeenRule(rule, _protocol(message), bool(message["flags"] & INVERT))

    def index(self, interface: str) -> int:
        """The number of an interface; 0 when it does not exist."""
        try:
            return socket.if_nametoindex(interface)
        except OSError:
            return 0

    def interface_to(self, target: IPv6Address) -> int:
        """The number of the interface that packets to an address leave by; 0 for none."""
        try:
            found = self.connection.ask(
                lambda ip: ip.route("get", family=socket.AF_INET6, dst=str(target)),
                "look where packets leave")
        except KernelError:
            return 0  # no route
        return int(found[0].get_attr("RTA_OIF") or 0) if found else 0

    def route(self, command: str, route: Route, protocol: int) -> None:
        """Add ("add"), exchange the next hop of ("replace") or delete ("del") a route; one that is
        there, or gone, already is fine."""
        request: dict[str, Any] = {
            "family": socket.AF_INET6, "dst": str(route.destination), "type": route.type,
            "table": route.table, "priority": route.metric, "proto": protocol,
        }
        if route.type not in REJECTING:
            request["oif"] = self.index(route.interface or "lo")
        if route.mtu:
            request["metrics"] = {"mtu": route.mtu}
        if route.gateway is not None:
            request["gateway"] = str(route.gateway)
            if not route.gateway.is_link_local:
                request["flags"] = ONLINK
        self.do("route", command, request, f"{route.type} route to {route.destination}"
                 + (f" by {route.interface}" if route.interface else ""))

    def rule(self, command: str, rule: Rule, protocol: int) -> None:
        """Add or delete a policy rule; one that is there, or gone, already is fine."""
        request: dict[str, Any] = {"family": socket.AF_INET6, "priority": rule.priority,
                                   "FRA_PROTOCOL": protocol}
        for word, network in (("src", rule.source), ("dst", rule.destination)):
            if network is not None:
                request |= {word: str(network.network_address), f"{word}_len": network.prefixlen}
        if rule.iif:
            request["iifname"] = rule.iif
        if rule.mark[1]:
            request["fwmark"], request["fwmask"] = rule.mark
        request |= {"table": rule.table} if rule.table else {"action": UNREACHABLE_RULE}
        if rule.suppress:
            request["FRA_SUPPRESS_PREFIXLEN"] = 0
        self.do("rule", command, request,
                f"rule {rule.priority} for {rule.source or rule.destination or 'a mark'}")

    def do(self, kind: str, command: str, request: dict[str, Any], what: str) -> None:
        """Ask for a change by the method ``kind`` of IPRoute, again while the kernel is busy."""
        fine = (errno.EEXIST,) if command == "add" else (errno.ESRCH, errno.ENOENT)
        self.connection.ask(lambda ip: getattr(ip, kind)(command, **request),
                            f"{command} the {what}", fine)


class Connection:
    """A socket of pyroute2. One that has failed is made anew: pyroute2 0.9 says that error again
    and again, also when it is closed."""

    def __init__(self, make: Callable[[], Any], kind: str) -> None:
        self._make, self._kind = make, kind
        self._socket = self._made()

    def _made(self) -> Any:
        try:
            return self._make()
        except OSError as exc:
            raise explained(exc, f"open a socket for {self._kind}") from exc

    def close(self) -> None:
        """End it."""
        try:
            self._socket.close()
        except OSError:
            pass  # it had failed before

    def ask(self, request: Callable[[Any], Any], doing: str, fine: Collection[int] = ()) -> Any:
        """What the kernel says to a request, made again while it is busy. None for an errno that is
        ``fine``; any other is an error of ours."""

        def attempt() -> Any:
            try:
                return request(self._socket)
            except (NetlinkError, OSError) as exc:
                if _number(exc) in fine:
                    return None
                if isinstance(exc, OSError):
                    self.close()
                    self._socket = self._made()
                raise explained(exc, doing) from exc

        return persistently(attempt)

    def dump(self, request: Callable[[Any], Iterable[Any]], doing: str) -> list[Any]:
        """All of what a dump says."""
        found: list[Any] = self.ask(lambda sock: list(request(sock)), doing)
        return found


ROUTE = struct.Struct("=BBBBBBBBI")
"""linux/rtnetlink.h struct rtmsg."""
GETROUTE = 26


def _route_messages(matters: Callable[[int, int, int], bool]) -> list[Any]:
    """The messages of a dump of all IPv6 routes whose (prefix length, protocol, type) matters. It
    is told from the fixed part: a full table of the internet is read in a fraction of the time that
    pyroute2 takes to decode it, and of the memory."""
    found: list[Any] = []
    ask = ROUTE.pack(socket.AF_INET6, *[0] * 8)
    for message in netlink.dump(GETROUTE, ask, "read the routes"):
        _, length, _, _, _, protocol, _, kind, _ = ROUTE.unpack_from(message, netlink.HEADER.size)
        if matters(length, protocol, kind):
            found.append(rtmsg(message))
            found[-1].decode()
    return found


def _network(address: str | None, length: int) -> IPv6Network | None:
    """What a rule is for. The kernel keeps the host bits that a rule of others was made with."""
    return IPv6Network((address, length), strict=False) if address else None


def _mtu(message: Any) -> int:
    metrics = message.get_attr("RTA_METRICS")
    return int(metrics.get_attr("RTAX_MTU") or 0) if metrics else 0


def _name(hop: Any) -> str:
    """The interface of a route or of one of its next hops (there it is a field)."""
    index = hop.get_attr("RTA_OIF") or hop.get("oif") or 0
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"  # gone since


def _protocol(message: Any) -> int:
    value = message.get_attr("FRA_PROTOCOL")
    return value[0] if isinstance(value, (bytes, tuple, list)) else int(value or 0)


def _number(exc: NetlinkError | OSError) -> int:
    """Its errno; negative when a dump was interrupted (NetlinkDumpInterrupted)."""
    return int(exc.errno or 0) if isinstance(exc, OSError) else int(exc.code)


def explained(exc: NetlinkError | OSError, doing: str) -> KernelError | PermissionDenied:
    """The error of ours that a netlink error is."""
    return netlink.explained(_number(exc), f"cannot {doing}: {exc.args[-1]}")
