"""From samples to rows with targets and verdicts, and their views: text and JSON. Pure."""

from statistics import median, quantiles
from typing import Any, NamedTuple

from .measure import Cleaning, Loss


class Row(NamedTuple):
    """One line of the table. ``most`` is the target: the value may not be larger."""

    name: str
    unit: str
    value: float
    most: float | None = None
    peer: float | None = None
    spread: str = ""

    @property
    def missed(self) -> bool:
        """True when the target is missed."""
        return self.most is not None and self.value > self.most


class Samples(NamedTuple):
    """Everything that was measured; seconds. A dictionary has "pdreactor", and "peer" if any."""

    first_packet: dict[str, list[float]]
    whole: dict[str, list[float]]
    memory: dict[str, list[int]]  # KiB
    losses: dict[str, Loss]
    irrelevant: dict[str, list[float]]
    translations: dict[int, dict[str, list[float]]]  # change, first_packet (s); rate (flows/s)
    cleaning: list[Cleaning]


def rows(samples: Samples) -> list[Row]:
    """The table."""
    return [*_changes(samples), *_losses(samples), *_irrelevant(samples),
            *_translations(samples), *_cleaning(samples)]


def _changes(samples: Samples) -> list[Row]:
    first = _timing("hook start to first packet", samples.first_packet)
    found = [first]
    if first.peer:
        found.append(Row("... divided by the peer's", "", first.value / first.peer, 0.8))
    found.append(_timing("whole hook process", samples.whole, 250))
    memory = {name: max(kib) / 1024 for name, kib in samples.memory.items()}
    found.append(Row("peak memory of the hook", "MB", memory["pdreactor"], 60, memory.get("peer")))
    return found


def _timing(name: str, by: dict[str, list[float]], most: float | None = None) -> Row:
    own, other = by["pdreactor"], by.get("peer")
    return Row(name, "ms", _ms(own), most, _ms(other) if other else None, _spread(own))


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


def _ms(samples: list[float]) -> float:
    return median(samples) * 1000


def _spread(samples: list[float]) -> str:
    """The middle half, and the extremes."""
    if len(samples) < 4:
        return f"{min(samples) * 1000:.0f}..{max(samples) * 1000:.0f}"
    low, _, high = (1000 * cut for cut in quantiles(samples, n=4))
    return f"{low:.1f}-{high:.1f} of {min(samples) * 1000:.0f}..{max(samples) * 1000:.0f}"


# ---- views ---------------------------------------------------------------------------------------


def text(table: list[Row]) -> str:
    """The table for a terminal."""
    head = f"{'':<38}{'pdreactor':>10}{'peer':>9}     {'at most':>8} {'':7} middle half of all"
    return "\n".join([head, *map(_line, table)])


def _line(row: Row) -> str:
    target = "" if row.most is None else f"{row.most:g}"
    verdict = "" if row.most is None else "MISSED" if row.missed else "ok"
    cells = f"{row.name:<38}{_number(row.value):>10}{_number(row.peer):>9} {row.unit:<4}"
    return f"{cells}{target:>8} {verdict:<7} {row.spread}".rstrip()


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def document(table: list[Row], samples: Samples, about: dict[str, Any]) -> dict[str, Any]:
    """The table and all samples, for JSON."""
    found = [{**row._asdict(), "ok": None if row.most is None else not row.missed} for row in table]
    raw = samples._asdict()
    raw["losses"] = {name: one._asdict() for name, one in samples.losses.items()}
    raw["cleaning"] = [one._asdict() for one in samples.cleaning]
    return {"about": about, "rows": found, "samples": raw}
