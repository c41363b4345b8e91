"""Small servers for the demonstration, on loopback: HTTP/1.1 and FTP, with faults on purpose.

They are honest where they are not told to fail, and count what they see.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import socket
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

_T = TypeVar("_T")
_HOST: Final = "127.0.0.1"
_PATIENCE: Final = 10.0  # seconds
_MODIFIED: Final = "20170101120000"


@dataclass
class Faults:
    """What a server does wrong: to the paths `corrupt` always, to those in `cut` once."""

    corrupt: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)


class Server(ABC):
    """A server of `files`, paths to bytes; `name` is for people."""

    scheme: str

    def __init__(self, name: str, files: Mapping[str, memoryview], faults: Faults | None = None) -> None:
        self.name, self.files, self.faults = name, files, faults or Faults()
        self.port = 0
        self.requests = self.resumed = self.connections = self.peak = 0
        self.failures: list[str] = []
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        """The URL of its root, with a slash at the end."""
        return f"{self.scheme}://{_HOST}:{self.port}/"

    async def start(self) -> asyncio.Server:
        """Listen."""
        server = await asyncio.start_server(self._connected, _HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def stop(self) -> None:
        """End every connection."""
        for task, writer in self._open.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    @abstractmethod
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to a client until it leaves."""

    def content(self, path: str) -> bytes | memoryview:
        """Return the bytes at *path* as this server has them; KeyError where it has none."""
        content = self.files[path]
        if path not in self.faults.corrupt:
            return content
        wrong = bytearray(content)
        wrong[len(wrong) // 2] ^= 1
        return bytes(wrong)

    def cuts(self, path: str) -> bool:
        """Tell whether to cut off this transfer of *path*; the next one will be whole."""
        if path not in self.faults.cut:
            return False
        self.faults.cut.remove(path)
        return True

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        self.connections += 1
        self.peak = max(self.peak, len(self._open))
        try:
            await self.serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has left
        except asyncio.CancelledError:
            pass  # the demonstration is over
        except Exception as reason:
            self.failures.append(f"{self.name}: {type(reason).__name__}: {reason}")
        finally:
            del self._open[task]
            writer.close()


class Tokens:
    """Issues bearer tokens: the first expires after *uses* requests, those after it last."""

    def __init__(self, uses: int) -> None:
        self.issued = 0
        self._uses = uses
        self._current = ""

    def issue(self) -> bytes:
        """Return a new token; those before it are void."""
        self.issued += 1
        self._current = secrets.token_urlsafe(16)
        return self._current.encode()

    def admits(self, authorization: str | None) -> bool:
        """Tell whether a request with this header field may pass, and count it."""
        if not self._current or authorization != f"Bearer {self._current}":
            return False
        if self.issued == 1:
            self._uses -= 1
        return self.issued > 1 or self._uses >= 0


@dataclass(frozen=True)
class _Answer:
    status: HTTPStatus
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes | memoryview = b""
    sent: int | None = None  # bytes of the body, before the connection is cut

    def head(self) -> bytes:
        fields = (("Content-Length", str(len(self.body))), *self.fields)
        lines = (f"HTTP/1.1 {self.status.value} {self.status.phrase}", *(f"{name}: {value}" for name, value in fields))
        return "\r\n".join((*lines, "", "")).encode()


class HttpServer(Server):
    """HTTP/1.1 with keep-alive and ranges (RFC 9110, section 14); *pages* make their text anew for each request.

    With *tokens*, files are for those who have one.
    """

    scheme = "http"

    def __init__(
        self,
        name: str,
        files: Mapping[str, memoryview],
        faults: Faults | None = None,
        *,
        pages: Mapping[str, Callable[[], bytes]] | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        super().__init__(name, files, faults)
        self._pages, self._tokens = pages or {}, tokens

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after another."""
        while True:
            first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, _ = first.split(" ")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
            self.requests += 1
            answer = self._answer(method, target.lstrip("/"), fields)
            writer.write(answer.head())
            writer.write(answer.body[: answer.sent])
            await writer.drain()
            if answer.sent is not None:
                return

    def _answer(self, method: str, path: str, fields: Mapping[str, str]) -> _Answer:
        if method != "GET":
            return _Answer(HTTPStatus.METHOD_NOT_ALLOWED, (("Allow", "GET"),))
        if path in self._pages:
            return _Answer(HTTPStatus.OK, (("Content-Type", "text/plain"),), self._pages[path]())
        if path not in self.files:
            return _Answer(HTTPStatus.NOT_FOUND)
        if self._tokens is not None and not self._tokens.admits(fields.get("authorization")):
            return _Answer(HTTPStatus.UNAUTHORIZED, (("WWW-Authenticate", 'Bearer realm="demo"'),))
        content = self.content(path)
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        common = (("ETag", tag), ("Accept-Ranges", "bytes"))
        first = _first_byte(fields.get("range"))
        if first is None or fields.get("if-range", tag) != tag:
            return _Answer(HTTPStatus.OK, common, content, len(content) // 2 if self.cuts(path) else None)
        size = len(content)
        if first >= size:
            unsatisfied = ("Content-Range", f"bytes */{size}")
            return _Answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, (*common, unsatisfied))
        self.resumed += 1
        part = ("Content-Range", f"bytes {first}-{size - 1}/{size}")
        return _Answer(HTTPStatus.PARTIAL_CONTENT, (*common, part), content[first:])


def _first_byte(value: str | None) -> int | None:
    """Return N of ``bytes=N-``; any other range is not honoured, as a server may choose (RFC 9110, section 14.2)."""
    unit, _, spec = (value or "").partition("=")
    return int(spec[:-1]) if unit == "bytes" and spec[:-1].isdecimal() and spec.endswith("-") else None


class FtpServer(Server):
    """FTP (RFC 959) with EPSV (RFC 2428), SIZE, MDTM and REST (RFC 3659); everybody may log in."""

    scheme = "ftp"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Obey one command after another."""
        with contextlib.ExitStack() as stack:
            session = _FtpSession(self, writer, stack)
            await session.reply("220 Ready.")
            while line := await reader.readline():
                verb, _, argument = line.decode().rstrip("\r\n").partition(" ")
                if verb.upper() == "QUIT":
                    await session.reply("221 Bye.")
                    return
                await session.obey(verb.upper(), argument)


class _FtpSession:
    """A control connection, and the data connection that it was asked for."""

    def __init__(self, server: FtpServer, control: asyncio.StreamWriter, stack: contextlib.ExitStack) -> None:
        self._server, self._control, self._stack = server, control, stack
        self._offset = 0
        self._data: asyncio.Future[asyncio.StreamWriter] | None = None

    async def reply(self, line: str) -> None:
        self._control.write(f"{line}\r\n".encode())
        await self._control.drain()

    async def obey(self, verb: str, argument: str) -> None:
        match verb:
            case "USER":
                await self.reply("331 Any password will do.")
            case "PASS":
                await self.reply("230 Welcome.")
            case "TYPE":
                await self.reply("200 Bytes it is.")
            case "SIZE" | "MDTM" | "RETR" if argument not in self._server.files:
                await self.reply("550 No such file.")
            case "SIZE":
                await self.reply(f"213 {len(self._server.files[argument])}")
            case "MDTM":
                await self.reply(f"213 {_MODIFIED}")
            case "REST" if argument.isdecimal():
                self._offset = int(argument)
                await self.reply(f"350 Next from byte {self._offset}.")
            case "EPSV":
                await self.reply(f"229 Come in. (|||{await self._listen()}|)")
            case "PASV":
                high, low = divmod(await self._listen(), 256)
                await self.reply(f"227 Come in. ({_HOST.replace('.', ',')},{high},{low})")
            case "RETR":
                await self._retrieve(argument)
            case _:
                await self.reply("502 Not here.")

    async def _listen(self) -> int:
        """Wait for a data connection; return the port."""
        arrived: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            listener.close()
            if arrived.done():
                writer.close()
            else:
                arrived.set_result(writer)

        def release() -> None:
            listener.close()
            if arrived.done() and not arrived.cancelled():
                arrived.result().close()

        listener = await asyncio.start_server(connected, _HOST, 0)
        self._stack.callback(release)
        self._data = arrived
        port: int = listener.sockets[0].getsockname()[1]
        return port

    async def _retrieve(self, path: str) -> None:
        arrived, self._data = self._data, None
        offset, self._offset = self._offset, 0
        if arrived is None:
            await self.reply("425 EPSV or PASV comes first.")
            return
        content = self._server.content(path)
        cut = self._server.cuts(path)
        self._server.requests += 1
        self._server.resumed += offset > 0
        await self.reply(f"150 Here it comes ({len(content)} bytes).")
        data = await asyncio.wait_for(arrived, _PATIENCE)
        try:
            data.write(content[offset : len(content) // 2 if cut else None])
            await data.drain()
        finally:
            data.close()
        with contextlib.suppress(OSError):
            await data.wait_closed()
        await self.reply("426 The connection was cut." if cut else "226 That was all.")


class Site:
    """Runs servers on a loop in a thread of its own, while its ``with`` lasts."""

    def __init__(self, *servers: Server) -> None:
        self.servers = servers

    @property
    def dead_port(self) -> int:
        """A port where nobody listens, and that nobody else can take."""
        port: int = self._nobody.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        self._nobody = socket.socket()
        self._nobody.bind((_HOST, 0))  # and no listen()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="demo servers", daemon=True)
        self._thread.start()
        self._listeners = [self._run(server.start()) for server in self.servers]
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()
        self._nobody.close()

    async def _stop(self) -> None:
        for listener in self._listeners:
            listener.close()
        for server in self.servers:
            await server.stop()
        await asyncio.sleep(0)  # the transports' own last calls

    def _run(self, work: Coroutine[object, object, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)
