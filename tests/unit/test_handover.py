"""What a node tells another: which document is newer, whose word counts, and hostile ones."""

import json
import os
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdreactor import handover, lineage, state, transition
from pdreactor.errors import Refused
from pdreactor.model import SIXTOFOUR, Config, Down, Event, State

from .values import (
    CONFIG,
    LAN,
    NOW,
    P1,
    P2,
    P3,
    TWO,
    WAN,
    WAN2,
    N,
    after,
    config,
    current,
    gone,
    prefixes,
    reply,
    superseded,
    told,
)


@dataclass
class Node:
    """A node, its state, and its clock's error."""

    name: str
    config: Config = CONFIG
    clock: int = 0
    state: State = transition.EMPTY
    time: int = NOW
    notes: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: os.urandom(8).hex())

    @property
    def now(self) -> int:
        return self.time + self.clock

    def learns(self, *networks: IPv6Network, later: int = 1, **rest) -> None:
        self.hears(reply(*told(*networks, **rest)), later)

    def hears(self, event: Event, later: int = 1) -> None:
        self.time += later
        self.state = after(event, state=self.state, now=self.now, config=self.config)

    def export(self) -> bytes:
        self.state = lineage.identified(self.state, self.id)
        return json.dumps(handover.document(self.state, self.config, self.name, self.now)).encode()

    def take(self, raw: bytes, force: bool = False,
             near: dict[str, list[IPv6Network]] | None = None) -> bool:
        """True when that changed anything."""
        before = lineage.identified(self.state, self.id)
        known = handover.parse(raw, self.now)
        self.state, self.notes = lineage.taken(
            before, known, self.config, self.now, near or {}, force)
        return self.state != before


@pytest.fixture
def a() -> Node:
    return Node("a")


@pytest.fixture
def b() -> Node:
    return Node("b")


def refusal(node: Node, raw: bytes, **rest) -> str:
    """One line of why; nothing has changed."""
    before = node.state
    with pytest.raises(Refused) as refused:
        node.take(raw, **rest)
    assert node.state == before
    assert str(refused.value).isprintable()
    return str(refused.value)


# ---- a pair on good days -----------------------------------------------------------------------


def test_a_standby_knows_what_the_master_learned(a: Node, b: Node) -> None:
    a.learns(P1)
    a.learns(P2)
    b.time = a.time
    assert b.take(a.export())
    assert b.notes == ()
    assert (current(b.state), superseded(b.state)) == ({str(P2)}, {str(P1)})
    theirs = tuple(p._replace(reason="import") for p in prefixes(a.state))
    assert prefixes(b.state) == theirs
    assert [h.reason for h in b.state.history] == ["import"] * len(b.state.history)


def test_the_same_again_changes_nothing(a: Node, b: Node) -> None:
    a.learns(P1)
    assert b.take(a.export())
    b.time += 30
    assert not b.take(a.export())


def test_a_document_that_lies_about_does_not_prolong_lifetimes(a: Node, b: Node) -> None:
    a.learns(P1, valid=60)
    raw = a.export()
    b.take(raw)
    b.time += 50
    b.take(raw)
    assert prefixes(b.state)[0].valid_until == a.now + 60 - 1


@pytest.mark.parametrize("error", [-100_000, -1, 0, 1, 100_000])
def test_clocks_may_differ(a: Node, error: int) -> None:
    b = Node("b", clock=error, time=NOW + 11)
    a.learns(P1, valid=60, preferred=40)
    a.time += 10
    b.take(a.export())
    (prefix,) = prefixes(b.state)
    assert (prefix.preferred_until, prefix.valid_until) == (b.now + 30, b.now + 50)
    assert (prefix.learned_at, prefix.updated_at) == (b.now - 10, b.now - 10)
    assert bool(b.notes) == (abs(error) > 60)


def test_infinite_and_expired_lifetimes_travel(a: Node, b: Node) -> None:
    a.learns(P1, valid=None, preferred=None)
    b.take(a.export())
    assert prefixes(b.state)[0].valid_until is None
    a.learns(P1, valid=5, preferred=5)
    a.time += 100
    b.time = a.time
    b.take(a.export())
    assert prefixes(b.state)[0].expired(b.now)


def test_a_renewal_is_news_and_an_older_document_is_refused(a: Node, b: Node) -> None:
    a.learns(P1)
    old = a.export()
    a.learns(P1, later=30)
    assert b.take(a.export())
    assert "is older than what this node knows" in refusal(b, old)
    b.time = NOW + 500
    assert b.take(old, force=True)
    assert "499 s old" in b.notes[0]


def test_a_prefix_that_is_gone_is_gone_on_both(a: Node, b: Node) -> None:
    a.learns(P1)
    b.take(a.export())
    a.hears(reply(*gone(P1)))
    b.take(a.export())
    assert current(b.state) == set()
    assert [stamp.inbound for stamp in b.state.doomed] == [False, True]


def test_fail_over_and_back(a: Node, b: Node) -> None:
    a.learns(P1)
    b.take(a.export())
    b.learns(P1, later=10)
    b.learns(P2, later=10)
    a.time = b.time
    assert "is older" in refusal(b, a.export())
    assert a.take(b.export())
    assert (a.notes, current(a.state)) == ((), {str(P2)})
    assert not b.take(a.export())
    a.learns(P3)
    b.time = a.time
    assert b.take(a.export())
    assert (b.notes, current(b.state)) == ((), {str(P3)})


def test_marks_mean_the_same_on_both(a: Node, b: Node) -> None:
    b.learns(P3)
    for network in (P1, P2, P1, P2):
        a.learns(network)
    b.take(a.export(), force=True)
    numbers = {p.network: p.generation for p in prefixes(a.state)}
    assert {p.network: p.generation for p in prefixes(b.state)} == numbers
    assert b.state.uplinks["wan"].number == a.state.uplinks["wan"].number


def test_an_uplink_in_the_way_gets_another_number() -> None:
    a, b = Node("a"), Node("b", config=TWO)
    a.learns(P1)
    b.state = after(reply(*told(P2)), uplink=WAN2, config=TWO)
    b.take(a.export(), force=True)
    numbers = {name: uplink.number for name, uplink in b.state.uplinks.items()}
    assert numbers == {"wan2": 2, "wan": 1}


def test_the_state_file_keeps_it(a: Node, b: Node) -> None:
    a.learns(P1)
    b.take(a.export())
    assert state.decode(state.encode(b.state)) == b.state


# ---- whose word counts -------------------------------------------------------------------------


def test_split_brain_is_said_and_nothing_changes(a: Node, b: Node) -> None:
    a.learns(P1)
    b.take(a.export())
    a.learns(P2)
    b.learns(P3)
    for here, there, network in ((a, b, P2), (b, a, P3)):
        text = refusal(here, there.export())
        assert text.startswith(f"split brain: this node learned {network} on uplink wan itself")
        assert f"'{there.name}'" in text and "--force" in text


def test_force_takes_the_others_word_and_peace_is_made(a: Node, b: Node) -> None:
    a.learns(P1)
    b.learns(P2)
    assert b.take(a.export(), force=True)
    assert current(b.state) == {str(P1)}
    a.learns(P1)
    assert b.take(a.export())
    assert b.notes == ()


def test_the_same_prefix_learned_twice_is_taken_and_said_once(a: Node, b: Node) -> None:
    """DUID and IAID are the same, so the server delegates the same prefix to both."""
    a.learns(P1)
    b.take(a.export())
    a.learns(P1)
    b.learns(P1, later=2)
    assert a.take(b.export())
    assert len(a.notes) == 1 and "split brain (both master)" in a.notes[0]
    b.learns(P1, later=3)
    assert a.take(b.export())
    assert a.notes == ()


def test_a_dead_lease_is_no_reason_to_refuse(a: Node, b: Node) -> None:
    a.learns(P1, valid=10, preferred=10)
    b.learns(P2, later=100)
    a.time = b.time
    assert a.take(b.export())
    assert (a.notes, current(a.state)) == ((), {str(P2)})


def test_a_node_that_was_set_up_anew_is_another_node(a: Node, b: Node) -> None:
    a.learns(P1)
    b.take(a.export())
    new = Node("a")
    new.learns(P2, later=10)
    assert b.take(new.export())
    assert current(b.state) == {str(P2)}


def test_an_old_state_without_a_count_is_worth_something(a: Node, b: Node) -> None:
    a.learns(P1)
    a.state = a.state._replace(lineage=transition.EMPTY.lineage)
    assert json.loads(a.export())["generation"] == 1
    assert b.take(a.export())


def test_a_state_that_was_lost_is_another_node(tmp_path) -> None:
    node = Node("a")
    node.learns(P1)
    node.export()
    state.save(str(tmp_path), node.state)
    state.save(str(tmp_path), node.state)
    (tmp_path / "state.json").write_text("{")
    known, damage = state.load(str(tmp_path))
    assert damage and current(known) == {str(P1)}
    assert known.lineage.node == ""


def test_its_own_document_is_refused(a: Node) -> None:
    a.learns(P1)
    assert "flush --forget" in refusal(a, a.export(), force=True)


def test_nodes_that_know_nothing_have_nothing_to_say(a: Node, b: Node) -> None:
    assert not b.take(a.export())
    b.learns(P1)
    assert "is older" in refusal(b, a.export())


# ---- what is each node's own -------------------------------------------------------------------


def test_health_is_local(a: Node, b: Node) -> None:
    a.learns(P1)
    a.state = transition.after_use(a.state, "wan", Down(NOW, "no answer"), CONFIG)
    b.state = transition.after_use(b.state, "wan", Down(NOW, "maintenance"), CONFIG)
    raw = a.export()
    assert b"no answer" not in raw
    b.take(raw)
    assert b.state.uplinks["wan"].down == Down(NOW, "maintenance")
    assert current(b.state) == {str(P1)}


def test_uplinks_go_by_their_name(a: Node) -> None:
    b = Node("b", config=config(uplinks=(WAN._replace(interface="enp1s0"),)))
    a.config = TWO
    a.learns(P1)
    a.state = after(reply(*told(P2)), uplink=WAN2, config=TWO, state=a.state)
    b.take(a.export())
    assert current(b.state) == {str(P1)}
    assert b.notes == (f"uplink 'wan2' of node 'a' ({a.id}) is not in /etc/pdreactor.toml here: "
                       f"left out",)


def test_static_prefixes_are_configuration(a: Node) -> None:
    static = config(uplinks=(WAN._replace(prefix=P3),))
    a.config = static
    a.state = transition.after_configuration(transition.EMPTY, static, NOW)
    assert json.loads(a.export())["uplinks"] == {}
    assert json.loads(a.export())["generation"] == 1  # of a state that nobody counted
    b, c = Node("b", config=static), Node("c")
    b.state = a.state
    c.learns(P1)
    b.take(c.export())
    assert current(b.state) == {str(P3)}
    assert "has a static prefix" in b.notes[0]


def test_what_the_kernel_shows_is_each_nodes_own() -> None:
    """Two nodes with 6to4 tunnels have two prefixes, and neither has learned them of anybody."""
    tunnels = config(uplinks=(WAN._replace(source=SIXTOFOUR),))
    a, b = Node("a", config=tunnels), Node("b", config=tunnels)
    for node, network in (a, P1), (b, P2):
        event = reply(*told(network))
        node.state = after(event, uplink=tunnels.uplinks[0], config=tunnels, state=node.state)
    assert json.loads(a.export())["uplinks"] == {}
    b.take(a.export())
    assert current(b.state) == {str(P2)}
    c = Node("c")
    c.learns(P3)
    b.take(c.export())
    assert current(b.state) == {str(P2)}
    assert "uplink wan has source 6to4 in" in b.notes[0]


# ---- hostile documents -------------------------------------------------------------------------


def edited(raw: bytes, path: str, value: Any) -> bytes:
    """The document with one value changed; a path is keys with dots."""
    document = json.loads(raw)
    *way, last = path.split(".")
    inner = document
    for key in way:
        inner = inner[int(key) if key.isdigit() else key]
    inner[last] = value
    return json.dumps(document).encode()


PREFIX = "uplinks.wan.prefixes.0"


@pytest.mark.parametrize(("path", "value", "text"), [
    ("format", 2, "same version on both nodes"),
    ("format", "1", "no whole output"),
    ("node", "a", "no whole output"),
    ("node.id", "../../etc", "no whole output"),
    ("node.name", "a\nb", "no whole output"),
    ("node.name", "a" * 300, "no whole output"),
    ("generation", -1, "no whole output"),
    ("generation", True, "no whole output"),
    ("generation", 1e300, "no whole output"),
    ("heard", {"x": 1}, "no whole output"),
    ("heard", [], "no whole output"),
    ("at", None, "no whole output"),
    ("uplinks", [], "no whole output"),
    ("uplinks.wan.number", 0, "no whole output"),
    ("uplinks.wan.number", 16, "both nodes need the same mask"),
    (f"{PREFIX}.generation", 8, "both nodes need the same mask"),
    (f"{PREFIX}.prefix", "2001:db8::/129", "prefix length"),
    (f"{PREFIX}.prefix", "2001:db8:4000::1/58", "has bits beyond its length"),
    (f"{PREFIX}.prefix", "fe80::%eth0/64", "has a zone"),
    (f"{PREFIX}.prefix", "fd00::/58", "unique local"),
    (f"{PREFIX}.prefix", "::/0", "all of IPv6"),
    (f"{PREFIX}.prefix", "2000::/20", "not between /32 and /64"),
    (f"{PREFIX}.prefix", 5, "no whole output"),
    (f"{PREFIX}.excluded", "2001:db8:9::/64", "is no part of"),
    (f"{PREFIX}.valid_left", 10, "longer than the valid one"),
    (f"{PREFIX}.preferred_left", None, "longer than the valid one"),
    (f"{PREFIX}.valid_left", 1 << 40, "no whole output"),
    (f"{PREFIX}.learned_ago", -5, "no whole output"),
    (f"{PREFIX}.superseded_ago", "now", "no whole output"),
    (f"{PREFIX}.iaid", "1", "no whole output"),
])
def test_a_bad_value_refuses_all_of_it(a: Node, b: Node, path: str, value: Any, text: str) -> None:
    a.learns(P1)
    assert text in refusal(b, edited(a.export(), path, value))


def test_a_prefix_of_the_link_or_the_lan_is_refused(a: Node, b: Node) -> None:
    a.learns(P1)
    near = {"wan": [N("2001:db8:4000::/64")]}
    assert "on the uplink's own link" in refusal(b, a.export(), near=near)
    b.config = config(LAN._replace(internal=P1))
    assert "overlaps" in refusal(b, a.export())


def test_one_prefix_on_two_uplinks_is_refused(a: Node) -> None:
    b = Node("b", config=TWO)
    a.learns(P1)
    document = json.loads(a.export())
    document["uplinks"]["wan2"] = {**document["uplinks"]["wan"], "number": 2}
    assert "overlaps" in refusal(b, json.dumps(document).encode())
    document["uplinks"]["wan2"]["number"] = 1
    assert "two uplinks have one number" in refusal(b, json.dumps(document).encode())


def test_prefixes_that_change_places_are_no_conflict(a: Node) -> None:
    a.config, b = TWO, Node("b", config=TWO)
    a.learns(P1)
    a.state = after(reply(*told(P2)), uplink=WAN2, config=TWO, state=a.state)
    b.take(a.export())
    document = json.loads(a.export())
    one, two = (document["uplinks"][name]["prefixes"] for name in ("wan", "wan2"))
    document["uplinks"]["wan"]["prefixes"], document["uplinks"]["wan2"]["prefixes"] = two, one
    document["generation"] += 1
    assert b.take(json.dumps(document).encode())
    assert (current(b.state), current(b.state, "wan2")) == ({str(P2)}, {str(P1)})


@pytest.mark.parametrize(("raw", "text"), [
    (b"", "nothing came in"),
    (b" \n", "nothing came in"),
    (b"{", "no whole output"),
    (b"[]", "no whole output"),
    (b"null", "no whole output"),
    (b"\xff\xfe", "no whole output"),
    (b"[" * 100_000, "no whole output"),
    (b"1" * 5000, "no whole output"),
    (b" " * handover.LIMIT + b"{}", "more than 1048576 bytes"),
])
def test_what_is_no_document_is_refused(b: Node, raw: bytes, text: str) -> None:
    assert text in refusal(b, raw)


@given(cut=st.integers(0, 2000))
def test_a_transfer_that_breaks_off_is_refused(cut: int) -> None:
    a, b = Node("a"), Node("b")
    a.learns(P1)
    raw = a.export()
    refusal(b, raw[:min(cut, len(raw) - 1)])


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner,
                                                                max_size=3), max_leaves=6)
PLACES = ["format", "node", "node.id", "node.name", "generation", "heard", "at", "uplinks",
          "uplinks.wan", "uplinks.wan.number", "uplinks.wan.prefixes", PREFIX,
          *(f"{PREFIX}.{key}" for key in ("prefix", "iaid", "excluded", "generation",
                                          "preferred_left", "valid_left", "learned_ago",
                                          "updated_ago", "superseded_ago"))]


@given(path=st.sampled_from([place for place in PLACES if place != PREFIX]), value=ANY)
def test_any_value_anywhere_is_taken_or_refused(path: str, value: Any) -> None:
    a, b = Node("a"), Node("b")
    a.learns(P1)
    try:
        b.take(edited(a.export(), path, value))
    except Refused as refused:
        assert str(refused).isprintable()
    else:
        assert state.decode(state.encode(b.state)) == b.state
