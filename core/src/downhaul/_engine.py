"""The attempt engine: rounds, tries, resume, restart, and what becomes of an error.

Everything stateful belongs to the attempt, or is carried over explicitly: the bytes kept in the pipeline with what
is known of where they came from (`Kept`), the tries of the round (`_Round`), and the history.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from ._errors import (
    TERMINAL,
    AccessDenied,
    DownloadError,
    PluginError,
    PolicyError,
    ProtocolError,
    RangeRefused,
    SourcesExhausted,
    StreamBroken,
    TimeoutExceeded,
    Truncated,
    ValidationError,
)
from ._kept import Kept
from ._models import Payload, Request, Result
from ._pace import Paced
from ._pipeline import LARGE
from ._registry import cancellations, is_cancelled
from ._urls import scheme_of, show, source_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable

    from ._models import Block, Info, Retry
    from ._pipeline import Pipeline
    from ._registry import Hooks
    from ._transfer import Transfer

_CAP: Final = 100  # attempts, whatever plugins answer
_PROGRESS: Final = 1024 * 1024  # bytes more than the round before: then a round does not count
_NEW_CREDENTIALS_HELP: Final = frozenset({401, 530})
_log: Final = logging.getLogger("downhaul.engine")


@dataclass
class _Round:
    """The tries of one round."""

    tries: Counter[str] = field(default_factory=Counter)
    denied: dict[str, set[str]] = field(default_factory=dict)

    def may_try(self, source: str) -> bool:
        """Tell whether *source* has a try left: one, one more after a 401, and a last one after another challenge."""
        return self.tries[source] < 1 + min(2, len(self.denied.get(source, ())))

    def note(self, source: str, error: DownloadError) -> None:
        """Note whether *source* asks for credentials, and by which challenge (RFC 9110, section 11.6.1)."""
        if isinstance(error, AccessDenied):
            challenge = error.headers.get("WWW-Authenticate", "")
            if error.code in _NEW_CREDENTIALS_HELP or challenge:
                self.denied.setdefault(source, set()).add(challenge)


class _NoTryLeft(DownloadError):
    """The plugins aim at a source that has had its tries of this round."""


class _Spent:
    """The body of an answer that was left: nothing."""

    def __aiter__(self) -> _Spent:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


_SPENT: Final = _Spent()


class Engine:
    """Runs the attempts of one transfer."""

    def __init__(self, transfer: Transfer, hooks: Hooks, pipeline: Pipeline) -> None:
        self._transfer, self._hooks, self._pipeline = transfer, hooks, pipeline
        self._kept = Kept(transfer, pipeline)
        self._rounds_used = 0
        self._kept_before = 0
        self._published: Result | None = None
        self._cancellations = cancellations

    async def run(self) -> Result | DownloadError:
        """Run within the total time limit; whatever happens, leave nothing behind and call `done` once.

        A failure is returned: raised here, it would hold the transfer by its traceback for as long as anybody keeps it.
        """
        transfer, pipeline = self._transfer, self._pipeline
        task = asyncio.current_task()
        if task is not None:
            self._cancellations = task.cancelling
        total = transfer.settings.timeout.total if transfer.settings.timeout is not None else None
        result: Result | None = None
        failure: DownloadError | None = None
        try:
            try:
                if total is None:
                    result = await self._attempts()
                else:
                    async with asyncio.timeout(total):
                        result = await self._attempts()
            except TimeoutError:
                failure = TimeoutExceeded(f"the download took longer than {total} s in total", "total")
            except DownloadError as error:
                failure = error
            finally:
                await pipeline.halt()
        finally:
            if not pipeline.committed:
                pipeline.discard()
            if pipeline.outlet is None:
                result = result or self._published  # what is published is, even if time ran out meanwhile
            if failure is not None:
                failure.belongs_to(
                    transfer.download.url, transfer.request.url, transfer.history, transfer.download.attachment
                )
                failure.__cause__ = failure.__context__ = failure.__traceback__ = None
            self._hooks.done(transfer, result or self._published or failure)
            if transfer.payload is not None:  # its body holds what the driver had open, and so may hold our task
                transfer.payload = Payload(transfer.payload.info, _SPENT)
        if result is not None:
            return result
        assert failure is not None
        return failure

    async def _attempts(self) -> Result:
        """Attempt until one succeeds or nobody knows a way any more."""
        transfer = self._transfer
        transfer.context._drivers.check(scheme_of(transfer.request.url), transfer.request.url)
        await transfer.context._bound().lifetimes.enter(self._hooks.plugins)
        self._pipeline.open(transfer.download.writer if transfer._base.verb == "get" else None, transfer)
        this_round, error, next_hook = _Round(), DownloadError(), 0
        while True:
            outcome = await self._try(this_round)
            if isinstance(outcome, Result):
                return outcome
            if not isinstance(outcome, _NoTryLeft):
                error, next_hook = outcome, 0
            retry, name, place = await self._hooks.error(transfer, error, next_hook)
            if retry is None or not self._follows(retry):
                self._note_repair(None)
                raise self._final(error)
            next_hook = place or 0
            self._note_repair(name)
            if retry.after is None:
                _log.info("%s: %s: %s; %s knows another way", transfer, show(error.source), error, name)
            else:
                _log.info(
                    "%s: %s: %s; round %d in %.1f s",
                    transfer,
                    show(error.source),
                    error,
                    transfer.round + 1,
                    retry.after,
                )
                await asyncio.sleep(retry.after)
                transfer.round += 1
                this_round = _Round()

    async def _try(self, this_round: _Round) -> Result | DownloadError:
        """Make one attempt; return the result, or an error that may be repaired; raise what is terminal."""
        transfer, before = self._transfer, self._transfer._request
        transfer.attempt += 1
        transfer._begin_attempt()
        terminal: DownloadError
        try:
            await self._prepare()
            source = transfer.request.url
            if not this_round.may_try(source):
                transfer.attempt -= 1
                transfer._request = before  # the hooks that are asked next are asked about the attempt that was made
                return _NoTryLeft()
            this_round.tries[source] += 1
            return await self._attempt()
        except TERMINAL as error:
            terminal = error
        except DownloadError as error:
            source = transfer.request.url
            this_round.note(source, error)
            if not (isinstance(error, PolicyError) and source == transfer._base.url):
                self._record(error)
                return error
            terminal = error
        self._record(terminal)
        raise terminal

    async def _prepare(self) -> None:
        """Let plugins aim and authorise, then hold what they aimed at against the rules."""
        transfer = self._transfer
        if not self._hooks.prepares:
            return
        transfer._preparing = True
        try:
            await self._hooks.prepare(transfer)
        except DownloadError:
            with suppress(PolicyError):  # what is told is why it failed
                transfer._request = transfer._aimed(transfer.request)
            raise
        finally:
            transfer._preparing = False
        if transfer.request is transfer._base:
            return
        transfer._request = transfer._aimed(transfer.request)
        transfer._check_aim(transfer.request.url)

    async def _attempt(self) -> Result:
        """Open, receive, validate, publish; where continuing or asking by a version went wrong, once more from 0."""
        request = self._kept.continued(self._transfer.request)
        try:
            return await self._deliver(request)
        except RangeRefused as error:
            # An answer that is put together may have been refused behind its start, too.
            together = self._transfer.payload is not None and self._transfer.payload.info.sources
            if request == _whole(request) and not together:
                raise
            _log.info("%s: %s; starting again from 0", self._transfer, error)
        except ValidationError as error:
            joined = self._kept.joined
            self._kept.restart()
            if not joined:
                raise
            self._kept.join_no_more()
            _log.info("%s: %s; bytes of several answers, so again from 0", self._transfer, error)
        self._kept.restart()
        try:
            return await self._deliver(_whole(request))
        except ValidationError:
            self._kept.restart()
            raise

    async def _deliver(self, request: Request) -> Result:
        transfer = self._transfer
        transfer._request = request
        payload, part = await self._fetch(request), self._kept.part
        if payload.info.not_modified or request.verb == "stat":
            if self._pipeline.outlet is not None:
                self._kept.restart()  # bytes of earlier attempts that are held back are not the answer
                await self._pipeline.outlet.finish()
            return self._result(payload, 0)
        if part is None:
            await self._hooks.validate(transfer)
        result = self._result(payload, self._pipeline.position if part is None else len(part))
        await self._publish(result)
        return result

    async def _fetch(self, request: Request) -> Payload:
        """Enter the answer, receive its bytes, leave it; a slot is held meanwhile."""
        transfer, received = self._transfer, None
        failure: PluginError
        before = self._cancellations()
        try:
            async with self._hooks.fetch(transfer) as payload:
                if self._cancellations() > before:
                    raise asyncio.CancelledError
                if not isinstance(payload, Payload):
                    raise PluginError(f"{self._hooks.suspects('fetch')} opened {payload!r}, which is no Payload")
                transfer.payload = payload
                if transfer._opened is not None:
                    transfer._opened()
                if request.verb == "stat":
                    self._kept.check(payload.info)
                elif not payload.info.not_modified:
                    self._kept.begin(request, payload.info)
                    await self._receive(payload)
                elif request.unless is None:
                    raise ProtocolError(f"{show(request.url)} says not modified, though nobody asked")
                elif request.unless.source not in {None, source_name(request.url, payload.info.url)}:
                    # A server chooses its tags for itself: an equal one is chance (RFC 9110, section 8.8.1).
                    raise RangeRefused(f"{show(payload.info.url)} says not modified, of a version of another source")
                received = payload
            if self._cancellations() > before:
                raise asyncio.CancelledError  # it came meanwhile, and the answer kept it to itself
            if received is None:
                raise PluginError(f"what {self._hooks.suspects('fetch')} answered with swallowed an exception")
            return received
        except DownloadError:
            raise
        except asyncio.CancelledError as reason:
            if is_cancelled():
                raise
            failure = self._hooks.failed("fetch", reason)  # nobody cancelled us: its own doing
        except Exception as reason:
            failure = self._hooks.failed("fetch", reason)
        raise failure

    async def _receive(self, payload: Payload) -> None:
        """Feed the body to the pipeline; whatever happens, sink and checks stand at one position afterwards."""
        transfer, pipeline, info, size = self._transfer, self._pipeline, payload.info, self._kept.size
        # Who names the sources of its answer has an eye on each of them: its own blocks wait for the slowest.
        limit_of_speed = None if info.sources else transfer.low_speed
        body = payload.body if limit_of_speed is None else Paced(payload.body, limit_of_speed, info.url)
        readinto = getattr(body, "readinto", None)
        is_for_ring = size is not None and size - pipeline.position > LARGE and pipeline.outlet is None
        try:
            if size is not None and self._kept.part is None and not pipeline.position:
                pipeline.expect(size)
            if readinto is not None and is_for_ring and self._kept.part is None:
                await self._fill(readinto, info)
            else:
                await self._feed(body, info)
        except DownloadError:
            await self._kept.keep(info)
            raise
        finally:
            close = getattr(payload.body, "aclose", None)
            if close is not None:
                await close()
        await pipeline.drain()
        end = size if self._kept.part is None else self._kept.part.stop
        if end is not None and pipeline.position < end:
            short = Truncated(f"{pipeline.position} of {end} bytes came, the last from {show(info.url)}")
            await self._kept.keep(info)
            raise short
        if pipeline.outlet is not None:
            pipeline.outlet.complete()

    async def _feed(self, body: AsyncIterable[Block], info: Info) -> None:
        """Hand the pipeline one block of *body* after the other."""
        transfer, pipeline, part = self._transfer, self._pipeline, self._kept.part
        since = time.monotonic()
        async for block in body:
            transfer.seconds += time.monotonic() - since
            await pipeline.feed(block)
            self._check_received(info)
            if part is not None and pipeline.position >= part.stop:
                break  # whoever ignores ranges would go on
            since = time.monotonic()

    async def _fill(self, readinto: Callable[[memoryview], Awaitable[int]], info: Info) -> None:
        """Let a large body fill the memory of the pipeline."""
        transfer, pipeline = self._transfer, self._pipeline
        while True:
            view = await pipeline.room()
            since = time.monotonic()
            number = await readinto(view)
            transfer.seconds += time.monotonic() - since
            if not number:
                return
            pipeline.filled(number)
            self._check_received(info)

    def _check_received(self, info: Info) -> None:
        """Raise where more has come than was announced, or is allowed."""
        position, size, limit = self._pipeline.position, self._kept.size, self._transfer.settings.max_size
        if size is not None and position > size:
            raise ProtocolError(f"{show(info.url)} sent more than the {size} bytes that it announced")
        if limit is not None and position > limit:
            raise PolicyError(f"{show(info.url)} sent more than max_size={limit} bytes")

    async def _publish(self, result: Result) -> None:
        try:
            await self._pipeline.commit()
        finally:
            if self._pipeline.committed:
                self._published = result
        if self._pipeline.outlet is not None:
            await self._pipeline.outlet.finish()

    def _result(self, payload: Payload, size: int) -> Result:
        transfer, info = self._transfer, payload.info
        version = None if info.version is None else info.version.of(source_name(transfer.request.url, info.url))
        return Result(
            url=transfer._base.url,
            source=info.url,
            path=None if self._pipeline.sink is None else getattr(transfer.download.writer, "path", None),
            size=size,
            digests={} if info.not_modified or transfer.request.verb == "stat" else transfer.digests,
            headers=info.headers_of_whole(),
            attempts=transfer.attempt,
            attachment=transfer.download.attachment,
            not_modified=info.not_modified,
            proof="not modified" if info.not_modified else self._kept.proof(info),
            version=version,
            history=transfer.history,
            part=range(0) if transfer.request.verb == "stat" else self._kept.part,
        )

    def _record(self, error: DownloadError) -> None:
        """Enter the failed attempt in the history; the exception itself holds on to nothing."""
        transfer = self._transfer
        sources = () if transfer.payload is None else transfer.payload.info.sources
        source = sources[0] if len(sources) == 1 else transfer.request.url
        error.__cause__ = error.__context__ = error.__traceback__ = None
        error.source = error.source or source
        transfer._enter(error, source)

    def _note_repair(self, name: str | None) -> None:
        *before, last = self._transfer.history
        self._transfer.history = (*before, replace(last, repaired_by=name))

    def _follows(self, retry: Retry) -> bool:
        """Tell whether a Retry is followed: rounds and attempts are counted here, whoever asks for more."""
        if self._transfer.attempt >= _CAP:
            return False
        if retry.after is None:
            return True
        if self._is_contradicted():
            return False
        kept = self._pipeline.position
        progress = self._rounds_used > 0 and kept - self._kept_before >= _PROGRESS
        self._rounds_used += not progress
        self._kept_before = kept
        return self._rounds_used <= (self._transfer.settings.retries or 0)

    def _is_contradicted(self) -> bool:
        """Tell whether a source of this round has other bytes than a consumer got, and all who could judge agree.

        The others failed for good, or sent bytes that are not valid: to read them all again would tell nothing new.
        """
        errors = [each.error for each in self._transfer.history if each.round == self._transfer.round]
        wrong = [each for each in errors if isinstance(each, ValidationError)]
        passing = any(each.transient and each not in wrong for each in errors)
        return not passing and any(not each.transient for each in wrong)

    def _final(self, error: DownloadError) -> DownloadError:
        """Return the error to raise: where sources failed for different reasons in the end, none is the reason."""
        outlet = self._pipeline.outlet
        last = {attempt.source: attempt.error for attempt in self._transfer.history}
        told = "; ".join(f"{show(source)}: {type(each).__name__}: {each}" for source, each in list(last.items())[-10:])
        if outlet is not None and outlet.released:
            return StreamBroken(f"nobody continues the stream after {outlet.released} bytes: {told or error}")
        if len({type(each) for each in last.values()}) <= 1:
            longest = max((error, *last.values()), key=lambda each: each.retry_after or 0)
            return error if longest is error else longest.copy()
        return SourcesExhausted(f"{len(last)} sources failed: {told}", list(last.values()))


def _whole(request: Request) -> Request:
    return replace(request, offset=0, length=None, version=None, unless=None)
