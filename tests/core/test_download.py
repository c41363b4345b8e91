"""One job: how it is described, run, cloned, and moved to another context."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tests.core.forms import FORMS, read, run
from tests.mem import MemDriver, Reply

import downhaul
from downhaul import (
    TLS,
    BufferWriter,
    Context,
    DigestMismatch,
    DigestValidation,
    Download,
    DownloadError,
    FileWriter,
    NotFound,
    Plugin,
    Result,
    Settings,
    SizeValidation,
    Timeout,
    UnsupportedScheme,
    User,
    Version,
    hookimpl,
)
from downhaul.plugins import MirrorList

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from downhaul import Transfer

URL = "mem://home/file"
DATA = b"the bytes of the file"
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def driver() -> MemDriver:
    """A driver with one file."""
    driver = MemDriver()
    driver.site(URL, Reply(DATA))
    return driver


@pytest.fixture
def context(driver: MemDriver) -> Iterator[Context]:
    """A context that asks it."""
    with Context(drivers={"mem": driver}) as context:
        yield context


@dataclass(frozen=True)
class Note(Plugin):
    """Writes down that it was asked."""

    name: str
    notes: Any = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Note) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        self.notes.append(self.name)


@pytest.mark.parametrize("form", FORMS)
def test_both_forms(form: str, context: Context) -> None:
    """`download()` and `await download.run()` do the same, and a description may be run again and again."""
    writer = BufferWriter()
    download = Download(URL, writer, context=context, digests=["sha256"], attachment=7)
    for _ in range(2):
        result = run(form, download)
        assert isinstance(result, Result)
        assert (result.url, result.size, result.digests["sha256"], result.attachment) == (URL, len(DATA), SHA256, 7)
        assert writer.content() == DATA


@pytest.mark.parametrize("form", FORMS)
def test_attachment_is_echoed_in_errors(form: str, context: Context) -> None:
    """The attachment comes back in errors too, the very object."""
    attachment = object()
    with pytest.raises(NotFound) as raised:
        run(form, Download("mem://home/gone", BufferWriter(), context=context, attachment=attachment, retries=0))
    assert raised.value.attachment is attachment
    assert raised.value.url == "mem://home/gone"


async def test_call_in_a_running_loop(context: Context, driver: MemDriver) -> None:
    """Calling a download inside a running loop is a RuntimeError that says to await run()."""
    with pytest.raises(RuntimeError, match=r"an event loop runs in this thread.*`await download\.run\(\)`"):
        Download(URL, BufferWriter(), context=context)()
    with pytest.raises(RuntimeError, match="async with"), Download(URL, context=context).stream():
        pass
    assert driver.log == []


async def test_run_on_any_loop(context: Context, driver: MemDriver) -> None:
    """`run()` is bridged from another loop to the context's own: the work is done in its thread."""
    here = threading.get_ident()
    threads: list[int] = []

    class Where(Plugin):
        @hookimpl
        async def prepare(self, transfer: Transfer) -> None:
            threads.append(threading.get_ident())

    download = Download(URL, BufferWriter(), context=context, plugins=[Where()])
    assert (await download.run()).size == len(DATA)
    assert (await asyncio.to_thread(download)).size == len(DATA)
    assert (await asyncio.to_thread(asyncio.run, download.run())).size == len(DATA)
    assert len(set(threads)) == 1
    assert here not in threads


async def test_run_in_a_context_of_the_loop(driver: MemDriver) -> None:
    """In a context that was entered with `async with` the work is done on the running loop."""
    here = threading.get_ident()
    async with Context(drivers={"mem": driver}) as context:
        threads: list[int] = []

        class Where(Plugin):
            @hookimpl
            async def prepare(self, transfer: Transfer) -> None:
                threads.append(threading.get_ident())

        download = Download(URL, BufferWriter(), context=context, plugins=[Where()])
        await download.run()
        assert threads == [here]
        assert (await asyncio.to_thread(download)).size == len(DATA)
        assert threads == [here, here]


async def test_cancelling_goes_over_a_bridge_and_waits(context: Context, driver: MemDriver) -> None:
    """Cancelling `run()` cancels the work on the other loop, and comes back when it has cleaned up."""
    driver.site(URL, Reply(DATA, hang="body"))
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Begun(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer: Transfer) -> Any:
            loop.call_soon_threadsafe(begun.set)
            return (yield)

    task = asyncio.create_task(Download(URL, BufferWriter(), context=context, plugins=[Begun()]).run())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (driver.live, context.connections_in_use) == (0, 0)


@pytest.mark.parametrize("form", FORMS)
def test_no_writer(form: str, context: Context, driver: MemDriver) -> None:
    """A download without a writer can only be streamed, and says so."""
    download = Download(URL, context=context)
    with pytest.raises(ValueError, match=r"this download has no writer: give it one, or enter its stream\(\)"):
        run(form, download)
    assert driver.log == []
    assert read(form, download) == DATA


@pytest.mark.parametrize("form", FORMS)
def test_stream_with_a_writer_tees(form: str, context: Context, tmp_path: Path) -> None:
    """With a writer, a stream hands the bytes on and publishes them."""
    assert read(form, Download(URL, FileWriter(tmp_path / "file"), context=context)) == DATA
    assert (tmp_path / "file").read_bytes() == DATA


@pytest.mark.parametrize("form", FORMS)
def test_unless(form: str, context: Context, driver: MemDriver, tmp_path: Path) -> None:
    """`unless` asks for nothing if the file still has that version: the result says so, and no file appears."""
    writer = FileWriter(tmp_path / "file")
    first = run(form, Download(URL, writer, context=context))
    (tmp_path / "file").unlink()
    again = run(form, Download(URL, writer, context=context, unless=first.version, attachment=7))
    assert again.not_modified
    assert (again.size, again.digests, again.attachment, again.version) == (0, {}, 7, first.version)
    assert driver.log[-1].request.unless == first.version
    assert list(tmp_path.iterdir()) == []
    changed = run(form, Download(URL, writer, context=context, unless=Version('"other"')))
    assert not changed.not_modified
    assert (tmp_path / "file").read_bytes() == DATA


def test_digests_given_are_validated(context: Context) -> None:
    """Digests that are given are validated, digests only named are calculated; any spelling of a name will do."""
    result = Download(URL, BufferWriter(), context=context, digests=["SHA-256", "md5"])()
    assert dict(result.digests) == {"sha256": SHA256, "md5": hashlib.md5(DATA).hexdigest()}
    result = Download(URL, BufferWriter(), context=context, digests={"SHA256": SHA256.upper()})()
    assert result.artifact_attributes == {"size": len(DATA), "sha256": SHA256}
    with pytest.raises(DigestMismatch):
        Download(URL, BufferWriter(), context=context, digests={"sha256": "0" * 64}, retries=0)()


def test_the_function(driver: MemDriver, context: Context, tmp_path: Path) -> None:
    """`downhaul.download` is the shortest thing that works; it takes what a Download takes."""
    path = tmp_path / "file"
    result = downhaul.download(URL, path, digests={"sha256": SHA256}, context=context, attachment=7)
    assert path.read_bytes() == DATA
    assert (result.path, result.digests, result.attachment) == (path, {"sha256": SHA256}, 7)
    result = downhaul.download(URL, str(path), digests=["md5"], context=context)
    assert list(result.digests) == ["md5"]
    with pytest.raises(DigestMismatch):
        downhaul.download(URL, path, digests={"sha256": "0" * 64}, context=context, retries=0)


def test_clone_changes_what_is_said(context: Context) -> None:
    """A clone is like its original in all but what is changed, and the original stays as it is."""
    download = Download(
        URL, BufferWriter(), context=context, retries=1, attachment=7, digests=["md5"], plugins=[MirrorList()],
        validations=[SizeValidation(3)], unless=Version('"a"'),
    )  # fmt: skip
    other = download.clone(url="mem://home/other", attachment=8)
    assert (other.url, other.attachment, download.url, download.attachment) == ("mem://home/other", 8, URL, 7)
    for name in ("writer", "context", "settings", "digests", "plugins", "validations", "unless"):
        assert getattr(other, name) == getattr(download, name)
    assert type(other) is Download


def test_clone_is_checked(context: Context) -> None:
    """What is changed in a clone is checked as in a new download, and means the same."""
    download = Download(URL, BufferWriter(), context=context, retries=0)
    wrong = {"digests": {"sha256": "0" * 64}}
    with pytest.raises(DigestMismatch):
        download.clone(**wrong)()
    assert "sha256" in download.clone(digests=["SHA-256"])().digests
    assert download.clone(timeout=Timeout(total=5)).settings == Settings(retries=0, timeout=Timeout(total=5))
    for changes, error in [
        ({"url": "nowhere"}, ValueError),
        ({"writer": "file"}, TypeError),
        ({"plugins": [object()]}, DownloadError),
        ({"validations": ["sha256"]}, TypeError),
        ({"context": "here"}, TypeError),
        ({"colour": "red"}, TypeError),
    ]:
        with pytest.raises(error):
            download.clone(**changes)


def test_clone_of_a_subclass() -> None:
    """A clone of somebody's own kind of download is one too, with its attributes."""

    class Numbered(Download):
        def __init__(self, number: int) -> None:
            super().__init__(f"mem://home/{number}")
            self.number = number

    other = Numbered(7).clone(attachment="x")
    assert (type(other), other.number, other.url, other.attachment) == (Numbered, 7, "mem://home/7", "x")


def test_context_download_fails_at_once(context: Context) -> None:
    """`Context.download` fails at once for a scheme that nobody announces, and lists those that are."""
    with pytest.raises(UnsupportedScheme, match=r"no driver for 'gopher' \(installed: .*mem") as raised:
        context.download("gopher://elmer:secret@host/")
    assert raised.value.url == "gopher://host/"
    Download("gopher://host/", BufferWriter(), context=context)  # says nothing until it is run


REMOTE = Settings(
    retries=0, user=User("elmer", "x"), tls=TLS("ca.pem"), proxy="http://remote", headers={"X-Key": "k"},
    timeout=Timeout(1), max_size=1000,
)  # fmt: skip
LOCAL = Settings(
    retries=9, user=User("other", "y"), tls=TLS("b.pem"), proxy="http://local", headers={"X-Key": "l"},
    timeout=Timeout(9), max_size=9, require_proof=True,
)  # fmt: skip


def test_context_download_carries_settings_and_plugins(driver: MemDriver, context: Context) -> None:
    """What `Context.download` makes carries that context's settings and plugins; what is said for it alone wins."""
    notes: list[str] = []
    remote = Context(drivers={"mem": driver}, settings=REMOTE, plugins=[Note("remote", notes)])
    download = remote.download(URL, BufferWriter(), retries=5, plugins=[Note("own", notes)])
    assert download.settings == Settings(retries=5).filled(REMOTE)
    assert download.plugins == (Note("own"), Note("remote"))
    assert download.context is remote
    remote.close()


@pytest.mark.parametrize("form", FORMS)
def test_assigning_a_context_replaces_resources_only(form: str, driver: MemDriver) -> None:
    """Assigning `download.context` never replaces what the download carries: settings, headers, user, TLS, plugins."""
    notes: list[str] = []
    other = MemDriver()
    other.site(URL, Reply(DATA))
    with (
        Context(drivers={"mem": driver}, settings=REMOTE, plugins=[Note("remote", notes)]) as remote,
        Context(drivers={"mem": other}, settings=LOCAL, plugins=[Note("local", notes)]) as local,
    ):
        download = remote.download(URL, BufferWriter())
        download.context = local
        run(form, download)
        assert driver.log == []
        [asked] = other.log
        assert asked.header("X-Key") == "k"
        assert asked.request.credentials is not None
        assert asked.request.credentials.user == REMOTE.user
        assert (asked.settings.tls, asked.settings.proxy, asked.settings.timeout) == (
            REMOTE.tls,
            REMOTE.proxy,
            Timeout(1),
        )
        assert (asked.settings.retries, asked.settings.max_size) == (0, 1000)
        assert asked.settings.require_proof is True
        assert notes == ["remote", "local"]


def test_mirrors_survive_another_context(driver: MemDriver) -> None:
    """The importer's mirror list is used by the streamer's context, and fetched through its resources."""
    other = MemDriver()
    other.site("mem://home/list", Reply(b"mem://mirror/pub/\n"))
    other.site("mem://mirror/pub/file", Reply(DATA))
    with (
        Context(drivers={"mem": driver}, plugins=[MirrorList("mem://home/list", replaces="mem://home/pub/")]) as remote,
        Context(drivers={"mem": other}) as local,
    ):
        download = remote.download("mem://home/pub/file")
        download.context = local
        with download.stream() as stream:
            assert b"".join(stream) == DATA
    assert (driver.urls, other.urls) == ([], ["mem://home/list", "mem://mirror/pub/file"])


def test_running_in_a_context_adds_its_plugins_once(driver: MemDriver) -> None:
    """Running in a context adds its plugins behind the download's; an equal one counts once."""
    notes: list[str] = []
    with Context(drivers={"mem": driver}, plugins=[Note("b", notes), Note("c", notes)]) as context:
        Download(URL, BufferWriter(), context=context, plugins=[Note("a", notes), Note("c", notes)])()
        assert notes == ["a", "c", "b"]
        notes.clear()
        context.download(URL, BufferWriter(), plugins=[Note("a", notes)])()
        assert notes == ["a", "b", "c"]


def test_running_in_a_context_fills_settings(driver: MemDriver) -> None:
    """A plain Download carries only its own settings; the context fills what is unset, and a default the rest."""
    with Context(drivers={"mem": driver}, retries=7, headers={"A": "context"}) as context:
        Download(URL, BufferWriter(), context=context, headers={"A": "own"})()
        Download(URL, BufferWriter(), context=context, retries=0)()
    assert [(each.header("A"), each.settings.retries) for each in driver.log] == [("own", 7), ("context", 0)]
    assert driver.log[0].settings.timeout == Timeout()


def test_a_new_context_counts_for_the_next_run_only(driver: MemDriver, context: Context) -> None:
    """What a context added to a run does not stick to the download."""
    notes: list[str] = []
    download = Download(URL, BufferWriter(), context=context)
    with Context(drivers={"mem": driver}, plugins=[Note("x", notes)], headers={"A": "b"}) as other:
        download.context = other
        download()
    download.context = context
    download()
    assert notes == ["x"]
    assert [each.header("A") for each in driver.log] == ["b", None]


def test_repr_has_no_secrets() -> None:
    """The repr of a download shows where from and where to, without userinfo and values of the query."""
    download = Download("mem://elmer:hunter2@home/file?token=sesame", FileWriter("x"), user=User("a", "hunter2"))
    assert repr(download) == "Download('mem://home/file?token=***', FileWriter('x'))"


def test_userinfo_in_the_url_wins_over_user(driver: MemDriver, context: Context) -> None:
    """Userinfo in the URL is the user for it, and not in the URL that is asked for."""
    Download("mem://elmer:word@home/file", BufferWriter(), context=context, user=User("other"))()
    [asked] = driver.log
    assert asked.url == URL
    assert asked.request.credentials is not None
    assert asked.request.credentials.user == User("elmer", "word")


def test_a_finished_download_holds_nothing(driver: MemDriver, context: Context) -> None:
    """When a download has ended, nothing keeps its attachment, neither the context nor an error that was dropped."""

    class Attachment:
        pass

    def alive() -> int:
        gc.collect()
        return sum(type(each) is Attachment for each in gc.get_objects())

    for url in (URL, "mem://home/gone"):
        for _ in range(3):
            with suppress(NotFound):
                Download(url, BufferWriter(), context=context, attachment=Attachment(), retries=0)()
    assert alive() == 0


@pytest.mark.parametrize("form", FORMS)
def test_validation_of_a_clone_for_another_file(form: str, context: Context, driver: MemDriver) -> None:
    """Runs of one description do not disturb each other: digests and checks are made anew each time."""
    download = Download(URL, BufferWriter(), context=context, validations=[DigestValidation("sha256", SHA256)])
    for _ in range(3):
        assert run(form, download).digests == {"sha256": SHA256}
    driver.site(URL, Reply(b"something else"))
    with pytest.raises(DigestMismatch):
        run(form, download.clone(retries=0))
    driver.site(URL, Reply(DATA))
    assert run(form, download).size == len(DATA)
