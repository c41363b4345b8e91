"""A control connection that is open: commands out, replies in."""

from __future__ import annotations

import asyncio
import select
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from downhaul import ConnectError, ProtocolError

from ._clock import Clock
from ._replies import MAX_LINE, Assembly, no_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from downhaul import FetchError

_MOST_UNREAD: Final = 8


class Control(asyncio.Protocol):
    """The lines of a control connection, taken over from the protocol that opened it.

    Not a stream: replies are put together as they arrive, so that whoever waits for one is woken once, and what was
    said unasked is known of without waiting.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        self._writer = writer
        self._transport = transport
        self._before = transport.get_protocol()
        self._rest = b""
        self._assembly = Assembly()
        self._unread: deque[tuple[str, list[str]]] = deque()
        self._failure: Callable[[], FetchError] | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._clock = Clock()
        self._readable = select.poll()
        self._readable.register(transport.get_extra_info("socket"), select.POLLIN)

    @classmethod
    async def taken_over(cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Self:
        """Take a connection from the stream of *reader* and *writer*, with what that has read and nobody has seen."""
        ended = reader.at_eof()
        reader.feed_eof()  # so that it gives what it has, and waits for nothing
        control = cls(writer)
        control._transport.set_protocol(control)
        control.data_received(await reader.read())
        if ended:
            control.eof_received()
        return control

    def peer(self, port: int) -> tuple[int, tuple[str | int, ...]]:
        """Return the family, and the address for *port*, of the host at the other end."""
        host, _, *scope = self._transport.get_extra_info("peername")
        # A link-local address is of one interface, which `scope` names already.
        return self._transport.get_extra_info("socket").family, (host.partition("%")[0], port, *scope)

    def send(self, *commands: bytes) -> None:
        """Send *commands*, in one piece."""
        self._transport.write(b"".join(command + b"\r\n" for command in commands))

    async def reply(self, seconds: float, *, preliminary: bool = False) -> tuple[str, list[str]] | None:
        """Wait at most *seconds* for the next reply, its code and its lines; return None if there is none by then.

        Preliminary ones are passed over unless they are asked for. Raises `ConnectError` and `ProtocolError`.
        """
        self._clock.start(seconds, partial(self._rouse, False))
        try:
            while (answer := self._take(preliminary=preliminary)) is None:
                if self._failure is not None:
                    raise self._failure()
                self._waiter = asyncio.get_running_loop().create_future()
                if not await self._waiter:
                    break
        finally:
            self._waiter = None
            self._clock.stop()
        return answer

    def is_quiet(self) -> bool:
        """Tell whether the connection is open, and nothing was said on it that nobody has read."""
        unread = self._unread or self._rest or self._assembly.begun or self._failure
        return not unread and not self._transport.is_closing() and not self._readable.poll(0)

    def cut(self) -> None:
        """Close at once; the socket is gone after the loop's next turn."""
        self._transport.abort()

    async def drop(self) -> None:
        """Close at once, and wait until the socket is gone."""
        await drop(self._writer)

    async def leave(self) -> None:
        """Say good-bye without waiting for the answer, and close."""
        if not self._transport.is_closing():
            with suppress(OSError):
                self.send(b"QUIT")
                self._transport.close()
                async with asyncio.timeout(1):
                    await self._writer.wait_closed()
                    return  # asyncio cannot abort a transport that closed after sending its rest
        await self.drop()

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            for line in lines:
                answer = self._assembly.add(line)
                if answer is not None:
                    self._unread.append(answer)
            if len(self._rest) > MAX_LINE or len(self._unread) > _MOST_UNREAD:
                raise no_reply()
        except ProtocolError:
            self._transport.pause_reading()  # what came before counts; nothing more is wanted
            self._fail(no_reply)
        if self._unread:
            self._rouse(True)

    def eof_received(self) -> bool:
        """Called by the loop."""
        self._fail(lambda: ConnectError("the server closed the control connection"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        reason = "the server closed the control connection" if exc is None else f"control connection: {exc}"
        self._fail(lambda: ConnectError(reason))
        self._clock.end()
        self._before.connection_lost(exc)

    def _take(self, *, preliminary: bool) -> tuple[str, list[str]] | None:
        while self._unread:
            answer = self._unread.popleft()
            if preliminary or answer[0][0] != "1":
                return answer
        return None

    def _fail(self, failure: Callable[[], FetchError]) -> None:
        self._failure = self._failure or failure
        self._rouse(True)

    def _rouse(self, news: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(news)


async def drop(writer: asyncio.StreamWriter) -> None:
    """Close the connection of *writer* at once, and wait until the socket is gone."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()
