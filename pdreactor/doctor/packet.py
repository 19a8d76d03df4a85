"""What a firewall may do to a packet of which not everything is known. Pure.

A rule matches for sure, or may match, or does not; so a chain has several possible outcomes. What
is not among them cannot happen.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv6Network
from typing import NamedTuple

from .facts import Chain, Match

NO, MAYBE, YES = 0, 1, 2
DEEPEST = 16
"""Jumps within jumps that are followed: as many as the kernel allows (NFT_JUMP_STACK_SIZE)."""


class Packet(NamedTuple):
    """What is known of it; None is unknown."""

    iif: str | None = None
    oif: str | None = None
    saddr: IPv6Network | None = None
    daddr: IPv6Network | None = None
    state: str | None = "new"
    status: frozenset[str] = frozenset()


def outcomes(chain: Chain, packet: Packet, chains: Mapping[tuple[str, str, str], Chain],
             ours: frozenset[str] = frozenset()) -> frozenset[str]:
    """All that may become of it in this base chain: accept, drop, nat (its source is rewritten),
    and "ours" where it is handed to a chain of ours."""
    found = _walk(chain, packet, chains, ours, {}, 0)
    if "continue" in found:
        found = (found - {"continue"}) | {chain.policy}
    return found


def index(chains: Iterable[Chain]) -> dict[tuple[str, str, str], Chain]:
    """The chains, to be found by those who jump to them."""
    return {(one.program, one.table, one.name): one for one in chains}


def _walk(chain: Chain, packet: Packet, chains: Mapping[tuple[str, str, str], Chain],
          ours: frozenset[str], known: dict[str, frozenset[str]], depth: int) -> frozenset[str]:
    if chain.name in known:
        return known[chain.name]
    possible: set[str] = set()
    for step in chain.steps:
        sure = matched(step.matches, packet)
        if sure == NO or not step.verdict:
            continue
        ends = _ends(chain, step.verdict, step.target, packet, chains, ours, known, depth)
        possible |= ends - {"continue"}
        if sure == YES and "continue" not in ends:
            break
    else:
        possible.add("continue")
    if "return" in possible:
        possible = (possible - {"return"}) | {"continue"}
    known[chain.name] = frozenset(possible)
    return known[chain.name]


def _ends(chain: Chain, verdict: str, target: str, packet: Packet,
          chains: Mapping[tuple[str, str, str], Chain], ours: frozenset[str],
          known: dict[str, frozenset[str]], depth: int) -> frozenset[str]:
    if verdict not in ("jump", "goto"):
        return frozenset({verdict})
    if target in ours:
        return frozenset({"ours"})
    below = chains.get((chain.program, chain.table, target))
    if below is None or depth == DEEPEST:
        return frozenset({"accept", "drop", "continue"})
    found = _walk(below, packet, chains, ours, known, depth + 1)
    if verdict == "goto" and "continue" in found:
        return (found - {"continue"}) | {"return"}
    return found


# ---- matches ---------------------------------------------------------------------------------


def matched(matches: Iterable[Match], packet: Packet) -> int:
    """Whether all of them match: NO, MAYBE or YES."""
    return min((_matches(match, packet) for match in matches), default=YES)


def _matches(match: Match, packet: Packet) -> int:
    if match.values is None:
        return MAYBE
    sure = _among(match.key, match.values, packet)
    return sure if match.equal else YES - sure


def _among(key: str, values: frozenset[str], packet: Packet) -> int:
    if key == "family":
        return YES if values & {"ipv6", "ip6"} else NO
    if key in ("iif", "oif"):
        name = packet.iif if key == "iif" else packet.oif
        return MAYBE if name is None else _yes(any(_named(name, value) for value in values))
    if key in ("saddr", "daddr"):
        return _inside(packet.saddr if key == "saddr" else packet.daddr, values)
    if key == "state":
        return _state(packet, values)
    if key == "status" and values == {"dnat"}:
        return _yes("dnat" in packet.status)
    return MAYBE


def _state(packet: Packet, values: frozenset[str]) -> int:
    """ip6tables' --ctstate takes SNAT and DNAT too."""
    if packet.state is None or "snat" in values:
        return MAYBE
    return _yes(packet.state in values or ("dnat" in values and "dnat" in packet.status))


def _yes(truth: bool) -> int:
    return YES if truth else NO


def _named(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _inside(network: IPv6Network | None, values: frozenset[str]) -> int:
    if network is None:
        return MAYBE
    best = NO
    for value in values:
        try:
            other = IPv6Network(value, strict=False)
        except ValueError:
            best = max(best, MAYBE)  # a range
            continue
        if network.subnet_of(other):
            return YES
        best = max(best, MAYBE if network.overlaps(other) else NO)
    return best
