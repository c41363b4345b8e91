"""The HTTP driver of downhaul: http and https, by its own connections and by way of httpx."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._driver import HttpDriver
from ._options import HttpOptions
from ._transport import Transport

if TYPE_CHECKING:
    from ._digest_auth import DigestAuth

__all__ = ["DigestAuth", "HttpDriver", "HttpOptions", "Transport"]


def __getattr__(name: str) -> object:
    """Import what few need, and what would bring all plugins with it, when it is first asked for."""
    if name == "DigestAuth":
        from ._digest_auth import DigestAuth

        return DigestAuth
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
