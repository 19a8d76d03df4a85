"""/etc/pdreactor.toml -> a frozen ``Config``, or every mistake in it at once.

``KNOWN`` is the one table of keys: each has a check, which returns the value as the model wants
it or raises ``Refused`` with the reason, and a default. What needs more than one key to judge
(overlaps, names, bounds) comes after. This runs on each lease event: no quadratic work, and no
imports that tomllib and ipaddress do not need anyway (difflib only to name the nearest key).
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv6Network
from typing import Any, NamedTuple

from . import marks
from .errors import ConfigError, Refused
from .model import Command, Config, Translation, Uplink
from .prefix import acceptable, parse_prefix, shown

Values = dict[str, Any]
MAX_UPLINKS = 15
REQUIRED = object()
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
OCTETS = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){1,3}")
NEVER_INTERNAL = tuple(
    (int(net.network_address), int(net.broadcast_address), f"{what} {net}")
    for net, what in (
        (IPv6Network("::/127"), "the unspecified and loopback addresses"),
        (IPv6Network("::ffff:0:0/96"), "the IPv4-mapped addresses"),
        (IPv6Network("fe80::/10"), "the link-local addresses"),
        (IPv6Network("ff00::/8"), "the multicast addresses"),
    )
)


class Key(NamedTuple):
    """What a key accepts, and what it is when it is not there."""

    check: Callable[[Any], Any]
    default: Any = None


# ---- checks of one value ---------------------------------------------------------------------


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise Refused("must be a string, not empty and without NUL")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Refused("must be true or false")
    return value


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise Refused(f"must be an integer from {low} to {high}")
        return value

    return check


def _choice(*allowed: str, later: tuple[str, ...] = ()) -> Callable[[Any], str]:
    names = " or ".join(f'"{name}"' for name in allowed)

    def check(value: Any) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        known = isinstance(value, str) and value in later
        raise Refused(f"{'not in this release' if known else 'unknown'}: must be {names}")

    return check


def _later(what: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        raise Refused(f"not in this release: {what}")

    return check


def _list(value: Any, check: Callable[[Any], Any], what: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise Refused(f"must be a list of {what}")
    return tuple(check(item) for item in value)


def _absolute(value: Any) -> str:
    if not _string(value).startswith("/"):
        raise Refused("must be an absolute path")
    return str(value)


def _interface(value: Any) -> str:
    """What dev_valid_name() of the kernel takes, of printable ASCII."""
    name = _string(value)
    if len(name) > 15 or name in (".", "..") or not re.fullmatch(r"[!-~]+", name):
        raise Refused("an interface name is 1 to 15 printable ASCII characters without blanks")
    if bad := [c for c in "/:\"'`\\" if c in name]:
        raise Refused(f"an interface name has no {bad[0]}")
    return name


def _iaid(value: Any) -> int:
    """As dhcpcd.conf has it: strtoul() of base 0, or hex octets, or text; padded on the right."""
    text = str(value) if type(value) is int else _string(value)
    if NUMBER.fullmatch(text):
        octal = text[0] == "0" and text[1:].isdigit()
        return _integer(0, 0xFFFFFFFF)(int(text, 8 if octal else 0) if len(text) < 40 else -1)
    if OCTETS.fullmatch(text):
        return int.from_bytes(bytes.fromhex(text.replace(":", "")).ljust(4, b"\0"), "big")
    octets = text.encode()
    if type(value) is int or len(octets) > 4 or "\\" in text or '"' in text:
        raise Refused("must be a number from 0 to 4294967295, 00:11:22:33, or up to 4 characters")
    return int.from_bytes(octets.ljust(4, b"\0"), "big")


def _network(value: Any) -> IPv6Network:
    text = _string(value)
    if "." in text and ":" not in text:
        raise Refused("must be an IPv6 prefix; this is IPv4")
    return parse_prefix(text)


def _internal(value: Any) -> IPv6Network:
    network = _network(value)
    if not 8 <= network.prefixlen <= 127:
        raise Refused("its length must be from 8 to 127")
    first, last = _range(network)
    for start, end, what in NEVER_INTERNAL:
        if first <= end and start <= last:
            raise Refused(f"must be a unicast prefix; it overlaps {what}")
    return network


def _mask(value: Any) -> int:
    mask = _integer(1, 0xFFFFFFFF)(value)
    bits = mask // (mask & -mask)
    if bits & bits + 1 or bits < 0xF:
        raise Refused(f"{mask:#x} must be at least 4 bits in one run")
    return mask


def _argv(value: Any) -> tuple[str, ...]:
    argv = _list(value, _string, "strings")
    if not argv or not argv[0].startswith("/"):
        raise Refused("must begin with the absolute path of a program")
    return argv


def _timeout(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value <= 300:
        raise Refused("must be seconds: more than 0, at most 300")
    return float(value)


def _names(value: Any) -> tuple[str, ...]:
    names = _list(value, _string, "uplink names")
    if not names or len(set(names)) < len(names):
        raise Refused("must name at least one uplink, and each one once")
    return names


# ---- the keys --------------------------------------------------------------------------------

SOURCE_ROUTING = _later("source-based routing")
NO_IPTABLES = _later("it is for the iptables backends only")

KNOWN: dict[str, dict[str, Key]] = {
    "": {"state_dir": Key(_absolute, "/var/lib/pdreactor")},
    "firewall": {
        "backend": Key(_choice("auto", "nftables", later=("iptables", "iptables-legacy")), "auto"),
        "ct_mark_mask": Key(_mask, 0x0FF00000),
        "guard": Key(_boolean, True),
    },
    "uplink.NAME": {
        "interface": Key(_interface, REQUIRED),
        "prefix": Key(_network),
        "iaid": Key(_iaid),
        "bypass": Key(lambda value: _list(value, _network, "prefixes"), ()),
        "min_length": Key(_integer(16, 128), 32),
        "max_length": Key(_integer(16, 128), 64),
        "table": Key(SOURCE_ROUTING),
        "gateway": Key(SOURCE_ROUTING),
    },
    "translation": {
        "uplink": Key(lambda value: (_string(value),)),
        "uplinks": Key(_names),
        "internal": Key(_internal, REQUIRED),
        "subnet": Key(_integer(0, 2**63 - 1), 0),
        "on_short": Key(_choice("refuse", "partial"), "refuse"),
        "mode": Key(_choice("netmap", later=("stateless", "rfc6296")), "netmap"),
        "inbound": Key(_boolean, True),
        "on_expire": Key(_choice("keep", "withdraw"), "keep"),
        "hairpin": Key(_boolean, True),
    },
    "routing": {"protocol": Key(_integer(5, 255), 157), "priority": Key(_integer(1, 32000), 15700)},
    "iptables": {name: Key(NO_IPTABLES) for name in ("jumps", "dnat_chain", "snat_chain")},
    "on_change": {"exec": Key(_argv, REQUIRED), "timeout": Key(_timeout, 10.0)},
}
"""Section -> key -> check and default. ``[[translation]]`` and ``[[on_change]]`` are lists."""

TOP = (*KNOWN[""], *(section.partition(".")[0] for section in KNOWN if section))


# ---- reading ---------------------------------------------------------------------------------


def load(path: str) -> Config:
    """Read and check a file; ConfigError when there is anything wrong with it."""
    try:
        with open(path, "rb") as file:
            text = file.read().decode()
    except FileNotFoundError:
        hint = "no such file; make one with an [uplink.NAME] table, see pdreactor.toml(5)"
        raise ConfigError(path, [hint]) from None
    except OSError as exc:
        raise ConfigError(path, [f"cannot be read: {exc.strerror}"]) from None
    except ValueError as exc:
        raise ConfigError(path, [f"is not UTF-8 text: {exc}"]) from None
    return parse(text, path)


def parse(text: str, path: str) -> Config:
    """Check the text of a configuration; ``path`` is only for messages."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(path, [f"is not valid TOML: {exc}"]) from None
    mistakes: list[str] = []
    top = {key: value for key, value in document.items() if key not in TOP or key in KNOWN[""]}
    general = _read(top, "", "", mistakes)
    firewall, routing, _ = (
        _read(document.get(name, {}), name, name, mistakes)
        for name in ("firewall", "routing", "iptables")
    )
    uplinks = _uplinks(document.get("uplink", {}), mistakes)
    translations = list(_each(document, "translation", mistakes))
    commands = list(_each(document, "on_change", mistakes))
    _check_uplinks(uplinks, mistakes)
    _check_room(len(uplinks), firewall, mistakes)
    _check_translations(translations, uplinks, mistakes)
    if mistakes:
        raise ConfigError(path, mistakes)
    return Config(
        path=path,
        uplinks=tuple(Uplink(name=name, **_given(row)) for name, row in uplinks.items()),
        translations=tuple(_translation(row) for row in translations),
        on_change=tuple(Command(row["exec"], row["timeout"]) for row in commands),
        warnings=tuple(_warnings(translations)),
        **general,
        **firewall,
        **routing,
    )


def _given(row: Values) -> Values:
    return {key: row[key] for key in row if key in Uplink._fields}


def _translation(row: Values) -> Translation:
    names = row["uplink"] or row["uplinks"]
    return Translation(names, *(row[field] for field in Translation._fields[1:]))


def _read(values: Any, section: str, where: str, mistakes: list[str]) -> Values:
    """The values of one table. A key whose value is wrong is missing from the answer."""
    if not isinstance(values, dict):
        mistakes.append(f"{where} = {shown(values)}: must be a table")
        return {}
    known = KNOWN[section]
    answer = {key: row.default for key, row in known.items() if key not in values}
    for key, value in values.items():
        if key not in known:
            mistakes.append(_unknown(where, key, value, known))
            continue
        try:
            answer[key] = known[key].check(value)
        except Refused as exc:
            mistakes.append(f"{_at(where, key)} = {shown(value)}: {exc}")
    for key in [key for key in answer if answer[key] is REQUIRED]:
        mistakes.append(f"{_at(where, key)}: is required")
        del answer[key]
    return answer


def _at(where: str, key: str) -> str:
    name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else shown(key)
    return f"{where}.{name}" if where else name


def _unknown(where: str, key: str, value: Any, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # not on the way of a correct configuration

    nearest = get_close_matches(key[:80], list(known) if where else TOP, 1, 0.0)[0]
    return f"{_at(where, key)} = {shown(value)}: unknown key; the nearest is {_at(where, nearest)}"


def _each(document: Values, name: str, mistakes: list[str]) -> Iterator[Values]:
    rows = document.get(name, [])
    if not isinstance(rows, list):
        mistakes.append(f"{name} = {shown(rows)}: must be a list of tables, [[{name}]]")
        return
    for index, row in enumerate(rows):
        yield _read(row, name, f"{name}[{index}]", mistakes)


def _uplinks(tables: Any, mistakes: list[str]) -> dict[str, Values]:
    if not isinstance(tables, dict) or not 1 <= len(tables) <= MAX_UPLINKS:
        reason = f"must be 1 to {MAX_UPLINKS} tables, [uplink.NAME]"
        mistakes.append(f"uplink = {shown(tables)}: {reason}")
        return {}
    for name in tables:
        if not NAME.fullmatch(name):
            reason = "a name is a letter and up to 31 letters, digits and underscores"
            mistakes.append(f"{_at('uplink', name)}: {reason}")
    return {
        name: _read(row, "uplink.NAME", _at("uplink", name), mistakes)
        for name, row in tables.items()
    }


# ---- what takes more than one key to judge ---------------------------------------------------


def _check_uplinks(uplinks: dict[str, Values], mistakes: list[str]) -> None:
    seen: dict[str, list[tuple[str, int | None]]] = {}
    for name, row in uplinks.items():
        _check_lengths(_at("uplink", name), row, mistakes)
        if "interface" not in row or "iaid" not in row:
            continue
        interface, iaid = row["interface"], row["iaid"]
        for other, taken in seen.setdefault(interface, []):
            if None in (iaid, taken) or iaid == taken:
                mistakes.append(
                    f"{_at('uplink', name)}.interface = {shown(interface)}: is "
                    f"uplink.{other}'s too; then both need an iaid, and not the same"
                )
        seen[interface].append((name, iaid))


def _check_room(count: int, firewall: Values, mistakes: list[str]) -> None:
    mask = firewall.get("ct_mark_mask")
    if mask is not None and count > marks.uplinks(mask):
        reason = f"tells {marks.uplinks(mask)} uplinks apart, and there are {count}; make it wider"
        mistakes.append(f"firewall.ct_mark_mask = {mask:#x}: {reason}")


def _check_lengths(where: str, row: Values, mistakes: list[str]) -> None:
    low, high = row.get("min_length"), row.get("max_length")
    if low is None or high is None:
        return
    if low > high:
        mistakes.append(f"{where}.min_length = {low}: is more than max_length, {high}")
    elif row.get("prefix") is not None:
        try:
            acceptable(row["prefix"], min_length=low, max_length=high)
        except Refused as exc:
            mistakes.append(f"{where}.prefix = {shown(str(row['prefix']))}: {exc}")


def _check_translations(
    rows: list[Values], uplinks: dict[str, Values], mistakes: list[str]
) -> None:
    internals: dict[str, list[tuple[int, int, str]]] = {}
    slices: dict[str, list[tuple[int, int, str]]] = {}
    for index, row in enumerate(rows):
        where = f"translation[{index}]"
        for name in _served(row, where, uplinks, mistakes):
            if network := row.get("internal"):
                text = f"{where}.internal = '{network}'"
                internals.setdefault(name, []).append((*_range(network), text))
                if "subnet" in row:
                    first = row["subnet"] << 128 - network.prefixlen
                    last = first + (1 << 128 - network.prefixlen) - 1
                    slices.setdefault(name, []).append((first, last, f"{where}.subnet"))
                    _check_fit(row, where, uplinks[name], mistakes)
    for name, spans in internals.items():
        _sweep(spans, f"on uplink {name}", mistakes)
    for name, spans in slices.items():
        _sweep(spans, f"on uplink {name}: one slice of its prefix for both", mistakes)


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


def _range(network: IPv6Network) -> tuple[int, int]:
    first = int(network.network_address)
    return first, first + (1 << 128 - network.prefixlen) - 1


def _sweep(spans: list[tuple[int, int, str]], what: str, mistakes: list[str]) -> None:
    """Sorted by start, a span overlaps an earlier one if it starts before the last end so far."""
    end, holder = -1, ""
    for first, last, text in sorted(spans, key=lambda span: span[0]):
        if first <= end:
            mistakes.append(f"{text}: overlaps {holder} {what}")
        if last > end:
            end, holder = last, text


def _warnings(rows: list[Values]) -> Iterator[str]:
    for index, row in enumerate(rows):
        top = int(row["internal"].network_address) >> 120
        if top != 0xFD:
            reason = "is not a unique local prefix (RFC 4193)"
            if top == 0xFC:
                reason = "is in fc00::/8; RFC 4193 assigns only fd00::/8"
            yield f"translation[{index}].internal = '{row['internal']}': {reason}"
