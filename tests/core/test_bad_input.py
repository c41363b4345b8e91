"""Whatever a user can cause: a clear error of ours before any I/O, that says what is wrong and what to do."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.core.forms import FORMS, plans_of, read, run
from tests.mem import MemDriver, Reply, names

import downhaul
from downhaul import (
    Batch,
    BufferWriter,
    Context,
    DigestValidation,
    Download,
    DownloadError,
    FileWriter,
    Plugin,
    PluginError,
    Retries,
    Settings,
    SizeValidation,
    Timeout,
    TimeoutExceeded,
    UnsupportedScheme,
    User,
    WriteError,
    hookimpl,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from downhaul import Transfer

URL = "mem://home/file"
SECRET = "S3cr3tW0rd"


@pytest.fixture
def driver() -> MemDriver:
    """A driver with one file."""
    driver = MemDriver()
    driver.site(URL, Reply(b"the bytes"))
    return driver


@pytest.fixture
def context(driver: MemDriver) -> Iterator[Context]:
    """A context that asks it."""
    with Context(drivers={"mem": driver}, retries=0) as context:
        yield context


WRONG: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "URL without a scheme": (lambda: Download("host/file"), ValueError, "malformed URL: no scheme, such as https://"),
    "URL without a host": (lambda: Download("https:///file"), ValueError, "malformed URL: no host"),
    "URL with a bad port": (lambda: Download("https://host:http/"), ValueError, "host or port cannot be read"),
    "URL with a line break": (lambda: Download("https://host/\r\nX: y"), ValueError, "control characters"),
    "URL with NUL": (lambda: Download("ftp://host/\0"), ValueError, "control characters"),
    "URL with a blank before": (lambda: Download(" https://host/"), ValueError, "blanks around it"),
    "empty URL": (lambda: Download(""), ValueError, "malformed URL"),
    "URL that is None": (lambda: Download(None), TypeError, "a URL is a str, not NoneType"),  # type: ignore[arg-type]
    "URL as bytes": (lambda: Download(b"https://host/"), TypeError, "a URL is a str, not bytes"),  # type: ignore[arg-type]
    "path as a writer": (
        lambda: Download(URL, "file"),  # type: ignore[arg-type]
        TypeError,
        r"writer=… takes a Writer, such as FileWriter\(path\); not 'file'",
    ),
    "class as a writer": (lambda: Download(URL, BufferWriter), TypeError, "writer=… takes a Writer"),  # type: ignore[arg-type]
    "unknown digest algorithm": (
        lambda: Download(URL, digests=["sha257"]), ValueError, r"unknown digest algorithm 'sha257' \(known: .*sha256"
    ),
    "digest of any length": (lambda: Download(URL, digests=["shake_128"]), ValueError, "unknown digest algorithm"),
    "digest of the wrong length": (
        lambda: Download(URL, digests={"sha256": "abcd"}),
        ValueError,
        "a sha256 digest has 64 hexadecimal digits, not 4",
    ),
    "digest that is not hexadecimal": (
        lambda: DigestValidation("md5", "x" * 32), ValueError, "a md5 digest has hexadecimal digits only"
    ),
    "digest as bytes": (lambda: DigestValidation("md5", b"ab"), TypeError, "hexadecimal digits in a str, not bytes"),  # type: ignore[arg-type]
    "digest that is None": (lambda: Download(URL, digests={"md5": None}), TypeError, "hexadecimal digits in a str"),  # type: ignore[dict-item]
    "algorithm that is no name": (lambda: Download(URL, digests=[256]), TypeError, "named by a str, not int"),  # type: ignore[list-item]
    "digests as one str": (lambda: Download(URL, digests="md5"), TypeError, r"digests=… takes several: \['md5'\]"),
    "digests that are None": (lambda: Download(URL, digests=None), TypeError, "digests=… takes several"),  # type: ignore[arg-type]
    "negative size": (lambda: SizeValidation(-1), ValueError, "takes a number of bytes, from 0; not -1"),
    "size as a float": (lambda: SizeValidation(1.0), TypeError, "takes a number of bytes, not 1.0"),  # type: ignore[arg-type]
    "size that is true": (lambda: SizeValidation(True), TypeError, "takes a number of bytes, not True"),
    "a single validation": (
        lambda: Download(URL, validations=SizeValidation(1)),  # type: ignore[arg-type]
        TypeError,
        "validations=… takes several, such as a list; not a single SizeValidation",
    ),
    "no validation": (lambda: Download(URL, validations=["md5"]), TypeError, "takes Validation objects; not 'md5'"),  # type: ignore[list-item]
    "no Version": (lambda: Download(URL, unless='"etag"'), TypeError, "unless=… takes a Version"),  # type: ignore[arg-type]
    "no context": (lambda: Download(URL, context="default"), TypeError, "context=… takes a Context"),  # type: ignore[arg-type]
    "misspelt setting": (lambda: Download(URL, timout=Timeout()), TypeError, "'timout'"),  # type: ignore[call-arg]
    "number as a time-out": (lambda: Download(URL, timeout=30), TypeError, "timeout=… takes Timeout, not int"),  # type: ignore[arg-type]
    "time-out of 0": (lambda: Timeout(read=0), ValueError, r"Timeout\(read=…\) is a positive number of seconds"),
    "negative retries": (lambda: Download(URL, retries=-1), ValueError, "retries=… counts rounds after the first"),
    "negative max_size": (lambda: Settings(max_size=-1), ValueError, "max_size=… is a number of bytes, from 0"),
    "header with a line break": (lambda: Settings(headers={"A": "b\r\nC: d"}), ValueError, "A holds a line break"),
    "hold_back of 0": (lambda: Download(URL).stream(hold_back=0), ValueError, "hold_back=… is a number of bytes"),
    "concurrency of 0": (lambda: Batch([], concurrency=0), ValueError, "concurrency=… is a number from 1, not 0"),
    "backlog of 0": (lambda: Batch([], backlog=0), ValueError, "backlog=… is a number from 1, not 0"),
    "batch of a str": (lambda: Batch("https://host/"), TypeError, "a Batch takes an iterable of Downloads"),  # type: ignore[arg-type]
    "batch of one download": (lambda: Batch(Download(URL)), TypeError, "a Batch takes an iterable of Downloads"),  # type: ignore[arg-type]
    "plugin without hooks": (lambda: Context(plugins=[Plugin()]), PluginError, "none of its methods carries @hookimpl"),
    "plugin that is none": (lambda: Context(plugins=[object()]), PluginError, "object is no plugin"),
    "plugin as a class": (lambda: Download(URL, plugins=[Retries]), PluginError, r"Retries is a class.*Retries\(…\)"),
    "a single plugin": (lambda: Context(plugins=Retries()), TypeError, "plugins=… takes several"),  # type: ignore[arg-type]
    "plugin that is not installed": (lambda: Context(plugins=["nope"]), PluginError, r"no plugin 'nope' \(installed: "),
    "negative delay": (lambda: Retries(base=-1), ValueError, "Retries takes numbers of seconds, from 0"),
    "file name that is None": (lambda: FileWriter(None), TypeError, "os.PathLike|str"),  # type: ignore[arg-type]
    "password that is None": (lambda: User("elmer", None), TypeError, "takes two str"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_refused_at_once(what: str) -> None:
    """What cannot be meant is refused where it is written, not when it is run."""
    make, kind, message = WRONG[what]
    with pytest.raises(kind, match=message) as raised:
        make()
    assert type(raised.value).__module__ in {"builtins", "downhaul._errors"}


@pytest.mark.parametrize("form", FORMS)
def test_unknown_scheme(form: str, context: Context, tmp_path: Path) -> None:
    """A scheme without a driver is refused before anything is written, the installed ones are listed."""
    with pytest.raises(UnsupportedScheme, match=r"no driver for 'gopher' \(installed: .*mem") as raised:
        run(form, Download(f"gopher://elmer:{SECRET}@host/?t={SECRET}", FileWriter(tmp_path / "x"), context=context))
    assert SECRET not in repr(raised.value)
    assert raised.value.url == f"gopher://host/?t={SECRET}"
    assert names(tmp_path) == []
    [plan] = plans_of(form, [Download("gopher://host/", BufferWriter())], context=context)
    assert isinstance(plan.error, UnsupportedScheme)
    with pytest.raises(UnsupportedScheme):
        read(form, Download("gopher://host/", context=context))


def targets(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Return paths that no file can be written to, and what is said about each."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "plain").write_text("")
    os.mkfifo(tmp_path / "pipe")
    return {
        "directory": (tmp_path / "directory", "it is a directory"),
        "no parent": (tmp_path / "none" / "file", "there is no directory .*create it first"),
        "parent is a file": (tmp_path / "plain" / "file", "."),
        "pipe": (tmp_path / "pipe", "it is neither a file nor a link"),
        "too long": (tmp_path / ("x" * 300), "too long"),
        "empty": (tmp_path / "", "it is a directory"),
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", ["directory", "no parent", "parent is a file", "pipe", "too long", "empty"])
def test_unwritable_targets(form: str, what: str, context: Context, driver: MemDriver, tmp_path: Path) -> None:
    """A target that cannot be written is a WriteError that names it, before anybody is asked; nothing is created."""
    path, message = targets(tmp_path)[what]
    before = names(tmp_path)
    for work in (run, read):
        with pytest.raises(WriteError, match=message) as raised:
            work(form, Download(URL, FileWriter(path), context=context, retries=3))
        assert str(path) in str(raised.value)
        assert raised.value.errno
    assert driver.log == []
    assert names(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("form", FORMS)
def test_no_permission(form: str, context: Context, driver: MemDriver, tmp_path: Path) -> None:
    """A directory without permission to write is told before anybody is asked."""
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="no permission to write in"):
        run(form, Download(URL, FileWriter(tmp_path / "file"), context=context))
    assert driver.log == []


@pytest.mark.parametrize("form", FORMS)
def test_no_permission_is_found_out(
    form: str, context: Context, driver: MemDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for root, who may write anywhere: asked whether it may, the system says no."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(WriteError, match="no permission to write in"):
        run(form, Download(URL, FileWriter(tmp_path / "file"), context=context))
    assert driver.log == []


def test_the_function_refuses_too(driver: MemDriver, context: Context, tmp_path: Path) -> None:
    """`downhaul.download` refuses the same things."""
    with pytest.raises(WriteError):
        downhaul.download(URL, tmp_path, context=context)
    with pytest.raises(ValueError, match="malformed URL"):
        downhaul.download("host/file", tmp_path / "file", context=context)
    with pytest.raises(ValueError, match="unknown digest algorithm"):
        downhaul.download(URL, tmp_path / "file", digests=["sha257"], context=context)
    assert (driver.log, names(tmp_path)) == ([], [])


class Wrong(Plugin):
    """A plugin whose hooks do what the test wants."""

    def __init__(self, hook: str, act: Callable[[], Any]) -> None:
        self.hook, self.act = hook, act

    async def do(self, hook: str) -> Any:
        if hook != self.hook:
            return None
        answer = self.act()
        return await answer if asyncio.iscoroutine(answer) else answer

    @hookimpl
    async def prepare(self, transfer: Transfer) -> Any:
        return await self.do("prepare")

    @hookimpl(tryfirst=True)
    def fetch(self, transfer: Transfer) -> Any:
        if self.hook == "fetch":
            return self.act()
        return self.answer() if self.hook == "open" else None

    @asynccontextmanager
    async def answer(self) -> Any:
        yield await self.do("open")

    @hookimpl
    async def validate(self, transfer: Transfer) -> Any:
        return await self.do("validate")

    @hookimpl(tryfirst=True)
    async def error(self, transfer: Transfer, error: DownloadError) -> Any:
        return await self.do("error")


def fail() -> None:
    """Raise what names a URL with secrets."""
    raise KeyError(f"https://elmer:{SECRET}@host/?key={SECRET}")


HOOKS = ["prepare", "fetch", "open", "validate", "error"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("hook", HOOKS)
def test_hook_that_raises(form: str, hook: str, context: Context, driver: MemDriver, tmp_path: Path) -> None:
    """A hook that raises is a PluginError that names plugin and hook, terminal, and shows no secret."""
    url = "mem://home/gone" if hook == "error" else URL
    download = Download(url, FileWriter(tmp_path / "x"), context=context, plugins=[Wrong(hook, fail)], retries=3)
    with pytest.raises(
        PluginError, match=rf"Wrong\.{'fetch' if hook == 'open' else hook} failed: KeyError: "
    ) as raised:
        run(form, download)
    assert SECRET not in str(raised.value)
    assert SECRET not in str(raised.value.__notes__)
    assert names(tmp_path) == []
    assert len(driver.log) <= 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("hook", "answer", "message"),
    [
        ("prepare", "yes", r"Wrong\.prepare returned 'yes'; it must return None"),
        ("validate", True, r"Wrong\.validate returned True; it must return None"),
        ("error", True, r"Wrong\.error returned True, neither a Retry nor None"),
        ("error", 5, r"Wrong\.error returned 5, neither a Retry nor None"),
        ("fetch", "bytes", r"Wrong\.fetch returned 'bytes', which is no async context manager"),
        ("fetch", open, r"Wrong\.fetch returned .*, which is no async context manager"),
        ("open", b"bytes", "b'bytes', which is no Payload"),
        ("open", None, "None, which is no Payload"),
    ],
)
def test_hook_that_returns_the_wrong_thing(
    form: str, hook: str, answer: Any, message: str, context: Context, tmp_path: Path
) -> None:
    """A hook that returns what it must not is a PluginError that shows it."""
    url = "mem://home/gone" if hook == "error" else URL
    download = Download(url, FileWriter(tmp_path / "x"), context=context, plugins=[Wrong(hook, lambda: answer)])
    with pytest.raises(PluginError, match=message):
        run(form, download)
    assert names(tmp_path) == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("hook", ["prepare", "open", "validate", "error"])
def test_hook_that_never_returns(form: str, hook: str, context: Context, driver: MemDriver, tmp_path: Path) -> None:
    """A hook that never returns is bounded by ``Timeout(total=…)``, and leaves nothing behind."""
    url = "mem://home/gone" if hook == "error" else URL
    download = Download(
        url, FileWriter(tmp_path / "x"), context=context, plugins=[Wrong(hook, lambda: asyncio.Event().wait())],
        timeout=Timeout(total=0.05), attachment=7,
    )  # fmt: skip
    with pytest.raises(TimeoutExceeded, match=r"the download took longer than 0\.05 s in total") as raised:
        run(form, download)
    assert (raised.value.phase, raised.value.url, raised.value.attachment) == ("total", url, 7)
    with pytest.raises(TimeoutExceeded):
        read(form, download)
    assert (driver.live, context.connections_in_use, names(tmp_path)) == (0, 0, [])


@pytest.mark.parametrize("form", FORMS)
def test_source_that_never_answers(form: str, context: Context, driver: MemDriver, tmp_path: Path) -> None:
    """So is a driver that never answers, and one that stops in the middle."""
    for where in ("open", "body"):
        driver.site(URL, Reply(bytes(3 << 20), hang=where))
        with pytest.raises(TimeoutExceeded):
            run(form, Download(URL, FileWriter(tmp_path / "x"), context=context, timeout=Timeout(total=0.2)))
        assert (driver.live, context.connections_in_use, names(tmp_path)) == (0, 0, [])


class ClientLibraryError(Exception):
    """What a client library raises."""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "error", [ClientLibraryError(f"https://host/?key={SECRET}"), OSError(5, "I/O error"), TimeoutError(), EOFError()]
)
def test_no_exception_of_a_client_library(form: str, error: Exception, context: Context, driver: MemDriver) -> None:
    """What a driver lets escape by mistake comes out as an error of the tree, as text and not as a cause."""
    driver.site(URL, Reply(b"x", error=error))
    for work in (run, read):
        with pytest.raises(DownloadError, match=rf"MemDriver.*failed: {type(error).__name__}") as raised:
            work(form, Download(URL, BufferWriter(), context=context, retries=3))
        assert raised.value.__cause__ is None
        assert raised.value.__context__ is None
        assert SECRET not in str(raised.value)


@pytest.mark.parametrize("form", FORMS)
def test_mirror_that_is_no_url(form: str, context: Context, driver: MemDriver) -> None:
    """A plugin that aims at nonsense is told so; its nonsense is not asked for."""

    class Aims(Plugin):
        def __init__(self, url: Any) -> None:
            self.url = url

        @hookimpl
        async def prepare(self, transfer: Transfer) -> None:
            transfer.request = replace(transfer.request, url=self.url)

    for url in ("nowhere", "https://host:port/", "mem://home/\r\n", "", "gopher://host/", None):
        with pytest.raises(DownloadError):
            run(form, Download(URL, BufferWriter(), context=context, plugins=[Aims(url)]))
    assert driver.log == []


def test_file_name_with_nul(context: Context, driver: MemDriver) -> None:
    """A path that the system cannot even be asked about is an error of ours too."""
    with pytest.raises((ValueError, DownloadError)):
        Download(URL, FileWriter("a\0b"), context=context)()
    assert driver.log == []
