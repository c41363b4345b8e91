from __future__ import annotations

import pickle

import httpx
import pytest
import respx

from downhaul import (
    AccessDenied,
    BufferWriter,
    Context,
    NotFound,
    Plugin,
    ProtocolError,
    ProxyError,
    RangeRefused,
    Redirected,
    RedirectError,
    Request,
    ServerError,
    StatusError,
    TooManyRequests,
    Truncated,
    Version,
    hookimpl,
)

URL = "https://host/dir/file"
MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("code", "kind", "transient"),
    [
        (400, StatusError, False),
        (401, AccessDenied, False),
        (403, AccessDenied, False),
        (404, NotFound, False),
        (405, StatusError, False),
        (408, StatusError, True),
        (410, NotFound, False),
        (412, StatusError, False),
        (418, StatusError, False),
        (421, StatusError, True),
        (425, StatusError, True),
        (429, TooManyRequests, True),
        (451, StatusError, False),
        (499, StatusError, False),
        (500, ServerError, True),
        (503, ServerError, True),
        (599, ServerError, True),
        (600, StatusError, False),
        (999, StatusError, False),
    ],
)
@respx.mock
async def test_statuses(code, kind, transient, fetch):
    """Each refusal has its error, with the code, the reason and the wait that the server asks for."""
    answer = httpx.Response(code, headers={"Retry-After": "7"}, extensions={"reason_phrase": b"so \x1b there"})
    respx.get(URL).mock(return_value=answer)
    with pytest.raises(StatusError) as caught:
        await fetch(Request(URL))
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.reason, error.retry_after, error.transient) == (code, r"so \x1b there", 7.0, transient)
    assert str(error).endswith("and asks to wait 7 s")
    assert error.__cause__ is None
    assert error.__context__ is None


@respx.mock
async def test_407_is_the_proxys(fetch):
    """A 407 is an error of the proxy, and says that the proxy wants credentials."""
    respx.get(URL).mock(return_value=httpx.Response(407))
    with pytest.raises(ProxyError, match="proxy wants credentials"):
        await fetch(Request(URL))


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "target"),
    [
        (b"https://other/x", "https://other/x"),
        (b"//other/x", "https://other/x"),
        (b"/x?y=%2F", "https://host/x?y=%2F"),
        (b"x", "https://host/dir/x"),
        (b"../x#fragment", "https://host/x"),
        (b"?a=1", "https://host/dir/file?a=1"),
        ("/ü".encode(), "https://host/ü"),
        (b"/\xfc", "https://host/%FC"),
        (b"/a b", "https://host/a b"),
    ],
)
@respx.mock
async def test_redirects(code, location, target, fetch):
    """A redirect is handed back as the request that it leads to."""
    respx.get(URL).mock(return_value=httpx.Response(code, headers=[(b"Location", location)], content=b"body"))
    request = Request(URL, offset=3)
    with pytest.raises(Redirected) as caught:
        await fetch(request)
    assert caught.value.request.url == target
    assert caught.value.request.redirects == (URL,)
    assert caught.value.request.offset == 3


@pytest.mark.parametrize(
    ("code", "locations"),
    [
        (302, []),
        (302, ["", ]),
        (302, ["/a", "/b"]),
        (302, ["/a", "/a"]),
        (302, ["https://[bad/"]),
        (302, ["https://host:port/"]),
        (300, ["/a"]),
        (304, []),
        (305, ["/a"]),
        (306, ["/a"]),
        (399, ["/a"]),
    ],
)  # fmt: skip
@respx.mock
async def test_redirects_that_lead_nowhere(code, locations, fetch):
    """A redirect without exactly one usable Location, and any other 3xx, is no download."""
    headers = [("Location", location) for location in locations]
    respx.get(URL).mock(return_value=httpx.Response(code, headers=headers, content=b"<html>"))
    with pytest.raises(RedirectError):
        await fetch(Request(URL))


@respx.mock
async def test_what_a_file_is_told_by(fetch):
    """Size, version, headers, proof and url of a plain answer."""
    headers = {"ETag": '"v1"', "Last-Modified": MODIFIED, "X-Name": "b"}
    respx.get(URL).mock(return_value=httpx.Response(200, headers=headers, content=b"hello"))
    info, content = await fetch(Request(URL))
    assert content == b"hello"
    assert info.version == Version('"v1"', MODIFIED, 5, strong=True)
    assert (info.url, info.size, info.start, info.resumable, info.proof) == (URL, 5, 0, True, "length")
    assert info.headers["x-name"] == "b"


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({}, None),
        ({"ETag": '"a"'}, Version('"a"', None, 5, strong=True)),
        ({"ETag": 'W/"a"'}, Version('W/"a"', None, 5)),
        ({"ETag": 'w/"a"'}, None),
        ({"ETag": "a"}, None),
        ({"ETag": '"a'}, None),
        ({"ETag": '""'}, Version('""', None, 5, strong=True)),
        ({"Last-Modified": MODIFIED}, Version(None, MODIFIED, 5)),
        ({"Last-Modified": "yesterday"}, None),
        (
            {"Last-Modified": MODIFIED, "Date": "Sun, 06 Nov 1994 08:50:37 GMT"},
            Version(None, MODIFIED, 5, strong=True),
        ),
        ({"Last-Modified": MODIFIED, "Date": "Sun, 06 Nov 1994 08:50:36 GMT"}, Version(None, MODIFIED, 5)),
        (
            {"ETag": 'W/"a"', "Last-Modified": MODIFIED, "Date": "Sun, 06 Nov 1995 08:50:37 GMT"},
            Version('W/"a"', MODIFIED, 5),
        ),
    ],
)
@respx.mock
async def test_versions(headers, version, fetch):
    """A version is strong by a strong entity tag, or by a date that Date follows by at least a minute."""
    respx.get(URL).mock(return_value=httpx.Response(200, headers=headers, content=b"hello"))
    info, _ = await fetch(Request(URL))
    assert info.version == version


@pytest.mark.parametrize(
    ("headers", "resumable"),
    [
        ({}, False),
        ({"Accept-Ranges": "bytes"}, True),
        ({"Accept-Ranges": "none", "ETag": '"a"'}, False),
        ({"ETag": '"a"'}, True),
        ({"ETag": 'W/"a"'}, False),
    ],
)
@respx.mock
async def test_resumable(headers, resumable, fetch):
    """Accept-Ranges decides whether a download may be resumed, and a strong version where it is silent."""
    respx.get(URL).mock(return_value=httpx.Response(200, headers=headers, content=b"hello"))
    info, _ = await fetch(Request(URL))
    assert info.resumable is resumable


@respx.mock
async def test_unless(fetch):
    """What is unchanged is not modified: no body, the version that was asked by, both conditions sent."""
    route = respx.get(URL).mock(return_value=httpx.Response(304, headers={"ETag": '"v1"'}))
    version = Version('W/"v1"', MODIFIED, 5)
    info, content = await fetch(Request(URL, unless=version))
    sent = route.calls.last.request.headers
    assert (sent["If-None-Match"], sent["If-Modified-Since"]) == ('W/"v1"', MODIFIED)
    assert (info.not_modified, info.version, info.size, content) == (True, version, 5, b"")


@pytest.mark.parametrize(
    ("asked", "named", "same"),
    [
        (Version('"a"', strong=True), {}, True),
        (Version('"a"', strong=True), {"ETag": 'W/"a"'}, True),
        (Version('W/"a"', MODIFIED), {"ETag": '"a"', "Last-Modified": "Mon, 07 Nov 1994 08:49:37 GMT"}, True),
        (Version(modified=MODIFIED), {"ETag": '"a"'}, True),
        (Version(modified=MODIFIED), {"Last-Modified": MODIFIED}, True),
        (Version('"a"', MODIFIED), {"ETag": '"b"', "Last-Modified": MODIFIED}, False),
        (Version(modified=MODIFIED), {"Last-Modified": "Sat, 05 Nov 1994 08:49:37 GMT"}, False),
    ],
)
@respx.mock
async def test_not_modified_of_which_version(asked, named, same, fetch):
    """A 304 that names another version than was asked by is refused; tags are compared weakly, and before times."""
    respx.get(URL).mock(return_value=httpx.Response(304, headers=named))
    if same:
        assert (await fetch(Request(URL, unless=asked)))[0].version == asked
    else:
        with pytest.raises(RangeRefused, match="of another version"):
            await fetch(Request(URL, unless=asked))


@respx.mock
async def test_stat(fetch):
    """A stat is a HEAD: the size without a byte of the body."""
    respx.head(URL).mock(return_value=httpx.Response(200, headers={"Content-Length": "10", "Accept-Ranges": "bytes"}))
    info, content = await fetch(Request(URL, verb="stat"))
    assert (info.size, info.resumable, content) == (10, True, b"")


async def test_list(fetch):
    """HTTP has no listing, and says so before anything is sent."""
    with pytest.raises(ProtocolError, match="no listing"):
        await fetch(Request(URL, verb="list"))


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Length", "5"), ("Content-Length", "6")],
        [("Content-Length", "5, 6")],
        [("Content-Length", "-5")],
        [("Content-Length", "+5")],
        [("Content-Length", "5.0")],
        [("Content-Length", "0x5")],
        [("Content-Length", "")],
        [("Content-Length", "5,")],
        [("Content-Length", "99999999999999999999")],
        [("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
        [("X", "y")] * 1001,
        [("X", "y" * 300_000)],
    ],
)
@respx.mock
async def test_heads_that_are_refused(headers, fetch):
    """A Content-Length that is not one number, and a head out of all proportion, are refused."""
    respx.get(URL).mock(return_value=httpx.Response(200, headers=headers, stream=httpx.ByteStream(b"hello")))
    with pytest.raises(ProtocolError):
        await fetch(Request(URL))


@pytest.mark.parametrize("values", [["5", "5"], ["5, 5"], ["5,5", "5"]])
@respx.mock
async def test_equal_lengths_are_one(values, fetch):
    """Several equal Content-Lengths count as one."""
    headers = [("Content-Length", value) for value in values]
    respx.get(URL).mock(return_value=httpx.Response(200, headers=headers, stream=httpx.ByteStream(b"hello")))
    info, content = await fetch(Request(URL))
    assert (info.size, content) == (5, b"hello")


@pytest.mark.parametrize(("content", "kind"), [(b"hell", Truncated), (b"", Truncated), (b"hello!", ProtocolError)])
@respx.mock
async def test_the_body_is_counted(content, kind, fetch):
    """A body that is shorter or longer than its Content-Length is an error, whoever delivers it."""
    respx.get(URL).mock(
        return_value=httpx.Response(200, headers={"Content-Length": "5"}, stream=httpx.ByteStream(content))
    )
    with pytest.raises(kind):
        await fetch(Request(URL))


@pytest.mark.parametrize("version", [b"HTTP/0.9", b"HTTP/1.2", b"HTTP/9.9", b"ICY"])
@respx.mock
async def test_unknown_versions_of_http(version, fetch):
    """Only HTTP/1.0, 1.1 and 2 are understood."""
    respx.get(URL).mock(return_value=httpx.Response(200, content=b"x", extensions={"http_version": version}))
    with pytest.raises(ProtocolError):
        await fetch(Request(URL))


@respx.mock
async def test_no_content(fetch):
    """A 204 is a file of size 0."""
    respx.get(URL).mock(return_value=httpx.Response(204, stream=httpx.ByteStream(b"")))
    info, content = await fetch(Request(URL))
    assert (info.size, info.proof, content) == (0, "length", b"")


@pytest.mark.parametrize("code", [201, 202, 203, 205, 226, 299])
@respx.mock
async def test_other_successes(code, fetch):
    """Any other 2xx delivers its body."""
    respx.get(URL).mock(return_value=httpx.Response(code, content=b"hello"))
    assert (await fetch(Request(URL)))[1] == b"hello"


@respx.mock
async def test_101_is_no_answer(fetch):
    """Nobody asked to switch protocols."""
    respx.get(URL).mock(return_value=httpx.Response(101))
    with pytest.raises(ProtocolError):
        await fetch(Request(URL))


@respx.mock
async def test_headers_in_any_encoding(fetch):
    """Header values are read as UTF-8, or as ISO 8859-1 where they are not."""
    headers = [(b"A", "ü".encode()), (b"B", b"\xfc"), (b"C", b"1"), (b"c", b"2")]
    respx.get(URL).mock(return_value=httpx.Response(200, headers=headers, content=b""))
    info, _ = await fetch(Request(URL))
    assert (info.headers["a"], info.headers["b"], info.headers["c"]) == ("ü", "ü", "1, 2")


async def test_what_is_not_mocked_fails_the_test(fetch):
    """The assertion of the mock is no error of the network: it comes through."""
    with respx.mock, pytest.raises(AssertionError):
        await fetch(Request(URL))


@respx.mock
async def test_the_header_fields_of_a_refusal(fetch):
    """The error has them, several of one name joined; what of them repeats a secret of the request is hidden."""
    headers = [
        ("WWW-Authenticate", "Basic"),
        ("www-authenticate", 'Bearer realm="r"'),
        ("X-Echo", "you sent tok3n-abc"),
    ]
    respx.get(URL).mock(return_value=httpx.Response(401, headers=headers))
    with pytest.raises(AccessDenied) as caught:
        await fetch(Request(URL).authorized([("Authorization", "Bearer tok3n-abc")]))
    told = pickle.loads(pickle.dumps(caught.value)).headers
    assert told["www-authenticate"] == 'Basic, Bearer realm="r"'
    assert told["X-Echo"] == "you sent ***"


@respx.mock
async def test_the_header_fields_of_redirects():
    """`Info.trail`: each redirect on the way, with its URL and header fields; without one it is empty."""
    respx.get(URL).mock(return_value=httpx.Response(302, headers={"Location": "/b", "Digest": "SHA-256=x"}))
    respx.get("https://host/b").mock(
        return_value=httpx.Response(301, headers={"Location": "https://m/c", "Link": "<x>"})
    )
    respx.get("https://m/c").mock(return_value=httpx.Response(200, content=b"bytes"))
    trails = []

    class Look(Plugin):
        @hookimpl
        async def validate(self, transfer):
            trails.append(transfer.payload.info.trail)

    async with Context(plugins=[Look()]) as context:
        await context.download(URL, BufferWriter()).run()
        await context.download("https://m/c", BufferWriter()).run()
    [(first, one), (second, two)] = trails[0]
    assert (first, one["Digest"], second, two["Link"]) == (URL, "SHA-256=x", "https://host/b", "<x>")
    assert trails[1] == ()
