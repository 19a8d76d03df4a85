"""What is heard becomes an event, the event changes the state, and then there is a pass: the ways
in for dhcpcd's script and socket, and for hands."""

import os
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv6Network
from typing import TYPE_CHECKING

from . import document, events, log, state, transition
from .errors import Refused, StateError
from .kernel.link import on_link
from .model import ONLINK, SIXRD, Config, Down, Event, State, Uplink
from .reasons import IPV4, LINK, ROUTER, kind_of, leased
from .reconciler import guard_at_least, reconcile, update

if TYPE_CHECKING:
    from . import on_change
    from .layout.model import Tunnel

CONFIG = "/etc/pdreactor.toml"


def configuration(path: str | None, state_dir: str | None = None) -> Config:
    """The configuration: ``path``, else PDREACTOR_CONFIG, else /etc/pdreactor.toml."""
    config = document.load(path_of(path))
    return config._replace(state_dir=state_dir) if state_dir else config


def path_of(path: str | None) -> str:
    """Where it is."""
    return path or os.environ.get("PDREACTOR_CONFIG") or CONFIG


def react(block: bytes, config_path: str | None, state_dir: str | None) -> None:
    """One call of dhcpcd's script, from its raw environment block."""
    variables = events.parse_environ(block)
    path = config_path or events.first(variables, "PDREACTOR_CONFIG")
    heard(configuration(path, state_dir), variables)


def heard(config: Config, variables: events.Variables, commands: "on_change.Run | None" = None, *,
          held: bool = False) -> None:
    """What dhcpcd said; with ``held`` what it holds, perhaps for long: its lifetimes count only
    where nothing better is known."""
    interface, reason = events.interface_of(variables), events.reason_of(variables)
    if kind_of(reason) == IPV4:
        _heard_ipv4(config, interface, reason, variables, commands)
        return
    uplinks = [u for u in config.uplinks if u.interface == interface]
    if kind_of(reason) == LINK and _tunnels_on(config, interface) and not uplinks:
        reconcile(config, reason, None, commands)
    refused, unsaved = None, None
    if kind_of(reason) == ROUTER and all(
            one.table is None and one.source != ONLINK for one in uplinks):
        return
    for uplink in uplinks:
        if uplink.learns:
            try:
                parse = partial(events.event_for, variables, uplink)
                refused = _learn(config, uplink, reason, parse, held) or refused
            except state.Unsaved as exc:
                unsaved = exc
            except StateError:
                guard_at_least(config)
                raise
    if uplinks and not (refused and len(uplinks) == 1):
        reconcile(config, reason, unsaved, commands)
    if refused:
        raise refused


def _heard_ipv4(config: Config, interface: str, reason: str, variables: events.Variables,
                commands: "on_change.Run | None") -> None:
    """A DHCPv4 lease: of the address that a tunnel begins at, and perhaps of 6rd."""
    tunnels = _tunnels_on(config, interface)
    if not tunnels:
        return
    refused, unsaved = None, None
    if any(one.mode == SIXRD and one.prefix is None for one in tunnels) and leased(reason):
        from .layout.sources import after_lease, told_sixrd

        try:
            told = told_sixrd(variables, interface)
            update(config, lambda before: after_lease(before, interface, told))
        except state.Unsaved as exc:
            unsaved = exc
        except Refused as exc:
            refused = exc
    reconcile(config, reason, unsaved, commands)  # the address counts, whatever else it said
    if refused:
        raise refused


def _tunnels_on(config: Config, interface: str) -> "list[Tunnel]":
    return [one for one in (config.plans.tunnels if config.plans else ())
            if one.underlay == interface]


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
        near = on_link(uplink.interface, before.traces.placed if before.traces else ())
        return transition.after_event(before, known, uplink, config, now, near)

    try:
        known = event()
        update(config, change)
    except Refused as refused:
        message = str(refused)
        update(config, lambda before: transition.after_refusal(
            before, uplink.name, reason, message, config, now))
        return Refused(f"uplink {uplink.name}: {message}; nothing was changed")
    return None
