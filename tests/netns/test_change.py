"""The prefix changes while the network is in use: nothing is lost, nothing leaks."""

import os
import time

import pytest

from tests.lab import SERVER, Lab
from tests.lab.flows import ECHO_PORT

from .pd import (
    ALL,
    EACH,
    MODES,
    NEEDS_ROOT,
    NEW,
    NFTABLES,
    OLD,
    PYTHON,
    TALK,
    THIRD,
    A,
    B,
    Echo,
    Router,
    ask,
    config,
    dhcp,
    hold,
    on,
    ping,
    reaches,
    unanswered,
)

pytestmark = NEEDS_ROOT

CHANGES = int(os.environ.get("PDREACTOR_CHANGES", "0"))
"""With 200 of them the test below takes half a minute for each variant."""
RATE = 5000


@on(ALL)
def test_changes_under_load_lose_and_leak_nothing(lab: Lab, router: Router) -> None:
    prefixes = (OLD, NEW, THIRD)
    router.set(OLD)
    lab.conntrack_timeout(2)
    lab.count_prefix(*prefixes)
    flows = lab.start_flows(rate=RATE)
    for number in range(1, 1 + (CHANGES or (15 if router.variant == NFTABLES else 6))):
        router.set(prefixes[number % 3])
    sent = flows.stop()
    lab.wait(lambda: lab.count().arrived >= sent.sent, 5, f"all of {sent.sent} packets")
    count = lab.count()
    assert sent.refused == 0
    assert (count.leaked, count.arrived) == (0, sent.sent)
    assert all(count.by_prefix.values())
    assert sum(count.by_prefix.values()) == sent.sent


@on(ALL)
def test_a_running_udp_flow_moves_with_the_change(lab: Lab, router: Router) -> None:
    router.set(OLD)
    lab.start_echo()
    before, after = lab.sniff(OLD), lab.sniff(NEW)
    flow = lab.start_running_flow(interval_ms=700)  # no answer is on its way at the change
    before.wait()
    router.set(NEW)
    after.wait()
    report = flow.stop()
    assert report.lost == ()
    assert list(report.sources) == [router.outside(A), router.outside(A, NEW)]


@on(ALL)
def test_a_running_udp_flow_moves_though_answers_are_on_their_way(
    lab: Lab, router: Router, request: pytest.FixtureRequest
) -> None:
    """As with every telephone call and every tunnel: the other end says something all the time."""
    if router.variant.tracked:
        request.applymarker(pytest.mark.xfail(strict=True, reason=(
            "the flow is removed from conntrack, then an answer that was on its way begins one "
            "from outside, to the superseded prefix; what the LAN host sends belongs to that"
        )))
    router.set(OLD)
    server = lab.start("isp", [PYTHON, "-IS", TALK, "stream", SERVER, str(ECHO_PORT)])
    server.wait_output("ready")
    lab.start_running_flow(interval_ms=200)
    server.wait_output(router.outside(A))
    router.set(NEW)
    server.wait_output(router.outside(A, NEW), 1)


@on(EACH)
def test_a_tcp_connection_does_not_hang(lab: Lab, router: Router) -> None:
    """Its next packet comes from an address that the server does not know. (While the ISP still
    delivers what is for the superseded prefix, answers on their way keep it alive.)"""
    router.set(OLD)
    Echo(lab, "isp", SERVER)
    connection = hold(lab, "a", SERVER)
    lab.run("isp", ["ip", "-6", "route", "replace", "blackhole", OLD])
    router.set(NEW)
    assert connection.wait(5) == 0
    assert "Connection reset" in connection.output()


@on(MODES)
def test_a_superseded_prefix_is_served_inbound_until_its_lifetime_ends(
    lab: Lab, router: Router
) -> None:
    """Without conntrack packets are delivered, and answers have the prefix that is used now."""
    old, new, tracked = router.outside(A), router.outside(A, NEW), router.variant.tracked
    router.hook("BOUND6", dhcp(OLD, preferred=2, valid=3))
    router.hook("BOUND6", dhcp(NEW))
    assert router.prefixes() == {NEW: "current", OLD: "superseded"}
    assert ping(lab, "isp", old) == f"answered by {old if tracked else new}"
    assert reaches(lab, "isp", new) and reaches(lab, "a", SERVER)
    b, b_new = router.outside(B), router.outside(B, NEW)
    assert ping(lab, "a", b) == f"answered by {b if tracked else b_new}"
    deadline = time.time() + 3
    lab.wait(lambda: time.time() > deadline, 5, "the lifetime to end")
    router.pd("restore")
    assert router.prefixes() == {NEW: "current"}
    assert ping(lab, "isp", old) != f"answered by {new}" and unanswered(lab, "isp", old)
    assert reaches(lab, "isp", new)
    assert not router.routes("exact", OLD) and router.routes("exact", NEW)


@on(MODES)
def test_inbound_flows_of_a_superseded_prefix_go_on(lab: Lab, router: Router) -> None:
    """Without conntrack TCP connections to it do not."""
    router.set(OLD)
    Echo(lab, "a")
    connection = hold(lab, "isp", router.outside(A))
    router.set(NEW)
    router.set(THIRD)
    said = len(connection.output())
    if router.variant.tracked:
        lab.wait(lambda: len(connection.output()) > said + 50, 5, "ten more words")
        assert connection.running
    else:
        again = ask(lab, "isp", "tcp", router.outside(A), patience=1)
        assert again == "failed: timed out"
        assert connection.wait(5) == 0
        assert connection.output()[said:] == "ended: timed out\n"


@on(MODES)
def test_a_prefix_that_comes_back_is_used_again(lab: Lab, router: Router) -> None:
    echo = Echo(lab, "isp", SERVER)
    for prefix in (OLD, NEW, OLD):
        router.set(prefix)
        assert ask(lab, "a", "udp", SERVER, source=2000) == "same"
    old, new = router.outside(A), router.outside(A, NEW)
    seen = [line.split()[1] for line in echo.process.output().splitlines()[1:]]
    assert seen == [old, new, old]
    assert router.prefixes() == {OLD: "current", NEW: "superseded"}


def lifetime_over(lab: Lab, router: Router, keys: str) -> None:
    """The only prefix expires without a word from the ISP."""
    router.configure(config(keys))
    router.hook("BOUND6", dhcp(OLD, preferred=1, valid=1))
    end = time.time() + 1.5
    lab.wait(lambda: time.time() > end, 5, "the lifetime to end")
    router.pd("restore")


def test_the_only_prefix_is_kept_when_its_lifetime_is_over(lab: Lab, router: Router) -> None:
    lifetime_over(lab, router, "")
    assert router.prefixes() == {OLD: "expired"}
    assert reaches(lab, "a", SERVER) and reaches(lab, "isp", router.outside(A))
    assert "expired" in router.pd("status").stdout
    router.hook("RELEASE6")
    assert unanswered(lab, "a", SERVER)


def test_the_only_prefix_is_withdrawn_when_the_configuration_says_so(
    lab: Lab, router: Router
) -> None:
    lifetime_over(lab, router, 'on_expire = "withdraw"')
    assert unanswered(lab, "a", SERVER) and unanswered(lab, "isp", router.outside(A))
    assert lab.count().leaked == 0
    router.hook("BOUND6", dhcp(OLD))
    assert reaches(lab, "a", SERVER)


@on(MODES)
def test_a_delegation_that_grows_keeps_its_flows(lab: Lab, router: Router) -> None:
    router.hook("BOUND6", dhcp(OLD))
    Echo(lab, "isp", SERVER)
    connection = hold(lab, "a", SERVER)
    router.hook("RENEW6", dhcp("2001:db8:4000::/56", old=OLD))
    said = len(connection.output())
    lab.wait(lambda: len(connection.output()) > said + 50, 5, "ten more words")
    assert router.prefixes() == {"2001:db8:4000::/56": "current"}


ARRIVALS = """
table ip6 arrivals {
    counter new { }
    chain c {
        type filter hook prerouting priority raw;
        udp dport 20000-29999 counter name new drop
    }
}
"""


def arrived(lab: Lab, host: str) -> int:
    """Packets of new flows that a LAN host has got."""
    text = lab.run(host, ["nft", "list", "counter", "ip6", "arrivals", "new"]).stdout
    return int(text.split("packets ")[1].split()[0])


@on(EACH)
def test_new_flows_from_outside_and_around_survive_changes(lab: Lab, router: Router) -> None:
    router.set(OLD)
    lab.conntrack_timeout(2)
    for host in ("a", "b"):
        lab.nft(host, ARRIVALS)
    inbound = lab.start_flows("isp", rate=2000, target=router.outside(A))
    around = lab.start_flows("a", rate=2000, target=router.outside(B))
    for prefix in (NEW, THIRD, OLD, NEW):
        router.set(prefix)
    sent_in, sent_around = inbound.stop(), around.stop()
    lab.wait(lambda: arrived(lab, "a") >= sent_in.sent, 5, "all packets from outside")
    lab.wait(lambda: arrived(lab, "b") >= sent_around.sent, 5, "all packets from inside")
    assert sent_in.refused == sent_around.refused == 0


CHAINS = {
    "netmap": ("postrouting", "prerouting", "output"),
    "stateless": ("inward", "local-out", "local-in"),
}
TABLES = {"netmap": ("nat",), "rfc6296": ("mangle", "raw")}


def edits(router: Router) -> list[str]:
    """What a hand may do to our chains, by command."""
    variant = router.variant
    if variant.backend == "nftables":
        chains = (*CHAINS[variant.mode], "guard")
        return [f"nft add rule ip6 pdreactor {chain} counter" for chain in chains]
    names = ("pdreactor_snat", "pdreactor_dnat", "pdreactor_dnat_out")
    return ["nft add rule ip6 pdreactor guard counter"] + [
        f"{variant.ip6tables} -t {table} -A {chain}"
        for table in TABLES[variant.mode] for chain in names
        if (table, chain) != ("raw", "pdreactor_snat")
    ]


@on(EACH)
def test_a_repair_under_load_loses_and_leaks_nothing(lab: Lab, router: Router) -> None:
    router.set(OLD)
    lab.conntrack_timeout(2)
    flows = lab.start_flows(rate=RATE)
    for edit in edits(router):
        router.run(*edit.split())
        router.pd("plan", code=1)
        router.pd("restore")
    sent = flows.stop()
    lab.wait(lambda: lab.count().arrived >= sent.sent, 5, "all packets")
    assert lab.count().leaked == 0
