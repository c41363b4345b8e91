"""The bugs of Saturn, the 2017 design on asyncio, and of what grew out of it, each as a test that downhaul lacks it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import time
import weakref
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from tests.mem import MemDriver, Reply, context_of, names, until

from downhaul import (
    BufferWriter,
    Context,
    DigestMismatch,
    DigestValidation,
    FileWriter,
    Info,
    Payload,
    Plugin,
    Retries,
    ServerError,
    SizeMismatch,
    SizeValidation,
    StreamBroken,
    TimeoutExceeded,
    hookimpl,
)
from downhaul.plugins import BearerToken, MirrorList

DATA = bytes(range(256)) * 1200
SHA256 = hashlib.sha256(DATA).hexdigest()


async def test_a_stream_is_never_restarted_into_bytes_already_given() -> None:
    """Saturn began again at byte 0 in the same answer: the client got a prefix twice, and a clean end."""
    mem = MemDriver()
    mem.site("mem://h/f", Reply(DATA, cut=200_000, ranges=False), Reply(DATA, ranges=False))
    async with context_of(mem) as context, context.download("mem://h/f").stream() as stream:
        assert b"".join([block async for block in stream]) == DATA


async def test_a_stream_without_continuation_breaks() -> None:
    """Saturn ended such a stream as if it were complete."""
    mem = MemDriver()
    mem.site("mem://h/f", Reply(DATA, cut=200_000, ranges=False), Reply(bytes(len(DATA)), ranges=False))
    got = b""
    with pytest.raises(StreamBroken):
        async with context_of(mem) as context, context.download("mem://h/f").stream() as stream:
            async for block in stream:
                got += block
    assert 0 < len(got) < len(DATA)
    assert DATA.startswith(got)


async def test_a_stream_is_validated() -> None:
    """Saturn's streams were not validated at all: a wrong file ended cleanly."""
    mem = MemDriver()
    mem.site("mem://h/f", data=bytes(len(DATA)))
    got = b""
    with pytest.raises(StreamBroken):
        async with (
            context_of(mem) as context,
            context.download("mem://h/f", digests={"sha256": SHA256}).stream() as stream,
        ):
            async for block in stream:
                got += block
    assert len(got) < len(DATA)


async def test_a_token_stays_with_its_origin() -> None:
    """Saturn kept tokens in a class attribute, and sent them to whatever host was next."""
    mem = MemDriver()
    mem.site("mem://one/f", data=DATA, token="first")
    mem.site("mem://two/f", data=DATA)
    mem.site("mem://three/f", data=DATA, token="third")
    async with context_of(mem) as context:
        for url, plugins in (
            ("mem://one/f", [BearerToken(lambda: "first")]),
            ("mem://two/f", [BearerToken(lambda: "first", within="mem://one")]),
            ("mem://three/f", [BearerToken(lambda: "third")]),
        ):
            await context.download(url, BufferWriter(), plugins=plugins).run()
    sent = {asked.url: asked.header("Authorization") for asked in mem.log}
    assert sent == {"mem://one/f": "Bearer first", "mem://two/f": None, "mem://three/f": "Bearer third"}


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2), (3, 4), (None, 4)])
async def test_retries_count_what_comes_after_the_first(retries: int | None, attempts: int) -> None:
    """Saturn took retries=0 for unset, and made four attempts."""
    mem = MemDriver()
    mem.site("mem://h/f", status=503)
    async with context_of(mem, retries=retries) as context:
        with pytest.raises(ServerError):
            await context.download("mem://h/f", BufferWriter()).run()
    assert len(mem.log) == attempts


@dataclass(frozen=True)
class Shelf(Plugin):
    """Fetches a file once, for however many want it."""

    @hookimpl(tryfirst=True)
    def fetch(self, transfer):
        return self.answer(transfer)

    @asynccontextmanager
    async def answer(self, transfer):
        url = transfer.request.url

        async def load() -> bytes:
            writer = BufferWriter()
            await transfer.nested(self, url, writer).run()
            return writer.content()

        content = await transfer.context.once(self, url, load)

        async def body():
            yield content[transfer.request.offset :]

        yield Payload(Info(url, size=len(content), start=transfer.request.offset, proof="length"), body())


async def test_many_clients_cause_one_fetch() -> None:
    """Saturn asked upstream once for each client that wanted the same file at the same time."""
    mem = MemDriver()
    mem.site("mem://h/f", data=DATA)

    async def client(context: Context) -> bytes:
        async with context.download("mem://h/f").stream() as stream:
            return b"".join([block async for block in stream])

    async with context_of(mem, Shelf()) as context:
        got = await asyncio.gather(*(client(context) for _ in range(10)))
    assert got == [DATA] * 10
    assert len(mem.log) == 1


@pytest.mark.parametrize("when", ["open", "body"])
async def test_a_cancelled_download_leaves_no_file(when: str, tmp_path) -> None:
    """Saturn left a temporary file with every cancel."""
    mem = MemDriver()
    mem.site("mem://h/f", data=DATA, hang=when)
    async with context_of(mem) as context:
        task = asyncio.create_task(context.download("mem://h/f", FileWriter(tmp_path / "f")).run())
        await until(lambda: mem.live)
        for _ in range(50):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert names(tmp_path) == []
        assert mem.live == 0


@pytest.mark.parametrize("reply", [Reply(DATA, cut=100_000, ranges=False), Reply(bytes(len(DATA)))])
async def test_a_failed_download_leaves_no_file(reply: Reply, tmp_path) -> None:
    """Saturn left a temporary file with every retry, and one of full size with every wrong digest."""
    mem = MemDriver()
    mem.site("mem://h/f", reply)
    async with context_of(mem) as context:
        download = context.download("mem://h/f", FileWriter(tmp_path / "f"), digests={"sha256": SHA256})
        with pytest.raises(Exception, match=r"sha256|lost"):
            await download.run()
    assert len(mem.log) == 4
    assert names(tmp_path) == []


async def test_no_slot_is_held_while_sleeping() -> None:
    """Saturn kept its slot through the back-off: a good file waited behind a bad one."""
    mem = MemDriver()
    mem.site("mem://h/bad", status=503)
    mem.site("mem://h/good", data=DATA)
    async with Context(drivers={"mem": mem}, plugins=[Retries(base=1e6, longest=1e6)], connections=1) as context:
        bad = asyncio.create_task(context.download("mem://h/bad", BufferWriter()).run())
        await until(lambda: mem.asked("mem://h/bad") and not mem.live)
        await asyncio.wait_for(context.download("mem://h/good", BufferWriter()).run(), 10)
        bad.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await bad


async def test_what_a_server_asks_to_wait_is_heeded() -> None:
    """Saturn ignored Retry-After."""
    mem = MemDriver()
    mem.site("mem://h/f", Reply(status=503, retry_after=0.3), Reply(DATA))
    async with context_of(mem) as context:
        began = time.monotonic()
        await context.download("mem://h/f", BufferWriter()).run()
        assert time.monotonic() - began >= 0.3


async def test_every_kind_of_failure_fails_over() -> None:
    """Saturn asked the next source after some errors only: not after a time-out, and not after a wrong digest."""
    mem = MemDriver()
    mem.site("mem://list/", data=b"".join(b"mem://m%d/f\n" % number for number in range(6)))
    replies = (
        Reply(status=0),
        Reply(error=TimeoutExceeded("silence", "head")),
        Reply(status=404),
        Reply(DATA, cut=9),
        Reply(DATA[:-1] + b"x"),
        Reply(DATA),
    )
    for number, reply in enumerate(replies):
        mem.site(f"mem://m{number}/f", reply)
    async with context_of(mem) as context:
        download = context.download(
            "mem://h/f", BufferWriter(), digests={"sha256": SHA256}, plugins=[MirrorList("mem://list/")]
        )
        assert (await download.run()).source == "mem://m5/f"


@pytest.mark.parametrize("digits", [SHA256, SHA256.upper()])
async def test_digests_may_be_written_in_upper_case(digits: str) -> None:
    """Saturn refused the right digest where its hexadecimal digits were capital letters."""
    mem = MemDriver()
    mem.site("mem://h/f", data=DATA)
    digests = {"sha256": digits, "sha1": hashlib.sha1(DATA).hexdigest()}
    async with context_of(mem) as context:
        result = await context.download("mem://h/f", BufferWriter(), digests=digests).run()
    assert result.digests == {"sha256": SHA256, "sha1": hashlib.sha1(DATA).hexdigest()}


async def test_all_expected_digests_must_match() -> None:
    """Saturn crashed where one of several algorithms was not allowed."""
    mem = MemDriver()
    mem.site("mem://h/f", data=DATA)
    digests = {"sha256": SHA256, "md5": hashlib.md5(b"other").hexdigest()}
    async with context_of(mem, retries=0) as context:
        with pytest.raises(DigestMismatch, match="md5"):
            await context.download("mem://h/f", BufferWriter(), digests=digests).run()


async def test_an_expected_size_of_zero_is_expected() -> None:
    """Saturn took an expected size of 0 for none."""
    mem = MemDriver()
    mem.site("mem://h/f", data=DATA)
    mem.site("mem://h/empty", data=b"")
    async with context_of(mem, retries=0) as context:
        with pytest.raises(SizeMismatch):
            await context.download("mem://h/f", BufferWriter(), validations=[SizeValidation(0)]).run()
        await context.download("mem://h/empty", BufferWriter(), validations=[SizeValidation(0)]).run()


def test_contexts_are_let_go() -> None:
    """Saturn pinned every factory by a callback at exit, with its session: one more for each request served."""
    mem = MemDriver()
    mem.site("mem://h/f", data=DATA)
    kept = []
    for _ in range(20):
        with context_of(mem) as context:
            context.download("mem://h/f", BufferWriter())()
        kept.append(weakref.ref(context))
    del context
    gc.collect()
    assert [reference for reference in kept if reference() is not None] == []
    assert mem.live == 0


async def test_unrelated_validations_share_nothing() -> None:
    """Saturn passed what one retry had hashed on to the next; two downloads at once are apart as well."""
    mem = MemDriver()
    mem.site("mem://h/a", data=DATA)
    mem.site("mem://h/b", data=DATA[::-1])
    validation = DigestValidation("sha256", SHA256)
    async with context_of(mem, retries=0) as context:
        outcomes = await asyncio.gather(
            *(context.download(f"mem://h/{name}", BufferWriter(), validations=[validation]).run() for name in "abab"),
            return_exceptions=True,
        )
    assert [type(outcome).__name__ for outcome in outcomes] == ["Result", "DigestMismatch"] * 2
