"""Any schedule of failures at one to three sources: a client gets a prefix of the right bytes, or all of them."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st
from tests.acceptance.clients import Got, ask
from tests.servers.http import Exchange, head, http_server

from downhaul import Context, Download, Retries, SizeValidation, Timeout
from downhaul.plugins import MirrorList

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HELD_BACK: Final = 16 * 1024
RIGHT: Final = random.Random(4).randbytes(100_000)
DIGEST: Final = {"sha256": hashlib.sha256(RIGHT).hexdigest()}
TAIL: Final = 1000
"""Within so many bytes of its end a file may be wrong and no client sees it: they are held back."""

PASSING: Final = ("cut", "reset", "stall", "503", "408", "closes", "no http")
"""Failures of the moment: the bytes before them are right."""

WRONG_TAIL: Final = ("corrupt", "changed", "shorter")
"""All of a file, of which the end is not right."""

LASTING: Final = ("404", "403", "elsewhere", "several parts", "more")
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)$")


@dataclass(frozen=True)
class Source:
    """What a source does on each visit (the last goes on for ever), where it breaks off, whether it honours ranges."""

    visits: tuple[str, ...]
    share: float
    ranges: bool
    tagged: bool


class World:
    """The sources of one example, by the first letter of the path."""

    def __init__(self) -> None:
        self.begin(())

    def begin(self, sources: tuple[Source, ...]) -> None:
        """Take other sources, which nobody has visited yet."""
        self.sources = dict(zip("abc", sources, strict=False))
        self._visits: Counter[str] = Counter()

    async def answer(self, exchange: Exchange) -> None:
        """Answer as the schedule wants it."""
        name = exchange.target[1]
        source = self.sources[name]
        kind = source.visits[min(self._visits[name], len(source.visits) - 1)]
        self._visits[name] += 1
        if kind.isdigit():
            await exchange.respond(int(kind))
            return
        if kind == "closes":
            await exchange.cut()
        if kind == "no http":
            await exchange.send(b"SSH-2.0-OpenSSH_9.2\r\n")
            await exchange.cut()
        await self._file(exchange, source, kind)

    async def _file(self, exchange: Exchange, source: Source, kind: str) -> None:
        content, tag = RIGHT, '"right"'
        if kind in {"corrupt", "wrong"}:
            place = -1 if kind == "corrupt" else 0
            content = _with_other_byte(content, place)
        elif kind in {"changed", "shorter"}:
            end = b"changed" * 20
            content, tag = content[: -TAIL if kind == "shorter" else -len(end)] + end, f'"{kind}"'
        asked = _RANGE.match(exchange.header("Range") or "")
        start, status = 0, 200
        fields = [("ETag", tag)] if source.tagged else []
        stop = len(content)
        if asked and source.ranges and exchange.header("If-Range") in {None, tag}:
            start, status = int(asked[1]) + 1000 * (kind == "elsewhere"), 206
            stop = min(int(asked[2]) + 1 if asked[2] else stop, stop)
            if kind == "several parts":
                fields.append(("Content-Type", "multipart/byteranges; boundary=x"))
            else:
                fields.append(("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}"))
        body = content[start:stop]
        await exchange.send(head(status, [*fields, ("Content-Length", str(len(body))), ("Accept-Ranges", "bytes")]))
        if exchange.method == "HEAD":
            return
        place = int(source.share * len(body))
        if kind in {"cut", "reset", "stall"}:
            await exchange.send(body[:place])
            if kind == "stall":
                await exchange.stall()
            await (exchange.cut() if kind == "cut" else exchange.reset())
        await exchange.send(body)
        if kind == "more":
            await exchange.send(b"surplus")
            await exchange.cut()


def _with_other_byte(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


def sources(kinds: tuple[str, ...]) -> st.SearchStrategy[Source]:
    """Draw a source."""
    return st.builds(
        Source,
        visits=st.lists(st.sampled_from(kinds), min_size=1, max_size=4).map(tuple),
        share=st.one_of(st.floats(0, 0.999), st.sampled_from((0.0, 0.1, 0.2, 0.5, 0.99))),
        ranges=st.sampled_from((True, True, False)),
        tagged=st.sampled_from((True, True, False)),
    )


ANY: Final = ("good", *PASSING, *WRONG_TAIL, *LASTING)
GOOD: Final = st.builds(
    Source, visits=st.just(("good",)), share=st.just(0.5), ranges=st.booleans(), tagged=st.booleans()
)


@pytest.fixture(scope="module")
def play() -> Iterator[Callable[[tuple[Source, ...]], Got]]:
    """Give a function that lets a client ask for the file of such sources, through a real streamer."""
    asgi = pytest.importorskip("tests.fronts.asgi", reason="uvicorn and Starlette are not installed")
    world = World()
    with http_server(world.answer) as server, Context(plugins=[Retries(base=0)], retries=2) as context:

        def importer(_: str) -> Download:
            mirrors = MirrorList([server.url(f"/{name}/") for name in world.sources], replaces="http://r.invalid/")
            timeout = Timeout(connect=5, read=0.15)
            size = SizeValidation(len(RIGHT))
            return Download(
                "http://r.invalid/file", plugins=[mirrors], digests=DIGEST, validations=[size], context=context,
                timeout=timeout,
            )  # fmt: skip

        with (
            asgi.serve(importer, hold_back=HELD_BACK) as judging,
            asgi.serve(importer, hold_back=HELD_BACK, judged_parts=0) as believing,
        ):

            def play(drawn: tuple[Source, ...], part: range | None = None, *, judged: bool = True) -> Got:
                world.begin(drawn)
                fields = [] if part is None else [("Range", f"bytes={part.start}-{part.stop - 1}")]
                return ask(judging if judged else believing, "/", headers=fields)

            yield play


def check(play: Callable[[tuple[Source, ...]], Got], drawn: tuple[Source, ...]) -> None:
    """What a client got is a prefix of the right bytes, and a clean end means all; a good source makes it one."""
    got = play(drawn)
    note(f"{got.status}, {len(got.body)} bytes, clean: {got.clean}")
    event(f"{got.status}, clean: {got.clean}")
    if got.status == 200:
        assert RIGHT.startswith(got.body)
        assert got.clean == (got.body == RIGHT)
    else:
        assert got.clean
        assert RIGHT[:20] not in got.body
    if any(source.visits == ("good",) for source in drawn):
        assert (got.status, got.body, got.clean) == (200, RIGHT, True)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(sources(ANY), min_size=1, max_size=3).map(tuple))
def test_any_schedule(play: Callable[[tuple[Source, ...]], Got], drawn: tuple[Source, ...]) -> None:
    """Whatever fails, and when: a prefix of the right bytes, and a clean end is all of them."""
    check(play, drawn)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(sources(ANY), min_size=0, max_size=2), GOOD, st.integers(0, 2))
def test_a_good_source_is_enough(
    play: Callable[[tuple[Source, ...]], Got], others: list[Source], good: Source, place: int
) -> None:
    """With one good source among them, wherever it stands, every schedule ends cleanly."""
    check(play, (*others[:place], good, *others[place:]))


PARTS: Final = st.one_of(
    st.sampled_from([range(1), range(len(RIGHT) - 500, len(RIGHT)), range(50_000, 100_000)]),
    st.tuples(st.integers(0, 60_000), st.integers(1, 40_000)).map(lambda pair: range(pair[0], sum(pair))),
)


def check_part(got: Got, part: range) -> None:
    """What came of a part is a prefix of it, and a clean end means all; or all of the file came, or a refusal."""
    note(f"{got.status}, {len(got.body)} bytes, clean: {got.clean}")
    event(f"{got.status}, clean: {got.clean}")
    right = {200: RIGHT, 206: RIGHT[part.start : part.stop]}.get(got.status)
    if right is not None:
        assert right.startswith(got.body)
        assert got.clean == (got.body == right)
    else:
        assert got.status in {403, 404, 502, 503, 504}


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(sources(ANY), min_size=1, max_size=3).map(tuple), PARTS)
def test_any_schedule_of_a_judged_part(play: Callable[..., Got], drawn: tuple[Source, ...], part: range) -> None:
    """A part that is judged with the whole is right, or breaks, or is refused, whatever the sources do."""
    check_part(play(drawn, part), part)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(sources(("good", *PASSING, *LASTING)), min_size=1, max_size=3).map(tuple), PARTS)
def test_any_schedule_of_a_range(play: Callable[..., Got], drawn: tuple[Source, ...], part: range) -> None:
    """A part that is asked for as a range is right as well, where all sources have the same file."""
    check_part(play(drawn, part, judged=False), part)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(sources(("good", "wrong", "cut", "503")), min_size=1, max_size=3).map(tuple))
def test_wrong_from_the_first_byte(play: Callable[[tuple[Source, ...]], Got], drawn: tuple[Source, ...]) -> None:
    """Where a source is wrong from its first byte, that cannot be known in time: but then it never ends cleanly."""
    got = play(drawn)
    assert got.status != 200 or got.clean == (got.body == RIGHT)


@pytest.mark.large
@pytest.mark.timeout(1800)
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(sources(ANY), min_size=1, max_size=3).map(tuple))
def test_any_schedule_at_length(play: Callable[[tuple[Source, ...]], Got], drawn: tuple[Source, ...]) -> None:
    """The same with ever new examples, many of them."""
    check(play, drawn)
