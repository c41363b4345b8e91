"""Adapters: they answer the requests that a web framework receives with what a download delivers.

Each module is for one framework, imports that alone, and is an extra of the distribution: `asgi` (Starlette and
whatever else speaks ASGI), `aiohttp`, `twisted`, `wsgi`, `django`. All of them answer alike (RFC 9110): HEAD,
conditions, ranges, a proper status where nothing was sent yet, and an answer that visibly breaks off where the download
breaks.
"""

from __future__ import annotations

from ._answers import RelayOptions

__all__ = ["RelayOptions"]
