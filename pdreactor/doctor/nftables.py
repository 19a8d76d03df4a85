"""What nft lists of the whole ruleset (libnftables-json(5)) -> chains. Pure."""

from collections.abc import Iterable, Iterator
from typing import Any

from .facts import Chain, Marking, Match, Step

FAMILIES = ("ip6", "inet")
WHOLE = 0xFFFFFFFF
META = {"iifname": "iif", "iif": "iif", "oifname": "oif", "oif": "oif", "nfproto": "family",
        "protocol": "family"}
VERDICTS = ("accept", "drop", "return", "queue", "jump", "goto")
Objects = list[dict[str, Any]]
Sets = dict[tuple[str, str], frozenset[str] | None]


def chains(objects: Objects, hidden: Iterable[str] = ()) -> tuple[Chain, ...]:
    """The chains that see IPv6, but those of our table and of the tables ``hidden`` ("ip6 nat")."""
    skipped = {"ip6 pdreactor", *hidden}
    sets: Sets = {}
    heads: dict[tuple[str, str], Chain] = {}
    steps: dict[tuple[str, str], list[Step]] = {}
    for one in objects:
        (kind, body), *_ = one.items()
        if kind not in ("set", "map", "chain", "rule") or body["family"] not in FAMILIES:
            continue
        table = f"{body['family']} {body['table']}"
        if table in skipped:
            continue
        if kind == "chain":
            heads[table, body["name"]] = Chain(
                "nft", table, body["name"], (), body.get("hook", ""), body.get("type", ""),
                _priority(body.get("prio")), body.get("policy") or "accept")
        elif kind == "rule":
            steps.setdefault((table, body["chain"]), []).extend(_read(body, table, sets))
        else:
            sets[table, body["name"]] = _elements(body.get("elem", ()))
    return tuple(head._replace(steps=tuple(steps.get(key, ()))) for key, head in heads.items())


def flowtables(objects: Objects) -> list[str]:
    """Their names."""
    return [one["flowtable"]["name"] for one in objects if "flowtable" in one]


def _priority(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _read(body: dict[str, Any], table: str, sets: Sets) -> list[Step]:
    try:
        return list(_steps(body.get("expr", ()), table, sets))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return [Step((Match(""),), "accept"), Step((Match(""),), "drop")]  # of a newer nft


def _steps(expressions: Iterable[Any], table: str, sets: Sets) -> Iterator[Step]:
    matches: list[Match] = []
    markings: list[Marking] = []
    for one in expressions:
        if not isinstance(one, dict) or not one:
            matches.append(Match(""))
            continue
        (kind, body), *_ = one.items()
        if kind == "match":
            matches += _match(body, table, sets)
        elif kind == "vmap":
            yield from _vmap(body, matches)
            return
        elif kind == "mangle":
            markings += _marking(body)
        elif kind in ("masquerade", "snat"):
            yield Step(tuple(matches), "nat", "", tuple(markings))
            return
        elif kind == "reject" or kind in VERDICTS:
            target = body["target"] if kind in ("jump", "goto") else ""
            verdict = "drop" if kind == "reject" else "accept" if kind == "queue" else kind
            yield Step(tuple(matches), verdict, target, tuple(markings))
            return
        elif kind in ("limit", "quota", "xt", "ct count"):
            matches.append(Match(""))  # these can end a rule too
    yield Step(tuple(matches), "", "", tuple(markings))


# ---- matches ---------------------------------------------------------------------------------


def _match(body: dict[str, Any], table: str, sets: Sets) -> Iterator[Match]:
    key, implied = _key(body["left"])
    if implied:
        yield implied
    if key == "reverse":
        missing = body["right"] in (False, "0", 0)
        yield Match("reverse", (body["op"] == "==") == missing)
    else:
        yield Match(key, body["op"] != "!=", _values(body["right"], table, sets) if key else None)


def _key(left: Any) -> tuple[str, Match | None]:
    """The key, and what a match on it implies: the family."""
    if not isinstance(left, dict):
        return "", None
    (kind, body), *_ = left.items()
    if kind == "meta":
        return META.get(body["key"], ""), None
    if kind == "ct" and body.get("key") in ("state", "status"):
        return body["key"], None
    if kind == "fib" and {"saddr", "iif"} <= set(body["flags"]) and body["result"] == "oif":
        return "reverse", None
    if kind == "payload":
        implied = {"ip": Match("family", True, frozenset({"ipv4"})),
                   "ip6": Match("family", True, frozenset({"ipv6"}))}.get(body.get("protocol", ""))
        known = body.get("protocol") == "ip6" and body.get("field") in ("saddr", "daddr")
        return body["field"] if known else "", implied
    return "", None


def _values(right: Any, table: str, sets: Sets) -> frozenset[str] | None:
    if isinstance(right, str) and right.startswith("@"):
        return sets.get((table, right[1:]))
    if isinstance(right, dict) and "set" in right:
        return _elements(right["set"])
    return _elements(right if isinstance(right, list) else [right])


def _elements(elements: Any) -> frozenset[str] | None:
    """None when one of them cannot be written as a word."""
    words = [_word(one) for one in (elements if isinstance(elements, list) else [elements])]
    return None if None in words else frozenset(word for word in words if word is not None)


def _word(element: Any) -> str | None:
    if isinstance(element, str):
        return element
    if isinstance(element, dict) and "elem" in element:
        return _word(element["elem"]["val"])
    if isinstance(element, dict) and "prefix" in element:
        return f"{element['prefix']['addr']}/{element['prefix']['len']}"
    if isinstance(element, dict) and "range" in element:
        return "-".join(map(str, element["range"]))
    return None


def _vmap(body: dict[str, Any], matches: list[Match]) -> Iterator[Step]:
    key, _ = _key(body["key"])
    data = body["data"]
    if not isinstance(data, dict) or "set" not in data:  # a named map
        for verdict in ("accept", "drop"):
            yield Step((*matches, Match("")), verdict)
        return
    for value, verdict in data["set"]:
        (kind, target), *_ = verdict.items()
        word = _word(value)
        match = Match(key, True, frozenset({word})) if key and word else Match("")
        yield Step((*matches, match), kind, target["target"] if target else "")


# ---- marks -------------------------------------------------------------------------------------


def _marking(body: dict[str, Any]) -> Iterator[Marking]:
    for kind, name in (("meta", "packet"), ("ct", "flow")):
        if body["key"].get(kind, {}).get("key") == "mark":
            yield Marking(name, _bits(body["value"], kind))


def _bits(value: Any, own: str) -> int:
    """The bits that may change when this becomes a mark of the kind ``own``."""
    kept = _kept(value, own)
    return WHOLE if kept is None else WHOLE & ~kept


def _kept(value: Any, own: str) -> int | None:
    """The bits in which a value is the mark itself; None when it is not made of it."""
    if not isinstance(value, dict):
        return None
    if value.get(own) == {"key": "mark"}:
        return WHOLE
    for operator in ("|", "^", "&"):
        if operator in value:
            left, right = value[operator]
            inner, number = _kept(left, own), right
            if inner is None:
                inner, number = _kept(right, own), left
            if inner is None or not isinstance(number, int):
                return None
            return inner & (number if operator == "&" else ~number)
    return None
