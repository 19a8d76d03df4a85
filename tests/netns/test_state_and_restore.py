"""Repair, idempotence, what happens at the same time, on_change, and the shell script's state."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.lab import SERVER, Lab

from .pd import (
    ALL,
    EACH,
    ENVIRONMENT,
    IPTABLES,
    ISP,
    NEEDS_ROOT,
    NETMAP,
    NEW,
    NFTABLES,
    OLD,
    REJECTED,
    RFC6296,
    STATE,
    STATELESS,
    THIRD,
    A,
    B,
    Echo,
    Router,
    Variant,
    ask,
    config,
    dhcp,
    on,
    ping,
    python,
    reaches,
)

pytestmark = NEEDS_ROOT

LEGACY = "/run/ipv6-pd/current_prefix"


@pytest.fixture
def settled(router: Router) -> Router:
    """A router that has learned its prefix."""
    router.set(OLD)
    return router


def whole(router: Router) -> bool:
    """Out, in and around."""
    lab, a, b = router.lab, router.outside(A), router.outside(B)
    return (
        reaches(lab, "a", SERVER)
        and reaches(lab, "isp", a)
        and reaches(lab, "a", b)
        and reaches(lab, "router", b)
    )


# ---- nothing to do, nothing done -------------------------------------------------------------


@on(ALL)
def test_a_second_pass_writes_nothing(lab: Lab, settled: Router) -> None:
    settled.set(NEW)
    settled.pd("restore")
    with settled.unwritten():
        settled.pd("restore")
        settled.hook("CARRIER")
        settled.pd("plan")
        settled.pd("status")


@on([*NETMAP[:2], STATELESS])
def test_looking_writes_nothing_even_with_changes_pending(lab: Lab, settled: Router) -> None:
    settled.wipe()
    with settled.unwritten():
        assert "create table" in settled.pd("plan", code=1).stdout
        settled.pd("status", code=1)
        settled.pd("check")


def test_a_renewed_lease_touches_the_state_file_only(lab: Lab, settled: Router) -> None:
    settled.hook("BOUND6", dhcp(OLD))
    before = settled.status()
    with pytest.raises(AssertionError, match="state file was written"), settled.unwritten():
        settled.hook("RENEW6", dhcp(OLD, old=OLD, valid=5000, preferred=4000))
    after = settled.status()
    valid = [s["uplinks"][0]["prefixes"][0]["valid_left"] for s in (before, after)]
    assert valid[0] <= 1000 < valid[1]


def test_events_that_cannot_matter_do_nothing(lab: Lab, settled: Router) -> None:
    with settled.unwritten():
        for reason in ("PREINIT", "ROUTERADVERT", "BOUND", "TEST", "RECONFIGURE", "NONSENSE"):
            settled.hook(reason, dhcp(NEW))
        settled.hook("BOUND6", {**dhcp(NEW), "interface": "lan0"})
        for reason in ("STOP6", "TIMEOUT6", "STOPPED", "EXPIRE6", "BOUND6"):
            settled.hook(reason)


# ---- repair ----------------------------------------------------------------------------------


def delete_a_rule(router: Router) -> None:
    """Somebody takes out one rule, the outbound one."""
    text = router.run("nft", "-a", "list", "chain", "ip6", "pdreactor", "postrouting")
    line = next(line for line in text.splitlines() if "outbound" in line)
    chain = ("ip6", "pdreactor", "postrouting")
    router.run("nft", "delete", "rule", *chain, "handle", line.split()[-1])


def does(command: str) -> Callable[[Router], None]:
    """A command on the router."""

    def run(router: Router) -> None:
        router.run("sh", "-c", command)

    return run


DAMAGE = {
    "a rule deleted": delete_a_rule,
    "a chain flushed": does("nft flush chain ip6 pdreactor prerouting"),
    "the table flushed": does("nft flush table ip6 pdreactor"),
    "the table deleted": does("nft delete table ip6 pdreactor"),
    "the ruleset flushed": does("nft flush ruleset"),
    "a rule in front": does("nft insert rule ip6 pdreactor postrouting accept"),
    "a rule behind": does("nft add rule ip6 pdreactor output drop"),
    "another chain": does(
        "nft 'add chain ip6 pdreactor mine { type filter hook forward priority 0; policy drop; }'"
    ),
    "a policy": does("nft 'add chain ip6 pdreactor guard { policy drop; }'"),
    "a map emptied": does("nft flush map ip6 pdreactor in-wan-0.1"),
    "an element too many": does("nft 'add element ip6 pdreactor from-wan-0.1 { fd00:1::/64 }'"),
    "a foreign table of the name": does(
        "nft 'delete table ip6 pdreactor; add table ip6 pdreactor; add chain ip6 pdreactor guard;"
        " add set ip6 pdreactor s { type inet_service; }'"
    ),
    "the routes deleted": does("ip -6 route flush table all proto 157"),
    "one route deleted": does("ip -6 route flush type anycast proto 157"),
}


OF_STATELESS = {
    "a rule in front": does("nft insert rule ip6 pdreactor guard accept"),
    "a chain flushed": does("nft flush chain ip6 pdreactor inward"),
    "a chain of corrections flushed": does("nft flush chain ip6 pdreactor settle"),
    "a rewriting chain flushed": does(
        "nft flush chain ip6 pdreactor $(nft list chains ip6 | grep -o 'send-[^ ]*' | head -1)"
    ),
    "a map emptied": does("nft flush map ip6 pdreactor take-wan-0.1"),
    "another chain": DAMAGE["another chain"],
    "the table deleted": DAMAGE["the table deleted"],
}
OF_IP6TABLES = {
    "a rule deleted": "-D pdreactor_dnat 4",
    "a rule in front": "-I pdreactor_dnat -j ACCEPT",
    "a rule behind": "-A pdreactor_dnat_out -j RETURN",
    "a chain flushed": "-F pdreactor_dnat",
    "a jump deleted": "-D PREROUTING -j pdreactor_dnat",
    "a jump twice": "-A PREROUTING -j pdreactor_dnat",
    "everything flushed": "-F",
    "everything deleted": "-F && {ip6tables} -X",
}


def is_repaired(router: Router) -> bool:
    """After some damage: it is seen, and ``restore`` makes all as it should be."""
    router.pd("plan", code=1)
    router.pd("restore")
    return whole(router) and router.lab.count().leaked == 0


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_restore_repairs(settled: Router, damage: Callable[[Router], None]) -> None:
    damage(settled)
    assert settled.status()["ok"] is False
    assert is_repaired(settled)
    assert settled.status()["ok"] is True
    with settled.unwritten():
        settled.pd("restore")


@on([STATELESS])
def test_restore_repairs_mode_stateless(settled: Router) -> None:
    for name, damage in OF_STATELESS.items():
        damage(settled)
        assert is_repaired(settled), name


@on([*IPTABLES, RFC6296[0]])
def test_restore_repairs_the_chains_of_ip6tables(settled: Router) -> None:
    ip6tables = f"{settled.variant.ip6tables} -t {'nat' if settled.variant.tracked else 'mangle'}"
    for name, arguments in OF_IP6TABLES.items():
        settled.run("sh", "-c", f"{ip6tables} {arguments.format(ip6tables=ip6tables)}")
        assert is_repaired(settled), name
    if not settled.variant.tracked:
        settled.run("sh", "-c", ip6tables.replace("mangle", "raw -F"))
        assert is_repaired(settled), "table raw"
    settled.run("nft", "delete", "table", "ip6", "pdreactor")
    assert is_repaired(settled), "the guard"


FIREWALL = "table inet fw { chain c { type filter hook forward priority 0; ct state new; }; }"
"""As soon as a firewall looks at the state of flows, conntrack remembers them."""


@on(NETMAP)
def test_flows_that_began_during_a_flush_are_moved_by_restore(lab: Lab, settled: Router) -> None:
    lab.isp_route("fd5e:ed00:1234::/58")  # or there would be no answers to the wrong source
    lab.start_echo()
    settled.wipe()
    lab.nft("router", FIREWALL)
    flow = lab.start_running_flow(interval_ms=5)
    lab.wait(lambda: f"dst={A} " in "".join(settled.flows("-p", "udp").values()), 5, "a stray flow")
    settled.pd("restore")
    external = settled.outside(A)
    lab.wait(lambda: external in "".join(settled.flows("-p", "udp").values()), 5, "it to move")
    assert list(flow.stop().sources) == [A, external]


@on(NETMAP[:2])
def test_flows_to_a_bypass_survive_a_repair(lab: Lab, router: Router) -> None:
    router.configure(config(uplink=f'bypass = ["{ISP}/128"]'))
    router.set(OLD)
    lab.isp_route("fd5e:ed00:1234::/58")
    Echo(lab, "isp")
    router.wipe()
    lab.nft("router", FIREWALL)
    assert ask(lab, "a", "udp", ISP, source=1001) == "same"
    (before,) = router.flows("-d", ISP)
    router.pd("restore")
    assert list(router.flows("-d", ISP)) == [before]


@on(EACH)
def test_boot_restores_from_the_state_file(lab: Lab, settled: Router) -> None:
    settled.pd("flush")
    assert settled.is_clean()
    assert not settled.routes("proto", "157")
    settled.pd("restore")
    assert whole(settled)


@on(NETMAP[:2])
def test_restore_before_the_interface_is_there(lab: Lab, router: Router) -> None:
    router.configure(config().replace('"eth0"', '"ppp0"'))
    router.set(OLD)
    done = router.pd("restore")
    assert "interface ppp0 is not there yet" in done.stderr
    router.pd("status", code=1)
    with router.unwritten():
        router.pd("restore")


def test_restore_before_anything_was_learned_only_guards(lab: Lab, router: Router) -> None:
    router.pd("restore")
    assert ping(lab, "a", SERVER) == REJECTED
    assert "policy-fail" in router.ours() and "snat" not in router.ours()
    router.pd("status", code=1)


@on(ALL)
def test_flush_leaves_nothing_and_no_state_when_told_so(lab: Lab, settled: Router) -> None:
    Echo(lab, "isp", SERVER)
    assert ask(lab, "a", "udp", SERVER) == "same" and settled.routes("proto", "157")
    settled.pd("flush", "--forget")
    assert settled.is_clean() and settled.others() == ""
    assert not settled.routes("proto", "157")
    assert not [line for line in settled.flows().values() if settled.outside(A) in line]
    assert not lab.path("router", STATE).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', "\0\0"])
def test_the_state_before_counts_when_the_file_is_damaged(
    lab: Lab, settled: Router, text: str
) -> None:
    settled.pd("restore")
    lab.write("router", STATE, text)
    assert "damaged" in settled.pd("status", code=None).stdout
    done = settled.pd("restore")
    assert "damaged" in done.stderr
    assert lab.read("router", STATE + ".damaged") == text
    assert whole(settled)
    assert settled.prefixes() == {OLD: "current"}


def test_without_any_state_the_next_event_brings_the_prefix(lab: Lab, settled: Router) -> None:
    for name in (STATE, STATE + ".old"):
        lab.write("router", name, "{")
    assert "damaged" in settled.pd("restore").stderr
    assert ping(lab, "a", SERVER) == REJECTED
    settled.hook("RENEW6", dhcp(NEW))
    assert settled.prefixes() == {NEW: "current"}
    assert reaches(lab, "a", SERVER)


# ---- at the same time --------------------------------------------------------------------------


@on(NETMAP[:2])
def test_many_hooks_at_once_end_in_the_right_state(lab: Lab, settled: Router) -> None:
    calls = []
    for number in range(16):
        event = dhcp(f"2001:db8:4000:{number:x}00::/58")
        env = {**ENVIRONMENT, "interface": "eth0", "reason": "RENEW6", **event}
        calls.append(lab.start("router", python("pdreactor.hook"), env=env))
    codes = [call.wait(60) for call in calls]
    assert codes == [0] * 16, [call.output() for call in calls]
    states = list(settled.prefixes().values())
    assert states.count("current") == 1
    settled.pd("plan")
    assert settled.status()["ok"]
    current = next(p for p, state in settled.prefixes().items() if state == "current")
    assert reaches(lab, "isp", settled.outside(A, current))
    assert current in settled.translation()


@on(NETMAP[:2])
def test_an_event_during_a_long_pass_is_not_lost(lab: Lab, settled: Router) -> None:
    path = lab.path("router", "/var/lib/pdreactor/pass.lock")
    lock = os.open(path, os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        calls = [settled.start("set", "wan", NEW), settled.start("restore")]
        lab.wait(lambda: NEW in lab.read("router", STATE), 10, "the event to be written")
        calls[0].signal(signal.SIGKILL)  # dhcpcd has lost patience
        calls[0].wait()
        assert OLD in settled.translation() and NEW not in settled.translation()
    finally:
        os.close(lock)
    assert calls[1].wait() == 0
    assert reaches(lab, "isp", settled.outside(A, NEW))


@on([*NETMAP[:2], STATELESS])
def test_a_killed_pass_leaves_one_of_both_prefixes(lab: Lab, settled: Router) -> None:
    prefixes = [NEW, OLD, THIRD]
    for number in range(12):
        call = settled.start("set", "wan", prefixes[number % 3])
        deadline = time.monotonic() + 0.02 * number
        while call.running and time.monotonic() < deadline:
            pass
        call.kill()
        assert reaches(lab, "a", SERVER), f"after {number * 20} ms"
    settled.pd("restore")
    assert settled.status()["ok"]
    assert settled.ours().count("map out-") == (settled.variant == NFTABLES)
    settled.pd("plan")
    assert lab.count().leaked == 0


# ---- on_change -------------------------------------------------------------------------------

ON_CHANGE = """
[[on_change]]
exec = {argv}
timeout = {timeout}
"""
NOTE = "/etc/note.sh"
NOTE_TEXT = """#!/bin/sh
{ echo "$PDREACTOR_UPLINK $PDREACTOR_INTERFACE $PDREACTOR_REASON $PDREACTOR_OLD_PREFIX" \\
    "$PDREACTOR_PREFIX"; nft list map ip6 pdreactor out-wan-0.1 >/dev/null && echo rules
} >>/run/note
"""


def on_change(argv: list[str], timeout: float = 10) -> str:
    """A configuration with a command."""
    return config() + ON_CHANGE.format(argv=json.dumps(argv), timeout=timeout)


def test_on_change_runs_last_and_only_after_a_change(lab: Lab, router: Router) -> None:
    lab.write("router", NOTE, NOTE_TEXT, 0o755)
    router.configure(on_change([NOTE]))
    router.hook("BOUND6", dhcp(OLD))
    assert lab.read("router", "/run/note") == f"wan eth0 BOUND6  {OLD}\nrules\n"
    router.hook("RENEW6", dhcp(OLD))
    router.pd("restore")
    router.run("nft", "flush", "ruleset")
    router.pd("restore")
    assert lab.read("router", "/run/note").count("\n") == 2
    router.set(NEW)
    assert lab.read("router", "/run/note").splitlines()[2] == f"wan eth0 set {OLD} {NEW}"
    router.pd("unset", "wan")
    assert lab.read("router", "/run/note").splitlines()[-1].rstrip() == f"wan eth0 unset {NEW}"


def test_on_change_has_no_shell_and_no_environment_of_dhcpcd(lab: Lab, router: Router) -> None:
    lab.write("router", NOTE, '#!/bin/sh\nenv >/run/note; echo "$1" >>/run/note\n', 0o755)
    router.configure(on_change([NOTE, "$(touch /run/pwned); *"]))
    router.hook("BOUND6", {**dhcp(OLD), "new_domain_name": "evil"})
    note = lab.read("router", "/run/note")
    assert "$(touch /run/pwned); *" in note
    assert "evil" not in note and "new_dhcp6" not in note
    assert not lab.path("router", "/run/pwned").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["/bin/false"], "ended with status 1"),
        (["/nonexistent"], "cannot be started"),
        (["/bin/sh", "-c", "trap '' TERM; sleep 300 & echo $! >/run/child; wait"], "killed after"),
    ],
)
def test_on_change_that_fails_does_not_fail_the_hook(
    lab: Lab, router: Router, argv: list[str], said: str
) -> None:
    router.configure(on_change(argv, timeout=0.5))
    done = router.hook("BOUND6", dhcp(OLD))
    assert said in done.stderr
    assert reaches(lab, "a", SERVER)
    if "killed" in said:
        child = lab.read("router", "/run/child").strip()
        lab.wait(lambda: not os.path.exists(f"/proc/{child}"), 5, "its children to be gone")


# ---- coming from the shell script ------------------------------------------------------------


@pytest.fixture
def shell_script(lab: Lab, router: Router) -> Router:
    """A router where the shell script has left its state file."""
    lab.write("router", LEGACY, "2001:db8:4000::/58\n")
    assert router.run("cat", "/var" + LEGACY) == "2001:db8:4000::/58\n"
    return router


def test_the_shell_scripts_prefix_is_read_once(lab: Lab, shell_script: Router) -> None:
    shell_script.pd("restore")
    assert whole(shell_script)
    assert shell_script.prefixes() == {OLD: "current"}
    shell_script.hook("BOUND6", dhcp(NEW))
    lab.write("router", LEGACY, THIRD)
    shell_script.pd("restore")
    assert THIRD not in shell_script.prefixes()
    shell_script.hook("RELEASE6")
    shell_script.pd("restore")
    assert shell_script.prefixes() == {}


@pytest.mark.parametrize("text", ["", "fe80::/58", "$(reboot)", "2001:db8:4000::/58 x", "\x00"])
def test_what_is_no_prefix_in_the_shell_scripts_file_is_ignored(
    lab: Lab, router: Router, text: str
) -> None:
    lab.write("router", LEGACY, text)
    router.pd("restore")
    assert router.prefixes() == {}


@on(EACH)
def test_the_shell_scripts_internal_prefix_works_with_a_warning(variant: Variant) -> None:
    with Lab(internal="fc::/58") as lab:
        router = Router(lab, config(internal="fc::/58"), variant)
        assert "fc::/58" in router.pd("check").stdout
        router.set(OLD)
        external = router.outside("fc::2", internal="fc::/58")
        assert reaches(lab, "a", SERVER) and reaches(lab, "isp", external)
        assert lab.count().leaked == 0
