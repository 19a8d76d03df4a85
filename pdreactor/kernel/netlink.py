"""Dumps of rtnetlink(7) from a bare socket, message by message: where there may be thousands of
objects, decoding each with pyroute2 takes longer than all the rest of a pass."""

import errno
import os
import socket
import struct
from collections.abc import Iterator

from ..errors import KernelBusy, KernelError, PermissionDenied
from .retry import persistently

HEADER, CODE = struct.Struct("=IHHII"), struct.Struct("=i")
"""linux/netlink.h struct nlmsghdr; the number that an answer begins with."""
REQUEST_DUMP, INTERRUPTED = 0x301, 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
BUSY = (errno.EBUSY, errno.EAGAIN, errno.ENOBUFS, errno.EINTR, errno.ENOMEM)


def explained(number: int, reason: str) -> KernelError | PermissionDenied:
    """The error of ours for an errno; negative when a dump was interrupted."""
    if number == errno.EPERM:
        return PermissionDenied(f"{reason}; this needs root or CAP_NET_ADMIN")
    if number == errno.EACCES:  # not of privileges: fib6_nh_init
        return KernelError(f"{reason}; IPv6 is switched off on that interface (disable_ipv6)")
    return KernelBusy(reason) if number < 0 or number in BUSY else KernelError(reason)


def dump(kind: int, body: bytes, doing: str) -> Iterator[bytes]:
    """Each message of a dump, with its header. ``body`` is the request's fixed part. Raises
    KernelBusy when what is dumped changes meanwhile."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
            sock.send(HEADER.pack(HEADER.size + len(body), kind, REQUEST_DUMP, 0, 0) + body)
            yield from _messages(sock, doing)
    except OSError as exc:
        raise explained(exc.errno or 0, f"cannot {doing}: {exc.strerror}") from exc


def dumped(kind: int, body: bytes, doing: str) -> list[bytes]:
    """All of it, without headers; asked again while the kernel interrupts it."""
    return persistently(lambda: [one[HEADER.size:] for one in dump(kind, body, doing)])


def _messages(sock: socket.socket, doing: str) -> Iterator[bytes]:
    while True:
        data, position = sock.recv(1 << 16), 0
        while position < len(data):
            length, kind, flags, *_ = HEADER.unpack_from(data, position)
            if flags & INTERRUPTED:
                raise KernelBusy(f"cannot {doing}: they change meanwhile")
            if kind in (NLMSG_ERROR, NLMSG_DONE):
                (code,) = CODE.unpack_from(data, position + HEADER.size)
                if code:
                    raise OSError(-code, os.strerror(-code))
                return
            yield data[position : position + length]
            position += (length + 3) & ~3


def attributes(payload: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each attribute (struct nlattr) from there on."""
    while at + 4 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, at)
        if length < 4:
            return
        yield kind & 0x3FFF, payload[at + 4 : at + length]
        at += (length + 3) & ~3
