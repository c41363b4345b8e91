"""Faults that were found by attacking a finished state, each with the test that it lacked."""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import asynccontextmanager

import pytest
from tests.mem import MemDriver, context_of, names
from tests.servers.http import http_server

from downhaul import (
    BufferWriter,
    Context,
    Download,
    FileWriter,
    Info,
    Payload,
    Plugin,
    PluginError,
    ProtocolError,
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
    for make in (lambda: MirrorList("notaurl"), lambda: MirrorList(5), lambda: BearerToken(str, origin="127.0.0.1:80")):
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
