"""Control connections that wait for the next file."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from asyncio import TimerHandle
    from collections.abc import Callable

    from downhaul import IdleConnections, Settings, User

    from ._client import Client


class Key(NamedTuple):
    """What connections must have in common to stand in for each other."""

    origin: str
    user: User
    connection: Settings


class _Wait(NamedTuple):
    """What ends when a connection is idle no more."""

    timer: TimerHandle
    over: Callable[[], None]

    def end(self) -> None:
        self.timer.cancel()
        self.over()


class Pool:
    """Keeps idle connections for some seconds, and knows those in use, so that none outlives `aclose`."""

    def __init__(self) -> None:
        self._idle: dict[Key, dict[Client, _Wait]] = {}
        self._used: set[Client] = set()

    def add(self, client: Client) -> None:
        """Note a new connection that is in use."""
        self._used.add(client)

    async def take(self, key: Key) -> Client | None:
        """Return the idle connection that was used last, or None; dead ones are dropped on the way."""
        while (waiting := self._idle.get(key)) is not None:
            client, wait = waiting.popitem()
            wait.end()
            if not waiting:
                del self._idle[key]
            self._used.add(client)
            quiet = False
            try:
                quiet = await client.is_quiet()
            finally:
                if not quiet:
                    await self.drop(client)
            if quiet:
                return client
        return None

    def give(self, key: Key, client: Client, seconds: float, idle: IdleConnections) -> None:
        """Take back a connection on which nothing is under way, to be kept among *idle* ones for *seconds*."""
        if client not in self._used:
            return  # closed meanwhile
        self._used.discard(client)
        if not seconds:
            client.cut()
            return
        timer = asyncio.get_running_loop().call_later(seconds, self._expire, key, client)
        over = idle.add(key.origin, partial(self._let_go, key, client))
        self._idle.setdefault(key, {})[client] = _Wait(timer, over)

    async def drop(self, client: Client) -> None:
        """Close a connection that is in doubt."""
        self._used.discard(client)
        await client.drop()

    async def aclose(self) -> None:
        """Close every connection, idle or in use."""
        idle = [each for waiting in self._idle.values() for each in waiting.items()]
        used = tuple(self._used)
        self._idle.clear()
        self._used.clear()
        for _, wait in idle:
            wait.end()
        for client in used:
            client.cut()
        for client, _ in idle:
            await client.leave()

    def _expire(self, key: Key, client: Client) -> None:
        self._forget(key, client)
        client.cut()

    async def _let_go(self, key: Key, client: Client) -> None:
        self._forget(key, client)
        await client.leave()

    def _forget(self, key: Key, client: Client) -> None:
        waiting = self._idle[key]
        waiting.pop(client).end()
        if not waiting:
            del self._idle[key]
