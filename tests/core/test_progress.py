"""How far a batch is: true at any moment, for whoever asks, from any thread."""

from __future__ import annotations

import asyncio
import threading
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from tests.core.forms import FORMS, plans_of, wait_until
from tests.mem import MemDriver, Reply, until

from downhaul import Batch, BufferWriter, Context, Download, Progress, SizeValidation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any


@pytest.fixture
def driver() -> MemDriver:
    """A driver with ten files of 100 bytes."""
    driver = MemDriver()
    for number in range(10):
        driver.site(f"mem://home/{number}", data=bytes(100))
    return driver


@pytest.fixture
def context(driver: MemDriver) -> Iterator[Context]:
    """A context that asks it."""
    with Context(drivers={"mem": driver}, retries=0) as context:
        yield context


def jobs(names: Iterable[object], **options: Any) -> Iterator[Download]:
    """Yield a job for each name."""
    for name in names:
        yield Download(f"mem://home/{name}", BufferWriter(), **options)


def waits_in_vain(batch: Batch) -> None:
    """Take the next plan of *batch*; it is left before one comes."""
    with pytest.raises(RuntimeError, match="the batch was left"):
        next(iter(batch()))


def adds_up(progress: Progress) -> bool:
    """Tell whether each job pulled is counted once."""
    over = progress.succeeded + progress.failed + progress.cancelled
    return progress.pulled == progress.waiting + progress.running + over


def test_before_anything_happened(context: Context) -> None:
    """A batch that was not entered has pulled nothing, and knows how many jobs there are if its iterable does."""
    assert Batch(jobs("abc"), context=context).progress == Progress()
    assert Batch(list(jobs("abc")), context=context).progress == Progress(total=3)


@pytest.mark.parametrize("form", FORMS)
def test_in_the_end(form: str, context: Context) -> None:
    """Afterwards every job is counted once, with the bytes of those that succeeded and every attempt."""
    batches: list[Batch] = []
    iterable = jobs([*range(10), "missing", "missing-too"])
    plans = plans_of(form, iterable, context=context, concurrency=3, kept=batches)
    progress = batches[0].progress
    assert len(plans) == 12
    assert progress == Progress(
        pulled=12, total=12, succeeded=10, failed=2, consumed=12, received=1000, size=1000, attempts=12,
        elapsed=progress.elapsed,
    )  # fmt: skip
    assert progress.elapsed > 0
    assert batches[0].progress == progress  # the time has stopped


def test_while_it_runs(driver: MemDriver, context: Context) -> None:
    """Running jobs count with the bytes that they have by now; their size is known from the head of the answer."""
    driver.site("mem://home/slow", data=bytes(300), block=100, cut=200, hang="body")
    iterable = jobs(["slow", 1, 2, 3, 4])
    with Batch(iterable, context=context, concurrency=2) as batch:
        for _ in zip(range(4), batch(), strict=False):
            assert adds_up(batch.progress)
        wait_until(lambda: batch.progress.received == 600)
        progress = batch.progress
        assert progress == Progress(
            pulled=5, total=5, running=1, succeeded=4, consumed=4, received=600, size=700, attempts=5,
            elapsed=progress.elapsed,
        )  # fmt: skip
    assert (batch.progress.running, batch.progress.cancelled, batch.progress.received) == (0, 1, 400)


def test_size_of_what_has_not_begun(driver: MemDriver, context: Context) -> None:
    """The size of all that was pulled is known as soon as each job's is: from its validation, or the answer's head."""
    driver.site("mem://home/unknown", data=bytes(50), hang="open")
    known = jobs(range(5), validations=[SizeValidation(100)])
    with Batch([*jobs(["unknown"]), *known], context=context, concurrency=1) as batch:
        consumer = threading.Thread(target=lambda: waits_in_vain(batch))
        consumer.start()
        wait_until(lambda: batch.progress.running == 1 and batch.progress.waiting == 5)
        assert batch.progress.size is None
    consumer.join(10)
    with Context(drivers={"mem": driver}) as another:
        known = jobs(range(5), validations=[SizeValidation(100)])
        with Batch(known, context=another, concurrency=1) as batch:
            next(iter(batch()))
            assert batch.progress.size == 100 * batch.progress.pulled


def test_repairs_show_in_the_attempts(driver: MemDriver) -> None:
    """A file that needed three attempts counts for three."""
    driver.site("mem://home/flaky", Reply(status=503, retry_after=0), Reply(status=503, retry_after=0), Reply(b"ok"))
    with Context(drivers={"mem": driver}) as context, Batch(jobs(["flaky"]), context=context) as batch:
        assert [plan.error for plan in batch()] == [None]
        assert (batch.progress.succeeded, batch.progress.attempts) == (1, 3)


def test_what_was_dropped_is_cancelled(driver: MemDriver, context: Context) -> None:
    """After a batch was left early nothing waits and nothing runs: what had been pulled was cancelled."""
    driver.site("mem://home/held", data=b"x", hang="open")
    with Batch(jobs([1, *["held"] * 20]), context=context, concurrency=3, backlog=10) as batch:
        next(iter(batch()))
    progress = batch.progress
    assert (progress.waiting, progress.running, progress.succeeded, progress.consumed) == (0, 0, 1, 1)
    assert progress.cancelled == progress.pulled - 1
    assert progress.total is None


def test_from_another_thread(context: Context) -> None:
    """Whenever another thread asks, the numbers add up and none but those of jobs at work goes back."""
    ended = threading.Event()
    seen: list[Progress] = []

    def ask(batch: Batch) -> None:
        while not ended.is_set():
            seen.append(batch.progress)

    names = [number % 10 for number in range(500)]
    with Batch(jobs(names), context=context, concurrency=7, backlog=20) as batch:
        asking = threading.Thread(target=ask, args=(batch,))
        asking.start()
        try:
            assert all(plan.result().size == 100 for plan in batch())
        finally:
            ended.set()
            asking.join(10)
    assert all(map(adds_up, seen))
    for before, after in pairwise(seen):
        for name in ("pulled", "succeeded", "consumed", "attempts", "elapsed"):
            assert getattr(before, name) <= getattr(after, name)
    assert all(each.pulled - each.consumed <= 20 and each.running <= 7 for each in seen)


def test_the_iterable_fails(context: Context) -> None:
    """The jobs before the failure of the iterable are all that there will be."""

    def failing() -> Iterator[Download]:
        yield from jobs(range(3))
        raise OSError("the index is gone")

    with Batch(failing(), context=context) as batch:
        assert [next(iter(batch())).result().size for _ in range(3)] == [100] * 3
        with pytest.raises(OSError, match="the index is gone"):
            next(iter(batch()))
    assert batch.progress.total == batch.progress.succeeded == 3


def test_a_thread_waits_while_another_one_leaves(driver: MemDriver, context: Context) -> None:
    """A thread that waits for a plan is told when another one leaves the batch, instead of waiting for ever."""
    driver.site("mem://home/held", hang="open")
    with Batch(jobs(["held"]), context=context) as batch:
        consumer = threading.Thread(target=waits_in_vain, args=(batch,))
        consumer.start()
        wait_until(lambda: driver.live)
    consumer.join(10)
    assert not consumer.is_alive()


async def test_a_task_waits_while_another_one_leaves(driver: MemDriver) -> None:
    """A task that waits for a plan is told when another one leaves the batch, instead of waiting for ever."""
    driver.site("mem://home/held", hang="open")
    async with Context(drivers={"mem": driver}) as context:
        async with Batch(jobs(["held"]), context=context) as batch:
            consumer = asyncio.ensure_future(anext(batch()))
            await until(lambda: driver.live)
        with pytest.raises(RuntimeError, match="the batch was left"):
            await asyncio.wait_for(consumer, 10)


def test_two_threads_ask_at_once(driver: MemDriver, context: Context) -> None:
    """A second thread that asks for a plan while the first one waits is refused, instead of waiting for ever."""
    gate = asyncio.Event()
    driver.site("mem://home/held", Reply(b"x", gate=gate))
    got: list[object] = []
    with Batch(jobs(["held"]), context=context) as batch:
        first = threading.Thread(target=lambda: got.extend(batch()))
        first.start()
        wait_until(lambda: driver.live)
        with pytest.raises(RuntimeError, match="two threads ask one batch"):
            next(iter(batch()))
        context._call_soon(gate.set)
        first.join(10)
        assert len(got) == 1


async def test_two_tasks_ask_at_once(driver: MemDriver) -> None:
    """A second task that asks for a plan while the first one waits is refused, instead of waiting for ever."""
    gate = asyncio.Event()
    driver.site("mem://home/held", Reply(b"x", gate=gate))
    async with Context(drivers={"mem": driver}) as context, Batch(jobs(["held"]), context=context) as batch:
        first = asyncio.ensure_future(anext(batch()))
        await until(lambda: driver.live)
        with pytest.raises(RuntimeError, match="two tasks ask one batch"):
            await anext(batch())
        gate.set()
        assert (await first).result().size == 1
