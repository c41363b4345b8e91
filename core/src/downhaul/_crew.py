"""The jobs of a batch at work, and what becomes of each."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from ._cancelling import cancel
from ._errors import DownloadError
from ._loops import running_loop
from ._pipeline import finished
from ._transfer import in_driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._context import Context
    from ._download import Download
    from ._models import Result
    from ._progress import Job, Tally
    from ._workers import Workers


class Plan:
    """One finished job of a batch."""

    __slots__ = ("_error", "_result", "download")

    def __init__(self, download: Download, result: Result | None, error: Exception | None) -> None:
        self.download = download
        self._result, self._error = result, error

    @property
    def error(self) -> Exception | None:
        """What `result` raises, or None."""
        return self._error

    def result(self) -> Result:
        """Return the `Result`, or raise the `DownloadError`."""
        if isinstance(self._error, DownloadError):
            raise self._error.copy()  # what is raised holds, by its traceback, the caller's frame, and so this plan
        if self._error is not None:
            raise self._error
        return cast("Result", self._result)

    def __repr__(self) -> str:
        return f"Plan({self.download!r}, {'done' if self._error is None else type(self._error).__name__})"


class Crew:
    """Runs jobs on the context's loop: at most *concurrency* at a time, and only while *byte_budget* has room.

    It runs them itself, or lets *workers* do so.
    """

    def __init__(
        self,
        context: Context,
        concurrency: int,
        byte_budget: int | None,
        tally: Tally,
        deliver: Callable[[Plan], None],
        workers: Workers | None = None,
    ) -> None:
        self._context, self._concurrency, self._deliver = context, concurrency, deliver
        self._workers = workers
        self._tally, self._byte_budget = tally, byte_budget
        self.loop = asyncio.get_running_loop()
        self._ready: deque[Job] = deque()
        self._working: dict[asyncio.Task[None], Job] = {}
        self._unconsumed = 0  # bytes of finished jobs whose plans nobody has taken yet
        self._stopped = False
        self._process = os.getpid()

    def refuse_in_child(self) -> None:
        """Raise RuntimeError in the child of a fork: what was under way is the parent's, and nothing would come."""
        if os.getpid() != self._process:
            raise RuntimeError("this batch was entered before a fork, its plans go to the parent; make another batch")

    def submit(self, job: Job) -> None:
        """Start *job* as soon as there is room; callable from any thread."""
        if running_loop() is self.loop:
            self._context._refuse_closed()
            self._add(job)
        else:
            self._context._call_soon(self._add, job)

    def consumed(self, plan: Plan) -> None:
        """Make room for what *plan* took of the byte budget; callable from any thread."""
        if self._byte_budget is not None:
            with contextlib.suppress(RuntimeError):  # the context was closed: nothing more will begin
                self._context._call_soon(self._release, _size(plan))

    def disband(self) -> None:
        """Cancel everything."""
        self._stopped = True
        self._ready.clear()
        cancel(self._working)
        if self._workers is not None:
            self._workers.disband()

    async def stop(self) -> None:
        """Cancel everything, and wait for the clean-up."""
        self.disband()
        await all_finished((*self._working, *(() if self._workers is None else self._workers.lives)))

    def _add(self, job: Job) -> None:
        self._ready.append(job)
        self._fill()

    def _release(self, size: int) -> None:
        self._unconsumed -= size
        self._fill()

    def _fill(self) -> None:
        while len(self._working) < self._concurrency and (job := self._next()) is not None:
            task = self.loop.create_task(self._work(job), context=job.variables)
            self._working[task] = job
            task.add_done_callback(self._gone)

    def _next(self) -> Job | None:
        """Take the next job, if there is one and room for it."""
        if not self._ready or self._stopped or not self._has_room():
            return None
        job = self._ready.popleft()
        if self._byte_budget is not None and job.size is None:
            job.opened = self._look_again
        self._tally.begin(job)
        return job

    async def _work(self, job: Job) -> None:
        """Run *job*, and then others that come, as long as their context variables are those that this task has.

        A task for each job would cost more than the rest of what a crew does. What a job leaves behind in a context
        variable, or a cancellation that it kept to itself, is for no other: then the task ends.
        """
        task = asyncio.current_task()
        assert task is not None
        variables = contextvars.copy_context()
        in_driver.set(False)
        mine = contextvars.copy_context()
        while True:
            self._finish(job, await self._run(job))
            unchanged = not task.cancelling() and _are_equal(contextvars.copy_context(), mine)
            if not (unchanged and self._ready and _are_equal(self._ready[0].variables, variables)):
                return
            following = self._next()
            if following is None:
                return
            job = self._working[task] = following

    async def _run(self, job: Job) -> Result | Exception:
        return await (run_job(job, self._context) if self._workers is None else self._workers.run(job))

    def _look_again(self) -> None:
        """Begin what there is room for, now that an answer told its size; callable from any thread."""
        with contextlib.suppress(RuntimeError):  # the context was closed
            self._context._call_soon(self._fill)

    def _has_room(self) -> bool:
        """Tell whether the byte budget lets the next job begin; one alone always may."""
        if self._byte_budget is None:
            return True
        in_flight = self._unconsumed + sum(map(self._weight, self._working.values()))
        return not in_flight or in_flight + self._weight(self._ready[0]) <= self._byte_budget

    def _weight(self, job: Job) -> int:
        """Return how many bytes *job* counts for: those it will have, or its share while nobody knows."""
        size = job.size
        if size is None:
            size = cast("int", self._byte_budget) // self._concurrency
        return max(size, job.received, 1)

    def _finish(self, job: Job, outcome: Result | Exception) -> None:
        if isinstance(outcome, Exception):
            plan, size = Plan(job.download, None, outcome), None
        else:
            plan, size = Plan(job.download, outcome, None), outcome.size
        self._tally.end(job, size)
        if not self._stopped:
            self._unconsumed += size or 0
            self._deliver(plan)

    def _gone(self, task: asyncio.Task[None]) -> None:
        """Look after what *task* leaves: its job, if it was cancelled in the middle of it, and room for another."""
        job = self._working.pop(task)
        if task.cancelled():
            if not self._stopped:
                self._finish(job, RuntimeError("cancelled: the context was closed"))
        else:
            task.result()
        self._fill()


def _are_equal(one: contextvars.Context, other: contextvars.Context) -> bool:
    """Tell whether two contexts hold the same; what cannot be compared is not the same."""
    try:
        return one == other
    except Exception:  # a variable may hold anything
        return False


async def run_job(job: Job, context: Context) -> Result | Exception:
    """Run *job*, in *context* unless it has its own, and return its error without the traceback.

    Its frames hold the whole transfer, and a task holds them.
    """
    download = job.download
    try:
        if download.context is None or download.context is context:
            return await download._run_here(context, job.begun)
        return await download._run_in(download.context, job.begun)
    except Exception as error:
        return error.with_traceback(None)


def _size(plan: Plan) -> int:
    """Return the number of bytes that *plan* brings its consumer."""
    return 0 if plan.error is not None else plan.result().size


async def all_finished(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Wait until all *tasks* have finished; a cancellation meanwhile is raised afterwards."""
    cancelled = None
    for task in tuple(tasks):
        cancelled = await finished(task) or cancelled
    if cancelled is not None:
        raise cancelled
