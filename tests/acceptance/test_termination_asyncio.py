"""An asynchronous batch that ends at any point leaves nothing behind: use case 12 of an importer, item by item."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.farm import farm
from tests.acceptance.leaks import Watch, asynchronous
from tests.acceptance.use_cases import importer

from downhaul import Batch, BufferWriter, Context, Download

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.acceptance.farm import Farm

LAST = 36  # items that come before those that never end hold up the rest
STRIDE = 7


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """The servers."""
    with farm(tmp_path_factory.mktemp("farm")) as world:
        yield world


class Stop(Exception):
    """What a loop body raises."""


class Run:
    """A batch that says when an item has come, and is ended then."""

    def __init__(self, world: Farm, target: Path, watch: Watch, context: Context, k: int) -> None:
        self.context, self.k, self.reached = context, k, asyncio.Event()
        self.jobs: Any = watch.closing(world.jobs(target))
        if k % 2:  # plain iterables and asynchronous ones in turn
            self.jobs = watch.closing(asynchronous(self.jobs))

    async def items(self) -> AsyncIterator[int]:
        """Yield the number of each item."""
        async with Batch(self.jobs, concurrency=8, backlog=20, context=self.context) as batch:
            number = 0
            async for plan in batch():
                plan.result()
                number += 1
                if number == self.k:
                    self.reached.set()
                yield number

    async def to_its_end(self) -> None:
        """Consume all items."""
        async with contextlib.aclosing(self.items()) as items:
            async for _ in items:
                pass


async def by_break(run: Run) -> None:
    """Break out of the loop."""
    async with Batch(run.jobs, concurrency=8, backlog=20, context=run.context) as batch:
        number = 0
        async for plan in batch():
            plan.result()
            number += 1
            if number == run.k:
                break


async def by_exception(run: Run) -> None:
    """Raise in the body."""
    with pytest.raises(Stop):
        async with Batch(run.jobs, concurrency=8, backlog=20, context=run.context) as batch:
            number = 0
            async for plan in batch():
                plan.result()
                number += 1
                if number == run.k:
                    raise Stop


async def by_cancelling(run: Run) -> None:
    """Cancel the task."""
    task = asyncio.create_task(run.to_its_end())
    await run.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_timeout(run: Run) -> None:
    """Let a time limit run out."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit:
            async with contextlib.aclosing(run.items()) as items:
                async for number in items:
                    if number == run.k:
                        limit.reschedule(asyncio.get_running_loop().time() + 0.001 * (run.k % 5))


async def by_a_sibling(run: Run) -> None:
    """Let a sibling in a TaskGroup fail."""

    async def sibling() -> None:
        await run.reached.wait()
        raise Stop

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(run.to_its_end())
            group.create_task(sibling())


async def by_dropping_a_generator(run: Run) -> None:
    """Drop an asynchronous generator that holds the batch; the loop closes it."""
    async for number in run.items():
        if number == run.k:
            break


async def by_dropping(run: Run) -> None:
    """Enter the batch by hand, and drop it."""
    batch = await Batch(run.jobs, concurrency=8, backlog=20, context=run.context).__aenter__()
    plans = batch()
    for _ in range(run.k):
        (await anext(plans)).result()
    del batch, plans
    gc.collect()


WAYS = [by_break, by_exception, by_cancelling, by_timeout, by_a_sibling, by_dropping_a_generator, by_dropping]
PLACES = pytest.mark.parametrize("bound", [True, False], ids=["bound", "bridged"])


@contextlib.asynccontextmanager
async def _context(watch: Watch, bound: bool) -> AsyncIterator[Context]:
    context = watch.using(Context())
    if bound:
        async with context:
            yield context
    else:
        try:
            yield context
        finally:
            await asyncio.to_thread(context.close)


async def _terminate(
    world: Farm, tmp_path: Path, way: Callable[[Run], Awaitable[None]], bound: bool, places: range
) -> None:
    await asyncio.to_thread(bool)  # the loop has its thread
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about))
    watch = Watch(tmp_path, servers=world.ports)
    async with _context(watch, bound) as context:
        for k in places:
            await way(Run(world, tmp_path, watch, context, k))
            await watch.acheck_work()
            published = list(tmp_path.iterdir())  # noqa: ASYNC240
            assert len(published) >= k
            assert all(map(world.is_whole, published)), "nothing half done is published"
            for path in published:
                path.unlink()
            download = Download(world.nginx.url("/file-02"), BufferWriter(), context=context)
            assert (await download.run()).size == 1000
            watch.forget()
    await asyncio.get_running_loop().shutdown_default_executor()
    gc.collect()
    await watch.acheck()
    assert complaints == []


@importer(12)
@PLACES
@pytest.mark.parametrize("way", WAYS)
async def test_at_many_items(way: Callable[[Run], Awaitable[None]], bound: bool, world: Farm, tmp_path: Path) -> None:
    """Ended after an item, in whatever way, a batch leaves nothing, and the context works on."""
    await _terminate(world, tmp_path, way, bound, range(1, LAST, STRIDE))


@pytest.mark.large
@importer(12)
@PLACES
@pytest.mark.parametrize("way", WAYS)
async def test_at_every_item(way: Callable[[Run], Awaitable[None]], bound: bool, world: Farm, tmp_path: Path) -> None:
    """The same after every item."""
    await _terminate(world, tmp_path, way, bound, range(1, LAST))


# --- loops that stop --------------------------------------------------------------------------------------------


def _stopped_at(k: int, loop: asyncio.AbstractEventLoop, run: Run) -> asyncio.Task[None]:
    """Run the loop until the k-th item has come, and stop it there."""

    async def consume() -> None:
        async for number in run.items():
            if number == k:
                loop.stop()

    task = loop.create_task(consume())
    loop.run_forever()
    assert run.reached.is_set()
    return task


@importer(12, "asyncio")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of coroutines that asyncio destroys
@pytest.mark.parametrize("k", range(1, LAST, 7))
def test_a_bridged_batch_whose_loop_is_closed(k: int, world: Farm, tmp_path: Path) -> None:
    """A loop that stops and is closed in the midst of a batch leaves nothing in a context of another loop."""
    watch = Watch(tmp_path, servers=world.ports)
    with watch.using(Context()) as context:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # asyncio tells of the task that is destroyed
        task = _stopped_at(k, loop, Run(world, tmp_path, watch, context, k))
        loop.close()
        with contextlib.suppress(RuntimeError):  # what waits in the clean-up cannot be waited for any more
            task.get_coro().close()  # type: ignore[union-attr]
        del task
        gc.collect()
        watch.forget()  # of generators, whose clean-up may need their loop
        watch.check_work()
        assert all(map(world.is_whole, tmp_path.iterdir()))
        assert Download(world.nginx.url("/file-02"), BufferWriter(), context=context)().size == 1000
    watch.check()


@importer(12, "asyncio")
@pytest.mark.parametrize("k", range(1, LAST, 7))
def test_asyncio_run_that_is_left_in_the_midst(k: int, world: Farm, tmp_path: Path) -> None:
    """What ``asyncio.run`` leaves behind as a task, it cancels: the batch is left in order, and the loop is closed."""
    watch = Watch(tmp_path, servers=world.ports)

    async def consume(reached: asyncio.Event) -> None:
        async with watch.using(Context()) as context:
            run = Run(world, tmp_path, watch, context, k)
            run.reached = reached
            await run.to_its_end()

    async def main() -> None:
        reached = asyncio.Event()
        main.task = asyncio.create_task(consume(reached))  # type: ignore[attr-defined]
        await reached.wait()

    asyncio.run(main())
    gc.collect()
    watch.check()
    assert all(map(world.is_whole, tmp_path.iterdir()))
