"""pytest's plugin within the guest: networks, pdreactor on them, and reports for the outside.

Starting Python takes long on an emulated processor. So a verb runs in a fork of this process, which
has the modules already, in the namespaces of its machine.
"""

import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from subprocess import CompletedProcess
from typing import Any

import pytest

import pdreactor.cli
import pdreactor.conntrack
import pdreactor.hook
import pdreactor.layout.steps
import pdreactor.nat.nftables
import pdreactor.reconciler
import pdreactor.routing
from tests.guest.conftest import MARK
from tests.lab import Lab, Process
from tests.netns.pd import ENVIRONMENT, ROOT, Router

libc = ctypes.CDLL(None, use_errno=True)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell it at once."""
    data = CONFIG.hook.pytest_report_to_serializable(config=CONFIG, report=report)
    print(MARK + json.dumps(data, default=str), flush=True)


def pytest_configure(config: pytest.Config) -> None:
    """pytest's configuration, for the reports."""
    global CONFIG
    CONFIG = config
    config.option.tbstyle = "short"


CONFIG: Any = None


class Machine(Router):
    """A machine of a test network with pdreactor on it."""

    def __init__(self, lab: Lab, text: str, machine: str) -> None:
        """With this configuration."""
        super().__init__(lab, text, machine=machine)

    def configure(self, text: str) -> None:
        """Write /etc/pdreactor.toml."""
        self.text = text
        super().configure(text)

    def pd(self, *arguments: str, code: int | None = 0) -> "CompletedProcess[str]":
        """Run a verb. Its exit code must be ``code``; None takes any."""
        done = self._fork(lambda: pdreactor.cli.main(arguments), ["pdreactor", *arguments])
        said = f"pdreactor {' '.join(arguments)} ended with {done.returncode}: {done.stderr}"
        assert code is None or done.returncode == code, said
        assert "Traceback" not in done.stderr, said
        return done

    def hook(self, reason: str, variables: Mapping[str, str] | None = None,
             code: int | None = 0, interface: str = "eth0") -> "CompletedProcess[str]":
        """dhcpcd's script is called with this environment and nothing else."""
        environment = {**ENVIRONMENT, "interface": interface, "reason": reason,
                       **(variables or {})}
        block = "".join(f"{name}={value}\0" for name, value in environment.items())
        return self.replay(block.encode(), code)

    def replay(self, block: bytes, code: int | None = 0) -> "CompletedProcess[str]":
        """The same with a whole block."""
        self.lab.path(self.machine, "/run/block").write_bytes(block)
        done = self._fork(lambda: pdreactor.hook.main(["--environ", "/run/block"]),
                          ["pdreactor-hook"])
        assert code is None or done.returncode == code, done.stderr
        return done

    def settled(self) -> None:
        """A second pass would change nothing."""
        done = self.pd("plan", code=None)
        assert done.returncode == 0, done.stdout + done.stderr

    def _fork(self, call: Callable[[], int], argv: Sequence[str]) -> "CompletedProcess[str]":
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                os._exit(_inside(self.lab.pid(self.machine), call, out.fileno(), err.fileno()))
            _, status = os.waitpid(child, 0)
            texts = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
        return CompletedProcess(list(argv), os.waitstatus_to_exitcode(status), *texts)

    # ---- the machine -----------------------------------------------------------------------

    def ip(self, words: str) -> str:
        """ip(8) on it."""
        return self.run("ip", *words.split())

    def link(self, name: str) -> dict[str, Any]:
        """What ip(8) says of a link; empty when there is none."""
        text = self.run("ip", "-j", "-d", "link", "show", "dev", name, check=False)
        found: list[dict[str, Any]] = json.loads(text or "[]")
        return found[0] if found else {}

    def tunnel(self, name: str) -> dict[str, Any]:
        """The values of a tunnel."""
        found: dict[str, Any] = self.link(name).get("linkinfo", {}).get("info_data", {})
        return found

    def addresses(self, name: str) -> dict[str, dict[str, Any]]:
        """The global IPv6 addresses of a link, with their length."""
        text = self.run("ip", "-j", "-6", "addr", "show", "dev", name, "scope", "global",
                        check=False)
        return {f"{one['local']}/{one['prefixlen']}": one
                for link in json.loads(text or "[]") for one in link.get("addr_info", ())
                if "local" in one}

    def ipv4(self, name: str) -> set[str]:
        """The IPv4 addresses of a link, with their length."""
        text = self.run("ip", "-j", "-4", "addr", "show", "dev", name)
        return {f"{one['local']}/{one['prefixlen']}"
                for link in json.loads(text) for one in link.get("addr_info", ())}

    def move(self, interface: str, old: str, new: str) -> None:
        """Its IPv4 address changes, as by DHCP."""
        self.ip(f"-4 addr del {old} dev {interface}")
        self.ip(f"-4 addr add {new} dev {interface}")
        gateway = new.rpartition(".")[0] + ".1"
        self.ip(f"-4 route replace default via {gateway} dev {interface}")


def _inside(pid: int, call: Callable[[], int], out: int, err: int) -> int:
    """In the child: within the machine, with its own streams."""
    try:
        spaces = [os.open(f"/proc/{pid}/ns/{space}", os.O_RDONLY) for space in ("net", "mnt")]
        for space in spaces:
            if libc.setns(space, 0) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        os.chdir("/")
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115 - the process ends
        os.environ.clear()
        os.environ.update(ENVIRONMENT)
        code = call()
        sys.stdout.flush()
        sys.stderr.flush()
        return code
    except BaseException as exc:
        os.write(err, f"Traceback: {type(exc).__name__}: {exc}\n".encode())
        return 99


# ---- the network -------------------------------------------------------------------------------

class Net(Lab):
    """The same machines in a row, each behind the next:

        b (eth0) --- (lan1) a (eth0) --- (lan0) router (eth0) --- (wan) isp

    Between a and router there is IPv4 as well, 198.51.100.0/24 and 203.0.113.0/24.
    """

    def __enter__(self) -> "Net":
        super().__enter__()
        self.ip("router", f"link set lan1 netns {self.pid('a')}")
        self.run("a", ["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1",
                       "net.ipv4.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=0"])
        self.run("router", ["sysctl", "-qw", "net.ipv4.conf.all.forwarding=1"])
        self.ip("a", "link set lan1 up", "-6 addr add fd5e:ed00:1234:1::1/64 dev lan1 nodad",
                "neigh add fd5e:ed00:1234:1::2 lladdr 02:00:00:00:02:02 dev lan1",
                "-6 route del default", "-4 addr add 198.51.100.2/24 dev eth0",
                "-4 route add default via 198.51.100.1")
        self.ip("router", "-4 addr add 198.51.100.1/24 dev lan0",
                "-4 addr add 203.0.113.1/24 dev lan0")
        return self

    def processes(self) -> Iterator[Process]:
        """Those that were started, the last one first."""
        return reversed(self._processes)

    def ip(self, machine: str, *lines: str) -> None:
        """ip(8) on a machine, a command each."""
        for line in lines:
            self.run(machine, ["ip", *line.split()])


class Standing:
    """The network that tests share, but for what a failed test has left of one."""

    def __init__(self) -> None:
        self._net: Net | None = None

    def get(self) -> Net:
        """The one that stands, or a new one."""
        if self._net is None:
            self._net = Net().__enter__()
        return self._net

    def drop(self) -> None:
        """Remove it."""
        if self._net is not None:
            self._net.close()
            self._net = None


@pytest.fixture(scope="session")
def standing() -> Iterator[Standing]:
    """One for all."""
    one = Standing()
    yield one
    one.drop()


@pytest.fixture
def net(standing: Standing, request: pytest.FixtureRequest) -> Iterator[Net]:
    """A network for one test, which leaves nothing behind but what pdreactor takes back."""
    network = standing.get()
    before = request.session.testsfailed
    yield network
    if request.session.testsfailed > before:
        standing.drop()
        return
    for process in network.processes():
        process.kill()
    for name in ("a", "b", "router"):
        if network.path(name, "/var/lib/pdreactor/state.json").exists():
            Machine(network, MINIMAL, name).pd("flush", "--forget")
    a = Machine(network, MINIMAL, "a")
    for address in a.ipv4("eth0") - {"198.51.100.2/24"}:
        a.move("eth0", address, "198.51.100.2/24")


MINIMAL = '[uplink.any]\ninterface = "eth0"\n'


def example(name: str, changes: Mapping[str, str]) -> str:
    """An example configuration with other names and addresses in it."""
    path = ROOT / "contrib/examples" / f"{name}.toml"
    text = path.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text, f"{path} has no {old}"
        text = text.replace(old, new)
    return text
