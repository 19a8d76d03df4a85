"""The import table: who may import whom, one home for each foreign package, the hook's budget."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .box import ROOT, block, network
from .namespace import needs_root

PACKAGE = ROOT / "pdreactor"
VALUES = {"errors", "model", "reasons"}
KERNEL = {f"kernel.{p.stem}" for p in (PACKAGE / "kernel").glob("*.py") if p.stem != "__init__"}

ALLOWED: dict[str, set[str]] = {
    # pure rooms
    "errors": set(),
    "reasons": set(),
    "model": set(),
    "marks": {"model"},
    "prefix": {"errors", "model"},
    "events": {"errors", "model", "prefix", "reasons"},
    "transition": {"errors", "marks", "model"},
    "keys": {"errors", "model", "prefix", "marks"},
    "reading": {"errors", "keys", "prefix"},
    "config": {"errors", "keys", "layout.config", "marks", "model", "prefix", "reading"},
    "ways": set(),
    "usable": {"model"},
    "clock": {"model"},
    "desired": {"model", "prefix", "usable"},
    "steering": {"marks", "model", "prefix", "usable", "ways"},
    "npt": {"errors", "prefix"},
    "translate": {"errors", "model", "npt", "prefix"},
    "handover": {"errors", "model", "prefix"},
    "lineage": {"errors", "handover", "model", "prefix", "transition"},
    "nat.table": {"marks", "model", "prefix"},
    "nat.words": set(),
    "nat.stay": {"marks", "model", "nat.table"},
    "nat.gate": {"model", "nat.table"},
    "nat.netmap": {"model", "nat.table", "prefix"},
    "nat.stateless": {"marks", "model", "nat.table", "prefix"},
    # the layout: what there is beside the translation
    "layout": set(),
    "layout.model": {"model", "ways"},
    "layout.keys": {"errors", "keys", "layout.model", "prefix"},
    "layout.config": {"layout.keys", "layout.model", "model", "prefix", "reading"},
    "layout.slices": {"layout.model", "model"},
    "layout.draft": {"layout", "layout.model", "layout.slices", "layout.tunnels", "model",
                     "prefix", "usable", "ways"},
    "layout.sources": {"errors", "events", "layout.model", "layout.tunnels", "model", "prefix",
                       "transition"},
    "layout.tunnels": {"layout.model", "model", "ways"},
    "layout.traces": {"layout.model"},
    "layout.shown": {"layout.model"},
    "layout.ndp": set(),
    "layout.ndppd": {"errors", "kernel.process", "state"},
    "layout.responder": {"errors", "kernel.fib", "kernel.packet", "layout.model", "layout.ndp",
                         "npt"},
    "layout.laying": {"errors", "kernel.rtlink", "kernel.rtnl", "kernel.sysctl", "layout.model",
                      "model"},
    "layout.steps": {"errors", "kernel.rtlink", "kernel.rtnl", "layout", "layout.draft",
                     "layout.laying", "layout.model", "layout.ndppd", "layout.shown",
                     "layout.sources", "model"},
    # files and lines
    "state": {"clock", "errors", "keys", "layout", "layout.model", "layout.traces", "model"},
    "include": {"errors", "state"},
    "document": {"config", "errors", "kernel.rttables", "model", "state"},
    "log": set(),
    "legacy": {"errors", "model", "prefix", "transition"},
    # a room for each kind of thing in the kernel: observe, diff, apply
    "nat": {"errors", "kernel.ip6tables", "kernel.libiptc", "kernel.nft", "model", "nat.iptables",
            "nat.nftables"},
    "nat.nftables": {"errors", "kernel.nft", "model", "nat.gate", "nat.netmap", "nat.stateless",
                     "nat.stay", "nat.table", "nat.words"},
    "nat.chains": {"kernel.xtables", "marks", "model", "prefix"},
    "nat.iptables": {"errors", "kernel.xtables", "model", "nat.chains", "nat.words"},
    "routing": {"errors", "kernel.link", "kernel.rtnl", "model", "ways"},
    "conntrack": {"kernel.ct", "kernel.rtnl", "log", "marks", "model"},
    "report": {"model", "ways"},
    "metrics": set(),
    "counters": set(),
    # doctor: the machine becomes Facts, and judges say what is wrong with them
    "doctor.facts": {"model", "ways"},
    "doctor.conf": {"doctor.facts"},
    "doctor.packet": {"doctor.facts"},
    "doctor.nftables": {"doctor.facts"},
    "doctor.iptables": {"doctor.facts"},
    "doctor.machine": {"doctor.conf", "doctor.facts", "model", "ways"},
    "doctor.internal": {"doctor.facts"},
    "doctor.firewall": {"doctor.facts", "doctor.machine", "doctor.packet", "model"},
    "doctor.routing": {"doctor.conf", "doctor.facts", "doctor.machine", "model"},
    "doctor.dhcpcd": {"doctor.conf", "doctor.facts", "errors", "keys", "model", "prefix"},
    "doctor.gather": {"doctor.conf", "doctor.facts", "doctor.iptables", "doctor.nftables",
                      "errors", "kernel.ip6tables", "kernel.link", "kernel.probe", "kernel.rtnl",
                      "model", "state"},
    "doctor": {"doctor.dhcpcd", "doctor.facts", "doctor.firewall", "doctor.gather",
               "doctor.internal", "doctor.machine", "doctor.routing", "model"},
    # the only orchestrator, and what calls it
    "on_change": {"kernel.process", "log", "model", "prefix"},
    "reconciler": {"conntrack", "counters", "desired", "document", "errors", "include",
                   "kernel.link", "kernel.rtnl", "layout.steps", "legacy", "log", "model", "nat",
                   "on_change", "routing", "state", "steering", "transition", "ways"},
    "entries": {"document", "errors", "events", "kernel.link", "layout.sources", "log", "model",
                "reasons", "reconciler", "state", "transition"},
    "looking": {"counters", "desired", "errors", "kernel.rtnl", "layout.draft", "layout.steps",
                "model", "nat", "reconciler", "report", "routing", "state", "transition"},
    "flushing": {"conntrack", "errors", "include", "kernel.rtnl", "layout.steps", "model", "nat",
                 "reconciler", "routing", "state"},
    "standby": {"handover", "kernel.link", "lineage", "log", "model", "reconciler", "state"},
    "hook": {"entries", "errors", "log", "reasons"},
    "watch": {"counters", "entries", "errors", "events", "kernel.dhcpcd", "kernel.notices",
              "kernel.systemd", "layout.responder", "log", "looking", "model", "nat", "on_change",
              "reasons", "reconciler", "state"},
    "cli": {"", "doctor", "entries", "errors", "flushing", "handover", "hook", "log", "looking",
            "metrics", "model", "nat", "prefix", "reconciler", "report", "standby", "state",
            "translate", "watch"},
    "": set(),
    "kernel": set(),
    **{name: {"errors", "kernel.batch", "kernel.ip6tables", "kernel.netlink", "kernel.retry",
              "kernel.rtnl", "kernel.xtables", "layout.model", "model", "ways"} for name in KERNEL},
    "kernel.probe": {"errors", "kernel.ip6tables", "kernel.nft"},
}
"""room -> the rooms that it may import, also inside a function. "" is pdreactor itself."""

PURE = {"errors", "reasons", "model", "ways", "marks", "prefix", "events", "transition", "keys",
        "config", "usable", "desired", "steering", "npt", "translate", "clock", "handover",
        "lineage",
        "nat.table", "nat.gate", "nat.netmap", "nat.stateless", "nat.chains", "nat.words",
        "nat.stay", "kernel.xtables", "metrics", "reading", "layout", "layout.model",
        "layout.keys", "layout.config", "layout.slices", "layout.draft", "layout.sources",
        "layout.traces", "layout.tunnels", "layout.shown", "layout.ndp",
        "doctor.facts", "doctor.conf", "doctor.packet", "doctor.nftables", "doctor.iptables",
        "doctor.machine", "doctor.internal", "doctor.firewall", "doctor.routing",
        "doctor.dhcpcd"}
IMPURE = {"os", "socket", "fcntl", "subprocess", "time", "select", "signal", "threading",
          "logging", "ctypes", "urllib", "shutil", "pathlib", "syslog", "random"}

HOMES = {"nftables": "kernel.", "iptc": "kernel.", "pyroute2": "kernel.", "subprocess": "kernel.",
         "tenacity": "kernel.", "structlog": "log", "syslog": "log"}
"""package -> the only rooms that import it, by the beginning of their name."""


def rooms() -> dict[str, Path]:
    return {room_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(room: str, path: Path) -> Iterator[str]:
    """Absolute names of all imports of a room, wherever they stand."""
    package = room if path.stem == "__init__" else room.rpartition(".")[0]
    base = ["pdreactor", *(package.split(".") if package else [])]
    for node in _walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = base[: len(base) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                known = inner.partition(".")[2] in rooms() and inner.startswith("pdreactor.")
                yield inner if known else module


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """What is executed: names for the type checker only are no imports."""
    if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
        return
    yield node
    for inner in ast.iter_child_nodes(node):
        yield from _walk(inner)


def inside(room: str, path: Path) -> set[str]:
    names = {name for name in imports(room, path) if name.split(".")[0] == "pdreactor"}
    return {name.partition(".")[2] for name in names}


def outside(room: str, path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(room, path)} - {"pdreactor"}


def test_every_room_is_in_the_table() -> None:
    assert set(rooms()) <= set(ALLOWED)


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    assert inside(room, rooms()[room]) <= ALLOWED[room]


def test_the_table_allows_no_circle() -> None:
    done: set[str] = set()
    table = {room: set(needs) - {room} for room, needs in ALLOWED.items()}
    low = ("retry", "netlink", "rtnl", "batch", "xtables")
    for number, name in enumerate(f"kernel.{name}" for name in low):
        table[name] = {"errors", "model", *(f"kernel.{other}" for other in low[:number])}
    table["kernel.ip6tables"] = {"errors", "kernel.retry", "kernel.xtables", "model"}
    while rest := {room for room in table if room not in done}:
        free = {room for room in rest if table[room] <= done}
        assert free, f"circle among {sorted(rest)}"
        done |= free


@pytest.mark.parametrize("room", sorted(PURE & set(rooms())))
def test_a_pure_room_imports_pure_rooms_and_nothing_that_acts(room: str) -> None:
    assert inside(room, rooms()[room]) <= PURE
    assert not outside(room, rooms()[room]) & IMPURE
    assert outside(room, rooms()[room]) <= sys.stdlib_module_names


@pytest.mark.parametrize("package", HOMES)
def test_a_foreign_package_has_one_home(package: str) -> None:
    users = {room for room, path in rooms().items() if package in outside(room, path)}
    assert users
    assert all(room.startswith(HOMES[package]) for room in users), users


def test_no_other_foreign_package_at_all() -> None:
    foreign = {name for room, path in rooms().items() for name in outside(room, path)}
    assert foreign - sys.stdlib_module_names == {
        "nftables", "pyroute2", "tenacity", "structlog", "iptc"}


def test_nobody_imports_everything() -> None:
    assert not [path for path in rooms().values() if "import *" in path.read_text()]


# ---- the hook's budget -----------------------------------------------------------------------

LOADED = """
import sys
sys.path.append(sys.argv[2])
before = set(sys.modules)
from pdreactor.hook import hook
code = hook(sys.argv[1])
print([code, sorted(set(sys.modules) - before)])
"""


@pytest.mark.parametrize("reason", ["TEST", "ROUTERADVERT", "RECONFIGURE", "BOUND", "PREINIT"])
def test_an_event_that_does_not_matter_loads_next_to_nothing(reason: str, tmp_path: Path) -> None:
    """A router advertisement does not where no uplink has a table."""
    (tmp_path / "p.toml").write_text("[iptables]\n")
    (tmp_path / "environ").write_bytes(block(reason, f"PDREACTOR_CONFIG={tmp_path}/p.toml"))
    argv = [sys.executable, "-I", "-S", "-c", LOADED, str(tmp_path / "environ"), str(ROOT)]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    assert ast.literal_eval(run.stdout) == [
        0, ["pdreactor", "pdreactor.hook", "pdreactor.reasons"]]


UP_TO_THE_RULES = """
import sys
from pdreactor import reconciler
from pdreactor.hook import hook

def stop(*_):
    print(sorted(sys.modules))
    sys.stdout.flush()
    import os
    os._exit(0)

reconciler._begin_layout = stop
hook(sys.argv[1])
"""

NOT_BEFORE_THE_RULES = {
    "pyroute2", "structlog", "tenacity", "dataclasses", "inspect", "subprocess", "argparse", "iptc",
    "asyncio", "difflib", "logging", "pathlib", "tempfile", "threading", "random", "hashlib",
    "urllib", "traceback", "shutil", "importlib.metadata",
    "pdreactor.clock", "pdreactor.counters", "pdreactor.ways", "pdreactor.looking",
    "pdreactor.conntrack",
    "pdreactor.include", "pdreactor.on_change", "pdreactor.routing",
    "pdreactor.report", "pdreactor.cli", "pdreactor.kernel.ct", "pdreactor.kernel.rtnl",
    "pdreactor.kernel.process",
    "pdreactor.kernel.ip6tables", "pdreactor.kernel.libiptc", "pdreactor.nat.iptables",
    "pdreactor.doctor", "pdreactor.kernel.probe", "pdreactor.layout.steps",
}


@needs_root
@pytest.mark.parametrize("layout", ["", """
[[assign]]
uplink = "wan"
interface = "lan0"
subnet = 1
prefix_length = 128

[sysctl]
"""], ids=["", "layout"])
def test_on_the_way_to_the_rules_nothing_heavy_is_loaded(tmp_path: Path, layout: str) -> None:
    """Addresses of a layout come after them."""
    with network(tmp_path, "wan0") as box:
        box.configure(box.config.read_text().partition("\n")[2] + layout)
        environ = block("BOUND6", f"PDREACTOR_CONFIG={box.config}", prefix="2001:db8:4000::/58")
        box.environ.write_bytes(environ)
        bare = box.run(sys.executable, "-c", "import sys; print(sorted(sys.modules))")
        run = box.run(sys.executable, "-c", UP_TO_THE_RULES, str(box.environ))
        assert run.stderr == ""
        loaded = set(ast.literal_eval(run.stdout)) - set(ast.literal_eval(bare.stdout))
        assert {"pdreactor.nat.nftables", "nftables", "tomllib"} <= loaded
        values = {"pdreactor.ways"} if layout else set()
        assert sorted(loaded & NOT_BEFORE_THE_RULES - values) == []
        assert json.loads((box.state / "state.json").read_text())["uplinks"]["wan"]["prefixes"]
