"""`context.once`: one flight however many wait, values by plugin and key, circles told apart from waiting."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests.mem import MemDriver, Reply, context_of, until

from downhaul import BufferWriter, Context, Download, NotFound, Plugin, PluginError, PreparationError, hookimpl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

URL = "mem://home/file"


@dataclass(frozen=True)
class Remote(Plugin):
    """A plugin as a key: equal by its configuration."""

    secret: str = ""

    @hookimpl
    def done(self, transfer, outcome):
        pass


@pytest.fixture
async def context() -> AsyncIterator[Context]:
    """Return a context on the test's loop."""
    async with context_of(MemDriver()) as context:
        yield context


@dataclass
class Factory:
    """Makes values when let go, and counts what happens to it."""

    started: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0
    cancelled: int = 0

    async def __call__(self) -> str:
        self.calls += 1
        self.started.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return f"value {self.calls}"


async def test_fifty_waiters_make_one_flight(context):
    """“The factory runs in its own task, once however many ask”; later ones get the value at once."""
    factory = Factory()
    tasks = [asyncio.create_task(context.once(Remote(), "token", factory)) for _ in range(50)]
    await factory.started.wait()
    factory.gate.set()
    assert await asyncio.gather(*tasks) == ["value 1"] * 50
    assert await context.once(Remote(), "token", factory) == "value 1"
    assert factory.calls == 1


async def test_a_cancelled_waiter_does_not_disturb_the_others(context):
    """“A cancelled waiter does not disturb it”, even the one whose asking began the flight."""
    factory = Factory()
    first, *others = [asyncio.create_task(context.once(Remote(), "token", factory)) for _ in range(5)]
    await factory.started.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    factory.gate.set()
    assert await asyncio.gather(*others) == ["value 1"] * 4
    assert (factory.calls, factory.cancelled) == (1, 0)


async def test_the_last_waiter_to_leave_cancels_the_factory(context):
    """“The last waiter to leave cancels it”, and waits until it is gone; who asks later starts another."""
    factory = Factory()
    tasks = [asyncio.create_task(context.once(Remote(), "token", factory)) for _ in range(3)]
    await factory.started.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert factory.cancelled == 1
    factory.gate.set()
    assert await context.once(Remote(), "token", factory) == "value 2"


async def test_who_asks_while_a_factory_is_being_cancelled_gets_a_new_one(context):
    """A flight that everybody has left is not joined any more."""
    ending = asyncio.Event()

    async def slow_to_end():
        try:
            await asyncio.Event().wait()
        finally:
            await ending.wait()

    async def quick():
        return "quick"

    task = asyncio.create_task(context.once(Remote(), "token", slow_to_end))
    await until(lambda: context._shared.values._flights)
    await asyncio.sleep(0)
    task.cancel()
    await until(lambda: not context._shared.values._flights)
    assert await context.once(Remote(), "token", quick) == "quick"
    ending.set()
    await asyncio.wait([task])
    assert await context.once(Remote(), "token", slow_to_end) == "quick"


async def test_failures_are_forgotten(context):
    """“Failures are forgotten”: whoever asks next starts the factory again."""
    outcomes = [NotFound("404", code=404), ValueError("wrong"), "value"]

    async def factory():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with pytest.raises(NotFound):
        await context.once(Remote(), "token", factory)
    with pytest.raises(ValueError, match="wrong"):
        await context.once(Remote(), "token", factory)
    assert await context.once(Remote(), "token", factory) == "value"


class Shares(Plugin):
    """Needs a value before each download."""

    def __init__(self, factory):
        self.factory = factory

    @hookimpl
    async def prepare(self, transfer):
        await transfer.context.once(self, "value", self.factory)


async def test_each_waiter_has_an_error_of_its_own():
    """A failure that many waited for carries the URL and the attachment of each one's own download."""
    gate, asking = asyncio.Event(), []

    async def factory():
        await gate.wait()
        raise NotFound("no list", code=404)

    class Counting(Shares):
        @hookimpl
        async def prepare(self, transfer):
            asking.append(transfer)
            await transfer.context.once(self, "value", self.factory)

    async with context_of(MemDriver(), Counting(factory)) as context:
        downloads = [Download(f"{URL}{n}", BufferWriter(), context=context, attachment=n) for n in range(50)]
        tasks = [asyncio.create_task(each.run()) for each in downloads]
        await until(lambda: len(asking) == 50)
        gate.set()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(error) for error in errors} == {NotFound}
    assert len({id(error) for error in errors}) == 50
    assert [(error.url, error.attachment) for error in errors] == [(f"{URL}{n}", n) for n in range(50)]
    assert all(error.code == 404 and len(error.history) == 1 for error in errors)
    assert all(error.__context__ is None and error.__cause__ is None for error in errors)


async def test_a_foreign_failure_is_each_waiters_own_plugin_error():
    """A factory that fails with anything else is the PluginError of each download that waited."""
    gate = asyncio.Event()

    async def factory():
        await gate.wait()
        raise KeyError("token")

    async with context_of(MemDriver(), Shares(factory)) as context:
        downloads = [Download(f"{URL}{n}", BufferWriter(), context=context, attachment=n) for n in range(3)]
        tasks = [asyncio.create_task(each.run()) for each in downloads]
        await until(lambda: context._shared.values._flights)
        gate.set()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in errors] == [PluginError] * 3
    assert [error.attachment for error in errors] == [0, 1, 2]
    assert all("Shares.prepare failed: KeyError: 'token'" in str(error) for error in errors)


async def test_a_factory_that_cancels_itself_is_a_plugin_error():
    """A cancellation of the factory's own doing cancels no download."""

    async def factory():
        raise asyncio.CancelledError

    async with context_of(MemDriver(), Shares(factory)) as context:
        with pytest.raises(PluginError, match=r"Shares.prepare failed: CancelledError"):
            await Download(URL, BufferWriter(), context=context).run()


async def test_values_are_apart_by_plugin_and_key(context):
    """“Namespaced by the plugin's value, so that two remotes never share a token by accident”; equal plugins share."""

    def making(value):
        async def factory():
            return value

        return factory

    assert await context.once(Remote("a"), "token", making("1")) == "1"
    assert await context.once(Remote("b"), "token", making("2")) == "2"
    assert await context.once(Remote("a"), "other", making("3")) == "3"
    assert await context.once(Remote("a"), "token", making("4")) == "1"

    @dataclass(frozen=True)
    class Other(Remote):
        pass

    assert await context.once(Other("a"), "token", making("5")) == "5"


async def test_two_contexts_share_nothing():
    """What is shared is shared in one context."""

    async def factory():
        return object()

    async with context_of(MemDriver()) as one, context_of(MemDriver()) as two:
        assert await one.once(Remote(), "token", factory) is not await two.once(Remote(), "token", factory)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr("downhaul._once.time", clock)
    return clock


@pytest.mark.parametrize("ttl", [10, lambda value: 10 * value], ids=["seconds", "a function of the value"])
async def test_a_value_is_good_for_its_time(context, clock, ttl):
    """“`ttl` in seconds or a function of the value”."""
    values = iter([1, 2, 3])

    async def factory():
        return next(values)

    assert await context.once(Remote(), "token", factory, ttl=ttl) == 1
    clock.now += 9.9
    assert await context.once(Remote(), "token", factory, ttl=ttl) == 1
    clock.now += 0.2
    assert await context.once(Remote(), "token", factory, ttl=ttl) == 2


@pytest.mark.parametrize("ttl", [None, lambda value: None])
async def test_without_a_time_a_value_is_good_for_ever(context, clock, ttl):
    """None, given or told by the function: for as long as the context lives."""
    values = iter([1, 2])

    async def factory():
        return next(values)

    assert await context.once(Remote(), "token", factory, ttl=ttl) == 1
    clock.now += 1e9
    assert await context.once(Remote(), "token", factory, ttl=ttl) == 1


async def test_a_ttl_function_that_fails_is_a_failure_of_the_factory(context):
    """What a ttl function raises reaches whoever asked, and no value is kept."""

    async def factory():
        return {"expires": "never"}

    with pytest.raises(ValueError, match="never"):
        await context.once(Remote(), "token", factory, ttl=lambda value: float(value["expires"]))
    assert await context.once(Remote(), "token", factory) == {"expires": "never"}


async def test_a_value_may_be_none(context):
    """None is a value like any other."""
    factory = Factory()
    factory.gate.set()

    async def nothing():
        await factory()

    assert await context.once(Remote(), "token", nothing) is None
    assert await context.once(Remote(), "token", nothing) is None
    assert factory.calls == 1


async def test_forget_drops_only_the_stale_value(context):
    """“`context.forget(self, key, stale)` drops only that very value (so one expired token is refreshed once)”."""
    values = iter(["first", "second", "third"])

    async def factory():
        return next(values)

    assert await context.once(Remote(), "token", factory) == "first"
    context.forget(Remote(), "token", "first")
    assert await context.once(Remote(), "token", factory) == "second"
    context.forget(Remote(), "token", "first")  # from one who used the first, and comes late
    context.forget(Remote("other"), "token", "second")
    context.forget(Remote(), "other", "second")
    assert await context.once(Remote(), "token", factory) == "second"
    context.forget(Remote(), "token", "second")
    assert await context.once(Remote(), "token", factory) == "third"


async def test_values_are_bounded(context):
    """Only 10,000 values are kept, the least recently used are dropped."""

    async def factory():
        return object()

    oldest = await context.once(Remote(), "oldest", factory)
    second = await context.once(Remote(), "second", factory)
    for number in range(9_998):
        await context.once(Remote(), number, factory)
    assert await context.once(Remote(), "oldest", factory) is oldest  # used again: the second is the oldest now
    await context.once(Remote(), "one more", factory)
    assert await context.once(Remote(), "oldest", factory) is oldest
    assert await context.once(Remote(), "second", factory) is not second
    assert len(context._shared.values._values) == 10_000


async def test_closing_the_context_cancels_factories():
    """“Nothing is left behind”: a factory at work ends with its context."""
    factory = Factory()
    async with context_of(MemDriver()) as context:
        task = asyncio.create_task(context.once(Remote(), "token", factory))
        await factory.started.wait()
    assert factory.cancelled == 1
    with pytest.raises(asyncio.CancelledError):
        await task


@dataclass(frozen=True)
class Needs(Plugin):
    """Has a value that is downloaded; equal by its name."""

    name: str
    url: str

    @hookimpl
    async def prepare(self, transfer):
        await transfer.context.once(self, self.name, lambda: self.load(transfer))

    async def load(self, transfer):
        writer = BufferWriter()
        await transfer.nested(self, self.url, writer).run()
        return writer.content()


LIST, TOKEN = "mem://home/list", "mem://home/token"


def in_need() -> tuple[MemDriver, Needs, Needs]:
    """Return two plugins, each of which needs a download that the other takes part in."""
    mem = MemDriver()
    for url in (LIST, TOKEN, URL):
        mem.site(url, Reply(b"bytes"))
    return mem, Needs("list", LIST), Needs("token", TOKEN)


def assert_names_the_circle(error: BaseException) -> None:
    """It is a PluginError that shows the way round."""
    assert isinstance(error, PluginError)
    assert "circle" in str(error)
    assert "Needs['list']" in str(error)
    assert "Needs['token']" in str(error)
    assert "→" in str(error)


@pytest.mark.parametrize("swapped", [False, True])
async def test_a_circle_is_a_plugin_error_that_names_it(swapped):
    """“Waiting in a circle (a list that needs a token that needs the list) is a PluginError naming the circle”."""
    mem, one, two = in_need()
    async with context_of(mem, *((two, one) if swapped else (one, two))) as context:
        with pytest.raises(PluginError) as caught:
            await asyncio.wait_for(Download(URL, BufferWriter(), context=context).run(), 5)
        assert_names_the_circle(caught.value)
        assert mem.log == []
        assert context.connections_in_use == 0


async def test_a_circle_entered_from_both_ends_at_once_is_found():
    """Two flights that come to need each other are a circle too, whoever was first."""
    context_both = Remote("both")
    meet = asyncio.Barrier(2)

    async with context_of(MemDriver()) as context:

        async def one():
            await meet.wait()
            return await context.once(context_both, "two", two)

        async def two():
            await meet.wait()
            return await context.once(context_both, "one", one)

        errors = await asyncio.wait_for(
            asyncio.gather(
                context.once(context_both, "one", one),
                context.once(context_both, "two", two),
                return_exceptions=True,
            ),
            5,
        )
    assert [type(error) for error in errors] == [PluginError, PluginError]
    assert all("Remote['one']" in str(error) and "Remote['two']" in str(error) for error in errors)


async def test_a_circle_through_downloads_entered_from_both_ends_is_found():
    """The same by two downloads at once, each of which asks for the other's need first."""
    mem, one, two = in_need()
    async with context_of(mem) as context:
        downloads = [
            Download(URL, BufferWriter(), context=context, plugins=plugins) for plugins in ([one, two], [two, one])
        ]
        errors = await asyncio.wait_for(asyncio.gather(*(each.run() for each in downloads), return_exceptions=True), 5)
    for error in errors:
        assert_names_the_circle(error)


async def test_a_value_that_needs_itself_is_a_circle(context):
    """The shortest circle."""

    async def factory():
        return await context.once(Remote(), "token", factory)

    with pytest.raises(PluginError, match=r"circle: Remote\['token'\] → Remote\['token'\]"):
        await asyncio.wait_for(context.once(Remote(), "token", factory), 5)


async def test_many_may_need_one(context):
    """What is no circle is none: two values that both need a third."""

    async def base():
        await asyncio.sleep(0)
        return 1

    async def more():
        return 1 + await context.once(Remote(), "base", base)

    assert await asyncio.gather(
        context.once(Remote(), "one", more), context.once(Remote(), "two", more), context.once(Remote(), "base", base)
    ) == [2, 2, 1]


async def test_a_circle_shows_no_secrets():
    """The keys in the message are shown like any text: URLs without userinfo and query values."""
    url = "mem://user:secret@home/list?key=hidden"

    async with context_of(MemDriver()) as context:

        async def factory():
            return await context.once(Remote("secret"), url, factory)

        with pytest.raises(PluginError) as caught:
            await context.once(Remote("secret"), url, factory)
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


async def test_needing_without_sharing_is_a_circle_too():
    """“Two that need each other are a circle”, even where they share nothing: no endless nesting."""

    @dataclass(frozen=True)
    class Direct(Plugin):
        url: str

        @hookimpl
        async def prepare(self, transfer):
            await transfer.nested(self, self.url, BufferWriter()).run()

    mem = MemDriver()
    async with context_of(mem, Direct(LIST), Direct(TOKEN)) as context:
        with pytest.raises(PluginError, match="circle") as caught:
            await asyncio.wait_for(Download(URL, BufferWriter(), context=context).run(), 5)
    assert LIST in str(caught.value)
    assert TOKEN in str(caught.value)
    assert mem.log == []


async def test_a_failure_of_a_shared_download_is_a_preparation_error_for_each():
    """A list that many wait for and that cannot be had is each download's PreparationError."""
    mem = MemDriver()
    mem.site(LIST, Reply(status=404))
    async with context_of(mem, Needs("list", LIST)) as context:
        downloads = [Download(f"{URL}{n}", BufferWriter(), context=context, attachment=n) for n in range(10)]
        errors = await asyncio.gather(*(each.run() for each in downloads), return_exceptions=True)
    assert {type(error) for error in errors} == {PreparationError}
    assert [error.attachment for error in errors] == list(range(10))
    assert {type(error.cause) for error in errors} == {NotFound}
    assert mem.urls == [LIST]
