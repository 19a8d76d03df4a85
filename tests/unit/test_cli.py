"""The verbs: what they print, and their exit codes."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pdreactor import __version__, state

from .box import Box, block, network
from .namespace import needs_root

P1, P2 = "2001:db8:4000::/58", "2001:db8:8000::/58"
VERBS = ("hook", "restore", "plan", "status", "check", "set", "unset", "uplink", "export",
         "import", "watch", "doctor", "flush")


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Box]:
    with network(tmp_path, "wan0") as box:
        yield box


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text[:-1].isprintable()


def listing(net: Box) -> str:
    return net.run("nft", "-a", "list", "ruleset").stdout


# ---- the command line --------------------------------------------------------------------------


def test_help_names_every_verb(box: Box) -> None:
    run = box.cli("--help")
    assert (run.returncode, run.stderr) == (0, "")
    assert all(re.search(rf"^ +{verb} ", run.stdout, re.MULTILINE) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(box: Box, verb: str) -> None:
    run = box.cli(verb, "--help")
    assert (run.returncode, run.stderr) == (0, "")


def test_version(box: Box) -> None:
    assert box.cli("--version").stdout == f"pdreactor {__version__}\n"


@pytest.mark.parametrize("arguments", [
    (), ("dance",), ("plan", "--yaml"), ("-v", "-q", "plan"), ("set",), ("set", "wan"),
    ("unset",), ("--log-format", "xml", "plan"), ("flush", "everything"), ("check", "x"),
    ("uplink",), ("uplink", "wan"), ("uplink", "wan", "sideways"), ("uplink", "wan", "down", "x")])
def test_a_wrong_command_line_is_64(box: Box, arguments: tuple[str, ...]) -> None:
    run = box.cli(*arguments)
    assert run.returncode == 64
    assert run.stdout == ""
    assert run.stderr.startswith("pdreactor") and run.stderr.endswith(" --help\n")
    assert run.stderr.count("\n") == 1


# ---- check -------------------------------------------------------------------------------------


def test_check_of_a_good_configuration(box: Box) -> None:
    run = box.cli("check")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == f"{box.config}: 1 uplink(s), 1 translation(s), no mistakes\n"


def test_check_prints_every_mistake_on_a_line_of_its_own(box: Box) -> None:
    box.configure("""
[firewall]
bakend = "auto"
[uplink.wan]
interface = "far too long a name"
[[translation]]
uplink = "wam"
internal = "10.0.0.0/8"
""")
    run = box.cli("check")
    assert run.returncode == 78
    assert run.stdout == ""
    lines = run.stderr.splitlines()
    assert all(line.startswith(f"pdreactor: {box.config}: ") for line in lines)
    for part in ("bakend", "far too long", "wam", "10.0.0.0/8"):
        assert len([line for line in lines if part in line]) == 1, part


def test_check_shows_what_is_allowed_but_strange(box: Box) -> None:
    box.configure(box.config.read_text().partition("\n")[2].replace("fd5e:ed00:1234", "fc00:0:0"))
    run = box.cli("check")
    assert run.returncode == 0
    assert run.stdout.startswith(f"warning: {box.config}: ")


def test_a_file_that_is_not_there_and_one_that_is_no_toml_are_78(box: Box) -> None:
    run = box.run(sys.executable, "-m", "pdreactor.cli", "-c", "/nowhere.toml", "check")
    assert (run.returncode, one_line(run.stderr)) == (78, True)
    box.configure("[[[")
    assert box.cli("check").returncode == 78


def test_the_configuration_is_named_by_option_or_environment(box: Box) -> None:
    cli = (sys.executable, "-m", "pdreactor.cli")
    run = box.run(*cli, "check", env={"PDREACTOR_CONFIG": str(box.config)})
    assert run.returncode == 0
    run = box.run(*cli, "-c", str(box.config), "check", env={"PDREACTOR_CONFIG": "/nowhere"})
    assert run.returncode == 0


# ---- set and unset, refused --------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "code", "text"), [
    (("nowhere", P1), 64, "it has: wan"),
    (("wan", "fd00::/58"), 65, "unique local"),
    (("wan", "::/0"), 65, "all of IPv6"),
    (("wan", "2001:db8::1/58"), 65, "would be right"),
    (("wan", "2001:db8::"), 65, "ADDRESS/LENGTH"),
    (("wan", "10.0.0.0/8"), 65, "not an IPv6 address"),
    (("wan", "2001:db8::/65"), 65, "/64"),
    (("wan", P1, "--valid", "soon"), 65, "--valid"),
    (("wan", P1, "--valid", "-1"), 65, "--valid"),
    (("wan", P1, "--valid=-1"), 65, "--valid"),
    (("wan", P1, "--valid", "4294967295"), 65, "--valid"),
    (("wan", P1, "--valid", "0"), 64, "unset"),
    (("wan", P1, "--preferred", "20", "--valid", "10"), 64, "longer"),
])
def test_set_refuses_in_words(box: Box, arguments: tuple[str, ...], code: int, text: str) -> None:
    run = box.cli("set", *arguments)
    assert run.returncode == code
    assert text in run.stderr
    assert code == 64 or one_line(run.stderr)
    assert not (box.state / "state.json").exists()


@pytest.mark.parametrize(("arguments", "code", "text"), [
    (("nowhere",), 64, "it has: wan"),
    (("wan", P1), 64, "it has: none"),
    (("wan", "everything"), 65, "ADDRESS/LENGTH"),
])
def test_unset_refuses_in_words(box: Box, arguments: tuple[str, ...], code: int,
                                text: str) -> None:
    run = box.cli("unset", *arguments)
    assert run.returncode == code
    assert one_line(run.stderr)
    assert text in run.stderr


def test_a_static_prefix_is_changed_in_the_configuration(box: Box) -> None:
    text = box.config.read_text().partition("\n")[2]
    box.configure(text.replace('"wan0"', f'"wan0"\nprefix = "{P1}"'))
    for arguments in (("set", "wan", P2), ("unset", "wan")):
        run = box.cli(*arguments)
        assert run.returncode == 64
        assert "static" in run.stderr


@pytest.mark.parametrize(("arguments", "code", "text"), [
    (("nowhere", "down"), 64, "it has: wan"),
    (("wan", "up", "--reason", "it answers"), 64, "goes down"),
    (("wan", "down", "--reason", "one\ntwo"), 65, "one line"),
    (("wan", "down", "--reason", "\x1b[2J"), 65, "printable"),
    (("wan", "down", "--reason", "x" * 201), 65, "at most 200"),
])
def test_uplink_refuses_in_words(box: Box, arguments: tuple[str, ...], code: int,
                                 text: str) -> None:
    run = box.cli("uplink", *arguments)
    assert run.returncode == code
    assert one_line(run.stderr)
    assert text in run.stderr
    assert not (box.state / "state.json").exists()


# ---- without root ------------------------------------------------------------------------------

NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--")


@needs_root
@pytest.mark.parametrize("verb", [("plan",), ("status",), ("restore",), ("set", "wan", P1),
                                  ("uplink", "wan", "down"), ("flush",)])
def test_without_root_it_is_77_and_one_line(box: Box, verb: tuple[str, ...]) -> None:
    for directory in (box.config.parent, *box.config.parent.parents):
        if directory.stat().st_uid == 0 and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    box.before = ("unshare", "-n", *NOBODY)
    if box.run(sys.executable, "-c", "import pdreactor.cli").returncode:
        pytest.skip("this checkout cannot be read by another user")
    run = box.cli(*verb)
    assert run.returncode == 77, run.stderr
    assert one_line(run.stderr)
    assert "root" in run.stderr


# ---- plan, restore, flush ----------------------------------------------------------------------


@needs_root
def test_plan_is_1_and_says_what_is_pending_and_changes_nothing(net: Box) -> None:
    run = net.cli("plan")
    assert (run.returncode, run.stdout) == (1, "create table ip6 pdreactor\n")
    assert listing(net) == ""
    assert not net.state.exists()


@needs_root
def test_restore_without_any_event_puts_the_guard_up(net: Box) -> None:
    run = net.cli("restore")
    assert run.returncode == 0
    assert "there is no prefix" in run.stderr
    assert "drop" in listing(net)


@needs_root
def test_after_a_pass_there_is_nothing_to_plan(net: Box) -> None:
    net.cli("set", "wan", P1)
    run = net.cli("plan")
    assert (run.returncode, run.stdout) == (0, "nothing to change\n")
    run = net.cli("plan", "--json")
    assert (run.returncode, json.loads(run.stdout)) == (0, {"changes": []})
    before = listing(net)
    assert net.cli("restore").returncode == 0
    assert listing(net) == before


@needs_root
def test_plan_names_what_a_pass_would_do(net: Box) -> None:
    net.cli("set", "wan", P1)
    net.run("nft", "delete", "table", "ip6", "pdreactor")
    net.ip("-6", "route", "flush", "proto", "157")
    run = net.cli("plan", "--json")
    assert run.returncode == 1
    assert json.loads(run.stdout) == {"changes": [
        "create table ip6 pdreactor",
        f"translate outbound fd5e:ed00:1234::/58 -> {P1}",
        f"translate inbound {P1} -> fd5e:ed00:1234::/58",
        f"add anycast route to {P1}",
        f"add unreachable route to {P1}",
    ]}
    assert net.cli("restore").returncode == 0
    assert net.cli("plan").returncode == 0


@needs_root
def test_restore_with_an_interface_that_is_not_there_yet_is_0_and_says_so(net: Box) -> None:
    net.cli("set", "wan", P1)
    net.ip("link", "del", "wan0")
    run = net.cli("restore")
    assert run.returncode == 0
    assert "wan0 is not there yet" in run.stderr


def routes_and_rules(net: Box) -> list[str]:
    """In no order, and without link-local addresses: these come as the links become ready."""
    text = net.ip("-6", "rule") + net.ip("-6", "route", "show", "table", "all")
    return sorted(line for line in text.splitlines() if "fe80:" not in line)


@needs_root
def test_flush_leaves_nothing_in_the_kernel_and_the_state_alone(net: Box) -> None:
    bare = routes_and_rules(net)
    net.cli("set", "wan", P1)
    for _ in range(2):
        assert net.cli("flush").returncode == 0
        assert listing(net) == ""
        assert routes_and_rules(net) == bare
    assert net.cli("restore").returncode == 0
    assert P1 in listing(net)


@needs_root
def test_flush_forget_takes_the_state_too(net: Box) -> None:
    net.cli("set", "wan", P1)
    assert net.cli("flush", "--forget").returncode == 0
    assert listing(net) == ""
    assert not net.state.exists()


@needs_root
def test_flush_works_with_a_broken_configuration(net: Box) -> None:
    net.cli("set", "wan", P1)
    net.configure("[[[")
    run = net.cli("--state-dir", str(net.state), "flush")
    assert run.returncode == 0
    assert one_line(run.stderr)
    assert listing(net) == ""
    assert "proto 157" not in net.ip("-6", "route", "show", "table", "all")
    assert net.ip("-6", "rule").count("\n") == 2


@needs_root
def test_flush_leaves_other_peoples_tables_routes_and_rules(net: Box) -> None:
    net.run("nft", "add table ip6 mine")
    net.ip("-6", "route", "add", "unreachable", "2001:db8:ffff::/48", "proto", "static")
    net.ip("-6", "rule", "add", "to", "2001:db8:ffff::/48", "iif", "lo", "lookup", "77")
    net.cli("set", "wan", P1)
    net.cli("flush")
    assert "table ip6 mine" in listing(net)
    assert "2001:db8:ffff::/48" in net.ip("-6", "route")
    assert "lookup 77" in net.ip("-6", "rule")


# ---- set and unset -----------------------------------------------------------------------------


@needs_root
def test_set_and_unset_are_events(net: Box) -> None:
    assert net.cli("set", "wan", P1, "--preferred", "60", "--valid", "120").returncode == 0
    assert f"fd5e:ed00:1234::/58 : {P1}" in listing(net)
    (prefix,) = state.load(str(net.state))[0].uplinks["wan"].prefixes
    assert (prefix.valid_until or 0) - prefix.learned_at == 120
    assert (prefix.preferred_until or 0) - prefix.learned_at == 60
    assert prefix.reason == "set"
    assert net.cli("set", "wan", P2).returncode == 0
    assert net.cli("unset", "wan", P1).returncode == 0
    assert P1 not in listing(net)
    assert P2 in listing(net)
    assert net.cli("unset", "wan").returncode == 0
    assert P2 not in listing(net)
    assert net.cli("unset", "wan").returncode == 0, "nothing to do is no mistake"


@needs_root
def test_preferred_is_not_longer_than_infinite(net: Box) -> None:
    assert net.cli("set", "wan", P1, "--preferred", "60").returncode == 0


# ---- status ------------------------------------------------------------------------------------

KEYS = {
    "": ["counters", "errors", "history", "layout", "notes", "ok", "pending", "problems",
         "translations", "uplinks"],
    "uplinks": ["down", "gateway", "interface", "name", "prefixes", "refusal", "table", "up",
                "why_not"],
    "uplinks.down": ["at", "reason"],
    "uplinks.prefixes": ["event", "excluded", "iaid", "preferred_left", "prefix", "since", "state",
                         "superseded", "updated", "valid_left"],
    "uplinks.refusal": ["at", "message", "reason"],
    "translations": ["internal", "mode", "uplinks"],
    "translations.uplinks": ["external", "inbound_only", "uplink", "usable", "used", "why_not"],
    "translations.uplinks.external": ["external", "in_place", "internal"],
    "translations.uplinks.inbound_only": ["external", "in_place", "internal"],
    "layout": ["addresses", "links", "proxies", "slices"],
    "layout.addresses": ["address", "in_place", "interface", "preferred_left", "state",
                         "valid_left"],
    "layout.links": ["in_place", "kind", "local", "mtu", "name", "remote"],
    "layout.proxies": ["in_place", "interface", "method", "target"],
    "layout.slices": ["interface", "pattern", "present", "subnet"],
    "problems": ["message", "uplink"],
    "counters": ["changes", "flows_removed", "last_pass", "repairs", "stopped"],
    "counters.stopped": ["wan0"],
    "history": ["at", "reason", "text", "uplink"],
}
"""Scripts rely on these: a key may come, none may go or change its meaning."""


LAYOUT = """
[[assign]]
uplink = "wan"
interface = "vif*"
subnet = 64

[[assign]]
uplink = "wan"
interface = "wan0"
subnet = 1
prefix_length = 128

[[proxy]]
uplink = "wan"
hosts = ["::1"]

[tunnel.none0]
remote = "192.0.2.1"
"""


def keys(value: Any, where: str = "") -> Iterator[tuple[str, list[str]]]:
    if isinstance(value, list):
        for one in value:
            yield from keys(one, where)
    if isinstance(value, dict):
        yield where, sorted(value)
        for name, one in value.items():
            yield from keys(one, f"{where}.{name}".strip("."))


@needs_root
def test_status_keys_are_stable(net: Box) -> None:
    for name in ("vif1", "vif2"):
        net.ip("link", "add", "name", name, "type", "bridge")
        net.ip("link", "set", name, "up")
    net.configure(net.config.read_text().partition("\n")[2] + LAYOUT)
    net.hook(block("BOUND6", prefix="2001:db8:4000::/57"))
    net.hook(block("RENEW6", prefix="2001:db8:8000::/57"))
    net.hook(block("RENEW6", prefix="fd00::/58"))
    net.ip("link", "set", "wan0", "down")
    net.cli("uplink", "wan", "down", "--reason", "no answer")
    run = net.cli("status", "--json")
    assert run.returncode == 1
    found: dict[str, list[str]] = {}
    for where, names in keys(json.loads(run.stdout)):
        assert found.setdefault(where, names) == names
    assert found == KEYS


@needs_root
def test_status_of_a_good_day(net: Box) -> None:
    net.hook(block("BOUND6", prefix=P1))
    run = net.cli("status")
    assert run.returncode == 0
    assert run.stdout.splitlines()[-1] == "all in place"
    document = json.loads(net.cli("status", "--json").stdout)
    assert document["ok"] is True
    (prefix,) = document["uplinks"][0]["prefixes"]
    assert (prefix["prefix"], prefix["state"], prefix["event"]) == (P1, "current", "BOUND6")
    assert 590 <= prefix["valid_left"] <= 600
    assert document["translations"][0]["uplinks"][0]["external"] == [
        {"internal": "fd5e:ed00:1234::/58", "external": P1, "in_place": True}]


@needs_root
@pytest.mark.parametrize("wrong", ["nothing learned", "table gone", "link down", "damaged state"])
def test_status_is_1_when_something_is_not_in_place(net: Box, wrong: str) -> None:
    net.cli("restore")
    if wrong != "nothing learned":
        net.hook(block("BOUND6", prefix=P1))
        assert net.cli("status").returncode == 0
    if wrong == "table gone":
        net.run("nft", "flush", "ruleset")
    elif wrong == "link down":
        net.ip("link", "set", "wan0", "down")
    elif wrong == "damaged state":
        (net.state / "state.json").write_bytes(b"{")
    run = net.cli("status")
    assert run.returncode == 1
    assert run.stdout.splitlines()[-1] == "NOT all in place"
    assert run.stderr == ""
    assert json.loads(net.cli("status", "--json").stdout)["ok"] is False


@needs_root
def test_status_shows_the_last_refusal_because_dhcpcd_drops_exit_codes(net: Box) -> None:
    net.hook(block("BOUND6", prefix="fd00::/58"))
    assert "last refused" in net.cli("status").stdout


@needs_root
def test_looking_writes_nothing(net: Box) -> None:
    net.hook(block("BOUND6", prefix=P1))
    before = {p.name: p.read_bytes() for p in net.state.iterdir()}
    for verb in ("status", "plan", "check"):
        net.cli(verb)
    assert {p.name: p.read_bytes() for p in net.state.iterdir()} == before


# ---- uplink ------------------------------------------------------------------------------------


@needs_root
def test_an_uplink_is_out_of_use_until_it_is_set_up_again(net: Box) -> None:
    net.hook(block("BOUND6", prefix=P1))
    run = net.cli("uplink", "wan", "down", "--reason", "loss 40 %")
    assert run.returncode == 0
    changed, down = run.stderr.splitlines()
    assert "set down" in down and "loss 40 %" in down and "wan" in down
    assert "the rules of forward" in changed
    assert net.cli("uplink", "wan", "down", "--reason", "loss 40 %").stderr == "", "told before"
    for event in (block("RENEW6", prefix=P1), block("RENEW6", prefix=P2)):
        net.hook(event)
        assert "set down (loss 40 %)" in net.cli("status").stdout
    net.cli("restore")
    document = json.loads(net.cli("status", "--json").stdout)
    assert document["ok"] is False
    assert document["uplinks"][0]["down"]["reason"] == "loss 40 %"
    run = net.cli("uplink", "wan", "up")
    assert run.returncode == 0
    assert "back in use" in run.stderr
    document = json.loads(net.cli("status", "--json").stdout)
    assert (document["ok"], document["uplinks"][0]["down"]) == (True, None)
    assert net.cli("uplink", "wan", "up").stderr == ""


@needs_root
def test_an_uplink_with_a_static_prefix_can_be_set_down(net: Box) -> None:
    text = net.config.read_text().partition("\n")[2]
    net.configure(text.replace('"wan0"', f'"wan0"\nprefix = "{P1}"'))
    assert net.cli("uplink", "wan", "down").returncode == 0
    assert "set down" in net.cli("status").stdout


# ---- two nodes -----------------------------------------------------------------------------------


def node(net: Box, directory: Path) -> Box:
    """Another node, in the same namespace."""
    directory.mkdir()
    return Box(directory, net.before)


@needs_root
def test_import_takes_what_export_says_and_makes_a_pass(net: Box, tmp_path: Path) -> None:
    other = node(net, tmp_path / "other")
    assert other.cli("set", "wan", P1, "--valid", "600").returncode == 0
    assert other.cli("flush").returncode == 0
    told = other.cli("export")
    assert (told.returncode, told.stderr) == (0, "")
    run = net.cli("import", input=told.stdout)
    assert (run.returncode, run.stdout) == (0, "")
    assert "imported" in run.stderr
    assert net.cli("status").returncode == 0
    document = json.loads(net.cli("status", "--json").stdout)
    assert document["uplinks"][0]["prefixes"][0]["prefix"] == P1
    before = (net.state / "state.json").read_bytes()
    run = net.cli("import", input=told.stdout)
    assert (run.returncode, run.stderr) == (0, "")
    assert (net.state / "state.json").read_bytes() == before


@needs_root
def test_import_refuses_in_one_line(net: Box, tmp_path: Path) -> None:
    other = node(net, tmp_path / "other")
    other.cli("set", "wan", P1)
    old = other.cli("export").stdout
    other.cli("set", "wan", P2)
    net.cli("import", input=other.cli("export").stdout)
    before = (net.state / "state.json").read_bytes()
    for text, words in (("", "nothing came in"), ("{", "no whole output"), (old, "is older")):
        run = net.cli("import", input=text)
        assert (run.returncode, run.stdout) == (65, "")
        assert one_line(run.stderr) and words in run.stderr
    assert (net.state / "state.json").read_bytes() == before
    net.cli("set", "wan", "2001:db8:a000::/58")
    other.cli("set", "wan", "2001:db8:9000::/58")
    run = net.cli("import", input=other.cli("export").stdout)
    assert run.returncode == 65 and one_line(run.stderr) and "split brain: " in run.stderr
    assert net.cli("import", "--force", input=other.cli("export").stdout).returncode == 0
    assert "2001:db8:9000::/58" in net.cli("status").stdout


@needs_root
def test_import_without_stdin_is_65(net: Box) -> None:
    argv = [sys.executable, "-m", "pdreactor.cli", "-c", str(net.config), "import"]
    run = net.run("sh", "-c", 'exec "$@" <&-', "sh", *argv)
    assert run.returncode == 65 and one_line(run.stderr)


# ---- how it talks ------------------------------------------------------------------------------


@needs_root
def test_what_changed_is_logged_unless_quiet(net: Box) -> None:
    run = net.cli("set", "wan", P1)
    assert one_line(run.stderr)
    assert P1 in run.stderr
    assert net.cli("-q", "set", "wan", P2).stderr == ""
    assert net.cli("set", "wan", P2).stderr == "", "nothing changed"


@needs_root
def test_json_logs_are_one_document_a_line(net: Box) -> None:
    for verb in (("restore",), ("set", "wan", P1)):
        run = net.cli("-v", "--log-format", "json", *verb)
        lines = [json.loads(line) for line in run.stderr.splitlines()]
        assert lines
        for line in lines:
            assert {"event", "level", "timestamp"} <= set(line)
    assert lines[0]["event"] == "changed"
    assert lines[0]["changes"]


@needs_root
def test_a_reader_that_has_gone_breaks_nothing(net: Box) -> None:
    net.hook(block("BOUND6", prefix=P1))
    command = f'"{sys.executable}" -m pdreactor.cli -c "{net.config}" status --json'
    shell = f'({command}; echo $? >"{net.config}.code") | true'
    for _ in range(3):
        run = net.run("sh", "-c", shell)
        assert run.stderr == ""
        assert Path(f"{net.config}.code").read_text() == "0\n"


def test_without_stdout_and_stderr_check_still_tells_by_its_exit_code(box: Box) -> None:
    command = f'exec "{sys.executable}" -m pdreactor.cli -c "{box.config}" check >&- 2>&-'
    assert box.run("sh", "-c", command).returncode == 0
    box.configure("[[[")
    assert box.run("sh", "-c", command).returncode == 78


@needs_root
def test_a_newer_state_file_is_74_and_left_alone(net: Box) -> None:
    net.state.mkdir()
    text = b'{"format": 2}'
    (net.state / "state.json").write_bytes(text)
    for verb in (("restore",), ("plan",), ("status",), ("set", "wan", P1)):
        run = net.cli(*verb)
        assert run.returncode == 74
        assert one_line(run.stderr)
    assert (net.state / "state.json").read_bytes() == text


@needs_root
def test_a_lock_that_is_held_is_waited_for(net: Box) -> None:
    with state.Lock(str(net.state), "state.lock", 1):
        shell = f'timeout 1 "{sys.executable}" -m pdreactor.cli -c "{net.config}" restore'
        assert net.run("sh", "-c", shell).returncode == 124
    assert net.cli("restore").returncode == 0
