"""Relay a download to a request of aiohttp.web: ``pip install 'downhaul[aiohttp]'``."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion11, web

from ._answers import answering

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from typing import Unpack

    from downhaul import Download

    from ._answers import Answer, RelayOptions

__all__ = ["relay"]

_LOOK: Final = 0.2  # seconds between two looks whether the client is still there
_RESET: Final = struct.pack("ii", 1, 0)  # struct linger: what closes the socket resets the connection
_CLIENT_LEFT: Final = 499
_TCP: Final = frozenset({socket.AF_INET, socket.AF_INET6})


async def relay(request: web.Request, download: Download, **options: Unpack[RelayOptions]) -> web.StreamResponse:
    """Answer *request* with what *download* delivers; return the response, for the handler to return.

    *options* are `RelayOptions`. What fails before the first byte is a response with a proper status. What breaks
    later resets the connection, so that no client takes what it has for a file, and is raised: a DownloadError. When
    the client hangs up the download is cancelled; the response, with the status 499, is for the access log alone.
    """
    transport = request.transport
    if transport is None:
        return web.Response(status=_CLIENT_LEFT)
    marks_end = request.version >= HttpVersion11 or _can_reset(transport)
    try:
        async with (
            _cancelled_when_client_leaves(transport),
            answering(download, request.method, request.headers, marks_end=marks_end, **options) as answer,
        ):
            return await _sent(request, answer, transport)
    except ConnectionError:
        return web.Response(status=_CLIENT_LEFT)


async def _sent(request: web.Request, answer: Answer, transport: asyncio.Transport) -> web.StreamResponse:
    """Return the response: sent but for its end where it has a stream, or for aiohttp to send."""
    if answer.stream is None:
        return web.Response(status=answer.status, headers=answer.fields, body=answer.content)
    response = web.StreamResponse(status=answer.status, headers=answer.fields)
    if response.content_length is None and request.version < HttpVersion11:
        response.force_close()  # the end of the connection is that of the body, whatever else the client asked for
    await response.prepare(request)
    with _reset_before_the_end(transport):
        async for block in answer.stream:
            await response.write(block)
    return response


@asynccontextmanager
async def _cancelled_when_client_leaves(transport: asyncio.Transport) -> AsyncGenerator[None]:
    """Cancel what is done inside when the client hangs up, and raise ConnectionResetError then.

    By itself aiohttp lets a handler run on, which finds out when it writes; no block may come for minutes.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal timer
        if _has_left(transport):
            limit.reschedule(loop.time())
        else:
            timer = loop.call_later(_LOOK, look)

    try:
        async with asyncio.timeout(None) as limit:
            timer = loop.call_later(_LOOK, look)
            try:
                yield
            finally:
                timer.cancel()
    except TimeoutError:
        if not limit.expired():
            raise
        raise ConnectionResetError("the client hung up") from None


def _has_left(transport: asyncio.Transport) -> bool:
    """Tell whether the client hung up; of one that sent more requests than are read, only the socket knows it."""
    if transport.is_closing():
        return True
    sock = transport.get_extra_info("socket")
    if sock is None:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def _can_reset(transport: asyncio.Transport) -> bool:
    """Tell whether the client would see a reset: a socket of the local machine only knows one end, a clean one."""
    sock = transport.get_extra_info("socket")
    return sock is not None and sock.family in _TCP


@contextmanager
def _reset_before_the_end(transport: asyncio.Transport) -> Generator[None]:
    """Reset the connection if this is not left in order; whoever closes it meanwhile, the server say, resets it too."""
    with suppress(OSError):
        _linger(transport, _RESET)
    try:
        yield
    except BaseException:
        transport.abort()
        raise
    with suppress(OSError):
        _linger(transport, bytes(len(_RESET)))


def _linger(transport: asyncio.Transport, linger: bytes) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
