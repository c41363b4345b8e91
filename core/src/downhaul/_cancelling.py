"""Cancelling, and a word of warning about what does not end then."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

PATIENCE: Final = 5.0  # seconds
_OURS: Final = ("downhaul._", "contextlib", "asyncio.")
_SHOWN: Final = 5
_log: Final = logging.getLogger("downhaul.hooks")


def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel *tasks* of the running loop; log a warning that names whoever keeps one of them from ending.

    What does not end is waited for nevertheless: nobody else could free what it holds.
    """
    cancelled = weakref.WeakSet(task for task in tasks if not task.done())
    for task in tuple(cancelled):
        task.cancel()
    if cancelled:
        asyncio.get_running_loop().call_later(PATIENCE, _warn, cancelled, PATIENCE)


def _warn(tasks: weakref.WeakSet[asyncio.Task[Any]], seconds: float) -> None:
    left = [task for task in tasks if not task.done()]
    for place in dict.fromkeys(map(_place, left)):
        if place:
            _log.warning("cancelled %.0f s ago, and still waited for: %s does not end", seconds, place)
    if left:
        asyncio.get_running_loop().call_later(seconds, _warn, tasks, 2 * seconds)


def _place(task: asyncio.Task[Any]) -> str:
    """Return where *task* stands, in code that is not ours: plugins, drivers and what they call."""
    names = dict.fromkeys(_name(frame) for frame in _frames(task.get_coro()))
    return " → ".join(list(filter(None, names))[:_SHOWN])


def _frames(awaited: Any) -> Iterator[FrameType]:
    """Yield the frames that wait for each other, from *awaited* inward."""
    while awaited is not None:
        for kind, following in (("cr", "cr_await"), ("ag", "ag_await"), ("gi", "gi_yieldfrom")):
            frame = getattr(awaited, f"{kind}_frame", None)
            if frame is not None:
                yield frame
                awaited = getattr(awaited, following)
                break
        else:  # a step of an asynchronous generator does not tell of which
            awaited = next((each for each in gc.get_referents(awaited) if hasattr(each, "ag_frame")), None)


def _name(frame: FrameType) -> str:
    if frame.f_globals.get("__name__", "").startswith(_OURS):
        return ""
    me = frame.f_locals.get("self")
    return frame.f_code.co_qualname if me is None else f"{type(me).__name__}.{frame.f_code.co_name}"
