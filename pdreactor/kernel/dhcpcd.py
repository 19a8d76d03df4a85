"""dhcpcd's control sockets below /run/dhcpcd: what its script is told, without a script.

Asked with ``--listen`` it sends the script's environment at each event: its length (a native
size_t), then NUL-ended strings. Asked with ``--getinterfaces`` it sends the number of blocks that
come, then what it holds just now in the same form (src/control.c, src/script.c send_interface).
The unprivileged socket gives both to anyone.
"""

import os
import socket
import struct
from collections.abc import Iterator

DIRECTORY = "/run/dhcpcd"
SIZE = struct.Struct("@N")
MOST = 1 << 20
"""Bytes of one environment; execve(2) takes more, dhcpcd has never made such."""
LISTEN, HELD = b"--listen\n\0", b"--getinterfaces\n\0"


class Stream:
    """One connection: tells of events for as long as it lasts, or once of what is held."""

    def __init__(self, path: str, held: bool) -> None:
        """Raises OSError when nobody answers there."""
        self.path, self.held = path, held
        self._data = b""
        self._left: int | None = None  # blocks still to come, once it is known
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self.socket.connect(path)
            self.socket.send(HELD if held else LISTEN)
        except OSError:
            self.socket.close()
            raise

    def fileno(self) -> int:
        """For a selector."""
        return self.socket.fileno()

    def close(self) -> None:
        """Hear no more."""
        self.socket.close()

    def read(self) -> tuple[list[bytes], bool]:
        """The environment blocks that have come whole, and whether there may be more."""
        blocks: list[bytes] = []
        open_ = True
        try:
            while open_ and (data := self.socket.recv(1 << 16)):
                self._data += data
                blocks += self._blocks()
                open_ = self._left != 0 and len(self._data) < SIZE.size + MOST
            return blocks, False
        except BlockingIOError:
            return blocks, True
        except OSError:
            return blocks, False

    def _blocks(self) -> Iterator[bytes]:
        if self.held and self._left is None:
            if len(self._data) < SIZE.size:
                return
            self._left = SIZE.unpack_from(self._data)[0]
            self._data = self._data[SIZE.size:]
        while self._left != 0 and len(self._data) >= SIZE.size:
            end = SIZE.size + SIZE.unpack_from(self._data)[0]
            if len(self._data) < end:
                return
            yield self._data[SIZE.size:end]
            self._data = self._data[end:]
            self._left = self._left and self._left - 1


def paths(directory: str = DIRECTORY) -> set[str]:
    """The socket of each dhcpcd that runs, the unprivileged one where it has both."""
    try:
        names = {name for name in os.listdir(directory) if name.endswith("sock")}
    except OSError:
        return set()
    best = {name.replace("unpriv.", ""): name for name in sorted(names)}
    best |= {name.replace("unpriv.", ""): name for name in names if "unpriv." in name}
    return {os.path.join(directory, name) for name in best.values()}
