"""Event loops of other threads: one to own, and how to work on one from a plain thread or from another loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import os
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ._cancelling import cancel

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")
_LOOK: Final = 0.5  # seconds between two looks whether another loop is still there


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def soon(loop: asyncio.AbstractEventLoop, work: Callable[[], object]) -> None:
    """Let *work* run on *loop* soon, unless that is closed; callable from any thread."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(work)


def when_dropped(owner: object, work: Callable[[], object]) -> weakref.finalize[..., Any]:
    """Call *work* when *owner* is dropped; not in the child of a fork, for what is under way is the parent's.

    *work* must not hold on to *owner*, nor take a lock: objects may be dropped at any point of a program.
    """
    process = os.getpid()

    def drop() -> None:
        if os.getpid() == process:
            work()

    finalizer = weakref.finalize(owner, drop)
    finalizer.atexit = False  # contexts are closed then
    return finalizer


class Threads(concurrent.futures.ThreadPoolExecutor):
    """Threads of ours that are there for as long as anything runs.

    When the main thread has come to its end no pool takes anything any more, though other threads may be at work for
    hours: then it is done at once, by who asks for it.
    """

    def __init__(self, number: int | None = None) -> None:
        members: set[threading.Thread] = set()
        super().__init__(
            number, thread_name_prefix="downhaul", initializer=lambda: members.add(threading.current_thread())
        )
        self._members = members

    def is_here(self) -> bool:
        """Tell whether this thread is one of them."""
        return threading.current_thread() in self._members

    def submit(self, work: Callable[..., _T], /, *args: Any, **options: Any) -> concurrent.futures.Future[_T]:
        """Let a thread do *work*."""
        try:
            return super().submit(work, *args, **options)
        except RuntimeError:
            outcome: concurrent.futures.Future[_T] = concurrent.futures.Future()
            try:
                outcome.set_result(work(*args, **options))
            except Exception as error:
                outcome.set_exception(error)
            return outcome


class LoopThread:
    """An event loop that runs in a daemon thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._threads = Threads()
        self.loop.set_default_executor(self._threads)
        self._last: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="downhaul", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the system, or an interpreter that ends, gives no thread any more
            self.loop.close()
            raise

    def end(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Let the loop run *last*, then come to its end; returns at once, callable once, from any thread."""
        self._last, self._ended = last, True
        self.loop.call_soon_threadsafe(self.loop.stop)

    def is_here(self) -> bool:
        """Tell whether this is its thread, or one that its loop waits for when it ends."""
        return threading.current_thread() is self._thread or self._threads.is_here()

    def join(self) -> None:
        """Wait until the loop has ended; not callable in its own thread."""
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while not self._ended:
                # Of a task that wants to exit, asyncio tells the loop too; whoever waits for the task is told anyway.
                with contextlib.suppress(SystemExit, KeyboardInterrupt):
                    self.loop.run_forever()
            self.loop.run_until_complete(self._wind_up())
        finally:
            asyncio.set_event_loop(None)
            self._threads.shutdown()
            self.loop.close()

    async def _wind_up(self) -> None:
        try:
            if self._last is not None:
                await self._last()
        finally:
            while tasks := await self._remaining():
                cancel(tasks)
                await asyncio.wait(tasks)
            await self.loop.shutdown_asyncgens()

    async def _remaining(self) -> set[asyncio.Task[Any]]:
        me = {asyncio.current_task()}
        if not asyncio.all_tasks() - me:
            await asyncio.sleep(0)  # what has just ended may begin another when its callbacks run
        return asyncio.all_tasks() - me


class Call(Generic[_T]):
    """A coroutine on its way to another loop, where *make* makes it; `wait` or `arrive` for what becomes of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        self._loop, self._make = loop, make
        self._task: asyncio.Task[_T] | None = None
        self._cancelled = False
        self._outcome: concurrent.futures.Future[_T] = concurrent.futures.Future()
        loop.call_soon_threadsafe(self._start, context=contextvars.copy_context())

    def wait(self) -> _T:
        """Wait for it in this thread.

        Ctrl-C, or whatever else interrupts the wait, cancels it, waits for its clean-up, and is raised again.
        """
        try:
            while not concurrent.futures.wait((self._outcome,), _LOOK).done:
                self._refuse_gone()
            return self._outcome.result()
        except concurrent.futures.CancelledError:
            raise RuntimeError("the context was closed while it was at work") from None
        except BaseException:
            if not self._outcome.done() and not self._loop.is_closed():
                self._cancel_soon()
                while not concurrent.futures.wait((self._outcome,), _LOOK).done and not self._is_gone(cancelled=True):
                    pass
            raise
        finally:
            self._let_go()

    async def arrive(self) -> _T:
        """Await it on the running loop. Cancellation goes over, and comes back when the clean-up is done."""
        here = asyncio.get_running_loop()
        arrived: asyncio.Future[None] = here.create_future()
        self._outcome.add_done_callback(lambda _: soon(here, partial(arrived.set_result, None)))
        cancelled = None
        while not arrived.done():
            try:
                await asyncio.wait((arrived,), timeout=_LOOK)
            except asyncio.CancelledError as reason:
                cancelled = reason
                self._cancel_soon()
            if not arrived.done() and self._is_gone(cancelled=cancelled is not None):
                break
        try:
            if cancelled is not None:
                raise cancelled
            if self._outcome.cancelled():
                raise RuntimeError("the context was closed while it was at work")
            self._refuse_gone()
            return self._outcome.result()
        finally:
            self._let_go()

    def _is_gone(self, *, cancelled: bool) -> bool:
        """Tell whether nothing will come of it any more: its loop was closed, or stands still and it is *cancelled*."""
        return not self._outcome.done() and (self._loop.is_closed() or (cancelled and not self._loop.is_running()))

    def _refuse_gone(self) -> None:
        if self._is_gone(cancelled=False):
            raise RuntimeError("the event loop of the context was closed while it was at work")

    def _start(self) -> None:
        if self._cancelled:
            self._give_up()
            return
        try:
            self._task = self._loop.create_task(self._make())
        except Exception as error:
            self._outcome.set_exception(error)
        else:
            self._task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[_T]) -> None:
        if task.cancelled():
            self._give_up()
        elif (error := task.exception()) is not None:
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(task.result())

    def _give_up(self) -> None:
        outcome = self._outcome
        outcome.cancel()
        outcome.set_running_or_notify_cancel()

    def _let_go(self) -> None:
        """Forget what came of it: an error holds, by its traceback, the frames of who waited, and these hold us."""
        if self._outcome.done():
            self._task, self._outcome = None, concurrent.futures.Future()

    def _cancel_soon(self) -> None:
        soon(self._loop, self._cancel)

    def _cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            cancel((self._task,))


class CleanUp(Call[None]):
    """A call that frees something: however often who waits for it is cancelled, it runs to its end."""

    def _cancel_soon(self) -> None:
        """Let it run; the cancellation is raised when it is done."""
