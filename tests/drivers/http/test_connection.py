"""`Connection` over real sockets: TLS, time, flow control, cancellation."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import itertools
import os
import select
import socket
import termios
import threading
import time
import tracemalloc
from contextlib import asynccontextmanager, contextmanager, suppress
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from tests.drivers.http.test_connections import cancelled_at, run, sockets
from tests.mem import until
from tests.servers.http import head, http_server

from downhaul import TLS, Request, Settings, Truncated
from downhaul_http._connecting import connect
from downhaul_http._connection import _READ_AHEAD as READ_AHEAD
from downhaul_http._connection import SCRATCH

pytestmark = pytest.mark.parametrize("road", ["direct"], indirect=True)

GET = b"GET / HTTP/1.1\r\nHost: _\r\n\r\n"
LONG = 15.0
HELLO = b"hello"
FIVE = head(200, [("Content-Length", "5")])
CHUNKED = head(200, [("Transfer-Encoding", "chunked")])


@pytest.fixture(params=["http", "https"])
def tls(request, identity):
    """What a server is made with: TLS or None, one after the other."""
    return identity if request.param == "https" else None


def dial(server, trust, seconds=LONG):
    """Connect to *server*."""
    origin = f"{server.scheme}://{server.host}:{server.port}"
    scratch = memoryview(bytearray(SCRATCH))
    return connect(origin, trust if server.scheme == "https" else None, None, scratch, seconds)


@asynccontextmanager
async def connected(server, trust=None):
    """A connection to *server*, which is closed in the end."""
    connection = await dial(server, trust)
    try:
        yield connection
    finally:
        await connection.aclose()


def ask(connection, silence=LONG, total=None):
    """Send a GET, and return the head of the answer."""
    return connection.ask(GET, has_body=True, silence=silence, total=total)


async def rest(connection, memory=None, silence=LONG):
    """Read to the end, by `readinto` some *memory* where that is given."""
    got = bytearray()
    if memory is None:
        while block := await connection.read(silence):
            got += block
    else:
        while size := await connection.readinto(memory, silence):
            got += memory[:size]
    return bytes(got)


def raw(*pieces, end=None):
    """A script that sends *pieces*, and then ends the connection in some way."""

    async def script(exchange):
        await exchange.send(*pieces)
        if end is not None:
            await getattr(exchange, end)()

    return script


# The end of TLS.


@contextmanager
def blunt_server(identity, *pieces, says_so):
    """Serve one request over TLS: send *pieces*, say that this is the end or not, and close without waiting.

    Yields a server, and an event for when that is done.
    """

    def serve():
        plain, _ = listener.accept()
        with plain, identity.wrap_socket(plain, server_side=True) as secured:
            secured.recv(65_536)
            for piece in pieces:
                secured.sendall(piece)
            if says_so:
                secured.setblocking(False)
                with suppress(OSError):  # it would wait for the same word of the client
                    secured.unwrap()
        done.set()

    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield SimpleNamespace(scheme="https", host="localhost", port=listener.getsockname()[1]), done
        thread.join()


@pytest.mark.parametrize("memory", [None, 3], ids=["read", "readinto"])
async def test_an_end_that_tls_knows_nothing_of(memory, identity, trust):
    """Where only its end tells that a body is complete, TLS has to confirm it: else anybody on the way can cut it."""
    memory = memory and memoryview(bytearray(memory))
    with blunt_server(identity, head(200), HELLO, says_so=True) as (server, _):
        async with connected(server, trust) as connection:
            await ask(connection)
            assert await rest(connection, memory) == HELLO
    with blunt_server(identity, head(200), HELLO, says_so=False) as (server, _):
        async with connected(server, trust) as connection:
            await ask(connection)
            with pytest.raises(httpx.RemoteProtocolError, match="peer closed the connection"):
                await rest(connection, memory)


@pytest.mark.parametrize("says_so", [True, False])
@pytest.mark.parametrize("pieces", [(FIVE, HELLO), (CHUNKED, b"5\r\nhello\r\n0\r\n\r\n"), (FIVE + HELLO,)])
async def test_a_body_that_is_complete_needs_no_end_of_tls(pieces, says_so, identity, trust):
    """Where the answer itself tells that it is complete, it does not matter how the connection ends."""
    with blunt_server(identity, *pieces, says_so=says_so) as (server, _):
        async with connected(server, trust) as connection:
            await ask(connection)
            assert await rest(connection) == HELLO


async def test_the_driver_hears_of_an_end_that_tls_knows_nothing_of(identity, ca, fetch):
    """For the driver, a body whose end TLS has not confirmed is Truncated, and one that it has is unproven as ever."""
    settings = Settings(tls=TLS(ca_certificate=ca.cert_pem.bytes().decode())).complete()
    with blunt_server(identity, head(200), HELLO, says_so=False) as (server, _), pytest.raises(Truncated):
        await fetch(Request(f"https://localhost:{server.port}/"), settings)
    with blunt_server(identity, head(200), HELLO, says_so=True) as (server, _):
        info, got = await fetch(Request(f"https://localhost:{server.port}/"), settings)
    assert (info.proof, got) == ("unproven", HELLO)


async def everything_arrived(connection):
    """Wait until the loop has read all that the server has sent, and that it has closed."""

    def is_read():
        """Tell whether the end has come and nothing before it is unread, or the socket has been closed for that."""
        if sock.fileno() < 0:
            return True
        return bool(poll.poll(0)) and not any(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))

    sock = connection._transport.get_extra_info("socket")
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    await until(is_read)
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("memory", [1000, 100_000, 300_000])
@pytest.mark.parametrize("says_so", [True, False])
async def test_nothing_is_lost_at_the_end_of_tls(says_so, memory, identity, trust):
    """What had arrived when the server closed is read to its last byte, however late and in however small pieces."""
    body = os.urandom(READ_AHEAD + 200_000)
    memory = memoryview(bytearray(memory))
    pieces = head(200, [("Content-Length", str(len(body)))]), body
    with blunt_server(identity, *pieces, says_so=says_so) as (server, done):
        async with connected(server, trust) as connection:
            await ask(connection)
            await asyncio.to_thread(done.wait)
            await everything_arrived(connection)
            assert await rest(connection, memory) == body


async def test_surplus_that_tls_has_not_yet_delivered(identity, trust):
    """A connection is not quiet while TLS holds bytes that nobody asked for, which the socket knows nothing of."""
    go_on = threading.Event()

    async def script(exchange):
        await exchange.send(FIVE)
        await asyncio.to_thread(go_on.wait, LONG)
        await exchange.send(HELLO + b"more")
        await exchange.stall()

    with http_server(script, tls=identity) as server:
        async with connected(server, trust) as connection:
            await ask(connection)
            memory = memoryview(bytearray(5))
            reading = asyncio.ensure_future(connection.readinto(memory, LONG))
            await asyncio.sleep(0)
            go_on.set()
            await until(lambda: reading.done() or connection.is_reusable)
            assert not (connection.is_reusable and connection.is_quiet)
            await reading
            assert bytes(memory) == HELLO


# Bodies.


@pytest.mark.parametrize("memory", [None, 1013, 65_536, 1_000_003], ids=["read", "1013", "65536", "1000003"])
async def test_a_large_body_arrives_byte_for_byte(memory, tls, trust):
    """Some MiB arrive as they were sent, by `read` and by `readinto` memory of odd sizes, with TLS and without."""
    body = os.urandom(3 << 20)
    memory = memory and memoryview(bytearray(memory))
    with http_server(raw(head(200, [("Content-Length", str(len(body)))]), body), tls=tls) as server:
        async with connected(server, trust) as connection:
            await ask(connection)
            assert await rest(connection, memory) == body
            assert connection.is_reusable
            assert connection.is_quiet


@bounds(max_examples=60, deadline=None)
@given(sizes=st.lists(st.sampled_from([None, 50, 1000, 5000, 70_000, 300_000]), min_size=1, max_size=6))
async def test_mixed_ways_to_read(sizes, mixed_server):
    """`read` and `readinto` may take turns, and each goes on where the other was."""
    body, server = mixed_server
    async with connected(server) as connection:
        await ask(connection)
        got, turn = bytearray(), 0
        while True:
            size = sizes[turn % len(sizes)]
            turn += 1
            if size is None:
                block = await connection.read(LONG)
            else:
                memory = memoryview(bytearray(size))
                block = memory[: await connection.readinto(memory, LONG)]
            if not block:
                break
            got += block
        assert got == body


@pytest.fixture(scope="module")
def mixed_server():
    """A body, and a server that sends it in pieces of all sizes."""
    body = os.urandom(300_000)
    edges = [0, 1, 8, 1000, 1001, 20_000, 299_999, 300_000]
    pieces = [body[begin:end] for begin, end in itertools.pairwise(edges)]
    with http_server(raw(head(200, [("Content-Length", str(len(body)))]), *pieces)) as server:
        yield body, server


@pytest.mark.parametrize("way", ["read", "readinto"])
async def test_who_does_not_read_keeps_little(way, tls, trust):
    """While nobody reads, a sender of 32 MiB is stopped, and little of what it has sent is kept; then all is there."""
    block = bytes(65_536)
    pieces = [block] * 512
    with http_server(raw(head(200, [("Content-Length", str(32 << 20))]), *pieces), tls=tls) as server:
        async with connected(server, trust) as connection:
            await ask(connection)
            first = await connection.read(LONG)
            tracemalloc.start()
            try:
                for _ in range(50):
                    await asyncio.sleep(0.001)
                assert connection._waiting < READ_AHEAD + SCRATCH
                assert tracemalloc.get_traced_memory()[1] < 2 << 20
            finally:
                tracemalloc.stop()
            memory = None if way == "read" else memoryview(bytearray(200_000))
            assert len(first) + len(await rest(connection, memory)) == 32 << 20


@pytest.mark.parametrize("pieces", [(head(200), HELLO), (FIVE, b"he"), (CHUNKED, b"5\r\nhel")])
async def test_closing_is_no_end_of_a_body(pieces, tls, trust):
    """Whoever reads while the connection is closed on this side gets an error, never a body that looks complete."""
    with http_server(raw(*pieces, end="stall"), tls=tls) as server:
        async with connected(server, trust) as connection:
            await ask(connection)
            await connection.read(LONG)
            reading = asyncio.ensure_future(connection.read(LONG))
            await asyncio.sleep(0)
            await connection.aclose()
            with pytest.raises(httpx.TransportError):
                await reading


# Time.


async def test_a_short_limit_after_a_long_one():
    """A short limit counts though the clock was set for a long one before."""
    with http_server(raw(FIVE, b"he", end="stall")) as server:
        async with connected(server) as connection:
            await ask(connection, silence=1000)
            assert await connection.read(1000) == b"he"
            begin = time.monotonic()
            with pytest.raises(httpx.ReadTimeout):
                await connection.read(0.05)
            assert 0.05 <= time.monotonic() - begin < LONG / 2


async def test_a_long_limit_after_a_short_one():
    """A long limit counts though the clock was set for a short one before."""
    gate = threading.Event()

    async def script(exchange):
        await exchange.send(FIVE, b"he")
        await asyncio.to_thread(gate.wait, LONG)
        await exchange.send(b"llo")

    with http_server(script) as server:
        async with connected(server) as connection:
            await ask(connection, silence=0.05)
            assert await connection.read(0.05) == b"he"
            asyncio.get_running_loop().call_later(0.1, gate.set)
            assert await connection.read(LONG) == b"llo"


async def test_nothing_fires_on_an_idle_connection():
    """A limit ends with what it was set for: a connection may be idle for longer."""
    with http_server(raw(FIVE, HELLO)) as server:
        async with connected(server) as connection:
            for _ in range(2):
                await ask(connection, silence=0.05, total=0.05)
                assert await rest(connection, silence=0.05) == HELLO
                await asyncio.sleep(0.1)
                assert connection.is_reusable
                assert connection.is_quiet


@pytest.mark.parametrize("way", ["head", "read", "readinto"])
async def test_what_came_in_time_is_in_time(way, tls, trust):
    """What arrived within its limit counts, though the loop was busy for longer and looks at it afterwards."""
    gate = threading.Event()

    async def script(exchange):
        if way != "head":
            await exchange.send(FIVE)
        await asyncio.to_thread(gate.wait, LONG)
        await exchange.send(FIVE + HELLO if way == "head" else HELLO)

    with http_server(script, tls=tls) as server:
        async with connected(server, trust) as connection:
            if way == "head":
                reading = asyncio.ensure_future(ask(connection, silence=0.1))
            else:
                await ask(connection)
                memory = memoryview(bytearray(5))
                reading = connection.read(0.1) if way == "read" else connection.readinto(memory, 0.1)
                reading = asyncio.ensure_future(reading)
            await asyncio.sleep(0)
            gate.set()
            time.sleep(0.2)  # noqa: ASYNC251 - the loop is busy
            await reading
            assert await rest(connection) == (b"" if way != "head" else HELLO)
            assert connection.is_reusable


async def test_a_head_drop_by_drop(tls, trust):
    """A head of 300 bytes may come one byte at a time."""
    answer = head(200, [("X", "y" * 250), ("Content-Length", "5")]) + HELLO

    async def script(exchange):
        for place in range(len(answer)):
            await exchange.send(answer[place : place + 1])
            await asyncio.sleep(0)

    with http_server(script, tls=tls) as server:
        async with connected(server, trust) as connection:
            assert (await ask(connection)).status == 200
            assert await rest(connection) == HELLO


async def test_a_head_drop_by_drop_without_end():
    """A head that never ends comes to the limit for all of it, though it is never silent for long."""

    async def script(exchange):
        await exchange.send(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            await exchange.send(b"y")
            await asyncio.sleep(0.005)

    with http_server(script) as server:
        async with connected(server) as connection:
            begin = time.monotonic()
            with pytest.raises(httpx.ReadTimeout):
                await ask(connection, silence=LONG, total=0.2)
            assert 0.2 <= time.monotonic() - begin < LONG / 2


@pytest.mark.parametrize(
    ("sent", "total"), [((), None), ((b"HTTP/1.1 2",), None), ((head(100),), None), ((), 1000)],
    ids=["nothing", "a part", "an interim answer", "before the total"],
)  # fmt: skip
async def test_silence_before_the_answer(sent, total):
    """A server that falls silent before it has answered comes to the limit of silence, and the connection is closed."""
    with http_server(raw(*sent, end="stall")) as server:
        async with connected(server) as connection:
            with pytest.raises(httpx.ReadTimeout):
                await ask(connection, silence=0.05, total=total)
            await server.until(lambda server: server.open == 0)


@pytest.mark.parametrize("memory", [None, 10], ids=["read", "readinto"])
@pytest.mark.parametrize("pieces", [(FIVE, b"he"), (CHUNKED, b"2\r\nhe\r\n"), (head(200), b"he")])
async def test_silence_in_the_body(pieces, memory):
    """A body that falls silent comes to the limit of silence, after what there was of it, and stays an error."""
    memory = memory and memoryview(bytearray(memory))
    with http_server(raw(*pieces, end="stall")) as server:
        async with connected(server) as connection:
            await ask(connection)
            assert await connection.read(LONG) == b"he"
            for _ in range(2):
                with pytest.raises(httpx.ReadTimeout):
                    await rest(connection, memory, silence=0.05)
            await server.until(lambda server: server.open == 0)


async def test_a_server_that_does_not_take_the_request(tls, trust):
    """A request that the server does not read comes to the limit of silence."""

    async def deaf(reader, writer):
        writer.transport.pause_reading()
        await asyncio.to_thread(gate.wait, LONG)

    gate = threading.Event()
    with http_server(raw=deaf, tls=tls) as server:
        async with connected(server, trust) as connection:
            connection.begin(has_body=True)
            with pytest.raises(httpx.WriteTimeout):
                await connection.send(bytes(16 << 20), 0.1)
            gate.set()


async def test_a_connection_that_is_never_made():
    """A server whose queue is full comes to the limit of connecting, and leaves no socket behind."""
    before = sockets()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        server = SimpleNamespace(scheme="http", host="127.0.0.1", port=listener.getsockname()[1])
        waiting = [socket.socket() for _ in range(4)]  # more than the queue has room for
        try:
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(listener.getsockname())
            with pytest.raises(httpx.ConnectTimeout):
                await dial(server, None, 0.1)
        finally:
            for each in waiting:
                each.close()
    assert sockets() == before


async def test_a_handshake_that_never_ends(trust):
    """A server that never speaks TLS comes to the limit of connecting, and leaves no socket behind."""

    async def silence(reader, writer):
        while await reader.read(65_536):
            pass

    with http_server(raw=silence) as server:
        secured = SimpleNamespace(scheme="https", host="localhost", port=server.port)
        with pytest.raises(httpx.ConnectTimeout):
            await dial(secured, trust, 0.1)
        await server.until(lambda server: server.connections == 1 and server.open == 0)


# Cancellation.


def timers():
    """The timers of the loop that are still to fire."""
    return {each for each in asyncio.get_running_loop()._scheduled if not each.cancelled()}


@asynccontextmanager
async def nothing_left():
    """See to it that no task, socket or timer is left behind; those of a server go a moment after it says so."""
    await asyncio.sleep(0)
    gc.collect()
    before, tasks, clocks = sockets(), asyncio.all_tasks(), timers()
    yield
    gc.collect()
    for _ in range(20):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    assert timers() <= clocks
    async with asyncio.timeout(LONG):
        while sockets() > before:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.005)


async def test_cancelled_at_every_step(tls, trust):
    """Cancelled at each await in turn, from connecting to the last byte, an exchange leaves nothing behind."""
    size = 1 << 20

    async def script(exchange):
        await exchange.reader.readexactly(size)
        await exchange.send(head(200, [("Content-Length", "10")]), HELLO)
        if await exchange.reader.read(1):  # it has been received
            await exchange.send(b"world")

    async def one(received):
        connection = await dial(server, trust)
        try:
            connection.begin(has_body=True)
            await connection.send(b"POST / HTTP/1.1\r\nHost: _\r\n\r\n" + bytes(size), LONG)
            await connection.head(LONG, LONG)
            while len(received) < 5:
                received += await connection.read(LONG)
            connection._transport.write(b"!")
            memory = memoryview(bytearray(100))
            received += memory[: await connection.readinto(memory, LONG)]
        finally:
            await connection.aclose()

    with http_server(script, tls=tls) as server:
        async with nothing_left():
            step = 0
            while True:
                step += 1
                received = bytearray()
                task = asyncio.ensure_future(run(cancelled_at(one(received), step)))
                await asyncio.wait([task])
                if not task.cancelled() and task.result() < step:
                    break
            assert step > 4
            assert received == b"helloworld"
            await server.until(lambda server: server.open == 0)


async def test_cancelled_while_sending(tls, trust):
    """Cancelled while the server takes no more of it, a request leaves nothing behind."""

    async def deaf(reader, writer):
        writer.transport.pause_reading()
        await asyncio.to_thread(cancelled.wait, LONG)

    cancelled = threading.Event()
    with http_server(raw=deaf, tls=tls) as server:
        async with nothing_left(), connected(server, trust) as connection:
            connection.begin(has_body=True)
            sending = asyncio.ensure_future(connection.send(bytes(16 << 20), LONG))
            await until(lambda: connection._writable is not None)
            sending.cancel()
            await asyncio.wait([sending])
            await connection.aclose()
            cancelled.set()
            await server.until(lambda server: server.open == 0)


async def test_nothing_is_written_after_a_cancellation(tls, trust):
    """Memory that was given to `readinto` is not written to once that was cancelled; the bytes go to who reads next."""
    gate = threading.Event()

    async def script(exchange):
        await exchange.send(FIVE)
        await asyncio.to_thread(gate.wait, LONG)
        await exchange.send(HELLO)

    with http_server(script, tls=tls) as server:
        async with connected(server, trust) as connection:
            await ask(connection)
            memory = bytearray(5)
            reading = asyncio.ensure_future(connection.readinto(memoryview(memory), LONG))
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            gate.set()
            assert await rest(connection) == HELLO
            assert memory == bytes(5)
            del reading  # its exception, and by that its frames
            memory.append(0)  # nobody holds a view of it


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_cancelled_readinto_is_not_the_end(framing, driver, settings):
    """Whoever gives up filling memory and goes on with the body of the driver gets an error, not a hole in the file."""
    pieces = (FIVE, b"he") if framing == "length" else (CHUNKED, b"2\r\nhe\r\n")
    with http_server(raw(*pieces, end="stall")) as server:
        async with driver.open(Request(server.url()), settings) as payload:
            memory = memoryview(bytearray(5))
            assert await payload.body.readinto(memory) == 2
            reading = asyncio.ensure_future(payload.body.readinto(memory))
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            with pytest.raises(Truncated):
                await payload.body.readinto(memory)
            with pytest.raises(Truncated):
                await anext(payload.body)
