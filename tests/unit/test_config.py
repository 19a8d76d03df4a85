"""The configuration: what is accepted, and that every mistake is named, each on one line."""

import subprocess
import sys
import time
import tomllib
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdreactor import config, document
from pdreactor.errors import ConfigError
from pdreactor.layout import keys as layout_keys
from pdreactor.model import Command, Config, Translation, Uplink

SMALLEST = """
[uplink.wan]
interface = "eth0"

[[translation]]
uplink = "wan"
internal = "fd5e:ed00:1234::/58"
"""
WAN = '[uplink.wan]\ninterface = "eth0"\n'
MANUAL = Path(__file__).parents[2] / "man" / "pdreactor.toml.5"


def mistakes(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, "/etc/p.toml")
    return caught.value.mistakes


def translation(**values: str) -> str:
    row = {"uplink": '"wan"', "internal": '"fd00::/64"', **values}
    return "[[translation]]\n" + "".join(f"{key} = {value}\n" for key, value in row.items())


def test_the_smallest_configuration_has_the_documented_defaults() -> None:
    assert config.parse(SMALLEST, "p") == Config(
        path="p",
        state_dir="/var/lib/pdreactor",
        uplinks=(Uplink("wan", "eth0"),),
        translations=(Translation(("wan",), IPv6Network("fd5e:ed00:1234::/58")),),
    )


def test_an_uplink_needs_no_translation() -> None:
    assert config.parse(WAN, "p").translations == ()


def test_every_key_can_be_set() -> None:
    text = """
        state_dir = "/run/p"
        firewall = { backend = "iptables", ct_mark_mask = 0xff, guard = false }
        iptables = { jumps = false, dnat_chain = "external_dnat", snat_chain = "external_snat" }
        routing = { protocol = 99, priority = 500 }
        [uplink.wan]
        interface = "ppp0"
        prefix = "2001:db8::/48"
        iaid = 7
        bypass = ["fd99::/48"]
        min_length = 40
        max_length = 60
        [uplink.dsl]
        interface = "eth1"
        [[translation]]
        uplinks = ["dsl", "wan"]
        internal = "fd00::/64"
        subnet = 3
        on_short = "partial"
        mode = "netmap"
        inbound = false
        on_expire = "withdraw"
        hairpin = false
        [[on_change]]
        exec = ["/bin/true", "x"]
        timeout = 2
    """
    wan = Uplink(
        "wan", "ppp0", 7, IPv6Network("2001:db8::/48"), (IPv6Network("fd99::/48"),), 40, 60,
        source="static",
    )
    lan = Translation(
        ("dsl", "wan"), IPv6Network("fd00::/64"), 3, "partial", "netmap", False, "withdraw", False
    )
    expected = Config(
        "p", "/run/p", (wan, Uplink("dsl", "eth1")), (lan,), "iptables", 0xFF, False, 99, 500,
        False, "external_dnat", "external_snat", (Command(("/bin/true", "x"), 2.0),),
    )  # fmt: skip
    assert config.parse(text, "p") == expected


def test_all_mistakes_are_told_at_once() -> None:
    found = mistakes(
        'state_dir = "x"\n[firewall]\nguard = 1\n[uplink.wan]\niaid = -1\n'
        + translation(internal='"10.0.0.0/8"', subnet="-1")
    )
    starts = ["state_dir = 'x'", "firewall.guard = 1", "uplink.wan.iaid = -1",
              "uplink.wan.interface: is required", "translation[0].internal = '10.0.0.0/8'",
              "translation[0].subnet = -1"]  # fmt: skip
    assert len(found) == len(starts)
    assert all(line.startswith(start) for line, start in zip(found, starts, strict=True))


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        (WAN + 'intreface = "x"', "uplink.wan.interface"),
        (WAN + translation(hairpins="true"), "translation[0].hairpin"),
        (WAN + "[firewal]", "firewall"),
        (WAN + "[routing]\nprio = 1", "routing.priority"),
    ],
)
def test_an_unknown_key_is_a_mistake_with_the_nearest_key(text: str, nearest: str) -> None:
    assert mistakes(text)[0].endswith(f"unknown key; the nearest is {nearest}")


# ---- source-based routing ----------------------------------------------------------------------

TWO = """
[uplink.wan]
interface = "eth0"
{}
[uplink.dsl]
interface = "eth1"
{}
"""
SHARED = '[[translation]]\nuplinks = ["wan", "dsl"]\ninternal = "fd00::/48"\n'
NAMED = {"sixxs0": 200, "sixxs1": 201, "main": 254}


def with_names(text: str) -> Config:
    return config.check(tomllib.loads(text), "p", lambda: NAMED)


def test_a_table_is_a_number_or_a_name_of_iproute2() -> None:
    read = with_names(TWO.format('table = "sixxs0"', "table = 4294967295") + SHARED)
    assert [uplink.table for uplink in read.uplinks] == [200, 4294967295]
    assert [uplink.gateway for uplink in read.uplinks] == ["auto", "auto"]
    for name in ("nobody", "main"):
        with pytest.raises(ConfigError, match=name):
            with_names(WAN + f'table = "{name}"')


@pytest.mark.parametrize(("written", "gateway"), [
    ('"auto"', "auto"), ('"none"', "none"), ('"fe80::1"', IPv6Address("fe80::1")),
    ('"2001:db8::1"', IPv6Address("2001:db8::1")),
])
def test_gateways(written: str, gateway: str | IPv6Address) -> None:
    read = config.parse(WAN + f"table = 200\ngateway = {written}", "p")
    assert read.uplinks[0].gateway == gateway


def test_names_of_tables_are_looked_up_only_when_there_is_one() -> None:
    def names() -> dict[str, int]:
        raise AssertionError("no name to look up")

    config.check(tomllib.loads(WAN + "table = 200"), "p", names)


@pytest.mark.parametrize(("text", "word"), [
    (TWO.format("table = 200", "") + SHARED, "uplink.dsl.table: is required"),
    (TWO.format("", "table = 200") + SHARED, "uplink.wan.table: is required"),
    (TWO.format("table = 200", "") + '[[translation]]\nuplink = "wan"\ninternal = "fd00::/48"\n'
     '[[translation]]\nuplink = "dsl"\ninternal = "fd00::/56"\n', "uplink.dsl.table: is required"),
    (TWO.format("table = 200", "table = 200"), "each uplink needs its own"),
    (WAN + 'gateway = "none"', "say which one (table)"),
])
def test_tables_that_do_not_go_together(text: str, word: str) -> None:
    (mistake,) = mistakes(text)
    assert word in mistake


def test_uplinks_of_other_hosts_need_no_table() -> None:
    apart = ('[[translation]]\nuplink = "wan"\ninternal = "fd00::/48"\n'
             '[[translation]]\nuplink = "dsl"\ninternal = "fd00:0:1::/48"\n')
    assert config.parse(TWO.format("table = 200", "") + apart, "p").uplinks[1].table is None


@pytest.mark.parametrize("prefix", ["2001:db8::1/128", "2001:db8::/65", "2001:db8::/31"])
def test_a_fixed_prefix_has_any_length_and_needs_no_iaid(prefix: str) -> None:
    shared = TWO.replace("eth1", "eth0").format(f'prefix = "{prefix}"', "")
    assert config.parse(shared, "p").uplinks[0].prefix == IPv6Network(prefix)


def backend(name: str) -> str:
    return f'[firewall]\nbackend = "{name}"\n'


@pytest.mark.parametrize("name", ["auto", "nftables", "iptables", "iptables-legacy"])
@pytest.mark.parametrize("mode", ["netmap", "stateless", "rfc6296"])
def test_each_mode_works_with_its_backends_and_is_refused_with_others(name: str, mode: str) -> None:
    text = WAN + translation(mode=f'"{mode}"') + backend(name)
    wanted = {"netmap": "iptables nftables auto", "stateless": "nftables auto",
              "rfc6296": "iptables"}[mode].split()
    if name.removesuffix("-legacy") in wanted:
        assert config.parse(text, "p").translations[0].mode == mode
    else:
        (found,) = mistakes(text)
        assert found.startswith(f"translation[0].mode = '{mode}': ")
        assert "firewall.backend must be" in found


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"inbound": "false"}, "NOTRACK"),
        ({"internal": '"fd5e:ed00:1234::/72"'}, "longer than /64"),
    ],
)
def test_what_rfc6296_cannot_do_is_refused(keys: dict[str, str], reason: str) -> None:
    (found,) = mistakes(WAN + translation(mode='"rfc6296"', **keys) + backend("iptables"))
    assert reason in found


@pytest.mark.parametrize("mode", ["stateless", "rfc6296"])
def test_several_uplinks_without_conntrack_are_a_warning(mode: str) -> None:
    name = "nftables" if mode == "stateless" else "iptables"
    text = WAN + '[uplink.dsl]\ninterface = "e1"\n' + backend(name) + (
        f'[[translation]]\nuplinks = ["wan", "dsl"]\ninternal = "fd00::/64"\nmode = "{mode}"\n')
    warnings = config.parse(text, "p").warnings
    assert "cannot stay on the uplink" in warnings[0]
    assert ("UNTRACKED" in "".join(warnings)) == (mode == "rfc6296")


@pytest.mark.parametrize("name", ["auto", "nftables"])
@pytest.mark.parametrize("key", ["jumps = true", 'dnat_chain = "x"'])
def test_keys_of_ip6tables_are_refused_without_it(name: str, key: str) -> None:
    (found,) = mistakes(WAN + f"[iptables]\n{key}\n" + backend(name))
    assert "for the iptables backends" in found


@pytest.mark.parametrize("name", [
    '""', '"x y"', '"-x"', '"DROP"', '"PREROUTING"', '"prerouting"', '"NETMAP"', f'"{"x" * 23}"',
    '"x\\n"', "3", '"x;y"', '"é"'])
def test_bad_names_of_chains(name: str) -> None:
    (found,) = mistakes(WAN + backend("iptables") + f"[iptables]\nsnat_chain = {name}")
    assert found.startswith("iptables.snat_chain = ")


@pytest.mark.parametrize(("dnat", "snat"), [("x", "x"), ("x", "x_out"), ("x_in", "x"),
                                            ("x_guard", "x")])
def test_names_of_chains_that_clash(dnat: str, snat: str) -> None:
    text = f'[iptables]\ndnat_chain = "{dnat}"\nsnat_chain = "{snat}"'
    (found,) = mistakes(WAN + backend("iptables") + text)
    assert "would be a chain of dnat_chain's too" in found


def test_interfaces_that_ip6tables_cannot_name() -> None:
    text = '[uplink.wan]\ninterface = "ppp+"\n'
    assert config.parse(text, "p").uplinks[0].interface == "ppp+"
    (found,) = mistakes(text + backend("iptables"))
    assert found.startswith("uplink.wan.interface = 'ppp+'")


@pytest.mark.parametrize(
    "text",
    [
        "", "uplink = 3", "uplink = []", "[uplink]", "[uplink]\nwan = 3",
        "[uplink.1x]\ninterface='e'",
        WAN + "[translation]\n", "translation = 3\n" + WAN, "translation = [3]\n" + WAN,
        "firewall = 3\n" + WAN, "on_change = [{}]\n" + WAN, "state_dir = 3\n" + WAN,
        *(f"[uplink.wan]\ninterface = {name}" for name in (
            '""', '"a/b"', '"a b"', '"."', '".."', '"sixteen-letters-"', '"é"',
            "'a\"'", '"a\\u0000"',
            "3", '"a:1"',
        )),
        *(WAN + f"iaid = {iaid}" for iaid in ("4294967296", "-1", '"fives"', "true", '""', "1.0")),
        *(WAN + f"prefix = {text}" for text in (
            '"fd00::/48"', '"2001:db8::1/48"', '"2001:db8::"', '"2001::/16"',
        )),
        *(WAN + f"table = {table}" for table in (
            "0", "253", "254", "255", "4294967296", "-1", '"200"', '""', '"a b"', "true", "1.0",
        )),
        *(WAN + f"table = 200\ngateway = {text}" for text in (
            '"ff02::1"', '"::"', '"::1"', '"fe80::1%eth0"', '"192.0.2.1"', '"direct"', "1",
        )),
        WAN + "min_length = 60\nmax_length = 50", WAN + "min_length = 15",
        WAN + 'bypass = "fd00::/8"',
        *(WAN + f"[firewall]\nct_mark_mask = {mask}" for mask in (
            "0", "0x7", "0xf0f", "0x1ffffffff", "-16", '"0xff"', "true",
        )),
        *(WAN + f"[routing]\n{line}" for line in (
            "protocol = 4", "protocol = 256", "priority = 0",
        )),
        *(WAN + translation(internal=f'"{text}"') for text in (
            "fe80::/64", "fe80::%wan/64", "ff02::/16", "::/8", "::1/127", "fd00::/7", "fd00::/128",
            "fd00::/064", "fd00::1/64", "fd00::", "10.0.0.0/8", "fd00::/ffff::",
            "::ffff:1.2.3.0/120",
        )),
        WAN + translation(inbound="1"), WAN + translation(on_short='"Refuse"'),
        WAN + translation(uplink='"dsl"'), WAN + translation(uplinks='["wan"]'),
        WAN + '[[translation]]\ninternal = "fd00::/64"', WAN + translation(subnet="4294967296"),
        WAN + '[[translation]]\ninternal = "fd00::/64"\nuplinks = ["wan", "wan"]',
        *(WAN + f"[[on_change]]\nexec = {argv}" for argv in ("[]", '["x"]', '["/x", ""]', '"/x"')),
        *(WAN + f'[[on_change]]\nexec = ["/x"]\ntimeout = {limit}'
          for limit in ("0", "301", "nan", "inf", "true")),
        "".join(f'[uplink.u{number}]\ninterface = "e{number}"\n' for number in range(16)),
    ],
)  # fmt: skip
def test_a_wrong_value_is_exactly_one_mistake(text: str) -> None:
    assert len(mistakes(text)) == 1


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("0", 0), ("4294967295", 0xFFFFFFFF), ('"1"', 1), ('"0x10"', 16), ('"010"', 8),
        ('"00:01:02:03"', 0x00010203), ('"00:01"', 0x00010000), ('"wan"', 0x77616E00),
        ('"08"', 0x30380000),
    ],
)  # fmt: skip
def test_an_iaid_means_what_it_means_in_dhcpcd_conf(written: str, number: int) -> None:
    assert config.parse(WAN + f"iaid = {written}", "p").uplinks[0].iaid == number


def test_uplinks_share_an_interface_only_with_different_iaids() -> None:
    second = '[uplink.two]\ninterface = "eth0"\n'
    assert config.parse(WAN + "iaid = 1\n" + second + "iaid = 2", "p")
    for one, two in (("", ""), ("iaid = 1\n", ""), ("iaid = 1\n", "iaid = 1")):
        assert "both need an iaid" in mistakes(WAN + one + second + two)[0]


def test_more_uplinks_than_the_mark_can_hold_are_a_mistake() -> None:
    text = "".join(f'[uplink.u{number}]\ninterface = "e{number}"\n' for number in range(4))
    assert "ct_mark_mask" in mistakes(text + "[firewall]\nct_mark_mask = 0xf")[0]


def test_internals_that_overlap_on_an_uplink_are_found() -> None:
    text = WAN + translation(internal='"fd00::/56"') + translation(subnet="9999")
    assert mistakes(text) == (
        "translation[1].internal = 'fd00::/64': overlaps "
        "translation[0].internal = 'fd00::/56' on uplink wan",
    )


def test_an_overlap_is_found_behind_another_one() -> None:
    inner = translation(internal='"fd00:0:0:1::/64"', subnet="1")
    later = translation(internal='"fd00:0:0:9::/64"', subnet="2")
    found = mistakes(WAN + translation(internal='"fd00::/56"', subnet="9") + inner + later)
    assert [line.partition(" ")[0] for line in found] == [
        "translation[1].internal",
        "translation[2].internal",
    ]
    assert all("overlaps translation[0].internal" in line for line in found)


def test_slices_of_different_length_that_overlap_are_found() -> None:
    # subnet 1 of /60 is 16..31 of /64
    large = translation(internal='"fd01::/60"', subnet="1")
    assert "one slice" in mistakes(WAN + large + translation(subnet="31"))[0]
    for free in (15, 32):
        assert config.parse(WAN + large + translation(subnet=str(free)), "p")


def test_the_same_network_and_slice_on_two_uplinks_is_no_overlap() -> None:
    text = WAN + '[uplink.dsl]\ninterface = "eth1"\n'
    assert config.parse(text + translation() + translation(uplink='"dsl"'), "p")


@pytest.mark.parametrize(
    ("internal", "says"), [("2001:db8::/64", "not a unique"), ("fc00::/64", "fd00")]
)
def test_an_internal_prefix_that_is_not_ula_is_a_warning(internal: str, says: str) -> None:
    (warning,) = config.parse(WAN + translation(internal=f'"{internal}"'), "p").warnings
    assert says in warning


def test_ten_thousand_translations_load_quickly() -> None:
    text = WAN + "".join(
        translation(internal=f'"fd5e:ed00:{number:x}::/64"', subnet=str(number))
        for number in range(10_000)
    )
    start = time.process_time()
    tomllib.loads(text)
    between = time.process_time()
    assert len(config.parse(text, "p").translations) == 10_000
    ours = time.process_time() - between - (between - start)
    assert ours < 1.0  # 0.15 s on an idle machine; quadratic work takes minutes


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file; make one"):
        document.load(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    "content", [b"\xff", b"a = ", b"a = " + b"[" * 5000, b"a = " + b"9" * 5000]
)
def test_a_file_that_is_not_toml_is_a_mistake(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        document.load(str(path))


def test_a_syntax_error_says_the_line() -> None:
    assert "line 3" in mistakes("\n\na = x\n")[0]


def test_a_directory_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        document.load(str(tmp_path))


def test_a_correct_file_needs_no_heavy_import(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(SMALLEST)
    code = (
        "import sys; from pdreactor import document; document.load(sys.argv[1]);"
        "print({'difflib', 'dataclasses', 'inspect'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(path)],
        capture_output=True, text=True, timeout=30, cwd=MANUAL.parents[1], check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


def test_the_manual_has_every_key() -> None:
    """Each in the part of its section."""
    general, *parts = MANUAL.read_text().partition("\n.Sh FILES")[0].split("\n.Ss ")
    by = dict(part.split("\n", 1) for part in parts) | {"": general}
    for section, keys in (*config.KNOWN.items(), *layout_keys.KNOWN.items()):
        title = next((t for t in by if t.strip("[]") == section), None)
        if title is None and section in ("tunnel.NAME", "proxy"):
            continue  # not yet
        assert title is not None, section
        for key in keys:
            assert f".It Ic {key}" in by[title], f"{section}.{key}"


def test_the_examples_of_the_manual_are_correct() -> None:
    blocks = MANUAL.read_text().split(".Bd -literal -offset indent\n")[1:]
    for block in blocks:
        assert config.parse(block.partition(".Ed")[0], "p").warnings == ()
    assert len(blocks) >= 8


# ---- properties ------------------------------------------------------------------------------

words = st.sampled_from(
    [*config.TOP, "wan", *(key for keys in config.KNOWN.values() for key in keys)]
)
keys = words | st.text(max_size=5)
leaves = st.one_of(
    st.booleans(), st.integers(), st.floats(), st.text(max_size=8), words,
    st.sampled_from(["eth0", "fd00::/64", "2001:db8::/48", "/x"]),
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=25,
)
sections = st.fixed_dictionaries({}, optional={name: values for name in config.TOP})
rows = st.dictionaries(words, values, max_size=6)
shaped = st.fixed_dictionaries(
    {"uplink": st.dictionaries(st.just("wan") | keys, rows, max_size=3)},
    optional={"translation": st.lists(rows, max_size=4), "on_change": st.lists(rows, max_size=3)},
)


@given(document=sections | shaped)
def test_no_document_raises_anything_but_a_configuration_error(document: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tomllib, "loads", lambda text: document)
        try:
            config.parse("", "p")
        except ConfigError as exc:
            assert exc.mistakes and all(len(line.splitlines()) == 1 for line in exc.mistakes)


@given(
    numbers=st.lists(st.integers(0, 0xFFFF), unique=True, max_size=8),
    inbound=st.booleans(),
    hairpin=st.booleans(),
    iaid=st.integers(0, 0xFFFFFFFF),
)
def test_what_is_written_is_what_is_read(
    numbers: list[int], inbound: bool, hairpin: bool, iaid: int
) -> None:
    text = WAN + f"iaid = {iaid}\n"
    for number in numbers:
        text += translation(
            internal=f'"fd00:0:0:{number:x}::/64"', subnet=str(number),
            inbound=str(inbound).lower(), hairpin=str(hairpin).lower(),
        )  # fmt: skip
    read = config.parse(text, "p")
    assert read.uplinks == (Uplink("wan", "eth0", iaid),)
    assert read.translations == tuple(
        Translation(
            ("wan",), IPv6Network((0xFD << 120 | n << 64, 64)), n, inbound=inbound, hairpin=hairpin
        )
        for n in numbers
    )
