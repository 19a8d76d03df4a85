"""The only orchestrator: load -> desired -> observe -> plan -> apply -> verify.

A pass is the same whoever asks for it (hook, ``restore``, ``set``): it begins by looking, and
what is as desired already is not touched. The translation comes first, for it is what users wait
for; routes, conntrack, log and commands come after it, and so do their imports.
"""

import time
from collections.abc import Callable, Container
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from . import document, log, state, transition
from .desired import desired
from .errors import PdreactorError, PermissionDenied, StateError
from .kernel.link import links, with_ipv4
from .model import ONLINK, SIXRD, SIXTOFOUR, Config, Desired, Problem, State
from .nat import Firewall, begin

if TYPE_CHECKING:
    from . import on_change
    from .layout.steps import Laying
    from .ways import Steering

STATE_WAIT = 10.0
PASS_WAIT = 30.0
"""Seconds that one pdreactor waits for another: to write the state, and to change the kernel."""


Step = Callable[["_Work"], list[str]]
"""A part of the pass; returns what it changed, for people."""


class Outcome(NamedTuple):
    """What a pass did: lines for people, and what is still wrong."""

    changes: tuple[str, ...]
    problems: tuple[Problem, ...]


def update(config: Config, change: Callable[[State], State]) -> State:
    """Change the state file below its own short lock; it is not written when nothing changes.

    Raises Unsaved, which has the state, when it cannot be written.
    """
    with state.Lock(config.state_dir, "state.lock", STATE_WAIT):
        before, damage = state.load(config.state_dir)
        after = change(before)
        if after != before or damage:
            try:
                state.sweep(config.state_dir)
                state.save(config.state_dir, after)
            except (StateError, PermissionDenied) as exc:
                raise state.Unsaved(after, exc) from exc
    if damage:
        log.warning(damage)
    return after


# ---- the pass ------------------------------------------------------------------------------------


def reconcile(config: Config, reason: str, unsaved: state.Unsaved | None = None,
              commands: "on_change.Run | None" = None) -> Outcome:
    """One pass. Raises what went wrong, after everything else that could be done was done.

    With ``unsaved`` the state is what could not be written just now. ``commands`` runs the commands
    of on_change in another way than here and now.
    """
    errors: list[PdreactorError] = [unsaved] if unsaved else []
    with state.Lock(config.state_dir, "pass.lock", PASS_WAIT, shared=True) as lock:
        begun = begin(config)
        known = current(unsaved.known, config, errors) if unsaved else _up_to_date(config, errors)
        laying = _lay_links(config, known, errors) if _makes_links(config) else None
        work = _Work(config, known, links_of(config), begun, laying)
        changes: list[str] = []
        for step in _steps(work):
            try:
                changes += step(work)
            except PdreactorError as exc:
                errors.append(exc)
                if step is _switch_nat:
                    raise
            errors += work.failed
            work.failed.clear()
        if work.laying:
            changes += work.laying.words
        if changes:
            from . import counters

            counters.add(config.state_dir, changes=1, flows_removed=work.removed)
        if not errors:
            lock.touch()
    document.keep()
    if changes:
        log.info("changed", reason=reason, changes=changes)
    if work.told:
        from . import on_change

        (commands or on_change.run)(config, reason, work.told)
    for further in dict.fromkeys(str(exc) for exc in errors[1:]):
        if further != str(errors[0]):
            log.error(further)
    if errors:
        raise errors[0]
    return Outcome(tuple(changes), work.problems)


def _has_layout(config: Config, known: State) -> bool:
    """True where there is one, or what a former one has left."""
    return config.plans is not None or known.traces is not None


def _makes_links(config: Config) -> bool:
    """Links are there before anything looks at them; all else of the layout has time."""
    return config.plans is not None and bool(
        config.plans.tunnels or any(one.create for one in config.plans.assigns))


def _lay_links(config: Config, known: State, errors: list[PdreactorError]) -> "Laying | None":
    """The layout's part in this pass is begun: what it will change is known."""
    if not _has_layout(config, known):
        return None
    from .layout.steps import Laying

    try:
        laying = Laying(config, known)
        laying.links(partial(update, config))
    except PdreactorError as exc:
        errors.append(exc)
        return None
    return laying


def _steps(work: "_Work") -> tuple[Step, ...]:
    """The translation is what users wait for. But where new flows only have to be led to another
    uplink, which translates already, that comes first."""
    nat, routes = (_switch_nat, _finish_nat), (_begin_layout, _reconcile_routes)
    rest = (_clean_conntrack, _note_applied, _keep_include)
    if _leads_elsewhere(work):
        return (*routes, *nat, *rest)
    return (*nat, *routes, *rest)


def _leads_elsewhere(work: "_Work") -> bool:
    if not work.known.leading or all(uplink.table is None for uplink in work.config.uplinks):
        return False
    from .steering import steering
    from .ways import Path

    found = {name: Path(True) for name in work.links}  # the kernel is asked later
    wanted = steering(work.config, work.known, work.links, found, work.wanted)
    translated = {name for name, networks in work.known.applied if networks}
    before = dict(work.known.leading)
    changed = {new for internal, new in wanted.leading if before.get(internal) != new}
    return bool(changed) and changed - {""} <= translated


def _up_to_date(config: Config, errors: list[PdreactorError]) -> State:
    try:
        return update(config, lambda before: current(before, config, errors))
    except state.Unsaved as exc:
        errors.append(exc)
        return exc.known
    except StateError:
        guard_at_least(config)
        raise


def guard_at_least(config: Config) -> None:
    """The state cannot be read: what is in the kernel stays. At boot that is nothing, and then it
    gets the guard."""
    nothing = desired(config, State({}), links_of(config), int(time.time())).nat
    try:
        for part in Firewall(config, nothing, ()).plan():
            if part.exposed:
                part.apply()
    except PdreactorError:
        pass  # why the state cannot be read is what counts


def current(known: State, config: Config, errors: list[PdreactorError] | None = None) -> State:
    """The state brought up to now: lifetimes that ended, static prefixes, what the kernel shows,
    the shell script's. When the kernel shows nothing for an error, and there is a list for those,
    the rest counts."""
    now = int(time.time())
    known = transition.after_configuration(transition.after_time(known, config, now), config, now)
    if any(uplink.source in OBSERVED for uplink in config.uplinks):
        try:
            from .layout.steps import learned

            known = learned(known, config, now)
        except PdreactorError as exc:
            if errors is None:
                raise
            errors.append(exc)
    if not known.uplinks and len(config.uplinks) == 1:
        from .legacy import adopt

        known = adopt(known, config, now)
    return known


OBSERVED = (ONLINK, SIXTOFOUR, SIXRD)
"""Sources of prefixes that no event tells: the kernel shows them."""


def wish(config: Config, known: State) -> Desired:
    """What the firewall should do just now."""
    return desired(config, known, links_of(config), int(time.time()))


def links_of(config: Config) -> dict[str, bool]:
    """{interface of an uplink: up with carrier}; a tunnel is only while what carries it is, and
    has an IPv4 address."""
    names = dict.fromkeys(uplink.interface for uplink in config.uplinks)
    under = {one.name: one.underlay for one in (config.plans.tunnels if config.plans else ())
             if one.name in names and one.underlay}
    found = links((*names, *under.values()))
    carrying = {name for name in with_ipv4(under.values()) if found.get(name)} if under else set()
    return {name: found[name] and (name not in under or under[name] in carrying)
            for name in names if name in found}


class _Work:
    """What one pass works with. ``known`` is the state as it is by now, ``before`` as it was."""

    def __init__(self, config: Config, known: State, links: dict[str, bool], begun: Any,
                 laying: "Laying | None") -> None:
        self.config, self.known, self.links = config, known, links
        self.laying = laying
        self.wanted = wanted = desired(config, known, links, int(time.time()))
        self.before = known
        self.problems = wanted.problems + (laying.problems if laying else ())
        self.exposed = known.exposed
        self.told: list[dict[str, str]] = []  # variables for on_change, by uplink
        self.removed = 0  # flows, from conntrack
        self.failed: list[PdreactorError] = []  # what did not keep a step from doing the rest
        self.firewall = Firewall(config, wanted.nat, known.held, begun)


def _switch_nat(work: _Work) -> list[str]:
    """The part that users wait for."""
    lines: list[str] = []
    _note_held(work)
    for part in work.firewall.plan():
        if work.firewall.exposed and not work.exposed:
            work.exposed = True
            _note(work, lambda s: s._replace(exposed=True))
        lines += part.apply()
    return lines


def _note_held(work: _Work) -> None:
    """Before the chains are made: a pass that is cut off leaves nothing that nobody knows of."""
    here = work.firewall.here
    if here is None or here in work.known.held:
        return
    same = [one for one in work.known.held if one[:3] == here[:3]]
    modes = {mode for one in (here, *same) for mode in one.modes}
    held = (*(one for one in work.known.held if one not in same),
            here._replace(modes=tuple(sorted(modes))))
    _note(work, lambda s: s._replace(held=held))


def _note(work: _Work, change: Callable[[State], State]) -> None:
    try:
        update(work.config, change)
    except StateError:
        pass  # it is said at the end, by whatever else has to be written


def _finish_nat(work: _Work) -> list[str]:
    lines = work.firewall.finish()
    here = work.firewall.here
    held = ((here,) if here else ()) + work.firewall.left
    for note in work.firewall.notes if work.firewall.left else ():
        log.warning(note)
    if work.known.held != held:
        update(work.config, lambda s: s._replace(held=held))
    return lines


def _begin_layout(work: _Work) -> list[str]:
    """Unless it is begun."""
    if work.laying is None and not _makes_links(work.config):
        work.laying = _lay_links(work.config, work.known, work.failed)
        work.problems += work.laying.problems if work.laying else ()
    return []


def _reconcile_routes(work: _Work) -> list[str]:
    from . import routing
    from .kernel.rtnl import Rtnl

    protocol, numbers = work.config.protocol, (work.config.protocol, work.config.priority)
    with Rtnl() as rtnl:
        if work.laying:
            work.laying.addresses(rtnl)
        observed = routing.observe(rtnl, protocol)
        ways = partial(steer, work.config, work.known, work.links, work.wanted, observed)
        wanted = ways()
        refused = routing.open_ways(rtnl, observed, wanted.routes, protocol, work.failed)
        if refused:
            wanted = ways({route.table for route in refused})
            wanted = wanted._replace(routes=tuple(set(wanted.routes) - refused))
        routes = wanted.routes + _routes_of_layout(work, observed)
        reconcile = partial(routing.reconcile, rtnl, failed=work.failed)
        lines = reconcile(observed, routes, wanted.rules, protocol)
        if work.known.numbers[:1] not in ((), (protocol,)):  # the configuration had another one
            former = work.known.numbers[0]
            lines += reconcile(routing.observe(rtnl, former), (), (), former)
            lines += reconcile(routing.observe(rtnl, protocol), routes, wanted.rules, protocol)
        if work.laying:
            work.laying.rest(rtnl, partial(update, work.config))
            work.failed += work.laying.failed
            work.failed += [work.laying.unsaved] if work.laying.unsaved else []
    work.problems += further_problems(wanted, work.problems)
    change = partial(transition.after_steering, steering=wanted, config=work.config,
                     now=int(time.time()))
    if work.known.numbers != numbers or change(work.known) != work.known:
        try:
            work.known = update(work.config, lambda s: change(s)._replace(numbers=numbers))
        except state.Unsaved as exc:
            work.known = exc.known
            raise
    return lines


def _routes_of_layout(work: _Work, observed: Any) -> tuple[Any, ...]:
    """Those of a layout that could not be looked at stay: in table main all that lead anywhere."""
    if work.laying:
        return work.laying.layout.routes
    if not _has_layout(work.config, work.known):
        return ()
    from .ways import MAIN_TABLE

    return tuple(one.route for one in observed.routes
                 if one.protocol == work.config.protocol and one.route.table == MAIN_TABLE
                 and one.route.type == "unicast")


def steer(config: Config, known: State, links: dict[str, bool], wanted: Desired, observed: Any,
          refused: Container[int] = ()) -> "Steering":
    """Routes and rules; without the tables where the kernel has ``refused`` a way out."""
    from . import routing
    from .steering import steering

    interfaces = (uplink.interface for uplink in config.uplinks)
    found = routing.paths(observed, interfaces, config.protocol)
    return steering(config, known, links, found, wanted, refused)


def further_problems(wanted: "Steering", known: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """What keeps uplinks out of use and is not said yet."""
    found = (Problem(name, reason) for name, reason in wanted.unusable.items())
    return tuple(problem for problem in found if problem not in known)


def _clean_conntrack(work: _Work) -> list[str]:
    """Remove the flows of dead generations, and those that began untranslated while there was
    nothing to stop them: they would stay so."""
    doomed, mask = work.known.doomed, work.config.ct_mark_mask
    exposed = work.exposed and any(
        lane.outbound and lane.mode == "netmap" for lane in work.wanted.nat.lanes)
    if not doomed and not exposed:
        return []
    from . import conntrack

    removed = [conntrack.remove_doomed(doomed, mask)]
    if exposed:
        removed.append(conntrack.remove_untranslated(work.wanted.nat))
    work.removed = sum(one.flows for one in removed)
    done = set(doomed)
    update(work.config, lambda s: s._replace(
        doomed=tuple(stamp for stamp in s.doomed if stamp not in done),
        exposed=s.exposed and not exposed))
    return [line for one in removed for line in one.lines]


# ---- after a change ------------------------------------------------------------------------------


def _note_applied(work: _Work) -> list[str]:
    """Note in the state which prefixes are in use, and what to tell on_change about it."""
    config, known = work.config, work.before
    applied = {u.name: tuple(sorted({lane.delegated for lane in work.wanted.nat.lanes
                                     if lane.uplink == u.name and lane.outbound}))
               for u in config.uplinks}
    before = dict(known.applied)
    changed = [name for name in applied if applied[name] != before.get(name, ())]
    if config.on_change:
        from . import on_change

        links = work.laying.moved if work.laying else {}
        work.told = on_change.told(config, applied, known, work.known, links)
    if work.laying:
        work.laying.told(partial(update, config))
        work.failed += [work.laying.unsaved] if work.laying.unsaved else []
    if changed:  # last: what cannot be stored is told all the same
        update(config, lambda s: s._replace(applied=tuple(applied.items())))
    return []


def _keep_include(work: _Work) -> list[str]:
    """For the next reload of nftables.conf: nobody waits for this."""
    from . import include

    include.keep(work.firewall.script, work.firewall.check)
    return []
