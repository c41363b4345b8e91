"""The pace of a source: given up when it is too slow."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ._errors import TimeoutExceeded
from ._urls import show

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ._models import Block
    from ._settings import LowSpeed


class Paced:
    """The blocks of *body*, which raises TimeoutExceeded where fewer bytes than *limit* asks for come within its time.

    Only the time that is spent waiting for blocks counts, window by window.
    """

    def __init__(self, body: AsyncIterator[Block], limit: LowSpeed, url: str) -> None:
        self._body, self._limit, self._url = aiter(body), limit, url
        self._left = limit.seconds
        self._received = 0

    def __aiter__(self) -> Paced:
        return self

    async def __anext__(self) -> Block:
        since = time.monotonic()
        window = asyncio.timeout(self._left if self._received < self._limit.size else None)
        try:
            async with window:
                block = await anext(self._body)
        except TimeoutError:
            if not window.expired():
                raise
            raise self._too_slow() from None
        self._left -= time.monotonic() - since
        self._received += len(block)
        if self._left <= 0:
            if self._received < self._limit.size:
                raise self._too_slow()
            self._left, self._received = self._limit.seconds, 0
        return block

    def _too_slow(self) -> TimeoutExceeded:
        least, seconds = self._limit.size, self._limit.seconds
        told = f"{show(self._url)} sent {self._received} bytes within {seconds} s, fewer than {least}"
        return TimeoutExceeded(told, "low speed")
