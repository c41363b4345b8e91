"""Lists of mirrors, fetched by way of downhaul itself, and bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from downhaul import BufferWriter

if TYPE_CHECKING:
    from downhaul import Transfer

_LARGEST: Final = 1024 * 1024  # bytes


async def fetch_list(plugin: object, transfer: Transfer, url: str) -> tuple[bytes, str]:
    """Return what is at *url*, and where it came from in the end, to which relative entries refer.

    Raises PreparationError where it cannot be had, or is more than 1 MiB.
    """
    writer = BufferWriter()
    download = transfer.nested(plugin, url, writer)
    result = await download.clone(settings=replace(download.settings, max_size=_LARGEST)).run()
    return writer.content(), result.source
