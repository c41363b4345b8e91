"""A throttle: all downloads of a context together take no more than so many bytes in a second."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from downhaul import Plugin, hookimpl


@dataclass
class Clock:
    """When the next byte is due."""

    due: float = 0.0


@dataclass(frozen=True)
class Throttle(Plugin):
    bytes_per_second: float

    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        return self.slow((yield), transfer.context)

    @asynccontextmanager
    async def slow(self, answer, context):
        clock = await context.once(self, "clock", self.make_clock)
        async with answer as payload:
            yield replace(payload, body=self.pace(payload.body, clock))

    async def make_clock(self):
        return Clock()

    async def pace(self, body, clock):
        now = asyncio.get_running_loop().time
        async for block in body:
            clock.due = max(clock.due, now()) + len(block) / self.bytes_per_second
            await asyncio.sleep(clock.due - now())
            yield block
