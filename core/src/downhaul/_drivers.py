"""Drivers: what speaks a protocol, and how the one for a scheme is found."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ._errors import PluginError, UnsupportedScheme
from ._idle import IdleConnections
from ._urls import show

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager
    from importlib.metadata import EntryPoint

    from ._models import Payload, Request
    from ._settings import Settings

GROUP: Final = "downhaul.drivers"
_EXTRAS: Final = {"http": "http", "https": "http", "ftp": "ftp"}
"""What brings the drivers that we ship; only for messages."""


class Driver(ABC):
    """Base class of drivers.

    A distribution announces a driver by an entry point of the group ``downhaul.drivers``, once per scheme::

        [project.entry-points."downhaul.drivers"]
        gopher = "acme_gopher:GopherDriver"

    It is imported when a URL with its scheme is first asked for, and made without arguments. One instance serves all
    schemes of its class in a context, on one event loop; it keeps its pools by ``settings.connection``. It sets no
    limit to connections, the context does: before it connects, it awaits ``self.idle.make_room(request.origin)``, and
    what it keeps for later it tells by ``self.idle.add(…)``.
    """

    options: ClassVar[tuple[type, ...]] = ()
    """The types of typed options that the driver reads by ``settings.of``: frozen, hashable, made without arguments."""

    @abstractmethod
    def open(self, request: Request, settings: Settings) -> AbstractAsyncContextManager[Payload]:
        """Open *request*; entering yields the payload, leaving frees everything, however it ends.

        Send ``request.fields()`` to ``request.target()``: they hold what this origin may see; *settings* have no
        user and no headers any more. Raise `FetchError` and its subclasses only, or, on a redirect,
        ``Redirected(request.redirected(location))``.
        """

    @cached_property
    def idle(self) -> IdleConnections:
        """Where the idle connections are known; that of the context once it uses the driver, else without limits."""
        return IdleConnections()

    async def aclose(self) -> None:  # noqa: B027 - a driver without pools has nothing to close
        """Close every pool; the context calls it once, when it ends."""


class DriverBook:
    """The drivers of one context, by scheme: those given, then those announced by entry points, loaded when needed."""

    def __init__(self, given: Mapping[str, Driver | str] | None = None) -> None:
        self._given: dict[str, Driver | str] = {}
        for scheme, choice in (given or {}).items():
            if not isinstance(choice, Driver | str):
                raise TypeError(
                    f"drivers={{{scheme!r}: …}} takes a Driver or the name of a distribution, not {choice!r}"
                )
            self._given[scheme.lower()] = choice
        self._announced: dict[str, list[EntryPoint]] | None = None
        self._made: dict[type[Driver], Driver] = {}
        self._by_scheme: dict[str, Driver] = {}
        self._checked: set[tuple[object, ...]] = set()
        self.idle = IdleConnections()

    def announced(self) -> dict[str, list[EntryPoint]]:
        """Return the entry points by scheme; nothing is imported."""
        if self._announced is None:
            from importlib.metadata import entry_points  # it costs a third of the import of downhaul

            found: dict[str, dict[tuple[str, str], EntryPoint]] = {}
            for point in entry_points(group=GROUP):
                # The same distribution may be found twice, installed and in a checkout.
                found.setdefault(point.name.lower(), {}).setdefault((_distribution(point), point.value), point)
            self._announced = {scheme: list(points.values()) for scheme, points in found.items()}
        return self._announced

    def schemes(self) -> list[str]:
        """Return the schemes that somebody answers for, sorted."""
        drivers = {scheme for scheme, choice in self._given.items() if isinstance(choice, Driver)}
        return sorted(drivers | set(self.announced()))

    def check(self, scheme: str, url: str) -> None:
        """Raise UnsupportedScheme unless a driver for *scheme* is given or announced; nothing is imported."""
        if not self.is_loaded(scheme) and scheme not in self.schemes():
            installed = ", ".join(self.schemes()) or "none"
            extra = _EXTRAS.get(scheme)
            help_ = (
                f"pip install 'downhaul[{extra}]'"
                if extra
                else f"install one, which announces it in the group {GROUP!r}"
            )
            error = UnsupportedScheme(f"no driver for {scheme!r} (installed: {installed}); {help_}")
            error.url = show(url)
            raise error

    def is_loaded(self, scheme: str) -> bool:
        """Tell whether the driver for *scheme* can be had without an import."""
        return scheme in self._by_scheme or isinstance(self._given.get(scheme), Driver)

    def preload(self, scheme: str) -> None:
        """Import the driver for *scheme*, from whatever thread; what goes wrong, `driver` will tell."""
        for point in self.announced().get(scheme, []):
            with contextlib.suppress(Exception):
                point.load()

    def driver(self, scheme: str, url: str) -> Driver:
        """Return the driver for *scheme*, loading and making it if need be.

        Raises UnsupportedScheme where there is none, PluginError where two distributions announce the scheme or the
        driver cannot be loaded.
        """
        if (known := self._by_scheme.get(scheme)) is not None:
            return known
        choice = self._given.get(scheme)
        driver = choice if isinstance(choice, Driver) else self._make(self._point(scheme, choice, url))
        driver.idle = self.idle
        self._by_scheme[scheme] = driver
        return driver

    def check_options(self, options: tuple[object, ...]) -> None:
        """Raise TypeError if *options* hold a type that no installed driver reads."""
        if not options or options in self._checked:
            return
        known = {kind for driver in (*self._given.values(), *self._made.values()) for kind in _options(driver)}
        if not all(type(option) in known for option in options):
            for scheme in self.announced():
                with contextlib.suppress(PluginError):  # who asks for that scheme will be told
                    known.update(self.driver(scheme, f"{scheme}:").options)
        for option in options:
            if type(option) not in known:
                names = ", ".join(sorted(kind.__name__ for kind in known)) or "none"
                raise TypeError(f"no installed driver reads options of type {type(option).__name__} (known: {names})")
        self._checked.add(options)

    async def aclose(self) -> None:
        """Close every driver that was used, whatever becomes of the others; raise PluginError for those that failed."""
        drivers = {id(driver): driver for driver in (*self._made.values(), *self._by_scheme.values())}
        self._made.clear()
        self._by_scheme.clear()
        failures = []
        for driver in drivers.values():
            try:
                await driver.aclose()
            except Exception as reason:
                failures.append(f"{type(driver).__name__}.aclose failed: {type(reason).__name__}: {reason}")
        if failures:
            raise PluginError("; ".join(failures))

    def _point(self, scheme: str, distribution: str | None, url: str) -> EntryPoint:
        points = self.announced().get(scheme, [])
        if distribution is not None:
            for point in points:
                if _distribution(point) == _normal(distribution):
                    return point
            raise PluginError(f"no installed distribution {distribution!r} has a driver for {scheme!r}")
        if not points:
            self.check(scheme, url)
        if len(points) > 1:
            names = sorted(_distribution(point) for point in points)
            raise PluginError(
                f"{' and '.join(names)} both have a driver for {scheme!r};"
                f" choose one: Context(drivers={{{scheme!r}: {names[0]!r}}})"
            )
        return points[0]

    def _make(self, point: EntryPoint) -> Driver:
        where = f"driver {point.name!r} of {_distribution(point)} ({point.value})"
        try:
            kind: Any = point.load()
            if not (isinstance(kind, type) and issubclass(kind, Driver)):
                raise TypeError("it is no subclass of downhaul.Driver")
            if kind not in self._made:
                self._made[kind] = kind()
        except Exception as reason:
            raise PluginError(f"{where} cannot be loaded: {type(reason).__name__}: {reason}") from None
        return self._made[kind]


def _options(driver: Driver | str) -> tuple[type, ...]:
    return driver.options if isinstance(driver, Driver) else ()


def _distribution(point: EntryPoint) -> str:
    return _normal(point.dist.name) if point.dist is not None else "an unknown distribution"


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
