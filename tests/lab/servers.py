"""Configuration of the DHCPv6 server and client that run in a test network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .process import LabError, Process

KEA = Path(__file__).parents[2] / ".cache" / "kea"
DHCPCD = "/usr/sbin/dhcpcd"
HOOK_DIRECTORY = "/usr/lib/dhcpcd/dhcpcd-hooks"
CALLS = "/run/lab-calls"

DHCPCD_CONF = """\
duid 00:03:00:01:02:00:00:00:02:01
persistent
nodelay
option rapid_commit
slaac hwaddr
allowinterfaces {interface}
nohook lookup-hostname hostname mtu ntp.conf resolv.conf timezone wpa_supplicant

interface {interface}
    ipv6only
    nogateway
    noipv6rs
    noauthrequired
    ia_pd 1/::/58 nosuch0/0/58
"""
"""What dhcpcd 9.4.1 makes of the usual configuration for a router that wants a prefix only."""

RECORD_HOOK = f"""\
# Keep the environment of each call, as the kernel has it: order and duplicates included.
lab_number=$(ls {CALLS} 2>/dev/null | wc -l)
mkdir -p {CALLS}
cat /proc/$$/environ >{CALLS}/.new
mv {CALLS}/.new "{CALLS}/$(printf %04d "$lab_number")"
"""


@dataclass(frozen=True)
class Pool:
    """What a DHCPv6 server delegates, and for how long; seconds."""

    prefix: str = "2001:db8:4000::/44"
    delegated_len: int = 58
    preferred: int = 3600
    valid: int = 7200
    renew: int = 1000
    rebind: int = 2000


def kea_config(
    pool: Pool, link: str, directory: Path, extra: Mapping[str, object] | None = None
) -> str:
    """The configuration file of kea-dhcp6; ``extra`` replaces keys of its Dhcp6 map."""
    prefix, length = pool.prefix.split("/")
    pd_pool = {"prefix": prefix, "prefix-len": int(length), "delegated-len": pool.delegated_len}
    dhcp6: dict[str, object] = {
        "interfaces-config": {"interfaces": ["wan"]},
        "lease-database": {"type": "memfile", "persist": False},
        "data-directory": str(directory),
        "server-id": {"type": "LL", "persist": False},
        "preferred-lifetime": pool.preferred,
        "valid-lifetime": pool.valid,
        "renew-timer": pool.renew,
        "rebind-timer": pool.rebind,
        "subnet6": [
            {"id": 1, "subnet": link, "interface": "wan", "rapid-commit": True,
             "pd-pools": [pd_pool]},
        ],
        "loggers": [
            {"name": "kea-dhcp6", "severity": "INFO", "output_options": [{"output": "stdout"}]},
        ],
    }  # fmt: skip
    return json.dumps({"Dhcp6": {**dhcp6, **(extra or {})}}, indent=1)


def kea_command(config: Path) -> list[str]:
    """How to start the privately unpacked server; LabError when it is not there."""
    binary = KEA / "usr/sbin/kea-dhcp6"
    if not binary.exists():
        raise LabError(f"{binary} is missing: run tests/setup.sh as root")
    return [str(binary), "-c", str(config)]


def kea_environment(directory: Path) -> dict[str, str]:
    """The server's own libraries, and its pid and lock files in a directory of ours."""
    libraries = [str(path) for path in (KEA / "usr/lib").iterdir() if path.is_dir()]
    return {
        "PATH": "/usr/sbin:/usr/bin",
        "LD_LIBRARY_PATH": ":".join(libraries),
        "KEA_PIDFILE_DIR": str(directory),
        "KEA_LOCKFILE_DIR": str(directory),
    }


@dataclass(frozen=True)
class Kea:
    """A running server, and what it was configured with."""

    process: Process
    config: Path
    pool: Pool
    extra: Mapping[str, object]

    def configured(self) -> int:
        """How often it has taken a configuration."""
        return self.process.output().count("DHCP6_STARTED") + self.process.output().count(
            "DHCP6_DYNAMIC_RECONFIGURATION_SUCCESS"
        )


def parse_environment(raw: bytes) -> dict[str, str]:
    """A raw environment block as a dictionary; of a duplicate name the last one counts."""
    pairs = (entry.partition("=") for entry in raw.decode(errors="replace").split("\0") if entry)
    return {name: value for name, _equals, value in pairs}
