"""When a transfer counts as complete, and what its end otherwise means."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.servers.ftp import HANG_UP, Fault, FtpServer

from downhaul import (
    DownloadError,
    NotFound,
    ProtocolError,
    Request,
    ServerError,
    Settings,
    StatusError,
    Timeout,
    TimeoutExceeded,
    Truncated,
)
from downhaul_ftp import FtpOptions

from .conftest import IMPATIENT, SETTINGS

if TYPE_CHECKING:
    from .conftest import Asker

CONTENT = bytes(range(251)) * 4000
FILES = {"a": CONTENT, "b": b"beta"}
NO_SIZE = {"SIZE": "502 No."}
SILENT = "150 Coming."
"""An opening that does not tell the size."""


@pytest.mark.parametrize("cut", [0, 1, len(CONTENT) - 1])
@pytest.mark.parametrize("replies", [{}, NO_SIZE], ids=["SIZE", "150 line"])
async def test_short(ask: Asker, cut: int, replies: dict[str, str]) -> None:
    """Fewer bytes than announced are Truncated, although the server says that all is well."""
    with FtpServer(FILES, replies=replies, faults={"a": Fault(cut=cut)}) as server:
        error = await ask.fails(Truncated, server.url("a"))
        assert f"{cut} of {len(CONTENT)} bytes" in str(error)
        await asyncio.to_thread(server.settle)


async def test_short_continuation(ask: Asker) -> None:
    """Fewer bytes than remain from an offset are Truncated."""
    with FtpServer(FILES, faults={"a": Fault(cut=10)}) as server:
        await ask.fails(Truncated, server.url("a"), offset=len(CONTENT) - 11)
        assert len((await ask.get(server.url("a"), offset=len(CONTENT) - 10))[1]) == 10


@pytest.mark.parametrize("replies", [{}, NO_SIZE], ids=["SIZE", "150 line"])
async def test_long(ask: Asker, replies: dict[str, str]) -> None:
    """More bytes than announced are a ProtocolError, and none of the surplus is handed out."""
    with FtpServer(FILES, replies=replies, faults={"a": Fault(extra=b"x")}) as server:
        received: list[bytes] = []
        with pytest.raises(ProtocolError):
            await _read_into(received, ask, server.url("a"))
        assert CONTENT.startswith(b"".join(received))
        await asyncio.to_thread(server.settle)


async def test_name_that_looks_like_a_size(ask: Asker) -> None:
    """A name in the opening line is not taken for a size."""
    name = "b (7 bytes)"
    with FtpServer({name: b"beta"}, replies=NO_SIZE, faults={name: Fault(opening=f"150 For {name}.")}) as server:
        info, received = await ask.get(server.url("b%20(7%20bytes)"))
        assert (info.proof, received) == ("unproven", b"beta")


async def test_reset(ask: Asker) -> None:
    """A data connection that is reset is Truncated."""
    fault = Fault(cut=500_000, ends="reset", final="426 Connection lost.")
    with FtpServer(FILES, faults={"a": fault}) as server:
        await ask.fails(Truncated, server.url("a"))
        await asyncio.to_thread(server.settle)


async def test_reset_that_the_server_calls_a_success(ask: Asker) -> None:
    """A data connection that is reset is Truncated although no size is known and the server says that all is well."""
    fault = Fault(opening=SILENT, cut=500_000, ends="reset")
    with FtpServer(FILES, replies=NO_SIZE, faults={"a": fault}) as server:
        await ask.fails(Truncated, server.url("a"))


async def test_stall(ask: Asker) -> None:
    """A data connection on which nothing more comes is an idle time-out, and is closed."""
    with FtpServer(FILES, faults={"a": Fault(cut=500_000, ends="hold")}) as server:
        assert (await ask.fails(TimeoutExceeded, server.url("a"), IMPATIENT)).phase == "idle"
        await asyncio.to_thread(server.settle)


async def test_stall_that_ends(ask: Asker) -> None:
    """Without a limit a silence is waited for."""
    patient = Settings(timeout=Timeout(read=None)).complete()
    with FtpServer({"a": b"alpha"}, faults={"a": Fault(opening=SILENT, ends="hold")}, replies=NO_SIZE) as server:
        async with ask.driver.open(Request(server.url("a")), patient) as payload:
            body = aiter(payload.body)
            assert await anext(body) == b"alpha"
            server.release()
            assert [block async for block in body] == []


@pytest.mark.parametrize(
    ("final", "kind"),
    [
        ("426 Aborted.", Truncated),
        ("451 Read error.", Truncated),
        ("550 Went away.", Truncated),
        ("425 No data connection.", ServerError),
        ("452 Disk full.", ServerError),
        ("421 Timed out.", ServerError),
        ("552 Quota.", StatusError),
        ("331 What?", ProtocolError),
    ],
)
@pytest.mark.parametrize("replies", [{}, NO_SIZE], ids=["SIZE", "unproven"])
async def test_refused_at_the_end(ask: Asker, final: str, kind: type[DownloadError], replies: dict[str, str]) -> None:
    """What the server says at the end counts, although all bytes came."""
    with FtpServer(FILES, replies=replies, faults={"a": Fault(opening=SILENT, final=final)}) as server:
        error = await ask.fails(kind, server.url("a"))
        assert final in str(error)
        await asyncio.to_thread(server.settle)


@pytest.mark.parametrize(
    ("cut", "final", "kind"),
    [
        (0, "550 No such file.", NotFound),
        (0, "425 No data connection.", ServerError),
        (10, "550 Went away.", Truncated),
        (10, "452 Disk full.", Truncated),
        (10, "552 Quota.", Truncated),
    ],
)
async def test_refused_midway(ask: Asker, cut: int, final: str, kind: type[DownloadError]) -> None:
    """A refusal before the first byte is what it says; after it, the file is Truncated."""
    with FtpServer(FILES, faults={"a": Fault(cut=cut, final=final)}) as server:
        assert final in str(await ask.fails(kind, server.url("a")))


@pytest.mark.parametrize(
    "fault",
    [
        Fault(final=None),
        Fault(final=HANG_UP),
        Fault(hang_up=True),
        Fault(final="What?"),
        Fault(final="226-Endless"),
    ],
    ids=["silent", "hangs up", "hangs up early", "no reply", "half a reply"],
)
async def test_no_end_but_every_byte(ask: Asker, fault: Fault) -> None:
    """Where the size proves that every byte came, a missing end is none of the file; the connection is not reused."""
    with FtpServer(FILES, faults={"a": fault}) as server:
        assert (await ask.get(server.url("a"), IMPATIENT))[1] == CONTENT
        await asyncio.to_thread(server.settle)
        assert (await ask.get(server.url("b"), IMPATIENT))[1] == b"beta"
        assert server.controls == 2


async def test_data_connection_stays_open(ask: Asker) -> None:
    """Where the size proves that every byte came, the server need not close the data connection."""
    with FtpServer(FILES, faults={"a": Fault(ends="hold")}) as server:
        assert (await ask.get(server.url("a"), IMPATIENT))[1] == CONTENT
        await asyncio.to_thread(server.wait, lambda: not server.open_data)


@pytest.mark.parametrize("fault", [{"final": None}, {"final": HANG_UP}, {"hang_up": True}], ids=repr)
async def test_no_end_and_no_proof(ask: Asker, fault: dict[str, object]) -> None:
    """Where nothing proves that every byte came, a missing end is Truncated."""
    with FtpServer(FILES, replies=NO_SIZE, faults={"a": Fault(opening=SILENT, **fault)}) as server:  # type: ignore[arg-type]
        await ask.fails(Truncated, server.url("a"), IMPATIENT)


async def test_opening_never_said(ask: Asker) -> None:
    """A server that says only that it is done has delivered too, if the bytes are there."""
    with FtpServer({"b": b"beta"}, faults={"b": Fault(opening=None)}) as server:
        for _ in range(2):
            assert (await ask.get(server.url("b")))[1] == b"beta"
        assert server.controls == 1


async def test_both_replies_at_once(ask: Asker) -> None:
    """A server that announces the end before the bytes have gone is understood."""
    with FtpServer(FILES, faults={"a": Fault(opening="150 Coming.\r\n226 Done.", final=None)}) as server:
        for _ in range(2):
            assert (await ask.get(server.url("a")))[1] == CONTENT
        assert server.controls == 1


async def test_data_connection_stays_open_after_the_end(ask: Asker) -> None:
    """Where all is said and every byte there, a data connection that the server leaves open is closed here."""
    fault = Fault(opening="150 Coming.\r\n226 Done.", ends="hold", final=None)
    with FtpServer(FILES, faults={"a": fault}) as server:
        assert (await ask.get(server.url("a"), IMPATIENT))[1] == CONTENT
        await asyncio.to_thread(server.wait, lambda: not server.open_data)
        assert (await ask.get(server.url("b"), IMPATIENT))[1] == b"beta"
        assert server.controls == 1


@pytest.mark.parametrize("read_ahead", [1, 100_000, 10_000_000])
async def test_slow_consumer(ask: Asker, read_ahead: int) -> None:
    """A consumer that takes its time gets every byte, and not much more than `read_ahead` waits for it."""
    content = bytes(range(256)) * 40_000
    settings = Settings(options=(FtpOptions(read_ahead=read_ahead),)).complete()
    received, largest = bytearray(), 0
    with FtpServer({"a": content}) as server:
        async with ask.driver.open(Request(server.url("a")), settings) as payload:
            async for block in payload.body:
                largest = max(largest, len(block))
                received += block
                await asyncio.sleep(0.0005)
        assert received == content
        assert largest < read_ahead + 262_145


@pytest.mark.parametrize("options", [{"keep_alive": -1}, {"keep_alive": float("nan")}, {"read_ahead": 0}], ids=repr)
def test_options_are_checked(options: dict[str, float]) -> None:
    """Options without sense are refused where they are made."""
    with pytest.raises(ValueError, match=next(iter(options))):
        FtpOptions(**options)  # type: ignore[arg-type]


async def _read_into(received: list[bytes], ask: Asker, url: str) -> None:
    async with ask.driver.open(Request(url), SETTINGS) as payload:
        async for block in payload.body:
            received.append(block)  # noqa: PERF401 - what came before a failure is kept
