"""Flows that must move: those of dead prefix generations, found by their stamp, and those that
began untranslated. No other flow is touched."""

from collections.abc import Iterable

from . import marks
from .kernel import ct
from .model import Nat, Stamp, State


def remove_doomed(doomed: Iterable[Stamp], mask: int) -> list[str]:
    """Remove the flows with these stamps: the kernel filters, whatever the table's size."""
    found = [marks.pack(s, mask) for s in doomed
             if s.uplink <= marks.uplinks(mask) and s.generation < marks.generations(mask)]
    ct.flush(found, mask)
    return [f"remove the conntrack entries of {len(found)} dead generation(s)"] if found else []


def remove_all(known: State, mask: int) -> None:
    """Remove every flow that carries a stamp of ours."""
    stamps = [Stamp(uplink.number, generation, inbound) for uplink in known.uplinks.values()
              for generation in range(marks.generations(mask)) for inbound in (False, True)]
    remove_doomed(stamps, mask)


def remove_untranslated(nat: Nat) -> list[str]:
    """Remove flows from internal sources to the world that conntrack took in without translation,
    while the table was missing: the guard would stop them for as long as they go on."""
    internal = [net for gate in nat.gates for net in gate.internal]
    near = [net for gate in nat.gates for net in gate.bypass]
    near += [lane.delegated for lane in nat.lanes]
    count = ct.remove_untranslated(internal, near, nat.mask)
    return [f"remove {count} conntrack entries that began untranslated"] if count else []
