"""One tree of errors. A class carries its policy: exit code (sysexits.h) and whether to retry."""

EX_OK = 0
EX_USAGE = 64
EX_DATAERR = 65
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_IOERR = 74
EX_TEMPFAIL = 75
EX_NOPERM = 77
EX_CONFIG = 78


class PdreactorError(Exception):
    """Base of all errors a user may see: ``str()`` is one line with what, where and what to do."""

    exit_code = EX_SOFTWARE
    retry = False


class UsageError(PdreactorError):
    """The command line names something that does not exist."""

    exit_code = EX_USAGE


class Refused(PdreactorError):
    """A value from outside (a prefix, a lifetime, an address) that is not acceptable."""

    exit_code = EX_DATAERR


class BackendMissing(PdreactorError):
    """A library or kernel feature that the configuration needs is not there."""

    exit_code = EX_UNAVAILABLE


class NoNftables(BackendMissing):
    """The kernel has no nf_tables at all."""


class StateError(PdreactorError):
    """The state directory or file cannot be read, written or locked."""

    exit_code = EX_IOERR


class KernelError(PdreactorError):
    """The kernel refused a change, and will refuse it again."""

    exit_code = EX_SOFTWARE


class KernelBusy(KernelError):
    """The kernel could not take the change just now (EBUSY, EAGAIN, ENOBUFS, EINTR, ENOMEM)."""

    exit_code = EX_TEMPFAIL
    retry = True


class PermissionDenied(PdreactorError):
    """Not root, or without CAP_NET_ADMIN."""

    exit_code = EX_NOPERM


class ConfigError(PdreactorError):
    """The configuration has mistakes; ``mistakes`` has all of them, one line each."""

    exit_code = EX_CONFIG

    def __init__(self, path: str, mistakes: list[str]) -> None:
        self.path = path
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(f"{path}: {mistake}" for mistake in mistakes))
