"""Other processes that run the jobs of a batch: the same results, the same limits, and nothing left of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.core.elsewhere import (
    Elsewhere,
    Fails,
    Locked,
    LockedDriver,
    LockedValidation,
    LockedWriter,
    Numbered,
    Once,
    OneWayPlugin,
    OneWayWriter,
    Shelf,
    Shouting,
    Told,
    children,
    content_of,
    is_running,
)
from tests.core.forms import FORMS, plans_of, wait_until
from tests.mem import names
from tests.servers.http import head, http_server

import downhaul
from downhaul import (
    Batch,
    BufferWriter,
    Context,
    Download,
    DownloadError,
    FetchError,
    FileWriter,
    Plan,
    Progress,
    Result,
    Retries,
    SizeValidation,
    User,
    Version,
    _worker,
    _workers,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.servers.http import Exchange, HttpServer

ROOT = Path(__file__).parents[2]
BIG = bytes(3 << 20)  # large enough that some of it is written before the end


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Nothing that a test has begun is there afterwards, a zombie neither."""
    before = children().keys()
    yield
    assert children().keys() == before


@pytest.fixture
def context() -> Iterator[Context]:
    """A context that finds everything, and tries again at once."""
    with Context(drivers={"mem": Shelf()}, plugins=[Retries(base=0), Elsewhere()]) as context:
        yield context


def job(name: str, **options: Any) -> Download:
    """Return a job for a file called *name*."""
    return Download(f"mem://home/{name}", BufferWriter(), **options)


def mixture(directory: Path) -> list[Download]:
    """Return jobs of every kind, each with an attachment that nobody could pickle."""
    home = "mem://elmer:secret@home"
    good = Version(tag='"same"', size=len(content_of("same")), strong=True)
    downloads = [
        Download(f"{home}/file?key=1", FileWriter(directory / "file"), digests=["sha256", "md5"]),
        Download(f"{home}/parents", FileWriter(directory / "a" / "b", parents=True)),
        Download(f"{home}/nowhere", FileWriter(directory / "none" / "file")),
        job("buffer", digests={"SHA-256": "0" * 64}),
        job("size", validations=[SizeValidation(25_000), SizeValidation(1, enforced=False)]),
        Download("mem://home/size", BufferWriter(), validations=[SizeValidation(20_000)]),
        Download(f"{home}/missing?key=1", BufferWriter()),
        Download(f"{home}/flaky?key=1", BufferWriter(), digests=["sha1"]),
        Download("mem://home/file?mirror=flaky", BufferWriter()),
        Download("mem://home/missing?mirror=other&key=1", BufferWriter(), retries=0),
        job("same", unless=good),
        job("other", unless=good, user=User("elmer", "secret"), headers={"X-Key": "secret"}, max_size=5),
        Download("gopher://home/", BufferWriter()),
        Download("mem://home/none"),
    ]
    for download in downloads:
        download.attachment = threading.Lock()
    return downloads


def told(error: BaseException | None) -> Any:
    """Return all that an error says."""
    if not isinstance(error, DownloadError):
        return type(error), str(error)
    values = {name: value for name, value in vars(error).items() if name != "attachment"}
    values["history"] = [replace(attempt, error=told(attempt.error)) for attempt in error.history]
    return type(error), error.args, values


def shown(plan: Plan) -> Any:
    """Return all that came of a job."""
    if plan.error is not None:
        return told(plan.error)
    result = plan.result()
    history = tuple(replace(attempt, error=told(attempt.error)) for attempt in result.history)
    return replace(result, attachment=None, history=history)


def run_mixture(form: str, directory: Path, workers: int) -> tuple[dict[object, Any], Progress]:
    """Run a mixture; return what came of each job, and how far the batch says that it is."""
    directory.mkdir()
    downloads = mixture(directory)
    batches: list[Batch] = []
    with Context(drivers={"mem": Shelf()}, plugins=[Retries(base=0), Elsewhere()]) as context:
        plans = plans_of(form, downloads, context=context, workers=workers, kept=batches)
    for plan in plans:
        if isinstance(plan.error, DownloadError):
            assert plan.error.attachment is plan.download.attachment
        elif plan.error is None:
            assert plan.result().attachment is plan.download.attachment
    outcomes = {downloads.index(plan.download): shown(plan) for plan in plans}
    contents = {
        number: download.writer.content()
        for number, download in enumerate(downloads)
        if isinstance(download.writer, BufferWriter) and isinstance(outcomes[number], Result) and number != 10
    }
    files = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert set(files) == {"file", "a/b"}
    return {**outcomes, "contents": contents, "files": files}, batches[0].progress._replace(elapsed=0)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_comes_of_each_job(form: str, tmp_path: Path) -> None:
    """Results, errors, histories, contents, files and progress are those of a batch that runs in one process."""
    expected, progress = run_mixture(form, tmp_path / "files", 1)
    shutil.rmtree(tmp_path / "files")
    found, same_progress = run_mixture(form, tmp_path / "files", 3)
    for what, outcome in expected.items():
        assert found[what] == outcome
    assert found.keys() == expected.keys()
    assert {type(outcome) for outcome in expected.values()} == {Result, tuple, dict}
    assert same_progress == progress
    assert progress.attempts > progress.pulled - 3


def test_urls_are_whole(context: Context) -> None:
    """What comes back names its URLs for the program to use, as everywhere: no userinfo, the query as it is."""
    jobs = [
        Download("mem://elmer:secret@home/file?key=1&mirror=other", BufferWriter()),
        Download("mem://elmer:secret@home/missing?key=1", BufferWriter(), retries=0),
    ]
    good, bad = sorted(plans_of("sync", jobs, context=context, workers=2), key=lambda plan: bool(plan.error))
    assert good.result().url == "mem://home/file?key=1&mirror=other"
    assert good.result().source == "mem://other/secret?sig=hidden"
    assert isinstance(bad.error, DownloadError)
    assert bad.error.url == bad.error.source == bad.error.history[0].source == "mem://home/missing?key=1"
    assert "key=1" not in str(bad.error)


def test_a_buffer_that_is_used_again(context: Context) -> None:
    """A BufferWriter has the bytes of the last download that succeeded; where nothing came, those of before."""
    writer = BufferWriter()
    version = Version(tag='"a"', size=len(content_of("a")), strong=True)
    for number in range(2):
        jobs = [Download("mem://home/a", writer, unless=version if number else None)]
        (plan,) = plans_of("sync", jobs, context=context, workers=2)
        assert plan.result().not_modified is bool(number)
        assert writer.content() == content_of("a")


def test_a_download_of_somebodys_own(context: Context) -> None:
    """A download is of its own class there too, in another process, without its attachment."""
    with seeing_server() as (server, seen):
        download = Shouting(server.url(), BufferWriter(), plugins=[Told()], attachment="secret")
        download.loud = "very"
        (plan,) = plans_of("sync", [download], context=context, workers=2)
        assert plan.result().attachment == "secret"
    kind, loud, attachment, process = seen[0]["x-seen"].split()
    assert (kind, loud, attachment) == ("Shouting", "very", "None")
    assert int(process) != os.getpid()


@contextlib.contextmanager
def seeing_server() -> Iterator[tuple[HttpServer, list[dict[str, str]]]]:
    """Run a server that answers everything, and notes the fields of each request; those of one name are joined."""
    seen: list[dict[str, str]] = []

    async def script(exchange: Exchange) -> None:
        fields = {name.lower(): exchange.header(name) or "" for name, _ in exchange.headers}
        seen.append(fields)
        await exchange.respond(200, b"here")

    with http_server(script) as server:
        yield server, seen


def test_plugins_are_the_same_objects_there() -> None:
    """A plugin that is equal to itself only counts once there too, in the context and in each of its downloads."""
    with seeing_server() as (server, seen), Context(plugins=[Once()]) as context:
        jobs = [context.download(server.url(), BufferWriter()) for _ in range(6)]
        assert all(plan.result().size == 4 for plan in plans_of("sync", jobs, context=context, workers=2))
    assert [fields["x-once"] for fields in seen] == ["1"] * 6


def test_what_jobs_have_in_common_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many plugins and settings there are, few of them are kept, and each job has its own."""
    monkeypatch.setattr(_workers, "_KEPT", 3)
    with seeing_server() as (server, seen), Context() as context:
        jobs = [
            Download(server.url(), BufferWriter(), plugins=[Numbered(each % 7)], headers={"X-Set": str(each % 7)})
            for each in range(40)
        ]
        with Batch(jobs, context=context, workers=2, concurrency=4) as batch:
            assert all(plan.result().size == 4 for plan in batch())
            assert batch._plans is not None
            assert len(batch._plans.crew._workers._common) == 3  # type: ignore[union-attr]
    assert all(fields["x-number"] == fields["x-set"] for fields in seen)
    assert sorted(fields["x-number"] for fields in seen) == sorted(str(each % 7) for each in range(40))


LIMITS = [(3, 100, 4, 4), (3, 2, 20, 2), (2, 5, 3, 3), (4, 20, 1, 1)]


@pytest.mark.parametrize(("workers", "connections", "per_origin", "most"), LIMITS)
def test_limits(workers: int, connections: int, per_origin: int, most: int) -> None:
    """All processes together open as many connections as the context allows, and never one more."""
    crowd = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if server.open == most:
            crowd.set()
        await crowd.wait()  # until as many are there as may be
        await exchange.respond(200, bytes(100))

    with (
        http_server(script) as server,
        Context(connections=connections, connections_per_origin=per_origin) as context,
    ):
        jobs = (Download(server.url(f"/{each}"), BufferWriter()) for each in range(60))
        with Batch(jobs, concurrency=20, context=context, workers=workers) as batch:
            plans = list(batch())
            assert len(children()) <= min(workers, most)
    assert [plan.result().size for plan in plans] == [100] * 60
    assert server.peak == most


@pytest.mark.parametrize("concurrency", [1, 3])
def test_concurrency(concurrency: int) -> None:
    """No more jobs run in all processes together than the batch allows, and no more processes than jobs."""
    crowd = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        running.add(exchange.target)
        peak.append(len(running))
        if len(running) == concurrency:
            crowd.set()
        await crowd.wait()
        running.discard(exchange.target)
        await exchange.respond(200, bytes(100))

    running: set[str] = set()
    peak: list[int] = []
    with http_server(script) as server, Context() as context:
        jobs = (Download(server.url(f"/{each}"), BufferWriter()) for each in range(30))
        with Batch(jobs, concurrency=concurrency, context=context, workers=2) as batch:
            assert all(plan.error is None for plan in batch())
            assert len(children()) == min(2, concurrency)
    assert max(peak) == concurrency


async def test_byte_budget() -> None:
    """A job whose size nobody knew counts for it as soon as its answer tells, and the next one waits."""
    release = threading.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(head(200, [("Content-Length", "950")]))
        if exchange.target == "/0":
            await asyncio.to_thread(release.wait, 10)
        await exchange.send(bytes(950))

    async def jobs() -> AsyncIterator[Download]:
        yield Download(server.url("/0"), BufferWriter())
        await asyncio.to_thread(wait_until, lambda: batch.progress.size == 950)
        yield Download(server.url("/1"), BufferWriter())

    with http_server(script) as server, Context() as context:
        async with Batch(jobs(), context=context, workers=2, byte_budget=1000) as batch:
            first = asyncio.ensure_future(anext(batch()))
            await asyncio.to_thread(wait_until, lambda: batch.progress.pulled == 2)
            progress = batch.progress
            assert (progress.running, progress.waiting, progress.size) == (1, 1, None)
            release.set()
            assert (await first).result().size == 950
            assert [plan.result().size async for plan in batch()] == [950]
    assert [exchange.target for exchange in server.requests] == ["/0", "/1"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"writer": LockedWriter()}, "writer"),
        ({"plugins": [Locked()]}, "plugins"),
        ({"validations": [LockedValidation()]}, "validations"),
        ({"writer": type("Local", (BufferWriter,), {})()}, "writer"),
    ],
)
def test_what_cannot_be_pickled(options: dict[str, Any], name: str, context: Context) -> None:
    """A job that cannot be sent to a process fails, before any is begun, by an error that names what it is."""
    jobs = [Download("mem://home/a?key=secret", **{"writer": BufferWriter(), **options}) for _ in range(3)]
    with Batch(jobs, context=context, workers=2) as batch:
        plans = list(batch())
        assert children() == {}
    for plan in plans:
        assert isinstance(plan.error, TypeError)
        assert str(plan.error).startswith(f"{name}=… of the download of mem://home/a?key=*** cannot be sent")
        assert "workers=1" in str(plan.error)


@pytest.mark.parametrize(
    ("options", "name"), [({"plugins": [Locked()]}, "plugins"), ({"drivers": {"mem": LockedDriver()}}, "drivers")]
)
@pytest.mark.parametrize("form", FORMS)
def test_a_context_that_cannot_be_pickled(form: str, options: dict[str, Any], name: str) -> None:
    """A context that cannot be made again in a process is refused when the batch is entered."""
    with (
        Context(**options) as context,
        pytest.raises(TypeError, match=f"^{name}=… of the context cannot be sent to another process: "),
    ):
        plans_of(form, [job("a")], context=context, workers=2)


def test_what_cannot_be_made_again(context: Context) -> None:
    """What a process cannot make of what it got fails that job alone, and says why."""
    jobs = [
        Download("mem://home/a", OneWayWriter()),
        Download("mem://home/b", BufferWriter(), plugins=[OneWayPlugin()]),
        job("c"),
    ]
    plans = {plan.download.url[-1]: plan for plan in plans_of("sync", jobs, context=context, workers=2)}
    assert plans["c"].error is None
    for name in "ab":
        assert isinstance(plans[name].error, TypeError)
        assert "cannot be made once more in another process: LookupError: it is not here" in str(plans[name].error)


def test_a_context_that_cannot_be_made_again() -> None:
    """Where no process can make the context, all jobs fail by an error that says why; no process is begun for each."""
    with Context(drivers={"mem": Shelf()}, plugins=[OneWayPlugin()]) as context:
        plans = plans_of("sync", [job(str(each)) for each in range(30)], context=context, workers=2)
    assert len(plans) == 30
    for plan in plans:
        assert isinstance(plan.error, RuntimeError)
        assert "the context of the batch cannot be made once more" in str(plan.error)


def test_errors_that_cannot_be_told(context: Context) -> None:
    """An error that cannot be pickled is told as what it says; the process goes on, and a lost job does not hang."""
    jobs = [job("a", plugins=[Fails("untold")], attachment=1), job("b", plugins=[Fails("cancel")]), job("c")]
    plans = {plan.download.url[-1]: plan for plan in plans_of("sync", jobs, context=context, workers=1)}
    assert type(plans["a"].error).__name__ == "LockedError"
    plans = {plan.download.url[-1]: plan for plan in plans_of("sync", jobs, context=context, workers=2)}
    assert "what became of it cannot be told" in str(plans["a"].error)
    assert isinstance(plans["a"].error, DownloadError)
    assert plans["a"].error.attachment == 1
    assert isinstance(plans["b"].error, RuntimeError)
    assert plans["c"].error is None


@pytest.mark.parametrize("form", FORMS)
def test_contexts_of_downloads(form: str, context: Context) -> None:
    """A download of the batch's own context is as good as one without; one with another context is refused."""
    with Context(drivers={"mem": Shelf()}) as other:
        jobs = [context.download("mem://home/a", BufferWriter()), job("b", context=other)]
        plans = {plan.download.url[-1]: plan for plan in plans_of(form, jobs, context=context, workers=2)}
    assert plans["a"].error is None
    assert isinstance(plans["b"].error, ValueError)
    assert "a context of its own" in str(plans["b"].error)


@pytest.mark.parametrize(
    ("number", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), (1.5, TypeError), (None, TypeError)]
)
def test_the_number_is_checked(number: Any, error: type[Exception]) -> None:
    """The number of processes is a whole number from 1."""
    with pytest.raises(error, match=r"workers=… is a .*number"):
        Batch([], workers=number)


def test_one_is_this_process(context: Context) -> None:
    """With one worker, or without a job, no other process is begun."""
    with Batch([job("a")], context=context, workers=1) as batch:
        assert [plan.error for plan in batch()] == [None]
        assert children() == {}
    with Batch([], context=context, workers=2) as batch:
        assert list(batch()) == []
        assert children() == {}


class Crash(Exception):
    """What a consumer raises."""


@contextlib.contextmanager
def stalling_server() -> Iterator[HttpServer]:
    """Run a server that sends half of each file, save of ``/quick``, and nothing more."""

    async def script(exchange: Exchange) -> None:
        if exchange.target.startswith("/quick"):
            await exchange.respond(200, b"quick")
            return
        await exchange.send(head(200, [("Content-Length", str(len(BIG)))]), BIG[: len(BIG) // 2])
        await exchange.stall()

    with http_server(script) as server:
        yield server


def halves(server: HttpServer, directory: Path, number: int) -> Iterator[Download]:
    """Yield jobs that will stall, one of them with a buffer, and behind each few a quick one."""
    for each in range(number):
        yield Download(server.url(f"/{each}"), FileWriter(directory / str(each)))
        if each % 3 == 2:
            yield Download(server.url("/quick"), BufferWriter(), attachment="quick")


def descriptors() -> set[str]:
    """Return what this process has open."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(f"{path.name} {path.readlink()}")
    return {each for each in found if not each.endswith("/fd")}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", ["break", "exception"])
def test_leaving_early_leaves_nothing(form: str, how: str, tmp_path: Path) -> None:
    """Leaving early, by an exception too, leaves no process, file, connection, descriptor or task."""
    with stalling_server() as server, Context() as context, Context(drivers={"mem": Shelf()}) as warm:
        plans_of("sync", [job("a")], context=warm, workers=2)  # the tracker of multiprocessing is one for all
        context._call_soon(int)
        before = descriptors()

        def act(plan: Plan) -> None:
            assert plan.result().attachment == "quick"
            wait_until(lambda: len(names(tmp_path)) >= 3)
            assert len(children()) == 2
            if how == "exception":
                raise Crash

        async def work() -> None:
            async with Batch(halves(server, tmp_path, 9), concurrency=4, context=context, workers=2) as batch:
                async for plan in batch():
                    act(plan)
                    break

        with contextlib.suppress(Crash):
            if form == "async":
                asyncio.run(work())
            else:
                with Batch(halves(server, tmp_path, 9), concurrency=4, context=context, workers=2) as batch:
                    for plan in batch():
                        act(plan)
                        break
        assert (children(), names(tmp_path)) == ({}, [])
        server.wait_until(lambda server: not server.open)
        wait_until(lambda: descriptors() <= before)


async def test_cancelling_the_consumer_leaves_nothing(tmp_path: Path) -> None:
    """Cancelling the task that consumes a batch ends its processes first, twice cancelled too."""
    with stalling_server() as server:
        async with Context() as context:

            async def work() -> None:
                async with Batch(halves(server, tmp_path, 9), concurrency=4, context=context, workers=2) as batch:
                    async for plan in batch():
                        plan.result()

            task = asyncio.create_task(work())
            await asyncio.to_thread(wait_until, lambda: len(names(tmp_path)) == 4)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert (children(), names(tmp_path)) == ({}, [])
        await server.until(lambda server: not server.open)


def test_closing_the_context_ends_the_processes(tmp_path: Path) -> None:
    """A context that is closed in the middle of a batch ends its processes; the jobs fail, the batch can be left."""
    with stalling_server() as server:
        context = Context()
        with Batch(halves(server, tmp_path, 4), concurrency=4, context=context, workers=2) as batch:
            plans = batch()
            assert next(plans).result().attachment == "quick"
            wait_until(lambda: len(names(tmp_path)) == 4)
            context.close()
            assert (children(), names(tmp_path)) == ({}, [])
            assert [type(plan.error) for plan in plans] == [RuntimeError] * 4


def test_plans_that_are_dropped(tmp_path: Path) -> None:
    """A batch that nobody has any more ends its processes."""
    with stalling_server() as server, Context() as context:
        plans = Batch(halves(server, tmp_path, 4), concurrency=4, context=context, workers=2).__enter__()()
        assert next(plans).result().attachment == "quick"
        assert len(children()) == 2
        del plans
        wait_until(lambda: not children())
        assert names(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_ended(number: signal.Signals, tmp_path: Path) -> None:
    """The jobs of a process that somebody ends fail, as what may pass; for others there is a new one."""
    killed = threading.Event()

    def jobs() -> Iterator[Download]:
        yield Download(server.url("/0"), FileWriter(tmp_path / "0"), attachment="lost")
        yield Download(server.url("/quick"), BufferWriter())
        assert killed.wait(10)
        for _ in range(8):
            yield Download(server.url("/quick"), BufferWriter())

    with stalling_server() as server, Context() as context:
        with Batch(jobs(), context=context, workers=2, backlog=2) as batch:
            plans = iter(batch())
            assert next(plans).result().size == 5
            wait_until(lambda: names(tmp_path))
            before = children()
            assert len(before) == 2
            for process in before:
                os.kill(process, number)
            wait_until(lambda: not before.keys() & children().keys())
            killed.set()
            rest = list(plans)
        failed = [plan for plan in rest if plan.error is not None]
        assert len(rest) == 9
        assert [plan.download.attachment for plan in failed] == ["lost"]
        error = failed[0].error
        assert isinstance(error, FetchError)
        assert (error.transient, error.attachment) == (True, "lost")
        assert "the process that was at work on it ended" in str(error)
        if number == signal.SIGTERM:  # that one had the time to clean up
            assert names(tmp_path) == []


def test_a_job_that_ends_its_process(context: Context) -> None:
    """A job that crashes its process fails, with those that were there; there is a new one for the next."""
    jobs = [job("a", plugins=[Fails("exit")]), *(job(f"b{each}") for each in range(3))]
    plans = plans_of("sync", jobs, context=context, workers=2, concurrency=1, backlog=1)
    assert [type(plan.error).__name__ for plan in plans] == ["FetchError", "NoneType", "NoneType", "NoneType"]
    assert "with exit code 3" in str(plans[0].error)


def test_a_process_that_does_not_end(
    context: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A process that is not done in time when the batch is left is killed, which is logged."""
    monkeypatch.setattr(_worker, "_PATIENCE", 0.3)
    jobs = [job("a", plugins=[Fails(f"hang {tmp_path / 'begun'}")]), job("b")]
    with Batch(jobs, context=context, workers=2) as batch:
        assert next(iter(batch())).download is jobs[1]
        wait_until((tmp_path / "begun").exists)
    assert children() == {}
    assert [record.getMessage() for record in caplog.records] == [
        "downhaul-0, a process of a batch, does not end, and is killed after 0 s"
    ]


HEAD = """
import asyncio, multiprocessing, os, signal, sys, threading, time
from pathlib import Path
from downhaul import *
from tests.core.elsewhere import Shelf, children, content_of

target = Path(sys.argv[1])
"""


def start(program: str, target: Path, *options: str, module: bool = False) -> subprocess.Popen[str]:
    """Start *program*, written to a file, in an interpreter of its own."""
    home = target / "home"
    home.mkdir(exist_ok=True)
    (home / "program.py").write_text(HEAD + program)
    paths = [str(home), str(Path(downhaul.__path__[0]).parent), str(ROOT / "drivers/http/src"), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONFAULTHANDLER": "1"}
    what = ["-m", "program"] if module else [str(home / "program.py")]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, *options, *what, str(target)],
            cwd=target, env=environment, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end of *process*: what it returned, and what it said."""
    try:
        out, err = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"it hangs: {out} {err}")
    return process.returncode, out, err


OWN_PLUGIN = """
class Mine(Plugin):
    @hookimpl
    async def prepare(self, transfer):
        raise Refused(f"refused {transfer.url}")

class Refused(PolicyError):
    "An error of the program's own."

def main():
    with Context(drivers={"mem": Shelf()}) as context:
        jobs = [Download("mem://home/a", BufferWriter(), plugins=[Mine()]), Download("mem://home/b", BufferWriter())]
        with Batch(jobs, context=context, workers=2) as batch:
            plans = {plan.download.url[-1]: plan for plan in batch()}
    assert type(plans["a"].error) is Refused, plans["a"].error
    assert plans["b"].download.writer.content() == content_of("b")
    assert not children()
    print(plans["a"].error)
"""
GUARDED = """
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("module", [False, True])
def test_programs(module: bool, tmp_path: Path) -> None:
    """A program may be run as a file or as a module, with classes of its own; nothing complains in the end."""
    code, out, err = finish(start(OWN_PLUGIN + GUARDED, tmp_path, "-W", "error", module=module))
    assert (code, out, err) == (0, "refused mem://home/a\n", "")


def test_a_program_that_starts_when_it_is_imported(tmp_path: Path) -> None:
    """A program without the guard fails, in short and for a reason that says what to do; it does not go on for ever."""
    code, out, err = finish(start(OWN_PLUGIN.replace("assert type", "plans['b'].result() #") + "\nmain()", tmp_path))
    assert (code, out) == (1, "")
    assert "a process of the batch ended before it could work (with exit code 1)" in err
    assert 'put what starts there below `if __name__ == "__main__":`' in err
    assert err.count("this process is one of workers=…") <= 2


def test_a_program_from_the_command_line(tmp_path: Path) -> None:
    """A program that is no file works too, with classes that can be imported."""
    program = (
        HEAD
        + """
with Context(drivers={"mem": Shelf()}) as context:
    with Batch([Download("mem://home/a", BufferWriter())], context=context, workers=2) as batch:
        print([plan.error for plan in batch()])
"""
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(downhaul.__path__[0]).parent), str(ROOT)])},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert finish(process) == (0, "[None]\n", "")


def test_daemon_processes(tmp_path: Path) -> None:
    """Where multiprocessing lets a process have none of its own, that is said when the batch is entered."""
    program = """
def work():
    try:
        with Batch([], workers=2): pass
    except RuntimeError as error:
        print(error, flush=True)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work, daemon=True)
    process.start()
    process.join()
"""
    code, out, err = finish(start(program, tmp_path))
    assert (code, err) == (0, "")
    assert out.startswith("workers=… needs processes, and a daemon process of multiprocessing may have none")


STALLED = """
SECRET = "c4nary"

def jobs(url):
    for each in range(4):
        yield Download(
            f"{url}/{each}", FileWriter(target / str(each)), user=User("elmer", SECRET), headers={"X-Key": SECRET}
        )

def parts():
    return [path for path in target.iterdir() if path.name.endswith(".part")]

def begun(url):
    while len(parts()) < 4: time.sleep(0.01)
    print("begun", os.getpid(), flush=True)

def consume(url):
    with Batch(jobs(url), workers=2) as batch: list(batch())

async def aconsume(url):
    async with Context() as context, Batch(jobs(url), workers=2, context=context) as batch:
        async for plan in batch(): pass

def main(url):
    threading.Thread(target=begun, args=(url,), daemon=True).start()
    HOW

if __name__ == "__main__":
    main(URL)
"""


def stalled(how: str, server: HttpServer, target: Path, *options: str) -> subprocess.Popen[str]:
    """Start a program that has half of each of four files when this returns."""
    program = STALLED.replace("HOW", how).replace("URL", repr(server.url().rstrip("/")))
    process = start(program, target, *options)
    assert process.stdout is not None
    assert process.stdout.readline() == f"begun {process.pid}\n", finish(process)
    return process


def left(target: Path) -> list[str]:
    """Return the names of files that are left."""
    return [name for name in names(target) if name != "home"]


@pytest.mark.parametrize("how", ["consume(url)", "asyncio.run(aconsume(url))"])
def test_ctrl_c(how: str, tmp_path: Path) -> None:
    """Ctrl-C, which goes to all processes, ends the program in the same orderly way as without them."""
    with stalling_server() as server:
        process = stalled(how, server, tmp_path)
        workers = children(process.pid)
        assert len(workers) == 2
        os.killpg(process.pid, signal.SIGINT)
        code, _, err = finish(process)
        assert code == -signal.SIGINT
        assert err.startswith("Traceback")
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert "downhaul-" not in err  # no process but the main one says anything
        assert left(tmp_path) == []
        assert not any(map(is_running, workers))


def test_exit_with_a_batch_that_nobody_left(tmp_path: Path) -> None:
    """A program that ends in the middle of a batch takes its processes with it, in an orderly way."""
    how = "threading.Thread(target=consume, args=(url,), daemon=True).start(); sys.stdin.read()"
    with stalling_server() as server:
        process = stalled(how + "; threading.excepthook = lambda _: None", server, tmp_path)
        workers = children(process.pid)
        assert len(workers) == 2
        code, _, err = finish(process)
        assert (code, err) == (0, "")
        assert left(tmp_path) == []
        assert not any(map(is_running, workers))


def test_a_program_that_is_killed(tmp_path: Path) -> None:
    """The processes of a program that is killed end by themselves, and clean up."""
    with stalling_server() as server:
        process = stalled("consume(url)", server, tmp_path)
        workers = children(process.pid)
        process.kill()
        finish(process)
        wait_until(lambda: not any(map(is_running, workers)))
        assert left(tmp_path) == []


def test_secrets(tmp_path: Path) -> None:
    """What a process is given stands neither in its command line nor in its environment."""
    with stalling_server() as server:
        process = stalled("consume(url)", server, tmp_path)
        seen = ""
        for number, line in children(process.pid).items():
            seen += line + Path(f"/proc/{number}/environ").read_text()
        assert "spawn_main" in seen
        assert "c4nary" not in seen
        assert all(exchange.header("X-Key") == "c4nary" for exchange in server.requests)
        os.kill(process.pid, signal.SIGINT)
        finish(process)


def test_fork_inside_of_a_batch(tmp_path: Path) -> None:
    """The child of a fork within a batch ends without a word, and leaves the processes to its parent."""
    how = """
    threading.excepthook = lambda _: None
    with Batch(jobs(url), workers=2) as batch:
        threading.Thread(target=lambda: next(batch()), daemon=True).start()
        while len(parts()) < 4: time.sleep(0.01)
        child = os.fork()
        if not child: sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert (len(children()), len(parts())) == (2, 4)
    assert children() == {}
"""
    with stalling_server() as server:
        options = ("-W", "ignore:This process:DeprecationWarning")
        code, _, err = finish(stalled(how.strip(), server, tmp_path, *options))
        assert (code, err) == (0, "")
        assert left(tmp_path) == []
