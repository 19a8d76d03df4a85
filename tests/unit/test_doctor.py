"""doctor's judges: a machine in order yields nothing, each fault its finding with its fix."""

from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network

import pytest

from pdreactor import doctor
from pdreactor.doctor import conf, iptables
from pdreactor.doctor.facts import (
    Chain,
    Directory,
    Facts,
    Finding,
    Interface,
    Marking,
    Match,
    Step,
    TheirRoute,
    TheirRule,
)
from pdreactor.doctor.internal import random
from pdreactor.layout.model import Assign, Plans
from pdreactor.model import Config
from pdreactor.ways import Route, Rule

from .box import ROOT
from .values import LAN, NOW, WAN, WAN2, config

DHCPCD = """
allowinterfaces wan0 lan0
nohook hostname resolv.conf
option rapid_commit
interface wan0
    ipv6only
    noipv6rs
    ia_pd 1/::/58 -
"""
DEFAULT = TheirRoute(Route(IPv6Network("::/0"), "unicast", 254, 1024, "wan0",
                           IPv6Address("fe80::1")), 9)
STANDARD = (TheirRule(Rule(0, table=255), 2), TheirRule(Rule(32766, table=254), 2))
TABLES = config(LAN, uplinks=(WAN._replace(table=201),))
BOTH = (WAN._replace(table=201), WAN2._replace(table=202))
STATELESS = config(LAN._replace(mode="stateless"))
IPTABLES, LEGACY = config(backend="iptables"), config(backend="iptables-legacy")


def machine(**changes) -> Facts:
    """One in order, but for the changes. ``conf`` is the text of dhcpcd.conf."""
    text = changes.pop("conf", DHCPCD)
    known = Facts(
        config=config(),
        release="6.1.0-13-amd64",
        settings={"all/forwarding": "1", "wan0/forwarding": "1", "wan0/accept_ra": "2",
                  "wan0/disable_ipv6": "0"},
        interfaces={"wan0": Interface(2), "wan1": Interface(4),
                    "lan0": Interface(3, False, (IPv6Address("fd5e:ed00:1234::1"),))},
        now=NOW,
        past=NOW - 1,
        state=Directory("/nowhere", 0, 0o755, True),
        programs=frozenset({"nft", "ip6tables", "ip6tables-restore", "dhcpcd"}),
        nft=(1, 0, 6),
        dhcpcd=(10, 1, 0),
        variant="nf_tables",
        routes=(DEFAULT,),
        rules=STANDARD,
        options=None if text is None else conf.dhcpcd(text),
        hooks=("/usr/lib/dhcpcd/dhcpcd-hooks/60-pdreactor",),
        units=(conf.unit("dhcpcd.service", [UNIT, DROP_IN], True),),
        timer=True,
    )
    return known._replace(**changes)


UNIT = "[Service]\nProtectSystem=strict\nReadWritePaths=/var/lib/dhcpcd /run/dhcpcd\n"
DROP_IN = "[Service]\nReadWritePaths=/nowhere\n"


def found(known: Facts) -> list[tuple[str, Finding]]:
    """What is found, each with a fix of one line."""
    findings = doctor.judged(known)
    for _, one in findings:
        for text in (one.what, one.where, one.fix):
            assert text and text.isprintable()
    return findings


def one(known: Facts, check: str, severity: str, *words: str) -> None:
    """Exactly one finding, by that check, with these words in it."""
    (name, finding), *rest = found(known)
    assert not rest
    assert (name, finding.severity) == (check, severity)
    assert not [word for word in words if word not in " | ".join(finding)]


CONFIGS: dict[str, Config] = {
    "netmap": config(), "tables": TABLES, "stateless": STATELESS, "iptables": IPTABLES,
    "legacy": LEGACY, "two uplinks": config(LAN._replace(uplinks=("wan", "wan2")), uplinks=BOTH),
    "rfc6296": config(LAN._replace(mode="rfc6296"), backend="iptables"),
}
TWO_IN_CONF = DHCPCD.replace("allowinterfaces wan0", "allowinterfaces wan0,wan1") + (
    "interface wan1\n ia_pd 2/::/58 -\n")
"""The second uplink beside the first."""
STATEFUL = (Chain("nft", "inet filter", "forward", (
    Step((Match("state", True, frozenset({"established", "related"})),), "accept"),
    Step((Match("status", True, frozenset({"dnat"})),), "accept"),
    Step((Match("state", True, frozenset({"untracked"})),), "accept"),
    Step((Match("iif", True, frozenset({"lan0"})),), "accept"),
    Step((Match("oif", True, frozenset({"wan*"})), Match("")), "accept"),
), "forward", "filter", 0, "drop"),)


@pytest.mark.parametrize("text", CONFIGS)
@pytest.mark.parametrize("chains", [(), STATEFUL], ids=["no firewall", "firewall"])
def test_a_machine_in_order_yields_nothing(text: str, chains: tuple[Chain, ...]) -> None:
    variant = "legacy" if text == "legacy" else "nf_tables"
    conf_text = TWO_IN_CONF if text == "two uplinks" else DHCPCD
    known = machine(config=CONFIGS[text], chains=chains, variant=variant, conf=conf_text)
    assert found(known) == []
    assert doctor.document([]) == {"ok": True, "findings": []}
    assert len(doctor.lines(doctor.document([]))) == 1


def test_an_error_is_first_and_only_errors_make_it_fail() -> None:
    known = machine(lacking=frozenset({"tenacity"}), mistakes=("uplink: no",))
    told = doctor.document(found(known))
    assert [f["severity"] for f in told["findings"]] == ["error", "warning"]
    assert told["ok"] is False
    assert doctor.document(found(machine(lacking=frozenset({"tenacity"}))))["ok"] is True
    assert set(told["findings"][0]) == {"check", "severity", "what", "where", "fix"}
    assert len(doctor.lines(told)) == 6


def test_without_any_uplink_the_rest_is_judged() -> None:
    one(machine(config=Config("/etc/pdreactor.toml", "/nowhere", (), ()), mistakes=("a: no",)),
        "configuration", "error", "a: no", "pdreactor.toml(5)")


# ---- the machine -----------------------------------------------------------------------------


def settings(**changes: str) -> dict[str, str]:
    return {**machine().settings, **{key.replace("_", "/", 1): v for key, v in changes.items()}}


MACHINE = {
    "no forwarding": (dict(settings=settings(all_forwarding="0")),
                      "forwarding", "error", "net.ipv6.conf.all.forwarding = 1"),
    "no interface": (dict(interfaces={}), "interface", "warning", "wan0", "ip link"),
    "IPv6 off": (dict(settings=settings(wan0_disable_ipv6="1")),
                 "interface", "error", "disable_ipv6=0"),
    "no advertisements": (dict(settings=settings(wan0_accept_ra="1"), routes=()),
                          "accept-ra", "error", "net.ipv6.conf.wan0.accept_ra = 2"),
    "old kernel": (dict(release="5.4.0"), "kernel", "error", "5.8"),
    "no NAT": (dict(refused="Error: Could not process rule: No such file or directory"),
               "kernel", "error", "No such file", "CONFIG_NFT_NAT"),
    "offload": (dict(config=STATELESS, flowtables=("f",)), "kernel", "error", "flowtable f"),
    "no NETMAP": (dict(config=IPTABLES, modules=frozenset({"nf_nat"})),
                  "kernel", "error", "xt_NETMAP"),
    "no NPT": (dict(config=CONFIGS["rfc6296"], modules=frozenset({"nf_nat"})),
               "kernel", "error", "ip6t_NPT"),
    "no legacy nat": (dict(config=LEGACY, variant="legacy", modules=frozenset({"xt_NETMAP"})),
                      "kernel", "error", "ip6table_nat"),
    "no binding": (dict(lacking=frozenset({"nftables"})),
                   "package", "error", "python3-nftables"),
    "no pyroute2": (dict(lacking=frozenset({"pyroute2"})), "package", "error", "pyroute2"),
    "no structlog": (dict(lacking=frozenset({"structlog"})), "package", "warning", "structlog"),
    "no iptc": (dict(config=LEGACY, variant="legacy", lacking=frozenset({"iptc"})),
                "package", "error", "python3-iptables"),
    "no nft": (dict(programs=frozenset({"dhcpcd"})), "package", "note", "nftables"),
    "no restore": (dict(config=IPTABLES, programs=frozenset({"ip6tables"})),
                   "package", "error", "ip6tables-restore", "iptables on Debian"),
    "old nft": (dict(nft=(0, 9, 0)), "version", "error", "nft 0.9.0", "0.9.5"),
    "other variant": (dict(config=LEGACY), "version", "warning", "nf_tables", '"iptables"'),
    "read-only": (dict(state=Directory("/var", 0, 0o755, False)),
                  "state-directory", "error", "/var", "state_dir"),
    "a file": (dict(state=Directory("/nowhere", 0, 0o644, True, False)),
               "state-directory", "error", "no directory"),
    "owner": (dict(state=Directory("/nowhere", 1000, 0o755, True)),
              "state-directory", "warning", "chown root:root /nowhere"),
    "open to a group": (dict(state=Directory("/nowhere", 0, 0o775, True)),
                        "state-directory", "warning", "0775"),
    "open to all": (dict(state=Directory("/nowhere", 0, 0o777, True)),
                    "state-directory", "error", "0777", "chmod 700 /nowhere"),
    "clock": (dict(now=NOW - 100), "clock", "warning", "chrony"),
}


@pytest.mark.parametrize("name", MACHINE)
def test_the_machine(name: str) -> None:
    changes, check, severity, *words = MACHINE[name]
    one(machine(**changes), check, severity, *words)


QUIET = {
    "dhcpcd handles advertisements": dict(
        settings=settings(wan0_accept_ra="0"), routes=(), conf=DHCPCD.replace("noipv6rs", "")),
    "networkd handles them": dict(settings=settings(wan0_accept_ra="0"), routes=(), options=None,
                                  networkd=("wan0",)),
    "there is a route": dict(settings=settings(wan0_accept_ra="0")),
    "a gateway is given": dict(
        settings=settings(wan0_accept_ra="0"), routes=(),
        config=config(uplinks=(WAN._replace(gateway=IPv6Address("fe80::1")),))),
    "a point-to-point link": dict(settings=settings(wan0_accept_ra="0"), routes=(),
                                  interfaces={"wan0": Interface(2, True)}),
    "a kernel for ip6tables only": dict(config=IPTABLES, release="4.19.0", refused="no nf_tables",
                                        nft=(0, 9, 0)),
    "no dhcpcd at all": dict(options=None, hooks=(), units=(), dhcpcd=()),
    "another client": dict(conf="", hooks=(), told={"wan": "set"}),
    "a prefix that no client brings": dict(
        conf="", hooks=(), config=config(uplinks=(WAN._replace(source="6to4"),))),
    "a fixed prefix": dict(conf="", hooks=(), config=config(uplinks=(
        WAN._replace(prefix=IPv6Network("2001:db8:4000::/58")),))),
    "nothing known of modules": dict(config=IPTABLES, modules=frozenset()),
}


@pytest.mark.parametrize("name", QUIET)
def test_what_is_as_good(name: str) -> None:
    assert found(machine(**QUIET[name])) == []


# ---- dhcpcd ------------------------------------------------------------------------------------

ASKED = "ia_pd 1/::/58 -"
CONF = {
    "not asked": (ASKED, "", "error", "dhcpcd-asks", "ia_pd 1/::/58 -", "interface wan0"),
    "outside of a block": ("option rapid_commit\ninterface wan0", f"{ASKED}\ninterface lan0",
                           "warning", "dhcpcd-asks", "every interface"),
    "a block for a pattern": ("interface wan0", "interface wan*", "error", "dhcpcd-asks", ASKED),
    "not allowed": ("allowinterfaces wan0 lan0", "allowinterfaces eth*, lan0", "error",
                    "dhcpcd-asks", "add wan0 to allowinterfaces", "line 2"),
    "denied": ("allowinterfaces", "denyinterfaces w*\nallowinterfaces", "error",
               "dhcpcd-asks", "denyinterfaces"),
    "IPv4 only": ("ipv6only", "ipv4only", "error", "dhcpcd-asks", "ipv4only"),
    "no DHCPv6": ("option rapid_commit", "nodhcp6", "error", "dhcpcd-asks", "nodhcp6"),
    "no interface named": (ASKED, "ia_pd 1/::/58", "warning", "dhcpcd-asks", "every other"),
    "a name that is none": (ASKED, "ia_pd 1/::/58 nosuch0/0/58", "note", "dhcpcd-asks",
                            "'nosuch0'", 'write "-"'),
    "too small": (ASKED, "ia_pd 1/::/60 -", "warning", "dhcpcd-asks", "::/58"),
    "anonymous": ("option", "anonymous\noption", "warning", "dhcpcd-anonymous", "anonymous"),
    "script in a block": (ASKED, f"{ASKED}\n script /etc/x", "warning", "dhcpcd-hook", "dropped"),
    "another script": ("option", "script /etc/x\noption", "warning", "dhcpcd-hook", "/etc/x"),
    "our script": ("option", "script /usr/local/sbin/pdreactor-hook\noption", "note",
                   "dhcpcd-hook", "delete the line", "not called"),
    "nohook": ("nohook hostname", "nohook hostname 60-pdreactor", "error", "dhcpcd-hook",
               "take 60-pdreactor out of nohook"),
    "nohook, short": ("nohook hostname", "nohook pdreactor", "error", "dhcpcd-hook", "pdreactor"),
}


@pytest.mark.parametrize("name", CONF)
def test_dhcpcd_conf(name: str) -> None:
    before, after, severity, check, *words = CONF[name]
    assert before in DHCPCD
    one(machine(conf=DHCPCD.replace(before, after)), check, severity, *words)


@pytest.mark.parametrize("text", [
    DHCPCD.replace("interface wan0", "interface lan0\n script /x\ninterface wan0"),
    DHCPCD.replace("ipv6only", "ipv4only\n ipv6only"),
    DHCPCD.replace("interface wan0", "ssid x\n nodhcp6\n ipv4only\ninterface wan0"),
    DHCPCD.replace("option", "script /usr/lib/dhcpcd/dhcpcd-run-hooks\noption"),
    DHCPCD + "interface lan0\n nodhcp6\n denyinterfaces lan1\n",
    "; comment\n# ia_pd\n" + DHCPCD.replace("    ", "\t"),
])
def test_dhcpcd_conf_that_is_as_good(text: str) -> None:
    known = machine(conf=text)
    assert [c for c, _ in found(known) if c != "dhcpcd-hook"] == []


def test_an_old_dhcpcd_takes_any_name_that_is_none() -> None:
    text = DHCPCD.replace(" -", " nosuch0/0/58")
    assert found(machine(conf=text, dhcpcd=(9, 4, 1))) == []
    assert found(machine(dhcpcd=(9, 4, 1))) == []
    one(machine(conf="", dhcpcd=(9, 4, 1)), "dhcpcd-asks", "error", "ia_pd 1/::/58 nosuch0/0/58")


def test_dhcpcd_has_to_ask_for_the_slices_of_the_layout() -> None:
    plans = Plans((Assign("wan", "lan0", 1), Assign("wan", "vif*", 128)), sysctl=False)
    layout = config(plans=plans)._replace(translations=())
    one(machine(config=layout, conf=""), "dhcpcd-asks", "error", "ia_pd 1/::/56 -")


@pytest.mark.parametrize("source", ["onlink", "6to4", "6rd"])
def test_dhcpcd_need_not_ask_where_the_prefix_comes_from_elsewhere(source: str) -> None:
    other = config(uplinks=(WAN._replace(source=source),))
    assert found(machine(config=other, conf="", hooks=())) == []


def test_the_name_of_an_interface_that_does_not_exist_may_be_wrong() -> None:
    lan0 = {"lan0": machine().interfaces["lan0"]}
    asks, absent = (finding for _, finding in found(machine(interfaces=lan0, conf="")))
    assert "no such interface now" in asks.what
    assert "correct uplink.wan.interface" in absent.fix


def test_what_sysctl_sets_needs_no_file() -> None:
    layout = config(plans=Plans())
    off = {**machine().settings, "all/forwarding": "0"}
    one(machine(config=layout, settings=off), "forwarding", "error", "pdreactor restore")


def test_the_example_of_dhcpcd_conf_is_as_it_should_be() -> None:
    text = (ROOT / "contrib/dhcpcd.conf.example").read_text()
    eth0 = config(uplinks=(WAN._replace(interface="eth0"),))
    known = machine(config=eth0, conf=text, interfaces={"eth0": Interface(2)}, dhcpcd=(9, 4, 1))
    assert found(known) == []
    assert [f.severity for _, f in found(known._replace(dhcpcd=(10, 0, 6)))] == ["note"]


@pytest.mark.parametrize(("iaid", "line", "fine"), [
    (1, "1/::/58 -", True), (2, "1/::/58 -", False), (1, "0x1/::/58 -", True),
    (0x61626364, "abcd/::/58 -", True), (7, "", True), (2, "1/::/58 -\n ia_pd 2/::/58 -", True)])
def test_the_iaid_is_the_one_that_is_asked_with(iaid: int, line: str, fine: bool) -> None:
    uplink = config(uplinks=(WAN._replace(iaid=iaid),))
    known = machine(config=uplink, conf=DHCPCD.replace("1/::/58 -", line))
    wrong = [f for _, f in found(known) if "IAID" in f.what]
    assert bool(wrong) != fine
    assert fine or wrong[0].severity == "error"


def test_no_hook_file_is_an_error_and_two_are_a_warning() -> None:
    one(machine(hooks=()), "dhcpcd-hook", "error", "make install")
    assert found(machine(hooks=(), watched=True)) == []  # it listens to dhcpcd's socket
    one(machine(hooks=("/a/60-pdreactor", "/etc/dhcpcd.exit-hook")), "dhcpcd-hook", "warning",
        "/etc/dhcpcd.exit-hook", "keep one")
    script = DHCPCD.replace("option", "script /etc/x\noption")
    one(machine(hooks=(), conf=script), "dhcpcd-hook", "error", "pdreactor-hook")
    block = DHCPCD + " script /etc/x\n"
    assert [f.severity for _, f in found(machine(hooks=(), conf=block))] == ["error", "error"]


@pytest.mark.parametrize(("texts", "enabled", "severity"), [
    ([UNIT], True, "error"), ([UNIT], False, "warning"), ([UNIT, DROP_IN], True, ""),
    ([UNIT, DROP_IN, "[Service]\nReadWritePaths=\n"], True, "error"),
    ([UNIT, "[Service]\nProtectSystem=full\n"], True, ""),
    ([UNIT, "[Service]\nReadWritePaths=-/\n"], True, ""),
    ([UNIT, "[Unit]\nReadWritePaths=/nowhere\n"], True, "error"),
    ([UNIT, "[Service]\nStateDirectory=nowhere\n"], True, "error")])
def test_the_sandbox_lets_the_hook_keep_its_state(
        texts: list[str], enabled: bool, severity: str) -> None:
    known = machine(units=(conf.unit("dhcpcd.service", texts, enabled),))
    assert [f.severity for _, f in found(known)] == [severity] * bool(severity)
    if severity:
        one(known, "dhcpcd-sandbox", severity, "ReadWritePaths=/nowhere", "dhcpcd.service.d")


def test_our_drop_in_is_enough() -> None:
    drop_in = (ROOT / "contrib/systemd/dhcpcd.service.d/pdreactor.conf").read_text()
    unit = conf.unit("dhcpcd.service", [UNIT, drop_in], True)
    state = config()._replace(state_dir="/var/lib/pdreactor")
    assert found(machine(config=state, units=(unit,), state=None)) == []


def test_a_state_directory_of_systemd_is_below_var_lib() -> None:
    unit = conf.unit("dhcpcd.service", [UNIT, "[Service]\nStateDirectory=pdreactor\n"], True)
    assert "/var/lib/pdreactor" in unit.writable and unit.strict


# ---- the firewall ------------------------------------------------------------------------------


def chain(*steps: Step, hook: str = "forward", type: str = "filter", priority: int = 0,
          policy: str = "accept", program: str = "nft", table: str = "inet x") -> Chain:
    return Chain(program, table, "c", steps, hook, type, priority, policy)


def to_wan(verdict: str, *more: Match) -> Step:
    return Step((Match("oif", True, frozenset({"wan0"})), *more), verdict)


def nat(*steps: Step, priority: int = 90, **rest) -> Chain:
    return chain(*steps, hook="postrouting", type="nat", priority=priority, **rest)


MASQUERADE = nat(to_wan("nat"))


def test_who_translates_first() -> None:
    one(machine(chains=(MASQUERADE,)), "nat-before", "error", "rewrites", "fd5e:ed00:1234::/58",
        "above 95")
    one(machine(chains=(nat(to_wan("nat", Match(""))),)), "nat-before", "warning", "may rewrite")
    one(machine(chains=(MASQUERADE._replace(priority=95),)), "nat-before", "warning")
    one(machine(config=STATELESS, chains=(MASQUERADE._replace(priority=110),)),
        "nat-before", "error", "leave fd5e:ed00:1234::/58 out")
    one(machine(config=IPTABLES, chains=(MASQUERADE._replace(priority=99),)),
        "nat-before", "error")


OTHER_SOURCE = Match("saddr", True, frozenset({"fd99::/64"}))
OURS = Step((), "jump", "pdreactor_snat")


@pytest.mark.parametrize("known", [
    machine(chains=(MASQUERADE._replace(priority=100),)),
    machine(chains=(nat(to_wan("nat", OTHER_SOURCE)),)),
    machine(chains=(nat(to_wan("accept"), to_wan("nat")),)),
    machine(chains=(nat(Step((Match("family", True, frozenset({"ipv4"})),), "nat")),)),
    machine(chains=(MASQUERADE._replace(hook="prerouting"),)),
    machine(config=CONFIGS["rfc6296"], chains=(MASQUERADE,)),
    machine(config=IPTABLES, chains=(nat(OURS, to_wan("nat"), priority=100,
                                         program="ip6tables-nft-save"),)),
    machine(config=IPTABLES, chains=(nat(to_wan("nat"), priority=100,
                                         program="ip6tables-nft-save"),)),
])
def test_nat_that_does_no_harm(known: Facts) -> None:
    assert found(known) == []


def test_nat_ahead_of_our_jump() -> None:
    ahead = nat(to_wan("nat"), OURS, priority=100, program="ip6tables-nft-save")
    one(machine(config=IPTABLES, chains=(ahead,)), "nat-before", "error", "ip6tables-nft-save")


ANSWERS = Step((Match("state", True, frozenset({"established"})),), "accept")
OUT = Step((Match("saddr", True, frozenset({"fd00::/8"})), Match("oif", True, frozenset({"wan0"}))),
           "accept")
DNAT = Step((Match("status", True, frozenset({"dnat"})),), "accept")


def test_a_chain_that_drops_everything() -> None:
    checks = [(name, f.severity) for name, f in found(machine(chains=(chain(policy="drop"),)))]
    assert checks == [("forward-drop", "error")] * 2 + [("hairpin-drop", "warning")]


@pytest.mark.parametrize(("steps", "check", "severity", "fix"), [
    ([ANSWERS, DNAT], "forward-drop", "error", 'ip6 saddr fd5e:ed00:1234::/58 oifname "wan0"'),
    ([OUT, DNAT], "forward-drop", "error", "ct state established,related accept"),
    ([ANSWERS, OUT], "hairpin-drop", "warning", "ct status dnat accept"),
])
def test_a_chain_that_drops(steps: list[Step], check: str, severity: str, fix: str) -> None:
    one(machine(chains=(chain(*steps, policy="drop"),)), check, severity, fix)
    last = Step((), "drop")
    one(machine(chains=(chain(*steps, last),)), check, severity, fix)
    assert found(machine(chains=(chain(*steps, Step((Match(""),), "accept"), last),))) == []
    saved = chain(*steps, policy="drop", program="ip6tables-nft-save")
    assert "-I c " in found(machine(chains=(saved,)))[0][1].fix


def test_a_chain_that_drops_in_other_modes() -> None:
    steps = (ANSWERS, OUT)
    stateless = machine(config=STATELESS, chains=(chain(*steps, policy="drop"),))
    one(stateless, "hairpin-drop", "warning", "ip6 daddr fd5e:ed00:1234::/58")
    off = config(LAN._replace(hairpin=False))
    assert found(machine(config=off, chains=(chain(*steps, policy="drop"),))) == []
    untracked = machine(config=CONFIGS["rfc6296"], chains=(chain(*steps, policy="drop"),))
    checks = [(name, "untracked" in f.fix) for name, f in found(untracked)]
    assert checks == [("forward-drop", True), ("hairpin-drop", False)]


REVERSE = chain(Step((Match("reverse"),), "drop"), hook="prerouting", priority=-300)
PAIR = LAN._replace(uplinks=("wan", "wan2"))


def test_a_reverse_path_filter_harms_several_uplinks_without_tables() -> None:
    plain = config(PAIR, uplinks=(WAN, WAN2))
    one(machine(config=plain, conf=TWO_IN_CONF, chains=(REVERSE,)),
        "reverse-path", "warning", "wan, wan2", "table")
    firewalld = REVERSE._replace(table="inet firewalld")
    one(machine(config=plain, conf=TWO_IN_CONF, chains=(firewalld,)),
        "reverse-path", "warning", "IPv6_rpfilter=no")
    assert found(machine(chains=(REVERSE,))) == []
    both = config(PAIR, uplinks=BOTH)
    assert found(machine(config=both, conf=TWO_IN_CONF, chains=(REVERSE,))) == []
    accepts = REVERSE._replace(steps=(Step((Match("reverse", False),), "drop"),))
    assert found(machine(config=plain, conf=TWO_IN_CONF, chains=(accepts,))) == []


WHOLE = 0xFFFFFFFF


def marks(kind: str, bits: int, **rest) -> Chain:
    step = Step((), "", "", (Marking(kind, bits),))
    return chain(step, **{"hook": "prerouting", "priority": -100, **rest})


@pytest.mark.parametrize(("settings", "mark", "wrong"), [
    (config(), marks("flow", WHOLE), True),
    (config(), marks("flow", 0xFF), False),
    (config(), marks("packet", WHOLE), False),
    (TABLES, marks("packet", 0x00100000), True),
    (TABLES, marks("packet", WHOLE, priority=-150), False),
    (TABLES, marks("packet", WHOLE, hook="postrouting"), False),
    (STATELESS, marks("packet", WHOLE), True),
    (STATELESS, marks("flow", WHOLE), False),
    (config(LAN, ct_mark_mask=0xF), marks("flow", 0xFF00), False),
])
def test_marks_of_others(settings: Config, mark: Chain, wrong: bool) -> None:
    known = machine(config=settings, chains=(mark,))
    if wrong:
        one(known, "mark", "warning", "ct_mark_mask")
    else:
        assert found(known) == []


def test_a_mark_in_a_chain_that_is_jumped_to() -> None:
    below = marks("packet", WHOLE)._replace(name="below", hook="")
    base = chain(Step((), "jump", "below"), hook="prerouting", priority=-100)
    one(machine(config=TABLES, chains=(base, below)), "mark", "warning", "chain below")
    assert found(machine(config=TABLES, chains=(below,))) == []
    assert found(machine(config=IPTABLES, chains=(
        marks("flow", WHOLE)._replace(name="pdreactor_dnat"),))) == []


def test_both_variants_of_ip6tables() -> None:
    rules = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n"
    both = [iptables.chains(rules, f"ip6tables-{name}-save") for name in ("nft", "legacy")]
    one(machine(chains=(*both[0], *both[1])), "version", "warning", "keep to one")
    empty = iptables.chains(rules.replace("-A INPUT -j ACCEPT\n", ""), "ip6tables-legacy-save")
    assert found(machine(chains=(*both[0], *empty))) == []


# ---- routes and rules --------------------------------------------------------------------------


def with_rules(*rules: TheirRule, config: Config = TABLES) -> Facts:
    return machine(config=config, rules=(*STANDARD, *rules))


def test_a_table_of_somebody_else() -> None:
    theirs = DEFAULT._replace(route=DEFAULT.route._replace(table=201))
    one(machine(config=TABLES, routes=(DEFAULT, theirs)), "table", "warning", "table 201",
        "uplink.wan.table")
    assert found(machine(config=TABLES, routes=(DEFAULT, theirs._replace(protocol=157)))) == []
    net = theirs._replace(route=theirs.route._replace(destination=IPv6Network("fd99::/64")))
    assert found(machine(config=TABLES, routes=(DEFAULT, net))) == []
    rule = TheirRule(Rule(20000, table=201), 3)
    one(with_rules(rule, config=TABLES), "table", "warning", "uplink.wan.table")


EARLY = Rule(100, IPv6Network("fd5e::/16"), table=77)


@pytest.mark.parametrize(("rule", "words"), [
    (TheirRule(Rule(15701, IPv6Network("fd99::/64"), table=77), 3), "routing.priority"),
    (TheirRule(EARLY, 3), "above 15703"),
    (TheirRule(EARLY._replace(source=None, mark=(0xCA6C, WHOLE)), 3, True), "wg-quick"),
    (TheirRule(Rule(20000, mark=(1, WHOLE), table=77), 3), "0xffffffff"),
])
def test_a_rule_of_somebody_else(rule: TheirRule, words: str) -> None:
    one(with_rules(rule), "rule", "warning", words)
    assert found(with_rules(rule._replace(protocol=157))) == []
    assert found(with_rules(rule, config=config())) == []


@pytest.mark.parametrize("rule", [
    EARLY._replace(suppress=True), EARLY._replace(source=IPv6Network("fd99::/64")),
    EARLY._replace(iif="wg0"), EARLY._replace(destination=IPv6Network("fd99::/64")),
    EARLY._replace(mark=(1, 0xFF)), Rule(20000, table=77)])
def test_rules_that_do_no_harm(rule: Rule) -> None:
    assert found(with_rules(TheirRule(rule, 3))) == []


def test_networkd() -> None:
    kept = {"ManageForeignRoutingPolicyRules": "no", "ManageForeignRoutes": "False"}
    steered = machine(config=TABLES, networkd=("lan0",))
    assert [f.fix.split()[1] for _, f in found(steered)] == [f"{key}=no" for key in kept]
    assert found(steered._replace(foreign=kept)) == []
    assert found(steered._replace(config=config())) == []
    one(machine(networkd=("wan0",)), "networkd", "warning", "wan0", "Unmanaged=yes")


def test_network_manager() -> None:
    one(machine(network_manager=("wan0",)), "network-manager", "warning",
        "unmanaged-devices=interface-name:wan0")
    assert found(machine(network_manager=("lan0",))) == []
    assert found(machine(network_manager=("wan0",), options=None)) == []


def test_a_timer_for_a_gateway_that_nobody_tells_of() -> None:
    one(machine(config=TABLES, timer=False), "timer", "note", "pdreactor-restore.timer")
    assert found(machine(config=TABLES, timer=False, conf=DHCPCD.replace("noipv6rs", ""))) == []
    assert found(machine(config=TABLES, timer=None)) == []
    assert found(machine(config=TABLES, timer=False, watched=True)) == []


# ---- internal prefixes -------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["fd00::/48", "fd00:0:1::/48", "fd12:3456:789a::/48",
                                  "fdfe:dcba:9876::/48", "fdaa:aaaa:aaaa::/48",
                                  "fdab:abab:abab::/64",
                                  "fd01:2345:6789:1::/64"])
def test_prefixes_made_by_hand(text: str) -> None:
    lan = LAN._replace(internal=IPv6Network(text))
    assert not random(lan.internal)
    one(machine(config=config(lan), conf=None), "unique-local", "warning", "random", "RFC 4193")


@pytest.mark.parametrize("text", ["fd5e:ed00:1234::/58", "fd47:b480:1afb::/48", "2001:db8::/48",
                                  "fd9c:0b00:22f0::/56", "fd00::/16"])
def test_prefixes_that_may_be_random(text: str) -> None:
    lan = config(LAN._replace(internal=IPv6Network(text)))
    assert found(machine(config=lan, conf=None)) == []


def test_the_half_that_is_not_defined() -> None:
    lan = LAN._replace(internal=IPv6Network("fc5e:ed00:1234::/58"))
    one(machine(config=config(lan)), "unique-local", "warning", "fc00::/8")


def lan_with_ipv4(*addresses: str) -> dict[str, Interface]:
    return {**machine().interfaces,
            "lan0": Interface(3, False, tuple(map(IPv6Address, addresses)), True)}


def test_hosts_that_prefer_ipv4() -> None:
    known = machine(interfaces=lan_with_ipv4("fd5e:ed00:1234::1"))
    one(known, "preference", "note", "lan0", "RFC 6724", "label fd5e:ed00:1234::/58 1")
    assert found(machine(interfaces=lan_with_ipv4("2001:db8::1"))) == []
    glob = config(LAN._replace(internal=IPv6Network("2001:db8:1::/58")))
    assert found(machine(config=glob, interfaces=lan_with_ipv4("2001:db8:1::1"))) == []


def test_of_many_translations_some_are_looked_at() -> None:
    many = [LAN._replace(internal=IPv6Network((int(N.network_address) + (i << 64), 64)))
            for i in range(10_000)]
    known = machine(config=config(*many), chains=(chain(policy="drop"), MASQUERADE), conf=None)
    assert 0 < len(found(known)) < 500


N = IPv6Network("fd5e:ed00:1234::/48")


def test_every_check_has_been_seen_to_find_something() -> None:
    tested = {*(row[1] for row in MACHINE.values()), *(row[3] for row in CONF.values()),
              "configuration", "dhcpcd-sandbox", "nat-before", "forward-drop", "hairpin-drop",
              "reverse-path", "mark", "table", "rule", "networkd", "network-manager", "timer",
              "unique-local", "preference"}
    assert tested == set(doctor.CHECKS)


def test_a_name_is_a_word() -> None:
    names: Iterable[str] = doctor.CHECKS
    assert all(name.replace("-", "").isalpha() and name.islower() for name in names)
