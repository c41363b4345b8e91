"""What the bytes of an answer mean: `Connection` on a wire in memory, beside h11 alone."""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import time
import tracemalloc
from dataclasses import dataclass, field

import h11
import httpx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.servers.http import head

from downhaul import Request
from downhaul_http._connection import _READ_AHEAD as READ_AHEAD
from downhaul_http._connection import SCRATCH, Connection
from downhaul_http._fields import MOST_BYTES, text
from downhaul_http._heads import read_plain
from downhaul_http._requests import _PLAIN as PLAIN_URLS
from downhaul_http._requests import plain_target

pytestmark = pytest.mark.parametrize("road", ["direct"], indirect=True)

EXAMPLES = settings(max_examples=200, deadline=None)
HELLO = b"hello"
KEPT = head(200, [("Content-Length", "5")]) + HELLO
CHUNKED = head(200, [("Transfer-Encoding", "chunked")])
EARLY = head(103, [("Link", "</x>")])


class Wire(asyncio.Transport):
    """The transport of a connection in memory: the test is the server, and sends, closes or resets."""

    scratch = memoryview(bytearray(SCRATCH))
    idle: socket.socket

    def __init__(self, *, has_body=True):
        super().__init__({"socket": self.idle})
        self.is_open, self.is_paused = True, False
        self.connection = Connection(self.scratch)
        self.connection.connection_made(self)
        self.connection.begin(has_body=has_body)

    def send(self, *segments):
        """Let *segments* arrive one after another, as far as the connection takes them."""
        for segment in segments:
            left = memoryview(segment)
            while left and self.is_open:
                memory = self.connection.get_buffer(-1)
                size = min(len(memory), len(left))
                memory[:size], left = left[:size], left[size:]
                self.connection.buffer_updated(size)

    def fin(self):
        """Close the other end in an orderly way."""
        if self.is_open:
            self.connection.eof_received()
            self.abort()

    def reset(self):
        """Reset the connection."""
        self.abort(ConnectionResetError(104, "reset"))

    def abort(self, reason=None):
        if self.is_open:
            self.is_open = False
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, reason)

    def pause_reading(self):
        self.is_paused = True

    def resume_reading(self):
        self.is_paused = False


@pytest.fixture(scope="module", autouse=True)
def idle_socket():
    """What is there to be asked whether anything has come that the loop has not seen: never."""
    Wire.idle, other_end = socket.socketpair()
    yield
    Wire.idle.close()
    other_end.close()


@dataclass
class Received:
    """What an answer came to: its end is that it "waits" for more, or is "complete", or "failed"."""

    head: tuple[int, str, list[tuple[str, str]], bytes] | None = None
    body: bytearray = field(default_factory=bytearray)
    end: str = "waits"
    stays: bool = False

    def said(self):
        """All of it but whether the connection stays."""
        return self.head, bytes(self.body), self.end


async def receive(connection, found, memory=None):
    """Note in *found* what comes out of *connection*, by `readinto` some *memory* where that is given."""
    try:
        head = await connection.head(None, None)
        found.head = head.status, head.reason, list(head.fields), head.version
        if memory is None:
            while block := await connection.read(None):
                found.body += block
        else:
            while size := await connection.readinto(memory, None):
                found.body += memory[:size]
        found.end = "complete"
    except httpx.TransportError:
        found.end = "failed"
    finally:
        found.stays = connection.is_reusable


async def by_connection(segments, end=None, *, has_body=True, memory=None, at_once=False):
    """Return what `Connection` makes of *segments*, and of an *end* that is "fin", "reset" or None.

    *at_once*: all come before the receiver can look at any.
    """
    wire, found = Wire(has_body=has_body), Received()
    task = asyncio.ensure_future(receive(wire.connection, found, memory))
    await asyncio.sleep(0)
    for segment in segments:
        wire.send(segment)
        if not at_once:
            await asyncio.sleep(0)
    if end is not None:
        getattr(wire, end)()
    for _ in range(3):
        await asyncio.sleep(0)
    found.stays = found.end == "complete" and wire.connection.is_reusable
    task.cancel()
    wire.connection.abort()
    await asyncio.wait([task])
    return found


def by_h11(segments, end=None, *, has_body=True):
    """Return what h11 makes of the same; an "end" is "fin" or None."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_BYTES)
    parser.send(h11.Request(method="GET" if has_body else "HEAD", target="/", headers=[("Host", "_")]))
    parser.send(h11.EndOfMessage())
    found = Received()
    for segment in (*filter(None, segments), *([b""] if end else ())):
        try:
            parser.receive_data(segment)
            while found.end == "waits" and (event := parser.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Response):
                    fields = [(text(name), text(value)) for name, value in event.headers.raw_items()]
                    found.head = event.status_code, text(event.reason), fields, b"HTTP/" + event.http_version
                elif isinstance(event, h11.Data):
                    found.body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    found.end = "complete"
        except h11.RemoteProtocolError:
            found.end = "failed"
            break
    is_done = parser.our_state is parser.their_state is h11.DONE
    found.stays = found.end == "complete" and is_done and parser.trailing_data == (b"", False)
    return found


# Random answers, read beside h11.

STARTS = [
    b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1 200 OK\t", b"HTTP/1.1 404 N\xf6", b"ICY 200 OK",
    b"HTTP/1.1 204 N", b"HTTP/1.1 304 N", b"HTTP/1.1 206 P", b"HTTP/1.1 599 ?", b"HTTP/1.1 600 ?", b"HTTP/1.1 999 ?",
    b"HTTP/1.1 099 ?", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1  200 OK", b"HTTP/1.0 200 OK", b"",
    b"HTTP/1.0 304 N", b"HTTP/1.2 200 OK", b"HTTP/2.0 200 OK", b"HTTP/11 200 OK", b"http/1.1 200 OK",
    b" HTTP/1.1 200 OK", b"HTTP/1.1 200 O\0K", b"HTTP/1.1 200 O\x7fK", b"HTTP/1.1 200 O\x0cK", b"HTTP/1.1 101 S",
    b"HTTP/1.1 100 C",
]  # fmt: skip
LENGTHS = [
    b"Content-Length: 5", b"content-length:5", b"CONTENT-LENGTH:\t5", b"Content-Length: 0", b"Content-Length: 3",
    b"Content-Length: 05", b"Content-Length: 5 ", b"Content-Length: 5\t", b"Content-Length:  5", b"Content-Length: 5 5",
    b"Content-Length: 5, 5", b"Content-Length: 5,6", b"Content-Length: +5", b"Content-Length: -5",
    b"Content-Length: 5_0", b"Content-Length: 0x5", b"Content-Length:", b"Content-Length : 5", b"Content-Length: 5;",
    b"Content-Length: \xb2", b"Content_Length: 5", b"Content-Length", b"Content-Length: " + b"9" * 19,
    b"Content-Length: " + b"9" * 20, b"Content-Length: " + b"0" * 19 + b"5", b"Content-Length: " + b"0" * 20 + b"5",
]  # fmt: skip
CODINGS = [
    b"Transfer-Encoding: chunked", b"transfer-encoding:\tCHUNKED ", b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding:",
    b"Transfer-Encoding : chunked", b"Transfer-Encoding: \x0bchunked", b"Transfer_Encoding: chunked",
    b"Transfer-Encoding",
]  # fmt: skip
CONNECTIONS = [
    b"Connection: close", b"connection:CLOSE", b"Connection: keep-alive", b"Connection: keep-alive, close",
    b"Connection: upgrade", b"Connection: closed", b"Connection: \xff", b"Keep-Alive: close", b"Connection",
    b"Proxy-Connection: close", b"Connection: close\r\nConnection: keep-alive",
]  # fmt: skip
OTHERS = [
    b"X: y", b"X: y ", b"X: ", b"X:y", b"X:", b"X: \t", b"X:\t y \t", b"X: a  b", b"X: \x01", b"X: a\x7fb",
    b"X: \xff\x80", b"X: a\0b", b"X: a\x0cb", b"X: a\rb", b": y", b"X", b"X y", b"X : y", b"X\0: y", b"\xff: y",
    b" folded", b"\tfolded", b" ", b"!#$%&'*+-.^_`|~: y", b"X(: y", b"X: a:b", b":", b"X: a\nb", b"X: \xc2\x85y",
    b"X: y\x1c",
]  # fmt: skip
FRAMINGS = [LENGTHS[0], CODINGS[0]]
LINES = [*LENGTHS, *CODINGS, *CONNECTIONS, *OTHERS]
LINE_ENDS = [b"\r\n"] * 20 + [b"\n", b"\r", b"\r\r\n", b"\n\r"]
BODIES = [
    *[HELLO] * 4, b"", b"hel", b"hello!", KEPT, b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n",
    b"2;a=b\r\nhe\r\n3;c \r\nllo\r\n0\r\nDigest: x\r\n\r\n", b"5\r\nhello\r\n0\r\n: bad\r\n\r\n", b"x\r\n\r\n",
    b"5 \r\nhello\r\n00\r\n\r\n", b"5\nhello\n0\n\n", b"-5\r\nhello", b"f" * 20 + b"\r\nhello",
    b"f" * 21 + b"\r\nhello", b"5;\0\r\nhello\r\n0\r\n\r\n",
]  # fmt: skip


MOST_STARTS = st.just(STARTS[0]) | st.sampled_from(STARTS)


@st.composite
def heads(draw, starts=MOST_STARTS):
    """Heads, most of them nearly sound."""
    fields = draw(st.lists(st.sampled_from(LINES) | st.binary(max_size=6), max_size=3))
    if draw(st.booleans()):
        fields.insert(draw(st.integers(0, len(fields))), draw(st.sampled_from(FRAMINGS)))
    if draw(st.booleans()):
        return b"\r\n".join([draw(starts), *fields, b"", b""])
    return b"".join(line + draw(st.sampled_from(LINE_ENDS)) for line in (draw(starts), *fields, b""))


INTERIM_STARTS = st.sampled_from([b"HTTP/1.1 100 Continue", b"HTTP/1.1 103 Early Hints", b"HTTP/1.0 102"])
INTERIM = heads(INTERIM_STARTS) | st.just(EARLY)


@st.composite
def answers(draw):
    """What a server may send, in segments."""
    bodies = st.sampled_from(BODIES) | st.binary(max_size=12)
    parts = [
        *draw(st.lists(INTERIM, max_size=draw(st.sampled_from([0, 0, 0, 2])))),
        draw(heads()),
        draw(bodies),
        draw(st.just(b"") | bodies),
    ]
    data = b"".join(parts)
    if draw(st.integers(0, 5)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    if draw(st.integers(0, 5)) == 0:
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(st.binary(max_size=4)) + data[place + draw(st.integers(0, 2)) :]
    return split(data, draw(st.lists(st.integers(0, len(data)), max_size=4)))


def split(data, places):
    """Return *data* in segments, which begin at *places*."""
    edges = sorted({0, *places, len(data)})
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


async def agrees(segments, end=None, *, has_body=True):
    """See to it that `Connection` reads what h11 reads, and stays only where h11 does."""
    expected = by_h11(segments, end, has_body=has_body)
    for memory in (None, memoryview(bytearray(3))):
        found = await by_connection(segments, end, has_body=has_body, memory=memory)
        assert found.said() == expected.said(), segments
        assert expected.stays or not found.stays, segments


@EXAMPLES
@given(segments=answers(), end=st.sampled_from(["fin", None]), has_body=st.sampled_from([True, True, True, False]))
async def test_it_agrees_with_h11(segments, end, has_body):
    """Whatever a server sends, in whatever segments, status, fields, body and end are those that h11 reads."""
    await agrees(segments, end, has_body=has_body)


@pytest.mark.parametrize("body", [HELLO, b"5\r\nhello\r\n0\r\n\r\n"])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("end", ["fin", None])
async def test_it_agrees_with_h11_on_one_odd_line(end, framing, body):
    """Any one odd line in a head that is sound otherwise is read, or refused, as by h11."""
    oddities = [[start, framing] for start in STARTS]
    oddities += [[STARTS[0], *lines] for line in LINES for lines in ([line], [line, framing], [framing, line])]
    for lines in oddities:
        await agrees([b"\r\n".join([*lines, b"", b""]) + body], end)


PLAIN_STARTS = st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 204 N", b"HTTP/1.1 304 \xf6"])


@EXAMPLES
@given(said=heads(PLAIN_STARTS).filter(lambda said: said.endswith(b"\r\n\r\n")), has_body=st.booleans())
def test_what_is_plain_is_what_h11_reads(said, has_body):
    """What is read at a glance is what h11 reads, and the connection stays only where h11 lets it."""
    plain = read_plain(said, has_body=has_body)
    if plain is None:
        return
    body = bytes(min(plain.length, 100))
    expected = by_h11([said, body], has_body=has_body)
    assert (plain.head.status, plain.head.reason, plain.head.fields, plain.head.version) == expected.head
    assert expected.end == ("complete" if plain.length == len(body) else "waits")
    if expected.end == "complete":
        assert expected.stays or not plain.stays


async def test_names_of_fields_are_not_remembered_for_ever():
    """However long the names are that servers make up for fields, little of them is kept when they are gone."""
    tracemalloc.start()
    try:
        for number in range(50):
            name = f"{number}{'x' * 100_000}".encode()
            found = await by_connection([b"HTTP/1.1 200 OK\r\n%b: y\r\nContent-Length: 0\r\n\r\n" % name])
            assert found.end == "complete"
        del found
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()


# A port is generated without zeros in front of it: httpx takes them away.
@EXAMPLES
@given(url=st.from_regex(PLAIN_URLS, fullmatch=True).filter(lambda url: ":0" not in url))
def test_a_plain_target_is_that_of_httpx(url):
    """Where a URL is sent as it stands, host and target are those that httpx makes of it, if it takes it at all."""
    host, target = plain_target(Request(url))
    assume(target)
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return  # and so it is not sent
    assert (host.encode(), target) == (parsed.netloc, parsed.raw_path)


# Where it ends.

ANSWERS = {
    "length": (KEPT, HELLO),
    "no length": (head(200, [("Content-Length", "0")]), b""),
    "chunks": (CHUNKED + b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nDigest: x\r\n\r\n", HELLO),
    "HEAD": (head(200, [("Content-Length", "5")]), b""),
    "HEAD with chunks": (CHUNKED, b""),
    "204": (head(204), b""),
    "304": (head(304, [("Content-Length", "5")]), b""),
    "103 before": (EARLY + KEPT, HELLO),
    "103 before chunks": (EARLY + CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", HELLO),
    "1.0 with a length": (head(200, [("Content-Length", "5")], "HTTP/1.0") + HELLO, HELLO),
    "until it closes": (head(200) + HELLO, HELLO),
    "1.0": (head(200, version="HTTP/1.0") + HELLO, HELLO),
    "103 before until it closes": (EARLY + head(200) + HELLO, HELLO),
}
UNTIL_IT_CLOSES = frozenset({"until it closes", "1.0", "103 before until it closes"})
TOLD = [name for name in ANSWERS if name not in UNTIL_IT_CLOSES]


def has_body(framing):
    """Whether the request is not a HEAD."""
    return not framing.startswith("HEAD")


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "later"])
@pytest.mark.parametrize("end", ["fin", "reset"])
@pytest.mark.parametrize("framing", ANSWERS)
async def test_an_end_anywhere(framing, end, at_once):
    """Ended at any byte, an answer is whole or an error; where only its end tells, FIN is one, and a reset is not."""
    data, body = ANSWERS[framing]
    begin = len(data) - len(body)
    for size in range(len(data) + 1):
        found = await by_connection([data[:size]], end, has_body=has_body(framing), at_once=at_once)
        if framing in UNTIL_IT_CLOSES:
            is_complete, expected = end == "fin" and size >= begin, data[begin:size]
        else:
            is_complete, expected = size == len(data), body
        assert found.end == ("complete" if is_complete else "failed")
        assert bytes(found.body) == expected if is_complete else expected.startswith(found.body)
        assert not found.stays


@pytest.mark.parametrize("framing", ANSWERS)
async def test_segments_make_no_difference(framing):
    """An answer in two segments, split anywhere, or byte by byte, is what it is in one, by `read` and by `readinto`."""
    data, body = ANSWERS[framing]
    end = "fin" if framing in UNTIL_IT_CLOSES else None
    ways = [split(data, [place]) for place in range(1, len(data))]
    for segments in ([data], *ways, split(data, range(len(data)))):
        for memory in (None, memoryview(bytearray(1)), memoryview(bytearray(3)), memoryview(bytearray(9))):
            found = await by_connection(segments, end, has_body=has_body(framing), memory=memory)
            assert (found.end, bytes(found.body)) == ("complete", body)
            assert found.stays == (framing in TOLD and "1.0" not in framing)


@pytest.mark.parametrize(
    "blank", [b"\n\n", b"\r\n\n", b"\n\r\n", b"\r\n\r\n"], ids=["LF LF", "CRLF LF", "LF CRLF", "CRLF CRLF"]
)
@pytest.mark.parametrize("line", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
async def test_heads_may_end_by_line_feeds(line, blank):
    """Lines may end without CR (RFC 9112, section 2.2), and a head is read as soon as it has ended, however that is."""
    data = b"HTTP/1.1 200 OK" + line + b"Content-Length: 5" + blank
    for segments in ([data], split(data, [len(data) - 1]), split(data, range(len(data)))):
        found = await by_connection(segments)
        assert found.said() == ((200, "OK", [("Content-Length", "5")], b"HTTP/1.1"), b"", "waits")
        found = await by_connection([*segments[:-1], segments[-1] + HELLO])
        assert (found.end, bytes(found.body), found.stays) == ("complete", HELLO, True)


@pytest.mark.parametrize("surplus", [b"x", KEPT, b"\r\n"])
@pytest.mark.parametrize("framing", TOLD)
async def test_surplus_bytes(framing, surplus):
    """More than an answer, along with it or later, is no part of it, and the connection is closed."""
    data, body = ANSWERS[framing]
    for segments in ([data + surplus], [data, surplus], [data[:-1], data[-1:] + surplus]):
        for memory in (None, memoryview(bytearray(5)), memoryview(bytearray(9))):
            found = await by_connection(segments, has_body=has_body(framing), memory=memory)
            assert (found.end, bytes(found.body), found.stays) == ("complete", body, False)


async def test_what_came_before_a_failure():
    """The head, and what there is of the body, can be had though a failure has come along with them."""
    wire = Wire()
    wire.send(head(200, [("Content-Length", "5")]) + b"he")
    asking = asyncio.ensure_future(wire.connection.head(None, None))
    wire.fin()
    assert (await asking).status == 200
    assert await wire.connection.read(None) == b"he"
    with pytest.raises(httpx.RemoteProtocolError, match="3 bytes were to come"):
        await wire.connection.read(None)


# Heads.


@pytest.mark.parametrize("count", [1, 3, 1000])
@pytest.mark.parametrize("status", [100, 102, 103])
async def test_interim_answers_are_passed_over(status, count):
    """Any number of interim answers may come before the answer, which alone is told."""
    data = head(status, [("Link", "</x>")]) * count
    for segments in ([data + KEPT], [data, KEPT], [data[:-3], data[-3:] + KEPT]):
        found = await by_connection(segments)
        assert found.said() == ((200, "OK", [("Content-Length", "5")], b"HTTP/1.1"), HELLO, "complete")
        assert found.stays


async def test_101_is_an_error():
    """Nobody asked for another protocol."""
    for segments in ([head(101, [("Upgrade", "x")])], [EARLY, head(101)], [head(101) + KEPT]):
        assert (await by_connection(segments)).said() == (None, b"", "failed")


def endless(shape):
    """Yield the lines of a head that never ends."""
    yield b"HTTP/1.1 200 OK\r\n"
    if shape == "one line":
        yield b"X: "
    if shape == "one field":
        yield b"X: y\r\n"
    while True:
        yield {"one line": b"y" * 100, "one field": b" y\r\n", "fields": b"X: y\r\n", "interim": EARLY}[shape]


def sized(shape, size):
    """Return a head of *size* bytes, which tells a Content-Length of 0."""
    end = b"Content-Length: 0\r\n\r\n"
    begin = {
        "one line": b"HTTP/1.1 200 OK\r\nX: ",
        "one field": b"HTTP/1.1 200 OK\r\nX: y\r\n" + b" y\r\n" * 50_000,
        "fields": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 40_000,
        "interim": EARLY * 4_000 + b"HTTP/1.1 200 OK\r\n",
    }[shape]
    line = b"" if shape == "one line" else b"Y: "
    return begin + line + b"y" * (size - len(begin) - len(line) - 2 - len(end)) + b"\r\n" + end


SHAPES = ["one line", "one field", "fields", "interim"]


@pytest.mark.parametrize("step", [SCRATCH, 10_000, 16])
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_head_without_end(shape, step):
    """A head that has no end is an error after 256 KiB, of which no more than a few times as much is ever kept."""
    wire, sent, lines = Wire(), 0, endless(shape)
    data = bytearray()
    tracemalloc.start()
    try:
        while wire.is_open:
            while len(data) < step:
                data += next(lines)
            wire.send(data[:step])
            sent += step
            del data[:step]
            assert sent <= 2 * MOST_BYTES
        assert tracemalloc.get_traced_memory()[1] < 64 * MOST_BYTES
    finally:
        tracemalloc.stop()
    with pytest.raises(httpx.RemoteProtocolError):
        await wire.connection.head(None, None)


@pytest.mark.parametrize("step", [SCRATCH, 10_000, 50])
@pytest.mark.parametrize("shape", SHAPES)
async def test_the_largest_head(shape, step):
    """A head may have 256 KiB, interim answers included, and not a byte more, whatever its segments are."""
    for size, end in ((MOST_BYTES, "complete"), (MOST_BYTES + 1, "failed")):
        data = sized(shape, size)
        found = await by_connection(split(data, range(0, size, step)))
        assert (len(data), found.end) == (size, end)


async def test_a_head_byte_by_byte_costs_in_proportion_to_its_size():
    """Twice as many bytes of a head, one at a time, cost about twice as much: there is nothing quadratic in it."""
    costs = []
    for size in (60_000, 120_000):
        data = sized("one line", size)
        wire = Wire()
        begin = time.process_time()
        for place in range(size):
            wire.send(data[place : place + 1])
        costs.append(time.process_time() - begin)
        assert (await wire.connection.head(None, None)).status == 200
    assert costs[1] < 3 * costs[0]


# Blocks.


async def test_memory_is_offered_as_a_view():
    """The loop gets a memoryview to write to, the receiver's too: of anything else, TLS would fill a copy."""
    wire = Wire()
    assert isinstance(wire.connection.get_buffer(-1), memoryview)
    wire.send(head(200, [("Content-Length", "5")]))
    memory = bytearray(9)
    filling = asyncio.ensure_future(wire.connection.readinto(memoryview(memory), None))
    await asyncio.sleep(0)
    offered = wire.connection.get_buffer(-1)
    assert isinstance(offered, memoryview)
    assert (offered.obj, len(offered)) == (memory, 5)
    wire.send(HELLO)
    assert await filling == 5
    assert memory == HELLO + bytes(4)


@pytest.mark.parametrize("way", ["read", "readinto", "both"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_receiver_that_does_not_read_stops_the_sender(framing, way):
    """What waits to be read is bounded, and nothing is lost once somebody reads, by `read` and by `readinto`."""
    size, block = 4 << 20, bytes(range(256)) * 16
    wire, got, sent = Wire(), bytearray(), 0
    memory = memoryview(bytearray(10_007))

    async def read():
        """Read somehow."""
        if way == "read" or (way == "both" and sent % (4 * READ_AHEAD) < 2 * READ_AHEAD):
            return await wire.connection.read(None)
        return memory[: await wire.connection.readinto(memory, None)]

    wire.send(head(200, [("Content-Length", str(size))]) if framing == "length" else CHUNKED)
    await wire.connection.head(None, None)
    while sent < size:
        while sent < size and not wire.is_paused:
            wire.send(block if framing == "length" else b"1000\r\n" + block + b"\r\n")
            sent += len(block)
        assert sent - len(got) < READ_AHEAD + len(block)
        while len(got) < sent:
            got += await read()
        waiting = asyncio.ensure_future(read())
        await asyncio.sleep(0)
        if sent < size:
            assert not wire.is_paused
            wire.send(block if framing == "length" else b"1000\r\n" + block + b"\r\n")
            sent += len(block)
            got += await waiting
    if framing == "chunks":
        wire.send(b"0\r\n\r\n")
    assert not await waiting
    assert got == block * (size // len(block))


async def test_small_pieces_of_a_block_cost_in_proportion_to_its_size():
    """Four times as much that has arrived, read into small memory, costs four times as much: it is not copied anew."""
    costs = []
    memory = memoryview(bytearray(16))
    for size in (SCRATCH // 4, SCRATCH):
        wire = Wire()
        wire.send(head(200, [("Content-Length", str(size))]), bytes(size))
        begin = time.process_time()
        while await wire.connection.readinto(memory, None):
            pass
        costs.append(time.process_time() - begin)
    assert costs[1] < 7 * costs[0]
