"""The values that pass between the engine, plugins and drivers: frozen, comparable, safe to show."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote, quote_plus, urlencode, urlsplit, urlunsplit

from ._errors import PolicyError, RedirectError
from ._settings import DEFAULTS, User
from ._urls import covers, is_downgrade, origin, resolve, scheme_of, show, split_userinfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from os import PathLike

    from ._errors import DownloadError

Verb = Literal["get", "stat", "list"]
Block = bytes | bytearray | memoryview

_MAX_REDIRECTS: Final = 10
_DESCRIBES_CONTENT: Final = frozenset({
    "accept-ranges", "content-digest", "content-encoding", "content-length", "content-md5", "content-range", "digest",
    "etag", "last-modified", "repr-digest", "transfer-encoding",
})  # fmt: skip


class Headers(Mapping[str, str]):
    """Header fields as received: names ignore case, several of one name are joined by a comma (RFC 9110, 5.3)."""

    __slots__ = ("_fields",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        pairs = tuple(pairs)
        self._fields = {name.lower(): (name, value) for name, value in pairs}
        if len(self._fields) < len(pairs):
            self._join(pairs)

    def _join(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._fields = {}
        for name, value in pairs:
            key = name.lower()
            known = self._fields.get(key)
            self._fields[key] = (name, value) if known is None else (known[0], f"{known[1]}, {value}")

    def updated(self, others: Headers) -> Headers:
        """Return these header fields with those of *others* in the place of equal names, and behind the rest."""
        return Headers((*self.without(others).items(), *others.items()))

    def without(self, names: Iterable[str]) -> Headers:
        """Return these header fields less those called *names*."""
        out = {name.lower() for name in names}
        return Headers(pair for key, pair in self._fields.items() if key not in out)

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()][1]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self._fields.values()])

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return {k: v for k, (_, v) in self._fields.items()} == {k: v for k, (_, v) in other._fields.items()}

    def __hash__(self) -> int:
        return hash(frozenset((key, value) for key, (_, value) in self._fields.items()))

    def __repr__(self) -> str:
        return f"Headers({', '.join(self)})"


@dataclass(frozen=True, slots=True)
class Version:
    """RFC 9110's validator (section 8.8): what tells one state of a file from the next.

    `tag` is an entity tag with its quotes, ``W/`` included where it is weak; `modified` is the server's own text
    for the time of modification; `size` is in bytes. Of a `strong` version, equal means byte for byte the same.

    `source` is a name for the source that named it: its URL as it may be shown, and a digest of that and of where it
    led. A server chooses its tags for itself, so as `Download(unless=…)` a version is for that source alone; without a
    name, None, for all of them.
    What is equal says nothing of sources. All fields are plain data: ``Version(**dataclasses.asdict(version))``.
    """

    tag: str | None = None
    modified: str | None = None
    size: int | None = None
    strong: bool = False
    source: str | None = field(default=None, compare=False, repr=False)

    def of(self, source: str) -> Version:
        """Return this version as *source* names it."""
        return Version(self.tag, self.modified, self.size, self.strong, source)

    def contradicts(self, other: Version) -> bool:
        """Tell whether *other* differs in anything that both of them know."""
        pairs = ((self.tag, other.tag), (self.modified, other.modified), (self.size, other.size))
        return any(None not in pair and pair[0] != pair[1] for pair in pairs)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What proves who asks, bound to one origin, and to what is below a path of it: sent there and nowhere else.

    `form` are secret form fields: who sends them, posts (``application/x-www-form-urlencoded``).
    """

    origin: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    parameters: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    user: User | None = field(default=None, repr=False)
    form: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    path: str = "/"

    def __post_init__(self) -> None:
        if any(c in text for pair in self.headers for text in pair for c in "\r\n\0"):
            raise ValueError("a credential holds a line break or NUL")

    def are_for(self, url: str) -> bool:
        """Tell whether *url* may see them."""
        return self.origin == origin(url) if self.path == "/" else covers(f"{self.origin}{self.path}", url)

    def hide(self, text: str, *, names: bool = True) -> str:
        """Return *text* (a server's, which may repeat what it was sent) with every secret of these replaced by ***.

        Without *names* that of the user stays: in a challenge it may be that of a scope ("repository:elmer/app:pull").
        """
        secrets = [value for _, value in (*self.headers, *self.parameters, *self.form)]
        for name, value in (*self.headers, *self.parameters, *self.form):
            # Behind the scheme stands a token, or parameters that a challenge has, too (realm="…", of Digest).
            secrets += _told(value.partition(" ")[2]) if name.lower().endswith("authorization") else value.split()
        if self.user is not None:
            pair = f"{self.user.name}:{self.user.password}".encode(errors="surrogateescape")
            basic = b2a_base64(pair, newline=False).decode()  # as it is sent (RFC 7617)
            secrets += (self.user.password, basic, *((self.user.name,) if names else ()))
        secrets += [encoded for secret in secrets for encoded in (quote(secret, safe=""), quote_plus(secret))]
        for secret in sorted(set(secrets), key=len, reverse=True):
            if len(secret) > 3:  # shorter ones stand in every sentence
                text = text.replace(secret, "***")
        return text


def _told(credentials: str) -> list[str]:
    """Return *credentials* of an Authorization, and what they say where they are those of Basic (RFC 7617)."""
    try:
        plain = a2b_base64(credentials, strict_mode=True)
    except ValueError:
        return [credentials]
    pairs = {plain.decode("utf-8", "replace"), plain.decode("latin-1")}  # section 2.1: the one, or the other
    return [credentials, *pairs, *(pair.partition(":")[2] for pair in pairs)]


@dataclass(frozen=True, slots=True)
class Request:
    """What a driver is asked for.

    `headers` may be seen by any origin; what is secret stands in `credentials`. `offset` and `length` are in bytes;
    `version` guards a continuation (If-Range: a changed file is `RangeRefused`), `unless` asks for nothing if the
    file still has that version (If-None-Match). `home` is the origin of the download: what a user told a driver by
    itself, such as a client with credentials of its own, is for that origin. `schemes` are those that a redirect may
    lead to, `redirects` the URLs that led here.
    """

    url: str
    verb: Verb = "get"
    headers: tuple[tuple[str, str], ...] = ()
    credentials: Credentials | None = None
    offset: int = 0
    length: int | None = None
    version: Version | None = None
    unless: Version | None = None
    home: str | None = field(default=None, repr=False)
    schemes: frozenset[str] = field(default=frozenset(DEFAULTS.schemes or ()), repr=False)
    redirects: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.url, str):
            raise TypeError(f"the URL of a Request is a str, not {type(self.url).__name__}")
        if self.offset < 0 or (self.length is not None and self.length < 0):
            raise ValueError("offset and length of a Request are numbers of bytes, from 0")

    @property
    def origin(self) -> str:
        """Scheme, host and port that the request goes to."""
        return origin(self.url)

    @property
    def at_home(self) -> bool:
        """Whether the request goes to the download's own origin, and was nowhere else before."""
        home = self.home or self.origin
        return all(origin(url) == home for url in (*self.redirects, self.url))

    @property
    def entitled(self) -> Credentials | None:
        """The credentials, if the request goes to where they are bound to."""
        credentials = self.credentials
        return credentials if credentials is not None and credentials.are_for(self.url) else None

    @property
    def user(self) -> User | None:
        """Who asks, as the origin is told. Connections of one user are not for another."""
        credentials = self.entitled
        return None if credentials is None else credentials.user

    def authorized(
        self,
        headers: Iterable[tuple[str, str]] = (),
        parameters: Iterable[tuple[str, str]] = (),
        user: User | None = None,
        form: Iterable[tuple[str, str]] = (),
        within: str | None = None,
    ) -> Request:
        """Return this request with credentials for its origin added; an equal header name is replaced.

        *within*, a URL, binds them to what is below its path too. Raises ValueError where the request is not there.
        """
        if within is not None and not covers(within, self.url):
            raise ValueError(f"{show(self.url)} is not within {show(within)}")
        headers = tuple(headers)
        names = {name.lower() for name, _ in headers}
        known = self.entitled or Credentials(self.origin)
        paths = (known.path, "/" if within is None else urlsplit(within).path or "/")
        return replace(
            self,
            credentials=Credentials(
                self.origin,
                (*(pair for pair in known.headers if pair[0].lower() not in names), *headers),
                (*known.parameters, *parameters),
                user or known.user,
                (*known.form, *form),
                max(paths, key=len),  # both are above the request, so the longer one is below the other
            ),
        )

    def target(self) -> str:
        """Return the URL as it is sent: with the secret query parameters that its origin may see."""
        credentials = self.entitled
        if credentials is None or not credentials.parameters:
            return self.url
        parts = urlsplit(self.url)
        query = "&".join(filter(None, (parts.query, urlencode(credentials.parameters))))
        return urlunsplit(parts._replace(query=query))

    def fields(self) -> tuple[tuple[str, str], ...]:
        """Return the header fields as they are sent: `headers`, and the secret ones that the origin may see."""
        credentials = self.entitled
        if credentials is None:
            return self.headers
        names = {name.lower() for name, _ in credentials.headers}
        return (*(pair for pair in self.headers if pair[0].lower() not in names), *credentials.headers)

    def redirected(self, location: str) -> Request:
        """Return the request that a redirect to *location* leads to (RFC 9110, section 10.2.2).

        Credentials stay bound to where they are for: elsewhere they are dropped, for good. Raises `RedirectError` for a
        location that cannot be read, after 10 redirects, and where a form would have to be sent again; `PolicyError`
        for a downgrade or a scheme that is not allowed.
        """
        chain = (*self.redirects, self.url)
        if self.entitled is not None and self.entitled.form:
            raise RedirectError(f"{show(self.url)} redirects what is posted to it, which goes nowhere else")
        if len(chain) > _MAX_REDIRECTS:
            raise RedirectError(f"more than {_MAX_REDIRECTS} redirects: {' → '.join(map(show, chain))}")
        if not location.strip():
            raise RedirectError(f"{show(self.url)} redirects without saying where to")
        try:
            url = resolve(self.url, location.strip())
        except ValueError as reason:
            raise RedirectError(f"{show(self.url)} redirects to what is no URL: {reason}") from None
        url, user = split_userinfo(url.partition("#")[0])
        check_aim(self.url, url, self.schemes)
        aimed = replace(self, url=url, redirects=chain)
        if aimed.entitled is None:
            aimed = replace(aimed, credentials=None)
        return aimed if user is None else aimed.authorized(user=User(*user))

    def __repr__(self) -> str:
        return _shown(self)


def _shown(value: Request | Info) -> str:
    """Return the repr of *value*: what differs from the default, URLs as they may be shown."""
    shown = [repr(show(value.url))]
    for each in fields(value):
        content = getattr(value, each.name)
        if each.repr and each.name != "url" and content != each.default:
            content = tuple(map(show, content)) if each.name == "sources" else content
            shown.append(f"{each.name}={content!r}")
    return f"{type(value).__name__}({', '.join(shown)})"


def check_aim(before: str, after: str, schemes: Iterable[str]) -> None:
    """Raise PolicyError if nothing remote may lead from the URL *before* to *after*: a downgrade, or a scheme
    that is neither the same nor among *schemes*.
    """  # noqa: D205
    if is_downgrade(before, after):
        raise PolicyError(f"refused to go from {scheme_of(before)} to {show(after)}: it gives up encryption")
    if scheme_of(after) not in {scheme_of(before), *schemes}:
        raise PolicyError(f"refused to go to {show(after)}: the scheme {scheme_of(after)!r} is not allowed")


class Redirected(Exception):
    """Raised by a driver instead of opening: the answer is to be had at `request`, made by `Request.redirected`.

    `headers` are those of the redirect. The engine dispatches the request again, so that each hop has the slot, the
    settings and the driver of its own origin.
    """

    def __init__(self, request: Request, headers: Headers | None = None) -> None:
        super().__init__(show(request.url))
        self.request = request
        self.headers = headers or Headers()


@dataclass(frozen=True, slots=True)
class Info:
    """What a driver knows before the first byte.

    `url` is where the answer came from, after redirects. `size` is that of the whole file in bytes, whatever range
    was asked for. `start` is the offset of the first byte of the body. `resumable`: a later request may continue
    from an offset. `not_modified`: the file still has the version of `Request.unless`, there is no body. `sources`:
    the URLs that contribute; who names them minds their pace, and may be asked again, within the attempt, for an answer
    of one source alone. `proof` says what will prove the body complete ("length",
    "final chunk", "SIZE", …), or is "unproven". `trail` has the URL and the header fields of each redirect on the way.
    """

    url: str
    headers: Headers = Headers()  # noqa: RUF009 - immutable
    size: int | None = None
    version: Version | None = None
    start: int = 0
    resumable: bool = False
    not_modified: bool = False
    sources: tuple[str, ...] = ()
    proof: str = "unproven"
    trail: tuple[tuple[str, Headers], ...] = field(default=(), repr=False)

    def headers_of_whole(self) -> Headers:
        """Return the headers as they would be for the whole file, where the answer is only a part of it."""
        length, headers = None if self.size is None else str(self.size), self.headers
        is_part = self.start or "content-range" in headers
        if not is_part and (length is None or "content-length" not in headers or headers["content-length"] == length):
            return headers
        fields = self.headers.without({"content-range", "content-length"})
        return fields if length is None else Headers((*fields.items(), ("Content-Length", length)))

    def __repr__(self) -> str:
        return _shown(self)


@dataclass(frozen=True, slots=True)
class Payload:
    """What a driver opened: `info`, and `body`, the only way that bytes come out.

    The body is an async iterator of blocks; each block is valid until the next is asked for. The engine closes the
    body (``aclose``, where it has one) before the answer is left.
    """

    info: Info
    body: AsyncIterator[Block]

    def transformed(self, body: AsyncIterator[Block]) -> Payload:
        """Return a payload of other bytes (decoded, say): what was true of the original ones alone is dropped.

        Such bytes are never kept for a resume, and whoever transforms must see to it that they are complete.
        """
        info = replace(
            self.info,
            headers=self.info.headers.without(_DESCRIBES_CONTENT),
            size=None,
            version=None,
            resumable=False,
            proof="unproven" if self.info.proof == "unproven" else "transformed",
        )
        return Payload(info, body)


@dataclass(frozen=True, slots=True)
class Retry:
    """The decision of an `error` hook: another attempt.

    ``Retry()``: another way, now (the next mirror, a new token). ``Retry(after=seconds)``: again, later, in a new
    round.
    """

    after: float | None = None

    def __post_init__(self) -> None:
        if self.after is not None and not 0 <= self.after < float("inf"):
            raise ValueError(f"Retry(after=…) is a number of seconds, from 0; not {self.after!r}")


@dataclass(frozen=True, slots=True, repr=False)
class Attempt:
    """A failed attempt: the source, its round (from 1), the bytes kept, the error, and the plugin that repaired it.

    `repaired_by` is the name of the plugin whose Retry was followed, or None where it was the end.
    """

    source: str
    round: int
    kept: int
    error: DownloadError
    repaired_by: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Attempt, (show(self.source), self.round, self.kept, self.error, self.repaired_by)

    def __repr__(self) -> str:
        return f"Attempt({show(self.source)!r}, round={self.round}, kept={self.kept}, error={self.error!r})"


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """What a download delivered.

    `url` is that of the download and `source` the one that delivered, after redirects, both without userinfo;
    `size` is in bytes; `digests` maps names of algorithms to hexadecimal digits; `attempts` counts all of them, the
    failed ones are in `history`; `proof` is what proved the bytes complete (a length, a final chunk, FTP's SIZE,
    a digest), or "unproven". `version` is what to give as `Download(unless=…)` next time, or None. `not_modified`: the
    file still has that version; no byte came, so `size` is 0, nothing was judged, and nothing was written. `part`: no
    more than these bytes of the file were asked for, and came; no validation has judged them. None: all of it.
    """

    url: str
    source: str
    path: PathLike[str] | None
    size: int
    digests: Mapping[str, str]
    headers: Headers
    attempts: int
    attachment: Any = None
    not_modified: bool = False
    proof: str = "unproven"
    version: Version | None = None
    history: tuple[Attempt, ...] = ()
    part: range | None = None

    @property
    def artifact_attributes(self) -> dict[str, Any]:
        """The size, and each digest by its name: ``Artifact(**result.artifact_attributes)``.

        Names are those of `hashlib`, with "_" for "-", so all can be keywords: "SHA3-256" is ``sha3_256``. Raises
        ValueError where the file was not modified, or only a part of it came: that is not what could be described.
        """
        if self.part is not None:
            raise ValueError(f"only a part of {show(self.url)} was received: it has the attributes of no file")
        if self.not_modified:
            raise ValueError(f"{show(self.url)} was not modified, nothing was received: keep the attributes you have")
        return {"size": self.size, **{name.replace("-", "_"): digits for name, digits in self.digests.items()}}

    def __reduce__(self) -> tuple[Any, ...]:
        values = [getattr(self, name) for name in self.__slots__]
        return Result, (show(self.url), show(self.source), *values[2:])

    def __repr__(self) -> str:
        return (
            f"Result({show(self.url)!r}, source={show(self.source)!r}, path={self.path!r}, size={self.size},"
            f" digests={dict(self.digests)!r}, attempts={self.attempts}, proof={self.proof!r})"
        )
