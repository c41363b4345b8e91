"""What downloads share: made when needed, shared by many threads, closed once and for good."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from tests.core.forms import FORMS, plans_of, run, wait_until
from tests.mem import MemDriver, Reply, names, until

from downhaul import (
    BufferWriter,
    Context,
    Download,
    FileWriter,
    Plugin,
    PluginError,
    Settings,
    UnsupportedScheme,
    hookimpl,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from downhaul import Transfer

URL = "mem://home/file"
DATA = b"the bytes of the file"


@pytest.fixture
def driver() -> MemDriver:
    """A driver with one file."""
    driver = MemDriver()
    driver.site(URL, Reply(DATA))
    return driver


def job(context: Context, **options: Any) -> Download:
    """Return a download of the file."""
    return Download(URL, BufferWriter(), context=context, **options)


class Begun(Plugin):
    """Tells when an answer is being opened."""

    def __init__(self) -> None:
        self.event = threading.Event()

    @hookimpl(wrapper=True)
    def fetch(self, transfer: Transfer) -> Any:
        self.event.set()
        return (yield)


def threads() -> int:
    """Return how many threads of ours there are."""
    return sum(thread.name.startswith("downhaul") for thread in threading.enumerate())


@pytest.mark.parametrize("form", FORMS)
def test_closed_context_refuses_work(form: str, driver: MemDriver) -> None:
    """Work on a closed context is an error, before anybody is asked."""
    context = Context(drivers={"mem": driver})
    run(form, job(context))
    context.close()
    assert context.is_closed
    with pytest.raises(RuntimeError, match="this context is closed"):
        run(form, job(context))
    with pytest.raises(RuntimeError, match="this context is closed"):
        plans_of(form, [job(context)], context=context)
    with pytest.raises(RuntimeError, match="this context is closed"), context:
        pass
    with pytest.raises(RuntimeError, match="this context is closed"), job(context).stream():
        pass
    assert len(driver.log) == 1


def test_closing_again_is_harmless(driver: MemDriver) -> None:
    """A context may be closed again, and closed though it was never used."""
    context = Context(drivers={"mem": driver})
    job(context)()
    for _ in range(3):
        context.close()
    assert driver.closed == 1
    with Context(drivers={"mem": driver}) as unused:
        unused.close()
    assert driver.closed == 1


@pytest.mark.parametrize("form", FORMS)
def test_aclose_of_drivers_is_called_once(form: str, driver: MemDriver) -> None:
    """Each driver that was used is closed once, when the context ends, however many schemes it serves."""
    driver.site("other://home/file", Reply(DATA))
    unused = MemDriver()
    with Context(drivers={"mem": driver, "other": driver, "unused": unused}) as context:
        run(form, job(context))
        run(form, Download("other://home/file", BufferWriter(), context=context))
        assert driver.closed == 0
    assert (driver.closed, unused.closed) == (1, 0)


def test_a_driver_that_cannot_be_closed(driver: MemDriver) -> None:
    """A driver that fails to close is reported by name, everything else is closed nevertheless."""

    class Broken(MemDriver):
        async def aclose(self) -> None:
            raise OSError("still busy")

    broken = Broken()
    broken.site("broken://home/file", Reply(DATA))
    before = threads()
    context = Context(drivers={"broken": broken, "mem": driver})
    Download("broken://home/file", BufferWriter(), context=context)()
    job(context)()
    with pytest.raises(PluginError, match=r"Broken\.aclose failed: OSError: still busy"):
        context.close()
    assert (driver.closed, threads(), context.is_closed) == (1, before, True)


def test_close_cancels_what_runs_and_cleans_up(driver: MemDriver, tmp_path: Path) -> None:
    """Closing a context cancels what runs in it, and waits until that has left nothing behind."""
    driver.site(URL, Reply(bytes(3 << 20), hang="body"))
    context = Context(drivers={"mem": driver})
    with ThreadPoolExecutor() as pool:
        work = pool.submit(Download(URL, FileWriter(tmp_path / "file"), context=context))
        wait_until(lambda: names(tmp_path))
        context.close()
        assert (driver.live, context.connections_in_use, names(tmp_path)) == (0, 0, [])
        with pytest.raises(RuntimeError, match="the context was closed while it was at work"):
            work.result(10)


async def test_leaving_a_bound_context_cancels_what_runs(driver: MemDriver, tmp_path: Path) -> None:
    """Leaving `async with` cancels what runs in the context, and waits for its clean-up."""
    driver.site(URL, Reply(bytes(3 << 20), hang="body"))
    async with Context(drivers={"mem": driver}) as context:
        download = Download(URL, FileWriter(tmp_path / "file"), context=context)
        task = asyncio.create_task(download.run())
        await until(lambda: names(tmp_path))
    assert (driver.live, driver.closed, context.connections_in_use, names(tmp_path)) == (0, 1, 0, [])
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(RuntimeError, match="this context is closed"):
        await download.run()


async def test_async_with_binds_to_the_running_loop(driver: MemDriver) -> None:
    """Only `async with Context()` binds a context to the running loop; it starts no thread."""
    before = threads()
    async with Context(drivers={"mem": driver}) as context:
        await job(context).run()
        assert threads() == before
        with pytest.raises(RuntimeError, match="this context belongs to an event loop; leave its `async with`"):
            context.close()
    with Context(drivers={"mem": driver}) as context:
        await job(context).run()
        assert threads() == before + 1
    assert threads() == before


async def test_async_with_refuses_a_used_context(driver: MemDriver) -> None:
    """A context that is in use has its loop already, and is refused; so is a closed one, and entering twice."""
    with Context(drivers={"mem": driver}) as context:
        await job(context).run()
        with pytest.raises(RuntimeError, match="this context is in use already; enter it before its first download"):
            async with context:
                pass
    with pytest.raises(RuntimeError, match="this context is closed"):
        async with context:
            pass
    async with Context(drivers={"mem": driver}) as bound:
        with pytest.raises(RuntimeError, match="in use already"):
            async with bound:
                pass


def test_a_context_whose_loop_is_gone(driver: MemDriver) -> None:
    """A context that was bound to a loop which does not run any more refuses work instead of waiting for ever."""
    for close in (False, True):
        loop = asyncio.new_event_loop()
        context = loop.run_until_complete(Context(drivers={"mem": driver}).__aenter__())
        if close:
            loop.close()
        for work in (job(context), lambda: asyncio.run(job(context).run())):  # noqa: B023
            with pytest.raises(RuntimeError, match="the event loop that this context belongs to does not run"):
                work()
        loop.close()


def test_many_threads_share_a_context(driver: MemDriver) -> None:
    """Thirty-two threads that begin at once share one context: one loop thread, one driver, its limits for all."""
    before = set(threading.enumerate())
    with Context(drivers={"mem": driver}, connections=5) as context, ThreadPoolExecutor(32) as pool:
        start = threading.Barrier(32)

        def work(_: int) -> int:
            start.wait(10)
            return sum(job(context)().size for _ in range(5))

        assert list(pool.map(work, range(32))) == [5 * len(DATA)] * 32
        assert sum(thread.name == "downhaul" for thread in set(threading.enumerate()) - before) == 1
        assert len(driver.log) == 160
        assert driver.peak <= 5
    assert driver.closed == 1


def test_threads_against_close(driver: MemDriver) -> None:
    """Whatever races with the closing of a context ends: with its result, or with an error, never with a wait."""
    for _ in range(20):
        context = Context(drivers={"mem": driver})
        start = threading.Barrier(9)

        def work() -> str:
            start.wait(10)  # noqa: B023
            try:
                for _ in range(1000):
                    job(context)()  # noqa: B023
            except RuntimeError as reason:
                return str(reason)
            return "done"

        with ThreadPoolExecutor(8) as pool:
            works = [pool.submit(work) for _ in range(8)]
            start.wait(10)
            context.close()
            said = {each.result(10) for each in works}
        assert said <= {"this context is closed", "the context was closed while it was at work"}
        assert (driver.live, context.connections_in_use) == (0, 0)


def test_a_hook_cannot_close_its_context(driver: MemDriver) -> None:
    """A hook that closes the context it runs in gets an error, and no deadlock."""

    class Closes(Plugin):
        @hookimpl
        async def prepare(self, transfer: Transfer) -> None:
            transfer.context.close()

    with Context(drivers={"mem": driver}) as context:
        with pytest.raises(PluginError, match=r"Closes\.prepare failed: RuntimeError: a hook cannot close the context"):
            job(context, plugins=[Closes()])()
        assert job(context)().size == len(DATA)


def test_a_hook_cannot_wait_in_the_context_thread(driver: MemDriver) -> None:
    """A hook that makes a synchronous call gets an error that says what to do, and no deadlock."""

    class Calls(Plugin):
        @hookimpl
        async def prepare(self, transfer: Transfer) -> None:
            job(transfer.context)()

    with (
        Context(drivers={"mem": driver}) as context,
        pytest.raises(PluginError, match=r"Calls\.prepare failed: RuntimeError: .*use `await download\.run\(\)`"),
    ):
        job(context, plugins=[Calls()])()


def test_a_forgotten_context_goes(driver: MemDriver) -> None:
    """A context that nobody has any more is collected, with its thread and pools: nothing keeps it, at exit or else."""
    before = set(threading.enumerate())
    drivers = [MemDriver() for _ in range(20)]
    references = []
    for each in drivers:
        each.site(URL, Reply(DATA))
        context = Context(drivers={"mem": each}, plugins=[Begun()])
        job(context)()
        references.append(weakref.ref(context))
    del context
    ours = set(threading.enumerate()) - before
    gc.collect()
    assert [reference() for reference in references] == [None] * 20
    for thread in ours:
        thread.join(10)
    assert [each.closed for each in drivers] == [1] * 20
    assert not ours & set(threading.enumerate())


def test_an_unused_context_costs_nothing() -> None:
    """A context without work has no thread, and is gone when it is dropped."""
    before = threads()
    reference = weakref.ref(Context())
    gc.collect()
    assert (reference(), threads()) == (None, before)


def test_a_running_download_keeps_its_context(driver: MemDriver) -> None:
    """A context that was dropped while a download runs in it stays until that has ended."""
    gate = asyncio.Event()
    driver.site(URL, Reply(DATA, gate=gate))
    begun = Begun()

    def work() -> int:
        return job(Context(drivers={"mem": driver}), plugins=[begun])().size

    with ThreadPoolExecutor() as pool:
        size = pool.submit(work)
        assert begun.event.wait(10)
        gc.collect()
        [context] = [each for each in gc.get_objects() if type(each) is Context and each._given == {"mem": driver}]
        context._call_soon(gate.set)
        del context
        assert size.result(10) == len(DATA)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"connections": 0}, ValueError, "connections=… is a number from 1, not 0"),
        ({"connections": True}, TypeError, "connections=… is a whole number, not True"),
        ({"connections_per_origin": -1}, ValueError, "connections_per_origin=… is a number from 1, not -1"),
        ({"connections_per_origin": 2.5}, TypeError, "connections_per_origin=… is a whole number, not 2.5"),
        ({"drivers": {"mem": object()}}, TypeError, "takes a Driver or the name of a distribution"),
        ({"drivers": {"mem": MemDriver}}, TypeError, "takes a Driver or the name of a distribution"),
        ({"plugins": "metalink"}, TypeError, r"plugins=… takes several: \['metalink'\]"),
        ({"plugins": 7}, TypeError, "plugins=… takes several, such as a list; not a single int"),
        ({"plugins": ["no-such-plugin"]}, PluginError, r"no plugin 'no-such-plugin' \(installed: "),
        ({"retries": -1}, ValueError, "retries=…"),
        ({"colour": "red"}, TypeError, "colour"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """What a context cannot work with is refused when it is made."""
    with pytest.raises(error, match=message):
        Context(**options)


def test_settings_come_in_both_ways() -> None:
    """Settings come as a `Settings`, as its fields, or both, where fields win."""
    assert Context(retries=1).settings == Context(settings=Settings(retries=1)).settings == Settings(retries=1)
    assert Context(settings=Settings(retries=1, max_size=2), retries=3).settings == Settings(retries=3, max_size=2)
    assert Context().settings == Settings()


def test_drivers_by_scheme(driver: MemDriver) -> None:
    """`drivers=` gives a scheme a driver of one's own, in any case; other schemes stay as they are."""
    with Context(drivers={"MEM": driver}) as context:
        assert job(context)().size == len(DATA)
        with pytest.raises(UnsupportedScheme):
            Download("other://home/", BufferWriter(), context=context)()


def test_a_given_driver_needs_no_look_around(driver: MemDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver is given, nobody looks through the installed distributions, which takes a while."""
    monkeypatch.setattr("importlib.metadata.entry_points", None)
    with Context(drivers={"mem": driver}) as context:
        assert context.download(URL, BufferWriter())().size == len(DATA)


PLUGIN = """
from downhaul import Plugin, hookimpl
seen = []

class Noted(Plugin):
    @hookimpl
    async def prepare(self, transfer):
        seen.append(transfer.download.url)

ready = Noted()

class Broken(Plugin):
    def __init__(self):
        raise RuntimeError("not on Sundays")

nothing = 7
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A distribution that announces plugins; returns its module."""
    info = tmp_path / "acme_noted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-noted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[downhaul.plugins]\nnoted = acme_noted:Noted\nready = acme_noted:ready\nbroken = acme_noted:Broken\n"
        "nothing = acme_noted:nothing\nmissing = acme_noted:missing\n"
    )
    (tmp_path / "acme_noted.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("acme_noted", None)
    return lambda: sys.modules["acme_noted"]


@pytest.mark.parametrize("name", ["noted", "ready"])
@pytest.mark.parametrize("where", ["context", "download"])
def test_plugins_by_name(name: str, where: str, installed: Callable[[], Any], driver: MemDriver) -> None:
    """Plugins of the entry-point group are enabled by name, as a class or as an object."""
    own, shared = ([name], []) if where == "download" else ([], [name])
    with Context(drivers={"mem": driver}, plugins=shared) as context:
        job(context, plugins=own)()
    assert installed().seen == [URL]


def test_installing_a_plugin_changes_nothing(installed: Callable[[], Any], driver: MemDriver) -> None:
    """A plugin that is installed and not named is not even imported."""
    with Context(drivers={"mem": driver}) as context:
        job(context)()
    assert "acme_noted" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "plugin 'broken' cannot be loaded: RuntimeError: not on Sundays"),
        ("missing", "plugin 'missing' cannot be loaded: AttributeError"),
        ("nothing", "int is no plugin"),
        ("absent", r"no plugin 'absent' \(installed: broken, .*noted, nothing, ready"),
    ],
)
def test_plugins_that_cannot_be_had(name: str, message: str, installed: Callable[[], Any]) -> None:
    """A name that leads to no plugin is a PluginError that says why."""
    with pytest.raises(PluginError, match=message):
        Context(plugins=[name])


class Opened(Plugin):
    """Counts how often it is entered and left."""

    def __init__(self, enter: Exception | None = None, leave: Exception | None = None) -> None:
        self.log: list[str] = []
        self.fails = enter, leave

    def open(self, context: Context) -> contextlib.AbstractAsyncContextManager[None]:
        return self._open(context)

    @contextlib.asynccontextmanager
    async def _open(self, context: Context) -> AsyncIterator[None]:
        if self.fails[0] is not None:
            raise self.fails[0]
        self.log.append(f"entered {type(context).__name__}")
        yield
        self.log.append("left")
        if self.fails[1] is not None:
            raise self.fails[1]

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        self.log.append("prepare")


@pytest.mark.parametrize("form", FORMS)
def test_plugins_are_entered_once_per_context(form: str, driver: MemDriver) -> None:
    """`Plugin.open` is entered once per context, before the first hook, and left when the context ends."""
    plugin = Opened()
    with Context(drivers={"mem": driver}, plugins=[plugin]) as context:
        for _ in range(2):
            run(form, job(context))
        with Context(drivers={"mem": driver}) as other:
            run(form, job(other, plugins=[plugin]))
    assert plugin.log == ["entered Context", "prepare", "prepare", "entered Context", "prepare", "left", "left"]


def test_a_plugin_that_cannot_be_entered(driver: MemDriver) -> None:
    """A plugin that cannot be entered is a PluginError of each download with it, and of nothing else."""
    with Context(drivers={"mem": driver}) as context:
        for _ in range(2):
            with pytest.raises(PluginError, match=r"Opened\.open failed: OSError: no such device"):
                job(context, plugins=[Opened(enter=OSError("no such device"))])()
        job(context)()


def test_a_plugin_that_cannot_be_left(driver: MemDriver, caplog: pytest.LogCaptureFixture) -> None:
    """A plugin that fails to end is logged with its name; everything else is closed nevertheless."""
    with (
        caplog.at_level(logging.ERROR),
        Context(drivers={"mem": driver}, plugins=[Opened(leave=OSError("it burns"))]) as context,
    ):
        job(context)()
    assert "Opened.open failed: OSError: it burns" in caplog.text
    assert driver.closed == 1


def test_a_context_with_an_open_plugin_is_not_torn_down_by_chance(driver: MemDriver) -> None:
    """What a plugin holds open keeps a forgotten context alive, until the interpreter ends, and is left in order."""
    plugin = Opened()
    context = Context(drivers={"mem": driver}, plugins=[plugin])
    job(context)()
    reference = weakref.ref(context)
    del context
    gc.collect()
    again = reference()
    assert again is not None
    again.close()
    assert plugin.log == ["entered Context", "prepare", "left"]
