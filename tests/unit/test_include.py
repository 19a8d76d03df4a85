"""The file for nftables.conf: kept only where its directory is, never broken."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pdreactor import include
from pdreactor.errors import KernelBusy, KernelError, StateError

OLD, NEW = "the old table\n", "the new table\n"
Keep = Callable[..., Path]


def accepted(_text: str) -> None:
    """nft has nothing against it."""


def refused(_text: str) -> None:
    raise KernelError("cannot check it: no such chain")


def busy(_text: str) -> None:
    raise KernelBusy("cannot check it: Device or resource busy")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, which is there already."""
    monkeypatch.setattr(include, "DIRECTORY", str(tmp_path))
    include.keep(lambda: OLD, accepted)
    return tmp_path / include.FILE


def test_without_its_directory_there_is_no_file_and_no_text_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(include, "DIRECTORY", str(tmp_path / "absent"))
    include.keep(lambda: pytest.fail("drawn up for nothing"), refused)
    include.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_changes_is_checked_and_replaced_by_rename(file: Path) -> None:
    before, seen = file.stat().st_ino, []
    include.keep(lambda: NEW, lambda text: seen.append((text, file.read_text())))
    assert seen == [(NEW, OLD)]
    assert file.read_text() == NEW
    assert file.stat().st_ino != before and file.stat().st_mode & 0o777 == 0o644
    assert list(file.parent.iterdir()) == [file]


def test_the_same_text_is_not_checked_or_written_again(file: Path) -> None:
    before = file.stat()
    include.keep(lambda: OLD, refused)
    assert file.stat() == before


def test_no_table_means_no_file(file: Path) -> None:
    include.keep(lambda: None, refused)
    assert not file.exists()
    include.keep(lambda: None, refused)


def test_what_nft_refuses_is_not_written_and_the_file_goes(file: Path) -> None:
    with pytest.raises(KernelError, match=r"no such chain; .*pdreactor\.nft is removed"):
        include.keep(lambda: NEW, refused)
    assert not file.exists()


def test_while_the_kernel_is_busy_the_file_stays(file: Path) -> None:
    with pytest.raises(KernelBusy):
        include.keep(lambda: NEW, busy)
    assert file.read_text() == OLD


@pytest.mark.parametrize("failing", ["open", "fsync", "rename"])
def test_what_cannot_be_written_leaves_the_old_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(StateError, match=r"pdreactor\.nft: .*No space left on device.*stays as it"):
        include.keep(lambda: NEW, accepted)
    monkeypatch.undo()
    assert file.read_text() == OLD
    assert list(file.parent.iterdir()) == [file]


def test_no_temporary_file_would_be_included(file: Path) -> None:
    (file.parent / f"{include.FILE}.4242.tmp").write_text("half a tab")
    assert list(file.parent.glob("*.nft")) == [file]
    include.keep(lambda: NEW, accepted)
    assert list(file.parent.iterdir()) == [file]


def test_a_directory_in_its_place_is_said(file: Path) -> None:
    file.unlink()
    file.mkdir()
    with pytest.raises(StateError, match="cannot remove"):
        include.remove()
    with pytest.raises(StateError, match="cannot write"):
        include.keep(lambda: NEW, accepted)
