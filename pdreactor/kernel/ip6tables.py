"""The nf_tables variant of ip6tables: ip6tables-save to look, ip6tables-restore to change.

One process each, started with posix_spawn(3): importing subprocess takes 9 ms, a quarter of the way
from the hook to the rules; os and select are loaded in 0.1 ms. Its three files are in memory
(memfd_create(2)), so nobody waits for a full pipe, and its end is awaited through a pidfd.
"""

import os
import re
import select
from collections.abc import Collection, Iterator
from typing import NamedTuple

from ..errors import BackendMissing, KernelBusy, KernelError, PdreactorError, PermissionDenied
from .retry import persistently
from .xtables import Chains, Commit, Seen, text

PACKAGES = "iptables on Debian, Ubuntu, Arch and Alpine, iptables-nft on Fedora"
SECONDS = 10.0
"""For one process. 10,000 rules are read in 0.1 s."""
NAMES = "/proc/thread-self/net/ip6_tables_names"
ELSEWHERE = ("/usr/sbin", "/sbin")
"""Where ip6tables is looked for when PATH has none: a hook's PATH may be short."""

# What a process says under LC_ALL=C; its exit status tells less.
FORBIDDEN = ("Permission denied", "Operation not permitted")
BUSY = ("Resource temporarily unavailable", "No buffer space available", "Interrupted system call",
        "xtables lock")
MISSING = ("missing kernel module", "Couldn't load", "No chain/target/match by that name",
           "Failed to initialize nft")


class Ran(NamedTuple):
    """A process that has ended; ``code`` is None when it was killed for taking too long."""

    code: int | None
    out: str
    err: str


class Ip6tables:
    """The tables of the nf_tables variant. Raises BackendMissing without its programs."""

    def __init__(self, ahead: Collection[str] = (), writing: bool = False) -> None:
        """``ahead``: tables that will be read first. ``writing``: a change is likely. The programs
        for that are started now: each takes 2 ms to load, and there is other work meanwhile."""
        ip6tables = _ip6tables()
        self._save = _sibling(ip6tables, "save")
        self._restore = _sibling(ip6tables, "restore")
        self._reading = {table: Started([self._save, "-t", table]) for table in ahead}
        self._writing = Waiting(self._command) if writing else None

    @property
    def _command(self) -> list[str]:
        return [self._restore, "--noflush", "-w", "5"]

    def close(self) -> None:
        """Let go of what was started and is not needed."""
        for one in self._reading.values():
            one.ran()
        self._reading.clear()
        if self._writing:
            self._writing.ran()  # an empty standard input: it does nothing
            self._writing = None

    def read(self, table: str, chains: Collection[str]) -> Chains:
        """Those of the named chains that exist. Makes nothing: a table that is not there has
        built-in chains without rules, as ip6tables shows it."""
        started = self._reading.pop(table, None)
        ran = started.ran() if started else None
        said = ran.out if ran and ran.code == 0 else _persistently(
            [self._save, "-t", table], "", f"read table ip6 {table}")
        if said.startswith(f"# Table `{table}' is incompatible"):
            raise KernelError(f"cannot read table ip6 {table}: it has rules of nft that ip6tables "
                              f"cannot show; move them to a table of their own")
        return parsed(said, chains)

    def commit(self, commit: Commit) -> None:
        """Raises KernelBusy, PermissionDenied, BackendMissing or KernelError; nothing was changed
        then."""
        waiting, self._writing = self._writing, None
        given = text(commit)
        if waiting and waiting.ran(given).code == 0:
            return
        _persistently(self._command, given, f"change table ip6 {commit.table}")


def variant() -> str:
    """What ``ip6tables`` is on this machine: "nf_tables" or "legacy"."""
    path = _ip6tables()
    name = os.path.basename(os.path.realpath(path))  # xtables-nft-multi, xtables-legacy-multi
    if "nft" in name:
        return "nf_tables"
    if "legacy" in name:
        return "legacy"
    said = _persistently([path, "-V"], "", "ask ip6tables for its variant")
    return "nf_tables" if "(nf_tables)" in said else "legacy"  # before 1.8 there was no other


def legacy_tables() -> tuple[str, ...]:
    """The tables that exist in the legacy variant, in this network namespace."""
    try:
        with open(NAMES, "rb") as file:
            return tuple(file.read().decode().split())
    except FileNotFoundError:
        return ()
    except PermissionError as exc:
        raise PermissionDenied(f"cannot read {NAMES}: this needs root") from exc


# ---- programs --------------------------------------------------------------------------------


def _ip6tables() -> str:
    path = os.environ.get("PATH", "").split(os.pathsep)
    for directory in (*filter(None, path), *ELSEWHERE):
        if os.access(f"{directory}/ip6tables", os.X_OK):
            return f"{directory}/ip6tables"
    raise BackendMissing(f"there is no ip6tables in PATH, /usr/sbin or /sbin: install {PACKAGES}")


def _sibling(path: str, what: str) -> str:
    """ip6tables-save or -restore beside ip6tables; the one of the nf_tables variant if it has a
    name of its own."""
    for directory in (os.path.dirname(path), os.path.dirname(os.path.realpath(path))):
        for name in (f"ip6tables-nft-{what}", f"ip6tables-{what}"):
            found = f"{directory}/{name}"
            if os.access(found, os.X_OK) and "legacy" not in os.path.realpath(found):
                return found
    raise BackendMissing(f"there is no ip6tables-{what} of the nf_tables variant beside {path}: "
                         f"install {PACKAGES}")


def _persistently(argv: list[str], given: str, doing: str) -> str:
    """What a program says, asked again while it says that the kernel is busy."""

    def attempt() -> Ran:
        ran = run(argv, given)
        if ran.code:
            raise _explained(ran, argv[0], doing)
        return ran

    ran = persistently(attempt)
    if ran.code is None:  # not tried again: it took long enough
        raise KernelBusy(f"cannot {doing}: {argv[0]} was killed after {SECONDS:g} s; look for what "
                         f"holds the ruleset or keeps the machine busy")
    return ran.out


def run(argv: list[str], given: str = "") -> Ran:
    """Run a program with ``given`` as its standard input, for at most ``SECONDS``."""
    return Started(argv, given).ran()


class Started:
    """A program that runs; ``ran()`` waits for its end, for at most ``SECONDS``."""

    def __init__(self, argv: list[str], given: str = "") -> None:
        stdin = os.memfd_create("stdin")
        try:
            os.write(stdin, given.encode())
            os.lseek(stdin, 0, os.SEEK_SET)
            self._start(argv, stdin)
        finally:
            os.close(stdin)

    def _start(self, argv: list[str], stdin: int) -> None:
        self._files = [os.memfd_create(name) for name in ("stdout", "stderr")]
        actions = [(os.POSIX_SPAWN_DUP2, file, number)
                   for number, file in enumerate((stdin, *self._files))]
        try:
            self._process = os.posix_spawn(argv[0], argv, _environment(), file_actions=actions)
        except OSError as exc:
            for file in self._files:
                os.close(file)
            raise BackendMissing(f"{argv[0]} cannot be started: {exc.strerror}") from exc

    def ran(self) -> Ran:
        try:
            return Ran(_ended(self._process), *map(_content, self._files))
        finally:
            for file in self._files:
                os.close(file)


class Waiting(Started):
    """A program that waits for its standard input, a pipe."""

    def __init__(self, argv: list[str]) -> None:
        stdin, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            self._start(argv, stdin)
        finally:
            os.close(stdin)

    def ran(self, given: str = "") -> Ran:
        """Give it that and wait for its end. What does not fit into the pipe is not given at all:
        the program is killed then."""
        text = given.encode()
        try:
            whole = len(text) <= PIPE and os.write(self._pipe, text) == len(text)
        except OSError:
            whole = False
        if not whole:
            os.kill(self._process, 9)
        os.close(self._pipe)
        return super().ran()


PIPE = 65536
"""What a pipe takes at once (pipe(7))."""


def _environment() -> dict[str, str]:
    """Not the hook's own environment: it has what a DHCPv6 server sent."""
    own = {name: value for name, value in os.environ.items() if name.startswith("XTABLES_")}
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", **own}


def _ended(process: int) -> int | None:
    """The exit status of a process, which is killed when it takes too long."""
    watch = os.pidfd_open(process)
    try:
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        in_time = poll.poll(SECONDS * 1000)
        if not in_time:
            os.kill(process, 9)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return status if in_time else None
    finally:
        os.close(watch)


def _content(file: int) -> str:
    size = os.fstat(file).st_size
    return os.pread(file, size, 0).decode(errors="surrogateescape")  # comments may be anything


HEAD = r"(?:\S+ v[0-9.]+ \((?:nf_tables|legacy)\): )?(?:ip6?tables\S*: )?"
"""Before the first line of what a program says; with nothing behind it now and then."""


def _explained(ran: Ran, program: str, doing: str) -> PdreactorError:
    reason = f"cannot {doing}: {_first_line(ran.err) or f'{program} ended with status {ran.code}'}"
    if any(words in ran.err for words in FORBIDDEN):
        return PermissionDenied(f"{reason}; this needs root or CAP_NET_ADMIN")
    if any(words in ran.err for words in MISSING):
        return BackendMissing(f"{reason}; ip6tables or the kernel lacks this extension")
    return KernelBusy(reason) if any(words in ran.err for words in BUSY) else KernelError(reason)


def _first_line(said: str) -> str:
    lines = (re.sub(HEAD, "", line, count=1).strip()
             for line in said.splitlines() if line[:1] != "#")
    return next(filter(None, lines), "")


# ---- what ip6tables-save says ----------------------------------------------------------------

WORD = r'"((?:[^"\\]|\\.)*)"|([^ "][^ ]*)'
WHOLE = rf" *(?:(?:{WORD})(?: +|\Z))*"
LONGEST_COMMENT = 255


def parsed(said: str, chains: Collection[str]) -> Chains:
    """The named chains of what ip6tables-save says of one table."""
    found: dict[str, list[Seen]] = {}
    for line in _lines(said):
        name = line[1:].partition(" ")[0] if line[:1] == ":" else line[3:].partition(" ")[0]
        if name not in chains:
            continue
        if line[:1] == ":":
            found[name] = []
        elif line[:3] == "-A ":
            found[name].append(_seen(line[3 + len(name):]))
    return {name: tuple(rules) for name, rules in found.items()}


def _lines(said: str) -> Iterator[str]:
    """Line by line; but a user's comment may have line ends in it, and behind them what looks like
    a rule."""
    lines = iter(said.split("\n"))
    for line in lines:
        if '"' in line:
            for _ in range(LONGEST_COMMENT):
                if _simple(line) or re.fullmatch(WHOLE, line, re.DOTALL):
                    break
                line += "\n" + next(lines, "")
        yield line


def _simple(line: str) -> list[str]:
    """The words of a line with one quoted word, or none, and nothing escaped: such are ours. []
    for any other. (Making the patterns takes 0.6 ms.)"""
    before, quote, rest = line.partition('"')
    quoted, end, after = rest.partition('"')
    alone = before[-1:] in ("", " ") and after[:1] in ("", " ")
    if "\\" in line or '"' in after or (quote and not (end and alone)):
        return []
    return [*before.split(), *[quoted] * bool(quote), *after.split()]


def _seen(rule: str) -> Seen:
    """A rule, of which this is what stands behind ``-A CHAIN``."""
    words = _simple(rule) or [bare or re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
                              for quoted, bare in re.findall(WORD, rule, re.DOTALL)]
    comment, target = "", ""
    rest = iter(words)
    for word in rest:
        if word == "--comment":
            comment = next(rest, "")  # whatever it is, "-j" too
        elif word in ("-j", "-g") and not target:
            target = next(rest, "")
    return Seen(comment, target, words == ["-j", target])
