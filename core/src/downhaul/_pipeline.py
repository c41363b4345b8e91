"""The way of a byte: from a driver's body to the checks and digests, the sink, and the consumer of a stream."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from ._digests import Digests
from ._errors import DownloadError, PluginError, ValidationError
from ._registry import plugin_error
from ._validations import DigestValidation, SizeValidation
from ._writers import write_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from ._models import Block, Info
    from ._transfer import Transfer
    from ._validations import Check, Validation
    from ._writers import Sink, Writer

_BATCH: Final = 1024 * 1024  # bytes that are worth a thread's while, and the most that waits for one
_log: Final = logging.getLogger("downhaul.pipeline")
_INLINE: Final = 256 * 1024  # bytes that cost less here than the way to a thread and back


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
    ) -> None:
        self.outlet = outlet
        self.sink: Sink | None = None
        self._validations, self._digest_names, self._executor = list(validations), digests, executor
        self._batch: list[bytes] = []
        self._batched = 0
        self._worker: asyncio.Future[None] | None = None
        self.position = 0
        self.committed = False
        self.digests = Digests(())
        self.checks: tuple[tuple[Validation, Check], ...] = ()
        self._updates: list[Callable[[Block], None]] = []

    def _begin(self) -> None:
        shared = [each.algorithm for each in self._validations if isinstance(each, DigestValidation)]
        self.digests = Digests((*self._digest_names, *shared))
        self.checks = tuple((each, self._check(each)) for each in self._validations)
        self._updates = [self.digests.update, *(check.update for _, check in self.checks)]

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

    async def drain(self) -> None:
        """Handle all that was fed, so that sink and checks stand at `position`."""
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
        if self.position <= _INLINE:
            self._publish(self.sink)
        else:
            await self._in_thread(partial(self._publish, self.sink))

    async def halt(self) -> None:
        """Wait until no thread is at work, whatever it has to say; cancellation waits too."""
        self._take()
        if self._worker is not None:
            cancelled = await finished(self._worker)
            self._worker.cancelled() or self._worker.exception()
            self._worker = None
            if cancelled is not None:
                raise cancelled

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
        if size <= _INLINE:
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
        sink = self.sink
        for block in batch:
            for update in self._updates:
                update(block)
            if sink is not None:
                try:
                    sink.write(block)
                except Exception as reason:
                    raise _blamed(reason, sink, "write") from None

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


async def finished(future: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until *future* is done even if cancelled meanwhile; return the cancellation, for the caller to raise."""
    cancelled = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as reason:
            cancelled = reason
    return cancelled
