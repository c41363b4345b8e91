"""The hooks of a tuple of plugins: what is refused, in which order they are called, who failed."""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import pluggy

from ._drivers import Driver
from ._errors import DownloadError, PluginError
from ._models import Retry
from ._urls import show_text
from .hookspecs import PROJECT, Plugin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager
    from types import FrameType

    from ._models import Payload, Result
    from ._transfer import Transfer

HOOKS: Final = ("prepare", "fetch", "validate", "error", "done")
_MARK: Final = f"{PROJECT}_impl"
_BUILT_IN: Final = f"{PROJECT}._defaults"
_log: Final = logging.getLogger("downhaul.hooks")


def check_plugin(plugin: object) -> None:
    """Raise PluginError, naming plugin and hook, if *plugin* breaks the contract of `downhaul.hookspecs`."""
    if isinstance(plugin, type):
        raise PluginError(f"{plugin.__name__} is a class; a plugin is an object: {plugin.__name__}(…)")
    kind: Any = type(plugin)
    _check_class(kind)
    if not is_hashable(plugin):
        raise PluginError(
            f"{_name(plugin)} is not hashable, but plugins are values: make it a frozen dataclass of hashable fields"
        )


@lru_cache(maxsize=1024)
def _check_class(kind: Any) -> None:
    name, found = kind.__name__, set()
    for attribute in dir(kind):
        function = _function(kind, attribute)
        options = getattr(function, _MARK, None)
        if options is None:
            if attribute in HOOKS and function is not inspect.getattr_static(Plugin, attribute):
                raise PluginError(f"{name}.{attribute} lacks @hookimpl")
            continue
        hook = options["specname"] or attribute
        if hook not in HOOKS:
            raise PluginError(f"{name}.{attribute}: there is no hook {hook!r}, only {', '.join(HOOKS)}")
        if hook in found:
            raise PluginError(f"{name} implements {hook} twice")
        found.add(hook)
        _check_function(f"{name}.{attribute}", hook, function, options)
    if not found:
        raise PluginError(f"{name} is no plugin: none of its methods carries @hookimpl")
    life = _function(kind, "open") if issubclass(kind, Plugin) else None
    if inspect.iscoroutinefunction(life) or inspect.isasyncgenfunction(life):
        raise PluginError(f"{name}.open returns an async context manager; put @asynccontextmanager on it")


def _check_function(name: str, hook: str, function: Any, options: pluggy.HookimplOpts) -> None:
    wrapper = options["wrapper"] or options["hookwrapper"]
    if wrapper and hook != "fetch":
        raise PluginError(f"{name}: only fetch can be wrapped")
    if options["hookwrapper"]:
        raise PluginError(f"{name}: hookwrapper=True is the old form; use wrapper=True")
    specification = getattr(Plugin, hook)
    if inspect.iscoroutinefunction(specification) and not inspect.iscoroutinefunction(function):
        raise PluginError(f"{name} must be async def")
    if not inspect.iscoroutinefunction(specification) and inspect.iscoroutinefunction(function):
        raise PluginError(f"{name} must be a plain def")
    if wrapper and not inspect.isgeneratorfunction(function):
        raise PluginError(f"{name}: a wrapper is a generator with one yield")
    if not wrapper and inspect.isasyncgenfunction(inspect.unwrap(function)):
        raise PluginError(
            f"{name}: an async generator cannot pass by returning None; let it decide and return self._open(…)"
        )
    if not wrapper and inspect.isgeneratorfunction(inspect.unwrap(function)):
        raise PluginError(f"{name} is a generator, which would never run: leave the yield out, or use wrapper=True")
    unknown = set(inspect.signature(function).parameters) - {*inspect.signature(specification).parameters, "cls"}
    if unknown:
        raise PluginError(f"{name}: unknown argument {', '.join(sorted(unknown))}")


def is_hashable(value: object) -> bool:
    """Tell whether *value* has a hash; a tuple has one if all in it have."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _function(kind: Any, attribute: str) -> Any:
    found = inspect.getattr_static(kind, attribute)
    return found.__func__ if isinstance(found, staticmethod | classmethod) else found


class _Manager(pluggy.PluginManager):
    """pluggy's manager, not looking at special methods: a quarter of the time."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> pluggy.HookimplOpts | None:
        return None if name.startswith("__") else super().parse_hookimpl_opts(plugin, name)


class Hooks:
    """The hooks of *plugins*, given in the order download's, context's, built-in; an equal one counts once.

    `fetch` and `done` are plain and come out in pluggy's own way and order. pluggy cannot await, so the others are
    awaited here one after another, over its public ``get_hookimpls()``.
    """

    def __init__(self, plugins: Sequence[object]) -> None:
        self.plugins = tuple(dict.fromkeys(plugins))
        manager = _Manager(PROJECT)
        manager.add_hookspecs(Plugin)
        for plugin in self.plugins:
            check_plugin(plugin)
        # pluggy calls the last one registered first, but inverts that for trylast.
        late = [plugin for plugin in self.plugins if _is_trylast(plugin, "fetch")]
        early = [plugin for plugin in reversed(self.plugins) if plugin not in late]
        for plugin in (*late, *early):
            manager.register(plugin)
        self._fetch = manager.hook.fetch
        answering = self._fetch.get_hookimpls()
        # pluggy's own call of the only one there is; it takes its transfer, or nothing.
        self._only = answering[0] if len(answering) == 1 and not answering[0].wrapper else None
        rank = {plugin: place for place, plugin in enumerate(self.plugins)}
        self._impls: dict[str, list[pluggy.HookImpl]] = {
            hook: sorted(
                getattr(manager.hook, hook).get_hookimpls(),
                key=lambda impl: (impl.trylast - impl.tryfirst, rank[impl.plugin]),
            )
            for hook in HOOKS
        }

    @property
    def prepares(self) -> bool:
        """Whether anybody has something to prepare."""
        return bool(self._impls["prepare"])

    async def prepare(self, transfer: Transfer) -> None:
        """Await every `prepare`, in order."""
        for impl in self._impls["prepare"]:
            self._expect_none(impl, await self._await(impl, {"transfer": transfer}))

    def fetch(self, transfer: Transfer) -> AbstractAsyncContextManager[Payload]:
        """Return the first answer, as the wrappers left it."""
        failure: PluginError
        try:
            if self._only is not None:
                return self._answer(_call(self._only, {"transfer": transfer}))
            return self._answer(self._fetch(transfer=transfer))
        except DownloadError:
            raise
        except (Exception, asyncio.CancelledError) as reason:  # nothing is awaited here that could be cancelled
            failure = self.failed("fetch", reason)
        raise failure

    def fetch_plain(self, transfer: Transfer, askers: Sequence[object]) -> AbstractAsyncContextManager[Payload]:
        """Return the first answer of the plugins other than *askers*, without wrappers."""
        failure: PluginError
        try:
            for impl in self._impls["fetch"]:
                if impl.plugin not in askers and not impl.wrapper:
                    answer = _call(impl, {"transfer": transfer})
                    if answer is not None:
                        return self._answer(answer)
            raise PluginError("nobody answered: the built-in dispatch to drivers is gone")
        except DownloadError:
            raise
        except (Exception, asyncio.CancelledError) as reason:
            failure = self.failed("fetch", reason)
        raise failure

    async def validate(self, transfer: Transfer) -> None:
        """Await every `validate`, in order."""
        for impl in self._impls["validate"]:
            self._expect_none(impl, await self._await(impl, {"transfer": transfer}))

    async def error(
        self, transfer: Transfer, error: DownloadError, start: int = 0
    ) -> tuple[Retry, str, int] | tuple[None, None, None]:
        """Ask for a `Retry`, from the *start*-th hook on: the answer, who gave it, and where to go on asking."""
        for place, impl in enumerate(self._impls["error"][start:], start + 1):
            answer = await self._await(impl, {"transfer": transfer, "error": error})
            if answer is None:
                continue
            if not isinstance(answer, Retry):
                raise PluginError(f"{_name(impl.plugin)}.error returned {answer!r}, neither a Retry nor None")
            return answer, _name(impl.plugin), place
        return None, None, None

    def done(self, transfer: Transfer, outcome: Result | DownloadError | None) -> None:
        """Call every `done`, in order; what one raises is logged."""
        for impl in self._impls["done"]:
            try:
                _call(impl, {"transfer": transfer, "outcome": outcome})
            except (Exception, asyncio.CancelledError) as reason:
                _log.exception("%s", self.failed("done", reason, impl.plugin), exc_info=False)

    def failed(self, where: str, reason: BaseException, plugin: object = None) -> PluginError:
        """Return a PluginError for what escaped from a plugin: the one given, or else found by the traceback."""
        plugin = plugin if plugin is not None else self._blame(reason)
        return plugin_error(self.suspects(where) if plugin is None else f"{_name(plugin)}.{where}", reason)

    def suspects(self, hook: str) -> str:
        """Return the names of those who may have failed in *hook*, where nothing tells who did."""
        names = [_name(impl.plugin) for impl in self._impls[hook] if type(impl.plugin).__module__ != _BUILT_IN]
        return " or ".join(f"{name}.{hook}" for name in dict.fromkeys(names)) or f"a plugin's {hook}"

    async def _await(self, impl: pluggy.HookImpl, arguments: dict[str, object]) -> object:
        failure: PluginError
        before = cancellations()
        try:
            answer = await _call(impl, arguments)
            if cancellations() > before:
                raise asyncio.CancelledError  # it came meanwhile, and the hook kept it to itself
            return answer
        except DownloadError:
            raise
        except asyncio.CancelledError as reason:
            if is_cancelled():
                raise
            failure = self.failed(impl.function.__name__, reason, impl.plugin)  # nobody cancelled us: its own doing
        except Exception as reason:
            failure = self.failed(impl.function.__name__, reason, impl.plugin)
        raise failure

    def _answer(self, answer: object) -> AbstractAsyncContextManager[Payload]:
        if not (hasattr(answer, "__aenter__") and hasattr(answer, "__aexit__")):
            raise PluginError(f"{self.suspects('fetch')} returned {answer!r}, which is no async context manager")
        return answer

    def _expect_none(self, impl: pluggy.HookImpl, answer: object) -> None:
        if answer is not None:
            raise PluginError(f"{_name(impl.plugin)}.{impl.function.__name__} returned {answer!r}; it must return None")

    def _blame(self, reason: BaseException | None) -> object:
        """Return the plugin (or driver) in whose code the exception arose, by the innermost frame that has one."""
        blamed: object = None
        while reason is not None and blamed is None:
            for frame, _ in traceback.walk_tb(reason.__traceback__):
                blamed = self._owner(frame) or blamed
            reason = reason.__cause__ or reason.__context__  # a generator's StopIteration is behind a RuntimeError
        return blamed

    def _owner(self, frame: FrameType) -> object:
        """Return the plugin (or driver) whose code *frame* runs: a method, a function in one, or one of its module."""
        me, module = frame.f_locals.get("self"), frame.f_globals.get("__name__")
        if isinstance(me, Driver) or any(me is plugin for plugin in self.plugins):
            return me
        near = {kind: plugin for plugin in self.plugins for kind in type(plugin).__mro__ if kind.__module__ == module}
        for kind, plugin in near.items():
            if frame.f_code.co_qualname.startswith(f"{kind.__qualname__}."):
                return plugin
        return near.popitem()[1] if len(near) == 1 else None


def is_cancelled() -> bool:
    """Tell whether somebody has cancelled the task that runs; if not, a CancelledError is a plugin's own doing."""
    return asyncio.current_task() is None or cancellations() > 0


def cancellations() -> int:
    """Return how often the task that runs was cancelled, less what was taken back: a plugin may catch and forget it."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def plugin_error(where: str, reason: BaseException) -> PluginError:
    """Return a PluginError that says where a foreign exception came from; its traceback is kept as a note, as text."""
    error = PluginError(f"{where} failed: {type(reason).__name__}: {reason}")
    trace = "".join(traceback.format_tb(reason.__traceback__))
    error.add_note("\n".join(map(show_text, trace.splitlines())))
    return error


def _call(impl: pluggy.HookImpl, arguments: dict[str, object]) -> Any:
    return impl.function(*[arguments[name] for name in impl.argnames])


def _is_trylast(plugin: object, hook: str) -> bool:
    for attribute in dir(type(plugin)):
        options = getattr(_function(type(plugin), attribute), _MARK, None)
        if options is not None and (options["specname"] or attribute) == hook:
            return bool(options["trylast"])
    return False


def _name(plugin: object) -> str:
    return type(plugin).__name__
