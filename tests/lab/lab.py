"""A whole network on one machine: ISP, router and two internal hosts in private namespaces."""

import json
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Network
from pathlib import Path
from subprocess import CompletedProcess
from types import TracebackType
from typing import Self

from . import count, servers, topology
from .process import Anchor, Process, require_root, run, wait_for
from .servers import Kea, Pool
from .topology import SERVER

SCRIPTS = Path(__file__).parent
PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Sent:
    """What a generator of new flows has done."""

    sent: int
    refused: int  # not taken by the sending host's own kernel
    seconds: float


@dataclass(frozen=True)
class FlowReport:
    """What became of one running flow: ``sources`` as the server saw them, in that order."""

    sent: int
    lost: tuple[int, ...]
    sources: dict[str, int]


class NewFlows:
    """A running generator of new flows."""

    def __init__(self, process: Process) -> None:
        """Made by ``Lab.start_flows``."""
        self.process = process

    def stop(self) -> Sent:
        """End it and return what it sent."""
        self.process.stop()
        return self._sent()

    def wait(self, timeout: float = 60.0) -> Sent:
        """Wait until its time is up and return what it sent."""
        self.process.wait(timeout)
        return self._sent()

    def _sent(self) -> Sent:
        """Its report."""
        return Sent(**json.loads(self.process.output()))


class RunningFlow:
    """One UDP flow that keeps running."""

    def __init__(self, process: Process) -> None:
        """Made by ``Lab.start_running_flow``."""
        self.process = process

    def stop(self) -> FlowReport:
        """End it and return what became of it."""
        self.process.stop()
        report = json.loads(self.process.output())
        return FlowReport(report["sent"], tuple(report["lost"]), report["sources"])


class Sniffer:
    """Waits for the first packet with a source inside a prefix."""

    def __init__(self, process: Process) -> None:
        """Made by ``Lab.sniff``."""
        self.process = process

    def wait(self, timeout: float = 10.0) -> float:
        """When it came, on the clock of ``time.monotonic``; LabError when none came."""
        self.process.wait(timeout)
        return float(self.process.output().split()[1])


class Lab:
    """The network; use it with ``with``. See topology.py for the plan.

    Machines are called isp (isp2), router (router2), a and b. Each has its own network namespace
    and its own /run, /etc, /var/lib and /usr/lib/dhcpcd: what is written there is private and gone
    afterwards.
    """

    def __init__(
        self, uplinks: int = 1, internal: str = topology.INTERNAL, routers: int = 1
    ) -> None:
        """``internal`` must have room for two /64; there are one or two routers."""
        self.links = topology.links(internal, uplinks, routers)
        self.internal = internal
        self._anchors: dict[str, Anchor] = {}
        self._processes: list[Process] = []
        self._keas: dict[str, Kea] = {}
        self._counted: dict[str, list[str]] = {}
        self.directory = Path()  # logs and configuration files, while it stands

    # ---- building and removing -------------------------------------------------------------

    def __enter__(self) -> Self:
        """Build it; everything is ready when this returns."""
        require_root()
        self.directory = Path(tempfile.mkdtemp(prefix="pdr-lab-"))
        try:
            self._make_namespaces()
            self._make_links()
            self._make_counters()
            wait_for(self._ready, 10, "carrier and link-local addresses")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove it."""
        self.close()

    def close(self) -> None:
        """End every process, the last one first, and remove the namespaces."""
        for process in reversed(self._processes):
            process.kill()
        for anchor in self._anchors.values():
            anchor.release()
        for anchor in reversed(self._anchors.values()):
            anchor.close()
        self._processes.clear()
        self._anchors.clear()
        if self.directory != Path():
            shutil.rmtree(self.directory, ignore_errors=True)

    def _make_namespaces(self) -> None:
        """Start all anchors, then wait for all."""
        for name in (*self.links[0].routers, *(link.peer for link in self.links)):
            self._anchors[name] = Anchor(name, self.directory, topology.settings(name))
        for anchor in self._anchors.values():
            anchor.wait_ready()

    def _make_links(self) -> None:
        """Cables, addresses and routes."""
        pids = {name: anchor.pid for name, anchor in self._anchors.items()}
        for router in self.links[0].routers:
            self._ip_batch(router, topology.router_batch(self.links, pids, router))
        for link in self.links:
            self._ip_batch(link.peer, topology.peer_batch(link))

    def _ip_batch(self, machine: str, lines: Iterable[str]) -> None:
        """Run many ip(8) commands at once."""
        text = "\n".join(lines) + "\n"
        self.run(machine, ["ip", "-6", "-batch", "-"], input=text)

    def _make_counters(self) -> None:
        """What each ISP counts."""
        for link in self.links:
            if link.uplink:
                self.nft(link.peer, count.rules(SERVER))
                self._counted[link.peer] = []

    def _ready(self) -> bool:
        """True when each interface has carrier and an address that can be used."""
        return all(
            self._usable(link.peer, link.there)
            and all(self._usable(router, link.here) for router in link.routers)
            for link in self.links
        )

    def _usable(self, machine: str, interface: str) -> bool:
        """True when an interface has carrier and its link-local address."""
        carrier = self.path(machine, f"/sys/class/net/{interface}/carrier")
        table = Path(f"/proc/{self.pid(machine)}/net/if_inet6").read_text(encoding="ascii")
        lines = (line.split() for line in table.splitlines())
        addresses = [line for line in lines if line[5] == interface and line[0][:4] == "fe80"]
        tentative = 0x40
        settled = any(not int(line[4], 16) & tentative for line in addresses)
        return settled and carrier.read_text(encoding="ascii") == "1\n"

    # ---- commands and files ----------------------------------------------------------------

    def pid(self, machine: str) -> int:
        """A process in the machine's namespaces (for ``nsenter --target``)."""
        return self._anchors[machine].pid

    def path(self, machine: str, path: str) -> Path:
        """A file of the machine as seen from outside. Absolute symlinks lead out of it."""
        return self._anchors[machine].root() / path.lstrip("/")

    def write(self, machine: str, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the machine, with the directories it needs."""
        file = self.path(machine, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)

    def read(self, machine: str, path: str) -> str:
        """Read a file of the machine."""
        return self.path(machine, path).read_text(encoding="utf-8", errors="replace")

    def run(
        self,
        machine: str,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 10.0,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> "CompletedProcess[str]":
        """Run a command to its end; CommandError when it fails and ``check`` is set."""
        inside = self._anchors[machine].inside(argv, cwd)
        return run(inside, check=check, timeout=timeout, input=input, env=env)

    def start(
        self,
        machine: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        name: str = "",
    ) -> Process:
        """Start a command in the background; it ends with the network at the latest."""
        log = self.directory / f"{len(self._processes):03d}.log"
        inside = self._anchors[machine].inside(argv, cwd)
        process = Process(name or Path(argv[0]).name, inside, log, env)
        self._processes.append(process)
        space = self._anchors[machine].network
        wait_for(lambda: process.network in ("", space), 5, f"{process.name} to enter {machine}")
        return process

    def nft(self, machine: str, text: str) -> None:
        """Load nftables rules."""
        self.run(machine, ["nft", "-f", "-"], input=text)

    def sysctl(self, machine: str, key: str, value: object) -> None:
        """Set a sysctl of the machine's network namespace."""
        self.run(machine, ["sysctl", "-q", "-w", f"{key}={value}"])

    def conntrack_timeout(self, seconds: int, machine: str = "router") -> None:
        """How long UDP flows are remembered: 5,000 new ones a second fill the table in 50 s."""
        if not self.path(machine, "/proc/sys/net/netfilter").is_dir():
            self.nft(machine, "table ip6 lab_ct { chain c { ct state new; }; }")  # loads it
            self.nft(machine, "delete table ip6 lab_ct")
        for key in ("udp_timeout", "udp_timeout_stream"):
            self.sysctl(machine, f"net.netfilter.nf_conntrack_{key}", seconds)

    def wait(self, predicate: Callable[[], object], timeout: float, what: str) -> None:
        """Poll until the predicate holds; LabError naming ``what`` when it does not in time."""
        wait_for(predicate, timeout, what)

    # ---- the ISP ---------------------------------------------------------------------------

    def link_to(self, machine: str) -> topology.Link:
        """The link between the router and a machine."""
        return next(link for link in self.links if link.peer == machine)

    def isp_route(self, prefix: str, isp: str = "isp") -> None:
        """Route one more prefix to the router (those of topology.POOLS are)."""
        link = self.link_to(isp)
        via = ["via", link.gateway, "dev", link.there]
        self.run(isp, ["ip", "-6", "route", "replace", prefix, *via])

    def start_kea(
        self, pool: Pool | None = None, isp: str = "isp", extra: Mapping[str, object] | None = None
    ) -> Kea:
        """Start the DHCPv6 server of an ISP; ready when this returns."""
        directory = Path(tempfile.mkdtemp(dir=self.directory, prefix="kea-"))
        kea_pool, config = pool or Pool(), directory / "kea-dhcp6.conf"
        link = str(self.link_to(isp).network)
        config.write_text(servers.kea_config(kea_pool, link, directory, extra), encoding="utf-8")
        command, env = servers.kea_command(config), servers.kea_environment(directory)
        process = self.start(isp, command, env=env, name="kea-dhcp6")
        process.wait_output("DHCP6_STARTED")
        self._keas[isp] = Kea(process, config, kea_pool, extra or {})
        return self._keas[isp]

    def kea(self, isp: str = "isp") -> Kea:
        """The DHCPv6 server of an ISP."""
        return self._keas[isp]

    def renumber(self, prefix: str, isp: str = "isp") -> None:
        """From now on the ISP delegates from another pool: at renewal the old one ends at once.

        The client hears of it when it renews; ``dhcpcd_renew`` makes it do so now.
        """
        kea = self._keas[isp]
        pool = replace(kea.pool, prefix=prefix)
        link, before = str(self.link_to(isp).network), kea.configured()
        text = servers.kea_config(pool, link, kea.config.parent, kea.extra)
        kea.config.write_text(text, encoding="utf-8")
        kea.process.signal(signal.SIGHUP)
        wait_for(lambda: kea.configured() > before, 10, "the DHCPv6 server to take the new pool")
        self._keas[isp] = replace(kea, pool=pool)

    def advertise(self, *prefixes: str, lifetime: int = 1800, isp: str = "isp") -> None:
        """Send a router advertisement with these prefixes, each "PREFIX,PREFERRED,VALID"."""
        script = str(SCRIPTS / "advertise.py")
        there = self.link_to(isp).there
        self.run(isp, [PYTHON, "-I", "-S", script, there, str(lifetime), *prefixes])

    # ---- the router's DHCP client ----------------------------------------------------------

    def start_dhcpcd(
        self, config: str | None = None, interface: str = "eth0", args: Sequence[str] = ()
    ) -> Process:
        """Start dhcpcd in the foreground on the router; it is not bound yet when this returns."""
        text = servers.DHCPCD_CONF.format(interface=interface) if config is None else config
        self.write("router", "/etc/dhcpcd.conf", text)
        return self.start("router", [servers.DHCPCD, "-B", "-d", *args, interface])

    def dhcpcd_renew(self, interface: str = "eth0") -> None:
        """Have dhcpcd renew its lease now."""
        self.run("router", [servers.DHCPCD, "-6", "-N", interface])

    def record_hook(self, name: str = "00-record") -> None:
        """Install a hook that keeps the environment of each call, for ``hook_calls``."""
        self.write("router", f"{servers.HOOK_DIRECTORY}/{name}", servers.RECORD_HOOK)

    def raw_hook_calls(self) -> list[bytes]:
        """The raw environment block of each call of the recording hook so far."""
        directory = self.path("router", servers.CALLS)
        return [file.read_bytes() for file in sorted(directory.glob("[0-9]*"))]

    def hook_calls(self, reason: str | None = None) -> list[dict[str, str]]:
        """The environment of each recorded call, or of those with one reason."""
        calls = [servers.parse_environment(raw) for raw in self.raw_hook_calls()]
        return [call for call in calls if reason in (None, call.get("reason"))]

    def wait_hook(self, *reasons: str, since: int = 0, timeout: float = 15.0) -> dict[str, str]:
        """Wait for a recorded call with one of the reasons, from call number ``since`` on."""

        def found() -> list[dict[str, str]]:
            return [call for call in self.hook_calls()[since:] if call.get("reason") in reasons]

        self.wait(found, timeout, f"dhcpcd to say {' or '.join(reasons)}")
        return found()[0]

    # ---- traffic ---------------------------------------------------------------------------

    def start_flows(
        self,
        host: str = "a",
        rate: float = 5000,
        seconds: float | None = None,
        source: str | None = None,
        target: str = SERVER,
    ) -> NewFlows:
        """Send UDP packets, each of them a new flow, from a host to the server."""
        if source is None:
            link = self.link_to(host)
            source = link.address(link.peer_host)
        argv = [source, target, str(rate)]
        if seconds is not None:
            argv.append(str(seconds))
        return NewFlows(self._script(host, "flows.py", "new", *argv))

    def start_echo(self, isp: str = "isp", address: str = SERVER) -> Process:
        """Start the server that answers running flows; ready when this returns."""
        process = self._script(isp, "flows.py", "echo", address)
        process.wait_output("ready")
        return process

    def start_running_flow(
        self, host: str = "a", interval_ms: float = 10, target: str = SERVER
    ) -> RunningFlow:
        """Send one flow from a host to the echo server, a numbered packet each interval."""
        return RunningFlow(self._script(host, "flows.py", "running", target, str(interval_ms)))

    def sniff(self, prefix: str, machine: str = "isp", interface: str = "wan") -> Sniffer:
        """Wait in the background for the first packet from a prefix; listens already."""
        process = self._script(machine, "sniff.py", interface, str(IPv6Network(prefix)))
        process.wait_output("ready")
        return Sniffer(process)

    def _script(self, machine: str, script: str, *args: str) -> Process:
        """Start one of this directory's scripts."""
        argv = [PYTHON, "-I", "-S", str(SCRIPTS / script), *args]
        return self.start(machine, argv, name=script)

    # ---- counting --------------------------------------------------------------------------

    def count_prefix(self, *prefixes: str, isp: str = "isp") -> None:
        """Count flows from these prefixes by themselves, from now on."""
        new = [prefix for prefix in prefixes if prefix not in self._counted[isp]]
        self.nft(isp, count.prefix_rules(new))
        self._counted[isp] += new

    def count(self, isp: str = "isp") -> count.Count:
        """What the ISP has counted since the start or the last reset."""
        done = self.run(isp, ["nft", "-j", "list", "counters", "table", *count.TABLE.split()])
        return count.parse(done.stdout, self._counted[isp])

    def reset_count(self, isp: str = "isp") -> None:
        """Start counting from 0."""
        self.run(isp, ["nft", "reset", "counters", "table", *count.TABLE.split()])
