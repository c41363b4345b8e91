"""The sources of one file: which of them is asked for the next segment, and which is given up."""

from __future__ import annotations

import asyncio
import math
import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from downhaul import LowSpeed, SizeMismatch, StatusError, TimeoutExceeded, show

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterable

    from downhaul import DownloadError, Request

    from .window import Segment

    _Others = Callable[[], Collection["Source"]]

_FAILURES: Final = 2
_NOTICED: Final = 0.25  # seconds
_GAIN: Final = 1.0  # seconds


@dataclass(eq=False)
class Source:
    """Where a file can be had, and how it did so far.

    `active` segments are asked of it, `most` at most; `answers` are those that it is sending, as many as `proven` at a
    time. Where it takes only so many, segments that begin at the bytes `waiting` have to wait. `slowness` is in seconds
    for each byte, None: nobody knows. `error` was its last.
    """

    request: Request
    active: int = 0
    most: int = sys.maxsize
    answers: int = 0
    proven: int = 0
    failures: int = 0
    error: DownloadError | None = None
    waiting: set[int] = field(default_factory=set)
    slowness: float | None = None

    @property
    def url(self) -> str:
        """What it is asked for by."""
        return self.request.url

    def fail(self, error: DownloadError) -> None:
        """Take note of a failure; one that would come again counts for as many as a source may have."""
        self.error = error
        self.failures += 1 if error.transient and not isinstance(error, SizeMismatch) else _FAILURES

    def seconds_for(self, size: int) -> float:
        """Return how long *size* bytes may take, were they all that it sends; what nobody would notice is all one."""
        return max(_NOTICED, size * (self.slowness or 0.0))

    def takes_fewer(self, error: DownloadError) -> bool:
        """Tell whether it may have refused for being asked for several at a time; then it is asked for fewer."""
        if not (isinstance(error, StatusError) and error.transient and self.active > 1):
            return False
        self.most = self.active - 1
        return True

    @contextmanager
    def answering(self) -> Generator[None]:
        """Let one more answer of it be received; when that has come, it may be asked for one more, as it was before."""
        self.answers += 1
        self.proven = max(self.proven, self.answers)
        try:
            yield
        finally:
            self.answers -= 1
        if self.most < self.proven:
            self.most += 1


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

    async def next(self, segment: Segment, failed: Collection[Source]) -> Source | None:
        """Return the one to ask for the rest of *segment*, or None where none is left; see `free`.

        That is the one with the fewest segments in flight, weighed by how slow it is. Where several have to wait for
        one, the first segment goes first.
        """
        start, size = segment.position, segment.left
        waited = False
        try:
            while left := self.left(failed):
                able = [each for each in left if each.active < each.most and start <= min(each.waiting, default=start)]
                if able:
                    source = min(able, key=lambda each: (each.active + 1) * each.seconds_for(size))
                    source.active += 1
                    return source
                for each in left:
                    each.waiting.add(start)
                self._freed.clear()
                waited = True
                await self._freed.wait()
            return None
        finally:
            if waited:
                for each in self._sources:
                    each.waiting.discard(start)
                self._freed.set()

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
    """How fast the segments of a file come, against the *limit* for all of them together, and against each other."""

    def __init__(self, limit: LowSpeed | None) -> None:
        self.limit = limit or LowSpeed(0, 1.0)
        self.receiving = self.received = 0

    @asynccontextmanager
    async def watching(self, segment: Segment, source: Source, others: _Others) -> AsyncGenerator[None]:
        """Watch what *source* sends for *segment*: raise TimeoutExceeded here where that is too slow.

        What the limit asks for is shared out among the segments that are being received, so that all of them together
        bring it. Who brings less than its share is given up for one of the *others*; where there is none, only if all
        together are too slow. Too slow is also who is known to take more than a second longer than one that has nothing
        to do: that one waits for it, for the window is full.
        """
        clock, watch = asyncio.timeout(None), _Watch(self, segment, source, others)
        self.receiving += 1
        try:
            async with clock:
                watch.begin(clock)
                yield
        except TimeoutError:
            if not clock.expired():
                raise
            told = f"{show(source.url)} sent {watch.bytes} bytes in {watch.seconds:.1f} s, which is too slow"
            raise TimeoutExceeded(told, "low speed") from None
        finally:
            self.receiving -= 1
            watch.end()


class _Watch:
    """What one source sends for one segment; looked at again and again, several times within the time of the limit."""

    def __init__(self, pace: Pace, segment: Segment, source: Source, others: _Others) -> None:
        self._pace, self._segment, self._source, self._others = pace, segment, source, others
        self._loop = asyncio.get_running_loop()
        self._since, self._before = self._loop.time(), segment.received
        self._window = self._since, self._before, pace.received
        self._timer: asyncio.TimerHandle | None = None

    @property
    def seconds(self) -> float:
        """For how long it has been watched."""
        return self._loop.time() - self._since

    @property
    def bytes(self) -> int:
        """The number of bytes that came."""
        return self._segment.received - self._before

    def begin(self, clock: asyncio.Timeout) -> None:
        """Look now and then, and let *clock* expire when it is too slow."""
        seconds = self._pace.limit.seconds
        self._timer = self._loop.call_later(seconds / math.ceil(seconds), self._look, clock)

    def end(self) -> None:
        """Look no more, and let the source be known for what it has done."""
        if self._timer is not None:
            self._timer.cancel()
        if self.bytes:
            self._source.slowness = self.seconds / self.bytes if self.seconds > _NOTICED else 0.0

    def _look(self, clock: asyncio.Timeout) -> None:
        if self._segment.is_full or self._segment.waited:
            self._segment.waited = False
            self._window = self._loop.time(), self._segment.received, self._pace.received  # the consumer took its time
        if self._is_outdone() or self._is_below_the_limit():
            clock.reschedule(self._loop.time())
        else:
            self.begin(clock)

    def _is_outdone(self) -> bool:
        idle = [each.slowness for each in self._others() if each.slowness is not None and not each.active]
        return bool(idle) and self._segment.left * (self.seconds / max(1, self.bytes) - min(idle)) > _GAIN

    def _is_below_the_limit(self) -> bool:
        (since, mine, everybody), pace = self._window, self._pace
        now = self._loop.time()
        if now - since < pace.limit.seconds:
            return False
        self._window = now, self._segment.received, pace.received
        if (self._segment.received - mine) * pace.receiving >= pace.limit.size:
            return False
        return bool(self._others()) or pace.received - everybody < pace.limit.size
