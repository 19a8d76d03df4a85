"""Under Debian's own dhcpcd.service the hook works with our drop-in, and only with it; our own
service and timer work as they are installed.

systemd runs as PID 1 of a private pid, mount, cgroup, uts and ipc namespace, on a throw-away layer
over the machine's files, with the test network's router as its network. It starts two units:
dhcpcd.service as Debian ships it, and a journal. Nothing of it is seen by the machine's own PID 1.
"""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import INTERNAL, POOLS, SERVER, Lab
from tests.lab.installed import CONFIG
from tests.lab.process import run

from .pd import NEW, reaches, unanswered
from .test_uplinks import TWO

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root: namespaces need it"),
    pytest.mark.skipif(not Path("/lib/systemd/systemd").exists(), reason="no systemd here"),
]

ROOT = Path(__file__).parents[2]
UNIT = ROOT / ".cache/dhcpcd-unit/lib/systemd/system/dhcpcd.service"
EXTERNAL = "2001:db8:4000::"
LIMIT = 30.0
SERVICE, TIMER = "pdreactor-restore.service", "pdreactor-restore.timer"
WATCH, FIREWALL = "pdreactor-watch.service", "pdreactor-firewall.service"
NFTABLES = "nftables.service"
HOOKS = "DHCPCD_HOOKS=/usr/lib/dhcpcd/dhcpcd-hooks"
PD = "/usr/local/sbin/pdreactor"

REMOVE = """\
rule flush protocol 157
route flush table 201
route flush table 202
route del unreachable default table 201
route del unreachable default table 202
"""
ONE = CONFIG.format(internal=INTERNAL)

# Its own cgroup, which becomes the root of what systemd sees; removed at the end.
OUTER = """
set -eu
mount -t tmpfs -o mode=700 none /mnt
mkdir /mnt/cgroup /mnt/layer
mount -t cgroup2 none /mnt/cgroup
group=/mnt/cgroup/pdreactor-test.$$
mkdir "$group"
remove() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do # what was killed takes a moment to leave it
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && return
        sleep 0.1
    done
}
trap remove EXIT
sh -c 'echo $$ >"$0"/cgroup.procs
    exec unshare --pid --fork --kill-child --mount --uts --ipc --cgroup sh -c "$@"' \
    "$group" "$1" inner "$2" "$3" "$4" "$5" &
trap 'kill -KILL $!' TERM
wait $! || wait $! || :
"""

# The root file system: a layer over the machine's own, with nothing to start but the two units.
# The journal has nothing to do with the kernel's log.
INNER = """
set -eu
project=$1 unit=$2 ours=$3 config=$4
mkdir /mnt/layer/upper /mnt/layer/work /mnt/layer/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/layer/upper,workdir=/mnt/layer/work \
    none /mnt/layer/root
cd /mnt/layer/root
mount -t proc none proc
mount -t sysfs none sys
mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs -o mode=755 none run
mount -t tmpfs -o mode=1777 none tmp
mount -t tmpfs -o mode=755 none dev
for node in null zero full random urandom tty; do
    : >dev/$node
    mount --bind /dev/$node dev/$node
done
mkdir dev/shm dev/pts # PrivateDevices= wants them
mount -t devpts -o newinstance,ptmxmode=666 none dev/pts
ln -s pts/ptmx dev/ptmx

systemd=usr/lib/systemd
rm -rf $systemd/system/*.wants $systemd/system-generators etc/systemd/system var/lib/pdreactor
rm -rf var/lib/dhcpcd usr/lib/dhcpcd/dhcpcd-hooks
mkdir -p etc/systemd/system etc/systemd/journald.conf.d etc/wpa_supplicant
mkdir -p usr/lib/dhcpcd/dhcpcd-hooks var/lib/dhcpcd
: >etc/machine-id
: >etc/fstab
rm -f etc/resolv.conf
: >etc/resolv.conf
cp "$unit" $systemd/system/dhcpcd.service
ln -s /dev/null etc/systemd/system/systemd-journald-audit.socket
printf '%s\\n' '[Journal]' Storage=volatile Audit= ReadKMsg=no \\
    >etc/systemd/journald.conf.d/only.conf
printf '[Unit]\\nWants=systemd-journald.service dhcpcd.service\\n' >etc/systemd/system/only.target
printf '%s\\n' nodev ipv6only noipv6rs noauthrequired 'allowinterfaces eth0' 'interface eth0' \
    'ia_pd 1/::/58 nosuch0/0/58' >etc/dhcpcd.conf

make -C "$project" install DESTDIR="$PWD" SYSTEMD="$ours" \
    DHCPCD_HOOKS=/usr/lib/dhcpcd/dhcpcd-hooks
[ "$ours" = no ] || systemd-tmpfiles --root="$PWD" --create pdreactor.conf
cp "$project/Makefile" etc/pdreactor.mk # the checkout may be below what is hidden here
printf '%s' "$config" >etc/pdreactor.toml
# Comes after ours, so that what it says has been dealt with. The unit may write to /run/dhcpcd.
echo 'echo "$reason" >>/run/dhcpcd/seen' >usr/lib/dhcpcd/dhcpcd-hooks/99-seen

mkdir old
pivot_root . old
umount -l old
exec env -i container=test PATH=/usr/sbin:/usr/bin /usr/lib/systemd/systemd --system \
    --unit=only.target --default-standard-output=journal --log-target=console --log-level=notice
"""


@pytest.fixture(scope="module")
def unit() -> Path:
    """Debian's dhcpcd.service. Unpacked, not installed: its package would enable it."""
    if not UNIT.exists():
        directory = UNIT.parents[3]
        directory.mkdir(parents=True, exist_ok=True)
        script = (
            "apt-get -q -o APT::Sandbox::User=root download dhcpcd && dpkg -x dhcpcd_*.deb . "
            "&& rm dhcpcd_*.deb"
        )
        subprocess.run(["sh", "-c", script], cwd=directory, check=True, timeout=120)
    return UNIT


class Machine:
    """What the test asks of the machine that systemd has started."""

    def __init__(self, lab: Lab) -> None:
        """PID 1 may not be there yet."""
        self.lab = lab

    def first(self) -> Path | None:
        """Its PID 1 in the machine's /proc, once that is systemd."""
        network = os.readlink(f"/proc/{self.lab.pid('router')}/ns/net")
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(process / "ns/net") != network:
                    continue
                if (process / "comm").read_text() == "systemd\n":
                    return process
            except OSError:
                continue  # it ended meanwhile
        return None

    def file(self, path: str) -> Path:
        """One of its files, as seen from outside."""
        first = self.first()
        assert first is not None
        return first / "root" / path.lstrip("/")

    def seen(self) -> list[str]:
        """The reasons that have gone through all hooks."""
        file = self.first() and self.file("run/dhcpcd/seen")
        return file.read_text().split() if file and file.exists() else []

    def state(self) -> str:
        """Everything below /var/lib/pdreactor."""
        files = [file for file in self.file("var/lib/pdreactor").rglob("*") if file.is_file()]
        return "".join(file.read_text() for file in files)

    def rules(self) -> str:
        """What the router's nftables hold, and the legacy ip6tables, without the time of day."""
        text = "".join(self.lab.run("router", argv.split()).stdout
                       for argv in ("nft list ruleset", "ip6tables-legacy-save"))
        return re.sub(r"(?m)^# .*\n", "", text)

    def routing(self) -> list[str]:
        """Its rules and the routes of its uplinks' tables, in the order of the alphabet: rules of
        one priority stand as they came."""
        shown = (self.lab.run("router", ["ip", "-6", *argv.split()], check=False).stdout
                 for argv in ("rule", "route show table 201", "route show table 202"))
        return sorted(line for text in shown for line in text.splitlines())

    def remove(self) -> None:
        """Somebody removes all of it."""
        self.lab.run("router", ["nft", "flush", "ruleset"])
        saved = self.lab.run("router", ["ip6tables-legacy-save"]).stdout.splitlines(True)
        nothing = "".join(line for line in saved if line.startswith(("*", "COMMIT")))
        self.lab.run("router", ["ip6tables-legacy-restore"], input=nothing)
        self.lab.run("router", ["ip", "-6", "-force", "-batch", "-"], input=REMOVE, check=False)
        assert EXTERNAL not in self.rules() and "proto 157" not in str(self.routing())
        assert unanswered(self.lab, "a", SERVER)

    # ---- systemd ---------------------------------------------------------------------------

    def inside(self, *argv: str) -> list[str]:
        """The argv of a command among what its PID 1 has started."""
        first = self.first()
        assert first is not None
        spaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        return ["nsenter", f"--target={first.name}", *spaces, "--wd=/", "--",
                "env", "-i", "PATH=/usr/sbin:/usr/bin", "LC_ALL=C", *argv]

    def run(self, *argv: str, code: int = 0) -> str:
        """What a command says, which must end with ``code``."""
        done = run(self.inside(*argv), check=False, timeout=LIMIT)
        said = done.stdout + done.stderr
        assert done.returncode == code, f"{argv} ended with {done.returncode}: {said}"
        return said

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def journal(self, unit: str = SERVICE) -> str:
        """What the journal has of a service, and about it."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "-q", "-o", "cat", "-u", unit)

    def restore(self, code: int = 0) -> str:
        """What comes to the journal by one pass of the service."""
        before = self.journal()
        self.run("systemctl", "start", SERVICE, code=code)
        return self.journal().removeprefix(before)

    def translates(self) -> bool:
        """True when the kernel has all of it, and it works."""
        return reaches(self.lab, "a", SERVER) and self.run(PD, "plan") == "nothing to change\n"


@contextmanager
def booted(unit: Path, ours: str = "yes", config: str = ONE, uplinks: int = 1) -> Iterator[Machine]:
    """A router whose dhcpcd.service has got its prefix and told all hooks."""
    with Lab(uplinks) as lab:
        lab.start_kea()
        argv = ["sh", "-c", OUTER, "outer", INNER, str(ROOT), str(unit), ours, config]
        process = lab.start("router", argv, name="systemd")
        machine = Machine(lab)
        try:
            try:
                lab.wait(lambda: "BOUND6" in machine.seen(), LIMIT, "BOUND6 under systemd")
            except Exception as error:
                error.add_note(process.tail())
                raise
            yield machine
        finally:
            process.stop()


@pytest.fixture(scope="module", params=[
    "auto",
    pytest.param("iptables", marks=pytest.mark.variants),
    pytest.param("iptables-legacy", marks=pytest.mark.variants),
])
def machine(request: pytest.FixtureRequest, unit: Path) -> Iterator[Machine]:
    """With our drop-in and our units, for tests that leave it as it was."""
    with booted(unit, config=f'[firewall]\nbackend = "{request.param}"\n{ONE}') as machine:
        yield machine


def test_with_the_drop_in_the_hook_keeps_its_state_and_translates(machine: Machine) -> None:
    assert EXTERNAL in machine.state()
    assert EXTERNAL in machine.rules()
    assert machine.file("run/pdreactor").is_dir()


def test_without_it_the_hook_translates_and_says_what_it_cannot_store(unit: Path) -> None:
    with booted(unit, "no") as machine:
        assert machine.state() == ""
        assert EXTERNAL in machine.rules()
        machine.run("journalctl", "--sync")
        said = machine.run("journalctl", "-q", "-o", "cat", "-u", "dhcpcd.service")
        assert "/var/lib/pdreactor: Read-only file system" in said and "contrib/systemd" in said


# ---- our service and our timer -----------------------------------------------------------------


def test_a_pass_brings_the_translation_back(machine: Machine) -> None:
    machine.remove()
    assert machine.restore() == ""
    assert machine.translates()


def test_the_journal_has_what_is_wrong_and_no_more(machine: Machine) -> None:
    before = machine.rules()
    assert machine.restore() == ""
    assert machine.rules() == before
    config = machine.file("etc/pdreactor.toml")
    text = config.read_text()
    config.write_text("nonsense = 1\n" + text)
    said = machine.restore(code=1)
    config.write_text(text)
    assert "nonsense" in said
    assert machine.restore() == ""


LAYOUT = """
[[assign]]
uplink = "one"
interface = "lan0"
subnet = 1
prefix_length = 128

[sysctl]
"""


def test_a_pass_brings_back_routes_and_rules_of_two_uplinks(unit: Path) -> None:
    """And an address, and a setting, which the sandbox lets it set."""
    config = TWO.replace("table = 202", f'table = 202\nprefix = "{NEW}"') + LAYOUT
    key, place = "net.ipv6.conf.eth0.accept_ra", f"{EXTERNAL[:-1]}1::1/128"
    with booted(unit, config=config, uplinks=2) as machine:
        before = machine.routing()
        for found in ("lookup 201", "lookup 202", "dev eth0 proto 157", "dev eth1 proto 157"):
            assert found in str(before)
        machine.remove()
        machine.lab.sysctl("router", key, 1)
        machine.lab.run("router", ["ip", "-6", "addr", "del", place, "dev", "lan0"])
        assert machine.restore() == ""
        assert machine.routing() == before
        assert machine.lab.run("router", ["sysctl", "-n", key]).stdout == "2\n"
        shown = machine.lab.run("router", ["ip", "-6", "addr", "show", "dev", "lan0"]).stdout
        assert place in shown
        assert machine.translates()
        assert machine.restore() == ""


@pytest.mark.parametrize("machine", ["auto"], indirect=True)
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_finds_nothing_wrong_with_the_units(machine: Machine) -> None:
    units = (f"/etc/systemd/system/{unit}" for unit in (SERVICE, TIMER, WATCH, FIREWALL))
    assert machine.run("systemd-analyze", "verify", *units) == ""


PROXY = """
[uplink.link]
interface = "eth0"
prefix = "2001:db8:ffff::/64"
[[proxy]]
uplink = "link"
"""


def test_the_watch_works_in_its_sandbox(unit: Path) -> None:
    """It hears the kernel, dhcpcd and neighbours, and leaves the rules when it ends."""
    with booted(unit, config=ONE + PROXY) as machine:
        wait = machine.lab.wait
        machine.run("systemctl", "enable", "--now", WATCH)  # returns once it is ready
        wait(lambda: machine.show(WATCH, "StatusText") == "all in place", LIMIT, "its first pass")
        for host, interface, last in (("router", "lan0", 1), ("a", "eth0", 2)):
            address = f"2001:db8:ffff:0:8000::{last}/65"
            machine.lab.run(host, ["ip", "addr", "add", address, "dev", interface, "nodad"])
        wait(lambda: reaches(machine.lab, "isp", "2001:db8:ffff:0:8000::2"), LIMIT, "an answer")
        machine.lab.run("router", ["nft", "flush", "ruleset"])
        wait(machine.translates, LIMIT, "the repair")
        machine.file("usr/lib/dhcpcd/dhcpcd-hooks/60-pdreactor").unlink()
        machine.lab.renumber(POOLS[1])
        machine.run("dhcpcd", "-N")
        wait(lambda: POOLS[1].partition("/")[0] in machine.rules(), LIMIT, "the new prefix")
        machine.run("systemctl", "reload", WATCH)
        machine.run("systemctl", "stop", WATCH)
        assert machine.show(WATCH, "Result") == "success"
        assert machine.translates()
        assert machine.journal(WATCH).count("level='error'") == 0


@contextmanager
def nftables(machine: Machine, text: str) -> Iterator[None]:
    """nftables.service with this /etc/nftables.conf, and our unit enabled beside it."""
    conf = machine.file("etc/nftables.conf")
    before = conf.read_text()
    conf.write_text(text)
    try:
        machine.run("systemctl", "-q", "enable", FIREWALL)
        yield
    finally:
        machine.run("systemctl", "-q", "disable", "--now", FIREWALL)
        machine.run("systemctl", "stop", NFTABLES)
        conf.write_text(before)
        machine.restore()


@pytest.mark.parametrize("machine", ["auto"], indirect=True)
def test_a_pass_follows_nftables_service(machine: Machine) -> None:
    with nftables(machine, "flush ruleset\n"):
        for verb in ("start", "reload", "restart"):
            machine.remove()
            machine.run("systemctl", verb, NFTABLES)
            machine.lab.wait(lambda: EXTERNAL in machine.rules(), LIMIT, f"a pass after {verb}")
            machine.lab.wait(lambda: machine.show(FIREWALL, "SubState") == "exited", LIMIT, "it")
            assert machine.translates(), verb
        assert "network-pre.target" in machine.show(FIREWALL, "Before").split()
        assert {NFTABLES, "systemd-tmpfiles-setup.service"} <= set(
            machine.show(FIREWALL, "After").split())


@pytest.mark.parametrize("machine", ["auto"], indirect=True)
def test_with_include_and_drop_in_no_reload_or_restart_leaks(machine: Machine) -> None:
    """The directory is that of our tmpfiles.d, and dhcpcd's hook may write there."""
    include = machine.file("run/pdreactor/pdreactor.nft")
    assert EXTERNAL in include.read_text()
    drop_in = machine.file(f"etc/systemd/system/{NFTABLES}.d/pdreactor.conf")
    drop_in.parent.mkdir()
    drop_in.write_text((ROOT / f"contrib/systemd/{NFTABLES}.d/pdreactor.conf").read_text())
    machine.run("systemctl", "daemon-reload")
    with nftables(machine, 'flush ruleset\ninclude "/run/pdreactor/*.nft"\n'):
        machine.run("systemctl", "start", NFTABLES)
        machine.lab.conntrack_timeout(2)
        machine.lab.reset_count()
        flows = machine.lab.start_flows(rate=5000)
        machine.lab.wait(lambda: machine.lab.count().arrived > 100, 5, "the first packets")
        for verb in ("reload", "restart", "reload", "restart"):
            machine.run("systemctl", verb, NFTABLES)
        sent = flows.stop()
        machine.lab.wait(lambda: machine.lab.count().arrived >= sent.sent - 10, 5, "the packets")
        assert machine.lab.count().leaked == 0
        assert machine.translates()


@pytest.mark.parametrize("service", [
    f"systemd/{SERVICE}", f"systemd/{WATCH}", f"systemd/{FIREWALL}",
    "firewalls/firewalld/pdreactor-firewalld.service",
])
def test_a_service_has_few_rights(service: str) -> None:
    argv = ["systemd-analyze", "security", "--offline=yes", "--threshold=25", "--no-pager"]
    done = run([*argv, str(ROOT / "contrib" / service)], check=False)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_the_timer_starts_passes_until_it_is_uninstalled(unit: Path) -> None:
    with booted(unit) as machine:
        wait = machine.lab.wait
        assert machine.show(TIMER, "UnitFileState") == "disabled"
        assert machine.show(TIMER, "ActiveState") == "inactive"

        soon = machine.file(f"etc/systemd/system/{TIMER}.d/soon.conf")
        soon.parent.mkdir()
        soon.write_text("[Timer]\nOnBootSec=1ms\nAccuracySec=1ms\n")
        machine.remove()
        machine.run("systemctl", "enable", "--now", TIMER)
        wait(lambda: EXTERNAL in machine.rules(), LIMIT, "the first pass")
        wait(lambda: machine.show(TIMER, "SubState") == "waiting", LIMIT, "its end")
        assert machine.translates()
        following = machine.show(TIMER, "TimersMonotonic")
        assert re.search(r"OnUnitInactiveUSec=1min ; next_elapse=[1-9]", following), following

        with machine.file("var/lib/pdreactor/pass.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            machine.run("systemctl", "start", "--no-block", SERVICE)
            wait(lambda: machine.show(SERVICE, "SubState") == "start", LIMIT, "a pass that waits")
            argv = machine.inside("make", "-sf/etc/pdreactor.mk", "uninstall", "SYSTEMD=yes", HOOKS)
            uninstall = machine.lab.start("router", argv)
            wait(lambda: machine.show(SERVICE, "SubState") != "start", 15, "uninstall to end it")
        assert uninstall.wait(LIMIT) == 0, uninstall.output()
        assert machine.show(TIMER, "ActiveState") == "inactive"
        assert machine.rules() == "" and machine.state() == ""
        left = {file.name for file in machine.file("etc/systemd/system").rglob("*")}
        assert not left & {SERVICE, TIMER, WATCH, FIREWALL, "pdreactor.conf"}
        assert not machine.file("run/pdreactor").exists()
        assert not machine.file("etc/tmpfiles.d/pdreactor.conf").exists()
