"""Batches: many jobs from an iterable that is never held as a whole."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterable, Iterable, Sized
from typing import TYPE_CHECKING, Self

from ._arguments import check_count
from ._context import Context, default_context
from ._crew import Crew, Plan
from ._plans import AsyncPlans, Inbox, Plans, SyncPlans
from ._progress import Progress, Tally

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._download import Download


class Batch:
    """Many jobs, from an iterable or an async iterable of `Download` that is never held as a whole.

    *concurrency* jobs run at the same time. *backlog* jobs, running ones included, are pulled from the iterable and
    not yet consumed as plans; it caps concurrency. *byte_budget* is for the bytes of jobs that run, or have finished
    and are not yet consumed: a job begins only while there is room for it, by its `SizeValidation`, or else by its
    share of the budget until the answer tells its size; one alone may exceed it. A job runs in its own context, or
    else in *context*. Leaving the batch cancels what runs, waits for the clean-up, and closes the iterable.

    With *workers*, from 2, so many processes run the jobs, with the settings, plugins and drivers of *context*, and
    together within its limits: for many small files, or several digests, which more than one core can calculate. What
    a job needs is pickled for them, save its attachment; no job has a context of its own then. The main module of the
    program is imported by each of them, so what starts there stands below ``if __name__ == "__main__":``.

    Synchronous (``with``, ``for``), the iterable is advanced in the consumer's thread; asynchronous (``async with``,
    ``async for``), on the consumer's loop. Plans come in order of completion, to one consumer: RuntimeError for
    two that ask at the same time.
    """

    def __init__(
        self,
        downloads: Iterable[Download] | AsyncIterable[Download],
        *,
        concurrency: int = 10,
        backlog: int = 100,
        byte_budget: int | None = None,
        context: Context | None = None,
        workers: int = 1,
    ) -> None:
        if isinstance(downloads, str) or not isinstance(downloads, Iterable | AsyncIterable):
            raise TypeError(f"a Batch takes an iterable of Downloads, not {type(downloads).__name__}")
        check_count("concurrency", concurrency)
        check_count("backlog", backlog)
        check_count("workers", workers)
        if byte_budget is not None:
            check_count("byte_budget", byte_budget)
        if context is not None and not isinstance(context, Context):
            raise TypeError(f"context=… takes a Context, not {type(context).__name__}")
        self._downloads, self._backlog, self._byte_budget = downloads, backlog, byte_budget
        self._concurrency = min(concurrency, backlog)
        self._context, self._workers = context, workers
        self._plans: SyncPlans | AsyncPlans | None = None
        self._tally = Tally(len(downloads) if isinstance(downloads, Sized) else None)

    def __call__(self) -> Plans:
        """Return the plans, to be iterated with ``for`` or ``async for``; always the same ones."""
        if self._plans is None:
            raise RuntimeError("enter the batch first: with Batch(…) as batch: for plan in batch(): …")
        return self._plans

    @property
    def progress(self) -> Progress:
        """How far the batch is; readable at any time, before and after it runs too, from any thread."""
        return self._tally.progress()

    def __enter__(self) -> Self:
        if not isinstance(self._downloads, Iterable):
            raise TypeError("an async iterable needs `async with Batch(…)`")
        self._refuse_twice()
        context, inbox = self._home, queue.SimpleQueue[Plan | None]()
        crew = context._block(lambda: self._crew(inbox.put), "async with Batch(…) as batch")
        self._plans = SyncPlans(self._downloads, self._backlog, crew, self._tally, inbox)
        return self

    def __exit__(self, *_: object) -> None:
        plans, context = self._plans, self._home
        if isinstance(plans, SyncPlans):
            plans.leave()
            try:
                context._block_end(plans.crew.loop, plans.crew.stop)
            finally:
                self._tally.leave()
                plans.close()

    async def __aenter__(self) -> Self:
        self._refuse_twice()
        context, inbox = self._home, Inbox()
        here = asyncio.get_running_loop()

        def deliver(plan: Plan) -> None:
            if crew.loop is here:
                inbox.put(plan)
                return
            try:
                here.call_soon_threadsafe(inbox.put, plan)
            except RuntimeError:  # the loop that consumes is closed: nobody will leave the batch
                crew.disband()

        crew = await context._await(lambda: self._crew(deliver))
        self._plans = AsyncPlans(self._downloads, self._backlog, crew, self._tally, inbox)
        return self

    async def __aexit__(self, *_: object) -> None:
        plans, context = self._plans, self._home
        if isinstance(plans, AsyncPlans):
            plans.leave()
            try:
                await plans.stop_feeding()
            finally:
                try:
                    await context._await_end(plans.crew.loop, plans.crew.stop)
                finally:
                    self._tally.leave()
                    await plans.aclose()

    async def _crew(self, deliver: Callable[[Plan], None]) -> Crew:
        """On the context's loop: assemble who runs the jobs, and hands what becomes of them to *deliver*."""
        workers = None
        if self._workers > 1:
            from ._workers import Workers  # few need them, and the modules for them

            workers = Workers(self._home, min(self._workers, self._concurrency))
        self._tally.enter()
        return Crew(self._home, self._concurrency, self._byte_budget, self._tally, deliver, workers)

    def _refuse_twice(self) -> None:
        if self._plans is not None:
            raise RuntimeError("this batch was entered already; make another one")

    @property
    def _home(self) -> Context:
        if self._context is None:
            self._context = default_context()
        return self._context
