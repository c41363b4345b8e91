"""The built-in plugins. They use what is exported, so nothing that downhaul does by default is beyond a plugin.

A plugin of the same type among those of a context or a download replaces the built-in one.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ._errors import ValidationError
from ._models import Retry
from .hookspecs import Plugin, hookimpl

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ._errors import DownloadError
    from ._models import Payload
    from ._transfer import Transfer

_log: Final = logging.getLogger("downhaul.validation")


@dataclass(frozen=True)
class Verdict(Plugin):
    """Lets every validation judge the bytes; one that is not enforced only warns."""

    @hookimpl
    async def validate(self, transfer: Transfer) -> None:
        """Raise the ValidationError of the first enforced validation that has one; log those that are not enforced.

        What stands behind the one that refuses is not asked: it may rely on those before it.
        """
        for validation, check in transfer.checks:
            try:
                await transfer.judge(check)
            except ValidationError as error:
                if validation.enforced:
                    raise
                _log.warning("%s: %s, which is not enforced", transfer, error)


@dataclass(frozen=True)
class Retries(Plugin):
    """Starts another round where any error of this one may pass by itself.

    Between rounds it waits for a random part of ``base * 2 ** (round - 1)`` seconds, at most *longest* (full jitter),
    or as long as a server asked, the longest of the round, up to *patience* seconds. A server that asks for more is
    given up at once; the error says for how long. One of your own among the plugins replaces the built-in one, the
    download's that of its context::

        Context(plugins=[Retries(base=0.1, patience=600)])
    """

    base: float = 0.5
    longest: float = 30.0
    patience: float = 60.0

    def __post_init__(self) -> None:
        if min(self.base, self.longest, self.patience) < 0:
            raise ValueError("Retries takes numbers of seconds, from 0")

    @hookimpl(trylast=True)
    async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:  # noqa: ARG002
        """Answer with a Retry for later, if any error of the round was transient."""
        judged = transfer.state(Retries, set[int])  # of several the first decides, which may be to give up
        if transfer.attempt in judged:
            return None
        judged.add(transfer.attempt)
        this_round = [attempt.error for attempt in transfer.history if attempt.round == transfer.round]
        passing = [each for each in this_round if each.transient]
        if not passing:
            return None
        asked = max((each.retry_after for each in passing if each.retry_after is not None), default=None)
        if asked is None:
            return Retry(after=random.uniform(0, min(self.longest, self.base * 2 ** (transfer.round - 1))))
        return Retry(after=asked) if asked <= self.patience else None


@dataclass(frozen=True)
class Drivers(Plugin):
    """Lets the driver for the scheme of the request answer; after everybody else."""

    @hookimpl(trylast=True)
    def fetch(self, transfer: Transfer) -> AbstractAsyncContextManager[Payload]:
        """Answer always; opening raises UnsupportedScheme where there is no driver."""
        return transfer.context.drive(transfer)


BUILT_IN: Final = (Verdict(), Retries(), Drivers())
