"""The heads of answers in HTTP/1.1: most are read at one glance, by two regular expressions; the rest is for h11."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from ._fields import text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import httpx

_STATUS_LINE: Final = re.compile(r"HTTP/1\.1 (?P<status>[2-5][0-9]{2})(?: (?P<reason>[\x20-\x7e]*))?")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH: Final = re.compile(r"[0-9]{1,19}")
_OTHER: Final = "other"
_LONGEST: Final = 64
"""Characters of a name that is looked up, and by that remembered."""

_FRAMING: Final = frozenset({"content-length", "transfer-encoding", "connection"})
WITHOUT_BODY: Final = frozenset({204, 304})
"""Statuses whose answers have no body, whatever they say (RFC 9112, section 6.3)."""


class Head(NamedTuple):
    """The head of an answer: its header fields as they came, and those that were `sent` for it where a client knows."""

    status: int
    reason: str | None
    fields: Sequence[tuple[str, str]]
    size: int
    """Bytes that the fields have, about."""

    version: bytes = b"HTTP/1.1"
    sent: tuple[tuple[str, str], ...] = ()
    locations: tuple[bytes, ...] = ()
    """The values of Location where they may be more than ASCII: a server wants to see its own bytes again."""

    raw: Sequence[tuple[bytes, bytes]] = ()
    """The fields as they came where they may be more than ASCII."""

    @classmethod
    def decoded(
        cls,
        status: int,
        reason: bytes | None,
        fields: Iterable[tuple[bytes, bytes]],
        version: bytes,
        sent: tuple[tuple[str, str], ...] = (),
    ) -> Head:
        """Return a head whose fields are still bytes."""
        pairs = list(fields)
        return cls(
            status,
            None if reason is None else text(reason),
            [(text(name), text(value)) for name, value in pairs],
            sum(len(name) + len(value) for name, value in pairs),
            version,
            sent,
            tuple(value for name, value in pairs if name.lower() == b"location"),
            pairs,
        )

    @classmethod
    def of(cls, response: httpx.Response) -> Head:
        """Return the head of *response*."""
        try:
            sent = tuple(response.request.headers.items())
        except RuntimeError:  # only a client of one's own says what it has sent in the end
            sent = ()
        reason, version = (response.extensions.get(name) for name in ("reason_phrase", "http_version"))
        return cls.decoded(response.status_code, reason, response.headers.raw, version or b"HTTP/1.1", sent)


class Plain(NamedTuple):
    """A head whose body is told by its Content-Length alone: how long that is, and whether the connection stays."""

    head: Head
    length: int
    stays: bool


def read_plain(head: bytes, *, has_body: bool) -> Plain | None:
    """Return what *head*, an answer up to the blank line, says; None where a parser has to look at it.

    *has_body* is False for the answer to a HEAD. Plain is an answer of HTTP/1.1 with one Content-Length, no
    Transfer-Encoding, no interim answer before it and nothing unusual in its lines (RFC 9112, sections 4, 5 and 6.3).
    """
    try:
        said = head[:-4].decode("ascii")
    except UnicodeDecodeError:
        return None
    first, *lines = said.split("\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if match is None or not "".join(lines).isprintable():
        return None
    fields, length, stays = [], None, True
    for line in lines:
        name, colon, value = line.partition(":")
        known = _known(name) if len(name) <= _LONGEST else None
        if known is None or not colon or value[-1:] == " ":
            return None
        value = value.lstrip(" ")
        fields.append((name, value))
        if known is _OTHER:
            continue
        if known == "content-length":
            if length is not None or _LENGTH.fullmatch(value) is None:
                return None
            length = int(value)
        elif known == "connection":
            stays = stays and "close" not in value.lower()
        else:
            return None
    code = int(match["status"])
    if not has_body or code in WITHOUT_BODY:
        length = 0
    if length is None:
        return None
    return Plain(Head(code, match["reason"] or "", fields, len(said)), length, stays)


@lru_cache(maxsize=1024)
def _known(name: str) -> str | None:
    """Return the *name* of a header field in lower case if it says how an answer is framed, else _OTHER; None if it is
    no name.
    """  # noqa: D205
    if _NAME.fullmatch(name) is None:
        return None
    lower = name.lower()
    return lower if lower in _FRAMING else _OTHER
