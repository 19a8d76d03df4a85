"""Run commands inside a namespace and say how long each took and how much memory.

Run by path:  python3 agent.py  <JOB

The job is JSON: {"commands": [{"argv": [...], "env": {...}}, ...], "rounds": N, "pause": SECONDS}.
The commands take turns. Prints, for each round, a list with for each command: start and end on
the monotonic clock, peak memory in KiB (never less than this small process's own), exit code and
the end of what it printed.
"""

import json
import os
import sys
import tempfile
import time


def run(argv: list[str], env: dict[str, str]) -> dict[str, object]:
    """One command, from just before it is started until it has ended."""
    with tempfile.TemporaryFile() as output:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
        ]
        begin = time.monotonic()
        pid = os.posix_spawn(argv[0], argv, env, file_actions=actions)
        _pid, status, usage = os.wait4(pid, 0)
        end = time.monotonic()
        output.seek(0)
        text = output.read().decode(errors="replace")[-500:]
    code = os.waitstatus_to_exitcode(status)
    return {"begin": begin, "end": end, "rss": usage.ru_maxrss, "code": code, "output": text}


def main() -> None:
    """Do the job."""
    job = json.load(sys.stdin)
    rounds = []
    for _ in range(job["rounds"]):
        done = []
        for command in job["commands"]:
            done.append(run(command["argv"], command["env"]))
            time.sleep(job["pause"])
        rounds.append(done)
    print(json.dumps(rounds))


if __name__ == "__main__":
    main()
