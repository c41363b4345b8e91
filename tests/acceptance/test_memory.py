"""Not all in memory: however many jobs a generator yields, what is alive stays the same."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from benchmarks import memory
from benchmarks.importing import CASES
from tests.acceptance.use_cases import importer
from tests.mem import MemDriver, Reply, context_of

from downhaul import Batch, BufferWriter, Download, Plan, Plugin, Result, Transfer, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator

DOWNLOADS = 6000
WARM = 2000
BACKLOG = 50
ITEMS = 2000
TRACED = 800  # tracing takes ten times as long
LOOK_EVERY = 500


def marks(case: str) -> list[pytest.MarkDecorator]:
    """Return the form of a case, and that it is for the long run, but for one of each form."""
    form = importer(6, "asyncio" if case.endswith("asyncio") else "sync")
    return [form] if case in {"failures, retries, attachments, sync", "buffers, asyncio"} else [form, pytest.mark.large]


@pytest.mark.parametrize("case", [pytest.param(case, marks=marks(case)) for case in CASES])
def test_the_process_does_not_grow(case) -> None:
    """Some thousands of files from nginx stay below 80 MB resident in all, and are flat after the first 2,000."""
    with memory.server() as server:
        course = memory.run(case, server.url(""), DOWNLOADS)
    assert course.peak <= memory.PEAK * 1e6
    assert course.growth(WARM) <= memory.GROWTH * 1e6


class Own(Plugin):
    """A plugin of one download, not equal to any other."""

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        transfer.state(self, dict)["seen"] = True


def jobs(driver: MemDriver, items: int = ITEMS) -> Iterator[Download]:
    """Yield downloads of which some fail, some need two attempts, and each has a URL and an origin of its own."""
    for number in range(items):
        url = f"mem://origin-{number}/file"
        driver.log.clear()
        if number % 10 == 1:
            driver.site(url, Reply(status=503), Reply(b"x" * 1000))
        elif number % 10:
            driver.site(url, Reply(b"x" * 1000))
        yield Download(url, BufferWriter(), plugins=[Own()], digests=["sha256"], attachment=bytearray(1000), retries=3)


def alive() -> Counter[str]:
    """Count the objects of a download that exist, those that wait for a garbage collection included."""
    kinds = (Transfer, Download, Plan, Result, asyncio.Task, asyncio.Future)
    return Counter(type(each).__name__ for each in gc.get_objects() if issubclass(type(each), kinds))


async def test_what_is_alive_is_bounded_by_the_backlog() -> None:
    """Of transfers, downloads, plans, results and tasks no more are alive than fit into the backlog, and a few.

    None of them waits for the garbage collector.
    """
    driver = MemDriver()
    gc.collect()
    consumed, before = 0, alive()
    gc.disable()
    try:
        async with (
            context_of(driver) as context,
            Batch(jobs(driver), concurrency=10, backlog=BACKLOG, context=context) as batch,
        ):
            async for plan in batch():
                driver.sites.pop(plan.download.url, None)
                consumed += 1
                if consumed % LOOK_EVERY == 0:
                    del plan
                    found = alive() - before
                    assert max(found.values(), default=0) <= BACKLOG + 10, found
    finally:
        gc.enable()
    assert consumed == ITEMS


async def test_allocations_are_flat() -> None:
    """Nothing that Python allocates grows with the number of jobs: no cache by URL, origin or plugin, no history."""
    driver, sizes, consumed = MemDriver(), [], 0
    tracemalloc.start()
    try:
        async with (
            context_of(driver) as context,
            Batch(jobs(driver, TRACED), concurrency=10, backlog=BACKLOG, context=context) as batch,
        ):
            async for plan in batch():
                driver.sites.pop(plan.download.url, None)
                consumed += 1
                if consumed % (TRACED // 4) == 0:
                    gc.collect()
                    sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # Half of the jobs lie between these two, so a hundred bytes for each of them would be seen.
    assert sizes[-1] - sizes[1] < TRACED // 2 * 100, sizes


async def test_errors_that_are_kept_hold_no_transfer() -> None:
    """An importer may collect what failed: the errors hold on to no transfer, pipeline or download."""
    driver = MemDriver()
    gc.collect()
    before = alive()
    downloads = (Download(f"mem://home/{number}", BufferWriter(), attachment=number) for number in range(300))
    async with context_of(driver) as context, Batch(downloads, backlog=BACKLOG, context=context) as batch:
        errors = [plan.error async for plan in batch()]
        await asyncio.sleep(0)
        found = alive() - before
    assert len(errors) == 300
    assert max(found["Transfer"], found["Download"]) <= 5, found
