"""A change of the translation, in words for people."""

MOST_WORDS = 20
"""Lines about translations; the rest is counted."""


def differences(direction: str, before: frozenset[str], after: frozenset[str]) -> list[str]:
    """What is no longer translated, and what is now, for people."""
    arrow = [(sign, text.replace(" : ", " -> ")) for sign, texts in
             (("translate", after - before), ("no longer translate", before - after))
             for text in sorted(texts)]
    lines = [f"{sign} {direction} {text}" for sign, text in arrow[:MOST_WORDS]]
    rest = len(arrow) - len(lines)
    return lines + [f"... and {rest} more {direction}"] * bool(rest)
