"""The file pdreactor.toml, read; as plain values it is kept as JSON beside the state.

tomllib with what it imports takes 4 ms of the 30 between an event and its rules, and 130 ms for ten
thousand translations; JSON takes next to nothing. What is kept is the document before any check, so
that the checks are made each time, and it counts only while the file is the very same: a file that
was touched in the last two seconds is not kept, for its next change might not show in its times.
"""

import json
import os
import time
from typing import Any

from .config import check
from .errors import ConfigError, StateError
from .model import Config
from .state import replace_file

DIRECTORY = "/var/lib/pdreactor"
FILE = "config.json"
SETTLED = 2.0
"""Seconds; coarser than any file system's clock."""


class _Fresh:
    """What to keep of this process's reading: (identity of the file, document)."""

    read: tuple[list[Any], dict[str, Any]] | None = None


def load(path: str) -> Config:
    """Read and check a file; ConfigError when there is anything wrong with it."""
    try:
        return check(_read(path), path, _table_names)
    except FileNotFoundError:
        hint = "no such file; make one with an [uplink.NAME] table, see pdreactor.toml(5)"
        raise ConfigError(path, [hint]) from None
    except OSError as exc:
        raise ConfigError(path, [f"cannot be read: {exc.strerror}"]) from None
    except UnicodeDecodeError as exc:
        raise ConfigError(path, [f"is not UTF-8 text: {exc}"]) from None
    except (ValueError, RecursionError) as exc:
        raise ConfigError(path, [f"is not valid TOML: {exc}"]) from None


def _table_names() -> dict[str, int]:
    from .kernel.rttables import names

    return names()


def _read(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        identity = _identity(path, os.fstat(file.fileno()))
        known = _kept(identity)
        return known if known is not None else _parsed(file.read().decode(), identity)


def keep() -> None:
    """Keep what was read, if it is new. Does nothing where the directory is not there or cannot be
    written: the next reading takes longer, that is all."""
    if _Fresh.read is None:
        return
    identity, document = _Fresh.read
    _Fresh.read = None
    try:
        content = json.dumps([identity, document]).encode()
        if os.path.isdir(DIRECTORY):
            replace_file(os.path.join(DIRECTORY, FILE), content)
    except (TypeError, OSError, StateError):
        return  # dates have no JSON; they are mistakes anyway


def _identity(path: str, status: os.stat_result) -> list[Any]:
    return [os.path.abspath(path), status.st_dev, status.st_ino, status.st_size,
            status.st_mtime_ns, status.st_ctime_ns]


def _kept(identity: list[Any]) -> dict[str, Any] | None:
    try:
        with open(os.path.join(DIRECTORY, FILE), "rb") as file:
            known, document = json.loads(file.read())
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return document if known == identity and isinstance(document, dict) else None


def _parsed(text: str, identity: list[Any]) -> dict[str, Any]:
    import tomllib

    document = tomllib.loads(text)
    if time.time() - identity[-1] / 1e9 > SETTLED:
        _Fresh.read = identity, document
    return document
