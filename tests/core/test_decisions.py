"""Decisions are data: what an `error` hook answers, and what the engine makes of it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from tests.mem import Ledger, MemDriver, Mirrors, Reply, context_of

from downhaul import (
    AccessDenied,
    Attempt,
    BufferWriter,
    ConnectError,
    Context,
    Download,
    DownloadError,
    FileWriter,
    NotFound,
    Plugin,
    PluginError,
    Retries,
    Retry,
    ServerError,
    SourcesExhausted,
    TooManyRequests,
    Truncated,
    hookimpl,
)

URL = "mem://home/file"
M1, M2, M3 = (f"mem://m{n}/file" for n in (1, 2, 3))
MIB = 1024 * 1024


@dataclass(frozen=True, eq=False)
class Answers(Plugin):
    """Answers every error alike, and counts."""

    retry: Retry | None
    errors: list[DownloadError]

    @hookimpl
    async def error(self, transfer, error):
        self.errors.append(error)
        return self.retry


def answers(retry: Retry | None = None) -> Answers:
    """Return a plugin that answers so."""
    return Answers(retry, [])


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    """The seconds that were slept; nobody really waits."""
    real, seconds = asyncio.sleep, []

    async def sleep(delay, *arguments):
        if delay:
            seconds.append(delay)
        await real(0, *arguments)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return seconds


@pytest.mark.parametrize("after", [-1, -0.001, float("inf"), float("nan")])
def test_a_wait_that_cannot_be_is_refused(after):
    """A Retry waits for a number of seconds from 0."""
    with pytest.raises(ValueError, match="number of seconds, from 0"):
        Retry(after=after)


async def test_a_hook_that_makes_such_a_retry_is_named():
    """The refusal reaches the author of the hook as a PluginError."""

    class Negative(Plugin):
        @hookimpl
        async def error(self, transfer, error):
            return Retry(after=-1)

    async with context_of(MemDriver(), Negative()) as context:
        with pytest.raises(PluginError, match=r"Negative\.error failed: ValueError"):
            await Download(URL, BufferWriter(), context=context).run()


async def test_without_an_answer_the_error_is_raised():
    """“No answer: raised”, the very error, with its history."""
    plugin = answers()
    async with context_of(MemDriver(), plugin) as context:
        with pytest.raises(NotFound) as caught:
            await Download(URL, BufferWriter(), context=context).run()
    assert plugin.errors == [caught.value]
    assert [repr(each.error) for each in caught.value.history] == [repr(caught.value)]
    assert caught.value.history[0].repaired_by is None


async def test_a_retry_to_a_source_without_a_try_left_is_not_made():
    """“A `Retry()` that leads to a source with no try left in this round is not made”; “the `error` hooks behind the
    one that answered are asked instead”, of the same error.
    """  # noqa: D205
    first, last, mem = answers(Retry()), answers(), MemDriver()
    async with context_of(mem, first, last) as context:
        with pytest.raises(NotFound) as caught:
            await Download(URL, BufferWriter(), context=context).run()
    assert mem.urls == [URL]
    assert first.errors == last.errors == [caught.value]
    assert len(caught.value.history) == 1


async def test_the_hook_behind_may_know_a_way_that_is_left():
    """Who insists on a source keeps nobody from moving on."""
    stubborn, mem = answers(Retry()), MemDriver()
    mem.site(M3, Reply(b"bytes"))
    async with context_of(mem, stubborn, Mirrors((M1, M2, M3))) as context:
        result = await Download(URL, BufferWriter(), context=context).run()
    assert mem.urls == [M1, M2, M3]
    assert result.attempts == 3
    assert [each.repaired_by for each in result.history] == ["Mirrors", "Mirrors"]
    assert len(stubborn.errors) == 2


async def test_a_list_with_a_source_twice_asks_it_once_a_round():
    """“In a round each source gets one try”."""
    mem = MemDriver()
    mem.site(M1, Reply(status=503))
    async with context_of(mem, Mirrors((M1, M1)), retries=1) as context:
        with pytest.raises(ServerError):
            await Download(URL, BufferWriter(), context=context).run()
    # The second M1 is not made; the hooks behind are asked, and they start the next round.
    assert mem.urls == [M1, M1]


async def test_a_source_gets_one_more_try_after_a_401():
    """“… and one more after a 401”; one more, not two."""
    stubborn, mem = answers(Retry()), MemDriver()
    mem.site(URL, Reply(token="never"))
    async with context_of(mem, stubborn) as context:
        with pytest.raises(AccessDenied):
            await Download(URL, BufferWriter(), context=context).run()
    assert mem.urls == [URL, URL]


@pytest.mark.parametrize("status", [400, 404, 416, 500, 503])
async def test_nothing_but_a_401_gives_one_more_try(status):
    """Other failures leave a source without a try in this round."""
    mem = MemDriver()
    mem.site(URL, Reply(status=status))
    async with context_of(mem, answers(Retry()), retries=0) as context:
        with pytest.raises(DownloadError):
            await Download(URL, BufferWriter(), context=context).run()
    assert mem.urls == [URL]


async def test_a_new_round_gives_new_tries():
    """Tries are counted by round, 401s too."""
    mem = MemDriver()
    mem.site(URL, Reply(token="x"), Reply(token="x"), Reply(status=503), Reply(token="x"), Reply(b"bytes"))
    seconds = iter([Retry(), Retry(after=0), Retry(after=0), Retry()])

    class Scripted(Plugin):
        @hookimpl
        async def error(self, transfer, error):
            return next(seconds)

    async with context_of(mem, Scripted()) as context:
        result = await Download(URL, BufferWriter(), context=context).run()
    assert [each.round for each in result.history] == [1, 1, 2, 3]
    assert result.attempts == 5


async def test_a_retry_keeps_the_aim():
    """“A `Retry` keeps the aim: a mirror plugin advances only in its own `error`”: a new token, the same mirror."""

    class Denied(Plugin):
        @hookimpl(tryfirst=True)
        async def error(self, transfer, error):
            first = transfer.state(self, list)
            first.append(error)
            return Retry() if isinstance(error, AccessDenied) and len(first) == 1 else None

    mem = MemDriver()
    mem.site(M1, Reply(token="x"), Reply(b"bytes"))
    async with context_of(mem, Mirrors((M1, M2)), Denied()) as context:
        result = await Download(URL, BufferWriter(), context=context).run()
    assert mem.urls == [M1, M1]
    assert [each.repaired_by for each in result.history] == ["Denied"]


class Fresh(Plugin):
    """Aims somewhere new each time, without end."""

    @hookimpl
    async def prepare(self, transfer):
        transfer.request = replace(transfer.request, url=f"mem://home/{transfer.attempt}")

    @hookimpl
    async def error(self, transfer, error):
        return Retry()


async def test_no_more_than_a_hundred_attempts():
    """“Hard cap: 100 attempts”, whatever plugins answer."""
    mem = MemDriver()
    async with context_of(mem, Fresh()) as context:
        with pytest.raises(NotFound) as caught:
            await Download(URL, BufferWriter(), context=context).run()
    assert len(mem.log) == len(caught.value.history) == 100


async def test_no_more_than_a_hundred_rounds_either():
    """The cap holds for rounds too, however many `retries` allow."""
    mem = MemDriver()
    mem.site(URL, Reply(status=503))
    async with context_of(mem, retries=1000) as context:
        with pytest.raises(ServerError):
            await Download(URL, BufferWriter(), context=context).run()
    assert len(mem.log) == 100


async def test_failing_to_prepare_is_capped_too():
    """A plugin that never prepares, and one that never gives up, come to an end."""
    attempts = []

    class Never(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            attempts.append(transfer.attempt)
            raise NotFound("no", code=404)

    async with context_of(MemDriver(), Never(), answers(Retry())) as context:
        with pytest.raises(NotFound):
            await Download(URL, BufferWriter(), context=context).run()
    assert attempts == list(range(1, 101))


@pytest.mark.parametrize(("retries", "rounds"), [(0, 1), (1, 2), (3, 4), (None, 4)])
async def test_retries_count_rounds_after_the_first(retries, rounds):
    """“`retries` counts *rounds* after the first; default 3; `0` is one round”."""
    mem = MemDriver()
    mem.site(URL, Reply(status=503))
    async with context_of(mem, retries=retries) as context:
        with pytest.raises(ServerError) as caught:
            await Download(URL, BufferWriter(), context=context).run()
    assert [each.round for each in caught.value.history] == list(range(1, rounds + 1))


async def test_in_a_round_every_source_is_asked_once():
    """Rounds times sources, no more: nothing is squared."""
    mem = MemDriver()
    for url in (M1, M2, M3):
        mem.site(url, Reply(status=503))
    async with context_of(mem, Mirrors((M1, M2, M3)), retries=2) as context:
        with pytest.raises(ServerError):
            await Download(URL, BufferWriter(), context=context).run()
    assert mem.urls == [M1, M2, M3] * 3


async def test_a_plugins_own_later_counts_as_a_round():
    """“`Retry(after=seconds)` means again, later and starts a new round”, which `retries` limit, whoever asks."""
    mem, patient = MemDriver(), answers(Retry(after=0))
    async with context_of(mem, patient, retries=2) as context:
        with pytest.raises(NotFound) as caught:
            await Download(URL, BufferWriter(), context=context).run()
    assert [each.round for each in caught.value.history] == [1, 2, 3]
    assert [each.repaired_by for each in caught.value.history] == ["Answers", "Answers", None]


def growing(*kept: int) -> MemDriver:
    """Return a server whose connection is lost after each of these numbers of bytes, and then no more."""
    mem = MemDriver()
    data = bytes(8 * MIB)
    mem.site(URL, *(Reply(data, cut=each, block=MIB // 4) for each in kept), Reply(data, block=MIB // 4))
    return mem


async def test_a_round_that_kept_a_mebibyte_more_does_not_count(tmp_path):
    """“A round that kept at least 1 MiB more than the one before does not count”."""
    mem = growing(MIB, 2 * MIB, 3 * MIB, 4 * MIB, 5 * MIB)
    async with context_of(mem, retries=1) as context:
        result = await Download(URL, FileWriter(tmp_path / "file"), context=context).run()
    assert result.attempts == 6
    assert [each.kept for each in result.history] == [n * MIB for n in range(1, 6)]
    assert [each.offset for each in mem.log] == [n * MIB for n in range(6)]


async def test_a_round_that_kept_less_counts(tmp_path):
    """One byte less than 1 MiB is a round like any other."""
    mem = growing(MIB, 2 * MIB - 1)
    async with context_of(mem, retries=1) as context:
        with pytest.raises(Truncated) as caught:
            await Download(URL, FileWriter(tmp_path / "file"), context=context).run()
    assert len(caught.value.history) == 2


async def test_with_no_retries_progress_buys_no_round(tmp_path):
    """`retries=0` is one round, however far it came: there is none before it to compare."""
    mem = growing(4 * MIB)
    async with context_of(mem, retries=0) as context:
        with pytest.raises(Truncated):
            await Download(URL, FileWriter(tmp_path / "file"), context=context).run()
    assert len(mem.log) == 1


async def test_what_is_not_transient_starts_no_round():
    """“The built-in retry plugin starts another round if any error of this one was transient”."""
    mem = MemDriver()
    async with context_of(mem, Mirrors((M1, M2))) as context:
        with pytest.raises(NotFound):
            await Download(URL, BufferWriter(), context=context).run()
    assert mem.urls == [M1, M2]


async def test_one_transient_error_of_the_round_is_enough():
    """*Any* error of the round: the 503 before the 404 counts."""
    mem = MemDriver()
    mem.site(M1, Reply(status=503), Reply(b"bytes"))
    async with context_of(mem, Mirrors((M1, M2))) as context:
        result = await Download(URL, BufferWriter(), context=context).run()
    assert mem.urls == [M1, M2, M1]
    assert result.source == M1


async def test_errors_of_earlier_rounds_do_not_count():
    """What was transient two rounds ago starts no round now."""
    mem = MemDriver()
    mem.site(URL, Reply(status=503), Reply(status=404))
    async with context_of(mem) as context:
        with pytest.raises(NotFound):
            await Download(URL, BufferWriter(), context=context).run()
    assert mem.urls == [URL, URL]


def transfer_with(place: int, *errors: DownloadError) -> Any:
    """Return what Retries looks at, of a transfer in its round *place*."""
    history = tuple(Attempt(URL, place, 0, error) for error in errors)
    return SimpleNamespace(round=place, attempt=place, history=history, state=lambda plugin, factory: factory())


async def test_back_off_is_exponential_with_full_jitter(monkeypatch):
    """“Between rounds full-jitter exponential back-off (0.5 s to 30 s)”."""
    ranges = []
    monkeypatch.setattr("random.uniform", lambda low, high: ranges.append((low, high)) or high)
    for place in range(1, 10):
        await Retries().error(transfer_with(place, ConnectError()), ConnectError())
    assert ranges == [(0, high) for high in (0.5, 1, 2, 4, 8, 16, 30, 30, 30)]


async def test_the_longest_retry_after_of_the_round_counts(slept):
    """“The longest `Retry-After` of the round counts”, up to 60 s."""
    mem = MemDriver()
    mem.site(M1, Reply(status=503, retry_after=7), Reply(b"bytes"))
    mem.site(M2, Reply(status=503, retry_after=3))
    mem.site(M3, Reply(status=503))
    async with context_of(mem, Mirrors((M1, M2, M3))) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert slept == [7]


async def test_a_retry_after_beyond_patience_fails_at_once(slept):
    """“… up to 60 s, beyond which it fails at once with the value in the error”."""
    mem = MemDriver()
    mem.site(URL, Reply(status=503, retry_after=61))
    async with context_of(mem) as context:
        with pytest.raises(ServerError) as caught:
            await Download(URL, BufferWriter(), context=context).run()
    assert caught.value.retry_after == 61
    assert slept == []
    assert len(mem.log) == 1


async def test_sixty_seconds_are_within_patience(slept):
    """60 s themselves are waited for."""
    mem = MemDriver()
    mem.site(URL, Reply(status=503, retry_after=60), Reply(b"bytes"))
    async with context_of(mem) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert slept == [60]


async def test_mirrors_are_asked_before_anybody_waits(slept):
    """A Retry-After beyond patience ends only the round: another mirror may have the file now."""
    mem = MemDriver()
    mem.site(M1, Reply(status=503, retry_after=3600))
    mem.site(M2, Reply(b"bytes"))
    async with context_of(mem, Mirrors((M1, M2))) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert slept == []


@pytest.mark.parametrize("last", [404, 503])
async def test_the_longest_retry_after_is_in_the_error_of_several_sources(last, slept):
    """“With the value in the error”: whoever gets the error learns how long the first mirror asked to wait."""
    mem = MemDriver()
    mem.site(M1, Reply(status=503, retry_after=3600))
    mem.site(M2, Reply(status=last))
    async with context_of(mem, Mirrors((M1, M2))) as context:
        with pytest.raises(DownloadError) as caught:
            await Download(URL, BufferWriter(), context=context).run()
    assert caught.value.retry_after == 3600
    assert slept == []


async def test_several_sources_that_failed_for_several_reasons():
    """A 404 after a 503 is no NotFound: "several sources failed for different reasons"."""
    mem = MemDriver()
    mem.site(M1, Reply(status=503))
    async with context_of(mem, Mirrors((M1, M2)), retries=0) as context:
        with pytest.raises(SourcesExhausted) as caught:
            await Download(URL, BufferWriter(), context=context).run()
    assert [type(error) for error in caught.value.errors] == [ServerError, NotFound]
    assert caught.value.transient
    assert M1 in str(caught.value)
    assert M2 in str(caught.value)


async def test_sources_exhausted_holds_the_last_round():
    """Its docstring: "`errors` holds one per failed attempt of the last round"."""
    mem = MemDriver()
    mem.site(M1, Reply(status=503))
    async with context_of(mem, Mirrors((M1, M2)), retries=2) as context:
        with pytest.raises(SourcesExhausted) as caught:
            await Download(URL, BufferWriter(), context=context).run()
    assert len(caught.value.history) == 6
    assert [type(error) for error in caught.value.errors] == [ServerError, NotFound]


async def test_ones_own_retries_replace_the_built_in():
    """“`Retries(...)` among the plugins replaces the built-in one”."""
    mem = MemDriver()
    mem.site(URL, Reply(status=503, retry_after=5))
    ledger = Ledger()
    async with Context(drivers={"mem": mem}, plugins=[Retries(patience=1), ledger]) as context:
        with pytest.raises(ServerError):
            await Download(URL, BufferWriter(), context=context).run()
    assert len(mem.log) == 1


async def test_more_patience_is_had_by_ones_own(slept):
    """Patience beyond the default."""
    mem = MemDriver()
    mem.site(URL, Reply(status=503, retry_after=500), Reply(b"bytes"))
    async with Context(drivers={"mem": mem}, plugins=[Retries(patience=600)]) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert slept == [500]


async def test_the_downloads_retries_win_over_the_contexts(slept):
    """The download's plugin is asked first, and what it refuses no other of its kind allows."""
    mem = MemDriver()
    mem.site(URL, Reply(status=503, retry_after=50))
    async with Context(drivers={"mem": mem}, plugins=[Retries(patience=60)]) as context:
        with pytest.raises(ServerError):
            await Download(URL, BufferWriter(), context=context, plugins=[Retries(patience=1)]).run()
    assert slept == []


@pytest.mark.parametrize("values", [{"base": -1}, {"longest": -1}, {"patience": -0.5}])
def test_retries_of_negative_seconds_are_refused(values):
    """Seconds are counted from 0."""
    with pytest.raises(ValueError, match="seconds, from 0"):
        Retries(**values)


async def test_too_many_requests_is_waited_for(slept):
    """429 is transient, and its Retry-After counts."""

    class Busy(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            if transfer.attempt == 1:
                raise TooManyRequests("slow down", code=429, retry_after=9)

    mem = MemDriver()
    mem.site(URL, Reply(b"bytes"))
    async with context_of(mem, Busy()) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert slept == [9]


async def test_the_engine_logs_what_it_follows(caplog):
    """“The engine logs, counts and caps”: who repaired what, and how."""
    caplog.set_level(logging.INFO, "downhaul.engine")
    mem = MemDriver()
    mem.site(M2, Reply(status=503), Reply(b"bytes"))
    async with context_of(mem, Mirrors((M1, M2))) as context:
        await Download("mem://elmer:secret@home/file?key=hidden", BufferWriter(), context=context).run()
    assert "Mirrors knows another way" in caplog.text
    assert "round 2 in 0.0 s" in caplog.text
    assert "secret" not in caplog.text
    assert "hidden" not in caplog.text


async def test_history_tells_each_attempt():
    """“`history` (each attempt: source, round, bytes kept, redacted error)”, to hooks too."""
    seen = []

    class Reads(Plugin):
        @hookimpl(tryfirst=True)
        async def error(self, transfer, error):
            seen.append((transfer.attempt, transfer.round, [each.source for each in transfer.history]))

    mem = MemDriver()
    mem.site(M1, Reply(bytes(1000), cut=400))
    mem.site(M2, Reply(status=503))
    async with context_of(mem, Reads(), Mirrors((M1, M2)), retries=1) as context:
        with pytest.raises(DownloadError) as caught:
            await Download(URL, BufferWriter(), context=context).run()
    assert seen == [(1, 1, [M1]), (2, 1, [M1, M2]), (3, 2, [M1, M2, M1]), (4, 2, [M1, M2, M1, M2])]
    assert [(each.source, each.round, each.kept) for each in caught.value.history][:2] == [(M1, 1, 400), (M2, 1, 400)]


async def test_error_hooks_see_the_attempt_that_failed():
    """A hook that is asked again, after a Retry that was not made, still sees where the error arose."""
    seen = []

    class Moves(Plugin):
        """Aims at the source of its turn; the second turn leads back to the first."""

        @hookimpl
        async def prepare(self, transfer):
            transfer.request = replace(transfer.request, url=(M1, M2, M1)[transfer.state(self, list).__len__()])

        @hookimpl
        async def error(self, transfer, error):
            transfer.state(self, list).append(error)
            return Retry() if len(transfer.state(self, list)) < 3 else None

    class Behind(Plugin):
        @hookimpl(trylast=True)
        async def error(self, transfer, error):
            seen.append((transfer.request.url, error.source))

    async with context_of(MemDriver(), Moves(), Behind()) as context:
        with pytest.raises(NotFound):
            await Download(URL, BufferWriter(), context=context).run()
    assert seen == [(M2, M2)]
