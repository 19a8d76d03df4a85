"""The sections of keys.py become ``Plans``, or mistakes. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..model import SIXRD, SIXTOFOUR
from ..prefix import shown, slice_of
from ..reading import Span, Values, at, each, overlaps, read
from .keys import KNOWN
from .model import IN4, KERNEL, NDPPD, RESPONDER, Assign, Onward, Plans, Proxy, Tunnel

TUNNEL_MTU = {IN4: 1480, SIXTOFOUR: 1280, SIXRD: 1480}
"""The MTU of Ethernet without an IPv4 header; of 6to4, where nobody knows the path, the least that
IPv6 has (RFC 8200 section 5)."""
NO_INTERFACES = ("all", "default", "lo")


def plans_of(document: Values, uplinks: Mapping[str, Values], translations: list[Values],
             mistakes: list[str]) -> Plans | None:
    """What the document wants; None with a mistake in it."""
    before = len(mistakes)
    tunnels = _tunnels(document.get("tunnel", {}), mistakes)
    rows = {name: list(each(document, name, KNOWN, mistakes))
            for name in ("assign", "route", "proxy")}
    sysctl = read(document.get("sysctl", {}), KNOWN["sysctl"], "sysctl", mistakes)
    for name, among in rows.items():
        for index, row in enumerate(among):
            _check_slice(row, f"{name}[{index}]", uplinks, mistakes)
    for index, row in enumerate(rows["assign"]):
        mistakes += [f"assign[{index}]{reason}" for reason in _assign_mistakes(row)]
    for index, row in enumerate(rows["proxy"]):
        mistakes += [f"proxy[{index}]{reason}" for reason in _proxy_mistakes(row)]
    _check_created(rows["assign"], tunnels, mistakes)
    _check_together(rows, translations, mistakes)
    if len(mistakes) > before:
        return None
    for row in rows["proxy"]:
        row["interface"] = row["interface"] or uplinks[row["uplink"]]["interface"]
    return Plans(
        tuple(Assign(**row) for row in rows["assign"]),
        tuple(Onward(**row) for row in rows["route"]),
        tuple(Tunnel(name=name, **row) for name, row in tunnels.items()),
        tuple(Proxy(**row) for row in rows["proxy"]),
        "sysctl" in document and sysctl["manage"],
    )


# ---- tunnels -----------------------------------------------------------------------------------


def _tunnels(tables: Any, mistakes: list[str]) -> dict[str, Values]:
    if not isinstance(tables, dict):
        mistakes.append(f"tunnel = {shown(tables)}: must be tables, [tunnel.NAME]")
        return {}
    found = {}
    for name, values in tables.items():
        where = at("tunnel", name)
        if reason := _bad_name(name):
            mistakes.append(f"{where}: {reason}")
        row = found[name] = read(values, KNOWN["tunnel.NAME"], where, mistakes)
        if row.keys() == KNOWN["tunnel.NAME"].keys():
            mistakes += [f"{where}{reason}" for reason in _tunnel_mistakes(row)]
            row["mtu"] = row["mtu"] or TUNNEL_MTU[row["mode"]]
    return found


def _bad_name(name: str) -> str:
    """The name is that of a link."""
    try:
        KNOWN["route"]["interface"].check(name)
    except Exception as exc:
        return str(exc)
    return "is a name that the kernel uses" if name in (*NO_INTERFACES, "sit0") else ""


def _tunnel_mistakes(row: Values) -> Iterator[str]:
    mode = row["mode"]
    if row["local"] and row["underlay"]:
        yield ".local: is what the interface in underlay has; only one of them"
    if mode == IN4:
        if row["remote"] is None:
            yield ".remote: is required, the IPv4 address of the far end"
        for key in ("public", "prefix", "relay"):
            if row[key] is not None:
                yield f".{key}: is for modes 6to4 and 6rd"
        return
    if row["remote"] is not None:
        yield f".remote: is not for mode {mode}, where each address has its own"
    if not row["local"] and not row["underlay"]:
        yield ".underlay: is required, the interface with the IPv4 address (or local, the address)"
    if mode == SIXTOFOUR:
        public = row["public"] or row["local"]
        if public and not public.is_global and not _documentation(public):
            yield f": {public} is not a public address; 6to4 needs one (public = ...)"
        if row["prefix"] is not None:
            yield ".prefix: is for mode 6rd"
        if row["default"] and row["relay"] is None:
            yield ".relay: is required for a default route; the anycast relay is gone (RFC 7526)"
    elif (row["prefix"] is None) != (row["relay"] is None):
        yield ".prefix: and relay are written down both, or neither: then DHCPv4 tells"
    elif row["prefix"] is None and not row["underlay"]:
        yield ".underlay: is required, the interface where DHCPv4 tells of 6rd"
    elif row["prefix"] is not None and row["prefix"].prefixlen + 32 - row["mask_length"] > 64:
        yield ".mask_length: leaves no /64; prefix and IPv4 bits are longer than that together"


def _documentation(address: Any) -> bool:
    """192.0.2.0/24, 198.51.100.0/24 and 203.0.113.0/24 stand for public addresses (RFC 5737)."""
    return int(address) >> 8 in (0xC00002, 0xC63364, 0xCB0071)


# ---- slices ------------------------------------------------------------------------------------


def _check_slice(row: Values, where: str, uplinks: Mapping[str, Values],
                 mistakes: list[str]) -> None:
    if not {"uplink", "subnet", "length"} <= row.keys() or not uplinks:
        return
    if row["uplink"] not in uplinks:
        mistakes.append(f"{where}.uplink = {shown(row['uplink'])}: no such uplink; there is "
                        f"{', '.join(uplinks)}")
        return
    uplink = uplinks[row["uplink"]]
    prefix, low = uplink.get("prefix"), uplink.get("min_length", 16)
    if prefix is not None and slice_of(prefix, row["length"], row["subnet"]) is None:
        mistakes.append(f"{where}.subnet = {row['subnet']}: {prefix} has no such /{row['length']}")
    elif row["subnet"] >= 1 << max(row["length"] - low, 0) and row["subnet"]:
        mistakes.append(f"{where}.subnet = {row['subnet']}: a /{low}, the largest delegation "
                        f"accepted, has no such /{row['length']}")


def _assign_mistakes(row: Values) -> Iterator[str]:
    if row.keys() != KNOWN["assign"].keys():
        return
    if row["host"] is None and row["length"] > 64:
        yield '.host = "eui64": has 64 bits, and they do not fit behind a slice of that length'
    if row["host"] is not None and row["host"] >> 128 - row["length"]:
        yield f".host: does not fit behind a slice of length {row['length']}"
    if (row["prefix_length"] or 128) < row["length"]:
        yield f".prefix_length: is less than the length of the slice, {row['length']}"
    if row["create"] and set("*?") & set(row["interface"]):
        yield ".create: needs the name of the interface, not a pattern"


def _proxy_mistakes(row: Values) -> Iterator[str]:
    if row.keys() != KNOWN["proxy"].keys():
        return
    row["method"] = row["method"] or (KERNEL if row["hosts"] else RESPONDER)
    if row["method"] == KERNEL and not row["hosts"]:
        yield ('.method = "kernel": answers for single addresses (hosts = ["::1"]); for all of a '
               'slice there is "responder"')
    for host in row["hosts"]:
        if host >> 128 - row["length"]:
            yield f".hosts: {host:#x} does not fit behind a slice of length {row['length']}"
    if row["method"] == NDPPD and row["hosts"] and len(set(row["hosts"])) < len(row["hosts"]):
        yield ".hosts: has one twice"


def _check_created(assigns: list[Values], tunnels: Mapping[str, Values],
                   mistakes: list[str]) -> None:
    for index, row in enumerate(assigns):
        if row.get("create") and row.get("interface") in (*tunnels, *NO_INTERFACES):
            mistakes.append(f"assign[{index}].create: {row['interface']} is there already")


def _check_together(rows: Mapping[str, list[Values]], translations: list[Values],
                    mistakes: list[str]) -> None:
    """What is on a link, routed or translated is nobody else's, but that a [[route]] may be around
    others: the longer one counts. Longer than /64 it may be within what is shorter: then it is
    taken out of that. Single addresses are the router's own."""
    spans: dict[tuple[str, bool], list[Span]] = {}
    names: list[str] = []
    seen: set[tuple[Any, ...]] = set()

    def note(where: str, uplink: str, first: int, length: int) -> None:
        first = first >> 128 - length << 128 - length
        names.append(where)
        spans.setdefault((uplink, length > 64), []).append(
            (first, first + (1 << 128 - length) - 1, len(names) - 1))

    for index, row in enumerate(translations):
        for uplink in row.get("uplink") or row.get("uplinks") or ():
            if "internal" in row and "subnet" in row:
                length = row["internal"].prefixlen
                note(f"translation[{index}]", uplink, row["subnet"] << 128 - length, length)
    for name in ("assign", "route"):
        for index, row in enumerate(rows[name]):
            if row.keys() != KNOWN[name].keys():
                continue
            first, length = row["subnet"] << 128 - row["length"], row["length"]
            if on_link := row.get("prefix_length"):
                first, length = first | (row["host"] or 0), on_link
            key = row["uplink"], first >> 128 - length, length, row["interface"]
            if length < 128 and key not in seen:
                note(f"{name}[{index}]", row["uplink"], first, length)
            seen.add(key)
    for among in spans.values():
        bounds = {index: (first, last) for first, last, index in among}
        mistakes += [f"{names[one]}.subnet: its slice overlaps that of {names[other]}"
                     for one, other in overlaps(among)
                     if not names[one].startswith("translation")
                     and not _around(names, bounds, one, other)]


def _around(names: list[str], bounds: Mapping[int, tuple[int, int]], *pair: int) -> bool:
    """True when one of the two is a [[route]] around the other."""
    inner, outer = sorted(pair, key=lambda one: bounds[one][1] - bounds[one][0])
    return names[outer].startswith("route") and bounds[inner] != bounds[outer]
