"""``pdreactor translate``: the address on the other side, in every mode, or why there is none."""

import json
import re
import sys
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdreactor import npt, state, transition, translate
from pdreactor.desired import desired
from pdreactor.errors import Refused
from pdreactor.model import Config, State
from pdreactor.prefix import rebase

from .box import ROOT, Box
from .values import LAN, NOW, P1, P2, P3, TWO, WAN, WAN2, after, config, reply, told

HOST = "fd5e:ed00:1234::2"
OTHER = LAN._replace(internal=IPv6Network("fd5e:ed00:1234:100::/58"), subnet=1)
MODES = ("netmap", "stateless", "rfc6296")


def ask(address: str, config: Config, known: State, now: int = NOW) -> dict[str, Any]:
    asked = translate.about(IPv6Address(address), config)
    wanted = desired(asked, known, {"wan0": True, "wan1": True}, now)
    return translate.answer(IPv6Address(address), asked, known, wanted, now)


def lines(address: str, config: Config, known: State, now: int = NOW) -> list[str]:
    return translate.lines(ask(address, config, known, now))


def why_not(address: str, config: Config, known: State, now: int = NOW) -> str:
    with pytest.raises(Refused) as refusal:
        ask(address, config, known, now)
    assert str(refusal.value).isprintable()
    return str(refusal.value)


def on_both(first: IPv6Network = P1, second: IPv6Network = P3) -> State:
    known = after(reply(*told(first)), config=TWO)
    return after(reply(*told(second), interface="wan1"), state=known, uplink=WAN2, config=TWO)


# ---- an internal host ----------------------------------------------------------------------------


def test_an_internal_host_has_an_address_on_each_uplink() -> None:
    assert lines(HOST, TWO, on_both()) == ["wan 2001:db8:4000::2", "wan2 2001:db8:9000::2"]


def test_only_uplinks_that_translate_it_are_told() -> None:
    here = config(LAN, OTHER._replace(uplinks=("wan2",), subnet=0), uplinks=(WAN, WAN2))
    assert lines(HOST, here, on_both()) == ["wan 2001:db8:4000::2"]
    assert lines("fd5e:ed00:1234:100::2", here, on_both()) == ["wan2 2001:db8:9000::2"]


def test_an_uplink_without_a_prefix_is_left_out() -> None:
    assert lines(HOST, TWO, after(reply(*told(P1)), config=TWO)) == ["wan 2001:db8:4000::2"]


def test_only_the_prefix_of_new_outbound_flows_counts() -> None:
    known = after(reply(*told(P1)), reply(*told(P2)))
    assert lines(HOST, config(), known) == ["wan 2001:db8:8000::2"]


def test_a_prefix_that_is_kept_beyond_its_lifetime_is_said_to_be_expired() -> None:
    known = after(reply(*told(P1)))
    assert lines(HOST, config(), known, NOW + 61) == ["wan 2001:db8:4000::2 (expired)"]


def test_the_slice_counts() -> None:
    known = after(reply(*told("2001:db8:4000::/56")))
    here = config(LAN, OTHER)
    assert lines("fd5e:ed00:1234:100::2", here, known) == ["wan 2001:db8:4000:40::2"]
    assert lines("2001:db8:4000:40::2", here, known) == ["wan fd5e:ed00:1234:100::2"]


@pytest.mark.parametrize("mode", MODES)
def test_in_every_mode_it_is_what_the_packets_carry(mode: str) -> None:
    here, known = config(LAN._replace(mode=mode)), after(reply(*told(P1)))
    host = IPv6Address(HOST)
    moved = npt.translate if mode == "rfc6296" else rebase
    found = ask(HOST, here, known)["results"][0]
    assert found["mode"] == mode
    assert found["address"] == str(moved(host, LAN.internal, P1))
    assert ask(found["address"], here, known)["results"][0]["address"] == HOST


# ---- an external address -------------------------------------------------------------------------


def test_an_external_address_is_that_of_a_host() -> None:
    assert lines("2001:db8:4000::2", TWO, on_both()) == [f"wan {HOST}"]
    assert lines("2001:db8:9000::2", TWO, on_both()) == [f"wan2 {HOST}"]


def test_a_superseded_prefix_is_still_served_from_outside() -> None:
    known = after(reply(*told(P1)), reply(*told(P2)))
    assert lines("2001:db8:4000::2", config(), known) == [f"wan {HOST} (superseded)"]
    assert "not in a part" in why_not("2001:db8:4000::2", config(), known, NOW + 61)


def test_without_inbound_only_answers_get_there() -> None:
    here, known = config(LAN._replace(inbound=False)), after(reply(*told(P1)))
    assert lines("2001:db8:4000::2", here, known) == [
        f"wan {HOST} (inbound = false: only answers get there)"]
    assert lines(HOST, here, known) == ["wan 2001:db8:4000::2"]


def test_without_inbound_a_superseded_prefix_leads_nowhere() -> None:
    known = after(reply(*told(P1)), reply(*told(P2)))
    text = why_not("2001:db8:4000::2", config(LAN._replace(inbound=False)), known)
    assert "leads to no host" in text and str(P1) in text and "(wan)" in text


# ---- the document --------------------------------------------------------------------------------


def test_the_document() -> None:
    known = after(reply(*told(P1)), reply(*told(P2)))
    assert ask(HOST, config(), known) == {
        "address": HOST, "direction": "outbound", "results": [
            {"uplink": "wan", "address": "2001:db8:8000::2", "prefix": str(P2), "mode": "netmap",
             "state": "current", "inbound": True}]}
    assert ask("2001:db8:4000::2", config(LAN._replace(mode="stateless")), known) == {
        "address": "2001:db8:4000::2", "direction": "inbound", "results": [
            {"uplink": "wan", "address": HOST, "prefix": str(P1), "mode": "stateless",
             "state": "superseded", "inbound": True}]}


def test_its_keys_are_described() -> None:
    page = (ROOT / "man/pdreactor.8").read_text()
    part = page.split(".It Cm translate", 1)[1].split("\n.It Cm ", 1)[0]
    document = ask(HOST, config(), after(reply(*told(P1))))
    for key in (*document, *document["results"][0]):
        assert re.search(rf"\.Ic {key}\b", part), key


HOSTS = st.integers(0, 2**70 - 1) | st.integers(0x10 << 64, 0x11 << 64)


@given(HOSTS, st.sampled_from(MODES), st.booleans())
def test_there_and_back_again(host: int, mode: str, excluded: bool) -> None:
    """Also around an excluded part, which is translated in pieces."""
    hole = IPv6Network("2001:db8:4000:10::/64")
    known = after(reply(*told(P1, excluded=str(hole) if excluded else None)))
    here, address = config(LAN._replace(mode=mode)), LAN.internal[host]
    in_hole = excluded and rebase(address, LAN.internal, P1) in hole
    if in_hole or (mode == "rfc6296" and host % 2**64 == 2**64 - 1):
        assert why_not(str(address), here, known)
        return
    there = IPv6Address(ask(str(address), here, known)["results"][0]["address"])
    assert there in P1 and not (excluded and there in hole)
    assert ask(str(there), here, known)["results"][0]["address"] == str(address)


# ---- why there is none ---------------------------------------------------------------------------


@pytest.mark.parametrize(("known", "here", "text"), [
    (transition.EMPTY, config(), "wan: there is no prefix"),
    (after(reply(*told("2001:db8::/60"))), config(), "wan: 2001:db8::/60 is smaller"),
    (after(reply(*told(P1))), config(LAN._replace(subnet=1)), "wan: 2001:db8:4000::/58 has no"),
    (transition.EMPTY, TWO, "wan2: there is no prefix"),
])
def test_an_internal_host_without_a_usable_prefix(known: State, here: Config, text: str) -> None:
    refusal = why_not(HOST, here, known)
    assert refusal.startswith(f"{HOST} has no external address now: ")
    assert text in refusal and refusal.endswith("see pdreactor status")


def test_other_peoples_problems_are_not_told() -> None:
    known = after(reply(*told("2001:db8::/60")))
    here = config(LAN, OTHER._replace(uplinks=("wan2",)), uplinks=(WAN, WAN2))
    assert "wan2" not in why_not(HOST, here, known)


def test_a_host_beyond_the_part_that_is_translated() -> None:
    known = after(reply(*told("2001:db8::/60")))
    here = config(LAN._replace(on_short="partial"))
    assert lines(HOST, here, known) == ["wan 2001:db8::2"]
    refusal = why_not("fd5e:ed00:1234:20::2", here, known)
    assert f"wan: 2001:db8::/60 is used, but not for this part of {LAN.internal}" in refusal


def test_an_address_in_an_excluded_part() -> None:
    known = after(reply(*told(P1, excluded="2001:db8:4000:10::/64")))
    assert "not in a part" in why_not("2001:db8:4000:10::2", config(), known)


@pytest.mark.parametrize("address", ["2001:db8:7777::1", "fe80::1", "::1", "::ffff:192.0.2.1"])
def test_an_address_of_nothing(address: str) -> None:
    text = why_not(address, config(), after(reply(*told(P1))))
    assert "neither in an internal prefix of /etc/pdreactor.toml nor in a delegated one" in text


def test_what_rfc_6296_cannot_translate() -> None:
    here, known = config(LAN._replace(mode="rfc6296")), after(reply(*told(P1)))
    for address in ("fd5e:ed00:1234:0:ffff:ffff:ffff:ffff", "2001:db8:4000:0:ffff:ffff:ffff:ffff"):
        text = why_not(address, here, known)
        assert text.startswith(f"wan: {address} has only ones") and "another address" in text


def test_subnet_ffff_of_a_48_has_no_address_of_its_own() -> None:
    internal, delegated = IPv6Network("fd5e:ed00:1234::/48"), IPv6Network("2001:db8:1::/48")
    here = config(LAN._replace(internal=internal, mode="rfc6296"))
    known = after(reply(*told(delegated)))
    text = why_not("fd5e:ed00:1234:ffff::2", here, known)
    shared = npt.translate(IPv6Address(HOST), internal, delegated)
    assert f"{shared} is that of {HOST}; use another subnet" in text
    assert lines(HOST, here, known) == [f"wan {shared}"]
    assert ask("fd5e:ed00:1234:ffff::2", config(LAN._replace(internal=internal)), known)


# ---- as a command --------------------------------------------------------------------------------


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """Not in a network of its own: the verb changes nothing, and asks no firewall."""
    box = Box(tmp_path)
    box.state.mkdir()
    forever = reply(*told(P1, valid=None, preferred=None))
    state.save(str(box.state), after(forever))
    return box


def test_the_verb(box: Box) -> None:
    run = box.cli("translate", HOST)
    assert (run.returncode, run.stdout, run.stderr) == (0, "wan 2001:db8:4000::2\n", "")
    run = box.cli("translate", "2001:db8:4000::2", "--json")
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout)["results"][0]["address"] == HOST


@pytest.mark.parametrize(("address", "text"), [
    ("10.0.0.1", "not an IPv6 address"), ("fe80::1%eth0", "has a zone"), (f"{HOST}/64", "not an"),
    ("", "not an"), ("host\n.example", "not an"), ("2001:db8:7777::1", "neither in")])
def test_the_verb_refuses_in_one_line(box: Box, address: str, text: str) -> None:
    for arguments in ((address,), ("--json", address)):
        run = box.cli("translate", *arguments)
        assert (run.returncode, run.stdout) == (65, "")
        assert run.stderr.startswith("pdreactor: ") and text in run.stderr
        assert run.stderr.count("\n") == 1 and run.stderr[:-1].isprintable()


def test_the_verb_writes_nothing(box: Box) -> None:
    before = {path.name: path.read_bytes() for path in box.state.iterdir()}
    box.cli("translate", HOST)
    assert {path.name: path.read_bytes() for path in box.state.iterdir()} == before


def test_a_damaged_state_is_said_and_left_alone(box: Box) -> None:
    (box.state / "state.json.old").write_bytes((box.state / "state.json").read_bytes())
    (box.state / "state.json").write_bytes(b"{")
    run = box.cli("translate", HOST)
    assert (run.returncode, run.stdout) == (0, "wan 2001:db8:4000::2\n")
    assert "damaged" in run.stderr
    assert (box.state / "state.json").read_bytes() == b"{"


WITHOUT = """
import sys
sys.modules["nftables"] = sys.modules["pyroute2"] = None
from pdreactor import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def test_it_needs_no_library_of_a_backend(box: Box) -> None:
    run = box.run(sys.executable, "-c", WITHOUT, "-c", str(box.config), "translate", HOST)
    assert (run.returncode, run.stdout, run.stderr) == (0, "wan 2001:db8:4000::2\n", "")


def test_it_needs_no_root(box: Box) -> None:
    for path in (box.config, box.state, *box.state.iterdir()):
        path.chmod(0o755)
    for directory in (box.config.parent, *box.config.parent.parents):
        if directory.stat().st_uid == 0 and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    box.before = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--")
    if box.run(sys.executable, "-c", "import pdreactor.cli").returncode:
        pytest.skip("not root, or this checkout cannot be read by another user")
    run = box.cli("translate", HOST)
    assert (run.returncode, run.stdout, run.stderr) == (0, "wan 2001:db8:4000::2\n", "")
