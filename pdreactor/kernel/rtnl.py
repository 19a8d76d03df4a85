"""Routes and rules through pyroute2: rtnetlink(7). Imported only where a pass needs it (100 ms)."""

import errno
import socket
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv6Address, IPv6Network
from types import TracebackType
from typing import Any, NamedTuple

from ..errors import BackendMissing, KernelBusy, KernelError, PermissionDenied
from ..model import Route, Rule
from .retry import persistently

try:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError
except ImportError as exc:
    raise BackendMissing(
        f"pyroute2 cannot be used ({exc}): install python3-pyroute2 on Debian, Ubuntu and Fedora, "
        f"python-pyroute2 on Arch, py3-pyroute2 on Alpine"
    ) from exc

TYPES = {"unicast": 1, "local": 2, "anycast": 4, "blackhole": 6, "unreachable": 7, "prohibit": 8}
"""rtm_type, as in linux/rtnetlink.h."""
NAMES = {number: name for name, number in TYPES.items()}
REJECTING = ("blackhole", "unreachable", "prohibit")
BUSY = (errno.EBUSY, errno.EAGAIN, errno.ENOBUFS, errno.EINTR)


class SeenRoute(NamedTuple):
    """A route as the kernel has it."""

    route: Route
    protocol: int


class SeenRule(NamedTuple):
    """A policy rule as the kernel has it."""

    rule: Rule
    protocol: int


class Rtnl:
    """An open rtnetlink socket; use it in a ``with`` statement."""

    def __enter__(self) -> "Rtnl":
        self._ip = IPRoute()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._ip.close()

    def routes(self, table: int) -> Iterator[SeenRoute]:
        """All IPv6 routes of one table whose destination is not the default."""
        for message in dumped(lambda: self._ip.get_routes(family=socket.AF_INET6, table=table),
                              "read the routes"):
            destination = message.get_attr("RTA_DST")
            if destination and (message.get_attr("RTA_TABLE") or message["table"]) == table:
                network = IPv6Network((destination, message["dst_len"]))
                kind = NAMES.get(message["type"], str(message["type"]))
                metric = message.get_attr("RTA_PRIORITY") or 0
                yield SeenRoute(Route(network, kind, table, metric), message["proto"])

    def rules(self) -> Iterator[SeenRule]:
        """The IPv6 policy rules that have a destination and an incoming interface."""
        for message in dumped(lambda: self._ip.get_rules(family=socket.AF_INET6),
                              "read the policy rules"):
            destination, iif = message.get_attr("FRA_DST"), message.get_attr("FRA_IIFNAME")
            if destination and iif:
                rule = Rule(message.get_attr("FRA_PRIORITY") or 0,
                            IPv6Network((destination, message["dst_len"])), iif,
                            message.get_attr("FRA_TABLE") or message["table"])
                yield SeenRule(rule, _protocol(message))

    def index(self, interface: str) -> int:
        """The number of an interface; 0 when it does not exist."""
        try:
            return socket.if_nametoindex(interface)
        except OSError:
            return 0

    def interface_to(self, target: IPv6Address) -> int:
        """The number of the interface that packets to an address leave by; 0 for none."""
        try:
            found = self._ip.route("get", family=socket.AF_INET6, dst=str(target))
        except NetlinkError:
            return 0  # no route
        return int(found[0].get_attr("RTA_OIF") or 0) if found else 0

    def route(self, command: str, route: Route, protocol: int) -> None:
        """Add ("add") or delete ("del") a route; one that is there, or gone, already is fine."""
        request = {
            "family": socket.AF_INET6, "dst": str(route.destination), "type": route.type,
            "table": route.table, "priority": route.metric, "proto": protocol,
        }
        if route.type not in REJECTING:
            request["oif"] = socket.if_nametoindex("lo")
        self._do(self._ip.route, command, request, f"{route.type} route to {route.destination}")

    def rule(self, command: str, rule: Rule, protocol: int) -> None:
        """Add or delete a policy rule; one that is there, or gone, already is fine."""
        request = {
            "family": socket.AF_INET6, "dst": str(rule.destination.network_address),
            "dst_len": rule.destination.prefixlen, "iifname": rule.iif, "table": rule.table,
            "priority": rule.priority, "FRA_PROTOCOL": protocol,
        }
        self._do(self._ip.rule, command, request, f"rule for {rule.destination}")

    def _do(self, call: Any, command: str, request: dict[str, Any], what: str) -> None:
        fine = (errno.EEXIST,) if command == "add" else (errno.ESRCH, errno.ENOENT)

        def attempt() -> None:
            try:
                call(command, **request)
            except NetlinkError as exc:
                if exc.code not in fine:
                    raise explained(exc, f"{command} the {what}") from exc

        persistently(attempt)


def _protocol(message: Any) -> int:
    value = message.get_attr("FRA_PROTOCOL")
    return value[0] if isinstance(value, (bytes, tuple, list)) else int(value or 0)


def dumped(dump: Callable[[], Iterable[Any]], doing: str) -> list[Any]:
    """What a dump says, asked again while the kernel interrupts it."""

    def attempt() -> list[Any]:
        try:
            return list(dump())
        except NetlinkError as exc:
            raise explained(exc, doing) from exc

    return persistently(attempt)


def explained(exc: NetlinkError, doing: str) -> KernelError | PermissionDenied:
    """The error of ours that a netlink error is."""
    reason = f"cannot {doing}: {exc.args[-1]}"
    if exc.code in (errno.EPERM, errno.EACCES):
        return PermissionDenied(f"{reason}; this needs root or CAP_NET_ADMIN")
    interrupted = exc.code < 0  # NetlinkDumpInterrupted
    return KernelBusy(reason) if interrupted or exc.code in BUSY else KernelError(reason)
