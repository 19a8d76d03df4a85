"""The tests of this directory run in a guest: one boot for all of a file that are selected.

Here, outside, a test is not run but asked for: the guest runs pytest with the same names, and tells
each report as a line of JSON as soon as it has it (inside.py). Those reports are the tests'.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .boot import ROOT, Guest, missing

HERE = Path(__file__).parent
SECONDS = 600.0
"""More than it ever takes; an emulated processor on a busy machine is slow."""
MARK = "\x1e"
"""Before each report: what else is on stdout is no report."""
INSIDE = [sys.executable, "-m", "pytest", "--noconftest", "-p", "tests.guest.inside",
          "-p", "no:cacheprovider", "-p", "no:terminal", "-s", f"--rootdir={ROOT}"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skipped, and said why, where there is no guest."""
    reason = missing()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.netns)
            if reason:
                item.add_marker(pytest.mark.skip(reason=f"no guest: {reason}"))


class Reports:
    """What the guest reports, as it comes."""

    def __init__(self, config: pytest.Config, names: list[str]) -> None:
        """Boot it with these tests."""
        self._config = config
        self._guest = Guest(
            [*INSIDE, *(str(ROOT / name) for name in names)],
            {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
             "PYTHONDONTWRITEBYTECODE": "1"}, SECONDS)
        config.add_cleanup(self._guest.close)
        self._lines = self._read()
        self._early: list[Any] = []

    def _read(self) -> Iterator[Any]:
        for line in self._guest.out:
            if line.startswith(MARK):
                yield self._config.hook.pytest_report_from_serializable(
                    config=self._config, data=json.loads(line[1:]))

    def of(self, item: pytest.Item) -> Iterator[Any]:
        """The reports about one test, the last of which is that of its end."""
        for report in self._lines:
            if report.nodeid == item.nodeid:
                yield report
                if report.when == "teardown":
                    return
        code = self._guest.wait()
        yield pytest.TestReport(
            item.nodeid, item.location, {}, "failed", when="call",
            longrepr=f"the guest ended with {code} and without a report: {self._guest.said()}")


REPORTS = pytest.StashKey[dict[Path, Reports]]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Take the reports of the guest for those of the test."""
    if HERE not in item.path.parents or item.get_closest_marker("skip"):
        return None
    booted = item.session.stash.setdefault(REPORTS, {})
    if item.path not in booted:
        ours = [one.nodeid for one in item.session.items if one.path == item.path]
        booted[item.path] = Reports(item.config, ours)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in booted[item.path].of(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
