"""iptables-legacy on a kernel without nf_tables for IPv6: what FORWARD and OUTPUT can guard.

The kernel of the tests has it; an empty file in the place of its symbols makes pdreactor think that
it has not. (Tried with a kernel that really has none: see CHANGELOG.)
"""

import pytest

from tests.lab import SERVER, Lab

from .pd import (
    ISP,
    NEEDS_ROOT,
    NEW,
    OLD,
    A,
    B,
    Echo,
    Router,
    Variant,
    ask,
    config,
    ping,
    reaches,
)
from .test_uplinks import TWO, count_wrong, none_wrong, sources

pytestmark = [*NEEDS_ROOT, pytest.mark.variants]

REJECTED = "fd5e:ed00:1234::1: Destination unreachable: Unknown code 5"


@pytest.fixture
def variant() -> Variant:
    return Variant("iptables-legacy")


@pytest.fixture
def old(lab: Lab, router: Router) -> Router:
    """Its kernel has no nf_tables, as far as one can see."""
    return hidden(lab, router)


def hidden(lab: Lab, router: Router) -> Router:
    lab.write("router", "/run/nothing", "")
    router.run("mount", "--bind", "/run/nothing", "/proc/kallsyms")
    return router


def test_everything_works_and_status_says_what_the_guard_is(lab: Lab, old: Router) -> None:
    old.set(OLD)
    echo = Echo(lab, "isp", SERVER)
    Echo(lab, "a")
    assert ask(lab, "a", "udp", SERVER) == ask(lab, "isp", "tcp", old.outside(A)) == "same"
    assert reaches(lab, "a", old.outside(B)) and reaches(lab, "router", old.outside(B))
    assert echo.sources() == {old.outside(A)}
    status = old.status()
    assert status["ok"] and "no nf_tables" in status["notes"][0]
    assert old.ours() == ""
    with old.unwritten():
        old.pd("restore")


def test_with_tables_each_uplink_answers_and_flows_stay_on_theirs(variant: Variant) -> None:
    with Lab(uplinks=2) as lab:
        old = hidden(lab, Router(lab, TWO, variant))
        count_wrong(lab)
        old.set(OLD, uplink="one")
        old.set(NEW, uplink="two")
        echo = Echo(lab, "a")
        for isp, prefix in (("isp", OLD), ("isp2", NEW)):
            assert ping(lab, isp, old.outside(A, prefix), "-I", SERVER).startswith("answered")
            assert ask(lab, isp, "tcp", old.outside(A, prefix)) == "same"
            own = old.outside("fd5e:ed00:1234::1", prefix)
            assert ping(lab, isp, own, "-I", SERVER) == f"answered by {own}"
            late = ping(lab, isp, old.outside(A, prefix), "-t1", "-I", SERVER)
            assert late == f"{old.outside(A, prefix)}: Time exceeded: Hop limit"
        echo.stop()
        assert reaches(lab, "a", old.outside(B)) and reaches(lab, "router", old.outside(B, NEW))
        assert sources(lab) == {old.outside(A)}
        old.pd("uplink", "one", "down")
        lab.start_echo("isp2")
        began = lab.sniff(NEW, "isp2")
        flow = lab.start_running_flow()
        began.wait()
        old.pd("uplink", "one", "up")
        assert sources(lab) == {old.outside(A)}
        report = flow.stop()
        assert (report.lost, list(report.sources)) == ((), [old.outside(A, NEW)])
        assert none_wrong(lab)
        with old.unwritten():
            old.pd("restore")
        old.pd("flush")
        assert "pdreactor" not in old.run("ip6tables-legacy-save")


def test_without_a_prefix_lan_hosts_are_told_at_once(lab: Lab, old: Router) -> None:
    old.pd("restore")
    assert ping(lab, "a", SERVER) == REJECTED
    inside = "fd5e:ed00:1234::1"
    assert ping(lab, "router", SERVER, "-I", inside) != f"answered by {SERVER}"
    old.set(OLD)
    assert reaches(lab, "a", SERVER)
    old.pd("unset", "wan")
    assert ping(lab, "a", SERVER) == REJECTED
    assert lab.count().leaked == 0


def test_what_conntrack_does_not_track_does_not_leave(lab: Lab, old: Router) -> None:
    old.set(OLD)
    old.run("ip6tables-legacy", "-t", "raw", "-A", "PREROUTING", "-i", "lan0", "-j", "CT",
            "--notrack")
    assert not reaches(lab, "a", SERVER)
    assert lab.count().leaked == 0


def test_a_flow_that_began_untranslated_does_not_go_on(lab: Lab, old: Router) -> None:
    old.run("ip6tables-legacy", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "NEW")
    ask(lab, "a", "udp", SERVER, source=1001)
    before = lab.count().leaked
    assert before == 1
    old.set(OLD)
    Echo(lab, "isp", SERVER)
    assert ask(lab, "a", "udp", SERVER, source=1001) == "same"
    assert lab.count().leaked == before


def test_changes_under_load_lose_and_leak_nothing(lab: Lab, old: Router) -> None:
    old.set(OLD)
    lab.conntrack_timeout(2)
    flows = lab.start_flows(rate=2000)
    for prefix in (NEW, OLD, NEW):
        old.set(prefix)
    sent = flows.stop()
    lab.wait(lambda: lab.count().arrived >= sent.sent, 5, "all packets")
    assert lab.count().leaked == 0


def test_bypass_and_flush(lab: Lab, old: Router) -> None:
    old.configure(config(uplink='bypass = ["fd00:cafe::/32"]'))
    old.pd("restore")
    lab.run("isp", ["ip", "addr", "add", "fd00:cafe::1/128", "dev", "lo", "nodad"])
    lab.isp_route("fd5e:ed00:1234::/58")
    assert reaches(lab, "a", "fd00:cafe::1")
    assert ping(lab, "a", ISP) == REJECTED
    old.pd("flush")
    assert "pdreactor" not in old.run("ip6tables-legacy-save")
