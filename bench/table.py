"""From samples to rows with targets and verdicts, and their views: text and JSON. Pure."""

from statistics import median, quantiles
from typing import Any, NamedTuple

from .measure import Asked, Cleaning, Loss, Placed, Uplinks, Watched
from .rig import Run


class Row(NamedTuple):
    """One line of the table. The target is ``most`` (the value may not be larger) or ``least``."""

    name: str
    unit: str
    value: float
    most: float | None = None
    peer: float | None = None
    spread: str = ""
    least: float | None = None

    @property
    def missed(self) -> bool:
        """True when the target is missed."""
        if self.most is not None:
            return self.value > self.most
        return self.least is not None and self.value < self.least

    @property
    def target(self) -> str:
        """The target in words; "" without one."""
        if self.most is not None:
            return f"<= {self.most:g}"
        return "" if self.least is None else f">= {self.least:g}"

    @property
    def verdict(self) -> str:
        """Whether it is met; "" without one."""
        return "" if not self.target else "MISSED" if self.missed else "ok"


class Samples(NamedTuple):
    """Everything that was measured; seconds. A dictionary has "pdreactor", and "peer" if any."""

    first_packet: dict[str, list[float]]  # some of rig.VARIANTS, too
    whole: dict[str, list[float]]
    memory: dict[str, list[int]]  # KiB
    losses: dict[str, Loss]
    irrelevant: dict[str, list[float]]
    forwarded: dict[str, list[float]]  # flows/s; "plain", and those of rig.VARIANTS
    uplinks: Uplinks
    placed: Placed
    watched: Watched
    translations: dict[int, dict[str, list[float]]]  # change, first_packet (s); rate (flows/s)
    cleaning: list[Cleaning]
    asked: Asked


def rows(samples: Samples) -> list[Row]:
    """The table."""
    return [*first_packets(samples), *_changes(samples), *_losses(samples), *_irrelevant(samples),
            *_uplinks(samples), *_placed(samples), *_watched(samples), *forwarding(samples),
            *_translations(samples), *_cleaning(samples), *_proxying(samples)]


AGAINST_PEER = {"pdreactor": 0.8, "iptables": 0.8}
"""Targets: the time to the first packet, divided by the peer's."""
AGAINST_VARIANTS = {"plain": 0.8, "netmap": 1.4}
"""Targets: what comes through in mode stateless, divided by what comes through there."""


def first_packets(samples: Samples) -> list[Row]:
    """From starting the hook to the first packet."""
    by, found = samples.first_packet, []
    peer = _ms(by["peer"]) if "peer" in by else None
    for name, own in by.items():
        if name == "peer":
            continue
        what = "hook start to first packet" if name == "pdreactor" else f"... {name}"
        found.append(Row(what, "ms", _ms(own), None, peer, _spread(own)))
        if peer and name in AGAINST_PEER:
            ratio = _ms(own) / peer
            found.append(Row(f"... {name}, divided by the peer's", "", ratio, AGAINST_PEER[name]))
    return found


def forwarding(samples: Samples) -> list[Row]:
    """New flows for each second of a core."""
    by = samples.forwarded
    found = []
    for name, rates in by.items():
        found.append(Row(f"new flows/s, {name}", "k", median(rates) / 1000,
                         spread=_spread(rates, 1 / 1000)))
        if name != "stateless":
            continue
        for other, least in AGAINST_VARIANTS.items():
            pairs = [own / theirs for own, theirs in zip(rates, by[other], strict=True)]
            found.append(Row(f"... {name}, divided by {other}", "", median(pairs),
                             spread=_spread(pairs, 1, 2), least=least))
    return found


def _changes(samples: Samples) -> list[Row]:
    own, other = samples.whole["pdreactor"], samples.whole.get("peer")
    memory = {name: max(kib) / 1024 for name, kib in samples.memory.items()}
    return [
        Row("whole hook process", "ms", _ms(own), 250, _ms(other) if other else None, _spread(own)),
        Row("peak memory of the hook", "MB", memory["pdreactor"], 60, memory.get("peer")),
    ]


def _losses(samples: Samples) -> list[Row]:
    own, other = samples.losses["pdreactor"], samples.losses.get("peer")
    found = []
    for what in ("leaked", "lost"):
        theirs = getattr(other, what) / other.changes if other else None
        found.append(Row(f"packets {what} per change", "", getattr(own, what) / own.changes, 0,
                         theirs, f"{own.changes} changes, {own.sent:,} flows"))
    return found


def _irrelevant(samples: Samples) -> list[Row]:
    by = samples.irrelevant
    peer = _ms(by["peer"]) if "peer" in by else None
    file = _ms(by["hook file"]) - _ms(by["sh"])
    return [
        Row("irrelevant event, hook file", "ms", max(file, 0.0), 5, peer),
        Row("irrelevant event, pdreactor-hook", "ms", _ms(by["pdreactor-hook"]), 20, peer,
            _spread(by["pdreactor-hook"])),
    ]


def _uplinks(samples: Samples) -> list[Row]:
    by, name = samples.uplinks, "two uplinks, with tables:"
    times = [[run.seconds for run in runs] for runs in (by.change, by.same)]
    most = max(run.rss for runs in (by.change, by.same, by.away) for run in runs) / 1024
    return [
        Row(f"{name} whole hook", "ms", _ms(times[0]), 250, spread=_spread(times[0])),
        Row("... nothing to change", "ms", _ms(times[1]), 250, spread=_spread(times[1])),
        Row("... peak memory", "MB", most, 60),
        Row("... set down to first packet by other", "ms", _ms(by.moved),
            spread=_spread(by.moved)),
    ]


def _placed(samples: Samples) -> list[Row]:
    by = samples.placed
    times = [[run.seconds for run in runs] for runs in (by.change, by.same)]
    most = max(run.rss for runs in (by.change, by.same) for run in runs) / 1024
    return [
        Row(f"{by.number:,} addresses and proxies: hook", "ms", _ms(times[0]), 1000,
            spread=_spread(times[0])),
        Row("... all of them as they should be", "ms", _ms(times[1]), 500,
            spread=_spread(times[1])),
        Row("... peak memory with them", "MB", most, 60),
    ]


def _watched(samples: Samples) -> list[Row]:
    by = samples.watched
    return [
        Row("watch: flush to repair, the slowest", "ms", max(by.repairs) * 1000, 50,
            spread=_spread(by.repairs)),
        Row("... dhcpcd's socket to rules, slowest", "ms", max(by.changes) * 1000, 15,
            spread=_spread(by.changes)),
        Row("... of a core while nothing happens", "%", by.idle * 100, 0.1),
        Row("... peak memory of the watch", "MB", by.rss / 1024, 50),
    ]


def _translations(samples: Samples) -> list[Row]:
    found = []
    base = median(samples.translations[1]["rate"])
    for number, by in samples.translations.items():
        name = f"{number:,} translation{'s' if number > 1 else ''}:"
        found.append(Row(f"{name} whole change", "ms", _ms(by["change"]), 1500,
                         spread=_spread(by["change"])))
        found.append(Row(f"{name} first packet", "ms", _ms(by["first_packet"]), 1500,
                         spread=_spread(by["first_packet"])))
        found.append(Row(f"{name} new flows/s", "k", median(by["rate"]) / 1000))
        if number > 1:
            less = 100 * (1 - median(by["rate"]) / base)
            found.append(Row(f"{name} fewer than with 1", "%", max(less, 0.0), 20))
    return found


def _cleaning(samples: Samples) -> list[Row]:
    times = [one.seconds for one in samples.cleaning]
    entries = min(one.entries for one in samples.cleaning)
    left = max(one.left for one in samples.cleaning)
    spread = f"{_spread(times)}, {entries:,} entries, {left:,} left"
    return [Row("first packet to end, full conntrack", "ms", _ms(times), 1000, spread=spread)]


def _proxying(samples: Samples) -> list[Row]:
    by = samples.asked
    name = f"{by.asked:,} solicitations,"
    return [
        Row(f"{name} a second", "k", by.asked / by.seconds / 1000, least=9.9),
        Row("... not answered, and should be", "", by.missing, 0),
        Row("... answered wrongly, or in vain", "", by.wrong + by.unwanted, 0),
        Row("... of a core, of the watch", "%", by.share * 100),
        Row("... peak memory of that watch", "MB", by.rss / 1024, 50),
    ]


def _ms(samples: list[float]) -> float:
    return median(samples) * 1000


def _spread(samples: list[float], unit: float = 1000, digits: int = 0) -> str:
    """The middle half, and the extremes; by default in ms."""
    ends = f"{min(samples) * unit:.{digits}f}..{max(samples) * unit:.{digits}f}"
    if len(samples) < 4:
        return ends
    low, _, high = (unit * cut for cut in quantiles(samples, n=4))
    return f"{low:.{digits or 1}f}-{high:.{digits or 1}f} of {ends}"


# ---- views ---------------------------------------------------------------------------------------


def text(table: list[Row]) -> str:
    """The table for a terminal."""
    head = f"{'':<38}{'pdreactor':>10}{'peer':>9}     {'target':>8} {'':7} middle half of all"
    return "\n".join([head, *map(_line, table)])


def _line(row: Row) -> str:
    cells = f"{row.name:<38}{_number(row.value):>10}{_number(row.peer):>9} {row.unit:<4}"
    return f"{cells}{row.target:>8} {row.verdict:<7} {row.spread}".rstrip()


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def document(table: list[Row], samples: Samples, about: dict[str, Any]) -> dict[str, Any]:
    """The table and all samples, for JSON."""
    found = [{**row._asdict(), "ok": not row.missed if row.target else None} for row in table]
    raw = samples._asdict()
    raw["losses"] = {name: one._asdict() for name, one in samples.losses.items()}
    raw["uplinks"] = {
        name: [one._asdict() if isinstance(one, Run) else one for one in runs]
        for name, runs in samples.uplinks._asdict().items()}
    raw["placed"] = {name: [run._asdict() for run in getattr(samples.placed, name)]
                     for name in ("change", "same")} | {"number": samples.placed.number}
    raw["watched"] = samples.watched._asdict()
    raw["asked"] = samples.asked._asdict()
    raw["cleaning"] = [one._asdict() for one in samples.cleaning]
    return {"about": about, "rows": found, "samples": raw}
