"""What a context holds while it is bound to a loop."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ._cancelling import cancel
from ._fanout import Flights
from ._governor import Governor
from ._idle import IdleConnections
from ._lifetimes import Lifetimes
from ._loops import Threads
from ._once import SharedValues
from ._registry import Hooks
from ._ring import Pages

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable
    from concurrent.futures import Executor

    from ._context import Context
    from ._settings import Settings

_T = TypeVar("_T")
_KEPT: Final = 256
_THREADS: Final = 4


class Shared:
    """The drivers, the slots, the shared values and the threads of one context; one at a time."""

    def __init__(self, context: Context) -> None:
        self.drivers = context._drivers
        self.governor = Governor(context.connections, context.connections_per_origin)
        self.drivers.idle = IdleConnections(self.governor)
        self.values = SharedValues()
        self.lifetimes = Lifetimes(context)
        self.flights = Flights()
        self.pages = Pages()
        self.running: set[asyncio.Task[Any]] = set()
        self._executor: Threads | None = None
        self._hooks: OrderedDict[tuple[object, ...], Hooks] = OrderedDict()
        self._settings: OrderedDict[Settings, Settings] = OrderedDict()
        self._defaults = context.settings
        self._plugins, self._built_in = context.plugins, context.built_in
        self._closed = False

    def executor(self) -> Executor:
        """Return the threads that hash and write."""
        if self._executor is None:
            self._executor = Threads(_THREADS)
        return self._executor

    def is_here(self) -> bool:
        """Tell whether this thread is one of those that hash and write."""
        return self._executor is not None and self._executor.is_here()

    def hooks(self, plugins: tuple[object, ...], without: object = None) -> Hooks:
        """Return the hooks of *plugins*, the context's and the built-in ones, all save *without*.

        Made when they are new: that costs a thousand times more than finding them.
        """
        return _kept(self._hooks, (plugins, without), lambda: Hooks(self._composed(plugins, without)))

    def _composed(self, plugins: tuple[object, ...], without: object) -> tuple[object, ...]:
        own = dict.fromkeys((*plugins, *self._plugins))
        replaced = {type(plugin) for plugin in own}
        built_in = (plugin for plugin in self._built_in if type(plugin) not in replaced)
        return tuple(plugin for plugin in (*own, *built_in) if plugin != without)

    def settings(self, settings: Settings) -> Settings:
        """Return *settings* with what is unset filled from the context and the defaults."""
        return _kept(self._settings, settings, lambda: settings.filled(self._defaults).complete())

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await *work*, and let the task that does so be cancelled when the context is closed."""
        if self._closed:
            work.close()
            raise RuntimeError("this context is closed")
        task = asyncio.current_task()
        if task is None or task in self.running:
            return await work
        self.running.add(task)
        try:
            return await work
        except asyncio.CancelledError as cancelled:
            reasons = cancelled.args
        finally:
            self.running.discard(task)
            del task  # it holds the error, whose traceback holds this frame
        # Anew: the frames on its way, those of client libraries too, hold what was sent.
        raise asyncio.CancelledError(*reasons)

    async def aclose(self, closer: asyncio.Task[Any] | None = None) -> None:
        """Cancel what runs, save *closer*, then close everything, the youngest first."""
        self._closed = True
        running = self.running - {closer}
        cancel(running)
        if running:
            await asyncio.wait(running)
        try:
            await self.values.aclose()
            await self.lifetimes.aclose()
            await self.drivers.aclose()
        finally:
            if self._executor is not None:
                self._executor.shutdown()


def _kept(cache: OrderedDict[Any, _T], key: Hashable, make: Callable[[], _T]) -> _T:
    """Return the value of *key*, made when it is new; the least recently used of many are dropped."""
    value = cache.get(key)
    if value is None:
        value = cache[key] = make()
        if len(cache) > _KEPT:
            cache.popitem(last=False)
    else:
        cache.move_to_end(key)
    return value
