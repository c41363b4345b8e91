"""Downloads as responses of Django, under WSGI and under ASGI."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any, Final, Self

from asgiref.sync import async_to_sync
from django.http import HttpResponse, StreamingHttpResponse

from downhaul import DownloadError

from ._answers import answering, marks_end
from ._held import Held
from .wsgi import answer_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Unpack

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from downhaul import Download, Stream

    from ._answers import Answer, RelayOptions

_CLIENT_LEFT: Final = 499
"""What servers note in their logs for a request whose client hung up before there was an answer; nobody receives it."""


def relay(request: HttpRequest, download: Download, **options: Unpack[RelayOptions]) -> HttpResponseBase:
    """Return a response that delivers *download*, from a view that is a plain function; *options* are `RelayOptions`.

    Under WSGI, an answer that breaks off resets its connection and raises its `DownloadError` in the server; where the
    connection cannot be reached, a file of unknown size is refused with a 502, unless the server sends chunks: see
    `downhaul.adapters.wsgi`. Under ASGI the error alone makes the server break off. When the client hangs up, the
    download is cancelled. Raises TypeError and ValueError for what *options* cannot mean.
    """
    if _scope(request) is not None:
        response: HttpResponseBase = async_to_sync(arelay)(request, download, **options)
        return response
    try:
        answer, blocks = answer_in_thread(request.META, request.method, request.headers, download, options)
    except ConnectionResetError:
        return HttpResponse(status=_CLIENT_LEFT)
    return _response(answer, blocks)


async def arelay(request: HttpRequest, download: Download, **options: Unpack[RelayOptions]) -> HttpResponseBase:
    """Return what `relay` does, from a view that is a coroutine function."""
    scope = _scope(request)
    if scope is None:  # the loop of such a view ends with it: nothing of the answer may be there
        return await asyncio.to_thread(relay, request, download, **options)
    held = Held(answering(download, request.method, request.headers, marks_end=marks_end(scope), **options))
    answer = await held.begin()
    return _response(answer, _content(answer) if answer.stream is None else _Blocks(held, answer.stream, request))


def _scope(request: HttpRequest) -> dict[str, Any] | None:
    """Return the scope of a request that came by ASGI, None for one that came by WSGI."""
    scope: dict[str, Any] | None = getattr(request, "scope", None)
    return scope


def _response(answer: Answer, blocks: Iterator[bytes] | AsyncIterator[bytes]) -> HttpResponseBase:
    if answer.content:
        response = HttpResponse(answer.content, status=answer.status)
    else:  # also where there is no content: of what does not stream, middleware tells the length
        response = StreamingHttpResponse(blocks, status=answer.status)
    del response["Content-Type"]  # Django's guess; a file need not have one
    for name, value in answer.fields:
        response[name] = value
    return response


async def _content(answer: Answer) -> AsyncIterator[bytes]:
    yield answer.content


class _Blocks:
    """The blocks of an answer, as Django takes them under ASGI; it closes them in another thread, or not at all."""

    def __init__(self, held: Held, stream: Stream, request: HttpRequest) -> None:
        self._held, self._stream, self._request = held, stream, request
        self._dropped = weakref.finalize(self, held.leave)
        self._dropped.atexit = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._stream)
        except (StopAsyncIteration, asyncio.CancelledError):
            self._held.leave()
            raise
        except BaseException as error:
            self._held.leave(error.copy() if isinstance(error, DownloadError) else None)
            self._request.close()  # Django does not, when an answer breaks off; its content may be a temporary file
            raise

    def close(self) -> None:
        """Leave the answer, whether all of it was sent or not."""
        self._held.leave()
