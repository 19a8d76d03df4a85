"""Commands of the user after a change ([[on_change]]): what they are told, and how they are run."""

import os
from collections.abc import Callable, Mapping
from ipaddress import IPv6Network

from . import log
from .kernel.process import run as run_command
from .model import Config, State
from .prefix import compact

Variables = dict[str, str]
Run = Callable[[Config, str, list[Variables]], None]
"""Takes the configuration, the reason of the pass, and the variables for each turn."""
Networks = Mapping[str, tuple[IPv6Network, ...]]

MOST_TOLD = 1000
"""Internal prefixes in the environment of a command: execve(2) takes 128 KiB in one variable."""


def told(config: Config, applied: Networks, before: State, after: State,
         ends: Mapping[str, tuple[str, str]]) -> list[Variables]:
    """Variables for each turn: an uplink with other prefixes in use (``applied``, by its name), a
    pair of uplinks between which new flows moved, a tunnel whose end here moved from one IPv4
    address to another (``ends``)."""
    former = dict(before.applied)
    turns = [_uplinks(config, applied, former, name, name) for name, networks in applied.items()
             if networks != former.get(name, ())]
    turns += [_uplinks(config, applied, former, old, new)
              | {"PDREACTOR_INTERNAL": " ".join(map(str, internal))}
              for (old, new), internal in _moved(config, before, after).items()]
    return turns + [
        {"PDREACTOR_TUNNEL": name, "PDREACTOR_LOCAL": new, "PDREACTOR_OLD_LOCAL": old}
        for name, (old, new) in ends.items()]


def _uplinks(config: Config, applied: Networks, former: Networks, old: str,
             new: str) -> Variables:
    interfaces = {uplink.name: uplink.interface for uplink in config.uplinks}
    return {
        "PDREACTOR_UPLINK": new,
        "PDREACTOR_OLD_UPLINK": old,
        "PDREACTOR_INTERFACE": interfaces.get(new, ""),
        "PDREACTOR_PREFIX": " ".join(map(str, applied.get(new, ()))),
        "PDREACTOR_OLD_PREFIX": " ".join(map(str, former.get(old, ()))),
    }


def _moved(config: Config, before: State,
           after: State) -> dict[tuple[str, str], tuple[IPv6Network, ...]]:
    """{(old uplink, new uplink): internal prefixes}, where a table leads them."""
    tables = {uplink.name for uplink in config.uplinks if uplink.table is not None}
    former = dict(before.leading)
    moved: dict[tuple[str, str], list[IPv6Network]] = {}
    for internal, new in after.leading if tables else ():
        old = former.get(internal, "")
        if old != new and {old, new} - {""} <= tables:
            moved.setdefault((old, new), []).append(internal)
    return {pair: compact(among)[:MOST_TOLD] for pair, among in moved.items()}


def run(config: Config, reason: str, turns: list[Variables]) -> None:
    """Run each command once for each turn, and wait for it."""
    path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    for variables in turns:
        for command in config.on_change:
            environment = {"PATH": path, "PDREACTOR_REASON": reason, **variables}
            failure = run_command(command.argv, environment, command.timeout, "on_change.timeout")
            if failure:
                log.warning(f"on_change command {command.argv[0]!r} {failure}")
