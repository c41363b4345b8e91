"""The fields about ranges: what is asked, and what a 206 says it holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The bytes from `first` to `last`, both included, of `total` (None: not known)."""

    first: int
    last: int
    total: int | None

    @property
    def length(self) -> int:
        """The number of bytes."""
        return self.last - self.first + 1


def content_range(text: str) -> ContentRange | None:
    """Return what a Content-Range of *text* says, or None if it is not one of bytes (RFC 9110, section 14.4)."""
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if last < first or (total is not None and total <= last):
        return None
    return ContentRange(first, last, total)


def disagreement(found: ContentRange, offset: int, length: int | None) -> str:
    """Return why *found* is not what was asked for by *offset* and *length* (None: to the end), or ""."""
    if found.first != offset:
        return f"the range starts at byte {found.first}, not at {offset}"
    wanted = None if length is None else offset + length - 1
    if wanted is not None and found.last > wanted:
        return f"the range ends with byte {found.last}, after {wanted}"
    if found.total is not None:
        end = found.total - 1 if wanted is None else min(wanted, found.total - 1)
        if found.last != end:
            return f"the range ends with byte {found.last}, before {end}"
    return ""
