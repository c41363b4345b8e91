"""The command as a user runs it: a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
SOURCES = ("core/src", "drivers/http/src", "drivers/ftp/src")
PATIENCE = 30


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def said(self) -> str:
        """The one line on standard error."""
        (line,) = self.err.splitlines()
        return line


def environment() -> dict[str, str]:
    """Return an environment that finds the checkout, tells of leaks, and holds nothing that changes the output."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(str(ROOT / source) for source in SOURCES),
        "PYTHONWARNINGS": "always::ResourceWarning,always::RuntimeWarning",
        "TERM": "xterm",
    }


def ended(process: subprocess.Popen[bytes], given: bytes | None = None) -> Ended:
    """Wait for *process*; whatever a test is about, nothing leaks and no traceback is shown."""
    try:
        raw, err = process.communicate(given, PATIENCE)
    finally:
        process.kill()
    result = Ended(process.returncode, raw or b"", (err or b"").decode())
    assert "Traceback" not in result.err, result.err
    assert "Warning" not in result.err, result.err
    return result


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the command in an empty directory."""
    started = []

    def start(*arguments: str, python: tuple[str, ...] = ("-m", "downhaul"), **options) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        options = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, "env": environment(), **options}
        # A shell's background job may have SIGINT ignored, which children inherit.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = subprocess.Popen([sys.executable, *python, *arguments], cwd=tmp_path, **options)
        finally:
            signal.signal(signal.SIGINT, before)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def downhaul(start: Callable[..., subprocess.Popen[bytes]]) -> Callable[..., Ended]:
    """Run the command in an empty directory."""

    def run(*arguments: str, given: bytes | None = None, **options) -> Ended:
        if given is not None:
            options["stdin"] = subprocess.PIPE
        return ended(start(*arguments, **options), given)

    return run
