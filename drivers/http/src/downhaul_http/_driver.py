"""The driver: one open answer after another."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

import httpx

from downhaul import Driver, Payload, ProtocolError, Timeout

from ._answers import read_head
from ._body import Body, FillingBody, NoBody, settle, told_length
from ._heads import WITHOUT_BODY
from ._lanes import DirectRest
from ._logs import guard_loggers
from ._options import HttpOptions
from ._own_client import OwnClient
from ._pools import Pools
from ._requests import wants_head_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from downhaul import IdleConnections, Request, Settings

    from ._body import Rest
    from ._senders import Sender, Senders


class HttpDriver(Driver):
    """Speaks HTTP/1.1 over connections of its own; by way of httpx HTTP/2 where `HttpOptions` say so, and by proxies.

    `client`: a client of one's own, used for every request in place of the driver's pools, and never closed; it is for
    the event loop that it is first used on. Or a function that makes one: called on the loop of each context, whose end
    closes the client; so for synchronous code, where the loop is the context's own.

    The client's transports, proxies, TLS and event hooks are in force; TLS, proxies and `HttpOptions` of the settings
    are not, the time limits are. Its header fields and its ``auth`` go to the origin of the download, never to a
    mirror or where a redirect leads; its cookies, parameters and base URL are not used, and it follows no redirect.

    Raises TypeError where `client` is neither.
    """

    options: ClassVar[tuple[type, ...]] = (HttpOptions,)

    def __init__(self, client: httpx.AsyncClient | Callable[[], httpx.AsyncClient] | None = None) -> None:
        if client is not None and not (isinstance(client, httpx.AsyncClient) or callable(client)):
            raise TypeError(
                "HttpDriver(client=…) takes an httpx.AsyncClient, or a function that makes one,"
                f" not {type(client).__name__}"
            )
        guard_loggers()
        self._own = None if client is None else OwnClient(client)
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, Pools] = WeakKeyDictionary()

    def open(self, request: Request, settings: Settings) -> AbstractAsyncContextManager[Payload]:
        """Open *request*: a GET, or a HEAD for the verb "stat".

        The body is that of the answer, byte for byte, whatever its Content-Encoding. The limits of `Timeout`:
        `connect` for the connection with its TLS, the way through a proxy included; `head` from then to the end of
        the head; where it is not set, `read` for each silence in the head, and ten times as much for all of it;
        `read` for each silence in the body. Raises FetchError, and Redirected for a redirect.
        """
        if request.verb == "list":
            raise ProtocolError(f"HTTP offers no listing of {request.url}")
        return _Opened(self._senders, self.idle, request, settings)

    @property
    def _senders(self) -> Senders:
        """The client that was given, or the pools of the running loop: after a fork, the parent's are not ours."""
        if self._own is not None:
            return self._own
        loop = asyncio.get_running_loop()
        pools = self._pools.get(loop)
        if pools is None:
            pools = self._pools[loop] = Pools()
        return pools

    async def aclose(self) -> None:
        """Close every pool; a client that was given, not made for the context, stays open."""
        await self._senders.aclose()


class _Opened(AbstractAsyncContextManager["Payload"]):
    """One answer, while it is open. A class: a generator would cost as much as all of what happens in here."""

    def __init__(self, senders: Senders, idle: IdleConnections, request: Request, settings: Settings) -> None:
        self._senders, self._idle = senders, idle
        self._request, self._settings = request, settings
        self._sender: Sender
        self._rest: Rest
        self._body: Body | None = None

    async def __aenter__(self) -> Payload:
        request, settings = self._request, self._settings
        timeout = settings.timeout or Timeout()
        self._sender = sender = await self._senders.take(request, settings, self._idle)
        clean = False
        try:
            head, self._rest = await sender.exchange(request, timeout)
            try:
                answer = read_head(request, head, settings.proxy_for(request.url))
            except Exception:
                empty = wants_head_only(request) or head.status in WITHOUT_BODY
                clean = await settle(self._rest, 0 if empty else told_length(head))
                raise
        except BaseException:
            await self._senders.give_back(sender, clean=clean)
            raise
        if not answer.has_body:
            return Payload(answer.info, NoBody())
        if isinstance(self._rest, DirectRest):
            self._body = FillingBody(self._rest, answer.length, timeout.read)
        else:
            self._body = Body(self._rest, answer.length, timeout.read)
        return Payload(answer.info, self._body)

    async def __aexit__(self, *_: object) -> None:
        clean = False
        try:
            if self._body is None:
                await settle(self._rest, 0)
            else:
                await self._body.aclose()
            clean = self._rest.is_clean
        finally:
            await self._senders.give_back(self._sender, clean=clean)
