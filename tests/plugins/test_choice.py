"""Choices: in which order mirrors are asked, and what comes of it over a thousand files."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise, permutations
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downhaul import (
    ConnectError,
    DigestMismatch,
    NotFound,
    ServerError,
    TimeoutExceeded,
    TooManyRequests,
    Truncated,
)
from downhaul.plugins._mirror import Mirror
from downhaul.plugins._mirroring.choice import Adaptive, Choice, InOrder
from downhaul.plugins._mirroring.scores import Scores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from downhaul import DownloadError

NOW = 1_800_000_000.0
MISSING = NotFound("404", code=404)
CUT = Truncated("cut")


class World:
    """Mirrors a, b, c, …, their scores, and a clock that stands until it is moved."""

    def __init__(self, number: int = 3, choice: Choice | None = None, **fields: Sequence[object]) -> None:
        self.time = NOW
        self.choice = choice or Adaptive()
        self.scores = Scores(clock=lambda: self.time)
        self.mirrors = [
            Mirror(f"mem://{'abcdefghij'[each]}/", **{name: values[each] for name, values in fields.items()})
            for each in range(number)
        ]

    def order(self, failed: int = 0) -> str:
        """Return the letters of the mirrors, the best first, for a file that has failed at *failed* others."""
        return "".join(mirror.url[6] for mirror in self.choice.order(self.mirrors, self.scores, failed))

    def take(self, name: str, times: int = 1) -> None:
        for _ in range(times):
            self.scores.take(f"mem://{name}/")

    def leave(self, name: str, times: int = 1) -> None:
        for _ in range(times):
            self.scores.leave(f"mem://{name}/")

    def succeed(self, name: str, times: int = 1, size: int = 1_000_000) -> None:
        for _ in range(times):
            self.scores.succeeded(f"mem://{name}/", size, 1.0)

    def fail(self, name: str, times: int = 1, error: DownloadError = CUT, size: int = 0, seconds: float = 0.0) -> None:
        for _ in range(times):
            self.scores.failed(f"mem://{name}/", error, size, seconds)


# Values


def test_choices_are_values():
    """Equal where they are configured equally, however the place is written; and hashable."""
    assert Adaptive(path="a/b") == Adaptive(path=Path("a/b")) != Adaptive()
    assert Adaptive() != InOrder() == InOrder()
    assert len({Adaptive(), Adaptive(), Adaptive(probe=3), Adaptive(half_life=60), InOrder()}) == 4
    assert Adaptive(path="a/b").path == Path("a/b")


@pytest.mark.parametrize("fields", [{"half_life": 0}, {"half_life": -1}, {"half_life": float("nan")}, {"probe": -1}])
def test_what_makes_no_sense_is_refused(fields: dict[str, float]):
    """A half-life is above 0, a number of mirrors is not below."""
    with pytest.raises(ValueError, match=next(iter(fields))):
        Adaptive(**fields)


def test_in_order_has_nothing_to_configure():
    """It learns nothing, so there is nothing to keep, to forget or to probe."""
    for name in ("half_life", "probe", "path"):
        with pytest.raises(TypeError, match=name):
            InOrder(**{name: 1})
    assert (InOrder().probe, InOrder().path) == (0, None)


def test_a_choice_of_somebody_else_s_orders():
    """The example of `Choice` runs as it stands: the country first, but nobody who is set aside."""
    example = re.search(r"::\n\n((?:    .*\n|\n)+)", f"{inspect.getdoc(Choice)}\n")
    assert example is not None
    given: dict[str, object] = {}

    def mirror_list(url: str, choice: Choice) -> None:
        given.update(url=url, choice=choice)

    names = {"Choice": Choice, "MirrorList": mirror_list, "dataclass": dataclass}
    exec(textwrap.dedent(example[1]), names)
    world = World(4, given["choice"], location=["fr", None, "de", "de"])
    assert world.order() == "cdab"
    world.take("c")
    assert world.order() == "dcab"
    world.fail("d", 3)
    assert world.order() == "cabd"
    assert given["choice"] == names["NearestFirst"]("de") != names["NearestFirst"]("fr")


# InOrder


def test_in_order_is_by_priority_and_then_by_the_list():
    """Whatever happened."""
    world = World(4, InOrder(), priority=[2, 1, 2, 1])
    assert world.order() == "bdac"
    world.fail("b", 10)
    world.succeed("c", 10)
    world.take("d", 10)
    assert world.order() == "bdac"


# Adaptive: what is not known


def test_with_nothing_known_it_is_the_order_of_the_list():
    """By priority, and among equals as they stand."""
    assert World(4).order() == "abcd"
    assert World(4, priority=[2, 1, 2, 1]).order() == "bdac"


def test_an_unknown_mirror_is_explored_by_one():
    """The first downloads go to one unknown mirror each; those that follow do not wait there behind the known."""
    world = World(3)
    firsts = []
    for _ in range(5):
        firsts.append(world.order()[0])
        world.take(firsts[-1])
    assert "".join(firsts) == "abcab"
    world.succeed("c")
    world.leave("c")
    assert world.order() == "cab"  # not "cba": one more is at b than at c, and a is no better


def test_who_is_explored_is_behind_who_is_known():
    """However busy the known one is."""
    world = World(2)
    world.take("a")
    world.succeed("b")
    world.take("b", 100)
    assert world.order() == "ba"
    world.leave("a")
    assert world.order() == "ab"


def test_a_file_that_has_failed_explores_no_more():
    """It goes to a mirror that is known to be good, if there is one: who waited for one failure is spared another."""
    world = World(3)
    assert world.order(failed=1) == "abc"
    world.succeed("c")
    assert world.order() == "abc"
    assert world.order(failed=1) == "cab"
    world.fail("c", 4, MISSING)
    assert world.order(failed=1) == "abc"  # for it is good no more


def test_of_the_unknown_those_that_failed_are_behind():
    """A failure counts as one more download there, and a miss as a part of one."""
    world = World(3)
    world.fail("a")
    world.fail("b", 1, MISSING)
    assert world.order() == "bca"
    world.succeed("d")
    world.mirrors.append(Mirror("mem://d/"))
    assert world.order(failed=1) == "dcba"


def test_the_one_that_answered_sooner_is_explored_first():
    """A latency decides between unknown mirrors; whose is not known comes behind; of the known it decides nothing."""
    world = World(4)
    world.scores.probed("mem://b/", 0.2)
    world.scores.probed("mem://d/", 0.1)
    assert world.order() == "dbac"
    for name, size in zip("abcd", (400, 300, 200, 100), strict=True):
        world.succeed(name, size=size * 1000)
    assert world.order() == "abcd"


def test_what_is_forgotten_is_explored_again():
    """A slow mirror has another chance when its speed is too old to be known."""
    world = World(2)
    world.succeed("a", size=1000)
    world.succeed("b", 4)
    assert world.order() == "ba"
    world.time += 3 * Adaptive().half_life
    assert world.order() == "ab"


def test_eight_good_mirrors_are_enough():
    """Of a longer list the others are not explored, nor are those that failed, as long as eight are good."""
    world = World(10)
    for name in "bcdefgh":
        world.succeed(name)
    assert world.order() == "aijbcdefgh"
    world.succeed("i")
    assert world.order() == "bcdefghiaj"
    world.fail("i")
    world.time += 30
    assert world.order() == "aijbcdefgh"
    world.succeed("j")
    assert world.order() == "bcdefghjia"


# Adaptive: what is known


def test_the_faster_is_first():
    """Among equal priorities."""
    world = World(3)
    for name, size in zip("abc", (1, 4, 2), strict=True):
        world.succeed(name, size=size * 1_000_000)
    assert world.order() == "bca"


def test_small_files_make_no_slow_mirror():
    """A mirror that was asked for an icon in 20 ms is not behind one that sent an image at 2 MB/s."""
    world = World(2)
    world.scores.succeeded("mem://a/", 500, 0.02)
    world.scores.succeeded("mem://b/", 2_000_000, 1.0)
    assert world.order() == "ab"


def test_downloads_join_the_shortest_queue():
    """Of three mirrors of speeds 1:2:4 the fastest gets the most of ten, and nobody gets nothing."""
    world = World(3)
    for name, size in zip("abc", (1, 2, 4), strict=True):
        world.succeed(name, size=size * 1_000_000)
    at: Counter[str] = Counter()
    for _ in range(10):
        first = world.order()[0]
        world.take(first)
        at[first] += 1
    assert at == {"a": 1, "b": 3, "c": 6}


def test_priority_counts_before_speed():
    """A slow mirror of the better priority is asked first, and so is one that is explored already."""
    world = World(3, priority=[2, 1, 1])
    world.succeed("a", size=9_000_000)
    world.succeed("b", size=1000)
    world.take("b", 5)
    world.take("c")
    assert world.order() == "bca"


@pytest.mark.parametrize("error", [MISSING, CUT], ids=["misses", "failures"])
def test_a_mirror_that_mostly_fails_is_behind_other_priorities(error: DownloadError):
    """Three bad answers of an unknown one, or four to one that was good; it is back when most are good again."""
    world = World(2, priority=[1, 2])
    world.succeed("b")
    world.fail("a", 2, error)
    assert world.order() == "ab"
    world.succeed("a", size=1000)
    world.fail("a", 1, error)
    assert world.order() == "ab"
    world.fail("a", 1, error)
    assert world.order() == "ba"
    world.succeed("a", size=1000)
    assert world.order() == "ab"


def test_of_unlikely_mirrors_the_known_are_first():
    """One that did deliver, if seldom, is asked before one that never has."""
    world = World(3)
    world.succeed("c")
    world.fail("a", 3, MISSING)
    world.succeed("b")
    world.fail("b", 4, MISSING)
    assert world.order() == "cba"


def test_who_asked_for_five_seconds_gets_five():
    """A mirror that says when it can be asked again is tried then, and not after the pause of one that failed."""
    world = World(2)
    world.succeed("b")
    world.fail("a", 1, ServerError("503", code=503, retry_after=5.0))
    assert world.order() == "ba"
    world.time += 5
    assert world.order() == "ab"


def test_one_failure_costs_rank_at_once():
    """The expected rate is halved, whatever the mirror did before; a miss is next to nothing."""
    world = World(2)
    world.succeed("a", 20, size=1_800_000)
    world.succeed("b", 20, size=1_000_000)
    world.fail("a", 1, MISSING)
    assert world.order() == "ab"
    world.fail("a")
    assert world.order() == "ba"
    world.succeed("a", size=1_800_000)
    assert world.order() == "ab"


def test_a_mirror_that_never_delivered_is_asked_again_after_a_pause():
    """Behind the known ones for 30 s after it failed; then it gets one download."""
    world = World(2)
    world.succeed("b")
    world.take("b", 9)
    world.fail("a")
    assert world.order() == "ba"
    world.time += 29
    assert world.order() == "ba"
    world.time += 1
    assert world.order() == "ab"
    world.take("a")
    assert world.order() == "ba"


def test_a_slow_mirror_is_asked_again_after_a_pause():
    """That it was slow is no reason to leave it alone for hours."""
    world = World(2)
    world.succeed("a", 4, size=2_000_000)
    world.succeed("b")
    assert world.order() == "ab"
    world.fail("a", 1, TimeoutExceeded("slow", "low speed"), size=1000, seconds=10.0)
    assert world.order() == "ba"
    world.take("b", 3)
    assert world.order() == "ba"
    world.time += 30
    assert world.order() == "ab"
    world.succeed("a", size=2_000_000)
    world.leave("b", 3)
    assert world.order() == "ab"


# Adaptive: the last ones


def test_who_has_no_room_is_behind_who_has():
    """A limit that was learned, and that of the mirror's own; even behind another priority, and unlikely ones."""
    world = World(3, priority=[1, 2, 1], connections=[2, None, None])
    world.succeed("a", 3)
    world.fail("b", 3, MISSING)
    world.take("c", 2)
    world.fail("c", 1, TooManyRequests("429", code=429))
    assert world.order() == "abc"  # there is one at c, and two is one too many
    world.take("a", 2)
    assert world.order() == "bac"
    world.leave("c")
    assert world.order() == "bac"
    world.leave("a")
    assert world.order() == "abc"
    world.leave("c")
    assert world.order() == "cab"


def test_who_is_set_aside_is_the_last_resort():
    """Behind those without room; the one whose time is over soonest first; none is left out."""
    world = World(4, connections=[None, None, None, 1])
    world.take("d")
    world.fail("a", 1, ServerError("503", code=503, retry_after=600.0))
    world.fail("b", 3)
    world.fail("c", 1, ServerError("503", code=503, retry_after=300.0))
    assert world.order() == "dbca"
    world.time += 60
    assert world.order() == "bdca"


def test_a_trial_is_made_by_one():
    """When its time is over, the next download goes there, and no second one, until it has succeeded."""
    world = World(2)
    world.succeed("b", 5)
    world.fail("a", 3)
    assert world.order() == "ba"
    world.time += 60
    assert world.order() == "ab"
    world.take("a")
    world.take("b", 50)
    assert world.order() == "ba"
    world.succeed("a", 2)
    assert world.order() == "ab"


def test_a_trial_is_not_for_another_priority():
    """A mirror of a worse priority is not tried while the better one is well."""
    world = World(2, priority=[1, 2])
    world.succeed("a")
    world.fail("b", 3)
    world.time += 60
    assert world.order() == "ab"


def test_when_all_are_down_all_are_asked():
    """Without a network every mirror is set aside, and the first success of one puts it before the others."""
    world = World(4)
    for name in "cadb":
        world.fail(name, 3)
        world.time += 1
    assert world.order() == "cadb"
    world.succeed("d")
    assert world.order() == "dcab"


# Whatever happens

HOSTS = [f"https://host{number}.test" for number in range(6)]
MIRRORS = st.lists(
    st.builds(
        Mirror,
        st.builds("{}/{}".format, st.sampled_from(HOSTS), st.sampled_from(["", "pub/"])),
        priority=st.integers(1, 3),
        connections=st.none() | st.integers(1, 3),
    ),
    max_size=12,
)
ERRORS = [
    MISSING, CUT, ConnectError("refused"), TimeoutExceeded("slow", "low speed"), DigestMismatch("wrong"),
    ServerError("503", code=503), TooManyRequests("429", code=429, retry_after=90.0),
]  # fmt: skip
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(HOSTS),
        st.sampled_from(["take", "leave", "succeeded", "probed", *ERRORS]),
        st.integers(0, 10**15),
        st.floats(0, 1e6),
        st.floats(-1e6, 1e9),
    ),
    max_size=80,
)


@given(MIRRORS, EVENTS, st.integers(0, 3))
def test_an_order_is_a_permutation(
    mirrors: list[Mirror], events: Iterable[tuple[str, object, int, float, float]], failed: int
):
    """Whatever happened, and whatever the clock did: all mirrors and no others, the same when asked again."""
    world = World(0)
    for host, what, size, seconds, later in events:
        world.time += later
        if what in ("take", "leave"):
            getattr(world.scores, what)(host)
        elif what == "succeeded":
            world.scores.succeeded(host, size, seconds)
        elif what == "probed":
            world.scores.probed(host, seconds)
        else:
            world.scores.failed(host, what, size, seconds)
    for choice in (Adaptive(), InOrder()):
        known = list(world.scores)
        order = list(choice.order(mirrors, world.scores, failed))
        assert Counter(order) == Counter(mirrors)
        assert list(choice.order(mirrors, world.scores, failed)) == order
        assert list(world.scores) == known
    aside = [world.scores.of(mirror.url).is_aside for mirror in Adaptive().order(mirrors, world.scores)]
    assert aside == sorted(aside)


# A thousand files: a simulation, in which time is a number

SIZE, CAPACITY, LATENCY, WINDOW = 100_000, 10_000_000.0, 0.02, 10.0


@dataclass(eq=False)
class Host:
    """What a mirror is like: *capacity* is in bytes per second, shared by all that are there; *kind* lasts *until*."""

    kind: str = "good"
    capacity: float = CAPACITY
    bears: int = 1000
    until: float = float("inf")
    there: list[Job] = field(default_factory=list)

    def answer(self, job: Job, now: float) -> None:
        """Tell *job* how long it waits, how many bytes come then, and how it ends."""
        kind = self.kind if now < self.until else "good"
        job.wait, job.left, job.got, job.error = LATENCY, 0.0, 0, None
        if len(self.there) >= self.bears:
            job.error = ServerError("503", code=503)
            return
        self.there.append(job)
        if kind == "dead":
            job.wait, job.error = 0.001, ConnectError("refused")
        elif kind == "missing":
            job.error = MISSING
        elif kind == "slow":
            job.wait, job.got, job.error = WINDOW, int(100 * WINDOW), TimeoutExceeded("100 bytes/s", "low speed")
        else:
            job.got = SIZE // 2 if kind == "truncating" else SIZE
            job.left = float(job.got)
            job.error = {"truncating": CUT, "corrupt": DigestMismatch("wrong")}.get(kind)


@dataclass(eq=False)
class Job:
    """A file, at the host where it is fetched now."""

    tried: set[str] = field(default_factory=set)
    url: str = ""
    host: Host = field(default_factory=Host)
    since: float = 0.0
    wait: float = 0.0
    left: float = 0.0
    got: int = 0
    error: DownloadError | None = None


class Simulation:
    """Fetches files of 100 kB from *hosts* as *choice* says; time is counted, not spent.

    `attempts` holds, of each, when it ended, the host, and the error or None.
    """

    def __init__(self, *hosts: Host, choice: Choice | None = None) -> None:
        self.now = 0.0
        self.choice = choice or Adaptive()
        self.scores = Scores(clock=lambda: NOW + self.now)
        self.mirrors = [Mirror(f"mem://host{number}/") for number in range(len(hosts))]
        self.hosts = {mirror.url: host for mirror, host in zip(self.mirrors, hosts, strict=True)}
        self.attempts: list[tuple[float, Host, DownloadError | None]] = []

    def run(self, files: int = 1000, concurrency: int = 10, look: Callable[[], None] = lambda: None) -> float:
        """Return how many seconds it takes, *concurrency* at a time; *look* is called before each step."""
        jobs: list[Job] = []
        while files or jobs:
            while files and len(jobs) < concurrency:
                files -= 1
                jobs.append(Job())
                self._aim(jobs[-1])
            look()
            for job in self._advance(jobs):
                self._end(job)
                if job.error is None:
                    jobs.remove(job)
                else:
                    self._aim(job)
        return self.now

    def delivered(self, host: Host) -> int:
        """Return how many files *host* delivered."""
        return sum(each is host and error is None for _, each, error in self.attempts)

    def failed(self, *kinds: str) -> Counter[str]:
        """Return how many attempts failed, by the kind of the host."""
        return Counter(each.kind for _, each, error in self.attempts if error is not None)

    def _aim(self, job: Job) -> None:
        left = [mirror for mirror in self.mirrors if mirror.url not in job.tried]
        if not left:  # a new round
            job.tried.clear()
        job.url = self.choice.order(left or self.mirrors, self.scores, len(job.tried))[0].url
        self.scores.take(job.url)
        job.tried.add(job.url)
        job.host, job.since = self.hosts[job.url], self.now
        job.host.answer(job, self.now)

    def _end(self, job: Job) -> None:
        seconds = self.now - job.since
        if job in job.host.there:
            job.host.there.remove(job)
        if job.error is None:
            self.scores.succeeded(job.url, job.got, seconds)
        else:
            self.scores.failed(job.url, job.error, job.got, seconds)
        self.scores.leave(job.url)
        self.attempts.append((self.now, job.host, job.error))

    def _advance(self, jobs: Sequence[Job]) -> list[Job]:
        """Let time pass until the next one ends, or begins to receive; return those that have ended."""
        sharing = Counter(id(job.host) for job in jobs if job.wait <= 0)
        rates = {id(job): job.host.capacity / sharing[id(job.host)] for job in jobs if job.wait <= 0}
        step = min(job.wait if job.wait > 0 else job.left / rates[id(job)] for job in jobs)
        self.now += step
        for job in jobs:
            if job.wait > 0:
                job.wait = job.wait - step if job.wait - step > 1e-9 else 0.0
            else:
                job.left = max(job.left - step * rates[id(job)], 0.0)
        return [job for job in jobs if job.wait <= 0 and job.left < 0.001]


SIX = ("dead", "missing", "slow", "corrupt", "truncating", "good")
BAD = SIX[:-1]
ORDERS = [*list(permutations(SIX))[::97], SIX, SIX[::-1]]


@pytest.mark.parametrize("concurrency", [1, 10, 100])
@pytest.mark.parametrize("kinds", ORDERS, ids="-".join)
def test_five_bad_mirrors_of_six(kinds: tuple[str, ...], concurrency: int):
    """A thousand files take no more than twice what the good mirror takes alone, and the time to know a slow one.

    Each bad mirror is tried. All of them together are tried no more than 20 times by up to ten downloads at a time; by
    a hundred, of which most begin before anything is known, twice by each at most. That holds in any order.
    """
    alone = Simulation(Host()).run(concurrency=concurrency)
    hosts = [Host(kind) for kind in kinds]
    simulation = Simulation(*hosts)
    took = simulation.run(concurrency=concurrency)
    failed = simulation.failed()
    assert took <= 2 * alone + WINDOW
    assert set(failed) == set(BAD)
    assert failed.total() <= max(20, 2 * concurrency)
    assert simulation.delivered(hosts[kinds.index("good")]) == 1000


def test_a_long_list_is_not_asked_to_its_end():
    """Of a hundred mirrors, of which all but the first twelve are slow, hardly one of the slow ones is ever met."""
    simulation = Simulation(*(Host("good" if number < 12 else "slow") for number in range(100)))
    took = simulation.run()
    assert simulation.failed().total() <= 2
    assert took < 2 * WINDOW


def test_what_is_learned_is_not_for_one_run():
    """The next thousand files are asked of the good one: the bad ones are tried ten times in all."""
    simulation = Simulation(*map(Host, SIX))
    simulation.run()
    before = len(simulation.attempts)
    simulation.run()
    assert len(simulation.attempts) - before <= 1010


def test_three_good_mirrors_are_used_side_by_side():
    """Mirrors of speeds 1:2:4 deliver about in proportion, and all together as fast as they can."""
    hosts = [Host(capacity=speed * 1_000_000.0) for speed in (1, 2, 4)]
    simulation = Simulation(*hosts)
    took = simulation.run()
    for host, share in zip(hosts, (1, 2, 4), strict=True):
        assert simulation.delivered(host) == pytest.approx(1000 * share / 7, rel=0.2)
    assert took < 1.1 * 1000 * SIZE / 7_000_000


def test_equal_mirrors_are_used_equally():
    """Nobody gets all because he was asked first."""
    hosts = [Host(), Host(), Host()]
    simulation = Simulation(*hosts)
    simulation.run()
    assert all(290 < simulation.delivered(host) < 380 for host in hosts)


def test_a_mirror_that_is_repaired_is_used_again():
    """Three mirrors of which the fastest is down for the first five minutes: at twice that it delivers its share."""
    down = Host("dead", capacity=1_000_000.0, until=300.0)
    simulation = Simulation(down, Host(capacity=250_000.0), Host(capacity=250_000.0))
    simulation.run(files=5000)
    tried = [time for time, host, error in simulation.attempts if host is down and error is not None]
    assert len(tried) <= 12
    assert max(tried) < 300
    first = min(time for time, host, error in simulation.attempts if host is down and error is None)
    assert 300 < first < 600
    later = [host for time, host, _ in simulation.attempts if time > first + 60]
    assert later.count(down) / len(later) == pytest.approx(2 / 3, rel=0.15)


def test_a_busy_mirror_gets_what_it_bears():
    """One that refuses a third connection has two in the end, is never set aside, and delivers; few are refused."""
    busy, other = Host("busy", bears=2), Host(capacity=CAPACITY / 4)
    simulation = Simulation(busy, other)
    seen: list[tuple[float, int]] = []

    def look() -> None:
        score = simulation.scores.of("mem://host0/")
        assert (score.aside_until, score.failures) == (0, 0)
        seen.append((simulation.now, score.in_use))

    took = simulation.run(look=look)
    late = [(later - now, in_use) for (now, in_use), (later, _) in pairwise(seen) if now > took / 10]
    assert max(in_use for _, in_use in late) <= 3
    assert sum(step * in_use for step, in_use in late) / sum(step for step, _ in late) == pytest.approx(2, abs=0.2)
    assert simulation.failed()["busy"] <= 30
    assert simulation.delivered(busy) > 600
    assert took < Simulation(Host(capacity=CAPACITY / 4)).run() / 2


def test_in_order_pays_for_every_bad_mirror():
    """What the simulation would say of a strategy that does not learn: each file meets each bad one."""
    simulation = Simulation(*map(Host, SIX), choice=InOrder())
    took = simulation.run(files=50)
    assert simulation.failed() == dict.fromkeys(BAD, 50)
    assert took >= 5 * WINDOW
