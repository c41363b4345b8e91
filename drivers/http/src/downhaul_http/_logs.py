"""Keeping secrets out of the logs of the client libraries.

httpx logs each URL with its query, httpcore logs the header fields of answers (cookies, signed locations) and the
password of a SOCKS proxy, hpack logs every header field of HTTP/2, Authorization included. Their loggers belong to
the whole program, so neither their level nor their handlers are ours to change. What is ours is the context that a
record is made in: a filter on these loggers looks only at records made while the driver waits for the library, and
takes from them what could be secret. Everybody else's records pass as they are.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

_guarded: Final[ContextVar[bool]] = ContextVar("downhaul_http_guarded", default=False)

_CLIENT: Final = "httpx"
_ARGUMENTS: Final = 5  # of its line for a request: method, URL, version, status, and the reason phrase
_TRANSPORT: Final = ("connection", "http11", "http2", "proxy", "socks")
_COMPRESSION: Final = ("hpack.hpack", "hpack.table")


@contextmanager
def guarded() -> Iterator[None]:
    """Let nothing secret into records that are made in here."""
    token = _guarded.set(True)
    try:
        yield
    finally:
        _guarded.reset(token)


def guard_loggers() -> None:
    """Put the filter on the loggers of the client libraries; doing it again changes nothing."""
    # A filter of a logger does not see the records of the loggers below it: each needs its own.
    for name in (_CLIENT, *(f"httpcore.{part}" for part in _TRANSPORT), *_COMPRESSION):
        logging.getLogger(name).addFilter(_GUARD)


class _Guard(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if not _guarded.get():
            return True
        if record.name == _CLIENT:
            if isinstance(record.args, tuple):
                # The last is the server's own phrase for the status, which may repeat what it was sent.
                record.args = (
                    *map(_shown, record.args[:-1]),
                    "" if len(record.args) == _ARGUMENTS else record.args[-1],
                )
            return True
        if record.name in _COMPRESSION:
            return False
        # "receive_response_headers.complete return_value=…": the name of the event says enough.
        record.msg = str(record.msg).partition(" ")[0]
        return True


def _shown(argument: object) -> object:
    if not isinstance(argument, httpx.URL):
        return argument
    return f"{argument.scheme}://{argument.netloc.decode()}{argument.raw_path.partition(b'?')[0].decode()}"


_GUARD: Final = _Guard()
