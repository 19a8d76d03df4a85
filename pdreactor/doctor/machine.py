"""Judges of the machine itself: kernel, programs, interfaces, state directory, clock. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from ..model import AUTO, Config
from ..ways import MAIN_TABLE
from . import conf
from .facts import ERROR, NOTE, WARNING, Facts, Finding

SYSCTL_FILE = "/etc/sysctl.d/90-pdreactor.conf"
SKEW = 60
"""Seconds that clocks of two routers may differ: a state can be another one's."""
OLDEST_KERNEL = (5, 8)
OLDEST_NFT = (0, 9, 5)


def by_nftables(config: Config) -> bool:
    """Whether nftables translates."""
    return config.backend in ("auto", "nftables")


def tracked(config: Config) -> bool:
    """Whether a translation needs the nat table."""
    return any(one.mode == "netmap" for one in config.translations)


# ---- sysctl ------------------------------------------------------------------------------------


def forwarding(facts: Facts) -> Iterator[Finding]:
    """net.ipv6.conf.all.forwarding: a router's switch (ip-sysctl.rst of the kernel)."""
    if facts.settings.get("all/forwarding") == "0":
        yield Finding(
            ERROR, "the machine does not forward IPv6 (forwarding of single interfaces does not)",
            "net.ipv6.conf.all.forwarding = 0",
            _set(facts, "all.forwarding = 1"))


def _set(facts: Facts, setting: str) -> str:
    if facts.config.plans and facts.config.plans.sysctl:
        return f"pdreactor restore: [sysctl] has it set net.ipv6.conf.{setting}"
    return f"put net.ipv6.conf.{setting} into {SYSCTL_FILE}, then sysctl -p that file"


def interfaces(facts: Facts) -> Iterator[Finding]:
    """Interfaces of uplinks that do not exist or have no IPv6."""
    named = {uplink.interface: uplink.name for uplink in facts.config.uplinks}
    for name, uplink in named.items():
        if name not in facts.interfaces:
            yield Finding(WARNING, f"there is no interface {name} now", facts.config.path,
                          f"correct uplink.{uplink}.interface, unless the interface comes later "
                          f"(ppp, tunnels); ip link shows all names")
        elif facts.settings.get(f"{name}/disable_ipv6") == "1":
            yield Finding(ERROR, f"IPv6 is off on interface {name}",
                          f"net.ipv6.conf.{name}.disable_ipv6 = 1",
                          f"sysctl -w net.ipv6.conf.{name}.disable_ipv6=0, and look in "
                          f"/etc/sysctl.d for who sets it")


def advertisements(facts: Facts) -> Iterator[Finding]:
    """accept_ra=2: a kernel that forwards takes no default route from advertisements otherwise.
    dhcpcd handles them itself, unless noipv6rs says that it shall not."""
    for uplink in facts.config.uplinks:
        name = uplink.interface
        known = facts.interfaces.get(name)
        if known is None or known.direct or uplink.gateway != AUTO:
            continue
        accepting = facts.settings.get(f"{name}/accept_ra", "2")
        alone = accepting == "0" or (
            accepting == "1" and facts.settings.get(f"{name}/forwarding", "1") == "1")
        others = name in (*facts.networkd, *facts.network_manager)
        if not alone or others or _default_by(facts, name) or not _left_to_kernel(facts, name):
            continue
        yield Finding(
            ERROR, f"nothing gives {name} a default route: as a router the kernel ignores router "
                   f"advertisements" + (", and dhcpcd is told to" if facts.options else ""),
            f"net.ipv6.conf.{name}.accept_ra = {accepting}",
            _set(facts, f"{name}.accept_ra = 2"))


def _default_by(facts: Facts, interface: str) -> bool:
    return any(one.route.destination.prefixlen == 0 and one.route.interface == interface
               and one.route.table == MAIN_TABLE for one in facts.routes)


def _left_to_kernel(facts: Facts, interface: str) -> bool:
    if facts.options is None:
        return True
    names = [one.name for one in conf.concerning(facts.options, interface)]
    last = [name for name in names if name in ("noipv6rs", "ipv6rs", "noipv6", "ipv4only")]
    return bool(last) and last[-1] != "ipv6rs"


# ---- kernel and programs -----------------------------------------------------------------------


def kernel(facts: Facts) -> Iterator[Finding]:
    """A kernel that cannot translate."""
    version = _version(facts.release)
    if by_nftables(facts.config) and version and version[:2] < OLDEST_KERNEL:
        yield Finding(ERROR, f"kernel {facts.release} cannot translate prefixes by a map",
                      "uname -r", 'take Linux 5.8 or newer, or firewall.backend = "iptables"')
    if facts.refused and by_nftables(facts.config):
        yield Finding(ERROR, f"the kernel or nft refuses what the translation needs: "
                             f"{facts.refused}", "nft --check",
                      "take a kernel with nf_tables, nf_nat and IPv6 NAT "
                      "(CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT) and nft 0.9.5 or newer")
    if facts.flowtables and any(one.mode == "stateless" for one in facts.config.translations):
        yield Finding(ERROR, "flows that are offloaded pass by the rules of mode stateless, and "
                             "leave untranslated", f"nft: flowtable {facts.flowtables[0]}",
                      'delete the flowtable, or use mode "netmap"')
    yield from _modules(facts)


class Needed(NamedTuple):
    """A module of the kernel, and what cannot be without it."""

    module: str
    what: str


def _modules(facts: Facts) -> Iterator[Finding]:
    if by_nftables(facts.config) or not facts.modules:
        return
    modes = {one.mode for one in facts.config.translations}
    wanted = [Needed("xt_NETMAP", "NETMAP")] if "netmap" in modes else []
    if "netmap" in modes and legacy(facts):
        wanted.append(Needed("ip6table_nat", "the table nat of IPv6"))
    if "rfc6296" in modes:
        wanted.append(Needed("ip6t_NPT", "SNPT and DNPT"))
    for one in wanted:
        if one.module not in facts.modules:
            yield Finding(ERROR, f"the kernel lacks {one.what} for ip6tables (module {one.module})",
                          f"/lib/modules/{facts.release}",
                          'install the kernel\'s extra modules, or take firewall.backend = '
                          '"nftables"')


def legacy(facts: Facts) -> bool:
    """Whether the legacy variant of ip6tables translates."""
    backend = facts.config.backend
    return backend == "iptables-legacy" or (backend == "iptables" and facts.variant == "legacy")


def _version(text: str) -> tuple[int, ...]:
    parts = text.partition("-")[0].split(".")
    return tuple(int(part) for part in parts if part.isdecimal())


PACKAGES = {
    "nftables": ("python3-nftables on Debian, Ubuntu and Fedora, nftables on Arch, py3-nftables on "
                 "Alpine"),
    "pyroute2": ("python3-pyroute2 on Debian, Ubuntu and Fedora, python-pyroute2 on Arch, "
                 "py3-pyroute2 on Alpine"),
    "structlog": "python3-structlog (python-structlog on Arch, py3-structlog on Alpine)",
    "tenacity": "python3-tenacity (python-tenacity on Arch, py3-tenacity on Alpine)",
    "iptc": "python3-iptables on Debian and Ubuntu; elsewhere pip install python-iptables",
    "ip6tables": "iptables on Debian, Ubuntu, Arch and Alpine, iptables-nft on Fedora",
}
HARD = ("nftables", "pyroute2", "iptc")
"""Without these a pass fails. Without structlog the log is plainer; without tenacity what the
kernel cannot take at once is tried only once more."""


def packages(facts: Facts) -> Iterator[Finding]:
    """Python modules and programs that are missing for the configured backend."""
    backend = facts.config.backend
    wanted = ["nftables", "pyroute2", "structlog", "tenacity"]
    if legacy(facts):
        wanted.append("iptc")
    for module in wanted:
        if module in facts.lacking:
            yield Finding(ERROR if module in HARD else WARNING,
                          f"the Python module {module} is missing", "Python's path",
                          f"install {PACKAGES[module]}")
    if backend == "iptables":
        for program in ("ip6tables", "ip6tables-restore"):
            if program not in facts.programs:
                yield Finding(ERROR, f"the program {program} is missing", "PATH, /usr/sbin, /sbin",
                              f"install {PACKAGES['ip6tables']}")
    if by_nftables(facts.config) and "nft" not in facts.programs:
        yield Finding(NOTE, "the program nft is missing; pdreactor needs only its library",
                      "PATH, /usr/sbin, /sbin",
                      "install nftables, to see the rules with: nft list table ip6 pdreactor")


def versions(facts: Facts) -> Iterator[Finding]:
    """nft too old for prefixes in maps; variants of ip6tables that are mixed."""
    if by_nftables(facts.config) and facts.nft and facts.nft < OLDEST_NFT:
        shown = ".".join(map(str, facts.nft))
        yield Finding(ERROR, f"nft {shown} knows no prefix translation by a map", "nft --version",
                      "upgrade nftables to 0.9.5 or newer")
    filled = {one.program for one in facts.chains if one.steps and one.program != "nft"}
    if {"ip6tables-nft-save", "ip6tables-legacy-save"} <= filled:
        yield Finding(WARNING, "both variants of ip6tables have rules, and all are in force",
                      "ip6tables-nft-save, ip6tables-legacy-save",
                      "keep to one: move the rules of the other, then flush its tables "
                      "(ip6tables-legacy -F, also with -t nat, mangle, raw)")
    elif facts.config.backend == "iptables-legacy" and facts.variant == "nf_tables":
        yield Finding(WARNING, 'the backend is "iptables-legacy", and ip6tables is the nf_tables '
                               'variant here', facts.config.path,
                      'set firewall.backend = "iptables", unless all your rules are in '
                      'ip6tables-legacy')


# ---- state directory and clock -----------------------------------------------------------------


def state(facts: Facts) -> Iterator[Finding]:
    """Where the state is kept: writable for us, and for nobody else."""
    found, wanted = facts.state, facts.config.state_dir
    if found is None:
        return
    if not found.is_directory:
        yield Finding(ERROR, f"{found.path} is no directory", wanted,
                      f"move {found.path} away, or choose another state_dir in "
                      f"{facts.config.path}")
        return
    if not found.writable:
        yield Finding(ERROR, "what was learned cannot be kept: the state directory cannot be "
                             "written", found.path,
                      "mount it writable, or choose another state_dir in " + facts.config.path)
    if found.path == wanted and (found.owner != 0 or found.mode & 0o022):
        yield Finding(ERROR if found.mode & 0o002 else WARNING,
                      f"others than root may write the state directory (owner {found.owner}, mode "
                      f"{found.mode:04o})", found.path,
                      f"chown root:root {found.path} && chmod 700 {found.path}")


def clock(facts: Facts) -> Iterator[Finding]:
    """Lifetimes are counted by it, over reboots."""
    if facts.now + SKEW < facts.past:
        yield Finding(WARNING, "the clock is wrong: it is before what has happened already; "
                               "lifetimes of prefixes are counted by it", "date",
                      "set it, and have it set at boot before dhcpcd starts (chrony, "
                      "systemd-timesyncd)")
