"""The documents say what the code does: verbs, options, keys, exit codes, names in the kernel."""

import argparse
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest

from pdreactor import (
    __version__,
    cli,
    doctor,
    errors,
    handover,
    lineage,
    report,
    state,
    transition,
)
from pdreactor.config import KNOWN, parse
from pdreactor.desired import desired
from pdreactor.doctor import Finding
from pdreactor.events import MAX_BLOCK, MAX_PREFIXES
from pdreactor.layout.keys import KNOWN as LAYOUT
from pdreactor.layout.model import Address, Layout, Link, Neighbour
from pdreactor.layout.shown import document as layout_document
from pdreactor.nat import gate, netmap, stateless
from pdreactor.nat.nftables import render
from pdreactor.reasons import REASONS

from .values import CONFIG, LAN, NOW, P1, P2, WAN, WAN2, after, config, reply, told

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MOVING = (ROOT / "contrib/from-shell-script/README.md").read_text()
CHAINS = gate.CHAINS | netmap.CHAINS | stateless.CHAINS
PAGES = sorted((ROOT / "man").glob("*.[58]"))
MAN8 = (ROOT / "man/pdreactor.8").read_text()
MAN5 = (ROOT / "man/pdreactor.toml.5").read_text()


def plain(page: str) -> str:
    """A page without mdoc's requests and escapes: words and blanks."""
    text = page.replace("\\-", "-").replace("\\&", "").replace("\\(dq", '"')
    return re.sub(r"(?m)^\.(?:[A-Z][a-z] )*", "", text)


def section(page: str, title: str) -> str:
    """One section of a page."""
    return page.split(f".Sh {title}\n", 1)[1].split("\n.Sh ", 1)[0]


def verbs() -> dict[str, argparse.ArgumentParser]:
    actions = cli._parser()._actions
    return next(a.choices for a in actions if isinstance(a, argparse._SubParsersAction))


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from (o for o in action.option_strings if o not in ("-h", "--help"))


# ---- pdreactor(8) ----------------------------------------------------------------------------


def test_each_verb_is_described_and_no_other() -> None:
    described = re.findall(r"(?m)^\.It Cm (\w+)", section(MAN8, "VERBS"))
    assert described == list(verbs())


def test_each_option_of_the_program_and_of_the_verbs_is_described() -> None:
    text = MAN8.replace("Fl -", "--").replace("Fl ", "-")
    for parser in (cli._parser(), *verbs().values()):
        for option in options(parser):
            found = re.search(rf"(?<!\S){re.escape(option)}(?!\S)", text)
            assert found, option


def test_each_exit_code_is_in_the_table() -> None:
    table = re.findall(r"(?m)^\.It (\d+)$", section(MAN8, "EXIT STATUS"))
    codes = {value for name, value in vars(errors).items() if name.startswith("EX_")}
    assert {int(code) for code in table} == codes | {1, 130}


def keys(document: Any) -> Iterator[str]:
    """All keys, however deep."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield key
            yield from keys(value)
    elif isinstance(document, list | tuple):
        for value in document:
            yield from keys(value)


def shown() -> dict[str, Any]:
    """One of each of the layout."""
    address = IPv6Network("2001:db8::1/128").network_address
    wanted = Layout((Link("sit1", "sit"),), (Address("lan0", address, 64),), (),
                    (Neighbour("wan0", address),), slices=(("wan vif* 0/64", "vif1", 0),))
    return layout_document(wanted, {}, {}, (), NOW)


def test_each_key_of_the_status_document_is_described() -> None:
    known = after(reply(*told(P1), reason="BOUND6"), reply(*told(P2)))
    known = transition.after_refusal(known, "wan", "RENEW6", "no", CONFIG, NOW)
    known = transition.after_refusal(known, "wan", "RENEW6", "no", CONFIG, NOW)
    view = report.View(known, desired(CONFIG, known, {}, NOW),
                       {"outbound": frozenset(), "inbound": frozenset()}, {}, ("add it",),
                       "damaged", ("a note",), layout=shown())
    document = report.status(CONFIG, view, NOW)
    assert document["translations"][0]["uplinks"][0]["inbound_only"]
    assert document["problems"] and document["uplinks"][0]["refusal"]
    described = set(re.findall(r"\.(?:It )?Ic ([\w.\[\]]+)", section(MAN8, "STATUS")))
    assert set(keys(document)) <= described


def test_each_check_of_doctor_is_described_and_no_other() -> None:
    text = section(MAN8, "DOCTOR")
    named = re.findall(r"(?m)^\.It ([\w-]+)$", text)
    assert named == ["error", "warning", "note", *doctor.CHECKS]
    assert {*doctor.document([]), *Finding._fields, "check"} <= set(re.findall(r"\.Ic (\w+)", text))


def test_each_key_of_the_export_is_described() -> None:
    known = lineage.identified(after(reply(*told(P1)), reply(*told(P2))), "0" * 16)
    document = handover.document(known, CONFIG, "router1", NOW)
    described = set(re.findall(r"\.(?:It )?Ic ([\w.\[\]]+)", section(MAN8, "FAIL-OVER NODES")))
    assert set(keys(document)) - {"wan"} <= described


def test_each_reason_that_matters_is_in_the_table_of_events() -> None:
    assert not [r for r in REASONS if r not in section(MAN8, "FROM EVENT TO STATE")
                and r != "NOCARRIER_ROAMING"]


def test_the_bounds_of_an_event_are_those_of_the_code() -> None:
    text = " ".join(plain(section(MAN8, "FROM EVENT TO STATE")).split())
    assert f"more than {MAX_PREFIXES} prefixes in one reply" in text
    assert f"more than {MAX_BLOCK // 1024} KiB" in text
    assert f"last {transition.HISTORY} happenings" in section(MAN8, "STATUS")


def test_each_variable_of_ours_is_described() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "pdreactor").rglob("*.py"))
    names = set(re.findall(r"\bPDREACTOR_[A-Z]+(?:_[A-Z]+)*\b", sources))
    assert names == set(re.findall(r"\.It Ev (PDREACTOR_\w+)", MAN8))


@pytest.mark.parametrize("chain", CHAINS)
def test_each_chain_is_in_the_table(chain: str) -> None:
    kind, hook, priority = CHAINS[chain]
    assert f"{chain} Ta {kind} Ta {hook} Ta {priority}\n" in MAN8.replace("\\-", "-")


def test_each_kind_of_map_and_set_is_in_the_table_and_no_other() -> None:
    lan, other = LAN._replace(hairpin=False), LAN._replace(
        internal=IPv6Network("fd5e:ed00:1234:100::/60"), subnet=1, inbound=False)
    wan = WAN._replace(bypass=(IPv6Network("fd99::/48"),))
    none = other._replace(internal=IPv6Network("fd5e:ed00:1234:200::/60"), subnet=9)
    all_of_it = config(lan, other, none, uplinks=(wan, WAN2))
    known = after(reply(*told(P1), reason="BOUND6"), config=all_of_it)
    table = render(desired(all_of_it, known, {"wan0": True}, NOW).nat)
    over = known.uplinks["wan"].prefixes[0]._replace(superseded_at=NOW)
    left = known._replace(uplinks={"wan": known.uplinks["wan"]._replace(prefixes=(over,))})
    ended = render(desired(config(LAN), left, {"wan0": True}, NOW).nat)
    large = after(reply(*told(IPv6Network("2001:db8:4000::/56"))))
    part = render(desired(config(LAN), large, {"wan0": True}, NOW).nat)
    closed = LAN._replace(mode="stateless", inbound=False)
    without = [render(desired(config(closed, none), state, {"wan0": True}, NOW).nat)
               for state in (known, transition.EMPTY)]
    two = after(reply(*told(P1)), reply(*told(P2)))
    without.append(render(desired(config(closed), two, {"wan0": True}, NOW).nat))
    slices = (LAN._replace(mode="stateless"), LAN._replace(
        internal=IPv6Network("fd5e:ed00:1234:40::/58"), subnet=1, mode="stateless", hairpin=False))
    without.append(render(desired(config(*slices), large, {"wan0": True}, NOW).nat))
    tables = (WAN._replace(table=201), WAN2._replace(table=202))
    led = render(desired(config(LAN, none, uplinks=tables), two, {"wan0": True}, NOW).nat)
    kinds = {name.partition("-")[0] for ruleset in (table, ended, part, led, *without)
             for name in (*ruleset.sets, *ruleset.maps)}
    assert kinds == set(re.findall(r"\.It (\w+)-[A-Z]", section(MAN8, "IN THE KERNEL")))


@pytest.mark.parametrize("chain", stateless.FIXED)
def test_each_fixed_chain_is_described(chain: str) -> None:
    assert f".Ql {chain}\n" in MAN8 or f".Ql {chain} ,\n" in MAN8


@pytest.mark.parametrize("number", ["157", "15700", "2147483647", "0x0ff00000"])
def test_the_numbers_in_the_kernel_are_described(number: str) -> None:
    assert number in section(MAN8, "IN THE KERNEL")


def test_each_file_of_the_state_directory_is_described() -> None:
    layout = re.findall(r"(?m)^    (\S+)  ", state.__doc__ or "")
    assert "state.json" in layout
    described = re.findall(r"\.It Pa /var/lib/pdreactor/(\S+)", section(MAN8, "FILES"))
    assert sorted(described) == sorted(layout)


# ---- pdreactor.toml(5) -------------------------------------------------------------------------


@pytest.mark.parametrize("table", KNOWN)
def test_each_key_of_the_configuration_is_described(table: str) -> None:
    described = set(re.findall(r"(?m)^\.It Ic (\w+)", MAN5))
    assert set(KNOWN[table]) <= described
    assert f"[{table}]" in MAN5 or not table


def test_the_described_keys_exist() -> None:
    described = set(re.findall(r"(?m)^\.It Ic (\w+)", MAN5))
    layout = [keys for name, keys in LAYOUT.items() if f".Ss [{name}]" in MAN5
              or f".Ss [[{name}]]" in MAN5]
    assert described == {key for table in (*KNOWN.values(), *layout) for key in table}


def test_the_example_configuration_has_no_mistakes_with_and_without_its_comments() -> None:
    text = (ROOT / "contrib/pdreactor.toml.example").read_text()
    assert len(parse(text, "example").translations) == 1
    other = r"(?m)^(?=prefix = \"2001|source = )"  # in the place of DHCPv6
    full = re.sub(other, "#", re.sub(r"(?m)^#(?=\w+ = |\[)", "", text))
    assert len(parse(full, "example").translations) == 2
    assert parse(full, "example").on_change and parse(full, "example").plans


XEN = (ROOT / "contrib/xen/README.md").read_text()


@pytest.mark.parametrize("document", [README, MOVING, XEN], ids=["README", "shell", "xen"])
def test_configurations_in_the_documents_have_no_mistakes(document: str) -> None:
    blocks = re.findall(r"(?m)^( +)(\[uplink\.wan\]\n(?:\1.*\n|\n)+)", document)
    assert blocks
    for indent, block in blocks:
        lines = [line.removeprefix(indent) for line in block.splitlines()]
        found = parse("\n".join(lines).split("\nEND")[0], "document")
        assert found.translations or found.plans


# ---- all pages -----------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_has_nothing_to_say(page: Path) -> None:
    result = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", str(page)],
                            capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stdout) == (0, "")


# ---- README and the others ---------------------------------------------------------------------


def test_what_the_readme_calls_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?m)(?:`|^ +)make ([a-z]+)", README):
        assert re.search(rf"(?m)^{target}:", makefile), target
    for verb in re.findall(r"(?:`|^ +)pdreactor (?:-q )?([a-z]+)", README, re.MULTILINE):
        assert verb in verbs(), verb


def test_the_readme_names_each_verb() -> None:
    assert not [verb for verb in verbs() if f"pdreactor {verb}" not in README]


@pytest.mark.parametrize("document", [
    "README.md", "contrib/from-shell-script/README.md", "contrib/keepalived/README.md",
    "contrib/firewalls/README.md", "contrib/xen/README.md"])
def test_links_to_files_are_good(document: str) -> None:
    path = ROOT / document
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
        assert (path.parent / link).exists(), link


def test_the_rooms_in_the_readme_exist() -> None:
    rooms = README.split("room by room\n", 1)[1].split("\n## ")[0]
    names = re.findall(r"`([\w/.-]+(?:\.py|/))`", rooms)
    assert len(names) > 15
    for name in names:
        assert (ROOT / name).exists() or (ROOT / "pdreactor" / name).exists(), name


def test_the_changelog_begins_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"(?m)^## (\S+)", changelog)[1] == __version__  # type: ignore[index]


def test_the_license_is_the_one_that_the_readme_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"]["text"] in README
    assert "GNU GENERAL PUBLIC LICENSE" in (ROOT / "LICENSE").read_text()
