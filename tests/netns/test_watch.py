"""The watcher: what others change is put back, what dhcpcd says is followed without its hook, and
what only time changes is seen."""

import json
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
    REJECTED,
    A,
    Echo,
    Router,
    ask,
    config,
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
        argv = [*python("pdreactor.cli"), "watch", *arguments]
        self.process: Process = self.lab.start("router", argv, env=env)
        self.wait(lambda: self.manager.heard("READY=1") or not self.process.running, "READY=1")
        assert self.process.running, self.process.output()

    def wait(self, predicate: object, what: str) -> None:
        """Until it is so."""
        assert callable(predicate)
        self.lab.wait(predicate, LIMIT, f"{what}; the watcher said: {self.process.output()}")

    def quiet(self) -> bool:
        """True when the kernel is as desired."""
        return self.router.pd("plan", code=None).returncode == 0

    def listens(self) -> bool:
        """True once it hears dhcpcd."""
        text = self.router.run("ss", "-xHp")
        return any(f"pid={self.process.pid}," in line and "dhcpcd" in line
                   for line in text.splitlines()) or "dhcpcd" in self.process.output()


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
