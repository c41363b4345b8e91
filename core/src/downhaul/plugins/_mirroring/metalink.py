"""Metalinks: what a file is, and where it can be had, in one document (RFC 5854, and version 3 before it)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from downhaul import DigestValidation, PreparationError, SizeValidation, show
from downhaul.plugins._mirror import allowed
from downhaul.plugins._parsing.digest_fields import strongest
from downhaul.plugins._parsing.metalink_reader import MetalinkFile, read_metalink

from .lists import fetch_list
from .mirrors import Mirrors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from downhaul import Transfer
    from downhaul.plugins._mirror import Mirror


@dataclass(frozen=True, repr=False)
class Metalink(Mirrors):
    """For a download whose URL is that of a metalink: what is published is the file that it describes.

    Size, digests and the digests of pieces are required as the metalink has them. Of several files, *file* is the name
    of the one that is wanted. Names in a metalink decide nothing: where the file goes is for the download's writer.

    A metalink is fetched once per context, and again after *ttl* seconds.
    """

    file: str | None = None
    ttl: float | None = 3600.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.file is not None and "/" in self.file:
            raise ValueError(
                f"Metalink(file) is the name of a file in the metalink, not {show(self.file)!r}; the metalink is what"
                " the download's own URL names"
            )

    async def sources(self, transfer: Transfer) -> Sequence[Mirror]:
        """Return the mirrors of the file, and require that it is the file."""
        url = transfer.url
        file = await transfer.context.once(self, url, partial(self._load, transfer, url), ttl=self.ttl)
        transfer.state((Metalink, self), _Described).file = file
        require(transfer, file)
        return file.mirrors

    async def _load(self, transfer: Transfer, url: str) -> MetalinkFile:
        content, source = await fetch_list(self, transfer, url)
        try:
            files = await asyncio.to_thread(read_metalink, content, source)
        except ValueError as reason:
            raise PreparationError(f"{show(url)} is no metalink: {reason}") from None
        file = self._choose(files, url)
        mirrors = allowed(file.mirrors, url)
        if not mirrors:
            raise PreparationError(f"the metalink {show(url)} names no URL for the file")
        return MetalinkFile(file.name, file.size, file.digests, file.pieces, mirrors)

    def doubted(self, transfer: Transfer) -> None:
        """Let the metalink be fetched again: it may be of a file that was there before."""
        file = transfer.state((Metalink, self), _Described).file
        transfer.context.forget(self, transfer.url, stale=file)

    def _choose(self, files: Sequence[MetalinkFile], url: str) -> MetalinkFile:
        wanted = [file for file in files if self.file in {None, file.name}]
        if len(wanted) == 1:
            return wanted[0]
        names = ", ".join(file.name or "one whose name is no file name" for file in files[:10]) or "none"
        which = "Metalink(file=…) says which one" if self.file is None else f"{self.file!r} is not one of them"
        raise PreparationError(f"the metalink {show(url)} has {len(files)} files: {names}; {which}")


@dataclass
class _Described:
    """What a transfer was told of its file."""

    file: MetalinkFile | None = None


def require(transfer: Transfer, file: MetalinkFile) -> None:
    """Require that what *transfer* fetches is *file*, by its size, its strongest digest, and its pieces."""
    if file.size is not None:
        transfer.require(SizeValidation(file.size))
    best = strongest(dict(file.digests))
    if best is not None:
        transfer.require(DigestValidation(*best))
    if file.pieces is not None:
        transfer.require(file.pieces)
