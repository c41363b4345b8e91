"""``python -m sqlalchemy_importer URL [DIRECTORY]`` imports what the SHA256SUMS at URL lists."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from sqlalchemy import create_engine, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

from downhaul import BufferWriter, Context, DownloadError

from .importer import import_missing
from .models import Base, RemoteFile

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


def run(url: str, directory: Path) -> int:
    """Add what the SHA256SUMS at *url* lists to what is wanted, fetch what is missing; return the exit code."""
    (directory / "files").mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{directory / 'importer.sqlite3'}")
    try:
        Base.metadata.create_all(engine)
        with Context(retries=1) as context, Session(engine, expire_on_commit=False) as session:
            sums = BufferWriter()
            context.download(url, sums)()
            if wanted := list(entries(url, sums.content().decode())):
                session.execute(insert(RemoteFile).on_conflict_do_nothing(), wanted)
            session.commit()
            came, failed = import_missing(session, directory / "files", context)
            for remote in session.scalars(select(RemoteFile).where(RemoteFile.failure.is_not(None))):
                print(f"{remote.url}: {remote.failure}", file=sys.stderr)
            there = session.scalar(select(func.count(RemoteFile.artifact_id)))
    except DownloadError as error:  # of the list: those of files are recorded
        print(f"{url}: {error}", file=sys.stderr)
        return 1
    finally:
        engine.dispose()
    print(f"{came} fetched, {failed} failed, {there} there")
    return 1 if failed else 0


def entries(url: str, sums: str) -> Iterator[dict[str, str]]:
    """Yield URL and digest of each line of *sums*, the text at *url*; names are relative to that."""
    for line in sums.splitlines():
        if match := _LINE.fullmatch(line):
            yield {"url": f"{url.rpartition('/')[0]}/{quote(match[2])}", "sha256": match[1].lower()}


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    sys.exit(run(sys.argv[1], Path(sys.argv[2] if len(sys.argv) == 3 else "imported")))
