"""Scores: what is learned of a mirror from how its downloads end, how it fades, and what is kept between runs."""

from __future__ import annotations

import json
import logging
import os
import stat
from dataclasses import fields
from math import inf, isclose, nan
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.mem import names

from downhaul import (
    AccessDenied,
    ConnectError,
    DigestMismatch,
    DownloadError,
    NameResolutionError,
    NotFound,
    PluginError,
    PolicyError,
    PreparationError,
    ProtocolError,
    ProxyError,
    RangeRefused,
    RedirectError,
    ServerError,
    SizeMismatch,
    StatusError,
    StreamBroken,
    TimeoutExceeded,
    TLSError,
    TooManyRequests,
    Truncated,
    UnsupportedScheme,
    WriteError,
    origin,
)
from downhaul.plugins._mirror import Mirror
from downhaul.plugins._mirroring.choice import Adaptive
from downhaul.plugins._mirroring.score import Score
from downhaul.plugins._mirroring.scores import Scores

if TYPE_CHECKING:
    from pathlib import Path

A, B = "https://a.test/pub/file", "https://b.test/pub/file"
NOW, HALF_LIFE = 1_800_000_000.0, 1000.0

MISSES = [
    NotFound("404", code=404), NotFound("410", code=410), NotFound("550", code=550), AccessDenied("403", code=403),
    AccessDenied("401", code=401), StatusError("400", code=400), StatusError("451", code=451), PolicyError("no"),
    UnsupportedScheme("no"), RangeRefused("another version"),
]  # fmt: skip
FAILURES = [
    ConnectError("refused"), NameResolutionError("no host"), TLSError("expired"), ProxyError("502"),
    TimeoutExceeded("slow", "connect"), TimeoutExceeded("slow", "head"), TimeoutExceeded("slow", "idle"),
    TimeoutExceeded("slow", "low speed"), Truncated("cut"), ProtocolError("what"), RedirectError("in circles"),
    ServerError("500", code=500), ServerError("502", code=502), StatusError("408", code=408),
    SizeMismatch("too long"), DigestMismatch("wrong"), DownloadError("of a third party"),
]  # fmt: skip
BUSY = [
    TooManyRequests("429", code=429), ServerError("503", code=503), StatusError("421", code=421),
    ServerError("421", code=421),
]  # fmt: skip
NOT_ITS_FAULT = [
    WriteError("disk full"), PluginError("bug"), StreamBroken("gone"), PreparationError("no token"),
    TimeoutExceeded("over", "total"),
]  # fmt: skip


def said(error: DownloadError) -> str:
    """Return a name for a case."""
    return f"{type(error).__name__}-{error}"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    """The clock of `scores`."""
    return Clock()


@pytest.fixture
def scores(clock: Clock) -> Scores:
    """Scores of which nothing is known."""
    return Scores(HALF_LIFE, clock)


def fail(scores: Scores, times: int = 1, error: DownloadError | None = None, url: str = A) -> None:
    """Let downloads fail one after another."""
    for _ in range(times):
        scores.take(url)
        scores.failed(url, error or Truncated("cut"))
        scores.leave(url)


def succeed(scores: Scores, times: int = 1, size: int = 1000, seconds: float = 1.0, url: str = A) -> None:
    """Let downloads succeed one after another."""
    for _ in range(times):
        scores.take(url)
        scores.succeeded(url, size, seconds)
        scores.leave(url)


# Whose score it is


def test_a_host_has_one_score(scores: Scores):
    """Path, query, userinfo and the default port make no difference; scheme, host and another port do."""
    succeed(scores, url="https://user:password@A.test:443/x?y=z")
    assert list(scores) == ["https://a.test"]
    assert scores.of(A).successes == 1
    for other in (B, "http://a.test/pub/file", "https://a.test:8443/pub/file", "ftp://a.test/"):
        assert scores.of(other) == Score(NOW)


@given(
    st.sampled_from(["https", "http", "ftp", "mem", "data", "HTTPS"]),
    st.text("ab/:?#@.[]%\\& 0", max_size=20),
    st.booleans(),
)
def test_the_key_is_the_origin(scheme: str, rest: str, slashes: bool):
    """The shortcut past the path finds the very origin that the whole URL has."""
    url = f"{scheme}:{'//' if slashes else ''}{rest}"
    try:
        expected = origin(url)
    except ValueError:
        expected = origin("no URL at all")
    scores = Scores()
    scores.probed(url, 1.0)
    assert list(scores) == [expected]


def test_what_is_no_url_leaves_nothing_of_itself(scores: Scores, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """It is counted, all of the kind together; what it said is neither kept nor shown, and others are loaded again."""
    for url in ("https://user:S3cr3t@[", "https://a.test:S3cr3t/"):
        scores.take(url)
        scores.failed(url, ProtocolError("what"))
        scores.leave(url)
    succeed(scores)
    scores.save(tmp_path / "mirrors.json")
    assert "S3cr3t" not in (tmp_path / "mirrors.json").read_text()
    again = Scores(HALF_LIFE, Clock())
    again.load(tmp_path / "mirrors.json")
    assert (list(again), caplog.records) == ([":", "https://a.test"], [])
    assert again.of("https://another:S3cr3t@[").failures == 2


def test_reading_leaves_no_trace(scores: Scores):
    """Whoever asks for the score of an unknown mirror gets an empty one, and none is kept."""
    score = scores.of(A)
    assert (score.speed, score.chance, score.is_aside, score.on_trial, score.has_room()) == (
        None,
        1,
        False,
        False,
        True,
    )
    assert len(scores) == 0


def test_a_thousand_origins_are_known(scores: Scores):
    """Beyond, the least recently used one is dropped; not one that is in use."""
    scores.take("mem://host0/")
    for number in range(1, 1000):
        scores.probed(f"mem://host{number}/", 1.0)
    scores.probed("mem://host1/", 2.0)
    scores.probed("mem://one-more/", 1.0)
    assert len(scores) == 1000
    assert "mem://host2" not in set(scores)
    assert {"mem://host0", "mem://host1", "mem://host3", "mem://one-more"} <= set(scores)


def test_more_than_a_thousand_in_use_are_all_known(scores: Scores):
    """What is in use is counted correctly, whatever it takes; the bound holds again when they have left."""
    urls = [f"mem://host{number}/" for number in range(1100)]
    for url in urls:
        scores.take(url)
    assert len(scores) == 1100
    assert all(scores.of(url).in_use == 1 for url in urls)
    for url in urls:
        scores.leave(url)
    scores.take("mem://one-more/")
    assert len(scores) == 1000


def test_in_use_is_counted(scores: Scores):
    """`take` and `leave` count; nobody can leave who never came."""
    scores.leave(A)
    scores.take(A)
    scores.take(A)
    assert scores.of(A).in_use == 2
    for _ in range(3):
        scores.leave(A)
    assert scores.of(A).in_use == 0


# What fades


def test_what_happened_counts_half_after_a_half_life(scores: Scores, clock: Clock):
    """Successes, failures, misses and the weight of what was measured halve; a speed is a ratio, and stays."""
    succeed(scores, 4)
    fail(scores, 2)
    fail(scores, 1, NotFound("404", code=404))
    clock.time += HALF_LIFE
    score = scores.of(A)
    assert (score.successes, score.failures, score.misses) == (2, 1, 0.5)
    assert (score.measured, score.speed) == (2, 1000)
    clock.time += HALF_LIFE
    assert scores.of(A).successes == 1


@given(st.lists(st.floats(0, 1e5), max_size=20))
def test_fading_does_not_depend_on_who_looks(steps: list[float]):
    """However often a score is read meanwhile, what is left in the end is the same."""
    clock = Clock()
    often, once = Scores(HALF_LIFE, clock), Scores(HALF_LIFE, clock)
    for scores in (often, once):
        succeed(scores, 3)
    for step in steps:
        clock.time += step
        often.of(A)
    assert isclose(often.of(A).successes, once.of(A).successes, rel_tol=1e-9, abs_tol=1e-300)


def test_a_speed_is_forgotten(scores: Scores, clock: Clock):
    """One sample is known for two half-lives and forgotten after three; four last two longer."""
    succeed(scores, 1)
    succeed(scores, 4, url=B)
    clock.time += 2 * HALF_LIFE
    assert (scores.of(A).speed, scores.of(B).speed) == (1000, 1000)
    clock.time += HALF_LIFE
    assert (scores.of(A).speed, scores.of(B).speed) == (None, 1000)
    clock.time += 2 * HALF_LIFE
    assert scores.of(B).speed is None


def test_the_last_twenty_downloads_are_what_counts(scores: Scores):
    """A mirror that was good for a thousand files and has lost all is known for it after thirty."""
    succeed(scores, 1000)
    assert scores.of(A).chance == 1
    fail(scores, 30, NotFound("404", code=404))
    assert scores.of(A).chance < 0.4


# Successes


def test_the_speed_is_that_of_the_last_downloads(scores: Scores):
    """It is bytes by seconds, so a long download tells more than a short one; ten later it has changed."""
    succeed(scores, 1, size=1000, seconds=1)
    succeed(scores, 1, size=9000, seconds=3)
    assert scores.of(A).speed == 2500
    succeed(scores, 10, size=100_000, seconds=1)
    assert 80_000 < scores.of(A).speed <= 100_000


def test_no_time_at_all_is_a_time(scores: Scores):
    """An empty file, in no time, is a success with a speed."""
    succeed(scores, 1, size=0, seconds=0)
    assert (scores.of(A).successes, scores.of(A).speed) == (1, 0)


def test_a_probe_tells_the_latency(scores: Scores):
    """It stays for the next one to change; it is no download."""
    scores.probed(A, 0.25)
    score = scores.of(A)
    assert (score.latency, score.successes, score.speed, score.chance) == (0.25, 0, None, 1)


# Misses


@pytest.mark.parametrize("error", MISSES, ids=said)
def test_a_mirror_without_the_file_has_not_failed(scores: Scores, error: DownloadError):
    """However often it has not got a file, it is not set aside; but it is ever less likely to have the next one."""
    chances = [scores.of(A).chance]
    for _ in range(10):
        fail(scores, 1, error)
        chances.append(scores.of(A).chance)
    score = scores.of(A)
    assert (score.failures, score.misses, score.in_a_row, score.aside_until) == (0, 10, 0, 0)
    assert chances == sorted(chances, reverse=True)
    assert chances[-1] < 0.2


def test_one_miss_costs_a_good_mirror_next_to_nothing(scores: Scores):
    """Of a mirror that has delivered twenty files it takes a twentieth of the chance; of an unknown one a third."""
    succeed(scores, 20)
    fail(scores, 1, NotFound("404", code=404))
    assert scores.of(A).chance > 0.95
    fail(scores, 1, NotFound("404", code=404), url=B)
    assert scores.of(B).chance > 0.6


# Failures


@pytest.mark.parametrize("error", FAILURES, ids=said)
def test_three_failures_in_a_row_set_a_mirror_aside(scores: Scores, clock: Clock, error: DownloadError):
    """For 60 s, and not for two: then it is on trial."""
    fail(scores, 2, error)
    assert not scores.of(A).is_aside
    fail(scores, 1, error)
    assert scores.of(A).is_aside
    assert (scores.of(A).aside_until, scores.of(A).failures) == (NOW + 60, 3)
    clock.time += 59
    assert scores.of(A).is_aside
    clock.time += 1
    assert not scores.of(A).is_aside
    assert scores.of(A).on_trial


@pytest.mark.parametrize("error", NOT_ITS_FAULT, ids=said)
def test_what_is_not_its_fault_is_not_counted(scores: Scores, error: DownloadError):
    """A full disk, a broken plugin or a deadline of ours tells nothing of the mirror."""
    fail(scores, 5, error)
    assert scores.of(A) == Score(NOW)


@pytest.mark.parametrize("between", ["success", "miss"])
def test_an_answer_begins_a_new_row(scores: Scores, between: str):
    """Two failures, an answer and two failures are no three in a row; a 404 is an answer."""
    for _ in range(5):
        fail(scores, 2)
        if between == "success":
            succeed(scores)
        else:
            fail(scores, 1, NotFound("404", code=404))
    assert scores.of(A).aside_until == 0
    assert scores.of(A).failures > 5  # which are not forgotten


def test_each_further_time_is_twice_as_long(scores: Scores, clock: Clock):
    """60 s, 120 s, up to an hour; one failed trial is enough."""
    fail(scores, 2)
    for seconds in (60, 120, 240, 480, 960, 1920, 3600, 3600, 3600):
        fail(scores)
        assert scores.of(A).aside_until - clock.time == seconds
        clock.time = scores.of(A).aside_until


def test_failures_of_one_outage_count_once(scores: Scores):
    """Twenty downloads that were under way when the mirror broke down set it aside for 60 s, not for an hour."""
    for _ in range(20):
        scores.take(A)
    for _ in range(20):
        scores.failed(A, Truncated("cut"))
        scores.leave(A)
    assert scores.of(A).aside_until == NOW + 60


def test_one_download_at_a_time_is_a_trial(scores: Scores, clock: Clock):
    """When its time is over there is room for one; when that succeeds, for all, and the next time is 60 s again."""
    fail(scores, 3)
    clock.time += 60
    assert scores.of(A).has_room()
    scores.take(A)
    assert not scores.of(A).has_room()
    scores.succeeded(A, 1000, 1.0)
    assert scores.of(A).has_room()
    assert not scores.of(A).on_trial
    fail(scores, 3)
    assert scores.of(A).aside_until == clock.time + 60


def test_one_failed_trial_is_enough(scores: Scores, clock: Clock):
    """Also of a mirror that had asked to be left in peace, and never failed before."""
    fail(scores, 1, ServerError("503", code=503, retry_after=200.0))
    succeed(scores)
    fail(scores, 1, ServerError("503", code=503, retry_after=200.0))
    clock.time += 200
    assert scores.of(A).on_trial
    fail(scores)
    assert scores.of(A).aside_until == clock.time + 60


def test_what_had_begun_before_is_no_trial(scores: Scores, clock: Clock):
    """A success ends the time aside if it began in it, not if it began before the last failure."""
    clock.time += 100
    fail(scores, 3)
    clock.time += 10
    succeed(scores, seconds=11)
    assert scores.of(A).is_aside
    succeed(scores, seconds=9)
    assert not scores.of(A).is_aside
    assert not scores.of(A).on_trial


def test_an_outage_that_is_over_is_forgiven(scores: Scores, clock: Clock):
    """A mirror that was down for an hour, and is up again, is as likely as before; a flaky one is not."""
    succeed(scores, 10)
    before = scores.of(A).chance
    fail(scores, 3)
    for _ in range(4):
        clock.time = scores.of(A).aside_until
        fail(scores)
    assert scores.of(A).chance < 0.7 < before
    clock.time = scores.of(A).aside_until
    succeed(scores)
    assert scores.of(A).chance == before == 1
    fail(scores, 2)
    succeed(scores)
    assert scores.of(A).chance < 0.8


def test_time_that_was_lost_makes_a_mirror_slow(scores: Scores):
    """The seconds of a failure count, and so do bytes that can be gone on from; those of a wrong file do not."""
    succeed(scores, 2, size=1000, seconds=1)
    fail(scores, 1)
    assert scores.of(A).speed == 1000
    scores.failed(A, TimeoutExceeded("slow", "low speed"), 400, 8.0)
    assert scores.of(A).speed == 240
    succeed(scores, 2, size=1000, seconds=1, url=B)
    scores.failed(B, DigestMismatch("wrong"), 4000, 2.0)
    assert scores.of(B).speed == 500


def test_after_trouble_the_speed_is_measured_anew(scores: Scores):
    """The first success after a failure tells the speed, however slow the mirror was in between."""
    succeed(scores, 4, size=1000)
    scores.failed(A, TimeoutExceeded("slow", "low speed"), 10, 1000.0)
    assert scores.of(A).speed < 10
    succeed(scores, 1, size=3000)
    assert scores.of(A).speed == 3000


def test_a_failure_alone_tells_no_speed(scores: Scores):
    """A mirror that never delivered has none."""
    fail(scores, 1)
    scores.failed(A, TimeoutExceeded("slow", "low speed"), 1000, 10.0)
    assert scores.of(A).speed is None


# Busy mirrors


@pytest.mark.parametrize("error", BUSY, ids=said)
def test_a_busy_mirror_gets_fewer_connections(scores: Scores, error: DownloadError):
    """Ten come, eight are refused: two is what it bears, no failure is counted, and it is not set aside."""
    for _ in range(10):
        scores.take(A)
    for _ in range(8):
        assert scores.of(A).has_room(connections=None) is (scores.of(A).limit is None)
        scores.failed(A, error)
        scores.leave(A)
    score = scores.of(A)
    assert (score.limit, score.in_use, score.failures, score.aside_until) == (2, 2, 0, 0)
    assert not score.has_room()
    scores.leave(A)
    assert scores.of(A).has_room()


@pytest.mark.parametrize("error", BUSY, ids=said)
def test_a_mirror_that_is_too_busy_for_one_has_failed(scores: Scores, error: DownloadError):
    """There can be no fewer."""
    fail(scores, 3, error)
    score = scores.of(A)
    assert (score.failures, score.limit, score.is_aside) == (3, None, True)


def test_who_is_refused_while_others_are_served_has_met_a_busy_mirror(scores: Scores, clock: Clock):
    """Also where they have left when the refusal comes: what counts is that they were there at the same time."""
    scores.take(A)
    scores.take(A)
    clock.time += 2
    scores.succeeded(A, 1000, 2.0)
    scores.leave(A)
    clock.time += 1
    scores.failed(A, BUSY[0], 0, 2.0)
    assert (scores.of(A).limit, scores.of(A).failures) == (1, 0)
    clock.time += 2
    scores.failed(A, BUSY[0], 0, 2.0)
    assert scores.of(A).failures == 1


def test_a_refused_connection_is_busy_where_others_were_served(scores: Scores):
    """At a host that has delivered it lowers the limit; at one that never has it is a failure, whoever is there."""
    succeed(scores, url=A)
    for url in (A, B):
        for _ in range(3):
            scores.take(url)
        scores.failed(url, ConnectError("refused"))
    assert (scores.of(A).limit, scores.of(A).failures) == (2, 0)
    assert (scores.of(B).limit, scores.of(B).failures) == (None, 1)


def test_a_limit_grows_by_what_is_borne(scores: Scores):
    """After 16 successes with as many there as should be, one more may come; with fewer there it stays."""
    for _ in range(3):
        scores.take(A)
    scores.failed(A, BUSY[0])
    scores.leave(A)
    succeed_at = []
    for number in range(40):
        scores.succeeded(A, 1000, 1.0)
        if scores.of(A).has_room():
            succeed_at.append(number)
            scores.take(A)
    assert succeed_at == [15, 31]
    assert scores.of(A).limit == 4
    scores.leave(A)
    for _ in range(40):
        scores.succeeded(A, 1000, 1.0)
    assert scores.of(A).limit == 4


def test_a_limit_does_not_rise_by_a_refusal(scores: Scores):
    """Where more came than should, those that are refused beyond the limit leave it as it is."""
    for _ in range(3):
        scores.take(A)
    scores.failed(A, BUSY[0])
    for _ in range(10):
        scores.take(A)
    scores.failed(A, BUSY[0])
    assert scores.of(A).limit == 2


@pytest.mark.parametrize("in_use", [1, 5])
def test_who_asks_to_be_left_in_peace_is(scores: Scores, clock: Clock, in_use: int):
    """A Retry-After sets a mirror aside until then, however many are there; those that were there do not end it."""
    for _ in range(in_use):
        scores.take(A)
    clock.time += 10
    scores.failed(A, ServerError("503", code=503, retry_after=200.0))
    assert scores.of(A).aside_until == clock.time + 200
    scores.succeeded(A, 1000, 5.0)
    assert scores.of(A).is_aside
    clock.time += 200
    assert scores.of(A).on_trial


def test_nobody_is_left_in_peace_for_longer_than_an_hour(scores: Scores):
    """A Retry-After of a week counts as one of an hour, one of 0 s as none; that of a 404 tells nothing of others."""
    fail(scores, 1, TooManyRequests("429", code=429, retry_after=0.0))
    assert not scores.of(A).is_aside
    fail(scores, 1, NotFound("404", code=404, retry_after=30.0))
    assert not scores.of(A).is_aside
    fail(scores, 1, TooManyRequests("429", code=429, retry_after=604_800.0))
    assert scores.of(A).aside_until == NOW + 3600


@pytest.mark.parametrize("connections", [1, 2, 3])
def test_the_mirror_s_own_limit_counts_as_well(scores: Scores, connections: int):
    """There is room where both limits leave it."""
    for taken in range(4):
        assert scores.of(A).has_room(connections) is (taken < connections)
        scores.take(A)


# Clocks


def test_a_clock_that_is_put_back_stops_nothing(scores: Scores, clock: Clock):
    """After a jump of a year back a mirror is set aside for no longer than before, and fading goes on."""
    succeed(scores, 2)
    fail(scores, 3)
    clock.time -= 365 * 86_400
    assert scores.of(A).is_aside
    clock.time += 60
    assert not scores.of(A).is_aside
    clock.time += HALF_LIFE - 60
    assert isclose(scores.of(A).successes, 1)


@given(st.lists(st.floats(-1e10, 1e10), max_size=20))
def test_time_goes_forward(jumps: list[float]):
    """However a clock jumps, time never goes back, and a second later it is a second later."""
    clock = Clock()
    scores = Scores(HALF_LIFE, clock)
    last = scores.now()
    for jump in jumps:
        clock.time += jump
        assert scores.now() >= last
        last = scores.now()
        clock.time += 1
        assert isclose(scores.now(), last + 1)


# From one run to the next

URLS = [f"https://host{number}.test/" for number in range(5)]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(URLS),
        st.sampled_from(["take", "leave", "succeeded", "probed", *MISSES, *FAILURES, *BUSY, *NOT_ITS_FAULT]),
        st.integers(0, 10**12),
        st.floats(0, 1e5),
    ),
    max_size=60,
)


def play(scores: Scores, clock: Clock, events: list[tuple[str, str | DownloadError, int, float]]) -> None:
    """Let all of *events* happen, some time apart."""
    for url, what, size, seconds in events:
        clock.time += seconds / 10
        if what == "take":
            scores.take(url)
        elif what == "leave":
            scores.leave(url)
        elif what == "succeeded":
            scores.succeeded(url, size, seconds)
        elif what == "probed":
            scores.probed(url, seconds)
        else:
            scores.failed(url, what, size, seconds)


@given(EVENTS)
def test_what_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, events):
    """All but limits and downloads at work is the same for the next run, to the last bit."""
    path = tmp_path_factory.mktemp("scores") / "mirrors.json"
    clock = Clock()
    before, after = Scores(HALF_LIFE, clock), Scores(HALF_LIFE, clock)
    play(before, clock, events)
    before.save(path)
    after.load(path)
    assert list(after) == list(before)
    for url in before:
        expected, score = before.of(url), after.of(url)
        expected.served_at, expected.in_use, expected.limit, expected._borne = 0.0, 0, None, 0
        assert score == expected


def test_the_file_is_private_and_whole(scores: Scores, tmp_path: Path):
    """It has mode 0600, takes the place of the one before at one stroke, and nothing else is left."""
    path = tmp_path / "mirrors.json"
    succeed(scores)
    scores.save(path)
    first = path.stat()
    assert stat.S_IMODE(first.st_mode) == 0o600
    with path.open("rb") as old:
        content = old.read()
        succeed(scores, url=B)
        scores.save(path)
        old.seek(0)
        assert old.read() == content  # nobody who reads meanwhile sees half of each
    assert path.stat().st_ino != first.st_ino
    assert names(tmp_path) == ["mirrors.json"]
    assert list(json.loads(path.read_text())["mirrors"]) == ["https://a.test", "https://b.test"]


def test_the_file_holds_no_secrets(scores: Scores, tmp_path: Path):
    """Of a URL it has the origin: no userinfo, no path and no query."""
    url = "https://S3cr3t:S3cr3t@a.test/S3cr3t?token=S3cr3t#S3cr3t"
    succeed(scores, url=url)
    fail(scores, 1, StatusError("S3cr3t", code=500, reason="S3cr3t"), url=url)
    scores.save(tmp_path / "mirrors.json")
    assert "S3cr3t" not in (tmp_path / "mirrors.json").read_text()
    assert "S3cr3t" not in repr(scores)
    assert "S3cr3t" not in repr(scores.of(url))


def test_a_file_that_is_not_there_is_no_trouble(scores: Scores, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The first run begins with nothing, and says nothing."""
    scores.load(tmp_path / "mirrors.json")
    assert len(scores) == 0
    assert not caplog.records


def entry(**facts: object) -> dict[str, object]:
    """Return a state with one mirror that has these facts."""
    return {"version": 1, "mirrors": {"https://a.test": facts}}


DEEP = b"[" * 100_000
FOREIGN: dict[str, bytes] = {
    "empty": b"", "cut": b'{"version": 1, "mirr', "binary": b"\xff\xfe\x00\x80", "deep": DEEP,
    "too large": b'{"version": 1, "mirrors": {}}' + b" " * 5_000_000, "digits": b"1" * 10_000,
    **{name: json.dumps(state).encode() for name, state in {
        "a list": [], "null": None, "no version": {"mirrors": {}}, "a later version": {"version": 2, "mirrors": {}},
        "no mirrors": {"version": 1}, "a list of mirrors": {"version": 1, "mirrors": []},
        "no facts": {"version": 1, "mirrors": {"https://a.test": 3}},
        "a path": {"version": 1, "mirrors": {"https://a.test/path": {}}},
        "userinfo": {"version": 1, "mirrors": {"https://S3cr3t@a.test": {}}},
        "a port": {"version": 1, "mirrors": {"https://a.test:S3cr3t": {}}},
        "another fact": entry(in_use=3), "private": entry(_borne=3), "text": entry(successes="S3cr3t"),
        "true": entry(successes=True), "nothing": entry(successes=None), "below zero": entry(failures=-1),
        "not a number": entry(volume=nan), "infinity": entry(seconds=inf), "huge": entry(in_a_row=10**400),
    }.items()},
}  # fmt: skip


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_is_not_ours_is_left_out(
    scores: Scores, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
):
    """One warning, which says where it is and nothing of what it holds; and no score."""
    path = tmp_path / "mirrors.json"
    path.write_bytes(content)
    scores.load(path)
    assert len(scores) == 0
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("downhaul.mirrors", logging.WARNING)
    assert str(path) in record.getMessage()
    assert "S3cr3t" not in record.getMessage()


def test_a_place_that_cannot_be_read_is_left_out(scores: Scores, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A directory, say."""
    scores.load(tmp_path)
    assert len(scores) == 0
    assert len(caplog.records) == 1


NUMBERS = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3))
JSON = st.recursive(NUMBERS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner), max_leaves=20)
NAMES = [each.name for each in fields(Score)]
KEPT = [name for name in NAMES if name not in ("served_at", "in_use", "limit", "_borne")]
FACTS = st.dictionaries(st.sampled_from(NAMES), NUMBERS)
GOOD_FACTS = st.dictionaries(st.sampled_from(KEPT), st.one_of(st.integers(0, 10**18), st.floats(0, 1e18)))
STATES = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "mirrors": st.dictionaries(st.sampled_from([*URLS, *map(origin, URLS)]), st.one_of(FACTS, GOOD_FACTS)),
    }
)


@given(
    st.one_of(
        st.binary(),
        JSON.map(lambda value: json.dumps(value).encode()),
        STATES.map(lambda value: json.dumps(value).encode()),
    )
)
def test_no_file_does_harm(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    """Whatever bytes and whatever JSON are there: they are loaded or left out, and downloads go on to be counted."""
    path = tmp_path_factory.mktemp("scores") / "mirrors.json"
    path.write_bytes(content)
    clock = Clock()
    scores = Scores(HALF_LIFE, clock)
    scores.load(path)
    for url in URLS:
        score = scores.of(url)
        assert score.speed is None or 0 <= score.speed < inf
        assert 0 <= score.chance <= 1
        assert score.aside_until <= NOW + 3600
    mirrors = [Mirror(url) for url in URLS]
    assert sorted(Adaptive().order(mirrors, scores), key=mirrors.index) == mirrors
    for url in URLS:
        fail(scores, 3, url=url)
        clock.time += 3600
        succeed(scores, 1, url=url)
        assert not scores.of(url).is_aside
        assert scores.of(url).speed == 1000
    scores.save(path)


@pytest.mark.parametrize(
    "facts",
    [
        {"measured": 1}, {"measured": 1e18, "volume": 1e18}, {"measured": 0.3, "seconds": 1e-18}, {"asides": 1e18},
        {"in_a_row": 1e18, "aside_until": 1}, {"in_a_row": 2.5}, {"successes": 1e18, "failures": 1e18}, {},
    ],
    ids=str,
)  # fmt: skip
def test_facts_that_do_not_fit_do_no_harm(scores: Scores, clock: Clock, tmp_path: Path, facts: dict[str, float]):
    """Numbers that can be, but never were together: the mirror is ordered, fails, and is well again."""
    path = tmp_path / "mirrors.json"
    path.write_text(json.dumps(entry(at=NOW, **facts)))
    scores.load(path)
    assert list(scores) == ["https://a.test"]
    assert len(Adaptive().order([Mirror(A), Mirror(B)], scores)) == 2
    fail(scores, 30)
    assert scores.of(A).is_aside
    clock.time += 3600
    succeed(scores, 30)
    assert len(Adaptive().order([Mirror(A), Mirror(B)], scores)) == 2
    assert (scores.of(A).speed, scores.of(A).in_a_row, scores.of(A).asides) == (1000, 0, 0)
    assert scores.of(A).chance > 0.9


def test_what_is_still_to_come_is_now(scores: Scores, clock: Clock, tmp_path: Path):
    """Times of a run whose clock was a year ahead are no later than now, and no mirror is set aside for a year."""
    path = tmp_path / "mirrors.json"
    clock.time += 365 * 86_400
    succeed(scores, 8)
    fail(scores, 3)
    scores.save(path)
    clock.time = NOW
    scores = Scores(HALF_LIFE, clock)
    scores.load(path)
    score = scores.of(A)
    assert (score.at, score.failed_at, score.aside_until, score.successes) == (NOW, NOW, NOW + 3600, 8)
    clock.time += HALF_LIFE
    assert scores.of(A).successes == 4


def test_what_this_run_knows_is_kept(scores: Scores, clock: Clock, tmp_path: Path):
    """Loading adds those of which nothing is known yet, and no more than a thousand in all."""
    path = tmp_path / "mirrors.json"
    earlier = Scores(HALF_LIFE, clock)
    for number in range(1000):
        succeed(earlier, url=f"mem://host{number}/")
    earlier.save(path)
    scores.take("mem://host5/")
    scores.take(A)
    scores.load(path)
    assert len(scores) == 1000
    assert (scores.of("mem://host5/").in_use, scores.of("mem://host5/").successes) == (1, 0)
    assert scores.of(A).in_use == 1
    assert scores.of("mem://host999/").successes == 1
    assert scores.of("mem://host0/").successes == 0


def test_what_cannot_be_saved_ends_nothing(scores: Scores, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Without the directory there is a warning, and no file."""
    scores.save(tmp_path / "missing" / "mirrors.json")
    assert names(tmp_path) == []
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("downhaul.mirrors", logging.WARNING)


def test_a_full_disk_leaves_what_was_there(
    scores: Scores, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """The file of the last run stays, and no half of a new one."""
    path = tmp_path / "mirrors.json"
    scores.save(path)
    before = path.read_bytes()
    succeed(scores)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    scores.save(path)
    assert path.read_bytes() == before
    assert names(tmp_path) == ["mirrors.json"]
    assert len(caplog.records) == 1
