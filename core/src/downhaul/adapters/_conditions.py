"""The conditions of a request, compared with what is known of the file (RFC 9110, section 13)."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from downhaul import Version

CONDITIONS: Final = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
_TAG: Final = re.compile(r'(?:W/)?"[^"\x00-\x1f\x7f]*"')
_NEXT_TAG: Final = re.compile(rf"[ \t,]*({_TAG.pattern})[ \t]*(?=,|\Z)")
_BETWEEN: Final = re.compile(r"[ \t,]*")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WEEKDAY: Final = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_WEEKDAY: Final = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_MONTH: Final = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME: Final = "(?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})"
_DATES: Final = (
    re.compile(rf"{_WEEKDAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),
    re.compile(rf"{_LONG_WEEKDAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"),
    re.compile(rf"{_WEEKDAY} {_MONTH} (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})"),
)
_APART: Final = 60.0
"""Seconds between Last-Modified and Date that make it unlikely that clocks differ by more (section 8.8.2.2)."""


def failed_condition(asked: Mapping[str, str], file: Mapping[str, str]) -> Literal[304, 412] | None:
    """Return the status of the first condition among the fields *asked* that does not hold, or None.

    *file* are the header fields of the file. For GET and HEAD, in the order of section 13.2.2.
    """
    now = time.time()
    tag, modified = entity_tag(file.get("ETag")), http_date(file.get("Last-Modified"), now)
    match, unmodified = asked.get("If-Match"), http_date(asked.get("If-Unmodified-Since"), now)
    if match is not None:
        if not _lists(match, tag, strong_match):
            return 412
    elif unmodified is not None and modified is not None and modified > unmodified:
        return 412
    none_match, since = asked.get("If-None-Match"), http_date(asked.get("If-Modified-Since"), now)
    if none_match is not None:
        if _lists(none_match, tag, weak_match):
            return 304
    elif since is not None and modified is not None and modified <= since:
        return 304
    return None


def if_range_holds(text: str, file: Mapping[str, str], version: Version | None) -> bool:
    """Tell whether an If-Range of *text* lets a part of the *file* be sent (section 13.1.5)."""
    text, tag = text.strip(" \t"), entity_tag(file.get("ETag"))
    if entity_tag(text) is not None:
        return tag is not None and strong_match(text, tag)
    now = time.time()
    modified, wanted = http_date(file.get("Last-Modified"), now), http_date(text, now)
    if modified is None or modified != wanted:
        return False
    if version is not None and version.strong and version.tag is None:  # so it is the date that is strong
        return True
    said = http_date(file.get("Date"), now)
    return (now if said is None else said) - modified >= _APART


def entity_tag(text: str | None) -> str | None:
    """Return the entity tag that *text* is, or None if it is none (section 8.8.3)."""
    text = (text or "").strip(" \t")
    return text if _TAG.fullmatch(text) else None


def entity_tags(text: str) -> tuple[str, ...]:
    """Return the entity tags of a list (section 5.6.1.2), none if it cannot be read as one.

    Takes time in proportion to the length of *text*, whatever it is.
    """
    found, place = [], 0
    while match := _NEXT_TAG.match(text, place):
        found.append(match[1])
        place = match.end()
    return tuple(found) if _BETWEEN.fullmatch(text, place) else ()


def strong_match(one: str, other: str) -> bool:
    """Tell whether two entity tags are the same and none of them is weak (section 8.8.3.2)."""
    return one == other and not one.startswith("W/")


def weak_match(one: str, other: str) -> bool:
    """Tell whether two entity tags are the same, weak or not (section 8.8.3.2)."""
    return one.removeprefix("W/") == other.removeprefix("W/")


def http_date(text: str | None, now: float) -> float | None:
    """Return the time of *text* in seconds since 1970, or None if it is no HTTP-date (section 5.6.7).

    *now* serves for years of two digits: none is more than 50 years after it.
    """
    text = (text or "").strip(" \t")
    read = next((match for form in _DATES if (match := form.fullmatch(text))), None)
    if read is None:
        return None
    year, month, day = int(read["year"]), _MONTHS.index(read["month"]) + 1, int(read["day"])
    hour, minute, second = map(int, read["time"].split(":"))
    if len(read["year"]) == 2:
        this_year = datetime.fromtimestamp(now, UTC).year
        year += this_year // 100 * 100
        if year > this_year + 50:
            year -= 100
    try:  # a leap second is valid, and datetime does not know it
        return datetime(year, month, day, hour, minute, 59 if second == 60 else second, tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _lists(text: str, tag: str | None, same: Callable[[str, str], bool]) -> bool:
    """Tell whether a condition of *text* names the *tag* of the file, or any file by its "*"."""
    if text.strip(" \t") == "*":
        return True
    return tag is not None and any(same(each, tag) for each in entity_tags(text))
