"""Control connections that wait for the next file."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from downhaul import Settings, User

    from ._client import Client


class Key(NamedTuple):
    """What connections must have in common to stand in for each other."""

    origin: str
    user: User
    connection: Settings


class Pool:
    """Keeps idle connections for some seconds, and knows those in use, so that none outlives `aclose`."""

    def __init__(self) -> None:
        self._idle: dict[Key, dict[Client, TimerHandle]] = {}
        self._used: set[Client] = set()

    def add(self, client: Client) -> None:
        """Note a new connection that is in use."""
        self._used.add(client)

    async def take(self, key: Key) -> Client | None:
        """Return the idle connection that was used last, or None; dead ones are dropped on the way."""
        while (waiting := self._idle.get(key)) is not None:
            client, timer = waiting.popitem()
            timer.cancel()
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

    def give(self, key: Key, client: Client, seconds: float) -> None:
        """Take back a connection on which nothing is under way, to be kept for *seconds*."""
        if client not in self._used:
            return  # closed meanwhile
        self._used.discard(client)
        if not seconds:
            client.cut()
            return
        timer = asyncio.get_running_loop().call_later(seconds, self._expire, key, client)
        self._idle.setdefault(key, {})[client] = timer

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
        for _, timer in idle:
            timer.cancel()
        for client in used:
            client.cut()
        for client, _ in idle:
            await client.leave()

    def _expire(self, key: Key, client: Client) -> None:
        waiting = self._idle[key]
        del waiting[client]
        if not waiting:
            del self._idle[key]
        client.cut()
