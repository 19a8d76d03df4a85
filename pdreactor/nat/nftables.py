"""The translation as one nftables table: render (pure), observe, diff (pure), apply.

A table holds, for each lane, maps and sets whose names end in ``.SLOT``, a number. What changes is
filled anew in a slot that is not in use, then the rules of the standing chains are switched to it
in one transaction, then what they left is deleted; what does not change stays in its slot. It takes
three transactions because the packet path of kernel 6.1 and others sees new rules before new
elements (nf_tables_commit: rule blobs are swapped before the generation cursor moves), and no chain
is re-created because hooks are registered one by one.

Each rule carries a comment: what it is for, and a checksum of its text. A rule is as it should be
when its comment is: nft prints rules differently from version to version, comments and elements
it does not.
"""

import zlib
from collections.abc import Iterable
from ipaddress import IPv6Network
from typing import Any, NamedTuple

from .. import marks
from ..errors import KernelError
from ..kernel.nft import Nft
from ..model import Gate, Lane, Nat, Pair, Stamp
from ..prefix import compact

FAMILY = "ip6"
TABLE = "pdreactor"
SLOT = ".SLOT"
"""Stands in a rendered rule for the slot of the sets and maps it refers to."""

Hook = tuple[str, str, int]
"""(type, hook, priority) of a base chain; the policy is always accept."""

CHAINS: dict[str, Hook] = {
    "guard": ("filter", "postrouting", 310),
    "forward": ("filter", "forward", -5),
    "prerouting": ("nat", "prerouting", -105),
    "output": ("nat", "output", -105),
    "postrouting": ("nat", "postrouting", 95),
}
"""In the order in which they are made: the guard first. 95 and -105 are before ip6tables (100,
-100) and firewalld; 310 is after everything that rewrites."""


Elements = dict[str, frozenset[str]]
"""{name of a set or map: its elements}."""


class Rule(NamedTuple):
    """One rule; its comment says what it is for and identifies it. Observed, it has no text."""

    comment: str
    text: str = ""


class Ruleset(NamedTuple):
    """The table, desired or observed. An observed rule has its comment only.

    Elements are text as nft prints it ("2001:db8::/58"; a map has "KEY : DATA"), which for ten
    thousand of them is many times faster than networks are.
    """

    sets: Elements
    maps: Elements
    counters: frozenset[str]
    hooks: dict[str, Hook]
    rules: dict[str, tuple[Rule, ...]]
    flags: bool = False  # somebody set flags on the table: "dormant" switches it off


NOTHING = Ruleset({}, {}, frozenset(), {}, {})


# ---- render ------------------------------------------------------------------------------------


class _Draft:
    """Collects sets, maps and rules. What is the same is there once."""

    def __init__(self) -> None:
        self.sets: Elements = {}
        self.maps: Elements = {}
        self.counters: set[str] = set()
        self.rules: dict[str, list[Rule]] = {name: [] for name in CHAINS}
        self._texts: dict[int, str] = {}  # see _text

    def set(self, name: str, networks: Iterable[IPv6Network]) -> str:
        """A reference to the set of these networks."""
        return self._kept(self.sets, name, frozenset(map(str, networks)))

    def map(self, name: str, pairs: tuple[Pair, ...]) -> str:
        """A reference to the map of these pairs."""
        text = self._text
        return self._kept(self.maps, name, frozenset([f"{text(k)} : {text(v)}" for k, v in pairs]))

    def rule(self, chain: str, purpose: str, text: str) -> None:
        self.rules[chain].append(Rule(purpose, text))

    def _kept(self, among: Elements, name: str, elements: frozenset[str]) -> str:
        same = next((known for known, have in among.items() if have == elements), None)
        among[same or name] = elements
        return f"@{same or name}{SLOT}"

    def _text(self, network: IPv6Network) -> str:
        """str(), once for each object: by id(), for hashing ten thousand networks takes long. The
        Nat that is rendered holds the networks of its pairs, so no id() is used again meanwhile."""
        text = self._texts.get(id(network))
        if text is None:
            text = self._texts[id(network)] = str(network)
        return text


def render(nat: Nat) -> Ruleset:
    """The table that does what ``nat`` says; ``place`` puts it into a slot."""
    draft = _Draft()
    inside = f"!= {_names(tuple(gate.interface for gate in nat.gates))}"
    _leave_alone(draft, nat)
    for lane in nat.lanes:
        _render_lane(draft, nat, lane, inside)
        if lane.hairpin:
            _render_hairpin(draft, nat, lane, inside)
    for number, gate in enumerate(nat.gates if nat.guard else ()):
        _render_gate(draft, gate, number)
    rules = {chain: tuple(rules) for chain, rules in draft.rules.items()}
    return Ruleset(draft.sets, draft.maps, frozenset(draft.counters), dict(CHAINS), rules)


def place(ruleset: Ruleset, slot: int, observed: Ruleset = NOTHING) -> Ruleset:
    """The rendered table with its elements in that slot, or where they are already, and its rules
    signed."""
    names = {**_places(ruleset.sets, slot, observed.sets),
             **_places(ruleset.maps, slot, observed.maps)}
    return ruleset._replace(
        sets={names[name]: elements for name, elements in ruleset.sets.items()},
        maps={names[name]: elements for name, elements in ruleset.maps.items()},
        rules={chain: tuple(_signed(chain, rule, names) for rule in rules)
               for chain, rules in ruleset.rules.items()},
    )


def _places(wanted: Elements, slot: int, observed: Elements) -> dict[str, str]:
    """{name: name with slot}."""
    return {name: next((known for known, have in observed.items()
                        if known.rpartition(".")[0] == name and have == elements),
                       f"{name}.{slot}")
            for name, elements in wanted.items()}


def _signed(chain: str, rule: Rule, names: dict[str, str]) -> Rule:
    text = rule.text
    for name, placed in names.items():
        text = text.replace(f"@{name}{SLOT}", f"@{placed}")
    return Rule(f"{rule.comment} {zlib.crc32(f'{chain} {text}'.encode()):08x}", text)


def _names(interfaces: tuple[str, ...]) -> str:
    quoted = ", ".join(f'"{name}"' for name in dict.fromkeys(interfaces))
    return f"{{ {quoted} }}" if "," in quoted else quoted


def _leave_alone(draft: _Draft, nat: Nat) -> None:
    """Never translated nor guarded: IPsec (rt_policy), the router's own addresses, the bypass."""
    draft.rule("prerouting", "decrypted by IPsec", "meta ipsec exists return")
    draft.rule("prerouting", "own addresses", "fib daddr type local return")
    draft.rule("output", "own addresses", "fib daddr type local return")
    for chain in ("output", "postrouting", "guard", "forward"):
        draft.rule(chain, "IPsec policy", "rt ipsec exists return")
    for number, gate in enumerate(nat.gates):
        if gate.bypass:
            name = draft.set(f"bypass-{number}", gate.bypass)
            for chain in ("postrouting", "guard", "forward"):
                draft.rule(chain, f"bypass {gate.interface}",
                           f'oifname "{gate.interface}" ip6 daddr {name} return')


def _render_lane(draft: _Draft, nat: Nat, lane: Lane, inside: str) -> None:
    if lane.outbound:
        sources = draft.set(f"from-{_name(lane)}", compact(key for key, _ in lane.outbound))
        draft.rule("postrouting", f"outbound {lane.uplink}",
                   f'oifname "{lane.interface}" ip6 saddr {sources} {_mark(nat, lane.stamp)} '
                   f"snat ip6 prefix to ip6 saddr map "
                   f'{draft.map(f"out-{_name(lane)}", lane.outbound)}')
    if lane.inbound:
        targets = _targets(draft, lane, f"to-{_name(lane)}", lane.inbound)
        to = draft.map(f"in-{_name(lane)}", lane.inbound)
        draft.rule("prerouting", f"inbound {lane.uplink}",
                   f'iifname "{lane.interface}" {_redirect(nat, lane, targets, to)}')


def _render_hairpin(draft: _Draft, nat: Nat, lane: Lane, inside: str) -> None:
    """Internal hosts by their external addresses. What was redirected is known by conntrack's own
    tuple (ct original), not by a packet mark that others could overwrite. The one who asks is
    seen with the external address that it has now."""
    targets = _targets(draft, lane, f"loop-{_name(lane)}", lane.hairpin)
    to = draft.map(f"turn-{_name(lane)}", lane.hairpin)
    redirect = _redirect(nat, lane, targets, to)
    draft.rule("prerouting", f"hairpin {lane.uplink}", f"iifname {inside} {redirect}")
    draft.rule("output", f"hairpin {lane.uplink}", redirect)
    now = tuple(pair for one in nat.lanes if one.uplink == lane.uplink for pair in one.outbound)
    own = now or tuple((internal, external) for external, internal in lane.hairpin)
    draft.rule("postrouting", f"hairpin {lane.uplink}",
               f"oifname {inside} ct status dnat ct original ip6 daddr {targets} "
               f'snat ip6 prefix to ip6 saddr map {draft.map(f"home-{_name(lane)}", own)}')


def _name(lane: Lane) -> str:
    return f"{lane.uplink}-{lane.stamp.generation}"


def _targets(draft: _Draft, lane: Lane, name: str, pairs: tuple[Pair, ...]) -> str:
    """The external addresses of these pairs: no others are stamped. Often that is all of the
    delegation, and else a set."""
    targets = compact(external for external, _ in pairs)
    return str(lane.delegated) if targets == (lane.delegated,) else draft.set(name, targets)


def _redirect(nat: Nat, lane: Lane, targets: str, to: str) -> str:
    stamp = _mark(nat, lane.stamp._replace(inbound=True))
    return f"ip6 daddr {targets} {stamp} dnat ip6 prefix to ip6 daddr map {to}"


def _mark(nat: Nat, stamp: Stamp) -> str:
    rest = ~nat.mask & 0xFFFFFFFF
    return f"ct mark set ct mark & {rest:#010x} | {marks.pack(stamp, nat.mask):#010x}"


def _render_gate(draft: _Draft, gate: Gate, number: int) -> None:
    """What is left untranslated does not leave; what cannot be translated is told so (RFC 7084
    L-14). Answers of inbound flows still have their internal source in the forward hook."""
    leaving = f'oifname "{gate.interface}" ip6 saddr'
    if gate.internal:
        name = draft.set(f"inside-{number}", gate.internal)
        counter = f"guard-{number}"
        draft.counters.add(counter)
        draft.rule("guard", f"untranslated {gate.interface}",
                   f'{leaving} {name} counter name {counter} drop')
    if gate.foreign:
        name = draft.set(f"foreign-{number}", gate.foreign)
        draft.rule("guard", f"other uplink's source {gate.interface}", f"{leaving} {name} drop")
    if gate.unserved:
        name = draft.set(f"unserved-{number}", gate.unserved)
        draft.rule("forward", f"no usable prefix {gate.interface}",
                   f"{leaving} {name} ct direction original reject with icmpv6 type policy-fail")


# ---- observe -----------------------------------------------------------------------------------


def observe(nft: Nft) -> Ruleset | None:
    """The table as the kernel has it; None when it is not there."""
    objects = nft.list_table(FAMILY, TABLE)
    return None if objects is None else read(objects)


def read(objects: list[dict[str, Any]]) -> Ruleset:
    """A Ruleset from libnftables-json(5) objects."""
    seen = Ruleset({}, {}, frozenset(), {}, {})
    counters, flags = set(), False
    for one in objects:
        (kind, body), *_ = one.items()
        if kind == "table":
            flags = "flags" in body  # nft 1.0.6 prints garbage as their names
        elif kind == "set":
            seen.sets[body["name"]] = frozenset(map(_text, body.get("elem", ())))
        elif kind == "map":
            elements = [f"{_text(key)} : {_text(data)}" for key, data in body.get("elem", ())]
            seen.maps[body["name"]] = frozenset(elements)
        elif kind == "counter":
            counters.add(body["name"])
        elif kind == "chain":
            seen.hooks[body["name"]] = _hook(body)
            seen.rules.setdefault(body["name"], ())
        elif kind == "rule":
            rule = Rule(body.get("comment", ""))
            seen.rules[body["chain"]] = (*seen.rules.get(body["chain"], ()), rule)
    return seen._replace(counters=frozenset(counters), flags=flags)


def _hook(body: dict[str, Any]) -> Hook:
    policy = "" if body.get("policy") == "accept" else f", policy {body.get('policy')}"
    return (body.get("type", "") + policy, body.get("hook", ""), body.get("prio", 0))


def _text(element: Any) -> str:
    """A prefix or a single address as text; whatever else somebody put there as JSON has it."""
    if isinstance(element, dict) and "prefix" in element:
        return f"{element['prefix']['addr']}/{element['prefix']['len']}"
    return f"{element}/128" if isinstance(element, str) else repr(element)


# ---- diff --------------------------------------------------------------------------------------


class Change(NamedTuple):
    """What it takes to get from one table to another."""

    observed: Ruleset | None
    desired: Ruleset


def plan(nat: Nat, observed: Ruleset | None) -> Change | None:
    """The change that is needed; None when the table does what ``nat`` says already."""
    if observed is None:
        return Change(None, place(render(nat), 1))
    slots = {_slot(name) for name in (*observed.sets, *observed.maps)}
    free = next(n for n in range(1, len(slots) + 2) if n not in slots)
    wanted = place(render(nat), free, NOTHING if _strangers(observed) else observed)
    return None if same(wanted, observed) else Change(observed, wanted)


def _slot(name: str) -> int:
    number = name.rpartition(".")[2]
    return int(number) if number.isdecimal() else 0


def same(desired: Ruleset, observed: Ruleset) -> bool:
    """True when the kernel has the table as desired."""
    comments = {chain: tuple(Rule(r.comment) for r in rules) for chain, rules in
                desired.rules.items()}
    return (comments == observed.rules and desired.hooks == observed.hooks
            and desired.flags == observed.flags
            and desired.counters <= observed.counters
            and desired.sets == observed.sets and desired.maps == observed.maps)


def translated(ruleset: Ruleset | None) -> dict[str, frozenset[str]]:
    """What a table translates, whatever its slot: "outbound" has "INTERNAL : EXTERNAL" texts,
    "inbound" (also from inside: hairpin) has "EXTERNAL : INTERNAL" ones."""
    maps = (ruleset or NOTHING).maps
    outbound = [have for name, have in maps.items() if name.startswith("out-")]
    inbound = [have for name, have in maps.items() if name.startswith(("in-", "turn-"))]
    return {"outbound": frozenset().union(*outbound), "inbound": frozenset().union(*inbound)}


MOST_WORDS = 20
"""Lines about translations; the rest is counted."""


def words(change: Change) -> list[str]:
    """The change for people, a line each."""
    before, after = translated(change.observed), translated(change.desired)
    lines = [] if change.observed else [f"create table {FAMILY} {TABLE}"]
    lines += _differences("outbound", before["outbound"], after["outbound"])
    lines += _differences("inbound", before["inbound"], after["inbound"])
    return lines or [f"bring table {FAMILY} {TABLE} back to what it should be"]


def _differences(direction: str, before: frozenset[str], after: frozenset[str]) -> list[str]:
    arrow = [(sign, text.replace(" : ", " -> ")) for sign, texts in
             (("translate", after - before), ("no longer translate", before - after))
             for text in sorted(texts)]
    lines = [f"{sign} {direction} {text}" for sign, text in arrow[:MOST_WORDS]]
    rest = len(arrow) - len(lines)
    return lines + [f"... and {rest} more {direction}"] * bool(rest)


# ---- apply -------------------------------------------------------------------------------------


def transactions(change: Change) -> tuple[str, str, str]:
    """The three texts to run in this order: fill what is new, switch the rules, delete the old."""
    return _fill(change), _switch(change), _clean(change)


def _fill(change: Change) -> str:
    lines = [f"add table {FAMILY} {TABLE}"]
    new = _only(change.desired, change.observed or NOTHING)
    lines += [f"add counter {FAMILY} {TABLE} {name}" for name in sorted(new.counters)]
    lines += [_declare("set", name, "ipv6_addr", have) for name, have in new.sets.items()]
    lines += [_declare("map", name, "ipv6_addr : interval ipv6_addr", have)
              for name, have in new.maps.items()]
    return "\n".join(lines) + "\n"


def _declare(kind: str, name: str, of: str, elements: frozenset[str]) -> str:
    return (f"add {kind} {FAMILY} {TABLE} {name} "
            f"{{ type {of}; flags interval; elements = {{ {','.join(sorted(elements))} }}; }}")


def _only(one: Ruleset, other: Ruleset) -> Ruleset:
    """The sets, maps and counters that one table has and the other has not."""
    return NOTHING._replace(
        sets={name: have for name, have in one.sets.items() if name not in other.sets},
        maps={name: have for name, have in one.maps.items() if name not in other.maps},
        counters=one.counters - other.counters,
    )


def _switch(change: Change) -> str:
    lines = _without_strangers(change)
    for name, (kind, hook, priority) in change.desired.hooks.items():
        lines.append(f"add chain {FAMILY} {TABLE} {name} "
                     f"{{ type {kind} hook {hook} priority {priority}; policy accept; }}")
        lines.append(f"flush chain {FAMILY} {TABLE} {name}")
    for name, rules in change.desired.rules.items():
        lines += [f'add rule {FAMILY} {TABLE} {name} {rule.text} comment "{rule.comment}"'
                  for rule in rules]
    return "\n".join(lines) + "\n"


def _without_strangers(change: Change) -> list[str]:
    """Delete the strangers; before that whatever may refer to them, rules and verdict maps."""
    observed = change.observed or NOTHING
    strangers = _strangers(observed)
    if not strangers:
        return []
    return [*(f"flush chain {FAMILY} {TABLE} {name}" for name in observed.hooks),
            *_deletion(observed._replace(counters=frozenset())).splitlines(),
            *(f"delete chain {FAMILY} {TABLE} {name}" for name in strangers)]


def _strangers(observed: Ruleset) -> list[str]:
    """Chains in our table that are not ours, or not at the hook where they belong."""
    return [name for name, hook in observed.hooks.items() if CHAINS.get(name) != hook]


def _clean(change: Change) -> str:
    old = _only(change.observed or NOTHING, change.desired)
    if _strangers(change.observed or NOTHING):  # the switch took these already
        old = old._replace(sets={}, maps={})
    return _deletion(old)


def _deletion(ruleset: Ruleset) -> str:
    """Delete sets, maps and counters."""
    lines = [f"delete set {FAMILY} {TABLE} {name}" for name in ruleset.sets]
    lines += [f"delete map {FAMILY} {TABLE} {name}" for name in ruleset.maps]
    lines += [f"delete counter {FAMILY} {TABLE} {name}" for name in sorted(ruleset.counters)]
    return "\n".join(lines)


def apply(nft: Nft, change: Change) -> None:
    """Run the change. When the switch fails the old rules are still in force, and what was filled
    is taken away again; the error says why."""
    fill, switch, _ = transactions(change)
    nft.run(fill, "fill the maps of table ip6 pdreactor (the rules stay as they were)")
    try:
        nft.run(switch, "switch the rules of table ip6 pdreactor (they stay as they were)")
    except KernelError:
        try:
            nft.run(_undo(change), "remove what was not used of table ip6 pdreactor")
        except KernelError:
            pass  # somebody took it away meanwhile; why the switch failed is what counts
        raise


def clean(nft: Nft, change: Change) -> None:
    """Delete what the change left over, and look whether the table is as desired."""
    if text := _clean(change):
        nft.run(text, "delete the old maps of table ip6 pdreactor")
    after = observe(nft)
    if after is None or not same(change.desired, after):
        raise KernelError("table ip6 pdreactor is not as it was written: another program changes "
                          "it at the same time; nft monitor shows which")


def exposed(change: Change) -> bool:
    """True when before this change nothing kept untranslated packets from leaving."""
    observed = change.observed
    if observed is None or observed.flags:
        return True
    rules = (*observed.rules.get("guard", ()), *observed.rules.get("postrouting", ()))
    return not any(rule.comment.startswith(("untranslated ", "outbound ")) for rule in rules)


def _undo(change: Change) -> str:
    if change.observed is None:
        return remove()
    return _deletion(_only(change.desired, change.observed))


def remove() -> str:
    """The transaction that leaves nothing of ours (``add`` first: 1.0.6 has no ``destroy``)."""
    return f"add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}"
