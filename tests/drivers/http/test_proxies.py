from __future__ import annotations

import asyncio
import base64
import ssl
import sys

import pytest
from tests.servers.http import head, http_server

from downhaul import TLS, ConnectError, ProtocolError, ProxyError, Request, Settings, StatusError, TLSError

BASIC = "Basic " + base64.b64encode(b"me@home:secret").decode()
CREDENTIALS = "me%40home:secret@"


def through(proxy, **fields):
    """Settings with a proxy."""
    return Settings(proxy=proxy, **fields).complete()


def with_credentials(url):
    """The URL with a name and a password in it."""
    return url.replace("://", f"://{CREDENTIALS}")


async def forward(exchange):
    """Answer with what was asked for."""
    await exchange.respond(body=f"{exchange.method} {exchange.target}".encode())


async def tunnel(exchange):
    """Be a proxy that connects to whatever CONNECT names."""
    assert exchange.method == "CONNECT"
    host, _, port = exchange.target.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await exchange.send(head(200))

    async def pump(source, target):
        try:
            while block := await source.read(65536):
                target.write(block)
                await target.drain()
        except OSError:
            pass
        finally:
            target.close()

    await asyncio.gather(pump(reader, exchange.writer), pump(exchange.reader, writer))


@pytest.fixture(scope="module")
def context(ca):
    """The TLS of a server that the authority vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


async def test_http_through_a_proxy(fetch):
    """A request to http goes to the proxy with its whole URL and the proxy's credentials."""
    with http_server(forward) as proxy:
        _, content = await fetch(Request("http://host.invalid/a%20b"), through(with_credentials(proxy.url())))
        assert content == b"GET http://host.invalid/a%20b"
        assert proxy.requests[0].header("Proxy-Authorization") == BASIC


async def test_https_through_a_proxy(ca, context, fetch):
    """A request to https goes through a tunnel; the proxy's credentials stay with the proxy."""
    settings = {"tls": TLS(ca_certificate=ca.cert_pem.bytes().decode())}
    with http_server(forward, tls=context) as server, http_server(tunnel) as proxy:
        request = Request(server.url("/x")).authorized([("X-Key", "k")])
        _, content = await fetch(request, through(with_credentials(proxy.url()), **settings))
        assert content == b"GET /x"
        connect, got = proxy.requests[0], server.requests[0]
        assert (connect.method, connect.header("Proxy-Authorization")) == ("CONNECT", BASIC)
        assert (connect.header("X-Key"), got.header("X-Key")) == (None, "k")
        assert got.header("Proxy-Authorization") is None


async def test_a_proxy_by_https(ca, context, fetch):
    """The proxy itself may be reached by TLS, and its certificate is checked by the same authorities."""
    with http_server(forward, tls=context) as proxy:
        trusting = through(proxy.url(), tls=TLS(ca_certificate=ca.cert_pem.bytes().decode()))
        assert (await fetch(Request("http://host.invalid/"), trusting))[1] == b"GET http://host.invalid/"
        with pytest.raises(TLSError):
            await fetch(Request("http://host.invalid/"), through(proxy.url()))


async def test_a_proxy_sees_no_client_certificate(ca, fetch):
    """A client certificate is for the origin: a proxy that asks for one gets none."""

    async def peer(exchange):
        await exchange.respond(body=repr(exchange.writer.get_extra_info("ssl_object").getpeercert()).encode())

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    own = ca.issue_cert("me@example.org").private_key_and_cert_chain_pem.bytes().decode()
    tls = TLS(ca_certificate=ca.cert_pem.bytes().decode(), client_certificate=own)
    with http_server(peer, tls=context) as server:
        shown = (await fetch(Request(server.url()), Settings(tls=tls).complete()))[1]
        hidden = (await fetch(Request("http://host.invalid/"), through(server.url(), tls=tls)))[1]
    assert b"me@example.org" in shown
    assert hidden in {b"None", b"{}"}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("status", "transient"), [(407, False), (403, False), (502, True), (503, True)])
async def test_proxies_that_refuse(scheme, status, transient, fetch):
    """What a proxy refuses is its own error where it can be told apart: always with https, and with 407."""

    async def refuse(exchange):
        await exchange.respond(status)

    with http_server(refuse) as proxy:
        own = scheme == "https" or status == 407
        with pytest.raises(ProxyError if own else StatusError) as caught:
            await fetch(Request(f"{scheme}://host.invalid/"), through(with_credentials(proxy.url())))
    assert "proxy" in str(caught.value) or not own
    assert "secret" not in str(caught.value)
    assert caught.value.transient is transient
    assert caught.value.__context__ is None


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_proxies_that_are_not_there(scheme, fetch):
    """A proxy that cannot be reached is an error of the proxy, worth another try; one without address is not."""
    with pytest.raises(ProxyError) as caught:
        await fetch(Request(f"{scheme}://host.invalid/"), through("http://127.0.0.1:1/"))
    assert caught.value.transient
    with pytest.raises(ProxyError) as caught:
        await fetch(Request(f"{scheme}://host.invalid/"), through("http://proxy.invalid/"))
    assert "secret" not in str(caught.value)


async def test_a_tunnel_to_what_speaks_no_tls(fetch):
    """A proxy that answers CONNECT with rubbish is an error of the tree."""

    async def rubbish(exchange):
        await exchange.send(head(200), b"rubbish rubbish rubbish")
        await exchange.cut()

    with http_server(rubbish) as proxy, pytest.raises((TLSError, ProtocolError, ConnectError)):
        await fetch(Request("https://host.invalid/"), through(proxy.url()))


@pytest.mark.parametrize("url", ["gopher://host/", "ftp://host/", "http://1.2.3.999/", "socks4://host/"])
async def test_what_is_no_proxy(url, fetch):
    """A URL that is no proxy's is an error of the proxy."""
    with pytest.raises(ProxyError) as caught:
        await fetch(Request("http://host.invalid/"), through(with_credentials(url)))
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


async def test_socks_without_its_package(fetch, monkeypatch):
    """A SOCKS proxy without the package for it says which package is missing."""
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(ProxyError, match="socksio"):
        await fetch(Request("http://host.invalid/"), through("socks5://127.0.0.1:1/"))


async def test_the_environment_counts_only_when_asked(fetch, monkeypatch):
    """Proxies of the environment are used with environment=True only, unless the settings name one or no_proxy does."""

    async def other(exchange):
        await exchange.respond(body=b"other")

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "no_proxy", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    with http_server(forward) as proxy, http_server(other) as second, http_server(other) as direct:
        monkeypatch.setenv("http_proxy", proxy.url())
        url = direct.url("/x")
        assert (await fetch(Request(url)))[1] == b"other"
        assert (await fetch(Request(url), Settings(environment=True).complete()))[1] == f"GET {url}".encode()
        assert (await fetch(Request(url), through(second.url(), environment=True)))[1] == b"other"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert (await fetch(Request(url), Settings(environment=True).complete()))[1] == b"other"
        assert len(proxy.requests) == 1


async def test_a_proxy_without_a_scheme_in_the_environment(fetch, monkeypatch):
    """The environment may name a proxy as host:port, and one for all schemes."""
    for name in ("HTTP_PROXY", "http_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http_server(forward) as proxy:
        monkeypatch.setenv("all_proxy", f"127.0.0.1:{proxy.port}")
        settings = Settings(environment=True).complete()
        assert (await fetch(Request("http://host.invalid/"), settings))[1] == b"GET http://host.invalid/"
