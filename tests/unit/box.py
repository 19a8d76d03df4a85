"""pdreactor as processes, with files of its own, in a network namespace of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = """
[uplink.wan]
interface = "wan0"

[[translation]]
uplink = "wan"
internal = "fd5e:ed00:1234::/58"
"""
Ran = subprocess.CompletedProcess[str]


class Box:
    """A configuration, a state directory, and commands that use them."""

    def __init__(self, directory: Path, before: tuple[str, ...] = ()) -> None:
        self.config, self.state = directory / "pdreactor.toml", directory / "state"
        self.environ = directory / "environ"
        self.before = before
        self.configure(CONFIG)

    def configure(self, text: str) -> None:
        self.config.write_text(f'state_dir = "{self.state}"\n{text}')

    def run(self, *argv: str, env: dict[str, str] | None = None, **rest) -> Ran:
        """A command in the namespace; nothing of the caller's environment but PATH."""
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **(env or {})}
        rest = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **rest}
        return subprocess.run([*self.before, *argv], env=environment, text=True, timeout=60,
                              cwd="/", check=False, **rest)

    def ip(self, *arguments: str) -> str:
        ran = self.run("ip", *arguments)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def cli(self, *arguments: str, **rest) -> Ran:
        """``pdreactor`` with this configuration."""
        return self.run(sys.executable, "-m", "pdreactor.cli", "-c", str(self.config), *arguments,
                        **rest)

    def hook(self, block: bytes, *, config: str | None = None, **rest) -> Ran:
        """``pdreactor-hook``; the configuration is named in the block, as dhcpcd's env does."""
        own = f"PDREACTOR_CONFIG={config or self.config}".encode()
        self.environ.write_bytes(block + own + b"\0")
        return self.run(sys.executable, "-m", "pdreactor.hook", "--environ", str(self.environ),
                        **rest)


@contextmanager
def network(directory: Path, *interfaces: str) -> Iterator[Box]:
    """A Box in a new network namespace with these interfaces, up. Root only."""
    with subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as keeper:
        assert keeper.stdin and keeper.stdout
        keeper.stdin.write(b"there\n")
        keeper.stdin.flush()
        assert keeper.stdout.readline() == b"there\n"
        box = Box(directory, ("nsenter", "-t", str(keeper.pid), "-n", "--"))
        for name in interfaces:
            box.ip("link", "add", name, "type", "veth", "peer", "name", f"{name}-far")
        for name in ("lo", *interfaces, *(f"{name}-far" for name in interfaces)):
            box.ip("link", "set", name, "up")
        try:
            yield box
        finally:
            keeper.stdin.close()


def block(reason: str, *more: str, interface: str = "wan0", prefix: str | None = None,
          valid: int = 600) -> bytes:
    """dhcpcd's environment; with a prefix it is a reply."""
    lines = [f"reason={reason}", f"interface={interface}", *more]
    if prefix:
        address, _, length = prefix.partition("/")
        name = "new_dhcp6_ia_pd1"
        lines += [f"{name}_iaid=00000001", f"{name}_prefix1_pltime=60",
                  f"{name}_prefix1_vltime={valid}", f"{name}_prefix1_length={length}",
                  f"{name}_prefix1={address}"]
    return b"".join(line.encode() + b"\0" for line in lines)
