"""A window that moves over a file: a few segments are received at the same time, and leave it in order."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator

    from downhaul import Block

_BLOCK: Final = 256 * 1024  # bytes


class Segment:
    """The bytes of a file from `position` up to `stop`: one task puts them in, one consumer takes them out.

    What is put in can be taken at once; of one that *holds*, it is `held` until it is released. `position` is that of
    the first byte that is held, or is to be put in next; `received` counts all that was put in; `waited` is set where
    that has to wait.
    """

    def __init__(self, position: int, stop: int, *, holds: bool) -> None:
        self.position = position
        self.stop: int | None = stop
        self.received = 0
        self.waited = False
        self.held = bytearray() if holds else None
        self.task: asyncio.Task[None] | None = None
        self._room: int | None = None
        self._blocks: deque[Block] = deque()
        self._waiting = 0
        self._changed = asyncio.Event()

    @property
    def flows(self) -> bool:
        """Whether it goes on as long as bytes come; the one that puts them in waits for the one that takes them."""
        return self._room is not None

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be taken that nothing more is put in."""
        return self._room is not None and self._waiting > self._room

    @property
    def left(self) -> int:
        """The number of bytes that are still to be put in, as far as anybody knows."""
        return sys.maxsize if self.stop is None else self.stop - self.position - len(self.held or b"")

    @property
    def has_failed(self) -> bool:
        """Whether the task has ended, but not well."""
        return self.task is not None and self.task.done() and (self.task.cancelled() or bool(self.task.exception()))

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let a task do the *work* of putting in."""
        self.task = asyncio.create_task(work)
        self.task.add_done_callback(lambda _: self._changed.set())
        return self.task

    async def put(self, block: Block) -> None:
        """Add the next *block*; waits where it flows, and nobody takes the blocks."""
        self.received += len(block)
        if self.held is not None:
            self.held += block
            return
        self._add(block if type(block) is bytes else bytes(block))
        while self.is_full:
            self.waited = True
            await self._change()

    def release(self, size: int) -> None:
        """Let the first *size* of the bytes that are held be taken, and drop the others."""
        held, self.held = memoryview(self.held or b""), bytearray()
        self._add(held[:size])

    def flow(self, position: int, stop: int | None, room: int) -> None:
        """Go on from *position* as long as bytes come, with no more than *room* of them waiting, and none held."""
        held, self.held = memoryview(self.held or b""), None
        self.position, self.stop, self._room = position, stop, room
        self._add(held)

    async def take(self) -> Block | None:
        """Return the next block, or None behind the last one; there, raise what the task has raised."""
        assert self.task is not None
        while not self._blocks and not self.task.done():
            await self._change()
        if not self._blocks:
            self.task.result()
            return None
        block = self._blocks.popleft()
        self._waiting -= len(block)
        self._changed.set()
        return block

    def _add(self, content: bytes | memoryview) -> None:
        self._blocks.extend(content[place : place + _BLOCK] for place in range(0, len(content), _BLOCK))
        self._waiting += len(content)
        self.position += len(content)
        self._changed.set()

    async def _change(self) -> None:
        """Wait for the other side; both never wait at once, the one for blocks and the other for fewer of them."""
        self._changed.clear()
        await self._changed.wait()


class Window:
    """The first of *segments* that are not delivered yet; each has a task, which does the work that *receive* returns.

    Whoever takes the blocks begins the tasks, so none of them begins inside of what another one has opened.
    """

    def __init__(self, segments: Iterator[Segment], receive: Callable[[Segment], Coroutine[Any, Any, None]]) -> None:
        self._coming, self._receive = segments, receive
        self._segments: deque[Segment] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> asyncio.Task[None]:
        """Begin with the first segment, and return its task."""
        self._fill(1)
        task = self._segments[0].task
        assert task is not None
        return task

    async def blocks(self, parallel: int) -> AsyncIterator[Block]:
        """Yield the blocks of all segments in order, *parallel* of which are under way, or wait to be taken."""
        self._fill(parallel)
        while self._segments:
            segment = self._segments[0]
            while (block := await segment.take()) is not None:
                if segment.flows:
                    self._give_up_others()
                yield block
            self._segments.popleft()
            if segment.task is not None:
                self._tasks.discard(segment.task)
            self._fill(parallel)

    async def aclose(self) -> None:
        """Cancel all tasks, and wait for their end, cancelled or not: nobody else could free what they hold."""
        cancelled = None
        for task in self._tasks:
            task.cancel()
        while running := [task for task in self._tasks if not task.done()]:
            try:
                await asyncio.wait(running)
            except asyncio.CancelledError as reason:
                cancelled = reason
        for task in self._tasks:
            task.cancelled() or task.exception()  # which was told, or is of no interest any more
        for segment in self._segments:
            segment.task = None  # whose exception holds the segment, by its traceback
        self._segments.clear()
        self._tasks.clear()
        if cancelled is not None:
            raise cancelled

    def _fill(self, parallel: int) -> None:
        while len(self._segments) < parallel and not any(each.has_failed for each in self._segments):
            segment = next(self._coming, None)
            if segment is None:
                return
            self._segments.append(segment)
            self._tasks.add(segment.begin(self._receive(segment)))

    def _give_up_others(self) -> None:
        while len(self._segments) > 1:
            segment = self._segments.pop()
            assert segment.task is not None
            segment.task.cancel()
            segment.task = None


@asynccontextmanager
async def closing(body: AsyncIterator[Block]) -> AsyncGenerator[AsyncIterator[Block]]:
    """Close *body* in the end, where it can be closed."""
    try:
        yield body
    finally:
        close = getattr(body, "aclose", None)
        if close is not None:
            await close()
