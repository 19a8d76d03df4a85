"""What ip6tables-save says, of either variant -> chains. Pure."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise

from .facts import Chain, Marking, Match, Step

PRIORITIES = {
    "raw": dict.fromkeys(("PREROUTING", "OUTPUT"), -300),
    "mangle": dict.fromkeys(("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"), -150),
    "nat": {"PREROUTING": -100, "OUTPUT": -100, "INPUT": 100, "POSTROUTING": 100},
    "filter": dict.fromkeys(("INPUT", "FORWARD", "OUTPUT"), 0),
    "security": dict.fromkeys(("INPUT", "FORWARD", "OUTPUT"), 50),
}
"""linux/netfilter_ipv6.h."""
VERDICTS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "drop", "RETURN": "return",
            "QUEUE": "accept", "NFQUEUE": "accept", "MASQUERADE": "nat", "SNAT": "nat",
            "NETMAP": "nat", "LOG": "", "MARK": "", "CONNMARK": "", "TCPMSS": "", "NFLOG": ""}
WORDS = {"-i": "iif", "-o": "oif", "-s": "saddr", "-d": "daddr", "--ctstate": "state",
         "--state": "state", "--ctstatus": "status"}
WHOLE = 0xFFFFFFFF


def chains(text: str, program: str) -> tuple[Chain, ...]:
    """All chains of all tables. A comment may have line ends in it, so a line may be anything."""
    heads: dict[tuple[str, str], Chain] = {}
    steps: dict[tuple[str, str], list[Step]] = {}
    table = ""
    for line in text.splitlines():
        words = _split(line)
        if line[:1] == "*":
            table = line[1:].strip()
        elif line[:1] == ":" and len(words) > 1:
            name, policy = words[0][1:], words[1]
            hook = name.lower() if name in PRIORITIES.get(table, {}) else ""
            heads[table, name] = Chain(
                program, table, name, (), hook, "nat" if table == "nat" else "filter",
                PRIORITIES.get(table, {}).get(name, 0), "drop" if policy == "DROP" else "accept")
        elif words[:1] == ["-A"] and len(words) > 1:
            steps.setdefault((table, words[1]), []).append(_step(words[2:], table))
    return tuple(head._replace(steps=tuple(steps.get(key, ()))) for key, head in heads.items())


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()  # a comment with an end of line in it


def _step(words: list[str], table: str) -> Step:
    matches, verdict, target = list(_matches(words)), "", ""
    for at, word in enumerate(words[:-1]):
        if word in ("-j", "-g"):
            target = words[at + 1]
            verdict = VERDICTS.get(target, "jump" if word == "-j" else "goto")
    if verdict == "nat" and table != "nat":
        verdict = ""
    return Step(tuple(matches), verdict, target if verdict in ("jump", "goto") else "",
                tuple(_markings(target, words)))


def _matches(words: list[str]) -> Iterator[Match]:
    rest, equal = iter(words), True
    for word in rest:
        if word == "!":
            equal = False
            continue
        if word in WORDS:
            key = WORDS[word]
            values = (value.lower() if key in ("state", "status") else re.sub(r"\+$", "*", value)
                      for value in next(rest, "").split(","))
            yield Match(key, equal, frozenset(values))
        elif word == "-p":
            yield Match("")
            next(rest, "")
        elif word == "-m":
            module = next(rest, "")
            if module == "rpfilter":
                yield Match("reverse", "--invert" in words)
            elif module not in ("comment", "conntrack", "state"):
                yield Match("")
        elif word in ("-j", "-g"):
            return
        elif word == "--comment":
            next(rest, "")
        elif word[:2] == "--":
            yield Match("")
        equal = True


def _markings(target: str, words: list[str]) -> Iterator[Marking]:
    """``--set-xmark VALUE/MASK``: bits of MASK are cleared, those of VALUE are then flipped."""
    given = dict(pairwise(words))
    if target not in ("MARK", "CONNMARK"):
        return
    kind = "packet" if target == "MARK" else "flow"
    if "--set-xmark" in given:
        value, _, mask = given["--set-xmark"].partition("/")
        yield Marking(kind, _number(value) | _number(mask or hex(WHOLE)))
    elif "--save-mark" in words:
        yield Marking("flow", _number(given.get("--ctmask", hex(WHOLE))))
    elif "--restore-mark" in words:
        yield Marking("packet", _number(given.get("--nfmask", hex(WHOLE))))


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return WHOLE
