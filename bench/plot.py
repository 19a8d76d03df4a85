"""A plot of the comparison as SVG, made by hand. Pure."""

from statistics import median

from .table import Samples

WIDTH, LEFT, ROW = 760, 150, 34
COLOURS = {"pdreactor": "#1565c0", "peer": "#c62828"}
STYLE = "<style>text{font:13px sans-serif;fill:#222}.t{font-weight:bold}.s{fill:#666}</style>"


def svg(samples: Samples) -> str:
    """Three panels below each other: first packets, packets leaked, many translations."""
    parts: list[str] = []
    top = _times(samples.first_packet, 10, parts)
    top = _leaks(samples, top, parts)
    top = _many(samples, top, parts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}">'
    ground = f'<rect width="{WIDTH}" height="{top}" fill="white"/>'
    return "\n".join([head, STYLE, ground, *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{text}</text>'


def _place(value: float, most: float) -> float:
    return LEFT + (WIDTH - LEFT - 110) * value / most


def _times(by: dict[str, list[float]], top: float, parts: list[str]) -> float:
    """A dot for each round, a line at the median."""
    most = max(value for values in by.values() for value in values) * 1000
    parts.append(_text(10, top + 14, "From starting the hook to the first packet, ms", "t"))
    y = top + 24
    for name, values in by.items():
        middle = median(values) * 1000
        parts.append(_text(LEFT - 10, y + 18, name, anchor="end"))
        for value in values:
            x = _place(value * 1000, most)
            parts.append(f'<circle cx="{x:.1f}" cy="{y + 14}" r="4" fill="{COLOURS[name]}" '
                         f'fill-opacity="0.35"/>')
        x = _place(middle, most)
        parts.append(f'<path d="M{x:.1f} {y + 2}v24" stroke="{COLOURS[name]}" stroke-width="2"/>')
        parts.append(_text(WIDTH - 100, y + 18, f"median {middle:.1f}", "s"))
        y += ROW
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
        parts += _bar(y, name, value / most, f"{value:.1f}", COLOURS[name])
        y += ROW
    return y + 14


def _many(samples: Samples, top: float, parts: list[str]) -> float:
    """A bar for each number of translations: the whole change."""
    parts.append(_text(10, top + 14, "A whole change by the number of translations, ms", "t"))
    times = {n: median(by["change"]) * 1000 for n, by in samples.translations.items()}
    y = top + 24
    for number, value in times.items():
        rate = median(samples.translations[number]["rate"])
        label = f"{value:.0f} ({rate / 1000:.0f},000 new flows/s)"
        share = 0.8 * value / max(times.values())
        parts += _bar(y, f"{number:,}", share, label, COLOURS["pdreactor"])
        y += ROW
    return y + 14
