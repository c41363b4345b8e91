"""Writers: where bytes go; complete and validated, or not there."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import io
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.mem import Ledger, MemDriver, Reply, context_of, names

from downhaul import (
    BufferWriter,
    Context,
    DigestMismatch,
    DigestValidation,
    Download,
    FileWriter,
    NotFound,
    Plugin,
    PluginError,
    Sink,
    Transfer,
    Truncated,
    WriteError,
    Writer,
    hookimpl,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from downhaul import Block

URL = "mem://host/file"
DATA = bytes(range(256)) * 1000  # 250 KiB


@pytest.fixture
def driver() -> MemDriver:
    """Give a driver that serves the file."""
    driver = MemDriver()
    driver.site(URL, data=DATA)
    return driver


@pytest.fixture
async def context(driver: MemDriver) -> AsyncIterator[Context]:
    """Give a context for that driver, with one round."""
    async with context_of(driver, retries=0) as context:
        yield context


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set the umask for a while."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    """Return the permission bits of *path* itself."""
    return stat.S_IMODE(path.lstat().st_mode)


class Look(Plugin):
    """Calls a function when all bytes are there, before they are published."""

    def __init__(self, function: Callable[[Transfer], None]) -> None:
        self.function = function

    @hookimpl
    async def validate(self, transfer: Transfer) -> None:
        self.function(transfer)


@pytest.mark.parametrize(("mask", "expected"), [(0o000, 0o666), (0o077, 0o600), (0o022, 0o644), (0o027, 0o640)])
async def test_a_published_file_has_the_mode_of_any_new_file(
    context: Context, tmp_path: Path, mask: int, expected: int
) -> None:
    """Published files get ``0666 & ~umask``, as they would from ``open(path, "w")``."""
    with umask(mask):
        await Download(URL, FileWriter(tmp_path / "f"), context=context).run()
        (tmp_path / "other").touch()
        assert os.umask(mask) == mask, "looking at the umask has not changed it"
    assert mode(tmp_path / "f") == expected == mode(tmp_path / "other")


async def test_the_umask_is_found_where_proc_is_not(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where /proc does not tell the umask, it is asked for in the way that there is, and left as it was."""
    read = Path.read_text

    def fail(path: Path, *args: Any, **options: Any) -> str:
        if str(path) == "/proc/self/status":
            raise FileNotFoundError
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", fail)
    with umask(0o027):
        await Download(URL, FileWriter(tmp_path / "f"), context=context).run()
        assert os.umask(0o027) == 0o027
    assert mode(tmp_path / "f") == 0o640


async def test_the_temporary_is_a_private_sibling(context: Context, tmp_path: Path) -> None:
    """Temporaries are 0600 siblings: nobody else reads what is not validated, and the rename stays on one disk."""
    seen: list[tuple[str, int, int]] = []

    def look(transfer: Transfer) -> None:
        seen.extend((path.name, mode(path), path.stat().st_size) for path in tmp_path.iterdir())

    with umask(0o000):
        await Download(URL, FileWriter(tmp_path / "name.rpm"), plugins=[Look(look)], context=context).run()
    ((name, found, size),) = seen
    assert (found, size) == (0o600, len(DATA))
    assert name.startswith(".name.rpm.")
    assert name.endswith(".part")
    assert names(tmp_path) == ["name.rpm"]


async def test_a_temporary_is_opened_so_that_nobody_can_lay_a_trap(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``O_EXCL | O_NOFOLLOW``: a file or link that waits under the name is an error, and is not touched."""
    monkeypatch.setattr("os.urandom", lambda number: b"guess!"[:number])
    prey = tmp_path / "prey"
    prey.write_bytes(b"prey")
    trap = tmp_path / f".f.{b'guess!'.hex()}.part"
    for lay in (lambda: trap.symlink_to(prey), lambda: trap.symlink_to(tmp_path / "new"), lambda: trap.touch()):
        lay()
        with pytest.raises(WriteError) as caught:
            await Download(URL, FileWriter(tmp_path / "f"), context=context).run()
        assert caught.value.errno == errno.EEXIST
        trap.unlink()
    assert prey.read_bytes() == b"prey"
    assert names(tmp_path) == ["prey"]


async def test_a_symbolic_link_is_replaced(context: Context, tmp_path: Path) -> None:
    """A link at the target is replaced, not followed: what it points to stays as it is."""
    prey = tmp_path / "prey"
    prey.write_bytes(b"prey")
    for target in (prey, tmp_path, tmp_path / "nowhere"):
        link = tmp_path / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        await Download(URL, FileWriter(link), context=context).run()
        assert not link.is_symlink()
        assert link.read_bytes() == DATA
    assert prey.read_bytes() == b"prey"
    assert names(tmp_path) == ["link", "prey"]


async def test_a_file_is_replaced_at_once(context: Context, tmp_path: Path) -> None:
    """The old file is there, whole, until the new one is; whoever has it open keeps it."""
    path = tmp_path / "f"
    path.write_bytes(b"old")
    seen: list[bytes] = []
    with path.open("rb") as old:
        look = Look(lambda _: seen.append(path.read_bytes()))
        await Download(URL, FileWriter(path), plugins=[look], context=context).run()
        assert old.read() == b"old"
    assert seen == [b"old"]
    assert path.read_bytes() == DATA


async def test_a_failed_download_leaves_the_old_file(driver: MemDriver, context: Context, tmp_path: Path) -> None:
    """Bytes that are refused, or incomplete, replace nothing, and leave nothing beside it."""
    path = tmp_path / "f"
    path.write_bytes(b"old")
    wrong = DigestValidation("sha256", "00" * 32)
    with pytest.raises(DigestMismatch):
        await Download(URL, FileWriter(path), validations=[wrong], context=context).run()
    driver.site(URL, data=DATA, cut=200_000)
    with pytest.raises(Truncated):
        await Download(URL, FileWriter(path), context=context).run()
    driver.sites.clear()
    with pytest.raises(NotFound):
        await Download(URL, FileWriter(path), context=context).run()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


async def test_an_empty_file_is_a_file(driver: MemDriver, context: Context, tmp_path: Path) -> None:
    """No bytes at all are published too, with the right mode."""
    driver.site(URL, data=b"")
    with umask(0o022):
        result = await Download(URL, FileWriter(tmp_path / "f"), digests=["sha256"], context=context).run()
    assert ((tmp_path / "f").read_bytes(), mode(tmp_path / "f")) == (b"", 0o644)
    assert result.digests["sha256"] == hashlib.sha256().hexdigest()


def _directory(where: Path) -> Path:
    (where / "d").mkdir()
    return where / "d"


def _fifo(where: Path) -> Path:
    os.mkfifo(where / "fifo")
    return where / "fifo"


def _below_a_file(where: Path) -> Path:
    (where / "file").touch()
    return where / "file" / "f"


@pytest.mark.parametrize(
    ("make", "number", "told"),
    [
        (_directory, errno.EISDIR, "it is a directory"),
        (_fifo, errno.EINVAL, "neither a file nor a link"),
        (lambda where: Path("/dev/null"), errno.EINVAL, "neither a file nor a link"),
        (lambda where: where / "missing" / "f", errno.ENOENT, "create it first"),
        (_below_a_file, errno.ENOTDIR, "Not a directory"),
        (lambda where: where / ("n" * 256), errno.ENAMETOOLONG, "too long"),
        (lambda where: where / ("é" * 128), errno.ENAMETOOLONG, "too long"),
        (lambda where: where / ("d/" * 2100) / "f", errno.ENAMETOOLONG, "too long"),
        (lambda where: where / "nul\0byte", errno.EINVAL, "null (byte|character)"),
        (lambda where: Path(), errno.EISDIR, "it is a directory"),
    ],
    ids=["directory", "fifo", "device", "no parent", "parent is a file", "name of 256", "name of 2 x 128", "long path",
         "NUL", "empty"],
)  # fmt: skip
async def test_where_no_file_can_be_is_told_before_anything_is_asked_for(
    driver: MemDriver, tmp_path: Path, make: Callable[[Path], Path], number: int, told: str
) -> None:
    """A WriteError with the system's number and a sentence; no request was sent, nothing created, `error` not asked."""
    path = make(tmp_path)
    before = names(tmp_path)
    ledger = Ledger()
    async with context_of(driver, ledger) as context:
        with pytest.raises(WriteError, match=told) as caught:
            await Download(URL, FileWriter(path), attachment=7, context=context).run()
    assert caught.value.errno == number
    assert (caught.value.url, caught.value.attachment) == (URL, 7)
    assert (driver.log, ledger.errors, ledger.outcomes) == ([], [], [caught.value])
    assert names(tmp_path) == before


async def test_parents_are_created_where_asked_for(driver: MemDriver, context: Context, tmp_path: Path) -> None:
    """With ``parents=True`` missing directories are created, but for a file that is not there none is."""
    result = await Download(URL, FileWriter(tmp_path / "a" / "b" / "f", parents=True), context=context).run()
    assert (tmp_path / "a" / "b" / "f").stat().st_size == result.size
    assert names(tmp_path / "a" / "b") == ["f"]
    with pytest.raises(NotFound):
        await Download(f"{URL}/missing", FileWriter(tmp_path / "c" / "f", parents=True), context=context).run()
    assert names(tmp_path) == ["a"]


async def test_parents_that_cannot_be_created_are_told_first(
    driver: MemDriver, context: Context, tmp_path: Path
) -> None:
    """Where an ancestor is a file, or a link that leads nowhere, nothing is asked for."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for ancestor in ("file", "link"):
        with pytest.raises(WriteError):
            await Download(URL, FileWriter(tmp_path / ancestor / "d" / "f", parents=True), context=context).run()
    assert (driver.log, names(tmp_path)) == ([], ["file", "link"])


async def test_a_parent_that_may_not_be_written_in_is_told_first(
    driver: MemDriver, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permission is looked at before the first request."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(WriteError, match="no permission to write in") as caught:
        await Download(URL, FileWriter(tmp_path / "f"), context=context).run()
    assert (caught.value.errno, driver.log) == (errno.EACCES, [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_without_permission_is_told_first(tmp_path: Path) -> None:
    """The same for real: a process of another user, and a directory that is not its own."""
    program = (
        "import os, sys; from downhaul._writers import FileWriter\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "FileWriter(sys.argv[1]).open(None)"
    )
    (tmp_path / "closed").mkdir(mode=0o755)
    (tmp_path / "secret").mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    for path in ("closed/f", "secret/f"):
        done = subprocess.run(
            [sys.executable, "-c", program, path], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert f"WriteError: cannot write '{path}': " in done.stderr
        assert "ermission" in done.stderr


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Give a function that mounts a small tmpfs with the given options."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a file system needs root and mount(8)")
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
        return place

    yield mount
    subprocess.run(["umount", place], capture_output=True, check=False)


async def test_a_disk_that_is_full_ends_the_download(
    driver: MemDriver, tmp_path: Path, mounted: Callable[[str], Path]
) -> None:
    """A full disk is a WriteError with ENOSPC, terminal, and nothing is left, not even the part that had room."""
    disk = mounted("size=512k")
    driver.site(URL, data=b"x" * 5_000_000)
    ledger = Ledger()
    async with context_of(driver, ledger) as context:
        with pytest.raises(WriteError, match="No space left") as caught:
            await Download(URL, FileWriter(disk / "f"), context=context).run()
        assert caught.value.errno == errno.ENOSPC
        assert names(disk) == []
        assert (ledger.errors, driver.live, len(driver.log)) == ([], 0, 1)
        driver.site(URL, data=DATA)
        await Download(URL, FileWriter(disk / "f"), context=context).run()
        assert (disk / "f").read_bytes() == DATA, "the room was given back"


async def test_a_read_only_disk_is_told_first(
    driver: MemDriver, context: Context, mounted: Callable[[str], Path]
) -> None:
    """On a file system that is mounted read-only, nothing is asked for."""
    disk = mounted("ro,size=64k")
    with pytest.raises(WriteError, match="cannot write") as caught:
        await Download(URL, FileWriter(disk / "f"), context=context).run()
    assert caught.value.errno in {errno.EACCES, errno.EROFS}
    assert driver.log == []


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127 + "x", "n" * 240, ".hidden", "with space", "\udcff\udcfe"])
async def test_every_name_that_the_system_takes_works(context: Context, tmp_path: Path, name: str) -> None:
    """Names of 255 bytes work, though the temporary's is longer by a few; so do those that are no UTF-8."""
    await Download(URL, FileWriter(tmp_path / name), context=context).run()
    assert (tmp_path / name).read_bytes() == DATA
    assert names(tmp_path) == [name]


async def test_a_system_that_writes_a_part_is_asked_to_write_the_rest(
    driver: MemDriver, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``write(2)`` may take less than it is given: nothing is lost, nothing written twice."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:1000]))
    await Download(URL, FileWriter(tmp_path / "f"), context=context).run()
    monkeypatch.undo()
    assert (tmp_path / "f").read_bytes() == DATA


async def test_a_directory_that_appears_meanwhile_is_told(context: Context, tmp_path: Path) -> None:
    """A commit that fails is a WriteError, and leaves nothing."""
    path = tmp_path / "f"
    with pytest.raises(WriteError, match="it is a directory"):
        await Download(URL, FileWriter(path), plugins=[Look(lambda _: path.mkdir())], context=context).run()
    assert names(tmp_path) == ["f"]


async def test_a_parent_that_vanishes_meanwhile_is_told(context: Context, tmp_path: Path) -> None:
    """So is one whose directory is gone, temporary and all."""
    parent = tmp_path / "d"
    parent.mkdir()
    with pytest.raises(WriteError, match="cannot write"):
        await Download(
            URL, FileWriter(parent / "f"), plugins=[Look(lambda _: shutil.rmtree(parent))], context=context
        ).run()


async def test_two_downloads_to_one_path_never_interleave(tmp_path: Path) -> None:
    """At the same time, to one path: each has its own temporary, and one of them wins as a whole."""
    path, driver = tmp_path / "f", MemDriver()
    files = {f"mem://host/{n}": bytes([n]) * (100_000 + n) for n in range(5)}
    for url, data in files.items():
        driver.site(url, data=data, block=1000)
    both_open = asyncio.Event()

    class Together(Plugin):
        count = 0

        @hookimpl
        async def validate(self, transfer: Transfer) -> None:
            self.count += 1
            if self.count == len(files):
                both_open.set()
            await both_open.wait()

    async with context_of(driver, Together()) as context:
        await asyncio.gather(*(Download(url, FileWriter(path), context=context).run() for url in files))
    assert path.read_bytes() in files.values()
    assert names(tmp_path) == ["f"]


async def test_bytes_can_be_read_before_they_are_published(context: Context, tmp_path: Path) -> None:
    """`Transfer.body` is a readable of the received bytes in `validate`, for files and buffers."""
    seen: list[bytes] = []

    def look(transfer: Transfer) -> None:
        body = transfer.body()
        assert body is not None
        with body:
            seen.append(body.read())

    for writer in (FileWriter(tmp_path / "f"), BufferWriter()):
        await Download(URL, writer, plugins=[Look(look)], context=context).run()
    assert seen == [DATA, DATA]
    assert (tmp_path / "f").read_bytes() == DATA


def test_a_buffer_that_has_nothing_says_so() -> None:
    """`BufferWriter.content` before the first success is a ValueError."""
    with pytest.raises(ValueError, match="nothing was downloaded"):
        BufferWriter().content()


async def test_a_buffer_has_the_last_committed_bytes(driver: MemDriver, context: Context) -> None:
    """A download that fails changes nothing in the buffer, one that succeeds replaces it."""
    writer = BufferWriter()
    download = Download(URL, writer, context=context)
    await download.run()
    driver.site(URL, data=b"newer", cut=3)
    with pytest.raises(Truncated):
        await download.run()
    assert writer.content() == DATA
    driver.site(URL, data=b"newest")
    await download.run()
    assert writer.content() == b"newest"
    assert type(writer.content()) is bytes


def test_file_writers_are_values(tmp_path: Path) -> None:
    """Equal paths make equal writers, given as str or as Path, if both or neither create directories."""
    assert FileWriter("a/b") == FileWriter(Path("a/b")) != FileWriter("a/c")
    assert hash(FileWriter("a/b")) == hash(FileWriter(Path("a") / "b"))
    assert FileWriter("a", parents=True) != FileWriter("a")
    assert repr(FileWriter("a", parents=True)) == "FileWriter('a', parents=True)"


class OwnWriter(Writer):
    """A writer of somebody else's: one of the methods of its sink raises."""

    def __init__(self, step: str = "", reason: Exception | None = None) -> None:
        self.step, self.reason = step, reason
        self.calls: list[str] = []
        self.published: bytes | None = None

    def open(self, transfer: Transfer) -> Sink:
        self.act("open")
        return OwnSink(self)

    def act(self, step: str) -> None:
        self.calls.append(step)
        if step == self.step and self.reason is not None:
            raise self.reason


class OwnSink:
    def __init__(self, writer: OwnWriter) -> None:
        self.writer, self.bytes = writer, bytearray()

    @property
    def position(self) -> int:
        return len(self.bytes)

    def write(self, block: Block) -> None:
        self.writer.act("write")
        self.bytes += block

    def truncate(self, position: int) -> None:
        self.writer.act("truncate")
        del self.bytes[position:]

    def commit(self) -> None:
        self.writer.act("commit")
        self.writer.published = bytes(self.bytes)

    def discard(self) -> None:
        self.writer.act("discard")


async def test_an_own_writer_is_written_and_published(context: Context) -> None:
    """`open`, then `write` for each block, then `commit`; `discard` only where nothing was committed."""
    writer = OwnWriter()
    await Download(URL, writer, context=context).run()
    assert writer.published == DATA
    assert (writer.calls[0], set(writer.calls[1:-1]), writer.calls[-1]) == ("open", {"write"}, "commit")


@pytest.mark.parametrize("step", ["open", "write", "truncate", "commit"])
async def test_an_os_error_of_an_own_sink_is_a_write_error(driver: MemDriver, step: str) -> None:
    """OSError is what the system says: a WriteError with its number, terminal, and the sink is discarded."""
    driver.site(URL, Reply(DATA, cut=100_000, ranges=False), Reply(DATA))
    writer, ledger = OwnWriter(step, OSError(errno.EDQUOT, "quota exceeded")), Ledger()
    async with context_of(driver, ledger) as context:
        with pytest.raises(WriteError, match="quota exceeded") as caught:
            await Download(URL, writer, context=context).run()
    assert caught.value.errno == errno.EDQUOT
    assert (writer.published, writer.calls[-1]) == (None, "open" if step == "open" else "discard")
    assert not any(isinstance(error, WriteError) for error in ledger.errors)
    assert ledger.outcomes == [caught.value]


@pytest.mark.parametrize("step", ["open", "write", "truncate", "commit"])
async def test_another_error_of_an_own_sink_names_it(driver: MemDriver, step: str) -> None:
    """Anything else is a PluginError that names class and method."""
    driver.site(URL, Reply(DATA, cut=100_000, ranges=False), Reply(DATA))
    writer = OwnWriter(step, LookupError("no bucket"))
    owner = "OwnWriter" if step == "open" else "OwnSink"
    async with context_of(driver) as context:
        with pytest.raises(PluginError, match=rf"{owner}\.{step} failed: LookupError: no bucket"):
            await Download(URL, writer, context=context).run()
    assert (writer.published, writer.calls[-1]) == (None, "open" if step == "open" else "discard")


async def test_a_discard_that_fails_is_logged_and_hides_nothing(
    driver: MemDriver, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    """The error that a user gets is why the download failed, not what went wrong in cleaning up."""
    driver.site(URL, status=404)
    with pytest.raises(NotFound):
        await Download(URL, OwnWriter("discard", LookupError("no bucket")), context=context).run()
    assert "OwnSink.discard failed: LookupError: no bucket" in caplog.text


async def test_a_writer_that_opens_nothing_is_named(driver: MemDriver, context: Context) -> None:
    """A forgotten ``return`` is no download into nowhere."""

    class Forgetful(Writer):
        def open(self, transfer: Transfer) -> Any:
            pass

    with pytest.raises(PluginError, match=r"Forgetful\.open"):
        await Download(URL, Forgetful(), context=context).run()
    assert driver.log == []


async def test_a_sink_that_cannot_go_back_is_not_asked_to_while_it_is_empty(driver: MemDriver) -> None:
    """`truncate` may refuse; as long as nothing was written, there is nothing to refuse."""
    driver.site(URL, Reply(DATA, cut=0, ranges=False), Reply(DATA, cut=0, ranges=False), Reply(DATA))
    writer = OwnWriter("truncate", io.UnsupportedOperation("truncate"))
    async with context_of(driver) as context:
        await Download(URL, writer, context=context).run()
    assert writer.published == DATA


async def test_a_sink_that_cannot_go_back_is_continued(driver: MemDriver) -> None:
    """With proof that the bytes go on, a sink that cannot truncate gets the rest."""
    driver.site(URL, Reply(DATA, cut=100_000), Reply(DATA))
    writer = OwnWriter("truncate", io.UnsupportedOperation("truncate"))
    async with context_of(driver) as context:
        await Download(URL, writer, context=context).run()
    assert writer.published == DATA
    assert "truncate" not in writer.calls


async def test_a_path_may_be_relative(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare name is a file in the current directory, and the result has the path as it was given."""
    monkeypatch.chdir(tmp_path)
    result = await Download(URL, FileWriter("f"), context=context).run()
    assert result.path == Path("f")
    assert (tmp_path / "f").read_bytes() == DATA
