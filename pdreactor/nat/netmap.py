"""Mode netmap: stateful one to one translation by conntrack (nft(8), NAT statements). Pure."""

from ..model import Lane, Nat
from ..prefix import compact
from .table import Draft, Hook, named, outside, stamped, targets

CHAINS: dict[str, Hook] = {
    "prerouting": ("nat", "prerouting", -105),
    "output": ("nat", "output", -105),
    "postrouting": ("nat", "postrouting", 95),
}
"""95 and -105 are before ip6tables (100, -100) and firewalld."""


def render(draft: Draft, nat: Nat) -> None:
    """The rules of all lanes of this mode."""
    draft.rule("prerouting", "own addresses", "fib daddr type local return")
    draft.rule("output", "own addresses", "fib daddr type local return")
    lanes = [lane for lane in nat.lanes if lane.mode == "netmap"]
    for lane in lanes:
        _translate(draft, nat, lane)
        if lane.hairpin:
            _hairpin(draft, nat, lane, lanes)


def _translate(draft: Draft, nat: Nat, lane: Lane) -> None:
    if lane.outbound:
        sources = draft.set(f"from-{named(lane)}", compact(key for key, _ in lane.outbound))
        draft.rule("postrouting", f"outbound {lane.uplink}",
                   f'oifname "{lane.interface}" ip6 saddr {sources} '
                   f"{stamped(nat, 'ct mark', lane.stamp)} snat ip6 prefix to ip6 saddr map "
                   f'{draft.map(f"out-{named(lane)}", lane.outbound)}')
    if lane.inbound:
        there = targets(draft, lane, f"to-{named(lane)}", lane.inbound)
        to = draft.map(f"in-{named(lane)}", lane.inbound)
        draft.rule("prerouting", f"inbound {lane.uplink}",
                   f'iifname "{lane.interface}" {_redirect(nat, lane, there, to)}')


def _hairpin(draft: Draft, nat: Nat, lane: Lane, lanes: list[Lane]) -> None:
    """Internal hosts by their external addresses. What was redirected is known by conntrack's own
    tuple (ct original), not by a packet mark that others could overwrite. The one who asks is
    seen with the external address that it has now."""
    inside = f"!= {outside(nat)}"
    there = targets(draft, lane, f"loop-{named(lane)}", lane.hairpin)
    redirect = _redirect(nat, lane, there, draft.map(f"turn-{named(lane)}", lane.hairpin))
    draft.rule("prerouting", f"hairpin {lane.uplink}", f"iifname {inside} {redirect}")
    draft.rule("output", f"hairpin {lane.uplink}", redirect)
    now = tuple(pair for one in lanes if one.uplink == lane.uplink for pair in one.outbound)
    own = now or tuple((internal, external) for external, internal in lane.hairpin)
    draft.rule("postrouting", f"hairpin {lane.uplink}",
               f"oifname {inside} ct status dnat ct original ip6 daddr {there} "
               f'snat ip6 prefix to ip6 saddr map {draft.map(f"home-{named(lane)}", own)}')


def _redirect(nat: Nat, lane: Lane, there: str, to: str) -> str:
    stamp = stamped(nat, "ct mark", lane.stamp._replace(inbound=True))
    return f"ip6 daddr {there} {stamp} dnat ip6 prefix to ip6 daddr map {to}"
