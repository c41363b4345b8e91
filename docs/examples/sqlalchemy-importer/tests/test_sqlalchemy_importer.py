"""The importer with SQLAlchemy models, against the real nginx."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
import threading
import weakref
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, event, select
from sqlalchemy.orm import Session
from sqlalchemy_importer import importer
from sqlalchemy_importer.__main__ import entries
from sqlalchemy_importer.models import Artifact, Base, RemoteFile
from tests.servers import nginx

from downhaul import Context, Retries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

FILES = {f"file {n}": f"file {n}\n".encode() * n for n in range(200)}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nginx.Nginx]:
    """Serve the files, a corrupt one, and a list that has one more."""
    if nginx.PROGRAM is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("nginx is not installed")
    root = tmp_path_factory.mktemp("served")
    root.chmod(0o755)
    for name, content in FILES.items():
        (root / name).write_bytes(content)
    (root / "corrupt").write_bytes(b"what nobody meant")
    (root / "SHA256SUMS").write_text(sums())
    with nginx.nginx(root) as server:
        yield server


def sums() -> str:
    """Return the list of the files, and of two that cannot be had."""
    listed = [(hashlib.sha256(content).hexdigest(), name) for name, content in FILES.items()]
    return "".join(f"{digest}  {name}\n" for digest, name in [*listed, ("0" * 64, "corrupt"), ("0" * 64, "missing")])


@pytest.fixture
def session(served: nginx.Nginx, tmp_path: Path) -> Iterator[Session]:
    """Let all of it be wanted."""
    engine = create_engine(f"sqlite:///{tmp_path / 'importer.sqlite3'}")
    Base.metadata.create_all(engine)
    (tmp_path / "files").mkdir()
    with Session(engine, expire_on_commit=False) as session:
        session.add_all(RemoteFile(**entry) for entry in entries(served.url("/SHA256SUMS"), sums()))
        session.commit()
        session.expunge_all()
        yield session
    engine.dispose()


@pytest.fixture
def context() -> Iterator[Context]:
    """Give a context that does not wait between rounds."""
    with Context(plugins=[Retries(base=0)], retries=1) as context:
        yield context


def test_artifacts_and_failures(session: Session, context: Context, tmp_path: Path) -> None:
    """Each file that came has an Artifact with its size and digests, each that did not has the reason."""
    assert importer.import_missing(session, tmp_path / "files", context) == (len(FILES), 2)
    session.expunge_all()
    for remote in session.scalars(select(RemoteFile).join(Artifact)):
        content, artifact = FILES[remote.url.rpartition("/")[2].replace("%20", " ")], remote.artifact
        assert artifact is not None
        assert (artifact.size, artifact.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert artifact.sha512 == hashlib.sha512(content).hexdigest()
        assert (tmp_path / "files" / str(remote.id)).read_bytes() == content
    corrupt, missing = session.scalars(select(RemoteFile).where(RemoteFile.failure.is_not(None)).order_by("url"))
    assert str(corrupt.failure).startswith("DigestMismatch: sha256 is ")
    assert str(missing.failure).startswith("NotFound: ")
    assert len(list((tmp_path / "files").iterdir())) == len(FILES), "no part of what failed"


def test_again(session: Session, context: Context, served: nginx.Nginx, tmp_path: Path) -> None:
    """Running again asks for what is missing, and for nothing else."""
    importer.import_missing(session, tmp_path / "files", context)
    before = len(served.access_log())
    assert importer.import_missing(session, tmp_path / "files", context) == (0, 2)
    assert {line.split()[6] for line in served.access_log()[before:]} == {"/corrupt", "/missing"}


def test_rows_are_read_as_they_are_needed(
    session: Session, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never more rows are read ahead, nor in memory, than the backlog and one chunk; all of it in this thread."""
    monkeypatch.setattr(importer, "CHUNK", 20)
    monkeypatch.setattr(importer, "BACKLOG", 30)
    loaded = recorded = ahead = most = 0
    alive: weakref.WeakSet[RemoteFile] = weakref.WeakSet()
    threads = set()

    def load(instance: RemoteFile, _: Any) -> None:
        nonlocal loaded, ahead, most
        loaded += 1
        alive.add(instance)
        threads.add(threading.get_ident())
        ahead, most = max(ahead, loaded - recorded), max(most, len(alive))

    def commit(_: Session) -> None:
        nonlocal recorded
        recorded += 1

    event.listen(RemoteFile, "load", load)
    event.listen(session, "after_commit", commit)
    try:
        assert importer.import_missing(session, tmp_path / "files", context) == (len(FILES), 2)
    finally:
        event.remove(RemoteFile, "load", load)
    assert loaded == recorded == len(FILES) + 2
    assert threads == {threading.get_ident()}
    assert ahead <= 30 + 20
    assert most <= 30 + 20 + 2, "and the one at hand, and the one before it, which the loop still names"


def command(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run the command of the README; warnings are errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "sqlalchemy_importer", *arguments],
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
    """With a URL: what it lists is fetched once, what cannot be had is told, and the exit code says so."""
    first, second = (command(served.url("/SHA256SUMS"), directory=tmp_path) for _ in range(2))
    assert (first.returncode, first.stdout) == (1, "200 fetched, 2 failed, 200 there\n")
    assert "/missing: NotFound" in first.stderr
    assert "Warning" not in first.stderr
    assert (second.returncode, second.stdout) == (1, "0 fetched, 2 failed, 200 there\n")
    assert len(list((tmp_path / "imported-sqlalchemy" / "files").iterdir())) == len(FILES)


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
    root, target = tmp_path / "root", tmp_path / "imported-sqlalchemy"
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
        artifacts = database.execute("SELECT sha256 FROM artifact ORDER BY sha256").fetchall()
    assert [digest for (digest,) in artifacts] == sorted(
        hashlib.sha256(content).hexdigest() for content in (b"new", b"right", b"same")
    ), "and no Artifact of what was there before"


def test_help(tmp_path: Path) -> None:
    """The command says how it is used, and makes nothing."""
    ended = command("--help", directory=tmp_path)
    assert ended.returncode == 0
    assert "imported-sqlalchemy" in ended.stdout
    assert list(tmp_path.iterdir()) == []
