"""Configurations, states and events, written short for tests."""

from ipaddress import IPv6Network

from pdreactor import transition
from pdreactor.model import (
    Config,
    Delegation,
    Event,
    Prefix,
    State,
    Translation,
    Uplink,
)

NOW = 1_800_000_000
N = IPv6Network
WAN, WAN2 = Uplink("wan", "wan0"), Uplink("wan2", "wan1")
LAN = Translation(("wan",), N("fd5e:ed00:1234::/58"))
P1, P2, P3 = (N(f"2001:db8:{n}000::/58") for n in (4, 8, 9))


def config(*translations: Translation, uplinks: tuple[Uplink, ...] = (WAN,), **rest) -> Config:
    """A configuration; one translation on ``wan`` unless given."""
    return Config("/etc/pdreactor.toml", "/nowhere", uplinks, translations or (LAN,), **rest)


CONFIG = config()
TWO = config(LAN._replace(uplinks=("wan", "wan2")), uplinks=(WAN, WAN2))


def told(*networks: IPv6Network | str, valid: int | None = 60, preferred: int | None = 40,
         excluded: str | None = None) -> tuple[Delegation, ...]:
    hole = N(excluded) if excluded else None
    return tuple(Delegation(N(n), 1, preferred, valid, hole) for n in networks)


def gone(*networks: IPv6Network | str) -> tuple[Delegation, ...]:
    return told(*networks, valid=0, preferred=0)


def reply(*delegations: Delegation, withdrawn: tuple[Delegation, ...] = (),
          reason: str = "RENEW6", interface: str = "wan0") -> Event:
    return Event(reason, interface, delegations, withdrawn)


def after(*replies: Event, state: State = transition.EMPTY, now: int = NOW, uplink: Uplink = WAN,
          config: Config = CONFIG) -> State:
    """The state after these events, one second apart, the first of them at ``now``."""
    for number, event in enumerate(replies):
        state = transition.after_event(state, event, uplink, config, now + number)
    return state


def prefixes(state: State, uplink: str = "wan") -> tuple[Prefix, ...]:
    return state.uplinks[uplink].prefixes if uplink in state.uplinks else ()


def current(state: State, uplink: str = "wan") -> set[str]:
    return {str(p.network) for p in prefixes(state, uplink) if p.superseded_at is None}


def superseded(state: State, uplink: str = "wan") -> set[str]:
    return {str(p.network) for p in prefixes(state, uplink) if p.superseded_at is not None}


def generation(state: State, network: IPv6Network | str, uplink: str = "wan") -> int:
    return next(p.generation for p in prefixes(state, uplink) if p.network == N(network))
