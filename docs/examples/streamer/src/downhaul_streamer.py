"""A pull-through proxy, which passes files on from an origin and its mirrors while they arrive."""

from __future__ import annotations

import asyncio
import gzip
import lzma
import re
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from urllib.parse import quote, unquote, urljoin, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route

import downhaul.plugins
from downhaul.adapters.asgi import Relay

INDICES = {  # the URL of an index, and in it what its names are relative to: how it tells a file and its digest
    r"(.*/)": r"""href=["'](?P<name>[^"'#]+)#sha256=(?P<digest>[0-9a-f]{64})""",
    r"(.*/)(In)?Release": r"(?m)^ (?P<digest>[0-9a-f]{64}|[0-9a-f]{128}) +\d+ (?P<name>\S+)$",
    r"(.*/)dists/.+/binary-[^/]+/.+": r"(?m)^Filename: (?P<name>\S+)$(\n.+)*?\nSHA256: (?P<digest>[0-9a-f]{64})$",
}
IN_ORDER = downhaul.plugins.InOrder()


def spelt(url: str) -> str:
    """Return *url* without a fragment, in the one spelling that URLs have here."""
    parts = urlsplit(url)
    return parts._replace(path=quote(unquote(parts.path)), fragment="").geturl()


def digests(url: str, content: bytes) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the URLs of the files that the index at *url* names, each with an algorithm and its digits."""
    base, entry = next((index[1], entry) for each, entry in INDICES.items() if (index := re.fullmatch(each, url)))
    unpack = {b"\x1f\x8b": gzip.decompress, b"\xfd7": lzma.decompress}.get(content[:2], bytes)
    for found in re.finditer(entry, unpack(content).decode(errors="replace")):
        name, digest = urljoin(base, found["name"]), found["digest"]
        algorithm = "sha256" if len(digest) == 64 else "sha512"
        yield spelt(name), (algorithm, digest)
        if url.endswith("Release"):  # the indices that it names may be asked for by their digest
            yield spelt(urljoin(name, f"by-hash/{algorithm.upper()}/{digest}")), (algorithm, digest)


class Proxy(downhaul.Plugin):
    """What has a known digest may come from any mirror, what has none comes from the origin alone."""

    def __init__(self, origin: str, *mirrors: str) -> None:
        self.origin, *others = (f"{spelt(url).rstrip('/')}/" for url in (origin, *mirrors))
        self.failed = dict.fromkeys([*others, self.origin], float("-inf"))  # when each of them did
        self.known: dict[str, tuple[str, str]] = {}
        self.tee = downhaul.BufferWriter()  # one for all, so that equal downloads are equal

    @asynccontextmanager
    async def run(self, _: Starlette) -> AsyncIterator[None]:
        async with downhaul.Context(connections=1000, connections_per_origin=500, retries=1) as self.context:
            yield

    async def answer(self, request: Request) -> Relay:
        url = spelt(f"{urljoin(self.origin, quote(request.path_params['path']))}?{request.url.query}")
        if not url.startswith(self.origin):  # by way of ".."
            raise HTTPException(404)
        download = downhaul.Download(url, context=self.context)
        if any(re.fullmatch(each, url) for each in INDICES):
            download = download.clone(writer=self.tee, plugins=[self], settings=downhaul.Settings(max_size=64 * 2**20))
        if url in self.known:
            mirrors = sorted(self.failed, key=lambda each: monotonic() - self.failed[each] < 300)
            plugins = [self, downhaul.plugins.MirrorList(mirrors, replaces=self.origin, choice=IN_ORDER)]
            download = download.clone(digests=dict([self.known[url]]), plugins=plugins)
        return Relay(download, join=2**20)

    @downhaul.hookimpl(trylast=True)
    async def validate(self, transfer: downhaul.Transfer) -> None:
        """Learn from an index that was judged, before its last bytes are passed on and anybody asks for its files."""
        if (body := transfer.body()) is not None:
            with suppress(Exception), body:  # one that cannot be read teaches nothing
                self.known |= await asyncio.to_thread(lambda: dict(digests(transfer.url, body.read())))
            for url in [*self.known][:-300_000]:  # the oldest
                del self.known[url]

    @downhaul.hookimpl
    async def error(self, transfer: downhaul.Transfer, error: downhaul.DownloadError) -> None:
        """Have a mirror that is out of order or sent wrong bytes asked last, for five minutes."""
        if error.transient:
            self.failed |= {each: monotonic() for each in self.failed if transfer.request.url.startswith(each)}


if __name__ == "__main__":
    parser = ArgumentParser("downhaul_streamer", "%(prog)s [--port N] ORIGIN [MIRROR ...]", __doc__)
    parser.add_argument("--port", type=int, default=8000, help="of 127.0.0.1; 8000")
    parser.add_argument("urls", nargs="+", type=downhaul.Download, metavar="URL", help="the first is the origin")
    given = parser.parse_args()
    proxy = Proxy(*(each.url for each in given.urls))
    app = Starlette(routes=[Route("/{path:path}", proxy.answer)], lifespan=proxy.run)
    uvicorn.run(app, port=given.port, timeout_graceful_shutdown=3)
