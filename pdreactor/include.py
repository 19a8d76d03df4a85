"""The table as a file that nftables.conf includes, so that its ``flush ruleset`` leaves no gap.

    flush ruleset
    include "/run/pdreactor/*.nft"

nft(8) loads both in one transaction. A broken include would fail the user's whole ruleset, so what
is written was accepted by the kernel (nft -c), and a file is replaced by rename. It is kept only
where its directory is: that is how users ask for it. /run is empty after a boot, and a pattern that
matches nothing is no error of nft's.
"""

import os
from collections.abc import Callable

from .errors import KernelBusy, KernelError, PermissionDenied, StateError
from .state import replace_file, sweep

DIRECTORY = "/run/pdreactor"
FILE = "pdreactor.nft"
"""No other file there may end in .nft: the names of temporary files do not."""


def keep(script: Callable[[], str | None], check: Callable[[str], None]) -> None:
    """Bring the file to what ``script`` returns; None: there is no table, so no file.

    ``check`` raises KernelError when nft does not take the text: then the file goes. When it cannot
    tell (KernelBusy), or nothing can be written (StateError), the file stays as it was.
    """
    if not os.path.isdir(DIRECTORY):
        return
    text = script()
    if text is None:
        remove()
    elif (content := text.encode()) != _content():
        _replace(text, content, check)


def remove() -> None:
    """Remove the file, so that no reload brings the table back."""
    try:
        os.unlink(_path())
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise StateError(f"cannot remove {_path()}: {exc.strerror}; remove it by hand, for it "
                         f"brings the table back when nftables.conf includes it") from exc


def _replace(text: str, content: bytes, check: Callable[[str], None]) -> None:
    try:
        check(text)
        sweep(DIRECTORY, (FILE,))
        replace_file(_path(), content, 0o644)
    except KernelBusy:
        raise
    except KernelError as exc:
        remove()
        raise KernelError(f"{exc}; {_path()} is removed, or it might fail a reload of "
                          f"nftables.conf") from exc
    except (StateError, PermissionDenied) as exc:
        reason = getattr(exc.__cause__, "strerror", exc)
        raise StateError(f"cannot write {_path()}: {reason}; it stays as it was, and a reload of "
                         f"nftables.conf brings that back: make {DIRECTORY} writable, also in the "
                         f"sandbox of dhcpcd's unit (see contrib/systemd)") from exc


def _content() -> bytes | None:
    try:
        with open(_path(), "rb") as file:
            return file.read()
    except OSError:
        return None


def _path() -> str:
    return os.path.join(DIRECTORY, FILE)
