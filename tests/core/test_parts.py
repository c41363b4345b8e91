"""Streams of a part of a file, and of nothing but its head."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from tests.mem import Ledger, MemDriver, Mirrors, Reply, context_of

from downhaul import (
    BufferWriter,
    DigestMismatch,
    DigestValidation,
    Download,
    FileWriter,
    NotFound,
    Plugin,
    PolicyError,
    RangeRefused,
    Request,
    Result,
    SizeMismatch,
    SizeValidation,
    StreamBroken,
    Timeout,
    Transfer,
    Truncated,
    User,
    Version,
    hookimpl,
)

if TYPE_CHECKING:
    from pathlib import Path

    from downhaul import Stream

URL = "mem://host/file"
A, B = "mem://a/file", "mem://b/file"
DATA = bytes(index * 7 % 251 for index in range(400_000))
OTHER = bytes(reversed(DATA))
SHA256 = hashlib.sha256(DATA).hexdigest()
PART = range(100_000, 300_000)
WANTED = DATA[PART.start : PART.stop]
PARTS = [range(1), range(400_000), range(399_999, 400_000), PART, range(16_384, 32_768), range(5, 70_000)]


@pytest.fixture
def driver() -> MemDriver:
    """Give a driver without sites."""
    return MemDriver()


async def received(stream: Stream) -> bytes:
    """Enter *stream*, and return all of its bytes."""
    async with stream:
        return b"".join([block async for block in stream])


async def read(driver: MemDriver, download: Download, *plugins: object, **asked: Any) -> tuple[bytes, Result]:
    """Stream a part of *download*; nothing is left afterwards."""
    async with context_of(driver, *plugins) as context:
        download.context = context
        stream = download.stream(**asked)
        got = await received(stream)
        assert context.connections_in_use == 0
    assert driver.live == 0
    return got, stream.result()


def asked(driver: MemDriver) -> list[tuple[str, str, int, int | None]]:
    """Return host, verb, offset and length of each request."""
    return [
        (each.url[6:].partition("/")[0], each.request.verb, each.offset, each.request.length) for each in driver.log
    ]


# --- asked for as a range ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("ranges", [True, False])
async def test_a_part_is_these_bytes(driver: MemDriver, part: range, ranges: bool) -> None:
    """A part has the bytes that were asked for, at the first and last byte too; whoever ignores ranges is read past."""
    driver.site(URL, data=DATA, ranges=ranges)
    got, result = await read(driver, Download(URL), part=part)
    assert got == DATA[part.start : part.stop]
    assert asked(driver) == [("host", "get", part.start, len(part))]
    assert (result.size, result.part, result.digests) == (len(part), part, {})


async def test_nothing_behind_a_part_is_read(driver: MemDriver) -> None:
    """Of a source that ignores ranges, the file is read to the end of the part, and left there."""
    sent, real = [], driver._body

    async def counted(*arguments: Any) -> Any:
        async for block in real(*arguments):
            sent.append(len(block))
            yield block

    driver._body = counted  # type: ignore[method-assign]
    driver.site(URL, data=DATA, ranges=False, block=1000)
    got, _ = await read(driver, Download(URL), part=range(10_000, 20_000))
    assert got == DATA[10_000:20_000]
    assert sum(sent) == 20_000


async def test_a_part_says_what_proves_it(driver: MemDriver) -> None:
    """A part is proven by length and version; where the version is weak or unknown, by its length alone."""
    proofs = []
    for tag, weak in (('"v1"', False), ('W/"v1"', True), (None, False)):
        driver.site(URL, data=DATA, tag=tag, weak=weak)
        _, result = await read(driver, Download(URL), part=PART)
        proofs.append(result.proof)
    assert proofs == ["length and version", "length", "length"]


async def test_a_part_has_no_attributes_of_an_artifact(driver: MemDriver) -> None:
    """Size and digests of a part are not those of the file."""
    driver.site(URL, data=DATA)
    _, result = await read(driver, Download(URL, digests=["sha256"]), part=PART)
    with pytest.raises(ValueError, match="only a part"):
        result.artifact_attributes  # noqa: B018 - raises


async def test_the_stream_of_a_part_tells_of_the_whole(driver: MemDriver) -> None:
    """Headers, size and version are those of the whole file, whatever part comes."""
    driver.site(URL, data=DATA, headers=(("ETag", '"v1"'),))
    async with context_of(driver) as context:
        for part in (PART, range(10)):
            async with Download(URL, context=context).stream(part=part) as stream:
                assert dict(stream.headers) == {"ETag": '"v1"', "Content-Length": "400000"}
                assert (stream.size, stream.part) == (400_000, part)
                assert stream.version == Version(tag='"v1"', size=400_000, strong=True)


async def test_a_part_is_continued_where_it_broke(driver: MemDriver) -> None:
    """A part that is cut goes on behind what came, to its own end, by the same strong version."""
    driver.site(URL, Reply(DATA, cut=250_000), Reply(DATA))
    got, result = await read(driver, Download(URL), part=PART)
    assert got == WANTED
    assert [(each.offset, each.request.length) for each in driver.log] == [(100_000, 200_000), (250_000, 50_000)]
    assert driver.log[1].request.version == Version(tag='"v1"', size=400_000, strong=True)
    assert [type(each.error) for each in result.history] == [Truncated]


@pytest.mark.parametrize("same", [True, False])
async def test_another_source_goes_on_with_a_part_after_a_comparison(driver: MemDriver, same: bool) -> None:
    """What was delivered of a part is compared with what the next source has there: other bytes are never appended."""
    driver.site(A, data=DATA, cut=250_000, ranges=False)
    driver.site(B, data=DATA if same else OTHER)
    async with context_of(driver, Mirrors((A, B)), retries=0) as context:
        got = b""
        try:
            async with Download(URL, context=context).stream(part=PART) as stream:
                async for block in stream:
                    got += block
            ended = True
        except StreamBroken:
            ended = False
    assert WANTED.startswith(got)
    assert (ended, got == WANTED) == (same, same)
    assert asked(driver)[1] == ("b", "get", 100_000, 200_000)


async def test_an_answer_without_a_size_proves_no_part(driver: MemDriver) -> None:
    """Where nobody tells the size of the file, nothing would prove a part of it: RangeRefused."""
    driver.site(URL, data=DATA, size=False)
    with pytest.raises(RangeRefused, match="does not tell its size"):
        await read(driver, Download(URL, retries=0), part=PART)
    assert [each.request.length for each in driver.log] == [200_000, None]


async def test_a_file_that_is_shorter_than_its_part(driver: MemDriver) -> None:
    """A part that the file does not have is RangeRefused, not a shorter part."""
    driver.site(URL, data=DATA[:200_000])
    with pytest.raises(RangeRefused, match="has 200000 bytes; asked for those up to 300000"):
        await read(driver, Download(URL, retries=0), part=PART)


async def test_a_part_of_a_file_of_the_wrong_size(driver: MemDriver) -> None:
    """What a validation says of the size holds for parts as well: the mirror with another size is passed over."""
    driver.site(A, data=DATA[:-1])
    driver.site(B, data=DATA)
    validations = [SizeValidation(len(DATA))]
    got, result = await read(driver, Download(URL, validations=validations), Mirrors((A, B)), part=PART)
    assert got == WANTED
    assert [type(each.error) for each in result.history] == [SizeMismatch]


async def test_a_part_of_a_file_over_the_limit(driver: MemDriver) -> None:
    """`max_size` is for the file: a part of what is too large is refused."""
    driver.site(URL, data=DATA)
    with pytest.raises(PolicyError, match="max_size"):
        await read(driver, Download(URL, max_size=300_000), part=range(10))


async def test_no_hook_validates_a_part(driver: MemDriver) -> None:
    """`validate` is for whole files: of a part it is not asked."""

    class Never(Plugin):
        @hookimpl
        async def validate(self, transfer: Transfer) -> None:
            raise AssertionError

    driver.site(URL, data=DATA)
    got, _ = await read(driver, Download(URL, digests={"sha256": "0" * 64}), Never(), part=PART)
    assert got == WANTED


async def test_plugins_see_what_part_is_asked_for(driver: MemDriver) -> None:
    """`prepare` sees offset and length, and does not change them."""
    seen = []

    class Looks(Plugin):
        @hookimpl
        async def prepare(self, transfer: Transfer) -> None:
            request = transfer.request
            seen.append((request.verb, request.offset, request.length, transfer.urgent))
            transfer.request = Request(request.url, "stat", offset=7, length=7)

    driver.site(URL, data=DATA)
    got, _ = await read(driver, Download(URL), Looks(), part=PART)
    assert got == WANTED
    assert seen == [("get", 100_000, 200_000, True)]


@pytest.mark.parametrize("part", [range(0), range(5, 5), range(-5, 5), range(0, 10, 2), range(10, 0, -1)])
def test_what_is_no_part_is_refused(part: range) -> None:
    """A part is a range of one byte or more, none left out."""
    with pytest.raises(ValueError, match="part=…"):
        Download(URL).stream(part=part)


def test_what_cannot_be_meant_together_is_refused() -> None:
    """A part is not written and not shared, and only a part can be judged with the rest."""
    with pytest.raises(ValueError, match="not written"):
        Download(URL, BufferWriter()).stream(part=PART)
    with pytest.raises(ValueError, match="join"):
        Download(URL).stream(part=PART, join=1000)
    with pytest.raises(ValueError, match="join"):
        Download(URL).stream(join=-1)
    with pytest.raises(ValueError, match="judged"):
        Download(URL).stream(judged=True)


# --- judged with the whole --------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("block", [1000, 16_384, 1_000_000])
async def test_a_judged_part_is_these_bytes(driver: MemDriver, part: range, block: int) -> None:
    """All of the file is fetched once and judged, and the part released."""
    driver.site(URL, data=DATA, block=block)
    got, result = await read(driver, Download(URL, digests={"sha256": SHA256}), part=part, judged=True)
    assert got == DATA[part.start : part.stop]
    assert asked(driver) == [("host", "get", 0, None)]
    assert (result.size, result.digests, result.part) == (len(DATA), {"sha256": SHA256}, None)


async def test_a_small_part_of_a_wrong_file_is_repaired(driver: MemDriver) -> None:
    """No byte of a small part comes before the whole file is valid: the next mirror has it right."""
    driver.site(A, data=DATA[:-1] + b"!")
    driver.site(B, data=DATA)
    download = Download(URL, digests={"sha256": SHA256})
    got, result = await read(driver, download, Mirrors((A, B)), part=range(399_500, 400_000), judged=True)
    assert got == DATA[-500:]
    assert [type(each.error) for each in result.history] == [DigestMismatch]


async def test_a_large_part_of_a_wrong_file_breaks(driver: MemDriver) -> None:
    """The last bytes of a part wait for the verdict over the whole file."""
    driver.site(URL, data=DATA[:-1] + b"!")
    async with context_of(driver, retries=0) as context:
        stream = Download(URL, digests={"sha256": SHA256}, context=context).stream(part=PART, judged=True)
        got = b""
        async with stream:
            with pytest.raises(StreamBroken):
                async for block in stream:
                    got += block
    assert 0 < len(got) <= len(WANTED) - 64 * 1024


async def test_a_judged_part_is_written_as_a_whole(driver: MemDriver, tmp_path: Path) -> None:
    """With a writer, the whole file is kept though only a part was released."""
    driver.site(URL, data=DATA)
    download = Download(URL, FileWriter(tmp_path / "file"), digests={"sha256": SHA256})
    got, result = await read(driver, download, part=PART, judged=True)
    assert got == WANTED
    assert (tmp_path / "file").read_bytes() == DATA
    assert result.path == tmp_path / "file"


async def test_a_judged_part_that_the_file_does_not_have(driver: MemDriver) -> None:
    """A file that ends before the part does is no clean end."""
    driver.site(URL, data=DATA[:200_000])
    async with context_of(driver, retries=0) as context:
        with pytest.raises(StreamBroken, match="ends before byte 300000"):
            await received(Download(URL, context=context).stream(part=PART, judged=True, hold_back=1))


# --- nothing but the head ---------------------------------------------------------------------------------------


async def test_a_stat_tells_and_brings_no_byte(driver: MemDriver) -> None:
    """Headers, size and version come, no byte is asked for, and nothing is written."""
    driver.site(URL, data=DATA, headers=(("ETag", '"v1"'), ("Set-Cookie", "a=b")))
    async with context_of(driver) as context:
        writer = BufferWriter()
        async with Download(URL, writer, digests={"sha256": SHA256}, context=context).stat() as stream:
            assert dict(stream.headers) == {"Content-Length": "400000", "ETag": '"v1"'}
            assert (stream.size, stream.version) == (400_000, Version(tag='"v1"', size=400_000, strong=True))
            assert [block async for block in stream] == []
    assert asked(driver) == [("host", "stat", 0, None)]
    result = stream.result()
    assert (result.size, result.part, result.digests, result.path) == (0, range(0), {}, None)
    with pytest.raises(ValueError, match="only a part"):
        result.artifact_attributes  # noqa: B018 - raises
    with pytest.raises(ValueError, match="nothing was downloaded"):
        writer.content()


def test_a_stat_in_synchronous_code(driver: MemDriver) -> None:
    """`with download.stat()` does the same in a thread."""
    driver.site(URL, data=DATA)
    with context_of(driver) as context, Download(URL, context=context).stat() as stream:
        assert stream.size == 400_000


async def test_a_stat_asks_the_mirrors(driver: MemDriver) -> None:
    """A mirror that fails, or whose size is wrong, is passed over; when all fail it is an error like any other."""
    driver.site(A, status=503)
    driver.site(B, data=DATA)
    ledger = Ledger()
    async with context_of(driver, Mirrors((A, B)), ledger, retries=0) as context:
        async with Download(URL, context=context).stat() as stream:
            assert stream.size == 400_000
        driver.site(A, status=404)
        driver.site(B, status=404)
        with pytest.raises(NotFound):
            async with Download(URL, context=context).stat():
                raise AssertionError
    assert [type(each).__name__ for each in ledger.errors][:1] == ["ServerError"]


async def test_a_stat_of_a_wrong_size(driver: MemDriver) -> None:
    """What a validation says of the size holds for a stat as well."""
    driver.site(URL, data=DATA[:-1])
    async with context_of(driver, retries=0) as context:
        with pytest.raises(SizeMismatch):
            async with Download(URL, validations=[SizeValidation(len(DATA))], context=context).stat():
                raise AssertionError


async def test_a_stream_of_a_wrong_size_is_not_begun(driver: MemDriver) -> None:
    """A mirror that announces another size than is expected is passed over before the consumer has a byte."""
    driver.site(A, data=DATA + b"more")
    driver.site(B, data=DATA)
    async with context_of(driver, Mirrors((A, B)), retries=0) as context:
        stream = Download(URL, validations=[SizeValidation(len(DATA))], context=context).stream()
        assert await received(stream) == DATA
    assert [type(each.error) for each in stream.result().history] == [SizeMismatch]


async def test_a_stat_has_time_limits(driver: MemDriver) -> None:
    """The total time limit holds, and nothing is left."""
    driver.site(URL, data=DATA, hang="open")
    async with context_of(driver) as context:
        with pytest.raises(Exception, match="in total"):
            async with Download(URL, timeout=Timeout(total=0.02), context=context).stat():
                raise AssertionError
        assert context.connections_in_use == 0


# --- what is passed on ------------------------------------------------------------------------------------------


async def test_no_credentials_among_the_headers(driver: MemDriver) -> None:
    """A server that repeats what it was sent does not make us pass it on; what describes the file stays."""
    echo = (("X-Echo", "Basic ZWxtZXI6c2VjcmV0LXdvcmQ="), ("X-User", "elmer"), ("ETag", '"elmer"'), ("X-Plain", "a"))
    driver.site(URL, data=DATA, headers=echo)
    async with context_of(driver) as context:
        download = Download(URL, user=User("elmer", "secret-word"), headers={"X-Key": "the-key"}, context=context)
        async with download.stat() as stream:
            told = dict(stream.headers)
    assert "X-User" not in told
    assert told == {"Content-Length": "400000", "ETag": '"elmer"', "X-Plain": "a"}
    driver.site(URL, data=DATA, headers=(("X-Echo", "it was the-key"),))
    async with context_of(driver) as context, Download(URL, headers={"X-Key": "the-key"}, context=context).stat() as s:
        assert dict(s.headers) == {"Content-Length": "400000"}


async def test_what_speaks_of_the_origin_stays(driver: MemDriver) -> None:
    """Fields that would be taken for the word of whoever passes them on are left out."""
    ours = ("Strict-Transport-Security", "Alt-Svc", "Clear-Site-Data", "Set-Cookie", "WWW-Authenticate", "NEL")
    driver.site(URL, data=DATA, headers=tuple((name, "x") for name in (*ours, "Cache-Control")))
    async with context_of(driver) as context, Download(URL, context=context).stat() as stream:
        assert set(stream.headers) == {"Content-Length", "Cache-Control"}


def test_the_headers_of_a_stream_that_was_not_entered() -> None:
    """Before it is entered a stream knows nothing, and says so."""
    stream = Download(URL).stream()
    assert (dict(stream.headers), stream.size, stream.version) == ({}, None, None)
    with pytest.raises(RuntimeError, match="not come to its end"):
        stream.result()


async def test_no_part_where_a_plugin_requires_a_digest(driver: MemDriver) -> None:
    """A digest that a plugin requires cannot judge a part alone: that is said; judged with the whole, it is."""

    class Sums(Plugin):
        @hookimpl
        async def prepare(self, transfer: Transfer) -> None:
            transfer.require(SizeValidation(len(DATA)))
            transfer.require(DigestValidation("sha256", SHA256))

    driver.site(URL, data=DATA[:-1] + b"!")
    with pytest.raises(RangeRefused, match="judged=True"):
        await read(driver, Download(URL, retries=0), Sums(), part=range(10))
    with pytest.raises(DigestMismatch):
        await read(driver, Download(URL, retries=0), Sums(), part=range(10), judged=True)


async def test_nothing_for_a_web_server_in_front(driver: MemDriver) -> None:
    """Fields that would make a server in front of us send another file, or tell where the origin is, stay."""
    fields = ("X-Accel-Redirect", "X-Sendfile", "X-Reproxy-URL", "Surrogate-Control", "Refresh", "Content-Location")
    driver.site(URL, data=DATA, headers=tuple((name, "/secret") for name in (*fields, "X-Other")))
    async with context_of(driver) as context, Download(URL, context=context).stat() as stream:
        assert set(stream.headers) == {"Content-Length", "X-Other"}


async def test_no_credentials_as_they_are_sent(driver: MemDriver) -> None:
    """A server that repeats what it was sent repeats it encoded (RFC 7617): that is not passed on either."""
    driver.site(URL, data=DATA, headers=(("X-Echo", "Basic ZWxtZXI6c2VjcmV0LXdvcmQ="),))
    download = Download(URL, user=User("elmer", "secret-word"))
    async with context_of(driver) as download.context, download.stat() as stream:
        assert set(stream.headers) == {"Content-Length"}
