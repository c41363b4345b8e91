"""The scores that a context has for a choice, and what of them is kept between runs."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from .scores import Scores

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from downhaul import Context

    from .choice import Choice


async def scores_of(choice: Choice, context: Context) -> Scores:
    """Return the scores that all plugins of *context* with an equal *choice* share."""

    async def make() -> Scores:
        scores = Scores(choice.half_life)
        if choice.path is not None:
            await asyncio.to_thread(scores.load, choice.path)
        return scores

    return await context.once(choice, "scores", make)


@asynccontextmanager
async def kept(choice: Choice, context: Context) -> AsyncGenerator[None]:
    """Save the scores at the place that *choice* has for them when *context* ends."""
    scores = await scores_of(choice, context)
    yield
    if choice.path is not None:
        await asyncio.to_thread(scores.save, choice.path)
