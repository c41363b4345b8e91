"""A search for a canary: all that can be read of what a download leaves behind, or that is logged meanwhile.

seen = Seen()
with seen.listening():
    ...                                     # with a Witness(seen) among the plugins
    seen.take("outcome", outcome)
assert seen.leaks() == []
"""

from __future__ import annotations

import io
import logging
import pickle
import re
import sys
import traceback
import warnings
from base64 import b64encode
from collections.abc import Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from downhaul import Attempt, DownloadError, Headers, Plugin, Result, hookimpl

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from types import TracebackType

    from downhaul import Transfer

MARK: Final = "c4naryZx7Qk"
"""What stands in every secret."""
LOGGERS: Final = ("", "downhaul", "httpx", "httpcore", "httpcore.http11", "hpack", "aioftp", "aioftp.client", "asyncio",
                  "authlib", "dns")  # fmt: skip
URLS: Final = frozenset({"url", "source", "sources", "redirects"})
"""Attributes that are URLs for a program to use: without userinfo, but their query must stay."""
_TESTS: Final = str(Path(__file__).parents[1])
_QUERY: Final = re.compile(r"(?<=[?&])([^=&#\s]*)=[^&#\s'\"]*")


def needles(secret: str) -> Iterator[str]:
    """Yield what *secret* may look like in a text: as it is, and encoded in every way that is in use."""
    raw = secret.encode()
    yield secret
    yield raw.hex()
    yield raw.hex().upper()
    for each in (str.lower, str.upper):
        yield "".join(f"%{each(f'{byte:02x}')}" for byte in raw)
    yield "".join(f"\\x{byte:02x}" for byte in raw)
    for coding in ("utf-16-le", "utf-16-be"):
        wide = secret.encode(coding)
        yield wide.decode("latin-1")
        yield repr(wide)[2:-1].strip("\0")
    for before in range(3):  # the place in a group of three bytes decides what base64 makes of it
        coded = b64encode(bytes(before) + raw).decode().rstrip("=")
        whole = coded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        yield whole
        yield whole.translate(str.maketrans("+/", "-_"))


class Seen:
    """All texts that could be seen, with the place where.

    *secrets* are such without the mark in them; *told* are header fields in which a server has secrets of its own.
    """

    def __init__(self, secrets: Iterable[str] = (), told: Iterable[str] = ()) -> None:
        self.told = frozenset({"Location", "Set-Cookie", *told})
        self.texts: list[tuple[str, str]] = []
        every = [needle for secret in (MARK, *secrets) for needle in needles(secret)]
        self._canary = re.compile("|".join(map(re.escape, dict.fromkeys(every))))
        self._known: set[int] = set()
        self._kept: list[object] = []  # so that no identity is given twice

    def leaks(self) -> list[tuple[str, str]]:
        """Return the places and texts that show a canary."""
        return [
            (where, text[max(0, match.start() - 200) : match.end() + 50])
            for where, text in dict.fromkeys(self.texts)
            if (match := self._canary.search(text))
        ]

    def add(self, where: str, text: object) -> None:
        """Add a text, or bytes."""
        self.texts.append((where, text.decode("latin-1") if isinstance(text, bytes) else str(text)))

    def show(self, where: str, thing: object) -> None:
        """Add what a program shows of *thing* by itself."""
        self.add(f"repr of {where}", repr(thing))
        self.add(f"str of {where}", f"{thing}")

    def take(self, where: str, thing: object) -> None:
        """Add all that can be read of *thing*: shown, pickled, and what it holds on to."""
        if id(thing) in self._known or isinstance(thing, type):
            return
        self._known.add(id(thing))
        self._kept.append(thing)
        if isinstance(thing, str | bytes):
            self.add(where, thing)
            return
        self.show(where, thing)
        if isinstance(thing, Headers):
            thing = thing.without(self.told)
        if isinstance(thing, Mapping):
            self.take(where, tuple(thing.items()))
        elif isinstance(thing, list | tuple | set | frozenset):
            for each in thing:
                self.take(where, each)
        elif isinstance(thing, BaseException):
            self.take_exception(where, thing)
        if isinstance(thing, DownloadError | Result | Attempt):
            self.add(f"pickle of {where}", pickle.dumps(self.untold(thing)))
            slots = [slot for kind in type(thing).__mro__ for slot in getattr(kind, "__slots__", ())]
            attributes = {**{slot: getattr(thing, slot) for slot in slots}, **getattr(thing, "__dict__", {})}
            for name, value in attributes.items():
                if name in URLS:
                    self.url(f"{where}.{name}", value)
                else:
                    self.take(f"{where}.{name}", value)

    def untold(self, thing: Any) -> Any:
        """Return a result, an error or an attempt less what a server told of its own accord in header fields."""
        if isinstance(thing, Attempt):
            return replace(thing, error=self.untold(thing.error))
        if isinstance(thing, Result):
            return replace(
                thing, headers=thing.headers.without(self.told), history=tuple(map(self.untold, thing.history))
            )
        if isinstance(thing, DownloadError):
            thing = thing.copy()
            for name, value in vars(thing).items():
                vars(thing)[name] = self.untold(value)
        if isinstance(thing, Headers):
            return thing.without(self.told)
        return tuple(map(self.untold, thing)) if isinstance(thing, tuple) else thing

    def take_exception(self, where: str, error: BaseException) -> None:
        """Add what can be read of an exception: the chain, notes, and its traceback with the locals of our frames."""
        for each in (error.args, error.__cause__, error.__context__, getattr(error, "__notes__", ())):
            self.take(f"{where} inside", each)
        self.take_traceback(where, type(error), error, error.__traceback__)

    def take_traceback(
        self, where: str, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """Add a traceback as whoever shows locals would print it; those of the tests are the tests' own."""
        told: traceback.TracebackException | None = traceback.TracebackException(
            kind, error, trace, capture_locals=True
        )
        self.add(f"traceback of {where}", "".join(traceback.format_exception(kind, error, trace)))
        while told is not None:
            for frame in told.stack:
                if not frame.filename.startswith(_TESTS):
                    for name, value in (frame.locals or {}).items():
                        self.add(f"local {name} of {frame.name}, {frame.filename}:{frame.lineno}", value)
            told = told.__cause__ or told.__context__

    def url(self, where: str, url: object) -> None:
        """Add a URL that a program may use: the values of its query are its own business, its userinfo is not."""
        self.add(where, _QUERY.sub(r"\1=", str(url)))

    @contextmanager
    def listening(self) -> Generator[None]:
        """Add all that is logged, warned of, or printed meanwhile."""
        handler, levels = _Handler(self), {name: logging.getLogger(name).level for name in LOGGERS}
        out, err = sys.stdout, sys.stderr
        logging.getLogger().addHandler(handler)
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.DEBUG)
        sys.stdout, sys.stderr = printed = [io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2)]
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield
        finally:
            sys.stdout, sys.stderr = out, err
            logging.getLogger().removeHandler(handler)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
        for warning in caught:
            self.add("warning", f"{warning.message} {warning.message!r}")
        for stream in printed:
            stream.flush()
            self.add("printed", stream.buffer.getvalue().decode())
        assert not caught, caught


class _Handler(logging.Handler):
    """Takes each record in every form in which a handler could write it."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(logging.DEBUG)
        self._seen = seen
        self.names: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        where = f"log of {record.name}"
        self._seen.add(where, record.getMessage())
        self._seen.add(where, repr(record.args))
        self._seen.add(where, repr(vars(record)))
        if record.exc_info and record.exc_info[0] is not None:
            self._seen.take_traceback(where, *record.exc_info)
        if record.stack_info:
            self._seen.add(where, record.stack_info)


class Witness(Plugin):
    """Sees all that a plugin is shown of every transfer, nested ones too, and the names of the files in *places*."""

    def __init__(self, seen: Seen, *places: Path) -> None:
        self.seen, self.places = seen, places
        self.events: list[str] = []
        self.mistakes: list[Exception] = []

    def look(self, event: str, transfer: Transfer, *more: object) -> None:
        """Take all that can be read in a hook; a mistake of ours is no plugin's failure, but told in the end."""
        self.events.append(event)
        try:
            self._look(event, transfer, *more)
        except Exception as mistake:
            self.mistakes.append(mistake)

    def _look(self, event: str, transfer: Transfer, *more: object) -> None:
        seen = self.seen
        while True:
            request = transfer.request
            told = (
                transfer, request, request.credentials, request.entitled, request.user, transfer.alternatives,
                transfer.download, transfer.settings, transfer.context, transfer.context.settings, transfer.payload,
                transfer.low_speed, transfer.download.settings, transfer.download.plugins, transfer.context.plugins,
                transfer.settings.home, transfer.settings.elsewhere, transfer.settings.connection,
            )  # fmt: skip
            for thing in told:
                seen.show(f"{type(thing).__name__} in {event}", thing)
            for plugin in (*transfer.download.plugins, *transfer.context.plugins):
                seen.show(f"{type(plugin).__name__} in {event}", plugin)
            seen.take(f"history in {event}", transfer.history)
            seen.url(f"url in {event}", transfer.url)
            if event != "prepare":  # where a plugin has aimed, and the engine has not looked yet
                seen.url(f"request.url in {event}", (request.url, request.redirects, request.origin))
            if transfer.payload is not None:
                info = transfer.payload.info
                seen.show(f"info in {event}", info)
                seen.show(f"headers in {event}", info.headers)
                seen.url(f"info.url in {event}", (info.url, info.sources, [url for url, _ in info.trail]))
            for thing in more:
                seen.take(f"argument of {event}", thing)
            if transfer.parent is None:
                break
            transfer = transfer.parent
        for place in self.places:
            for path in place.rglob("*"):
                seen.add("name of a file", str(path))

    @hookimpl(trylast=True)
    async def prepare(self, transfer: Transfer) -> None:
        self.look("prepare", transfer)

    @hookimpl(wrapper=True, tryfirst=True)
    def fetch(self, transfer: Transfer) -> Any:
        self.look("fetch", transfer)
        answer = yield
        return self._watched(transfer, answer)

    @asynccontextmanager
    async def _watched(self, transfer: Transfer, answer: Any) -> Any:
        async with answer as payload:
            self.seen.show("payload", payload)
            self.look("open", transfer)
            yield payload

    @hookimpl(trylast=True)
    async def validate(self, transfer: Transfer) -> None:
        self.look("validate", transfer)

    @hookimpl(tryfirst=True)
    async def error(self, transfer: Transfer, error: DownloadError) -> None:
        self.look("error", transfer, error)

    @hookimpl(trylast=True)
    def done(self, transfer: Transfer, outcome: Result | DownloadError | None) -> None:
        self.look("done", transfer, outcome)
