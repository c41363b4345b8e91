"""What pulpcore's downloader taught, each as a test on real sockets that downhaul does otherwise: docs/pulpcore.md."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import ssl
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from tests.mem import names
from tests.servers.ftp import FtpServer
from tests.servers.http import head, http_server

from downhaul import (
    TLS,
    AccessDenied,
    Batch,
    BufferWriter,
    ConnectError,
    Context,
    DigestMismatch,
    Download,
    DownloadError,
    FetchError,
    FileWriter,
    NotFound,
    Retries,
    ServerError,
    Settings,
    SizeMismatch,
    SizeValidation,
    Timeout,
    UnsupportedScheme,
)
from downhaul.plugins import BearerToken, InOrder, MirrorList

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.http import Exchange

DATA = bytes(range(256)) * 1200
SHA256 = hashlib.sha256(DATA).hexdigest()
QUICK = Retries(base=0.01, longest=0.05)
PATIENCE = 30.0


def flipped(content: bytes) -> bytes:
    """Return *content* with one bit of its last byte changed."""
    return content[:-1] + bytes([content[-1] ^ 1])


async def good(exchange: Exchange) -> None:
    """Answer with the file."""
    await exchange.respond(body=DATA)


# -- retries -----------------------------------------------------------------------------------------------------------


class Moody:
    """Answers the requests for each file: half a body, a wrong byte, 429, and at last the file."""

    def __init__(self, files: dict[str, bytes], *, ranges: bool) -> None:
        self.files, self.ranges = files, ranges
        self.asked: Counter[str] = Counter()

    async def __call__(self, exchange: Exchange) -> None:
        content, start = self.files[exchange.target], 0
        self.asked[exchange.target] += 1
        asked = exchange.header("Range")
        if self.ranges and asked:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        fields = [("Accept-Ranges", "bytes" if self.ranges else "none")]
        if start:
            fields.append(("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"))
        code, part = 206 if start else 200, content[start:]
        match self.asked[exchange.target]:
            case 1:
                await exchange.send(head(code, [("Content-Length", str(len(part))), *fields]), part[: len(part) // 2])
                await exchange.cut()
            case 2:
                await exchange.respond(code, flipped(part), fields)
            case 3:
                await exchange.respond(429, b"slow down", [("Retry-After", "0")])
            case _:
                await exchange.respond(code, part, fields)


@pytest.mark.parametrize("ranges", [True, False])
def test_bad_answers_are_repaired(ranges: bool, tmp_path: Path) -> None:
    """Half a body, a wrong byte, a 429 and the file: four requests for each of several files, and all are right."""
    files = {f"/{number}.iso": bytes([number]) + DATA for number in range(5)}
    origin = Moody(files, ranges=ranges)
    with http_server(origin) as server, Context(plugins=[QUICK], retries=3) as context:
        downloads = (
            Download(
                server.url(path),
                FileWriter(tmp_path / path[1:]),
                digests={"sha256": hashlib.sha256(content).hexdigest(), "sha512": hashlib.sha512(content).hexdigest()},
                validations=[SizeValidation(len(content))],
                attachment=path,
            )
            for path, content in files.items()
        )
        with Batch(downloads, context=context) as batch:
            results = [plan.result() for plan in batch()]
    assert origin.asked == dict.fromkeys(files, 4)
    # A half that was continued with a wrong byte is asked for as a whole in the same attempt.
    told = ["Truncated", "TooManyRequests"] if ranges else ["Truncated", "DigestMismatch", "TooManyRequests"]
    assert all([type(failed.error).__name__ for failed in result.history] == told for result in results)
    assert {f"/{path.name}": path.read_bytes() for path in tmp_path.iterdir()} == files


def test_one_answer_less_is_a_failure(tmp_path: Path) -> None:
    """With one retry less the same origin is given up with its last error, and nothing is published."""
    origin = Moody({"/f": DATA}, ranges=False)
    with http_server(origin) as server, Context(plugins=[QUICK], retries=2) as context:
        download = context.download(server.url("/f"), FileWriter(tmp_path / "f"), digests={"sha256": SHA256})
        with pytest.raises(DownloadError) as caught:
            download()
    assert origin.asked["/f"] == len(caught.value.history) == 3
    assert names(tmp_path) == []


@pytest.mark.parametrize(("retries", "requests"), [(0, 1), (1, 2), (3, 4)])
def test_retries_are_counted_as_they_are_said(retries: int, requests: int) -> None:
    """``retries=0`` is one request, and is not taken for unset."""

    async def busy(exchange: Exchange) -> None:
        await exchange.respond(503)

    with http_server(busy) as server, Context(plugins=[QUICK]) as context:
        with pytest.raises(ServerError):
            context.download(server.url("/f"), BufferWriter(), retries=retries)()
        assert len(server.requests) == requests


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_heeded(status: int) -> None:
    """The next request comes no sooner than the server said, though the back-off would be shorter."""
    times = []

    async def busy_at_first(exchange: Exchange) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            await exchange.respond(status, headers=[("Retry-After", "1")])
        else:
            await good(exchange)

    with http_server(busy_at_first) as server, Context(plugins=[QUICK]) as context:
        context.download(server.url("/f"), BufferWriter())()
    assert times[1] - times[0] >= 1.0


async def test_a_download_that_waits_holds_no_connection() -> None:
    """With one connection allowed, a good file does not wait for one that comes again in a minute."""

    async def script(exchange: Exchange) -> None:
        if exchange.target == "/busy":
            await exchange.respond(503, headers=[("Retry-After", "50")])
        else:
            await good(exchange)

    with http_server(script) as server:
        async with Context(connections=1) as context:
            waiting = asyncio.create_task(context.download(server.url("/busy"), BufferWriter()).run())
            await server.until(lambda here: len(here.requests) == 1)
            async with asyncio.timeout(PATIENCE):
                await context.download(server.url("/good"), BufferWriter()).run()
            assert not waiting.done()
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting


def test_what_has_come_is_not_asked_for_again() -> None:
    """After a broken connection only the rest is asked for, and the file is judged as a whole."""
    ranges = []

    async def cut_at_first(exchange: Exchange) -> None:
        ranges.append(exchange.header("Range"))
        fields = [("ETag", '"1"'), ("Accept-Ranges", "bytes")]
        if exchange.turn == exchange.connection == 1:
            await exchange.send(head(200, [("Content-Length", str(len(DATA))), *fields]), DATA[:100_000])
            await exchange.cut()
        part = DATA[100_000:]
        spans = ("Content-Range", f"bytes 100000-{len(DATA) - 1}/{len(DATA)}")
        await exchange.respond(206, part, [*fields, spans])

    with http_server(cut_at_first) as server, Context(plugins=[QUICK]) as context:
        writer = BufferWriter()
        context.download(server.url("/f"), writer, digests={"sha256": SHA256})()
    assert writer.content() == DATA
    assert ranges == [None, "bytes=100000-"]


# -- what is left behind -----------------------------------------------------------------------------------------------


async def lost(exchange: Exchange) -> None:
    """Lose the connection in the middle of the file."""
    await exchange.send(head(200, [("Content-Length", str(len(DATA)))]), DATA[: len(DATA) // 2])
    await exchange.cut()


async def wrong(exchange: Exchange) -> None:
    """Answer with a wrong byte."""
    await exchange.respond(body=flipped(DATA))


@pytest.mark.parametrize("script", [lost, wrong])
def test_attempts_that_fail_leave_no_file(script: Any, tmp_path: Path) -> None:
    """Four attempts that fail leave no temporary file, neither after a broken connection nor after a wrong digest."""
    with http_server(script) as server, Context(plugins=[QUICK]) as context:
        with pytest.raises(DownloadError):
            context.download(server.url("/f"), FileWriter(tmp_path / "f"), digests={"sha256": SHA256})()
        assert len(server.requests) == 4
        assert names(tmp_path) == []


def wait_for_a_file(directory: Path) -> None:
    """Wait until there is a file in *directory*, a temporary one say."""
    end = time.monotonic() + PATIENCE
    while not names(directory):
        assert time.monotonic() < end, "no file was opened"
        time.sleep(0.01)


async def test_a_cancelled_download_leaves_no_file(tmp_path: Path) -> None:
    """Cancelled in the middle of the body, a download leaves no file, no slot and no connection."""
    large = 32 * len(DATA)

    async def half(exchange: Exchange) -> None:
        await exchange.send(head(200, [("Content-Length", str(large))]), bytes(large // 2))
        await exchange.stall()

    with http_server(half) as server:
        async with Context() as context:
            task = asyncio.create_task(context.download(server.url("/f"), FileWriter(tmp_path / "f")).run())
            await asyncio.to_thread(wait_for_a_file, tmp_path)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert names(tmp_path) == []
            assert context.connections_in_use == 0
            await server.until(lambda here: here.open == 0)


def test_a_failure_leaves_no_connection_open() -> None:
    """However a download ends, leaving its context closes every connection."""

    async def script(exchange: Exchange) -> None:
        if exchange.target == "/missing":
            await exchange.respond(404, b"no such file")
        else:
            await (lost if exchange.target == "/lost" else good)(exchange)

    with http_server(script) as server:
        for path in ("/good", "/missing", "/lost", "/wrong"):
            with Context(retries=0) as context, contextlib.suppress(DownloadError):
                context.download(server.url(path), BufferWriter(), digests={"md5": "0" * 32})()
        server.wait_until(lambda here: here.open == 0)
        assert len(server.requests) == 4


# -- bytes, sizes, digests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["index.gz", "index"])
def test_bytes_are_stored_as_they_are_sent(name: str, tmp_path: Path) -> None:
    """A body with Content-Encoding is stored as it came, and size and digest are of those bytes."""
    packed = gzip.compress(bytes(5000), mtime=0)

    async def script(exchange: Exchange) -> None:
        assert exchange.header("Accept-Encoding") == "identity"
        await exchange.respond(body=packed, headers=[("Content-Encoding", "gzip")])

    with http_server(script) as server, Context(retries=0) as context:
        digests = {"sha256": hashlib.sha256(packed).hexdigest()}
        result = context.download(server.url(f"/{name}"), FileWriter(tmp_path / name), digests=digests)()
    assert (tmp_path / name).read_bytes() == packed
    assert result.artifact_attributes == {"size": len(packed), **digests}


def test_what_is_expected_is_enforced() -> None:
    """A size of 0 is a size, capitals are digits, and each digest that is given counts, whatever its algorithm."""
    md5, sha1 = hashlib.md5(DATA).hexdigest(), hashlib.sha1(DATA).hexdigest()
    with http_server(good) as server, Context(retries=0) as context:
        url = server.url("/f")
        with pytest.raises(SizeMismatch):
            context.download(url, BufferWriter(), validations=[SizeValidation(0)])()
        right = {"sha256": SHA256.upper(), "sha1": sha1.upper(), "md5": md5}
        assert context.download(url, BufferWriter(), digests=right)().digests["sha256"] == SHA256
        with pytest.raises(DigestMismatch, match="sha1"):
            context.download(url, BufferWriter(), digests={**right, "sha1": "0" * 40})()


# -- settings ----------------------------------------------------------------------------------------------------------


def test_no_total_limit_unless_it_is_set() -> None:
    """By default nothing limits how long a download takes in all; what limits it is silence."""
    limits = Timeout()
    assert limits.total is None
    assert limits.read is not None
    with pytest.raises(ValueError, match="total"):
        Timeout(total=0)  # neither "no limit" nor the default by accident


def test_settings_are_the_same_each_time() -> None:
    """Two contexts made of the same settings send the same header fields."""
    settings = Settings(headers={"User-Agent": "importer/1", "X-Key": "k"})
    with http_server(good) as server:
        for _ in range(2):
            with Context(settings=settings) as context:
                context.download(server.url("/f"), BufferWriter())()
        sent = [(exchange.header("User-Agent"), exchange.header("X-Key")) for exchange in server.requests]
    assert sent == [("importer/1", "k")] * 2


def test_a_proxy_is_authorised_with_each_request() -> None:
    """On a connection to a proxy that is kept, each request brings the credentials."""
    with http_server(good) as proxy:
        with Context(proxy=proxy.url().replace("://", "://elmer:secret@")) as context:
            for name in "abc":
                context.download(f"http://host.invalid/{name}", BufferWriter())()
        assert [exchange.connection for exchange in proxy.requests] == [1, 1, 1]
        assert all(exchange.header("Proxy-Authorization") for exchange in proxy.requests)


def test_two_remotes_share_no_connection() -> None:
    """Two remotes behind one address: each shows its own certificate and key, on connections of its own."""
    ca = trustme.CA()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(served)
    ca.configure_trust(served)
    served.verify_mode = ssl.CERT_REQUIRED
    seen = []

    async def script(exchange: Exchange) -> None:
        shown = exchange.writer.get_extra_info("peercert")["subjectAltName"]
        seen.append((shown[0][1], exchange.header("X-Key"), exchange.connection))
        await good(exchange)

    def remote(name: str) -> Settings:
        pem = ca.issue_cert(name).private_key_and_cert_chain_pem.bytes().decode()
        return Settings(
            tls=TLS(ca_certificate=ca.cert_pem.bytes().decode(), client_certificate=pem), headers={"X-Key": name}
        )

    remotes = [remote("one@example.org"), remote("two@example.org")]
    with http_server(script, tls=served) as server, Context() as context:
        for settings in remotes * 2:
            context.download(server.url("/f"), BufferWriter(), settings=settings)()
    assert seen == [("one@example.org", "one@example.org", 1), ("two@example.org", "two@example.org", 2)] * 2


# -- tokens ------------------------------------------------------------------------------------------------------------


class Registry:
    """Wants its own bearer token, and hands it out."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.asked = 0
        self.seen: set[str | None] = set()

    async def __call__(self, exchange: Exchange) -> None:
        sent = exchange.header("Authorization")
        self.seen.add(sent)
        if sent == f"Bearer {self.token}":
            await good(exchange)
        else:
            await exchange.respond(401, b"log in", [("WWW-Authenticate", "Bearer")])

    async def new_token(self) -> str:
        self.asked += 1
        await asyncio.sleep(0.05)  # long enough for the others to ask too
        return self.token


async def test_each_registry_sees_its_own_token_only() -> None:
    """Two registries in one process, one context: neither sees the token of the other, each is asked for one, once."""
    one, two = Registry("first"), Registry("second")
    with http_server(one) as here, http_server(two) as there:
        async with Context() as context:
            tokens = {here: BearerToken(one.new_token), there: BearerToken(two.new_token)}
            downloads = [
                context.download(server.url(f"/{number}"), BufferWriter(), plugins=[token])
                for number in range(10)
                for server, token in tokens.items()
            ]
            await asyncio.gather(*(download.run() for download in downloads))
    assert (one.seen, two.seen) == ({"Bearer first"}, {"Bearer second"})
    assert (one.asked, two.asked) == (1, 1)


async def test_a_token_goes_to_nobody_else() -> None:
    """Neither another host of the same context nor the target of a redirect sees a token."""
    elsewhere = Registry("none")
    with http_server(elsewhere) as there:

        async def redirecting(exchange: Exchange) -> None:
            await exchange.respond(302, headers=[("Location", there.url("/moved"))])

        with http_server(redirecting) as here:
            token = BearerToken(lambda: "secret", within=here.url())
            async with Context(plugins=[token], retries=0) as context:
                for url in (here.url("/f"), there.url("/f")):
                    with pytest.raises(AccessDenied):
                        await context.download(url, BufferWriter()).run()
            assert here.requests[0].header("Authorization") == "Bearer secret"
    assert elsewhere.seen == {None}


async def test_a_token_that_is_never_good_ends() -> None:
    """A registry that refuses every token is asked twice, the second time with a new one, and that is all."""
    registry = Registry("never")

    async def bad_token() -> str:
        await registry.new_token()
        return f"bad{registry.asked}"

    with http_server(registry) as server:
        async with Context(plugins=[BearerToken(bad_token)]) as context:
            with pytest.raises(AccessDenied):
                await context.download(server.url("/f"), BufferWriter()).run()
        assert len(server.requests) == 2
    assert registry.asked == 2


@pytest.mark.parametrize(
    "challenge", ["Bearer realm=x", "Negotiate", 'Digest realm="x", nonce="y"', "Basic, Bearer", ""]
)
def test_a_refusal_is_no_content(challenge: str, tmp_path: Path) -> None:
    """Whatever the challenge of a 401, its body never becomes the file."""

    async def script(exchange: Exchange) -> None:
        await exchange.respond(401, b"<p>log in</p>", [("WWW-Authenticate", challenge)])

    plugins = [BearerToken(lambda: "token")]
    with http_server(script) as server, Context(plugins=plugins, retries=0) as context, pytest.raises(AccessDenied):
        context.download(server.url("/f"), FileWriter(tmp_path / "f"))()
    assert names(tmp_path) == []


# -- many files, many sources ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["sync", "asyncio"])
def test_one_missing_file_fails_no_other(form: str, tmp_path: Path) -> None:
    """A file that is missing and one that is corrupt are two failed plans; all the others are there."""

    async def script(exchange: Exchange) -> None:
        if exchange.target == "/3":
            await exchange.respond(404)
        else:
            await exchange.respond(body=flipped(DATA) if exchange.target == "/5" else DATA)

    def outcome(plan: Any) -> tuple[str, str]:
        return plan.download.attachment, type(plan.error).__name__

    async def consume(downloads: Any) -> dict[str, str]:
        async with Context(retries=0) as context, Batch(downloads, context=context) as batch:
            return dict([outcome(plan) async for plan in batch()])

    with http_server(script) as server:
        downloads = (
            Download(server.url(f"/{n}"), FileWriter(tmp_path / str(n)), digests={"sha256": SHA256}, attachment=str(n))
            for n in range(10)
        )
        if form == "asyncio":
            outcomes = asyncio.run(consume(downloads))
        else:
            with Context(retries=0) as context, Batch(downloads, context=context) as batch:
                outcomes = dict(outcome(plan) for plan in batch())
    failed = {"3": NotFound.__name__, "5": DigestMismatch.__name__}
    assert outcomes == {str(n): failed.get(str(n), "NoneType") for n in range(10)}
    assert names(tmp_path) == sorted(outcomes.keys() - failed.keys())


def test_each_file_has_the_mirrors_for_itself() -> None:
    """Silent, missing, broken and corrupt mirrors: each file is had from the next, and all are named."""

    async def silent(exchange: Exchange) -> None:
        await exchange.stall()

    async def missing(exchange: Exchange) -> None:
        await exchange.respond(404)

    with contextlib.ExitStack() as stack:
        mirrors = [stack.enter_context(http_server(script)) for script in (silent, missing, lost, wrong, good)]

        async def listing(exchange: Exchange) -> None:
            await exchange.respond(body="".join(f"{mirror.url()}\n" for mirror in mirrors).encode())

        home = stack.enter_context(http_server(listing))
        plugin = MirrorList(home.url("/mirrors"), replaces="http://dl.invalid/", choice=InOrder())
        limits = Timeout(read=2.0)
        context = stack.enter_context(Context(plugins=[plugin], timeout=limits, retries=0))
        for name in "ab":
            download = context.download(f"http://dl.invalid/{name}", BufferWriter(), digests={"sha256": SHA256})
            result = download()
            assert result.source == mirrors[-1].url(f"/{name}")
            assert [failed.source for failed in result.history] == [mirror.url(f"/{name}") for mirror in mirrors[:-1]]
            told = ["TimeoutExceeded", "NotFound", "Truncated", "DigestMismatch"]
            assert [type(failed.error).__name__ for failed in result.history] == told
        assert len(home.requests) == 1


def test_errors_are_of_one_tree() -> None:
    """A refused connection, a broken answer and a wrong digest are all a `DownloadError`; nothing else comes out."""

    async def rubbish(exchange: Exchange) -> None:
        await exchange.send(b"this is no HTTP\r\n\r\n")
        await exchange.cut()

    with Context(retries=0) as context:
        with http_server(rubbish) as server, pytest.raises(FetchError) as broken:
            context.download(server.url("/f"), BufferWriter())()
        with pytest.raises(ConnectError) as refused:
            context.download(server.url("/f"), BufferWriter())()
    for caught in (broken.value, refused.value):
        assert isinstance(caught, DownloadError)
        assert type(caught).__module__.startswith("downhaul")
        assert caught.url == server.url("/f")


def test_the_scheme_picks_the_driver() -> None:
    """HTTP and FTP share a batch; a scheme that nobody speaks is refused at once, and the rest listed."""
    with http_server(good) as server, FtpServer({"f": DATA}) as ftp, Context() as context:
        urls = [server.url("/f"), ftp.url("f")]
        downloads = (context.download(url, BufferWriter(), digests={"sha256": SHA256}) for url in urls)
        with Batch(downloads, context=context) as batch:
            assert {plan.result().url for plan in batch()} == set(urls)
        with pytest.raises(UnsupportedScheme, match=r"uln.*ftp.*http"):
            context.download("uln://host/f", BufferWriter())


async def test_a_running_loop_is_no_obstacle() -> None:
    """Where a loop runs, the synchronous call says what to await in its place, and that works."""
    with http_server(good) as server, Context() as context:
        writer = BufferWriter()
        download = context.download(server.url("/f"), writer)
        with pytest.raises(RuntimeError, match=r"await download\.run\(\)"):
            download()
        await download.run()
        assert writer.content() == DATA
        await asyncio.to_thread(context.close)
