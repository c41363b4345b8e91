"""Mirror lists: where else a file can be had, and the next place to ask when one fails."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from downhaul import (
    BufferWriter,
    Check,
    Download,
    Plugin,
    PreparationError,
    Retry,
    SizeMismatch,
    Validation,
    hookimpl,
    origin,
    show,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from downhaul import Block, DownloadError, Transfer

_LIST_SIZE: Final = 1024 * 1024  # bytes
_MIRRORS: Final = 1000


@dataclass(frozen=True, repr=False)
class MirrorList(Plugin):
    """Asks the mirrors of a list for the file, in the order of the list; the next one when one fails, however it does.

    *mirrors* are URLs, or the URL of a list of them: text with one on each line; blank lines and those that begin with
    "#" do not count.

    ``MirrorList(mirrors, replaces=prefix)`` is for a context: the mirrors are directories, and take the place of the
    directory *prefix* in the URL of each download below it; a missing "/" at their end is added.
    ``MirrorList(mirrors)`` is for a download: they are complete URLs of its file. ``MirrorList()`` is for a download
    whose own URL is that of a list of such.

    A list is fetched once per context, and again after *ttl* seconds.
    """

    mirrors: str | Iterable[str] | None = None
    replaces: str | None = None
    ttl: float | None = 3600.0

    def __post_init__(self) -> None:
        if self.mirrors is not None and not isinstance(self.mirrors, str):
            object.__setattr__(self, "mirrors", tuple(self.mirrors))
            if not self.mirrors:
                raise ValueError("MirrorList([…]) names one mirror at least")
        for url in (self.mirrors,) if isinstance(self.mirrors, str) else self.mirrors or ():
            Download(url)  # which refuses what is no URL
        if self.replaces is not None and self.mirrors is None:
            raise ValueError("MirrorList(replaces=…) needs the mirrors, or the URL of the list, too")
        if self.replaces is not None:
            if not _is_url(self.replaces) or not {"?", "#"}.isdisjoint(self.replaces):
                raise ValueError(
                    "MirrorList(replaces=…) is the beginning of URLs, such as https://dl.example.org/pub/;"
                    f" not {show(self.replaces)!r}"
                )
            scheme, _, rest = self.replaces.partition("://")
            host, slash, path = rest.partition("/")
            # Whatever userinfo a download's URL has, `transfer.url` has none.
            prefix = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
            object.__setattr__(self, "replaces", _directory(prefix))

    def __repr__(self) -> str:
        given = {name: value for name, value in vars(self).items() if isinstance(value, str | tuple)}
        shown = {name: show(url) if isinstance(url, str) else [*map(show, url)] for name, url in given.items()}
        return f"MirrorList({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        """Aim at the mirror whose turn it is."""
        url = transfer.url
        if self.replaces is not None and not url.startswith(self.replaces):
            return
        turn = transfer.state(self, _Turn)
        if turn.round != transfer.round:
            turn.round, turn.index = transfer.round, 0
        if isinstance(self.mirrors, tuple):
            lines: Sequence[str] = self.mirrors
        else:
            list_url = cast("str | None", self.mirrors) or url
            lines = await transfer.context.once(self, list_url, partial(self._load, transfer, list_url), ttl=self.ttl)
        turn.sources = [self._source(line, url) for line in lines]
        turn.index = min(turn.index, len(lines) - 1)  # a list that was fetched again may be shorter
        transfer.request = replace(transfer.request, url=turn.sources[turn.index])

    @hookimpl
    async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:  # noqa: ARG002
        """Move on to the next mirror, if there is one: only here, so another plugin's Retry means this mirror again."""
        turn = transfer.state(self, _Turn)
        if turn.index + 1 >= len(turn.sources):
            return None
        turn.index += 1
        return Retry()

    def _source(self, line: str, url: str) -> str:
        return line if self.replaces is None else _directory(line) + url.removeprefix(self.replaces)

    async def _load(self, transfer: Transfer, list_url: str) -> Sequence[str]:
        writer = BufferWriter()
        download = transfer.nested(self, list_url, writer)
        await download.clone(validations=(_AtMost(_LIST_SIZE),)).run()
        text = writer.content().decode("utf-8-sig", "replace")
        lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
        mirrors = [line for line in dict.fromkeys(lines) if _is_url(line)][:_MIRRORS]
        if not mirrors:
            raise PreparationError(f"the mirror list {show(list_url)} names no URL")
        return mirrors


@dataclass
class _Turn:
    """Which mirror is asked in this round of one transfer."""

    round: int = 1
    index: int = 0
    sources: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class _AtMost(Validation):
    """The bytes are no more than *size*."""

    size: int

    def check(self) -> Check:
        return _Counter(self.size)


class _Counter:
    def __init__(self, most: int) -> None:
        self._left = most

    def update(self, block: Block) -> None:
        self._left -= len(block)
        self.finish()

    def finish(self) -> None:
        if self._left < 0:
            raise _TooLong("a mirror list of more than 1 MiB")


class _TooLong(SizeMismatch):
    """The list would be as long the next time."""

    transient = False


def _directory(url: str) -> str:
    """Return *url* with a "/" at its end, so that what is put behind it can be no part of a host; a query may go on."""
    return url if url.endswith("/") or "?" in url else f"{url}/"


def _is_url(line: str) -> bool:
    if not line.isprintable() or " " in line:
        return False
    try:
        return "://" in line and "//" in origin(line)
    except ValueError:
        return False
