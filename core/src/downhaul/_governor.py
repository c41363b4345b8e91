"""The governor: how many connections are in use, in total and per origin."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Governor:
    """Hands out slots; a download that waits for anything but bytes holds none.

    Origins take turns, so that many downloads of a slow origin do not keep a fast one waiting.
    """

    def __init__(self, total: int, per_origin: int) -> None:
        self.total, self.per_origin = total, per_origin
        self._used = 0
        self._used_by: dict[str, int] = {}
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def used(self) -> int:
        """The number of slots in use."""
        return self._used

    def used_by(self, origin: str) -> int:
        """Return the number of slots in use for *origin*."""
        return self._used_by.get(origin, 0)

    @asynccontextmanager
    async def slot(self, origin: str) -> AsyncGenerator[None]:
        """Hold a slot for *origin* while the block runs; wait for one first."""
        await self._take(origin)
        try:
            yield
        finally:
            self._give_back(origin)

    async def _take(self, origin: str) -> None:
        if self._is_free(origin) and origin not in self._waiting:
            self._count(origin, 1)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(origin, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(origin)  # the slot came while we were being cancelled
            else:
                self._leave(origin, turn)
            raise

    def _give_back(self, origin: str) -> None:
        self._count(origin, -1)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._used < self.total:
            origin = next((each for each in self._waiting if self._is_free(each)), None)
            if origin is None:
                return
            turn = self._waiting[origin].popleft()
            if self._waiting[origin]:
                self._waiting.move_to_end(origin)
            else:
                del self._waiting[origin]
            if not turn.done():
                self._count(origin, 1)
                turn.set_result(None)

    def _leave(self, origin: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(origin)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[origin]

    def _is_free(self, origin: str) -> bool:
        return self._used < self.total and self.used_by(origin) < self.per_origin

    def _count(self, origin: str, change: int) -> None:
        self._used += change
        used = self.used_by(origin) + change
        if used:
            self._used_by[origin] = used
        else:
            self._used_by.pop(origin, None)
