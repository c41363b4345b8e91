"""A real ASGI server, uvicorn with Starlette, in a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from downhaul.adapters.asgi import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request

    from downhaul import Download

_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")


@contextmanager
def serve(handle: Callable[[str], Download], **options: Any) -> Iterator[str]:
    """Answer every path with ``handle(path)`` relayed, *options* are those of `Relay`; yield the base URL."""
    with serving(app(handle, relayed=options)) as base:
        yield base


def app(handle: Callable[[str], Download], *, relayed: dict[str, Any] | None = None, **options: Any) -> Starlette:
    """Return an application, made with *options* of Starlette, that relays ``handle(path)`` with those *relayed*."""

    async def endpoint(request: Request) -> Any:
        return Relay(handle(request.url.path), **relayed or {})

    return Starlette(routes=[Route("/{path:path}", endpoint, methods=_METHODS)], **options)


@contextmanager
def serving(application: Any, **settings: Any) -> Iterator[str]:
    """Run *application* on a free port of loopback, with *settings* of uvicorn; yield its base URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _Server(application, listener, settings)
        thread = threading.Thread(target=server.run, name="uvicorn")
        thread.start()
        try:
            server.started.result(10)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.stop()
            thread.join()


class _Server:
    """One run of uvicorn that ends at once, also with connections open."""

    def __init__(self, application: Any, listener: socket.socket, settings: dict[str, Any]) -> None:
        self._listener = listener
        self._config = uvicorn.Config(application, log_config=None, log_level="critical", access_log=False, **settings)
        self.started: Future[None] = Future()

    def run(self) -> None:
        asyncio.run(self._run())

    def stop(self) -> None:
        with suppress(RuntimeError):  # it did not start
            self._loop.call_soon_threadsafe(self._stopped.set)

    async def _run(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        server = uvicorn.Server(self._config)
        self._config.load()
        server.lifespan = self._config.lifespan_class(self._config)
        try:
            await server.startup([self._listener])
            await server.on_tick(0)  # it sets the Date
        except BaseException as error:
            self.started.set_exception(error)
            return
        self.started.set_result(None)
        await self._stopped.wait()
        for listening in server.servers:
            listening.close()
        for connection in tuple(server.server_state.connections):
            connection.transport.abort()
        if tasks := tuple(server.server_state.tasks):
            await asyncio.wait(tasks, timeout=5)
        await server.lifespan.shutdown()
