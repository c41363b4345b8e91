"""What an importer does with downhaul: each use case in the synchronous form and with asyncio, on real sockets.

A synchronous test runs in a plain thread, without an event loop. What takes more than a page to prove stands in the
files beside this one, under the same marks.
"""

from __future__ import annotations

import os
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trustme
from tests.acceptance.use_cases import importer
from tests.servers.nginx import nginx
from tests.servers.vsftpd import vsftpd
from tests.servers.vsftpd import why_missing as why_vsftpd_is_missing

from downhaul import (
    TLS,
    Batch,
    BufferWriter,
    Context,
    Download,
    Driver,
    FileWriter,
    Info,
    Payload,
    UnsupportedScheme,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from downhaul import Plan, Request, Settings

# -- 1. Single files, with every common setting ------------------------------------------------------------------------

# -- 2. All settings of the client library, or one's own client --------------------------------------------------------

# -- 3. An Artifact from size and digests ------------------------------------------------------------------------------

# -- 4. Concurrent downloads from generators ---------------------------------------------------------------------------

# -- 5. Validation -----------------------------------------------------------------------------------------------------

# -- 6. Not all in memory ----------------------------------------------------------------------------------------------

# -- 7. An attachment in results and errors ----------------------------------------------------------------------------

# -- 8. Any thread -----------------------------------------------------------------------------------------------------

# -- 9. Shared sessions, pools, tokens, mirror lists -------------------------------------------------------------------

# -- 10. Customised downloading ----------------------------------------------------------------------------------------

# -- 11. Bounded connections -------------------------------------------------------------------------------------------

# -- 12. Termination at any point --------------------------------------------------------------------------------------

# -- 13. Any protocol --------------------------------------------------------------------------------------------------


class CountDriver(Driver):
    """Somebody's own protocol: ``count:5`` is the digits from 0 to 4."""

    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncIterator[Payload]:
        """Answer from the URL alone."""

        async def body() -> AsyncIterator[bytes]:
            yield content

        content = "".join(map(str, range(int(request.url.removeprefix("count:"))))).encode()
        yield Payload(Info(request.url, size=len(content), proof="length"), body())


@pytest.fixture
def any_protocol(tmp_path) -> Iterator[tuple[Context, list[Download], dict[str, bytes]]]:
    """A context with a driver of our own, jobs for five schemes and one that nobody speaks, and what is to come."""
    if (reason := why_vsftpd_is_missing()) is not None:
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    root, authority = tmp_path / "root", trustme.CA()
    root.mkdir()
    (root / "file").write_bytes(b"a file")
    tls = TLS(ca_certificate=authority.cert_pem.bytes().decode())
    with nginx(root) as web, nginx(root, tls=authority.issue_cert("localhost")) as safe, vsftpd(root) as ftp:
        contents = {
            web.url("/file"): b"a file",
            safe.url("/file"): b"a file",
            ftp.url("file"): b"a file",
            "data:,a%20note": b"a note",  # by an installed distribution, docs/examples/downhaul-data
            "count:5": b"01234",
        }
        jobs = [Download(url, BufferWriter(), attachment=url) for url in (*contents, "gopher://127.0.0.1/file")]
        yield Context(tls=tls, drivers={"count": CountDriver()}), jobs, contents


def _check_any_protocol(plans: list[Plan], contents: dict[str, bytes]) -> None:
    came = {plan.download.attachment: plan.download.writer.content() for plan in plans if plan.error is None}
    assert came == contents
    (failed,) = [plan.error for plan in plans if plan.error is not None]
    assert isinstance(failed, UnsupportedScheme)
    assert re.search(r"no driver for 'gopher' \(installed: count, data, ftp, http, https\); install", str(failed))
    assert failed.history == ()  # nobody was asked


@importer(13)
def test_the_scheme_picks_the_driver(any_protocol) -> None:
    """One batch over HTTP, HTTPS, FTP and two protocols of others; what nobody speaks fails alone, and at once."""
    context, jobs, contents = any_protocol
    with context, Batch(jobs, context=context) as batch:
        _check_any_protocol(list(batch()), contents)
        with pytest.raises(UnsupportedScheme, match="no driver for 'gopher'"):
            context.download("gopher://127.0.0.1/file")


@importer(13)
async def test_the_scheme_picks_the_driver_with_asyncio(any_protocol) -> None:
    """The same on a running loop."""
    context, jobs, contents = any_protocol
    async with context, Batch(jobs, context=context) as batch:
        _check_any_protocol([plan async for plan in batch()], contents)


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
