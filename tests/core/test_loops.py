"""Event loops of other threads: owned, called from plain threads, awaited from other loops."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from downhaul._loops import Call, CleanUp, LoopThread, running_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    """A loop in a thread of its own."""
    thread = LoopThread()
    yield thread
    if not thread.loop.is_closed():
        thread.end()
    thread.join()
    assert thread.loop.is_closed()


async def arrive(thread: LoopThread, make: Callable[[], Any]) -> Any:
    """Await a call on the running loop."""
    return await Call(thread.loop, make).arrive()


def wait(thread: LoopThread, make: Callable[[], Any]) -> Any:
    """Wait for a call in this thread."""
    return Call(thread.loop, make).wait()


def arrive_from_here(thread: LoopThread, make: Callable[[], Any]) -> Any:
    """Await a call on a loop of this thread."""
    return asyncio.run(arrive(thread, make))


WAYS = pytest.mark.parametrize("call", [wait, arrive_from_here])


@WAYS
def test_result(call: Any, thread: LoopThread) -> None:
    """A coroutine runs on the other loop, and its result comes back."""

    async def work() -> tuple[object, int]:
        return running_loop(), threading.get_ident()

    loop, ident = call(thread, work)
    assert loop is thread.loop
    assert ident != threading.get_ident()


@WAYS
@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("late"), StopAsyncIteration(), RuntimeError("no")])
def test_error(call: Any, thread: LoopThread, error: Exception) -> None:
    """An exception comes back, the very object."""

    async def work() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        call(thread, work)
    if not isinstance(error, StopAsyncIteration):
        assert raised.value is error


@WAYS
def test_making_the_coroutine_fails(call: Any, thread: LoopThread) -> None:
    """What goes wrong before there is a coroutine comes back as well, and nobody waits for ever."""

    def make() -> Any:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        call(thread, make)


@WAYS
def test_context_variables_go_over(call: Any, thread: LoopThread) -> None:
    """Context variables of the caller (a trace, a tenant) are those of the work; what it sets stays there."""
    tenant = contextvars.ContextVar("tenant", default="nobody")
    tenant.set("elmer")

    async def work() -> str:
        before = tenant.get()
        tenant.set("other")
        return before

    assert call(thread, work) == "elmer"
    assert tenant.get() == "elmer"


async def test_cancelling_waits_for_the_clean_up(thread: LoopThread) -> None:
    """Cancelling who awaits cancels the work, and comes back when its clean-up is done."""
    began, log = asyncio.Event(), []
    here = asyncio.get_running_loop()

    async def work() -> None:
        try:
            here.call_soon_threadsafe(began.set)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            log.append("cleaned up")

    task = asyncio.create_task(arrive(thread, work))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["cleaned up"]


async def test_cancelling_twice_waits_too(thread: LoopThread) -> None:
    """A second cancellation does not leave the clean-up behind, it only reaches the work once more."""
    began, cleaning, go_on, log = asyncio.Event(), asyncio.Event(), threading.Event(), []
    here = asyncio.get_running_loop()

    async def work() -> None:
        try:
            here.call_soon_threadsafe(began.set)
            await asyncio.Event().wait()
        finally:
            here.call_soon_threadsafe(cleaning.set)
            await asyncio.shield(asyncio.to_thread(go_on.wait, 10))
            log.append("not reached, for it is cancelled too")

    task = asyncio.create_task(arrive(thread, work))
    await began.wait()
    task.cancel()
    await cleaning.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert log == []


async def test_cancelling_before_it_began(thread: LoopThread) -> None:
    """A call that is cancelled before its loop came to it never begins."""
    hold, ran = threading.Event(), []
    thread.loop.call_soon_threadsafe(hold.wait, 10)

    async def work() -> None:
        ran.append(True)

    task = asyncio.create_task(arrive(thread, work))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    hold.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ran == []


async def test_a_clean_up_is_not_cancelled(thread: LoopThread) -> None:
    """What frees something runs to its end, also if who waits for it is cancelled before it began, and again."""
    hold, log = threading.Event(), []
    thread.loop.call_soon_threadsafe(hold.wait, 10)

    async def work() -> None:
        await asyncio.sleep(0.01)
        log.append("cleaned up")

    task = asyncio.create_task(CleanUp(thread.loop, work).arrive())
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    hold.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["cleaned up"]


async def test_timeout_over_a_bridge(thread: LoopThread) -> None:
    """`asyncio.timeout` around a bridged call is a TimeoutError, after the clean-up."""
    log = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cleaned up")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await arrive(thread, work)
    assert log == ["cleaned up"]


@WAYS
def test_work_that_cancels_itself(call: Any, thread: LoopThread) -> None:
    """Work that ends cancelled though nobody who waits was, because its context is closed, is an error."""

    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="the context was closed while it was at work"):
        call(thread, work)


def test_who_waited_is_gone(thread: LoopThread) -> None:
    """A loop that awaited and is closed when the outcome comes does not disturb the one that worked."""
    began, go_on = threading.Event(), threading.Event()

    async def work() -> str:
        began.set()
        await asyncio.to_thread(go_on.wait, 10)
        return "done"

    loop = asyncio.new_event_loop()
    call = Call(thread.loop, work)
    waiting = call.arrive()
    loop.call_soon(waiting.send, None)  # up to where it waits
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert began.wait(10)
    loop.close()
    go_on.set()
    assert call.wait() == "done"
    waiting.close()


def test_end_runs_what_is_last() -> None:
    """When a loop ends it runs what it was given as the last, cancels the rest, waits for it, and is closed."""
    thread, log = LoopThread(), []

    async def forever(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            log.append(name)

    async def start() -> None:
        start.tasks = [asyncio.create_task(forever("a")), asyncio.create_task(forever("b"))]  # type: ignore[attr-defined]

    async def last() -> None:
        log.append("last")

    wait(thread, start)
    thread.end(last)
    thread.join()
    assert log[0] == "last"
    assert sorted(log[1:]) == ["a", "b"]
    assert thread.loop.is_closed()


def test_end_waits_for_what_the_last_task_begins() -> None:
    """What a callback of the last task begins is not forgotten either."""
    for _ in range(20):
        thread, log = LoopThread(), []

        async def work(left: int) -> None:
            try:
                await asyncio.sleep(0)
            finally:
                log.append(left)  # noqa: B023

        def begin(loop: asyncio.AbstractEventLoop, left: int) -> None:
            task = loop.create_task(work(left))
            if left:
                task.add_done_callback(lambda _: begin(loop, left - 1))

        thread.loop.call_soon_threadsafe(begin, thread.loop, 5)
        thread.end()
        thread.join()
        assert log == [5, 4, 3, 2, 1, 0] or len(log) < 6  # a task that never began has nothing to clean up
        assert thread.loop.is_closed()


def test_ended_loop_cancels_who_waits() -> None:
    """Who waits for a loop that ends is told so."""
    thread, began = LoopThread(), threading.Semaphore(0)

    async def forever() -> None:
        began.release()
        await asyncio.Event().wait()

    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(wait, thread, forever), pool.submit(arrive_from_here, thread, forever)]
        for _ in waiting:
            assert began.acquire(timeout=10)
        thread.end()
        for each in waiting:
            with pytest.raises(RuntimeError, match="the context was closed while it was at work"):
                each.result(10)
        thread.join()


def test_running_loop() -> None:
    """`running_loop` tells the loop of this thread, or None."""
    assert running_loop() is None

    async def work() -> bool:
        return running_loop() is asyncio.get_running_loop()

    assert asyncio.run(work())
