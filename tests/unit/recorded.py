"""The recordings of dhcpcd's calls (tests/recordings/README.md), as the blocks that they were."""

import re
from pathlib import Path

DIRECTORY = Path(__file__).parent.parent / "recordings"


def all_calls() -> list[str]:
    """Every recorded call as VERSION/NN-REASON-what."""
    return sorted(str(path.relative_to(DIRECTORY))[:-4] for path in DIRECTORY.glob("*/*.env"))


def block(call: str, *, ordered: bool = True) -> bytes:
    """The environ block of a call: in its own order where that was recorded, else sorted."""
    in_order = DIRECTORY / f"{call}.order"
    path = in_order if ordered and in_order.exists() else DIRECTORY / f"{call}.env"
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    return b"".join(unescape(line) + b"\0" for line in lines)


def unescape(line: bytes) -> bytes:
    """Undo the escapes of a recording."""
    return re.sub(rb"\\(n|\\|x[0-9a-fA-F]{2})", _one, line)


def _one(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if code == b"n":
        return b"\n"
    return b"\\" if code == b"\\" else bytes.fromhex(code[1:].decode())
