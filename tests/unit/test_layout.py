"""Addresses, onward routes and settings of the layout: keys, draft, what is remembered, plan."""

import json
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdreactor import config as reading
from pdreactor.errors import ConfigError
from pdreactor.layout import laying, sources, traces
from pdreactor.layout.draft import eui64, layout
from pdreactor.layout.model import (
    Address,
    Assign,
    Layout,
    Link,
    Neighbour,
    Onward,
    Plans,
    Seen,
    SeenAddress,
    SeenLink,
    Shown,
    Sixrd,
    Traces,
)
from pdreactor.layout.slices import MOST_AWAY
from pdreactor.model import Config, State, Translation, Uplink

from .values import NOW, P1, P2, WAN, after, config, prefixes, reply, told

BASE = '[uplink.wan]\ninterface = "eth0"\n'
OTHER = '[uplink.dsl]\ninterface = "eth1"\n'


def section(name: str, **values: str) -> str:
    row = {"uplink": '"wan"', "interface": '"lan0"', **values}
    return f"[[{name}]]\n" + "".join(f"{key} = {value}\n" for key, value in row.items())


def plans(text: str) -> Plans:
    found = reading.parse(BASE + text, "p").plans
    assert found is not None
    return found


def mistakes(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        reading.parse(text if "[uplink." in text else BASE + text, "p")
    return caught.value.mistakes


# ---- keys --------------------------------------------------------------------------------------


def test_what_is_not_said_has_its_default() -> None:
    found = plans(section("assign") + section("route", subnet="1"))
    assert found == Plans((Assign("wan", "lan0"),), (Onward("wan", "lan0", subnet=1),),
                          sysctl=False)


def test_without_its_sections_there_is_no_layout() -> None:
    assert reading.parse(BASE, "p").plans is None


def test_every_key_can_be_set() -> None:
    text = section("assign", interface='"vif*"', subnet="3", length="67", host='"eui64"'.replace(
        "eui64", "::5"), prefix_length="128") + section(
        "route", via='"fe80::1"', subnet="9", length="60", metric="5") + section(
        "assign", interface='"dumbo0"', create="true", subnet="7") + "[sysctl]\nmanage = true\n"
    assert plans(text) == Plans(
        (Assign("wan", "vif*", 3, 67, 5, 128), Assign("wan", "dumbo0", 7, create=True)),
        (Onward("wan", "lan0", IPv6Address("fe80::1"), 9, 60, 5),), sysctl=True)
    assert plans(section("assign", host='"eui64"')).assigns[0].host is None


@pytest.mark.parametrize(("text", "expected"), [
    (section("assign", uplink='"wam"'), "assign[0].uplink = 'wam': no such uplink"),
    (section("route", uplink='"wam"'), "route[0].uplink = 'wam': no such uplink"),
    (section("assign", interface='"a b"'), "assign[0].interface = 'a b'"),
    (section("assign", interface='"vif[12]/"'), "assign[0].interface"),
    (section("route", interface='"vif*"'), "route[0].interface = 'vif*'"),
    (section("assign", host='"1"'), "assign[0].host = '1': must be the last bits"),
    (section("assign", host='"2001:db8::1"'), "assign[0].host: does not fit behind a slice of"),
    (section("assign", length="112", host='"::1:0"'), "assign[0].host: does not fit"),
    (section("assign", length="67", host='"eui64"'), 'assign[0].host = "eui64": has 64 bits'),
    (section("assign", prefix_length="63"), "assign[0].prefix_length: is less than the length"),
    (section("assign", prefix_length="112") + section(
        "assign", interface='"lan1"', host='"::2"', prefix_length="112"),
     "assign[1].subnet: its slice overlaps that of assign[0]"),
    (section("assign", length="67") + section("route", length="67", interface='"lan1"'),
     "route[0].subnet: its slice overlaps that of assign[0]"),
    (section("assign", length="129"), "assign[0].length = 129"),
    (section("assign", prefix_length="0"), "assign[0].prefix_length = 0"),
    (section("assign", subnet="-1"), "assign[0].subnet = -1"),
    (section("assign", subnet="4294967296"), "assign[0].subnet = 4294967296: a /32, the largest"),
    (section("assign", interface='"vif*"', create="true"), "assign[0].create: needs the name"),
    (section("assign", interface='"lo"', create="true"), "assign[0].create: lo is there already"),
    (section("route", via='"ff02::1"'), "route[0].via = 'ff02::1'"),
    (section("route", via='"fe80::1%eth0"'), "route[0].via"),
    (section("route", metric="0"), "route[0].metric = 0"),
    (section("route", nexthop='"x"'), "route[0].nexthop = 'x': unknown key; the nearest is"),
    ("[sysctl]\nmanage = 1\n", "sysctl.manage = 1: must be true or false"),
    ("[sysctl]\nforward = true\n", "sysctl.forward = True: unknown key"),
    ("assign = 3\n" + BASE, "assign = 3: must be a list of tables"),
    ("sysctl = 3\n" + BASE, "sysctl = 3: must be a table"),
    (section("assign") + section("assign", interface='"lan1"'),
     "assign[1].subnet: its slice overlaps that of assign[0]"),
    (section("assign", length="60") + section("route", subnet="5"),
     "route[0].subnet: its slice overlaps that of assign[0]"),
    (section("assign") + '[[translation]]\nuplink = "wan"\ninternal = "fd00::/58"\n',
     "assign[0].subnet: its slice overlaps that of translation[0]"),
    ('[uplink.wan]\ninterface = "eth0"\nprefix = "2001:db8::/63"\n' + section("assign", subnet="2"),
     "assign[0].subnet = 2: 2001:db8::/63 has no such /64"),
    ('[uplink.wan]\ninterface = "eth0"\nsource = "static"\n', "write the prefix down"),
    ('[uplink.wan]\ninterface = "eth0"\nsource = "onlink"\nprefix = "2001:db8::/64"\n',
     "prefix is for static ones"),
    ('[uplink.wan]\ninterface = "eth0"\nsource = "onlink"\niaid = 1\n',
     "iaid is for prefixes from DHCPv6"),
    ('[uplink.wan]\ninterface = "eth0"\nsource = "ra"\n', "uplink.wan.source = 'ra': unknown"),
])
def test_each_mistake_is_named(text: str, expected: str) -> None:
    found = mistakes(text)
    assert len(found) == 1 and expected in found[0]


@pytest.mark.parametrize("text", [
    section("assign") + section("assign", host='"::2"'),  # two addresses on one link
    section("assign") + OTHER + section("assign", uplink='"dsl"'),
    section("assign", prefix_length="128") + section("route", interface='"sit1"'),
    section("assign", length="67", subnet="1") + section("route", length="65", subnet="1"),
    section("assign", prefix_length="112") + section("route", interface='"sit1"'),  # seed 004
    section("assign", length="112") + section("route", interface='"sit1"'),
    section("assign", prefix_length="112") + section("assign", prefix_length="112", host='"::2"'),
    section("assign", prefix_length="112") + section(
        "assign", interface='"lan1"', host='"::1:0:2"', prefix_length="112"),
    OTHER.replace("eth1", "eth0") + section("assign"),
])
def test_what_goes_together(text: str) -> None:
    if "dsl" in text and "eth0" in text:
        text = text.replace('[uplink.dsl]', '[uplink.dsl]\nsource = "onlink"')
    plans(text)


# ---- draft -------------------------------------------------------------------------------------

MAC = bytes.fromhex("340056789a01")


def seen(*names: str, down: tuple[str, ...] = (), mac: bytes = MAC,
         ports: tuple[str, ...] = ()) -> Seen:
    links = {name: SeenLink(Link(name, "bridge"), False, name not in down, mac, name in ports)
             for name in ("lo", "wan0", *names)}
    return Seen(links, {}, {})


def planned(*assigns: Assign, onward: tuple[Onward, ...] = (),
            translations: tuple[Translation, ...] = ()) -> Config:
    return Config("p", "/nowhere", (WAN, Uplink("dsl", "wan1")), translations,
                  plans=Plans(assigns, onward))


def drawn(wanted: Config, state: State, there: Seen, now: int = NOW) -> Layout:
    return layout(wanted, state, there, now)


def text(found: Layout) -> list[str]:
    return [f"{one.interface} {one.address}/{one.length}" for one in found.addresses]


ONE = after(reply(*told(P1)))
LAN0 = Assign("wan", "lan0", 1)


def test_an_address_has_the_lifetimes_of_its_prefix() -> None:
    found = drawn(planned(LAN0), ONE, seen("lan0"))
    assert found.addresses == (
        Address("lan0", IPv6Address("2001:db8:4000:1::1"), 64, NOW + 40, NOW + 60),)
    assert [str(one.destination) for one in found.routes] == ["2001:db8:4000:1::/64"]
    assert found.problems == ()


@pytest.mark.parametrize(("assign", "expected"), [
    (LAN0._replace(host=None), "2001:db8:4000:1:3600:56ff:fe78:9a01/64"),
    (LAN0._replace(prefix_length=128), "2001:db8:4000:1::1/128"),
    (LAN0._replace(prefix_length=112), "2001:db8:4000:1::1/112"),
    (LAN0._replace(length=67, subnet=9), "2001:db8:4000:1:2000::1/67"),
    (LAN0._replace(length=128, subnet=5, host=0), "2001:db8:4000::5/128"),
    (LAN0._replace(length=40, subnet=0), "2001:db8:4000::1/58"),  # all there is
])
def test_slices_and_hosts(assign: Assign, expected: str) -> None:
    assert text(drawn(planned(assign), ONE, seen("lan0"))) == [f"lan0 {expected}"]


def test_eui64_is_that_of_rfc_4291() -> None:
    """Appendix A, "Links or Nodes with IEEE 802 48-bit MACs": 34-56-78-9A-BC-DE."""
    assert f"{eui64(bytes.fromhex('3456789abcde')):x}" == "365678fffe9abcde"


def test_a_link_without_a_mac_has_no_eui64() -> None:
    found = drawn(planned(LAN0._replace(host=None)), ONE, seen("lan0", mac=b""))
    assert found.addresses == () and "no MAC address" in found.problems[0].message


def test_an_excluded_prefix_is_the_uplinks_own() -> None:
    state = after(reply(*told(P1, excluded="2001:db8:4000:1::/64")))
    found = drawn(planned(LAN0, Assign("wan", "lan1", 2)), state, seen("lan0", "lan1"))
    assert text(found) == ["lan1 2001:db8:4000:2::1/64"]
    assert "no subnet 1 of length 64" in found.problems[0].message


def test_two_prefixes_give_two_addresses() -> None:
    found = drawn(planned(LAN0), after(reply(*told(P1, P2))), seen("lan0"))
    assert text(found) == ["lan0 2001:db8:4000:1::1/64", "lan0 2001:db8:8000:1::1/64"]


def test_a_superseded_prefix_is_deprecated_and_comes_last() -> None:
    state = after(reply(*told(P1)), reply(*told(P2)))
    found = drawn(planned(LAN0), state, seen("lan0"))
    assert text(found) == ["lan0 2001:db8:8000:1::1/64", "lan0 2001:db8:4000:1::1/64"]
    assert found.addresses[1].preferred_until == 0
    assert found.addresses[1].valid_until == NOW + 60


def test_nothing_is_left_of_a_prefix_that_has_gone_or_expired() -> None:
    gone = after(reply(*told(P1)), reply(*told(P2), *told(P1, valid=0, preferred=0)))
    assert text(drawn(planned(LAN0), gone, seen("lan0"))) == ["lan0 2001:db8:8000:1::1/64"]
    assert drawn(planned(LAN0), ONE, seen("lan0"), NOW + 60).addresses == ()


def test_what_does_not_fit_into_the_prefix_is_said() -> None:
    found = drawn(planned(Assign("wan", "lan0", 64), onward=(Onward("wan", "lan0", subnet=65),)),
                  ONE, seen("lan0"))
    assert found.addresses == ()
    assert [one.message for one in found.problems] == [
        "2001:db8:4000::/58 has no subnet 64 of length 64 for lan0",
        "2001:db8:4000::/58 has no subnet 65 of length 64 to route on"]


def test_links_that_are_missing_or_down() -> None:
    wanted = planned(LAN0, Assign("wan", "lan1", 2), onward=(Onward("wan", "lan1", subnet=3),))
    found = drawn(wanted, ONE, seen("lan1", down=("lan1",)))
    assert text(found) == ["lan1 2001:db8:4000:2::1/64"]
    assert found.routes == ()
    assert [one.message for one in found.problems] == [
        "interface lan0 is not there yet: no address on it",
        "interface lan1 is down: nothing is routed to it",
        "interface lan1 is not there yet or down: nothing is routed by it"]


def test_a_link_of_ours_need_not_be_there() -> None:
    found = drawn(planned(LAN0._replace(interface="dumbo0", create=True)), ONE, seen())
    assert found.links == (Link("dumbo0", "dummy"),)
    assert text(found) == ["dumbo0 2001:db8:4000:1::1/64"] and len(found.routes) == 1


def test_a_slice_is_routed_on() -> None:
    via = IPv6Address("fe80::1")
    state = after(reply(*told(P1)), reply(*told(P2)))
    found = drawn(planned(onward=(Onward("wan", "lan0", via, 1, 60, 9),)), state, seen("lan0"))
    assert [(str(one.destination), one.gateway, one.metric) for one in found.routes] == [
        ("2001:db8:8000:10::/60", via, 9), ("2001:db8:4000:10::/60", via, 9)]


# ---- patterns ----------------------------------------------------------------------------------

VIFS = Assign("wan", "vif*", 4)
NOTHING = Traces()


def shared(wanted: Config, there: Seen, before: Traces = NOTHING,
           state: State = ONE) -> tuple[dict[str, int], Traces]:
    """The slice of each interface by its address, and what is remembered."""
    found = drawn(wanted, state._replace(traces=before), there)
    numbers = {one.interface: int(one.address) >> 64 & 0x3F for one in found.addresses}
    return numbers, Traces(slices=found.slices)


def test_each_interface_has_a_slice_and_keeps_it() -> None:
    numbers, kept = shared(planned(VIFS), seen("vif2", "vif1", "eth7"))
    assert numbers == {"vif1": 4, "vif2": 5}
    numbers, kept = shared(planned(VIFS), seen("vif0", "vif2"), kept)
    assert numbers == {"vif0": 6, "vif2": 5}
    numbers, kept = shared(planned(VIFS), seen(), kept)  # a reboot
    numbers, kept = shared(planned(VIFS), seen("vif1", "vif2"), kept)
    assert numbers == {"vif1": 4, "vif2": 5}


def test_who_is_away_longest_makes_room() -> None:
    state = after(reply(*told("2001:db8:4000::/62")))
    wanted = planned(VIFS._replace(subnet=0))
    _, kept = shared(wanted, seen("vif1", "vif2"), state=state)
    _, kept = shared(wanted, seen("vif2", "vif3"), kept, state)  # vif1 goes
    _, kept = shared(wanted, seen("vif3", "vif4"), kept, state)  # then vif2
    numbers, kept = shared(wanted, seen("vif3", "vif4", "vif5"), kept, state)
    assert numbers == {"vif3": 2, "vif4": 3, "vif5": 0}
    numbers, kept = shared(wanted, seen("vif3", "vif4", "vif5", "vif6"), kept, state)
    assert numbers["vif6"] == 1
    found = drawn(wanted, state._replace(traces=kept), seen(*(f"vif{n}" for n in range(3, 8))))
    assert text(found)[-1].startswith("vif6") and "for vif7" in found.problems[0].message


def test_not_too_many_are_remembered() -> None:
    rows = tuple(("wan vif* 4/64", f"vif{n}", n) for n in range(5, 1000))
    _, kept = shared(planned(VIFS), seen(), Traces(slices=rows))
    assert kept.slices == rows[-MOST_AWAY:]


def test_two_addresses_on_each_share_the_slice() -> None:
    found = drawn(planned(VIFS, VIFS._replace(host=2)), ONE, seen("vif1", "vif2"))
    assert text(found) == [
        "vif1 2001:db8:4000:4::1/64", "vif2 2001:db8:4000:5::1/64",
        "vif1 2001:db8:4000:4::2/64", "vif2 2001:db8:4000:5::2/64"]


def test_what_a_pattern_never_means() -> None:
    there = seen("vnet0", "br0", "web", ports=("vnet0",))
    assert shared(planned(Assign("wan", "*"), Assign("wan", "web", 9)), there)[0] == {
        "br0": 0, "web": 9}


def test_slices_of_others_are_left_out() -> None:
    lan = Translation(("wan",), IPv6Network("fd00::/62"), 1)
    wanted = planned(VIFS, Assign("wan", "lan0", 8), Assign("wan", "tap*", 9),
                     onward=(Onward("wan", "lan0", subnet=10),), translations=(lan,))
    numbers, _ = shared(wanted, seen("vif1", "vif2", "tap1", "lan0"))
    assert numbers == {"lan0": 8, "vif1": 9, "vif2": 11, "tap1": 12}


names = st.sampled_from([*(f"vif{n}" for n in range(6)), "tap1", "tap2", "lan0", "lan1"])
assigns = st.builds(
    Assign, st.sampled_from(["wan", "dsl"]), st.sampled_from(["vif*", "tap?", "lan0", "lan1", "*"]),
    st.integers(0, 70), st.integers(48, 72), st.sampled_from([0, 1, 7]), st.none(), st.just(False))


@given(st.lists(assigns, max_size=4), st.lists(st.sets(names), min_size=1, max_size=5),
       st.sampled_from(["2001:db8:4000::/56", "2001:db8:4000::/62", "2001:db8:4000::/64"]))
def test_no_two_interfaces_have_one_slice(rows: list[Assign], passes: list[set[str]],
                                          prefix: str) -> None:
    """Of patterns; rows with a written subnet are compared by ``check``. And no address is outside
    of a live prefix."""
    wanted = planned(*rows)
    state = after(reply(*told(prefix, P2)))
    live = [one.network for one in prefixes(state)]
    kept = Traces()
    for there in passes:
        found = drawn(wanted, state._replace(traces=kept), seen(*there))
        assert all(any(one.address in net for net in live) for one in found.addresses)
        kept = Traces(slices=found.slices)
        spans: dict[tuple[int, int], set[tuple[str, str]]] = {}
        for pattern, interface, number in found.slices:
            if pattern.startswith("wan "):
                length = int(pattern.rpartition("/")[2])
                span = number << 128 - length, (number + 1 << 128 - length) - 1
                for other, owners in spans.items():
                    if span[0] <= other[1] and other[0] <= span[1]:
                        assert owners == {(pattern, interface)}
                spans.setdefault(span, set()).add((pattern, interface))


# ---- what is remembered ------------------------------------------------------------------------

interfaces = st.sampled_from(["lan0", "vif1.0", "a", "x" * 15, "br-12ab"])
v6 = st.integers(0, 2**128 - 1).map(IPv6Address)
remembered = st.builds(
    Traces,
    sixrd=st.just((Sixrd("eth0", IPv6Network("2001:db8::/32"), 8, sources.IPv4Address("192.0.2.1")),
                   )) | st.just(()),
    slices=st.lists(st.tuples(st.just("wan vif* 4/64"), interfaces, st.integers(0, 2**63)),
                    max_size=4).map(tuple),
    placed=st.lists(st.tuples(interfaces, st.tuples(v6, st.integers(0, 128)).map(
        lambda pair: f"{pair[0]}/{pair[1]}")), max_size=5).map(
            lambda pairs: tuple(sorted(pairs, key=lambda pair: pair[0]))),
    proxied=st.lists(st.tuples(interfaces, v6.map(str)), max_size=5).map(
        lambda pairs: tuple(sorted(pairs, key=lambda pair: pair[0]))),
    sysctls=st.lists(st.tuples(st.sampled_from(["conf/all/forwarding", "neigh/eth0/proxy_delay"]),
                               st.integers(0, 99).map(str)), max_size=3).map(tuple),
    ndppd=st.booleans(),
    endpoints=st.lists(st.tuples(interfaces, st.just("192.0.2.1")), max_size=2).map(tuple),
)


@given(remembered)
def test_what_is_remembered_comes_back(known: Traces) -> None:
    assert traces.decode(json.loads(json.dumps(traces.encode(known)))) == known


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from(
        ["conf/../../kernel/x", "../x", "fe80::1/64", "2001:db8::1", "a b", "lan0\n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner,
                                                                max_size=3), max_leaves=12)


@given(st.fixed_dictionaries({key: json_values for key in (
    "sixrd", "slices", "placed", "proxied", "sysctls")}) | json_values)
def test_damage_is_told_and_nothing_leads_elsewhere(document: Any) -> None:
    try:
        found = traces.decode(document)
    except (ValueError, KeyError, TypeError, AttributeError):
        return
    for interface in (*(i for i, _ in (*found.placed, *found.proxied)),
                      *(i for _, i, _ in found.slices)):
        assert "/" not in interface and interface.isprintable() and len(interface) < 16
    assert all(".." not in key and value.isdecimal() for key, value in found.sysctls)


@pytest.mark.parametrize("damage", [
    {"placed": {"lan0": "../../x"}}, {"placed": {"a/b": "::1/64"}}, {"placed": [["a", "::1/64"]]},
    {"proxied": {"lan0": "::1/64"}}, {"proxied": {"lan0": ""}}, {"sysctls": [["conf/../x", "1"]]},
    {"sysctls": [["conf/all/forwarding", "1; x"]]}, {"slices": [["p", "lan0", -1]]},
    {"slices": [["p", "..", 1]]}, {"slices": [["p" * 101, "lan0", 1]]},
])
def test_values_that_lead_elsewhere_are_damage(damage: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError)):
        traces.decode({**traces.encode(Traces()), **damage})


# ---- plan --------------------------------------------------------------------------------------

A1 = Address("lan0", IPv6Address("2001:db8:4000:1::1"), 64, NOW + 40, NOW + 60)
OURS, THEIRS = 157, 0


def observed(*addresses: SeenAddress, neighbours: tuple[Neighbour, ...] = (),
             links: Seen | None = None) -> laying.Observed:
    there = links or seen("lan0")
    return laying.Observed(there.links, addresses, neighbours, there)


def change(there: laying.Observed, wanted: Layout, known: Traces = NOTHING) -> laying.Change:
    return laying.plan(there, wanted, known, manage=False, protocol=OURS, now=NOW)


def test_what_is_there_already_is_no_change() -> None:
    there = observed(SeenAddress(A1._replace(valid_until=NOW + 57, preferred_until=NOW + 44), OURS))
    assert not change(there, Layout(addresses=(A1,)))


@pytest.mark.parametrize("other", [
    A1._replace(valid_until=NOW + 70), A1._replace(valid_until=None),
    A1._replace(preferred_until=NOW), A1._replace(preferred_until=None)])
def test_other_lifetimes_are_put_right(other: Address) -> None:
    assert change(observed(SeenAddress(other, OURS)), Layout(addresses=(A1,))).put == (A1,)


def test_what_is_over_is_over_at_once() -> None:
    """Within the tolerance of lifetimes, too."""
    old = A1._replace(preferred_until=0)
    found = change(observed(SeenAddress(A1._replace(preferred_until=NOW + 2), OURS)),
                   Layout(addresses=(old,)))
    assert found.put == (old,)
    assert not change(observed(SeenAddress(A1._replace(preferred_until=NOW), OURS)),
                      Layout(addresses=(old,)))


def test_ours_goes_by_its_number_or_by_what_is_remembered() -> None:
    key = ("lan0", "2001:db8:4000:1::1/64")
    assert change(observed(SeenAddress(A1, OURS)), Layout()).take == (A1,)
    assert change(observed(SeenAddress(A1, THEIRS)), Layout(), Traces(placed=(key,))).take == (A1,)
    assert not change(observed(SeenAddress(A1, THEIRS)), Layout())


def test_the_same_address_of_others_stays_as_it_is() -> None:
    theirs = A1._replace(valid_until=None, preferred_until=None)
    found = change(observed(SeenAddress(theirs, THEIRS)), Layout(addresses=(A1,)))
    assert not found and found.problems == ()
    longer = change(observed(SeenAddress(theirs._replace(length=128), THEIRS)),
                    Layout(addresses=(A1,)))
    assert not longer
    assert "2001:db8:4000:1::1/128 is not ours, and length 64" in longer.problems[0].message


def test_another_length_takes_the_place() -> None:
    found = change(observed(SeenAddress(A1._replace(length=128), OURS)), Layout(addresses=(A1,)))
    assert (found.put, found.take) == ((A1,), (A1._replace(length=128),))


def test_a_duplicate_is_said() -> None:
    found = change(observed(SeenAddress(A1, OURS, failed=True)), Layout(addresses=(A1,)))
    assert not found and "another node on the link" in found.problems[0].message


def test_what_is_remembered_after_a_pass() -> None:
    """What went is forgotten, unless something failed: then what was there may be there still."""
    old = A1._replace(address=IPv6Address("2001:db8:8000:1::1"))
    gone = ("lan0", "2001:db8:c000:1::1/64")
    there = observed(SeenAddress(old, OURS))
    wanted = Layout(addresses=(A1,), slices=(("wan vif* 0/64", "vif1", 0),))
    known = laying.before(Traces(placed=(("lan0", "2001:db8:8000:1::1/64"), gone)),
                          change(there, wanted))
    keys = {failed: [address for _, address in laying.after(
        known, wanted, there, manage=True, failed=failed).placed] for failed in (False, True)}
    assert keys[False] == ["2001:db8:4000:1::1/64"]
    assert keys[True] == ["2001:db8:8000:1::1/64", "2001:db8:4000:1::1/64"]


def test_words_count_many() -> None:
    many = tuple(A1._replace(address=IPv6Address(n)) for n in range(1, 1001))
    lines = laying.words(change(observed(), Layout(addresses=many)))
    assert lines[0] == "put address ::1/64 on lan0"
    assert lines[-1] == f"put {1000 - laying.MOST_WORDS} more like that"
    assert len(lines) == laying.MOST_WORDS + 1


def test_words_for_each_kind() -> None:
    entry = Neighbour("wan0", IPv6Address("2001:db8::1"))
    done = laying.Change(
        make=(Link("dumbo0", "dummy"),), put=(A1,), take=(A1,), answer=(entry,), silence=(entry,),
        delete=("old0",), sysctls=(("conf/all/forwarding", "1"),),
        restore=(("conf/wan0/accept_ra", "1"),))
    assert laying.words(done) == [
        "add link dumbo0 of kind dummy", "set net.ipv6.conf.all.forwarding = 1",
        "put address 2001:db8:4000:1::1/64 on lan0",
        "remove address 2001:db8:4000:1::1/64 on lan0", "answer for 2001:db8::1 on wan0",
        "answer no longer for 2001:db8::1 on wan0", "remove link old0",
        "set net.ipv6.conf.wan0.accept_ra = 1 again"]


# ---- prefixes on the uplink's own link ---------------------------------------------------------

ONLINK = Uplink("wan", "wan0", source="onlink")
LINK = config(uplinks=(ONLINK,))
N64 = IPv6Address("2001:db8:9:10::11")


def shown(*addresses: IPv6Address, preferred: int | None = 3600, valid: int | None = 7200,
          told: bool = True, now: int = NOW) -> dict[str, Shown]:
    until = [None if one is None else now + one for one in (preferred, valid)]
    return {"wan0": Shown(tuple(Address("wan0", one, 64, *until) for one in addresses), told)}


def learn(state: State, links: dict[str, Shown], now: int = NOW) -> State:
    return sources.learn(state, LINK, seen(), links, now)


EMPTY = State({})


def test_a_64_on_the_link_is_learned() -> None:
    found = prefixes(learn(EMPTY, shown(N64)))
    assert [(str(one.network), one.preferred_until, one.valid_until, one.reason) for one in found] \
        == [("2001:db8:9:10::/64", NOW + 3600, NOW + 7200, "onlink")]


def test_advertisements_that_say_the_same_change_nothing() -> None:
    state = learn(EMPTY, shown(N64))
    for later in (0, 600, 1700):
        again = learn(state, shown(N64, now=NOW + later), NOW + later)
        assert again is state
    later = learn(state, shown(N64, now=NOW + 3000), NOW + 3000)
    assert prefixes(later)[0].valid_until == NOW + 3000 + 7200


@pytest.mark.parametrize(("preferred", "valid"), [(0, 7200), (3600, 3600), (None, None)])
def test_shorter_and_other_lifetimes_are_learned_at_once(preferred: int | None,
                                                         valid: int | None) -> None:
    state = learn(EMPTY, shown(N64))
    assert learn(state, shown(N64, preferred=preferred, valid=valid)) is not state


def test_another_64_replaces_the_one_before() -> None:
    other = IPv6Address("2001:db8:9:20::11")
    state = learn(learn(EMPTY, shown(N64)), shown(other))
    states = {str(one.network): one.superseded_at for one in prefixes(state)}
    assert states == {"2001:db8:9:20::/64": None, "2001:db8:9:10::/64": NOW}


def test_a_link_that_shows_nothing_says_nothing() -> None:
    """After it was down; nor does an address that was there all the time."""
    state = learn(EMPTY, shown(N64))
    assert learn(state, {}) is state
    written = shown(IPv6Address("2001:db8:ffff::2"), preferred=None, valid=None, told=False)
    assert learn(state, written) is state
    assert prefixes(learn(EMPTY, written))
    later = prefixes(learn(state, written, NOW + 7200))
    assert [str(one.network) for one in later] == ["2001:db8:ffff::/64"]


def test_what_is_not_acceptable_is_refused_once() -> None:
    teredo = shown(IPv6Address("2001::1"))
    state = learn(EMPTY, teredo)
    refusal = state.uplinks["wan"].refusal
    assert refusal and "Teredo" in refusal.message
    assert learn(state, teredo, NOW + 9) is state
