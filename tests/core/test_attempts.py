"""What an attempt does with an error: which are terminal, which keep the bytes, which is raised in the end."""

from __future__ import annotations

import hashlib
import logging
import pickle
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.mem import Ledger, MemDriver, Mirrors, Reply, context_of

from downhaul import (
    AccessDenied,
    BufferWriter,
    ConnectError,
    DigestMismatch,
    DigestValidation,
    Download,
    DownloadError,
    FetchError,
    FileWriter,
    Info,
    NotFound,
    Payload,
    Plugin,
    PluginError,
    PolicyError,
    PreparationError,
    ProtocolError,
    RangeRefused,
    Request,
    Result,
    Retry,
    ServerError,
    Settings,
    SizeValidation,
    SourcesExhausted,
    StatusError,
    StreamBroken,
    Timeout,
    TimeoutExceeded,
    TLSError,
    Transfer,
    Truncated,
    UnsupportedScheme,
    ValidationError,
    Version,
    WriteError,
    hookimpl,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

URL = "mem://host/file"
A, B, C = "mem://a/file", "mem://b/file", "mem://c/file"
DATA = bytes(range(256)) * 200  # 50 KiB
RIGHT = DigestValidation("sha256", hashlib.sha256(DATA).hexdigest())
WRONG = DigestValidation("sha256", "00" * 32)


@pytest.fixture
def driver() -> MemDriver:
    """Give a driver without sites."""
    return MemDriver()


@pytest.fixture
def ledger() -> Ledger:
    """Give a plugin that notes errors and ends."""
    return Ledger()


async def run(driver: MemDriver, *plugins: object, **options: Any) -> Result:
    """Download URL into memory."""
    async with context_of(driver, *plugins) as context:
        url, writer = options.pop("url", URL), options.pop("writer", None) or BufferWriter()
        return await Download(url, writer, context=context, **options).run()


class Raising(Plugin):
    """Raises in one hook, from the n-th call on."""

    def __init__(self, hook: str, error: Exception, call: int = 1) -> None:
        self.hook, self.error_to_raise, self.call = hook, error, call

    def act(self, hook: str) -> None:
        if hook == self.hook:
            self.call -= 1
            if self.call <= 0:
                raise self.error_to_raise

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        self.act("prepare")

    @hookimpl
    def fetch(self, transfer: Transfer) -> None:
        self.act("fetch")

    @hookimpl
    async def validate(self, transfer: Transfer) -> None:
        self.act("validate")

    @hookimpl
    async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:
        self.act("error")
        return None


# --- 2. which errors go which way -------------------------------------------------------------------------------


async def test_validation_and_transport_failures_take_the_same_road(driver: MemDriver, ledger: Ledger) -> None:
    """Rule 2: both are given to `error`, both may be repaired by another source."""
    driver.site(A, data=b"corrupt")
    driver.site(B, data=DATA, cut=10)
    driver.site(C, data=DATA)
    result = await run(driver, ledger, Mirrors((A, B, C)), validations=[RIGHT])
    assert [type(error) for error in ledger.errors] == [DigestMismatch, Truncated]
    assert (result.source, result.attempts) == (C, 3)


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (Truncated("reset"), 20_000),
        (ConnectError("reset"), 20_000),
        (TimeoutExceeded("a stall", "idle"), 20_000),
        (ProtocolError("a broken chunk"), 20_000),
        (ValidationError("the body says that it is wrong"), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
async def test_transport_errors_keep_the_bytes(driver: MemDriver, error: DownloadError, kept: int) -> None:
    """Rule 2: reset, stall and truncation keep the bytes for a resume; a validation failure discards them."""
    driver.site(A, data=DATA, cut=20_000, breaks=error)
    driver.site(B, data=DATA)
    result = await run(driver, Mirrors((A, B)), validations=[RIGHT])
    assert [attempt.kept for attempt in result.history] == [kept]
    assert driver.asked(B)[0].offset == kept


@pytest.mark.parametrize("status", [0, 404, 403, 401, 429, 503])
async def test_other_statuses_say_nothing_about_the_bytes(driver: MemDriver, status: int) -> None:
    """Rule 2: bytes that are kept stay through a refused connection and through any status but 416."""
    driver.site(URL, Reply(DATA, cut=20_000), Reply(status=status), Reply(DATA))
    again = Insist()
    result = await run(driver, again, retries=5)
    assert [attempt.kept for attempt in result.history] == [20_000, 20_000]
    assert [each.offset for each in driver.log] == [0, 20_000, 20_000]


class Insist(Plugin):
    """Starts another round, whatever the error."""

    @hookimpl
    async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:
        return Retry(after=0)


async def test_416_discards_the_bytes(driver: MemDriver, ledger: Ledger) -> None:
    """Rule 2: a range that cannot be satisfied says that the bytes are no beginning of the file."""
    driver.site(URL, Reply(DATA, cut=20_000), Reply(status=416), Reply(b"shorter"))
    writer = BufferWriter()
    await run(driver, ledger, writer=writer)
    assert writer.content() == b"shorter"
    assert [each.offset for each in driver.log] == [0, 20_000, 0]
    assert [type(error) for error in ledger.errors] == [Truncated]


async def test_416_where_no_range_was_asked_is_a_status(driver: MemDriver, ledger: Ledger) -> None:
    """Nothing is started again for a 416 that answers no range."""
    driver.site(URL, status=416)
    with pytest.raises(StatusError) as caught:
        await run(driver, ledger)
    assert (caught.value.code, len(driver.log)) == (416, 1)


async def test_a_plugin_error_is_terminal(driver: MemDriver, ledger: Ledger) -> None:
    """Rule 2: whatever hook fails, the download ends with a PluginError that names it, and `error` is not asked."""
    for hook in ("prepare", "fetch", "validate"):
        driver.site(URL, data=DATA)
        with pytest.raises(PluginError, match=rf"Raising\.{hook} failed: KeyError: 'oops'"):
            await run(driver, ledger, Raising(hook, KeyError("oops")), Insist())
    assert ledger.errors == []
    assert all(isinstance(outcome, PluginError) for outcome in ledger.outcomes)
    assert len(ledger.outcomes) == 3


@pytest.mark.parametrize("hook", ["prepare", "fetch", "validate"])
@pytest.mark.parametrize(
    "error",
    [WriteError("own"), PluginError("own"), StreamBroken("own")],
    ids=lambda error: type(error).__name__,
)
async def test_terminal_errors_of_a_hook_are_not_asked_about(
    driver: MemDriver, ledger: Ledger, hook: str, error: DownloadError
) -> None:
    """Rule 2: `WriteError`, `PluginError` and `StreamBroken` are terminal, whoever raises them."""
    driver.site(URL, data=DATA)
    with pytest.raises(type(error), match="own") as caught:
        await run(driver, ledger, Raising(hook, error), Insist(), attachment="mine")
    assert ledger.errors == []
    assert ledger.outcomes == [caught.value]
    assert (caught.value.url, caught.value.attachment) == (URL, "mine")
    assert [repr(attempt.error) for attempt in caught.value.history] == [repr(error)]


async def test_a_policy_error_of_the_url_itself_is_terminal(driver: MemDriver, ledger: Ledger) -> None:
    """Rule 2: what the URL itself may not do is not tried again; what a mirror may not do is."""
    driver.site(URL, location="file:///etc/passwd")
    with pytest.raises(PolicyError):
        await run(driver, ledger, Insist())
    assert (ledger.errors, len(driver.log)) == ([], 1)


async def test_a_policy_error_of_a_mirror_goes_the_way_of_errors(driver: MemDriver, ledger: Ledger) -> None:
    """Rules 2 and 9: a mirror that names ``file:``, or redirects there, is passed over."""
    driver.site(B, location="file:///etc/passwd")
    driver.site(C, data=DATA)
    writer = BufferWriter()
    await run(driver, ledger, Mirrors(("file:///etc/passwd", B, C)), writer=writer)
    assert [type(error) for error in ledger.errors] == [PolicyError, PolicyError]
    assert writer.content() == DATA


async def test_the_total_time_out_is_terminal(driver: MemDriver, ledger: Ledger) -> None:
    """Rules 2 and 5: the total limit covers the whole download, `error` is not asked, and nothing is left."""
    driver.site(URL, data=DATA, hang="body", cut=20_000)
    writer = BufferWriter()
    with pytest.raises(TimeoutExceeded) as caught:
        await run(driver, ledger, Insist(), writer=writer, timeout=Timeout(total=0.02))
    assert (caught.value.phase, caught.value.url) == ("total", URL)
    assert (ledger.errors, ledger.outcomes, driver.live) == ([], [caught.value], 0)
    with pytest.raises(ValueError, match="nothing was downloaded"):
        writer.content()


async def test_the_total_time_out_covers_waits(driver: MemDriver) -> None:
    """Rule 5: `Timeout(total=…)` covers back-off and hooks, too."""

    class Later(Plugin):
        @hookimpl
        async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:
            return Retry(after=3600)

    driver.site(URL, status=503)
    with pytest.raises(TimeoutExceeded) as caught:
        await run(driver, Later(), timeout=Timeout(total=0.02))
    assert [type(attempt.error) for attempt in caught.value.history] == [ServerError], "the history is kept"


async def test_a_time_out_of_a_hook_is_not_the_total_one(driver: MemDriver) -> None:
    """A TimeoutError that a hook lets out is its own failure."""
    driver.site(URL, data=DATA)
    with pytest.raises(PluginError, match=r"Raising\.validate failed: TimeoutError"):
        await run(driver, Raising("validate", TimeoutError("its own")), timeout=Timeout(total=60))


async def test_an_error_raised_in_error_is_terminal(driver: MemDriver, ledger: Ledger) -> None:
    """A `DownloadError` raised in `error` ends the download; so does any other exception, as a PluginError."""
    driver.site(URL, status=503)
    with pytest.raises(TLSError, match="own"):
        await run(driver, ledger, Raising("error", TLSError("own")))
    with pytest.raises(PluginError, match=r"Raising\.error failed: ZeroDivisionError"):
        await run(driver, ledger, Raising("error", ZeroDivisionError()))
    assert [type(error) for error in ledger.errors] == [ServerError, ServerError]
    assert len(ledger.outcomes) == 2


async def test_an_error_raised_in_prepare_goes_the_way_of_errors(driver: MemDriver, ledger: Ledger) -> None:
    """A `DownloadError` raised in `prepare` can be repaired by another attempt."""
    driver.site(URL, data=DATA)

    class Once(Plugin):
        @hookimpl
        async def prepare(self, transfer: Transfer) -> None:
            if transfer.attempt == 1:
                raise PreparationError("no list today")

        @hookimpl
        async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:
            return Retry()

    result = await run(driver, ledger, Once())
    assert ([type(error) for error in ledger.errors], result.attempts) == ([PreparationError], 2)


async def test_nothing_accumulates_in_the_request(driver: MemDriver) -> None:
    """Rule 1: the request is made anew from the base before each attempt."""
    driver.site(URL, Reply(status=503), Reply(status=503), Reply(DATA))

    class Adds(Plugin):
        @hookimpl
        async def prepare(self, transfer: Transfer) -> None:
            transfer.request = transfer.request.authorized([(f"X-Attempt-{transfer.attempt}", "1")])

    await run(driver, Adds())
    names = [[name for name, _ in each.request.fields()] for each in driver.log]
    assert names == [["X-Attempt-1"], ["X-Attempt-2"], ["X-Attempt-3"]]


async def test_the_engine_sets_offset_and_version_not_a_plugin(driver: MemDriver) -> None:
    """Never a plugin, always the engine sets offset and version, after `prepare`."""
    driver.site(URL, data=DATA)

    class Meddles(Plugin):
        @hookimpl
        async def prepare(self, transfer: Transfer) -> None:
            request = transfer.request
            transfer.request = Request(request.url, offset=17, length=3, version=Version('"other"', strong=True))

    writer = BufferWriter()
    await run(driver, Meddles(), writer=writer)
    assert writer.content() == DATA
    (asked,) = driver.log
    assert (asked.offset, asked.request.length, asked.request.version) == (0, None, None)


async def test_a_plugin_that_aims_at_no_url_is_told(driver: MemDriver) -> None:
    """What a plugin aims at is held against the rules before it is asked for."""
    for aim, error in (("no url", PolicyError), ("mem://h/\r\nX: y", PolicyError), ("gopher://h/f", PolicyError)):
        with pytest.raises(error):
            await run(driver, Mirrors((aim,)))
    assert driver.log == []


async def test_a_scheme_without_driver_is_told_before_anything(driver: MemDriver, ledger: Ledger) -> None:
    """UnsupportedScheme comes with the URL, `done` is called, no writer opened."""
    async with context_of(driver, ledger) as context:
        with pytest.raises(UnsupportedScheme) as caught:
            await Download("nobody://host/f", FileWriter("/nonexistent/f"), attachment=1, context=context).run()
    assert (caught.value.url, caught.value.attachment) == ("nobody://host/f", 1)
    assert (ledger.errors, ledger.outcomes) == ([], [caught.value])


# --- 5. the one error, or SourcesExhausted ----------------------------------------------------------------------


async def test_a_404_after_a_503_is_no_not_found(driver: MemDriver) -> None:
    """Several sources that failed for different reasons are SourcesExhausted: the file may well exist."""
    driver.site(A, status=503)
    driver.site(B, status=404)
    with pytest.raises(SourcesExhausted, match=rf"2 sources failed: .*{A}.*503.*{B}.*404") as caught:
        await run(driver, Mirrors((A, B)), retries=1)
    assert not isinstance(caught.value, NotFound)
    assert caught.value.transient
    assert [(type(error), error.source) for error in caught.value.errors] == [(ServerError, A), (NotFound, B)]
    assert [type(attempt.error) for attempt in caught.value.history] == [ServerError, NotFound] * 2


async def test_sources_that_agree_are_one_error(driver: MemDriver) -> None:
    """Where all sources fail for the same reason, that is the error."""
    for url in (A, B, C):
        driver.site(url, status=404)
    with pytest.raises(NotFound) as caught:
        await run(driver, Mirrors((A, B, C)))
    assert (caught.value.source, caught.value.url, len(caught.value.history)) == (C, URL, 3)


async def test_a_single_source_has_the_last_word(driver: MemDriver) -> None:
    """One source that fails in several ways is no SourcesExhausted: its last error counts."""
    driver.site(URL, Reply(status=503), Reply(DATA, cut=10), Reply(status=404))
    with pytest.raises(NotFound) as caught:
        await run(driver)
    assert [type(attempt.error) for attempt in caught.value.history] == [ServerError, Truncated, NotFound]


async def test_what_a_source_says_later_replaces_what_it_said_before(driver: MemDriver) -> None:
    """Of each source the last error counts: once all of them say 404, it is NotFound."""
    driver.site(A, Reply(status=503), Reply(status=404))
    driver.site(B, status=404)
    with pytest.raises(NotFound):
        await run(driver, Mirrors((A, B)))


async def test_a_source_that_says_404_in_one_round_and_503_in_another_is_told_with_the_rest(driver: MemDriver) -> None:
    """SourcesExhausted holds one error of each source, the last; and the longest Retry-After."""
    driver.site(A, Reply(status=404), Reply(status=503, retry_after=0.001))
    driver.site(B, status=503)
    driver.site(C, status=404)
    with pytest.raises(SourcesExhausted) as caught:
        await run(driver, Mirrors((A, B, C)), retries=1)
    assert [(type(error), error.source) for error in caught.value.errors] == [
        (ServerError, A),
        (ServerError, B),
        (NotFound, C),
    ]
    assert caught.value.retry_after == 0.001
    assert len(caught.value.history) == 6


async def test_sources_exhausted_is_transient_only_if_one_of_its_errors_is(driver: MemDriver) -> None:
    """A 404 here and a 403 there will not pass by themselves."""
    driver.site(A, status=404)
    driver.site(B, token="none")
    with pytest.raises(SourcesExhausted) as caught:
        await run(driver, Mirrors((A, B)))
    assert not caught.value.transient
    assert {type(error) for error in caught.value.errors} == {NotFound, AccessDenied}
    assert len(driver.log) == 2, "and no other round was started"


async def test_errors_carry_what_the_engine_knows(driver: MemDriver) -> None:
    """Every error has url, source, history and attachment, and survives pickling with them."""
    url = "mem://user:secret@host/file"
    driver.site(URL, Reply(status=503), Reply(status=404))
    async with context_of(driver) as context:
        with pytest.raises(NotFound) as caught:
            await Download(url, BufferWriter(), attachment={"id": 5}, context=context).run()
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert (error.url, error.source, error.attachment) == (URL, URL, {"id": 5})
        assert [(each.source, each.round, type(each.error)) for each in error.history] == [
            (URL, 1, ServerError),
            (URL, 2, NotFound),
        ]
        assert [each.repaired_by for each in error.history] == ["Retries", None]
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert "secret" not in repr(caught.value.history)


async def test_the_log_tells_who_repaired(driver: MemDriver, caplog: pytest.LogCaptureFixture) -> None:
    """The engine logs each Retry with the name of the plugin that knows a way."""
    driver.site(A, status=404)
    driver.site(B, Reply(status=503), Reply(DATA))
    with caplog.at_level(logging.INFO, "downhaul.engine"):
        await run(driver, Mirrors((A, B)))
    text = [record.getMessage() for record in caplog.records]
    assert "Mirrors knows another way" in text[0]
    assert "round 2 in 0.0 s" in text[1]


# --- 11. proof --------------------------------------------------------------------------------------------------


async def test_the_result_says_what_proved_it_complete(driver: MemDriver) -> None:
    """Rule 11: the driver's own proof first; else an expected size or digest; else "unproven"."""
    driver.site(URL, data=DATA)
    assert (await run(driver)).proof == "length"
    driver.site(URL, data=DATA, proof="SIZE")
    assert (await run(driver)).proof == "SIZE"
    driver.site(URL, data=DATA, size=False)
    assert (await run(driver)).proof == "unproven"
    assert (await run(driver, validations=[RIGHT])).proof == "digest"
    assert (await run(driver, digests={"md5": hashlib.md5(DATA).hexdigest()})).proof == "digest"
    assert (await run(driver, validations=[SizeValidation(len(DATA))])).proof == "size"
    assert (await run(driver, digests=["sha256"])).proof == "unproven", "one that is only calculated proves nothing"


async def test_require_proof_makes_it_an_error(driver: MemDriver, ledger: Ledger) -> None:
    """Rule 11: with `require_proof` what nothing proves complete is refused before its first byte."""
    driver.site(URL, data=DATA, size=False)
    with pytest.raises(ProtocolError, match="require_proof"):
        await run(driver, ledger, require_proof=True)
    assert len(ledger.errors) == 1
    assert ledger.errors[0].history[0].kept == 0
    assert (await run(driver, require_proof=True, validations=[RIGHT])).proof == "digest"


async def test_require_proof_finds_a_source_that_can_prove(driver: MemDriver) -> None:
    """Another mirror may know the length."""
    driver.site(A, data=DATA[:100], size=False)
    driver.site(B, data=DATA)
    writer = BufferWriter()
    result = await run(driver, Mirrors((A, B)), writer=writer, settings=Settings(require_proof=True))
    assert (result.source, result.proof, writer.content()) == (B, "length", DATA)


@pytest.mark.parametrize(("ranges", "kept"), [(True, 100), (False, 0)])
async def test_a_body_that_ends_early_without_a_word_is_truncated(driver: MemDriver, ranges: bool, kept: int) -> None:
    """Rule 11: fewer bytes than announced are never a success, though the body ended cleanly; kept if resumable."""
    driver.site(URL, data=DATA, ranges=ranges)
    async with context_of(driver, Shortens(), retries=0) as context:
        with pytest.raises(Truncated, match="100 of 51200 bytes") as caught:
            await Download(URL, BufferWriter(), context=context).run()
    assert [attempt.kept for attempt in caught.value.history] == [kept]


async def test_a_body_that_is_too_long_is_a_protocol_error(driver: MemDriver) -> None:
    """More bytes than announced are no file either, and none of them is kept."""
    driver.site(URL, data=DATA)
    async with context_of(driver, Lengthens(), retries=0) as context:
        with pytest.raises(ProtocolError, match="more than the 51200 bytes that it announced") as caught:
            await Download(URL, BufferWriter(), context=context).run()
    assert caught.value.history[0].kept == 0


class Reshapes(Plugin):
    """Changes the body, not what was announced of it."""

    def shape(self, data: bytes) -> bytes:
        raise NotImplementedError

    @hookimpl(wrapper=True)
    def fetch(self, transfer: Transfer) -> Any:
        answer = yield
        return self._open(answer)

    def _open(self, answer: AbstractAsyncContextManager[Payload]) -> AbstractAsyncContextManager[Payload]:
        @asynccontextmanager
        async def opened() -> AsyncGenerator[Payload]:
            async with answer as payload:

                async def body() -> AsyncGenerator[bytes]:
                    whole = b"".join([bytes(block) async for block in payload.body])
                    yield self.shape(whole)

                yield replace(payload, body=body())

        return opened()


class Shortens(Reshapes):
    def shape(self, data: bytes) -> bytes:
        return data[:100]


class Lengthens(Reshapes):
    def shape(self, data: bytes) -> bytes:
        return data + b"!"


async def test_not_modified_is_a_result_without_bytes(driver: MemDriver, ledger: Ledger, tmp_path: Path) -> None:
    """`unless`: the file that is there stays, and the result says so."""
    path = tmp_path / "f"
    path.write_bytes(b"as it was")
    driver.site(URL, data=DATA)
    known = (await run(driver)).version
    result = await run(driver, ledger, writer=FileWriter(path), unless=known, digests=["sha256"])
    assert (result.not_modified, result.size, dict(result.digests), result.proof) == (True, 0, {}, "not modified")
    assert path.read_bytes() == b"as it was"
    assert ledger.outcomes == [result]


async def test_a_version_is_for_the_source_that_named_it(driver: MemDriver) -> None:
    """Another source may use an equal tag for other bytes: it is not believed, and asked for the file."""
    driver.site(A, data=DATA)
    known = (await run(driver, Mirrors((A,)))).version
    assert known is not None
    assert known.source.startswith(f"{A} ")
    driver.site(A, status=404)
    driver.site(B, data=DATA[::-1])
    result = await run(driver, Mirrors((A, B)), unless=known)
    assert [(each.url, each.request.unless) for each in driver.log[1:]] == [(A, known), (B, known), (B, None)]
    assert (result.not_modified, result.size) == (False, len(DATA))
    assert result.version is not None
    assert result.version.source.startswith(f"{B} ")


@pytest.mark.parametrize(
    ("one", "other"), [(f"{A}?id=1", f"{A}?id=2"), (A + "x" * 600 + "1", A + "x" * 600 + "2")], ids=["query", "long"]
)
async def test_sources_that_look_alike_are_two(driver: MemDriver, one: str, other: str) -> None:
    """Two URLs that are shown alike, without their secrets and cut short, are two sources."""
    driver.site(one, data=DATA)
    driver.site(other, data=DATA[::-1])
    known = (await run(driver, url=one)).version
    assert "id=1" not in known.source
    result = await run(driver, url=other, unless=known)
    assert (result.not_modified, result.size) == (False, len(DATA))
    assert (await run(driver, url=one, unless=known)).not_modified


async def test_a_redirect_to_another_source(driver: MemDriver) -> None:
    """Where a redirect leads elsewhere than before, neither the version known nor the bytes kept are of use there."""
    driver.site(URL, Reply(location=A), Reply(location=B))
    driver.site(A, data=DATA)
    driver.site(B, data=DATA[::-1])
    known = (await run(driver)).version
    again = await run(driver, unless=known)
    assert (again.not_modified, again.source) == (False, B)


async def test_a_resume_through_a_redirect_to_another_source(driver: MemDriver) -> None:
    """Bytes of one source are not continued at another that a redirect leads to, though tag and size are equal."""
    driver.site(URL, Reply(location=A), Reply(location=B))
    driver.site(A, data=DATA, cut=len(DATA) // 2)
    driver.site(B, data=DATA[::-1])
    writer = BufferWriter()
    result = await run(driver, writer=writer)
    assert (result.source, writer.content()) == (B, DATA[::-1])


async def test_a_resume_through_a_redirect_to_the_same_source(driver: MemDriver) -> None:
    """Where only the query of the target is another one, a new signature say, the bytes kept are continued."""
    driver.site(URL, Reply(location=f"{A}?signature=1"), Reply(location=f"{A}?signature=2"))
    driver.site(f"{A}?signature=1", data=DATA, cut=len(DATA) // 2)
    driver.site(f"{A}?signature=2", data=DATA)
    writer = BufferWriter()
    await run(driver, writer=writer)
    assert writer.content() == DATA
    assert driver.log[-1].offset == len(DATA) // 2


async def test_a_version_of_nowhere_is_for_every_source(driver: MemDriver) -> None:
    """What names no source was given by somebody who knows that it holds for all."""
    driver.site(A, status=404)
    driver.site(B, data=DATA)
    result = await run(driver, Mirrors((A, B)), unless=Version('"v1"', size=len(DATA), strong=True))
    assert result.not_modified


async def test_not_modified_of_another_version_is_asked_again(driver: MemDriver) -> None:
    """A driver that finds an answer of another version refuses it; the same source is asked for the file at once."""
    driver.site(URL, Reply(error=RangeRefused("of another version")), Reply(DATA))
    result = await run(driver, retries=0, unless=Version('"v0"'))
    assert (result.not_modified, result.size, result.attempts) == (False, len(DATA), 1)
    assert [each.request.unless for each in driver.log] == [Version('"v0"'), None]


async def test_not_modified_unasked_is_a_protocol_error(driver: MemDriver) -> None:
    """A 304 to a request without a condition delivers nothing: it is no success."""

    class Claims(Plugin):
        @hookimpl
        async def prepare(self, transfer: Transfer) -> None:
            driver.site(URL, data=DATA)

        @hookimpl(tryfirst=True)
        def fetch(self, transfer: Transfer) -> AbstractAsyncContextManager[Payload]:
            async def nothing() -> AsyncGenerator[bytes]:
                return
                yield

            return nullcontext(Payload(Info(URL, not_modified=True), nothing()))

    with pytest.raises(ProtocolError, match="not modified, though nobody asked"):
        await run(driver, Claims())


# --- done -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(DATA), Result),
        (Reply(status=404), NotFound),
        (Reply(status=503), ServerError),
        (Reply(DATA, cut=7), Truncated),
        (Reply(error=RangeRefused("odd")), RangeRefused),
        (Reply(error=KeyError("a driver's own")), PluginError),
    ],
    ids=["success", "404", "503", "truncated", "range refused", "foreign exception"],
)
async def test_done_is_called_once_with_what_is_returned_or_raised(
    driver: MemDriver, ledger: Ledger, reply: Reply, expected: type
) -> None:
    """`done`: exactly once, after everything, with the very outcome."""
    driver.site(URL, reply)
    outcome: object
    try:
        outcome = await run(driver, ledger, retries=1)
    except DownloadError as error:
        outcome = error
    assert type(outcome) is expected
    assert len(ledger.outcomes) == 1
    assert ledger.outcomes[0] is outcome


async def test_done_cannot_change_the_outcome(driver: MemDriver, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in `done` is logged with the plugin's name, and the remaining hooks run."""
    driver.site(URL, data=DATA)

    class Fails(Plugin):
        @hookimpl
        def done(self, transfer: Transfer, outcome: object) -> None:
            raise KeyError("oops")

    ledger = Ledger()
    result = await run(driver, Fails(), ledger)
    assert ledger.outcomes == [result]
    assert "Fails.done failed: KeyError: 'oops'" in caplog.text


async def test_the_answer_is_left_and_its_slot_free_before_validation(driver: MemDriver) -> None:
    """No hook runs inside what a driver opened: `validate` and `error` find its slot given back."""
    driver.site(URL, Reply(DATA, cut=10), Reply(DATA))
    seen: list[tuple[str, int, int]] = []

    class Looks(Plugin):
        @hookimpl
        async def prepare(self, transfer: Transfer) -> None:
            seen.append(("prepare", driver.live, transfer.context.connections_in_use))

        @hookimpl
        async def validate(self, transfer: Transfer) -> None:
            seen.append(("validate", driver.live, transfer.context.connections_in_use))

        @hookimpl
        async def error(self, transfer: Transfer, error: DownloadError) -> None:
            seen.append(("error", driver.live, transfer.context.connections_in_use))

    await run(driver, Looks())
    assert seen == [("prepare", 0, 0), ("error", 0, 0), ("prepare", 0, 0), ("validate", 0, 0)]


async def test_the_body_is_closed_before_the_answer_is_left(driver: MemDriver) -> None:
    """The engine closes the body, and only then leaves the answer, also where it did not read to the end."""
    events: list[str] = []
    driver.site(URL, data=DATA, block=1000)

    class Watches(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer: Transfer) -> Any:
            answer = yield
            return self._open(answer)

        def _open(self, answer: AbstractAsyncContextManager[Payload]) -> AbstractAsyncContextManager[Payload]:
            @asynccontextmanager
            async def opened() -> AsyncGenerator[Payload]:
                async with answer as payload:

                    async def body() -> AsyncGenerator[Any]:
                        try:
                            async for block in payload.body:
                                yield block
                        finally:
                            events.append("closed")

                    try:
                        yield replace(payload, body=body())
                    finally:
                        events.append("left")

            return opened()

    await run(driver, Watches())
    driver.site(URL, data=DATA, size=False, proof="final chunk")
    with pytest.raises(PolicyError):
        await run(driver, Watches(), max_size=2500)
    assert events == ["closed", "left"] * 2


async def test_a_fetch_hook_that_swallows_is_named_as_such(driver: MemDriver) -> None:
    """An answer whose context manager swallows the exception does not make a success of it."""
    driver.site(URL, data=DATA, cut=100)

    class Swallows(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer: Transfer) -> Any:
            answer = yield
            return self._open(answer)

        def _open(self, answer: AbstractAsyncContextManager[Payload]) -> AbstractAsyncContextManager[Payload]:
            @asynccontextmanager
            async def opened() -> AsyncGenerator[Payload]:
                with suppress(FetchError):
                    async with answer as payload:
                        yield payload

            return opened()

    with pytest.raises(PluginError, match="swallowed an exception"):
        await run(driver, Swallows())
