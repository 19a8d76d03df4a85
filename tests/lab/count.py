"""What an ISP counts of the flows that come in: an nftables table in its namespace."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Network

from .flows import FIRST_PORT, LAST_PORT

TABLE = "inet lab_count"

RULES = """
table inet lab_count {{
    counter leaked {{ }}
    counter leaked_flows {{ }}
    counter arrived {{ }}
    chain prefixes {{ }}
    chain new_flow {{
        counter name arrived
        ip6 saddr fc00::/7 counter name leaked_flows
        jump prefixes
        drop
    }}
    chain entry {{
        type filter hook prerouting priority raw; policy accept;
        iifname "wan" ip6 saddr fc00::/7 counter name leaked
        iifname "wan" ip6 daddr {server} udp dport {first}-{last} jump new_flow
    }}
}}
"""


@dataclass(frozen=True)
class Count:
    """Packets that came in from the router since the start or the last reset.

    ``leaked`` is every packet with a ULA source. The others count the packets of new flows
    (``flows.py new``) only: all of them, and by the prefix of their source.
    """

    leaked: int
    leaked_flows: int
    arrived: int
    by_prefix: dict[str, int] = field(default_factory=dict)


def rules(server: str) -> str:
    """The table that counts, and drops counted packets so that nothing answers them."""
    return RULES.format(server=server, first=FIRST_PORT, last=LAST_PORT)


def name_of(prefix: str) -> str:
    """The counter's name for a prefix: letters, digits and underscores only."""
    return "p" + str(IPv6Network(prefix)).replace(":", "_").replace("/", "_")


def prefix_rules(prefixes: Iterable[str]) -> str:
    """Rules that count these prefixes as well."""
    lines = []
    for prefix in prefixes:
        name = name_of(prefix)
        lines.append(f"add counter {TABLE} {name}")
        lines.append(f"add rule {TABLE} prefixes ip6 saddr {prefix} counter name {name}")
    return "\n".join(lines) + "\n"


def parse(text: str, prefixes: Iterable[str]) -> Count:
    """Read the output of ``nft -j list counters``."""
    packets: dict[str, int] = {}
    for item in json.loads(text)["nftables"]:
        if "counter" in item:
            packets[item["counter"]["name"]] = item["counter"]["packets"]
    by_prefix = {prefix: packets[name_of(prefix)] for prefix in prefixes}
    return Count(packets["leaked"], packets["leaked_flows"], packets["arrived"], by_prefix)
