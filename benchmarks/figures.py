"""What a benchmark tells: figures, each with the bar that it is held to, and where they were taken."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_DISTRIBUTIONS: Final = (
    "downhaul", "downhaul-http", "downhaul-ftp", "httpx", "httpcore", "aioftp", "pluggy",
    "uvicorn", "httptools", "starlette", "aiohttp", "twisted", "django",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured: in which case, what, how much of which unit, and what it may be at most.

    Without a bar it is only told. *spread* are the least and the most of what the value is the median of. *note* stands
    beside it. Where it could not be measured, *missing* says why, and its bar is not kept.
    """

    case: str
    what: str
    value: float
    unit: str
    at_most: float | None = None
    spread: tuple[float, float] | None = None
    digits: int = 1
    note: str = ""
    missing: str = ""

    @property
    def passes(self) -> bool:
        """Whether the bar is kept, if there is one."""
        return self.at_most is None or (not self.missing and self.value <= self.at_most)

    @property
    def measured(self) -> str:
        """The value with its unit, and its spread."""
        if self.missing:
            return "-"
        value = f"{self._told(self.value)} {self.unit}".rstrip()
        return value if self.spread is None else f"{value} ({' to '.join(map(self._told, self.spread))})"

    @property
    def remarks(self) -> str:
        """Whether its bar was missed, and what else there is to say."""
        missed = "" if self.passes or self.missing else "MISSED"
        return ", ".join(filter(None, (missed, self.missing, self.note)))

    def _told(self, value: float) -> str:
        return f"{value:,.{self.digits}f}"


def table(figures: Iterable[Figure]) -> str:
    """Return *figures* as lines in columns; a bar that was missed is marked."""
    rows = [("case", "what", "measured", "at most", "")]
    for each in figures:
        bar = "" if each.at_most is None else f"{each.at_most:,g} {each.unit}".rstrip()
        rows.append((each.case, each.what, each.measured, bar, each.remarks))
    return columns(rows, left=2)


def columns(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return *rows* as lines in columns: *left* of them and the last one begin, the others end, at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place < left or place == len(row) - 1 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def machine() -> str:
    """Return versions and facts of this machine, a few lines."""
    versions = ", ".join(f"{name} {version(name)}" for name in _DISTRIBUTIONS)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {platform.platform()}, {_processor()}, {_memory()}\n{versions}"


def _processor() -> str:
    lines = _lines("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} x {models[0] if models else platform.processor() or 'unknown processor'}"


def _memory() -> str:
    kilobytes = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return f"{kilobytes / 1024**2:.1f} GiB"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
