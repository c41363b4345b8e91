"""The bugs of Jupiter, the 2017 design of objects and delegation, each as a test that downhaul does not have it."""

from __future__ import annotations

import hashlib

import pytest
from tests.mem import Ledger, MemDriver, Reply, context_of, names
from tests.servers.ftp import FtpServer
from tests.servers.http import http_server

import downhaul
from downhaul import (
    BufferWriter,
    ConnectError,
    Context,
    DigestMismatch,
    FileWriter,
    NotFound,
    Plugin,
    PluginError,
    Result,
    Retry,
    ServerError,
    User,
    hookimpl,
)
from downhaul.plugins import MirrorList

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("retries", [0, 1, 5])
async def test_a_failure_that_nobody_repairs_is_raised(retries: int, tmp_path) -> None:
    """Jupiter returned as if all were well when no handler repaired a failure and retries were left."""
    mem = MemDriver()
    mem.site("mem://h/f", status=404)
    async with context_of(mem, retries=retries) as context:
        with pytest.raises(NotFound):
            await context.download("mem://h/f", FileWriter(tmp_path / "f")).run()
    assert names(tmp_path) == []


async def test_a_failure_that_is_repaired_in_vain_is_raised(tmp_path) -> None:
    """Jupiter knew no difference between a repair and a success."""

    class Optimist(Plugin):
        @hookimpl
        async def error(self, transfer, error):
            return Retry()

    mem = MemDriver()
    mem.site("mem://h/f", status=503)
    async with context_of(mem, Optimist(), retries=1) as context:
        with pytest.raises(ServerError):
            await context.download("mem://h/f", FileWriter(tmp_path / "f")).run()
    assert names(tmp_path) == []


@pytest.mark.parametrize("ranges", [True, False])
async def test_checks_start_again_with_the_bytes(ranges: bool) -> None:
    """Jupiter's digests went on from the bytes of a failed attempt: right bytes, wrong digest, and 15 of 10 bytes."""
    mem = MemDriver()
    mem.site("mem://h/f", Reply(DATA, cut=5000, ranges=ranges), Reply(DATA, ranges=ranges))
    async with context_of(mem) as context:
        writer = BufferWriter()
        result = await context.download("mem://h/f", writer, digests={"sha256": SHA256}).run()
    assert writer.content() == DATA
    assert result.artifact_attributes == {"size": len(DATA), "sha256": SHA256}
    assert [asked.offset for asked in mem.log] == [0, 5000 if ranges else 0]


async def test_a_corrupt_mirror_fails_over() -> None:
    """Jupiter announced success before validation, whose failure then asked nobody: no mirror could help."""
    mem, ledger = MemDriver(), Ledger()
    mem.site("mem://list/", data=b"mem://bad/f\nmem://good/f\n")
    mem.site("mem://bad/f", data=bytes(len(DATA)))
    mem.site("mem://good/f", data=DATA)
    async with context_of(mem) as context:
        writer = BufferWriter()
        download = context.download(
            "mem://h/f", writer, digests={"sha256": SHA256}, plugins=[MirrorList("mem://list/"), ledger]
        )
        result = await download.run()
    assert writer.content() == DATA
    assert result.source == "mem://good/f"
    assert [type(attempt.error) for attempt in result.history] == [DigestMismatch]


async def test_success_is_told_after_validation_and_failure_once() -> None:
    """Jupiter told SUCCEEDED of files that then failed validation."""
    told = []

    class Listener(Plugin):
        @hookimpl
        def done(self, transfer, outcome):
            told.append(type(outcome))

    mem = MemDriver()
    mem.site("mem://h/f", data=b"other")
    async with context_of(mem, Listener(), retries=0) as context:
        with pytest.raises(DigestMismatch):
            await context.download("mem://h/f", BufferWriter(), digests={"sha256": SHA256}).run()
        mem.site("mem://h/f", data=DATA)
        await context.download("mem://h/f", BufferWriter(), digests={"sha256": SHA256}).run()
    assert told == [DigestMismatch, Result]


async def test_a_hook_that_fails_ends_the_download() -> None:
    """Jupiter swallowed what an event handler raised, and downloaded without the token that it was to bring."""

    class Token(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            raise KeyError("no token")

    mem = MemDriver()
    mem.site("mem://h/f", data=DATA)
    async with context_of(mem, Token()) as context:
        with pytest.raises(PluginError, match=r"Token\.prepare failed: KeyError: 'no token'"):
            await context.download("mem://h/f", BufferWriter()).run()
    assert mem.log == []


def test_ftp_understands_its_url() -> None:
    """Jupiter took the whole authority of an FTP URL for the host: no port, no user, no password."""
    with FtpServer({"pkg": DATA}, users={"elmer": "fudd"}) as server, Context() as context:
        for url in (server.url("pkg").replace("//", "//elmer:fudd@", 1), server.url("pkg")):
            writer = BufferWriter()
            assert context.download(url, writer, user=User("elmer", "fudd"))().proof == "SIZE"
            assert writer.content() == DATA


def test_ftp_errors_are_of_the_tree() -> None:
    """Jupiter let the exceptions of the FTP library out."""
    with FtpServer({}) as server, Context(retries=0) as context:
        with pytest.raises(NotFound):
            context.download(server.url("missing"), BufferWriter())()
        port = server.port
    with Context(retries=0) as context, pytest.raises(ConnectError):
        context.download(f"ftp://127.0.0.1:{port}/pkg", BufferWriter())()


@pytest.mark.parametrize("status", [200, 203, 226])
def test_every_success_of_http_is_one(status: int, tmp_path) -> None:
    """Jupiter knew no other success than 200."""

    async def script(exchange) -> None:
        await exchange.respond(status, DATA)

    with http_server(script) as server:
        result = downhaul.download(server.url("/f"), tmp_path / "f", digests={"sha256": SHA256})
    assert result.size == len(DATA)


def test_a_redirect_is_followed(tmp_path) -> None:
    """Jupiter knew no other success than 200, redirects included."""

    async def script(exchange) -> None:
        if exchange.target == "/f":
            await exchange.respond(302, headers=[("Location", "/g")])
        await exchange.respond(200, DATA)

    with http_server(script) as server:
        result = downhaul.download(server.url("/f"), tmp_path / "f", digests={"sha256": SHA256})
        assert result.source == server.url("/g")
