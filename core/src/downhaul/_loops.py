"""Event loops of other threads: one to own, and how to work on one from a plain thread or from another loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")


class LoopThread:
    """An event loop that runs in a daemon thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="downhaul", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def stop(self) -> None:
        """Stop and close the loop; call it from another thread, when nothing runs there any more."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


class _Call:
    """A coroutine on its way to another loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        self._loop, self._make = loop, make
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        self.outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
        loop.call_soon_threadsafe(self._start, context=contextvars.copy_context())

    def _start(self) -> None:
        if self._cancelled:
            self.outcome.cancel()
            self.outcome.set_running_or_notify_cancel()
            return
        self._task = self._loop.create_task(self._make())
        self._task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self.outcome.cancel()
            self.outcome.set_running_or_notify_cancel()
        elif (error := task.exception()) is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())

    def cancel(self) -> None:
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()


def block_on(loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run the coroutine that *make* returns on *loop*, and wait for it in this thread.

    Ctrl-C, or whatever else interrupts the wait, cancels it, waits for its clean-up, and is raised again.
    """
    call = _Call(loop, make)
    try:
        return call.outcome.result()  # type: ignore[no-any-return]
    except concurrent.futures.CancelledError:
        raise RuntimeError("the context was closed while it was at work") from None
    except BaseException:
        if not call.outcome.done():
            call.cancel()
            concurrent.futures.wait((call.outcome,))
        raise


async def bridge(loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run the coroutine that *make* returns on *loop*, and await it on the running loop.

    Cancellation goes over, and comes back when the clean-up is done.
    """
    here = asyncio.get_running_loop()
    if here is loop:
        return await make()
    call = _Call(loop, make)
    arrived = asyncio.Event()

    def arrive(_: object) -> None:
        if not here.is_closed():
            here.call_soon_threadsafe(arrived.set)

    call.outcome.add_done_callback(arrive)
    cancelled = None
    while not call.outcome.done():
        try:
            await arrived.wait()
        except asyncio.CancelledError as reason:
            cancelled = reason
            call.cancel()
    if cancelled is not None:
        raise cancelled
    if call.outcome.cancelled():
        raise asyncio.CancelledError
    return call.outcome.result()  # type: ignore[no-any-return]
