"""The layout's part in a pass: what the orchestrator calls, in this order.

    learned      what the kernel shows of prefixes that no DHCPv6 brings, into the state
    Laying       observe and plan; then links, (routes and translation by others,) addresses, rest
"""

import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv6Network

from ..errors import PdreactorError
from ..kernel import rtlink
from ..kernel.rtnl import Rtnl
from ..model import ONLINK, SIXRD, SIXTOFOUR, Config, Problem, State
from . import laying, ndppd, sources
from .draft import layout
from .model import Address, Layout, Plans, Traces

Update = Callable[[Callable[[State], State]], State]
"""Changes the state file; see reconciler.update."""


def wanted(config: Config, known: State) -> bool:
    """True when there is anything to do here."""
    return (config.plans is not None or known.traces is not None
            or any(uplink.source in (ONLINK, SIXTOFOUR, SIXRD) for uplink in config.uplinks))


def learned(known: State, config: Config, now: int) -> State:
    """The state with the prefixes that the kernel shows just now."""
    if all(uplink.source not in (ONLINK, SIXTOFOUR, SIXRD) for uplink in config.uplinks):
        return known
    with Rtnl() as rtnl:
        observed = laying.observe(rtnl)
        shown = rtlink.advertised(rtnl)
    traces = known.traces or Traces()
    ours = set(traces.placed)
    return sources.learn(known, config, observed.seen,
                         _on_link(observed.addresses, shown, ours), now)


def _on_link(addresses: tuple[Address, ...], shown: list[Address],
             ours: set[tuple[str, str]]) -> dict[str, list[Address]]:
    """One address for each /64 of each interface: of those that others put there, else what was
    advertised. What is global only."""
    found: dict[tuple[str, IPv6Network], Address] = {}
    theirs = [one for one in addresses
              if one.length == 64 and (one.interface, f"{one.address}/64") not in ours]
    for one in (*theirs, *shown):
        network = IPv6Network((one.address, 64), strict=False)
        if int(one.address) >> 125 == 1:  # 2000::/3
            found.setdefault((one.interface, network), one)
    by: dict[str, list[Address]] = {}
    for (interface, _), one in sorted(found.items(), key=lambda item: str(item[0])):
        by.setdefault(interface, []).append(one)
    return by


class Laying:
    """One pass's part. ``failed`` has what went wrong and did not keep the rest from being done."""

    def __init__(self, config: Config, known: State) -> None:
        plans = config.plans or Plans()
        self._noted, self._keeps = known.traces, config.plans is not None
        self.traces = known.traces or Traces()
        now = int(time.time())
        with Rtnl() as rtnl:
            self._observed = laying.observe(rtnl)
        self.layout: Layout = layout(config, known, self._observed.seen, now)
        self.change = laying.plan(self._observed, self.layout, self.traces, manage=plans.sysctl,
                                  now=now)
        self._ndppd = ndppd.plan(self.layout.ndppd, self.traces.ndppd)
        self.notes = () if plans.sysctl else tuple(laying.unset(self.layout))
        self.notes += self._ndppd.notes
        self.failed: list[PdreactorError] = []

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What keeps it from being complete."""
        return self.layout.problems

    @property
    def words(self) -> list[str]:
        """The change for people."""
        return laying.words(self.change) + self._ndppd.words

    def links(self, update: Update) -> None:
        """First of all. What is put into the kernel is noted before."""
        noted = laying.before(self.traces, self.change)
        self._note(noted._replace(ndppd=noted.ndppd or bool(self._ndppd.write)), update)
        if self.change.make or self.change.change or self.change.strangers:
            with Rtnl() as rtnl:
                laying.lay_links(rtnl, self.change, self.failed)

    def addresses(self, rtnl: Rtnl) -> None:
        """Before the routes that need them."""
        laying.lay_addresses(rtnl, self.change, self.failed)

    def rest(self, rtnl: Rtnl, update: Update) -> None:
        """Last; what is not there any more is forgotten."""
        laying.lay_rest(rtnl, self.change, self.failed)
        _attempt(self._ndppd, self.failed)
        if not self.failed:
            after = laying.after(self.traces, self.layout, self.change)
            self._note(after._replace(ndppd=after.ndppd and bool(self.layout.ndppd)), update)

    def _note(self, traces: Traces, update: Update) -> None:
        self.traces = traces
        kept = traces if self._keeps or any(traces) else None
        if kept != self._noted:
            self._noted = kept
            update(partial(_with, traces=kept))


def _attempt(change: ndppd.Change, failed: list[PdreactorError]) -> None:
    try:
        ndppd.apply(change)
    except PdreactorError as exc:
        failed.append(exc)


def _with(state: State, traces: Traces | None) -> State:
    return state._replace(traces=traces)


def flush(known: State, update: Update) -> None:
    """Take all of it away. Raises the first error."""
    failed: list[PdreactorError] = []
    with Rtnl() as rtnl:
        change = laying.plan(laying.observe(rtnl), Layout(), known.traces or Traces(),
                             manage=False, now=int(time.time()))
        laying.lay_addresses(rtnl, change, failed)
        laying.lay_rest(rtnl, change, failed)
    _attempt(ndppd.plan((), bool(known.traces and known.traces.ndppd)), failed)
    if failed:
        raise failed[0]
    if known.traces is not None:
        update(partial(_with, traces=None))
