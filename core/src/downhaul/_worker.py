"""A process that works for a batch, as the main one sees it: begun for a job, given more of them, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import multiprocessing.process
import multiprocessing.resource_tracker
import pickle
import signal
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

from ._errors import DownloadError, FetchError, PluginError
from ._models import Result
from ._pipeline import finished
from ._worker_process import CONTEXT, Wire, main, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.context import SpawnProcess

    from ._progress import Job
    from ._writers import BufferWriter

_PATIENCE: Final = 10.0  # seconds for a process to end
_log: Final = logging.getLogger("downhaul.workers")


@dataclass(frozen=True, slots=True)
class Common:
    """A plugin or settings, pickled: what jobs have in common is sent once, and then known by its number."""

    number: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Errand:
    """A job on its way to another process and back, pickled as *body*, with what else it needs there."""

    number: int
    job: Job
    body: bytes
    common: tuple[Common, ...]
    outcome: asyncio.Future[Result | Exception]

    def finish(self, attempts: int, outcome: Result | Exception, content: bytes | None) -> None:
        """It is done: give the caller what is the caller's, the *content* of a BufferWriter, and the attachment."""
        if self.outcome.done():
            return  # cancelled
        download = self.job.download
        self.job.told_attempts(attempts)
        if content is not None:
            cast("BufferWriter", download.writer)._publish(content)
        if isinstance(outcome, DownloadError):
            outcome.attachment = download.attachment
        elif isinstance(outcome, Result) and download.attachment is not None:
            outcome = replace(outcome, attachment=download.attachment)
        self.outcome.set_result(outcome)

    def fail(self, error: DownloadError) -> None:
        """It is done, by *error*."""
        url = self.job.download.url
        error.belongs_to(url, url, (), None)
        self.finish(0, error, None)


class Worker:
    """The place of one process, which makes its context of *context*; where it dies, jobs that come later get another.

    *common* is what each process has in common with the main one from the beginning. *refuse* is called with the reason
    why no process can work, if there is one.
    """

    def __init__(self, name: str, context: bytes, common: Iterable[Common], refuse: Callable[[str], None]) -> None:
        self._name, self._context, self._common, self._refuse = name, context, tuple(common), refuse
        self._waiting: list[Errand] = []  # for a process
        self._sent: dict[int, Errand] = {}
        self._known: set[int] = set()  # the numbers of what the process has in common with us
        self._wire: Wire | None = None
        self._is_ready = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    def __iter__(self) -> Iterator[Errand]:
        return iter((*self._waiting, *self._sent.values()))

    def give(self, errand: Errand) -> None:
        """Send *errand* to the process, or else let it wait until there is one."""
        if self._wire is None:
            self._waiting.append(errand)
        else:
            self._send(errand, self._wire)

    def forget(self, common: Common) -> None:
        """Let the process forget what *common* stands for."""
        if common.number in self._known:
            self._known.discard(common.number)
            if self._wire is not None:
                self._wire.send(common.number, b"")

    async def live(self) -> None:
        """Have a process at work as long as there are jobs for one; whoever cancels this, it has ended afterwards."""
        try:
            while self._waiting:
                await self._employ()
        finally:
            for errand in self:
                errand.outcome.cancel()

    async def _employ(self) -> None:
        """Begin a process, and give it what there is to do until it ends."""
        try:
            process, channel = _begin(self._name)
        except Exception as reason:
            self._give_up(f"the batch has no process to work with, none could be begun: {reason}")
            return
        wire = Wire(self._take)
        try:
            await wire.open(channel)
            self._introduce(wire)
            await wire.ended
        finally:
            self._wire = None
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)  # closing is not enough: a fork of ours may hold it open
            wire.close()
            code = await _end(process)
        self._settle(code)

    def _introduce(self, wire: Wire) -> None:
        self._wire, self._is_ready = wire, False
        self._known.clear()
        for common in self._common:
            self._share(common, wire)
        wire.send(CONTEXT, self._context)
        waiting, self._waiting = self._waiting, []
        for errand in waiting:
            self._send(errand, wire)

    def _send(self, errand: Errand, wire: Wire) -> None:
        for common in errand.common:
            self._share(common, wire)
        self._sent[errand.number] = errand
        wire.send(errand.number, errand.body)

    def _share(self, common: Common, wire: Wire) -> None:
        if common.number not in self._known:
            self._known.add(common.number)
            wire.send(common.number, common.body)

    def _take(self, number: int, body: bytes) -> None:
        """Take what the process says."""
        if number == CONTEXT:
            if body:
                self._give_up(body.decode())
            self._is_ready = True
            return
        errand = self._sent.get(number)
        if errand is None:
            return  # given up
        try:
            told = pickle.loads(body)  # noqa: S301 - our own process has written it
        except Exception as reason:
            del self._sent[number]
            errand.fail(PluginError(f"what became of it cannot be read: {type(reason).__name__}: {reason}"))
            return
        if isinstance(told, int):
            errand.job.told_size(told)
        else:
            del self._sent[number]
            errand.finish(*told)

    def _settle(self, code: int | None) -> None:
        """Let the jobs fail that the process had when it ended by itself, with exit *code*."""
        killed = code is not None and code < 0
        how = f"by signal {-code}" if killed else f"with exit code {code}"  # type: ignore[operator]
        if not self._is_ready and not killed:
            self._give_up(
                f"a process of the batch ended before it could work ({how}); what it said is on standard error. It"
                ' imports the main module of the program: is what starts there below `if __name__ == "__main__":`?'
            )
        sent, self._sent = self._sent, {}
        for errand in sent.values():
            error = FetchError(f"the process that was at work on it ended ({how}); asked again, it may succeed")
            error.transient = True
            errand.fail(error)

    def _give_up(self, reason: str) -> None:
        """Let all jobs fail, those too that come later."""
        self._refuse(reason)
        errands, self._waiting, self._sent = tuple(self), [], {}
        for errand in errands:
            errand.finish(0, RuntimeError(reason), None)


def refuse_here() -> None:
    """Raise RuntimeError in a process that cannot begin others."""
    process = multiprocessing.current_process()
    if process.daemon:
        raise RuntimeError(
            "workers=… needs processes, and a daemon process of multiprocessing may have none: leave it out here"
        )
    if getattr(process, "_inheriting", False):
        raise RuntimeError(
            "this process is one of workers=…, and imports the main module of the program: put what starts there below"
            ' `if __name__ == "__main__":`'
        )


def _begin(name: str) -> tuple[SpawnProcess, socket.socket]:
    """Return a new process, and our end of the channel to it."""
    ours, theirs = socket.socketpair()
    try:
        process = multiprocessing.get_context("spawn").Process(target=main, args=(theirs,), name=name, daemon=False)
        # Ctrl-C goes to all processes: until this one can say that it is not meant, it must not see any. The tracker
        # would be begun on the way, and end that.
        multiprocessing.resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    # Its end is our business. At exit multiprocessing would wait for it, before anybody could leave the batch; and in
    # the child of a fork, where it is the parent's.
    vars(multiprocessing.process).get("_children", set()).discard(process)
    ours.setblocking(False)
    return process, ours


async def _end(process: SpawnProcess) -> int | None:
    """Wait until *process* has ended, and kill it if that takes long; return its exit code."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(process.sentinel, tell, ended)
    killing = loop.call_later(_PATIENCE, _kill, process)
    cancelled = await finished(ended)
    killing.cancel()
    loop.remove_reader(process.sentinel)
    process.join()
    code = process.exitcode
    with contextlib.suppress(ValueError):  # somebody else in the program has taken its exit code
        process.close()
    if cancelled is not None:
        raise cancelled
    return code


def _kill(process: SpawnProcess) -> None:
    _log.warning("%s, a process of a batch, does not end, and is killed after %.0f s", process.name, _PATIENCE)
    process.kill()
