"""Bytes that go into the memory of who asks: the same bytes, the same errors, and nothing written behind his back."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.servers.ftp import HANG_UP, Fault, FtpServer

from downhaul import DownloadError, ProtocolError, Request, Timeout, TimeoutExceeded, Truncated
from downhaul_ftp._body import Body
from downhaul_ftp._client import Client
from downhaul_ftp._data import DataConnection

from .conftest import IMPATIENT, SETTINGS

if TYPE_CHECKING:
    from downhaul import Payload

    from .conftest import Asker

CONTENT = bytes(range(251)) * 4000
FILES = {"a": CONTENT, "b": b"beta", "empty": b""}
NO_SIZE = {"SIZE": "502 No."}
SILENT = "150 Coming."


@pytest.mark.parametrize("room", [1, 3, 4, 5, 100_000, 2_000_000])
@pytest.mark.parametrize("replies", [{}, NO_SIZE], ids=["SIZE", "150 line"])
async def test_whole(ask: Asker, room: int, replies: dict[str, str]) -> None:
    """A file comes byte for byte, however much room there is for it, and its connection is used again."""
    with FtpServer(FILES, replies=replies) as server:
        for name in ("empty", "b", *(["a"] if room > 5 else [])):
            known, _ = await ask.get(server.url(name))
            assert await ask.get_into(server.url(name), room) == (known, FILES[name])
        assert server.controls == 1


@pytest.mark.parametrize("room", [7, 1_000, 2_000_000])
async def test_parts(ask: Asker, room: int) -> None:
    """A part of a file ends where it should, whatever more there would be room for."""
    with FtpServer(FILES) as server:
        for offset, length in ((0, 10), (5, 1000), (len(CONTENT) - 20, 10), (len(CONTENT) - 20, None)):
            _, received = await ask.get_into(server.url("a"), room, offset=offset, length=length)
            assert received == CONTENT[offset:][:length]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut=0), Fault(cut=1), Fault(cut=len(CONTENT) - 1), Fault(extra=b"x"), Fault(ignores_rest=True),
        Fault(cut=500_000, ends="reset", final="426 Connection lost."), Fault(final=None), Fault(final=HANG_UP),
        Fault(opening=SILENT, cut=500_000, ends="reset"), Fault(cut=500_000, ends="hold"), Fault(ends="hold"),
        Fault(hang_up=True), Fault(final="What?"), Fault(final="226-Endless"), Fault(opening=None),
        Fault(opening="150 Coming.\r\n226 Done.", final=None),
        Fault(opening=SILENT, final=None), Fault(opening=SILENT, hang_up=True),
        *(Fault(cut=cut, opening=SILENT, final=f"{code} Final.")
          for cut in (0, 10, None) for code in (226, 250, 331, 421, 425, 426, 451, 452, 550, 552)),
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize(
    ("replies", "offset"), [({}, 0), (NO_SIZE, 0), ({}, 100)], ids=["SIZE", "no SIZE", "continuation"]
)
async def test_as_by_iteration(ask: Asker, fault: Fault, replies: dict[str, str], offset: int) -> None:
    """Whatever goes wrong ends like an iteration: the same bytes, the same error, connections kept or closed."""
    outcomes = []
    for collect in (_by_iteration, _by_readinto):
        with FtpServer(FILES, replies=replies, faults={"a": fault}) as server:
            received, ending = bytearray(), ""
            try:
                request = replace(Request(server.url("a")), offset=offset)
                async with ask.driver.open(request, IMPATIENT) as payload:
                    await collect(payload, received)
            except DownloadError as error:
                ending = f"{type(error).__name__}: {error}"
            # How much comes before a reset is chance.
            ending = re.sub(r"after \d+ bytes", "after some bytes", ending)
            outcomes.append((ending or bytes(received), await _used_again(ask, server)))
    assert outcomes[0] == outcomes[1]


async def test_as_soon_as_there_is_a_byte(ask: Asker) -> None:
    """What is there is handed out, and not waited for until the memory is full."""
    with FtpServer(FILES, faults={"a": Fault(pause=5)}) as server:
        async with ask.driver.open(Request(server.url("a")), SETTINGS) as payload:
            memory = memoryview(bytearray(1000))
            assert await payload.body.readinto(memory) == 5
            server.release()
            assert bytes(memory[:5]) == CONTENT[:5]


async def test_nothing_is_there_after_a_failure(ask: Asker) -> None:
    """After a failure there is no end that looks like a good one."""
    with FtpServer(FILES, faults={"a": Fault(cut=500_000, ends="hold")}) as server:
        async with ask.driver.open(Request(server.url("a")), IMPATIENT) as payload:
            memory = memoryview(bytearray(100_000))
            with pytest.raises(TimeoutExceeded):
                while await payload.body.readinto(memory):
                    pass
            with pytest.raises(Truncated):
                await payload.body.readinto(memory)
            with pytest.raises(Truncated):
                await anext(aiter(payload.body))


async def test_too_much(ask: Asker) -> None:
    """A byte too many is an error, although there was room for it."""
    with FtpServer({"a": b"alpha"}, faults={"a": Fault(extra=b"x")}) as server:
        async with ask.driver.open(Request(server.url("a")), SETTINGS) as payload:
            memory = memoryview(bytearray(6))
            with pytest.raises(ProtocolError):
                while await payload.body.readinto(memory):
                    pass


async def test_memory_is_left_alone_after_cancelling(ask: Asker) -> None:
    """Who stops to wait has his memory for himself, although bytes arrive and the answer is still open."""
    with FtpServer(FILES, faults={"a": Fault(pause=5)}) as server:
        async with ask.driver.open(Request(server.url("a")), SETTINGS) as payload:
            memory = bytearray(1000)
            assert await payload.body.readinto(memoryview(memory)) == 5
            memory[:] = bytes(1000)
            waiting = asyncio.create_task(payload.body.readinto(memoryview(memory)))
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            server.release()
            await asyncio.sleep(0.1)
            assert memory == bytes(1000)
            with pytest.raises(Truncated):
                await payload.body.readinto(memoryview(memory))
            assert memory == bytes(1000)
        await asyncio.to_thread(server.settle)


async def test_memory_is_left_alone_after_cancelling_anywhere(ask: Asker) -> None:
    """The same wherever it is cancelled, and nothing stays open."""
    with FtpServer(FILES, faults={"a": Fault(pause=500_000)}) as server:
        for steps in range(60):
            memory = bytearray(len(CONTENT))

            async def receive(memory: bytearray) -> None:
                async with ask.driver.open(Request(server.url("a")), SETTINGS) as payload:
                    view = memoryview(memory)
                    while count := await payload.body.readinto(view):
                        view = view[count:]
                        if not view:
                            view = memoryview(memory)

            task = asyncio.create_task(receive(memory))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            before = bytes(memory)
            server.release()
            for _ in range(10):
                await asyncio.sleep(0)
            assert memory == before
            assert CONTENT.startswith(before.rstrip(b"\0"))
        await ask.driver.aclose()
        await asyncio.to_thread(server.settle)


async def test_closed_meanwhile(ask: Asker) -> None:
    """Who waits while another task closes the body is told so."""
    with FtpServer(FILES, faults={"a": Fault(cut=5, ends="hold")}) as server:
        async with ask.driver.open(Request(server.url("a")), SETTINGS) as payload:
            memory = memoryview(bytearray(10))
            assert await payload.body.readinto(memory) == 5
            waiting = asyncio.create_task(payload.body.readinto(memory))
            await asyncio.sleep(0.01)
            await payload.body.aclose()
            with pytest.raises(Truncated):
                await waiting
        await asyncio.to_thread(server.settle)


@pytest.mark.parametrize("by_iteration", [True, False])
async def test_others_have_their_turn(by_iteration: bool) -> None:
    """A server that is always ahead does not keep the loop to itself."""
    body = Body(_Patient(), _Endless(), offset=0, expected=None, limit=None, final=None, block=65536)  # type: ignore[arg-type]
    memory = memoryview(bytearray(65536))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            while True:
                await (anext(body) if by_iteration else body.readinto(memory))


class _Patient(Client):
    """A client that is never asked anything."""

    def __init__(self) -> None:
        self.timeout = Timeout()


class _Endless(DataConnection):
    """A connection on which there is always more."""

    def __init__(self) -> None:
        pass

    def take(self, view: memoryview) -> int:
        return len(view)


async def _used_again(ask: Asker, server: FtpServer) -> bool:
    before = server.controls
    await ask.get(server.url("b"), IMPATIENT)
    return server.controls == before


async def _by_iteration(payload: Payload, received: bytearray) -> None:
    async for block in payload.body:
        received += block


async def _by_readinto(payload: Payload, received: bytearray) -> None:
    memory = memoryview(bytearray(70_000))
    while count := await payload.body.readinto(memory):
        received += memory[:count]
