"""What pdreactor has done so far on this machine, for those who draw graphs of it.

Written after a pass that changed something, without fsync: who reads counters copes with one that
begins at 0 again. What cannot be read or written does not matter to anything else.
"""

import json
import os
from contextlib import suppress
from typing import NamedTuple

FILE = "counters.json"


class Counters(NamedTuple):
    """Since the state directory was made."""

    changes: int = 0  # passes that changed the kernel
    repairs: int = 0  # those that put back what somebody else had changed
    flows_removed: int = 0  # from conntrack


def load(directory: str) -> Counters:
    """The counters of a state directory; all 0 without any."""
    try:
        with open(os.path.join(directory, FILE), "rb") as file:
            known = json.loads(file.read(1 << 16))
        return Counters(*(_count(known.get(name)) for name in Counters._fields))
    except (OSError, ValueError, AttributeError, RecursionError):
        return Counters()


def add(directory: str, **more: int) -> None:
    """Add to the counters of these names."""
    known = load(directory)._asdict()
    path = os.path.join(directory, FILE)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(fd, "w", encoding="ascii") as file:
            json.dump(known | {name: known[name] + n for name, n in more.items()}, file)
        os.rename(temporary, path)
    except OSError:  # a full or read-only disk: said by whoever writes what matters
        with suppress(OSError):
            os.unlink(temporary)


def last_pass(directory: str) -> int | None:
    """When a pass ended well last, in seconds since the epoch; None when there was none."""
    try:
        status = os.stat(os.path.join(directory, "pass.lock"))
    except OSError:
        return None
    return int(status.st_mtime) if status.st_size else None


def _count(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0
