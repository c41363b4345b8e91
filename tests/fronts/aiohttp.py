"""An aiohttp server on a loop and a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from downhaul.adapters.aiohttp import relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from downhaul import Download

PATIENCE: Final = 20.0  # seconds


@contextmanager
def serve(handle: Callable[[str], Download], **options: Any) -> Iterator[str]:
    """Run a server that relays ``handle(path)`` for every path; yield its base URL."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await relay(request, handle(request.path), **options)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    with running(app) as base:
        yield base


@contextmanager
def running(app: web.Application) -> Iterator[str]:
    """Run *app*; yield its base URL."""
    ready, ended = threading.Event(), asyncio.Event()
    found: list[Any] = []

    async def run() -> None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            found.extend((asyncio.get_running_loop(), site.name))
            ready.set()
            await ended.wait()
        finally:
            await runner.cleanup()

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as reason:
            found.append(reason)
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="aiohttp", daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    loop, base = found
    try:
        yield base
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(PATIENCE)
