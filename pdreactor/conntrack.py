"""Flows that must move: those of dead prefix generations, found by their stamp, and those that
began untranslated. No other flow is touched."""

from collections.abc import Iterable
from typing import NamedTuple

from . import log, marks
from .kernel import ct
from .kernel.rtnl import Rtnl
from .model import Nat, Stamp


class Removed(NamedTuple):
    """How many flows, and a line for people where there is something to tell."""

    flows: int
    lines: list[str]


def remove_doomed(doomed: Iterable[Stamp], mask: int) -> Removed:
    """Remove the flows with these stamps: the kernel filters, whatever the table's size."""
    found = [(marks.pack(s, mask), mask) for s in doomed
             if s.uplink <= marks.uplinks(mask) and s.generation < marks.generations(mask)]
    flows = ct.flush(found)
    return Removed(flows, [f"remove the conntrack entries of {len(found)} dead generation(s)"]
                   if found else [])


def remove_all(mask: int) -> None:
    """Remove every flow that carries a stamp of ours."""
    ct.flush(marks.of_uplink(number, mask) for number in range(1, marks.uplinks(mask) + 1))


def remove_untranslated(nat: Nat) -> Removed:
    """Remove flows of internal hosts by an uplink that conntrack took in without translation,
    while nothing was in place or another mode was: the guard would stop them as long as they go
    on. (In a mode without connection tracking all flows are like that.)"""
    internal = [net for lane in nat.lanes if lane.mode == "netmap" for net, _ in lane.outbound]
    near = [net for gate in nat.gates for net in gate.bypass]
    near += [lane.delegated for lane in nat.lanes]
    with Rtnl() as rtnl:
        uplinks = {rtnl.index(gate.interface) for gate in nat.gates} - {0}
        count = ct.remove_untranslated(
            internal, near, lambda target: rtnl.interface_to(target) in uplinks)
    if count < 0:
        log.warning(f"conntrack has more than {ct.MOST_READ} entries: flows that began "
                    f"untranslated are not looked for, they end by their time-outs")
    return Removed(max(0, count), [f"remove {count} conntrack entries that began untranslated"]
                   if count > 0 else [])
