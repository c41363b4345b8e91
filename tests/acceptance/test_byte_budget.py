"""The byte budget: what has come and nobody has consumed, on disk and in memory, is never more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.use_cases import importer
from tests.servers import nginx as real_nginx
from tests.servers.http import head, http_server

from downhaul import Batch, BufferWriter, Context, Download, FileWriter, SizeValidation

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
SIZES = [1000, 700_000, 40_000, 300_000, 0, 999_999, 5]
BUDGET = 1_500_000
CONCURRENCY = 8
TURNS = 60


class Scales(threading.Thread):
    """Weighs a directory all the time, temporary files included; `heaviest` is the most that there was."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self.heaviest = 0
        self._directory = directory
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.002):
            self.weigh()

    def weigh(self) -> None:
        weight = 0
        with os.scandir(self._directory) as entries:
            for entry in entries:
                try:
                    weight += entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:  # published, or consumed, meanwhile
                    continue
        self.heaviest = max(self.heaviest, weight)

    def __enter__(self) -> Scales:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


def serve(tmp_path: Path) -> Path:
    """Make a directory with a file for each size."""
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o755)
    for number, size in enumerate(SIZES):
        (root / str(number)).write_bytes(bytes(size))
    return root


def jobs(server, target: Path, *, told: bool) -> Iterator[Download]:
    """Yield jobs for the files in turn; their sizes are *told* by validations, or else by the server alone."""
    for turn in range(TURNS):
        number = turn % len(SIZES)
        size = [SizeValidation(SIZES[number])] if told else []
        yield Download(server.url(f"/{number}"), FileWriter(target / str(turn)), validations=size)


def settled(batch: Batch) -> None:
    """Wait until nothing comes any more: the consumer is slow, and the batch has filled its budget."""
    before = -1
    pause = threading.Event()
    while (received := batch.progress.received) != before:
        before = received
        pause.wait(0.1)


@importer(6)
@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
def test_what_is_on_disk_stays_within_the_budget(tmp_path, told) -> None:
    """With a slow consumer, files that nobody has consumed never weigh more than the budget, parts of files included.

    Where the jobs tell no sizes, those that begin together may exceed their shares of the budget, until the answers
    tell.
    """
    target = tmp_path / "target"
    target.mkdir()
    largest = max(SIZES)
    bound = BUDGET if told else BUDGET + CONCURRENCY * (largest - BUDGET // CONCURRENCY)
    options = {"concurrency": CONCURRENCY, "backlog": 50, "byte_budget": BUDGET}
    with real_nginx.nginx(serve(tmp_path)) as server, Context() as context, Scales(target) as scales:
        with Batch(jobs(server, target, told=told), context=context, **options) as batch:
            for turn, plan in enumerate(batch()):
                path = plan.result().path
                assert path is not None
                path.unlink()  # consumed: it counts no more
                if turn % 10 == 0:
                    settled(batch)
                    scales.weigh()
        assert BUDGET // 4 < scales.heaviest <= bound
    assert turn == TURNS - 1


@importer(6)
async def test_files_without_a_size_and_larger_than_the_budget(tmp_path) -> None:
    """Files of which nobody knows the size until they end, each larger than the budget, all arrive."""

    async def script(exchange) -> None:
        await exchange.send(head(200, [("Transfer-Encoding", "chunked")]))
        for _ in range(20):
            await exchange.send(b"10000\r\n", bytes(0x10000), b"\r\n")
        await exchange.send(b"0\r\n\r\n")

    with http_server(script) as server:
        downloads = (Download(server.url(f"/{number}"), BufferWriter()) for number in range(12))
        async with (
            Context() as context,
            Batch(downloads, concurrency=4, byte_budget=MIB, context=context) as batch,
        ):
            sizes = [plan.result().size async for plan in batch()]
        assert sizes == [20 * 0x10000] * 12
        assert server.peak <= 4


PROGRAM = """
import json, sys
from downhaul import Batch, BufferWriter, Context, Download, SizeValidation
from benchmarks.importing import resident
from tests.acceptance.test_byte_budget import settled

base, number, size, told, budget = sys.argv[1], *map(int, sys.argv[2:])
validations = [SizeValidation(size)] if told else []
jobs = (Download(f"{base}/file?{turn}", BufferWriter(), validations=validations) for turn in range(number))
with Context() as context, Batch(jobs, concurrency=10, byte_budget=budget or None, context=context) as batch:
    start, consumed = resident("VmRSS"), 0
    for turn, plan in enumerate(batch()):
        consumed += len(plan.download.writer.content())
        if turn % 50 == 0:
            settled(batch)
print(json.dumps([start, resident("VmHWM"), consumed]))
"""


@importer(6)
@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
def test_memory_with_a_budget(tmp_path, told) -> None:
    """200 files of 8 MiB go through buffers in memory, and take what a budget of 32 MiB allows, not 800 MiB.

    Besides the budget there are the file in the consumer's hands, what is on the way from the sockets, and room to
    grow. Where the jobs tell no sizes, ten begin together, which are 80 MiB.
    """
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o755)
    (root / "file").write_bytes(bytes(8 * MIB))
    # What the C library keeps for later is not what is told here: large blocks go back at once.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    with real_nginx.nginx(root) as server:
        command = [sys.executable, "-c", PROGRAM, server.url(""), "200", str(8 * MIB), str(int(told)), str(32 * MIB)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, check=True, env=environment, cwd=Path(__file__).parents[2]
        )
    start, peak, consumed = json.loads(done.stdout)
    assert consumed == 200 * 8 * MIB
    assert peak - start < (90 if told else 170) * MIB
