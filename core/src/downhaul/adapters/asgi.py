"""Relay a download to a request of ASGI: of Starlette, FastAPI, or any other: ``pip install 'downhaul[asgi]'``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from downhaul import Download, Headers

from ._answers import Options, answering, marks_end

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from typing import Unpack

    from starlette.background import BackgroundTask

    from ._answers import RelayOptions

__all__ = ["Relay"]

_PATIENCE: Final = 5.0  # seconds
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Relay(Response):
    """A response of Starlette, and an ASGI application, that answers with what *download* delivers.

    Return it from an endpoint of Starlette or FastAPI, or call it as any application is called.

    What breaks an answer off is raised, a `DownloadError` mostly: that is what makes a server close the connection
    without having ended the answer. When the client hangs up, the download is cancelled, and nothing is raised.
    *options* are `RelayOptions`. Raises TypeError and ValueError for what they cannot mean.
    """

    def __init__(self, download: Download, **options: Unpack[RelayOptions]) -> None:
        if not isinstance(download, Download):
            raise TypeError(f"a Download is relayed, not {type(download).__name__}")
        Options(**options)
        self._download, self._options = download, options
        self.background: BackgroundTask | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer the one request that *scope* describes."""
        if scope["type"] != "http":
            raise ValueError(f"a Relay answers requests of type http, not {scope['type']}")
        begun, last = False, None

        async def tell(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with _while_connected(receive):
                last = await self._answer(scope, tell)
        except Exception:
            if begun and (host := _host()) is not None:
                host.cancel()
                await asyncio.sleep(_PATIENCE)  # until that reaches us: our end would be taken for that of the answer
            raise
        if last is not None:
            await send({"type": "http.response.body", "body": last})
        if self.background is not None:
            await self.background()

    async def _answer(self, scope: Message, send: Send) -> bytes:
        """Send everything but the last block, and return that: it is sent when nothing is open any more."""
        asked = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        relayed = answering(self._download, scope["method"], asked, marks_end=marks_end(scope), **self._options)
        async with relayed as answer:
            fields = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.fields]
            await send({"type": "http.response.start", "status": answer.status, "headers": fields})
            if answer.stream is not None:
                async for block in answer.stream:
                    await send({"type": "http.response.body", "body": block, "more_body": True})
            return answer.content


@asynccontextmanager
async def _while_connected(receive: Receive) -> AsyncGenerator[None]:
    """Cancel the body of the ``with`` as soon as the client has hung up, and go on after it."""
    body, left, hung_up = asyncio.current_task(), False, False
    assert body is not None
    cancelling = body.cancelling()

    def tell(watch: asyncio.Task[None]) -> None:
        nonlocal hung_up
        if not watch.cancelled() and watch.exception() is None and not left:
            hung_up = True
            body.cancel()

    watch = asyncio.create_task(_disconnected(receive))
    watch.add_done_callback(tell)
    try:
        yield
    except asyncio.CancelledError:
        if not hung_up or body.uncancel() > cancelling:  # somebody else cancels us
            raise
    finally:
        left = True
        watch.cancel()


async def _disconnected(receive: Receive) -> None:
    """Wait until the client has hung up; what else it sends does not matter."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _host() -> asyncio.Task[Any] | None:
    """Return the outermost task that passes an answer of ours on by a BaseHTTPMiddleware of Starlette, if there is one.

    That middleware runs us in a task of its own, and takes our end for that of the answer: it ends it cleanly before it
    looks whether we raised something. So it is cancelled, as a server would cancel it.
    """
    anyio, base = sys.modules.get("anyio"), sys.modules.get("starlette.middleware.base")
    if anyio is None or base is None:
        return None
    passes_on, found = base.BaseHTTPMiddleware.__call__.__code__, None
    tasks = {id(task): task for task in asyncio.all_tasks()}
    parents = {each.id: each.parent_id for each in anyio.get_running_tasks()}
    parent = parents.get(id(asyncio.current_task()))
    while parent in tasks:
        if any(code is passes_on for code in _codes(tasks[parent])):
            found = tasks[parent]
        parent = parents.get(parent)
    return found


def _codes(task: asyncio.Task[Any]) -> Iterator[object]:
    """Yield the code of each coroutine of *task* that waits for the next."""
    coroutine: object = task.get_coro()
    while coroutine is not None:
        yield getattr(coroutine, "cr_code", None)
        coroutine = getattr(coroutine, "cr_await", None)
