"""Several uplinks: each packet leaves by the uplink whose prefix it carries, and traffic follows
when an uplink dies, and comes back."""

from collections.abc import Iterator

import pytest

from tests.lab import SERVER, Lab
from tests.lab.topology import peer_batch

from .pd import (
    EACH,
    NEEDS_ROOT,
    NETMAP,
    NEW,
    OLD,
    A,
    B,
    Echo,
    Router,
    Variant,
    ask,
    hold,
    on,
    ping,
    reaches,
)

pytestmark = NEEDS_ROOT

UPLINKS = """
[uplink.one]
interface = "eth0"
table = 201
[uplink.two]
interface = "eth1"
table = 202
"""
TWO = UPLINKS + """
[[translation]]
uplinks = ["one", "two"]
internal = "fd5e:ed00:1234::/58"
"""
BY_ONE, BY_TWO = "2001:db8:4000::2", "2001:db8:8000::2"
"""Host a outside."""
ROUTER_ONE, ROUTER_TWO = "2001:db8:ffff::2", "2001:db8:fffe::2"


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Two ISPs. Table main has a default route by each; that of the first is better."""
    with Lab(uplinks=2) as network:
        yield network


@pytest.fixture
def router(lab: Lab, variant: Variant) -> Router:
    """With a prefix on each uplink."""
    router = Router(lab, TWO, variant)
    router.set(OLD, uplink="one")
    router.set(NEW, uplink="two")
    return router


def carrier(lab: Lab, isp: str, state: str) -> None:
    """Pull the cable, or plug it in again. With its link the ISP has lost addresses and routes."""
    lab.run(isp, ["ip", "link", "set", "wan", state])
    if state == "up":
        link = lab.link_to(isp)
        batch = "\n".join(peer_batch(link)) + "\n"
        lab.run(isp, ["ip", "-6", "-force", "-batch", "-"], input=batch, check=False)
        lab.wait(lambda: lab._usable("router", link.here), 5, "the carrier")


COUNT_WRONG = """
table ip6 sources {{
    counter wrong {{ }}
    chain entry {{
        type filter hook prerouting priority -310; policy accept;
        iifname "wan" ip6 saddr != {{ {link}, {own}, fe80::/10, :: }} counter name wrong
    }}
}}
"""


def count_wrong(lab: Lab) -> None:
    """Each ISP counts what comes in with a source that it did not give."""
    for isp, own in (("isp", OLD), ("isp2", NEW)):
        lab.nft(isp, COUNT_WRONG.format(link=lab.link_to(isp).network, own=own))


def wrong(lab: Lab) -> str:
    return "".join(lab.run(isp, ["nft", "list", "counter", "ip6", "sources", "wrong"]).stdout
                   for isp in ("isp", "isp2"))


def none_wrong(lab: Lab) -> bool:
    return wrong(lab).count("packets 0 ") == 2


def sources(lab: Lab, host: str = "a", target: str = SERVER) -> set[str]:
    """How a host is seen at either ISP."""
    echoes = [Echo(lab, isp, SERVER) for isp in ("isp", "isp2")]
    assert ask(lab, host, "udp", target) == "same"
    found = set().union(*(echo.sources() for echo in echoes))
    for echo in echoes:
        echo.stop()
    return found


# ---- two uplinks -------------------------------------------------------------------------------


@on(NETMAP)
def test_each_uplink_answers_what_came_in_by_it(lab: Lab, router: Router) -> None:
    count_wrong(lab)
    Echo(lab, "a")
    for isp, a in (("isp", BY_ONE), ("isp2", BY_TWO)):
        assert reaches(lab, isp, a)
        assert ask(lab, isp, "tcp", a) == ask(lab, isp, "udp", a) == "same"
    assert ping(lab, "isp2", BY_TWO, "-I", SERVER) == f"answered by {BY_TWO}"
    assert sources(lab) == {BY_ONE}
    assert reaches(lab, "a", B)
    assert none_wrong(lab)
    with router.unwritten():
        router.pd("restore")


@on(EACH)
def test_a_prefix_is_reached_by_its_own_uplink_only(lab: Lab, router: Router) -> None:
    """Nor does the router answer in the place of its hosts, though it has a route to itself."""
    lab.isp_route(OLD, "isp2")
    a = router.outside(A)
    assert reaches(lab, "isp", a)
    assert "answered" not in ping(lab, "isp2", a, "-I", SERVER)
    assert ask(lab, "isp2", "tcp", a, patience=0.3) == "failed: timed out"
    router.run("nft", "flush", "ruleset")
    assert "No route" in ping(lab, "isp2", a, "-I", SERVER)


@on(NETMAP)
def test_hosts_reach_each_other_by_the_external_addresses_of_both(
    lab: Lab, router: Router
) -> None:
    Echo(lab, "b")
    for prefix in (OLD, NEW):
        assert reaches(lab, "a", router.outside(B, prefix))
        assert ask(lab, "a", "tcp", router.outside(B, prefix), 100_000) == "same"
        assert reaches(lab, "router", router.outside(B, prefix))


@on(NETMAP)
def test_the_router_leaves_by_the_uplink_of_its_address(lab: Lab, router: Router) -> None:
    count_wrong(lab)
    for address in (ROUTER_ONE, ROUTER_TWO, "fd5e:ed00:1234::1"):
        assert ping(lab, "router", SERVER, "-I", address) == f"answered by {SERVER}"
    for isp, address in (("isp", ROUTER_ONE), ("isp2", ROUTER_TWO)):
        assert ping(lab, isp, address, "-I", SERVER) == f"answered by {address}"
    Echo(lab, "router")
    own = router.outside("fd5e:ed00:1234::1", NEW)
    assert ask(lab, "isp2", "tcp", own) == "same"
    assert reaches(lab, "router", A) and reaches(lab, "a", "fd5e:ed00:1234::1")
    assert none_wrong(lab)


def test_errors_reach_who_came_in_by_the_second_also_where_it_has_no_address(
    lab: Lab, router: Router
) -> None:
    """With a prefix and nothing else from the ISP, errors begin with the first one's address."""
    link = lab.link_to("isp2")
    router.run("ip", "addr", "flush", "dev", link.here, "scope", "global")
    router.run("ip", "addr", "add", "fe80::2/64", "dev", link.here, "nodad")
    lab.run("isp2", ["ip", "addr", "add", "fe80::1/64", "dev", link.there, "nodad"])
    lab.run("isp2", ["ip", "-6", "route", "add", NEW, "via", "fe80::2", "dev", link.there])
    router.run("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", link.here,
               "metric", "2000")
    router.pd("restore")
    count_wrong(lab)
    assert reaches(lab, "isp2", BY_TWO)
    assert ping(lab, "isp2", BY_TWO, "-t1", "-I", SERVER) == f"{BY_TWO}: Time exceeded: Hop limit"
    router.run("ip", "link", "set", "lan0", "mtu", "1300")
    said = ping(lab, "isp2", BY_TWO, "-s1400", "-Mdo", "-I", SERVER)
    assert said == f"{BY_TWO}: Packet too big: mtu=1300"
    assert none_wrong(lab)


@on(EACH)
def test_a_network_within_another_has_its_own_uplink_and_then_the_outer_ones(
    lab: Lab, variant: Variant
) -> None:
    within = '[[translation]]\nuplink = "two"\ninternal = "fd5e:ed00:1234::/64"\n'
    router = Router(lab, TWO.replace('["one", "two"]', '["one"]') + within, variant)
    router.set(OLD, uplink="one")
    router.set(NEW, uplink="two")
    inner, outer = router.outside(A, "2001:db8:8000::/64", "fd5e:ed00:1234::/64"), router.outside(A)
    assert sources(lab) == {inner}
    assert sources(lab, "b") == {router.outside(B)}
    router.pd("uplink", "two", "down")
    assert sources(lab) == {outer}


# ---- one fails ---------------------------------------------------------------------------------


@on(NETMAP)
def test_new_flows_take_the_second_uplink_and_come_back(lab: Lab, router: Router) -> None:
    count_wrong(lab)
    carrier(lab, "isp", "down")
    router.hook("NOCARRIER")
    assert sources(lab) == {BY_TWO}
    assert router.status()["ok"]
    carrier(lab, "isp", "up")
    router.hook("CARRIER")
    assert sources(lab) == {BY_ONE}
    assert none_wrong(lab)
    with router.unwritten():
        router.hook("CARRIER")


@on(NETMAP)
def test_an_uplink_is_taken_out_of_use_by_hand(lab: Lab, router: Router) -> None:
    Echo(lab, "a")
    router.pd("uplink", "one", "down", "--reason", "no answer from 2001:db8::1")
    assert sources(lab) == {BY_TWO}
    said = router.pd("status").stdout
    assert "1. one: not used: it was set down (no answer from 2001:db8::1)" in said
    assert "2. two: takes new flows" in said
    assert ask(lab, "isp", "tcp", BY_ONE) == "same", "inbound is still answered by it"
    with router.unwritten():
        router.pd("uplink", "one", "down", "--reason", "no answer from 2001:db8::1")
    router.pd("uplink", "one", "up")
    assert sources(lab) == {BY_ONE}


@on(NETMAP)
def test_running_flows_leave_a_dead_uplink_at_once(lab: Lab, router: Router) -> None:
    for isp in ("isp", "isp2"):
        lab.start_echo(isp)
    before, after = lab.sniff(OLD), lab.sniff(NEW, "isp2")
    flow = lab.start_running_flow()
    before.wait()
    carrier(lab, "isp", "down")
    router.hook("NOCARRIER")
    after.wait()
    assert list(flow.stop().sources) == [BY_ONE, BY_TWO]


@on(NETMAP)
def test_a_tcp_connection_ends_rather_than_hangs(lab: Lab, router: Router) -> None:
    for isp in ("isp", "isp2"):
        Echo(lab, isp, SERVER)
    connection = hold(lab, "a", SERVER)
    carrier(lab, "isp", "down")
    router.hook("NOCARRIER")
    connection.wait(5)
    assert "ended" in connection.output()


@pytest.mark.parametrize("text", [
    TWO.replace('["one", "two"]', '["one"]'),
    TWO.replace("table = 201", "").replace("table = 202", ""),
], ids=["uplink", "tables"])
def test_running_flows_leave_an_uplink_that_the_configuration_does_not_lead_to_any_more(
    lab: Lab, text: str
) -> None:
    router = Router(lab, TWO)
    router.set(OLD, uplink="one")
    router.set(NEW, uplink="two")
    router.pd("uplink", "one", "down")
    for isp in ("isp", "isp2"):
        lab.start_echo(isp)
    before, after = lab.sniff(NEW, "isp2"), lab.sniff(OLD)
    flow = lab.start_running_flow()
    before.wait()
    router.configure(text)
    router.pd("uplink", "one", "up")
    after.wait()
    assert list(flow.stop().sources) == [BY_TWO, BY_ONE]


@on(NETMAP)
def test_a_flow_stays_on_the_uplink_that_it_began_on(lab: Lab, router: Router) -> None:
    count_wrong(lab)
    for isp in ("isp", "isp2"):
        lab.start_echo(isp)
    router.pd("uplink", "one", "down")
    began = lab.sniff(NEW, "isp2")
    flow = lab.start_running_flow()
    began.wait()
    router.pd("uplink", "one", "up")
    assert sources(lab, "b") == {router.outside(B)}
    report = flow.stop()
    assert (report.lost, list(report.sources)) == ((), [BY_TWO])
    assert none_wrong(lab)


@on(NETMAP)
def test_inbound_by_the_second_survives_the_return_of_the_first(
    lab: Lab, router: Router
) -> None:
    Echo(lab, "a")
    carrier(lab, "isp", "down")
    router.hook("NOCARRIER")
    connection = hold(lab, "isp2", BY_TWO)
    carrier(lab, "isp", "up")
    router.hook("CARRIER")
    assert sources(lab, "b") == {router.outside(B)}
    words = connection.output().count("word")
    lab.wait(lambda: connection.output().count("word") > words + 3, 5, "it to go on")


@on(NETMAP)
def test_without_any_uplink_packets_are_rejected(lab: Lab, router: Router) -> None:
    router.pd("uplink", "two", "down")
    carrier(lab, "isp", "down")
    router.hook("NOCARRIER")
    assert "unreachable" in ping(lab, "a", SERVER).lower()
    assert reaches(lab, "a", B)
    assert router.pd("status", code=1).stdout.count("not used: ") == 2


@on(EACH)
def test_no_packet_is_lost_when_an_uplink_is_set_down_under_load(lab: Lab, router: Router) -> None:
    if not router.variant.tracked:
        pytest.skip("without connection tracking nothing keeps a flow on its uplink")
    lab.conntrack_timeout(2)
    count_wrong(lab)
    flows = lab.start_flows()
    for state in ("down", "up") * 5:
        router.pd("uplink", "one", state)
    sent = flows.stop()
    lab.wait(lambda: lab.count().arrived + lab.count("isp2").arrived >= sent.sent, 5, "all packets")
    assert lab.count().arrived and lab.count("isp2").arrived
    assert lab.count().leaked == lab.count("isp2").leaked == sent.refused == 0
    assert none_wrong(lab)
