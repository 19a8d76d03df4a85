#!/usr/bin/python3
"""A prefix change, told on one screen: real dhcpcd, real DHCPv6 server, private namespaces.

Run as root with "make demo". Ends with 0 only if everything that it tells was seen to happen.
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple, Protocol

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.lab import INTERNAL, Lab, LabError  # noqa: E402
from tests.lab.installed import install  # noqa: E402
from tests.lab.servers import HOOK_DIRECTORY  # noqa: E402

OLD, NEW = "2001:db8:4000::/58", "2001:db8:8000::/58"
NEW_POOL = "2001:db8:8000::/44"
HOSTS = {"a": "fd5e:ed00:1234::2", "b": "fd5e:ed00:1234:1::2"}
RATE = 5000
GAP_RATE = 500  # while the firewall is empty
WIDTH = 84
CROSSING = 1
"""Packets of the long flow that may be on the wire at the moment in which it moves."""


# ---- telling -------------------------------------------------------------------------------------


class NotSeen(Exception):
    """Something that the story tells did not happen."""


class Say(Protocol):
    """Adds a line to a step."""

    def __call__(self, line: str, /) -> object:
        """Say it."""


def require(seen: object, what: str) -> None:
    """NotSeen with that text unless it was seen."""
    if not seen:
        raise NotSeen(what)


@contextmanager
def step(number: int, title: str) -> Iterator[Say]:
    """One step of the story: its lines are printed below a tick or a cross when it is over."""
    lines: list[str] = []
    problem = ""
    try:
        yield lines.append
    except (NotSeen, LabError, OSError) as exc:
        problem = str(exc)
    print(f"{'✗' if problem else '✓'} {number}. {title}")
    for line in [*lines, problem] if problem else lines:
        print(f"     {line}", flush=True)
    if problem:
        raise NotSeen(f"step {number} was not seen: {title}")


# ---- looking -------------------------------------------------------------------------------------


class Machine(NamedTuple):
    """What of this machine must be the same afterwards."""

    resolver: str
    network: str
    firewall: str
    services: list[str]
    hooks: list[str]


def machine() -> Machine:
    """This machine, outside the namespaces."""

    def output(*argv: str) -> str:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    def below(directory: str) -> list[str]:
        return sorted(str(path) for path in Path(directory).rglob("*"))

    resolver = Path("/etc/resolv.conf")
    return Machine(
        resolver.read_text(encoding="utf-8") if resolver.exists() else "",
        output("ip", "-o", "link") + output("ip", "route") + output("ip", "-6", "route"),
        output("nft", "-s", "list", "ruleset"),
        below("/etc/systemd/system"),
        below(HOOK_DIRECTORY) + below("/usr/local/lib/pdreactor"),
    )


def external(host: str, prefix: str) -> str:
    """The address of a host of the LANs below a delegated prefix."""
    place = int(IPv6Address(HOSTS[host])) - int(IPv6Network(INTERNAL).network_address)
    return str(IPv6Network(prefix).network_address + place)


def ping(lab: Lab, source: str, address: str) -> str:
    """Ping three times; says how long it took. NotSeen when an answer is missing."""
    done = lab.run(source, ["ping", "-c3", "-i0.1", "-W1", address], check=False)
    average = re.search(r" 3 received.*= [\d.]+/([\d.]+)/", done.stdout, re.DOTALL)
    require(average, f"{source} pinged {address} three times and has not got three answers")
    return f"3 of 3 answered, {average[1]} ms" if average else ""


def in_use(lab: Lab) -> str:
    """What new flows are translated to, by nft's own word."""
    text = lab.run("router", ["nft", "list", "table", "ip6", "pdreactor"], check=False).stdout
    found = re.search(r"map out-[^}]*elements = \{ \S+ : (\S+)", text)
    return found[1] if found else ""


def wait_for(lab: Lab, prefix: str) -> float:
    """Wait until new flows are translated to a prefix; the seconds that took."""
    begin = time.monotonic()
    lab.wait(lambda: in_use(lab) == prefix, 15, f"a translation to {prefix}")
    return time.monotonic() - begin


def status(lab: Lab) -> tuple[int, list[str]]:
    """What ``pdreactor status`` says on the router: exit code and lines."""
    done = lab.run("router", ["/usr/local/sbin/pdreactor", "status"], check=False)
    return done.returncode, (done.stdout + done.stderr).splitlines()


# ---- the story -----------------------------------------------------------------------------------


def build(lab: Lab) -> None:
    """Nothing is translated yet."""
    with step(1, "An ISP, a router and two LANs, each in a network namespace of its own") as say:
        server = re.search(r"Kea DHCPv6 server version \S+", lab.start_kea().process.output())
        install(lab)
        lab.start_echo()
        lab.conntrack_timeout(1)  # or 5,000 new flows a second would fill the table
        client = lab.run("router", ["/usr/sbin/dhcpcd", "--version"]).stdout.split()[:2]
        require(server, "the DHCPv6 server does not say which one it is")
        say(f"ISP:    {server[0] if server else ''}, delegates a /58 to each customer")
        say(f"router: {' '.join(client)}, and pdreactor by \"make install\": dhcpcd calls")
        say(f"        {HOOK_DIRECTORY}/60-pdreactor")
        say(f"LANs:   {INTERNAL}, with the hosts a and b")


def first_lease(lab: Lab) -> None:
    """dhcpcd gets a prefix, and pdreactor translates."""
    with step(2, "dhcpcd asks for a prefix, gets one, and its hook calls pdreactor") as say:
        lab.start_dhcpcd()
        took = wait_for(lab, OLD)
        say(f"{INTERNAL} <-> {OLD} in place {took:.1f} s after the start of dhcpcd")


def out_and_in(lab: Lab) -> None:
    """Both directions."""
    with step(3, "Packets leave with the delegated prefix, and come in by it") as say:
        flow = lab.start_running_flow("a", interval_ms=20)
        time.sleep(0.3)
        sources = list(flow.stop().sources)
        require(sources == [external("a", OLD)], f"the server saw host a as {sources}")
        say(f"out: host a is {HOSTS['a']}; a server on the Internet sees {sources[0]}")
        address = external("b", OLD)
        say(f"in:  the ISP pings host b as {address}: {ping(lab, 'isp', address)}")


def renumber(lab: Lab) -> None:
    """The ISP changes the prefix under load."""
    with step(4, f"The ISP changes the prefix under {RATE:,} new flows/s and one long flow") as say:
        lab.count_prefix(OLD, NEW)
        lab.reset_count()
        running, flows = lab.start_running_flow(), lab.start_flows(rate=RATE)
        time.sleep(1)
        lab.renumber(NEW_POOL)
        lab.dhcpcd_renew()
        wait_for(lab, NEW)
        time.sleep(1)
        sent = flows.stop().sent
        time.sleep(0.1)
        count, report = lab.count(), running.stop()
        old, new = count.by_prefix[OLD], count.by_prefix[NEW]
        say(f"new flows: {sent:,} sent; {old:,} came from {OLD}, {new:,} from {NEW}")
        say(f"           leaked with the internal source: {count.leaked}, "
            f"lost: {sent - count.arrived}")
        say(f"long flow: {' became '.join(report.sources)}, "
            f"{len(report.lost)} of {report.sent} lost")
        require(old and new, "not both prefixes were used")
        require(count.leaked == 0 and old + new == sent, "a packet leaked or was lost")
        moved = [external("a", OLD), external("a", NEW)]
        require(list(report.sources) == moved, "the long flow has not moved to the new prefix")
        require(len(report.lost) <= CROSSING, "the long flow lost packets")


def hairpin(lab: Lab) -> None:
    """Inside to inside by external addresses."""
    with step(5, "Hairpin: hosts of the LANs reach each other by their Internet addresses") as say:
        address = external("b", NEW)
        say(f"host a pings host b as {address}: {ping(lab, 'a', address)}")
        say(f"the router pings it, too: {ping(lab, 'router', address)}")


def lost_rules(lab: Lab) -> None:
    """Somebody reloads the firewall."""
    with step(6, 'Somebody runs "nft flush ruleset": the rules are gone, the guard too') as say:
        leaked = leak(lab)
        require(leaked, "no packet leaked without rules: something else held them back")
        code, lines = status(lab)
        require(code == 1, f"pdreactor status ended with {code}: {lines}")
        say(f"without rules, {leaked:,} packets left with the internal source; "
            f'status: "{lines[-1]}"')
        flow = lab.start_running_flow("a")
        time.sleep(0.3)
        begin = time.monotonic()
        lab.run("router", ["/usr/local/sbin/pdreactor", "restore"])
        took = time.monotonic() - begin
        lab.reset_count()
        flows = lab.start_flows(rate=RATE, seconds=1)
        sent = flows.wait().sent
        time.sleep(0.1)
        count, report = lab.count(), flow.stop()
        say(f"pdreactor restore: {took * 1000:.0f} ms; then {sent:,} new flows: "
            f"leaked {count.leaked}, lost {sent - count.by_prefix[NEW]}")
        healed = report.sources.get(external("a", NEW), 0)
        say(f"a flow that began without rules: its first {report.sent - healed} packets were not "
            f"answered, the next {healed} were")
        require(count.leaked == 0 and count.by_prefix[NEW] == sent, "a packet leaked or was lost")
        require(healed, "the flow that began without rules stays broken")


def leak(lab: Lab) -> int:
    """Flush the firewall under traffic; how many packets left untranslated."""
    lab.reset_count()
    flows = lab.start_flows(rate=GAP_RATE)
    time.sleep(0.2)
    lab.run("router", ["nft", "flush", "ruleset"])
    time.sleep(0.3)
    flows.stop()
    return lab.count().leaked


def ending(lab: Lab) -> None:
    """What the command says at the end."""
    with step(7, "pdreactor status") as say:
        code, lines = status(lab)
        for line in lines:
            for part in wrap(line, WIDTH, subsequent_indent="       "):
                say(part)
        require(code == 0, f"it ended with {code}")


def untouched(before: Machine) -> None:
    """The machine is as it was."""
    with step(8, "This machine's resolv.conf, network, firewall, services: as before") as _:
        for name, was, now in zip(Machine._fields, before, machine(), strict=True):
            require(was == now, f"changed: {name}\n{was}\n{now}")


def tell() -> None:
    """The whole story. NotSeen or LabError where it ends too early."""
    before = machine()
    with Lab() as lab:
        for chapter in (build, first_lease, out_and_in, renumber, hairpin, lost_rules, ending):
            chapter(lab)
    untouched(before)


def main() -> int:
    """Tell it; 0 if all was seen."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    begin = time.monotonic()
    try:
        tell()
    except (NotSeen, LabError) as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    print(f"All of it was seen, in {time.monotonic() - begin:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
