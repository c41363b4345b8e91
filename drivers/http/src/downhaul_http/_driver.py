"""The driver: one open answer after another."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

import httpx

from downhaul import Driver, Payload, ProtocolError, Timeout

from ._answers import read_head
from ._body import Body, NoBody, settle
from ._exchange import exchange
from ._logs import guard_loggers
from ._options import HttpOptions
from ._own_client import OwnClient
from ._pools import Pools
from ._requests import client_request, client_url, wants_head_only

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from downhaul import Request, Settings

    from ._senders import Senders


class HttpDriver(Driver):
    """Speaks HTTP/1.1, and HTTP/2 where `HttpOptions` say so, by way of httpx.

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

    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncIterator[Payload]:
        """Open *request*: a GET, or a HEAD for the verb "stat".

        The body is that of the answer, byte for byte, whatever its Content-Encoding. The limits of `Timeout`:
        `connect` for the connection with its TLS, the way through a proxy included; `head` from then to the end of
        the head; where it is not set, `read` for each silence in the head, and ten times as much for all of it;
        `read` for each silence in the body. Raises FetchError, and Redirected for a redirect.
        """
        if request.verb == "list":
            raise ProtocolError(f"HTTP offers no listing of {request.url}")
        timeout = settings.timeout or Timeout()
        url = client_url(request)
        senders = self._senders
        sender = await senders.take(request, settings, self.idle)
        clean = False
        try:
            response = await exchange(sender, client_request(request, url, sender.defaults), timeout)
            try:
                answer = read_head(request, response, settings.proxy_for(request.url))
            except Exception:
                clean = await settle(response, has_body=_may_have_body(request, response))
                raise
            if not answer.has_body:
                clean = await settle(response, has_body=False)
                yield Payload(answer.info, NoBody())
                return
            body = Body(response, answer.length, timeout.read, http2=answer.http2)
            try:
                yield Payload(answer.info, body)
            finally:
                await body.aclose()
                clean = body.is_complete
        finally:
            await senders.give_back(sender, clean=clean)

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


def _may_have_body(request: Request, response: httpx.Response) -> bool:
    return not wants_head_only(request) and response.status_code != 304
