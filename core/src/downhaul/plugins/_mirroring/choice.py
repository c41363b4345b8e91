"""Which mirror is asked first: a strategy, which anybody may replace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import inf, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .scores import HALF_LIFE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from downhaul.plugins._mirror import Mirror

    from .score import Score
    from .scores import Scores

_PAUSE: Final = 30.0
"""Seconds after a failure until a mirror is worth another try."""
_ENOUGH: Final = 8
"""Mirrors of a list that are known to be good, and make it needless to find out about the others."""
_UNRELIABLE: Final = 0.5
"""The chance below which a mirror comes behind all that are better, whatever its priority."""
_HEAD: Final = 64 * 1024
"""Bytes that a mirror is credited with for each download: it is no slower for having been asked for small files."""
_GOOD, _UNLIKELY, _FULL, _ASIDE = range(4)
_TO_EXPLORE, _KNOWN, _UNKNOWN = range(3)


@dataclass(frozen=True, kw_only=True)
class Choice(ABC):
    """Base class of strategies: a value, with one method to write, `order`.

    What it goes by, the scores of all mirrors, is shared by the mirror plugins of a context whose choices are equal.
    What happened counts half after *half_life* seconds. The first *probe* mirrors of a list are asked for the head of a
    file, all at once, before the first download; what that took is their `Score.latency`. At *path* the scores are kept
    from one context to the next; None: they end with the context.

    A strategy that prefers a country, and has nothing to do with mirrors that are set aside while there are others::

        @dataclass(frozen=True)
        class NearestFirst(Choice):
            country: str

            def order(self, mirrors, scores, failed=0):
                def distance(mirror):
                    score = scores.of(mirror.url)
                    return score.is_aside, mirror.location != self.country, score.in_use, mirror.priority

                return sorted(mirrors, key=distance)

        MirrorList("https://lists.example.org/mirrors.txt", choice=NearestFirst("de"))
    """

    half_life: float = HALF_LIFE
    probe: int = 0
    path: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        if not self.half_life > 0:
            raise ValueError(f"half_life is a number of seconds above 0, not {self.half_life!r}")
        if self.probe < 0:
            raise ValueError(f"probe is a number of mirrors, from 0; not {self.probe!r}")
        if self.path is not None:
            object.__setattr__(self, "path", Path(self.path))  # so that equal places are equal values

    @abstractmethod
    def order(self, mirrors: Sequence[Mirror], scores: Scores, failed: int = 0) -> Sequence[Mirror]:
        """Return *mirrors*, those that may be asked now, with the best first.

        What is left out is not asked as long as there is another one.

        It is called before each attempt, on the event loop: no I/O. *scores* are to be read with `Scores.of`; whoever
        calls this counts the downloads, so that the next call sees them in `Score.in_use`. *failed* others were asked
        for the file before.
        """


@dataclass(frozen=True)
class Adaptive(Choice):
    """Asks the mirror first that promises the most, by what all downloads have met with; nothing is left to chance.

    Those that are set aside come last; before them those that have no room for one more download; before them those
    that mostly fail, or have not the file. Among the others the priority decides; among equals the speed, as it is
    shared with the downloads that are there, times the chance to get the file. As long as few mirrors are known to be
    good, one of which nothing is known gets one download, to find out, and so does one that failed, after a pause.
    """

    def order(self, mirrors: Sequence[Mirror], scores: Scores, failed: int = 0) -> Sequence[Mirror]:
        """Return all of *mirrors*, the most promising first."""
        known = [(mirror, scores.of(mirror.url)) for mirror in mirrors]
        good = sum(_is_good(score) for _, score in known)
        explores = good < _ENOUGH and not (good and failed)  # who has waited for one failure, is spared another
        return [mirror for mirror, _ in sorted(known, key=lambda pair: _rank(pair[0], pair[1], explores))]


@dataclass(frozen=True)
class InOrder(Choice):
    """Asks the mirrors by priority, then in the order of the list; whatever happens, it learns nothing."""

    half_life: float = field(default=HALF_LIFE, init=False, repr=False)
    probe: int = field(default=0, init=False, repr=False)
    path: None = field(default=None, init=False, repr=False)

    def order(self, mirrors: Sequence[Mirror], scores: Scores, failed: int = 0) -> Sequence[Mirror]:  # noqa: ARG002
        """Return all of *mirrors*, those of the best priority first."""
        return sorted(mirrors, key=lambda mirror: mirror.priority)


def _rank(mirror: Mirror, score: Score, explores: bool) -> tuple[float, float, float, float]:
    """Return what is less, the better *mirror* is."""
    if score.is_aside:
        return _ASIDE, score.aside_until, mirror.priority, 0.0
    free = not score.in_use
    likely = score.chance >= _UNRELIABLE or score.on_trial
    standing = _FULL if not score.has_room(mirror.connections) else _GOOD if likely else _UNLIKELY
    if explores and free and likely and _is_worth_a_try(score):
        return standing, mirror.priority, _TO_EXPLORE, inf if score.latency is None else score.latency
    if score.speed is None:
        return standing, mirror.priority, _UNKNOWN, score.in_use + score.in_a_row - score.chance
    return standing, mirror.priority, _KNOWN, -_promise(score)


def _is_good(score: Score) -> bool:
    return score.speed is not None and not score.in_a_row and not score.is_aside and score.chance >= _UNRELIABLE


def _is_worth_a_try(score: Score) -> bool:
    """Tell whether it is time to find out how good the mirror is, or whether it is well again."""
    if score.in_a_row:
        return score.on_trial or score.at >= score.failed_at + _PAUSE
    return score.speed is None


def _promise(score: Score) -> float:
    """Return the useful bytes per second that one more download may expect.

    Some mirrors have a line that our downloads share, others give each of them the same; the root is between the two:
    it spreads the downloads, yet not so far that a slow mirror holds up a fast one.
    """
    speed = (score.volume + _HEAD * score.measured) / score.seconds * sqrt(score.load / score.measured)
    return speed * score.chance * 0.5**score.in_a_row / (score.in_use + 1)
