"""The sources of one file: which of them is asked for the next segment, and which is given up."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from downhaul import SizeMismatch, StatusError, TimeoutExceeded, show

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Iterable

    from downhaul import DownloadError, LowSpeed, Request

    from ._window import Segment

_FAILURES: Final = 2


@dataclass(eq=False)
class Source:
    """Where a file can be had: how many segments it is asked for, and may be at most; how it has failed."""

    request: Request
    active: int = 0
    most: int = sys.maxsize
    failures: int = 0
    error: DownloadError | None = None

    @property
    def url(self) -> str:
        """What it is asked for by."""
        return self.request.url

    def fail(self, error: DownloadError) -> None:
        """Take note of a failure; one that would come again counts for as many as a source may have."""
        self.error = error
        self.failures += 1 if error.transient and not isinstance(error, SizeMismatch) else _FAILURES

    def takes_fewer(self, error: DownloadError) -> bool:
        """Tell whether it may have refused for being asked for several at a time; from now on it is for fewer."""
        if not (isinstance(error, StatusError) and error.transient and self.active > 1):
            return False
        self.most = self.active - 1
        return True


class Sources:
    """The sources of one file, the best first."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._sources = [Source(each) for each in requests]
        self._freed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._sources)

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of all of them."""
        return tuple(each.url for each in self._sources)

    def keep(self, source: Source) -> None:
        """Ask no other one than *source* any more."""
        self._sources = [source]

    def add(self, request: Request) -> None:
        """Add what is asked when the others are busy, or have failed."""
        self._sources.append(Source(request))

    def left(self, failed: Collection[Source]) -> list[Source]:
        """Return those that may be asked for a segment for which some have *failed*."""
        return [each for each in self._sources if each not in failed and each.failures < _FAILURES]

    async def next(self, failed: Collection[Source]) -> Source | None:
        """Return the one to ask, that with the fewest segments in flight, or None where none is left; see `free`."""
        while left := self.left(failed):
            able = [each for each in left if each.active < each.most]
            if able:
                source = min(able, key=lambda each: each.active)
                source.active += 1
                return source
            self._freed.clear()
            await self._freed.wait()
        return None

    def free(self, source: Source) -> None:
        """*source*, which `next` has returned, has one segment less in flight."""
        source.active -= 1
        self._freed.set()

    def why(self, failed: dict[Source, DownloadError]) -> DownloadError:
        """Take out of *failed* the reason that none is left, of the first one: that is the one plugins know about."""
        for source in self._sources:
            if source in failed:
                return failed.pop(source)
        return next(each.error.copy() for each in self._sources if each.error is not None)


class Pace:
    """How fast the segments of a file come, against the *limit* for all of them together."""

    def __init__(self, limit: LowSpeed | None) -> None:
        self._limit = limit
        self._receiving = self._received = 0

    def count(self, size: int) -> None:
        """Take note of *size* bytes more, of whatever segment."""
        self._received += size

    @asynccontextmanager
    async def watching(
        self, segment: Segment, url: str, others: Callable[[], Collection[Source]]
    ) -> AsyncGenerator[None]:
        """Watch what is received for *segment* from *url*: raise TimeoutExceeded here where that is too little.

        What the limit asks for is shared out among the segments that are being received, so that all of them together
        bring it. Who brings less than its share is given up for another source; where there is none, only if all
        together are too slow.
        """
        limit, loop, clock = self._limit, asyncio.get_running_loop(), asyncio.timeout(None)
        if limit is None:
            yield
            return
        mine, everybody = segment.received, self._received
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal mine, everybody, timer
            too_slow = (segment.received - mine) * self._receiving < limit.size
            if segment.flows:
                return  # it may wait for the one that takes the bytes; and nobody else is asked
            if too_slow and (others() or self._received - everybody < limit.size):
                clock.reschedule(loop.time())
                return
            mine, everybody = segment.received, self._received
            timer = loop.call_later(limit.seconds, look)

        timer = loop.call_later(limit.seconds, look)
        self._receiving += 1
        try:
            async with clock:
                yield
        except TimeoutError:
            if not clock.expired():
                raise
            told = f"{show(url)} sent {segment.received - mine} bytes within {limit.seconds} s"
            raise TimeoutExceeded(f"{told}, of the {limit.size} that are wanted of all", "low speed") from None
        finally:
            self._receiving -= 1
            timer.cancel()
