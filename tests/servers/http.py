r"""A scripted HTTP server: a coroutine decides, byte by byte, what a request gets.

    async def script(exchange):
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel")
        await exchange.cut()

    with http_server(script) as server:
        ... server.url("/file") ... server.requests ... server.peak

It runs on a loop and a thread of its own, so tests may be synchronous or not. A connection stays open for further
requests until the script cuts it or the client leaves. What goes wrong in a script is raised where the ``with`` ends.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    Script = Callable[["Exchange"], Awaitable[None]]
    RawScript = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PATIENCE = 20.0


class Left(Exception):
    """The connection is gone; ends a script without being an error."""


@dataclass
class Exchange:
    """One request, and the means to answer it.

    `connection` numbers the connections of the server and `turn` the requests of this one, both from 1.
    """

    method: str
    target: str
    headers: list[tuple[str, str]]
    connection: int
    turn: int
    reader: asyncio.StreamReader = field(repr=False)
    writer: asyncio.StreamWriter = field(repr=False)

    def header(self, name: str) -> str | None:
        """Return the value of a request header, several joined by a comma, or None."""
        values = [value for each, value in self.headers if each.lower() == name.lower()]
        return ", ".join(values) if values else None

    async def send(self, *pieces: bytes) -> None:
        """Send bytes, each piece by itself."""
        try:
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()
        except OSError:
            raise Left from None

    async def respond(
        self, status: int = 200, body: bytes = b"", headers: Iterable[tuple[str, str]] = (), *, length: bool = True
    ) -> None:
        """Send a whole answer; with a Content-Length unless *length* is false."""
        await self.send(head(status, [*([("Content-Length", str(len(body)))] if length else []), *headers]))
        if self.method != "HEAD":
            await self.send(body)

    async def cut(self) -> None:
        """Close the connection in an orderly way."""
        self.writer.close()
        raise Left

    async def reset(self) -> None:
        """Reset the connection, after what was sent has arrived."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        raise Left

    async def stall(self) -> None:
        """Say nothing more until the client leaves."""
        while await self.reader.read(65536):
            pass
        raise Left


def head(status: int, headers: Iterable[tuple[str, str]] = (), version: str = "HTTP/1.1") -> bytes:
    """Return the bytes of the head of an answer."""
    lines = [f"{version} {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class HttpServer:
    """A running server: where it is, what it was asked, how many connections it had."""

    def __init__(self, script: Script | None, raw: RawScript | None, tls: ssl.SSLContext | None) -> None:
        self.requests: list[Exchange] = []
        self.connections = 0
        self.open = 0
        self.busy = 0
        """Answers under way."""
        self.peak = 0
        self.failures: list[BaseException] = []
        self.scheme = "https" if tls else "http"
        self.host = "localhost" if tls else "127.0.0.1"
        self.port = 0
        self._script = script
        self._raw = raw
        self._tls = tls
        self._changed = threading.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def url(self, path: str = "/") -> str:
        """Return the URL of *path*."""
        return f"{self.scheme}://{self.host}:{self.port}{path}"

    def wait_until(self, condition: Callable[[HttpServer], bool], seconds: float = PATIENCE) -> None:
        """Wait until *condition* of this server holds; it is looked at after each request and connection."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), seconds):
                raise TimeoutError("the server did not come to that")

    async def until(self, condition: Callable[[HttpServer], bool], seconds: float = PATIENCE) -> None:
        """Do the same as `wait_until`, without blocking the loop."""
        await asyncio.to_thread(self.wait_until, condition, seconds)

    async def _start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with self._changed:
            self.connections += 1
            self.open += 1
            self.peak = max(self.peak, self.open)
            number = self.connections
            self._changed.notify_all()
        try:
            await (self._raw(reader, writer) if self._raw else self._serve(reader, writer, number))
        except (Left, OSError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        except BaseException as reason:
            self.failures.append(reason)
        finally:
            writer.close()
            self._tasks.discard(task)
            with self._changed:
                self.open -= 1
                self._changed.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        assert self._script is not None
        turn = 0
        while True:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, _ = lines[0].split(" ")
            headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:-2])]
            turn += 1
            exchange = Exchange(method, target, headers, number, turn, reader, writer)
            with self._changed:
                self.requests.append(exchange)
                self.busy += 1
                self._changed.notify_all()
            try:
                await self._script(exchange)
            finally:
                with self._changed:
                    self.busy -= 1
                    self._changed.notify_all()

    async def _stop(self, server: asyncio.Server) -> None:
        server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(0)  # the transports' own callbacks


@contextmanager
def http_server(
    script: Script | None = None, *, raw: RawScript | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[HttpServer]:
    """Run a server that answers each request by *script*, or each connection by *raw*, before anything is read."""
    with Thread() as thread:
        server = HttpServer(script, raw, tls)
        listening = thread.run(server._start())
        try:
            yield server
        finally:
            thread.run(server._stop(listening))
    if server.failures:
        raise server.failures[0]


class Thread:
    """A loop on a thread of its own."""

    def __enter__(self) -> Thread:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda loop, context: None)  # resets in the middle of a handshake
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def run(self, coroutine):
        """Run *coroutine* there and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def __exit__(self, *_: object) -> None:
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
