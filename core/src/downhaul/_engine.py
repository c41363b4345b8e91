"""The attempt engine: rounds, tries, resume, restart, and what becomes of an error.

Everything stateful belongs to the attempt, or is carried over explicitly: the bytes kept in the pipeline with what
is known of where they came from (`_Kept`), the tries of the round (`_Round`), and the history.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

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
from ._models import Attempt, Info, Payload, Request, Result, Version, check_aim
from ._settings import User
from ._urls import check_url, scheme_of, show, split_userinfo
from ._validations import DigestValidation, SizeValidation

if TYPE_CHECKING:
    from ._models import Retry
    from ._pipeline import Pipeline
    from ._registry import Hooks
    from ._transfer import Transfer

_CAP: Final = 100  # attempts, whatever plugins answer
_PROGRESS: Final = 1024 * 1024  # bytes more than the round before: then a round does not count
_COMPARED: Final = 64 * 1024 * 1024  # bytes of a stream that are read again to compare, rather than trusted
_NEW_CREDENTIALS_HELP: Final = frozenset({401, 530})
_log: Final = logging.getLogger("downhaul.engine")


@dataclass
class _Kept:
    """What is known of the bytes in the pipeline: who sent the last of them, and whether others sent some too."""

    source: str = ""
    version: Version | None = None
    resumable: bool = False
    size: int | None = None
    joined: bool = False  # continued with nothing but an expected digest to judge the whole


@dataclass
class _Round:
    """The tries of one round."""

    tries: Counter[str] = field(default_factory=Counter)
    denied: set[str] = field(default_factory=set)

    def may_try(self, source: str) -> bool:
        """Tell whether *source* has a try left: one, and one more after a 401."""
        return self.tries[source] < 1 + (source in self.denied)


class _NoTryLeft(DownloadError):
    """The plugins aim at a source that has had its tries of this round."""


class Engine:
    """Runs the attempts of one transfer."""

    def __init__(self, transfer: Transfer, hooks: Hooks, pipeline: Pipeline) -> None:
        self._transfer, self._hooks, self._pipeline = transfer, hooks, pipeline
        self._kept = _Kept()
        self._may_join = True
        self._rounds_used = 0
        self._kept_before = 0
        self._published: Result | None = None

    async def run(self) -> Result:
        """Run within the total time limit; whatever happens, leave nothing behind and call `done` once."""
        transfer, pipeline = self._transfer, self._pipeline
        total = transfer.settings.timeout.total if transfer.settings.timeout is not None else None
        result: Result | None = None
        failure: DownloadError | None = None
        try:
            try:
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
            self._hooks.done(transfer, result or self._published or failure)
        if result is not None:
            return result
        assert failure is not None
        failure.__cause__ = failure.__context__ = None
        raise failure

    async def _attempts(self) -> Result:
        """Attempt until one succeeds or nobody knows a way any more."""
        transfer = self._transfer
        transfer.context._drivers.check(scheme_of(transfer.request.url), transfer.request.url)
        await transfer.context._bound().lifetimes.enter(self._hooks.plugins)
        self._pipeline.open(transfer.download.writer, transfer)
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
                _log.info("%s: %s; %s knows another way", transfer, error, name)
            else:
                _log.info("%s: %s; round %d in %.1f s", transfer, error, transfer.round + 1, retry.after)
                await asyncio.sleep(retry.after)
                transfer.round += 1
                this_round = _Round()

    async def _try(self, this_round: _Round) -> Result | DownloadError:
        """Make one attempt; return the result, or an error that may be repaired; raise what is terminal."""
        transfer = self._transfer
        transfer.attempt += 1
        transfer.payload = None
        transfer._request = transfer._base
        terminal: DownloadError
        try:
            await self._prepare()
            source = transfer.request.url
            if not this_round.may_try(source):
                transfer.attempt -= 1
                return _NoTryLeft()
            this_round.tries[source] += 1
            return await self._attempt(source)
        except TERMINAL as error:
            terminal = error
        except DownloadError as error:
            source = transfer.request.url
            if isinstance(error, AccessDenied) and error.code in _NEW_CREDENTIALS_HELP:
                this_round.denied.add(source)
            if not (isinstance(error, PolicyError) and source == transfer._base.url):
                self._record(error)
                return error
            terminal = error
        self._record(terminal)
        raise terminal

    async def _prepare(self) -> None:
        """Let plugins aim and authorise, then hold what they aimed at against the rules."""
        transfer = self._transfer
        transfer._preparing = True
        try:
            await self._hooks.prepare(transfer)
        finally:
            transfer._preparing = False
        request = transfer.request
        if request is transfer._base:
            return
        try:
            url, userinfo = split_userinfo(check_url(request.url))
        except ValueError as reason:
            raise PolicyError(f"a plugin aims at what is no URL: {reason}") from None
        if userinfo is not None:
            request = replace(request, url=url).authorized(user=User(*userinfo))
        transfer._request = request
        check_aim(transfer._base.url, url, transfer._base.schemes)
        transfer.context._drivers.check(scheme_of(url), url)

    async def _attempt(self, source: str) -> Result:
        """Open, receive, validate, publish; where continuing went wrong, once more from 0."""
        request = replace(self._transfer.request, **self._continuation(source))
        try:
            return await self._deliver(request, source)
        except RangeRefused as error:
            if not request.offset:
                raise
            _log.info("%s: %s; starting again from 0", self._transfer, error)
        except ValidationError as error:
            joined = self._kept.joined
            self._restart()
            if not joined:
                raise
            self._may_join = False
            _log.info("%s: %s; bytes of several answers, so again from 0", self._transfer, error)
        self._restart()
        try:
            return await self._deliver(replace(request, offset=0, version=None), source)
        except ValidationError:
            self._restart()
            raise

    def _continuation(self, source: str) -> dict[str, Any]:
        """Return where to continue from, and what must not have changed there; nothing but 0 without proof."""
        kept, position, outlet = self._kept, self._pipeline.position, self._pipeline.outlet
        start: dict[str, Any] = {"offset": 0, "length": None, "version": None}
        if not position or not kept.resumable:
            return start
        on = {"offset": position, "length": None, "version": None, "unless": None}
        if kept.source == source and kept.version is not None and kept.version.strong:
            return {**on, "version": kept.version}
        if outlet is not None and 0 < outlet.released <= _COMPARED:
            return start  # a stream with bytes delivered reads past them and compares
        judged = any(each.identifies and each.enforced for each in self._pipeline.validations)
        return on if judged and self._may_join else start

    async def _deliver(self, request: Request, source: str) -> Result:
        transfer = self._transfer
        transfer._request = request
        payload = await self._fetch(request, source)
        if payload.info.not_modified:
            return self._result(payload, 0)
        await self._hooks.validate(transfer)
        result = self._result(payload, self._pipeline.position)
        await self._publish(result)
        return result

    async def _fetch(self, request: Request, source: str) -> Payload:
        """Enter the answer, receive its bytes, leave it; a slot is held meanwhile."""
        transfer, received = self._transfer, None
        failure: PluginError
        try:
            async with self._hooks.fetch(transfer) as payload:
                if not isinstance(payload, Payload):
                    raise PluginError(f"a fetch hook opened {payload!r}, which is no Payload")
                transfer.payload = payload
                if not payload.info.not_modified:
                    self._begin(request, payload.info, source)
                    await self._receive(payload)
                elif request.unless is None:
                    raise ProtocolError(f"{show(source)} says not modified, though nobody asked")
                received = payload
            if received is None:
                raise PluginError("the context manager that a fetch hook answered with swallowed an exception")
            return received
        except DownloadError:
            raise
        except Exception as reason:
            failure = self._hooks.failed("fetch", reason)
        raise failure

    def _begin(self, request: Request, info: Info, source: str) -> None:
        """Hold the answer's head against what was asked; append only where it continues the bytes kept."""
        kept, position, joined = self._kept, self._pipeline.position, False
        if request.offset and info.start == request.offset:
            if request.version is not None and info.version is not None and request.version.contradicts(info.version):
                raise RangeRefused(f"{show(source)} has another version of the file now")
            if kept.size is not None and info.size is not None and kept.size != info.size:
                raise RangeRefused(f"{show(source)} has {info.size} bytes, not {kept.size}")
            joined = kept.joined or request.version is None
        elif info.start:
            raise RangeRefused(f"{show(source)} answers from byte {info.start}, asked for {request.offset}")
        elif position:
            self._restart()
        self._kept = _Kept(source, info.version, info.resumable, info.size, joined)
        self._check_limits(info)

    def _check_limits(self, info: Info) -> None:
        settings = self._transfer.settings
        if settings.max_size is not None and info.size is not None and info.size > settings.max_size:
            raise PolicyError(f"{info.size} bytes are more than max_size={settings.max_size}")
        if settings.require_proof and self._proof(info) == "unproven":
            raise ProtocolError(
                f"nothing would prove that {show(info.url)} is complete; give a size or a digest,"
                " or allow it with require_proof=False"
            )

    async def _receive(self, payload: Payload) -> None:
        """Feed the body to the pipeline; whatever happens, sink and checks stand at one position afterwards."""
        pipeline, info, limit = self._pipeline, payload.info, self._transfer.settings.max_size
        try:
            async for block in payload.body:
                await pipeline.feed(block)
                if info.size is not None and pipeline.position > info.size:
                    raise ProtocolError(f"{show(info.url)} sent more than the {info.size} bytes that it announced")
                if limit is not None and pipeline.position > limit:
                    raise PolicyError(f"{show(info.url)} sent more than max_size={limit} bytes")
        except DownloadError:
            await self._keep(info)
            raise
        finally:
            close = getattr(payload.body, "aclose", None)
            if close is not None:
                await close()
        await pipeline.drain()
        if info.size is not None and pipeline.position < info.size:
            await self._keep(info)
            raise Truncated(f"{pipeline.position} of {info.size} bytes came from {show(info.url)}")

    async def _keep(self, info: Info) -> None:
        """After a failure: keep what arrived, where it may be continued."""
        await self._pipeline.drain()
        too_much = info.size is not None and self._pipeline.position > info.size
        if too_much or not info.resumable:
            self._restart()

    def _restart(self) -> None:
        self._pipeline.restart()
        self._kept = _Kept()

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
        return Result(
            url=transfer._base.url,
            source=info.url,
            path=getattr(transfer.download.writer, "path", None),
            size=size,
            digests={} if info.not_modified else transfer.digests,
            headers=info.headers,
            attempts=transfer.attempt,
            attachment=transfer.download.attachment,
            not_modified=info.not_modified,
            proof="not modified" if info.not_modified else self._proof(info),
            version=info.version,
            history=transfer.history,
        )

    def _proof(self, info: Info) -> str:
        if info.proof != "unproven":
            return info.proof
        for validation in self._pipeline.validations:
            if validation.enforced and isinstance(validation, DigestValidation | SizeValidation):
                return "size" if isinstance(validation, SizeValidation) else "digest"
        return "unproven"

    def _record(self, error: DownloadError) -> None:
        """Enter the failed attempt in the history; the exception itself holds on to nothing."""
        transfer, source = self._transfer, self._transfer.request.url
        error.__cause__ = error.__context__ = error.__traceback__ = None
        error.source = error.source or source
        transfer.history = (*transfer.history, Attempt(source, transfer.round, self._pipeline.position, error))

    def _note_repair(self, name: str | None) -> None:
        *before, last = self._transfer.history
        self._transfer.history = (*before, replace(last, repaired_by=name))

    def _follows(self, retry: Retry) -> bool:
        """Tell whether a Retry is followed: rounds and attempts are counted here, whoever asks for more."""
        if self._transfer.attempt >= _CAP:
            return False
        if retry.after is None:
            return True
        kept = self._pipeline.position
        progress = self._rounds_used > 0 and kept - self._kept_before >= _PROGRESS
        self._rounds_used += not progress
        self._kept_before = kept
        return self._rounds_used <= (self._transfer.settings.retries or 0)

    def _final(self, error: DownloadError) -> DownloadError:
        """Return the error to raise: of several sources that failed for different reasons, none is the reason."""
        history, outlet = self._transfer.history, self._pipeline.outlet
        if outlet is not None and outlet.released:
            return StreamBroken(f"nobody continues the stream after {outlet.released} bytes: {error}")
        sources = {attempt.source for attempt in history}
        if len(sources) > 1 and len({type(attempt.error) for attempt in history}) > 1:
            told = "; ".join(
                f"{show(each.source)}: {type(each.error).__name__}: {each.error}" for each in history[-10:]
            )
            return SourcesExhausted(f"{len(sources)} sources failed: {told}", [attempt.error for attempt in history])
        return error
