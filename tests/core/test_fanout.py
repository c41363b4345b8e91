"""Fan-out: streams of the same file at the same time share one fetch, and none waits for a slow one."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests.mem import MemDriver, Mirrors, Reply, context_of, until

from downhaul import (
    Context,
    DigestMismatch,
    DigestValidation,
    Download,
    DownloadError,
    FileWriter,
    NotFound,
    StreamBroken,
    Validation,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from downhaul import Stream

URL = "mem://host/file"
KIB = 1024
DATA = bytes(index * 7 % 251 for index in range(800 * KIB))
KEPT = 256 * KIB
SHA256 = hashlib.sha256(DATA).hexdigest()


class Steps(MemDriver):
    """Sends the first *free* bytes at once, and the rest when it may."""

    def __init__(self, free: int) -> None:
        super().__init__()
        self.free, self.gate = free, asyncio.Event()

    async def _body(self, reply: Reply, start: int, stop: int | None) -> AsyncIterator[bytes]:
        sent = start
        async for block in super()._body(reply, start, stop):
            if sent >= self.free:
                await self.gate.wait()
            sent += len(block)
            yield block


@pytest.fixture
def driver() -> MemDriver:
    """Give a driver with the file."""
    driver = MemDriver()
    driver.site(URL, data=DATA)
    return driver


def stream_of(context: Context, *, join: int = KEPT, url: str = URL, **options: Any) -> Stream:
    """Return a stream that shares."""
    return Download(url, context=context, **options).stream(join=join)


async def received(stream: Stream) -> bytes:
    """Enter *stream* and return its bytes."""
    async with stream:
        return b"".join([block async for block in stream])


@pytest.mark.parametrize("number", [1, 2, 20])
async def test_one_fetch_for_all(driver: MemDriver, number: int) -> None:
    """However many ask for a file at once, it is fetched once, and all get all of it."""
    async with context_of(driver) as context:
        got = await asyncio.gather(*(received(stream_of(context)) for _ in range(number)))
        assert set(got) == {DATA}
        assert len(driver.log) == 1
        assert context.connections_in_use == 0
        assert await received(stream_of(context)) == DATA, "what came after is a fetch of its own"
    assert (len(driver.log), driver.live) == (2, 0)


async def test_without_join_each_fetches(driver: MemDriver) -> None:
    """Sharing is for who asks for it."""
    async with context_of(driver) as context:
        await asyncio.gather(*(received(Download(URL, context=context).stream()) for _ in range(3)))
    assert len(driver.log) == 3


def test_threads_share(driver: MemDriver) -> None:
    """In synchronous code, too, threads that ask at once share."""
    barrier, got = threading.Barrier(8), []

    def work() -> None:
        with stream_of(context) as stream:
            barrier.wait()
            got.append(b"".join(stream))

    with context_of(driver) as context:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert (got, len(driver.log)) == ([DATA] * 8, 1)


async def test_each_has_its_own_attachment() -> None:
    """Results and errors that are shared have the attachment of each download."""
    driver = MemDriver()
    driver.site(URL, Reply(DATA), Reply(status=404))
    async with context_of(driver, retries=0) as context:
        streams = [stream_of(context, attachment=number) for number in range(3)]
        await asyncio.gather(*map(received, streams))
        results = [stream.result() for stream in streams]
        assert [each.attachment for each in results] == [0, 1, 2]
        assert {each.size for each in results} == {len(DATA)}
        failed = await asyncio.gather(
            *(received(stream_of(context, attachment=number)) for number in range(3)), return_exceptions=True
        )
    assert [type(each) for each in failed] == [NotFound] * 3
    assert [each.attachment for each in failed if isinstance(each, DownloadError)] == [0, 1, 2]
    assert len(driver.log) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"url": "mem://host/other"}, {"digests": ["md5"]}, {"headers": {"X-Key": "b"}}, {"retries": 7},
        {"plugins": [Mirrors((URL,))]}, {"validations": [DigestValidation("sha256", SHA256)]}, {"join": KEPT + 1},
    ],
)  # fmt: skip
async def test_only_equals_share(driver: MemDriver, other: dict[str, Any]) -> None:
    """Downloads that differ in anything but the attachment do not share: not in settings, credentials, plugins."""
    driver.site("mem://host/other", data=DATA)
    async with context_of(driver) as context:
        await asyncio.gather(received(stream_of(context)), received(stream_of(context, **other)))
    assert len(driver.log) == 2


async def test_what_is_no_value_is_not_shared(driver: MemDriver) -> None:
    """A validation that cannot be compared makes a fetch of its own, not an error."""

    class Odd(Validation):
        __hash__ = None  # type: ignore[assignment]

        def check(self) -> Any:
            return DigestValidation("sha256", SHA256).check()

    async with context_of(driver) as context:
        await asyncio.gather(*(received(stream_of(context, validations=[Odd()])) for _ in range(2)))
    assert len(driver.log) == 2


async def test_who_comes_late_gets_what_has_arrived() -> None:
    """Who asks while the fetch is under way gets it from the first byte, while all of it is still there."""
    driver = Steps(200 * KIB)
    driver.site(URL, data=DATA)
    async with context_of(driver) as context, stream_of(context) as first:
        early = await anext(first)
        late = asyncio.create_task(received(stream_of(context)))
        rest = asyncio.create_task(received_on(first))
        await until(lambda: len(driver.log) == 1)
        await asyncio.sleep(0.01)
        driver.gate.set()
        assert early + await rest == DATA
        assert await late == DATA
    assert len(driver.log) == 1


async def received_on(stream: Stream) -> bytes:
    """Return the rest of a stream that was entered."""
    return b"".join([block async for block in stream])


async def test_who_comes_too_late_fetches(driver: MemDriver) -> None:
    """When the first bytes are gone, a fetch of its own begins; the one under way is not disturbed."""
    async with context_of(driver) as context, stream_of(context) as first:
        got = b""
        while len(got) < KEPT + 64 * KIB:
            got += await anext(first)
        assert await received(stream_of(context)) == DATA
        assert len(driver.log) == 2
        assert got + await received_on(first) == DATA
    assert len(driver.log) == 2


async def test_a_slow_one_holds_nobody_back(driver: MemDriver) -> None:
    """Who falls behind goes on by a fetch of its own, from where it is; the others have ended long before."""
    async with context_of(driver) as context, stream_of(context) as slow:
        got = await anext(slow)
        fast = await asyncio.gather(*(received(stream_of(context)) for _ in range(3)))
        assert set(fast) == {DATA}
        assert len(driver.log) == 1
        assert got + await received_on(slow) == DATA
        assert slow.result().size == len(DATA)
    assert (len(driver.log), driver.live) == (2, 0)


async def test_who_is_late_by_a_moment_is_not_slow(driver: MemDriver) -> None:
    """With room for one block only, one that takes a turn of the loop longer for each still shares."""

    async def read_late() -> bytes:
        got = b""
        async with stream_of(context, join=1) as stream:
            async for block in stream:
                await asyncio.sleep(0.001)
                got += block
        return got

    async with context_of(driver) as context:
        assert set(await asyncio.gather(received(stream_of(context, join=1)), read_late())) == {DATA}
    assert len(driver.log) == 1


async def test_many_slow_ones_cost_the_others_half_a_second(driver: MemDriver) -> None:
    """However many fall behind, and wherever, the moments that are granted to them are short in all."""
    async with context_of(driver) as context, contextlib.AsyncExitStack() as stack:
        for number in range(10):
            slow = await stack.enter_async_context(stream_of(context, join=1))
            if number == 0:
                fast = asyncio.create_task(received(stream_of(context, join=1)))
                await asyncio.sleep(0)
            del slow
        begin = asyncio.get_running_loop().time()
        assert await fast == DATA
        assert asyncio.get_running_loop().time() - begin < 2


@pytest.mark.parametrize("tag", ['"v1"', '"v2"'])
@pytest.mark.parametrize("change", [-1, 0])
async def test_a_slow_one_gets_no_other_file(driver: MemDriver, change: int, tag: str) -> None:
    """If the file has changed, by its version or in what a slow one has already, that breaks: no two are joined."""
    async with context_of(driver, retries=0) as context, stream_of(context) as slow:
        got = await anext(slow)
        assert await received(stream_of(context)) == DATA
        changed = bytearray(DATA)
        changed[change] ^= 1
        driver.site(URL, data=bytes(changed), tag=tag)
        if change == 0 or tag != '"v1"':
            with pytest.raises(StreamBroken):
                await received_on(slow)
        else:
            assert got + await received_on(slow) == bytes(changed), "nothing tells the two apart"


async def test_a_slow_one_is_validated(driver: MemDriver) -> None:
    """What a slow one fetches by itself is judged as a whole."""
    digests = {"sha256": SHA256}
    async with context_of(driver, retries=0) as context, stream_of(context, digests=digests) as slow:
        await anext(slow)
        assert await received(stream_of(context, digests=digests)) == DATA
        driver.site(URL, data=DATA[:-1] + b"!")
        with pytest.raises(StreamBroken):
            await received_on(slow)


async def test_a_failure_reaches_all() -> None:
    """One failed fetch fails all that share it, with the same error, and no more is asked."""
    driver = MemDriver()
    driver.site(URL, data=DATA)
    digests = {"sha256": "0" * 64}
    async with context_of(driver, retries=0) as context:
        failed = await asyncio.gather(
            *(received(stream_of(context, digests=digests)) for _ in range(5)), return_exceptions=True
        )
        small = MemDriver()
        small.site(URL, data=b"small")
    assert {type(each) for each in failed} == {StreamBroken}
    assert len({id(each) for each in failed}) == 5
    assert len(driver.log) == 1
    async with context_of(small, retries=0) as context:
        failed = await asyncio.gather(
            *(received(stream_of(context, digests=digests)) for _ in range(5)), return_exceptions=True
        )
    assert {type(each) for each in failed} == {DigestMismatch}
    assert len(small.log) == 1


async def test_who_leaves_disturbs_nobody() -> None:
    """The one that began the fetch may leave, or be cancelled, and the others get it all."""
    driver = Steps(0)
    driver.site(URL, data=DATA)
    async with context_of(driver) as context:
        tasks = [asyncio.create_task(received(stream_of(context))) for _ in range(3)]
        await until(lambda: driver.live)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        driver.gate.set()
        assert await asyncio.gather(*tasks[1:]) == [DATA, DATA]
    assert (len(driver.log), driver.live) == (1, 0)


async def test_the_last_one_to_leave_ends_the_fetch() -> None:
    """When nobody wants the bytes any more, the upstream is free at once."""
    driver = Steps(0)
    driver.site(URL, data=DATA)
    async with context_of(driver) as context:
        tasks = [asyncio.create_task(received(stream_of(context))) for _ in range(3)]
        await until(lambda: driver.live)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert (driver.live, context.connections_in_use) == (0, 0)
        driver.gate.set()
        assert await received(stream_of(context)) == DATA
    assert len(driver.log) == 2


async def test_a_share_that_is_dropped_ends() -> None:
    """A stream that nobody has any more leaves, as if it had been left."""
    driver = Steps(300 * KIB)
    driver.site(URL, data=DATA)
    async with context_of(driver) as context:
        stream = await stream_of(context).__aenter__()
        assert driver.live == 1
        del stream
        gc.collect()
        await until(lambda: driver.live == 0)


async def test_the_fastest_sets_the_pace(driver: MemDriver) -> None:
    """Nothing is read ahead that nobody wants: two that wait hold the upstream back."""
    sent, real = [], driver._body

    async def counted(*arguments: Any) -> AsyncIterator[bytes]:
        async for block in real(*arguments):
            sent.append(len(block))
            yield block

    driver._body = counted  # type: ignore[method-assign]
    async with context_of(driver) as context, stream_of(context) as one, stream_of(context) as other:
        await anext(one)
        await anext(other)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert sum(sent) < 64 * KIB + 6 * 16 * KIB, "what is held back, and a few blocks"
        assert len(b"".join([block async for block in one])) == len(DATA) - 16 * KIB


async def test_a_closed_context_ends_all() -> None:
    """Closing the context ends the fetch, and tells everybody who shares it."""
    driver = Steps(0)
    driver.site(URL, data=DATA)
    context = await context_of(driver).__aenter__()
    tasks = [asyncio.create_task(received(stream_of(context))) for _ in range(3)]
    await until(lambda: driver.live)
    await context.__aexit__(None, None, None)
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert not any(isinstance(each, bytes) for each in ended)
    assert driver.live == 0


async def test_one_file_is_written_once(driver: MemDriver, tmp_path: Path) -> None:
    """Shared streams with an equal writer write the file once; with different ones, each fetches."""
    async with context_of(driver) as context:
        await asyncio.gather(*(received(stream_of(context, writer=FileWriter(tmp_path / "file"))) for _ in range(3)))
        assert (tmp_path / "file").read_bytes() == DATA
        assert len(driver.log) == 1
        await asyncio.gather(
            *(received(stream_of(context, writer=FileWriter(tmp_path / f"file-{n}"))) for n in range(2))
        )
    assert len(driver.log) == 3


async def test_a_share_that_is_closed_while_it_waits() -> None:
    """A stream closed by somebody else does not give out bytes afterwards."""
    driver = Steps(0)
    driver.site(URL, data=DATA)
    async with context_of(driver) as context:
        other = asyncio.create_task(received(stream_of(context)))
        await until(lambda: driver.live)
        stream = stream_of(context)
        entering = asyncio.create_task(stream.__aenter__())
        await asyncio.sleep(0.01)
        await stream.__aexit__()
        driver.gate.set()
        with pytest.raises(RuntimeError, match="was left"):
            await entering
        assert await other == DATA


async def test_a_slow_one_far_behind_reads_all_of_it_again(driver: MemDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much a slow one has already, its own fetch is compared with it, not trusted and not given up."""
    monkeypatch.setattr("downhaul._channel.COMPARED", 100_000)
    for right in (True, False):
        driver.site(URL, data=DATA)
        async with context_of(driver, retries=0) as context, stream_of(context) as slow:
            fast = stream_of(context)
            async with fast:
                got = b""
                while len(got) < 300_000:  # both, side by side
                    got += await anext(slow)
                    await anext(fast)
                await received_on(fast)
            if right:
                assert got + await received_on(slow) == DATA
                continue
            driver.site(URL, data=b"!" + DATA[1:])
            with pytest.raises(StreamBroken, match=r"not the \d+ bytes that were delivered before"):
                await received_on(slow)


async def test_a_subclass_does_not_share(driver: MemDriver) -> None:
    """What a class of downloads holds of its own, a user say, is not known here: it shares with nobody."""

    class Own(Download):
        pass

    async with context_of(driver) as context:
        await asyncio.gather(*(received(Own(URL, context=context).stream(join=KEPT)) for _ in range(2)))
    assert len(driver.log) == 2
