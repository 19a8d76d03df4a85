"""Under Debian's own dhcpcd.service the hook works with our drop-in, and only with it.

systemd runs as PID 1 of a private pid, mount, cgroup, uts and ipc namespace, on a throw-away layer
over the machine's files, with the test network's router as its network. It starts one unit:
dhcpcd.service as Debian ships it. Nothing of this is seen by the machine's own PID 1.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import Lab

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root: namespaces need it"),
    pytest.mark.skipif(not Path("/lib/systemd/systemd").exists(), reason="no systemd here"),
]

ROOT = Path(__file__).parents[2]
UNIT = ROOT / ".cache/dhcpcd-unit/lib/systemd/system/dhcpcd.service"
EXTERNAL = "2001:db8:4000::"
LIMIT = 30.0

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

# The root file system: a layer over the machine's own, with nothing to start but the one unit.
INNER = """
set -eu
project=$1 unit=$2 dropin=$3 backend=$4
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
mkdir -p etc/systemd/system usr/lib/dhcpcd/dhcpcd-hooks etc/wpa_supplicant var/lib/dhcpcd
: >etc/machine-id
: >etc/fstab
rm -f etc/resolv.conf
: >etc/resolv.conf
cp "$unit" $systemd/system/dhcpcd.service
printf '[Unit]\\nWants=dhcpcd.service\\n' >etc/systemd/system/only.target
printf '%s\\n' nodev ipv6only noipv6rs noauthrequired 'allowinterfaces eth0' 'interface eth0' \
    'ia_pd 1/::/58 nosuch0/0/58' >etc/dhcpcd.conf

make -C "$project" install DESTDIR="$PWD" SYSTEMD="$dropin" \
    DHCPCD_HOOKS=/usr/lib/dhcpcd/dhcpcd-hooks
cat >etc/pdreactor.toml <<E
[firewall]
backend = "$backend"

[uplink.wan]
interface = "eth0"

[[translation]]
uplink = "wan"
internal = "fd5e:ed00:1234::/58"
E
# Comes after ours, so that what it says has been dealt with. The unit may write to /run/dhcpcd.
echo 'echo "$reason" >>/run/dhcpcd/seen' >usr/lib/dhcpcd/dhcpcd-hooks/99-seen

mkdir old
pivot_root . old
umount -l old
exec env -i container=test PATH=/usr/sbin:/usr/bin /usr/lib/systemd/systemd --system \
    --unit=only.target --default-standard-output=null --log-target=console --log-level=notice
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

    def root(self) -> Path | None:
        """Its root directory, once its PID 1 is systemd."""
        network = os.readlink(f"/proc/{self.lab.pid('router')}/ns/net")
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(process / "ns/net") != network:
                    continue
                if (process / "comm").read_text() == "systemd\n":
                    return process / "root"
            except OSError:
                continue  # it ended meanwhile
        return None

    def seen(self) -> list[str]:
        """The reasons that have gone through all hooks."""
        root = self.root()
        file = root and root / "run/dhcpcd/seen"
        return file.read_text().split() if file and file.exists() else []

    def state(self) -> str:
        """Everything below /var/lib/pdreactor."""
        root = self.root()
        assert root is not None
        files = [file for file in (root / "var/lib/pdreactor").rglob("*") if file.is_file()]
        return "".join(file.read_text() for file in files)

    def rules(self) -> str:
        """What the router's nftables hold, and the legacy ip6tables."""
        return "".join(self.lab.run("router", argv.split()).stdout
                       for argv in ("nft list ruleset", "ip6tables-legacy-save"))


@contextmanager
def booted(unit: Path, dropin: str, backend: str = "auto") -> Iterator[Machine]:
    """A router whose dhcpcd.service has got its prefix and told all hooks."""
    with Lab() as lab:
        lab.start_kea()
        argv = ["sh", "-c", OUTER, "outer", INNER, str(ROOT), str(unit), dropin, backend]
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


@pytest.mark.parametrize("backend", [
    "auto",
    pytest.param("iptables", marks=pytest.mark.variants),
    pytest.param("iptables-legacy", marks=pytest.mark.variants),
])
def test_with_the_drop_in_the_hook_keeps_its_state_and_translates(
    unit: Path, backend: str
) -> None:
    with booted(unit, "yes", backend) as machine:
        assert EXTERNAL in machine.state()
        assert EXTERNAL in machine.rules()


def test_without_it_the_sandbox_keeps_the_hook_from_both(unit: Path) -> None:
    with booted(unit, "no") as machine:
        assert machine.state() == ""
        assert EXTERNAL not in machine.rules()
