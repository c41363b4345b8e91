"""The body of an answer, counted; and how the connection is left behind."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from downhaul import DownloadError, ProtocolError, Truncated

from ._failures import chain, in_body, is_foreign
from ._logs import guarded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import httpx

_SMALL: Final = 16 * 1024
_PATIENCE: Final = 0.25
_INWARD: Final = ("_httpcore_stream", "_stream", "_connection", "_h11_state")
_AT_ONCE: Final = 256 * 1024
"""Bytes that are read at once: as many as asyncio takes from a socket. The library's 64 KiB cost four times the way."""


class Body:
    """The bytes of *response* as they were sent, block by block.

    *length* is the number of bytes that the head announces, None where it does not; *silence* the longest wait for
    a block, in seconds. Reading raises Truncated, ProtocolError and TimeoutExceeded.
    """

    def __init__(self, response: httpx.Response, length: int | None, silence: float | None, *, http2: bool) -> None:
        self._response = response
        self._length = length
        self._silence = silence
        self._http2 = http2
        _read_more(response)
        self._blocks: AsyncIterator[bytes] | None = aiter(response.stream)  # type: ignore[arg-type]
        self._received = 0
        self._failure: DownloadError | None = None
        self._waiting = False
        self._closed = False
        self.is_complete = False

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        if self._blocks is None:
            raise StopAsyncIteration
        if self._waiting:
            # Whoever waited for the last block was cancelled; the library takes that for the end.
            raise await self._failed(Truncated("reading the file was interrupted"))
        self._waiting = True
        block = await self._next(self._blocks)
        self._waiting = False
        if block is None:
            await self._end()
            raise StopAsyncIteration
        self._received += len(block)
        if self._length is not None and self._received > self._length:
            raise await self._failed(ProtocolError(f"the answer announces {self._length} bytes, and more arrived"))
        return block

    async def aclose(self) -> None:
        """Close the answer: its connection too, unless the body was read to its end."""
        if not self._closed:
            self._closed = True
            if self._failure is None and self._blocks is not None:
                self._failure = Truncated("the file was left before its end")
            self._blocks = None
            await close(self._response)

    async def _next(self, blocks: AsyncIterator[bytes]) -> bytes | None:
        outside = sys.exception()
        try:
            with guarded():
                async with asyncio.timeout(self._silence):
                    async for block in blocks:
                        if block:
                            return block
                    return None
        except Exception as reason:
            if not is_foreign(reason):
                raise
            failure = in_body(chain(reason, outside), http2=self._http2)
        raise await self._failed(failure)

    async def _end(self) -> None:
        if self._length is not None and self._received < self._length:
            raise await self._failed(Truncated(f"{self._received} of {self._length} bytes arrived"))
        self._blocks = None
        self._closed = True
        surplus = has_surplus(self._response)
        await close(self._response)
        self.is_complete = not surplus

    async def _failed(self, failure: DownloadError) -> DownloadError:
        self._failure = failure
        await self.aclose()
        return failure


class NoBody:
    """The body of an answer that has none."""

    def __aiter__(self) -> NoBody:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Do nothing."""


async def settle(response: httpx.Response, *, has_body: bool) -> bool:
    """Be done with an answer whose body nobody wants; return whether its connection can serve again.

    A small body is read for that: a mirror that lacks a thousand files should not cost a thousand handshakes.
    """
    complete = False
    try:
        if _is_small(response, has_body=has_body):
            with suppress(TimeoutError), guarded():
                async with asyncio.timeout(_PATIENCE):
                    received = 0
                    async for block in response.stream:  # type: ignore[union-attr]
                        received += len(block)
                        if received > _SMALL:
                            break
                    else:
                        complete = not has_surplus(response)
    except Exception as reason:
        if not is_foreign(reason):
            raise
    finally:
        await close(response)
    return complete


async def close(response: httpx.Response) -> None:
    """Close *response*; what goes wrong then is of no interest."""
    try:
        with guarded():
            await response.aclose()
    except Exception as reason:
        if not is_foreign(reason):
            raise


def has_surplus(response: httpx.Response) -> bool:
    """Tell whether more bytes have come than belong to *response*.

    The parser keeps them, and would take them for the answer to the next request on the connection: whoever can
    make a server send them, can forge answers. There is no public way to see them.
    """
    for node in _inward(response):
        trailing = getattr(node, "trailing_data", None)
        if trailing is not None:
            return bool(trailing[0])
    return False


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


def _is_small(response: httpx.Response, *, has_body: bool) -> bool:
    if not has_body:
        return True
    length = response.headers.get("content-length", "")
    return len(length) < 6 and length.isascii() and length.isdigit() and int(length) <= _SMALL
