"""A data connection: bytes in, until the server ends it."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Self

from ._failures import bounded

if TYPE_CHECKING:
    from asyncio import Future


class DataConnection:
    """What a server sends; it stays with the system, which bounds it, until somebody has memory for it.

    A socket and not a transport: to open and to close it costs a small file half as much, and memory is written to only
    while `take` runs, never behind the back of somebody who has given up waiting.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._loop = asyncio.get_running_loop()
        self._waiter: Future[None] | None = None

    @classmethod
    async def open(cls, family: int, address: tuple[str | int, ...], seconds: float | None) -> Self:
        """Connect to *address*, as sockets of *family* name it, within *seconds*; raises `FetchError` only."""
        opened = socket.socket(family, socket.SOCK_STREAM)
        try:
            opened.setblocking(False)
            if not _connects_at_once(opened, address):
                connecting = asyncio.get_running_loop().sock_connect(opened, address)
                await bounded(connecting, seconds, phase="connect", doing="data connection")
        except BaseException:
            opened.close()
            raise
        return cls(opened)

    def take(self, view: memoryview) -> int | None:
        """Put what has arrived into *view*; return its bytes, 0 at the end, or None if there is nothing yet.

        Raises OSError if the connection was lost.
        """
        try:
            return self._socket.recv_into(view)
        except (BlockingIOError, InterruptedError):
            return None

    async def arrival(self) -> None:
        """Wait until `take` has something to tell."""
        self._waiter = self._loop.create_future()
        self._loop.add_reader(self._socket, self._rouse)
        try:
            await self._waiter
        finally:
            self._stop_waiting()

    def close(self) -> None:
        """Close at once, whatever is still to come; who waits for it is told of the end."""
        self._rouse()
        self._stop_waiting()
        self._socket.close()

    def _rouse(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _stop_waiting(self) -> None:
        if self._waiter is not None:
            self._waiter = None
            self._loop.remove_reader(self._socket)


def _connects_at_once(opened: socket.socket, address: tuple[str | int, ...]) -> bool:
    """Begin to connect, and tell whether that is done: where the server is near, nothing is there to wait for.

    The second call tells how the first went: a socket that does not block may have to leave that open.
    """
    return opened.connect_ex(address) == 0 or opened.connect_ex(address) in {0, errno.EISCONN}
