"""What a URL is, whose it is, and how it may be shown."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ftp": 21, "ftps": 990}
_SECURE: Final = frozenset({"https", "ftps"})
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_URL_IN_TEXT: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{0,2}(?:[^\s\"'<>]|'(?![.,;:)\]}]*(?:[\s\"<>]|$)))+")
_AUTHORITY: Final = re.compile(r"([^/?#@]*?//+|[A-Za-z][A-Za-z0-9+.-]*:/?|)([^/?#]*)(.*)", re.DOTALL)
_HOST_AND_PORT: Final = re.compile(r"[^:]*(:\d*)?|\[[^]]*\](:\d*)?")
_BETWEEN_SEGMENTS: Final = re.compile(r"[/\\;\0]")
_OVERLONG: Final = ("%c0%ae", "%e0%80%ae", "%c0%af", "%e0%80%af")
_SIGNS: Final = (
    r"(?i)x-(?:amz|goog)-.*|(?:google)?accessid|awsaccesskeyid|signature|sig|expires?|exp|policy|key-pair-id|token|hdnts?"
    r"|se|sp|sr|st|sv|ske|sks|skt|skv|skoid|sktid|verify|auth(?:_key)?"
)
"""Names of query parameters that sign a URL, or say how long it is good: S3, GCS, CloudFront, Azure, and others.

Few need it: to compile it takes longer than all else here.
"""
_AUTHORITY_ALONE: Final = r"[a-z][a-z0-9+.-]*://[a-z0-9][a-z0-9.-]*(?::(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}))?"
_PREFIX: Final = re.compile(rf"{_AUTHORITY_ALONE}(?=[/?#]|\Z)")
_ORDINARY: Final = re.compile(rf"{_AUTHORITY_ALONE}(?:[/?#][!-~]*)?")
"""Nearly all URLs: nothing in them to be refused, to be hidden, to be decoded. One look is enough."""

_SHOWN: Final = 500
_IN_SEGMENTS: Final = "/!$&'()*+,;=:@~"
"""What stands for itself in a path (RFC 3986, section 3.3), besides letters, digits, and what quote leaves alone."""


def check_url(url: str) -> str:
    """Return *url* unchanged, or raise ValueError (TypeError) that says what is wrong with it.

    Control characters would be injected into request lines and FTP commands; they are refused here, before any
    I/O, and again by each driver after decoding (RFC 3986, section 2; RFC 959, section 5.3).
    """
    if not isinstance(url, str):
        raise TypeError(f"a URL is a str, not {type(url).__name__}")
    if _ORDINARY.fullmatch(url) is not None:
        return url
    if _CONTROL.search(url) or url != url.strip():
        raise ValueError(f"malformed URL: control characters or blanks around it: {show(url)}")
    if not _SCHEME.match(url):
        raise ValueError(f"malformed URL: no scheme, such as https://, in {show(url)!r}")
    try:
        url.encode()
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, 0, None
    if parts is None or "\\" in parts.netloc or port == 0:
        raise ValueError(f"malformed URL: host or port cannot be read in {show(url)!r}")
    if not host and (parts.scheme in _DEFAULT_PORTS or parts.netloc):
        raise ValueError(f"malformed URL: no host in {show(url)!r}")
    return url


def resolve(base: str, reference: str) -> str:
    """Return the URL that *reference* means where *base* was asked (RFC 3986, section 5.2); for any scheme.

    Raises ValueError for what is no URL.
    """
    if _CONTROL.search(reference):
        raise ValueError(f"malformed URL: control characters in {show(reference)!r}")
    if _SCHEME.match(reference):
        return check_url(urljoin(base, reference))
    scheme, _, rest = base.partition(":")  # urljoin leaves a reference alone where it does not know the scheme
    return check_url(f"{scheme}:{urljoin(f'http:{rest}', reference).partition(':')[2]}")


def below(prefix: str, path: str) -> str:
    """Return the URL of *path*, as a web framework has decoded it, below the directory at the URL *prefix*.

    What a path may not hold in a URL is encoded again: a "%", "?" or "#" in it is part of a name (RFC 3986, section
    2.4). Raises ValueError for a path that would lead out of the directory, or holds a control character.
    """
    path = path.lstrip("/")
    if not {".", ".."}.isdisjoint(path.split("/")) or "\\" in path or _CONTROL.search(path):
        raise ValueError(f"{printable(path)!r} does not stay below {show(prefix)}")
    return f"{prefix.rstrip('/')}/{quote(path, safe=_IN_SEGMENTS, errors='surrogateescape')}"


def scheme_of(url: str) -> str:
    """Return the scheme of *url*, in lower case."""
    return url.partition(":")[0].lower()


def origin(url: str) -> str:
    """Return ``scheme://host:port`` of *url* with the default port left out (RFC 6454, section 6.2).

    URLs without a host (``data:``) have their scheme for an origin.
    """
    match = _PREFIX.match(url)
    return _origin(url) if match is None else _known_origin(match[0])


@lru_cache(maxsize=64)
def _known_origin(prefix: str) -> str:
    return _origin(prefix)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host:
        return f"{parts.scheme}:"
    if ":" in host:
        host = f"[{host}]"
    port = parts.port
    if port is None or port == _DEFAULT_PORTS.get(parts.scheme):
        return f"{parts.scheme}://{host}"
    return f"{parts.scheme}://{host}:{port}"


def covers(scope: str, url: str) -> bool:
    """Tell whether *url* has the origin of the URL *scope*, and a path at or below that of *scope*, segment by segment.

    A path with dot segments, encoded ones too, is below none: where it leads is for the server to say.
    """
    if origin(scope) != origin(url):
        return False
    top = urlsplit(scope).path.rstrip("/")
    if not top:
        return True
    path = plain = urlsplit(url).path
    for _ in range(3):  # some servers decode more than once
        plain = unquote(plain, errors="replace")
    if not {".", ".."}.isdisjoint(_BETWEEN_SEGMENTS.split(plain)) or any(dot in path.lower() for dot in _OVERLONG):
        return False
    return path == top or path.startswith(f"{top}/")


def port_of(url: str) -> int | None:
    """Return the port that *url* names, or that of its scheme."""
    parts = urlsplit(url)
    return _DEFAULT_PORTS.get(parts.scheme) if parts.port is None else parts.port


def source_name(asked: str, answering: str) -> str:
    """Return a name for the source *asked*, which *answering* stood for; it tells no secret."""
    digest = hashlib.sha256(f"{asked} {place(answering)}".encode("utf-8", "surrogatepass"))
    return f"{show(asked)} {digest.hexdigest()[:16]}"


def place(url: str) -> str:
    """Return *url* without what signs it or dates it in its query, which may be new each time."""
    if "?" not in url and "#" not in url:
        return url
    parts = urlsplit(url)
    query = "&".join(each for each in parts.query.split("&") if not re.fullmatch(_SIGNS, each.partition("=")[0]))
    return urlunsplit(parts._replace(query=query, fragment=""))


def same_place(one: str, other: str) -> bool:
    """Tell whether two URLs name the same place, however each was signed: where a redirect leads may be new each time.

    An equal entity tag of another place is chance (RFC 9110, section 8.8.1).
    """
    return one == other or place(one) == place(other)


def split_userinfo(url: str) -> tuple[str, tuple[str, str] | None]:
    """Return *url* without its userinfo, and the name and the password that stood there, decoded."""
    if "@" not in url:
        return url, None
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    name, _, password = userinfo.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(name), unquote(password))


def is_downgrade(before: str, after: str) -> bool:
    """Tell whether going from the URL *before* to *after* gives up encryption."""
    return scheme_of(before) in _SECURE and scheme_of(after) not in _SECURE


def show(url: str) -> str:
    """Return *url* as it may be shown: no userinfo, no query values, no control characters, not endless."""
    if "@" not in url and "?" not in url and len(url) <= _SHOWN and url.isprintable():
        return url
    url = _without_userinfo(url)
    head, mark, tail = url.partition("?")
    if mark:
        query, hash_mark, fragment = tail.partition("#")
        url = f"{head}?{'&'.join(map(_hide_value, query.split('&')))}{hash_mark}{fragment}"
    if len(url) > _SHOWN:
        url = f"{url[:_SHOWN]}…"
    return printable(url)


def show_text(text: str) -> str:
    """Return *text* with every URL in it as `show` shows it, and nothing that could steer a terminal."""
    return printable(_URL_IN_TEXT.sub(lambda match: show(match[0]), text))


def printable(text: str) -> str:
    """Return *text* with every character that is not printable written as an escape."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def _without_userinfo(url: str) -> str:
    """Return *url* without what stands before an "@" in its authority, however malformed it is.

    A password with "/", "?" or "#" in it, which is malformed, shows in what cannot be a host and a port.
    """
    match = _AUTHORITY.match(url)
    assert match is not None
    start, authority, rest = match.groups()
    _, at, host = authority.rpartition("@")
    if not at and "@" in rest and not _HOST_AND_PORT.fullmatch(authority):
        return f"{start}{rest.rpartition('@')[2]}"
    return f"{start}{host}{rest}"


def _hide_value(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    return f"{name}=***" if equals else "***" if parameter else ""
