"""Crashes and failing kernels, disks and clocks: afterwards one pass makes all as desired."""

import os
from typing import Any, NamedTuple

import pytest

from tests.lab import SERVER, Lab

from .kill import CHANGING, Look, Point, files, free, known, points, recover, traced
from .pd import (
    CONFIG,
    NEEDS_ROOT,
    NEW,
    OLD,
    STATE,
    A,
    Router,
    config,
    dhcp,
    python,
    reaches,
    unanswered,
)
from .test_uplinks import TWO

pytestmark = NEEDS_ROOT

# ---- killed --------------------------------------------------------------------------------------

ALL_POINTS = "PDREACTOR_TEST_ALL_KILLS" in os.environ
"""Kill at every changing system call, and not only at some: takes minutes."""

IPTABLES = '\n[firewall]\nbackend = "iptables"\n'


class Story(NamedTuple):
    """A change to be killed: how it begins, what happens, and which flows have to be gone then."""

    begin: list[list[str]]  # verbs, from nothing; without any, nothing stops packets before it
    event: list[str]  # a verb, or "@REASON" with ``lease``
    lease: dict[str, str] = {}  # noqa: RUF012 - frozen
    dead: str = "nothing"
    text: str = config()
    then: str = ""  # the configuration with the event, if it is another one
    uplinks: int = 1
    some: int = 4  # of the changes to files every so many-th is tried


OF_OLD = "dst=2001:db8:4000:"
STORIES = {
    "the first lease": Story([["restore"]], ["@BOUND6"], dhcp(NEW)),
    "another prefix": Story([["set", "wan", OLD]], ["@RENEW6"], dhcp(NEW), OF_OLD, some=2),
    "a prefix taken back": Story([["set", "wan", OLD]], ["@RENEW6"], dhcp(OLD, valid=0,
                                 preferred=0), OF_OLD),
    "a fail-over": Story([["set", "one", OLD], ["set", "two", NEW]], ["uplink", "one", "down"],
                         dead=OF_OLD, text=TWO, uplinks=2),
    "another backend": Story([["set", "wan", OLD]], ["restore"], then=config() + IPTABLES,
                             some=2),
    "the first pass at all": Story([], ["@BOUND6"], dhcp(OLD), f"dst={A} "),
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
        """What it ends in, and what it changes on the way."""
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
        flows = lab.start_flows(rate=200)
        before, (after, found) = play.before, play.undisturbed()
        unheard = before if story.begin else play.looked(["restore"])
        assert after.codes == [0] and not after.dead
        chosen = [one for one in found if one.kernel] + [one for one in found if not one.kernel][
            ::1 if ALL_POINTS else story.some]
        for number, point in enumerate(chosen):
            play.change_configuration()
            play.killed(point)
            assert free(play.router), point
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


def complaints(said: str) -> list[str]:
    """What is wrong, of what was said."""
    return [line for line in said.splitlines() if "level='info'" not in line]


@pytest.mark.parametrize("disk", DISKS)
def test_a_prefix_that_cannot_be_stored_is_translated_and_not_lost(
        lab: Lab, router: Router, disk: str) -> None:
    """Not even by the passes that follow."""
    fails, works = DISKS[disk]
    router.set(OLD)
    router.run("sh", "-ec", fails)
    done = router.hook("RENEW6", dhcp(NEW), code=74)
    (line,) = complaints(done.stderr)
    assert f"the new one is in {SHELTER} until the next reboot" in line
    assert "make room" in line or "mount it for writing" in line
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
    assert len(complaints(ran.said)) == 1, ran.said
    assert WHERE in ran.said
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
