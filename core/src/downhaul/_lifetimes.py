"""The lives of plugins: each is entered once per context, in a task of its own, and left when the context ends."""

from __future__ import annotations

import asyncio
import logging
import weakref
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from ._errors import DownloadError
from ._registry import plugin_error
from .hookspecs import Plugin

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._context import Context

_log: Final = logging.getLogger("downhaul.hooks")


class Lifetimes:
    """What `Plugin.open` returned for each plugin, entered and not yet left."""

    def __init__(self, context: Context) -> None:
        self._context = weakref.ref(context)  # a context that nobody has any more may go
        self._end = asyncio.Event()
        self._tasks: dict[asyncio.Task[None], asyncio.Future[None]] = {}
        self._entered: dict[object, asyncio.Future[None]] = {}

    async def enter(self, plugins: Iterable[object]) -> None:
        """Enter those of *plugins* that have not been; raise PluginError if one cannot be."""
        for plugin in plugins:
            if getattr(type(plugin), "open", Plugin.open) is Plugin.open:
                continue
            if plugin not in self._entered:
                entered = self._entered[plugin] = asyncio.get_running_loop().create_future()
                task = asyncio.create_task(self._live(plugin, entered))
                self._tasks[task] = entered
                task.add_done_callback(self._tasks.pop)
            try:
                await asyncio.shield(self._entered[plugin])
            except DownloadError as error:
                raise error.copy() from None  # each download that waited will make the error its own

    async def aclose(self) -> None:
        """Leave all of them, and wait until they are left; do not wait for those that are still being entered."""
        self._end.set()
        for task, entered in self._tasks.items():
            if not entered.done():
                task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    async def _live(self, plugin: object, entered: asyncio.Future[None]) -> None:
        try:
            life = plugin.open(self._context())  # type: ignore[attr-defined]
            if isinstance(life, nullcontext):  # nothing to be left
                entered.set_result(None)
                return
            async with life:
                entered.set_result(None)
                await self._end.wait()
        except (Exception, asyncio.CancelledError) as reason:
            error = (
                reason if isinstance(reason, DownloadError) else plugin_error(f"{type(plugin).__name__}.open", reason)
            )
            if entered.done():
                _log.error("%s", error)
            else:
                del self._entered[plugin]
                entered.set_exception(error)
                entered.exception()  # whoever waits gets it; if nobody does, that is no fault
