"""The service manager is told how we are: the protocol of sd_notify(3)."""

import os
import socket


def notify(*lines: str) -> None:
    """Send these assignments ("READY=1"). Does nothing where no service manager asks for it."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.sendto("\n".join(lines).encode(), path.replace("@", "\0", 1))
    except OSError:
        pass  # it has gone, or does not read: it will see what becomes of us


def watchdog() -> float | None:
    """Seconds within which the service manager wants to hear of us; None when it does not
    (sd_watchdog_enabled(3))."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None
