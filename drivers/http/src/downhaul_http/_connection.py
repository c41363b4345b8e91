"""One connection of HTTP/1.1, whose bytes go from the socket straight to where they are wanted.

asyncio asks a `BufferedProtocol` for memory and lets the kernel write there. Before a head that memory is a scratch
pad, which all connections of a loop share, as what is in it is looked at before anybody else reads; in the body it is
the receiver's own, so no byte is copied on its way. Streams, and anyio, allocate each block and copy it twice.

Nearly every answer has a Content-Length and nothing odd: it is framed by counting. Whatever else a server may send
(chunks, interim answers, HTTP/1.0, an end by closing) is for h11 to parse. After anything that is wrong or not
understood, the connection is closed and never used again.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections import deque
from typing import Final

import h11
import httpx

from ._fields import MOST_BYTES
from ._heads import Head, read_plain

SCRATCH: Final = 256 * 1024
"""Bytes that are read at once where the receiver has no memory to offer."""

_READ_AHEAD: Final = 256 * 1024
_AT_A_GLANCE: Final = 16 * 1024
"""Bytes of a head that are looked at again when more come; a parser minds where it was."""

_SENT_AT_ONCE: Final = 256 * 1024
"""Bytes of a request that are handed over at once: TLS takes any number, and says that it is too much the next time."""

_END_OF_HEAD: Final = b"\r\n\r\n"
_BLANK: Final = 0x20


class Connection(asyncio.BufferedProtocol):
    """Carries one exchange after another: `ask`, then `read` or `readinto` until the end, then `is_reusable` tells.

    It raises the exceptions of httpx. *scratch* is memory that its loop's connections may share.
    """

    def __init__(self, scratch: memoryview) -> None:
        self._loop = asyncio.get_running_loop()
        self._scratch = scratch
        self._transport: asyncio.Transport
        self._tls: ssl.SSLObject | None = None
        self._poll = select.poll()
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None
        self._writable: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._failure: tuple[type[httpx.TransportError], str, BaseException | None] | None = None
        self._stays = True  # until anything says that it cannot serve again
        self._complete = True  # nothing of an answer is to come
        self._head: Head | None = None
        self._has_body = True
        self._begun = b""  # of a head that has not ended
        self._left: int | None = None  # bytes of a body that is framed by counting
        self._parser: h11.Connection | None = None
        self._head_size = 0  # bytes of heads that the parser has seen, interim ones included
        self._blocks: deque[bytes | memoryview] = deque()
        self._waiting = 0  # bytes in them
        self._paused = False
        self._into: memoryview | None = None
        self._filled = 0

    # What its user calls.

    async def ask(self, request: bytes, *, has_body: bool, silence: float | None, total: float | None) -> Head:
        """Send *request*, head and all, and return the head of the answer.

        *has_body* is False for a HEAD. *silence* is how long nothing may come, *total* how long all of it may take, in
        seconds. Raises httpx.TransportError.
        """
        self.begin(has_body=has_body)
        self._transport.write(request)
        return await self.head(silence, total)

    def begin(self, *, has_body: bool, stays: bool = True) -> None:
        """Expect an answer from now on; *stays* is False where the request says that it is the last one."""
        self._complete, self._head, self._has_body, self._begun = False, None, has_body, b""
        self._left = self._parser = None
        self._head_size = 0
        if not self._stays:
            self._failure = self._failure or (httpx.RemoteProtocolError, "the connection was closed", None)
        self._stays = self._stays and stays

    async def send(self, data: bytes, silence: float | None) -> None:
        """Send a piece of a request, and wait, at most for *silence* seconds, until more may be sent.

        Nothing is sent to a server that has answered and closed the connection.
        """
        self._raise()
        view = memoryview(data)
        for begin in range(0, len(view), _SENT_AT_ONCE):
            if self._transport.is_closing():
                break
            self._transport.write(view[begin : begin + _SENT_AT_ONCE])
            if self._writable is not None:
                try:
                    async with asyncio.timeout(silence):
                        await asyncio.shield(self._writable)
                except TimeoutError:
                    self._fail(httpx.WriteTimeout, "the server does not take the request")
            self._raise()

    async def head(self, silence: float | None, total: float | None) -> Head:
        """Return the head of the answer, once it is there."""
        latest = None if total is None else self._loop.time() + total
        while self._head is None:
            await self._wait(silence, latest)
        return self._head

    def take(self) -> bytes | None:
        """Return the next bytes of the body that are there, b"" at its end, or None if they must be waited for."""
        if self._blocks:
            block = self._blocks.popleft()
            self._waiting -= len(block)
            if self._paused and self._waiting < _READ_AHEAD:
                self._resume()
            return bytes(block)
        return b"" if self._complete else None

    async def read(self, silence: float | None) -> bytes:
        """Return the next bytes of the body, b"" at its end; *silence* is how long nothing may come, in seconds."""
        while (block := self.take()) is None:
            await self._wait(silence)
        return block

    async def readinto(self, view: memoryview, silence: float | None) -> int:
        """Put the next bytes of the body into *view*, and return how many they are, 0 at the end; see `read`.

        Nothing is written to *view* once this has returned or was cancelled.
        """
        while not self._blocks:
            if self._complete:
                return 0
            if self._paused:
                self._resume()
            if self._left is None:
                await self._wait(silence)
                continue
            self._into, self._filled = view[: self._left], 0
            try:
                await self._wait(silence)
            finally:
                self._into = None
            if self._filled:
                return self._filled
        block = memoryview(self._blocks.popleft())
        size = min(len(block), len(view))
        view[:size] = block[:size]
        if size < len(block):
            self._blocks.appendleft(block[size:])
        self._waiting -= size
        return size

    @property
    def is_reusable(self) -> bool:
        """Whether an answer was read to its end, and the connection can carry the next exchange."""
        return self._complete and self._stays and not self._blocks

    @property
    def is_quiet(self) -> bool:
        """Whether it is still open and nothing has come that nobody asked for.

        The socket itself is asked, and TLS: what came since the loop last looked would be taken for the next answer.
        """
        return self.is_reusable and not self._poll.poll(0) and (self._tls is None or _is_empty(self._tls))

    def abort(self) -> None:
        """Close at once."""
        self._stays = False
        self._transport.abort()

    async def aclose(self) -> None:
        """Close at once, and wait until the socket is gone."""
        self.abort()
        await asyncio.shield(self._gone)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._tls = transport.get_extra_info("ssl_object")
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Called by the loop: where the next bytes are to go. A bytearray would not do: TLS would fill a copy of it."""
        return self._scratch if self._into is None else self._into

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the loop."""
        if self._into is not None and self._left is not None:
            self._filled += nbytes
            self._left -= nbytes
            self._into = self._into[nbytes:] if nbytes < len(self._into) else None
            self._complete = not self._left
            self._wake()
            return
        self._take_in(bytes(self._scratch[:nbytes]))

    def eof_received(self) -> None:
        """Called by the loop."""
        self._ended(None if self._tls is None else self._rest_of_tls())

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._ended(exc or ConnectionAbortedError("the connection was closed"))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.resume_writing()
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        """Called by the loop."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Called by the loop."""
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    # The way of what comes.

    def _take_in(self, data: bytes) -> None:
        try:
            if self._complete:
                self.abort()  # nobody asked for it
            elif self._head is None and self._parser is None:
                self._begin_head(data)
            elif self._left is not None:
                self._count(data)
            else:
                self._parse(data)
        except h11.RemoteProtocolError as reason:
            self._fail(httpx.RemoteProtocolError, str(reason), reason)
        self._wake()

    def _begin_head(self, data: bytes) -> None:
        text = self._begun + data if self._begun else data
        end = text.find(_END_OF_HEAD, max(0, len(self._begun) - len(_END_OF_HEAD) + 1))
        if end < 0:
            self._begun = text
            # Too long for a glance, no HTTP from its first byte on, or ended by another sign: a parser can tell.
            if len(text) > _AT_A_GLANCE or text[0] <= _BLANK or b"\n\n" in text or b"\n\r\n" in text:
                self._begin_parser(text)
            return
        end += len(_END_OF_HEAD)
        plain = read_plain(text[:end], has_body=self._has_body) if end <= MOST_BYTES else None
        if plain is None:
            self._begin_parser(text)
            return
        self._begun = b""
        self._head, self._left, stays = plain
        self._stays = self._stays and stays
        self._count(text[end:])

    def _count(self, data: bytes) -> None:
        assert self._left is not None
        if len(data) > self._left:
            data = data[: self._left]
            self.abort()  # more than belongs to the answer: it would be taken for the next one
        self._left -= len(data)
        self._complete = not self._left
        self._put(data)

    def _begin_parser(self, data: bytes) -> None:
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_BYTES)
        method = "GET" if self._has_body else "HEAD"
        self._parser.send(h11.Request(method=method, target="/", headers=[("Host", "_")]))
        self._parser.send(h11.EndOfMessage())
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Let h11 parse *data*; b"" is the end of the connection."""
        parser = self._parser
        assert parser is not None
        if self._head is None:
            self._head_size += len(data)
        parser.receive_data(data)
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Data):
                self._put(bytes(event.data))
            elif isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    raise h11.RemoteProtocolError("the server switches protocols, which nobody asked for")
            elif isinstance(event, h11.Response):
                _check_size(self._head_size - len(parser.trailing_data[0]))
                version = b"HTTP/" + event.http_version
                self._head = Head.decoded(event.status_code, event.reason, event.headers.raw_items(), version)
            elif isinstance(event, h11.EndOfMessage):
                self._complete = True
                ended = parser.our_state is h11.DONE and parser.their_state is h11.DONE
                if not ended or parser.trailing_data[0]:
                    self.abort()
                return
            else:
                if self._head is None:
                    _check_size(self._head_size)
                return

    def _put(self, data: bytes) -> None:
        if data:
            self._blocks.append(data)
            self._waiting += len(data)
            if self._waiting >= _READ_AHEAD and not self._complete and not self._paused:
                self._paused = True
                self._transport.pause_reading()

    def _resume(self) -> None:
        self._paused = False
        self._transport.resume_reading()

    # The end, and waiting.

    def _rest_of_tls(self) -> ssl.SSLError | None:
        """Take in what asyncio has left undeciphered at the end, and return what is wrong with the end, if anything is.

        At the end asyncio reads once more, with however little memory it is given. And it does not tell whether the
        server has said that this is the end (RFC 8446, section 6.1), or somebody on the way has cut off the rest.
        """
        assert self._tls is not None
        try:
            while data := self._tls.read(len(self._scratch)):
                self._take_in(data)
        except ssl.SSLError as reason:
            return reason
        return None

    def _ended(self, reason: Exception | None) -> None:
        self._stays = False
        if self._complete or self._failure is not None:
            return
        if isinstance(reason, ssl.SSLWantReadError):
            self._fail(httpx.RemoteProtocolError, "peer closed the connection, and TLS was to go on")
        elif reason is not None:
            self._fail(httpx.ReadError, str(reason), reason)
        elif self._head is None:
            self._fail(httpx.RemoteProtocolError, "the server closed the connection before it had answered")
        elif self._left is not None:
            self._fail(httpx.RemoteProtocolError, f"peer closed the connection, {self._left} bytes were to come")
        else:
            try:
                self._parse(b"")
            except h11.RemoteProtocolError as told:
                self._fail(httpx.RemoteProtocolError, str(told), told)
        self._wake()

    def _fail(self, kind: type[httpx.TransportError], text: str, reason: BaseException | None = None) -> None:
        if self._failure is None:
            # Without the frames: they hold what the connection holds.
            self._failure = kind, text, None if reason is None else reason.with_traceback(None)
        self.abort()
        self._wake()

    def _raise(self) -> None:
        if self._failure is not None:
            kind, text, reason = self._failure
            raise kind(text) from reason

    async def _wait(self, silence: float | None, latest: float | None = None) -> None:
        """Wait until anything comes, for *silence* seconds and not beyond the time *latest*."""
        if self._failure is not None:
            self._raise()
        if silence is not None:
            soonest = self._loop.time() + silence
            latest = soonest if latest is None else min(soonest, latest)
        self._deadline = latest
        if latest is not None and (self._timer is None or self._timer.when() > latest):
            self._look_at(latest)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = self._deadline = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
            self._deadline = None  # what has come is in time, however late it is looked at

    def _look_at(self, when: float) -> None:
        """Look at the clock then: a timer for each wait would cost more than all else here."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._look_at(self._deadline)
        else:
            self._fail(httpx.ReadTimeout, "nothing came in time")


def _check_size(size: int) -> None:
    """Raise h11.RemoteProtocolError where the heads of an answer have more than the bytes that they may have."""
    if size > MOST_BYTES:
        raise h11.RemoteProtocolError(f"the head of the answer has more than {MOST_BYTES} bytes")


def _is_empty(tls: ssl.SSLObject) -> bool:
    """Tell whether *tls* holds nothing that has not been read, the end included."""
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return True
    except ssl.SSLError:
        pass
    return False
