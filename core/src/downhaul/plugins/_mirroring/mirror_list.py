"""Mirror lists: where else a file can be had."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from downhaul import Download, PreparationError, show
from downhaul.plugins._mirror import Mirror, allowed, directory, is_url
from downhaul.plugins._parsing.text_list import read_text_list

from .lists import fetch_list
from .mirrors import Mirrors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from downhaul import Transfer

    _Named = str | Mirror
    _Function = Callable[[], Iterable[_Named] | Awaitable[Iterable[_Named]]]


@dataclass(frozen=True, repr=False)
class MirrorList(Mirrors):
    """Asks the mirrors of a list for the file; the next one when one fails, however it does.

    *mirrors* are URLs or `Mirror` objects; or the URL of a list of them, text with one on each line: blank lines and
    those that begin with "#" do not count, an entry that begins with "/" or "." is relative to the list, and metadata
    may follow it, as in ``https://mirror/debian/ priority:1``; or a function that takes nothing and returns mirrors, or
    an awaitable of them.

    ``MirrorList(mirrors, replaces=prefix)`` is for a context: the mirrors are directories, and take the place of the
    directory *prefix* in the URL of each download below it; a missing "/" at their end is added.
    ``MirrorList(mirrors)`` is for a download: they are complete URLs of its file. ``MirrorList()`` is for a download
    whose own URL is that of a list of such.

    A list is fetched, or the function called, once per context, and again after *ttl* seconds.
    """

    mirrors: str | Iterable[_Named] | _Function | None = None
    replaces: str | None = None
    ttl: float | None = 3600.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mirrors is not None and not isinstance(self.mirrors, str) and not callable(self.mirrors):
            object.__setattr__(self, "mirrors", tuple(map(_mirror, self.mirrors)))
            if not self.mirrors:
                raise ValueError("MirrorList([…]) names one mirror at least")
        if isinstance(self.mirrors, str):
            Download(self.mirrors)  # which refuses what is no URL
        if self.replaces is not None and self.mirrors is None:
            raise ValueError("MirrorList(replaces=…) needs the mirrors, or the URL of the list, too")
        if self.replaces is not None:
            object.__setattr__(self, "replaces", as_prefix(self.replaces, "MirrorList"))

    async def sources(self, transfer: Transfer) -> Sequence[Mirror]:
        """Return the mirrors of the list, if the download is below the prefix."""
        url, prefix = transfer.url, self.replaces
        if prefix is not None and not url.startswith(prefix):
            return ()
        if isinstance(self.mirrors, tuple):
            return self.mirrors
        if callable(self.mirrors):
            return await transfer.context.once(self, "mirrors", self._ask, ttl=self.ttl)
        list_url = cast("str | None", self.mirrors) or url
        return await transfer.context.once(self, list_url, partial(self._load, transfer, list_url), ttl=self.ttl)

    def locate(self, mirror: Mirror, transfer: Transfer) -> str:
        """Return the URL of the mirror, where it stands for a prefix with the rest of the download's URL behind it."""
        return mirror.url if self.replaces is None else directory(mirror.url) + transfer.url.removeprefix(self.replaces)

    async def _ask(self) -> Sequence[Mirror]:
        assert callable(self.mirrors)
        is_async = inspect.iscoroutinefunction(self.mirrors)
        answer = self.mirrors() if is_async else await asyncio.to_thread(self.mirrors)
        named = await answer if inspect.isawaitable(answer) else answer
        if isinstance(named, str) or not isinstance(named, Iterable):
            raise TypeError(f"the function of a MirrorList returns several mirrors, not {type(named).__name__}")
        mirrors = tuple(map(_mirror, named))
        if not mirrors:
            raise PreparationError("the function of a MirrorList names no mirror")
        return mirrors

    async def _load(self, transfer: Transfer, list_url: str) -> Sequence[Mirror]:
        content, source = await fetch_list(self, transfer, list_url)
        mirrors = allowed(read_text_list(content, source), list_url)
        if not mirrors:
            raise PreparationError(f"the mirror list {show(list_url)} names no URL")
        return mirrors


def as_prefix(prefix: str, plugin: str) -> str:
    """Return *prefix* as what URLs of downloads begin with: without userinfo, which they have not, and with a "/"."""
    if not is_url(prefix) or not {"?", "#"}.isdisjoint(prefix):
        raise ValueError(
            f"{plugin}(replaces=…) is the beginning of URLs, such as https://dl.example.org/pub/; not {show(prefix)!r}"
        )
    scheme, _, rest = prefix.partition("://")
    host, slash, path = rest.partition("/")
    return directory(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}")


def _mirror(named: _Named) -> Mirror:
    mirror = named if isinstance(named, Mirror) else Mirror(named)
    Download(mirror.url)  # which refuses what is no URL
    return mirror
