"""Measure ``pdreactor watch`` inside a namespace: how soon it puts back what was flushed and
follows what dhcpcd's socket says, and what it takes while nothing happens.

Run by path:  python3 watcher.py  <JOB

The job is JSON: {"argv": [...], "flushes": N, "changes": [{"env": {...}, "sign": TEXT}, ...],
"idle": SECONDS}. ``sign`` is text that the ruleset has once the change is in the kernel, as
"prefix" has the one before. Prints JSON: seconds of each repair and change, the share of a core
while idle, and the peak memory in KiB.

This process is dhcpcd's end of the socket: with the real one the time of a change could not be told
from that of the network. Whether the rules are in is asked of libnftables, which takes a
millisecond, every half millisecond.
"""

import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time

import nftables

SOCKET = "/run/dhcpcd/sock"
NOTIFY = "/run/watcher-notify"
LIMIT = 10.0


class Rules:
    """The kernel's ruleset."""

    def __init__(self) -> None:
        self.nft = nftables.Nftables()

    def flush(self) -> None:
        """As "nft flush ruleset" does."""
        self.nft.cmd("flush ruleset")

    def wait(self, sign: str, begin: float) -> float:
        """Seconds from ``begin`` until our table has this text."""
        while time.monotonic() < begin + LIMIT:
            _, text, _ = self.nft.cmd("list table ip6 pdreactor")
            if sign in text:
                return time.monotonic() - begin
            time.sleep(0.0005)  # else the watch, woken on this core, waits for its turn
        raise SystemExit(f"watcher.py: after {LIMIT:g} s still no {sign} in the ruleset")


class Dhcpcd:
    """dhcpcd's end of its control socket."""

    def __init__(self) -> None:
        os.makedirs(os.path.dirname(SOCKET), exist_ok=True)
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(SOCKET)
        self.server.listen()
        self.server.settimeout(LIMIT)

    def accept(self) -> None:
        """Wait for who listens; nothing is held."""
        self.listener = None
        while self.listener is None:
            end, _ = self.server.accept()
            if end.recv(100).startswith(b"--listen"):
                self.listener = end
            else:
                end.sendall(struct.pack("@N", 0))

    def tell(self, env: dict[str, str]) -> None:
        """An event."""
        block = "".join(f"{name}={value}\0" for name, value in env.items()).encode()
        self.listener.sendall(struct.pack("@N", len(block)) + block)


def start(argv: list[str]) -> subprocess.Popen[bytes]:
    """The watch, once it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(NOTIFY)
        env = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin"), "NOTIFY_SOCKET": NOTIFY}
        process = subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + LIMIT
        while select.select([manager], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if b"READY=1" in manager.recv(4096):
                return process
    process.kill()
    raise SystemExit("watcher.py: the watch is not ready")


def spent(pid: int) -> float:
    """Seconds on a core so far, of all threads (proc(5): schedstat)."""
    tasks = f"/proc/{pid}/task"
    total = 0
    for task in os.listdir(tasks):
        with open(f"{tasks}/{task}/schedstat", encoding="ascii") as file:
            total += int(file.read().split()[0])
    return total / 1e9


def peak(pid: int) -> int:
    """Peak memory in KiB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def idle(pid: int, seconds: float) -> float:
    """The share of a core, once what was done before has settled."""
    time.sleep(1)
    begin = spent(pid)
    time.sleep(seconds)
    return (spent(pid) - begin) / seconds


def main() -> None:
    """Do the job."""
    job = json.load(sys.stdin)
    rules, dhcpcd = Rules(), Dhcpcd()
    process = start(job["argv"])
    try:
        dhcpcd.accept()
        repairs, changes = [], []
        for _ in range(job["flushes"]):
            time.sleep(random.uniform(0.05, 0.15))
            begin = time.monotonic()
            rules.flush()
            repairs.append(rules.wait(job["prefix"], begin))
        for change in job["changes"]:
            time.sleep(random.uniform(0.05, 0.15))
            begin = time.monotonic()
            dhcpcd.tell(change["env"])
            changes.append(rules.wait(change["sign"], begin))
        share = idle(process.pid, job["idle"])
        print(json.dumps({"repairs": repairs, "changes": changes, "idle": share,
                          "rss": peak(process.pid)}))
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
