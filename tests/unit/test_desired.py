"""What the firewall should do: lanes, gates, and what is said to be wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdreactor import transition
from pdreactor.desired import desired
from pdreactor.model import Config, Desired, Down, State

from .scenarios import BOTH, FIRST, LARGE, LATER, NEXT, SCENARIOS, SECOND, UP
from .values import CONFIG, LAN, NOW, P1, P2, TWO, WAN, WAN2, N, after, config, reply, told

INTERNAL = LAN.internal


def wanted(known: State, config: Config = CONFIG, now: int = NOW, links=UP) -> Desired:
    return desired(config, known, links, now)


def said(found: Desired) -> list[str]:
    return [f"{p.uplink}: {p.message}" for p in found.problems]


# ---- lanes -----------------------------------------------------------------------------------


def test_a_prefix_is_a_lane_in_both_directions() -> None:
    (lane,) = wanted(after(FIRST)).nat.lanes
    assert (lane.uplink, lane.interface, lane.delegated) == ("wan", "wan0", P1)
    assert lane.outbound == ((INTERNAL, P1),)
    assert lane.inbound == lane.hairpin == ((P1, INTERNAL),)


def test_a_superseded_prefix_is_inbound_only() -> None:
    new, old = wanted(after(FIRST, SECOND)).nat.lanes
    assert (new.delegated, new.outbound) == (P2, ((INTERNAL, P2),))
    assert (old.delegated, old.outbound, old.inbound) == (P1, (), ((P1, INTERNAL),))


def test_of_two_current_prefixes_the_one_preferred_for_longest_goes_out() -> None:
    short, long = told(P1, preferred=10), told(P2, preferred=20)
    for order in ((*short, *long), (*long, *short)):
        lanes = wanted(after(reply(*order))).nat.lanes
        assert {lane.delegated for lane in lanes if lane.outbound} == {P2}
        assert all(lane.inbound for lane in lanes)
    for_ever = told(P1, preferred=None, valid=None)
    lanes = wanted(after(reply(*for_ever, *long))).nat.lanes
    assert {lane.delegated for lane in lanes if lane.outbound} == {P1}


def test_a_translation_takes_the_next_prefix_when_the_first_has_no_slice_for_it() -> None:
    small = told("2001:db8:9000::/60", preferred=50)
    found = wanted(after(reply(*small, *told(P2, preferred=20))))
    assert {lane.delegated for lane in found.nat.lanes if lane.outbound} == {P2}
    assert said(found) == []


@pytest.mark.parametrize(("subnet", "external"), [
    (0, "2001:db8:4000::/58"), (1, "2001:db8:4000:40::/58"), (3, "2001:db8:4000:c0::/58")])
def test_the_slice_of_a_larger_delegation(subnet: int, external: str) -> None:
    found = wanted(after(LARGE), config(LAN._replace(subnet=subnet)))
    assert found.nat.lanes[0].outbound == ((INTERNAL, N(external)),)


def test_a_slice_that_is_not_there_is_said_and_rejected() -> None:
    found = wanted(after(LARGE), config(LAN._replace(subnet=4)))
    assert found.nat.lanes == ()
    assert "no subnet 4" in said(found)[0]
    assert found.nat.gates[0].unserved == (INTERNAL,)


def test_a_delegation_that_is_too_small_is_refused_or_partly_used() -> None:
    known = after(reply(*told("2001:db8:4000::/60")))
    found = wanted(known)
    assert (found.nat.lanes, found.nat.gates[0].unserved) == ((), (INTERNAL,))
    assert "on_short" in said(found)[0]
    found = wanted(known, config(LAN._replace(on_short="partial")))
    assert found.nat.lanes[0].outbound == ((N("fd5e:ed00:1234::/60"), N("2001:db8:4000::/60")),)
    assert N("fd5e:ed00:1234::/60") not in found.nat.gates[0].unserved
    assert sum(n.num_addresses for n in found.nat.gates[0].unserved) == 3 * 2 ** 68


def test_an_excluded_prefix_is_never_used() -> None:
    hole = N("2001:db8:4000:3f::/64")
    found = wanted(after(reply(*told(P1, excluded=str(hole)))))
    (lane,) = found.nat.lanes
    assert not any(external.overlaps(hole) for _, external in lane.outbound)
    assert sum(i.num_addresses for i, _ in lane.outbound) == 63 * 2 ** 64
    assert found.nat.gates[0].unserved == (N("fd5e:ed00:1234:3f::/64"),)


def test_inbound_and_hairpin_can_be_off() -> None:
    (lane,) = wanted(after(FIRST), config(LAN._replace(inbound=False))).nat.lanes
    assert (lane.inbound, lane.hairpin) == ((), ((P1, INTERNAL),))
    (lane,) = wanted(after(FIRST), config(LAN._replace(hairpin=False))).nat.lanes
    assert (lane.inbound, lane.hairpin) == (((P1, INTERNAL),), ())


# ---- time and links --------------------------------------------------------------------------


def test_an_expired_prefix_is_kept_or_withdrawn() -> None:
    known = after(FIRST)
    assert wanted(known, now=LATER).nat.lanes == wanted(known).nat.lanes
    withdrawn = wanted(known, config(LAN._replace(on_expire="withdraw")), now=LATER)
    assert withdrawn.nat.lanes == ()
    assert withdrawn.nat.gates[0].unserved == (INTERNAL,)
    assert "expired" in said(withdrawn)[0]


def test_with_another_uplink_an_expired_prefix_is_not_kept() -> None:
    known = after(FIRST, config=TWO)
    assert wanted(known, TWO, now=LATER).nat.lanes == ()


def nested() -> Config:
    """A LAN by wan, and one network of it by wan2."""
    inner = LAN._replace(internal=N("fd5e:ed00:1234::/64"), uplinks=("wan2",))
    return TWO._replace(translations=(LAN, inner))


def test_an_internal_prefix_within_another_is_served_by_its_own_uplink_and_by_the_outer() -> None:
    setup = nested()
    known = after(SECOND, state=after(FIRST, config=setup), uplink=WAN2, config=setup)
    first, second = wanted(known, setup).nat.gates
    assert first.unserved == ()
    assert sum(net.num_addresses for net in second.unserved) == 63 * 2 ** 64
    assert not any(net.overlaps(setup.translations[1].internal) for net in second.unserved)


def test_the_uplink_of_the_prefix_around_is_another_uplink() -> None:
    setup = nested()
    known = after(SECOND, state=after(FIRST, config=setup), uplink=WAN2, config=setup)
    assert {lane.uplink for lane in wanted(known, setup, now=LATER).nat.lanes} == {"wan"}


def test_a_link_that_is_down_rejects_but_its_lane_stays() -> None:
    known = after(FIRST)
    for links, text in (({"wan0": False}, "no carrier"), ({}, "not there yet")):
        found = wanted(known, links=links)
        assert found.nat.lanes == wanted(known).nat.lanes
        assert found.nat.gates[0].unserved == (INTERNAL,)
        assert text in said(found)[0]


def test_nothing_learned_is_guard_and_a_word() -> None:
    found = wanted(State({}))
    assert found.nat.lanes == ()
    (gate,) = found.nat.gates
    assert (gate.interface, gate.internal, gate.unserved) == ("wan0", (INTERNAL,), (INTERNAL,))
    assert len(said(found)) == 1


def test_one_reason_for_many_translations_is_said_once() -> None:
    many = config(*(LAN._replace(internal=N(f"fd5e:ed00:1234:{n:x}::/64"), subnet=n)
                    for n in range(50)))
    (line,) = said(wanted(State({}), many))
    assert "50 translations" in line


# ---- gates -------------------------------------------------------------------------------------


def both_known() -> State:
    return after(SECOND, state=after(FIRST, config=TWO), uplink=WAN2, config=TWO)


def test_an_uplink_drops_the_sources_of_the_others_delegation() -> None:
    first, second = wanted(both_known(), TWO).nat.gates
    assert (first.interface, first.foreign) == ("wan0", (P2,))
    assert (second.interface, second.foreign) == ("wan1", (P1,))
    assert first.unserved == second.unserved == ()


def test_uplinks_on_one_interface_share_a_gate() -> None:
    shared = config(*BOTH, uplinks=(WAN._replace(iaid=1),
                                    WAN2._replace(interface="wan0", iaid=2)))
    known = after(SECOND, state=after(FIRST, config=shared), uplink=shared.uplinks[1],
                  config=shared)
    (gate,) = wanted(known, shared).nat.gates
    assert (gate.foreign, gate.unserved) == ((), ())


def down(known: State, name: str) -> State:
    entry = known.uplinks[name]._replace(down=Down(NOW, "no answer"))
    return known._replace(uplinks={**known.uplinks, name: entry})


def test_an_uplink_that_was_set_down_rejects() -> None:
    known = down(both_known(), "wan")
    found = wanted(known, TWO)
    assert [gate.unserved for gate in found.nat.gates] == [(INTERNAL,), ()]
    assert found.nat.lanes == wanted(both_known(), TWO).nat.lanes
    assert said(found) == ["wan: it was set down (no answer)"]


def test_an_uplink_with_a_table_rejects_nothing_since_rules_lead_elsewhere() -> None:
    tabled = TWO._replace(uplinks=(WAN._replace(table=201), WAN2._replace(table=202)))
    found = wanted(down(both_known(), "wan"), tabled, links={"wan0": True, "wan1": False})
    assert [gate.unserved for gate in found.nat.gates] == [(), ()]
    assert found.nat.kept == (1, 2)
    assert wanted(State({}), tabled).nat.kept == ()
    assert wanted(both_known(), TWO).nat.kept is None


@pytest.mark.parametrize("order", [("wan", "wan2"), ("wan2", "wan")])
def test_on_one_interface_the_most_wanted_uplink_in_use_has_the_outbound_traffic(
        order: tuple[str, str]) -> None:
    shared = config(LAN._replace(uplinks=order),
                    uplinks=(WAN._replace(iaid=1), WAN2._replace(interface="wan0", iaid=2)))
    known = after(SECOND, state=after(FIRST, config=shared), uplink=shared.uplinks[1],
                  config=shared)
    by = [lane.uplink for lane in wanted(known, shared).nat.lanes if lane.outbound]
    assert by == [order[0]]
    found = wanted(down(known, order[0]), shared)
    assert [lane.uplink for lane in found.nat.lanes if lane.outbound] == [order[1]]
    assert all(lane.inbound for lane in found.nat.lanes)
    assert found.nat.gates[0].unserved == ()


def test_the_only_uplink_by_two_translations_is_not_the_only_one() -> None:
    apart = config(LAN, LAN._replace(uplinks=("wan2",)), uplinks=(WAN, WAN2))
    known = after(FIRST, config=apart)
    assert wanted(known, apart).nat.lanes and not wanted(known, apart, now=LATER).nat.lanes


def test_an_uplink_that_does_not_serve_a_translation_guards_it_all_the_same() -> None:
    one = config(LAN, uplinks=(WAN, WAN2))
    gate = wanted(after(FIRST, config=one), one).nat.gates[1]
    assert gate.internal == gate.unserved == (INTERNAL,)


# ---- whatever comes ----------------------------------------------------------------------------


@given(st.lists(st.sampled_from([FIRST, SECOND, LARGE, reply(*told("2001:db8:4000::/60"))])),
       st.integers(0, 200), st.sampled_from(["keep", "withdraw"]),
       st.sampled_from(["refuse", "partial"]), st.booleans())
def test_each_internal_address_is_translated_once_or_rejected(
        events: list, seconds: int, on_expire: str, on_short: str, up: bool) -> None:
    lan = LAN._replace(on_expire=on_expire, on_short=on_short)
    setup = config(lan, NEXT)
    known = transition.after_time(after(*events, config=setup), setup, NOW + seconds)
    found = wanted(known, setup, NOW + seconds, {"wan0": up})
    sources = [i for lane in found.nat.lanes for i, _ in lane.outbound]
    (gate,) = found.nat.gates
    closed = gate.unserved
    assert not any(a.overlaps(b) for n, a in enumerate(sources) for b in sources[:n])
    assert not up or not any(a.overlaps(b) for a in sources for b in closed)
    total = sum(n.num_addresses for n in (*closed, *(sources if up else ())))
    assert total == 2 * INTERNAL.num_addresses
    for lane in found.nat.lanes:
        for internal, external in lane.outbound:
            assert internal.prefixlen == external.prefixlen
            assert external.subnet_of(lane.delegated)


def test_the_same_input_is_the_same_output() -> None:
    known = both_known()
    assert wanted(known, TWO) == wanted(known, TWO)
    assert len(SCENARIOS) > 20
