"""What the machine can do at all: no contestant can be faster than the loopback, the memory, and the hashing."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Figure

from .contestants import SIX
from .files import MIB, in_memory
from .measure import SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FULL: Final = 1024 * MIB
_LEAST: Final = 64 * MIB
_PIECE: Final = 8 * MIB  # bytes that a thread hashes at a time
_TIMES: Final = 3
_MB: Final = 1000 * 1000
_CASE: Final = "limits of the machine"


def figures(scale: float) -> Iterator[Figure]:
    """Yield throughputs: the median of three, with the least and the greatest."""
    size = max(int(_FULL * scale), _LEAST)
    note = "" if scale == 1 else "scaled"
    for what, seconds in _LIMITS.items():
        rates = [size / _MB / seconds(size) for _ in range(_TIMES)]
        yield Figure(_CASE, what, median(rates), "MB/s", spread=(min(rates), max(rates)), digits=0, note=note)


def _script(name: str, *arguments: str) -> float:
    """Run one of the scripts; return the seconds that it prints."""
    command = [sys.executable, str(SCRIPTS / name), *arguments]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def _loopback(size: int) -> float:
    return _script("loopback.py", f"size={size}")


def _hashing(digests: str, threads: int) -> Callable[[int], float]:
    """Return what hashes so many bytes by each of *digests*, on *threads*."""

    def seconds(size: int) -> float:
        number = f"number={size // _PIECE}"
        return _script("hashing.py", number, f"size={_PIECE}", f"digests={digests}", f"threads={threads}")

    return seconds


def _copy(size: int) -> float:
    """Copy a file in memory to another one there."""
    with in_memory(2 * size) as place:
        (place / "from").write_bytes(bytes(size))
        begin = time.perf_counter()
        shutil.copyfile(place / "from", place / "to")
        return time.perf_counter() - begin


_LIMITS: Final[dict[str, Callable[[int], float]]] = {
    "loopback, one connection": _loopback,
    "copy of a file in memory": _copy,
    "sha256, one thread": _hashing("sha256", 1),
    "sha256, two threads": _hashing("sha256", 2),
    "six digests, one thread": _hashing(SIX, 1),
    "six digests, two threads": _hashing(SIX, 2),
}
