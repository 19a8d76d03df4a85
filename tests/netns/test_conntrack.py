"""Which flows a change removes from conntrack, and which it does not touch."""

from tests.lab import SERVER, Lab

from .pd import (
    ISP,
    NEEDS_ROOT,
    NETMAP,
    NEW,
    OLD,
    A,
    B,
    Echo,
    Router,
    ask,
    config,
    dhcp,
    hold,
    on,
)

pytestmark = NEEDS_ROOT

MASQUERADE = """
table inet user {
    chain post {
        type nat hook postrouting priority srcnat;
        oifname "eth0" ip6 saddr fd00:9::/64 masquerade
    }
    chain forward {
        type filter hook forward priority mangle;
        ct state new ct mark set ct mark | 0x40000005
    }
}
"""


def one_flow_each(lab: Lab, router: Router) -> None:
    """Every kind of flow there is; each answered once."""
    for host in ("isp", "a", "b"):
        Echo(lab, host)
    assert ask(lab, "a", "udp", SERVER, source=1001) == "same"  # ours, outbound
    assert ask(lab, "isp", "udp", router.outside(A), source=1002) == "same"  # ours, inbound
    assert ask(lab, "a", "udp", router.outside(B), source=1003) == "same"  # ours, hairpin
    assert ask(lab, "a", "udp", B, source=1004) == "same"  # LAN to LAN
    assert ask(lab, "router", "udp", SERVER, source=1005) == "same"
    assert ask(lab, "router", "udp", A, source=1006) == "same"
    lab.run("a", ["ip", "addr", "add", "fd00:9::2/64", "dev", "eth0", "nodad"])
    lab.run("router", ["ip", "addr", "add", "fd00:9::1/64", "dev", "lan0", "nodad"])
    bound = ["bash", "-c", f"exec 3<>/dev/udp/{ISP}/4242; echo x >&3; head -1 <&3"]
    way = ["via", "fd00:9::1", "dev", "eth0", "src", "fd00:9::2"]
    lab.run("a", ["ip", "-6", "route", "replace", f"{ISP}/128", *way])
    assert lab.run("a", bound).stdout == "x\n"  # the user's own masquerade rule


@on(NETMAP)
def test_only_the_old_prefixes_outbound_flows_are_removed(lab: Lab, router: Router) -> None:
    lab.nft("router", MASQUERADE)
    router.set(OLD)
    one_flow_each(lab, router)
    before = router.flows()
    assert len(before) == 7
    router.set(NEW)
    after = router.flows()
    gone = [before[flow] for flow in before if flow not in after]
    assert [line for line in gone if "sport=1001" not in line] == []
    assert len(gone) == 1
    assert set(after) == set(before) - {flow for flow in before if before[flow] in gone}


@on(NETMAP)
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
    assert echo.sources() == {router.outside(A), router.outside(A, NEW)}


@on(NETMAP[:2])
def test_the_mask_decides_which_bits_are_ours(lab: Lab, router: Router) -> None:
    router.configure(config() + "[firewall]\nct_mark_mask = 0xff\n")
    router.set(OLD)
    Echo(lab, "isp", SERVER)
    assert ask(lab, "a", "udp", SERVER) == "same"
    (flow,) = router.flows("-r", SERVER).values()
    assert 0 < int(flow.split("mark=")[1].split()[0]) <= 0xFF
    router.set(NEW)
    assert not router.flows("-r", SERVER)


@on(NETMAP[:2])
def test_ten_thousand_foreign_flows_are_left_alone(lab: Lab, router: Router) -> None:
    router.set(OLD)
    lab.run("isp", ["ip", "-6", "route", "add", "fd5e:ed00:1234::/58", "via", "2001:db8:ffff::2"])
    lab.start_flows("b", rate=10_000, seconds=1, target=A).wait()
    before = router.flows()
    assert len(before) > 5000
    router.set(NEW)
    assert set(before) == set(router.flows())


@on(NETMAP)
def test_inbound_flows_of_a_superseded_prefix_are_kept(lab: Lab, router: Router) -> None:
    router.set(OLD)
    Echo(lab, "a")
    connection = hold(lab, "isp", router.outside(A))
    (flow,) = router.flows("-p", "tcp")
    router.set(NEW)
    said = len(connection.output())
    lab.wait(lambda: len(connection.output()) > said + 50, 5, "ten more words")
    assert list(router.flows("-p", "tcp")) == [flow]


@on(NETMAP)
def test_a_release_removes_all_flows_of_the_prefix_and_no_others(
    lab: Lab, router: Router
) -> None:
    lab.nft("router", MASQUERADE)
    router.hook("BOUND6", dhcp(OLD))
    one_flow_each(lab, router)
    before = router.flows()
    router.hook("RELEASE6")
    after = router.flows()
    gone = {port(before[flow]) for flow in before if flow not in after}
    assert gone == {1001, 1002, 1003}


def port(flow: str) -> int:
    """The source port of a flow."""
    return int(flow.split("sport=")[1].split()[0])


@on(NETMAP[:2])
def test_more_prefixes_than_generations(lab: Lab, router: Router) -> None:
    Echo(lab, "isp", SERVER)
    for number in range(1, 13):
        prefix = f"2001:db8:4000:{number << 8:x}::/58"
        router.set(prefix)
        assert ask(lab, "a", "udp", SERVER, source=1001) == "same"
        (flow,) = router.flows("-d", SERVER, "-p", "udp").values()
        assert f"dst={prefix.replace('/58', '2')} " in flow
    assert len(router.prefixes()) == 8
    router.pd("plan")


@on(NETMAP)
def test_flush_removes_the_flows_that_it_stops_translating(lab: Lab, router: Router) -> None:
    lab.nft("router", MASQUERADE)
    router.set(OLD)
    one_flow_each(lab, router)
    before = router.flows()
    router.pd("flush")
    after = router.flows()
    gone = {port(before[flow]) for flow in before if flow not in after}
    assert gone == {1001, 1002, 1003}


@on(NETMAP[:2])
def test_a_cleaning_that_was_cut_off_is_finished_by_the_next_pass(
    lab: Lab, router: Router
) -> None:
    router.set(OLD)
    Echo(lab, "isp", SERVER)
    assert ask(lab, "a", "udp", SERVER) == "same"
    (old,) = router.flows("-d", SERVER)
    call = router.start("set", "wan", NEW)
    lab.wait(lambda: NEW in router.translation() or not call.running, 5, "the rules")
    call.kill()
    router.pd("restore")
    assert old not in router.flows()
    router.pd("plan")
