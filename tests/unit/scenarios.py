"""NAT scenarios: a configuration, what happened, and the ``Nat`` that follows from them."""

from collections.abc import Mapping
from functools import partial

from pdreactor import transition
from pdreactor.desired import desired
from pdreactor.model import Config, Event, Nat, Translation, Uplink
from pdreactor.nat import nftables
from pdreactor.nat.table import Ruleset, seen

from .values import CONFIG, LAN, NOW, P1, P2, WAN, WAN2, N, after, config, reply, told

UP = {"wan0": True, "wan1": True}
NEXT = Translation(("wan",), N("fd5e:ed00:1234:40::/58"), subnet=1)
P56 = N("2001:db8:4000::/56")
LATER = NOW + 100
BOTH = (LAN._replace(uplinks=("wan", "wan2")),)


def nat(config: Config, *events: Event, links: Mapping[str, bool] = UP, now: int = NOW,
        second: Event | None = None, mode: str = "") -> Nat:
    """What the kernel should hold after these events on wan, and one on wan2."""
    if mode:
        config = config._replace(
            translations=tuple(t._replace(mode=mode) for t in config.translations))
    known = after(*events, config=config)
    if second:
        known = after(second, state=known, uplink=WAN2, config=config)
    known = transition.after_time(known, config, now)
    return desired(config, known, links, now).nat


def one(translation: Translation, *events: Event, uplink: Uplink = WAN, **rest) -> Nat:
    return nat(config(translation, uplinks=(uplink,)), *events, **rest)


FIRST = reply(*told(P1))
SECOND = reply(*told(P2))
LARGE = reply(*told(P56))
WITHDRAW = LAN._replace(on_expire="withdraw")
BYPASS = WAN._replace(bypass=(N("fd00:1::/48"), N("fd00:2::1/128")))
NEUTRAL = N("2001:db8:ce1a:c0::/58")
TWO_UPLINKS = config(*BOTH, uplinks=(WAN, WAN2))
TABLES = (WAN._replace(table=201), WAN2._replace(table=202))

def built(mode: str) -> dict[str, Nat]:
    """Every scenario, its translations in this mode."""
    made, single = partial(nat, mode=mode), partial(one, mode=mode)
    return {
        "no-prefix-yet": made(CONFIG),
        "first-prefix": made(CONFIG, FIRST),
        "prefix-changed": made(CONFIG, FIRST, SECOND),
        "prefix-changed-back": made(CONFIG, FIRST, SECOND, FIRST),
        "old-prefix-over": made(CONFIG, FIRST, reply(*told(P2, valid=600)), now=LATER),
        "taken-back": made(CONFIG, FIRST, reply(*told(P1, valid=0, preferred=0))),
        "expired-but-kept": made(CONFIG, FIRST, now=LATER),
        "expired-and-withdrawn": single(WITHDRAW, FIRST, now=LATER),
        "delegation-too-short": made(CONFIG, reply(*told("2001:db8:4000::/60"))),
        "delegation-too-short-partial": single(LAN._replace(on_short="partial"),
                                            reply(*told("2001:db8:4000::/60"))),
        "third-slice-of-a-56": single(LAN._replace(subnet=3), LARGE),
        "several-translations": made(config(LAN, NEXT), LARGE),
        "one-of-two-translations-served": made(config(LAN, NEXT), FIRST),
        "excluded-prefix": single(LAN, reply(*told(P1, excluded="2001:db8:4000:3f::/64"))),
        "inbound-off": single(LAN._replace(inbound=False), FIRST),
        "hairpin-off": single(LAN._replace(hairpin=False), FIRST),
        "inbound-and-hairpin-off": single(
            LAN._replace(inbound=False, hairpin=False), FIRST, SECOND),
        "guard-off": made(CONFIG._replace(guard=False), FIRST),
        "guard-off-no-prefix-yet": made(CONFIG._replace(guard=False)),
        "bypass": single(LAN, FIRST, uplink=BYPASS),
        "two-uplinks": made(TWO_UPLINKS, FIRST, second=SECOND),
        "two-uplinks-one-without-prefix": made(TWO_UPLINKS, FIRST),
        "two-uplinks-expired": made(
            TWO_UPLINKS, FIRST, second=reply(*told(P2, valid=600)), now=LATER),
        "two-uplinks-one-interface": made(
            config(*BOTH, uplinks=(
                WAN._replace(iaid=1), WAN2._replace(interface="wan0", iaid=2))),
            FIRST, second=SECOND),
        "link-down": made(CONFIG, FIRST, links={"wan0": False}),
        "link-not-there": made(CONFIG, FIRST, links={}),
        "other-mark": made(CONFIG._replace(ct_mark_mask=0xF0), FIRST),
        "host-routes": single(LAN._replace(internal=N("fd5e:ed00:1234::1/128")), reply(
            *told("2001:db8:4000::7/128"))),
    }


CHANGED = {
    "prefix-changed": "first-prefix",
    "prefix-changed-back": "prefix-changed",
    "old-prefix-over": "prefix-changed",
    "taken-back": "first-prefix",
    "expired-and-withdrawn": "first-prefix",
    "link-down": "first-prefix",
}

SCENARIOS: dict[str, Nat] = {
    **built("netmap"),
    **{f"stateless-{name}": nat for name, nat in built("stateless").items()},
    "stateless-bypass-inbound-off": one(LAN._replace(inbound=False), FIRST, uplink=BYPASS,
                                        mode="stateless"),
    "stateless-checksum-neutral-by-chance": one(LAN, reply(*told(NEUTRAL)), mode="stateless"),
    "tables": nat(config(*BOTH, uplinks=TABLES), FIRST, second=SECOND),
    "tables-guard-only": nat(config(*BOTH, uplinks=TABLES), FIRST, second=SECOND)._replace(
        lanes=(), modes=frozenset()),
    "tables-no-prefix-yet": nat(config(*BOTH, uplinks=TABLES)),
    "tables-one-by-one": nat(config(
        LAN, NEXT._replace(uplinks=("wan2",), internal=N("fd00:77::/58"), subnet=0),
        uplinks=TABLES, ct_mark_mask=0xF0), FIRST, second=SECOND),
    "tables-of-one-uplink-only": nat(
        config(LAN, uplinks=(TABLES[0], WAN2)), FIRST, second=SECOND),
    "both-modes": nat(config(LAN, NEXT._replace(mode="stateless")), LARGE),
    "both-modes-changed": nat(config(LAN, NEXT._replace(mode="stateless")), LARGE, SECOND),
}

CHANGES: dict[str, str] = {
    **CHANGED,
    **{f"stateless-{name}": f"stateless-{before}" for name, before in CHANGED.items()},
    "stateless-first-prefix": "first-prefix",
    "stateless-hairpin-off": "stateless-two-uplinks",
    "both-modes-changed": "both-modes",
    "tables": "two-uplinks",
    "tables-of-one-uplink-only": "tables",
}
"""Scenarios whose golden text is the change from another one; all others begin with no table."""


def as_observed(ruleset: Ruleset) -> Ruleset:
    """What observe() makes of a table once it is in the kernel."""
    rules, branches = ({chain: seen(rules) for chain, rules in chains.items()}
                       for chains in (ruleset.rules, ruleset.branches))
    return ruleset._replace(rules=rules, branches=branches)


def table(name: str, slot: int = 1) -> Ruleset:
    """The table of a scenario, as observed."""
    return as_observed(nftables.place(nftables.render(SCENARIOS[name]), slot))


def change(name: str) -> nftables.Change:
    """The change of a scenario's golden text."""
    observed = table(CHANGES[name]) if name in CHANGES else None
    found = nftables.plan(SCENARIOS[name], observed)
    assert found is not None
    return found


