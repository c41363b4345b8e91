"""What an ftp URL names, and which ones are refused before anybody is connected to."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from downhaul import PolicyError, User
from downhaul_ftp._location import Location, check_user, locate, wire


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("ftp://host/a", b"a"),
        ("ftp://host/pub/a%20b/c", b"pub/a b/c"),
        ("ftp://host/%2Fetc/motd", b"/etc/motd"),
        ("ftp://host//etc/motd", b"/etc/motd"),
        ("ftp://host/a%2Fb", b"a/b"),
        ("ftp://host/a//b", b"a//b"),
        ("ftp://host/../a", b"../a"),
        ("ftp://host/%2541", b"%41"),
        ("ftp://host/a?b=c", b"a?b=c"),
        ("ftp://host/a#part", b"a"),
        ("ftp://host/a%23b", b"a#b"),
        ("ftp://host/%ff%fe", b"\xff\xfe"),
        ("ftp://host/\u00fc", b"\xc3\xbc"),
        ("ftp://host/%20a%20", b" a "),
        ("ftp://host/a;type=i", b"a"),
        ("ftp://host/a;TYPE=I", b"a"),
        ("ftp://host/a%3Btype=a", b"a;type=a"),
        ("ftp://host/a;type=a/b", b"a;type=a/b"),
        ("ftp://host/a;b", b"a;b"),
        ("ftp://host/a%zz", b"a%zz"),
        ("FTP://host/a", b"a"),
    ],
)
def test_path(url: str, path: bytes) -> None:
    """The path is decoded once, relative to the login, and keeps what other schemes give a meaning."""
    assert locate(url) == Location("host", 21, path)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("ftp://host:2121/a", "host", 2121),
        ("ftp://host:/a", "host", 21),
        ("ftp://name:word@host/a", "host", 21),
        ("ftp://[::1]:99/a", "::1", 99),
        ("ftp://[fe80::1%25lo]/a", "fe80::1%lo", 21),
        ("ftp://HOST/A", "host", 21),
    ],
)
def test_host(url: str, host: str, port: int) -> None:
    """Host and port are those of the authority, the port 21 where none is said."""
    assert (locate(url).host, locate(url).port) == (host, port)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/a%0d%0aDELE b", "ftp://host/a%0A", "ftp://host/%0D", "ftp://host/a%00b", "ftp://host/a\r\nb",
        "ftp://host/a\tb", "ftp://ho\nst/a", "ftp://host/a;type=a", "ftp://host/a;type=A", "ftp://host/a;type=d",
        "ftp://host/a;type=x", "ftp://host/a;type=", "ftp://host", "ftp://host/", "ftp://host/dir/", "ftp://host/a%2F",
        "ftp://host/#a", "ftp://host/;type=i", "ftp://host?a", "ftp:///a", "ftp:a", "ftp://host:0/a",
        "ftp://host:70000/a", "ftp://host:b/a", "ftp://[::1/a", "ftp://host/\udc80",
    ],
    ids=ascii,
)  # fmt: skip
def test_refused(url: str) -> None:
    """What would end a command, change the bytes or name no file is refused, with nothing chained."""
    with pytest.raises(PolicyError) as caught:
        locate(url)
    assert str(caught.value).isprintable()
    assert caught.value.__context__ is None


@pytest.mark.parametrize("user", [User("a\r\nDELE b"), User("a", "b\nc"), User("a\0"), User("\ud800")], ids=range(4))
def test_refused_user(user: User) -> None:
    """Credentials that cannot be one line are refused, and not shown."""
    with pytest.raises(PolicyError) as caught:
        check_user(user)
    assert "DELE" not in str(caught.value)
    assert caught.value.__context__ is None


def test_wire_is_utf8() -> None:
    """Names and passwords go out as UTF-8."""
    assert wire("\u00fc").encode("latin-1") == "\u00fc".encode()


@given(st.binary(min_size=1))
def test_any_name_comes_back(name: bytes) -> None:
    """Every name without CR, LF and NUL that does not end in a slash is sent byte for byte."""
    assume(not name.endswith(b"/"))
    url = f"ftp://host/{quote_from_bytes(name, safe='')}"
    if set(name) & set(b"\r\n\0"):
        with pytest.raises(PolicyError):
            locate(url)
    else:
        assert locate(url).path == name


@given(st.text())
def test_any_text_is_one_line(text: str) -> None:
    """Whatever stands behind the host, no line break and no NUL is in the path, and only PolicyError is raised."""
    try:
        path = locate(f"ftp://host/{text}").path
    except PolicyError:
        return
    assert not set(path) & set(b"\r\n\0")
    assert path
