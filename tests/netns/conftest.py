"""A fresh network for each test: making one takes less time than tidying one up. But for modules
whose tests leave nothing behind, ``shared``."""

from collections.abc import Iterator

import pytest

from tests.lab import Lab

from .pd import FAR, NFTABLES, OLD, Router, Variant, end_processes


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A network nobody has touched."""
    with Lab() as network:
        yield network


@pytest.fixture
def variant() -> Variant:
    """Backend and mode; a test with another idea says ``@on(...)``."""
    return NFTABLES


@pytest.fixture
def router(lab: Lab, variant: Variant) -> Router:
    """Its router, with the smallest configuration and no prefix yet."""
    return Router(lab, variant=variant)


@pytest.fixture(scope="module")
def standing(variant: Variant) -> Iterator[Router]:
    """A router that has learned its prefix, for all tests of a module that says
    ``on(..., scope="module")``. The ISP has one more link behind it."""
    with Lab() as lab:
        router = Router(lab, variant=variant)
        router.set(OLD)
        lab.run("isp", ["ip", "link", "add", "far", "type", "veth", "peer", "name", "farther"])
        for interface in ("far", "farther"):
            lab.run("isp", ["ip", "link", "set", interface, "up"])
        lab.run("isp", ["ip", "-6", "route", "add", FAR, "dev", "far"])
        yield router
        assert lab.count().leaked == 0
        router.pd("plan")


@pytest.fixture
def shared(standing: Router) -> Iterator[Router]:
    """The same, for one test; what that has started ends with it."""
    yield standing
    end_processes(standing.lab)
