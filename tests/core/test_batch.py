"""Many jobs: bounded, in order of completion, in the consumer's thread, and gone when the batch is left."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.forms import FORMS, plans_of, wait_until
from tests.mem import MemDriver, Reply, names, until

from downhaul import (
    Batch,
    BufferWriter,
    Context,
    Download,
    DownloadError,
    FileWriter,
    NotFound,
    Plan,
    Plugin,
    Result,
    hookimpl,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

    from downhaul import Transfer


class Shelf(MemDriver):
    """Has every file, and finds none that is called missing; those called held wait for their gate.

    With a `crowd` all of them wait until so many were asked for at the same time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[str, asyncio.Event] = {}
        self.crowd: tuple[int, asyncio.Event] | None = None
        self.asked_for = threading.Condition()

    def open(self, request: Any, settings: Any) -> Any:
        url = request.url
        if url not in self.sites and "missing" not in url:
            gate = self.gates.setdefault(url, asyncio.Event()) if "held" in url else None
            if self.crowd is not None:
                number, gate = self.crowd
                if self.live + 1 >= number:
                    gate.set()
            self.site(url, Reply(url.encode(), gate=gate))
        with self.asked_for:
            self.asked_for.notify_all()
        return super().open(request, settings)

    def wait_until_asked(self, url: str) -> None:
        """Block this thread until *url* was asked for."""
        with self.asked_for:
            assert self.asked_for.wait_for(lambda: url in self.urls, 10)


@pytest.fixture
def driver() -> Shelf:
    """A driver that has every file."""
    return Shelf()


@pytest.fixture
def context(driver: Shelf) -> Iterator[Context]:
    """A context that asks it."""
    with Context(drivers={"mem": driver}, retries=0) as context:
        yield context


def job(name: object, **options: Any) -> Download:
    """Return a job for a file called *name*."""
    return Download(f"mem://home/{name}", BufferWriter(), attachment=name, **options)


class Counted:
    """An iterable of jobs that counts how far it is ahead of its consumer."""

    def __init__(self, size: int | None = None) -> None:
        self.size, self.pulled, self.consumed, self.most = size, 0, 0, 0
        self.closed = False
        self.threads: set[int] = set()

    def _pull(self) -> Iterator[Download]:
        for number in count() if self.size is None else range(self.size):
            self.threads.add(threading.get_ident())
            self.pulled += 1
            self.most = max(self.most, self.pulled - self.consumed)
            yield job(number)

    def __iter__(self) -> Iterator[Download]:
        try:
            yield from self._pull()
        finally:
            self.closed = True


class CountedAsync(Counted):
    """The same as an async iterable."""

    __iter__ = None  # type: ignore[assignment]

    async def __aiter__(self) -> AsyncIterator[Download]:
        try:
            for each in self._pull():
                await asyncio.sleep(0)
                yield each
        finally:
            self.closed = True


WAYS = [("sync", Counted), ("async", Counted), ("async", CountedAsync)]


def consume(form: str, source: Counted, stop: int | None = None, **options: Any) -> list[int]:
    """Run a batch over *source* to its end, or until *stop* plans have come; return the attachments."""
    seen: list[int] = []

    def note(plan: Plan) -> bool:
        source.consumed += 1
        seen.append(plan.download.attachment)  # type: ignore[arg-type]
        plan.result()
        return len(seen) == stop

    async def work() -> None:
        async with Batch(source, **options) as batch:
            async for plan in batch():
                if note(plan):
                    break

    if form == "async":
        asyncio.run(work())
        return seen
    with Batch(source, **options) as batch:
        for plan in batch():
            if note(plan):
                break
    return seen


@pytest.mark.parametrize(("form", "kind"), WAYS)
def test_every_job_comes_back_once(form: str, kind: type[Counted], context: Context) -> None:
    """Each job of the iterable comes back as one plan, and then the batch is at its end."""
    source = kind(57)
    assert sorted(consume(form, source, context=context)) == list(range(57))
    assert source.closed


@pytest.mark.parametrize(("form", "kind"), WAYS)
@settings(max_examples=25, deadline=None)
@given(size=st.integers(0, 40), concurrency=st.integers(1, 12), backlog=st.integers(1, 12))
def test_limits(form: str, kind: type[Counted], size: int, concurrency: int, backlog: int) -> None:
    """Never more than `backlog` jobs are pulled ahead of the consumer, never more than `concurrency` run."""
    driver = Shelf()
    with Context(drivers={"mem": driver}) as context:
        source = kind(size)
        seen = consume(form, source, concurrency=concurrency, backlog=backlog, context=context)
    assert sorted(seen) == list(range(size))
    assert source.most <= backlog
    assert driver.peak <= min(concurrency, backlog)


@pytest.mark.parametrize(("form", "kind"), WAYS)
def test_limits_are_used(form: str, kind: type[Counted], driver: Shelf, context: Context) -> None:
    """A batch runs as many jobs as it may: the limits are no mere upper bounds."""
    driver.crowd = 7, asyncio.Event()
    source = kind(60)
    consume(form, source, concurrency=7, backlog=20, context=context)
    assert driver.peak == 7
    assert 7 <= source.most <= 20


@pytest.mark.parametrize(("form", "kind"), WAYS)
def test_backlog_caps_concurrency(form: str, kind: type[Counted], driver: Shelf, context: Context) -> None:
    """With a backlog of 2 no more than 2 jobs run, whatever the concurrency."""
    driver.crowd = 2, asyncio.Event()
    source = kind(20)
    consume(form, source, concurrency=10, backlog=2, context=context)
    assert (driver.peak, source.most) == (2, 2)


@pytest.mark.parametrize(("form", "kind"), WAYS)
def test_infinite_iterable(form: str, kind: type[Counted], driver: Shelf, context: Context) -> None:
    """An iterable without an end is no problem: it is never held as a whole, and closed when the batch is left."""
    source = kind(None)
    assert len(consume(form, source, stop=150, backlog=10, context=context)) == 150
    assert source.pulled <= 160
    assert source.closed
    assert (driver.live, context.connections_in_use) == (0, 0)


def test_plans_come_in_order_of_completion_sync(driver: Shelf, context: Context) -> None:
    """A job that takes long does not hold up the plans of those behind it."""
    with Batch([job("held"), job(1), job(2)], context=context) as batch:
        plans = iter(batch())
        assert {next(plans).download.attachment for _ in range(2)} == {1, 2}
        context._call_soon(driver.gates["mem://home/held"].set)
        assert next(plans).download.attachment == "held"
        assert list(plans) == []


async def test_plans_come_in_order_of_completion_async(driver: Shelf) -> None:
    """A job that takes long does not hold up the plans of those behind it."""
    async with (
        Context(drivers={"mem": driver}) as context,
        Batch([job("held"), job(1), job(2)], context=context) as batch,
    ):
        plans = aiter(batch())
        assert {(await anext(plans)).download.attachment for _ in range(2)} == {1, 2}
        driver.gates["mem://home/held"].set()
        assert (await anext(plans)).download.attachment == "held"
        with pytest.raises(StopAsyncIteration):
            await anext(plans)


def test_the_iterable_is_advanced_in_the_consumers_thread(context: Context) -> None:
    """A sync batch advances its iterable in the consumer's thread (an ORM query, say)."""
    source = Counted(20)
    consume("sync", source, context=context, backlog=3)
    assert source.threads == {threading.get_ident()}


async def test_the_iterable_is_advanced_on_the_consumers_loop(context: Context) -> None:
    """An async batch advances its iterable on the consumer's loop, also where the context works on another one."""
    for source in (Counted(20), CountedAsync(20)):
        async with Batch(source, context=context, backlog=3) as batch:
            async for plan in batch():
                source.consumed += 1
                plan.result()
        assert source.threads == {threading.get_ident()}


async def test_async_batch_over_a_thread_of_another_loop(context: Context, driver: Shelf) -> None:
    """An async batch works on a context with a thread of its own, plans arrive on the consumer's loop."""
    assert len([plan async for plan in await _entered(Batch(Counted(30), context=context))]) == 30


async def _entered(batch: Batch) -> Any:
    await batch.__aenter__()
    return batch()


@pytest.mark.parametrize("form", FORMS)
def test_failed_files_do_not_stop_a_batch(form: str, context: Context) -> None:
    """The failure of one job is the business of its plan; the others go on."""
    plans = plans_of(form, [job("missing"), job(1), job("missing2"), job(2)], context=context)
    failed = {plan.download.attachment for plan in plans if plan.error is not None}
    assert failed == {"missing", "missing2"}
    assert len(plans) == 4


@pytest.mark.parametrize("form", FORMS)
def test_plan(form: str, context: Context) -> None:
    """`plan.result()` returns or raises, and does so again when it is asked again; `error` says what it would raise."""
    good, bad = sorted(plans_of(form, [job(1), job("missing")], context=context), key=lambda plan: bool(plan.error))
    assert isinstance(good.result(), Result)
    assert good.result() is good.result()
    assert good.error is None
    for _ in range(2):
        with pytest.raises(NotFound) as raised:
            bad.result()
        assert repr(raised.value) == repr(bad.error)
    assert raised.value.attachment == "missing"
    assert (repr(good), repr(bad)) == (f"Plan({good.download!r}, done)", f"Plan({bad.download!r}, NotFound)")


@pytest.mark.parametrize("form", FORMS)
def test_a_job_that_cannot_be_run(form: str, context: Context) -> None:
    """A job that cannot be run at all, without a writer say, is its plan's business too."""
    plans = plans_of(form, [Download("mem://home/a"), Download("gopher://h/", BufferWriter()), job(1)], context=context)
    assert sorted(type(plan.error).__name__ for plan in plans) == ["NoneType", "UnsupportedScheme", "ValueError"]


@pytest.mark.parametrize("form", FORMS)
def test_jobs_run_in_their_own_context(form: str, context: Context, driver: Shelf) -> None:
    """A job runs in its own context if it has one, and counts for the limits of the batch all the same."""
    other = Shelf()
    with Context(drivers={"mem": other}) as own:
        plans = plans_of(form, [job(1, context=own), job(2)], context=context)
    assert [plan.error for plan in plans] == [None, None]
    assert (driver.urls, other.urls) == (["mem://home/2"], ["mem://home/1"])


def broken(*before: object, error: BaseException) -> Iterator[Any]:
    """Yield *before*, then raise *error*."""
    yield from before
    raise error


async def broken_async(*before: object, error: BaseException) -> AsyncIterator[Any]:
    """Do the same, asynchronously."""
    for each in before:
        yield each
    raise error


class Crash(Exception):
    """What an iterable raises."""


@pytest.mark.parametrize(("form", "make"), [("sync", broken), ("async", broken), ("async", broken_async)])
@pytest.mark.parametrize("backlog", [1, 2, 50])
@pytest.mark.parametrize("jobs", [0, 1, 5])
def test_an_iterable_that_raises(form: str, make: Any, backlog: int, jobs: int, context: Context) -> None:
    """What an iterable raises surfaces unchanged, after all that was pulled before has been delivered."""
    crash = Crash("the query failed")
    source = make(*(job(number) for number in range(jobs)), error=crash)
    seen = []

    async def work() -> None:
        async with Batch(source, backlog=backlog, context=context) as batch:
            async for plan in batch():
                seen.append(plan)  # noqa: PERF401 - it fails midway

    with pytest.raises(Crash) as raised:
        if form == "async":
            asyncio.run(work())
        else:
            with Batch(source, backlog=backlog, context=context) as batch:
                seen.extend(batch())
    assert raised.value is crash
    assert crash.__cause__ is None
    assert crash.__context__ is None
    assert len(seen) == jobs or form == "sync"
    assert all(plan.error is None for plan in seen)


def test_after_the_failure_of_the_iterable_nothing_comes(context: Context) -> None:
    """What an iterable raised is raised once; then the plans are at their end."""
    with Batch(broken(job(1), error=Crash()), context=context) as batch:
        plans = batch()
        assert next(plans).error is None
        with pytest.raises(Crash):
            next(plans)
        with pytest.raises(StopIteration):
            next(plans)


@pytest.mark.parametrize("make", [broken, broken_async])
async def test_an_iterable_that_is_cancelled_from_within(make: Any, context: Context) -> None:
    """A cancellation inside of the iterable is no clean end: a batch never ends early in silence."""
    with pytest.raises(asyncio.CancelledError):
        async with Batch(make(job(1), error=asyncio.CancelledError("inner")), context=context) as batch:
            async for plan in batch():
                plan.result()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("item", [None, "mem://home/file", ("mem://home/file", "x"), Download, BufferWriter()])
def test_items_that_are_no_downloads(form: str, item: Any, context: Context, driver: Shelf) -> None:
    """An item that is no Download is a TypeError that shows it."""
    with pytest.raises(TypeError, match="the iterable of a Batch yields Downloads, not "):
        plans_of(form, [item], context=context)
    assert driver.log == []


@pytest.mark.parametrize("downloads", [None, 7, job(1)])
def test_a_batch_takes_an_iterable(downloads: Any) -> None:
    """What cannot be iterated is refused at once."""
    with pytest.raises(TypeError, match="a Batch takes an iterable of Downloads, not "):
        Batch(downloads)


@pytest.mark.parametrize("name", ["concurrency", "backlog"])
@pytest.mark.parametrize(
    ("number", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), (1.0, TypeError), (None, TypeError)]
)
def test_limits_are_checked(name: str, number: Any, error: type[Exception]) -> None:
    """Limits are whole numbers from 1."""
    with pytest.raises(error, match=f"{name}=… is a .*number"):
        Batch([], **{name: number})


def test_a_batch_takes_a_context() -> None:
    """Anything but a Context is refused at once."""
    with pytest.raises(TypeError, match="context=… takes a Context, not dict"):
        Batch([], context={})  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["break", "exception", "end", "untouched"])
@pytest.mark.parametrize(("form", "kind"), WAYS)
def test_the_iterable_is_closed(form: str, kind: type[Counted], how: str, context: Context) -> None:
    """A batch closes its iterable, however it is left."""
    source = kind(30)
    source.size = None if how in {"break", "exception"} else 30

    def act(_: Plan) -> bool:
        if how == "exception":
            raise Crash
        return how == "break"

    async def work() -> None:
        async with Batch(source, context=context, backlog=5) as batch:
            async for plan in batch() if how != "untouched" else _nothing():
                if act(plan):
                    break

    try:
        if form == "async":
            asyncio.run(work())
        else:
            with Batch(source, context=context, backlog=5) as batch:
                for plan in batch() if how != "untouched" else ():
                    if act(plan):
                        break
    except Crash:
        assert how == "exception"
    # a generator that never began has nothing to close
    assert source.closed or (how == "untouched" and source.pulled == 0)


async def _nothing() -> AsyncIterator[Plan]:
    return
    yield


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", ["break", "exception"])
def test_leaving_early_leaves_nothing(form: str, how: str, driver: Shelf, context: Context, tmp_path: Path) -> None:
    """Leaving a batch early leaves no task, no temporary file and no slot, and nothing half done is published."""
    block = bytes(3 << 20)

    def jobs() -> Iterator[Download]:
        for number in range(8):
            if number == 3:  # they hang, and take all of the crew but one
                yield job("quick")
            driver.site(f"mem://home/{number}", Reply(block, hang="body"))
            yield Download(f"mem://home/{number}", FileWriter(tmp_path / str(number)))

    def act(plan: Plan) -> None:
        assert plan.download.attachment == "quick"
        wait_until(lambda: names(tmp_path))
        if how == "exception":
            raise Crash

    async def work() -> None:
        before = asyncio.all_tasks()
        try:
            async with Batch(jobs(), concurrency=4, context=context) as batch:
                async for plan in batch():
                    act(plan)
                    break
        finally:
            assert asyncio.all_tasks() == before

    try:
        if form == "async":
            asyncio.run(work())
        else:
            with Batch(jobs(), concurrency=4, context=context) as batch:
                for plan in batch():
                    act(plan)
                    break
    except Crash:
        assert how == "exception"
    assert names(tmp_path) == []
    assert (driver.live, context.connections_in_use) == (0, 0)
    assert tasks_of(context) == 1


def tasks_of(context: Context) -> int:
    """Return how many tasks there are on the context's loop, the one that counts included."""

    async def number() -> int:
        return len(asyncio.all_tasks())

    return context._block(number, "")


async def test_cancelling_the_consumer_leaves_nothing(driver: Shelf, tmp_path: Path) -> None:
    """Cancelling the task that consumes an async batch cleans up, twice cancelled too."""
    async with Context(drivers={"mem": driver}) as context:
        driver.site("mem://home/1", Reply(bytes(3 << 20), hang="body"))

        async def work() -> None:
            downloads = [job("quick"), Download("mem://home/1", FileWriter(tmp_path / "1"))]
            async with Batch(downloads, context=context) as batch:
                async for plan in batch():
                    plan.result()
                    began.set()

        began = asyncio.Event()
        task = asyncio.create_task(work())
        await began.wait()
        await until(lambda: names(tmp_path))
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert (driver.live, context.connections_in_use, names(tmp_path)) == (0, 0, [])


async def test_a_slow_async_iterable_does_not_delay_plans(driver: Shelf, context: Context) -> None:
    """While an async iterable makes one wait for the next job, the plans of the jobs before are handed out."""
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[Download]:
        yield job(1)
        yield job(2)
        await go_on.wait()
        yield job(3)

    seen = []
    async with Batch(slow(), context=context) as batch:
        async for plan in batch():
            seen.append(plan.download.attachment)
            if len(seen) == 2:
                go_on.set()
    assert sorted(seen[:2]) == [1, 2]
    assert seen[2:] == [3]


def test_a_slow_iterable_delays_a_finished_plan_by_one_job(driver: Shelf, context: Context) -> None:
    """In one thread a job is pulled for each plan that is taken, never more while a finished plan is waiting."""
    pulled = []

    def slow() -> Iterator[Download]:
        for number in range(6):
            pulled.append(number)
            if number:
                driver.wait_until_asked(f"mem://home/{number - 1}")
                tasks_of(context), tasks_of(context)  # by now the job before has come to its end
            yield job(number)

    with Batch(slow(), context=context) as batch:
        ahead = [len(pulled) - number for number, _ in enumerate(batch(), 1)]
    assert max(ahead) <= 3


async def test_sync_batch_in_a_running_loop(context: Context, driver: Shelf) -> None:
    """A sync batch where a loop runs is a RuntimeError that says to use `async with`."""
    with pytest.raises(RuntimeError, match=r"use `async with Batch"), Batch([job(1)], context=context):
        pass
    assert driver.log == []


def test_wrong_forms(context: Context) -> None:
    """Each mixture of the two forms is an error that says which one is meant."""

    async def work() -> None:
        async with Batch([], context=context) as batch:
            with pytest.raises(TypeError, match=r"use `async for plan in batch\(\)`"):
                iter(batch())
            with pytest.raises(TypeError, match=r"use `async for plan in batch\(\)`"):
                next(batch())

    asyncio.run(work())
    with pytest.raises(TypeError, match=r"an async iterable needs `async with Batch"), Batch(CountedAsync(1)):
        pass
    with Batch([], context=context) as batch:
        with pytest.raises(TypeError, match=r"use `for plan in batch\(\)`"):
            aiter(batch())
        with pytest.raises(TypeError, match=r"use `for plan in batch\(\)`"):
            batch().__anext__().send(None)


def test_use_without_entering() -> None:
    """A batch that was not entered has no plans, and says how to get them."""
    with pytest.raises(RuntimeError, match=r"enter the batch first: with Batch"):
        Batch([])()


def test_entered_twice(context: Context) -> None:
    """A batch is entered once: its iterable is used up, and what ran would be left alone."""
    batch = Batch([job(1)], context=context)
    with batch:
        with pytest.raises(RuntimeError, match="this batch was entered already; make another one"), batch:
            pass
        assert len(list(batch())) == 1
    with pytest.raises(RuntimeError, match="entered already"), batch:
        pass

    async def work() -> None:
        async with batch:
            pass

    with pytest.raises(RuntimeError, match="entered already"):
        asyncio.run(work())


def test_plans_after_leaving(context: Context) -> None:
    """Plans that are asked for after the batch was left are an error, not a wait for ever."""
    with Batch(Counted(None), context=context) as batch:
        plans = batch()
        next(plans)
    with pytest.raises(RuntimeError, match="the batch was left"):
        next(plans)

    async def work() -> None:
        async with Batch(Counted(None), context=context) as batch:
            plans = batch()
            await anext(plans)
        with pytest.raises(RuntimeError, match="the batch was left"):
            await anext(plans)

    asyncio.run(work())


@pytest.mark.parametrize("form", FORMS)
def test_iterating_again_goes_on(form: str, context: Context) -> None:
    """`batch()` always returns the same plans: a second loop goes on where the first one stopped."""

    async def work() -> list[Plan]:
        async with Batch(Counted(9), context=context) as batch:
            first = await anext(aiter(batch()))
            return [first, *[plan async for plan in batch()]]

    if form == "async":
        plans = asyncio.run(work())
    else:
        with Batch(Counted(9), context=context) as batch:
            plans = [next(iter(batch())), *batch()]
    assert sorted(plan.download.attachment for plan in plans) == list(range(9))


@pytest.mark.parametrize("form", FORMS)
def test_empty(form: str, context: Context) -> None:
    """A batch of nothing is at its end at once."""
    assert plans_of(form, [], context=context) == []
    assert plans_of(form, iter(()), context=context) == []


def test_closing_the_context_ends_the_wait(driver: Shelf) -> None:
    """When another thread closes the context while a batch waits, each job pulled ends as an error, none is lost."""
    context = Context(drivers={"mem": driver})
    pulled = threading.Event()

    def jobs() -> Iterator[Download]:
        yield from (job(f"held{number}") for number in range(30))
        pulled.set()

    def consume() -> list[Plan]:
        with Batch(jobs(), concurrency=3, context=context) as batch:
            return list(batch())

    with ThreadPoolExecutor() as pool:
        plans = pool.submit(consume)
        assert pulled.wait(10)
        driver.wait_until_asked("mem://home/held2")
        context.close()
        errors = [plan.error for plan in plans.result(10)]
    assert len(errors) == 30
    assert all(isinstance(error, RuntimeError) for error in errors)
    assert driver.live == 0


def test_jobs_after_the_context_was_closed(driver: Shelf) -> None:
    """When the context is closed in the middle, what was pulled is delivered and the rest is an error."""
    context = Context(drivers={"mem": driver})
    seen = []
    with (
        pytest.raises(RuntimeError, match="this context is closed"),
        Batch(Counted(None), backlog=4, context=context) as batch,
    ):
        for plan in batch():
            seen.append(plan)
            context.close()
    assert 1 <= len(seen) <= 8


def test_done_is_called_once_for_each_job(context: Context) -> None:
    """Statistics are exact in a batch: `done` comes once for each job that began, also when it was cancelled."""
    outcomes: list[Any] = []

    class Count(Plugin):
        @hookimpl
        def done(self, transfer: Transfer, outcome: Any) -> None:
            outcomes.append(outcome)

    counted = Count()
    jobs: Iterable[Download] = (
        job(name, plugins=[counted]) for name in (*range(20), "missing", "held", "held2", *range(20, 300))
    )
    taken = 0
    with Batch(jobs, concurrency=5, backlog=30, context=context) as batch:
        for taken, plan in enumerate(batch(), 1):  # noqa: B007
            if taken == 30:
                break
    assert len(outcomes) >= 30
    assert sum(outcome is None for outcome in outcomes) >= 2
    assert sum(isinstance(outcome, DownloadError) for outcome in outcomes) == 1
