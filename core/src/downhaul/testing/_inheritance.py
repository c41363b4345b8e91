"""What the inheritor of a driver's contract gives, and how the facts ask for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pytest

from downhaul import Request, Settings

from ._stage import attempted, fetched, play

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from downhaul import DownloadError, Driver, Info

_T = TypeVar("_T")


class Inheritance(ABC):
    """The part of a driver's contract that the inheritor fills in."""

    resumable: ClassVar[bool] = True
    """Whether the driver delivers from any offset."""

    versioned: ClassVar[bool] = True
    """Whether the driver knows the version of a file, and answers ``Request.unless`` by it."""

    stats: ClassVar[bool] = True
    """Whether the verb ``stat`` gives the size; where False, it may be refused with an error of the tree."""

    largest: ClassVar[int] = 3_000_000
    """The size of the largest file that is tried, in bytes; from 300000, and better more than a socket holds."""

    seconds: ClassVar[float] = 60.0
    """How long one scenario may take before it counts as stuck."""

    settling_seconds: ClassVar[float] = 5.0
    """How long tasks and sockets may take to end after a driver is closed, or an answer left."""

    settings: Settings = Settings()
    """The settings that the driver is given, such as ``Settings(tls=TLS(ca_certificate=…))``; filled with defaults."""

    @abstractmethod
    def make_driver(self) -> Driver:
        """Return a new driver; called on the event loop on which it works, and which closes it."""

    @abstractmethod
    def url_of(self, content: bytes) -> str:
        """Publish *content* and return its URL; other contents get other URLs. No event loop is running here."""

    @abstractmethod
    def missing_url(self) -> str | None:
        """Return a URL that the server answers and where nothing is; None if there is no such thing."""

    def unreachable_url(self) -> str | None:
        """Return a URL whose server does not answer, such as one of a closed port; None (the default) for none."""
        return None

    def replace_content(self, url: str, content: bytes) -> None:  # noqa: ARG002
        """Publish *content*, of another size, at the *url* that `url_of` gave; runs in a thread. Optional."""
        pytest.skip("the inheritor has no replace_content")

    def request(self, url: str) -> Request:
        """Return the request for *url*; override it to add what each needs, ``.authorized(user=…)`` for example."""
        return Request(url)

    def play(self, scenario: Callable[[Driver], Coroutine[Any, Any, _T]]) -> _T:
        """Run *scenario* with a new driver on a new event loop, and check that closing the driver leaves nothing."""
        return play(self.make_driver, scenario, self.seconds, self.settling_seconds)

    async def get(self, driver: Driver, url: str, **fields: Any) -> tuple[Info, bytes]:
        """Return info and bytes of *url*; *fields* are those of a `Request`."""
        return await fetched(driver, replace(self.request(url), **fields), self.settings.complete())

    async def attempt(self, driver: Driver, url: str, **fields: Any) -> tuple[Info, bytes] | DownloadError:
        """Return what `get` does, or the error of the tree that was raised."""
        return await attempted(driver, replace(self.request(url), **fields), self.settings.complete())

    def known_missing_url(self) -> str:
        """Return `missing_url`, or skip the test."""
        url = self.missing_url()
        if url is None:
            pytest.skip("the inheritor knows no missing URL")
        return url

    def needs(self, flag: str) -> None:
        """Skip the test unless the class says that its driver has *flag*."""
        if not getattr(self, flag):
            pytest.skip(f"the driver is not {flag}")
