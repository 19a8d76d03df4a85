"""``pdreactor watch``: the same pass as ever, made at once when something says that it is time.

    what the kernel tells   links, addresses, routes, rules, nftables (kernel/notices.py)
    what dhcpcd tells       each event of its script, by its control socket (kernel/dhcpcd.py)
    what time does          lifetimes that end; once a minute, whatever has been missed
    neighbour discovery     solicitations that are answered for others (layout/responder.py)
    signals                 SIGHUP reads the configuration again, SIGTERM ends it: the rules stay

Nothing here knows what a pass does. Our own changes are told as well: the pass that follows them
finds nothing to change, and so nothing follows that one.
"""

import os
import queue
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from . import counters, entries, events, log, looking, nat, on_change, reasons, reconciler, state
from .errors import ConfigError, PdreactorError, Refused, StateError
from .kernel import dhcpcd, notices, systemd
from .model import ONLINK, Config, Problem

if TYPE_CHECKING:
    from .layout.responder import Responder

INTERVAL = 60.0
"""Seconds between two passes when nothing happens."""
UNTOLD = 15.0
"""The same where ip6tables-legacy translates: the kernel tells nobody of its changes."""
LOOK = 2.0
"""Seconds between two looks for a dhcpcd that was started."""
LONGEST_RETRY = 60.0
GRACE = 0.7
"""Seconds for a pass to end after SIGTERM."""
BURST, RATE = 500, 5.0
"""Passes that may follow at once, and per second after that: somebody may fight us."""
REASON = "watch"


class Watch:
    """The watcher. ``after`` is called with the configuration after each pass."""

    def __init__(self, config_path: str | None, state_dir: str | None,
                 after: Callable[[Config], None] | None = None) -> None:
        self._where, self._after = (config_path, state_dir), after
        self._identity: Any = _identity(entries.path_of(config_path))
        self.config = self._read()
        self._selector = selectors.DefaultSelector()
        self._streams: dict[str, dhcpcd.Stream] = {}
        self._commands = _Commands()
        self._responder: Responder | None = None
        self._news = notices.News(rules=True)
        self._budget, self._counted = float(BURST), time.monotonic()
        self._failures, self._retry = 0, 0.0
        self._said: tuple[str, ...] = ()
        self._untold: tuple[str, ...] = ()  # what ``after`` failed with, which is no pass's
        self._next = self._look = self._passed = 0.0
        self._stopping = False

    def run(self) -> int:
        """Watch until SIGTERM or SIGINT; returns the exit code."""
        one = state.Lock(self.config.state_dir, "watch.lock", 0.1)  # "status" may look just now
        with one, _Signals() as signals:
            self._selector.register(signals, selectors.EVENT_READ, lambda: self._signal(signals))
            self._notices = notices.Notices(_interest(self.config))
            for sock in self._notices.sockets:
                self._selector.register(sock, selectors.EVENT_READ, self._noticed)
            self._pass()
            systemd.notify("READY=1")
            while not self._stopping:
                self._turn()
            systemd.notify("STOPPING=1")
        return 0

    # ---- one turn --------------------------------------------------------------------------

    def _turn(self) -> None:
        for key, _ in self._selector.select(max(0.0, self._due() - time.monotonic())):
            key.data()
        now = time.monotonic()
        if self._responder and now >= self._responder.due:
            self._responder.read()
        if now >= self._look:
            self._find_dhcpcd()
            self._look = now + LOOK
        if not self._stopping and (now >= self._next or now >= self._pass_due()):
            self._pass()

    def _due(self) -> float:
        due = self._responder.due if self._responder else float("inf")
        return min(self._next, self._look, self._pass_due(), due)

    def _pass_due(self) -> float:
        """When the next pass may be, of those that somebody waits for."""
        if not self._news:
            return self._retry or float("inf")
        missing = 1 - self._allowed()
        return time.monotonic() + missing / RATE if missing > 0 else 0.0

    def _allowed(self) -> float:
        now = time.monotonic()
        self._budget = min(BURST, self._budget + (now - self._counted) * RATE)
        self._counted = now
        return self._budget

    def _noticed(self) -> None:
        news = self._notices.read()
        if news.duplicate:
            log.warning(f"another node on the link has address {news.duplicate} (duplicate address "
                        f"detection): the kernel has removed it; each minute it is tried again")
        self._news = self._news.together(news)

    # ---- the pass --------------------------------------------------------------------------

    def _pass(self) -> None:
        """A pass, whatever becomes of it: what failed is tried again."""
        news, self._news = self._news, notices.News()
        self._spend()
        self._passed = time.time()
        self._reread()
        self._attempt(lambda: self._reconcile(news))
        self._next = time.monotonic() + self._wait()
        systemd.notify("WATCHDOG=1")
        if self._after:
            self._attempt(lambda: self._after and self._after(self.config), again=False)

    def _spend(self) -> None:
        if self._allowed() < 1:
            log.warning("something changes what pdreactor keeps again and again: passes are held "
                        f"back to {RATE:g} per second; nft monitor and ip monitor show what it is")
        self._budget -= 1

    def _reconcile(self, news: notices.News) -> None:
        try:
            outcome = reconciler.reconcile(self.config, REASON, commands=self._commands.add)
        finally:
            self._answer()
        if outcome.changes and news.rules and not news.link and self._next:
            log.info("repaired", **({"changed_by": news.by} if news.by else {}))
            counters.add(self.config.state_dir, repairs=1)
        self._say(outcome.problems)

    def _answer(self) -> None:
        """Have solicitations answered for what there is now."""
        wanted = looking.answering(self.config)
        if wanted and self._responder is None:
            from .layout.responder import Responder

            self._responder = Responder()
            self._selector.register(self._responder, selectors.EVENT_READ, self._responder.read)
        if self._responder:
            self._responder.update(wanted)

    def _say(self, problems: tuple[Problem, ...]) -> None:
        """Each problem once, and when all are over."""
        lines = tuple(dict.fromkeys(f"{one.uplink}: {one.message}" for one in problems))
        for line in lines:
            if line not in self._said:
                log.warning(line)
        if self._said and not lines:
            log.info("nothing is wrong any more")
        if lines != self._said or not self._next:
            systemd.notify(f"STATUS={'; '.join(lines) or 'all in place'}"[:1000])
        self._said = lines

    def _attempt(self, call: Callable[[], object], *, again: bool = True) -> None:
        try:
            call()
        except Exception as exc:
            bug = "" if isinstance(exc, PdreactorError) else f" ({type(exc).__name__}: a bug)"
            line = f"{exc}{bug}"
            if line not in (self._said if again else self._untold):
                log.error(line)
                systemd.notify(f"STATUS={line}"[:1000])
            if not again:
                self._untold = (line,)
            else:
                self._said = (line,)
                self._failures += 1
                self._retry = time.monotonic() + min(LONGEST_RETRY, 2.0 ** (self._failures - 1))
            return
        if again:
            self._failures, self._retry = 0, 0.0
        else:
            self._untold = ()

    def _wait(self) -> float:
        """Seconds until time alone asks for a pass."""
        wait = INTERVAL if nat.tables(self.config)[1] else UNTOLD
        return min(wait, (systemd.watchdog() or 3 * wait) / 3, self._lifetime())

    def _lifetime(self) -> float:
        """Seconds until the next lifetime ends."""
        try:
            known, _ = state.load(self.config.state_dir, keep=True)
        except StateError:
            return INTERVAL
        ends = [prefix.valid_until for uplink in known.uplinks.values()
                for prefix in uplink.prefixes if prefix.valid_until is not None]
        end = min((end for end in ends if end > self._passed), default=None)
        return INTERVAL if end is None else max(0.0, end - time.time()) + 0.05

    # ---- dhcpcd ----------------------------------------------------------------------------

    def _find_dhcpcd(self) -> None:
        """Listen to each dhcpcd that there is, and ask what it holds already: events that came
        before are not told again."""
        for path in dhcpcd.paths() - self._streams.keys():
            try:
                self._streams[path] = stream = dhcpcd.Stream(path, held=False)
                self._hear(stream)
                self._hear(dhcpcd.Stream(path, held=True))
            except OSError as exc:  # of one that has ended, or begins just now
                log.debug(f"dhcpcd's socket {path}: {exc.strerror}")
                continue
            log.debug(f"listening to dhcpcd at {path}")

    def _hear(self, stream: dhcpcd.Stream) -> None:
        self._selector.register(stream, selectors.EVENT_READ, lambda: self._heard(stream))

    def _heard(self, stream: dhcpcd.Stream) -> None:
        blocks, open_ = stream.read()
        if not open_:
            self._selector.unregister(stream)
            stream.close()
            if not stream.held:
                del self._streams[stream.path]
        for block in blocks:
            kind = reasons.kind_of(reasons.value(block, b"reason").decode("ascii", "replace"))
            if kind != reasons.NOTHING and (kind == reasons.LEASE or not stream.held):
                self._attempt(partial(self._react, block, stream.held))

    def _react(self, block: bytes, held: bool) -> None:
        self._reread()
        self._passed = time.time()
        try:
            variables = events.parse_environ(block)
            log.debug("dhcpcd holds" if held else "dhcpcd says", reason=events.reason_of(variables))
            entries.heard(self.config, variables, self._commands.add, held=held)
        except Refused as refused:
            log.error(str(refused))  # no pass makes that better, so none is made for it
        finally:
            self._answer()
        self._next = min(self._next, time.monotonic() + self._wait())

    # ---- configuration and signals ---------------------------------------------------------

    def _signal(self, signals: "_Signals") -> None:
        for number in signals.read():
            if number == signal.SIGHUP:
                systemd.notify("RELOADING=1",
                               f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC)//1000}")
                self._identity = None
                self._pass()
                systemd.notify("READY=1")
            else:
                self._stopping = True

    def _read(self) -> Config:
        return entries.configuration(*self._where)

    def _reread(self) -> None:
        """The configuration counts for the pass that follows its change, as it does for the hook;
        one with mistakes does not."""
        identity = _identity(self.config.path)
        if self._identity == identity:
            return
        self._identity = identity  # of before it is read: what is written meanwhile is read again
        try:
            self.config = self._read()
        except ConfigError as exc:
            for mistake in exc.mistakes:
                log.error(f"{exc.path}: {mistake}")
            log.error("the configuration from before stays in use")
            return
        self._notices.interest = _interest(self.config)
        log.info("configuration read", path=self.config.path)


def _identity(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _interest(config: Config) -> notices.Interest:
    return notices.Interest(
        frozenset(uplink.interface for uplink in config.uplinks), config.protocol,
        frozenset(one.table for one in config.uplinks if one.table is not None),
        nat.tables(config)[0],
        config.plans is not None or any(one.source == ONLINK for one in config.uplinks))


class _Signals:
    """SIGTERM, SIGINT and SIGHUP as bytes to read. A thread takes them first, so that the process
    ends in time also when a pass is in the kernel: a pass that is cut off loses nothing, the next
    one goes on from there."""

    NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __enter__(self) -> "_Signals":
        self._woken, self._wake = socket.socketpair()
        self._ours, self._theirs = socket.socketpair()
        self._wake.setblocking(False)
        for number in self.NUMBERS:
            signal.signal(number, lambda *_: None)  # a handler, or the next line has no effect
        signal.set_wakeup_fd(self._wake.fileno())
        threading.Thread(target=self._forward, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)

    def fileno(self) -> int:
        """For a selector."""
        return self._ours.fileno()

    def read(self) -> bytes:
        """The numbers of the signals that came."""
        return self._ours.recv(64)

    def _forward(self) -> None:
        while numbers := self._woken.recv(64):
            self._theirs.send(numbers)
            if {signal.SIGTERM, signal.SIGINT} & set(numbers):
                time.sleep(GRACE)
                os._exit(0)


class _Commands:
    """Runs the commands of on_change beside the watch, one after the other: they may take long."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, config: Config, reason: str, told: list[dict[str, str]]) -> None:
        """What on_change.run does, but later."""
        self._waiting.put((config, reason, told))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            on_change.run(*self._waiting.get())
