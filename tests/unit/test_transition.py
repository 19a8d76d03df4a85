"""From event to state: each row of the table, the stamps of flows, and what random events keep."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdreactor import marks, transition
from pdreactor.errors import Refused
from pdreactor.model import Config, Down, Event, Stamp, State
from pdreactor.state import decode, encode
from pdreactor.ways import Steering

from .values import (
    CONFIG,
    LAN,
    NOW,
    P1,
    P2,
    P3,
    TWO,
    WAN,
    WAN2,
    N,
    after,
    config,
    current,
    generation,
    gone,
    prefixes,
    reply,
    superseded,
    told,
)

OUT, IN = False, True


def stamps(*generations_and_directions: tuple[int, bool], uplink: int = 1) -> set[Stamp]:
    return {Stamp(uplink, g, direction) for g, direction in generations_and_directions}


# ---- what dhcpcd holds, perhaps for long ------------------------------------------------------


def test_what_is_current_already_is_nothing_new() -> None:
    known = after(reply(*told(P1)), reply(*told(P2, valid=60)))  # P1 is superseded

    def nothing_new(event: Event, now: int = NOW) -> bool:
        return transition.tells_nothing_new(known, event, CONFIG.uplinks[0], now)

    assert nothing_new(reply(*told(P2)))
    assert nothing_new(reply(*told(P2), *gone(P1)))
    assert nothing_new(Event("CARRIER", "wan0"))
    assert not nothing_new(reply(*told(P1)))
    assert not nothing_new(reply(*told(P1, P2)))
    assert not nothing_new(reply(*gone(P2)))
    assert not nothing_new(reply(*told(P2)), NOW + 61)  # what is known of it is over
    assert not transition.tells_nothing_new(
        State({}), reply(*told(P1)), CONFIG.uplinks[0], NOW)


# ---- the rows of the table -------------------------------------------------------------------


def test_a_prefix_with_lifetimes_is_current_and_counted_from_now() -> None:
    known = after(reply(*told(P1, valid=60, preferred=40), reason="BOUND6"))
    (prefix,) = prefixes(known)
    assert (prefix.network, prefix.iaid, prefix.reason) == (P1, 1, "BOUND6")
    assert (prefix.preferred_until, prefix.valid_until) == (NOW + 40, NOW + 60)
    assert (prefix.learned_at, prefix.updated_at) == (NOW, NOW)
    assert prefix.superseded_at is None
    assert known.uplinks["wan"].number == 1
    assert known.doomed == ()


def test_infinite_lifetimes_stay_infinite() -> None:
    (prefix,) = prefixes(after(reply(*told(P1, valid=None, preferred=None))))
    assert (prefix.preferred_until, prefix.valid_until) == (None, None)
    assert not prefix.expired(1 << 40)


def test_a_prefix_has_expired_at_the_very_second() -> None:
    (prefix,) = prefixes(after(reply(*told(P1, valid=60))))
    assert not prefix.expired(NOW + 59)
    assert prefix.expired(NOW + 60)


def test_lifetime_zero_takes_a_prefix_away_with_all_of_its_flows() -> None:
    known = after(reply(*told(P1)), reply(*gone(P1)))
    assert prefixes(known) == ()
    assert set(known.doomed) == stamps((0, OUT), (0, IN))


def test_lifetime_zero_of_what_was_never_there_changes_nothing_but_the_uplink() -> None:
    known = after(reply(*gone(P1)))
    assert (prefixes(known), known.doomed, known.history) == ((), (), ())


def test_lifetime_zero_of_one_leaves_the_others() -> None:
    known = after(reply(*told(P1, P2)), reply(*gone(P1)))
    assert (current(known), superseded(known)) == ({str(P2)}, set())


def test_release_takes_every_prefix_also_superseded_ones() -> None:
    known = after(reply(*told(P1)), reply(*told(P2)), Event("RELEASE6", "wan0"))
    assert prefixes(known) == ()
    assert set(known.doomed) == stamps((0, OUT), (0, IN), (1, OUT), (1, IN))


@pytest.mark.parametrize("reason", ["EXPIRE6", "NOCARRIER", "STOP6", "TIMEOUT6", "STOPPED",
                                    "BOUND6", "RENEW6", "CARRIER", "DEPARTED", "WHATEVER"])
def test_an_event_without_a_reply_leaves_the_very_same_state(reason: str) -> None:
    known = after(reply(*told(P1)))
    assert after(Event(reason, "wan0"), state=known) is known


def test_another_prefix_supersedes_the_one_that_is_not_named() -> None:
    known = after(reply(*told(P1, valid=600)), reply(*told(P2)))
    assert (current(known), superseded(known)) == ({str(P2)}, {str(P1)})
    old = prefixes(known)[1]
    assert old.superseded_at == NOW + 1
    assert old.valid_until == NOW + 600


def test_superseding_dooms_the_outbound_flows_only() -> None:
    known = after(reply(*told(P1)), reply(*told(P2)))
    assert set(known.doomed) == stamps((0, OUT))


def test_when_it_was_superseded_does_not_move() -> None:
    known = after(reply(*told(P1, valid=600)), *[reply(*told(P2))] * 5)
    assert prefixes(known)[1].superseded_at == NOW + 1


def test_named_only_in_old_with_nothing_new_is_superseded() -> None:
    known = after(reply(*told(P1, P2)), reply(withdrawn=told(P1)))
    assert (current(known), superseded(known)) == ({str(P2)}, {str(P1)})


def test_old_of_what_is_not_known_brings_nothing_back() -> None:
    known = after(reply(*told(P2)), reply(*told(P2), withdrawn=told(P1)))
    assert {str(p.network) for p in prefixes(known)} == {str(P2)}


def test_a_superseded_prefix_comes_back_with_its_generation_and_nothing_doomed() -> None:
    known = after(reply(*told(P1)), reply(*told(P2)), reply(*told(P1)))
    assert (current(known), superseded(known)) == ({str(P1)}, {str(P2)})
    assert generation(known, P1) == 0
    assert set(known.doomed) == stamps((generation(known, P2), OUT))


def test_a_prefix_that_expired_meanwhile_is_not_kept_as_superseded() -> None:
    known = after(reply(*told(P1, valid=60)))
    known = after(reply(*told(P2)), state=known, now=NOW + 60)
    assert {str(p.network) for p in prefixes(known)} == {str(P2)}
    assert set(known.doomed) == stamps((0, OUT), (0, IN))


def test_the_replys_order_is_the_states() -> None:
    known = after(reply(*told(P2, P1, P3)))
    assert [p.network for p in prefixes(known)] == [P2, P1, P3]


def test_an_excluded_prefix_follows_the_last_reply() -> None:
    known = after(reply(*told("2001:db8:4000::/56", excluded="2001:db8:4000:ff::/64")))
    assert prefixes(known)[0].excluded == N("2001:db8:4000:ff::/64")
    assert prefixes(after(reply(*told("2001:db8:4000::/56")), state=known))[0].excluded is None


# ---- generations -----------------------------------------------------------------------------


def test_a_prefix_that_goes_with_its_successors_reply_leaves_it_another_generation() -> None:
    """Otherwise its flows could not be told from the new prefix's."""
    known = after(reply(*told(P1)), reply(*told(P2), *gone(P1)))
    assert generation(known, P2) != 0
    assert set(known.doomed) == stamps((0, OUT), (0, IN))


def test_a_doomed_generation_is_not_given_away() -> None:
    known = after(reply(*told(P1)), reply(*gone(P1)), reply(*told(P2)))
    assert generation(known, P2) == 1
    assert set(known.doomed) == stamps((0, OUT), (0, IN))


def test_once_cleaned_a_generation_is_free_again() -> None:
    known = after(reply(*told(P1)), reply(*gone(P1)))._replace(doomed=())
    assert generation(after(reply(*told(P2)), state=known), P2) == 0


def test_growing_keeps_the_generation_because_slices_and_flows_stay_valid() -> None:
    known = after(reply(*told(P1)), reply(*told("2001:db8:4000::/56")))
    assert current(known) == {"2001:db8:4000::/56"}
    assert superseded(known) == set()
    assert generation(known, "2001:db8:4000::/56") == 0
    assert prefixes(known)[0].learned_at == NOW
    assert known.doomed == ()


@pytest.mark.parametrize("smaller", ["2001:db8:4000::/60", "2001:db8:4000:10::/60"])
def test_shrinking_is_another_prefix(smaller: str) -> None:
    """Flows outside of what is left have to go."""
    known = after(reply(*told(P1)), reply(*told(smaller)))
    assert (current(known), superseded(known)) == ({smaller}, set())
    assert generation(known, smaller) == 1
    assert set(known.doomed) == stamps((0, OUT), (0, IN))


def test_growing_around_another_address_is_another_prefix() -> None:
    known = after(reply(*told("2001:db8:4000:40::/58")), reply(*told("2001:db8:4000::/56")))
    assert (current(known), superseded(known)) == ({"2001:db8:4000::/56"}, set())
    assert generation(known, "2001:db8:4000::/56") == 1


def test_the_oldest_superseded_prefixes_make_room() -> None:
    room = marks.generations(CONFIG.ct_mark_mask)
    networks = [f"2001:db8:{n:x}::/58" for n in range(1, room + 4)]
    known = State({})
    for number, network in enumerate(networks):
        event = reply(*told(network, valid=100_000))
        known = after(event, state=known, now=NOW + number)._replace(doomed=())
    assert current(known) == {networks[-1]}
    assert superseded(known) == set(networks[-room:-1])


def test_as_many_prefixes_as_the_mark_can_tell_and_not_one_more() -> None:
    room = marks.generations(CONFIG.ct_mark_mask)
    networks = [f"2001:db8:{n:x}::/58" for n in range(1, room + 2)]
    assert len(current(after(reply(*told(*networks[:-1]))))) == room
    with pytest.raises(Refused, match="ct_mark_mask"):
        after(reply(*told(*networks)))


# ---- uplinks ---------------------------------------------------------------------------------


def both(*second: str) -> State:
    known = after(reply(*told(P1)), config=TWO)
    return after(reply(*told(*second)), state=known, uplink=WAN2, config=TWO)


def test_each_uplink_has_a_number_of_its_own() -> None:
    known = both(str(P2))
    assert [known.uplinks[name].number for name in ("wan", "wan2")] == [1, 2]
    assert (current(known), current(known, "wan2")) == ({str(P1)}, {str(P2)})


def test_a_free_number_is_taken_again() -> None:
    known = both(str(P2))
    known = known._replace(uplinks={"wan2": known.uplinks["wan2"]})
    assert after(reply(*told(P1)), state=known, config=TWO).uplinks["wan"].number == 1


def test_no_number_left_is_refused_in_words() -> None:
    small = config(ct_mark_mask=0xF)
    known = State({f"gone{n}": transition.UplinkState(n) for n in (1, 2, 3)})
    with pytest.raises(Refused, match="no room for another uplink"):
        after(reply(*told(P1)), state=known, config=small)


@pytest.mark.parametrize("network", [str(P1), "2001:db8:4000::/48", "2001:db8:4000::/64"])
def test_a_prefix_of_another_uplink_is_refused(network: str) -> None:
    with pytest.raises(Refused, match=r"overlaps 2001:db8:4000::/58 of uplink wan"):
        both(network)


def test_taking_back_what_another_uplink_has_is_no_conflict() -> None:
    known = after(reply(*told(P1)), config=TWO)
    known = after(reply(*gone(P1), *told(P2)), state=known, uplink=WAN2, config=TWO)
    assert (current(known), current(known, "wan2")) == ({str(P1)}, {str(P2)})


def test_a_prefix_that_the_lan_uses_inside_is_refused() -> None:
    inside = config(LAN._replace(internal=N("2001:db8:4000::/56")))
    with pytest.raises(Refused, match="internal"):
        after(reply(*told(P1)), config=inside)


def test_a_prefix_of_the_uplinks_own_link_is_refused_unless_excluded() -> None:
    link = [N("2001:db8:4000:1::/64")]
    event = reply(*told(P1))
    with pytest.raises(Refused, match="own link"):
        transition.after_event(transition.EMPTY, event, WAN, CONFIG, NOW, link)
    event = reply(*told(P1, excluded="2001:db8:4000:1::/64"))
    assert current(transition.after_event(transition.EMPTY, event, WAN, CONFIG, NOW, link))


def test_a_refusal_is_remembered_and_changes_no_prefix() -> None:
    known = after(reply(*told(P1)))
    refused = transition.after_refusal(known, "wan", "BOUND6", "too long", CONFIG, NOW + 5)
    assert refused.uplinks["wan"].refusal == (NOW + 5, "BOUND6", "too long")
    assert (prefixes(refused), refused.doomed) == (prefixes(known), known.doomed)
    assert refused.history[-1].text == "refused: too long"


def test_the_next_good_reply_clears_the_refusal() -> None:
    known = transition.after_refusal(State({}), "wan", "BOUND6", "too long", CONFIG, NOW)
    assert after(reply(*told(P1)), state=known).uplinks["wan"].refusal is None


# ---- history ---------------------------------------------------------------------------------


def test_history_says_what_happened_to_which_prefix() -> None:
    known = after(reply(*told(P1), reason="BOUND6"), reply(*told(P2)), reply(*told(P1)),
                  reply(*gone(P1, P2)))
    assert [(h.at - NOW, h.uplink, h.reason, h.text) for h in known.history] == [
        (0, "wan", "BOUND6", f"{P1} learned"),
        (1, "wan", "RENEW6", f"{P2} learned"),
        (1, "wan", "RENEW6", f"{P1} superseded"),
        (2, "wan", "RENEW6", f"{P2} superseded"),
        (2, "wan", "RENEW6", f"{P1} current again"),
        (3, "wan", "RENEW6", f"{P1} gone"),
        (3, "wan", "RENEW6", f"{P2} gone"),
    ]


def test_a_renewal_is_nothing_to_remember() -> None:
    assert len(after(*[reply(*told(P1))] * 5).history) == 1


def test_history_is_bounded_and_keeps_the_newest() -> None:
    known = after(*[reply(*told(P1)), reply(*told(P2))] * 40)
    assert len(known.history) == transition.HISTORY
    assert known.history[-1].at == NOW + 79
    for number in range(transition.HISTORY + 5):
        known = transition.after_refusal(known, "wan", "BOUND6", str(number), CONFIG, NOW)
    assert len(known.history) == transition.HISTORY


# ---- time ------------------------------------------------------------------------------------


def test_before_its_time_nothing_happens() -> None:
    known = after(reply(*told(P1, valid=60)), reply(*told(P2)))
    assert transition.after_time(known, CONFIG, NOW + 59) is known


def test_a_superseded_prefix_goes_when_its_lifetime_ends_and_its_inbound_flows_too() -> None:
    known = after(reply(*told(P1, valid=60)), reply(*told(P2, valid=600)))._replace(doomed=())
    known = transition.after_time(known, CONFIG, NOW + 60)
    assert {str(p.network) for p in prefixes(known)} == {str(P2)}
    assert set(known.doomed) == stamps((0, IN))
    assert known.history[-1].text == f"{P1} gone"


def test_the_last_prefix_is_kept_when_a_translation_wants_that() -> None:
    known = after(reply(*told(P1, valid=60)))
    assert transition.after_time(known, CONFIG, NOW + 10_000) is known


def test_the_last_prefix_goes_when_no_translation_keeps_it() -> None:
    withdraw = config(LAN._replace(on_expire="withdraw"))
    known = transition.after_time(after(reply(*told(P1, valid=60))), withdraw, NOW + 60)
    assert prefixes(known) == ()
    assert set(known.doomed) == stamps((0, OUT), (0, IN))


def test_one_translation_that_keeps_it_is_enough() -> None:
    mixed = config(LAN._replace(on_expire="withdraw"),
                   LAN._replace(internal=N("fd5e:ed00:1234:40::/58")))
    known = after(reply(*told(P1, valid=60)), config=mixed)
    assert transition.after_time(known, mixed, NOW + 60) is known


def test_an_expired_prefix_beside_a_valid_one_goes() -> None:
    known = after(reply(*told(P1, valid=60), *told(P2, valid=600)))
    assert current(transition.after_time(known, CONFIG, NOW + 60)) == {str(P2)}


def test_time_on_one_uplink_is_none_of_the_other() -> None:
    withdraw = TWO._replace(translations=(LAN._replace(uplinks=("wan2",)),))
    known = after(reply(*told(P2, valid=60)), config=withdraw, uplink=WAN2)
    known = after(reply(*told(P1, valid=60)), config=withdraw, state=known)
    known = transition.after_time(known, withdraw, NOW + 60)
    assert (current(known), current(known, "wan2")) == (set(), {str(P2)})


# ---- static prefixes -------------------------------------------------------------------------

STATIC = config(uplinks=(WAN._replace(prefix=P1),))


def test_a_static_prefix_is_there_for_ever() -> None:
    known = transition.after_configuration(State({}), STATIC, NOW)
    (prefix,) = prefixes(known)
    assert (prefix.network, prefix.valid_until, prefix.reason) == (P1, None, "static")
    assert transition.after_configuration(known, STATIC, NOW + 5) is known


def test_a_static_prefix_replaces_what_was_learned() -> None:
    known = transition.after_configuration(after(reply(*told(P2))), STATIC, NOW)
    assert [p.network for p in prefixes(known)] == [P1]
    assert set(known.doomed) == stamps((0, OUT), (0, IN))


def test_another_static_prefix_replaces_the_first() -> None:
    known = transition.after_configuration(State({}), STATIC, NOW)
    other = config(uplinks=(WAN._replace(prefix=P2),))
    assert current(transition.after_configuration(known, other, NOW)) == {str(P2)}


def test_without_a_static_prefix_the_configuration_changes_nothing() -> None:
    known = transition.after_configuration(after(reply(*told(P1))), CONFIG, NOW)
    assert prefixes(known) == prefixes(after(reply(*told(P1))))
    assert transition.after_configuration(known, CONFIG, NOW) is known


def test_a_prefix_that_was_static_lasts_until_one_is_learned() -> None:
    """Nobody would ever say that its time is over."""
    known = transition.after_configuration(State({}), STATIC, NOW)
    known = transition.after_configuration(known, CONFIG, NOW)
    assert current(known) == {str(P1)}
    known = transition.after_configuration(after(reply(*told(P2)), state=known), CONFIG, NOW)
    assert [p.network for p in prefixes(known)] == [P2]
    assert stamps((0, OUT), (0, IN)) <= set(known.doomed)


# ---- another mode ------------------------------------------------------------------------------


def in_mode(mode: str) -> Config:
    return config(LAN._replace(mode=mode))


def test_flows_that_conntrack_translates_go_with_the_mode() -> None:
    known = transition.after_configuration(after(reply(*told(P1))), CONFIG, NOW)
    other = transition.after_configuration(known, in_mode("stateless"), NOW)
    assert set(other.doomed) == stamps((0, OUT), (0, IN)) and not other.exposed
    assert prefixes(other) == prefixes(known)
    again = transition.after_configuration(other, in_mode("stateless"), NOW)
    assert again is other


@pytest.mark.parametrize("mode", ["stateless", "rfc6296"])
def test_flows_that_it_does_not_are_looked_for_after_the_change(mode: str) -> None:
    known = transition.after_configuration(after(reply(*told(P1))), in_mode(mode), NOW)
    assert not known.exposed, "a new translation has no flows"
    other = transition.after_configuration(known, CONFIG, NOW)
    assert other.exposed and not other.doomed


def test_between_modes_without_conntrack_nothing_has_to_go() -> None:
    known = transition.after_configuration(after(reply(*told(P1))), in_mode("stateless"), NOW)
    other = transition.after_configuration(known, in_mode("rfc6296"), NOW)
    assert (other.exposed, other.doomed) == (False, ())


TABLED = TWO._replace(uplinks=(WAN._replace(table=201), WAN2))


@pytest.mark.parametrize(("before", "after_", "doomed"), [
    (TABLED, TABLED._replace(translations=(LAN._replace(uplinks=("wan2",)),)), True),
    (TWO, TWO._replace(translations=(LAN._replace(uplinks=("wan2",)),)), False),
    (TABLED, TWO, True),
    (TWO, TABLED, False),
])
def test_flows_go_where_no_mark_leads_them_to_their_uplink_any_more(
        before: Config, after_: Config, doomed: bool) -> None:
    known = transition.after_configuration(both(str(P2)), before, NOW)
    other = transition.after_configuration(known, after_, NOW)
    assert set(other.doomed) == (stamps((0, OUT), (0, IN)) if doomed else set())
    assert prefixes(other) == prefixes(known)
    assert transition.after_configuration(other, after_, NOW) is other


# ---- another mask ----------------------------------------------------------------------------


def test_numbers_that_do_not_fit_another_mask_are_given_anew() -> None:
    small = TWO._replace(ct_mark_mask=0xF)  # three uplinks, two generations
    known = both(str(P2))
    for network in ("2001:db8:5::/58", "2001:db8:6::/58", "2001:db8:7::/58"):
        known = after(reply(*told(network)), state=known, config=TWO)
    known = transition.after_configuration(known, small, NOW)
    assert [known.uplinks[name].number for name in ("wan", "wan2")] == [1, 2]
    assert current(known) == {"2001:db8:7::/58"}, "the newest stay"
    assert [p.generation for p in prefixes(known)] == [0, 1]
    assert current(known, "wan2") == {str(P2)}
    assert known.doomed == ()
    assert transition.after_configuration(known, small, NOW) is known


def test_an_uplink_number_that_does_not_fit_is_given_anew() -> None:
    known = State({"old": transition.UplinkState(9),
                   "wan": after(reply(*told(P1))).uplinks["wan"]._replace(number=8)})
    known = transition.after_configuration(known, config(ct_mark_mask=0xF), NOW)
    assert list(known.uplinks) == ["wan"]
    assert known.uplinks["wan"].number == 1
    assert current(known) == {str(P1)}


# ---- the use of uplinks ----------------------------------------------------------------------

INNER = N("fd00:77::/64")
SEVERAL = config(TWO.translations[0], LAN._replace(internal=INNER, uplinks=("wan2", "wan")),
                 uplinks=(WAN, WAN2))
NO_ANSWER = Down(NOW, "no answer")


def led(by: str, inner: str = "wan2", **unusable: str) -> Steering:
    """New flows of the LAN go by one uplink, those of INNER by another."""
    return Steering((), (), ((LAN.internal, by), (INNER, inner)), unusable)


def steered(known: State, *ways: Steering) -> State:
    for number, way in enumerate(ways):
        known = transition.after_steering(known, way, SEVERAL, NOW + number)
    return known


def test_an_uplink_is_set_down_once_and_back_in_use() -> None:
    known = both(str(P2))
    down = transition.after_use(known, "wan", NO_ANSWER, TWO)
    assert down.uplinks["wan"] == known.uplinks["wan"]._replace(down=NO_ANSWER)
    assert down.uplinks["wan2"] == known.uplinks["wan2"]
    later = Down(NOW + 60, "no answer")
    assert transition.after_use(down, "wan", later, TWO) is down, "the first time counts"
    other = transition.after_use(down, "wan", Down(NOW + 60, "loss 40 %"), TWO)
    assert other.uplinks["wan"].down == Down(NOW + 60, "loss 40 %")
    assert transition.after_use(other, "wan", None, TWO) == known
    assert transition.after_use(known, "wan", None, TWO) is known


def test_an_uplink_without_a_prefix_is_set_down_too() -> None:
    known = transition.after_use(State({}), "wan", NO_ANSWER, TWO)
    assert known.uplinks["wan"].down == NO_ANSWER
    assert after(reply(*told(P1)), state=known).uplinks["wan"].down == NO_ANSWER
    released = after(reply(*told(P1)), Event("RELEASE6", "wan0"), state=known)
    assert released.uplinks["wan"].down == NO_ANSWER


def test_the_flows_of_an_uplink_that_fails_are_doomed_once_when_another_takes_over() -> None:
    known = steered(both(str(P2)), led("wan"))
    assert known.doomed == ()
    known = steered(known, led("wan2", wan="no carrier"))
    assert set(known.doomed) == stamps((0, OUT), (0, IN))
    known = steered(known._replace(doomed=()), led("wan2", wan="no carrier"))
    assert known.doomed == (), "flows that came back by it since then are left alone"


def test_the_flows_of_an_uplink_that_nobody_replaces_stay() -> None:
    known = steered(both(str(P2)), led("wan"), led("", "", wan="no carrier", wan2="no carrier"))
    assert known.doomed == ()
    known = steered(known, led("wan2", wan="no carrier"))
    assert set(known.doomed) == stamps((0, OUT), (0, IN)), "until somebody does"


def test_the_flows_on_the_second_uplink_stay_when_the_first_returns() -> None:
    known = steered(both(str(P2)), led("wan"), led("wan2", wan="no carrier"))
    known = steered(known._replace(doomed=()), led("wan"))
    assert (known.doomed, known.left) == ((), ())
    again = steered(known, led("wan2", wan="no carrier"))
    assert set(again.doomed) == stamps((0, OUT), (0, IN)), "each failure counts"


def test_an_uplink_that_only_waits_for_its_turn_loses_its_flows_when_it_fails() -> None:
    known = steered(both(str(P2)), led("wan", "wan"), led("wan", "wan", wan2="no carrier"))
    assert set(known.doomed) == stamps((0, OUT), (0, IN), uplink=2)


def test_the_flows_of_an_expired_prefix_are_doomed_once_when_another_uplink_takes_over() -> None:
    longer = reply(*told(P2, valid=600))
    known = after(longer, state=both(str(P2)), uplink=WAN2, config=SEVERAL)
    known = steered(known, led("wan"))
    assert transition.after_steering(known, led("", ""), SEVERAL, NOW + 60).doomed == ()
    known = transition.after_steering(known, led("wan2"), SEVERAL, NOW + 60)
    assert set(known.doomed) == stamps((0, OUT), (0, IN))
    known = known._replace(doomed=())
    assert transition.after_steering(known, led("wan2"), SEVERAL, NOW + 61) == known
    renewed = after(reply(*told(P1)), state=known, config=SEVERAL, now=NOW + 70)
    assert transition.after_steering(renewed, led("wan"), SEVERAL, NOW + 70).left == ()


def test_the_history_tells_where_new_flows_go_and_why() -> None:
    before = both(str(P2)).history
    known = steered(both(str(P2)), led("wan"), led("wan"), led("wan2", wan="no carrier"),
                    led("", "", wan="no carrier", wan2="set down: x"), led("wan", "wan"))
    told_ = [(happening.at - NOW, happening.uplink, happening.text)
             for happening in known.history[len(before):]]
    assert told_ == [
        (2, "wan2", f"new flows of {LAN.internal} by wan2 and not wan: no carrier"),
        (3, "wan2", "no uplink for new flows of 2 internal prefixes any more: set down: x"),
        (4, "wan", "new flows of 2 internal prefixes by wan"),
    ]


# ---- whatever comes --------------------------------------------------------------------------

NETWORKS = [N(f"2001:db8:{n}::/{length}") for n in (1, 2, 3) for length in (56, 58, 60)]
NETWORKS += [N("2001:db8:1:40::/58"), N("2001:db8:1:10::/60")]
lifetimes = st.sampled_from([(0, 0), (0, 5), (10, 20), (30, 60), (None, None), (50, None)])


@st.composite
def replies(draw: st.DrawFn) -> Event:
    if draw(st.integers(0, 9)) == 0:
        return Event(draw(st.sampled_from(["RELEASE6", "EXPIRE6", "STOP6"])), "wan0")
    chosen = draw(st.lists(st.sampled_from(NETWORKS), max_size=4, unique=True))
    named: list = []
    for network in chosen:  # events.py refuses valid prefixes that overlap in one reply
        preferred, valid = draw(lifetimes)
        if valid == 0 or not any(d.valid != 0 and d.network.overlaps(network) for d in named):
            named += told(network, valid=valid, preferred=preferred)
    old = draw(st.lists(st.sampled_from(NETWORKS), max_size=2, unique=True))
    withdrawn = told(*(n for n in old if n not in chosen))
    return reply(*named, withdrawn=withdrawn, reason="BOUND6")


steps = st.lists(st.tuples(st.sampled_from([WAN, WAN2]), replies(), st.integers(0, 40),
                           st.booleans()), max_size=25)


def check(known: State) -> None:
    assert len({u.number for u in known.uplinks.values()}) == len(known.uplinks)
    live = [(name, p) for name, u in known.uplinks.items() for p in u.prefixes]
    for index, (name, one) in enumerate(live):
        assert 0 <= one.generation < marks.generations(TWO.ct_mark_mask)
        for other_name, other in live[:index]:
            assert not one.network.overlaps(other.network)
            assert name != other_name or one.generation != other.generation
    for name, uplink in known.uplinks.items():
        alive = {Stamp(uplink.number, p.generation, d) for p in known.uplinks[name].prefixes
                 for d in (IN, OUT) if d or p.superseded_at is None}
        assert not alive & set(known.doomed)
    assert len(known.history) <= transition.HISTORY
    assert decode(encode(known)) == known


@given(steps)
@settings(max_examples=300, deadline=None)
def test_random_events_keep_what_the_rest_relies_on(sequence: list) -> None:
    known, now = State({}), NOW
    for uplink, event, seconds, cleaned in sequence:
        now += seconds
        known = transition.after_time(known, TWO, now)
        before = known
        try:
            known = transition.after_event(known, event, uplink, TWO, now)
        except Refused:
            continue
        check(known)
        again = transition.after_event(known, event, uplink, TWO, now)
        assert again == known, "doing it twice changes something"
        forgotten = stamps_of(before) - stamps_of(known) - set(known.doomed)
        assert not forgotten, "flows that nobody will remove"
        check_inheritance(before, known)
        known = known._replace(doomed=()) if cleaned else known
        check(transition.after_time(known, TWO, now + seconds))


def check_inheritance(before: State, known: State) -> None:
    """A generation passes on only with the address, while there is any other."""
    for name, uplink in before.uplinks.items():
        owners = {p.generation: p.network.network_address for p in uplink.prefixes}
        taken = set(owners) | {s.generation for s in before.doomed if s.uplink == uplink.number}
        heirs = known.uplinks[name].prefixes
        if len(taken) + len(heirs) <= marks.generations(TWO.ct_mark_mask):
            for heir in heirs:
                same = owners.get(heir.generation, heir.network.network_address)
                assert heir.network.network_address == same


def stamps_of(known: State) -> set[Stamp]:
    return {Stamp(u.number, p.generation, d) for u in known.uplinks.values() for p in u.prefixes
            for d in (IN, OUT) if d or p.superseded_at is None}
