"""The answer to a request, opened: what every adapter enters.

An adapter enters `answering`, sends status and fields, then the blocks of the stream, and leaves. What it alone can do:
abort its answer when the stream breaks, and leave at once when the client hangs up.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

from downhaul import DownloadError, ValidationError, show

from ._exchange import Answer, Exchange, Options, RelayOptions
from ._wrong import wrong_files

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping
    from typing import Unpack

    from downhaul import Download, Stream

__all__ = ["Answer", "Options", "RelayOptions", "answering", "marks_end"]

_MARKED_ENDS: Final = frozenset({"1.1", "2", "2.0", "3"})
_log: Final = logging.getLogger("downhaul.adapters")


def marks_end(scope: Mapping[str, Any]) -> bool:
    """Tell whether the version of HTTP in a *scope* of ASGI marks the end of an answer without a length.

    A server that speaks ASGI lets nobody reset a connection instead. HTTP/1.0 is called "1" by some of them.
    """
    return scope.get("http_version") in _MARKED_ENDS


@asynccontextmanager
async def answering(
    download: Download, method: str, asked: Mapping[str, str], *, marks_end: bool, **options: Unpack[RelayOptions]
) -> AsyncGenerator[Answer]:
    """Find out what to answer to a request of *method* with the header fields *asked*; leaving it frees everything.

    *marks_end* tells whether the client can tell the end of an answer without a length from a lost connection. A
    failure becomes a refusal; of DownloadErrors, only what the stream raises comes out.
    """
    async with AsyncExitStack() as entered:

        async def enter(stream: Stream) -> Stream:
            await entered.aclose()
            return await entered.enter_async_context(stream)

        answer = await Exchange(download, method, asked, enter, Options(**options), marks_end=marks_end).answer()
        if answer.stream is None:
            await entered.aclose()
        with _told(download):
            yield answer


@contextmanager
def _told(download: Download) -> Generator[None]:
    """Log that an answer broke off, when its stream did."""
    try:
        yield
    except DownloadError as error:
        if any(isinstance(each, ValidationError) for each in (error, *(attempt.error for attempt in error.history))):
            wrong_files.add(download.url)
        _log.warning("%s: broke off: %s: %s", show(download.url), type(error).__name__, error)
        raise
