"""Judges of dhcpcd: its configuration, the way from it to the hook, its sandbox. Pure.

What it does with each option: dhcpcd.conf(5), and its sources (if-options.c) for what it refuses.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from posixpath import basename, commonpath

from ..errors import Refused
from ..keys import KNOWN
from ..model import Uplink
from ..prefix import shown
from . import conf
from .facts import ERROR, NOTE, WARNING, Facts, Finding, Option

FILE = "/etc/dhcpcd.conf"
DASH = (10, 0, 6)
"""From this version on "-" in ia_pd is no interface; before it is a name that does not exist."""
OFF = ("ipv4only", "noipv6", "nodhcp6")
ON = {"ipv6": ("ipv4only", "noipv6"), "ipv6only": ("ipv4only", "noipv6"), "dhcp6": ("nodhcp6",)}
OWN_SCRIPT = "pdreactor-hook"


def learning(facts: Facts) -> Iterator[tuple[Uplink, list[Option]]]:
    """The uplinks whose prefix dhcpcd is to learn, with the options for their interface. An uplink
    that was told by ``pdreactor set`` has another client."""
    if facts.options is None:
        return
    for uplink in facts.config.uplinks:
        if uplink.learns and facts.told.get(uplink.name) != "set":
            yield uplink, conf.concerning(facts.options, uplink.interface)


def asks(facts: Facts) -> Iterator[Finding]:
    """Whether dhcpcd asks for a prefix on each uplink, with the IAID that is expected."""
    for uplink, options in learning(facts):
        yield from _allowed(facts, uplink, options)
        yield from _switched_off(uplink, options)
        asked = [one for one in options if one.name == "ia_pd"]
        if not asked:
            yield _not_asked(facts, uplink)
            continue
        iaids = [_iaid(one, options) for one in asked]
        if uplink.iaid is not None and None not in iaids and uplink.iaid not in iaids:
            yield Finding(ERROR, f"uplink {uplink.name} takes prefixes of IAID {uplink.iaid} only, "
                                 f"and dhcpcd asks with {', '.join(map(str, iaids))}",
                          _at(asked[0]), f"write the same IAID there and as uplink.{uplink.name}."
                                         f"iaid in {facts.config.path}")
        for one in asked:
            yield from _asked(facts, uplink, one)


def _allowed(facts: Facts, uplink: Uplink, options: list[Option]) -> Iterator[Finding]:
    name = uplink.interface
    allow = [one for one in options if one.name == "allowinterfaces"]
    deny = [one for one in options if one.name == "denyinterfaces"]
    if allow and not any(_matching(name, one) for one in allow):
        yield Finding(ERROR, f"dhcpcd leaves {name} alone: allowinterfaces does not name it"
                             f"{_absent(facts, name)}", _at(allow[0]),
                      f"add {name} to allowinterfaces")
    for one in deny:
        if _matching(name, one):
            yield Finding(ERROR, f"dhcpcd leaves {name} alone: denyinterfaces names it", _at(one),
                          f"take {name} out of denyinterfaces")


def _matching(name: str, option: Option) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in conf.words(option.value))


def _switched_off(uplink: Uplink, options: list[Option]) -> Iterator[Finding]:
    off: dict[str, Option] = {}
    for one in options:
        if one.name in OFF:
            off[one.name] = one
        for name in ON.get(one.name, ()):
            off.pop(name, None)
    for one in off.values():
        yield Finding(ERROR, f"{one.name} keeps dhcpcd from DHCPv6 on {uplink.interface}", _at(one),
                      f"take {one.name} away for this interface")


def _not_asked(facts: Facts, uplink: Uplink) -> Finding:
    lengths = [one.internal.prefixlen for one in facts.config.translations
               if uplink.name in one.uplinks]
    plans = facts.config.plans
    if plans:
        slices = [(one.uplink, one.length, one.subnet) for one in plans.assigns]
        slices += [(one.uplink, one.length, one.subnet) for one in plans.onward]
        lengths += [length - subnet.bit_length() for name, length, subnet in slices
                    if name == uplink.name]
    length = min(lengths, default=64)
    nowhere = "-" if facts.dhcpcd >= DASH else f"{_nowhere(facts)}/{length}"
    name = uplink.interface
    return Finding(ERROR, f"dhcpcd is not told to ask for a prefix on {name}"
                          f"{_absent(facts, name)}", FILE,
                   f'below "interface {name}" write: ia_pd {uplink.iaid or 1}/::/{length} '
                   f'{nowhere}')


def _absent(facts: Facts, name: str) -> str:
    """What is to be corrected may be the name of the interface."""
    return "" if name in facts.interfaces else ", and there is no such interface now"


def _nowhere(facts: Facts) -> str:
    """How ia_pd is told to put the prefix on no interface."""
    return "-" if facts.dhcpcd >= DASH else "nosuch0/0"


def _iaid(asked: Option, options: list[Option]) -> int | None:
    """None when it is made of the interface's own number or hardware address, or not readable."""
    text = asked.value.split()[:1]
    given = text[0].partition("/")[0] if text else next(
        (one.value for one in options if one.name == "iaid"), "")
    try:
        found: int = KNOWN["uplink.NAME"]["iaid"].check(given)
    except Refused:
        return None
    return found


def _asked(facts: Facts, uplink: Uplink, option: Option) -> Iterator[Finding]:
    if not option.interface:
        yield Finding(WARNING, "ia_pd outside of an interface block is for every interface: the "
                               "LAN's too, all with one IAID", _at(option),
                      f'move it below "interface {uplink.interface}"')
    ask, *targets = option.value.split() or [""]
    names = [target.partition("/")[0] for target in targets]
    if not names:
        yield Finding(WARNING, "ia_pd names no interface: dhcpcd puts a /64 of the prefix on every "
                               "other interface", _at(option),
                      f'put "{_nowhere(facts)}" behind it, which is no interface')
    for name in names:
        if name != "-" and name not in facts.interfaces and facts.dhcpcd >= DASH:
            yield Finding(NOTE, f"ia_pd names {shown(name)}, which does not exist: dhcpcd logs an "
                                f"error with each lease", _at(option), 'write "-" instead')
    parts = ask.split("/")
    lengths = [one.internal.prefixlen for one in facts.config.translations
               if uplink.name in one.uplinks and one.on_short == "refuse"]
    if len(parts) == 3 and parts[2].isdecimal() and lengths and int(parts[2]) > min(lengths):
        yield Finding(WARNING, f"dhcpcd asks for a /{parts[2]}, and the internal prefix is a "
                               f"/{min(lengths)}: a prefix that small is refused", _at(option),
                      f"ask for ::/{min(lengths)}")


def anonymous(facts: Facts) -> Iterator[Finding]:
    """RFC 7844: with it BOUND6 comes without variables (seen with 9.4.1 and 10.3.2)."""
    seen = set()
    for _, options in learning(facts):
        for one in options:
            if one.name == "anonymous" and one not in seen:
                seen.add(one)
                yield Finding(WARNING, "with anonymous dhcpcd may hand no prefix to its hooks",
                              _at(one), "take anonymous away for the uplink")


# ---- the way to the hook -------------------------------------------------------------------


def hook(facts: Facts) -> Iterator[Finding]:
    """Whether dhcpcd calls pdreactor, and does so once."""
    if not any(True for _ in learning(facts)) or facts.options is None:
        return
    scripts = [one for one in facts.options if one.name == "script"]
    script = next((one for one in reversed(scripts) if not one.interface), None)
    called = _called(facts, script)
    for one in scripts:
        if one.interface:
            yield Finding(WARNING if called else ERROR,
                          'script inside an interface block is refused and dropped by dhcpcd',
                          _at(one), "delete the line; make install puts the hook file where dhcpcd "
                                    "looks for it")
    if script is not None:
        yield from _by_script(facts, script)
    elif not facts.hooks and not facts.watched:
        yield Finding(ERROR, "dhcpcd does not call pdreactor: no hook file is installed",
                      "dhcpcd's hook directory", "make install, in pdreactor's directory (with "
                      "DHCPCD_HOOKS= the directory that dhcpcd-run-hooks(8) names)")
    elif len(facts.hooks) > 1:
        yield Finding(WARNING, "several hook files call pdreactor: a pass for each of them",
                      ", ".join(facts.hooks), "keep one: 60-pdreactor in dhcpcd's hook directory")
    if script is None:
        yield from _skipped(facts)


def _called(facts: Facts, script: Option | None) -> bool:
    if script is None:
        return bool(facts.hooks)
    return basename(script.value) == OWN_SCRIPT or _runs_hooks(script)


def _runs_hooks(script: Option) -> bool:
    return basename(script.value) == "dhcpcd-run-hooks"


def _by_script(facts: Facts, script: Option) -> Iterator[Finding]:
    if _runs_hooks(script):
        return
    if basename(script.value) == OWN_SCRIPT:
        unused = " (the hook file is then not called)" if facts.hooks else ""
        yield Finding(NOTE, f"script switches off dhcpcd's own hooks, resolv.conf and others, on "
                            f"every interface{unused}", _at(script),
                      "delete the line where the hook file is installed; it does the same")
        return
    yield Finding(WARNING if facts.hooks else ERROR,
                  f"dhcpcd runs {shown(script.value)} and no hook file: pdreactor is called only "
                  f"if that does so", _at(script),
                  "delete the line, or have that script run pdreactor-hook once")


def _skipped(facts: Facts) -> Iterator[Finding]:
    """dhcpcd-run-hooks(8): nohook takes the file's name, or that without two digits and .sh."""
    for uplink, options in learning(facts):
        for one in options:
            for path in facts.hooks:
                name = basename(path)
                short = name[3:] if name[:2].isdecimal() and name[2:3] == "-" else name
                names = {name, short, short.removesuffix(".sh")}
                if one.name == "nohook" and names & set(conf.words(one.value)):
                    yield Finding(ERROR, f"nohook switches off the hook file {name} on "
                                         f"{uplink.interface}", _at(one),
                                  f"take {', '.join(sorted(names & set(conf.words(one.value))))} "
                                  f"out of nohook")


# ---- the sandbox ---------------------------------------------------------------------------


def sandbox(facts: Facts) -> Iterator[Finding]:
    """ProtectSystem=strict without a way for the hook to write its state."""
    wanted = facts.config.state_dir
    for unit in facts.units:
        if not unit.strict or any(_below(wanted, path) for path in unit.writable):
            continue
        yield Finding(ERROR if unit.enabled else WARNING,
                      f"the sandbox of {unit.name} keeps the hook from writing its state to "
                      f"{wanted}", f"/etc/systemd/system/{unit.name}.d",
                      "make install puts pdreactor.conf there; for another state_dir add "
                      f"ReadWritePaths={wanted}; then systemctl daemon-reload and restart dhcpcd")


def _below(path: str, directory: str) -> bool:
    if not directory.startswith("/"):
        return False
    return commonpath([path, directory]) == commonpath([directory])


def _at(option: Option) -> str:
    return f"{FILE} line {option.line}"
