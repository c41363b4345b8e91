"""Fetch the only file of a manifest with downhaul, validated: ``downhaul_one.py form=FORM manifest=FILE``."""

from __future__ import annotations

import asyncio

from jobs import Job, arguments, jobs

from downhaul import Context, Download, FileWriter


def download_of(job: Job, context: Context) -> Download:
    """Return the download that validates the SHA-256."""
    return Download(job.url, FileWriter(job.path), digests={"sha256": job.sha256}, context=context)


def synchronously(job: Job) -> None:
    """Call the download."""
    with Context() as context:
        download_of(job, context)()


async def with_asyncio(job: Job) -> None:
    """Await the download."""
    async with Context() as context:
        await download_of(job, context).run()


def main() -> None:
    """Fetch it."""
    given = arguments()
    (job,) = jobs(given["manifest"])
    if given["form"] == "sync":
        synchronously(job)
    else:
        asyncio.run(with_asyncio(job))


main()
