"""A client on a plain socket: it sees each byte of an answer, and how it ended."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from downhaul import Headers

if TYPE_CHECKING:
    from collections.abc import Iterable

PATIENCE: Final = 20.0


@dataclass(frozen=True)
class Got:
    """An answer: `clean` if it ended as its head says that it would, by length, last chunk, or an orderly close."""

    status: int
    headers: Headers
    body: bytes
    clean: bool


class Client:
    """One connection with one request on it; *window* is the size of the receive buffer in bytes."""

    def __init__(
        self,
        base: str,
        target: str,
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        version: str = "1.1",
        window: int | None = None,
    ) -> None:
        where = urlsplit(base)
        self._sock = socket.socket()
        if window is not None:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self._sock.settimeout(PATIENCE)
        self._sock.connect((where.hostname, where.port))
        self._method, self._data, self._ended = method, b"", False
        fields = [("Host", where.netloc), ("Connection", "close"), *headers]
        lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in fields)]
        self._sock.sendall("\r\n".join([*lines, "", ""]).encode())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def head(self) -> tuple[int, Headers]:
        """Return status and header fields, as soon as they are there."""
        while b"\r\n\r\n" not in self._data:
            self._more()
        lines = self._data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        return int(lines[0].split(" ")[1]), Headers(fields)

    def some(self, number: int) -> bytes:
        """Return at least so many bytes of the body, as soon as they are there; not for chunked answers."""
        self.head()
        while len(self._data.partition(b"\r\n\r\n")[2]) < number:
            self._more()
        return self._data.partition(b"\r\n\r\n")[2]

    def read(self) -> Got:
        """Read until the server closes or resets the connection."""
        orderly = True
        try:
            while self._more():
                pass
        except ConnectionResetError:
            orderly = False
        status, headers = self.head()
        raw = self._data.partition(b"\r\n\r\n")[2]
        if self._method == "HEAD" or status == 304:
            return Got(status, headers, raw, clean=orderly)
        if headers.get("Transfer-Encoding", "").lower() == "chunked":
            body, complete = _unchunked(raw)
            return Got(status, headers, body, clean=complete)
        length = headers.get("Content-Length")
        return Got(status, headers, raw, clean=orderly if length is None else len(raw) == int(length))

    def _more(self) -> bool:
        block = b"" if self._ended else self._sock.recv(65536)
        self._ended = not block
        self._data += block
        if not block and b"\r\n\r\n" not in self._data:
            raise ConnectionError("the server closed the connection without an answer")
        return bool(block)


def ask(
    base: str, target: str, method: str = "GET", headers: Iterable[tuple[str, str]] = (), version: str = "1.1"
) -> Got:
    """Ask once, and read the answer to its end."""
    with Client(base, target, method, headers, version) as client:
        return client.read()


def _unchunked(raw: bytes) -> tuple[bytes, bool]:
    """Return the content of chunked *raw* (RFC 9112, section 7.1), and whether the last chunk is there."""
    body = b""
    while True:
        line, found, rest = raw.partition(b"\r\n")
        if not found:
            return body, False
        size = int(line.split(b";")[0], 16)
        if size == 0:
            return body, rest.startswith(b"\r\n")
        body += rest[:size]
        if len(rest) < size + 2:
            return body, False
        raw = rest[size + 2 :]
