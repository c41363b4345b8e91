"""What went wrong, in the words of downhaul's tree of errors."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final, TypeVar

import aioftp

from downhaul import (
    AccessDenied,
    ConnectError,
    FetchError,
    NameResolutionError,
    NotFound,
    ProtocolError,
    ServerError,
    StatusError,
    TimeoutExceeded,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ._replies import Reply

_T = TypeVar("_T")
_DENIED: Final = frozenset({332, 430, 530, 532})
_NO_FILE: Final = frozenset({550, 553})


def refused(doing: str, reply: Reply, *, of_file: bool = False) -> FetchError:
    """Return the error for *reply*, which is not what was hoped for; `of_file` where a command names the file."""
    said = f"{doing}: {reply.code} {reply.shown}".rstrip()
    if reply.code in _DENIED:
        return AccessDenied(said, reply.code, reply.shown)
    if of_file and reply.code in _NO_FILE:
        return NotFound(said, reply.code, reply.shown)
    if reply.transient:
        return ServerError(said, reply.code, reply.shown)
    if reply.code >= 500:
        return StatusError(said, reply.code, reply.shown)
    return ProtocolError(f"{said} is no answer to that")


async def bounded(work: Awaitable[_T], seconds: float | None, *, phase: str, doing: str) -> _T:
    """Await *work* for at most *seconds* (None: for ever) and return what it returns; raise `FetchError` only.

    Nothing is chained: what other libraries raise may hold credentials.
    """
    failure: FetchError
    try:
        async with asyncio.timeout(seconds):
            return await work
    except FetchError:
        raise
    except TimeoutError as reason:
        limit = "" if seconds is None else f" within {seconds:g} seconds"
        failure = TimeoutExceeded(f"{doing}: no answer{limit}{f' ({reason})' if str(reason) else ''}", phase)
    except socket.gaierror as reason:
        failure = NameResolutionError(f"{doing}: {reason.strerror or reason}")
        failure.transient = reason.errno == socket.EAI_AGAIN
    except UnicodeError as reason:
        failure = NameResolutionError(f"{doing}: no name of a host ({reason})")
    except OSError as reason:
        failure = ConnectError(f"{doing}: {reason.strerror or reason or type(reason).__name__}")
    except (aioftp.AIOFTPException, ValueError) as reason:
        failure = ProtocolError(f"{doing}: {reason}")
    raise failure
