"""Answers that one task enters and leaves, though their blocks are sent from elsewhere."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextlib import AbstractAsyncContextManager

    from ._answers import Answer
    from ._sockets import Connection


class Held:
    """An answer that a task, which is `run`, enters, and leaves when it is told to or when the client hangs up.

    So the upstream can be freed at any time: while there is no answer yet, while another thread waits for a block,
    while that is stuck in sending one, and when nobody has the answer any more. `hung_up` tells whether the client
    did; `left` is done when nothing is left of the answer.
    """

    def __init__(self, answering: AbstractAsyncContextManager[Answer], connection: Connection | None = None) -> None:
        self.hung_up = False
        self.left: Future[None] = Future()
        self._entered: Future[Answer] = Future()
        for outcome in (self.left, self._entered):
            outcome.set_running_or_notify_cancel()  # who waits and is cancelled does not cancel it
        self._answering, self._connection = answering, connection
        self._enough = asyncio.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> Answer:
        """Let a task on this loop hold the answer; return it."""
        task = asyncio.create_task(self.run())
        try:
            return await asyncio.wrap_future(self._entered)
        except BaseException:
            task.cancel()
            await asyncio.wait((task,))
            raise

    def begin_in_thread(self) -> Answer:
        """Do the same where no loop runs: the task is on one that all such threads share."""
        work = _shared.start(self.run())
        try:
            return self._entered.result()
        except BaseException:
            work.cancel()
            raise

    def leave(self, error: BaseException | None = None) -> None:
        """Let it be left, because of *error* if it broke; callable from anywhere at any time, and waits for nothing."""
        if self._loop is not None and not self.left.done():
            self._error = error
            with suppress(RuntimeError):  # a loop that is closed has left it
                self._loop.call_soon_threadsafe(self._enough.set)

    async def run(self) -> None:
        """Enter the answer, wait until it is to be left, and leave it."""
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            with nullcontext() if self._connection is None else self._connection.watched(self._hang_up):
                async with self._answering as answer:
                    self._entered.set_result(answer)
                    if answer.stream is not None:
                        await self._enough.wait()
                    if self._error is not None:
                        raise self._error
        except BaseException as error:
            if not self._entered.done():
                self._entered.set_exception(client_left() if self.hung_up else error)
            elif error is not self._error:
                raise
        finally:
            self._task = self._error = None
            self.left.set_result(None)

    def _hang_up(self) -> None:
        self.hung_up = True
        if self._task is not None:
            self._task.cancel()


def client_left() -> ConnectionResetError:
    """Return the error that servers know as a client's that has left: they let it pass without noise."""
    return ConnectionResetError(errno.ECONNRESET, "the client has hung up")


class _SharedLoop:
    """An event loop in a daemon thread, which are there for as long as anything is at work there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_work = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle = asyncio.Event()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> Future[None]:
        """Run *coroutine* there; return a future of it."""
        with self._lock:
            if self._loop is None:
                try:
                    self._loop, self._idle = _new_loop()
                except BaseException:
                    coroutine.close()
                    raise
            self._at_work += 1
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        future.add_done_callback(self._release)
        return future

    def _release(self, _: object) -> None:
        with self._lock:
            self._at_work -= 1
            if not self._at_work and self._loop is not None:
                self._loop.call_soon_threadsafe(self._idle.set)
                self._loop = None

    def abandon(self) -> None:
        """In the child of a fork: leave the loop to the parent, which has its thread."""
        _abandoned.append((self._loop, self._idle))
        self.__init__()  # type: ignore[misc]


def _new_loop() -> tuple[asyncio.AbstractEventLoop, asyncio.Event]:
    """Run a loop in a new thread, until the event is set on it."""
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        idle = asyncio.Event()
        begun.set_result((asyncio.get_running_loop(), idle))
        await idle.wait()

    def work() -> None:
        try:
            with asyncio.Runner() as runner:
                runner.get_loop()  # what this may raise, it raises before there is a coroutine
                runner.run(live())
        except BaseException as error:
            if begun.done():
                raise
            begun.set_exception(error)

    threading.Thread(target=work, name="downhaul-adapters", daemon=True).start()
    return begun.result()


_abandoned: Final[list[object]] = []
_shared: Final = _SharedLoop()
os.register_at_fork(after_in_child=_shared.abandon)
