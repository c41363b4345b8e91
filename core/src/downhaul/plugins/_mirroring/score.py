"""What is known of one mirror, and the rules by which it is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from downhaul import (
    AccessDenied,
    ConnectError,
    NotFound,
    PluginError,
    PolicyError,
    PreparationError,
    RangeRefused,
    StatusError,
    StreamBroken,
    TimeoutExceeded,
    UnsupportedScheme,
    ValidationError,
    WriteError,
)

if TYPE_CHECKING:
    from downhaul import DownloadError

_RECENT: Final = 20
"""Downloads of one mirror that are remembered at most, however many there were within the half-life."""
_SAMPLES: Final = 4
"""Those of them that tell its speed."""
_KNOWN: Final = 0.2
"""The least part of a sample by which a speed is known: one is forgotten after 2.3 half-lives, four after 4.3."""
_CREDIT: Final = 2
"""Successes that every mirror is credited with, so that one bad answer alone proves little."""
_TOO_MANY: Final = 3
"""Failures in a row after which a mirror is set aside."""
_ASIDE, _LONGEST_ASIDE = 60.0, 3600.0  # seconds
_DOUBLINGS: Final = 6
_PATIENCE: Final = 16
"""Successes at the limit after which one more download may go to a mirror that was busy."""
_INSTANT: Final = 0.001
"""Seconds; what took less cannot be told from it."""
_BUSY: Final = frozenset({421, 429, 503})
_MISSES: Final = (NotFound, AccessDenied, PolicyError, RangeRefused, UnsupportedScheme)
_NOT_ITS_FAULT: Final = (PluginError, PreparationError, StreamBroken, WriteError)


@dataclass(slots=True)
class Score:
    """What is known of one mirror, at the moment `at`: for a strategy to read, and for `Scores` to write.

    `successes`, `failures` and `misses` count downloads. They fade: after a half-life each counts half. `in_a_row`
    counts the failures since the last answer; the last of them, or refusal of a busy mirror, was at `failed_at`, the
    last success at `served_at`. `aside_until` is until when the mirror is set aside: it stays when that is over, until
    there is an answer, and is 0 then. `asides` counts how often in a row it was. `latency` is what a probe took, in
    seconds, or None.

    `in_use` downloads are there now; where the mirror was busy, no more than `limit` should be.

    The last downloads brought `volume` useful bytes in `seconds`; `measured` counts them, and `load` adds up how many
    were there when they ended. These four fade as well. Times are those of `Scores.now`.
    """

    at: float = 0.0
    successes: float = 0.0
    failures: float = 0.0
    misses: float = 0.0
    in_a_row: int = 0
    failed_at: float = 0.0
    asides: int = 0
    aside_until: float = 0.0
    volume: float = 0.0
    seconds: float = 0.0
    measured: float = 0.0
    load: float = 0.0
    latency: float | None = None
    served_at: float = 0.0
    in_use: int = 0
    limit: int | None = None
    _borne: int = 0

    @property
    def speed(self) -> float | None:
        """Useful bytes per second that one connection gets, or None while that is not known."""
        return self.volume / self.seconds if self.measured >= _KNOWN else None

    @property
    def chance(self) -> float:
        """How likely it has a file and delivers it, from 0 to 1; of a mirror of which nothing is known, 1."""
        good = self.successes + _CREDIT
        return good / (good + self.failures + self.misses)

    @property
    def is_aside(self) -> bool:
        """Whether it is set aside now: the last resort."""
        return self.aside_until > self.at

    @property
    def on_trial(self) -> bool:
        """Whether it was set aside and has not answered since: one download at a time finds out."""
        return 0 < self.aside_until <= self.at

    def has_room(self, connections: int | None = None) -> bool:
        """Whether one more download may go there; *connections* is the most that whoever names it asks for."""
        if self.on_trial and self.in_use:
            return False
        return (self.limit is None or self.in_use < self.limit) and (connections is None or self.in_use < connections)

    def decay(self, now: float, half_life: float) -> None:
        """Let time pass until *now*."""
        if now > self.at:
            left = 0.5 ** ((now - self.at) / half_life)
            self._fade(left)
            self._fade_measure(left)
            self.at = now

    def settle(self, now: float) -> None:
        """Make sense of what was kept: whole numbers, and nothing of a time that is still to come."""
        self.at, self.failed_at = min(self.at, now), min(self.failed_at, now)
        self.aside_until = min(self.aside_until, now + _LONGEST_ASIDE)
        self.in_a_row, self.asides = int(self.in_a_row), min(int(self.asides), _DOUBLINGS)
        self.seconds = max(self.seconds, self.measured * _INSTANT)

    def succeeded(self, size: int, seconds: float) -> None:
        """Count a download of *size* bytes that took *seconds*."""
        if self.in_a_row:
            self._fade_measure(0)  # with the trouble it is over what was measured in it
        self._answered(seconds)
        self.served_at = self.at
        self._count(successes=1)
        self.volume += size
        self.seconds += max(seconds, _INSTANT)
        self.measured += 1
        self.load += max(self.in_use, 1)
        self._fade_measure(min(_SAMPLES / self.measured, 1))
        self._raise_limit()

    def failed(self, error: DownloadError, size: int, seconds: float) -> None:
        """Count a download that failed with *error* after *size* bytes and *seconds*."""
        if isinstance(error, _NOT_ITS_FAULT) or (isinstance(error, TimeoutExceeded) and error.phase == "total"):
            return
        if _is_miss(error):
            self._answered(seconds)
            self._count(misses=1)
            return
        if self._is_busy(error, seconds):
            self._lower_limit()
        else:
            self._fail(0 if isinstance(error, ValidationError) else size, seconds)
        self.failed_at = self.at
        if error.retry_after:
            self.aside_until = max(self.aside_until, self.at + min(error.retry_after, _LONGEST_ASIDE))

    def _is_busy(self, error: DownloadError, seconds: float) -> bool:
        """Tell whether the mirror refused one download while it served others, so that fewer may do."""
        if isinstance(error, ConnectError):
            refused = self.successes > 0  # one that never was of any use is no busy mirror, but a dead one
        else:
            refused = isinstance(error, StatusError) and error.code in _BUSY
        return refused and (self.in_use > 1 or self.served_at > self.at - seconds)

    def _lower_limit(self) -> None:
        self._borne = 0
        if self.limit is None:
            self.limit = max(self.in_use - 1, 1)
        elif self.in_use <= self.limit:  # beyond it, to be refused is no news
            self.limit = max(self.limit - 1, 1)

    def _fail(self, useful: int, seconds: float) -> None:
        self._count(failures=1)
        self.volume += useful
        self.seconds += seconds
        self.in_a_row += 1
        if not self.is_aside and (self.in_a_row >= _TOO_MANY or self.on_trial):
            self.aside_until = self.at + min(_ASIDE * 2**self.asides, _LONGEST_ASIDE)
            self.asides = min(self.asides + 1, _DOUBLINGS)

    def _answered(self, seconds: float) -> None:
        if self.asides:  # the outage is over, and tells nothing of the mirror when it is up
            self.failures = max(self.failures - self.in_a_row, 0.0)
        self.in_a_row = 0
        if self.at - seconds >= self.failed_at:  # what had begun before proves nothing
            self.asides, self.aside_until = 0, 0.0

    def _raise_limit(self) -> None:
        if self.limit is not None and self.in_use >= self.limit:  # as many as should be are borne
            self._borne += 1
            if self._borne >= _PATIENCE:
                self.limit, self._borne = self.limit + 1, 0

    def _count(self, successes: int = 0, failures: int = 0, misses: int = 0) -> None:
        self.successes += successes
        self.failures += failures
        self.misses += misses
        self._fade(min(_RECENT / (self.successes + self.failures + self.misses), 1))

    def _fade(self, left: float) -> None:
        self.successes *= left
        self.failures *= left
        self.misses *= left

    def _fade_measure(self, left: float) -> None:
        self.volume *= left
        self.seconds *= left
        self.measured *= left
        self.load *= left


def _is_miss(error: DownloadError) -> bool:
    """Tell whether the mirror answered, and only not with the file."""
    if isinstance(error, _MISSES):
        return True
    return isinstance(error, StatusError) and not error.transient
