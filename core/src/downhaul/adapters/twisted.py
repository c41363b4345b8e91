"""Relay downloads to requests of twisted.web: ``pip install 'downhaul[twisted]'``."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from downhaul import DownloadError, Headers

from ._answers import answering

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

    from twisted.internet.interfaces import IReactorCore
    from twisted.web.server import Request

    from downhaul import Download

    from ._answers import Answer, RelayOptions

__all__ = ["Relay"]

_log: Final = Logger()


class Relay:
    """Answers requests of twisted.web with what downloads deliver.

    *reactor* is the one that serves the requests, whichever it is; None: the installed one. All methods are to be
    called in its thread. Downloads are awaited on an asyncio loop in a thread of its own, from the first request until
    `close`, or until the reactor stops.
    """

    def __init__(self, reactor: IReactorCore | None = None) -> None:
        if reactor is None:
            from twisted.internet import reactor as installed  # the import installs one, where there is none yet

            reactor = installed
        self._reactor: Any = reactor
        self._thread: _LoopThread | None = None
        self._trigger: Any = None
        self._closed = False
        self._when_over: list[Deferred[None]] = []

    def render(self, request: Request, download: Download, **options: Unpack[RelayOptions]) -> int:
        """Answer *request* with what *download* delivers, and return NOT_DONE_YET, for the resource to return.

        *options* are `RelayOptions`. What fails before the first byte is answered with a proper status. What breaks
        later resets the connection (in HTTP/2, the stream), so that no client takes what it has for a file. When the
        client hangs up the download is cancelled.
        """
        if self._closed:
            raise RuntimeError("this Relay is closed; make another one")
        if self._thread is None:
            self._thread = _LoopThread()
            self._trigger = self._reactor.addSystemEventTrigger("before", "shutdown", self._shut_down)
        _Reply(self._reactor, request).begin(self._thread.loop, download, options)
        return NOT_DONE_YET

    def close(self) -> Deferred[None]:
        """Abort what is under way, and end the thread; the Deferred fires when nothing is left."""
        over: Deferred[None] = Deferred()
        self._when_over.append(over)
        if self._thread is None:
            self._tell()
        elif not self._closed:
            # An abort closes its connection in the reactor's next turn; whoever waits may stop the reactor.
            self._thread.end(lambda: self._reactor.callFromThread(self._reactor.callLater, 0, self._tell))
        self._closed = True
        return over

    def _shut_down(self) -> Deferred[None]:
        self._trigger = None
        return self.close()

    def _tell(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._trigger is not None:
            self._reactor.removeSystemEventTrigger(self._trigger)
            self._trigger = None
        waiting, self._when_over = self._when_over, []
        for over in waiting:
            over.callback(None)


class _LoopThread:
    """An asyncio loop in a daemon thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._when_over: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name="downhaul-twisted", daemon=True)
        self._thread.start()

    def end(self, when_over: Callable[[], object]) -> None:
        """Cancel all tasks and end the loop; *when_over* is the last that the thread does."""
        self._when_over = when_over
        self.loop.call_soon_threadsafe(self._ended.set)

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._ended.wait())
        self._when_over()


@implementer(IPushProducer)
class _Reply:
    """One request and its answer. `_answer` runs on the loop; all else, in the reactor's thread."""

    def __init__(self, reactor: Any, request: Request) -> None:
        self._reactor = reactor
        self._request: Any = request
        self._over = False  # the request is finished, aborted, or lost: nothing may be done to it any more
        self._resumed: Deferred[None] | None = None
        self._work: Future[None]

    def begin(self, loop: asyncio.AbstractEventLoop, download: Download, options: RelayOptions) -> None:
        """Let the loop answer the request, until the client leaves."""
        fields = self._request.requestHeaders.getAllRawHeaders()
        asked = Headers((_text(name), _text(value)) for name, values in fields for value in values)
        method = _text(self._request.method)
        # A socket of the local machine knows no reset, and HTTP/1.0 no other end of a body than that of the connection.
        marks_end = self._request.clientproto != b"HTTP/1.0" or not isinstance(self._request.host, UNIXAddress)
        work = self._answer(download, method, asked, marks_end, options)
        self._work = asyncio.run_coroutine_threadsafe(work, loop)
        self._request.notifyFinish().addErrback(self._lost)

    async def _answer(
        self, download: Download, method: str, asked: Headers, marks_end: bool, options: RelayOptions
    ) -> None:
        try:
            async with answering(download, method, asked, marks_end=marks_end, **options) as answer:
                await self._in_reactor(self._start, answer)
                if answer.stream is not None:
                    async for block in answer.stream:
                        await self._in_reactor(self._write, block)
            await self._in_reactor(self._finish)
        except DownloadError:  # logged where it comes from
            self._reactor.callFromThread(self._abort)
        except asyncio.CancelledError:
            self._reactor.callFromThread(self._abort)
            raise
        except Exception:
            self._reactor.callFromThread(self._fail, Failure())  # type: ignore[no-untyped-call]

    async def _in_reactor(self, work: Callable[..., object], *arguments: object) -> None:
        """Let the reactor do *work*, and await that it is done, or the Deferred that it returns has fired."""
        done: Future[object] = Future()
        self._reactor.callFromThread(_do, done, work, arguments)
        await asyncio.wrap_future(done)

    def _start(self, answer: Answer) -> None:
        if self._over:
            return
        self._request.setResponseCode(answer.status)
        self._request.defaultContentType = None  # it would be text/html
        for name, value in answer.fields:
            self._request.responseHeaders.setRawHeaders(name.encode("latin-1"), [value.encode("latin-1")])
        if answer.stream is not None:
            self._request.registerProducer(self, True)
        self._request.write(answer.content)

    def _write(self, block: bytes) -> Deferred[None] | None:
        """Write *block*; the Deferred fires when there is room for the next, None: there is."""
        if not self._over:
            self._request.write(block)
        return self._resumed

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._request.unregisterProducer()
            self._request.finish()

    def _abort(self) -> None:
        if not self._over:
            self._over = True
            self._request.unregisterProducer()
            # Of HTTP/2 the channel is the stream, and there is no transport; of HTTP/1 an abort is a reset.
            (self._request.transport or self._request.channel).abortConnection()

    def _fail(self, failure: Failure) -> None:
        """Treat what is no DownloadError as twisted.web does."""
        if self._over:
            return
        if not self._request.startedWriting:
            self._over = True
            self._request.processingFailed(failure)
        else:
            _log.failure("an answer broke off", failure)
            self._abort()

    def _lost(self, _: Failure) -> None:
        self._over = True
        self._work.cancel()

    def pauseProducing(self) -> None:  # noqa: N802 - the name is Twisted's
        """Let `_write` wait from now on: the transport has enough."""
        if self._resumed is None:
            self._resumed = Deferred()

    def resumeProducing(self) -> None:  # noqa: N802
        """Let `_write` go on: the transport has room."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.callback(None)

    def stopProducing(self) -> None:  # noqa: N802
        """Cancel the download: nobody takes its bytes any more."""
        self._work.cancel()


def _do(done: Future[object], work: Callable[..., object], arguments: tuple[object, ...]) -> None:
    if done.set_running_or_notify_cancel():
        outcome: Deferred[object] = maybeDeferred(work, *arguments)
        outcome.addCallbacks(done.set_result, lambda failure: done.set_exception(failure.value))


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")
