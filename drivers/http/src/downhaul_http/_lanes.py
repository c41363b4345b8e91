"""Lanes: what carries one exchange at a time, over one connection of its own.

A pool of connections would do: but httpx's looks through all of its connections several times per request, which costs
more than everything else from some twenty on. And it lets several exchanges share a connection of HTTP/2: there, one
that is cancelled or left early takes the others with it, as the bytes that it was about to write are lost and those
that it does not read fill the window of all.

`DirectLane` speaks HTTP/1.1 itself, without an object of httpx for each file: most downloads cost a tenth so.
`LibraryLane` lets httpx do the rest: HTTP/2, proxies, Unix sockets.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple, Protocol

import httpx

from ._connecting import connect
from ._exchange import SILENCES, exchange
from ._failures import before_answer, chain, in_body, is_foreign, is_stale
from ._requests import client_url, message, plain_target
from ._senders import Sender

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from downhaul import Credentials, FetchError, Request, Timeout, User

    from ._body import Rest
    from ._connection import Connection
    from ._heads import Head
    from ._pools import Pool


class Key(NamedTuple):
    """What requests must have in common to use one connection, one after another."""

    origin: str
    proxy: str
    who: User | str | None
    is_direct: bool


class Lane(Sender, Protocol):
    """Carries one exchange at a time."""

    pool: Pool
    key: Key
    free_since: float
    in_use: Callable[[], None]
    """To be called when the lane has been idle, and is in use again or closed."""

    async def aclose(self) -> None:
        """Close the connection, whatever state it is in."""


class LibraryLane:
    """A lane that is a transport of httpx, which has one connection as it carries one exchange at a time."""

    def __init__(self, transport: httpx.AsyncHTTPTransport, pool: Pool, key: Key) -> None:
        self._transport = transport
        self.pool, self.key = pool, key
        self.free_since = 0.0
        self.in_use: Callable[[], None] = nothing

    async def exchange(self, request: Request, timeout: Timeout) -> tuple[Head, Rest]:
        """Send *request*; return the head of the answer, and the rest of it. Raises FetchError."""
        # To the transport itself, without a client around it: that would keep cookies, follow redirects in its head,
        # and log URLs, all of which costs time only to be prevented.
        sent = message(request, client_url(request)).for_client()
        return await exchange(self._transport.handle_async_request, sent, timeout, proxied=bool(self.key.proxy))

    async def aclose(self) -> None:
        """Close the connection, whatever state it is in."""
        self.in_use()
        try:
            await self._transport.aclose()
        except Exception as reason:
            if not is_foreign(reason):
                raise


class _Template(NamedTuple):
    """What is sent behind the target of a plain request, and what the request has to have for that."""

    headers: tuple[tuple[str, str], ...]
    credentials: Credentials | None
    host: str
    lines: bytes


class DirectLane:
    """A lane that is a `Connection`, which *trust* guards where it is by TLS; *scratch* is memory that all share."""

    def __init__(
        self, trust: ssl.SSLContext | None, local_address: str | None, scratch: memoryview, pool: Pool, key: Key
    ) -> None:
        self._trust, self._local_address, self._scratch = trust, local_address, scratch
        self.pool, self.key = pool, key
        self.free_since = 0.0
        self.in_use: Callable[[], None] = nothing
        self._connection: Connection | None = None
        self._template: _Template | None = None

    async def exchange(self, request: Request, timeout: Timeout) -> tuple[Head, Rest]:
        """Send *request*; return the head of the answer, and the rest of it.

        A kept connection that had died before the answer began is replaced at once, and nobody hears of it. Raises
        FetchError.
        """
        text, has_body = self._text(request)
        read = timeout.head or timeout.read
        total = timeout.head or (timeout.read and timeout.read * SILENCES)
        outside = sys.exception()
        while True:
            failure: FetchError
            phase, connection = "connect", self._connection
            is_reused = connection is not None and connection.is_quiet
            try:
                if connection is None or not is_reused:
                    connection = await self._connect(timeout.connect)
                phase = "head"
                return await connection.ask(text, has_body=has_body, silence=read, total=total), DirectRest(connection)
            except httpx.TransportError as reason:
                reasons = chain(reason, outside)
                if is_reused and is_stale(reasons, http2=False):
                    continue
                failure = before_answer(reasons, phase=phase, http2=False, proxied=False)
                del reasons  # by their tracebacks they hold this frame
            try:
                raise failure
            finally:
                del failure

    async def aclose(self) -> None:
        """Close the connection, whatever state it is in."""
        self.in_use()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    def _text(self, request: Request) -> tuple[bytes, bool]:
        """Return *request* as it is sent, and whether its answer has a body."""
        host, target = plain_target(request)
        known = self._template
        if (
            target
            and known is not None
            and known.host == host
            and known.headers == request.headers
            and known.credentials == request.credentials
        ):
            return b"GET " + target + known.lines, True
        url = client_url(request)
        sent = message(request, url)
        lines = sent.lines()
        if target:
            self._template = _Template(request.headers, request.credentials, host, lines)
        return sent.method.encode() + b" " + url.raw_path + lines, sent.method != "HEAD"

    async def _connect(self, seconds: float | None) -> Connection:
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        self._connection = await connect(self.key.origin, self._trust, self._local_address, self._scratch, seconds)
        return self._connection


class DirectRest:
    """The rest of an answer on a `Connection`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.take = connection.take

    async def read(self, silence: float | None) -> bytes:
        """Return the next bytes, b"" at the end; raises FetchError."""
        outside = sys.exception()
        try:
            return await self._connection.read(silence)
        except httpx.TransportError as reason:
            failure = in_body(chain(reason, outside), http2=False)
        raise failure

    async def readinto(self, view: memoryview, silence: float | None) -> int:
        """Put the next bytes into *view*, and return how many they are, 0 at the end; raises FetchError."""
        outside = sys.exception()
        try:
            return await self._connection.readinto(view, silence)
        except httpx.TransportError as reason:
            failure = in_body(chain(reason, outside), http2=False)
        raise failure

    @property
    def is_clean(self) -> bool:
        """Whether it was read to its end, and the connection can serve again."""
        return self._connection.is_reusable

    async def aclose(self) -> None:
        """Be done with it; the lane closes what cannot serve again."""


def nothing() -> None:
    """Do nothing: the lane has not been idle yet."""
