"""The legacy variant of ip6tables: libiptc through python-iptables ("import iptc").

Of python-iptables are used its tables, and its matches and targets to make rules of words. Not
used, for a reason each (1.0.1 and 1.2.0 are alike in them):

- its search for libraries, which runs ldconfig, gcc and ld (180 ms), and modprobe twice;
- ``Rule6.tables``, which makes the kernel have every table;
- ``Rule6.in_interface`` and ``out_interface``, whose mask compares one bit of each letter: a rule
  for eth0 is one for eth2 as well;
- ``Chain.append_rule``, which turns each part of a rule into text, through file descriptor 1, and
  back before it checks it;
- its handler of libxtables' errors, a Python function that longjmp(3) leaves halfway.
"""

import ctypes
import errno
import os
import re
import struct
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from fcntl import LOCK_EX, LOCK_NB, flock
from importlib.machinery import PathFinder
from socket import AF_INET6, IPPROTO_RAW, SOCK_RAW, socket
from types import ModuleType
from typing import Any, TypeVar

from ..errors import BackendMissing, KernelBusy, KernelError, PdreactorError, PermissionDenied
from .ip6tables import NAMES, legacy_tables, run
from .retry import persistently
from .xtables import BUILTIN, Chains, Commit, Rule, Seen

Result = TypeVar("Result")

PACKAGES = ("python3-iptables on Debian and Ubuntu; elsewhere pip install python-iptables, which "
            "is the extra pdreactor[iptables-legacy]")
LOCK = "/run/xtables.lock"
LOCK_SECONDS = 5.0

FORBIDDEN = (os.strerror(errno.EPERM), os.strerror(errno.EACCES))
BUSY = tuple(os.strerror(n) for n in (errno.EAGAIN, errno.ENOBUFS, errno.EINTR))
MISSING = ("can't find match", "can't find target",
           "can't commit: No chain/target/match by that name")


class Libiptc:
    """The tables of the legacy variant. Raises BackendMissing without python-iptables."""

    def __init__(self) -> None:
        self._iptc = _imported()
        self._new = type("Rule", (self._iptc.Rule6,), {"tables": ()})

    def read(self, table: str, chains: Collection[str]) -> Chains:
        """Those of the named chains that exist. Makes nothing: {} for a table that is not there."""
        if table not in legacy_tables():
            return {}

        def look(opened: Any) -> Chains:
            return {chain: tuple(self._rules(opened, chain)) for chain in chains
                    if opened.is_chain(chain)}

        return persistently(lambda: self._with(table, f"read table ip6 {table}", look))

    def commit(self, commit: Commit) -> None:
        """Raises KernelBusy, PermissionDenied, BackendMissing or KernelError; nothing was changed
        then."""
        doing = f"change table ip6 {commit.table}"

        def change(table: Any) -> None:
            self._change(table, commit)
            table.commit()

        _loaded(doing)
        _locked(lambda: persistently(lambda: self._with(commit.table, doing, change)), doing)

    def _with(self, name: str, doing: str, use: Callable[[Any], Result]) -> Result:
        """``use(table)`` of the table as it is now. What is not committed then is forgotten."""
        _permitted(doing)
        try:
            table = self._iptc.Table6(name, autocommit=False)  # one object for each name, for ever
            table.refresh()
            try:
                return use(table)
            finally:
                table.close()
        except self._iptc.IPTCError as exc:
            raise _explained(exc, doing) from exc

    # ---- look ----

    def _rules(self, table: Any, chain: str) -> Iterator[Seen]:
        entry = table.first_rule(chain)
        while entry:
            yield self._seen(entry, (table.get_target(entry) or b"").decode())
            entry = table.next_rule(entry)

    def _seen(self, entry: Any, target: str) -> Seen:
        """struct ip6t_entry of linux/netfilter_ipv6/ip6_tables.h: addresses and flags, offsets and
        counters, matches, the target."""
        raw = ctypes.string_at(ctypes.addressof(entry), entry.next_offset)
        matches = ctypes.sizeof(self._iptc.ip6tc.ip6t_entry)
        anything = any(raw[:ctypes.sizeof(self._iptc.ip6tc.ip6t_ip6)])
        standard = not _part(raw, entry.target_offset)[1]
        plain = bool(target and standard and not anything and entry.target_offset == matches)
        return Seen(_comment(raw, matches, entry.target_offset), target, plain)

    # ---- change ----

    def _change(self, table: Any, commit: Commit) -> None:
        _keep_counters(table)
        for chain in (*commit.chains, *commit.remove):
            if table.is_chain(chain):
                table.flush_entries(chain)
            else:
                table.create_chain(chain)
        for builtin, chain in commit.unjump:
            jump = self._plain(table, chain)
            table.delete_entry(builtin, jump, type(jump)(*[0xff] * len(jump)))
        for chain, rules in commit.chains.items():
            for rule in rules:
                table.append_entry(chain, self._built(table, rule))
        for builtin, chain in commit.jump:
            table.insert_entry(builtin, self._plain(table, chain), 0)
        for chain in commit.remove:
            table.delete_chain(chain)

    def _plain(self, table: Any, chain: str) -> Any:
        return self._built(table, Rule("", ("-j", chain)))

    def _built(self, table: Any, rule: Rule) -> Any:
        """The rule as the kernel takes it."""
        try:
            return self._filled(table, rule).rule
        except (self._iptc.XTablesError, AttributeError, ValueError, TypeError, IndexError) as exc:
            doing = f"make the rule {' '.join(rule.words)} of table ip6 {table.name}"
            raise _explained(exc, doing) from exc

    def _filled(self, table: Any, rule: Rule) -> Any:
        new = self._new()
        new.tables = [table]
        part: Any = None
        for name, inverted, values in _options(rule.words):
            if name in FIELDS:
                FIELDS[name](new, "!" * inverted, *values)
            elif name == "-m":
                part = _next(part, new.create_match, *values)
            elif name == "-j":
                if rule.comment:
                    part = _next(part, new.create_match, "comment")
                    part.set_parameter("comment", [rule.comment])
                part = _next(part, new.create_target, *values)
            else:
                part.set_parameter(name.removeprefix("--"), ["!"] * inverted + values)
        if new.target is None:
            raise ValueError("it has no target")
        part._final_check()
        return new


def _keep_counters(table: Any) -> None:
    """Of the policies of built-in chains: libiptc sets them to 0 with each commit, as each
    ip6tables-legacy does. Those of rules it keeps."""
    for chain in filter(table.builtin_chain, BUILTIN):
        table.set_policy(chain, *table.get_policy(chain))


# ---- words to rules --------------------------------------------------------------------------


def _options(words: Iterable[str]) -> Iterator[tuple[str, bool, list[str]]]:
    """(option, whether a "!" is before it, its values)."""
    found: list[tuple[str, bool, list[str]]] = []
    inverted = False
    for word in words:
        if word.startswith("-"):
            found.append((word, inverted, []))
        elif word != "!":
            found[-1][2].append(word)
        inverted = word == "!"
    yield from found


LONGEST_NAME = 28  # XT_EXTENSION_MAXNAMELEN


def _next(part: Any, create: Callable[[str], Any], name: str) -> Any:
    """The next match or target, after a check that the one before is complete: libxtables has one
    state for each extension, so that must come before the next use of the same."""
    if part is not None:
        part._final_check()
    if len(name) > LONGEST_NAME:  # libxtables would call exit(3)
        raise ValueError(f"the name {name} is too long")
    return create(name)


def _source(rule: Any, sign: str, value: str) -> None:
    rule.src = sign + value


def _destination(rule: Any, sign: str, value: str) -> None:
    rule.dst = sign + value


def _in(rule: Any, sign: str, name: str) -> None:
    ip = rule.entry.ipv6
    ip.iniface, ip.iniface_mask = _interface(name)
    ip.invflags |= ip.IP6T_INV_VIA_IN if sign else 0


def _out(rule: Any, sign: str, name: str) -> None:
    ip = rule.entry.ipv6
    ip.outiface, ip.outiface_mask = _interface(name)
    ip.invflags |= ip.IP6T_INV_VIA_OUT if sign else 0


def _interface(name: str) -> tuple[bytes, bytes]:
    """Name and mask, as xtables_parse_interface() of libxtables makes them."""
    encoded = name.encode()
    if not 0 < len(encoded) < 16:
        raise ValueError(f"{name!r} is no name of an interface")
    same = len(encoded) - 1 if encoded.endswith(b"+") else len(encoded) + 1
    return encoded, b"\xff" * same


def _protocol(rule: Any, sign: str, name: str) -> None:
    rule.protocol = sign + {"ipv6-icmp": "icmpv6"}.get(name, name)
    rule.entry.ipv6.flags |= rule.entry.ipv6.IP6T_F_PROTO  # python-iptables takes it from "!"


FIELDS: dict[str, Callable[..., None]] = {
    "-s": _source, "-d": _destination, "-i": _in, "-o": _out, "-p": _protocol}


# ---- what the kernel has ---------------------------------------------------------------------


def _part(raw: bytes, at: int) -> tuple[int, bytes]:
    """Size and name of a match or target; revision and data follow."""
    size, name = struct.unpack_from("=H29s", raw, at)
    return size, name.partition(b"\0")[0]


def _comment(raw: bytes, at: int, end: int) -> str:
    while at < end:
        size, name = _part(raw, at)
        if name == b"comment":
            data = raw[at + 32:at + size]
            return data.partition(b"\0")[0].decode(errors="surrogateescape")
        at += size
    return ""


# ---- the library and the lock ----------------------------------------------------------------


def _imported() -> Any:
    """python-iptables; with another ``iptc.util`` than its own, unless somebody was faster."""
    first = "iptc" not in sys.modules
    if first:
        sys.modules["iptc.util"] = util = ModuleType("iptc.util")
        vars(util).update(find_library=_library, find_libc=lambda: ctypes.CDLL(None),
                          load_kernel=lambda *_: None)
    try:
        import iptc
        inner = iptc.xtables
    except (ImportError, OSError, AttributeError) as exc:
        for name in [name for name in sys.modules if first and name.startswith("iptc.")]:
            del sys.modules[name]
        raise BackendMissing(f"python-iptables cannot be used ({exc}): install {PACKAGES}; a "
                             f"virtual environment needs --system-site-packages") from exc
    inner._xt_globals.exit_err = ctypes.cast(inner._throw, inner._EXIT_FN)
    return iptc


def _library(*names: str) -> tuple[ctypes.CDLL, int]:
    """The library that python-iptables asks for, and its major version."""
    if names == ("xtwrapper",):  # python-iptables' own
        spec = PathFinder.find_spec("libxtwrapper")
        path = (spec and spec.origin) or "libxtwrapper.so"
        return ctypes.CDLL(path, ctypes.RTLD_GLOBAL), 0
    major = 12 if names == ("xtables",) else 2  # of iptables 1.8.5 to 1.8.11 at least
    library = ctypes.CDLL(f"lib{names[0]}.so.{major}", ctypes.RTLD_GLOBAL)
    if names == ("xtables",):
        _name_directory()
    return library, major


def _name_directory() -> None:
    """Tell python-iptables, which would ask ldconfig, where libxtables has its extensions."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        path = next(line.split(maxsplit=5)[5] for line in maps if "/libxtables.so" in line)
    directory = os.path.join(os.path.dirname(path), "xtables")
    if os.path.isdir(directory):
        os.environ.setdefault("XTABLES_LIBDIR", directory)


def _permitted(doing: str) -> None:
    """libxtables calls exit(3) when it cannot open this socket."""
    try:
        socket(AF_INET6, SOCK_RAW, IPPROTO_RAW).close()
    except PermissionError as exc:
        raise PermissionDenied(f"cannot {doing}: {exc.strerror}; this needs root, or CAP_NET_ADMIN "
                               f"and CAP_NET_RAW") from exc
    except OSError as exc:
        raise KernelError(f"cannot {doing}: cannot open a raw IPv6 socket: {exc.strerror}") from exc


def _loaded(doing: str) -> None:
    """Load ip6_tables as ip6tables-legacy does. (The kernel loads the module of a table itself.)"""
    if not os.path.exists(NAMES):
        run(["/sbin/modprobe", "ip6_tables"])
    if not os.path.exists(NAMES):
        raise BackendMissing(f"cannot {doing}: the kernel has no legacy ip6tables: load its module "
                             f"ip6_tables, or use the nf_tables variant")


def _locked(call: Callable[[], None], doing: str) -> None:
    """``call()`` while holding the lock that ip6tables-legacy takes."""
    path = os.environ.get("XTABLES_LOCKFILE", LOCK)
    try:
        file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        kind = PermissionDenied if isinstance(exc, PermissionError) else KernelError
        raise kind(f"cannot {doing}: cannot open ip6tables' lock {path}: {exc.strerror}; this "
                   f"needs root, and a sandbox must let it be made") from exc
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _lock(file):
            if time.monotonic() > deadline:
                raise KernelBusy(f"cannot {doing}: another program holds ip6tables' lock {path} "
                                 f"for more than {LOCK_SECONDS:g} s; fuser -v {path} shows which")
            time.sleep(0.01)
        call()
    finally:
        os.close(file)


def _lock(file: int) -> bool:
    try:
        flock(file, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _explained(exc: Exception, doing: str) -> PdreactorError:
    said = re.sub(r"""b(['"])(.*?)\1""", r"\2", str(exc))
    reason = f"cannot {doing}: {said}"
    if any(text in said for text in FORBIDDEN):
        return PermissionDenied(f"{reason}; this needs root, or CAP_NET_ADMIN and CAP_NET_RAW")
    if any(text in said for text in MISSING):
        return BackendMissing(f"{reason}; ip6tables or the kernel lacks this extension")
    return KernelBusy(reason) if any(text in said for text in BUSY) else KernelError(reason)
