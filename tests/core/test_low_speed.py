"""The low-speed limit: a source that is too slow is given up, and its bytes are kept."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from dataclasses import replace

import pytest
from tests.mem import MemDriver, Mirrors, Reply, context_of

from downhaul import BufferWriter, Download, LowSpeed, Payload, Plugin, PluginError, TimeoutExceeded, hookimpl

BYTES = bytes(range(256)) * 1000
DIGEST = {"sha256": hashlib.sha256(BYTES).hexdigest()}
HOME, OTHER = "mem://home/file", "mem://other/file"


class Dripping(Plugin):
    """Lets each block of what comes from *host* wait for a moment."""

    def __init__(self, host: str, seconds: float) -> None:
        self.host, self.seconds = host, seconds

    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        answer = yield
        return self.slowed(answer) if self.host in transfer.request.url else answer

    @contextlib.asynccontextmanager
    async def slowed(self, answer):
        async with answer as payload:
            yield Payload(payload.info, self.blocks(payload.body))

    async def blocks(self, body):
        async for block in body:
            await asyncio.sleep(self.seconds)
            yield block


async def test_a_stalled_source_is_given_up_within_the_window():
    """Fewer bytes than the limit within its seconds: TimeoutExceeded of the phase “low speed”, which is transient."""
    mem = MemDriver()
    mem.site(HOME, Reply(BYTES, cut=100_000, hang="body"))
    async with context_of(mem, retries=0, low_speed=LowSpeed(200_000, 0.1)) as context:
        since = time.monotonic()
        with pytest.raises(TimeoutExceeded, match=r"sent 100000 bytes within 0\.1 s, fewer than 200000") as caught:
            await Download(HOME, BufferWriter(), context=context).run()
    assert time.monotonic() - since < 5
    assert (caught.value.phase, caught.value.transient) == ("low speed", True)
    assert caught.value.history[0].kept == 100_000


async def test_a_dripping_source_is_given_up_too():
    """Every block is in time for the read time-out, and all of them are too slow."""
    mem = MemDriver()
    mem.site(HOME, Reply(BYTES, block=100))
    async with context_of(mem, Dripping("home", 0.02), retries=0, low_speed=LowSpeed(10_000, 0.2)) as context:
        with pytest.raises(TimeoutExceeded, match=r"within 0\.2 s"):
            await Download(HOME, BufferWriter(), context=context).run()


async def test_the_next_source_continues():
    """“Transport errors keep the bytes”: with a digest to judge the whole, another source goes on from there."""
    mem = MemDriver()
    mem.site(HOME, Reply(BYTES, cut=100_000, hang="body"))
    mem.site(OTHER, Reply(BYTES))
    limit = LowSpeed(200_000, 0.1)
    async with context_of(mem, Mirrors((HOME, OTHER)), low_speed=limit) as context:
        writer = BufferWriter()
        result = await Download(HOME, writer, digests=DIGEST, context=context).run()
    assert writer.content() == BYTES
    assert [each.offset for each in mem.asked(OTHER)] == [100_000]
    assert [each.error.phase for each in result.history] == ["low speed"]


async def test_a_source_that_is_fast_enough_is_left_alone():
    """As many bytes as the limit asks for, window after window."""
    mem = MemDriver()
    mem.site(HOME, Reply(BYTES, block=16 * 1024))
    async with context_of(mem, Dripping("home", 0.03), retries=0, low_speed=LowSpeed(10_000, 0.1)) as context:
        result = await Download(HOME, BufferWriter(), context=context).run()
    assert result.attempts == 1


async def test_a_slow_consumer_is_not_the_sources_fault():
    """Only the time that is spent waiting for the source counts."""
    mem = MemDriver()
    mem.site(HOME, Reply(BYTES, block=16 * 1024))
    async with context_of(mem, retries=0, low_speed=LowSpeed(100_000, 0.1)) as context:
        received = 0
        async with Download(HOME, context=context).stream(hold_back=1) as stream:
            async for block in stream:
                await asyncio.sleep(0.03)
                received += len(block)
    assert received == len(BYTES)


async def test_off_by_default_and_at_zero():
    """Nobody is hurried who has not asked for it; a size of 0 is no limit, whatever the context says."""
    mem = MemDriver()
    mem.site(HOME, Reply(BYTES, block=64 * 1024))
    slow = Dripping("home", 0.05)
    async with context_of(mem, slow, retries=0) as context:
        assert (await Download(HOME, BufferWriter(), context=context).run()).attempts == 1
    async with context_of(mem, slow, retries=0, low_speed=LowSpeed(10**9, 0.01)) as context:
        download = Download(HOME, BufferWriter(), context=context, low_speed=LowSpeed(0, 1))
        assert (await download.run()).attempts == 1


async def test_a_plugin_sets_it_for_an_attempt():
    """`transfer.low_speed` in `prepare` holds for that attempt; before the next it is that of the settings again."""
    seen = []

    class Once(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            seen.append(transfer.low_speed)
            if transfer.attempt == 1:
                transfer.low_speed = LowSpeed(10**9, 0.05)

    mem = MemDriver()
    mem.site(HOME, Reply(BYTES, cut=1000, hang="body"), Reply(BYTES))
    async with context_of(mem, Once()) as context:
        result = await Download(HOME, BufferWriter(), context=context).run()
    assert (result.attempts, seen) == (2, [None, None])


async def test_elsewhere_a_plugin_cannot_set_it():
    """Outside of `prepare`, and to what is no LowSpeed, it is refused."""

    class Late(Plugin):
        @hookimpl
        async def validate(self, transfer):
            transfer.low_speed = None

    class Wrong(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            transfer.low_speed = 5

    mem = MemDriver()
    mem.site(HOME, Reply(BYTES))
    for plugin, told in ((Late(), "in prepare only"), (Wrong(), "takes a LowSpeed, not int")):
        async with context_of(mem, plugin) as context:
            with pytest.raises(PluginError, match=told):
                await Download(HOME, BufferWriter(), context=context).run()


@pytest.mark.parametrize(
    ("size", "seconds"), [(-1, 1), (1.5, 1), (True, 1), (1, 0), (1, -1), (1, float("inf")), (1, "1")]
)
def test_what_is_no_limit(size, seconds):
    """Refused when it is made."""
    with pytest.raises(ValueError, match="LowSpeed"):
        LowSpeed(size, seconds)


async def test_the_seconds_of_an_attempt_are_those_of_its_source():
    """`transfer.seconds`: waiting for head and blocks counts, waiting in hooks does not; each attempt begins at 0."""
    seen = []

    class Look(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            seen.append(transfer.seconds)
            await asyncio.sleep(0.3)

        @hookimpl
        async def validate(self, transfer):
            seen.append(transfer.seconds)

    mem = MemDriver()
    mem.site(HOME, Reply(BYTES, block=len(BYTES) // 2))
    async with context_of(mem, Look(), Dripping("home", 0.05)) as context:
        await Download(HOME, BufferWriter(), context=context).run()
    assert seen[0] == 0.0
    assert 0.09 < seen[1] < 0.29
    assert replace(LowSpeed(1, 1)) == LowSpeed(1, 1)


async def test_a_source_that_does_not_begin_to_answer_is_given_up_too():
    """The head counts: whoever says nothing within the seconds has sent fewer bytes than any; slots are free again."""
    mem = MemDriver()
    mem.site(HOME, Reply(BYTES, hang="open"))
    mem.site(OTHER, Reply(BYTES))
    async with context_of(mem, Mirrors((HOME, OTHER)), low_speed=LowSpeed(1, 0.1)) as context:
        result = await Download(HOME, BufferWriter(), context=context).run()
        assert context.connections_in_use == 0
    assert [(each.source, each.error.phase) for each in result.history] == [(HOME, "low speed")]
    assert "did not begin to answer within 0.1 s" in str(result.history[0].error)
    assert mem.live == 0


async def test_a_stall_after_enough_bytes_is_given_up_too():
    """A window that has its bytes says nothing for the next one."""
    mem = MemDriver()
    mem.site(HOME, Reply(BYTES, cut=100_000, hang="body"))
    async with context_of(mem, retries=0, low_speed=LowSpeed(1000, 0.1)) as context:
        with pytest.raises(TimeoutExceeded, match="fewer than 1000"):
            await Download(HOME, BufferWriter(), context=context).run()
