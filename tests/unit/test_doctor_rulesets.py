"""What doctor reads in rulesets of nft and ip6tables, and what it makes of a packet there."""

from ipaddress import IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdreactor.doctor import conf, iptables, nftables
from pdreactor.doctor.facts import Chain, Marking, Match, Step
from pdreactor.doctor.packet import MAYBE, NO, YES, Packet, index, matched, outcomes

N = IPv6Network
IN = {"family": "inet", "table": "f"}
META, CT = ({"meta": {"key": "mark"}}, {"ct": {"key": "mark"}})
OIF = {"meta": {"key": "oifname"}}
SADDR = {"payload": {"protocol": "ip6", "field": "saddr"}}


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def nft(*expressions: Any, before: tuple[dict[str, Any], ...] = ()) -> tuple[Step, ...]:
    """The steps of one rule, as nft 1.0.6 writes its expressions."""
    objects = [{"metainfo": {}}, {"table": {"family": "inet", "name": "f"}}, *before,
               {"chain": {**IN, "name": "c", "type": "filter", "hook": "forward", "prio": 0,
                          "policy": "drop"}},
               {"rule": {**IN, "chain": "c", "expr": list(expressions)}}]
    (chain,) = nftables.chains(objects)
    assert (chain.hook, chain.policy, str(chain)) == ("forward", "drop",
                                                      "nft: table inet f, chain c")
    return chain.steps


ACCEPT, DROP = {"accept": None}, {"drop": None}


@pytest.mark.parametrize(("expression", "expected"), [
    (match(OIF, "eth0"), Match("oif", True, frozenset({"eth0"}))),
    (match(OIF, {"set": ["a", "b*"]}, "!="), Match("oif", False, frozenset({"a", "b*"}))),
    (match({"meta": {"key": "iif"}}, "lo"), Match("iif", True, frozenset({"lo"}))),
    (match({"meta": {"key": "nfproto"}}, "ipv4"), Match("family", True, frozenset({"ipv4"}))),
    (match({"ct": {"key": "state"}}, ["established", "related"], "in"),
     Match("state", True, frozenset({"established", "related"}))),
    (match({"ct": {"key": "status"}}, "dnat", "in"), Match("status", True, frozenset({"dnat"}))),
    (match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False), Match("reverse")),
    (match({"fib": {"result": "oif", "flags": ["saddr", "mark", "iif"]}}, "0"), Match("reverse")),
    (match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, True), Match("reverse", False)),
    (match({"fib": {"result": "type", "flags": ["daddr"]}}, "local"), Match("")),
    (match({"concat": [OIF, OIF]}, {"set": [{"concat": ["a", "b"]}]}), Match("")),
    ({"limit": {"rate": 5, "per": "second"}}, Match("")),
    ({"xt": {"type": "match", "name": "rpfilter"}}, Match("")),
])
def test_a_condition_of_nft(expression: Any, expected: Match) -> None:
    assert nft(expression, ACCEPT) == (Step((expected,), "accept"),)


def test_an_address_implies_its_family() -> None:
    six, four = (Match("family", True, frozenset({family})) for family in ("ipv6", "ipv4"))
    prefix = {"prefix": {"addr": "fd00::", "len": 8}}
    expected = Match("saddr", True, frozenset({"fd00::/8"}))
    assert nft(match(SADDR, prefix), ACCEPT) == (Step((six, expected), "accept"),)
    old = {"payload": {"protocol": "ip", "field": "saddr"}}
    assert nft(match(old, "10.0.0.1"), ACCEPT) == (Step((four, Match("")), "accept"),)


def test_a_named_set_is_looked_up() -> None:
    lan = {"set": {**IN, "name": "lan", "type": "ifname", "elem": ["a", "b"]}}
    assert nft(match(OIF, "@lan"), DROP, before=(lan,)) == (
        Step((Match("oif", True, frozenset({"a", "b"})),), "drop"),)
    assert nft(match(OIF, "@other"), DROP) == (Step((Match("oif"),), "drop"),)


@pytest.mark.parametrize(("expression", "verdict", "target"), [
    (ACCEPT, "accept", ""), (DROP, "drop", ""), ({"reject": {"type": "icmpx"}}, "drop", ""),
    ({"return": None}, "return", ""), ({"jump": {"target": "x"}}, "jump", "x"),
    ({"goto": {"target": "x"}}, "goto", "x"), ({"queue": None}, "accept", ""),
    ({"masquerade": None}, "nat", ""), ({"snat": {"addr": "2001:db8::1"}}, "nat", ""),
    ({"counter": {"packets": 0}}, "", ""), ({"log": None}, "", ""),
])
def test_a_verdict_of_nft(expression: Any, verdict: str, target: str) -> None:
    assert nft(expression) == (Step((), verdict, target),)


def test_a_verdict_map_is_a_step_for_each_element() -> None:
    data = {"set": [["a", {"jump": {"target": "x"}}], ["b", ACCEPT]]}
    assert nft({"vmap": {"key": OIF, "data": data}}) == (
        Step((Match("oif", True, frozenset({"a"})),), "jump", "x"),
        Step((Match("oif", True, frozenset({"b"})),), "accept"))
    assert {s.verdict for s in nft({"vmap": {"key": OIF, "data": "@m"}})} == {"accept", "drop"}


WHOLE = 0xFFFFFFFF


@pytest.mark.parametrize(("key", "value", "kind", "bits"), [
    (META, 1, "packet", WHOLE),
    (META, {"|": [META, 0x100000]}, "packet", 0x100000),
    (META, {"|": [{"&": [META, 0xFF000001]}, 1]}, "packet", 0x00FFFFFF),
    (META, {"^": [META, 3]}, "packet", 3),
    (META, CT, "packet", WHOLE),
    (CT, META, "flow", WHOLE),
    (CT, {"|": [CT, 1]}, "flow", 1),
    (CT, {"&": [META, 0xFFFF]}, "flow", WHOLE),
    (META, {"map": {"key": {"numgen": {}}, "data": {}}}, "packet", WHOLE),
])
def test_a_mark_that_nft_sets(key: Any, value: Any, kind: str, bits: int) -> None:
    assert nft({"mangle": {"key": key, "value": value}})[0].markings == (Marking(kind, bits),)
    dscp = {"payload": {"protocol": "ip6", "field": "dscp"}}
    assert nft({"mangle": {"key": dscp, "value": 1}})[0].markings == ()


def test_other_families_and_our_table_are_left_out() -> None:
    objects = [{"chain": {"family": family, "table": table, "name": "c"}} for family, table in (
        ("ip", "f"), ("ip6", "pdreactor"), ("ip6", "nat"), ("inet", "pdreactor"), ("bridge", "f"))]
    found = nftables.chains(objects, {"ip6 nat"})
    assert [chain.table for chain in found] == ["inet pdreactor"]
    assert nftables.flowtables([{"flowtable": {"name": "f"}}, *objects]) == ["f"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["match", "left", "right", "meta", "key", "vmap", "mangle",
                                         "ct", "jump", "fib", "set", "data"]), inner, max_size=3)))
def test_an_expression_of_a_newer_nft_is_one_that_cannot_be_told(expression: Any) -> None:
    assert all(isinstance(step, Step) for step in nft(expression))


# ---- ip6tables -----------------------------------------------------------------------------------


def saved(rule: str, table: str = "filter") -> Step:
    text = (f"# Generated by ip6tables-nft-save\n*{table}\n:FORWARD DROP [0:0]\n:x - [1:2]\n"
            f"-A x {rule}\nCOMMIT\n")
    forward, chain = iptables.chains(text, "ip6tables-nft-save")
    assert (forward.policy, chain.policy, chain.hook) == ("drop", "accept", "")
    return chain.steps[0]


@pytest.mark.parametrize(("rule", "expected"), [
    ("-i lan+ -j ACCEPT", Step((Match("iif", True, frozenset({"lan*"})),), "accept")),
    ("! -o eth0 -j DROP", Step((Match("oif", False, frozenset({"eth0"})),), "drop")),
    ("-s fd00::/8 -j REJECT --reject-with icmp6-port-unreachable",
     Step((Match("saddr", True, frozenset({"fd00::/8"})),), "drop")),
    ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
     Step((Match("state", True, frozenset({"related", "established"})),), "accept")),
    ("-m conntrack ! --ctstatus DNAT -j RETURN",
     Step((Match("status", False, frozenset({"dnat"})),), "return")),
    ('-m comment --comment "-j DROP -i x" -j y', Step((), "jump", "y")),
    ("-p tcp -m tcp --dport 22 -g y", Step((Match(""),) * 3, "goto", "y")),
    ("-m rpfilter --invert -j DROP", Step((Match("reverse"), Match("")), "drop")),
    ("-m rpfilter -j ACCEPT", Step((Match("reverse", False),), "accept")),
    ("-j LOG --log-prefix x", Step()),
    ("-j MASQUERADE", Step()),
    ("-j MARK --set-xmark 0x1/0xffffffff", Step((), "", "", (Marking("packet", WHOLE),))),
    ("-j MARK --set-xmark 0xf0/0x0", Step((), "", "", (Marking("packet", 0xF0),))),
    ("-j CONNMARK --set-xmark 0x7/0xf", Step((), "", "", (Marking("flow", 0xF),))),
    ("-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff",
     Step((), "", "", (Marking("flow", 0xFF),))),
    ("-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
     Step((), "", "", (Marking("packet", WHOLE),))),
])
def test_a_rule_of_ip6tables(rule: str, expected: Step) -> None:
    assert saved(rule) == expected


def test_a_table_of_ip6tables() -> None:
    text = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o eth0 -j MASQUERADE\nCOMMIT\n"
    assert iptables.chains(text, "p") == (
        Chain("p", "nat", "POSTROUTING", (Step((Match("oif", True, frozenset({"eth0"})),), "nat"),),
              "postrouting", "nat", 100),)


@given(st.text(alphabet="*:-A \"\\\nx/#", max_size=60))
def test_any_text_is_read(text: str) -> None:
    iptables.chains(text, "p")
    conf.dhcpcd(text)
    conf.unit("u", [text], True)


# ---- packets -------------------------------------------------------------------------------------

LAN = N("fd5e:ed00:1234::/58")
PACKET = Packet("lan0", "eth0", LAN, None, "new")


def m(key: str, *values: str, equal: bool = True) -> Match:
    return Match(key, equal, frozenset(values))


@pytest.mark.parametrize(("condition", "expected"), [
    (m("iif", "lan0"), YES), (m("iif", "lan*"), YES), (m("iif", "eth0"), NO),
    (m("oif", "eth0", equal=False), NO), (m("saddr", "fd00::/8"), YES),
    (m("saddr", "fd99::/16"), NO), (m("saddr", "fd5e:ed00:1234::/64"), MAYBE),
    (m("saddr", "fd00::1-fd00::9"), MAYBE), (m("saddr", "fd99::/16", equal=False), YES),
    (m("daddr", "fd00::/8"), MAYBE), (m("state", "new"), YES), (m("state", "established"), NO),
    (m("state", "dnat"), NO), (m("state", "snat"), MAYBE), (m("status", "dnat"), NO),
    (m("status", "snat"), MAYBE), (m("family", "ipv6"), YES),
    (m("family", "ipv4"), NO), (Match(""), MAYBE), (Match("reverse"), MAYBE)])
def test_a_condition(condition: Match, expected: int) -> None:
    assert matched([condition], PACKET) == expected
    assert matched([], PACKET) == YES
    assert matched([m("iif", "eth9"), condition], PACKET) == NO
    unknown = matched([condition], Packet(state=None))
    assert unknown == MAYBE or condition.key in ("family", "status")


def test_a_redirected_packet() -> None:
    redirected = PACKET._replace(status=frozenset({"dnat"}))
    for key in ("state", "status"):
        assert matched([m(key, "dnat")], redirected) == YES
        assert matched([m(key, "dnat", equal=False)], redirected) == NO


def ends(*chains: Chain, ours: tuple[str, ...] = ()) -> set[str]:
    return set(outcomes(chains[0], PACKET, index(chains), frozenset(ours)))


def chain(name: str, *steps: Step, policy: str = "accept") -> Chain:
    return Chain("nft", "t", name, steps, policy=policy)


SURE = {verdict: Step((), verdict) for verdict in ("accept", "drop", "return", "nat")}
PERHAPS = {verdict: Step((Match(""),), verdict) for verdict in SURE}


@pytest.mark.parametrize(("chains", "expected"), [
    ([chain("a")], {"accept"}),
    ([chain("a", policy="drop")], {"drop"}),
    ([chain("a", SURE["drop"], SURE["accept"])], {"drop"}),
    ([chain("a", PERHAPS["accept"], SURE["drop"])], {"accept", "drop"}),
    ([chain("a", PERHAPS["nat"])], {"nat", "accept"}),
    ([chain("a", SURE["return"], SURE["drop"])], {"accept"}),
    ([chain("a", PERHAPS["return"], SURE["drop"])], {"accept", "drop"}),
    ([chain("a", Step((), "jump", "b"), SURE["drop"]), chain("b")], {"drop"}),
    ([chain("a", Step((), "jump", "b"), SURE["drop"]), chain("b", SURE["return"])], {"drop"}),
    ([chain("a", Step((), "jump", "b"), SURE["drop"]), chain("b", SURE["accept"])], {"accept"}),
    ([chain("a", Step((), "goto", "b"), SURE["drop"]), chain("b")], {"accept"}),
    ([chain("a", Step((Match(""),), "jump", "b"), SURE["drop"]), chain("b", SURE["accept"])],
     {"accept", "drop"}),
    ([chain("a", Step((), "jump", "missing"), SURE["drop"])], {"accept", "drop"}),
    ([chain("a", Step((), "jump", "a"), SURE["drop"])], {"accept", "drop"}),
    ([chain("a", Step((), "")), chain("b", SURE["drop"])], {"accept"}),
])
def test_what_may_become_of_it(chains: list[Chain], expected: set[str]) -> None:
    assert ends(*chains) == expected


def test_a_chain_of_ours_is_the_end() -> None:
    jump = Step((), "jump", "pdreactor_snat")
    assert ends(chain("a", jump, SURE["nat"]), ours=("pdreactor_snat",)) == {"ours"}
    assert ends(chain("a", SURE["nat"], jump), ours=("pdreactor_snat",)) == {"nat"}
