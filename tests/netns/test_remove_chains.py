"""contrib/from-shell-script/remove-chains, with both variants of ip6tables."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "contrib/from-shell-script/remove-chains"
TOOLS = [t for t in ("ip6tables-nft", "ip6tables-legacy") if shutil.which(t)]

LEFT = """\
{tool} -t nat -N external_dnat
{tool} -t nat -N external_snat
{tool} -t nat -N external_snat_too
{tool} -t nat -A PREROUTING -j external_dnat
{tool} -t nat -A OUTPUT -m comment --comment 'a "quoted" -j external_snat' -j external_dnat
{tool} -t nat -A POSTROUTING -j external_snat
{tool} -t nat -A POSTROUTING -m comment --comment '-j external_snat' -j ACCEPT
{tool} -t nat -A POSTROUTING -j external_snat_too
{tool} -t nat -A external_dnat -i eth0 -d 2001:db8::/58 -j NETMAP --to fd00::/58
{tool} -t nat -A external_snat -o eth0 -s fd00::/58 -j NETMAP --to 2001:db8::/58
"""
"""What the shell script and a user's firewall leave behind, and two traps."""

KEPT = [
    "-A POSTROUTING -m comment --comment \"-j external_snat\" -j ACCEPT",
    "-A POSTROUTING -j external_snat_too",
]


def in_namespace(script: str) -> str:
    """What a shell script prints to stdout in a network namespace of its own; it must succeed."""
    command = ["unshare", "--net", "sh", "-eu", "-c", script, "sh", str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("tool", TOOLS)
def test_the_chains_and_their_jumps_go_and_nothing_else(tool: str) -> None:
    left = in_namespace(LEFT.format(tool=tool) + f'"$1" >/dev/null\n{tool}-save -t nat')
    assert [line for line in left.splitlines() if line.startswith("-A")] == KEPT
    assert not [line for line in left.splitlines() if line.startswith((":external_dnat",
                                                                       ":external_snat "))]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_dry_run_prints_the_same_and_changes_nothing(tool: str) -> None:
    parts = in_namespace(LEFT.format(tool=tool) + f"""
        {tool}-save -t nat | grep -v '^#'; echo =; "$1" --dry-run
        echo =; {tool}-save -t nat | grep -v '^#'; echo =; "$1"
        echo =; "$1" """).split("=\n")
    before, dry, after, done, again = parts
    assert before == after
    assert dry == done + "remove-chains: dry run: nothing was changed\n"
    assert done.count(f": {tool} -t nat -") == 7
    assert not [line for line in again.splitlines() if "nothing to remove" not in line]


def test_nothing_is_made_where_there_was_nothing() -> None:
    assert in_namespace('"$1" >/dev/null; nft list ruleset; cat /proc/net/ip6_tables_names') == ""


def test_what_it_does_not_understand_it_does_not_do() -> None:
    for arguments in (["--force"], ["--dry-run", "x"], [""]):
        done = subprocess.run(["sh", str(SCRIPT), *arguments], capture_output=True, timeout=10)
        assert done.returncode == 64
