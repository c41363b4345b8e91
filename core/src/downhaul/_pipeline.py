"""The way of a byte: from a driver's body to the checks and digests, the sink, and the consumer of a stream."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from ._digests import Digests
from ._errors import DownloadError, PluginError, ValidationError
from ._registry import plugin_error
from ._ring import Pages, Ring
from ._validations import DigestValidation, SizeValidation
from ._writers import write_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from ._models import Block, Info
    from ._transfer import Transfer
    from ._validations import Check, Validation
    from ._writers import Sink, Writer

_log: Final = logging.getLogger("downhaul.pipeline")
_BATCH: Final = 1024 * 1024  # bytes that are worth a thread's while, and the most that waits for one
LARGE: Final = 256 * 1024
"""Bytes up to which the way to a thread and back costs more than it saves."""


_NONE: Final = Digests(())


class Outlet(Protocol):
    """Where the bytes of a stream go on to: it holds back the last of them, and what was released stays released."""

    @property
    def released(self) -> int:
        """The number of bytes that the consumer has."""

    @property
    def may_restart(self) -> bool:
        """Whether the bytes may come again from their start: those released are not too many to be read again."""

    def begin(self, info: Info) -> None:
        """The bytes of an answer follow: raise RangeRefused if it is not of the file that was released so far."""

    async def put(self, block: bytes, start: int) -> None:
        """Pass *block* on, which begins at byte *start* of the file, after those before it; waits for the consumer."""

    def restart(self) -> None:
        """The bytes come again from their start: those released are compared instead of passed on."""

    def complete(self) -> None:
        """All bytes have come: raise ValidationError, or RangeRefused, unless those released and wanted are there."""

    async def finish(self) -> None:
        """Release the rest: it is valid."""


class Pipeline:
    """The bytes of one transfer: checks, digests and sink, which always stand at one position or start again.

    Blocks are collected and handled a batch at a time in a thread, while the next batch arrives; what is small is
    handled at once. Without a sink and an outlet the bytes are only judged.
    """

    def __init__(
        self,
        outlet: Outlet | None,
        validations: Sequence[Validation],
        digests: Sequence[str],
        executor: Callable[[], Executor],
        pages: Pages,
    ) -> None:
        self.outlet = outlet
        self.sink: Sink | None = None
        self._validations, self._digest_names, self._executor = list(validations), digests, executor
        self._batch: list[bytes] = []
        self._batched = 0
        self._worker: asyncio.Future[None] | None = None
        self._ring: Ring | None = None
        self._pages = pages
        self.position = 0
        self.committed = False
        self.digests = _NONE
        self.checks: tuple[tuple[Validation, Check], ...] = ()
        self._updates: list[Callable[[Block], None]] = []
        self._sink_is_ours = False

    def _begin(self) -> None:
        names, validations = dict.fromkeys(self._digest_names), self._validations
        for each in validations:
            if isinstance(each, DigestValidation):
                names[each.algorithm] = None
        self.digests = Digests(names)
        self.checks = tuple([(each, self._check(each)) for each in validations])
        self._updates = [self.digests.update]
        for each, check in self.checks:
            if type(each) is not DigestValidation:  # which sees what the digests see
                self._updates.append(check.update if _is_ours(each) else _with_bytes(check.update))

    def _check(self, validation: Validation) -> Check:
        return validation.sharing(self.digests) if isinstance(validation, DigestValidation) else _Judge(validation)

    def open(self, writer: Writer | None, transfer: Transfer) -> None:
        """Open the sink of *writer* and the checks, before anything is asked for."""
        if writer is not None:
            try:
                self.sink = writer.open(transfer)
            except Exception as reason:
                raise _blamed(reason, writer, "open") from None
            if self.sink is None:
                raise PluginError(f"{type(writer).__name__}.open returned None, which is no Sink")
            self._sink_is_ours = _is_ours(self.sink)
        self._begin()

    def require(self, validation: Validation) -> None:
        """Add *validation*; bytes that are there already have escaped it, so they are dropped."""
        if validation not in self._validations:
            self._validations.append(validation)
            self.restart()

    @property
    def validations(self) -> Sequence[Validation]:
        """The validations that judge the bytes."""
        return self._validations

    def begin_at(self, position: int) -> None:
        """Let the next byte be that at *position* of the file: where it is not the first, nobody judges the bytes."""
        self.position = position

    async def feed(self, block: Block) -> None:
        """Take the next *block*; it may be reused when this returns. Waits when the thread is behind."""
        data = block if type(block) is bytes else bytes(block)
        self.position += len(data)
        if self.outlet is not None:
            await self._handle([data], len(data))
            await self.outlet.put(data, self.position - len(data))
            return
        self._batch.append(data)
        self._batched += len(data)
        if self._batched >= _BATCH:
            await self._settle()
            self._start()

    def expect(self, size: int) -> None:
        """Tell the sink that *size* bytes will be written in all, if it wants to know."""
        expect = getattr(self.sink, "expect", None)
        if expect is not None:
            try:
                expect(size)
            except Exception as reason:
                raise _blamed(reason, self.sink, "expect") from None

    async def room(self) -> memoryview:
        """Return memory for the next bytes, to be told by `filled`; waits when the threads are behind."""
        if self._ring is None:
            works = [self._write] if self.sink is not None else []
            if self.checks or self._digest_names:
                works.append(self._look_at)
            self._ring = Ring(works, self._executor(), self._pages)
        return await self._ring.room()

    def filled(self, number: int) -> None:
        """Say that the next *number* bytes were put where there was `room`."""
        assert self._ring is not None
        self.position += number
        self._ring.filled(number)

    async def drain(self) -> None:
        """Handle all that was fed, so that sink and checks stand at `position`."""
        if self._ring is not None:
            await self._ring.drain()
            self._leave_ring()
        await self._settle()
        if self._batch:
            batch, size = self._take()
            await self._handle(batch, size)

    async def judge(self, check: Check) -> None:
        """Let *check* finish: ours at once, in a thread what may take its time."""
        if isinstance(check, _Judge) and not check.is_ours:
            await self._in_thread(check.finish)
        else:
            check.finish()

    def restart(self) -> None:
        """Start again from 0: nothing of the bytes so far remains, save what a consumer has."""
        self._take()
        self._leave_ring()
        if self.sink is not None and self.sink.position:
            try:
                self.sink.truncate(0)
            except Exception as reason:
                raise _blamed(reason, self.sink, "truncate") from None
        if self.outlet is not None:
            self.outlet.restart()
        self.position = 0
        self._begin()

    async def commit(self) -> None:
        """Publish what is in the sink; a commit that was started finishes."""
        if self.sink is None:
            return
        if self.position <= LARGE:
            self._publish(self.sink)
        else:
            await self._in_thread(partial(self._publish, self.sink))

    async def halt(self) -> None:
        """Wait until no thread is at work, whatever it has to say; cancellation waits too."""
        self._take()
        work, self._worker = self._worker, None
        if work is None and self._ring is not None:
            work = self._ring.idleness()
        if work is not None:
            cancelled = await finished(work)
            work.cancelled() or work.exception()
            self._leave_ring()
            if cancelled is not None:
                raise cancelled

    def _leave_ring(self) -> None:
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def discard(self) -> None:
        """Leave nothing behind in the sink."""
        if self.sink is not None:
            try:
                self.sink.discard()
            except Exception as reason:
                _log.error("%s", plugin_error(f"{type(self.sink).__name__}.discard", reason))

    def _take(self) -> tuple[list[bytes], int]:
        batch, size = self._batch, self._batched
        self._batch, self._batched = [], 0
        return batch, size

    def _start(self) -> None:
        batch, _ = self._take()
        loop = asyncio.get_running_loop()
        self._worker = loop.run_in_executor(self._executor(), self._consume, batch)

    async def _settle(self) -> None:
        """Wait for the batch in the thread, and raise what it raised."""
        if self._worker is not None:
            await asyncio.wait((self._worker,))
            worker, self._worker = self._worker, None
            worker.result()

    async def _handle(self, batch: list[bytes], size: int) -> None:
        if size <= LARGE:
            self._consume(batch)
        else:
            await self._in_thread(partial(self._consume, batch))

    async def _in_thread(self, work: Callable[[], None]) -> None:
        future = asyncio.get_running_loop().run_in_executor(self._executor(), work)
        cancelled = await finished(future)
        future.result()
        if cancelled is not None:
            raise cancelled

    def _consume(self, batch: list[bytes]) -> None:
        for block in batch:
            self._look_at(block)
            self._write(block)

    def _look_at(self, block: Block) -> None:
        for update in self._updates:
            update(block)

    def _write(self, block: Block) -> None:
        if self.sink is not None:
            try:
                self.sink.write(block if self._sink_is_ours else bytes(block))
            except Exception as reason:
                raise _blamed(reason, self.sink, "write") from None

    def _publish(self, sink: Sink) -> None:
        try:
            sink.commit()
        except Exception as reason:
            raise _blamed(reason, sink, "commit") from None
        self.committed = True


class _Judge:
    """The check of *validation* at work: what fails in it is told as the validation's own failure.

    Where the validation is not enforced, an early refusal is kept for the verdict, and the check left alone.
    """

    def __init__(self, validation: Validation) -> None:
        self._validation = validation
        self.is_ours = type(validation) is SizeValidation
        self._refusal: ValidationError | None = None
        try:
            self._check = validation.check()
        except Exception as reason:
            raise self._blamed(reason, "check") from None
        if self._check is None:
            raise PluginError(f"{type(validation).__name__}.check returned None, which is no Check")

    def update(self, block: Block) -> None:
        if self._refusal is not None:
            return
        try:
            self._check.update(block)
        except ValidationError as refusal:
            if self._validation.enforced:
                raise
            self._refusal = refusal
        except Exception as reason:
            raise self._blamed(reason, "update") from None

    def finish(self) -> None:
        if self._refusal is not None:
            raise self._refusal
        try:
            self._check.finish()
        except Exception as reason:
            raise self._blamed(reason, "finish") from None

    def _blamed(self, reason: Exception, step: str) -> DownloadError:
        if isinstance(reason, DownloadError):
            return reason
        return plugin_error(f"{type(self._validation).__name__}.{step}", reason)


def _blamed(reason: Exception, culprit: object, step: str) -> DownloadError:
    """Return the error of the tree for what escaped from somebody's writer or sink: an OSError is the system's word."""
    if isinstance(reason, DownloadError):
        return reason
    where = f"{type(culprit).__name__}.{step}"
    return write_error(reason, where) if isinstance(reason, OSError) else plugin_error(where, reason)


def _is_ours(thing: object) -> bool:
    """Tell whether *thing*, a sink or a validation, is one of downhaul's own: these keep no block that they see."""
    return type(thing).__module__.partition(".")[0] == __package__


def _with_bytes(take: Callable[[Block], None]) -> Callable[[Block], None]:
    """Return *take* for blocks whose memory is used again: what may keep them gets bytes of its own."""
    return lambda block: take(bytes(block))


async def finished(future: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until *future* is done even if cancelled meanwhile; return the cancellation, for the caller to raise."""
    cancelled = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as reason:
            cancelled = reason
    return cancelled
