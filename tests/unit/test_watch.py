"""What of the watch needs no kernel."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pdreactor import entries, watch
from pdreactor.model import Config

TEXT = '[uplink.wan]\ninterface = "{name}"\n'


def test_a_configuration_that_is_written_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "pdreactor.toml", entries.configuration
    path.write_text(TEXT.format(name="first"))

    def slow(*where: Any) -> Config:
        config = read(*where)
        path.write_text(TEXT.format(name="the.last"))
        return config

    monkeypatch.setattr(entries, "configuration", slow)
    watcher = watch.Watch(str(path), str(tmp_path))
    watcher._notices = SimpleNamespace()  # type: ignore[assignment]
    assert watcher.config.uplinks[0].interface == "first"
    watcher._reread()
    assert watcher.config.uplinks[0].interface == "the.last"
