"""What can be told to the HTTP driver and to no other."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class HttpOptions:
    """Options of the HTTP driver: ``Settings(options=[HttpOptions(http2=True)])``.

    `http2`: offer HTTP/2 to servers of https; needs ``pip install "httpx[http2]"``. It is off because a byte costs
    several times the processor time of HTTP/1.1. Each download has a connection of its own all the same.
    `http1`: speak HTTP/1.1. Without it, HTTP/2 is spoken from the first byte, over http too.
    `keepalive_expiry`: seconds that an idle connection is kept for the next request; None keeps it for as long as
    the server does.
    `max_idle_connections`: how many connections are kept for the next request; None is no limit. How many are in
    use at one time is for the context to decide, not for this.
    `local_address`: the address to connect from, such as ``"0.0.0.0"`` for IPv4 only; not used with a proxy.
    `unix_socket`: the path of a socket that answers in place of every host; not used with a proxy.
    `socket_options`: what ``socket.setsockopt`` is to be called with, one tuple of three for each call; not used with
    a proxy by SOCKS.

    Raises ValueError for values that make no sense, ImportError where HTTP/2 is wanted and not installed.
    """

    http2: bool = False
    http1: bool = True
    keepalive_expiry: float | None = 15.0
    max_idle_connections: int | None = None
    local_address: str | None = None
    unix_socket: str | None = None
    socket_options: tuple[tuple[int, int, int] | tuple[int, int, bytes], ...] = ()

    def __post_init__(self) -> None:
        if not (self.http1 or self.http2):
            raise ValueError("HttpOptions(http1=False, http2=False) leaves no protocol to speak")
        if self.http2 and find_spec("h2") is None:
            raise ImportError('HttpOptions(http2=True) needs the package h2: pip install "httpx[http2]"')
        if self.keepalive_expiry is not None and not self.keepalive_expiry >= 0:
            raise ValueError("HttpOptions(keepalive_expiry=…) is a number of seconds, from 0, or None")
        if self.max_idle_connections is not None and self.max_idle_connections < 0:
            raise ValueError("HttpOptions(max_idle_connections=…) is a number of connections, from 0, or None")
        if self.socket_options:
            _try_out(self.socket_options)


def _try_out(options: tuple[tuple[int, int, int] | tuple[int, int, bytes], ...]) -> None:
    # Tried here and not at the first connection: there, the library would leave the socket open.
    with socket.socket() as scratch:
        for option in options:
            try:
                scratch.setsockopt(*option)
            except (OSError, TypeError) as reason:
                raise ValueError(f"HttpOptions(socket_options=…): {option!r} cannot be set: {reason}") from None
