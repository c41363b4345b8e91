"""The heads of answers in HTTP/1.1: most are read at one glance, by two regular expressions; the rest is for h11."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

MOST_BYTES: Final = 256 * 1024
"""Bytes that heads of one answer may have, interim ones (1xx) included."""

_TEXT: Final = rb"[\t\x20-\x7e\x80-\xff]*"
_HEAD: Final = re.compile(
    rb"HTTP/1\.1 (?P<status>[2-5][0-9]{2})(?: (?P<reason>" + _TEXT + rb"))?\r\n"
    rb"(?P<fields>(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:" + _TEXT + rb"\r\n)*)\r\n"
)
_FIELD: Final = re.compile(rb"([^:\r\n]+):[\t ]*([^\r\n]*)\r\n")
_BLANK_AT_THE_END: Final = re.compile(rb"[\t ]\r\n")
_LENGTH: Final = re.compile(rb"[0-9]{1,19}")
_WITHOUT_BODY: Final = frozenset({204, 304})


class Head(NamedTuple):
    """The head of an answer: its header fields as they came, and those that were `sent` for it where a client knows."""

    status: int
    reason: bytes | None
    fields: Sequence[tuple[bytes, bytes]]
    version: bytes = b"HTTP/1.1"
    sent: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, response: httpx.Response) -> Head:
        """Return the head of *response*."""
        try:
            sent = tuple(response.request.headers.items())
        except RuntimeError:  # only a client of one's own says what it has sent in the end
            sent = ()
        extensions = response.extensions
        return cls(
            response.status_code,
            extensions.get("reason_phrase"),
            response.headers.raw,
            extensions.get("http_version", b"HTTP/1.1"),
            sent,
        )


class Plain(NamedTuple):
    """A head whose body is told by its Content-Length alone: how long that is, and whether the connection stays."""

    head: Head
    length: int
    stays: bool


def read_plain(text: bytes, *, has_body: bool) -> Plain | None:
    """Return what *text*, an answer up to the blank line, says; None where a parser has to look at it.

    *has_body* is False for the answer to a HEAD. Plain is an answer of HTTP/1.1 with one Content-Length, no
    Transfer-Encoding, no interim answer before it and nothing unusual in its lines (RFC 9112, sections 4, 5 and 6.3).
    """
    match = _HEAD.fullmatch(text)
    if match is None or _BLANK_AT_THE_END.search(text) is not None:
        return None
    fields = _FIELD.findall(match["fields"])
    length, stays = None, True
    for name, value in fields:
        size = len(name)
        if size == 14 and name.lower() == b"content-length":
            if length is not None or _LENGTH.fullmatch(value) is None:
                return None
            length = int(value)
        elif size == 17 and name.lower() == b"transfer-encoding":
            return None
        elif size == 10 and name.lower() == b"connection":
            stays = stays and b"close" not in value.lower()
    status = int(match["status"])
    if not has_body or status in _WITHOUT_BODY:
        length = 0
    if length is None:
        return None
    return Plain(Head(status, match["reason"] or b"", fields), length, stays)
