"""What is kept of the attempts so far, and what may be appended to it: nothing without proof."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ._errors import PolicyError, ProtocolError, RangeRefused, SizeMismatch
from ._models import Headers
from ._urls import same_place, show
from ._validations import DigestValidation, SizeValidation

if TYPE_CHECKING:
    from ._models import Info, Request, Version
    from ._pipeline import Pipeline
    from ._transfer import Transfer


class Kept:
    """The bytes in the pipeline: who sent the last of them, and what is known of the file that they are from.

    `part` are the bytes of the file that are asked for, None: all of them. `size` is that of the whole file in bytes,
    where any of its answers told. `joined`: they were continued with nothing but an expected digest to judge the whole.
    """

    def __init__(self, transfer: Transfer, pipeline: Pipeline) -> None:
        self._transfer, self._pipeline = transfer, pipeline
        base = transfer._base
        self.part = None if base.length is None else range(base.offset, base.offset + base.length)
        self._first = base.offset
        self._may_join = True
        self._source = self._answering = ""  # the URL that was asked, and the one that it led to
        self._version: Version | None = None
        self.size: int | None = None
        self.headers = Headers()
        self._resumable = self.joined = False

    def continued(self, request: Request) -> Request:
        """Return *request* for the rest of what is wanted, with what must not have changed; for all without proof."""
        position, outlet, part = self._pipeline.position, self._pipeline.outlet, self.part
        if not position and outlet is None and _is_whole(request, self._transfer._base):
            return request
        start = replace(request, verb=self._transfer._base.verb, offset=0, length=None, version=None)
        if part is not None:
            start = replace(start, offset=part.start, length=len(part), unless=None)
        elif outlet is not None and outlet.released:
            start = replace(start, unless=None)  # what the consumer has is no longer conditional
        if position <= self._first or not self._resumable or (part is not None and position >= part.stop):
            return start
        rest = replace(start, offset=position, length=None if part is None else part.stop - position, unless=None)
        if self._source == request.url and self._version is not None and self._version.strong:
            return replace(rest, version=self._version)
        if outlet is not None and outlet.may_restart:
            return start  # a stream gives out one version only: it reads again, past what it gave, and compares
        judged = part is None and any(each.identifies and each.enforced for each in self._pipeline.validations)
        return rest if judged and self._may_join else start

    def begin(self, request: Request, info: Info) -> None:
        """Hold the head of an answer against what was asked; start again from 0 unless it continues the bytes kept."""
        self.check(info)
        joined, size, position, headers = False, info.size, self._pipeline.position, info.headers
        if position > self._first and info.start == request.offset == position:
            if request.version is not None and not same_place(self._answering, info.url):
                raise RangeRefused(f"{show(request.url)} leads to another source now, {show(info.url)}")
            if request.version is not None and info.version is not None and request.version.contradicts(info.version):
                raise RangeRefused(f"{show(request.url)} has another version of the file now")
            if self.size is not None and info.size is not None and self.size != info.size:
                raise RangeRefused(f"{show(request.url)} has {info.size} bytes, not {self.size}")
            joined = self.joined or request.version is None
            headers = self.headers.updated(headers)  # a part need not repeat what was said before (section 15.3.7)
            if size is None and not joined:
                size = self.size  # of this very version; what another answer said of the whole, the digest will judge
        elif info.start not in {0, request.offset}:
            raise RangeRefused(f"{show(request.url)} answers from byte {info.start}, asked for {request.offset}")
        else:
            if position:
                self.restart()
            self._pipeline.begin_at(info.start)
        if self._pipeline.outlet is not None:
            self._pipeline.outlet.begin(replace(info, headers=headers))
        joined = joined or len(info.sources) > 1
        self._source, self._answering = request.url, info.url
        self._version, self._resumable = info.version, info.resumable
        self.size, self.joined, self.headers = size, joined, headers
        if self._transfer.settings.require_proof and self.proof(info) == "unproven":
            raise ProtocolError(
                f"nothing would prove that {show(info.url)} is complete; give a size or a digest,"
                " or allow it with require_proof=False"
            )

    async def keep(self, info: Info) -> None:
        """After a failure: let what arrived be handled, and keep it where it may be continued."""
        await self._pipeline.drain()
        too_much = self.size is not None and self._pipeline.position > self.size
        if too_much or not info.resumable:
            self.restart()

    def restart(self) -> None:
        """Start again from 0."""
        self._pipeline.restart()
        self._source, self._answering, self._version, self.size = "", "", None, None
        self._resumable = self.joined = False

    def join_no_more(self) -> None:
        """From now on, continue only what a version proves."""
        self._may_join = False

    def proof(self, info: Info) -> str:
        """Return what proves the bytes complete: the protocol's own proof, or else a size or a digest expected.

        A part is proven by its length, which `begin` has seen, and by the version of the file that it is of.
        """
        if self.part is not None:
            return "length and version" if info.version is not None and info.version.strong else "length"
        if info.proof != "unproven":
            return info.proof
        for validation in self._pipeline.validations:
            if validation.enforced and isinstance(validation, SizeValidation):
                return "size"
            if validation.enforced and (validation.identifies or isinstance(validation, DigestValidation)):
                return "digest"
        return "unproven"

    def check(self, info: Info) -> None:
        """Hold what an answer tells of the whole file against what may be, and what is wanted of it."""
        limit, part = self._transfer.settings.max_size, self.part
        if limit is not None and info.size is not None and info.size > limit:
            raise PolicyError(f"{info.size} bytes are more than max_size={limit}")
        told_first = self._pipeline.outlet is not None  # what is for a file is judged when all of it has come
        for each in (*self._transfer.download.validations, *self._pipeline.validations) if told_first else ():
            if isinstance(each, SizeValidation) and each.enforced and info.size not in {None, each.size}:
                raise SizeMismatch(f"{info.size} bytes, expected {each.size}")
        if part is not None and info.size is None:
            raise RangeRefused(f"{show(info.url)} does not tell its size: nothing would prove a part of it")
        if part is not None and info.size is not None and info.size < part.stop:
            raise RangeRefused(f"{show(info.url)} has {info.size} bytes; asked for those up to {part.stop}")


def _is_whole(request: Request, base: Request) -> bool:
    """Tell whether *request* asks for what *base* does, which is all of a file."""
    return (
        not request.offset
        and request.length is None
        and request.version is None
        and base.length is None
        and request.verb == base.verb
    )
