"""Looking without touching: what ``plan`` and ``status`` show, and what the watcher answers for.
Writes nothing, to the kernel or to the disk."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import counters, routing, state, transition
from .desired import desired
from .errors import PdreactorError
from .kernel.rtnl import Rtnl
from .model import Config, Desired, Problem
from .nat import Firewall, notes, stopped
from .reconciler import current, further_problems, links_of, steer, wish
from .report import View

if TYPE_CHECKING:
    from .layout.model import Answering


def look(config: Config) -> View:
    """What ``plan`` and ``status`` show."""
    before, damage = state.load(config.state_dir, keep=True)
    known = current(before, config)
    reachable = links_of(config)
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
    steered = steer(config, known, reachable, wanted, observed)
    laid = laying.layout.routes if laying else ()
    routes = routing.plan(observed, steered.routes + laid, steered.rules, config.protocol)
    known = transition.after_steering(known, steered, config, int(time.time()))
    pending = [line for part in (*parts, *firewall.old()) for line in part.words]
    pending += routing.words(routes)
    pending += laying.words if laying else []
    if known.doomed:
        pending.append(f"remove the conntrack entries of {len(known.doomed)} dead generation(s)")
    lacking = (*(laying.problems if laying else ()), *_unanswered(config))
    problems = wanted.problems + lacking
    wanted = wanted._replace(problems=problems + further_problems(steered, problems))
    said = (*firewall.notes, *notes(config), *(laying.notes if laying else ()))
    return View(known, wanted, translated, reachable, tuple(pending), damage, said, steered,
                _counters(config, wanted), laying.document(int(time.time())) if laying else {},
                bool(lacking))


def _unanswered(config: Config) -> Iterator[Problem]:
    """Who stays and answers does not run."""
    asked = {one.interface for one in config.plans.proxies if one.method == "responder"} \
        if config.plans else set()
    if asked and not state.held(config.state_dir, "watch.lock"):
        for interface in sorted(asked):
            yield Problem(f"proxy on {interface}", "nobody answers neighbour solicitations: "
                                                   "pdreactor watch does not run")


def _counters(config: Config, wanted: Desired) -> dict[str, Any]:
    try:
        guarded = stopped(wanted.nat)
    except PdreactorError:
        guarded = {}  # a kernel without nf_tables has no such guard
    done = counters.load(config.state_dir)._asdict()
    return done | {"stopped": guarded, "last_pass": counters.last_pass(config.state_dir)}


def answering(config: Config) -> "tuple[Answering, ...]":
    """Where neighbour solicitations are answered for others, and for whom."""
    if config.plans is None or not config.plans.proxies:
        return ()
    from .layout.draft import answering as drafted

    known, _ = state.load(config.state_dir, keep=True)
    return tuple(drafted(config, known, wish(config, known).nat, int(time.time())))
