"""Data connections: EPSV, PASV, and whose host is connected to."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
from tests.servers.ftp import FtpServer

from downhaul import ConnectError, NotFound, ServerError, StatusError

if TYPE_CHECKING:
    from .conftest import Asker

FILES = {"a": b"alpha", "b": b"beta"}


@pytest.mark.parametrize(
    "reply",
    ["500 What?", "501 No.", "502 No.", "522 Use (1).", "550 No.", "229 (|||0|)", "229 (|||1000000|)", "229 Entering"],
)
async def test_epsv_refused(ask: Asker, reply: str) -> None:
    """Where EPSV is refused, or names no port, PASV is used, and from then on without asking again."""
    with FtpServer(FILES, replies={"EPSV": reply}) as server:
        for name in "ab":
            assert (await ask.get(server.url(name)))[1] == FILES[name]
        assert (server.sent("EPSV"), server.sent("PASV")) == (1, 2)


async def test_epsv_remembered_over_connections(ask: Asker) -> None:
    """That a host has no EPSV is known to its other connections too."""
    with FtpServer(FILES, replies={"EPSV": "500 What?"}) as server:
        await ask.get(server.url("a"))
        await ask.fails(NotFound, server.url("missing"))  # costs the connection
        await ask.get(server.url("b"))
        assert server.controls == 2
        assert (server.sent("EPSV"), server.sent("PASV")) == (1, 3)


async def test_epsv_port_dead(ask: Asker) -> None:
    """Where nobody listens on the port of EPSV, PASV is used, and from then on without trying again."""
    with FtpServer(FILES, dead_epsv=True) as server:
        for name in "ab":
            assert (await ask.get(server.url(name)))[1] == FILES[name]
        assert (server.sent("EPSV"), server.sent("PASV")) == (1, 2)


async def test_pasv_address_is_ignored(ask: Asker) -> None:
    """The host that PASV names is not connected to; the peer of the control connection is."""
    with FtpServer(FILES, replies={"EPSV": "500 What?"}, pasv_host="127.0.0.2") as server:
        assert (await ask.get(server.url("a")))[1] == b"alpha"
        assert server.lured == 0


async def test_neither(ask: Asker) -> None:
    """Where both are refused the error says so, and the next download tries both again."""
    with FtpServer(FILES, replies={"EPSV": ["500 What?", "500 What?"], "PASV": "502 Neither."}) as server:
        for _ in range(2):
            assert (await ask.fails(StatusError, server.url("a"))).code in {500, 502}
        assert server.sent("EPSV") == 2


async def test_pasv_forgotten(ask: Asker) -> None:
    """Where PASV fails that was remembered, the download after it tries EPSV again."""
    script = {"EPSV": "500 What?", "PASV": ["227 Passive mode (127,0,0,1,0,1)"]}
    with FtpServer(FILES, replies={"EPSV": "500 What?"}) as server:
        await ask.get(server.url("a"))
        server.replies.update(script)
        await ask.fails(ConnectError, server.url("a"))
        server.replies.clear()
        assert (await ask.get(server.url("a")))[1] == b"alpha"
        assert (server.sent("EPSV"), server.sent("PASV")) == (2, 2)


@pytest.mark.parametrize("verb", ["EPSV", "PASV"])
async def test_later(ask: Asker, verb: str) -> None:
    """A transient refusal of a data connection is one of the download."""
    with FtpServer(FILES, replies={"EPSV": "500 What?", verb: "425 Not now."}) as server:
        assert (await ask.fails(ServerError, server.url("a"))).code == 425
        await asyncio.to_thread(server.settle)


async def test_refused_file_leaves_no_data_connection(ask: Asker) -> None:
    """The data connection of a refused RETR is closed at once, not with the driver."""
    with FtpServer(FILES) as server:
        assert (await ask.fails(NotFound, server.url("missing"))).code == 550
        await asyncio.to_thread(server.settle)
        assert server.peak_data == 1


async def test_ipv6(ask: Asker) -> None:
    """EPSV works over IPv6."""
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        server = FtpServer(FILES, host="::1").__enter__()
    except OSError as reason:
        pytest.skip(f"no IPv6 loopback here: {reason}")
    try:
        assert (await ask.get(server.url("a")))[1] == b"alpha"
    finally:
        server.__exit__()
