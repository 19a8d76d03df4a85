"""Links of kind sit: made, changed in place, repaired, removed."""

import json
import sys

import pytest

from tests.netns.pd import ENVIRONMENT, ROOT, reaches

from .inside import Machine, Net

NEWEST = ROOT / ".venv-newest/bin/python"
HE = """
[uplink.he]
interface = "he6"
prefix = "2001:db8:77::/48"

[tunnel.he6]
remote = "198.51.100.1"
underlay = "eth0"
addresses = ["2001:db8:a::3/127"]
default = true
{keys}
[[on_change]]
exec = ["/bin/sh", "-c", "echo $PDREACTOR_TUNNEL $PDREACTOR_LOCAL $PDREACTOR_OLD_LOCAL >>/run/told"]
"""


SECOND = """
[tunnel.he8]
remote = "{remote}"
underlay = "eth0"
addresses = ["2001:db8:c::3/127"]
"""


def he(**keys: object) -> str:
    """The configuration of home, with more keys of its tunnel."""
    return HE.format(keys="".join(f"{key} = {json.dumps(one)}\n" for key, one in keys.items()))


@pytest.fixture
def home(net: Net) -> Machine:
    """a, with the tunnel; its far end is on router."""
    machine = Machine(net, he(), "a")
    if not net.path("router", "/sys/class/net/far").exists():
        net.ip("router", "link add far type sit local 198.51.100.1 remote 198.51.100.2 ttl 64",
               "link set far up", "addr add 2001:db8:a::2/127 dev far")
        net.ip("isp", "route replace 2001:db8:a::/64 via 2001:db8:ffff::2 dev wan")
    machine.pd("restore")
    machine.run("rm", "-f", "/run/told")
    return machine


def test_a_tunnel_is_made_as_asked_and_carries_packets(home: Machine, net: Net) -> None:
    tunnel, link = home.tunnel("he6"), home.link("he6")
    ends = tunnel["local"], tunnel["remote"]
    assert (*ends, tunnel["ttl"]) == ("198.51.100.2", "198.51.100.1", 64)
    assert tunnel["pmtudisc"] is True
    assert (link["mtu"], link["ifalias"]) == (1480, "pdreactor")
    assert list(home.addresses("he6")) == ["2001:db8:a::3/127"]
    assert reaches(net, "a", "2001:db8:a::2")
    assert reaches(net, "a", "2001:db8:e::1"), "by the default route"
    home.settled()


def test_the_end_point_follows_the_address_in_place(home: Machine, net: Net) -> None:
    before = home.link("he6")
    home.move("eth0", "198.51.100.2/24", "198.51.100.77/24")
    assert home.pd("plan", code=1).stdout.count("\n") == 1
    home.hook("BOUND", {"new_ip_address": "198.51.100.77"})
    assert home.tunnel("he6")["local"] == "198.51.100.77"
    assert home.link("he6")["ifindex"] == before["ifindex"]
    net.ip("router", "link set far type sit remote 198.51.100.77 local 198.51.100.1 ttl 64")
    assert reaches(net, "a", "2001:db8:e::1")
    net.ip("router", "link set far type sit remote 198.51.100.2 local 198.51.100.1 ttl 64")
    home.settled()


def test_commands_are_told_of_each_end_point_once(home: Machine, net: Net) -> None:
    home.move("eth0", "198.51.100.2/24", "198.51.100.77/24")
    home.pd("restore")
    home.pd("restore")
    told = net.read("a", "/run/told").splitlines()
    assert told == ["he6 198.51.100.77 198.51.100.2"]


BUSY = """
from pdreactor import cli, errors, nat

def plan(self):
    raise errors.KernelBusy("nftables is busy")

nat.Firewall.plan = plan
raise SystemExit(cli.main(["restore"]))
"""


def test_commands_are_told_although_the_first_pass_failed(home: Machine, net: Net) -> None:
    home.move("eth0", "198.51.100.2/24", "198.51.100.77/24")
    assert net.run("a", [sys.executable, "-c", BUSY], check=False, env=ENVIRONMENT).returncode == 75
    assert home.tunnel("he6")["local"] == "198.51.100.77"
    home.pd("restore")
    assert net.read("a", "/run/told").splitlines() == ["he6 198.51.100.77 198.51.100.2"]


def test_another_name_for_the_same_ends(home: Machine, net: Net) -> None:
    """The kernel has each pair of ends once."""
    home.configure(he().replace("he6", "he7"))
    home.pd("restore")
    assert home.tunnel("he7")["local"] == "198.51.100.2"
    assert not net.path("a", "/sys/class/net/he6").exists()
    assert reaches(net, "a", "2001:db8:e::1")
    home.settled()
    home.configure(he() + SECOND.format(remote="198.51.100.9"))
    home.pd("restore")
    home.configure(he().replace("198.51.100.1", "198.51.100.9")
                   + SECOND.format(remote="198.51.100.1"))
    home.pd("restore")
    remotes = home.tunnel("he6")["remote"], home.tunnel("he8")["remote"]
    assert remotes == ("198.51.100.9", "198.51.100.1")
    home.settled()


def test_between_two_leases_the_tunnel_stays(home: Machine) -> None:
    before = home.link("he6")["ifindex"]
    home.ip("-4 addr del 198.51.100.2/24 dev eth0")
    home.hook("EXPIRE")
    assert home.link("he6")["ifindex"] == before
    status = home.status()
    assert "interface eth0 has no IPv4 address" in str(status["problems"])
    home.ip("-4 addr add 198.51.100.2/24 dev eth0")
    home.ip("-4 route add default via 198.51.100.1")
    home.pd("restore")
    assert home.link("he6")["ifindex"] == before


def test_values_of_the_configuration_change_in_place(home: Machine) -> None:
    before = home.link("he6")["ifindex"]
    home.configure(he(mtu=1280, ttl=255).replace('"198.51.100.1"', '"203.0.113.1"'))
    home.pd("restore")
    tunnel, link = home.tunnel("he6"), home.link("he6")
    assert (tunnel["remote"], tunnel["ttl"], link["mtu"]) == ("203.0.113.1", 255, 1280)
    home.settled()
    home.configure(he(ttl=0).replace("a::3/127", "b::1/66"))
    home.pd("restore")
    assert home.link("he6")["ifindex"] == before
    assert list(home.addresses("he6")) == ["2001:db8:b::1/66"]
    assert "ttl" not in home.tunnel("he6") or home.tunnel("he6")["ttl"] == 0
    home.settled()


def test_another_mode_makes_the_link_again(home: Machine, net: Net) -> None:
    text = """
[uplink.wan]
interface = "he6"
source = "6rd"

[tunnel.he6]
mode = "6rd"
underlay = "eth0"
prefix = "2001:db8::/32"
mask_length = 8
relay = "198.51.100.1"
"""
    home.configure(text)
    home.pd("restore")
    tunnel = home.tunnel("he6")
    assert (tunnel["prefix"], tunnel["prefixlen"]) == ("2001:db8::", 32)
    assert (tunnel["relay_prefix"], tunnel["relay_prefixlen"]) == ("198.0.0.0", 8)
    assert home.prefixes() == {"2001:db8:3364:200::/56": "current"}
    home.settled()
    home.configure(he())
    home.pd("restore")
    assert home.tunnel("he6")["prefix"] == "2002::"
    assert reaches(net, "a", "2001:db8:e::1")
    home.settled()


def test_what_others_do_to_it_is_repaired(home: Machine, net: Net) -> None:
    home.ip("link set he6 down")
    home.pd("restore")
    assert reaches(net, "a", "2001:db8:e::1")
    home.ip("link set he6 type sit remote 203.0.113.1 ttl 1")
    home.pd("restore")
    assert reaches(net, "a", "2001:db8:e::1")
    home.ip("link del he6")
    home.pd("restore")
    assert reaches(net, "a", "2001:db8:e::1")
    home.settled()


def test_a_link_of_others_is_left_alone_and_said(home: Machine) -> None:
    home.pd("flush", "--forget")
    home.ip("link add he6 type sit remote 203.0.113.1")
    before = home.link("he6")
    done = home.pd("restore")
    assert "link he6 was made by others" in done.stderr
    assert home.link("he6") == before
    assert "198.51.100" not in home.ip("-6 route")
    home.ip("link del he6")


def test_a_link_that_a_pass_could_not_finish_is_taken_over(home: Machine, net: Net) -> None:
    home.pd("flush", "--forget")
    home.ip("link add he6 type sit remote 198.51.100.1 local 198.51.100.2 ttl 64")
    home.pd("restore")
    assert home.link("he6")["ifalias"] == "pdreactor"
    assert reaches(net, "a", "2001:db8:e::1")


def test_flush_removes_it(home: Machine) -> None:
    home.pd("flush")
    assert home.link("he6") == {}
    home.pd("restore")
    home.configure(he().split("[tunnel.he6]")[0])
    home.pd("restore", code=None)
    assert home.link("he6") == {}, "the configuration has it no more"


NEWEST_SAYS = """
from pathlib import Path
from pdreactor.cli import main
config = Path("/etc/pdreactor.toml")
codes = [main(["restore"]), main(["plan"])]
config.write_text(config.read_text().replace("default = true", "default = true\\nttl = 255"))
print(*codes, main(["restore"]), main(["plan"]))
"""


def test_the_newest_pyroute2_asks_for_the_same(home: Machine, net: Net) -> None:
    if not NEWEST.exists():
        pytest.skip("no .venv-newest")
    home.ip("link del he6")
    done = net.run("a", [str(NEWEST), "-c", NEWEST_SAYS], timeout=120, env=ENVIRONMENT)
    assert done.stdout.splitlines()[-1] == "0 0 0 0", done.stdout + done.stderr
    assert home.tunnel("he6")["ttl"] == 255
    home.settled()


def test_the_watch_follows_the_address_and_repairs(home: Machine, net: Net) -> None:
    home.ip("link del he6")
    watch = home.start("-v", "watch")
    net.wait(lambda: home.tunnel("he6"), 60, "the first pass of the watch")
    home.move("eth0", "198.51.100.2/24", "198.51.100.77/24")
    net.wait(lambda: home.tunnel("he6").get("local") == "198.51.100.77", 60, "the new end point")
    home.ip("link del he6")
    net.wait(lambda: home.tunnel("he6").get("local") == "198.51.100.77", 60, "the repair")
    watch.stop()
