"""A fresh network for each test: making one takes less time than tidying one up."""

import os
from collections.abc import Iterator

import pytest

from tests.lab import Lab

from .pd import Router


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs root and namespaces."""
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here + os.sep):
            item.add_marker(pytest.mark.netns)
            item.add_marker(pytest.mark.skipif(os.geteuid() != 0, reason="needs root"))


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A network nobody has touched."""
    with Lab() as network:
        yield network


@pytest.fixture
def router(lab: Lab) -> Router:
    """Its router, with the smallest configuration and no prefix yet."""
    return Router(lab)
