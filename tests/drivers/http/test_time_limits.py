from __future__ import annotations

import asyncio
import time

import pytest
from tests.servers.http import head, http_server

from downhaul import ProtocolError, Request, Settings, Timeout, TimeoutExceeded

LONG = 15.0


def limits(**limits):
    """Settings with these time limits, the others long."""
    return Settings(timeout=Timeout(**{"connect": LONG, "read": LONG, **limits})).complete()


async def expires(fetch, url, phase, settings):
    """Fetch *url* and see it exceed the limit of *phase*, long before any other one."""
    start = time.monotonic()
    with pytest.raises(TimeoutExceeded) as caught:
        await fetch(Request(url), settings)
    assert caught.value.phase == phase
    assert caught.value.transient
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert time.monotonic() - start < LONG / 2


async def silence(reader, writer):
    """Read for ever, write nothing."""
    while await reader.read(65536):
        pass


async def drip(writer, piece):
    """Write *piece* again and again, a moment apart."""
    while True:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.02)


async def test_connect_covers_the_handshake(fetch):
    """A server that accepts and never speaks TLS exceeds the limit of connect, and the socket is closed."""
    with http_server(raw=silence) as server:
        await expires(fetch, f"https://127.0.0.1:{server.port}/", "connect", limits(connect=0.2))
        await server.until(lambda server: server.open == 0)


async def test_a_proxy_that_does_not_connect(fetch):
    """A proxy that never opens the tunnel exceeds the limit of connect, and the socket is closed."""
    with http_server(raw=silence) as server:
        settings = Settings(timeout=Timeout(connect=0.2, read=LONG), proxy=server.url()).complete()
        await expires(fetch, "https://host.invalid/", "connect", settings)
        await server.until(lambda server: server.open == 0)


@pytest.mark.parametrize("setting", [{"read": 0.2}, {"head": 0.2}, {"head": 0.2, "read": None}])
async def test_no_answer(setting, fetch):
    """A server that never answers exceeds the limit of the head: `head`, or `read` where that is not set."""
    with http_server(raw=silence) as server:
        await expires(fetch, server.url(), "head", limits(**setting))
        await server.until(lambda server: server.open == 0)


@pytest.mark.parametrize("piece", [b"x", head(100), head(103, [("Link", "</x>")])])
@pytest.mark.parametrize("setting", [{"head": 0.3}, {"read": 0.05}])
async def test_a_head_without_end(piece, setting, fetch):
    """A head that comes drop by drop, or 1xx after 1xx, has a limit in all: `head`, or ten times `read`."""

    async def endless(reader, writer):
        if piece == b"x":
            writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        await drip(writer, piece)

    with http_server(raw=endless) as server:
        await expires(fetch, server.url(), "head", limits(**setting))


async def test_a_flood_of_informational_heads(fetch, road):
    """1xx sent as fast as the line allows ends at the limit of the head too: that of its bytes, or of its time."""

    async def flood(reader, writer):
        while True:
            writer.write(head(100) * 1000)
            await writer.drain()

    with http_server(raw=flood) as server:
        if road == "library":
            await expires(fetch, server.url(), "head", limits(head=0.3))
            return
        with pytest.raises(ProtocolError, match="more than 262144 bytes"):
            await fetch(Request(server.url()))


async def test_a_silent_body(fetch):
    """A body that falls silent exceeds the limit of idleness, and the socket is closed."""

    async def script(exchange):
        await exchange.send(head(200, [("Content-Length", "10")]), b"hello")
        await exchange.stall()

    with http_server(script) as server:
        await expires(fetch, server.url(), "idle", limits(read=0.2))
        await server.until(lambda server: server.open == 0)


async def test_a_head_may_think_longer_than_a_body(fetch):
    """With `head` set, the head may be silent for longer than `read`."""

    async def script(exchange):
        await asyncio.sleep(0.3)
        await exchange.respond(body=b"hello")

    with http_server(script) as server:
        assert (await fetch(Request(server.url()), limits(read=0.1, head=LONG)))[1] == b"hello"


async def test_a_slow_body_is_not_a_silent_one(fetch):
    """A body may take many times `read`, as long as it is never silent for that long."""

    async def script(exchange):
        await exchange.send(head(200, [("Content-Length", "20")]))
        for _ in range(20):
            await asyncio.sleep(0.03)
            await exchange.send(b"x")

    with http_server(script) as server:
        assert (await fetch(Request(server.url()), limits(read=0.25)))[1] == b"x" * 20


async def test_the_limit_of_connect_ends_with_the_connection(fetch):
    """The time that a server takes to answer does not count as connecting, whether the connection is new or not."""

    async def script(exchange):
        await asyncio.sleep(0.3)
        await exchange.respond(body=b"hello")

    with http_server(script) as server:
        for _ in range(2):
            assert (await fetch(Request(server.url()), limits(connect=0.15)))[1] == b"hello"
        assert server.connections == 1


async def test_no_limits(fetch):
    """All limits may be None."""

    async def script(exchange):
        await exchange.respond(body=b"hello")

    with http_server(script) as server:
        settings = limits(connect=None, read=None)
        assert (await fetch(Request(server.url()), settings))[1] == b"hello"


async def test_a_consumer_may_take_its_time(driver, settings):
    """The limits watch the server, not whoever reads the body."""

    async def script(exchange):
        await exchange.send(head(200, [("Content-Length", "10")]), b"hello")
        await exchange.send(b"world")

    with http_server(script) as server:
        async with driver.open(Request(server.url()), limits(read=0.05, connect=0.05, head=0.05)) as payload:
            await asyncio.sleep(0.3)
            assert b"".join([block async for block in payload.body]) == b"helloworld"
