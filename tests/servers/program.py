"""What every server that is a program needs: to be installed, a free port, and time to start."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    import subprocess

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
