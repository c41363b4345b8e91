"""What the head of an answer means: a file, a part of one, a redirect, a refusal."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from downhaul import (
    AccessDenied,
    Headers,
    Info,
    NotFound,
    ProtocolError,
    RangeRefused,
    Redirected,
    RedirectError,
    ServerError,
    StatusError,
    TooManyRequests,
)

from ._dates import retry_after
from ._echoes import Echoes
from ._failures import wants_credentials
from ._fields import Fields
from ._ranges import ContentRange, content_range, disagreement
from ._requests import asks_range, wants_head_only
from ._versions import check_unchanged, has_changed, if_range, version_of

if TYPE_CHECKING:
    from downhaul import Request, Version

    from ._heads import Head

# Numbers, as to ask an enumeration for one takes longer than all else that is done with it.
_NO_CONTENT: Final = 204
_PARTIAL_CONTENT: Final = 206
_NOT_MODIFIED: Final = 304
_PROXY_AUTHENTICATION_REQUIRED: Final = 407
_RANGE_NOT_SATISFIABLE: Final = 416
_VERSIONS: Final = frozenset({b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2"})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_ERRORS: Final[dict[int, type[StatusError]]] = {
    401: AccessDenied, 403: AccessDenied, 404: NotFound, 410: NotFound, 429: TooManyRequests,
}  # fmt: skip


class Answer(NamedTuple):
    """A file or a part of one: its `info`, and the `length` of the body in bytes where the head tells it."""

    info: Info
    length: int | None
    has_body: bool


def read_head(request: Request, head: Head, proxy: str = "") -> Answer:
    """Return what *head*, that of an answer to *request*, by way of the URL of a *proxy* or "", delivers.

    Raises Redirected for a redirect, RedirectError for one that leads nowhere, RangeRefused for a part that is not
    the one asked for, StatusError for a refusal, ProxyError where it is the proxy's, ProtocolError.
    """
    protocol = head.version
    if protocol not in _VERSIONS:
        raise ProtocolError(f"the server speaks {protocol[:20].decode(errors='replace')!r}")
    fields = Fields(head.fields)
    fields.check_budget(head.size)
    status = head.status
    if not 200 <= status < 300:
        return _not_modified(request, head, fields, proxy)
    length = fields.content_length()
    if status == _PARTIAL_CONTENT:
        return _part(request, fields, length, protocol)
    head_only = wants_head_only(request)
    has_body = not head_only and status != _NO_CONTENT
    if status == _NO_CONTENT:
        length = 0
    version = version_of(fields, length, time.time())
    info = Info(
        request.url,
        fields.headers(),
        size=length,
        version=version,
        start=request.offset if head_only else 0,
        resumable=_is_resumable(fields, version),
        proof=_proof(fields, length, protocol),
    )
    return Answer(info, length if has_body else 0, has_body)


def _part(request: Request, fields: Fields, length: int | None, protocol: bytes) -> Answer:
    if not asks_range(request):
        raise ProtocolError("the server answers with a part (206) though the whole was asked for")
    found = _range_of(request, fields)
    if length is not None and length != found.length:
        raise RangeRefused(f"the part has {length} bytes, its Content-Range {found.length}")
    version = version_of(fields, found.total, time.time())
    if (asked := request.version) is not None:
        if has_changed(asked, version, found.total):
            raise RangeRefused("the file has changed since its first part was received")
        if if_range(asked) is not None:
            # The server has confirmed this very version, and may leave out what it said before.
            version = asked
    # Of a range without an end, in a file of unknown size, nothing says that it reaches the end.
    proven = found.total is not None or request.length is not None
    info = Info(
        request.url,
        fields.headers(),
        size=found.total,
        version=version,
        start=found.first,
        resumable=True,
        proof=_proof(fields, found.length, protocol) if proven else "unproven",
    )
    return Answer(info, found.length, has_body=True)


def _range_of(request: Request, fields: Fields) -> ContentRange:
    kind = fields.single("content-type")
    if kind is not None and kind.lower().lstrip().startswith("multipart/byteranges"):
        raise RangeRefused("the answer has several parts (multipart/byteranges); one was asked for")
    values = fields.all("content-range")
    if len(values) != 1:
        raise RangeRefused(f"the answer has {len(values) or 'no'} Content-Range; a part has one")
    found = content_range(values[0])
    if found is None:
        raise RangeRefused(f"the Content-Range cannot be read: {values[0][:100]!r}")
    if why := disagreement(found, request.offset, request.length):
        raise RangeRefused(why)
    return found


def _not_modified(request: Request, head: Head, fields: Fields, proxy: str) -> Answer:
    if head.status != _NOT_MODIFIED or request.unless is None:
        raise _refusal(request, head, fields, proxy)
    unless = request.unless
    check_unchanged(unless, version_of(fields, None, time.time()))
    info = Info(
        request.url, fields.headers(), size=unless.size, version=unless, not_modified=True, proof="not modified"
    )
    return Answer(info, 0, has_body=False)


def _refusal(request: Request, head: Head, fields: Fields, proxy: str) -> Exception:
    echoes = Echoes(request, head, proxy)
    status, reason = head.status, _reason(head, echoes)
    said = f"{status} {reason}".rstrip()
    if status < 200:
        return ProtocolError(f"the server answers {said}, which nobody asked for")
    if status < 400:
        locations = head.locations or [value.encode() for value in fields.all("location")]
        if status not in _REDIRECTS:
            return RedirectError(f"the server answers {said}, which is no file")
        if len(locations) != 1:
            return RedirectError(
                f"the server answers {said} with {len(locations) or 'no'} Location; a redirect has one"
            )
        return Redirected(request.redirected(_location(locations[0])), fields.headers())
    if status == _RANGE_NOT_SATISFIABLE and request.offset > 0 and asks_range(request):
        return RangeRefused(f"the server has nothing from byte {request.offset} on ({said})")
    if status == _PROXY_AUTHENTICATION_REQUIRED:
        return wants_credentials(said)
    kind = _ERRORS.get(status, ServerError if 500 <= status < 600 else StatusError)
    wait = retry_after(fields.single("retry-after"), fields.single("date"), time.time())
    headers = Headers((name, echoes.hidden_in_field(name, value)) for name, value in fields.headers().items())
    asks = "" if wait is None else f" and asks to wait {wait:.0f} s"
    return kind(f"the server answers {said}{asks}", status, reason, wait, headers)


def _reason(head: Head, echoes: Echoes) -> str:
    if head.reason is not None:
        return echoes.hidden(head.reason)[:200]
    try:
        return HTTPStatus(head.status).phrase
    except ValueError:
        return ""


def _location(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        # Neither ASCII nor UTF-8: the bytes are what the server will want to see again.
        return "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in value)


def _is_resumable(fields: Fields, version: Version | None) -> bool:
    said = fields.all("accept-ranges")
    if said:
        return said == ["bytes"] or "bytes" in {unit.strip().lower() for value in said for unit in value.split(",")}
    return version is not None and version.strong


def _proof(fields: Fields, length: int | None, protocol: bytes) -> str:
    if fields.all("transfer-encoding"):
        return "final chunk"
    if length is not None and (fields.all("content-length") or length == 0):
        return "length"
    return "end of stream" if protocol == b"HTTP/2" else "length" if length is not None else "unproven"
