"""Both ends of an adapter: a client that sees what is on the wire, and a remote that delivers, breaks, or is silent."""

from __future__ import annotations

import asyncio
import re
import select
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.servers.http import head

from downhaul import Headers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.http import Exchange

KIB: Final = 1024
MIB: Final = 1024 * KIB
DATA: Final = bytes(index * 7 % 251 for index in range(512 * KIB))
CUT: Final = 300 * KIB  # far more than is held back: a client has some of it
LARGE: Final = 48 * MIB
TAG: Final = '"v1"'
PATIENCE: Final = 20.0  # seconds


@dataclass(frozen=True, slots=True)
class Got:
    """An answer; `end` is "complete", or how the connection ended before it was: "closed" or "reset"."""

    status: int
    fields: Headers
    body: bytes
    end: str


class Client:
    """A connection of a client that does nothing by itself; *buffer* is how many bytes wait for it in the kernel."""

    def __init__(self, base: str, buffer: int | None = None) -> None:
        host, _, port = base.removeprefix("http://").partition(":")
        self._open(socket.socket(), (host, int(port)), buffer)

    def _open(self, sock: socket.socket, address: object, buffer: int | None = None) -> None:
        self._sock = sock
        self._sock.settimeout(PATIENCE)
        if buffer is not None:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._sock.connect(address)
        self._received = b""
        self._end = ""

    @classmethod
    def at(cls, path: str) -> Client:
        """Connect to a socket of the local machine."""
        client = cls.__new__(cls)
        client._open(socket.socket(socket.AF_UNIX), path)
        return client

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def hang_up(self) -> None:
        """Close the connection."""
        self._sock.close()

    def half_close(self) -> None:
        """Tell the server that nothing more will be asked for."""
        self._sock.shutdown(socket.SHUT_WR)

    def ask(self, path: str, *fields: str, method: str = "GET", version: str = "1.1") -> None:
        """Send a request, and read nothing."""
        lines = (f"{method} {path} HTTP/{version}", "Host: test", *fields, "", "")
        self._sock.sendall("\r\n".join(lines).encode())

    def get(self, path: str, *fields: str, method: str = "GET", version: str = "1.1") -> Got:
        """Send a request, and read the answer."""
        self.ask(path, *fields, method=method, version=version)
        return self.read(method)

    def read(self, method: str = "GET") -> Got:
        """Read an answer to *method*, and nothing that follows it."""
        status, fields = self.read_head()
        if method == "HEAD" or status == 304:
            return Got(status, fields, b"", "complete")
        if fields.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        elif (length := fields.get("Content-Length")) is not None:
            body = self._take(int(length))
        else:
            while self._more():
                pass
            body, self._received = self._received, b""
        return Got(status, fields, body, self._end or "complete")

    def read_head(self) -> tuple[int, Headers]:
        """Read the head of an answer."""
        while b"\r\n\r\n" not in self._received:
            assert self._more(), f"{self._end} before the end of the head"
        first, self._received = self._received.split(b"\r\n\r\n", 1)
        status, *lines = first.decode("latin-1").split("\r\n")
        return int(status.split(" ")[1]), Headers(tuple(re.split(r":\s*", line, maxsplit=1)) for line in lines)  # type: ignore[misc]

    def read_some(self) -> None:
        """Wait until all of the head is there, or once that is read, some of the body."""
        while not self._received or (self._received.startswith(b"HTTP/1.") and b"\r\n\r\n" not in self._received):
            assert self._more(), f"{self._end} instead"

    def read_until_quiet(self) -> None:
        """Read until nothing comes for a moment; where that is too short, a test is weaker, and does not fail."""
        while select.select([self._sock], [], [], 0.3)[0]:
            assert self._more()

    def _chunks(self) -> Iterator[bytes]:
        """Yield the content of chunks; it is complete after the last, an empty one."""
        while True:
            while b"\r\n" not in self._received:
                if not self._more():
                    return
            size, self._received = self._received.split(b"\r\n", 1)
            chunk = self._take(int(size, 16) + 2)
            if self._end or chunk == b"\r\n":
                return
            yield chunk[:-2]

    def _take(self, count: int) -> bytes:
        parts, there = [self._received], len(self._received)
        while there < count:
            self._received = b""
            if not self._more():
                break
            parts.append(self._received)
            there += len(self._received)
        joined = b"".join(parts)
        self._received = joined[count:]
        return joined[:count]

    def _more(self) -> bool:
        try:
            data = self._sock.recv(256 * KIB)
        except ConnectionResetError:
            self._end = "reset"
            return False
        if not data:
            self._end = "closed"
        self._received += data
        return bool(data)


class Remote:
    """The script of a server behind the adapter, by path.

    /file, /unsized (chunked), /cut and /cut-unsized (lost half-way), /stalled and /stalled-unsized (nothing more after
    some), /silent (nothing at all), /large (`sent` counts, `held` tells that it has to wait); anything else is 404.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.held = threading.Event()

    async def __call__(self, exchange: Exchange) -> None:
        path = exchange.target
        if path == "/silent":
            await exchange.stall()
        elif path == "/file":
            await self._file(exchange)
        elif path == "/large":
            await self._large(exchange)
        elif path in {"/unsized", "/cut", "/cut-unsized", "/stalled", "/stalled-unsized"}:
            await self._partly(exchange, sized="unsized" not in path)
        else:
            await exchange.respond(404)

    async def _file(self, exchange: Exchange) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", exchange.header("Range") or "")
        if asked is None:
            await exchange.respond(200, DATA, [("ETag", TAG)])
            return
        first, last = map(int, asked.groups())
        span = f"bytes {first}-{last}/{len(DATA)}"
        await exchange.respond(206, DATA[first : last + 1], [("ETag", TAG), ("Content-Range", span)])

    async def _partly(self, exchange: Exchange, *, sized: bool) -> None:
        whole = exchange.target == "/unsized"
        framing = ("Content-Length", str(len(DATA))) if sized else ("Transfer-Encoding", "chunked")
        content = DATA if whole else DATA[:CUT]
        await exchange.send(head(200, [framing]))
        await exchange.send(content if sized else b"%x\r\n%b\r\n" % (len(content), content))
        if whole:
            await exchange.send(b"0\r\n\r\n")
            return
        if exchange.target.startswith("/cut"):
            await exchange.cut()
        await exchange.stall()

    async def _large(self, exchange: Exchange) -> None:
        exchange.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KIB)
        await exchange.send(head(200, [("Content-Length", str(LARGE))]))
        block = bytes(64 * KIB)
        while self.sent < LARGE:
            sending = asyncio.ensure_future(exchange.send(block))
            if not (await asyncio.wait((sending,), timeout=0.5))[0]:
                self.held.set()
            await sending
            self.sent += len(block)
