"""``python -m sqlalchemy_importer URL [DIRECTORY]`` imports what the SHA256SUMS at URL lists.

Without a URL, it shows that with a server of its own.
"""

from __future__ import annotations

import re
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session

from downhaul import BufferWriter, Context, DownloadError

from .demo import site
from .importer import import_missing, want
from .models import Base, RemoteFile

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


def run(url: str, directory: Path) -> int:
    """Add what the SHA256SUMS at *url* lists to what is wanted, fetch what is missing; return the exit code."""
    with Context(retries=1) as context:  # whoever runs it again retries, too
        sums = BufferWriter()
        try:
            context.download(url, sums)()
            wanted = entries(url, sums.content().decode(errors="replace"))
        except (DownloadError, ValueError) as error:
            print(f"{url}: {error}", file=sys.stderr)
            return 1
        (directory / "files").mkdir(parents=True, exist_ok=True)
        engine = create_engine(f"sqlite:///{directory / 'importer.sqlite3'}")
        try:
            Base.metadata.create_all(engine)
            with Session(engine, expire_on_commit=False) as session:
                want(session, wanted)
                came, failed = import_missing(session, directory / "files", context)
                for remote in session.scalars(select(RemoteFile).where(RemoteFile.failure.is_not(None))):
                    print(f"{remote.url}: {remote.failure}", file=sys.stderr)
                print(f"{came} fetched, {failed} failed, {session.scalar(func.count(RemoteFile.artifact_id))} there")
        finally:
            engine.dispose()
    return 1 if failed else 0


def entries(url: str, sums: str) -> list[dict[str, str]]:
    """Return URL and digest of each line of *sums*, the text at *url*; names are relative to that."""
    found = []
    for line in sums.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{line[:60]!r} is no line of a SHA256SUMS")
        found.append({"url": f"{url.rpartition('/')[0]}/{quote(match[2])}", "sha256": match[1].lower()})
    if not found:
        raise ValueError("it lists nothing")
    return found


def main() -> int:
    """Import, or demonstrate it."""
    parser = ArgumentParser("sqlalchemy_importer", description="Import what a SHA256SUMS lists.")
    parser.add_argument("url", nargs="?", help="of the SHA256SUMS; without one, a demonstration")
    parser.add_argument(
        "directory", nargs="?", type=Path, default="imported-sqlalchemy", help="of files and rows (%(default)s)"
    )
    given = parser.parse_args()
    if given.url is not None:
        return run(given.url, given.directory)
    with tempfile.TemporaryDirectory() as target, site() as (url, repair):
        run(url, Path(target))
        repair()
        return run(url, Path(target))


if __name__ == "__main__":
    sys.exit(main())
