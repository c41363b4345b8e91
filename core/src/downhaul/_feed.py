"""What a stream is fed with: one fetch, whose bytes are taken block by block, on the context's loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from ._cancelling import cancel
from ._channel import Channel
from ._models import Headers
from ._pipeline import finished

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ._channel import Delivered
    from ._models import Info, Result
    from ._transfer import Transfer

    Begin = Callable[[Channel], tuple[Transfer, Coroutine[Any, Any, Result]]]

_HOP_BY_HOP: Final = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info", "proxy-authorization",
    "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
_FOR_US_ALONE: Final = frozenset({"set-cookie", "set-cookie2", "www-authenticate", "authentication-info"})
_OF_THE_ORIGIN: Final = frozenset({
    "accept-ch", "alt-svc", "clear-site-data", "content-location", "critical-ch", "expect-ct", "link", "location",
    "nel", "public-key-pins", "public-key-pins-report-only", "refresh", "report-to", "reporting-endpoints",
    "service-worker-allowed", "set-login", "strict-transport-security", "x-lighttpd-send-file", "x-sendfile",
})  # fmt: skip
"""What a browser, or a web server in front of us, would take for our word, and where the origin and its files are."""

_TO_A_SERVER: Final = ("x-accel-", "x-reproxy-", "surrogate-")
"""How fields begin that tell a web server in front what to do, such as to send another file."""

_PLAIN: Final = frozenset({"accept-ranges", "content-length", "content-type", "etag", "last-modified"})


class Feed:
    """One fetch for a consumer; made, and used, on the context's loop.

    *held_back* is how many bytes wait for the verdict; of a *part* only its bytes come; *delivered* is what the
    consumer has already. `info` and `headers` are known from the commit point on, where the first block may be taken;
    `result` from the end on.
    """

    def __init__(
        self,
        begin: Begin,
        held_back: int,
        part: range | None = None,
        delivered: Delivered | None = None,
    ) -> None:
        self._channel = Channel(held_back, self._commit, part, delivered)
        self._transfer, work = begin(self._channel)
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(self._channel.end)
        self.headers = Headers()
        self.info: Info | None = None
        self.result: Result | None = None

    async def next(self) -> bytes | None:
        """Return the next block, or None at the end of a good file; raise what the download raised.

        A wait that is cancelled has taken nothing.
        """
        block = await self._channel.take()
        if block is None:
            if self._task.cancelled():
                raise RuntimeError("the stream was left, or its context closed, before it came to its end")
            self.result = self._task.result()
        return block

    async def stop(self) -> None:
        """End the download, and wait until nothing is left of it."""
        cancelled = None
        if not self._task.done():
            cancel((self._task,))
            cancelled = await finished(self._task)
        self._task.cancelled() or self._task.exception()
        if cancelled is not None:
            raise cancelled

    def abandon(self) -> None:
        """End the download, for nobody is there who would wait for that."""
        self._task.cancel()

    def _commit(self) -> None:
        payload = self._transfer.payload
        if payload is not None:
            info, secrets = self._channel.told or payload.info, self._transfer.request.credentials
            headers = end_to_end(info.headers_of_whole())
            if secrets is not None:  # some servers repeat what they were sent
                told = [name for name, value in headers.items() if secrets.hide(value) != value]
                headers = headers.without(name for name in told if name.lower() not in _PLAIN)
            self.headers, self.info = headers, info


def end_to_end(headers: Headers) -> Headers:
    """Return the end-to-end fields among *headers* (RFC 9110, section 7.6.1), less those that are not to be passed on.

    These are cookies, challenges, and what speaks of the origin as such: it would be taken for ours.
    """
    named = [name.strip().lower() for name in headers.get("connection", "").split(",")]
    told = [name for name in headers if name.lower().startswith(_TO_A_SERVER)]
    return headers.without({*_HOP_BY_HOP, *_FOR_US_ALONE, *_OF_THE_ORIGIN, *named, *told})
