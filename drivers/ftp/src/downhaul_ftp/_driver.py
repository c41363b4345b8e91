"""The driver: from a request to a payload."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final
from weakref import WeakKeyDictionary

from downhaul import (
    ConnectError,
    Driver,
    FetchError,
    Headers,
    Info,
    Payload,
    PolicyError,
    ProtocolError,
    ProxyError,
    RangeRefused,
    Timeout,
    TimeoutExceeded,
    Version,
)

from ._body import Body
from ._client import Client
from ._failures import refused
from ._location import check_user, locate
from ._login import ANONYMOUS
from ._options import FtpOptions
from ._pool import Key, Pool
from ._replies import http_date, size_of, time_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from downhaul import Request, Settings

    from ._data import DataConnection
    from ._location import Location
    from ._replies import Reply

_LOST: Final = (ConnectError, ProtocolError, TimeoutExceeded)
"""What commands may end in that were sent in one piece, where a server or a firewall does not take that."""


@dataclass(frozen=True, slots=True)
class _State:
    """What the server tells about a file without sending it, and the reply where it tells neither."""

    size: int | None
    modified: str | None
    refusal: Reply | None
    extended: bool
    """Whether EPSV is to open the data connection, else PASV."""
    passive: Reply | None
    """The reply to that, if it was asked for along with the state."""

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
        self._one_by_one: set[str] = set()

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
        client, state = await self._begin(key, location, request, settings)
        body: Body | None = None
        clean = True
        try:
            info = _info(request, state)
            if info is None:
                clean = False
                info, body = await self._retrieve(client, location, request, state, options.block)
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

    async def _begin(self, key: Key, location: Location, request: Request, settings: Settings) -> tuple[Client, _State]:
        """Return a control connection, and what the server told about the file on it.

        An idle connection that turns out to be dead is no failure: the next one is asked, in the end a new one. Nor is
        it one that answers the first of several commands only: from then on its host gets one at a time.
        """
        timeout, host = settings.timeout or Timeout(), key.origin
        while True:
            client = await self._pool.take(key)
            reused = client is not None
            if client is None:
                await self.idle.make_room(host)
                client = await Client.opened(location, key.user, timeout)
                self._pool.add(key, client)
            client.timeout, client.answered = timeout, False
            at_once = not client.loses_commands and host not in self._one_by_one
            extended = host not in self._without_epsv
            known = False
            try:
                if at_once:
                    passive = (b"EPSV" if extended else b"PASV",) if _wants_bytes(request) else ()
                    state = _state(extended, *await client.about_at_once(location.path, *passive))
                else:
                    state = _state(extended, *await client.about(location.path))
                known = True
                return client, state
            except FetchError as error:
                lost = at_once and (client.answered or not reused) and self._suspected(host, error)
                again = lost if client.answered else reused and not isinstance(error, TimeoutExceeded)
                if not again:
                    raise
            finally:
                if not known:
                    await self._pool.drop(client)

    async def _retrieve(
        self, client: Client, location: Location, request: Request, state: _State, block: int
    ) -> tuple[Info, Body]:
        data = await self._open_data(client, request.origin, state)
        try:
            if request.offset:
                await client.restart(request.offset)
            final, announced = await client.retrieve(location.path, request.offset)
        except BaseException:
            data.close()
            raise
        size, offset = state.size, request.offset
        if size is None and not offset:  # behind an offset some servers announce the rest, some the whole
            size = announced
        left = None if size is None else size - offset
        limit = request.length if left is None or (request.length is not None and request.length < left) else None
        body = Body(client, data, offset=offset, expected=left, limit=limit, final=final, block=block)
        return _described(request, state, size, left if limit is None else limit), body

    async def _open_data(self, client: Client, host: str, state: _State) -> DataConnection:
        at_once = state.passive is not None
        try:
            data, failure = await client.open_data(state.passive, extended=state.extended)
        except FetchError as error:
            self._without_epsv.discard(host)  # next time both ways are tried again
            at_once and self._suspected(host, error)
            raise
        if failure is not None:
            self._without_epsv.add(host)
            at_once and self._suspected(host, failure)  # some firewalls open a port only if its reply comes alone
        return data

    def _suspected(self, host: str, failure: FetchError) -> bool:
        """Tell whether *failure* may be of commands that came in one piece; from then on *host* gets one at a time."""
        lost = isinstance(failure, _LOST)
        if lost:
            self._one_by_one.add(host)
        return lost


def _wants_bytes(request: Request) -> bool:
    """Tell whether a data connection will most probably be needed."""
    return request.verb == "get" and request.unless is None and request.length != 0


def _state(extended: bool, about_size: Reply, about_time: Reply, passive: Reply | None = None) -> _State:
    size, modified = size_of(about_size), time_of(about_time)
    refusal = about_size if about_size.code == 550 else about_time
    return _State(size, modified, refusal if size is None and modified is None else None, extended, passive)


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
