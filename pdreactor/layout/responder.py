"""Neighbour discovery answered for others (RFC 4861 section 7.2.8), by a process that stays.

Nothing is remembered of a target: each solicitation is judged by the routes as they are just then,
so whoever asks for many addresses fills nothing. What is remembered of who asks is bounded.
"""

import errno
import math
import selectors
import socket
import time
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address
from typing import Any

from ..errors import KernelError, PdreactorError, PermissionDenied, Refused
from ..kernel.fib import UNICAST, Fib, Way
from ..kernel.packet import Ear, Received, link_local
from ..npt import translate
from .model import Answering, Mapped
from .ndp import ALL_NODES_MAC, Solicitation, advertisement, solicitation

FOR_ALL, FOR_ONE = 20_000, 12_000
"""Solicitations a second that are looked at: of all links together, and of one sender."""
PAUSE = 0.02
"""Seconds without reading when there were more; the kernel drops what does not fit."""
AT_ONCE = 100
"""Packets of a link that are read in a row: then others have their turn."""
SENDERS = 1024
"""Of a link, that are told apart."""
RECENT = 60.0
"""Seconds for which an address that has asked on a link counts as one that is there."""


WIDEST = 3
"""Prefix length of 2000::/3: a route that is no longer leads into the internet, as a default one
does."""


class Bucket:
    """Allows ``rate`` a second, and as many at once."""

    def __init__(self, rate: int, now: float) -> None:
        self._rate, self._left, self.at = rate, float(rate), now

    def take(self, now: float) -> bool:
        """One more at that time; False when there is none left."""
        self._left = min(self._rate, self._left + (now - self.at) * self._rate)
        self.at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Responder:
    """What a selector waits for and ``read`` answers. ``due`` is when (time.monotonic) ``read``
    wants to be called without that."""

    def __init__(self) -> None:
        try:
            self._fib = Fib()
        except OSError as exc:
            raise KernelError(f"cannot look up routes: {exc.strerror}") from exc
        self._selector = selectors.EpollSelector()
        self._posts: dict[str, _Post] = {}
        self._bucket = Bucket(FOR_ALL, time.monotonic())
        self.due = math.inf

    def close(self) -> None:
        """Answer no more."""
        for interface in list(self._posts):
            self._leave(interface)
        self._selector.close()
        self._fib.close()

    def fileno(self) -> int:
        """For another selector: readable when any of the sockets is."""
        return self._selector.fileno()

    def update(self, wanted: Iterable[Answering]) -> None:
        """From now on answer this. An interface that is not there is passed over: when it comes
        this is called again. Raises the first error, when everything else is done."""
        by = {one.interface: one for one in wanted}
        errors: list[PdreactorError] = []
        for interface, post in list(self._posts.items()):
            if interface not in by or not post.ear.bound:
                self._leave(interface)
        for interface, answering in by.items():
            try:
                if interface not in self._posts:
                    self._enter(interface)
                self._posts[interface].update(answering)
            except OSError as exc:
                if exc.errno != errno.ENODEV:
                    errors.append(_explained(exc, interface))
        if errors:
            raise errors[0]

    def _enter(self, interface: str) -> None:
        ear = Ear(interface)
        self._posts[interface] = post = _Post(ear, self._fib)
        if self.due == math.inf:
            self._selector.register(ear, selectors.EVENT_READ, post)

    def _leave(self, interface: str) -> None:
        ear = self._posts.pop(interface).ear
        if self.due == math.inf:
            self._selector.unregister(ear)
        ear.close()

    def read(self) -> None:
        """Answer what has come."""
        if self.due < math.inf:
            self._resume()
        for key, _ in self._selector.select(0):
            if not self._some(key.data):
                self._pause()
                return

    def _some(self, post: "_Post") -> bool:
        """Answer some of what waits on one link; False when it is too much."""
        for _ in range(AT_ONCE):
            now = time.monotonic()
            if not self._bucket.take(now):
                return False
            if not post.answer_one(now):
                break
        return True

    def _pause(self) -> None:
        """None is read for a moment: that costs next to nothing."""
        for post in self._posts.values():
            self._selector.unregister(post.ear)
        self.due = time.monotonic() + PAUSE

    def _resume(self) -> None:
        if time.monotonic() < self.due:
            return
        self.due = math.inf
        for post in self._posts.values():
            self._selector.register(post.ear, selectors.EVENT_READ, post)


def _explained(exc: OSError, interface: str) -> PdreactorError:
    doing = f"cannot answer neighbour solicitations on {interface}: {exc.strerror}"
    if exc.errno in (errno.EPERM, errno.EACCES):
        return PermissionDenied(f"{doing}; this needs root or CAP_NET_RAW")
    if exc.errno == errno.EAFNOSUPPORT:
        return KernelError(f"{doing}; packet sockets are needed: CONFIG_PACKET in the kernel, "
                           f"and in a sandboxed unit RestrictAddressFamilies=AF_PACKET")
    return KernelError(doing)


class _Post:
    """One link."""

    def __init__(self, ear: Ear, fib: Fib) -> None:
        self.ear, self._fib = ear, fib
        self._senders: dict[bytes, Bucket] = {}

    def update(self, answering: Answering) -> None:
        """What is answered for."""
        self._networks = _Among((network, True) for network in answering.networks)
        self._mapped = _Among((one.external, one) for one in answering.mapped)
        self._outside = {self.ear.index, *_indices(answering.outside)}
        self._own = link_local(self.ear.interface)

    def answer_one(self, now: float) -> bool:
        """Read a packet, and answer it if it is to be answered; False when none waits."""
        try:
            received = self.ear.receive()
            if received is None:
                return False
            asked = solicitation(received.packet)
            if asked and self._matters(asked) and self._allowed(asked, now) and self._ours(asked):
                self._answer(asked, received)
        except OSError:
            pass  # the link goes down, or is busy: who asks does so again
        return True

    def _matters(self, asked: Solicitation) -> bool:
        return self._networks.find(int.from_bytes(asked.target, "big")) is not None

    def _allowed(self, asked: Solicitation, now: float) -> bool:
        """The sender is within its rate, and the target has not asked here itself lately: then it
        is on this link."""
        there = self._senders.get(asked.target)
        if there and now - there.at < RECENT:
            return False
        bucket = self._senders.get(asked.source)
        if bucket is None:
            if len(self._senders) >= SENDERS:
                self._senders.clear()
            bucket = self._senders[asked.source] = Bucket(FOR_ONE, now)
        return bucket.take(now)

    def _ours(self, asked: Solicitation) -> bool:
        """Whether the target is behind the router. An address that somebody only wants to have is
        answered for where it is known to be in use: else nobody could ever have one."""
        target, way = asked.target, self._fib.way(asked.target, self.ear.index)
        mapped = self._mapped.find(int.from_bytes(target, "big"))
        if mapped and not (way and way.own):
            if self._fib.knows(target, self.ear.index):
                return False
            target = _internal(target, mapped)
            way = self._fib.way(target, self.ear.index) if target else None
        if not way or not self._behind(way):
            return False
        return not asked.probe or self._in_use(target, way)

    def _behind(self, way: Way) -> bool:
        """The kernel itself answers for the router's addresses on this link; a default route says
        nothing of where an address is."""
        return bool((way.own or (way.kind == UNICAST and way.length > WIDEST)) and way.interfaces
                    and not self._outside.intersection(way.interfaces))

    def _in_use(self, target: bytes, way: Way) -> bool:
        if way.own or way.length == 128:
            return True
        return not way.gateway and any(self._fib.knows(target, one) for one in way.interfaces)

    def _answer(self, asked: Solicitation, received: Received) -> None:
        if not self._own:
            return  # the link has just come up
        own = self.ear.link_address
        packet = advertisement(asked, self._own, own)
        if not own:
            receiver = b""
        elif asked.probe:
            receiver = ALL_NODES_MAC
        else:
            receiver = asked.link_address if len(asked.link_address) == 6 else received.sender
        self.ear.send(packet, receiver)


def _indices(names: Iterable[str]) -> Iterator[int]:
    known = {name: number for number, name in socket.if_nameindex()}
    return (known[name] for name in names if name in known)


def _internal(target: bytes, mapped: Mapped) -> bytes:
    """The address behind an external one; empty where none can be."""
    number, host = int.from_bytes(target, "big"), int(mapped.external.hostmask)
    if mapped.mode != "rfc6296":
        return (int(mapped.internal.network_address) | number & host).to_bytes(16, "big")
    try:
        return translate(IPv6Address(number), mapped.external, mapped.internal).packed
    except Refused:
        return b""


class _Among:
    """Networks to find an address in, the longest first: a look for each length that there is."""

    def __init__(self, networks: Iterable[tuple[Any, Any]]) -> None:
        by: dict[int, dict[int, Any]] = {}
        for network, value in networks:
            shift = 128 - network.prefixlen
            by.setdefault(shift, {})[int(network.network_address) >> shift] = value
        self._by = sorted(by.items())

    def find(self, number: int) -> Any:
        """The value of the network that an address is in; None for none."""
        for shift, among in self._by:
            found = among.get(number >> shift)
            if found is not None:
                return found
        return None
