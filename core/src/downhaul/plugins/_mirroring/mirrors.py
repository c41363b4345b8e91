"""What mirror plugins have in common: aiming, moving on, and remembering how each mirror did."""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from downhaul import (
    AccessDenied,
    LowSpeed,
    NotFound,
    Plugin,
    PolicyError,
    PreparationError,
    Result,
    Retry,
    UnsupportedScheme,
    ValidationError,
    hookimpl,
    show,
)
from downhaul.plugins._mirror import Mirror

from .choice import Adaptive, Choice
from .probing import first_of, probe
from .standing import kept, scores_of

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from downhaul import Context, DownloadError, Transfer

    from .scores import Scores

_OFFERED: Final = 8
_GONE: Final = (NotFound, PolicyError, UnsupportedScheme)
"""Errors that a mirror would answer with again, whenever it is asked for the file."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Mirrors(Plugin, ABC):
    """Base class of mirror plugins: asks one source after another, whatever is wrong with the ones before.

    A subclass has a method `sources`, and `locate` where what it returns are not URLs of the file. Which of them is
    asked first is for *choice*, which learns from all downloads of a context. While another source is left, one that is
    slower than *low_speed* is given up, unless the settings have a limit of their own; None: none is.
    """

    choice: Choice = field(default=Adaptive())
    low_speed: LowSpeed | None = field(default=LowSpeed(30_000, 30))

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not inspect.iscoroutinefunction(cls.sources):
            raise TypeError(f"{cls.__name__}.sources must be async def")

    def __post_init__(self) -> None:
        if not isinstance(self.choice, Choice):
            raise TypeError(f"choice=… takes a Choice, such as Adaptive(); not {self.choice!r}")
        if self.low_speed is not None and not isinstance(self.low_speed, LowSpeed):
            raise TypeError(f"low_speed=… takes a LowSpeed, such as LowSpeed(30_000, 30); not {self.low_speed!r}")

    @abstractmethod
    async def sources(self, transfer: Transfer) -> Sequence[Mirror]:
        """Return where the file of *transfer* can be had; nothing where that is not our business.

        It is asked before every attempt: what costs time is for ``transfer.context.once``. It may also say what the
        file must be, by ``transfer.require``.
        """

    def locate(self, mirror: Mirror, transfer: Transfer) -> str:  # noqa: ARG002
        """Return the URL of the file at *mirror*: its own, unless a subclass makes one."""
        return mirror.url

    def doubted(self, transfer: Transfer) -> None:
        """The last of the sources failed by what the file must be: what says so, and is kept, may be out of date."""

    def open(self, context: Context) -> AbstractAsyncContextManager[None]:
        """Keep what is learned from one run to the next, where the choice has a place for it."""
        return nullcontext() if self.choice.path is None else kept(self.choice, context)

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        """Aim at the source whose turn it is, and tell of the others."""
        mirrors = await self.sources(transfer)
        if not mirrors:
            return
        if not isinstance(mirrors, Sequence) or not isinstance(mirrors[0], Mirror):
            raise TypeError(f"{type(self).__name__}.sources returns a sequence of Mirror, not {type(mirrors).__name__}")
        scores = await scores_of(self.choice, transfer.context)
        if self.choice.probe:
            transfer.offer(self.locate(mirror, transfer) for mirror in first_of(mirrors, self.choice.probe))
            await probe(self, transfer, self.choice, scores)
        turn = transfer.state(self, _Turn)
        mirror = turn.aim(transfer, mirrors, self.choice, scores)
        transfer.request = replace(transfer.request, url=self.locate(mirror, transfer))
        transfer.offer(self.locate(other, transfer) for other in turn.others[:_OFFERED])
        if turn.others and transfer.settings.low_speed is None:
            transfer.low_speed = self.low_speed

    @hookimpl
    async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:
        """Move on to the next source, if there is one: only here, so another plugin's Retry means this one again."""
        if transfer.state(self, _Turn).failed(transfer, error):
            return Retry()
        if isinstance(error, ValidationError):
            self.doubted(transfer)
        return None

    @hookimpl
    def done(self, transfer: Transfer, outcome: Result | DownloadError | None) -> None:
        """Credit the source that delivered."""
        transfer.state(self, _Turn).ended(transfer, delivered=isinstance(outcome, Result))

    def __repr__(self) -> str:
        shown = []
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if value != each.default:
                shown.append(f"{each.name}={_shown(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _shown(value: object) -> str:
    """Return the repr of *value*, without what may be secret in URLs, and in the arguments of a function."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if callable(value):
        return f"<{getattr(value, '__name__', type(value).__name__)}>"
    return repr(show(value) if isinstance(value, str) else value)


@dataclass
class _Turn:
    """Whose turn it is in one transfer, who is left behind it, and what will not be asked again.

    `tried` is for the round, `gone` for good; both hold the URLs of mirrors. `told` counts the entries of the history
    that the scores know of.
    """

    mirror: Mirror | None = None
    others: Sequence[Mirror] = ()
    round: int = 0
    tried: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    scores: Scores | None = None
    before: int = 0
    told: int = 0

    def aim(self, transfer: Transfer, mirrors: Sequence[Mirror], choice: Choice, scores: Scores) -> Mirror:
        """Stay with the mirror that is being asked, unless it has failed; else take the first by *choice*."""
        if self.round != transfer.round:
            self.round = transfer.round
            self.tried.clear()
        self.before = transfer.received
        left = [mirror for mirror in mirrors if mirror.url not in self.tried and mirror.url not in self.gone]
        if self.mirror in left:
            self.others = [mirror for mirror in left if mirror != self.mirror]
            return self.mirror
        self._leave()
        self.mirror, *self.others = choice.order(left, scores, len(self.tried | self.gone)) or mirrors[:1]
        self.scores = scores
        scores.take(self.mirror.url)
        return self.mirror

    def failed(self, transfer: Transfer, error: DownloadError) -> bool:
        """Take note that the mirror has failed for this file; tell whether another one is left."""
        self._tell(transfer, len(transfer.history) - 1)
        self.told = len(transfer.history)
        if self.mirror is None or self.scores is None:
            return False
        final = isinstance(error, _GONE) or (isinstance(error, AccessDenied) and error.code == 403)
        (self.gone if final else self.tried).add(self.mirror.url)
        if not isinstance(error, PreparationError):  # which is of what was needed first
            self.scores.failed(self.mirror.url, error, max(0, transfer.received - self.before), transfer.seconds)
        self._leave()
        return bool(self.others)

    def ended(self, transfer: Transfer, *, delivered: bool) -> None:
        """Take note that the download is over."""
        self._tell(transfer, len(transfer.history))
        if delivered and self.mirror is not None and self.scores is not None and self._delivered(transfer):
            self.scores.succeeded(self.mirror.url, max(0, transfer.received - self.before), transfer.seconds)
        self._leave()

    def _delivered(self, transfer: Transfer) -> bool:
        """Tell whether the mirror that was aimed at is the one that delivered, and not others in its place."""
        sources = () if transfer.payload is None else transfer.payload.info.sources
        return sources in {(), (transfer.request.url,)}

    def _tell(self, transfer: Transfer, end: int) -> None:
        """Count what failed within an attempt, and was made good there; the failed attempts are counted by `failed`."""
        if self.scores is not None:
            for attempt in transfer.history[self.told : end]:
                if attempt.repaired_by is None:
                    self.scores.failed(attempt.source, attempt.error)
        self.told = max(self.told, end)

    def _leave(self) -> None:
        if self.mirror is not None and self.scores is not None:
            self.scores.leave(self.mirror.url)
        self.mirror = None
