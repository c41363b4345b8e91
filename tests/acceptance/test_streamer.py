"""The streamer, use case by use case: each adapter with its real server, clients and origins on sockets."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.acceptance.origin import MIB, MODIFIED, PRIVATE, Origin, content_of, origin
from tests.acceptance.relays import Relay, every_adapter, relaying
from tests.acceptance.use_cases import ADAPTERS, FORMS, STREAMER, streamer
from tests.servers import vsftpd as real_vsftpd

from downhaul import (
    Batch,
    BufferWriter,
    Context,
    DigestMismatch,
    Download,
    FileWriter,
    Retries,
    StreamBroken,
    User,
)
from downhaul.plugins import MirrorList

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILE: Final = content_of("file")
SMALL: Final = content_of("small")
LARGE: Final = content_of("large")
SHA256: Final = {name: hashlib.sha256(content_of(name)).hexdigest() for name in ("file", "small", "large")}
AT_ONCE: Final = Retries(base=0)
HELD_BACK: Final = 64 * 1024
PATIENCE: Final = 1.0
"""Seconds until nothing is left of what a client has left."""


@pytest.fixture(scope="module")
def running() -> Iterator[Origin]:
    """Run an origin for the module."""
    with origin() as it:
        yield it


@pytest.fixture
def there(running: Origin) -> Origin:
    """Give the origin, which was asked for nothing yet."""
    running.forget()
    return running


@pytest.fixture(scope="module")
def relays() -> Iterator[Callable[[tuple[str, str]], Relay]]:
    """Give a function that returns the running streamer of a way, started when it is first asked for."""
    started: dict[tuple[str, str], tuple[Any, Relay]] = {}

    def start(way: tuple[str, str]) -> Relay:
        if way not in started:
            manager = relaying(way, connections=50, plugins=[AT_ONCE])
            started[way] = manager, manager.__enter__()
        return started[way][1]

    yield start
    for manager, _ in started.values():
        manager.__exit__(None, None, None)


@pytest.fixture
def relay(way: tuple[str, str], relays: Callable[[tuple[str, str]], Relay], there: Origin) -> Relay:
    """Give the streamer of *way*, which relays what stands at the origin below the path."""
    it = relays(way)
    it.importer = lambda path: Download(there.url(path), retries=0)
    return it


def mirrored(there: Origin, name: str, *manners: str, **options: Any) -> Callable[[str], Download]:
    """Return an importer of a file that is at several places."""
    mirrors = [each if "://" in each else there.url(f"/{each}/") for each in manners]
    plugin = MirrorList(mirrors, replaces="http://repository.invalid/")
    return lambda _: Download(f"http://repository.invalid/{name}", plugins=[plugin], **options)


# --- 1. the importer's download as a black box ------------------------------------------------------------------


@every_adapter(1)
def test_what_the_importer_configured_holds(relay: Relay, there: Origin) -> None:
    """User, headers, mirrors and validations of the importer are in force in our context, whose own are not."""
    remote = Context(
        headers={"X-Key": there.key}, plugins=[MirrorList([there.url("/keyed/")], replaces="http://r.invalid/")]
    )
    relay.importer = lambda path: remote.download(f"http://r.invalid{path}", digests={"sha256": SHA256["file"]})
    # A mirror is another origin: it does not get the key.
    assert relay.ask("/file").status == 403
    remote = Context(headers={"X-Key": there.key}, retries=0)
    relay.importer = lambda path: remote.download(there.url(f"/keyed{path}"), digests={"sha256": SHA256["file"]})
    got = relay.ask("/file")
    assert (got.status, got.body, got.clean) == (200, FILE, True)
    assert "X-Echo" not in got.headers, "what a server repeats of our credentials is not passed on"
    assert remote.connections_in_use == 0
    remote.close()


@every_adapter(1)
def test_resources_are_ours(relay: Relay, there: Origin) -> None:
    """Connections are shared in our context, though each request has another importer: one is enough for all."""
    before = there.server.connections
    for _ in range(5):
        with Context(retries=0) as remote:
            download = remote.download(there.url("/good/small"))
        relay.importer = lambda _, download=download: download
        assert relay.ask().body == SMALL
    assert there.server.connections - before <= 1


@every_adapter(1)
def test_the_protocol_does_not_matter(relay: Relay, vsftpd: real_vsftpd.Vsftpd) -> None:
    """What comes by FTP is relayed by the same code: whole, and a part of it."""
    relay.importer = lambda path: Download(vsftpd.url(path.lstrip("/")), digests={"sha256": SHA256["file"]})
    got = relay.ask("/file")
    assert (got.status, got.body, got.clean) == (200, FILE, True)
    part = relay.ask("/file", Range="bytes=1000-1999")
    assert (part.status, part.body) == (206, FILE[1000:2000])


@pytest.fixture(scope="module")
def vsftpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real_vsftpd.Vsftpd]:
    """Run vsftpd with the file."""
    directory = tmp_path_factory.mktemp("ftp")
    directory.chmod(0o755)
    (directory / "file").write_bytes(FILE)
    with real_vsftpd.vsftpd(directory) as it:
        yield it


@streamer(1)
def test_a_stream_carries_what_the_importer_configured(there: Origin) -> None:
    """`download.context = ours` shares resources, and overrides nothing that the download carries."""
    with Context(headers={"X-Key": there.key}) as remote, Context(headers={"X-Key": "wrong"}, retries=0) as ours:
        download = remote.download(there.url("/keyed/file"))
        download.context = ours
        with download.stream() as stream:
            assert b"".join(stream) == FILE
            assert (ours.connections_in_use, remote.connections_in_use) == (0, 0)


@streamer(1)
async def test_a_stream_carries_what_the_importer_configured_async(there: Origin) -> None:
    """The same on a loop."""
    remote = Context(headers={"X-Key": there.key})
    async with Context(headers={"X-Key": "wrong"}, user=User("elmer", "x"), retries=0) as ours:
        download = remote.download(there.url("/keyed/file"))
        download.context = ours
        async with download.stream() as stream:
            assert b"".join([block async for block in stream]) == FILE


# --- 2. validation ----------------------------------------------------------------------------------------------


@every_adapter(2)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_bad_file_never_ends_cleanly(relay: Relay, there: Origin, version: str) -> None:
    """A client with a Content-Length sees less than that; the last bytes of a bad file never come."""
    relay.importer = lambda _: Download(there.url("/corrupt/file"), digests={"sha256": SHA256["file"]}, retries=0)
    got = relay.ask(version=version)
    assert (got.status, got.headers["Content-Length"], got.clean) == (200, str(len(FILE)), False)
    assert FILE.startswith(got.body)
    assert len(got.body) <= len(FILE) - HELD_BACK


@every_adapter(2)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_bad_file_of_unknown_size_never_ends_cleanly(relay: Relay, there: Origin, version: str) -> None:
    """A client without a Content-Length sees it too: by the missing last chunk, or a reset, or nothing is begun."""
    relay.importer = lambda _: Download(there.url("/chunked/file"), digests={"sha256": "0" * 64}, retries=0)
    got = relay.ask(version=version)
    assert "Content-Length" not in got.headers or got.status == 502
    assert (got.clean, got.status) in {(False, 200), (True, 502)}
    relay.importer = lambda _: Download(there.url("/chunked/file"), digests={"sha256": SHA256["file"]}, retries=0)
    good = relay.ask()
    assert (good.status, good.body, good.clean) == (200, FILE, True)


@every_adapter(2)
def test_a_small_bad_file_is_refused_with_a_status(relay: Relay, there: Origin) -> None:
    """What is no larger than what is held back is judged before the first byte: 502, and not a byte of it."""
    relay.importer = lambda _: Download(there.url("/corrupt/small"), digests={"sha256": SHA256["small"]}, retries=0)
    got = relay.ask()
    assert (got.status, got.clean) == (502, True)
    assert SMALL[:20] not in got.body


@every_adapter(2)
def test_a_part_of_a_bad_file_is_not_sent(relay: Relay, there: Origin) -> None:
    """Of a file with a digest a part is judged with the whole: no wrong byte at its end either."""
    relay.importer = lambda _: Download(there.url("/corrupt/file"), digests={"sha256": SHA256["file"]}, retries=0)
    assert relay.ask(Range="bytes=-500").status == 502
    relay.importer = mirrored(there, "file", "corrupt", "good", digests={"sha256": SHA256["file"]}, retries=0)
    got = relay.ask(Range="bytes=-500")
    assert (got.status, got.body) == (206, FILE[-500:])


@every_adapter(2)
def test_nothing_is_written(relay: Relay, there: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a good stream nor a bad one touches a disk: there is none to touch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with _written() as written:
        _relay_both(relay, there)
    assert written == []
    assert list(tmp_path.iterdir()) == []


def _relay_both(relay: Relay, there: Origin) -> None:
    """Relay a large file that is good, and one that is not."""
    for manner in ("good", "corrupt"):
        relay.importer = lambda _, manner=manner: Download(
            there.url(f"/{manner}/large"), digests={"sha256": SHA256["large"]}, retries=0
        )
        assert relay.ask().clean == (manner == "good")


_watching: Final[list[list[str]]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watching and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        _watching[-1].append(str(arguments[0]))


sys.addaudithook(_watch)  # it cannot be taken away again


@contextmanager
def _written() -> Iterator[list[str]]:
    """Yield a list of the files that are opened for writing meanwhile, by whatever thread of this process."""
    _watching.append([])
    try:
        yield _watching[-1]
    finally:
        _watching.pop()


@streamer(2)
def test_a_stream_of_a_bad_file_raises(there: Origin) -> None:
    """Its consumer gets an error in the place of the last bytes."""
    with Context(retries=0) as context:
        got = b""
        with (
            pytest.raises(StreamBroken),
            context.download(there.url("/corrupt/file"), digests={"sha256": SHA256["file"]}).stream() as stream,
        ):
            for block in stream:
                got += block
    assert FILE[:-HELD_BACK].startswith(got)


@streamer(2)
async def test_a_stream_of_a_bad_file_raises_async(there: Origin) -> None:
    """The same on a loop; a small one raises where it is entered."""
    async with Context(retries=0) as context:
        stream = context.download(there.url("/corrupt/file"), digests={"sha256": SHA256["file"]}).stream()
        async with stream:
            with pytest.raises(StreamBroken):
                [block async for block in stream]
        with pytest.raises(DigestMismatch):
            await (
                context.download(there.url("/corrupt/small"), digests={"sha256": SHA256["small"]}).stream().__aenter__()
            )


# --- 3. complex downloading, delegated --------------------------------------------------------------------------


@every_adapter(3)
def test_everything_may_fail_over_before_the_first_byte(relay: Relay, there: Origin) -> None:
    """A dead mirror, a busy one, one without the file and a corrupt one are passed over; the client sees nothing."""
    relay.importer = mirrored(
        there, "small", "http://127.0.0.1:1/", "busy", "404", "corrupt", "good", digests={"sha256": SHA256["small"]}
    )
    got = relay.ask()
    assert (got.status, got.body, got.clean) == (200, SMALL, True)


@every_adapter(3)
@pytest.mark.parametrize("manners", [("cut",), ("reset", "good"), ("lost", "plain")])
def test_after_the_first_byte_it_goes_on_exactly(relay: Relay, there: Origin, manners: tuple[str, ...]) -> None:
    """A connection that breaks is continued by the same source or another, with ranges or without."""
    relay.importer = mirrored(there, "file", *manners, retries=1)
    got = relay.ask()
    assert (got.status, got.body, got.clean) == (200, FILE, True)
    assert len(there.gets()) == 2


@every_adapter(3)
@pytest.mark.parametrize("manners", [("changing",), ("lost", "other"), ("lost",)])
def test_after_the_first_byte_nothing_else_may_follow(relay: Relay, there: Origin, manners: tuple[str, ...]) -> None:
    """Where the file has changed, or nobody has the rest, the answer breaks: never bytes of two files."""
    relay.importer = mirrored(there, "file", *manners, retries=1)
    got = relay.ask()
    assert (got.status, got.clean) == (200, False)
    assert FILE.startswith(got.body)


@every_adapter(3)
@pytest.mark.parametrize(
    ("manner", "status"), [("404", 404), ("busy", 502), ("keyed", 403), ("http://127.0.0.1:1/", 502)]
)
def test_what_nobody_has_is_told_by_a_status(relay: Relay, there: Origin, manner: str, status: int) -> None:
    """Where nothing was sent yet, a client gets a proper status, and no names of mirrors."""
    relay.importer = mirrored(there, "file", manner, retries=0)
    got = relay.ask()
    assert (got.status, got.clean) == (status, True)
    assert b"127.0.0.1" not in got.body


@streamer(3)
@pytest.mark.parametrize("manners", [("cut",), ("http://127.0.0.1:1/", "lost", "good")])
def test_a_stream_goes_on_exactly(there: Origin, manners: tuple[str, ...]) -> None:
    """The consumer of a stream does not notice."""
    with Context(plugins=[AT_ONCE]) as context:
        download = mirrored(there, "file", *manners)("")
        download.context = context
        with download.stream() as stream:
            assert b"".join(stream) == FILE
        assert stream.result().attempts >= 2


@streamer(3)
@pytest.mark.parametrize("manners", [("changing",), ("lost", "other")])
async def test_a_stream_breaks_rather_than_mix(there: Origin, manners: tuple[str, ...]) -> None:
    """The consumer of a stream gets a prefix of the right bytes, then an error."""
    got = b""
    async with Context(plugins=[AT_ONCE], retries=1) as context:
        download = mirrored(there, "file", *manners)("")
        download.context = context
        async with download.stream() as stream:
            with pytest.raises(StreamBroken):
                async for block in stream:
                    got += block
    assert got
    assert FILE.startswith(got)


# --- 4. the bit stream, bridged ---------------------------------------------------------------------------------


@every_adapter(4)
def test_headers_come_first(relay: Relay, there: Origin) -> None:
    """The client has status, headers and bytes long before the origin has sent the rest."""
    with relay.client("/stalling/file") as client:
        assert client.head()[0] == 200
        assert FILE.startswith(client.some(50_000))
        there.release()
        got = client.read()
    assert (got.body, got.clean) == (FILE, True)


@every_adapter(4)
def test_a_client_that_reads_slowly_holds_the_origin_back(relay: Relay, there: Origin) -> None:
    """What a client does not take is not fetched: some MiB in the buffers of sockets, and no more."""
    with relay.client("/endless/large", window=16384) as client:
        assert client.head()[0] == 200
        sent = _settled(lambda: there.sent["/endless/large"])
        assert 0 < sent < 24 * MIB
        for _ in range(3):
            client.some(len(client.some(0)) + 1000)  # as 1 kB/s does
        assert _settled(lambda: there.sent["/endless/large"]) - sent < 4 * MIB


def _settled(look: Callable[[], int]) -> int:
    """Return what *look* returns when that has not changed for a while."""
    last, since = look(), time.monotonic()
    while time.monotonic() - since < 0.3:
        time.sleep(0.02)
        if (now := look()) != last:
            last, since = now, time.monotonic()
    return last


@every_adapter(4)
@pytest.mark.parametrize("name", ["file", "empty"])
def test_head_fetches_no_body(relay: Relay, there: Origin, name: str) -> None:
    """HEAD is a HEAD at the origin; its fields are those of GET."""
    got = relay.ask(f"/good/{name}", "HEAD")
    assert (got.status, got.body, got.headers["Content-Length"]) == (200, b"", str(len(content_of(name))))
    assert [method for method, _, _ in there.asked] == ["HEAD"]
    whole = relay.ask(f"/good/{name}")
    assert {name: value for name, value in whole.headers.items() if name != "Date"} == {
        name: value for name, value in got.headers.items() if name != "Date"
    }


RANGES: Final = {
    "bytes=0-0": range(1),
    "bytes=100-199": range(100, 200),
    "bytes=399999-": range(399_999, 400_000),
    "bytes=1000-": range(1000, 400_000),
    "bytes=-500": range(399_500, 400_000),
    "bytes=399000-999999": range(399_000, 400_000),
    "bytes=-999999": range(400_000),
}


@every_adapter(4)
@pytest.mark.parametrize("asked", RANGES)
def test_ranges(relay: Relay, there: Origin, asked: str) -> None:
    """First and last, open, and suffix ranges are answered by 206 with exactly these bytes, asked for as such."""
    part = RANGES[asked]
    got = relay.ask("/good/file", Range=asked)
    assert (got.status, got.body, got.clean) == (206, FILE[part.start : part.stop], True)
    assert got.headers["Content-Range"] == f"bytes {part.start}-{part.stop - 1}/400000"
    assert got.headers["Content-Length"] == str(len(part))
    if len(part) < len(FILE):
        assert there.gets() == [("/good/file", f"bytes={part.start}-{part.stop - 1}")]


@every_adapter(4)
def test_ranges_that_are_not_there(relay: Relay) -> None:
    """Beyond the end it is 416 with the size; several ranges, or what is no range, are answered by the whole."""
    for asked in ("bytes=400000-", "bytes=-0", "bytes=500000-500001,400000-"):
        got = relay.ask("/good/file", Range=asked)
        assert (got.status, got.headers["Content-Range"]) == (416, "bytes */400000"), asked
    for asked in ("bytes=0-1,5-9", "lines=0-1", "bytes=9-5", "bytes=a-b"):
        got = relay.ask("/good/file", Range=asked)
        assert (got.status, got.body) == (200, FILE), asked


@every_adapter(4)
def test_conditions(relay: Relay, there: Origin) -> None:
    """304 and 412 as the client's conditions want it, without a body from the origin; If-Range decides on a part."""
    same = {"If_None_Match": '"x", "file"'}
    assert relay.ask("/good/file", **same).status == 304
    assert relay.ask("/good/file", "HEAD", **same).status == 304
    assert relay.ask("/good/file", If_Modified_Since=MODIFIED).status == 304
    assert relay.ask("/good/file", If_Match='"x"').status == 412
    assert there.gets() == []
    assert relay.ask("/good/file", If_None_Match='"x"').body == FILE
    assert relay.ask("/good/file", If_Match='"file"').body == FILE
    tags = {'"file"': 206, '"x"': 200, 'W/"file"': 200, MODIFIED: 206, "Sat, 01 Aug 2026 09:00:00 GMT": 200}
    told = {tag: relay.ask("/good/file", Range="bytes=0-9", If_Range=tag).status for tag in tags}
    assert told == tags


@every_adapter(4)
def test_a_part_goes_on_where_it_broke(relay: Relay, there: Origin) -> None:
    """A part that breaks is continued behind what was sent, and proven by length and version."""
    relay.importer = mirrored(there, "file", "cut", retries=1)
    got = relay.ask(Range="bytes=1000-300999")
    assert (got.status, got.body, got.clean) == (206, FILE[1000:301_000], True)
    assert [asked for _, asked in there.gets()] == ["bytes=1000-300999", "bytes=151000-300999"]


@every_adapter(4)
@pytest.mark.parametrize("moment", ["before the head", "in the body"])
def test_a_client_that_hangs_up_frees_the_origin(relay: Relay, there: Origin, moment: str) -> None:
    """When a client hangs up the connection to the origin is closed within a second, though no block comes."""
    open_before = there.server.open
    name = "small" if moment == "before the head" else "file"
    with relay.client(f"/stalling/{name}") as client:
        if moment == "in the body":
            client.some(50_000)
        _wait(lambda: there.gets(), 10)
    left = time.monotonic()
    _wait(lambda: relay.ours.connections_in_use == 0 and there.server.open <= max(open_before, 1), 10)
    assert time.monotonic() - left < PATIENCE + 0.2 * _load()


def _load() -> float:
    """Return how much more than two processors have to do."""
    return max(0.0, os.getloadavg()[0] - 2)


def _wait(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


@every_adapter(4)
def test_a_tee_keeps_what_was_passed_on(relay: Relay, there: Origin, tmp_path: Path) -> None:
    """With a writer, what a client got is kept if it is good; a bad file, a HEAD and a part keep nothing."""
    path = tmp_path / "kept"
    for manner, headers, kept in (("corrupt", {}, False), ("good", {"Range": "bytes=0-9"}, False), ("good", {}, True)):
        digests = {"sha256": SHA256["file"]} if "Range" not in headers else {}
        relay.importer = lambda _, manner=manner, digests=digests: Download(
            there.url(f"/{manner}/file"), FileWriter(path), digests=digests, retries=0
        )
        assert relay.ask(method="HEAD").status == 200
        assert not path.exists()
        relay.ask(**headers)
        assert path.exists() == kept
    assert path.read_bytes() == FILE
    assert list(tmp_path.iterdir()) == [path]


@streamer(4)
def test_a_stream_of_nothing_and_of_a_part(there: Origin) -> None:
    """`stat` is a HEAD; a part is a range, proven by length and version, and says so."""
    with Context() as context:
        download = context.download(there.url("/good/file"))
        with download.stat() as known:
            assert (known.size, list(known)) == (len(FILE), [])
        with download.stream(part=range(100, 200)) as stream:
            assert b"".join(stream) == FILE[100:200]
    assert (stream.result().proof, stream.result().part) == ("length and version", range(100, 200))
    assert [(method, asked) for method, _, asked in there.asked] == [("HEAD", None), ("GET", "bytes=100-199")]


@streamer(4)
async def test_a_stream_waits_for_its_consumer(there: Origin) -> None:
    """A consumer that takes nothing holds the origin back; leaving frees it."""
    async with Context() as context:
        async with context.download(there.url("/endless/large")).stream() as stream:
            await anext(stream)
            sent = _settled(lambda: there.sent["/endless/large"])
        assert sent < 24 * MIB
        assert context.connections_in_use == 0


# --- 5. headers -------------------------------------------------------------------------------------------------


@every_adapter(5)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_end_to_end_fields_only(relay: Relay, method: str) -> None:
    """What is for one connection, or named by Connection, cookies and challenges stay; what describes the file goes."""
    got = relay.ask("/headers/file", method)
    theirs = {name.lower() for name, _ in PRIVATE} - {"connection", "keep-alive"}
    assert theirs.isdisjoint(name.lower() for name in got.headers)
    assert "x-hop" not in got.headers.get("Connection", "").lower()
    told = {"Content-Length": "400000", "ETag": '"file"', "Last-Modified": MODIFIED, "Accept-Ranges": "bytes",
            "Content-Type": "application/x-rpm", "Cache-Control": "max-age=60", "X-Own": "kept"}  # fmt: skip
    assert {name: got.headers.get(name) for name in told} == told


@every_adapter(5)
def test_no_field_comes_twice(relay: Relay) -> None:
    """Date and Server are the web server's own: the origin's would be a second one."""
    got = relay.ask("/headers/file")
    for name in ("Date", "Server", "Content-Length", "Content-Type", "Last-Modified"):
        value = got.headers.get(name, "")
        assert value.count(",") == (name in {"Date", "Last-Modified"} and bool(value)), (name, value)


@every_adapter(5)
def test_what_ftp_tells(relay: Relay, vsftpd: real_vsftpd.Vsftpd) -> None:
    """Of an FTP server, too, the client gets length, time, and ranges; conditions work on them."""
    relay.importer = lambda path: Download(vsftpd.url(path.lstrip("/")))
    got = relay.ask("/file", "HEAD")
    assert (got.status, got.headers["Content-Length"], got.headers["Accept-Ranges"]) == (200, "400000", "bytes")
    modified = got.headers["Last-Modified"]
    assert relay.ask("/file", If_Modified_Since=modified).status == 304
    assert relay.ask("/file", Range="bytes=-10").body == FILE[-10:]


@streamer(5)
def test_the_headers_of_a_stream(there: Origin) -> None:
    """They are those that may be passed on, and those of the whole file, also for a part."""
    with Context() as context:
        for asked in ({}, {"part": range(10, 20)}):
            with context.download(there.url("/headers/file")).stream(**asked) as stream:
                assert stream.headers["content-length"] == "400000"
                assert {name.lower() for name, _ in PRIVATE}.isdisjoint(map(str.lower, stream.headers))


@streamer(5)
async def test_the_headers_of_a_stat(there: Origin) -> None:
    """A stat has the same ones."""
    async with Context() as context, context.download(there.url("/headers/file")).stat() as known:
        assert known.headers["etag"] == '"file"'
        assert {name.lower() for name, _ in PRIVATE}.isdisjoint(map(str.lower, known.headers))


# --- 6. both roles in one process -------------------------------------------------------------------------------


@every_adapter(6)
def test_a_client_goes_before_bulk_work(way: tuple[str, str], there: Origin, tmp_path: Path) -> None:
    """An importer and a streamer share one context and its plugins; a client waits for one file, not for a thousand."""
    mirrors = MirrorList([there.url("/good/")], replaces="http://repository.invalid/")
    with relaying(way, connections=2, plugins=[mirrors, AT_ONCE]) as relay:
        relay.importer = lambda path: relay.ours.download(f"http://repository.invalid{path}")
        jobs = (
            relay.ours.download("http://repository.invalid/small", FileWriter(tmp_path / str(number)))
            for number in range(150)
        )
        with Batch(jobs, concurrency=50, backlog=100, context=relay.ours) as batch:
            plans = iter(batch())
            for _ in range(20):
                next(plans).result()
            before = len(there.asked)
            got = relay.ask("/file")
            asked = [target for _, target, _ in there.asked[before:]]
            assert (got.status, got.body) == (200, FILE)
            assert asked.index("/good/file") < 30, "the fifty that wait for a connection were there before"
            done = sum(plan.error is None for plan in plans)
        assert done == 130


@streamer(6)
def test_a_stream_and_a_batch_share_a_context(there: Origin) -> None:
    """With one connection, and a hundred files that wait for it, a stream is next."""
    with Context(connections=1) as context:
        jobs = (context.download(there.url("/good/small"), BufferWriter()) for _ in range(200))
        with Batch(jobs, concurrency=100, backlog=200, context=context) as batch:
            plans = iter(batch())
            next(plans).result()
            before = len(there.asked)
            with context.download(there.url("/good/file")).stream() as stream:
                assert b"".join(stream) == FILE
            asked = [target for _, target, _ in there.asked[before:]]
            assert asked.index("/good/file") < 30
            assert all(plan.error is None for plan in plans)


@streamer(6)
async def test_a_stream_and_a_batch_share_a_context_async(there: Origin) -> None:
    """The same on a loop."""
    async with Context(connections=1) as context:
        jobs = (context.download(there.url("/good/small"), BufferWriter()) for _ in range(200))
        async with Batch(jobs, concurrency=100, backlog=200, context=context) as batch:
            plans = aiter(batch())
            (await anext(plans)).result()
            before = len(there.asked)
            async with context.download(there.url("/good/file")).stream() as stream:
                assert b"".join([block async for block in stream]) == FILE
            asked = [target for _, target, _ in there.asked[before:]]
            assert asked.index("/good/file") < 30
            assert all([plan.error is None async for plan in plans])


# --- 7. fan-out -------------------------------------------------------------------------------------------------

KEPT: Final = 1 * MIB


@pytest.fixture(scope="module")
def joining() -> Iterator[Callable[[tuple[str, str]], Relay]]:
    """Give a function that returns the running streamer of a way that shares fetches."""
    started: dict[tuple[str, str], tuple[Any, Relay]] = {}

    def start(way: tuple[str, str]) -> Relay:
        if way not in started:
            manager = relaying(way, {"join": KEPT}, plugins=[AT_ONCE])
            started[way] = manager, manager.__enter__()
        return started[way][1]

    yield start
    for manager, _ in started.values():
        manager.__exit__(None, None, None)


@every_adapter(7)
def test_one_fetch_for_many_clients(way: tuple[str, str], joining: Callable[..., Relay], there: Origin) -> None:
    """Clients that ask for one file at once, and one that comes when half of it is there, cost one fetch."""
    relay = joining(way)
    relay.importer = lambda path: Download(there.url(path), digests={"sha256": SHA256["file"]}, retries=0)
    clients = [relay.client("/stalling/file") for _ in range(5)]
    for client in clients:
        client.some(50_000)
    clients.append(relay.client("/stalling/file"))
    clients[-1].some(50_000)
    there.release()
    results = [client.read() for client in clients]
    for client in clients:
        client.__exit__()
    assert {(got.status, got.body, got.clean) for got in results} == {(200, FILE, True)}
    assert len(there.gets()) == 1


@every_adapter(7)
def test_a_slow_client_holds_no_other_back(way: tuple[str, str], joining: Callable[..., Relay], there: Origin) -> None:
    """Who reads slowly is left behind, and gets the rest by a fetch of its own; the others have it all long before."""
    relay = joining(way)
    relay.importer = lambda path: Download(there.url(path), digests={"sha256": SHA256["large"]}, retries=0)
    with relay.client("/good/large", window=4096) as slow:
        slow.some(1000)
        got: list[bytes] = []
        fast = [threading.Thread(target=lambda: got.append(relay.ask("/good/large").body)) for _ in range(4)]
        for each in fast:
            each.start()
        for each in fast:
            each.join()
        assert got == [LARGE] * 4
        assert len(there.gets()) < 5, "they shared"
        assert slow.read().body == LARGE


@streamer(7)
def test_streams_that_are_joined(there: Origin) -> None:
    """Threads that ask for one file at once share its fetch."""
    got, barrier = [], threading.Barrier(5)

    def work(context: Context) -> None:
        with context.download(there.url("/good/file")).stream(join=KEPT) as stream:
            barrier.wait()
            got.append(b"".join(stream))

    with Context() as context:
        threads = [threading.Thread(target=work, args=(context,)) for _ in range(5)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert (got, len(there.gets())) == ([FILE] * 5, 1)


@streamer(7)
async def test_streams_that_are_joined_async(there: Origin) -> None:
    """On a loop, too, and who falls behind fetches by itself."""
    async with Context() as context:
        download = context.download(there.url("/good/large"))
        async with download.stream(join=KEPT) as slow, download.stream(join=KEPT) as fast:
            first = await anext(slow)
            assert b"".join([block async for block in fast]) == LARGE
            assert len(there.gets()) == 1
            assert first + b"".join([block async for block in slow]) == LARGE
    assert len(there.gets()) == 2


# --- the matrix -------------------------------------------------------------------------------------------------


def test_each_cell_of_the_matrix_has_a_test(request: pytest.FixtureRequest) -> None:
    """Every use case is proven for each adapter with both kinds of context; of this module, when all of it is run."""
    cells = set()
    for item in request.session.items:
        mark = item.get_closest_marker("use_case")
        if mark is not None and mark.args[0] == "streamer" and item.path == Path(__file__):
            form = mark.args[2] or ("asyncio" if "async" in item.name or _is_coroutine(item) else "sync")
            cells.add((mark.args[1], form, mark.args[3]))
    wanted = {(number, form, adapter) for number in STREAMER for form in FORMS for adapter in ADAPTERS}
    if (request.config.args and any("::" in each for each in request.config.args)) or request.config.option.keyword:
        pytest.skip("only some of the tests of this module were asked for")
    assert wanted <= cells


def _is_coroutine(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function)
