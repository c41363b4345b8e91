"""Resume with proof only: kept bytes are continued where it is certain, or will be judged, that they belong."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.mem import Ledger, MemDriver, Mirrors, Reply, context_of

from downhaul import (
    BufferWriter,
    DigestMismatch,
    DigestValidation,
    Download,
    DownloadError,
    Info,
    NotFound,
    Payload,
    Plugin,
    RangeRefused,
    Result,
    Retry,
    SizeValidation,
    SourcesExhausted,
    Transfer,
    Truncated,
    ValidationError,
    Version,
    hookimpl,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

URL = "mem://host/file"
A, B, C = "mem://a/file", "mem://b/file", "mem://c/file"
DATA = bytes(range(256)) * 400  # 100 KiB
OTHER = bytes(reversed(DATA))
CUT = 40_000
RIGHT = DigestValidation("sha256", hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def driver() -> MemDriver:
    """Give a driver without sites."""
    return MemDriver()


@pytest.fixture
def ledger() -> Ledger:
    """Give a plugin that notes errors and ends."""
    return Ledger()


async def run(driver: MemDriver, *plugins: object, **options: Any) -> tuple[bytes, Result]:
    """Download URL into memory; return the bytes too."""
    writer = BufferWriter()
    async with context_of(driver, *plugins) as context:
        result = await Download(URL, writer, context=context, **options).run()
    assert driver.live == 0
    return writer.content(), result


def offsets(driver: MemDriver) -> list[tuple[str, int]]:
    """Return what was asked for, as the host's letter and the offset."""
    return [(each.url.removeprefix("mem://")[0], each.offset) for each in driver.log]


# --- the same source -------------------------------------------------------------------------------------------


async def test_the_same_strong_version_is_continued(driver: MemDriver, ledger: Ledger) -> None:
    """Rule 3: the same source, the same strong version: a range, guarded by If-Range with that version."""
    driver.site(URL, Reply(DATA, cut=CUT), Reply(DATA))
    content, result = await run(driver, ledger, digests=["sha256"])
    assert content == DATA
    assert result.digests["sha256"] == RIGHT.hexdigest
    assert offsets(driver) == [("h", 0), ("h", CUT)]
    assert [each.request.version for each in driver.log] == [None, Version('"v1"', None, len(DATA), strong=True)]
    assert [each.request.length for each in driver.log] == [None, None]
    assert [type(error) for error in ledger.errors] == [Truncated]


async def test_it_is_continued_as_often_as_it_breaks(driver: MemDriver) -> None:
    """What was continued can be continued again."""
    cuts = [10_000, 10_000, 50_000, 99_999]
    driver.site(URL, *(Reply(DATA, cut=cut) for cut in cuts), Reply(DATA))
    content, result = await run(driver, retries=9)
    assert content == DATA
    assert offsets(driver) == [("h", offset) for offset in (0, *cuts)]
    assert [attempt.kept for attempt in result.history] == cuts


@pytest.mark.parametrize("fields", [{"weak": True, "tag": 'W/"v1"'}, {"tag": None}], ids=["weak", "none"])
async def test_a_weak_version_or_none_starts_from_0(driver: MemDriver, fields: dict[str, Any]) -> None:
    """Rule 3: where equal does not mean byte for byte the same, nothing is appended."""
    driver.site(URL, Reply(DATA, cut=CUT, **fields), Reply(OTHER, **fields))
    content, _ = await run(driver)
    assert content == OTHER
    assert offsets(driver) == [("h", 0), ("h", 0)]
    assert driver.log[1].request.version is None


async def test_a_changed_version_that_is_answered_whole_is_taken_from_its_start(driver: MemDriver) -> None:
    """Rule 3: a 200 to a range is taken from its start: If-Range did its work, in the same exchange."""
    driver.site(URL, Reply(DATA, cut=CUT), Reply(OTHER, tag='"v2"'))
    content, result = await run(driver, digests=["sha256"])
    assert content == OTHER
    assert result.digests["sha256"] == hashlib.sha256(OTHER).hexdigest()
    assert offsets(driver) == [("h", 0), ("h", CUT)]


async def test_a_server_that_ignores_ranges_is_taken_from_its_start(driver: MemDriver, ledger: Ledger) -> None:
    """Rule 3: so it is with one that announced ranges and then answers 200."""
    driver.site(URL, Reply(DATA, cut=CUT), Reply(DATA, ranges=False))
    content, _ = await run(driver, ledger)
    assert content == DATA
    assert offsets(driver) == [("h", 0), ("h", CUT)]
    assert len(ledger.errors) == 1


async def test_a_changed_version_under_a_206_restarts(driver: MemDriver, ledger: Ledger) -> None:
    """Rule 3: a server that ignores If-Range and sends part of another version is not believed."""
    driver.site(URL, Reply(DATA, cut=CUT), Reply(OTHER, tag='"v2"', guarded=False), Reply(OTHER, tag='"v2"'))
    content, result = await run(driver, ledger)
    assert content == OTHER
    assert offsets(driver) == [("h", 0), ("h", CUT), ("h", 0)]
    assert driver.log[2].request.version is None
    assert [type(error) for error in ledger.errors] == [Truncated], "restarted without asking `error`"
    assert result.attempts == 2, "in the same attempt"


async def test_a_changed_size_under_a_206_restarts(driver: MemDriver) -> None:
    """Rule 3: one version has one size; a part of a file of another size is none of this one."""
    looks = Counts()
    driver.site(URL, Reply(DATA, cut=CUT, tag=None), Reply(OTHER + b"!", tag=None), Reply(DATA))
    content, _ = await run(driver, looks, validations=[RIGHT])
    assert looks.validated == 1, "it was refused by its head, not by its bytes"
    assert content == DATA
    assert offsets(driver) == [("h", 0), ("h", CUT), ("h", 0)]


class Counts(Plugin):
    """Counts how often bytes came to validation."""

    def __init__(self) -> None:
        self.validated = 0

    @hookimpl
    async def validate(self, transfer: Transfer) -> None:
        self.validated += 1


@pytest.mark.parametrize("start", [1, CUT - 1, CUT + 1, len(DATA)])
async def test_a_206_that_starts_elsewhere_restarts(driver: MemDriver, ledger: Ledger, start: int) -> None:
    """Rule 3: *Restart*: nothing is appended, the same source is opened once more from 0, in the same attempt."""
    driver.site(URL, Reply(DATA, cut=CUT), Reply(DATA, start=start))
    content, result = await run(driver, ledger)
    assert content == DATA
    assert offsets(driver) == [("h", 0), ("h", CUT), ("h", 0)]
    assert (len(ledger.errors), result.attempts) == (1, 2)


async def test_a_range_that_is_refused_restarts(driver: MemDriver, ledger: Ledger) -> None:
    """Rule 3: what the driver itself refuses (a multipart answer, an unreadable Content-Range) restarts too."""
    driver.site(URL, Reply(DATA, cut=CUT), Reply(error=RangeRefused("multipart/byteranges")), Reply(DATA))
    content, _ = await run(driver, ledger)
    assert content == DATA
    assert offsets(driver) == [("h", 0), ("h", CUT), ("h", 0)]
    assert len(ledger.errors) == 1


async def test_a_restart_that_fails_goes_the_way_of_errors(driver: MemDriver, ledger: Ledger) -> None:
    """After *Restart* the attempt is over, whatever comes; the error is that of the second opening."""
    refused = Reply(error=RangeRefused("no"))
    driver.site(A, Reply(DATA, cut=CUT), refused, Reply(status=404))
    driver.site(B, data=DATA)
    content, result = await run(driver, ledger, Turns(A, A, B))
    assert content == DATA
    assert [type(error) for error in ledger.errors] == [Truncated, NotFound]
    assert [attempt.kept for attempt in result.history] == [CUT, 0], "what was refused to go on is dropped"
    assert offsets(driver) == [("a", 0), ("a", CUT), ("a", 0), ("b", 0)]


class Turns(Plugin):
    """Aims at one URL after another, and starts a round for each."""

    def __init__(self, *urls: str) -> None:
        self.urls = urls

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        transfer.request = replace(transfer.request, url=self.urls[transfer.round - 1])

    @hookimpl
    async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:
        return Retry(after=0) if transfer.round < len(self.urls) else None


async def test_a_source_that_starts_elsewhere_unasked_is_refused(driver: MemDriver) -> None:
    """A part of a file, where the whole was asked for, is never taken for it."""

    class Parts(Plugin):
        @hookimpl
        def fetch(self, transfer: Transfer) -> AbstractAsyncContextManager[Payload]:
            return self._part()

        @asynccontextmanager
        async def _part(self) -> AsyncGenerator[Payload]:
            async def body() -> AsyncGenerator[bytes]:
                yield DATA[10:]

            yield Payload(Info(URL, size=len(DATA), start=10), body())

    with pytest.raises(RangeRefused, match="answers from byte 10, asked for 0"):
        await run(driver, Parts())


# --- another source --------------------------------------------------------------------------------------------


async def test_without_a_digest_another_source_starts_from_0(driver: MemDriver) -> None:
    """Rule 3: equal tags of two servers mean nothing."""
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, data=OTHER)
    content, _ = await run(driver, Mirrors((A, B)))
    assert content == OTHER
    assert offsets(driver) == [("a", 0), ("b", 0)]


async def test_an_expected_strong_digest_permits_another_source(driver: MemDriver) -> None:
    """Rule 3: where an expected digest will judge the whole, bytes are continued from another source, unguarded."""
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, data=DATA, cut=CUT + 30_000, tag='"b"')
    driver.site(C, data=DATA, tag=None)
    content, _ = await run(driver, Mirrors((A, B, C)), validations=[RIGHT])
    assert content == DATA
    assert offsets(driver) == [("a", 0), ("b", CUT), ("c", CUT + 30_000)]
    assert [each.request.version for each in driver.log] == [None, None, None]


async def test_an_expected_strong_digest_permits_the_same_source_without_a_version(driver: MemDriver) -> None:
    """Rule 3: the digest judges the whole, so a source without versions can be continued too."""
    driver.site(URL, Reply(DATA, cut=CUT, tag=None), Reply(DATA, tag=None))
    content, _ = await run(driver, validations=[RIGHT])
    assert content == DATA
    assert offsets(driver) == [("h", 0), ("h", CUT)]


@pytest.mark.parametrize(
    "validation",
    [
        DigestValidation("md5", hashlib.md5(DATA).hexdigest()),
        DigestValidation("sha1", hashlib.sha1(DATA).hexdigest()),
        SizeValidation(len(DATA)),
        DigestValidation("sha256", RIGHT.hexdigest, enforced=False),
    ],
    ids=["md5", "sha1", "size", "not enforced"],
)
async def test_what_does_not_pin_the_bytes_permits_nothing(driver: MemDriver, validation: Any) -> None:
    """Rule 3: md5 and sha1 do not suffice, nor does a size, nor what only warns."""
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, data=DATA)
    content, _ = await run(driver, Mirrors((A, B)), validations=[validation])
    assert content == DATA
    assert offsets(driver) == [("a", 0), ("b", 0)]


async def test_a_digest_that_is_only_calculated_permits_nothing(driver: MemDriver) -> None:
    """A digest that nobody expects judges nothing."""
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, data=DATA)
    await run(driver, Mirrors((A, B)), digests=["sha256"])
    assert offsets(driver) == [("a", 0), ("b", 0)]


async def test_an_expectation_that_a_plugin_adds_counts(driver: MemDriver) -> None:
    """``transfer.require`` (a metalink's digest) is worth what the download's own validation is."""

    class Metalink(Plugin):
        @hookimpl
        async def prepare(self, transfer: Transfer) -> None:
            transfer.require(RIGHT)

    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, data=DATA)
    _, result = await run(driver, Mirrors((A, B)), Metalink())
    assert offsets(driver) == [("a", 0), ("b", CUT)]
    assert result.digests == {"sha256": RIGHT.hexdigest}


async def test_what_is_required_late_judges_from_0(driver: MemDriver) -> None:
    """A validation that is required with bytes there already has not seen them: they are dropped."""

    class Late(Plugin):
        @hookimpl
        async def prepare(self, transfer: Transfer) -> None:
            if transfer.attempt == 2:
                transfer.require(RIGHT)

    driver.site(URL, Reply(DATA, cut=CUT), Reply(DATA))
    content, _ = await run(driver, Late())
    assert content == DATA
    assert offsets(driver) == [("h", 0), ("h", 0)]


async def test_bytes_of_several_sources_that_fail_validation_start_again(driver: MemDriver, ledger: Ledger) -> None:
    """Rule 3: *Restart* also when bytes of several sources failed: the same source from 0, without `error`."""
    driver.site(A, data=OTHER, cut=CUT)
    driver.site(B, data=DATA)
    content, result = await run(driver, ledger, Mirrors((A, B)), validations=[RIGHT])
    assert content == DATA
    assert offsets(driver) == [("a", 0), ("b", CUT), ("b", 0)]
    assert ([type(error) for error in ledger.errors], result.attempts) == ([Truncated], 2)


async def test_a_corrupt_second_source_is_found_too(driver: MemDriver, ledger: Ledger) -> None:
    """Rule 3: if the source that was opened again is the corrupt one, that goes the way of errors."""
    driver.site(A, data=DATA, cut=CUT)
    driver.site(B, data=OTHER)
    driver.site(C, data=DATA)
    content, _ = await run(driver, ledger, Mirrors((A, B, C)), validations=[RIGHT])
    assert content == DATA
    assert offsets(driver) == [("a", 0), ("b", CUT), ("b", 0), ("c", 0)]
    assert [type(error) for error in ledger.errors] == [Truncated, DigestMismatch]


async def test_what_failed_after_a_restart_is_dropped_too(driver: MemDriver) -> None:
    """Wrong bytes are never continued, not even by the version that they came with."""
    driver.site(A, data=OTHER, cut=CUT)
    driver.site(B, Reply(OTHER), Reply(OTHER), Reply(DATA))
    content, result = await run(driver, Turns(A, B, B), validations=[RIGHT])
    assert content == DATA
    assert offsets(driver) == [("a", 0), ("b", CUT), ("b", 0), ("b", 0)]
    assert [attempt.kept for attempt in result.history] == [CUT, 0]


async def test_after_that_the_transfer_mixes_no_more(driver: MemDriver) -> None:
    """Rule 3: a transfer whose mixture failed once continues with versions only."""
    driver.site(A, data=OTHER, cut=CUT)
    driver.site(B, Reply(DATA), Reply(DATA, cut=CUT))
    driver.site(C, data=DATA)
    content, _ = await run(driver, Mirrors((A, B, C)), validations=[RIGHT])
    assert content == DATA
    assert offsets(driver) == [("a", 0), ("b", CUT), ("b", 0), ("c", 0)]


async def test_a_version_still_continues_after_that(driver: MemDriver) -> None:
    """What one source guards by its own strong version is no mixture."""
    driver.site(A, data=OTHER, cut=CUT)
    driver.site(B, Reply(DATA), Reply(DATA, cut=CUT), Reply(DATA))
    content, _ = await run(driver, Turns(A, B, B), validations=[RIGHT])
    assert content == DATA
    assert offsets(driver) == [("a", 0), ("b", CUT), ("b", 0), ("b", CUT)]


async def test_bytes_of_one_source_that_fail_validation_are_not_asked_for_again_at_once(
    driver: MemDriver, ledger: Ledger
) -> None:
    """What one version of one source delivered is simply wrong: that is for `error`."""
    driver.site(URL, Reply(OTHER, cut=CUT), Reply(OTHER))
    with pytest.raises(DigestMismatch):
        await run(driver, ledger, validations=[RIGHT], retries=1)
    assert offsets(driver) == [("h", 0), ("h", CUT)]
    assert [type(error) for error in ledger.errors] == [Truncated, DigestMismatch]


async def test_a_mixture_stays_one_when_it_is_continued_by_version(driver: MemDriver) -> None:
    """Bytes of A, then B, then B by its version: of several sources still, so they start again where they fail."""
    driver.site(A, data=OTHER, cut=CUT)
    driver.site(B, Reply(DATA, cut=CUT + 1000), Reply(DATA), Reply(DATA))
    content, _ = await run(driver, Turns(A, B, B), validations=[RIGHT])
    assert content == DATA
    assert offsets(driver) == [("a", 0), ("b", CUT), ("b", CUT + 1000), ("b", 0)]


async def test_a_validate_hook_that_refuses_a_mixture_starts_it_again(driver: MemDriver) -> None:
    """Whoever says it, a ValidationError of a mixture restarts."""

    class Signature(Plugin):
        @hookimpl
        async def validate(self, transfer: Transfer) -> None:
            body = transfer.body()
            assert body is not None
            with body:
                if body.read() != DATA:
                    raise ValidationError("bad signature")

    driver.site(A, data=OTHER, cut=CUT)
    driver.site(B, data=DATA)
    mixture = DigestValidation("sha256", hashlib.sha256(OTHER[:CUT] + DATA[CUT:]).hexdigest())
    driver.log.clear()
    with pytest.raises(SourcesExhausted, match="DigestMismatch"):
        await run(driver, Mirrors((A, B)), Signature(), validations=[mixture], retries=0)
    assert offsets(driver) == [("a", 0), ("b", CUT), ("b", 0)]


# --- what is never kept ----------------------------------------------------------------------------------------


async def test_what_cannot_be_resumed_is_not_kept(driver: MemDriver) -> None:
    """A payload that is not resumable leaves nothing for the next attempt, not even with a digest."""
    driver.site(A, data=DATA, cut=CUT, ranges=False)
    driver.site(B, data=DATA)
    _, result = await run(driver, Mirrors((A, B)), validations=[RIGHT])
    assert offsets(driver) == [("a", 0), ("b", 0)]
    assert result.history[0].kept == 0


async def test_what_was_transformed_is_not_kept(driver: MemDriver) -> None:
    """Decoded bytes have positions of their own: no range continues them."""

    class Upper(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer: Transfer) -> Any:
            answer = yield
            return self._open(answer)

        @asynccontextmanager
        async def _open(self, answer: AbstractAsyncContextManager[Payload]) -> AsyncGenerator[Payload]:
            async with answer as payload:

                async def body() -> AsyncGenerator[bytes]:
                    async for block in payload.body:
                        yield bytes(block).upper()

                yield payload.transformed(body())

    driver.site(URL, Reply(DATA, cut=CUT), Reply(DATA))
    content, result = await run(driver, Upper())
    assert content == DATA.upper()
    assert offsets(driver) == [("h", 0), ("h", 0)]
    assert (result.history[0].kept, result.proof, result.version) == (0, "transformed", None)


async def test_bytes_too_many_are_not_kept(driver: MemDriver) -> None:
    """Of a file of 100 bytes, 40,000 are no beginning."""

    class Understates(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer: Transfer) -> Any:
            answer = yield
            return self._open(answer) if transfer.attempt == 1 else answer

        @asynccontextmanager
        async def _open(self, answer: AbstractAsyncContextManager[Payload]) -> AsyncGenerator[Payload]:
            async with answer as payload:
                yield Payload(replace(payload.info, size=100), payload.body)

    class Again(Plugin):
        @hookimpl
        async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:
            return Retry(after=0)

    driver.site(URL, data=DATA)
    content, _ = await run(driver, Understates(), Again(), validations=[RIGHT])
    assert content == DATA
    assert offsets(driver) == [("h", 0), ("h", 0)]


async def test_a_resume_is_of_the_same_digests(driver: MemDriver) -> None:
    """Digests go on over the kept bytes: nothing is read again, nothing hashed twice."""
    driver.site(URL, *(Reply(DATA, cut=cut) for cut in (1, 17_000, 65_537)), Reply(DATA))
    _, result = await run(driver, digests=["md5", "sha512"])
    assert dict(result.digests) == {name: hashlib.new(name, DATA).hexdigest() for name in ("md5", "sha512")}


async def test_all_bytes_there_and_refused_by_nobody_are_asked_for_no_further(driver: MemDriver) -> None:
    """A connection that breaks behind the last byte still is a failure; the next attempt finds nothing missing."""
    driver.site(URL, Reply(DATA, cut=len(DATA)), Reply(DATA))
    content, result = await run(driver)
    assert content == DATA
    assert (offsets(driver), result.size) == ([("h", 0), ("h", len(DATA))], len(DATA))


@pytest.mark.parametrize("other", [b"#" + DATA[2:], b"#" + DATA], ids=["shorter", "longer"])
async def test_what_another_source_said_of_the_size_does_not_count(driver: MemDriver, other: bytes) -> None:
    """Bytes kept of a file of another size are refused by the digest alone, and the good source is read from 0."""
    driver.site(A, Reply(other, cut=CUT))
    driver.site(B, Reply(DATA, size=False))
    content, result = await run(driver, Mirrors((A, B)), validations=[RIGHT], retries=0)
    assert content == DATA
    assert offsets(driver) == [("a", 0), ("b", CUT), ("b", 0)]
    assert result.attempts == 2


async def test_a_condition_is_not_asked_of_a_continuation(driver: MemDriver) -> None:
    """If-None-Match is for the whole: a continuation asks If-Range alone."""
    driver.site(URL, Reply(DATA, cut=CUT), Reply(DATA))
    old = Version('"v0"', size=5, strong=True)
    content, _ = await run(driver, unless=old)
    assert content == DATA
    assert [each.request.unless for each in driver.log] == [old, None]


async def test_the_result_has_the_headers_of_the_whole(driver: MemDriver) -> None:
    """`Result.headers` describe the file, though the last answer was a part of it."""
    fields = (("ETag", '"v1"'), ("Content-Type", "text/plain"))
    driver.site(URL, Reply(DATA, cut=CUT, headers=fields), Reply(DATA, headers=fields))
    _, result = await run(driver)
    assert dict(result.headers) == {"Content-Length": str(len(DATA)), **dict(fields)}


async def test_the_result_has_the_version_of_what_delivered(driver: MemDriver) -> None:
    """`Result.version` can be given as `unless` next time."""
    driver.site(URL, Reply(DATA, cut=CUT), Reply(OTHER, tag='"v2"'))
    _, result = await run(driver)
    assert result.version == Version('"v2"', None, len(OTHER), strong=True)
