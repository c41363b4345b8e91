"""Connections that drivers keep open for later: with those in use, they are never more than a context allows."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._governor import Governor


class IdleConnections:
    """The idle connections of all drivers of a context, the one that has been idle longest first.

    A driver finds it as `Driver.idle`. Whoever does not make room before it connects, and tell what it keeps, may open
    more connections than the context allows.
    """

    def __init__(self, governor: Governor | None = None) -> None:
        self._governor = governor
        self._kept: dict[object, tuple[str, Callable[[], Awaitable[None]]]] = {}
        self._kept_by: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, origin: str, close: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Note a connection to *origin* that is idle from now on.

        *close* closes it, when others need the room; it need not tell so. What is returned is to be called when the
        connection is in use again, or closed by its driver; more calls do nothing.
        """
        ticket = object()
        self._kept[ticket] = origin, close
        self._kept_by[origin] = self._kept_by.get(origin, 0) + 1
        return partial(self._remove, ticket)

    async def make_room(self, origin: str) -> None:
        """Close idle connections until one more, to *origin*, is within the limits; to be called inside of `open`."""
        while (ticket := self._in_the_way(origin)) is not None:
            _, close = self._kept[ticket]
            self._remove(ticket)
            await close()

    def _in_the_way(self, origin: str) -> object | None:
        governor = self._governor
        if governor is None or not self._kept:
            return None
        if governor.used_by(origin) + self._kept_by.get(origin, 0) > governor.per_origin:
            return next((ticket for ticket, (where, _) in self._kept.items() if where == origin), None)
        if governor.used + len(self._kept) > governor.total:
            return next(iter(self._kept))
        return None

    def _remove(self, ticket: object) -> None:
        origin, _ = self._kept.pop(ticket, (None, None))
        if origin is None:
            return
        left = self._kept_by[origin] - 1
        if left:
            self._kept_by[origin] = left
        else:
            del self._kept_by[origin]
