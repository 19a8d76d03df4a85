"""Links of kind sit: made, changed in place, repaired, removed."""

from .inside import Machine, Net


def test_guest(net: Net) -> None:
    home = Machine(net, """
[uplink.he]
interface = "he"
prefix = "2001:db8:77::/48"

[tunnel.he]
remote = "198.51.100.1"
underlay = "eth0"
""", machine="a")
    home.pd("restore")
    home.settled()
    assert home.tunnel("he") == {}
