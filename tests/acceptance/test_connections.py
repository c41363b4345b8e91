"""Bounded connections, counted at the servers: open ones, whether a download uses them or not."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.use_cases import importer
from tests.servers import nginx as real_nginx
from tests.servers import vsftpd as real_vsftpd
from tests.servers.http import http_server

from downhaul import (
    AccessDenied,
    Batch,
    BufferWriter,
    Context,
    Download,
    Plugin,
    Retries,
    Retry,
    SizeValidation,
    Timeout,
    hookimpl,
    origin,
)
from downhaul.plugins import MirrorList
from downhaul_ftp import FtpOptions
from downhaul_http import HttpOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tests.servers.nginx import Nginx

    from downhaul import Plan

ARTIFACTS = 5000
SIZE = 1000
_numbers = itertools.count()


@pytest.fixture
def root(tmp_path) -> Path:
    """A directory with one file."""
    directory = tmp_path / "root"
    directory.mkdir()
    directory.chmod(0o755)
    (directory / "file").write_bytes(b"x" * SIZE)
    return directory


@contextmanager
def nginx(
    root: Path, *, server: str = "", addresses: Sequence[str] = ("127.0.0.1",)
) -> Iterator[tuple[Nginx, Callable[[], int]]]:
    """Run nginx; yield it, and what tells the most connections that were open at the end of any of its answers."""
    counted = root.parent / f"connections-{next(_numbers)}.log"
    log = f"log_format counted '$connections_active'; access_log {counted} counted;"
    with real_nginx.nginx(root, http=log, server=server, addresses=addresses) as running:
        yield running, lambda: max(map(int, counted.read_text().split()))


def failures(plans: Iterable[Plan]) -> list[Exception]:
    """Return the errors of all *plans*."""
    return [plan.error for plan in plans if plan.error is not None]


@importer(11)
def test_many_origins(root) -> None:
    """A batch over 400 origins keeps none of them idle beyond the limit in total."""
    addresses = ["127.0.0.1", *(f"127.1.{host // 250}.{host % 250 + 1}" for host in range(399))]
    with nginx(root, addresses=addresses) as (server, peak), Context(connections=20) as context:
        urls = (server.url("/file", address) for _ in range(3) for address in addresses)
        with Batch((Download(url, BufferWriter()) for url in urls), concurrency=50, context=context) as batch:
            assert failures(batch()) == []
        assert 10 < peak() <= 20


@importer(11)
async def test_many_settings_of_one_origin(root) -> None:
    """Downloads of one origin that may not share connections, for their settings differ, share the limit."""
    with nginx(root) as (server, peak):

        async def jobs():
            for number in range(300):
                options = HttpOptions(keepalive_expiry=20 + number % 30)
                yield Download(server.url("/file"), BufferWriter(), options=(options,))

        async with (
            Context(connections_per_origin=6) as context,
            Batch(jobs(), concurrency=20, context=context) as batch,
        ):
            assert failures([plan async for plan in batch()]) == []
        assert 3 < peak() <= 6


@importer(11)
def test_connections_that_serve_again_stay_open(root) -> None:
    """The limit costs a batch over one origin nothing: the connections that it opens first serve to the end."""
    with http_server(answer) as server, Context(connections=4) as context:
        jobs = (Download(server.url("/file"), BufferWriter()) for _ in range(200))
        with Batch(jobs, concurrency=10, context=context) as batch:
            assert failures(batch()) == []
        assert server.connections == server.peak == 4


async def answer(exchange) -> None:
    """Answer with a small file."""
    await exchange.respond(body=b"hello")


@dataclass(frozen=True)
class Session(Plugin):
    """Sends a token to the origin that gives it out, and fetches another one after a 401, once for each transfer."""

    url: str

    @hookimpl(trylast=True)
    async def prepare(self, transfer) -> None:
        async def fetch() -> str:
            content = BufferWriter()
            await transfer.nested(self, self.url, content).run()
            return content.content().decode()

        if transfer.request.origin == origin(self.url):
            token = transfer.state(self, dict)["token"] = await transfer.context.once(self, "token", fetch)
            transfer.request = transfer.request.authorized([("Authorization", f"Bearer {token}")])

    @hookimpl(tryfirst=True)
    async def error(self, transfer, error) -> Retry | None:
        token = transfer.state(self, dict).get("token")
        if not isinstance(error, AccessDenied) or token is None or transfer.attempt > 1:
            return None
        transfer.context.forget(self, "token", stale=token)
        return Retry()


STORM = """
location = /mirrors.txt {{ return 200 "{mirrors}"; }}
location = /token {{ return 200 "secret"; }}
location /pub/ {{ alias {root}/; }}
location /moved/ {{ return 302 {other}/pub/file; }}
location /gone/ {{ return 404; }}
location /busy/ {{ return 503; }}
location /cut/ {{ return 444; }}
location /private/ {{ if ($http_authorization != "Bearer secret") {{ return 401; }} alias {root}/; }}
"""


@importer(11)
def test_a_storm_of_artifacts(root) -> None:
    """5,000 artifacts in two batches and three threads, with all that may go on: each origin sees no more than allowed.

    Redirects to another origin, mirrors (one of which has nothing), tokens, nested downloads, failures and lost
    connections are among them. Afterwards no slot is taken, and all of the limit can be had.
    """
    with ExitStack() as stack:
        second, peak_2 = stack.enter_context(nginx(root, server=f"location /pub/ {{ alias {root}/; }}"))
        broken, peak_3 = stack.enter_context(nginx(root, server="location / { return 404; }"))
        mirrors = f"{broken.url('/pub/')}\\n{second.url('/pub/')}\\n"
        main = STORM.format(mirrors=mirrors, root=root, other=second.url(""))
        first, peak_1 = stack.enter_context(nginx(root, server=main))

        plugins = [
            MirrorList(first.url("/mirrors.txt"), replaces=first.url("/pub/mirrored/")),
            Session(first.url("/token")),
            Retries(base=0),
        ]
        context = stack.enter_context(Context(connections=10, connections_per_origin=5, retries=1, plugins=plugins))
        kinds = ("pub", "pub/mirrored", "moved", "private", "gone", "pub", "private", "moved", "cut", "busy")
        expected = {"gone", "cut", "busy"}

        def jobs(number: int) -> Iterator[Download]:
            for turn in range(number):
                kind = kinds[turn % len(kinds)]
                yield context.download(first.url(f"/{kind}/file"), BufferWriter(), attachment=kind)

        outcomes: list[tuple[str, bool]] = []

        def batch(number: int) -> None:
            with Batch(jobs(number), concurrency=20, context=context) as plans:
                outcomes.extend((plan.download.attachment, plan.error is None) for plan in plans())

        def single(number: int) -> None:
            for download in jobs(number):
                try:
                    outcomes.append((download.attachment, bool(download())))
                except Exception:
                    outcomes.append((download.attachment, False))

        work = [(batch, ARTIFACTS * 2 // 5), (batch, ARTIFACTS * 2 // 5), *[(single, ARTIFACTS // 15)] * 3]
        threads = [threading.Thread(target=each, args=(number,)) for each, number in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert len(outcomes) == sum(number for _, number in work)
        assert {kind for kind, worked in outcomes if not worked} == expected
        assert all(worked == (kind not in expected) for kind, worked in outcomes)
        assert 2 < max(peak_1(), peak_2()) <= 5
        assert peak_3() <= 5
        assert context.connections_in_use == 0
        _all_of_the_limit(context, 5)


def _all_of_the_limit(context: Context, number: int) -> None:
    """As many downloads of one origin as are allowed run at one time: each waits for all others."""

    async def together(exchange) -> None:
        await everybody.wait()
        await exchange.respond(body=b"hello")

    everybody = asyncio.Barrier(number)
    with http_server(together) as server:
        jobs = (Download(server.url(), BufferWriter(), retries=0) for _ in range(number))
        with Batch(jobs, concurrency=number, context=context) as batch:
            assert failures(batch()) == []
        assert server.peak == number


@importer(11)
def test_after_connections_that_were_lost(root) -> None:
    """Slots do not leak where answers are refused, cut off, too long, or left in the middle."""

    async def script(exchange) -> None:
        match exchange.target:
            case "/reset":
                await exchange.reset()
            case "/short":
                await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
                await exchange.cut()
            case "/silent":
                await exchange.stall()
        await exchange.respond(body=b"hello")

    targets = ("/reset", "/short", "/silent", "/file", "/wrong")
    with http_server(script) as server, Context(connections=4, retries=0) as context:

        def jobs() -> Iterator[Download]:
            for number in range(200):
                target = targets[number % len(targets)]
                size = [SizeValidation(6)] if target == "/wrong" else []
                timeout = Timeout(read=0.05) if target == "/silent" else Timeout()
                yield Download(server.url(target), BufferWriter(), validations=size, timeout=timeout)

        with Batch(jobs(), concurrency=8, context=context) as batch:
            assert len(failures(batch())) == 160
        with Batch(jobs(), concurrency=8, context=context) as batch:
            next(iter(batch()))  # left in the middle
        assert context.connections_in_use == 0
        assert server.peak == 4
        _all_of_the_limit(context, 4)


@importer(11)
def test_control_connections_of_ftp(root) -> None:
    """Control connections count, idle ones too, also against connections to other origins by another protocol."""
    with (
        nginx(root) as (http, http_peak),
        real_vsftpd.vsftpd(root) as ftp,
        Context(connections=6, connections_per_origin=4, options=(FtpOptions(keep_alive=60),)) as context,
    ):

        def jobs() -> Iterator[Download]:
            for number in range(120):
                # In turns many of one protocol: what the other one keeps idle is in the way.
                url = ftp.url("file") if number // 20 % 2 else http.url("/file")
                yield Download(url, BufferWriter(), user=None, validations=[SizeValidation(SIZE)])

        with Batch(jobs(), concurrency=12, backlog=12, context=context) as batch:
            assert failures(batch()) == []
        assert ftp.controls() > 0
        assert ftp.peak_controls <= 4  # as often as one looks
        assert 1 < http_peak() <= 4
        # Each protocol kept four in its turn; both together may keep six.
        assert ftp.open_controls() + len(_open(http.port)) <= 6


def _open(port: int) -> set[str]:
    """Return the local ends of the connections to *port* that are established, on the side of the server."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[2] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"}


@importer(11)
async def test_a_denied_token_frees_its_slot(root) -> None:
    """A token that is renewed while others wait needs a slot of its own, and gets it even where there is only one."""
    block = 'location = /token { return 200 "wrong"; } location / { return 401; }'
    with nginx(root, server=block) as (server, peak):
        async with Context(connections=1, retries=0, plugins=[Session(server.url("/token"))]) as context:
            jobs = (context.download(server.url("/file"), BufferWriter()) for _ in range(20))
            async with asyncio.timeout(60), Batch(jobs, context=context) as batch:
                errors = failures([plan async for plan in batch()])
            assert [type(error) for error in errors] == [AccessDenied] * 20
            assert context.connections_in_use == 0
        assert peak() == 1
