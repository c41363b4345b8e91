"""What an importer does with downhaul: each use case in the synchronous form and with asyncio, on real sockets.

A synchronous test runs in a plain thread, without an event loop. What takes more than a page to prove stands in the
files beside this one, under the same marks.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.use_cases import importer
from tests.servers import nginx as real_nginx
from tests.servers import vsftpd as real_vsftpd
from tests.servers.nginx import nginx

from downhaul import Batch, BufferWriter, Context, Download, DownloadError, FileWriter, SizeValidation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.servers.nginx import Nginx


@pytest.fixture
def site(tmp_path) -> Iterator[Nginx]:
    """Nginx with a hundred files of 1,000 bytes, which logs how many connections are open."""
    if real_nginx.PROGRAM is None:
        missing("nginx is not installed (apt-get install nginx-light)")
    root = tmp_path / "site"
    root.mkdir()
    root.chmod(0o755)
    for number in range(100):
        (root / f"file-{number}").write_bytes(b"%03d-" % number * 200)
    log = f"log_format counted '$connections_active'; access_log {tmp_path}/connections.log counted;"
    with real_nginx.nginx(root, http=log) as server:
        yield server


def missing(reason: str) -> None:
    """Skip for *reason*; where everything must be there, fail."""
    pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


def most_connections(tmp_path: Path) -> int:
    """Return how many connections were open at one time, at most, as `site` has counted them."""
    return max(map(int, (tmp_path / "connections.log").read_text().split()))


# -- 1. Single files, with every common setting ------------------------------------------------------------------------

# -- 2. All settings of the client library, or one's own client --------------------------------------------------------

# -- 3. An Artifact from size and digests ------------------------------------------------------------------------------

# -- 4. Concurrent downloads from generators ---------------------------------------------------------------------------


@importer(4)
def test_a_generator(site, tmp_path) -> None:
    """A generator is advanced in the thread that consumes the plans, as far ahead as the backlog says."""
    threads, ahead = set(), deque([0], maxlen=1000)
    consumed = 0

    def jobs() -> Iterator[Download]:
        for number in range(100):
            threads.add(threading.get_ident())
            ahead.append(number + 1 - consumed)
            yield Download(site.url(f"/file-{number}"), FileWriter(tmp_path / str(number)), attachment=number)

    with Context() as context, Batch(jobs(), concurrency=10, backlog=25, context=context) as batch:
        for plan in batch():
            consumed += 1
            assert plan.result().path.read_bytes() == b"%03d-" % plan.download.attachment * 200
    assert consumed == 100
    assert threads == {threading.get_ident()}
    assert 10 <= max(ahead) <= 25
    assert 1 < most_connections(tmp_path) <= 10


@importer(4)
async def test_an_async_generator(site, tmp_path) -> None:
    """An async generator runs on the consumer's loop, beside the consumer; a plain one may be given as well."""
    loops = set()

    async def jobs() -> AsyncIterator[Download]:
        for number in range(100):
            await asyncio.sleep(0)  # a query, say
            loops.add(asyncio.get_running_loop())
            yield Download(site.url(f"/file-{number}"), BufferWriter(), attachment=number)

    async with Context() as context, Batch(jobs(), concurrency=10, backlog=25, context=context) as batch:
        numbers = [plan.result().attachment async for plan in batch()]
    assert sorted(numbers) == list(range(100))
    assert loops == {asyncio.get_running_loop()}
    assert 1 < most_connections(tmp_path) <= 10


# -- 5. Validation -----------------------------------------------------------------------------------------------------

# -- 6. Not all in memory ----------------------------------------------------------------------------------------------


def sized_jobs(site: Nginx, alive: set[int]) -> Iterator[Download]:
    """Yield a thousand downloads, and count those that somebody still holds."""
    for turn in range(1000):
        download = Download(
            site.url(f"/file-{turn % 100}?{turn}"), BufferWriter(), validations=[SizeValidation(800)], attachment=turn
        )
        alive.add(turn)
        weakref.finalize(download, alive.discard, turn)
        yield download


@importer(6)
def test_a_thousand_files_are_never_together_in_memory(site) -> None:
    """Of a thousand jobs and their bytes, only a backlog is alive; the byte budget bounds what has come."""
    alive: set[int] = set()
    most, heaviest = 0, 0
    with (
        Context() as context,
        Batch(sized_jobs(site, alive), backlog=40, byte_budget=4000, context=context) as batch,
    ):
        for plan in batch():
            assert len(plan.download.writer.content()) == 800
            most = max(most, len(alive))
            progress = batch.progress
            heaviest = max(heaviest, progress.received - 800 * progress.consumed)
    assert 10 < most <= 40 + 5  # a few are between the hands
    assert 0 < heaviest <= 4000
    assert batch.progress.consumed == 1000


@importer(6)
async def test_a_thousand_files_are_never_together_in_memory_with_asyncio(site) -> None:
    """The same with asyncio."""
    alive: set[int] = set()
    most = 0
    async with (
        Context() as context,
        Batch(sized_jobs(site, alive), backlog=40, byte_budget=4000, context=context) as batch,
    ):
        async for plan in batch():
            assert plan.error is None
            most = max(most, len(alive))
            progress = batch.progress
            assert progress.received - 800 * progress.consumed <= 4000
    assert 10 < most <= 40 + 5
    assert batch.progress.consumed == 1000


# -- 7. An attachment in results and errors ----------------------------------------------------------------------------

# -- 8. Any thread -----------------------------------------------------------------------------------------------------

# -- 9. Shared sessions, pools, tokens, mirror lists -------------------------------------------------------------------

# -- 10. Customised downloading ----------------------------------------------------------------------------------------

# -- 11. Bounded connections -------------------------------------------------------------------------------------------


@importer(11)
def test_no_more_connections_than_allowed(site, tmp_path) -> None:
    """5,000 artifacts, every tenth not there, in two batches at a time: the server never sees more than six."""

    def run(context: Context) -> None:
        jobs = (Download(site.url(f"/file-{number % 110}"), BufferWriter()) for number in range(2500))
        with Batch(jobs, concurrency=20, context=context) as batch:
            failed.append(sum(isinstance(plan.error, DownloadError) for plan in batch()))

    failed: list[int] = []
    with Context(connections_per_origin=6) as context:
        threads = [threading.Thread(target=run, args=(context,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert context.connections_in_use == 0
    assert failed == [sum(number % 110 >= 100 for number in range(2500))] * 2
    assert 3 < most_connections(tmp_path) <= 6


@importer(11)
async def test_no_more_connections_than_allowed_in_total(site, tmp_path) -> None:
    """Two servers that speak different protocols share the total: what is idle at one makes room for the other."""
    if (reason := real_vsftpd.why_missing()) is not None:
        missing(reason)
    with real_vsftpd.vsftpd(tmp_path / "site") as ftp:

        def jobs() -> Iterator[Download]:
            for number in range(200):
                url = site.url(f"/file-{number % 100}") if number // 25 % 2 else ftp.url(f"file-{number % 100}")
                yield Download(url, BufferWriter())

        async with (
            Context(connections=5, connections_per_origin=4) as context,
            Batch(jobs(), concurrency=10, context=context) as batch,
        ):
            assert [plan.error async for plan in batch() if plan.error is not None] == []
            assert context.connections_in_use == 0
            assert ftp.open_controls() <= 5 - 1
        assert 1 < max(most_connections(tmp_path), ftp.peak_controls) <= 4


# -- 12. Termination at any point --------------------------------------------------------------------------------------

# -- 13. Any protocol --------------------------------------------------------------------------------------------------

# -- 14. A batch goes on, and tells how far it is ----------------------------------------------------------------------


@pytest.fixture
def nine_of_ten(tmp_path) -> Iterator[Iterator[Download]]:
    """Jobs for ten files of 1,000 bytes at nginx, the fifth of which is not there."""
    root, target = tmp_path / "root", tmp_path / "target"
    for directory in (root, target):
        directory.mkdir()
    for number in range(10):
        if number != 5:
            (root / str(number)).write_bytes(bytes(1000))
    with nginx(root) as server:
        yield (
            Download(server.url(f"/{number}"), FileWriter(target / str(number)), attachment=number)
            for number in range(10)
        )


@importer(14)
def test_a_batch_goes_on_past_a_failed_file(nine_of_ten) -> None:
    """A file that is not there fails alone; the batch tells at any time how many are done, failed and under way."""
    failed, seen = [], []
    with Context() as context, Batch(nine_of_ten, concurrency=3, context=context) as batch:
        for plan in batch():
            seen.append(batch.progress)
            if plan.error is not None:
                failed.append(plan.error.attachment)
    assert failed == [5]
    assert [each.consumed for each in seen] == list(range(1, 11))
    assert all(each.running <= 3 and each.succeeded + each.failed >= each.consumed for each in seen)
    _check_the_end(batch)


@importer(14)
async def test_a_batch_goes_on_past_a_failed_file_with_asyncio(nine_of_ten) -> None:
    """The same on a running loop."""
    failed = []
    async with Context() as context, Batch(nine_of_ten, concurrency=3, context=context) as batch:
        async for plan in batch():
            assert batch.progress.running <= 3
            if plan.error is not None:
                failed.append(plan.error.attachment)
    assert failed == [5]
    _check_the_end(batch)


def _check_the_end(batch: Batch) -> None:
    end = batch.progress
    assert (end.pulled, end.total, end.succeeded, end.failed, end.running, end.waiting) == (10, 10, 9, 1, 0, 0)
    assert (end.received, end.size, end.attempts) == (9000, 9000, 10)
