"""The verbs and what they print. Nothing below this module knows which of them was called."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from ipaddress import IPv6Network
from typing import Any, NoReturn

from . import __version__, entries, log, metrics, nat, reconciler, report, state, translate
from .errors import (
    EX_IOERR,
    EX_OK,
    EX_SOFTWARE,
    EX_USAGE,
    BackendMissing,
    ConfigError,
    PdreactorError,
    Refused,
    UsageError,
)
from .model import Config, Delegation, Down, Event, Uplink
from .prefix import acceptable, parse_address, parse_decimal, parse_prefix, shown

EPILOG = "Exit codes are those of sysexits.h; see pdreactor(8)."


def main(argv: Sequence[str] | None = None) -> int:
    """Run as ``pdreactor``; returns the exit code."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as exc:
        return EX_USAGE if exc.code else EX_OK
    log.setup(threshold="debug" if options.verbose else "warning" if options.quiet else "info",
              json=options.log_format == "json")
    try:
        code: int = options.verb(options)
        if sys.stdout is not None:  # it was closed when we were started
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the reader has gone: so do we
        return EX_OK
    except KeyboardInterrupt:
        return 130
    except Exception as exc:
        return _failed(exc)


def _failed(exc: Exception) -> int:
    """One line on stderr for each thing that is wrong, and the exit code."""
    if isinstance(exc, ConfigError):
        lines = [f"{exc.path}: {mistake}" for mistake in exc.mistakes]
    elif isinstance(exc, PdreactorError):
        lines = [str(exc)]
    elif isinstance(exc, OSError):
        lines = [f"{exc.filename or 'output'}: {exc.strerror}"]
    else:
        lines = [f"{type(exc).__name__}: {exc} (this is a bug in pdreactor; the last rules stay)"]
    for line in lines:
        log.plain(f"pdreactor: {line}")
    if isinstance(exc, OSError):
        return EX_IOERR
    return exc.exit_code if isinstance(exc, PdreactorError) else EX_SOFTWARE


# ---- the command line ------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pdreactor", description="Follow a delegated IPv6 prefix.", epilog=EPILOG)
    parser.add_argument("-c", dest="config", metavar="FILE",
                        help="configuration (PDREACTOR_CONFIG, /etc/pdreactor.toml)")
    parser.add_argument("--state-dir", metavar="DIR", help="instead of the configuration's")
    loud = parser.add_mutually_exclusive_group()
    loud.add_argument("-v", dest="verbose", action="store_true", help="say more")
    loud.add_argument("-q", dest="quiet", action="store_true", help="only warnings and errors")
    parser.add_argument("--log-format", choices=("console", "json"), default="console")
    parser.add_argument("--version", action="version", version=f"pdreactor {__version__}")
    _add_verbs(parser.add_subparsers(metavar="VERB", required=True))
    return parser


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EX_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def _add_verbs(verbs: Any) -> None:
    hook = _add(verbs, _hook, "hook", "one call of dhcpcd's script")
    hook.add_argument("--environ", metavar="FILE", default="/proc/self/environ",
                      help="the raw environment block")
    _add(verbs, _restore, "restore", "bring the kernel to what the state file says")
    _with_json(_add(verbs, _plan, "plan", "print what a pass would change"))
    status = _add(verbs, _status, "status", "uplinks, prefixes, translations, what is wrong")
    status.add_argument("--format", choices=("text", "json", "prometheus"), default="text",
                        help="prometheus: for its textfile collector")
    status.add_argument("--json", dest="format", action="store_const", const="json",
                        help="stable keys, see pdreactor(8)")
    _add(verbs, _check, "check", "read the configuration and name every mistake")
    ask = _with_json(_add(verbs, _translate, "translate", "a host's address on the other side"))
    ask.add_argument("address")
    tell = _add(verbs, _set, "set", "tell a prefix by hand")
    tell.add_argument("uplink")
    tell.add_argument("prefix")
    tell.add_argument("--preferred", metavar="S", help="preferred lifetime, seconds (infinite)")
    tell.add_argument("--valid", metavar="S", help="valid lifetime, seconds (infinite)")
    unset = _add(verbs, _unset, "unset", "say that a prefix, or all of an uplink, is gone")
    unset.add_argument("uplink")
    unset.add_argument("prefix", nargs="?")
    use = _add(verbs, _use, "uplink", "take an uplink out of use, or back in")
    use.add_argument("uplink")
    use.add_argument("state", choices=("up", "down"))
    use.add_argument("--reason", metavar="TEXT", default="", help="shown by status")
    watch = _add(verbs, _watch, "watch", "stay, and make a pass whenever it is time")
    watch.add_argument("--metrics", metavar="FILE",
                       help="keep this file for Prometheus (status --format prometheus)")
    _with_json(_add(verbs, _doctor, "doctor", "what here would keep it from working, with the fix"))
    _add(verbs, _export, "export", "print what was learned, for a standby node")
    take = _add(verbs, _import, "import", "learn from another node's export, on stdin")
    take.add_argument("--force", action="store_true", help="although it is older, or another one")
    flush = _add(verbs, _flush, "flush", "remove everything of pdreactor from the kernel")
    flush.add_argument("--forget", action="store_true", help="and remove the state")


def _add(verbs: Any, run: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(verb=run)
    return parser


def _with_json(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="stable keys, see pdreactor(8)")
    return parser


# ---- the verbs ---------------------------------------------------------------------------------


def _config(options: argparse.Namespace) -> Config:
    config = entries.configuration(options.config, options.state_dir)
    for warning in config.warnings:
        log.debug(warning)
    return config


def _hook(options: argparse.Namespace) -> int:
    from .hook import hook

    return hook(options.environ, options.config, options.state_dir)


def _restore(options: argparse.Namespace) -> int:
    outcome = reconciler.reconcile(_config(options), "restore")
    for problem in outcome.problems:
        log.warning(problem.message, uplink=problem.uplink)
    return EX_OK


def _plan(options: argparse.Namespace) -> int:
    from . import looking

    pending = looking.look(_config(options)).pending
    if options.json:
        print(json.dumps({"changes": list(pending)}, indent=2))
    else:
        print("\n".join(pending) or "nothing to change")
    return 1 if pending else EX_OK


def _status(options: argparse.Namespace) -> int:
    from . import looking

    config, now = _config(options), int(time.time())
    status = report.status(config, looking.look(config), now)
    if options.format == "prometheus":
        print(metrics.text(status, now), end="")
    elif options.format == "json":
        print(json.dumps(status, indent=2))
    else:
        print("\n".join(report.lines(status)))
    return EX_OK if status["ok"] else 1


def _watch(options: argparse.Namespace) -> int:
    from .watch import Watch

    write = partial(_write_metrics, options.metrics) if options.metrics else None
    return Watch(options.config, options.state_dir, write).run()


def _write_metrics(path: str, config: Config) -> None:
    from . import looking

    now = int(time.time())
    document = report.status(config, looking.look(config), now)
    state.replace_file(path, metrics.text(document, now).encode(), 0o644)


def _check(options: argparse.Namespace) -> int:
    config = entries.configuration(options.config, options.state_dir)
    for warning in (*config.warnings, *_of_this_machine(config)):
        print(f"warning: {config.path}: {warning}")
    print(f"{config.path}: {len(config.uplinks)} uplink(s), {len(config.translations)} "
          f"translation(s), no mistakes")
    return EX_OK


def _doctor(options: argparse.Namespace) -> int:
    from . import doctor

    wrong: tuple[str, ...] = ()
    try:
        config = _config(options)
    except ConfigError as exc:
        config, wrong = _defaults(exc.path, options), exc.mistakes
    told = doctor.examine(config, wrong)
    print(json.dumps(told, indent=2) if options.json else "\n".join(doctor.lines(told)))
    return EX_OK if told["ok"] else 1


def _translate(options: argparse.Namespace) -> int:
    """Asks the state, and not the kernel: no firewall backend is needed for it."""
    config = _config(options)
    address = parse_address(options.address)
    before, damage = state.load(config.state_dir, keep=True)
    if damage:
        log.warning(damage)
    known = reconciler.current(before, config)
    asked = translate.about(address, config)
    wanted = reconciler.wish(asked, known)
    told = translate.answer(address, asked, known, wanted, int(time.time()))
    print(json.dumps(told, indent=2) if options.json else "\n".join(translate.lines(told)))
    return EX_OK


def _of_this_machine(config: Config) -> tuple[str, ...]:
    """What there is to say about the backend here. It may be installed later."""
    try:
        return nat.notes(config)
    except BackendMissing as exc:
        return (str(exc),)


def _set(options: argparse.Namespace) -> int:
    config = _config(options)
    uplink = _uplink(config, options.uplink)
    network = parse_prefix(options.prefix)
    acceptable(network, min_length=uplink.min_length, max_length=uplink.max_length)
    valid = _seconds(options.valid, "--valid")
    preferred = _seconds(options.preferred, "--preferred") if options.preferred else valid
    if valid == 0:
        raise UsageError("--valid 0 would remove it: use pdreactor unset")
    if valid is not None and (preferred is None or preferred > valid):
        raise UsageError("--preferred is longer than --valid (RFC 8415 section 21.22)")
    told = (Delegation(network, None, preferred, valid),)
    entries.tell(config, uplink, Event("set", uplink.interface, told))
    return EX_OK


def _unset(options: argparse.Namespace) -> int:
    config = _config(options)
    uplink = _uplink(config, options.uplink)
    told = entries.prefixes(config, uplink)
    if options.prefix is not None:
        told = (_known(parse_prefix(options.prefix), told, uplink),)
    gone = tuple(Delegation(network, None, 0, 0) for network in told)
    entries.tell(config, uplink, Event("unset", uplink.interface, gone))
    return EX_OK


def _use(options: argparse.Namespace) -> int:
    config = _config(options)
    uplink = _named(config, options.uplink)
    down = options.state == "down"
    if options.reason and not down:
        raise UsageError("--reason is for an uplink that goes down")
    entries.use(config, uplink, Down(int(time.time()), _line(options.reason)) if down else None)
    return EX_OK


LONGEST_REASON = 200


def _line(text: str) -> str:
    if not text.isprintable() or len(text) > LONGEST_REASON:
        raise Refused(f"--reason {shown(text)}: must be one line of at most {LONGEST_REASON} "
                      f"printable characters")
    return text


def _export(options: argparse.Namespace) -> int:
    from . import standby

    print(json.dumps(standby.export(_config(options)), indent=1))
    return EX_OK


def _import(options: argparse.Namespace) -> int:
    from . import handover, standby

    config = _config(options)
    raw = b"" if sys.stdin is None else sys.stdin.buffer.read(handover.LIMIT + 1)
    standby.take(config, raw, force=options.force)
    return EX_OK


def _flush(options: argparse.Namespace) -> int:
    try:
        config = _config(options)
    except ConfigError as exc:
        log.warning(f"the configuration cannot be used ({exc.mistakes[0]}): flushing by defaults")
        config = _defaults(exc.path, options)
    from . import flushing

    flushing.flush(config, forget=options.forget)
    return EX_OK


def _defaults(path: str, options: argparse.Namespace) -> Config:
    """What stands in for a configuration that cannot be used."""
    return Config(path, options.state_dir or "/var/lib/pdreactor", (), ())


def _named(config: Config, name: str) -> Uplink:
    try:
        return config.uplink(name)
    except KeyError:
        names = ", ".join(uplink.name for uplink in config.uplinks)
        raise UsageError(f"{config.path} has no uplink {name!r}; it has: {names}") from None


def _uplink(config: Config, name: str) -> Uplink:
    """One whose prefix can be told."""
    uplink = _named(config, name)
    if uplink.prefix is not None:
        raise UsageError(f"uplink {name} has the static prefix {uplink.prefix}: change it in "
                         f"{config.path}")
    if not uplink.learns:
        raise UsageError(f"uplink {name} has source {uplink.source} in {config.path}: what that "
                         f"shows is what counts")
    return uplink


def _known(network: IPv6Network, known: tuple[IPv6Network, ...], uplink: Uplink) -> IPv6Network:
    if network not in known:
        names = ", ".join(map(str, known)) or "none"
        raise UsageError(f"uplink {uplink.name} has no prefix {network}; it has: {names}")
    return network


def _seconds(text: str | None, what: str) -> int | None:
    return None if text is None else parse_decimal(text, what, 0xFFFFFFFE)


if __name__ == "__main__":
    sys.exit(main())
