"""Mirrors and digests that a server names in the header of its answer (RFC 6249)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from downhaul import DownloadError, Headers, Info, Plugin, Result, hookimpl, origin, show
from downhaul.plugins._mirror import WORST, Mirror, allowed
from downhaul.plugins._parsing.digest_fields import read_digests
from downhaul.plugins._parsing.links import described_by, read_links, read_mirrors
from downhaul.plugins._parsing.metalink_reader import MetalinkFile, read_metalink

from .described import Described
from .lists import fetch_list

if TYPE_CHECKING:
    from collections.abc import Sequence

    from downhaul import Transfer

_log: Final = logging.getLogger("downhaul.mirrors")


@dataclass(frozen=True, repr=False)
class LinkedMirrors(Described):
    """Asks the mirrors that the download's own server links to, and itself last; for a context or a download.

    The head of the file is asked for first. ``Link: <…>; rel=duplicate`` names mirrors, ``rel=describedby`` a metalink,
    which is read too; the strongest digest in ``Repr-Digest`` or ``Digest`` (RFC 9530, RFC 3230) is required, from
    whichever source the bytes come. Mirrors without a digest to judge them by are left out. What counts is said by the
    server itself, also where it redirects; what a host says that it redirects to does not. A server that links to
    nothing, or does not answer such a request, is asked for the file as if nobody had asked before.

    What a server says of a file is good for *ttl* seconds.
    """

    ttl: float | None = 3600.0

    async def sources(self, transfer: Transfer) -> Sequence[Mirror]:
        """Return the mirrors that the server names, and require the digest that it names."""
        file = await self.described(transfer)
        return file.mirrors if any(each.identifies and each.enforced for each, _ in transfer.checks) else ()

    async def load(self, transfer: Transfer, url: str) -> MetalinkFile:
        """Ask the server for the head of the file at *url*, and return what it says of the file."""
        told = await self._ask(transfer, url)
        digests: dict[str, str] = {}
        mirrors: list[Mirror] = []
        metalinks: list[str] = []
        for source, headers in told:
            digests = digests or dict(read_digests(headers))
            links = read_links(headers.get("Link", ""), source)
            mirrors += allowed(read_mirrors(links), source)
            metalinks += (each.url for each in allowed(map(Mirror, described_by(links)), source))
        file = MetalinkFile(None, digests=tuple(digests.items()))
        if metalinks:
            file = await self._in_metalink(transfer, metalinks[0], file)
            mirrors += file.mirrors
        if not mirrors:
            return file
        known = {mirror.url: mirror for mirror in reversed(mirrors) if mirror.url != url}
        return replace(file, mirrors=(*reversed(known.values()), Mirror(url, WORST)))

    async def _ask(self, transfer: Transfer, url: str) -> Sequence[tuple[str, Headers]]:
        """Return what the server says, and whoever it redirects to: the URL, and the header fields."""
        nested = transfer.nested(self, url)
        try:
            async with nested.clone(plugins=(*nested.plugins, _HEAD)).stat():
                pass
        except DownloadError as error:
            _log.info("%s tells nothing of mirrors: %s", show(url), error)
        info = transfer.state(_HEAD, _Told).info
        told = () if info is None else (*info.trail, (info.url, info.headers))
        return [(source, headers) for source, headers in told if origin(source) == origin(url)]

    async def _in_metalink(self, transfer: Transfer, url: str, file: MetalinkFile) -> MetalinkFile:
        """Return *file* with what the metalink at *url* adds; one that cannot be had or read adds nothing."""
        try:
            content, source = await fetch_list(self, transfer, url)
            [described] = await asyncio.to_thread(read_metalink, content, source)
        except (DownloadError, ValueError) as reason:
            _log.info("the metalink %s is left out: %s", show(url), reason)
            return file
        mirrors = allowed(described.mirrors, url)
        return replace(described, digests=file.digests or described.digests, mirrors=mirrors)


@dataclass
class _Told:
    """What a server said of the file, where it answered."""

    info: Info | None = None


@dataclass(frozen=True)
class _Head(Plugin):
    """Hands the head of a nested download's answer to the download that needs it."""

    @hookimpl
    def done(self, transfer: Transfer, outcome: object) -> None:
        """Keep the head."""
        if isinstance(outcome, Result) and transfer.parent is not None and transfer.payload is not None:
            transfer.parent.state(self, _Told).info = transfer.payload.info


_HEAD: Final = _Head()
