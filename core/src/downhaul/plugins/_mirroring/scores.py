"""What is known of all mirrors, and kept from one run to the next."""

from __future__ import annotations

import json
import logging
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from downhaul import origin

from .score import Score

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from downhaul import DownloadError

_log: Final = logging.getLogger("downhaul.mirrors")

HALF_LIFE: Final = 6 * 3600.0
"""Seconds: most of a night is still known in the next one, and a bad hour is not held against anybody for days."""
_ORIGINS: Final = 1000
_NOWHERE: Final = ":"
"""The origin of what is no URL; whoever aims there will be told, and its text, a password maybe, is not kept."""
_VERSION: Final = 1
_LARGEST: Final = 4 * 1024 * 1024  # bytes
_LARGEST_NUMBER: Final = 1e18
_KEPT: Final = (
    "at", "successes", "failures", "misses", "in_a_row", "failed_at", "asides", "aside_until", "volume", "seconds",
    "measured", "load", "latency",
)  # fmt: skip


class Scores:
    """What is known of all mirrors, by origin: 1,000 at most; beyond, the least recently used is dropped.

    *half_life* is in seconds. *clock* returns seconds since the epoch; it may jump: where it goes back, time stands
    still for a moment, and goes on. Not for several threads; only `save` may be called in another one.
    """

    def __init__(self, half_life: float = HALF_LIFE, clock: Callable[[], float] = time.time) -> None:
        self._half_life, self._clock = half_life, clock
        self._scores: dict[str, Score] = {}
        self._origin_of = lru_cache(2 * _ORIGINS)(origin)
        self._behind = self._last = 0.0

    def now(self) -> float:
        """Seconds since the epoch, as the clock has it; more where it was put back: here time only goes forward."""
        now = self._clock() + self._behind
        if now < self._last:
            self._behind += self._last - now
            now = self._last
        self._last = now
        return now

    def of(self, url: str) -> Score:
        """Return what is known by now of the mirror that *url* is at; an empty score, where that is nothing."""
        now = self.now()
        score = self._scores.get(self._key(url))
        if score is None:
            return Score(now)
        score.decay(now, self._half_life)
        return score

    def take(self, url: str) -> None:
        """Count a download that is going to ask at *url*."""
        self._used(url).in_use += 1

    def leave(self, url: str) -> None:
        """Count it no longer; whether it `succeeded` or `failed` is told before, or not at all if it was given up."""
        score = self._scores.get(self._key(url))
        if score is not None:
            score.in_use = max(score.in_use - 1, 0)

    def succeeded(self, url: str, size: int, seconds: float) -> None:
        """Count a download that got *size* bytes from *url*, all that it wanted, in *seconds* of waiting for them."""
        self._used(url).succeeded(size, seconds)

    def failed(self, url: str, error: DownloadError, size: int = 0, seconds: float = 0.0) -> None:
        """Count a download that failed at *url* with *error*, after *size* bytes and *seconds* of waiting for them.

        What is no fault of the mirror's, such as a full disk, is not counted.
        """
        self._used(url).failed(error, size, seconds)

    def probed(self, url: str, seconds: float) -> None:
        """Take note that *url* answered after *seconds*."""
        self._used(url).latency = seconds

    def __len__(self) -> int:
        return len(self._scores)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the origins of which something is known, the least recently used first."""
        return iter(tuple(self._scores))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Add what `save` left at *path*, if it is there; where it cannot be read nothing, and a warning in the log."""
        try:
            with Path(path).open("rb") as file:
                content = file.read(_LARGEST + 1)
            known = _parse(content, self.now())
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as reason:
            _log.warning("no scores of mirrors can be read from %s, so all are new: %s", path, reason)
            return
        self._scores = {**known, **self._scores}
        self._make_room(0)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what is known to *path*, with mode 0600, all or nothing; what fails is a warning in the log.

        The file names origins, and nothing else of a URL. Limits and downloads at work are not kept.
        """
        scores = self._scores.copy()  # at one stroke: the thread of the context goes on
        state = {"version": _VERSION, "mirrors": {key: _plain(score) for key, score in scores.items()}}
        try:
            _publish(Path(path), json.dumps(state).encode())
        except (OSError, ValueError) as reason:
            _log.warning("the scores of mirrors cannot be kept: %s", reason)

    def _key(self, url: str) -> str:
        # Without the path, which is a new one each time, the cache is as small as the number of hosts.
        try:
            return self._origin_of("/".join(url.split("/", 3)[:3]))
        except ValueError:
            return _NOWHERE

    def _used(self, url: str) -> Score:
        """Return the score of *url* to be written; from now on it is the most recently used one."""
        key, now = self._key(url), self.now()
        score = self._scores.pop(key, None)
        if score is None:
            score = Score(now)
            self._make_room(1)
        score.decay(now, self._half_life)
        self._scores[key] = score
        return score

    def _make_room(self, more: int) -> None:
        excess = len(self._scores) + more - _ORIGINS
        if excess > 0:
            idle = [key for key, score in self._scores.items() if not score.in_use]
            for key in idle[:excess]:
                del self._scores[key]


def _plain(score: Score) -> dict[str, float]:
    return {name: value for name in _KEPT if (value := getattr(score, name)) is not None}


def _parse(content: bytes, now: float) -> dict[str, Score]:
    """Return the scores in *content*, with nothing of a time that is still to come.

    Raises ValueError, or RecursionError, for what `Scores.save` has not written.
    """
    if len(content) > _LARGEST:
        raise ValueError("it is too large")
    state = json.loads(content)
    if not isinstance(state, dict) or state.get("version") != _VERSION or not isinstance(state.get("mirrors"), dict):
        raise ValueError("it is something else, or of another version")
    for key in state["mirrors"]:
        if not _is_origin(key):
            raise ValueError("it names something else than origins")
    return {key: _score(facts, now) for key, facts in state["mirrors"].items()}


def _score(facts: object, now: float) -> Score:
    if not isinstance(facts, dict) or not facts.keys() <= set(_KEPT):
        raise ValueError("it has other facts than those of a score")
    if not all(type(value) in (int, float) and 0 <= value <= _LARGEST_NUMBER for value in facts.values()):
        raise ValueError("it has facts that are no numbers, or none that can be")
    score = Score(**facts)
    score.settle(now)
    return score


def _is_origin(key: str) -> bool:
    try:
        return origin(key) == key
    except ValueError:
        return False


def _publish(path: Path, content: bytes) -> None:
    """Put a file with *content* in the place of *path*."""
    import tempfile

    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".downhaul-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
