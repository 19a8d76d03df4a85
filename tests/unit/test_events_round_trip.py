"""Well-formed replies come back as they were, whatever they hold."""

from ipaddress import IPv6Network
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pdreactor import events
from pdreactor.model import INFINITE, Delegation

from .replies import WAN

LIFETIME = st.none() | st.integers(0, INFINITE - 1)


@st.composite
def delegation(draw: st.DrawFn, slot: int, iaid: int) -> Delegation:
    """A prefix inside a /40 of its own."""
    length = draw(st.integers(40, 64))
    own = IPv6Network((int(IPv6Network("2001:db8::/32")[0]) + (slot << 88), 40))
    number = draw(st.integers(0, 2 ** (length - 40) - 1))
    network = IPv6Network((int(own[0]) + (number << 128 - length), length))
    preferred, valid = sorted(draw(st.tuples(LIFETIME, LIFETIME)), key=wire)
    hole = IPv6Network((network[0], draw(st.integers(length + 1, 128))))
    return Delegation(network, iaid, preferred, valid, draw(st.sampled_from([None, hole])))


def wire(lifetime: int | None) -> int:
    return INFINITE if lifetime is None else lifetime


@st.composite
def replies(draw: st.DrawFn) -> list[list[Delegation]]:
    """IA_PDs with their prefixes, at least one in all."""
    iaids = draw(st.lists(st.integers(0, INFINITE), min_size=1, max_size=3, unique=True))
    slots = draw(st.lists(st.sampled_from(iaids), min_size=1, max_size=8))
    made = [draw(delegation(slot, iaid)) for slot, iaid in enumerate(slots)]
    return [[one for one in made if one.iaid == iaid] for iaid in iaids]


def rendered(reply: list[list[Delegation]], iaids: list[int]) -> bytes:
    """The block as dhcpcd writes it: one ia_pd1 for all, prefixes counted on."""
    lines, count = ["pid=1", "reason=REBIND6", "interface=wan0"], 0
    for iaid, delegations in zip(iaids, reply, strict=True):
        lines += [f"new_dhcp6_ia_pd1_iaid={iaid:08x}", "new_dhcp6_ia_pd1_t1=0"]
        for one in delegations:
            count += 1
            lines += fields(f"new_dhcp6_ia_pd1_prefix{count}", one)
    return b"".join(line.encode() + b"\0" for line in lines)


def fields(label: str, one: Delegation) -> list[str]:
    lines = [
        f"{label}_pltime={wire(one.preferred)}",
        f"{label}_vltime={wire(one.valid)}",
        f"{label}_length={one.network.prefixlen}",
        f"{label}={one.network.network_address}",
    ]
    if one.excluded:
        octets = (one.excluded.prefixlen - one.network.prefixlen + 7) // 8
        lines.append(f"{label}_pd_exclude_prefix_len={one.excluded.prefixlen}")
        lines.append(f"{label}_pd_exclude_subnetID={'00' * octets}")
    return lines


@given(replies(), st.randoms())
def test_round_trip(reply: list[list[Delegation]], random: Random) -> None:
    full = [delegations for delegations in reply if delegations]
    iaids = [delegations[0].iaid or 0 for delegations in full]
    variables = events.parse_environ(rendered(full, iaids))
    expected = tuple(one for delegations in full for one in delegations)
    assert events.event_for(variables, WAN).delegations == expected
    for iaid, delegations in zip(iaids, full, strict=True):
        found = events.event_for(variables, WAN._replace(iaid=iaid))
        assert found.delegations == tuple(delegations)
    if len(full) == 1:
        random.shuffle(variables)
        assert set(events.event_for(variables, WAN).delegations or ()) == set(expected)
