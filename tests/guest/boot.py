"""Run one command in a throw-away guest on this machine's own files, by Debian's stock kernel.

    python3 -m tests.guest.boot [-t SECONDS] [-v] -- COMMAND [ARG ...]

The guest sees all files of this machine; what it writes is forgotten at its end. /run and
/dev/shm are empty. It has no network but lo, and runs the command as root in the directory /.
stdin is empty, stdout and stderr come back apart. The environment is that of ``ENVIRONMENT``. Exit
status: the command's; 124 when its time is up, 125 when the guest itself failed.

QEMU emulates the processor unless there is a KVM that a stock kernel runs on: a command takes ten
to twenty times as long as outside.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache/guest"
QEMU = "qemu-system-x86_64"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8",
               "IN_GUEST": "1"}
MEMORY = 768
"""MiB."""
KILLED, FAILED = 124, 125


def missing() -> str:
    """Why there is no guest on this machine; empty when there is."""
    if os.geteuid() != 0:
        return "not root: the guest reads all files of this machine"
    if shutil.which(QEMU) is None:
        return f"no {QEMU}: run tests/setup.sh as root"
    if not (CACHE / "ready").exists():
        return "no kernel in .cache/guest: run tests/setup.sh as root (it knows x86_64 only)"
    return ""


class Guest:
    """A guest that runs a command. ``out`` is its stdout while it runs; use it with ``with``."""

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None = None,
                 seconds: float = 300, verbose: bool = False) -> None:
        """Boot it."""
        self._directory = Path(tempfile.mkdtemp(prefix="pdr-guest-"))
        self._control = self._directory / "ctl"
        self._control.mkdir()
        self.expired = False
        release, modules = (CACHE / "ready").read_text(encoding="ascii").split()
        self._write_control(command, {**ENVIRONMENT, **(environment or {})}, modules)
        self._console = self._directory / "console"
        (out, there), (err, there_too) = os.pipe(), os.pipe()
        self._qemu = subprocess.Popen(
            self._argv(release, {"out": there, "err": there_too}, verbose),
            pass_fds=(there, there_too), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(there)
        os.close(there_too)
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.start()
        self.out: IO[str] = os.fdopen(out, encoding="utf-8", errors="replace")
        self.err: IO[str] = os.fdopen(err, encoding="utf-8", errors="replace")
        self._said: list[str] = []
        self._listener = threading.Thread(target=lambda: self._said.extend(self.err), daemon=True)
        self._listener.start()

    def __enter__(self) -> "Guest":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_control(self, command: Sequence[str], environment: dict[str, str],
                       modules: str) -> None:
        exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
        script = [*exports, "cd /", f"exec {shlex.join(command)}", ""]
        (self._control / "command.sh").write_text("\n".join(script), encoding="utf-8")
        (self._control / "modules").write_text(f"{CACHE / modules}\n", encoding="utf-8")
        shutil.copy(ROOT / "tests/guest/stage2.sh", self._control / "stage2.sh")

    def _argv(self, release: str, ports: dict[str, int], verbose: bool) -> list[str]:
        kvm = os.access("/dev/kvm", os.W_OK) and any(
            os.path.isdir(f"/sys/module/{name}") for name in ("kvm_intel", "kvm_amd"))
        machine = ["-accel", "kvm", "-cpu", "host"] if kvm else ["-accel", "tcg", "-cpu", "max"]
        argv = [QEMU, "-nodefaults", "-no-user-config", "-M", "q35", *machine, "-smp", "1",
                "-m", str(MEMORY), "-display", "none", "-no-reboot",
                "-kernel", str(CACHE / f"kernel/boot/vmlinuz-{release}"),
                "-initrd", str(CACHE / "initrd.gz"),
                "-append", f"console=ttyS0 {'' if verbose else 'quiet'} panic=-1 mitigations=off",
                "-serial", f"file:{self._console}",
                "-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
        for port, number in ports.items():
            argv += ["-chardev", f"file,id={port},path=/dev/fd/{number}",
                     "-device", f"virtserialport,chardev={port},name={port}"]
        for tag, path, option in (("root", "/", ",readonly=on"), ("ctl", self._control, "")):
            argv += ["-fsdev", f"local,id={tag},path={path},security_model=none,"
                               f"multidevs=remap{option}",
                     "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
        return argv

    def _expire(self) -> None:
        self.expired = True
        self._qemu.kill()

    def wait(self) -> int:
        """The exit status of the command, once the guest has ended."""
        self._qemu.wait()
        self._listener.join(5)
        if self.expired:
            return KILLED
        try:
            return int((self._control / "status").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return FAILED

    def said(self) -> str:
        """What it said on stderr, and the end of what its kernel said when it failed."""
        console = ""
        if self._console.exists():
            console = self._console.read_text(encoding="utf-8", errors="replace")[-2000:]
        return "".join(self._said) + (console if not (self._control / "status").exists() else "")

    def close(self) -> None:
        """End it."""
        self._timer.cancel()
        if self._qemu.poll() is None:
            self._qemu.kill()
        self._qemu.wait()
        self._listener.join(5)
        self.out.close()
        self.err.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.guest.boot")
    parser.add_argument("-t", type=float, default=300, metavar="SECONDS")
    parser.add_argument("-v", action="store_true", help="the kernel's messages too")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    if reason := missing():
        print(f"guest: {reason}", file=sys.stderr)
        return FAILED
    with Guest(options.command, seconds=options.t, verbose=options.v) as guest:
        for line in guest.out:
            print(line, end="", flush=True)
        code = guest.wait()
        print(guest.said(), end="", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
