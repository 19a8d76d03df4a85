"""Another backend, another mode, other names: the next pass moves over, and nothing is left."""

from itertools import permutations

import pytest

from tests.lab import SERVER, Lab

from .pd import (
    ALL,
    NEEDS_ROOT,
    NETMAP,
    NFTABLES,
    OLD,
    A,
    Echo,
    Router,
    Variant,
    ask,
    config,
    hold,
)

pytestmark = [*NEEDS_ROOT, pytest.mark.variants]

STATELESS, *RFC6296 = ALL[3:]
WAYS = [*permutations(NETMAP, 2), (NFTABLES, STATELESS), (STATELESS, NFTABLES),
        (STATELESS, RFC6296[0]), (RFC6296[0], NETMAP[1]), (NETMAP[1], RFC6296[0]),
        (RFC6296[1], STATELESS)]


def become(router: Router, variant: Variant, text: str = "") -> None:
    """The user edits the configuration and calls ``restore``."""
    router.variant = variant
    router.configure(text or config())
    router.pd("restore")


def held(router: Router) -> set[str]:
    """Where rules of ours are."""
    rules = router.ours()
    places = {"nftables"} if "chain postrouting " in rules or "chain inward " in rules else set()
    for variant in ("nft", "legacy"):
        for table in ("raw", "mangle", "nat", "filter"):
            if "pdreactor" in router.run(f"ip6tables-{variant}-save", "-t", table):
                places.add(f"{variant} {table}")
    return places


def expected(variant: Variant) -> set[str]:
    if variant.backend == "nftables":
        return {"nftables"}
    name = "nft" if variant.backend == "iptables" else "legacy"
    tables = ["nat"] if variant.mode == "netmap" else ["raw", "mangle"]
    return {f"{name} {table}" for table in tables}


@pytest.mark.parametrize(("before", "after"), WAYS, ids=lambda v: str(v))
def test_a_switch_under_load_leaks_and_loses_nothing_and_leaves_nothing(
    lab: Lab, before: Variant, after: Variant
) -> None:
    router = Router(lab, variant=before)
    router.set(OLD)
    assert held(router) == expected(before)
    lab.conntrack_timeout(2)
    flows = lab.start_flows(rate=2000)
    become(router, after)
    router.pd("restore")
    sent = flows.stop()
    lab.wait(lambda: lab.count().arrived >= sent.sent, 5, f"all of {sent.sent} packets")
    assert (lab.count().leaked, sent.refused) == (0, 0)
    assert held(router) == expected(after)
    assert router.status()["ok"]
    with router.unwritten():
        router.pd("restore")


@pytest.mark.parametrize(("before", "after"), WAYS, ids=lambda v: str(v))
def test_flows_begin_anew_after_a_switch(lab: Lab, before: Variant, after: Variant) -> None:
    """Neither do flows stay translated as before, nor are they lost because conntrack has them
    untranslated. A firewall with conntrack is there all the time."""
    lab.nft("router", "table ip6 track { chain c { type filter hook forward priority 0; "
                      "ct state new; }; }")
    router = Router(lab, variant=before)
    router.set(OLD)
    outside, inside = Echo(lab, "isp", SERVER), Echo(lab, "a")
    for number in (0, 1):
        if number:
            become(router, after)
        for protocol in ("udp", "tcp"):
            assert ask(lab, "a", protocol, SERVER, source=1001) == "same"
        assert ask(lab, "isp", "udp", router.outside(A), source=1002 + number) == "same"
        assert router.outside(A) in outside.sources()
    assert ask(lab, "isp", "udp", router.outside(A), source=1002) == "same"
    assert inside.sources()


def test_a_running_connection_survives_a_switch_of_the_backend(lab: Lab) -> None:
    router = Router(lab)
    router.set(OLD)
    Echo(lab, "isp", SERVER)
    connection = hold(lab, "a", SERVER)
    for variant in (*NETMAP[1:], NFTABLES):
        become(router, variant)
        said = len(connection.output())
        lab.wait(lambda said=said: len(connection.output()) > said + 50, 5, "ten more words")


NAMES = '[iptables]\ndnat_chain = "external_dnat"\nsnat_chain = "external_snat"\n'


@pytest.mark.parametrize("variant", NETMAP[1:], ids=str)
def test_other_names_leave_the_first_ones_behind_nowhere(lab: Lab, variant: Variant) -> None:
    router = Router(lab, variant=variant)
    router.set(OLD)
    flows = lab.start_flows(rate=2000)
    become(router, variant, config(rest=NAMES))
    sent = flows.stop()
    lab.wait(lambda: lab.count().arrived >= sent.sent, 5, "all packets")
    assert lab.count().leaked == 0
    program = "ip6tables-legacy-save" if "legacy" in variant.backend else "ip6tables-nft-save"
    rules = router.run(program, "-t", "nat")
    assert ":external_dnat" in rules and "pdreactor_" not in rules
    router.pd("flush")
    assert "external_" not in router.run(program, "-t", "nat")


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_flush_leaves_nothing(lab: Lab, variant: Variant) -> None:
    router = Router(lab, variant=variant)
    router.set(OLD)
    router.pd("flush")
    assert held(router) == set() and router.ours() == ""
    router.pd("flush", "--forget")


def test_a_switch_that_was_cut_off_is_finished_by_the_next_pass(lab: Lab) -> None:
    """The old chains are known of until they are gone."""
    router = Router(lab, variant=NETMAP[2])
    router.set(OLD)
    router.variant = NETMAP[1]
    router.configure(config())
    call = router.start("restore")
    lab.wait(lambda: "nft nat" in held(router) or not call.running, 5, "the new chains")
    call.kill()
    router.pd("restore")
    assert held(router) == expected(NETMAP[1])


def test_a_flowtable_is_a_reason_to_refuse(lab: Lab) -> None:
    router = Router(lab)
    router.set(OLD)
    fast = ("add table inet fast; add flowtable inet fast f "
            "{ hook ingress priority 0; devices = { eth0, lan0 }; }")
    done = lab.run("router", ["nft", fast], check=False)
    if done.returncode:
        pytest.skip(f"this kernel has no flowtables: {done.stderr.splitlines()[0]}")
    router.variant = STATELESS
    router.configure(config())
    for verb in ("restore", "plan", "status"):
        said = router.pd(verb, code=69).stderr
        assert "flowtable" in said and "inet fast f" in said and said.count("\n") == 1
    assert held(router) == expected(NFTABLES), "the last rules stay"
    assert "warning: " in (said := router.pd("check").stdout) and "flowtable" in said
    lab.run("router", ["nft", "delete", "table", "inet", "fast"])
    router.pd("restore")
    assert held(router) == expected(STATELESS)


def test_rules_in_both_variants_are_explained(lab: Lab) -> None:
    router = Router(lab, variant=NETMAP[1])
    router.set(OLD)
    assert router.status()["notes"] == []
    router.run("ip6tables-legacy", "-t", "nat", "-A", "POSTROUTING", "-j", "ACCEPT")
    (note,) = router.status()["notes"]
    assert "ip6tables-legacy" in note and "nat" in note
    assert f"note: {note}" in router.pd("status").stdout
