"""hooks/60-pdreactor: what dhcpcd-run-hooks sources for every event of every interface."""

import os
import re
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pdreactor.reasons import REASONS

ROOT = Path(__file__).parents[2]
HOOK = ROOT / "hooks/60-pdreactor"
BUSYBOX = shutil.which("busybox")
SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"]}
if BUSYBOX:
    SHELLS["busybox"] = [BUSYBOX, "sh"]

STUB = """#!/bin/sh
printf '%s\\n' "$*" >>{log}
cat "$2" >>{log}.environ
exit {code}
"""


@dataclass
class Bench:
    """A directory with the hook as installed, a stand-in for pdreactor-hook, a configuration."""

    path: Path

    def install(self, code: int = 0) -> None:
        """Put the hook and the stand-in, which exits with ``code``, in place."""
        text = HOOK.read_text().replace("@SBINDIR@", str(self.path / "sbin"))
        (self.path / "60-pdreactor").write_text(text)
        (self.path / "sbin").mkdir(exist_ok=True)
        stub = self.path / "sbin/pdreactor-hook"
        stub.write_text(STUB.format(log=self.path / "log", code=code))
        stub.chmod(0o755)
        self.configuration.write_text('[uplink.wan]\ninterface = "eth0"\n')

    @property
    def configuration(self) -> Path:
        """Its pdreactor.toml."""
        return self.path / "pdreactor.toml"

    @property
    def calls(self) -> list[str]:
        """The arguments of each start of pdreactor-hook."""
        log = self.path / "log"
        return log.read_text().splitlines() if log.exists() else []

    def source(
        self, shell: list[str], script: str, environment: dict[str, str], **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script in which ``$hook`` is the file to source."""
        variables = {
            "PATH": os.environ["PATH"],
            "PDREACTOR_CONFIG": str(self.configuration),
            "hook": str(self.path / "60-pdreactor"),
            **environment,
            **more,
        }
        return subprocess.run(
            [*shell, "-c", script],
            env={name: value for name, value in variables.items() if value},
            capture_output=True,
            text=True,
            timeout=20,
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An installed hook."""
    bench = Bench(tmp_path)
    bench.install()
    return bench


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    """Each shell that /bin/sh may be."""
    argv = SHELLS[request.param]
    if shutil.which(argv[0]) is None:
        pytest.skip(f"no {argv[0]} here")
    return argv


def event(reason: str, interface: str = "eth0", **more: str) -> dict[str, str]:
    """What dhcpcd says."""
    return {"reason": reason, "interface": interface, **more}


def hook_reasons() -> set[str]:
    """The reasons that the file names in its ``case``."""
    text = HOOK.read_text().split("case ${reason-} in", 1)[1].split("esac", 1)[0]
    branches = re.findall(r"^([A-Z0-9_ |\\\n\t]+)\)", text, re.M)
    return set(" ".join(branches).replace("\\\n", " ").replace("|", " ").split())


# ---- which events start Python -------------------------------------------------------------


def test_the_file_and_reasons_py_agree_on_what_matters() -> None:
    assert hook_reasons() == set(REASONS)


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_a_reason_that_matters_starts_pdreactor_once(bench: Bench, reason: str) -> None:
    bench.configuration.write_text('interface = "eth0"\ntable = 200\n[tunnel.sit1]\n')
    done = bench.source(["sh"], '. "$hook"; echo "$$"', event(reason))
    assert bench.calls == [f"--environ /proc/{done.stdout.strip()}/environ"]


@pytest.mark.parametrize(
    "reason", ["BOUND", "RENEW", "ROUTERADVERT", "PREINIT", "RECONFIGURE", "TEST", "INFORM6", ""]
)
def test_other_reasons_start_nothing(bench: Bench, shell: list[str], reason: str) -> None:
    # With an empty PATH anything but the shell's own commands would fail and say so.
    done = bench.source(shell, 'PATH=; . "$hook"', event(reason))
    assert (done.returncode, done.stdout, done.stderr, bench.calls) == (0, "", "", [])


@pytest.mark.parametrize(("text", "calls"), [
    ("[iptables]", 0), ("# no table", 0), ("table = 200", 1), ('"table"=200', 1),
    ("{'table' = 200}", 1),
])
def test_an_advertisement_matters_where_there_is_a_table(
    bench: Bench, shell: list[str], text: str, calls: int
) -> None:
    bench.configuration.write_text(f'interface = "eth0"\n{text}\n')
    done = bench.source(shell, '. "$hook"', event("ROUTERADVERT"))
    assert (done.returncode, done.stderr, len(bench.calls)) == (0, "", calls)


@pytest.mark.parametrize(("reason", "text", "calls"), [
    ("ROUTERADVERT", 'source = "onlink"', 1), ("BOUND", "[tunnel.sit1]", 1), ("STOP", "", 0),
    ("RENEW", "table = 200", 0),
])
def test_an_ipv4_lease_matters_where_there_is_a_tunnel(
    bench: Bench, shell: list[str], reason: str, text: str, calls: int
) -> None:
    bench.configuration.write_text(f'interface = "eth0"\n{text}\n')
    done = bench.source(shell, '. "$hook"', event(reason))
    assert (done.returncode, done.stderr, len(bench.calls)) == (0, "", calls)


def test_an_interface_that_the_configuration_does_not_name_starts_nothing(bench: Bench) -> None:
    bench.source(["sh"], '. "$hook"', event("BOUND6", "wlan0"))
    assert bench.calls == []


def test_the_real_name_of_an_interface_counts_too(bench: Bench) -> None:
    bench.configuration.write_text('interface = "eth0/weird"')
    bench.source(["sh"], '. "$hook"', event("BOUND6", "eth0_weird", ifxname="eth0/weird"))
    assert len(bench.calls) == 1


def test_a_configuration_that_was_asked_for_and_is_missing_is_reported(bench: Bench) -> None:
    bench.configuration.unlink()
    bench.source(["sh"], '. "$hook"', event("BOUND6"))
    assert len(bench.calls) == 1


@pytest.mark.skipif(Path("/etc/pdreactor.toml").exists(), reason="this machine is configured")
def test_installed_but_not_configured_is_silent(bench: Bench) -> None:
    done = bench.source(["sh"], '. "$hook"', event("BOUND6"), PDREACTOR_CONFIG="")
    assert (done.returncode, done.stderr, bench.calls) == (0, "", [])


# ---- what it hands over --------------------------------------------------------------------


def test_the_block_is_the_one_dhcpcd_made_not_what_hooks_made_of_it(bench: Bench) -> None:
    script = 'export new_dhcp6_ia_pd1_iaid=changed; (. "$hook")'
    bench.source(["sh"], script, event("BOUND6", new_dhcp6_ia_pd1_iaid="00000001"))
    block = (bench.path / "log.environ").read_bytes().split(b"\0")
    assert b"new_dhcp6_ia_pd1_iaid=00000001" in block


# ---- what it leaves behind -----------------------------------------------------------------


@pytest.mark.parametrize("reason", ["BOUND6", "BOUND"])
@pytest.mark.parametrize("options", ["", "set -eu;"])
@pytest.mark.parametrize("code", [0, 70])
def test_the_hooks_after_it_go_on_and_see_nothing_of_it(
    bench: Bench, shell: list[str], reason: str, options: str, code: int
) -> None:
    bench.install(code)
    script = f"""{options} set -- one two; set >"$hook.before"; . "$hook"; set >"$hook.after"
echo "$* $-"; command -v pdreactor_hook || echo gone"""
    done = bench.source(shell, script, event(reason))
    changing = ("_=", "PIPESTATUS=", "LINENO=", "BASH")  # the shell's own, with every command
    before, after = (
        [
            line
            for line in Path(f"{bench.path}/60-pdreactor.{when}").read_text().splitlines()
            if not line.startswith(changing)
        ]
        for when in ("before", "after")
    )
    assert before == after
    assert done.stdout.startswith("one two ") and done.stdout.endswith("\ngone\n")
    assert done.stderr == ""
    assert len(bench.calls) == (reason == "BOUND6")


def test_without_the_program_it_does_nothing(bench: Bench, shell: list[str]) -> None:
    (bench.path / "sbin/pdreactor-hook").unlink()
    done = bench.source(shell, 'set -eu; . "$hook"; echo on', event("BOUND6"), PATH="/usr/bin:/bin")
    assert (done.stdout, done.stderr) == ("on\n", "")


# ---- what it costs -------------------------------------------------------------------------


def test_an_event_that_does_not_matter_costs_less_than_5_ms(bench: Bench) -> None:
    def measure(script: str) -> float:
        times = []
        for _ in range(15):
            start = time.perf_counter()
            bench.source(["dash"], script, event("RENEW"))
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    once = measure("for i in 1; do :; done")
    hundred = measure('i=0; while [ $i -lt 100 ]; do . "$hook"; i=$((i+1)); done')
    assert (hundred - once) / 100 < 0.005


# ---- installing ----------------------------------------------------------------------------


def tree(root: Path) -> set[str]:
    """Everything below a directory."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def make(target: str, root: Path) -> None:
    """make install or uninstall below ``root``."""
    argv = ["make", "-s", "-C", str(ROOT), target, f"DESTDIR={root}", "SYSTEMD=yes"]
    argv.append("DHCPCD_HOOKS=/usr/lib/dhcpcd/dhcpcd-hooks")
    subprocess.run(argv, check=True, capture_output=True, timeout=60)


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """The directories that every system with dhcpcd has."""
    for directory in (
        "usr/lib/dhcpcd/dhcpcd-hooks",
        "etc/systemd/system",
        "usr/local/sbin",
        "usr/local/lib",
        "usr/local/share/man",
        "usr/local/share/doc",
    ):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "etc/pdreactor.toml").write_text("# the user's\n")
    return tmp_path


def test_uninstall_leaves_the_tree_as_install_found_it(system: Path) -> None:
    before = tree(system)
    make("install", system)
    make("install", system)  # an upgrade
    assert "usr/local/sbin/pdreactor-hook" in tree(system)
    assert (system / "etc/pdreactor.toml").read_text() == "# the user's\n"
    make("uninstall", system)
    assert tree(system) == before


def test_what_is_installed_has_no_placeholder_and_its_byte_code(system: Path) -> None:
    make("install", system)
    for name in ("sbin/pdreactor", "sbin/pdreactor-hook"):
        assert "@" not in (system / "usr/local" / name).read_text()
    assert "@SBINDIR@" not in (system / "usr/lib/dhcpcd/dhcpcd-hooks/60-pdreactor").read_text()
    package = system / "usr/local/lib/pdreactor/pdreactor"
    assert len(list(package.rglob("*.pyc"))) == len(list(package.rglob("*.py")))
    assert str(system).encode() not in next(package.rglob("hook.*.pyc")).read_bytes()


def test_the_hook_names_the_installed_program(system: Path) -> None:
    make("install", system)
    hook = (system / "usr/lib/dhcpcd/dhcpcd-hooks/60-pdreactor").read_text()
    assert '"/usr/local/sbin/pdreactor-hook"' in hook
