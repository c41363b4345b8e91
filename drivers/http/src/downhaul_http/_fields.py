"""Header fields of an answer, as they came."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from downhaul import Headers, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_BYTES: Final = 256 * 1024
"""Bytes that the head of an answer may have."""

_MOST_FIELDS: Final = 1000
_LENGTH: Final = re.compile(r"[0-9]{1,19}")


class Fields:
    """The header fields of one answer, by their names in lower case."""

    __slots__ = ("_pairs", "_repeated", "_values")

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._pairs = pairs
        self._values = {name.lower(): value for name, value in pairs}
        self._repeated = len(self._values) < len(pairs)

    def check_budget(self, size: int) -> None:
        """Raise ProtocolError for more fields than anybody has use for: 1000 of them, or *size* bytes above 256 KiB."""
        if len(self._pairs) > _MOST_FIELDS:
            raise ProtocolError(f"the answer has {len(self._pairs)} header fields; {_MOST_FIELDS} are allowed")
        if size > MOST_BYTES:
            raise ProtocolError(f"the header fields of the answer have {size} bytes; {MOST_BYTES} are allowed")

    def all(self, name: str) -> list[str]:
        """Return every value of *name*, one per line."""
        if self._repeated:
            return [value for each, value in self._pairs if each.lower() == name]
        value = self._values.get(name)
        return [] if value is None else [value]

    def single(self, name: str) -> str | None:
        """Return the value of *name* if it stands there exactly once."""
        if self._repeated and len(self.all(name)) > 1:
            return None
        return self._values.get(name)

    def content_length(self) -> int | None:
        """Return the Content-Length, or None without one.

        Several that are equal count as one. Raises ProtocolError for anything else: who disagrees about where an
        answer ends disagrees about where the next one begins (RFC 9112, section 6.3).
        """
        length = self._values.get("content-length")
        if length is None:
            return None
        if self._repeated or "," in length:
            lengths = {part.strip() for value in self.all("content-length") for part in value.split(",")}
            if len(lengths) > 1:
                raise ProtocolError("the answer has several different Content-Lengths")
            length = lengths.pop()
        if _LENGTH.fullmatch(length) is None:
            raise ProtocolError(f"the Content-Length of the answer is no number of bytes: {length[:50]!r}")
        if "transfer-encoding" in self._values:
            raise ProtocolError("the answer has both Content-Length and Transfer-Encoding")
        return int(length)

    def headers(self) -> Headers:
        """Return all of them as the rest of downhaul knows them."""
        return Headers(self._pairs)


def text(value: bytes) -> str:
    """Return *value* as text: UTF-8, or ISO 8859-1 where it is not that."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
