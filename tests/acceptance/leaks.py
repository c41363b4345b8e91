"""What a download may leave behind, counted by name: before, and at most two seconds after.

watch = Watch(directory, servers={"nginx": nginx.port})
with Context() as context, Batch(watch.closing(jobs()), context=watch.using(context)) as batch:
    ...
watch.check_work()      # the context may be open: no task, temporary file, slot, or open generator
watch.check()           # the context is closed: nor a thread, a descriptor, a connection that a server sees
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

    from downhaul import Context

_T = TypeVar("_T")
PATIENCE: Final = 2.0  # seconds
LOOKS: Final = 40  # at least, however slow the machine is
_ESTABLISHED: Final = "01"


class Watch:
    """Knows what there was before; tells what is new.

    *directories* are those that downloads write to; *servers* the ports of servers by name.
    """

    def __init__(self, *directories: Path, servers: Mapping[str, int] | None = None) -> None:
        self._directories, self._servers = directories, dict(servers or {})
        self._contexts: list[Context] = []
        self._sources: list[Any] = []
        self._settle()
        self.begin()

    def begin(self) -> None:
        """Take what there is now for what was there before: the loop of a test, say."""
        gc.collect()
        self._threads = set(threading.enumerate())
        self._descriptors = _descriptors()
        self._tasks = self._all_tasks()

    def using(self, context: Context) -> Context:
        """Look at this context too: its slots, and the tasks on its loop."""
        if context not in self._contexts:
            self._contexts.append(context)
        return context

    def closing(self, source: _T) -> _T:
        """Look at this generator too: its ``finally`` must have run."""
        self._sources.append(source)
        return source

    def forget(self) -> None:
        """Forget the generators of earlier batches."""
        self._sources.clear()

    def check_work(self) -> None:
        """Fail if any work is left, up to two seconds from now: tasks, temporary files, slots, open generators."""
        self._wait(self._work)

    def check(self) -> None:
        """Fail if anything is left, up to two seconds from now; contexts must be closed."""
        self._wait(self._everything)

    def check_servers(self) -> None:
        """Fail if a server still sees a connection, two seconds from now."""
        self._wait(lambda: [f"{count} connections at {name}" for name, count in self._seen().items() if count])

    async def acheck_work(self) -> None:
        """Do the same as `check_work` on a running loop."""
        await self._await(self._work)

    async def acheck(self) -> None:
        """Do the same as `check` on a running loop."""
        await self._await(self._everything)

    def _work(self) -> list[str]:
        parts = [path for directory in self._directories for path in directory.iterdir() if path.name.endswith(".part")]
        slots = [f"{each.connections_in_use} slots" for each in self._contexts if each.connections_in_use]
        tasks = [f"task {_told(task)}" for task in self._all_tasks() - self._tasks]
        sources = [f"open generator {each!r}" for each in self._sources if not _is_closed(each)]
        return [*(f"temporary file {path}" for path in parts), *slots, *tasks, *sources]

    def _everything(self) -> list[str]:
        threads = [f"thread {each.name}" for each in set(threading.enumerate()) - self._threads if each.is_alive()]
        descriptors = [f"descriptor {each}" for each in _named(_descriptors().items() - self._descriptors.items())]
        servers = [f"{count} connections at {name}" for name, count in self._seen().items() if count]
        return [*self._work(), *threads, *descriptors, *servers]

    def _seen(self) -> dict[str, int]:
        """Return how many connections each server sees."""
        rows = [(port, state) for _, port, _, state in _connections().values()]
        return {name: rows.count((port, _ESTABLISHED)) for name, port in self._servers.items()}

    def _all_tasks(self) -> set[asyncio.Task[Any]]:
        loops = {context._loop for context in self._contexts if context._loop is not None}
        try:
            loops.add(asyncio.get_running_loop())
            me = {asyncio.current_task()}
        except RuntimeError:
            me = set()
        return {task for loop in loops for task in asyncio.all_tasks(loop)} - me

    def _settle(self) -> None:
        end = time.monotonic() + 10
        while any(self._seen().values()) and time.monotonic() < end:
            time.sleep(0.005)

    def _wait(self, look: Callable[[], list[str]]) -> None:
        for _ in _looks(look):
            time.sleep(0.005)

    async def _await(self, look: Callable[[], list[str]]) -> None:
        for _ in _looks(look):
            await asyncio.sleep(0.005)


def _looks(look: Callable[[], list[str]]) -> Iterator[None]:
    """Yield until *look* finds nothing; fail if it still does after two seconds."""
    end, looks = time.monotonic() + PATIENCE, 0
    while left := look():
        looks += 1
        if time.monotonic() > end and looks > LOOKS:
            raise AssertionError("left behind:\n  " + "\n  ".join(left))
        yield


def _is_closed(source: Any) -> bool:
    if inspect.isasyncgen(source):
        return source.ag_frame is None or _unstarted(source)
    return source.gi_frame is None or inspect.getgeneratorstate(source) == inspect.GEN_CREATED


def _unstarted(source: Any) -> bool:
    return not source.ag_running and source.ag_frame.f_lineno == source.ag_code.co_firstlineno


def _told(task: asyncio.Task[Any]) -> str:
    names, awaited = [], task.get_coro()
    while awaited is not None:
        names.append(getattr(awaited, "__qualname__", type(awaited).__name__))
        awaited = getattr(awaited, "cr_await", None)
    return f"{task.get_name()}: {' → '.join(names)}"


def _descriptors() -> dict[str, str]:
    """Return what each open descriptor points to, the one that lists them excepted."""
    found = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - the shortest way, of which little is left open
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
        except OSError:
            continue
    return found


def _named(descriptors: Iterable[tuple[str, str]]) -> list[str]:
    connections = _connections()
    told = []
    for number, target in sorted(descriptors):
        inode = target.removeprefix("socket:[").rstrip("]")
        local = connections.get(inode)
        told.append(
            f"{number}: {target}" + (f" of port {local[1]}, to port {local[2]}, state {local[3]}" if local else "")
        )
    return told


def _connections() -> dict[str, tuple[str, int, int, str]]:
    """Return the TCP connections of this machine by their inodes: address, port, port of the other side, state."""
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:] if Path(table).exists() else ():
            fields = row.split()
            (address, port), (_, other) = fields[1].split(":"), fields[2].split(":")
            key = fields[9] if fields[9] != "0" else f"{fields[1]}-{fields[2]}"
            found[key] = address, int(port, 16), int(other, 16), fields[3]
    return found


async def asynchronous(source: Iterator[_T]) -> AsyncIterator[_T]:
    """Yield what *source* yields, and close it."""
    try:
        for each in source:
            await asyncio.sleep(0)
            yield each
    finally:
        source.close()  # type: ignore[attr-defined]
