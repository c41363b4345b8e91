"""What is told of a file, and kept: its mirrors, and what it must be."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from downhaul import DigestValidation, SizeValidation
from downhaul.plugins._parsing.digest_fields import strongest

from .mirrors import Mirrors

if TYPE_CHECKING:
    from downhaul import Transfer
    from downhaul.plugins._parsing.metalink_reader import MetalinkFile


class Described(Mirrors):
    """Base class of plugins whose mirrors stand in a description of the file, which says what it must be, too.

    It is loaded once per context, and again after *ttl* seconds, or when the last of its mirrors has another file.
    """

    ttl: float | None

    @abstractmethod
    async def load(self, transfer: Transfer, url: str) -> MetalinkFile:
        """Return what is told of the file at *url*."""

    async def described(self, transfer: Transfer) -> MetalinkFile:
        """Return what is told of the file, and require its size, its strongest digest, and its pieces."""
        url = transfer.url
        file = await transfer.context.once(self, url, partial(self.load, transfer, url), ttl=self.ttl)
        transfer.state((Described, self), _Known).file = file
        if file.size is not None:
            transfer.require(SizeValidation(file.size))
        best = strongest(dict(file.digests))
        if best is not None:
            transfer.require(DigestValidation(*best))
        if file.pieces is not None:
            transfer.require(file.pieces)
        return file

    def doubted(self, transfer: Transfer) -> None:
        """Let the description be loaded again: it may be of a file that was there before."""
        transfer.context.forget(self, transfer.url, stale=transfer.state((Described, self), _Known).file)


@dataclass
class _Known:
    """What a transfer was told of its file."""

    file: MetalinkFile | None = None
