"""The watcher: what others change is put back, what dhcpcd says is followed without its hook, and
what only time changes is seen."""

import fcntl
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import POOLS, SERVER, Lab, Pool, Process
from tests.lab.servers import DHCPCD, DHCPCD_CONF

from .pd import (
    CONFIG,
    ENVIRONMENT,
    MODES,
    NEEDS_ROOT,
    NETMAP,
    NEW,
    OLD,
    PYTHON,
    REJECTED,
    STATE,
    A,
    Echo,
    Router,
    ask,
    config,
    dhcp,
    on,
    ping,
    python,
    reaches,
)
from .test_uplinks import TWO

pytestmark = NEEDS_ROOT

LIMIT = 10.0
CONF = DHCPCD_CONF.format(interface="eth0")
TABLE = "table ip6 pdreactor"


class Manager:
    """Stands for the service manager: hears what the watcher tells it."""

    def __init__(self, path: Path) -> None:
        self.path, self.said = path, ""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(path))

    def heard(self, text: str) -> bool:
        """True once it has been told this."""
        try:
            while True:
                self.said += self.socket.recv(4096).decode() + "\n"
        except BlockingIOError:
            return text in self.said

    def forget(self) -> None:
        """Count from here."""
        self.heard("")
        self.said = ""


class Watcher:
    """``pdreactor watch`` on the router."""

    def __init__(self, router: Router, tmp_path: Path, *arguments: str) -> None:
        self.router, self.lab = router, router.lab
        self.manager = Manager(tmp_path / "notify")
        self.start(*arguments)

    def start(self, *arguments: str, **environment: str) -> None:
        """Start it, and wait until it says that it is ready."""
        self.manager.forget()
        env = {**ENVIRONMENT, "NOTIFY_SOCKET": str(self.manager.path), **environment}
        argv = [*python("pdreactor.cli"), "-v", "watch", *arguments]
        self.process: Process = self.lab.start("router", argv, env=env)
        self.wait(lambda: self.manager.heard("READY=1") or not self.process.running, "READY=1")
        assert self.process.running, self.process.output()

    def reload(self) -> None:
        """A pass by SIGHUP, to its end."""
        self.manager.forget()
        self.process.signal(signal.SIGHUP)
        self.wait(lambda: self.manager.heard("READY=1"), "the reload")

    def wait(self, predicate: object, what: str) -> None:
        """Until it is so. The watcher waits while nobody takes what it has to say."""
        assert callable(predicate)
        self.lab.wait(lambda: self.manager.heard("") and predicate(), LIMIT,
                      f"{what}; the watcher said: {self.process.output()}")

    def quiet(self) -> bool:
        """True when the kernel is as desired."""
        return self.router.pd("plan", code=None).returncode == 0

    def listens(self) -> bool:
        """True once it hears dhcpcd."""
        return "listening to dhcpcd" in self.process.output()


@pytest.fixture
def watcher(router: Router, tmp_path: Path) -> Iterator[Watcher]:
    """With a prefix, and all in place."""
    router.set(OLD)
    yield Watcher(router, tmp_path)


@on(MODES)
def test_what_others_remove_is_put_back(watcher: Watcher) -> None:
    router, lab = watcher.router, watcher.lab
    for _ in range(3):
        router.run("nft", "flush", "ruleset")
        watcher.wait(watcher.quiet, "the repair")
        assert reaches(lab, "a", SERVER)
    assert "changed_by='nft (process" in watcher.process.output()


def test_routes_and_rules_are_put_back(lab2: Lab, tmp_path: Path) -> None:
    router = Router(lab2, TWO)
    router.set(OLD, uplink="one")
    router.set(NEW, uplink="two")
    watcher = Watcher(router, tmp_path)
    router.run("ip", "-6", "rule", "flush", "protocol", "157")
    watcher.wait(watcher.quiet, "the rules")
    router.run("ip", "-6", "route", "flush", "table", "202")
    watcher.wait(watcher.quiet, "the routes")
    router.run("ip", "link", "set", "eth0", "down")
    watcher.wait(lambda: router.status()["translations"][0]["uplinks"][1]["used"], "fail-over")
    watcher.wait(watcher.quiet, "all of it")


@pytest.fixture
def lab2() -> Iterator[Lab]:
    """Two ISPs."""
    with Lab(uplinks=2) as network:
        yield network


@on(NETMAP)
def test_its_own_changes_are_not_followed_by_others(watcher: Watcher) -> None:
    watcher.router.run("nft", "flush", "ruleset")
    watcher.wait(watcher.quiet, "the repair")
    watcher.router.set(NEW)
    watcher.reload()
    with watcher.router.unwritten():
        watcher.reload()


# ---- dhcpcd's socket ---------------------------------------------------------------------------


@pytest.fixture
def leased(router: Router, tmp_path: Path) -> Watcher:
    """Without the hook: dhcpcd gets a prefix, and the watcher is told by its socket."""
    watcher = Watcher(router, tmp_path)
    router.lab.start_kea(Pool())
    router.lab.start_dhcpcd(CONF)
    watcher.wait(lambda: router.prefixes() == {OLD: "current"}, "the prefix")
    return watcher


def test_dhcpcds_socket_makes_the_hook_unnecessary(leased: Watcher) -> None:
    router, lab = leased.router, leased.lab
    leased.wait(leased.quiet, "the rules")
    echo = Echo(lab, "isp", SERVER)
    assert ask(lab, "a", "tcp", SERVER) == "same"
    lab.renumber(POOLS[1])
    lab.dhcpcd_renew()
    leased.wait(lambda: router.prefixes() == {NEW: "current"}, "the new prefix")
    leased.wait(leased.quiet, "the rules")
    assert ask(lab, "a", "tcp", SERVER) == "same"
    assert echo.sources() == {router.outside(A), router.outside(A, NEW)}


def test_what_dhcpcd_holds_already_is_learned_once(leased: Watcher) -> None:
    """Its lifetimes count from when they were learned, not from when they are asked for again."""
    router = leased.router
    leased.process.stop()
    router.pd("flush", "--forget")
    leased.start()
    leased.wait(lambda: router.prefixes() == {OLD: "current"}, "the prefix")
    learned = router.lab.read("router", STATE)
    leased.process.stop()
    leased.start()
    leased.wait(lambda: "holds" in leased.process.output(), "what dhcpcd holds to be heard")
    leased.reload()
    assert router.lab.read("router", STATE) == learned


def test_a_dhcpcd_that_is_started_again_is_heard_again(leased: Watcher) -> None:
    router, lab = leased.router, leased.lab
    router.run(DHCPCD, "-x", "eth0")
    lab.renumber(POOLS[1])
    leased.wait(lambda: not router.run("pgrep", "-x", "dhcpcd", "--ns", str(lab.pid("router")),
                                       "--nslist", "net", check=False), "dhcpcd to end")
    lab.start_dhcpcd(CONF)
    leased.wait(lambda: router.prefixes().get(NEW) == "current", "the new prefix")


# ---- time and signals --------------------------------------------------------------------------


SAYS = """
import os, socket, struct

os.makedirs("/run/dhcpcd")
server = socket.socket(socket.AF_UNIX)
server.bind("/run/dhcpcd/unpriv.sock")
server.listen()
peer = server.accept()[0]
block = bytes.fromhex("{block}")
peer.sendall(struct.pack("@N", len(block)) + block)
peer.recv(1 << 10), peer.recv(1)
"""
"""A dhcpcd that tells of one event."""


def test_a_refused_lease_is_not_over_with_the_next_pass(router: Router, tmp_path: Path) -> None:
    router.set(OLD)
    told = {"interface": "eth0", "reason": "BOUND6", **dhcp("fe80::/60")}
    block = "".join(f"{name}={value}\0" for name, value in told.items()).encode()
    router.lab.start("router", [PYTHON, "-c", SAYS.format(block=block.hex())])
    watcher = Watcher(router, tmp_path)
    watcher.wait(lambda: "fe80::/60 is or overlaps" in watcher.process.output(), "the refusal")
    watcher.reload()
    assert "nothing is wrong any more" not in watcher.process.output()
    assert watcher.quiet()


def test_the_end_of_a_lifetime_is_seen(router: Router, tmp_path: Path) -> None:
    router.configure(config('on_expire = "withdraw"'))
    router.set(OLD, valid=3)
    watcher = Watcher(router, tmp_path)
    watcher.wait(lambda: router.prefixes() == {}, "the end")
    watcher.wait(watcher.quiet, "the rules")
    assert ping(router.lab, "a", SERVER) == REJECTED


def test_a_wrong_configuration_is_named_and_the_one_from_before_stays(watcher: Watcher) -> None:
    router = watcher.router
    before = router.lab.read("router", CONFIG)
    router.configure("nonsense = 1\n")
    watcher.process.signal(signal.SIGHUP)
    watcher.wait(lambda: "nonsense" in watcher.process.output(), "the mistake")
    router.run("nft", "flush", "ruleset")
    watcher.wait(lambda: router.ours() != "", "the repair")
    assert watcher.process.output().count("nonsense") == 1
    router.configure(before + 'on_short = "partial"\nhairpin = false\n')
    watcher.reload()
    assert watcher.quiet()
    assert "hairpin" not in router.ours()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_and_the_rules_stay(watcher: Watcher, number: signal.Signals) -> None:
    watcher.process.signal(number)
    assert watcher.process.wait(LIMIT) == 0
    assert watcher.quiet()
    assert watcher.manager.heard("STOPPING=1")


def test_it_ends_although_a_pass_waits(watcher: Watcher) -> None:
    with open(watcher.lab.path("router", "/var/lib/pdreactor/pass.lock"), encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        watcher.router.run("nft", "flush", "ruleset")
        watcher.process.signal(signal.SIGTERM)
        assert watcher.process.wait(LIMIT) == 0


def test_there_is_one(watcher: Watcher) -> None:
    done = watcher.router.pd("watch", code=74)
    assert "watch.lock" in done.stderr


# ---- bad days ----------------------------------------------------------------------------------


def test_more_news_than_it_can_hold(watcher: Watcher) -> None:
    """While it is stopped the kernel has to drop what it has to tell (ENOBUFS)."""
    watcher.process.signal(signal.SIGSTOP)
    lines = "".join(f"add element ip6 flood s {{ {n} }}\n" for n in range(20_000))
    made = "add table ip6 flood\nadd set ip6 flood s { type mark; }\n" + lines
    for _ in range(3):
        watcher.lab.nft("router", made + "delete table ip6 flood\n")
    watcher.router.run("nft", "flush", "ruleset")
    watcher.process.signal(signal.SIGCONT)
    watcher.wait(watcher.quiet, "the repair")


def test_an_interface_that_goes_and_comes_back(lab2: Lab, tmp_path: Path) -> None:
    router = Router(lab2, TWO)
    router.run("ip", "link", "add", "name", "tun9", "type", "bridge")
    text = TWO + '[uplink.three]\ninterface = "tun9"\nprefix = "2001:db8:c::2/128"\ntable = 203\n'
    router.configure(text)
    watcher = Watcher(router, tmp_path)
    for _ in range(2):
        router.run("ip", "link", "del", "tun9")
        watcher.wait(lambda: "tun9 is not there yet" in str(router.status()), "it to be missed")
        watcher.wait(watcher.quiet, "the rules")
        router.run("ip", "link", "add", "name", "tun9", "type", "bridge")
        router.run("ip", "link", "set", "tun9", "up")
        watcher.wait(watcher.quiet, "the rules")


def test_slow_commands_do_not_keep_it_from_its_work(router: Router, tmp_path: Path) -> None:
    script = "/etc/slow"
    router.lab.write("router", script, "#!/bin/sh\necho begun >>/etc/begun\nsleep 60\n", 0o755)
    router.configure(config(rest=f'[[on_change]]\nexec = ["{script}"]\ntimeout = 50\n'))
    watcher = Watcher(router, tmp_path)
    router.lab.start_kea(Pool())
    router.lab.start_dhcpcd(CONF)
    begun = router.lab.path("router", "/etc/begun")
    watcher.wait(begun.exists, "the command")
    router.run("nft", "flush", "ruleset")
    watcher.wait(watcher.quiet, "the repair")
    assert begun.read_text() == "begun\n"


# ---- metrics -----------------------------------------------------------------------------------


def test_metrics_say_what_happened(router: Router, tmp_path: Path) -> None:
    router.set(OLD)
    watcher = Watcher(router, tmp_path, "--metrics", "/etc/pdreactor.prom")
    file = router.lab.path("router", "/etc/pdreactor.prom")

    def says(line: str) -> bool:
        return line in file.read_text().splitlines()

    watcher.wait(lambda: says("pdreactor_ok 1"), "the file")
    assert says("pdreactor_repairs_total 0")
    router.run("nft", "flush", "ruleset")
    watcher.wait(lambda: says("pdreactor_repairs_total 1"), "the repair to be counted")
    shown = router.pd("status", "--format", "prometheus").stdout
    same = {line for line in shown.splitlines() if "seconds" not in line}
    assert same == {line for line in file.read_text().splitlines() if "seconds" not in line}
    for name in ("prefix_age_seconds", "prefix_valid_seconds", "last_pass_timestamp_seconds",
                 "changes_total", "flows_removed_total", "guard_packets_total"):
        assert f"\npdreactor_{name}" in shown


def test_metrics_that_cannot_be_written_are_named_once(router: Router, tmp_path: Path) -> None:
    router.set(OLD)
    watcher = Watcher(router, tmp_path, "--metrics", "/nowhere/pdreactor.prom")
    for _ in range(2):
        watcher.reload()
    said = watcher.process.output()
    assert said.count("cannot write /nowhere/pdreactor.prom") == 1
    assert "nothing is wrong any more" not in said


def test_what_the_guard_stopped_and_what_was_removed_are_counted(router: Router) -> None:
    router.set(OLD)
    Echo(router.lab, "isp", SERVER)
    assert ask(router.lab, "a", "udp", SERVER) == "same"
    router.set(NEW)
    counted = router.status()["counters"]
    assert counted["flows_removed"] >= 1 and counted["changes"] >= 2 and counted["last_pass"]
    assert counted["stopped"] == {"eth0": 0}
