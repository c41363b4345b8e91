from __future__ import annotations

import asyncio
import threading

import pytest
from tests.servers.http import head, http_server

from downhaul import ConnectError, NotFound, ProtocolError, Redirected, Request, Truncated, Version


def raw(*pieces, end="keep"):
    """A script that sends *pieces* and then keeps, cuts or resets the connection."""

    async def script(exchange):
        await exchange.send(*pieces)
        if end != "keep":
            await getattr(exchange, end)()

    return script


CHUNKED = head(200, [("Transfer-Encoding", "chunked")])
FIVE = head(200, [("Content-Length", "5")])
PLAIN = head(200)


@pytest.mark.parametrize(
    ("pieces", "end", "content", "size", "proof"),
    [
        ((FIVE, b"hello"), "keep", b"hello", 5, "length"),
        ((FIVE, b"he", b"ll", b"o"), "keep", b"hello", 5, "length"),
        ((head(200, [("Content-Length", "0")]),), "keep", b"", 0, "length"),
        ((CHUNKED, b"5\r\nhello\r\n", b"0\r\n\r\n"), "keep", b"hello", None, "final chunk"),
        ((CHUNKED, b"0\r\n\r\n"), "keep", b"", None, "final chunk"),
        ((CHUNKED, b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nDigest: x\r\n\r\n"), "keep", b"hello", None, "final chunk"),
        ((PLAIN, b"hello"), "cut", b"hello", None, "unproven"),
        ((PLAIN,), "cut", b"", None, "unproven"),
        ((head(200, version="HTTP/1.0"), b"hello"), "cut", b"hello", None, "unproven"),
        ((head(200, [("Content-Length", "5")], "HTTP/1.0"), b"hello"), "cut", b"hello", 5, "length"),
        ((head(204),), "keep", b"", 0, "length"),
        ((head(100), head(102), FIVE, b"hello"), "keep", b"hello", 5, "length"),
        (
            (head(200, [("Content-Encoding", "gzip"), ("Content-Length", "5")]), b"hello"), "keep", b"hello", 5,
            "length",
        ),
    ],
    ids=[
        "length", "length in pieces", "length 0", "chunks", "no chunk", "extension and trailer", "until it closes",
        "nothing until it closes", "1.0", "1.0 with a length", "no content", "informational heads", "coded",
    ],
)  # fmt: skip
async def test_framings(pieces, end, content, size, proof, fetch):
    """Each framing delivers the bytes as sent, and says by what they are known to be complete."""
    with http_server(raw(*pieces, end=end)) as server:
        info, got = await fetch(Request(server.url()))
    assert (got, info.size, info.proof) == (content, size, proof)


@pytest.mark.parametrize("end", ["cut", "reset"])
@pytest.mark.parametrize(
    "pieces",
    [(FIVE,), (FIVE, b"h"), (FIVE, b"hell"), (CHUNKED, b"5\r\nhello\r\n"), (CHUNKED, b"5\r\nhel"), (CHUNKED, b"5")],
)
async def test_early_ends(pieces, end, fetch):
    """A body that ends before it is complete, by a close or a reset, is Truncated, and worth another try."""
    with http_server(raw(*pieces, end=end)) as server, pytest.raises(Truncated) as caught:
        await fetch(Request(server.url()))
    assert caught.value.transient
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_a_reset_where_the_end_is_unknown(driver, settings):
    """A reset is no end, even where only the end of the connection marks the end of the file."""
    seen = threading.Event()

    async def script(exchange):
        await exchange.send(PLAIN, b"hello")
        await asyncio.to_thread(seen.wait, 20)
        await exchange.reset()

    with http_server(script) as server:
        async with driver.open(Request(server.url()), settings) as payload:
            assert await anext(payload.body) == b"hello"
            seen.set()
            with pytest.raises(Truncated):
                await anext(payload.body)


@pytest.mark.parametrize(
    "pieces",
    [
        (CHUNKED, b"x\r\nhello\r\n0\r\n\r\n"),
        (CHUNKED, b"5\r\nhelloXX0\r\n\r\n"),
        (CHUNKED, b"-5\r\nhello\r\n0\r\n\r\n"),
        (CHUNKED, b"f" * 21 + b"\r\nhello"),
    ],
)
async def test_malformed_chunks(pieces, fetch):
    """Chunks that cannot be read are a broken protocol."""
    with http_server(raw(*pieces)) as server, pytest.raises(ProtocolError):
        await fetch(Request(server.url()))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA\0b: c\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1001 + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 400_000,
    ],
    ids=lambda answer: repr(answer[:60]),
)
async def test_malformed_heads(answer, fetch):
    """A head that cannot be read, or has no end, is a broken protocol."""
    with http_server(raw(answer)) as server, pytest.raises(ProtocolError) as caught:
        await fetch(Request(server.url()))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("end", ["cut", "reset"])
@pytest.mark.parametrize("pieces", [(), (b"HTTP/1.1 200 OK\r\nContent-Le",), (head(100),)])
async def test_no_answer(pieces, end, fetch):
    """A fresh connection that ends before the head is complete is ConnectError, and is asked once."""
    with http_server(raw(*pieces, end=end)) as server:
        with pytest.raises(ConnectError):
            await fetch(Request(server.url()))
        assert len(server.requests) == 1


async def test_surplus_bytes_are_nobodys_answer(fetch):
    """Bytes after the end of an answer are not taken for the answer to the next request."""
    forged = head(200, [("Content-Length", "4")]) + b"evil"

    async def script(exchange):
        if exchange.connection == 1:
            await exchange.send(FIVE + b"hello" + forged)
        else:
            await exchange.respond(body=b"good")

    with http_server(script) as server:
        assert (await fetch(Request(server.url())))[1] == b"hello"
        assert (await fetch(Request(server.url())))[1] == b"good"
        assert server.connections == 2


@pytest.mark.parametrize("first", [head(204), head(304), head(200, [("Content-Length", "5")])])
async def test_a_body_where_none_belongs(first, fetch):
    """A body after 204, 304 or the answer to HEAD is not taken for the next answer."""

    async def script(exchange):
        if exchange.connection == 1:
            await exchange.send(first + head(200, [("Content-Length", "4")]) + b"evil")
        else:
            await exchange.respond(body=b"good")

    with http_server(script) as server:
        verb = "stat" if b" 200 " in first else "get"
        await fetch(Request(server.url(), verb=verb, unless=Version('"a"')))
        assert (await fetch(Request(server.url())))[1] == b"good"


@pytest.mark.parametrize("status", [302, 404])
async def test_small_bodies_of_refusals_keep_the_connection(status, fetch):
    """The small body of a redirect or an error is read past, so that the connection serves again."""

    async def script(exchange):
        await exchange.respond(status, b"<html>", [("Location", "/x")])

    with http_server(script) as server:
        for _ in range(3):
            with pytest.raises((Redirected, NotFound)):
                await fetch(Request(server.url()))
        assert server.connections == 1


@pytest.mark.parametrize("status", [302, 404])
@pytest.mark.parametrize("framing", [[], [("Transfer-Encoding", "chunked")], [("Content-Length", "1" + "0" * 15)]])
async def test_endless_bodies_of_refusals_are_not_read(status, framing, fetch):
    """The body of a redirect or an error is not read where it is large or its end unknown."""
    sent = 0

    async def script(exchange):
        nonlocal sent
        await exchange.send(head(status, [("Location", "/x"), *framing]))
        while True:
            await exchange.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            sent += 1

    with http_server(script) as server:
        with pytest.raises((Redirected, NotFound)):
            await fetch(Request(server.url()))
        await server.until(lambda server: server.open == 0)
    assert sent < 1000


async def test_a_promised_body_that_never_comes(fetch):
    """The small body of an error that never comes does not hold the error back for long."""

    async def script(exchange):
        await exchange.send(head(404, [("Content-Length", "10")]))
        await exchange.stall()

    with http_server(script) as server:
        async with asyncio.timeout(5):
            with pytest.raises(NotFound):
                await fetch(Request(server.url()))
        await server.until(lambda server: server.open == 0)


async def test_blocks_are_bytes_as_they_come(driver, settings):
    """Blocks are handed on as they arrive: the first is here before the server sends the second."""
    seen = threading.Event()

    async def script(exchange):
        await exchange.send(head(200, [("Content-Length", "10")]), b"hello")
        await asyncio.to_thread(seen.wait, 20)
        await exchange.send(b"world")

    with http_server(script) as server:
        async with driver.open(Request(server.url()), settings) as payload:
            assert await anext(payload.body) == b"hello"
            seen.set()
            assert await anext(payload.body) == b"world"
            with pytest.raises(StopAsyncIteration):
                await anext(payload.body)
            with pytest.raises(StopAsyncIteration):
                await anext(payload.body)


async def test_a_failure_stays_a_failure(driver, settings):
    """Reading on after a failure fails again; it does not look like the end of the file."""
    with http_server(raw(CHUNKED, b"5\r\nhello\r\n", end="cut")) as server:
        async with driver.open(Request(server.url()), settings) as payload:
            with pytest.raises(Truncated):
                async for _ in payload.body:
                    pass
            with pytest.raises(Truncated):
                await anext(payload.body)


async def test_a_cancelled_wait_is_not_the_end(driver, settings):
    """Whoever gives up waiting for a block and reads on gets an error, not the end of the file."""

    async def script(exchange):
        await exchange.send(CHUNKED, b"5\r\nhello\r\n")
        await exchange.stall()

    with http_server(script) as server:
        async with driver.open(Request(server.url()), settings) as payload:
            assert await anext(payload.body) == b"hello"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(payload.body)
            with pytest.raises(Truncated):
                await anext(payload.body)


async def test_reading_after_leaving(driver, settings):
    """A body that was left before its end cannot be read further."""
    with http_server(raw(FIVE, b"he")) as server:
        async with driver.open(Request(server.url()), settings) as payload:
            pass
        with pytest.raises(Truncated):
            await anext(payload.body)
