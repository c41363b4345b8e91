"""A synchronous batch that ends at any point leaves nothing behind: use case 12 of an importer, item by item."""

from __future__ import annotations

import _thread
import contextlib
import gc
import signal
import threading
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.farm import farm
from tests.acceptance.leaks import Watch
from tests.acceptance.use_cases import importer

from downhaul import Batch, BufferWriter, Context, Download

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.acceptance.farm import Farm

LAST = 36  # items that come before those that never end hold up the rest
STRIDE = 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """The servers."""
    with farm(tmp_path_factory.mktemp("farm")) as world:
        yield world


class Stop(Exception):
    """What a loop body raises."""


def _run(world: Farm, target: Path, watch: Watch, context: Context, each: Callable[[int], bool]) -> None:
    """Run a batch to where *each*, called with the number of the item, says so."""
    with Batch(watch.closing(world.jobs(target)), concurrency=8, backlog=20, context=context) as batch:
        for number, plan in enumerate(batch(), 1):
            plan.result()
            if each(number):
                return


def by_break(world: Farm, target: Path, watch: Watch, context: Context, k: int) -> None:
    """Break out of the loop."""
    with Batch(watch.closing(world.jobs(target)), concurrency=8, backlog=20, context=context) as batch:
        for number, plan in enumerate(batch(), 1):
            plan.result()
            if number == k:
                break


def by_return(world: Farm, target: Path, watch: Watch, context: Context, k: int) -> None:
    """Return from within."""
    _run(world, target, watch, context, lambda number: number == k)


def by_exception(world: Farm, target: Path, watch: Watch, context: Context, k: int) -> None:
    """Raise in the body."""

    def each(number: int) -> bool:
        if number == k:
            raise Stop
        return False

    with pytest.raises(Stop):
        _run(world, target, watch, context, each)


def by_interrupt(world: Farm, target: Path, watch: Watch, context: Context, k: int) -> None:
    """Get a KeyboardInterrupt, between two items or, by a real signal, while waiting for the next."""
    timers = []

    def each(number: int) -> bool:
        if number == k and k % 2:
            _thread.interrupt_main()
        elif number == k:
            main = threading.main_thread().ident
            timers.append(threading.Timer(0.001 * (k % 7), signal.pthread_kill, (main, signal.SIGINT)))
            timers[0].start()
        return False

    with pytest.raises(KeyboardInterrupt):
        try:
            _run(world, target, watch, context, each)
        finally:
            for timer in timers:
                timer.join()


def by_dropping(world: Farm, target: Path, watch: Watch, context: Context, k: int) -> None:
    """Enter the batch by hand, and drop it and its plans."""
    batch = Batch(watch.closing(world.jobs(target)), concurrency=8, backlog=20, context=context).__enter__()
    plans = batch()
    for _ in range(k):
        next(plans).result()
    del batch, plans


def by_dropping_a_generator(world: Farm, target: Path, watch: Watch, context: Context, k: int) -> None:
    """Iterate a generator function that holds the batch, and drop the generator."""

    def results() -> Iterator[object]:
        with Batch(watch.closing(world.jobs(target)), concurrency=8, backlog=20, context=context) as batch:
            for plan in batch():
                yield plan.result()

    each = results()
    for _ in range(k):
        next(each)
    del each


def by_dropping_a_context_manager(world: Farm, target: Path, watch: Watch, context: Context, k: int) -> None:
    """Enter a context manager made of a generator, and drop it."""

    @contextlib.contextmanager
    def opened() -> Iterator[Batch]:
        with Batch(watch.closing(world.jobs(target)), concurrency=8, backlog=20, context=context) as batch:
            yield batch

    manager = opened()
    plans = manager.__enter__()()
    for _ in range(k):
        next(plans).result()
    del manager, plans


def by_a_cycle(world: Farm, target: Path, watch: Watch, context: Context, k: int) -> None:
    """Drop the batch within a circle of references, which the garbage collector finds."""
    batch = Batch(watch.closing(world.jobs(target)), concurrency=8, backlog=20, context=context).__enter__()
    circle = [batch]
    circle.append(circle)  # type: ignore[arg-type]
    for _ in range(k):
        next(batch()).result()
    del batch, circle
    gc.collect()


WAYS = [
    by_break, by_return, by_exception, by_interrupt, by_dropping, by_dropping_a_generator,
    by_dropping_a_context_manager, by_a_cycle,
]  # fmt: skip


def _terminate(world: Farm, tmp_path: Path, way: Callable[..., None], places: range) -> None:
    watch = Watch(tmp_path, servers=world.ports)
    with watch.using(Context()) as context:
        for k in places:
            way(world, tmp_path, watch, context, k)
            watch.check_work()
            published = list(tmp_path.iterdir())
            assert len(published) >= k
            assert all(map(world.is_whole, published)), "nothing half done is published"
            for path in published:
                path.unlink()
            assert Download(world.nginx.url("/file-02"), BufferWriter(), context=context)().size == 1000
            watch.forget()
    watch.check()


@importer(12)
@pytest.mark.parametrize("way", WAYS)
def test_at_many_items(way: Callable[..., None], world: Farm, tmp_path: Path) -> None:
    """Ended after an item, in whatever way, a batch leaves nothing, and the context works on."""
    _terminate(world, tmp_path, way, range(1, LAST, STRIDE))


@pytest.mark.large
@importer(12)
@pytest.mark.parametrize("way", WAYS)
def test_at_every_item(way: Callable[..., None], world: Farm, tmp_path: Path) -> None:
    """The same after every item."""
    _terminate(world, tmp_path, way, range(1, LAST))


@importer(12)
@pytest.mark.parametrize("k", range(1, LAST, 7))
def test_the_context_is_closed_by_another_thread(k: int, world: Farm, tmp_path: Path) -> None:
    """A context that another thread closes under a batch ends it: every plan pulled comes, none is a wait for ever."""
    watch = Watch(tmp_path, servers=world.ports)
    context = watch.using(Context())
    closer = threading.Thread(target=context.close)
    with (
        pytest.raises(RuntimeError, match="closed"),
        Batch(watch.closing(world.jobs(tmp_path)), concurrency=8, backlog=20, context=context) as batch,
    ):
        for number, plan in enumerate(batch(), 1):
            if number == k:
                closer.start()
            if number > k and plan.error is not None:
                plan.result()
    closer.join()
    watch.check()
    assert all(map(world.is_whole, tmp_path.iterdir()))


@importer(12)
def test_a_batch_that_was_not_entered(world: Farm, tmp_path: Path) -> None:
    """A batch that is dropped before it was entered has begun nothing, not even its generator."""
    watch = Watch(tmp_path, servers=world.ports)
    began = []

    def jobs() -> Iterator[Download]:
        began.append(True)
        yield from world.jobs(tmp_path)

    with watch.using(Context()) as context:
        batch = Batch(watch.closing(jobs()), context=context)
        del batch
        watch.check_work()
    watch.check()
    assert not began
