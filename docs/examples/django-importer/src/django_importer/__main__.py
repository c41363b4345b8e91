"""``python -m django_importer URL [DIRECTORY]`` imports what the SHA256SUMS at URL lists.

Without a URL, it shows that with a server of its own.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connections

from downhaul import BufferWriter, Context, DownloadError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


def set_up(directory: Path) -> None:
    """Let Django keep its rows in *directory*; a project of yours has settings and migrations for that."""
    settings.configure(
        INSTALLED_APPS=["django_importer"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": directory / "importer.sqlite3"}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()
    (directory / "files").mkdir(parents=True, exist_ok=True)
    call_command("migrate", run_syncdb=True, verbosity=0)


def run(url: str, directory: Path) -> int:
    """Add what the SHA256SUMS at *url* lists to what is wanted, fetch what is missing; return the exit code."""
    from .importer import import_missing  # models can be imported once Django is set up
    from .models import RemoteFile

    with Context(retries=1) as context:  # whoever runs it again retries, too
        sums = BufferWriter()
        try:
            context.download(url, sums)()
        except DownloadError as error:
            print(f"{url}: {error}", file=sys.stderr)
            return 1
        wanted = (RemoteFile(url=url, sha256=digest) for url, digest in entries(url, sums.content().decode()))
        RemoteFile.objects.bulk_create(wanted, batch_size=500, ignore_conflicts=True)
        came, failed = import_missing(directory / "files", context)
    for remote in RemoteFile.objects.exclude(failure="").iterator():
        print(f"{remote.url}: {remote.failure}", file=sys.stderr)
    print(f"{came} fetched, {failed} failed, {RemoteFile.objects.exclude(artifact=None).count()} there")
    return 1 if failed else 0


def entries(url: str, sums: str) -> Iterator[tuple[str, str]]:
    """Yield URL and digest of each line of *sums*, the text at *url*; names are relative to that."""
    for line in sums.splitlines():
        if match := _LINE.fullmatch(line):
            yield f"{url.rpartition('/')[0]}/{quote(match[2])}", match[1].lower()


def main(arguments: list[str]) -> int:
    """Import, or demonstrate it."""
    try:
        if arguments:
            directory = Path(arguments[1] if len(arguments) > 1 else "imported")
            directory.mkdir(parents=True, exist_ok=True)
            set_up(directory)
            return run(arguments[0], directory)
        from .demo import site

        with tempfile.TemporaryDirectory() as target, site() as (url, repair):
            set_up(Path(target))
            run(url, Path(target))
            repair()
            return run(url, Path(target))
    finally:
        connections.close_all()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
