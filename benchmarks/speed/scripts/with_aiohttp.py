"""Fetch the files of a manifest with aiohttp, by the recipe that people write.

``with_aiohttp.py manifest=FILE concurrency=NUMBER [certificate=FILE]``
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from typing import TYPE_CHECKING, Final

import aiohttp
from jobs import Job, arguments, jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK: Final = 64 * 1024  # bytes


async def fetch(session: aiohttp.ClientSession, job: Job) -> None:
    """Stream one file to its place, and validate it."""
    digest = hashlib.sha256()
    async with session.get(job.url) as response:
        response.raise_for_status()
        with open(job.path, "wb") as file:  # noqa: ASYNC230, PTH123 - as people write it
            async for block in response.content.iter_chunked(_BLOCK):
                file.write(block)
                digest.update(block)
    if digest.hexdigest() != job.sha256:
        raise ValueError(f"{job.url} is corrupt")


async def work(session: aiohttp.ClientSession, todo: Iterator[Job]) -> None:
    """Fetch one file after the other, until there are no more."""
    for job in todo:
        await fetch(session, job)


async def main() -> None:
    """Fetch all of it."""
    given = arguments()
    number = int(given["concurrency"])
    verify = ssl.create_default_context(cafile=given["certificate"]) if "certificate" in given else True
    todo = jobs(given["manifest"])
    connector = aiohttp.TCPConnector(limit=number, ssl=verify)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        for _ in range(number):
            group.create_task(work(session, todo))


asyncio.run(main())
