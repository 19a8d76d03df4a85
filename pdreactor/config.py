"""/etc/pdreactor.toml -> a frozen ``Config``, or every mistake in it at once.

keys.py has the keys and judges each by itself; what needs more than one to judge (overlaps, names,
bounds) is here. This runs on each lease event: no quadratic work, and no imports that typing and
ipaddress do not need anyway (difflib only to name the nearest key).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv6Network
from typing import Any

from . import marks
from .errors import ConfigError, Refused
from .keys import KNOWN, LAYOUT, TOP, span, table_number
from .model import (
    AUTO,
    DELEGATED,
    SIXRD,
    SIXTOFOUR,
    STATIC,
    Command,
    Config,
    Translation,
    Uplink,
)
from .prefix import acceptable, shown
from .reading import Span, Values, at, each, overlaps, read

Names = Callable[[], Mapping[str, int]]
"""The names of routing tables, asked for only when the configuration has one."""
MAX_UPLINKS = 15
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")


# ---- reading ---------------------------------------------------------------------------------


def parse(text: str, path: str) -> Config:
    """Check the text of a configuration; ``path`` is only for messages."""
    import tomllib

    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(path, [f"is not valid TOML: {exc}"]) from None
    return check(document, path)


def check(document: Values, path: str, names: Names = dict) -> Config:
    """Check a document; ConfigError with every mistake in it."""
    mistakes: list[str] = []
    top = {key: value for key, value in document.items() if key not in TOP or key in KNOWN[""]}
    general = read(top, KNOWN[""], "", mistakes)
    firewall, routing, iptables = (
        read(document.get(name, {}), KNOWN[name], name, mistakes)
        for name in ("firewall", "routing", "iptables")
    )
    uplinks = _uplinks(document.get("uplink", {}), mistakes)
    translations = list(each(document, "translation", KNOWN, mistakes))
    commands = list(each(document, "on_change", KNOWN, mistakes))
    _check_uplinks(uplinks, mistakes)
    _check_room(len(uplinks), firewall, mistakes)
    _check_tables(uplinks, names, mistakes)
    _check_translations(translations, uplinks, mistakes)
    _check_together(translations, uplinks, mistakes)
    _check_static(translations, uplinks, mistakes)
    _check_modes(translations, firewall, mistakes)
    _check_chains(document.get("iptables", {}), iptables, firewall, mistakes)
    _check_interfaces(uplinks, firewall, mistakes)
    plans = None
    if any(name in document for name in LAYOUT):
        from .layout.config import plans_of

        plans = plans_of(document, uplinks, translations, mistakes)
    _check_sources(uplinks, document.get("tunnel"), mistakes)
    if mistakes:
        raise ConfigError(path, mistakes)
    return Config(
        path=path,
        uplinks=tuple(Uplink(name=name, **_given(row)) for name, row in uplinks.items()),
        translations=tuple(_translation(row) for row in translations),
        on_change=tuple(Command(row["exec"], row["timeout"]) for row in commands),
        warnings=tuple(_warnings(translations)),
        plans=plans,
        **general,
        **firewall,
        **routing,
        **iptables,
    )


def _given(row: Values) -> Values:
    return {key: row[key] for key in row if key in Uplink._fields}


def _translation(row: Values) -> Translation:
    names = row["uplink"] or row["uplinks"]
    return Translation(names, *(row[field] for field in Translation._fields[1:]))


def _uplinks(tables: Any, mistakes: list[str]) -> dict[str, Values]:
    if (not isinstance(tables, dict) or not 1 <= len(tables) <= MAX_UPLINKS
            or not all(isinstance(one, dict) for one in tables.values())):
        reason = f"must be 1 to {MAX_UPLINKS} tables, [uplink.NAME]"
        mistakes.append(f"uplink = {shown(tables)}: {reason}")
        return {}
    for name in tables:
        if not NAME.fullmatch(name):
            reason = "a name is a letter and up to 31 letters, digits and underscores"
            mistakes.append(f"{at('uplink', name)}: {reason}")
    return {
        name: read(row, KNOWN["uplink.NAME"], at("uplink", name), mistakes)
        for name, row in tables.items()
    }


# ---- what takes more than one key to judge ---------------------------------------------------


def _check_uplinks(uplinks: dict[str, Values], mistakes: list[str]) -> None:
    """Uplinks on one interface have prefixes from different sources, or of different IA_PDs."""
    seen: dict[tuple[str, str], list[tuple[str, int | None]]] = {}
    for name, row in uplinks.items():
        _check_lengths(at("uplink", name), row, mistakes)
        if "interface" not in row or "iaid" not in row or row.get("prefix"):
            continue
        interface, iaid = row["interface"], row["iaid"]
        taken_by = seen.setdefault((interface, row.get("source") or DELEGATED), [])
        for other, taken in taken_by:
            if None in (iaid, taken) or iaid == taken:
                mistakes.append(
                    f"{at('uplink', name)}.interface = {shown(interface)}: is "
                    f"uplink.{other}'s too; then both need an iaid, and not the same"
                )
        taken_by.append((name, iaid))


def _check_room(count: int, firewall: Values, mistakes: list[str]) -> None:
    mask = firewall.get("ct_mark_mask")
    if mask is not None and count > marks.uplinks(mask):
        reason = f"tells {marks.uplinks(mask)} uplinks apart, and there are {count}; make it wider"
        mistakes.append(f"firewall.ct_mark_mask = {mask:#x}: {reason}")


def _check_lengths(where: str, row: Values, mistakes: list[str]) -> None:
    low, high = row.get("min_length"), row.get("max_length")
    if low is not None and high is not None and low > high:
        mistakes.append(f"{where}.min_length = {low}: is more than max_length, {high}")
    if row.get("prefix") is not None:
        try:
            acceptable(row["prefix"], min_length=3, max_length=128)
        except Refused as exc:
            mistakes.append(f"{where}.prefix = {shown(str(row['prefix']))}: {exc}")


def _check_tables(uplinks: dict[str, Values], names: Names, mistakes: list[str]) -> None:
    """A table of its own for each uplink that has one; names become numbers."""
    taken: dict[int, str] = {}
    for name, row in uplinks.items():
        where, table = at("uplink", name), row.get("table")
        if table is None:
            if row.get("gateway", AUTO) != AUTO:
                mistakes.append(f"{where}.gateway = {shown(str(row['gateway']))}: is for the "
                                f"uplink's routing table; say which one (table)")
            continue
        try:
            row["table"] = number = _number(table, names)
        except Refused as exc:
            mistakes.append(f"{where}.table = {shown(table)}: {exc}")
            continue
        if number in taken:
            mistakes.append(f"{where}.table = {shown(table)}: is {taken[number]}; each uplink "
                            f"needs its own")
        taken.setdefault(number, f"uplink.{name}'s")


def _number(table: int | str, names: Names) -> int:
    if isinstance(table, int):
        return table
    known = names()
    if table not in known:
        raise Refused("no such name in /etc/iproute2/rt_tables or rt_tables.d/*.conf")
    return table_number(known[table])


def _check_sources(uplinks: dict[str, Values], tables: Any, mistakes: list[str]) -> None:
    """What goes with each source; a row without one gets that of its prefix. ``tables`` are the
    tunnels, with whatever mistakes they have."""
    tunnels = {name: row.get("mode") for name, row in tables.items()
               if isinstance(row, dict)} if isinstance(tables, dict) else {}
    for name, row in uplinks.items():
        if "source" not in row or "prefix" not in row:
            continue
        source = row["source"] = row["source"] or (STATIC if row["prefix"] else DELEGATED)
        where = f'{at("uplink", name)}.source = "{source}"'
        if (source == STATIC) != (row["prefix"] is not None):
            mistakes.append(f"{where}: " + ("write the prefix down (prefix = ...)"
                                            if source == STATIC else "prefix is for static ones"))
        if source not in (DELEGATED, STATIC) and row.get("iaid") is not None:
            mistakes.append(f"{where}: iaid is for prefixes from DHCPv6")
        if source in (SIXTOFOUR, SIXRD) and tunnels.get(str(row.get("interface"))) != source:
            mistakes.append(f"{where}: interface must be a [tunnel.NAME] with mode \"{source}\"")


def _check_translations(
    rows: list[Values], uplinks: dict[str, Values], mistakes: list[str]
) -> None:
    internals: dict[str, list[Span]] = {}
    slices: dict[str, list[Span]] = {}
    for index, row in enumerate(rows):
        where = f"translation[{index}]"
        for name in _served(row, where, uplinks, mistakes):
            if network := row.get("internal"):
                internals.setdefault(name, []).append((*span(network), index))
                if "subnet" in row:
                    first = row["subnet"] << 128 - network.prefixlen
                    last = first + (1 << 128 - network.prefixlen) - 1
                    slices.setdefault(name, []).append((first, last, index))
                    _check_fit(row, where, uplinks[name], mistakes)
    for name, spans in internals.items():
        for one, other in overlaps(spans):
            mistakes.append(f"{_internal_of(rows, one)}: overlaps {_internal_of(rows, other)} "
                            f"on uplink {name}")
    for name, spans in slices.items():
        mistakes += [f"translation[{one}].subnet: overlaps translation[{other}].subnet "
                     f"on uplink {name}: one slice of its prefix for both"
                     for one, other in overlaps(spans)]


def _check_together(rows: list[Values], uplinks: dict[str, Values], mistakes: list[str]) -> None:
    """Uplinks that carry the same hosts: with source-based routing they all need a table, or what
    the rules leave over would go wherever table main says."""
    spans = sorted((*span(row["internal"]), index) for index, row in enumerate(rows)
                   if "internal" in row)
    end, group = -1, dict[str, int]()
    for first, last, index in spans:
        if first > end:
            _check_group(group, uplinks, mistakes)
            group = {}
        end = max(end, last)
        row = rows[index]
        for name in row.get("uplinks") or row.get("uplink") or ():
            group.setdefault(name, index)
    _check_group(group, uplinks, mistakes)


def _check_group(group: dict[str, int], uplinks: dict[str, Values], mistakes: list[str]) -> None:
    without = [n for n in group if n in uplinks and uplinks[n].get("table", 0) is None]
    having = [n for n in group if n in uplinks and uplinks[n].get("table") is not None]
    if without and having:
        mistakes.append(f"{at('uplink', without[0])}.table: is required, for translation"
                        f"[{group[without[0]]}] has hosts that use uplink {having[0]} too, which "
                        f"has one")


def _internal_of(rows: list[Values], index: int) -> str:
    return f"translation[{index}].internal = '{rows[index]['internal']}'"


def _check_static(rows: list[Values], uplinks: dict[str, Values], mistakes: list[str]) -> None:
    """A static prefix is nobody else's, and not the LAN's."""
    taken = [(row["internal"], f"translation[{index}].internal")
             for index, row in enumerate(rows) if "internal" in row]
    for name, row in uplinks.items():
        prefix, where = row.get("prefix"), f"{at('uplink', name)}.prefix"
        for network, owner in taken if prefix else ():
            if network.overlaps(prefix):
                mistakes.append(f"{where} = '{prefix}': overlaps {owner}, {network}")
        if prefix:
            taken.append((prefix, where))


def _served(row: Values, where: str, uplinks: dict[str, Values], mistakes: list[str]) -> list[str]:
    """The uplinks of a translation that exist."""
    if "uplink" not in row or "uplinks" not in row:
        return []
    if (row["uplink"] is None) == (row["uplinks"] is None):
        mistakes.append(f"{where}.uplink: is required, or uplinks instead, but not both")
        return []
    if not uplinks:  # said already
        return []
    key = "uplinks" if row["uplink"] is None else "uplink"
    mistakes += [
        f"{where}.{key} = {shown(name)}: no such uplink; there is {', '.join(uplinks)}"
        for name in row[key]
        if name not in uplinks
    ]
    return [name for name in row[key] if name in uplinks]


def _check_fit(row: Values, where: str, uplink: Values, mistakes: list[str]) -> None:
    """A slice that is outside of even the largest prefix that the uplink accepts."""
    low, length = uplink.get("min_length", 16), row["internal"].prefixlen
    if row["subnet"] and row["subnet"] >= 1 << max(length - low, 0):
        reason = f"a /{low}, the largest delegation accepted, has no such /{length}"
        mistakes.append(f"{where}.subnet = {row['subnet']}: {reason}")


NFTABLES = ("auto", "nftables")


def _check_modes(rows: list[Values], firewall: Values, mistakes: list[str]) -> None:
    """Which mode works with which backend, and which keys with which mode."""
    for index, row in enumerate(rows):
        for reason in _mode_mistakes(row, firewall.get("backend")):
            mistakes.append(f"translation[{index}].mode = {shown(row['mode'])}: {reason}")


def _mode_mistakes(row: Values, backend: str | None) -> Iterator[str]:
    mode = row.get("mode")
    if mode == "stateless" and backend is not None and backend not in NFTABLES:
        yield ('ip6tables cannot rewrite an address without conntrack and keep its other bits: '
               'firewall.backend must be "nftables", or mode "rfc6296"')
    if mode == "rfc6296":
        if backend in NFTABLES:
            yield ('nftables has no checksum-neutral translation: firewall.backend must be '
                   '"iptables" or "iptables-legacy", or mode "stateless"')
        if row.get("inbound") is False:
            yield ("with inbound = false: without conntrack (NOTRACK) nothing tells an answer from "
                   "a new connection; use another mode, or filter by port in your firewall")
        if "internal" in row and row["internal"].prefixlen > 64:
            yield f"internal is longer than /64, RFC 6296 section 3.5 ends there; {USE_NETMAP}"


USE_NETMAP = 'use mode "netmap"'


def _check_chains(given: Any, iptables: Values, firewall: Values, mistakes: list[str]) -> None:
    if not isinstance(given, dict) or "backend" not in firewall:
        return
    if firewall["backend"] in NFTABLES:
        mistakes += [f"{at('iptables', key)} = {shown(given[key])}: is for the iptables backends, "
                     f"and firewall.backend is {shown(firewall['backend'])}"
                     for key in given if key in iptables]
    dnat, snat = iptables.get("dnat_chain"), iptables.get("snat_chain")
    theirs = (dnat, f"{dnat}_out"), (snat, f"{snat}_in", f"{snat}_guard")
    for name in set(theirs[0]) & set(theirs[1]) if dnat and snat else ():
        mistakes.append(f"iptables.snat_chain = {shown(snat)}: {name} would be a chain of "
                        f"dnat_chain's too")


def _check_interfaces(uplinks: dict[str, Values], firewall: Values, mistakes: list[str]) -> None:
    """ip6tables(8) takes a + at the end of an interface name for any further characters."""
    for name, row in uplinks.items() if firewall.get("backend") not in NFTABLES else ():
        interface = row.get("interface", "")
        if interface.endswith("+") or interface.startswith(("-", "!")):
            mistakes.append(f"{at('uplink', name)}.interface = {shown(interface)}: ip6tables "
                            f"cannot name it; rename it (ip link set ... name ...)")


def _warnings(rows: list[Values]) -> Iterator[str]:
    sharing: dict[IPv6Network, set[str]] = {}
    for row in rows:
        sharing.setdefault(row["internal"], set()).update(row["uplinks"] or row["uplink"])
    for index, row in enumerate(rows):
        top = int(row["internal"].network_address) >> 120
        if top != 0xFD:
            reason = "is not a unique local prefix (RFC 4193)"
            if top == 0xFC:
                reason = "is in fc00::/8; RFC 4193 assigns only fd00::/8"
            yield f"translation[{index}].internal = '{row['internal']}': {reason}"
        if row["mode"] != "netmap" and len(sharing[row["internal"]]) > 1:
            yield (f"translation[{index}].mode = '{row['mode']}': without conntrack a flow cannot "
                   f"stay on the uplink that it began on: it ends when its packets take another")
        if row["mode"] == "rfc6296":
            yield (f"translation[{index}].mode = 'rfc6296': its packets are not tracked (NOTRACK): "
                   f"a stateful firewall must accept them by ctstate UNTRACKED or by address")
