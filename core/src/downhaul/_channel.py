"""The way from the engine to the consumer of a stream: what is released stays released, the last bytes wait."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from ._errors import RangeRefused, StreamBroken, ValidationError
from ._urls import place, show

if TYPE_CHECKING:
    from collections.abc import Callable
    from hashlib import _Hash

    from ._models import Info

HELD_BACK: Final = 64 * 1024  # bytes
COMPARED: Final = 64 * 1024 * 1024  # bytes that are read again to compare, rather than trusted


class Delivered(NamedTuple):
    """What a consumer has already: a number of bytes, their SHA-256, and what it was told of the file."""

    number: int
    digest: _Hash
    told: Info | None


class Channel:
    """The way from the engine to the consumer of a stream, on one loop; an `Outlet` of the pipeline.

    It lets one block wait at a time. What the consumer has is never taken back: when the bytes come again from their
    start, that many are compared instead of passed on. Of a *part* only its bytes are passed on. *commit* is called
    before the first block is released, or the end. *delivered* is what the consumer has already, from elsewhere. `told`
    is the answer that the first block comes from: what the consumer is told of the file.
    """

    def __init__(
        self,
        held_back: int,
        commit: Callable[[], None],
        part: range | None = None,
        delivered: Delivered | None = None,
    ) -> None:
        released, digest, told = delivered or (0, hashlib.sha256(), None)
        self._held_back, self._commit, self._part = held_back, commit, part
        self._held: deque[bytes] = deque()
        self._held_size = 0
        self.released = self._to_compare = released
        self._comparable = max(COMPARED, released)
        self._digest = digest.copy()
        self.told = told
        self._again = hashlib.sha256()
        self._slot: bytes | None = None
        self._ended = False
        self._waiting: dict[str, asyncio.Future[None]] = {}

    @property
    def may_restart(self) -> bool:
        """Whether the bytes may come again from their start: those released are not too many to be read again."""
        return self.released <= self._comparable

    def begin(self, info: Info) -> None:
        """Take note of the answer that the bytes come from; RangeRefused if it is not of the file that was told of."""
        told = self.told
        if not self.released or told is None:
            self.told = info
            return
        if None not in {told.size, info.size} and told.size != info.size:
            raise RangeRefused(f"{show(info.url)} has {info.size} bytes; a file of {told.size} was begun")
        same = place(told.url) == place(info.url)
        if same and told.version is not None and info.version is not None and told.version.contradicts(info.version):
            raise RangeRefused(f"{show(info.url)} has another version of the file than the one that was begun")

    async def put(self, block: bytes, start: int) -> None:
        """Hold *block*, which begins at byte *start* of the file; release what is further from the end than that."""
        if self._part is not None:
            block = block[max(0, self._part.start - start) : max(0, self._part.stop - start)]
        block = self._compare(block)
        if block:
            self._held.append(block)
            self._held_size += len(block)
        if self._held_size > self._held_back:
            await self._release(self._taken(self._held_size - self._held_back))

    def restart(self) -> None:
        """Forget what is held back; what was released will be compared. Raises StreamBroken if that is too much."""
        if not self.may_restart:
            raise StreamBroken(f"{self.released} bytes are delivered: too many to read them again from another source")
        self._held.clear()
        self._held_size = 0
        if not self.released:
            self.told = None
        self._to_compare = self.released
        self._again = hashlib.sha256()

    def complete(self) -> None:
        """Raise ValidationError if these bytes ended before those released, RangeRefused if before the part's end."""
        if self._to_compare:
            raise ValidationError(f"these bytes end before the {self.released} that were delivered before")
        if self._part is not None and self.released + self._held_size < len(self._part):
            raise RangeRefused(f"the file ends before byte {self._part.stop}, which was asked for")

    async def finish(self) -> None:
        """Release everything."""
        if not self.released:
            self._commit()
        if self._held:
            await self._release(self._taken(self._held_size))

    async def take(self) -> bytes | None:
        """Return the next block for the consumer, or None when there are no more."""
        while self._slot is None and not self._ended:
            await self._wait("consumer")
        block, self._slot = self._slot, None
        self._wake("producer")
        return block

    def end(self, _: object = None) -> None:
        """Let the consumer know that nothing more will come."""
        self._ended = True
        self._wake("consumer")

    def _compare(self, block: bytes) -> bytes:
        if not self._to_compare:
            return block
        known, rest = block[: self._to_compare], block[self._to_compare :]
        self._again.update(known)
        self._to_compare -= len(known)
        if not self._to_compare and self._again.digest() != self._digest.digest():
            contradiction = ValidationError(f"these are not the {self.released} bytes that were delivered before")
            contradiction.transient = False  # what was delivered will not change
            raise contradiction
        return rest

    def _taken(self, number: int) -> bytes:
        """Return the first *number* of the bytes that are held back: they are so no more."""
        pieces, self._held_size = [], self._held_size - number
        while number:
            piece = self._held.popleft()
            if len(piece) > number:
                self._held.appendleft(piece[number:])
                piece = piece[:number]
            pieces.append(piece)
            number -= len(piece)
        return b"".join(pieces)

    async def _release(self, block: bytes) -> None:
        if not self.released:
            self._commit()
        self.released += len(block)
        if self.released <= self._comparable:
            self._digest.update(block)
        while self._slot is not None:
            await self._wait("producer")
        self._slot = block
        self._wake("consumer")

    async def _wait(self, who: str) -> None:
        self._waiting[who] = asyncio.get_running_loop().create_future()
        try:
            await self._waiting[who]
        finally:
            del self._waiting[who]

    def _wake(self, who: str) -> None:
        waiting = self._waiting.get(who)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
