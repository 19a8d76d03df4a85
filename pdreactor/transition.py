"""What an event does to the state (pure): the table "From event to state" of the man page.

=============================================  =================================================
the event says                                 the prefix becomes
=============================================  =================================================
a prefix with lifetimes                        current, its lifetimes counted from now
a prefix with valid lifetime 0, or RELEASE6    gone
a newer reply without a prefix that was there  superseded: served inbound until it expires
anything else                                  what it was
=============================================  =================================================

A prefix that stops being current dooms its outbound flows, a prefix that goes dooms all of them;
the pass removes doomed flows from conntrack once the new rules are in.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv6Network
from typing import TYPE_CHECKING

from . import marks
from .errors import Refused
from .model import (
    SOURCES,
    Config,
    Delegation,
    Down,
    Event,
    Happening,
    Prefix,
    Refusal,
    Stamp,
    State,
    Uplink,
    UplinkState,
)

if TYPE_CHECKING:
    from .ways import Steering

HISTORY = 50
"""How many happenings the state file keeps."""

STATIC = "static"
"""The reason of what the configuration says, which nobody learned."""

EMPTY = State(uplinks={})


def after_event(state: State, event: Event, uplink: Uplink, config: Config, now: int,
                on_link: Iterable[IPv6Network] = ()) -> State:
    """The state once ``event`` is known on ``uplink``; the same object when nothing changed.

    ``on_link`` are the prefixes of the uplink's own link. Raises Refused when a prefix belongs to
    it, to another uplink or to the LAN, or when there are too many to be told apart.
    """
    if event.delegations is None and event.reason != "RELEASE6":
        return state
    before = state.uplinks.get(uplink.name) or UplinkState(_free_number(state, config))
    _refuse_foreign(state, event, uplink, config)
    _refuse_on_link(event, tuple(on_link))
    prefixes = _prefixes_after(before, event, _blocked(state, before), config, now)
    after = before._replace(prefixes=prefixes, refusal=None)
    if uplink.learns and prefixes != before.prefixes:
        learned = state.lineage._replace(generation=state.lineage.generation + 1)
        state = state._replace(lineage=learned)
    return _replace(state, uplink.name, after, event, now)


def tells_nothing_new(state: State, event: Event, uplink: Uplink, now: int) -> bool:
    """True when an event names just the prefixes that are current on ``uplink``, or none."""
    if event.delegations is None:
        return True
    known = state.uplinks.get(uplink.name, UplinkState(0)).prefixes
    current = {p.network for p in known if p.superseded_at is None and not p.expired(now)}
    return current == {d.network for d in event.delegations if d.valid != 0}


def after_import(state: State, told: Mapping[str, UplinkState], config: Config, now: int,
                 near: Mapping[str, Iterable[IPv6Network]]) -> State:
    """The state once these uplinks are as another node knows them, with its numbers and
    generations: marks of flows have to mean the same on both. What a health checker said and what
    was refused stay this node's own. ``near`` has the prefixes on each uplink's own link.

    Raises Refused as ``after_event`` does.
    """
    event = Event("import", "")
    state = _out_of_the_way(state, told, config)
    for name, uplink in told.items():
        before = state.uplinks.get(name, uplink)
        after = uplink._replace(down=before.down, refusal=before.refusal)
        state = _replace(state, name, after, event, now)
    for name, uplink in told.items():
        said = tuple(Delegation(p.network, p.iaid, None, None, p.excluded) for p in uplink.prefixes)
        _refuse_foreign(state, event._replace(delegations=said), config.uplink(name), config)
        _refuse_on_link(event._replace(delegations=said), tuple(near.get(name, ())))
    return state


def _out_of_the_way(state: State, told: Mapping[str, UplinkState], config: Config) -> State:
    """Other uplinks give up the numbers that the told ones bring along."""
    mask, numbers = config.ct_mark_mask, {uplink.number for uplink in told.values()}
    generations = {p.generation for uplink in told.values() for p in uplink.prefixes}
    if (max(numbers, default=0) > marks.uplinks(mask)
            or max(generations, default=0) >= marks.generations(mask)):
        raise Refused(f"its numbers do not fit firewall.ct_mark_mask {mask:#010x}: both nodes need "
                      f"the same mask")
    for name, other in state.uplinks.items():
        if name not in told and other.number in numbers:
            free = _free_number(state, config, numbers)
            state = state._replace(uplinks={**state.uplinks, name: other._replace(number=free)})
    return state


def after_refusal(state: State, uplink: str, reason: str, message: str, config: Config,
                  now: int) -> State:
    """The state with a refusal noted; everything else stays as it was."""
    before = state.uplinks.get(uplink) or UplinkState(_free_number(state, config))
    after = before._replace(refusal=Refusal(now, reason, message))
    news = Happening(now, uplink, reason, f"refused: {message}")
    return state._replace(uplinks={**state.uplinks, uplink: after},
                          history=(*state.history, news)[-HISTORY:])


def after_use(state: State, uplink: str, down: Down | None, config: Config) -> State:
    """The state with an uplink taken out of use, or back in; the same object when it is so
    already."""
    before = state.uplinks.get(uplink) or UplinkState(_free_number(state, config))
    if before.down == down or (down and before.down and before.down.reason == down.reason):
        return state
    return state._replace(uplinks={**state.uplinks, uplink: before._replace(down=down)})


def after_steering(state: State, steering: "Steering", config: Config, now: int) -> State:
    """The state once new flows are led as ``steering`` says: whatever an uplink that cannot be used
    has of flows, or one whose lifetime is over, is doomed when others take its place. They would
    hang; now they begin anew."""
    taken = dict(steering.leading)
    lost = {name: known if name in steering.unusable else _expired(known, now)
            for name, known in state.uplinks.items()}
    out = {*steering.unusable, *(name for name, known in lost.items() if known.prefixes)}
    left = tuple(sorted({name for t in config.translations for name in t.uplinks
                         if name in out and taken.get(t.internal, "") not in ("", name)}))
    gone = [lost.get(name) for name in left if name not in state.left]
    doomed = {*state.doomed, *(stamp for uplink in gone for stamp in _live(uplink))}
    news = _moves(dict(state.leading), steering, now)
    return state._replace(leading=steering.leading, left=left, doomed=tuple(sorted(doomed)),
                          history=(*state.history, *news)[-HISTORY:])


def _expired(known: UplinkState, now: int) -> UplinkState:
    """The uplink with no other prefixes than expired ones that ``on_expire`` keeps."""
    return known._replace(prefixes=tuple(
        p for p in known.prefixes if p.superseded_at is None and p.expired(now)))


def _moves(before: dict[IPv6Network, str], steering: "Steering", now: int) -> list[Happening]:
    """A line for each pair of uplinks."""
    moved: dict[tuple[str, str], list[IPv6Network]] = {}
    for internal, uplink in steering.leading:
        if before.get(internal, uplink) != uplink:
            moved.setdefault((before[internal], uplink), []).append(internal)
    return [Happening(now, new or old, "uplink", _move(old, new, among, steering))
            for (old, new), among in moved.items()]


def _move(old: str, new: str, among: list[IPv6Network], steering: "Steering") -> str:
    what = str(among[0]) if len(among) == 1 else f"{len(among)} internal prefixes"
    reason = f": {steering.unusable[old]}" if old in steering.unusable else ""
    if not new:
        return f"no uplink for new flows of {what} any more{reason}"
    return f"new flows of {what} by {new}" + (f" and not {old}{reason}" if old else "")


def after_time(state: State, config: Config, now: int) -> State:
    """The state without the prefixes whose time has come: superseded ones that expired, and
    current ones that nothing keeps (``on_expire``)."""
    for name, before in state.uplinks.items():
        kept = tuple(p for p in before.prefixes if not _over(p, before, name, config, now))
        if len(kept) != len(before.prefixes):
            event = Event("lifetime over", "")
            state = _replace(state, name, before._replace(prefixes=kept), event, now)
    return state


def after_configuration(state: State, config: Config, now: int) -> State:
    """The state with the static prefixes of the configuration in it, as if an event told them, and
    with numbers that fit its mask."""
    state = _fitting(state, config)
    for name in state.uplinks.keys() - {uplink.name for uplink in config.uplinks}:
        state = _without(state, name, now)
    for uplink in config.uplinks:
        known = state.uplinks.get(uplink.name, UplinkState(0)).prefixes
        if uplink.prefix is not None and [p.network for p in known] != [uplink.prefix]:
            state = _with_static(state, uplink, uplink.prefix, config, now)
        state = _without_former(state, uplink, now)
    return _with_modes(state, config)


def _with_modes(state: State, config: Config) -> State:
    """A translation that goes over to another mode: the flows that conntrack translates have to
    go, or those that it does not. Likewise where one loses an uplink with a table, or that the
    table: by its mark nothing would lead a flow there any more, but to another uplink with a wrong
    source."""
    modes = tuple((t.internal, name, t.mode) for t in config.translations for name in t.uplinks)
    tabled = tuple(uplink.name for uplink in config.uplinks if uplink.table is not None)
    if (modes, tabled) == (state.modes, state.tabled):
        return state
    before = {(internal, name): mode for internal, name, mode in state.modes}
    changed = [one for one in modes if before.get(one[:2], one[2]) != one[2]]
    untracked = {one[1] for one in changed if before[one[:2]] == "netmap"}
    dropped = {name for _, name in before.keys() - {one[:2] for one in modes}}
    lost = {name for name in state.tabled if name in dropped or name not in tabled}
    doomed = {stamp for name in untracked | lost for stamp in _live(state.uplinks.get(name))}
    return state._replace(
        modes=modes, tabled=tabled, doomed=tuple(sorted({*state.doomed, *doomed})),
        exposed=state.exposed or any(mode == "netmap" for _, _, mode in changed))


def _without_former(state: State, uplink: Uplink, now: int) -> State:
    """What another source of the uplink showed lasts until the one of now tells something: nobody
    said for how long it is valid, so it is not served any longer."""
    known = state.uplinks.get(uplink.name, UplinkState(0))
    kept = tuple(p for p in known.prefixes if p.superseded_at is None or p.reason not in SOURCES
                 or p.reason == uplink.source)
    if len(kept) == len(known.prefixes):
        return state
    return _replace(state, uplink.name, known._replace(prefixes=kept), Event("not configured", ""),
                    now)


def _without(state: State, name: str, now: int) -> State:
    """The configuration has this uplink no more: all its flows end."""
    nothing = state.uplinks[name]._replace(prefixes=())
    state = _replace(state, name, nothing, Event("not configured", ""), now)
    return state._replace(uplinks={k: v for k, v in state.uplinks.items() if k != name})


def _with_static(state: State, uplink: Uplink, prefix: IPv6Network, config: Config,
                 now: int) -> State:
    known = state.uplinks.get(uplink.name, UplinkState(0))
    told = Delegation(prefix, None, None, None)
    gone = (Delegation(p.network, None, 0, 0) for p in known.prefixes if p.network != prefix)
    event = Event(STATIC, uplink.interface, (told, *gone))
    try:
        return after_event(state, event, uplink, config, now)
    except Refused as refused:
        if known.refusal and known.refusal.message == str(refused):
            return state
        return after_refusal(state, uplink.name, STATIC, str(refused), config, now)


def _fitting(state: State, config: Config) -> State:
    """All numbers anew when one does not fit ct_mark_mask: it was another one then, and whatever
    flows were stamped with cannot be read any more."""
    mask = config.ct_mark_mask
    room = marks.generations(mask)
    generations = [p.generation for u in state.uplinks.values() for p in u.prefixes]
    if (max(generations, default=0) < room
            and all(u.number <= marks.uplinks(mask) for u in state.uplinks.values())):
        return state
    uplinks = {}
    for number, uplink in enumerate(config.uplinks, 1):
        known = state.uplinks.get(uplink.name, UplinkState(0))
        prefixes = tuple(p._replace(generation=g) for g, p in enumerate(known.prefixes[:room]))
        uplinks[uplink.name] = known._replace(number=number, prefixes=prefixes)
    return state._replace(uplinks=uplinks, doomed=())


def _over(prefix: Prefix, among: UplinkState, name: str, config: Config, now: int) -> bool:
    if not prefix.expired(now):
        return False
    if prefix.superseded_at is not None:
        return True
    if any(p.superseded_at is None and not p.expired(now) for p in among.prefixes):
        return True
    return not any(name in t.uplinks and t.on_expire == "keep" for t in config.translations)


def _prefixes_after(before: UplinkState, event: Event, blocked: set[int], config: Config,
                    now: int) -> tuple[Prefix, ...]:
    """The uplink's prefixes after the event, the reply's first and in its order."""
    if event.delegations is None:  # RELEASE6
        return ()
    current: list[Prefix] = []
    rest = {p.network: p for p in before.prefixes}
    for delegation in event.delegations:
        known = rest.pop(delegation.network, None)
        if delegation.valid == 0:
            continue
        known = known or _grown(rest, delegation)
        current.append(_updated(known, delegation, event, now))
    for network in [n for n in rest if any(n.overlaps(p.network) for p in current)]:
        del rest[network]
    named = {d.network for d in event.withdrawn}
    left = [_superseded(p, bool(current) or p.network in named, now) for p in rest.values()]
    left = [p for p in left if p.superseded_at is None or not p.expired(now)]
    return _numbered(current, left, blocked, config)


def _grown(rest: dict[IPv6Network, Prefix], delegation: Delegation) -> Prefix | None:
    """The prefix that became this larger one: same address, so its slices and flows stay valid."""
    for network, prefix in rest.items():
        if (network.network_address == delegation.network.network_address
                and network.prefixlen > delegation.network.prefixlen):
            del rest[network]
            return prefix
    return None


def _updated(known: Prefix | None, delegation: Delegation, event: Event, now: int) -> Prefix:
    return Prefix(
        network=delegation.network,
        iaid=delegation.iaid,
        preferred_until=None if delegation.preferred is None else now + delegation.preferred,
        valid_until=None if delegation.valid is None else now + delegation.valid,
        generation=-1 if known is None else known.generation,
        learned_at=now if known is None else known.learned_at,
        updated_at=now,
        reason=event.reason,
        excluded=delegation.excluded,
    )


def _superseded(prefix: Prefix, yes: bool, now: int) -> Prefix:
    return prefix._replace(superseded_at=now) if yes and prefix.superseded_at is None else prefix


def _numbered(current: list[Prefix], left: list[Prefix], blocked: set[int],
              config: Config) -> tuple[Prefix, ...]:
    """Give new prefixes a generation nobody uses; the oldest superseded ones make room."""
    room = marks.generations(config.ct_mark_mask)
    if len(current) > room:
        raise Refused(f"{len(current)} prefixes on one uplink: firewall.ct_mark_mask tells "
                      f"{room} apart; give each IA_PD an uplink of its own (iaid)")
    left.sort(key=lambda p: p.superseded_at or 0, reverse=True)
    left = left[: room - len(current)]
    used = {p.generation for p in current + left}
    free = [g for g in range(room) if g not in used | blocked]
    free += [g for g in range(room) if g in blocked and g not in used]
    numbered = [p if p.generation >= 0 else p._replace(generation=free.pop(0)) for p in current]
    return (*numbered, *left)


def _blocked(state: State, before: UplinkState) -> set[int]:
    """Generations that have flows, also of a prefix that goes with this very event: they are taken
    again only as a last resort, or those flows could not be told from the new prefix's."""
    doomed = {stamp.generation for stamp in state.doomed if stamp.uplink == before.number}
    return doomed | {prefix.generation for prefix in before.prefixes}


def _free_number(state: State, config: Config, taken: Iterable[int] = ()) -> int:
    used = {u.number for u in state.uplinks.values()} | set(taken)
    for number in range(1, marks.uplinks(config.ct_mark_mask) + 1):
        if number not in used:
            return number
    raise Refused(f"firewall.ct_mark_mask has no room for another uplink "
                  f"({len(used)} are known to the state file; see pdreactor unset)")


def _refuse_foreign(state: State, event: Event, uplink: Uplink, config: Config) -> None:
    """A prefix belongs to one uplink only, and is not one that the LAN uses inside."""
    taken = [(t.internal, "the configuration (internal)") for t in config.translations]
    for other in config.uplinks:
        known = state.uplinks.get(other.name) if other.name != uplink.name else None
        taken += [(p.network, f"uplink {other.name}") for p in (known.prefixes if known else ())]
    for delegation in event.delegations or ():
        for network, owner in taken:
            if delegation.valid != 0 and delegation.network.overlaps(network):
                raise Refused(f"prefix {delegation.network} overlaps {network} of {owner}")


def _refuse_on_link(event: Event, on_link: tuple[IPv6Network, ...]) -> None:
    """What is delegated is not on the link towards the ISP, but for an excluded prefix (RFC 6603
    section 3: that is what it is for)."""
    for delegation in event.delegations or ():
        excluded = delegation.excluded
        for network in on_link if delegation.valid != 0 else ():
            if excluded is not None and network.subnet_of(excluded):
                continue
            if network.overlaps(delegation.network):
                raise Refused(f"prefix {delegation.network} overlaps {network}, which is on the "
                              f"uplink's own link")


def _replace(state: State, name: str, after: UplinkState, event: Event, now: int) -> State:
    """Put an uplink's new state in: doom flows that lost their prefix, remember what happened."""
    before = state.uplinks.get(name)
    doomed = _doomed(state, before, after)
    news = [Happening(now, name, event.reason, text) for text in _differences(before, after)]
    return state._replace(uplinks={**state.uplinks, name: after}, doomed=doomed,
                          history=(*state.history, *news)[-HISTORY:])


def _live(uplink: UplinkState | None) -> set[Stamp]:
    """The stamps of flows that may go on: all of a current prefix, inbound ones of a superseded."""
    stamps: set[Stamp] = set()
    for prefix in uplink.prefixes if uplink else ():
        stamps.add(Stamp(uplink.number, prefix.generation, True))  # type: ignore[union-attr]
        if prefix.superseded_at is None:
            stamps.add(Stamp(uplink.number, prefix.generation, False))  # type: ignore[union-attr]
    return stamps


def _doomed(state: State, before: UplinkState | None, after: UplinkState) -> tuple[Stamp, ...]:
    return tuple(sorted((set(state.doomed) | _live(before)) - _live(after)))


def _differences(before: UplinkState | None, after: UplinkState) -> list[str]:
    old = {p.network: p for p in before.prefixes} if before else {}
    new = {p.network: p for p in after.prefixes}
    lines = [f"{n} learned" for n in new if n not in old]
    lines += [f"{n} superseded" for n, p in new.items()
              if p.superseded_at is not None and n in old and old[n].superseded_at is None]
    lines += [f"{n} current again" for n, p in new.items()
              if p.superseded_at is None and n in old and old[n].superseded_at is not None]
    return lines + [f"{n} gone" for n in old if n not in new]
