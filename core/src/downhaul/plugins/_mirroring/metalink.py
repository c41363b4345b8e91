"""Metalinks: what a file is, and where it can be had, in one document (RFC 5854, and version 3 before it)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from downhaul import PreparationError, show
from downhaul.plugins._mirror import allowed
from downhaul.plugins._parsing.metalink_reader import MetalinkFile, read_metalink

from .described import Described
from .lists import fetch_list

if TYPE_CHECKING:
    from collections.abc import Sequence

    from downhaul import Transfer
    from downhaul.plugins._mirror import Mirror


@dataclass(frozen=True, repr=False)
class Metalink(Described):
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
        return (await self.described(transfer)).mirrors

    async def load(self, transfer: Transfer, url: str) -> MetalinkFile:
        """Fetch the metalink at *url*, and return what it says of the file."""
        content, source = await fetch_list(self, transfer, url)
        try:
            files = await asyncio.to_thread(read_metalink, content, source)
        except ValueError as reason:
            raise PreparationError(f"{show(url)} is no metalink: {reason}") from None
        file = self._choose(files, url)
        mirrors = allowed(file.mirrors, url)
        if not mirrors:
            raise PreparationError(f"the metalink {show(url)} names no URL for the file")
        return replace(file, mirrors=mirrors)

    def _choose(self, files: Sequence[MetalinkFile], url: str) -> MetalinkFile:
        wanted = [file for file in files if self.file in {None, file.name}]
        if len(wanted) == 1:
            return wanted[0]
        names = ", ".join(file.name or "one whose name is no file name" for file in files[:10]) or "none"
        which = "Metalink(file=…) says which one" if self.file is None else f"{self.file!r} is not one of them"
        raise PreparationError(f"the metalink {show(url)} has {len(files)} files: {names}; {which}")
