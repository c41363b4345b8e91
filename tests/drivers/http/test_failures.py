from __future__ import annotations

import gc
import socket
import ssl

import httpx
import pytest
import respx

from downhaul import (
    ConnectError,
    DownloadError,
    NameResolutionError,
    ProtocolError,
    ProxyError,
    Request,
    TimeoutExceeded,
    TLSError,
    Truncated,
)

URL = "https://host/file"


@pytest.mark.parametrize(
    ("raised", "kind", "transient"),
    [
        (httpx.ConnectTimeout("x"), TimeoutExceeded, True),
        (httpx.ReadTimeout("x"), TimeoutExceeded, True),
        (httpx.WriteTimeout("x"), TimeoutExceeded, True),
        (httpx.PoolTimeout("x"), TimeoutExceeded, True),
        (httpx.ConnectError("x"), ConnectError, True),
        (httpx.ReadError("x"), ConnectError, True),
        (httpx.WriteError("x"), ConnectError, True),
        (httpx.CloseError("x"), ConnectError, True),
        (httpx.RemoteProtocolError("x"), ConnectError, True),
        (httpx.LocalProtocolError("x"), ProtocolError, False),
        (httpx.ProxyError("x"), ProxyError, False),
        (ssl.SSLError(1, "[SSL] alert"), TLSError, False),
        (ConnectionResetError(104, "reset"), ConnectError, True),
    ],
    ids=lambda value: getattr(value, "__name__", None) or type(value).__name__,
)
@respx.mock
async def test_before_the_answer(raised, kind, transient, fetch):
    """Each exception of the client library has its error, with its words, and without itself."""
    respx.get(URL).mock(side_effect=raised)
    with pytest.raises(DownloadError) as caught:
        await fetch(Request(URL))
    error = caught.value
    assert type(error) is kind
    assert error.transient is transient
    assert error.__cause__ is None
    assert error.__context__ is None


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (httpx.ReadTimeout("x"), TimeoutExceeded),
        (httpx.ReadError("x"), Truncated),
        (httpx.RemoteProtocolError("peer closed connection"), Truncated),
        (ssl.SSLError(1, "[SSL] bad record"), Truncated),
        (ConnectionResetError(104, "reset"), Truncated),
    ],
    ids=lambda value: getattr(value, "__name__", None) or type(value).__name__,
)
@respx.mock
async def test_in_the_body(raised, kind, fetch):
    """The same in the middle of the body."""

    async def content():
        yield b"hello"
        raise raised

    respx.get(URL).mock(return_value=httpx.Response(200, content=content()))
    with pytest.raises(DownloadError) as caught:
        await fetch(Request(URL))
    error = caught.value
    assert type(error) is kind
    assert error.__cause__ is None
    assert error.__context__ is None


@respx.mock
async def test_mistakes_come_through(fetch):
    """A mistake in somebody's program is no error of the network, neither before the answer nor in the body."""

    async def content():
        yield b"hello"
        raise ZeroDivisionError

    respx.get(URL).mock(side_effect=[ZeroDivisionError, httpx.Response(200, content=content())])
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await fetch(Request(URL))


async def test_refused(fetch):
    """Where nobody listens, the error says so in the system's words."""
    with pytest.raises(ConnectError, match=r"(?i)refused|connect call failed"):
        await fetch(Request("http://127.0.0.1:1/"))


@pytest.mark.parametrize(("number", "transient"), [(socket.EAI_NONAME, False), (socket.EAI_AGAIN, True)])
async def test_names(number, transient, fetch, monkeypatch):
    """A name that does not exist is final, a resolver that has no answer now is not."""

    def getaddrinfo(*_, **__):
        raise socket.gaierror(number, "no such luck")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(NameResolutionError, match="no such luck") as caught:
        await fetch(Request("http://host.invalid/"))
    assert caught.value.transient is transient


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".example", "xn--a.example", "-.example"])
async def test_names_that_cannot_exist(host, fetch):
    """A name that breaks the rules of names is an error of the tree, whoever notices."""
    with pytest.raises(DownloadError):
        await fetch(Request(f"http://{host}.invalid/"))


async def test_an_error_while_another_is_handled(fetch):
    """What the caller was handling when it asked is not taken for the reason."""
    other = OSError(28, "No space left on device")
    try:
        raise other
    except OSError:
        with respx.mock:
            respx.get(URL).mock(side_effect=httpx.RemoteProtocolError("gone"))
            with pytest.raises(ConnectError) as caught:
                await fetch(Request(URL))
        assert "gone" in str(caught.value)
        assert caught.value.__context__ is other


async def test_no_request_is_kept_alive_by_an_error(fetch):
    """An error holds no request of the client library: those have the credentials in them."""
    gc.collect()
    with pytest.raises(ConnectError) as caught:
        await fetch(Request("http://127.0.0.1:1/").authorized([("X-Key", "canary")]))
    error = caught.value.with_traceback(None)
    del caught
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is httpx.Request and each.url.host == "127.0.0.1"]
    assert "canary" not in repr(vars(error))
