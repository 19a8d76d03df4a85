"""A plot of the comparison as SVG, made by hand. Pure."""

from statistics import median

from .table import AGAINST_PEER, AGAINST_VARIANTS, Row, Samples, first_packets, forwarding

WIDTH, LEFT, RIGHT, ROW = 820, 190, 170, 34
OURS = "#1565c0"
COLOURS = {"peer": "#c62828", "plain": "#757575"}
STYLE = ("<style>text{font:13px sans-serif;fill:#222}.t{font-weight:bold}.s{fill:#666}"
         ".bad{fill:#c62828;font-weight:bold}</style>")


def svg(samples: Samples) -> str:
    """Panels below each other: first packets, packets leaked, new flows, many translations."""
    parts: list[str] = []
    top = _times(samples.first_packet, 10, parts)
    top = _targets(first_packets(samples), top, parts)
    top = _leaks(samples, top, parts)
    top = _forwarded(samples.forwarded, top, parts)
    top = _targets(forwarding(samples), top, parts)
    top = _many(samples, top, parts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}">'
    ground = f'<rect width="{WIDTH}" height="{top}" fill="white"/>'
    return "\n".join([head, STYLE, ground, *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    safe = text.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{safe}</text>'


def _place(value: float, most: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * value / most


def _colour(name: str) -> str:
    return COLOURS.get(name, OURS)


def _times(by: dict[str, list[float]], top: float, parts: list[str]) -> float:
    """A dot for each round, a line at the median; dashed, the most that a target allows."""
    most = max(value for values in by.values() for value in values)
    parts.append(_text(10, top + 14, "From starting the hook to the first packet, ms", "t"))
    y = top + 24
    for name, values in by.items():
        middle = median(values)
        parts.append(_text(LEFT - 10, y + 18, name, anchor="end"))
        for value in values:
            parts.append(f'<circle cx="{_place(value, most):.1f}" cy="{y + 14}" r="4" '
                         f'fill="{_colour(name)}" fill-opacity="0.35"/>')
        parts.append(_line(_place(middle, most), y, _colour(name)))
        if "peer" in by and name in AGAINST_PEER:
            target = AGAINST_PEER[name] * median(by["peer"])
            parts.append(_line(_place(target, most), y, "#222", dashed=True))
        parts.append(_text(WIDTH - RIGHT + 10, y + 18, f"median {middle * 1000:.1f}", "s"))
        y += ROW
    return y + 4


def _line(x: float, y: float, colour: str, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="3 3"' if dashed else ""
    return f'<path d="M{x:.1f} {y + 2}v24" stroke="{colour}" stroke-width="2"{dashes}/>'


def _targets(rows: list[Row], top: float, parts: list[str]) -> float:
    """A line of text for each target of a panel (dashed there): said, and whether it is met."""
    y = top
    for row in rows:
        if row.target:
            what, met = row.name.removeprefix("... "), "missed" if row.missed else "met"
            text = f"{what}: {row.value:.2f}, target {row.target}: {met}"
            parts.append(_text(LEFT, y + 12, text, "bad" if row.missed else "s"))
            y += 18
    return y + 14


def _bar(y: float, name: str, share: float, label: str, colour: str) -> list[str]:
    width = max(_place(share, 1) - LEFT, 1)
    return [
        _text(LEFT - 10, y + 18, name, anchor="end"),
        f'<rect x="{LEFT}" y="{y + 4}" width="{width:.1f}" height="20" fill="{colour}"/>',
        _text(LEFT + width + 6, y + 18, label, "s"),
    ]


def _leaks(samples: Samples, top: float, parts: list[str]) -> float:
    """A bar for each subject: what left untranslated or was lost."""
    parts.append(_text(10, top + 14, "Packets leaked or lost per change, 5,000 new flows/s", "t"))
    wrong = {n: (one.leaked + one.lost) / one.changes for n, one in samples.losses.items()}
    most, y = max(*wrong.values(), 1.0), top + 24
    for name, value in wrong.items():
        parts += _bar(y, name, value / most, f"{value:.1f}", _colour(name))
        y += ROW
    return y + 14


def _forwarded(by: dict[str, list[float]], top: float, parts: list[str]) -> float:
    """A bar for each variant, and a thin line over all its rounds; dashed, what is to be met."""
    title = "New flows for each second of a core that sends and forwards, thousands"
    parts.append(_text(10, top + 14, title, "t"))
    most, y = max(value for values in by.values() for value in values), top + 24
    for name, values in by.items():
        middle = median(values)
        label = f"{middle / 1000:.0f}, {middle / median(by['plain']):.2f} of plain"
        bar, end = _bar(y, name, middle / most, "", _colour(name)), _place(max(values), most)
        parts += bar[:2]
        parts.append(f'<path d="M{_place(min(values), most):.1f} {y + 14}H{end:.1f}" '
                     f'stroke="#222"/>')
        for other, least in AGAINST_VARIANTS.items() if name == "stateless" else ():
            parts.append(_line(_place(least * median(by[other]), most), y, "#222", dashed=True))
        parts.append(_text(WIDTH - RIGHT + 10, y + 18, label, "s"))
        y += ROW
    return y + 4


def _many(samples: Samples, top: float, parts: list[str]) -> float:
    """A bar for each number of translations: the whole change."""
    parts.append(_text(10, top + 14, "A whole change by the number of translations, ms", "t"))
    times = {n: median(by["change"]) * 1000 for n, by in samples.translations.items()}
    y = top + 24
    for number, value in times.items():
        rate = median(samples.translations[number]["rate"])
        label = f"{value:.0f} ({rate / 1000:.0f},000 new flows/s)"
        share = 0.8 * value / max(times.values())
        parts += _bar(y, f"{number:,}", share, label, OURS)
        y += ROW
    return y + 14
