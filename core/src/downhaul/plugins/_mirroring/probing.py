"""Probing: how soon the first mirrors of a list answer, before one of them is chosen."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from downhaul import DownloadError, StatusError, TimeoutExceeded, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from downhaul import Request, Transfer
    from downhaul.plugins._mirror import Mirror

    from .choice import Choice
    from .scores import Scores

_PATIENCE: Final = 2.0  # seconds; who takes longer is asked last
_GOOD_FOR: Final = 3600.0  # seconds


def first_of(mirrors: Sequence[Mirror], number: int) -> Sequence[Mirror]:
    """Return the first *number* of *mirrors*, by priority."""
    return sorted(mirrors, key=lambda mirror: mirror.priority)[:number]


async def probe(plugin: object, transfer: Transfer, choice: Choice, scores: Scores) -> None:
    """Ask all the alternatives of *transfer* at once for the head of the file.

    That is done once per context for the same hosts, and again after an hour. An answer of whatever status counts.
    """
    requests = transfer.alternatives
    key = "probed", frozenset(request.origin for request in requests)
    await transfer.context.once(choice, key, partial(_ask_all, plugin, transfer, requests, scores), ttl=_GOOD_FOR)


async def _ask_all(plugin: object, transfer: Transfer, requests: Sequence[Request], scores: Scores) -> bool:
    async with asyncio.TaskGroup() as group:
        for request in requests:
            group.create_task(_ask(plugin, transfer, request, scores))
    return True


async def _ask(plugin: object, transfer: Transfer, request: Request, scores: Scores) -> None:
    since = time.monotonic()
    failure: DownloadError | None = None
    try:
        async with asyncio.timeout(_PATIENCE), transfer.open(plugin, replace(request, verb="stat", unless=None)):
            pass
    except TimeoutError:
        failure = TimeoutExceeded(f"{show(request.url)} did not answer within {_PATIENCE} s", "head")
    except StatusError:
        pass  # it is there, whatever it says
    except DownloadError as error:
        failure = error
    if failure is None:
        scores.probed(request.url, time.monotonic() - since)
    else:
        scores.failed(request.url, failure)
