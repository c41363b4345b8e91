"""The processes that run the jobs of a batch, each with a context of its own and its share of the limits."""

from __future__ import annotations

import asyncio
import contextvars
import pickle
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from ._cancelling import cancel
from ._urls import show, show_text
from ._worker import Common, Errand, Worker, refuse_here
from ._writers import BufferWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._context import Context
    from ._download import Download
    from ._models import Result
    from ._progress import Job

_KEPT: Final = 256
_STAYS: Final = {"attachment": None, "context": None, "_parent": None, "_without": None}
"""The fields of a download that do not travel, and what is in their place."""


class Workers:
    """At most *number* processes, begun when there are jobs for them; together they keep the limits of *context*.

    Raises RuntimeError where no process can be begun, and TypeError for what a context is made of and cannot be sent
    to one.
    """

    def __init__(self, context: Context, number: int) -> None:
        refuse_here()
        self._context = context
        self._numbers = 0
        self._refusal: str | None = None  # why no process can work
        self._own = {plugin: self._new("plugins", plugin, "the context") for plugin in context.plugins}
        self._common: OrderedDict[object, Common] = OrderedDict()
        number = min(number, context.connections, context.connections_per_origin)
        self._workers = [
            Worker(f"downhaul-{index}", self._described(index, number), self._own.values(), self._refuse)
            for index in range(number)
        ]
        self._lives: dict[Worker, asyncio.Task[None]] = {}

    @property
    def lives(self) -> tuple[asyncio.Task[None], ...]:
        """A task for each process, which ends when that has ended."""
        return tuple(self._lives.values())

    def disband(self) -> None:
        """Let all processes cancel what they do, and end; `lives` tells when they have."""
        cancel(self.lives)

    async def run(self, job: Job) -> Result | Exception:
        """Let the process that has least to do run *job*; return what becomes of it."""
        try:
            self._context._refuse_closed()
            errand = self._errand(job)
        except Exception as refusal:
            return refusal.with_traceback(None)
        if self._refusal is not None:
            return RuntimeError(self._refusal)
        worker = min(self._workers, key=len)
        worker.give(errand)
        if worker not in self._lives or self._lives[worker].done():
            self._lives[worker] = self._begin(worker)
        return await errand.outcome

    def _begin(self, worker: Worker) -> asyncio.Task[None]:
        """Begin the life of *worker*, which is cancelled too when the context is closed."""
        work = self._context._bound().run(worker.live())
        # It outlives the job that it begins for, and so has nothing to do with the context variables of that.
        return asyncio.get_running_loop().create_task(work, context=contextvars.Context())

    def _refuse(self, reason: str) -> None:
        self._refusal = reason

    def _described(self, index: int, number: int) -> bytes:
        """Return what the context of a process is made of: it has the share *index* of *number*."""
        context = self._context
        limits = {"connections": context.connections, "connections_per_origin": context.connections_per_origin}
        values = {
            "plugins": [common.number for common in self._own.values()],
            "settings": context.settings,
            "drivers": context._given,
            **{name: limit // number + (index < limit % number) for name, limit in limits.items()},
        }
        return _pickled(values, values, "the context")

    def _errand(self, job: Job) -> Errand:
        """Return all that is sent for *job*; raise ValueError or TypeError where it cannot be."""
        download = job.download
        if download.context is not None and download.context is not self._context:
            raise ValueError(
                "a download with a context of its own cannot go to another process, where that is not: let it have"
                " none, or that of its batch, or run the batch with workers=1"
            )
        if download._parent is not None:
            raise ValueError("what a transfer needs first cannot go to another process: run the batch with workers=1")
        plugins = [self._shared("plugins", plugin, download) for plugin in download.plugins]
        settings = self._shared("settings", download.settings, download)
        fields = {**vars(download), **_STAYS}
        del fields["plugins"], fields["settings"]
        if type(download.writer) is BufferWriter:
            fields["writer"] = BufferWriter()  # without the bytes of before
        kind, numbers = type(download), [each.number for each in plugins]
        order = (kind, fields, numbers, settings.number, job.opened is not None)
        body = _pickled(order, {"class": kind, **fields}, _named(download))
        self._numbers += 1
        outcome = asyncio.get_running_loop().create_future()
        return Errand(self._numbers, job, body, (*plugins, settings), outcome)

    def _shared(self, name: str, thing: object, download: Download) -> Common:
        """Return what stands for *thing*; the least recently used of many are forgotten, here and there."""
        if (own := self._own.get(thing)) is not None:
            return own
        if (known := self._common.get(thing)) is not None:
            self._common.move_to_end(thing)
            return known
        common = self._common[thing] = self._new(name, thing, _named(download))
        if len(self._common) > _KEPT:
            _, oldest = self._common.popitem(last=False)
            for worker in self._workers:
                worker.forget(oldest)
        return common

    def _new(self, name: str, thing: object, whose: str) -> Common:
        self._numbers += 1
        return Common(-self._numbers, _pickled(thing, {name: thing}, whose))


def _named(download: Download) -> str:
    return f"the download of {show(download.url)}"


def _pickled(thing: object, parts: Mapping[str, object], whose: str) -> bytes:
    """Return *thing* pickled; raise TypeError that names which of its *parts* cannot be."""
    try:
        return pickle.dumps(thing, pickle.HIGHEST_PROTOCOL)
    except Exception as reason:
        name, told = "all", reason
    for name, part in parts.items():  # noqa: B007 - the one that fails
        try:
            pickle.dumps(part, pickle.HIGHEST_PROTOCOL)
        except Exception as reason:
            told = reason
            break
    raise TypeError(
        f"{name}=… of {whose} cannot be sent to another process: {type(told).__name__}: {show_text(str(told))}; let it"
        " be of a class at the top level of a module, and hold what can be pickled, or run the batch with workers=1"
    )
