"""The data: driver keeps downhaul's contract, and RFC 2397."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from urllib.parse import quote_from_bytes

import pytest
from downhaul_data import DataDriver

from downhaul import BufferWriter, DigestValidation, Download, Info, ProtocolError, Request, Settings
from downhaul.testing import DriverContract


class TestContract(DriverContract):
    """The contract, with base64."""

    def make_driver(self) -> DataDriver:
        """Return the driver."""
        return DataDriver()

    def url_of(self, content: bytes) -> str:
        """Write *content* into a URL."""
        return f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"

    def missing_url(self) -> None:
        """Nothing can be missing: the URL is the file."""


class TestContractPercentEncoded(TestContract):
    """The contract, with percent encoding."""

    largest = 300_000  # three characters for each byte make a long URL

    def url_of(self, content: bytes) -> str:
        """Write *content* into a URL."""
        return f"data:,{quote_from_bytes(content)}"


def get(url: str) -> tuple[Info, bytes]:
    """Return what the driver makes of *url*."""

    async def opened() -> tuple[Info, bytes]:
        async with DataDriver().open(Request(url), Settings().complete()) as payload:
            return payload.info, b"".join([bytes(block) async for block in payload.body])

    return asyncio.run(opened())


@pytest.mark.parametrize(
    ("url", "media_type", "content"),
    [
        ("data:,A%20brief%20note", "text/plain;charset=US-ASCII", b"A brief note"),
        ("data:text/html,<p>1, 2;3</p>", "text/html", b"<p>1, 2;3</p>"),
        ("data:;charset=utf-8,%c3%a9", "text/plain;charset=utf-8", b"\xc3\xa9"),
        ("data:;base64,aGk=", "text/plain;charset=US-ASCII", b"hi"),
        ("DATA:text/plain;charset=utf-8;BASE64,aGk%3D", "text/plain;charset=utf-8", b"hi"),
        ("data:image/gif;base64,R0lG%0AODlh", "image/gif", b"GIF89a"),
        ("data:text/plain,one#two", "text/plain", b"one"),
        ("data:text/base64,aGk=", "text/base64", b"aGk="),
        ("data:,", "text/plain;charset=US-ASCII", b""),
    ],
)
def test_forms(url: str, media_type: str, content: bytes) -> None:
    """Each form that RFC 2397 allows gives its media type and its bytes."""
    info, received = get(url)
    assert info.headers["content-type"] == media_type
    assert received == content
    assert info.size == len(content)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("data:text/plain", "no comma"),
        ("data:;base64,%%%", "no base64"),
        ("data:;base64,aGk", "no base64"),
        ("data:;base64,a===", "no base64"),
        ("data:,a\r\nb", "control characters"),
    ],
)
def test_malformed(url: str, complaint: str) -> None:
    """A malformed URL is refused with a sentence that says why."""
    with pytest.raises(ProtocolError, match=complaint):
        get(url)


def test_download() -> None:
    """Once installed, the driver answers for its scheme wherever downhaul is used."""
    digest = DigestValidation("sha256", hashlib.sha256(b"hello").hexdigest())
    writer = BufferWriter()
    result = Download("data:text/plain,hello", writer, validations=[digest])()
    assert writer.content() == b"hello"
    assert result.proof == "length"
    assert result.headers["Content-Type"] == "text/plain"


def test_stream() -> None:
    """A stream gives the media type before the bytes."""
    with Download("data:image/gif;base64,R0lGODlh").stream() as stream:
        assert stream.headers["content-type"] == "image/gif"
        assert b"".join(map(bytes, stream)) == b"GIF89a"
