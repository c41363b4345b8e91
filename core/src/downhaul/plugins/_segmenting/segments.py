"""Segments: one large file from several sources at the same time, put together in order."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from downhaul import Payload, Plugin, hookimpl

from .course import Course
from .window import Window

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from downhaul import Transfer


@dataclass(frozen=True)
class Segments(Plugin):
    """Fetches a large file in segments of *size* bytes, *parallel* of which are under way, or wait for their turn.

    They come from the source that is aimed at, and from those that mirror plugins offer besides, where a strong digest,
    of the whole or of its pieces, will judge what is put together. A segment that fails at one of them, or is too slow
    there, is fetched again from another one. Without such a digest all come from the one source, and only if that names
    a strong version of the file. It takes *parallel* times *size* bytes of memory, and the blocks on their way.

    Nothing else is asked for: the head of the first segment tells the size of the file. A source that ignores ranges
    delivers the file by that one answer. Of a `PieceValidation`, each piece is judged before it is delivered, and a bad
    one fetched again elsewhere.
    """

    parallel: int = 4
    size: int = 4 * 1024 * 1024

    def __post_init__(self) -> None:
        for name, number in (("parallel", self.parallel), ("size", self.size)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ValueError(f"Segments({name}=…) is a whole number, from 1; not {number!r}")

    @hookimpl
    def fetch(self, transfer: Transfer) -> AbstractAsyncContextManager[Payload] | None:
        """Answer for a file or its rest, once in an attempt: who asks again wants it from one source, by one answer."""
        request, known = transfer.request, transfer.state(self, _Known)
        is_whole = request.verb == "get" and request.length is None and request.unless is None
        is_posted = request.entitled is not None and request.entitled.form
        if not is_whole or is_posted or transfer.parent is not None:  # what is needed first, lists and tokens, is small
            return None
        if known.attempt == transfer.attempt:
            known.mixes = False
            return None
        known.attempt = transfer.attempt
        return self._answer(transfer, mixes=known.mixes)

    @asynccontextmanager
    async def _answer(self, transfer: Transfer, *, mixes: bool) -> AsyncGenerator[Payload]:
        request = transfer.request
        course = Course(self, transfer, self.size, mixes=mixes)
        async with aclosing(Window(course.segments(), course.receive)) as window:
            info = await course.open(window.begin())
            if info is not None:
                yield Payload(info, window.blocks(self.parallel))
                return
        async with transfer.open(self, request) as payload:
            yield payload


@dataclass
class _Known:
    """What is known of a transfer: the attempt that was answered last, and whether sources may be mixed."""

    attempt: int = 0
    mixes: bool = True
