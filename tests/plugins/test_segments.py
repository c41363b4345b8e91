"""Segments: which source is asked for what, what is put together, what becomes of failures, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import threading
from collections import Counter
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tests.mem import Ledger, MemDriver, Mirrors, Reply, context_of, until
from tests.servers.nginx import nginx

import downhaul
from downhaul import (
    BufferWriter,
    Context,
    DigestMismatch,
    DigestValidation,
    Download,
    DownloadError,
    Info,
    LowSpeed,
    NotFound,
    Payload,
    PieceValidation,
    Plugin,
    PluginError,
    PolicyError,
    RangeRefused,
    Result,
    ServerError,
    SizeMismatch,
    SizeValidation,
    SourcesExhausted,
    TimeoutExceeded,
    Truncated,
    Version,
    hookimpl,
)
from downhaul.plugins._segmenting.segments import Segments

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from downhaul import Request, Settings

HOME, M1, M2, M3 = (f"mem://{host}/file" for host in ("home", "m1", "m2", "m3"))
SIZE = 10_000
BYTES = bytes(index * 7 % 251 for index in range(95_000))
OTHER = bytes(255 - byte for byte in BYTES)
BLOCK = 1000


def digest(data: bytes = BYTES) -> dict[str, str]:
    """Return what *data* is judged by."""
    return {"sha256": hashlib.sha256(data).hexdigest()}


def pieces(data: bytes = BYTES, length: int = 4000, algorithm: str = "sha256", **options) -> PieceValidation:
    """Return what the pieces of *data* are judged by."""
    parts = [data[place : place + length] for place in range(0, len(data), length)]
    return PieceValidation(algorithm, length, [hashlib.new(algorithm, part).hexdigest() for part in parts], **options)


def good(**fields) -> Reply:
    """Return an answer with the right bytes."""
    return Reply(**{"data": BYTES, "block": BLOCK, **fields})


def server(*at_home: Reply, **elsewhere: Reply | tuple[Reply, ...]) -> MemDriver:
    """Return a driver that has the file at home, and at other hosts."""
    mem = MemDriver()
    mem.site(HOME, *(at_home or (good(),)))
    for host, replies in elsewhere.items():
        mem.site(f"mem://{host}/file", *(replies if isinstance(replies, tuple) else (replies,)))
    return mem


@dataclass(frozen=True)
class Offers(Plugin):
    """Says where else the file can be had, as a mirror plugin does."""

    urls: tuple[str, ...] = (M1, M2)

    @hookimpl
    async def prepare(self, transfer):
        transfer.offer(self.urls)


class PlainFirst(Plugin):
    """Answers the first attempt, plainly."""

    @hookimpl(tryfirst=True)
    def fetch(self, transfer):
        return transfer.context.drive(transfer) if transfer.attempt == 1 else None


class Meter(Plugin):
    """Sees the answers, and how many bytes were taken from the last one: up to where the consumer is."""

    def __init__(self) -> None:
        self.infos: list[Info] = []
        self.position = 0
        self.gate = asyncio.Event()
        self.gate.set()

    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        return self.around((yield))

    @asynccontextmanager
    async def around(self, answer):
        async with answer as payload:
            self.infos.append(payload.info)
            self.position = payload.info.start
            yield replace(payload, body=self.body(payload.body))

    async def body(self, blocks):
        async for block in blocks:
            self.position += len(block)
            await asyncio.sleep(0)
            await self.gate.wait()
            yield block


async def run(context: Context, url: str = HOME, **options) -> tuple[Result, bytes | None]:
    """Download, and return the result and the bytes."""
    writer = BufferWriter()
    result = await asyncio.wait_for(Download(url, writer, context=context, **options).run(), 30)
    assert context.connections_in_use == 0
    return result, None if result.not_modified else writer.content()


async def read(context: Context, **options) -> bytes:
    """Read the file's stream to its end."""
    async with Download(HOME, context=context, **options).stream() as stream:
        return b"".join([bytes(block) async for block in stream])


def ranges(mem: MemDriver, url: str | None = None) -> list[tuple[int, int | None]]:
    """Return offset and length of each request, to *url* or to all."""
    return [(each.offset, each.request.length) for each in mem.log if url in {None, each.url}]


def told(result: Result | DownloadError) -> list[tuple[str, type]]:
    """Return source and kind of each failure."""
    return [(each.source, type(each.error)) for each in result.history]


def plain(mem: MemDriver) -> list[str]:
    """Return the URLs that were asked for the whole."""
    return [each.url for each in mem.log if (each.offset, each.request.length) == (0, None)]


# What is asked for


@pytest.mark.parametrize("size", [1, SIZE - 1, SIZE, SIZE + 1, 4 * SIZE, len(BYTES)])
@pytest.mark.parametrize("ask", [lambda *given, **more: run(*given, **more), read], ids=["run", "stream"])
async def test_segments_are_all_that_is_asked_for(ask, size):
    """“No HEAD”: ranges one behind the other, and one request for a file that ends within the first."""
    mem = server(good(data=BYTES[:size]))
    async with context_of(mem, Segments(4, SIZE)) as context:
        answer = await ask(context)
    assert (answer if isinstance(answer, bytes) else answer[1]) == BYTES[:size]
    expected = [(start, min(SIZE, size - start)) for start in range(0, size, SIZE)]
    expected[0] = (0, SIZE)
    assert sorted(ranges(mem)) == expected
    assert {each.request.verb for each in mem.log} == {"get"}
    assert mem.peak == min(4, len(expected))


async def test_an_empty_file():
    """A range from 0 of an empty file is refused (416): it is asked for plainly, by whatever source said so."""
    mem = server(Reply(status=416), Reply(b""), m1=good(), m2=good())
    async with context_of(mem, Segments(4, SIZE), Offers()) as context:
        result, content = await run(context, digests=digest(b""))
    assert content == b""
    assert [each.url for each in mem.log] == [HOME, HOME]
    assert result.history == ()


async def test_what_is_not_for_segments():
    """A stat, a part, a condition, and what is needed first are left to others."""

    class Needs(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            await transfer.nested(self, M1, BufferWriter()).run()

    mem = server(m1=good())
    async with context_of(mem, Segments(4, SIZE)) as context:
        async with Download(HOME, context=context).stat() as stream:
            version = stream.version
        async with Download(HOME, context=context).stream(part=range(5, 50_000)) as stream:
            assert b"".join([block async for block in stream]) == BYTES[5:50_000]
        result, _ = await run(context, unless=version)
        assert result.not_modified
        await run(context, M1, unless=replace(version, tag='"older"'))
        assert ranges(mem) == [(0, None), (5, 49_995), (0, None), (0, None)]
        mem.log.clear()
        await run(context, plugins=[Needs()])
    assert ranges(mem, M1) == [(0, None)]
    assert len(ranges(mem, HOME)) == 10


async def test_what_is_posted_is_not_asked_for_in_segments():
    """A form is posted once, whole."""

    class Posts(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            transfer.authorize(HOME, form=[("grant", "secret")])

    mem = server()
    async with context_of(mem, Segments(4, SIZE), Posts()) as context:
        await run(context)
    assert ranges(mem) == [(0, None)]


@pytest.mark.parametrize("fields", [{"parallel": 0}, {"size": 0}, {"size": 1.5}, {"parallel": True}])
def test_numbers_that_cannot_be_meant(fields):
    """They are refused when the plugin is made."""
    with pytest.raises(ValueError, match="is a whole number, from 1"):
        Segments(**fields)


def test_segments_are_a_value():
    """Equal where the configuration is equal."""
    assert Segments() == Segments(4, 4 * 1024 * 1024)
    assert hash(Segments(2)) != hash(Segments(3))


# Which sources


async def test_all_sources_contribute_where_a_digest_judges():
    """The first one first, then whoever has the fewest in flight; the result says so."""
    mem, meter = server(good(tag='"0"'), m1=good(tag='"1"'), m2=good(tag=None)), Meter()
    async with context_of(mem, Segments(4, SIZE), Offers(), meter) as context:
        result, content = await run(context, digests=digest())
    assert content == BYTES
    assert [each.url for each in mem.log[:4]] == [HOME, M1, M2, HOME]
    assert set(mem.urls) == {HOME, M1, M2}
    assert all(each.request.version is None for each in mem.log)
    (info,) = meter.infos
    assert info.sources == (HOME, M1, M2)
    assert (info.version, info.start, info.size, info.resumable, info.proof) == (None, 0, len(BYTES), True, "length")
    assert result.version is None
    assert result.source == HOME
    assert told(result) == []


@pytest.mark.parametrize(
    "validations",
    [
        (),
        [DigestValidation("md5", hashlib.md5(BYTES).hexdigest())],
        [SizeValidation(len(BYTES))],
        [pieces(algorithm="md5")],
        [pieces(enforced=False)],
    ],
)
async def test_one_source_where_nothing_strong_judges(validations):
    """Then all segments are of one version of one source, and each is guarded by it."""
    mem, meter = server(m1=good(), m2=good()), Meter()
    async with context_of(mem, Segments(4, SIZE), Offers(), meter) as context:
        result, content = await run(context, validations=validations)
    assert content == BYTES
    assert set(mem.urls) == {HOME}
    assert [each.request.version is None for each in mem.log] == [True] + [False] * (len(mem.log) - 1)
    assert meter.infos[0].sources == (HOME,)
    assert result.version is not None
    assert result.version.tag == '"v1"'


async def test_digests_of_pieces_are_enough():
    """Where each piece has a strong digest, sources are mixed without one of the whole."""
    mem = server(m1=good(tag=None), m2=good())
    async with context_of(mem, Segments(4, SIZE), Offers()) as context:
        assert (await run(context, validations=[pieces()]))[1] == BYTES
    assert set(mem.urls) == {HOME, M1, M2}


@pytest.mark.parametrize("reply", [good(weak=True), good(tag=None)], ids=["weak", "none"])
async def test_what_has_no_strong_version_comes_in_one_answer(reply):
    """“Only if its version is strong”: else the file could change between two segments; a small one never needs it."""
    mem = server(reply)
    async with context_of(mem, Segments(4, SIZE)) as context:
        assert (await run(context))[1] == BYTES
        assert ranges(mem) == [(0, SIZE), (0, None)]
        assert (await run(context, digests=digest()))[1] == BYTES
        assert len(ranges(mem)) == 2 + 10
        mem.site(HOME, replace(reply, data=BYTES[:SIZE]))
        await run(context)
    assert len(ranges(mem)) == 2 + 10 + 1


@pytest.mark.parametrize("options", [{}, {"digests": digest()}])
async def test_one_source_is_held_to_its_version(options):
    """Also where a digest will judge, as long as there is no other source: and the result has that version."""
    mem = server()
    async with context_of(mem, Segments(4, SIZE)) as context:
        result, _ = await run(context, **options)
    assert all(each.request.version == result.version for each in mem.log[1:])
    assert result.version is not None


async def test_a_small_file_is_of_one_source():
    """It has one segment, so nothing is put together: another attempt repairs what fails, and the version is known."""
    mem = server(good(data=BYTES[:5000], cut=500), good(data=BYTES[:5000]), m1=good(data=BYTES[:5000]))
    async with context_of(mem, Segments(4, SIZE), Offers((M1,))) as context:
        result, content = await run(context, digests=digest(BYTES[:5000]))
    assert content == BYTES[:5000]
    assert mem.urls == [HOME, HOME]
    assert result.version is not None


async def test_a_condition_is_of_the_first_request_alone():
    """What continues a conditional download is asked for without the condition, of alternatives too."""
    mem = server(m1=good(tag='"m1"', cut=30_000), m2=good(tag='"m2"'))
    async with context_of(mem, Segments(4, SIZE), Mirrors((M1, M2)), Offers((HOME,))) as context:
        version = replace(mem_version, source=None)
        result, content = await run(context, unless=version, digests=digest())
    assert content == BYTES
    assert not result.not_modified
    assert [each.request.unless for each in mem.log] == [version] + [None] * (len(mem.log) - 1)
    assert set(mem.urls) == {M1, M2, HOME}


mem_version = Version('"v1"', size=len(BYTES), strong=True)


@pytest.mark.parametrize("unguarded", [False, True])
@pytest.mark.parametrize("validations", [(), [SizeValidation(len(BYTES))]])
async def test_a_file_that_changes_is_never_put_together(validations, unguarded):
    """A later segment is of another version: the file is fetched once more, by one answer, in the same attempt."""
    new = bytes(reversed(BYTES))
    mem = server(*[good()] * 3, good(data=new, tag='"v2"', guarded=not unguarded))
    async with context_of(mem, Segments(2, SIZE)) as context:
        result, content = await run(context, retries=0, validations=validations)
    assert content == new
    assert result.attempts == 1
    assert plain(mem) == [HOME]


async def test_the_headers_are_those_of_the_whole():
    """No Content-Range, nor what is said of the part alone; of mixed bytes, no validator either."""
    fields = (
        ("Content-Range", f"bytes 0-9999/{len(BYTES)}"), ("Content-Digest", "sha-256=:AA==:"), ("ETag", '"v1"'),
        ("Last-Modified", "Sat, 01 Jan 2000 00:00:00 GMT"), ("Content-Type", "text/plain"),
    )  # fmt: skip
    mem = server(good(headers=fields), m1=good())
    async with context_of(mem, Segments(4, SIZE), Offers((M1,))) as context:
        one, _ = await run(context)
        mixed, _ = await run(context, digests=digest())
    length, kind = ("Content-Length", str(len(BYTES))), ("Content-Type", "text/plain")
    assert dict(mixed.headers.items()) == dict([length, kind])
    assert dict(one.headers.items()) == dict([length, kind, fields[2], fields[3]])


# Sources that are different


async def test_another_size_is_another_file():
    """“One that tells another size is dropped”, at once, and noted."""
    mem = server(m1=good(data=BYTES + b"!"), m2=good())
    async with context_of(mem, Segments(4, SIZE), Offers()) as context:
        result, content = await run(context, digests=digest())
    assert content == BYTES
    assert told(result) == [(M1, SizeMismatch)]
    assert len(mem.asked(M1)) == 1


async def test_the_expected_size_decides_who_is_right():
    """An outdated source does not speak for all others only because it is the first."""
    mem = server(good(data=BYTES[:-1]), m1=good(), m2=good())
    async with context_of(mem, Segments(4, SIZE), Offers()) as context:
        result, content = await run(context, digests=digest(), validations=[SizeValidation(len(BYTES))])
    assert content == BYTES
    assert result.attempts == 1
    assert told(result) == [(HOME, SizeMismatch)]
    assert result.source == M1


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(status=404), NotFound),
        (good(ranges=False), RangeRefused),
        (good(start=50), RangeRefused),
        (Reply(status=416), RangeRefused),
        (Reply(location="file:///etc/passwd"), PolicyError),
    ],
    ids=["404", "no ranges", "other start", "416", "redirect"],
)
async def test_who_would_fail_again_is_asked_once(reply, kind):
    """“A 404, a range refusal, …: at once”."""
    mem = server(m1=reply, m2=good())
    async with context_of(mem, Segments(3, SIZE), Offers()) as context:
        result, content = await run(context, digests=digest())
    assert content == BYTES
    assert result.attempts == 1
    assert told(result) == [(M1, kind)]
    assert len(mem.asked(M1)) == 1


@pytest.mark.parametrize("reply", [Reply(status=0), good(cut=0)], ids=["refused", "cut"])
async def test_who_failed_twice_is_asked_no_more(reply):
    """What may pass by itself is tried once more, for another segment."""
    mem = server(m1=reply, m2=good())
    async with context_of(mem, Segments(3, SIZE), Offers()) as context:
        result, content = await run(context, digests=digest())
    assert content == BYTES
    assert len(mem.asked(M1)) == 2
    assert [source for source, _ in told(result)] == [M1, M1]
    assert result.attempts == 1


async def test_the_first_source_may_fail_too():
    """Before the first head, too: then the next one tells of the file."""
    mem, meter = server(Reply(status=503), m1=Reply(status=404), m2=good()), Meter()
    async with context_of(mem, Segments(4, SIZE), Offers(), meter) as context:
        result, content = await run(context, digests=digest())
    assert content == BYTES
    assert told(result)[:2] == [(HOME, ServerError), (M1, NotFound)]
    assert result.source == meter.infos[0].url == M2
    assert result.attempts == 1


async def test_when_all_fail_each_is_named():
    """The error that is raised is that of the source that was aimed at; the others stand in the history, once."""
    mem, ledger = server(Reply(status=404), m1=Reply(status=503), m2=Reply(status=0)), Ledger()
    async with context_of(mem, Segments(4, SIZE), Offers(), ledger, retries=0) as context:
        with pytest.raises(SourcesExhausted) as caught:
            await run(context, digests=digest())
    assert [type(each) for each in ledger.errors] == [NotFound]
    assert told(caught.value) == [(M1, ServerError), (M2, downhaul.ConnectError), (HOME, NotFound)]


async def test_what_came_of_a_segment_is_kept():
    """Another source continues it where it broke off."""
    mem = server(good(cut=23_456), m1=good(), m2=good())
    async with context_of(mem, Segments(1, SIZE), Offers()) as context:
        result, content = await run(context, digests=digest())
    assert content == BYTES
    assert told(result)[0] == (HOME, Truncated)
    assert (23_456, 30_000 - 23_456) in ranges(mem, M1)


async def test_an_answer_that_ends_early_is_no_segment():
    """Fewer bytes than were asked for are Truncated, whatever the driver says."""

    class Short(MemDriver):
        async def _body(self, reply, start, stop):
            async for block in super()._body(reply, start, start + 5 if reply.tag == '"short"' else stop):
                yield block

    mem = Short()
    mem.site(HOME, good())
    mem.site(M1, good(tag='"short"'))
    async with context_of(mem, Segments(2, SIZE), Offers((M1,))) as context:
        result, content = await run(context, digests=digest())
    assert content == BYTES
    assert told(result) == [(M1, Truncated)] * 2


class Repairs(Plugin):
    """Lets all sites be good from the first error on, and keeps the errors."""

    def __init__(self, mem: MemDriver) -> None:
        self.mem = mem
        self.errors: list[DownloadError] = []

    @hookimpl(tryfirst=True)
    async def error(self, transfer, error):
        self.errors.append(error)
        self.mem.sites.update({url: [good()] for url in self.mem.sites})


async def test_what_is_wrong_behind_the_last_byte():
    """All bytes of the segment have come: it is noted, and no attempt fails for it."""

    class Rude(MemDriver):
        async def _body(self, reply, start, stop):
            async for block in super()._body(reply, start, stop):
                yield block
            if start == 20_000:
                raise Truncated("no good-bye")

    mem = Rude()
    mem.site(HOME, good())
    async with context_of(mem, Segments(2, SIZE), retries=0) as context:
        result, content = await run(context)
    assert content == BYTES
    assert (told(result), len(mem.log)) == ([(HOME, Truncated)], 10)


@pytest.mark.parametrize(("validation", "kept"), [(None, 43_210), (pieces(), 40_000), (pieces(length=7000), 42_000)])
async def test_what_came_before_is_delivered_before_the_error(validation, kept):
    """Then the next attempt continues behind it; of pieces, whole ones count."""
    lame = good(cut=43_210)
    mem = server(lame, m1=lame)
    repairs = Repairs(mem)
    validations = [] if validation is None else [validation]
    async with context_of(mem, Segments(3, SIZE), Offers((M1,)), repairs) as context:
        result, content = await run(context, digests=digest(), validations=validations)
    assert content == BYTES
    assert [type(each) for each in repairs.errors] == [Truncated]
    assert result.attempts == 2
    assert result.history[-1].kept == kept
    assert kept in {start for start, _ in ranges(mem)}


async def test_one_source_continues_by_its_version():
    """“The engine's next attempt continues from there”, without a digest too: guarded, from the same source."""
    mem = server(*[good()] * 4, Reply(status=503), good())
    async with context_of(mem, Segments(1, SIZE)) as context:
        result, content = await run(context)
    assert content == BYTES
    assert result.attempts == 2
    assert ranges(mem)[3:6] == [(30_000, SIZE), (40_000, SIZE), (40_000, SIZE)]
    assert mem.log[5].request.version == mem.log[4].request.version


async def test_nothing_is_fetched_behind_what_failed():
    """Bytes behind a failure will not be delivered: no more of them are asked for, though there are sources left."""

    class Lame(MemDriver):
        @asynccontextmanager
        async def open(self, request, settings):
            if request.offset == 20_000:
                raise downhaul.ConnectError("lame")
            async with super().open(request, settings) as payload:
                yield payload

    mem, meter = Lame(), Meter()
    for url in (HOME, M1):
        mem.site(url, good())
    async with context_of(mem, Segments(3, SIZE), Offers((M1,)), meter, retries=0) as context:
        meter.gate.clear()
        task = asyncio.create_task(run(context, digests=digest()))
        await until(lambda: len(mem.log) == 2 and not context.connections_in_use)
        meter.gate.set()
        with pytest.raises(downhaul.ConnectError):
            await task
    assert len(mem.log) == 2
    assert meter.position == 2 * SIZE


@pytest.mark.parametrize("busy", [Reply(status=503), Reply(status=429)], ids=["503", "429"])
async def test_who_refuses_several_at_a_time_is_asked_for_fewer(busy):
    """A server that takes two connections of a client serves two segments at a time, and has not failed."""

    class Busy(MemDriver):
        @asynccontextmanager
        async def open(self, request, settings):
            if self.live >= 2:
                self.refused += 1
                self.sites[HOME] = [busy, good()]
            async with super().open(request, settings) as payload:
                self.accepted.append(request.offset)
                yield payload

        refused = 0
        accepted: list[int] = []

    mem = Busy()
    mem.accepted = []
    mem.site(HOME, good())
    async with context_of(mem, Segments(5, SIZE)) as context:
        result, content = await run(context)
    assert content == BYTES
    assert (result.attempts, told(result)) == (1, [])
    assert mem.refused == 3
    assert len(mem.log) == 10 + 3
    assert mem.accepted == sorted(mem.accepted), "the first segment, which the consumer waits for, goes first"


async def test_who_refused_once_is_asked_for_as_many_again():
    """What it has done before it can do again, when one more has come."""

    class Moody(MemDriver):
        @asynccontextmanager
        async def open(self, request, settings):
            if request.offset == 20_000 and not self.refused.is_set():
                self.sites[HOME] = [Reply(status=503), good()]
            try:
                async with super().open(request, settings) as payload:
                    if request.offset > 50_000:
                        self.later = max(self.later, self.live)
                    yield payload
            except ServerError:
                self.refused.set()
                raise

        async def _body(self, reply, start, stop):
            if start == 10_000:
                await self.refused.wait()
            async for block in super()._body(reply, start, stop):
                yield block

        later = 0

    mem = Moody()
    mem.refused = asyncio.Event()
    mem.site(HOME, good())
    async with context_of(mem, Segments(2, SIZE)) as context:
        result, content = await run(context)
    assert content == BYTES
    assert (result.attempts, len(mem.log), mem.later) == (1, 11, 2)


async def test_who_refuses_one_at_a_time_has_failed():
    """When it refuses even one, it is the engine's turn."""
    mem = server(good(), Reply(status=503))
    async with context_of(mem, Segments(4, SIZE), retries=0) as context:
        with pytest.raises(ServerError):
            await run(context)
    assert mem.live == 0


# Sources without ranges


class Silent(MemDriver):
    """Ignores the length that is asked for, and where `deaf`, the offset: says nothing of that, like many servers."""

    def __init__(self, *, deaf: bool) -> None:
        super().__init__()
        self.deaf = deaf

    @asynccontextmanager
    async def open(self, request, settings):
        offset = 0 if self.deaf else request.offset
        async with super().open(replace(request, offset=offset, length=None), settings) as payload:
            self.log[-1].request = request
            yield payload


@pytest.mark.parametrize("deaf", [True, False])
@pytest.mark.parametrize("options", [{}, {"digests": digest()}, {"validations": [pieces()]}])
@pytest.mark.parametrize("ask", [lambda *given, **more: run(*given, **more), read], ids=["run", "stream"])
async def test_an_answer_that_goes_on_is_the_whole(ask, deaf, options):
    """“Delivers the whole by that one answer then, in order”; what else was under way is given up."""
    mem, meter = Silent(deaf=deaf), Meter()
    for url in (HOME, M1):
        mem.site(url, good())
    async with context_of(mem, Segments(4, SIZE), Offers((M1,)), meter) as context:
        answer = await ask(context, **options)
    assert (answer if isinstance(answer, bytes) else answer[1]) == BYTES
    assert len(meter.infos) == 1
    assert len(mem.log) <= 1 + 3 * 2
    assert mem.live == 0


@pytest.mark.parametrize("size", [True, False])
@pytest.mark.parametrize("ask", [lambda *given, **more: run(*given, **more), read], ids=["run", "stream"])
async def test_who_says_that_it_has_no_ranges_is_asked_once(ask, size):
    """One request, and one answer, as if there were no segments."""
    mem, meter = server(good(ranges=False, size=size, tag=None), m1=good()), Meter()
    async with context_of(mem, Segments(4, SIZE), Offers((M1,)), meter) as context:
        answer = await ask(context, digests=digest())
    assert (answer if isinstance(answer, bytes) else answer[1]) == BYTES
    assert mem.urls == [HOME]
    (info,) = meter.infos
    assert info.sources == (HOME,)
    assert info.proof == ("length" if size else "unproven")


async def test_the_whole_comes_as_fast_as_it_is_taken():
    """A consumer that takes its time stops the one answer, which is not held in memory as a whole."""
    mem, meter = Counting(), Meter()
    mem.site(HOME, good(ranges=False))
    async with context_of(mem, Segments(4, SIZE), meter) as context:
        meter.gate.clear()
        task = asyncio.create_task(run(context))
        await until(lambda: mem.served > SIZE)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert mem.served <= SIZE + 3 * BLOCK
        assert context.connections_in_use == 1
        meter.gate.set()
        assert (await task)[1] == BYTES


async def test_who_has_no_ranges_and_is_asked_for_the_rest_starts_again():
    """A 200 to a range is taken from its start, also where the first segment is not the first of the file."""
    mem = server(good(cut=43_210), m1=good(ranges=False))
    async with context_of(mem, Segments(1, SIZE), Mirrors((HOME, M1))) as context:
        result, content = await run(context, digests=digest())
    assert content == BYTES
    assert result.history[0].kept == 43_210
    assert ranges(mem, M1) == [(43_210, SIZE)]


async def test_a_rest_that_begins_elsewhere_is_not_taken():
    """A source that answers neither from where it was asked nor from the start is left, within the attempt."""
    mem = server(good(cut=43_210, tag=None), good(start=50, tag=None), m1=good())
    async with context_of(mem, Segments(2, SIZE), PlainFirst(), Offers((M1,))) as context:
        result, content = await run(context, digests=digest())
    assert content == BYTES
    assert result.attempts == 2
    assert told(result) == [(HOME, Truncated), (HOME, RangeRefused)]
    assert (43_210, SIZE) in ranges(mem, M1)


async def test_a_size_that_nobody_tells():
    """A source with ranges that does not tell the size is asked plainly: nobody knows where its segments would end."""
    mem = server(good(size=False))
    async with context_of(mem, Segments(4, SIZE)) as context:
        result, content = await run(context, digests=digest())
    assert content == BYTES
    assert ranges(mem) == [(0, SIZE), (0, None)]
    assert result.proof == "digest"


async def test_a_plugin_that_honours_the_length_alone():
    """Who says that there are no ranges, but sends one, is asked plainly in the same attempt."""

    class Modest(MemDriver):
        @asynccontextmanager
        async def open(self, request, settings):
            async with super().open(request, settings) as payload:
                yield replace(payload, info=replace(payload.info, resumable=False))

    mem = Modest()
    mem.site(HOME, good())
    async with context_of(mem, Segments(4, SIZE), retries=0) as context:
        result, content = await run(context)
    assert content == BYTES
    assert (ranges(mem), result.attempts) == ([(0, SIZE), (0, None)], 1)


# Pieces


@pytest.mark.parametrize("length", [1, 999, 4000, SIZE, 3 * SIZE, len(BYTES), 2 * len(BYTES)])
async def test_segments_hold_whole_pieces(length):
    """“Segment boundaries are multiples of the piece length”."""
    mem = server()
    async with context_of(mem, Segments(3, SIZE)) as context:
        assert (await run(context, validations=[pieces(length=length)]))[1] == BYTES
    step = max(length, SIZE - SIZE % length)
    assert sorted(start for start, _ in ranges(mem)) == list(range(0, len(BYTES), step))


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
async def test_a_bad_piece_is_fetched_again_elsewhere(algorithm):
    """“Noted as DigestMismatch for its source and fetched again elsewhere”: nothing bad is delivered."""
    bad = bytearray(BYTES)
    bad[14_500] ^= 1
    mem, meter = server(m1=good(data=bytes(bad)), m2=good()), Meter()
    validations = [pieces(algorithm=algorithm), SizeValidation(len(BYTES))]
    async with context_of(mem, Segments(3, SIZE), Offers(), meter) as context:
        result, content = await run(context, validations=validations, digests=digest())
    assert content == BYTES
    assert told(result) == [(M1, DigestMismatch)]
    assert (result.attempts, len(meter.infos)) == (1, 1)
    # Segments are of two pieces of 4000 bytes: the first one of these was good, and is kept.
    assert [each.url for each in mem.log if (each.offset, each.request.length) == (12_000, 4000)] in ([HOME], [M2])


async def test_a_bad_piece_that_nobody_has_right():
    """What came before it is kept; the error is the first source's."""
    bad = BYTES[:50_000] + b"?" + BYTES[50_001:]
    mem, ledger = server(good(data=bad), m1=good(data=bad)), Ledger()
    async with context_of(mem, Segments(3, SIZE), Offers((M1,)), ledger, retries=0) as context:
        with pytest.raises(DigestMismatch):
            await run(context, validations=[pieces()])
    assert [each.source for each in ledger.errors] == [HOME]
    assert set(told(ledger.errors[0])) == {(HOME, DigestMismatch), (M1, DigestMismatch)}


@pytest.mark.parametrize("spoilt", [None, 41_000, 43_500, 44_500])
async def test_pieces_of_a_rest_that_begins_within_one(spoilt):
    """The first bytes of the rest belong to a piece whose beginning is there already: it is judged with that."""
    bad = BYTES if spoilt is None else BYTES[:spoilt] + b"?" + BYTES[spoilt + 1 :]
    mem = server(good(data=bad, cut=43_210), good(data=bad), m1=good())
    async with context_of(mem, Segments(3, SIZE), PlainFirst(), Offers((M1,))) as context:
        result, content = await run(context, validations=[pieces()], digests=digest())
    assert content == BYTES
    assert told(result)[0] == (HOME, Truncated)
    assert result.history[0].kept == 43_210
    assert {kind for _, kind in told(result)[1:]} == (set() if spoilt is None else {DigestMismatch})
    assert [start for start, _ in ranges(mem)][1:4] == [43_210, 48_000, 56_000]


async def test_pieces_that_are_too_large_to_be_held():
    """More than 16 MiB: segments are as ever, and the pipeline judges the pieces as they pass."""
    mem = server()
    async with context_of(mem, Segments(3, SIZE)) as context:
        assert (await run(context, validations=[pieces(length=16 * 1024 * 1024 + 1)]))[1] == BYTES
        mem.site(HOME, good(data=OTHER))
        with pytest.raises(DigestMismatch):
            await run(context, validations=[pieces(length=16 * 1024 * 1024 + 1)], retries=0)
    assert len(ranges(mem)) == 20


async def test_large_pieces_are_judged_in_a_thread(monkeypatch):
    """More than 256 KiB are not hashed on the loop, and no slot is held meanwhile."""
    threads, held = set(), set()

    judged = PieceValidation.check_piece

    def check_piece(self, number, content):
        threads.add(threading.get_ident())
        held.add(context.connections_in_use)
        judged(self, number, content)

    monkeypatch.setattr(PieceValidation, "check_piece", check_piece)
    data = bytes(600_000)
    mem = MemDriver()
    mem.site(HOME, Reply(data))
    async with context_of(mem, Segments(1, 300_000)) as context:
        assert (await run(context, validations=[pieces(data, 150_000)]))[1] == data
    assert threading.get_ident() not in threads
    assert held == {0}


# The window


class Counting(MemDriver):
    """Counts the bytes that were served, and which ones are asked for at most."""

    served = 0

    async def _body(self, reply, start, stop):
        async for block in super()._body(reply, start, stop):
            self.served += len(block)
            yield block


@pytest.mark.parametrize("options", [{}, {"digests": digest()}, {"validations": [pieces(length=5000)]}])
@pytest.mark.parametrize("parallel", [1, 2, 4])
async def test_a_slow_consumer_stops_the_fetching(parallel, options):
    """“At most `parallel` segments are in flight or waiting”; and no slot is held while nobody takes anything."""
    mem, meter = Counting(), Meter()
    for url in (HOME, M1, M2):
        mem.site(url, good())
    async with context_of(mem, Segments(parallel, SIZE), Offers(), meter) as context:
        meter.gate.clear()
        task = asyncio.create_task(run(context, **options))
        await until(lambda: mem.served == parallel * SIZE and not context.connections_in_use)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert mem.served == parallel * SIZE
        assert len(mem.log) == parallel
        meter.gate.set()
        assert (await task)[1] == BYTES
    assert mem.peak <= parallel


async def test_the_first_segment_streams():
    """Where no piece is to be judged, bytes are delivered as they come."""
    gate = asyncio.Event()

    class Drips(MemDriver):
        async def _body(self, reply, start, stop):
            async for block in super()._body(reply, start, stop):
                yield block
                if not start:
                    await gate.wait()

    mem, meter = Drips(), Meter()
    mem.site(HOME, good())
    async with context_of(mem, Segments(2, SIZE), meter) as context:
        task = asyncio.create_task(run(context))
        await until(lambda: meter.position == BLOCK)
        gate.set()
        assert (await task)[1] == BYTES


@pytest.mark.parametrize("limit", [{"connections": 1}, {"connections_per_origin": 1}, {"connections": 2}])
@pytest.mark.parametrize("options", [{}, {"digests": digest()}, {"validations": [pieces(length=5000)]}])
async def test_fewer_slots_than_segments(limit, options):
    """“The first in the window must never wait for slots held by later ones that wait for the window”."""
    mem = server(good(), m1=good(cut=15_000), m2=good())
    async with context_of(mem, Segments(4, SIZE), Offers(), **limit) as context:
        downloads = asyncio.gather(*(run_alone(context, **options) for _ in range(5)))
        assert await asyncio.wait_for(downloads, 20) == [BYTES] * 5
        assert context.connections_in_use == 0


async def run_alone(context: Context, **options) -> bytes:
    """Download, while others do in the same context."""
    writer = BufferWriter()
    await Download(HOME, writer, context=context, **options).run()
    return writer.content()


@pytest.mark.parametrize("connections", [1, 2])
async def test_a_stream_that_nobody_reads_keeps_nobody_waiting(connections):
    """A plain one holds its slot; a segmented one, none: the others come through."""
    mem = server(good(data=BYTES * 4))
    async with (
        context_of(mem, Segments(4, SIZE), connections=connections) as context,
        Download(HOME, context=context).stream() as stream,
    ):
        await until(lambda: not context.connections_in_use)
        assert await asyncio.wait_for(run_alone(context), 10) == BYTES * 4
        assert b"".join([bytes(block) async for block in stream]) == BYTES * 4


# Too slow


class Stalls(MemDriver):
    """A reply that hangs in its body serves the first *before* bytes of each answer, then nothing."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.before = before

    async def _body(self, reply, start, stop):
        if reply.hang != "body":
            async for block in super()._body(reply, start, stop):
                yield block
            return
        yield reply.data[start : start + self.before]
        await asyncio.Event().wait()


SOON = LowSpeed(1000, 0.05)


@pytest.mark.parametrize("options", [{"digests": digest()}, {"validations": [pieces(length=5000)]}])
@pytest.mark.parametrize("stalling", [HOME, M1])
async def test_a_segment_that_stalls_is_fetched_elsewhere(stalling, options):
    """Within the attempt: also the first one, which the consumer waits for, and the engine with it."""
    mem, ledger = Stalls(100), Ledger()
    for url in (HOME, M1, M2):
        mem.site(url, good(hang="body" if url == stalling else None))
    async with context_of(mem, Segments(3, SIZE), Offers(), ledger, low_speed=SOON) as context:
        result, content = await run(context, **options)
    assert content == BYTES
    assert ledger.errors == []
    assert set(told(result)) == {(stalling, TimeoutExceeded)}
    assert {each.error.phase for each in result.history} == {"low speed"}
    assert len(mem.asked(stalling)) <= 2


async def test_a_segment_that_stalls_while_others_do_well():
    """It is given up though all together are fast enough, as soon as its time is over."""

    class Steady(Stalls):
        async def _body(self, reply, start, stop):
            async for block in super()._body(reply, start, stop):
                yield block
                await asyncio.sleep(0.02)

    mem = Steady(100)
    mem.site(HOME, good(block=500))
    mem.site(M1, good(hang="body"))
    async with context_of(mem, Segments(2, SIZE), Offers((M1,)), low_speed=LowSpeed(1000, 0.1)) as context:
        result, content = await run(context, digests=digest())
    assert content == BYTES
    assert told(result)[0] == (M1, TimeoutExceeded)
    asked = ranges(mem)
    assert asked.index((10_100, SIZE - 100)) < asked.index((20_000, SIZE))


async def test_all_too_slow():
    """With no source left it is the attempt that is too slow, and its bytes are kept."""
    mem, ledger = Stalls(100), Ledger()
    for url in (HOME, M1):
        mem.site(url, good(hang="body"))
    async with context_of(mem, Segments(2, SIZE), Offers((M1,)), ledger, low_speed=SOON, retries=0) as context:
        with pytest.raises(TimeoutExceeded) as caught:
            await run(context, digests=digest())
    assert caught.value.phase == "low speed"
    assert set(told(caught.value)) == {(HOME, TimeoutExceeded), (M1, TimeoutExceeded)}
    assert caught.value.history[-1].kept == 200


@pytest.mark.parametrize("reply", [good(ranges=False), good(data=BYTES[:SIZE])], ids=["whole", "small"])
async def test_one_answer_that_is_too_slow(reply):
    """What is not put together is watched as well: there the attempt fails, as without segments."""
    mem = Stalls(100)
    mem.site(HOME, replace(reply, hang="body"))
    async with context_of(mem, Segments(2, SIZE), low_speed=SOON, retries=0) as context:
        with pytest.raises(TimeoutExceeded) as caught:
            await run(context)
    assert caught.value.phase == "low speed"


async def test_a_consumer_may_take_its_time():
    """Time that passes while nobody takes the bytes of the one answer is not the source's."""
    mem, meter = server(good(ranges=False)), Meter()
    async with context_of(mem, Segments(2, SIZE), meter, low_speed=SOON, retries=0) as context:
        meter.gate.clear()
        task = asyncio.create_task(run(context))
        await asyncio.sleep(0.2)
        meter.gate.set()
        assert (await task)[1] == BYTES


async def test_the_body_is_the_sum():
    """Four segments that bring a quarter of the limit each are not too slow, nor is what waits for its turn."""

    class Steady(MemDriver):
        async def _body(self, reply, start, stop):
            async for block in super()._body(reply, start, stop):
                yield block
                await asyncio.sleep(0.02)

    mem, ledger = Steady(), Ledger()
    data = BYTES[:40_000]
    for url in (HOME, M1):
        mem.site(url, good(data=data, block=500))
    # Each brings 25,000 bytes a second at most; the limit of all is 40,000.
    limit = LowSpeed(8_000, 0.2)
    async with context_of(mem, Segments(4, SIZE), Offers((M1,)), ledger, low_speed=limit) as context:
        result, content = await run(context, digests=digest(data))
    assert content == data
    assert (ledger.errors, result.history) == ([], ())


async def test_who_is_outdone_keeps_nobody_waiting():
    """A slow source that holds the window up is given up for one that has nothing to do meanwhile, and is fast."""

    class Slow(MemDriver):
        async def _body(self, reply, start, stop):
            async for block in super()._body(reply, start, stop):
                yield block
                await asyncio.sleep(0.3 if reply.tag == '"slow"' else 0)

    mem = Slow()
    mem.site(HOME, good())
    mem.site(M1, good(tag='"slow"'))
    # No limit, but looked at more often than each second.
    async with context_of(mem, Segments(2, SIZE), Offers((M1,)), low_speed=LowSpeed(0, 0.05)) as context:
        result, content = await run(context, digests=digest())
    assert content == BYTES
    assert result.attempts == 1
    assert (M1, TimeoutExceeded) in told(result)
    assert len(mem.asked(M1)) <= 2


async def test_who_is_slow_is_left_alone_while_others_are_busy():
    """As long as the fast one has something to do, what the slow one brings is so much more."""
    done = asyncio.Event()

    class Slow(MemDriver):
        async def _body(self, reply, start, stop):
            if start == 20_000:
                await done.wait()
            async for block in super()._body(reply, start, stop):
                yield block
                await asyncio.sleep(0.15 if reply.tag == '"slow"' else 0)
            if reply.tag == '"slow"':
                done.set()

    mem, data = Slow(), BYTES[:30_000]
    mem.site(HOME, good(data=data))
    mem.site(M1, good(data=data, tag='"slow"'))
    async with context_of(mem, Segments(2, SIZE), Offers((M1,)), low_speed=LowSpeed(0, 0.01)) as context:
        result, content = await run(context, digests=digest(data))
    assert content == data
    assert result.history == ()


async def test_who_is_slow_but_keeps_nobody_waiting_is_left_alone():
    """With no other source, or none that is known to be faster, there is nothing to be won."""

    class Slow(MemDriver):
        async def _body(self, reply, start, stop):
            async for block in super()._body(reply, start, stop):
                yield block
                await asyncio.sleep(0.15)

    mem, data = Slow(), BYTES[:12_000]
    for url in (HOME, M1):
        mem.site(url, good(data=data))
    async with context_of(mem, Segments(1, SIZE), Offers((M1,)), low_speed=LowSpeed(0, 0.01)) as context:
        result, content = await run(context, digests=digest(data))
    assert content == data
    assert result.history == ()
    assert mem.log[0].url == HOME


# What redirects


async def test_a_redirect_to_another_place_each_time():
    """Where nothing judges, the place that answered first is asked by itself, for another one may have another file."""

    class Redirector(MemDriver):
        @asynccontextmanager
        async def open(self, request, settings):
            if request.url == HOME:
                self.turn += 1
                self.sites[HOME] = [Reply(location=(M1, M2)[self.turn % 2])]
            async with super().open(request, settings) as payload:
                yield payload

        turn = 1

    mem = Redirector()
    mem.site(HOME)
    mem.site(M1, good())
    mem.site(M2, good(data=OTHER))
    async with context_of(mem, Segments(2, SIZE)) as context:
        result, content = await run(context, headers={"X-Api-Key": "secret"})
    assert content == BYTES
    assert result.attempts == 1
    assert result.source == M1
    assert told(result) == [(HOME, RangeRefused)]
    assert plain(mem) == []
    assert all(each.header("X-Api-Key") is None for each in mem.log if each.url != HOME)


async def test_a_redirect_to_one_place():
    """Either way leads there."""
    mem = server(Reply(location=M1), m1=good())
    async with context_of(mem, Segments(4, SIZE)) as context:
        result, content = await run(context)
    assert content == BYTES
    assert told(result) == []
    assert len(mem.asked(M1)) == 10


# When they do not belong together


async def test_mixed_bytes_that_are_wrong_are_fetched_from_one_source():
    """In the same attempt, plainly; and the transfer mixes no more."""
    mem, meter = server(good(data=OTHER, tag='"0"'), m1=good(), m2=good()), Meter()
    async with context_of(mem, Segments(4, SIZE), Offers((M1,)), Mirrors((HOME, M2)), meter) as context:
        result, content = await run(context, digests=digest())
    assert content == BYTES
    assert result.attempts == 2
    assert plain(mem) == [HOME]
    assert [info.sources for info in meter.infos] == [(HOME, M1), (), (M2,)]
    assert result.version is not None


async def test_who_is_right_is_found_in_one_attempt():
    """A source that is aimed at and good is not blamed for what another one mixed in."""
    mem, ledger = server(m1=good(data=OTHER)), Ledger()
    async with context_of(mem, Segments(4, SIZE), Offers((M1,)), ledger) as context:
        assert (await run(context, digests=digest()))[1] == BYTES
    assert ledger.errors == []
    assert plain(mem) == [HOME]


async def test_a_stream_of_mixed_bytes_never_ends_well_unless_they_are_right():
    """The consumer has bytes of a bad source: what comes again is compared with them, and the stream breaks."""
    mem = server(m1=good(data=OTHER))
    data = BYTES * 4
    mem.site(HOME, good(data=data))
    mem.site(M1, good(data=OTHER * 4))
    async with context_of(mem, Segments(4, SIZE), Offers((M1,)), retries=0) as context:
        with pytest.raises(DownloadError):
            await read(context, digests=digest(data))
        assert context.connections_in_use == 0


# Leaving


@pytest.mark.parametrize("options", [{}, {"digests": digest()}, {"validations": [pieces(length=5000)]}])
@pytest.mark.parametrize("moment", range(0, 44, 2))
async def test_whenever_it_is_cancelled_nothing_is_left(moment, options):
    """No task, no slot, no answer: at the head, in the bodies, while others fail, while a consumer waits."""
    mem = server(good(), m1=(Reply(status=503), good(cut=25_000)), m2=good())
    async with context_of(mem, Segments(4, SIZE), Offers(), connections=3) as context:
        before = asyncio.all_tasks()
        task = asyncio.create_task(run(context, **options))
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mem.live == context.connections_in_use == 0
        assert asyncio.all_tasks() == before


async def test_a_consumer_that_leaves_leaves_nothing():
    """A stream that is left in the middle ends all that was under way for it."""
    mem = server(good(data=BYTES * 4))
    async with context_of(mem, Segments(4, SIZE)) as context:
        before = asyncio.all_tasks()
        async with Download(HOME, context=context).stream() as stream:
            await anext(stream)
        assert mem.live == context.connections_in_use == 0
        assert asyncio.all_tasks() == before


async def test_who_is_cancelled_while_leaving_waits_all_the_same():
    """A driver that takes its time to close is waited for, however often that is cancelled."""
    closing, gate = asyncio.Event(), asyncio.Event()

    class Lingers(MemDriver):
        @asynccontextmanager
        async def open(self, request, settings):
            try:
                async with super().open(request, settings) as payload:
                    yield payload
            finally:
                if request.offset:
                    closing.set()
                    await gate.wait()

    mem = Lingers()
    mem.site(HOME, good(hang="body"))
    async with context_of(mem, Segments(2, SIZE)) as context:
        before = asyncio.all_tasks()
        task = asyncio.create_task(run_alone(context))
        await until(lambda: mem.live == 2)
        task.cancel()
        await closing.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert context.connections_in_use == 0
        assert asyncio.all_tasks() == before


async def test_a_driver_that_fails_while_it_is_left():
    """Nobody waits for that any more, and nothing is said of exceptions that were never retrieved."""

    class Clumsy(MemDriver):
        @asynccontextmanager
        async def open(self, request, settings):
            try:
                async with super().open(request, settings) as payload:
                    yield payload
            finally:
                if request.offset:
                    raise KeyError("clumsy")

    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: unhandled.append(told))
    mem = Clumsy()
    mem.site(HOME, good(hang="body"))
    async with context_of(mem, Segments(4, SIZE)) as context:
        task = asyncio.create_task(run_alone(context))
        await until(lambda: mem.live == 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mem.live == context.connections_in_use == 0
    gc.collect()
    assert unhandled == []


@pytest.mark.parametrize("reason", [KeyError("broken"), PluginError("broken")], ids=lambda each: type(each).__name__)
async def test_a_driver_that_is_broken_is_named(reason):
    """That is no failure of a source: it ends the download, and no exception of a task goes unretrieved."""

    class Broken(MemDriver):
        @asynccontextmanager
        async def open(self, request, settings):
            if request.offset:
                self.asked += 1
                raise reason
            async with super().open(request, settings) as payload:
                yield payload

        asked = 0

    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: unhandled.append(told))
    mem = Broken()
    for url in (HOME, M1):
        mem.site(url, good())
    async with context_of(mem, Segments(4, SIZE), Offers((M1,))) as context:
        with pytest.raises(PluginError, match="broken"):
            await run(context, digests=digest())
        assert mem.live == context.connections_in_use == 0
    gc.collect()
    assert unhandled == []
    assert mem.asked == 3


# Whatever sources do


@dataclass(frozen=True)
class Step:
    """How a source answers one request: with which version of the file, and what is wrong with that."""

    kind: str = "good"
    version: int = 0
    share: float = 0.5


@dataclass(frozen=True)
class Place:
    """One source: its steps in order, of which the last goes on for ever, and how it tells versions apart."""

    steps: tuple[Step, ...]
    tag: str = "strong"


@dataclass(frozen=True)
class World:
    """One example: the file, its sources, and how it is downloaded."""

    size: int
    places: tuple[Place, ...]
    step: int
    parallel: int
    piece: int | None
    judged: bool
    connections: int
    block: int
    is_stream: bool

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(f"mem://{letter}/file" for letter, _ in zip("abcd", self.places, strict=False))

    def data(self, version: int) -> bytes:
        """Return the file in a version: 0 is right, 1 has other bytes, 2 more of them."""
        right = bytes(index * 7 % 251 for index in range(self.size))
        return (right, bytes(255 - byte for byte in right), b"!" + right)[version]

    @property
    def strong(self) -> bool:
        return self.judged or self.piece is not None

    @property
    def stalls(self) -> bool:
        return any(step.kind == "stalls" for place in self.places for step in place.steps)


class Stage(MemDriver):
    """Plays the sources, and holds each request against where the consumer is."""

    def __init__(self, world: World, meter: Meter) -> None:
        super().__init__()
        self.world, self.meter = world, meter
        self.places = dict(zip(world.urls, world.places, strict=True))
        self.turns: Counter[str] = Counter()
        self.beyond: list[Request] = []
        piece = world.piece or 1
        self.reach = world.parallel * max(piece, world.step - world.step % piece)

    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncGenerator[Payload]:
        world, place = self.world, self.places[request.url]
        step = place.steps[min(self.turns[request.url], len(place.steps) - 1)]
        self.turns[request.url] += 1
        if request.length is not None and request.offset + request.length > self.meter.position + self.reach:
            self.beyond.append(request)
        data = world.data(step.version)
        tag = None if place.tag == "none" else f'"{step.version}"'
        middle = request.offset + int(step.share * (len(data) - request.offset))
        reply = Reply(data, block=world.block, tag=tag, weak=place.tag == "weak")
        silence = TimeoutExceeded("silence", "idle")
        changes = {
            "cut": {"cut": middle}, "stalls": {"cut": middle, "breaks": silence}, "404": {"status": 404},
            "503": {"status": 503}, "refused": {"status": 0}, "no ranges": {"ranges": False}, "416": {"status": 416},
            "moves": {"start": middle}, "sizeless": {"size": False, "ranges": False},
            "elsewhere": {"location": world.urls[0]},
        }  # fmt: skip
        self.sites[request.url] = [replace(reply, **changes.get(step.kind, {}))]
        given = replace(request, offset=0, length=None) if step.kind == "deaf" else request
        async with super().open(given, settings) as payload:
            if step.kind == "short":
                yield replace(payload, body=self.short(payload.body, step.share))
            else:
                yield replace(payload, body=self.patient(payload.body))

    async def patient(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """A driver does not wait for ever, but longer than what is too slow."""
        async with aclosing(body):
            try:
                async for block in body:
                    yield block
            except TimeoutExceeded:
                await asyncio.sleep(0.05)
                raise

    async def short(self, body: AsyncIterator[bytes], share: float) -> AsyncIterator[bytes]:
        blocks = [block async for block in body]
        for block in blocks[: int(share * len(blocks))]:
            yield block


async def play(world: World) -> tuple[Result | None, bytes, DownloadError | None]:
    """Download, hold what is always true, and return the result, what the consumer got, and the error."""
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: unhandled.append(told))
    meter, writer = Meter(), BufferWriter()
    stage = Stage(world, meter)
    right, validations = world.data(0), []
    if world.judged:
        validations.append(DigestValidation("sha256", hashlib.sha256(right).hexdigest()))
    if world.piece is not None:
        validations.append(pieces(right, world.piece))
    plugins = [Segments(world.parallel, world.step), Offers(world.urls[1:]), Mirrors(world.urls), meter]
    low_speed = LowSpeed(1, 0.02) if world.stalls else None
    result, got, failure = None, bytearray(), None
    options = {"retries": 1, "low_speed": low_speed, "connections": world.connections}
    async with asyncio.timeout(20), context_of(stage, *plugins, **options) as context:
        download = Download(
            world.urls[0], None if world.is_stream else writer, validations=validations, context=context
        )
        try:
            if world.is_stream:
                async with download.stream(hold_back=1) as stream:
                    async for block in stream:
                        got += block
                    result = stream.result()
            else:
                result = await download.run()
                got += writer.content()
        except DownloadError as error:
            failure = error
        assert stage.live == context.connections_in_use == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
    assert unhandled == []
    assert stage.beyond == []
    assert stage.peak <= world.parallel
    assert not isinstance(failure, PluginError), failure
    return result, bytes(got), failure


KINDS = (
    "good", "cut", "short", "stalls", "404", "503", "refused", "no ranges", "deaf", "moves", "sizeless", "416",
    "elsewhere",
)  # fmt: skip


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw an example: any file from any sources."""
    steps = st.builds(Step, st.sampled_from(KINDS), st.sampled_from((0, 0, 0, 1, 2)), st.floats(0, 1))
    place = st.builds(
        Place, st.lists(steps, min_size=1, max_size=3).map(tuple), st.sampled_from(("strong", "strong", "weak", "none"))
    )
    return World(
        size=draw(st.integers(0, 60)),
        places=tuple(draw(st.lists(place, min_size=1, max_size=4))),
        step=draw(st.integers(1, 25)),
        parallel=draw(st.integers(1, 4)),
        piece=draw(st.none() | st.integers(1, 30)),
        judged=draw(st.booleans()),
        connections=draw(st.integers(1, 4)),
        block=draw(st.integers(1, 30)),
        is_stream=draw(st.booleans()),
    )


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(worlds())
def test_the_right_bytes_or_an_error(world):
    """Whatever sources do: wrong bytes are never published, nothing is left, and the window is never exceeded."""
    result, got, failure = asyncio.run(play(world))
    event("success" if failure is None else type(failure).__name__)
    if result is not None:
        served = [world.data(step.version) for place in world.places for step in place.steps]
        assert got == world.data(0) if world.strong else got in served
        assert result.size == len(got)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(worlds(), st.sampled_from(("strong", "weak", "none")))
def test_a_good_source_is_enough(world, tag):
    """Whatever the other sources do, where one that plugins aim at is good, the file comes."""
    fixed = Place((Step(),), tag)
    world = replace(world, places=(fixed, *world.places[1:]), judged=True, is_stream=False)
    if world.stalls:
        return  # what is too slow depends on how busy this machine is
    _, got, failure = asyncio.run(play(world))
    assert failure is None
    assert got == world.data(0)


# Real servers


LOG = "log_format asked '$status $connection $http_range';"


def asked(server) -> list[tuple[str, str, str]]:
    """Return status, number of the connection, and Range of each request."""
    return [tuple(line.split(" ")) for line in server.access_log()]


async def test_three_mirrors_by_http(tmp_path: Path):
    """Each serves ranges of the file, each range is asked for once, and connections are used again."""
    data = bytes(range(256)) * 12_000
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o755)
    (root / "file").write_bytes(data)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(nginx(root, server="limit_rate 4m; access_log access.log asked;", http=LOG))
            for _ in range(3)
        ]
        first, *others = (server.url("/file") for server in servers)
        writer, size = BufferWriter(), 128 * 1024
        async with Context(plugins=[Segments(6, size), Offers(tuple(others))]) as context:
            result = await Download(first, writer, context=context, digests=digest(data), retries=0).run()
        assert writer.content() == data
        assert (result.attempts, result.history) == (1, ())
        number = -(-len(data) // size)
        await until_slowly(lambda: sum(len(asked(server)) for server in servers) == number)
        for server in servers:
            assert len(asked(server)) >= 3
            assert {status for status, _, _ in asked(server)} == {"206"}
            assert len({connection for _, connection, _ in asked(server)}) <= 6
        starts = sorted(
            int(each[2].removeprefix("bytes=").split("-")[0]) for server in servers for each in asked(server)
        )
        assert starts == list(range(0, len(data), size))


async def until_slowly(condition) -> None:
    """Wait until *condition* holds: nginx logs an answer when it was sent, which may be later than it arrived."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


@pytest.mark.parametrize("size", [0, 1, 300_000])
@pytest.mark.parametrize("options", ["", "max_ranges 0;"], ids=["ranges", "no ranges"])
async def test_one_server_by_http(tmp_path: Path, size, options):
    """With ranges and without, large and empty: what a server of our days says of itself is understood."""
    data = bytes(range(256)) * 1200
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o755)
    (root / "file").write_bytes(data[:size])
    with nginx(root, server=f"{options} access_log access.log asked;", http=LOG) as server:
        writer = BufferWriter()
        async with Context(plugins=[Segments(4, 64 * 1024)]) as context:
            result = await Download(server.url("/file"), writer, context=context, retries=0).run()
        assert writer.content() == data[:size]
        assert result.version is not None
        assert result.headers["Content-Length"] == str(size)
        assert "Content-Range" not in result.headers
        await until_slowly(lambda: asked(server))
        if not options and size:
            assert {status for status, _, _ in asked(server)} == {"206"}
