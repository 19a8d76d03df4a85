"""``status``: all in place only when one uplink can carry each translation."""

from pdreactor import report
from pdreactor.desired import desired
from pdreactor.steering import steering

from .scenarios import BOTH
from .values import NOW, P1, WAN, WAN2, after, config, reply, told


def ok(links: dict[str, bool]) -> bool:
    """The verdict with a prefix on the first of two uplinks."""
    both = config(*BOTH, uplinks=(WAN, WAN2))
    known = after(reply(*told(P1)), config=both)
    wanted = desired(both, known, links, NOW)
    view = report.View(known, wanted, {"outbound": frozenset(), "inbound": frozenset()}, links, (),
                       "", (), steering(both, known, links, {}, wanted))
    return bool(report.status(both, view, NOW)["ok"])


def test_an_uplink_with_a_prefix_and_a_link_is_enough() -> None:
    assert ok({"wan0": True, "wan1": False})


def test_a_prefix_here_and_a_link_there_is_not() -> None:
    assert not ok({"wan0": False, "wan1": True})


def test_how_long_something_lasts_is_said_in_words() -> None:
    assert report.forlong(None) == "for ever"
    assert report.forlong(3725) == "for 1 h 2 min"
    assert report.forlong(0) == "for 0 s"
