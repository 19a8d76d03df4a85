"""pdreactor installed on the router of a test network, as ``make install`` does it."""

from pathlib import Path

from .lab import Lab

ROOT = Path(__file__).parents[2]
CONFIG_FILE = "/etc/pdreactor.toml"
CONFIG = """\
[uplink.wan]
interface = "eth0"

[[translation]]
uplink = "wan"
internal = "{internal}"
"""
"""The smallest useful configuration."""


def install(lab: Lab, config: str | None = None, machine: str = "router") -> None:
    """Install this checkout below the router's own /usr/local, which is empty and private, and
    write its configuration."""
    lab.run(machine, ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/usr/local"])
    # Without what an outer make passes on (its jobserver, its variables).
    clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    command = ["make", "-s", "-C", str(ROOT), "install", "SYSTEMD=no"]
    lab.run(machine, command, env=clean, timeout=60)
    text = CONFIG.format(internal=lab.internal) if config is None else config
    lab.write(machine, CONFIG_FILE, text)
