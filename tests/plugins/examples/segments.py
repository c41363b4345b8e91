"""Segmented downloads: several ranges of a file at the same time, delivered in order."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from downhaul import Payload, Plugin, Truncated, hookimpl


@dataclass(frozen=True)
class Segments(Plugin):
    """Ranges of *size* bytes, *parallel* of them on the way or waiting to be taken."""

    size: int = 4 * 1024 * 1024
    parallel: int = 4

    @hookimpl
    def fetch(self, transfer):
        request = transfer.request
        whole = request.verb == "get" and request.length is None and request.unless is None
        return self.answer(transfer, request) if whole else None

    @asynccontextmanager
    async def answer(self, transfer, request):
        stat = replace(request, verb="stat", offset=0, version=None)
        async with transfer.open(self, stat) as payload:
            info = replace(payload.info, start=request.offset, proof="length")
        same = request.version in {None, info.version}
        if not (info.size and info.resumable and info.version and info.version.strong and same):
            async with transfer.open(self, request) as payload:
                yield payload
            return
        room, tasks = asyncio.Semaphore(self.parallel), []
        for start in range(request.offset, info.size, self.size):
            length = min(self.size, info.size - start)
            part = replace(request, offset=start, length=length, version=info.version)
            tasks.append(asyncio.create_task(self.receive(transfer, part, room)))
        try:
            yield Payload(info, self.in_order(tasks, room))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def receive(self, transfer, part, room):
        await room.acquire()
        content = bytearray()
        async with transfer.open(self, part) as payload:
            async for block in payload.body:
                content += block
        if payload.info.start != part.offset or len(content) != part.length:
            raise Truncated(f"{len(content)} bytes from {payload.info.start} for {part.length} from {part.offset}")
        return content

    async def in_order(self, tasks, room):
        for task in tasks:
            yield await task
            room.release()
