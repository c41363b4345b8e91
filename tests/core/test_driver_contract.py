"""The contract for drivers finds what it is there to find: each fault fails the test that is named for it."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from downhaul import (
    Driver,
    FetchError,
    Info,
    NotFound,
    Payload,
    ProtocolError,
    RangeRefused,
    Request,
    Settings,
    Version,
)
from downhaul.testing import DriverContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ShelfDriver(Driver):
    """A faultless driver of files in memory, at ``shelf:`` URLs."""

    def __init__(self, shelf: dict[str, bytes]) -> None:
        self.shelf = shelf

    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncIterator[Payload]:
        yield self.answer(request)

    def answer(self, request: Request) -> Payload:
        if not request.url.isprintable():
            raise ProtocolError("control characters in the URL")
        content = self.shelf.get(request.url)
        if content is None:
            raise NotFound(f"nothing at {request.url}", 404, "Not Found")
        version = Version(hashlib.sha256(content).hexdigest(), size=len(content), strong=True)
        if request.offset > len(content) or request.version not in {None, version}:
            raise RangeRefused("no continuation")
        end = None if request.length is None else request.offset + request.length
        unchanged = request.unless == version
        info = Info(
            request.url, size=len(content), version=version, start=request.offset, resumable=True,
            not_modified=unchanged, proof="length",
        )  # fmt: skip
        return Payload(info, self.body(b"" if unchanged or request.verb == "stat" else content[request.offset : end]))

    async def body(self, content: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(content), 65536):
            yield content[start : start + 65536]
            await asyncio.sleep(0)


class TestShelf(DriverContract):
    """A faultless driver keeps the contract."""

    driver: type[ShelfDriver] = ShelfDriver

    @property
    def shelf(self) -> dict[str, bytes]:
        return self.__dict__.setdefault("files", {})

    def make_driver(self) -> ShelfDriver:
        return self.driver(self.shelf)

    def url_of(self, content: bytes) -> str:
        url = f"shelf:{len(self.shelf)}"
        self.shelf[url] = content
        return url

    def missing_url(self) -> str:
        return "shelf:missing"

    def unreachable_url(self) -> str:
        return "shelf:burnt"

    def replace_content(self, url: str, content: bytes) -> None:
        self.shelf[url] = content


class LosesTheLastByte(ShelfDriver):
    def body(self, content: bytes) -> AsyncIterator[bytes]:
        return super().body(content[:-1])


class GivesText(ShelfDriver):
    async def body(self, content: bytes) -> AsyncIterator[Any]:
        yield content.decode("latin-1")


class LiesAboutTheSize(ShelfDriver):
    def answer(self, request: Request) -> Payload:
        payload = super().answer(request)
        return replace(payload, info=replace(payload.info, size=7))


class ProvesNothing(ShelfDriver):
    def answer(self, request: Request) -> Payload:
        payload = super().answer(request)
        return replace(payload, info=replace(payload.info, proof="unproven"))


class IgnoresOffsets(ShelfDriver):
    def answer(self, request: Request) -> Payload:
        payload = super().answer(replace(request, offset=0, length=None))
        return replace(payload, info=replace(payload.info, start=request.offset))


class IgnoresVersions(ShelfDriver):
    def answer(self, request: Request) -> Payload:
        return super().answer(replace(request, version=None, unless=None))


class NeverChangesItsVersion(ShelfDriver):
    def answer(self, request: Request) -> Payload:
        payload = super().answer(replace(request, version=None, unless=None))
        return replace(payload, info=replace(payload.info, version=Version("eternal")))


class SendsBytesForAStat(ShelfDriver):
    def answer(self, request: Request) -> Payload:
        return super().answer(replace(request, verb="get"))


class MixesConcurrentAnswers(ShelfDriver):
    current = b""

    def body(self, content: bytes) -> AsyncIterator[bytes]:
        self.current = content
        return self.mixed(len(content))

    async def mixed(self, size: int) -> AsyncIterator[bytes]:
        for start in range(0, size, 65536):
            yield self.current[start : start + 65536]
            await asyncio.sleep(0)


class BreaksWhenLeftEarly(ShelfDriver):
    broken = False

    async def body(self, content: bytes) -> AsyncIterator[bytes]:
        self.broken, broken = True, self.broken
        yield b"remains of the answer before" if broken else content
        self.broken = False


class LeavesATask(ShelfDriver):
    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncIterator[Payload]:
        self.task = asyncio.create_task(asyncio.Event().wait())
        yield self.answer(request)


class LeavesATaskToItsClosing(LeavesATask):
    tasks: tuple[asyncio.Task[Any], ...] = ()

    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncIterator[Payload]:
        task = asyncio.create_task(asyncio.Event().wait())
        self.tasks += (task,)
        yield self.answer(request)
        task.cancel()  # not reached where an exception passes

    async def aclose(self) -> None:
        for task in self.tasks:
            task.cancel()


class LeavesASocket(ShelfDriver):
    def __init__(self, shelf: dict[str, bytes]) -> None:
        super().__init__(shelf)
        self.socket = socket.socket()

    def __del__(self) -> None:
        self.socket.close()


class SwallowsExceptions(ShelfDriver):
    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncIterator[Payload]:
        payload = self.answer(request)
        with suppress(Exception):
            yield payload


class WrapsExceptions(ShelfDriver):
    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncIterator[Payload]:
        try:
            yield self.answer(request)
        except Exception as reason:
            raise FetchError(str(reason)) from reason


class TurnsCancellingIntoAnError(ShelfDriver):
    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncIterator[Payload]:
        try:
            await asyncio.sleep(0)
            yield self.answer(request)
        except asyncio.CancelledError:
            raise FetchError("cancelled") from None


class RaisesKeyError(ShelfDriver):
    def answer(self, request: Request) -> Payload:
        self.shelf[request.url]
        return super().answer(request)


class ChainsACause(ShelfDriver):
    def answer(self, request: Request) -> Payload:
        try:
            self.shelf[request.url]
        except KeyError:
            raise NotFound("nothing there") from None
        return super().answer(request)


class SaysNothing(ShelfDriver):
    def answer(self, request: Request) -> Payload:
        if request.url not in self.shelf:
            raise NotFound
        return super().answer(request)


class DropsControlCharacters(ShelfDriver):
    def answer(self, request: Request) -> Payload:
        if not request.url.isprintable():
            request = replace(request, url="shelf:0")
        return super().answer(request)


class NamesTheToken(ShelfDriver):
    def answer(self, request: Request) -> Payload:
        if request.url not in self.shelf:
            raise NotFound(f"nothing there for {request.fields()}")
        return super().answer(request)


class HasUnhashableOptions(ShelfDriver):
    options = (list,)


class CannotBeClosedUnused(ShelfDriver):
    async def aclose(self) -> None:
        raise RuntimeError("never opened")


@pytest.mark.parametrize(
    ("fault", "test", "arguments"),
    [
        (LosesTheLastByte, "test_delivers_the_bytes_exactly", (1,)),
        (LosesTheLastByte, "test_range", (60_001, None)),
        (GivesText, "test_delivers_the_bytes_exactly", (1,)),
        (LiesAboutTheSize, "test_info_is_true", (100_003,)),
        (LiesAboutTheSize, "test_range", (60_001, None)),
        (LiesAboutTheSize, "test_stat", ()),
        (ProvesNothing, "test_info_is_true", (0,)),
        (IgnoresOffsets, "test_range", (70_000, 1)),
        (IgnoresOffsets, "test_offset_that_is_not_honoured", ()),
        (IgnoresOffsets, "test_offset_at_and_behind_the_end", (0,)),
        (IgnoresOffsets, "test_offset_at_and_behind_the_end", (1000,)),
        (IgnoresVersions, "test_never_continues_another_version", ()),
        (IgnoresVersions, "test_never_continues_replaced_content", ()),
        (IgnoresVersions, "test_not_modified", ()),
        (NeverChangesItsVersion, "test_replaced_content", ()),
        (SendsBytesForAStat, "test_stat", ()),
        (MixesConcurrentAnswers, "test_ten_at_once", ()),
        (MixesConcurrentAnswers, "test_two_read_in_turns", ()),
        (BreaksWhenLeftEarly, "test_left_midway", ()),
        (BreaksWhenLeftEarly, "test_left_by_an_exception", (1,)),
        (LeavesATask, "test_one_after_another", ()),
        (LeavesATaskToItsClosing, "test_left_by_an_exception", (0,)),
        (LeavesATaskToItsClosing, "test_cancelled_while_reading", ()),
        (LeavesATaskToItsClosing, "test_cancelled_at_any_time", ()),
        (LeavesATaskToItsClosing, "test_ten_cancelled_at_once", ()),
        (LeavesASocket, "test_one_after_another", ()),
        (SwallowsExceptions, "test_left_by_an_exception", (0,)),
        (WrapsExceptions, "test_left_by_an_exception", (0,)),
        (TurnsCancellingIntoAnError, "test_cancelled_while_opening", ()),
        (TurnsCancellingIntoAnError, "test_cancelled_while_reading", ()),
        (RaisesKeyError, "test_missing", ()),
        (RaisesKeyError, "test_missing_for_other_verbs", ("stat",)),
        (RaisesKeyError, "test_unreachable", ()),
        (ChainsACause, "test_missing", ()),
        (ChainsACause, "test_missing_range", ()),
        (SaysNothing, "test_missing", ()),
        (DropsControlCharacters, "test_control_characters_in_a_url", ("\r\nX: 1",)),
        (NamesTheToken, "test_no_secret_in_an_error", ()),
        (HasUnhashableOptions, "test_options_are_values", ()),
        (CannotBeClosedUnused, "test_closes_unused", ()),
    ],
)  # fmt: skip
def test_fault_is_found(fault: type[ShelfDriver], test: str, arguments: tuple[object, ...]) -> None:
    """A driver with one fault fails the test for it, which the faultless one passes."""
    sound, faulty = TestShelf(), TestShelf()
    faulty.driver, faulty.settling_seconds = fault, 0.1
    getattr(sound, test)(*arguments)
    # FetchError stands for the faults that turn another exception into it
    with pytest.raises((AssertionError, TypeError, KeyError, RuntimeError, FetchError)):
        getattr(faulty, test)(*arguments)


@pytest.mark.parametrize(
    ("flags", "fault", "skipped"),
    [
        ({"versioned": False}, IgnoresVersions, "test_not_modified"),
        ({"versioned": False}, NeverChangesItsVersion, "test_never_continues_replaced_content"),
        ({"resumable": False}, ShelfDriver, "test_continues_its_version"),
    ],
)
def test_what_a_driver_cannot_do_is_skipped(flags: dict[str, bool], fault: type[ShelfDriver], skipped: str) -> None:
    """A flag that is False skips what depends on it, with a reason."""
    suite = TestShelf()
    suite.driver = fault
    for flag, value in flags.items():
        setattr(suite, flag, value)
    with pytest.raises(pytest.skip.Exception, match=f"not {next(iter(flags))}"):
        getattr(suite, skipped)()
