"""The context: what downloads share, and the loop that they run on."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar

from ._arguments import check_count, plugins_of, settings_of
from ._driven import Driven
from ._drivers import DriverBook
from ._loops import Call, CleanUp, LoopThread, running_loop
from ._pipeline import finished
from ._shared import Shared
from ._transfer import refuse_in_driver
from ._urls import scheme_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from typing import Unpack

    from ._download import Download
    from ._drivers import Driver
    from ._models import Payload
    from ._settings import Settings, SettingsFields
    from ._transfer import Transfer
    from ._writers import Writer

_T = TypeVar("_T")


class Context:
    """What downloads share: connection pools, tokens, mirror lists, limits; and settings and plugins by default.

    `plugins` are plugins, or names of the entry-point group ``downhaul.plugins``. `drivers` maps a scheme to a
    `Driver` of your own, or to the name of the distribution that is to serve it. `connections` and
    `connections_per_origin` limit the connections open at the same time, idle ones included. Settings come as a
    `Settings` or as its fields.

    ``async with Context()`` works on the running loop. Any other context has a loop in a thread of its own, for
    synchronous code in whatever thread and for other loops; close it with ``with`` or `close`.
    """

    built_in: ClassVar[tuple[object, ...]] = ()
    download_type: ClassVar[type[Download]]

    def __init__(
        self,
        *,
        plugins: Iterable[object] = (),
        drivers: Mapping[str, Driver | str] | None = None,
        connections: int = 100,
        connections_per_origin: int = 20,
        settings: Settings | None = None,
        **fields: Unpack[SettingsFields],
    ) -> None:
        for name, number in (("connections", connections), ("connections_per_origin", connections_per_origin)):
            check_count(name, number)
        self.connections = connections
        self.connections_per_origin = connections_per_origin
        self.settings = settings_of(settings, fields)
        self.plugins = plugins_of(plugins)
        self._given = dict(drivers or {})
        self._drivers = DriverBook(self._given)
        self._lock = threading.Lock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: LoopThread | None = None
        self._shared: Shared | None = None
        self._finalizer: weakref.finalize[..., Context] | None = None
        _alive.add(self)

    def download(self, url: str, writer: Writer | None = None, **options: Any) -> Download:
        """Return a `Download` that carries this context's settings and plugins with it, wherever it is run.

        *options* are those of `Download`. Raises UnsupportedScheme at once where no driver announces the scheme.
        """
        download = self.download_type(url, writer, **options)
        self._drivers.check(scheme_of(url), url)
        download.settings = download.settings.filled(self.settings)
        download.plugins = tuple(dict.fromkeys((*download.plugins, *self.plugins)))
        download.context = self
        return download

    async def once(
        self,
        plugin: object,
        key: Hashable,
        factory: Callable[[], Awaitable[_T]],
        ttl: float | Callable[[_T], float | None] | None = None,
    ) -> _T:
        """Return the value of *key* that equal plugins share; *factory* makes it, once however many ask.

        *ttl* is for how many seconds it is good, or a function of the value that tells (None: for as long as the
        context lives). The factory runs in a task of its own: a waiter that is cancelled does not disturb it, the last
        one to leave cancels it. Its failure reaches all that wait, and is forgotten. Raises PluginError, naming the
        circle, where factories wait for each other; and inside of what a driver opened, where a slot is held, unless
        the value is there already. To be awaited in hooks.
        """
        values = self._bound().values
        if not values.has(plugin, key):
            refuse_in_driver("context.once")
        return await values.once(plugin, key, factory, ttl)

    def forget(self, plugin: object, key: Hashable, stale: object) -> None:
        """Drop the value of *key* if it still is *stale*, so that one expired token is refreshed once."""
        self._bound().values.forget(plugin, key, stale)

    def drive(self, transfer: Transfer) -> AbstractAsyncContextManager[Payload]:
        """Let the driver for the scheme answer ``transfer.request``, in a slot of its origin; follow its redirects."""
        return Driven(self._bound(), transfer)

    @property
    def is_closed(self) -> bool:
        """Whether the context was closed; it does no more work then."""
        return self._closed

    @property
    def connections_in_use(self) -> int:
        """The number of slots that are taken now."""
        return 0 if self._shared is None else self._shared.governor.used

    def close(self) -> None:
        """Cancel what runs, wait for its clean-up, close all pools. Not for a context entered with ``async with``.

        Callable from any thread, also where a loop runs, and again: whoever closes it, it is closed when this returns.
        Raises PluginError if a driver cannot be closed; everything else is closed nevertheless.
        """
        with self._lock:
            thread, shared, call = self._thread, self._shared, None
            if self._loop is not None and thread is None:
                raise RuntimeError("this context belongs to an event loop; leave its `async with` instead")
            if thread is not None and (thread.is_here() or (shared is not None and shared.is_here())):
                raise RuntimeError("a hook cannot close the context that it runs in: it would wait for itself")
            if not self._closed and thread is not None and shared is not None:
                call = CleanUp(thread.loop, shared.aclose)
            self._closed = True
        try:
            if call is not None:
                call.wait()
        finally:
            if call is not None and thread is not None:
                self._let_go()
                thread.end()
            if thread is not None:
                thread.join()

    def __enter__(self) -> Self:
        self._refuse_closed()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        with self._lock:
            self._refuse_closed()
            if self._loop is not None:
                raise RuntimeError("this context is in use already; enter it before its first download")
            self._loop = asyncio.get_running_loop()
            self._shared = Shared(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
        if self._shared is not None:
            closing = asyncio.create_task(self._shared.aclose(asyncio.current_task()))
            cancelled = await finished(closing)  # nobody else could close what is left half-way
            closing.result()
            if cancelled is not None:
                raise cancelled

    async def _await(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine on the context's loop, and await it on the running one."""
        with self._lock:
            loop = self._work_loop()
            call = None if loop is running_loop() else Call(loop, make)
        return await (make() if call is None else call.arrive())

    def _block(self, make: Callable[[], Coroutine[Any, Any, _T]], instead: str) -> _T:
        """Run a coroutine on the context's loop, and wait for it; where a loop runs, say what to do *instead*."""
        if running_loop() is not None:
            raise RuntimeError(f"an event loop runs in this thread, and waiting would stop it; use `{instead}`")
        with self._lock:
            call = Call(self._work_loop(), make)
        return call.wait()

    async def _await_end(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the end of something on *loop*, where it began, and await it on the running one; see `_block_end`."""
        if loop is running_loop():
            await make()
        elif (call := self._end(loop, make)) is not None:
            with self._suppressed_if_closed():
                await call.arrive()

    def _block_end(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the end of something on *loop*, where it began, and wait for it.

        Where the context was closed, that was its end; in the child of a fork it is the parent's. Then return at once.
        """
        if (call := self._end(loop, make)) is not None:
            with self._suppressed_if_closed():
                call.wait()

    def _end(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, None]]) -> CleanUp | None:
        with self._lock:
            return CleanUp(loop, make) if loop is self._loop and not self._closed else None

    @contextmanager
    def _suppressed_if_closed(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError:
            if not self._closed:
                raise

    def _call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        """Let *callback* run on the context's loop soon; callable from any thread."""
        with self._lock:
            self._work_loop().call_soon_threadsafe(callback, *arguments)

    def _work_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop, made when it is first needed.

        To be called, and the loop given something to do, while the lock is held: so whatever comes to the loop comes
        before the context is closed, and nobody waits for what would never be done.
        """
        self._refuse_closed()
        if self._loop is None:
            self._thread, self._shared = LoopThread(), Shared(self)
            self._loop = self._thread.loop
            self._finalizer = weakref.finalize(self, self._thread.end, self._shared.aclose)
            self._finalizer.atexit = False
        elif self._thread is None and not self._loop.is_running():
            raise RuntimeError("the event loop that this context belongs to does not run; make another context")
        return self._loop

    def _let_go(self) -> None:
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None

    def _bound(self) -> Shared:
        if self._shared is None:
            self._refuse_closed()
            raise RuntimeError("this context is not in use yet")
        return self._shared

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RuntimeError("this context is closed")

    def _abandon(self) -> None:
        """In the child of a fork: leave to the parent what is the parent's, and start empty."""
        if self._shared is not None:
            _abandoned.append((self._loop, self._thread, self._shared))
        self._let_go()
        self._lock = threading.Lock()
        self._drivers = DriverBook(self._given)
        self._loop = self._thread = self._shared = None


def default_context() -> Context:
    """Return the context of downloads that have none: made when first needed, closed when the interpreter ends."""
    with _default_lock:
        if not _default:
            _default.append(Context())
        return _default[0]


def _after_fork() -> None:
    _default_lock.release()
    for context in list(_alive):
        context._abandon()


def _at_exit() -> None:
    for context in list(_alive):
        if context._thread is not None:
            context.close()


_alive: Final[weakref.WeakSet[Context]] = weakref.WeakSet()
_abandoned: Final[list[object]] = []  # closing these in a child would end the parent's connections
_default: Final[list[Context]] = []
_default_lock: Final = threading.Lock()
atexit.register(_at_exit)
os.register_at_fork(before=_default_lock.acquire, after_in_parent=_default_lock.release, after_in_child=_after_fork)
