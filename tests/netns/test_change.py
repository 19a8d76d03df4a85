"""The prefix changes while the network is in use: nothing is lost, nothing leaks."""

import os
import time

from tests.lab import SERVER, Lab

from .pd import (
    ISP,
    NEW,
    NEW_A,
    OLD,
    OLD_A,
    OLD_B,
    THIRD,
    A,
    B,
    Echo,
    Router,
    ask,
    config,
    dhcp,
    hold,
    reaches,
)

CHANGES = int(os.environ.get("PDREACTOR_CHANGES", "15"))
"""With 200 of them the test below takes a minute."""
RATE = 5000


def test_changes_under_load_lose_and_leak_nothing(lab: Lab, router: Router) -> None:
    prefixes = (OLD, NEW, THIRD)
    router.set(OLD)
    lab.conntrack_timeout(2)
    lab.count_prefix(*prefixes)
    flows = lab.start_flows(rate=RATE)
    for number in range(1, CHANGES + 1):
        router.set(prefixes[number % 3])
    sent = flows.stop()
    lab.wait(lambda: lab.count().arrived >= sent.sent, 5, f"all of {sent.sent} packets")
    count = lab.count()
    assert sent.refused == 0
    assert (count.leaked, count.arrived) == (0, sent.sent)
    assert all(count.by_prefix.values())
    assert sum(count.by_prefix.values()) == sent.sent


def test_a_running_udp_flow_moves_with_the_change(lab: Lab, router: Router) -> None:
    router.set(OLD)
    lab.start_echo()
    flow = lab.start_running_flow(interval_ms=5)
    lab.wait(lambda: router.flows("-r", SERVER, "-p", "udp"), 5, "the flow to begin")
    router.set(NEW)
    lab.wait(lambda: NEW_A in "".join(router.flows("-p", "udp").values()), 5, "it to move")
    report = flow.stop()
    assert report.lost == ()
    assert list(report.sources) == [OLD_A, NEW_A]


def test_a_tcp_connection_does_not_hang(lab: Lab, router: Router) -> None:
    router.set(OLD)
    Echo(lab, "isp", SERVER)
    connection = hold(lab, "a", SERVER)
    router.set(NEW)
    assert connection.wait(5) == 0
    assert "Connection reset" in connection.output()


def test_a_superseded_prefix_is_served_inbound_until_its_lifetime_ends(
    lab: Lab, router: Router
) -> None:
    router.hook("BOUND6", dhcp(OLD, preferred=2, valid=3))
    router.hook("BOUND6", dhcp(NEW))
    assert router.prefixes() == {NEW: "current", OLD: "superseded"}
    assert reaches(lab, "isp", OLD_A) and reaches(lab, "isp", NEW_A)
    assert reaches(lab, "a", OLD_B) and reaches(lab, "a", SERVER)
    deadline = time.time() + 3
    lab.wait(lambda: time.time() > deadline, 5, "the lifetime to end")
    router.pd("restore")
    assert router.prefixes() == {NEW: "current"}
    assert not reaches(lab, "isp", OLD_A)
    assert reaches(lab, "isp", NEW_A)
    assert not router.routes("exact", OLD) and router.routes("exact", NEW)


def test_inbound_flows_of_a_superseded_prefix_go_on(lab: Lab, router: Router) -> None:
    router.set(OLD)
    Echo(lab, "a")
    connection = hold(lab, "isp", OLD_A)
    router.set(NEW)
    router.set(THIRD)
    said = len(connection.output())
    lab.wait(lambda: len(connection.output()) > said + 50, 5, "ten more words")
    assert connection.running


MASQUERADE = """
table inet user {
    chain post {
        type nat hook postrouting priority srcnat;
        oifname "eth0" ip6 saddr fd00:9::/64 masquerade
    }
    chain forward {
        type filter hook forward priority mangle;
        ct mark set ct mark | 0x40000005
    }
}
"""


def one_flow_each(lab: Lab) -> None:
    """Every kind of flow there is; each answered once."""
    for host in ("isp", "a", "b"):
        Echo(lab, host)
    assert ask(lab, "a", "udp", SERVER, source=1001) == "same"  # ours, outbound
    assert ask(lab, "isp", "udp", OLD_A, source=1002) == "same"  # ours, inbound
    assert ask(lab, "a", "udp", OLD_B, source=1003) == "same"  # ours, hairpin
    assert ask(lab, "a", "udp", B, source=1004) == "same"  # LAN to LAN
    assert ask(lab, "router", "udp", SERVER, source=1005) == "same"
    assert ask(lab, "router", "udp", A, source=1006) == "same"
    lab.run("a", ["ip", "addr", "add", "fd00:9::2/64", "dev", "eth0", "nodad"])
    lab.run("router", ["ip", "addr", "add", "fd00:9::1/64", "dev", "lan0", "nodad"])
    bound = ["bash", "-c", f"exec 3<>/dev/udp/{ISP}/4242; echo x >&3; head -1 <&3"]
    way = ["via", "fd00:9::1", "dev", "eth0", "src", "fd00:9::2"]
    lab.run("a", ["ip", "-6", "route", "replace", f"{ISP}/128", *way])
    assert lab.run("a", bound).stdout == "x\n"  # the user's own masquerade rule


def test_only_the_old_prefixes_outbound_flows_are_removed(lab: Lab, router: Router) -> None:
    lab.nft("router", MASQUERADE)
    router.set(OLD)
    one_flow_each(lab)
    before = router.flows()
    assert len(before) == 7
    router.set(NEW)
    after = router.flows()
    gone = [before[flow] for flow in before if flow not in after]
    assert [line for line in gone if "sport=1001" not in line] == []
    assert len(gone) == 1
    assert set(after) == set(before) - {flow for flow in before if before[flow] in gone}


def test_marks_of_others_are_preserved(lab: Lab, router: Router) -> None:
    lab.nft("router", MASQUERADE)
    router.set(OLD)
    echo = Echo(lab, "isp", SERVER)
    assert ask(lab, "a", "udp", SERVER) == "same"
    (flow,) = router.flows("-r", SERVER).values()
    mark = int(flow.split("mark=")[1].split()[0])
    assert mark & ~0x0FF00000 == 0x40000005
    assert mark & 0x0FF00000
    router.set(NEW)
    assert ask(lab, "a", "udp", SERVER) == "same"
    assert echo.sources() == {OLD_A, NEW_A}


def test_the_mask_decides_which_bits_are_ours(lab: Lab, router: Router) -> None:
    router.configure(config() + "[firewall]\nct_mark_mask = 0xff\n")
    router.set(OLD)
    Echo(lab, "isp", SERVER)
    assert ask(lab, "a", "udp", SERVER) == "same"
    (flow,) = router.flows("-r", SERVER).values()
    assert 0 < int(flow.split("mark=")[1].split()[0]) <= 0xFF
    router.set(NEW)
    assert not router.flows("-r", SERVER)


def test_a_prefix_that_comes_back_is_used_again(lab: Lab, router: Router) -> None:
    echo = Echo(lab, "isp", SERVER)
    for prefix in (OLD, NEW, OLD):
        router.set(prefix)
        assert ask(lab, "a", "udp", SERVER, source=2000) == "same"
    assert echo.process.output().count(OLD_A) == 2
    assert router.prefixes() == {OLD: "current", NEW: "superseded"}


def test_ten_thousand_foreign_flows_are_left_alone(lab: Lab, router: Router) -> None:
    router.set(OLD)
    lab.run("isp", ["ip", "-6", "route", "add", "fd5e:ed00:1234::/58", "via", "2001:db8:ffff::2"])
    lab.start_flows("b", rate=10_000, seconds=1, target=A).wait()
    before = router.flows()
    assert len(before) > 5000
    router.set(NEW)
    assert set(before) == set(router.flows())
