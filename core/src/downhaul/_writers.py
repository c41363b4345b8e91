"""Writers: where bytes go, described apart from the open place that they go to."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import re
import stat
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from ._errors import WriteError

if TYPE_CHECKING:
    from ._models import Block
    from ._transfer import Transfer

_NAME_MAX: Final = 255
_ROOM_FROM: Final = 8 * 1024 * 1024  # bytes of a file that is worth asking for room first
_ROOM_AT_MOST: Final = 4 * 1024 * 1024 * 1024  # bytes that are asked for
_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UMASK: Final = re.compile(rb"^Umask:\s*([0-7]+)", re.MULTILINE)


class Sink(Protocol):
    """An open place for the bytes of one transfer; synchronous, and called from one thread at a time.

    Raise OSError or WriteError on failure: it ends the download. A sink may have a method ``reader()`` that returns
    the bytes so far as a binary file, for hooks that want to read them before they are published, and a method
    ``expect(size)`` that is told before the first byte how many there will be, where that is known.
    """

    @property
    def position(self) -> int:
        """The number of bytes written."""

    def write(self, block: Block) -> None:
        """Append *block*, all of it."""

    def truncate(self, position: int) -> None:
        """Forget the bytes behind *position*; a sink that cannot raises OSError."""

    def commit(self) -> None:
        """Publish the bytes: all of them, or none."""

    def discard(self) -> None:
        """Leave nothing behind."""


class Writer(ABC):
    """Base class of writers: a description that opens a `Sink` for each transfer."""

    @abstractmethod
    def open(self, transfer: Transfer) -> Sink:
        """Return a place for the bytes of *transfer*; raise WriteError at once where none can be had."""


class FileWriter(Writer):
    """Writes a file at *path*, atomically: it is complete and validated, or not there.

    The bytes go to a sibling of mode 0600, which is renamed over *path* in the end, with mode ``0666 & ~umask``. A
    symbolic link there is replaced, not followed. With *parents*, directories that are missing are created when the
    first byte comes.
    """

    def __init__(self, path: str | os.PathLike[str], *, parents: bool = False) -> None:
        self.path = Path(path)
        self.parents = parents

    def open(self, transfer: Transfer) -> Sink:  # noqa: ARG002
        """Return a sink; raise WriteError if no file can be written at the path."""
        return _FileSink(self.path, parents=self.parents)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FileWriter) and (self.path, self.parents) == (other.path, other.parents)

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"FileWriter({str(self.path)!r}{', parents=True' if self.parents else ''})"


class BufferWriter(Writer):
    """Keeps the bytes in memory."""

    def __init__(self) -> None:
        self._content: bytes | None = None

    def content(self) -> bytes:
        """Return the bytes of the last download that succeeded; ValueError before the first."""
        if self._content is None:
            raise ValueError("nothing was downloaded into this BufferWriter yet")
        return self._content

    def open(self, transfer: Transfer) -> Sink:  # noqa: ARG002
        """Return a sink in memory."""
        return _BufferSink(self)

    def _publish(self, content: bytes) -> None:
        self._content = content


class _BufferSink:
    def __init__(self, writer: BufferWriter) -> None:
        self._writer, self._file = writer, io.BytesIO()

    @property
    def position(self) -> int:
        return self._file.tell()

    def write(self, block: Block) -> None:
        self._file.write(block)

    def truncate(self, position: int) -> None:
        self._file.seek(position)
        self._file.truncate()

    def commit(self) -> None:
        self._writer._publish(self._file.getvalue())  # the very bytes, not a second time

    def discard(self) -> None:
        self.truncate(0)

    def reader(self) -> BinaryIO:
        return io.BytesIO(self._file.getvalue())


class _FileSink:
    """A file under a name of its own beside *path*; paths are text in here, which costs a tenth of what objects do."""

    def __init__(self, path: Path, *, parents: bool) -> None:
        self._given, self._parents = path, parents
        self._temporary = ""
        self._file = -1
        self._opened = time.monotonic()
        self._expected = 0
        self.position = 0
        with _told(path):
            given = str(path)
            # The working directory may change meanwhile.
            self._path = given if given.startswith("/") else os.path.join(os.getcwd(), given)  # noqa: PTH109, PTH118
            self._directory, _, self._name = self._path.rpartition("/")
            self._look()

    def expect(self, size: int) -> None:
        self._expected = size

    def write(self, block: Block) -> None:
        try:
            if self._file < 0:
                self._create()
                if self._expected >= _ROOM_FROM:
                    self._make_room()
            written = os.write(self._file, block)
            self.position += written
            if written < len(block):
                self._write_rest(memoryview(block).cast("B")[written:])
        except (OSError, ValueError) as reason:
            raise _refused(reason, self._given) from None

    def truncate(self, position: int) -> None:
        if self._file >= 0:
            with _told(self._given):
                os.ftruncate(self._file, position)
                os.lseek(self._file, position, os.SEEK_SET)
        self.position = min(position, self.position)

    def commit(self) -> None:
        with _told(self._given):
            if self._file < 0:
                self._create()
            if self.position < self._expected:
                os.ftruncate(self._file, self.position)  # what was set aside in vain
            os.fchmod(self._file, 0o666 & ~_umask.since(self._opened))
            self._close()
            try:
                os.replace(self._temporary, self._path)  # noqa: PTH105
            except OSError:
                _refuse_other_kinds(self._path)  # what has appeared there meanwhile says more
                raise
            self._temporary = ""

    def discard(self) -> None:
        self._close()
        if self._temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)  # noqa: PTH108
            self._temporary = ""

    def reader(self) -> BinaryIO:
        with _told(self._given):
            if self._file < 0:
                self._create()
            return open(self._temporary, "rb")  # noqa: PTH123 - the caller closes it

    def _look(self) -> None:
        """Raise OSError if the path is no place for a file, before any byte is asked for."""
        _refuse_other_kinds(self._path)
        parent = self._directory or "/"
        while self._parents and parent != "/" and not os.path.lexists(parent):
            parent = parent.rpartition("/")[0] or "/"
        if os.access(parent, os.W_OK | os.X_OK) and (not self._parents or os.path.isdir(parent)):  # noqa: PTH112
            return
        if not os.path.isdir(parent):  # noqa: PTH112
            raise FileNotFoundError(errno.ENOENT, f"there is no directory {parent!r}; create it first")
        raise PermissionError(errno.EACCES, f"no permission to write in {parent!r}")

    def _create(self) -> None:
        ending = f".{os.urandom(6).hex()}.part"
        stem = self._name
        if len(stem) + len(ending) >= _NAME_MAX or not stem.isascii():
            stem = os.fsdecode(os.fsencode(stem)[: _NAME_MAX - len(ending) - 1])
        temporary = f"{self._directory}/.{stem}{ending}"
        if self._parents:
            os.makedirs(self._directory or "/", exist_ok=True)  # noqa: PTH103
        self._file = os.open(temporary, _NEW_FILE, 0o600)
        self._temporary = temporary

    def _make_room(self) -> None:
        from . import _allocation  # few files are that large

        # What a server announces need not be true: so not all of a disk, and whether there is room will turn out.
        with contextlib.suppress(OSError):
            _allocation.make_room(self._file, min(self._expected, _ROOM_AT_MOST))

    def _write_rest(self, view: memoryview) -> None:
        while view:
            written = os.write(self._file, view)
            self.position += written
            view = view[written:]

    def _close(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)


def _refuse_other_kinds(path: str) -> None:
    """Raise OSError if what is at *path* is neither a file nor a link, and so nothing to put a file in the place of."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory")
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise OSError(errno.EINVAL, "it is neither a file nor a link")


class _told:  # noqa: N801 - reads as a statement
    """Turns an OSError into a WriteError that names the path; so too a ValueError, for what no path can hold."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, reason: BaseException | None, trace: object) -> None:
        if isinstance(reason, OSError | ValueError):
            raise _refused(reason, self._path) from None


def _refused(reason: OSError | ValueError, path: Path) -> WriteError:
    if isinstance(reason, OSError):
        return write_error(reason, f"cannot write {str(path)!r}")
    return WriteError(f"cannot write {str(path)!r}: {reason}", errno.EINVAL)


def write_error(reason: OSError, what: str) -> WriteError:
    """Return a WriteError for the system's *reason*; *what* says what could not be done."""
    return WriteError(f"{what}: {reason.strerror or reason}", reason.errno)


class _Umask:
    """The umask, read from the kernel: the only call for it sets it too, and so would disturb other threads."""

    def __init__(self) -> None:
        self._read = -math.inf, 0

    def since(self, when: float) -> int:
        """Return the umask as it was at some time from *when* on (``time.monotonic()``).

        So what many files that are begun together cost is one look, and a change between two files is never missed.
        """
        read, mask = self._read
        if read <= when:
            now = time.monotonic()
            mask = _read_umask()
            self._read = now, mask
        return mask


_umask: Final = _Umask()


def _read_umask() -> int:
    try:
        status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = _UMASK.search(os.read(status, 256))
        finally:
            os.close(status)
    except OSError:
        found = None
    if found:
        return int(found[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
