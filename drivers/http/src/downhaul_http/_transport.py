"""The driver's connections under a client of httpx that a user makes."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import httpx

from ._connecting import connect
from ._connection import SCRATCH
from ._exchange import SILENCES
from ._failures import chain, is_stale

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from ._connection import Connection

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_TARGET: Final = re.compile(rb"[\x21-\x7e]+")
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""Methods that may be sent again where nobody knows whether they have arrived (RFC 9110, section 9.2.2)."""

_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_LENGTH: Final = re.compile(rb"[0-9]{1,19}")
_FOR_THE_LIBRARY: Final = frozenset({"upgrade", "expect"})


class Transport(httpx.AsyncBaseTransport):
    """Carries the requests of an `httpx.AsyncClient` over the connections that the driver uses itself.

    ``httpx.AsyncClient(transport=Transport())``; a request of a small file costs a third of what it costs by default.
    The connections are plain HTTP/1.1. What they do not offer (another `proxy`, *http2*, Unix sockets, CONNECT and
    upgrades) goes to a transport of httpx's own, which is made with the same arguments. *verify* is an SSL context, or
    whether certificates are checked at all; *trust_env* lets ``SSL_CERT_FILE`` say whom to trust. *keepalive_expiry* is
    how many seconds an idle connection is kept, None for as long as the server does. There is no limit to connections;
    the client's limits are not known here. Time limits are those of the client, `pool` apart.
    """

    def __init__(
        self,
        verify: ssl.SSLContext | bool = True,
        *,
        keepalive_expiry: float | None = 15.0,
        local_address: str | None = None,
        trust_env: bool = True,
        **others: Any,
    ) -> None:
        if isinstance(verify, bool):
            verify = httpx.create_ssl_context(verify=verify, trust_env=trust_env)
        self._trust = verify
        self._expiry, self._local_address = keepalive_expiry, local_address
        self._is_direct = not others
        limits = httpx.Limits(max_connections=None, keepalive_expiry=keepalive_expiry)
        arguments: dict[str, Any] = {"limits": limits, "local_address": local_address, "trust_env": trust_env, **others}
        self._library = httpx.AsyncHTTPTransport(verify, **arguments)
        self._idle: dict[str, deque[tuple[float, Connection]]] = {}
        self._open: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._scratch = memoryview(bytearray(SCRATCH))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request*, and return the response with its body unread; raises httpx.TransportError."""
        if not self._is_direct or request.method == "CONNECT" or not _FOR_THE_LIBRARY.isdisjoint(request.headers):
            return await self._library.handle_async_request(request)
        if request.url.scheme not in {"http", "https"}:
            raise httpx.UnsupportedProtocol(f"{request.url.scheme}:// is not spoken here")
        limits = _Limits.of(request)
        origin = f"{request.url.scheme}://{request.url.netloc.decode()}"
        head, length = _head(request), _length(request)
        stays = "close" not in request.headers.get("connection", "").lower()
        while True:
            connection, is_reused = await self._connection(origin, limits)
            try:
                connection.begin(has_body=request.method != "HEAD", stays=stays)
                await _send(connection, head, request.stream, length, limits.write)
                found = await connection.head(limits.read, limits.read and limits.read * SILENCES)
                break
            except httpx.TransportError as reason:
                may_repeat = request.method in _IDEMPOTENT and isinstance(request.stream, httpx.ByteStream)
                again = is_reused and may_repeat and connection in self._open  # not those that `aclose` has closed
                await self._close(connection)
                if not (again and is_stale(chain(reason, None), http2=False)):
                    raise
            except BaseException:
                await self._close(connection)
                raise
        return httpx.Response(
            found.status,
            headers=list(found.raw) or list(found.fields),
            stream=_Stream(self, origin, connection, limits.read),
            extensions={"http_version": found.version, "reason_phrase": (found.reason or "").encode()},
        )

    async def aclose(self) -> None:
        """Close every connection, those in use included."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._idle.clear()
        for connection in tuple(self._open):
            await self._close(connection)
        await self._library.aclose()

    async def _connection(self, origin: str, limits: _Limits) -> tuple[Connection, bool]:
        """Return a connection to *origin*, and whether it has served before."""
        now = asyncio.get_running_loop().time()
        idle = self._idle.get(origin)
        while idle:
            since, connection = idle.pop()
            if connection.is_quiet and (self._expiry is None or now - since <= self._expiry):
                return connection, True
            await self._close(connection)
        trust = self._trust if origin.startswith("https:") else None
        connection = await connect(origin, trust, self._local_address, self._scratch, limits.connect)
        self._open.add(connection)
        return connection, False

    async def _release(self, origin: str, connection: Connection) -> None:
        """Keep *connection* for later, or close it if it cannot serve again."""
        if self._is_closed or connection not in self._open or not connection.is_reusable:
            await self._close(connection)
            return
        loop = asyncio.get_running_loop()
        self._idle.setdefault(origin, deque()).append((loop.time(), connection))
        if self._timer is None and self._expiry is not None:
            self._timer = loop.call_later(self._expiry, self._expire, loop, self._expiry)

    def _expire(self, loop: asyncio.AbstractEventLoop, expiry: float) -> None:
        """Close what has been idle for longer than *expiry* seconds, and look again when there may be more."""
        now = loop.time()
        for origin, idle in list(self._idle.items()):
            while idle and now - idle[0][0] >= expiry:
                _, connection = idle.popleft()
                self._open.discard(connection)
                connection.abort()
            if not idle:
                del self._idle[origin]
        oldest = min((idle[0][0] for idle in self._idle.values()), default=None)
        self._timer = None if oldest is None else loop.call_at(oldest + expiry, self._expire, loop, expiry)

    async def _close(self, connection: Connection) -> None:
        self._open.discard(connection)
        await connection.aclose()


class _Limits(NamedTuple):
    """The time limits of a request, in seconds."""

    connect: float | None
    read: float | None
    write: float | None

    @classmethod
    def of(cls, request: httpx.Request) -> _Limits:
        limits = request.extensions.get("timeout") or {}
        return cls(limits.get("connect"), limits.get("read"), limits.get("write"))


class _Stream(httpx.AsyncByteStream):
    """The body of a response."""

    def __init__(self, transport: Transport, origin: str, connection: Connection, silence: float | None) -> None:
        self._transport, self._origin, self._connection, self._silence = transport, origin, connection, silence
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self._closed and (block := await self._connection.read(self._silence)):
            yield block

    async def aclose(self) -> None:
        """Let the connection serve again if all was read, or close it."""
        if not self._closed:
            self._closed = True
            await self._transport._release(self._origin, self._connection)


def _head(request: httpx.Request) -> bytes:
    """Return the head of *request* as it is sent; raises httpx.LocalProtocolError for what would not be one."""
    target = request.extensions.get("target") or request.url.raw_path
    fields = request.headers.raw
    sound = _TARGET.fullmatch(target) and all(
        _TOKEN.fullmatch(name) and _VALUE.fullmatch(value) for name, value in fields
    )
    if not sound or _TOKEN.fullmatch(request.method.encode()) is None:
        raise httpx.LocalProtocolError("the method, the target or a header field of the request cannot be sent")
    lines = b"".join([b"%b: %b\r\n" % field for field in fields])
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (request.method.encode(), target, lines)


def _length(request: httpx.Request) -> int | None:
    """Return how long the body of *request* is said to be, None if it is sent in chunks (RFC 9112, section 6.1).

    Raises httpx.LocalProtocolError where that is not told as it should be.
    """
    told = [(name.lower(), value) for name, value in request.headers.raw if name.lower() in _FRAMING]
    if not told:
        return 0
    (name, value), *more = told
    if not more and name == b"content-length" and _LENGTH.fullmatch(value):
        return int(value)
    if not more and name == b"transfer-encoding" and value.lower() == b"chunked":
        return None
    raise httpx.LocalProtocolError("the header fields of the request do not tell how long its body is")


async def _send(
    connection: Connection,
    head: bytes,
    stream: httpx.SyncByteStream | httpx.AsyncByteStream,
    length: int | None,
    silence: float | None,
) -> None:
    """Send *head*, and the body *stream* of *length* bytes, or in chunks where that is None.

    Raises httpx.LocalProtocolError for a body of another length: the server would take it for the next request.
    """
    if isinstance(stream, httpx.ByteStream) and length is not None:
        content = b"".join([piece async for piece in stream])
        _check_length(len(content) == length)
        await connection.send(head + content, silence)
        return
    await connection.send(head, silence)
    assert isinstance(stream, httpx.AsyncByteStream)
    sent = 0
    async for piece in stream:
        sent += len(piece)
        _check_length(length is None or sent <= length)
        if piece:
            await connection.send(b"%x\r\n%b\r\n" % (len(piece), piece) if length is None else piece, silence)
    _check_length(length is None or sent == length)
    if length is None:
        await connection.send(b"0\r\n\r\n", silence)


def _check_length(is_right: bool) -> None:
    if not is_right:
        raise httpx.LocalProtocolError("the body of the request has another length than its header fields tell")
