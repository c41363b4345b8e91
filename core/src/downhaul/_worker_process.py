"""A process that runs jobs for a batch of another one, and the wire between the two.

What goes over the wire are frames, each a number and some bytes. To the process go

- plugins and settings, pickled, each under a negative number; without bytes, that one is needed no more;
- once, under 0, what its context is made of;
- jobs, each under a positive number.

Back come, under 0, that it is ready (no bytes) or why it cannot be (text); under the number of a job how many bytes an
answer tells that there will be, and in the end what became of it.
"""

from __future__ import annotations

import asyncio
import copyreg
import io
import pickle
import signal
import struct
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from ._context import Context
from ._crew import run_job
from ._errors import DownloadError, PluginError
from ._models import Attempt, Headers, Result, Version
from ._progress import Job
from ._urls import show_text
from ._writers import BufferWriter

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Iterable

    from ._download import Download

CONTEXT: Final = 0
"""The number of the frame that makes the context, and of the one that answers it."""

_HEAD: Final = struct.Struct("!qQ")  # the number of a frame, and the number of its bytes


class Wire(asyncio.Protocol):
    """One end of a socket that carries frames, each handed to *take*; those of one moment are sent together."""

    def __init__(self, take: Callable[[int, bytes], None]) -> None:
        self._take = take
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._outgoing: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()

    async def open(self, channel: socket.socket) -> None:
        """Be at work on *channel*."""
        await self._loop.create_unix_connection(lambda: self, sock=channel)

    def send(self, number: int, body: bytes) -> None:
        """Send a frame, soon; where nobody listens any more, do nothing."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing += (_HEAD.pack(number, len(body)), body)

    def close(self) -> None:
        """Send and take nothing more."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        place = 0
        while len(self._received) >= place + _HEAD.size:
            number, size = _HEAD.unpack_from(self._received, place)
            start, end = place + _HEAD.size, place + _HEAD.size + size
            if len(self._received) < end:
                break
            self._take(number, bytes(memoryview(self._received)[start:end]))
            place = end
        del self._received[:place]

    def connection_lost(self, reason: Exception | None) -> None:  # noqa: ARG002
        tell(self.ended)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(outgoing)


def tell(event: asyncio.Future[None]) -> None:
    """Let who waits for *event* go on; it may have happened before, and nobody wait any more."""
    if not event.done():
        event.set_result(None)


def main(channel: socket.socket) -> None:
    """Run jobs in this process, the main one of which is at the other end of *channel*, until that ends."""
    # Ctrl-C is for the main process, which ends this one; it was blocked until somebody could say so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    asyncio.run(_work(channel))


async def _work(channel: socket.socket) -> None:
    worker = _Worker()
    await worker.work(channel)


class _Worker:
    """Runs each job that comes in a task, in a context that is made for them."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self._wire = Wire(lambda number, body: self._arrived.put_nowait((number, body)))
        self._wire.ended.add_done_callback(lambda _: self._arrived.put_nowait(None))
        self._common: dict[int, Any] = {}  # plugins and settings; as bytes until they are needed
        self._context: Context
        self._tasks: set[asyncio.Task[None]] = set()

    async def work(self, channel: socket.socket) -> None:
        """Work until the main process says no more, or SIGTERM that it is enough; then cancel what runs."""
        await self._wire.open(channel)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._wire.close)
        async for number, body in self._frames():
            if number == CONTEXT:
                await self._work_in(body)
            else:
                self._keep(number, body)

    async def _work_in(self, described: bytes) -> None:
        try:
            values = pickle.loads(described)  # noqa: S301 - the main process has written it
            self._context = Context(**{**values, "plugins": self._of_common(values["plugins"])})
        except Exception as reason:
            self._wire.send(CONTEXT, _cannot_be_made("the context of the batch", reason).encode())
            return
        async with self._context:  # leaving it cancels what runs, and waits for the clean-up
            self._wire.send(CONTEXT, b"")
            async for number, body in self._frames():
                if number < 0:
                    self._keep(number, body)
                else:
                    self._begin(number, body)

    async def _frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield what comes, until nothing comes any more."""
        while not self._wire.ended.done():
            frame = await self._arrived.get()
            if frame is not None:
                yield frame

    def _keep(self, number: int, body: bytes) -> None:
        if body:
            self._common[number] = body
        else:
            del self._common[number]

    def _of_common(self, numbers: Iterable[int]) -> tuple[Any, ...]:
        """Return what goes by *numbers*: always the same objects, since a plugin may be equal to itself only."""
        for number in numbers:
            if isinstance(self._common[number], bytes):
                self._common[number] = pickle.loads(self._common[number])  # noqa: S301 - as above
        return tuple(self._common[number] for number in numbers)

    def _begin(self, number: int, order: bytes) -> None:
        try:
            job = self._job(number, order)
        except Exception as reason:
            self._wire.send(number, _reply(None, TypeError(_cannot_be_made("what the job needs", reason))))
            return
        task = asyncio.create_task(self._run(number, job))
        self._tasks.add(task)
        task.add_done_callback(partial(self._gone, number, job))

    def _job(self, number: int, order: bytes) -> Job:
        kind, fields, plugins, settings, tells_size = pickle.loads(order)  # noqa: S301 - as above
        download: Download = kind.__new__(kind)
        (own_settings,) = self._of_common((settings,))
        vars(download).update(fields, plugins=self._of_common(plugins), settings=own_settings)
        job = Job(download)
        if tells_size:
            job.opened = lambda: self._tell_size(number, job)
        return job

    async def _run(self, number: int, job: Job) -> None:
        self._wire.send(number, _reply(job, await run_job(job, self._context)))

    def _tell_size(self, number: int, job: Job) -> None:
        if job.size is not None:
            self._wire.send(number, pickle.dumps(job.size))

    def _gone(self, number: int, job: Job, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self._wire.send(number, _reply(job, RuntimeError("cancelled, in the process that ran it")))


def _reply(job: Job | None, outcome: Result | Exception) -> bytes:
    """Return, pickled, the number of attempts, what became of the job, and the bytes that are for its BufferWriter."""
    attempts = 0 if job is None else job.attempts
    content = None
    if job is not None and isinstance(outcome, Result) and not outcome.not_modified:
        writer = job.download.writer
        content = writer.content() if isinstance(writer, BufferWriter) else None
    try:
        return _pickled((attempts, outcome, content))
    except Exception as reason:
        told = f"{type(reason).__name__}: {reason}"
        error = PluginError(f"what became of it cannot be told by the process that ran it: {told}")
        if job is not None:
            error.belongs_to(job.download.url, job.download.url, (), None)
        return _pickled((attempts, error, None))


class _Pickler(pickle.Pickler):
    """Pickles results and errors as they are: for anybody else, what may be secret is taken out of their URLs.

    Of other values that come with each of them the fields alone are told, which takes half the time.
    """

    def reducer_override(self, thing: Any) -> Any:
        kind = type(thing)
        if kind is Headers:
            return Headers, (tuple(thing._fields.values()),)
        if kind is Result or kind is Attempt or kind is Version:
            return kind, tuple([getattr(thing, name) for name in kind.__slots__])
        if issubclass(kind, DownloadError):
            return copyreg.__newobj__, (kind, *thing.args), vars(thing)  # type: ignore[attr-defined]
        return NotImplemented


def _pickled(thing: object) -> bytes:
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(thing)
    return file.getvalue()


def _cannot_be_made(what: str, reason: Exception) -> str:
    return (
        f"{what} cannot be made once more in another process: {type(reason).__name__}: {show_text(str(reason))};"
        " define classes at the top level of a module that can be imported there"
    )
