"""The nftables table as a value, and how one is drawn up. Pure.

Sets, maps and the chains that verdict maps go to have names that end in ``.SLOT``, a number: see
nftables.py for why. What is rendered has the word SLOT there until ``place`` puts it somewhere.
"""

import zlib
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Network
from typing import NamedTuple

from .. import marks
from ..model import Lane, Nat, Pair, Stamp
from ..prefix import Texts, compact

SLOT = ".SLOT"
"""Stands in a rendered rule for the slot of the sets and maps it refers to."""

Hook = tuple[str, str, int]
"""(type, hook, priority) of a base chain; the policy is always accept."""

Elements = dict[str, frozenset[str]]
"""{name of a set or map: its elements}."""


class Rule(NamedTuple):
    """One rule; its comment says what it is for and identifies it. Observed, it has no text."""

    comment: str
    text: str = ""


Rules = dict[str, tuple[Rule, ...]]


class Ruleset(NamedTuple):
    """The table, desired or observed. An observed rule has its comment only.

    Elements are text as nft prints it ("2001:db8::/58"; a map has "KEY : DATA"), which for ten
    thousand of them is many times faster than networks are. ``rules`` has the base chains and those
    of FIXED, ``branches`` the chains that are in a slot.
    """

    sets: Elements
    maps: Elements
    counters: frozenset[str]
    hooks: dict[str, Hook]
    rules: Rules
    branches: Rules
    flags: bool = False  # somebody set flags on the table: "dormant" switches it off


NOTHING = Ruleset({}, {}, frozenset(), {}, {}, {})

TRANSLATES = "type ipv6_addr : interval ipv6_addr"
LEADS = "type ipv6_addr : verdict"
TYPES = {
    "out": TRANSLATES, "in": TRANSLATES, "turn": TRANSLATES, "home": TRANSLATES,
    "send": LEADS, "take": LEADS,
    "quoted": "typeof @th,256,128 : verdict",  # the destination of a packet in an ICMPv6 error
    "quoting": "typeof @th,128,128 : verdict",  # its source
}
"""Type of a map by the first word of its name."""

HASHED = frozenset({"guarded", "foreign"})
"""First words of the sets that have single addresses."""


class Draft:
    """Collects sets, maps, chains and rules. What is the same is there once."""

    def __init__(self, hooks: Mapping[str, Hook], fixed: Rules) -> None:
        self.hooks = dict(hooks)
        self.sets: Elements = {}
        self.maps: Elements = {}
        self.counters: set[str] = set()
        self.branches: Rules = {}
        self.fixed = fixed
        self.rules: dict[str, list[Rule]] = {name: [] for name in hooks}
        self.text = Texts()  # the Nat holds the networks of its pairs

    def chains(self, hooks: Mapping[str, Hook]) -> None:
        """More base chains."""
        self.hooks.update(hooks)
        self.rules.update({name: [] for name in hooks})

    def leave_out(self, chain: str) -> None:
        """A base chain after all not."""
        del self.hooks[chain], self.rules[chain]

    def set(self, name: str, networks: Iterable[IPv6Network]) -> str:
        """A reference to the set of these networks."""
        return self._kept(self.sets, name, frozenset(map(str, networks)))

    def addresses(self, name: str, networks: Iterable[IPv6Network]) -> str:
        """A reference to the set of the first addresses of these networks."""
        return self._kept(self.sets, name, frozenset(
            f"{network.network_address}/128" for network in networks))

    def map(self, name: str, pairs: tuple[Pair, ...]) -> str:
        """A reference to the map of these pairs."""
        text = self.text
        return self.elements(name, frozenset([f"{text(k)} : {text(v)}" for k, v in pairs]))

    def elements(self, name: str, elements: frozenset[str]) -> str:
        """A reference to the map with these elements."""
        return self._kept(self.maps, name, elements)

    def rule(self, chain: str, purpose: str, text: str) -> None:
        self.rules[chain].append(Rule(purpose, text))

    def branch(self, name: str, purpose: str, *texts: str) -> str:
        """The name of the chain that does this."""
        self.branches[name] = tuple(Rule(purpose, text) for text in texts)
        return f"{name}{SLOT}"

    def ruleset(self) -> Ruleset:
        rules = {chain: tuple(rules) for chain, rules in self.rules.items()}
        return Ruleset(self.sets, self.maps, frozenset(self.counters), self.hooks,
                       {**self.fixed, **rules}, self.branches)

    def _kept(self, among: Elements, name: str, elements: frozenset[str]) -> str:
        same = next((known for known, have in among.items() if have == elements
                     and _kind(known) == _kind(name)), None)
        if among.setdefault(same or name, elements) != elements:
            raise ValueError(f"two sets or maps named {name}")
        return f"@{same or name}{SLOT}"


def _kind(name: str) -> tuple[str | None, bool]:
    word = name.partition("-")[0]
    return TYPES.get(word), word in HASHED


# ---- what the rooms of the modes have in common ------------------------------------------------


def outside(nat: Nat) -> str:
    """The interfaces of all uplinks, as nft writes one or several."""
    quoted = ", ".join(f'"{name}"' for name in dict.fromkeys(gate.interface for gate in nat.gates))
    return f"{{ {quoted} }}" if "," in quoted else quoted


def named(lane: Lane) -> str:
    return f"{lane.uplink}-{lane.stamp.generation}"


def targets(draft: Draft, lane: Lane, name: str, pairs: tuple[Pair, ...]) -> str:
    """The external addresses of these pairs: no others are stamped. Often that is all of the
    delegation, and else a set."""
    found = compact(external for external, _ in pairs)
    return str(lane.delegated) if found == (lane.delegated,) else draft.set(name, found)


def stamped(nat: Nat, what: str, stamp: Stamp) -> str:
    """The statement that puts a stamp into our bits of "ct mark" or "meta mark"."""
    rest = ~nat.mask & 0xFFFFFFFF
    return f"{what} set {what} & {rest:#010x} | {marks.pack(stamp, nat.mask):#010x}"


# ---- slots ---------------------------------------------------------------------------------------


def place(ruleset: Ruleset, slot: int, observed: Ruleset = NOTHING) -> Ruleset:
    """The rendered table with what it has in that slot, or where it is already, and its rules
    signed."""
    signed = {name: tuple(_signed(name, rule, {}) for rule in rules)
              for name, rules in ruleset.branches.items()}
    branches = _places(signed, slot, observed.branches)
    leading = {name: _led(have, branches) for name, have in ruleset.maps.items()}
    names = {**_places(ruleset.sets, slot, observed.sets), **_places(leading, slot, observed.maps)}
    return ruleset._replace(
        sets={names[name]: elements for name, elements in ruleset.sets.items()},
        maps={names[name]: elements for name, elements in leading.items()},
        branches={branches[name]: rules for name, rules in signed.items()},
        rules={chain: tuple(_signed(chain, rule, names) for rule in rules)
               for chain, rules in ruleset.rules.items()},
    )


def seen(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Rules as they are observed: by their comments."""
    return tuple(Rule(rule.comment) for rule in rules)


def _places(wanted: Mapping[str, frozenset[str] | tuple[Rule, ...]], slot: int,
            observed: Mapping[str, frozenset[str] | tuple[Rule, ...]]) -> dict[str, str]:
    """{name: name with slot}: the one where the very same is already, or the new slot."""
    there: dict[str, list[str]] = {}
    for known in observed:
        there.setdefault(known.rpartition(".")[0], []).append(known)
    return {name: next((known for known in there.get(name, ())
                        if observed[known] == (seen(have) if isinstance(have, tuple) else have)),
                       f"{name}.{slot}")
            for name, have in wanted.items()}


def _led(elements: frozenset[str], branches: dict[str, str]) -> frozenset[str]:
    """The elements of a verdict map with their chains in place."""
    if not next(iter(elements), "").endswith(SLOT):
        return elements
    parts = (element.rpartition(" ") for element in elements)
    return frozenset(f"{head} {branches[name.removesuffix(SLOT)]}" for head, _, name in parts)


def _signed(chain: str, rule: Rule, names: dict[str, str]) -> Rule:
    text = rule.text
    for name, placed in names.items():
        text = text.replace(f"@{name}{SLOT}", f"@{placed}")
    return Rule(f"{rule.comment} {zlib.crc32(f'{chain} {text}'.encode()):08x}", text)
