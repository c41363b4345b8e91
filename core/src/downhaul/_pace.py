"""The pace of a source: given up when it is too slow."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from ._errors import TimeoutExceeded
from ._urls import show

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from ._models import Block, Payload
    from ._settings import LowSpeed


def in_time(
    answer: AbstractAsyncContextManager[Payload], limit: LowSpeed | None, url: str
) -> AbstractAsyncContextManager[Payload]:
    """Return *answer*, the one to *url*, which raises TimeoutExceeded unless it begins within the time of *limit*."""
    return answer if limit is None or not limit.size else _InTime(answer, limit, url)


class _InTime(AbstractAsyncContextManager["Payload"]):
    def __init__(self, answer: AbstractAsyncContextManager[Payload], limit: LowSpeed, url: str) -> None:
        self._answer, self._limit, self._url = answer, limit, url

    async def __aenter__(self) -> Payload:
        window = asyncio.timeout(self._limit.seconds)
        try:
            async with window:
                return await self._answer.__aenter__()
        except TimeoutError:
            if not window.expired():
                raise
            told = f"{show(self._url)} did not begin to answer within {self._limit.seconds} s"
            raise TimeoutExceeded(told, "low speed") from None

    async def __aexit__(
        self, kind: type[BaseException] | None, reason: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._answer.__aexit__(kind, reason, trace)


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
        window = asyncio.timeout(self._patience())
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

    def _patience(self) -> float | None:
        """Return how long the next block may take: to the end of the window, or of the next if this one has enough."""
        if not self._limit.size:
            return None
        return self._left if self._received < self._limit.size else self._left + self._limit.seconds

    def _too_slow(self) -> TimeoutExceeded:
        least, seconds = self._limit.size, self._limit.seconds
        told = f"{show(self._url)} sent {self._received} bytes within {seconds} s, fewer than {least}"
        return TimeoutExceeded(told, "low speed")
