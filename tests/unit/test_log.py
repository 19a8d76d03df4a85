"""Log lines: on stderr in two forms, in syslog when nobody can read stderr."""

import io
import json
import os
import subprocess
import sys
import syslog
from collections.abc import Iterator

import pytest

from pdreactor import log

from .box import ROOT


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(log._Settings, "dead", False)
    yield
    log.setup()


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes to syslog."""
    found: list[str] = []
    monkeypatch.setattr(syslog, "openlog", lambda *_: None)
    monkeypatch.setattr(syslog, "syslog", lambda _, line: found.append(line))
    return found


def test_a_line_has_level_event_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup()
    log.warning("careful", uplink="wan")
    assert capsys.readouterr().err == "pdreactor: level='warning' event='careful' uplink='wan'\n"


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup(json=True)
    log.info("changed", changes=["a\nb"], other=object)
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["level"], found["event"], found["changes"]) == ("info", "changed", ["a\nb"])
    assert found["timestamp"].endswith("Z")


@pytest.mark.parametrize(("threshold", "shown"), [
    ("debug", ["d", "i", "w", "e"]), ("info", ["i", "w", "e"]), ("warning", ["w", "e"])])
def test_only_what_was_asked_for(threshold: str, shown: list[str],
                                 capsys: pytest.CaptureFixture[str]) -> None:
    log.setup(threshold=threshold, json=True)
    for call, event in ((log.debug, "d"), (log.info, "i"), (log.warning, "w"), (log.error, "e")):
        call(event)
    assert [json.loads(x)["event"] for x in capsys.readouterr().err.splitlines()] == shown


@pytest.mark.parametrize("json_lines", [False, True])
def test_hostile_text_stays_on_one_line(json_lines: bool,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    log.setup(json=json_lines)
    log.error("a\nb\x1b[2J\r", value="c\nd\x00")
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert text[:-1].isprintable()


def test_without_structlog_there_are_still_lines(monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "structlog", None)
    log.setup()
    log.error("broken", reason="x")
    assert capsys.readouterr().err == "pdreactor: level=error event='broken' reason='x'\n"


class Dead(io.TextIOBase):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stderr", [Dead(), closed(), None], ids=["dead", "closed", "none"])
def test_a_dead_stderr_sends_lines_to_syslog(stderr: object, messages: list[str],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    log.setup()
    log.error("first")
    log.plain("second")
    assert messages == ["pdreactor: level='error' event='first'", "second"]


def test_nothing_is_imported_for_a_line_that_is_not_shown() -> None:
    script = ("import sys; from pdreactor import log; log.setup(threshold='warning')\n"
              "log.info('x'); log.debug('y'); print('structlog' in sys.modules)")
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True,
                         timeout=30, check=True, env={"PATH": os.environ["PATH"]})
    assert (run.stdout, run.stderr) == ("False\n", "")
