"""Memory that goes round: from the socket to the checks and the sink, side by side, and back.

A body that offers `readinto` fills a page of the ring. When enough is in it, the page goes to two strands: one
calculates digests and lets checks look, the other writes. Each is at work in one thread at a time, in order, while the
next page is filled. When both are done with a page it is free again. So no byte is copied on the way, and receiving,
hashing and writing take as long as the longest of them, not as long as all together.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

PAGE: Final = 512 * 1024
"""Bytes of a page."""

_WORTH: Final = 256 * 1024
"""Bytes in a page that are worth a thread's while, though there is room for more."""

_PAGES: Final = 4
_KEPT: Final = 32


class Pages:
    """Memory for rings, kept for the next one: to get it from the system anew costs as much as to fill it."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """Return a page."""
        return self._free.pop() if self._free else memoryview(bytearray(PAGE))

    def give_back(self, page: memoryview) -> None:
        """Take *page* back, to be used again or forgotten."""
        if len(self._free) < _KEPT:
            self._free.append(page)


class _Page:
    """A piece of memory, and how many strands still look at it."""

    __slots__ = ("memory", "users")

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.users = 0


class Ring:
    """The pages of one transfer, and the strands that work on them; on one loop. To be closed when all is done.

    Each of *works* is called with what has come, a part of a page, in threads of *executor*; the memory is used again
    when it returns. What one of them raises ends its work for good, and is raised to who fills the ring.
    """

    def __init__(self, works: Sequence[Callable[[memoryview], None]], executor: Executor, pages: Pages) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._pages = pages
        self._all: list[_Page] = []
        self._free: deque[_Page] = deque()
        self._page: _Page | None = None
        self._filled = self._begun = 0
        self._strands = [_Strand(work, executor, self._let_go) for work in works]
        self._waiter: asyncio.Future[None] | None = None
        self._idle_waiter: asyncio.Future[None] | None = None

    def close(self) -> None:
        """Give the memory back; no strand may be at work."""
        for page in self._all:
            self._pages.give_back(page.memory)
        self._all.clear()
        self._strands.clear()  # which hold the ring

    async def room(self) -> memoryview:
        """Return memory for the next bytes; waits until there is some. Raises what a strand has raised."""
        self._raise()
        while self._page is None:
            if not self._free and len(self._all) < _PAGES:
                self._free.append(_Page(self._pages.take()))
                self._all.append(self._free[-1])
            if self._free:
                self._page, self._filled, self._begun = self._free.popleft(), 0, 0
            else:
                await self._until(lambda: bool(self._free))
                self._raise()
        return self._page.memory[self._filled :]

    def filled(self, number: int) -> None:
        """Say that *number* bytes were put where there was room."""
        self._filled += number
        ready = self._filled - self._begun
        if self._filled == PAGE or (ready >= _WORTH and self.is_idle):
            self._hand_over()

    async def drain(self) -> None:
        """Wait until all that was filled in has been worked on; raises what a strand has raised."""
        if self._page is not None and self._filled > self._begun:
            self._hand_over()
        await self._until(lambda: self.is_idle)
        self._raise()

    @property
    def is_idle(self) -> bool:
        """Whether no thread is at work."""
        return all(strand.is_idle for strand in self._strands)

    def idleness(self) -> asyncio.Future[None]:
        """Return a future that is done when no thread is at work; a task would be cancelled with all others."""
        future = self._idle_waiter = self._loop.create_future()
        if self.is_idle:
            _wake(future)
        return future

    def _hand_over(self) -> None:
        page = self._page
        assert page is not None
        part = page.memory[self._begun : self._filled]
        self._begun = self._filled
        with self._lock:
            page.users += len(self._strands)
        if self._filled == PAGE:
            self._page = None
        for strand in self._strands:
            strand.put(page, part)

    def _let_go(self, page: _Page) -> None:
        """Called in a thread: a strand is done with a part of *page*."""
        with self._lock:
            page.users -= 1
            if not page.users and page is not self._page:
                self._free.append(page)
            waiter = self._waiter
        idle_waiter = self._idle_waiter
        if waiter is not None:
            self._loop.call_soon_threadsafe(_wake, waiter)
        if idle_waiter is not None and self.is_idle:
            self._loop.call_soon_threadsafe(_wake, idle_waiter)

    def _raise(self) -> None:
        for strand in self._strands:
            if strand.failure is not None:
                raise strand.failure

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            with self._lock:
                waiter = self._waiter = self._loop.create_future()
            try:
                if not condition():  # it may have come true before anybody could be told
                    await waiter
            finally:
                self._waiter = None


class _Strand:
    """Does one piece of work after another, in whatever thread is free."""

    def __init__(self, work: Callable[[memoryview], None], executor: Executor, done: Callable[[_Page], None]) -> None:
        self._work, self._executor, self._done = work, executor, done
        self._parts: deque[tuple[_Page, memoryview]] = deque()
        self._lock = threading.Lock()
        self.is_idle = True
        self.failure: BaseException | None = None

    def put(self, page: _Page, part: memoryview) -> None:
        """Let *part* of *page* be worked on, after what was put before."""
        with self._lock:
            self._parts.append((page, part))
            if not self.is_idle:
                return
            self.is_idle = False
        self._executor.submit(self._run)

    def _run(self) -> None:
        while True:
            page, part = self._parts.popleft()
            try:
                if self.failure is None:
                    self._work(part)
            except BaseException as reason:
                self.failure = reason
            with self._lock:
                self.is_idle = is_idle = not self._parts
            self._done(page)
            if is_idle:
                return


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
