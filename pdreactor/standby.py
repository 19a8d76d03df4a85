"""``export`` and ``import``: the learned state goes to another node, or comes from one."""

import os
import time
from typing import Any

from . import handover, lineage, log, reconciler, state
from .kernel.link import on_link
from .model import Config, State


def export(config: Config) -> dict[str, Any]:
    """The document for another node. The first call gives this node its id."""
    now = int(time.time())
    known = reconciler.update(config, _identified)
    return handover.document(reconciler.current(known, config), config, os.uname().nodename, now)


def take(config: Config, raw: bytes, *, force: bool = False) -> None:
    """Put a document into the state, and make a pass. Raises Refused; nothing is changed then."""
    now = int(time.time())
    told = handover.parse(raw, now)
    notes: tuple[str, ...] = ()
    changed, unsaved = False, None

    def change(before: State) -> State:
        nonlocal notes, changed
        before = _identified(before)
        ours = before.traces.placed if before.traces else ()
        near = {uplink.name: on_link(uplink.interface, ours) for uplink in config.uplinks}
        after, notes = lineage.taken(before, told, config, now, near, force)
        changed = after is not before
        return after

    try:
        reconciler.update(config, change)
    except state.Unsaved as exc:
        unsaved = exc
    try:
        reconciler.reconcile(config, "import", unsaved)
    finally:
        for note in notes:
            log.warning(note)
        if changed:
            log.info("imported", node=told.name, generation=told.generation)


def _identified(before: State) -> State:
    return lineage.identified(before, os.urandom(8).hex())
