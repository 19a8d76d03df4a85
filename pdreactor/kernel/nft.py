"""libnftables through its official Python binding (python-nftables), and nothing else.

Run as text, read as JSON (libnftables-json(5)). Errors come back as English text made with
strerror(3), so they are recognised by what strerror says here, not by strings of our own.
"""

import errno
import os
from typing import Any

from ..errors import (
    BackendMissing,
    KernelBusy,
    KernelError,
    NoNftables,
    PdreactorError,
    PermissionDenied,
)
from .retry import persistently

PACKAGES = ("python3-nftables on Debian, Ubuntu and Fedora, nftables on Arch, "
            "py3-nftables on Alpine")
BUSY = tuple(os.strerror(n) for n in (
    errno.EBUSY, errno.EAGAIN, errno.ENOBUFS, errno.EINTR, errno.ENOMEM))
FORBIDDEN = tuple(os.strerror(n) for n in (errno.EPERM, errno.EACCES))
UNKNOWN = tuple(os.strerror(n) for n in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT))
"""What nfnetlink says of a subsystem that it does not have."""
ABSENT = os.strerror(errno.ENOENT)
CAP_NET_ADMIN = 12
SYMBOLS = "/proc/kallsyms"
"""Names without addresses: readable without privileges (kernel/kallsyms.c)."""


_CONTEXTS: list[Any] = []
"""The one context of this process, kept to its end: freeing it takes 11 ms, for the end of its
socket, and each takes a megabyte."""


class Nft:
    """One libnftables context. Raises BackendMissing without the binding or its library."""

    def __init__(self) -> None:
        if not _allowed():  # libnftables would write a line of its own to stderr
            raise PermissionDenied("cannot use nftables: this needs root or CAP_NET_ADMIN")
        try:
            import nftables
            if not _CONTEXTS:
                _CONTEXTS.append(nftables.Nftables())
                _CONTEXTS[0].set_json_output(True)
            self._nft = _CONTEXTS[0]
        except (ImportError, OSError, AttributeError) as exc:
            raise BackendMissing(f"python-nftables cannot be used ({exc}): install {PACKAGES}; a "
                                 f"virtual environment needs --system-site-packages") from exc

    def _cmd(self, commands: str) -> tuple[int, str, str]:
        """(code, output, errors). libnftables 1.0.6 now and then quotes a line that it has freed,
        and the binding stumbles over what stands there by then."""
        try:
            code, output, error = self._nft.cmd(commands)
        except UnicodeDecodeError as exc:
            return -1, "", exc.object.decode("utf-8", "replace")
        return code, output, error

    def run(self, commands: str, doing: str) -> None:
        """Run commands as one transaction, again while the kernel is busy.

        Raises KernelBusy, PermissionDenied or KernelError; nothing was changed then.
        """
        persistently(lambda: self._run(commands, doing))

    def check(self, commands: str, doing: str) -> None:
        """Have nft and the kernel look whether they would take these commands (nft -c). Raises as
        ``run`` does."""
        self._nft.set_dry_run(True)
        try:
            self.run(commands, doing)
        finally:
            self._nft.set_dry_run(False)

    def _run(self, commands: str, doing: str) -> None:
        code, _, error = self._cmd(commands)
        if code:
            raise _explained(error, doing)

    def _listed(self, family: str, name: str) -> str | None:
        code, output, error = self._cmd(f"list table {family} {name}")
        if code and ABSENT in error:
            return None
        if code:
            raise _explained(error, f"read table {family} {name}")
        return str(output)

    def has_ip6(self) -> bool:
        """False on a kernel whose nf_tables has no IPv6 tables. It says so only when one is made;
        to know it before, the function that runs their rules is looked for among its symbols."""
        try:
            with open(SYMBOLS, "rb") as file:
                return b"nft_do_chain_ipv6" in file.read()
        except OSError:
            return True

    def flowtables(self) -> list[str]:
        """The flowtables of all families, "FAMILY TABLE NAME" each."""
        import json

        output = persistently(self._flowtables)
        return [" ".join(one["flowtable"][key] for key in ("family", "table", "name"))
                for one in json.loads(output)["nftables"] if "flowtable" in one]

    def _flowtables(self) -> str:
        code, output, error = self._cmd("list flowtables")
        if code:
            raise _explained(error, "read the flowtables")
        return str(output)

    def counters(self, family: str, name: str) -> dict[str, int]:
        """{counter: packets} of a table; nothing when there is no such table."""
        import json

        code, output, _ = self._cmd(f"list counters table {family} {name}")
        found = json.loads(output)["nftables"] if not code and output else []
        return {one["counter"]["name"]: one["counter"]["packets"]
                for one in found if "counter" in one}

    def list_table(self, family: str, name: str) -> list[dict[str, Any]] | None:
        """The table's objects as libnftables-json(5) has them; None when there is no such table."""
        import json

        output = persistently(lambda: self._listed(family, name))
        if output is None:
            return None
        try:
            objects: list[dict[str, Any]] = json.loads(output)["nftables"]
        except ValueError as exc:  # 1.0.6 prints garbage for the names of some table flags
            raise KernelError(f"cannot understand what nft says of table {family} {name} ({exc}); "
                              f"pdreactor flush, then restore, makes it anew") from exc
        return objects


def _allowed() -> bool:
    """False without CAP_NET_ADMIN (capabilities(7)); True when that cannot be found out."""
    try:
        with open("/proc/self/status", "rb") as file:
            effective = next(line for line in file if line.startswith(b"CapEff:"))
    except (OSError, StopIteration):
        return True
    return bool(int(effective.split()[1], 16) >> CAP_NET_ADMIN & 1)


def _explained(error: str, doing: str) -> PdreactorError:
    line = next((line for line in error.splitlines() if line.strip()), "no reason given").strip()
    if any(text in error for text in FORBIDDEN):
        return PermissionDenied(f"cannot {doing}: {line}; this needs root or CAP_NET_ADMIN")
    if "initialization failed" in error and any(text in error for text in UNKNOWN):
        return NoNftables(f"this kernel has no nf_tables: {line}")
    kind = KernelBusy if any(text in error for text in BUSY) else KernelError
    return kind(f"cannot {doing}: {line}")
