"""Each time limit, named by its phase in the error."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.remotes import fetch, forms
from tests.servers.http import head, http_server

from downhaul import Timeout, TimeoutExceeded

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = 60.0
"""Seconds for the limits that must not be met: a test that waits for one of them fails by its own time limit."""


@contextmanager
def full() -> Iterator[str]:
    """Yield the URL of a host that takes no more connections: its queue is full and nobody accepts."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}/pkg.rpm"


@contextmanager
def silent(sent: bytes = b"", *, drip: bytes = b"") -> Iterator[str]:
    """Yield the URL of a server that sends *sent*, then nothing, or *drip* again and again."""

    async def serve(reader, writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        while drip:
            writer.write(drip)
            await writer.drain()
            await asyncio.sleep(0.02)
        await reader.read()

    with http_server(raw=serve) as server:
        yield server.url("/pkg.rpm")


BEGUN = head(200, [("Content-Length", "1000000")]) + b"the beginning"
LIMITS = {
    "connect": (full, Timeout(connect=0.3, read=LONG, head=LONG, total=LONG)),
    "head": (silent, Timeout(connect=LONG, read=LONG, head=0.3, total=LONG)),
    "head, by read": (silent, Timeout(connect=LONG, read=0.3)),
    "idle": (lambda: silent(BEGUN), Timeout(connect=LONG, read=0.3, head=LONG, total=LONG)),
    "total": (lambda: silent(BEGUN, drip=b"."), Timeout(connect=LONG, read=LONG, head=LONG, total=0.5)),
    "total, by waits": (full, Timeout(connect=0.1, read=LONG, total=1)),
}


@pytest.mark.timeout(LONG - 10)
@forms(1)
@pytest.mark.parametrize("limit", LIMITS)
def test_the_error_names_the_phase(form, limit) -> None:
    """What took too long is told: the connection, the head, a silence in the file, or all of it with its retries."""
    server, timeout = LIMITS[limit]
    phase = limit.partition(",")[0]
    with server() as url, pytest.raises(TimeoutExceeded) as caught:
        fetch(form, url, timeout=timeout, retries=100 if phase == "total" else 0)
    assert caught.value.phase == phase
    assert caught.value.transient is (phase != "total")
