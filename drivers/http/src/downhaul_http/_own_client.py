"""A client that the user made, or a function that makes it, in place of the driver's pools."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import httpx

from ._exchange import exchange
from ._requests import client_url, message

if TYPE_CHECKING:
    from collections.abc import Callable

    from downhaul import IdleConnections, Request, Settings, Timeout

    from ._body import Rest
    from ._heads import Head
    from ._senders import Sender


class OwnClient:
    """A client that the user made: used for every request, and closed only where it was made for us.

    What it was told about redirects, cookies, parameters and its base URL is not used. Its header fields and its
    authentication are, as a user's, for the origin of the download, never for a mirror or where a redirect leads.
    """

    def __init__(self, client: httpx.AsyncClient | Callable[[], httpx.AsyncClient]) -> None:
        self._given = client
        self._loop: asyncio.AbstractEventLoop | None = None
        self._made: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()

    async def take(
        self,
        request: Request,
        settings: Settings,  # noqa: ARG002 - the client has its own
        idle: IdleConnections,  # noqa: ARG002 - so are its connections
    ) -> Sender:
        """Return what sends *request* through the client; raises RuntimeError where that lives on another loop."""
        return _ClientSender(self._client(), at_home=request.at_home)

    async def give_back(self, sender: Sender, *, clean: bool) -> None:
        """Do nothing: the client keeps its connections."""

    async def aclose(self) -> None:
        """Close the client that was made for us on this loop; a given one is not ours."""
        client = self._made.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if isinstance(self._given, httpx.AsyncClient):
            if self._loop not in {None, loop}:
                raise RuntimeError(
                    "this httpx.AsyncClient was used on another event loop, and its connections are there; give a"
                    " function that makes one for each context: HttpDriver(client=lambda: httpx.AsyncClient(…))"
                )
            self._loop = loop
            return self._given
        client = self._made.get(loop)
        if client is None:
            client = self._given()
            if not isinstance(client, httpx.AsyncClient):
                raise TypeError(f"HttpDriver(client=…) made no httpx.AsyncClient, but {type(client).__name__}")
            self._made[loop] = client
        return client


class _ClientSender:
    def __init__(self, client: httpx.AsyncClient, *, at_home: bool) -> None:
        self._send = partial(client.send, stream=True, follow_redirects=False, auth=client.auth if at_home else None)
        self._defaults = [pair for pair in client.headers.raw if _is_set_by_user(*pair)] if at_home else []

    async def exchange(self, request: Request, timeout: Timeout) -> tuple[Head, Rest]:
        """Send *request*; return the head of the answer, and the rest of it. Raises FetchError."""
        return await exchange(self._send, message(request, client_url(request), self._defaults).for_client(), timeout)


def _is_set_by_user(name: bytes, value: bytes) -> bool:
    # httpx sets these by itself; of the last one only its own value.
    name = name.lower()
    return name not in {b"accept", b"accept-encoding", b"connection"} and not (
        name == b"user-agent" and value.startswith(b"python-httpx/")
    )
