"""What ``status`` shows of the layout: its part of the document, and that for people. Pure.

The keys are documented in pdreactor(8) and stable.
"""

from collections.abc import Container, Mapping
from ipaddress import IPv4Address
from typing import Any

from .model import Address, Layout, Link, Neighbour, SeenLink


def document(layout: Layout, links: Mapping[str, SeenLink], addresses: Mapping[Any, Address],
             neighbours: Container[Neighbour], now: int) -> dict[str, Any]:
    """The part. ``addresses`` are those that the kernel has, by interface and address."""
    return {
        "links": [_link(one, links) for one in layout.links],
        "addresses": [_address(one, addresses, now) for one in layout.addresses],
        "slices": [{"pattern": pattern, "interface": interface, "subnet": number,
                    "present": interface in links}
                   for pattern, interface, number in layout.slices],
        "proxies": [*({"interface": one.interface, "target": str(one.address), "method": "kernel",
                       "in_place": one in neighbours} for one in layout.neighbours),
                    *({"interface": interface, "target": str(network), "method": "ndppd",
                       "in_place": None} for interface, among in layout.ndppd
                      for network in among)],
    }


def _link(link: Link, links: Mapping[str, SeenLink]) -> dict[str, Any]:
    seen = links.get(link.name)
    return {
        "name": link.name,
        "kind": link.kind,
        "local": _text(link.local),
        "remote": _text(link.remote),
        "mtu": seen.link.mtu if seen else link.mtu or None,
        "in_place": bool(seen and seen.ours and seen.up),
    }


def _text(address: IPv4Address | None) -> str | None:
    return str(address) if address else None


def _address(one: Address, there: Mapping[Any, Address], now: int) -> dict[str, Any]:
    seen = there.get((one.interface, one.address))
    over = one.preferred_until is not None and one.preferred_until <= now
    return {
        "interface": one.interface,
        "address": f"{one.address}/{one.length}",
        "state": "deprecated" if over else "preferred",
        "preferred_left": _left(one.preferred_until, now),
        "valid_left": _left(one.valid_until, now),
        "in_place": seen is not None and seen.length == one.length,
    }


def _left(until: int | None, now: int) -> int | None:
    return None if until is None else max(0, until - now)
