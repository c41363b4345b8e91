"""Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest
from tests.servers.http import http_server

from .conftest import PATIENCE, ended, environment

if TYPE_CHECKING:
    from collections.abc import Callable


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what only the file system tells."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("arguments", [["-d", "."], ["-o", "-"], ["--json"]])
def test_a_signal_ends_it_and_leaves_nothing_behind(start, tmp_path, number, code, arguments) -> None:
    """In the middle of a file: no temporary file, no traceback, the code that shells expect."""

    async def half(exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n" + bytes(2_000_000))
        await exchange.stall()

    with http_server(half) as server:
        names = ["a"] if "-" in arguments else ["a", "b", "c"]
        process = start("get", *arguments, *(server.url(f"/{name}") for name in names))
        if "-" not in arguments:
            server.wait_until(lambda server: len(server.requests) == 3)
            wait_until(lambda: len(list(tmp_path.iterdir())) == 3)  # the temporary files
        else:
            assert process.stdout.read(1) == b"\0"
        process.send_signal(number)
        result = ended(process)
        server.wait_until(lambda server: server.open == 0)
    assert result.code == code
    assert list(tmp_path.iterdir()) == []
    assert result.err.strip() == ""


def test_a_signal_while_it_waits_for_another_round(start, tmp_path) -> None:
    """A pause between rounds is cut short too."""

    async def later(exchange) -> None:
        await exchange.respond(503, b"", [("Retry-After", "50")])

    with http_server(later) as server:
        process = start("get", server.url("/a"))
        server.wait_until(lambda server: len(server.requests) == 1)
        process.send_signal(signal.SIGINT)
        assert ended(process).code == 130


def test_a_signal_ends_the_demo_and_leaves_nothing_behind(start, tmp_path) -> None:
    """Neither its directory nor a file."""
    process = start("demo", "--files", "5000", env={**environment(), "TMPDIR": str(tmp_path)})
    wait_until(lambda: any(tmp_path.glob("downhaul-demo-*/*.bin")))
    process.send_signal(signal.SIGINT)
    result = ended(process)
    assert result.code == 130
    assert result.raw == b""
    assert list(tmp_path.iterdir()) == []
