"""[tunnel.NAME]: every mistake is said, and what a tunnel becomes."""

import subprocess
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import pytest

from pdreactor.config import parse
from pdreactor.errors import ConfigError
from pdreactor.layout import laying, traces, tunnels
from pdreactor.layout.model import (
    IN4,
    Address,
    Layout,
    Link,
    Plans,
    Seen,
    SeenLink,
    Sixrd,
    Traces,
    Tunnel,
)
from pdreactor.model import SIXRD, SIXTOFOUR
from pdreactor.ways import Route

from .values import N

EXAMPLES = Path(__file__).parents[2] / "contrib/examples"
A = IPv4Address
HEAD = '[uplink.wan]\ninterface = "eth0"\n'


def mistakes(tunnel: str, head: str = HEAD) -> list[str]:
    try:
        parse(f"{head}\n[tunnel.t]\n{tunnel}", "file")
    except ConfigError as exc:
        return exc.mistakes
    return []


GOOD = 'remote = "192.0.2.1"\n'
SIX = 'mode = "6to4"\nunderlay = "eth0"\n'
RD = 'mode = "6rd"\nunderlay = "eth0"\n'


@pytest.mark.parametrize("text", [
    GOOD,
    GOOD + 'local = "192.0.2.2"\nttl = 0\nmtu = 1280\nmetric = 1\ndefault = true',
    GOOD + 'underlay = "eth0"\naddresses = ["2001:db8::1/127", "2001:db8:1::1/66"]',
    SIX,
    SIX + 'public = "192.0.2.1"\nrelay = "192.0.2.2"\ndefault = true',
    RD,
    RD + 'prefix = "2001:db8::/32"\nrelay = "192.0.2.1"\nmask_length = 8\ndefault = true',
    'mode = "6rd"\nlocal = "10.0.0.1"\nprefix = "2001:db8::/32"\nrelay = "10.0.0.2"',
])
def test_good_ones(text: str) -> None:
    assert mistakes(text) == []


@pytest.mark.parametrize("text, said", [
    ("", "tunnel.t.remote: is required, the IPv4 address of the far end"),
    (GOOD + 'local = "192.0.2.2"\nunderlay = "eth0"', "tunnel.t.local: is what the interface"),
    (GOOD + 'public = "192.0.2.2"', "tunnel.t.public: is for modes 6to4 and 6rd"),
    (GOOD + 'prefix = "2001:db8::/32"', "tunnel.t.prefix: is for modes 6to4 and 6rd"),
    (GOOD + 'relay = "192.0.2.2"', "tunnel.t.relay: is for modes 6to4 and 6rd"),
    ('remote = "224.0.0.1"', "tunnel.t.remote = '224.0.0.1': must be the unicast address"),
    ('remote = "2001:db8::1"', "must be an IPv4 address"),
    (GOOD + 'ttl = 256', "must be an integer from 0 to 255"),
    (GOOD + 'mtu = 1279', "must be an integer from 1280 to 65515"),
    (GOOD + 'addresses = ["2001:db8::1"]', "must be an IPv6 address with a length"),
    (GOOD + 'addresses = ["ff02::1/64"]', "must be a unicast address"),
    (GOOD + 'mode = "gre"', 'unknown: must be "6in4" or "6to4" or "6rd"'),
    (GOOD + 'tll = 64', "ttl"),
    (SIX + GOOD, "tunnel.t.remote: is not for mode 6to4"),
    ('mode = "6to4"', "tunnel.t.underlay: is required"),
    ('mode = "6to4"\nlocal = "192.168.1.1"', "192.168.1.1 is not a public address"),
    (SIX + 'prefix = "2001:db8::/32"', "tunnel.t.prefix: is for mode 6rd"),
    (SIX + 'default = true', "the anycast relay is gone (RFC 7526)"),
    (RD + 'prefix = "2001:db8::/32"', "prefix: and relay are written down both, or neither"),
    (RD + 'relay = "192.0.2.2"', "prefix: and relay are written down both, or neither"),
    ('mode = "6rd"\nlocal = "192.0.2.2"', "the interface where DHCPv4 tells of 6rd"),
    (RD + 'prefix = "2001:db8::/33"\nrelay = "192.0.2.2"', "mask_length: leaves no /64"),
])
def test_each_mistake_is_said(text: str, said: str) -> None:
    assert any(said in one for one in mistakes(text)), mistakes(text)


@pytest.mark.parametrize("name, said", [
    ("sit0", "is a name that the kernel uses"), ("lo", "is a name that the kernel uses"),
    ('"much-too-long-name"', "1 to 15 printable"), ('"a/b"', "no /"),
])
def test_a_bad_name_is_said(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"{HEAD}[tunnel.{name}]\n{GOOD}", "file")
    assert said in caught.value.mistakes[0]


@pytest.mark.parametrize("source", ["6to4", "6rd"])
def test_an_uplink_of_such_a_source_is_a_tunnel_of_that_mode(source: str) -> None:
    head = f'[uplink.wan]\ninterface = "eth0"\nsource = "{source}"\n'
    assert any(f'must be a [tunnel.NAME] with mode "{source}"' in one
               for one in mistakes(SIX, head))
    other = head.replace('"eth0"', '"t"')
    assert bool(mistakes(SIX, other)) is (source == "6rd")


def test_the_mtu_is_that_of_the_mode() -> None:
    found = {mode: parse(f"{HEAD}[tunnel.t]\n{text}", "").plans.tunnels[0].mtu
             for mode, text in ((IN4, GOOD), (SIXTOFOUR, SIX), (SIXRD, RD))}
    assert found == {IN4: 1480, SIXTOFOUR: 1280, SIXRD: 1480}


def test_a_route_may_be_around_other_slices_but_not_the_same() -> None:
    assign = '[[assign]]\nuplink = "wan"\ninterface = "lan"\nlength = 112\nhost = "::1"\n'
    route = '[[route]]\nuplink = "wan"\ninterface = "t"\n'
    assert parse(HEAD + assign + route, "").plans
    for other in (route + "length = 112\n", route.replace('"t"', '"u"') + route):
        with pytest.raises(ConfigError, match="its slice overlaps"):
            parse(HEAD + assign + other, "")


# ---- links -------------------------------------------------------------------------------------


T = Tunnel("t", remote=A("192.0.2.1"), underlay="eth0", default=True)


def seen(*addresses: str, link: SeenLink | None = None) -> Seen:
    return Seen({link.link.name: link} if link else {},
                {"eth0": tuple(A(one) for one in addresses)} if addresses else {}, {})


def links(tunnel: Tunnel, there: Seen, known: Traces | None = None) -> tuple[list[Link], list[str]]:
    problems = []
    found = list(tunnels.links(Plans(tunnels=(tunnel,)), known or Traces(), there, problems))
    return found, [one.message for one in problems]


LINK = Link("t", "sit", 1480, A("198.51.100.2"), A("192.0.2.1"), 64)


def test_the_first_address_of_the_underlay_is_the_local_one() -> None:
    assert links(T, seen("198.51.100.2", "198.51.100.3")) == ([LINK], [])


def test_without_an_address_there_is_no_link_but_one_that_is_there_stays() -> None:
    said = ["interface eth0 has no IPv4 address"]
    assert links(T, seen()) == ([], said)
    assert links(T, seen(link=SeenLink(LINK, True, True, b""))) == ([LINK], said)
    assert links(T, seen(link=SeenLink(LINK, False, True, b""))) == ([], said)


def test_links_of_others_are_left_alone_but_an_unfinished_one_is_ours() -> None:
    here = "198.51.100.2"
    for link, ours, up, taken in ((LINK, False, True, False), (LINK, False, False, True),
                                  (LINK._replace(ttl=9), False, False, False),
                                  (LINK._replace(ttl=9), True, True, True)):
        found, said = links(T, seen(here, link=SeenLink(link, ours, up, b"")))
        assert bool(found) is taken and bool(said) is not taken


def test_6rd_has_what_is_shared_of_ipv4() -> None:
    tunnel = Tunnel("t", SIXRD, underlay="eth0", default=True)
    told = Traces(sixrd=(Sixrd("eth0", N("2001:db8::/32"), 8, A("10.0.0.1")),))
    found, _ = links(tunnel, seen("10.7.7.7"), told)
    assert found[0].sixrd == (N("2001:db8::/32"), IPv4Network("10.0.0.0/8"))
    assert links(tunnel, seen("10.7.7.7")) == ([], ["DHCPv4 on eth0 has told nothing of 6rd"])
    routes = list(tunnels.routes(Plans(tunnels=(tunnel,)), told, {"t"}))
    assert routes == [Route(N("2001:db8::/32"), "unicast", 254, 256, "t"),
                      Route(N("::/0"), "unicast", 254, 1024, "t", IPv6Address("::10.0.0.1"))]


def test_only_tunnels_that_follow_an_interface_have_an_end_point_to_tell() -> None:
    fixed = T._replace(name="u", underlay="", local=A("192.0.2.9"))
    plans = Plans(tunnels=(T, fixed))
    there = [LINK, LINK._replace(name="u")]
    assert list(tunnels.endpoints(plans, there)) == [("t", "198.51.100.2")]
    known = Traces(endpoints=(("t", "198.51.100.2"),))
    assert traces.decode(traces.encode(known)) == known


# ---- the plan ----------------------------------------------------------------------------------


def plan(link: SeenLink, wanted: Link) -> laying.Change:
    there = {link.link.name: link}
    address = Address("t", IPv6Address("2001:db8::1"), 64)
    observed = laying.Observed(there, (laying.SeenAddress(address, 157),), (), Seen(there, {}, {}))
    return laying.plan(observed, Layout(links=(wanted,), addresses=(address,)), Traces(),
                       manage=False, protocol=157, now=0)


def test_a_link_as_desired_is_not_touched() -> None:
    assert not plan(SeenLink(LINK, True, True, b""), LINK)


@pytest.mark.parametrize("other", [
    LINK._replace(local=A("198.51.100.9")), LINK._replace(remote=A("192.0.2.9")),
    LINK._replace(ttl=1), LINK._replace(mtu=1280),
    LINK._replace(sixrd=(N("2001:db8::/32"), IPv4Network("0.0.0.0/0")))])
def test_another_value_is_changed_in_place(other: Link) -> None:
    assert plan(SeenLink(other, True, True, b""), LINK) == laying.Change(change=(LINK,))


def test_one_that_is_down_or_not_marked_is_finished() -> None:
    for link in (SeenLink(LINK, True, False, b""), SeenLink(LINK, False, False, b"")):
        assert plan(link, LINK) == laying.Change(change=(LINK,))


def test_a_far_end_for_all_and_another_kind_make_it_again_with_its_addresses() -> None:
    for other in (LINK._replace(remote=None), Link("t", "dummy", 1500)):
        change = plan(SeenLink(other, True, True, b""), LINK)
        assert (change.clear, change.make) == (("t",), (LINK,))
        assert [one.interface for one in change.put] == ["t"]


# ---- examples ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_each_example_has_no_mistake_and_no_warning(path: Path) -> None:
    assert parse(path.read_text(), path.name).warnings == ()
    assert f"]({path.name})" in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize("changed, nat, asked", [
    ({"PDREACTOR_TUNNEL": "he", "PDREACTOR_LOCAL": "192.0.2.7"}, [], "hostname=12&myip=192.0.2.7"),
    ({"PDREACTOR_TUNNEL": "he", "PDREACTOR_LOCAL": "10.0.0.7"}, ["nat"], "hostname=12"),
    ({"PDREACTOR_TUNNEL": "other", "PDREACTOR_LOCAL": "192.0.2.7"}, [], ""),
    ({"PDREACTOR_UPLINK": "wan"}, [], ""),
])
def test_the_tunnel_broker_is_told(tmp_path: Path, changed: dict[str, str], nat: list[str],
                                   asked: str) -> None:
    curl = tmp_path / "curl"
    curl.write_text('#!/bin/sh\nfor last; do :; done\necho "$last"\n')
    curl.chmod(0o755)
    done = subprocess.run([EXAMPLES / "tunnelbroker-update", "he", "12", *nat], check=True,
                          text=True, capture_output=True,
                          env={"PATH": f"{tmp_path}:/usr/bin:/bin", **changed})
    url = f"https://ipv4.tunnelbroker.net/nic/update?{asked}\n"
    assert done.stdout == (url if asked else "")
