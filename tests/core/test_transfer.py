"""What a plugin sees of a transfer, and what the core itself uses of it: nothing that a third party could not."""

from __future__ import annotations

import ast
import hashlib
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from tests.mem import MemDriver, Reply, context_of

import downhaul
from downhaul import (
    BufferWriter,
    Context,
    DigestMismatch,
    DigestValidation,
    Download,
    FileWriter,
    Plugin,
    PluginError,
    SizeValidation,
    Truncated,
    ValidationError,
    hookimpl,
)

URL = "mem://home/file"
BYTES = bytes(range(256)) * 1000


def server(*replies: Reply) -> MemDriver:
    """Return a driver that has the file, or gives *replies*."""
    mem = MemDriver()
    mem.site(URL, *(replies or (Reply(BYTES),)))
    return mem


class Sees(Plugin):
    """Writes down what a transfer shows in each hook."""

    def __init__(self, *names: str) -> None:
        self.names, self.seen = names, []

    def look(self, hook, transfer):
        self.seen.append((hook, *(getattr(transfer, name) for name in self.names)))

    @hookimpl
    async def prepare(self, transfer):
        self.look("prepare", transfer)

    @hookimpl
    async def validate(self, transfer):
        self.look("validate", transfer)

    @hookimpl
    async def error(self, transfer, error):
        self.look("error", transfer)

    @hookimpl
    def done(self, transfer, outcome):
        self.look("done", transfer)


async def test_attempt_and_round_count_from_one():
    """“`attempt` and `round` (from 1)”."""
    sees = Sees("attempt", "round")
    async with context_of(server(Reply(status=503), Reply(BYTES)), sees) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert sees.seen == [("prepare", 1, 1), ("error", 1, 1), ("prepare", 2, 2), ("validate", 2, 2), ("done", 2, 2)]


async def test_download_context_and_parent():
    """A transfer knows whose it is."""
    sees = Sees("download", "context", "parent")
    async with context_of(server(), sees) as context:
        download = Download(URL, BufferWriter(), context=context, attachment="mine")
        await download.run()
    assert {each[1:] for each in sees.seen} == {(download, context, None)}


async def test_payload_once_open():
    """“`payload` once open”: None before, and again before the next attempt opens."""
    sees = Sees("payload")
    async with context_of(server(Reply(BYTES, cut=10), Reply(BYTES)), sees) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert [(hook, payload is not None) for hook, payload in sees.seen] == [
        ("prepare", False), ("error", True), ("prepare", False), ("validate", True), ("done", True),
    ]  # fmt: skip


async def test_received_at_any_time():
    """“`received` at any time (progress needs no hook)”: what is there, kept bytes included."""
    sees = Sees("received")
    async with context_of(server(Reply(BYTES, cut=1000), Reply(BYTES)), sees) as context:
        await Download(URL, BufferWriter(), context=context).run()
    everything = len(BYTES)
    assert [each for _, each in sees.seen] == [0, 1000, 1000, everything, everything]


@pytest.mark.parametrize("form", ["buffer", "file", "stream"])
async def test_size_digests_and_body_in_validate(form, tmp_path):
    """“In `validate` also `size`, `digests` and `body()`”, which is None when the bytes streamed past."""
    seen = {}

    class Reads(Plugin):
        @hookimpl
        async def validate(self, transfer):
            body = transfer.body()
            seen.update(size=transfer.size, digests=dict(transfer.digests), content=None)
            if body is not None:
                with body:
                    seen["content"] = body.read()

    async with context_of(server(Reply(BYTES, cut=1000), Reply(BYTES)), Reads()) as context:
        writer = {"buffer": BufferWriter(), "file": FileWriter(tmp_path / "file"), "stream": None}[form]
        download = Download(URL, writer, context=context, digests=["sha256", "md5"])
        if form == "stream":
            async with download.stream() as stream:
                async for _ in stream:
                    pass
        else:
            await download.run()
    assert seen == {
        "size": len(BYTES),
        "digests": {"sha256": hashlib.sha256(BYTES).hexdigest(), "md5": hashlib.md5(BYTES).hexdigest()},
        "content": None if form == "stream" else BYTES,
    }


class Requires(Plugin):
    """Knows what the bytes must be."""

    def __init__(self, *validations) -> None:
        self.validations = validations

    @hookimpl
    async def prepare(self, transfer):
        for validation in self.validations:
            transfer.require(validation)


async def test_require_adds_a_validation(tmp_path):
    """“It may call `transfer.require(validation)` in `prepare` (a metalink's digest)”."""
    good = DigestValidation("sha256", hashlib.sha256(BYTES).hexdigest())
    async with context_of(server(), retries=0) as context:
        result = await Download(URL, BufferWriter(), context=context, plugins=[Requires(good)]).run()
        assert result.digests == {"sha256": good.hexdigest}
        wrong = DigestValidation("sha256", "00" * 32)
        with pytest.raises(DigestMismatch):
            await Download(URL, FileWriter(tmp_path / "f"), context=context, plugins=[Requires(good, wrong)]).run()
    assert list(tmp_path.iterdir()) == []


async def test_requiring_in_each_attempt_adds_once():
    """`prepare` runs before every attempt: an equal validation counts once, and keeps the bytes that are there."""
    mem = server(Reply(BYTES, cut=1000), Reply(BYTES))
    async with context_of(mem, Requires(SizeValidation(len(BYTES)))) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert [each.offset for each in mem.log] == [0, 1000]


async def test_require_elsewhere_is_refused():
    """In `prepare` only: later the bytes would have escaped it."""

    class Late(Plugin):
        @hookimpl
        async def validate(self, transfer):
            transfer.require(SizeValidation(1))

    async with context_of(server(), Late()) as context:
        with pytest.raises(PluginError, match=r"Late\.validate failed.*in prepare only"):
            await Download(URL, BufferWriter(), context=context).run()


async def test_validate_may_refuse_what_no_digest_could():
    """A plugin's verdict is a verdict."""

    class NoPage(Plugin):
        @hookimpl
        async def validate(self, transfer):
            if transfer.payload.info.headers.get("Content-Type") == "text/html":
                raise ValidationError("a page came instead of the file")

    mem = server(Reply(b"<html>", headers=(("Content-Type", "text/html"),)), Reply(BYTES))
    writer = BufferWriter()
    async with context_of(mem, NoPage()) as context:
        await Download(URL, writer, context=context).run()
    assert writer.content() == BYTES


async def leave_early(download: Download) -> None:
    """Enter its stream, and leave it."""
    async with download.stream():
        pass


@pytest.mark.parametrize("cut", [None, 1000])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_body_is_closed_before_the_answer_is_left(cut, stream):
    """“`body` … closed by the engine before the answer is left”, however it ends."""
    order = []

    class Watches(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer):
            return self.around((yield))

        @asynccontextmanager
        async def around(self, answer):
            async with answer as payload:
                try:
                    yield replace(payload, body=self.pass_on(payload.body))
                finally:
                    order.append("left")

        async def pass_on(self, body):
            try:
                async for block in body:
                    yield block
                    if cut == 1000:
                        raise Truncated("enough")
            finally:
                order.append("closed")

    async with context_of(server(), Watches(), retries=0) as context:
        download = Download(URL, BufferWriter(), context=context)
        with pytest.raises(Truncated) if cut else nullcontext():
            await (leave_early(download) if stream else download.run())
    assert order == ["closed", "left"]


async def test_a_block_is_good_only_until_the_next_is_asked_for():
    """“Each a bytes-like object valid until the next is asked for”: a body may use one buffer again and again."""

    class Reuses(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer):
            return self.around((yield))

        @asynccontextmanager
        async def around(self, answer):
            async with answer as payload:
                yield replace(payload, body=self.pass_on(payload.body))

        async def pass_on(self, body):
            buffer = bytearray(1 << 20)
            async for block in body:
                buffer[: len(block)] = block
                yield memoryview(buffer)[: len(block)]

    writer = BufferWriter()
    async with context_of(server(), Reuses()) as context:
        await Download(URL, writer, context=context, digests={"sha256": hashlib.sha256(BYTES).hexdigest()}).run()
        assert writer.content() == BYTES
        async with Download(URL, context=context).stream() as stream:
            assert b"".join([block async for block in stream]) == BYTES


CORE = Path(downhaul.__file__).parent


PLUGINS = sorted(str(path.relative_to(CORE)) for path in CORE.glob("plugins/**/*.py"))


@pytest.mark.parametrize("path", ["_defaults.py", *PLUGINS])
def test_what_comes_with_the_core_uses_exported_objects_only(path):
    """“Nothing the core does by default could not have been written by a third party”."""
    for node in ast.walk(ast.parse((CORE / path).read_text())):
        if isinstance(node, ast.ImportFrom) and ((node.level and path == "_defaults.py") or node.module == "downhaul"):
            assert {alias.name for alias in node.names} <= set(downhaul.__all__)
        if isinstance(node, ast.ImportFrom | ast.Import):
            assert not any(alias.name.startswith("downhaul._") for alias in node.names)
            assert not (getattr(node, "module", None) or "").startswith("downhaul._")
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            assert ast.unparse(node.value) != "transfer"
            assert ast.unparse(node.value) != "context"


async def test_the_built_in_plugins_may_be_replaced_one_by_one(monkeypatch):
    """A third party's verdict, rounds and dispatch do what the built-in ones do."""

    class Dispatch(Plugin):
        @hookimpl(trylast=True)
        def fetch(self, transfer):
            return transfer.context.drive(transfer)

    class Judge(Plugin):
        @hookimpl
        async def validate(self, transfer):
            for _, check in transfer.checks:
                check.finish()

    class Again(Plugin):
        @hookimpl(trylast=True)
        async def error(self, transfer, error):
            return downhaul.Retry(after=0) if error.transient else None

    monkeypatch.setattr(Context, "built_in", (Judge(), Again(), Dispatch()))
    mem = server(Reply(b"wrong"), Reply(status=503), Reply(BYTES))
    async with Context(drivers={"mem": mem}) as context:
        digests = {"sha256": hashlib.sha256(BYTES).hexdigest()}
        result = await Download(URL, BufferWriter(), context=context, digests=digests).run()
    assert result.attempts == 3
