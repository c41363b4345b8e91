"""Fetch the files of a manifest with downhaul, as a batch.

``downhaul_many.py form=FORM manifest=FILE concurrency=NUMBER [workers=NUMBER] [digests=NAME,…] [certificate=FILE]``

The SHA-256 of each file is validated; *digests* are calculated besides. Whatever fails, fails the script.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jobs import Job, arguments, jobs

from downhaul import TLS, Batch, Context, DigestValidation, Download, FileWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def downloads(manifest: str, names: Sequence[str]) -> Iterator[Download]:
    """Yield the download of each job, which calculates the digests called *names* besides."""
    for job in jobs(manifest):
        yield with_digests(job, names) if names else plain(job)


def plain(job: Job) -> Download:
    """Return the download that validates the SHA-256."""
    return Download(job.url, FileWriter(job.path), digests={"sha256": job.sha256})


def with_digests(job: Job, names: Sequence[str]) -> Download:
    """Return the download that validates the SHA-256, and calculates the digests called *names*."""
    validations = [DigestValidation("sha256", job.sha256)]
    return Download(job.url, FileWriter(job.path), validations=validations, digests=names)


def synchronously(context: Context, batch: Batch) -> None:
    """Consume the batch with ``for``."""
    with context, batch:
        for plan in batch():
            plan.result()


async def with_asyncio(context: Context, batch: Batch) -> None:
    """Consume the batch with ``async for``."""
    async with context, batch:
        async for plan in batch():
            plan.result()


def main() -> None:
    """Fetch all of it."""
    given = arguments()
    concurrency = int(given["concurrency"])
    names = given["digests"].split(",") if "digests" in given else []
    tls = TLS(ca_certificate=given["certificate"]) if "certificate" in given else None
    context = Context(connections=concurrency, connections_per_origin=concurrency, tls=tls)
    more: dict[str, Any] = {"workers": int(given["workers"])} if "workers" in given else {}
    batch = Batch(
        downloads(given["manifest"], names),
        concurrency=concurrency,
        backlog=max(100, 2 * concurrency),
        context=context,
        **more,
    )
    if given["form"] == "sync":
        synchronously(context, batch)
    else:
        asyncio.run(with_asyncio(context, batch))


if __name__ == "__main__":  # a worker process may import this module
    main()
