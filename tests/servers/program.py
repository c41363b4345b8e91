"""What every server that is a program needs: to be installed, a free port, and time to start."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

PATIENCE: Final = 20.0
"""Seconds for a program to start, or to end."""


def need(reason: str | None) -> None:
    """Skip the test for *reason*, which says what is missing; fail where CI is "true"; None: all is there."""
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def free_port() -> int:
    """Return a port of the loopback on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until *process* accepts connections on *port*."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.01)
    raise TimeoutError("the server does not accept connections")


@contextlib.contextmanager
def running(
    name: str, command: Sequence[str], port: int, log: Path, *, env: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run *command* while the block runs, a server that accepts connections on *port*, in the directory of *log*.

    What it writes goes to the file *log*; where something fails, the end of that is told as what *name* said.
    """
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=log.parent, env=env)
    try:
        wait_for(process, port)
        yield
    except BaseException as reason:
        reason.add_note(f"{name} said:\n{log.read_text(errors='replace')[-3000:]}")
        raise
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
