"""Plugins that a third party could have written: exported names only, at most 60 lines, alone and together."""

from __future__ import annotations

import ast
import asyncio
import gzip
import hashlib
from itertools import permutations
from pathlib import Path

import pytest
from tests.mem import MemDriver, Mirrors, Reply, context_of, until
from tests.plugins.examples.cache import Cache
from tests.plugins.examples.gunzip import Gunzip
from tests.plugins.examples.segments import Segments
from tests.plugins.examples.throttle import Throttle

import downhaul
from downhaul import (
    BufferWriter,
    DigestMismatch,
    Download,
    DownloadError,
    FileWriter,
    NotFound,
    ProtocolError,
    StreamBroken,
    Truncated,
)

EXAMPLES = sorted((Path(__file__).parent / "examples").glob("*.py"))
URL = "mem://home/file"
BYTES = bytes(range(256)) * 4000
DIGEST = {"sha256": hashlib.sha256(BYTES).hexdigest()}
PACKED = gzip.compress(BYTES, mtime=0)
GZIP = (("Content-Encoding", "gzip"),)
SEGMENT = 100_000


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_sixty_lines_are_enough(path):
    """Each example has at most 60 lines."""
    assert len(path.read_text().splitlines()) <= 60


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_exported_names_are_enough(path):
    """Each example imports exported names only, and touches nothing private."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("downhaul") for alias in node.names)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("downhaul"):
            assert node.module == "downhaul"
            assert {alias.name for alias in node.names} <= set(downhaul.__all__)
        assert not (isinstance(node, ast.Attribute) and node.attr.startswith("_"))


@pytest.fixture
def no_sleep(monkeypatch):
    """Nobody really waits; the seconds asked for are kept."""
    real, seconds = asyncio.sleep, []

    async def sleep(delay, *arguments):
        seconds.append(delay)
        await real(0, *arguments)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return seconds


def server(*replies: Reply) -> MemDriver:
    """Return a driver that has the file, or gives *replies*."""
    mem = MemDriver()
    mem.site(URL, *(replies or (Reply(BYTES),)))
    return mem


async def fetch(context, **options) -> bytes:
    """Download the file."""
    writer = BufferWriter()
    await Download(URL, writer, context=context, **options).run()
    return writer.content()


async def read(context, **options) -> bytes:
    """Read the file's stream to its end."""
    async with Download(URL, context=context, **options).stream() as stream:
        return b"".join([bytes(block) async for block in stream])


# The cache


@pytest.mark.parametrize("ask", [fetch, read])
async def test_the_cache_asks_once(ask):
    """What was done well is kept, and served to downloads and streams alike."""
    mem = server()
    async with context_of(mem, Cache()) as context:
        assert [await ask(context) for _ in range(3)] == [BYTES] * 3
        assert await read(context) == await fetch(context) == BYTES
    assert len(mem.log) == 1


async def test_the_cache_keeps_nothing_that_was_refused():
    """“Statistics, caches”: `done` with a Result, and nothing else, lets bytes in."""
    mem = server(Reply(b"bad"), Reply(BYTES))
    async with context_of(mem, Cache(), retries=0) as context:
        with pytest.raises(DigestMismatch):
            await fetch(context, digests=DIGEST)
        assert await fetch(context, digests=DIGEST) == BYTES
        assert await fetch(context, digests=DIGEST) == BYTES
    assert len(mem.log) == 2


async def test_the_cache_keeps_nothing_of_an_abandoned_stream():
    """A stream that is left early was not done well."""
    mem = server()
    async with context_of(mem, Cache()) as context:
        async with Download(URL, context=context).stream() as stream:
            await anext(stream)
        assert await read(context) == BYTES
    assert len(mem.log) == 2


async def test_the_cache_keeps_what_came_in_pieces():
    """A resumed download is kept whole."""
    mem = server(Reply(BYTES, cut=300_000), Reply(BYTES, cut=700_000), Reply(BYTES))
    async with context_of(mem, Cache()) as context:
        assert await fetch(context) == await fetch(context) == BYTES
    assert [each.offset for each in mem.log] == [0, 300_000, 700_000]


async def test_the_cache_forgets_what_was_begun_anew():
    """A source without ranges starts from 0 again; the copy does too."""
    mem = server(Reply(b"x" * 1000, cut=500, tag='"old"'), Reply(BYTES, ranges=False))
    async with context_of(mem, Cache()) as context:
        assert await fetch(context) == await fetch(context) == BYTES


async def test_the_cache_is_of_one_context_and_keeps_no_secrets():
    """What needed credentials is not for everybody, and contexts share nothing."""
    mem = server()
    for _ in range(2):
        async with context_of(mem, Cache()) as context:
            await fetch(context, headers={"X-Api-Key": "secret"})
            await fetch(context)
    assert len(mem.log) == 4


# The throttle


async def test_the_throttle_spreads_the_bytes_over_time(no_sleep):
    """All downloads of a context together: two of them take twice as long."""
    async with context_of(server(), Throttle(100_000)) as context:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await asyncio.gather(fetch(context), fetch(context))
        passed = loop.time() - before
    # The last block is due when all bytes together are.
    assert max(no_sleep) == pytest.approx(2 * len(BYTES) / 100_000, abs=passed + 0.5)


async def test_the_throttle_changes_nothing(no_sleep):
    """A wrapper whose bytes are the same leaves resume and streams as they are."""
    mem = server(Reply(BYTES, cut=300_000), Reply(BYTES))
    async with context_of(mem, Throttle(1e9)) as context:
        assert await fetch(context, digests=DIGEST) == BYTES
        assert await read(context, digests=DIGEST) == BYTES
    assert [each.offset for each in mem.log] == [0, 300_000, 0]


# The decompressor


@pytest.mark.parametrize("ask", [fetch, read])
@pytest.mark.parametrize("block", [1, 7, 1000, 1 << 20])
async def test_the_decompressor_delivers_what_is_in_it(ask, block):
    """Digests are "of the bytes stored": the unpacked ones."""
    packed, inside = gzip.compress(BYTES[:3000]) + gzip.compress(BYTES[3000:5000]), BYTES[:5000]
    mem = server(Reply(packed, headers=GZIP, block=block))
    async with context_of(mem, Gunzip()) as context:
        assert await ask(context, digests={"sha256": hashlib.sha256(inside).hexdigest()}) == inside
    assert mem.log[0].header("Accept-Encoding") == "gzip"


async def test_a_decoding_plugin_says_so_in_the_result():
    """“A decoding plugin says so in the result”: size and headers are those of what is stored."""
    mem = server(Reply(PACKED, headers=(*GZIP, ("ETag", '"v1"'), ("Content-Type", "text/plain"))))
    async with context_of(mem, Gunzip()) as context:
        result = await Download(URL, BufferWriter(), context=context).run()
        assert result.size == len(BYTES)
        assert result.proof == "transformed"
        assert result.version is None
        assert dict(result.headers) == {"Content-Type": "text/plain"}
        async with Download(URL, context=context).stream() as stream:
            assert dict(stream.headers) == {"Content-Type": "text/plain"}


async def test_decoded_bytes_are_never_kept_for_a_resume():
    """“Such bytes are never kept for a resume”: the next attempt starts from 0."""
    mem = server(Reply(PACKED, headers=GZIP, cut=1000, block=100), Reply(PACKED, headers=GZIP))
    async with context_of(mem, Gunzip()) as context:
        assert await fetch(context, digests=DIGEST) == BYTES
    assert [each.offset for each in mem.log] == [0, 0]


async def test_a_stream_of_decoded_bytes_survives_a_cut():
    """What was delivered is compared when the bytes come again."""
    mem = server(Reply(PACKED, headers=GZIP, cut=len(PACKED) - 20, block=100), Reply(PACKED, headers=GZIP))
    async with context_of(mem, Gunzip()) as context:
        assert await read(context, digests=DIGEST) == BYTES


@pytest.mark.parametrize(
    ("content", "error"),
    [(PACKED[:-8], Truncated), (b"no gzip", ProtocolError), (b"", Truncated), (PACKED[:10], Truncated)],
)
async def test_a_broken_gzip_stream_is_no_success(content, error):
    """“Whoever transforms must see to it that they are complete”."""
    mem = server(Reply(content, headers=GZIP))
    async with context_of(mem, Gunzip(), retries=0) as context:
        with pytest.raises(error):
            await fetch(context)


async def test_bytes_that_were_not_packed_continue_with_packed_ones_from_zero():
    """A mirror that packs cannot continue one that does not: RangeRefused, and from 0 in the same attempt."""
    m1, m2 = "mem://m1/file", "mem://m2/file"
    mem = MemDriver()
    mem.site(m1, Reply(BYTES, cut=300))
    mem.site(m2, Reply(PACKED, headers=GZIP))
    async with context_of(mem, Gunzip(), Mirrors((m1, m2))) as context:
        assert await fetch(context, digests=DIGEST) == BYTES
    assert [(each.url, each.offset) for each in mem.log] == [(m1, 0), (m2, 300), (m2, 0)]


# Segments


@pytest.mark.parametrize("ask", [fetch, read])
@pytest.mark.parametrize("connections", [1, 2, 10])
@pytest.mark.parametrize("size", [999, SEGMENT, len(BYTES), 10 * len(BYTES)])
async def test_segments_arrive_in_order(ask, connections, size):
    """“Parallel ranges must each be able to drain without the others”: with one connection too."""
    data = BYTES[:50_000] if size == 999 else BYTES
    mem = server(Reply(data))
    async with context_of(mem, Segments(size), connections=connections) as context:
        assert await asyncio.wait_for(ask(context), 10) == data
        assert context.connections_in_use == 0
    assert mem.log[0].request.verb == "stat"
    ranges = [(each.offset, each.request.length) for each in mem.log[1:]]
    assert ranges == [(start, min(size, len(data) - start)) for start in range(0, len(data), size)]
    assert mem.peak == min(connections, 4, len(ranges))


async def test_segments_of_many_downloads_share_one_connection():
    """Several segmented downloads at once do not wait for each other in a circle."""
    mem = server()
    async with context_of(mem, Segments(SEGMENT), connections=1) as context:
        assert await asyncio.wait_for(asyncio.gather(*(fetch(context) for _ in range(5))), 20) == [BYTES] * 5
    assert mem.peak == 1


@pytest.mark.parametrize("connections", [1, 10])
async def test_segments_resume(connections):
    """What arrived before a segment failed is kept, and the next attempt starts behind it."""
    mem = server(Reply(BYTES), Reply(BYTES), Reply(BYTES), Reply(status=503), Reply(BYTES))
    async with context_of(mem, Segments(SEGMENT, parallel=1), connections=connections) as context:
        assert await asyncio.wait_for(fetch(context, digests=DIGEST), 10) == BYTES
    gets = [each.offset for each in mem.log if each.request.verb == "get"]
    assert gets == [*range(0, 3 * SEGMENT, SEGMENT), *range(2 * SEGMENT, len(BYTES), SEGMENT)]


async def test_segments_of_a_file_that_changes_are_not_joined():
    """Each range is guarded by the version of the whole."""
    other = bytes(len(BYTES))
    mem = server(Reply(BYTES), Reply(BYTES), Reply(other, tag='"v2"'), Reply(other, tag='"v2"'))
    async with context_of(mem, Segments(SEGMENT)) as context:
        assert await fetch(context) == other


async def test_segments_leave_the_rest_to_others():
    """A server without ranges, or of a file that does not exist, is asked as ever."""
    async with context_of(server(Reply(BYTES, ranges=False)), Segments(SEGMENT)) as context:
        assert await fetch(context) == BYTES
    async with context_of(MemDriver(), Segments(SEGMENT)) as context:
        with pytest.raises(NotFound):
            await fetch(context)


async def test_cancelled_segments_leave_nothing():
    """No task, no slot, no file."""
    mem = server(Reply(BYTES), Reply(BYTES), Reply(hang="open"))
    async with context_of(mem, Segments(SEGMENT), connections=3) as context:
        task = asyncio.create_task(fetch(context))
        await until(lambda: mem.live >= 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mem.live == context.connections_in_use == 0
        assert len(asyncio.all_tasks()) == 1


async def test_an_abandoned_segmented_stream_leaves_nothing():
    """Nor does a consumer that goes away."""
    mem = server()
    async with context_of(mem, Segments(SEGMENT), connections=2) as context:
        async with Download(URL, context=context).stream() as stream:
            await anext(stream)
        assert mem.live == context.connections_in_use == 0
        assert len(asyncio.all_tasks()) == 1


# Together

ALL = (Cache(), Throttle(1e12), Gunzip(), Segments(SEGMENT))
ORDERS = list(permutations(ALL))


def ids(plugins) -> str:
    """Name the plugins of a test."""
    return " ".join(type(plugin).__name__ for plugin in plugins)


@pytest.mark.parametrize("plugins", ORDERS, ids=ids)
@pytest.mark.parametrize("connections", [1, 10])
async def test_all_together_in_any_order(plugins, connections, tmp_path):
    """Cache, throttle, decompressor and segments compose, in whatever order they are given, with one connection too."""
    inside = b"".join(hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(12_000))
    good = Reply(gzip.compress(inside, mtime=0), headers=GZIP)
    mem = server(good, good, Reply(status=503), good)
    digest = {"sha256": hashlib.sha256(inside).hexdigest()}
    async with context_of(mem, *plugins, connections=connections) as context:
        writer = FileWriter(tmp_path / "file")
        result = await asyncio.wait_for(Download(URL, writer, context=context, digests=digest).run(), 20)
        assert (tmp_path / "file").read_bytes() == inside
        assert (result.proof, result.size, result.attempts) == ("transformed", len(inside), 2)
        asked = len(mem.log)
        assert await read(context, digests=digest) == inside
        assert await fetch(context, digests=digest) == inside
        assert len(mem.log) == asked  # from the cache, unpacked again
        assert mem.live == context.connections_in_use == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file"]


async def test_all_together_with_mirrors_and_a_bad_one():
    """A wrong file in the first mirror is neither published nor cached."""
    m1, m2 = "mem://m1/file", "mem://m2/file"
    mem = MemDriver()
    mem.site(m1, Reply(gzip.compress(b"wrong"), headers=GZIP))
    mem.site(m2, Reply(PACKED, headers=GZIP))
    async with context_of(mem, *ALL, Mirrors((m1, m2))) as context:
        assert await fetch(context, digests=DIGEST) == BYTES
        assert m1 in mem.urls
        asked = mem.urls.count(m2)
        assert await fetch(context, digests=DIGEST) == BYTES
        assert mem.urls.count(m2) == asked


async def test_a_stream_that_breaks_with_all_of_them_breaks():
    """No combination makes a clean end of a bad one."""
    mem = server(Reply(BYTES), Reply(BYTES), Reply(BYTES), Reply(status=404))
    async with context_of(mem, *ALL) as context:
        with pytest.raises(StreamBroken):
            await read(context)
        with pytest.raises(DownloadError):
            await read(context)
