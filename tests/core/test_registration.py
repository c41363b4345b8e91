"""What breaks the contract of the hooks is refused when a context or a download is made, by plugin and hook."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any

import pytest
from tests.mem import MemDriver, Reply

from downhaul import BufferWriter, Context, Download, Driver, Plugin, PluginError, Retries, hookimpl, hookspec

if TYPE_CHECKING:
    from collections.abc import Callable

URL = "mem://home/file"


class Untouched(Driver):
    """A driver that must not be asked."""

    def open(self, request: Any, settings: Any) -> Any:
        raise AssertionError("I/O began before the plugins were checked")


def in_context(plugin: object) -> None:
    """Attach *plugin* there."""
    Context(drivers={"mem": Untouched()}, plugins=[plugin])


def in_download(plugin: object) -> None:
    """Attach *plugin* there."""
    Download(URL, BufferWriter(), plugins=[plugin])


def in_context_download(plugin: object) -> None:
    """Attach *plugin* there."""
    Context(drivers={"mem": Untouched()}).download(URL, BufferWriter(), plugins=[plugin])


@pytest.fixture(params=[in_context, in_download, in_context_download])
def attach(request: pytest.FixtureRequest) -> Callable[[object], None]:
    """Every place that takes plugins."""
    return request.param


class Unmarked(Plugin):
    async def prepare(self, transfer):
        pass


class UnmarkedOverride(Retries):
    async def error(self, transfer, error):
        return None


class NotDerivedUnmarked:
    async def validate(self, transfer):
        pass


class SyncPrepare(Plugin):
    @hookimpl
    def prepare(self, transfer):
        pass


class SyncValidate(Plugin):
    @hookimpl
    def validate(self, transfer):
        pass


class SyncError(Plugin):
    @hookimpl
    def error(self, transfer, error):
        pass


class AsyncGeneratorPrepare(Plugin):
    @hookimpl
    async def prepare(self, transfer):
        yield


class AsyncFetch(Plugin):
    @hookimpl
    async def fetch(self, transfer):
        pass


class AsyncDone(Plugin):
    @hookimpl
    async def done(self, transfer, outcome):
        pass


class WrappedPrepare(Plugin):
    @hookimpl(wrapper=True)
    def prepare(self, transfer):
        return (yield)


class WrappedAsyncValidate(Plugin):
    @hookimpl(wrapper=True)
    async def validate(self, transfer):
        yield


class WrappedError(Plugin):
    @hookimpl(wrapper=True)
    def error(self, transfer, error):
        return (yield)


class OldWrapper(Plugin):
    @hookimpl(hookwrapper=True)
    def fetch(self, transfer):
        yield


class WrapperWithoutYield(Plugin):
    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        return None


class YieldWithoutWrapper(Plugin):
    @hookimpl
    def fetch(self, transfer):
        return (yield)


class GeneratorDone(Plugin):
    @hookimpl
    def done(self, transfer, outcome):
        yield


class ContextManagerFetch(Plugin):
    @hookimpl
    @asynccontextmanager
    async def fetch(self, transfer):
        yield


class SyncContextManagerFetch(Plugin):
    @hookimpl
    @contextmanager
    def fetch(self, transfer):
        yield


class AsyncGeneratorFetch(Plugin):
    @hookimpl
    async def fetch(self, transfer):
        yield


class UnknownHook(Plugin):
    @hookimpl
    async def prepair(self, transfer):
        pass


class UnknownSpecname(Plugin):
    @hookimpl(specname="fetched")
    def fetch(self, transfer):
        pass


class UnknownArgument(Plugin):
    @hookimpl
    async def prepare(self, transfer, request):
        pass


class UnknownKeyword(Plugin):
    @hookimpl
    def done(self, transfer, *, result=None):
        pass


class AnyKeywords(Plugin):
    @hookimpl
    def done(self, **arguments):
        pass


class Twice(Plugin):
    @hookimpl
    async def prepare(self, transfer):
        pass

    @hookimpl(specname="prepare")
    async def prepare_more(self, transfer):
        pass


class Hookless(Plugin):
    pass


class OpenWithoutDecorator(Plugin):
    async def open(self, context):
        yield

    @hookimpl
    def done(self):
        pass


class OpenAsCoroutine(Plugin):
    async def open(self, context):
        pass

    @hookimpl
    def done(self):
        pass


@dataclass
class Unhashable(Plugin):
    names: list[str] = field(default_factory=list)

    @hookimpl
    def done(self):
        pass


@dataclass(frozen=True)
class UnhashableField(Plugin):
    names: list[str] = field(default_factory=list)

    @hookimpl
    def done(self):
        pass


REFUSED = [
    (Unmarked, "prepare", "lacks @hookimpl"),
    (UnmarkedOverride, "error", "lacks @hookimpl"),
    (NotDerivedUnmarked, "validate", "lacks @hookimpl"),
    (SyncPrepare, "prepare", "async def"),
    (SyncValidate, "validate", "async def"),
    (SyncError, "error", "async def"),
    (AsyncGeneratorPrepare, "prepare", "async def"),
    (AsyncFetch, "fetch", "plain def"),
    (AsyncDone, "done", "plain def"),
    (WrappedPrepare, "prepare", "only fetch can be wrapped"),
    (WrappedAsyncValidate, "validate", "only fetch can be wrapped"),
    (WrappedError, "error", "only fetch can be wrapped"),
    (OldWrapper, "fetch", "wrapper=True"),
    (WrapperWithoutYield, "fetch", "generator with one yield"),
    (YieldWithoutWrapper, "fetch", "wrapper=True"),
    (GeneratorDone, "done", "yield"),
    (ContextManagerFetch, "fetch", "cannot pass"),
    (SyncContextManagerFetch, "fetch", "generator"),
    (AsyncGeneratorFetch, "fetch", "cannot pass"),
    (UnknownHook, "prepair", "no hook 'prepair', only prepare, fetch, validate, error, done"),
    (UnknownSpecname, "fetch", "no hook 'fetched'"),
    (UnknownArgument, "prepare", "unknown argument request"),
    (UnknownKeyword, "done", "unknown argument result"),
    (AnyKeywords, "done", "unknown argument arguments"),
    (Twice, "prepare", "twice"),
    (OpenWithoutDecorator, "open", "@asynccontextmanager"),
    (OpenAsCoroutine, "open", "@asynccontextmanager"),
]


@pytest.mark.parametrize(("kind", "hook", "says"), REFUSED, ids=[kind.__name__ for kind, _, _ in REFUSED])
def test_refusals_name_plugin_and_hook(kind, hook, says, attach):
    """“Registration refuses …; it names plugin and hook”: before any I/O, wherever the plugin is attached."""
    with pytest.raises(PluginError) as caught:
        attach(kind())
    assert kind.__name__ in str(caught.value)
    assert hook in str(caught.value)
    assert says in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("kind", [Unhashable, UnhashableField])
def test_an_unhashable_plugin_is_refused(kind, attach):
    """“Plugins are values”: one that is not hashable is refused by name, and told what to be instead."""
    with pytest.raises(PluginError, match=rf"{kind.__name__} is not hashable.*frozen dataclass") as caught:
        attach(kind())
    assert caught.value.__context__ is None


def test_a_class_is_no_plugin(attach):
    """Whoever forgets the parentheses is told so."""
    with pytest.raises(PluginError, match=r"Retries is a class; a plugin is an object: Retries\(…\)"):
        attach(Retries)


@pytest.mark.parametrize("thing", [Hookless(), object(), 5, None, lambda: None], ids=lambda thing: type(thing).__name__)
def test_an_object_without_hooks_is_no_plugin(thing, attach):
    """What carries no @hookimpl would silently do nothing, so it is refused."""
    with pytest.raises(PluginError, match="is no plugin: none of its methods carries @hookimpl"):
        attach(thing)


def test_one_refused_plugin_is_refused_every_time(attach):
    """The check of a class is remembered only where it passed."""
    for _ in range(3):
        with pytest.raises(PluginError, match="Unmarked"):
            attach(Unmarked())


def test_a_bad_plugin_behind_a_good_one_is_refused():
    """Every plugin of the list is checked, not only the first."""
    with pytest.raises(PluginError, match="Unmarked"):
        Context(plugins=[Retries(), Unmarked()])


def test_a_str_instead_of_a_list_is_refused():
    """A single name is meant as a list of one, and must not be taken for a list of letters."""
    with pytest.raises(TypeError, match="plugins=… takes several"):
        Context(plugins="metalink")


def test_a_name_that_nobody_announces_is_refused(attach):
    """Plugins are enabled by name; an unknown name is an error that lists the installed ones."""
    with pytest.raises(PluginError, match=r"no plugin 'no-such' \(installed: "):
        attach("no-such")


class Decorated(Plugin):
    """Hooks behind a decorator that keeps the signature."""

    def __init__(self):
        self.calls = []

    @staticmethod
    def counted(function):
        @wraps(function)
        async def call(self, transfer):
            self.calls.append(function.__name__)
            await function(self, transfer)

        return call

    @hookimpl
    @counted
    async def prepare(self, transfer):
        pass


class Static(Plugin):
    calls: list[str] = []

    @staticmethod
    @hookimpl
    async def prepare(transfer):
        Static.calls.append("prepare")

    @classmethod
    @hookimpl
    def done(cls, outcome):
        cls.calls.append("done")


class Renamed(Plugin):
    """Hooks under other names, one of them private."""

    def __init__(self):
        self.calls = []

    @hookimpl(specname="prepare")
    async def aim(self, transfer):
        self.calls.append("prepare")

    @hookimpl(specname="done")
    def _count(self, outcome):
        self.calls.append("done")


class Fewer:
    """No `Plugin`, and fewer arguments than there are."""

    def __init__(self):
        self.calls = []

    @property
    def broken(self):
        raise AssertionError("a property is not to be evaluated")

    @hookimpl
    async def prepare(self):
        self.calls.append("prepare")

    @hookimpl
    def fetch(self):
        self.calls.append("fetch")

    @hookimpl
    async def validate(self):
        self.calls.append("validate")

    @hookimpl
    async def error(self, error):
        self.calls.append("error")

    @hookimpl
    def done(self, outcome):
        self.calls.append("done")


@pytest.mark.parametrize(
    ("plugin", "calls"),
    [
        (Decorated(), ["prepare"]),
        (Static(), ["prepare", "done"]),
        (Renamed(), ["prepare", "done"]),
        (Fewer(), ["prepare", "fetch", "validate", "done"]),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_is_accepted_is_called(plugin, calls):
    """A hook takes the arguments that it needs, may be decorated, static or renamed; whatever is accepted is called."""
    mem = MemDriver()
    mem.site(URL, Reply(b"bytes"))
    async with Context(drivers={"mem": mem}, plugins=[plugin]) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert plugin.calls == calls


class Inherited(Fewer):
    """Inherits every hook."""


async def test_inherited_hooks_count():
    """A subclass that overrides nothing is a plugin with the hooks of its base."""
    plugin, mem = Inherited(), MemDriver()
    mem.site(URL, Reply(b"bytes"))
    async with Context(drivers={"mem": mem}, plugins=[plugin]) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert plugin.calls == ["prepare", "fetch", "validate", "done"]


def test_every_hook_of_the_specification_is_known_to_the_registry():
    """The page that plugin writers read and the checks speak of the same hooks."""
    from downhaul._registry import HOOKS

    marked = {name for name in dir(Plugin) if getattr(getattr(Plugin, name), "downhaul_spec", None)}
    assert marked == set(HOOKS)
    assert callable(hookspec)


async def test_one_manager_per_distinct_tuple_of_plugins(monkeypatch):
    """“One plugin manager per distinct tuple of plugins, kept and bounded”: equal tuples share one."""
    import downhaul._shared as module

    made = []

    class Counted(module.Hooks):
        def __init__(self, plugins):
            made.append(plugins)
            super().__init__(plugins)

    monkeypatch.setattr(module, "Hooks", Counted)
    mem = MemDriver()
    mem.site(URL, Reply(b"bytes"))
    async with Context(drivers={"mem": mem}) as context:
        for base in (1.0, 2.0, 1.0, 2.0, 1.0):
            await Download(URL, BufferWriter(), context=context, plugins=[Retries(base=base)]).run()
        assert len(made) == 2
        for base in range(600):
            await Download(URL, BufferWriter(), context=context, plugins=[Retries(base=base)]).run()
        assert len(context._shared._hooks) <= 256


def test_a_clone_with_a_bad_plugin_is_refused():
    """A clone takes plugins too, and refuses what its original would have refused."""
    download = Download(URL, BufferWriter())
    with pytest.raises(PluginError, match="SyncPrepare"):
        download.clone(plugins=[SyncPrepare()])


async def test_plugins_of_the_entry_point_group_are_enabled_by_name_only(monkeypatch):
    """“Installing a package never changes a download silently”: a plugin acts where it is named, and nowhere else."""
    calls = []

    class Announced(Plugin):
        @hookimpl
        def done(self):
            calls.append("done")

    class Point:
        name = "announced"

        def load(self):
            return Announced

    def entry_points(group, name=None):
        return [Point()] if group == "downhaul.plugins" and name in {None, "announced"} else []

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    mem = MemDriver()
    mem.site(URL, Reply(b"bytes"))
    async with Context(drivers={"mem": mem}) as context:
        await Download(URL, BufferWriter(), context=context).run()
        assert calls == []
        await Download(URL, BufferWriter(), context=context, plugins=["announced"]).run()
        assert calls == ["done"]
    with pytest.raises(PluginError, match=r"no plugin 'other' \(installed: announced\)"):
        Context(plugins=["other"])


async def test_an_announced_plugin_that_is_none_is_refused(monkeypatch):
    """What an entry point gives is checked like anything else; what it raises is told."""

    class Point:
        name = "bad"

        def load(self):
            raise ImportError("no module named acme")

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group, name=None: [Point()])
    with pytest.raises(PluginError, match="'bad' cannot be loaded: ImportError: no module named acme"):
        Context(plugins=["bad"])
    monkeypatch.setattr(Point, "load", lambda self: SyncPrepare)
    with pytest.raises(PluginError, match="SyncPrepare"):
        Context(plugins=["bad"])
