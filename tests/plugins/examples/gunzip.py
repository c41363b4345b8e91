"""A decompressor: accepts gzip, and delivers what is in it; the result says so.

A driver may have the last word on the coding: that of HTTP asks for none.
"""

import zlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from downhaul import Plugin, ProtocolError, RangeRefused, Truncated, hookimpl


@dataclass(frozen=True)
class Gunzip(Plugin):
    @hookimpl
    async def prepare(self, transfer):
        headers = (*transfer.request.headers, ("Accept-Encoding", "gzip"))
        transfer.request = replace(transfer.request, headers=headers)

    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        return self.unpacked((yield))

    @asynccontextmanager
    async def unpacked(self, answer):
        async with answer as payload:
            if payload.info.headers.get("Content-Encoding") != "gzip":
                yield payload
            elif payload.info.start:
                raise RangeRefused("the middle of a gzip stream")
            else:
                yield payload.transformed(self.unpack(payload))

    async def unpack(self, payload):
        unzip, taken = zlib.decompressobj(wbits=31), 0
        try:
            async for block in payload.body:
                taken += len(block)
                while block:
                    if unzip.eof:  # a file of several members (RFC 1952, section 2.2)
                        unzip = zlib.decompressobj(wbits=31)
                    yield unzip.decompress(block)
                    block = unzip.unused_data
        except zlib.error as reason:
            raise ProtocolError(f"no gzip stream: {reason}") from None
        if payload.info.size not in {None, taken} or not unzip.eof:
            raise Truncated("the gzip stream has no end")
