"""pdreactor on the router of a test network, and what the tests look at."""

import fcntl
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple

import pytest

from pdreactor import npt
from pdreactor.prefix import rebase
from tests.lab import INTERNAL, Lab, Process

from .monitor import IP, NFT, Monitor

NEEDS_ROOT = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root: namespaces need it"),
]
"""The ``pytestmark`` of modules that make a network."""

ROOT = Path(__file__).parents[2]
CONFIG = "/etc/pdreactor.toml"
STATE = "/var/lib/pdreactor/state.json"
PYTHON = "/usr/bin/python3"
TALK = str(Path(__file__).with_name("talk.py"))

A, B = "fd5e:ed00:1234::2", "fd5e:ed00:1234:1::2"
"""The two LAN hosts."""
OLD, NEW, THIRD = "2001:db8:4000::/58", "2001:db8:8000::/58", "2001:db8:c000::/58"
ISP = "2001:db8:ffff::1"
FAR = "2001:db8:fa4::1"
"""The ISP's end of the link, and an address behind the ISP that nobody has."""
PORT = 4242
REJECTED = "fd5e:ed00:1234::1: Destination unreachable: Unknown code 5"
"""What a ping from host a says when there is no usable prefix."""
MEGABYTE = 1_000_000
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT)}

BASE = """
[uplink.wan]
interface = "eth0"
{uplink}
"""
TRANSLATION = """
[[translation]]
uplink = "wan"
internal = "{internal}"
{keys}
"""


def config(keys: str = "", *, uplink: str = "", rest: str = "", internal: str = INTERNAL) -> str:
    """A configuration with one uplink and one translation."""
    base = BASE.format(uplink=uplink)
    return base + TRANSLATION.format(internal=internal, keys=keys) + rest


def python(module: str) -> list[str]:
    """How to run a module of the checkout: by the interpreter that runs the tests."""
    return [sys.executable, "-m", module]


class Variant(NamedTuple):
    """A backend and a mode. The tests' configurations say neither: it is put into them."""

    backend: str = "nftables"
    mode: str = "netmap"

    def __str__(self) -> str:
        return self.backend if self.mode == "netmap" else f"{self.backend}-{self.mode}"

    @property
    def tracked(self) -> bool:
        """True when conntrack knows the flows."""
        return self.mode == "netmap"

    @property
    def ip6tables(self) -> str:
        """The program for our chains; empty where there are none."""
        return {"iptables": "ip6tables-nft", "iptables-legacy": "ip6tables-legacy"}.get(
            self.backend, "")

    def put_into(self, text: str) -> str:
        """The configuration for this variant."""
        if self == Variant():
            return text
        text = text.replace("[[translation]]", f'[[translation]]\nmode = "{self.mode}"')
        head = f'[firewall]\nbackend = "{self.backend}"\n'
        return text.replace("[firewall]\n", head) if "[firewall]\n" in text else text + "\n" + head


NFTABLES = Variant()
IPTABLES = [Variant("iptables"), Variant("iptables-legacy")]
NETMAP = [NFTABLES, *IPTABLES]
STATELESS = Variant("nftables", "stateless")
RFC6296 = [Variant("iptables", "rfc6296"), Variant("iptables-legacy", "rfc6296")]
ALL = [*NETMAP, STATELESS, *RFC6296]
EACH = [NFTABLES, IPTABLES[0], STATELESS, RFC6296[0]]
"""Each mode with each kind of firewall: the legacy variant differs in how it is written only."""
MODES = [NFTABLES, STATELESS, RFC6296[0]]
UNTRACKED = MODES[1:]


def on(variants: Iterable[Variant], scope: Any = None) -> pytest.MarkDecorator:
    """Run a test that has a ``router`` with each of these."""
    marks = {variant: [] if variant == NFTABLES else [pytest.mark.variants] for variant in variants}
    parameters = [pytest.param(one, id=str(one), marks=mark) for one, mark in marks.items()]
    return pytest.mark.parametrize("variant", parameters, scope=scope)


class Router:
    """The router of a test network with pdreactor on it."""

    def __init__(self, lab: Lab, text: str | None = None, variant: Variant = NFTABLES,
                 machine: str = "router") -> None:
        self.lab, self.variant, self.machine = lab, variant, machine
        self.configure(config() if text is None else text)

    # ---- pdreactor -------------------------------------------------------------------------

    def configure(self, text: str) -> None:
        """Write /etc/pdreactor.toml, for the variant under test."""
        self.lab.write(self.machine, CONFIG, self.variant.put_into(text))

    def pd(self, *arguments: str, code: int | None = 0) -> "CompletedProcess[str]":
        """Run a verb. Its exit code must be ``code``; None takes any."""
        argv = [*python("pdreactor.cli"), *arguments]
        done = self.lab.run(self.machine, argv, check=False, timeout=60, env=ENVIRONMENT)
        said = f"pdreactor {' '.join(arguments)} ended with {done.returncode}: {done.stderr}"
        assert code is None or done.returncode == code, said
        assert "Traceback" not in done.stderr, said
        return done

    def set(self, prefix: str, valid: int = 1000, uplink: str = "wan") -> None:
        """A prefix arrives."""
        self.pd("set", uplink, prefix, "--valid", str(valid))

    def hook(
        self, reason: str, variables: Mapping[str, str] | None = None, code: int | None = 0
    ) -> "CompletedProcess[str]":
        """dhcpcd calls ``pdreactor-hook`` with this environment and nothing else."""
        argv = python("pdreactor.hook")
        env = {**ENVIRONMENT, "interface": "eth0", "reason": reason, **(variables or {})}
        done = self.lab.run(self.machine, argv, check=False, timeout=60, env=env)
        assert code is None or done.returncode == code, done.stderr
        return done

    def start(self, *arguments: str) -> Process:
        """Run a verb in the background."""
        argv = [*python("pdreactor.cli"), *arguments]
        return self.lab.start(self.machine, argv, env=ENVIRONMENT)

    def status(self) -> dict[str, Any]:
        """The document of ``status --json``."""
        document: dict[str, Any] = json.loads(self.pd("status", "--json", code=None).stdout)
        return document

    def outside(
        self, host: str, prefix: str = OLD, internal: str | IPv6Network = INTERNAL
    ) -> str:
        """What a LAN host is called outside."""
        inside, external = IPv6Network(internal), IPv6Network(prefix)
        if self.variant.mode == "rfc6296":
            return str(npt.translate(IPv6Address(host), inside, external))
        return str(rebase(IPv6Address(host), inside, external))

    def prefixes(self, uplink: str = "wan") -> dict[str, str]:
        """Each known prefix and its state."""
        found = next(one for one in self.status()["uplinks"] if one["name"] == uplink)
        return {one["prefix"]: one["state"] for one in found["prefixes"]}

    # ---- the router ------------------------------------------------------------------------

    def run(self, *argv: str, check: bool = True, timeout: float = 10) -> str:
        """Output of a command on the router."""
        return self.lab.run(self.machine, argv, check=check, timeout=timeout).stdout

    def others(
        self, counters: bool = True, chains: str = "pdreactor_[a-z_]+", jumps: bool = True
    ) -> str:
        """Everything of other people in all firewalls. Ours goes by the name of its ``chains``, and
        plain jumps to them are ours with ``jumps``. ip6tables makes tables and built-in chains as a
        whole and they stay: without any rule they do not count."""
        ours = _Ours(chains, jumps)
        options = ["-c"] if counters else []
        listed = self.run("nft", *([] if counters else ["-s"]), "list", "ruleset")
        saved = [line for variant in ("nft", "legacy")
                 for line in ours.not_saved(self.run(f"ip6tables-{variant}-save", *options))]
        return ours.not_listed(listed) + "\n".join(saved)

    def ours(self) -> str:
        """Our nftables table, or nothing."""
        return self.run("nft", "list", "table", "ip6", "pdreactor", check=False)

    def translation(self) -> str:
        """All rules of the program that translates."""
        if not self.variant.ip6tables:
            return self.ours()
        return self.run(f"{self.variant.ip6tables}-save")

    def is_clean(self) -> bool:
        """True when nothing of ours is in any firewall, under our default names."""
        saved = [self.run(f"ip6tables-{variant}-save") for variant in ("nft", "legacy")]
        text = self.run("nft", "list", "ruleset") + "".join(saved)
        ours = r"^table ip6 pdreactor |^\tchain pdreactor_|^:pdreactor_|jump pdreactor_"
        return not re.search(ours, text, re.M)

    def wipe(self) -> None:
        """Somebody takes everything out of all firewalls."""
        flush = "ip6tables-legacy -t $table -F && ip6tables-legacy -t $table -X"
        tables = "for table in $(cat /proc/net/ip6_tables_names); do"
        self.run("sh", "-c", f"nft flush ruleset; {tables} {flush}; done")

    def flows(self, *filters: str) -> dict[str, str]:
        """The conntrack entries by their id."""
        text = self.run("conntrack", "-L", "-f", "ipv6", "-o", "id", *filters)
        lines = (line for line in text.splitlines() if " id=" in line)
        return {line.rpartition(" id=")[2].strip(): line for line in lines}

    def routes(self, *filters: str) -> list[str]:
        """Routes, all tables."""
        return self.run("ip", "-6", "route", "show", "table", "all", *filters).splitlines()

    @contextmanager
    def unwritten(self) -> Iterator[None]:
        """Nothing is written to nftables, ip6tables, routes, rules or the state file in this
        block. What writes to the legacy variant fails, for want of its lock."""
        rules, routes = Monitor(self.lab, NFT), Monitor(self.lab, IP)
        before = self._stat()
        with open(self.lab.path(self.machine, "/run/xtables.lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        assert rules.said() + routes.said() == ""
        assert self._stat() == before, "the state file was written"

    def _stat(self) -> tuple[int, int, int]:
        """What changes with every write of the state file."""
        stat = os.stat(self.lab.path(self.machine, STATE))
        return stat.st_mtime_ns, stat.st_ino, stat.st_size


# ---- firewalls -----------------------------------------------------------------------------


class _Ours(NamedTuple):
    """What is ours in a ruleset as text: chains, by a regular expression, and plain jumps."""

    chains: str
    jumps: bool

    def not_listed(self, text: str) -> str:
        """What nft lists of others, without blank lines."""
        for ours in (
            r"^table ip6 pdreactor \{\n.*?^\}\n",
            rf"^\tchain {self.chains} \{{\n.*?^\t\}}\n",
            *[rf"^\t\tcounter( packets \d+ bytes \d+)? jump {self.chains}\n"] * self.jumps,
            r"^\tchain [A-Z]+ \{\n\t\ttype .*policy accept;\n\t\}\n",
            r"^\n",
            r"^table ip6 \w+ \{\n\}\n",
        ):
            text = re.sub(ours, "", text, flags=re.M | (re.S if ".*?" in ours else 0))
        return text

    def not_saved(self, text: str) -> list[str]:
        """What ip6tables-save says of others, each line with its table. Policies are counted
        whenever a host says anything, so without what they count."""
        jump = rf"|[A-Z]+ -j {self.chains}" if self.jumps else ""
        ours = re.compile(rf"#.*|COMMIT|:[A-Z]+ ACCEPT .*|:{self.chains} .*|"
                          rf"(\[\S+\] )?-A ({self.chains} .*{jump})")
        found, table = [], ""
        for line in text.splitlines():
            table = line if line[:1] == "*" else table
            if line != table and not ours.fullmatch(line):
                policy = re.fullmatch("(:[A-Z]+ [A-Z]+) .*", line)
                found.append(f"{table} {policy[1] if policy else line}")
        return found


# ---- traffic -------------------------------------------------------------------------------


def ping(lab: Lab, host: str, target: str, *options: str) -> str:
    """What one ping says: "answered by ADDRESS", or the error, or "nothing"."""
    done = lab.run(host, ["ping", "-n", "-c1", "-W1", *options, target], check=False)
    if found := re.search(r"bytes from (\S+): ", done.stdout):
        return f"answered by {found[1]}"
    if found := re.search(r"^From (\S+) icmp_seq=1 (.*)$", done.stdout, re.M):
        return f"{found[1]}: {found[2].strip()}"
    return "nothing"


def reaches(lab: Lab, host: str, target: str) -> bool:
    """One ping is answered by who was asked."""
    return ping(lab, host, target) == f"answered by {target}"


def unanswered(lab: Lab, host: str, target: str) -> bool:
    """One ping is not answered by who was asked, in a time that is long in this network."""
    return ping(lab, host, target, "-W0.3") != f"answered by {target}"


class Echo:
    """An echo server for TCP and UDP on a host."""

    def __init__(self, lab: Lab, host: str, address: str = "::") -> None:
        self.process = lab.start(host, [PYTHON, "-IS", TALK, "serve", address, str(PORT)])
        self.process.wait_output("ready")

    def stop(self) -> None:
        """End it: the port is closed."""
        self.process.kill()

    def peers(self, protocol: str = "") -> list[tuple[str, int]]:
        """Address and port of each peer that it saw, in order, each once."""
        seen = [line.split() for line in self.process.output().splitlines()[1:]]
        return list(dict.fromkeys((a, int(p)) for kind, a, p in seen if protocol in ("", kind)))

    def sources(self) -> set[str]:
        """The addresses of its peers."""
        return {address for address, _ in self.peers()}


def ask(
    lab: Lab,
    host: str,
    protocol: str,
    target: str,
    size: int = 100,
    source: int = 0,
    patience: float = 3,
) -> str:
    """Exchange that many bytes with an ``Echo``: "same", or what failed."""
    words = map(str, (target, PORT, size, source, patience))
    argv = [PYTHON, "-IS", TALK, "ask", protocol, *words]
    return lab.run(host, argv, timeout=40).stdout.strip()


def tell(lab: Lab, host: str, target: str, source: int) -> None:
    """Send one datagram from that port and do not wait for an answer."""
    lab.run(host, [PYTHON, "-IS", TALK, "tell", target, str(PORT), str(source)])


def hold(lab: Lab, host: str, target: str, patience: float = 3) -> Process:
    """A TCP connection to an ``Echo`` that goes on talking; open when this returns."""
    words = map(str, (target, PORT, patience))
    process = lab.start(host, [PYTHON, "-IS", TALK, "hold", *words])
    process.wait_output("open")
    return process


def end_processes(lab: Lab) -> None:
    """Of a network that serves more than one test: end what the last one has started."""
    for process in reversed(lab._processes):
        process.kill()


def dhcp(prefix: str, *, old: str = "", preferred: int = 500, valid: int = 1000) -> dict[str, str]:
    """The variables of a lease event with one prefix."""
    variables = {}
    for side, text in (("new", prefix), ("old", old)):
        address, _, length = text.partition("/")
        head = f"{side}_dhcp6_ia_pd1_prefix1"
        one = {f"{side}_dhcp6_ia_pd1_iaid": "00000001", head: address, f"{head}_length": length}
        one |= {f"{head}_pltime": str(preferred), f"{head}_vltime": str(valid)}
        variables |= one if text else {}
    return variables
