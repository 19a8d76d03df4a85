"""Coming from the shell script: its state file is read once, while there is no state of our own.

The file holds one prefix, as text, without lifetimes. It is served until dhcpcd says more.
"""

from .errors import Refused
from .model import Config, Delegation, Event, State
from .prefix import acceptable, parse_prefix
from .transition import after_event

FILE = "/var/run/ipv6-pd/current_prefix"
VALID = 7200
"""Seconds. The file does not say; after two hours without a word it is served as an expired one."""


def adopt(known: State, config: Config, now: int) -> State:
    """The state with the shell script's prefix on the only uplink; as it was without the file."""
    uplink = config.uplinks[0]
    try:
        with open(FILE, encoding="ascii") as file:
            network = parse_prefix(file.read(200).strip())
        acceptable(network, min_length=uplink.min_length, max_length=uplink.max_length)
        told = Delegation(network, None, VALID, VALID)
        event = Event("shell script", uplink.interface, (told,))
        return after_event(known, event, uplink, config, now)
    except (OSError, UnicodeError, Refused):
        return known  # not there, or not a prefix: the next lease event brings one
