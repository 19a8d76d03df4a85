"""Judges of the internal prefixes. Pure."""

from collections.abc import Iterator
from ipaddress import IPv6Network
from itertools import pairwise

from .facts import MOST, NOTE, WARNING, Facts, Finding

LOCAL = IPv6Network("fc00::/7")
UNDEFINED = IPv6Network("fc00::/8")
MAKE_ONE = ("take a random one (RFC 4193 section 3.2.2): "
            "printf 'fd%s:%s:%s::/48\\n' $(od -An -N5 -tx1 /dev/urandom | "
            "awk '{print $1, $2 $3, $4 $5}')")


def unique(facts: Facts) -> Iterator[Finding]:
    """RFC 4193 section 3.2: fd00::/8 and a random global ID."""
    for network in _internal(facts):
        if network.subnet_of(UNDEFINED):
            yield Finding(WARNING, f"{network} is in fc00::/8, which RFC 4193 leaves undefined",
                          facts.config.path, MAKE_ONE)
        elif network.subnet_of(LOCAL) and network.prefixlen >= 48 and not random(network):
            yield Finding(WARNING, f"{network} was not made at random: another site, one "
                                   f"reached by VPN for example, is likely to have the same",
                          facts.config.path, MAKE_ONE)


def random(network: IPv6Network) -> bool:
    """False when the global ID (40 bits) is obviously made by hand: few different digits, many
    zeros, or digits that count up or down."""
    digits = f"{int(network.network_address) >> 80 & (1 << 40) - 1:010x}"
    steps = {(int(b, 16) - int(a, 16)) % 16 for a, b in pairwise(digits)}
    counting = steps <= {1} or steps <= {15} or digits in "0123456789012"
    return len(set(digits)) > 3 and digits.count("0") < 5 and not counting


def preference(facts: Facts) -> Iterator[Finding]:
    """RFC 6724 section 6 rule 5: the label of a unique local source is another one than that of a
    global destination, and IPv4 has the same at both ends. The draft that updates it
    (draft-ietf-6man-rfc6724-update) is about destinations that are unique local."""
    for network in _internal(facts):
        names = [name for name, one in facts.interfaces.items()
                 if one.ipv4 and any(address in network for address in one.addresses)]
        if names and network.subnet_of(LOCAL):
            yield Finding(
                NOTE, f"hosts on {', '.join(names)} have IPv4 too, and prefer it to {network} for "
                      f"names that have both (RFC 6724)", "address selection of the hosts",
                f"on hosts with glibc write all default label lines and \"label {network} 1\" into "
                f"/etc/gai.conf; or number the LAN from a global prefix that is yours")


def _internal(facts: Facts) -> list[IPv6Network]:
    return list(dict.fromkeys(one.internal for one in facts.config.translations))[:MOST]
