"""One control connection: aioftp's client, made tolerant in what it reads and bounded in all that it does."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

import aioftp

from downhaul import ConnectError, FetchError, RangeRefused, User

from ._data import DataConnection
from ._failures import bounded, refused
from ._location import wire
from ._replies import (
    MAX_LINE,
    Reply,
    announced_size,
    extended_port,
    passive_port,
    read_reply,
    shown,
    size_of,
    time_of,
)

if TYPE_CHECKING:
    from downhaul import Timeout

    from ._location import Location

ANONYMOUS: Final = User("anonymous", "anonymous@")

_ANY: Final = "xxx"  # aioftp's mask for every code: what a code means is decided here
_KEPT_ALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 8))


class Client(aioftp.BaseClient):
    """A control connection, logged in, for bytes as they are (TYPE I).

    Every method raises `FetchError` only; after one was raised the connection is in doubt and must not be used again.
    """

    def __init__(self, user: User, timeout: Timeout) -> None:
        # Latin-1 is bytes: names go out and texts come in as they are. `limit` is that of asyncio's stream.
        super().__init__(encoding="latin-1", limit=MAX_LINE)
        self._user = user
        self._secrets = () if user is ANONYMOUS else tuple(filter(None, (wire(user.password), wire(user.name))))
        self.timeout = timeout
        self.answered = False
        """Whether the server has answered anything since this was last set to False."""

    @classmethod
    async def opened(cls, location: Location, user: User, timeout: Timeout) -> Self:
        """Connect and log in, each step within ``timeout.connect`` seconds."""
        client = cls(user, timeout)
        ready = False
        try:
            await client._log_in(location)
            ready = True
        finally:
            if not ready:
                await client.drop()
        return client

    async def size(self, path: bytes) -> tuple[int | None, Reply]:
        """Return the bytes of the file (RFC 3659, section 4), None where the server does not tell, and its reply."""
        reply = await self._optional(f"SIZE {path.decode('latin-1')}")
        return size_of(reply), reply

    async def modified(self, path: bytes) -> tuple[str | None, Reply]:
        """Return the time of modification (RFC 3659, section 3), None where the server does not tell, and its reply."""
        reply = await self._optional(f"MDTM {path.decode('latin-1')}")
        return time_of(reply), reply

    async def open_data(self, read_ahead: int, *, extended: bool) -> tuple[DataConnection, bool]:
        """Open a data connection to the host of the control connection, whatever host the server names.

        Tries EPSV first where *extended* is set, then PASV. Returns the connection, and whether EPSV made it.
        """
        failure: FetchError | None = None
        if extended:
            reply = await self._ask("EPSV")
            if reply.transient:
                raise refused("EPSV", reply)
            port = extended_port(reply)
            if port is None:
                failure = refused("EPSV", reply)
            else:
                data, failure = await self._reach(port, read_ahead)
                if data is not None:
                    return data, True
        reply = await self._ask("PASV")
        if reply.transient:
            raise refused("PASV", reply)
        port = passive_port(reply)
        if port is None:
            raise failure or refused("PASV", reply)
        data, failure = await self._reach(port, read_ahead)
        if data is None:
            raise failure or ConnectError("no data connection")
        return data, False

    async def restart(self, offset: int) -> None:
        """Let the next transfer begin at *offset* bytes (RFC 3659, section 5); raises `RangeRefused` if it cannot."""
        reply = await self._ask(f"REST {offset}")
        if reply.code == 350:
            return
        if reply.transient:
            raise refused("REST", reply)
        raise RangeRefused(f"the server cannot start at an offset: {reply.code} {reply.shown}")

    async def retrieve(self, path: bytes, offset: int) -> tuple[Reply | None, int | None]:
        """Begin the transfer of *path*; return the final reply, if it is there already, and the announced size."""
        reply = await self._ask(f"RETR {path.decode('latin-1')}", preliminary=True)
        if not reply.preliminary and not reply.positive:
            if offset and reply.code in (551, 554):
                raise RangeRefused(f"the server cannot start at an offset: {reply.code} {reply.shown}")
            raise refused("RETR", reply, of_file=True)
        return None if reply.preliminary else reply, announced_size(reply, path)

    async def final_reply(self, seconds: float | None) -> Reply:
        """Return the reply that ends a transfer, for which to wait at most *seconds*."""
        return await bounded(self._read(), seconds, phase="head", doing="end of the transfer")

    async def is_quiet(self) -> bool:
        """Tell whether an idle connection is still open and nothing was said on it that nobody has read."""
        reader = self.stream.reader
        try:
            async with asyncio.timeout(0):
                await reader.read(1)
        except TimeoutError:
            return not reader.at_eof()
        except OSError:
            pass
        return False

    def cut(self) -> None:
        """Close at once; the socket is gone after the loop's next turn."""
        if self._stream is not None:
            self._stream.writer.transport.abort()

    async def drop(self) -> None:
        """Close at once, and wait until the socket is gone."""
        self.cut()
        await self._gone()

    async def leave(self) -> None:
        """Say good-bye without waiting for the answer, and close."""
        if self._stream is not None and not self._stream.writer.is_closing():
            with suppress(OSError):
                self._stream.writer.write(b"QUIT\r\n")
                self._stream.writer.close()
                async with asyncio.timeout(1):
                    await self._gone()
                    return  # asyncio cannot abort a transport that closed after sending its rest
        await self.drop()

    async def _gone(self) -> None:
        if self._stream is not None:
            with suppress(OSError):
                await self._stream.writer.wait_closed()

    async def _log_in(self, location: Location) -> None:
        where = f"connecting to {location.host}"
        limit = self.timeout.connect
        await bounded(self.connect(location.host, location.port), limit, phase="connect", doing=where)
        _keep_alive(self.stream.writer.get_extra_info("socket"))
        reply = await bounded(self._read(), limit, phase="connect", doing="greeting")
        if not reply.positive:
            raise refused("greeting", reply)
        if reply.code != 230:  # some let everybody in at once
            reply = await self._tell("USER", self._user.name)
            if reply.intermediate and reply.code != 332:
                reply = await self._tell("PASS", self._user.password)
            if not reply.positive:
                raise refused("login", reply)
        reply = await bounded(self._exchange("TYPE I"), limit, phase="connect", doing="TYPE")
        if not reply.positive:
            raise refused("TYPE I", reply)

    async def _tell(self, verb: str, secret: str) -> Reply:
        """Send a part of the credentials, past aioftp's `command`, which logs what it sends."""

        async def work() -> Reply:
            await self.stream.write(f"{verb} {wire(secret)}\r\n".encode("latin-1"))
            return await self._read()

        return await bounded(work(), self.timeout.connect, phase="connect", doing="login")

    async def _reach(self, port: int, read_ahead: int) -> tuple[DataConnection | None, FetchError | None]:
        host, *rest = self.stream.writer.get_extra_info("peername")
        if len(rest) == 3 and rest[2]:
            host = f"{host.partition('%')[0]}%{rest[2]}"  # a link-local address is of one interface
        opening = DataConnection.open(host, port, read_ahead)
        try:
            return await bounded(opening, self.timeout.connect, phase="connect", doing="data connection"), None
        except FetchError as error:
            return None, error

    async def _optional(self, command: str) -> Reply:
        reply = await self._ask(command)
        if reply.transient:
            raise refused(command[:4], reply, of_file=True)
        if reply.code < 500 and reply.code != 213:
            # Perhaps the answer to something else: better no answer than that of another file.
            raise refused(command[:4], reply)
        return reply

    async def _ask(self, command: str, *, preliminary: bool = False) -> Reply:
        timeout = self.timeout
        work = self._exchange(command, preliminary=preliminary)
        reply = await bounded(work, timeout.head or timeout.read, phase="head", doing=command[:4].strip())
        if reply.code == 421:  # the server hangs up
            raise refused(command[:4].strip(), reply)
        self.answered = True
        return reply

    async def _exchange(self, command: str, *, preliminary: bool = False) -> Reply:
        return self._reply(await self.command(command, _ANY, () if preliminary else "1xx"))

    async def _read(self) -> Reply:
        return self._reply(await self.command(None, _ANY, "1xx"))

    def _reply(self, answer: tuple[aioftp.Code, list[str]]) -> Reply:
        code, lines = answer
        text = " ".join(filter(None, (line.strip() for line in lines)))
        return Reply(int(code), text, shown(text, self._secrets))

    async def parse_response(self) -> tuple[aioftp.Code, list[str]]:
        """Read one reply; called by aioftp."""
        code, lines = await read_reply(self.stream.readline)
        return aioftp.Code(code), lines


def _keep_alive(control: socket.socket) -> None:
    """Let the kernel probe: during a long transfer nothing else passes here, and middleboxes forget silent ones."""
    with suppress(OSError):
        control.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEPT_ALIVE:
            if (option := getattr(socket, name, None)) is not None:
                control.setsockopt(socket.IPPROTO_TCP, option, value)
