"""The two forms of everything: synchronous, and on an event loop."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from downhaul import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from downhaul import Download, Plan, Result

FORMS: Final = ("sync", "async")


def wait_until(condition: Callable[[], object]) -> None:
    """Block this thread until another one makes *condition* true; fail if that takes longer than 10 seconds."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)


def run(form: str, download: Download) -> Result:
    """Run *download* in one of the forms, from a thread without a loop."""
    return download() if form == "sync" else asyncio.run(download.run())


def read(form: str, download: Download) -> bytes:
    """Return all bytes of the stream of *download*."""
    if form == "sync":
        with download.stream() as stream:
            return b"".join(stream)

    async def work() -> bytes:
        async with download.stream() as stream:
            return b"".join([block async for block in stream])

    return asyncio.run(work())


def plans_of(
    form: str, downloads: Iterable[Download], *, kept: list[Batch] | None = None, **options: Any
) -> list[Plan]:
    """Return all plans of a batch, which is put into *kept*."""
    batch = Batch(downloads, **options)
    if kept is not None:
        kept.append(batch)
    if form == "sync":
        with batch:
            return list(batch())

    async def work() -> list[Plan]:
        async with batch:
            return [plan async for plan in batch()]

    return asyncio.run(work())
