"""The facts of this machine: read, and nothing else.

Files are read below ``root``, which is "/" but in tests; the kernel and programs are asked as they
are.
"""

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from glob import glob
from ipaddress import IPv6Address
from typing import NamedTuple

from ..errors import BackendMissing, KernelError, PdreactorError
from ..kernel import ip6tables, link, probe
from ..model import Config, State
from ..state import load
from . import conf, iptables, nftables
from .facts import Chain, Directory, Facts, Interface, Option, TheirRoute, TheirRule, Unit

MODULES = ("nftables", "pyroute2", "structlog", "tenacity", "iptc")
PROGRAMS = ("nft", "ip6tables", "ip6tables-restore", "dhcpcd")
SAVES = ("ip6tables-nft-save", "ip6tables-legacy-save")
SETTINGS = ("forwarding", "accept_ra", "disable_ipv6")
HOOKS = ("usr/lib/dhcpcd/dhcpcd-hooks/*", "usr/libexec/dhcpcd-hooks/*", "lib/dhcpcd/dhcpcd-hooks/*",
         "libexec/dhcpcd-hooks/*", "etc/dhcpcd.enter-hook", "etc/dhcpcd.exit-hook")
UNITS = ("etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
"""What is in the first counts most."""
NETWORKD = ("etc", "run", "usr/lib", "lib")
LARGEST = 1 << 20
TRIAL = """
table ip6 pdreactor-doctor {
    map m { type ipv6_addr : interval ipv6_addr; flags interval;
            elements = { fd00::/64 : 2001:db8::/64 }; }
    chain c { type nat hook postrouting priority 95; snat ip6 prefix to ip6 saddr map @m; }
}
"""
"""What mode netmap is made of."""


def facts(config: Config, mistakes: tuple[str, ...] = (), root: str = "/") -> Facts:
    """All of them. Raises PermissionDenied without the right to look."""
    look = _Files(root)
    programs = {name: probe.path_of(name, os.environ.get("PATH", "")) for name in PROGRAMS}
    names = [uplink.interface for uplink in config.uplinks]
    wall = _firewall(config)
    routes, rules = _routes()
    known = _state(config)
    return Facts(
        config=config,
        mistakes=mistakes,
        release=os.uname().release,
        settings=dict(_settings(look, names)),
        interfaces=_interfaces(),
        now=int(time.time()),
        past=_past(known),
        told=_told(known),
        state=_directory(config.state_dir),
        lacking=probe.lacking(MODULES),
        programs=frozenset(name for name, path in programs.items() if path),
        nft=probe.version(probe.said(programs["nft"], "--version")),
        dhcpcd=probe.version(probe.said(programs["dhcpcd"], "--version")),
        variant=_variant(),
        refused=wall.refused,
        modules=_modules(look),
        chains=wall.chains,
        flowtables=wall.flowtables,
        routes=routes,
        rules=rules,
        options=_options(look, programs["dhcpcd"]),
        hooks=tuple(_hooks(look)),
        units=tuple(_units(look)),
        timer=_timer(look),
        watched=_watched(look, config.state_dir),
        networkd=_networkd(look),
        foreign=_foreign(look),
        network_manager=_network_manager(look),
    )


class _Files:
    """Files below a directory. One that cannot be read is as one that is not there."""

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, name: str) -> str:
        return os.path.join(self.root, name)

    def text(self, name: str) -> str:
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as file:
                return file.read(LARGEST)
        except OSError:
            return ""

    def names(self, pattern: str) -> list[str]:
        """Relative to the root, in order."""
        return [os.path.relpath(found, self.root) for found in sorted(glob(self.path(pattern)))]

    def exists(self, name: str) -> bool:
        return os.path.exists(self.path(name))


# ---- kernel ----------------------------------------------------------------------------------


def _settings(look: _Files, interfaces: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in ("all", *interfaces):
        for key in SETTINGS:
            value = look.text(f"proc/sys/net/ipv6/conf/{name}/{key}").strip()
            if value:
                yield f"{name}/{key}", value


def _interfaces() -> dict[str, Interface]:
    numbers = probe.interfaces()
    direct = link.direct(numbers)
    addresses: dict[str, list[IPv6Address]] = {}
    for name, address, _ in link.addresses():
        addresses.setdefault(name, []).append(address)
    return {name: Interface(number, name in direct, tuple(addresses.get(name, ())),
                            probe.has_ipv4(name)) for name, number in numbers.items()}


class _Firewall(NamedTuple):
    chains: tuple[Chain, ...]
    flowtables: tuple[str, ...] = ()
    refused: str = ""


def _firewall(config: Config) -> _Firewall:
    """Chains of all programs, and what the kernel has against our translation."""
    path = os.environ.get("PATH", "")
    saves = SAVES if ip6tables.legacy_tables() else SAVES[:1]
    saved = tuple(chain for program in saves
                  for chain in iptables.chains(probe.said(probe.path_of(program, path)), program))
    hidden = {f"ip6 {one.table}" for one in saved if one.program == SAVES[0]}
    wanted = config.backend in ("auto", "nftables") and any(
        one.mode == "netmap" for one in config.translations)
    try:
        nft = probe.Probe()
        refused = nft.refusal(TRIAL) if wanted else ""
        objects = nft.ruleset()
    except BackendMissing:
        return _Firewall(saved)  # its package is missing: a finding of its own
    except KernelError as exc:
        return _Firewall(saved, refused=str(exc))
    return _Firewall((*nftables.chains(objects, hidden), *saved),
                     tuple(nftables.flowtables(objects)), refused)


def _routes() -> tuple[tuple[TheirRoute, ...], tuple[TheirRule, ...]]:
    try:
        from ..kernel.rtnl import Rtnl
    except BackendMissing:
        return (), ()
    with Rtnl() as rtnl:
        return (tuple(TheirRoute(one.route, one.protocol) for one in rtnl.routes()),
                tuple(TheirRule(*one) for one in rtnl.rules()))


def _variant() -> str:
    try:
        return ip6tables.variant()
    except PdreactorError:
        return ""


def _modules(look: _Files) -> frozenset[str]:
    """Names of all modules that are built in or can be loaded; none where nothing is listed."""
    base = f"lib/modules/{os.uname().release}"
    lines = (look.text(f"{base}/modules.builtin") + look.text(f"{base}/modules.order")).splitlines()
    return frozenset(re.sub(r"\.ko.*$", "", os.path.basename(line)) for line in lines)


# ---- state -----------------------------------------------------------------------------------


def _state(config: Config) -> State:
    try:
        return load(config.state_dir, keep=True)[0]
    except PdreactorError:
        return State({})


def _told(known: State) -> dict[str, str]:
    newest = {name: max(one.prefixes, key=lambda p: p.updated_at, default=None)
              for name, one in known.uplinks.items()}
    return {name: prefix.reason for name, prefix in newest.items() if prefix is not None}


def _past(known: State) -> int:
    """When this program was installed, or something was learned, whichever is later."""
    learned = [p.updated_at for one in known.uplinks.values() for p in one.prefixes]
    return max([int(os.stat(__file__).st_mtime), *learned])


def _directory(path: str) -> Directory | None:
    """The state directory or, before it was made, the one that it will be made in."""
    found = path
    while not os.path.lexists(found) and found != "/":
        found = os.path.dirname(found)
    try:
        status = os.stat(found)
    except OSError:
        return None
    return Directory(found, status.st_uid, stat.S_IMODE(status.st_mode),
                     os.access(found, os.W_OK | os.X_OK), stat.S_ISDIR(status.st_mode))


# ---- dhcpcd and its surroundings ----------------------------------------------------------------


def _options(look: _Files, dhcpcd: str) -> tuple[Option, ...] | None:
    """None without dhcpcd: the client is another one then."""
    if not dhcpcd or not look.exists("etc/dhcpcd.conf"):
        return None
    return conf.dhcpcd(look.text("etc/dhcpcd.conf"))


def _hooks(look: _Files) -> Iterator[str]:
    """Files that dhcpcd-run-hooks(8) reads and that call pdreactor; once each, by whatever path."""
    seen = set()
    for name in (name for pattern in HOOKS for name in look.names(pattern)):
        real = os.path.realpath(look.path(name))
        lines = look.text(name).splitlines()
        calls = any("pdreactor" in line for line in lines if line.strip()[:1] != "#")
        if calls and real not in seen and not name.endswith("~") and os.path.isfile(real):
            seen.add(real)
            yield "/" + name


def _units(look: _Files) -> Iterator[Unit]:
    """dhcpcd.service and dhcpcd@.service with their drop-ins; of a name the first file counts."""
    for name in ("dhcpcd.service", "dhcpcd@.service"):
        main = next((f"{directory}/{name}" for directory in UNITS
                     if look.exists(f"{directory}/{name}")), None)
        if main is None or not look.exists("run/systemd/system"):
            continue
        drops: dict[str, str] = {}
        for directory in reversed(UNITS):
            for file in look.names(f"{directory}/{name}.d/*.conf"):
                drops[os.path.basename(file)] = file
        texts = [look.text(file) for file in (main, *(drops[key] for key in sorted(drops)))]
        wanted = name.replace("@.", "@*.")
        yield conf.unit(name, texts, bool(look.names(f"etc/systemd/system/*.wants/{wanted}")))


def _timer(look: _Files) -> bool | None:
    if not look.exists("run/systemd/system"):
        return None
    return bool(look.names("etc/systemd/system/*.wants/pdreactor-restore.timer"))


def _watched(look: _Files, state_dir: str) -> bool:
    """Whether there is a watcher: it holds a lock, and its unit may be enabled."""
    if look.names("etc/systemd/system/*.wants/pdreactor-watch.service"):
        return True
    try:
        with open(os.path.join(state_dir, "watch.lock"), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def _networkd(look: _Files) -> tuple[str, ...]:
    """/run/systemd/netif/links/INDEX says what systemd-networkd does with each link."""
    return tuple(name for name, number in probe.interfaces().items() if any(
        key == "ADMIN_STATE" and value not in ("unmanaged", "pending", "initialized")
        for _, key, value in conf.keys([look.text(f"run/systemd/netif/links/{number}")])))


def _foreign(look: _Files) -> Mapping[str, str]:
    drops: dict[str, str] = {}
    for directory in reversed(NETWORKD):
        for file in look.names(f"{directory}/systemd/networkd.conf.d/*.conf"):
            drops[os.path.basename(file)] = file
    files = ["etc/systemd/networkd.conf", *(drops[key] for key in sorted(drops))]
    return {key: value for section, key, value in conf.keys(map(look.text, files))
            if section == "Network"}


def _network_manager(look: _Files) -> tuple[str, ...]:
    """/run/NetworkManager/devices/INDEX, as NetworkManager keeps it for its own restart."""
    return tuple(name for name, number in probe.interfaces().items() if any(
        key == "managed" and value == "true"
        for _, key, value in conf.keys([look.text(f"run/NetworkManager/devices/{number}")])))
