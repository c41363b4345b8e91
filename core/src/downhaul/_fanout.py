"""Fan-out: one fetch for all streams that ask for the same file at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from ._channel import Delivered
from ._errors import DownloadError
from ._models import Headers

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from hashlib import _Hash

    from ._feed import Feed
    from ._models import Info, Result


_PATIENCE: Final = 0.5
"""Seconds in all that a flight waits for those who are late by a moment, before it takes them for slow."""


class _Block(NamedTuple):
    """A block, and the SHA-256 of the file up to its end."""

    data: bytes
    digest: _Hash


class Flight:
    """One fetch that several share, with its last bytes, about *kept* of them, for those who come late or are slow.

    Whoever needs a block that nobody has taken yet takes it, for all: so the fastest sets the pace, and what nobody
    wants is not read. *make* makes the feed when it is first needed; *over* is called when nobody may join any more.
    Who needs the oldest block has a moment to take it, for threads and connections never run quite evenly; but all
    such moments together are short.
    """

    def __init__(self, make: Callable[[], Feed], kept: int, over: Callable[[], None]) -> None:
        self._make, self._kept, self._over = make, kept, over
        self.feed: Feed | None = None
        self._blocks: deque[_Block] = deque()
        self._size = self._dropped = 0  # bytes that are there, blocks that are there no more
        self._shares: set[Share] = set()
        self._moved = asyncio.Event()
        self._patience = _PATIENCE
        self._digest = sha256()
        self._taking = asyncio.Lock()
        self._ended = False
        self._failure: Exception | None = None

    def join(self, share: Share) -> None:
        """Count *share* among those who want the bytes."""
        self._shares.add(share)

    async def leave(self, share: Share) -> None:
        """Count *share* no more; the last one ends the fetch, and waits for that."""
        if self._is_last(share) and self.feed is not None:
            await self.feed.stop()

    def abandon(self, share: Share) -> None:
        """Do as `leave` does, without waiting."""
        if self._is_last(share) and self.feed is not None:
            self.feed.abandon()

    def _is_last(self, share: Share) -> bool:
        self._shares.discard(share)
        self._moved.set()
        if not self._shares:
            self._over()
        return not self._shares

    def has(self, number: int) -> bool:
        """Tell whether the block *number*, from 0, is there, or still to come."""
        return number >= self._dropped

    async def block(self, number: int) -> _Block | None:
        """Return the block *number*, or None where the file has ended before; raise what the fetch raised."""
        while number == self._dropped + len(self._blocks) and not self._ended:
            async with self._taking:
                if number == self._dropped + len(self._blocks) and not self._ended:
                    await self._take()
        self._moved.set()
        if number < self._dropped + len(self._blocks):
            return self._blocks[number - self._dropped]
        if self._failure is not None:
            raise self._failure.copy() if isinstance(self._failure, DownloadError) else self._failure
        return None

    async def _take(self) -> None:
        """Take one block from the feed; who waits here may be cancelled, and another one takes it then."""
        if self.feed is None:
            self.feed = self._make()
        try:
            data = await self.feed.next()
        except Exception as failure:
            self._failure, data = failure, None
        if data is None:
            self._ended = True
            self._over()
            return
        self._digest.update(data)
        self._blocks.append(_Block(data, self._digest.copy()))
        self._size += len(data)
        while self._size > self._kept and len(self._blocks) > 1:
            await self._wait_for_late_ones()
            self._size -= len(self._blocks.popleft().data)
            self._dropped += 1
            self._over()  # what arrived first is gone

    async def _wait_for_late_ones(self) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while any(share.taken == self._dropped for share in self._shares):
                    self._moved.clear()
                    await self._moved.wait()
        self._patience = max(0, self._patience - (loop.time() - begin))


class Share:
    """What one stream has of a flight; where that is too far ahead, a fetch of its own. To the stream it is a `Feed`.

    *alone* makes the fetch of its own: told what the consumer has already, it reads that again, and compares.
    """

    def __init__(self, flight: Flight, alone: Callable[[Delivered | None], Feed], attachment: object) -> None:
        self._flight: Flight | None = flight
        self._feed: Feed | None = None
        self._alone, self._attachment = alone, attachment
        self.taken = self._position = 0  # blocks, bytes
        self._digest = sha256()
        self.headers = Headers()
        self.info: Info | None = None
        self.result: Result | None = None
        self._left = False
        flight.join(self)

    async def next(self) -> bytes | None:
        """Return the next block; see `Feed.next`."""
        flight = self._flight
        if flight is not None and not flight.has(self.taken):
            self._flight, self._feed = None, self._alone(Delivered(self._position, self._digest, self.info))
            await flight.leave(self)
        try:
            if self._feed is None:
                assert flight is not None
                return self._next_of(flight, await flight.block(self.taken))
            block = await self._feed.next()
        except DownloadError as error:
            error.attachment = self._attachment
            raise
        self.result = self._feed.result
        return block

    async def stop(self) -> None:
        """Leave the flight, or end the fetch of its own; the fetch ends with the last one who shares it."""
        self._left = True
        flight, self._flight = self._flight, None
        if flight is not None:
            await flight.leave(self)
        elif self._feed is not None:
            await self._feed.stop()

    def abandon(self) -> None:
        """Do as `stop` does, without waiting."""
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.abandon(self)
        elif self._feed is not None:
            self._feed.abandon()

    def _next_of(self, flight: Flight, block: _Block | None) -> bytes | None:
        if self._left:
            raise RuntimeError("the stream was left before it came to its end")
        feed = flight.feed
        assert feed is not None
        if not self.taken:
            self.headers, self.info = feed.headers, feed.info
        if block is None:
            self.result = None if feed.result is None else replace(feed.result, attachment=self._attachment)
            return None
        self.taken += 1
        self._position += len(block.data)
        self._digest = block.digest
        return block.data


class Flights:
    """The flights that may be joined, by what is asked for; those of one context."""

    def __init__(self) -> None:
        self._open: dict[Hashable, Flight] = {}

    def share(self, key: Hashable, kept: int, alone: Callable[[Delivered | None], Feed], attachment: object) -> Share:
        """Return a share of the flight for *key*, a new one where there is none that may be joined."""
        flight = self._open.get(key)
        if flight is None:
            flight = self._open[key] = Flight(lambda: alone(None), kept, lambda: self._close(key, flight))
        return Share(flight, alone, attachment)

    def _close(self, key: Hashable, flight: Flight | None) -> None:
        if self._open.get(key) is flight:
            del self._open[key]
