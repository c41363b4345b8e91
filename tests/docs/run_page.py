"""Execute the blocks of one page in order, in one namespace: ``python -m tests.docs.run_page PAGE ADDRESSES``.

*ADDRESSES* is a JSON object of the hosts that the page names and where they are. What becomes of a block:

=========== =========================================================================================================
``python``  executed; with ``await`` outside of a function, by an event loop that lives as long as the page. A block
            that prints is followed by one of ``output``
``output``  compared with what the block before it printed; "…" stands for anything
``console`` commands, each after a ``$``: those of downhaul and of the examples, and those for what the page has written
            itself, are run, and end with 0, or as a comment ``# exit 8`` says; of others it is seen that they exist and
            know what they are asked
``toml``    parsed
``text``    a picture
=========== =========================================================================================================

A path behind the language, ``python acme/acme.py``, makes the block a part of that file too, behind what earlier
blocks have put there. A distribution that is made so is installed by ``pip install -e FOLDER`` into an environment of
its own, which the commands behind it are run in, and tested by ``pytest FOLDER``.

There is no other language, and no way to leave a block out. The first failure ends the run, with a traceback into the
page.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import json
import linecache
import re
import shlex
import site
import subprocess
import sys
import tomllib
import traceback
from pathlib import Path

from tests.docs.commands import known_command, runnable, site_packages
from tests.docs.pages import LANGUAGES, ROOT, Block, blocks, localized


def main(page: str, addresses: str) -> None:
    """Run *page*; raise what its blocks raise."""
    text = localized((ROOT / page).read_text("utf-8"), json.loads(addresses))
    linecache.cache[page] = (len(text), None, text.splitlines(keepends=True), page)
    names: dict[str, object] = {"__name__": "__main__"}
    printed: str | None = None  # by the block before, and not compared yet
    with asyncio.Runner() as runner:
        for block in blocks(text):
            if printed and block.language != "output":
                raise AssertionError(f"{page}:{block.line}: the block before prints {printed!r}, and no output follows")
            if block.language not in LANGUAGES:
                raise AssertionError(f"{page}:{block.line}: no such language as {block.language!r}; known: {LANGUAGES}")
            if block.path:
                _write(block)
            if block.language == "python":
                printed = _run(page, block, names, runner)
            elif block.language == "output":
                _compare(page, block, printed)
                printed = None
            elif block.language == "toml":
                tomllib.loads(block.text)
            elif block.language == "console":
                for line in block.text.replace("\\\n", " ").splitlines():
                    _command(f"{page}:{block.line}", line)
        if printed:
            raise AssertionError(f"{page}: the last block prints {printed!r}, and no output follows")


def _run(page: str, block: Block, names: dict[str, object], runner: asyncio.Runner) -> str:
    source = "\n" * (block.line - 1) + block.text
    code = compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        if code.co_flags & inspect.CO_COROUTINE:
            runner.run(eval(code, names))
        else:
            exec(code, names)
    return out.getvalue()


def _write(block: Block) -> None:
    """Add *block* to its file, below the directory that the page is executed in."""
    path = Path(block.path)
    if path.is_absolute() or ".." in path.parts:
        raise AssertionError(f"{block.path} is no place for a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n\n{block.text}" if path.stat().st_size else block.text)


def _compare(page: str, block: Block, printed: str | None) -> None:
    pattern = ".*".join(map(re.escape, block.text.split("…")))
    if printed is None or not re.fullmatch(pattern, printed, re.DOTALL):
        raise AssertionError(f"{page}:{block.line}: it does not print\n{block.text}\nbut\n{printed}")


def _command(where: str, line: str) -> None:
    """Run a command of downhaul or of an example; of any other one, see that it exists and knows what it is asked."""
    if not line.startswith("$ "):
        raise AssertionError(f"{where}: {line!r} is no command; commands begin with $")
    words = shlex.split(line[2:], comments=True)
    if command := runnable(words):
        expected = int(line.partition("# exit ")[2] or 0)
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if ended.returncode != expected:
            told = f"{ended.stdout}{ended.stderr}"
            raise AssertionError(f"{where}: {line!r} ends with {ended.returncode}, not {expected}:\n{told}")
        if words[:2] == ["pip", "install"]:
            site.addsitedir(str(site_packages()))  # here too, from now on
    elif reason := known_command(words):
        raise AssertionError(f"{where}: {line!r}: {reason}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception:
        traceback.print_exc()  # the interpreter's own traceback would not show the lines of the page
        sys.exit(1)
