"""A process that ends in the midst of a batch: Ctrl-C, the end of the program, sys.exit, SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.farm import farm
from tests.acceptance.leaks import Watch
from tests.acceptance.use_cases import importer

import downhaul

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.farm import Farm

ROOT = Path(__file__).parents[2]
PATIENCE = 2.0  # seconds from the signal, or from the end of the program, to the end of the process
PLACES = [pytest.param(1, marks=pytest.mark.large), 12, pytest.param(30, marks=pytest.mark.large)]
HEAD = """
import asyncio, sys, threading
from pathlib import Path
from downhaul import Batch, Context, Download, FileWriter
target, k = Path(sys.argv[1]), int(sys.argv[2])

def jobs():
    for number, url in enumerate(sys.argv[3:]):
        yield Download(url, FileWriter(target / f"{number}-{url.rpartition('/')[2]}"))

def at(number):
    "Say that the k-th item has come; then nothing more is said, and the batch goes on."
    if number == k:
        print("there", flush=True)
    return number == k

def many(consume=at):
    with Batch(jobs(), concurrency=8, backlog=20) as batch:
        for number, plan in enumerate(batch(), 1):
            if consume(number):
                return True

async def many_async(context=None, consume=at):
    async with Batch(jobs(), concurrency=8, backlog=20, context=context) as batch:
        number = 0
        async for plan in batch():
            number += 1
            if consume(number) and consume is not at:
                return

def endless(number):
    at(number)

"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """The servers."""
    with farm(tmp_path_factory.mktemp("farm")) as world:
        yield world


def _run(program: str, k: int, world: Farm, target: Path, send: int | None = None) -> tuple[int, str]:
    """Run *program* up to its k-th item, send it a signal; return its exit code and what it complained of."""
    watch = Watch(target, servers=world.ports)
    home = Path(downhaul.__path__[0]).parent
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job may have it ignored
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", HEAD + program, str(target), str(k), *(url for _, url in world.urls())],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(home), *_drivers()])},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert process.stdout.readline() == "there\n", process.stderr.read()
        began = time.monotonic()
        if send is not None:
            process.send_signal(send)
        _, complaints = process.communicate(timeout=30)
        took = time.monotonic() - began
    finally:
        process.kill()
        process.communicate()
    assert took < PATIENCE * (1 + os.getloadavg()[0]), f"it took {took:.1f} s"  # the machine may be busy
    watch.check_servers()
    if process.returncode != -signal.SIGTERM:
        watch.check()
        for path in target.iterdir():
            assert path.read_bytes() == world.contents[path.name.partition("-")[2]]
    return process.returncode, complaints


def _drivers() -> list[str]:
    return [str(ROOT / "drivers" / name / "src") for name in ("http", "ftp")]


SYNC = {
    "batch": "many(endless)",
    "thread of its own": """
with Context() as context, Batch(jobs(), concurrency=8, backlog=20, context=context) as batch:
    for number, plan in enumerate(batch(), 1): at(number)""",
}
ASYNCIO = {
    "bridged": "asyncio.run(many_async())",
    "bound": """
async def main():
    async with Context() as context: await many_async(context)
asyncio.run(main())""",
}


def _ctrl_c(program: str, k: int, world: Farm, target: Path) -> None:
    code, complaints = _run(program, k, world, target, signal.SIGINT)
    assert code in (-signal.SIGINT, 1), complaints  # the interpreter does not always end by the signal itself
    assert complaints.rstrip().endswith("KeyboardInterrupt")
    for noise in ("never", "destroyed", "ResourceWarning", "Exception ignored", "unclosed"):
        assert noise not in complaints, complaints


@importer(12)
@pytest.mark.parametrize("k", PLACES)
@pytest.mark.parametrize("program", SYNC)
def test_ctrl_c(program: str, k: int, world: Farm, tmp_path: Path) -> None:
    """Ctrl-C ends a process in the midst of a batch within two seconds, and leaves no file half done."""
    _ctrl_c(SYNC[program], k, world, tmp_path)


@importer(12, "asyncio")
@pytest.mark.parametrize("k", PLACES)
@pytest.mark.parametrize("program", ASYNCIO)
def test_ctrl_c_with_asyncio(program: str, k: int, world: Farm, tmp_path: Path) -> None:
    """The same in ``asyncio.run``."""
    _ctrl_c(ASYNCIO[program], k, world, tmp_path)


ENDS = {
    "sys.exit in the body": "many(lambda number: at(number) and sys.exit(0))",
    "a batch that is held": """
batch = Batch(jobs(), concurrency=8, backlog=20).__enter__()
for number, plan in enumerate(batch(), 1):
    if at(number): break""",
    "a batch of a daemon thread": """
there = threading.Event()
threading.excepthook = lambda _: None
threading.Thread(target=many, args=[lambda number: at(number) and there.set()], daemon=True).start()
there.wait()""",
    "a held generator": """
def results():
    with Batch(jobs(), concurrency=8, backlog=20) as batch: yield from batch()
each = results()
for number, plan in enumerate(each, 1):
    if at(number): break""",
}
ASYNCIO_ENDS = {
    "sys.exit in the body": "asyncio.run(many_async(consume=lambda number: at(number) and sys.exit(0)))",
    "a task that is left alone": """
async def main():
    there = asyncio.Event()
    main.task = asyncio.create_task(many_async(consume=lambda number: at(number) and there.set()))
    await there.wait()
asyncio.run(main())""",
}


@importer(12)
@pytest.mark.parametrize("k", PLACES)
@pytest.mark.parametrize("program", ENDS)
def test_the_program_ends(program: str, k: int, world: Farm, tmp_path: Path) -> None:
    """A program that ends in the midst of a batch ends at once, with code 0, not a word, and no file half done."""
    assert _run(ENDS[program], k, world, tmp_path) == (0, "")


@importer(12, "asyncio")
@pytest.mark.parametrize("k", PLACES)
@pytest.mark.parametrize("program", ASYNCIO_ENDS)
def test_the_program_ends_with_asyncio(program: str, k: int, world: Farm, tmp_path: Path) -> None:
    """The same with asyncio."""
    assert _run(ASYNCIO_ENDS[program], k, world, tmp_path) == (0, "")


@importer(12)
def test_sigterm(world: Farm, tmp_path: Path) -> None:
    """SIGTERM, where the program does not handle it, ends a process at once: it may leave temporary files behind."""
    code, complaints = _run(SYNC["batch"], 5, world, tmp_path, signal.SIGTERM)
    assert (code, complaints) == (-signal.SIGTERM, "")
    handled = "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n" + SYNC["batch"]
    for path in tmp_path.iterdir():
        path.unlink()
    assert _run(handled, 5, world, tmp_path, signal.SIGTERM) == (0, "")
