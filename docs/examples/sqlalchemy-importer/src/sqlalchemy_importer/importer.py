"""Fetches what is wanted and not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sqlalchemy import delete, exists, select, update
from sqlalchemy.dialects.sqlite import insert

from downhaul import Batch, DigestValidation, Download, DownloadError, FileWriter, SizeValidation

from .models import Artifact, RemoteFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy.orm import Session

    from downhaul import Context, Plan, Validation

CHUNK = 100  # rows that are read from the database at a time
BACKLOG = 100  # downloads that are made of them ahead of what is recorded


def want(session: Session, files: Sequence[Mapping[str, str]]) -> None:
    """Add *files*, each with its `url` and `sha256`, to what is wanted.

    Of a file that is known, the digest is the new one, and what is there with another one no longer counts.
    """
    new = insert(RemoteFile)
    known = new.on_conflict_do_update(
        index_elements=["url"], set_={each: new.excluded[each] for each in ("size", "sha256")}
    )
    session.execute(known, files)
    others = RemoteFile.artifact.has(Artifact.sha256 != RemoteFile.sha256)
    session.execute(update(RemoteFile).where(others).values(artifact_id=None))
    session.execute(delete(Artifact).where(~exists().where(RemoteFile.artifact_id == Artifact.id)))
    session.commit()


def import_missing(session: Session, directory: Path, context: Context) -> tuple[int, int]:
    """Fetch what is missing into *directory*; return how many files came, and how many did not.

    The session is used in this thread only: the batch advances `jobs` here. It must keep what it knows when it commits
    (``expire_on_commit=False``), or each row that was read ahead would be read again.
    """
    came = failed = 0
    with Batch(jobs(session, directory), backlog=BACKLOG, context=context) as batch:
        for plan in batch():
            remote = record(plan)
            came, failed = came + (remote.artifact is not None), failed + (remote.artifact is None)
            session.commit()  # with it, another run begins where this one is ended
    return came, failed


def missing(session: Session) -> Iterator[RemoteFile]:
    """Yield what is not there, failed ones included: running again fetches only that.

    A chunk at a time, by the key: a cursor that streams (``yield_per``) would not survive the commits.
    """
    query = select(RemoteFile).where(RemoteFile.artifact_id.is_(None)).order_by(RemoteFile.id).limit(CHUNK)
    last = 0
    while chunk := session.scalars(query.where(RemoteFile.id > last)).all():
        last = chunk[-1].id
        yield from chunk


def jobs(session: Session, directory: Path) -> Iterator[Download]:
    """Make a download of each row, when the batch has room for it: validated by what is known of the file."""
    for remote in missing(session):
        validations: list[Validation] = []
        if remote.size is not None:
            validations.append(SizeValidation(remote.size))
        if remote.sha256 is not None:
            validations.append(DigestValidation("sha256", remote.sha256))
        yield Download(
            remote.url,
            FileWriter(directory / str(remote.id)),  # no name that comes from outside
            validations=validations,
            digests=["sha256", "sha512"],  # what an Artifact needs
            attachment=remote,
        )


def record(plan: Plan) -> RemoteFile:
    """Enter in the row what became of it, and return it."""
    try:
        result = plan.result()
    except DownloadError as error:
        remote = cast("RemoteFile", error.attachment)
        remote.failure = f"{type(error).__name__}: {error}"
    else:
        remote = cast("RemoteFile", result.attachment)
        remote.artifact, remote.failure = Artifact(path=str(result.path), **result.artifact_attributes), None
    return remote
