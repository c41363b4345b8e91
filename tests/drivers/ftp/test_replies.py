"""What is read from the texts of replies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downhaul_ftp._replies import (
    Reply,
    announced_size,
    extended_port,
    http_date,
    passive_port,
    shown,
    size_of,
    time_of,
)


def reply(code: int, text: str) -> Reply:
    """Return a reply as it is read."""
    return Reply(code, text, text)


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("Entering Extended Passive Mode (|||6446|)", 6446),
        ("ok (!!!80!)", 80),
        ("(|||65535|)", 65535),
        ("(|||65536|)", None),
        ("(|||1000000|)", None),
        ("(|||0|)", None),
        ("(||6446|)", None),
        ("(|1|::1|6446|)", None),
        ("6446", None),
        ("", None),
    ],
)
def test_extended_port(text: str, port: int | None) -> None:
    """EPSV names a port between equal marks, or nothing that is of use."""
    assert extended_port(reply(229, text)) == port
    assert extended_port(reply(500, text)) is None


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("Entering Passive Mode (127,0,0,1,4,5).", 1029),
        ("127,0,0,1,4,5", 1029),
        ("=127,0,0,1,4,5", 1029),
        ("(10,0,0,1,255,255)", 65535),
        ("(10,0,0,1,256,0)", None),
        ("(10,0,0,1,0,0)", None),
        ("(10,0,0,1,1)", None),
        ("(1,2,3,4,5,6666)", None),
        ("", None),
    ],
)
def test_passive_port(text: str, port: int | None) -> None:
    """PASV names a port in two numbers, in brackets or not."""
    assert passive_port(reply(227, text)) == port
    assert passive_port(reply(425, text)) is None


@pytest.mark.parametrize(
    ("text", "size"), [("12", 12), (" 0", 0), ("12 bytes", 12), ("-1", None), ("", None), ("9" * 30, None)]
)
def test_size(text: str, size: int | None) -> None:
    """SIZE tells a number, under code 213 only."""
    assert size_of(reply(213, text)) == size
    assert size_of(reply(250, text)) is None


@pytest.mark.parametrize(
    ("text", "time", "date"),
    [
        ("20240102030405", "20240102030405", "Tue, 02 Jan 2024 03:04:05 GMT"),
        ("20240102030405.123", "20240102030405.123", "Tue, 02 Jan 2024 03:04:05 GMT"),
        ("20241302030405", "20241302030405", None),
        ("191240102030405", None, None),
        ("yesterday", None, None),
    ],
)
def test_time(text: str, time: str | None, date: str | None) -> None:
    """MDTM tells a time in UTC; what is no time gives no date."""
    assert time_of(reply(213, text)) == time
    assert (http_date(time) if time else None) == date


@pytest.mark.parametrize(
    ("text", "path", "size"),
    [
        ("Opening BINARY mode data connection for a (12 bytes).", b"a", 12),
        ("for a (1 byte)", b"a", 1),
        ("for 2 (12 bytes)", b"2", 12),
        ("for b (7 bytes) (12 bytes)", b"a/b (7 bytes)", 12),
        ("for b (7 bytes)", b"a/b (7 bytes)", None),
        ("8.7 kbytes to download", b"a", None),
        ("size?", b"a", None),
    ],
)
def test_announced_size(text: str, path: bytes, size: int | None) -> None:
    """The line that opens a transfer may tell the size; a name that looks like one does not."""
    assert announced_size(reply(150, text), path) == size


def test_shown_hides_secrets_and_reads_utf8() -> None:
    """Secrets that a server repeats are hidden; a text is UTF-8 where it can be, else Latin-1, and not endless."""
    assert shown("PASS canary failed", ("canary",)) == "PASS *** failed"
    assert shown("gr\xc3\xbc\xc3\x9fe", ()) == "gr\u00fc\u00dfe"
    assert shown("gr\xfc\xdfe", ()) == "gr\u00fc\u00dfe"
    assert len(shown("x" * 9000, ())) < 400


@given(st.integers(100, 599), st.text(st.characters(max_codepoint=255)), st.binary())
def test_any_text_can_be_read(code: int, text: str, path: bytes) -> None:
    """No text of a server raises anything."""
    odd = reply(code, text)
    for read in (extended_port, passive_port, size_of, time_of):
        read(odd)
    announced_size(odd, path)
    shown(text, ("x",))
    http_date(text)
