"""Settings below net.ipv6: /proc/sys (Documentation/networking/ip-sysctl.rst)."""

from ..errors import KernelError, PermissionDenied

ROOT = "/proc/sys/net/ipv6"


def name(key: str) -> str:
    """As sysctl(8) writes it: net.ipv6.conf.all.forwarding."""
    return f"net.ipv6.{key.replace('/', '.')}"


def get(key: str) -> str | None:
    """The value of "conf/all/forwarding"; None where there is no such setting, as of an interface
    that does not exist."""
    try:
        with open(f"{ROOT}/{key}", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return None


def set_(key: str, value: str) -> None:
    """Give it another value. Raises PermissionDenied and KernelError."""
    try:
        with open(f"{ROOT}/{key}", "w", encoding="ascii") as file:
            file.write(value)
    except PermissionError as exc:
        raise PermissionDenied(f"cannot set {name(key)} = {value}: {exc.strerror}; this needs "
                               f"root, and in a sandboxed unit ProtectKernelTunables=no") from exc
    except FileNotFoundError:
        return  # the interface has gone
    except OSError as exc:
        raise KernelError(f"cannot set {name(key)} = {value}: {exc.strerror}") from exc
