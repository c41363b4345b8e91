"""Control connections that wait for the next file."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ._clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from downhaul import IdleConnections, Settings, User

    from ._client import Client


class Key(NamedTuple):
    """What connections must have in common to stand in for each other."""

    origin: str
    user: User
    connection: Settings


class _Wait(NamedTuple):
    """What ends when a connection is idle no more; its clock goes on with it."""

    clock: Clock
    over: Callable[[], None]

    def end(self) -> Clock:
        self.clock.stop()
        self.over()
        return self.clock


class Pool:
    """Keeps idle connections for some seconds, and knows those in use, so that none outlives `aclose`."""

    def __init__(self) -> None:
        self._idle: dict[Key, dict[Client, _Wait]] = {}
        self._used: dict[Client, Clock] = {}

    def add(self, client: Client) -> None:
        """Note a new connection that is in use."""
        self._used[client] = Clock()

    async def take(self, key: Key) -> Client | None:
        """Return the idle connection that was used last, or None; dead ones are dropped on the way."""
        while (waiting := self._idle.get(key)) is not None:
            client, wait = waiting.popitem()
            if not waiting:
                del self._idle[key]
            self._used[client] = wait.end()
            if client.is_quiet():
                return client
            await self.drop(client)
        return None

    def give(self, key: Key, client: Client, seconds: float, idle: IdleConnections) -> None:
        """Take back a connection on which nothing is under way, to be kept among *idle* ones for *seconds*."""
        clock = self._used.pop(client, None)
        if clock is None:
            return  # closed meanwhile
        if not seconds:
            clock.end()
            client.cut()
            return
        clock.start(seconds, partial(self._expire, key, client))
        over = idle.add(key.origin, partial(self._let_go, key, client))
        self._idle.setdefault(key, {})[client] = _Wait(clock, over)

    async def drop(self, client: Client) -> None:
        """Close a connection that is in doubt."""
        clock = self._used.pop(client, None)
        if clock is not None:
            clock.end()
        await client.drop()

    async def aclose(self) -> None:
        """Close every connection, idle or in use."""
        idle = {client: wait.end() for waiting in self._idle.values() for client, wait in waiting.items()}
        used = self._used
        self._idle, self._used = {}, {}
        for clock in (*idle.values(), *used.values()):
            clock.end()
        for client in used:
            client.cut()
        for client in idle:
            await client.leave()

    def _expire(self, key: Key, client: Client) -> None:
        self._forget(key, client)
        client.cut()

    async def _let_go(self, key: Key, client: Client) -> None:
        self._forget(key, client)
        await client.leave()

    def _forget(self, key: Key, client: Client) -> None:
        waiting = self._idle[key]
        waiting.pop(client).end().end()
        if not waiting:
            del self._idle[key]
