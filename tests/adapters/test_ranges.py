"""The Range field: which bytes it means, or that it means nothing."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downhaul.adapters._ranges import byte_ranges

MIB = 1024 * 1024
numbers = st.integers(0, 60) | st.integers(0, 10**40)
digits = st.builds(lambda zeros, number: "0" * zeros + str(number), st.integers(0, 3), numbers)
space = st.text(" \t", max_size=2)


@pytest.mark.parametrize(
    ("text", "bytes_of_ten"),
    [
        ("bytes=0-0", [0]),
        ("bytes=2-4", [2, 3, 4]),
        ("bytes=7-", [7, 8, 9]),
        ("bytes=-2", [8, 9]),
        ("bytes=8-1000000000000000000000000000000", [8, 9]),
        ("bytes=-1000000000000000000000000000000", list(range(10))),
        ("bytes=0000000000000000000000000000000000000008-9", [8, 9]),
        ("BYTES=9-9", [9]),
        (" bytes=9-\t", [9]),
        ("bytes=,9-,", [9]),
        ("bytes=10-", []),
        ("bytes=10-20", []),
        ("bytes=-0", []),
        (f"bytes={'9' * 5000}-", []),
        (f"bytes={'8' * 5000}-{'9' * 5000}", []),
    ],
)
def test_a_range_means_these_bytes(text: str, bytes_of_ten: list[int]) -> None:
    """A valid Range is resolved as sections 14.1.1 and 14.1.2 say, whatever number it names."""
    (found,) = byte_ranges(text)
    assert list(found.within(10)) == bytes_of_ten


@pytest.mark.parametrize(
    "text",
    [
        "", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=a-b", "bytes=1", "bytes=1-2-3", "bytes=5-4", "bytes=+1-2",
        "bytes=1 - 2", "bytes 1-2", "bytes=0x1-2", "items=1-2", "bytes=1-2;3-4", "bytes=1-2,x", "bytes=1-2, bytes=3-4",
        "bytes=٣-٤", "bytes=²-", "bytes=1.0-2", "bytes=--1", "bytes=1-2\n", "bytes=10000000000000000000000-9",
        f"bytes=1{'0' * 5000}-{'9' * 5000}",
    ],
)  # fmt: skip
def test_what_is_no_valid_range_means_nothing(text: str) -> None:
    """A Range of another unit, or against the grammar, is as if it were not there (section 14.2)."""
    assert byte_ranges(text) == ()


def test_several_ranges_stay_apart_and_in_their_order() -> None:
    """A list is returned as it is asked for, overlapping or not; empty elements do not count (section 5.6.1.2)."""
    found = byte_ranges("bytes=5-6 ,, 0-,\t-1")
    assert [list(each.within(8)) for each in found] == [[5, 6], [0, 1, 2, 3, 4, 5, 6, 7], [7]]


@given(st.text(max_size=80) | st.text("bytes=-, 0123456789", max_size=80).map("bytes=".__add__), st.integers(0, 50))
def test_no_text_breaks_it(text: str, size: int) -> None:
    """Whatever the text is, there is no exception, and no byte that the file has not."""
    for each in byte_ranges(text):
        found = each.within(size)
        assert found.step == 1
        assert set(found) <= set(range(size))


@given(st.lists(st.tuples(space, digits, digits | st.just(""), space), min_size=1, max_size=5), st.integers(0, 50))
def test_int_ranges_are_those_of_the_rfc(specs: list[tuple[str, str, str, str]], size: int) -> None:
    """An int-range is from the first to the last byte, both included; one that ends before it begins voids all."""
    text = "bytes=" + ",".join(f"{before}{first}-{last}{after}" for before, first, last, after in specs)
    if any(last and int(last) < int(first) for _, first, last, _ in specs):
        assert byte_ranges(text) == ()
        return
    wanted = [
        [place for place in range(size) if int(first) <= place and (not last or place <= int(last))]
        for _, first, last, _ in specs
    ]
    assert [list(each.within(size)) for each in byte_ranges(text)] == wanted


@given(digits, st.integers(0, 50))
def test_suffix_ranges_are_those_of_the_rfc(length: str, size: int) -> None:
    """A suffix-range is the last bytes of the file, all of them where it is shorter."""
    (found,) = byte_ranges(f"bytes=-{length}")
    assert list(found.within(size)) == [place for place in range(size) if size - place <= int(length)]


@pytest.mark.parametrize("piece", ["0-1,", ",", " ", "-,", "9", "0-,", "\t,", "-"])
def test_long_texts_take_time_in_proportion(piece: str) -> None:
    """A megabyte of anything is read in a moment: nothing is quadratic."""
    begun = time.process_time()
    byte_ranges("bytes=" + piece * (MIB // len(piece)))
    byte_ranges("bytes=" + piece * (MIB // len(piece)) + "x")
    assert time.process_time() - begun < 10
