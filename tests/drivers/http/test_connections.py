from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import time
import types
from pathlib import Path

import pytest
import trustme
from tests.servers.http import head, http_server

from downhaul import TLS, ConnectError, Request, Settings, Timeout, TimeoutExceeded, User
from downhaul_http import HttpDriver, HttpOptions


async def answer(exchange):
    """Answer with a small file."""
    await exchange.respond(body=b"hello")


def sockets():
    """Count the sockets of this process."""
    found = 0
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(file.readlink()).startswith("socket:")
    return found


async def test_a_connection_serves_again(fetch):
    """One connection serves requests that come one after another, empty answers included."""

    async def script(exchange):
        if exchange.target == "/none":
            await exchange.send(head(204))
        else:
            await exchange.respond(body=b"hello")

    with http_server(script) as server:
        for target in ("/a", "/none", "/b"):
            await fetch(Request(server.url(target)))
        await fetch(Request(server.url("/a"), verb="stat"))
        assert (server.connections, len(server.requests)) == (1, 4)


async def test_no_limit_to_connections(driver, settings):
    """The driver sets no limit to connections: all of a hundred are open at one time."""
    everybody = asyncio.Event()

    async def one(url):
        async with driver.open(Request(url), settings) as payload:
            assert await anext(payload.body) == b"he"
            arrived.append(1)
            if len(arrived) == 100:
                everybody.set()
            await everybody.wait()

    async def script(exchange):
        await exchange.send(head(200, [("Content-Length", "5")]), b"he")
        await exchange.stall()

    arrived = []
    with http_server(script) as server:
        await asyncio.gather(*(one(server.url()) for _ in range(100)))
        assert server.peak == 100


@pytest.mark.parametrize("end", ["cut", "reset"])
async def test_a_kept_connection_that_died(end, fetch):
    """A kept connection that ends before the answer begins is replaced at once, and nobody hears of it."""

    async def script(exchange):
        if exchange.turn == 2:
            await getattr(exchange, end)()
        await exchange.respond(body=b"hello")

    with http_server(script) as server:
        for _ in range(4):
            assert (await fetch(Request(server.url())))[1] == b"hello"
        assert [each.turn for each in server.requests] == [1, 2, 1, 2, 1, 2, 1]


async def test_many_kept_connections_that_died(driver, settings, fetch):
    """Several dead connections in the pool are used up one after another, until a new one answers."""
    together = asyncio.Barrier(4)

    async def one(url):
        async with driver.open(Request(url), settings) as payload:
            await together.wait()
            async for _ in payload.body:
                pass

    async def script(exchange):
        if exchange.turn == 2:
            await exchange.cut()
        await exchange.respond(body=b"hello")

    with http_server(script) as server:
        await asyncio.gather(*(one(server.url()) for _ in range(4)))
        assert (await fetch(Request(server.url())))[1] == b"hello"
        assert server.connections == 5


async def test_a_fresh_connection_that_dies_is_an_error(fetch):
    """What happens on a fresh connection is not repeated behind anybody's back."""

    async def script(exchange):
        await exchange.cut()

    with http_server(script) as server:
        with pytest.raises(ConnectError):
            await fetch(Request(server.url()))
        assert len(server.requests) == 1


async def test_a_kept_connection_that_is_silent_is_an_error(fetch):
    """Only a dead connection is replaced, not a slow one."""

    async def script(exchange):
        if exchange.turn == 2:
            await exchange.stall()
        await exchange.respond(body=b"hello")

    settings = Settings(timeout=Timeout(read=0.2)).complete()
    with http_server(script) as server:
        await fetch(Request(server.url()), settings)
        with pytest.raises(TimeoutExceeded):
            await fetch(Request(server.url()), settings)
        assert len(server.requests) == 2


async def test_a_body_left_early_closes_its_connection(driver, settings, fetch):
    """Leaving before the end of the body closes the connection; the next request has another."""

    async def script(exchange):
        await exchange.send(head(200, [("Content-Length", "10")]), b"hello")
        if exchange.connection == 1:
            await exchange.stall()
        await exchange.send(b"world")

    with http_server(script) as server:
        async with driver.open(Request(server.url()), settings) as payload:
            assert await anext(payload.body) == b"hello"
        await server.until(lambda server: server.open == 0)
        assert (await fetch(Request(server.url())))[1] == b"helloworld"


async def test_an_exception_of_the_consumer_comes_out_as_it_is(driver, settings):
    """What is raised inside the context comes out unchanged, and the connection is closed."""

    async def script(exchange):
        await exchange.send(head(200, [("Content-Length", "10")]), b"hello")
        await exchange.stall()

    with http_server(script) as server:
        with pytest.raises(ZeroDivisionError):
            async with driver.open(Request(server.url()), settings) as payload:
                await anext(payload.body)
                raise ZeroDivisionError
        await server.until(lambda server: server.open == 0)


async def test_settings_have_their_own_connections(driver):
    """Connections are shared by equal settings only; time limits and retries make no difference."""
    same = [Settings(timeout=Timeout(read=n), retries=n).complete() for n in (1, 2)]
    other = [Settings(tls=TLS(verify=False)).complete(), Settings(options=[HttpOptions(keepalive_expiry=1)]).complete()]
    with http_server(answer) as server:
        for settings, connections in ((same[0], 1), (same[1], 1), (other[0], 2), (other[1], 3), (same[0], 3)):
            async with driver.open(Request(server.url()), settings) as payload:
                async for _ in payload.body:
                    pass
            assert server.connections == connections


async def test_users_have_their_own_connections(driver, settings):
    """A connection serves one user again and again, and nobody else; a token or key is told with each request."""
    basic, other = {"user": User("elmer", "1")}, {"user": User("elmer", "2")}
    spnego = {"headers": [("Authorization", "Negotiate YII=")]}
    turns = [
        ({}, 1), (basic, 2), (other, 3), (spnego, 4), ({"headers": [("authorization", "NTLM TlR=")]}, 5),
        ({"headers": [("Authorization", "Bearer a")]}, 5), ({"headers": [("X-Key", "k")]}, 5), (basic, 5), (other, 5),
        (spnego, 5), ({}, 5),
    ]  # fmt: skip
    with http_server(answer) as server:
        for credentials, connections in turns:
            request = Request(server.url())
            async with driver.open(request.authorized(**credentials) if credentials else request, settings) as payload:
                async for _ in payload.body:
                    pass
            assert server.connections == connections, credentials


async def test_idle_connections_expire(driver):
    """A connection that was idle for longer than allowed is not used again."""
    settings = Settings(options=[HttpOptions(keepalive_expiry=0)]).complete()
    with http_server(answer) as server:
        for expected in (1, 2):
            async with driver.open(Request(server.url()), settings) as payload:
                async for _ in payload.body:
                    pass
            await asyncio.sleep(0.001)
            assert server.connections == expected


async def test_what_is_unused_is_closed(driver, settings):
    """Connections idle for longer than allowed are closed even if nobody asks again, those in use are not."""
    with http_server(answer) as server:
        async with driver.open(Request(server.url()), settings) as payload:
            driver._senders.evict(time.monotonic() + 3600)
            await asyncio.sleep(0)
            async for _ in payload.body:
                pass
        driver._senders.evict(time.monotonic() + 14)
        await asyncio.sleep(0)
        assert server.open == 1
        driver._senders.evict(time.monotonic() + 16)
        await server.until(lambda server: server.open == 0)
        assert len(driver._senders._pools) == 1
        driver._senders.evict(time.monotonic() + 61)
        assert driver._senders._pools == {}


async def test_it_is_looked_after_by_itself(driver, settings, monkeypatch):
    """What is unused is looked for every now and then, and no more once nothing is left."""
    monkeypatch.setattr("downhaul_http._pools._PERIOD", 0.01)
    monkeypatch.setattr("downhaul_http._pools._UNUSED", 0.02)
    with http_server(answer) as server:
        async with driver.open(Request(server.url()), settings) as payload:
            async for _ in payload.body:
                pass
        await server.until(lambda server: server.open == 0)
    assert driver._senders._pools == {}


async def test_closing_closes_everything(settings):
    """Closing the driver closes its idle connections."""
    driver = HttpDriver()
    with http_server(answer) as server:
        async with driver.open(Request(server.url()), settings) as payload:
            async for _ in payload.body:
                pass
        assert server.open == 1
        await driver.aclose()
        await server.until(lambda server: server.open == 0)


@types.coroutine
def cancelled_at(coroutine, step):
    """Run *coroutine*, and cancel the task when it waits for the *step*-th time."""
    waits, thrown, value = 0, None, None
    while True:
        try:
            if thrown is None:
                waiting_for = coroutine.send(value)
            else:
                waiting_for, thrown = coroutine.throw(thrown), None
        except StopIteration:
            return waits
        waits += 1
        if waits == step:
            asyncio.current_task().cancel()
        try:
            value = yield waiting_for
        except BaseException as reason:
            thrown = reason


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_cancelled_anywhere(scheme, framing, tmp_path):
    """Cancelled at each await in turn, a download leaves no socket and no task, and the pool works on."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)

    async def script(exchange):
        if framing == "length":
            await exchange.send(head(200, [("Content-Length", "10")]), b"hello", b"world")
        else:
            await exchange.send(head(200, [("Transfer-Encoding", "chunked")]), b"5\r\nhello\r\n", b"0\r\n\r\n")

    async def one(driver):
        async with driver.open(Request(server.url()), settings) as payload:
            async for _ in payload.body:
                pass

    settings = Settings(tls=TLS(ca_certificate=tmp_path / "ca.pem")).complete()
    with http_server(script, tls=context if scheme == "https" else None) as server:
        before, tasks = sockets(), asyncio.all_tasks()
        driver = HttpDriver()
        for keep in (False, True):
            step = 0
            while True:
                step += 1
                if not keep:
                    await driver.aclose()
                    driver = HttpDriver()
                task = asyncio.ensure_future(run(cancelled_at(one(driver), step)))
                await asyncio.wait([task])
                if not task.cancelled() and task.result() < step:
                    break
                await one(driver)
            assert step > 1
            # One connection serves what comes one after another: those that were cancelled are all gone.
            await server.until(lambda server: server.open <= 1)
        await driver.aclose()
        await server.until(lambda server: server.open == 0)
        for _ in range(20):
            gc.collect()
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == tasks
        assert sockets() <= before


async def run(awaitable):
    """Make a coroutine of *awaitable*."""
    return await awaitable


async def test_nothing_runs_on_after_leaving_early(driver, settings):
    """After leaving a body in the middle, no task is left behind."""

    async def script(exchange):
        await exchange.send(head(200, [("Content-Length", "10")]), b"hello")
        await exchange.stall()

    with http_server(script) as server:
        tasks = asyncio.all_tasks()
        async with driver.open(Request(server.url()), settings) as payload:
            await anext(payload.body)
        del payload
        for _ in range(20):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == tasks
