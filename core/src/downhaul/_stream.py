"""Streams: bytes that go to a consumer, the last of them only when all are valid."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import weakref
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from ._cancelling import cancel
from ._errors import StreamBroken, ValidationError
from ._loops import soon, when_dropped
from ._models import Headers
from ._pipeline import finished

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Mapping

    from ._context import Context
    from ._models import Result
    from ._transfer import Transfer

    _Begin = Callable[["Channel"], tuple[Transfer, Coroutine[Any, Any, Result]]]

HELD_BACK: Final = 64 * 1024  # bytes
COMPARED: Final = 64 * 1024 * 1024  # bytes that are read again to compare, rather than trusted
_HOP_BY_HOP: Final = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info", "proxy-authorization",
    "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
_NOT_OURS_TO_PASS_ON: Final = frozenset({"set-cookie", "set-cookie2", "www-authenticate", "authentication-info"})


class Channel:
    """The way from the engine to the consumer of a stream, on one loop; an `Outlet` of the pipeline.

    It lets one block wait at a time. What the consumer has is never taken back: when the bytes come again from 0, that
    many are compared instead of passed on. *commit* is called before the first block is released, or the end.
    """

    def __init__(self, held_back: int, commit: Callable[[], None]) -> None:
        self._held_back, self._commit = held_back, commit
        self._held: deque[bytes] = deque()
        self._held_size = 0
        self.released = 0
        self._digest = hashlib.sha256()
        self._to_compare = 0
        self._again = hashlib.sha256()
        self._slot: bytes | None = None
        self._ended = False
        self._waiting: dict[str, asyncio.Future[None]] = {}

    @property
    def may_restart(self) -> bool:
        """Whether the bytes may come again from 0: what was released is not too much to be read again."""
        return self.released <= COMPARED

    async def put(self, block: bytes) -> None:
        """Hold *block* back, and release what is further from the end than that."""
        block = self._compare(block)
        if block:
            self._held.append(block)
            self._held_size += len(block)
        while self._held and self._held_size - len(self._held[0]) >= self._held_back:
            await self._release()

    def restart(self) -> None:
        """Forget what is held back; what was released will be compared. Raises StreamBroken if that is too much."""
        if not self.may_restart:
            raise StreamBroken(f"{self.released} bytes are delivered: too many to read them again from another source")
        self._held.clear()
        self._held_size = 0
        self._to_compare = self.released
        self._again = hashlib.sha256()

    def complete(self) -> None:
        """Raise ValidationError if these bytes ended before those that were released."""
        if self._to_compare:
            raise ValidationError(f"these bytes end before the {self.released} that were delivered before")

    async def finish(self) -> None:
        """Release everything."""
        if not self.released:
            self._commit()
        while self._held:
            await self._release()

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
            raise ValidationError(f"these are not the {self.released} bytes that were delivered before")
        return rest

    async def _release(self) -> None:
        if not self.released:
            self._commit()
        block = self._held.popleft()
        self._held_size -= len(block)
        self.released += len(block)
        if self.released <= COMPARED:
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


class Stream:
    """An open download whose bytes go to a consumer, as fast as that takes them.

    ``async with`` (or ``with``, from a thread without a loop) returns when the first block may be released: before
    that, anything may be retried anywhere. Then iterate: a bad file never ends cleanly, its last bytes are held back
    until all are valid. `headers` are those that may be passed on, end-to-end ones only (RFC 9110, section 7.6.1).
    """

    def __init__(self, context: Context, begin: _Begin, hold_back: int) -> None:
        self._context, self._begin, self._hold_back = context, begin, hold_back
        self._channel: Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Result] | None = None
        self._transfer: Transfer | None = None
        self._pending: bytes | None = None  # a wait that is cancelled may have taken a block: the next one gets it
        self._taking = threading.Lock()
        self._result: Result | None = None
        self._headers = Headers()

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields of the answer that may be passed on; names ignore case."""
        return self._headers

    def result(self) -> Result:
        """Return the `Result`, once the stream has been read to its end; RuntimeError before."""
        if self._result is None:
            raise RuntimeError("the stream has not come to its end")
        return self._result

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
        if self._task is not None:
            raise RuntimeError("this stream was entered already; make another one")

    async def _start(self) -> None:
        commit = weakref.WeakMethod(self._commit)  # what is under way must not keep a stream that nobody has any more
        self._channel = Channel(self._hold_back, lambda: (commit() or _nobody)())
        self._transfer, work = self._begin(self._channel)
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(work)
        self._dropped = when_dropped(self, partial(soon, self._loop, self._task.cancel))
        self._task.add_done_callback(self._channel.end)
        try:
            await self._next()
        except BaseException:
            await self._stop()
            raise

    def _commit(self) -> None:
        payload = self._transfer.payload if self._transfer is not None else None
        if payload is not None:
            self._headers = end_to_end(payload.info.headers_of_whole())

    async def _next(self) -> bytes | None:
        if self._channel is None or self._task is None:
            raise RuntimeError("enter the stream first: async with download.stream() as stream")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this stream was entered before a fork, its bytes go to the parent; open another one")
        if self._pending is None:
            self._pending = await self._channel.take()
        if self._pending is None:
            if self._task.cancelled():
                raise RuntimeError("the stream was left, or its context closed, before it came to its end")
            self._result = self._task.result()
        return self._pending

    async def _stop(self) -> None:
        if self._task is None:
            return
        self._dropped.detach()
        cancelled = None
        if not self._task.done():
            cancel((self._task,))
            cancelled = await finished(self._task)
        self._task.cancelled() or self._task.exception()
        if cancelled is not None:
            raise cancelled


def _nobody() -> None:
    """Stand in for a stream that was dropped."""


def end_to_end(headers: Headers) -> Headers:
    """Return the end-to-end fields among *headers*: none for one connection, none with cookies or challenges."""
    named = [name.strip().lower() for name in headers.get("connection", "").split(",")]
    return headers.without({*_HOP_BY_HOP, *_NOT_OURS_TO_PASS_ON, *named})
