"""From the origin of a URL to a connection: names, addresses, TLS."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

import httpx
from aiohappyeyeballs import start_connection

from ._connection import Connection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from aiohappyeyeballs import AddrInfoType

_PORTS: Final = {"http": 80, "https": 443}
_HEAD_START: Final = 0.25
"""Seconds that one address of a host has before the next is tried beside it (RFC 8305, section 5)."""

_FOR_EVER: Final = 1e9


async def connect(
    origin: str, trust: ssl.SSLContext | None, local_address: str | None, scratch: memoryview, seconds: float | None
) -> Connection:
    """Connect to *origin* within *seconds*, the handshake with who *trust* allows included.

    Raises httpx.ConnectTimeout and httpx.ConnectError.
    """
    try:
        async with asyncio.timeout(seconds):
            url = httpx.URL(origin)
            host = url.raw_host.decode()
            dialled = await _dial(host, _PORTS[url.scheme] if url.port is None else url.port, local_address)
            return await _begin(dialled, host, trust, scratch)
    except TimeoutError as reason:
        raise httpx.ConnectTimeout("no connection in time") from reason
    except (OSError, ValueError) as reason:  # a name that cannot be one is a ValueError
        raise httpx.ConnectError(str(reason)) from reason


async def _dial(host: str, port: int, local_address: str | None) -> socket.socket:
    """Connect to *host*, whichever of its addresses answers first."""
    found = await _addresses(host, port)
    own = None if local_address is None else await _addresses(local_address, 0)
    return await start_connection(found, local_addr_infos=own, happy_eyeballs_delay=_HEAD_START, interleave=1)


async def _addresses(host: str, port: int) -> Sequence[AddrInfoType]:
    """Look up *host*, in a thread where it is a name."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def _begin(dialled: socket.socket, host: str, trust: ssl.SSLContext | None, scratch: memoryview) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(scratch),
        sock=dialled,
        ssl=trust,
        server_hostname=None if trust is None else host,
        ssl_handshake_timeout=None if trust is None else _FOR_EVER,  # the limit is set by who calls
    )
    return connection
