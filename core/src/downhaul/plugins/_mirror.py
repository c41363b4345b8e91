"""A mirror, and which ones a list may name."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from downhaul import origin, show

from ._hosts import is_local

if TYPE_CHECKING:
    from collections.abc import Iterable

_log: Final = logging.getLogger("downhaul.mirrors")
WORST: Final = 999_999


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where a file can be had, or the directory that takes the place of a prefix.

    `priority` counts from 1, the best (RFC 5854, section 4.2.16.1); `location` is a country's code of two letters (ISO
    3166-1); `connections` is the most at a time that whoever names the mirror asks for.
    """

    url: str
    priority: int = 1
    location: str | None = None
    connections: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.priority <= WORST:
            raise ValueError(f"Mirror(priority=…) is a number from 1, the best, to {WORST}; not {self.priority}")

    def __repr__(self) -> str:
        return f"Mirror({show(self.url)!r}, priority={self.priority})"


def allowed(mirrors: Iterable[Mirror], named_by: str) -> tuple[Mirror, ...]:
    """Return those of *mirrors* that who is at the URL *named_by* may name: the one asked, not where it led.

    This machine, and what is on its own link, may only be named from there: else any list could have its services
    asked.
    """
    if is_local(named_by):
        return tuple(mirrors)
    kept: list[Mirror] = []
    refused: list[Mirror] = []
    for mirror in mirrors:
        (refused if is_local(mirror.url) else kept).append(mirror)
    if refused:
        names = ", ".join(show(mirror.url) for mirror in refused[:3])
        _log.warning("%s names mirrors of this machine, which are left out: %s", show(named_by), names)
    return tuple(kept)


def is_url(text: str) -> bool:
    """Tell whether *text* is a URL with a host, and nothing that could be taken for more."""
    if not text.isprintable() or " " in text:
        return False
    try:
        return "://" in text and "//" in origin(text)
    except ValueError:
        return False


def directory(url: str) -> str:
    """Return *url* with a "/" at its end, so that what is put behind it can be no part of a host; a query may go on."""
    url = url.partition("#")[0]
    return url if url.endswith("/") or "?" in url else f"{url}/"
