"""The driver: from a request to a payload."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

from downhaul import (
    Driver,
    FetchError,
    Headers,
    Info,
    Payload,
    PolicyError,
    ProxyError,
    RangeRefused,
    Timeout,
    TimeoutExceeded,
    Version,
)

from ._body import Body
from ._client import ANONYMOUS, Client
from ._failures import refused
from ._location import check_user, locate
from ._options import FtpOptions
from ._pool import Key, Pool
from ._replies import http_date

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from downhaul import Request, Settings

    from ._location import Location
    from ._replies import Reply


@dataclass(frozen=True, slots=True)
class _State:
    """What the server tells about a file without sending it, and the reply where it tells neither."""

    size: int | None
    modified: str | None
    refusal: Reply | None

    @property
    def version(self) -> Version | None:
        if self.size is None and self.modified is None:
            return None
        return Version(modified=self.modified, size=self.size, strong=None not in (self.size, self.modified))


class FtpDriver(Driver):
    """Downloads ``ftp://`` URLs: passive, binary, with the size proved, over control connections that are reused.

    The path of a URL is relative to the directory of the login, absolute where it starts with ``%2F``. Without
    credentials the login is anonymous. Options: `FtpOptions`.
    """

    options: ClassVar[tuple[type, ...]] = (FtpOptions,)

    def __init__(self) -> None:
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, Pool] = WeakKeyDictionary()
        self._without_epsv: set[str] = set()

    @property
    def _pool(self) -> Pool:
        """The connections of the running loop: after a fork, the parent's are not ours."""
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            pool = self._pools[loop] = Pool()
        return pool

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncGenerator[Payload, None]:
        """Open *request*; see `downhaul.Driver.open`.

        Raises `PolicyError` before connecting for a URL that cannot be asked for and for listings, `ProxyError`
        where the settings want a proxy.
        """
        if request.verb == "list":
            raise PolicyError("refused: listing is not offered yet")
        if request.entitled is not None and request.entitled.form:
            raise PolicyError("refused: FTP has no way to post a form")
        location = locate(request.url)
        if settings.proxy_for(request.url):
            raise ProxyError('FTP through a proxy is not offered; for a direct connection set proxy="" or no_proxy')
        options = settings.of(FtpOptions)
        user = ANONYMOUS if request.user is None else check_user(request.user)
        key = Key(request.origin, user, settings.connection)
        client, state = await self._begin(key, location, settings)
        body: Body | None = None
        clean = True
        try:
            info = _info(request, state)
            if info is None:
                clean = False
                info, body = await self._retrieve(client, location.path, request, state, options)
            yield Payload(info, body or _nothing())
        finally:
            if clean or (body is not None and body.clean):
                self._pool.give(key, client, options.keep_alive, self.idle)
            else:
                client.cut()
                try:
                    if body is not None:
                        await body.aclose()
                finally:
                    await self._pool.drop(client)

    async def _begin(self, key: Key, location: Location, settings: Settings) -> tuple[Client, _State]:
        """Return a control connection, and what the server told about the file on it.

        An idle connection that turns out to be dead is no failure: the next one is asked, in the end a new one.
        """
        timeout = settings.timeout or Timeout()
        while True:
            client = await self._pool.take(key)
            reused = client is not None
            if client is None:
                await self.idle.make_room(key.origin)
                client = await Client.opened(location, key.user, timeout)
                self._pool.add(client)
            client.timeout, client.answered = timeout, False
            known = False
            try:
                state = await _ask_state(client, location.path)
                known = True
                return client, state
            except TimeoutExceeded:
                raise
            except FetchError:
                if not reused or client.answered:
                    raise
            finally:
                if not known:
                    await self._pool.drop(client)

    async def _retrieve(
        self, client: Client, path: bytes, request: Request, state: _State, options: FtpOptions
    ) -> tuple[Info, Body]:
        offset, host = request.offset, request.origin
        extended = host not in self._without_epsv
        try:
            data, by_epsv = await client.open_data(options.read_ahead, extended=extended)
        except FetchError:
            self._without_epsv.discard(host)  # next time both ways are tried again
            raise
        if not by_epsv:
            self._without_epsv.add(host)
        try:
            if offset:
                await client.restart(offset)
            final, announced = await client.retrieve(path, offset)
        except BaseException:
            await data.aclose()
            raise
        size = state.size
        if size is None and not offset:  # behind an offset some servers announce the rest, some the whole
            size = announced
        left = None if size is None else size - offset
        limit = request.length if left is None or (request.length is not None and request.length < left) else None
        body = Body(client, data, offset=offset, expected=left, limit=limit, final=final)
        return _described(request, state, size, left if limit is None else limit), body


async def _ask_state(client: Client, path: bytes) -> _State:
    size, about_size = await client.size(path)
    modified, about_time = await client.modified(path)
    refusal = about_size if about_size.code == 550 else about_time
    return _State(size, modified, refusal if size is None and modified is None else None)


def _info(request: Request, state: _State) -> Info | None:
    """Return the whole answer where it has no bytes, or None where the file must be retrieved."""
    version = state.version
    if request.unless is not None and _same(request.unless, version):
        return replace(_described(request, state, state.size, None), not_modified=True)
    if request.version is not None and request.version != version:
        raise RangeRefused("the file is not what it was: SIZE or MDTM differ")
    if state.size is not None and request.offset > state.size:
        raise RangeRefused(f"offset {request.offset} is beyond the {state.size} bytes of the file")
    if request.verb == "stat":
        if state.refusal is not None:
            raise refused("the server tells neither size nor time", state.refusal, of_file=True)
        return _described(request, state, state.size, state.size)
    if request.length == 0 or (request.offset and request.offset == state.size):
        return _described(request, state, state.size, 0)
    return None


def _same(known: Version, version: Version | None) -> bool:
    if version is None or not version.strong:
        return False
    return (known.size, known.modified) == (version.size, version.modified)


def _described(request: Request, state: _State, size: int | None, length: int | None) -> Info:
    """Return what is known of the file (`size`) and of the body (`length`, in bytes)."""
    proof = "unproven" if size is None else "150 line" if state.size is None else "SIZE"
    fields = []
    if length is not None:
        fields.append(("Content-Length", str(length)))
    if state.modified is not None and (date := http_date(state.modified)) is not None:
        fields.append(("Last-Modified", date))
    return Info(
        request.url,
        Headers(fields),
        size=size,
        version=state.version,
        start=request.offset,
        resumable=True,
        proof=proof,
    )


async def _nothing() -> AsyncGenerator[bytes, None]:
    return
    yield b""  # what makes it a generator
