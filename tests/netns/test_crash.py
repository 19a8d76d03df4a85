"""Crashes and failing kernels, disks and clocks: afterwards one pass makes all as desired."""

import os
import random
import re
from typing import Any, NamedTuple

import pytest

from tests.lab import SERVER, Lab

from .kill import CHANGING, Look, Point, files, free, known, points, recover, traced
from .pd import (
    CONFIG,
    ENVIRONMENT,
    IPTABLES,
    NEEDS_ROOT,
    NEW,
    OLD,
    STATE,
    THIRD,
    A,
    Router,
    config,
    dhcp,
    on,
    python,
    reaches,
    unanswered,
)
from .test_uplinks import TWO

pytestmark = NEEDS_ROOT

# ---- killed --------------------------------------------------------------------------------------

ALL_POINTS = "PDREACTOR_TEST_ALL_KILLS" in os.environ
"""Kill at every changing system call, and not only at some: takes minutes."""

WITH_IP6TABLES = '\n[firewall]\nbackend = "iptables"\n'


class Story(NamedTuple):
    """A change to be killed: how it begins, what happens, and which flows have to be gone then."""

    begin: list[list[str]]  # verbs, from nothing; without any, nothing stops packets before it
    event: list[str]  # a verb, or "@REASON" with ``lease``
    lease: dict[str, str] = {}  # noqa: RUF012 - frozen
    dead: str = "nothing"
    text: str = config()
    then: str = ""  # the configuration with the event, if it is another one
    uplinks: int = 1
    some: int = 7  # every so many-th change is tried


OF_OLD = "dst=2001:db8:4000:"
STORIES = {
    "the first lease": Story([["restore"]], ["@BOUND6"], dhcp(NEW)),
    "another prefix": Story([["set", "wan", OLD]], ["@RENEW6"], dhcp(NEW), OF_OLD, some=4),
    "a prefix taken back": Story([["set", "wan", OLD]], ["@RENEW6"], dhcp(OLD, valid=0,
                                 preferred=0), OF_OLD),
    "a fail-over": Story([["set", "one", OLD], ["set", "two", NEW]], ["uplink", "one", "down"],
                         dead=OF_OLD, text=TWO, uplinks=2),
    "another backend": Story([["set", "wan", OLD]], ["restore"], then=config() + WITH_IP6TABLES,
                             some=3),
    "the first pass at all": Story([], ["@BOUND6"], dhcp(OLD), f"dst={A} ", some=9),
}


class Play:
    """A story on the router of a network, with hosts that begin new flows all the time."""

    def __init__(self, lab: Lab, story: Story) -> None:
        self.lab, self.story = lab, story
        self.router = Router(lab, story.text)
        lab.write("router", "/etc/before.toml", story.text)
        environ = lab.directory / "environ"
        reason = story.event[0][1:]
        variables = {"interface": "eth0", "reason": reason, **story.lease}
        environ.write_bytes(b"".join(f"{k}={v}\0".encode() for k, v in variables.items()))
        self.verb, self.argv = story.event, [*python("pdreactor.cli"), *story.event]
        if story.lease:
            self.verb = ["@hook", str(environ)]
            self.argv = [*python("pdreactor.hook"), "--environ", str(environ)]
        (self.before,) = recover(self.router, *story.begin, ["@look", story.dead])
        self.back = [["@copy", "/etc/before.toml", CONFIG], ["flush", "--forget"]]
        if story.begin:  # without a gap in the guard
            lab.write("router", "/etc/before.json", lab.read("router", STATE))
            state = ["@copy", "/etc/before.json", STATE]  # but the chains there are now count
            self.back[1:] = [["restore"]] if story.then else [state, ["restore"]]

    def undisturbed(self) -> tuple[Look, list[Point]]:
        """What it ends in, and its system calls."""
        self.change_configuration()
        ran = traced(self.lab, self.argv, CHANGING)
        assert ran.code == 0, ran.said
        return self.looked(["plan"]), points(ran.trace)

    def change_configuration(self) -> None:
        if self.story.then:
            self.router.configure(self.story.then)

    def looked(self, *verbs: list[str]) -> Look:
        """What there is after these verbs; then back to where the story begins."""
        end, begin = recover(self.router, *verbs, ["@look", self.story.dead],
                             *self.back, ["@look", ""])
        assert begin.kernel == self.before.kernel
        return end

    def killed(self, point: Point) -> None:
        ran = traced(self.lab, self.argv, point.name,
                     [f"{point.name}:signal=KILL:when={point.number}"])
        assert ran.code == -9, f"not killed at {point}: {ran.said}"


@pytest.mark.parametrize("name", STORIES)
def test_killed_at_any_change_one_pass_makes_it_whole(name: str) -> None:
    """That of ``restore``, or that of the same event again; and no packet leaves untranslated."""
    story = STORIES[name]
    with Lab(uplinks=story.uplinks) as lab:
        lab.nft("router", "table ip6 track { chain c { type filter hook forward priority 0; "
                          "ct state new; }; }")
        lab.conntrack_timeout(5)
        play = Play(lab, story)
        flows = lab.start_flows(rate=100)
        before, (after, calls) = play.before, play.undisturbed()
        found = [one for one in calls if one.changing]
        unheard = before if story.begin else play.looked(["restore"])
        assert after.codes == [0] and not after.dead
        every = 1 if ALL_POINTS else story.some
        chosen = found[list(STORIES).index(name) % every :: every]
        for number, point in enumerate(chosen):
            play.change_configuration()
            play.killed(point)
            lab.wait(lambda: free(play.router), 5, f"no lock to be left: {point}")
            assert not story.begin or '"untranslated ' in play.router.ours(), point
            left, again = known(play.router), bool(number % 2)
            assert learned(left) in (learned(before.known), learned(after.known)), point
            end = play.looked(play.verb if again else ["restore"], ["plan"])
            lost = learned(left) == learned(before.known) and not again and not story.then
            wanted = unheard if lost else after
            assert end.kernel == wanted.kernel, point
            assert end.known == wanted.known, point
            assert end.codes == [0, 0] and (lost or not end.dead), point
        sent = flows.stop()
        print(f"{name}: killed at {len(chosen)} of {len(found)} changes, {sent.sent} new flows")
        isps = ["isp", "isp2"][: story.uplinks]
        assert sum(lab.count(isp).arrived for isp in isps) > 0
        assert not story.begin or sum(lab.count(isp).leaked for isp in isps) == 0


def learned(document: Any) -> Any:
    """What an event changes in the state."""
    return document and [(name, one["down"], one["prefixes"])
                         for name, one in document["uplinks"].items()]


SLOW = """#!/bin/sh
cat >/run/given
touch /run/started
while [ ! -e /run/go ]; do sleep 0.01; done
exec /usr/sbin/ip6tables-nft-restore "$@" </run/given
"""


@on(IPTABLES[:1])
def test_a_program_that_outlives_a_killed_pass_does_not_undo_the_next_one(
        lab: Lab, router: Router) -> None:
    router.set(OLD)
    lab.write("router", "/etc/slow/ip6tables-nft-restore", SLOW, 0o755)
    for name in ("ip6tables", "ip6tables-nft-save"):
        router.run("ln", "-s", "/usr/sbin/xtables-nft-multi", f"/etc/slow/{name}")
    argv = [*python("pdreactor.cli"), "set", "wan", NEW]
    path = f"/etc/slow:{ENVIRONMENT['PATH']}"
    killed = lab.start("router", argv, env={**ENVIRONMENT, "PATH": path})
    lab.wait(lambda: lab.path("router", "/run/started").exists(), 10, "the pass to begin")
    killed.kill()
    assert not free(router)
    call = router.start("set", "wan", THIRD)
    lab.wait(lambda: THIRD in lab.read("router", STATE), 10, "the next event")
    lab.write("router", "/run/go", "")
    assert call.wait(30) == 0, call.output()
    assert free(router)
    router.pd("plan")


# ---- at the same time ----------------------------------------------------------------------------


def lease(interface: str, prefix: str) -> tuple[list[str], dict[str, str]]:
    """dhcpcd's hook with a reply."""
    variables = {"interface": interface, "reason": "RENEW6", **dhcp(prefix)}
    return python("pdreactor.hook"), variables


def verb(*words: str) -> tuple[list[str], dict[str, str]]:
    return [*python("pdreactor.cli"), *words], {}


SIXTEEN = [
    *(lease("eth0", f"2001:db8:4000:{n:x}00::/58") for n in range(1, 5)),
    *(lease("eth1", f"2001:db8:8000:{n:x}00::/58") for n in range(1, 5)),
    verb("uplink", "one", "down", "--reason", "no answer"), verb("restore"),
    verb("uplink", "two", "down"), verb("uplink", "two", "up"),
    verb("set", "one", "2001:db8:4000:800::/58"), verb("set", "two", "2001:db8:8000:800::/58"),
    verb("unset", "two"), (python("pdreactor.hook"), {"interface": "eth0", "reason": "CARRIER"}),
]


def test_sixteen_events_at_once_all_count() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    with Lab(uplinks=2) as lab:
        router = Router(lab, TWO)
        calls = [lab.start("router", argv, env={**ENVIRONMENT, **variables})
                 for argv, variables in random.Random(seed).sample(SIXTEEN, len(SIXTEEN))]
        codes = [call.wait(60) for call in calls]
        assert codes == [0] * 16, [call.output() for call in calls]
        assert free(router) and not [one for one in files(router) if one.endswith(".tmp")]
        told = re.findall(r"2001:db8:[48]000:\d00::/58", str(SIXTEEN))
        told += [v["new_dhcp6_ia_pd1_prefix1"] + "/58" for _, v in SIXTEEN if len(v) > 2]
        happened = [one["text"] for one in router.status()["history"]]
        assert len(told) == 10 and {f"{prefix} learned" for prefix in told} <= set(happened)
        assert router.status()["uplinks"][0]["down"]["reason"] == "no answer"
        one = router.prefixes("one")
        assert len(one) == 5 and list(one.values()).count("current") == 1
        router.pd("plan")
        changed = sum(call.output().count("event='changed'") for call in calls)
        assert 0 < changed <= len(SIXTEEN) - 1
        with router.unwritten():
            router.pd("restore")


def test_other_peoples_transactions_at_the_same_time(lab: Lab, router: Router) -> None:
    """The kernel has a new generation with each of them."""
    lab.start("router", ["sh", "-c", "while nft add table ip6 other && nft delete table ip6 other; "
                                     "do echo; done"]).wait_output("\n")
    for number in range(8):
        router.set((OLD, NEW)[number % 2])
    router.pd("plan")
    assert lab.count().leaked == 0


# ---- the clock -----------------------------------------------------------------------------------

YEARS = 5 * 31_536_000


@pytest.mark.parametrize("years", [-YEARS, 56 * 31_536_000])
def test_lifetimes_last_whatever_becomes_of_the_clock(
        lab: Lab, router: Router, years: int) -> None:
    """As if the clock had been set by so much since the file was written."""
    router.configure(config('on_expire = "withdraw"'))
    router.set(NEW)
    router.hook("RENEW6", dhcp(OLD))
    text = lab.read("router", STATE)
    for moment in set(re.findall(r"\b1[7-9]\d{8}\b", text)):
        text = text.replace(moment, str(int(moment) - years))
    lab.write("router", STATE, text, 0o600)
    router.pd("restore")
    router.pd("plan")
    found = router.status()["uplinks"][0]["prefixes"]
    assert [one["state"] for one in found] == ["current", "superseded"]
    assert all(900 < one["valid_left"] <= 1000 for one in found)
    assert reaches(lab, "a", SERVER) and reaches(lab, "isp", router.outside(A, NEW))


# ---- the disk ------------------------------------------------------------------------------------

WHERE = os.path.dirname(STATE)
SHELTER = "/run/pdreactor/var-lib-pdreactor-state.json"


DISKS = {  # how the disk becomes so that it takes nothing more, and how it takes it again
    "full": (f"mount -t tmpfs -o size=32k none /mnt; cp -a {STATE} /mnt; "
             "ln /mnt/state.json /mnt/state.json.old; touch /mnt/state.lock /mnt/pass.lock; "
             f"mount --move /mnt {WHERE}; head -c 99999 /dev/zero >{WHERE}/large || true",
             f"rm {WHERE}/large"),
    "no room for another file, so for no lock": (
        f"mount -t tmpfs -o nr_inodes=3 none /mnt; cp -a {STATE} {STATE}.old /mnt; "
        f"mount --move /mnt {WHERE}", f"mount -o remount,nr_inodes=99 {WHERE}"),
    "read-only": (f"mount --bind {WHERE} {WHERE}; mount -o remount,ro,bind {WHERE}",
                  f"umount {WHERE}"),
    "read-only, and without the directory": (
        f"rm -r {WHERE}; mount --bind /var/lib /var/lib; mount -o remount,ro,bind /var/lib",
        "umount /var/lib"),
}


TELL = """
[[on_change]]
exec = ["/bin/sh", "-c", "echo $PDREACTOR_PREFIX >>/run/told"]
"""


def complaints(said: str) -> list[str]:
    """What is wrong, of what was said."""
    return [line for line in said.splitlines() if "level='info'" not in line]


@pytest.mark.parametrize("disk", DISKS)
def test_a_prefix_that_cannot_be_stored_is_translated_and_not_lost(
        lab: Lab, router: Router, disk: str) -> None:
    """Not even by the passes that follow."""
    fails, works = DISKS[disk]
    router.configure(config() + TELL)
    router.set(OLD)
    router.run("sh", "-ec", fails)
    done = router.hook("RENEW6", dhcp(NEW), code=74)
    (line,) = complaints(done.stderr)
    assert f"the new one is in {SHELTER} until the next reboot" in line
    assert "make room" in line or "mount it for writing" in line
    assert lab.read("router", "/run/told").split() == [OLD, NEW], "commands run all the same"
    assert reaches(lab, "a", SERVER) and reaches(lab, "isp", router.outside(A, NEW))
    (line,) = complaints(router.pd("restore", code=74).stderr)
    assert SHELTER in line
    assert next(iter(router.prefixes())) == NEW and "could not be written" in str(router.status())
    assert reaches(lab, "isp", router.outside(A, NEW))
    assert router.run("sh", "-c", f"ls {WHERE}/*.tmp 2>/dev/null; true") == ""
    router.run("sh", "-ec", works)
    router.pd("restore")
    assert NEW in lab.read("router", STATE)
    assert not lab.path("router", SHELTER).exists()
    assert router.status()["ok"]
    with router.unwritten():
        router.pd("restore")


FAULTS = {  # what fails, where, and how: exit code, whether the event counts
    "write error": ("write", "EIO:when=1..5+2", "", 74, True),
    "fsync error": ("fsync", "EIO", "", 74, True),
    "rename refused": ("rename", "EACCES", "", 77, True),
    "read error": ("read", "EIO", STATE, 74, False),
    "not readable": ("openat", "EACCES", STATE, 77, False),
    "lock not readable": ("openat", "EACCES", f"{WHERE}/state.lock", 77, False),
    "locks refused": ("flock", "ENOLCK", "", 74, False),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_fails_is_one_line_and_the_last_good_state_stays(
        lab: Lab, router: Router, name: str) -> None:
    call, error, path, code, counts = FAULTS[name]
    router.hook("BOUND6", dhcp(OLD))
    stored, rules = known(router), router.ours()
    environ = lab.directory / "environ"
    variables = {"interface": "eth0", "reason": "RENEW6", **dhcp(NEW)}
    environ.write_bytes(b"".join(f"{k}={v}\0".encode() for k, v in variables.items()))
    only = ["-P", path] if path else []
    ran = traced(lab, [*python("pdreactor.hook"), "--environ", str(environ)], call,
                 [f"{call}:error={error}"], options=only)
    assert ran.code == code, ran.said
    assert len([line for line in complaints(ran.said) if WHERE in line]) == 1, ran.said
    assert known(router) == stored, "the file is the last good one"
    assert (NEW in router.ours()) == counts
    assert counts or router.ours() == rules
    assert free(router)
    router.hook("RENEW6", dhcp(NEW))
    assert router.status()["ok"] and router.prefixes() == {NEW: "current", OLD: "superseded"}
    assert files(router) >= {"state.json", "state.json.old"}
    assert not [one for one in files(router) if one.endswith(".tmp")]


def test_a_state_that_cannot_be_read_leaves_the_rules_and_at_boot_the_guard(
        lab: Lab, router: Router) -> None:
    router.set(OLD)
    before = router.ours()
    lab.write("router", STATE, '{"format": 99}')
    for call in (lambda: router.pd("restore", code=74),
                 lambda: router.hook("RENEW6", dhcp(NEW), code=74)):
        assert "newer" in call().stderr
        assert router.ours() == before
        router.wipe()
        call()
        assert '"untranslated ' in router.ours() and "policy-fail" in router.ours()
        assert unanswered(lab, "a", SERVER)
        lab.nft("router", f"table ip6 pdreactor; delete table ip6 pdreactor; {before}")
    assert lab.count().leaked == 0
    assert lab.read("router", STATE) == '{"format": 99}'


# ---- the kernel refuses ---------------------------------------------------------------------

ONCE = ("ENOBUFS", "EBUSY", "EAGAIN", "ENOMEM", "EINTR")
"""What goes by."""
FOR_EVER = [  # and what does not: system call, error, exit code
    ("sendmsg", "EBUSY", 75),
    ("sendto", "ENOBUFS", 75),
    ("sendmsg", "EPERM:when=1", 77),
    ("sendmsg", "EPERM:when=2", 77),
    ("socket", "EMFILE", 70),
]


def test_what_the_kernel_refuses_once_is_tried_again(lab: Lab) -> None:
    """And what it refuses for good is one line; the next pass makes it right."""
    play = Play(lab, STORIES["another prefix"])
    after, calls = play.undisturbed()
    chosen = [one for one in calls if one.kernel]
    assert {one.name for one in chosen} == {"sendmsg", "sendto"}
    chosen += [one for one in calls if "NFT_MSG_GETRULE" in one.shown][-1:]  # looking again
    chosen += [Point("recvfrom", number, "") for number in (1, 3)]
    for number, point in enumerate(chosen):
        error = ONCE[number % len(ONCE)]
        ran = traced(lab, play.argv, point.name,
                     [f"{point.name}:error={error}:when={point.number}"])
        assert "INJECTED" in ran.trace and ran.code == 0, (point, error, ran.said)
        assert complaints(ran.said) == [], (point, error)
        end = play.looked(["plan"])
        assert (end.codes, end.kernel, end.known) == ([0], after.kernel, after.known), point
    for call, error, code in FOR_EVER:
        ran = traced(lab, play.argv, call, [f"{call}:error={error}"])
        assert "INJECTED" in ran.trace and ran.code == code, (call, error, ran.said)
        lines = complaints(ran.said)
        assert lines and len(set(lines)) == len(lines) <= 2, (call, error, ran.said)
        assert all(re.search("cannot .*: ", line) for line in lines), lines
        assert '"untranslated ' in play.router.ours() and free(play.router)
        end = play.looked(["restore"], ["plan"])
        assert (end.codes, end.kernel) == ([0, 0], after.kernel), (call, error)
    assert lab.count().leaked == 0


SWITCHED_OFF = """
[uplink.one]
interface = "eth0"
table = 201
gateway = "fe80::1"
[uplink.two]
interface = "eth1"
table = 202
[[translation]]
uplinks = ["two", "one"]
internal = "fd5e:ed00:1234::/58"
"""


def test_a_route_that_is_refused_does_not_keep_the_other_uplinks_from_theirs() -> None:
    with Lab(uplinks=2) as lab:
        lab.sysctl("router", "net.ipv6.conf.eth0.disable_ipv6", 1)
        router = Router(lab, SWITCHED_OFF)
        done = router.pd("set", "one", OLD, code=70)
        assert "eth0" in done.stderr and "disable_ipv6" in done.stderr
        router.pd("set", "two", NEW, code=70)
        assert reaches(lab, "isp2", router.outside("fd5e:ed00:1234::2", NEW))
        assert "lookup 202" in router.run("ip", "-6", "rule")
        lab.sysctl("router", "net.ipv6.conf.eth0.disable_ipv6", 0)
        router.pd("restore")
        router.pd("plan")
