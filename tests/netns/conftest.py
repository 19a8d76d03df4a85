"""A fresh network for each test: making one takes less time than tidying one up."""

from collections.abc import Iterator

import pytest

from tests.lab import Lab

from .pd import NFTABLES, Router, Variant


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A network nobody has touched."""
    with Lab() as network:
        yield network


@pytest.fixture
def variant() -> Variant:
    """Backend and mode; a test with another idea says ``@on(...)``."""
    import os
    return Variant(*os.environ.get('VARIANT', 'nftables netmap').split())


@pytest.fixture
def router(lab: Lab, variant: Variant) -> Router:
    """Its router, with the smallest configuration and no prefix yet."""
    return Router(lab, variant=variant)
