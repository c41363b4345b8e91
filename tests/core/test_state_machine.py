"""The attempt engine against a model of its rules: whatever sources do, all or nothing, and nothing left behind."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st
from tests.mem import Ledger, Mirrors, context_of, names

from downhaul import (
    AccessDenied,
    BufferWriter,
    ConnectError,
    DigestMismatch,
    DigestValidation,
    Download,
    DownloadError,
    Driver,
    FileWriter,
    Info,
    NotFound,
    Payload,
    Plugin,
    PluginError,
    RangeRefused,
    Request,
    Result,
    Retry,
    ServerError,
    SourcesExhausted,
    StreamBroken,
    Transfer,
    Truncated,
    Version,
    hookimpl,
)
from downhaul import _pipeline as pipeline_module

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from downhaul import Settings

# What a source may do when it is visited. The last column of the model: what becomes of such a visit.
COMPLETE: Final = {"ok", "ignores the range", "starts elsewhere"}
BROKEN: Final = {"short": Truncated, "reset": ConnectError}
REFUSED: Final = {"refused": ConnectError, "401": AccessDenied, "404": NotFound, "503": ServerError}
HOOKS: Final = {"prepare raises", "fetch raises", "validate raises", "error raises"}
CANCELLED: Final = {"cancelled at the head", "cancelled in the body"}
SENDS: Final = {*COMPLETE, *BROKEN, "corrupt", "validate raises", "cancelled in the body"}
TRANSIENT: Final = (Truncated, ConnectError, ServerError, DigestMismatch)


@dataclass(frozen=True)
class Step:
    """What a source does on one visit: with which version of the file, and where it breaks off, if it does."""

    kind: str
    version: int = 0
    share: float = 0.5


@dataclass(frozen=True)
class Source:
    """One source: its visits in order, of which the last goes on for ever, and how it speaks of versions."""

    steps: tuple[Step, ...]
    tag: str = "strong"  # or weak: the same for all versions; or none
    ranges: bool = True
    sized: bool = True


@dataclass(frozen=True)
class World:
    """One example: the file, the sources, and how the download is run."""

    size: int
    growth: int  # by how much the second version is longer
    sources: tuple[Source, ...]
    way: str
    digest: str | None
    retries: int
    insists: str  # a plugin says Retry() at once: never, after a "401" (it has a new token, so to speak), or always
    block: int
    hold_back: int

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(f"mem://{letter}/file" for letter, _ in zip("abcd", self.sources, strict=False))

    def data(self, step: Step) -> bytes:
        """Return the file as it is on such a visit; versions differ in their last byte, and otherwise if longer."""
        first = bytes(index * 7 % 251 for index in range(self.size))
        if step.kind == "corrupt":
            return bytes(255 - byte for byte in first) or b"!"
        if step.version == 0:
            return first
        size = max(0, self.size + self.growth)
        second = bytes((index * 7 + (self.growth != 0)) % 251 for index in range(size))
        return second[:-1] + b"\xff" if second else second

    @property
    def right(self) -> bytes:
        return self.data(Step("ok"))

    @property
    def is_pure(self) -> bool:
        """Whether everybody has the same bytes."""
        return all(
            self.data(step) == self.right
            for source in self.sources for step in source.steps if step.kind in SENDS
        )  # fmt: skip


# --- the model --------------------------------------------------------------------------------------------------


def expected(world: World) -> bytes | type[BaseException]:
    """Return the bytes that a download is to publish, or the type of the error that it is to raise.

    In each of ``retries + 1`` rounds each source has one try, and one more after a 401, if a plugin wants it; another
    round is started only if an error of this one was transient.
    """
    visits = {url: _for_ever(source) for url, source in zip(world.urls, world.sources, strict=True)}
    last: dict[str, type[BaseException]] = {}
    for _ in range(world.retries + 1):
        passing = False
        for url, source in zip(world.urls, world.sources, strict=True):
            tries = 0
            while True:
                outcome = _visit(world, source, next(visits[url]))
                if isinstance(outcome, bytes) or outcome in (PluginError, asyncio.CancelledError):
                    return outcome
                tries += 1
                last[url] = outcome
                passing = passing or issubclass(outcome, TRANSIENT)
                denied = outcome is AccessDenied
                if world.insists == "never" or (world.insists == "401" and not denied):
                    break
                if not denied or tries == 2:
                    # The engine finds out that the plugin aims at a source without tries only by preparing.
                    if visits[url].peek().kind == "prepare raises":
                        return PluginError
                    break
        if not passing:
            break
    kinds = set(last.values())
    return kinds.pop() if len(kinds) == 1 else SourcesExhausted


def _visit(world: World, source: Source, step: Step) -> bytes | type[BaseException]:
    if step.kind in HOOKS:
        return PluginError
    if step.kind in CANCELLED:
        return asyncio.CancelledError
    if step.kind in REFUSED:
        return REFUSED[step.kind]
    if step.kind in BROKEN:
        return BROKEN[_kind(world, source, step)]
    data = world.data(step)
    return data if world.digest is None or data == world.right else DigestMismatch


def _kind(world: World, source: Source, step: Step) -> str:
    """Return the kind, but for a body that ends early where nothing would tell: there, it breaks instead."""
    undetectable = step.kind == "short" and (not source.sized or not world.data(step))
    return "reset" if undetectable else step.kind


class _for_ever:  # noqa: N801 - reads as a function
    """The steps of a source, the last of them again and again."""

    def __init__(self, source: Source) -> None:
        self._steps, self._place = source.steps, -1

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        self._place += 1
        return self._steps[min(self._place, len(self._steps) - 1)]

    def peek(self) -> Step:
        return self._steps[min(self._place + 1, len(self._steps) - 1)]


# --- the stage --------------------------------------------------------------------------------------------------


class Stage(Driver):
    """Plays the sources. Within one attempt a source does the same thing however often it is asked."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sources = dict(zip(world.urls, world.sources, strict=True))
        self.visits = {url: _for_ever(source) for url, source in self.sources.items()}
        self.step = Step("ok")
        self.live = 0
        self.hangs = asyncio.Event()

    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncGenerator[Payload]:
        self.live += 1
        try:
            step, source = self.step, self.sources[request.url]
            await asyncio.sleep(0)
            if step.kind == "cancelled at the head":
                await self._hang()
            if step.kind in REFUSED or step.kind == "error raises":
                error = REFUSED.get(step.kind, ServerError)
                raise error(step.kind, code=401) if error is AccessDenied else error(step.kind)
            yield self._payload(request, source, step)
        finally:
            self.live -= 1

    def _payload(self, request: Request, source: Source, step: Step) -> Payload:
        data = self.world.data(step)
        version = self._version(source, step, data)
        start = request.offset if source.ranges and step.kind != "ignores the range" else 0
        if request.version is not None and (version is None or request.version.contradicts(version)):
            start = 0
        if start and start >= len(data):
            raise RangeRefused("416")
        if start and step.kind == "starts elsewhere":
            start //= 2
        size = len(data) if source.sized else None
        info = Info(request.url, size=size, version=version, start=start, resumable=source.ranges, proof="final chunk")
        return Payload(info, self._body(source, step, data, start))

    def _version(self, source: Source, step: Step, data: bytes) -> Version | None:
        if source.tag == "none":
            return None
        if source.tag == "weak":
            return Version('W/"same"')
        lies = step.kind == "corrupt" and self.world.digest is not None  # else nobody could know
        return Version(f'"{step.version}"' if step.kind != "corrupt" or lies else '"corrupt"', strong=True)

    async def _body(self, source: Source, step: Step, data: bytes, start: int) -> AsyncGenerator[bytes]:
        kind = _kind(self.world, source, step)
        breaks_off = kind in BROKEN or kind == "cancelled in the body"
        stop = min(int(step.share * len(data)), len(data) - 1) if breaks_off else len(data)
        for place in range(start, max(start, stop), self.world.block):
            yield data[place : min(place + self.world.block, stop)]
            await asyncio.sleep(0)
        if kind == "reset":
            raise ConnectError("reset")
        if kind == "cancelled in the body":
            await self._hang()

    async def _hang(self) -> None:
        self.hangs.set()
        await asyncio.Event().wait()


class Prompter(Plugin):
    """Tells the stage when an attempt begins, and raises where the script says that a hook does."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.attempt = stage, 0

    @hookimpl(trylast=True)
    async def prepare(self, transfer: Transfer) -> None:
        if self.stage.visits[transfer.request.url].peek().kind == "prepare raises":
            raise RuntimeError("prepare raises")

    @hookimpl(tryfirst=True)
    def fetch(self, transfer: Transfer) -> None:
        if transfer.attempt != self.attempt:
            self.attempt, self.stage.step = transfer.attempt, next(self.stage.visits[transfer.request.url])
        note(f"{transfer.request.url} from {transfer.request.offset}: {self.stage.step}")
        self._raise_in("fetch")

    @hookimpl
    async def validate(self, transfer: Transfer) -> None:
        self._raise_in("validate")

    @hookimpl
    async def error(self, transfer: Transfer, error: DownloadError) -> None:
        self._raise_in("error")

    def _raise_in(self, hook: str) -> None:
        if self.stage.step.kind == f"{hook} raises":
            raise RuntimeError(f"{hook} raises")


@dataclass(frozen=True)
class Insists(Plugin):
    """Wants the same source again, at once, after every error or after a 401."""

    always: bool

    @hookimpl(tryfirst=True)
    async def error(self, transfer: Transfer, error: DownloadError) -> Retry | None:
        return Retry() if self.always or isinstance(error, AccessDenied) else None


@dataclass
class Seen:
    """What came of a download."""

    result: Result | None = None
    error: BaseException | None = None
    got: bytes = b""  # by the consumer of a stream
    published: bytes | None = None


async def play(world: World, directory: Path) -> Seen:
    """Run the download of *world*, hold what is true of every run, and return what came of it."""
    stage, ledger, seen, path = Stage(world), Ledger(), Seen(), directory / "f"
    writer = BufferWriter() if world.way == "buffer" else None if world.way == "stream" else FileWriter(path)
    digests = {} if world.digest is None else {world.digest: hashlib.new(world.digest, world.right).hexdigest()}
    validations = [DigestValidation(*each) for each in digests.items()]
    plugins = [ledger, Prompter(stage), Mirrors(world.urls)]
    if world.insists != "never":
        plugins.append(Insists(world.insists == "always"))
    async with context_of(stage, *plugins, retries=world.retries) as context:
        download = Download("mem://host/file", writer, validations=validations, digests=["sha1"], context=context)
        task = asyncio.create_task(_consume(download, world, seen))
        hangs = asyncio.create_task(stage.hangs.wait())
        await asyncio.wait((task, hangs), return_when=asyncio.FIRST_COMPLETED)
        hangs.cancel()
        task.cancel()  # where it is done, this does nothing
        await asyncio.wait((task, hangs))
        if task.cancelled():
            seen.error = asyncio.CancelledError()
        else:
            seen.error = task.exception()
        assert stage.live == context.connections_in_use == 0
        assert not context._bound().running
        assert asyncio.all_tasks() == {asyncio.current_task()}
    if isinstance(writer, BufferWriter):
        seen.published = writer._content
    elif path.exists():
        seen.published = path.read_bytes()
    assert names(directory) == (["f"] if path.exists() else [])
    _hold_the_outcome(seen, ledger)
    _hold_the_budget(world, seen)
    return seen


async def _consume(download: Download, world: World, seen: Seen) -> None:
    if world.way in {"file", "buffer"}:
        seen.result = await download.run()
        return
    async with download.stream(hold_back=world.hold_back) as stream:
        async for block in stream:
            seen.got += block
        seen.result = stream.result()


def _hold_the_outcome(seen: Seen, ledger: Ledger) -> None:
    """`done` was called exactly once, with what was returned or raised, or None where it was cancelled."""
    assert len(ledger.outcomes) == 1
    if isinstance(seen.error, asyncio.CancelledError):
        assert ledger.outcomes == [None]
    else:
        assert ledger.outcomes[0] is (seen.result or seen.error)
    assert (seen.result is None) == (seen.error is not None)


def _hold_the_budget(world: World, seen: Seen) -> None:
    """No source had more tries in a round, and there were no more rounds, than there may be."""
    told = seen.result or seen.error
    if isinstance(told, asyncio.CancelledError) or told is None:
        return
    history = told.history  # type: ignore[attr-defined]
    tries = Counter((each.source, each.round) for each in history if not isinstance(each.error, PluginError))
    denied = Counter((each.source, each.round) for each in history if isinstance(each.error, AccessDenied))
    assert all(count <= 1 + (denied[key] > 0 and world.insists != "never") for key, count in tries.items())
    assert all(attempt.round <= world.retries + 1 for attempt in history)


# --- the properties ---------------------------------------------------------------------------------------------


def check(world: World) -> None:
    """Play *world* and hold its outcome against the model."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        patch.setattr(pipeline_module, "_BATCH", 128)  # so that a few bytes go through threads already
        patch.setattr(pipeline_module, "LARGE", 32)
        seen = asyncio.run(play(world, Path(directory)))
    event(f"{world.way}: {type(seen.error).__name__ if seen.error else 'success'}")
    if seen.result is not None:
        delivered = seen.got if world.way in {"stream", "tee"} else seen.published
        assert delivered is not None
        assert (seen.result.size, seen.result.digests["sha1"]) == (len(delivered), hashlib.sha1(delivered).hexdigest())
    if world.way in {"stream", "tee"}:
        check_stream(world, seen)
    else:
        check_file(world, seen)


def check_file(world: World, seen: Seen) -> None:
    """A good source in the budget ends in success with exactly its bytes; all else in the error that is due."""
    outcome = expected(world)
    note(f"expected: {outcome!r}")
    if isinstance(outcome, bytes):
        assert seen.error is None
        assert seen.published == outcome, "wholly the bytes of one version of one source"
    else:
        assert type(seen.error) is outcome
        assert seen.published is None


def check_stream(world: World, seen: Seen) -> None:
    """What comes is a prefix of one version, and a clean end means complete; with one version, as for files."""
    versions = [world.data(step) for source in world.sources for step in source.steps if step.kind in SENDS]
    lies = world.digest is not None and any(step.kind == "corrupt" for each in world.sources for step in each.steps)
    assert lies or not seen.got or any(version.startswith(seen.got) for version in versions)
    if seen.result is not None:
        assert seen.got in versions
        assert world.digest is None or seen.got == world.right
        assert seen.published == (seen.got if world.way == "tee" else None)
    else:
        assert isinstance(seen.error, DownloadError | asyncio.CancelledError)
        assert seen.published is None
    if not world.is_pure:
        return
    outcome = expected(world)
    note(f"expected: {outcome!r}")
    if isinstance(outcome, bytes):
        assert seen.error is None
        assert seen.got == outcome
    elif seen.got and outcome not in (PluginError, asyncio.CancelledError):
        assert type(seen.error) is StreamBroken
    else:
        assert type(seen.error) is outcome


# --- the examples -----------------------------------------------------------------------------------------------

FREQUENT = sorted({*COMPLETE, *BROKEN, *REFUSED, "corrupt"} - {"ok"})
RARE = sorted({*HOOKS, *CANCELLED, "ok"})
KINDS = st.one_of(*[st.sampled_from(FREQUENT)] * 5, st.sampled_from(RARE))
STEPS = st.builds(
    Step,
    kind=KINDS,
    version=st.sampled_from((0, 0, 0, 1)),
    share=st.one_of(st.floats(0, 1), st.sampled_from((0.0, 1.0))),
)
PURE_STEPS = STEPS.map(lambda step: replace(step, version=0, kind="ok" if step.kind == "corrupt" else step.kind))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw a world; every other one has one version of the file only."""
    steps = draw(st.sampled_from((STEPS, PURE_STEPS)))
    sources = st.builds(
        Source,
        steps=st.lists(steps, min_size=1, max_size=5).map(tuple),
        tag=st.sampled_from(("strong", "strong", "weak", "none")),
        ranges=st.sampled_from((True, True, True, False)),
        sized=st.sampled_from((True, True, False)),
    )
    block = draw(st.sampled_from((1, 7, 32, 33, 64, 128, 1000)))
    hold_back = draw(st.sampled_from((1, 32, 64, 100)))
    border = st.sampled_from((0, 1, 31, 32, 33, 64, 65, 100, 127, 128, 129, hold_back + block, 300))
    return World(
        size=draw(st.one_of(border, st.integers(0, 400))),
        growth=draw(st.sampled_from((0, 0, -1, 1, 50, -400))),
        sources=draw(st.lists(sources, min_size=1, max_size=4).map(tuple)),
        way=draw(st.sampled_from(("file", "buffer", "stream", "tee"))),
        digest=draw(st.sampled_from((None, "sha256", "md5"))),
        retries=draw(st.integers(0, 2)),
        insists=draw(st.sampled_from(("never", "401", "always"))),
        block=max(block, 7) if draw(st.booleans()) else block,
        hold_back=hold_back,
    )


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_whatever_sources_do(world: World) -> None:
    """Rules 1 to 6 in any sequence of events: the outcome is the model's, nothing is left; always the same examples."""
    check(world)


@pytest.mark.large
@pytest.mark.timeout(1800)
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds())
def test_whatever_sources_do_at_length(world: World) -> None:
    """The same with ever new examples, many of them."""
    check(world)


def test_the_model_knows_the_budget() -> None:
    """Examples of the model itself, from the rules: tries, rounds, and the one more after a 401."""

    def outcome(*sources: str, **changes: Any) -> object:
        scripts = tuple(Source(tuple(Step(kind) for kind in script.split(", "))) for script in sources)
        world = World(10, 0, scripts, "file", None, 0, insists="never", block=7, hold_back=1)
        found = expected(replace(world, **changes))
        return "success" if isinstance(found, bytes) else found

    assert outcome("ok") == "success"
    assert outcome("503, ok") is ServerError
    assert outcome("503, ok", retries=1) == "success"
    assert outcome("404, ok", retries=1) is NotFound
    assert outcome("404, ok", "503", retries=1) == "success"
    assert outcome("401, ok") is AccessDenied
    assert outcome("401, ok", insists="401") == outcome("401, ok", insists="always") == "success"
    assert outcome("503, ok", insists="always") is ServerError
    assert outcome("401, 401, ok", insists="401", retries=2) is AccessDenied
    assert outcome("401, 401, ok", "short", insists="401", retries=1) == "success"
    assert outcome("404", "503") is SourcesExhausted
    assert outcome("503, 404", "404", retries=1) is NotFound
    assert outcome("corrupt, ok", digest="sha256") is DigestMismatch
    assert outcome("corrupt, ok", digest="sha256", retries=1) == "success"
    assert outcome("error raises", "ok") is PluginError
    assert outcome("401, 401, prepare raises", insists="401") is PluginError
    assert outcome("503, prepare raises", insists="always") is PluginError
