"""Slots: taken when a driver's answer is entered, given back when it is left; nobody else waits in one."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mem import MemDriver, Reply, context_of, slot, until

from downhaul import (
    BufferWriter,
    Download,
    FileWriter,
    NotFound,
    Plugin,
    Retry,
    Timeout,
    TimeoutExceeded,
    hookimpl,
    origin,
)
from downhaul._governor import Governor

if TYPE_CHECKING:
    from downhaul import Context, Request, Settings

URL = "mem://home/file"


class Peaks(MemDriver):
    """Counts open answers by origin too."""

    def __init__(self) -> None:
        super().__init__()
        self.open_at: Counter[str] = Counter()
        self.peaks: Counter[str] = Counter()

    @asynccontextmanager
    async def open(self, request: Request, settings: Settings):
        where = request.origin
        self.open_at[where] += 1
        self.peaks[where] = max(self.peaks[where], self.open_at[where])
        try:
            async with super().open(request, settings) as payload:
                yield payload
        finally:
            self.open_at[where] -= 1


class Looks(Plugin):
    """Writes down how many slots are in use in each hook."""

    def __init__(self) -> None:
        self.seen: dict[str, set[int]] = {}

    def look(self, hook, transfer):
        self.seen.setdefault(hook, set()).add(transfer.context.connections_in_use)

    @hookimpl
    async def prepare(self, transfer):
        self.look("prepare", transfer)

    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        self.look("fetch", transfer)
        return self.around(transfer, (yield))

    @asynccontextmanager
    async def around(self, transfer, answer):
        async with answer as payload:
            self.look("inside", transfer)
            yield payload
        self.look("after", transfer)

    @hookimpl
    async def validate(self, transfer):
        self.look("validate", transfer)

    @hookimpl
    async def error(self, transfer, error):
        self.look("error", transfer)

    @hookimpl
    def done(self, transfer, outcome):
        self.look("done", transfer)


async def test_no_hook_runs_in_a_slot():
    """“Taken when what a *driver* answered is entered and given back when it is left, before `validate`”."""
    looks, mem = Looks(), MemDriver()
    mem.site(URL, Reply(b"bytes", cut=2), Reply(status=503), Reply(b"bytes"))
    async with context_of(mem, looks) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert looks.seen.pop("inside") == {1}
    assert looks.seen == {hook: {0} for hook in ("prepare", "fetch", "after", "validate", "error", "done")}


async def test_no_slot_is_held_while_waiting_for_the_next_round(monkeypatch):
    """“Slots held while sleeping” was an ancestor's bug."""
    used, real = [], asyncio.sleep

    async def sleep(delay, *arguments):
        if delay:
            used.append(context.connections_in_use)
        await real(0, *arguments)

    mem = MemDriver()
    mem.site(URL, Reply(status=503, retry_after=5), Reply(b"bytes"))
    async with context_of(mem) as context:
        monkeypatch.setattr(asyncio, "sleep", sleep)
        await Download(URL, BufferWriter(), context=context).run()
    assert used == [0]


@pytest.mark.parametrize("hook", ["prepare", "validate", "error"])
async def test_a_waiting_hook_keeps_nobody_else_waiting(hook):
    """With one connection, a download that waits in a hook lets the others through."""
    inside, gate = asyncio.Event(), asyncio.Event()

    class Waits(Plugin):
        async def wait(self, here):
            if here == hook:
                inside.set()
                await gate.wait()

        @hookimpl
        async def prepare(self, transfer):
            await self.wait("prepare")

        @hookimpl
        async def validate(self, transfer):
            await self.wait("validate")

        @hookimpl
        async def error(self, transfer, error):
            await self.wait("error")

    mem = MemDriver()
    mem.site(URL, *([Reply(status=503)] if hook == "error" else []), Reply(b"bytes"))
    mem.site("mem://home/other", Reply(b"other"))
    async with context_of(mem, connections=1) as context:
        waiting = asyncio.create_task(Download(URL, BufferWriter(), context=context, plugins=[Waits()]).run())
        await inside.wait()
        await asyncio.wait_for(Download("mem://home/other", BufferWriter(), context=context).run(), 5)
        assert not waiting.done()
        gate.set()
        await waiting


async def test_limits_hold_in_total_and_per_origin():
    """“The governor is the only limit”, counted where it matters: in the driver."""
    mem, urls = Peaks(), [f"mem://host{n % 5}/{n}" for n in range(60)]
    for url in urls:
        mem.site(url, Reply(bytes(100_000)))
    async with context_of(mem, connections=7, connections_per_origin=2) as context:
        await asyncio.gather(*(Download(url, BufferWriter(), context=context).run() for url in urls))
    assert mem.peak == 7
    assert set(mem.peaks.values()) == {2}


async def test_all_slots_of_one_origin_may_be_used():
    """The limit of an origin is reached, not only kept."""
    mem = Peaks()
    mem.site(URL, Reply(bytes(100_000)))
    async with context_of(mem, connections=100, connections_per_origin=5) as context:
        await asyncio.gather(*(Download(URL, BufferWriter(), context=context).run() for _ in range(30)))
    assert mem.peak == 5


async def test_a_slow_origin_keeps_no_other_waiting():
    """Downloads of another origin pass by those that wait for their own."""
    mem, gate = Peaks(), asyncio.Event()
    mem.site(URL, Reply(b"slow", gate=gate))
    mem.site("mem://fast/file", Reply(b"fast"))
    async with context_of(mem, connections=3, connections_per_origin=2) as context:
        slow = [asyncio.create_task(Download(URL, BufferWriter(), context=context).run()) for _ in range(10)]
        await until(lambda: mem.live >= 2)
        fast = [Download("mem://fast/file", BufferWriter(), context=context).run() for _ in range(10)]
        await asyncio.wait_for(asyncio.gather(*fast), 5)
        assert not any(task.done() for task in slow)
        gate.set()
        await asyncio.gather(*slow)


async def test_origins_take_turns():
    """One that comes late, of another origin, does not wait for all that came before."""
    governor, order, gate = Governor(1, 1), [], asyncio.Event()

    async def work(where):
        async with slot(governor, where):
            order.append(where)
            await gate.wait()

    tasks = [asyncio.create_task(work(where)) for where in ("a", "a", "a", "a", "b", "b")]
    await until(lambda: order)
    gate.set()
    await asyncio.gather(*tasks)
    assert order == ["a", "a", "b", "a", "b", "a"]


async def test_cancelling_in_the_queue_leaves_it():
    """A download that is cancelled while it waits for a slot takes none, and leaves no trace."""
    mem, gate = MemDriver(), asyncio.Event()
    mem.site(URL, Reply(b"bytes", gate=gate))
    async with context_of(mem, connections=1) as context:
        first, second, third = (
            asyncio.create_task(Download(URL, BufferWriter(), context=context).run()) for _ in range(3)
        )
        await until(lambda: mem.live)
        for _ in range(5):
            await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.set()
        await asyncio.gather(first, third)
        assert context.connections_in_use == 0
    assert len(mem.log) == 2


async def test_cancelling_when_the_slot_has_just_come_passes_it_on():
    """A slot that comes while its taker is being cancelled goes to the next."""
    governor = Governor(1, 1)
    order = []

    async def work(name, gate):
        async with slot(governor, "a"):
            order.append(name)
            await gate.wait()

    gate, shut = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(work("first", gate))
    second = asyncio.create_task(work("second", shut))
    third = asyncio.create_task(work("third", gate))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.sleep(0)  # first has ended, and its slot is second's, who has not run yet
    second.cancel()
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert order == ["first", "third"]
    assert governor.used == 0


async def test_total_time_bounds_the_queue():
    """A download that gets no slot in its total time fails by it."""
    mem = MemDriver()
    mem.site(URL, Reply(hang="open"))
    async with context_of(mem, connections=1) as context:
        holder = asyncio.create_task(Download(URL, BufferWriter(), context=context).run())
        await until(lambda: mem.live)
        with pytest.raises(TimeoutExceeded) as caught:
            await Download("mem://away/file", BufferWriter(), context=context, timeout=Timeout(total=0.02)).run()
        assert caught.value.phase == "total"
        holder.cancel()
        await asyncio.wait([holder])
        assert context.connections_in_use == 0


async def test_a_redirect_takes_the_slot_of_the_new_origin():
    """Each hop has "the slot, the settings and the driver of its own origin"; the old one is free meanwhile."""
    mem = Peaks()
    mem.site(URL, Reply(location="mem://away/file"))
    mem.site("mem://home/other", Reply(b"other"))
    gate = asyncio.Event()
    mem.site("mem://away/file", Reply(b"bytes", gate=gate))
    async with context_of(mem, connections=2, connections_per_origin=1) as context:
        redirected = [asyncio.create_task(Download(URL, BufferWriter(), context=context).run()) for _ in range(5)]
        await until(lambda: mem.open_at["mem://away"])
        await asyncio.wait_for(Download("mem://home/other", BufferWriter(), context=context).run(), 5)
        gate.set()
        await asyncio.gather(*redirected)
    assert mem.peaks == {"mem://home": 1, "mem://away": 1}


async def test_a_redirect_needs_no_second_slot():
    """With one connection, a chain of redirects works."""
    mem = Peaks()
    for number in range(5):
        mem.site(f"mem://host{number}/", Reply(location=f"mem://host{number + 1}/"))
    mem.site("mem://host5/", Reply(b"bytes"))
    async with context_of(mem, connections=1) as context:
        result = await asyncio.wait_for(Download("mem://host0/", BufferWriter(), context=context).run(), 5)
    assert result.source == "mem://host5/"
    assert mem.peak == 1


async def test_whatever_happens_slots_come_back(tmp_path):
    """Failures on opening, in the body, in a wrapper; cancellations: after all of them no slot is missing."""

    class Breaks(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer):
            return self.around((yield))

        @asynccontextmanager
        async def around(self, answer):
            async with answer as payload:
                raise ValueError
                yield payload

    mem = MemDriver()
    mem.site("mem://home/cut", Reply(bytes(1000), cut=500))
    mem.site("mem://home/busy", Reply(status=503))
    mem.site("mem://home/hang", Reply(bytes(1000), hang="body"))
    async with context_of(mem, connections=1, retries=1) as context:
        for name, plugins in (("cut", []), ("busy", []), ("gone", []), ("cut", [Breaks()])):
            download = Download(f"mem://home/{name}", FileWriter(tmp_path / "f"), context=context, plugins=plugins)
            with pytest.raises(Exception):  # noqa: B017 - whichever
                await download.run()
            assert context.connections_in_use == 0
        task = asyncio.create_task(Download("mem://home/hang", FileWriter(tmp_path / "f"), context=context).run())
        await until(lambda: mem.live)
        task.cancel()
        await asyncio.wait([task])
        assert context.connections_in_use == 0


async def test_error_hooks_may_wait_for_other_downloads():
    """A hook that waits for another download of the same context finds a slot free, even the only one."""

    class Fetches(Plugin):
        def __init__(self, context: Context) -> None:
            self.context = context

        @hookimpl
        async def error(self, transfer, error):
            if isinstance(error, NotFound) and transfer.parent is None:
                await transfer.nested(self, "mem://home/help", BufferWriter()).run()
            return Retry(after=0) if transfer.round == 1 else None

    mem = MemDriver()
    mem.site(URL, Reply(status=404), Reply(b"bytes"))
    mem.site("mem://home/help", Reply(b"help"))
    async with context_of(mem, connections=1) as context:
        await asyncio.wait_for(Download(URL, BufferWriter(), context=context, plugins=[Fetches(context)]).run(), 5)
    assert mem.urls == [URL, "mem://home/help", URL]


@pytest.mark.parametrize("limits", [{"connections": 0}, {"connections_per_origin": -1}])
def test_limits_are_numbers_from_one(limits):
    """A context without connections could do nothing."""
    with pytest.raises(ValueError, match="from 1"):
        context_of(MemDriver(), **limits)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(["take", "give", "cancel"]), st.sampled_from("abc"), st.integers(0, 30))),
)
async def test_the_governor_keeps_its_limits_and_starves_nobody(total, per_origin, steps):
    """Whatever comes and goes: no limit is passed, and nobody waits for a slot that is free for him."""
    governor = Governor(total, per_origin)
    everybody: list[asyncio.Task[None]] = []
    holding: list[tuple[asyncio.Task[None], asyncio.Event]] = []
    inside: Counter[str] = Counter()
    waiting: Counter[str] = Counter()

    async def work(where: str, end: asyncio.Event) -> None:
        waiting[where] += 1
        try:
            async with slot(governor, where):
                waiting[where] -= 1
                inside[where] += 1
                try:
                    await end.wait()
                finally:
                    inside[where] -= 1
                    waiting[where] += 1
        finally:
            waiting[where] -= 1

    for what, where, which in steps:
        if what == "take":
            end = asyncio.Event()
            everybody.append(asyncio.create_task(work(where, end)))
            holding.append((everybody[-1], end))
        elif holding:
            task, end = holding.pop(which % len(holding))
            task.cancel() if what == "cancel" else end.set()
        if which % 3:  # sometimes several things happen at once
            for _ in range(5):
                await asyncio.sleep(0)
            assert governor.used == sum(inside.values()) <= total
            assert all(count <= per_origin for count in inside.values())
            free = sum(inside.values()) < total
            assert not any(free and waiting[each] and inside[each] < per_origin for each in "abc")
    for task in everybody:
        task.cancel()
    await asyncio.gather(*everybody, return_exceptions=True)
    assert governor.used == 0


def test_origin_is_what_the_limit_counts_by():
    """Scheme, host and port, the default port left out."""
    assert origin("https://Host:443/a") == origin("https://host/b") != origin("http://host/b")


# --- who waits goes first ---------------------------------------------------------------------------------------


async def test_a_stream_goes_before_bulk_work():
    """A client that waits for a stream gets the next slot, before a thousand files that were there earlier."""
    mem, gate = MemDriver(), asyncio.Event()
    mem.site("mem://home/held", Reply(b"held", gate=gate))
    for number in range(20):
        mem.site(f"mem://home/bulk-{number}", Reply(b"bulk"))
    mem.site("mem://home/wanted", Reply(b"wanted"))
    async with context_of(mem, connections=1) as context:
        governor = context._bound().governor
        held = asyncio.create_task(Download("mem://home/held", BufferWriter(), context=context).run())
        await until(lambda: governor.used == 1)
        bulk = [
            asyncio.create_task(Download(f"mem://home/bulk-{number}", BufferWriter(), context=context).run())
            for number in range(20)
        ]
        await until(lambda: governor.waiting == 20)
        wanted = asyncio.create_task(consume(Download("mem://home/wanted", context=context)))
        await until(lambda: governor.waiting == 21)
        gate.set()
        assert await wanted == b"wanted"
        await asyncio.gather(held, *bulk)
    assert mem.urls[:2] == ["mem://home/held", "mem://home/wanted"]


async def consume(download: Download) -> bytes:
    """Return the bytes of a stream of *download*."""
    async with download.stream() as stream:
        return b"".join([block async for block in stream])


async def test_what_a_stream_needs_first_goes_before_bulk_work():
    """A token or a mirror list that a waiting client needs is as urgent as its stream."""

    class Needs(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            await transfer.nested(self, "mem://home/token", BufferWriter()).run()

    mem, gate = MemDriver(), asyncio.Event()
    mem.site("mem://home/held", Reply(b"held", gate=gate))
    for name in ("bulk", "token", "wanted"):
        mem.site(f"mem://home/{name}", Reply(name.encode()))
    async with context_of(mem, connections=1) as context:
        governor = context._bound().governor
        tasks = [asyncio.create_task(Download("mem://home/held", BufferWriter(), context=context).run())]
        await until(lambda: governor.used == 1)
        tasks += [
            asyncio.create_task(Download("mem://home/bulk", BufferWriter(), context=context).run()) for _ in range(3)
        ]
        await until(lambda: governor.waiting == 3)
        tasks.append(asyncio.create_task(consume(Download("mem://home/wanted", context=context, plugins=[Needs()]))))
        await until(lambda: governor.waiting == 4)
        gate.set()
        await asyncio.gather(*tasks)
    assert mem.urls[:2] == ["mem://home/held", "mem://home/token"]
    assert mem.urls.index("mem://home/wanted") == 3, "bulk work had the slot while the stream had no need of one"


async def test_an_urgent_one_that_stops_waiting_leaves_nothing():
    """A waiting client that goes away gives its place up."""
    governor = Governor(1, 1)
    async with slot(governor, "a"):
        for urgent in (True, False):
            task = asyncio.create_task(hold(governor, urgent=urgent))
            await until(lambda: governor.waiting == 1)
            task.cancel()
            await asyncio.wait([task])
            assert governor.waiting == 0
    assert governor.used == 0


async def hold(governor: Governor, *, urgent: bool) -> None:
    """Take a slot, and give it back."""
    async with slot(governor, "a", urgent=urgent):
        pass
