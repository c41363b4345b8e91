"""Lists of mirrors, fetched by way of downhaul itself, and bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from downhaul import BufferWriter, Timeout

if TYPE_CHECKING:
    from downhaul import Transfer

_LARGEST: Final = 1024 * 1024  # bytes
_LONGEST: Final = 60.0  # seconds


async def fetch_list(plugin: object, transfer: Transfer, url: str) -> tuple[bytes, str]:
    """Return what is at *url*, and where it came from in the end, to which relative entries refer.

    Raises PreparationError where it cannot be had, is more than 1 MiB, or takes more than a minute.
    """
    writer = BufferWriter()
    download = transfer.nested(plugin, url, writer)
    timeout = transfer.settings.timeout or Timeout()
    in_time = replace(timeout, total=min(timeout.total or _LONGEST, _LONGEST))
    result = await download.clone(settings=replace(download.settings, max_size=_LARGEST, timeout=in_time)).run()
    return writer.content(), result.source
