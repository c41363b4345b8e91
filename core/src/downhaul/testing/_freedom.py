"""The part of the contract about leaving early: whoever leaves frees everything, and hurts nobody."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ._inheritance import Inheritance
from ._stage import current_tasks, difference, new_tasks, opened, sample

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from downhaul import Driver, Info

_TIMES = 3


class _Unrelated(Exception):
    """An exception of whoever uses the driver."""


class FreedomFacts(Inheritance):
    """Facts about answers that are not read to their end."""

    def test_left_before_the_body_is_read(self) -> None:
        """An answer that is left unread frees everything, and the driver goes on working."""

        async def leave(driver: Driver, url: str) -> None:
            async with opened(driver, self.request(url), self.settings.complete()):
                pass

        self._check_misuse(leave)

    def test_left_midway(self) -> None:
        """An answer that is left after its first block frees everything, and the driver goes on working."""

        async def leave(driver: Driver, url: str) -> None:
            async with opened(driver, self.request(url), self.settings.complete()) as payload:
                assert await anext(aiter(payload.body))

        self._check_misuse(leave)

    @pytest.mark.parametrize("blocks", [0, 1])
    def test_left_by_an_exception(self, blocks: int) -> None:
        """An exception of the user leaves an answer as it is, and frees everything."""

        async def leave(driver: Driver, url: str) -> None:
            mine, outcome = _Unrelated(), None
            try:
                async with opened(driver, self.request(url), self.settings.complete()) as payload:
                    for _ in range(blocks):
                        await anext(aiter(payload.body))
                    raise mine
            except Exception as error:  # any other one would be the fault that is looked for
                outcome = error
            assert outcome is mine, f"instead of the user's exception came {outcome!r}"

        self._check_misuse(leave)

    def test_cancelled_while_opening(self) -> None:
        """Cancelling a request after any number of the loop's steps frees everything."""

        async def leave(driver: Driver, url: str) -> None:
            for steps in range(20):
                task = asyncio.create_task(self.get(driver, url))
                for _ in range(steps):
                    await asyncio.sleep(0)
                await self._cancel(task)

        self._check_misuse(leave)

    def test_cancelled_at_any_time(self) -> None:
        """Cancelling a request after any part of the time that it takes frees everything."""

        async def leave(driver: Driver, url: str) -> None:
            loop = asyncio.get_running_loop()
            begin = loop.time()
            await self.get(driver, url)
            seconds = loop.time() - begin
            for tenths in range(1, 10):
                task = asyncio.create_task(self.get(driver, url))
                await asyncio.sleep(seconds * tenths / 10)
                await self._cancel(task)

        self._check_misuse(leave)

    def test_cancelled_while_reading(self) -> None:
        """Cancelling a task that reads a body frees everything."""

        async def leave(driver: Driver, url: str) -> None:
            task, reading = self._reader(driver, url)
            await reading.wait()
            await self._cancel(task)

        self._check_misuse(leave)

    def test_ten_cancelled_at_once(self) -> None:
        """Cancelling ten tasks that read frees everything, and an eleventh gets its bytes undisturbed."""

        async def leave(driver: Driver, url: str) -> None:
            readers = [self._reader(driver, url) for _ in range(10)]
            eleventh = asyncio.create_task(self.get(driver, url))
            for _, reading in readers:
                await reading.wait()
            await asyncio.gather(*(self._cancel(task) for task, _ in readers))
            assert not difference((await eleventh)[1], self._content())

        self._check_misuse(leave)

    def _content(self) -> bytes:
        return sample(self.largest, seed=60)

    def _check_misuse(self, misuse: Callable[[Driver, str], Awaitable[None]]) -> None:
        """Check that *misuse*, several times, leaves no task behind that a whole answer would not, and no harm."""
        content, other = self._content(), sample(30_000, seed=61)
        url, other_url = self.url_of(content), self.url_of(other)

        async def scenario(driver: Driver) -> None:
            await self.get(driver, url)
            usual = current_tasks()
            for _ in range(_TIMES):
                await misuse(driver, url)
                assert not difference((await self.get(driver, other_url))[1], other)
            tasks = await new_tasks(usual, self.settling_seconds)
            assert not tasks, f"tasks are left behind: {tasks}"
            assert not difference((await self.get(driver, url))[1], content)

        self.play(scenario)

    def _reader(self, driver: Driver, url: str) -> tuple[asyncio.Task[tuple[Info, bytes]], asyncio.Event]:
        """Return a task that reads *url*, and an event that is set with its first block."""
        reading = asyncio.Event()

        async def read() -> tuple[Info, bytes]:
            received = bytearray()
            try:
                async with opened(driver, self.request(url), self.settings.complete()) as payload:
                    async for block in payload.body:
                        received += block
                        reading.set()
                    return payload.info, bytes(received)
            finally:
                reading.set()  # whoever waits shall not wait for a task that failed

        return asyncio.create_task(read()), reading

    async def _cancel(self, task: asyncio.Task[Any]) -> None:
        """Cancel *task*; a driver that never waits (all in memory) may have finished it already, with all bytes."""
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            _, received = task.result()
            assert not difference(received, self._content())
