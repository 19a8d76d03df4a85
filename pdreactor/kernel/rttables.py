"""The names of routing tables, as ip(8) reads them: rt_tables of iproute2."""

from collections.abc import Iterator
from pathlib import Path

DIRECTORIES = ("/usr/lib/iproute2", "/usr/share/iproute2", "/etc/iproute2")
"""In newer releases the distribution's own names are below /usr; what is in /etc counts more."""


def names() -> dict[str, int]:
    """{name: number} of every table that has a name. A file that cannot be read has none."""
    found: dict[str, int] = {}
    for directory in map(Path, DIRECTORIES):
        for file in (directory / "rt_tables", *sorted(directory.glob("rt_tables.d/*.conf"))):
            found.update(_named(file))
    return found


def _named(file: Path) -> Iterator[tuple[str, int]]:
    try:
        lines = file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        number, *rest = line.partition("#")[0].split() or ("",)
        try:
            if len(rest) == 1:
                yield rest[0], int(number, 0)
        except ValueError:
            continue
