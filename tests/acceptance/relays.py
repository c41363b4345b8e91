"""A streamer in every way that it may be built: which adapter answers, and where the context lives.

A test with the argument *relay* and the mark of `every_adapter` is run for each of these. Nothing of a streamer knows
what the importer does: `Relay.importer` is asked for a download by path, and *ours* takes the place of its context.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.acceptance.clients import Client, Got, ask
from tests.acceptance.use_cases import ADAPTERS, FORMS, streamer

from downhaul import Context, Download

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAYS: Final = [(adapter, form) for adapter in ADAPTERS if adapter != "stream" for form in FORMS]


def every_adapter(number: int) -> pytest.MarkDecorator:
    """Run a test for each adapter, with both kinds of context, as proof of the use case *number*."""
    ways = [pytest.param(way, marks=streamer(number, way[1], way[0]), id="-".join(way)) for way in WAYS]
    return pytest.mark.parametrize("way", ways)


class Relay:
    """A running streamer; `base` is its URL, *ours* its context."""

    def __init__(self, ours: Context) -> None:
        self.ours = ours
        self.importer: Callable[[str], Download] = Download
        self.base = ""

    def handle(self, path: str) -> Download:
        """Return what answers a request for *path*."""
        download = self.importer(path)
        download.context = self.ours
        return download

    def ask(self, target: str = "/", method: str = "GET", version: str = "1.1", **headers: str) -> Got:
        """Ask once, with *headers* named like ``If_None_Match``, and read the answer to its end."""
        return ask(self.base, target, method, _fields(headers), version)

    def client(self, target: str = "/", window: int | None = None, **headers: str) -> Client:
        """Return a client that has asked, and reads at its own pace."""
        return Client(self.base, target, headers=_fields(headers), window=window)


@contextmanager
def relaying(way: tuple[str, str], options: dict[str, Any] | None = None, **settings: Any) -> Iterator[Relay]:
    """Run a streamer by *way*: an adapter, with *options*, and the form of its context, with *settings*."""
    adapter, form = way
    with ExitStack() as stack:
        relay = Relay(stack.enter_context(CONTEXTS[form](**settings)))
        front = import_module(f"tests.fronts.{adapter}")
        relay.base = stack.enter_context(front.serve(relay.handle, **options or {}))
        yield relay


@contextmanager
def context_of_a_loop(**settings: Any) -> Iterator[Context]:
    """Yield a context that is bound to a loop by ``async with``; the loop has a thread."""
    context, ready, end = Context(**settings), threading.Event(), threading.Event()

    async def live() -> None:
        async with context:
            ready.set()
            await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    ready.wait()
    try:
        yield context
    finally:
        end.set()
        thread.join()


CONTEXTS: Final = {"sync": Context, "asyncio": context_of_a_loop}


def _fields(headers: dict[str, str]) -> list[tuple[str, str]]:
    return [(name.replace("_", "-"), value) for name, value in headers.items()]
