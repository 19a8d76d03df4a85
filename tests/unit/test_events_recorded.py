"""What dhcpcd's recorded calls say."""

import pytest

from pdreactor import events, reasons
from pdreactor.model import Delegation, Event, Uplink

from . import recorded
from .replies import WAN

Texts = tuple[str, ...]


def event(call: str, uplink: Uplink = WAN, *, ordered: bool = True) -> Event:
    variables = events.parse_environ(recorded.block(call, ordered=ordered))
    return events.event_for(variables, uplink)


def texts(delegations: tuple[Delegation, ...] | None) -> Texts | None:
    return None if delegations is None else tuple(text(one) for one in delegations)


def text(one: Delegation) -> str:
    hole = f" without {one.excluded}" if one.excluded else ""
    return f"{one.network} iaid {one.iaid} for {one.preferred}/{one.valid}{hole}"


# ---- the recordings --------------------------------------------------------------------------

P1 = "2001:db8:4000::/58 iaid 1 for {}"
P1_LONG, P1_GONE = P1.format("3000/4000"), P1.format("0/0")
TWO_IA = (P1.format("12/18"), "2001:db8:4000:40::/58 iaid 2 for 12/18")

REPLIES: dict[str, tuple[Texts | None, Texts]] = {
    "BOUND6-first-lease": ((P1_LONG,), ()),
    "BOUND6-first-lease-ifxname": ((P1_LONG,), ()),
    "REBIND6-dhcpcd-n-same-prefix": ((P1_LONG,), ()),
    "RENEW6-same-prefix": ((P1.format("12/18"),), ()),
    "RENEW6-new-prefix-and-old-at-zero": (
        ("2001:db8:8000::/58 iaid 1 for 20/40", P1_GONE),
        (),
    ),
    "RENEW6-after-renumbering-old-at-zero-in-old": (
        ("2001:db8:8000::/58 iaid 1 for 20/40",),
        (P1_GONE,),
    ),
    "REBIND6-new-server-new-prefix": (
        ("2001:db8:8000::/58 iaid 1 for 30/60", P1_GONE),
        (),
    ),
    "RENEW6-new-prefix-old-not-named": (
        ("2001:db8:8000::/58 iaid 1 for 40/60",),
        (P1.format("40/60"),),
    ),
    "BOUND6-after-nobinding-new-prefix": (
        ("2001:db8:8000::/58 iaid 1 for 40/60",),
        (P1.format("40/60"),),
    ),
    "BOUND6-after-refused-renew-new-prefix": (
        ("2001:db8:8000::/58 iaid 1 for 300/400",),
        (P1.format("50/60"),),
    ),
    "RENEW6-only-prefix-at-zero": ((P1_GONE,), ()),
    "RENEW6-same-address-length-58-to-56": (
        ("2001:db8:4000::/56 iaid 1 for 40/60",),
        (P1.format("40/60"),),
    ),
    "BOUND6-two-ia-pd": (TWO_IA, ()),
    "RENEW6-two-ia-pd": (TWO_IA, ()),
    "BOUND6-one-ia-pd-two-prefixes": (
        (P1.format("20/40"), "2001:db8:8000:40::/58 iaid 1 for 20/40"),
        (),
    ),
    "RENEW6-one-of-two-prefixes-withdrawn": (
        (P1_GONE, "2001:db8:8000:40::/58 iaid 1 for 20/40"),
        (),
    ),
    "BOUND6-address-and-prefix": ((P1.format("12/18"),), ()),
    "REBOOT6-address-only-restart": (None, ()),
    "BOUND6-asked-58-got-60": (("2001:db8:4000::/60 iaid 1 for 3000/4000",), ()),
    "BOUND6-asked-58-got-56": (("2001:db8:4000::/56 iaid 1 for 3000/4000",), ()),
    "BOUND6-infinite-lifetimes-t1-t2-zero": (("2001:db8:9::/48 iaid 1 for None/None",), ()),
    "BOUND6-prefix-with-host-bits": (("2001:db8:4000:40::/58 iaid 1 for 300/400",), ()),
    "BOUND6-excluded-prefix": (
        ("2001:db8:4000::/56 iaid 1 for 300/400 without 2001:db8:4000:ff::/64",),
        (),
    ),
    "BOUND6-anonymous-no-variables": (None, ()),
    "BOUND6-dhcpcd-d": ((P1_LONG,), ()),
    # a shell keeps the last of two iaids: which prefix was whose is lost
    "BOUND6-via-run-hooks-two-ia-pd": (
        ("2001:db8:4000::/58 iaid 2 for 12/18", "2001:db8:4000:40::/58 iaid 2 for 12/18"),
        (),
    ),
    "BOUND6-after-expiry": ((P1.format("12/18"),), ()),
    "BOUND6-server-back": ((P1_LONG,), ()),
    "REBIND6-carrier-back": ((P1_LONG,), ()),
    "REBIND6-dhcpcd-killed-and-started": ((P1_LONG,), ()),
    "BOUND6-manager-mode-real-lan": ((P1.format("12/18"),), ()),
    "DELEGATED6-lan-address": (None, ()),
    "BOUND6-excluded-prefix-on-wan-no-variables": (None, ()),
    "DELEGATED6-excluded-prefix-on-wan": (
        ("2001:db8:4000::/56 iaid 1 for 3000/4000 without 2001:db8:4000:1::/64",),
        (),
    ),
}
"""What the LEASE calls say, by their names without number."""

WITHOUT_OLD = {
    "9.4.1/14-BOUND6-after-nobinding-new-prefix",
    "9.4.1/15-BOUND6-after-refused-renew-new-prefix",
}
"""9.4.1 forgets the reply before when the server does not know the binding."""

WORK = {
    "BOUND6": reasons.LEASE,
    "RENEW6": reasons.LEASE,
    "REBIND6": reasons.LEASE,
    "REBOOT6": reasons.LEASE,
    "DELEGATED6": reasons.LEASE,
    "RELEASE6": reasons.RELEASED,
    "EXPIRE6": reasons.LINK,
    "TIMEOUT6": reasons.LINK,
    "STOP6": reasons.LINK,
    "STOPPED": reasons.LINK,
    "DEPARTED": reasons.LINK,
    "CARRIER": reasons.LINK,
    "NOCARRIER": reasons.LINK,
    "NOCARRIER_ROAMING": reasons.LINK,
    "ROUTERADVERT": reasons.ROUTER,
    **dict.fromkeys(("BOUND", "RENEW", "EXPIRE", "STOP"), reasons.IPV4),
}


def named(call: str) -> str:
    """VERSION/NN-REASON-what -> REASON-what."""
    return call.partition("/")[2].partition("-")[2]


def reason_in(call: str) -> str:
    return named(call).partition("-")[0]


def test_the_recordings_are_there() -> None:
    calls = recorded.all_calls()
    assert {call.partition("/")[0] for call in calls} == {"9.4.1", "10.3.2", "git-8b312918"}
    assert set(REPLIES) <= {named(call) for call in calls}


@pytest.mark.parametrize("call", recorded.all_calls())
def test_recording(call: str) -> None:
    block = recorded.block(call)
    variables = events.parse_environ(block)
    reason = reason_in(call)
    kind = WORK.get(reason, reasons.NOTHING)
    assert events.reason_of(variables) == reason
    assert reasons.kind_of(reason) == kind
    assert reasons.relevant(block) == (kind != reasons.NOTHING)
    delegations, withdrawn = (None, ()) if kind != reasons.LEASE else REPLIES[named(call)]
    found = events.event_for(variables, WAN)
    elsewhere = {"DELEGATED6-lan-address": "lan0"} | {
        name: "eth0" for name in (named(call),) if name.endswith(("6rd", "6rd-two-relays"))}
    interface = elsewhere.get(named(call), "wan0")
    assert (found.reason, found.interface) == (reason, interface)
    assert texts(found.delegations) == delegations
    assert texts(found.withdrawn) == (() if call in WITHOUT_OLD else withdrawn)


@pytest.mark.parametrize("call", [call for call in recorded.all_calls() if "two-ia-pd" in call])
def test_each_uplink_gets_the_prefixes_of_its_iaid(call: str) -> None:
    first, second, other = (event(call, WAN._replace(iaid=iaid)) for iaid in (1, 2, 3))
    if "via-run-hooks" in call:
        assert first.delegations is None
        assert len(second.delegations or ()) == 2
    else:
        assert texts(first.delegations) == TWO_IA[:1]
        assert texts(second.delegations) == TWO_IA[1:]
    assert other.delegations is None
    assert other.withdrawn == ()


def test_sorted_duplicates_belong_to_the_last_iaid() -> None:
    """Both iaids come before all prefixes: the order is lost, the rule stays the same."""
    found = event("9.4.1/19-BOUND6-two-ia-pd", ordered=False)
    assert [one.iaid for one in found.delegations or ()] == [2, 2]


def test_timeout6_does_not_prolong_the_old_lease() -> None:
    call = "10.3.2/54-TIMEOUT6-dhcpcd-n-without-server"
    assert b"new_dhcp6_ia_pd1_prefix1=" in recorded.block(call)
    assert event(call).delegations is None
