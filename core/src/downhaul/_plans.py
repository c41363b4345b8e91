"""The plans of a batch as they come, one side of which pulls jobs from the iterable."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import AsyncIterable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from ._crew import all_finished
from ._download import Download
from ._loops import soon, when_dropped
from ._progress import Job

if TYPE_CHECKING:
    import queue

    from ._crew import Crew, Plan
    from ._progress import Tally

_END: Final = object()


class Plans:
    """The plans of a batch, in order of completion, for one consumer."""

    def __init__(self, crew: Crew, tally: Tally) -> None:
        self.crew, self._tally = crew, tally
        self._left = False

    def __iter__(self) -> Self:
        raise TypeError("this batch was entered with `async with`: use `async for plan in batch()`")

    def __aiter__(self) -> Self:
        raise TypeError("this batch was entered with `with`: use `for plan in batch()`")

    def __next__(self) -> Plan:
        raise TypeError("use `async for plan in batch()`")

    async def __anext__(self) -> Plan:
        raise TypeError("use `for plan in batch()`")

    def leave(self) -> None:
        """The batch is being left: nothing more will come, and whoever waits is told."""
        self._left = True
        self._wake()

    def _wake(self) -> None:
        """Let who waits for a plan look again."""
        raise NotImplementedError

    def _refuse_left(self, statement: str) -> None:
        if self._left:
            raise RuntimeError(f"the batch was left; take its plans inside of its `{statement}`")

    def _submit(self, item: object) -> None:
        if not isinstance(item, Download):
            raise TypeError(f"the iterable of a Batch yields Downloads, not {item!r}")
        job = Job(item)
        self._tally.pull(job)
        self.crew.submit(job)

    def _consumed(self, plan: Plan) -> None:
        self._tally.consume()
        self.crew.consumed(plan)


class SyncPlans(Plans):
    """The plans for a thread, which pulls a job whenever there is room for one."""

    def __init__(
        self,
        downloads: Iterable[Download],
        backlog: int,
        crew: Crew,
        tally: Tally,
        inbox: queue.SimpleQueue[Plan | None],
    ) -> None:
        super().__init__(crew, tally)
        self._source, self._backlog, self._inbox = iter(downloads), backlog, inbox
        self._outstanding = 0  # pulled, not yet consumed
        self._exhausted = False
        self._failure: Exception | None = None
        self._turn = threading.Lock()
        self._dropped = when_dropped(self, partial(_drop, crew, self._source))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Plan:
        if not self._turn.acquire(blocking=False):
            raise _several_consumers("threads")
        try:
            return self._next()
        finally:
            self._turn.release()

    def close(self) -> None:
        """Close the iterable."""
        self._dropped.detach()
        _close(self._source)

    def _next(self) -> Plan:
        self._refuse_left("with")
        self.crew.refuse_in_child()
        self._pull()
        while self._inbox.empty() and self._pull():
            pass
        if not self._outstanding:
            self._finish()
        plan = self._inbox.get()
        if plan is None:
            self._refuse_left("with")
        assert plan is not None
        self._outstanding -= 1
        self._consumed(plan)
        return plan

    def _pull(self) -> bool:
        """Pull one job, if there is room and there is one."""
        if self._exhausted or self._outstanding >= self._backlog:
            return False
        try:
            self._submit(next(self._source))
        except StopIteration:
            self._exhaust()
            return False
        except Exception as error:
            self._failure = error  # raised when all that was pulled has been consumed
            self._exhaust()
            return False
        self._outstanding += 1
        return True

    def _wake(self) -> None:
        self._inbox.put(None)

    def _exhaust(self) -> None:
        self._exhausted = True
        self._tally.exhaust()

    def _finish(self) -> NoReturn:
        failure, self._failure = self._failure, None
        raise failure or StopIteration


class Inbox:
    """Plans on their way to the one task that takes them; None has it look again.

    An asyncio.Queue is for several takers, and keeps a deque of them that is cleaned up when one goes: in Python 3.11
    that crashes the interpreter where the loop was closed and everything is collected as garbage, in whatever order.
    """

    def __init__(self) -> None:
        self._plans: deque[Plan | None] = deque()
        self._arrival: asyncio.Future[None] | None = None

    def put(self, plan: Plan | None) -> None:
        """Add *plan*; callable on the taker's loop."""
        self._plans.append(plan)
        if self._arrival is not None and not self._arrival.done():
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is waiting any more
                self._arrival.set_result(None)

    async def get(self) -> Plan | None:
        """Return the next one, and wait for it."""
        while not self._plans:
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        return self._plans.popleft()


class AsyncPlans(Plans):
    """The plans for a task, beside which another one pulls a job whenever there is room for one."""

    def __init__(
        self,
        downloads: Iterable[Download] | AsyncIterable[Download],
        backlog: int,
        crew: Crew,
        tally: Tally,
        inbox: Inbox,
    ) -> None:
        super().__init__(crew, tally)
        self._inbox = inbox
        self._source: Any = aiter(downloads) if isinstance(downloads, AsyncIterable) else iter(downloads)
        self._is_async = hasattr(self._source, "__anext__")
        self._backlog = backlog
        self._outstanding = 0  # pulled, not yet consumed
        self._exhausted = False
        self._failure: BaseException | None = None
        self._feeder: asyncio.Task[None] | None = None
        self._taken = False
        self._variables = contextvars.copy_context()  # one for all feeders: the iterable may keep something there
        self._dropped = when_dropped(self, partial(_adrop, crew, self._source, asyncio.get_running_loop()))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Plan:
        if self._taken:
            raise _several_consumers("tasks")
        self._taken = True
        try:
            return await self._next_plan()
        finally:
            self._taken = False

    async def stop_feeding(self) -> None:
        """Pull no more."""
        if self._feeder is not None:
            self._feeder.cancel()
            await all_finished((self._feeder,))

    async def aclose(self) -> None:
        """Close the iterable."""
        self._dropped.detach()
        await _aclose(self._source)

    async def _next_plan(self) -> Plan:
        self._refuse_left("async with")
        self._keep_feeding()
        plan = None
        while plan is None:
            if self._exhausted and not self._outstanding:
                failure, self._failure = self._failure, None
                raise failure or StopAsyncIteration
            plan = await self._inbox.get()  # None: the feeder has come to the end, or the batch was left
            self._refuse_left("async with")
        self._outstanding -= 1
        self._consumed(plan)
        asyncio.get_running_loop().call_soon(self._keep_feeding)  # the plan is theirs first
        return plan

    def _keep_feeding(self) -> None:
        """Pull jobs while there is room for more, those that must be waited for in a task.

        A task that waited for room would keep what was dropped. One job is pulled here, where that needs no waiting: so
        much is made room for at a time, and a task for it would cost more than the job.
        """
        if self._left or self._exhausted or self._outstanding >= self._backlog:
            return
        if self._feeder is not None and not self._feeder.done():
            return
        if self._outstanding == self._backlog - 1 and not self._is_async:
            self._variables.run(self._pull)
        else:
            self._feeder = asyncio.create_task(self._feed(), context=self._variables)

    def _pull(self) -> None:
        """Pull one job of an iterable that need not be awaited."""
        try:
            self._submit(next(self._source))
        except BaseException as reason:
            self._end(reason)
        else:
            self._outstanding += 1

    async def _feed(self) -> None:
        try:
            while self._outstanding < self._backlog:
                self._submit(await self._next_item())
                self._outstanding += 1
                await asyncio.sleep(0)
        except BaseException as reason:
            self._end(reason)

    def _end(self, reason: BaseException) -> None:
        """Pull no more, for *reason*, which is raised when all that was pulled has been consumed; or here and now."""
        self._exhaust()
        if isinstance(reason, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise reason
        own = isinstance(reason, asyncio.CancelledError) and self._left  # we have cancelled it
        if not (own or isinstance(reason, StopIteration | StopAsyncIteration)):
            self._failure = reason

    def _exhaust(self) -> None:
        self._exhausted = True
        if not self._left:
            self._tally.exhaust()
        self._wake()

    def _wake(self) -> None:
        self._inbox.put(None)

    async def _next_item(self) -> object:
        if self._is_async:
            return await anext(self._source)
        item = next(self._source, _END)
        if item is _END:
            raise StopAsyncIteration  # a StopIteration cannot leave a coroutine
        return item


def _close(source: Any) -> None:
    if hasattr(source, "close"):
        source.close()


async def _aclose(source: Any) -> None:
    if hasattr(source, "aclose"):
        await source.aclose()
    else:
        _close(source)


def _drop(crew: Crew, source: object) -> None:
    """End a batch whose plans were dropped: nobody will leave it."""
    soon(crew.loop, crew.disband)
    _close(source)


def _adrop(crew: Crew, source: object, here: asyncio.AbstractEventLoop) -> None:
    """Do the same for a batch of the loop *here*."""
    soon(crew.loop, crew.disband)
    soon(here, lambda: here.create_task(_aclose(source)))


def _several_consumers(who: str) -> RuntimeError:
    return RuntimeError(f"two {who} ask one batch for its plans at the same time: let one of them hand them on")
