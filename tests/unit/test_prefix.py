"""Prefixes from text: the line between acceptable and refused."""

from ipaddress import IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdreactor import prefix
from pdreactor.errors import Refused


def net(text: str) -> IPv6Network:
    return IPv6Network(text)


def network(value: int, length: int) -> IPv6Network:
    return IPv6Network((value >> (128 - length) << (128 - length), length))


VALUES = st.integers(0, 2**128 - 1)
NETWORKS = st.builds(network, VALUES, st.integers(1, 128))


def one_line(refusal: pytest.ExceptionInfo[Refused]) -> bool:
    text = str(refusal.value)
    return text.isprintable() and 0 < len(text) < 300


# ---- from text -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2001:db8::",
        "/64",
        "2001:db8::/",
        "2001:db8::/064",
        "2001:db8::/+64",
        "2001:db8::/-1",
        "2001:db8::/ 64",
        "2001:db8::/6_4",
        "2001:db8::/129",
        "2001:db8::/9999999999999999999999",
        "2001:db8::/64/64",
        "2001:db8::/\u0666\u0664",
        "2001:db8::/ffff::",
        "2001:db8::1/64",
        "fe80::%wan/10",
        "fe80::%wan\n/10",
        " 2001:db8::/64",
        "2001:db8::\n/64",
        "2001:db8::/64\n",
        "2001:\u0664db8::/64",
        "2001:db8::\udcff/64",
        "192.0.2.0/24",
        "x" * 100_000 + "/64",
        "$(reboot)/64",
    ],
)
def test_bad_prefix_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(Refused) as refusal:
        prefix.parse_prefix(text)
    assert one_line(refusal)


def test_good_prefixes() -> None:
    assert prefix.parse_prefix("2001:db8::/32") == net("2001:db8::/32")
    assert prefix.parse_prefix("::/0") == net("::/0")
    assert prefix.parse_network("2001:DB8:0::", 58) == net("2001:db8::/58")
    masked = prefix.parse_network("2001:db8:4000:7f:1:2:3:4", "58", mask=True)
    assert masked == net("2001:db8:4000:40::/58")


@given(NETWORKS)
def test_prefix_round_trip(network: IPv6Network) -> None:
    assert prefix.parse_prefix(str(network)) == network
    assert prefix.parse_prefix(network.exploded) == network


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    line = ""
    for parse in (prefix.parse_prefix, prefix.parse_address):
        try:
            parse(text)
        except Refused as refusal:
            line = str(refusal)
        assert line.isprintable()


@given(st.integers(0, 2**32 - 1))
def test_decimal(number: int) -> None:
    assert prefix.parse_decimal(str(number), "number", 2**32 - 1) == number
    for wrong in (f"0{number}", f"+{number}", f"-{number}", f"{number} ", f"{number + 2**32}"):
        with pytest.raises(Refused):
            prefix.parse_decimal(wrong, "number", 2**32 - 1)


def test_true_is_no_number() -> None:
    with pytest.raises(Refused):
        prefix.parse_decimal(True, "number", 10)


# ---- acceptable ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("::/0", "all of IPv6"),
        ("fd5e:ed00:1234::/58", "unique local"),
        ("fc00::/7", "unique local"),
        ("fe80::/10", "link-local"),
        ("fe80::/64", "link-local"),
        ("ff00::/8", "multicast"),
        ("ff0e::/48", "multicast"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::ffff:192.0.2.0/120", "IPv4-mapped"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b::/40", "NAT64"),
        ("100::/64", "discard"),
        ("100:0:0:0:1::/80", "discard"),
        ("2001::/32", "Teredo"),
        ("2001:0:5ef5::/48", "Teredo"),
        ("2001::/20", "Teredo"),
        ("2002:c000:201::/48", "6to4"),
        ("2000::/3", "Teredo"),
        ("1000::/48", "outside 2000::/3"),
        ("4000::/48", "outside 2000::/3"),
        ("fec0::/48", "outside 2000::/3"),
        ("::/56", "overlaps an IPv4-mapped"),
        ("2600::/31", "between /32 and /64"),
        ("2001:db8::/65", "between /32 and /64"),
        ("2001:db8::/128", "between /32 and /64"),
    ],
)
def test_what_no_isp_delegates(text: str, reason: str) -> None:
    with pytest.raises(Refused) as refusal:
        prefix.acceptable(net(text), min_length=32, max_length=64)
    assert reason in str(refusal.value)
    assert one_line(refusal)


@pytest.mark.parametrize(
    "text", ["2001:db8::/32", "2001:db8:4000::/64", "2a02:1234::/56", "2001:1::/48", "3fff::/32"]
)
def test_what_an_isp_delegates(text: str) -> None:
    prefix.acceptable(net(text), min_length=32, max_length=64)


# ---- excluded prefix -------------------------------------------------------------------------


def test_excluded_example_of_the_rfc() -> None:
    """RFC 6603 section 4.2: 2001:db8:dead:bee0::/59 without its last /64."""
    delegated, expected = net("2001:db8:dead:bee0::/59"), net("2001:db8:dead:beef::/64")
    assert prefix.excluded(delegated, 64, b"\x78") == expected


@given(NETWORKS, st.data())
def test_excluded_is_inside_and_comes_back(network: IPv6Network, data: st.DataObject) -> None:
    if network.prefixlen == 128:
        return
    length = data.draw(st.integers(network.prefixlen + 1, 128))
    bits = length - network.prefixlen
    subnet = data.draw(st.integers(0, 2**bits - 1))
    octets = (bits + 7) // 8
    subnet_id = (subnet << (octets * 8 - bits)).to_bytes(octets, "big")
    expected = prefix.slice_of(network, length, subnet)
    assert prefix.excluded(network, length, subnet_id) == expected


@pytest.mark.parametrize(
    ("length", "subnet_id"),
    [
        (56, b"\x00"),
        (55, b"\x00"),
        (129, b"\x00" * 10),
        (64, b""),
        (64, b"\x00\x00"),
        (60, b"\x01"),
        (60, b"\x18"),
        (66, b"\x00"),
        (64, b"\x00" * 5000),
    ],
)
def test_malformed_excluded_is_refused(length: int, subnet_id: bytes) -> None:
    with pytest.raises(Refused) as refusal:
        prefix.excluded(net("2001:db8::/56"), length, subnet_id)
    assert one_line(refusal)
