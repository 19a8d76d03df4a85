"""Many requests of rtnetlink(7) at once: some at a time in one message to the kernel, which answers
each by itself. Through pyroute2 one after the other takes several times as long."""

import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ..errors import KernelBusy, KernelError, PdreactorError, PermissionDenied
from .netlink import BUSY, CODE, HEADER, NLMSG_ERROR, explained
from .retry import persistently

NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x100, 0x200, 0x400
ADD, REPLACE = NLM_F_CREATE | NLM_F_EXCL, NLM_F_CREATE | NLM_F_REPLACE
"""Flags: what is there already is an error, or is changed."""
TOGETHER = 100
"""Requests in one message: should all be refused, the answers fit into the socket's buffer."""
PATIENCE = 5.0
"""Seconds for the answers, which are there before the message is sent."""


class Request(NamedTuple):
    """One of them, and what it is about."""

    kind: int  # RTM_NEWADDR ...
    flags: int
    body: bytes  # all but the header
    about: Any
    fine: tuple[int, ...] = ()  # errors that say that it is so already


Failures = dict[Any, PdreactorError]
"""{what a request was about: why the kernel refused it}."""


def make(requests: Sequence[Request], words: Callable[[Any], str]) -> Failures:
    """Make all of them, in their order; returns what the kernel refused. What it was too busy for
    is asked again. ``words`` says what was to be done with what a request is about."""
    refused = _once(requests)

    def again() -> None:
        busy = [number for number, code in refused.items() if code in BUSY]
        answers = _once([requests[number] for number in busy])
        for place, number in enumerate(busy):
            refused[number] = answers.get(place, 0)
        if any(code in BUSY for code in refused.values()):
            raise KernelBusy("still")

    if any(code in BUSY for code in refused.values()):
        try:
            persistently(again)
        except KernelBusy:
            pass  # it is in ``refused``
    return {about: explained(code, f"cannot {words(about)}: {os.strerror(code)}")
            for about, code in ((requests[number].about, code) for number, code in refused.items())
            if code}


def _once(requests: Sequence[Request]) -> dict[int, int]:
    """{position of what was refused: errno}."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
            sock.settimeout(PATIENCE)
            refused = {}
            for start in range(0, len(requests), TOGETHER):
                some = requests[start : start + TOGETHER]
                last = len(some) - 1
                sock.send(b"".join(_encoded(one, number, NLM_F_ACK if number == last else 0)
                                   for number, one in enumerate(some)))
                for number, code in _answers(sock, last):
                    if code and code not in some[number].fine:
                        refused[start + number] = code
            return refused
    except PermissionError as exc:
        raise PermissionDenied(f"cannot change the network: {exc.strerror}") from exc
    except OSError as exc:
        raise KernelError(f"cannot talk to the kernel by netlink: {exc}") from exc


def _encoded(request: Request, number: int, acknowledged: int) -> bytes:
    flags = NLM_F_REQUEST | acknowledged | request.flags
    length = HEADER.size + len(request.body)
    return HEADER.pack(length, request.kind, flags, number, 0) + request.body + bytes(-length % 4)


def _answers(sock: socket.socket, last: int) -> Iterator[tuple[int, int]]:
    """(number of the request, errno or 0) of what was refused, in their order, and of the last."""
    number = -1
    while number != last:
        data, position = sock.recv(1 << 16), 0
        while position + HEADER.size + CODE.size <= len(data):
            length, kind, _, number, _ = HEADER.unpack_from(data, position)
            if kind == NLMSG_ERROR:
                yield number, -CODE.unpack_from(data, position + HEADER.size)[0]
            position += max(length + 3 & ~3, HEADER.size)


GONE = (errno.EADDRNOTAVAIL, errno.ENOENT, errno.ESRCH, errno.ENODEV)
"""What is to be removed is not there any more."""
