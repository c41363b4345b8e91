"""Entity tags, dates, and the conditions of a request."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downhaul import Headers, Version
from downhaul.adapters._conditions import (
    entity_tag,
    entity_tags,
    failed_condition,
    http_date,
    if_range_holds,
    strong_match,
    weak_match,
)

MIB = 1024 * 1024
NOW = datetime(2026, 5, 6, tzinfo=UTC).timestamp()
MAY_1, MAY_2, MAY_3 = (f"{day}, 0{place} May 2020 12:00:00 GMT" for place, day in enumerate(("Fri", "Sat", "Sun"), 1))
tags = st.builds(
    lambda weak, text: f'{"W/" * weak}"{text}"',
    st.booleans(),
    st.text([chr(code) for code in (0x21, *range(0x23, 0x7F), *range(0x80, 0x100))], max_size=6),
)
separators = st.builds(lambda before, after: f"{before},{after}", *(st.text(" \t,", max_size=3),) * 2)


@given(st.lists(tags, min_size=1, max_size=6), st.data())
def test_a_list_of_tags_is_read_as_it_was_written(wanted: list[str], data: st.DataObject) -> None:
    """Tags may hold commas; empty elements and blanks around them do not count (sections 5.6.1.2 and 8.8.3)."""
    text = wanted[0] + "".join(data.draw(separators) + tag for tag in wanted[1:])
    assert entity_tags(text) == tuple(wanted)
    assert entity_tags(f" ,\t{text} , ") == tuple(wanted)


@given(st.text(max_size=60) | st.text('W/",* \ta', max_size=60))
def test_no_text_breaks_a_list_of_tags(text: str) -> None:
    """Whatever the text is, there is no exception, and nothing but entity tags."""
    for tag in entity_tags(text):
        assert entity_tag(tag) == tag
        assert tag in text


@pytest.mark.parametrize("text", ['"a" "b"', '"a', 'a"', "a", '"a", b', '"a", w/"b"', '"a", *', '"a"x, "b"', "*"])
def test_what_is_no_list_of_tags_has_none(text: str) -> None:
    """A list that cannot be read to its end is none: no tag of it counts."""
    assert entity_tags(text) == ()


@pytest.mark.parametrize("piece", ['"",', ",", " ", '"', 'W/"a" ', "\t,", 'W/"a",', "W/"])
def test_long_lists_of_tags_take_time_in_proportion(piece: str) -> None:
    """A megabyte of anything is read in a moment: nothing is quadratic."""
    begun = time.process_time()
    entity_tags(piece * (MIB // len(piece)))
    entity_tags(piece * (MIB // len(piece)) + "x")
    assert time.process_time() - begun < 10


@pytest.mark.parametrize(
    ("one", "other", "strong", "weak"),
    [
        ('W/"1"', 'W/"1"', False, True),
        ('W/"1"', 'W/"2"', False, False),
        ('W/"1"', '"1"', False, True),
        ('"1"', '"1"', True, True),
    ],
)
def test_tags_are_compared_as_the_rfc_shows(one: str, other: str, strong: bool, weak: bool) -> None:
    """These are the examples of section 8.8.3.2."""
    for pair in ((one, other), (other, one)):
        assert strong_match(*pair) is strong
        assert weak_match(*pair) is weak


# --- dates ------------------------------------------------------------------------------------------------------


@given(st.datetimes(datetime(1977, 1, 1), datetime(2026, 1, 1)))  # noqa: DTZ001 - it says so in the test
def test_all_three_formats_of_a_date_are_read(naive: datetime) -> None:
    """IMF-fixdate, the one of RFC 850, and asctime's mean the same time (section 5.6.7)."""
    date = naive.replace(tzinfo=UTC, microsecond=0)
    for text in (
        f"{date:%a, %d %b %Y %H:%M:%S GMT}",
        f"{date:%A, %d-%b-%y %H:%M:%S GMT}",
        f"{date:%a %b %e %H:%M:%S %Y}",
    ):
        assert http_date(text, NOW) == date.timestamp()


def test_a_year_of_two_digits_is_at_most_fifty_years_ahead() -> None:
    """What seems to be further in the future is past (section 5.6.7)."""
    assert http_date("Wednesday, 06-May-76 00:00:00 GMT", NOW) == datetime(2076, 5, 6, tzinfo=UTC).timestamp()
    assert http_date("Friday, 06-May-77 00:00:00 GMT", NOW) == datetime(1977, 5, 6, tzinfo=UTC).timestamp()


def test_a_leap_second_is_a_second() -> None:
    """It is valid, though datetime knows none."""
    assert http_date("Sat, 31 Dec 2016 23:59:60 GMT", NOW) == datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "text",
    [
        None, "", "yesterday", "2020-05-01", "1588334400", "Fri, 01 May 2020 12:00:00",
        "Fri, 01 May 2020 12:00:00 +0000",
        "Fri, 01 May 2020 12:00:00 UTC", "fri, 01 may 2020 12:00:00 gmt", "Fri, 1 May 2020 12:00:00 GMT",
        "Fri, 31 Feb 2020 12:00:00 GMT", "Fri, 01 May 2020 24:00:00 GMT", "Fri, 01 May 0000 12:00:00 GMT",
        "Fri, 01 May 2020 12:00:61 GMT", "Fri, 01 May ٢٠٢٠ 12:00:00 GMT", f"{MAY_1}, {MAY_1}",
    ],
)  # fmt: skip
def test_what_is_no_date_is_none(text: str | None) -> None:
    """Only what section 5.6.7 describes is read."""
    assert http_date(text, NOW) is None


@given(st.text(max_size=60))
def test_no_text_breaks_a_date(text: str) -> None:
    """Whatever the text is, there is no exception."""
    http_date(text, NOW)


# --- conditions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({}, None),
        ({"If-Match": '"a"'}, None),
        ({"If-Match": '"b", "a"'}, None),
        ({"If-Match": '"b"'}, 412),
        ({"If-Match": 'W/"a"'}, 412),
        ({"If-Match": "*"}, None),
        ({"If-Match": "a"}, 412),
        ({"If-Match": ""}, 412),
        ({"If-None-Match": '"a"'}, 304),
        ({"If-None-Match": 'W/"a"'}, 304),
        ({"If-None-Match": '"b", W/"a"'}, 304),
        ({"If-None-Match": '"b"'}, None),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": "a"}, None),
        ({"If-Modified-Since": MAY_1}, None),
        ({"If-Modified-Since": MAY_2}, 304),
        ({"If-Modified-Since": MAY_3}, 304),
        ({"If-Modified-Since": "May 3"}, None),
        ({"If-Unmodified-Since": MAY_1}, 412),
        ({"If-Unmodified-Since": MAY_2}, None),
        ({"If-Unmodified-Since": MAY_3}, None),
        ({"If-Unmodified-Since": "May 1"}, None),
        ({"If-Match": '"a"', "If-Unmodified-Since": MAY_1}, None),
        ({"If-Match": '"b"', "If-None-Match": '"a"'}, 412),
        ({"If-Match": '"a"', "If-None-Match": '"a"'}, 304),
        ({"If-Unmodified-Since": MAY_1, "If-None-Match": '"a"'}, 412),
        ({"If-Unmodified-Since": MAY_3, "If-None-Match": '"a"'}, 304),
        ({"If-None-Match": '"b"', "If-Modified-Since": MAY_3}, None),
        ({"If-None-Match": '"a"', "If-Modified-Since": MAY_1}, 304),
        ({"if-none-match": ' "a"\t'}, 304),
    ],
)
def test_conditions_of_a_known_file(asked: dict[str, str], status: int | None) -> None:
    """Conditions are held against tag and date in the order of section 13.2.2."""
    file = Headers([("ETag", '"a"'), ("Last-Modified", MAY_2)])
    assert failed_condition(Headers(asked.items()), file) == status


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"If-Match": '"a"'}, 412),
        ({"If-Match": "*"}, None),
        ({"If-None-Match": '"a"'}, None),
        ({"If-None-Match": "*"}, 304),
        ({"If-Modified-Since": MAY_2}, None),
        ({"If-Unmodified-Since": MAY_2}, None),
    ],
)
@pytest.mark.parametrize("file", [{}, {"ETag": "a", "Last-Modified": "2020-05-02"}])
def test_conditions_of_a_file_without_validators(
    file: dict[str, str], asked: dict[str, str], status: int | None
) -> None:
    """Without a tag none is the same, without a date that is no condition (sections 13.1.3 and 13.1.4)."""
    assert failed_condition(Headers(asked.items()), Headers(file.items())) == status


@pytest.mark.parametrize(("file", "asked"), [('W/"a"', '"a"'), ('W/"a"', 'W/"a"'), ('"a"', 'W/"a"')])
def test_weak_tags_match_only_for_if_none_match(file: str, asked: str) -> None:
    """If-Match needs the same bytes, If-None-Match does not (sections 13.1.1 and 13.1.2)."""
    assert failed_condition(Headers([("If-Match", asked)]), Headers([("ETag", file)])) == 412
    assert failed_condition(Headers([("If-None-Match", asked)]), Headers([("ETag", file)])) == 304


def said(seconds: float) -> str:
    """Return the Date of *seconds* after MAY_2."""
    base = http_date(MAY_2, NOW)
    assert base is not None
    return f"{datetime.fromtimestamp(base + seconds, UTC):%a, %d %b %Y %H:%M:%S GMT}"


@pytest.mark.parametrize(
    ("text", "file", "version", "holds"),
    [
        ('"a"', {"ETag": '"a"'}, None, True),
        (' "a" ', {"ETag": '"a"'}, None, True),
        ('"b"', {"ETag": '"a"'}, None, False),
        ('W/"a"', {"ETag": 'W/"a"'}, None, False),
        ('W/"a"', {"ETag": '"a"'}, None, False),
        ('"a"', {"ETag": 'W/"a"'}, None, False),
        ('"a"', {}, None, False),
        ('"a", "b"', {"ETag": '"a"'}, None, False),
        ("*", {"ETag": '"a"'}, None, False),
        ("a", {"ETag": '"a"'}, None, False),
        ("", {"ETag": '"a"'}, None, False),
        (MAY_2, {"Last-Modified": MAY_2}, None, True),
        (MAY_2, {"Last-Modified": MAY_2, "Date": said(60)}, None, True),
        (MAY_2, {"Last-Modified": MAY_2, "Date": said(59)}, None, False),
        (MAY_2, {"Last-Modified": MAY_2, "Date": said(0)}, Version(modified=MAY_2, strong=True), True),
        (MAY_2, {"Last-Modified": MAY_2, "Date": said(0)}, Version('"a"', MAY_2, strong=True), False),
        (MAY_2, {"Last-Modified": MAY_2, "Date": said(0)}, Version(modified=MAY_2), False),
        (MAY_3, {"Last-Modified": MAY_2}, None, False),
        (MAY_1, {"Last-Modified": MAY_2}, None, False),
        (MAY_2, {}, Version(modified=MAY_2, strong=True), False),
    ],
)
def test_if_range_needs_a_strong_validator(
    text: str, file: dict[str, str], version: Version | None, holds: bool
) -> None:
    """A part is sent for the same strong tag, or a date that was the last change for long (section 13.1.5)."""
    assert if_range_holds(text, Headers(file.items()), version) is holds
