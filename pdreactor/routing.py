"""Routes and policy rules of ours: observe, diff, apply. Known by their protocol number; nothing
without it is touched. New ones are added before old ones go."""

from collections.abc import Iterable
from typing import NamedTuple

from .kernel.rtnl import REJECTING, Rtnl
from .model import MAIN_TABLE, Route, Rule


class Change(NamedTuple):
    """What to add and to remove; empty when the kernel is as desired."""

    add_routes: tuple[Route, ...]
    add_rules: tuple[Rule, ...]
    remove_rules: tuple[Rule, ...]
    remove_routes: tuple[Route, ...]

    def __bool__(self) -> bool:
        return any(self)


def reconcile(rtnl: Rtnl, routes: Iterable[Route], rules: Iterable[Rule], protocol: int,
              priority: int) -> list[str]:
    """Bring the kernel to these routes and rules; returns the change for people."""
    change = plan(rtnl, routes, rules, protocol, priority)
    apply(rtnl, change, protocol)
    return words(change)


def plan(rtnl: Rtnl, routes: Iterable[Route], rules: Iterable[Rule], protocol: int,
         priority: int) -> Change:
    """What it takes to get from what the kernel has, in the main table and in the one numbered
    ``priority``, to these routes and rules.

    An unreachable route that somebody else has for the same prefix (dhcpcd adds one) serves.
    """
    seen = [one for table in (MAIN_TABLE, priority) for one in rtnl.routes(table)]
    ours = {one.route for one in seen if one.protocol == protocol}
    served = {(one.route.destination, one.route.table) for one in seen
              if one.protocol != protocol and one.route.type in REJECTING}
    wanted = {r for r in routes
              if r.type not in REJECTING or (r.destination, r.table) not in served}
    there = {one.rule for one in rtnl.rules() if one.protocol == protocol}
    return Change(
        tuple(sorted(wanted - ours)),
        tuple(sorted(set(rules) - there)),
        tuple(sorted(there - set(rules))),
        tuple(sorted(ours - wanted)),
    )


def apply(rtnl: Rtnl, change: Change, protocol: int) -> None:
    """Make the change; the first error ends it, and the next pass goes on from there."""
    for route in change.add_routes:
        rtnl.route("add", route, protocol)
    for rule in change.add_rules:
        rtnl.rule("add", rule, protocol)
    for rule in change.remove_rules:
        rtnl.rule("del", rule, protocol)
    for route in change.remove_routes:
        rtnl.route("del", route, protocol)


def words(change: Change) -> list[str]:
    """The change for people, a line each."""
    lines = [f"add {_route(route)}" for route in change.add_routes]
    lines += [f"add {_rule(rule)}" for rule in change.add_rules]
    lines += [f"remove {_rule(rule)}" for rule in change.remove_rules]
    return lines + [f"remove {_route(route)}" for route in change.remove_routes]


def _route(route: Route) -> str:
    table = "" if route.table == MAIN_TABLE else f" in table {route.table}"
    return f"{route.type} route to {route.destination}{table}"


def _rule(rule: Rule) -> str:
    return f"rule {rule.priority}: to {rule.destination} iif {rule.iif} lookup {rule.table}"
