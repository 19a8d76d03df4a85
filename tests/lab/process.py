"""Processes of a test network: started inside a namespace, and always ended by their pid."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

ANCHOR = Path(__file__).with_name("anchor.py")
POLL = 0.002


class LabError(RuntimeError):
    """The test network could not do what it was asked to."""


class CommandError(LabError):
    """A command inside the test network failed."""

    def __init__(self, argv: Sequence[str], code: int, output: str) -> None:
        """Keep what a test may want to look at."""
        super().__init__(f"{' '.join(argv)!r} ended with {code}: {output.strip()}")
        self.argv = list(argv)
        self.code = code
        self.output = output


def wait_for(predicate: Callable[[], object], timeout: float, what: str) -> None:
    """Poll until the predicate holds; LabError naming ``what`` when it does not in time."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            raise LabError(f"after {timeout:g} s still waiting for {what}")
        time.sleep(POLL)


def network_of(pid: int) -> str:
    """The identity of a process's network namespace; empty when it has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


class Process:
    """A background process with its output in a file. ``start`` it with a Lab."""

    def __init__(
        self, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        """Start it; both output streams go to ``log``."""
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id, as the whole machine sees it."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """True until it has ended."""
        return self._popen.poll() is None

    @property
    def network(self) -> str:
        """The identity of its network namespace; empty when it has ended."""
        return network_of(self.pid) if self.running else ""

    def output(self) -> str:
        """Everything it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self, timeout: float = 10.0) -> int:
        """Wait for its own end and return the exit code; LabError when that takes too long."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name} did not end in {timeout:g} s: {self.tail()}") from None

    def wait_output(self, text: str, timeout: float = 10.0) -> None:
        """Wait until it has printed ``text``; LabError when it ends before or never does."""
        deadline = time.monotonic() + timeout
        while text not in self.output():
            ended = not self.running and text not in self.output()
            if ended or time.monotonic() > deadline:
                raise LabError(f"{self.name} did not print {text!r}: {self.tail()}")
            time.sleep(POLL)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def stop(self, timeout: float = 5.0) -> int:
        """End it by SIGTERM, after the timeout by SIGKILL; returns the exit code.

        SIGTERM is repeated: dhcpcd 9.4.1 loses one that comes while its script runs.
        """
        deadline = time.monotonic() + timeout
        while self.running and time.monotonic() < deadline:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._popen.wait(0.7)
        return self.kill()

    def kill(self) -> int:
        """End it by SIGKILL at once; returns the exit code."""
        if self.running:
            self._popen.kill()
        return self._popen.wait(5)

    def tail(self) -> str:
        """The end of its output, for error messages."""
        return self.output()[-2000:].strip() or "(no output)"


class Anchor:
    """The process that holds the namespaces of one machine of the test network."""

    def __init__(self, name: str, directory: Path, settings: Sequence[str]) -> None:
        """Start it; ``wait_ready`` says when its namespaces exist."""
        self.name = name
        self._popen = subprocess.Popen(
            [sys.executable, "-I", "-S", str(ANCHOR), str(directory), *settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id; /proc/PID/root is the file system as the machine sees it."""
        return self._popen.pid

    def wait_ready(self) -> None:
        """Wait until the namespaces exist."""
        line = self._pipe(self._popen.stdout).readline()
        if line != "ready\n":
            rest = self._pipe(self._popen.stdout).read()
            self.close()
            raise LabError(f"namespace {self.name} was not made: {line}{rest}".strip())

    @property
    def network(self) -> str:
        """The identity of its network namespace."""
        return network_of(self.pid)

    def inside(self, argv: Sequence[str], cwd: str) -> list[str]:
        """The argv that runs ``argv`` in the namespaces; the process id stays the same."""
        spaces = f"/proc/{self.pid}/ns"
        return [
            "nsenter", f"--net={spaces}/net", f"--mount={spaces}/mnt", f"--wdns={cwd}", "--", *argv
        ]  # fmt: skip

    def root(self) -> Path:
        """The machine's root directory, to be used from outside."""
        return Path(f"/proc/{self.pid}/root")

    def release(self) -> None:
        """Let it clear its namespace and end, without waiting for that."""
        try:
            self._pipe(self._popen.stdin).close()
        except OSError:
            pass  # it is gone already

    def close(self) -> None:
        """Let it end, by force if need be."""
        self.release()
        try:
            self._popen.wait(5)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait(5)
        self._pipe(self._popen.stdout).close()

    @staticmethod
    def _pipe(stream: IO[str] | None) -> IO[str]:
        """The stream, which is there because a pipe was asked for."""
        if stream is None:
            raise LabError("the anchor has no pipe")
        return stream


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    timeout: float = 10.0,
    input: str | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; CommandError for a failure, LabError when it takes too long."""
    try:
        done = subprocess.run(
            list(argv),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=None if env is None else dict(env),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(argv)!r} took more than {timeout:g} s") from None
    if check and done.returncode != 0:
        raise CommandError(argv, done.returncode, done.stdout + done.stderr)
    return done


def require_root() -> None:
    """LabError unless this process may make namespaces."""
    if os.geteuid() != 0:
        raise LabError("a test network needs root")
