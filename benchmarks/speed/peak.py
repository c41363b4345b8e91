"""The memory of an importer, as the benchmark of that measures it, in one of its cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks import memory
from benchmarks.figures import Figure
from benchmarks.importing import EVERY

if TYPE_CHECKING:
    from collections.abc import Iterator

_FORM: Final = "files, asyncio"
_MB: Final = 1000 * 1000


def figures(scale: float) -> Iterator[Figure]:
    """Yield the peak."""
    number = max(int(memory.DOWNLOADS * scale), 2 * EVERY)
    with memory.server() as server:
        course = memory.run(_FORM, server.url(""), number)
    note = "" if scale == 1 else "scaled"
    yield Figure(f"W9 {number:,} downloads", "peak", course.peak / _MB, "MB", memory.PEAK, note=note)
