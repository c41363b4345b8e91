"""The order of the hooks: tiers, then whose plugin it is, then as given; of wrappers the first given is outermost."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mem import MemDriver, Reply

from downhaul import BufferWriter, Context, Download, DownloadError, Plugin, Retries, Transfer, hookimpl
from downhaul._registry import Hooks

if TYPE_CHECKING:
    from collections.abc import Sequence

TIERS = ("tryfirst", "plain", "trylast")
AWAITED = ("prepare", "validate", "error")
GOOD, BAD = "mem://home/good", "mem://home/bad"

calls: list[tuple[str, str]] = []  # filled by the plugins below, emptied by `run`


@cache
def recorder(tier: str, hooks: tuple[str, ...] = ("prepare", "fetch", "validate", "error", "done")) -> type:
    """Return a class of plugins with *hooks* in *tier*, which write down that they were called."""
    options = {tier: True} if tier != "plain" else {}

    async def prepare(self, transfer):
        calls.append(("prepare", self.name))

    def fetch(self, transfer):
        calls.append(("fetch", self.name))

    async def validate(self, transfer):
        calls.append(("validate", self.name))

    async def error(self, transfer, error):
        calls.append(("error", self.name))

    def done(self, transfer, outcome):
        calls.append(("done", self.name))

    functions = {each.__name__: each for each in (prepare, fetch, validate, error, done) if each.__name__ in hooks}

    @dataclass(frozen=True)
    class Recorder(Plugin):
        name: str

    for name, function in functions.items():
        setattr(Recorder, name, hookimpl(**options)(function))
    return Recorder


@cache
def wrapping(tier: str) -> type:
    """Return a class of plugins that wrap `fetch` in *tier*."""
    options = {tier: True} if tier != "plain" else {}

    @dataclass(frozen=True)
    class Wrapping(Plugin):
        name: str

        @hookimpl(wrapper=True, **options)
        def fetch(self, transfer):
            calls.append(("before", self.name))
            answer = yield
            calls.append(("after", self.name))
            return self.inside(answer)

        @asynccontextmanager
        async def inside(self, answer):
            async with answer as payload:
                calls.append(("enter", self.name))
                yield payload
                calls.append(("leave", self.name))

    return Wrapping


def called(hook: str) -> list[str]:
    """Return the names of those whose *hook* was called."""
    return [name for each, name in calls if each == hook]


async def run(of_download: Sequence[object], of_context: Sequence[object]) -> None:
    """Run a download that succeeds, and one that fails: between them every hook is called for each plugin."""
    calls.clear()
    mem = MemDriver()
    mem.site(GOOD, Reply(b"bytes"))
    async with Context(drivers={"mem": mem}, plugins=[*of_context, Retries(base=0)], retries=0) as context:
        await Download(GOOD, BufferWriter(), context=context, plugins=of_download).run()
        good = list(calls)
        calls.clear()
        with pytest.raises(DownloadError):
            await Download(BAD, BufferWriter(), context=context, plugins=of_download).run()
        assert called("done") == [name for hook, name in good if hook == "done"]
        assert not called("validate")
        calls[:] = [*good, *((hook, name) for hook, name in calls if hook == "error")]


@pytest.mark.parametrize("hook", ["prepare", "fetch", "validate", "error", "done"])
async def test_tiers_then_owners_then_as_given(hook):
    """“Order: tryfirst, then plain, then trylast; within each tier the download's plugins, then the context's, …”."""
    given_order = [("trylast", 0), ("plain", 0), ("tryfirst", 0), ("trylast", 1), ("plain", 1), ("tryfirst", 1)]
    downloads = [recorder(tier)(f"d{tier}{place}") for tier, place in given_order]
    contexts = [recorder(tier)(f"c{tier}{place}") for tier, place in given_order]
    await run(downloads, contexts)
    assert called(hook) == [f"{owner}{tier}{place}" for tier in TIERS for owner in "dc" for place in (0, 1)]


async def test_built_in_plugins_come_last_in_their_tier(monkeypatch):
    """Of each tier the built-in plugins come last."""
    # Of a type of their own: one of the same type among the plugins would replace them.
    more = [type("BuiltIn", (recorder(tier),), {})(f"b{tier}") for tier in TIERS]
    monkeypatch.setattr(Context, "built_in", (*more, *Context.built_in))
    await run([recorder(tier)(f"d{tier}") for tier in TIERS], [recorder(tier)(f"c{tier}") for tier in TIERS])
    for hook in ("prepare", "fetch", "validate", "error", "done"):
        assert called(hook) == [f"{owner}{tier}" for tier in TIERS for owner in "dcb"], hook


async def test_fetch_and_done_come_out_in_the_order_of_the_awaited_hooks():
    """The own order of pluggy for plain hooks is turned, so that one rule holds for all five."""
    for tiers in product(TIERS, repeat=3):
        await run([recorder(tier)(str(place)) for place, tier in enumerate(tiers)], [])
        expected = called("prepare")
        for hook in ("fetch", "validate", "error", "done"):
            assert called(hook) == expected, (tiers, hook)


async def test_a_plugin_may_be_in_another_tier_with_each_hook():
    """The tier of one hook does not move the others of the same plugin."""

    @dataclass(frozen=True)
    class Mixed(Plugin):
        name: str

        @hookimpl(trylast=True)
        def fetch(self, transfer):
            calls.append(("fetch", self.name))

        @hookimpl(tryfirst=True)
        def done(self, transfer, outcome):
            calls.append(("done", self.name))

        @hookimpl
        async def prepare(self, transfer):
            calls.append(("prepare", self.name))

    plain = recorder("plain")
    await run([plain("a"), Mixed("b"), plain("c"), Mixed("d")], [])
    assert called("fetch") == ["a", "c", "b", "d"]
    assert called("done") == ["b", "d", "a", "c"]
    assert called("prepare") == ["a", "b", "c", "d"]


async def test_the_first_wrapper_given_is_outermost():
    """“Of wrappers the first given is outermost, nearest the sink”: the download's around the context's."""
    wrap = wrapping("plain")
    await run([wrap("d1"), wrap("d2")], [wrap("c1"), wrap("c2")])
    assert called("before") == ["d1", "d2", "c1", "c2"]
    assert called("after") == ["c2", "c1", "d2", "d1"]
    assert called("enter") == ["c2", "c1", "d2", "d1"]
    assert called("leave") == ["d1", "d2", "c1", "c2"]


async def test_tiers_hold_for_wrappers():
    """A wrapper with tryfirst is outside of the plain ones, one with trylast inside of them."""
    wrappers = {tier: wrapping(tier) for tier in TIERS}
    await run([wrappers["trylast"]("d3"), wrappers["plain"]("d2"), wrappers["tryfirst"]("d1")],
              [wrappers["tryfirst"]("c1"), wrappers["trylast"]("c3"), wrappers["plain"]("c2")])  # fmt: skip
    assert called("before") == ["d1", "c1", "d2", "c2", "d3", "c3"]


async def test_wrappers_stand_around_every_plain_fetch():
    """Whoever answers, wrappers see the answer, never None; the first plain fetch is inside of the last wrapper."""
    await run([recorder("tryfirst")("plain"), wrapping("trylast")("wrapper")], [])
    assert [each for each in calls if each[0] in {"before", "fetch", "after"}] == [
        ("before", "wrapper"), ("fetch", "plain"), ("after", "wrapper"),
    ]  # fmt: skip


async def test_equal_plugins_count_once():
    """“Running in a context adds that context's plugins (an equal one counts once)”, at its first place."""
    plain = recorder("plain")
    await run([plain("a"), plain("b"), plain("a")], [plain("c"), plain("a"), plain("c")])
    for hook in ("prepare", "fetch", "validate", "error", "done"):
        assert called(hook) == ["a", "b", "c"], hook


async def test_plugins_that_differ_in_configuration_both_count():
    """“Equality includes configuration”: two of one class with other values are two plugins."""
    plain = recorder("plain")
    await run([plain("a"), plain("b")], [])
    assert called("prepare") == ["a", "b"]


async def test_the_first_answer_of_fetch_and_error_ends_the_asking():
    """`fetch` and `error` are firstresult: those behind the one that answered are not asked."""

    @dataclass(frozen=True)
    class Answering(Plugin):
        @hookimpl
        def fetch(self, transfer: Transfer):
            calls.append(("fetch", "answering"))
            return transfer.open(self, transfer.request)

    plain = recorder("plain")
    mem = MemDriver()
    mem.site(GOOD, Reply(b"bytes"))
    calls.clear()
    async with Context(drivers={"mem": mem}, plugins=[plain("a"), Answering(), plain("b")]) as context:
        await Download(GOOD, BufferWriter(), context=context).run()
    # "b" is asked by transfer.open alone, which asks everybody but the asker.
    assert called("fetch") == ["a", "answering", "a", "b"]


TIER = st.sampled_from(TIERS)
HOOKS = st.sets(st.sampled_from(["prepare", "validate", "error", "fetch", "done"]), min_size=1).map(
    lambda hooks: tuple(sorted(hooks))
)


@st.composite
def plugins(draw: st.DrawFn) -> object:
    """Any recording plugin; few names, so that equal ones come up."""
    name = draw(st.sampled_from("abcd"))
    if draw(st.booleans()):
        return wrapping(draw(TIER))(name)
    return recorder(draw(TIER), draw(HOOKS))(name)


def tier_of(plugin: object, hook: str) -> int | None:
    """Return the place of the tier that *plugin* implements *hook* in, by its marks; None if it does not."""
    options = getattr(getattr(type(plugin), hook), "downhaul_impl", None)
    return None if options is None else options["trylast"] - options["tryfirst"]


def model(given_plugins: Sequence[object], hook: str) -> list[object]:
    """The rule of the design in two lines: the first of equal ones counts; a stable sort by tier."""
    distinct = [each for place, each in enumerate(given_plugins) if each not in given_plugins[:place]]
    having = [each for each in distinct if tier_of(each, hook) is not None]
    return sorted(having, key=lambda each: tier_of(each, hook) or 0)


@settings(max_examples=300, deadline=None)
@given(st.lists(plugins(), max_size=8))
async def test_any_tuple_of_plugins_is_called_as_the_model_says(chosen):
    """Whatever plugins are given, in whatever order: each hook comes out as the rule says."""

    class Deaf:
        """Answers, so that pluggy asks everybody before and wraps all around."""

        @hookimpl(trylast=True)
        def fetch(self):
            return nothing

    @asynccontextmanager
    async def open_nothing():
        yield

    nothing = open_nothing()
    hooks, transfer = Hooks([*chosen, Deaf()]), None
    calls.clear()
    await hooks.prepare(transfer)  # type: ignore[arg-type]
    await hooks.validate(transfer)  # type: ignore[arg-type]
    await hooks.error(transfer, DownloadError())  # type: ignore[arg-type]
    hooks.done(transfer, None)  # type: ignore[arg-type]
    hooks.fetch(transfer)  # type: ignore[arg-type]
    for hook in (*AWAITED, "done"):
        assert called(hook) == [each.name for each in model(chosen, hook)], hook
    fetching = model(chosen, "fetch")
    wrappers = [each for each in fetching if type(each).__name__ == "Wrapping"]
    assert called("fetch") == [each.name for each in fetching if each not in wrappers]
    assert called("before") == [each.name for each in wrappers]
    assert called("after") == [each.name for each in reversed(wrappers)]


async def test_the_request_is_rebuilt_before_each_attempt():
    """“Rebuilt from the base before each attempt, so nothing accumulates”."""
    seen = []

    class Growing(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            seen.append(transfer.request.headers)
            transfer.request = replace(transfer.request, headers=(*transfer.request.headers, ("X-More", "1")))

    mem = MemDriver()
    mem.site(GOOD, Reply(status=503), Reply(status=503), Reply(b"bytes"))
    async with Context(drivers={"mem": mem}, plugins=[Growing(), Retries(base=0)]) as context:
        await Download(GOOD, BufferWriter(), context=context).run()
    assert seen == [(), (), ()]
    assert [each.request.headers for each in mem.log] == [(("X-More", "1"),)] * 3
