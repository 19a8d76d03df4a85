"""/etc/ndppd.conf, for who lets ndppd(1) answer: written when it changes, and ndppd restarted, for
it reads the file only then. On a link that was down, or is another one of the same name, it never
answers again (0.2.5): so links that are down are left out, and the number of each is in a comment.
"""

import os
import socket
from ipaddress import IPv6Network
from typing import NamedTuple

from ..errors import KernelError, PdreactorError
from ..state import replace_file

PATH = "/etc/ndppd.conf"
MARK = "# Written by pdreactor: what you change here is lost."
HEAD = f"{MARK}\nroute-ttl 30000\n"
PROXY = """\
# {interface} has number {number}
proxy {interface} {{
   router yes
   timeout 500
   ttl 30000
{rules}}}
"""
RULE = "   rule {network} {{\n      static\n   }}\n"
SYSTEMD = "/run/systemd/system"
"""There where systemd is at work (sd_booted(3))."""
SYSTEMCTL = ("systemctl", "--quiet", "--no-block")
"""Not waited for: a hook may say this while the machine starts, and ndppd comes after the network.
"""
PATIENCE = 30.0

Blocks = tuple[tuple[str, tuple[IPv6Network, ...]], ...]
"""(interface, networks), as in Layout.ndppd."""


class Change(NamedTuple):
    """What to do with the file."""

    write: str = ""
    remove: bool = False
    stranger: bool = False  # the file is there and not ours

    @property
    def words(self) -> list[str]:
        """For people."""
        lines = [f"write {PATH} and restart ndppd"] if self.write else []
        return lines + ([f"remove {PATH} and stop ndppd"] if self.remove else [])

    @property
    def notes(self) -> tuple[str, ...]:
        """What keeps it from being done."""
        return (STRANGER,) if self.stranger else ()


STRANGER = (f"{PATH} is there and not pdreactor's: move it away, and pdreactor writes its own; or "
            f'use method = "responder"')


def plan(blocks: Blocks, ours: bool) -> Change:
    """What it takes to get to these blocks; without any the file goes if it is ``ours``, by what
    the state remembers and by its first line."""
    if not (blocks or ours):
        return Change()
    content = _content()
    marked = content is not None and content.startswith(MARK)
    if not blocks:
        return Change(remove=ours and marked)
    text = rendered(blocks)
    if content == text:
        return Change()
    return Change(stranger=True) if content is not None and not marked else Change(write=text)


def rendered(blocks: Blocks) -> str:
    """The file."""
    return HEAD + "".join(
        PROXY.format(interface=interface, number=_number(interface),
                     rules="".join(RULE.format(network=one) for one in networks))
        for interface, networks in blocks if networks)


def _number(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def _content() -> str | None:
    """None without a file; nothing of one that cannot be read, so it is not ours."""
    try:
        with open(PATH, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except FileNotFoundError:
        return None
    except OSError:
        return ""


def apply(change: Change) -> None:
    """Do it. A file that ndppd was not restarted with does not stay: so the next pass tries again.
    Raises KernelError and what replace_file raises."""
    if change.stranger:
        raise KernelError(STRANGER)
    if change.write:
        replace_file(PATH, change.write.encode(), 0o644)
        try:
            # without a proxy it refuses to start
            _service("restart" if "\nproxy " in change.write else "stop")
        except PdreactorError:
            _remove()
            raise
    if change.remove:
        _remove()
        _service("stop")


def _remove() -> None:
    try:
        os.unlink(PATH)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise KernelError(f"cannot remove {PATH}: {exc.strerror}") from exc


def _service(verb: str) -> None:
    """By whatever manages services here."""
    from ..kernel.process import run  # takes some milliseconds, and is seldom needed

    path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    ways = [["service", "ndppd", verb], ["rc-service", "ndppd", verb]]
    if os.path.isdir(SYSTEMD):
        ways = [[*SYSTEMCTL, verb, "ndppd.service"]]
    said = []
    for argv in ways:
        failure = run(argv, {"PATH": path}, PATIENCE)
        if not failure:
            return
        said.append(f"{' '.join(argv)} {failure}")
        if not failure.startswith("cannot be started"):
            break
    raise KernelError(f"cannot {verb} ndppd: {'; '.join(said)}. Is it installed?")
