"""What an importer does with downhaul: each use case in the synchronous form and with asyncio, on real sockets.

A synchronous test runs in a plain thread, without an event loop. What takes more than a page to prove stands in the
files beside this one, under the same marks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.acceptance.use_cases import importer
from tests.servers.nginx import nginx

from downhaul import Batch, Context, Download, FileWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

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
