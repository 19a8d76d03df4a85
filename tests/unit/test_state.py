"""The state file: round trips, damage, newer formats, failing disks, locks."""

import errno
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pdreactor import state
from pdreactor.errors import EX_IOERR, PermissionDenied, StateError
from pdreactor.keys import TAKEN
from pdreactor.model import Down, Happening, Holding, Prefix, Refusal, Stamp, State, UplinkState

from .values import P1, P2, after, reply, told

KNOWN = after(reply(*told(P1)), reply(*told(P2, excluded="2001:db8:8000:1::/64")))

# ---- the text form ---------------------------------------------------------------------------

numbers = st.integers(0, state.LARGEST - 1)
maybe = st.none() | numbers
texts = st.text(max_size=20).map(lambda t: t.encode("utf-8", "replace").decode())
networks = st.builds(
    lambda bits, length: IPv6Network((1 << 125 | bits >> (128 - length) << (128 - length), length)),
    st.integers(0, (1 << 125) - 1), st.integers(3, 128))
lines = texts.filter(str.isprintable)
happenings = st.builds(Happening, numbers, texts, texts, texts)


def uplink(number: int, prefixes: list[Prefix], refusal: Refusal | None,
           down: Down | None) -> UplinkState:
    return UplinkState(number, tuple(p._replace(generation=g) for g, p in enumerate(prefixes)),
                       refusal, down)


uplinks = st.dictionaries(texts, st.tuples(
    st.lists(st.builds(Prefix, networks, maybe, maybe, maybe, numbers, numbers, numbers, texts,
                       st.none() | networks, maybe), max_size=4),
    st.none() | st.builds(Refusal, numbers, texts, texts),
    st.none() | st.builds(Down, numbers, lines)), max_size=4)
chains = st.from_regex(r"[a-z_][a-z0-9_.-]{0,21}", fullmatch=True).filter(
    lambda name: name.upper() not in TAKEN)
states = st.builds(
    lambda up, doomed, history, applied, held, modes, leading, left, tabled: State(
        {name: uplink(number, *parts) for number, (name, parts) in enumerate(up.items(), 1)},
        doomed, history, applied, held=held, modes=modes, leading=leading, left=left,
        tabled=tabled),
    uplinks,
    st.lists(st.builds(Stamp, numbers, numbers, st.booleans()), max_size=4).map(tuple),
    st.lists(happenings, max_size=4).map(tuple),
    st.dictionaries(texts, st.lists(networks, max_size=3).map(tuple), max_size=3).map(
        lambda applied: tuple(applied.items())),
    st.lists(st.builds(Holding, st.sampled_from(["nf_tables", "legacy"]), chains, chains,
                       st.booleans(), st.lists(texts, max_size=2).map(tuple)), max_size=2).map(
        tuple),
    st.lists(st.tuples(networks, texts, texts), max_size=3).map(tuple),
    st.lists(st.tuples(networks, texts), max_size=3).map(tuple),
    st.lists(texts, max_size=3).map(tuple), st.lists(texts, max_size=3).map(tuple))


@given(states)
@settings(deadline=None)
def test_every_state_comes_back_from_its_text(known: State) -> None:
    text = state.encode(known)
    assert text.endswith(b"\n")
    assert text.isascii()
    assert state.decode(text) == known
    assert state.encode(state.decode(text)) == text


def test_the_text_is_format_1_for_ever() -> None:
    """A state file of an older release is read by a newer one."""
    text = b"""{"format": 1, "uplinks": {"wan": {"number": 1, "refusal": null, "prefixes": [
        {"network": "2001:db8:4000::/58", "iaid": null, "preferred_until": 5, "valid_until": null,
         "generation": 0, "learned_at": 1, "updated_at": 2, "reason": "BOUND6", "excluded": null,
         "superseded_at": null}]}},
        "doomed": [[1, 2, true]], "history": [], "applied": {"wan": ["2001:db8:4000::/58"]}}"""
    known = state.decode(text)
    assert known.uplinks["wan"].prefixes == (
        Prefix(P1, None, 5, None, 0, 1, 2, "BOUND6", None, None),)
    assert known.doomed == (Stamp(1, 2, True),)
    assert known.applied == (("wan", (P1,)),)


# ---- damage ----------------------------------------------------------------------------------


def document(**changed: Any) -> bytes:
    return json.dumps(json.loads(state.encode(KNOWN)) | changed).encode()


def with_prefix(**changed: Any) -> bytes:
    whole = json.loads(state.encode(KNOWN))
    whole["uplinks"]["wan"]["prefixes"][0].update(changed)
    return json.dumps(whole).encode()


def two_alike() -> bytes:
    whole = json.loads(state.encode(KNOWN))
    whole["uplinks"]["other"] = whole["uplinks"]["wan"]
    return json.dumps(whole).encode()


HOSTILE = {
    "empty": b"",
    "zeros": bytes(4096),
    "half": state.encode(KNOWN)[:300],
    "no object": b"[]",
    "null": b"null",
    "a number": b"1",
    "no format": b"{}",
    "format as text": document(format="1"),
    "format true": document(format=True),
    "format negative": document(format=-1),
    "no uplinks": b'{"format": 1}',
    "uplinks a list": document(uplinks=[1]),
    "uplink null": document(uplinks={"wan": None}),
    "doomed a text": document(doomed="abc"),
    "doomed too short": document(doomed=[[1, 2]]),
    "doomed negative": document(doomed=[[1, -2, True]]),
    "history of numbers": document(history=[1]),
    "chains of another program": document(held=[["ebtables", "x", "y", True, []]]),
    "chains with a line feed": document(held=[["legacy", "x\n-F", "y", True, []]]),
    "modes of what is no prefix": document(modes=[["x", "wan", "netmap"]]),
    "leading of what is no prefix": document(leading=[["x", "wan"]]),
    "set down with control characters": document(uplinks={"wan": {
        "number": 1, "prefixes": [], "refusal": None, "down": {"at": 1, "reason": "\x1b[2J"}}}),
    "applied a list": document(applied=[]),
    "applied not a prefix": document(applied={"wan": ["everything"]}),
    "two uplinks of one number": two_alike(),
    "two prefixes of one generation": with_prefix(generation=0),
    "generation negative": with_prefix(generation=-1),
    "generation half": with_prefix(generation=1.5),
    "network of everything": with_prefix(network="::/0"),
    "network of ours": with_prefix(network="fd00::/8"),
    "network with a zone": with_prefix(network="2001:db8::%x/58"),
    "network with host bits": with_prefix(network="2001:db8::1/58"),
    "network of nft syntax": with_prefix(network='2001:db8::/58 } ; flush ruleset'),
    "network a number": with_prefix(network=1 << 125),
    "excluded a number": with_prefix(excluded=3),
    "lifetime a text": with_prefix(valid_until="soon"),
    "lifetime huge": with_prefix(valid_until=1 << 62),
    "lifetime infinite as float": with_prefix(valid_until=float("inf")),
    "nested deeply": b'{"format": ' + b"[" * 100_000,
    "a long number": b'{"format": ' + b"9" * 5000 + b"}",
    "not utf-8": b"\xff\xfe{",
    "too large": state.encode(KNOWN) + b" " * state.LIMIT,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_damaged_file_is_set_aside_and_pdreactor_goes_on(what: str, tmp_path: Path) -> None:
    file = tmp_path / state.FILE
    file.write_bytes(HOSTILE[what])
    known, line = state.load(str(tmp_path))
    assert known == State({})
    assert str(file) in line
    assert line.isprintable()
    assert len(line) < 1000
    assert (tmp_path / "state.json.damaged").read_bytes() == HOSTILE[what]
    assert not file.exists()
    assert state.load(str(tmp_path)) == (State({}), "")


@pytest.mark.parametrize("what", ["empty", "half", "two uplinks of one number"])
def test_looking_at_a_damaged_file_leaves_it_where_it_is(what: str, tmp_path: Path) -> None:
    file = tmp_path / state.FILE
    file.write_bytes(HOSTILE[what])
    known, line = state.load(str(tmp_path), keep=True)
    assert known == State({})
    assert "damaged" in line
    assert [p.name for p in tmp_path.iterdir()] == [state.FILE]
    assert file.read_bytes() == HOSTILE[what]


def test_the_state_before_counts_when_the_file_is_damaged(tmp_path: Path) -> None:
    first = after(reply(*told(P1)))
    state.save(str(tmp_path), first)
    state.save(str(tmp_path), KNOWN)
    (tmp_path / state.FILE).write_bytes(b"")
    for keep in (True, False):
        known, line = state.load(str(tmp_path), keep=keep)
        assert known == first
        assert "the state before it is used" in line


def linked(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to(file.with_name("elsewhere"))


def replaced_by_a_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def replaced_by_a_device(file: Path) -> None:
    """/dev/zero never ends."""
    file.unlink()
    os.mknod(file, 0o600 | stat.S_IFCHR, os.makedev(1, 5))


def replaced_by_a_socket(file: Path) -> None:
    file.unlink()
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(str(file))


NOT_OURS: dict[str, Callable[[Path], None]] = {
    "a link": linked,
    "a fifo": replaced_by_a_fifo,
    "a device": replaced_by_a_device,
    "a socket": replaced_by_a_socket,
    "another user's": lambda file: os.chown(file, 1000, 1000),
    "a file for all to write": lambda file: file.chmod(0o666),
    "a file for a group to write": lambda file: file.chmod(0o660),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="makes devices and other people's files")
@pytest.mark.parametrize("what", NOT_OURS)
def test_a_file_that_others_can_have_made_is_set_aside(what: str, tmp_path: Path) -> None:
    """And nobody waits for it. (In a directory that everybody can write to it is easily made.)"""
    tmp_path.chmod(0o777)
    first = after(reply(*told(P1)))
    state.save(str(tmp_path), first)
    state.save(str(tmp_path), KNOWN)
    NOT_OURS[what](tmp_path / state.FILE)
    for keep in (True, False):
        known, line = state.load(str(tmp_path), keep=keep)
        assert known == first
        assert "damaged" in line and line.isprintable()
        assert ("regular file" in line) != ("can write to it" in line)
    assert os.path.lexists(tmp_path / "state.json.damaged")
    state.save(str(tmp_path), KNOWN)
    assert state.load(str(tmp_path)) == (KNOWN, "")


def test_the_shelter_counts_while_it_is_there(tmp_path: Path, shelter: Path) -> None:
    state.save(str(tmp_path), State({}))
    shelter.mkdir()
    file = shelter / f"{str(tmp_path)[1:].replace('/', '-')}-state.json"
    file.write_bytes(state.encode(KNOWN))
    assert state.load(str(tmp_path)) == (
        KNOWN, f"{tmp_path}/state.json could not be written; the state was kept in {file}")
    file.write_bytes(b"{")
    assert state.load(str(tmp_path)) == (State({}), "")
    file.write_bytes(state.encode(KNOWN))
    state.save(str(tmp_path), KNOWN)
    assert not file.exists()
    assert state.load(str(tmp_path)) == (KNOWN, "")
    file.write_bytes(b"")
    state.forget(str(tmp_path))
    assert not file.exists()


def loads(raw: bytes, directory: Path) -> None:
    for name in os.listdir(directory):
        os.unlink(directory / name)
    (directory / state.FILE).write_bytes(raw)
    try:
        known, line = state.load(str(directory))
    except StateError as exc:
        assert "format" in str(exc)
        return
    assert line or state.decode(state.encode(known)) == known


FUZZ = settings(max_examples=300, deadline=None,
                suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = state.encode(KNOWN)


@given(st.binary(max_size=200))
@example(b'{"format": 99999999}')
@FUZZ
def test_any_bytes_are_a_state_or_damage(tmp_path: Path, raw: bytes) -> None:
    loads(raw, tmp_path)


@given(st.integers(0, len(TEXT)), st.binary(max_size=5), st.integers(0, 40))
@FUZZ
def test_a_state_with_other_bytes_somewhere_is_a_state_or_damage(
        tmp_path: Path, place: int, instead: bytes, length: int) -> None:
    loads(TEXT[:place] + instead + TEXT[place + length:], tmp_path)


def test_no_file_is_an_empty_state(tmp_path: Path) -> None:
    assert state.load(str(tmp_path)) == (State({}), "")
    assert state.load(str(tmp_path / "not" / "there")) == (State({}), "")


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / state.FILE
    file.write_bytes(document(format=2))
    with pytest.raises(StateError, match=r"format 2.*newer version") as refused:
        state.load(str(tmp_path))
    assert refused.value.exit_code == EX_IOERR == 74
    assert file.read_bytes() == document(format=2)
    assert [p.name for p in tmp_path.iterdir()] == [state.FILE]


def test_a_file_that_cannot_be_read_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / state.FILE).mkdir()
    with pytest.raises(StateError, match="cannot read"):
        state.load(str(tmp_path))


# ---- writing ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def shelter(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Not that of the machine."""
    directory = tmp_path_factory.mktemp("run") / "pdreactor"
    monkeypatch.setattr(state, "SHELTER", str(directory))
    return directory


def test_saved_is_loaded_and_nobody_else_reads_it(tmp_path: Path) -> None:
    state.save(str(tmp_path), KNOWN)
    assert state.load(str(tmp_path)) == (KNOWN, "")
    assert (tmp_path / state.FILE).stat().st_mode & 0o777 == 0o600


def fail(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_then_fail() -> Callable[[int, bytes], int]:
    real, calls = os.write, []

    def write(fd: int, content: bytes) -> int:
        calls.append(fd)
        return real(fd, content[:100]) if len(calls) == 1 else fail()

    return write


@pytest.mark.parametrize("where", ["open", "write", "half a write", "fsync", "rename"])
def test_whatever_fails_the_old_file_is_whole_and_no_other_is_left(
        where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "precious"
    file.write_bytes(b"old")
    with monkeypatch.context() as patch:
        if where == "half a write":
            patch.setattr(os, "write", half_then_fail())
        else:
            patch.setattr(os, where, fail)
        with pytest.raises(StateError, match=r"cannot write .*precious: No space left"):
            state.replace_file(str(file), b"new" * 1000)
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("where", ["write", "fsync", "rename"])
def test_a_failed_save_leaves_the_last_good_state(
        where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state.save(str(tmp_path), KNOWN)
    with monkeypatch.context() as patch:
        patch.setattr(os, where, fail)
        with pytest.raises(StateError):
            state.save(str(tmp_path), State({}))
    assert state.load(str(tmp_path)) == (KNOWN, "")
    assert not list(tmp_path.glob("*.tmp"))


def test_the_content_is_on_disk_before_the_name_changes(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And then the directory: rename(2) alone is not durable."""
    order: list[str] = []
    real = {"fsync": os.fsync, "rename": os.rename}
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append(
        "directory" if os.path.isdir(f"/proc/self/fd/{fd}") else "file"), real["fsync"](fd))[1])
    monkeypatch.setattr(os, "rename", lambda a, b: (order.append("rename"), real["rename"](a, b)))
    state.replace_file(str(tmp_path / "x"), b"y")
    assert order == ["file", "rename", "directory"]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, content: real(fd, content[:7]))
    state.save(str(tmp_path), KNOWN)
    assert state.load(str(tmp_path)) == (KNOWN, "")


@pytest.mark.parametrize("planted", ["link", "file"])
def test_what_somebody_put_in_place_of_the_temporary_file_is_not_used(
        planted: str, tmp_path: Path) -> None:
    victim, temporary = tmp_path / "victim", tmp_path / f"x.{os.getpid()}.tmp"
    victim.write_bytes(b"precious")
    if planted == "link":
        temporary.symlink_to(victim)
    else:
        os.link(victim, temporary)
    state.replace_file(str(tmp_path / "x"), b"new")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "x").read_bytes() == b"new"


def test_permission_denied_has_its_own_exit_code(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", forbid)
    with pytest.raises(PermissionDenied) as refused:
        state.replace_file(str(tmp_path / "x"), b"")
    assert refused.value.exit_code == 77


FULL_DISK = """
import os, sys
from pdreactor import state
from pdreactor.errors import StateError
from pdreactor.model import Happening, State
directory = sys.argv[1]
state.save(directory, State({}))
large = State({}, history=(Happening(1, "wan", "BOUND6", "x" * 200_000),))
try:
    state.save(directory, large)
except StateError as exc:
    print(exc)
print(state.load(directory))
print(state.load(directory)[0] == large, sorted(os.listdir(directory)))
os.truncate(os.path.join(directory, "large"), 0)
state.save(directory, large)
print(state.load(directory) == (large, ""), os.listdir(state.SHELTER))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root")
def test_a_full_disk(tmp_path: Path) -> None:
    """What it does not take is kept in the shelter, and counts; until it takes it again."""
    mount = (f"mount -t tmpfs none /run && mount -t tmpfs -o size=400k none {tmp_path} && "
             f'head -c 250000 /dev/zero >{tmp_path}/large; exec "$@"')
    argv = ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", FULL_DISK,
            str(tmp_path)]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False,
                         cwd=Path(state.__file__).parents[1])
    assert run.stderr == ""
    said, loaded, sheltered, again = run.stdout.splitlines()
    name = f"{str(tmp_path)[1:].replace('/', '-')}-state.json"
    assert "No space left on device (make room there)" in said
    assert f"the new one is in /run/pdreactor/{name} until the next reboot" in said
    assert f"the state was kept in /run/pdreactor/{name}" in loaded
    assert sheltered == "True ['large', 'state.json', 'state.json.old']"
    assert again == "True []"


# ---- locks -----------------------------------------------------------------------------------


def test_the_lock_makes_its_directory(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    with state.Lock(str(directory), "state.lock", 1):
        assert (directory / "state.lock").exists()


def test_waiting_for_a_lock_is_bounded_and_names_the_file(tmp_path: Path) -> None:
    with state.Lock(str(tmp_path), "state.lock", 1):
        began = time.monotonic()
        with pytest.raises(StateError, match=r"state\.lock.*0\.2 s.*fuser"), \
                state.Lock(str(tmp_path), "state.lock", 0.2):
            pass
        assert 0.2 <= time.monotonic() - began < 2
    with state.Lock(str(tmp_path), "state.lock", 0):
        pass


def test_the_two_locks_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """An event is never lost to a pass that takes long."""
    with state.Lock(str(tmp_path), "pass.lock", 0), state.Lock(str(tmp_path), "state.lock", 0):
        pass


def test_on_a_disk_that_takes_no_file_the_locks_are_in_the_shelter(
        tmp_path: Path, shelter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, known = state._made, tmp_path / "known.lock"
    known.write_bytes(b"")

    def made(path: str) -> int:
        if path.startswith(str(tmp_path)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path)

    monkeypatch.setattr(state, "_made", made)
    for name in ("state.lock", "known.lock"):
        with state.Lock(str(tmp_path), name, 0):
            with pytest.raises(StateError, match=name), state.Lock(str(tmp_path), name, 0):
                pass
            with state.Lock(str(tmp_path), f"other-{name}", 0):
                pass
    assert not (shelter / f"{str(known)[1:].replace('/', '-')}").exists()
    monkeypatch.setattr(state, "SHELTER", "/proc/nowhere")
    with state.Lock(str(tmp_path), "state.lock", 0):
        pass


def test_a_lock_is_free_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), state.Lock(str(tmp_path), "state.lock", 0):
        raise ZeroDivisionError
    with state.Lock(str(tmp_path), "state.lock", 0):
        pass


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    script = ("import os, signal, sys; from pdreactor.state import Lock\n"
              "Lock(sys.argv[1], 'state.lock', 0).__enter__(); os.kill(os.getpid(), 9)")
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=30, check=False,
                         cwd=Path(state.__file__).parents[1])
    assert run.returncode == -9
    with state.Lock(str(tmp_path), "state.lock", 0):
        pass


def test_a_symlink_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "state.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match="lock"), state.Lock(str(tmp_path), "state.lock", 0):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_under_the_lock_no_writer_loses_anothers_work(tmp_path: Path) -> None:
    def work() -> None:
        for _ in range(10):
            with state.Lock(str(tmp_path), "state.lock", 20):
                known, _ = state.load(str(tmp_path))
                more = (*known.history, Happening(1, "wan", "set", "x"))
                state.save(str(tmp_path), known._replace(history=more))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(state.load(str(tmp_path))[0].history) == 40


# ---- tidying up ------------------------------------------------------------------------------


def test_sweep_takes_what_killed_writers_left_and_nothing_else(tmp_path: Path) -> None:
    keep = ["state.json", "state.json.old", "state.json.damaged", "state.lock", "notes.tmp", "x"]
    for name in [*keep, "state.json.1.tmp", "state.json.99999.tmp", "config.json.7.tmp"]:
        (tmp_path / name).write_bytes(b"")
    state.sweep(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(keep)


def test_forget_leaves_other_peoples_files(tmp_path: Path) -> None:
    directory = tmp_path / "pdreactor"
    state.forget(str(directory))
    with state.Lock(str(directory), "state.lock", 0):
        state.save(str(directory), KNOWN)
        state.save(str(directory), KNOWN)
    (directory / "notes").write_bytes(b"")
    state.forget(str(directory))
    assert os.listdir(directory) == ["notes"]
    (directory / "notes").unlink()
    state.forget(str(directory))
    assert not directory.exists()
