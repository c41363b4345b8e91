"""The governor: how many connections are in use, in total and per origin."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    _Queues = OrderedDict[str, deque[asyncio.Future[None]]]


class Governor:
    """Hands out slots; a download that waits for anything but bytes holds none.

    Origins take turns, so that many downloads of a slow origin do not keep a fast one waiting. What is urgent goes
    before what is not.
    """

    def __init__(self, total: int, per_origin: int) -> None:
        self.total, self.per_origin = total, per_origin
        self._used = 0
        self._used_by: dict[str, int] = {}
        self._urgent: _Queues = OrderedDict()
        self._patient: _Queues = OrderedDict()

    @property
    def used(self) -> int:
        """The number of slots in use."""
        return self._used

    def used_by(self, origin: str) -> int:
        """Return the number of slots in use for *origin*."""
        return self._used_by.get(origin, 0)

    @property
    def waiting(self) -> int:
        """The number of those who wait for a slot."""
        return sum(map(len, (*self._urgent.values(), *self._patient.values())))

    async def take(self, origin: str, *, urgent: bool = False) -> None:
        """Take a slot for *origin*, which is to be given back; wait for one first."""
        queues = self._urgent if urgent else self._patient
        if self._is_free(origin) and origin not in queues:
            self._count(origin, 1)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queues.setdefault(origin, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(origin)  # the slot came while we were being cancelled
            else:
                _leave(queues, origin, turn)
            raise

    def give_back(self, origin: str) -> None:
        """Give a slot of *origin* back."""
        self._count(origin, -1)
        if self._urgent or self._patient:
            self._pass_on()

    def _pass_on(self) -> None:
        for queues in (self._urgent, self._patient):
            while self._used < self.total:
                origin = next((each for each in queues if self._is_free(each)), None)
                if origin is None:
                    break
                turn = queues[origin].popleft()
                if queues[origin]:
                    queues.move_to_end(origin)
                else:
                    del queues[origin]
                if not turn.done():
                    self._count(origin, 1)
                    turn.set_result(None)

    def _is_free(self, origin: str) -> bool:
        return self._used < self.total and self.used_by(origin) < self.per_origin

    def _count(self, origin: str, change: int) -> None:
        self._used += change
        used = self.used_by(origin) + change
        if used:
            self._used_by[origin] = used
        else:
            self._used_by.pop(origin, None)


def _leave(queues: _Queues, origin: str, turn: asyncio.Future[None]) -> None:
    queue = queues.get(origin)
    if queue is not None and turn in queue:
        queue.remove(turn)
        if not queue:
            del queues[origin]
