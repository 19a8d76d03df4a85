"""The layout's part in a pass: what the orchestrator calls, in this order.

    learned      what the kernel shows of prefixes that no DHCPv6 brings, into the state
    Laying       observe and plan; then links, (routes and translation by others,) addresses, rest
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import IPv6Network
from typing import Any

from ..errors import PdreactorError, StateError
from ..kernel import rtlink
from ..kernel.rtnl import Rtnl
from ..model import ONLINK, SIXRD, SIXTOFOUR, Config, Problem, State
from . import laying, ndppd, shown, sources
from .draft import layout
from .model import Address, Layout, Plans, Shown, Traces

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
        advertised = rtlink.advertised(rtnl)
    placed = set(known.traces.placed if known.traces else ())
    theirs = [one for one, number, _ in observed.addresses if number != config.protocol
              and (one.interface, f"{one.address}/{one.length}") not in placed]
    return sources.learn(known, config, observed.seen, _on_link(theirs, advertised), now)


def _on_link(theirs: list[Address], told: list[Address]) -> dict[str, Shown]:
    """What is on each link of /64s, each once, with its longest lifetimes: those that were
    advertised, else those of addresses with a lifetime, else those of other addresses."""
    advertised, lasting, written = _by_link(told), *(
        _by_link(one for one in theirs if (one.valid_until is None) == forever)
        for forever in (False, True))
    found = {}
    for interface in (*advertised, *lasting, *written):
        firm = advertised.get(interface) or lasting.get(interface)
        known = lasting.get(interface, {})  # the preferred lifetime only an address has
        among = firm or written[interface]
        found[interface] = Shown(tuple(known.get(net, one) for net, one in sorted(among.items())),
                                 bool(firm))
    return found


def _by_link(addresses: Iterable[Address]) -> dict[str, dict[IPv6Network, Address]]:
    """{interface: {its global /64s: the address there that lasts longest}}."""
    by: dict[str, dict[IPv6Network, Address]] = {}
    for one in sorted(addresses, key=lambda one: (_late(one.valid_until),
                                                  _late(one.preferred_until))):
        if one.length == 64 and int(one.address) >> 125 == 1:  # 2000::/3
            network = IPv6Network((one.address, 64), strict=False)
            by.setdefault(one.interface, {})[network] = one
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
        """The change for people; afterwards what of it was done."""
        return laying.words(self.change) + self._ndppd.words

    def document(self, now: int) -> dict[str, Any]:
        """What ``status`` shows of it."""
        there = {(one.interface, one.address): one for one, *_ in self._observed.addresses}
        return shown.document(self.layout, self._observed.links, there,
                              set(self._observed.neighbours), now)

    def links(self, update: Update) -> None:
        """First of all. What is put into the kernel is noted before."""
        noted = laying.before(self.traces, self.change)
        self._note(noted._replace(ndppd=noted.ndppd or bool(self._ndppd.write)), update)
        if self.change.make or self.change.change:
            with Rtnl() as rtnl:
                wanted = self.change.make
                self.change = laying.lay_links(rtnl, self.change, self.failed)
                self._without({one.name for one in wanted if not rtnl.index(one.name)})
        if not self.failed:
            before = dict(self.traces.endpoints)
            self.moved = {name: (before.get(name, ""), local)
                          for name, local in self.layout.endpoints if before.get(name) != local}

    def _without(self, links: set[str]) -> None:
        """Nothing can be on links that the kernel did not make, and why not is said once."""
        self.change = self.change._replace(
            put=tuple(one for one in self.change.put if one.interface not in links))
        self.layout = self.layout._replace(
            routes=tuple(one for one in self.layout.routes if one.interface not in links))

    def told(self, update: Update) -> None:
        """Others are told by now of what moved: the far end of a tunnel knows this one's
        address."""
        before = dict(self.traces.endpoints)
        now = {name: local for name, (_, local) in self.moved.items()}
        wanted = {link.name for link in self.layout.links}
        kept = {name: local for name, local in before.items() if name in wanted}
        self._note(self.traces._replace(endpoints=tuple({**kept, **now}.items())), update)

    def addresses(self, rtnl: Rtnl) -> None:
        """Before the routes that need them."""
        self.change = laying.lay_addresses(rtnl, self.change, self._protocol, self.failed)

    def rest(self, rtnl: Rtnl, update: Update) -> None:
        """Last; what is not there any more is forgotten."""
        self.change = laying.lay_rest(rtnl, self.change, self.failed)
        if not _attempt(self._ndppd, self.failed):
            self._ndppd = ndppd.Change()
        after = laying.after(self.traces, self.layout, self._observed, manage=self._manage,
                             failed=bool(self.failed))
        if not self.failed:
            after = after._replace(ndppd=after.ndppd and bool(self.layout.ndppd))
        self._note(after, update)

    def _note(self, traces: Traces, update: Update) -> None:
        self.traces = traces
        kept = traces if self._keeps or any(traces) else None
        if kept != self._noted:
            self._noted = kept
            try:
                update(partial(_with, traces=kept))
            except StateError as exc:
                self.unsaved = exc  # of a full disk; what is put there has a mark of ours, mostly


def _attempt(change: ndppd.Change, failed: list[PdreactorError]) -> bool:
    try:
        ndppd.apply(change)
    except PdreactorError as exc:
        failed.append(exc)
        return False
    return True


def _with(state: State, traces: Traces | None) -> State:
    return state._replace(traces=traces)


def flush(config: Config, known: State, update: Update) -> None:
    """Take all of it away; what was learned stays. Raises the first error."""
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
        kept = Traces(sixrd=known.traces.sixrd, slices=known.traces.slices)
        update(partial(_with, traces=kept if any(kept) else None))
