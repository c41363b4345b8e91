"""File names from URLs."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote_from_bytes

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from downhaul.cli._names import file_name, file_names


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/a/pkg.rpm", "pkg.rpm"),
        ("https://host/a%20b%C3%A9?x=/y#/z", "a bé"),
        ("https://host/100%2525", "100%25"),
        ("https://host/a+b", "a+b"),
        ("https://host/...", "..."),
        ("ftp://host/a/file;type=i", "file"),
        ("ftp://host/what?", "what"),
        ("ftp://host/what?now", "what?now"),
        ("https://host/a;type=i", "a;type=i"),
        ("https://host/%E9", os.fsdecode(b"\xe9")),
    ],
)
def test_the_name_is_the_last_segment_decoded_once(url: str, name: str) -> None:
    """Query and fragment are no part of it, and ;type=i is none in FTP."""
    assert file_name(url) == name


@pytest.mark.parametrize(
    "last",
    ["", "dir/", ".", "..", "%2e%2E", "a%2Fb", "..%2Fetc", "a%5Cb", "a%00", "a%0Ab", "a%1B[1m", "a%7F", "a%C2%9B"],
)
def test_what_is_no_plain_name_is_refused(last: str) -> None:
    """Empty, dots, separators and control characters after decoding: the user says -o."""
    with pytest.raises(click.UsageError, match="use -o FILE"):
        file_name(f"https://host/{last}")


@pytest.mark.parametrize("url", ["https://host", "https://host?a/b", "data:text/plain,hello", "data:a/b"])
def test_a_url_without_a_path_has_no_name(url: str) -> None:
    """Neither the host nor data become a file name."""
    with pytest.raises(click.UsageError):
        file_name(url)


@given(st.binary(max_size=12))
def test_no_name_ever_leaves_its_directory(segment: bytes) -> None:
    """Whatever is encoded in a URL, its name is one plain entry of a directory, or refused."""
    try:
        name = file_name(f"https://host/a/{quote_from_bytes(segment)}")
    except click.UsageError:
        return
    assert Path(name).name == name not in {"", ".", ".."}
    assert not any(ord(character) < 32 for character in name)


def test_two_files_of_one_name_are_refused() -> None:
    """One of them would be lost; the message has no password."""
    with pytest.raises(click.UsageError, match=r"https://one/a%20b and https://two/a b both .* 'a b'") as caught:
        file_names(["https://one/a%20b", "https://bob:hush@two/a b"])
    assert "hush" not in caught.value.message
