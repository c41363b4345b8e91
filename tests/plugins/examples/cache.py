"""A cache in memory: it answers first, fetches what it lacks, and keeps only what was done well."""

from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from downhaul import Info, Payload, Plugin, Result, hookimpl


@dataclass
class Copy:
    shelf: dict = field(default_factory=dict)  # of the context
    url: str = ""
    info: Info | None = None
    content: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True)
class Cache(Plugin):
    @hookimpl
    async def prepare(self, transfer):
        transfer.state(self, Copy).shelf = await transfer.context.once(self, "shelf", self.make_shelf)

    async def make_shelf(self):
        return {}

    @hookimpl(tryfirst=True)
    def fetch(self, transfer):
        copy, request = transfer.state(self, Copy), transfer.request
        if request.credentials is not None or request.unless is not None or request.verb != "get":
            return None
        if request.url in copy.shelf:
            return self.serve(request, *copy.shelf[request.url])
        return self.fill(transfer, copy) if request.length is None else None

    @asynccontextmanager
    async def serve(self, request, info, content):
        end = None if request.length is None else request.offset + request.length
        info = replace(info, size=len(content), start=request.offset, resumable=True, proof="length")
        yield Payload(info, self.one_block(content[request.offset : end]))

    async def one_block(self, content):
        yield content

    @asynccontextmanager
    async def fill(self, transfer, copy):
        async with transfer.open(self, transfer.request) as payload:
            yield replace(payload, body=self.keep(copy, transfer.request.url, payload))

    async def keep(self, copy, url, payload):
        copy.url, copy.info = url, payload.info if payload.info.start <= len(copy.content) else None
        del copy.content[payload.info.start :]
        async for block in payload.body:
            copy.content += block
            yield block

    @hookimpl
    def done(self, transfer, outcome):
        copy = transfer.state(self, Copy)
        if isinstance(outcome, Result) and outcome.part is None and copy.info is not None:
            copy.shelf[copy.url] = copy.info, bytes(copy.content)
