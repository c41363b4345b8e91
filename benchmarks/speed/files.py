"""The files that are fetched: made in memory, listed for the contestants, and checked when they are there."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB: Final = 1024 * 1024
_IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a temporary directory is made there


@dataclass(frozen=True, slots=True)
class File:
    """One file: its URL, its SHA-256, its size in bytes, and where it shall be."""

    url: str
    sha256: str
    size: int
    path: Path


@dataclass(frozen=True, slots=True)
class Task:
    """What the contestants of a workload fetch.

    *base* is the URL of the directory of the *files*, *target* the one where they shall be, and *work* has room for
    what a contestant wants in writing. *certificate* is that of the authority to be trusted, with https.
    """

    files: tuple[File, ...]
    base: str
    target: Path
    work: Path
    certificate: Path | None = None

    @property
    def manifest(self) -> Path:
        """The file that lists all files, each in a line: URL, SHA-256, size and path, between tabs."""
        return self.work / "manifest"

    @property
    def size(self) -> int:
        """The number of bytes of all files."""
        return sum(file.size for file in self.files)

    def write_manifest(self) -> None:
        """Write the manifest."""
        lines = (f"{file.url}\t{file.sha256}\t{file.size}\t{file.path}\n" for file in self.files)
        self.manifest.write_text("".join(lines))

    def check_sizes(self) -> None:
        """Raise RuntimeError unless every file is there, with its size."""
        for file in self.files:
            if not file.path.is_file() or file.path.stat().st_size != file.size:
                raise RuntimeError(f"{file.path.name} is missing, or has not {file.size} bytes")

    def check_digests(self) -> None:
        """Raise RuntimeError unless every file has its SHA-256."""
        for file in self.files:
            with file.path.open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
                    raise RuntimeError(f"{file.path.name} is corrupt")


@contextmanager
def in_memory(size: int) -> Iterator[Path]:
    """Yield a directory in memory, with room for *size* bytes, which everybody may read."""
    free = shutil.disk_usage(_IN_MEMORY).free if _IN_MEMORY.is_dir() else 0
    if free < size:
        raise RuntimeError(f"{_IN_MEMORY} has {free / MIB:,.0f} MiB free, and needs {size / MIB:,.0f}: use --scale")
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def make_files(directory: Path, number: int, size: int) -> dict[str, str]:
    """Write *number* files of *size* bytes to *directory*, no two of them alike; return their names and digests."""
    block = os.urandom(MIB)
    directory.mkdir()
    return {f"f{each:05}": _write(directory / f"f{each:05}", each, size, block) for each in range(number)}


def _write(path: Path, number: int, size: int, block: bytes) -> str:
    digest = hashlib.sha256()
    with path.open("wb") as out:
        for place in range(0, size, len(block)):
            piece = block[: size - place]
            if place == 0:
                piece = number.to_bytes(8, "big") + piece[8:]
            out.write(piece)
            digest.update(piece)
    return digest.hexdigest()
