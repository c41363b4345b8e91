"""One request by way of httpx, and the head of its answer: time limits, and connections that had died unnoticed."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ._body import LibraryRest
from ._failures import before_answer, chain, is_foreign, is_stale
from ._heads import Head
from ._logs import guarded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx

    from downhaul import FetchError, Timeout

    from ._body import Rest

_DEAD_CONNECTIONS: Final = 8
"""How many kept connections may turn out to be dead, one after another, before that counts as a failure."""

SILENCES: Final = 10
"""How many times `Timeout.read` a head may take, where `Timeout.head` is not set: no drip may last for ever."""


async def exchange(
    send: Callable[[httpx.Request], Awaitable[httpx.Response]],
    request: httpx.Request,
    timeout: Timeout,
    *,
    proxied: bool = False,
) -> tuple[Head, Rest]:
    """Give *request* to *send*, and return the head of the answer and the rest of it.

    *proxied*: a proxy is connected to. A kept connection that had died before the answer began is replaced at once, and
    nobody hears of it. Raises FetchError.
    """
    outside = sys.exception()
    for again in range(_DEAD_CONNECTIONS, -1, -1):
        course = _Course(timeout)
        request.extensions = {"timeout": course.limits, "trace": course.trace}
        failure: FetchError | None = None
        try:
            async with course.clock:
                with guarded():
                    response = await send(request)
        except Exception as reason:
            if not is_foreign(reason):
                raise
            reasons = chain(reason, outside)
            if not (again and course.is_reused and is_stale(reasons, http2=course.http2)):
                failure = before_answer(
                    reasons, phase=course.phase, http2=course.http2, proxied=proxied and not course.tunnelled
                )
            del reasons  # by their tracebacks they hold this frame
        else:
            # From here on the body has a clock of its own.
            course.limits["read"] = None
            return Head.of(response), LibraryRest(response)
        finally:
            await course.abandon()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure
    raise AssertionError("the last round raises or returns")


class _Course:
    """What has happened to one request, as httpcore tells it by its `trace` extension, and the clock set by it."""

    def __init__(self, timeout: Timeout) -> None:
        self.phase = "connect"
        self.is_reused = False
        self.http2 = False
        self.tunnelled = False
        # Given to the library too: one's own client may have a transport that does not trace.
        self.limits: dict[str, float | None] = {
            "connect": timeout.connect,
            "read": timeout.head or timeout.read,
            "write": timeout.read,
            "pool": None,
        }
        self.clock = asyncio.timeout(None)
        self._timeout = timeout
        self._connected = False
        self._stream: Any = None

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """Take note of *event*; names are ``<where>.<what>.<started, complete or failed>``."""
        where, _, what = event.partition(".")
        if what in {"connect_tcp.started", "connect_unix_socket.started"}:
            self._connected = True
            self._within(self._timeout.connect)
        elif what in {"connect_tcp.complete", "connect_unix_socket.complete"}:
            self._stream = info.get("return_value")
        elif what == "start_tls.started":
            self.tunnelled = where != "connection"
        elif what == "send_request_headers.started" and getattr(info.get("request"), "method", b"") != b"CONNECT":
            self.phase = "head"
            self.http2 = where == "http2"
            self.is_reused = not self._connected
            self._stream = None
            head, read = self._timeout.head, self._timeout.read
            self._within(head or (read and read * SILENCES))

    async def abandon(self) -> None:
        """Close a connection that was being made when this ended: the library forgets it on cancellation."""
        self.clock = asyncio.timeout(None)  # the one that ran holds the task, and the library's exceptions hold us
        if self._stream is not None:
            stream, self._stream = self._stream, None
            with suppress(OSError):
                await stream.aclose()

    def _within(self, seconds: float | None) -> None:
        when = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self.clock.reschedule(when)
