"""Several prefixes on one interface, each /64 by itself, and different slices on each uplink."""

from collections.abc import Iterator

import pytest

from tests.lab import POOLS, SERVER, Lab, Pool
from tests.lab.servers import DHCPCD_CONF

from .pd import EACH, NEEDS_ROOT, NEW, OLD, ROOT, A, B, Echo, Router, Variant, ask, on, reaches

pytestmark = NEEDS_ROOT

TABLES = {"home": "table = 201", "guests": "table = 202"}
TWO_IAIDS = """
[uplink.home]
interface = "eth0"
iaid = 1
{home}
[uplink.guests]
interface = "eth0"
iaid = 2
{guests}
[[translation]]
uplink = "home"
internal = "fd5e:ed00:1234::/64"
[[translation]]
uplink = "guests"
internal = "fd5e:ed00:1234:1::/64"
"""
SIXTEEN = "fd5e:ed00:1234::/60"
"""Of what has the length of the delegations, so that hosts are easily named."""
ONE_UPLINK = """
[uplink.home]
interface = "eth0"
table = 201
[[translation]]
uplink = "home"
internal = "fd5e:ed00:1234::/64"
"""
CONF = DHCPCD_CONF.format(interface="eth0").replace(
    "    ia_pd 1/::/58 nosuch0/0/58\n",
    "    ia_pd 1/::/60 nosuch0/0/60\n    ia_pd 2 nosuch1/0/60\n")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(uplinks=2) as network:
        yield network


def seen(lab: Lab, host: str, isp: str = "isp") -> set[str]:
    """How a host is seen at an ISP."""
    echo = Echo(lab, isp, SERVER)
    assert ask(lab, host, "udp", SERVER) == "same"
    echo.stop()
    return echo.sources()


def current(router: Router, uplink: str) -> str:
    """The prefix that is current; "" for none or several."""
    found = [network for network, state in router.prefixes(uplink).items() if state == "current"]
    return found[0] if len(found) == 1 else ""


def bound(lab: Lab, router: Router) -> tuple[str, str]:
    """Wait for both prefixes, and for the rules."""
    lab.wait(lambda: current(router, "home") and current(router, "guests"), 15, "two prefixes")
    lab.wait(lambda: router.pd("plan", code=None).returncode == 0, 5, "the rules")
    return current(router, "home"), current(router, "guests")


@pytest.mark.parametrize("keys", [TABLES, dict.fromkeys(TABLES, "")], ids=["tables", "main"])
def test_two_prefixes_of_one_lease_are_told_apart_by_iaid(lab: Lab, keys: dict[str, str]) -> None:
    """With a real DHCPv6 server and dhcpcd: bound, both renumbered, released."""
    router = Router(lab, TWO_IAIDS.format(**keys))
    router.run("make", "-sC", str(ROOT), "install", "PREFIX=/var/lib/installed", "SYSTEMD=no",
               timeout=60)
    lab.start_kea(Pool(POOLS[0], 60))
    lab.start_dhcpcd(CONF)
    before = bound(lab, router)
    for pool in (POOLS[0], POOLS[1]):
        if pool == POOLS[1]:
            lab.renumber(pool)
            lab.dhcpcd_renew()
            lab.wait(lambda: not {current(router, "home"), current(router, "guests")}
                     & {"", *before}, 15, "two new prefixes")
        home, guests = bound(lab, router)
        assert home != guests
        for host, inside, prefix in (("a", A, home), ("b", "fd5e:ed00:1234::2", guests)):
            outside = router.outside(inside, prefix, SIXTEEN)
            assert seen(lab, host) == {outside}
            assert reaches(lab, "isp", outside)
        assert reaches(lab, "a", B)
        with router.unwritten():
            router.pd("restore")


def test_all_prefixes_of_one_uplink_are_served_and_one_is_used(lab: Lab) -> None:
    """Two prefixes without ``iaid``: the first is for what goes out, both are for what comes in."""
    router = Router(lab, ONE_UPLINK)
    router.run("make", "-sC", str(ROOT), "install", "PREFIX=/var/lib/installed", "SYSTEMD=no",
               timeout=60)
    lab.start_kea(Pool(POOLS[0], 60))
    lab.start_dhcpcd(CONF)
    lab.wait(lambda: list(router.prefixes("home").values()) == ["current"] * 2, 15, "two prefixes")
    lab.wait(lambda: router.pd("plan", code=None).returncode == 0, 5, "the rules")
    outside = [router.outside(A, prefix, SIXTEEN) for prefix in router.prefixes("home")]
    assert len(seen(lab, "a") & set(outside)) == 1
    assert all(reaches(lab, "isp", address) for address in outside)


@on(EACH)
def test_each_network_of_many_has_its_own_slice_and_uplink(lab: Lab, variant: Variant) -> None:
    """Sixteen /64 by turns on either uplink, in an order that is not that of the slices."""
    text = "".join(f'[uplink.{name}]\ninterface = "{eth}"\ntable = {table}\n'
                   for name, eth, table in (("one", "eth0", 201), ("two", "eth1", 202)))
    for number in range(16):
        text += (f'[[translation]]\nuplink = "{("one", "two")[number % 2]}"\n'
                 f'internal = "fd5e:ed00:1234:{number:x}::/64"\nsubnet = {63 - number}\n')
    router = Router(lab, text, variant)
    router.set(OLD, uplink="one")
    router.set(NEW, uplink="two")
    for host, isp, outside in (("a", "isp", "2001:db8:4000:3f:"),
                               ("b", "isp2", "2001:db8:8000:3e:")):
        (source,) = seen(lab, host, isp)
        assert source.startswith(outside)
        assert reaches(lab, isp, source)
    assert reaches(lab, "a", B)
    with router.unwritten():
        router.pd("restore")


@on(EACH)
def test_one_network_has_another_slice_on_each_uplink(lab: Lab, variant: Variant) -> None:
    router = Router(lab, """
[uplink.one]
interface = "eth0"
table = 201
[uplink.two]
interface = "eth1"
table = 202
[[translation]]
uplink = "one"
internal = "fd5e:ed00:1234::/64"
subnet = 2
[[translation]]
uplink = "two"
internal = "fd5e:ed00:1234::/64"
subnet = 5
""", variant)
    router.set(OLD, uplink="one")
    router.set(NEW, uplink="two")
    (first,) = seen(lab, "a")
    assert first.startswith("2001:db8:4000:2:")
    router.pd("uplink", "one", "down")
    (second,) = seen(lab, "a", "isp2")
    assert second.startswith("2001:db8:8000:5:")
    router.pd("uplink", "one", "up")
    assert seen(lab, "a") == {first}
    assert reaches(lab, "isp", first) and reaches(lab, "isp2", second)
