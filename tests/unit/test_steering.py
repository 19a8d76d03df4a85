"""Where traffic goes: routes, rules, and which uplink new flows take."""

from collections.abc import Mapping
from ipaddress import IPv6Address, IPv6Network

import pytest

from pdreactor import transition
from pdreactor.desired import desired
from pdreactor.model import DIRECT, Config, Down, State, Translation, Uplink
from pdreactor.steering import AROUND_METRIC, UNREACHABLE_METRIC, steering
from pdreactor.ways import MAIN_TABLE, Path, Route, Steering

from .scenarios import FIRST, LARGE, NEXT, SECOND, UP
from .values import CONFIG, LAN, NOW, P1, P2, TWO, WAN, WAN2, N, after, config, reply, told

INTERNAL = LAN.internal
ROUTERS = {"wan0": Path(True, IPv6Address("fe80::1")), "wan1": Path(True, IPv6Address("fe80::2"))}
TABLES = (WAN._replace(table=201), WAN2._replace(table=202))
TABLED = TWO._replace(uplinks=TABLES)
EVERYTHING = N("::/0")


def steered(known: State, config: Config = CONFIG, now: int = NOW, links: Mapping[str, bool] = UP,
            paths: Mapping[str, Path] = ROUTERS) -> Steering:
    return steering(config, known, links, paths, desired(config, known, links, now))


def both(setup: Config = TABLED, first: str = "wan", second: str = "wan2") -> State:
    known = after(FIRST, uplink=setup.uplink(first), config=setup)
    return after(SECOND, state=known, uplink=setup.uplink(second), config=setup)


def down(known: State, name: str) -> State:
    entry = known.uplinks[name]._replace(down=Down(NOW, "no answer"))
    return known._replace(uplinks={**known.uplinks, name: entry})


def new(found: Steering, setup: Config = TABLED) -> dict[str, int]:
    """{source: table} of new flows; 0 is unreachable."""
    return {str(rule.source): rule.table for rule in found.rules
            if rule.priority == setup.priority + 2}


# ---- without tables ----------------------------------------------------------------------------


def test_what_is_delegated_and_not_assigned_is_unreachable() -> None:
    """And the router's own packets get as far as the translation."""
    found = steered(after(LARGE))
    delegated = N("2001:db8:4000::/56")
    assert set(found.routes) == {
        Route(delegated, "unreachable", MAIN_TABLE, UNREACHABLE_METRIC),
        Route(delegated, "anycast", MAIN_TABLE, AROUND_METRIC)}
    assert found.rules == (), "the first one makes each look-up slower"


@pytest.mark.parametrize("uplink", [WAN._replace(prefix=P1), WAN._replace(source="onlink")])
def test_the_way_around_is_worse_than_any_route_to_a_prefix_that_may_be_on_a_link(
        uplink: Uplink) -> None:
    setup = CONFIG._replace(uplinks=(uplink,))
    found = steered(after(FIRST), setup)
    assert [r.metric for r in found.routes if r.type == "anycast"] == [UNREACHABLE_METRIC - 1]


def test_nothing_learned_is_nothing_to_route() -> None:
    assert steered(State({})) == Steering((), (), (), {})


def test_without_hairpin_no_way_around_is_needed() -> None:
    found = steered(after(FIRST), config(LAN._replace(hairpin=False)))
    assert [route.type for route in found.routes] == ["unreachable"]
    assert found.rules == ()


def test_a_superseded_prefix_keeps_its_route_while_it_lives() -> None:
    known = after(reply(*told(P1, valid=60)), reply(*told(P2, valid=600)))
    for seconds, networks in ((59, {P1, P2}), (60, {P2})):
        now = NOW + seconds
        found = steered(transition.after_time(known, CONFIG, now), now=now)
        assert {r.destination for r in found.routes} == networks


def test_several_uplinks_without_tables_are_left_to_table_main() -> None:
    found = steered(both(TWO), TWO)
    assert found.rules == ()
    assert found.leading == ((INTERNAL, "wan"),)


# ---- tables ------------------------------------------------------------------------------------


def test_a_table_has_the_gateway_of_its_interface_and_ends_unreachable() -> None:
    found = steered(both(), TABLED)
    for table, name, gateway in ((201, "wan0", "fe80::1"), (202, "wan1", "fe80::2")):
        assert [r for r in found.routes if r.table == table] == [
            Route(EVERYTHING, "unicast", table, 512, name, IPv6Address(gateway)),
            Route(EVERYTHING, "unreachable", table, 0xFFFFFFFF)]


@pytest.mark.parametrize(("gateway", "path", "expected"), [
    ("auto", Path(True), ""),  # a default route without a gateway
    ("auto", Path(False, None, True), ""),  # point-to-point
    ("auto", Path(False), None),
    ("auto", None, None),
    (DIRECT, Path(True, IPv6Address("fe80::1")), ""),
    (IPv6Address("fe80::9"), Path(False), "fe80::9"),
])
def test_gateways(gateway: str | IPv6Address, path: Path | None, expected: str | None) -> None:
    setup = config(LAN, uplinks=(WAN._replace(table=201, gateway=gateway),))
    found = steered(after(FIRST, config=setup), setup, paths={"wan0": path} if path else {})
    hops = [r for r in found.routes if r.type == "unicast"]
    assert [str(r.gateway or "") for r in hops] == ([] if expected is None else [expected])
    assert new(found) == {str(INTERNAL): 0 if expected is None else 201}
    assert ("no default route" in found.unusable.get("wan", "")) == (expected is None)


def test_an_uplink_whose_route_the_kernel_refuses_is_not_used() -> None:
    known, paths = both(), ROUTERS
    found = steering(TABLED, known, UP, paths, desired(TABLED, known, UP, NOW), {201})
    assert new(found) == {str(INTERNAL): 202}
    assert found.unusable == {"wan": "the kernel refuses the default route of table 201"}


def test_the_mtu_that_the_router_advertised_holds_in_the_table() -> None:
    paths = {**ROUTERS, "wan1": ROUTERS["wan1"]._replace(mtu=1400)}
    found = steered(both(), TABLED, paths=paths)
    assert {r.table: r.mtu for r in found.routes if r.type == "unicast"} == {201: 0, 202: 1400}


def test_a_link_that_is_down_has_no_default_route() -> None:
    found = steered(both(), TABLED, links={"wan0": False, "wan1": True})
    assert [r.table for r in found.routes if r.type == "unicast"] == [202]
    assert new(found) == {str(INTERNAL): 202}
    assert found.leading == ((INTERNAL, "wan2"),)
    assert found.unusable == {"wan": "interface wan0 has no carrier or is down"}


# ---- new flows ---------------------------------------------------------------------------------


def test_new_flows_take_the_first_usable_uplink() -> None:
    assert new(steered(both(), TABLED)) == {str(INTERNAL): 201}
    assert new(steered(down(both(), "wan"), TABLED)) == {str(INTERNAL): 202}
    assert new(steered(down(down(both(), "wan"), "wan2"), TABLED)) == {str(INTERNAL): 0}
    without = after(SECOND, uplink=TABLES[1], config=TABLED)
    assert new(steered(without, TABLED)) == {str(INTERNAL): 202}


def test_an_uplink_that_was_set_down_keeps_its_table_for_what_came_in_by_it() -> None:
    found = steered(down(both(), "wan"), TABLED)
    assert {r.table for r in found.routes if r.type == "unicast"} == {201, 202}
    assert any(rule.mark[1] and rule.table == 201 for rule in found.rules)


def test_only_hosts_of_translations_are_led() -> None:
    for rule in steered(both(), TABLED).rules:
        assert rule.source is not None or rule.iif == "lo"


def test_what_is_more_specific_in_main_comes_before_the_tables() -> None:
    found = steered(both(), TABLED)
    first = TABLED.priority
    led = {rule.source for rule in found.rules if rule.priority > first + 1}
    assert {rule.source for rule in found.rules if rule.priority == first + 1} == led
    assert all(rule.suppress and rule.table == MAIN_TABLE
               for rule in found.rules if rule.priority == first + 1)


def test_a_part_that_the_first_uplink_cannot_carry_goes_by_the_second() -> None:
    partial = LAN._replace(uplinks=("wan", "wan2"), on_short="partial")
    setup = config(partial, uplinks=TABLES)
    known = after(reply(*told("2001:db8:4000::/60")), uplink=TABLES[0], config=setup)
    known = after(SECOND, state=known, uplink=TABLES[1], config=setup)
    assert new(steered(known, setup)) == {
        "fd5e:ed00:1234::/60": 201, "fd5e:ed00:1234:10::/60": 202, "fd5e:ed00:1234:20::/59": 202}


def test_one_internal_prefix_may_have_different_slices_on_each_uplink() -> None:
    setup = config(LAN, LAN._replace(uplinks=("wan2",), subnet=1), uplinks=TABLES)
    known = after(FIRST, uplink=TABLES[0], config=setup)
    wide = reply(*told("2001:db8:8000::/57"))
    known = after(wide, state=known, uplink=TABLES[1], config=setup)
    assert new(steered(known, setup)) == {str(INTERNAL): 201}
    assert new(steered(down(known, "wan"), setup)) == {str(INTERNAL): 202}
    marked = {(rule.table, rule.source, rule.iif)
              for rule in steered(known, setup).rules if rule.mark[1]}
    assert marked == {(table, *who) for table in (201, 202)
                      for who in ((INTERNAL, ""), (None, "lo"))}


def test_a_longer_internal_prefix_counts_more() -> None:
    inner = Translation(("wan2",), N("fd5e:ed00:1234::/64"))
    setup = config(LAN, inner, uplinks=TABLES)
    known = both(setup)
    found = steered(known, setup)
    assert new(found)["fd5e:ed00:1234::/64"] == 202
    assert sum(N(net).num_addresses for net in new(found)) == INTERNAL.num_addresses
    assert dict(found.leading) == {INTERNAL: "wan", inner.internal: "wan2"}
    assert set(new(steered(down(known, "wan2"), setup)).values()) == {201}


def test_adjoining_internal_prefixes_are_one_rule() -> None:
    both_of = (LAN._replace(uplinks=("wan",)), NEXT)
    setup = config(*both_of, uplinks=TABLES)
    found = steered(after(LARGE, uplink=TABLES[0], config=setup), setup)
    assert new(found) == {"fd5e:ed00:1234::/57": 201}


# ---- the router's own --------------------------------------------------------------------------


def own(found: Steering) -> dict[str, int]:
    return {str(r.source): r.table for r in found.rules if r.priority == TABLED.priority + 3}


def test_the_routers_addresses_and_delegations_leave_by_their_uplink() -> None:
    paths = {
        "wan0": ROUTERS["wan0"]._replace(addresses=(
            IPv6Address("2001:db8:1::5"), IPv6Address("2001:db8:4000::1"),
            IPv6Address("fd5e:ed00:1234::5"))),
        "wan1": ROUTERS["wan1"]._replace(addresses=(IPv6Address("2001:db8:2::5"),)),
    }
    assert own(steered(both(), TABLED, paths=paths)) == {
        str(P1): 201, "2001:db8:1::5/128": 201, str(P2): 202, "2001:db8:2::5/128": 202}


def test_an_address_of_two_interfaces_belongs_to_the_first_uplink() -> None:
    paths = {name: path._replace(addresses=(IPv6Address("2001:db8:1::5"),))
             for name, path in ROUTERS.items()}
    assert own(steered(both(), TABLED, paths=paths)) == {
        str(P1): 201, "2001:db8:1::5/128": 201, str(P2): 202}


def test_an_uplink_needs_no_translation() -> None:
    fixed = WAN2._replace(table=202, prefix=N("2a02::2/128"), gateway=DIRECT)
    setup = config(LAN, uplinks=(WAN, fixed))
    known = transition.after_configuration(State({}), setup, NOW)
    found = steered(known, setup)
    assert own(found) == {"2a02::2/128": 202}
    assert new(found) == {}
    assert Route(EVERYTHING, "unicast", 202, 512, "wan1") in found.routes
    assert not any(r.destination == N("2a02::2/128") for r in found.routes)


def test_of_two_uplinks_on_one_interface_the_first_has_its_addresses() -> None:
    setup = config(LAN, uplinks=(WAN._replace(iaid=1, table=201),
                                 WAN2._replace(interface="wan0", iaid=2, table=202)))
    paths = {"wan0": ROUTERS["wan0"]._replace(addresses=(IPv6Address("2001:db8:1::5"),))}
    assert own(steered(both(setup), setup, paths=paths))["2001:db8:1::5/128"] == 201


# ---- many --------------------------------------------------------------------------------------


def test_ten_thousand_translations_are_shared_out_in_time() -> None:
    lans = [Translation(("wan", "wan2"), IPv6Network((0xFD << 120 | n << 65, 64)), subnet=n)
            for n in range(10_000)]
    setup = config(*lans, uplinks=TABLES)
    known = after(reply(*told("2001:db8::/48")), uplink=TABLES[0], config=setup)
    found = steered(known, setup)
    assert len(found.leading) == 10_000 and len(new(found)) == 10_000
