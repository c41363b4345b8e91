"""Where the contract puts a driver to work: opened as the engine opens it, and searched afterwards for what is left."""

from __future__ import annotations

import asyncio
import gc
import random
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from downhaul import DownloadError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from downhaul import Driver, Info, Payload, Request, Settings

_T = TypeVar("_T")
_DESCRIPTORS: Final = Path("/proc/self/fd")


def sample(size: int, seed: int = 0) -> bytes:
    """Return *size* bytes that look random and are the same each time."""
    return random.Random(f"{size} {seed}").randbytes(size)


def difference(received: bytes, expected: bytes) -> str:
    """Return where *received* departs from *expected*, in few words, or "" where they are equal."""
    if received == expected:
        return ""
    common = min(len(received), len(expected))
    first = next((i for i in range(common) if received[i] != expected[i]), common)
    return f"{len(received)} bytes instead of {len(expected)}, different from byte {first}"


def play(
    make_driver: Callable[[], Driver],
    scenario: Callable[[Driver], Coroutine[Any, Any, _T]],
    seconds: float,
    settling_seconds: float,
) -> _T:
    """Run *scenario* with a new driver on a new loop, close the driver, and check that nothing is left of it.

    *seconds* limit the scenario, and the closing; *settling_seconds* what the loop still has to do afterwards.
    """
    complaints: list[str] = []

    async def whole() -> _T:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(f"{context['message']}: {context.get('exception')!r}")
        )
        before = descriptors()
        driver = make_driver()
        try:
            async with asyncio.timeout(seconds):
                outcome = await scenario(driver)
        finally:
            async with asyncio.timeout(seconds):
                await driver.aclose()
        tasks = await new_tasks(set(), settling_seconds)
        assert not tasks, f"after aclose the driver leaves tasks behind: {tasks}"
        files = await _new_descriptors(before, settling_seconds)
        assert not files, f"after aclose the driver leaves files or sockets open: {files}"
        return outcome

    outcome = asyncio.run(whole())
    gc.collect()  # a forgotten task or transport complains when it is collected
    assert not complaints, f"the event loop had to report what nobody handled: {complaints}"
    return outcome


@asynccontextmanager
async def opened(driver: Driver, request: Request, settings: Settings) -> AsyncIterator[Payload]:
    """Open *request* as the engine does: the body is closed before the answer is left."""
    async with driver.open(request, settings) as payload:
        try:
            yield payload
        finally:
            close = getattr(payload.body, "aclose", None)
            if close is not None:
                await close()


async def read(payload: Payload) -> bytes:
    """Return all bytes of *payload*; each block is copied at once, as it is valid only until the next."""
    received = bytearray()
    async for block in payload.body:
        assert isinstance(block, bytes | bytearray | memoryview), f"a block is a {type(block).__name__}"
        received += block
    return bytes(received)


async def fetched(driver: Driver, request: Request, settings: Settings) -> tuple[Info, bytes]:
    """Return what the driver knew of *request* before the first byte, and all bytes."""
    async with opened(driver, request, settings) as payload:
        return payload.info, await read(payload)


async def attempted(driver: Driver, request: Request, settings: Settings) -> tuple[Info, bytes] | DownloadError:
    """Return what *request* gives, an error of the tree included; any other exception is raised."""
    try:
        return await fetched(driver, request, settings)
    except DownloadError as error:
        return error


def current_tasks() -> set[asyncio.Task[Any]]:
    """Return the unfinished tasks of the running loop, less the one that asks."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def new_tasks(usual: set[asyncio.Task[Any]], settling_seconds: float) -> list[str]:
    """Return the tasks that are not among *usual* and do not end by themselves, up to as many as *usual* has.

    A driver may keep a task of its own (to close idle connections, say) and exchange it for another one.
    """
    for _ in _moments(settling_seconds):
        if len(current_tasks()) <= len(usual):
            return []
        await asyncio.sleep(0.01)
    return sorted(map(repr, current_tasks() - usual))


async def _new_descriptors(before: dict[str, str], settling_seconds: float) -> list[str]:
    """Return the open files that were not there *before*; the peer of a closed connection is waited for."""
    new: set[str] = set()
    for _ in _moments(settling_seconds):
        new = {target for number, target in descriptors().items() if before.get(number) != target}
        if not new:
            break
        await asyncio.sleep(0.01)
    return sorted(new)


def descriptors() -> dict[str, str]:
    """Return what each open file descriptor of this process points to; {} on a system without ``/proc``."""
    found: dict[str, str] = {}
    if _DESCRIPTORS.is_dir():
        for path in list(_DESCRIPTORS.iterdir()):
            with suppress(OSError):  # the descriptor that lists the directory is gone by now
                found[path.name] = str(path.readlink())
    return found


def _moments(seconds: float) -> range:
    return range(int(seconds / 0.01))
