"""Replies that a hostile server could send: refused in one line, whatever they hold."""

from ipaddress import IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdreactor import events
from pdreactor.errors import Refused
from pdreactor.model import INFINITE, Delegation, Uplink

from .replies import IA1, IA2, WAN, lease, one_prefix, prefix_lines


def refusal(variables: events.Variables, uplink: Uplink = WAN) -> str:
    with pytest.raises(Refused) as refused:
        events.event_for(variables, uplink)
    line = str(refused.value)
    assert line.isprintable()
    assert 0 < len(line) < 400
    return line


# ---- refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"length": "-"}, "length is missing"),
        ({"pltime": "-"}, "pltime is missing"),
        ({"vltime": "-"}, "vltime is missing"),
        ({"length": "200"}, "prefix length"),
        ({"length": "129"}, "prefix length"),
        ({"length": "058"}, "prefix length"),
        ({"length": "+58"}, "prefix length"),
        ({"length": "0x3a"}, "prefix length"),
        ({"length": "58 "}, "prefix length"),
        ({"length": ""}, "prefix length"),
        ({"length": "58\n"}, "prefix length"),
        ({"length": "\u0665\u0668"}, "prefix length"),
        ({"length": "31"}, "between /32 and /64"),
        ({"length": "65"}, "between /32 and /64"),
        ({"length": "0"}, "all of IPv6"),
        ({"pltime": "21"}, "longer than the valid"),
        ({"pltime": str(INFINITE)}, "longer than the valid"),
        ({"vltime": str(INFINITE + 1)}, "valid lifetime"),
        ({"vltime": "9" * 5000}, "valid lifetime"),
        ({"vltime": "-1"}, "valid lifetime"),
        ({"vltime": "1e3"}, "valid lifetime"),
        ({"pltime": "05"}, "preferred lifetime"),
        ({"pltime": "\x00"}, "preferred lifetime"),
        ({"pltime": "$(reboot)"}, "preferred lifetime"),
        ({"vltime": "0", "pltime": "0", "length": "200"}, "prefix length"),
        ({"pd_exclude_prefix_len": "64"}, "excluded subnet ID"),
        ({"pd_exclude_subnetID": "00"}, "excluded prefix length"),
        ({"pd_exclude_prefix_len": "58", "pd_exclude_subnetID": "00"}, "does not fit"),
        ({"pd_exclude_prefix_len": "64", "pd_exclude_subnetID": "zz"}, "hexadecimal"),
        ({"pd_exclude_prefix_len": "64", "pd_exclude_subnetID": "0 0"}, "hexadecimal"),
        ({"pd_exclude_prefix_len": "64", "pd_exclude_subnetID": "0000"}, "not 6 bits"),
        ({"pd_exclude_prefix_len": "064", "pd_exclude_subnetID": "00"}, "excluded prefix"),
    ],
)
def test_bad_fields(changed: dict[str, str], reason: str) -> None:
    line = refusal(one_prefix(**changed))
    assert line.startswith("new_dhcp6_ia_pd1_prefix1: ")
    assert reason in line


@pytest.mark.parametrize(
    "address",
    [
        "",
        "fe80::%wan",
        "2001:db8::%1",
        "2001:db8::\n",
        "\x1b]0;owned\x07",
        "\u202e2001:db8::",
        "\x85",
        "\\xff\\xfe",
        "() { :;}; reboot",
        "2001:db8::/58",
        "192.0.2.1",
        "::",
        "::1",
        "::ffff:192.0.2.1",
        "fe80::1",
        "ff02::1",
        "fd00::",
        "2001::",
        "2002:c000:201::",
        "64:ff9b::",
        "100::",
        "4000::",
        "x" * 60_000,
    ],
)
def test_bad_addresses(address: str) -> None:
    assert refusal(one_prefix(address)).startswith("new_dhcp6_ia_pd1_prefix1: ")


def test_the_bounds_are_the_uplinks() -> None:
    assert "between /40 and /57" in refusal(
        one_prefix(), WAN._replace(min_length=40, max_length=57)
    )
    assert events.event_for(one_prefix(length="80"), WAN._replace(max_length=80)).delegations


def test_another_iaids_bad_prefix_does_not_matter() -> None:
    bad = one_prefix("fe80::")
    assert events.event_for(bad, IA2).delegations is None
    refusal(bad, IA1)


@pytest.mark.parametrize("iaid", ["", "1", "0000000g", "0000000001", "00 00 00 01", "\n0000001"])
@pytest.mark.parametrize("uplink", [WAN, IA1])
def test_bad_iaid(iaid: str, uplink: Uplink) -> None:
    variables = lease(f"iaid={iaid}", *prefix_lines("prefix1", "2001:db8::"))
    assert "iaid" in refusal(variables, uplink)


def test_fields_without_an_address() -> None:
    assert "address is missing" in refusal(lease("prefix1_length=58"))


def test_a_long_name_is_cut() -> None:
    assert "111..." in refusal(lease(f"prefix{'1' * 60_000}_length=58"))


def test_one_name_with_two_values() -> None:
    assert "length is there twice" in refusal([*one_prefix(), *lease("prefix1_length=57")])
    same = [*one_prefix(), *lease("prefix1_length=58")]
    assert events.event_for(same, WAN) == events.event_for(one_prefix(), WAN)


def test_a_prefix_twice() -> None:
    twice = [*one_prefix(), *lease(*prefix_lines("prefix2", "2001:db8::"))]
    assert "there twice" in refusal(twice)
    same = [(name.replace("prefix1", "prefix2"), value) for name, value in one_prefix()]
    assert events.event_for([*one_prefix(), *same[3:]], WAN).delegations == (
        Delegation(IPv6Network("2001:db8::/58"), 1, 10, 20),
    )


def test_overlap() -> None:
    inside = prefix_lines("prefix2", "2001:db8:0:40::")
    assert "overlap" in refusal([*one_prefix(length="56"), *lease(*inside)])
    apart = events.event_for([*one_prefix(), *lease(*inside)], WAN)
    assert len(apart.delegations or ()) == 2


def test_resized_with_the_old_one_at_zero_is_no_overlap() -> None:
    old = prefix_lines("prefix2", "2001:db8::", valid="0")
    found = events.event_for([*one_prefix(length="56"), *lease(*old)], WAN)
    assert [one.valid for one in found.delegations or ()] == [20, 0]


def many(count: int, valid: str) -> events.Variables:
    numbers = range(100, 100 + count)
    return lease(
        *(
            line
            for number in numbers
            for line in prefix_lines(f"prefix{number}", f"2001:db8:{number}::", valid)
        )
    )


def test_too_many_prefixes() -> None:
    found = events.event_for(many(events.MAX_PREFIXES, "20"), WAN)
    assert len(found.delegations or ()) == events.MAX_PREFIXES
    assert "more than 8" in refusal(many(events.MAX_PREFIXES + 1, "20"))
    assert len(events.event_for(many(12, "0"), WAN).delegations or ()) == 12


# ---- anything at all -------------------------------------------------------------------------


def only_refuses(variables: events.Variables) -> None:
    for uplink in (WAN, IA1):
        line = ""
        try:
            found = events.event_for(variables, uplink)
        except Refused as refused:
            line = str(refused)
        else:
            assert all(one.network.prefixlen >= 32 for one in found.delegations or ())
        assert line.isprintable()
        assert len(line) < 500


@given(st.binary())
def test_any_bytes(block: bytes) -> None:
    only_refuses(events.parse_environ(b"reason=BOUND6\0interface=wan0\0" + block))
    only_refuses(events.parse_environ(block))


FIELDS = ["", "_length", "_pltime", "_vltime", "_status_code"]
EXCLUDE = ["_pd_exclude_prefix_len", "_pd_exclude_subnetID"]
NAMES = st.sampled_from(
    ["reason", "interface", "ifxname"]
    + [f"{side}_dhcp6_ia_pd{number}_iaid" for side in ("new", "old") for number in (1, 2)]
    + [
        f"{side}_dhcp6_ia_pd1_prefix{index}{field}"
        for side in ("new", "old")
        for index in ("1", "2", "", "\n")
        for field in FIELDS + EXCLUDE
    ]
)
VALUES = st.text() | st.sampled_from(
    ["0", "58", "64", "100", "00000001", "2001:db8::", "fe80::%a", str(INFINITE), "ff", "BOUND6"]
)


@given(st.lists(st.tuples(NAMES, VALUES)))
def test_any_values_of_known_names(variables: events.Variables) -> None:
    only_refuses([*lease(reason="REBIND6"), *variables])
    only_refuses([*variables, *one_prefix()])
