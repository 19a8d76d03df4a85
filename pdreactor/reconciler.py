"""The only orchestrator: load -> desired -> observe -> plan -> apply -> verify.

A pass is the same whoever asks for it (hook, ``restore``, ``set``): it begins by looking, and
what is as desired already is not touched. The translation comes first, for it is what users wait
for; routes, conntrack, log and commands come after it, and so do their imports.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv6Network
from typing import TYPE_CHECKING, NamedTuple

from . import events, log, state, transition
from .config import load as load_config
from .desired import MAIN_TABLE, desired
from .errors import KernelError, PdreactorError, Refused
from .kernel.link import links, on_link
from .kernel.nft import Nft
from .model import Config, Desired, Event, State, Uplink
from .nat import nftables

if TYPE_CHECKING:
    from .report import View

CONFIG = "/etc/pdreactor.toml"
STATE_WAIT = 10.0
PASS_WAIT = 30.0
"""Seconds that one pdreactor waits for another: to write the state, and to change the kernel."""


class Outcome(NamedTuple):
    """What a pass did: lines for people, and what is still wrong."""

    changes: tuple[str, ...]
    wanted: Desired


# ---- entries -------------------------------------------------------------------------------------


def configuration(path: str | None, state_dir: str | None = None) -> Config:
    """The configuration: ``path``, else PDREACTOR_CONFIG, else /etc/pdreactor.toml."""
    config = load_config(path or os.environ.get("PDREACTOR_CONFIG") or CONFIG)
    return config._replace(state_dir=state_dir) if state_dir else config


def react(block: bytes, config_path: str | None, state_dir: str | None) -> None:
    """One call of dhcpcd's script, from its raw environment block."""
    variables = events.parse_environ(block)
    interface = events.interface_of(variables)
    config = configuration(config_path or _variable(variables, "PDREACTOR_CONFIG"), state_dir)
    uplinks = [u for u in config.uplinks if u.interface == interface]
    refused = None
    for uplink in uplinks:
        if uplink.prefix is None:
            parse = partial(events.event_for, variables, uplink)
            refused = _learn(config, uplink, events.reason_of(variables), parse) or refused
    if uplinks and not (refused and len(uplinks) == 1):
        reconcile(config, events.reason_of(variables))
    if refused:
        raise refused


def tell(config: Config, uplink: Uplink, event: Event) -> None:
    """An event by hand (``set``, ``unset``). Raises Refused."""
    refused = _learn(config, uplink, event.reason, lambda: event)
    if refused:
        raise refused
    reconcile(config, event.reason)


def prefixes(config: Config, uplink: Uplink) -> tuple[IPv6Network, ...]:
    """The prefixes that the state has for an uplink."""
    known, _ = state.load(config.state_dir, keep=True)
    entry = known.uplinks.get(uplink.name)
    return tuple(prefix.network for prefix in entry.prefixes) if entry else ()


def _variable(variables: events.Variables, name: str) -> str | None:
    return next((value for known, value in variables if known == name), None)


def _learn(config: Config, uplink: Uplink, reason: str,
           event: Callable[[], Event]) -> Refused | None:
    """Put an event into the state; a refusal is remembered there, and returned."""
    now = int(time.time())
    try:
        known, near = event(), on_link(uplink.interface)
        update(config, lambda before: transition.after_event(
            before, known, uplink, config, now, near))
    except Refused as refused:
        message = str(refused)
        update(config, lambda before: transition.after_refusal(
            before, uplink.name, reason, message, config, now))
        return Refused(f"uplink {uplink.name}: {message}; nothing was changed")
    return None


def update(config: Config, change: Callable[[State], State]) -> State:
    """Change the state file below its own short lock; it is not written when nothing changes."""
    with state.Lock(config.state_dir, "state.lock", STATE_WAIT):
        before, damage = state.load(config.state_dir)
        after = change(before)
        if after != before or damage:
            state.sweep(config.state_dir)
            state.save(config.state_dir, after)
    if damage:
        log.warning(damage)
    return after


# ---- the pass ------------------------------------------------------------------------------------


def reconcile(config: Config, reason: str) -> Outcome:
    """One pass. Raises what went wrong, after everything else that could be done was done."""
    with state.Lock(config.state_dir, "pass.lock", PASS_WAIT):
        known = update(config, lambda before: current(before, config))
        wanted = wish(config, known)
        translation = _reconcile_nat(wanted)
        errors: list[PdreactorError] = []
        changes = [*translation.words]
        for step in (_reconcile_routes, _clean_conntrack):
            try:
                changes += step(config, known, wanted, translation)
            except PdreactorError as exc:
                errors.append(exc)
        told = _tell_applied(config, known, wanted)
    if changes:
        log.info("changed", reason=reason, changes=changes)
    _run_commands(config, reason, told)
    if errors:
        raise errors[0]
    return Outcome(tuple(changes), wanted)


def current(known: State, config: Config) -> State:
    """The state brought up to now: lifetimes that ended, static prefixes, the shell script's."""
    now = int(time.time())
    known = transition.after_configuration(transition.after_time(known, config, now), config, now)
    if not known.uplinks and len(config.uplinks) == 1:
        from .legacy import adopt

        known = adopt(known, config, now)
    return known


def wish(config: Config, known: State) -> Desired:
    """What the kernel should hold just now."""
    names = [uplink.interface for uplink in config.uplinks]
    return desired(config, known, links(names), int(time.time()))


class _Translation(NamedTuple):
    words: list[str]
    change: nftables.Change | None


def _reconcile_nat(wanted: Desired) -> _Translation:
    nft = Nft()
    change = nftables.plan(wanted.nat, nftables.observe(nft))
    if change is None:
        return _Translation([], None)
    nftables.apply(nft, change)
    after = nftables.observe(nft)
    if after is None or not nftables.same(change.desired, after):
        raise KernelError("table ip6 pdreactor is not as it was written: another program changes "
                          "it at the same time; nft monitor shows which")
    return _Translation(nftables.words(change), change)


def _reconcile_routes(config: Config, known: State, wanted: Desired,
                      translation: _Translation) -> list[str]:
    from . import routing
    from .kernel.rtnl import Rtnl

    with Rtnl() as rtnl:
        tables = (MAIN_TABLE, config.priority)
        change = routing.plan(rtnl, wanted, tables, config.protocol)
        routing.apply(rtnl, change, config.protocol)
    return routing.words(change)


def _clean_conntrack(config: Config, known: State, wanted: Desired,
                     translation: _Translation) -> list[str]:
    """Remove the flows of dead generations, and those that began untranslated while the table was
    missing: they would stay so."""
    fresh = translation.change is not None and translation.change.observed is None
    if not known.doomed and not (fresh and any(lane.outbound for lane in wanted.nat.lanes)):
        return []
    from . import conntrack

    lines = conntrack.remove_doomed(known.doomed, config.ct_mark_mask)
    if known.doomed:
        done = set(known.doomed)
        update(config, lambda s: s._replace(doomed=tuple(d for d in s.doomed if d not in done)))
    return lines + (conntrack.remove_untranslated(wanted.nat) if fresh else [])


# ---- after a change ------------------------------------------------------------------------------


def _tell_applied(config: Config, known: State, wanted: Desired) -> list[dict[str, str]]:
    """Note in the state which prefixes are in use; returns what to tell on_change about it."""
    applied = {u.name: tuple(sorted({lane.delegated for lane in wanted.nat.lanes
                                     if lane.uplink == u.name and lane.outbound}))
               for u in config.uplinks}
    before = dict(known.applied)
    if applied == {name: before.get(name, ()) for name in applied}:
        return []
    update(config, lambda s: s._replace(applied=tuple(applied.items())))
    return [{
        "PDREACTOR_UPLINK": uplink.name,
        "PDREACTOR_INTERFACE": uplink.interface,
        "PDREACTOR_PREFIX": " ".join(map(str, applied[uplink.name])),
        "PDREACTOR_OLD_PREFIX": " ".join(map(str, before.get(uplink.name, ()))),
    } for uplink in config.uplinks if applied[uplink.name] != before.get(uplink.name, ())]


def _run_commands(config: Config, reason: str, told: list[dict[str, str]]) -> None:
    if not told or not config.on_change:
        return
    from .kernel.process import run

    path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    for variables in told:
        for command in config.on_change:
            environment = {"PATH": path, "PDREACTOR_REASON": reason, **variables}
            failure = run(command.argv, environment, command.timeout)
            if failure:
                log.warning(f"on_change command {command.argv[0]!r} {failure}")


# ---- looking without touching ------------------------------------------------------------------


def look(config: Config) -> "View":
    """What ``plan`` and ``status`` show. Writes nothing, to the kernel or to the disk."""
    from . import routing
    from .kernel.rtnl import Rtnl
    from .report import View

    before, damage = state.load(config.state_dir, keep=True)
    known = current(before, config)
    wanted = wish(config, known)
    observed = nftables.observe(Nft())
    change = nftables.plan(wanted.nat, observed)
    with Rtnl() as rtnl:
        routes = routing.plan(rtnl, wanted, (MAIN_TABLE, config.priority), config.protocol)
    pending = [*(nftables.words(change) if change else ()), *routing.words(routes)]
    if known.doomed:
        pending.append(f"remove the conntrack entries of {len(known.doomed)} dead generation(s)")
    return View(known, wanted, observed, tuple(pending), damage)


def flush(config: Config, *, forget: bool) -> None:
    """Take everything of ours out of the kernel, and with ``forget`` the state too."""
    from . import conntrack, routing
    from .kernel.rtnl import Rtnl

    with state.Lock(config.state_dir, "pass.lock", PASS_WAIT):
        known, _ = state.load(config.state_dir, keep=True)
        Nft().run(nftables.remove(), "remove table ip6 pdreactor")
        nothing = Desired(wish(config, State({})).nat, (), (), ())
        with Rtnl() as rtnl:
            change = routing.plan(rtnl, nothing, (MAIN_TABLE, config.priority), config.protocol)
            routing.apply(rtnl, change, config.protocol)
        conntrack.remove_all(known, config.ct_mark_mask)
        if not forget:
            update(config, lambda s: s._replace(doomed=(), applied=()))
            return
    state.forget(config.state_dir)
