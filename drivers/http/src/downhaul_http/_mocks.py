"""Whether somebody has put himself in the place of httpx, as respx and other mocks do."""

from __future__ import annotations

from typing import Final

from httpcore import AsyncConnectionPool, AsyncHTTPConnection
from httpx import AsyncClient, AsyncHTTPTransport

_CHOOSE: Final = AsyncClient._transport_for_url
_TRANSPORT: Final = AsyncHTTPTransport.handle_async_request
_POOL: Final = AsyncConnectionPool.handle_async_request
_CONNECTION: Final = AsyncHTTPConnection.handle_async_request


def is_mocked() -> bool:
    """Tell whether requests of httpx go somewhere else than to the network: ours must go there then, too."""
    return not (
        AsyncClient._transport_for_url is _CHOOSE
        and AsyncHTTPTransport.handle_async_request is _TRANSPORT
        and AsyncConnectionPool.handle_async_request is _POOL
        and AsyncHTTPConnection.handle_async_request is _CONNECTION
    )
