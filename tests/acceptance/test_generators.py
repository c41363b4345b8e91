"""Concurrent downloads from whatever can be iterated: when it is asked, in which thread, and what its end means."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.use_cases import importer
from tests.servers.http import http_server

from downhaul import Batch, BufferWriter, Context, Download

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from downhaul import Plan

SECONDS = 30
FORMS = [pytest.param(form, marks=importer(4, form)) for form in ("sync", "asyncio")]


async def answer(exchange) -> None:
    """Answer with the path that was asked for."""
    await exchange.respond(body=exchange.target.encode())


def job(server, number: int) -> Download:
    """Return the download of one file."""
    return Download(server.url(f"/{number}"), BufferWriter(), attachment=number)


class Rows:
    """An iterable that is neither a list nor an iterator, like a queryset."""

    def __init__(self, items: list[Download]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Download]:
        return iter(self.items)


KINDS = [list, tuple, iter, deque, Rows, lambda items: (each for each in items)]
IDS = ["list", "tuple", "iterator", "deque", "iterable", "generator"]


@importer(4)
@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_anything_that_can_be_iterated(kind) -> None:
    """A list, an iterator, a generator: each job comes back as one plan."""
    found: list[int] = []
    with http_server(answer) as server:
        jobs = kind([job(server, number) for number in range(30)])
        consume("sync", jobs, lambda plan: found.append(plan.result().attachment), backlog=7)
    assert sorted(found) == list(range(30))


@importer(4)
@pytest.mark.parametrize("kind", [*KINDS, None], ids=[*IDS, "async generator"])
async def test_anything_that_can_be_iterated_with_asyncio(kind) -> None:
    """The same, and an async generator."""

    async def generator(items: list[Download]) -> AsyncIterator[Download]:
        for each in items:
            await asyncio.sleep(0)
            yield each

    with http_server(answer) as server:
        items = [job(server, number) for number in range(30)]
        async with Context() as context, Batch((kind or generator)(items), backlog=7, context=context) as batch:
            found = sorted([plan.result().attachment async for plan in batch()])
    assert found == list(range(30))


@importer(4)
def test_as_many_at_a_time_as_asked_for() -> None:
    """Ten requests are at the server at one time: each is answered only when the tenth has come; never eleven are."""
    together = asyncio.Barrier(10)

    async def script(exchange) -> None:
        await together.wait()
        await exchange.respond(body=b"hello")

    with http_server(script) as server, Context() as context:
        jobs = (job(server, number) for number in range(50))
        with Batch(jobs, concurrency=10, context=context) as batch:
            assert sum(plan.error is None for plan in batch()) == 50
        assert server.peak == 10


@pytest.mark.parametrize("form", FORMS)
def test_plans_come_in_order_of_completion(form) -> None:
    """The one that was asked first is answered when all others have come back, and comes last."""
    others = threading.Event()

    async def script(exchange) -> None:
        if exchange.target == "/0":
            await asyncio.to_thread(others.wait, SECONDS)
        await exchange.respond(body=b"hello")

    def see(plan: Plan) -> None:
        seen.append(plan.download.attachment)
        if len(seen) == 9:
            others.set()

    seen: list[object] = []
    with http_server(script) as server:
        consume(form, [job(server, number) for number in range(10)], see)
    assert seen[-1] == 0
    assert sorted(seen) == list(range(10))


def consume(form: str, jobs: Iterable[Download], see: Callable[[Plan], object], **options) -> None:
    """Show all plans of a batch."""

    async def with_asyncio() -> None:
        async with Context() as context, Batch(jobs, context=context, **options) as batch:
            async for plan in batch():
                see(plan)

    def synchronously() -> None:
        with Context() as context, Batch(jobs, context=context, **options) as batch:
            for plan in batch():
                see(plan)

    asyncio.run(with_asyncio()) if form == "asyncio" else synchronously()


class Counting:
    """Yields jobs without end, and knows how far it is ahead of its consumer, in which thread and on which loop."""

    def __init__(self, server) -> None:
        self.server = server
        self.pulled = self.consumed = self.ahead = 0
        self.places: set[object] = set()
        self.closed = False

    def step(self, place: object) -> Download:
        self.pulled += 1
        self.places.add(place)
        self.ahead = max(self.ahead, self.pulled - self.consumed)
        return job(self.server, self.pulled)

    def jobs(self) -> Iterator[Download]:
        try:
            while True:
                yield self.step(threading.get_ident())
        finally:
            self.closed = True

    async def async_jobs(self) -> AsyncIterator[Download]:
        try:
            while True:
                yield self.step(asyncio.get_running_loop())
                await asyncio.sleep(0)
        finally:
            self.closed = True


@importer(4)
def test_an_endless_generator_is_never_further_ahead_than_the_backlog() -> None:
    """It is pulled from in the consumer's thread, up to the backlog and no further; leaving the batch closes it."""
    with http_server(answer) as server, Context() as context:
        counting = Counting(server)
        with Batch(counting.jobs(), concurrency=5, backlog=12, context=context) as batch:
            for _ in batch():
                counting.consumed += 1
                if counting.consumed == 200:
                    break
        assert 5 <= counting.ahead <= 12
        assert counting.places == {threading.get_ident()}
        assert counting.closed


@importer(4)
async def test_an_endless_async_generator_is_never_further_ahead_than_the_backlog() -> None:
    """It runs on the consumer's loop, also where the context has a loop of its own."""
    with http_server(answer) as server, Context() as elsewhere:
        counting = Counting(server)
        async with Batch(counting.async_jobs(), concurrency=5, backlog=12, context=elsewhere) as batch:
            async for _ in batch():
                counting.consumed += 1
                if counting.consumed == 200:
                    break
        # The plan that is being handed over makes room before the consumer can count it.
        assert 5 <= counting.ahead <= 13
        assert counting.places == {asyncio.get_running_loop()}
        assert counting.closed


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("last", [LookupError("the database is gone"), "no download"], ids=["raises", "yields rubbish"])
def test_a_generator_that_fails(form, last) -> None:
    """What it yielded before is delivered first, all of it; then comes the error, and nothing afterwards."""

    def jobs() -> Iterator[Download]:
        for number in range(20):
            yield job(server, number)
        if isinstance(last, Exception):
            raise last
        yield last

    found: list[object] = []
    expected = type(last) if isinstance(last, Exception) else TypeError
    with http_server(answer) as server, pytest.raises(expected, match=r"database|yields Downloads"):
        consume(form, jobs(), lambda plan: found.append(plan.result().attachment), concurrency=4)
    assert sorted(found) == list(range(20))


@importer(4)
def test_a_generator_that_blocks_stops_no_download() -> None:
    """While it waits for its database, what it yielded before goes on: here it waits for just that."""
    served = threading.Event()

    async def script(exchange) -> None:
        await exchange.respond(body=b"hello")
        served.set()

    def jobs() -> Iterator[Download]:
        yield job(server, 1)
        assert served.wait(SECONDS)
        yield job(server, 2)

    with http_server(script) as server:
        errors: list[Exception | None] = []
        consume("sync", jobs(), lambda plan: errors.append(plan.error))
    assert errors == [None, None]


@importer(4)
async def test_an_async_generator_that_waits_keeps_no_plan_back() -> None:
    """While it waits, plans are delivered: here it waits until the consumer has had one."""
    had = asyncio.Event()

    async def jobs() -> AsyncIterator[Download]:
        yield job(server, 1)
        await had.wait()
        yield job(server, 2)

    with http_server(answer) as server:
        async with asyncio.timeout(SECONDS), Context() as context, Batch(jobs(), context=context) as batch:
            async for plan in batch():
                assert plan.error is None
                had.set()


PAGES = {"/": "/a /b", "/a": "/c", "/b": "/d /e", "/c": "", "/d": "/f", "/e": "", "/f": ""}


async def links(exchange) -> None:
    """Answer with the paths that are to be fetched next."""
    await exchange.respond(body=PAGES[exchange.target].encode())


def targets(plan: Plan) -> list[str]:
    """Return the paths that a page names."""
    assert plan.error is None
    return plan.download.writer.content().decode().split()


@importer(4)
def test_jobs_from_results_in_waves() -> None:
    """Synchronously, what the results name is the next batch: nothing waits for itself, and nothing is left out."""
    found: list[str] = []
    with http_server(links) as server, Context() as context:
        wave = ["/"]
        while wave:
            found += wave
            with Batch([Download(server.url(each), BufferWriter()) for each in wave], context=context) as batch:
                wave = [target for plan in batch() for target in targets(plan)]
    assert sorted(found) == sorted(PAGES)


@importer(4)
async def test_jobs_from_results_by_a_queue() -> None:
    """With asyncio an async generator may wait for what the consumer finds, in a single batch, at any backlog."""
    for backlog in (1, 2, 100):
        ready: asyncio.Queue[str | None] = asyncio.Queue()
        found: list[str] = []

        async def jobs(ready=ready) -> AsyncIterator[Download]:
            while (target := await ready.get()) is not None:
                yield Download(server.url(target), BufferWriter())

        with http_server(links) as server:
            ready.put_nowait("/")
            unfinished = 1
            async with (
                asyncio.timeout(SECONDS),
                Context() as context,
                Batch(jobs(), backlog=backlog, context=context) as batch,
            ):
                async for plan in batch():
                    found.append(plan.download.url)
                    for target in targets(plan):
                        ready.put_nowait(target)
                        unfinished += 1
                    unfinished -= 1
                    if not unfinished:
                        ready.put_nowait(None)
        assert len(found) == len(PAGES)
