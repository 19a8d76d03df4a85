"""The translation as one nftables table: observe, diff, apply. What is in it is drawn up by
gate.py, netmap.py and stateless.py.

A table holds, for each lane, maps, sets and chains whose names end in ``.SLOT``, a number. What
changes is filled anew in a slot that is not in use, then the rules of the standing chains are
switched to it in one transaction, then what they left is deleted; what does not change stays in its
slot. It takes three transactions because the packet path of kernel 6.1 and others sees new rules
before new elements (nf_tables_commit: rule blobs are swapped before the generation cursor moves),
and no base chain is re-created because hooks are registered one by one.

Each rule carries a comment: what it is for, and a checksum of its text. A rule is as it should be
when its comment is: nft prints rules differently from version to version, comments and elements
it does not.
"""

from ipaddress import IPv6Address, IPv6Network, summarize_address_range
from typing import Any, NamedTuple

from ..errors import BackendMissing, KernelError
from ..kernel.nft import Nft
from ..model import Nat
from . import gate, netmap, stateless, stay
from .table import HASHED, NOTHING, TYPES, Draft, Hook, Rule, Rules, Ruleset, place, seen
from .words import differences

FAMILY = "ip6"
TABLE = "pdreactor"

MODES = {"netmap": netmap.CHAINS, "stateless": stateless.CHAINS}


def render(nat: Nat) -> Ruleset:
    """The table that does what ``nat`` says; ``place`` puts it into a slot. The chains that
    translate are those of the configured modes, so that none comes or goes with a prefix."""
    hooks = dict(gate.CHAINS)
    for mode, chains in MODES.items():
        hooks.update(chains if mode in nat.modes else {})
    draft = Draft(hooks, stateless.FIXED if "stateless" in nat.modes else {})
    gate.leave_alone(draft, nat)
    if nat.kept is not None:
        stay.render(draft, nat)
    if "netmap" in nat.modes:
        netmap.render(draft, nat)
    if "stateless" in nat.modes:
        stateless.render(draft, nat)
    gate.render(draft, nat)
    return draft.ruleset()


# ---- observe -----------------------------------------------------------------------------------


def observe(nft: Nft, nat: Nat | None = None) -> Ruleset | None:
    """The table as the kernel has it; None when it is not there. Raises BackendMissing where the
    kernel has something that ``nat`` cannot work beside."""
    if nat and "stateless" in nat.modes:
        refuse_flowtables(nft)
    objects = nft.list_table(FAMILY, TABLE)
    return None if objects is None else read(objects)


def refuse_flowtables(nft: Nft) -> None:
    """Raise BackendMissing when there is a flowtable; for mode stateless."""
    if found := nft.flowtables():
        raise BackendMissing(
            f"mode stateless does not work beside the flowtable {found[0]!r}: flows that are "
            f"offloaded there pass by every rule and would leave untranslated; delete it, or use "
            f'mode "netmap"')


def read(objects: list[dict[str, Any]]) -> Ruleset:
    """A Ruleset from libnftables-json(5) objects."""
    found = Ruleset({}, {}, frozenset(), {}, {}, {})
    counters, flags = set(), False
    rules: dict[str, list[Rule]] = {}
    for one in objects:
        (kind, body), *_ = one.items()
        if kind == "table":
            flags = "flags" in body  # nft 1.0.6 prints garbage as their names
        elif kind == "set":
            found.sets[body["name"]] = frozenset(map(_text, body.get("elem", ())))
        elif kind == "map":
            elements = [f"{_text(key)} : {_text(data)}" for key, data in body.get("elem", ())]
            found.maps[body["name"]] = frozenset(elements)
        elif kind == "counter":
            counters.add(body["name"])
        elif kind == "chain":
            found.hooks[body["name"]] = _hook(body)
            rules.setdefault(body["name"], [])
        elif kind == "rule":
            rules.setdefault(body["chain"], []).append(Rule(body.get("comment", "")))
    for name, have in rules.items():
        in_slot = found.hooks[name] == BRANCH and _slot(name)
        (found.branches if in_slot else found.rules)[name] = tuple(have)
        if in_slot or (found.hooks[name] == BRANCH and name in stateless.FIXED):
            del found.hooks[name]
    return found._replace(counters=frozenset(counters), flags=flags)


def stopped(nft: Nft, nat: Nat) -> dict[str, int]:
    """{interface: packets that the guard has stopped there}."""
    counters = nft.counters(FAMILY, TABLE)
    return {one.interface: counters[gate.counter_of(number)]
            for number, one in enumerate(nat.gates) if gate.counter_of(number) in counters}


BRANCH: Hook = ("", "", 0)
"""A chain that others go to."""


def _hook(body: dict[str, Any]) -> Hook:
    if "hook" not in body:
        return BRANCH
    policy = "" if body.get("policy") == "accept" else f", policy {body.get('policy')}"
    return (body.get("type", "") + policy, body.get("hook", ""), body.get("prio", 0))


def _text(element: Any) -> str:
    """A prefix, a single address or a verdict as text; whatever else somebody put there as JSON has
    it. What a raw payload is looked up in has numbers, and prefixes as ranges."""
    if isinstance(element, str):
        return f"{_address(element)}/128"
    kind, value = "", element
    if isinstance(element, dict):
        kind, value = next(iter(element.items()))
    if kind == "prefix":
        return f"{value['addr']}/{value['len']}"
    if kind in ("goto", "jump"):
        return f"{kind} {value['target']}"
    if kind == "range":
        return " ".join(map(str, _networks(*value)))
    return repr(element)


def _address(text: str) -> str:
    return str(IPv6Address(int(text, 0))) if ":" not in text and text[:1].isdecimal() else text


def _networks(first: Any, last: Any) -> tuple[IPv6Network, ...]:
    ends = (IPv6Address(_address(str(end))) for end in (first, last))
    return tuple(summarize_address_range(*ends))


# ---- diff --------------------------------------------------------------------------------------


class Change(NamedTuple):
    """What it takes to get from one table to another."""

    observed: Ruleset | None
    desired: Ruleset


def plan(nat: Nat, observed: Ruleset | None) -> Change | None:
    """The change that is needed; None when the table does what ``nat`` says already."""
    drawn = render(nat)
    if observed is None:
        return Change(None, place(drawn, 1))
    slots = {_slot(name) for name in (*observed.sets, *observed.maps, *observed.branches)}
    free = next(n for n in range(1, len(slots) + 2) if n not in slots)
    wanted = place(drawn, free, NOTHING if _strangers(observed, drawn) else observed)
    return None if same(wanted, observed) else Change(observed, wanted)


def _slot(name: str) -> int:
    number = name.rpartition(".")[2]
    return int(number) if number.isdecimal() else 0


def same(desired: Ruleset, observed: Ruleset) -> bool:
    """True when the kernel has the table as desired."""
    return (_comments(desired.rules) == observed.rules
            and _comments(desired.branches) == observed.branches
            and desired.hooks == observed.hooks and desired.flags == observed.flags
            and desired.counters <= observed.counters
            and desired.sets == observed.sets and desired.maps == observed.maps)


def _comments(chains: Rules) -> Rules:
    return {chain: seen(rules) for chain, rules in chains.items()}


def translated(ruleset: Ruleset | None) -> dict[str, frozenset[str]]:
    """What a table translates, whatever its slot: "outbound" has "INTERNAL : EXTERNAL" texts,
    "inbound" (also from inside: hairpin) has "EXTERNAL : INTERNAL" ones."""
    table = ruleset or NOTHING
    found: dict[str, set[str]] = {"outbound": set(), "inbound": set()}
    for name, elements in table.maps.items():
        kind = name.partition("-")[0]
        if kind in ("out", "in", "turn"):
            found["outbound" if kind == "out" else "inbound"].update(elements)
        elif kind in ("send", "take"):
            found["outbound" if kind == "send" else "inbound"].update(_led(table, elements))
    return {direction: frozenset(texts) for direction, texts in found.items()}


def _led(table: Ruleset, elements: frozenset[str]) -> list[str]:
    """The pairs of a verdict map: the first rule of each chain has its own as a comment."""
    firsts = (table.branches.get(one.rpartition(" ")[2], ())[:1] for one in elements)
    return [rule.comment.rpartition(" ")[0] for first in firsts for rule in first]


def words(change: Change) -> list[str]:
    """The change for people, a line each."""
    before, after = translated(change.observed), translated(change.desired)
    lines = [] if change.observed else [f"create table {FAMILY} {TABLE}"]
    lines += differences("outbound", before["outbound"], after["outbound"])
    lines += differences("inbound", before["inbound"], after["inbound"])
    return lines or [_repair(change)]


def _repair(change: Change) -> str:
    before = change.observed.rules if change.observed else {}
    after = {chain: seen(rules) for chain, rules in change.desired.rules.items()}
    chains = ", ".join(sorted(name for name in {*before, *after}
                              if before.get(name) != after.get(name)))
    if not chains:
        return f"bring table {FAMILY} {TABLE} to what it should be"
    return f"bring the rules of {chains} in table {FAMILY} {TABLE} to what they should be"


# ---- apply -------------------------------------------------------------------------------------


def transactions(change: Change) -> tuple[str, str, str]:
    """The three texts to run in this order: fill what is new, switch the rules, delete the old."""
    return _fill(change), _switch(change), _clean(change)


def _fill(change: Change) -> str:
    lines = [f"add table {FAMILY} {TABLE}"]
    new = _only(change.desired, change.observed or NOTHING)
    if new.branches:
        lines += [f"add chain {FAMILY} {TABLE} {name}" for name in change.desired.rules
                  if name not in change.desired.hooks]
    lines += [f"add chain {FAMILY} {TABLE} {name}" for name in new.branches]
    lines += _additions(new.branches)
    lines += [f"add counter {FAMILY} {TABLE} {name}" for name in sorted(new.counters)]
    lines += [_declare("set", name, "type ipv6_addr", have) for name, have in new.sets.items()]
    lines += [_declare("map", name, TYPES[name.partition("-")[0]], have)
              for name, have in new.maps.items()]
    return "\n".join(lines) + "\n"


def _additions(chains: Rules) -> list[str]:
    return [f'add rule {FAMILY} {TABLE} {name} {rule.text} comment "{rule.comment}"'
            for name, rules in chains.items() for rule in rules]


def _declare(kind: str, name: str, of: str, elements: frozenset[str]) -> str:
    if name.partition("-")[0] in HASHED:
        text, flags = ",".join(sorted(one.removesuffix("/128") for one in elements)), ""
    else:
        text, flags = ",".join(sorted(_keys(of, elements))), "flags interval; "
    return f"add {kind} {FAMILY} {TABLE} {name} {{ {of}; {flags}elements = {{ {text} }}; }}"


def _keys(of: str, elements: frozenset[str]) -> frozenset[str]:
    """Elements as nft takes them: the key of a raw payload is a range of numbers."""
    if not of.startswith("typeof"):
        return elements
    parts = (element.partition(" : ") for element in elements)
    return frozenset(f"{_range(IPv6Network(key))} : {to}" for key, _, to in parts)


def _range(network: IPv6Network) -> str:
    first, last = int(network.network_address), int(network.broadcast_address)
    return f"{first:#034x}" + (f"-{last:#034x}" if last > first else "")


def _only(one: Ruleset, other: Ruleset) -> Ruleset:
    """What is in slots, and the counters, that one table has and the other has not."""
    return NOTHING._replace(
        sets={name: have for name, have in one.sets.items() if name not in other.sets},
        maps={name: have for name, have in one.maps.items() if name not in other.maps},
        counters=one.counters - other.counters,
        branches={name: have for name, have in one.branches.items() if name not in other.branches},
    )


def _switch(change: Change) -> str:
    lines = _without_strangers(change)
    for name in _spare(change.observed or NOTHING, change.desired):
        lines += [f"{verb} chain {FAMILY} {TABLE} {name}" for verb in ("flush", "delete")]
    for name in change.desired.rules:
        lines += [_chain(name, change.desired.hooks.get(name, BRANCH)),
                  f"flush chain {FAMILY} {TABLE} {name}"]
    lines += _additions(change.desired.rules)
    return "\n".join(lines) + "\n"


def _chain(name: str, hook: Hook) -> str:
    if hook == BRANCH:
        return f"add chain {FAMILY} {TABLE} {name}"
    kind, where, priority = hook
    return (f"add chain {FAMILY} {TABLE} {name} "
            f"{{ type {kind} hook {where} priority {priority}; policy accept; }}")


def _without_strangers(change: Change) -> list[str]:
    """Delete the strangers; before that whatever may refer to them, rules and verdict maps."""
    observed = change.observed or NOTHING
    strangers = _strangers(observed, change.desired)
    if not strangers:
        return []
    chains = (*observed.rules, *observed.branches)
    return [*(f"flush chain {FAMILY} {TABLE} {name}" for name in chains),
            *_deletion(observed._replace(counters=frozenset())).splitlines(),
            *(f"delete chain {FAMILY} {TABLE} {name}" for name in strangers)]


def _strangers(observed: Ruleset, desired: Ruleset) -> list[str]:
    """Chains in our table that are not wanted there, or not at that hook."""
    spare = _spare(observed, desired)
    return [name for name in observed.rules
            if name not in spare and (name not in desired.rules or
            observed.hooks.get(name, BRANCH) != desired.hooks.get(name, BRANCH))]


def _spare(observed: Ruleset, desired: Ruleset) -> list[str]:
    """Chains of the guard that have nothing to do now."""
    return [name for name, hook in gate.CHAINS.items()
            if observed.hooks.get(name) == hook and name not in desired.rules]


def _clean(change: Change) -> str:
    old = _only(change.observed or NOTHING, change.desired)
    if _strangers(change.observed or NOTHING, change.desired):  # the switch took these already
        old = old._replace(sets={}, maps={}, branches={})
    return _deletion(old)


def _deletion(ruleset: Ruleset) -> str:
    """Delete sets, maps, chains and counters. A verdict map is emptied first: before kernel 6.5
    only that lets go of its chains within the same transaction (nft_map_deactivate)."""
    leading = [name for name, have in ruleset.maps.items() if TYPES.get(
        name.partition("-")[0], "").endswith("verdict")]
    lines = [f"delete set {FAMILY} {TABLE} {name}" for name in ruleset.sets]
    lines += [f"flush map {FAMILY} {TABLE} {name}" for name in leading]
    lines += [f"delete map {FAMILY} {TABLE} {name}" for name in ruleset.maps]
    lines += [f"delete chain {FAMILY} {TABLE} {name}" for name in ruleset.branches]
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
    for _ in range(LOOKS):
        after = observe(nft, None)
        if after is not None and same(change.desired, after):
            return
    raise KernelError("table ip6 pdreactor is not as it was written: another program changes it at "
                      "the same time; nft monitor shows which")


LOOKS = 2
"""libnftables takes some errors of the kernel for the end of a list."""


def exposed(change: Change) -> bool:
    """True when before this change nothing kept untranslated packets from leaving."""
    observed = change.observed
    if observed is None or observed.flags:
        return True
    rules = [rule for name in ("guard", "postrouting")
             for rule in observed.rules.get(name, ())]
    return not any(rule.comment.startswith(("untranslated ", "outbound ")) for rule in rules)


def _undo(change: Change) -> str:
    if change.observed is None:
        return remove()
    return _deletion(_only(change.desired, change.observed))


def script(nat: Nat) -> str:
    """The whole table as one transaction, whether there is one already or not. Its slots are not
    those of the kernel; a pass finds it as desired all the same."""
    fill, switch, _ = transactions(Change(None, place(render(nat), 1)))
    return f"# Made by pdreactor at each change, for nftables.conf: see pdreactor(8).\n" \
           f"{remove()}\n{fill}{switch}"


def check(nft: Nft, text: str) -> None:
    """Raise KernelError when the kernel would not take the script."""
    nft.check(text, "check what nftables.conf is to include")


def remove() -> str:
    """The transaction that leaves nothing of ours (``add`` first: 1.0.6 has no ``destroy``)."""
    return f"add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}"
