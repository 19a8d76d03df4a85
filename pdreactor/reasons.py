"""dhcpcd's reasons (dhcpcd-run-hooks(8)) and what each means here.

Imports nothing: most calls of the hook end here, before anything else of pdreactor is loaded.
"""

LEASE = "lease"  # may carry a reply
RELEASED = "released"  # every prefix of the interface is gone
LINK = "link"  # the state stays, but what is usable or what dhcpcd holds in the kernel may change
ROUTER = "router"  # the default route of the interface may have changed: for an uplink with a table
IPV4 = "ipv4"  # the IPv4 address of the interface may have changed: for a tunnel that begins there
NOTHING = "nothing"  # none of our business

REASONS = {
    "BOUND6": LEASE,
    "RENEW6": LEASE,
    "REBIND6": LEASE,
    "REBOOT6": LEASE,
    "DELEGATED6": LEASE,  # on the uplink itself: the reply that BOUND6 held back
    "RELEASE6": RELEASED,
    "EXPIRE6": LINK,  # also comes when the carrier is lost, and in 9.4.1 ten seconds after T2
    "TIMEOUT6": LINK,  # its prefixes are those of the last reply, as old as that
    "STOP6": LINK,
    "STOPPED": LINK,
    "DEPARTED": LINK,
    "CARRIER": LINK,
    "NOCARRIER": LINK,
    "NOCARRIER_ROAMING": LINK,
    "ROUTERADVERT": ROUTER,
    "BOUND": IPV4,
    "RENEW": IPV4,
    "REBIND": IPV4,
    "REBOOT": IPV4,
    "STATIC": IPV4,
    "INFORM": IPV4,
    "IPV4LL": IPV4,
    "EXPIRE": IPV4,
    "NAK": IPV4,
    "RELEASE": IPV4,
    "STOP": IPV4,
}
"""What a reason means. All others are NOTHING: PREINIT, RECONFIGURE, TEST, INFORM6, STATIC6, and
those that dhcpcd has yet to invent. A new kind of work starts with a row."""

LEASED = ("BOUND", "RENEW", "REBIND", "REBOOT")
"""Those of IPv4 that carry a reply."""


def leased(reason: str) -> bool:
    """True for a DHCPv4 reply, whose options count."""
    return reason in LEASED


def kind_of(reason: str) -> str:
    """LEASE, RELEASED, LINK, ROUTER or NOTHING."""
    return REASONS.get(reason, NOTHING)


def relevant(block: bytes) -> bool:
    """False for a raw environment block whose reason cannot matter: the call can end at once."""
    return _kind(block) != NOTHING


def rarely(block: bytes) -> bool:
    """True when few configurations care: it takes a look at theirs (``cares``)."""
    return _kind(block) in (ROUTER, IPV4)


def cares(block: bytes, configuration: bytes) -> bool:
    """False for the text of a configuration that such an event cannot matter to: one in which no
    uplink can have a table or gets its prefix from its link, or without a tunnel."""
    if _kind(block) == IPV4:
        return b"tunnel" in configuration
    return b"onlink" in configuration or any(
        rest.lstrip(b"\"' \t")[:1] == b"=" for rest in configuration.split(b"table")[1:])


def value(block: bytes, name: bytes) -> bytes:
    """What a raw environment block has for a name, where it stands first; empty without it."""
    start = name + b"="
    found = (entry for entry in block.split(b"\0") if entry.startswith(start))
    return next(found, start)[len(start):]


def _kind(block: bytes) -> str:
    return kind_of(value(block, b"reason").decode("ascii", "replace"))
