"""The body of an answer, counted; and how the connection is left behind."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from downhaul import DownloadError, ProtocolError, Truncated

from ._failures import chain, in_body, is_foreign
from ._fields import Fields
from ._logs import guarded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import httpx

    from ._heads import Head

_SMALL: Final = 16 * 1024
_PATIENCE: Final = 0.25
_INWARD: Final = ("_httpcore_stream", "_stream", "_connection", "_h11_state")
_AT_ONCE: Final = 256 * 1024
"""Bytes that are read at once: as many as asyncio takes from a socket. The library's 64 KiB cost four times the way."""


class Rest(Protocol):
    """What follows the head of an answer."""

    @property
    def is_clean(self) -> bool:
        """Whether it was read to its end, and the connection can serve again."""

    def take(self) -> bytes | None:
        """Return the next bytes if they are there, b"" at the end, or None if they must be waited for."""

    async def read(self, silence: float | None) -> bytes:
        """Return the next bytes, b"" at the end; raises FetchError, after *silence* seconds without any too."""

    async def aclose(self) -> None:
        """Be done with it: its connection is of no more use, unless it is clean."""


class FillingRest(Rest, Protocol):
    """One whose bytes can go straight into memory of the receiver's."""

    async def readinto(self, view: memoryview, silence: float | None) -> int:
        """Put the next bytes into *view*, and return how many they are; otherwise as `read`."""


class Body:
    """The bytes of an answer as they were sent, block by block.

    *length* is the number of bytes that the head announces, None where it does not; *silence* the longest wait for
    a block, in seconds. Reading raises Truncated, ProtocolError and TimeoutExceeded.
    """

    def __init__(self, rest: Rest, length: int | None, silence: float | None) -> None:
        self._rest, self._length, self._silence = rest, length, silence
        self._received = 0
        self._failure: DownloadError | None = None
        self._reading = False
        self._over = False

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise self._failure or StopAsyncIteration
        if self._reading:
            raise await self._interrupted()
        self._reading = True
        try:
            block = self._rest.take()
            if block is None:
                block = await self._rest.read(self._silence)
        except DownloadError as failure:
            raise await self._failed(failure) from None
        self._reading = False
        self._received += len(block)
        if not block or (self._length is not None and self._received > self._length):
            await self._look(ended=not block)
            raise StopAsyncIteration
        return block

    async def aclose(self) -> None:
        """Close the answer: its connection too, unless the body was read to its end."""
        if not self._over:
            self._over = True
            self._failure = self._failure or Truncated("the file was left before its end")
            await self._rest.aclose()

    async def _interrupted(self) -> DownloadError:
        """Return the error where who waited for the last block was cancelled: the library takes that for the end."""
        return await self._failed(Truncated("reading the file was interrupted"))

    async def _look(self, *, ended: bool) -> None:
        """Hold what has come, and may have *ended*, against what was announced."""
        if not ended:
            raise await self._failed(ProtocolError(f"the answer announces {self._length} bytes, and more arrived"))
        if self._length is not None and self._received < self._length:
            raise await self._failed(Truncated(f"{self._received} of {self._length} bytes arrived"))
        self._over = True
        await self._rest.aclose()

    async def _failed(self, failure: DownloadError) -> DownloadError:
        self._failure = failure
        await self.aclose()
        return failure


class FillingBody(Body):
    """A body whose bytes can go straight into memory of the receiver's."""

    def __init__(self, rest: FillingRest, length: int | None, silence: float | None) -> None:
        super().__init__(rest, length, silence)
        self._filling = rest

    async def readinto(self, view: memoryview) -> int:
        """Put the next bytes into *view*, from its start, and return how many they are, 0 at the end."""
        if self._over:
            if self._failure is not None:
                raise self._failure
            return 0
        if self._reading:
            raise await self._interrupted()
        self._reading = True
        try:
            size = await self._filling.readinto(view, self._silence)
        except DownloadError as failure:
            raise await self._failed(failure) from None
        self._reading = False
        self._received += size
        if not size or (self._length is not None and self._received > self._length):
            await self._look(ended=not size)
        return size


class NoBody:
    """The body of an answer that has none."""

    def __aiter__(self) -> NoBody:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Do nothing."""


async def settle(rest: Rest, length: int | None) -> bool:
    """Be done with an answer whose body of *length* bytes nobody wants; return whether its connection can serve again.

    A small body is read for that: a mirror that lacks a thousand files should not cost a thousand handshakes.
    """
    try:
        if length is not None and length <= _SMALL:
            with suppress(TimeoutError, DownloadError):
                async with asyncio.timeout(_PATIENCE):
                    while await rest.read(_PATIENCE):
                        pass
    finally:
        await rest.aclose()
    return rest.is_clean


def told_length(head: Head) -> int | None:
    """Return how long the body of a refusal says that it is, if that is one small number."""
    length = Fields(head.fields).single("content-length")
    return int(length) if length is not None and len(length) < 6 and length.isascii() and length.isdigit() else None


class LibraryRest:
    """The rest of a *response* of httpx."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._http2 = response.extensions.get("http_version") == b"HTTP/2"
        self._ended = self.is_clean = False
        _read_more(response)
        self._blocks: AsyncIterator[bytes] | None = aiter(response.stream)  # type: ignore[arg-type]

    def take(self) -> bytes | None:
        """Return None: the library is always waited for."""
        return None

    async def read(self, silence: float | None) -> bytes:
        """Return the next bytes, b"" at the end; raises FetchError, after *silence* seconds without any too."""
        outside = sys.exception()
        try:
            with guarded():
                async with asyncio.timeout(silence):
                    async for block in self._blocks or _none():
                        if block:
                            return block
        except Exception as reason:
            if not is_foreign(reason):
                raise
            failure = in_body(chain(reason, outside), http2=self._http2)
        else:
            self._ended = not self._has_surplus()
            return b""
        raise failure

    async def aclose(self) -> None:
        """Close the response; what goes wrong then is of no interest."""
        self._blocks = None
        try:
            with guarded():
                await self._response.aclose()
            self.is_clean = self._ended
        except Exception as reason:
            if not is_foreign(reason):
                raise

    def _has_surplus(self) -> bool:
        """Tell whether more bytes have come than belong to the response.

        The parser keeps them, and would take them for the answer to the next request on the connection: whoever can
        make a server send them, can forge answers. There is no public way to see them.
        """
        for node in _inward(self._response):
            trailing = getattr(node, "trailing_data", None)
            if trailing is not None:
                return bool(trailing[0])
        return False


async def _none() -> AsyncIterator[bytes]:
    """Yield nothing."""
    return
    yield b""


def _read_more(response: httpx.Response) -> None:
    """Let larger blocks be read on the connection of *response*, where the library lets that be set."""
    for node in _inward(response):
        if getattr(node, "READ_NUM_BYTES", 0):
            node.READ_NUM_BYTES = _AT_ONCE
            return


def _inward(response: httpx.Response) -> Iterator[Any]:
    """Yield the stream of *response*, the connection that it comes from, and the parser of that, as far as known."""
    node: Any = response.stream
    while node is not None:
        yield node
        node = next((inner for name in _INWARD if (inner := getattr(node, name, None)) is not None), None)
