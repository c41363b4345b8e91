"""A plugin of downhaul that asks the mirrors named in a JSON index beside the file, and its own server last."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit

from downhaul import BufferWriter, DigestValidation, NotFound, Plugin, PreparationError, Retry, Settings, hookimpl, show

if TYPE_CHECKING:
    from downhaul import DownloadError, Transfer

__all__ = ["Fallback"]

_LARGEST = 16 * 1024 * 1024  # bytes of an index


@dataclass(frozen=True)
class Fallback(Plugin):
    """Reads the index *name* beside each file, and asks the mirrors in it, the lowest priority first.

    A mirror is believed only as far as the digest that the index has for the file; a file without one comes from its
    own server, and so does every file beside which there is no index. An index is fetched once per context, and again
    after *ttl* seconds; one that cannot be read is a `PreparationError`.
    """

    name: str = "mirrors.json"
    ttl: float = 3600.0

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        """Aim at the mirror whose turn it is, and ask for the digest; after the last mirror leave the aim as it is."""
        url = transfer.download.url
        index_url = urljoin(url, self.name)
        if url == index_url:
            return
        index = await transfer.context.once(self, index_url, partial(self._load, transfer, index_url), ttl=self.ttl)
        name = unquote(urlsplit(url).path.rpartition("/")[2])
        turn = transfer.state(self, _Turn)
        if turn.round != transfer.round:
            turn.round, turn.place = transfer.round, 0
        turn.mirrors = index.mirrors if name in index.digests else ()
        if name in index.digests:
            transfer.require(DigestValidation("sha256", index.digests[name]))
        if turn.place < len(turn.mirrors):
            transfer.request = replace(transfer.request, url=urljoin(turn.mirrors[turn.place], name))

    @hookimpl
    async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:  # noqa: ARG002
        """Move on: to the next mirror, or from the last one to the file's own server."""
        turn = transfer.state(self, _Turn)
        if turn.place >= len(turn.mirrors):
            return None
        turn.place += 1
        return Retry()

    async def _load(self, transfer: Transfer, index_url: str) -> _Index:
        writer = BufferWriter()
        try:
            await transfer.nested(self, index_url, writer).clone(settings=Settings(max_size=_LARGEST)).run()
        except PreparationError as error:
            if isinstance(error.cause, NotFound):
                return _Index()
            raise
        try:
            return _Index.read(writer.content())
        except (ValueError, TypeError, LookupError, AttributeError) as reason:
            raise PreparationError(f"{show(index_url)} is no index of mirrors: {reason}") from None


@dataclass(frozen=True)
class _Index:
    """The URLs of mirrors in the order in which to ask them, and sha256 digests by the name of the file."""

    mirrors: tuple[str, ...] = ()
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, content: bytes) -> _Index:
        """Return the index that *content* holds; raise ValueError, TypeError or LookupError for anything else."""
        index = json.loads(content)
        mirrors = sorted(index["mirrors"], key=lambda mirror: float(mirror.get("priority", 0)))
        digests = {name: DigestValidation("sha256", file["sha256"]).hexdigest for name, file in index["files"].items()}
        return cls(tuple(str(mirror["url"]) for mirror in mirrors), digests)


@dataclass
class _Turn:
    """Which mirror is asked in this round of one transfer."""

    round: int = 1
    place: int = 0
    mirrors: tuple[str, ...] = ()
