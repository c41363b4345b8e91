"""A plugin of downhaul that asks the mirrors named in a JSON index beside the file, and its own server last."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit

from downhaul import BufferWriter, DigestValidation, NotFound, PreparationError, Settings, below, show
from downhaul.plugins import Mirror, Mirrors, allowed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from downhaul import Transfer

__all__ = ["Fallback"]

_LARGEST = 16 * 1024 * 1024  # bytes of an index
_LAST = 999_999


@dataclass(frozen=True, repr=False)
class Fallback(Mirrors):
    """Reads the index *name* beside each file, and asks the mirrors in it, the lowest priority first.

    A mirror is believed only as far as the digest that the index has for the file; a file without one comes from its
    own server, and so does every file beside which there is no index. An index is fetched once per context, and again
    after *ttl* seconds; one that cannot be read is a `PreparationError`.
    """

    name: str = "mirrors.json"
    ttl: float = 3600.0

    async def sources(self, transfer: Transfer) -> Sequence[Mirror]:
        """Return the mirrors of the index and the file's own server, and ask for the digest."""
        index_url = urljoin(transfer.url, self.name)
        if transfer.url == index_url:
            return ()
        index = await transfer.context.once(self, index_url, partial(self._load, transfer, index_url), ttl=self.ttl)
        name = unquote(urlsplit(transfer.url).path.rpartition("/")[2])
        if name not in index.digests:
            return ()
        transfer.require(DigestValidation("sha256", index.digests[name]))
        mirrors = (replace(mirror, url=below(mirror.url, name)) for mirror in index.mirrors)
        return (*mirrors, Mirror(transfer.url, _LAST))

    async def _load(self, transfer: Transfer, index_url: str) -> _Index:
        writer = BufferWriter()
        try:
            await transfer.nested(self, index_url, writer).clone(settings=Settings(max_size=_LARGEST)).run()
        except PreparationError as error:
            if isinstance(error.cause, NotFound):
                return _Index()
            raise
        try:
            index = _Index.read(writer.content())
        except (ValueError, TypeError, LookupError, AttributeError) as reason:
            raise PreparationError(f"{show(index_url)} is no index of mirrors: {reason}") from None
        return replace(index, mirrors=allowed(index.mirrors, index_url))


@dataclass(frozen=True)
class _Index:
    """The mirrors, which are directories, and sha256 digests by the name of the file."""

    mirrors: tuple[Mirror, ...] = ()
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, content: bytes) -> _Index:
        """Return the index that *content* holds; raise ValueError, TypeError or LookupError for anything else."""
        index = json.loads(content)
        mirrors = tuple(Mirror(str(mirror["url"]), mirror.get("priority", 1)) for mirror in index["mirrors"])
        digests = {name: DigestValidation("sha256", file["sha256"]).hexdigest for name, file in index["files"].items()}
        return cls(mirrors, digests)
