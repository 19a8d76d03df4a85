"""What may not leave untranslated, and what is never translated nor guarded. Pure."""

from collections.abc import Iterator
from ipaddress import IPv6Network

from ..model import Gate, Lane, Nat
from .table import Draft, Hook, named

CHAINS: dict[str, Hook] = {
    "guard": ("filter", "postrouting", 310),
    "forward": ("filter", "forward", -5),
}
"""310 is after everything that rewrites, but for mode stateless, which does so in this very chain;
a reject is not possible there, hence the other one. It is there while it has a rule: also an
empty chain costs each packet a hundredth of what forwarding it costs."""


def leave_alone(draft: Draft, nat: Nat) -> None:
    """Never translated nor guarded: IPsec (rt_policy), the bypass. (Rules of the chain "guard" ask
    for IPsec themselves.)"""
    for chain, (_, hook, _) in draft.hooks.items():
        if hook == "prerouting":
            draft.rule(chain, "decrypted by IPsec", "meta ipsec exists return")
        elif hook != "input" and chain != "guard":
            draft.rule(chain, "IPsec policy", "rt ipsec exists return")
    for number, gate in enumerate(nat.gates):
        if gate.bypass:
            name = _bypass(draft, gate, number)
            for chain, (_, hook, _) in draft.hooks.items():
                if hook in ("postrouting", "forward"):
                    draft.rule(chain, f"bypass {gate.interface}",
                               f'oifname "{gate.interface}" ip6 daddr {name} return')


def counter_of(number: int) -> str:
    """The counter of what the guard stops at a gate."""
    return f"guard-{number}"


def _bypass(draft: Draft, gate: Gate, number: int) -> str:
    return draft.set(f"bypass-{number}", gate.bypass)


def render(draft: Draft, nat: Nat) -> None:
    """What is left untranslated does not leave; what cannot be translated is told so (RFC 7084
    L-14)."""
    exempt = len(draft.rules["forward"])
    for number, gate in enumerate(nat.gates):
        if nat.guard:
            _guard(draft, gate, number)
        for lane in nat.lanes:
            if lane.interface == gate.interface and lane.closed:
                _close(draft, gate, number, lane)
    if len(draft.rules["forward"]) == exempt:  # exempt from nothing
        draft.leave_out("forward")


def _guard(draft: Draft, gate: Gate, number: int) -> None:
    leaving, counter = f'oifname "{gate.interface}" ip6 saddr', counter_of(number)
    for sources in _at_once(draft, f"guarded-{number}", gate.internal):
        draft.counters.add(counter)
        draft.rule("guard", f"untranslated {gate.interface}",
                   f"{leaving} {sources} rt ipsec missing counter name {counter} drop")
    for sources in _at_once(draft, f"foreign-{number}", gate.foreign):
        draft.rule("guard", f"other uplink's source {gate.interface}",
                   f"{leaving} {sources} rt ipsec missing drop")
    reject = "reject with icmpv6 type policy-fail"
    if gate.unserved:  # answers of inbound flows still have their internal source here
        name = draft.set(f"unserved-{number}", gate.unserved)
        draft.rule("forward", f"no usable prefix {gate.interface}",
                   f"{leaving} {name} ct direction original {reject}")
    if gate.untracked:
        name = draft.set(f"untracked-{number}", gate.untracked)
        draft.rule("forward", f"no usable prefix {gate.interface}", f"{leaving} {name} {reject}")


def _at_once(draft: Draft, name: str, networks: tuple[IPv6Network, ...]) -> Iterator[str]:
    """What matches addresses in these networks, for each length. It holds from the moment on in
    which a transaction makes it anew, as a reload does: what is in a set of intervals is not found
    for a moment then (seen with kernel 6.18), and the guard would let a packet pass."""
    for length in sorted({network.prefixlen for network in networks}):
        same = [network for network in networks if network.prefixlen == length]
        if len(same) == 1:
            yield str(same[0])
        else:
            mask = "" if length == 128 else f"& {same[0].netmask} "
            yield mask + draft.addresses(f"{name}-{length}", same)


def _close(draft: Draft, gate: Gate, number: int, lane: Lane) -> None:
    """inbound = false where the destination is rewritten before conntrack: only answers pass."""
    others = f"ip6 saddr != {_bypass(draft, gate, number)} " if gate.bypass else ""
    name = draft.set(f"closed-{named(lane)}", lane.closed)
    for chain in ("forward", "local-in"):  # the router has an internal address as well
        draft.rule(chain, f"no inbound {lane.uplink}",
                   f'iifname "{gate.interface}" ip6 daddr {name} {others}'
                   f"ct state != {{ established, related }} reject with icmpv6 type no-route")
