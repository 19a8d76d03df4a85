"""The layout's part in a pass: what the orchestrator calls, in this order.

    learned      what the kernel shows of prefixes that no DHCPv6 brings, into the state
    Laying       observe and plan; then links, (routes and translation by others,) addresses, rest
"""

import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv6Network

from ..errors import PdreactorError, StateError
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
    placed = set(known.traces.placed if known.traces else ())
    theirs = [one for one, number, _ in observed.addresses if number != config.protocol
              and (one.interface, f"{one.address}/{one.length}") not in placed]
    return sources.learn(known, config, observed.seen, _on_link(theirs, shown), now)


def _on_link(theirs: list[Address], shown: list[Address]) -> dict[str, list[Address]]:
    """One address for each /64 of each interface: of those that others put there the one that lasts
    longest, else what was advertised. What is global only."""
    found: dict[tuple[str, IPv6Network], Address] = {}
    lasting = sorted(theirs, key=lambda one: (_late(one.valid_until), _late(one.preferred_until)),
                     reverse=True)
    for one in (*lasting, *shown):
        network = IPv6Network((one.address, 64), strict=False)
        if one.length == 64 and int(one.address) >> 125 == 1:  # 2000::/3
            found.setdefault((one.interface, network), one)
    by: dict[str, list[Address]] = {}
    for (interface, _), one in sorted(found.items(), key=lambda item: str(item[0])):
        by.setdefault(interface, []).append(one)
    return by


def _late(until: int | None) -> float:
    return float("inf") if until is None else until


class Laying:
    """One pass's part. ``failed`` has what went wrong and did not keep the rest from being done."""

    def __init__(self, config: Config, known: State) -> None:
        plans = config.plans or Plans()
        self._noted, self._keeps = known.traces, config.plans is not None
        self._protocol, self._manage = config.protocol, plans.sysctl
        self.traces = known.traces or Traces()
        now = int(time.time())
        with Rtnl() as rtnl:
            self._observed = laying.observe(rtnl)
        self.layout: Layout = layout(config, known, self._observed.seen, now)
        self.change = laying.plan(self._observed, self.layout, self.traces, manage=plans.sysctl,
                                  protocol=config.protocol, now=now)
        self._ndppd = ndppd.plan(self.layout.ndppd, self.traces.ndppd)
        self.notes = () if plans.sysctl else tuple(laying.unset(self.layout))
        self.notes += self._ndppd.notes
        self.moved: dict[str, tuple[str, str]] = {}  # {tunnel: (old, new) IPv4 address here}
        self.failed: list[PdreactorError] = []
        self.unsaved: StateError | None = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What keeps it from being complete."""
        return self.layout.problems + self.change.problems

    @property
    def words(self) -> list[str]:
        """The change for people."""
        return laying.words(self.change) + self._ndppd.words

    def links(self, update: Update) -> None:
        """First of all. What is put into the kernel is noted before."""
        noted = laying.before(self.traces, self.change)
        self._note(noted._replace(ndppd=noted.ndppd or bool(self._ndppd.write)), update)
        if self.change.make or self.change.change:
            with Rtnl() as rtnl:
                laying.lay_links(rtnl, self.change, self.failed)
        if not self.failed:
            self._follow(update)

    def _follow(self, update: Update) -> None:
        """What others are to be told of: the far end of a tunnel knows this one's address."""
        before, now = dict(self.traces.endpoints), dict(self.layout.endpoints)
        self.moved = {name: (before.get(name, ""), local) for name, local in now.items()
                      if before.get(name) != local}
        wanted = {link.name for link in self.layout.links}
        kept = {name: local for name, local in before.items() if name in wanted}
        self._note(self.traces._replace(endpoints=tuple({**kept, **now}.items())), update)

    def addresses(self, rtnl: Rtnl) -> None:
        """Before the routes that need them."""
        laying.lay_addresses(rtnl, self.change, self._protocol, self.failed)

    def rest(self, rtnl: Rtnl, update: Update) -> None:
        """Last; what is not there any more is forgotten."""
        laying.lay_rest(rtnl, self.change, self.failed)
        _attempt(self._ndppd, self.failed)
        if not self.failed:
            after = laying.after(self.traces, self.layout, manage=self._manage)
            self._note(after._replace(ndppd=after.ndppd and bool(self.layout.ndppd)), update)

    def _note(self, traces: Traces, update: Update) -> None:
        self.traces = traces
        kept = traces if self._keeps or any(traces) else None
        if kept != self._noted:
            self._noted = kept
            try:
                update(partial(_with, traces=kept))
            except StateError as exc:
                self.unsaved = exc  # of a full disk; what is put there has a mark of ours, mostly


def _attempt(change: ndppd.Change, failed: list[PdreactorError]) -> None:
    try:
        ndppd.apply(change)
    except PdreactorError as exc:
        failed.append(exc)


def _with(state: State, traces: Traces | None) -> State:
    return state._replace(traces=traces)


def flush(config: Config, known: State, update: Update) -> None:
    """Take all of it away. Raises the first error."""
    failed: list[PdreactorError] = []
    with Rtnl() as rtnl:
        change = laying.plan(laying.observe(rtnl), Layout(), known.traces or Traces(),
                             manage=False, protocol=config.protocol, now=int(time.time()))
        laying.lay_addresses(rtnl, change, config.protocol, failed)
        laying.lay_rest(rtnl, change, failed)
    _attempt(ndppd.plan((), bool(known.traces and known.traces.ndppd)), failed)
    if failed:
        raise failed[0]
    if known.traces is not None:
        update(partial(_with, traces=None))
