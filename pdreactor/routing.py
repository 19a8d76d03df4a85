"""Routes and policy rules of ours: observe, diff, apply. Known by their protocol number; nothing
without it is touched. New ones are added before old ones go."""

from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address
from typing import Any, NamedTuple

from .errors import KernelError, PdreactorError
from .kernel import link
from .kernel.rtnl import DEFAULT, REJECTING, Rtnl, SeenRoute, SeenRule
from .ways import MAIN_TABLE, Path, Route, Rule


class Observed(NamedTuple):
    """What of IPv6 routes matters (see ``Rtnl.routes``), and all policy rules, whosever they
    are."""

    routes: tuple[SeenRoute, ...]
    rules: tuple[SeenRule, ...]


class Change(NamedTuple):
    """What to add and to remove; empty when the kernel is as desired."""

    add_routes: tuple[Route, ...]
    replace_routes: tuple[Route, ...]  # the same, but for the next hop or its MTU
    add_rules: tuple[Rule, ...]
    remove_rules: tuple[Rule, ...]
    remove_routes: tuple[Route, ...]

    def __bool__(self) -> bool:
        return any(self)


def observe(rtnl: Rtnl, *protocols: int) -> Observed:
    """What the kernel has; of routes by these protocols all of them."""
    return Observed(tuple(rtnl.routes(protocols)), tuple(rtnl.rules()))


def paths(observed: Observed, interfaces: Iterable[str], protocol: int) -> dict[str, Path]:
    """How each of the interfaces can be left, if it exists."""
    names = set(interfaces)
    there, direct = link.links(names), link.direct(names)
    addresses: dict[str, list[IPv6Address]] = {name: [] for name in there}
    for name, address, _ in link.addresses():
        if name in there:
            addresses[name].append(address)
    found = {}
    for name in there:
        hop = _default(observed, name, protocol)
        found[name] = Path(hop is not None, hop.route.gateway if hop else None, name in direct,
                           tuple(addresses[name]), hop.route.mtu if hop else 0)
    return found


def _default(observed: Observed, interface: str, protocol: int) -> SeenRoute | None:
    """The best default route of table main by that interface (RFC 4191 section 3.1 for the
    preference)."""
    hops = [one for one in observed.routes
            if one.route.interface == interface and one.route.destination == DEFAULT
            and one.route.type == "unicast" and one.route.table == MAIN_TABLE
            and one.protocol != protocol and not one.dead]
    return min(hops, key=lambda one: (one.route.metric, -one.preference), default=None)


def reconcile(rtnl: Rtnl, observed: Observed, routes: Iterable[Route], rules: Iterable[Rule],
              protocol: int, failed: list[PdreactorError]) -> list[str]:
    """Bring the kernel to these routes and rules; returns what was changed, for people. What the
    kernel refuses goes into ``failed``, and the next pass tries it again."""
    return apply(rtnl, plan(observed, routes, rules, protocol), protocol, failed)


def open_ways(rtnl: Rtnl, observed: Observed, routes: Iterable[Route], protocol: int,
              failed: list[PdreactorError]) -> frozenset[Route]:
    """The first step of ``reconcile``: those of the routes that lead out. Returns the ones that the
    kernel refuses, so that no rule has to lead there."""
    ways = [one for one in routes if one.type == "unicast"]
    change = plan(observed, ways, (), protocol)
    refused = set()
    for command, some in (("add", change.add_routes), ("replace", change.replace_routes)):
        for one in some:
            try:
                rtnl.route(command, one, protocol)
            except KernelError as exc:
                if not exc.retry:
                    failed.append(exc)
                    refused.add(one)
    return frozenset(refused)


def plan(observed: Observed, routes: Iterable[Route], rules: Iterable[Rule],
         protocol: int) -> Change:
    """What it takes to get from what the kernel has to these routes and rules.

    An unreachable route that somebody else has for the same prefix (dhcpcd adds one) serves.
    """
    ours = {one.route for one in observed.routes if one.protocol == protocol}
    served = {(one.route.destination, one.route.table) for one in observed.routes
              if one.protocol != protocol and one.route.type in REJECTING}
    wanted = {r for r in routes
              if r.type not in REJECTING or (r.destination, r.table) not in served}
    there = {one.rule for one in observed.rules if one.protocol == protocol}
    missing, spare = wanted - ours, ours - wanted
    replaced = {_key(one) for one in missing} & {_key(one) for one in spare}
    return Change(
        _sorted(one for one in missing if _key(one) not in replaced),
        _sorted(one for one in missing if _key(one) in replaced),
        tuple(sorted(set(rules) - there, key=str)),
        tuple(sorted(there - set(rules), key=str)),
        _sorted(one for one in spare if _key(one) not in replaced),
    )


def _key(route: Route) -> Route:
    """What the kernel tells routes apart by: all but the next hop and its MTU."""
    return route._replace(interface="", gateway=None, mtu=0)


def _sorted(routes: Iterable[Route]) -> tuple[Route, ...]:
    return tuple(sorted(routes, key=str))


def apply(rtnl: Rtnl, change: Change, protocol: int, failed: list[PdreactorError]) -> list[str]:
    """Make the change, and say what of it was made. What the kernel refuses goes into ``failed``,
    and the rest is done all the same: a gateway that does not work is no reason to leave the other
    uplinks without their routes."""
    done = []
    for line, kind, command, one in _steps(change):
        try:
            getattr(rtnl, kind)(command, one, protocol)
            done.append(line)
        except PdreactorError as exc:
            failed.append(exc)
    return done


def _steps(change: Change) -> Iterator[tuple[str, str, str, Any]]:
    """(the step for people, "route" or "rule", rtnl's command, what it is about), in their order.
    What is new comes before the old goes, and rules go before what they look up."""
    for route in change.add_routes:
        yield f"add {_route(route)}", "route", "add", route
    for route in change.replace_routes:
        yield f"change to {_route(route)}", "route", "replace", route
    for rule in change.add_rules:
        yield f"add {_rule(rule)}", "rule", "add", rule
    for rule in change.remove_rules:
        yield f"remove {_rule(rule)}", "rule", "del", rule
    for route in change.remove_routes:
        yield f"remove {_route(route)}", "route", "del", route


def words(change: Change) -> list[str]:
    """The change for people, a line each."""
    return [line for line, *_ in _steps(change)]


def _route(route: Route) -> str:
    target = "default" if route.destination == DEFAULT else str(route.destination)
    via = f" via {route.gateway}" if route.gateway else ""
    leaving = f"{via} dev {route.interface}" if route.interface else ""
    leaving += f" mtu {route.mtu}" if route.mtu else ""
    table = "" if route.table == MAIN_TABLE else f" in table {route.table}"
    return f"{route.type} route to {target}{leaving}{table}"


def _rule(rule: Rule) -> str:
    """As ip(8) writes it."""
    source = f" from {rule.source}" if rule.source else ""
    destination = f" to {rule.destination}" if rule.destination else ""
    iif = f" iif {rule.iif}" if rule.iif else ""
    mark = f" fwmark {rule.mark[0]:#x}/{rule.mark[1]:#x}" if rule.mark[1] else ""
    table = "main" if rule.table == MAIN_TABLE else str(rule.table)
    action = f" lookup {table}" if rule.table else " unreachable"
    suppress = " suppress_prefixlength 0" if rule.suppress else ""
    return f"rule {rule.priority}:{source}{destination}{iif}{mark}{action}{suppress}"
