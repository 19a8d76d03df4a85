"""Commands of the user: argv lists, no shell, a time limit, nothing left running."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence


def run(argv: Sequence[str], environment: Mapping[str, str], timeout: float,
        limit: str = "") -> str:
    """Run a command; returns why it failed, or "" when it did not.

    stdin, stdout and stderr are /dev/null. After ``timeout`` seconds its process group is killed;
    ``limit`` says where users set that.
    """
    try:
        process = subprocess.Popen(
            argv, env=dict(environment), start_new_session=True, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError as exc:
        return f"cannot be started: {exc.strerror}"
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"killed after {timeout:g} s" + (f" (its time limit: {limit})" if limit else "")
    return f"ended with status {code}" if code else ""
