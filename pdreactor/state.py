"""The state file: what was learned survives reboot, power loss and a full disk.

Layout on disk, below ``state_dir``::

    state.json           the state, format 1; replaced by rename, never written in place
    state.lock           held while an event is written (short)
    pass.lock            held while the kernel is changed (longer): an event never waits for it;
                         its time is when a pass ended well last
    watch.lock           held by the watcher: there is one
    state.json.old       the state before: what counts when state.json turns out damaged
    state.json.damaged   the last file that could not be read, set aside
    config.json          the configuration as it was last read (document.py)
    counters.json        what has been done so far, for ``status --format prometheus``

A file is replaced by: temporary file beside it, fsync, rename, fsync of the directory (rename(2),
fsync(2)). The locks are flock(2) locks: they end with their process, nothing is left behind.

While the disk is full, read-only or broken the state is kept in /run/pdreactor, to the next reboot,
and what is there counts: else the next pass would bring back what the file still has.

Points in time are wall-clock times. The file also says when it was written, by the wall clock and
by CLOCK_BOOTTIME (clock_gettime(2)), which nobody sets: when the wall clock was set since, all
points in time are moved along, so that lifetimes last as long as they were told to.
"""

import errno
import fcntl
import json
import os
import stat
import time
from functools import lru_cache
from ipaddress import IPv6Network
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .errors import PermissionDenied, Refused, StateError
from .keys import chain_name
from .model import (
    Down,
    Happening,
    Holding,
    Lineage,
    Moment,
    Prefix,
    Refusal,
    Stamp,
    State,
    UplinkState,
)

if TYPE_CHECKING:
    from .layout.model import Traces

FORMAT = 1
FILE = "state.json"
CONFIGURATION = "config.json"
COUNTERS = "counters.json"
LIMIT = 4 << 20
"""No state file of ours is larger than this many bytes."""
SHELTER = "/run/pdreactor"
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""What a disk says that takes nothing more."""


class Lock:
    """An flock(2) on a file of the state directory, waited for ``timeout`` seconds at most.

    With ``shared`` the programs that we start have it too: when we are killed, it ends with them.
    """

    def __init__(self, directory: str, name: str, timeout: float, shared: bool = False) -> None:
        self.path = os.path.join(directory, name)
        self.timeout = timeout
        self.shared = shared

    def __enter__(self) -> "Lock":
        self.fd = _open_lock(self.path)
        if self.shared and self.fd >= 0:
            os.set_inheritable(self.fd, True)
        deadline = time.monotonic() + self.timeout
        while not self._taken():
            if time.monotonic() > deadline:
                os.close(self.fd)
                raise StateError(f"{self.path}: another pdreactor has held this lock for more than "
                                 f"{self.timeout:g} s; look for it with fuser {self.path}")
            time.sleep(0.005)
        return self

    def touch(self) -> None:
        """Note the time in the file's own, and that it was noted: when what the lock protects was
        done well last."""
        try:
            os.pwrite(self.fd, b".", 0)
        except OSError:
            pass  # a read-only or full disk

    def _taken(self) -> bool:
        if self.fd < 0:
            return True  # it can be made nowhere, so nobody can write there
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as exc:  # ENOLCK of a network file system
            os.close(self.fd)
            raise _error("lock", self.path, exc) from exc
        return True

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def held(directory: str, name: str) -> bool:
    """Whether anybody holds a lock. Writes nothing; for a moment it keeps others from taking it."""
    path = os.path.join(directory, name)
    return any(map(_is_held, (path, _shelter(path))))


def _is_held(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as exc:
        return exc.errno == errno.EWOULDBLOCK
    finally:
        os.close(fd)
    return False


class Unsaved(StateError):
    """The state could not be written; ``known`` is what it would be, for this pass."""

    def __init__(self, known: State, reason: StateError | PermissionDenied) -> None:
        super().__init__(str(reason))
        self.known = known
        self.exit_code = reason.exit_code


def load(directory: str, *, keep: bool = False) -> tuple[State, str]:
    """The state of ``directory`` and, when its file was damaged, a line that says so.

    A damaged file is set aside (unless ``keep``) and the state before it is taken; a missing one
    is an empty state. Raises StateError when the file cannot be read or is of a newer pdreactor.
    """
    path = os.path.join(directory, FILE)
    sheltered = _shelter(path)
    try:
        return (decode(_read(sheltered), now()),
                f"{path} could not be written; the state was kept in {sheltered}")
    except (OSError, *DAMAGE):
        pass
    try:
        return decode(_read(path), now()), ""
    except (FileNotFoundError, NotADirectoryError):
        known, what = _before(path)
        return known, f"{path} is missing: {what}" if known != State({}) else ""
    except OSError as exc:
        raise _error("read", path, exc) from exc
    except DAMAGE as exc:
        known, what = _before(path)
        return known, f"{path} is damaged ({exc!r}): {what}{'' if keep else _set_aside(path)}"


DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What decode() raises for a text that is no state."""


def _read(path: str) -> bytes:
    """The content of a file that only we, or root, can have written; ValueError for another."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENXIO):
            raise ValueError("a symbolic link, or not a regular file") from None
        raise
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise ValueError(f"user {status.st_uid} or others can write to it")
        return file.read(LIMIT + 1)


def _before(path: str) -> tuple[State, str]:
    """The state before the damaged one, and words for it."""
    try:
        known = decode(_read(f"{path}.old"), now())
        lineage = known.lineage._replace(node="")  # another node heard of what is lost here
        return known._replace(lineage=lineage), "the state before it is used"
    except (OSError, *DAMAGE):
        return State({}), "nothing is known until the next lease event (dhcpcd -N asks for one)"


def save(directory: str, state: State) -> None:
    """Replace the state file. Raises StateError; the old file is whole in that case, and when it is
    for the disk the state is kept elsewhere."""
    path = os.path.join(directory, FILE)
    sheltered, text = _shelter(path), encode(state, now())
    try:
        _make_directory(directory)
        _keep(path)
        replace_file(path, text)
    except StateError as exc:
        if not _is_of_disk(exc.__cause__):
            raise
        try:
            _make_directory(SHELTER)
            replace_file(sheltered, text)
        except (StateError, PermissionDenied):
            raise exc from exc.__cause__
        raise StateError(f"{exc}; the new one is in {sheltered} until the next reboot") from exc
    _remove(sheltered)


def _keep(path: str) -> None:
    """Give the file that is about to be replaced a second name."""
    second = f"{path}.{os.getpid()}.old.tmp"  # not replace_file's name: that is opened to write
    try:
        os.link(path, second)
        os.rename(second, f"{path}.old")
    except OSError:
        pass  # the first save, or a file system without links
    _remove(second)  # rename(2) leaves it when both names are of one file already


def replace_file(path: str, content: bytes, mode: int = 0o600) -> None:
    """Write ``content`` so that a reader, also one after a power cut, sees all of it or the old."""
    temporary = f"{path}.{os.getpid()}.tmp"
    _remove(temporary)  # whoever has left it, it is not ours any more
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            _write_all(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
        _sync_directory(os.path.dirname(path))
    except OSError as exc:
        _remove(temporary)
        raise _error("write", path, exc) from exc


OTHERS = ("state.lock", "pass.lock", "watch.lock", COUNTERS)


def forget(directory: str) -> None:
    """Remove every file of ours from the state directory, and the directory when it is empty.
    Raises StateError when the state is still there, for it would count again."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    for name in names:
        if name.startswith((FILE, CONFIGURATION)) or name in OTHERS:
            _remove(os.path.join(directory, name))
    _remove(_shelter(os.path.join(directory, FILE)))
    for path in (os.path.join(directory, f"{FILE}{ending}") for ending in ("", ".old")):
        if os.path.lexists(path):
            raise StateError(f"{path} could not be removed, and will be used again: is its disk "
                             f"mounted for writing? Remove it by hand, or flush again")
    try:
        os.rmdir(directory)
    except OSError:
        pass  # not empty, or a mount point of a sandbox: not ours to remove


def sweep(directory: str, files: tuple[str, ...] = (FILE, CONFIGURATION, COUNTERS)) -> None:
    """Remove temporary files of writers that were killed; call with the lock held that these held
    (for the state file state.lock). Who is just writing config.json then does it next time."""
    for name in os.listdir(directory) if os.path.isdir(directory) else ():
        if name.startswith(files) and name.endswith(".tmp"):
            _remove(os.path.join(directory, name))


# ---- text form ---------------------------------------------------------------------------------


def encode(state: State, moment: Moment | None = None) -> bytes:
    """The state as the JSON text of format 1, written at a moment."""
    document = {
        "format": FORMAT,
        "uplinks": {name: _uplink_out(uplink) for name, uplink in state.uplinks.items()},
        "doomed": [list(stamp) for stamp in state.doomed],
        "history": [happening._asdict() for happening in state.history],
        "applied": {name: [str(n) for n in networks] for name, networks in state.applied},
        "exposed": state.exposed,
        "numbers": list(state.numbers),
        "held": [list(one) for one in state.held],
        "modes": [[_text(network), uplink, mode] for network, uplink, mode in state.modes],
        "leading": [[_text(network), uplink] for network, uplink in state.leading],
        "left": list(state.left),
        "tabled": list(state.tabled),
        "lineage": list(state.lineage),
    }
    if state.traces is not None:
        from .layout import traces

        document["layout"] = traces.encode(state.traces)
    if moment:
        document["clock"] = list(moment)
    return ("{\n" + ",\n".join(f' "{key}": {_value(key, document[key])}' for key in document)
            + "\n}\n").encode()


OF_EACH_TRANSLATION = ("modes", "leading")
REMEMBERED = 1 << 15
"""Networks whose text is known: a pass reads and writes the same ones several times."""

_text = lru_cache(REMEMBERED)(str)


def _value(key: str, value: Any) -> str:
    """As people like to read it; for ten thousand translations that takes too long."""
    if key in OF_EACH_TRANSLATION:
        return json.dumps(value)
    return json.dumps(value, indent=1).replace("\n", "\n ")


def decode(raw: bytes, here: Moment | None = None) -> State:
    """The state in a JSON text, its points in time as the clock is ``here``. Raises ValueError,
    KeyError or TypeError when it is damaged, and StateError when it is of a newer format. Nothing
    in it is trusted."""
    if len(raw) > LIMIT:
        raise ValueError(f"larger than {LIMIT} bytes")
    document = json.loads(raw)
    if _number(document["format"]) > FORMAT:
        raise StateError(f"{FILE} is of format {document['format']}, this pdreactor knows {FORMAT}:"
                         f" install the newer version again, or start anew with flush --forget")
    uplinks = {str(name): _uplink_in(entry) for name, entry in document["uplinks"].items()}
    if len({u.number for u in uplinks.values()}) != len(uplinks):
        raise ValueError("two uplinks have one number")
    doomed = tuple(Stamp(_number(u), _number(g), bool(i)) for u, g, i in document["doomed"])
    history = tuple(_happening_in(entry) for entry in document["history"])
    applied = tuple((str(name), tuple(_network(n) for n in networks))
                    for name, networks in document["applied"].items())
    numbers = tuple(_number(n) for n in document.get("numbers", ()))
    if len(numbers) not in (0, 2):
        raise ValueError(f"not a protocol and a priority: {numbers}")
    held = tuple(_holding_in(*entry) for entry in document.get("held", ()))
    modes = tuple((_internal(n), str(u), str(mode)) for n, u, mode in document.get("modes", ()))
    leading = tuple((_internal(n), str(uplink)) for n, uplink in document.get("leading", ()))
    left, tabled = (tuple(map(str, document.get(key, ()))) for key in ("left", "tabled"))
    lineage = _lineage_in(*document.get("lineage", ()))
    known = State(uplinks, doomed, history, applied, bool(document.get("exposed")), numbers, held,
                  modes, leading, left, tabled, lineage, _traces(document.get("layout")))
    written = _moment_in(document.get("clock"))
    return known if not (written and here) else _on_todays_clock(known, written, here)


def _traces(document: Any) -> "Traces | None":
    if document is None:
        return None
    from .layout import traces

    return traces.decode(document)


def _lineage_in(node: Any = "", generation: Any = 0, settled: Any = 0, heard: Any = ()) -> Lineage:
    return Lineage(_line(node), _number(generation), _number(settled),
                   tuple((_line(other), _number(g)) for other, g in heard))


def _on_todays_clock(known: State, written: Moment, here: Moment) -> State:
    passed = here.uptime - written.uptime
    if written.boot == here.boot and abs(here.wall - written.wall - passed) <= 1:
        return known  # the usual case; what follows is not even loaded
    from . import clock

    moved = clock.moved(written, here)
    return clock.shifted(known, moved) if moved else known


def _moment_in(entry: Any) -> Moment | None:
    if entry is None:
        return None
    boot, uptime, wall = entry
    return Moment(_line(boot), _number(uptime), _number(wall))


def _holding_in(variant: Any, dnat: Any, snat: Any, jumps: Any, modes: Any) -> Holding:
    if variant not in ("nf_tables", "legacy"):
        raise ValueError(f"not a variant of ip6tables: {variant!r}")
    try:
        names = chain_name(dnat), chain_name(snat)
    except Refused as exc:
        raise ValueError(f"not chains of ip6tables: {dnat!r}, {snat!r}") from exc
    return Holding(variant, *names, bool(jumps), tuple(map(str, modes)))


@lru_cache(REMEMBERED)
def _internal(text: Any) -> IPv6Network:
    if not isinstance(text, str) or "%" in text:
        raise ValueError(f"not a prefix: {text!r}")
    return IPv6Network(text)


def _uplink_out(uplink: UplinkState) -> dict[str, Any]:
    refusal = uplink.refusal and uplink.refusal._asdict()
    prefixes = [_prefix_out(prefix) for prefix in uplink.prefixes]
    return {"number": uplink.number, "prefixes": prefixes, "refusal": refusal,
            "down": uplink.down and uplink.down._asdict()}


def _prefix_out(prefix: Prefix) -> dict[str, Any]:
    excluded = prefix.excluded and str(prefix.excluded)
    return prefix._asdict() | {"network": str(prefix.network), "excluded": excluded}


def _uplink_in(entry: dict[str, Any]) -> UplinkState:
    prefixes = tuple(_prefix_in(p) for p in entry["prefixes"])
    if len({p.generation for p in prefixes}) != len(prefixes):
        raise ValueError("two prefixes have one generation")
    refusal, down = entry["refusal"], entry.get("down")
    return UplinkState(_number(entry["number"], 1), prefixes,
                       refusal and Refusal(_number(refusal["at"]), str(refusal["reason"]),
                                           str(refusal["message"])),
                       down and Down(_number(down["at"]), _line(down["reason"])))


def _line(text: Any) -> str:
    if not isinstance(text, str) or not text.isprintable():
        raise ValueError(f"not a line of text: {text!r}")
    return text


def _prefix_in(entry: dict[str, Any]) -> Prefix:
    return Prefix(
        network=_network(entry["network"]),
        iaid=_maybe(entry["iaid"]),
        preferred_until=_maybe(entry["preferred_until"]),
        valid_until=_maybe(entry["valid_until"]),
        generation=_number(entry["generation"]),
        learned_at=_number(entry["learned_at"]),
        updated_at=_number(entry["updated_at"]),
        reason=str(entry["reason"]),
        excluded=None if entry["excluded"] is None else _network(entry["excluded"]),
        superseded_at=_maybe(entry["superseded_at"]),
    )


def _happening_in(entry: dict[str, Any]) -> Happening:
    return Happening(_number(entry["at"]), str(entry["uplink"]), str(entry["reason"]),
                     str(entry["text"]))


def _network(text: Any) -> IPv6Network:
    """A network of 2000::/3 (RFC 4291 section 2.4), without zone and host bits."""
    if not isinstance(text, str) or "%" in text:
        raise ValueError(f"not a prefix: {text!r}")
    network = IPv6Network(text)
    if network.prefixlen < 3 or int(network.network_address) >> 125 != 1:
        raise ValueError(f"not global unicast: {text!r}")
    return network


LARGEST = 1 << 36
"""Beyond any sensible number here; as a point in time it is in the year 4147."""


def _number(value: Any, low: int = 0) -> int:
    if type(value) is not int or not low <= value < LARGEST:
        raise ValueError(f"not a number from {low}: {value!r}")
    return value


def _maybe(value: Any) -> int | None:
    return None if value is None else _number(value)


# ---- files and clocks --------------------------------------------------------------------------


BOOT_ID = "/proc/sys/kernel/random/boot_id"


def now() -> Moment | None:
    """This moment; None where the kernel does not say which boot this is."""
    try:
        with open(BOOT_ID, encoding="ascii") as file:
            boot = file.read(64).strip()
    except OSError:
        return None
    return Moment(boot, int(time.clock_gettime(time.CLOCK_BOOTTIME)), int(time.time()))


def _set_aside(path: str) -> str:
    try:
        os.replace(path, f"{path}.damaged")
    except OSError as problem:
        return f"; it could not be set aside ({problem.strerror})"
    return f"; it was set aside as {path}.damaged"


def _make_directory(directory: str) -> None:
    try:
        os.makedirs(directory, 0o755, exist_ok=True)
    except OSError as exc:
        raise _error("make the directory", directory, exc) from exc


def _open_lock(path: str) -> int:
    """A file to lock. One on a disk that takes nothing more serves as it is, else one in the
    shelter does; -1 when there is none."""
    try:
        return _made(path)
    except OSError as exc:
        if not _is_of_disk(exc):
            raise _error("open the lock", path, exc) from exc
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        pass
    try:
        return _made(_shelter(path))
    except OSError:
        return -1


def _made(path: str) -> int:
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _shelter(path: str) -> str:
    """Where a file is while its disk takes nothing more."""
    return os.path.join(SHELTER, os.path.abspath(path).strip("/").replace("/", "-"))


def _is_of_disk(exc: BaseException | None) -> bool:
    return isinstance(exc, OSError) and exc.errno in DISK


def _write_all(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]


def _sync_directory(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # it was never there, or cannot be helped


def _error(what: str, path: str, exc: OSError) -> StateError | PermissionDenied:
    if isinstance(exc, PermissionError):
        return PermissionDenied(f"cannot {what} {path}: {exc.strerror}; run it as root, and inside "
                                f"a sandboxed unit make state_dir writable (see contrib/systemd)")
    advice = ADVICE.get(exc.errno or 0, "")
    return StateError(f"cannot {what} {path}: {exc.strerror}{advice}; the last good state is kept")


ADVICE = {errno.ENOSPC: " (make room there)", errno.EDQUOT: " (make room there)",
          errno.EROFS: " (mount it for writing; of a sandboxed unit see contrib/systemd)",
          errno.EIO: " (is the disk broken? see dmesg)"}
