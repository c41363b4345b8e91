"""The byte budget of a batch: what is in flight stays within it, everything arrives, one alone may exceed it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.forms import FORMS, plans_of
from tests.mem import MemDriver, Reply, until

from downhaul import Batch, BufferWriter, Context, Download, SizeValidation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any


class Scales(MemDriver):
    """Weighs what is in flight whenever a job begins: bytes by name, of jobs that began and were not consumed."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, int] = {}
        self.in_flight: set[str] = set()
        self.weighed: list[list[int]] = []  # the sizes in flight, whenever a job began

    def open(self, request: Any, settings: Any) -> Any:
        self.in_flight.add(request.url)
        self.weighed.append([self.sizes[each] for each in self.in_flight if self.sizes[each]])
        return super().open(request, settings)

    def jobs(self, sizes: Sequence[int], *, told: bool) -> Iterator[Download]:
        """Yield a job for a file of each size, which the job tells if *told*."""
        for number, size in enumerate(sizes):
            url = f"mem://home/{number}"
            self.sizes[url] = size
            self.site(url, Reply(bytes(size), block=7))
            yield Download(url, BufferWriter(), validations=[SizeValidation(size)] if told else [])


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 100), max_size=25),
    budget=st.integers(1, 200),
    concurrency=st.integers(1, 8),
    backlog=st.integers(1, 30),
    pauses=st.integers(0, 40),
)
def test_what_is_in_flight(sizes: list[int], budget: int, concurrency: int, backlog: int, pauses: int) -> None:
    """Whenever a job begins whose size is told, it fits into the budget beside all that nobody has consumed yet."""

    async def consume() -> None:
        driver = Scales()
        options = {"concurrency": concurrency, "backlog": backlog, "byte_budget": budget}
        jobs = driver.jobs(sizes, told=True)
        async with Context(drivers={"mem": driver}) as context, Batch(jobs, context=context, **options) as batch:
            arrived = 0
            async for plan in batch():
                assert plan.result().size == driver.sizes[plan.download.url]
                driver.in_flight.discard(plan.download.url)
                arrived += 1
                for _ in range(pauses):
                    await asyncio.sleep(0)
        assert arrived == len(sizes)
        assert all(sum(weighed) <= budget or len(weighed) == 1 for weighed in driver.weighed)

    asyncio.run(consume())


@pytest.mark.parametrize("form", FORMS)
def test_one_larger_than_the_budget(form: str) -> None:
    """Files larger than the budget arrive, one after another."""
    driver = Scales()
    with Context(drivers={"mem": driver}) as context:
        plans = plans_of(form, driver.jobs([50] * 5, told=True), byte_budget=10, context=context)
        assert [plan.result().size for plan in plans] == [50] * 5
    assert driver.peak == 1


async def test_unknown_sizes_count_for_a_share() -> None:
    """A job whose size nobody told counts for its share of the budget, then for what the answer tells."""
    driver, gate = Scales(), asyncio.Event()
    async with Context(drivers={"mem": driver}) as context:
        jobs = list(driver.jobs([60] * 6, told=False))
        for job in jobs:
            driver.site(job.url, Reply(bytes(60), gate=gate))
        async with Batch(jobs, concurrency=4, byte_budget=100, context=context) as batch:
            plans = batch()
            first = asyncio.ensure_future(anext(plans))
            await until(lambda: driver.live == 4)
            gate.set()
            await first
            await until(lambda: not driver.live)
            assert len(driver.log) == 4  # 180 bytes are not consumed yet
            await anext(plans)
            await anext(plans)
            assert len(driver.log) == 4
            await anext(plans)
            assert [(await anext(plans)).result().size for _ in range(2)] == [60, 60]


@pytest.mark.parametrize("form", FORMS)
def test_failures_hold_nothing(form: str) -> None:
    """A failed job gives its bytes back at once: hundreds of them do not fill the budget."""
    driver = Scales()
    with Context(drivers={"mem": driver}, retries=0) as context:
        jobs = list(driver.jobs([10] * 200, told=True))
        for job in jobs[:-1]:
            driver.site(job.url, status=404)
        plans = plans_of(form, jobs, byte_budget=25, backlog=300, context=context)
        assert [plan.error for plan in plans].count(None) == 1


def test_a_budget_is_a_number() -> None:
    """A budget of no bytes, or what is no number, is refused."""
    with pytest.raises(ValueError, match="byte_budget"):
        Batch([], byte_budget=0)
    with pytest.raises(TypeError, match="byte_budget"):
        Batch([], byte_budget=1.5)  # type: ignore[arg-type]
