"""Listens on TCP and UDP and sends back what it got; shows that a link of tests/network.py works.

    python -m tests.echo ADDRESS PORT

A TCP client says first how many bytes will come (8 bytes, big-endian); they are sent back when
the last one is here, so that both ways can be timed apart.
"""

import contextlib
import socket
import sys
import threading


SO_RCVBUFFORCE = 33  # Linux, root: more than the system's limit, so that only the link loses
BUFFER = 16 << 20
SIZE_BYTES = 8


def receive(connection, size):
    """Return exactly *size* bytes; fewer when the other end closes."""
    found = bytearray()
    while len(found) < size and (chunk := connection.recv(min(1 << 16, size - len(found)))):
        found += chunk
    return bytes(found)


def _serve(connection):
    with connection, contextlib.suppress(OSError):
        while head := receive(connection, SIZE_BYTES):
            connection.sendall(receive(connection, int.from_bytes(head, "big")))


def _serve_datagrams(bound):
    while True:
        bound.sendto(*bound.recvfrom(1 << 11))


def main():
    """Serve until killed; say `ready` when it listens."""
    place = (sys.argv[1], int(sys.argv[2]))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    datagrams.bind(place)
    threading.Thread(target=_serve_datagrams, args=(datagrams,), daemon=True).start()
    server = socket.create_server(place)
    print("ready", flush=True)  # noqa: T201 - its parent process waits for this line
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
