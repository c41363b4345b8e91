"""From a `Request` of downhaul to what is sent."""

from __future__ import annotations

import re
from base64 import b64encode
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlencode

import httpx

from downhaul import FetchError, ProtocolError

from ._versions import if_range

if TYPE_CHECKING:
    from collections.abc import Iterable

    from downhaul import Request, User

_IDENTITY: Final = (b"Accept-Encoding", b"identity")
_ACCEPT: Final = (b"Accept", b"*/*")
_FORM: Final = (b"Content-Type", b"application/x-www-form-urlencoded")
_OURS: Final = frozenset({b"range", b"if-range", b"content-length", b"transfer-encoding", b"expect", b"upgrade"})
_PLAIN: Final = re.compile(
    r"https?://(?P<host>[a-z0-9.-]+(?::[0-9]+)?)"
    r"(?P<target>/(?:[A-Za-z0-9_~!$&'()*+,;=:@-]|(?<!/)[./]|/(?!\.)|%[0-9A-F]{2})*(?:\?[A-Za-z0-9_~!$&()*+,;=:@/.-]*)?)"
)
"""URLs that are sent as they stand: nothing in them to encode, to decode, to take away."""

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FORBIDDEN: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def _user_agent() -> tuple[bytes, bytes]:
    try:
        return b"User-Agent", f"downhaul/{version('downhaul')}".encode()
    except PackageNotFoundError:  # a checkout that was never installed
        return b"User-Agent", b"downhaul"


_USER_AGENT: Final = _user_agent()


def client_url(request: Request) -> httpx.URL:
    """Return the URL of *request* as httpx sends it: what is encoded stays as it is, what must be is encoded.

    Raises FetchError for one that cannot be asked for.
    """
    failure = None
    try:
        request.origin  # noqa: B018 - reads host and port more strictly
        return httpx.URL(request.target())
    except (httpx.InvalidURL, ValueError) as reason:
        failure = FetchError(f"malformed URL: {reason}: {request.url}")
    raise failure


def origin_of(request: Request) -> str:
    """Return the origin of *request*; raises FetchError where its URL cannot be asked for."""
    try:
        return request.origin
    except ValueError:
        client_url(request)
        raise


class Message(NamedTuple):
    """A request as it is sent, in HTTP/1.1 or another form."""

    method: str
    url: httpx.URL
    fields: list[tuple[bytes, bytes]]
    content: bytes = b""

    def for_client(self) -> httpx.Request:
        """Return it as a request of httpx."""
        return httpx.Request(self.method, self.url, headers=self.fields, stream=httpx.ByteStream(self.content))

    def lines(self) -> bytes:
        """Return what stands behind the request's target, to the end (RFC 9112, section 3)."""
        lines = b"".join([b"%b: %b\r\n" % field for field in self.fields])
        return b" HTTP/1.1\r\n%b\r\n%b" % (lines, self.content)


def message(request: Request, url: httpx.URL, defaults: Iterable[tuple[bytes, bytes]] = ()) -> Message:
    """Return *request* as it is sent to *url*, with *defaults* for the header fields that it does not set.

    Raises ProtocolError for a header field that cannot be sent.
    """
    fields = [_encoded(name, value) for name, value in request.fields()]
    names = {name.lower() for name, _ in fields}
    if not names.isdisjoint(_OURS):
        taken = ", ".join(sorted(name.decode() for name in names & _OURS))
        raise ProtocolError(f"a download cannot set the header {taken}: offset, length and version of a Request do")
    user = request.user
    if user is not None and b"authorization" not in names:
        fields.append(basic(user))
        names.add(b"authorization")
    for default in (*defaults, _USER_AGENT, _ACCEPT):
        name = default[0].lower()
        if name not in names:
            names.add(name)
            fields.append(default)
    if b"accept-encoding" in names:
        # Sizes, ranges and digests are of the bytes as they are stored: a coding would be in their way.
        fields = [pair for pair in fields if pair[0].lower() != b"accept-encoding"]
    if b"host" not in names:
        fields.insert(0, (b"Host", url.netloc))
    fields.append(_IDENTITY)
    fields.extend(_conditions(request))
    if request.entitled is not None and request.entitled.form:
        content = urlencode(request.entitled.form).encode()
        fields.extend((_FORM, (b"Content-Length", str(len(content)).encode())))
        return Message("POST", url, fields, content)
    return Message("HEAD" if wants_head_only(request) else "GET", url, fields)


def plain_target(request: Request) -> tuple[str, bytes]:
    """Return host and target of a *request* for a whole file, as they are sent; "" and b"" where it takes more thought.

    Requests to one origin for which there is a target differ in nothing else, if their headers and credentials are
    equal.
    """
    known = request.credentials
    if (
        request.verb != "get"
        or request.offset
        or request.length is not None
        or request.unless is not None
        or (known is not None and (known.path != "/" or known.parameters or known.form))
    ):
        return "", b""
    match = _PLAIN.fullmatch(request.url)
    if match is None or match["host"].endswith((":80", ":443")):
        return "", b""
    return match["host"], match["target"].encode()


def wants_head_only(request: Request) -> bool:
    """Tell whether no byte of the body is wanted: a `stat`, or a length of 0, which no Range can say."""
    return request.verb == "stat" or request.length == 0


def asks_range(request: Request) -> bool:
    """Tell whether the request has a Range."""
    return not wants_head_only(request) and (request.offset > 0 or request.length is not None)


def basic(user: User) -> tuple[bytes, bytes]:
    """Return the Authorization of *user* (RFC 7617, in UTF-8)."""
    if ":" in user.name:
        raise ProtocolError("a user name with a colon cannot be sent by HTTP (RFC 7617, section 2)")
    return b"Authorization", b"Basic " + b64encode(_utf8(f"{user.name}:{user.password}", "user"))


def _conditions(request: Request) -> list[tuple[bytes, bytes]]:
    conditions: list[tuple[str, str | None]] = []
    if asks_range(request):
        last = "" if request.length is None else request.offset + request.length - 1
        conditions.append(("Range", f"bytes={request.offset}-{last}"))
        conditions.append(("If-Range", if_range(request.version)))
    if (unless := request.unless) is not None:
        conditions.append(("If-None-Match", unless.tag))
        conditions.append(("If-Modified-Since", unless.modified))
    return [_encoded(name, value) for name, value in conditions if value is not None]


def _encoded(name: str, value: str) -> tuple[bytes, bytes]:
    # What the client library says about a field that it refuses quotes the value: it is kept from refusing one.
    encoded_name, encoded = _utf8(name, "name"), _utf8(value, name)
    if _NAME.fullmatch(encoded_name) is None:
        raise ProtocolError(f"{name!r} is no name of a header field (RFC 9110, section 5.1)")
    if _FORBIDDEN.search(encoded) or encoded != encoded.strip():
        raise ProtocolError(f"the value of the header {name} cannot be sent (RFC 9110, section 5.5)")
    return encoded_name, encoded


def _utf8(text: str, what: str) -> bytes:
    failure = None
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        failure = ProtocolError(f"half a character in the header {what}")
    raise failure
