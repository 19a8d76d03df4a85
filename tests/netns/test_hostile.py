"""Replies of a hostile DHCPv6 server: one line, nothing changes, the next good one counts."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import SERVER, Lab
from tests.lab.servers import HOOK_DIRECTORY

from .pd import (
    ENVIRONMENT,
    IPTABLES,
    NEEDS_ROOT,
    NEW,
    NFTABLES,
    OLD,
    ROOT,
    STATE,
    Router,
    Variant,
    config,
    dhcp,
    on,
    reaches,
)

pytestmark = NEEDS_ROOT

HEAD = "new_dhcp6_ia_pd1_prefix1"
LONG_INTERFACE = "e" * 20


def reply(address: str = "2001:db8:8000::", length: str = "58", **more: str) -> dict[str, str]:
    """A lease event."""
    good = dhcp(NEW) | {HEAD: address, f"{HEAD}_length": length}
    return good | {f"{HEAD}_{name}": value for name, value in more.items()}


def many(number: int) -> dict[str, str]:
    """A reply with that many prefixes."""
    variables = {"new_dhcp6_ia_pd1_iaid": "00000001"}
    for n in range(1, number + 1):
        head = f"new_dhcp6_ia_pd1_prefix{n}"
        variables |= {head: f"2001:db8:{n:x}::", f"{head}_length": "58"}
        variables |= {f"{head}_pltime": "1", f"{head}_vltime": "2"}
    return variables


HOSTILE = {
    "everything": reply("::", "0"),
    "a length of 0": reply(length="0"),
    "a length of 200": reply(length="200"),
    "a length of 129": reply(length="129"),
    "a length of 128": reply(length="128"),
    "a length of 65": reply(length="65"),
    "a length of 31": reply(length="31"),
    "a negative length": reply(length="-58"),
    "a length with a leading zero": reply(length="058"),
    "a hexadecimal length": reply(length="0x3a"),
    "a length of other digits": reply(length="\u0665\u0668"),
    "a length that is a command": reply(length="58; add table ip6 evil"),
    "an empty length": reply(length=""),
    "no address": reply(""),
    "link-local with a zone": reply("fe80::%wan", "10"),
    "link-local": reply("fe80::"),
    "a zone": reply("2001:db8:8000::%eth0"),
    "multicast": reply("ff00::", "58"),
    "a ULA": reply("fd00:1234::"),
    "loopback": reply("::1", "128"),
    "IPv4-mapped": reply("::ffff:192.0.2.0", "64"),
    "Teredo": reply("2001:0:1::"),
    "6to4": reply("2002:c000:204::"),
    "NAT64": reply("64:ff9b::"),
    "discard-only": reply("100::", "64"),
    "outside of global unicast": reply("4000::"),
    "the internal prefix": reply("fd5e:ed00:1234::"),
    "the prefix of the link": reply("2001:db8:ffff::", "64"),
    "around the prefix of the link": reply("2001:db8:ff00::", "40"),
    "not an address": reply("example.com"),
    "a command": reply("2001:db8::1$(touch /run/pwned)"),
    "backticks": reply("`touch /run/pwned`"),
    "a function": reply("() { :;}; touch /run/pwned"),
    "a line break": reply("2001:db8:8000::\nadd table ip6 evil"),
    "quotes": reply("2001:db8:8000::\"'"),
    "an escape sequence": reply("\x1b[2J2001:db8:8000::"),
    "bytes beyond ASCII": reply("2001:db8:8000::\udcff"),
    "preferred longer than valid": reply(pltime="2000", vltime="1000"),
    "a negative lifetime": reply(vltime="-1"),
    "a huge lifetime": reply(vltime="4294967296"),
    "a lifetime that is a word": reply(vltime="infinity"),
    "an excluded prefix that does not fit": reply(
        pd_exclude_prefix_len="48", pd_exclude_subnetID="00"
    ),
    "too many prefixes": many(9),
    "hundreds of prefixes": many(300),
    "a bad one after a good one": reply()
    | {
        f"{HEAD[:-1]}2": "fe80::",
        f"{HEAD[:-1]}2_length": "58",
        f"{HEAD[:-1]}2_pltime": "1",
        f"{HEAD[:-1]}2_vltime": "2",
    },
    "an oversized environment": reply() | {"new_domain_name": "x" * 100_000},
    "an interface that is a path": reply() | {"interface": "../../etc"},
    "an interface that is a command": reply() | {"interface": "eth0$(reboot)"},
    "an interface that is too long": reply() | {"interface": LONG_INTERFACE},
}
NOT_OF_AN_UPLINK = [name for name in HOSTILE if "interface that" in name or "oversized" in name]


@pytest.fixture(scope="module")
def settled(variant: Variant) -> Iterator[Router]:
    """A router that has learned its prefix; it must stay as it is, so one is enough for all."""
    with Lab() as lab:
        router = Router(lab, variant=variant)
        router.set(OLD)
        yield router


def kernel(router: Router) -> str:
    """What the router does."""
    rules = router.run("nft", "list", "ruleset") + router.translation()
    return re.sub("^#.*", "", rules, flags=re.M) + "\n".join(router.routes())


def known(router: Router) -> dict[str, Any]:
    """What the state file has of the uplink."""
    return json.loads(router.lab.read("router", STATE))["uplinks"]["wan"]


@on([NFTABLES], scope="module")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_reply_changes_nothing(settled: Router, name: str) -> None:
    held, before = kernel(settled), known(settled)
    done = settled.hook("RENEW6", HOSTILE[name], code=65)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.isascii() and done.stderr.rstrip("\n").isprintable()
    assert kernel(settled) == held
    after = known(settled)
    assert after["prefixes"] == before["prefixes"]
    if name in NOT_OF_AN_UPLINK:
        assert after["refusal"] == before["refusal"]
    else:
        # logged text may be escaped once more
        assert after["refusal"]["message"].split("'")[0] in done.stderr
    assert len(settled.lab.read("router", STATE)) < 40_000
    assert not settled.lab.path("router", "/run/pwned").exists()


@on(IPTABLES, scope="module")
@pytest.mark.parametrize("name", ["everything", "a length that is a command", "a line break"])
def test_a_hostile_reply_changes_nothing_in_ip6tables(settled: Router, name: str) -> None:
    held, before = kernel(settled), known(settled)
    settled.hook("RENEW6", HOSTILE[name], code=65)
    assert kernel(settled) == held
    assert known(settled)["prefixes"] == before["prefixes"]


def test_the_next_good_reply_counts(router: Router) -> None:
    router.set(OLD)
    router.hook("RENEW6", HOSTILE["a ULA"], code=65)
    assert router.status()["uplinks"][0]["refusal"]["reason"] == "RENEW6"
    router.hook("RENEW6", dhcp(NEW, old=OLD))
    assert router.prefixes() == {NEW: "current", OLD: "superseded"}
    assert router.status()["uplinks"][0]["refusal"] is None


@on([NFTABLES], scope="module")
def test_a_refusal_is_shown_to_people(settled: Router) -> None:
    settled.hook("RENEW6", HOSTILE["link-local with a zone"], code=65)
    text = settled.pd("status", code=None).stdout
    assert "last refused" in text and "RENEW6" in text and "fe80::%wan" in text


OTHER_OPTIONS = {
    "new_dhcp6_domain_search": "$(touch /run/pwned)",
    "new_dhcp6_name_servers": "`touch /run/pwned`",
    "new_dhcp6_fqdn": "() { :;}; touch /run/pwned",
    "new_dhcp6_posix_timezone": "a\nb'\"\\",
    "new_dhcp6_sip_servers_names": "\x1b]0;x\x07 \udcfe",
    "new_dhcp6_ia_pd1_prefix1_nonsense": "; reboot",
}


def test_other_options_do_not_matter_through_the_hook_file(lab: Lab, router: Router) -> None:
    router.run("make", "-sC", str(ROOT), "install", "PREFIX=/var/lib/installed", "SYSTEMD=no",
               timeout=60)  # fmt: skip
    env = {**ENVIRONMENT, "interface": "eth0", "reason": "BOUND6", **dhcp(OLD), **OTHER_OPTIONS}
    hook = f"{HOOK_DIRECTORY}/60-pdreactor"
    for shell in (["sh", "-eu"], ["bash", "--posix"]):
        done = lab.run("router", [*shell, "-c", f". {hook}; echo on"], env=env)
        assert done.stdout == "on\n"
    assert router.prefixes() == {OLD: "current"}
    assert not lab.path("router", "/run/pwned").exists()
    assert reaches(lab, "a", SERVER)


def test_a_prefix_of_another_uplink_is_refused() -> None:
    text = config() + '[uplink.second]\ninterface = "eth1"\n'
    with Lab(uplinks=2) as lab:
        router = Router(lab, text)
        router.set(OLD)
        for prefix in (OLD, "2001:db8:4000::/56", "2001:db8:4000:8::/62"):
            done = router.hook("BOUND6", {**dhcp(prefix), "interface": "eth1"}, code=65)
            assert "overlaps" in done.stderr
        assert (router.prefixes(), router.prefixes("second")) == ({OLD: "current"}, {})


@on([NFTABLES], scope="module")
@pytest.mark.parametrize("value", ["fe80::/58", "::/0", "2001:db8::1/58", "2001:db8:8000::", "x"])
def test_set_refuses_what_the_hook_refuses(settled: Router, value: str) -> None:
    done = settled.pd("set", "wan", value, code=65)
    assert done.stderr.count("\n") == 1
    assert settled.prefixes() == {OLD: "current"}
