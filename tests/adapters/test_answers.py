"""Answers: what becomes of a request, decided on what a scripted driver delivers, with both kinds of context."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.mem import MemDriver, Mirrors, Reply, context_of

from downhaul import (
    AccessDenied,
    BufferWriter,
    ConnectError,
    DigestValidation,
    Download,
    DownloadError,
    Headers,
    NotFound,
    Plugin,
    RangeRefused,
    ServerError,
    SizeValidation,
    SourcesExhausted,
    StatusError,
    TooManyRequests,
    ValidationError,
    Version,
    hookimpl,
)
from downhaul.adapters._answers import answering

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping

    from downhaul import Context, Transfer
    from downhaul.adapters._answers import Answer

URL = "mem://host/file"
A, B = "mem://a/file", "mem://b/file"
DATA = bytes(index * 7 % 251 for index in range(200_000))
OTHER = bytes(reversed(DATA))
LONGER = DATA + b"more"
MAY_1, MAY_2 = "Fri, 01 May 2020 12:00:00 GMT", "Sat, 02 May 2020 12:00:00 GMT"
RIGHT = DigestValidation("sha256", hashlib.sha256(DATA).hexdigest())
WRONG = DigestValidation("sha256", "0" * 64)
SIZE = SizeValidation(len(DATA))
FIELDS = (("ETag", '"v1"'), ("Last-Modified", MAY_1), ("Content-Type", "text/plain"), ("Cache-Control", "max-age=60"))
FILE = Reply(DATA, headers=FIELDS)

pytestmark = pytest.mark.parametrize("form", ["sync", "async"])


class Got:
    """What came of a request, and how many answers were open upstream when its own began."""

    def __init__(self) -> None:
        self.status = self.live = 0
        self.fields = Headers()
        self.content = b""
        self.has_stream = False
        self.error: DownloadError | None = None

    def begin(self, answer: Answer, driver: MemDriver) -> None:
        self.status, self.fields, self.content = answer.status, Headers(answer.fields), answer.content
        self.has_stream, self.live = answer.stream is not None, driver.live

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep an error that comes after the answer has begun."""
        try:
            yield
        except DownloadError as error:
            assert self.status, "what is raised before the answer is a refusal"
            self.error = error


@pytest.fixture
def driver() -> MemDriver:
    """Give a driver that has one file, with all validators."""
    driver = MemDriver()
    driver.site(URL, FILE)
    return driver


def ask(
    form: str,
    driver: MemDriver,
    method: str = "GET",
    asked: Mapping[str, str] | None = None,
    *,
    marks_end: bool = True,
    shared: tuple[object, ...] = (),
    relayed: dict[str, Any] | None = None,
    **download: Any,
) -> Got:
    """Answer one request by a download of URL, and read that answer to its end."""
    job = Download(URL, retries=0, **download)
    got = Got()

    async def work() -> None:
        with got.kept():
            async with answering(job, method, asked or {}, marks_end=marks_end, **(relayed or {})) as answer:
                got.begin(answer, driver)
                if answer.stream is not None:
                    async for block in answer.stream:
                        got.content += block
        assert driver.live == 0

    run(form, context_of(driver, *shared), job, work())
    return got


def run(form: str, context: Context, job: Download, work: Coroutine[Any, Any, None]) -> None:
    """Run *work* on a loop, with *job* in the *context*, which is bound to the same one or has its own in a thread."""

    async def bound() -> None:
        async with context:
            await work

    job.context = context
    if form == "async":
        asyncio.run(bound())
    else:
        with context:
            asyncio.run(_awaited(work))


async def _awaited(work: Coroutine[Any, Any, None]) -> None:
    await work


def asked_of(driver: MemDriver) -> list[tuple[str, int, int | None]]:
    """Return what the driver was asked for: verb, offset and length."""
    return [(each.request.verb, each.request.offset, each.request.length) for each in driver.log]


WHOLE = ("get", 0, None)
STAT = ("stat", 0, None)


# --- the whole file -------------------------------------------------------------------------------------------------


def test_the_whole_file_comes_with_its_fields(form: str, driver: MemDriver) -> None:
    """A plain GET is one request upstream, answered with the fields of the file, its size, and that ranges will do."""
    got = ask(form, driver)
    assert (got.status, got.content, got.error) == (200, DATA, None)
    assert got.fields == Headers((*FIELDS, ("Content-Length", str(len(DATA))), ("Accept-Ranges", "bytes")))
    assert asked_of(driver) == [WHOLE]


def test_head_is_a_stat(form: str, driver: MemDriver) -> None:
    """HEAD has the fields of a GET, and asks upstream for no more than them, without the writer."""
    buffer = BufferWriter()
    got = ask(form, driver, "HEAD", {"Range": "bytes=0-1"}, writer=buffer)
    assert (got.status, got.content, got.has_stream) == (200, b"", False)
    assert got.fields == ask(form, driver).fields
    assert asked_of(driver)[0] == STAT


def test_other_methods_are_refused(form: str, driver: MemDriver) -> None:
    """Only GET and HEAD are for content that comes from elsewhere; nobody is asked then (section 15.5.6)."""
    got = ask(form, driver, "POST")
    assert (got.status, got.fields["Allow"]) == (405, "GET, HEAD")
    assert driver.log == []


def test_what_the_server_says_itself_is_not_passed_on(form: str, driver: MemDriver) -> None:
    """Date and the like come from the server that sends them; and nothing that could not be said in a header field."""
    bad = (("Date", MAY_1), ("server", "upstream"), ("Accept-Ranges", "none"), ("Transfer-Encoding", "chunked"),
           ("X-Split", "a\r\nSet-Cookie: b"), ("X Name", "a"), ("X-Wide", "\u20ac"), ("", "a"))  # fmt: skip
    driver.site(URL, replace(FILE, headers=(*FIELDS, *bad)))
    assert ask(form, driver).fields == Headers((*FIELDS, ("Content-Length", "200000"), ("Accept-Ranges", "bytes")))


def test_of_an_unknown_size_nothing_is_said(form: str, driver: MemDriver) -> None:
    """Where the source does not tell the size, there is no Content-Length, and no word of ranges."""
    driver.site(URL, replace(FILE, size=False, proof="final chunk"))
    for method, content in (("GET", DATA), ("HEAD", b"")):
        got = ask(form, driver, method, {"Range": "bytes=0-1"}, require_proof=False)
        assert (got.status, got.content, got.fields) == (200, content, Headers(FIELDS))


def test_a_client_that_could_not_tell_the_end_is_refused(
    form: str, driver: MemDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """A file of unknown size is not sent where its end would look like a lost connection; HEAD has no end."""
    driver.site(URL, replace(FILE, size=False))
    got = ask(form, driver, marks_end=False, require_proof=False)
    assert (got.status, got.has_stream, got.live) == (502, False, 0)
    assert b"HTTP/1.0 cannot tell the end" in got.content
    assert len(caplog.records) == 1
    assert ask(form, driver, "HEAD", marks_end=False, require_proof=False).status == 200


def test_with_a_size_the_end_is_known(form: str, driver: MemDriver) -> None:
    """A client that could not tell the end gets a file whose length it is told."""
    assert ask(form, driver, marks_end=False).content == DATA


def test_the_importers_version_is_not_for_clients(form: str, driver: MemDriver) -> None:
    """A download that asks for nothing if nothing changed delivers the file all the same."""
    got = ask(form, driver, unless=Version('"v1"', size=len(DATA), strong=True))
    assert (got.status, got.content) == (200, DATA)


def test_the_whole_is_written_too(form: str, driver: MemDriver) -> None:
    """With a writer, what passes is kept."""
    buffer = BufferWriter()
    assert ask(form, driver, writer=buffer).content == DATA
    assert buffer.content() == DATA


def test_options_that_cannot_be_meant_are_refused(form: str, driver: MemDriver) -> None:
    """A wrong option is a fault of the program, not of the download."""
    for wrong in ({"hold_back": 0}, {"judged_parts": -1}, {"join": -1}):
        with pytest.raises(ValueError, match="is a number of bytes"):
            ask(form, driver, relayed=wrong)
    with pytest.raises(TypeError, match="hold"):
        ask(form, driver, relayed={"hold": 1})


# --- conditions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("asked", [{"If-None-Match": '"v1"'}, {"If-Modified-Since": MAY_2}])
def test_what_the_client_has_is_not_sent(form: str, driver: MemDriver, method: str, asked: dict[str, str]) -> None:
    """A 304 has the fields that section 15.4.5 lists, costs a stat, and its upstream is free before it is sent."""
    extra = (("Expires", MAY_2), ("Vary", "Accept"), ("Content-Location", "/x"), ("X-Other", "y"))
    driver.site(URL, replace(FILE, headers=(*FIELDS, *extra)))
    got = ask(form, driver, method, asked)
    assert (got.status, got.content, got.has_stream, got.live) == (304, b"", False, 0)
    assert set(got.fields) == {"ETag", "Last-Modified", "Cache-Control", "Expires", "Vary"}
    assert asked_of(driver) == [STAT]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("asked", [{"If-Match": '"v2"'}, {"If-Unmodified-Since": "Thu, 30 Apr 2020 12:00:00 GMT"}])
def test_what_the_client_does_not_want_is_not_sent(
    form: str, driver: MemDriver, method: str, asked: dict[str, str]
) -> None:
    """Where a precondition fails, it is 412, also if a range was asked for (section 13.2.2)."""
    got = ask(form, driver, method, {**asked, "Range": "bytes=0-1"})
    assert (got.status, got.has_stream, got.fields["Cache-Control"]) == (412, False, "no-store")
    assert asked_of(driver) == [STAT]


def test_conditions_that_hold_let_the_file_pass(form: str, driver: MemDriver) -> None:
    """After a stat, the whole file is asked for."""
    got = ask(form, driver, asked={"if-none-match": '"v0"', "IF-MATCH": '"v1"'})
    assert (got.status, got.content) == (200, DATA)
    assert asked_of(driver) == [STAT, WHOLE]


@pytest.mark.parametrize("asked", [{"If-Match": '"v1"'}, {"If-Match": '"v1"', "Range": "bytes=0-9"}])
def test_a_file_that_changes_meanwhile_is_judged_again(form: str, driver: MemDriver, asked: dict[str, str]) -> None:
    """What was true of the stat must be true of the bytes: else it is 412, and not the wrong version."""
    changed = replace(FILE, data=OTHER, tag='"v2"', headers=(("ETag", '"v2"'),))
    driver.site(URL, FILE, changed)
    got = ask(form, driver, asked=asked)
    assert (got.status, got.has_stream, got.live) == (412, False, 0)


def test_a_file_that_changes_into_what_the_client_has_is_not_sent(form: str, driver: MemDriver) -> None:
    """The answer with the bytes counts, whatever the stat said before."""
    driver.site(URL, replace(FILE, tag='"v0"', headers=(("ETag", '"v0"'),)), FILE)
    assert ask(form, driver, asked={"If-None-Match": '"v1"'}).status == 304


HEAD_REFUSED = [
    StatusError("400", code=400),
    AccessDenied("403", code=403),
    StatusError("405", code=405),
    ServerError("501", code=501),
    SourcesExhausted("all", (NotFound("404", code=404), StatusError("405", code=405))),
]


@pytest.mark.parametrize("error", HEAD_REFUSED, ids=str)
def test_an_origin_that_does_not_like_head_delivers_the_whole(
    form: str, driver: MemDriver, error: DownloadError
) -> None:
    """Where only the stat is refused, a range is ignored, and conditions are held against the file as it comes."""
    for method, asked, status, content in (
        ("GET", {"Range": "bytes=0-1"}, 200, DATA),
        ("GET", {"If-None-Match": '"v1"'}, 304, b""),
        ("GET", {"If-Match": '"v1"'}, 200, DATA),
        ("HEAD", {}, 200, b""),
        ("HEAD", {"If-None-Match": '"v1"'}, 304, b""),
    ):
        driver.site(URL, Reply(error=error), FILE)
        got = ask(form, driver, method, asked)
        assert (got.status, got.content, got.live) == (status, content, 1 if content else 0)
        assert "no-store" not in got.fields.get("Cache-Control", "")


def test_a_stat_that_finds_nothing_is_the_answer(form: str, driver: MemDriver) -> None:
    """Other failures of the stat are not tried again with a GET."""
    driver.site(URL, status=404)
    assert ask(form, driver, asked={"Range": "bytes=0-1"}).status == 404
    assert asked_of(driver) == [STAT]


# --- ranges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=1000-150999", range(1000, 151_000)),
        ("bytes=199000-", range(199_000, 200_000)),
        ("bytes=199999-999999999999999999999999", range(199_999, 200_000)),
        ("bytes=-1", range(199_999, 200_000)),
        ("bytes=,5-6", range(5, 7)),
    ],
)
def test_a_part_is_asked_for_as_a_part(form: str, driver: MemDriver, text: str, part: range) -> None:
    """One range is answered with 206, and no more than its bytes come from upstream (section 14.2)."""
    got = ask(form, driver, asked={"Range": text})
    assert (got.status, got.content) == (206, DATA[part.start : part.stop])
    own = (("Content-Length", str(len(part))), ("Accept-Ranges", "bytes"),
           ("Content-Range", f"bytes {part.start}-{part.stop - 1}/200000"))  # fmt: skip
    assert got.fields == Headers((*FIELDS, *own))
    assert asked_of(driver) == [STAT, ("get", part.start, len(part))]


@pytest.mark.parametrize("text", ["bytes=200000-", "bytes=-0", "bytes=300000-400000", "bytes=200000-,-0"])
def test_what_is_not_there_cannot_be_had(form: str, driver: MemDriver, text: str) -> None:
    """Where no range can be satisfied, it is 416 with the size (section 15.5.17)."""
    got = ask(form, driver, asked={"Range": text})
    assert (got.status, got.fields["Content-Range"]) == (416, "bytes */200000")
    assert asked_of(driver) == [STAT]


@pytest.mark.parametrize("text", ["bytes=0-", "bytes=-5", "bytes=0-0"])
def test_an_empty_file_has_no_part(form: str, driver: MemDriver, text: str) -> None:
    """No range of an empty file can be expressed as a Content-Range."""
    driver.site(URL, replace(FILE, data=b""))
    got = ask(form, driver, asked={"Range": text})
    assert (got.status, got.fields["Content-Range"]) == (416, "bytes */0")


@pytest.mark.parametrize("text", ["bytes=0-1,4-5", "bytes=0-1,300000-", "items=0-1", "bytes=5-4", "nonsense"])
def test_other_ranges_are_answered_with_the_whole(form: str, driver: MemDriver, text: str) -> None:
    """Several ranges, and what cannot be read, may be ignored (section 14.2)."""
    got = ask(form, driver, asked={"Range": text})
    assert (got.status, got.content, "Content-Range" in got.fields) == (200, DATA, False)


def test_what_cannot_be_read_costs_no_stat(form: str, driver: MemDriver) -> None:
    """A Range that will be ignored is ignored at once."""
    ask(form, driver, asked={"Range": "items=0-1"})
    assert asked_of(driver) == [WHOLE]


@pytest.mark.parametrize(
    ("if_range", "status"),
    [('"v1"', 206), ('"v0"', 200), ('W/"v1"', 200), (MAY_1, 206), (MAY_2, 200), ("what", 200)],
)
def test_a_part_is_sent_only_of_what_the_client_has(form: str, driver: MemDriver, if_range: str, status: int) -> None:
    """If-Range that does not hold makes it the whole, also where no range could be satisfied (section 13.1.5)."""
    got = ask(form, driver, asked={"Range": "bytes=10-19", "If-Range": if_range})
    assert (got.status, got.content) == (status, DATA if status == 200 else DATA[10:20])
    got = ask(form, driver, asked={"Range": "bytes=200000-", "If-Range": if_range})
    assert got.status == (200 if status == 200 else 416)


def test_without_a_range_if_range_means_nothing(form: str, driver: MemDriver) -> None:
    """It costs no stat either."""
    assert ask(form, driver, asked={"If-Range": '"v0"'}).status == 200
    assert asked_of(driver) == [WHOLE]


def test_a_part_tells_no_digest_of_the_whole_content(form: str, driver: MemDriver) -> None:
    """Content-Digest is of what is sent, so it is wrong for a part; Repr-Digest is of the file (RFC 9530)."""
    of_content, of_file = {"content-digest", "content-md5"}, {"repr-digest"}
    driver.site(URL, replace(FILE, headers=tuple((name, "a") for name in of_content | of_file)))
    assert {name for name in ask(form, driver).fields if "-" in name} >= of_content | of_file
    got = ask(form, driver, asked={"Range": "bytes=0-9"})
    assert set(got.fields) >= of_file
    assert not set(got.fields) & of_content


# --- parts and verdicts -----------------------------------------------------------------------------------------------


class NoZeros(Plugin):
    """Refuses files by a hook."""

    @hookimpl
    async def validate(self, transfer: Transfer) -> None:
        if transfer.digests.get("sha256", "").startswith("0"):
            raise ValidationError("zero")


def test_a_part_is_judged_with_the_whole(form: str, driver: MemDriver) -> None:
    """Where there are validations, the whole is fetched, judged and written for a part of it."""
    buffer = BufferWriter()
    got = ask(form, driver, asked={"Range": "bytes=5-9"}, validations=[RIGHT], writer=buffer)
    assert (got.status, got.content) == (206, DATA[5:10])
    assert asked_of(driver) == [STAT, WHOLE]
    assert buffer.content() == DATA


@pytest.mark.parametrize("text", ["bytes=5-9", "bytes=-9", "bytes=0-"])
def test_a_part_of_a_bad_file_is_no_answer(form: str, driver: MemDriver, text: str) -> None:
    """A small part waits for the verdict, so there is a status for it."""
    got = ask(form, driver, asked={"Range": text}, validations=[WRONG], relayed={"hold_back": 1024 * 1024})
    assert (got.status, got.has_stream) == (502, False)
    assert b"DigestMismatch" in got.content


@pytest.mark.parametrize("relayed", [{"judged_parts": 0}, {"judged_parts": len(DATA) - 1}])
def test_a_part_of_a_large_file_is_not_judged(form: str, driver: MemDriver, relayed: dict[str, int]) -> None:
    """Nobody waits for gigabytes to have a part of them; that is not written then."""
    buffer = BufferWriter()
    asked = {"Range": "bytes=5-9"}
    got = ask(form, driver, asked=asked, validations=[RIGHT], writer=buffer, relayed=relayed)
    assert (got.status, got.content) == (206, DATA[5:10])
    assert asked_of(driver) == [STAT, ("get", 5, 5)]
    with pytest.raises(ValueError, match="nothing was downloaded"):
        buffer.content()


def test_the_limit_of_judged_parts_is_included(form: str, driver: MemDriver) -> None:
    """A file of exactly that size is still judged as a whole."""
    ask(form, driver, asked={"Range": "bytes=5-9"}, validations=[RIGHT], relayed={"judged_parts": len(DATA)})
    assert asked_of(driver) == [STAT, WHOLE]


@pytest.mark.parametrize("validations", [[], [replace(WRONG, enforced=False)], [SIZE]])
def test_what_refuses_nothing_more_than_a_part_tells_needs_no_whole(
    form: str, driver: MemDriver, validations: list[Any]
) -> None:
    """Validations that are not enforced do not count, and a size is held against what a part tells of it."""
    got = ask(form, driver, asked={"Range": "bytes=5-9"}, validations=validations)
    assert (got.status, got.content) == (206, DATA[5:10])
    assert asked_of(driver) == [STAT, ("get", 5, 5)]


@pytest.mark.parametrize("given", [{"plugins": [NoZeros()]}, {"shared": (NoZeros(),)}], ids=["download", "context"])
def test_a_hook_that_validates_judges_parts_too(form: str, driver: MemDriver, given: dict[str, Any]) -> None:
    """Whoever refuses files by a plugin has the same promise as with a validation."""
    got = ask(form, driver, asked={"Range": "bytes=5-9"}, **given)
    assert (got.status, got.content) == (206, DATA[5:10])
    assert asked_of(driver) == [STAT, WHOLE]


def test_other_hooks_judge_nothing(form: str, driver: MemDriver) -> None:
    """A plugin for mirrors, say, needs no whole file for a part."""
    assert ask(form, driver, asked={"Range": "bytes=5-9"}, plugins=[Mirrors((URL,))]).status == 206
    assert asked_of(driver) == [STAT, ("get", 5, 5)]


def test_a_range_of_all_bytes_is_the_whole_file(form: str, driver: MemDriver) -> None:
    """It is judged and written as the whole, however large the file is; the client gets its 206."""
    buffer = BufferWriter()
    asked, relayed = {"Range": "bytes=0-", "If-Range": '"v1"'}, {"judged_parts": 0}
    got = ask(form, driver, asked=asked, writer=buffer, validations=[RIGHT], relayed=relayed)
    assert (got.status, got.content, got.fields["Content-Range"]) == (206, DATA, "bytes 0-199999/200000")
    assert buffer.content() == DATA


# --- files that change between the two requests -----------------------------------------------------------------------

V2 = (("ETag", '"v2"'), ("Last-Modified", MAY_2))


@pytest.mark.parametrize(
    ("change", "asked", "status", "content"),
    [
        ({"data": LONGER}, {}, 200, LONGER),
        ({"data": DATA[:100_000]}, {}, 200, DATA[:100_000]),
        ({"data": LONGER, "headers": V2}, {"If-Range": '"v1"'}, 200, LONGER),
        ({"data": OTHER, "headers": V2}, {"If-Range": '"v1"'}, 200, OTHER),
        ({"data": OTHER, "headers": V2}, {}, 206, OTHER[150_000:150_010]),
        ({"size": False, "proof": "final chunk"}, {}, 200, DATA),
    ],
    ids=["longer", "shorter", "longer, If-Range", "other, If-Range", "other", "of unknown size"],
)
def test_a_part_is_of_the_file_that_is_there_now(
    form: str, driver: MemDriver, change: dict[str, Any], asked: dict[str, str], status: int, content: bytes
) -> None:
    """Where the stat and the part are of different files, it is the whole, or a part of the newer one that says so."""
    asked = {"Range": "bytes=150000-150009", **asked}
    for judges in ((), (NoZeros(),)):
        driver.site(URL, FILE, replace(FILE, tag='"v2"', **change))
        got = ask(form, driver, asked=asked, plugins=judges, require_proof=False)
        assert (got.status, got.content, got.error) == (status, content, None)
        if status == 206:
            assert got.fields["ETag"] == '"v2"'


def test_one_stream_is_left_before_the_next_is_entered(form: str, driver: MemDriver) -> None:
    """A part that turns out to be of another file is let go before the whole is asked for."""
    driver.site(URL, FILE, replace(FILE, data=OTHER, tag='"v2"', headers=V2))
    asked = {"Range": "bytes=0-150000", "If-Range": '"v1"'}
    assert ask(form, driver, asked=asked, relayed={"hold_back": 1}).content == OTHER
    assert asked_of(driver) == [STAT, ("get", 0, 150_001), WHOLE]
    assert driver.peak == 1


def test_a_range_of_all_bytes_is_of_the_file_that_is_there_now(form: str, driver: MemDriver) -> None:
    """Where the file has changed, it is 200."""
    driver.site(URL, FILE, replace(FILE, data=LONGER, tag='"v2"', headers=V2))
    got = ask(form, driver, asked={"Range": "bytes=0-"})
    assert (got.status, got.content) == (200, LONGER)


def test_an_upstream_that_refuses_parts_delivers_the_whole(form: str, driver: MemDriver) -> None:
    """A RangeRefused is no refusal of the file."""
    driver.site(URL, FILE, Reply(error=RangeRefused("no")), Reply(error=RangeRefused("no")), FILE)
    got = ask(form, driver, asked={"Range": "bytes=10-19"})
    assert (got.status, got.content) == (200, DATA)


def test_an_upstream_without_ranges_delivers_parts_all_the_same(form: str, driver: MemDriver) -> None:
    """What comes before and after the part is left out."""
    driver.site(URL, replace(FILE, ranges=False))
    got = ask(form, driver, asked={"Range": "bytes=100010-100019"})
    assert (got.status, got.content) == (206, DATA[100_010:100_020])


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("error", "status"), [(NotFound("see http://a/b", code=404), 404), (ConnectError("10.0.0.1"), 502)]
)
def test_a_refusal_names_the_kind_of_error_and_nothing_else(
    form: str, driver: MemDriver, method: str, error: DownloadError, status: int
) -> None:
    """No URL, host or reason of upstream is told; HEAD has the same fields without the text."""
    driver.site(URL, error=error)
    got = ask(form, driver, method)
    text = f"Not delivered: {type(error).__name__}.\n".encode()
    assert (got.status, got.content, got.live) == (status, text if method == "GET" else b"", 0)
    assert got.fields == Headers([
        ("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text))),
        ("Cache-Control", "no-store"),
    ])  # fmt: skip


@pytest.mark.parametrize(("seconds", "text"), [(None, None), (0.0, "0"), (2.1, "3"), (60.0, "60")])
def test_who_asks_too_often_is_told_when_to_come_again(
    form: str, driver: MemDriver, seconds: float | None, text: str | None
) -> None:
    """Retry-After is passed on in whole seconds, not too few of them (section 10.2.3)."""
    driver.site(URL, error=TooManyRequests("429", code=429, retry_after=seconds))
    got = ask(form, driver)
    assert (got.status, got.fields.get("Retry-After")) == (503, text)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_refusals_for_faults_of_ours_are_logged_once(
    form: str, driver: MemDriver, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever runs the server sees what failed, as far as it may be shown."""
    driver.site(URL, error=ConnectError("to http://user:secret@host/?token=secret"))
    ask(form, driver, method)
    (record,) = [each for each in caplog.records if each.name == "downhaul.adapters"]
    assert record.levelno == logging.WARNING
    assert "ConnectError" in record.getMessage()
    assert "secret" not in record.getMessage()


def test_other_refusals_are_not_logged(form: str, driver: MemDriver, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is not there is no event."""
    driver.site(URL, status=404)
    for asked in ({}, {"Range": "bytes=0-1"}):
        ask(form, driver, asked=asked)
    driver.site(URL, FILE)
    ask(form, driver, asked={"Range": "bytes=200000-"})
    ask(form, driver, asked={"If-Match": '"v0"'})
    ask(form, driver, "POST")
    assert not [each for each in caplog.records if each.name == "downhaul.adapters"]


# --- streams that break -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [{}, {"Range": "bytes=10-"}, {"Range": "bytes=0-"}])
def test_a_stream_that_breaks_raises_and_is_logged_once(
    form: str, driver: MemDriver, asked: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Its adapter gets the error, to end the answer badly; what was sent is less than was announced."""
    got = ask(form, driver, asked=asked, validations=[WRONG])
    assert got.status in {200, 206}
    assert isinstance(got.error, DownloadError)
    assert 0 < len(got.content) < int(got.fields["Content-Length"])
    (record,) = [each for each in caplog.records if each.name == "downhaul.adapters"]
    assert type(got.error).__name__ in record.getMessage()


def test_a_small_file_that_is_bad_is_refused(form: str, driver: MemDriver) -> None:
    """What is held back completely is judged before the answer begins."""
    got = ask(form, driver, validations=[WRONG], relayed={"hold_back": len(DATA)})
    assert (got.status, got.error) == (502, None)


@pytest.mark.parametrize("size", [0, 100_000, 150_000])
def test_no_416_on_the_word_of_a_bad_mirror(form: str, driver: MemDriver, size: int) -> None:
    """Whoever goes on takes a 416 for the end of the file: a mirror that has less must not make it one."""
    driver.site(A, replace(FILE, data=DATA[:size]))
    driver.site(B, FILE)
    options = {"validations": [RIGHT], "plugins": [Mirrors((A, B))]}
    got = ask(form, driver, asked={"Range": "bytes=150000-"}, **options)
    assert got.error is not None or (got.status, got.content) in {(200, DATA), (206, DATA[150_000:])}, (
        "right, or broken"
    )
    got = ask(form, driver, asked={"Range": f"bytes={len(DATA)}-"}, **options)
    right = (got.status, got.content) == (200, DATA) or got.fields.get("Content-Range") == f"bytes */{len(DATA)}"
    assert got.error is not None or right or got.status == 502, "502: it broke off before"


def test_no_416_where_head_tells_no_size_but_0(form: str, driver: MemDriver) -> None:
    """A server that tells a length of 0 to a HEAD, and sends a file to a GET, gives no reason for a 416."""
    driver.site(URL, replace(FILE, data=b""), FILE)
    got = ask(form, driver, asked={"Range": "bytes=0-"})
    assert (got.status, got.content) == (200, DATA)


def test_a_416_is_proven_where_the_file_can_be_judged(form: str, driver: MemDriver) -> None:
    """With a digest, the length is that of a file that is valid; without one, it is what the source says."""
    for validations in ([RIGHT], []):
        got = ask(form, driver, asked={"Range": f"bytes={len(DATA)}-"}, validations=validations)
        assert (got.status, got.fields["Content-Range"]) == (416, f"bytes */{len(DATA)}")
    assert asked_of(driver) == [STAT, WHOLE, STAT]


def test_who_goes_on_with_wrong_bytes_is_refused(form: str, driver: MemDriver) -> None:
    """After wrong bytes went out, the rest is not given to who would put it behind them; the whole and parts are."""
    url = f"mem://host/wrong-{form}"
    driver.site(url, replace(FILE, data=OTHER), FILE)
    job = Download(url, validations=[RIGHT], retries=0)
    seen = []

    async def work() -> None:
        with contextlib.suppress(DownloadError):
            async with answering(job, "GET", {}, marks_end=True, hold_back=1000) as answer:
                async for _ in answer.stream or ():
                    pass
        rest = {"Range": "bytes=1000-"}
        for asked in (rest, {**rest, "If-Range": '"v1"'}, {"Range": "bytes=-500"}, {"Range": "bytes=5-9"}, {}):
            async with answering(job, "GET", asked, marks_end=True) as answer:
                seen.append((answer.status, b"".join([block async for block in answer.stream or nothing()])))

    run(form, context_of(driver), job, work())
    assert seen[0] == (502, b"")
    assert seen[1:] == [(200, DATA), (206, DATA[-500:]), (206, DATA[5:10]), (200, DATA)]


async def nothing() -> AsyncIterator[bytes]:
    """Yield nothing."""
    return
    yield b""


def test_who_goes_on_after_a_lost_connection_is_served(form: str, driver: MemDriver) -> None:
    """What broke off for another reason may be continued: its bytes were right."""
    url = f"mem://host/lost-{form}"
    driver.site(url, replace(FILE, cut=150_000), FILE)
    job = Download(url, retries=0)
    seen = []

    async def work() -> None:
        with contextlib.suppress(DownloadError):
            async with answering(job, "GET", {}, marks_end=True) as answer:
                async for _ in answer.stream or ():
                    pass
        async with answering(job, "GET", {"Range": "bytes=1000-"}, marks_end=True) as answer:
            seen.append((answer.status, b"".join([block async for block in answer.stream or nothing()])))

    run(form, context_of(driver), job, work())
    assert seen == [(206, DATA[1000:])]


def test_leaving_early_frees_the_upstream(form: str, driver: MemDriver) -> None:
    """An adapter whose client has gone leaves, and nothing is left open, though no block ever came."""
    driver.site(URL, replace(FILE, cut=150_000, hang="body"))
    job = Download(URL)

    async def work() -> None:
        async with answering(job, "GET", {}, marks_end=True) as answer:
            assert (answer.status, driver.live) == (200, 1)
        assert driver.live == 0

    run(form, context_of(driver), job, work())


def test_what_is_no_download_error_comes_out(form: str, driver: MemDriver) -> None:
    """A fault of the program is not told as one of the remote."""
    context = context_of(driver)
    with context:
        pass
    job = Download(URL, context=context)

    async def work() -> None:
        async with answering(job, "GET", {}, marks_end=True):
            pass

    with pytest.raises(RuntimeError):
        asyncio.run(work())


values = st.text([chr(code) for code in range(0x20, 0x7F)], max_size=30) | st.sampled_from(
    ['"v1"', 'W/"v1"', "*", MAY_1, MAY_2, "bytes=0-", "bytes=5-9", "bytes=-0", "bytes=999999-", "bytes=1-2,4-5"]
)
names = st.sampled_from(
    ["Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "range", "X-Other"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(names, values, max_size=4))
def test_whatever_is_asked_has_an_answer(form: str, asked: dict[str, str]) -> None:
    """No header field breaks it, and what comes fits its status."""
    driver = MemDriver()
    driver.site(URL, replace(FILE, data=DATA[:100]))
    got = ask(form, driver, asked=asked)
    assert got.status in {200, 206, 304, 412, 416}
    assert got.error is None
    if got.status in {200, 206}:
        assert len(got.content) == int(got.fields["Content-Length"])
    if got.status == 200:
        assert got.content == DATA[:100]
