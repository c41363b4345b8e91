"""Streams: bytes that go to a consumer, the last of them only when all are valid."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self

from ._loops import soon, when_dropped
from ._models import Headers

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable, Generator, Mapping

    from ._context import Context
    from ._models import Info, Result, Version


class Source(Protocol):
    """Where a stream takes its bytes from, on the context's loop: a `Feed`, or a share of one."""

    headers: Headers
    info: Info | None
    result: Result | None

    async def next(self) -> bytes | None:
        """Return the next block, or None at the end of a good file; raise what the download raised."""

    async def stop(self) -> None:
        """End the download, unless others share it, and wait for that."""

    def abandon(self) -> None:
        """End the download, unless others share it."""


class Stream:
    """An open download whose bytes go to a consumer, as fast as that takes them.

    ``async with`` (or ``with``, from a thread without a loop) returns when the first block may be released: before
    that, anything may be retried anywhere. Then iterate: a bad file never ends cleanly, its last bytes are held back
    until all are valid. `part` are the bytes of the file that come, as a range; None: all of them.
    """

    def __init__(self, context: Context, make: Callable[[], Source], part: range | None = None) -> None:
        self.part = part
        self._context, self._make = context, make
        self._source: Source | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dropped: weakref.finalize[..., Stream] | None = None
        self._pending: bytes | None = None  # a wait that is cancelled may have taken a block: the next one gets it
        self._taking = threading.Lock()

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields of the answer that may be passed on; names ignore case.

        They are end-to-end ones only (RFC 9110, section 7.6.1), without cookies, challenges, and what speaks of the
        origin as such; and they are those of the whole file, also where a part of it comes.
        """
        return Headers() if self._source is None else self._source.headers

    @property
    def size(self) -> int | None:
        """The size of the whole file in bytes, or None where the source does not tell."""
        return None if self._source is None or self._source.info is None else self._source.info.size

    @property
    def version(self) -> Version | None:
        """What tells this state of the file from the next, or None where the source does not tell."""
        return None if self._source is None or self._source.info is None else self._source.info.version

    def result(self) -> Result:
        """Return the `Result`, once the stream has been read to its end; RuntimeError before."""
        result = None if self._source is None else self._source.result
        if result is None:
            raise RuntimeError("the stream has not come to its end")
        return result

    def close(self) -> None:
        """Leave the stream, from any thread without a running loop; who waits for a block gets a RuntimeError."""
        self.__exit__()

    async def __aenter__(self) -> Self:
        self._refuse_twice()
        try:
            await self._context._await(self._start)
        except BaseException:
            await self.__aexit__()  # it may have begun, in another loop, when this wait for it was cancelled
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._loop is not None:
            await self._context._await_end(self._loop, self._stop)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        with self._turn():
            block = await self._context._await(self._next)
            self._pending = None
        if block is None:
            raise StopAsyncIteration
        return block

    def __enter__(self) -> Self:
        self._refuse_twice()
        try:
            self._context._block(self._start, "async with download.stream()")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None:
            self._context._block_end(self._loop, self._stop)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        with self._turn():
            block = self._context._block(self._next, "async for block in stream")
            self._pending = None
        if block is None:
            raise StopIteration
        return block

    @contextmanager
    def _turn(self) -> Generator[None]:
        """Take one block; no two may do so at the same time, or both would get it."""
        if not self._taking.acquire(blocking=False):
            raise RuntimeError(
                "two consumers ask one stream for a block at the same time: let one of them hand them on"
            )
        try:
            yield
        finally:
            self._taking.release()

    def _refuse_twice(self) -> None:
        if self._source is not None:
            raise RuntimeError("this stream was entered already; make another one")

    async def _start(self) -> None:
        source = self._source = self._make()
        self._loop = asyncio.get_running_loop()
        self._dropped = when_dropped(self, partial(soon, self._loop, source.abandon))
        try:
            await self._next()
        except BaseException:
            await self._stop()
            raise

    async def _next(self) -> bytes | None:
        if self._source is None:
            raise RuntimeError("enter the stream first: async with download.stream() as stream")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this stream was entered before a fork, its bytes go to the parent; open another one")
        if self._pending is None:
            self._pending = await self._source.next()
        return self._pending

    async def _stop(self) -> None:
        if self._source is None:
            return
        if self._dropped is not None:
            self._dropped.detach()
        await self._source.stop()
