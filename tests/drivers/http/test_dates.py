from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downhaul_http._dates import http_date, retry_after

NOW = 1_700_000_000.0
THEN = 784111777.0


@pytest.mark.parametrize(
    "text",
    ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"],
)
def test_three_formats(text):
    """The three formats of RFC 9110 name the same second."""
    assert http_date(text, NOW) == THEN


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "0",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 +0100",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 GMT, x",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 25:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, ٠٦ Nov 1994 08:49:37 GMT",
    ],
)
def test_what_is_no_date(text):
    """Anything else is no date."""
    assert http_date(text, NOW) is None


def test_leap_second():
    """A leap second is a valid second."""
    assert http_date("Sat, 31 Dec 2016 23:59:60 GMT") is not None


def test_years_of_two_digits_reach_50_years_ahead():
    """A year of two digits is the one that is at most 50 years ahead."""
    assert http_date("Sunday, 06-Nov-94 08:49:37 GMT", NOW) == THEN
    assert http_date("Sunday, 06-Nov-50 08:49:37 GMT", NOW) > NOW


@given(st.integers(0, 253_000_000_000))
def test_every_fixed_date_is_read(moment):
    """Every date that is written in the preferred format is read back to the second."""
    text = format_datetime(datetime.fromtimestamp(moment, UTC), usegmt=True)
    assert http_date(text) == moment


@given(st.text(), st.one_of(st.none(), st.text()))
def test_retry_after_never_crashes(text, date):
    """Whatever Retry-After and Date say, the wait is None or a number from 0."""
    wait = retry_after(text, date, NOW)
    assert wait is None or 0 <= wait < float("inf")


@given(st.from_regex(r"\A[ -~]{0,40}\Z"))
def test_only_whole_seconds_and_dates_are_waits(text):
    """A wait is read from whole seconds and dates, and from nothing else."""
    stripped = text.strip()
    exact = (stripped.isdigit() and len(stripped) <= 15) or http_date(stripped, NOW) is not None
    assert (retry_after(text, None, NOW) is not None) == exact


@pytest.mark.parametrize(
    ("text", "date", "wait"),
    [
        ("120", None, 120.0),
        ("0", None, 0.0),
        (" 7 ", None, 7.0),
        ("1000000", None, 1e6),
        ("-1", None, None),
        ("+1", None, None),
        ("1.5", None, None),
        ("1e3", None, None),
        ("soon", None, None),
        ("", None, None),
        ("9" * 400, None, 1e9),
        (None, None, None),
        ("Sun, 06 Nov 1994 08:50:37 GMT", "Sun, 06 Nov 1994 08:49:37 GMT", 60.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", None, 0.0),
    ],
)
def test_retry_after(text, date, wait):
    """Seconds and dates are waits, a past date is 0, a date counts from the server's own clock."""
    assert retry_after(text, date, NOW) == wait
