"""What both variants of ip6tables are told and asked: values, and their text. Pure.

ip6tables.py runs them through ip6tables-restore (the nf_tables variant), libiptc.py through
python-iptables (the legacy variant).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

BUILTIN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


class Rule(NamedTuple):
    """One rule. ``words`` are those of ip6tables(8) behind ``-A CHAIN``, without the comment:
    interface and address matches first, then ``-m NAME --option value ...``, then ``-j TARGET
    --option value ...``. Each ``!`` is a word of its own, before its option."""

    comment: str
    words: tuple[str, ...]


class Seen(NamedTuple):
    """A rule as the kernel has it: its comment ("" without one), where it jumps to ("" for
    nowhere), and whether that is all there is to it: no matches, no options, no comment."""

    comment: str
    target: str
    plain: bool


Chains = dict[str, tuple[Seen, ...]]
"""{chain: its rules in order}. A chain that does not exist is not there."""


class Commit(NamedTuple):
    """A change of one table that the kernel takes as a whole or not at all."""

    table: str
    chains: Mapping[str, tuple[Rule, ...]] = MappingProxyType({})  # made or emptied, and filled
    jump: tuple[tuple[str, str], ...] = ()  # (built-in chain, chain): put a plain jump at its head
    unjump: tuple[tuple[str, str], ...] = ()  # delete one plain jump for each of these
    remove: tuple[str, ...] = ()  # empty and delete these; nothing may jump to them any more

    def __bool__(self) -> bool:
        return bool(self.chains or self.jump or self.unjump or self.remove)


def text(commit: Commit) -> str:
    """The commit as ip6tables-restore(8) takes it with --noflush."""
    lines = [f"*{commit.table}"]
    lines += [f":{chain} - [0:0]" for chain in (*commit.chains, *commit.remove)]
    lines += [f"-D {builtin} -j {chain}" for builtin, chain in commit.unjump]
    lines += [_line(chain, rule) for chain, rules in commit.chains.items() for rule in rules]
    lines += [f"-I {builtin} 1 -j {chain}" for builtin, chain in commit.jump]
    lines += [f"-X {chain}" for chain in commit.remove]
    return "\n".join([*lines, "COMMIT", ""])


def _line(chain: str, rule: Rule) -> str:
    at = rule.words.index("-j")
    comment = ("-m", "comment", "--comment", _quoted(rule.comment)) if rule.comment else ()
    return " ".join(("-A", chain, *rule.words[:at], *comment, *rule.words[at:]))


def _quoted(comment: str) -> str:
    escaped = comment.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
