"""Mirrors: a thousand small files through six mirrors of which five are bad, side by side with the good one alone.

The files are of 4 to 32 KiB; each has a digest, which is validated. The six are those of `tests.servers.six_mirrors`: a
dead one, one without the files, one that sends 100 bytes per second, a corrupt one, one that breaks off half-way, and a
good one, in that order. What the slow one costs cannot be less than the time that it takes to know it, the *window*:
`WINDOW`. So the bar is held against what six take less that window, as a multiple of what the good one takes alone.

In every round both have their turn, in a context of its own, which knows of no mirror; the figure is the median of the
ratios, with the least and the greatest.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from tests.servers.six_mirrors import BAD, GOOD, SIX, SLOW, Mirrors, six_mirrors

from downhaul import Batch, Context, Download, FileWriter, LowSpeed
from downhaul.plugins import MirrorList

from .figures import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FILES: Final = 1000
_FEWEST: Final = 200
WINDOW: Final = LowSpeed(2_000, 2)
_TIMES: Final = 2.0  # what the good mirror takes alone
_ROUNDS, _FEW_ROUNDS = 7, 3
_CONCURRENCY, _BACKLOG = 10, 100


class Course:
    """One way to get the files: seconds of each round, and the failures of each mirror in all of them."""

    def __init__(self, mirrors: Mirrors, digests: Mapping[str, str], *kinds: str) -> None:
        self.kinds = kinds
        self.wall: list[float] = []
        self.failures: Counter[str] = Counter()
        self._mirrors, self._digests = mirrors, digests

    def turn(self) -> None:
        """Get all files once, with nothing known of any mirror."""
        plugins = []
        base = self._mirrors.url(GOOD)
        if self.kinds:
            base = self._mirrors.prefix
            urls = [self._mirrors.url(kind) for kind in self.kinds]
            plugins.append(MirrorList(urls, replaces=base, low_speed=WINDOW))
        with tempfile.TemporaryDirectory() as directory:
            begin = time.perf_counter()
            with (
                Context(plugins=plugins) as context,
                Batch(
                    self._jobs(base, Path(directory)), concurrency=_CONCURRENCY, backlog=_BACKLOG, context=context
                ) as batch,
            ):
                for plan in batch():
                    for each in plan.result().history:
                        self.failures[self._mirrors.kind(each.source)] += 1
            self.wall.append(time.perf_counter() - begin)

    def _jobs(self, base: str, target: Path) -> Iterator[Download]:
        for name, digest in self._digests.items():
            yield Download(base + name, FileWriter(target / name), digests={"sha256": digest})


def figures(scale: float) -> Iterator[Figure]:
    """Yield how long both take, the ratio that the bar is for, and how often each bad mirror was tried."""
    chance, number = random.Random(6), max(int(FILES * scale), _FEWEST)
    files = {f"file-{each:04}": chance.randbytes(chance.randint(4096, 32768)) for each in range(number)}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    rounds = _ROUNDS if scale >= 1 else _FEW_ROUNDS
    with tempfile.TemporaryDirectory() as directory, six_mirrors(Path(directory) / "mirrors", files) as mirrors:
        Path(directory).chmod(0o755)
        alone, six = Course(mirrors, digests), Course(mirrors, digests, *SIX)
        few = Course(mirrors, digests, *(kind for kind in SIX if kind != SLOW))
        courses = (alone, six, few)
        alone.turn()  # imports, and the files in the kernel's memory
        alone.wall.clear()
        for turn in range(rounds):
            for course in courses[:: -1 if turn % 2 else 1]:
                course.turn()
    yield Figure(
        "the good one alone", f"{number:,} files", median(alone.wall), "s", spread=_spread(alone.wall), digits=2
    )
    yield Figure("six mirrors", f"{number:,} files", median(six.wall), "s", spread=_spread(six.wall), digits=2)
    ratios = [(mine - WINDOW.seconds) / other for mine, other in zip(six.wall, alone.wall, strict=True)]
    what = f"less a window of {WINDOW.seconds:g} s / the good one alone"
    yield Figure("six mirrors", what, median(ratios), "", _TIMES, _spread(ratios), digits=2)
    ratios = [mine / other for mine, other in zip(few.wall, alone.wall, strict=True)]
    yield Figure(
        "five, without the slow one",
        "wall time / the good one alone",
        median(ratios),
        "",
        _TIMES,
        _spread(ratios),
        digits=2,
    )
    for kind in BAD:
        yield Figure("six mirrors", f"attempts at the one that is {kind}", six.failures[kind] / rounds, "a round")


def _spread(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)
