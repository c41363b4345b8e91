"""The Range field of a request: which bytes of the file it means (RFC 9110, sections 14.1 and 14.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_SET: Final = re.compile(r"bytes=(.*)", re.IGNORECASE | re.ASCII)
_SPEC: Final = re.compile(r"([0-9]*)-([0-9]*)", re.ASCII)
_DIGITS: Final = 19
"""More digits than the size of any file has; `int` refuses thousands of them."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """From `first` to `last`, both included, or to the end; without `first`, the last `last` bytes (section 14.1.2)."""

    first: int | None
    last: int | None

    @property
    def continues(self) -> bool:
        """Whether this is what somebody asks for who has the bytes before it: all from some byte on."""
        return bool(self.first) and self.last is None

    def within(self, size: int) -> range:
        """Return which bytes of a file of *size* bytes these are; none of them where that cannot be satisfied."""
        if self.first is None:
            return range(max(0, size - (self.last or 0)), size)
        return range(self.first, size if self.last is None else min(self.last + 1, size))


def byte_ranges(text: str) -> tuple[ByteRange, ...]:
    """Return the ranges of a Range field of *text*, or none if it is to be ignored: of another unit, or not valid.

    Takes time in proportion to the length of *text*, whatever it is.
    """
    ranges = _SET.fullmatch(text.strip(" \t"))
    if ranges is None:
        return ()
    specs = [spec for spec in (each.strip(" \t") for each in ranges[1].split(",")) if spec]  # section 5.6.1.2
    found = tuple(_byte_range(spec) for spec in specs)
    return tuple(each for each in found if each is not None) if None not in found else ()


def _byte_range(spec: str) -> ByteRange | None:
    match = _SPEC.fullmatch(spec)
    if match is None or spec == "-":
        return None
    first, last = (digits.lstrip("0") or digits[-1:] for digits in match.groups())
    if first and last and (len(last), last) < (len(first), first):
        return None  # "invalid if the last-pos value is present and less than first-pos" (section 14.1.1)
    return ByteRange(_number(first), _number(last))


def _number(digits: str) -> int | None:
    """Return the number that *digits* mean, or one that is more than any size if they are many."""
    if not digits:
        return None
    return int(digits) if len(digits) <= _DIGITS else 10**_DIGITS
