"""Send bytes from one process to another over the loopback: ``loopback.py size=BYTES`` prints the seconds it took."""

from __future__ import annotations

import os
import socket
import time
from typing import Final

from jobs import arguments

_BLOCK: Final = 1024 * 1024  # bytes


def send(port: int, size: int) -> None:
    """Send *size* bytes to who listens on *port*."""
    block = memoryview(bytes(_BLOCK))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for place in range(0, size, _BLOCK):
            connection.sendall(block[: size - place])


def receive(connection: socket.socket) -> int:
    """Receive until the other side ends; return the number of bytes."""
    buffer, number = bytearray(_BLOCK), 0
    while read := connection.recv_into(buffer):
        number += read
    return number


def main() -> None:
    """Send and receive."""
    size = int(arguments()["size"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = os.fork()
        if sender == 0:
            send(server.getsockname()[1], size)
            os._exit(0)
        connection, _ = server.accept()
        with connection:
            begin = time.perf_counter()
            number = receive(connection)
            seconds = time.perf_counter() - begin
    os.waitpid(sender, 0)
    if number != size:
        raise RuntimeError(f"{number} bytes of {size} arrived")
    print(seconds)


main()
