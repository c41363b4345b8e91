"""Requests and credentials: what is secret, whose it is, and where a redirect may lead."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.mem import MemDriver, Mirrors, Reply, context_of

from downhaul import (
    TLS,
    BufferWriter,
    Credentials,
    Download,
    DownloadError,
    Plugin,
    PolicyError,
    RedirectError,
    Request,
    Retry,
    Settings,
    User,
    Version,
    hookimpl,
    origin,
)

HOME, AWAY, BOTH = "https://home.example/dir/file", "https://away.example/x", Request("https://home.example/dir/file")
SECRET = Credentials(
    "https://home.example", (("Authorization", "Bearer secret"),), (("key", "hidden"),), User("e", "p")
)


@pytest.mark.parametrize(("field", "value"), [("offset", -1), ("length", -1)])
def test_offset_and_length_count_from_zero(field, value):
    """A request for a negative range cannot be meant."""
    with pytest.raises(ValueError, match="from 0"):
        Request(HOME, **{field: value})


def test_credentials_are_seen_by_their_origin_only():
    """“`credentials` (headers or query parameters, bound to one origin)”: elsewhere they might as well not be there."""
    at_home, elsewhere = Request(HOME, credentials=SECRET), Request(AWAY, credentials=SECRET)
    assert at_home.entitled is SECRET
    assert ("Authorization", "Bearer secret") in at_home.fields()
    assert at_home.target() == f"{HOME}?key=hidden"
    assert elsewhere.entitled is None
    assert elsewhere.fields() == ()
    assert elsewhere.target() == AWAY


@pytest.mark.parametrize(
    "other",
    [
        "http://home.example/dir/file",
        "https://home.example:444/",
        "https://sub.home.example/",
        "https://home.example.org/",
    ],
)
def test_scheme_host_and_port_make_the_origin(other):
    """Another scheme, port or host is another origin (RFC 6454)."""
    assert Request(other, credentials=SECRET).entitled is None


@pytest.mark.parametrize("same", ["https://home.example:443/y", "https://HOME.example/y", "https://home.example/?q"])
def test_default_ports_and_case_do_not(same):
    """The same origin may be written in several ways."""
    assert Request(same, credentials=SECRET).entitled is SECRET


def test_secret_parameters_join_those_of_the_url():
    """Query parameters that are there stay, in their order, and the secret ones come behind."""
    request = Request("https://home.example/f?a=1&b=%20#part", credentials=replace(SECRET, parameters=(("k", "ä&="),)))
    assert request.target() == "https://home.example/f?a=1&b=%20&k=%C3%A4%26%3D#part"


def test_a_secret_header_replaces_a_public_one_of_the_same_name():
    """No request carries a header twice, whatever its case."""
    request = Request(HOME, headers=(("AUTHORIZATION", "public"), ("Accept", "*/*")), credentials=SECRET)
    assert request.fields() == (("Accept", "*/*"), ("Authorization", "Bearer secret"))


def test_authorizing_adds_to_what_is_there():
    """Several plugins may authorise one request; an equal header name is replaced, the rest stays."""
    request = Request(HOME).authorized([("X-One", "1")]).authorized([("x-one", "2"), ("X-Two", "2")], [("k", "v")])
    request = request.authorized(user=User("elmer"))
    assert request.credentials == Credentials(
        "https://home.example", (("x-one", "2"), ("X-Two", "2")), (("k", "v"),), User("elmer")
    )


def test_authorizing_elsewhere_forgets_what_belongs_to_the_first():
    """Credentials of one origin never come along with those of another."""
    request = replace(Request(HOME, credentials=SECRET), url=AWAY).authorized([("X-Key", "away")])
    assert request.credentials == Credentials("https://away.example", (("X-Key", "away"),))


@pytest.mark.parametrize("text", ["a\r\nb", "a\nb", "a\rb", "a\0b"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_line_break_in_a_credential_is_refused(text, place):
    """A token cannot smuggle a header in."""
    pair = ("X-Key", "value")
    pair = (text, pair[1]) if place == 0 else (pair[0], text)
    with pytest.raises(ValueError, match="line break or NUL"):
        Request(HOME).authorized([pair])


@pytest.mark.parametrize("secret", ["Bearer secret", "hidden", "User('e'"])
def test_credentials_are_in_no_repr(secret):
    """“They appear in no repr”: neither of the credentials nor of what holds them."""
    assert secret not in repr(SECRET)
    assert secret not in repr(Request(HOME, credentials=SECRET))


# Redirects


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("https://home.example/other", "https://home.example/other"),
        ("other", "https://home.example/dir/other"),
        ("./other?x=1", "https://home.example/dir/other?x=1"),
        ("/root", "https://home.example/root"),
        ("../up", "https://home.example/up"),
        ("//away.example/x", "https://away.example/x"),
        ("?q=1", "https://home.example/dir/file?q=1"),
        ("  /blanks\t", "https://home.example/blanks"),
        ("/a#fragment", "https://home.example/a"),
        ("HTTPS://home.example/case", "https://home.example/case"),
        ("/päth", "https://home.example/päth"),
    ],
)
def test_a_location_is_relative_to_the_request(location, url):
    """RFC 9110, section 10.2.2: a location is a reference, resolved against the request's URL."""
    assert BOTH.redirected(location).url == url


@pytest.mark.parametrize("location", ["", "   ", "http://[::1", "https://h:99999/", "/a\r\nX: y",
                                      "https://home.example:0/"])  # fmt: skip
def test_a_location_that_cannot_be_read_is_a_redirect_error(location):
    """A redirect that leads nowhere."""
    with pytest.raises(RedirectError) as caught:
        BOTH.redirected(location)
    assert not caught.value.transient


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("https://h/x", "http://h/x"), ("https://h/x", "ftp://h/x"), ("ftps://h/x", "ftp://h/x"),
        ("https://h/x", "HTTP://h/x"), ("ftps://h/x", "http://h/x"),
    ],
)  # fmt: skip
def test_encryption_is_never_given_up(before, after):
    """“https never becomes http”, whatever `schemes` allow."""
    request = Request(before, schemes=frozenset({"http", "https", "ftp", "ftps"}))
    with pytest.raises(PolicyError, match="gives up encryption"):
        request.redirected(after)


@pytest.mark.parametrize("after", ["file:///etc/passwd", "data:,x", "gopher://h/", "javascript:alert(1)", "FILE:///x"])
def test_nothing_remote_names_a_scheme_that_was_not_allowed(after):
    """“Nothing remote may name `file:` or a scheme that was not allowed”."""
    with pytest.raises(PolicyError):
        Request("http://h/x").redirected(after)


@pytest.mark.parametrize(
    ("before", "after"), [("http://h/x", "https://h/x"), ("http://h/x", "ftp://h/x"), ("ftp://h/x", "https://h/x")]
)
def test_allowed_schemes_may_be_gone_to(before, after):
    """Up, and across, as far as `schemes` allow."""
    assert Request(before).redirected(after).url == after
    with pytest.raises(PolicyError):
        Request(before, schemes=frozenset()).redirected(after)


def test_the_own_scheme_is_always_allowed():
    """A driver of its own scheme may redirect within it."""
    assert Request("mem://a/x", schemes=frozenset()).redirected("mem://b/y").url == "mem://b/y"


def test_ten_redirects_and_no_more():
    """The eleventh is one too many, and the chain is shown."""
    request = Request("https://host/0")
    for number in range(1, 11):
        request = request.redirected(f"/{number}")
    assert request.url == "https://host/10"
    assert len(request.redirects) == 10
    with pytest.raises(RedirectError, match="more than 10 redirects: https://host/0 → https://host/1 → "):
        request.redirected("/11")


def test_a_chain_is_shown_without_secrets():
    """The chain is shown "userinfo and query values … redacted"."""
    request = Request("https://host/0?token=hidden")
    for number in range(10):
        request = request.redirected(f"https://elmer:secret@host/{number}?key=hidden")
    with pytest.raises(RedirectError) as caught:
        request.redirected("/11")
    assert "key=***" in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_credentials_stay_within_the_origin():
    """A redirect within the origin keeps what is secret."""
    request = Request(HOME, credentials=SECRET).redirected("/other")
    assert request.entitled is SECRET


@pytest.mark.parametrize("location", [AWAY, "https://home.example:8443/", "//sub.home.example/"])
def test_credentials_are_dropped_elsewhere(location):
    """“Drops what the new origin may not see”; a way back does not bring it again."""
    request = Request(HOME, headers=(("Accept", "*/*"),), credentials=SECRET).redirected(location)
    assert request.credentials is None
    assert request.fields() == (("Accept", "*/*"),)
    assert request.redirected(HOME).credentials is None


def test_userinfo_of_a_location_is_for_its_origin():
    """A server may send to a URL with userinfo; it is used there, and stands in the URL no more."""
    request = Request(HOME, credentials=SECRET).redirected("https://elmer:p%40ss@away.example/x")
    assert request.url == AWAY
    assert request.credentials == Credentials("https://away.example", user=User("elmer", "p@ss"))


def test_the_rest_of_the_request_goes_along():
    """Range, condition and verb are what is wanted; where it is had does not change them."""
    request = Request(HOME, verb="stat", offset=5, length=7, version=Version('"a"'), unless=Version('"b"'))
    there = request.redirected(AWAY)
    assert replace(there, url=HOME, redirects=()) == request


@given(st.text(max_size=60))
def test_no_location_breaks_the_policy(location):
    """Whatever a server sends: an error of the tree, or a URL of an allowed scheme without downgrade or userinfo."""
    try:
        request = Request(HOME, credentials=SECRET).redirected(location)
    except DownloadError:
        return
    assert request.url.startswith(("https://", "ftps://"))
    assert "@" not in request.origin
    assert request.credentials is None or request.credentials.origin == request.origin


# The same through the engine

URL, FAR = "mem://home/file", "mem://away/file"
ALL = {
    "headers": {
        "X-Api-Key": "secret",
        "Cookie": "secret",
        "Accept": "a/b",
        "User-Agent": "me",
        "Accept-Language": "eo",
    },
    "user": User("elmer", "secret"),
    "tls": TLS(client_certificate="c.pem", client_key="k.pem"),
}


def assert_knows_nothing(asked) -> None:
    """The origin learned nothing but the three public headers."""
    assert asked.request.entitled is None
    assert sorted(name for name, _ in asked.request.fields()) == ["Accept", "Accept-Language", "User-Agent"]
    assert "secret" not in asked.request.target()
    settings: Settings = asked.settings
    assert settings.user is None
    assert set(settings.headers or ()) <= {"Accept", "Accept-Language", "User-Agent"}
    assert (settings.tls.client_certificate, settings.tls.client_key) == (None, None)


async def test_a_redirect_takes_no_credentials_elsewhere():
    """“Never to a redirect target … of another”: headers, user, client certificate."""
    mem = MemDriver()
    mem.site(URL, Reply(location=FAR))
    mem.site(FAR, Reply(b"bytes"))
    async with context_of(mem) as context:
        result = await Download(URL, BufferWriter(), context=context, **ALL).run()
    home, far = mem.log
    assert home.header("X-Api-Key") == "secret"
    assert home.request.entitled.user == ALL["user"]
    assert home.settings.tls == ALL["tls"]
    assert_knows_nothing(far)
    assert (result.url, result.source) == (URL, FAR)


async def test_a_mirror_gets_no_credentials():
    """“Never to a … mirror … of another”, and the origin itself still does when its turn comes."""
    mem = MemDriver()
    mem.site(URL, Reply(b"bytes"))
    async with context_of(mem, Mirrors((FAR, URL))) as context:
        await Download(URL, BufferWriter(), context=context, **ALL).run()
    far, home = mem.log
    assert_knows_nothing(far)
    assert home.header("X-Api-Key") == "secret"
    assert home.settings.tls == ALL["tls"]


async def test_userinfo_of_the_url_is_a_credential():
    """It is sent to the origin, wins over `user`, and stands in no URL that a driver or a result shows."""
    mem = MemDriver()
    mem.site(URL, Reply(b"bytes"))
    async with context_of(mem, user=User("other")) as context:
        result = await Download("mem://elmer:p%40ss@home/file", BufferWriter(), context=context).run()
    (asked,) = mem.log
    assert asked.url == URL
    assert asked.request.entitled.user == User("elmer", "p@ss")
    assert (result.url, result.source) == (URL, URL)


async def test_userinfo_of_a_mirror_is_for_that_mirror():
    """A mirror's own credentials go to it, and to it alone."""
    mem = MemDriver()
    mem.site(URL, Reply(b"bytes"))
    async with context_of(mem, Mirrors(("mem://m:pw@away/file", URL))) as context:
        result = await Download(URL, BufferWriter(), context=context, **ALL).run()
    far, home = mem.log
    assert far.request.entitled.user == User("m", "pw")
    assert home.request.entitled.user == ALL["user"]
    assert "pw" not in repr(result.history)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://away/file", "data:,x"])
async def test_a_plugin_cannot_aim_at_a_scheme_that_was_not_allowed(url):
    """“Nothing remote (redirect, mirror list, metalink) may name …”: the engine holds every aim against the rules."""
    mem = MemDriver()
    mem.site(URL, Reply(b"bytes"))
    async with context_of(mem, Mirrors((url, URL)), schemes=["mem"]) as context:
        result = await Download(URL, BufferWriter(), context=context).run()
    assert [type(each.error) for each in result.history] == [PolicyError]
    assert mem.urls == [URL]


async def test_a_plugin_cannot_set_offset_or_version():
    """“Never a plugin, always the engine sets offset and version, after `prepare`”."""

    class Meddles(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            transfer.request = replace(transfer.request, offset=3, length=2, version=Version('"x"', strong=True))

    mem = MemDriver()
    mem.site(URL, Reply(b"bytes", cut=4), Reply(b"bytes"))
    writer = BufferWriter()
    async with context_of(mem, Meddles()) as context:
        await Download(URL, writer, context=context).run()
    assert writer.content() == b"bytes"
    assert [(each.offset, each.request.length) for each in mem.log] == [(0, None), (4, None)]
    assert mem.log[0].request.version is None
    assert mem.log[1].request.version.tag == '"v1"'


async def test_a_redirect_to_a_refused_scheme_goes_the_way_of_errors():
    """The PolicyError of a redirect is terminal at the URL itself, and repairable at a mirror."""
    mem = MemDriver()
    mem.site(FAR, Reply(location="file:///etc/passwd"))
    mem.site(URL, Reply(b"bytes"))
    async with context_of(mem, Mirrors((FAR, URL))) as context:
        result = await Download(URL, BufferWriter(), context=context).run()
        assert [type(each.error) for each in result.history] == [PolicyError]
        with pytest.raises(PolicyError):
            await Download(FAR, BufferWriter(), context=context, plugins=[Always()]).run()


class Always(Plugin):
    @hookimpl(tryfirst=True)
    async def error(self, transfer, error):
        return Retry(after=0)


async def test_redirects_are_followed_and_counted():
    """A redirect loop ends after ten hops as a RedirectError, and each hop was asked once."""
    mem = MemDriver()
    mem.site(URL, Reply(location=URL))
    async with context_of(mem) as context:
        with pytest.raises(RedirectError):
            await Download(URL, BufferWriter(), context=context).run()
    assert len(mem.log) == 11


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://Host/a", "https://host"), ("http://h:80/", "http://h"), ("http://h:8080/", "http://h:8080"),
        ("ftp://u:p@h:21/x", "ftp://h"), ("https://[::1]:443/", "https://[::1]"), ("data:,x", "data:"),
    ],
)  # fmt: skip
def test_origins(url, expected):
    """An origin is scheme, host and port, the default port left out, userinfo too."""
    assert origin(url) == expected
