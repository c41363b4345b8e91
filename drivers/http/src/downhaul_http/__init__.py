"""The HTTP driver of downhaul: http and https, by way of httpx."""

from __future__ import annotations

from ._digest_auth import DigestAuth
from ._driver import HttpDriver
from ._options import HttpOptions
from ._transport import Transport

__all__ = ["DigestAuth", "HttpDriver", "HttpOptions", "Transport"]
