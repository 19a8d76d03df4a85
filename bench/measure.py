"""The measurements. Each takes subjects and returns samples; what they mean is in table.py."""

import json
import signal
import time
from ipaddress import IPv6Address
from statistics import median
from typing import NamedTuple

from tests.lab import Lab, LabError, Process
from tests.lab.lab import PYTHON

from .rig import (
    ADVERTISEMENT,
    DENSE,
    HERE,
    PEER,
    PROGRAM,
    ROUTED,
    SECOND,
    Command,
    Run,
    Subject,
    sent,
    variables,
)
from .watcher import peak, spent

HOOK_FILE = "/usr/lib/dhcpcd/dhcpcd-hooks/60-pdreactor"


class Loss(NamedTuple):
    """What became of the new flows during prefix changes."""

    changes: int
    sent: int
    leaked: int
    lost: int


class Cleaning(NamedTuple):
    """What cleaning did to conntrack."""

    entries: int
    left: int
    seconds: float  # from the first packet with the new prefix to the end of the hook


class Uplinks(NamedTuple):
    """Whole processes with two uplinks, and the way to the second."""

    change: list[Run]
    same: list[Run]
    away: list[Run]
    moved: list[float]  # seconds from the start of ``away`` to the first packet by the second


def uplinks(subject: Subject, rounds: int) -> Uplinks:
    """Changes of the prefix, passes that find all as desired, and fail-overs under traffic."""
    found = Uplinks([], [], [], [])
    again, down, up = (Command([PROGRAM, *arguments], {}) for arguments in (
        ["restore"], ["uplink", "one", "down"], ["uplink", "one", "up"]))
    for _ in range(rounds):
        found.change.append(subject.change())
        found.same.append(subject.run([again])[0][0])
        sniffer = subject.lab.sniff(str(SECOND), "isp2")
        traffic = subject.send(DENSE)
        time.sleep(0.1)
        away = subject.run([down])[0][0]
        found.moved.append(sniffer.wait() - away.begin)
        found.away.append(away)
        traffic.stop()
        subject.run([up])
    return found


class Placed(NamedTuple):
    """Whole processes with many addresses and proxy entries."""

    number: int  # of each
    change: list[Run]
    same: list[Run]


def placed(subject: Subject, number: int, rounds: int) -> Placed:
    """Changes of the prefix, and passes that find all as desired. LabError when an address is not
    what it should be."""
    found = Placed(number, [], [])
    again = Command([PROGRAM, "restore"], {})
    for _ in range(rounds):
        found.change.append(subject.change())
        found.same.append(subject.run([again])[0][0])
        counts = [_within(subject, *argv) for argv in (
            ("addr", "show", "scope", "global"), ("neigh", "show", "proxy"))]
        if counts != [number, number]:
            raise LabError(f"{number:,} addresses and proxy entries were wanted, not {counts}")
    return found


def _within(subject: Subject, *argv: str) -> int:
    """How many addresses of the current prefix ip(8) shows."""
    words = subject.lab.run("router", ["ip", "-6", *argv]).stdout.split()
    found = (word.partition("/")[0] for word in words if word.startswith("2001:db8:"))
    return sum(IPv6Address(one) in subject.prefix for one in found)


class Watched(NamedTuple):
    """What the watch does, and takes."""

    repairs: list[float]  # seconds from a flush of the ruleset to the rules
    changes: list[float]  # seconds from dhcpcd's word by its socket to the rules
    idle: float  # share of a core while nothing happens
    rss: int  # KiB, at most


def watched(subject: Subject, flushes: int, changes: int, seconds: float) -> Watched:
    """The watch: bench/watcher.py says how."""
    job = {"argv": [PROGRAM, "-q", "watch"], "flushes": flushes, "idle": seconds,
           "prefix": str(subject.prefix.network_address), "changes": []}
    for _ in range(changes):
        env = subject.next_change().env
        job["changes"].append({"env": env, "sign": str(subject.prefix.network_address)})
    argv = [PYTHON, str(HERE / "watcher.py")]
    done = subject.lab.run("router", argv, input=json.dumps(job), timeout=600)
    return Watched(**json.loads(done.stdout))


class Asked(NamedTuple):
    """What became of neighbour solicitations for random addresses."""

    asked: int
    seconds: float
    missing: int  # answers for what is routed
    wrong: int  # answers with another field than RFC 4861 wants
    unwanted: int  # answers for what is not routed
    share: float  # of a core, of the watch
    rss: int  # KiB, of the watch, at most


def solicitations(lab: Lab, watch: Process, rate: int, seconds: float) -> Asked:
    """Ask that many a second; bench/solicitor.py says how. In between the watch makes a pass."""
    link = lab.link_to("isp")
    argv = [PYTHON, "-I", "-S", str(HERE / "solicitor.py"), link.there, link.mac(link.router_host),
            str(link.network), ROUTED, str(rate), str(seconds)]
    process = lab.start("isp", argv)
    process.wait_output("ready", 60)
    before = spent(watch.pid)
    time.sleep(seconds / 2)
    watch.signal(signal.SIGHUP)
    process.wait(seconds + 30)
    found = json.loads(process.output().splitlines()[-1])
    share = (spent(watch.pid) - before) / found["seconds"]
    return Asked(**found, share=share, rss=peak(watch.pid))


def first_packet(subject: Subject) -> tuple[float, float]:
    """Seconds from starting the hook to the first packet with the new prefix at the ISP, and to
    the end of the hook, under traffic."""
    command = subject.next_change()
    sniffer = subject.lab.sniff(str(subject.prefix))
    traffic = subject.send(DENSE)
    time.sleep(0.1)
    done = subject.run([command])[0][0]
    arrived = sniffer.wait()
    traffic.stop()
    return arrived - done.begin, arrived - done.begin + (done.end - arrived)


def loss(subject: Subject, changes: int, rate: int) -> Loss:
    """Leaked and lost packets of that many changes under new flows."""
    subject.change()
    commands = [subject.next_change() for _ in range(changes)]
    subject.lab.reset_count()
    flows = subject.lab.start_flows(rate=rate)
    time.sleep(0.2)
    subject.run(commands, pause=0.03)
    time.sleep(0.2)
    number = flows.stop().sent
    time.sleep(0.1)
    count = subject.lab.count()
    return Loss(changes, number, count.leaked_flows, number - count.arrived)


def irrelevant(subject: Subject, rounds: int, with_peer: bool) -> dict[str, list[float]]:
    """Seconds that a router advertisement takes, by the way it is told."""
    env = variables(ADVERTISEMENT)
    shell = ["/bin/sh", "-c"]
    commands = {
        "sh": Command([*shell, ":"], env),
        "hook file": Command([*shell, f". {HOOK_FILE}"], env),
        "pdreactor-hook": Command(subject.argv, env),
    }
    if with_peer:
        commands["peer"] = Command([PEER], {**env, **subject.env})
    done = subject.run(list(commands.values()), rounds)
    return {name: [turn[i].seconds for turn in done] for i, name in enumerate(commands)}


def full_rate(subject: Subject, seconds: float, sources: list[str]) -> float:
    """New flows a second that come through the router when one core sends all it can."""
    subject.lab.run("router", ["conntrack", "-F"])
    subject.lab.reset_count()
    process = subject.send(0, seconds, sources=sources)
    process.wait(seconds + 30)
    return float(subject.lab.count().arrived / sent(process)["seconds"])


def forwarded(subject: Subject, flows: int, translated: bool) -> float:
    """New flows that come through the router for each second that the sending core spent on them,
    sending and forwarding (see burst.py). LabError unless all came, in the way they should."""
    subject.lab.reset_count()
    report = subject.burst(flows)
    count, tracked = subject.lab.count(), subject.flows_tracked()
    if tracked:
        subject.lab.run("router", ["conntrack", "-F"])
        time.sleep(0.1)  # the kernel frees them
    if count.arrived < report["sent"]:
        raise LabError(f"{subject.name}: {count.arrived:,} of {report['sent']:,} new flows came "
                       f"through; is net.netfilter.nf_conntrack_max too small?")
    if count.leaked_flows != (0 if translated else count.arrived):
        raise LabError(f"{subject.name}: {count.leaked_flows:,} of {count.arrived:,} new flows "
                       f"came with an internal source")
    if tracked and not translated:
        raise LabError(f"{subject.name}: conntrack is in use, {tracked:,} flows are tracked")
    return count.arrived / report["cpu"]


def cleaning(subject: Subject, entries: int) -> Cleaning:
    """A change with that many flows in conntrack."""
    subject.lab.conntrack_timeout(600)
    subject.send(0, count=entries).wait(60)
    tracked = subject.flows_tracked()
    sniffer_at, end_at = first_packet(subject)
    left = subject.flows_tracked()
    subject.lab.run("router", ["conntrack", "-F"])
    return Cleaning(tracked, left, end_at - sniffer_at)


def milliseconds(samples: list[float]) -> float:
    """The median, in ms."""
    return median(samples) * 1000
