"""The ring: what goes round between the socket, the checks and the sink."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mem import context_of, names

from downhaul import (
    BufferWriter,
    Check,
    DigestMismatch,
    Download,
    Driver,
    FileWriter,
    Info,
    Payload,
    Plugin,
    SizeValidation,
    Truncated,
    Validation,
    ValidationError,
    WriteError,
    Writer,
    _allocation,
    hookimpl,
)
from downhaul._ring import PAGE, Pages, Ring

if TYPE_CHECKING:
    from pathlib import Path

URL = "mem://home/file"
CONTENT = random.Random(7).randbytes(5 * PAGE + 12_345)
DIGEST = {"sha256": hashlib.sha256(CONTENT).hexdigest()}


class Filling:
    """A body that fills memory, in pieces of random sizes; *fails* at a position, or waits there for ever."""

    def __init__(self, content: bytes, seed: int = 1, end: int | None = None, failure: Exception | None = None) -> None:
        self.content, self.random = content, random.Random(seed)
        self.end, self.failure = len(content) if end is None else end, failure
        self.position = 0
        self.closed = False

    def __aiter__(self) -> Filling:
        return self

    async def __anext__(self) -> bytes:
        raise AssertionError("a large body that can fill memory is not iterated")

    async def readinto(self, view: memoryview) -> int:
        """Put some bytes into *view*."""
        await asyncio.sleep(0)
        if self.position == self.end and self.failure is not None:
            raise self.failure
        size = min(len(view), self.random.choice((1, 1000, 70_000, PAGE)), self.end - self.position)
        view[:size] = self.content[self.position : self.position + size]
        self.position += size
        return size

    async def aclose(self) -> None:
        """Note it."""
        self.closed = True


class FillingDriver(Driver):
    """Answers with the bodies given, one after another; each is told to be of *size* bytes."""

    def __init__(self, *bodies: Filling, size: int = len(CONTENT)) -> None:
        self.bodies, self.size = list(bodies), size

    def open(self, request, settings):
        """Return the next one, from where it is asked for."""
        return _Answer(self, request)


class _Answer:
    def __init__(self, driver, request) -> None:
        self.driver, self.request = driver, request

    async def __aenter__(self) -> Payload:
        body = self.driver.bodies.pop(0)
        body.position = self.request.offset
        info = Info(self.request.url, size=self.driver.size, start=self.request.offset, resumable=True, proof="length")
        return Payload(info, body)

    async def __aexit__(self, *_: object) -> None:
        pass


def context(*bodies: Filling, plugins=(), **settings):
    """A context whose driver answers with *bodies*."""
    return context_of(FillingDriver(*bodies), *plugins, **settings)


@given(st.lists(st.integers(1, PAGE), max_size=30), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_every_strand_sees_every_byte_once_and_in_order(sizes: list[int], seed: int) -> None:
    """However the pages are filled, and however long each strand takes, both see what was filled in, in order."""
    pause, content = random.Random(seed), random.Random(seed).randbytes(sum(sizes))
    seen: list[bytearray] = [bytearray(), bytearray()]

    def look(number: int, part: memoryview) -> None:
        time.sleep(pause.choice((0, 0, 0.0005)))
        seen[number] += part

    async def work() -> None:
        ring = Ring([lambda part: look(0, part), lambda part: look(1, part)], threads, Pages())
        position = 0
        for size in sizes:
            left = size
            while left:
                view = await ring.room()
                number = min(left, len(view))
                view[:number] = content[position : position + number]
                ring.filled(number)
                position, left = position + number, left - number
        await ring.drain()
        assert ring.is_idle

    with ThreadPoolExecutor(3) as threads:
        asyncio.run(work())
    assert bytes(seen[0]) == bytes(seen[1]) == content


def test_one_thread_at_a_time() -> None:
    """A strand is at work in one thread at a time, two strands side by side."""
    at_work = [0, 0]
    together = threading.Barrier(2, timeout=10)

    def look(number: int) -> None:
        at_work[number] += 1
        assert at_work[number] == 1
        together.wait()
        at_work[number] -= 1

    async def work() -> None:
        ring = Ring([lambda _: look(0), lambda _: look(1)], threads, Pages())
        for _ in range(20):
            ring.filled(len(await ring.room()))
        await ring.drain()

    with ThreadPoolExecutor(4) as threads:
        asyncio.run(work())


@pytest.mark.parametrize("kind", [FileWriter, BufferWriter])
async def test_a_large_file(kind: type[Writer], tmp_path: Path) -> None:
    """A large body that can fill memory is filled in, judged and written; nothing of it is iterated."""
    writer = FileWriter(tmp_path / "f") if kind is FileWriter else BufferWriter()
    body = Filling(CONTENT)
    async with context(body) as home:
        download = Download(URL, writer, digests=DIGEST, context=home)
        result = await download.clone(validations=[*download.validations, SizeValidation(len(CONTENT))]).run()
    written = (tmp_path / "f").read_bytes() if isinstance(writer, FileWriter) else writer.content()  # type: ignore[attr-defined]
    assert written == CONTENT
    assert (result.size, dict(result.digests)) == (len(CONTENT), DIGEST)
    assert body.closed


async def test_what_is_not_ours_may_keep_its_blocks() -> None:
    """Sinks and checks of somebody else's get bytes that stay as they are, though the memory goes round."""
    kept: dict[str, list[bytes]] = {"sink": [], "check": []}

    class Keeper(Writer):
        def open(self, transfer):
            return self

        @property
        def position(self) -> int:
            return sum(map(len, kept["sink"]))

        def write(self, block) -> None:
            kept["sink"].append(block)

        def truncate(self, position: int) -> None:
            del kept["sink"][:]

        def commit(self) -> None:
            pass

        def discard(self) -> None:
            pass

    class Watcher(Validation):
        def check(self) -> Check:
            return self  # type: ignore[return-value]

        def update(self, block) -> None:
            kept["check"].append(block)

        def finish(self) -> None:
            pass

    async with context(Filling(CONTENT)) as home:
        await Download(URL, Keeper(), validations=[Watcher()], digests=DIGEST, context=home).run()
    assert b"".join(kept["sink"]) == b"".join(kept["check"]) == CONTENT


async def test_resumed_where_it_broke_off(tmp_path: Path) -> None:
    """Bytes of a body that broke off are kept, and the next one is asked for the rest."""
    broken = Filling(CONTENT, end=3 * PAGE + 77, failure=Truncated("broken off"))
    async with context(broken, Filling(CONTENT)) as home:
        result = await Download(URL, FileWriter(tmp_path / "f"), digests=DIGEST, context=home).run()
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert [attempt.kept for attempt in result.history] == [3 * PAGE + 77]


async def test_wrong_bytes_are_refused(tmp_path: Path) -> None:
    """A wrong byte at the end is found, and nothing is published."""
    wrong = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    async with context(Filling(wrong), retries=0) as home:
        with pytest.raises(DigestMismatch):
            await Download(URL, FileWriter(tmp_path / "f"), digests=DIGEST, context=home).run()
    assert names(tmp_path) == []


@pytest.mark.parametrize("culprit", ["check", "sink"])
async def test_what_fails_in_a_thread_ends_it(culprit: str, tmp_path: Path) -> None:
    """What a check or a sink raises in its thread ends the attempt, long before all has come."""

    class Early(Validation):
        def check(self) -> Check:
            return self  # type: ignore[return-value]

        def update(self, block) -> None:
            raise ValidationError("seen enough")

        def finish(self) -> None:
            pass

    class Full(FileWriter):
        def open(self, transfer):
            sink = super().open(transfer)
            sink.write = lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))  # type: ignore[method-assign]
            return sink

    body = Filling(CONTENT * 20, seed=3)
    driver = FillingDriver(body, size=len(body.content))
    async with context_of(driver, retries=0) as home:
        writer = Full(tmp_path / "f") if culprit == "sink" else FileWriter(tmp_path / "f")
        checks = [Early()] if culprit == "check" else []
        with pytest.raises(WriteError if culprit == "sink" else ValidationError):
            await Download(URL, writer, validations=checks, digests=["sha256"], context=home).run()
    assert body.position < len(body.content)
    assert names(tmp_path) == []


async def test_cancelled_while_threads_are_at_work(tmp_path: Path) -> None:
    """Cancelling waits for the threads, and leaves no file."""
    at_work, go_on = threading.Event(), threading.Event()

    class Slow(Validation):
        def check(self) -> Check:
            return self  # type: ignore[return-value]

        def update(self, block) -> None:
            at_work.set()
            go_on.wait(10)

        def finish(self) -> None:
            pass

    async with context(Filling(CONTENT)) as home:
        download = Download(URL, FileWriter(tmp_path / "f"), validations=[Slow()], context=home)
        task = asyncio.create_task(download.run())
        await asyncio.to_thread(at_work.wait, 10)
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert names(tmp_path) == []


async def test_more_than_was_announced(tmp_path: Path) -> None:
    """A body that goes on behind the announced size is refused."""
    async with context_of(FillingDriver(Filling(CONTENT), size=len(CONTENT) - PAGE), retries=0) as home:
        with pytest.raises(Exception, match="more than the"):
            await Download(URL, FileWriter(tmp_path / "f"), context=home).run()
    assert names(tmp_path) == []


async def test_room_is_made_before_the_bytes_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the size of a large file is known, the disk is asked for room first; what it says is no reason to fail."""
    size = 9 << 20
    content = bytes(size)
    asked: list[int] = []
    real = _allocation.make_room
    monkeypatch.setattr(_allocation, "make_room", lambda file, number: (asked.append(number), real(file, number))[1])
    async with context_of(FillingDriver(Filling(content), size=size)) as home:
        await Download(URL, FileWriter(tmp_path / "f"), context=home).run()
    monkeypatch.setattr(_allocation, "make_room", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    async with context_of(FillingDriver(Filling(content), size=size)) as home:
        await Download(URL, FileWriter(tmp_path / "g"), context=home).run()
    assert asked == [size]
    assert (tmp_path / "f").read_bytes() == (tmp_path / "g").read_bytes() == content


async def test_a_wrapper_hides_it(tmp_path: Path) -> None:
    """A wrapper that replaces the body is asked for its blocks, whatever the body behind it could do."""

    class Upper(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer):
            answer = yield
            return _Wrapped(answer)

    class _Wrapped:
        def __init__(self, answer) -> None:
            self.answer = answer

        async def __aenter__(self) -> Payload:
            payload = await self.answer.__aenter__()
            return payload.transformed(self.upper(payload.body))

        async def __aexit__(self, *reason: object) -> None:
            await self.answer.__aexit__(*reason)

        async def upper(self, body):
            memory = memoryview(bytearray(PAGE))
            while size := await body.readinto(memory):
                yield bytes(memory[:size]).upper()

    async with context(Filling(CONTENT), plugins=[Upper()]) as home:
        await Download(URL, FileWriter(tmp_path / "f"), context=home).run()
    assert (tmp_path / "f").read_bytes() == CONTENT.upper()
