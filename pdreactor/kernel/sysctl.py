"""Settings below net.ipv6: /proc/sys (Documentation/networking/ip-sysctl.rst)."""

from ..errors import KernelError, PermissionDenied

ROOT = "/proc/sys/net/ipv6"


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
    name = f"net.ipv6.{key.replace('/', '.')}"
    try:
        with open(f"{ROOT}/{key}", "w", encoding="ascii") as file:
            file.write(value)
    except PermissionError as exc:
        raise PermissionDenied(f"cannot set {name} = {value}: {exc.strerror}; this needs root, and "
                               f"in a sandboxed unit ProtectKernelTunables=no") from exc
    except FileNotFoundError:
        return  # the interface has gone
    except OSError as exc:
        raise KernelError(f"cannot set {name} = {value}: {exc.strerror}") from exc
