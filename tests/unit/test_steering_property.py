"""Whatever the configuration and the state: no packet with one uplink's prefix by another.

A small model of what the kernel does with the rules, the routes and the translation: rules in order
of their priorities, in each table the longest prefix and then the lowest metric, and at the end the
translation of the interface that was found. The guard is not there to help.
"""

from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from pdreactor import transition
from pdreactor.desired import desired
from pdreactor.model import Config, Delegation, Desired, Down, Event, State, Translation, Uplink
from pdreactor.steering import steering
from pdreactor.ways import MAIN_TABLE, Path, Route, Rule, Steering

from .values import NOW, N

EVERYTHING = N("::/0")
INTERNALS = [N(text) for text in (
    "fd5e:ed00:1234::/56", "fd5e:ed00:1234::/58", "fd5e:ed00:1234:40::/58",
    "fd5e:ed00:1234::/60", "fd5e:ed00:1234:c0::/64", "fd00::/64")]
HOSTS = [IPv6Address(text) for text in (
    "fd5e:ed00:1234::2", "fd5e:ed00:1234:10::2", "fd5e:ed00:1234:40::2", "fd5e:ed00:1234:c0::2",
    "fd5e:ed00:1234:ff::2", "fd00::2")]
FAR, MIRROR = IPv6Address("2001:db8:e::1"), IPv6Address("2001:db8:99::1")
"""Two targets; table main may have a route of its own to the second."""
NAMES = ("one", "two", "three")


class Net(NamedTuple):
    """A configuration and what there is around it."""

    config: Config
    known: State
    links: dict[str, bool]
    paths: dict[str, Path]
    main: list[Route]


class Found(NamedTuple):
    """What one pass makes of it."""

    wanted: Desired
    steered: Steering


@st.composite
def nets(draw: st.DrawFn) -> Net:
    count = draw(st.integers(2, 3))
    tables = draw(st.booleans())
    shared = draw(st.booleans())
    uplinks = tuple(
        Uplink(NAMES[n], "if0" if shared and n == 1 else f"if{n}", iaid=n,
               table=201 + n if tables else None)
        for n in range(count))
    config = Config("p", "/nowhere", uplinks, tuple(draw(translations(uplinks))), guard=False)
    known = State({})
    for number, uplink in enumerate(uplinks):
        for event in draw(st.lists(st.sampled_from(events(number, uplink)), max_size=2)):
            known = transition.after_event(known, event, uplink, config, NOW)
        if uplink.name in known.uplinks and draw(st.booleans()):
            known = transition.after_use(known, uplink.name, Down(NOW, ""), config)
    known = transition.after_time(known, config, NOW + draw(st.sampled_from([0, 100])))
    interfaces = [uplink.interface for uplink in uplinks]
    links = {name: draw(st.booleans()) for name in interfaces if draw(st.integers(0, 3))}
    paths = {name: Path(draw(st.booleans()), IPv6Address("fe80::1"),
                        addresses=(IPv6Address(f"2001:db8:ffff:{n}::1"),))
             for n, name in enumerate(interfaces) if name in links}
    main = [Route(EVERYTHING, "unicast", MAIN_TABLE, 1024 + n, name)
            for n, name in enumerate(draw(st.permutations(sorted(links))))]
    if links and draw(st.booleans()):
        special = draw(st.sampled_from(sorted(links)))
        main.append(Route(N("2001:db8:99::/48"), "unicast", MAIN_TABLE, 1024, special))
    main += [Route(net, "unicast", MAIN_TABLE, 256, "lan") for net in (
        N("fd5e:ed00:1234::/64"), N("fd5e:ed00:1234:10::/64"))]
    return Net(config, known, links, paths, main)


def events(number: int, uplink: Uplink) -> list[Event]:
    base = f"2001:db8:{4 + number}000"
    return [Event("RENEW6", uplink.interface, (Delegation(N(text), 1, 40, valid),))
            for text in (f"{base}::/56", f"{base}::/58", f"{base}:1000::/60", f"{base}:2000::/57")
            for valid in (60, 600)]


@st.composite
def translations(draw: st.DrawFn, uplinks: tuple[Uplink, ...]) -> list[Translation]:
    """None of which overlap on one uplink, in internal prefixes or in slices."""
    found: list[Translation] = []
    for internal in draw(st.lists(st.sampled_from(INTERNALS), min_size=1, max_size=5)):
        names = draw(st.lists(st.sampled_from([u.name for u in uplinks]), min_size=1, max_size=3,
                              unique=True))
        one = Translation(tuple(names), internal, draw(st.integers(0, 2)),
                          draw(st.sampled_from(["refuse", "partial"])),
                          on_expire=draw(st.sampled_from(["keep", "withdraw"])))
        if not any(set(one.uplinks) & set(other.uplinks) and (
                internal.overlaps(other.internal) or one.subnet == other.subnet)
                for other in found):
            found.append(one)
    return found


def passed(net: Net) -> Found:
    wanted = desired(net.config, net.known, net.links, NOW)
    return Found(wanted, steering(net.config, net.known, net.links, net.paths, wanted))


# ---- what the kernel does ----------------------------------------------------------------------


def leaves_by(net: Net, found: Found, source: IPv6Address, target: IPv6Address,
              mark: int = 0) -> str:
    """The interface, or nothing when the packet is rejected."""
    rules = sorted([*found.steered.rules, Rule(32766, table=MAIN_TABLE)],
                   key=lambda rule: rule.priority)
    for rule in rules:
        if not matches(rule, source, target, mark):
            continue
        if not rule.table:
            return ""
        hop = lookup([*net.main, *found.steered.routes], rule, target)
        if hop is not None:
            return hop.interface if hop.type == "unicast" else ""
    return ""


def matches(rule: Rule, source: IPv6Address, target: IPv6Address, mark: int) -> bool:
    return (not rule.iif and (rule.source is None or source in rule.source)
            and (rule.destination is None or target in rule.destination)
            and mark & rule.mark[1] == rule.mark[0])


def lookup(routes: list[Route], rule: Rule, target: IPv6Address) -> Route | None:
    there = [route for route in routes if route.table == rule.table
             and target in route.destination
             and not (rule.suppress and route.destination == EVERYTHING)]
    return min(there, key=lambda r: (-r.destination.prefixlen, r.metric), default=None)


def seen_as(found: Found, source: IPv6Address, interface: str) -> list[IPv6Network]:
    """What a new flow's source becomes at an interface; the first translation has it."""
    return [external for lane in found.wanted.nat.lanes if lane.interface == interface
            for internal, external in lane.outbound if source in internal]


def rejected(found: Found, source: IPv6Address, interface: str) -> bool:
    return any(source in net for gate in found.wanted.nat.gates if gate.interface == interface
               for net in gate.unserved)


def owners(net: Net, network: IPv6Network) -> set[str]:
    """The interfaces of the uplinks that a network belongs to."""
    return {uplink.interface for uplink in net.config.uplinks
            if uplink.name in net.known.uplinks
            for prefix in net.known.uplinks[uplink.name].prefixes
            if network.subnet_of(prefix.network)}


# ---- the property ------------------------------------------------------------------------------


@given(nets())
@settings(max_examples=400, deadline=None)
def test_a_new_flow_leaves_with_a_prefix_of_its_uplink_or_not_at_all(net: Net) -> None:
    found = passed(net)
    inside = [t.internal for t in net.config.translations]
    for source in HOSTS:
        for target in (FAR, MIRROR):
            interface = leaves_by(net, found, source, target)
            if not any(source in network for network in inside) or not interface.startswith("if"):
                continue
            if rejected(found, source, interface):
                continue
            external = seen_as(found, source, interface)
            assert external, f"{source} leaves {interface} untranslated"
            assert owners(net, external[0]) == {interface}
            assert len({tuple(external)}) == 1


@given(nets())
@settings(max_examples=200, deadline=None)
def test_a_flow_stays_on_its_uplink_or_is_rejected(net: Net) -> None:
    found = passed(net)
    for lane in found.wanted.nat.lanes:
        uplink = net.config.uplink(lane.uplink)
        if uplink.table is None:
            continue
        mark = lane.stamp.uplink << 24
        for internal, _ in (*lane.outbound, *((to, key) for key, to in lane.inbound)):
            for target in (FAR, MIRROR):
                way = leaves_by(net, found, internal[1], target, mark)
                assert way in ("", uplink.interface)
                there = uplink.interface in net.paths and net.paths[uplink.interface].default
                assert bool(way) == (there and net.links[uplink.interface])


@given(nets())
@settings(max_examples=200, deadline=None)
def test_what_belongs_to_an_uplink_leaves_by_it(net: Net) -> None:
    """But for what table main says more exactly; there the guard stands."""
    found = passed(net)
    for uplink in net.config.uplinks:
        known = net.known.uplinks.get(uplink.name)
        for prefix in known.prefixes if known and uplink.table else ():
            source = prefix.network.broadcast_address
            assert leaves_by(net, found, source, FAR) in ("", uplink.interface)
            elsewhere = leaves_by(net, found, source, MIRROR)
            for gate in found.wanted.nat.gates:
                if gate.interface == elsewhere != uplink.interface:
                    assert any(source in network for network in gate.foreign)


@given(nets())
@settings(max_examples=200, deadline=None)
def test_each_internal_address_is_led_once_and_the_lan_is_left_alone(net: Net) -> None:
    found = passed(net)
    new = [rule for rule in found.steered.rules if rule.priority == net.config.priority + 2]
    networks = [rule.source for rule in new if rule.source]
    assert not any(a.overlaps(b) for n, a in enumerate(networks) for b in networks[:n])
    tabled = {uplink.name for uplink in net.config.uplinks if uplink.table}
    for source in HOSTS:
        of = [t for t in net.config.translations if source in t.internal]
        led = sum(source in network for network in networks)
        assert led == bool(of and set(of[0].uplinks) <= tabled)
        assert leaves_by(net, found, source, IPv6Address("fd5e:ed00:1234::99")) == "lan"


@given(nets())
@settings(max_examples=200, deadline=None)
def test_the_first_usable_uplink_has_the_new_flows(net: Net) -> None:
    found = passed(net)
    for internal, leading in found.steered.leading:
        rows = [t for t in net.config.translations if t.internal == internal]
        others = [t for t in net.config.translations if t.internal.overlaps(internal)]
        if len(rows) != len(others):
            continue
        usable = [name for t in rows for name in t.uplinks if name not in found.steered.unusable
                  and any(s.outbound and s.uplink == name and s.translation is t
                          for s in found.wanted.serving)]
        assert leading == (usable[0] if usable else "")
