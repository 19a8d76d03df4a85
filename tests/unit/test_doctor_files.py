"""What doctor reads: files below a root, and nothing is written."""

import ast
import fcntl
import os
import sys
from pathlib import Path

import pytest

from pdreactor.doctor import conf, gather
from pdreactor.doctor.facts import Directory, Option
from pdreactor.kernel import probe

from .box import network
from .namespace import needs_root
from .values import NOW, after, reply, told


@pytest.fixture
def look(tmp_path: Path) -> gather._Files:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    return gather._Files(str(tmp_path))


def write(look: gather._Files, name: str, text: str = "") -> Path:
    path = Path(look.path(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_dhcpcd_conf_by_blocks() -> None:
    text = ("; c\n#interface x\nduid\n  nohook a, b\ninterface eth0\n\tia_pd 1/::/58\t-\n"
            "ssid home\nnodhcp6\nprofile p\nnoipv6\ninterface lan0\nipv4only")
    found = conf.dhcpcd(text)
    assert found == (
        Option("duid", "", 3), Option("nohook", "a, b", 4),
        Option("ia_pd", "1/::/58 -", 6, "eth0"), Option("ipv4only", "", 12, "lan0"))
    assert [o.name for o in conf.concerning(found, "eth0")] == ["duid", "nohook", "ia_pd"]
    assert conf.words("a, b c") == ["a", "b", "c"]


def test_without_dhcpcd_or_its_file_there_are_no_options(look: gather._Files) -> None:
    assert gather._options(look, "/usr/sbin/dhcpcd") is None
    write(look, "etc/dhcpcd.conf", "duid\n")
    assert gather._options(look, "") is None
    assert gather._options(look, "/usr/sbin/dhcpcd") == (Option("duid", "", 1),)


def test_hook_files_are_those_that_call_it_once_each(look: gather._Files) -> None:
    write(look, "usr/lib/dhcpcd/dhcpcd-hooks/60-pdreactor", "/usr/local/sbin/pdreactor-hook\n")
    write(look, "usr/lib/dhcpcd/dhcpcd-hooks/60-pdreactor~", "pdreactor-hook\n")
    write(look, "usr/lib/dhcpcd/dhcpcd-hooks/20-resolv.conf", "# before pdreactor\n")
    write(look, "etc/dhcpcd.exit-hook", "pdreactor-hook\n")
    Path(look.path("lib")).symlink_to("usr/lib")
    assert list(gather._hooks(look)) == [
        "/usr/lib/dhcpcd/dhcpcd-hooks/60-pdreactor", "/etc/dhcpcd.exit-hook"]


def test_units_with_their_drop_ins(look: gather._Files) -> None:
    write(look, "usr/lib/systemd/system/dhcpcd.service",
          "[Service]\nProtectSystem=strict\nReadWritePaths=/a \\\n /b\n")
    write(look, "usr/lib/systemd/system/dhcpcd.service.d/z.conf", "[Service]\nReadWritePaths=/c\n")
    write(look, "usr/lib/systemd/system/dhcpcd.service.d/p.conf", "[Service]\nReadWritePaths=/d\n")
    write(look, "etc/systemd/system/dhcpcd.service.d/p.conf", "[Service]\nReadWritePaths=-/e\n")
    (unit,) = gather._units(look)
    assert unit == ("dhcpcd.service", True, ("/a", "/b", "/e", "/c"), False)
    write(look, "etc/systemd/system/multi-user.target.wants/dhcpcd.service")
    write(look, "etc/systemd/system/dhcpcd.service", "[Service]\nProtectSystem=full\n")
    write(look, "usr/lib/systemd/system/dhcpcd@.service", "[Service]\n")
    first, second = gather._units(look)
    assert (first.strict, first.enabled) == (False, True)
    assert second == ("dhcpcd@.service", False, (), False)


def test_without_systemd_there_are_no_units(tmp_path: Path) -> None:
    look = gather._Files(str(tmp_path))
    write(look, "usr/lib/systemd/system/dhcpcd.service", "[Service]\nProtectSystem=strict\n")
    assert list(gather._units(look)) == []
    assert gather._timer(look) is None


def test_the_watch_is_known_by_its_unit_or_its_lock(look: gather._Files, tmp_path: Path) -> None:
    assert not gather._watched(look, str(tmp_path))
    with (tmp_path / "watch.lock").open("w") as lock:
        assert not gather._watched(look, str(tmp_path))
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert gather._watched(look, str(tmp_path))


def test_the_timer(look: gather._Files) -> None:
    assert gather._timer(look) is False
    write(look, "etc/systemd/system/timers.target.wants/pdreactor-restore.timer")
    assert gather._timer(look) is True


def test_who_else_configures_interfaces(look: gather._Files) -> None:
    number = probe.interfaces()["lo"]
    link = write(look, f"run/systemd/netif/links/{number}", "ADMIN_STATE=unmanaged\n")
    device = write(look, f"run/NetworkManager/devices/{number}", "[device]\nmanaged=false\n")
    assert gather._networkd(look) == gather._network_manager(look) == ()
    link.write_text("# private\nADMIN_STATE=configured\n")
    device.write_text("[device]\nmanaged=true\nconnection-uuid=x\n")
    assert gather._networkd(look) == gather._network_manager(look) == ("lo",)


def test_networkd_conf_and_its_drop_ins(look: gather._Files) -> None:
    assert gather._foreign(look) == {}
    write(look, "etc/systemd/networkd.conf",
          "[Network]\n#A=1\nManageForeignRoutes=no\n[DHCP]\nManageForeignRoutes=yes\n")
    write(look, "etc/systemd/networkd.conf.d/x.conf",
          "[Network]\nManageForeignRoutingPolicyRules = off\n")
    found = gather._foreign(look)
    assert {key: conf.no(value) for key, value in found.items()} == {
        "ManageForeignRoutes": True, "ManageForeignRoutingPolicyRules": True}


def test_sysctls_and_modules(look: gather._Files) -> None:
    write(look, "proc/sys/net/ipv6/conf/all/forwarding", "1\n")
    write(look, "proc/sys/net/ipv6/conf/eth0.5/accept_ra", "2\n")
    assert dict(gather._settings(look, ["eth0.5", "no"])) == {
        "all/forwarding": "1", "eth0.5/accept_ra": "2"}
    assert gather._modules(look) == frozenset()
    base = f"lib/modules/{os.uname().release}"
    write(look, f"{base}/modules.builtin", "kernel/net/nf_nat.ko\n")
    write(look, f"{base}/modules.order", "kernel/net/netfilter/xt_NETMAP.ko\n")
    assert gather._modules(look) == {"nf_nat", "xt_NETMAP"}


def test_the_state_directory_or_where_it_will_be(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    here = Directory(str(tmp_path), os.geteuid(), 0o750, True)
    assert gather._directory(str(tmp_path)) == here
    assert gather._directory(f"{tmp_path}/a/b") == here
    (tmp_path / "file").write_text("")
    found = gather._directory(f"{tmp_path}/file")
    assert found is not None and not found.is_directory


def test_what_the_state_tells() -> None:
    known = after(reply(*told("2001:db8:4000::/58"), reason="BOUND6"))
    assert gather._told(known) == {"wan": "BOUND6"}
    assert gather._past(known) >= NOW


TRY = """
import sys
from pdreactor.doctor.gather import TRIAL
from pdreactor.kernel.probe import Probe
probe = Probe()
other = TRIAL.replace("type nat", "type dance")
print([probe.refusal(TRIAL), probe.refusal(other), probe.ruleset()])
"""


@needs_root
def test_a_trial_is_thrown_away(tmp_path: Path) -> None:
    with network(tmp_path) as box:
        run = box.run(sys.executable, "-c", TRY)
        accepted, refused, (head, *objects) = ast.literal_eval(run.stdout)
        assert (run.stderr, accepted, objects) == ("", "", [])
        assert refused  # in which libnftables may quote anything
        assert "metainfo" in head


def test_versions() -> None:
    assert probe.version("nftables v1.0.6 (Lester Gooch #5)") == (1, 0, 6)
    assert probe.version("dhcpcd 10.3\nCopyright (c) 2006-2021") == (10, 3)
    assert probe.version("") == ()
    assert probe.said("", "--version") == probe.said("/nowhere", "--version") == ""
    assert probe.said("/bin/false") == ""
    assert probe.lacking(["json", "no_such_module"]) == {"no_such_module"}
