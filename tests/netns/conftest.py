"""A fresh network for each test: making one takes less time than tidying one up."""

from collections.abc import Iterator

import pytest

from tests.lab import Lab

from .pd import Router


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A network nobody has touched."""
    with Lab() as network:
        yield network


@pytest.fixture
def router(lab: Lab) -> Router:
    """Its router, with the smallest configuration and no prefix yet."""
    return Router(lab)
