"""Faults that were found by attacking a finished state, each with the test that it lacked."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import os
import ssl
import sys
import threading
from contextlib import asynccontextmanager

import pytest
import trustme
from tests.core.forms import wait_until
from tests.mem import MemDriver, Reply, context_of, names, until
from tests.servers.http import http_server

from downhaul import (
    TLS,
    Batch,
    BufferWriter,
    Context,
    Download,
    FileWriter,
    Info,
    Payload,
    Plugin,
    PluginError,
    ProtocolError,
    SizeValidation,
    StreamBroken,
    Timeout,
    Truncated,
    hookimpl,
)
from downhaul.plugins import BearerToken, MirrorList

DATA = bytes(range(256)) * 4
SHA256 = hashlib.sha256(DATA).hexdigest()


async def short_part(exchange) -> None:
    """Announce the whole, send half of it; then a part that is legal, but does not reach the end."""
    if exchange.header("Range") is None:
        await exchange.send(b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: 1024\r\n\r\n' + DATA[:500])
        await exchange.cut()
    first = int(exchange.header("Range").removeprefix("bytes=").partition("-")[0])
    head = f'HTTP/1.1 206 Partial Content\r\nETag: "a"\r\nContent-Range: bytes {first}-{first + 9}/*\r\n'
    await exchange.send(f"{head}Content-Length: 10\r\n\r\n".encode() + DATA[first : first + 10])


def test_a_part_that_does_not_reach_the_end_is_no_end(tmp_path) -> None:
    """The size that an earlier answer announced holds for its continuation, which does not say it again."""
    with http_server(short_part) as server, Context(retries=1) as context:
        with pytest.raises(Truncated):
            context.download(server.url("/f"), FileWriter(tmp_path / "f"))()
        with pytest.raises((StreamBroken, Truncated)), context.download(server.url("/f")).stream(hold_back=1) as stream:
            list(stream)
    assert names(tmp_path) == []


def test_a_provider_that_exits_does_not_hang() -> None:
    """SystemExit in a hook comes out where the download is waited for, and the context goes on."""
    mem = MemDriver()
    mem.site("mem://h/f", data=DATA)
    with context_of(mem) as context:
        download = context.download("mem://h/f", BufferWriter(), timeout=Timeout(total=30))
        with pytest.raises(SystemExit):
            download.clone(plugins=[BearerToken(lambda: sys.exit("no credentials"))])()
        assert download().size == len(DATA)


async def test_a_clone_with_other_digests_expects_those() -> None:
    """What `digests` asked of the original is not asked of a clone that is given others."""
    mem = MemDriver()
    mem.site("mem://h/f", data=DATA)
    async with context_of(mem, retries=0) as context:
        download = context.download("mem://h/other", BufferWriter(), digests={"sha256": "0" * 64})
        result = await download.clone(url="mem://h/f", digests={"sha256": SHA256}).run()
    assert result.digests == {"sha256": SHA256}


async def test_the_working_directory_may_change(tmp_path, monkeypatch) -> None:
    """A relative path means the directory in which the download began."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    class Moves(Plugin):
        @hookimpl
        async def validate(self, transfer):
            os.chdir(tmp_path / "there")

    mem = MemDriver()
    mem.site("mem://h/f", data=DATA)
    async with context_of(mem, Moves()) as context:
        await context.download("mem://h/f", FileWriter("f")).run()
    assert (names(tmp_path / "here"), names(tmp_path / "there")) == (["f"], [])


async def test_transforming_proves_nothing() -> None:
    """Bytes that nothing proved complete stay unproven when they are transformed."""

    async def body():
        yield b""

    for proof, expected in (("unproven", "unproven"), ("length", "transformed")):
        assert Payload(Info("mem://h/f", proof=proof), body()).transformed(body()).info.proof == expected

    class Same(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer):
            answer = yield
            return Transformed(answer)

    class Transformed:
        def __init__(self, answer):
            self.answer = answer

        async def __aenter__(self):
            payload = await self.answer.__aenter__()
            return payload.transformed(payload.body)

        async def __aexit__(self, *reason):
            return await self.answer.__aexit__(*reason)

    mem = MemDriver()
    mem.site("mem://h/f", data=DATA, size=False)
    async with context_of(mem, Same(), retries=0) as context:
        with pytest.raises(ProtocolError, match="nothing would prove"):
            await context.download("mem://h/f", BufferWriter(), require_proof=True).run()


async def test_a_prefix_is_one_of_urls_without_userinfo() -> None:
    """`MirrorList(replaces=…)` takes the place of the prefix whoever is named before the host."""
    mem = MemDriver()
    mem.site("mem://list/", data=b"mem://m1/")
    mem.site("mem://m1/f", data=DATA)
    async with context_of(mem, MirrorList("mem://list/", replaces="mem://h/pub/")) as context:
        result = await context.download("mem://user:secret@h/pub/f", BufferWriter()).run()
    assert result.source == "mem://m1/f"


def test_arguments_of_plugins_are_urls() -> None:
    """What is no URL is refused when the plugin is made."""
    for make in (lambda: MirrorList("notaurl"), lambda: MirrorList(5), lambda: BearerToken(str, within="127.0.0.1:80")):
        with pytest.raises((ValueError, TypeError)):
            make()


def test_unknown_arguments_are_named() -> None:
    """A keyword that nothing has is a TypeError that says its name, of `Download` and of `Context`."""
    for make in (lambda: Download("mem://h/f", bogus=3), lambda: Context(bogus=3)):
        with pytest.raises(TypeError, match="called 'bogus'"):
            make()


async def test_a_download_of_its_own_inside_of_an_answer_is_refused() -> None:
    """Whoever holds a slot and wants another one would wait for ever with one connection: that is a PluginError."""

    class Greedy(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer):
            answer = yield
            return self.opened(transfer, answer) if transfer.url == "mem://h/f" else answer

        @asynccontextmanager
        async def opened(self, transfer, answer):
            async with answer as payload:
                await Download("mem://h/other", BufferWriter(), context=transfer.context).run()
                yield payload

    mem = MemDriver()
    mem.site("mem://h/f", data=DATA)
    mem.site("mem://h/other", data=DATA)
    async with context_of(mem, Greedy(), connections=1) as context:
        with pytest.raises(PluginError, match="a slot is held"):
            await context.download("mem://h/f", BufferWriter(), timeout=Timeout(total=30)).run()
    assert mem.live == 0


class SlowToClose(MemDriver):
    """Takes some steps of the loop to close."""

    async def aclose(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        await super().aclose()


@pytest.mark.parametrize("steps", range(12))
async def test_a_context_is_closed_whenever_leaving_it_is_cancelled(steps: int) -> None:
    """A cancellation that comes while a context is left is raised when everything is closed, not instead of that."""
    driver = SlowToClose()
    driver.site("mem://h/f", data=DATA)

    async def work() -> None:
        async with context_of(driver) as context:
            await Download("mem://h/f", BufferWriter(), context=context).run()
            left.set()

    left = asyncio.Event()
    task = asyncio.create_task(work())
    await left.wait()
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert driver.closed == 1


@pytest.mark.parametrize("form", ["sync", "async"])
@pytest.mark.parametrize("end", ["close", "stop"])
def test_a_job_of_a_context_whose_loop_is_gone(form: str, end: str) -> None:
    """A job whose own context belongs to a loop that ends under it does not keep the batch: not from its end either."""
    driver = MemDriver()
    driver.site("mem://h/hangs", data=DATA, cut=10, hang="body")
    loop, other = asyncio.new_event_loop(), context_of(driver)
    thread = threading.Thread(target=lambda: (loop.run_until_complete(other.__aenter__()), loop.run_forever()))
    thread.start()
    wait_until(lambda: other._loop is not None and loop.is_running())

    def stop() -> None:
        wait_until(lambda: driver.live)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        if end == "close":
            loop.close()
            # asyncio has no more than this for tasks of a loop that was closed under them.
            for task in asyncio.all_tasks(loop):
                task.get_coro().close()

    stopping = threading.Thread(target=stop)
    jobs = [Download("mem://h/hangs", BufferWriter(), context=other)]
    if form == "sync":
        with context_of(driver) as context, Batch(jobs, context=context) as batch:
            stopping.start()
            if end == "close":
                assert isinstance(next(iter(batch())).error, RuntimeError)
            else:
                threading.Thread(target=waits_in_vain, args=(batch,)).start()
                stopping.join(10)
    else:
        asyncio.run(asynchronously(driver, jobs, stopping, end))
    stopping.join(10)
    if end == "stop":
        loop.run_until_complete(other.__aexit__(None, None, None))
        loop.close()


def waits_in_vain(batch: Batch) -> None:
    """Ask for a plan; the batch is left before one comes."""
    with pytest.raises(RuntimeError, match="the batch was left"):
        next(iter(batch()))


async def asynchronously(driver: MemDriver, jobs: list[Download], stopping: threading.Thread, end: str) -> None:
    """Run *jobs* in a batch while *stopping* ends the loop of their context."""
    async with context_of(driver) as context, Batch(jobs, context=context) as batch:
        stopping.start()
        plan = asyncio.ensure_future(anext(batch()))
        if end == "close":
            assert isinstance((await asyncio.wait_for(plan, 20)).error, RuntimeError)
        else:
            await asyncio.to_thread(stopping.join, 20)
    if end == "stop":
        with pytest.raises(RuntimeError, match="the batch was left"):
            await plan


class Abort(BaseException):
    """What is no Exception, as some frameworks raise."""


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_an_iterable_that_raises_no_exception(kind: str) -> None:
    """A BaseException of the iterable comes out of the batch too: a batch that was cut short never ends cleanly."""
    driver = MemDriver()
    driver.site("mem://h/f", data=DATA)

    def jobs():
        yield Download("mem://h/f", BufferWriter())
        raise Abort

    async def ajobs():
        for job in jobs():
            yield job

    async with context_of(driver) as context, Batch(ajobs() if kind == "async" else jobs(), context=context) as batch:
        assert (await anext(batch())).error is None
        with pytest.raises(Abort):
            await anext(batch())


async def test_an_iterable_that_keeps_a_context_variable() -> None:
    """A generator of jobs may set a context variable and reset it in the end, however small the backlog is."""
    variable, seen = contextvars.ContextVar("tenant", default="none"), []
    driver = MemDriver()
    driver.site("mem://h/f", data=DATA)

    async def jobs():
        token = variable.set("acme")
        for _ in range(10):
            seen.append(variable.get())
            yield Download("mem://h/f", BufferWriter())
        variable.reset(token)

    async with context_of(driver) as context, Batch(jobs(), backlog=2, context=context) as batch:
        assert [plan.error async for plan in batch()] == [None] * 10
    assert seen == ["acme"] * 10


async def test_a_size_that_an_answer_tells_makes_room() -> None:
    """As soon as an answer tells that it is smaller than its share of the byte budget, the next job begins."""
    driver = MemDriver()
    driver.site("mem://h/slow", data=bytes(10), cut=5, hang="body")
    driver.site("mem://h/large", data=bytes(950))
    jobs = [
        Download("mem://h/slow", BufferWriter()),
        Download("mem://h/large", BufferWriter(), validations=[SizeValidation(950)]),
    ]
    async with context_of(driver) as context, Batch(jobs, byte_budget=1000, context=context) as batch:
        plan = await asyncio.wait_for(anext(batch()), 10)
        assert plan.result().size == 950


async def test_attempts_of_what_was_cancelled_count() -> None:
    """The attempts of a job that was at work when its batch was left are not forgotten."""
    driver = MemDriver()
    driver.site("mem://h/f", Reply(status=503), Reply(status=503), Reply(DATA, cut=10, hang="body"))
    async with context_of(driver) as context:
        async with Batch([Download("mem://h/f", BufferWriter())], context=context) as batch:
            waiting = asyncio.ensure_future(anext(batch()))
            await until(lambda: batch.progress.attempts == 3)
        assert batch.progress.attempts == 3
        with pytest.raises(RuntimeError):
            await waiting


@pytest.mark.parametrize("text", [False, True])
def test_another_certificate_under_the_same_name(text: bool, tmp_path) -> None:
    """A certificate that is written where another one stood is another one: no connection of that one serves it."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.configure_trust(tls)
    tls.verify_mode = ssl.CERT_REQUIRED

    async def script(exchange) -> None:
        certificate = exchange.writer.get_extra_info("ssl_object").getpeercert()
        await exchange.respond(200, certificate["subjectAltName"][0][1].encode())

    told = []
    with http_server(script, tls=tls) as server, Context() as context:
        for who in ("a@example.org", "b@example.org"):
            pem, writer = authority.issue_cert(who).private_key_and_cert_chain_pem.bytes().decode(), BufferWriter()
            (tmp_path / "client.pem").write_text(pem)
            settings = TLS(
                ca_certificate=authority.cert_pem.bytes().decode(),
                client_certificate=pem if text else tmp_path / "client.pem",
            )
            context.download(server.url("/f"), writer, tls=settings)()
            told.append(writer.content().decode())
    assert told == ["a@example.org", "b@example.org"]
