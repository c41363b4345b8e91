"""The answer of a driver: in a slot of its origin, its redirects followed."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from ._errors import DownloadError
from ._models import Payload, Redirected
from ._pace import in_time
from ._transfer import in_driver, refuse_in_driver
from ._urls import scheme_of

if TYPE_CHECKING:
    from types import TracebackType

    from ._drivers import Driver
    from ._models import Headers, Request
    from ._shared import Shared
    from ._transfer import Transfer


class Driven(AbstractAsyncContextManager["Payload"]):
    """What the driver for the scheme answers to the request of *transfer*; each hop has the slot of its own origin.

    A class, and no generator: all downloads pass here, and it costs a fraction.
    """

    def __init__(self, shared: Shared, transfer: Transfer) -> None:
        self._shared, self._transfer = shared, transfer
        self._request = transfer.request
        self._origin = ""  # whose slot is held
        self._outside = False
        self._answer: AbstractAsyncContextManager[Payload]

    async def __aenter__(self) -> Payload:
        refuse_in_driver("context.drive")
        trail: tuple[tuple[str, Headers], ...] = ()
        while True:
            request = self._request
            driver = await self._driver(request.url)
            self._origin = request.origin
            await self._shared.governor.take(self._origin, urgent=self._transfer.urgent)
            self._outside = in_driver.get()
            in_driver.set(True)
            try:
                payload = await self._open(driver, request)
            except Redirected as redirected:
                self._leave()
                trail = (*trail, (request.url, redirected.headers))
                self._request = redirected.request
            except BaseException as reason:
                self._leave()
                self._blame(reason)
                raise
            else:
                return replace(payload, info=replace(payload.info, trail=trail)) if trail else payload

    async def __aexit__(
        self, kind: type[BaseException] | None, reason: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._blame(reason)
        try:
            return await self._answer.__aexit__(kind, reason, trace)
        except DownloadError as error:
            self._blame(error)
            raise
        finally:
            self._leave()

    async def _driver(self, url: str) -> Driver:
        scheme, drivers = scheme_of(url), self._shared.drivers
        if not drivers.is_loaded(scheme):
            # An import may take half a second; the module is found in sys.modules afterwards.
            await asyncio.get_running_loop().run_in_executor(self._shared.executor(), drivers.preload, scheme)
        return drivers.driver(scheme, url)

    async def _open(self, driver: Driver, request: Request) -> Payload:
        transfer, since = self._transfer, time.monotonic()
        answer = driver.open(request, transfer.settings_for(request))
        self._answer = in_time(answer, transfer.low_speed, request.url)
        payload = await self._answer.__aenter__()
        transfer.seconds += time.monotonic() - since
        return payload

    def _leave(self) -> None:
        in_driver.set(self._outside)
        self._shared.governor.give_back(self._origin)

    def _blame(self, reason: BaseException | None) -> None:
        """Let an error tell where it came from: after redirects, that is not what was asked for."""
        if isinstance(reason, DownloadError):
            reason.source = reason.source or self._request.url
