"""What happened, as structlog events: key=value on a terminal, JSON on request, and to syslog when
nobody can read stderr (dhcpcd 9.4.1 in the background leaves it a dead socket).

The only home of structlog, which is imported with the first line that is logged: after the rules.
"""

import sys
from typing import Any

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _Settings:
    """How this process logs; set once by the command line."""

    threshold = LEVELS["info"]
    json = False
    logger: Any = None
    dead = False  # stderr, for good


def setup(*, threshold: str = "info", json: bool = False) -> None:
    """Choose what is logged and how."""
    _Settings.threshold, _Settings.json, _Settings.logger = LEVELS[threshold], json, None


def debug(event: str, **values: Any) -> None:
    _log("debug", event, values)


def info(event: str, **values: Any) -> None:
    _log("info", event, values)


def warning(event: str, **values: Any) -> None:
    _log("warning", event, values)


def error(event: str, **values: Any) -> None:
    _log("error", event, values)


def plain(line: str) -> None:
    """A line as it is, with the same care for a dead stderr."""
    _Sink().write(line)


def _log(level: str, event: str, values: dict[str, Any]) -> None:
    if LEVELS[level] < _Settings.threshold:
        return
    try:
        if _Settings.logger is None:
            _Settings.logger = _logger()
        getattr(_Settings.logger, level)(event, **values)
    except ImportError:
        pairs = " ".join(f"{key}={value!r}" for key, value in values.items())
        _Sink().msg(f"level={level} event={event!r} {pairs}".rstrip())


def _logger() -> Any:
    import structlog

    renderer: Any = structlog.processors.KeyValueRenderer(key_order=["level", "event"])
    processors: list[Any] = [structlog.processors.add_log_level]
    if _Settings.json:
        processors.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
        renderer = structlog.processors.JSONRenderer(default=str)
    return structlog.wrap_logger(_Sink(), processors=[*processors, renderer],
                                 wrapper_class=structlog.BoundLogger)


class _Sink:
    """Writes one line to stderr, and to syslog(3) when stderr is dead or closed."""

    def msg(self, line: str) -> None:
        self.write(line if _Settings.json else f"pdreactor: {line}")

    def write(self, line: str) -> None:
        if not _Settings.dead:
            try:
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()
                return
            except (OSError, ValueError, AttributeError):
                _Settings.dead = True
                _silence_stderr()
        self._syslog(line)

    debug = info = warning = error = msg

    def _syslog(self, line: str) -> None:
        import syslog

        syslog.openlog("pdreactor", syslog.LOG_PID, syslog.LOG_DAEMON)
        syslog.syslog(syslog.LOG_NOTICE, line)


def _silence_stderr() -> None:
    """What is left in the buffer must not raise again when Python ends."""
    import os

    try:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process
    except OSError:
        sys.stderr = None
