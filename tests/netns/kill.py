"""Kill a program at one of its system calls, with strace(1), and look at what it left behind."""

import fcntl
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.lab import Lab

from .pd import ENVIRONMENT, PYTHON, STATE, Router

STRACE = "/usr/bin/strace"
RECOVER = str(Path(__file__).with_name("recover.py"))
CHANGING = "write,fsync,rename,link,unlink,flock,mkdir,sendmsg,sendto,clone,clone3,vfork"
"""What is looked at for changes. A file is opened before it is written: to die at the first write
is to die after open(2)."""
TO_KERNEL = r"(sendmsg)\(|(sendto)\(.*(RTM_NEW|RTM_DEL|nlmsg_type=0x102|CTNETLINK)"
TO_DISK = r"(write)\((?![12],)|(fsync|rename|link|unlink|flock|mkdir|clone|clone3|vfork)\("


class Point(NamedTuple):
    """The Nth call of a system call, from 1 on, and how strace shows it."""

    name: str
    number: int
    shown: str

    @property
    def kernel(self) -> bool:
        """It changes the kernel."""
        return bool(re.match(TO_KERNEL, self.shown))

    @property
    def changing(self) -> bool:
        """It changes the kernel, files or processes."""
        return (self.kernel or bool(re.match(TO_DISK, self.shown))) and " = -1 " not in self.shown

    def __str__(self) -> str:
        return f"{self.name} number {self.number}: {self.shown[:150]}"


class Ran(NamedTuple):
    """How a program under strace ended (-9: killed), and what it said."""

    code: int
    said: str
    trace: str


def traced(lab: Lab, argv: Sequence[str], names: str, inject: Sequence[str] = (),
           options: Sequence[str] = ()) -> Ran:
    """Run a program on the router under strace."""
    log = lab.directory / "strace"
    tamper = [word for one in inject for word in ("-e", f"inject={one}")]
    done = lab.run("router", [STRACE, "-s", "40", "-o", str(log), *options,
                              "-e", f"trace={names}", *tamper, "--", *argv],
                   check=False, timeout=60, env=ENVIRONMENT)
    return Ran(done.returncode, done.stderr, log.read_text(errors="replace"))


def points(trace: str) -> list[Point]:
    """All calls of a trace."""
    found, numbers = [], dict[str, int]()
    for line in trace.splitlines():
        name = line.partition("(")[0]
        numbers[name] = numbers.get(name, 0) + 1
        found.append(Point(name, numbers[name], line))
    return found


# ---- what is left ------------------------------------------------------------------------------


def free(router: Router) -> bool:
    """True when nobody holds a lock of ours. A program that a killed pass has started may still."""
    for name in ("state.lock", "pass.lock"):
        path = router.lab.path("router", STATE).with_name(name)
        if path.exists():
            fd = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            finally:
                os.close(fd)
    return True


def files(router: Router) -> set[str]:
    """The names in the state directory."""
    return set(os.listdir(router.lab.path("router", STATE).parent))


def known(router: Router) -> Any:
    """The state file, without the points in time and how often it learned; it has to be whole."""
    path = router.lab.path("router", STATE)
    return timeless(json.loads(path.read_text())) if path.exists() else None


def timeless(document: Any) -> Any:
    """A document whose points in time are only there or not."""
    if isinstance(document, list):
        return [timeless(one) for one in document]
    if not isinstance(document, dict):
        return document
    return {key: value is not None if key.endswith(("at", "_until")) else timeless(value)
            for key, value in document.items() if key not in ("clock", "lineage")}


class Look(NamedTuple):
    """The router at one moment: exit codes of the verbs before, the kernel, conntrack entries that
    have to be gone, the state."""

    codes: list[int]
    kernel: str
    dead: list[str]
    known: Any


def recover(router: Router, *calls: list[str]) -> list[Look]:
    """Run recover.py on the router."""
    argv = [PYTHON, RECOVER, json.dumps(calls)]
    done = router.lab.run("router", argv, timeout=60, env=ENVIRONMENT)
    assert "Traceback" not in done.stderr, done.stderr
    return [_look(line) for line in done.stdout.splitlines() if line[:2] == "[["]


def _look(line: str) -> Look:
    codes, listed, rules, saved, routes, flows, state = json.loads(line)
    kernel = _nft(listed) + rules + _saved(saved) + "\n".join(sorted(routes.splitlines()))
    return Look(codes, kernel, flows, timeless(json.loads(state)))


def _nft(listed: str) -> str:
    """A table whatever its slots, and the order in which its parts were made."""
    text = re.sub(r"(-\d+|\b[a-z-]+)\.\d+\b", r"\1.N", listed)
    text = re.sub(r' [0-9a-f]{8}"', ' SUM"', text)
    return "".join(sorted(re.findall(r"^\t\S.*?^\t\}\n", text, re.M | re.S)))


def _saved(text: str) -> str:
    """Chains of ours, and rules; built-in chains stay where there were some."""
    return "".join(f"{line}\n" for line in text.splitlines() if line[:2] in ("-A", ":p"))
