"""Notebooks and the asyncio REPL, where a loop runs already: real ones, with cells as a user writes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.acceptance.run_notebook import site
from tests.acceptance.use_cases import importer
from tests.mem import names
from tests.servers.http import http_server

import downhaul

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
REFUSED = "RuntimeError: an event loop runs in this thread, and waiting would stop it; use `{}`"


def environment(directory: Path) -> dict[str, str]:
    """Return an environment that finds downhaul, and where Jupyter and IPython keep their files in *directory*."""
    sources = [str(Path(downhaul.__path__[0]).parent), *(str(ROOT / f"drivers/{each}/src") for each in ("http", "ftp"))]
    own = {name: str(directory) for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")}
    return {**os.environ, **own, "JUPYTER_PLATFORM_DIRS": "1", "PYTHONPATH": os.pathsep.join([*sources, str(ROOT)])}


def notebook(directory: Path, cells: Sequence[str | list[str]]) -> list[str]:
    """Run *cells* in a kernel whose directory is ``work`` in *directory*; return what each says."""
    (directory / "work").mkdir()
    ended = subprocess.run(
        [sys.executable, "-m", "tests.acceptance.run_notebook", json.dumps(cells)],
        cwd=directory / "work", env=environment(directory), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@importer(8, "sync")
def test_a_synchronous_call_in_a_notebook_says_what_to_do(tmp_path: Path) -> None:
    """Each refused cell says what to write in its place, and the next cell does just that."""
    pairs = [
        (
            'downhaul.download(URL + "/file", "one")',
            "await Download(url, FileWriter(path)).run()",
            'url, path = URL + "/file", "one"\nresult = await Download(url, FileWriter(path)).run()\nresult.size',
        ),
        (
            'download = Download(URL + "/file", FileWriter("two"))\ndownload()',
            "await download.run()",
            "result = await download.run()\nresult.size",
        ),
        (
            "downloads = [download.clone()]\nwith Batch(downloads) as batch:\n    pass",
            "async with Batch(…) as batch",
            "async with Batch(downloads) as batch:\n    [print(plan.result().size) async for plan in batch()]",
        ),
        (
            "with download.stream() as stream:\n    pass",
            "async with download.stream()",
            "async with download.stream() as stream:\n    print(sum([len(block) async for block in stream]))",
        ),
    ]
    cells = ["import downhaul\nfrom downhaul import *"]
    for refused, _, instead in pairs:
        cells += [refused, instead]
    nothing, *said = notebook(tmp_path, cells)
    assert nothing == ""
    assert said[::2] == [REFUSED.format(instead) for _, instead, _ in pairs]
    assert [each.strip() for each in said[1::2]] == ["300000"] * len(pairs)
    assert names(tmp_path / "work") == ["one", "two"]


@importer(8, "asyncio")
def test_a_context_lives_over_cells_and_interrupts(tmp_path: Path) -> None:
    """A context serves cell after cell; an interrupted cell leaves nothing, and the kernel and the context go on."""
    setup = """
import asyncio, os
from downhaul import *
context = Context(connections=2)
"""
    one = """
result = await context.download(URL + "/file", FileWriter("file")).run()
result.size
"""
    batch = """
downloads = [context.download(URL + "{}", FileWriter("{}")) for n in range(5)]
async with Batch(downloads, context=context) as batch:
    print(len([plan.result() async for plan in batch()]))
"""
    stream = """
async with context.download(URL + "/slow", FileWriter("slow")).stream() as stream:
    async for block in stream: pass
"""
    said = notebook(
        tmp_path,
        [
            setup,
            one,
            [one.replace("file", "slow"), "interrupt"],
            "print(context.connections_in_use, os.listdir())",
            [batch.format("/slow", "slow"), "interrupt"],
            "print(context.connections_in_use, os.listdir())",
            [stream, "interrupt"],
            "print(context.connections_in_use, os.listdir())",
            batch.format("/file", "file"),
            'result = await asyncio.to_thread(context.download(URL + "/file", FileWriter("thread")))',
            "context.close()\ncontext.is_closed",
            "restart",
            setup + one,
        ],
    )
    left, interrupted = "0 ['file']\n", ("KeyboardInterrupt", "CancelledError")
    assert ["interrupted" if each.startswith(interrupted) else each for each in said] == [
        "", "300000", "interrupted", left, "interrupted", left, "interrupted", left, "5\n", "", "True", "300000",
    ], said  # fmt: skip
    assert names(tmp_path / "work") == ["file", "thread"]


@importer(8, "asyncio")
def test_the_asyncio_repl(tmp_path: Path) -> None:
    """In `python -m asyncio` a synchronous call says what to do, and that works."""
    with http_server(site) as server:
        lines = f"""
from downhaul import *
import downhaul
downhaul.download("{server.url("/file")}", "file")
download = Download("{server.url("/file")}", FileWriter("file"))
print((await download.run()).size)
print((await asyncio.to_thread(download)).size)
"""
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-m", "asyncio"],
            input=lines, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
    assert ended.stdout.count("300000\n") == 2, ended
    assert REFUSED.format("await Download(url, FileWriter(path)).run()") in ended.stderr.splitlines()
    assert "Warning" not in ended.stderr
    assert names(tmp_path) == ["file"]
