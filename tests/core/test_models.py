"""The values that pass between the engine, plugins and drivers."""

from __future__ import annotations

import hashlib
import json
import pickle
import string
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downhaul import (
    Attempt,
    Credentials,
    Headers,
    Info,
    NotFound,
    Payload,
    PolicyError,
    Redirected,
    RedirectError,
    Request,
    Result,
    Retry,
    User,
    Version,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "S3cr3tW0rd"
names = st.text(string.ascii_letters + "-", min_size=1, max_size=6)
pairs = st.lists(st.tuples(names, st.text(string.printable, max_size=5)), max_size=8)


async def nothing() -> AsyncIterator[bytes]:
    """Yield no block."""
    return
    yield b""


def test_headers_ignore_case() -> None:
    """The names of header fields ignore case (RFC 9110, section 5.1)."""
    headers = Headers([("Content-Type", "text/plain")])
    assert headers["content-type"] == headers["CONTENT-TYPE"] == "text/plain"
    assert "content-TYPE" in headers
    assert headers.get("Content-Length") is None
    with pytest.raises(KeyError):
        headers["Content-Length"]


def test_headers_join_what_is_repeated() -> None:
    """Several fields of one name are one list, joined by a comma in their order (RFC 9110, section 5.3)."""
    headers = Headers([("Link", "a"), ("Other", "x"), ("LINK", "b"), ("link", "c")])
    assert dict(headers) == {"Link": "a, b, c", "Other": "x"}
    assert len(headers) == 2


def test_headers_are_values() -> None:
    """Headers are equal where names, whatever their case, and values are; they are hashable and travel."""
    one, other = Headers([("A", "1"), ("B", "2")]), Headers([("b", "2"), ("a", "1")])
    assert one == other
    assert hash(one) == hash(other)
    assert one != Headers([("A", "1")])
    assert one != {"A": "1", "B": "2"}
    assert pickle.loads(pickle.dumps(one)) == one


def test_headers_without() -> None:
    """Fields can be left out by name, in any case."""
    assert dict(Headers([("A", "1"), ("B", "2"), ("C", "3")]).without(["a", "C", "d"])) == {"B": "2"}


def test_headers_show_no_values() -> None:
    """The repr of headers has their names only: a cookie is a secret too."""
    assert repr(Headers([("Set-Cookie", SECRET), ("ETag", "x")])) == "Headers(Set-Cookie, ETag)"


@given(pairs)
def test_headers_are_a_mapping(fields: list[tuple[str, str]]) -> None:
    """Whatever comes: each name is there once, finds its values in order, and length and iteration agree."""
    headers = Headers(fields)
    assert len(headers) == len(list(headers)) == len({name.lower() for name, _ in fields})
    for name, _ in fields:
        values = [value for each, value in fields if each.lower() == name.lower()]
        assert headers[name.upper()] == ", ".join(values)
    assert Headers(headers.items()) == headers


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Version(), Version(), False),
        (Version('"a"'), Version('"a"'), False),
        (Version('"a"'), Version('"b"'), True),
        (Version('"a"'), Version('W/"a"'), True),
        (Version('"a"'), Version(modified="then"), False),
        (Version('"a"', "then"), Version('"a"', "now"), True),
        (Version(size=1), Version(size=2), True),
        (Version(size=0), Version(size=1), True),
        (Version('"a"', size=1), Version('"a"'), False),
        (Version('"a"', strong=True), Version('"a"', strong=False), False),
    ],
)
def test_contradicts(one: Version, other: Version, expected: bool) -> None:
    """Versions contradict each other where both know something and it differs; what one does not know is no proof."""
    assert one.contradicts(other) is expected
    assert other.contradicts(one) is expected


def test_transformed_drops_what_would_lie() -> None:
    """Of other bytes neither size, version and proof are true, nor may they be resumed, nor the headers that say so."""
    lying = {
        "Accept-Ranges": "bytes", "Content-Digest": "sha-256=:x:", "Content-Encoding": "gzip", "Content-Length": "10",
        "Content-MD5": "x", "Content-Range": "bytes 0-9/10", "Digest": "x", "ETag": '"x"', "Last-Modified": "then",
        "Repr-Digest": "x", "Transfer-Encoding": "gzip, chunked",
    }  # fmt: skip
    true = {"Content-Type": "text/plain", "Content-Disposition": "attachment", "Server": "x"}
    info = Info(
        "https://host/", Headers({**lying, **true}.items()), size=10, version=Version('"x"', strong=True),
        resumable=True, sources=("https://host/",), proof="length",
    )  # fmt: skip
    body = nothing()
    payload = Payload(info, nothing()).transformed(body)
    assert payload.body is body
    assert payload.info == Info("https://host/", Headers(true.items()), sources=("https://host/",), proof="transformed")


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (0, -1)])
def test_no_negative_ranges(offset: int, length: int | None) -> None:
    """A request for less than nothing is refused."""
    with pytest.raises(ValueError, match="are numbers of bytes, from 0"):
        Request("https://host/", offset=offset, length=length)


@pytest.mark.parametrize("value", [Request("https://host/"), Version(), Info("https://host/"), Retry(), Result])
def test_values_are_frozen(value: object) -> None:
    """What passes between plugins cannot be changed behind anybody's back."""
    if value is Result:
        value = Result("https://host/", "https://host/", None, 0, {}, Headers(), 1)
    with pytest.raises((FrozenInstanceError, TypeError, AttributeError)):
        value.url = "https://other/"  # type: ignore[attr-defined]


def test_credentials_are_sent_to_their_origin_only() -> None:
    """Secret headers and parameters are in what is sent to their origin, and in nothing sent elsewhere."""
    request = Request("https://host/a?b=c", headers=(("Accept", "x"),)).authorized(
        [("Authorization", SECRET)], [("key", SECRET)], User("elmer", SECRET)
    )
    assert request.fields() == (("Accept", "x"), ("Authorization", SECRET))
    assert request.target() == f"https://host/a?b=c&key={SECRET}"
    assert request.url == "https://host/a?b=c"
    for url in ("https://other/a", "http://host/a", "https://host:444/a"):
        moved = replace(request, url=url)
        assert (moved.entitled, moved.fields(), moved.target()) == (None, (("Accept", "x"),), url)


def test_authorized_adds_and_replaces() -> None:
    """Credentials add up; of one header name the last counts, in any case; another origin starts anew."""
    request = Request("https://host/").authorized([("X-Key", "1"), ("Authorization", "old")], user=User("elmer"))
    request = request.authorized([("AUTHORIZATION", "new")], [("a", "1 2")]).authorized(parameters=[("b", "&")])
    assert request.fields() == (("X-Key", "1"), ("AUTHORIZATION", "new"))
    assert request.target() == "https://host/?a=1+2&b=%26"
    assert request.credentials is not None
    assert request.credentials.user == User("elmer")
    moved = replace(request, url="https://mirror/").authorized([("Authorization", "mirror's")])
    assert moved.fields() == (("Authorization", "mirror's"),)


def test_a_credential_replaces_a_header() -> None:
    """A secret header takes the place of a plain one of its name."""
    request = Request("https://host/", headers=(("accept", "a"),)).authorized([("Accept", "b")])
    assert request.fields() == (("Accept", "b"),)


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\n", "a\0"])
def test_no_line_breaks_in_credentials(value: str) -> None:
    """A plugin cannot inject header fields by mistake."""
    with pytest.raises(ValueError, match="a credential holds a line break or NUL"):
        Request("https://host/").authorized([("Authorization", value)])


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("https://other/b", "https://other/b"),
        ("/b", "https://host/b"),
        ("b?c=d", "https://host/dir/b?c=d"),
        ("?c", "https://host/dir/a?c"),
        ("//other/b", "https://other/b"),
        (" /b ", "https://host/b"),
        ("/b#part", "https://host/b"),
        ("../../../b", "https://host/b"),
        ("https://other:8443/b", "https://other:8443/b"),
    ],
)
def test_redirected(location: str, url: str) -> None:
    """A Location is read relative to the URL that sent it, blanks and fragment left out (RFC 9110, section 10.2.2)."""
    request = Request("https://host/dir/a", offset=7, length=3, version=Version('"a"'), headers=(("Accept", "x"),))
    other = request.redirected(location)
    assert other == replace(request, url=url, redirects=("https://host/dir/a",))


def test_redirected_drops_credentials() -> None:
    """A redirect within the origin keeps credentials, any other loses them, there and back."""
    request = Request("https://host/a").authorized([("Authorization", SECRET)])
    assert request.redirected("/b").fields() == (("Authorization", SECRET),)
    for location in ("https://other/b", "https://host:444/b", "https://sub.host/b"):
        other = request.redirected(location)
        assert (other.fields(), other.credentials) == ((), None)
        assert other.redirected("https://host/a").fields() == ()


def test_redirected_to_userinfo() -> None:
    """Userinfo in a Location becomes a credential for that origin, and is not in the URL."""
    request = Request("https://host/a").authorized([("Authorization", SECRET)]).redirected("https://elmer:word@other/b")
    assert request.url == "https://other/b"
    assert request.credentials == Credentials("https://other", user=User("elmer", "word"))


@pytest.mark.parametrize("location", ["", "  ", "https://[", "https://host:x/", "https://host/\r\nX:y", "http:"])
def test_redirected_to_nowhere(location: str) -> None:
    """A Location that cannot be read is a RedirectError."""
    with pytest.raises(RedirectError):
        Request("https://host/a").redirected(location)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://host/a", "it gives up encryption"),
        ("ftp://host/a", "it gives up encryption"),
        ("file:///etc/passwd", "gives up encryption"),
        ("data:,x", "gives up encryption"),
    ],
)
def test_no_downgrade(location: str, message: str) -> None:
    """Https never becomes http."""
    with pytest.raises(PolicyError, match=message):
        Request("https://host/a").redirected(location)


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "data:,x", "s3://bucket/x", "FILE:/etc/passwd", "gopher://h/"]
)
def test_no_forbidden_schemes(location: str) -> None:
    """Nothing remote may name `file:` or a scheme that was not allowed; the download's own always is."""
    with pytest.raises(PolicyError, match="is not allowed"):
        Request("http://host/a").redirected(location)
    assert Request("http://host/a", schemes=frozenset({"gopher"})).redirected("gopher://h/").url == "gopher://h/"
    assert Request("mem://host/a").redirected("/b").url == "mem://host/b"


def test_redirects_end() -> None:
    """Ten redirects are followed, the eleventh is not; the error tells the way without its secrets."""
    request = Request("https://host/0")
    for number in range(1, 11):
        request = request.redirected(f"/{number}?token={SECRET}")
    assert len(request.redirects) == 10
    with pytest.raises(RedirectError, match="more than 10 redirects: https://host/0 → https://host/1") as raised:
        request.redirected("/11")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), -0.1])
def test_retry_is_checked(after: float) -> None:
    """A Retry waits for a number of seconds, from 0."""
    with pytest.raises(ValueError, match=r"Retry\(after=…\) is a number of seconds, from 0"):
        Retry(after=after)


def test_artifact_attributes() -> None:
    """`artifact_attributes` are the size and each digest by its name: ``Artifact(**result.artifact_attributes)``."""
    result = Result("https://host/", "https://host/", None, 7, {"sha256": "ab", "md5": "cd"}, Headers(), 1)
    assert result.artifact_attributes == {"size": 7, "sha256": "ab", "md5": "cd"}


def test_artifact_attributes_are_keywords() -> None:
    """Whatever `hashlib` calls an algorithm, its name in `artifact_attributes` is an identifier."""
    digests = dict.fromkeys({*hashlib.algorithms_available, "md5-sha1", "sha512_256"}, "ab")
    attributes = Result("https://host/", "https://host/", None, 7, digests, Headers(), 1).artifact_attributes
    assert all(name.isidentifier() for name in attributes)
    assert {"md5_sha1", "sha3_256", "sha512_256", "blake2b"} <= attributes.keys()


def test_no_artifact_attributes_of_what_was_not_modified() -> None:
    """A file that was not received has no size and no digests to hand on, least of all a size of 0."""
    result = Result("https://host/?key=x", "https://host/", None, 0, {}, Headers(), 1, not_modified=True)
    with pytest.raises(ValueError, match=r"was not modified.*keep the attributes you have") as raised:
        result.artifact_attributes  # noqa: B018
    assert "key=x" not in str(raised.value)


def test_versions_are_plain_data() -> None:
    """A version goes through JSON and comes back with its source, which does not count when two are compared."""
    version = Version('"a"', "Sun, 06 Nov 1994 08:49:37 GMT", 7, strong=True, source="https://host/")
    back = Version(**json.loads(json.dumps(asdict(version))))
    assert back == version
    assert back.source == "https://host/"
    assert replace(version, source=None) == version


def test_nothing_secret_is_shown() -> None:
    """No repr and no pickle shows credentials or values of a query."""
    url = f"https://host/a?token={SECRET}"
    request = Request(url).authorized([("Authorization", SECRET)], [("key", SECRET)], User("elmer", SECRET))
    attempt = Attempt(url, 1, 0, NotFound(f"{url} is gone", 404))
    result = Result(url, url, Path("x"), 0, {}, Headers([("Set-Cookie", SECRET)]), 2, history=(attempt,))
    shown = [
        repr(request.credentials), repr(attempt), repr(result), str(Redirected(request)), repr(Redirected(request)),
        str(pickle.dumps(attempt)), str(pickle.dumps(replace(result, headers=Headers()))), repr(User("elmer", SECRET)),
    ]  # fmt: skip
    for text in shown:
        assert SECRET not in text


def test_request_and_info_show_nothing_secret() -> None:
    """The repr of a request or an info shows its URLs without values of the query."""
    url = f"https://host/a?token={SECRET}"
    request = Request(url).authorized([("Authorization", SECRET)]).redirected("/b")
    for text in (repr(request), repr(Info(url)), repr(Payload(Info(url, sources=(url,)), nothing()))):
        assert SECRET not in text


def test_results_travel() -> None:
    """A result comes out of a pickle as it went in."""
    attempt = Attempt("https://mirror/a", 1, 5, NotFound("gone", 404), "MirrorList")
    result = Result(
        "https://host/a", "https://host/a", Path("a"), 7, {"sha256": "ab"}, Headers([("ETag", "x")]), 2, {"id": 7},
        version=Version('"a"'), proof="length", history=(attempt,),
    )  # fmt: skip
    back = pickle.loads(pickle.dumps(result))
    assert replace(back, history=()) == replace(result, history=())
    assert back.history[0].repaired_by == "MirrorList"
