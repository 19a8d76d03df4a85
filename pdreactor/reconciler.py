"""The only orchestrator: load -> desired -> observe -> plan -> apply -> verify.

A pass is the same whoever asks for it (hook, ``restore``, ``set``): it begins by looking, and
what is as desired already is not touched. The translation comes first, for it is what users wait
for; routes, conntrack, log and commands come after it, and so do their imports.
"""

import os
import time
from collections.abc import Callable, Container
from functools import partial
from ipaddress import IPv6Network
from typing import TYPE_CHECKING, Any, NamedTuple

from . import counters, document, events, log, state, transition
from .desired import desired
from .errors import BackendMissing, PdreactorError, PermissionDenied, Refused, StateError
from .kernel.link import links, on_link
from .model import (
    DELEGATED,
    ONLINK,
    SIXRD,
    SIXTOFOUR,
    Config,
    Desired,
    Down,
    Event,
    Path,
    Problem,
    State,
    Steering,
    Uplink,
)
from .nat import Firewall, begin, notes, remove, stopped
from .prefix import compact
from .reasons import IPV4, ROUTER, kind_of, leased

if TYPE_CHECKING:
    from .layout.steps import Laying
    from .report import View

CONFIG = "/etc/pdreactor.toml"
STATE_WAIT = 10.0
PASS_WAIT = 30.0
"""Seconds that one pdreactor waits for another: to write the state, and to change the kernel."""


Step = Callable[["_Work"], list[str]]
"""A part of the pass; returns what it changed, for people."""


class Outcome(NamedTuple):
    """What a pass did: lines for people, and what is still wrong."""

    changes: tuple[str, ...]
    problems: tuple[Problem, ...]


# ---- entries -------------------------------------------------------------------------------------


def configuration(path: str | None, state_dir: str | None = None) -> Config:
    """The configuration: ``path``, else PDREACTOR_CONFIG, else /etc/pdreactor.toml."""
    config = document.load(path or os.environ.get("PDREACTOR_CONFIG") or CONFIG)
    return config._replace(state_dir=state_dir) if state_dir else config


def react(block: bytes, config_path: str | None, state_dir: str | None) -> None:
    """One call of dhcpcd's script, from its raw environment block."""
    variables = events.parse_environ(block)
    path = config_path or events.first(variables, "PDREACTOR_CONFIG")
    heard(configuration(path, state_dir), variables)


def heard(config: Config, variables: events.Variables, commands: "Commands | None" = None, *,
          held: bool = False) -> None:
    """What dhcpcd said; with ``held`` what it holds, perhaps for long: its lifetimes count only
    where nothing better is known."""
    interface, reason = events.interface_of(variables), events.reason_of(variables)
    if kind_of(reason) == IPV4:
        _heard_ipv4(config, interface, reason, variables, commands)
        return
    uplinks = [u for u in config.uplinks if u.interface == interface]
    refused, unsaved = None, None
    if kind_of(reason) == ROUTER and all(
            one.table is None and one.source != ONLINK for one in uplinks):
        return
    for uplink in uplinks:
        if uplink.prefix is None and uplink.source == DELEGATED:
            try:
                parse = partial(events.event_for, variables, uplink)
                refused = _learn(config, uplink, reason, parse, held) or refused
            except state.Unsaved as exc:
                unsaved = exc
            except StateError:
                _guard_at_least(config)
                raise
    if uplinks and not (refused and len(uplinks) == 1):
        reconcile(config, reason, unsaved, commands)
    if refused:
        raise refused


def _heard_ipv4(config: Config, interface: str, reason: str, variables: events.Variables,
                commands: "Commands | None") -> None:
    """A DHCPv4 lease: of the address that a tunnel begins at, and perhaps of 6rd."""
    tunnels = [one for one in (config.plans.tunnels if config.plans else ())
               if one.underlay == interface]
    if not tunnels:
        return
    unsaved = None
    if any(one.mode == SIXRD and one.prefix is None for one in tunnels) and leased(reason):
        from .layout.sources import after_lease, told_sixrd

        told = told_sixrd(variables, interface)
        try:
            update(config, lambda before: after_lease(before, interface, told))
        except state.Unsaved as exc:
            unsaved = exc
    reconcile(config, reason, unsaved, commands)


def tell(config: Config, uplink: Uplink, event: Event) -> None:
    """An event by hand (``set``, ``unset``). Raises Refused."""
    unsaved = None
    try:
        refused = _learn(config, uplink, event.reason, lambda: event)
        if refused:
            raise refused
    except state.Unsaved as exc:
        unsaved = exc
    reconcile(config, event.reason, unsaved)


def use(config: Config, uplink: Uplink, down: Down | None) -> None:
    """Take an uplink out of use, or back in (None)."""
    unsaved, changed = None, False

    def change(before: State) -> State:
        nonlocal changed
        after = transition.after_use(before, uplink.name, down, config)
        changed = after is not before
        return after

    try:
        update(config, change)
    except state.Unsaved as exc:
        unsaved = exc
    try:
        reconcile(config, f"uplink {uplink.name} {'down' if down else 'up'}", unsaved)
    finally:
        if changed:  # it takes its time, so it is not said before
            log.info("set down" if down else "back in use", uplink=uplink.name,
                     **({"why": down.reason} if down and down.reason else {}))


def prefixes(config: Config, uplink: Uplink) -> tuple[IPv6Network, ...]:
    """The prefixes that the state has for an uplink."""
    known, _ = state.load(config.state_dir, keep=True)
    entry = known.uplinks.get(uplink.name)
    return tuple(prefix.network for prefix in entry.prefixes) if entry else ()


def _learn(config: Config, uplink: Uplink, reason: str, event: Callable[[], Event],
           held: bool = False) -> Refused | None:
    """Put an event into the state; a refusal is remembered there, and returned."""
    now = int(time.time())

    def change(before: State) -> State:
        if held and transition.tells_nothing_new(before, known, uplink, now):
            return before
        return transition.after_event(before, known, uplink, config, now, near)

    try:
        known, near = event(), on_link(uplink.interface)
        update(config, change)
    except Refused as refused:
        message = str(refused)
        update(config, lambda before: transition.after_refusal(
            before, uplink.name, reason, message, config, now))
        return Refused(f"uplink {uplink.name}: {message}; nothing was changed")
    return None


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
              commands: "Commands | None" = None) -> Outcome:
    """One pass. Raises what went wrong, after everything else that could be done was done.

    With ``unsaved`` the state is what could not be written just now. ``commands`` runs the commands
    of on_change in another way than here and now.
    """
    errors: list[PdreactorError] = [unsaved] if unsaved else []
    with state.Lock(config.state_dir, "pass.lock", PASS_WAIT, shared=True) as lock:
        begun = begin(config)
        known = current(unsaved.known, config) if unsaved else _up_to_date(config, errors)
        laying = _lay_links(config, known, errors) if _makes_links(config) else None
        work = _Work(config, known, _links(config), begun, laying)
        changes: list[str] = laying.words if laying else []
        for step in _steps(work):
            try:
                changes += step(work)
            except PdreactorError as exc:
                errors.append(exc)
                if step is _switch_nat:
                    raise
            errors += work.failed
            work.failed.clear()
        if changes:
            counters.add(config.state_dir, changes=1, flows_removed=work.removed)
        if not errors:
            lock.touch()
    document.keep()
    if changes:
        log.info("changed", reason=reason, changes=changes)
    if work.told and config.on_change:
        (commands or run_commands)(config, reason, work.told)
    for further in dict.fromkeys(str(exc) for exc in errors[1:]):
        if further != str(errors[0]):
            log.error(further)
    if errors:
        raise errors[0]
    return Outcome(tuple(changes), work.problems)


def _makes_links(config: Config) -> bool:
    """Links are there before anything looks at them; all else of the layout has time."""
    return config.plans is not None and bool(
        config.plans.tunnels or any(one.create for one in config.plans.assigns))


def _lay_links(config: Config, known: State, errors: list[PdreactorError]) -> "Laying | None":
    """The layout's part in this pass is begun: what it will change is known."""
    if config.plans is None and known.traces is None:
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

    found = {name: Path(True) for name in work.links}  # the kernel is asked later
    wanted = steering(work.config, work.known, work.links, found, work.wanted)
    translated = {name for name, networks in work.known.applied if networks}
    before = dict(work.known.leading)
    changed = {new for internal, new in wanted.leading if before.get(internal) != new}
    return bool(changed) and changed - {""} <= translated


def _up_to_date(config: Config, errors: list[PdreactorError]) -> State:
    try:
        return update(config, lambda before: current(before, config))
    except state.Unsaved as exc:
        errors.append(exc)
        return exc.known
    except StateError:
        _guard_at_least(config)
        raise


def _guard_at_least(config: Config) -> None:
    """The state cannot be read: what is in the kernel stays. At boot that is nothing, and then it
    gets the guard."""
    nothing = desired(config, State({}), _links(config), int(time.time())).nat
    try:
        for part in Firewall(config, nothing, ()).plan():
            if part.exposed:
                part.apply()
    except PdreactorError:
        pass  # why the state cannot be read is what counts


def current(known: State, config: Config) -> State:
    """The state brought up to now: lifetimes that ended, static prefixes, the shell script's."""
    now = int(time.time())
    known = transition.after_configuration(transition.after_time(known, config, now), config, now)
    if any(uplink.source in OBSERVED for uplink in config.uplinks):
        from .layout.steps import learned

        known = learned(known, config, now)
    if not known.uplinks and len(config.uplinks) == 1:
        from .legacy import adopt

        known = adopt(known, config, now)
    return known


OBSERVED = (ONLINK, SIXTOFOUR, SIXRD)
"""Sources of prefixes that no event tells: the kernel shows them."""


def wish(config: Config, known: State) -> Desired:
    """What the firewall should do just now."""
    return desired(config, known, _links(config), int(time.time()))


def _links(config: Config) -> dict[str, bool]:
    return links(uplink.interface for uplink in config.uplinks)


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
    """Unless it is begun: then what it changes was said."""
    if work.laying or _makes_links(work.config):
        return []
    work.laying = _lay_links(work.config, work.known, work.failed)
    if work.laying is None:
        return []
    work.problems += work.laying.problems
    return work.laying.words


def _reconcile_routes(work: _Work) -> list[str]:
    from . import routing
    from .kernel.rtnl import Rtnl

    protocol, numbers = work.config.protocol, (work.config.protocol, work.config.priority)
    with Rtnl() as rtnl:
        if work.laying:
            work.laying.addresses(rtnl)
        observed = routing.observe(rtnl, protocol)
        steer = partial(_steer, work.config, work.known, work.links, work.wanted, observed)
        wanted = steer()
        refused = routing.open_ways(rtnl, observed, wanted.routes, protocol, work.failed)
        if refused:
            wanted = steer({route.table for route in refused})
            wanted = wanted._replace(routes=tuple(set(wanted.routes) - refused))
        routes = wanted.routes + (work.laying.layout.routes if work.laying else ())
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
    work.problems += _further_problems(wanted, work.problems)
    change = partial(transition.after_steering, steering=wanted, config=work.config,
                     now=int(time.time()))
    if work.known.numbers != numbers or change(work.known) != work.known:
        try:
            work.known = update(work.config, lambda s: change(s)._replace(numbers=numbers))
        except state.Unsaved as exc:
            work.known = exc.known
            raise
    return lines


def _steer(config: Config, known: State, links: dict[str, bool], wanted: Desired, observed: Any,
           refused: Container[int] = ()) -> Steering:
    from . import routing
    from .steering import steering

    interfaces = (uplink.interface for uplink in config.uplinks)
    found = routing.paths(observed, interfaces, config.protocol)
    return steering(config, known, links, found, wanted, refused)


def _further_problems(wanted: Steering, known: tuple[Problem, ...]) -> tuple[Problem, ...]:
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
    if changed:
        update(config, lambda s: s._replace(applied=tuple(applied.items())))
    told = partial(_variables, config, applied, before)
    work.told = [told(name, name) for name in changed]
    work.told += [told(old, new) | {"PDREACTOR_INTERNAL": " ".join(map(str, internal))}
                  for (old, new), internal in _moved(work).items()]
    return []


Networks = dict[str, tuple[IPv6Network, ...]]


def _variables(config: Config, applied: Networks, before: Networks, old: str,
               new: str) -> dict[str, str]:
    interfaces = {uplink.name: uplink.interface for uplink in config.uplinks}
    return {
        "PDREACTOR_UPLINK": new,
        "PDREACTOR_OLD_UPLINK": old,
        "PDREACTOR_INTERFACE": interfaces.get(new, ""),
        "PDREACTOR_PREFIX": " ".join(map(str, applied.get(new, ()))),
        "PDREACTOR_OLD_PREFIX": " ".join(map(str, before.get(old, ()))),
    }


def _moved(work: _Work) -> dict[tuple[str, str], tuple[IPv6Network, ...]]:
    """{(old uplink, new uplink): internal prefixes}, where a table leads them."""
    tables = {uplink.name for uplink in work.config.uplinks if uplink.table is not None}
    before = dict(work.before.leading)
    moved: dict[tuple[str, str], list[IPv6Network]] = {}
    for internal, new in work.known.leading if tables else ():
        old = before.get(internal, "")
        if old != new and {old, new} - {""} <= tables:
            moved.setdefault((old, new), []).append(internal)
    return {pair: compact(among)[:MOST_TOLD] for pair, among in moved.items()}


MOST_TOLD = 1000
"""Internal prefixes in the environment of a command: execve(2) takes 128 KiB in one variable."""


Commands = Callable[[Config, str, list[dict[str, str]]], None]


def run_commands(config: Config, reason: str, told: list[dict[str, str]]) -> None:
    """Run each command of on_change once for each of ``told``, and wait for it."""
    from .kernel.process import run

    path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    for variables in told:
        for command in config.on_change:
            environment = {"PATH": path, "PDREACTOR_REASON": reason, **variables}
            failure = run(command.argv, environment, command.timeout)
            if failure:
                log.warning(f"on_change command {command.argv[0]!r} {failure}")


def _keep_include(work: _Work) -> list[str]:
    """For the next reload of nftables.conf: nobody waits for this."""
    from . import include

    include.keep(work.firewall.script, work.firewall.check)
    return []


# ---- looking without touching ------------------------------------------------------------------


def look(config: Config) -> "View":
    """What ``plan`` and ``status`` show. Writes nothing, to the kernel or to the disk."""
    from . import routing
    from .kernel.rtnl import Rtnl
    from .report import View

    before, damage = state.load(config.state_dir, keep=True)
    known = current(before, config)
    reachable = _links(config)
    wanted = desired(config, known, reachable, int(time.time()))
    firewall = Firewall(config, wanted.nat, known.held)
    parts = list(firewall.plan())
    translated = {direction: frozenset().union(*(part.translated[direction] for part in parts))
                  for direction in ("outbound", "inbound")}
    laying = None
    if config.plans is not None or known.traces is not None:
        from .layout.steps import Laying

        laying = Laying(config, known)
    with Rtnl() as rtnl:
        observed = routing.observe(rtnl, config.protocol)
    steered = _steer(config, known, reachable, wanted, observed)
    laid = laying.layout.routes if laying else ()
    routes = routing.plan(observed, steered.routes + laid, steered.rules, config.protocol)
    known = transition.after_steering(known, steered, config, int(time.time()))
    pending = [line for part in (*parts, *firewall.old()) for line in part.words]
    pending += routing.words(routes)
    pending += laying.words if laying else []
    if known.doomed:
        pending.append(f"remove the conntrack entries of {len(known.doomed)} dead generation(s)")
    problems = wanted.problems + (laying.problems if laying else ())
    wanted = wanted._replace(problems=problems + _further_problems(steered, problems))
    said = (*firewall.notes, *notes(config), *(laying.notes if laying else ()))
    return View(known, wanted, translated, reachable, tuple(pending), damage, said, steered,
                _counters(config, wanted), laying.document(int(time.time())) if laying else {})


def _counters(config: Config, wanted: Desired) -> dict[str, Any]:
    try:
        guarded = stopped(wanted.nat)
    except PdreactorError:
        guarded = {}  # a kernel without nf_tables has no such guard
    done = counters.load(config.state_dir)._asdict()
    return done | {"stopped": guarded, "last_pass": counters.last_pass(config.state_dir)}


def flush(config: Config, *, forget: bool) -> None:
    """Take everything of ours out of the kernel, and with ``forget`` the state too.

    Each step is tried, whatever becomes of the others; the first error is raised at the end.
    """
    errors: list[PdreactorError] = []
    with state.Lock(config.state_dir, "pass.lock", PASS_WAIT, shared=True):
        for step in (_flush_include, _flush_nat, _flush_routes, _flush_layout, _flush_flows,
                     *([] if forget else [_flush_state])):
            try:
                step(config)
            except PdreactorError as exc:
                errors.append(exc)
        if forget and not any(isinstance(exc, BackendMissing) for exc in errors):
            state.forget(config.state_dir)  # else what is left would be forgotten too
    if errors:
        raise errors[0]


def _flush_include(_config: Config) -> None:
    from . import include

    include.remove()


def _flush_nat(config: Config) -> None:
    held = _before(config).held
    left = remove(config, held)
    if left != held:
        update(config, lambda s: s._replace(held=left))
    if left:
        names = ", ".join(f"{one.dnat} and {one.snat} ({one.variant})" for one in left)
        raise BackendMissing(f"chains of ip6tables stay: {names}; install what pdreactor plan asks "
                             f"for, then flush again")


def _before(config: Config) -> State:
    try:
        return state.load(config.state_dir, keep=True)[0]
    except StateError:
        return State({})  # unreadable: the configuration's numbers and names have to do


def _flush_layout(config: Config) -> None:
    known = _before(config)
    if config.plans is None and known.traces is None:
        return
    from .layout.steps import flush

    flush(config, known, partial(update, config))


def _flush_routes(config: Config) -> None:
    from . import routing
    from .kernel.rtnl import Rtnl

    failed: list[PdreactorError] = []
    with Rtnl() as rtnl:
        protocols = {*_before(config).numbers[:1], config.protocol}
        observed = routing.observe(rtnl, *protocols)
        for protocol in protocols:
            routing.reconcile(rtnl, observed, (), (), protocol, failed)
    if failed:
        raise failed[0]


def _flush_flows(config: Config) -> None:
    from . import conntrack

    conntrack.remove_all(config.ct_mark_mask)


def _flush_state(config: Config) -> None:
    update(config, lambda s: s._replace(
        doomed=(), applied=(), exposed=False, numbers=(), modes=(), leading=(), left=(),
        tabled=()))
