"""Limits of time that cost nothing while they are kept."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """Limits one wait after another.

    Most waits are over at once, and a timer of the loop for each would cost more than the wait. So there is a single
    timer: it stays where it is when a wait is over, and looks when it goes off whether there is one that it must end.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = math.inf
        self._ring: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float, ring: Callable[[], None]) -> None:
        """Begin to wait; *ring* is called if that is not over after *seconds*, which may be infinite."""
        self._until, self._ring = self._loop.time() + seconds, ring
        self._set()

    def stop(self) -> None:
        """Tell that the wait is over."""
        self._until, self._ring = math.inf, None

    def end(self) -> None:
        """Tell that there will be no further wait."""
        self.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self) -> None:
        if self._until < (math.inf if self._timer is None else self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._until, self._look)

    def _look(self) -> None:
        self._timer = None
        ring = self._ring
        if ring is not None and self._until <= self._loop.time():
            self.stop()
            ring()
        else:
            self._set()
