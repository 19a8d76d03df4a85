"""Whether interfaces are there, up and have a carrier, and what addresses they have: netdevice(7),
SIOCGIFFLAGS.

Asked of a socket and not of /sys, which may show another network namespace than ours. The socket
is that of CPython's ``_socket``, which ``socket`` wraps: importing the wrapper takes 2 ms, a
twentieth of the way to the rules.
"""

import fcntl
import struct
from _socket import AF_INET, AF_INET6, SOCK_DGRAM
from _socket import socket as Socket
from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv6Address, IPv6Network

from ..errors import KernelError

SIOCGIFFLAGS, SIOCGIFADDR = 0x8913, 0x8915
IFF_UP = 0x1
IFF_POINTOPOINT = 0x10
IFF_RUNNING = 0x40
"""Operational: up with carrier, or a driver that cannot tell (netdevice(7))."""


def links(names: Iterable[str]) -> dict[str, bool]:
    """{interface: up with carrier}; an interface that does not exist is left out."""
    running = IFF_UP | IFF_RUNNING
    return {name: flags & running == running for name, flags in _flags(names)}


def direct(names: Iterable[str]) -> set[str]:
    """Those of the interfaces that need no gateway: point-to-point links."""
    return {name for name, flags in _flags(names) if flags & IFF_POINTOPOINT}


def with_ipv4(names: Iterable[str]) -> set[str]:
    """Those of the interfaces that have an IPv4 address."""
    return {name for name, _ in _ask(names, AF_INET, SIOCGIFADDR)}


def _flags(names: Iterable[str]) -> Iterator[tuple[str, int]]:
    return _ask(names, AF_INET6, SIOCGIFFLAGS)


def _ask(names: Iterable[str], family: int, request: int) -> Iterator[tuple[str, int]]:
    """(interface, the first 16 bits of the answer); without those that have none."""
    try:
        probe = Socket(family, SOCK_DGRAM)
    except OSError as exc:
        raise KernelError(f"cannot look at the interfaces: {exc.strerror}") from exc
    for name in names:
        asked = struct.pack("16sH14x", name.encode()[:15], 0)
        try:
            yield name, struct.unpack("16sH14x", fcntl.ioctl(probe, request, asked))[1]
        except OSError:
            continue  # ENODEV, EADDRNOTAVAIL
    probe.close()


def on_link(interface: str, ours: Collection[tuple[str, str]] = ()) -> list[IPv6Network]:
    """The prefixes that are on an interface's link by its addresses, without link-local ones,
    single addresses and ``ours`` (as in ``Traces.placed``)."""
    return [IPv6Network((int(address), length), strict=False)
            for name, address, length in addresses() if name == interface and length < 128
            and not (ours and (name, f"{address}/{length}") in ours)]


def addresses() -> Iterator[tuple[str, IPv6Address, int]]:
    """(interface, address, prefix length) of the router's addresses, but link-local ones
    (/proc/net/if_inet6)."""
    with open("/proc/net/if_inet6", "rb") as file:  # importing a codec for it takes longer
        for digits, _, length, _, _, name in map(bytes.split, file):
            address = IPv6Address(int(digits, 16))
            if not address.is_link_local and not address.is_loopback:
                yield name.decode("ascii", "replace"), address, int(length, 16)
