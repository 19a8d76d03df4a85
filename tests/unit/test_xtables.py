"""The two seams to ip6tables: both variants take the same commits and show the same chains.

Each test runs in a network namespace of its own. What is compared with what there was before is
what the variant's own ip6tables-save says, with counters.
"""

import importlib.util
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import NamedTuple

import pytest

from pdreactor.errors import BackendMissing, KernelBusy, KernelError, PermissionDenied
from pdreactor.kernel import ip6tables, libiptc
from pdreactor.kernel.ip6tables import Ip6tables, legacy_tables, variant
from pdreactor.kernel.libiptc import Libiptc
from pdreactor.kernel.xtables import Commit, Rule, Seen, text

from .box import ROOT
from .namespace import in_new_network, needs_root


class Variant(NamedTuple):
    """A seam, and the word in the names of the programs of its variant."""

    seam: type[Ip6tables] | type[Libiptc]
    word: str

    def ip6tables(self, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess:
        return subprocess.run([f"ip6tables-{self.word}{arguments[0]}", *arguments[1:]], text=True,
                              input=given, capture_output=True, timeout=30, check=False)

    def restore(self, table: str, *lines: str) -> None:
        given = "\n".join([f"*{table}", *lines, "COMMIT", ""])
        ran = self.ip6tables("-restore", "--noflush", "--counters", given=given)
        assert ran.returncode == 0, ran.stderr

    def save(self, table: str = "nat") -> list[str]:
        """What is there, with counters."""
        saved = self.ip6tables("-save", "-c", "-t", table)
        assert saved.returncode == 0, saved.stderr
        return [line for line in saved.stdout.splitlines() if not line.startswith("# ")]

    def rules(self, table: str = "nat") -> list[str]:
        """The rules without counters."""
        return [line.partition("] ")[2] for line in self.save(table) if line.startswith("[")]


NFT, LEGACY = Variant(Ip6tables, "nft"), Variant(Libiptc, "legacy")
needs_iptc = pytest.mark.skipif(importlib.util.find_spec("iptc") is None,
                                reason="needs python-iptables")
both = pytest.mark.parametrize("kind", [pytest.param(NFT, id="nf_tables"),
                                        pytest.param(LEGACY, id="legacy", marks=needs_iptc)])


@pytest.fixture(autouse=True)
def a_lock_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))


OUT = Rule("pd out", ("-s", "fd5e::/58", "-o", "wan0", "-j", "NETMAP", "--to", "2001:db8::/58"))
IN = Rule("pd in", ("-d", "2001:db8::/58", "-i", "wan0", "-j", "NETMAP", "--to", "fd5e::/58"))
NEW = Rule("pd new", ("-s", "fd5e::/58", "-o", "wan0", "-j", "NETMAP", "--to", "2001:db8:1::/58"))
BAD = Rule("pd bad", ("-d", "2001:db8::/58", "-j", "NETMAP", "--to", "2001:db8::/129"))
TWO = Commit("nat", {"pd-out": (OUT,), "pd-in": (IN,)},
             (("POSTROUTING", "pd-out"), ("PREROUTING", "pd-in")))
NAMES = ("PREROUTING", "POSTROUTING", "pd-out", "pd-in")


def jump(chain: str) -> Seen:
    return Seen("", chain, True)


# ---- round trip ------------------------------------------------------------------------------


@needs_root
@both
def test_what_was_committed_is_what_is_read(kind: Variant) -> None:
    def work() -> None:
        seam = kind.seam()
        seam.commit(TWO)
        assert seam.read("nat", NAMES) == {
            "PREROUTING": (jump("pd-in"),), "POSTROUTING": (jump("pd-out"),),
            "pd-out": (Seen("pd out", "NETMAP", False),),
            "pd-in": (Seen("pd in", "NETMAP", False),)}
        assert seam.read("nat", ["pd-in", "nosuch"]) == {
            "pd-in": (Seen("pd in", "NETMAP", False),)}

    in_new_network(work)


@needs_root
@both
def test_a_commit_again_changes_nothing(kind: Variant) -> None:
    def work() -> None:
        seam = kind.seam()
        seam.commit(TWO)
        first = kind.save()
        seam.commit(TWO._replace(jump=()))
        assert kind.save() == first

    in_new_network(work)


@needs_root
@both
def test_the_rules_of_a_chain_are_replaced(kind: Variant) -> None:
    def work() -> None:
        seam = kind.seam()
        seam.commit(TWO)
        seam.commit(Commit("nat", {"pd-out": (NEW, OUT), "pd-in": ()}))
        seen = seam.read("nat", NAMES)
        assert [rule.comment for rule in seen["pd-out"]] == ["pd new", "pd out"]
        assert seen["pd-in"] == ()
        assert seen["POSTROUTING"] == (jump("pd-out"),)

    in_new_network(work)


@needs_root
@both
def test_a_jump_is_put_at_the_head_and_one_plain_jump_is_taken_away(kind: Variant) -> None:
    commented = '-A POSTROUTING -m comment --comment "mine too" -j pd-out'
    other = "-A POSTROUTING -o eth9 -j MASQUERADE"

    def work() -> None:
        seam = kind.seam()
        kind.restore("nat", ":pd-out - [0:0]", other, commented)
        seam.commit(Commit("nat", {"pd-out": ()}, jump=(("POSTROUTING", "pd-out"),)))
        assert kind.rules() == ["-A POSTROUTING -j pd-out", other, commented]
        assert seam.read("nat", ["POSTROUTING"])["POSTROUTING"] == (
            jump("pd-out"), Seen("", "MASQUERADE", False), Seen("mine too", "pd-out", False))
        seam.commit(Commit("nat", jump=(("POSTROUTING", "pd-out"),)))
        seam.commit(Commit("nat", unjump=(("POSTROUTING", "pd-out"),)))
        assert kind.rules() == ["-A POSTROUTING -j pd-out", other, commented]
        seam.commit(Commit("nat", unjump=(("POSTROUTING", "pd-out"),)))
        assert kind.rules() == [other, commented]

    in_new_network(work)


@needs_root
@both
def test_chains_are_removed_with_what_jumped_to_them(kind: Variant) -> None:
    def work() -> None:
        seam = kind.seam()
        seam.commit(TWO)
        seam.commit(Commit("nat", unjump=TWO.jump, remove=("pd-out", "pd-in", "never-was")))
        assert seam.read("nat", NAMES) == {"PREROUTING": (), "POSTROUTING": ()}
        assert kind.rules() == []

    in_new_network(work)


@needs_root
@both
def test_a_rule_of_any_kind_is_seen_for_what_it_is(kind: Variant) -> None:
    def work() -> None:
        kind.restore("mangle", ":own - [0:0]", "-A FORWARD", "-A FORWARD -g own",
                     "-A FORWARD -j own", "-A FORWARD -i eth0 -j own", "-A FORWARD -j ACCEPT",
                     "-A FORWARD -m mark --mark 0x1",
                     "-A FORWARD -p udp -m udp --dport 9 -j RETURN",
                     "-A FORWARD ! -s fd00::/8 -m comment --comment -j -j own")
        assert kind.seam().read("mangle", {"FORWARD"}) == {"FORWARD": (
            Seen("", "", False), Seen("", "own", False), Seen("", "own", True),
            Seen("", "own", False), Seen("", "ACCEPT", True), Seen("", "", False),
            Seen("", "RETURN", False), Seen("-j", "own", False))}

    in_new_network(work)


# ---- every kind of rule ----------------------------------------------------------------------

RULES = {
    "nat PREROUTING": """
        -m addrtype --dst-type LOCAL -j RETURN
        -i eth0 -d 2001:db8::/58 -j NETMAP --to fd5e::/58
        ! -i eth0 -d 2001:db8::/58 -j CONNMARK --set-xmark 0x100000/0xff00000
        -i ppp+ ! -d 2001:db8::/58 -j RETURN
        -i fifteen-letters -m conntrack ! --ctstate NEW,SNAT --ctdir ORIGINAL -j RETURN
    """,
    "nat POSTROUTING": """
        -o eth0 -m policy --dir out --pol ipsec -j RETURN
        ! -o eth0 -m conntrack --ctstate DNAT --ctorigdst 2001:db8::/58 -j NETMAP --to 2001:db8::/58
        -s fd5e::1 -d fd5e::/16 -j RETURN
    """,
    "mangle PREROUTING": """
        -i eth0 -m policy --dir in --pol ipsec -j RETURN
        -m conntrack ! --ctstate NEW,SNAT --ctdir ORIGINAL -j MARK --set-xmark 0x100000/0xff00000
        -i eth0 -d 2001:db8:0:1::/64 -j DNPT --src-pfx 2001:db8:0:1::/64 --dst-pfx fd5e:0:0:1::/64
        -d fd5e::/58 -j CONNMARK --set-xmark 0x0/0xff00000
    """,
    "mangle POSTROUTING": """
        -o eth0 -s fd5e:0:0:1::/64 -j SNPT --src-pfx fd5e:0:0:1::/64 --dst-pfx 2001:db8:0:1::/64
        -m mark --mark 0x100000/0xff00000 -j DROP
        -m mark ! --mark 0x100000/0xff00000 -j RETURN
        -m connmark --mark 0x100000/0xff00000 -j RETURN
        -p ipv6-icmp -m icmp6 --icmpv6-type 1 -j RETURN
        ! -p tcp -j pd-other
        -j pd-other
    """,
    "raw PREROUTING": """
        -i eth0 -d 2001:db8:0:1::/64 -j CT --notrack
        -p tcp -m tcp --dport 1 -j DROP
        -p udp -m udp ! --sport 1:9 -j DROP
    """,
    "filter FORWARD": """
        -o eth0 -s fd5e::/58 -j REJECT --reject-with icmp6-policy-fail
        -s fd5e::/58 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    """,
}


@needs_root
@both
@pytest.mark.parametrize("where", RULES)
def test_a_rule_is_the_one_that_ip6tables_makes_of_its_words(kind: Variant, where: str) -> None:
    """``ip6tables -C`` compares byte by byte, the masks of interface names too."""
    table, builtin = where.split()
    lines = [tuple(line.split()) for line in RULES[where].strip().splitlines()]
    rules = tuple(Rule(f"rule {number}", words) for number, words in enumerate(lines))

    def work() -> None:
        seam = kind.seam()
        chains = {"pd-other": (), "pd": rules, "pd-bare": tuple(Rule("", words) for words in lines)}
        seam.commit(Commit(table, chains, ((builtin, "pd"), (builtin, "pd-bare"))))
        assert [rule.comment for rule in seam.read(table, ["pd"])["pd"]] == [
            rule.comment for rule in rules]
        for words in lines:
            check = kind.ip6tables("", "-t", table, "-C", "pd-bare", *words)
            assert (words, check.returncode, check.stderr) == (words, 0, "")

    in_new_network(work)


@needs_root
@needs_iptc
@pytest.mark.parametrize("where", RULES)
def test_both_variants_show_the_same_for_the_same_commit(where: str) -> None:
    table, builtin = where.split()
    rules = tuple(Rule(f'rule {number}, "\\quoted"', tuple(line.split()))
                  for number, line in enumerate(RULES[where].strip().splitlines()))
    commit = Commit(table, {"pd-other": (), "pd": rules}, ((builtin, "pd"),))

    def shown(kind: Variant) -> list[object]:
        seam = kind.seam()
        seam.commit(commit)
        return [seam.read(table, ["pd", "pd-other", builtin]), kind.rules(table)]

    assert in_new_network(lambda: shown(NFT)) == in_new_network(lambda: shown(LEGACY))


# ---- others ----------------------------------------------------------------------------------

USER = {
    "nat": (":mine - [0:0]", "[7:700] -A POSTROUTING -o eth9 -j MASQUERADE",
            '[1:80] -A PREROUTING -p tcp -m tcp --dport 80 -m comment --comment "a \\"web\\" one" '
            "-j DNAT --to-destination [fd00::5]:8080", "[0:0] -A mine -s fd00::/8 -j RETURN",
            "[3:300] -A OUTPUT -j mine"),
    "mangle": (":mine - [0:0]", "[5:500] -A POSTROUTING -j mine",
               "[5:501] -A mine -m mark --mark 0x7 -j MARK --set-xmark 0x1/0xff",
               "[5:502] -A mine -p udp -m multiport --dports 1,2 -m limit --limit 5/min "
               "-j LOG --log-prefix \"pd-out -j 'x' \""),
}


def packets(count: int) -> None:
    """So that there are counters that were not set."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(b"x", ("::1", 9))


def of_the_user(kind: Variant, table: str) -> list[str]:
    ours = re.compile(r"(:|\S+ -A )pd-|.* -j pd-(in|out)$")
    return [line for line in kind.save(table) if not ours.match(line)]


@needs_root
@both
@pytest.mark.parametrize("table", USER)
def test_what_is_the_users_stays_byte_for_byte_with_its_counters(kind: Variant, table: str) -> None:
    hop = Rule("pd", ("-i", "wan0", "-j", "RETURN"))
    heads = (("POSTROUTING", "pd-out"), ("OUTPUT", "pd-in"))
    commits = (
        Commit(table, {"pd-out": (hop,), "pd-in": (hop, hop)}, heads),
        Commit(table, {"pd-out": ()}), Commit(table, {"pd-in": (hop,) * 50, "pd-out": (hop,)}),
        Commit(table, unjump=heads[:1]), Commit(table, jump=heads[:1]),
        Commit(table, unjump=heads, remove=("pd-out", "pd-in")))

    def work() -> None:
        kind.restore(table, *USER[table])
        packets(4)
        before = of_the_user(kind, table)
        assert any(line.startswith("[") and line.split()[0] != "[0:0]" for line in before)
        for commit in commits:
            kind.seam().commit(commit)
            assert of_the_user(kind, table) == before, commit
        assert kind.save(table) == before

    in_new_network(work)


@needs_root
@both
def test_comments_of_users_may_be_anything(kind: Variant) -> None:
    """Also what looks like a rule of ours."""
    comments = ("plain", "two words", 'a "quoted" one', "don't", "back\\slash", "-j", "--comment",
                "!", "line\n-A pd-out -j ACCEPT\n:pd-more - [0:0]", '"', '\n"\n', "\\", "ünïcode",
                "x" * 255, "\n" * 255)

    def work() -> None:
        seam = kind.seam()
        seam.commit(TWO)
        for comment in comments:
            ran = kind.ip6tables("", "-t", "nat", "-A", "POSTROUTING", "-m", "comment", "--comment",
                                 comment, "-j", "pd-out")
            assert ran.returncode == 0, ran.stderr
        seen = seam.read("nat", (*NAMES, "pd-more"))
        assert [rule.comment for rule in seen["POSTROUTING"]] == ["", *comments]
        assert {rule.target for rule in seen["POSTROUTING"]} == {"pd-out"}
        assert seen["pd-out"] == (Seen("pd out", "NETMAP", False),)
        assert "pd-more" not in seen

    in_new_network(work)


@needs_root
@both
def test_a_failing_commit_changes_nothing(kind: Variant) -> None:
    bad = (
        Commit("nat", {"pd-out": (NEW, BAD, NEW), "pd-in": ()}, (("OUTPUT", "pd-in"),)),
        Commit("nat", {"pd-out": (NEW,)}, unjump=(("POSTROUTING", "pd-out"), ("INPUT", "pd-in"))),
        Commit("nat", {"pd-out": ()}, remove=("pd-in",)),  # something jumps to it
        Commit("nat", {"pd-out": (NEW, Rule("", ("-j", "SNPT", "--src-pfx", "fd00::/64",
                                                  "--dst-pfx", "2001:db8::/64")))}),  # not in nat
        Commit("nat", {"pd-out": (Rule("", ("-j", "REJECT", "--reject-with", "nonsense")),)}),
        Commit("nat", {"pd-out": (NEW, Rule("", ("-m", "nosuch", "-j", "RETURN")))}),
        Commit("nat", {"pd-out": (NEW, Rule("", ("-m", "x" * 40, "-j", "RETURN")))}),
    )

    def work() -> None:
        seam = kind.seam()
        kind.restore("nat", *USER["nat"])
        seam.commit(TWO)
        before = kind.save()
        for commit in bad:
            with pytest.raises((KernelError, BackendMissing), match=r"^cannot .*ip6 nat") as info:
                seam.commit(commit)
            assert "\n" not in str(info.value)
            assert not info.value.retry
            assert kind.save() == before, commit
        seam.commit(Commit("nat", {"pd-out": (NEW,)}))  # and nothing is left of them

    in_new_network(work)


@needs_root
@both
def test_reading_a_table_that_is_not_there_does_not_make_it(kind: Variant) -> None:
    def work() -> None:
        seam = kind.seam()
        assert not any(seam.read("nat", NAMES).values())
        assert legacy_tables() == ()
        assert subprocess.run(["nft", "list", "ruleset"], capture_output=True).stdout == b""
        assert "nosuch" not in seam.read("raw", ["nosuch"])

    in_new_network(work)


@needs_root
@both
def test_a_commit_makes_the_table_that_it_names_and_no_other(kind: Variant) -> None:
    def work() -> None:
        kind.seam().commit(TWO)
        nft = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
        made = {NFT: ((), "table ip6 nat\n"), LEGACY: (("nat",), "")}
        assert (legacy_tables(), nft) == made[kind]

    in_new_network(work)


@needs_root
@both
def test_a_seam_sees_what_others_wrote_since_it_looked(kind: Variant) -> None:
    def work() -> None:
        seam = kind.seam()
        seam.commit(TWO)
        assert kind.ip6tables("", "-t", "nat", "-F", "pd-out").returncode == 0
        assert seam.read("nat", ["pd-out"]) == {"pd-out": ()}
        assert kind.ip6tables("", "-t", "nat", "-N", "mine").returncode == 0
        seam.commit(Commit("nat", {"pd-out": (NEW,)}))
        assert ":mine - [0:0]" in kind.save()

    in_new_network(work)


@needs_root
@both
def test_thousands_of_rules(kind: Variant) -> None:
    many = tuple(Rule(f"pd {number}", ("-s", f"fd5e:0:0:{number:x}::/64", "-j", "NETMAP", "--to",
                                       f"2001:db8:0:{number:x}::/64")) for number in range(2000))

    def work() -> None:
        seam = kind.seam()
        seam.commit(Commit("nat", {"pd-out": many}, TWO.jump[:1]))
        seen = seam.read("nat", ["pd-out"])["pd-out"]
        assert [rule.comment for rule in seen] == [rule.comment for rule in many]

    in_new_network(work)


def test_the_text_of_a_commit() -> None:
    commit = Commit("nat", {"a": (OUT, Rule("", ("-j", "b"))), "b": (Rule('"\\', ("-j", "DROP")),)},
                    (("OUTPUT", "a"),), (("INPUT", "c"),), ("c",))
    assert text(commit) == textwrap.dedent("""\
        *nat
        :a - [0:0]
        :b - [0:0]
        :c - [0:0]
        -D INPUT -j c
        -A a -s fd5e::/58 -o wan0 -m comment --comment "pd out" -j NETMAP --to 2001:db8::/58
        -A a -j b
        -A b -m comment --comment "\\"\\\\" -j DROP
        -I OUTPUT 1 -j a
        -X c
        COMMIT
        """)


# ---- errors of the nf_tables variant ---------------------------------------------------------

Programs = Callable[..., Ip6tables]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Stand-ins for ip6tables' programs, which are shell scripts: ``programs(save="exit 1")``."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(ip6tables, "ELSEWHERE", ())

    def write(**scripts: str) -> Ip6tables:
        for name in ("ip6tables", "ip6tables-save", "ip6tables-restore"):
            path = tmp_path / name
            path.write_text("#!/bin/sh\n" + scripts.get(name.rpartition("-")[2], "exit 0") + "\n")
            path.chmod(0o755)
        return Ip6tables()

    return write


HEAD = "ip6tables-restore v1.8.9 (nf_tables): "
NO_MODULE = "Warning: Extension NETMAP revision 0 not supported, missing kernel module?"
NOT_ROOT = "Could not fetch rule set generation id: Permission denied (you must be root)"
REFUSED = "line 3: RULE_APPEND failed (Invalid argument): rule in chain Q"
SAID = {
    HEAD + NOT_ROOT: (PermissionDenied, f"{NOT_ROOT}; this needs root or CAP_NET_ADMIN"),
    f"# Warning: ip6tables-legacy tables present\n{NO_MODULE}\n{HEAD}\nline 3: RULE_APPEND failed":
        (BackendMissing, f"{NO_MODULE}; ip6tables or the kernel lacks this extension"),
    f"{HEAD}\n{REFUSED}": (KernelError, REFUSED),
    "ip6tables-restore: line 2 failed: Bad rule.": (KernelError, "line 2 failed: Bad rule."),
    "Another app is currently holding the xtables lock.":
        (KernelBusy, "Another app is currently holding the xtables lock."),
    "": (KernelError, "ip6tables-restore ended with status 4"),
}


@pytest.mark.parametrize("said", SAID)
def test_what_ip6tables_says_becomes_an_error_of_one_line(
        said: str, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdreactor.kernel.retry.ATTEMPTS", 2)
    kind, expected = SAID[said]
    seam = programs(restore=f"/bin/cat >&2 <<'END'\n{said}\nEND\nexit 4")
    with pytest.raises(kind) as info:
        seam.commit(TWO)
    assert type(info.value) is kind
    assert str(info.value).startswith("cannot change table ip6 nat: ")
    assert str(info.value).endswith(expected)


def test_a_busy_kernel_is_asked_again(programs: Programs, tmp_path: Path) -> None:
    seam = programs(restore=f"""
        test -e {tmp_path}/again && exit 0
        >{tmp_path}/again; echo 'Resource temporarily unavailable' >&2; exit 4""")
    seam.commit(TWO)


def test_a_process_that_hangs_is_killed_and_explained(
        programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ip6tables, "SECONDS", 0.2)
    seam = programs(save="exec /bin/sleep 60")
    with pytest.raises(KernelBusy, match=r"read table ip6 nat: .*-save was killed after 0.2 s"):
        seam.read("nat", NAMES)


def test_what_a_dhcpv6_server_sent_is_not_passed_on(
        programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("new_dhcp6_name", "$(reboot)")
    seam = programs(save=f"/usr/bin/env >{tmp_path}/seen")
    seam.read("nat", NAMES)
    seen = (tmp_path / "seen").read_text()
    assert "reboot" not in seen
    assert "LC_ALL=C\n" in seen
    assert f"XTABLES_LOCKFILE={tmp_path}" in seen


def test_without_ip6tables_the_packages_are_named(programs: Programs, tmp_path: Path) -> None:
    for ask in (Ip6tables, variant):
        with pytest.raises(BackendMissing, match=r"no ip6tables in PATH.* install iptables on"):
            ask()
    programs()
    (tmp_path / "ip6tables-restore").unlink()
    with pytest.raises(BackendMissing, match=r"no ip6tables-restore .*beside .*install iptables"):
        Ip6tables()


def test_a_program_that_cannot_be_started(programs: Programs, tmp_path: Path) -> None:
    seam = programs()
    (tmp_path / "ip6tables-save").write_text("#!/nosuch\n")
    with pytest.raises(BackendMissing, match="ip6tables-save cannot be started: No such file"):
        seam.read("nat", NAMES)


@needs_root
def test_a_table_with_rules_that_only_nft_can_show() -> None:
    def work() -> None:
        Ip6tables().commit(TWO)
        for command in ("add map ip6 nat m { type ipv6_addr : ipv6_addr; }",
                        "add rule ip6 nat pd-out snat to ip6 saddr map @m"):
            subprocess.run(["nft", command], check=True)
        with pytest.raises(KernelError, match="cannot read table ip6 nat: it has rules of nft"):
            Ip6tables().read("nat", NAMES)

    in_new_network(work)


@pytest.mark.parametrize(("name", "expected"), [
    ("xtables-nft-multi", "nf_tables"), ("ip6tables-nft", "nf_tables"),
    ("xtables-legacy-multi", "legacy"), ("ip6tables-legacy", "legacy")])
def test_the_variant_by_name(
        name: str, expected: str, programs: Programs, tmp_path: Path) -> None:
    (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / name).chmod(0o755)
    (tmp_path / "ip6tables").symlink_to(name)
    assert variant() == expected


@pytest.mark.parametrize(("said", "expected"), [
    ("ip6tables v1.8.9 (nf_tables)", "nf_tables"), ("ip6tables v1.8.9 (legacy)", "legacy"),
    ("ip6tables v1.6.1", "legacy")])
def test_the_variant_by_what_ip6tables_says(said: str, expected: str, programs: Programs) -> None:
    programs(ip6tables=f"echo '{said}'")
    assert variant() == expected


def test_without_the_kernel_module_there_are_no_legacy_tables(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ip6tables, "NAMES", str(tmp_path / "ip6_tables_names"))
    assert legacy_tables() == ()


def test_the_programs_of_the_nf_tables_variant_come_first(
        programs: Programs, tmp_path: Path) -> None:
    """``ip6tables`` may be the legacy one by the administrator's choice."""
    programs(save="exit 1")
    (tmp_path / "ip6tables-nft-save").write_text("#!/bin/sh\necho ':pd-out - [0:0]'\n")
    (tmp_path / "ip6tables-nft-save").chmod(0o755)
    assert Ip6tables().read("nat", NAMES) == {"pd-out": ()}


# ---- errors of the legacy variant ------------------------------------------------------------


@needs_root
@needs_iptc
def test_a_lock_that_another_program_holds_is_explained(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libiptc, "LOCK_SECONDS", 0.1)

    def work() -> None:
        with open(tmp_path / "xtables.lock", "w") as lock:
            flock(lock, LOCK_EX)
            with pytest.raises(KernelBusy, match=rf"another program holds .* {tmp_path}"):
                Libiptc().commit(TWO)
            assert Libiptc().read("nat", NAMES) == {}
        Libiptc().commit(TWO)
        Libiptc().commit(TWO)  # it was released

    in_new_network(work)


@needs_root
@needs_iptc
def test_ip6tables_legacy_waits_while_we_change_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def change(self: Libiptc, *_: object) -> None:
        asked.append(LEGACY.ip6tables("", "-w", "1", "-t", "nat", "-L").returncode)

    monkeypatch.setattr(Libiptc, "_change", change)
    in_new_network(lambda: Libiptc().commit(TWO))
    assert asked == [4]  # RESOURCE_PROBLEM


@needs_root
@needs_iptc
def test_a_lock_that_cannot_be_opened_is_explained(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "nosuch" / "lock"))
    with pytest.raises(KernelError, match="/lock: No such file or directory; this needs root"):
        in_new_network(lambda: Libiptc().commit(TWO))


@needs_root
@needs_iptc
def test_a_table_that_changed_meanwhile_is_changed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seam = Libiptc()
    import iptc
    commit, tries = iptc.Table6.commit, []

    def sometimes(table: iptc.Table6) -> None:
        tries.append(table)
        if len(tries) == 1:
            raise iptc.IPTCError("can't commit: b'Resource temporarily unavailable'")
        commit(table)

    monkeypatch.setattr(iptc.Table6, "commit", sometimes)

    def work() -> None:
        seam.commit(TWO)
        assert LEGACY.rules().count("-A POSTROUTING -j pd-out") == 1

    in_new_network(work)
    assert len(tries) == 2


@needs_root
@needs_iptc
def test_an_extension_that_the_kernel_lacks_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    seam = Libiptc()
    import iptc

    def never(_: iptc.Table6) -> None:
        raise iptc.IPTCError("can't commit: b'No chain/target/match by that name'")

    monkeypatch.setattr(iptc.Table6, "commit", never)
    with pytest.raises(BackendMissing, match="ip6 nat: can't commit: No chain/target/match by that "
                                             "name; ip6tables or the kernel lacks"):
        in_new_network(lambda: seam.commit(TWO))


@needs_root
@needs_iptc
def test_a_kernel_without_legacy_ip6tables_is_explained(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(libiptc, "NAMES", str(tmp_path / "ip6_tables_names"))
    monkeypatch.setattr(libiptc, "run", ran.append)
    with pytest.raises(BackendMissing, match="the kernel has no legacy ip6tables: load its module"):
        in_new_network(lambda: Libiptc().commit(TWO))
    assert ran == [["/sbin/modprobe", "ip6_tables"]]


def alone(program: str, *before: str) -> subprocess.CompletedProcess:
    """A program in an interpreter of its own, in a new network; ``before`` starts it."""
    head = "import sys\nsys.path.append(sys.argv[1])\nfrom pdreactor.kernel.libiptc import *\n"
    argv = [*before, sys.executable, "-c", head + textwrap.dedent(program), str(ROOT)]
    return in_new_network(lambda: subprocess.run(
        argv, capture_output=True, text=True, timeout=60, check=False, cwd="/"))


@needs_root
@needs_iptc
def test_errors_in_libxtables_do_not_end_the_process() -> None:
    """It reports them by calling a function that must not return, and has no way back to us but
    longjmp(3)."""
    ran = alone("""
        bad = ("-j NETMAP --to 1::/200", "-m conntrack --ctstate X -j DROP", "-m mark", "-j", "x",
               "-p tcp -m tcp --dport x -j DROP", "-m mark --nosuch -j DROP", "-j NETMAP --to", "")
        seam = Libiptc()
        for words in [tuple(line.split()) for line in bad] * 300:
            try:
                seam.commit(Commit("nat", {"a": (Rule("", words),)}))
            except KernelError as exc:
                assert str(exc).startswith("cannot make the rule " + " ".join(words)), exc
            else:
                raise AssertionError(words)
        seam.commit(Commit("nat", {"a": (Rule("", ("-j", "NETMAP", "--to", "1::/64")),)}))
        print(seam.read("nat", ["a"]))
    """)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "{'a': (Seen(comment='', target='NETMAP', plain=False),)}\n"


@needs_root
@needs_iptc
def test_no_process_is_started() -> None:
    """Upstream's import runs ldconfig, gcc, ld and modprobe."""
    ran = alone("""
        def note(event, arguments):
            if event in ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec", "os.system"):
                print(event, arguments)
        sys.addaudithook(note)
        seam = Libiptc()
        seam.commit(Commit("nat", {"a": (Rule("", ("-j", "NETMAP", "--to", "1::/64")),)}))
        print(len(seam.read("nat", ["a"])["a"]), "subprocess" in sys.modules)
    """)
    assert (ran.returncode, ran.stderr, ran.stdout) == (0, "", "1 False\n")


@needs_root
@needs_iptc
def test_memory_that_may_not_become_executable_is_no_obstacle() -> None:
    """dhcpcd's unit has MemoryDenyWriteExecute=."""
    ran = alone("""
        PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
        if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
            print("Linux before 6.3")
        else:
            Libiptc().commit(Commit("nat", {"a": (Rule("", ("-j", "NETMAP", "--to", "1::/64")),)}))
            print(Libiptc().read("nat", ["a"])["a"][0].target)
    """)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout in ("NETMAP\n", "Linux before 6.3\n")


@needs_root
@needs_iptc
@pytest.mark.parametrize("call", ["read('nat', ['a'])", "commit(Commit('nat', {'a': ()}))"])
def test_without_privileges_it_is_refused_and_explained(call: str) -> None:
    ran = alone(f"""
        seam = Libiptc()
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            seam.{call}
        except PermissionDenied as exc:
            print(exc)
    """)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("cannot ")
    assert "this needs root" in ran.stdout


@needs_root
@needs_iptc
def test_a_missing_capability_does_not_end_the_process() -> None:
    """libxtables writes to stderr, or calls exit(3), when it may not open a raw socket."""
    ran = alone("""
        try:
            Libiptc().commit(Commit("nat", {"a": (Rule("", ("-m", "mark", "--mark", "1")),)}))
        except PermissionDenied as exc:
            print(exc)
    """, "setpriv", "--inh-caps=-net_raw", "--bounding-set=-net_raw")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == ("cannot change table ip6 nat: Operation not permitted; this needs root, "
                          "or CAP_NET_ADMIN and CAP_NET_RAW\n")


def test_without_python_iptables_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "iptc", None)
    with pytest.raises(BackendMissing, match=r"python-iptables cannot be used .* install "
                       r"python3-iptables on Debian and Ubuntu; elsewhere pip install"):
        Libiptc()


@needs_root
@needs_iptc
def test_without_its_libraries_it_is_explained_and_can_be_tried_again() -> None:
    ran = alone("""
        import ctypes
        CDLL = ctypes.CDLL
        def absent(name, *rest):
            if name and "ip6tc" in name:
                raise OSError(f"{name}: cannot open shared object file")
            return CDLL(name, *rest)
        for ctypes.CDLL in (absent, CDLL):
            try:
                Libiptc()
            except BackendMissing as exc:
                print(exc)
    """)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("python-iptables cannot be used (libip6tc.so.2: cannot")
    assert len(ran.stdout.splitlines()) == 1
