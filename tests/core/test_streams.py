"""Streams: headers first, nothing taken back, and a clean end means complete and valid."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.mem import Ledger, MemDriver, Mirrors, Reply, context_of, names

from downhaul import (
    BufferWriter,
    Context,
    DigestMismatch,
    DigestValidation,
    Download,
    DownloadError,
    Driver,
    FileWriter,
    Headers,
    Info,
    NotFound,
    Payload,
    Plugin,
    Request,
    Result,
    Retry,
    Settings,
    StreamBroken,
    Timeout,
    TimeoutExceeded,
    Transfer,
    Truncated,
    ValidationError,
    Version,
    WriteError,
    hookimpl,
)
from downhaul._feed import Feed, end_to_end

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from downhaul._stream import Stream

URL = "mem://host/file"
A, B, C, D = (f"mem://{letter}/file" for letter in "abcd")
KIB = 1024
BLOCK = 16 * KIB  # of the driver in memory
DATA = bytes(index * 7 % 251 for index in range(400 * KIB))
OTHER = bytes(reversed(DATA))
RIGHT = DigestValidation("sha256", hashlib.sha256(DATA).hexdigest())
CUT = 200_000  # far more than is held back: some of it has been delivered


@pytest.fixture
def driver() -> MemDriver:
    """Give a driver without sites."""
    return MemDriver()


@pytest.fixture
def ledger() -> Ledger:
    """Give a plugin that notes errors and ends."""
    return Ledger()


class Reader:
    """Reads a stream to its end, and keeps what came, also where it broke."""

    def __init__(self) -> None:
        self.got = b""
        self.headers: Headers | None = None
        self.error: Exception | None = None
        self.result: Result | None = None

    @property
    def ended_cleanly(self) -> bool:
        return self.result is not None

    async def read(self, stream: Stream) -> Reader:
        try:
            async with stream:
                self.headers = stream.headers  # type: ignore[assignment]
                async for block in stream:
                    assert block, "no empty block: some consumers take it for the end"
                    self.got += block
                self.result = stream.result()
        except DownloadError as error:
            self.error = error
        return self


async def read(driver: Driver, *plugins: object, hold_back: int = 64 * KIB, **options: Any) -> Reader:
    """Stream URL to its end."""
    async with context_of(driver, *plugins) as context:
        reader = await Reader().read(Download(URL, context=context, **options).stream(hold_back=hold_back))
        assert context.connections_in_use == 0
    if isinstance(driver, MemDriver):
        assert driver.live == 0
    return reader


def offsets(driver: MemDriver) -> list[tuple[str, int]]:
    """Return what was asked for, as the host's letter and the offset."""
    return [(each.url.removeprefix("mem://")[0], each.offset) for each in driver.log]


# --- the way of a good stream -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 80 * KIB, 81 * KIB, len(DATA)])
@pytest.mark.parametrize("block", [1000, BLOCK, 64 * KIB, 1024 * KIB])
async def test_all_bytes_come_in_order(driver: MemDriver, size: int, block: int) -> None:
    """Whatever the size, around the border of what is held back too, the bytes are all there."""
    driver.site(URL, data=DATA[:size], block=block)
    reader = await read(driver, digests=["sha256"])
    assert reader.got == DATA[:size]
    assert reader.result is not None
    assert reader.result.size == size
    assert reader.result.digests["sha256"] == hashlib.sha256(DATA[:size]).hexdigest()


async def test_headers_come_first(driver: MemDriver) -> None:
    """Entering returns with the headers when the first releasable block is there, long before the last."""
    gate = asyncio.Event()

    class Waits(MemDriver):
        async def _body(self, reply: Reply, start: int, stop: int | None) -> Any:
            yield reply.data[:CUT]
            yield reply.data[CUT : CUT + BLOCK]
            yield reply.data[CUT + BLOCK : CUT + 100_000]
            await gate.wait()
            yield reply.data[CUT + 100_000 :]

    slow = Waits()
    slow.site(URL, data=DATA, headers=(("Content-Type", "application/x-rpm"),))
    async with context_of(slow) as context, Download(URL, context=context).stream() as stream:
        assert stream.headers["content-type"] == "application/x-rpm"
        assert stream.headers["CONTENT-LENGTH"] == str(len(DATA))
        first = await anext(stream)
        assert first == DATA[: CUT - 64 * KIB]
        with pytest.raises(RuntimeError, match="not come to its end"):
            stream.result()
        gate.set()
        assert first + b"".join([block async for block in stream]) == DATA


@pytest.mark.parametrize("block", [1000, BLOCK, 256 * KIB])
@pytest.mark.parametrize("hold_back", [1, 5000, 64 * KIB])
async def test_no_more_is_held_back_than_is_said(driver: MemDriver, block: int, hold_back: int) -> None:
    """Whatever the blocks, a consumer has all bytes that have come, but the last that are held back."""
    driver.site(URL, data=DATA, cut=300_000, hang="body", block=block)
    async with context_of(driver) as context, Download(URL, context=context).stream(hold_back=hold_back) as stream:
        got = b""
        while len(got) < 300_000 - hold_back:
            got += await asyncio.wait_for(anext(stream), 5)
        assert got == DATA[: 300_000 - hold_back]


async def test_an_empty_file_is_a_stream_with_headers(driver: MemDriver) -> None:
    """No bytes: the headers are there, iterating ends at once, cleanly."""
    driver.site(URL, data=b"", headers=(("ETag", '"e"'),))
    reader = await read(driver)
    assert (reader.got, reader.ended_cleanly) == (b"", True)
    assert reader.headers is not None
    assert dict(reader.headers) == {"Content-Length": "0", "ETag": '"e"'}


async def test_the_end_stays_the_end(driver: MemDriver) -> None:
    """Asking on behind the end ends again; so does a failure fail again."""
    driver.site(URL, Reply(DATA), Reply(status=404))
    async with context_of(driver) as context:
        async with Download(URL, context=context).stream() as stream:
            async for _ in stream:
                pass
            assert [block async for block in stream] == []
            assert stream.result() is stream.result()
        broken = Download(URL, context=context, digests={"sha256": "0" * 64}, retries=0)
        driver.site(URL, data=DATA)
        async with broken.stream() as stream:
            for _ in range(3):
                with pytest.raises(StreamBroken):
                    async for _ in stream:
                        pass


async def test_a_stream_is_entered_once(driver: MemDriver) -> None:
    """A stream is one run; for another, make another."""
    driver.site(URL, data=DATA)
    async with context_of(driver) as context:
        download = Download(URL, context=context)
        with pytest.raises(RuntimeError, match="enter the stream first"):
            await anext(download.stream())
        async with download.stream() as stream:
            with pytest.raises(RuntimeError, match="make another one"):
                await stream.__aenter__()
        async with download.stream() as another:
            assert b"".join([block async for block in another]) == DATA


@pytest.mark.parametrize("hold_back", [0, -1])
def test_holding_nothing_back_is_refused(hold_back: int) -> None:
    """At least a byte is held back: else a bad file could end cleanly."""
    with pytest.raises(ValueError, match="hold_back"):
        Download(URL).stream(hold_back=hold_back)


async def test_a_stream_that_was_left_tells_so(driver: MemDriver) -> None:
    """Reading on behind the ``async with`` is an error in the program, not a cancellation."""
    driver.site(URL, data=DATA)
    async with context_of(driver) as context:
        async with Download(URL, context=context).stream() as stream:
            await anext(stream)
        with pytest.raises(RuntimeError, match="left"):
            async for _ in stream:
                pass


# --- what is held back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, BLOCK, 64 * KIB])
async def test_small_files_are_validated_whole_before_the_first_byte(
    driver: MemDriver, ledger: Ledger, size: int
) -> None:
    """Rule 4: files no larger than the hold-back fail over as if nothing had happened, whatever was wrong."""
    data = DATA[:size]
    driver.site(A, data=OTHER[:size])
    driver.site(B, data=data, headers=(("X-From", "b"),))
    right = DigestValidation("sha256", hashlib.sha256(data).hexdigest())
    reader = await read(driver, ledger, Mirrors((A, B)), validations=[right])
    assert (reader.got, reader.ended_cleanly) == (data, True)
    assert reader.headers is not None
    assert reader.headers["X-From"] == "b", "the headers are those of the source that delivers"
    assert [type(error) for error in ledger.errors] == [DigestMismatch]


async def test_a_small_file_that_is_wrong_everywhere_fails_on_entering(driver: MemDriver) -> None:
    """Rule 4: entering is the commit point: before it, a failure is that of any download."""
    driver.site(URL, data=OTHER[: 64 * KIB])
    async with context_of(driver, retries=0) as context:
        with pytest.raises(DigestMismatch):
            async with Download(URL, validations=[RIGHT], context=context).stream():
                raise AssertionError("entered")


@pytest.mark.parametrize("hold_back", [1, 1000, 64 * KIB, 100_000, len(DATA) - BLOCK])
async def test_wrong_bytes_never_end_cleanly(driver: MemDriver, hold_back: int) -> None:
    """Rule 4: the last block is held back until validation has passed; the consumer never sees the end."""
    driver.site(URL, data=OTHER)
    reader = await read(driver, validations=[RIGHT], hold_back=hold_back)
    assert isinstance(reader.error, StreamBroken)
    assert not reader.ended_cleanly
    assert OTHER.startswith(reader.got)
    assert 0 < len(reader.got) <= len(OTHER) - hold_back


@pytest.mark.parametrize("hold_back", [1, 1000, BLOCK, 64 * KIB])
async def test_what_is_held_back_is_not_more_than_a_block_too_much(driver: MemDriver, hold_back: int) -> None:
    """Blocks are not cut: what waits for the verdict is *hold_back* and less than a block."""
    arrived = asyncio.Event()

    class Holds(Plugin):
        @hookimpl
        async def validate(self, transfer: Transfer) -> None:
            arrived.set()
            raise ValidationError("no")

    driver.site(URL, data=DATA)
    reader = await read(driver, Holds(), hold_back=hold_back, retries=0)
    assert isinstance(reader.error, StreamBroken)
    assert len(DATA) - hold_back - BLOCK < len(reader.got) <= len(DATA) - hold_back


async def test_a_validate_hook_judges_before_the_tail_is_released(driver: MemDriver) -> None:
    """Of a stream, `validate` comes when all bytes have arrived and the held-back tail has not been given out."""
    got = 0
    seen: list[tuple[int, int, object]] = []

    class Looks(Plugin):
        @hookimpl
        async def validate(self, transfer: Transfer) -> None:
            seen.append((transfer.size, got, transfer.body()))

    driver.site(URL, data=DATA)
    async with context_of(driver, Looks()) as context, Download(URL, context=context).stream() as stream:
        async for block in stream:
            got += len(block)
    ((size, then, body),) = seen
    assert (size, body) == (len(DATA), None)
    assert then <= len(DATA) - 64 * KIB


# --- failures before the commit point ---------------------------------------------------------------------------


async def test_before_the_first_byte_anything_is_retried_anywhere(driver: MemDriver, ledger: Ledger) -> None:
    """Rule 4: until something is releasable, other sources with other bytes are as good."""
    driver.site(A, status=503)
    driver.site(B, data=OTHER, cut=60 * KIB)
    driver.site(C, status=404)
    driver.site(D, data=DATA, headers=(("X-From", "d"),))
    reader = await read(driver, ledger, Mirrors((A, B, C, D)))
    assert (reader.got, reader.ended_cleanly) == (DATA, True)
    assert reader.headers is not None
    assert reader.headers["X-From"] == "d"
    assert [type(error).__name__ for error in ledger.errors] == ["ServerError", "Truncated", "NotFound"]


async def test_a_failure_before_the_first_byte_is_raised_on_entering(driver: MemDriver, ledger: Ledger) -> None:
    """Entering raises what a download would; nothing runs on."""
    driver.site(URL, status=404)
    async with context_of(driver, ledger) as context:
        with pytest.raises(NotFound) as caught:
            async with Download(URL, context=context, attachment=3).stream():
                raise AssertionError("entered")
    assert (caught.value.attachment, caught.value.url) == (3, URL)
    assert ledger.outcomes == [caught.value]


async def test_a_resume_before_the_first_byte_does_not_show(driver: MemDriver) -> None:
    """Headers are those of the whole file, though its bytes came in parts: no Content-Range, the full length."""
    fields = (("ETag", '"v1"'), ("Content-Type", "text/plain"))
    driver.site(URL, Reply(DATA, cut=40_000, headers=fields), Reply(DATA, headers=fields))
    reader = await read(driver)
    assert offsets(driver) == [("h", 0), ("h", 40_000)]
    assert reader.got == DATA
    assert reader.headers is not None
    assert dict(reader.headers) == {"Content-Length": str(len(DATA)), **dict(fields)}


async def test_a_resume_of_unknown_size_announces_none(driver: MemDriver) -> None:
    """A part of a file of unknown size says nothing about the whole."""
    driver.site(
        URL,
        Reply(DATA, cut=40_000, size=False, proof="x"),
        Reply(DATA, size=False, headers=(("Content-Range", "bytes 40000-409599/*"), ("Content-Length", "369600"))),
    )
    reader = await read(driver)
    assert reader.got == DATA
    assert reader.headers is not None
    assert dict(reader.headers) == {}


# --- continuation behind it -------------------------------------------------------------------------------------


async def test_it_is_continued_by_version(driver: MemDriver, ledger: Ledger) -> None:
    """Rule 4: the same source with the same strong version goes on where it broke; `error` is asked as before."""
    driver.site(URL, Reply(DATA, cut=CUT), Reply(DATA, cut=300_000), Reply(DATA))
    reader = await read(driver, ledger, digests=["sha256"])
    assert (reader.got, reader.ended_cleanly) == (DATA, True)
    assert offsets(driver) == [("h", 0), ("h", CUT), ("h", 300_000)]
    assert [type(error) for error in ledger.errors] == [Truncated, Truncated]
    assert reader.result is not None
    assert reader.result.digests["sha256"] == RIGHT.hexdigest


@pytest.mark.parametrize(
    "fields",
    [{"tag": None}, {"tag": 'W/"v1"', "weak": True}, {"ranges": False}, {"start": 17}, {"tag": '"v2"'}],
    ids=["no version", "weak", "no ranges", "starts elsewhere", "another tag, the same bytes"],
)
async def test_else_it_is_read_past_and_compared(driver: MemDriver, fields: dict[str, Any]) -> None:
    """Rule 4: without a proof the delivered bytes are read again and compared; never is a stream truncated."""
    driver.site(URL, Reply(DATA, cut=CUT, **fields), Reply(DATA, **{**fields, "tag": fields.get("tag", '"v1"')}))
    reader = await read(driver)
    assert (reader.got, reader.ended_cleanly) == (DATA, True)
    assert driver.log[-1].offset in {0, CUT}


async def test_another_source_is_compared_even_with_an_expected_digest(driver: MemDriver) -> None:
    """Rule 3: a stream with bytes delivered compares, whether or not the other source honours ranges."""
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, data=DATA)
    reader = await read(driver, Mirrors((A, B)), validations=[RIGHT])
    assert (reader.got, reader.ended_cleanly) == (DATA, True)
    assert offsets(driver) == [("a", 0), ("b", 0)]


async def test_a_source_with_other_bytes_is_passed_over(driver: MemDriver, ledger: Ledger) -> None:
    """Rule 4: other bytes are never appended; the next source may have the right ones."""
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, data=OTHER)
    driver.site(C, data=DATA)
    reader = await read(driver, ledger, Mirrors((A, B, C)))
    assert (reader.got, reader.ended_cleanly) == (DATA, True)
    assert [type(error) for error in ledger.errors] == [Truncated, ValidationError]
    assert "not the" in str(ledger.errors[1])


async def test_a_source_with_other_bytes_is_not_read_to_its_end(driver: MemDriver) -> None:
    """Comparing ends where the delivered bytes end: no more is asked of a source that has others."""
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, data=OTHER + bytes(2_000_000), hang="body", cut=CUT + BLOCK)
    driver.site(C, data=DATA)
    reader = await read(driver, Mirrors((A, B, C)))
    assert reader.got == DATA


async def test_where_nobody_has_the_same_bytes_it_is_broken(driver: MemDriver, ledger: Ledger) -> None:
    """Rule 4: byte-exact continuation, or StreamBroken at last; it tells why, with the history."""
    driver.site(A, data=DATA, cut=CUT, tag=None)
    driver.site(B, data=OTHER)
    driver.site(C, status=404)
    reader = await read(driver, ledger, Mirrors((A, B, C)), retries=1, attachment=5)
    assert isinstance(reader.error, StreamBroken)
    assert DATA.startswith(reader.got)
    assert (reader.error.attachment, reader.error.url) == (5, URL)
    assert [attempt.source for attempt in reader.error.history] == [A, B, C] * 2
    assert f"after {len(reader.got)} bytes" in str(reader.error)
    assert ledger.outcomes == [reader.error]
    assert all(not isinstance(error, StreamBroken) for error in ledger.errors)


async def test_a_source_that_breaks_while_comparing_makes_room_for_a_third(driver: MemDriver) -> None:
    """Rule 4: a source that fails in the middle of comparing has proved nothing; the third starts from 0 again."""
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, data=DATA, cut=50_000)
    driver.site(C, data=DATA)
    reader = await read(driver, Mirrors((A, B, C)))
    assert (reader.got, reader.ended_cleanly) == (DATA, True)
    assert offsets(driver) == [("a", 0), ("b", 0), ("c", 0)]


async def test_comparing_goes_on_by_version(driver: MemDriver) -> None:
    """A source that broke in the middle of comparing may be continued by its own version, and is compared on."""
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, Reply(DATA, cut=50_000), Reply(DATA, cut=150_000), Reply(DATA))
    reader = await read(driver, Turns(A, B, B, B), retries=9)
    assert (reader.got, reader.ended_cleanly) == (DATA, True)
    assert offsets(driver) == [("a", 0), ("b", 0), ("b", 50_000), ("b", 150_000)]


async def test_other_bytes_in_the_continued_part_are_found(driver: MemDriver) -> None:
    """So other bytes that come only after such a break are found as well."""
    mixed = DATA[:50_000] + OTHER[50_000:]
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, Reply(mixed, cut=50_000), Reply(mixed))
    reader = await read(driver, Turns(A, B, B), retries=2)
    assert offsets(driver) == [("a", 0), ("b", 0), ("b", 50_000)]
    assert isinstance(reader.error, StreamBroken)
    assert DATA.startswith(reader.got)


class Turns(Plugin):
    """Aims at one URL after another, and starts a round for each."""

    def __init__(self, *urls: str) -> None:
        self.urls = urls

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        transfer.request = replace(transfer.request, url=self.urls[transfer.round - 1])

    @hookimpl
    async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:
        return Retry(after=0) if transfer.round < len(self.urls) else None


@pytest.mark.parametrize("length", [0, 1, 70_000, CUT - 64 * KIB - BLOCK - 1])
async def test_a_shorter_file_is_not_the_end_of_a_longer_one(driver: MemDriver, length: int) -> None:
    """A file that ends before the delivered bytes do is another one, though all that it has is the same."""
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, data=DATA[:length])
    reader = await read(driver, Mirrors((A, B)), retries=0)
    assert isinstance(reader.error, StreamBroken)
    assert not reader.ended_cleanly


async def test_a_shorter_file_publishes_nothing_either(driver: MemDriver, tmp_path: Path) -> None:
    """With a writer too: what is published is what was streamed."""
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, data=DATA[:1000])
    reader = await read(driver, Mirrors((A, B)), retries=0, writer=FileWriter(tmp_path / "f"))
    assert isinstance(reader.error, StreamBroken)
    assert names(tmp_path) == []


async def test_not_modified_is_not_the_end_of_a_stream(driver: MemDriver) -> None:
    """With bytes delivered, a source that has the version of `unless` is none that continues them."""
    known = Version('"v0"', None, len(OTHER), strong=True)
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, data=OTHER, tag='"v0"')
    reader = await read(driver, Mirrors((A, B)), unless=known, retries=0)
    assert not reader.ended_cleanly
    assert isinstance(reader.error, StreamBroken)


async def test_not_modified_is_a_stream_without_bytes(driver: MemDriver) -> None:
    """`unless`: nothing comes, the headers of the answer are there, the result tells."""
    driver.site(URL, data=DATA, headers=(("ETag", '"v1"'),))
    reader = await read(driver, unless=Version('"v1"', None, len(DATA), strong=True))
    assert reader.got == b""
    assert reader.result is not None
    assert reader.result.not_modified
    assert reader.headers is not None
    assert reader.headers["ETag"] == '"v1"'


async def test_not_modified_releases_nothing_of_an_earlier_attempt(driver: MemDriver) -> None:
    """Bytes that were held back when a connection broke are no part of an answer that has none."""
    driver.site(URL, Reply(DATA, cut=40_000, tag=None), Reply(OTHER, tag='"v0"'))
    reader = await read(driver, unless=Version('"v0"', None, len(OTHER), strong=True))
    assert reader.got == b""
    assert reader.result is not None
    assert reader.result.not_modified


async def test_more_than_64_mib_are_not_read_again(driver: MemDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 4: read past and compared up to a limit (64 MiB); beyond that a proof is needed, or it is broken."""
    limit(monkeypatch, 100_000)
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, data=DATA)
    reader = await read(driver, Mirrors((A, B)))
    assert isinstance(reader.error, StreamBroken)
    assert "too many to read them again" in str(reader.error)
    assert 100_000 < len(reader.got) < CUT


async def test_beyond_the_limit_a_version_still_continues(driver: MemDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same source with the same strong version needs no comparing."""
    limit(monkeypatch, 100_000)
    driver.site(URL, Reply(DATA, cut=CUT), Reply(DATA))
    reader = await read(driver)
    assert (reader.got, reader.ended_cleanly) == (DATA, True)


async def test_beyond_the_limit_an_expected_digest_judges(driver: MemDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does another source where a strong digest will judge the whole: wrong bytes do not end cleanly."""
    limit(monkeypatch, 100_000)
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, data=DATA)
    reader = await read(driver, Mirrors((A, B)), validations=[RIGHT])
    assert (reader.got, reader.ended_cleanly) == (DATA, True)
    assert offsets(driver)[1] == ("b", CUT)
    driver.site(B, data=OTHER)
    reader = await read(driver, Mirrors((A, B)), validations=[RIGHT])
    assert isinstance(reader.error, StreamBroken)


async def test_up_to_the_limit_it_is_compared(driver: MemDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit itself the bytes are still compared, all of them."""
    driver.site(A, data=DATA, cut=160 * KIB)
    driver.site(B, data=DATA[:1000] + b"!" + DATA[1001:])
    driver.site(C, data=DATA)
    limit(monkeypatch, 96 * KIB)
    reader = await read(driver, Mirrors((A, B, C)))
    assert (reader.got, reader.ended_cleanly) == (DATA, True)


def limit(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let no more than *size* bytes be read again."""
    monkeypatch.setattr("downhaul._channel.COMPARED", size)


async def test_a_continuation_need_not_repeat_the_headers(driver: MemDriver) -> None:
    """What the first answer said of the file holds, where a part that continues it says less (RFC 9110, 15.3.7)."""
    fields = (("Content-Encoding", "gzip"), ("Cache-Control", "private"), ("X-Said", "first"))
    driver.site(URL, Reply(DATA, cut=30_000, headers=fields), Reply(DATA, headers=(("X-Said", "then"),)))
    reader = await read(driver, retries=1)
    assert offsets(driver) == [("h", 0), ("h", 30_000)]
    assert reader.headers is not None
    said = {"Content-Encoding": "gzip", "Cache-Control": "private", "X-Said": "then"}
    assert dict(reader.headers) == {**said, "Content-Length": str(len(DATA))}


async def test_an_answer_that_was_given_up_leaves_no_header(driver: MemDriver) -> None:
    """A 304 of the next source is told of by its own headers, not by those of an answer that broke before."""
    version = Version(tag='"of-b"', size=len(DATA), strong=True)
    driver.site(A, data=DATA, cut=30_000, tag='"of-a"', headers=(("X-Said", "a"),))
    driver.site(B, data=DATA, tag='"of-b"', headers=(("X-Said", "b"),))
    reader = await read(driver, Mirrors((A, B)), retries=0, unless=version)
    assert reader.headers is not None
    assert (reader.got, reader.headers.get("X-Said")) == (b"", "b")


async def test_a_mirror_with_tags_of_its_own_goes_on(driver: MemDriver) -> None:
    """Entity tags are each server's own: a different one of another source means nothing, of the same a change."""
    driver.site(A, data=DATA, cut=CUT, tag='"of-a"')
    driver.site(B, data=DATA, tag='"of-b"')
    reader = await read(driver, Mirrors((A, B)), retries=0)
    assert (reader.got, reader.ended_cleanly) == (DATA, True)
    driver.site(URL, Reply(DATA, cut=CUT, ranges=False), Reply(DATA, ranges=False, tag='"v2"'))
    reader = await read(driver, retries=1)
    assert isinstance(reader.error, StreamBroken)


async def test_a_contradiction_is_not_asked_about_again(driver: MemDriver) -> None:
    """Once a source has other bytes than the consumer got, and those were not valid, nobody is read once more."""
    driver.site(A, data=OTHER)
    driver.site(B, data=DATA)
    reader = await read(driver, Mirrors((A, B)), validations=[RIGHT], retries=3)
    assert isinstance(reader.error, StreamBroken)
    assert offsets(driver) == [("a", 0), ("b", 0)]


async def test_a_source_that_was_wrong_once_is_asked_again(driver: MemDriver) -> None:
    """Wrong bytes that nobody contradicts may pass: a tail that was wrong is right the next time."""
    driver.site(URL, Reply(DATA[:-1] + b"!"), Reply(DATA))
    reader = await read(driver, validations=[RIGHT], retries=1)
    assert (reader.got, reader.ended_cleanly) == (DATA, True)


async def test_a_contradiction_among_failures_that_pass(driver: MemDriver) -> None:
    """Where a source was only out of order, another round may find that it goes on with the very bytes."""
    driver.site(A, Reply(DATA, cut=CUT), Reply(status=503), Reply(DATA))
    driver.site(B, data=OTHER, tag='"v2"')
    reader = await read(driver, Mirrors((A, B)), retries=3)
    assert (reader.got, reader.ended_cleanly) == (DATA, True)


async def test_the_total_time_out_does_not_end_a_stream_cleanly(driver: MemDriver, ledger: Ledger) -> None:
    """A limit that runs out with bytes delivered is raised to the consumer."""
    driver.site(URL, data=DATA, cut=CUT, hang="body")
    reader = await read(driver, ledger, timeout=Timeout(total=0.05))
    assert isinstance(reader.error, TimeoutExceeded)
    assert reader.error.phase == "total"
    assert DATA.startswith(reader.got)
    assert reader.got
    assert ledger.outcomes == [reader.error]


async def test_the_total_time_out_covers_a_slow_consumer(driver: MemDriver, tmp_path: Path) -> None:
    """Even where all is there, valid and published: who has not got the tail in time gets the error, not an end."""
    driver.site(URL, data=DATA)
    path = tmp_path / "f"
    async with context_of(driver) as context:
        download = Download(URL, FileWriter(path), timeout=Timeout(total=0.05), context=context)
        async with download.stream(hold_back=len(DATA) - 2 * BLOCK) as stream:
            got = await anext(stream)
            assert isinstance(stream._source, Feed)
            await asyncio.wait([stream._source._task])
            pieces = [got]
            with pytest.raises(TimeoutExceeded):
                await _append(stream, pieces)
    assert DATA.startswith(b"".join(pieces))
    assert len(b"".join(pieces)) < len(DATA)


async def _append(stream: Stream, pieces: list[bytes]) -> None:
    async for block in stream:
        pieces.append(block)  # noqa: PERF401 - those before a failure too


# --- with a writer ----------------------------------------------------------------------------------------------


async def test_with_a_writer_it_tees(driver: MemDriver, tmp_path: Path, ledger: Ledger) -> None:
    """Rule 4: with a writer the bytes go to both, and are published when they are valid."""
    driver.site(A, Reply(DATA, cut=CUT))
    driver.site(B, data=DATA)
    path = tmp_path / "f"
    reader = await read(driver, ledger, Mirrors((A, B)), writer=FileWriter(path), validations=[RIGHT])
    assert reader.got == path.read_bytes() == DATA
    assert reader.result is not None
    assert reader.result.path == path
    assert ledger.outcomes == [reader.result]


async def test_a_tee_publishes_only_what_is_valid(driver: MemDriver, tmp_path: Path) -> None:
    """Rule 4: wrong bytes are neither published nor ended; nothing is left."""
    driver.site(URL, data=OTHER)
    reader = await read(driver, writer=FileWriter(tmp_path / "f"), validations=[RIGHT])
    assert isinstance(reader.error, StreamBroken)
    assert names(tmp_path) == []


async def test_a_tee_is_published_before_the_tail_is_released(driver: MemDriver, tmp_path: Path) -> None:
    """Whoever has seen the clean end finds the file; a consumer that stops before may find it too."""
    path = tmp_path / "f"
    driver.site(URL, data=DATA)
    async with context_of(driver) as context, Download(URL, FileWriter(path), context=context).stream() as stream:
        got = b""
        while len(got) < len(DATA):
            got += await anext(stream)
        assert path.read_bytes() == DATA


async def test_a_tee_that_cannot_be_written_does_not_end_cleanly(driver: MemDriver, ledger: Ledger) -> None:
    """A WriteError is terminal, in the midst of a stream too."""

    class Full(BufferWriter):
        def open(self, transfer: Transfer) -> Any:
            sink = super().open(transfer)
            write = sink.write

            def full(block: Any) -> None:
                if sink.position > CUT:
                    raise OSError(28, "No space left on device")
                write(block)

            sink.write = full  # type: ignore[method-assign]
            return sink

    driver.site(URL, data=DATA)
    reader = await read(driver, ledger, writer=Full())
    assert isinstance(reader.error, WriteError)
    assert reader.got
    assert ledger.errors == []


async def test_a_stream_that_is_left_early_publishes_nothing(driver: MemDriver, tmp_path: Path, ledger: Ledger) -> None:
    """Leaving frees everything, and is no success: `done` gets None."""
    driver.site(URL, data=DATA)
    async with context_of(driver, ledger) as context:
        async with Download(URL, FileWriter(tmp_path / "f"), context=context).stream() as stream:
            await anext(stream)
            assert driver.live == 1
        assert (driver.live, context.connections_in_use, ledger.outcomes) == (0, 0, [None])
        assert names(tmp_path) == []
        with pytest.raises(RuntimeError, match="not come to its end"):
            stream.result()


async def test_a_consumer_that_fails_frees_everything(driver: MemDriver, ledger: Ledger) -> None:
    """An exception in the consumer's own block comes out, and nothing runs on."""
    driver.site(URL, data=DATA)
    async with context_of(driver, ledger) as context:
        with pytest.raises(ZeroDivisionError):
            async with Download(URL, context=context).stream():
                raise ZeroDivisionError
        assert (driver.live, ledger.outcomes) == (0, [None])
        assert len(asyncio.all_tasks()) == 1


# --- back-pressure ----------------------------------------------------------------------------------------------


class Tap(Driver):
    """Serves endless zeros, and counts how many bytes were asked of it."""

    given = 0

    @contextlib.asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncGenerator[Payload]:
        async def body() -> AsyncGenerator[bytes]:
            while True:
                self.given += BLOCK
                yield bytes(BLOCK)

        yield Payload(Info(request.url, proof="final chunk"), body())


@pytest.mark.parametrize("hold_back", [1, 64 * KIB, 256 * KIB])
async def test_a_consumer_that_stops_stops_the_source(hold_back: int) -> None:
    """Back-pressure: beyond what is held back, the producer is never more than a few blocks ahead."""
    tap = Tap()
    async with context_of(tap) as context, Download(URL, context=context).stream(hold_back=hold_back) as stream:
        got = 0
        for _ in range(200):
            got += len(await anext(stream))
            for _ in range(50):
                await asyncio.sleep(0)
            assert tap.given - got <= hold_back + 4 * BLOCK


async def test_a_slow_consumer_gets_everything(driver: MemDriver) -> None:
    """However the two take turns, nothing is lost and nothing doubled."""
    driver.site(URL, data=DATA, block=777)
    async with context_of(driver) as context, Download(URL, context=context).stream(hold_back=1) as stream:
        got = b""
        async for block in stream:
            got += block
            for _ in range(len(got) % 5):
                await asyncio.sleep(0)
    assert got == DATA


async def test_a_consumer_that_stops_waiting_loses_nothing(driver: MemDriver) -> None:
    """A wait for the next block that is cancelled (a time-out of the consumer's) can be begun again."""
    driver.site(URL, data=DATA)
    async with context_of(driver) as context, Download(URL, context=context).stream() as stream:
        got, patience = b"", 0
        while True:
            task = asyncio.ensure_future(anext(stream, None))  # type: ignore[arg-type]
            for _ in range(patience % 7):
                await asyncio.sleep(0)
            patience += 1
            task.cancel()
            try:
                block = await task
            except asyncio.CancelledError:
                continue
            if block is None:
                break
            got += block
    assert got == DATA


async def test_nor_does_one_on_another_loop(driver: MemDriver) -> None:
    """So it is where the context's loop is another: a block that was on its way comes with the next wait."""
    driver.site(URL, data=DATA)
    context = context_of(driver)
    try:
        async with Download(URL, context=context).stream() as stream:
            assert stream._context is not None
            got, turn = b"", 0
            while True:
                turn += 1
                task = asyncio.ensure_future(anext(stream, None))  # type: ignore[arg-type]
                await asyncio.sleep(0)
                if turn % 2:
                    time.sleep(0.002)  # noqa: ASYNC251 - this loop must not notice what the other one delivers
                    task.cancel()
                try:
                    block = await task
                except asyncio.CancelledError:
                    continue
                if block is None:
                    break
                got += block
        assert got == DATA
    finally:
        await asyncio.to_thread(context.close)


async def test_leaving_does_not_swallow_a_cancellation(driver: MemDriver) -> None:
    """A consumer that is cancelled while it leaves is cancelled, when the clean-up is done."""
    leaving, go_on = asyncio.Event(), asyncio.Event()

    class Slow(MemDriver):
        @contextlib.asynccontextmanager
        async def open(self, request: Request, settings: Settings) -> AsyncGenerator[Payload]:
            async with super().open(request, settings) as payload:
                try:
                    yield payload
                finally:
                    leaving.set()
                    await go_on.wait()

    slow = Slow()
    slow.site(URL, data=DATA)
    async with context_of(slow) as context:

        async def consume() -> str:
            async with Download(URL, context=context).stream():
                pass
            return "went on"

        task = asyncio.create_task(consume())
        await leaving.wait()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert slow.live == 0


# --- synchronous ------------------------------------------------------------------------------------------------


def test_a_stream_in_synchronous_code(driver: MemDriver) -> None:
    """``with`` and ``for``, in a thread without a loop."""
    driver.site(URL, data=DATA, headers=(("X-Kind", "rpm"),))
    with context_of(driver) as context:
        with Download(URL, context=context, digests=["sha256"]).stream() as stream:
            assert stream.headers["x-kind"] == "rpm"
            assert b"".join(stream) == DATA
            assert stream.result().digests["sha256"] == RIGHT.hexdigest
        with Download(URL, context=context).stream() as stream:
            assert DATA.startswith(next(stream))
        assert driver.live == 0


def test_synchronous_streams_in_several_threads(driver: MemDriver) -> None:
    """One context serves the streams of many threads."""
    driver.site(URL, data=DATA)
    got: list[bytes] = []

    def consume(context: Context) -> None:
        with Download(URL, context=context).stream() as stream:
            got.append(b"".join(stream))

    with context_of(driver) as context:
        threads = [threading.Thread(target=consume, args=(context,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == [DATA] * 5


def test_a_broken_stream_in_synchronous_code(driver: MemDriver) -> None:
    """Errors come out of ``with`` and of ``for`` as they do elsewhere."""
    driver.site(URL, data=OTHER)
    with context_of(driver, retries=0) as context:
        with Download(URL, context=context, validations=[RIGHT]).stream() as stream:
            pieces = [next(stream)]
            with pytest.raises(StreamBroken):
                pieces.extend(stream)
        assert OTHER.startswith(b"".join(pieces))
        driver.site(URL, status=404)
        with pytest.raises(NotFound):
            Download(URL, context=context).stream().__enter__()


async def test_the_synchronous_way_is_refused_where_a_loop_runs(driver: MemDriver) -> None:
    """Waiting would stop the loop: RuntimeError that says what to write instead."""
    with context_of(driver) as context, pytest.raises(RuntimeError, match=r"async with download\.stream\(\)"):
        Download(URL, context=context).stream().__enter__()


async def test_a_stream_whose_context_is_closed_tells_so(driver: MemDriver) -> None:
    """Closing the context under a stream is no cancellation of its consumer."""
    driver.site(URL, data=DATA, hang="body", cut=CUT)
    context = context_of(driver)
    stream = Download(URL, context=context).stream()
    async with context:
        await stream.__aenter__()

        async def consume() -> None:
            async for _ in stream:
                pass

        task = asyncio.create_task(consume())
        for _ in range(100):
            await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="closed"):
        await task
    with pytest.raises(RuntimeError, match="closed"):
        await anext(stream)
    await stream.__aexit__(None, None, None)
    assert driver.live == 0


# --- headers ----------------------------------------------------------------------------------------------------


def test_only_end_to_end_fields_are_passed_on() -> None:
    """Hop-by-hop fields (RFC 9110, section 7.6.1), those that Connection names, and cookies are dropped."""
    headers = Headers([
        ("Content-Type", "text/plain"),
        ("connection", "close, X-Private"),
        ("Connection", "x-Other ,"),
        ("X-PRIVATE", "1"),
        ("x-other", "2"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
        ("Proxy-Connection", "close"),
        ("TE", "trailers"),
        ("Trailer", "Digest"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("Set-Cookie", "session=secret"),
        ("WWW-Authenticate", "Basic"),
        ("ETag", '"v"'),
        ("X-Checksum", "abc"),
    ])  # fmt: skip
    assert dict(end_to_end(headers)) == {"Content-Type": "text/plain", "ETag": '"v"', "X-Checksum": "abc"}


async def test_the_headers_of_a_stream_ignore_case(driver: MemDriver) -> None:
    """`Stream.headers` is a mapping whose names ignore case, several of one name joined."""
    driver.site(URL, data=DATA, headers=(("x-one", "1"), ("X-One", "2"), ("Set-Cookie", "a=b")))
    reader = await read(driver)
    assert reader.headers is not None
    assert reader.headers["X-ONE"] == "1, 2"
    assert "set-cookie" not in reader.headers
    assert reader.headers.get("Absent") is None


async def test_transformed_bytes_announce_nothing_false(driver: MemDriver) -> None:
    """A decoding plugin drops the length and the tag of what it decoded: the consumer is told neither."""

    class Doubles(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer: Transfer) -> Any:
            answer = yield
            return self._open(answer)

        @contextlib.asynccontextmanager
        async def _open(self, answer: AbstractAsyncContextManager[Payload]) -> AsyncGenerator[Payload]:
            async with answer as payload:

                async def body() -> AsyncGenerator[bytes]:
                    async for block in payload.body:
                        yield bytes(block) * 2

                yield payload.transformed(body())

    driver.site(URL, data=b"ab", headers=(("ETag", '"v"'), ("Content-Type", "text/plain")))
    reader = await read(driver, Doubles())
    assert reader.got == b"abab"
    assert reader.headers is not None
    assert dict(reader.headers) == {"Content-Type": "text/plain"}
