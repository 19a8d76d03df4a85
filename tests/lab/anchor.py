"""Hold one network namespace and one mount namespace of a test network open.

Run by path:  python3 anchor.py DIRECTORY [KEY=VALUE ...]

Prints "ready", then waits until its standard input ends, which also happens when the process that
started it dies in any way. Then it kills what is left in the network namespace, removes DIRECTORY
(the network's log files) and ends, and the kernel removes both namespaces with everything in them.
KEY=VALUE are sysctls of the namespace.
"""

import ctypes
import os
import shutil
import signal
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
STAGE = "/run"  # first the writable layers, then a second, empty file system on top of them
WRITABLE = ("/etc", "/var/lib", "/usr/lib/dhcpcd")
EMPTY = ("/var/lib/dhcpcd", "/var/lib/pdreactor")

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    """Raise OSError when a call into libc failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    result = libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    checked(result, f"mount {kind} on {target}")


def make_writable(directory: str) -> None:
    """Lay a private writable layer over a directory of the machine."""
    if not os.path.isdir(directory):
        return
    layer = STAGE + "/" + directory.strip("/").replace("/", "-")
    os.makedirs(layer + "/upper")
    os.makedirs(layer + "/work")
    data = f"lowerdir={directory},upperdir={layer}/upper,workdir={layer}/work"
    mount("overlay", directory, "overlay", data=data)


def empty(directory: str) -> None:
    """Remove what the machine keeps in a directory, in the private layer only."""
    if not os.path.isdir(directory):
        return
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def make_mounts() -> None:
    """Give the namespace its own /sys, /run, /etc, /var/lib and dhcpcd hook directory."""
    mount("none", "/", "none", MS_REC | MS_PRIVATE)
    mount("sysfs", "/sys", "sysfs")
    mount("tmpfs", STAGE, "tmpfs", data="mode=755")
    for directory in WRITABLE:
        make_writable(directory)
    mount("tmpfs", "/run", "tmpfs", data="mode=755")
    os.mkdir("/run/lock")
    for directory in EMPTY:
        empty(directory)


def set_sysctl(setting: str) -> None:
    """Write one KEY=VALUE (slashes or dots) to /proc/sys."""
    key, value = setting.split("=", 1)
    with open("/proc/sys/" + key.replace(".", "/"), "w", encoding="ascii") as file:
        file.write(value)


def inhabitants(namespace: str) -> list[int]:
    """The processes in that network namespace, but for this one."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            if os.readlink(f"/proc/{name}/ns/net") == namespace:
                found.append(int(name))
        except OSError:
            pass  # it ended meanwhile
    return found


def clear() -> None:
    """Kill what is left in the namespace; what forks meanwhile is found by another round."""
    namespace = os.readlink("/proc/self/ns/net")
    for _ in range(10):
        left = inhabitants(namespace)
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def main(directory: str, *settings: str) -> None:
    """Make the namespaces, say so, and wait for the end."""
    checked(libc.unshare(CLONE_NEWNET | CLONE_NEWNS), "unshare")
    make_mounts()
    for setting in settings:
        set_sysctl(setting)
    print("ready", flush=True)
    sys.stdin.read()
    clear()
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
