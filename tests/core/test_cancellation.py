"""Rule 6: cancelling, leaving early, or an exception anywhere leaves no task, socket, temporary file or slot behind."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests.mem import Ledger, MemDriver, Mirrors, Reply, context_of, names

from downhaul import (
    Batch,
    Context,
    DigestValidation,
    Download,
    DownloadError,
    FileWriter,
    Plugin,
    Result,
    Retry,
    Sink,
    Timeout,
    Transfer,
    WriteError,
    hookimpl,
)
from downhaul.plugins import BearerToken, MirrorList

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

URL = "mem://host/file"
A, B, C = "mem://a/file", "mem://b/file", "mem://c/file"
SMALL = bytes(range(256)) * 40  # 10 KiB: no threads
LARGE = bytes(range(256)) * 2048  # 512 KiB: its commit goes through a thread


class Stuck(Plugin):
    """Waits for ever in one hook."""

    def __init__(self, hook: str) -> None:
        self.hook = hook
        self.reached = asyncio.Event()

    async def act(self, hook: str) -> None:
        if hook == self.hook:
            self.reached.set()
            await asyncio.Event().wait()

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        await self.act("prepare")

    @hookimpl
    async def validate(self, transfer: Transfer) -> None:
        await self.act("validate")

    @hookimpl
    async def error(self, transfer: Transfer, error: DownloadError) -> None:
        await self.act("error")


class Later(Plugin):
    """Waits an hour between rounds."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    @hookimpl
    async def error(self, transfer: Transfer, error: DownloadError) -> Retry:
        self.reached.set()
        return Retry(after=3600)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until *condition* holds."""
    while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0)


# --- how a download is run, and cancelled -----------------------------------------------------------------------


async def by_run(download: Download) -> None:
    """Await `run`."""
    await download.run()


async def by_stream(download: Download) -> None:
    """Read a stream to its end, teeing to the writer."""
    async with download.stream(hold_back=1024) as stream:
        async for _ in stream:
            pass


async def by_batch(download: Download) -> None:
    """Run a batch of this download alone."""
    async with Batch(_one(download), context=download.context) as batch:
        async for plan in batch():
            plan.result()


async def _one(download: Download) -> AsyncIterator[Download]:
    try:
        yield download
    finally:
        download.attachment = "closed"


WAYS = [by_run, by_stream, by_batch]
STATES = ["prepare", "queue", "open", "body", "error", "back-off", "validate"]


@contextlib.asynccontextmanager
async def about_to(state: str, driver: MemDriver, path: Path, ledger: Ledger) -> AsyncIterator[Any]:
    """Give a download that will wait for ever in *state*, and what to await until it does."""
    driver.site(URL, data=LARGE)
    reached: Callable[[], Awaitable[Any]]
    plugins: list[Any] = []
    async with contextlib.AsyncExitStack() as stack:
        limits = {"connections": 1} if state == "queue" else {}
        context = await stack.enter_async_context(context_of(driver, **limits))
        if state in {"prepare", "validate", "error"}:
            if state == "error":
                driver.site(URL, data=LARGE, cut=200_000)
            plugins = [stuck := Stuck(state)]
            reached = stuck.reached.wait
        elif state == "back-off":
            driver.site(URL, data=LARGE, cut=200_000)
            plugins = [later := Later()]

            async def reached() -> None:
                await later.reached.wait()
                for _ in range(5):
                    await asyncio.sleep(0)

        elif state == "queue":
            driver.site("mem://other/file", hang="open")
            holder = asyncio.create_task(Download("mem://other/file", FileWriter(path), context=context).run())
            await until(lambda: driver.live == 1)
            governor = context._bound().governor

            async def reached() -> None:
                await until(lambda: bool(governor.waiting))

        else:
            hang = {"open": Reply(hang="open"), "body": Reply(LARGE, cut=200_000, hang="body")}[state]
            driver.site(URL, hang)

            async def reached() -> None:
                await until(lambda: driver.live == 1)
                for _ in range(100):
                    await asyncio.sleep(0)

        yield Download(URL, FileWriter(path), plugins=[ledger, *plugins], context=context), reached
        if state == "queue":
            assert driver.live == context.connections_in_use == 1, "the holder's"
            assert not governor.waiting
            holder.cancel()
            await asyncio.wait([holder])
        await nothing_is_left(driver, context, path.parent)


async def nothing_is_left(driver: MemDriver, context: Context, directory: Path) -> None:
    """Hold what rule 6 says."""
    await asyncio.sleep(0)
    assert driver.live == 0
    assert context.connections_in_use == 0
    assert not context._bound().running
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [name for name in names(directory) if name.endswith(".part")] == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", STATES)
async def test_cancelling_leaves_nothing_behind(state: str, way: Any, tmp_path: Path) -> None:
    """In whatever state it is cancelled, run in whatever way: nothing is left, and `done` is called once with None."""
    driver, ledger = MemDriver(), Ledger()
    async with about_to(state, driver, tmp_path / "f", ledger) as (download, reached):
        task = asyncio.create_task(way(download))
        await reached()
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ledger.outcomes == [None]
        assert not (tmp_path / "f").exists()
        assert way is not by_batch or download.attachment == "closed", "a Batch closes its iterable"


@pytest.mark.parametrize("state", STATES)
async def test_leaving_a_batch_early_leaves_nothing_behind(state: str, tmp_path: Path) -> None:
    """Leaving a `Batch` cancels what runs, waits for the clean-up, and closes the iterable."""
    driver, ledger = MemDriver(), Ledger()
    async with about_to(state, driver, tmp_path / "f", ledger) as (download, reached):
        async with Batch(_one(download), context=download.context) as batch:
            plans = asyncio.ensure_future(anext(batch()))
            await reached()
            plans.cancel()
            await asyncio.wait([plans])
        assert ledger.outcomes == [None]
        assert download.attachment == "closed"


@pytest.mark.parametrize("state", STATES)
async def test_a_time_out_of_ones_own_leaves_nothing_behind(state: str, tmp_path: Path) -> None:
    """``asyncio.timeout`` around a download ends it as cancelling does, and is a TimeoutError."""
    driver, ledger = MemDriver(), Ledger()
    async with about_to(state, driver, tmp_path / "f", ledger) as (download, reached):
        with pytest.raises(TimeoutError):
            await _limited(download, reached)
        assert ledger.outcomes == [None]


async def _limited(download: Download, reached: Callable[[], Awaitable[Any]]) -> None:
    """Run *download* within a limit that runs out when it has reached its state."""
    async with asyncio.timeout(None) as limit:

        async def expire() -> None:
            await reached()
            limit.reschedule(asyncio.get_running_loop().time())

        expiring = asyncio.create_task(expire())
        try:
            await download.run()
        finally:
            await asyncio.wait([expiring])


@pytest.mark.parametrize("state", [state for state in STATES if state != "queue"])
async def test_closing_the_context_leaves_nothing_behind(state: str, tmp_path: Path) -> None:
    """Leaving ``async with Context()`` cancels what runs in it, and waits for the clean-up."""
    driver, ledger = MemDriver(), Ledger()
    task: asyncio.Task[Result]
    with contextlib.suppress(RuntimeError):
        async with about_to(state, driver, tmp_path / "f", ledger) as (download, reached):
            task = asyncio.create_task(download.run())
            await reached()
            await download.context.__aexit__(None, None, None)
            assert driver.live == 0
            assert ledger.outcomes == [None]
            assert names(tmp_path) == []
            await asyncio.wait([task])
            assert task.cancelled() or isinstance(task.exception(), RuntimeError)


# --- commit -----------------------------------------------------------------------------------------------------


class SlowCommit(FileWriter):
    """Takes its time to commit: until `release` is set; then fails, if told so."""

    def __init__(self, path: Path, failure: OSError | None = None) -> None:
        super().__init__(path)
        self.entered, self.release, self.failure = asyncio.Event(), threading.Event(), failure
        self.loop = asyncio.get_running_loop()

    def open(self, transfer: Transfer) -> Sink:
        sink: Any = super().open(transfer)
        commit = sink.commit

        def slowly() -> None:
            self.loop.call_soon_threadsafe(self.entered.set)
            assert self.release.wait(30)
            if self.failure is not None:
                raise self.failure
            commit()

        sink.commit = slowly
        return sink  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("times", [1, 3])
async def test_a_started_commit_finishes(way: Any, times: int, tmp_path: Path) -> None:
    """Cancelled while it commits, however often, a download publishes, tells `done` so, and then is cancelled."""
    driver, ledger, path = MemDriver(), Ledger(), tmp_path / "f"
    driver.site(URL, data=LARGE)
    writer = SlowCommit(path)
    async with context_of(driver) as context:
        task = asyncio.create_task(way(Download(URL, writer, plugins=[ledger], context=context)))
        await writer.entered.wait()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        assert not path.exists()
        writer.release.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert path.read_bytes() == LARGE
        (outcome,) = ledger.outcomes
        assert isinstance(outcome, Result)
        await nothing_is_left(driver, context, tmp_path)


async def test_a_commit_that_outlasts_the_total_limit_is_a_success(tmp_path: Path) -> None:
    """What is published is published: a limit that runs out meanwhile makes no failure of it."""
    driver, ledger, path = MemDriver(), Ledger(), tmp_path / "f"
    driver.site(URL, data=LARGE)
    writer = SlowCommit(path)
    async with context_of(driver, ledger) as context:
        task = asyncio.create_task(Download(URL, writer, timeout=Timeout(total=0.05), context=context).run())
        await writer.entered.wait()
        await asyncio.sleep(0.1)
        writer.release.set()
        result = await task
    assert path.read_bytes() == LARGE
    assert ledger.outcomes == [result]


@pytest.mark.parametrize("way", [by_run, by_stream])
async def test_a_commit_that_fails_is_terminal(way: Any, tmp_path: Path) -> None:
    """A `WriteError` of the commit ends the download; `error` is not asked, nothing is left."""
    driver, ledger, path = MemDriver(), Ledger(), tmp_path / "f"
    driver.site(URL, data=LARGE)
    writer = SlowCommit(path, OSError(28, "No space left on device"))
    writer.release.set()
    async with context_of(driver) as context:
        with pytest.raises(WriteError, match="No space left") as caught:
            await way(Download(URL, writer, plugins=[ledger], context=context))
        assert (ledger.errors, ledger.outcomes) == ([], [caught.value])
        await nothing_is_left(driver, context, tmp_path)
    assert names(tmp_path) == []


async def test_a_thread_that_writes_is_waited_for(tmp_path: Path) -> None:
    """Cancelled while a thread writes, a download waits for it, and only then discards."""
    driver, ledger = MemDriver(), Ledger()
    driver.site(URL, data=bytes(4 * 1024 * 1024), block=256 * 1024)
    entered, release, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()
    order: list[str] = []

    class Slow(FileWriter):
        def open(self, transfer: Transfer) -> Sink:
            sink: Any = super().open(transfer)
            write, discard = sink.write, sink.discard

            def slowly(block: Any) -> None:
                loop.call_soon_threadsafe(entered.set)
                assert release.wait(30)
                write(block)
                order.append("write")

            def noted() -> None:
                order.append("discard")
                discard()

            sink.write, sink.discard = slowly, noted
            return sink  # type: ignore[no-any-return]

    async with context_of(driver) as context:
        task = asyncio.create_task(Download(URL, Slow(tmp_path / "f"), plugins=[ledger], context=context).run())
        await entered.wait()
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert order == ["write"] * 4 + ["discard"]
        assert ledger.outcomes == [None]
        await nothing_is_left(driver, context, tmp_path)
    assert names(tmp_path) == []


# --- torture ----------------------------------------------------------------------------------------------------


def simple(driver: MemDriver) -> list[Any]:
    """Serve a file at once."""
    driver.site(URL, data=SMALL, block=1024)
    return []


def eventful(driver: MemDriver) -> list[Any]:
    """Serve a file by way of a truncation, a refusal, a second round, a resume and a restart."""
    driver.site(A, Reply(SMALL, cut=3000, block=500), Reply(status=503))
    driver.site(B, Reply(SMALL, cut=6000, block=500), Reply(SMALL, start=1, block=4000), Reply(SMALL, block=4000))
    return [Mirrors((A, B))]


def listed(driver: MemDriver) -> list[Any]:
    """Serve a file by way of a mirror list and a token, each asked for once."""
    driver.site("mem://host/mirrors", data=f"{A}\n{URL}\n".encode())
    driver.site(A, status=404)
    driver.site(URL, Reply(SMALL, token="two"))
    tokens = iter(["one", "two"])

    async def provider() -> str:
        await asyncio.sleep(0)
        return next(tokens)

    return [MirrorList("mem://host/mirrors"), BearerToken(provider)]


@pytest.mark.parametrize("scene", [simple, eventful, listed])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
async def test_torture(scene: Callable[[MemDriver], list[Any]], way: Any, again: bool, tmp_path: Path) -> None:
    """Cancelled at the n-th step of the event loop, for every n there is: all or nothing, and nothing left behind."""
    path = tmp_path / "f"
    right = DigestValidation("sha256", hashlib.sha256(SMALL).hexdigest())
    finished = steps = cancelled = 0
    while finished < 3:
        driver, ledger = MemDriver(), Ledger()
        plugins = [*scene(driver), ledger]
        async with context_of(driver) as context:
            download = Download(URL, FileWriter(path), plugins=plugins, validations=[right], context=context)
            task = asyncio.create_task(way(download))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            if again:
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait([task])
            await nothing_is_left(driver, context, tmp_path)
            assert not context._bound().values._flights
        assert scene is listed or len(ledger.outcomes) == bool(driver.log) or ledger.outcomes == [None]
        outcomes = [outcome for outcome in ledger.outcomes if not _is_of_a_nested_one(outcome)]
        if path.exists():
            assert path.read_bytes() == SMALL
            assert any(isinstance(outcome, Result) for outcome in outcomes)
            path.unlink()
        else:
            assert all(outcome is None for outcome in outcomes)
        assert task.cancelled() or task.exception() is None
        assert names(tmp_path) == []
        cancelled += task.cancelled()
        finished += not task.cancelled()
        steps += 1
    assert cancelled > 10, "it was cancelled in the midst of things, often"


def _is_of_a_nested_one(outcome: object) -> bool:
    return isinstance(outcome, Result) and outcome.url.endswith("/mirrors")


@pytest.mark.parametrize("steps", range(0, 60, 3))
async def test_a_cancelled_download_disturbs_no_other(steps: int, tmp_path: Path) -> None:
    """Two downloads that wait for one mirror list: cancelling one of them, at whatever step, leaves the other alone."""
    driver = MemDriver()
    plugins = listed(driver)
    async with context_of(driver, *plugins) as context:
        one = asyncio.create_task(Download(URL, FileWriter(tmp_path / "one"), context=context).run())
        two = asyncio.create_task(Download(URL, FileWriter(tmp_path / "two"), context=context).run())
        for _ in range(steps):
            await asyncio.sleep(0)
        one.cancel()
        await asyncio.wait([one, two])
        assert two.result().size == len(SMALL)
        await nothing_is_left(driver, context, tmp_path)
    assert (tmp_path / "two").read_bytes() == SMALL


async def test_many_cancelled_in_a_queue_give_their_places_back(tmp_path: Path) -> None:
    """Slots are neither lost nor doubled when those that wait for them are cancelled."""
    driver = MemDriver()
    driver.site(URL, data=SMALL, block=1000)
    async with context_of(driver, connections=2) as context:
        tasks = [
            asyncio.create_task(Download(URL, FileWriter(tmp_path / str(number)), context=context).run())
            for number in range(60)
        ]
        for number, task in enumerate(tasks):
            if number % 3:
                task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait(tasks)
        assert driver.peak <= 2
        assert all(not task.cancelled() for task in tasks[::3])
        await nothing_is_left(driver, context, tmp_path)
    assert {(tmp_path / name).read_bytes() for name in names(tmp_path)} == {SMALL}
