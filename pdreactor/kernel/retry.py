"""Bounded repetition of what the kernel could not take just now. tenacity is imported on the first
failure only: most calls succeed, and the way to the kernel is to be short."""

from collections.abc import Callable
from typing import TypeVar

from ..errors import PdreactorError

Result = TypeVar("Result")

ATTEMPTS = 6
"""With the waits between them (10 ms doubling, jittered) a busy kernel is given about 0.6 s."""


def persistently(call: Callable[[], Result]) -> Result:
    """``call()``, again while it raises an error whose class says ``retry``."""
    try:
        return call()
    except PdreactorError as exc:
        if not exc.retry:
            raise
    try:
        from tenacity import Retrying, retry_if_exception, stop_after_attempt
        from tenacity.wait import wait_random_exponential
    except ImportError:
        return call()  # without tenacity once more, and what that says is said

    again = Retrying(
        retry=retry_if_exception(lambda exc: isinstance(exc, PdreactorError) and exc.retry),
        stop=stop_after_attempt(ATTEMPTS - 1),
        wait=wait_random_exponential(multiplier=0.01, max=0.3),
        reraise=True,
    )
    return again(call)
