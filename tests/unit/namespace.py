"""Run a function in a network namespace of its own, inside this process."""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from pdreactor.kernel import nft

Result = TypeVar("Result")
CLONE_NEWNET = 0x40000000

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="makes a network namespace: needs root")


def in_new_network(function: Callable[[], Result]) -> Result:
    """Call the function in a thread that has left for a new network namespace (unshare(2) is per
    thread); the namespace ends with the thread."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            nft._CONTEXTS.clear()  # its socket belongs to the network where it was made
            results.append(function())
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
