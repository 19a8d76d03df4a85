"""The test network itself: it comes up, its real DHCP talks, it counts right, it leaves nothing."""

import ipaddress
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import POOLS, SERVER, CommandError, Lab, LabError, Pool

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="not root: namespaces need it")

ROOT = Path(__file__).parents[2]
OLD, NEW, OTHER = POOLS
INTERNAL = "fd5e:ed00:1234::/58"
EXTERNAL, EXTERNAL_2 = "2001:db8:4000::/58", "2001:db8:8000::/58"
SNAT = """
table ip6 nat {{
    chain post {{
        type nat hook postrouting priority srcnat;
        oifname "eth0" ip6 saddr {internal} snat ip6 prefix to {external}
    }}
}}
"""

ABANDON = """
import time
from tests.lab import Lab

lab = Lab().__enter__()
lab.start("router", ["sleep", "300"])
print(lab.pid("router"), lab.directory, flush=True)
time.sleep(300)
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A fresh network."""
    with Lab() as network:
        yield network


def reachable(lab: Lab, machine: str, address: str) -> bool:
    """One ping."""
    return lab.run(machine, ["ping", "-c1", "-W2", address], check=False).returncode == 0


def processes_in(namespace: str) -> list[str]:
    """Processes whose network namespace is that one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "ns/net") == namespace:
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


def net_of(lab: Lab, machine: str) -> str:
    """The identity of a machine's network namespace."""
    return os.readlink(f"/proc/{lab.pid(machine)}/ns/net")


def nat(lab: Lab, external: str = EXTERNAL) -> None:
    """Translate everything internal on the router, in the simplest way."""
    lab.nft("router", SNAT.format(internal=INTERNAL, external=external))


# ---- it comes up ---------------------------------------------------------------------------


def test_everybody_reaches_the_router_and_the_router_the_server(lab: Lab) -> None:
    assert reachable(lab, "a", "fd5e:ed00:1234::1")
    assert reachable(lab, "b", "fd5e:ed00:1234:1::1")
    assert reachable(lab, "a", "fd5e:ed00:1234:1::2")
    assert reachable(lab, "router", SERVER)


def test_two_uplinks() -> None:
    with Lab(uplinks=2) as lab:
        assert reachable(lab, "router", "2001:db8:ffff::1")
        assert reachable(lab, "router", "2001:db8:fffe::1")
        assert lab.count("isp2").arrived == 0


def test_building_and_removing_is_quick() -> None:
    begin = time.monotonic()
    with Lab():
        built = time.monotonic()
    removed = time.monotonic()
    assert built - begin < 2
    assert removed - built < 0.5


def test_a_command_that_fails_says_what_it_printed(lab: Lab) -> None:
    with pytest.raises(CommandError, match="no such thing") as caught:
        lab.run("a", ["sh", "-c", "echo no such thing >&2; exit 3"])
    assert caught.value.code == 3
    assert lab.run("a", ["false"], check=False).returncode == 1


def test_a_command_that_hangs_is_ended(lab: Lab) -> None:
    with pytest.raises(LabError, match="took more than"):
        lab.run("a", ["sleep", "60"], timeout=0.2)


def test_commands_get_input_environment_and_directory(lab: Lab) -> None:
    script = 'read line; echo "$line $ONLY $(pwd) $(env | wc -l)"'
    done = lab.run(
        "router", ["/bin/sh", "-c", script], input="hello\n", env={"ONLY": "x"}, cwd="/usr"
    )
    assert done.stdout.split()[:3] == ["hello", "x", "/usr"]


# ---- it is private -------------------------------------------------------------------------


def test_files_of_the_router_are_its_own(lab: Lab) -> None:
    resolver = Path("/etc/resolv.conf").read_bytes()
    names = ["/etc/pdreactor.toml", "/var/lib/pdreactor/state", "/run/x", "/etc/resolv.conf"]
    names.append("/usr/lib/dhcpcd/dhcpcd-hooks/99-lab-test")
    for name in names:
        lab.write("router", name, "private")
        assert lab.run("router", ["cat", name]).stdout == lab.read("router", name) == "private"
    assert [name for name in names if Path(name).exists()] == ["/etc/resolv.conf"]
    assert Path("/etc/resolv.conf").read_bytes() == resolver
    assert sorted(os.listdir(lab.path("router", "/sys/class/net"))) == [
        "eth0",
        "lan0",
        "lan1",
        "lo",
    ]


def test_nothing_is_left_even_after_an_exception() -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    with pytest.raises(ZeroDivisionError), Lab() as lab:
        spaces = [net_of(lab, machine) for machine in ("isp", "router", "a", "b")]
        lab.start("router", ["sh", "-c", "trap '' TERM; (setsid sleep 300 &) ; sleep 300"])
        lab.wait(lambda: len(processes_in(spaces[1])) >= 4, 5, "the processes to start")
        raise ZeroDivisionError
    assert [processes_in(space) for space in spaces] == [[], [], [], []]
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not lab.directory.exists()


def test_nothing_is_left_when_the_test_process_is_killed() -> None:
    child = subprocess.Popen([sys.executable, "-c", ABANDON], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        with child.stdout:
            pid, directory = child.stdout.readline().decode().split()
        space = os.readlink(f"/proc/{pid}/ns/net")
        assert len(processes_in(space)) == 2
    finally:
        child.kill()
        child.wait(10)
    deadline = time.monotonic() + 5
    while (processes_in(space) or Path(directory).exists()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes_in(space) == []
    assert not Path(directory).exists()


# ---- real DHCP -----------------------------------------------------------------------------


def prefix_in(call: dict[str, str], number: int = 1) -> tuple[str, str]:
    """Address and valid lifetime of a prefix in a hook's environment."""
    name = f"new_dhcp6_ia_pd1_prefix{number}"
    return call[name], call[f"{name}_vltime"]


def test_dhcpcd_gets_a_prefix_and_calls_the_hook(lab: Lab) -> None:
    resolver = Path("/etc/resolv.conf").read_bytes()
    lab.record_hook()
    lab.start_kea(Pool(preferred=300, valid=600))
    client = lab.start_dhcpcd()
    call = lab.wait_hook("BOUND6")
    assert prefix_in(call) == ("2001:db8:4000::", "600")
    assert call["new_dhcp6_ia_pd1_prefix1_length"] == "58"
    assert call["interface"] == "eth0"
    assert b"reason=BOUND6\0" in b"".join(lab.raw_hook_calls())
    client.stop()
    assert lab.hook_calls()[-1]["reason"] == "STOPPED"
    assert Path("/etc/resolv.conf").read_bytes() == resolver


def test_renumbering_at_once(lab: Lab) -> None:
    lab.record_hook()
    lab.start_kea()
    lab.start_dhcpcd()
    lab.wait_hook("BOUND6")
    calls = len(lab.hook_calls())
    lab.renumber(NEW)
    lab.dhcpcd_renew()
    call = lab.wait_hook("RENEW6", "REBIND6", since=calls, timeout=5)
    assert prefix_in(call, 1)[0] == "2001:db8:8000::"
    assert prefix_in(call, 2) == ("2001:db8:4000::", "0")


def test_renumbering_by_the_timer(lab: Lab) -> None:
    lab.record_hook()
    lab.start_kea(Pool(preferred=30, valid=40, renew=2, rebind=20))
    lab.start_dhcpcd()
    lab.wait_hook("BOUND6")
    lab.renumber(OTHER)
    wanted = str(ipaddress.IPv6Network(OTHER).network_address)
    lab.wait(
        lambda: any(prefix_in(call)[0] == wanted for call in lab.hook_calls("RENEW6")), 10, wanted
    )


def test_each_isp_has_its_own_server() -> None:
    with Lab(uplinks=2) as lab:
        lab.record_hook()
        lab.start_kea(Pool(prefix=NEW, delegated_len=56), isp="isp2")
        lab.start_dhcpcd(interface="eth1")
        call = lab.wait_hook("BOUND6")
        assert call["interface"] == "eth1"
        assert prefix_in(call)[0] == "2001:db8:8000::"
        assert call["new_dhcp6_ia_pd1_prefix1_length"] == "56"


# ---- traffic -------------------------------------------------------------------------------


def test_every_new_flow_arrives_without_translation(lab: Lab) -> None:
    address, router = "2001:db8:4000:1::2", "2001:db8:4000:1::1"
    lab.run("router", ["ip", "addr", "add", f"{router}/64", "dev", "lan0", "nodad"])
    lab.run("a", ["ip", "addr", "add", f"{address}/64", "dev", "eth0", "nodad"])
    assert reachable(lab, "a", router)
    lab.count_prefix(EXTERNAL)
    sent = lab.start_flows(source=address, rate=5000, seconds=2).wait()
    count = lab.count()
    assert sent.sent == pytest.approx(10_000, rel=0.05)
    assert (count.arrived, count.leaked) == (sent.sent, 0)
    assert count.by_prefix == {EXTERNAL: sent.sent}


def test_every_new_flow_arrives_translated(lab: Lab) -> None:
    nat(lab)
    lab.conntrack_timeout(2)
    lab.count_prefix(EXTERNAL, EXTERNAL_2)
    flows = lab.start_flows()
    lab.wait(lambda: lab.count().arrived > 5000, 10, "5,000 flows")
    sent = flows.stop()
    count = lab.count()
    assert sent.refused == 0
    assert (count.arrived, count.leaked) == (sent.sent, 0)
    assert count.by_prefix == {EXTERNAL: sent.sent, EXTERNAL_2: 0}
    lab.reset_count()
    assert lab.count().arrived == 0


def test_flows_without_translation_are_leaks(lab: Lab) -> None:
    sent = lab.start_flows(seconds=0.2).wait()
    count = lab.count()
    assert sent.sent > 0
    assert count.leaked == count.leaked_flows == count.arrived == sent.sent


def test_a_running_flow_sees_its_source(lab: Lab) -> None:
    nat(lab)
    server = lab.start_echo()
    flow = lab.start_running_flow(interval_ms=5)
    lab.wait(lambda: lab.run("router", ["conntrack", "-L", "-f", "ipv6"]).stdout, 5, "the flow")
    time.sleep(0.2)
    report = flow.stop()
    assert report.sent > 10
    assert report.lost == ()
    assert report.sources == {"2001:db8:4000::2": report.sent}
    server.stop()
    assert f'"2001:db8:4000::2": {report.sent}' in server.output()


def test_the_sniffer_tells_when_a_prefix_was_first_seen(lab: Lab) -> None:
    nat(lab)
    sniffer = lab.sniff(EXTERNAL_2)
    flows = lab.start_flows(rate=2000)
    lab.wait(lambda: lab.count().arrived > 100, 5, "flows")
    before = time.monotonic()
    lab.nft("router", "flush table ip6 nat\n" + SNAT.format(internal=INTERNAL, external=EXTERNAL_2))
    after = time.monotonic()
    assert before < sniffer.wait(5) < after + 0.01
    assert flows.stop().refused == 0
