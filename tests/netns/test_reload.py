"""A firewall is reloaded while the network is in use: nothing leaks, and what is lost is what the
firewall itself takes away."""

import re
from pathlib import Path

import pytest

from tests.lab import SERVER, Lab

from .firewalls import PROGRAMS, UNPACKED, Firewall
from .pd import (
    IPTABLES,
    MODES,
    NEEDS_ROOT,
    NEW,
    NFTABLES,
    OLD,
    RFC6296,
    STATELESS,
    THIRD,
    Echo,
    Router,
    Variant,
    hold,
    on,
    reaches,
)

pytestmark = NEEDS_ROOT

RATE = 5000
RELOADS = 10
DIRECTORY = "/run/pdreactor"
INCLUDE = f"{DIRECTORY}/pdreactor.nft"
NFTABLES_CONF = """\
#!/usr/sbin/nft -f
flush ruleset
table inet filter {
    chain input { type filter hook input priority filter; policy accept; }
    chain forward { type filter hook forward priority filter; policy accept; }
}
include "/run/pdreactor/*.nft"
"""
RELOAD = ("nft", "-f", "/etc/nftables.conf")


def included(lab: Lab, router: Router) -> Path:
    """/etc/nftables.conf includes us; the file as seen from outside."""
    lab.write("router", "/etc/nftables.conf", NFTABLES_CONF)
    router.run("mkdir", DIRECTORY)
    return lab.path("router", INCLUDE)


def guarded(router: Router) -> int:
    """How many packets the guard has stopped."""
    text = router.run("nft", "list", "counter", "ip6", "pdreactor", "guard-0")
    found = re.search(r"packets (\d+)", text)
    assert found
    return int(found[1])


# ---- nftables.conf ---------------------------------------------------------------------------


@on([NFTABLES, STATELESS])
def test_reloads_with_the_include_leak_nothing(lab: Lab, router: Router) -> None:
    """What is in maps of intervals is not found for a moment when they are made in the transaction
    that uses them (kernel 6.18): a new flow in 20 to 60 reloads meets the guard. Without the
    include it is some hundred in each."""
    included(lab, router)
    router.set(OLD)
    lab.conntrack_timeout(2)
    flows = lab.start_flows(rate=RATE)
    lab.wait(lambda: lab.count().arrived > 100, 5, "the first packets")
    for _ in range(RELOADS):
        router.run(*RELOAD)
    sent = flows.stop()
    lab.wait(lambda: lab.count().arrived >= sent.sent - RELOADS, 5, f"{sent.sent} packets")
    assert lab.count().leaked == 0
    with router.unwritten():
        router.pd("plan")
        router.pd("restore")


@on([NFTABLES, STATELESS])
def test_running_flows_and_their_marks_survive_a_reload(lab: Lab, router: Router) -> None:
    included(lab, router)
    router.set(OLD)
    lab.start_echo()
    Echo(lab, "isp", SERVER)
    flow, connection = lab.start_running_flow(), hold(lab, "a", SERVER)
    router.run(*RELOAD)
    said = len(connection.output())
    lab.wait(lambda: len(connection.output()) > said + 50, 5, "ten more words")
    router.set(NEW)  # finds the flows of the old prefix by their marks
    after = lab.sniff(NEW)
    after.wait()
    assert flow.stop().lost == ()


@on(IPTABLES)
def test_with_ip6tables_the_guard_comes_with_the_reload(lab: Lab, router: Router) -> None:
    """``flush ruleset`` takes the chains of the nf_tables variant; those of legacy stay."""
    included(lab, router)
    router.set(OLD)
    lab.conntrack_timeout(2)
    flows = lab.start_flows(rate=RATE)
    lab.wait(lambda: lab.count().arrived > 100, 5, "the first packets")
    for _ in range(3):
        router.run(*RELOAD)
        router.pd("restore")
    sent, stays = flows.stop(), router.variant == IPTABLES[1]
    if stays:
        lab.wait(lambda: lab.count().arrived >= sent.sent, 5, f"all of {sent.sent} packets")
    assert lab.count().leaked == 0
    assert reaches(lab, "a", SERVER)


def test_changes_lose_nothing_while_the_include_is_kept_up(lab: Lab, router: Router) -> None:
    """The kernel is asked about each new text, which it sees as a table that comes and goes."""
    file = included(lab, router)
    router.set(OLD)
    lab.conntrack_timeout(2)
    flows = lab.start_flows(rate=RATE)
    for prefix in (NEW, THIRD, OLD, NEW):
        router.set(prefix)
        assert prefix in file.read_text()
    sent = flows.stop()
    lab.wait(lambda: lab.count().arrived >= sent.sent, 5, f"all of {sent.sent} packets")
    assert (lab.count().leaked, lab.count().arrived) == (0, sent.sent)
    router.run(*RELOAD)
    router.pd("plan")


def written(file: Path) -> tuple[int, int]:
    """What another writing of a file changes, and reading does not."""
    status = file.stat()
    return status.st_ino, status.st_mtime_ns


@on(MODES)
def test_the_include_loads_by_itself_whether_the_table_is_there_or_not(
    lab: Lab, router: Router
) -> None:
    file = included(lab, router)
    router.set(OLD)
    router.set(NEW)  # another slot in the kernel than in the file
    before = written(file)
    for command in ((), ("flush", "ruleset")):
        if command:
            router.run("nft", *command)
            router.pd("restore")
        router.run("nft", "-f", INCLUDE)
        router.pd("plan")
    if not router.variant.ip6tables:
        router.run("nft", "delete", "table", "ip6", "pdreactor")
        router.run("nft", "-f", INCLUDE)
        router.pd("plan")
        assert reaches(lab, "a", SERVER)
    assert written(file) == before, "written though nothing changed"


def test_without_a_prefix_the_include_guards(lab: Lab, router: Router) -> None:
    included(lab, router)
    router.pd("restore")
    router.run(*RELOAD)
    assert not reaches(lab, "a", SERVER)
    assert lab.count().leaked == 0
    router.pd("restore")
    assert "chain guard" in router.ours()


def test_flush_removes_the_include_and_nobody_needs_it(lab: Lab, router: Router) -> None:
    file = included(lab, router)
    router.run(*RELOAD)  # as at boot: nothing is there yet
    assert router.ours() == ""
    router.set(OLD)
    assert file.exists()
    router.pd("flush")
    assert not file.exists()
    router.run(*RELOAD)
    assert router.is_clean()


def test_an_include_that_cannot_be_written_is_said_and_the_kernel_is_right(
    lab: Lab, router: Router
) -> None:
    file = included(lab, router)
    router.set(OLD)
    router.run("mount", "-t", "tmpfs", "-o", "ro", "none", DIRECTORY)
    said = router.pd("set", "wan", NEW, code=74).stderr
    assert f"{INCLUDE}: Read-only file system; it stays as it was" in said
    assert reaches(lab, "a", SERVER)
    router.run("umount", DIRECTORY)
    assert OLD in file.read_text()
    router.pd("restore")
    assert NEW in file.read_text()


# ---- other firewalls --------------------------------------------------------------------------


CASES = [
    *((name, NFTABLES) for name in PROGRAMS),
    ("netfilter-persistent", IPTABLES[0]),
    ("netfilter-persistent", IPTABLES[1]),
    ("ufw", RFC6296[0]),  # it leaves the table nat alone
    ("shorewall6", IPTABLES[0]),
    ("firewalld", IPTABLES[0]),
]
PARAMETERS = [
    pytest.param(name, variant, id=f"{name}-{variant}",
                 marks=() if variant == NFTABLES else pytest.mark.variants)
    for name, variant in CASES
]


@UNPACKED
@pytest.mark.parametrize("name, variant", PARAMETERS)
def test_a_reload_of_other_firewalls_leaks_nothing(
    lab: Lab, name: str, variant: Variant
) -> None:
    """Our table of nftables is nobody else's. Chains of ip6tables may be gone until our hook runs;
    what the guard stops meanwhile is lost, and begins again translated."""
    router = Router(lab, variant=variant)
    router.set(OLD)
    firewall = Firewall(lab, router, PROGRAMS[name])
    settled(lab, router)
    lab.conntrack_timeout(2)
    lab.count_prefix(OLD)
    flows = lab.start_flows(rate=RATE)
    lab.wait(lambda: lab.count().arrived > 100, 5, "the first packets")
    before = guarded(router)
    firewall.reload()
    settled(lab, router)
    sent = flows.stop()
    stopped = guarded(router) - before
    if not firewall.program.drops:
        lab.wait(lambda: lab.count().arrived + stopped >= sent.sent, 5, "the other packets")
    count = lab.count()
    print(f"{name} {variant}: {sent.sent} sent, {stopped} stopped by the guard, "
          f"{sent.sent - count.arrived} lost")
    assert count.leaked == 0 and count.by_prefix[OLD] == count.arrived
    assert not stopped or variant != NFTABLES


def settled(lab: Lab, router: Router) -> None:
    """The hook has run; firewalld's comes a moment later."""
    lab.wait(lambda: router.pd("plan", code=None).returncode == 0, 10, "our hook to be called")
