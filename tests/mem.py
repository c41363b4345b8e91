"""A driver in memory, for tests of everything above the wire: each site is a script of replies."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from downhaul import (
    AccessDenied,
    ConnectError,
    Context,
    Driver,
    Headers,
    Info,
    NotFound,
    Payload,
    Plugin,
    RangeRefused,
    Redirected,
    Retries,
    Retry,
    ServerError,
    StatusError,
    Truncated,
    Version,
    hookimpl,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from pathlib import Path
    from typing import Any

    from downhaul import DownloadError, Request, Result, Settings, Transfer
    from downhaul._governor import Governor


@dataclass
class Reply:
    """How one request is answered."""

    data: bytes = b""
    status: int = 200
    cut: int | None = None  # the connection is lost after this many bytes of the file
    breaks: Exception | None = None  # what that loss is told as, if not as Truncated
    ranges: bool = True
    start: int | None = None  # a range is answered from here, whatever was asked
    guarded: bool = True  # heeds If-Range
    tag: str | None = '"v1"'
    weak: bool = False
    size: bool = True
    proof: str = "length"
    token: str | None = None  # else 401
    hang: str | None = None  # "open" or "body": for ever
    location: str | None = None
    retry_after: float | None = None
    error: Exception | None = None
    headers: tuple[tuple[str, str], ...] = ()
    block: int = 16 * 1024
    gate: asyncio.Event | None = None  # opens after this


def _describing(reply: Reply, start: int) -> tuple[tuple[str, str], ...]:
    """Return what HTTP says of the content: a part speaks of itself (RFC 9110, section 15.3.7)."""
    whole = len(reply.data)
    if not reply.size:
        return ()
    if not start:
        return (("Content-Length", str(whole)),)
    return ("Content-Length", str(whole - start)), ("Content-Range", f"bytes {start}-{whole - 1}/{whole}")


@dataclass
class Asked:
    """One request as the driver got it."""

    request: Request
    settings: Settings

    @property
    def url(self) -> str:
        return self.request.url

    @property
    def offset(self) -> int:
        return self.request.offset

    def header(self, name: str) -> str | None:
        return Headers(self.request.fields()).get(name)


class MemDriver(Driver):
    """Answers by script: the last reply of a site goes on for ever."""

    def __init__(self) -> None:
        self.sites: dict[str, list[Reply]] = {}
        self.log: list[Asked] = []
        self.live = 0
        self.peak = 0
        self.closed = 0

    def site(self, url: str, *replies: Reply, **fields: object) -> None:
        self.sites[url] = list(replies) or [Reply(**fields)]  # type: ignore[arg-type]

    def asked(self, url: str) -> list[Asked]:
        return [each for each in self.log if each.url == url]

    @property
    def urls(self) -> list[str]:
        return [each.url for each in self.log]

    async def aclose(self) -> None:
        self.closed += 1

    @contextlib.asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncGenerator[Payload]:
        self.log.append(Asked(request, settings))
        self.live += 1
        self.peak = max(self.peak, self.live)
        try:
            replies = self.sites.get(request.url)
            if replies is None:
                raise NotFound("404", code=404)
            reply = replies.pop(0) if len(replies) > 1 else replies[0]
            await self._head(reply, request)
            start = request.offset if reply.ranges and reply.status == 200 else 0
            if reply.start is not None and request.offset:
                start = reply.start
            version = Version(tag=reply.tag, size=len(reply.data), strong=not reply.weak) if reply.tag else None
            guard = request.version if reply.guarded else None
            if start and guard is not None and version is not None and guard.contradicts(version):
                start = 0
            headers = Headers((*_describing(reply, start), *reply.headers))
            if request.unless is not None and request.unless == version:
                yield Payload(Info(request.url, headers, not_modified=True, version=version), self._body(reply, 0, 0))
                return
            stop = None if request.length is None or not reply.ranges else start + request.length
            size = len(reply.data) if reply.size else None
            proof = reply.proof if reply.size else "unproven"
            info = Info(request.url, headers, size, version, start, resumable=reply.ranges, proof=proof)
            body = self._body(reply, start, stop)
            yield Payload(info, body)
        finally:
            self.live -= 1

    async def _head(self, reply: Reply, request: Request) -> None:
        if reply.gate is not None:
            await reply.gate.wait()
        await asyncio.sleep(0)
        if reply.error is not None:
            raise reply.error
        if reply.hang == "open":
            await asyncio.Event().wait()
        if reply.location is not None:
            raise Redirected(request.redirected(reply.location))
        if reply.token is not None and Headers(request.fields()).get("Authorization") != f"Bearer {reply.token}":
            raise AccessDenied("401", code=401)
        if reply.status == 0:
            raise ConnectError("refused")
        if reply.status == 404:
            raise NotFound("404", code=404)
        if reply.status == 416:
            raise RangeRefused("416") if request.offset else StatusError("416", code=416)
        if reply.status >= 500:
            raise ServerError(str(reply.status), code=reply.status, retry_after=reply.retry_after)
        if reply.status >= 400:
            raise StatusError(str(reply.status), code=reply.status, retry_after=reply.retry_after)

    async def _body(self, reply: Reply, start: int, stop: int | None) -> AsyncIterator[bytes]:
        end = len(reply.data) if stop is None else stop
        lost = reply.cut is not None and (stop is None or reply.cut < stop)
        data = reply.data[start : reply.cut if lost else end]
        for place in range(0, len(data), reply.block):
            await asyncio.sleep(0)
            yield data[place : place + reply.block]
        if reply.hang == "body":
            await asyncio.Event().wait()
        if lost:
            raise reply.breaks or Truncated("the connection was lost")


@dataclass(frozen=True)
class Mirrors(Plugin):
    """Asks these URLs one after another, in every round from the first."""

    urls: tuple[str, ...]

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        turn = transfer.state(self, dict)
        if turn.get("round") != transfer.round:
            turn.update(round=transfer.round, index=0)
        transfer.request = replace(transfer.request, url=self.urls[turn["index"]])

    @hookimpl
    async def error(self, transfer: Transfer) -> Retry | None:
        turn = transfer.state(self, dict)
        if turn["index"] + 1 >= len(self.urls):
            return None
        turn["index"] += 1
        return Retry()


class Ledger(Plugin):
    """Notes every error that hooks are asked about, and every end."""

    def __init__(self) -> None:
        self.errors: list[DownloadError] = []
        self.outcomes: list[Result | DownloadError | None] = []

    @hookimpl(tryfirst=True)
    async def error(self, transfer: Transfer, error: DownloadError) -> None:
        self.errors.append(error)

    @hookimpl
    def done(self, transfer: Transfer, outcome: Result | DownloadError | None) -> None:
        self.outcomes.append(outcome)


def names(directory: Path) -> list[str]:
    """Return the names of all files in *directory*, hidden ones too, sorted."""
    return sorted(path.name for path in directory.iterdir())


def context_of(driver: Driver, *plugins: object, **options: Any) -> Context:
    """Return a context where *driver* serves ``mem:`` and rounds follow each other at once."""
    return Context(drivers={"mem": driver}, plugins=(*plugins, Retries(base=0)), **options)


@contextlib.asynccontextmanager
async def slot(governor: Governor, origin: str, *, urgent: bool = False) -> AsyncGenerator[None]:
    """Hold a slot of *governor* for *origin* while the block runs; wait for one first."""
    await governor.take(origin, urgent=urgent)
    try:
        yield
    finally:
        governor.give_back(origin)


async def until(condition: Callable[[], object]) -> None:
    """Let others run until *condition* holds; fail if it never does."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")
