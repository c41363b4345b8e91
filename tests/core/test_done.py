"""`done`: exactly once, after everything, with what came of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.mem import MemDriver, Reply, context_of, until

from downhaul import (
    Batch,
    BufferWriter,
    DigestMismatch,
    Download,
    DownloadError,
    FileWriter,
    NotFound,
    Plugin,
    Result,
    StreamBroken,
    Timeout,
    TimeoutExceeded,
    UnsupportedScheme,
    Version,
    WriteError,
    hookimpl,
)

if TYPE_CHECKING:
    from pathlib import Path

URL = "mem://home/file"
BYTES = bytes(range(256)) * 1000


class Ends(Plugin):
    """Writes down every end, and how the world looked then."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        self.outcomes: list[Any] = []
        self.files: list[list[str]] = []
        self.used: list[int] = []

    @hookimpl
    def done(self, transfer, outcome):
        self.outcomes.append(outcome)
        self.used.append(transfer.context.connections_in_use)
        if self.directory is not None:
            self.files.append(sorted(each.name for each in self.directory.iterdir()))


def server() -> MemDriver:
    """Return a driver that has the file."""
    mem = MemDriver()
    mem.site(URL, Reply(BYTES))
    return mem


async def test_of_a_success_it_gets_the_result(tmp_path):
    """“Exactly once, after everything”: the file is published then."""
    ends = Ends(tmp_path)
    async with context_of(server(), ends) as context:
        result = await Download(URL, FileWriter(tmp_path / "file"), context=context).run()
    assert ends.outcomes == [result]
    assert ends.outcomes[0] is result
    assert ends.files == [["file"]]
    assert ends.used == [0]


async def test_of_a_failure_it_gets_the_very_error(tmp_path):
    """The error that will be raised, with all that the engine adds; nothing is left in the directory."""
    ends, mem = Ends(tmp_path), MemDriver()
    mem.site(URL, Reply(BYTES, cut=1000))
    seen = []

    class Reads(Plugin):
        @hookimpl
        def done(self, transfer, outcome):
            seen.append((outcome.url, outcome.attachment, len(outcome.history)))

    async with context_of(mem, ends, Reads(), retries=2) as context:
        with pytest.raises(DownloadError) as caught:
            await Download(URL, FileWriter(tmp_path / "file"), context=context, attachment="mine").run()
    assert ends.outcomes == [caught.value]
    assert seen == [(URL, "mine", 3)]
    assert ends.files == [[]]


async def test_it_is_called_once_however_many_attempts():
    """Once per transfer, not per attempt."""
    ends, mem = Ends(), MemDriver()
    mem.site(URL, Reply(status=503), Reply(BYTES, cut=10), Reply(BYTES))
    async with context_of(mem, ends) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert len(ends.outcomes) == 1


async def test_each_run_of_a_download_has_its_own():
    """A download may run again; each run is a transfer with an end."""
    ends = Ends()
    async with context_of(server(), ends) as context:
        download = Download(URL, BufferWriter(), context=context)
        results = [await download.run(), await download.run()]
    assert [id(each) for each in ends.outcomes] == [id(each) for each in results]


@pytest.mark.parametrize("where", ["open", "body"])
async def test_of_a_cancellation_it_gets_none(where, tmp_path):
    """“… also on cancellation (None: nothing was published)”."""
    ends, mem = Ends(tmp_path), MemDriver()
    mem.site(URL, Reply(BYTES, hang=where))
    async with context_of(mem, ends) as context:
        task = asyncio.create_task(Download(URL, FileWriter(tmp_path / "file"), context=context).run())
        await until(lambda: mem.live)
        for _ in range(30):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ends.outcomes == [None]
    assert ends.files == [[]]
    assert ends.used == [0]


async def test_closing_the_context_is_a_cancellation():
    """What runs when its context is closed ends with None."""
    ends, mem = Ends(), MemDriver()
    mem.site(URL, Reply(hang="open"))
    async with context_of(mem, ends) as context:
        task = asyncio.create_task(Download(URL, BufferWriter(), context=context).run())
        await until(lambda: mem.live)
    assert ends.outcomes == [None]
    await asyncio.wait([task])


async def test_leaving_a_batch_is_a_cancellation():
    """What a batch had begun when it was left ends with None, once each."""
    ends, mem = Ends(), MemDriver()
    mem.site(URL, Reply(hang="body"))
    async with context_of(mem, ends) as context:
        downloads = (Download(URL, BufferWriter()) for _ in range(10))
        async with Batch(downloads, concurrency=4, context=context) as batch:
            waiting = asyncio.create_task(anext(batch()))
            await until(lambda: mem.live >= 4)
            waiting.cancel()
            await asyncio.wait([waiting])
    assert ends.outcomes == [None] * 4


async def test_of_the_total_time_it_gets_the_time_out():
    """A time-out is an error, no cancellation."""
    ends, mem = Ends(), MemDriver()
    mem.site(URL, Reply(hang="open"))
    async with context_of(mem, ends) as context:
        with pytest.raises(TimeoutExceeded) as caught:
            await Download(URL, BufferWriter(), context=context, timeout=Timeout(total=0.02)).run()
    assert ends.outcomes == [caught.value]


async def test_it_is_called_where_nothing_was_asked(tmp_path):
    """A scheme that nobody speaks, a target that cannot be: an end all the same."""
    ends = Ends()
    async with context_of(server(), ends) as context:
        with pytest.raises(UnsupportedScheme) as unsupported:
            await Download("gopher://home/file", BufferWriter(), context=context).run()
        with pytest.raises(WriteError) as unwritable:
            await Download(URL, FileWriter(tmp_path / "no" / "file"), context=context).run()
    assert ends.outcomes == [unsupported.value, unwritable.value]


async def test_it_is_called_for_a_file_that_was_not_modified():
    """An unchanged file is a result."""
    ends, mem = Ends(), server()
    async with context_of(mem, ends) as context:
        unless = Version(tag='"v1"', size=len(BYTES), strong=True)
        result = await Download(URL, BufferWriter(), context=context, unless=unless).run()
    assert result.not_modified
    assert ends.outcomes == [result]


async def test_of_a_stream_read_to_its_end_it_gets_the_result():
    """A stream ends when its consumer has come to the end."""
    ends = Ends()
    async with context_of(server(), ends) as context:
        async with Download(URL, context=context).stream() as stream:
            assert b"".join([bytes(block) async for block in stream]) == BYTES
        assert ends.outcomes == [stream.result()]


async def test_of_a_stream_left_early_it_gets_none():
    """Whoever leaves a stream cancels it."""
    ends = Ends()
    async with context_of(server(), ends) as context:
        async with Download(URL, context=context).stream() as stream:
            await anext(stream)
            assert ends.outcomes == []
        assert ends.outcomes == [None]


async def test_of_a_stream_that_breaks_it_gets_the_error():
    """The consumer and `done` learn of the same error."""
    ends, mem = Ends(), MemDriver()
    mem.site(URL, Reply(BYTES, cut=200_000), Reply(status=404))
    async with context_of(mem, ends) as context, Download(URL, context=context).stream() as stream:
        with pytest.raises(StreamBroken) as caught:
            _ = [block async for block in stream]
    assert ends.outcomes == [caught.value]


async def test_it_cannot_change_the_outcome():
    """What `done` returns is nobody's business, and results are frozen."""

    class Meddles(Plugin):
        @hookimpl
        def done(self, transfer, outcome):
            with pytest.raises(AttributeError):
                outcome.size = 0
            return NotFound("instead")

    async with context_of(server(), Meddles()) as context:
        result = await Download(URL, BufferWriter(), context=context).run()
    assert isinstance(result, Result)
    assert result.size == len(BYTES)


async def test_of_bytes_that_were_refused_it_gets_the_verdict(tmp_path):
    """Announcing success before validation was an ancestor's bug."""
    ends = Ends(tmp_path)
    async with context_of(server(), ends, retries=0) as context:
        with pytest.raises(DigestMismatch) as caught:
            await Download(URL, FileWriter(tmp_path / "file"), context=context, digests={"sha256": "00" * 32}).run()
    assert ends.outcomes == [caught.value]
    assert ends.files == [[]]


async def test_published_is_published():
    """Where time runs out after the bytes were published, the outcome is the result."""
    ends, loop = Ends(), asyncio.get_running_loop()

    class SlowSink:
        """Publishes, and is cancelled right afterwards."""

        position = 0

        def write(self, block):
            self.position += len(block)

        def truncate(self, position):
            self.position = position

        def commit(self):
            loop.call_soon_threadsafe(task.cancel)

        def discard(self):
            raise AssertionError("what is published is not discarded")

    class SlowWriter(BufferWriter):
        def open(self, transfer):
            return SlowSink()

    async with context_of(server(), ends) as context:
        task = asyncio.create_task(Download(URL, SlowWriter(), context=context).run())
        await asyncio.wait([task])
    (outcome,) = ends.outcomes
    assert isinstance(outcome, Result)


def test_a_synchronous_download_ends_too():
    """`download()` keeps the same promise."""
    ends = Ends()
    with context_of(server(), ends) as context:
        result = Download(URL, BufferWriter(), context=context)()
        with pytest.raises(NotFound) as caught:
            Download("mem://home/none", BufferWriter(), context=context)()
    assert ends.outcomes == [result, caught.value]
