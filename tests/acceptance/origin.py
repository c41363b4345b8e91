"""An origin that is as good or as bad as the path says, and counts what it sends.

======================  =============================================================================================
``/good/NAME``          the file, with entity tag, ranges, If-Range and conditions
``/plain/NAME``         the same without ranges, entity tag, or Last-Modified
``/chunked/NAME``       the same without a length (chunked)
``/corrupt/NAME``       its last byte is another; tag and length are those of the good one
``/other/NAME``         every byte is another, of the same length, with a tag of its own
``/cut/NAME``           a first answer that is cut half-way, in an orderly way; then like ``/good``
``/lost/NAME``          every answer is cut half-way, in an orderly way
``/reset/NAME``         every answer is cut half-way by a reset
``/changing/NAME``      a first answer that is cut half-way; then another file of another version
``/stalling/NAME``      half of it comes, then nothing until `Origin.release`
``/headers/NAME``       like ``/good``, with fields that must not be passed on
``/keyed/NAME``         wants the key that `Origin.key` is, and repeats it in a field
``/busy/NAME``          503
``/endless/NAME``       ten times 64 MiB
``/404/NAME``           404
======================  =============================================================================================
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.servers.http import Exchange, head, http_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.http import HttpServer

MIB: Final = 1024 * 1024
ENDLESS: Final = 640 * MIB
MODIFIED: Final = "Sat, 01 Aug 2026 10:00:00 GMT"
PRIVATE: Final = (
    ("Set-Cookie", "session=1"), ("Connection", "X-Hop, keep-alive"), ("X-Hop", "1"), ("Keep-Alive", "timeout=5"),
    ("Proxy-Authenticate", "Basic"), ("Trailer", "X-After"), ("Upgrade", "h2c"), ("WWW-Authenticate", "Basic"),
    ("Strict-Transport-Security", "max-age=1"), ("Alt-Svc", "clear"), ("Proxy-Connection", "close"), ("TE", "trailers"),
)  # fmt: skip
PUBLIC: Final = (("Content-Type", "application/x-rpm"), ("Cache-Control", "max-age=60"), ("X-Own", "kept"))
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)$")
_FILES: Final = {"small": 1000, "file": 400_000, "empty": 0, "large": 3 * MIB}


def content_of(name: str) -> bytes:
    """Return the right bytes of a file."""
    return random.Random(name).randbytes(_FILES[name])


class Origin:
    """A running origin: `asked` are method, target and Range of each request, `sent` the bytes of bodies by target."""

    def __init__(self) -> None:
        self.key = "the-key-of-the-origin"
        self.asked: list[tuple[str, str, str | None]] = []
        self.sent: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._released = threading.Event()
        self._contents = {name: content_of(name) for name in _FILES}
        self.server: HttpServer

    def url(self, target: str) -> str:
        """Return the URL of *target*."""
        return self.server.url(target)

    def forget(self) -> None:
        """Begin anew: nothing was asked yet."""
        self._released.set()
        self._released = threading.Event()
        self.asked.clear()
        self.sent.clear()
        self._seen.clear()

    def release(self) -> None:
        """Let what stalls go on."""
        self._released.set()

    def gets(self) -> list[tuple[str, str | None]]:
        """Return target and Range of each GET."""
        return [(target, asked) for method, target, asked in self.asked if method == "GET"]

    async def answer(self, exchange: Exchange) -> None:
        """Answer one request."""
        self.asked.append((exchange.method, exchange.target, exchange.header("Range")))
        manner, _, name = exchange.target.strip("/").partition("/")
        self._seen[exchange.target] += exchange.method == "GET"
        first = self._seen[exchange.target] <= 1
        content, tag = self._contents.get(name, b""), f'"{name}"'
        if manner in {"404", "busy"} or name not in self._contents:
            await exchange.respond(503 if manner == "busy" else 404)
        elif manner == "keyed" and exchange.header("X-Key") != self.key:
            await exchange.respond(403)
        elif manner == "endless":
            await self._endless(exchange)
        elif manner == "chunked":
            await self._chunked(exchange, content)
        else:
            if manner == "corrupt" and content:
                content = content[:-1] + bytes([content[-1] ^ 1])
            if manner == "other" or (manner == "changing" and not first):
                content, tag = bytes(255 - byte for byte in content), '"other"'
            fields = {"headers": (*PRIVATE, *PUBLIC), "keyed": (("X-Echo", self.key),)}.get(manner, PUBLIC[:1])
            cut = manner in {"lost", "reset"} or (manner in {"cut", "changing"} and first)
            await self._file(exchange, content, tag, fields, plain=manner == "plain", cut=cut, manner=manner)

    async def _file(
        self, exchange: Exchange, content: bytes, tag: str, fields: tuple[tuple[str, str], ...], *, plain: bool,
        cut: bool, manner: str,
    ) -> None:  # fmt: skip
        described = (
            fields if plain else (*fields, ("ETag", tag), ("Last-Modified", MODIFIED), ("Accept-Ranges", "bytes"))
        )
        asked = _RANGE.match(exchange.header("Range") or "")
        if not plain and tag in (exchange.header("If-None-Match") or ""):
            await exchange.respond(304, headers=described, length=False)
            return
        status, part = 200, range(len(content))
        if asked and not plain and exchange.header("If-Range") in {None, tag}:
            part = range(int(asked[1]), min(int(asked[2] or len(content) - 1) + 1, len(content)))
            status = 206
            if not part:
                await exchange.respond(416, headers=[("Content-Range", f"bytes */{len(content)}")])
                return
            described = (*described, ("Content-Range", f"bytes {part.start}-{part.stop - 1}/{len(content)}"))
        await exchange.send(head(status, [("Content-Length", str(len(part))), *described]))
        if exchange.method == "HEAD":
            return
        body = content[part.start : part.stop]
        half = len(body) // 2
        if cut or manner == "stalling":
            await self._send(exchange, body[:half])
            if manner == "stalling":
                await self._until_released(exchange)
                await self._send(exchange, body[half:])
                return
            await (exchange.reset() if manner == "reset" else exchange.cut())
        await self._send(exchange, body)

    async def _chunked(self, exchange: Exchange, content: bytes) -> None:
        await exchange.send(head(200, [("Transfer-Encoding", "chunked")]))
        if exchange.method == "HEAD":
            return
        for place in range(0, len(content), 50_000):
            block = content[place : place + 50_000]
            await exchange.send(f"{len(block):x}\r\n".encode() + block + b"\r\n")
        await exchange.send(b"0\r\n\r\n")

    async def _endless(self, exchange: Exchange) -> None:
        await exchange.send(head(200, [("Content-Length", str(ENDLESS))]))
        if exchange.method == "GET":
            for _ in range(ENDLESS // 65536):
                await self._send(exchange, bytes(65536))

    async def _send(self, exchange: Exchange, body: bytes) -> None:
        for place in range(0, len(body), 65536):
            block = body[place : place + 65536]
            await exchange.send(block)
            self.sent[exchange.target] += len(block)

    async def _until_released(self, exchange: Exchange) -> None:
        """Wait for the release, or until the client has left."""
        released, left = self._released, asyncio.ensure_future(exchange.reader.read(1))
        try:
            while not released.is_set() and not left.done():
                await asyncio.wait((left,), timeout=0.01)
            if left.done():
                await exchange.cut()
        finally:
            left.cancel()
            await asyncio.wait((left,))  # the next request is read from there


@contextmanager
def origin() -> Iterator[Origin]:
    """Run an origin."""
    it = Origin()
    with http_server(it.answer) as it.server:
        try:
            yield it
        finally:
            it.release()
