"""Rules that users have in the tables of ip6tables, and chains that they call themselves."""

import pytest

from tests.lab import SERVER, Lab

from .pd import (
    IPTABLES,
    NEEDS_ROOT,
    NETMAP,
    NEW,
    NFTABLES,
    OLD,
    RFC6296,
    STATELESS,
    A,
    B,
    Echo,
    Router,
    ask,
    config,
    dhcp,
    on,
    reaches,
    unanswered,
)

pytestmark = [*NEEDS_ROOT, pytest.mark.variants]

PROGRAMS = ("ip6tables-nft", "ip6tables-legacy")
THEIRS = r"""
*raw
:user - [0:0]
-A PREROUTING -p tcp -m comment --comment "a \"word\" -j pdreactor_dnat" -j user
-A OUTPUT -p tcp -j user
-A user -m tcp -p tcp --dport 4242
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:pdreactor - [0:0]
-A PREROUTING -p tcp -j MARK --set-xmark 0x5/0xff
-A POSTROUTING -p tcp -g pdreactor
-A pdreactor -p tcp -m comment --comment "outbound wan ::/0 ::/0 00000000"
COMMIT
*nat
:user_dnat - [0:0]
-A PREROUTING -p tcp -j user_dnat
-A POSTROUTING -p tcp -d 2001:db8:99::/48 -j MASQUERADE
-A user_dnat -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80
-A user_dnat -p tcp
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:empty - [0:0]
-A FORWARD -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -p tcp -j ACCEPT
COMMIT
"""
"""With names and comments that look like ours."""
TABLE = """
table ip6 nat {
    counter seen { }
    chain mine { type nat hook postrouting priority 200; meta l4proto tcp counter name seen; }
}
table inet other { chain c { type filter hook forward priority 0; meta l4proto tcp counter; }; }
"""
"""A chain of nft in a table of ip6tables."""


def load(lab: Lab) -> None:
    """Rules in every table of both variants, and of nft; each has counted something."""
    for program in PROGRAMS:
        lab.run("router", [f"{program}-restore"], input=THEIRS)
    lab.nft("router", TABLE)
    server = Echo(lab, "b")
    assert ask(lab, "a", "tcp", B) == "same"
    server.stop()


@on([IPTABLES[1], RFC6296[0]])
def test_rules_and_counters_of_others_stay_as_they_are(lab: Lab, router: Router) -> None:
    """Byte for byte. From here on there is no TCP, and nothing of theirs counts anything else."""
    load(lab)
    before = router.others()
    assert before.count("packets 0 ") < before.count("packets "), "nothing was counted"
    steps = (
        lambda: router.pd("restore"),
        lambda: router.hook("BOUND6", dhcp(OLD)),
        lambda: router.hook("RENEW6", dhcp(NEW, old=OLD)),
        lambda: router.pd("unset", "wan"),
        lambda: router.set(OLD),
        lambda: router.pd("flush"),
        lambda: router.pd("restore"),
    )
    for number, step in enumerate(steps):
        step()
        assert router.others() == before, f"after step {number}"
    assert reaches(lab, "a", SERVER) and reaches(lab, "isp", router.outside(A))
    for variant in (NFTABLES, IPTABLES[0], STATELESS, RFC6296[1]):
        router.variant = variant
        router.configure(config())
        router.pd("restore")
        assert router.others() == before, f"after the change to {variant}"
        assert reaches(lab, "a", SERVER) and reaches(lab, "isp", router.outside(A))
    router.pd("flush", "--forget")
    assert router.others() == before
    assert router.is_clean()


@on([IPTABLES[0], RFC6296[1]])
def test_our_counters_stay_when_nothing_changes(lab: Lab, router: Router) -> None:
    router.set(OLD)
    assert reaches(lab, "a", SERVER)

    def counted() -> list[str]:
        saved = router.run(f"{router.variant.ip6tables}-save", "-c").splitlines()
        return [line for line in saved if "NETMAP" in line or "NPT" in line]

    before = counted()
    assert any(not line.startswith("[0:0]") for line in before)
    router.pd("restore")
    router.hook("RENEW6", dhcp(OLD))
    assert counted() == before


JUMPS = {
    "PREROUTING": "-p all -i eth0 -j pdreactor_dnat",
    "POSTROUTING": "-o eth0 -m comment --comment mine -j pdreactor_snat",
}


@on([IPTABLES[0], RFC6296[1]])
def test_a_users_own_jump_to_our_chain_stays(lab: Lab, router: Router) -> None:
    """It does for ours. When our chains go it leads to an empty one."""
    router.set(OLD)
    tables = ("nat",) if router.variant.tracked else ("raw", "mangle")
    for table in tables:
        for builtin, jump in JUMPS.items():
            if (table, builtin) != ("raw", "POSTROUTING"):
                router.run(router.variant.ip6tables, "-t", table, "-A", builtin, *jump.split())
    before = router.others(counters=False)
    assert before.count("-j pdreactor_") == 2 * len(tables) - ("raw" in tables)
    for prefix in (NEW, OLD):
        router.set(prefix)
        assert router.others(counters=False) == before
        assert reaches(lab, "isp", router.outside(A, prefix))
        echo = Echo(lab, "isp", SERVER)
        assert ask(lab, "a", "udp", SERVER) == "same"
        assert echo.sources() == {router.outside(A, prefix)}
        echo.stop()
    with router.unwritten():
        router.pd("restore")
    router.pd("flush")
    assert router.others(counters=False) == before
    assert "NETMAP" not in router.translation() and "NPT" not in router.translation()
    router.pd("restore")
    assert router.others(counters=False) == before
    assert reaches(lab, "isp", router.outside(A))


SEED = """
[iptables]
jumps = false
dnat_chain = "external_dnat"
snat_chain = "external_snat"
"""
SEEDS_FIREWALL = """
*{table}
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:external_dnat - [0:0]
:external_snat - [0:0]
-A PREROUTING -j external_dnat
-A POSTROUTING -j external_snat
COMMIT
"""


@on(IPTABLES)
def test_a_firewall_that_calls_the_chains_itself(lab: Lab, router: Router) -> None:
    """As with the shell script: two chains, two jumps, and hairpin for LAN hosts only."""
    theirs = {"counters": False, "chains": "external_[a-z_]+", "jumps": False}
    restore = [f"{router.variant.ip6tables}-restore"]
    lab.run("router", restore, input=SEEDS_FIREWALL.format(table="nat"))
    before = router.others(**theirs)
    assert before.count("-j external_") == 2
    router.configure(config(rest=SEED))
    for prefix in (OLD, NEW):
        router.set(prefix)
        assert router.others(**theirs) == before
        a, b = router.outside(A, prefix), router.outside(B, prefix)
        assert reaches(lab, "a", SERVER) and reaches(lab, "isp", a) and reaches(lab, "a", b)
    assert unanswered(lab, "router", router.outside(A, NEW))
    assert router.status()["ok"]
    with router.unwritten():
        router.pd("restore")
    router.pd("flush")
    assert router.others(**theirs) == before
    assert unanswered(lab, "isp", router.outside(A, NEW))
    lab.run("router", restore, input=SEEDS_FIREWALL.format(table="nat"))  # a reload
    router.pd("restore")
    assert router.others(**theirs) == before
    assert reaches(lab, "isp", router.outside(A, NEW)) and lab.count().leaked == 0


@on(NETMAP[:2])
def test_rules_of_the_other_variant_are_said(lab: Lab, router: Router) -> None:
    lab.run("router", ["ip6tables-legacy-restore"], input=THEIRS)
    router.set(OLD)
    assert ("both variants" in str(router.status()["notes"])) == (
        router.variant.backend == "iptables"
    )
