"""What is measured: a test network for each subject, its hook, and traffic through it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv6Address, IPv6Network
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from tests.lab import INTERNAL, POOLS, SERVER, Lab, LabError, Process
from tests.lab.installed import CONFIG, install
from tests.lab.lab import PYTHON
from tests.unit.recorded import block

HERE = Path(__file__).parent
RENEWAL = "9.4.1/10-RENEW6-new-prefix-and-old-at-zero"
ADVERTISEMENT = "9.4.1/47-ROUTERADVERT-router-prefix-dns"
PEER = "/run/peer"
CHAINS = ("PREROUTING external_dnat", "POSTROUTING external_snat")
"""Where the peer's two chains are called from, as it expects."""
DENSE = 0.00005  # with the kernel's timer slack about 150 us from packet to packet
FOREVER = 3600.0


class Run(NamedTuple):
    """One run of a command."""

    begin: float  # monotonic
    end: float
    rss: int  # KiB
    code: int
    output: str

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


class Command(NamedTuple):
    """What the agent runs."""

    argv: list[str]
    env: dict[str, str]


def variables(recording: str) -> dict[str, str]:
    """The recorded environment of a call of dhcpcd's script, on the router's uplink."""
    lines = block(recording).decode().rstrip("\0").split("\0")
    found = dict(line.split("=", 1) for line in lines)
    return {**found, "interface": "eth0", "interface_order": "eth0 lan0 lan1"}


def renewal(new: IPv6Network, old: IPv6Network) -> dict[str, str]:
    """A renewal that brings a new prefix, and takes the old one back at once."""
    head = "new_dhcp6_ia_pd1_prefix"
    told = {
        f"{head}1": str(new.network_address), f"{head}1_length": str(new.prefixlen),
        f"{head}1_pltime": "3600", f"{head}1_vltime": "7200",
        f"{head}2": str(old.network_address), f"{head}2_length": str(old.prefixlen),
        "old_dhcp6_ia_pd1_prefix1": str(old.network_address),
        "old_dhcp6_ia_pd1_prefix1_length": str(old.prefixlen),
    }  # fmt: skip
    return {**variables(RENEWAL), **told}


class Subject:
    """A router with one of the hooks to be compared."""

    def __init__(self, name: str, lab: Lab, argv: Sequence[str], length: int = 58) -> None:
        """``length`` is that of the prefixes it gets."""
        self.name, self.lab, self.argv = name, lab, list(argv)
        self.env = {"PDRLAB": "/run/peer-state"}
        pools = (subnets(pool, length) for pool in POOLS[:2])
        self._prefixes = cycle(prefix for pair in zip(*pools, strict=True) for prefix in pair)
        self.prefix = next(self._prefixes)
        lab.conntrack_timeout(1)

    def next_change(self) -> Command:
        """The next prefix change: the command that dhcpcd would run."""
        old, self.prefix = self.prefix, next(self._prefixes)
        return Command(self.argv, {**renewal(self.prefix, old), **self.env})

    def change(self) -> Run:
        """Change the prefix and wait for the end of the hook."""
        return self.run([self.next_change()])[0][0]

    def run(self, commands: list[Command], rounds: int = 1, pause: float = 0.0) -> list[list[Run]]:
        """Run commands on the router, taking turns. LabError when one fails."""
        job = {"commands": [c._asdict() for c in commands], "rounds": rounds, "pause": pause}
        argv = [PYTHON, "-I", "-S", str(HERE / "agent.py")]
        done = self.lab.run("router", argv, input=json.dumps(job), timeout=600)
        results = [[Run(**one) for one in turn] for turn in json.loads(done.stdout)]
        for one in (one for turn in results for one in turn):
            if one.code:
                raise LabError(f"{self.name} ended with {one.code}: {one.output}")
        return results

    def flows_tracked(self) -> int:
        """How many entries conntrack has on the router."""
        key = "net.netfilter.nf_conntrack_count"
        return int(self.lab.run("router", ["sysctl", "-n", key]).stdout)

    def send(self, gap: float, seconds: float = FOREVER, count: int = 1 << 31,
             sources: Sequence[str] = ()) -> Process:
        """Start bench/sender.py on host a.

        With a gap it runs before everything else (sched(7): SCHED_FIFO). Else a packet waits until
        the scheduler takes the core from the hook, and up to 10 ms of that would be measured as the
        hook's time.
        """
        link = self.lab.link_to("a")
        own = sources or [link.address(link.peer_host)]
        first = ["chrt", "--fifo", "1"] if gap else []
        argv = [*first, PYTHON, "-I", "-S", str(HERE / "sender.py"), SERVER, str(gap),
                str(seconds), str(count), *own]
        process = self.lab.start("a", argv, name="sender.py")
        process.wait_output("ready")
        return process

    def burst(self, flows: int, seconds: float = 20.0) -> dict[str, float]:
        """Send that many new flows from host a with bench/burst.py, and what it says of it."""
        link = self.lab.link_to("a")
        argv = [PYTHON, "-I", "-S", str(HERE / "burst.py"), link.there, link.mac(link.router_host),
                link.address(link.peer_host), SERVER, str(flows), str(seconds)]
        done = self.lab.run("a", argv, timeout=seconds + 10)
        found: dict[str, float] = json.loads(done.stdout)
        return found


def sent(process: Process) -> dict[str, Any]:
    """What an ended sender says it did."""
    found: dict[str, Any] = json.loads(process.output().splitlines()[-1])
    return found


def subnets(pool: str, length: int) -> Iterator[IPv6Network]:
    """The prefixes of a pool; one of the first sixteen can be had at any length."""
    return IPv6Network(pool).subnets(new_prefix=length)


# ---- subjects ------------------------------------------------------------------------------------


@contextmanager
def ours() -> Iterator[Subject]:
    """pdreactor with the smallest configuration, as dhcpcd's script."""
    with Lab() as lab:
        install(lab)
        yield Subject("pdreactor", lab, ["/usr/local/sbin/pdreactor-hook"])


@contextmanager
def peer(script: Path) -> Iterator[Subject]:
    """A script that keeps two chains of ip6tables' nat table."""
    with Lab() as lab:
        lab.write("router", PEER, script.read_text(encoding="utf-8"), 0o755)
        for line in CHAINS:
            hook, chain = line.split()
            lab.run("router", ["ip6tables", "-t", "nat", "-N", chain])
            lab.run("router", ["ip6tables", "-t", "nat", "-A", hook, "-j", chain])
        yield Subject("peer", lab, [PEER])


class Variant(NamedTuple):
    """A way to translate: ``[firewall] backend`` and ``mode`` of a translation."""

    backend: str
    mode: str

    @property
    def config(self) -> str:
        """The smallest configuration with it."""
        head = f'[firewall]\nbackend = "{self.backend}"\n\n'
        return f'{head}{CONFIG.format(internal=INTERNAL)}mode = "{self.mode}"\n'


VARIANTS = {
    "stateless": Variant("nftables", "stateless"),
    "iptables rfc6296": Variant("iptables", "rfc6296"),
    "iptables-legacy rfc6296": Variant("iptables-legacy", "rfc6296"),
    "netmap": Variant("nftables", "netmap"),
    "iptables": Variant("iptables", "netmap"),
    "iptables-legacy": Variant("iptables-legacy", "netmap"),
}


@contextmanager
def variant(name: str) -> Iterator[Subject]:
    """pdreactor, translating that way. LabError where this machine cannot."""
    with Lab() as lab:
        install(lab, VARIANTS[name].config)
        subject = Subject(name, lab, ["/usr/local/sbin/pdreactor-hook"])
        subject.change()
        yield subject


@contextmanager
def plain() -> Iterator[Subject]:
    """A router that translates nothing and tracks nothing: the ISP knows the LAN's addresses."""
    with Lab() as lab:
        lab.isp_route(INTERNAL)
        yield Subject("plain", lab, ["/bin/false"])


UPLINKS = f"""
[uplink.one]
interface = "eth0"
table = 201

[uplink.two]
interface = "eth1"
table = 202

[[translation]]
uplinks = ["one", "two"]
internal = "{INTERNAL}"
"""
SECOND = next(subnets(POOLS[2], 58))
PROGRAM = "/usr/local/sbin/pdreactor"


@contextmanager
def two_uplinks() -> Iterator[Subject]:
    """pdreactor with a table for each of two uplinks, and the prefix SECOND on the second."""
    with Lab(uplinks=2) as lab:
        install(lab, UPLINKS)
        subject = Subject("two uplinks", lab, ["/usr/local/sbin/pdreactor-hook"])
        subject.run([Command([PROGRAM, "set", "two", str(SECOND)], {})])
        subject.change()
        yield subject


INSIDE = IPv6Network("fd5e:ed00::/48")


@contextmanager
def with_translations(number: int) -> Iterator[Subject]:
    """pdreactor with that many translations of /64 networks (or one of all of them)."""
    with Lab(internal=str(INSIDE)) as lab:
        install(lab, many(number))
        yield Subject(f"{number:,}", lab, ["/usr/local/sbin/pdreactor-hook"], length=48)


def many(number: int) -> str:
    """A configuration with that many translations."""
    networks = [INSIDE] if number == 1 else list(INSIDE.subnets(new_prefix=64))[:number]
    text = '[uplink.wan]\ninterface = "eth0"\n'
    for subnet, network in enumerate(networks):
        text += f'\n[[translation]]\nuplink = "wan"\ninternal = "{network}"\nsubnet = {subnet}\n'
    return text


def sources(number: int, count: int = 256) -> list[str]:
    """Hosts spread evenly over that many translations."""
    start = int(INSIDE.network_address)
    return [str(IPv6Address(start + (k * number // count << 64) + k + 2)) for k in range(count)]


ROUTED = "2001:db8:ffff:0:8000::/65"
"""A half of what is on the link to the ISP is behind the router."""
PROXY = '''
[uplink.wan]
interface = "eth0"
source = "onlink"

[[proxy]]
uplink = "wan"
'''


@contextmanager
def proxying() -> Iterator[tuple[Lab, Process]]:
    """A router whose watch answers neighbour solicitations, and the watch."""
    with Lab() as lab:
        install(lab, PROXY)
        gateway, host = (str(IPv6Network(ROUTED)[n]) for n in (1, 2))
        for machine, address, interface in (("router", gateway, "lan0"), ("a", host, "eth0")):
            lab.run(machine, ["ip", "-6", "addr", "add", f"{address}/65", "dev", interface,
                              "nodad"])
        watch = lab.start("router", [PROGRAM, "-q", "watch"])
        ping = ["ping", "-n", "-c1", "-W1", host]
        lab.wait(lambda: lab.run("isp", ping, check=False).returncode == 0, 15, "the first answer")
        yield lab, watch


@contextmanager
def with_addresses(number: int) -> Iterator[Subject]:
    """pdreactor with that many addresses from the prefix on two interfaces, and as many proxy
    entries on the uplink."""
    with Lab() as lab:
        install(lab, placed(number))
        subject = Subject(f"{number:,} addresses", lab, ["/usr/local/sbin/pdreactor-hook"])
        subject.change()
        yield subject


def placed(number: int) -> str:
    """The configuration for it."""
    hosts = [f'"::{n:x}"' for n in range(1, number + 1)]
    text = '[uplink.wan]\ninterface = "eth0"\n'
    for n, host in enumerate(hosts):
        text += (f'\n[[assign]]\nuplink = "wan"\ninterface = "lan{n % 2}"\nsubnet = {n % 2}\n'
                 f"host = {host}\n")
    return f'{text}\n[[proxy]]\nuplink = "wan"\nsubnet = 2\nhosts = [{", ".join(hosts)}]\n'
