"""dhcpcd's recorded calls, one after the other: what the state file holds after each of them.

The recordings are of separate scenarios; replayed in the order of their numbers, prefixes carry
over from one to the next, as on a router whose ISP does all of this within a minute.
"""

import pytest

from pdreactor import events, reasons, transition
from pdreactor.model import State

from . import recorded
from .values import CONFIG, NOW, P1, WAN, after, current, generation, prefixes, superseded

Known = tuple[tuple[str, ...], tuple[str, ...]]
"""(current prefixes, superseded ones), each without the 2001:db8: in front."""

NOTHING: Known = ((), ())
FIRST: Known = (("4000::/58",), ())
SECOND: Known = (("8000::/58",), ())
TWO_IA = ("4000::/58", "4000:40::/58")
LEFT_OF_21_AND_27 = ("8000::/58", "8000:40::/58", "9::/48")
WITH_EXCLUDE: Known = (("4000::/56",), LEFT_OF_21_AND_27)

COMMON: dict[str, Known | None] = {
    "01-PREINIT-start": None,
    "02-NOCARRIER-start": NOTHING,
    "03-CARRIER-start": NOTHING,
    "04-BOUND6-first-lease": FIRST,
    "05-RECONFIGURE-dhcpcd-n": None,
    "06-REBIND6-dhcpcd-n-same-prefix": FIRST,
    # dhcpcd stops; the prefix is still ours
    "07-STOP6-sigterm": FIRST,
    "08-STOPPED-sigterm": FIRST,
    "09-RENEW6-same-prefix": FIRST,
    # the old one with lifetime 0: gone, not superseded
    "10-RENEW6-new-prefix-and-old-at-zero": SECOND,
    # and only in old_ afterwards, which brings nothing back
    "11-RENEW6-after-renumbering-old-at-zero-in-old": SECOND,
    "12-REBIND6-new-server-new-prefix": SECOND,
    "13-RENEW6-new-prefix-old-not-named": SECOND,
    "14-BOUND6-after-nobinding-new-prefix": SECOND,
    "15-BOUND6-after-refused-renew-new-prefix": SECOND,
    # takes 4000 back, which is not there any more, and says nothing of 8000
    "16-RENEW6-only-prefix-at-zero": SECOND,
    "17-EXPIRE6-right-after-zero": SECOND,
    "18-RENEW6-same-address-length-58-to-56": (("4000::/56",), ("8000::/58",)),
    "19-BOUND6-two-ia-pd": (TWO_IA, ("8000::/58",)),
    "20-RENEW6-two-ia-pd": (TWO_IA, ("8000::/58",)),
    "21-BOUND6-one-ia-pd-two-prefixes": (
        ("4000::/58", "8000:40::/58"), ("4000:40::/58", "8000::/58")),
    # one of the two at zero
    "22-RENEW6-one-of-two-prefixes-withdrawn": (
        ("8000:40::/58",), ("4000:40::/58", "8000::/58")),
    "23-BOUND6-address-and-prefix": (
        ("4000::/58",), ("4000:40::/58", "8000::/58", "8000:40::/58")),
    # an address only: no word about prefixes
    "24-REBOOT6-address-only-restart": (
        ("4000::/58",), ("4000:40::/58", "8000::/58", "8000:40::/58")),
    # the /60 takes the place of the /58 that contains it
    "25-BOUND6-asked-58-got-60": (
        ("4000::/60",), ("4000:40::/58", "8000::/58", "8000:40::/58")),
    # and the /56 that of the /60 and of the superseded /58 inside it
    "26-BOUND6-asked-58-got-56": (("4000::/56",), ("8000::/58", "8000:40::/58")),
    "27-BOUND6-infinite-lifetimes-t1-t2-zero": (
        ("9::/48",), ("4000::/56", "8000::/58", "8000:40::/58")),
    "28-BOUND6-prefix-with-host-bits": (("4000:40::/58",), LEFT_OF_21_AND_27),
    "29-BOUND6-excluded-prefix": WITH_EXCLUDE,
    "30-BOUND6-anonymous-no-variables": WITH_EXCLUDE,
    "31-BOUND6-dhcpcd-d": (("4000::/58",), LEFT_OF_21_AND_27),
    "32-BOUND6-via-run-hooks-two-ia-pd": (TWO_IA, LEFT_OF_21_AND_27),
    "33-STOPPED-never-had-a-prefix": (TWO_IA, LEFT_OF_21_AND_27),
    # the link may be down or the server dead: the lifetimes decide, not this call
    "34-EXPIRE6-server-gone-lifetime-over": (TWO_IA, LEFT_OF_21_AND_27),
    "35-BOUND6-after-expiry": (("4000::/58",), ("4000:40::/58", *LEFT_OF_21_AND_27)),
    "36-RELEASE6-dhcpcd-k": NOTHING,
    "37-STOPPED-dhcpcd-k": NOTHING,
    "38-STOPPED-persistent-no-STOP6-before": NOTHING,
    "39-NOCARRIER-lease-held": NOTHING,
    "40-EXPIRE6-carrier-lost": NOTHING,
    "41-CARRIER-carrier-back": NOTHING,
    "42-REBIND6-carrier-back": FIRST,
    "43-REBIND6-dhcpcd-killed-and-started": FIRST,
    "44-BOUND6-manager-mode-real-lan": FIRST,
}
"""None: not even relevant. The state is what it was."""

REST: dict[str, dict[str, Known | None]] = {
    "9.4.1": {
        "45-DELEGATED6-lan-address": FIRST,  # of lan0, which is no uplink
        "46-TEST-dhcpcd-T": None,
        "47-ROUTERADVERT-router-prefix-dns": FIRST,
        "48-ROUTERADVERT-router-lifetime-zero": FIRST,
        "49-ROUTERADVERT-stopping-empty": FIRST,
        "50-INFORM6-stateless": None,
        "51-BOUND-ipv4": None,
        "52-RENEW-ipv4": None,
        "53-EXPIRE-ipv4": None,
        "54-STOP-ipv4": None,
        "55-EXPIRE6-restarted-without-server-lease-still-valid": FIRST,
        "56-EXPIRE6-ten-seconds-after-T2-not-at-vltime": FIRST,
        "57-DEPARTED-interface-deleted": FIRST,
        "58-STOPPED-timeout-30s-no-STOP6-before": FIRST,
        "59-BOUND-ipv4-6rd": None,
        "60-RENEW-ipv4-6rd": None,
        "61-BOUND-ipv4-6rd-two-relays": None,
    },
    "10.3.2": {
        "45-TEST-dhcpcd-T": None,
        "46-ROUTERADVERT-router-prefix-dns": FIRST,
        "47-ROUTERADVERT-router-lifetime-zero": FIRST,
        "48-ROUTERADVERT-stopping-empty": FIRST,
        "49-INFORM6-stateless": None,
        "50-BOUND-ipv4": None,
        "51-RENEW-ipv4": None,
        "52-EXPIRE-ipv4": None,
        "53-STOP-ipv4": None,
        "54-TIMEOUT6-dhcpcd-n-without-server": FIRST,
        "55-BOUND6-server-back": FIRST,
        "56-NOCARRIER_ROAMING-start-wired": FIRST,
        "57-BOUND6-excluded-prefix-on-wan-no-variables": FIRST,
        "58-DELEGATED6-excluded-prefix-on-wan": (("4000::/56",), ()),
        "59-STOPPED-interface-deleted": (("4000::/56",), ()),
    },
    "git-8b312918": {
        "01-BOUND6-first-lease-ifxname": FIRST,
        "02-BOUND6-two-ia-pd": (TWO_IA, ()),
    },
}


def expected(version: str) -> dict[str, Known | None]:
    return REST[version] if version.startswith("git") else COMMON | REST[version]


def replayed(known: State, call: str, now: int) -> State:
    """The state after a call and its pass, which removes the doomed flows."""
    variables = events.parse_environ(recorded.block(call))
    if events.interface_of(variables) != WAN.interface:
        return known
    known = transition.after_event(known, events.event_for(variables, WAN), WAN, CONFIG, now)
    return transition.after_time(known, CONFIG, now)._replace(doomed=())


@pytest.mark.parametrize("version", REST)
def test_every_recording_in_its_order(version: str) -> None:
    table = expected(version)
    calls = [c.partition("/")[2] for c in recorded.all_calls() if c.startswith(f"{version}/")]
    assert calls == list(table)
    known = State({})
    for second, (call, want) in enumerate(table.items()):
        block = recorded.block(f"{version}/{call}")
        ipv4 = "-ipv4" in call and "PREINIT" not in call  # matters to tunnels, not to these
        assert reasons.relevant(block) == (want is not None or ipv4), call
        if want is not None:
            known = replayed(known, f"{version}/{call}", NOW + second)
            full = [{f"2001:db8:{text}" for text in part} for part in want]
            assert [current(known), superseded(known)] == full, call
            generations = [p.generation for p in prefixes(known)]
            assert len(set(generations)) == len(generations), call


def learned_first(version: str) -> State:
    return replayed(State({}), f"{version}/04-BOUND6-first-lease", NOW)


OWN_SCENARIO: dict[str, Known] = {
    "10-RENEW6-new-prefix-and-old-at-zero": SECOND,
    "12-REBIND6-new-server-new-prefix": SECOND,
    "13-RENEW6-new-prefix-old-not-named": (("8000::/58",), ("4000::/58",)),
    "14-BOUND6-after-nobinding-new-prefix": (("8000::/58",), ("4000::/58",)),
    "15-BOUND6-after-refused-renew-new-prefix": (("8000::/58",), ("4000::/58",)),
    "16-RENEW6-only-prefix-at-zero": NOTHING,
    "18-RENEW6-same-address-length-58-to-56": (("4000::/56",), ()),
    "36-RELEASE6-dhcpcd-k": NOTHING,
    "40-EXPIRE6-carrier-lost": FIRST,
}
"""After the first lease and nothing else: what each of these calls was recorded after."""


@pytest.mark.parametrize("version", ["9.4.1", "10.3.2"])
@pytest.mark.parametrize("call", OWN_SCENARIO)
def test_what_a_call_does_to_the_first_lease(version: str, call: str) -> None:
    known = replayed(learned_first(version), f"{version}/{call}", NOW + 10)
    want = [{f"2001:db8:{text}" for text in part} for part in OWN_SCENARIO[call]]
    assert [current(known), superseded(known)] == want


@pytest.mark.parametrize("version", ["9.4.1", "10.3.2"])
def test_lifetimes_of_the_first_lease_are_counted_from_its_arrival(version: str) -> None:
    (prefix,) = prefixes(learned_first(version))
    assert (prefix.preferred_until, prefix.valid_until) == (NOW + 3000, NOW + 4000)
    assert (prefix.iaid, prefix.reason, prefix.learned_at) == (1, "BOUND6", NOW)


@pytest.mark.parametrize("call", ["06-REBIND6-dhcpcd-n-same-prefix", "09-RENEW6-same-prefix"])
def test_a_renewal_is_the_same_prefix(call: str) -> None:
    first = learned_first("9.4.1")
    known = replayed(first, f"9.4.1/{call}", NOW + 100)
    (prefix,) = prefixes(known)
    assert prefix.learned_at == NOW
    assert prefix.updated_at == NOW + 100
    assert prefix.generation == generation(first, P1)


def test_old_prefix_that_comes_only_in_old_after_it_went_stays_away() -> None:
    calls = ("10-RENEW6-new-prefix-and-old-at-zero",
             "11-RENEW6-after-renumbering-old-at-zero-in-old")
    known = learned_first("9.4.1")
    for second, call in enumerate(calls):
        known = replayed(known, f"9.4.1/{call}", NOW + 10 + second)
    assert (current(known), superseded(known)) == ({"2001:db8:8000::/58"}, set())


def test_without_events_nothing_is_known() -> None:
    assert after() == State({})
