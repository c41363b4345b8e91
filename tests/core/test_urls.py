"""URLs: what is refused, whose they are, and how they are shown."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from downhaul import Download, below, origin, show
from downhaul._urls import check_url, is_downgrade, printable, resolve, scheme_of, show_text, split_userinfo

SECRET = "S3cr3tW0rd"


@pytest.mark.parametrize(
    "url",
    [
        "https://host/file",
        "HTTPS://HOST/FILE",
        "http://host",
        "http://host:8080/a/b?c=d#e",
        "http://user:p%40ss@host/",
        "http://user@host/",
        "http://[::1]/",
        "http://[::1]:8080/file",
        "http://[fe80::1%25eth0]/",
        "http://127.0.0.1/",
        "http://bücher.example/ü",
        "http://xn--bcher-kva.example/",
        "http://host/with blank",
        "http://host/@scope/name",
        "ftp://host/dir/file",
        "ftps://host/dir/file",
        "file:///etc/hosts",
        "data:,hello",
        "s3://bucket/key",
        "x-my+scheme.2:anything",
    ],
)
def test_good_urls(url: str) -> None:
    """What is a URL passes unchanged."""
    assert check_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host/file",
        "/file",
        "//host/file",
        "://host/file",
        "1http://host/",
        "http:",
        "http://",
        "http:///file",
        "http://:80/",
        "http://user@/",
        "http://host:port/",
        "http://host:-1/",
        "http://host:0/",
        "http://host:65536/",
        "http://[::1/",
        "http://::1]/",
        "http://[not-an-address]/",
        "http://evil\\@host/",
        " http://host/",
        "http://host/ ",
        "http://host/\n",
        "http://host/a\r\nX-Injected: yes",
        "http://host/\x00",
        "http://ho\tst/",
        "http://host/\x7f",
        "http://host/\ud800",
        "http://host\u2100/",  # NFKC would turn it into "a/c"
    ],
)
def test_malformed_urls(url: str) -> None:
    """What is no URL is a ValueError that says so, before anything is done with it."""
    with pytest.raises(ValueError, match="malformed URL: ") as raised:
        check_url(url)
    assert printable(str(raised.value)) == str(raised.value)


@pytest.mark.parametrize("url", [None, 7, b"http://host/", ["http://host/"]])
def test_a_url_is_a_str(url: object) -> None:
    """Anything but a str is a TypeError that names its type."""
    with pytest.raises(TypeError, match=f"a URL is a str, not {type(url).__name__}"):
        check_url(url)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@host:port/",
        f"http://user:{SECRET}@/",
        f" http://user:{SECRET}@host/",
        f"http://user:{SECRET}@host/\n",
        f"ht\ntp://user:{SECRET}@host/",
        f"//user:{SECRET}@host/",
        f"http:/user:{SECRET}@host/\n",
        f"http:user:{SECRET}@host/\n",
        f"http://user:{SECRET}/{SECRET}@host/",
        f"http://user:{SECRET}#{SECRET}@host/",
        f"http://user:{SECRET}?{SECRET}@host/",
        f"http://user:{SECRET}@{SECRET}@[host/",
        f"http://host:port/?token={SECRET}",
        f"http:///?token={SECRET}&other={SECRET}",
        f"http:\\\\user:{SECRET}@host/\n",
    ],
)
def test_a_malformed_url_shows_no_password(url: str) -> None:
    """The message about a malformed URL has no userinfo and no values of the query, where a password broke it too."""
    with pytest.raises(ValueError) as raised:
        check_url(url)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host/file", "http://host"),
        ("HTTP://HOST/file", "http://host"),
        ("http://host:80/", "http://host"),
        ("http://host:443/", "http://host:443"),
        ("https://host:443/", "https://host"),
        ("https://host:8443/", "https://host:8443"),
        ("ftp://host:21/", "ftp://host"),
        ("ftps://host:990/", "ftps://host"),
        ("http://user:word@host/", "http://host"),
        ("http://[::1]/", "http://[::1]"),
        ("http://[::1]:80/", "http://[::1]"),
        ("http://[2001:DB8::1]:8080/", "http://[2001:db8::1]:8080"),
        ("http://Bücher.example/", "http://bücher.example"),
        ("data:,hello", "data:"),
        ("file:///etc/hosts", "file:"),
    ],
)
def test_origin(url: str, expected: str) -> None:
    """An origin is scheme, host and port, in lower case and without the default port (RFC 6454, section 6.2)."""
    assert origin(url) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://host/", "https://host/"),
        ("http://host/", "http://host:81/"),
        ("http://host/", "http://host.example/"),
        ("http://host/", "http://sub.host/"),
        ("http://127.0.0.1/", "http://localhost/"),
    ],
)
def test_other_origins(one: str, other: str) -> None:
    """Another scheme, port or host is another origin."""
    assert origin(one) != origin(other)


@pytest.mark.parametrize(
    ("url", "rest", "user"),
    [
        ("http://host/a@b", "http://host/a@b", None),
        ("http://elmer:word@host:8080/a?b=c", "http://host:8080/a?b=c", ("elmer", "word")),
        ("http://elmer@host/", "http://host/", ("elmer", "")),
        ("http://elmer:a%3Ab%40c%2Fd@host/", "http://host/", ("elmer", "a:b@c/d")),
        ("http://el%20mer:a:b@host/", "http://host/", ("el mer", "a:b")),
        ("ftp://:word@[::1]:2121/", "ftp://[::1]:2121/", ("", "word")),
        ("http://@host/", "http://host/", ("", "")),
        ("data:,a@b", "data:,a@b", None),
    ],
)
def test_split_userinfo(url: str, rest: str, user: tuple[str, str] | None) -> None:
    """Userinfo is taken out of a URL and decoded (RFC 3986, section 3.2.1)."""
    assert split_userinfo(url) == (rest, user)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/file", "https://host/file"),
        ("https://elmer:word@host/file", "https://host/file"),
        ("https://elmer@host/file", "https://host/file"),
        ("https://a:b@c:d@host/file", "https://host/file"),
        ("elmer:word@host/file", "elmer:host/file"),
        ("https://host/@scope/name", "https://host/@scope/name"),
        ("https://host:8443/@scope/name", "https://host:8443/@scope/name"),
        ("https://[::1]:8443/@scope/name", "https://[::1]:8443/@scope/name"),
        ("https://host/file?a=b", "https://host/file?a=***"),
        ("https://host/file?a=b&c=&d&=e&&f=g=h#top", "https://host/file?a=***&c=***&***&=***&&f=***#top"),
        ("https://host/a?q=x@y", "https://host/a?q=***"),
        ("https://host/\x1b[2J\u202e", r"https://host/\x1b[2J\u202e"),
        ("https://host/ü", "https://host/ü"),
        ("https://host/" + "a" * 1000, "https://host/" + "a" * 487 + "…"),
    ],
)
def test_show(url: str, shown: str) -> None:
    """A URL is shown without userinfo, values of the query and control characters, and not endless."""
    assert show(url) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no URL: here", "no URL: here"),
        ("see 'https://u:p@host/?a=b', then", "see 'https://host/?a=***', then"),
        ("(https://u:p@host/?a=b)", "(https://host/?a=***"),
        ("https://u:it's@host/", "https://host/"),
        ('<https://u:p@host/> "ftp://u:p@host/"', '<https://host/> "ftp://host/"'),
        ("a\nb\x1b", r"a\nb\x1b"),
        ("UTC 12:30:45@noon", "UTC 12:30:45@noon"),
    ],
)
def test_show_text(text: str, shown: str) -> None:
    """URLs in a text are shown as such, the rest stays."""
    assert show_text(text) == shown


@pytest.mark.parametrize(
    ("base", "reference", "url"),
    [
        ("https://host/a/b", "c", "https://host/a/c"),
        ("https://host/a/b", "http://other/", "http://other/"),
        ("s3://bucket/a/b", "c?d", "s3://bucket/a/c?d"),
        ("s3://bucket/a/b", "/c", "s3://bucket/c"),
        ("s3://bucket/a/b", "//other/c", "s3://other/c"),
        ("s3://bucket/a/b", "https://other/c", "https://other/c"),
        ("https://host/a/b", "s3://bucket/c", "s3://bucket/c"),
    ],
)
def test_resolve(base: str, reference: str, url: str) -> None:
    """A relative reference is resolved whatever the scheme is (RFC 3986, section 5.2)."""
    assert resolve(base, reference) == url


@pytest.mark.parametrize("reference", ["/a\r\nb", "\x00", "https://host/\n", "//[", "http:///"])
def test_resolve_refuses_what_is_no_url(reference: str) -> None:
    """A reference that leads to no URL, or holds control characters, is a ValueError."""
    with pytest.raises(ValueError):
        resolve("mem://host/a", reference)


@pytest.mark.parametrize(
    ("before", "after", "down"),
    [
        ("https://a/", "http://a/", True),
        ("https://a/", "ftp://a/", True),
        ("https://a/", "ftps://a/", False),
        ("ftps://a/", "ftp://a/", True),
        ("HTTPS://a/", "HTTP://a/", True),
        ("http://a/", "https://a/", False),
        ("http://a/", "ftp://a/", False),
    ],
)
def test_downgrade(before: str, after: str, down: bool) -> None:
    """Https never becomes http, nor ftps ftp: going from an encrypted scheme to one that is not is a downgrade."""
    assert is_downgrade(before, after) is down


anything = st.text(max_size=60) | st.text("htpfs:/@?#&=[]%\\ .-1a\n", max_size=40)
word = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
encoded = st.text("abcXYZ019-._~%!$&'()*+,;=:", min_size=0, max_size=12)


@given(anything)
@example("http://[")
@example("http://\u2100/")
def test_nothing_crashes(url: str) -> None:
    """Whatever comes as a URL, the worst is a ValueError; showing never fails."""
    assert printable(show(url)) == show(url)
    assert printable(show_text(url)) == show_text(url)
    scheme_of(url)
    for function in (check_url, origin, split_userinfo):
        with suppress(ValueError):
            function(url)


@given(anything)
def test_a_checked_url_can_be_read(url: str) -> None:
    """What `check_url` lets pass, the others can read."""
    try:
        check_url(url)
    except ValueError:
        return
    rest, _ = split_userinfo(url)
    assert origin(rest) == origin(url)
    assert split_userinfo(rest)[1] is None
    assert rest.isprintable() or not any(character in rest for character in "\r\n\0")


@given(user=encoded, before=encoded, after=encoded, path=encoded, value=encoded)
def test_show_hides_what_is_secret(user: str, before: str, after: str, path: str, value: str) -> None:
    """No URL that is accepted shows its userinfo or the values of its query, alone or within a text."""
    url = f"https://{user}{SECRET}:{before}{SECRET}{after}@host/{path}?{user}={value}{SECRET}&{SECRET}#x"
    assert check_url(url)
    for shown in (show(url), show_text(url), show_text(f"failed: {url}, sorry"), show_text(f"failed: {url!r}")):
        assert SECRET not in shown


@given(anything)
def test_showing_twice_is_showing_once(text: str) -> None:
    """What was shown may be shown again, alone or in a text: messages pass through several hands."""
    url = f"https://elmer:word@host/{text}?{text}={text}"
    assert show(show(url)) == show(url)


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("a/b.txt", "https://host/pub/a/b.txt"),
        ("/a", "https://host/pub/a"),
        ("%41.txt", "https://host/pub/%2541.txt"),
        ("what?.txt", "https://host/pub/what%3F.txt"),
        ("a b+c%ü#.txt", "https://host/pub/a%20b+c%25%C3%BC%23.txt"),
        ("dir/@scope/~x;y=1", "https://host/pub/dir/@scope/~x;y=1"),
        ("\udcff", "https://host/pub/%FF"),
        ("..a/...", "https://host/pub/..a/..."),
        ("", "https://host/pub/"),
    ],
)
@pytest.mark.parametrize("prefix", ["https://host/pub", "https://host/pub/"])
def test_a_path_below_a_prefix(prefix: str, path: str, url: str) -> None:
    """A path that a framework has decoded is encoded again, whatever is in it."""
    assert below(prefix, path) == url


@pytest.mark.parametrize("path", ["..", "../x", "a/../../x", "./x", "a\0b", "a\r\nb", "a\\..\\b"])
def test_a_path_that_leads_out_of_its_prefix(path: str) -> None:
    """What would lead out of the prefix, on some server, is refused."""
    with pytest.raises(ValueError, match="does not stay below https://host/pub/"):
        below("https://elmer:secret@host/pub/", path)


@given(st.text())
def test_whatever_the_path_it_stays_below(path: str) -> None:
    """No path leads elsewhere, and what comes is a URL."""
    try:
        url = below("https://host/pub/", path)
    except ValueError:
        return
    assert url.startswith("https://host/pub/")
    assert origin(url) == "https://host"
    assert Download(url)
