"""The rounds of a workload: in each of them every contestant has its turn, after one that does not count."""

from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from .contestants import Order
from .files import MIB, File, Task, in_memory, make_files
from .measure import measure
from .servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from .measure import Run
    from .workloads import Entry, Workload

_ROOM: Final = 512 * MIB  # for file systems' own needs, and for those of the contestants


@dataclass(frozen=True, slots=True)
class Plan:
    """How to go about it: how many rounds, which peers take part, how downhaul works, the part of the full size."""

    rounds: int
    peers: Collection[str]
    form: str = "asyncio"
    workers: int = 1
    scale: float = 1.0


@dataclass(slots=True)
class Outcome:
    """What became of a workload: the runs of each label, round by round, and why others did not run."""

    workload: Workload
    scale: float
    runs: dict[str, list[Run]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """What is to be said wherever figures of it are told."""
        return "" if self.scale == 1 else "scaled"


def run(workload: Workload, plan: Plan) -> Outcome:
    """Let those that can take part in all rounds; raise RuntimeError where one does not do what it is measured for."""
    workload = workload.scaled(plan.scale)
    outcome = Outcome(workload, plan.scale)
    asked = [each for each in workload.entries() if not each.contestant.peer or each.contestant.peer in plan.peers]
    outcome.missing = {each.label: each.contestant.missing for each in asked if each.contestant.missing}
    entries = [each for each in asked if each.label not in outcome.missing]
    outcome.runs = {each.label: [] for each in entries}
    with _task(workload) as task:
        for entry in entries:
            _turn(entry, task, plan, Task.check_digests)
        for number in range(plan.rounds):
            _tell(f"{workload.title}: round {number + 1} of {plan.rounds}")
            for entry in entries[:: -1 if number % 2 else 1]:
                outcome.runs[entry.label].append(_turn(entry, task, plan, Task.check_sizes))
    return outcome


@contextmanager
def _task(workload: Workload) -> Iterator[Task]:
    """Make the files of a workload, serve them, and yield what there is to fetch."""
    with in_memory(2 * workload.number * workload.size + _ROOM) as place:
        root, work, own, target = (place / name for name in ("root", "work", "server", "target"))
        for directory in (root, work, own):
            directory.mkdir()
        digests = make_files(root / "pub", workload.number, workload.size)
        with SERVERS[workload.scheme](root, own) as served:
            base = f"{served.base}/pub"
            files = (File(f"{base}/{name}", digest, workload.size, target / name) for name, digest in digests.items())
            task = Task(tuple(files), base, target, work, served.certificate)
            task.write_manifest()
            yield task


def _turn(entry: Entry, task: Task, plan: Plan, check: Callable[[Task], None]) -> Run:
    """Run a contestant once, and look at what it has fetched: one that did nothing must not win."""
    order = Order(task, entry.concurrency, plan.form, plan.workers)
    task.target.mkdir()
    try:
        taken = measure(entry.label, entry.contestant.command(order), task.work)
        if entry.contestant.fetches:
            check(task)
    except RuntimeError as error:
        error.add_note(f"{entry.label} was to fetch {len(task.files):,} files from {task.base}")
        raise
    finally:
        shutil.rmtree(task.target)
    return taken


def _tell(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
