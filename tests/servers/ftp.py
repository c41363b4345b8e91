"""A scripted FTP server: well-behaved unless told otherwise, and it remembers what it was told.

It runs in a thread of its own, so that blocking and asyncio tests use it alike::

    with FtpServer({"pub/a.txt": b"alpha"}, replies={"EPSV": "500 what?"}) as server:
        ...                                 # download server.url("pub/a.txt")
        assert server.commands[-1] == "RETR pub/a.txt"
        server.settle()                     # every connection was closed by the other side

What may be scripted: `replies` per command, a `Fault` per file, and the arguments of `FtpServer`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

HANG_UP: Final = "<hang up>"
"""In place of a reply: close the control connection."""

SILENCE: Final = "<silence>"
"""In place of a reply: say nothing, and go on listening."""

Script = str | Sequence[str]
"""A reply without its line end (line breaks within it are sent as CR LF, characters as Latin-1), `HANG_UP`,
`SILENCE`, or several of these, one per time; the last one stays."""

_DEFAULTS: Final = {
    "USER": "331 Password, please.", "PASS": "230 Welcome.", "TYPE": "200 Binary it is.", "REST": "350 Noted.",
    "QUIT": "221 Bye.", "NOOP": "200 Nothing done.", "CWD": "250 Here you are.", "PWD": '257 "/" is where you are.',
    "SYST": "215 UNIX Type: L8", "FEAT": "211 None.",
}  # fmt: skip
_BLOCK: Final = 65536
_RETIREMENT: Final = 0.1


@dataclass(frozen=True)
class Fault:
    """What goes wrong when one file is retrieved.

    `cut`: only so many bytes of what was asked for are sent, then `extra`. `pause`: after so many bytes, the rest of
    these waits for ``server.release()``. `ends`: how the data connection ends: closed, reset, or held open until
    ``server.release()``, before the final reply. `opening` and `final` are the replies around the bytes; None is none.
    `hang_up`: the control connection is closed after `opening`, while the bytes go on. `ignores_rest`: the file comes
    from its start although REST was accepted. `times`: how often the fault shows; None is always.
    """

    cut: int | None = None
    extra: bytes = b""
    pause: int | None = None
    ends: Literal["close", "reset", "hold"] = "close"
    opening: str | None = "150 Here it comes ({size} bytes)."
    final: str | None = "226 Done."
    hang_up: bool = False
    ignores_rest: bool = False
    times: int | None = None


_SOUND: Final = Fault()


class FtpServer:
    """Serves `files`, names to bytes, until the ``with`` ends.

    `replies` maps a command ("SIZE") or a command line ("SIZE a.txt") to a `Script`; `faults` maps names of files to
    a `Fault`. `greeting` is a `Script` too: ``["421 Full."] * 2 + ["220 Hello."]``. `modified` is what MDTM tells of
    every file. `users` maps names to passwords; None lets everybody in. `dead_epsv` lets EPSV name a port where
    nobody listens. `pasv_host` is what PASV names; connections to that host (127.0.0.2, say) are counted in `lured`.
    `host` may be "::1". `late` are commands that are answered after ``release()`` only. With `loses_commands`, of
    commands that come in one piece all but the first are lost.
    """

    def __init__(
        self,
        files: Mapping[str, bytes] | None = None,
        *,
        replies: Mapping[str, Script] | None = None,
        faults: Mapping[str, Fault] | None = None,
        greeting: Script = "220 Hello.",
        modified: str = "20240102030405",
        users: Mapping[str, str] | None = None,
        dead_epsv: bool = False,
        pasv_host: str | None = None,
        host: str = "127.0.0.1",
        late: Collection[str] = (),
        loses_commands: bool = False,
    ) -> None:
        self.files = dict(files or {})
        self.replies = dict(replies or {})
        self.faults = dict(faults or {})
        self.greeting = greeting
        self.modified = modified
        self.users = users
        self.dead_epsv = dead_epsv
        self.pasv_host = pasv_host
        self.host = host
        self.late = late
        self.loses_commands = loses_commands
        self.port = 0
        self.commands: list[str] = []
        """Every command line that came, in order, over all connections, as Latin-1."""
        self.pieces: list[str] = []
        """The same as it was read: the verbs of commands that came in one piece, such as "SIZE MDTM EPSV"."""
        self.controls = 0
        """How many control connections were opened in all."""
        self.open_controls = 0
        self.open_data = 0
        self.peak_controls = 0
        """How many control connections were open at once, at most."""
        self.peak_data = 0
        """The same of data connections; each counts until its end is noticed here."""
        self.lured = 0
        """How many connections went to `pasv_host`."""
        self._changed = threading.Condition()
        self._turns: dict[str, int] = {}
        self._released: asyncio.Event
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._retired: set[asyncio.Server] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="ftp server", daemon=True)

    def url(self, path: str = "") -> str:
        """Return the URL of *path*, which is taken as it is."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ftp://{host}:{self.port}/{path}"

    def sent(self, command: str) -> int:
        """Return how often *command* ("RETR") came."""
        return sum(line.partition(" ")[0].upper() == command for line in self.commands)

    def release(self) -> None:
        """Let everything go on that is held."""
        self._loop.call_soon_threadsafe(self._released.set)

    def interject(self, reply: str, *, hang_up: bool = False) -> None:
        """Send *reply* ("" is nothing) on every control connection, unasked, then close it if *hang_up* is set."""

        async def work() -> None:
            for writer in tuple(self._writers):
                if reply:
                    writer.write(reply.encode("latin-1") + b"\r\n")
                if hang_up:
                    writer.close()

        asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    def wait(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Block until *condition* holds; it is asked whenever something changes here. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(condition, seconds):
                raise TimeoutError(f"it did not happen: {self.commands[-5:]}, {self.open_controls} connections open")

    def settle(self, seconds: float = 10.0) -> None:
        """Block until no connection is open any more."""
        self.wait(lambda: not self.open_controls and not self.open_data, seconds)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._drain())
        self._loop.close()

    async def _start(self) -> None:
        self._released = asyncio.Event()
        self._server = await asyncio.start_server(self._accept, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        await _turns()
        self._server.close()
        await self._drain()
        for listener in tuple(self._retired):
            self._close(listener)

    def _retire(self, listener: asyncio.Server) -> None:
        """Close *listener* a little later: asyncio leaks the socket of a connection that is just being accepted."""
        self._retired.add(listener)
        self._loop.call_later(_RETIREMENT, self._close, listener)

    def _close(self, listener: asyncio.Server) -> None:
        self._retired.discard(listener)
        listener.close()

    async def _drain(self) -> None:
        """End everything; what was being accepted meanwhile turns up some turns of the loop later."""
        for _ in range(10):
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._start_task(_Session(self, reader, writer).run(), writer)

    def _start_task(self, work: Coroutine[Any, Any, None], writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: _abort(writer))  # also where it never began

    def _note(self, *, controls: int = 0, data: int = 0, lured: int = 0, command: str | None = None) -> None:
        with self._changed:
            self.open_controls += controls
            self.open_data += data
            self.controls += max(controls, 0)
            self.lured += lured
            self.peak_controls = max(self.peak_controls, self.open_controls)
            self.peak_data = max(self.peak_data, self.open_data)
            if command is not None:
                self.commands.append(command)
            self._changed.notify_all()

    def _turn(self, key: str, script: Script) -> str:
        if isinstance(script, str):
            return script
        turn = self._turns.get(key, 0)
        self._turns[key] = turn + 1
        return script[min(turn, len(script) - 1)]

    def _fault(self, name: str) -> Fault:
        fault = self.faults.get(name, _SOUND)
        if fault.times is None:
            return fault
        turn = self._turns.get(f"fault {name}", 0)
        self._turns[f"fault {name}"] = turn + 1
        return fault if turn < fault.times else _SOUND


class _Data(NamedTuple):
    """A data connection, and whether it is closed."""

    writer: asyncio.StreamWriter
    closed: asyncio.Event


class _Session:
    """One control connection, and the data connection that belongs to it."""

    def __init__(self, server: FtpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.rest = b""
        self.waiting: list[str] = []
        self.user = ""
        self.offset = 0
        self.listener: asyncio.Server | None = None
        self.lure: asyncio.Server | None = None
        self.data: asyncio.Future[_Data] | None = None

    async def run(self) -> None:
        self.server._note(controls=1)
        self.server._writers.add(self.writer)
        try:
            if await self.say(self.server._turn("greeting", self.server.greeting)):
                while (command := await self.command()) is not None:
                    self.server._note(command=command)
                    if not await self.obey(command):
                        break
        except (OSError, ValueError, asyncio.IncompleteReadError):
            pass
        finally:
            self.close_listeners()
            self.server._writers.discard(self.writer)
            _abort(self.writer)
            self.server._note(controls=-1)

    async def command(self) -> str | None:
        """Return the next command line, or None at the end of the connection."""
        while not self.waiting:
            data = await self.reader.read(_BLOCK)
            if not data:
                return None
            *lines, self.rest = (self.rest + data).split(b"\n")
            commands = [line.rstrip(b"\r").decode("latin-1") for line in lines]
            self.server.pieces.append(" ".join(command.partition(" ")[0] for command in commands))
            self.waiting += commands[:1] if self.server.loses_commands else commands
        return self.waiting.pop(0)

    async def say(self, reply: str) -> bool:
        """Send *reply*; return whether the connection goes on."""
        if reply == HANG_UP:
            return False
        if reply != SILENCE:
            self.writer.write(reply.encode("latin-1").replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n")
            await self.writer.drain()
        return not reply.startswith("421")

    async def obey(self, line: str) -> bool:
        verb, _, argument = line.partition(" ")
        verb = verb.upper()
        if verb in self.server.late:
            await self.server._released.wait()
        for key in (line, verb):
            if key in self.server.replies:
                reply = self.server._turn(key, self.server.replies[key])
                break
        else:
            reply = await self.act(verb, argument)
        if not reply:
            return True
        if verb == "REST" and reply.startswith("350"):
            self.offset = int(argument)
        return await self.say(reply) and verb != "QUIT" and reply != HANG_UP

    async def act(self, verb: str, argument: str) -> str:
        """Return the reply of a server that behaves; what a transfer needs is said by itself."""
        if verb == "USER":
            self.user = argument
        if verb == "PASS" and self.server.users is not None and self.server.users.get(self.user) != argument:
            return "530 Login incorrect."
        if verb == "EPSV":
            return f"229 Extended passive mode (|||{await self.listen(dead=self.server.dead_epsv)}|)"
        if verb == "PASV":
            port = await self.listen(dead=False)
            host = (self.server.pasv_host or "127.0.0.1").replace(".", ",")
            return f"227 Passive mode ({host},{port >> 8},{port & 255})"
        if verb in {"SIZE", "MDTM", "RETR"}:
            content = self.server.files.get(argument)
            if content is None:
                return "550 No such file."
            if verb == "RETR":
                return HANG_UP if await self.retrieve(argument, content) else ""
            return f"213 {len(content) if verb == 'SIZE' else self.server.modified}"
        return _DEFAULTS.get(verb, "502 Not implemented.")

    async def listen(self, *, dead: bool) -> int:
        """Return the port of a new data connection."""
        self.close_listeners()
        if dead:
            with socket.socket() as unused:
                unused.bind((self.server.host, 0))
                return int(unused.getsockname()[1])
        self.data = asyncio.get_running_loop().create_future()
        self.listener = await asyncio.start_server(partial(self.connected, self.data), self.server.host, 0)
        port = int(self.listener.sockets[0].getsockname()[1])
        if self.server.pasv_host is not None:
            self.lure = await asyncio.start_server(self.lured, self.server.pasv_host, port)
        return port

    def connected(
        self, expected: asyncio.Future[_Data], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server._note(data=1)
        data = _Data(writer, asyncio.Event())
        self.server._start_task(self.watch(reader, data), writer)
        if not expected.done():
            expected.set_result(data)

    async def watch(self, reader: asyncio.StreamReader, data: _Data) -> None:
        """Wait until one side closes the data connection."""
        try:
            await reader.read()
        except OSError:
            pass
        finally:
            _abort(data.writer)
            data.closed.set()
            self.server._note(data=-1)

    def lured(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server._note(lured=1)
        _abort(writer)

    def close_listeners(self) -> None:
        for listener in (self.listener, self.lure):
            if listener is not None:
                self.server._retire(listener)
        self.listener = self.lure = None

    async def retrieve(self, name: str, content: bytes) -> bool:
        """Send a file; return whether the control connection is to be closed."""
        fault = self.server._fault(name)
        offset, self.offset = self.offset, 0
        if self.data is None:
            await self.say("425 No data connection.")
            return False
        writer, closed = await asyncio.wait_for(self.data, 10)
        self.data = None
        if fault.opening is not None:
            await self.say(fault.opening.replace("{size}", str(len(content))))
        if fault.hang_up:
            _abort(self.writer)
        part = content if fault.ignores_rest else content[offset:]
        part = (part if fault.cut is None else part[: fault.cut]) + fault.extra
        pause = len(part) if fault.pause is None else fault.pause
        await self.send(writer, part[:pause])
        if part[pause:]:
            await self.held(closed)
            await self.send(writer, part[pause:])
        if fault.ends == "hold":
            await self.held(closed)
        if fault.ends == "reset":
            await _sent(writer)
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            _abort(writer)
        else:
            writer.close()
        return fault.hang_up or not (fault.final is None or await self.say(fault.final))

    async def send(self, writer: asyncio.StreamWriter, part: bytes) -> None:
        for start in range(0, len(part), _BLOCK):
            writer.write(part[start : start + _BLOCK])
            await writer.drain()

    async def held(self, closed: asyncio.Event) -> None:
        """Wait until the server is released, or the client gives up."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.server._released, closed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()


async def _turns() -> None:
    """Let the loop turn, until what was being accepted is."""
    for _ in range(10):
        await asyncio.sleep(0)


async def _sent(writer: asyncio.StreamWriter) -> None:
    writer.transport.set_write_buffer_limits(0)
    await writer.drain()


def _abort(writer: asyncio.StreamWriter) -> None:
    with suppress(AttributeError):  # asyncio's answer where the transport closed after sending its rest
        writer.transport.abort()
