"""pdreactor on the router of a test network, and what the tests look at."""

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
OLD_A, OLD_B = "2001:db8:4000::2", "2001:db8:4000:1::2"
NEW_A, NEW_B = "2001:db8:8000::2", "2001:db8:8000:1::2"
"""What the hosts are called outside, with the first and the second prefix."""
ISP = "2001:db8:ffff::1"
FAR = "2001:db8:fa4::1"
"""The ISP's end of the link, and an address behind the ISP that nobody has."""
PORT = 4242
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

    def put_into(self, text: str) -> str:
        """The configuration for this variant."""
        if self == Variant():
            return text
        text = text.replace("[[translation]]", f'[[translation]]\nmode = "{self.mode}"')
        head = f'[firewall]\nbackend = "{self.backend}"\n'
        return text.replace("[firewall]\n", head) if "[firewall]\n" in text else text + "\n" + head


NFTABLES = Variant()
NETMAP = [NFTABLES, Variant("iptables"), Variant("iptables-legacy")]
STATELESS = Variant("nftables", "stateless")
RFC6296 = [Variant("iptables", "rfc6296"), Variant("iptables-legacy", "rfc6296")]
ALL = [*NETMAP, STATELESS, *RFC6296]


def on(variants: Iterable[Variant]) -> pytest.MarkDecorator:
    """Run a test that has a ``router`` with each of these."""
    return pytest.mark.parametrize("variant", variants, ids=str)


class Router:
    """The router of a test network with pdreactor on it."""

    def __init__(self, lab: Lab, text: str | None = None, variant: Variant = NFTABLES) -> None:
        self.lab, self.variant = lab, variant
        self.configure(config() if text is None else text)

    # ---- pdreactor -------------------------------------------------------------------------

    def configure(self, text: str) -> None:
        """Write /etc/pdreactor.toml, for the variant under test."""
        self.lab.write("router", CONFIG, self.variant.put_into(text))

    def pd(self, *arguments: str, code: int | None = 0) -> "CompletedProcess[str]":
        """Run a verb. Its exit code must be ``code``; None takes any."""
        argv = [*python("pdreactor.cli"), *arguments]
        done = self.lab.run("router", argv, check=False, timeout=60, env=ENVIRONMENT)
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
        done = self.lab.run("router", argv, check=False, timeout=60, env=env)
        assert code is None or done.returncode == code, done.stderr
        return done

    def start(self, *arguments: str) -> Process:
        """Run a verb in the background."""
        argv = [*python("pdreactor.cli"), *arguments]
        return self.lab.start("router", argv, env=ENVIRONMENT)

    def status(self) -> dict[str, Any]:
        """The document of ``status --json``."""
        document: dict[str, Any] = json.loads(self.pd("status", "--json", code=None).stdout)
        return document

    def outside(self, host: str, prefix: str = OLD) -> str:
        """What a LAN host is called outside."""
        inside, external = IPv6Network(INTERNAL), IPv6Network(prefix)
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
        return self.lab.run("router", argv, check=check, timeout=timeout).stdout

    def ruleset(self) -> str:
        """Everything in nftables but our table, as nft prints it."""
        text = self.run("nft", "list", "ruleset")
        return re.sub(r"^table ip6 pdreactor \{\n.*?^\}\n", "", text, flags=re.M | re.S)

    def ours(self) -> str:
        """Our table, or nothing."""
        return self.run("nft", "list", "table", "ip6", "pdreactor", check=False)

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
        """Nothing is written to nftables, routes, rules or the state file in this block."""
        rules, routes = Monitor(self.lab, NFT), Monitor(self.lab, IP)
        before = self._stat()
        yield
        assert rules.said() + routes.said() == ""
        assert self._stat() == before, "the state file was written"

    def _stat(self) -> tuple[int, int, int]:
        """What changes with every write of the state file."""
        stat = os.stat(self.lab.path("router", STATE))
        return stat.st_mtime_ns, stat.st_ino, stat.st_size


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


class Echo:
    """An echo server for TCP and UDP on a host."""

    def __init__(self, lab: Lab, host: str, address: str = "::") -> None:
        self.process = lab.start(host, [PYTHON, "-IS", TALK, "serve", address, str(PORT)])
        self.process.wait_output("ready")

    def peers(self, protocol: str = "") -> list[tuple[str, int]]:
        """Address and port of each peer that it saw, in order, each once."""
        seen = [line.split() for line in self.process.output().splitlines()[1:]]
        return list(dict.fromkeys((a, int(p)) for kind, a, p in seen if protocol in ("", kind)))

    def sources(self) -> set[str]:
        """The addresses of its peers."""
        return {address for address, _ in self.peers()}


def ask(lab: Lab, host: str, protocol: str, target: str, size: int = 100, source: int = 0) -> str:
    """Exchange that many bytes with an ``Echo``: "same", or what failed."""
    argv = [PYTHON, "-IS", TALK, "ask", protocol, target, str(PORT), str(size), str(source)]
    return lab.run(host, argv, timeout=40).stdout.strip()


def hold(lab: Lab, host: str, target: str) -> Process:
    """A TCP connection to an ``Echo`` that goes on talking; open when this returns."""
    process = lab.start(host, [PYTHON, "-IS", TALK, "hold", target, str(PORT)])
    process.wait_output("open")
    return process


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
