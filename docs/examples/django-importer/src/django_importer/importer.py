"""Fetches what is wanted and not there: synchronous and with asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from django.db import transaction
from django.db.models import F

from downhaul import Batch, DigestValidation, Download, DownloadError, FileWriter, SizeValidation

from .models import Artifact, RemoteFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

    from django.db.models import QuerySet

    from downhaul import Context, Plan, Validation

CHUNK = 100  # rows that are read from the database at a time
BACKLOG = 100  # downloads that are made of them ahead of what is recorded


def want(files: Iterable[tuple[str, str]]) -> None:
    """Add *files*, each by URL and sha256, to what is wanted.

    Of a file that is known, the digest is the new one, and what is there with another one no longer counts.
    """
    rows = (RemoteFile(url=url, sha256=sha256) for url, sha256 in files)
    known = {"update_conflicts": True, "unique_fields": ["url"], "update_fields": ["size", "sha256"]}
    with transaction.atomic():
        RemoteFile.objects.bulk_create(rows, batch_size=500, **known)
        others = RemoteFile.objects.exclude(artifact=None).exclude(sha256="").exclude(artifact__sha256=F("sha256"))
        others.update(artifact=None)
        Artifact.objects.filter(remotefile=None).delete()


def missing() -> QuerySet[RemoteFile]:
    """Return what is not there, failed ones included: running again fetches only that."""
    return RemoteFile.objects.filter(artifact=None).order_by("pk")


def import_missing(directory: Path, context: Context) -> tuple[int, int]:
    """Fetch what is missing into *directory*; return how many files came, and how many did not.

    All work of the ORM is done in this thread: the batch advances `jobs` here, a chunk of rows at a time.
    """
    came = failed = 0
    with Batch(jobs(directory), backlog=BACKLOG, context=context) as batch:
        for plan in batch():
            remote, artifact = outcome(plan)
            if artifact is not None:
                artifact.save()
                came += 1
            else:
                failed += 1
            remote.save()
    return came, failed


async def aimport_missing(directory: Path, context: Context) -> tuple[int, int]:
    """Do the same with asyncio, where Django works in a thread of its own."""
    came = failed = 0
    async with Batch(ajobs(directory), backlog=BACKLOG, context=context) as batch:
        async for plan in batch():
            remote, artifact = outcome(plan)
            if artifact is not None:
                await artifact.asave()
                came += 1
            else:
                failed += 1
            await remote.asave()
    return came, failed


def jobs(directory: Path) -> Iterator[Download]:
    """Make a download of each row, when the batch has room for it."""
    for remote in missing().iterator(chunk_size=CHUNK):
        yield job(remote, directory)


async def ajobs(directory: Path) -> AsyncIterator[Download]:
    """Do the same with asyncio."""
    async for remote in missing().aiterator(chunk_size=CHUNK):
        yield job(remote, directory)


def job(remote: RemoteFile, directory: Path) -> Download:
    """Return the download of *remote*: validated by what is known of it, and calculating what an Artifact needs."""
    validations: list[Validation] = []
    if remote.size is not None:
        validations.append(SizeValidation(remote.size))
    if remote.sha256:
        validations.append(DigestValidation("sha256", remote.sha256))
    writer = FileWriter(directory / str(remote.pk))  # no name that comes from outside
    return Download(remote.url, writer, validations=validations, digests=["sha256", "sha512"], attachment=remote)


def outcome(plan: Plan) -> tuple[RemoteFile, Artifact | None]:
    """Enter in the row what became of it; neither the row nor the Artifact is saved yet."""
    try:
        result = plan.result()
    except DownloadError as error:
        remote = cast("RemoteFile", error.attachment)
        remote.failure = f"{type(error).__name__}: {error}"
        return remote, None
    remote = cast("RemoteFile", result.attachment)
    remote.artifact = Artifact(path=str(result.path), **result.artifact_attributes)
    remote.failure = ""
    return remote, remote.artifact
