"""`Transport` under a client of httpx, and where it is the driver's promise too, the driver."""

from __future__ import annotations

import asyncio
import select
import threading

import httpx
import pytest
from tests.drivers.http.test_connection import nothing_left
from tests.drivers.http.test_connections import cancelled_at, run
from tests.mem import until
from tests.servers.http import head, http_server

from downhaul import TLS, ConnectError, ProtocolError, Request, Settings, Truncated
from downhaul_http import Transport
from downhaul_http._connection import Connection

pytestmark = pytest.mark.parametrize("road", ["direct"], indirect=True)

LONG = 15.0
HELLO = b"hello"
FIVE = head(200, [("Content-Length", "5")])
KEPT = FIVE + HELLO
CHUNKED = head(200, [("Transfer-Encoding", "chunked")])
EVIL = head(200, [("Content-Length", "4")]) + b"evil"


@pytest.fixture(params=["http", "https"])
def tls(request, identity):
    """What a server is made with: TLS or None, one after the other."""
    return identity if request.param == "https" else None


@pytest.fixture
async def transport(trust):
    """A transport, closed at the end."""
    async with Transport(trust) as transport:
        yield transport


@pytest.fixture
async def client(transport):
    """A client with that transport."""
    async with httpx.AsyncClient(transport=transport, timeout=LONG) as client:
        yield client


@pytest.fixture(params=["transport", "driver"])
def get(request, client, fetch, ca):
    """GET a URL whole, by a client with the transport and by the driver, one after the other."""

    async def by_client(url):
        response = await client.get(url)
        assert response.status_code == 200
        return response.content

    async def by_driver(url):
        return (await fetch(Request(url), Settings(tls=TLS(ca_certificate=ca.cert_pem.bytes().decode())).complete()))[1]

    return by_client if request.param == "transport" else by_driver


async def answer(exchange):
    """Answer with a small file."""
    await exchange.respond(body=HELLO)


def turns(server):
    """The turns that its connections had, in the order of the requests."""
    return [(each.connection, each.turn) for each in server.requests]


# Kept connections.


@pytest.mark.parametrize("end", ["cut", "reset"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_connection_that_died_idle(method, end, client, transport, tls):
    """A connection that was closed while it was idle is not used: so any method may be sent."""

    async def script(exchange):
        await answer(exchange)
        await getattr(exchange, end)()

    with http_server(script, tls=tls) as server:
        for count in (1, 2, 3):
            assert (await client.request(method, server.url(), content=b"")).content == HELLO
            assert turns(server)[-1] == (count, 1)
            await server.until(lambda server: server.open == 0)
            await until(lambda: not any(connection.is_quiet for connection in transport._open))


def dying(end, when):
    """A script whose first connection ends after one answer: while the next request is coming, or once it is read."""

    async def script(exchange):
        if exchange.connection == 1 and exchange.turn == 2:
            await getattr(exchange, end)()
        await answer(exchange)
        if exchange.connection == 1 and when == "while it is sent":
            await exchange.reader.readexactly(1)
            await getattr(exchange, end)()

    return script


@pytest.mark.parametrize("end", ["cut", "reset"])
@pytest.mark.parametrize("when", ["while it is sent", "once it is read"])
async def test_a_kept_connection_that_dies(when, end, get, tls):
    """A GET on a kept connection that ends before it answers is sent again at once, and nobody hears of it."""
    with http_server(dying(end, when), tls=tls) as server:
        for _ in range(3):
            assert await get(server.url()) == HELLO
        assert (server.connections, turns(server)[-2:]) == (2, [(2, 1), (2, 2)])


@pytest.mark.parametrize("end", ["cut", "reset"])
@pytest.mark.parametrize("when", ["while it is sent", "once it is read"])
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"])
async def test_what_may_be_sent_again(method, when, end, client):
    """Other methods are sent again on such an end if they are idempotent; a POST is not, it may have had its effect."""
    with http_server(dying(end, when)) as server:
        await client.get(server.url())
        if method in {"POST", "PATCH"}:
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                await client.request(method, server.url(), content=b"")
            assert server.connections == 1
        else:
            assert (await client.request(method, server.url(), content=b"")).status_code == 200
            assert (server.connections, turns(server)[-1]) == (2, (2, 1))


async def test_a_body_that_is_made_once_is_not_sent_again(client):
    """A request whose body cannot be had twice fails with its connection."""

    async def pieces():
        yield HELLO

    with http_server(dying("cut", "once it is read")) as server:
        await client.get(server.url())
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await client.put(server.url(), content=pieces())
        assert server.connections == 1


@pytest.mark.parametrize("end", ["cut", "reset"])
@pytest.mark.parametrize("sent", [(), (FIVE[:20],), (head(103),)], ids=["nothing", "half a head", "an interim answer"])
async def test_a_fresh_connection_that_dies(sent, end, get, tls):
    """On a fresh connection that ends before it answers, a request fails, and is sent once."""

    async def script(exchange):
        await exchange.send(*sent)
        await getattr(exchange, end)()

    with http_server(script, tls=tls) as server:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError, ConnectError)):
            await get(server.url())
        assert turns(server) == [(1, 1)]


async def test_an_answer_that_has_begun_is_not_asked_for_again(get, tls):
    """Once the head of an answer is there, an end is an error, on a kept connection too."""

    async def script(exchange):
        if exchange.turn == 1:
            await answer(exchange)
        else:
            await exchange.send(FIVE + b"he")
            await exchange.cut()

    with http_server(script, tls=tls) as server:
        await get(server.url())
        with pytest.raises((httpx.RemoteProtocolError, Truncated)):
            await get(server.url())
        assert turns(server) == [(1, 1), (1, 2)]


@pytest.fixture
def dialled(monkeypatch):
    """The sockets of all connections, as they are made."""
    made, original = [], Connection.connection_made

    def connection_made(self, transport):
        made.append(transport.get_extra_info("socket"))
        original(self, transport)

    monkeypatch.setattr(Connection, "connection_made", connection_made)
    return made


@pytest.mark.parametrize("when", ["seen by the loop", "behind its back"])
async def test_bytes_that_nobody_asked_for(when, get, dialled, tls):
    """What comes on an idle connection is not taken for the next answer, not even if the loop has not seen it yet."""
    gate = threading.Event()

    async def script(exchange):
        await exchange.respond(body=b"good")
        if exchange.connection == 1:
            await asyncio.to_thread(gate.wait, LONG)
            await exchange.send(EVIL)

    with http_server(script, tls=tls) as server:
        assert await get(server.url()) == b"good"
        gate.set()
        select.select(dialled, [], [], LONG)  # the loop stands still
        if when == "seen by the loop":
            await server.until(lambda server: server.open == 0)
        assert await get(server.url()) == b"good"
        assert server.connections == 2


@pytest.mark.parametrize(
    "pieces", [(KEPT + EVIL,), (FIVE + b"hel", b"lo" + EVIL), (head(204) + EVIL,), (head(304) + EVIL,)]
)
async def test_more_than_an_answer(pieces, client, tls):
    """Bytes after an answer are no part of it, and the connection is not used again."""

    async def script(exchange):
        if exchange.connection == 1:
            await exchange.send(*pieces)
        else:
            await exchange.respond(body=b"good")

    with http_server(script, tls=tls) as server:
        assert (await client.get(server.url())).content in {HELLO, b""}
        assert (await client.get(server.url())).content == b"good"
        assert server.connections == 2


async def test_close_is_heeded_on_both_sides(client):
    """Who says that it will close is not asked again on that connection, and who says so asks no more itself."""

    async def script(exchange):
        await exchange.respond(body=HELLO, headers=[("Connection", "close")] if exchange.target == "/close" else [])

    with http_server(script) as server:
        for path, headers in (("/close", {}), ("/", {"Connection": "Close"}), ("/", {}), ("/", {})):
            await client.get(server.url(path), headers=headers)
        assert turns(server) == [(1, 1), (2, 1), (3, 1), (3, 2)]


# Answers.


@pytest.mark.parametrize(
    ("pieces", "end"),
    [
        ((FIVE,), "cut"), ((FIVE, b"hell"), "cut"), ((FIVE, b"hell"), "reset"), ((CHUNKED, b"5\r\nhello\r\n"), "cut"),
        ((CHUNKED, b"5\r\nhel"), "reset"), ((CHUNKED, b"5\r\nhello\r\n0\r\n"), "cut"), ((head(200), HELLO), "reset"),
        ((CHUNKED, b"5\r\nhelloXX"), "stall"), ((head(103) + FIVE, b"he"), "cut"),
    ],
)  # fmt: skip
async def test_early_ends(pieces, end, get):
    """A body that ends before it is complete is an error, over a real connection as well, and is asked for once."""

    async def script(exchange):
        await exchange.send(*pieces)
        await getattr(exchange, end)()

    with http_server(script) as server:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError, Truncated, ProtocolError, ConnectError)):
            await get(server.url())
        assert len(server.requests) == 1


async def test_until_it_closes(client, fetch, tls, trust, ca):
    """A body without a length ends with its connection, and the driver calls that unproven."""

    async def script(exchange):
        await exchange.send(head(200), HELLO)
        await exchange.cut()

    with http_server(script, tls=tls) as server:
        assert (await client.get(server.url())).content == HELLO
        settings = Settings(tls=TLS(ca_certificate=ca.cert_pem.bytes().decode())).complete()
        info, got = await fetch(Request(server.url()), settings)
        assert (info.proof, got) == ("unproven", HELLO)


@pytest.mark.parametrize("status", [100, 102, 103])
async def test_interim_answers(status, client):
    """Interim answers are passed over, however many there are."""

    async def script(exchange):
        for _ in range(20):
            await exchange.send(head(status, [("Link", "</x>")]))
        await exchange.send(KEPT)

    with http_server(script) as server:
        for _ in range(2):
            response = await client.get(server.url())
            assert (response.status_code, response.content) == (200, HELLO)
        assert server.connections == 1


@pytest.mark.parametrize("said", [head(101, [("Upgrade", "x")]), head(100) * 20_000, b"\x15\3\1\0\2\2\x0a"])
async def test_answers_that_are_none(said, client):
    """Another protocol, a flood of interim answers, and what is no HTTP at all are errors at once."""

    async def script(exchange):
        await exchange.send(said)
        await exchange.stall()

    with http_server(script) as server:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(server.url())
        await server.until(lambda server: server.open == 0)


@pytest.mark.parametrize("framing", [[("Content-Length", "5")], [("Transfer-Encoding", "chunked")]])
@pytest.mark.parametrize("value", [b"f\xf6\xf6", "föö".encode(), b"\xff\xfe", b"foo"])
async def test_fields_come_as_they_were_sent(value, framing, client):
    """The fields of an answer have the bytes that were sent, whatever they encode, and so has the reason."""

    async def script(exchange):
        answer = head(200, [("X", "VALUE"), ("Location", "VALUE"), *framing])
        await exchange.send(answer.replace(b"OK", b"VALUE").replace(b"VALUE", value))
        await exchange.send(HELLO if "Content-Length" in framing[0] else b"5\r\nhello\r\n0\r\n\r\n")

    with http_server(script) as server:
        response = await client.get(server.url())
        names = [name.encode() for name, _ in framing]
        assert [pair for pair in response.headers.raw if pair[0] not in names] == [(b"X", value), (b"Location", value)]
        assert response.reason_phrase == value.decode("ascii", "ignore")
        assert response.extensions["http_version"] == b"HTTP/1.1"
        assert response.content == HELLO


async def test_head_and_empty_answers(client):
    """Answers without a body end with their head, whatever it says."""

    async def script(exchange):
        status = int(exchange.target[1:])
        await exchange.send(head(status, [("Content-Length", "5")] if status != 204 else []))

    with http_server(script) as server:
        for method, status in (("HEAD", 200), ("GET", 204), ("GET", 304), ("HEAD", 404)):
            response = await client.request(method, server.url(f"/{status}"))
            assert (response.status_code, response.content) == (status, b"")
        assert server.connections == 1


# Requests.


async def echo(exchange):
    """Answer with the request: its head, and its body as it was sent."""
    length = exchange.header("Content-Length")
    body = b""
    if exchange.header("Transfer-Encoding"):
        body = await exchange.reader.readuntil(b"0\r\n\r\n")
    elif length:
        body = await exchange.reader.readexactly(int(length))
    fields = "".join(f"{name}: {value}\n" for name, value in exchange.headers)
    await exchange.respond(body=f"{exchange.method} {exchange.target}\n{fields}\n".encode() + body)


async def pieces(*pieces):
    """Yield *pieces*."""
    for piece in pieces:
        yield piece


async def test_a_body_that_is_streamed_is_sent_in_chunks(client, tls):
    """A body of unknown length is chunked, empty pieces left out, as an empty chunk would end it."""
    with http_server(echo, tls=tls) as server:
        for sent, expected in (
            ((), b"0\r\n\r\n"),
            ((b"", b"he", b"", b"llo" * 10), b"2\r\nhe\r\n1e\r\n" + b"llo" * 10 + b"\r\n0\r\n\r\n"),
        ):
            response = await client.post(server.url("/x?y"), content=pieces(*sent))
            said, _, body = response.content.partition(b"\n\n")
            assert said.startswith(b"POST /x?y\nHost: ")
            assert b"Transfer-Encoding: chunked" in said
            assert body == expected
        assert server.connections == 1


@pytest.mark.parametrize("content", [b"", HELLO, b"x" * 3_000_000, "pieces"])
async def test_a_body_of_known_length_is_sent_as_it_is(content, client, tls):
    """A body whose length is known is sent as it is, after a Content-Length, large ones too."""
    known = b"hello, world" if content == "pieces" else content
    given = pieces(b"hello", b"", b", world") if content == "pieces" else content
    with http_server(echo, tls=tls) as server:
        response = await client.post(server.url(), content=given, headers={"Content-Length": str(len(known))})
        said, _, body = response.content.partition(b"\n\n")
        assert b"Transfer-Encoding" not in said
        assert body == known


async def test_a_form_with_files(client):
    """A form with files is sent as it is, after the length that it has."""
    with http_server(echo) as server:
        response = await client.post(server.url(), data={"a": "1"}, files={"f": ("name", HELLO)})
        said, _, body = response.content.partition(b"\n\n")
        assert b"Content-Type: multipart/form-data" in said
        assert f"Content-Length: {len(body)}".encode() in said
        assert b"\r\n\r\nhello\r\n" in body


@pytest.mark.parametrize("length", ["0", "4", "6", "five", "-5", "5, 5", ""])
@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_length_that_is_not_that_of_the_body(length, is_streamed, client):
    """A body that is not as long as it is said to be is an error: the rest would be taken for the next request."""
    with http_server(echo) as server:
        await client.get(server.url())
        with pytest.raises(httpx.LocalProtocolError):
            await client.post(
                server.url(),
                content=pieces(b"he", b"llo") if is_streamed else HELLO,
                headers={"Content-Length": length},
            )
        assert (await client.get(server.url("/after"))).content.startswith(b"GET /after\n")


@pytest.mark.parametrize("length", ["2", "4"])
async def test_no_byte_is_sent_beyond_the_length(length, client):
    """Of a body that is longer than it is said to be, nothing is sent that would be taken for the next request."""

    async def listen(reader, writer):
        heard.append(await reader.read())

    heard = []
    with http_server(raw=listen) as server:
        with pytest.raises(httpx.LocalProtocolError):
            await client.post(server.url(), content=pieces(b"he", b"llo"), headers={"Content-Length": length})
        await server.until(lambda server: server.connections == 1 and server.open == 0)
    assert heard[0].partition(b"\r\n\r\n")[2] in {b"", b"he"}  # the connection is cut, and what was on its way with it


async def test_a_body_without_any_framing(transport):
    """A body of which the request says nothing is an error, for the same reason."""
    with http_server(echo) as server:
        request = httpx.Request("POST", server.url(), stream=Pieces(HELLO))
        with pytest.raises(httpx.LocalProtocolError):
            await transport.handle_async_request(request)
        await server.until(lambda server: server.connections == 1 and server.open == 0)


class Pieces(httpx.AsyncByteStream):
    """A body of some pieces."""

    def __init__(self, *pieces):
        self._pieces = pieces

    async def __aiter__(self):
        for piece in self._pieces:
            yield piece


@pytest.mark.parametrize("method", ["GET / HTTP/1.1\r\nX: y\r\n\r\nGET", "GET\n", "G\0T", "G T", "G\xc9T", ""])
async def test_a_method_that_would_be_more_is_refused(method, transport):
    """A method that is none is refused before anything is sent."""
    with http_server(echo) as server:
        with pytest.raises(httpx.LocalProtocolError):
            await transport.handle_async_request(httpx.Request(method, server.url()))
        assert server.connections == 0


@pytest.mark.parametrize(
    "fields",
    [
        [(b"X", b"a\r\nY: b")], [(b"X", b"a\nb")], [(b"X", b"a\rb")], [(b"X", b"a\0b")], [(b"X", b"a\x7fb")],
        [(b"X\r\nY", b"a")], [(b"X\n", b"a")], [(b"X\0", b"a")], [(b"X Y", b"a")], [(b"X:", b"a")], [(b"", b"a")],
        [(b"Transfer-Encoding", b"gzip")], [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"0")],
        [(b"Content-Length", b"0"), (b"Content-Length", b"1")],
    ],
)  # fmt: skip
async def test_a_field_that_would_be_more_is_refused(fields, transport):
    """A field that would be several, or would change where the request ends, is refused before anything is sent."""
    with http_server(echo) as server:
        with pytest.raises(httpx.LocalProtocolError):
            await transport.handle_async_request(httpx.Request("GET", server.url(), headers=[(b"Host", b"_"), *fields]))
        assert server.connections == 0


@pytest.mark.parametrize("target", [b"/ HTTP/1.1\r\nX: y", b"/a b", b"/\0", b"/\n", b"/\xff", b"/\x7f"])
async def test_a_target_that_would_be_more_is_refused(target, client):
    """A target that would not end where it should is refused before anything is sent, one that is odd is not."""
    with http_server(echo) as server:
        with pytest.raises(httpx.LocalProtocolError):
            await client.get(server.url(), extensions={"target": target})
        assert server.connections == 0
        assert (await client.get(server.url(), extensions={"target": b"*"})).content.startswith(b"GET *\n")


async def test_an_answer_before_the_end_of_the_request(client, tls, caplog):
    """An answer that comes early, from a server that closes then, is not lost, and nothing more is written."""

    async def script(exchange):
        await exchange.respond(413, b"too large", [("Connection", "close")])
        answered.set()
        await exchange.cut()

    async def endless():
        yield HELLO
        await asyncio.to_thread(answered.wait, LONG)
        await server.until(lambda server: server.open == 0)
        for _ in range(100):
            await asyncio.sleep(0)
            yield bytes(1000)

    answered = threading.Event()
    with http_server(script, tls=tls) as server:
        response = await client.post(server.url(), content=endless())
        assert (response.status_code, response.content) == (413, b"too large")
    assert not caplog.records or {record.name for record in caplog.records} <= {"httpx"}


async def test_a_body_that_fails_closes_the_connection(client):
    """What a body raises comes out as it is, and its connection is closed."""

    async def failing():
        yield HELLO
        raise ZeroDivisionError

    async def script(exchange):
        await exchange.stall()

    with http_server(script) as server:
        with pytest.raises(ZeroDivisionError):
            await client.post(server.url(), content=failing())
        await server.until(lambda server: server.connections == 1 and server.open == 0)


# Under a client.


async def test_streams_redirects_cookies_and_auth(client):
    """What a client does by itself works: streaming, redirects, cookies, authentication."""

    async def script(exchange):
        if exchange.target == "/redirect":
            await exchange.respond(302, b"<html>", [("Location", "/cookie"), ("Set-Cookie", "a=1")])
        elif exchange.target == "/cookie":
            await exchange.respond(body=(exchange.header("Cookie") or "").encode())
        elif exchange.header("Authorization") is None:
            await exchange.respond(401, b"who?", [("WWW-Authenticate", 'Digest realm="r", nonce="n", qop="auth"')])
        else:
            await exchange.respond(body=exchange.header("Authorization")[:15].encode())

    with http_server(script) as server:
        response = await client.get(server.url("/redirect"), follow_redirects=True)
        assert (response.content, [each.status_code for each in response.history]) == (b"a=1", [302])
        response = await client.get(server.url("/x"), auth=httpx.DigestAuth("me", "secret"))
        assert response.content == b"Digest username"
        response = await client.get(server.url("/x"), auth=("me", "secret"))
        assert response.content.startswith(b"Basic ")
        async with client.stream("GET", server.url("/cookie")) as response:
            assert [block async for block in response.aiter_raw()] == [b"a=1"]
        assert server.connections == 1


async def test_a_stream_that_is_left(client):
    """Leaving a body before its end closes its connection, leaving it at the end keeps it."""

    async def script(exchange):
        await exchange.send(head(200, [("Content-Length", "10")]), HELLO)
        if exchange.connection == 1:
            await exchange.stall()
        await exchange.send(b"world")

    with http_server(script) as server:
        async with client.stream("GET", server.url()) as response:
            assert await anext(response.aiter_raw()) == HELLO
        await server.until(lambda server: server.open == 0)
        for _ in range(2):
            async with client.stream("GET", server.url()) as response:
                assert await response.aread() == b"helloworld"
        assert turns(server) == [(1, 1), (2, 1), (2, 2)]


async def test_a_stream_that_was_closed_yields_nothing_of_others(client):
    """Whoever goes on with a body that was closed gets nothing of the answer that its connection carries now."""
    with http_server(answer) as server:
        async with client.stream("GET", server.url()) as first:
            blocks = aiter(first.stream)
            assert await anext(blocks) == HELLO
        async with client.stream("GET", server.url()) as second:
            with pytest.raises((StopAsyncIteration, httpx.StreamError)):
                await anext(blocks)
            assert await second.aread() == HELLO
        assert server.connections == 1


async def test_five_hundred_at_once(client):
    """Five hundred requests may be open at one time, and their connections serve again."""
    everybody = threading.Event()

    async def script(exchange):
        if len(server.requests) >= 500:
            everybody.set()
        if not everybody.is_set():
            await asyncio.to_thread(everybody.wait, LONG)
        await exchange.respond(body=exchange.target.encode())

    async def one(number):
        return (await client.get(server.url(f"/{number}"))).text

    with http_server(script) as server:
        for _ in range(2):
            assert await asyncio.gather(*map(one, range(500))) == [f"/{number}" for number in range(500)]
        assert (server.peak, server.connections) == (500, 500)


async def test_idle_connections_expire(trust):
    """A connection that was idle for longer than allowed is closed by itself, and the next request has another."""
    async with httpx.AsyncClient(transport=Transport(trust, keepalive_expiry=0.05), timeout=LONG) as client:
        with http_server(answer) as server, http_server(answer) as other:
            for count in (1, 2):
                await client.get(server.url())
                await asyncio.sleep(0.02)  # the second connection is in its time when that of the first is over
                await client.get(other.url())
                await server.until(lambda server: server.open == 0, 5)
                await other.until(lambda server: server.open == 0, 5)
                assert (server.connections, other.connections) == (count, count)


async def test_an_expired_connection_is_not_used(trust):
    """A connection that may not be idle at all serves once."""
    async with httpx.AsyncClient(transport=Transport(trust, keepalive_expiry=0), timeout=LONG) as client:
        with http_server(answer) as server:
            for _ in range(3):
                await client.get(server.url())
            assert turns(server) == [(1, 1), (2, 1), (3, 1)]


async def test_connections_that_never_expire(trust):
    """Without an expiry, a connection is kept for as long as the server keeps it."""
    async with httpx.AsyncClient(transport=Transport(trust, keepalive_expiry=None), timeout=LONG) as client:
        with http_server(answer) as server:
            for _ in range(3):
                await client.get(server.url())
                await asyncio.sleep(0.02)
            assert server.connections == 1


async def test_closing_closes_everything(trust, tls):
    """Closing a transport closes idle connections, and those in use, whose requests fail and are not sent again."""

    async def script(exchange):
        await (exchange.stall() if exchange.target == "/stall" else answer(exchange))

    transport = Transport(trust)
    with http_server(script, tls=tls) as server:
        async with nothing_left():
            client = httpx.AsyncClient(transport=transport, timeout=LONG)
            await asyncio.gather(client.get(server.url()), client.get(server.url()))
            stalled = [asyncio.ensure_future(client.get(server.url("/stall"))) for _ in range(3)]
            await client.get(server.url())
            await server.until(lambda server: sum(each.target == "/stall" for each in server.requests) == 3)
            await client.aclose()
            for each in stalled:
                with pytest.raises(httpx.TransportError):
                    await each
            await server.until(lambda server: server.open == 0)
            assert sum(each.target == "/stall" for each in server.requests) == 3
            del each, stalled


async def test_closing_while_a_connection_is_made(trust):
    """A connection that was being made when the transport was closed is not kept."""
    transport = Transport(trust, keepalive_expiry=None)
    with http_server(answer) as server:
        async with nothing_left():
            request = httpx.Request("GET", server.url())
            asking = asyncio.ensure_future(transport.handle_async_request(request))
            await asyncio.sleep(0)
            await transport.aclose()
            response = await asking
            assert await response.aread() == HELLO
            await server.until(lambda server: server.open == 0, 5)


# Limits and cancellation.


async def test_limits_of_time(client, transport, tls):
    """The limits of a client are in force: for the head, for each silence in the body, for sending."""

    async def script(exchange):
        if exchange.target == "/deaf":
            exchange.writer.transport.pause_reading()
            await asyncio.to_thread(gate.wait, LONG)
            await exchange.cut()
        if exchange.target == "/body":
            await exchange.send(FIVE, b"he")
        if exchange.target in {"/body", "/head"}:
            await exchange.stall()
        await answer(exchange)

    gate = threading.Event()
    short = {name: httpx.Timeout(LONG, **{name: 0.05}) for name in ("read", "write")}
    with http_server(script, tls=tls) as server:
        with pytest.raises(httpx.ReadTimeout):
            await client.get(server.url("/head"), timeout=short["read"])
        with pytest.raises(httpx.ReadTimeout):
            await client.get(server.url("/body"), timeout=short["read"])
        with pytest.raises(httpx.WriteTimeout):
            await client.post(server.url("/deaf"), content=bytes(16 << 20), timeout=short["write"])
        with pytest.raises(httpx.WriteTimeout):
            await client.post(server.url("/deaf"), content=pieces(*[bytes(1 << 20)] * 16), timeout=short["write"])
        gate.set()
        await server.until(lambda server: server.open == 0)
        for _ in range(2):
            assert (await client.get(server.url(), timeout=None)).content == HELLO
        assert turns(server)[-2:] == [(5, 1), (5, 2)]


async def test_the_limit_of_all_of_a_head(client):
    """A head that comes drop by drop may take ten times as long as a silence."""

    async def script(exchange):
        while True:
            await exchange.send(head(102))
            await asyncio.sleep(0.01)

    with http_server(script) as server:
        async with asyncio.timeout(LONG):
            with pytest.raises(httpx.ReadTimeout):
                await client.get(server.url(), timeout=0.03)


async def test_limits_of_connecting(client, trust):
    """A handshake that never ends, and a name that does not exist, are errors of connecting."""

    async def silence(reader, writer):
        while await reader.read(65_536):
            pass

    with http_server(raw=silence) as server:
        with pytest.raises(httpx.ConnectTimeout):
            await client.get(f"https://localhost:{server.port}/", timeout=httpx.Timeout(LONG, connect=0.05))
        await server.until(lambda server: server.open == 0)
    for url in ("http://x.invalid/", "http://127.0.0.1:1/", f"http://{'x' * 64}.invalid/"):
        with pytest.raises(httpx.ConnectError):
            await client.get(url)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "fresh"])
async def test_cancelled_at_every_step(kept, trust, tls):
    """Cancelled at each await in turn, a request leaves nothing behind, and the next one works."""
    size = 1 << 20

    async def script(exchange):
        if exchange.method == "POST":
            await exchange.reader.readexactly(size)
            await exchange.send(head(200, [("Content-Length", "10")]), HELLO)
            await asyncio.to_thread(go_on.wait, LONG)
            await exchange.send(b"world")
        else:
            await answer(exchange)

    async def one():
        try:
            async with client.stream("POST", server.url(), content=bytes(size)) as response:
                blocks = response.aiter_raw()
                assert await anext(blocks) == HELLO
                go_on.set()
                assert await anext(blocks) == b"world"
        finally:
            go_on.set()

    with http_server(script, tls=tls) as server:
        async with nothing_left():
            step = 0
            while True:
                step += 1
                go_on = threading.Event()
                transport = Transport(trust)
                async with httpx.AsyncClient(transport=transport, timeout=LONG) as client:
                    if kept:
                        await client.get(server.url())
                    task = asyncio.ensure_future(run(cancelled_at(one(), step)))
                    await asyncio.wait([task])
                    if not task.cancelled() and task.result() < step:
                        break
                    assert len(transport._open) <= 1
                    assert (await client.get(server.url())).content == HELLO
                    assert len(transport._open) == 1
            assert step > 2
            await server.until(lambda server: server.open == 0)


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_cancelled_while_sending(is_streamed, client, tls):
    """Cancelled while the server takes no more of it, a request leaves nothing behind, and the next one works."""

    async def script(exchange):
        if exchange.method == "POST":
            exchange.writer.transport.pause_reading()
            await asyncio.to_thread(cancelled.wait, LONG)
            await exchange.cut()
        await answer(exchange)

    cancelled = threading.Event()
    content = bytes(16 << 20)
    with http_server(script, tls=tls) as server:
        async with nothing_left():
            given = pieces(*[content[: 1 << 20]] * 16) if is_streamed else content
            sending = asyncio.ensure_future(client.post(server.url(), content=given))
            (connection,) = await found(client._transport._open)
            await until(lambda: connection._writable is not None)
            sending.cancel()
            await asyncio.wait([sending])
            cancelled.set()
            await server.until(lambda server: server.open == 0)
        assert (await client.get(server.url())).content == HELLO


async def found(connections):
    """Return *connections* once there are any."""
    await until(lambda: connections)
    return connections


async def test_a_connection_is_for_its_port(transport, monkeypatch):
    """Port 0, where nobody can listen, is not the port of the scheme."""

    async def dial(host, port, local_address):
        asked.append((host, port))
        raise OSError

    asked = []
    monkeypatch.setattr("downhaul_http._connecting._dial", dial)
    for url in ("http://a", "https://a", "http://a:0", "https://[::1]:8443"):
        with pytest.raises(httpx.ConnectError):
            await transport.handle_async_request(httpx.Request("GET", url))
    assert asked == [("a", 80), ("a", 443), ("a", 0), ("::1", 8443)]


# What is not for these connections.


@pytest.mark.parametrize(
    ("arguments", "method", "headers"),
    [
        ({"proxy": "http://127.0.0.1:1"}, "GET", {}), ({"http2": True}, "GET", {}), ({"uds": "/nowhere"}, "GET", {}),
        ({"retries": 1}, "GET", {}), ({}, "CONNECT", {}), ({}, "GET", {"Upgrade": "websocket"}),
        ({}, "POST", {"Expect": "100-continue"}),
    ],
)  # fmt: skip
async def test_what_the_library_does(arguments, method, headers, trust, monkeypatch):
    """Proxies, HTTP/2, Unix sockets, CONNECT, upgrades and expectations go to a transport of the library's own."""
    async with Transport(trust, **arguments) as transport:
        asked = []

        async def handle(request):
            asked.append(request)
            return httpx.Response(200)

        monkeypatch.setattr(transport._library, "handle_async_request", handle)
        request = httpx.Request(method, "http://127.0.0.1:1/", headers=headers)
        assert (await transport.handle_async_request(request)).status_code == 200
        assert asked == [request]


async def test_a_proxy_and_a_unix_socket(trust, tmp_path):
    """A request goes by way of a proxy, and over a Unix socket, where the transport is made with one."""
    with http_server(echo) as proxy:
        async with httpx.AsyncClient(transport=Transport(trust, proxy=proxy.url())) as client:
            assert (await client.get("http://x.invalid/a")).content.startswith(b"GET http://x.invalid/a\n")

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(KEPT)
        writer.close()

    path = tmp_path / "socket"
    async with (
        await asyncio.start_unix_server(serve, path),
        httpx.AsyncClient(transport=Transport(trust, uds=str(path))) as client,
    ):
        assert (await client.get("http://x.invalid/")).content == HELLO


async def test_other_schemes(client):
    """What is neither http nor https is not spoken."""
    with pytest.raises(httpx.UnsupportedProtocol):
        await client.get("ftp://x.invalid/")
