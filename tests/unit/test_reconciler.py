"""The pass: its order, what happens when a part of it fails, and who waits for whom."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pdreactor import reconciler, state
from pdreactor.errors import KernelBusy, KernelError, PermissionDenied
from pdreactor.kernel import process
from pdreactor.kernel.retry import ATTEMPTS, persistently
from pdreactor.model import Config, State

from .box import Box, block, network
from .namespace import needs_root
from .values import CONFIG, after, reply, told

P1, P2 = "2001:db8:4000::/58", "2001:db8:8000::/58"


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Box]:
    with network(tmp_path, "wan0") as box:
        yield box


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return CONFIG._replace(state_dir=str(tmp_path))


# ---- the state file ----------------------------------------------------------------------------


def test_a_state_that_does_not_change_is_not_written(config: Config) -> None:
    known = after(reply(*told(P1)))
    state.save(config.state_dir, known)
    before = Path(config.state_dir, state.FILE).stat().st_ino
    assert reconciler.update(config, lambda s: s._replace()) == known
    assert Path(config.state_dir, state.FILE).stat().st_ino == before
    reconciler.update(config, lambda s: s._replace(doomed=()) if s.doomed else State({}))
    assert Path(config.state_dir, state.FILE).stat().st_ino != before


def test_a_damaged_state_is_set_aside_said_and_written_anew(
        config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(config.state_dir, state.FILE)
    file.write_bytes(b"{")
    assert reconciler.update(config, lambda s: s) == State({})
    assert state.load(config.state_dir) == (State({}), "")
    assert file.with_suffix(".json.damaged").read_bytes() == b"{"
    assert "damaged" in capsys.readouterr().err


def test_what_killed_writers_left_is_swept_with_the_next_write(config: Config) -> None:
    left = Path(config.state_dir, "state.json.12345.tmp")
    left.write_bytes(b"half")
    reconciler.update(config, lambda s: after(reply(*told(P1))))
    assert not left.exists()


# ---- a busy kernel -----------------------------------------------------------------------------


def test_a_busy_kernel_is_asked_again() -> None:
    answers: list[Exception | int] = [KernelBusy("busy"), KernelBusy("busy"), 7]

    def call() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert persistently(call) == 7


def test_a_kernel_that_stays_busy_is_given_up_soon_with_its_own_words() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise KernelBusy("still busy")

    began = time.monotonic()
    with pytest.raises(KernelBusy, match="still busy") as busy:
        persistently(call)
    assert busy.value.exit_code == 75
    assert len(calls) == ATTEMPTS
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("error", [KernelError("no"), PermissionDenied("no"), ValueError("no")])
def test_what_fails_for_good_is_not_asked_again(error: Exception) -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        persistently(call)
    assert len(calls) == 1


# ---- commands of the user ----------------------------------------------------------------------


def test_a_command_has_its_arguments_and_environment_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = ["/bin/sh", "-c", f'echo "$1 $X $HOME" >{out}; pwd >>{out}', "sh", "a b;$(id)"]
    assert process.run(argv, {"X": "1"}, 5) == ""
    assert out.read_text() == "a b;$(id) 1 \n/\n"


@pytest.mark.parametrize(("argv", "words"), [
    (["/bin/false"], "ended with status 1"),
    (["/bin/sh", "-c", "kill -9 $$"], "ended with status -9"),
    (["/nowhere"], "No such file"),
    (["/etc/passwd"], "Permission denied"),
])
def test_what_went_wrong_with_a_command_is_said(argv: list[str], words: str) -> None:
    assert words in process.run(argv, {}, 5)


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    script = f"(sleep 2; touch {alive}) & sleep 100"
    began = time.monotonic()
    assert "killed after 0.3 s" in process.run(["/bin/sh", "-c", script], {"PATH": "/bin"}, 0.3)
    assert time.monotonic() - began < 2
    time.sleep(2.2)
    assert not alive.exists()


# ---- the pass ----------------------------------------------------------------------------------

FAILING = """
import sys
from pdreactor import cli, reconciler, routing
from pdreactor.errors import KernelError
from pdreactor.nat import nftables
{patch}
sys.exit(cli.main(sys.argv[1:]))
"""
NO_ROUTES = """
def plan(*_):
    raise KernelError("routes are broken today")
routing.plan = plan
"""
SOMEBODY_ELSE = """
apply = nftables.apply
def meddle(nft, change):
    apply(nft, change)
    nft.run("insert rule ip6 pdreactor guard accept", "meddle")
nftables.apply = meddle
"""
A_BUG = """
def desired(*_):
    raise ZeroDivisionError("oops")
reconciler.desired = desired
"""


def patched(net: Box, patch: str, *arguments: str) -> Any:
    script = FAILING.format(patch=patch)
    return net.run(sys.executable, "-c", script, "-c", str(net.config), *arguments)


@needs_root
def test_when_routes_fail_the_translation_is_in_and_the_error_is_told(net: Box) -> None:
    net.cli("set", "wan", P1)
    run = patched(net, NO_ROUTES, "-q", "set", "wan", P2)
    assert run.returncode == 70
    assert run.stderr == "pdreactor: routes are broken today\n"
    assert f"fd5e:ed00:1234::/58 : {P2}" in net.run("nft", "list", "ruleset").stdout
    assert state.load(str(net.state))[0].doomed == (), "conntrack was cleaned all the same"
    assert net.cli("plan").returncode == 1
    assert net.cli("restore").returncode == 0
    assert net.cli("plan").returncode == 0


@needs_root
def test_a_table_that_is_not_as_written_is_an_error(net: Box) -> None:
    run = patched(net, SOMEBODY_ELSE, "set", "wan", P1)
    assert run.returncode == 70
    assert "another program changes it" in run.stderr
    assert net.cli("restore").returncode == 0


@needs_root
def test_a_bug_is_one_line_and_the_last_rules_stay(net: Box) -> None:
    net.cli("set", "wan", P1)
    before = net.run("nft", "-a", "list", "ruleset").stdout
    run = patched(net, A_BUG, "set", "wan", P2)
    assert run.returncode == 70
    assert run.stderr == ("pdreactor: ZeroDivisionError: oops (this is a bug in pdreactor; "
                          "the last rules stay)\n")
    assert net.run("nft", "-a", "list", "ruleset").stdout == before
    assert net.cli("restore").returncode == 0
    assert P2 in net.run("nft", "list", "ruleset").stdout, "the event was written before the pass"


@needs_root
def test_an_event_is_written_while_a_pass_takes_long(net: Box) -> None:
    net.environ.write_bytes(block("BOUND6", f"PDREACTOR_CONFIG={net.config}", prefix=P1))
    with state.Lock(str(net.state), "pass.lock", 1):
        run = net.run("timeout", "1", sys.executable, "-m", "pdreactor.hook", "--environ",
                      str(net.environ))
        assert run.returncode == 124
        known, _ = state.load(str(net.state))
        assert [str(p.network) for p in known.uplinks["wan"].prefixes] == [P1]
    assert net.cli("restore").returncode == 0
    assert P1 in net.run("nft", "list", "ruleset").stdout


TWO = """
[uplink.a]
interface = "wan0"
iaid = 1
[uplink.b]
interface = "wan0"
iaid = 2
max_length = 56
[[translation]]
uplink = "a"
internal = "fd5e:ed00:1234::/58"
"""


@needs_root
def test_a_refusal_on_one_uplink_does_not_keep_the_others_from_their_prefix(net: Box) -> None:
    net.configure(TWO)
    both = block("BOUND6", prefix=P1) + block("BOUND6", prefix=P2).replace(b"=00000001",
                                                                         b"=00000002")
    run = net.hook(both)
    assert run.returncode == 65
    assert "uplink b" in run.stderr
    known, _ = state.load(str(net.state))
    assert [str(p.network) for p in known.uplinks["a"].prefixes] == [P1]
    assert known.uplinks["b"].prefixes == ()
    assert P1 in net.run("nft", "list", "ruleset").stdout


@needs_root
def test_another_mask_finds_room_for_what_was_numbered_under_the_old_one(net: Box) -> None:
    """The state file may hold generations and numbers that do not fit any more."""
    for number in range(6):
        net.cli("-q", "set", "wan", f"2001:db8:{number + 1}::/58")
    text = net.config.read_text().partition("\n")[2]
    net.configure("[firewall]\nct_mark_mask = 0xf0\n" + text)
    run = net.cli("restore")
    assert (run.returncode, "bug" in run.stderr) == (0, False), run.stderr
    assert net.cli("plan").returncode == 0


@needs_root
def test_prefixes_are_followed_from_uplink_to_uplink(net: Box) -> None:
    net.cli("set", "wan", P1)
    text = net.config.read_text().partition("\n")[2]
    net.configure(text.replace("uplink.wan]", "uplink.fibre]").replace('"wan"', '"fibre"'))
    assert net.cli("set", "fibre", P1).returncode == 0
    assert net.cli("status").returncode == 0
    names = {u["name"] for u in json.loads(net.cli("status", "--json").stdout)["uplinks"]}
    assert names == {"fibre"}
