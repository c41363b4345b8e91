from __future__ import annotations

import base64
from dataclasses import replace
from importlib.metadata import version

import pytest
from tests.servers.http import http_server

from downhaul import FetchError, ProtocolError, RedirectError, Request, User


@pytest.fixture
def server():
    """A server that answers everything with an empty file."""

    async def script(exchange):
        await exchange.respond()

    with http_server(script) as server:
        yield server


async def test_what_is_sent_by_default(server, fetch):
    """A plain request has five lines, and no more."""
    await fetch(Request(server.url("/file")))
    sent = server.requests[0]
    assert (sent.method, sent.target) == ("GET", "/file")
    assert sent.headers == [
        ("Host", f"127.0.0.1:{server.port}"),
        ("User-Agent", f"downhaul/{version('downhaul')}"),
        ("Accept", "*/*"),
        ("Accept-Encoding", "identity"),
    ]


async def test_given_headers_replace_defaults(server, fetch):
    """A header that is given stands alone, whatever the case of its name; identity has the last word."""
    given = (("user-agent", "mine"), ("ACCEPT", "text/plain"), ("Accept-encoding", "gzip"), ("host", "elsewhere"))
    await fetch(Request(server.url(), headers=(*given, ("X-Twice", "1"), ("X-Twice", "2"))))
    sent = server.requests[0]
    assert [sent.header(name) for name in ("User-Agent", "Accept", "Accept-Encoding", "Host", "X-Twice")] == [
        "mine", "text/plain", "identity", "elsewhere", "1, 2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("", "/"),
        ("/a%2Fb%20c+d", "/a%2Fb%20c+d"),
        ("/a%2fb", "/a%2fb"),
        ("/[x]{y}", "/[x]%7By%7D"),
        ("/a b", "/a%20b"),
        ("/ü", "/%C3%BC"),
        ("/100%", "/100%"),
        ("//double//", "//double//"),
        ("/a;b=1,2:3@4!$&'()*~", "/a;b=1,2:3@4!$&'()*~"),
        ("/f?X-Signature=ab%2Bc%3D%3D&Expires=1&x=%5B%5D+y", "/f?X-Signature=ab%2Bc%3D%3D&Expires=1&x=%5B%5D+y"),
        ("/f?a=[1]&b={2}&c=ü d|e^f`g", "/f?a=[1]&b={2}&c=%C3%BC%20d|e^f`g"),
        ("/f?u=https://host/?q=1", "/f?u=https://host/?q=1"),
        ("/f?", "/f?"),
        ("/f#fragment", "/f"),
    ],
)
async def test_urls_are_sent_as_they_are(path, target, server, fetch):
    """What is encoded stays as it is, byte for byte; what cannot be sent is encoded, once."""
    await fetch(Request(server.url(path)))
    assert server.requests[0].target == target
    await fetch(Request(server.url(target)))
    assert server.requests[1].target == target


async def test_user(server, fetch):
    """A user is sent unasked, as Basic in UTF-8, to the origin that it belongs to."""
    request = Request(server.url()).authorized(user=User("Zoë", "pass:wörd"))
    await fetch(request)
    coded = base64.b64encode("Zoë:pass:wörd".encode()).decode()
    assert server.requests[0].header("Authorization") == f"Basic {coded}"


async def test_a_given_authorization_goes_before_the_user(server, fetch):
    """An Authorization among the header fields is sent in place of the user."""
    request = Request(server.url()).authorized([("authorization", "Bearer x")], user=User("u", "p"))
    await fetch(request)
    assert server.requests[0].header("Authorization") == "Bearer x"


async def test_credentials_of_another_origin_stay(server, fetch):
    """Credentials that are bound to another origin are not sent."""
    other = Request("https://other/").authorized([("X-Key", "x")], [("sig", "x")], User("u", "p"))
    await fetch(Request(server.url("/f"), credentials=other.credentials))
    assert server.requests[0].target == "/f"
    assert server.requests[0].header("Authorization") is None
    assert server.requests[0].header("X-Key") is None


async def test_secret_parameters(server, fetch):
    """Secret query parameters are sent, and are not part of the URL that is shown."""
    request = Request(server.url("/f?a=1")).authorized(parameters=[("sig", "a+b/c=")])
    info, _ = await fetch(request)
    assert server.requests[0].target == "/f?a=1&sig=a%2Bb%2Fc%3D"
    assert "sig" not in info.url


async def test_values_in_utf8(server, fetch):
    """Header values that are not ASCII are sent in UTF-8."""
    await fetch(Request(server.url(), headers=(("X-Name", "Zoë"),)))
    assert server.requests[0].header("X-Name").encode("latin-1").decode() == "Zoë"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Key", "canary\r\nX: y"),
        ("X-Key", "canary\nX: y"),
        ("X-Key", "canary\0"),
        ("X-Key", "canary\x0b"),
        ("X-Key", " canary"),
        ("X-Key", "canary\t"),
        ("X-Key", "canary\ud800"),
        ("X Key", "canary"),
        ("X-Key:", "canary"),
        ("", "canary"),
        ("Ü", "canary"),
        ("Range", "canary"),
        ("if-range", "canary"),
        ("Content-Length", "5"),
        ("Transfer-Encoding", "chunked"),
    ],
)
async def test_headers_that_cannot_be_sent(name, value, server, fetch):
    """A header field that would break the request is refused before anything is sent, without its value."""
    with pytest.raises(ProtocolError) as caught:
        await fetch(Request(server.url(), headers=((name, value),)))
    assert "canary" not in str(caught.value)
    assert server.requests == []


async def test_a_colon_in_a_user_name(server, fetch):
    """Basic authentication cannot tell a name with a colon from a password, so it is not sent."""
    with pytest.raises(ProtocolError) as caught:
        await fetch(Request(server.url()).authorized(user=User("can:ary", "canary")))
    assert "can" not in str(caught.value).replace("cannot", "")
    assert server.requests == []


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:99999/", "http://1.2.3.999/", "http://[::1::2]/", "http://xn--\udfff/", "http://host/\x01"],
)
async def test_urls_that_cannot_be_asked_for(url, fetch):
    """A URL that httpx refuses is an error of the tree."""
    with pytest.raises(FetchError):
        await fetch(Request(url))


async def test_no_cookie_is_kept(fetch, driver, settings):
    """A cookie that a server sets is never sent back."""

    async def script(exchange):
        await exchange.respond(headers=[("Set-Cookie", "session=1; Path=/")])

    with http_server(script) as server:
        for _ in range(3):
            await fetch(Request(server.url()))
        assert [each.header("Cookie") for each in server.requests] == [None] * 3


async def test_a_form_is_posted(fetch):
    """Secret form fields make a POST, urlencoded, to where they are for; elsewhere it stays a GET without them."""
    posted = []

    async def script(exchange):
        length = int(exchange.header("Content-Length") or 0)
        posted.append((exchange.method, exchange.header("Content-Type"), await exchange.reader.readexactly(length)))
        await exchange.respond(body=b"token")

    with http_server(script) as server, http_server(script) as other:
        request = Request(server.url("/token")).authorized(form=[("grant_type", "x"), ("secret", "a&b=ü")])
        assert (await fetch(request))[1] == b"token"
        await fetch(replace(request, url=other.url("/token")))
    form = "application/x-www-form-urlencoded"
    assert posted == [("POST", form, b"grant_type=x&secret=a%26b%3D%C3%BC"), ("GET", None, b"")]


async def test_a_redirected_form_is_not_sent_again(fetch):
    """Whatever the status says of the method: the answer is a RedirectError, and nobody else gets the fields."""

    async def script(exchange):
        await exchange.reader.readexactly(int(exchange.header("Content-Length")))
        await exchange.respond(307, headers=[("Location", "/elsewhere")])

    with http_server(script) as server:
        with pytest.raises(RedirectError, match="posted"):
            await fetch(Request(server.url("/token")).authorized(form=[("secret", "canary")]))
        assert [each.target for each in server.requests] == ["/token"]
