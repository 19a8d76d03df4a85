"""Slicing, rebasing and subtracting prefixes: properties."""

from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdreactor import prefix


def net(text: str) -> IPv6Network:
    return IPv6Network(text)


def network(value: int, length: int) -> IPv6Network:
    return IPv6Network((value >> (128 - length) << (128 - length), length))


VALUES = st.integers(0, 2**128 - 1)
NETWORKS = st.builds(network, VALUES, st.integers(1, 128))


@st.composite
def same_length(draw: st.DrawFn) -> tuple[IPv6Network, IPv6Network]:
    length = draw(st.integers(1, 128))
    return network(draw(VALUES), length), network(draw(VALUES), length)


@st.composite
def with_holes(draw: st.DrawFn) -> tuple[IPv6Network, list[IPv6Network]]:
    """A network and holes, most of them inside."""
    whole = draw(st.builds(network, VALUES, st.integers(8, 120)))
    inside = st.builds(
        lambda value, length: network(int(whole[0]) | value % whole.num_addresses, length),
        VALUES,
        st.integers(whole.prefixlen, 128),
    )
    return whole, draw(st.lists(inside | NETWORKS, max_size=4))


@pytest.mark.parametrize(
    ("delegated", "length", "subnet", "expected"),
    [
        ("2001:db8::/56", 58, 0, "2001:db8::/58"),
        ("2001:db8::/56", 58, 3, "2001:db8:0:c0::/58"),
        ("2001:db8::/56", 58, 4, None),
        ("2001:db8::/56", 58, -1, None),
        ("2001:db8::/58", 58, 0, "2001:db8::/58"),
        ("2001:db8::/58", 58, 1, None),
        ("2001:db8::/60", 58, 0, None),
    ],
)
def test_slice(delegated: str, length: int, subnet: int, expected: str | None) -> None:
    found = prefix.slice_of(net(delegated), length, subnet)
    assert found == (expected and net(expected))


@given(NETWORKS, st.integers(0, 6))
def test_slices_tile_the_prefix(network: IPv6Network, more: int) -> None:
    length = min(128, network.prefixlen + more)
    count = 1 << (length - network.prefixlen)
    slices = [prefix.slice_of(network, length, number) for number in range(count)]
    assert slices == list(network.subnets(new_prefix=length))
    assert prefix.slice_of(network, length, count) is None


def test_lowest_part() -> None:
    internal = net("fd5e:ed00:1234::/58")
    assert prefix.lowest_part(internal, 60) == net("fd5e:ed00:1234::/60")
    assert prefix.lowest_part(internal, 58) == internal
    assert prefix.lowest_part(internal, 56) == internal


@given(same_length(), VALUES)
def test_rebase_keeps_the_host_part_and_goes_back(
    networks: tuple[IPv6Network, IPv6Network], value: int
) -> None:
    here, there = networks
    address = here[value % here.num_addresses]
    moved = prefix.rebase(address, here, there)
    assert moved in there
    assert int(moved) - int(there[0]) == value % here.num_addresses
    assert prefix.rebase(moved, there, here) == address


@pytest.mark.parametrize(
    ("address", "here", "there"),
    [
        ("2001:db8:1::", "2001:db8::/64", "2001:db8:2::/64"),
        ("2001:db8::1", "2001:db8::/64", "2001:db8:2::/56"),
    ],
)
def test_rebase_misused(address: str, here: str, there: str) -> None:
    with pytest.raises(ValueError, match="cannot move"):
        prefix.rebase(IPv6Address(address), net(here), net(there))


@given(st.lists(with_holes(), max_size=4))
def test_without_is_subtract_for_many(cases: list[tuple[IPv6Network, list[IPv6Network]]]) -> None:
    holes = [hole for _, some in cases for hole in some]
    parts = [part for whole, _ in cases for part in prefix.subtract(whole, holes)]
    found = prefix.without((whole for whole, _ in cases), holes)
    assert prefix.collapse(found) == prefix.collapse(parts)
    assert list(found) == sorted(found) and sum(net.num_addresses for net in found) == sum(
        net.num_addresses for net in prefix.collapse(found))


@given(with_holes(), VALUES)
def test_subtract_is_exact(case: tuple[IPv6Network, list[IPv6Network]], value: int) -> None:
    whole, holes = case
    parts = prefix.subtract(whole, holes)
    edges = [edge for hole in holes for edge in (hole[0], hole[-1])]
    beside = [edge + step for edge in edges for step in (-1, 1) if 0 <= int(edge) + step < 2**128]
    for address in [*edges, *beside, whole[0], whole[-1], whole[value % whole.num_addresses]]:
        wanted = address in whole and not any(address in hole for hole in holes)
        assert sum(address in part for part in parts) == wanted
    assert parts == prefix.collapse(parts)
    cut = [hole for hole in prefix.collapse(holes) if hole.subnet_of(whole)]
    if not any(whole.subnet_of(hole) for hole in holes):
        sizes = sum(part.num_addresses for part in [*parts, *cut])
        assert sizes == whole.num_addresses


@given(same_length(), st.data())
def test_pairs_are_a_bijection_around_the_holes(
    networks: tuple[IPv6Network, IPv6Network], data: st.DataObject
) -> None:
    internal, external = networks
    holes = [
        network(int(external[data.draw(VALUES) % external.num_addresses]), length)
        for length in data.draw(st.lists(st.integers(external.prefixlen, 128), max_size=3))
    ]
    pairs = prefix.pairs(internal, external, holes)
    assert tuple(outside for _, outside in pairs) == prefix.subtract(external, holes)
    for inside, outside in pairs:
        assert inside.prefixlen == outside.prefixlen
        assert prefix.rebase(outside[0], external, internal) == inside[0]
        assert inside.subnet_of(internal)
    for index in (0, 1):
        halves = [pair[index] for pair in pairs]
        assert not any(a.overlaps(b) for a in halves for b in halves if a is not b)


def test_pairs_without_holes_are_one_pair() -> None:
    internal, external = net("fd00::/58"), net("2001:db8::/58")
    assert prefix.pairs(internal, external) == ((internal, external),)
    assert prefix.pairs(internal, external, [net("2001:db8::/56")]) == ()
    with pytest.raises(ValueError, match="cannot move"):
        prefix.pairs(internal, net("2001:db8::/56"))


@given(st.lists(NETWORKS, max_size=6))
def test_collapse_is_sorted_and_disjoint(networks: list[IPv6Network]) -> None:
    found = prefix.collapse(networks)
    assert list(found) == sorted(found)
    assert not any(a.overlaps(b) for a in found for b in found if a is not b)
    assert all(any(one.subnet_of(whole) for whole in found) for one in networks)


@given(st.lists(NETWORKS, max_size=6))
def test_disjoint_has_the_same_addresses_and_merges_nothing(networks: list[IPv6Network]) -> None:
    found = prefix.disjoint(networks)
    assert set(found) <= set(networks)
    assert list(found) == sorted(found)
    assert not any(a.overlaps(b) for a in found for b in found if a is not b)
    assert prefix.collapse(found) == prefix.collapse(networks)
