"""Names of routing tables, read as ip(8) reads them."""

from pathlib import Path

import pytest

from pdreactor.kernel import rttables


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The two directories: a distribution's below usr, the administrator's in etc."""
    for name in ("usr/rt_tables.d", "etc/rt_tables.d"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(rttables, "DIRECTORIES", (str(tmp_path / "usr"), str(tmp_path / "etc")))
    return tmp_path / "etc"


def test_names_of_a_file_as_iproute2_ships_it(etc: Path) -> None:
    (etc / "rt_tables").write_text("""#
# reserved values
#
255\tlocal
254\tmain
0	unspec
#
# local
#
#1	inr.ruhep
201 fibre # the first one
0xca\tdsl
""")
    assert rttables.names() == {
        "local": 255, "main": 254, "unspec": 0, "fibre": 201, "dsl": 202}


def test_what_is_in_etc_and_read_later_counts(etc: Path) -> None:
    (etc.parent / "usr/rt_tables").write_text("1 one\n2 two\n3 three\n4 four\n")
    (etc.parent / "usr/rt_tables.d/z.conf").write_text("22 two\n")
    (etc / "rt_tables").write_text("33 three\n44 four\n")
    (etc / "rt_tables.d/a.conf").write_text("444 four\n")
    (etc / "rt_tables.d/not-read").write_text("5 five\n")
    assert rttables.names() == {"one": 1, "two": 22, "three": 33, "four": 444}


def test_lines_that_mean_nothing_name_nothing(etc: Path) -> None:
    (etc / "rt_tables").write_bytes(b"x fibre\n201\n202 dsl more\n\xff\xfe 203\n1.5 half\n"
                                    b"\n  \n204 good\n08 octal\n" + b"9" * 5000 + b" long\n")
    assert rttables.names() == {"good": 204}


def test_a_file_that_cannot_be_read_names_nothing(etc: Path) -> None:
    (etc / "rt_tables").mkdir()
    (etc / "rt_tables.d/x.conf").symlink_to(etc / "nowhere")
    (etc / "rt_tables.d/y.conf").write_text("205 good\n")
    assert rttables.names() == {"good": 205}


def test_no_files_are_no_names(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rttables, "DIRECTORIES", (str(etc / "nowhere"),))
    assert rttables.names() == {}
