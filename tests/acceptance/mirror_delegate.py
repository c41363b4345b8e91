"""The delegate that the design page of 2017 sketched, rewritten: `on_prepare` is `prepare`, `on_error` is `error`.

It fetches a list of mirrors when it is first needed, and aims each download at a mirror; at the next one when that
fails. It can be had in three ways, which do the same:

    Download(url, writer, plugins=[MirrorDelegate(LIST, PREFIX)])    # of one download
    Context(plugins=[MirrorDelegate(LIST, PREFIX)])                  # of all downloads of a context
    MirroredDownload(url, writer)                                    # of a kind of downloads
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from downhaul import BufferWriter, Context, Download, Plugin, Retry, hookimpl

if TYPE_CHECKING:
    from downhaul import DownloadError, Transfer, Writer


@dataclass(frozen=True)
class MirrorDelegate(Plugin):
    """Asks the mirrors of a list for what begins with *prefix*, the next one after each failure."""

    list_url: str
    prefix: str

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        if not transfer.url.startswith(self.prefix):
            return
        turn = transfer.state(self, Turn)
        if turn.round != transfer.round:
            turn.round, turn.index = transfer.round, 0
        turn.mirrors = await transfer.context.once(self, "mirrors", lambda: self.mirrors(transfer), ttl=3600)
        url = turn.mirrors[turn.index] + transfer.url.removeprefix(self.prefix)
        transfer.request = replace(transfer.request, url=url)

    @hookimpl
    async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:
        turn = transfer.state(self, Turn)
        if turn.index + 1 >= len(turn.mirrors):
            return None
        turn.index += 1
        return Retry()

    async def mirrors(self, transfer: Transfer) -> list[str]:
        writer = BufferWriter()
        await transfer.nested(self, self.list_url, writer).run()
        return writer.content().decode().split()


@dataclass
class Turn:
    """Which mirror one download asks in this round."""

    round: int = 1
    index: int = 0
    mirrors: list[str] = field(default_factory=list)


class MirroredDownload(Download):
    """A download that brings the delegate; the kind of a remote sets `remote`."""

    remote: MirrorDelegate

    def __init__(self, url: str, writer: Writer | None = None, *, plugins: Any = (), **options: Any) -> None:
        super().__init__(url, writer, plugins=(*plugins, self.remote), **options)


class MirroredContext(Context):
    """A context whose `download()` makes such downloads."""

    download_type = MirroredDownload
