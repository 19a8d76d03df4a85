"""Neighbour discovery for hosts behind the router, on a link whose upstream router resolves every
address of a /64: entries of the kernel, and the responder of the watch."""

import sys
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from tests.lab import SERVER, Lab
from tests.lab.lab import PYTHON, SCRIPTS
from tests.lab.solicit import Advertisement, advertisement, link_option, solicitation

from .pd import (
    ENVIRONMENT,
    NEEDS_ROOT,
    NFTABLES,
    ROOT,
    STATELESS,
    Router,
    Variant,
    on,
    ping,
    reaches,
    unanswered,
)
from .test_watch import LIMIT, Watcher

pytestmark = NEEDS_ROOT

LINK = "2001:db8:ffff:"
UPSTREAM = f"{LINK}:1"
OWN = f"{LINK}:2"
"""The two ends of the upstream link."""
HOST = f"{LINK}0:8000::2"
GATEWAY = f"{LINK}0:8000::1"
LAN = f"{LINK}0:8000::/65"
"""A part of the same /64 that is behind the router."""
NOWHERE = f"{LINK}0:4000::9"
"""An address in it that is on the upstream link, if anywhere."""
PEER = "fe80::feed"
MAC = "02:00:00:00:ee:01"
UPLINK = '[uplink.wan]\ninterface = "eth0"\nsource = "onlink"\n'
RESPONDER = UPLINK + '[[proxy]]\nuplink = "wan"\n'
ENTRIES = RESPONDER + 'hosts = ["::8000:0:0:2", "::8000:0:0:3"]\n[sysctl]\n'


class Proxy:
    """A router between an upstream router that expects all on its link, and a host."""

    watcher: Watcher

    def __init__(self, lab: Lab, text: str) -> None:
        self.lab = lab
        self.router = Router(lab, text)
        self.attach(LAN, GATEWAY, HOST)

    def attach(self, network: str, gateway: str, host: str) -> None:
        """Host a has an address of a network that is routed to it."""
        length = network.partition("/")[2]
        self.router.run("ip", "-6", "addr", "add", f"{gateway}/{length}", "dev", "lan0", "nodad")
        self.lab.run("a", ["ip", "-6", "addr", "add", f"{host}/{length}", "dev", "eth0", "nodad"])

    def ask(self, *packets: bytes, last: str = HOST,
            mac: str = "") -> list[tuple[str, str, Advertisement]]:
        """What comes back for these packets, before the answer for ``last``: (to whom, sender's
        hardware address, packet). Those that the kernels ask of each other do not count. Unicast
        packets are sent to ``mac``, by default the router's."""
        end = solicitation(PEER, last, link_option(MAC))
        sources = {str(IPv6Address(one[8:24])) for one in packets}
        argv = [PYTHON, "-I", "-S", str(SCRIPTS / "solicit.py"), "wan", mac or self.mac,
                end.hex(), *(one.hex() for one in packets)]
        done = self.lab.run("isp", argv, check=False)
        assert done.returncode == 0, f"{last} was not answered for: {done.stdout}{done.stderr}"
        lines = (line.split() for line in done.stdout.splitlines())
        found = [(to, mac, advertisement(bytes.fromhex(data))) for to, mac, data in lines][:-1]
        return [one for one in found if one[2].destination in (PEER, "ff02::1", *sources)]

    @property
    def mac(self) -> str:
        """The hardware address of the router's uplink."""
        return self.lab.link_to("isp").mac(2)

    def targets(self, *targets: str, last: str = HOST) -> list[str]:
        """Those of the targets that are answered for."""
        asked = (solicitation(PEER, one, link_option(MAC)) for one in targets)
        found = self.ask(*asked, last=last)
        return [one.target for _, _, one in found]


@pytest.fixture(scope="module")
def network() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def standing(network: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The responder, at work."""
    proxy = Proxy(network, RESPONDER)
    proxy.watcher = Watcher(proxy.router, tmp_path_factory.mktemp("notify"))
    yield proxy


# ---- the responder: who is answered for ----------------------------------------------------------


def hears_all(proxy: Proxy) -> bool:
    """The uplink takes all multicast (linux/if.h IFF_ALLMULTI), whatever its hardware filters."""
    return bool(int(proxy.lab.read("router", "/sys/class/net/eth0/flags"), 16) & 0x200)


def test_a_host_behind_the_router_is_reached(standing: Proxy) -> None:
    assert hears_all(standing)
    assert reaches(standing.lab, "isp", HOST)
    assert reaches(standing.lab, "a", UPSTREAM)


def test_only_what_is_routed_elsewhere_is_answered_for(standing: Proxy) -> None:
    run = standing.router.run
    run("ip", "-6", "route", "add", "unreachable", f"{LINK}0:1000::/80")
    run("ip", "-6", "route", "add", "blackhole", f"{LINK}0:1001::/80")
    run("ip", "-6", "route", "add", "prohibit", f"{LINK}0:1002::/80")
    run("ip", "-6", "route", "add", f"{LINK}0:1003::/80", "dev", "eth0")
    run("ip", "-6", "route", "add", f"{LINK}0:1004::/80", "via", "fe80::b", "dev", "lan1")
    hops = [["nexthop", "via", f"fe80::{n}", "dev", dev]
            for n, dev in enumerate(("lan1", "eth0", "lan1"))]
    run("ip", "-6", "route", "add", f"{LINK}0:1005::/80", *hops[0], *hops[1])
    run("ip", "-6", "route", "add", f"{LINK}0:1006::/80", *hops[0], *hops[2])
    asked = [f"{LINK}0:100{n}::5" for n in range(7)]
    assert standing.targets(*asked) == [f"{LINK}0:1004::5", f"{LINK}0:1006::5"]


def test_what_is_elsewhere_is_not_answered_for(standing: Proxy) -> None:
    """On the upstream link, and outside the prefix whatever the routes say."""
    asked = (UPSTREAM, NOWHERE, "fd5e:ed00:1234::2", "2001:db8:fffe::1", "fe80::1")
    assert standing.targets(*asked) == []


def test_the_routers_own_addresses(standing: Proxy) -> None:
    """The kernel answers for those of the link itself; for those of other links it does not."""
    asked = [solicitation(PEER, one, link_option(MAC)) for one in (OWN, GATEWAY)]
    first, second = standing.ask(*asked)
    assert (first[2].target, first[2].flags >> 29 & 1) == (OWN, 1)
    assert (second[2].target, second[2].flags >> 29 & 1) == (GATEWAY, 0)


def test_who_asks_on_the_link_is_on_the_link(standing: Proxy) -> None:
    mine = f"{LINK}0:8000::77"
    assert standing.targets(mine) == [mine]
    found = standing.ask(solicitation(mine, HOST, link_option(MAC)),
                         solicitation(PEER, mine, link_option(MAC)), last=GATEWAY)
    assert [one.target for _, _, one in found] == [HOST]


def test_nobody_is_kept_from_an_address_that_is_not_in_use(standing: Proxy) -> None:
    """Duplicate address detection: a route alone is no reason to answer."""
    run = standing.router.run
    free, fixed = f"{LINK}0:8000::dad", f"{LINK}0:8000::f1"
    run("ip", "-6", "route", "add", f"{fixed}/128", "dev", "lan0")
    assert reaches(standing.lab, "router", HOST)  # so it is known
    asked = [solicitation("::", one) for one in (free, HOST, fixed, GATEWAY, NOWHERE, OWN)]
    found = standing.ask(*asked, last=f"{LINK}0:8000::e")
    assert sorted(one.target for _, _, one in found) == sorted([HOST, fixed, GATEWAY, OWN])
    for to, _, answer in (one for one in found if one[2].target != OWN):  # that is the kernel's
        assert (to, answer.destination, answer.flags) == ("all", "ff02::1", 0x80000000)


def test_status_says_when_nobody_answers(lab: Lab, tmp_path: Path) -> None:
    router = Router(lab, RESPONDER)
    router.pd("restore")
    said = "wrong: proxy on eth0: nobody answers neighbour solicitations: pdreactor watch does not"
    assert said in router.pd("status", code=None).stdout
    Watcher(router, tmp_path)
    assert "wrong" not in router.pd("status").stdout


# ---- the responder: what the answer is ---------------------------------------------------------


@pytest.mark.parametrize("options", [link_option(MAC), b"", b"\x0e\1nonce!" + link_option(MAC)])
@pytest.mark.parametrize("destination", ["", HOST], ids=["multicast", "unicast"])
def test_every_field_of_an_answer(standing: Proxy, options: bytes, destination: str) -> None:
    """RFC 4861 sections 4.4, 7.2.4 and 7.2.8, also for a unicast probe (section 7.3.1), and for who
    does not say his hardware address."""
    asked = solicitation(PEER, HOST, options, destination=destination)
    [(to, mac, answer)] = standing.ask(asked, last=GATEWAY)
    source = standing.router.run("ip", "-6", "-br", "addr", "show", "dev", "eth0", "scope", "link")
    assert (mac, answer) == (standing.mac, Advertisement(
        label=6 << 28, hop_limit=255, source=source.split()[2].split("/")[0], destination=PEER,
        type=136, code=0, flags=0xC0000000, target=HOST,
        options=((2, bytes.fromhex(standing.mac.replace(":", ""))),), checksum=True))
    theirs = standing.lab.link_to("isp").mac(1)
    assert to == ("all" if options else "host"), f"not sent to {MAC if options else theirs}"


def wrong(data: bytes) -> bytes:
    """With another checksum."""
    return data[:42] + bytes((data[42] ^ 1,)) + data[43:]


LINK_OPTION = link_option(MAC)
HOSTILE = {
    "hop limit": solicitation(PEER, HOST, LINK_OPTION, hop_limit=254),
    "code": solicitation(PEER, HOST, LINK_OPTION, code=1),
    "type": solicitation(PEER, HOST, LINK_OPTION, kind=136),
    "checksum": wrong(solicitation(PEER, HOST, LINK_OPTION)),
    "option of length 0": solicitation(PEER, HOST, b"\1\0" + bytes(6)),
    "option beyond the end": solicitation(PEER, HOST, b"\1\2" + bytes(6)),
    "half an option": solicitation(PEER, HOST, LINK_OPTION + b"\1\1" + bytes(2)),
    "no target": solicitation(PEER, HOST)[:4] + b"\0\10" + solicitation(PEER, HOST)[6:48],
    "longer than it is": solicitation(PEER, HOST)[:4] + b"\1\0" + solicitation(PEER, HOST)[6:],
    "multicast target": solicitation(PEER, "ff02::1", LINK_OPTION),
    "multicast source": solicitation("ff02::2", HOST, LINK_OPTION),
    "source option while detecting duplicates": solicitation("::", GATEWAY, LINK_OPTION),
    "detecting duplicates at one node": solicitation("::", GATEWAY, destination=GATEWAY),
}


def test_what_must_be_discarded_is(standing: Proxy) -> None:
    """RFC 4861 section 7.1.1."""
    assert standing.ask(*HOSTILE.values(), last=GATEWAY) == []
    probe = solicitation(PEER, HOST, LINK_OPTION, destination=HOST)
    assert standing.ask(probe, last=GATEWAY, mac="02:00:00:00:99:99") == []  # for another node
    assert standing.watcher.process.running


# ---- the responder: what changes ---------------------------------------------------------------


@pytest.fixture
def proxy(lab: Lab, tmp_path: Path) -> Proxy:
    """The responder, alone in its network."""
    proxy = Proxy(lab, RESPONDER)
    proxy.watcher = Watcher(proxy.router, tmp_path)
    return proxy


def test_the_prefix_changes(proxy: Proxy) -> None:
    router, lab, new = proxy.router, proxy.lab, "2001:db8:eeee:"
    lab.run("isp", ["ip", "-6", "addr", "add", f"{new}:1/64", "dev", "wan", "nodad"])
    proxy.attach(f"{new}0:8000::/65", f"{new}0:8000::1", f"{new}0:8000::2")
    assert unanswered(lab, "isp", f"{new}0:8000::2")
    router.run("ip", "-6", "addr", "add", f"{new}:2/64", "dev", "eth0", "nodad")
    proxy.watcher.wait(lambda: reaches(lab, "isp", f"{new}0:8000::2"), "the new prefix")
    assert reaches(lab, "isp", HOST)


def test_the_link_goes_down_and_comes_back(proxy: Proxy) -> None:
    for _ in range(2):
        proxy.router.run("ip", "link", "set", "eth0", "down")
        proxy.router.run("ip", "link", "set", "eth0", "up")
        proxy.router.run("ip", "-6", "addr", "replace", f"{OWN}/64", "dev", "eth0", "nodad")
        proxy.lab.run("isp", ["ip", "-6", "neigh", "flush", "dev", "wan"])
        proxy.watcher.wait(lambda: reaches(proxy.lab, "isp", HOST), "an answer")
    assert "error" not in proxy.watcher.process.output()


def replaced(proxy: Proxy) -> None:
    """The uplink's device goes, and another one of its name, and of its number, comes."""
    lab = proxy.lab
    proxy.router.run("ip", "link", "del", "eth0")
    link = lab.link_to("isp")
    proxy.router.run(*f"ip link add eth0 index 13 address {link.mac(2)} type veth peer name wan "
                     f"address {link.mac(1)} netns {lab.pid('isp')}".split())
    proxy.router.run("ip", "link", "set", "eth0", "up")
    lab.run("isp", ["ip", "link", "set", "wan", "up"])
    lab.run("isp", ["ip", "-6", "addr", "add", f"{UPSTREAM}/64", "dev", "wan", "nodad"])
    proxy.router.run("ip", "-6", "addr", "add", f"{OWN}/64", "dev", "eth0", "nodad")


def test_the_device_is_another_one(proxy: Proxy) -> None:
    for _ in range(2):
        replaced(proxy)
        proxy.watcher.wait(lambda: reaches(proxy.lab, "isp", HOST), "an answer")
        assert hears_all(proxy)
    assert "error" not in proxy.watcher.process.output()


def test_it_ends_with_its_configuration(proxy: Proxy) -> None:
    assert reaches(proxy.lab, "isp", HOST)
    proxy.router.configure(UPLINK)
    proxy.watcher.reload()
    proxy.lab.run("isp", ["ip", "-6", "neigh", "flush", "dev", "wan"])
    assert unanswered(proxy.lab, "isp", HOST)
    assert not hears_all(proxy)
    proxy.router.configure(RESPONDER)
    proxy.watcher.reload()
    proxy.lab.run("isp", ["ip", "-6", "neigh", "flush", "dev", "wan"])
    assert reaches(proxy.lab, "isp", HOST)


FEW = """
import sys
from pdreactor.layout import responder
responder.FOR_ALL = 100
from pdreactor.cli import main
sys.exit(main())
"""


def test_it_goes_on_after_more_than_it_looks_at(lab: Lab) -> None:
    proxy = Proxy(lab, RESPONDER)
    lab.start("router", [sys.executable, "-c", FEW, "watch"], env=ENVIRONMENT)
    lab.wait(lambda: reaches(lab, "isp", HOST), LIMIT, "an answer")
    many = [solicitation(PEER, HOST, link_option(MAC))] * 150
    assert len(proxy.ask(*many, last=f"{LINK}0:8000::9")) == 150


MAPPED = RESPONDER + '[[translation]]\nuplink = "wan"\ninternal = "fd5e:ed00:1234::/64"\n'
INSIDE, OUTSIDE = "fd5e:ed00:1234::a2", f"{LINK}:a2"


@on([NFTABLES, STATELESS])
def test_translated_hosts_of_an_on_link_prefix(lab: Lab, tmp_path: Path, variant: Variant) -> None:
    """They are answered for by their external addresses; but who has such an address on the link
    is left alone."""
    proxy = Proxy(lab, variant.put_into(MAPPED))
    lab.run("a", ["ip", "-6", "addr", "add", f"{INSIDE}/64", "dev", "eth0", "nodad"])
    proxy.router.run("ip", "-6", "addr", "del", f"{GATEWAY}/65", "dev", "lan0")
    Watcher(proxy.router, tmp_path)
    assert ping(lab, "isp", OUTSIDE, "-I", SERVER) == f"answered by {OUTSIDE}"
    sniffer = lab.sniff(f"{OUTSIDE}/128")
    assert ping(lab, "a", SERVER, "-I", INSIDE) == f"answered by {SERVER}"
    sniffer.wait()
    there = f"{LINK}:77"
    assert sorted(proxy.targets(there, UPSTREAM, OWN, last=OUTSIDE)) == sorted([there, OWN])
    proxy.router.run("ip", "-6", "neigh", "add", there, "lladdr", MAC, "dev", "eth0")
    assert proxy.targets(there, last=OUTSIDE) == []
    run = proxy.router.run
    run("ip", "-6", "route", "add", "unreachable", "fd5e:ed00:1234:0:5000::/80")
    nobody = f"{LINK}0:5000::1"
    assert proxy.targets(nobody, last=OUTSIDE) == []
    run("ip", "-6", "route", "del", f"{LINK}:/64", "dev", "eth0")  # as with noprefixroute
    assert proxy.targets(there, nobody, last=OUTSIDE) == [], "the way around is no own address"


# ---- point-to-point links ------------------------------------------------------------------------

POINT = """
[uplink.wan]
interface = "tun9"
prefix = "2001:db8:ffff::/64"
[[proxy]]
uplink = "wan"
"""
TUN = str(Path(__file__).with_name("tun.py"))


def test_an_answer_on_a_link_without_addresses_has_no_option(lab: Lab, tmp_path: Path) -> None:
    """As on PPP. The far end is a program."""
    proxy = Proxy(lab, POINT)
    asked = solicitation(PEER, HOST)
    far = lab.start("router", [PYTHON, "-I", "-S", TUN, "tun9", asked.hex(), HOST])
    far.wait_output("ready")
    Watcher(proxy.router, tmp_path)
    far.wait(LIMIT)
    answer = advertisement(bytes.fromhex(far.output().split()[-1]))
    assert (answer.target, answer.destination, answer.options) == (HOST, PEER, ())
    assert (answer.flags, answer.checksum) == (0xC0000000, True)


# ---- the seeds' systems: what needs no tunnel ----------------------------------------------------


def test_seed_000_a_part_of_the_link_s_prefix_at_home(lab: Lab, tmp_path: Path) -> None:
    """syd01: its only /64 is on the link to the provider, and a part of that is at home, by the way
    of a router there. In the place of ndppd the watch answers."""
    home, via = f"{LINK}0:2000::/67", "fd5e:ed00:1234::2"
    text = RESPONDER + f"""
[sysctl]
[[route]]
uplink = "wan"
interface = "lan0"
via = "{via}"
subnet = 1
length = 67
"""
    proxy = Proxy(lab, text)
    host = f"{LINK}0:2000::99"
    lab.run("a", ["ip", "-6", "addr", "add", f"{host}/128", "dev", "lo"])
    Watcher(proxy.router, tmp_path)
    assert home in proxy.router.run("ip", "-6", "route", "show", home)
    assert reaches(lab, "isp", host)
    assert proxy.targets(f"{LINK}0:4000::99", last=host) == []


def test_seed_001_one_address_behind_the_server(lab: Lab) -> None:
    """The server of a private tunnel: one address of the link's prefix is the client's, and the
    kernel answers for it. The tunnel is a cable here."""
    server, client = f"{LINK}:a", f"{LINK}:b"
    text = RESPONDER + 'hosts = ["::b"]\n[sysctl]\n'
    proxy = Proxy(lab, text)
    run = proxy.router.run
    run("ip", "-6", "addr", "add", f"{server}/127", "dev", "lan0", "nodad")
    lab.run("a", ["ip", "-6", "addr", "add", f"{client}/127", "dev", "eth0", "nodad"])
    run("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=0")
    proxy.router.pd("restore")
    assert reaches(lab, "isp", client)
    assert proxy.router.run("sysctl", "-n", "net.ipv6.neigh.eth0.proxy_delay").strip() == "0"
    run("ip", "link", "set", "eth0", "down")
    run("ip", "link", "set", "eth0", "up")
    run("ip", "-6", "addr", "replace", f"{OWN}/64", "dev", "eth0", "nodad")
    lab.run("isp", ["ip", "-6", "neigh", "flush", "dev", "wan"])
    proxy.router.pd("restore")
    lab.wait(lambda: reaches(lab, "isp", client), LIMIT, "an answer")


# ---- entries of the kernel -----------------------------------------------------------------------


def entries(router: Router) -> set[str]:
    """Addresses that the kernel answers for."""
    lines = router.run("ip", "-6", "neigh", "show", "proxy").splitlines()
    return {line.split()[0] for line in lines}


def test_entries_of_the_kernel_follow(lab: Lab) -> None:
    """Without a watch: each pass puts them back, and moves them to a new prefix."""
    proxy = Proxy(lab, ENTRIES)
    router, both = proxy.router, {HOST, f"{LINK}0:8000::3"}
    router.pd("restore")
    assert (entries(router), reaches(lab, "isp", HOST)) == (both, True)
    assert router.pd("plan").stdout.strip() == "nothing to change"
    router.run("ip", "link", "set", "eth0", "down")
    assert entries(router) == set()
    router.run("ip", "link", "set", "eth0", "up")
    router.run("ip", "-6", "addr", "replace", f"{OWN}/64", "dev", "eth0", "nodad")
    router.pd("restore")
    assert entries(router) == both
    router.run("ip", "-6", "neigh", "add", "proxy", f"{LINK}:abc", "dev", "eth0")  # another's
    router.run("ip", "-6", "addr", "del", f"{OWN}/64", "dev", "eth0")
    router.run("ip", "-6", "addr", "add", "2001:db8:eeee::2/64", "dev", "eth0", "nodad")
    router.pd("restore")
    new = {"2001:db8:eeee:0:8000::2", "2001:db8:eeee:0:8000::3"}
    assert new <= entries(router) <= new | both | {f"{LINK}:abc"}
    router.pd("flush")
    assert entries(router) == {f"{LINK}:abc"}


def test_entries_are_back_when_the_link_is(lab: Lab, tmp_path: Path) -> None:
    proxy = Proxy(lab, ENTRIES)
    watcher = proxy.watcher = Watcher(proxy.router, tmp_path)
    watcher.wait(lambda: reaches(lab, "isp", HOST), "an answer")
    proxy.router.run("ip", "link", "set", "eth0", "down")
    proxy.router.run("ip", "link", "set", "eth0", "up")
    watcher.wait(lambda: HOST in entries(proxy.router), "the entry")
    replaced(proxy)
    watcher.wait(lambda: HOST in entries(proxy.router), "the entry")
    watcher.wait(lambda: reaches(lab, "isp", HOST), "an answer")


# ---- ndppd ---------------------------------------------------------------------------------------

NDPPD = ROOT / ".cache/ndppd/usr/sbin/ndppd"
CONF, PID = "/etc/ndppd.conf", "/run/ndppd.pid"
SERVICE = f"""#!/bin/sh
[ -e {PID} ] && kill "$(cat {PID})" && rm {PID}
[ "$1" = stop ] || {NDPPD} -d -p {PID}
"""
LETS_NDPPD = RESPONDER + 'method = "ndppd"\nsubnet = 1\nlength = 65\n'


@pytest.fixture
def daemon(lab: Lab) -> Proxy:
    """A machine with ndppd, and without systemd."""
    if not NDPPD.exists():
        pytest.skip("ndppd is not in .cache: tests/setup.sh puts it there")
    lab.write("router", "/etc/init.d/ndppd", SERVICE, 0o755)
    return Proxy(lab, LETS_NDPPD)


def test_ndppd_is_configured_and_restarted(daemon: Proxy) -> None:
    router, lab = daemon.router, daemon.lab
    router.pd("restore")
    assert f"rule {LAN} {{" in lab.read("router", CONF)
    lab.wait(lambda: reaches(lab, "isp", HOST), 10, "an answer of ndppd's")
    started = lab.read("router", PID)
    router.pd("restore")
    assert (router.pd("plan").returncode, lab.read("router", PID)) == (0, started)
    new = "2001:db8:eeee:"
    router.run("ip", "-6", "addr", "del", f"{OWN}/64", "dev", "eth0")
    router.run("ip", "-6", "addr", "add", f"{new}:2/64", "dev", "eth0", "nodad")
    router.pd("restore")
    assert f"rule {new}0:8000::/65 {{" in lab.read("router", CONF)
    assert lab.read("router", PID) != started
    router.run("ip", "link", "set", "eth0", "down")
    router.pd("restore")
    assert "proxy eth0" not in lab.read("router", CONF)
    assert not lab.path("router", PID).exists()
    router.configure(UPLINK)
    router.pd("restore")
    assert not lab.path("router", CONF).exists()


def test_what_ndppd_has_goes_with_the_rest(daemon: Proxy) -> None:
    daemon.router.pd("restore")
    daemon.router.pd("flush")
    assert not daemon.lab.path("router", CONF).exists()
    assert not daemon.lab.path("router", PID).exists()


def test_a_file_of_others_is_left_alone(daemon: Proxy) -> None:
    router, lab = daemon.router, daemon.lab
    lab.write("router", CONF, "proxy eth9 {\n}\n")
    assert "is there and not pdreactor's: move it away" in router.pd("restore", code=70).stderr
    assert "is there and not pdreactor's" in router.pd("status", code=None).stdout
    router.pd("flush")
    assert lab.read("router", CONF) == "proxy eth9 {\n}\n"


def test_an_ndppd_that_does_not_start_is_named_and_tried_again(daemon: Proxy) -> None:
    router, lab = daemon.router, daemon.lab
    lab.write("router", "/etc/init.d/ndppd", "#!/bin/sh\nexit 3\n", 0o755)
    said = router.pd("restore", code=70).stderr
    assert "cannot restart ndppd: service ndppd restart ended with status 3" in said
    lab.write("router", "/etc/init.d/ndppd", SERVICE, 0o755)
    router.pd("restore")
    lab.wait(lambda: reaches(lab, "isp", HOST), 10, "an answer of ndppd's")
