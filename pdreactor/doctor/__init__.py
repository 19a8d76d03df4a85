"""``doctor``: what on this machine would keep pdreactor from working, each with the fix.

    gather.py            the machine -> Facts; reads only
    conf.py, nftables.py, iptables.py, packet.py     texts and rulesets of others, understood
    machine.py, internal.py, dhcpcd.py, firewall.py, routing.py     judges: Facts -> Findings

A check is a judge and a row in ``CHECKS``. The judges are pure. Nothing of this is on the way of a
hook, and nothing here writes, sends or starts anything.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..model import Config
from . import dhcpcd, firewall, internal, machine, routing
from .facts import ERROR, NOTE, WARNING, Facts, Finding
from .gather import facts

Judge = Callable[[Facts], Iterator[Finding]]


def mistakes(known: Facts) -> Iterator[Finding]:
    """Those of the configuration; what hangs on it is then not looked at."""
    for one in known.mistakes:
        yield Finding(ERROR, one, known.config.path, "correct it: see pdreactor.toml(5)")


CHECKS: dict[str, Judge] = {
    "configuration": mistakes,
    "forwarding": machine.forwarding,
    "interface": machine.interfaces,
    "accept-ra": machine.advertisements,
    "package": machine.packages,
    "version": machine.versions,
    "kernel": machine.kernel,
    "state-directory": machine.state,
    "clock": machine.clock,
    "dhcpcd-asks": dhcpcd.asks,
    "dhcpcd-anonymous": dhcpcd.anonymous,
    "dhcpcd-hook": dhcpcd.hook,
    "dhcpcd-sandbox": dhcpcd.sandbox,
    "nat-before": firewall.first,
    "forward-drop": firewall.forward,
    "hairpin-drop": firewall.hairpin,
    "reverse-path": firewall.reverse_path,
    "mark": firewall.marks,
    "table": routing.tables,
    "rule": routing.rules,
    "networkd": routing.networkd,
    "network-manager": routing.network_manager,
    "timer": routing.timer,
    "unique-local": internal.unique,
    "preference": internal.preference,
}
"""{name of the check: judge}, in the order in which they are reported. The names are part of
``--json`` and stable."""

RANK = (ERROR, WARNING, NOTE)


def examine(config: Config, mistakes: tuple[str, ...] = (), root: str = "/") -> dict[str, Any]:
    """The document of ``doctor --json``; its keys are in pdreactor(8). Raises PermissionDenied."""
    return document(judged(facts(config, mistakes, root)))


def judged(known: Facts) -> list[tuple[str, Finding]]:
    """(name of the check, finding), the worst first."""
    found = [(name, one) for name, judge in CHECKS.items() for one in dict.fromkeys(judge(known))]
    return sorted(found, key=lambda pair: RANK.index(pair[1].severity))


def document(found: Iterable[tuple[str, Finding]]) -> dict[str, Any]:
    """``ok`` is false when something cannot work: an error."""
    findings = [{"check": name, **one._asdict()} for name, one in found]
    return {"ok": all(one["severity"] != ERROR for one in findings), "findings": findings}


def lines(told: dict[str, Any]) -> list[str]:
    """The document as a person reads it."""
    text = []
    for one in told["findings"]:
        text += [f"{one['severity']}: {one['what']}", f"  where: {one['where']}",
                 f"  fix:   {one['fix']}"]
    return text or ["nothing found that would keep pdreactor from working"]
