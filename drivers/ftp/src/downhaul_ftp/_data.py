"""A data connection: bytes in, until the server ends it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from asyncio import Future, Transport


class DataConnection(asyncio.Protocol):
    """Receives what a server sends, at most about *read_ahead* bytes ahead of whoever takes it.

    A protocol and not a stream: the blocks that the socket delivered are passed on as they are.
    """

    def __init__(self, read_ahead: int) -> None:
        self._read_ahead = read_ahead
        self._blocks: deque[bytes] = deque()
        self._waiting = 0
        self._paused = False
        self._ended = False
        self._failure: Exception | None = None
        self._wake: Future[None] | None = None
        self._transport: Transport
        self._closed = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, host: str, port: int, read_ahead: int) -> Self:
        """Connect to *port* of *host*; raises OSError."""
        _, connection = await asyncio.get_running_loop().create_connection(lambda: cls(read_ahead), host, port)
        return connection

    def take(self) -> bytes | None:
        """Return what has arrived, b"" at the end, or None if there is nothing yet; raises OSError if it was lost."""
        if not self._blocks:
            if not self._ended:
                return None
            if self._failure is not None:
                raise ConnectionResetError(str(self._failure) or "connection reset")
            return b""
        block = self._blocks[0] if len(self._blocks) == 1 else b"".join(self._blocks)
        self._blocks.clear()
        self._waiting = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return block

    async def arrival(self) -> None:
        """Wait until `take` has something to tell."""
        if not self._blocks and not self._ended:
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None

    async def aclose(self) -> None:
        """Close at once, whatever is still to come, and wait until the socket is gone."""
        if not self._closed.done():
            self._transport.abort()
        await asyncio.shield(self._closed)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._blocks.append(data)
        self._waiting += len(data)
        if self._waiting >= self._read_ahead and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._rouse()

    def eof_received(self) -> bool:
        """Called by the loop."""
        self._ended = True
        self._rouse()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._ended = True
        self._failure = exc
        if not self._closed.done():
            self._closed.set_result(None)
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
