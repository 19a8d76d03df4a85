"""The fast entry: one call of dhcpcd's script.

    environment -> Event -> state file -> reconcile

Most calls end in ``reasons.relevant``. Imports stand where they are needed: what does not matter
to the event is not loaded (a test holds the budget).
"""

import sys

from . import reasons

USAGE = "usage: pdreactor-hook [--environ FILE]   (dhcpcd's script; see pdreactor(8))"


def main(argv: list[str] | None = None) -> int:
    """Run as ``pdreactor-hook``; returns the exit code. At most one line reaches stderr."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["--environ"] and len(arguments) == 2:
        return hook(arguments[1])
    if arguments:
        print(USAGE, file=sys.stderr)
        return 64
    return hook("/proc/self/environ")


def hook(environ: str, config_path: str | None = None, state_dir: str | None = None) -> int:
    """One event from a raw environment block; returns the exit code."""
    try:
        with open(environ, "rb") as file:
            block = file.read()
        if not reasons.relevant(block):
            return 0
        if reasons.rarely(block) and not _cares(block, config_path):
            return 0
        import gc

        gc.disable()  # this process ends before garbage matters
        from .entries import react

        react(block, config_path, state_dir)
        return 0
    except Exception as exc:
        from .errors import EX_SOFTWARE, PdreactorError
        from .log import error

        if isinstance(exc, PdreactorError):
            error(str(exc))
            return exc.exit_code
        error(f"{type(exc).__name__}: {exc} (this is a bug in pdreactor; the last rules stay)")
        return EX_SOFTWARE


def _cares(block: bytes, config_path: str | None) -> bool:
    """Whether such an event can matter to this configuration; what is wrong with that is said when
    a lease event reads it."""
    named = reasons.value(block, b"PDREACTOR_CONFIG") or b"/etc/pdreactor.toml"
    try:
        with open(config_path or named, "rb") as file:
            return reasons.cares(block, file.read())
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(main())
