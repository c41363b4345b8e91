"""Whether somebody has put himself in the place of httpx, as respx and other mocks do."""

from __future__ import annotations

from typing import Final

import httpcore
import httpx

_PLACES: Final = (
    (httpx.AsyncClient, "_transport_for_url"),
    (httpx.AsyncHTTPTransport, "handle_async_request"),
    (httpcore.AsyncConnectionPool, "handle_async_request"),
    (httpcore.AsyncHTTPConnection, "handle_async_request"),
)


def _found() -> tuple[object, ...]:
    return tuple(vars(kind).get(name) for kind, name in _PLACES)


_ORIGINAL: Final = _found()


def is_mocked() -> bool:
    """Tell whether requests of httpx go somewhere else than to the network: ours must go there then, too."""
    return _found() != _ORIGINAL
