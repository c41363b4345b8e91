"""What a plugin does wrong is a PluginError that names it: terminal, nothing chained, nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.mem import Ledger, MemDriver, Reply, context_of

from downhaul import (
    BufferWriter,
    DigestMismatch,
    Download,
    DownloadError,
    FileWriter,
    Info,
    NotFound,
    Payload,
    Plugin,
    PluginError,
    PolicyError,
    Result,
    Retry,
    ServerError,
    Timeout,
    TimeoutExceeded,
    ValidationError,
    WriteError,
    hookimpl,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from downhaul import Context

URL, BAD = "mem://home/file", "mem://home/bad"
BYTES = bytes(range(256)) * 400


def own_cancellation() -> BaseException:
    """Return a cancellation that nobody asked for."""
    return asyncio.CancelledError("of the plugin's own doing")


FOREIGN: list[Callable[[], BaseException]] = [
    lambda: ValueError("wrong"),
    lambda: StopIteration("stop"),
    lambda: StopAsyncIteration("stop"),
    lambda: TimeoutError("slow"),
    lambda: OSError(5, "input"),
    lambda: ExceptionGroup("several", [ValueError("one")]),
    own_cancellation,
]
KINDS = ["ValueError", "StopIteration", "StopAsyncIteration", "TimeoutError", "OSError", "ExceptionGroup", "Cancelled"]


@dataclass(frozen=True, eq=False)
class Prepares(Plugin):
    act: Callable[[], Any]

    @hookimpl
    async def prepare(self, transfer):
        return self.act()


@dataclass(frozen=True, eq=False)
class Fetches(Plugin):
    act: Callable[[], Any]

    @hookimpl
    def fetch(self, transfer):
        return self.act()


@dataclass(frozen=True, eq=False)
class Enters(Plugin):
    act: Callable[[], Any]

    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        return self.around((yield))

    @asynccontextmanager
    async def around(self, answer):
        async with answer as payload:
            self.act()
            yield payload


@dataclass(frozen=True, eq=False)
class Bodies(Plugin):
    act: Callable[[], Any]

    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        return self.around((yield))

    @asynccontextmanager
    async def around(self, answer):
        async with answer as payload:
            yield replace(payload, body=self.pass_on(payload.body))

    async def pass_on(self, body):
        async for block in body:
            yield block
            self.act()


@dataclass(frozen=True, eq=False)
class Leaves(Plugin):
    act: Callable[[], Any]

    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        return self.around((yield))

    @asynccontextmanager
    async def around(self, answer):
        async with answer as payload:
            yield payload
            self.act()


@dataclass(frozen=True, eq=False)
class WrapsBefore(Plugin):
    act: Callable[[], Any]

    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        self.act()
        return (yield)


@dataclass(frozen=True, eq=False)
class WrapsAfter(Plugin):
    act: Callable[[], Any]

    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        answer = yield
        self.act()
        return answer


@dataclass(frozen=True, eq=False)
class Validates(Plugin):
    act: Callable[[], Any]

    @hookimpl
    async def validate(self, transfer):
        return self.act()


@dataclass(frozen=True, eq=False)
class Repairs(Plugin):
    act: Callable[[], Any]

    @hookimpl
    async def error(self, transfer, error):
        return self.act()


@dataclass(frozen=True, eq=False)
class Counts(Plugin):
    act: Callable[[], Any]

    @hookimpl
    def done(self, transfer, outcome):
        return self.act()


PLACES = [
    (Prepares, "prepare"), (Fetches, "fetch"), (WrapsBefore, "fetch"), (WrapsAfter, "fetch"), (Enters, "fetch"),
    (Bodies, "fetch"), (Leaves, "fetch"), (Validates, "validate"), (Repairs, "error"),
]  # fmt: skip


def raising(make: Callable[[], BaseException]) -> Callable[[], None]:
    """Return a function that raises what *make* makes."""

    def act() -> None:
        raise make()

    return act


def server() -> MemDriver:
    """Return a driver that has the file."""
    mem = MemDriver()
    mem.site(URL, Reply(BYTES))
    return mem


async def fail(context: Context, kind: type, path: Path, **options: Any) -> BaseException:
    """Run a download that fails with an error hook to ask, or that would succeed; return what it raised."""
    url = BAD if kind is Repairs else URL
    with pytest.raises(BaseException) as caught:
        await Download(url, FileWriter(path / "file"), context=context, attachment="mine", **options).run()
    return caught.value


def assert_nothing_left(mem: MemDriver, context: Context, path: Path) -> None:
    """No answer is open, no slot taken, no file there."""
    assert mem.live == 0
    assert context.connections_in_use == 0
    assert list(path.iterdir()) == []


@pytest.mark.parametrize("make", FOREIGN, ids=KINDS)
@pytest.mark.parametrize(("kind", "hook"), PLACES, ids=[kind.__name__ for kind, _ in PLACES])
async def test_any_exception_of_a_hook_is_a_terminal_plugin_error(kind, hook, make, tmp_path):
    """“Any exception of a hook that is not a DownloadError is a terminal PluginError naming the plugin”."""
    ledger, mem = Ledger(), server()
    async with context_of(mem, kind(raising(make)), ledger) as context:
        error = await fail(context, kind, tmp_path)
        assert isinstance(error, PluginError)
        name = type(make()).__name__
        assert f"{kind.__name__}.{hook}" in str(error)
        # A coroutine and a generator turn a StopIteration, an async generator a StopAsyncIteration into RuntimeError.
        assert name in str(error) or (name.startswith("Stop") and "RuntimeError" in str(error))
        assert error.__cause__ is None
        assert error.__context__ is None
        assert (error.url, error.attachment) == (BAD if kind is Repairs else URL, "mine")
        assert len(ledger.errors) == (kind is Repairs)
        assert ledger.outcomes == [error]
        assert_nothing_left(mem, context, tmp_path)


@pytest.mark.parametrize(("kind", "hook"), PLACES, ids=[kind.__name__ for kind, _ in PLACES])
async def test_a_base_exception_goes_through(kind, hook, tmp_path):
    """What is no Exception (an interrupt, say) is nobody's PluginError: it goes through, once all is cleaned up."""

    class Interrupt(BaseException):
        pass

    ledger, mem = Ledger(), server()
    async with context_of(mem, kind(raising(Interrupt)), ledger) as context:
        assert isinstance(await fail(context, kind, tmp_path), Interrupt)
        assert ledger.outcomes == [None]
        assert_nothing_left(mem, context, tmp_path)


@pytest.mark.parametrize(
    ("kind", "hook"), [place for place in PLACES if place[0] not in {Repairs}], ids=lambda value: str(value)
)
async def test_a_download_error_of_a_hook_goes_the_way_of_errors(kind, hook, tmp_path):
    """“A DownloadError raised in prepare goes the way of errors”; so does one of fetch and validate."""
    acts = [ServerError("busy", code=503)]

    def act() -> None:
        if acts:
            raise acts.pop()

    ledger, mem = Ledger(), server()
    async with context_of(mem, kind(act), ledger) as context:
        result = await Download(URL, FileWriter(tmp_path / "file"), context=context).run()
        assert [type(error) for error in ledger.errors] == [ServerError]
        assert result.attempts == 2
        assert [type(each.error) for each in result.history] == [ServerError]
        assert (tmp_path / "file").read_bytes() == BYTES
        assert mem.live == context.connections_in_use == 0


async def test_a_download_error_raised_in_prepare_may_be_repaired():
    """A plugin that could not prepare may know another way: its own error hook is asked."""

    class Second(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            if transfer.attempt == 1:
                raise NotFound("no mirror yet", code=404)

        @hookimpl
        async def error(self, transfer, error):
            return Retry() if isinstance(error, NotFound) else None

    async with context_of(server(), Second()) as context:
        result = await Download(URL, BufferWriter(), context=context).run()
    assert result.attempts == 2
    assert [each.repaired_by for each in result.history] == ["Second"]


@pytest.mark.parametrize("kind", [WriteError, PluginError])
@pytest.mark.parametrize(("plugin", "hook"), PLACES, ids=[kind.__name__ for kind, _ in PLACES])
async def test_terminal_errors_are_terminal_whoever_raises_them(plugin, hook, kind, tmp_path):
    """“WriteError, PluginError, … are terminal: `error` is not asked”."""
    ledger, mem = Ledger(), server()
    async with context_of(mem, plugin(raising(lambda: kind("no"))), ledger) as context:
        error = await fail(context, plugin, tmp_path)
        assert type(error) is kind
        assert len(ledger.errors) == (plugin is Repairs)
        assert ledger.outcomes == [error]
        assert_nothing_left(mem, context, tmp_path)


async def test_a_policy_error_at_the_url_itself_is_terminal(tmp_path):
    """“… and PolicyError of the URL itself”: nobody is asked for another way."""
    ledger = Ledger()
    async with context_of(server(), Prepares(raising(lambda: PolicyError("not this one"))), ledger) as context:
        assert isinstance(await fail(context, Prepares, tmp_path), PolicyError)
    assert ledger.errors == []


@pytest.mark.parametrize("kind", [NotFound, ServerError, ValidationError, PolicyError])
async def test_a_download_error_raised_in_error_is_terminal(kind, tmp_path):
    """“One raised in `error` is terminal”: the hooks behind it are not asked, and it is what comes out."""
    behind = []

    class Behind(Plugin):
        @hookimpl
        async def error(self, transfer, error):
            behind.append(error)

    ledger, mem = Ledger(), server()
    async with context_of(mem, Repairs(raising(lambda: kind("instead"))), Behind(), ledger) as context:
        error = await fail(context, Repairs, tmp_path)
        assert type(error) is kind
        assert "instead" in str(error)
        assert behind == []
        assert [type(each.error) for each in error.history] == [NotFound]
        assert error.__context__ is None
        assert ledger.outcomes == [error]
        assert len(mem.log) == 1


@pytest.mark.parametrize("make", [*FOREIGN, lambda: NotFound("done", code=404)], ids=[*KINDS, "DownloadError"])
@pytest.mark.parametrize("url", [URL, BAD], ids=["of a success", "of a failure"])
async def test_an_exception_in_done_is_logged_and_changes_nothing(make, url, tmp_path, caplog):
    """“An exception in `done` is logged with the plugin's name, and the remaining hooks run”."""
    first, last, mem = Ledger(), Ledger(), server()
    caplog.set_level(logging.ERROR, "downhaul.hooks")
    async with context_of(mem, first, Counts(raising(make)), last) as context:
        download = Download(url, FileWriter(tmp_path / "file"), context=context)
        outcome: object
        try:
            outcome = await download.run()
        except DownloadError as error:
            outcome = error
    assert isinstance(outcome, Result if url == URL else NotFound)
    assert first.outcomes == last.outcomes == [outcome]
    assert [record.name for record in caplog.records] == ["downhaul.hooks"]
    assert "Counts.done" in caplog.text
    assert type(make()).__name__ in caplog.text


WRONG = [
    (Prepares, "prepare", 5, "must return None"),
    (Validates, "validate", True, "must return None"),
    (Repairs, "error", True, "neither a Retry nor None"),
    (Repairs, "error", 3.0, "neither a Retry nor None"),
    (Repairs, "error", Retry, "neither a Retry nor None"),
    (Fetches, "fetch", b"bytes", "no async context manager"),
    (Fetches, "fetch", Payload(Info(URL), None), "no async context manager"),
]


@pytest.mark.parametrize(("kind", "hook", "value", "says"), WRONG)
async def test_a_wrong_return_value_is_a_plugin_error(kind, hook, value, says, tmp_path):
    """A hook that returns what it may not is named, with what it returned."""
    ledger, mem = Ledger(), server()
    async with context_of(mem, kind(lambda: value), ledger) as context:
        error = await fail(context, kind, tmp_path)
        assert isinstance(error, PluginError)
        assert kind.__name__ in str(error)
        assert hook in str(error)
        assert says in str(error)
        assert len(ledger.errors) == (kind is Repairs)
        assert_nothing_left(mem, context, tmp_path)


@pytest.mark.parametrize("value", [None, 5])
async def test_a_wrapper_that_loses_the_answer_is_named(value, tmp_path):
    """A wrapper returns an answer; forgetting the return is a PluginError with its name."""

    class Forgetful(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer):
            yield
            return value

    async with context_of(server(), Forgetful()) as context:
        error = await fail(context, Fetches, tmp_path)
    assert isinstance(error, PluginError)
    assert "Forgetful" in str(error)
    assert repr(value) in str(error)


async def test_a_wrapper_that_does_not_yield_is_named(tmp_path):
    """A wrapper that passes by its yield is a PluginError with its name."""

    class Skipping(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer):
            if transfer.attempt:
                return None
            return (yield)

    async with context_of(server(), Skipping()) as context:
        error = await fail(context, Fetches, tmp_path)
    assert isinstance(error, PluginError)
    assert "Skipping" in str(error)


class NoPayload(Plugin):
    """Answers with a context manager that opens something else."""

    @hookimpl
    def fetch(self, transfer):
        return self.answer()

    @asynccontextmanager
    async def answer(self):
        yield b"bytes"


class Swallows(Plugin):
    """Holds the answer in a context manager that swallows whatever goes wrong."""

    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        return self.around((yield))

    @asynccontextmanager
    async def around(self, answer):
        async with answer as payload:
            with suppress(Exception):
                yield payload


async def test_an_answer_that_opens_no_payload_is_a_plugin_error(tmp_path):
    """What an answer opens is a Payload; anything else is a PluginError, and terminal."""
    ledger, mem = Ledger(), server()
    async with context_of(mem, NoPayload(), ledger) as context:
        error = await fail(context, Fetches, tmp_path)
        assert isinstance(error, PluginError)
        assert "b'bytes', which is no Payload" in str(error)
        assert ledger.errors == []
        assert_nothing_left(mem, context, tmp_path)


async def test_a_swallowed_exception_is_no_success(tmp_path):
    """A context manager that swallows what went wrong would make a success of it: it is a PluginError."""
    mem = MemDriver()
    mem.site(URL, Reply(BYTES, cut=1000))
    async with context_of(mem, Swallows()) as context:
        error = await fail(context, Fetches, tmp_path)
        assert isinstance(error, PluginError)
        assert "swallowed" in str(error)
        assert_nothing_left(mem, context, tmp_path)


@pytest.mark.parametrize("plugin", [NoPayload(), Swallows()], ids=["no payload", "swallows"])
async def test_whose_answer_was_wrong_is_said(plugin, tmp_path):
    """A PluginError names the plugin."""
    mem = MemDriver()
    mem.site(URL, Reply(BYTES, cut=1000))
    async with context_of(mem, plugin) as context:
        error = await fail(context, Fetches, tmp_path)
    assert type(plugin).__name__ in str(error)


@pytest.mark.parametrize("make", [lambda: ValueError("wrong"), lambda: RuntimeError("wrong")])
async def test_a_body_in_a_plain_function_is_blamed_on_its_plugin(make, tmp_path):
    """The plugin is named too where the exception arose in a nested function, or a function of its module."""

    class Nested(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer):
            return self.around((yield))

        @asynccontextmanager
        async def around(self, answer):
            async def body():
                yield b"some"
                raise make()

            async with answer as payload:
                yield payload.transformed(body())

    async with context_of(server(), Nested()) as context:
        error = await fail(context, Fetches, tmp_path)
    assert isinstance(error, PluginError)
    assert "Nested.fetch" in str(error)


async def broken_body(make):
    """Yield a block, and fail."""
    yield b"some"
    raise make()


class Outside(Plugin):
    """Its body is a function of its module."""

    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        return self.around((yield))

    @asynccontextmanager
    async def around(self, answer):
        async with answer as payload:
            yield payload.transformed(broken_body(ValueError))


async def test_a_body_in_a_function_of_the_module_is_blamed_on_its_plugin(tmp_path):
    """Where one plugin alone comes from the module in which the exception arose, it is named."""
    async with context_of(server(), Outside()) as context:
        error = await fail(context, Fetches, tmp_path)
    assert isinstance(error, PluginError)
    assert "Outside.fetch" in str(error)


class Forever(Plugin):
    """Waits for ever in one hook."""

    def __init__(self, hook):
        self.hook = hook
        self.left = 0

    async def wait(self, hook):
        if hook == self.hook:
            try:
                await asyncio.Event().wait()
            finally:
                self.left += 1

    @asynccontextmanager
    async def open(self, context):
        await self.wait("open")
        yield

    @hookimpl
    async def prepare(self, transfer):
        await self.wait("prepare")

    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        return self.around((yield))

    @asynccontextmanager
    async def around(self, answer):
        async with answer as payload:
            await self.wait("enter")
            yield replace(payload, body=self.pass_on(payload.body))
            await self.wait("leave")

    async def pass_on(self, body):
        async for block in body:
            yield block
            await self.wait("body")

    @hookimpl
    async def validate(self, transfer):
        await self.wait("validate")

    @hookimpl
    async def error(self, transfer, error):
        await self.wait("error")


@pytest.mark.parametrize("hook", ["open", "prepare", "enter", "body", "leave", "validate", "error"])
async def test_a_hook_that_never_returns_is_bounded_by_the_total_time(hook, tmp_path):
    """“`Timeout(total=…)` covers the whole download, waits included”, and is terminal."""
    forever, ledger, mem = Forever(hook), Ledger(), server()
    url = BAD if hook == "error" else URL
    async with context_of(mem, forever, ledger) as context:
        with pytest.raises(TimeoutExceeded) as caught:
            await Download(url, FileWriter(tmp_path / "file"), context=context, timeout=Timeout(total=0.05)).run()
        assert caught.value.phase == "total"
        assert caught.value.__context__ is None
        assert ledger.outcomes == [caught.value]
        assert [type(error) for error in ledger.errors] == ([NotFound] if hook == "error" else [])
        assert_nothing_left(mem, context, tmp_path)
    assert forever.left == 1


@pytest.mark.parametrize("hook", ["prepare", "enter", "body", "leave", "validate", "error"])
async def test_cancelling_is_no_plugin_error(hook, tmp_path):
    """A cancellation from outside goes through a hook as what it is, and `done` gets None."""
    forever, ledger, mem = Forever(hook), Ledger(), server()
    inside = asyncio.Event()

    class Tells(Forever):
        async def wait(self, hook):
            if hook == self.hook:
                inside.set()
            await super().wait(hook)

    forever = Tells(hook)
    async with context_of(mem, forever, ledger) as context:
        url = BAD if hook == "error" else URL
        task = asyncio.create_task(Download(url, FileWriter(tmp_path / "file"), context=context).run())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ledger.outcomes == [None]
        assert_nothing_left(mem, context, tmp_path)


async def test_a_plugin_error_shows_no_credentials(tmp_path):
    """What a plugin's exception says is shown without userinfo and query values, in the notes too."""
    secret = "https://user:secret@host/list?token=hidden"
    async with context_of(server(), Prepares(raising(lambda: ValueError(f"no answer from {secret}")))) as context:
        error = await fail(context, Prepares, tmp_path)
    assert "no answer from https://host/list" in str(error)
    told = str(error) + repr(error) + "".join(error.__notes__)
    assert "secret" not in told.replace("secret =", "")
    assert "hidden" not in told


async def test_the_traceback_of_a_plugins_exception_is_kept_as_text(tmp_path):
    """The plugin's author finds the line; the exception itself, and all that it holds, is let go."""

    class Held(Exception):
        pass

    async with context_of(server(), Prepares(raising(Held))) as context:
        error = await fail(context, Prepares, tmp_path)
    assert any("test_plugin_errors.py" in note for note in error.__notes__)
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is Held]


async def test_setting_the_request_outside_of_prepare_is_refused(tmp_path):
    """`transfer.request` is "settable in prepare"; anywhere else it is the plugin's error."""

    class Late(Plugin):
        @hookimpl
        async def validate(self, transfer):
            transfer.request = transfer.request

    async with context_of(server(), Late()) as context:
        error = await fail(context, Fetches, tmp_path)
    assert isinstance(error, PluginError)
    assert "Late.validate" in str(error)
    assert "in prepare only" in str(error)


async def test_aiming_at_what_is_no_request_is_refused(tmp_path):
    """A URL is no Request; the plugin is told."""

    class Wrong(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            transfer.request = "mem://home/other"

    async with context_of(server(), Wrong()) as context:
        error = await fail(context, Fetches, tmp_path)
    assert isinstance(error, PluginError)
    assert "Wrong.prepare" in str(error)


async def test_aiming_at_what_is_no_url_goes_the_way_of_errors(tmp_path):
    """A mirror that is no URL is refused before anybody is asked, and the next one may be tried."""

    class Wrong(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            if transfer.attempt == 1:
                transfer.request = replace(transfer.request, url="mem://home/a\r\nb")

        @hookimpl
        async def error(self, transfer, error):
            return Retry()

    mem = server()
    async with context_of(mem, Wrong()) as context:
        result = await Download(URL, BufferWriter(), context=context).run()
    assert [type(each.error) for each in result.history] == [PolicyError]
    assert mem.urls == [URL]


async def test_validation_of_a_hook_discards_the_bytes(tmp_path):
    """“Validation failures discard the bytes”: the next attempt starts from 0, wherever the verdict came from."""
    verdicts = [DigestMismatch("wrong")]

    def act() -> None:
        if verdicts:
            raise verdicts.pop()

    mem = server()
    async with context_of(mem, Validates(act)) as context:
        await Download(URL, FileWriter(tmp_path / "file"), context=context).run()
    assert [each.offset for each in mem.log] == [0, 0]
