"""One call of dhcpcd's script: exit codes, one line at most, whatever stderr is."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdreactor import state

from .box import ROOT, Box, block, network
from .namespace import needs_root
from .values import P1

P1_TEXT, P2_TEXT = "2001:db8:4000::/58", "2001:db8:8000::/58"
ULA = "fd12:3456:7800::/58"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Box]:
    with network(tmp_path, "wan0") as box:
        yield box


def prefixes(box: Box) -> list[str]:
    known, damage = state.load(str(box.state))
    assert damage == ""
    return [str(p.network) for u in known.uplinks.values() for p in u.prefixes]


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith("\n") and text[:-1].isprintable()


# ---- calls that are none of our business -----------------------------------------------------


@pytest.mark.parametrize("reason", ["TEST", "BOUND", "RECONFIGURE", "PREINIT",
                                    "INFORM6", "STATIC6", "", "bound6", "BOUND6\nX"])
def test_other_reasons_end_silently_without_looking_at_the_configuration(
        box: Box, reason: str) -> None:
    run = box.hook(block(reason, prefix=P1_TEXT), config="/nowhere/at/all")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert not box.state.exists()


def test_an_empty_block_is_no_call_of_dhcpcds(box: Box) -> None:
    box.environ.write_bytes(b"")
    run = box.run(sys.executable, "-m", "pdreactor.hook", "--environ", str(box.environ))
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("reason", ["BOUND6", "CARRIER", "RELEASE6", "STOPPED"])
def test_another_interface_is_silent_and_learns_nothing(box: Box, reason: str) -> None:
    run = box.hook(block(reason, interface="lan0", prefix=P1_TEXT))
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert not box.state.exists()


# ---- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [ULA, "::/0", "2001:db8::/200", "fe80::/64", "64:ff9b::/96",
                                    "hello/58", "2001:db8:4000::/65", "$(reboot)/58"])
def test_a_refused_prefix_is_one_line_and_remembered(box: Box, prefix: str) -> None:
    run = box.hook(block("BOUND6", prefix=prefix))
    assert run.returncode == 65
    assert run.stdout == ""
    assert one_line(run.stderr)
    assert "uplink wan" in run.stderr
    known, _ = state.load(str(box.state))
    refusal = known.uplinks["wan"].refusal
    assert refusal is not None
    assert refusal.reason == "BOUND6"
    assert refusal.message in run.stderr
    assert prefixes(box) == []


def test_a_refusal_leaves_what_was_known(box: Box) -> None:
    from .values import after, reply, told

    box.state.mkdir()
    before = after(reply(*told(P1)))
    state.save(str(box.state), before)
    assert box.hook(block("RENEW6", prefix=ULA)).returncode == 65
    known, _ = state.load(str(box.state))
    assert known.uplinks["wan"].prefixes == before.uplinks["wan"].prefixes
    assert known.doomed == before.doomed


@pytest.mark.parametrize("interface", ["", "../etc", "a b", "x" * 16, "wan$(id)"])
def test_a_name_that_no_interface_has_is_refused(box: Box, interface: str) -> None:
    run = box.hook(block("BOUND6", interface=interface, prefix=P1_TEXT))
    assert run.returncode == 65
    assert one_line(run.stderr)


def test_a_block_that_is_too_large_is_refused(box: Box) -> None:
    run = box.hook(block("BOUND6", "junk=" + "x" * 70_000, prefix=P1_TEXT))
    assert run.returncode == 65
    assert one_line(run.stderr)


# ---- what else can be wrong --------------------------------------------------------------------


def test_a_configuration_with_mistakes_is_78(box: Box) -> None:
    box.configure('[uplink.wan]\ninterfaze = "wan0"\n')
    run = box.hook(block("BOUND6", prefix=P1_TEXT))
    assert run.returncode == 78
    assert one_line(run.stderr)
    assert "interfaze" in run.stderr


def test_a_configuration_that_is_not_there_is_78(box: Box) -> None:
    run = box.hook(block("BOUND6", prefix=P1_TEXT), config="/nowhere.toml")
    assert run.returncode == 78
    assert one_line(run.stderr)
    assert "/nowhere.toml" in run.stderr


def test_a_missing_environ_file_is_one_line_and_no_traceback(box: Box) -> None:
    run = box.run(sys.executable, "-m", "pdreactor.hook", "--environ", "/nowhere/environ")
    assert run.returncode != 0
    assert one_line(run.stderr)
    assert "/nowhere/environ" in run.stderr


def test_arguments_that_it_does_not_know_are_a_usage_error(box: Box) -> None:
    run = box.run(sys.executable, "-m", "pdreactor.hook", "--wrong")
    assert run.returncode == 64
    assert one_line(run.stderr)


def test_a_state_directory_that_is_a_file_is_74(box: Box) -> None:
    box.state.write_text("")
    run = box.hook(block("BOUND6", prefix=P1_TEXT))
    assert run.returncode == 74
    assert one_line(run.stderr)


def test_the_first_reason_and_configuration_of_the_block_count(box: Box) -> None:
    run = box.hook(block("TEST", "reason=BOUND6", prefix=P1_TEXT), config="/nowhere")
    assert (run.returncode, run.stderr) == (0, "")


# ---- a dead stderr -----------------------------------------------------------------------------

REFUSED = block("BOUND6", prefix=ULA)


def test_a_closed_stderr_breaks_nothing(box: Box) -> None:
    box.hook(REFUSED)
    shell = f'exec "{sys.executable}" -m pdreactor.hook --environ "{box.environ}" 2>&- >&- <&-'
    assert box.run("sh", "-c", shell).returncode == 65


def test_a_dead_socket_as_stderr_breaks_nothing(box: Box) -> None:
    """What dhcpcd 9.4.1 in the background leaves its script."""
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        run = box.hook(REFUSED, stderr=theirs, stdout=theirs)
    assert run.returncode == 65
    assert state.load(str(box.state))[0].uplinks["wan"].refusal is not None


def test_a_full_disk_behind_stderr_breaks_nothing(box: Box) -> None:
    with open("/dev/full", "w", encoding="ascii") as full:
        assert box.hook(REFUSED, stderr=full, stdout=full).returncode == 65


@needs_root
@pytest.mark.parametrize("dead", [False, True])
def test_a_lease_gets_through_whatever_stderr_is(net: Box, dead: bool) -> None:
    ours, theirs = socket.socketpair()
    with theirs, ours:
        if dead:
            ours.close()
        assert net.hook(block("BOUND6", prefix=P1_TEXT), stderr=theirs).returncode == 0
    assert P1_TEXT in net.run("nft", "list", "table", "ip6", "pdreactor").stdout


# ---- to the kernel -----------------------------------------------------------------------------


def listing(net: Box) -> str:
    return net.run("nft", "-s", "list", "ruleset").stdout


@needs_root
def test_a_lease_is_in_the_kernel_and_in_the_state(net: Box) -> None:
    run = net.hook(block("BOUND6", prefix=P1_TEXT))
    assert (run.returncode, run.stdout) == (0, "")
    assert prefixes(net) == [P1_TEXT]
    assert f"fd5e:ed00:1234::/58 : {P1_TEXT}" in listing(net)
    assert f"unreachable {P1_TEXT}" in net.ip("-6", "route", "show")


@needs_root
def test_the_same_event_again_writes_nothing_to_the_kernel(net: Box) -> None:
    net.hook(block("BOUND6", prefix=P1_TEXT))
    before = net.run("nft", "-a", "list", "ruleset").stdout
    for reason in ("RENEW6", "REBIND6", "BOUND6"):
        run = net.hook(block(reason, prefix=P1_TEXT))
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert net.run("nft", "-a", "list", "ruleset").stdout == before


@needs_root
def test_another_prefix_moves_outbound_and_keeps_inbound(net: Box) -> None:
    net.hook(block("BOUND6", prefix=P1_TEXT))
    assert net.hook(block("RENEW6", prefix=P2_TEXT)).returncode == 0
    text = listing(net)
    assert f"fd5e:ed00:1234::/58 : {P2_TEXT}" in text
    assert f"{P2_TEXT} : fd5e:ed00:1234::/58" in text
    assert f"{P1_TEXT} : fd5e:ed00:1234::/58" in text
    known, _ = state.load(str(net.state))
    assert known.doomed == (), "the pass removes the doomed flows"
    assert dict(known.applied) == {"wan": (known.uplinks["wan"].prefixes[0].network,)}


@needs_root
def test_release_leaves_the_guard(net: Box) -> None:
    net.hook(block("BOUND6", prefix=P1_TEXT))
    assert net.hook(block("RELEASE6")).returncode == 0
    text = listing(net)
    assert P1_TEXT not in text
    assert "drop" in text
    assert P1_TEXT not in net.ip("-6", "route", "show", "table", "all")
    assert net.ip("-6", "rule").count("\n") == 2


@needs_root
def test_events_that_teach_nothing_still_repair(net: Box) -> None:
    net.hook(block("BOUND6", prefix=P1_TEXT))
    before = listing(net)
    net.run("nft", "flush", "ruleset")
    assert net.hook(block("CARRIER")).returncode == 0
    assert listing(net) == before


@needs_root
def test_a_link_that_is_down_rejects_and_keeps_the_prefix(net: Box) -> None:
    net.hook(block("BOUND6", prefix=P1_TEXT))
    net.ip("link", "set", "wan0", "down")
    assert net.hook(block("NOCARRIER")).returncode == 0
    assert "policy-fail" in listing(net)
    assert prefixes(net) == [P1_TEXT]
    net.ip("link", "set", "wan0", "up")
    assert net.hook(block("CARRIER")).returncode == 0
    assert "policy-fail" not in listing(net)


@needs_root
def test_a_refusal_leaves_the_kernel_as_it_is(net: Box) -> None:
    net.hook(block("BOUND6", prefix=P1_TEXT))
    before = net.run("nft", "-a", "list", "ruleset").stdout
    assert net.hook(block("RENEW6", prefix=ULA)).returncode == 65
    assert net.run("nft", "-a", "list", "ruleset").stdout == before


@needs_root
def test_what_is_on_the_uplinks_own_link_is_refused(net: Box) -> None:
    net.ip("addr", "add", "2001:db8:4000:1::5/64", "dev", "wan0", "nodad")
    run = net.hook(block("BOUND6", prefix=P1_TEXT))
    assert run.returncode == 65
    assert "own link" in run.stderr


@needs_root
def test_eight_calls_at_once_all_count(net: Box) -> None:
    """dhcpcd calls one after the other; a person and a health check may come in between."""
    runs = []
    for number in range(8):
        name = f"PDREACTOR_CONFIG={net.config}"
        path = net.environ.with_suffix(f".{number}")
        path.write_bytes(block("RENEW6", name, prefix=f"2001:db8:{number + 1}::/58"))
        argv = [*net.before, sys.executable, "-m", "pdreactor.hook", "--environ", str(path)]
        runs.append(subprocess.Popen(argv, env={"PATH": os.environ["PATH"],
                                                "PYTHONPATH": str(ROOT)}))
    assert [run.wait(60) for run in runs] == [0] * 8
    assert len(prefixes(net)) == 8
    assert net.cli("plan").returncode == 0


@needs_root
def test_on_change_is_told_once(net: Box, tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\nenv | grep ^PDREACTOR_ | sort >>{told}\n")
    script.chmod(0o755)
    net.configure(Path(net.config).read_text().partition("\n")[2]
                  + f'\n[[on_change]]\nexec = [{json.dumps(str(script))}]\n')
    for _ in range(2):
        assert net.hook(block("BOUND6", prefix=P1_TEXT)).returncode == 0
    assert told.read_text() == (f"PDREACTOR_INTERFACE=wan0\nPDREACTOR_OLD_PREFIX=\n"
                                f"PDREACTOR_OLD_UPLINK=wan\n"
                                f"PDREACTOR_PREFIX={P1_TEXT}\nPDREACTOR_REASON=BOUND6\n"
                                f"PDREACTOR_UPLINK=wan\n")
