"""Other people's firewall programs on the router of a test network, from where tests/setup.sh has
unpacked them. Each lets everything through that comes from the LAN."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.lab import Lab, Process
from tests.lab.installed import install

from .pd import CONFIG, Router, Variant

ROOT = Path(__file__).parents[2]
TREE = ROOT / ".cache/firewalls"
HOOKS = ROOT / "contrib/firewalls"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}

UNPACKED = pytest.mark.skipif(not TREE.is_dir(), reason="tests/setup.sh has not run")

RULES_V6 = """\
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT
COMMIT
*nat
-A POSTROUTING -s fd99::/64 -j MASQUERADE
COMMIT
*mangle
COMMIT
*raw
COMMIT
"""
UFW = r"""
cp /usr/share/ufw/iptables/*.rules /usr/share/ufw/ufw.conf /etc/ufw/
sed -i 's/^DEFAULT_FORWARD_POLICY=.*/DEFAULT_FORWARD_POLICY="ACCEPT"/; s/^IPV6=.*/IPV6=yes/
    s/^MANAGE_BUILTINS=.*/MANAGE_BUILTINS=yes/' /etc/default/ufw
mkdir -p /var/lib/ufw
ufw --force enable
"""
SHOREWALL6 = r"""
cd /etc/shorewall6
sed -i 's/^IP_FORWARDING=.*/IP_FORWARDING=Keep/; s/^LOG_LEVEL=.*/LOG_LEVEL=/
    s/^STARTUP_ENABLED=.*/STARTUP_ENABLED=Yes/' shorewall6.conf
printf '%s\n' 'fw firewall' 'net ipv6' 'loc ipv6' >zones
printf '%s\n' '?FORMAT 2' 'net eth0 -' 'loc lan0 -' 'loc lan1 -' >interfaces
printf '%s\n' 'loc net ACCEPT' 'fw all ACCEPT' 'net all DROP' 'all all REJECT' >policy
: >rules
mkdir -p /var/lib/shorewall6
shorewall6 start
"""
FIREWALLD = """
for interface in eth0 lan0 lan1; do
    firewall-offline-cmd --zone=trusted --change-interface=$interface
done
mkdir -p /run/dbus
"""
BUS = """\
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/>
    <allow send_type="*"/> <allow send_destination="*"/> <allow receive_type="*"/>
  </policy>
</busconfig>
"""
SOCKET = "/run/dbus/system_bus_socket"


class Program(NamedTuple):
    """One of them: how it starts and reloads, and where our hook belongs."""

    name: str
    start: str
    reload: str
    hooks: Mapping[str, str]  # file in contrib/firewalls -> file on the router
    drops: bool = False  # what it does while it reloads: drop packets itself

    def __str__(self) -> str:
        return self.name


PROGRAMS = {program.name: program for program in (
    Program("netfilter-persistent", "netfilter-persistent start", "netfilter-persistent reload", {
        "netfilter-persistent/90-pdreactor":
        "/usr/share/netfilter-persistent/plugins.d/90-pdreactor"}),
    Program("ufw", UFW, "ufw reload", {"ufw/after.init": "/etc/ufw/after.init"}),
    Program("shorewall6", SHOREWALL6, "shorewall6 reload", {
        "shorewall6/started": "/etc/shorewall6/started",
        "shorewall6/restored": "/etc/shorewall6/restored"}),
    Program("firewalld", FIREWALLD, "firewall-cmd --reload", {
        "firewalld/pdreactor-firewalld": "/usr/local/sbin/pdreactor-firewalld"}, drops=True),
)}


class Firewall:
    """One of them at work beside pdreactor, which is installed."""

    def __init__(self, lab: Lab, router: Router, program: Program) -> None:
        """With our hook in place, and started."""
        self.lab, self.program = lab, program
        self._unpack()
        use(lab, router.variant)
        if program.name == "netfilter-persistent":
            lab.write("router", "/etc/iptables/rules.v6", RULES_V6)
        if program.name != "firewalld":
            self._put_hooks()
        self.run(program.start)
        self._put_hooks()
        if program.name == "firewalld":
            self._start_firewalld()

    def run(self, script: str) -> str:
        """What a shell command says, on the router."""
        argv = ["sh", "-ec", script]
        return self.lab.run("router", argv, timeout=60, env=ENVIRONMENT).stdout

    def reload(self) -> str:
        """Returns when it says that it is done."""
        return self.run(self.program.reload)

    def _unpack(self) -> None:
        """Lay it over /usr and copy it to /etc, both of which are the router's own."""
        config = self.lab.read("router", CONFIG)
        over = f"lowerdir={TREE}/usr:/usr,upperdir=/mnt/upper,workdir=/mnt/work"
        self.run("mount -t tmpfs none /mnt; mkdir /mnt/upper /mnt/work\n"
                 f"mount -t overlay -o {over} none /usr; cp -a {TREE}/etc/. /etc/")
        install(self.lab, config)

    def _put_hooks(self) -> None:
        for here, there in self.program.hooks.items():
            self.lab.write("router", there, (HOOKS / here).read_text(), 0o755)

    def _start_firewalld(self) -> None:
        self.lab.write("router", "/run/bus.conf", BUS)
        self._start("dbus-daemon", "--config-file=/run/bus.conf", "--nofork", "--nopidfile")
        self.lab.wait(lambda: self.lab.path("router", SOCKET).exists(), 5, "the message bus")
        self._start("firewalld", "--nofork", "--nopid")
        self.lab.wait(lambda: self._state() == "running\n", 20, "firewalld")
        self.bus = self._start("/usr/local/sbin/pdreactor-firewalld")

    def _state(self) -> str:
        argv = ["firewall-cmd", "--state"]
        return self.lab.run("router", argv, check=False, env=ENVIRONMENT).stdout

    def _start(self, *argv: str) -> Process:
        return self.lab.start("router", argv, env=ENVIRONMENT)


def use(lab: Lab, variant: Variant) -> None:
    """Let ip6tables be of this variant, as update-alternatives does."""
    if variant.backend == "iptables-legacy":
        for name in ("ip6tables", "ip6tables-save", "ip6tables-restore"):
            legacy = f"/usr/sbin/{name.replace('tables', 'tables-legacy')}"
            lab.run("router", ["ln", "-sf", legacy, f"/etc/alternatives/{name}"])
