"""``python -m django_importer URL [DIRECTORY]`` imports what the SHA256SUMS at URL lists.

Without a URL, it shows that with a server of its own.
"""

from __future__ import annotations

import re
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from urllib.parse import quote

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connections

from downhaul import BufferWriter, Context, DownloadError

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
    with Context(retries=1) as context:  # whoever runs it again retries, too
        sums = BufferWriter()
        try:
            context.download(url, sums)()
            wanted = entries(url, sums.content().decode(errors="replace"))
        except (DownloadError, ValueError) as error:
            print(f"{url}: {error}", file=sys.stderr)
            return 1
        if not settings.configured:  # once in a process
            set_up(directory)
        from .importer import import_missing, want  # models can be imported once Django is set up
        from .models import RemoteFile

        try:
            want(wanted)
            came, failed = import_missing(directory / "files", context)
            for remote in RemoteFile.objects.exclude(failure="").iterator():
                print(f"{remote.url}: {remote.failure}", file=sys.stderr)
            print(f"{came} fetched, {failed} failed, {RemoteFile.objects.exclude(artifact=None).count()} there")
        finally:
            connections.close_all()
    return 1 if failed else 0


def entries(url: str, sums: str) -> list[tuple[str, str]]:
    """Return URL and digest of each line of *sums*, the text at *url*; names are relative to that."""
    found = []
    for line in sums.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{line[:60]!r} is no line of a SHA256SUMS")
        found.append((f"{url.rpartition('/')[0]}/{quote(match[2])}", match[1].lower()))
    if not found:
        raise ValueError("it lists nothing")
    return found


def main() -> int:
    """Import, or demonstrate it."""
    parser = ArgumentParser("django_importer", description="Import what a SHA256SUMS lists.")
    parser.add_argument("url", nargs="?", help="of the SHA256SUMS; without one, a demonstration")
    parser.add_argument(
        "directory", nargs="?", type=Path, default="imported-django", help="of files and rows (%(default)s)"
    )
    given = parser.parse_args()
    if given.url is not None:
        return run(given.url, given.directory)
    from .demo import site

    with tempfile.TemporaryDirectory() as target, site() as (url, repair):
        run(url, Path(target))
        repair()
        return run(url, Path(target))


if __name__ == "__main__":
    sys.exit(main())
