"""How one router asks the other, where the documents say ssh. Run by path inside a namespace.

    transport.py serve ADDRESS PORT COMMAND...    runs it for each that connects; prints "ready"
    transport.py get ADDRESS PORT                 prints what it is told
"""

import socket
import subprocess
import sys

PATIENCE = 2.0


def serve(address: str, port: str, *command: str) -> None:
    """Answer until killed."""
    with socket.create_server((address, int(port)), family=socket.AF_INET6) as server:
        print("ready", flush=True)
        while True:
            connection, _peer = server.accept()
            with connection:
                subprocess.run(command, stdout=connection, stdin=subprocess.DEVNULL, check=False)


def get(address: str, port: str) -> int:
    """Print the answer; 1 without one."""
    try:
        client = socket.create_connection((address, int(port)), PATIENCE)
        with client, client.makefile("rb") as file:
            answer = file.read()
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(answer)
    return 0


if __name__ == "__main__":
    mode, *rest = sys.argv[1:]
    sys.exit(get(*rest) if mode == "get" else serve(*rest))
