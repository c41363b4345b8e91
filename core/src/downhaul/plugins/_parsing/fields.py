"""The words of header fields: tokens, quoted strings, parameters and lists (RFC 9110, section 5.6)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST: Final = 1000
"""Elements of a list, and parameters of an element, that are looked at: what is longer is no honest value."""

# Possessive throughout: no character is looked at twice, so that no value takes longer than its length.
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]*+")
_QUOTED: Final = re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_BARE: Final = re.compile(r"[^,;]*+")
_BLANKS: Final = re.compile(r"[ \t]*+")
_BETWEEN: Final = re.compile(r"[ \t,]*+")
_REST: Final = re.compile(r'(?:[^",]++|"(?:[^"\\]++|\\.)*+(?:"|\\?\Z))*+', re.DOTALL)
_DIGITS: Final = re.compile(r"[0-9]{1,18}")
_COUNTRY: Final = re.compile(r"[A-Za-z]{2}")


class FieldReader:
    """Reads the value of a header field from left to right, and never fails: what cannot be read is left where it is.

    An element that is not read to its end is skipped, to the next comma outside of quotes.
    """

    __slots__ = ("_at", "_text")

    def __init__(self, value: str) -> None:
        self._text, self._at = value, 0

    def elements(self) -> Iterator[None]:
        """Stand at each element of a list in turn; empty ones do not count (RFC 9110, section 5.6.1.2)."""
        for _ in range(_MOST):
            self._step(_BETWEEN)
            if self._at == len(self._text):
                return
            yield
            self._step(_REST)

    def parameters(self) -> Iterator[tuple[str, str]]:
        """Read ``; name=value`` as often as it comes, names in lower case; a name alone has an empty value."""
        for _ in range(_MOST):
            if not self.take(";"):
                return
            name, value = self.token().lower(), self.value() if self.take("=") else ""
            if value is None:
                return
            if name:
                yield name, value

    def take(self, mark: str) -> bool:
        """Step over *mark* and the blanks around it, if it comes next."""
        match = _BLANKS.match(self._text, self._at)
        assert match is not None
        if not self._text.startswith(mark, match.end()):
            return False
        self._at = match.end() + len(mark)
        self._step(_BLANKS)
        return True

    def token(self) -> str:
        """Read a token; it is empty where there is none."""
        return self._step(_TOKEN)

    def value(self) -> str | None:
        """Read the value of a parameter; None where a string has no end.

        One without quotes may hold what no token may, such as the "/" of a media type: it ends before a comma or a
        semicolon (RFC 8288, appendix B.3).
        """
        if not self._text.startswith('"', self._at):
            return self._step(_BARE).rstrip(" \t")
        match = self.match(_QUOTED)
        return None if match is None else _ESCAPED.sub(r"\1", match[1])

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Step over what *pattern* matches here, and return the match."""
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return match

    def _step(self, pattern: re.Pattern[str]) -> str:
        match = self.match(pattern)
        assert match is not None  # all that are given here match an empty text
        return match[0]


def quoted(text: str) -> str:
    """Return *text* as a quoted string (RFC 9110, section 5.6.4); ValueError for what no field may hold."""
    if any(ord(character) < 32 and character != "\t" for character in text) or "\x7f" in text:
        raise ValueError("a quoted string holds no control characters")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def number(text: str | None, least: int, most: int) -> int | None:
    """Return the number that *text* has in decimal digits, or None unless it is one from *least* to *most*."""
    if text is None or not _DIGITS.fullmatch(text.strip()):
        return None
    value = int(text)
    return value if least <= value <= most else None


def country(text: str | None) -> str | None:
    """Return a country's code of two letters (ISO 3166-1) in lower case, or None where *text* is none."""
    return text.strip().lower() if text is not None and _COUNTRY.fullmatch(text.strip()) else None
