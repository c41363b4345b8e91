"""`Plugin.open`: entered once per context and equal plugin, before its first hook, left when the context ends."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from tests.mem import MemDriver, Reply, context_of, until

from downhaul import BufferWriter, Context, Download, NotFound, Plugin, PluginError, hookimpl

URL = "mem://home/file"


@dataclass(frozen=True)
class Held(Plugin):
    """Writes down its life."""

    name: str
    log: list[str] = field(default_factory=list, compare=False)

    @asynccontextmanager
    async def open(self, context):
        self.log.append(f"{self.name} entered")
        self.log.append(asyncio.current_task())
        try:
            yield
        finally:
            self.log.append(f"{self.name} left")
            self.log.append(asyncio.current_task())

    @hookimpl
    async def prepare(self, transfer):
        self.log.append(f"{self.name} prepare")

    @hookimpl
    def done(self, transfer, outcome):
        self.log.append(f"{self.name} done")

    @property
    def told(self) -> list[str]:
        return [each for each in self.log if isinstance(each, str)]


def server() -> MemDriver:
    """Return a driver that has the file."""
    mem = MemDriver()
    mem.site(URL, Reply(b"bytes"))
    return mem


async def test_entered_before_its_first_hook_and_left_at_the_end():
    """“Entered once per context and equal plugin”, before its first hook; left when the context ends."""
    log: list[str] = []
    async with context_of(server(), Held("a", log)) as context:
        assert log == []  # not before it is needed
        for _ in range(2):
            await Download(URL, BufferWriter(), context=context, plugins=[Held("a", log)]).run()
        assert Held("a", log).told == ["a entered", "a prepare", "a done", "a prepare", "a done"]
    assert Held("a", log).told[-1] == "a left"
    assert Held("a", log).told.count("a left") == 1


async def test_it_is_left_in_the_task_that_entered_it():
    """Libraries that bind a scope to a task work in `open`."""
    log: list[object] = []
    async with context_of(server(), Held("a", log)) as context:
        await asyncio.create_task(Download(URL, BufferWriter(), context=context).run())
    assert log[log.index("a entered") + 1] is log[log.index("a left") + 1]


async def test_fifty_downloads_at_once_enter_it_once():
    """However many downloads are the first."""
    log: list[str] = []
    async with context_of(server(), Held("a", log)) as context:
        await asyncio.gather(*(Download(URL, BufferWriter(), context=context).run() for _ in range(50)))
    assert Held("a", log).told.count("a entered") == 1


async def test_plugins_that_differ_and_contexts_that_differ_have_lives_of_their_own():
    """Once per context *and* equal plugin."""
    log: list[str] = []
    async with context_of(server(), Held("a", log), Held("b", log)) as one, context_of(server(), Held("a", log)) as two:
        for context in (one, two):
            await Download(URL, BufferWriter(), context=context).run()
    told = Held("a", log).told
    assert (told.count("a entered"), told.count("b entered")) == (2, 1)
    assert (told.count("a left"), told.count("b left")) == (2, 1)


def test_a_synchronous_context_enters_and_leaves_too():
    """`with Context(…)` keeps the same promise."""
    log: list[str] = []
    with context_of(server(), Held("a", log)) as context:
        Download(URL, BufferWriter(), context=context)()
        Download(URL, BufferWriter(), context=context)()
    assert Held("a", log).told == ["a entered", "a prepare", "a done", "a prepare", "a done", "a left"]


async def test_it_gets_the_context():
    """`open` is given the context whose resources it may share."""
    seen = []

    class Looks(Held):
        @asynccontextmanager
        async def open(self, context):
            seen.append(context)
            yield

    async with context_of(server(), Looks("a")) as context:
        await Download(URL, BufferWriter(), context=context).run()
        assert seen == [context]


class Breaks(Plugin):
    """Cannot be entered the first times."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.gate = asyncio.Event()
        self.entered = 0

    @asynccontextmanager
    async def open(self, context):
        self.entered += 1
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        yield

    @hookimpl
    def done(self, transfer, outcome):
        pass


@pytest.mark.parametrize("make", [lambda: ValueError("wrong"), lambda: OSError(2, "no file"), asyncio.CancelledError])
async def test_a_plugin_that_cannot_be_entered_fails_the_download(make):
    """What `open` raises is a PluginError that names it; the next download tries again."""
    plugin = Breaks(make())
    plugin.gate.set()
    async with context_of(server(), plugin) as context:
        with pytest.raises(PluginError, match=rf"Breaks.open failed: {type(make()).__name__}") as caught:
            await asyncio.wait_for(Download(URL, BufferWriter(), context=context).run(), 5)
        assert caught.value.__context__ is None
        await Download(URL, BufferWriter(), context=context).run()
    assert plugin.entered == 2


@pytest.mark.parametrize("make", [lambda: ValueError("wrong"), lambda: NotFound("404", code=404)])
async def test_each_download_that_waited_has_an_error_of_its_own(make):
    """The failure reaches every download that waited, as its own error."""
    plugin = Breaks(make())
    async with context_of(server(), plugin) as context:
        downloads = [Download(URL, BufferWriter(), context=context, attachment=n) for n in range(10)]
        tasks = [asyncio.create_task(each.run()) for each in downloads]
        await until(lambda: plugin.entered)
        for _ in range(5):
            await asyncio.sleep(0)
        plugin.gate.set()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [error.attachment for error in errors] == list(range(10))
    assert len({id(error) for error in errors}) == 10
    assert plugin.entered == 1


async def test_what_open_does_wrong_on_leaving_is_logged(caplog):
    """Nobody waits for it any more, so it is logged by name; the context ends all the same."""

    class BreaksOnLeaving(Held):
        @asynccontextmanager
        async def open(self, context):
            yield
            raise ValueError("wrong")

    other, log = [], []
    caplog.set_level(logging.ERROR, "downhaul.hooks")
    mem = server()
    async with context_of(mem, BreaksOnLeaving("a", log), Held("b", other)) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert "BreaksOnLeaving.open failed: ValueError: wrong" in caplog.text
    assert Held("b", other).told[-1] == "b left"
    assert mem.closed == 1


async def test_closing_does_not_wait_for_one_that_never_comes_in():
    """A context ends though a plugin is still being entered, and the plugin is told by a cancellation."""
    plugin = Breaks()
    async with asyncio.timeout(5):
        async with context_of(server(), plugin) as context:
            task = asyncio.create_task(Download(URL, BufferWriter(), context=context).run())
            await until(lambda: plugin.entered)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_download_does_not_disturb_the_entering():
    """The life of a plugin belongs to the context, not to the download that was first."""
    plugin = Breaks()
    async with context_of(server(), plugin) as context:
        first = asyncio.create_task(Download(URL, BufferWriter(), context=context).run())
        await until(lambda: plugin.entered)
        second = asyncio.create_task(Download(URL, BufferWriter(), context=context).run())
        first.cancel()
        await asyncio.wait([first])
        plugin.gate.set()
        await second
    assert plugin.entered == 1


async def test_a_wrong_open_is_a_plugin_error():
    """What is no async context manager cannot be entered."""

    class Wrong(Held):
        def open(self, context):
            return 5

    async with context_of(server(), Wrong("a")) as context:
        with pytest.raises(PluginError, match=r"Wrong.open failed: TypeError"):
            await Download(URL, BufferWriter(), context=context).run()


async def test_many_failures_leave_nothing_behind():
    """A plugin that never can be entered costs nothing that stays."""
    plugin = Breaks(*(ValueError() for _ in range(20)))
    plugin.gate.set()
    async with Context(drivers={"mem": server()}, plugins=[plugin]) as context:
        for _ in range(20):
            with pytest.raises(PluginError):
                await Download(URL, BufferWriter(), context=context).run()
        await asyncio.sleep(0)
        assert not context._shared.lifetimes._tasks
        assert not context._shared.lifetimes._entered
