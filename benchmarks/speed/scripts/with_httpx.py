"""Fetch the files of a manifest with httpx, by the recipe that people write.

``with_httpx.py manifest=FILE concurrency=NUMBER [certificate=FILE]``
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from typing import TYPE_CHECKING

import httpx
from jobs import Job, arguments, jobs

if TYPE_CHECKING:
    from collections.abc import Iterator


async def fetch(client: httpx.AsyncClient, job: Job) -> None:
    """Stream one file to its place, and validate it."""
    digest = hashlib.sha256()
    async with client.stream("GET", job.url) as response:
        response.raise_for_status()
        with open(job.path, "wb") as file:  # noqa: ASYNC230, PTH123 - as people write it
            async for block in response.aiter_bytes():
                file.write(block)
                digest.update(block)
    if digest.hexdigest() != job.sha256:
        raise ValueError(f"{job.url} is corrupt")


async def work(client: httpx.AsyncClient, todo: Iterator[Job]) -> None:
    """Fetch one file after the other, until there are no more."""
    for job in todo:
        await fetch(client, job)


async def main() -> None:
    """Fetch all of it."""
    given = arguments()
    number = int(given["concurrency"])
    limits = httpx.Limits(max_connections=number, max_keepalive_connections=number)
    verify = ssl.create_default_context(cafile=given["certificate"]) if "certificate" in given else True
    todo = jobs(given["manifest"])
    async with httpx.AsyncClient(limits=limits, verify=verify) as client, asyncio.TaskGroup() as group:
        for _ in range(number):
            group.create_task(work(client, todo))


asyncio.run(main())
