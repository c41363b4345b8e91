"""The importer with Django models, against the real nginx."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
import weakref
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from django.core.management import call_command
from django.db import connection, connections
from django.db.models import signals
from django_importer.__main__ import set_up
from tests.servers import nginx

from downhaul import Batch, Context, Retries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path
    from typing import Any

FILES = {f"file {n}": f"file {n}\n".encode() * n for n in range(300)}
WANTED = len(FILES) + 2
FORMS = ("sync", "asyncio")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nginx.Nginx]:
    """Serve the files, and a corrupt one; a missing one is not there."""
    if nginx.PROGRAM is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("nginx is not installed")
    root = tmp_path_factory.mktemp("served")
    root.chmod(0o755)
    for name, content in FILES.items():
        (root / name).write_bytes(content)
    (root / "corrupt").write_bytes(b"what nobody meant")
    sums = [(hashlib.sha256(content).hexdigest(), name) for name, content in FILES.items()]
    sums += [(hashlib.sha256(b"what was meant").hexdigest(), "corrupt"), ("0" * 64, "missing")]
    (root / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for digest, name in sums))
    with nginx.nginx(root) as server:
        yield server


@pytest.fixture
def rows(served: nginx.Nginx, tmp_path: Path) -> Iterator[type[Any]]:
    """Let all of it be wanted, in a database of the test's own; return the model."""
    if not settings.configured:  # once in a process
        set_up(tmp_path)
    from django_importer.__main__ import entries
    from django_importer.models import RemoteFile

    connections.close_all()
    connections.databases["default"]["NAME"] = tmp_path / "importer.sqlite3"
    call_command("migrate", run_syncdb=True, verbosity=0)
    (tmp_path / "files").mkdir(exist_ok=True)
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in FILES.items())
    sums += f"{'0' * 64}  corrupt\n{'0' * 64}  missing\n"
    RemoteFile.objects.bulk_create(
        RemoteFile(url=url, sha256=digest) for url, digest in entries(served.url("/SHA256SUMS"), sums)
    )
    yield RemoteFile
    connections.close_all()


@contextmanager
def quick() -> Iterator[Context]:
    """Give a context that does not wait between rounds."""
    with Context(plugins=[Retries(base=0)], retries=1) as context:
        yield context


async def import_by(form: str, directory: Path) -> tuple[int, int]:
    """Run the importer in a thread without a loop, or on this loop."""
    from django_importer.importer import aimport_missing, import_missing

    with quick() as context:
        if form == "asyncio":
            return await aimport_missing(directory, context)
        return await sync_to_async(import_missing)(directory, context)


@pytest.fixture
async def orm() -> AsyncIterator[Any]:
    """Give what calls a function in the thread that Django works in, whose connection is closed in the end."""
    yield sync_to_async
    await sync_to_async(connections.close_all)()


@pytest.mark.parametrize("form", FORMS)
async def test_artifacts_and_failures(form: str, rows: type[Any], tmp_path: Path, orm: Any) -> None:
    """Each file that came has an Artifact with its size and digests, each that did not has the reason."""
    assert await import_by(form, tmp_path / "files") == (len(FILES), 2)

    def check() -> None:
        for remote in rows.objects.exclude(artifact=None).select_related("artifact"):
            content, artifact = FILES[remote.url.rpartition("/")[2].replace("%20", " ")], remote.artifact
            assert (artifact.size, artifact.sha256) == (len(content), hashlib.sha256(content).hexdigest())
            assert artifact.sha512 == hashlib.sha512(content).hexdigest()
            assert (tmp_path / "files" / str(remote.pk)).read_bytes() == content
        reasons = dict(rows.objects.filter(artifact=None).values_list("url", "failure"))
        (corrupt,) = (reason for url, reason in reasons.items() if url.endswith("/corrupt"))
        (missing,) = (reason for url, reason in reasons.items() if url.endswith("/missing"))
        assert corrupt.startswith("DigestMismatch: sha256 is ")
        assert missing.startswith("NotFound: ")
        assert len(list((tmp_path / "files").iterdir())) == len(FILES), "no part of what failed"

    await orm(check)()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("rows", "orm")
async def test_again(form: str, served: nginx.Nginx, tmp_path: Path) -> None:
    """Running again asks for what is missing, and for nothing else."""
    await import_by(form, tmp_path / "files")
    before = len(served.access_log())
    assert await import_by(form, tmp_path / "files") == (0, 2)
    asked = {line.split()[6] for line in served.access_log()[before:]}
    assert asked == {"/corrupt", "/missing"}


@pytest.mark.parametrize("form", FORMS)
async def test_rows_are_read_as_they_are_needed(
    form: str, rows: type[Any], tmp_path: Path, orm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One query, read a chunk at a time: never more rows ahead, nor in memory, than the backlog and one chunk."""
    from django_importer import importer

    monkeypatch.setattr(importer, "CHUNK", 20)
    monkeypatch.setattr(importer, "BACKLOG", 30)
    made = recorded = ahead = most = 0
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    queries: list[str] = []

    def counted(instance: Any, **_: Any) -> None:
        nonlocal made, ahead, most
        made += 1
        alive.add(instance)
        ahead, most = max(ahead, made - recorded), max(most, len(alive))

    def saved(**_: Any) -> None:
        nonlocal recorded
        recorded += 1

    def noted(execute: Any, sql: str, *arguments: Any) -> Any:
        queries.append(sql)
        return execute(sql, *arguments)

    signals.post_init.connect(counted, sender=rows, weak=False)
    signals.post_save.connect(saved, sender=rows, weak=False)
    noting = await orm(lambda: connection.execute_wrapper(noted))()
    await orm(noting.__enter__)()
    try:
        assert await import_by(form, tmp_path / "files") == (len(FILES), 2)
    finally:
        await orm(noting.__exit__)(None, None, None)
        signals.post_init.disconnect(counted, sender=rows)
        signals.post_save.disconnect(saved, sender=rows)
    assert (made, recorded) == (WANTED, WANTED)
    assert sum(sql.startswith("SELECT") for sql in queries) == 1
    assert ahead <= 30 + 20
    assert most <= 30 + 20 + 2, "and the one at hand, and the one before it, which the loop still names"


@pytest.mark.usefixtures("rows")
async def test_a_queryset_on_a_loop(tmp_path: Path) -> None:
    """Where a loop runs Django refuses to work, so a batch entered with ``async with`` wants `ajobs`."""
    from django_importer.importer import jobs

    with quick() as context:
        async with Batch(jobs(tmp_path), context=context) as batch:
            with pytest.raises(SynchronousOnlyOperation):
                async for _ in batch():
                    pass


def test_a_queryset_in_a_plain_thread(rows: type[Any], tmp_path: Path) -> None:
    """The batch advances its iterable in the consumer's thread, where Django works; no loop runs there."""
    from django_importer.importer import jobs

    with quick() as context, Batch(jobs(tmp_path / "files"), backlog=5, context=context) as batch:
        plan = next(iter(batch()))
        assert rows.objects.filter(pk=plan.download.attachment.pk).exists()


def command(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run the command of the README; warnings are errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "django_importer", *arguments],
        cwd=directory, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def test_the_demonstration(tmp_path: Path) -> None:
    """Without a URL: two runs against a server of its own, the second of which fetches what the first could not."""
    ended = command(directory=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "19 fetched, 1 failed, 19 there\n1 fetched, 0 failed, 20 there\n")
    assert "DigestMismatch" in ended.stderr
    assert "Warning" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_command(served: nginx.Nginx, tmp_path: Path) -> None:
    """With a URL: what it lists is fetched, what cannot be had is told, and the exit code says that there is some."""
    first, second = (command(served.url("/SHA256SUMS"), directory=tmp_path) for _ in range(2))
    assert (first.returncode, first.stdout) == (1, "300 fetched, 2 failed, 300 there\n")
    assert "/missing: NotFound" in first.stderr
    assert (second.returncode, second.stdout) == (1, "0 fetched, 2 failed, 300 there\n")
    assert len(list((tmp_path / "imported-django" / "files").iterdir())) == len(FILES)


def test_no_index(served: nginx.Nginx, tmp_path: Path) -> None:
    """An index that is not there is told in a line."""
    ended = command(served.url("/nothing"), directory=tmp_path)
    assert ended.returncode == 1
    assert "404" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<p>Please log in.</p>\n", "'<p>Please log in.</p>' is no line of a SHA256SUMS"),
        (b"\x7fELF\x00\xff\n", "is no line of a SHA256SUMS"),
        (b"0" * 64 + b"  file\nfile 2\n", "'file 2' is no line of a SHA256SUMS"),
        (b"", "it lists nothing"),
    ],
)
def test_what_is_no_list(content: bytes, told: str, tmp_path: Path) -> None:
    """A page, a program, or nothing at all is no empty list: a sentence says so, and nothing is made."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "SHA256SUMS").write_bytes(content)
    with nginx.nginx(root) as server:
        ended = command(server.url("/SHA256SUMS"), directory=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert told in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [root]


def test_a_list_that_changed(tmp_path: Path) -> None:
    """A new digest replaces the known one: what is there with another is fetched again, and a corrected one heals."""
    root, target = tmp_path / "root", tmp_path / "imported-django"
    root.mkdir()

    def publish(listed: dict[str, bytes], **files: bytes) -> None:
        for name, content in files.items():
            (root / name).write_bytes(content)
        lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in listed.items()]
        (root / "SHA256SUMS").write_text("".join(lines))

    with nginx.nginx(root) as server:

        def imported() -> str:
            ended = command(server.url("/SHA256SUMS"), directory=tmp_path)
            return ended.stdout.strip()

        publish({"known": b"old", "wrong": b"mistaken", "same": b"same"}, known=b"old", wrong=b"right", same=b"same")
        assert imported() == "2 fetched, 1 failed, 2 there"
        publish({"known": b"new", "wrong": b"right", "same": b"same"})
        assert imported() == "1 fetched, 1 failed, 2 there", "the new file is announced, and has not come yet"
        publish({"known": b"new", "wrong": b"right", "same": b"same"}, known=b"new")
        assert imported() == "1 fetched, 0 failed, 3 there"
        assert imported() == "0 fetched, 0 failed, 3 there"
    assert [path.read_bytes() for path in sorted((target / "files").iterdir())] == [b"new", b"right", b"same"]
    with closing(sqlite3.connect(target / "importer.sqlite3")) as database:
        artifacts = database.execute("SELECT sha256 FROM django_importer_artifact ORDER BY sha256").fetchall()
    assert [digest for (digest,) in artifacts] == sorted(
        hashlib.sha256(content).hexdigest() for content in (b"new", b"right", b"same")
    ), "and no Artifact of what was there before"


def test_help(tmp_path: Path) -> None:
    """The command says how it is used, and makes nothing."""
    ended = command("--help", directory=tmp_path)
    assert ended.returncode == 0
    assert "imported-django" in ended.stdout
    assert list(tmp_path.iterdir()) == []
