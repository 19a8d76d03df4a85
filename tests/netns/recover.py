"""Verbs of pdreactor in one process, and between them what the router has. Run by path:

    recover.py '[[WORD, ...], ...]'

Each list is a verb, or ["@hook", FILE] (dhcpcd's hook with that environment), ["@look", DEAD], or
["@copy", FILE, TO]. Prints a line of JSON for each look: exit codes since the last one, table,
rules, chains of ip6tables, routes, conntrack entries with DEAD in them, the state file.
"""

import json
import subprocess
import sys
from pathlib import Path

from pdreactor import cli, hook

STATE = Path("/var/lib/pdreactor/state.json")
codes: list[int] = []


def said(*argv: str) -> str:
    """What a program prints; nothing when it fails."""
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False).stdout


def look(dead: str) -> None:
    """Print what there is."""
    flows = [line for line in said("conntrack", "-L", "-f", "ipv6").splitlines() if dead in line]
    print(json.dumps([codes, said("nft", "-s", "list", "table", "ip6", "pdreactor"),
                      said("ip", "-6", "rule"), said("ip6tables-nft-save"),
                      said("ip", "-6", "route", "show", "table", "all", "proto", "157"), flows[:3],
                      STATE.read_text() if STATE.exists() else "null"]))
    codes.clear()


for words in json.loads(sys.argv[1]):
    if words[0] == "@look":
        look(words[1])
    elif words[0] == "@copy":
        Path(words[2]).write_text(Path(words[1]).read_text())
    else:
        codes.append(hook.hook(words[1]) if words[0] == "@hook" else cli.main(["-q", *words]))
