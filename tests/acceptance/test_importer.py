"""What an importer does with downhaul: each use case in the synchronous form and with asyncio, on real sockets.

A synchronous test runs in a plain thread, without an event loop. What takes more than a page to prove stands in the
files beside this one, under the same marks.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import itertools
import re
import signal
import sys
import threading
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
import trustme
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from tests.acceptance.files import counted_files
from tests.acceptance.leaks import Watch
from tests.acceptance.mirror_delegate import MirrorDelegate, MirroredDownload
from tests.acceptance.mirrors import mirrored_files
from tests.acceptance.remotes import BODY, Authority, site
from tests.acceptance.use_cases import FORMS, IMPORTER, importer
from tests.servers import nginx as real_nginx
from tests.servers import vsftpd as real_vsftpd
from tests.servers.nginx import nginx
from tests.servers.squid import squid
from tests.servers.vsftpd import vsftpd

import downhaul
from downhaul import (
    TLS,
    Batch,
    Block,
    BufferWriter,
    Check,
    Context,
    DigestMismatch,
    DigestValidation,
    Download,
    DownloadError,
    Driver,
    FileWriter,
    Info,
    NotFound,
    Payload,
    Settings,
    SizeValidation,
    Timeout,
    UnsupportedScheme,
    User,
    Validation,
    ValidationError,
)
from downhaul_ftp import FtpOptions
from downhaul_http import HttpDriver, HttpOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.acceptance.files import Files
    from tests.acceptance.mirrors import Mirrored
    from tests.servers.nginx import Nginx

    from downhaul import Plan, Request, Result


@pytest.fixture
def depot(tmp_path) -> Iterator[Nginx]:
    """Nginx with a hundred files of 1,000 bytes, which logs how many connections are open."""
    root = tmp_path / "depot"
    root.mkdir()
    root.chmod(0o755)
    for number in range(100):
        (root / f"file-{number}").write_bytes(b"%03d-" % number * 200)
    log = f"log_format counted '$connections_active'; access_log {tmp_path}/connections.log counted;"
    with real_nginx.nginx(root, http=log) as server:
        yield server


def most_connections(tmp_path: Path) -> int:
    """Return how many connections were open at one time, at most, as `depot` has counted them."""
    return max(map(int, (tmp_path / "connections.log").read_text().split()))


# -- 1. Single files, with every common setting ------------------------------------------------------------------------


@pytest.fixture
def remote(tmp_path):
    """Settings for a site that wants a client certificate, a user and a key, behind a proxy that wants another user."""
    authority = Authority()
    (tmp_path / "ca.pem").write_text(authority.pem)
    certificate, key = authority.identity("importer@example.org")
    keyed = "if ($http_x_api_key != opensesame) { return 403; }"
    tls = authority.ca.issue_cert("localhost")
    with (
        site(tmp_path / "site", tls=tls, client_ca=authority.pem, server=keyed) as origin,
        squid(user=("gate", "gatepass"), tls=tls) as proxy,
    ):
        settings = Settings(
            timeout=Timeout(connect=10, head=20, read=15, total=60),
            user=User("elmer", "secret"),
            tls=TLS(ca_certificate=tmp_path / "ca.pem", client_certificate=certificate, client_key=key, verify=True),
            proxy=proxy.url("gate:gatepass@"),
            no_proxy=[".corp", "10.0.0.0/8"],
            environment=False,
            headers={"X-Api-Key": "opensesame"},
            retries=2,
        )
        yield origin.url("/user/pkg.rpm"), settings
        [visit], [line] = origin.visits(1), proxy.lines(1)
        assert (visit.user, visit.key, visit.proxy_authorization) == ("elmer", "opensesame", "")
        assert (line.method, line.user, line.authorization) == ("CONNECT", "gate", "-")


@importer(1)
def test_one_line(tmp_path) -> None:
    """One line fetches a file."""
    with site(tmp_path / "site") as origin:
        downhaul.download(origin.url("/pkg.rpm"), tmp_path / "pkg.rpm")
    assert (tmp_path / "pkg.rpm").read_bytes() == BODY


@importer(1)
async def test_one_line_with_asyncio(tmp_path) -> None:
    """One line awaits a file."""
    with site(tmp_path / "site") as origin:
        await Download(origin.url("/pkg.rpm"), FileWriter(tmp_path / "pkg.rpm")).run()
    assert (tmp_path / "pkg.rpm").read_bytes() == BODY


@importer(1)
def test_every_setting_at_once(remote, tmp_path) -> None:
    """A file through a proxy with credentials, by TLS with a client certificate, for a user, with a header."""
    url, settings = remote
    with Context() as context:
        result = Download(url, FileWriter(tmp_path / "pkg.rpm"), settings=settings, context=context)()
    assert (tmp_path / "pkg.rpm").read_bytes() == BODY
    assert (result.size, result.attempts) == (len(BODY), 1)


@importer(1)
async def test_every_setting_at_once_with_asyncio(remote, tmp_path) -> None:
    """The same on a running loop."""
    url, settings = remote
    async with Context() as context:
        result = await Download(url, FileWriter(tmp_path / "pkg.rpm"), settings=settings, context=context).run()
    assert (tmp_path / "pkg.rpm").read_bytes() == BODY
    assert (result.size, result.attempts) == (len(BODY), 1)


# -- 2. All settings of the client library, or one's own client --------------------------------------------------------


@dataclass(frozen=True)
class GopherOptions:
    """Options that no driver reads."""


def own_client() -> httpx.AsyncClient:
    """Return a client with a transport, an authentication and an event hook of its own."""

    async def note(response: httpx.Response) -> None:
        response.request.headers["X-Seen"] = "yes"

    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.1", retries=1)
    return httpx.AsyncClient(transport=transport, auth=("elmer", "secret"), event_hooks={"response": [note]})


@importer(2)
def test_options_and_a_client_of_ones_own(tmp_path) -> None:
    """Options are typed, unknown ones are refused by name; a function makes one's own client for the context."""
    with site(tmp_path / "site") as origin:
        options = (HttpOptions(keepalive_expiry=5, local_address="127.0.0.1"), FtpOptions(keep_alive=5))
        with Context(options=options) as context:
            context.download(origin.url("/pkg.rpm"), FileWriter(tmp_path / "first"))()
            with pytest.raises(TypeError, match="GopherOptions"):
                context.download(origin.url("/pkg.rpm"), FileWriter(tmp_path / "none"), options=[GopherOptions()])()
        driver = HttpDriver(client=own_client)
        for _ in range(2):
            with Context(drivers={"http": driver}) as context:
                context.download(origin.url("/user/pkg.rpm"), FileWriter(tmp_path / "second"))()
        assert [visit.user for visit in origin.visits(3)] == ["", "elmer", "elmer"]


@importer(2)
async def test_options_and_a_client_of_ones_own_with_asyncio(tmp_path) -> None:
    """On a running loop one's own client is used and left open: its connection serves on."""
    with site(tmp_path / "site") as origin:
        async with Context(options=[HttpOptions(keepalive_expiry=5)]) as context:
            await context.download(origin.url("/pkg.rpm"), FileWriter(tmp_path / "first")).run()
            with pytest.raises(TypeError, match="GopherOptions"):
                await context.download(
                    origin.url("/pkg.rpm"), FileWriter(tmp_path / "none"), options=[GopherOptions()]
                ).run()
        async with own_client() as client:
            async with Context(drivers={"http": HttpDriver(client=client)}) as context:
                await context.download(origin.url("/user/pkg.rpm"), FileWriter(tmp_path / "second")).run()
            assert (await client.get(origin.url("/user/pkg.rpm"))).content == BODY
        assert [visit.user for visit in origin.visits(3)] == ["", "elmer", "elmer"]
        assert len(origin.carried("user", 3)) == 2


# -- 3. An Artifact from size and digests ------------------------------------------------------------------------------


@pytest.fixture
def django_rows(tmp_path) -> Iterator[type]:
    """Give the models of docs/examples/django-importer a database of the test's own; return what is wanted there."""
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connections
    from django_importer.__main__ import set_up

    if not settings.configured:  # once in a process
        set_up(tmp_path)
    from django_importer.models import RemoteFile

    connections.close_all()
    connections.databases["default"]["NAME"] = tmp_path / "django.sqlite3"
    call_command("migrate", run_syncdb=True, verbosity=0)
    root, target = tmp_path / "root", tmp_path / "target"
    for directory in (root, target):
        directory.mkdir()
    with nginx(root) as server:
        for name in "abc":
            (root / name).write_bytes(name.encode() * 1000)
            RemoteFile.objects.create(url=server.url(f"/{name}"))
        yield RemoteFile
    connections.close_all()


def _wanted(row: Any, target: Path) -> Download:
    return Download(row.url, FileWriter(target / str(row.pk)), digests=["sha256", "sha512"], attachment=row)


def _check_artifacts(model: Any) -> None:
    for row in model.objects.select_related("artifact"):
        content = row.url[-1].encode() * 1000
        assert (row.artifact.size, Path(row.artifact.path).read_bytes()) == (1000, content)
        assert row.artifact.sha256 == hashlib.sha256(content).hexdigest()
        assert row.artifact.sha512 == hashlib.sha512(content).hexdigest()


@importer(3)
def test_an_artifact(django_rows, tmp_path) -> None:
    """Size and digests, calculated on the way, are the fields of a Django model; the queryset is iterated lazily."""
    from django_importer.models import Artifact

    rows = django_rows.objects.iterator(chunk_size=1)
    with Context() as context, Batch((_wanted(row, tmp_path / "target") for row in rows), context=context) as batch:
        for plan in batch():
            result = plan.result()
            artifact = Artifact.objects.create(path=result.path, **result.artifact_attributes)
            django_rows.objects.filter(pk=result.attachment.pk).update(artifact=artifact)
    _check_artifacts(django_rows)


@importer(3)
async def test_an_artifact_with_asyncio(django_rows, tmp_path) -> None:
    """The same on a running loop, by the asynchronous half of Django's ORM."""
    from asgiref.sync import sync_to_async
    from django.db import connections
    from django_importer.models import Artifact

    rows = django_rows.objects.aiterator(chunk_size=1)
    downloads = (_wanted(row, tmp_path / "target") async for row in rows)
    async with Context() as context, Batch(downloads, context=context) as batch:
        async for plan in batch():
            result = plan.result()
            artifact = Artifact(path=result.path, **result.artifact_attributes)
            await artifact.asave()
            await django_rows.objects.filter(pk=result.attachment.pk).aupdate(artifact=artifact)
    await sync_to_async(_check_artifacts)(django_rows)
    await sync_to_async(connections.close_all)()


@importer(3)
def test_an_artifact_of_sqlalchemy(tmp_path) -> None:
    """The same attributes make a row of SQLAlchemy's."""
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session
    from sqlalchemy_importer.models import Artifact, Base

    (tmp_path / "file").write_bytes(b"content")
    engine = create_engine(f"sqlite:///{tmp_path / 'sqlalchemy.sqlite3'}")
    Base.metadata.create_all(engine)
    with nginx(tmp_path) as server, Context() as context, Session(engine) as session:
        writer = FileWriter(tmp_path / "copy")
        result = Download(server.url("/file"), writer, digests=["sha256", "sha512"], context=context)()
        session.add(Artifact(path=str(result.path), **result.artifact_attributes))
        session.commit()
        (artifact,) = session.query(Artifact)
        assert (artifact.size, artifact.sha256) == (7, hashlib.sha256(b"content").hexdigest())
    engine.dispose()


# -- 4. Concurrent downloads from generators ---------------------------------------------------------------------------


@importer(4)
def test_a_generator(depot, tmp_path) -> None:
    """A generator is advanced in the thread that consumes the plans, as far ahead as the backlog says."""
    threads, ahead = set(), deque([0], maxlen=1000)
    consumed = 0

    def jobs() -> Iterator[Download]:
        for number in range(100):
            threads.add(threading.get_ident())
            ahead.append(number + 1 - consumed)
            yield Download(depot.url(f"/file-{number}"), FileWriter(tmp_path / str(number)), attachment=number)

    with Context() as context, Batch(jobs(), concurrency=10, backlog=25, context=context) as batch:
        for plan in batch():
            consumed += 1
            assert plan.result().path.read_bytes() == b"%03d-" % plan.download.attachment * 200
    assert consumed == 100
    assert threads == {threading.get_ident()}
    assert 10 <= max(ahead) <= 25
    assert 1 < most_connections(tmp_path) <= 10


@importer(4)
async def test_an_async_generator(depot, tmp_path) -> None:
    """An async generator runs on the consumer's loop, beside the consumer; a plain one may be given as well."""
    loops = set()

    async def jobs() -> AsyncIterator[Download]:
        for number in range(100):
            await asyncio.sleep(0)  # a query, say
            loops.add(asyncio.get_running_loop())
            yield Download(depot.url(f"/file-{number}"), BufferWriter(), attachment=number)

    async with Context() as context, Batch(jobs(), concurrency=10, backlog=25, context=context) as batch:
        numbers = [plan.result().attachment async for plan in batch()]
    assert sorted(numbers) == list(range(100))
    assert loops == {asyncio.get_running_loop()}
    assert 1 < most_connections(tmp_path) <= 10


# -- 5. Validation -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Magic(Validation):
    """The file begins with *first*; what does not is refused with its first block."""

    first: bytes

    def check(self) -> Check:
        return _Magic(self.first)


class _Magic:
    def __init__(self, first: bytes) -> None:
        self._first, self._head = first, b""

    def update(self, block: Block) -> None:
        if len(self._head) < len(self._first):
            self._head = (self._head + bytes(block))[: len(self._first)]
            if not self._first.startswith(self._head):
                raise ValidationError(f"begins with {self._head!r}, expected {self._first!r}")

    def finish(self) -> None:
        if self._head != self._first:
            raise ValidationError(f"is only {self._head!r}, expected {self._first!r}")


@dataclass(frozen=True)
class Signed(Validation):
    """The file has this Ed25519 *signature* by the owner of *key*."""

    key: Ed25519PublicKey
    signature: bytes

    def check(self) -> Check:
        return _Signed(self)


class _Signed:
    def __init__(self, validation: Signed) -> None:
        self._validation, self._file = validation, bytearray()

    def update(self, block: Block) -> None:
        self._file += block

    def finish(self) -> None:
        try:
            self._validation.key.verify(self._validation.signature, bytes(self._file))
        except InvalidSignature:
            raise ValidationError("the signature is not that of these bytes") from None


@pytest.fixture
def package(tmp_path) -> Iterator[tuple[Download, str]]:
    """A download with four validations of a file at nginx, and the URL of one that has a wrong byte."""
    content, private = b"\xed\xab\xee\xdb" + bytes(range(256)) * 1000, Ed25519PrivateKey.generate()
    root, target = tmp_path / "root", tmp_path / "target"
    for directory in (root, target):
        directory.mkdir()
    (root / "good.rpm").write_bytes(content)
    (root / "bad.rpm").write_bytes(content[:-1] + b"?")
    validations = [
        Magic(content[:4]),
        SizeValidation(len(content)),
        Signed(private.public_key(), private.sign(content)),
        DigestValidation("sha256", hashlib.sha256(content).hexdigest()),
    ]
    with nginx(root) as server:
        yield (
            Download(server.url("/good.rpm"), FileWriter(target / "file"), validations=validations, retries=0),
            server.url("/bad.rpm"),
        )


@importer(5)
def test_validations(package, tmp_path, caplog) -> None:
    """Size, digest, magic number and signature at once: what one refuses is not there, what one only warns of is."""
    good, bad_url = package
    bad = good.clone(url=bad_url)
    with pytest.raises(ValidationError, match="the signature is not that of these bytes"):
        bad()
    with pytest.raises(DigestMismatch, match=r"sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}"):
        bad.clone(validations=[each for each in good.validations if not isinstance(each, Signed)])()
    with pytest.raises(ValidationError, match=r"begins with b'\\xed\\xab', expected b'\\x1f\\x8b'"):
        good.clone(validations=[Magic(b"\x1f\x8b"), *good.validations])()
    assert list((tmp_path / "target").iterdir()) == []
    assert good().size == (tmp_path / "target" / "file").stat().st_size
    assert caplog.records == []
    bad.clone(validations=[SizeValidation(7, enforced=False)])()
    assert "more than the 7 bytes that were expected, which is not enforced" in caplog.text


@importer(5)
async def test_validations_with_asyncio(package, tmp_path) -> None:
    """The same on a running loop."""
    good, bad_url = package
    async with Context() as context:
        with pytest.raises(ValidationError, match="the signature is not that of these bytes"):
            await good.clone(url=bad_url, context=context).run()
        assert list((tmp_path / "target").iterdir()) == []
        result = await good.clone(context=context).run()
    assert result.digests["sha256"] == hashlib.sha256((tmp_path / "target" / "file").read_bytes()).hexdigest()


# -- 6. Not all in memory ----------------------------------------------------------------------------------------------


def sized_jobs(depot: Nginx, alive: set[int]) -> Iterator[Download]:
    """Yield a thousand downloads, and count those that somebody still holds."""
    for turn in range(1000):
        download = Download(
            depot.url(f"/file-{turn % 100}?{turn}"), BufferWriter(), validations=[SizeValidation(800)], attachment=turn
        )
        alive.add(turn)
        weakref.finalize(download, alive.discard, turn)
        yield download


@importer(6)
def test_a_thousand_files_are_never_together_in_memory(depot) -> None:
    """Of a thousand jobs and their bytes, only a backlog is alive; the byte budget bounds what has come."""
    alive: set[int] = set()
    most, heaviest = 0, 0
    with (
        Context() as context,
        Batch(sized_jobs(depot, alive), backlog=40, byte_budget=4000, context=context) as batch,
    ):
        for plan in batch():
            assert len(plan.download.writer.content()) == 800
            most = max(most, len(alive))
            progress = batch.progress
            heaviest = max(heaviest, progress.received - 800 * progress.consumed)
    assert 10 < most <= 40 + 5  # a few are between the hands
    assert 0 < heaviest <= 4000
    assert batch.progress.consumed == 1000


@importer(6)
async def test_a_thousand_files_are_never_together_in_memory_with_asyncio(depot) -> None:
    """The same with asyncio."""
    alive: set[int] = set()
    most = 0
    async with (
        Context() as context,
        Batch(sized_jobs(depot, alive), backlog=40, byte_budget=4000, context=context) as batch,
    ):
        async for plan in batch():
            assert plan.error is None
            most = max(most, len(alive))
            progress = batch.progress
            assert progress.received - 800 * progress.consumed <= 4000
    assert 10 < most <= 40 + 5
    assert batch.progress.consumed == 1000


# -- 7. An attachment in results and errors ----------------------------------------------------------------------------


@pytest.fixture
def two_artifacts(tmp_path) -> Iterator[tuple[list[object], Iterator[Download]]]:
    """Two objects of an importer's, and jobs for them; the file of the second is not there."""
    (tmp_path / "file").write_bytes(b"content")
    artifacts = [object(), object()]
    with nginx(tmp_path) as server:
        yield (
            artifacts,
            (
                Download(server.url(path), BufferWriter(), attachment=artifact)
                for path, artifact in zip(("/file", "/missing"), artifacts, strict=True)
            ),
        )


@importer(7)
def test_an_attachment(two_artifacts) -> None:
    """What hangs on a download, an Artifact say, comes back in the result and in the error: the very object."""
    (there, missing), jobs = two_artifacts
    came, failed = [], []
    with Context() as context, Batch(jobs, context=context) as batch:
        for plan in batch():
            try:
                came.append(plan.result().attachment)
            except NotFound as error:
                failed.append(error.attachment)
    assert (came, failed) == ([there], [missing])  # objects are equal to themselves only


@importer(7)
async def test_an_attachment_with_asyncio(two_artifacts) -> None:
    """The same on a running loop."""
    (there, missing), jobs = two_artifacts
    async with Context() as context, Batch(jobs, context=context) as batch:
        plans = sorted([plan async for plan in batch()], key=lambda plan: plan.error is not None)
    assert plans[0].result().attachment is there
    with pytest.raises(NotFound) as caught:
        plans[1].result()
    assert caught.value.attachment is missing


# -- 8. Any thread -----------------------------------------------------------------------------------------------------


THREADS: Final = 16


@pytest.fixture(scope="module")
def shared_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    """Files of a real server that tells which connection each request came by."""
    with counted_files(tmp_path_factory.mktemp("files"), 40) as files:
        yield files


@importer(8)
def test_threads_share_a_context(shared_files: Files, tmp_path: Path) -> None:
    """Sixteen threads download at once, singly and by the batch: few connections for all, to each what is its own."""
    start = threading.Barrier(THREADS)

    def importer(number: int) -> list[Result]:
        start.wait(30)
        jobs = [
            context.download(url, FileWriter(tmp_path / f"{number}-{name}"), digests=digests, attachment=(number, name))
            for name, url, digests in shared_files.rows
        ]
        results = [job() for job in jobs[:20]]
        with Batch(jobs[20:], context=context) as batch:
            return results + [plan.result() for plan in batch()]

    with Context(connections=8) as context, ThreadPoolExecutor(THREADS) as pool:
        for number, results in enumerate(pool.map(importer, range(THREADS))):
            assert sorted(result.attachment for result in results) == [(number, name) for name in shared_files.names]
            assert all(result.path.name == "{}-{}".format(*result.attachment) for result in results)
    assert len(list(tmp_path.iterdir())) == THREADS * len(shared_files.names)
    shared_files.check_connections(most=8, requests=THREADS * len(shared_files.names))


@importer(8)
async def test_loops_and_threads_share_a_context(shared_files: Files) -> None:
    """A context that nobody bound to a loop serves this loop, those of other threads, and threads without one."""
    here = asyncio.get_running_loop()
    with Context(connections=8) as context:
        jobs = [context.download(url, BufferWriter(), attachment=name) for name, url, _ in shared_files.rows]
        with pytest.raises(RuntimeError, match=r"use `await download\.run\(\)`"):
            jobs[0]()
        results = await asyncio.gather(
            *(job.run() for job in jobs[:10]),
            *(asyncio.to_thread(job) for job in jobs[10:20]),
            *(here.run_in_executor(None, job) for job in jobs[20:30]),
            *(asyncio.to_thread(asyncio.run, job.run()) for job in jobs[30:]),
        )
    assert [result.attachment for result in results] == shared_files.names
    shared_files.check_connections(most=8, requests=len(shared_files.names))


# -- 9. Shared sessions, pools, tokens, mirror lists -------------------------------------------------------------------


@pytest.fixture
def two_remotes(tmp_path):
    """Downloads of two remotes with different certificates and users, by turns, and of one that equals the first."""
    authority = Authority()
    tls = authority.ca.issue_cert("localhost")

    def remote(name: str, password: str, identity: tuple[str, str]) -> Context:
        return Context(tls=TLS(authority.pem, *identity), user=User(name, password))

    first, second = authority.identity("first@example.org"), authority.identity("second@example.org")
    remotes = [remote("elmer", "secret", first), remote("fudd", "hidden", second), remote("elmer", "secret", first)]
    with site(tmp_path / "site", tls=tls, client_ca=authority.pem) as origin:
        yield [remotes[number % 3].download(origin.url("/user/pkg.rpm"), BufferWriter()) for number in range(30)]
        carried = origin.carried("user", 30), origin.carried("serial", 30)
        assert [len(users) for users in carried[0].values()] == [1, 1]
        assert len(set().union(*carried[1].values())) == 2


@importer(9)
def test_what_remotes_share(two_remotes) -> None:
    """In one context equal remotes use one connection, different ones never the same."""
    with Context() as context:
        for download in two_remotes:
            download.context = context
            download()


@importer(9)
async def test_what_remotes_share_with_asyncio(two_remotes) -> None:
    """The same on a running loop."""
    async with Context() as context:
        for download in two_remotes:
            download.context = context
            await download.run()


# -- 10. Customised downloading ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirrored]:
    """A hundred files at three mirrors: a dead one, a corrupt one, and a right one, which has the list as well."""
    with mirrored_files(tmp_path_factory.mktemp("mirrors"), 100) as mirrored:
        yield mirrored


CUSTOMISED: Final = pytest.mark.parametrize("way", ["of each download", "of the context", "a subclass"])


def customised(way: str, mirrored: Mirrored, target: Path) -> tuple[Context, Iterator[Download]]:
    """Return the context and the downloads, mirrored in one of the three ways."""
    delegate = MirrorDelegate(mirrored.list_url, mirrored.prefix)

    class OurDownload(MirroredDownload):
        remote = delegate

    kind = OurDownload if way == "a subclass" else Download
    options: dict[str, Any] = {"plugins": [delegate]} if way == "of each download" else {}
    jobs = (
        kind(mirrored.prefix + name, FileWriter(target / name), digests=digests, retries=0, **options)
        for name, digests in [*mirrored.digests.items(), ("missing", {})]
    )
    return Context(plugins=[delegate] if way == "of the context" else []), jobs


@importer(10)
@CUSTOMISED
def test_mirror_delegate(way: str, mirrored: Mirrored, tmp_path: Path) -> None:
    """A delegate of one's own aims 100 downloads at mirrors: one list, three mirrors, the right bytes, all told."""
    context, jobs = customised(way, mirrored, tmp_path)
    with mirrored.one_list_fetched(), context, Batch(jobs, context=context) as batch:
        plans = list(batch())
    mirrored.check(plans, tmp_path)


@importer(10)
@CUSTOMISED
async def test_mirror_delegate_with_asyncio(way: str, mirrored: Mirrored, tmp_path: Path) -> None:
    """The same on a running loop."""
    context, jobs = customised(way, mirrored, tmp_path)
    with mirrored.one_list_fetched():
        async with context, Batch(jobs, context=context) as batch:
            plans = [plan async for plan in batch()]
    mirrored.check(plans, tmp_path)


# -- 11. Bounded connections -------------------------------------------------------------------------------------------


@importer(11)
def test_no_more_connections_than_allowed(depot, tmp_path) -> None:
    """5,000 artifacts, every tenth not there, in two batches at a time: the server never sees more than six."""

    def run(context: Context) -> None:
        jobs = (Download(depot.url(f"/file-{number % 110}"), BufferWriter()) for number in range(2500))
        with Batch(jobs, concurrency=20, context=context) as batch:
            failed.append(sum(isinstance(plan.error, DownloadError) for plan in batch()))

    failed: list[int] = []
    with Context(connections_per_origin=6) as context:
        threads = [threading.Thread(target=run, args=(context,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert context.connections_in_use == 0
    assert failed == [sum(number % 110 >= 100 for number in range(2500))] * 2
    assert 3 < most_connections(tmp_path) <= 6


@importer(11)
async def test_no_more_connections_than_allowed_in_total(depot, tmp_path) -> None:
    """Two servers that speak different protocols share the total: what is idle at one makes room for the other."""
    with real_vsftpd.vsftpd(tmp_path / "depot") as ftp:

        def jobs() -> Iterator[Download]:
            for number in range(200):
                url = depot.url(f"/file-{number % 100}") if number // 25 % 2 else ftp.url(f"file-{number % 100}")
                yield Download(url, BufferWriter())

        async with (
            Context(connections=5, connections_per_origin=4) as context,
            Batch(jobs(), concurrency=10, context=context) as batch,
        ):
            assert [plan.error async for plan in batch() if plan.error is not None] == []
            assert context.connections_in_use == 0
            assert ftp.open_controls() <= 5 - 1
        assert 1 < max(most_connections(tmp_path), ftp.peak_controls) <= 4


# -- 12. Termination at any point --------------------------------------------------------------------------------------


@pytest.fixture
def endless(tmp_path) -> Iterator[tuple[Iterator[Download], Watch, str]]:
    """Endless jobs of 200,000 bytes from a generator, what sees all that they leave behind, and the file's URL."""
    root, target = tmp_path / "root", tmp_path / "target"
    for directory in (root, target):
        directory.mkdir()
    (root / "file").write_bytes(bytes(200_000))
    with nginx(root) as server:
        watch = Watch(target, servers={"nginx": server.port})
        yield watch.closing(_endless(server.url("/file"), target)), watch, server.url("/file")


def _endless(url: str, target: Path) -> Iterator[Download]:
    for number in itertools.count():
        yield Download(url, FileWriter(target / str(number)))


class Enough(Exception):
    """Raised in the body of a loop."""


def _leave(plan: Plan, by: str) -> bool:
    """Raise what ends the loop, or tell it to break."""
    plan.result()
    if by == "exception":
        raise Enough
    if by == "Ctrl-C":
        signal.default_int_handler(signal.SIGINT, None)
    return by == "break"


@importer(12)
@pytest.mark.parametrize("by", ["break", "exception", "Ctrl-C", "del"])
def test_a_batch_that_is_left_leaves_nothing(by: str, endless) -> None:
    """However a loop ends, no task, slot or temporary file is left, the generator is closed, the context works on."""
    jobs, watch, url = endless
    with watch.using(Context()) as context:
        if by == "del":
            batch = Batch(jobs, context=context).__enter__()
            next(batch()).result()
            del batch
        else:
            with contextlib.suppress(Enough, KeyboardInterrupt), Batch(jobs, context=context) as batch:
                for plan in batch():
                    if _leave(plan, by):
                        break
        watch.check_work()
        assert Download(url, BufferWriter(), context=context)().size == 200_000
    watch.check()  # nor a thread, a socket, a connection at the server


@importer(12)
@pytest.mark.parametrize("by", ["break", "exception", "cancelled", "timeout"])
async def test_an_async_batch_that_is_left_leaves_nothing(by: str, endless) -> None:
    """However a task ends, no task, slot, socket or temporary file is left, and the generator is closed."""
    jobs, watch, _ = endless
    watch.begin()  # the loop that this test runs on is there already

    async def consume() -> None:
        async with watch.using(Context()) as context, Batch(jobs, context=context) as batch:
            async for plan in batch():
                if _leave(plan, by):
                    break
                if by == "cancelled":
                    task.cancel()
                if by == "timeout":
                    limit.reschedule(0)

    task = asyncio.create_task(consume())
    with contextlib.suppress(Enough, asyncio.CancelledError, TimeoutError):
        async with asyncio.timeout(None) as limit:
            await task
    await watch.acheck()


# -- 13. Any protocol --------------------------------------------------------------------------------------------------


class CountDriver(Driver):
    """Somebody's own protocol: ``count:5`` is the digits from 0 to 4."""

    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncIterator[Payload]:
        """Answer from the URL alone."""

        async def body() -> AsyncIterator[bytes]:
            yield content

        content = "".join(map(str, range(int(request.url.removeprefix("count:"))))).encode()
        yield Payload(Info(request.url, size=len(content), proof="length"), body())


@pytest.fixture
def any_protocol(tmp_path) -> Iterator[tuple[Context, list[Download], dict[str, bytes]]]:
    """A context with a driver of our own, jobs for five schemes and one that nobody speaks, and what is to come."""
    root, authority = tmp_path / "root", trustme.CA()
    root.mkdir()
    (root / "file").write_bytes(b"a file")
    tls = TLS(ca_certificate=authority.cert_pem.bytes().decode())
    with nginx(root) as web, nginx(root, tls=authority.issue_cert("localhost")) as safe, vsftpd(root) as ftp:
        contents = {
            web.url("/file"): b"a file",
            safe.url("/file"): b"a file",
            ftp.url("file"): b"a file",
            "data:,a%20note": b"a note",  # by an installed distribution, docs/examples/downhaul-data
            "count:5": b"01234",
        }
        jobs = [Download(url, BufferWriter(), attachment=url) for url in (*contents, "gopher://127.0.0.1/file")]
        yield Context(tls=tls, drivers={"count": CountDriver()}), jobs, contents


def _check_any_protocol(plans: list[Plan], contents: dict[str, bytes]) -> None:
    came = {plan.download.attachment: plan.download.writer.content() for plan in plans if plan.error is None}
    assert came == contents
    (failed,) = [plan.error for plan in plans if plan.error is not None]
    assert isinstance(failed, UnsupportedScheme)
    assert re.search(r"no driver for 'gopher' \(installed: count, data, ftp, http, https\); install", str(failed))
    assert failed.history == ()  # nobody was asked


@importer(13)
def test_the_scheme_picks_the_driver(any_protocol) -> None:
    """One batch over HTTP, HTTPS, FTP and two protocols of others; what nobody speaks fails alone, and at once."""
    context, jobs, contents = any_protocol
    with context, Batch(jobs, context=context) as batch:
        _check_any_protocol(list(batch()), contents)
        with pytest.raises(UnsupportedScheme, match="no driver for 'gopher'"):
            context.download("gopher://127.0.0.1/file")


@importer(13)
async def test_the_scheme_picks_the_driver_with_asyncio(any_protocol) -> None:
    """The same on a running loop."""
    context, jobs, contents = any_protocol
    async with context, Batch(jobs, context=context) as batch:
        _check_any_protocol([plan async for plan in batch()], contents)


# -- 14. A batch goes on, and tells how far it is ----------------------------------------------------------------------


@pytest.fixture
def nine_of_ten(tmp_path) -> Iterator[Iterator[Download]]:
    """Jobs for ten files of 1,000 bytes at nginx, the fifth of which is not there."""
    root, target = tmp_path / "root", tmp_path / "target"
    for directory in (root, target):
        directory.mkdir()
    for number in range(10):
        if number != 5:
            (root / str(number)).write_bytes(bytes(1000))
    with nginx(root) as server:
        yield (
            Download(server.url(f"/{number}"), FileWriter(target / str(number)), attachment=number)
            for number in range(10)
        )


@importer(14)
def test_a_batch_goes_on_past_a_failed_file(nine_of_ten) -> None:
    """A file that is not there fails alone; the batch tells at any time how many are done, failed and under way."""
    failed, seen = [], []
    with Context() as context, Batch(nine_of_ten, concurrency=3, context=context) as batch:
        for plan in batch():
            seen.append(batch.progress)
            if plan.error is not None:
                failed.append(plan.error.attachment)
    assert failed == [5]
    assert [each.consumed for each in seen] == list(range(1, 11))
    assert all(each.running <= 3 and each.succeeded + each.failed >= each.consumed for each in seen)
    _check_the_end(batch)


@importer(14)
async def test_a_batch_goes_on_past_a_failed_file_with_asyncio(nine_of_ten) -> None:
    """The same on a running loop."""
    failed = []
    async with Context() as context, Batch(nine_of_ten, concurrency=3, context=context) as batch:
        async for plan in batch():
            assert batch.progress.running <= 3
            if plan.error is not None:
                failed.append(plan.error.attachment)
    assert failed == [5]
    _check_the_end(batch)


def _check_the_end(batch: Batch) -> None:
    end = batch.progress
    assert (end.pulled, end.total, end.succeeded, end.failed, end.running, end.waiting) == (10, 10, 9, 1, 0, 0)
    assert (end.received, end.size, end.attempts) == (9000, 9000, 10)


# -- All of them -------------------------------------------------------------------------------------------------------


def test_every_use_case_has_a_test_in_each_form() -> None:
    """At least one test in this file is for each use case in each form."""
    tested = set()
    for function in vars(sys.modules[__name__]).values():
        for mark in getattr(function, "pytestmark", ()):
            if mark.name == "use_case":
                _, number, form = mark.args
                tested.add((number, form or ("asyncio" if inspect.iscoroutinefunction(function) else "sync")))
    assert tested == {(number, form) for number in IMPORTER for form in FORMS}
