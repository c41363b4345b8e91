"""The course of one segmented answer: what its first head decides, and what becomes of each segment."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from downhaul import (
    DigestMismatch,
    DownloadError,
    PieceValidation,
    PluginError,
    RangeRefused,
    SizeMismatch,
    SizeValidation,
    Truncated,
    same_place,
    show,
)

from .sources import Pace, Sources
from .window import Segment, closing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator

    from downhaul import Block, Info, Request, Transfer, Version

    from .sources import Source

_PIECE: Final = 16 * 1024 * 1024  # bytes; larger pieces are not held, but judged as they pass
_INLINE: Final = 256 * 1024  # bytes that are hashed sooner here than in a thread
_UNSATISFIABLE: Final = 416
_OF_THE_PART: Final = ("Content-Digest", "Content-MD5")
_VALIDATORS: Final = ("ETag", "Last-Modified")


class Course:
    """One segmented answer to ``transfer.request``, opened for *plugin*; *size* is that of a segment in bytes.

    Where it *mixes*, and something strong will judge the whole, all sources contribute.
    """

    def __init__(self, plugin: object, transfer: Transfer, size: int, *, mixes: bool) -> None:
        request, validations = transfer.request, [each for each, _ in transfer.checks if each.enforced]
        # What was begun by a version goes on by it, at the source that named it.
        self._mixes = mixes and request.version is None and any(each.identifies for each in validations)
        others = [each for each in transfer.alternatives if each.url != request.url] if self._mixes else []
        self._sources = Sources((request, *others))
        self._plugin, self._transfer = plugin, transfer
        pieces = [each for each in validations if isinstance(each, PieceValidation) and each.length <= _PIECE]
        self._pieces = max(pieces, key=lambda each: each.identifies, default=None)
        self._piece = 1 if self._pieces is None else self._pieces.length
        self._step = max(self._piece, size - size % self._piece)
        self._size = next((each.size for each in validations if isinstance(each, SizeValidation)), None)
        self._end = sys.maxsize  # of what is received in segments
        self._url = ""  # where the first answer came from
        self._version: Version | None = None  # of all answers, where they are not mixed
        self._info: Info | None = None
        self._opened = asyncio.Event()
        self._pace = Pace(transfer.low_speed)

    async def open(self, first: asyncio.Task[None]) -> Info | None:
        """Return what the head of the *first* segment tells of the whole, or None: a plain request is due."""
        await self._opened.wait()
        if not self._url:
            try:
                await first
            except DownloadError as error:
                if not self._tells_empty(error):
                    raise
        return self._info

    def segments(self) -> Iterator[Segment]:
        """Yield one segment after another; how many there are shows in the head of the first."""
        start = self._transfer.request.offset
        while start < self._end:
            stop = min(start - start % self._piece + self._step, self._end)
            yield Segment(start, stop, holds=self._pieces is not None)
            start = stop

    async def receive(self, segment: Segment) -> None:
        """Receive *segment*, from one source after another."""
        failed: dict[Source, DownloadError] = {}
        try:
            while (source := await self._sources.next(segment, failed)) is not None:
                try:
                    await self._receive_from(source, segment, failed)
                    return
                except DownloadError as error:
                    if isinstance(error, PluginError) or self._tells_empty(error):
                        raise
                    if not source.takes_fewer(error):
                        failed[source] = error.copy()  # whose traceback holds nothing
                        source.fail(failed[source])
                    if segment.stop is not None and segment.left <= 0:
                        return  # whatever was wrong behind the last byte
                finally:
                    self._sources.free(source)
            raise self._sources.why(failed)
        finally:
            for each, reason in failed.items():
                self._transfer.note(reason, each.url)
            self._opened.set()

    def _tells_empty(self, error: DownloadError) -> bool:
        """Tell whether *error* is the answer to a first range where the file is empty (RFC 9110, section 14.1.2)."""
        return not self._url and not self._transfer.request.offset and getattr(error, "code", 0) == _UNSATISFIABLE

    async def _receive_from(self, source: Source, segment: Segment, failed: Collection[Source]) -> None:
        try:
            await self._read(source, segment, failed)
        except DownloadError:
            await self._judge(segment)  # what came before may be good
            raise
        await self._judge(segment)

    async def _read(self, source: Source, segment: Segment, failed: Collection[Source]) -> None:
        """Put what *source* sends into *segment*. A slot is held meanwhile: nothing is waited for but the source."""
        version = self._version or source.request.version
        asked = replace(source.request, offset=segment.position, length=segment.left, version=version, unless=None)
        async with self._transfer.open(self._plugin, asked) as payload:
            is_first = not self._url
            if is_first:
                self._begin(source, segment, payload.info)
            else:
                self._check(asked, payload.info)
            others = partial(self._sources.left, {*failed, source})
            with source.answering():
                async with self._pace.watching(segment, source, others), closing(payload.body) as body:
                    await self._fill(segment, source, body, is_first=is_first)
        if segment.flows and segment.received == asked.length and segment.left:
            raise RangeRefused(f"{show(source.url)} answers with a part, and does not say so")
        if segment.stop is not None and segment.left > 0:
            raise Truncated(f"{segment.left} bytes of those up to {segment.stop} are missing from {show(source.url)}")

    async def _fill(self, segment: Segment, source: Source, body: AsyncIterator[Block], *, is_first: bool) -> None:
        async for block in body:
            if len(block) > segment.left:
                if not is_first:
                    await segment.put(block[: segment.left])
                    return
                self._be_whole(source, segment, segment.position)
            self._pace.received += len(block)
            await segment.put(block)

    def _begin(self, source: Source, segment: Segment, info: Info) -> None:
        """Hold the head of the first answer against what is known, and decide by it how the file is received."""
        if info.start not in {0, segment.position}:
            raise RangeRefused(f"{show(info.url)} answers from byte {info.start}, asked for {segment.position}")
        if self._size is not None and info.size not in {None, self._size}:
            raise SizeMismatch(f"{show(info.url)} has {info.size} bytes, expected {self._size}")
        self._size = info.size
        self._info = self._whole(source, segment, info)
        self._url = info.url
        self._opened.set()

    def _whole(self, source: Source, segment: Segment, info: Info) -> Info | None:
        """Return what *info* makes of the whole, which *segment* is the first of, or None: a plain request is due."""
        if not info.resumable or info.start != segment.position:
            self._be_whole(source, segment, info.start)
            return replace(info, sources=(source.url,))
        if info.size is None:
            return None
        assert segment.stop is not None
        is_one = info.size <= segment.stop
        segment.stop, self._end = min(segment.stop, info.size), info.size
        headers = info.headers_of_whole().without(_OF_THE_PART)
        is_strong = info.version is not None and info.version.strong
        if is_one:
            self._sources.keep(source)  # then nothing is put together
            return replace(info, headers=headers, sources=(source.url,))
        if self._mixes and (len(self._sources) > 1 or not is_strong):
            headers, urls = headers.without(_VALIDATORS), self._sources.urls
            return replace(info, headers=headers, version=None, sources=urls, proof="length")
        if not is_strong:
            return None
        self._mixes, self._version = False, info.version
        if info.url != source.url:
            with suppress(DownloadError):  # the next redirect may lead elsewhere
                self._sources.add(source.request.redirected(info.url))
        return replace(info, headers=headers, sources=(source.url,), proof="length")

    def _be_whole(self, source: Source, segment: Segment, start: int) -> None:
        """Let *segment* go on to the end of the file: what *source* has begun to send is all that it knows to send."""
        self._end = 0
        self._sources.keep(source)
        segment.flow(start, self._size, self._step)

    def _check(self, asked: Request, info: Info) -> None:
        """Hold the head of another answer against the first one."""
        if not self._mixes and not same_place(self._url, info.url):
            # An equal tag of another source is chance (RFC 9110, section 8.8.1).
            raise RangeRefused(f"{show(asked.url)} leads to another source now, {show(info.url)}")
        if self._version is not None and info.version is not None and self._version.contradicts(info.version):
            raise RangeRefused(f"{show(asked.url)} has another version of the file now")
        if info.start != asked.offset:
            raise RangeRefused(f"{show(asked.url)} answers from byte {info.start}, asked for {asked.offset}")
        if info.size not in {None, self._size}:
            raise SizeMismatch(f"{show(asked.url)} has {info.size} bytes, expected {self._size}")

    async def _judge(self, segment: Segment) -> None:
        """Release the pieces that *segment* holds; raise DigestMismatch at the first bad one."""
        if self._pieces is None or self._size is None or not segment.held:
            return
        work = partial(_judged, self._pieces, segment.position, segment.held, self._size)
        good, error = await asyncio.to_thread(work) if len(segment.held) > _INLINE else work()
        segment.release(good)
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame


def _judged(pieces: PieceValidation, start: int, held: bytearray, size: int) -> tuple[int, DigestMismatch | None]:
    """Return how many of the bytes *held*, from *start* on in a file of *size*, are good, and what is wrong then."""
    view, good = memoryview(held), 0
    while good < len(view):
        number, before = divmod(start + good, pieces.length)
        stop = min((number + 1) * pieces.length, size) - start
        if stop > len(view):
            break  # the rest of the piece has not come
        try:
            if not before:  # else what comes first in the piece came in an earlier attempt
                pieces.check_piece(number, view[good:stop])
        except DigestMismatch as error:
            return good, error
        good = stop
    return good, None
