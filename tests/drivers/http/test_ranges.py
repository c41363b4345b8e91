from __future__ import annotations

import httpx
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st

from downhaul import ProtocolError, RangeRefused, Request, StatusError, Version
from downhaul_http._ranges import ContentRange, content_range, disagreement

URL = "https://host/file"
STRONG = Version('"v1"', None, 10, strong=True)


@given(st.text(alphabet="bytesBYTES 0123456789-/*,=+x\t", max_size=40))
def test_only_exact_content_ranges_are_read(text):
    """What is read as a Content-Range is one, word for word; everything else is None."""
    found = content_range(text)
    if found is not None:
        total = "*" if found.total is None else found.total
        unit, _, numbers = text.partition(" ")
        assert unit.lower() == "bytes"
        assert [int(n) if n != "*" else n for n in numbers.replace("-", "/").split("/")] == [
            found.first,
            found.last,
            total,
        ]
        assert 0 <= found.first <= found.last
        assert found.total is None or found.last < found.total


@given(st.integers(0, 2**60), st.integers(1, 2**40), st.one_of(st.none(), st.integers(0, 2**40)))
def test_every_content_range_is_read(first, length, rest):
    """Every valid Content-Range is read for what it says."""
    last = first + length - 1
    total = None if rest is None else last + 1 + rest
    text = f"bytes {first}-{last}/{'*' if total is None else total}"
    assert content_range(text) == ContentRange(first, last, total)
    assert content_range(text).length == length


@pytest.mark.parametrize(
    "text",
    [
        "", "bytes", "bytes 0-4", "bytes 0-4/", "bytes 4-0/10", "bytes 0-10/10", "bytes */10", "bytes 0-4/-1",
        "bytes=0-4/10", "bytes  0-4/10", "bytes 0 - 4/10", "bytes -1-4/10", "items 0-4/10", "bytes 0-4/0x10",
        "bytes 0-4/10, bytes 5-9/10", "bytes \u0660-4/10", "bytes 0-4/10 ", " bytes 0-4/10", "bytes +0-4/10",
        "bytes 0-4/1_0",
    ],
)  # fmt: skip
def test_what_is_no_content_range(text):
    """Anything else is refused."""
    assert content_range(text) is None


@pytest.mark.parametrize(
    ("found", "offset", "length", "agrees"),
    [
        (ContentRange(4, 9, 10), 4, None, True),
        (ContentRange(4, 9, None), 4, None, True),
        (ContentRange(4, 5, 10), 4, 2, True),
        (ContentRange(4, 9, 10), 4, 100, True),
        (ContentRange(4, 9, None), 4, 100, True),
        (ContentRange(3, 9, 10), 4, None, False),
        (ContentRange(5, 9, 10), 4, None, False),
        (ContentRange(0, 9, 10), 4, None, False),
        (ContentRange(4, 8, 10), 4, None, False),
        (ContentRange(4, 6, 10), 4, 2, False),
        (ContentRange(4, 4, 10), 4, 2, False),
        (ContentRange(4, 6, None), 4, 2, False),
    ],
)
def test_agreement(found, offset, length, agrees):
    """A part must start where it was asked to, and end there or with the file."""
    assert (disagreement(found, offset, length) == "") == agrees


def part(content=b"456789", **headers):
    """The answer that continues a file of 10 bytes at byte 4, or one that differs by *headers*."""
    return httpx.Response(206, headers={"Content-Range": "bytes 4-9/10", "ETag": '"v1"', **headers}, content=content)


@respx.mock
async def test_a_part_that_continues(fetch):
    """A 206 that starts at the offset and keeps the version is delivered, with the size of the whole."""
    route = respx.get(URL).mock(return_value=part())
    info, content = await fetch(Request(URL, offset=4, version=STRONG))
    assert content == b"456789"
    assert (info.start, info.size, info.version, info.resumable, info.proof) == (4, 10, STRONG, True, "length")
    sent = route.calls.last.request.headers
    assert (sent["Range"], sent["If-Range"]) == ("bytes=4-", '"v1"')


@respx.mock
async def test_a_length_asks_for_both_ends(fetch):
    """Offset and length become the first and the last byte of Range."""
    route = respx.get(URL).mock(
        return_value=httpx.Response(206, headers={"Content-Range": "bytes 4-5/*"}, content=b"45")
    )
    info, content = await fetch(Request(URL, offset=4, length=2))
    assert route.calls.last.request.headers["Range"] == "bytes=4-5"
    assert (content, info.size, info.proof) == (b"45", None, "length")


@respx.mock
async def test_the_end_of_an_unknown_whole_is_unproven(fetch):
    """An open range of a file of unknown size proves nothing about the file's end."""
    respx.get(URL).mock(return_value=httpx.Response(206, headers={"Content-Range": "bytes 4-5/*"}, content=b"45"))
    info, _ = await fetch(Request(URL, offset=4))
    assert info.proof == "unproven"


@respx.mock
async def test_a_length_of_0_needs_no_body(fetch):
    """No Range says "nothing": a length of 0 asks for the head alone."""
    route = respx.head(URL).mock(return_value=httpx.Response(200, headers={"Content-Length": "10"}))
    info, content = await fetch(Request(URL, offset=4, length=0))
    assert (content, info.start, info.size) == (b"", 4, 10)
    assert "Range" not in route.calls.last.request.headers


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(206, content=b"456789"),
        httpx.Response(
            206, headers=[("Content-Range", "bytes 4-9/10"), ("Content-Range", "bytes 4-9/10")], content=b"456789"
        ),
        part(**{"Content-Range": "bytes 0-5/10"}),
        part(**{"Content-Range": "bytes 4-8/10"}),
        part(**{"Content-Range": "bytes */10"}),
        part(**{"Content-Range": "4-9/10"}),
        part(**{"Content-Range": "bytes 4-9/11"}),
        part(b"45678"),
        part(ETag='"v2"'),
        part(ETag='W/"v1"'),
        part(**{"Content-Type": "multipart/byteranges; boundary=x"}),
        part(**{"Content-Type": "Multipart/ByteRanges; boundary=x"}),
        httpx.Response(416, headers={"Content-Range": "bytes */10"}),
    ],
    ids=[
        "no range", "two ranges", "other start", "other end", "no start", "no unit", "other total", "other length",
        "other version", "weak version", "several parts", "several parts, other case", "416",
    ],
)  # fmt: skip
@respx.mock
async def test_what_does_not_continue_is_refused(answer, fetch):
    """A 206 that is not exactly what was asked for, and a 416, are RangeRefused before any byte is delivered."""
    respx.get(URL).mock(return_value=answer)
    with pytest.raises(RangeRefused):
        await fetch(Request(URL, offset=4, version=STRONG))


@respx.mock
async def test_another_date_is_another_version(fetch):
    """A version known by its date is compared by its date."""
    asked = Version(None, "Sun, 06 Nov 1994 08:49:37 GMT", 10, strong=True)
    answer = httpx.Response(
        206,
        headers={"Content-Range": "bytes 4-9/10", "Last-Modified": "Sun, 06 Nov 1994 08:49:38 GMT"},
        content=b"456789",
    )
    route = respx.get(URL).mock(return_value=answer)
    with pytest.raises(RangeRefused):
        await fetch(Request(URL, offset=4, version=asked))
    assert route.calls.last.request.headers["If-Range"] == asked.modified


@pytest.mark.parametrize(
    "version",
    [
        Version('W/"v1"', None, 10),
        Version(None, "Sun, 06 Nov 1994 08:49:37 GMT", 10),
        Version(None, None, 10, strong=True),
        None,
    ],
)
@respx.mock
async def test_no_if_range_by_what_is_weak(version, fetch):
    """If-Range is sent for strong versions only (RFC 9110, section 13.1.5)."""
    route = respx.get(URL).mock(
        return_value=httpx.Response(206, headers={"Content-Range": "bytes 4-9/10"}, content=b"456789")
    )
    await fetch(Request(URL, offset=4, version=version))
    assert "If-Range" not in route.calls.last.request.headers


@respx.mock
async def test_a_whole_answer_to_a_range(fetch):
    """A 200 to a range starts at 0, and says so."""
    respx.get(URL).mock(return_value=httpx.Response(200, content=b"0123456789"))
    info, content = await fetch(Request(URL, offset=4))
    assert (info.start, info.size, content) == (0, 10, b"0123456789")


@respx.mock
async def test_a_part_that_nobody_asked_for(fetch):
    """A 206 to a request without Range is a broken protocol."""
    respx.get(URL).mock(return_value=part())
    with pytest.raises(ProtocolError):
        await fetch(Request(URL))


@respx.mock
async def test_416_from_the_start(fetch):
    """A 416 to a range from byte 0 is an ordinary refusal."""
    respx.get(URL).mock(return_value=httpx.Response(416))
    with pytest.raises(StatusError) as caught:
        await fetch(Request(URL, length=5))
    assert caught.value.code == 416
