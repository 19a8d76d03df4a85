"""From dhcpcd's environment to an Event: the block, whose prefix it is, what is withdrawn."""

import time

import pytest

from pdreactor import events, reasons
from pdreactor.errors import Refused
from pdreactor.model import Event

from . import recorded
from .replies import IA1, IA2, WAN, lease, one_prefix, prefix_lines

# ---- the block -------------------------------------------------------------------------------


def test_parse_environ_keeps_order_duplicates_and_strange_bytes() -> None:
    block = b"b=2\0a=1\0b=x=y\n\0\0junk\0=nameless\0empty=\0c=\xff\\\0last=1"
    assert events.parse_environ(block) == [
        ("b", "2"),
        ("a", "1"),
        ("b", "x=y\n"),
        ("empty", ""),
        ("c", "\\xff\\"),
        ("last", "1"),
    ]


def test_block_has_a_bound() -> None:
    largest = b"a=" + b"x" * (events.MAX_BLOCK - 2)
    assert len(events.parse_environ(largest)) == 1
    with pytest.raises(Refused, match="larger than"):
        events.parse_environ(largest + b"x")


def test_a_full_block_is_read_quickly() -> None:
    """Nothing quadratic: that took seconds."""
    lines = (f"new_dhcp6_ia_pd1_iaid=00000002\0new_dhcp6_ia_pd1_prefix{n}=x\0" for n in range(1000))
    block = "".join(lines).encode()
    assert events.MAX_BLOCK * 0.9 < len(block) < events.MAX_BLOCK
    variables = [*lease(), *events.parse_environ(block)]
    began = time.monotonic()
    assert events.event_for(variables, IA1).delegations is None
    assert time.monotonic() - began < 0.5


def test_recorded_escapes() -> None:
    assert recorded.unescape(rb"a=1\n2\\n\xff\q") == b"a=1\n2\\n\xff\\q"


@pytest.mark.parametrize(
    "reason",
    [b"", b"TEST", b"BOUND66", b"bound6", b"\n", b"BOUND6\n", b"\xff"],
)
def test_other_reasons_are_nothing(reason: bytes) -> None:
    assert not reasons.relevant(b"interface=wan0\0reason=" + reason + b"\0new_reason=BOUND6\0")


@pytest.mark.parametrize(("text", "yes"), [
    (b"", False), (b"[iptables]\njumps = true", False), (b"# no table here", False),
    (b"table = 200", True), (b"table=200", True), (b'"table"\t= 200', True),
    (b"a = {interface = 'x', 'table' = 200}", True), (b'source = "onlink"', True),
])
def test_a_router_advertisement_matters_where_there_is_a_table(text: bytes, yes: bool) -> None:
    assert reasons.rarely(b"reason=ROUTERADVERT\0")
    assert reasons.cares(b"reason=ROUTERADVERT\0", text) == yes


@pytest.mark.parametrize("reason", [b"BOUND", b"RENEW", b"EXPIRE", b"STOP"])
def test_an_ipv4_lease_matters_where_there_is_a_tunnel(reason: bytes) -> None:
    block = b"reason=" + reason + b"\0"
    assert reasons.relevant(block) and reasons.rarely(block)
    assert reasons.cares(block, b"[tunnel.sit1]")
    assert not reasons.cares(block, b"[uplink.wan]\ntable = 200")


def test_the_reason_is_the_first_one_for_everybody() -> None:
    block = b"x_reason=1\0reason=BOUND6\0reason=TEST\0"
    assert reasons.relevant(block)
    assert events.reason_of(events.parse_environ(block)) == "BOUND6"
    assert not reasons.relevant(b"x_reason=BOUND6\0reason\0")
    assert events.reason_of([("x_reason", "BOUND6")]) == ""


def test_no_lease_reason_no_reply() -> None:
    for reason in ("RELEASE6", "EXPIRE6", "STOP6", "CARRIER", "INFORM6", "WHATEVER"):
        variables = [("reason", reason), *one_prefix()[1:]]
        assert events.event_for(variables, WAN) == Event(reason, "wan0")


# ---- the interface ---------------------------------------------------------------------------


def test_ifxname_is_the_real_name() -> None:
    variables = [("interface", "wan_0"), ("ifxname", "wan@0")]
    assert events.interface_of(variables) == "wan@0"
    assert events.interface_of(variables[:1]) == "wan_0"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../etc",
        "a b",
        "a\tb",
        "wan0\n",
        "a" * 16,
        'w"; drop',
        "$(reboot)",
        "`id`",
        "a:1",
        "wan*",
        "w\\xff",
        "\u0430bc",
        "fe80%wan",
        "\x1b[2J",
    ],
)
def test_hostile_interface_names(name: str) -> None:
    with pytest.raises(Refused) as refused:
        events.interface_of([("interface", name)])
    assert str(refused.value).isprintable()


def test_call_without_interface() -> None:
    with pytest.raises(Refused, match="interface"):
        events.event_for([("reason", "BOUND6")], WAN)


# ---- whose prefix it is ----------------------------------------------------------------------


def test_numbered_ia_pds() -> None:
    """What the names look like should dhcpcd begin to count N."""
    variables = lease(
        "new_dhcp6_ia_pd1_iaid=00000001",
        *prefix_lines("new_dhcp6_ia_pd1_prefix1", "2001:db8:1::"),
        "new_dhcp6_ia_pd2_iaid=77616e30",
        *prefix_lines("new_dhcp6_ia_pd2_prefix1", "2001:db8:2::"),
    )
    for mixed in (variables, variables[::-1], sorted(variables)):
        found = events.event_for(mixed, WAN).delegations or ()
        whose = {str(one.network): one.iaid for one in found}
        assert whose == {"2001:db8:1::/58": 1, "2001:db8:2::/58": 0x77616E30}


def test_prefix_without_any_iaid_is_nobodys() -> None:
    variables = lease(*prefix_lines("prefix1", "2001:db8::"))
    assert events.event_for(variables, IA1).delegations is None
    assert [one.iaid for one in events.event_for(variables, WAN).delegations or ()] == [None]


def test_prefix_before_the_first_of_two_iaids_is_nobodys() -> None:
    lines = prefix_lines("prefix1", "2001:db8::")
    found = events.event_for(lease(*lines, "iaid=00000001", "iaid=00000002"), WAN)
    assert [one.iaid for one in found.delegations or ()] == [None]


def test_empty_ia_before_a_full_one() -> None:
    lines = prefix_lines("prefix1", "2001:db8::")
    variables = lease("iaid=00000001", "t1=0", "iaid=00000002", "t1=0", *lines)
    assert events.event_for(variables, IA1).delegations is None
    assert len(events.event_for(variables, IA2).delegations or ()) == 1


def test_unknown_names_are_ignored() -> None:
    strange = ("prefix=::", "prefixes_length=1", "prefix1x=2", "prefix1_new_option=\n", "x=1")
    elsewhere = ("new_dhcp6_ia_pdx_prefix1=::", "new_dhcp6_ia_pd_iaid=zz", "new_dhcp6_ia_na1_x=1")
    variables = [*one_prefix(), *lease(*strange, *elsewhere)]
    assert events.event_for(variables, WAN) == events.event_for(one_prefix(), WAN)


# ---- withdrawn, and what is no reply ---------------------------------------------------------

OLD_IAID = "old_dhcp6_ia_pd1_iaid=0000000"


def old_prefix(address: str, iaid: int = 1, valid: str = "20") -> events.Variables:
    lines = prefix_lines("old_dhcp6_ia_pd1_prefix1", address, valid)
    return lease(f"{OLD_IAID}{iaid}", *lines)[2:]


def test_only_old_is_no_reply() -> None:
    variables = [*lease(), *old_prefix("2001:db8::")]
    assert events.event_for(variables, WAN) == Event("RENEW6", "wan0")


def test_a_reply_for_the_other_iaid_leaves_this_one_alone() -> None:
    found = events.event_for(one_prefix(), IA2)
    assert (found.delegations, found.withdrawn) == (None, ())


def test_a_reply_that_dropped_this_iaid_withdraws() -> None:
    found = events.event_for([*old_prefix("2001:db8:2::", iaid=2), *one_prefix()], IA2)
    assert found.delegations == ()
    assert [str(one.network) for one in found.withdrawn] == ["2001:db8:2::/58"]
    assert events.event_for([*old_prefix("2001:db8:2::", 2), *one_prefix()], IA1).withdrawn == ()


@pytest.mark.parametrize(("address", "valid"), [("fe80::", "20"), ("2001:db8:5::", "020")])
def test_bad_old_values_are_ignored(address: str, valid: str) -> None:
    variables = [*old_prefix(address, valid=valid), *one_prefix()]
    assert events.event_for(variables, WAN) == events.event_for(one_prefix(), WAN)


@pytest.mark.parametrize("status", ["6", "1", "", "00", "\n"])
def test_prefix_with_a_bad_status_is_not_in_the_reply(status: str) -> None:
    variables = one_prefix("::", length="0", status_code=status)
    assert events.event_for(variables, WAN).delegations is None
    both = [*lease(*prefix_lines("prefix2", "2001:db8:2::")), *variables[2:]]
    found = events.event_for([*both, *old_prefix("2001:db8::")], WAN)
    assert [str(one.network) for one in found.delegations or ()] == ["2001:db8:2::/58"]
    assert [str(one.network) for one in found.withdrawn] == ["2001:db8::/58"]


def test_status_success_is_a_delegation() -> None:
    assert len(events.event_for(one_prefix(status_code="0"), WAN).delegations or ()) == 1
