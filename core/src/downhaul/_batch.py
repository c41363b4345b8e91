"""Batches: many jobs from an iterable that is never held as a whole."""

from __future__ import annotations

import asyncio
import queue
from collections import deque
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, cast

from ._arguments import check_count
from ._context import Context, default_context
from ._download import Download
from ._pipeline import finished

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._models import Result

_END: Final = object()


class Plan:
    """One finished job of a batch."""

    __slots__ = ("_error", "_result", "download")

    def __init__(self, download: Download, result: Result | None, error: Exception | None) -> None:
        self.download = download
        self._result, self._error = result, error

    @property
    def error(self) -> Exception | None:
        """What `result` would raise, or None."""
        return self._error

    def result(self) -> Result:
        """Return the `Result`, or raise the `DownloadError`."""
        if self._error is not None:
            raise self._error
        return cast("Result", self._result)

    def __repr__(self) -> str:
        return f"Plan({self.download!r}, {'done' if self._error is None else type(self._error).__name__})"


class Batch:
    """Many jobs, from an iterable or an async iterable of `Download` that is never held as a whole.

    *concurrency* jobs run at the same time. *backlog* jobs, running ones included, are pulled from the iterable and
    not yet consumed as plans; it caps concurrency. A job runs in its own context, or else in *context*. Leaving the
    batch cancels what runs, waits for the clean-up, and closes the iterable.

    Synchronous (``with``, ``for``), the iterable is advanced in the consumer's thread; asynchronous (``async with``,
    ``async for``), on the consumer's loop. Plans come in order of completion.
    """

    def __init__(
        self,
        downloads: Iterable[Download] | AsyncIterable[Download],
        *,
        concurrency: int = 10,
        backlog: int = 100,
        context: Context | None = None,
    ) -> None:
        if isinstance(downloads, str) or not isinstance(downloads, Iterable | AsyncIterable):
            raise TypeError(f"a Batch takes an iterable of Downloads, not {type(downloads).__name__}")
        check_count("concurrency", concurrency)
        check_count("backlog", backlog)
        if context is not None and not isinstance(context, Context):
            raise TypeError(f"context=… takes a Context, not {type(context).__name__}")
        self._downloads, self._backlog = downloads, backlog
        self._concurrency = min(concurrency, backlog)
        self._context = context
        self._plans: _SyncPlans | _AsyncPlans | None = None

    def __call__(self) -> Plans:
        """Return the plans, to be iterated with ``for`` or ``async for``; always the same ones."""
        if self._plans is None:
            raise RuntimeError("enter the batch first: with Batch(…) as batch: for plan in batch(): …")
        return self._plans

    def __enter__(self) -> Self:
        if not isinstance(self._downloads, Iterable):
            raise TypeError("an async iterable needs `async with Batch(…)`")
        self._refuse_twice()
        context, inbox = self._home, queue.SimpleQueue[Plan]()
        crew = context._block(lambda: _crew(context, self._concurrency, inbox.put), "async with Batch(…) as batch")
        self._plans = _SyncPlans(self._downloads, self._backlog, crew, inbox)
        return self

    def __exit__(self, *_: object) -> None:
        plans, context = self._plans, self._home
        if isinstance(plans, _SyncPlans):
            plans.left = True
            try:
                if not context.is_closed:
                    context._block(plans.crew.stop, "async with Batch(…) as batch")
            finally:
                plans.close()

    async def __aenter__(self) -> Self:
        self._refuse_twice()
        context, inbox = self._home, asyncio.Queue[Plan | None]()
        here = asyncio.get_running_loop()

        def deliver(plan: Plan) -> None:
            if not here.is_closed():
                here.call_soon_threadsafe(inbox.put_nowait, plan)

        crew = await context._await(lambda: _crew(context, self._concurrency, deliver))
        self._plans = _AsyncPlans(self._downloads, self._backlog, crew, inbox)
        return self

    async def __aexit__(self, *_: object) -> None:
        plans, context = self._plans, self._home
        if isinstance(plans, _AsyncPlans):
            plans.left = True
            try:
                await plans.stop_feeding()
            finally:
                try:
                    if not context.is_closed:
                        await context._await(plans.crew.stop)
                finally:
                    await plans.aclose()

    def _refuse_twice(self) -> None:
        if self._plans is not None:
            raise RuntimeError("this batch was entered already; make another one")

    @property
    def _home(self) -> Context:
        if self._context is None:
            self._context = default_context()
        return self._context


class Plans:
    """The plans of a batch, in order of completion."""

    left = False  # the batch, and so nothing more will come

    def __iter__(self) -> Self:
        raise TypeError("this batch was entered with `async with`: use `async for plan in batch()`")

    def __aiter__(self) -> Self:
        raise TypeError("this batch was entered with `with`: use `for plan in batch()`")

    def __next__(self) -> Plan:
        raise TypeError("use `async for plan in batch()`")

    async def __anext__(self) -> Plan:
        raise TypeError("use `for plan in batch()`")


class _SyncPlans(Plans):
    def __init__(
        self, downloads: Iterable[Download], backlog: int, crew: _Crew, inbox: queue.SimpleQueue[Plan]
    ) -> None:
        self.crew = crew
        self._source, self._backlog, self._inbox = iter(downloads), backlog, inbox
        self._outstanding = 0  # pulled, not yet consumed
        self._exhausted = False
        self._failure: Exception | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Plan:
        if self.left:
            raise RuntimeError("the batch was left; take its plans inside of its `with`")
        self._pull()
        while self._inbox.empty() and self._pull():
            pass
        if not self._outstanding:
            self._finish()
        plan = self._inbox.get()
        self._outstanding -= 1
        return plan

    def close(self) -> None:
        """Close the iterable."""
        close = getattr(self._source, "close", None)
        if close is not None:
            close()

    def _pull(self) -> bool:
        """Pull one job, if there is room and there is one."""
        if self._exhausted or self._outstanding >= self._backlog:
            return False
        try:
            self.crew.submit(_checked(next(self._source)))
        except StopIteration:
            self._exhausted = True
            return False
        except Exception as error:
            self._exhausted, self._failure = True, error  # raised when all that was pulled has been consumed
            return False
        self._outstanding += 1
        return True

    def _finish(self) -> NoReturn:
        failure, self._failure = self._failure, None
        raise failure or StopIteration


class _AsyncPlans(Plans):
    def __init__(
        self,
        downloads: Iterable[Download] | AsyncIterable[Download],
        backlog: int,
        crew: _Crew,
        inbox: asyncio.Queue[Plan | None],
    ) -> None:
        self.crew = crew
        self._inbox = inbox
        self._source: Any = aiter(downloads) if isinstance(downloads, AsyncIterable) else iter(downloads)
        self._room = asyncio.Semaphore(backlog)
        self._outstanding = 0  # pulled, not yet consumed
        self._exhausted = False
        self._failure: BaseException | None = None
        self._feeder: asyncio.Task[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Plan:
        if self.left:
            raise RuntimeError("the batch was left; take its plans inside of its `async with`")
        if self._feeder is None:
            self._feeder = asyncio.create_task(self._feed())
        plan = None
        while plan is None:
            if self._exhausted and not self._outstanding:
                failure, self._failure = self._failure, None
                raise failure or StopAsyncIteration
            plan = await self._inbox.get()  # None: the feeder has come to the end
        self._outstanding -= 1
        self._room.release()
        return plan

    async def stop_feeding(self) -> None:
        """Pull no more."""
        if self._feeder is not None:
            self._feeder.cancel()
            await _all_finished((self._feeder,))

    async def aclose(self) -> None:
        """Close the iterable."""
        if hasattr(self._source, "aclose"):
            await self._source.aclose()
        elif hasattr(self._source, "close"):
            self._source.close()

    async def _feed(self) -> None:
        try:
            while True:
                await self._room.acquire()
                self.crew.submit(_checked(await self._next()))
                self._outstanding += 1
                await asyncio.sleep(0)
        except StopAsyncIteration:
            pass
        except asyncio.CancelledError as reason:
            self._failure = None if self.left else reason  # not cancelled by us: the iterable's own doing
        except Exception as error:
            self._failure = error  # raised when all that was pulled has been consumed
        finally:
            self._exhausted = True
            self._inbox.put_nowait(None)

    async def _next(self) -> object:
        if hasattr(self._source, "__anext__"):
            return await anext(self._source)
        item = next(self._source, _END)
        if item is _END:
            raise StopAsyncIteration  # a StopIteration cannot leave a coroutine
        return item


class _Crew:
    """The jobs at work, on the context's loop."""

    def __init__(self, context: Context, concurrency: int, deliver: Callable[[Plan], None]) -> None:
        self._context, self._concurrency, self._deliver = context, concurrency, deliver
        self._loop = asyncio.get_running_loop()
        self._ready: deque[Download] = deque()
        self._working: dict[asyncio.Task[Result], Download] = {}
        self._stopped = False

    def submit(self, download: Download) -> None:
        """Start *download* as soon as there is room; callable from any thread."""
        self._context._call_soon(self._add, download)

    async def stop(self) -> None:
        """Cancel everything, and wait for the clean-up."""
        self._stopped = True
        self._ready.clear()
        for task in self._working:
            task.cancel()
        await _all_finished(self._working)

    def _add(self, download: Download) -> None:
        self._ready.append(download)
        self._fill()

    def _fill(self) -> None:
        while self._ready and len(self._working) < self._concurrency and not self._stopped:
            download = self._ready.popleft()
            context = download.context or self._context
            task = self._loop.create_task(download._run_in(context))
            self._working[task] = download
            task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[Result]) -> None:
        download = self._working.pop(task)
        if task.cancelled():
            plan = Plan(download, None, RuntimeError("cancelled: the context was closed"))
        elif isinstance(error := task.exception(), Exception):
            plan = Plan(download, None, error)
        else:
            plan = Plan(download, task.result(), None)
        if not self._stopped:
            self._deliver(plan)
        self._fill()


async def _crew(context: Context, concurrency: int, deliver: Callable[[Plan], None]) -> _Crew:
    return _Crew(context, concurrency, deliver)


async def _all_finished(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Wait until all *tasks* have finished; a cancellation meanwhile is raised afterwards."""
    cancelled = None
    for task in tuple(tasks):
        cancelled = await finished(task) or cancelled
    if cancelled is not None:
        raise cancelled


def _checked(item: object) -> Download:
    if not isinstance(item, Download):
        raise TypeError(f"the iterable of a Batch yields Downloads, not {item!r}")
    return item
