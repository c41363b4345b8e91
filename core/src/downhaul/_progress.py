"""How far a batch is: counted where it happens, told to whoever asks."""

from __future__ import annotations

import contextvars
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from ._validations import SizeValidation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._download import Download
    from ._transfer import Transfer


class Progress(NamedTuple):
    """How far a batch is, at one moment: ``pulled == waiting + running + succeeded + failed + cancelled``.

    `pulled` jobs were taken from the iterable; `total` is how many there are in all, None while nobody knows. `waiting`
    jobs have not begun, `running` ones are at work, `succeeded` and `failed` ones are over, of which `consumed` were
    handed out as plans; `cancelled` ones were dropped as the batch was left.

    `received` is the number of bytes that are there now, of succeeded and running jobs. `size` is how many it will be
    if all that were pulled and have not failed succeed, None while that is not known of each. `attempts` counts those
    of all jobs: what exceeds the number of jobs begun are repairs. Bytes and attempts of a job that other processes run
    (`Batch(workers=…)`) count when it is over. `elapsed` is in seconds, from entering the batch to now, or to leaving
    it.
    """

    pulled: int = 0
    total: int | None = None
    waiting: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    consumed: int = 0
    received: int = 0
    size: int | None = 0
    attempts: int = 0
    elapsed: float = 0.0


class Job:
    """A download in the hands of a batch, with the context variables as they were when it was handed over."""

    __slots__ = ("_told_attempts", "_told_size", "download", "opened", "transfer", "variables")

    def __init__(self, download: Download) -> None:
        self.download, self.variables = download, contextvars.copy_context()
        self.transfer: Transfer | None = None  # None, too, where another process runs it
        self.opened: Callable[[], object] | None = None  # called with each answer, on the loop of the job
        self._told_attempts = 0
        self._told_size: int | None = None

    def begun(self, transfer: Transfer) -> None:
        """It is under way, as *transfer*."""
        self.transfer, transfer._opened = transfer, self.opened

    def told_size(self, size: int) -> None:
        """The process that runs it got an answer, which tells that there are *size* bytes."""
        self._told_size = size
        if self.opened is not None:
            self.opened()

    def told_attempts(self, attempts: int) -> None:
        """The process that ran it made so many *attempts*."""
        self._told_attempts = attempts

    @property
    def attempts(self) -> int:
        """The number of attempts that were made so far."""
        return self._told_attempts if self.transfer is None else self.transfer.attempt

    @property
    def received(self) -> int:
        """The number of bytes that are there now."""
        return 0 if self.transfer is None else self.transfer.received

    @property
    def size(self) -> int | None:
        """The number of bytes in all, as the download expects or the answer tells; None if neither does."""
        expected = next((each.size for each in self.download.validations if isinstance(each, SizeValidation)), None)
        if expected is None and self.transfer is not None and (payload := self.transfer.payload) is not None:
            return payload.info.size
        return self._told_size if expected is None else expected


class Tally:
    """Counts the jobs of one batch; callable from any thread."""

    def __init__(self, total: int | None) -> None:
        self._lock = threading.Lock()
        self._total = total
        self._pulled = self._consumed = self._succeeded = self._failed = 0
        self._unfinished: dict[Job, None] = {}
        self._running: set[Job] = set()
        self._bytes = self._attempts = 0
        self._entered: float | None = None
        self._left: float | None = None

    def enter(self) -> None:
        """The time runs from now on."""
        self._entered = time.monotonic()

    def leave(self) -> None:
        """Nothing more happens: what has not finished never will."""
        with self._lock:
            self._left = time.monotonic()
            self._attempts += sum(job.attempts for job in self._running)
            self._unfinished.clear()
            self._running.clear()

    def pull(self, job: Job) -> None:
        """*job* was taken from the iterable."""
        with self._lock:
            self._pulled += 1
            if self._left is None:
                self._unfinished[job] = None

    def exhaust(self) -> None:
        """There are no more jobs than those pulled."""
        with self._lock:
            self._total = self._pulled

    def begin(self, job: Job) -> None:
        """*job* is at work."""
        with self._lock:
            if job in self._unfinished:
                self._running.add(job)

    def end(self, job: Job, size: int | None) -> None:
        """*job* is over, with *size* bytes; None if it failed."""
        with self._lock:
            if job not in self._unfinished:
                return  # the batch was left before
            del self._unfinished[job]
            self._running.discard(job)
            self._attempts += job.attempts
            if size is None:
                self._failed += 1
            else:
                self._succeeded += 1
                self._bytes += size

    def consume(self) -> None:
        """A plan was handed out."""
        with self._lock:
            self._consumed += 1

    def progress(self) -> Progress:
        """Return how far it is."""
        with self._lock:
            finished = self._succeeded + self._failed
            running, unfinished = len(self._running), len(self._unfinished)
            return Progress(
                pulled=self._pulled,
                total=self._total,
                waiting=unfinished - running,
                running=running,
                succeeded=self._succeeded,
                failed=self._failed,
                cancelled=self._pulled - unfinished - finished,
                consumed=self._consumed,
                received=self._bytes + sum(job.received for job in self._running),
                size=_sum(self._bytes, (job.size for job in self._unfinished)),
                attempts=self._attempts + sum(job.attempts for job in self._running),
                elapsed=0.0 if self._entered is None else (self._left or time.monotonic()) - self._entered,
            )


def _sum(start: int, sizes: Iterable[int | None]) -> int | None:
    for size in sizes:
        if size is None:
            return None
        start += size
    return start
