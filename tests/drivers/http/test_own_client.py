from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
import pytest
from tests.servers.http import http_server

from downhaul import (
    BufferWriter,
    ConnectError,
    Context,
    Plugin,
    PluginError,
    Redirected,
    RedirectError,
    Request,
    Settings,
    Timeout,
    TimeoutExceeded,
    User,
    hookimpl,
)
from downhaul_http import HttpDriver

CONFIGURED = {
    "follow_redirects": True,
    "auth": ("own", "canary"),
    "headers": {"X-Own": "canary", "User-Agent": "own"},
    "cookies": {"session": "canary"},
    "params": {"param": "canary"},
    "base_url": "http://elsewhere.invalid/",
    "trust_env": False,
}


@pytest.fixture
async def client():
    """A client that is set up for everything that a driver must not do."""
    async with httpx.AsyncClient(**CONFIGURED) as client:
        yield client


async def script(exchange):
    """Redirect to what the query says, or set a cookie."""
    if exchange.target.startswith("/to"):
        await exchange.respond(302, b"<html>", [("Location", exchange.target.partition("?")[2])])
    await exchange.respond(body=b"hello", headers=[("Set-Cookie", "other=1")])


async def test_it_is_used_and_left_open(client, settings):
    """One's own client serves the driver, survives it, and is usable afterwards."""
    driver = HttpDriver(client=client)
    with http_server(script) as server:
        async with driver.open(Request(server.url("/f?a=1")), settings) as payload:
            assert [block async for block in payload.body] == [b"hello"]
        await driver.aclose()
        assert not client.is_closed
        assert (await client.get(server.url())).text == "hello"
        assert server.connections == 1
        sent = server.requests[0]
        assert sent.target == "/f?a=1"
        assert sent.header("Cookie") is None
        assert sent.header("Authorization").startswith("Basic ")
        assert (sent.header("X-Own"), sent.header("User-Agent")) == ("canary", "own")
        assert sent.header("Accept-Encoding") == "identity"


async def test_it_follows_no_redirect(client, settings):
    """A client that follows redirects is kept from it, and gives nothing of its own to where they lead."""
    driver = HttpDriver(client=client)
    with http_server(script) as server, http_server(script) as other:
        with pytest.raises(Redirected) as caught:
            async with driver.open(Request(server.url(f"/to?{other.url('/f')}")), settings):
                pass
        assert other.requests == []
        async with driver.open(caught.value.request, settings):
            pass
        sent = other.requests[0]
        assert sent.target == "/f"
        assert "canary" not in str(sent.headers)
        assert sent.header("Authorization") is None


async def test_a_mirror_gets_nothing_of_the_clients_own(client):
    """What the client holds is for the origin of the download; a mirror that a plugin aims at sees none of it."""

    class Elsewhere(Plugin):
        def __init__(self, url):
            self.url = url

        @hookimpl
        async def prepare(self, transfer):
            transfer.request = replace(transfer.request, url=self.url)

    with http_server(script) as server, http_server(script) as mirror:
        async with Context(drivers={"http": HttpDriver(client=client)}) as context:
            writer = BufferWriter()
            await context.download(server.url("/f"), writer, plugins=[Elsewhere(mirror.url("/f"))]).run()
            assert writer.content() == b"hello"
            assert "canary" not in str(mirror.requests[0].headers)
            assert mirror.requests[0].header("Authorization") is None
            await context.download(server.url("/f"), writer).run()
            assert server.requests[0].header("X-Own") == "canary"


async def test_the_downloads_own_settings_go_first(client, settings):
    """Header fields of the download stand in place of the client's."""
    driver = HttpDriver(client=client)
    request = Request("http://x/", headers=(("X-Own", "mine"), ("User-Agent", "mine")))
    with http_server(script) as server:
        async with driver.open(replace(request, url=server.url()), settings):
            pass
        sent = server.requests[0]
        assert (sent.header("X-Own"), sent.header("User-Agent")) == ("mine", "mine")


@pytest.mark.parametrize("location", ["http://[bad/", "mailto:x", "http://host:port/"])
async def test_redirects_that_httpx_cannot_read(location, client, settings):
    """A Location that the client trips over is a redirect that leads nowhere."""
    driver = HttpDriver(client=client)
    with http_server(script) as server:
        with pytest.raises((RedirectError, Redirected)) as caught:
            async with driver.open(Request(server.url(f"/to?{location}")), settings):
                pass
        assert isinstance(caught.value, RedirectError)


async def test_its_failures_are_errors_of_the_tree(settings):
    """What any transport raises is translated."""

    async def fail(request):
        raise httpx.ConnectError("refused")

    async with httpx.AsyncClient(transport=httpx.MockTransport(fail)) as client:
        with pytest.raises(ConnectError):
            async with HttpDriver(client=client).open(Request("http://host/"), settings):
                pass


async def test_mistakes_come_through(settings):
    """A mistake in one's own transport, and a client that was closed, are not taken for the network's."""

    async def fail(request):
        raise ZeroDivisionError

    async with httpx.AsyncClient(transport=httpx.MockTransport(fail)) as client:
        with pytest.raises(ZeroDivisionError):
            async with HttpDriver(client=client).open(Request("http://host/"), settings):
                pass
    with pytest.raises(RuntimeError):
        async with HttpDriver(client=client).open(Request("http://host/"), settings):
            pass


def test_it_may_be_made_for_each_context():
    """A function makes a client on the loop of each context, once; it serves all downloads, and is closed with it."""
    made = []

    def make():
        made.append(httpx.AsyncClient(headers={"X-Own": "yes"}, trust_env=False))
        return made[-1]

    driver = HttpDriver(client=make)
    with http_server(script) as server:
        for number in (1, 2):
            with Context(drivers={"http": driver}) as context:
                for _ in range(3):
                    context.download(server.url(), BufferWriter())()
                assert [client.is_closed for client in made] == [True] * (number - 1) + [False]
            assert (len(made), server.connections) == (number, number)
            server.wait_until(lambda server: server.open == 0)
        assert {sent.header("X-Own") for sent in server.requests} == {"yes"}
    assert all(client.is_closed for client in made)


async def test_it_is_for_one_loop(client):
    """A client that was given is refused on another loop than its own, by a sentence that says what to do."""
    driver = HttpDriver(client=client)
    with http_server(script) as server:
        async with Context(drivers={"http": driver}) as context:
            await context.download(server.url(), BufferWriter()).run()
        elsewhere = Context(drivers={"http": driver})
        try:
            with pytest.raises(PluginError, match=r"another event loop.*HttpDriver\(client=lambda: httpx.AsyncClient"):
                await elsewhere.download(server.url(), BufferWriter()).run()
        finally:
            await asyncio.to_thread(elsewhere.close)
        assert (await client.get(server.url())).text == "hello"


async def test_what_is_made_must_be_a_client(settings):
    """What the function returns is checked."""
    with pytest.raises(TypeError, match=r"HttpDriver\(client=…\) made no httpx.AsyncClient, but int"):
        async with HttpDriver(client=lambda: 7).open(Request("http://127.0.0.1:1/"), settings):
            pass


def test_it_must_be_asynchronous():
    """A synchronous client is refused."""
    with httpx.Client() as client, pytest.raises(TypeError, match="AsyncClient"):
        HttpDriver(client=client)


async def test_the_user_of_the_download_is_sent_too(settings):
    """A client without authentication sends the user of the download."""
    with http_server(script) as server:
        async with httpx.AsyncClient(trust_env=False) as client:
            request = Request(server.url()).authorized(user=User("u", "p"))
            async with HttpDriver(client=client).open(request, settings):
                pass
        assert server.requests[0].header("Authorization") == "Basic dTpw"


async def test_its_time_limits_are_the_downloads():
    """The time limits of the settings are in force, not the client's."""

    async def stall(exchange):
        await exchange.stall()

    with http_server(stall) as server:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            settings = Settings(timeout=Timeout(read=0.2)).complete()
            with pytest.raises(TimeoutExceeded):
                async with HttpDriver(client=client).open(Request(server.url()), settings):
                    pass
