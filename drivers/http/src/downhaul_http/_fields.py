"""Header fields of an answer, as they came."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from downhaul import Headers, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_FIELDS: Final = 1000
_MOST_BYTES: Final = 256 * 1024
_LENGTH: Final = re.compile(rb"[0-9]{1,19}")


class Fields:
    """The header fields of one answer, by their names in lower case."""

    __slots__ = ("_pairs", "_values")

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._pairs = list(pairs)
        self._values: dict[bytes, list[bytes]] = {}
        for name, value in self._pairs:
            self._values.setdefault(name.lower(), []).append(value)

    def check_budget(self) -> None:
        """Raise ProtocolError for more fields than anybody has use for: 1000 of them, or 256 KiB."""
        if len(self._pairs) > _MOST_FIELDS:
            raise ProtocolError(f"the answer has {len(self._pairs)} header fields; {_MOST_FIELDS} are allowed")
        size = sum(len(name) + len(value) for name, value in self._pairs)
        if size > _MOST_BYTES:
            raise ProtocolError(f"the header fields of the answer have {size} bytes; {_MOST_BYTES} are allowed")

    def all(self, name: bytes) -> list[bytes]:
        """Return every value of *name*, one per line."""
        return self._values.get(name, [])

    def single(self, name: bytes) -> str | None:
        """Return the value of *name* if it stands there exactly once."""
        values = self._values.get(name)
        return text(values[0]) if values is not None and len(values) == 1 else None

    def content_length(self) -> int | None:
        """Return the Content-Length, or None without one.

        Several that are equal count as one. Raises ProtocolError for anything else: who disagrees about where an
        answer ends disagrees about where the next one begins (RFC 9112, section 6.3).
        """
        values = self._values.get(b"content-length")
        if values is None:
            return None
        lengths = {part.strip() for value in values for part in value.split(b",")}
        if len(lengths) > 1:
            raise ProtocolError("the answer has several different Content-Lengths")
        length = lengths.pop()
        if _LENGTH.fullmatch(length) is None:
            raise ProtocolError(f"the Content-Length of the answer is no number of bytes: {text(length)[:50]!r}")
        if b"transfer-encoding" in self._values:
            raise ProtocolError("the answer has both Content-Length and Transfer-Encoding")
        return int(length)

    def headers(self) -> Headers:
        """Return all of them as the rest of downhaul knows them."""
        return Headers([(text(name), text(value)) for name, value in self._pairs])


def text(value: bytes) -> str:
    """Return *value* as text: UTF-8, or ISO 8859-1 where it is not that."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
