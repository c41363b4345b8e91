"""Fetch the files of a manifest with the downloader of pulpcore, which is set up without a database.

``with_pulpcore.py manifest=FILE concurrency=NUMBER``. It calculates and validates SHA-256 alone.
"""

from __future__ import annotations

import asyncio
import base64
import os
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
import django
from jobs import Job, arguments, jobs


def set_up(directory: Path) -> None:
    """Give Django the settings that pulpcore cannot be imported without, and *directory* to work in."""
    key = directory / "key"
    key.write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "pulpcore.app.settings",
        "PULP_SETTINGS": os.devnull,
        "PULP_DB_ENCRYPTION_KEY": str(key),
        "PULP_SECRET_KEY": "none",
        "PULP_CONTENT_ORIGIN": "http://localhost",
        "PULP_WORKING_DIRECTORY": str(directory),
        "PULP_ALLOWED_CONTENT_CHECKSUMS": '["sha256"]',
    }
    django.setup()


async def fetch(session: aiohttp.ClientSession, job: Job, semaphore: asyncio.Semaphore) -> None:
    """Fetch one file, and move it to its place."""
    from pulpcore.download import HttpDownloader  # not before Django is set up

    digests = {"sha256": job.sha256}
    downloader: Any = HttpDownloader(job.url, session, expected_digests=digests, semaphore=semaphore)
    os.replace((await downloader.run()).path, job.path)  # noqa: PTH105 - no more than a rename


async def main() -> None:
    """Fetch all of it."""
    given = arguments()
    semaphore = asyncio.Semaphore(int(given["concurrency"]))
    async with aiohttp.ClientSession(requote_redirect_url=False) as session, asyncio.TaskGroup() as group:
        for job in jobs(given["manifest"]):
            group.create_task(fetch(session, job, semaphore))


with tempfile.TemporaryDirectory() as place:
    set_up(Path(place))
    asyncio.run(main())
