"""A flow stays on the uplink that it is on: its stamp becomes a packet mark, which a policy rule
leads to that uplink's table (steering.py). Pure.

Marked is what comes from inside and belongs to a flow that began there and left by an uplink, or
that came in by one. A flow between two hosts inside by an external address (hairpin) carries the
stamp of one that came in, and begins inside: nothing of it leaves.
"""

from .. import marks
from ..model import Nat
from .table import Draft, Hook, outside

CHAINS: dict[str, Hook] = {
    "stay": ("filter", "prerouting", -149),
    "stay-local": ("route", "output", -149),
}
"""After conntrack (-200) and after what others restore in ip6tables' mangle (-150), before routing;
a route chain has the router's own packets routed anew."""


def render(draft: Draft, nat: Nat) -> None:
    """The chains, and the rules for all uplinks whose flows are kept."""
    draft.chains(CHAINS)
    draft.rule("stay", "from outside", f"iifname {outside(nat)} return")
    inside = nat.gates[0].internal  # the same for every interface
    sources = str(inside[0]) if len(inside) == 1 else draft.set("inside-0", inside)
    for chain in CHAINS:
        for number in nat.kept or ():
            _mark(draft, nat, chain, number, sources)


def _mark(draft: Draft, nat: Nat, chain: str, number: int, inside: str) -> None:
    value, mask = marks.staying(number, nat.mask)
    begun_inside, begun_outside = (f"ct mark & {mask:#010x} == {value | bit:#010x} "
                                   for bit in (0, nat.mask & -nat.mask))
    mark = f"meta mark set meta mark & {~nat.mask & 0xFFFFFFFF:#010x} | {value:#010x} return"
    draft.rule(chain, f"begun inside, by uplink {number}",
               f"{begun_inside}ct direction original {mark}")
    draft.rule(chain, f"begun outside, by uplink {number}", f"{begun_outside}ct direction reply "
               f"ct original ip6 saddr != {inside} {mark}")
