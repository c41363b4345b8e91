"""The driver: from a request to a payload."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple
from weakref import WeakKeyDictionary

from downhaul import (
    ConnectError,
    Driver,
    FetchError,
    Payload,
    PolicyError,
    ProtocolError,
    ProxyError,
    Timeout,
    TimeoutExceeded,
)

from ._body import Body
from ._client import Client
from ._location import check_user, locate
from ._login import ANONYMOUS
from ._options import FtpOptions
from ._pool import Key, Pool
from ._state import State, described, whole_answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from downhaul import Info, Request, Settings

    from ._data import DataConnection
    from ._location import Location
    from ._replies import Reply

_LOST: Final = (ConnectError, ProtocolError, TimeoutExceeded)
"""What commands may end in that were sent in one piece, where a server or a firewall does not take that."""


class _Passive(NamedTuple):
    """How a data connection is to be had: by EPSV, or else by PASV; and the reply to that, if it was asked already."""

    extended: bool
    reply: Reply | None


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
        client, state, passive = await self._begin(key, location, request, settings)
        body: Body | None = None
        clean = True
        try:
            info = whole_answer(request, state)
            if info is None:
                clean = False
                info, body = await self._retrieve(client, location, request, state, passive, options.block)
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

    async def _begin(
        self, key: Key, location: Location, request: Request, settings: Settings
    ) -> tuple[Client, State, _Passive]:
        """Return a control connection, what the server told on it about the file, and how the bytes are to be had.

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
                self._pool.add(client)
            client.timeout, client.answered = timeout, False
            at_once = not client.loses_commands and host not in self._one_by_one
            extended = host not in self._without_epsv
            known = False
            try:
                if at_once:
                    passive = ("EPSV" if extended else "PASV") if _wants_bytes(request) else None
                    about_size, about_time, reply = await client.about_at_once(location.path, passive)
                else:
                    about_size, about_time, reply = await client.about(location.path)
                known = True
                return client, State.of(about_size, about_time), _Passive(extended, reply)
            except FetchError as error:
                lost = at_once and (client.answered or not reused) and self._suspected(host, error)
                again = lost if client.answered else reused and not isinstance(error, TimeoutExceeded)
                if not again:
                    raise
            finally:
                if not known:
                    await self._pool.drop(client)

    async def _retrieve(
        self, client: Client, location: Location, request: Request, state: State, passive: _Passive, block: int
    ) -> tuple[Info, Body]:
        data = await self._open_data(client, request.origin, passive)
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
        return described(request, state, size, left if limit is None else limit), body

    async def _open_data(self, client: Client, host: str, passive: _Passive) -> DataConnection:
        at_once = passive.reply is not None
        try:
            data, failure = await client.open_data(passive.reply, extended=passive.extended)
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


async def _nothing() -> AsyncGenerator[bytes, None]:
    return
    yield b""  # what makes it a generator
