"""Two hosts talk. Run by path inside a namespace.

    talk.py serve ADDRESS PORT                  echo over TCP and UDP; prints each peer it saw
    talk.py ask PROTOCOL TARGET PORT BYTES SOURCE_PORT PATIENCE
                                                send, compare the echo, print "same" or what failed
    talk.py stream ADDRESS PORT                 as "flows.py echo", and its last answer goes out
                                                all the time; prints each peer it saw
    talk.py tell TARGET PORT SOURCE_PORT        send one datagram
    talk.py hold TARGET PORT PATIENCE           a TCP connection that says something all the time;
                                                prints "open", each answer, and how it ended
"""

import select
import socket
import sys
import threading
import time

WORD = 0.05
CHUNK = 1000


def echo_tcp(connection: socket.socket) -> None:
    """Send back what comes until the peer is done."""
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            pass  # reset: the test looks at the other end


def echo_udp(datagrams: socket.socket) -> None:
    """Send one datagram back, from the address that it was sent to. Its sender is printed first:
    who has got the answer may look at once."""
    data, where, _flags, peer = datagrams.recvmsg(65536, 256)
    print("udp", peer[0], peer[1], flush=True)
    datagrams.sendmsg([data], where, 0, peer)


def serve(address: str, port: str) -> None:
    """Echo until killed."""
    where = (address, int(port))
    stream = socket.create_server(where, family=socket.AF_INET6)
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    datagrams.bind(where)
    print("ready", flush=True)
    while True:
        for ready in select.select([stream, datagrams], [], [])[0]:
            if ready is stream:
                connection, peer = stream.accept()
                print("tcp", peer[0], peer[1], flush=True)
                threading.Thread(target=echo_tcp, args=(connection,), daemon=True).start()
            else:
                echo_udp(datagrams)


def ask_tcp(client: socket.socket, data: bytes) -> bytes:
    """The echo of a stream."""
    sender = threading.Thread(target=lambda: client.sendall(data), daemon=True)
    sender.start()
    echo = bytearray()
    while len(echo) < len(data) and (part := client.recv(65536)):
        echo += part
    return bytes(echo)


def ask_udp(client: socket.socket, data: bytes) -> bytes:
    """The echo of datagrams, one at a time."""
    echo = bytearray()
    for start in range(0, len(data), CHUNK):
        client.send(data[start : start + CHUNK])
        echo += client.recv(65536)
    return bytes(echo)


def ask(protocol: str, target: str, port: str, size: str, source: str, patience: str) -> str:
    """Send that many bytes and compare what comes back."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    data = (b"0123456789abcdef!" * (int(size) // 17 + 1))[: int(size)]
    with socket.socket(socket.AF_INET6, kind) as client:
        client.settimeout(float(patience))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(("::", int(source)))
        try:
            client.connect((target, int(port)))
            echo = ask_tcp(client, data) if protocol == "tcp" else ask_udp(client, data)
        except OSError as error:
            return f"failed: {error.strerror or error}"
    return "same" if echo == data else f"failed: {len(echo)} of {len(data)} bytes, or others"


def stream(address: str, port: str) -> None:
    """Answer without end until killed."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.bind((address, int(port)))
        print("ready", flush=True)
        answer, peer = b"", ("", 0)
        while True:
            if select.select([server], [], [], 0.0002 if answer else None)[0]:
                data, source = server.recvfrom(200)
                if source[:2] != peer[:2]:
                    print(*source[:2], flush=True)
                answer, peer = data + b" " + source[0].encode(), source
            server.sendto(answer, peer)


def tell(target: str, port: str, source: str) -> None:
    """Send and leave."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.bind(("::", int(source)))
        client.sendto(b"word", (target, int(port)))


def hold(target: str, port: str, patience: str) -> str:
    """Talk without end; how it ended."""
    with socket.create_connection((target, int(port)), float(patience)) as client:
        print("open", flush=True)
        while True:
            try:
                client.sendall(b"word")
                if not client.recv(100):
                    return "closed"
                print("word", flush=True)
            except OSError as error:
                return f"ended: {error.strerror or error}"
            time.sleep(WORD)


def main(mode: str, *rest: str) -> None:
    """Run one mode."""
    if mode in ("serve", "stream", "tell"):
        {"serve": serve, "stream": stream, "tell": tell}[mode](*rest)
    else:
        print({"ask": ask, "hold": hold}[mode](*rest), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
