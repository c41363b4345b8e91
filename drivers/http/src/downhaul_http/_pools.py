"""The driver's own connections."""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import httpx

from downhaul import TLS, ProxyError

from ._connection import SCRATCH
from ._lanes import DirectLane, Key, LibraryLane
from ._mocks import is_mocked
from ._options import HttpOptions
from ._proxies import client_proxy
from ._requests import origin_of
from ._tls import ssl_context, stamps

if TYPE_CHECKING:
    from downhaul import IdleConnections, Request, Settings, User

    from ._lanes import Lane
    from ._senders import Sender
    from ._tls import Stamps

_PERIOD: Final = 15.0
"""Seconds between two looks for what nobody uses any more."""

_UNUSED: Final = 60.0
"""Seconds after which settings that nobody uses are forgotten; reading the authorities again takes some 20 ms."""

_PROVES_CONNECTION: Final = frozenset({"negotiate", "ntlm"})


class Pool:
    """The free lanes for one combination of settings, by their key, and what new ones are made with."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.options = options = settings.of(HttpOptions)
        self.is_direct = options.http1 and not (options.http2 or options.unix_socket or options.socket_options)
        self._limit = math.inf if options.keepalive_expiry is None else options.keepalive_expiry
        self.free: dict[Key, list[Lane]] = {}
        self.count = 0
        self.users = 0
        self.unused_since = 0.0
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._reading = asyncio.Lock()
        self._no_trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    async def lane(self, key: Key, idle: IdleConnections, scratch: memoryview) -> Lane:
        """Return a free lane for *key*, or a new one; raises TLSError and ProxyError.

        A new one has room among *idle* connections, and is to connect at once.
        """
        while lanes := self.free.get(key):
            # The last one that was used: its connection is the least likely to be dead.
            lane = lanes.pop()
            self.count -= 1
            if time.monotonic() - lane.free_since <= self._limit:
                lane.in_use()
                return lane
            await lane.aclose()
        origin, proxy = key.origin, key.proxy
        # A client certificate is shown to the origin of the download only, so never to a proxy. And where nobody
        # speaks TLS, nobody needs the authorities: reading them takes its time.
        trust = await self._context(identity=True) if origin.startswith("https:") else None
        proxy_trust = await self._context(identity=False) if proxy[:6].lower() == "https:" else None
        await idle.make_room(origin)
        if key.is_direct:
            return DirectLane(trust, self.options.local_address, scratch, self, key)
        transport = _transport(self.options, trust or self._no_trust, client_proxy(proxy, proxy_trust))
        return LibraryLane(transport, self, key)

    def keep(self, lane: Lane, idle: IdleConnections) -> bool:
        """Take *lane* among the free ones and the *idle* connections, unless there are as many as are allowed."""
        if self.options.max_idle_connections is not None and self.count >= self.options.max_idle_connections:
            return False
        lane.free_since = time.monotonic()
        self.free.setdefault(lane.key, []).append(lane)
        self.count += 1
        lane.in_use = idle.add(lane.key[0], partial(self._let_go, lane))
        return True

    def expired(self, now: float) -> list[Lane]:
        """Take out and return the lanes that have been free for longer than connections may be idle."""
        found: list[Lane] = []
        for key, lanes in list(self.free.items()):
            found += [lane for lane in lanes if now - lane.free_since > self._limit]
            self.free[key] = [lane for lane in lanes if now - lane.free_since <= self._limit]
            if not self.free[key]:
                del self.free[key]
        self.count -= len(found)
        return found

    def everything(self) -> list[Lane]:
        """Take out and return every free lane."""
        found = [lane for lanes in self.free.values() for lane in lanes]
        self.free.clear()
        self.count = 0
        return found

    async def _let_go(self, lane: Lane) -> None:
        lanes = self.free.get(lane.key, [])
        if lane in lanes:  # else it has been taken out to be closed, only not yet
            lanes.remove(lane)
            self.count -= 1
            if not lanes:
                del self.free[lane.key]
        await lane.aclose()

    async def _context(self, *, identity: bool) -> ssl.SSLContext:
        async with self._reading:
            context = self._contexts.get(identity)
            if context is None:
                tls = self.settings.tls or TLS()
                context = self._contexts[identity] = await asyncio.to_thread(ssl_context, tls, identity=identity)
            return context


class Pools:
    """One pool per `Settings.connection`, without a limit to connections: the context has one."""

    def __init__(self) -> None:
        self._pools: dict[tuple[Settings, Stamps], Pool] = {}
        self._lent: dict[Lane, IdleConnections] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._scratch = memoryview(bytearray(SCRATCH))

    async def take(self, request: Request, settings: Settings, idle: IdleConnections) -> Lane:
        """Return a lane for *request* alone; raises TLSError and ProxyError."""
        origin, proxy = origin_of(request), settings.proxy_for(request.url)
        shared = settings.connection, stamps(settings.tls)
        pool = self._pools.get(shared)
        if pool is None:
            pool = self._pools[shared] = Pool(settings.connection)
        pool.users += 1
        key = Key(origin, proxy, _who(request), pool.is_direct and not proxy and not is_mocked())
        try:
            lane = await pool.lane(key, idle, self._scratch)
        except BaseException:
            self._unused(pool)
            raise
        self._lent[lane] = idle
        return lane

    async def give_back(self, sender: Sender, *, clean: bool) -> None:
        """Keep a lane for the next exchange, or close it unless it is *clean*."""
        assert isinstance(sender, DirectLane | LibraryLane)
        self._unused(sender.pool)
        idle = self._lent.pop(sender, None)
        if idle is not None and clean and sender.pool.keep(sender, idle):
            return
        await sender.aclose()

    def evict(self, now: float) -> None:
        """Close what has not been used for long at the time *now* (``time.monotonic()``)."""
        for shared, pool in list(self._pools.items()):
            lanes = pool.expired(now)
            if not pool.users and now - pool.unused_since >= _UNUSED:
                lanes += pool.everything()
                del self._pools[shared]
            for lane in lanes:
                task = asyncio.get_running_loop().create_task(lane.aclose())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close everything, lanes in use included."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lanes = [*self._lent, *(lane for pool in self._pools.values() for lane in pool.everything())]
        self._lent.clear()
        self._pools.clear()
        for lane in lanes:
            await lane.aclose()
        if self._closing:
            await asyncio.wait(self._closing)

    def _unused(self, pool: Pool) -> None:
        pool.users -= 1
        if not pool.users:
            pool.unused_since = time.monotonic()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PERIOD, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.evict(time.monotonic())
        if self._pools:
            self._timer = asyncio.get_running_loop().call_later(_PERIOD, self._tick)


def _who(request: Request) -> User | str | None:
    """Return whose connection *request* needs.

    HTTP is told the user with each request, but gateways and balancers may tie what they know to the connection, and
    some schemes prove the connection, not the request (RFC 4559, section 6): one user's is never used for another.
    """
    if request.user is None and request.entitled is not None:
        for name, value in request.entitled.headers:
            if name.lower() == "authorization" and value.partition(" ")[0].lower() in _PROVES_CONNECTION:
                return value
    return request.user


def _transport(options: HttpOptions, trust: ssl.SSLContext, proxy: httpx.Proxy | None) -> httpx.AsyncHTTPTransport:
    failure = None
    try:
        return httpx.AsyncHTTPTransport(
            verify=trust,
            trust_env=False,
            http1=options.http1,
            http2=options.http2,
            limits=httpx.Limits(max_connections=None, keepalive_expiry=options.keepalive_expiry),
            proxy=proxy,
            uds=options.unix_socket,
            local_address=options.local_address,
            socket_options=options.socket_options or None,
        )
    except ImportError:
        failure = ProxyError('a SOCKS proxy needs the package socksio: pip install "httpx[socks]"')
    raise failure
