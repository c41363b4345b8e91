"""A driver of downhaul for ``data:`` URLs (RFC 2397)."""

from __future__ import annotations

import base64
import hashlib
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from downhaul import Driver, FetchError, Headers, Info, Payload, ProtocolError, RangeRefused, Version

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from downhaul import Request, Settings

__all__ = ["DataDriver"]

_BLOCK = 65536
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")


class DataDriver(Driver):
    """Delivers what stands in the URL itself: ``data:[<media type>][;base64],<data>``."""

    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncIterator[Payload]:  # noqa: ARG002
        """Decode *request*; raise ProtocolError where the URL is malformed, RangeRefused where nothing is left."""
        if request.verb == "list":
            raise FetchError("a data: URL has nothing to list")
        media_type, content = _decoded(request.url)
        version = Version(tag=f'"{hashlib.sha256(content).hexdigest()}"', size=len(content), strong=True)
        if request.offset > len(content) or (request.offset and request.version not in {None, version}):
            raise RangeRefused(f"a data: URL of {len(content)} bytes does not continue at {request.offset}")
        unchanged = request.unless == version
        info = Info(
            request.url, Headers([("Content-Type", media_type)]), size=len(content), version=version,
            start=request.offset, resumable=True, not_modified=unchanged, proof="length",
        )  # fmt: skip
        end = None if request.length is None else request.offset + request.length
        wanted = b"" if unchanged or request.verb == "stat" else memoryview(content)[request.offset : end]
        yield Payload(info, _blocks(wanted))


def _decoded(url: str) -> tuple[str, bytes]:
    """Return the media type and the content of *url*; a fragment belongs to neither (RFC 3986, section 3.5)."""
    if not url.isprintable():  # such characters stand in a URL as %0A
        raise ProtocolError("malformed data: URL: it holds control characters")
    head, comma, data = url.partition("#")[0].partition(":")[2].partition(",")
    if not comma:
        raise ProtocolError("malformed data: URL: no comma between the media type and the data")
    content = unquote_to_bytes(data)
    media_type, semicolon, encoding = head.rpartition(";")
    if semicolon and encoding.strip().lower() == "base64":
        content = b"".join(content.split())
        if len(content) % 4 or not _BASE64.fullmatch(content):
            raise ProtocolError("malformed data: URL: what stands behind the comma is no base64")
        content = base64.b64decode(content)
    else:
        media_type = head
    if not media_type or media_type.startswith(";"):
        media_type = f"text/plain{media_type or ';charset=US-ASCII'}"
    return media_type, content


async def _blocks(content: bytes | memoryview) -> AsyncIterator[bytes | memoryview]:
    for start in range(0, len(content), _BLOCK):
        yield content[start : start + _BLOCK]
