"""Dates and delays in header fields, read exactly as RFC 9110 writes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAY: Final = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY: Final = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_MONTH: Final = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME: Final = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_FORMATS: Final = (
    re.compile(rf"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),
    re.compile(rf"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"),
    re.compile(rf"{_DAY} {_MONTH} (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})"),
)
_USUAL_LENGTH: Final = len("Sun, 06 Nov 1994 08:49:37 GMT")
_SECONDS: Final = re.compile(r"[0-9]+")
_LONGEST: Final = 1e9  # seconds, some thirty years: whoever asks for more asks for ever


def http_date(text: str | None, now: float = 0.0) -> float | None:
    """Return the time of *text* in seconds since 1970, or None if it is no HTTP-date (RFC 9110, section 5.6.7).

    All three formats are read. *now* serves for the years of two digits: none is more than 50 years after it.
    """
    if text is None:
        return None
    return _usual(text) if len(text) == _USUAL_LENGTH else _date(text, now)


@lru_cache(maxsize=128)
def _usual(text: str) -> float | None:
    """Do so for the usual format, whose year needs no present: files often have one time, and answers have."""
    return _date(text, 0.0)


def _date(text: str, now: float) -> float | None:
    for form in _FORMATS:
        match = form.fullmatch(text)
        if match is None:
            continue
        year = int(match["year"])
        if len(match["year"]) == 2:
            this_year = datetime.fromtimestamp(now, UTC).year
            year += this_year // 100 * 100
            if year > this_year + 50:
                year -= 100
        try:
            # A leap second is valid and unknown to datetime.
            second = min(int(match["second"]), 59) if match["second"] == "60" else int(match["second"])
            month = _MONTHS.index(match["month"]) + 1
            return datetime(
                year, month, int(match["day"]), int(match["hour"]), int(match["minute"]), second, tzinfo=UTC
            ).timestamp()
        except ValueError:
            return None
    return None


def retry_after(text: str | None, date: str | None, now: float) -> float | None:
    """Return the seconds that a Retry-After of *text* asks to wait (RFC 9110, section 10.2.3), or None.

    A time is taken from the server's own *date* where there is one, so a wrong clock here does no harm, else from
    *now*. What lies in the past is 0; what is neither a whole number nor a date is None.
    """
    if text is None:
        return None
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), _LONGEST)
    then = http_date(text, now)
    if then is None:
        return None
    said = http_date(date, now)
    return max(0.0, then - (now if said is None else said))
