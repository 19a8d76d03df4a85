"""Which uplinks new flows may take, and why not. Pure."""

from collections.abc import Container, Mapping
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from .model import AUTO, DIRECT, Uplink, UplinkState

if TYPE_CHECKING:
    from .ways import Path


NO_PREFIX = "there is no prefix (none was learned yet, or it was taken back)"


def why_not(uplink: Uplink, known: UplinkState, links: Mapping[str, bool]) -> str:
    """Why no new flow may take an uplink, whatever prefixes it has; empty when one may.

    ``links`` tells of each interface whether it is up with carrier; one that is missing there does
    not exist.
    """
    if known.down is not None:
        return "it was set down" + (f" ({known.down.reason})" if known.down.reason else "")
    if links.get(uplink.interface):
        return ""
    what = "has no carrier or is down" if uplink.interface in links else "is not there yet"
    return f"interface {uplink.interface} {what}"


def next_hop(uplink: Uplink, path: "Path | None") -> tuple[bool, IPv6Address | None]:
    """(whether there is a way out by an uplink with a table, its gateway or None for on-link)."""
    if isinstance(uplink.gateway, IPv6Address):
        return True, uplink.gateway
    if uplink.gateway == DIRECT:
        return True, None
    if path is None:
        return False, None
    return (True, path.gateway) if path.default else (path.direct, None)


def no_way_out(uplink: Uplink, path: "Path | None", refused: Container[int] = ()) -> str:
    """Why the table of an uplink has no default route; empty when it has, or needs none."""
    if uplink.table in refused:
        return f"the kernel refuses the default route of table {uplink.table}"
    if uplink.table is None or next_hop(uplink, path)[0]:
        return ""
    return (f"table main has no default route by {uplink.interface} to learn a gateway from "
            f"(gateway = \"{AUTO}\")")
