"""The pipeline: bytes go one way, once, and never keep the event loop for long."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mem import Ledger, MemDriver, Reply, context_of

from downhaul import (
    Block,
    BufferWriter,
    Check,
    Download,
    Driver,
    Info,
    Payload,
    Request,
    Sink,
    SizeMismatch,
    SizeValidation,
    Transfer,
    Validation,
    WriteError,
    Writer,
)
from downhaul import _pipeline as pipeline_module
from downhaul._pipeline import Pipeline, finished
from downhaul._ring import Pages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from downhaul import Settings

URL = "mem://host/file"
KIB = 1024
MIB = 1024 * 1024


@pytest.fixture
def driver() -> MemDriver:
    """Give a driver without sites."""
    return MemDriver()


class Work:
    """Counts what is given to threads, of whatever pool."""

    used = 0


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Count what event loops give to threads."""
    work, run = Work(), asyncio.BaseEventLoop.run_in_executor

    def counted(loop: Any, executor: Any, function: Any, *args: Any) -> Any:
        work.used += 1
        return run(loop, executor, function, *args)

    monkeypatch.setattr(asyncio.BaseEventLoop, "run_in_executor", counted)
    return work


@pytest.mark.parametrize("size", [0, 1, 64 * KIB, 256 * KIB])
async def test_small_files_are_not_sent_through_threads(driver: MemDriver, work: Work, size: int) -> None:
    """Small files are handled where they arrive: the way to a thread and back costs more than it saves."""
    driver.site(URL, data=bytes(size))
    async with context_of(driver) as context:
        size_expected = SizeValidation(size)
        await Download(URL, BufferWriter(), digests=["sha256"], validations=[size_expected], context=context).run()
    assert work.used == 0


@pytest.mark.parametrize(("size", "most"), [(256 * KIB + 1, 3), (MIB, 4), (10 * MIB, 16)])
async def test_large_files_are_hashed_and_written_in_threads(
    driver: MemDriver, work: Work, size: int, most: int
) -> None:
    """No hash and no write of many bytes is done on the loop; and they go in batches, not block by block."""
    driver.site(URL, data=bytes(size), block=4 * KIB)
    where = Where()
    async with context_of(driver) as context:
        await Download(URL, where, validations=[where.judge], digests=["sha256"], context=context).run()
    assert where.seen == size
    assert 0 < work.used <= most
    assert threading.current_thread().name not in where.threads


async def test_a_large_block_of_a_stream_goes_through_a_thread(driver: MemDriver, work: Work) -> None:
    """A stream handles block by block: large ones in a thread, small ones at once."""
    driver.site(URL, data=bytes(2 * MIB), block=512 * KIB)
    async with context_of(driver) as context:
        async with Download(URL, digests=["sha256"], context=context).stream() as stream:
            async for _ in stream:
                pass
        assert work.used == 4
        driver.site(URL, data=bytes(MIB), block=16 * KIB)
        async with Download(URL, digests=["sha256"], context=context).stream() as stream:
            async for _ in stream:
                pass
        assert work.used == 4


class Where(Writer, Sink):
    """A writer, its sink and a validation, which note the threads that they are called in and how many at a time."""

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        self.act = act
        self.threads: set[str] = set()
        self.calls = self.at_once = self.most_at_once = self.seen = 0
        self.judge = _Judge(self)

    def open(self, transfer: Transfer) -> Sink:
        self.seen = 0
        return self

    @property
    def position(self) -> int:
        return self.seen

    def note(self) -> None:
        self.calls += 1
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        self.threads.add(threading.current_thread().name)
        self.act()
        self.at_once -= 1

    def write(self, block: Block) -> None:
        self.note()
        self.seen += len(block)

    def truncate(self, position: int) -> None:
        self.seen = position

    def commit(self) -> None:
        self.threads.add(threading.current_thread().name)

    def discard(self) -> None:
        self.seen = 0


class _Judge(Validation):
    def __init__(self, where: Where) -> None:
        self.where = where

    def check(self) -> Check:
        return self  # type: ignore[return-value]

    def update(self, block: Block) -> None:
        self.where.note()

    def finish(self) -> None: ...


async def test_sink_and_checks_are_called_by_one_thread_at_a_time(driver: MemDriver) -> None:
    """`Sink` and `Check` are synchronous and need no locks of their own."""
    driver.site(URL, data=bytes(6 * MIB), block=64 * KIB)
    where = Where()
    async with context_of(driver) as context:
        await Download(URL, where, validations=[where.judge], context=context).run()
    assert where.calls == 2 * 96
    assert where.most_at_once == 1


@pytest.mark.parametrize("slow", ["sink", "check"])
async def test_a_slow_sink_or_check_does_not_stop_another_task(driver: MemDriver, slow: str) -> None:
    """While a sink or a check of a large file is stuck, the loop goes on, and so do other downloads."""
    driver.site(URL, data=bytes(3 * MIB), block=256 * KIB)
    driver.site("mem://other/file", data=b"quick")
    inside, release = threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()

    def stick() -> None:
        inside.set()
        loop.call_soon_threadsafe(arrived.set)
        assert release.wait(30)

    where = Where(stick)
    writer, validations = (where, ()) if slow == "sink" else (BufferWriter(), [where.judge])
    async with context_of(driver) as context:
        task = asyncio.create_task(Download(URL, writer, validations=validations, context=context).run())
        await arrived.wait()
        quick = BufferWriter()
        await Download("mem://other/file", quick, context=context).run()
        assert quick.content() == b"quick"
        assert not task.done()
        release.set()
        await task


async def test_a_slow_commit_does_not_stop_another_task(driver: MemDriver) -> None:
    """So with the commit of a large file."""
    driver.site(URL, data=bytes(MIB))
    arrived, release = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    class Slow(Where):
        def commit(self) -> None:
            loop.call_soon_threadsafe(arrived.set)
            assert release.wait(30)

    async with context_of(driver) as context:
        task = asyncio.create_task(Download(URL, Slow(), context=context).run())
        await arrived.wait()
        release.set()
        await task


class Tap(Driver):
    """Serves endless zeros, and counts how many bytes were asked of it."""

    given = 0

    def __init__(self, block: int, stop: int = 1 << 40) -> None:
        self.block, self.stop = block, stop

    def open(self, request: Request, settings: Settings) -> AbstractAsyncContextManager[Payload]:
        return nullcontext(Payload(Info(request.url, proof="final chunk"), self.body()))

    async def body(self) -> AsyncIterator[Block]:
        block = bytes(self.block)
        while self.given < self.stop:
            self.given += self.block
            yield block
            await asyncio.sleep(0)


async def test_a_slow_sink_holds_the_source_back() -> None:
    """At most two batches of a MiB wait for a thread: memory does not grow with the file."""
    tap, arrived, release = Tap(64 * KIB, 20 * MIB), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def stick() -> None:
        loop.call_soon_threadsafe(arrived.set)
        assert release.wait(30)

    async with context_of(tap) as context:
        task = asyncio.create_task(Download(URL, Where(stick), context=context).run())
        await arrived.wait()
        for _ in range(1000):
            await asyncio.sleep(0)
        assert tap.given <= 2 * MIB + 64 * KIB
        release.set()
        await task
    assert tap.given == 20 * MIB


async def test_a_block_may_be_reused_by_the_driver(driver: MemDriver) -> None:
    """A block is valid until the next is asked for: the pipeline keeps none beyond that."""

    class Reusing(Tap):
        async def body(self) -> AsyncIterator[Block]:
            block = bytearray(4)
            for number in range(40_000):
                block[:] = number.to_bytes(4, "big")
                yield memoryview(block) if number % 2 else block

    for size in (1, 40_000):
        writer = BufferWriter()
        async with context_of(Reusing(4)) as context:
            await Download(URL, writer, context=context).run()
            pieces = []
            async with Download(URL, context=context).stream(hold_back=size) as stream:
                pieces = [bytes(piece) async for piece in stream]
        whole = b"".join(number.to_bytes(4, "big") for number in range(40_000))
        assert writer.content() == whole == b"".join(pieces)


async def test_a_failure_in_a_thread_reaches_the_download(driver: MemDriver) -> None:
    """What a sink raises in a thread ends the download at the next batch, not only at the end."""
    tap = Tap(64 * KIB)

    def fail() -> None:
        raise OSError(28, "No space left on device")

    async with context_of(tap) as context:
        with pytest.raises(WriteError, match="No space left"):
            await Download(URL, Where(fail), context=context).run()
    assert tap.given <= 3 * MIB


async def test_what_was_received_stands_in_the_transfer_at_any_time(driver: MemDriver) -> None:
    """`Transfer.received` needs no hook: it is what has been fed, before batches are handled."""
    ledger = Ledger()
    driver.site(URL, Reply(bytes(5000), cut=3000), Reply(bytes(5000)))
    async with context_of(driver, ledger) as context:
        await Download(URL, BufferWriter(), context=context).run()
    (attempt,) = ledger.outcomes[0].history  # type: ignore[union-attr]
    assert attempt.kept == 3000


@pytest.fixture
def small_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let threads be used for a few bytes already."""
    monkeypatch.setattr(pipeline_module, "_BATCH", 64)
    monkeypatch.setattr(pipeline_module, "LARGE", 16)


class Recorder(Where):
    """Writes to memory."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = bytearray()

    @property
    def position(self) -> int:
        return len(self.bytes)

    def write(self, block: Block) -> None:
        self.bytes += block

    def truncate(self, position: int) -> None:
        del self.bytes[position:]


class Tally(Validation):
    """Notes the bytes that its latest check has seen."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def check(self) -> Check:
        self.bytes = bytearray()
        return _TallyCheck(self.bytes)


class _TallyCheck:
    def __init__(self, seen: bytearray) -> None:
        self.seen = seen

    def update(self, block: Block) -> None:
        self.seen += block

    def finish(self) -> None: ...


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 200), st.sampled_from(["drain", "restart"])), max_size=25))
def test_sink_checks_and_digests_stand_at_one_position(steps: list[int | str]) -> None:
    """However blocks, drains and restarts follow each other, after a drain all have seen the same bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_module, "_BATCH", 64)
        patch.setattr(pipeline_module, "LARGE", 16)
        asyncio.run(_follow(steps))


async def _follow(steps: list[int | str]) -> None:
    tally, sink, expected = Tally(), Recorder(), bytearray()
    with ThreadPoolExecutor(2) as threads:
        pipeline = Pipeline(None, [tally], ["sha256"], lambda: threads, Pages())
        pipeline.open(sink, None)  # type: ignore[arg-type]
        for number, step in enumerate((*steps, "drain")):
            if isinstance(step, int):
                block = bytes([number]) * step
                await pipeline.feed(block)
                expected += block
                assert pipeline.position == len(expected)
                continue
            await pipeline.drain()
            if step == "restart":
                pipeline.restart()
                expected.clear()
            assert sink.bytes == tally.bytes == expected
            assert pipeline.position == len(expected)
            assert pipeline.digests.hexdigests() == {"sha256": hashlib.sha256(expected).hexdigest()}


@pytest.mark.usefixtures("small_thresholds")
async def test_halting_waits_for_the_thread() -> None:
    """Nothing is at work any more when `halt` returns, whatever the thread has to say, cancelled or not."""
    entered, release = threading.Event(), threading.Event()

    def stick() -> None:
        entered.set()
        assert release.wait(30)
        raise OSError("too late to matter")

    with ThreadPoolExecutor(1) as threads:
        pipeline = Pipeline(None, [], [], lambda: threads, Pages())
        where = Where(stick)
        pipeline.open(where, None)  # type: ignore[arg-type]
        await pipeline.feed(bytes(100))
        await asyncio.to_thread(entered.wait)
        task = asyncio.create_task(pipeline.halt())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await pipeline.halt()


async def test_waiting_on_keeps_the_cancellation() -> None:
    """`finished` waits through cancellations, and hands the last of them to its caller."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(finished(future))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    future.set_result(None)
    assert isinstance(await task, asyncio.CancelledError)


async def test_a_refusal_in_a_thread_starts_the_bytes_again(driver: MemDriver) -> None:
    """A check that refuses in a thread leaves no half of a batch behind: the next attempt is clean."""
    driver.site(URL, Reply(b"x" * 5 * MIB, tag=None, size=False, proof="final chunk"), Reply(b"y" * 3 * MIB))
    writer, ledger = BufferWriter(), Ledger()
    async with context_of(driver, ledger) as context:
        await Download(URL, writer, validations=[SizeValidation(3 * MIB)], context=context).run()
    assert writer.content() == b"y" * 3 * MIB
    assert [type(error) for error in ledger.errors] == [SizeMismatch]


async def test_nothing_of_a_batch_outlives_a_restart(driver: MemDriver) -> None:
    """Bytes that were still collected when a thread refused those before them do not get into the next attempt."""
    driver.site(URL, Reply(b"x" * (MIB + 1000), cut=MIB + 1000, size=False, proof="x"), Reply(b"y" * 1000))
    writer, ledger = BufferWriter(), Ledger()
    async with context_of(driver, ledger, retries=1) as context:
        await Download(URL, writer, validations=[SizeValidation(1000)], context=context).run()
    assert writer.content() == b"y" * 1000
    assert [type(error) for error in ledger.errors] == [SizeMismatch]
