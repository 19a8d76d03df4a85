"""What ``doctor`` asks of the kernel and of programs. Nothing here changes anything."""

import fcntl
import importlib.util
import json
import re
import socket
import struct
from collections.abc import Iterable
from typing import Any

from ..errors import BackendMissing, KernelError
from .ip6tables import ELSEWHERE, Ran, run
from .nft import Nft

SIOCGIFADDR = 0x8915


class Probe(Nft):
    """libnftables, to look and to try."""

    def ruleset(self) -> list[dict[str, Any]]:
        """All objects of all tables (libnftables-json(5)). Raises KernelError."""
        code, output, error = self._cmd("list ruleset")
        if code:
            raise KernelError(f"cannot read the ruleset: {_first_line(error)}")
        try:
            objects: list[dict[str, Any]] = json.loads(output or '{"nftables": []}')["nftables"]
        except ValueError as exc:
            raise KernelError(f"cannot understand what nft says of the ruleset ({exc})") from exc
        return objects

    def refusal(self, commands: str) -> str:
        """Why the kernel would not take these commands; "" when it would, or when this version of
        the binding cannot tell. The transaction is checked and thrown away (nft(8) --check)."""
        if not hasattr(self._nft, "set_dry_run"):
            return ""
        before = self._nft.set_dry_run(True)
        try:
            code, _, error = self._cmd(commands)
        finally:
            self._nft.set_dry_run(bool(before))
        return _first_line(error) if code else ""


def _first_line(said: str) -> str:
    return next((line.strip() for line in said.splitlines() if line.strip()), "no reason given")


def lacking(modules: Iterable[str]) -> frozenset[str]:
    """Those of the Python modules that cannot be found."""
    return frozenset(name for name in modules if importlib.util.find_spec(name) is None)


def path_of(program: str, search: str) -> str:
    """Where a program is, by PATH and where a router has its own; "" when it is not there."""
    import shutil

    return shutil.which(program, path=":".join((search, *ELSEWHERE))) or ""


def said(path: str, *arguments: str) -> str:
    """What a program prints; "" when there is none, or it fails."""
    if not path:
        return ""
    try:
        ran: Ran = run([path, *arguments])
    except BackendMissing:
        return ""
    return ran.out if ran.code == 0 else ""


def version(text: str) -> tuple[int, ...]:
    """The first version number in a line: (1, 0, 6)."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part) if found else ()


def has_ipv4(interface: str) -> bool:
    """Whether an interface has an IPv4 address (netdevice(7), SIOCGIFADDR)."""
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            fcntl.ioctl(probe, SIOCGIFADDR, request)
        except OSError:
            return False  # ENODEV, EADDRNOTAVAIL
    return True


def interfaces() -> dict[str, int]:
    """{interface: its number}."""
    return {name: number for number, name in socket.if_nameindex()}
