"""From what the kernel has to the routes and rules that are desired: the diff, and its order."""

from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdreactor import routing
from pdreactor.errors import KernelError
from pdreactor.kernel import link
from pdreactor.kernel.rtnl import DEFAULT, SeenRoute, SeenRule
from pdreactor.routing import Change, Observed
from pdreactor.ways import MAIN_TABLE, Path, Route, Rule

from .values import LAN, P1, P2

OURS, THEIRS = 157, 3
GATEWAY, OTHER = IPv6Address("fe80::1"), IPv6Address("fe80::2")
NOTHING = Observed((), ())
DEFAULT_201 = Route(DEFAULT, "unicast", 201, 512, "wan0", GATEWAY)
NO_CHANGE = Change((), (), (), (), ())

destinations = st.sampled_from([DEFAULT, P1, P2])
routes = st.sets(st.one_of(
    st.builds(Route, destinations, st.just("unicast"), st.sampled_from([201, 202]), st.just(512),
              st.sampled_from(["wan0", "wan1"]), st.sampled_from([None, GATEWAY, OTHER])),
    st.builds(Route, destinations, st.just("unreachable"), st.sampled_from([201, MAIN_TABLE]),
              st.just(0xFFFFFFFF))), max_size=6).map(
    lambda some: {routing._key(one): one for one in some}).map(lambda some: set(some.values()))
rules = st.sets(st.builds(
    Rule, st.integers(15700, 15703), st.sampled_from([None, LAN.internal, P1]),
    st.none(), st.sampled_from(["", "lo"]), st.sampled_from([(0, 0), (1 << 24, 15 << 24)]),
    st.sampled_from([0, 201, MAIN_TABLE]), st.booleans()), max_size=6)


def seen(some: set[Route], more: set[Rule] = frozenset(), protocol: int = OURS) -> Observed:
    return Observed(tuple(SeenRoute(one, protocol) for one in some),
                    tuple(SeenRule(one, protocol) for one in more))


def carried_out(observed: Observed, change: Change) -> Observed:
    """What the kernel has after the change, step by step, refusing what the kernel refuses."""
    known: dict[Route, SeenRoute] = {routing._key(one.route): one for one in observed.routes}
    ruled = list(observed.rules)
    for route in change.add_routes:
        assert routing._key(route) not in known, "EEXIST"
        known[routing._key(route)] = SeenRoute(route, OURS)
    for route in change.replace_routes:
        assert known[routing._key(route)].protocol == OURS
        known[routing._key(route)] = SeenRoute(route, OURS)
    for rule in change.add_rules:
        assert SeenRule(rule, OURS) not in ruled, "EEXIST"
        ruled.append(SeenRule(rule, OURS))
    for rule in change.remove_rules:
        ruled.remove(SeenRule(rule, OURS))
    for route in change.remove_routes:
        assert known.pop(routing._key(route)).protocol == OURS
    return Observed(tuple(known.values()), tuple(ruled))


@given(routes, routes, rules, rules)
@settings(deadline=None)
def test_a_change_leads_from_any_routes_and_rules_to_any_others(
        before: set[Route], after: set[Route], old: set[Rule], new: set[Rule]) -> None:
    observed = seen(before, old)
    found = carried_out(observed, routing.plan(observed, after, new, OURS))
    assert {one.route for one in found.routes} == after
    assert {one.rule for one in found.rules} == new
    assert not routing.plan(found, after, new, OURS)


@given(routes, rules)
@settings(deadline=None)
def test_what_has_another_protocol_is_not_touched(others: set[Route], rules: set[Rule]) -> None:
    assert routing.plan(seen(others, rules, THEIRS), (), (), OURS) == NO_CHANGE


def test_another_next_hop_is_a_replacement_and_never_a_gap() -> None:
    moved = DEFAULT_201._replace(gateway=OTHER)
    change = routing.plan(seen({DEFAULT_201}), {moved}, (), OURS)
    assert change == NO_CHANGE._replace(replace_routes=(moved,))


def test_somebody_elses_unreachable_route_serves() -> None:
    ours = Route(P1, "unreachable", MAIN_TABLE, 0xFFFFFFFF)
    for kind in ("unreachable", "blackhole", "prohibit"):
        theirs = {ours._replace(type=kind, metric=1024)}
        assert routing.plan(seen(theirs, protocol=THEIRS), {ours}, (), OURS) == NO_CHANGE
    theirs = {ours._replace(table=201), ours._replace(destination=P2),
              ours._replace(type="unicast", interface="wan0")}
    change = routing.plan(seen(theirs, protocol=THEIRS), {ours}, (), OURS)
    assert change == NO_CHANGE._replace(add_routes=(ours,))


# ---- what the kernel refuses ------------------------------------------------------------------


class Refusing:
    """A kernel that refuses some of what it is asked for, and notes the rest."""

    def __init__(self, *refused: Route | Rule) -> None:
        self.refused, self.done = refused, []

    def route(self, command: str, one: Route | Rule, protocol: int) -> None:
        if one in self.refused:
            raise KernelError(f"cannot {command} {one}")
        self.done.append((command, one))

    rule = route


@given(routes, routes, rules, rules, st.data())
@settings(deadline=None)
def test_what_is_refused_does_not_keep_the_rest_from_being_done(
        before: set[Route], after: set[Route], old: set[Rule], new: set[Rule], data: Any) -> None:
    change = routing.plan(seen(before, old), after, new, OURS)
    steps = [one for part in change for one in part]
    refused = data.draw(st.sets(st.sampled_from(steps), max_size=3)) if steps else set()
    kernel, failed = Refusing(*refused), []
    lines = routing.apply(kernel, change, OURS, failed)
    assert [one for _, one in kernel.done] == [one for one in steps if one not in refused]
    assert len(failed) == len([one for one in steps if one in refused])
    assert len(lines) == len(kernel.done)
    assert set(lines) <= set(routing.words(change))


# ---- how an interface can be left -------------------------------------------------------------


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """The path of wan0 beside these routes."""
    monkeypatch.setattr(link, "links", lambda names: {name: True for name in names})
    monkeypatch.setattr(link, "direct", lambda names: {"ppp0"} & set(names))
    monkeypatch.setattr(link, "addresses", lambda: [("wan0", IPv6Address("2001:db8::5"), None)])

    def found(*some: SeenRoute, name: str = "wan0") -> Path:
        return routing.paths(Observed(some, ()), [name], OURS)[name]
    return found


MAIN = SeenRoute(Route(DEFAULT, "unicast", MAIN_TABLE, 1024, "wan0", GATEWAY), 9)


def by(gateway: IPv6Address | None, protocol: int = 9, preference: int = 0, dead: bool = False,
       **rest) -> SeenRoute:
    return SeenRoute(MAIN.route._replace(gateway=gateway, **rest), protocol, preference, dead)


@pytest.mark.parametrize(("routes", "gateway"), [
    ([MAIN], GATEWAY),
    ([MAIN, by(OTHER, metric=512)], OTHER),
    ([by(OTHER, metric=2048), MAIN], GATEWAY),
    ([MAIN, by(OTHER, preference=1)], OTHER),
    ([MAIN, by(OTHER, preference=-1)], GATEWAY),
    ([MAIN, by(OTHER, metric=512, preference=-1)], OTHER),
    ([MAIN, by(OTHER, metric=1, dead=True)], GATEWAY),
    ([MAIN, by(OTHER, metric=1, protocol=OURS)], GATEWAY),
    ([MAIN, by(OTHER, metric=1, interface="wan1")], GATEWAY),
    ([MAIN, by(OTHER, metric=1, table=201)], GATEWAY),
    ([MAIN, by(OTHER, metric=1, destination=IPv6Network("2000::/3"))], GATEWAY),
    ([MAIN, by(None, metric=1, type="unreachable")], GATEWAY),
])
def test_the_gateway_is_that_of_the_best_default_route_of_main_by_the_interface(
        paths: Callable[..., Path], routes: list[SeenRoute], gateway: IPv6Address) -> None:
    for some in (routes, routes[::-1]):
        assert paths(*some) == Path(True, gateway, False, (IPv6Address("2001:db8::5"),))


def test_a_default_route_without_a_gateway_and_none_at_all(paths: Callable[..., Path]) -> None:
    assert paths(by(None))[:3] == (True, None, False)
    assert paths()[:3] == (False, None, False)
    assert paths(name="ppp0") == Path(False, None, True, ())
