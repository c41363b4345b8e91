"""A server of twisted.web, on the one reactor of this process.

A reactor runs once per process. So it starts with the first use, in a daemon thread, and ends with the interpreter:
its thread, named "reactor", is the one thing that a front leaves behind.
"""

from __future__ import annotations

import atexit
import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import blockingCallFromThread
from twisted.logger import STDLibLogObserver, globalLogBeginner
from twisted.web.resource import Resource
from twisted.web.server import Site

from downhaul.adapters.twisted import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from twisted.internet.defer import Deferred

    from downhaul import Download

PATIENCE: Final = 20.0  # seconds


@contextmanager
def serve(handle: Callable[[str], Download], **options: Any) -> Iterator[str]:
    """Run a server that relays ``handle(path)`` for every path; yield its base URL."""
    with listening(handle, lambda site: reactor.listenTCP(0, site, interface="127.0.0.1"), **options) as port:
        yield f"http://127.0.0.1:{port.getHost().port}"


@contextmanager
def listening(handle: Callable[[str], Download], listen: Callable[[Site], Any], **options: Any) -> Iterator[Any]:
    """Do the same on the port that *listen* returns; yield that."""
    relay = Relay(reactor)
    site = _Site(_Everything(lambda request: relay.render(request, handle(unquote(request.path.decode())), **options)))
    port = call(listen, site)
    try:
        yield port
    finally:
        call(port.stopListening)
        call(relay.close)
        call(site.close)


def call(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do *work* in the reactor, and wait for it."""
    _run_reactor()
    return blockingCallFromThread(reactor, work, *arguments)


class _Everything(Resource):
    """Answers every request itself."""

    isLeaf = True  # noqa: N815 - the name is Twisted's

    def __init__(self, answer: Callable[[Any], int]) -> None:
        super().__init__()
        self.render = answer


class _Site(Site):
    """A site that can close its connections."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource)
        self._channels: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802
        channel = super().buildProtocol(addr)
        self._channels.append(channel)
        return channel

    def close(self) -> Deferred[None]:
        for channel in self._channels:
            transport = channel._channel.transport
            if transport.connected:
                transport.abortConnection()
        return deferLater(reactor, 0, lambda: None)  # they are closed in the reactor's next turn


@cache
def _run_reactor() -> None:
    globalLogBeginner.beginLoggingTo([STDLibLogObserver()], redirectStandardIO=False, discardBuffer=True)
    started = threading.Event()
    reactor.callWhenRunning(started.set)
    thread = threading.Thread(target=reactor.run, args=(False,), name="reactor", daemon=True)
    thread.start()
    assert started.wait(PATIENCE)
    atexit.register(_end_reactor, thread)


def _end_reactor(thread: threading.Thread) -> None:
    reactor.callFromThread(reactor.stop)
    thread.join(PATIENCE)
