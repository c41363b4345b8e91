"""How the tests of the FTP driver ask it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from downhaul import DownloadError, Info, Request, Settings, Timeout, User
from downhaul_ftp import FtpDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_Kind = TypeVar("_Kind", bound=DownloadError)

SETTINGS = Settings(timeout=Timeout(connect=10, read=10)).complete()
IMPATIENT = Settings(timeout=Timeout(connect=0.3, read=0.3)).complete()


class Asker:
    """A driver, and short ways to ask it."""

    def __init__(self) -> None:
        self.driver = FtpDriver()

    async def get(
        self, url: str, settings: Settings = SETTINGS, user: User | None = None, **fields: Any
    ) -> tuple[Info, bytes]:
        """Return what the driver knew before the first byte, and the bytes."""
        request = replace(Request(url), **fields)
        if user is not None:
            request = request.authorized(user=user)
        received = bytearray()
        async with self.driver.open(request, settings) as payload:
            async for block in payload.body:
                assert type(block) is bytes
                received += block
        return payload.info, bytes(received)

    async def get_into(self, url: str, room: int, settings: Settings = SETTINGS, **fields: Any) -> tuple[Info, bytes]:
        """Return the same as `get`, received into memory of *room* bytes at a time; no byte beside it is written."""
        received = bytearray()
        memory = bytearray(b"?" * (room + 2))
        view = memoryview(memory)[1:-1]
        async with self.driver.open(replace(Request(url), **fields), settings) as payload:
            while count := await payload.body.readinto(view):
                received += view[:count]
                assert memory[0] == memory[-1] == ord("?")
            assert await payload.body.readinto(view) == 0, "the end stays the end"
        return payload.info, bytes(received)

    async def fails(self, kind: type[_Kind], url: str, *arguments: Any, **fields: Any) -> _Kind:
        """Return the error of exactly *kind* that asking ends in; nothing may be chained to it."""
        failure: BaseException | None = None
        try:
            outcome = await self.get(url, *arguments, **fields)
        except DownloadError as error:
            failure = error
        assert failure is not None, f"it came: {outcome}"
        assert type(failure) is kind, f"{failure!r}"
        assert str(failure).isprintable()
        assert failure.__cause__ is None
        assert failure.__context__ is None
        return failure


@pytest.fixture
async def ask() -> AsyncIterator[Asker]:
    """A driver, closed at the end; no task may be left then."""
    asker = Asker()
    yield asker
    await asker.driver.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
