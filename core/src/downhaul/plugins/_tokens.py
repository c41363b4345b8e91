"""Bearer tokens (RFC 6750): fetched once, sent to one origin, renewed once when they have expired."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from downhaul import AccessDenied, Download, Plugin, Retry, hookimpl, origin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from downhaul import DownloadError, Transfer


@dataclass(frozen=True)
class BearerToken(Plugin):
    """Sends ``Authorization: Bearer …`` to one origin, and asks *provider* for a new token when that answers 401.

    *provider* takes nothing and returns the token as a str, or an awaitable of it; a plain function is called in a
    thread, so it may wait. However many downloads meet the 401, it is asked once. *origin* is a URL of the origin that
    the token is for; by default that of each download (of the one that needs it, for a mirror list), so give it where
    the downloads of a context go to several.
    """

    provider: Callable[[], str | Awaitable[str]] = field(repr=False)
    origin: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.provider):
            raise TypeError("BearerToken(provider) takes a function that returns the token")
        if self.origin is not None:
            object.__setattr__(self, "origin", origin(Download(self.origin).url))  # which refuses what is no URL

    @hookimpl(trylast=True)
    async def prepare(self, transfer: Transfer) -> None:
        """Authorise what was aimed at, if it goes to our origin."""
        home = self._home(transfer)
        if transfer.request.origin != home:
            return
        token = await transfer.context.once(self, home, self._ask)
        transfer.state(self, _Used).token = token
        transfer.request = transfer.request.authorized([("Authorization", f"Bearer {token}")])

    @hookimpl(tryfirst=True)
    async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:
        """Have the token renewed after a 401 of our origin, once for each source and round."""
        home, used = self._home(transfer), transfer.state(self, _Used)
        here = (transfer.request.url, transfer.round)
        denied = isinstance(error, AccessDenied) and error.code == 401
        if not denied or used.token is None or origin(error.source) != home or used.renewed_for == here:
            return None
        used.renewed_for = here
        transfer.context.forget(self, home, stale=used.token)
        return Retry()

    def _home(self, transfer: Transfer) -> str:
        while transfer.parent is not None:
            transfer = transfer.parent
        return self.origin or origin(transfer.download.url)

    async def _ask(self) -> str:
        if inspect.iscoroutinefunction(self.provider):
            token = await self.provider()
        else:
            token = await asyncio.to_thread(self.provider)
            if inspect.isawaitable(token):
                token = await token
        if not isinstance(token, str) or not token:
            raise TypeError(f"the provider of a BearerToken returns the token as a str, not {type(token).__name__}")
        return token


@dataclass
class _Used:
    """The token that a transfer sent last, and where it has had it renewed."""

    token: str | None = field(default=None, repr=False)
    renewed_for: tuple[str, int] | None = None
