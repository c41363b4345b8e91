"""Values that are made once and shared, however many ask for them at the same time: single-flight."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ._errors import DownloadError, PluginError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    _Key = tuple[object, Hashable]

_T = TypeVar("_T")
_KEPT: Final = 10_000

_making: ContextVar[_Key | None] = ContextVar("downhaul_making", default=None)
"""The key whose factory is running here: who waits for another in it is a step of a possible circle."""


class _Flight:
    """A factory at work, and how many wait for it."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task, self.waiters = task, 0


class SharedValues:
    """The shared values of a context, by plugin and key; the least recently used are dropped beyond 10,000."""

    def __init__(self) -> None:
        self._values: OrderedDict[_Key, tuple[Any, float | None]] = OrderedDict()
        self._flights: dict[_Key, _Flight] = {}
        self._waits_for: dict[_Key, list[_Key]] = {}

    async def once(
        self,
        plugin: object,
        key: Hashable,
        factory: Callable[[], Awaitable[_T]],
        ttl: float | Callable[[_T], float | None] | None,
    ) -> _T:
        """Return the value of *key*, made by *factory* in a task of its own where there is none yet."""
        full = (plugin, key)
        if (known := self._values.get(full)) is not None:
            value, until = known
            if until is None or until > time.monotonic():
                self._values.move_to_end(full)
                return value  # type: ignore[no-any-return]
        me = _making.get()
        if me is not None:
            self._refuse_circle(me, full)
        flight = self._flights.get(full)
        if flight is None:
            task = asyncio.get_running_loop().create_task(self._make(full, factory, ttl))
            flight = self._flights[full] = _Flight(task)
        return await self._wait(me, full, flight)  # type: ignore[no-any-return]

    def forget(self, plugin: object, key: Hashable, stale: object) -> None:
        """Drop the value of *key* if it is *stale*; one that has replaced it already stays."""
        known = self._values.get((plugin, key))
        if known is not None and known[0] == stale:
            del self._values[plugin, key]

    async def aclose(self) -> None:
        """Cancel every factory at work, and wait for its end."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait(self, me: _Key | None, full: _Key, flight: _Flight) -> Any:
        flight.waiters += 1
        if me is not None:
            self._waits_for.setdefault(me, []).append(full)
        try:
            return await asyncio.shield(flight.task)
        except DownloadError as error:
            raise error.copy() from None  # each download that waited will make the error its own
        finally:
            flight.waiters -= 1
            if me is not None:
                self._waits_for[me].remove(full)
                if not self._waits_for[me]:
                    del self._waits_for[me]
            if not flight.waiters and not flight.task.done():
                if self._flights.get(full) is flight:
                    del self._flights[full]
                flight.task.cancel()
                await asyncio.wait((flight.task,))
            del flight  # its task holds the error, whose traceback holds this frame

    async def _make(
        self, full: _Key, factory: Callable[[], Awaitable[_T]], ttl: float | Callable[[_T], float | None] | None
    ) -> _T:
        _making.set(full)
        try:
            value = await factory()
            seconds = ttl(value) if callable(ttl) else ttl
            self._values[full] = value, None if seconds is None else time.monotonic() + seconds
            self._values.move_to_end(full)
            if len(self._values) > _KEPT:
                self._values.popitem(last=False)
            return value
        finally:
            flight = self._flights.get(full)
            if flight is not None and flight.task is asyncio.current_task():
                del self._flights[full]
            del flight  # as above

    def _refuse_circle(self, me: _Key, full: _Key) -> None:
        path = self._path(full, me)
        if path is not None:
            names = " → ".join(f"{type(plugin).__name__}[{key!r}]" for plugin, key in (me, *path))
            raise PluginError(f"waiting in a circle: {names}")

    def _path(self, start: _Key, goal: _Key) -> list[_Key] | None:
        if start == goal:
            return [start]
        for following in self._waits_for.get(start, ()):
            path = self._path(following, goal)
            if path is not None:
                return [start, *path]
        return None
