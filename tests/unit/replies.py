"""Variables of dhcpcd's calls, written short for tests."""

from pdreactor import events
from pdreactor.model import Uplink

WAN = Uplink("wan", "wan0")
IA1, IA2 = WAN._replace(iaid=1), WAN._replace(iaid=2)


def lease(*lines: str, reason: str = "RENEW6") -> events.Variables:
    """Variables of a call on wan0; names without new_ or old_ in front are new_dhcp6_ia_pd1_."""
    variables = [("reason", reason), ("interface", "wan0")]
    for line in lines:
        name, _, value = line.partition("=")
        full = name.startswith(("new_", "old_"))
        variables.append((name if full else f"new_dhcp6_ia_pd1_{name}", value))
    return variables


def one_prefix(address: str = "2001:db8::", **changed: str) -> events.Variables:
    """A reply with one prefix; ``changed`` are fields of it."""
    fields = {"pltime": "10", "vltime": "20", "length": "58"} | changed
    lines = [f"prefix1_{field}={value}" for field, value in fields.items() if value != "-"]
    return lease("iaid=00000001", *lines, f"prefix1={address}")


def prefix_lines(label: str, address: str, valid: str = "20") -> tuple[str, ...]:
    fields = ("pltime=0", f"vltime={valid}", "length=58")
    return (*(f"{label}_{field}" for field in fields), f"{label}={address}")
