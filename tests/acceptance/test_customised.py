"""Downloads made to one's own liking: a subclass and what it is good for, and plugins that the old pages asked for."""

from __future__ import annotations

import asyncio
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.files import counted_files
from tests.acceptance.mirror_delegate import MirrorDelegate, MirroredDownload
from tests.acceptance.mirrors import mirrored_files
from tests.acceptance.use_cases import importer
from tests.core.forms import FORMS, plans_of, read, run, wait_until
from tests.plugins.examples.cache import Cache
from tests.servers.http import head, http_server

from downhaul import BufferWriter, Context, Download, FileWriter, NotFound, Plugin, Result, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.acceptance.files import Files
    from tests.acceptance.mirrors import Mirrored
    from tests.servers.http import Exchange

    from downhaul import DownloadError, Transfer

in_both_forms = pytest.mark.parametrize(
    "form",
    [pytest.param(form, marks=importer(10, mark)) for form, mark in zip(FORMS, ("sync", "asyncio"), strict=True)],
)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirrored]:
    """Files at three mirrors, of which the last is good."""
    with mirrored_files(tmp_path_factory.mktemp("mirrors"), 3) as mirrored:
        yield mirrored


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    """Files of a real server."""
    with counted_files(tmp_path_factory.mktemp("files"), 10) as files:
        yield files


class OurDownload(MirroredDownload):
    """Set by `kind`, below, to a server of the test; at the top of a module, so that it can be pickled."""


@pytest.fixture
def kind(mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch) -> type[MirroredDownload]:
    """A subclass that brings the delegate."""
    delegate = MirrorDelegate(mirrored.list_url, mirrored.prefix)
    monkeypatch.setattr(OurDownload, "remote", delegate, raising=False)
    return OurDownload


@in_both_forms
def test_a_subclass_is_a_download(form: str, kind: type[Download], mirrored: Mirrored) -> None:
    """A subclass that brings a plugin is run, streamed, cloned, pickled and put in a batch like any other download."""
    first, second, _ = mirrored.digests
    writer, url = BufferWriter(), mirrored.prefix + second
    download = kind(mirrored.prefix + first, writer, digests=mirrored.digests[first], attachment=1)
    other = download.clone(url=url, writer=BufferWriter(), digests=mirrored.digests[second], attachment=2)
    travelled = pickle.loads(pickle.dumps(other))
    assert {type(each) for each in (download, other, travelled)} == {kind}
    with Context() as context:
        for each in (download, other, travelled):
            each.context = context
        results = [run(form, download), *(plan.result() for plan in plans_of(form, [other, travelled]))]
        streamed = read(form, download.clone(writer=None))
    right = mirrored.mirrors[-1]
    assert [(each.attachment, each.source) for each in results] == [
        (1, right + first), (2, right + second), (2, right + second),
    ]  # fmt: skip
    assert streamed == writer.content()


@in_both_forms
def test_a_context_makes_downloads_of_a_kind(form: str, kind: type[Download], mirrored: Mirrored) -> None:
    """A subclass of `Context` says by `download_type` what its `download()` makes; the list itself is a plain one."""

    class OurContext(Context):
        download_type = kind

    class Seen(Plugin):
        kinds: dict[str, type] = {}

        @hookimpl
        def done(self, transfer: Transfer) -> None:
            self.kinds[transfer.url] = type(transfer.download)

    name = next(iter(mirrored.digests))
    with OurContext(plugins=[Seen()], retries=0) as context:
        download = context.download(mirrored.prefix + name, BufferWriter(), digests=mirrored.digests[name])
        assert run(form, download).source == mirrored.mirrors[-1] + name
    assert Seen.kinds == {mirrored.prefix + name: kind, mirrored.list_url: Download}


def test_what_runs_is_not_overridden(files: Files) -> None:
    """A batch does not ask `run()` of a subclass: what is to happen in a run is a plugin's, wherever it is run."""

    class Shy(Download):
        async def run(self) -> Result:
            raise AssertionError("not asked")

    with Context() as context:
        jobs = [Shy(url, BufferWriter(), context=context) for _, url, _ in files.rows[:3]]
        assert len([plan.result() for plan in plans_of("sync", jobs)]) == 3


@in_both_forms
def test_headers_of_each_download(form: str) -> None:
    """Downloads of one context each send header fields of their own, and none of another's."""

    async def echo(exchange: Exchange) -> None:
        await exchange.respond(200, (exchange.header("X-Job") or "").encode())

    with http_server(echo) as server, Context(connections=3, headers={"X-Job": "of the context"}) as context:
        writers = [BufferWriter() for _ in range(30)]
        jobs = [
            Download(server.url(f"/{number}"), writer, headers={"X-Job": f"job {number}"} if number else None)
            for number, writer in enumerate(writers)
        ]
        for plan in plans_of(form, jobs, context=context):
            plan.result()
    assert [writer.content() for writer in writers] == [
        b"of the context", *(f"job {number}".encode() for number in range(1, 30)),
    ]  # fmt: skip


class Sidecar(Plugin):
    """Writes the digest beside each file that was published."""

    @hookimpl
    def done(self, transfer: Transfer, outcome: Result | DownloadError | None) -> None:
        if isinstance(outcome, Result):
            path = outcome.path
            path.with_suffix(".sha256").write_text(f"{outcome.digests['sha256']}  {path.name}\n")


@in_both_forms
def test_post_processing(form: str, files: Files, tmp_path: Path) -> None:
    """What is to be done with each file stands in `done`: it is there by then, and a failure is told as one."""
    with Context(plugins=[Sidecar()], retries=0) as context:
        jobs = [
            Download(url, FileWriter(tmp_path / name), digests=["sha256"])
            for name, url in [*((name, url) for name, url, _ in files.rows), ("gone", files.server.url("/gone"))]
        ]
        errors = [plan.error for plan in plans_of(form, jobs, context=context) if plan.error]
    assert [type(error) for error in errors] == [NotFound]
    assert {path.name: path.read_text().split() for path in tmp_path.glob("*.sha256")} == {
        f"{name}.sha256": [digests["sha256"], name] for name, _, digests in files.rows
    }


@dataclass(frozen=True, eq=False)
class Bar(Plugin):
    """Knows the downloads under way; whoever draws asks how far they are, from whatever thread, whenever it likes."""

    under_way: dict[str, Transfer] = field(default_factory=dict)

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        self.under_way[transfer.download.url] = transfer

    @hookimpl
    def done(self, transfer: Transfer) -> None:
        del self.under_way[transfer.download.url]

    def __str__(self) -> str:
        return " ".join(
            f"{transfer.received * 100 // transfer.payload.info.size}%"
            for transfer in list(self.under_way.values())
            if transfer.payload is not None and transfer.payload.info.size
        )


@in_both_forms
def test_a_progress_bar(form: str) -> None:
    """`transfer.received` tells how far a download is, while it runs, to another thread."""
    go_on, bar = threading.Event(), Bar()

    async def halves(exchange: Exchange) -> None:
        await exchange.send(head(200, [("Content-Length", "2000")]), bytes(1000))
        await asyncio.to_thread(go_on.wait, 60)
        await exchange.send(bytes(1000))

    with http_server(halves) as server, Context(plugins=[bar]) as context, ThreadPoolExecutor() as pool:
        job = pool.submit(run, form, Download(server.url(), BufferWriter(), context=context))
        try:
            wait_until(lambda: str(bar) == "50%")
        finally:
            go_on.set()
        assert job.result(60).size == 2000
    assert str(bar) == ""


@in_both_forms
def test_a_cache(form: str, files: Files) -> None:
    """A cache as a plugin answers for what was fetched before, in the same context; the server is not asked again."""
    files.log.write_bytes(b"")
    with Context(plugins=[Cache()]) as context:
        for _ in range(3):
            jobs = [Download(url, BufferWriter(), digests=digests, context=context) for _, url, digests in files.rows]
            assert all(plan.result().size for plan in plans_of(form, jobs))
    files.check_connections(most=10, requests=len(files.rows))
