"""Progress on a terminal: drawn from what the transfers say of themselves."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, Task, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Column
from rich.text import Text

from downhaul import Plugin, hookimpl

from ._output import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from downhaul import Batch, DownloadError, Result, Transfer

_REFRESHES: Final = 8  # in a second
_OTHER_LINES: Final = 3  # of the terminal: the summary, the cursor, and one to spare


class Watch(Plugin):
    """Knows the transfers that are under way; those that others need first (mirror lists, tokens) do not count."""

    def __init__(self) -> None:
        self._under_way: dict[Transfer, None] = {}

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        """Watch it from now on."""
        if transfer.parent is None:
            self._under_way[transfer] = None

    @hookimpl
    def done(self, transfer: Transfer, outcome: Result | DownloadError | None) -> None:  # noqa: ARG002
        """Watch it no longer."""
        self._under_way.pop(transfer, None)

    def under_way(self) -> list[Transfer]:
        """Return the transfers that are under way; callable from any thread."""
        return list(self._under_way.copy())


class Display:
    """Shows a line for each transfer under way, as many as fit, and how far the batch is, on standard error.

    *name* tells what a transfer is called.
    """

    def __init__(self, watch: Watch, name: Callable[[Transfer], str]) -> None:
        self._watch, self._name = watch, name
        self._batch: Batch | None = None
        self._tasks: dict[Transfer, TaskID] = {}
        self._console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        self._progress = Progress(
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            BarColumn(bar_width=24),
            DownloadColumn(),
            _Speed(),
            console=self._console,
            auto_refresh=False,
            expand=True,
        )
        self._live = Live(
            console=self._console, get_renderable=self._render, transient=True, refresh_per_second=_REFRESHES
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def follow(self, batch: Batch) -> None:
        """Sum up *batch* from now on."""
        self._batch = batch

    def print(self, line: str) -> None:
        """Print *line* above the rest."""
        self._console.print(Text(line), soft_wrap=True)

    def _render(self) -> RenderableType:
        under_way = self._watch.under_way()
        for transfer in self._tasks.keys() - set(under_way):
            self._progress.remove_task(self._tasks.pop(transfer))
        room = max(1, self._console.height - _OTHER_LINES)
        for transfer in under_way:
            if transfer not in self._tasks and len(self._tasks) < room:
                self._tasks[transfer] = self._progress.add_task(plain(self._name(transfer)), total=None)
        for transfer, task in self._tasks.items():
            payload = transfer.payload
            size = None if payload is None else payload.info.size
            self._progress.update(task, completed=transfer.received, total=size)
        lines = [self._progress.get_renderable()] if self._tasks else []
        if self._batch is not None:
            done = self._batch.progress
            total = f"at least {done.pulled}" if done.total is None else done.total
            files = f"{done.succeeded + done.failed} of {total} files"
            lines.append(Text(f"{files}, {done.received:,} bytes", style="dim"))
        return Group(*lines)


class _Speed(TransferSpeedColumn):
    """The speed, once it is known."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.speed else Text()


def has_terminal() -> bool:
    """Tell whether standard error is a terminal that can be drawn on."""
    return sys.stderr is not None and sys.stderr.isatty() and not Console(stderr=True).is_dumb_terminal
