"""What to answer to a request with a download (RFC 9110): every decision."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypedDict

from downhaul import Download, DownloadError, Headers, Plugin, SizeValidation, Stream, show

from ._conditions import CONDITIONS, failed_condition, if_range_holds
from ._ranges import byte_ranges
from ._refusals import dislikes_head, refuses_part, retry_after, status_of
from ._wrong import wrong_files

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

_SAID_HERE: Final = frozenset({
    "accept-ranges", "content-length", "content-range", "date", "server", "transfer-encoding",
})  # fmt: skip
_OF_THE_CONTENT: Final = frozenset({"content-digest", "content-md5"})  # not of the file: wrong for a part
_OF_A_304: Final = frozenset({"cache-control", "etag", "expires", "last-modified", "vary"})
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_log: Final = logging.getLogger("downhaul.adapters")


class RelayOptions(TypedDict, total=False):
    """Keywords of every adapter.

    `hold_back`: how many bytes wait until all are valid; 64 KiB. `judged_parts`: where the download has validations
    that are enforced, a part of a file of up to so many bytes is judged with all of it; 64 MiB, and 0 is never. `join`:
    who asks for the same file at the same time shares one fetch, and so many bytes are kept for it; 0 is off.
    """

    hold_back: int
    judged_parts: int
    join: int


@dataclass(frozen=True, slots=True)
class Options:
    """The `RelayOptions` of one adapter, checked; raises TypeError and ValueError for what cannot be meant."""

    hold_back: int = 64 * 1024
    judged_parts: int = 64 * 1024 * 1024
    join: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("hold_back", self.hold_back, 1), ("judged_parts", self.judged_parts, 0), ("join", self.join, 0),
        ):  # fmt: skip
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}=… is a number of bytes, from {least}; not {value!r}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send: `status`, `fields` in their order, and the blocks of `stream` or, without one, `content`.

    The stream is entered. An error that it raises must end the answer visibly; let it leave the ``with``, it is logged
    there.
    """

    status: int
    fields: tuple[tuple[str, str], ...]
    stream: Stream | None = None
    content: bytes = b""


class Exchange:
    """One request and its answer. *enter* enters a stream and returns it; it leaves the one before first."""

    def __init__(
        self,
        download: Download,
        method: str,
        asked: Mapping[str, str],
        enter: Callable[[Stream], Awaitable[Stream]],
        options: Options,
        *,
        marks_end: bool,
    ) -> None:
        if not isinstance(download, Download):
            raise TypeError(f"a Download is relayed, not {type(download).__name__}")
        self._enter = enter
        self._download = download if download.unless is None else download.clone(unless=None)
        self._bare = self._download if download.writer is None else self._download.clone(writer=None)
        self._method, self._asked, self._marks_end, self._options = method, Headers(asked.items()), marks_end, options

    async def answer(self) -> Answer:
        """Return the answer; the stream that was entered last is open, and the answer's if that has one."""
        try:
            return await self._decide()
        except DownloadError as error:
            return self._refusal_for(error)

    async def _decide(self) -> Answer:
        if self._method not in {"GET", "HEAD"}:
            return self._refusal(405, "Only GET and HEAD are answered here.", (("Allow", "GET, HEAD"),))
        ranges = byte_ranges(self._asked.get("Range", "")) if self._method == "GET" else ()  # section 14.2
        known = None
        if self._download.url in wrong_files and len(ranges) == 1 and ranges[0].continues:
            if "If-Range" not in self._asked:
                return self._refusal(502, "What was sent of this file before was not valid: ask for all of it.")
            ranges = ()  # it may be ignored (section 14.2), and whoever asks with a condition is prepared for that
        if self._method == "HEAD" or ranges or any(name in self._asked for name in CONDITIONS):
            known = await self._describe()
        if known is not None and (failed := self._failed(known)) is not None:
            return failed
        if self._method == "HEAD":
            return await self._head(known)
        part = None
        if known is not None and known.size is not None and ranges and self._may_be_a_part(known):
            satisfied = [found for each in ranges if (found := each.within(known.size))]
            if not satisfied:
                return await self._beyond_the_end(known)
            part = satisfied[0] if len(ranges) == 1 else None
        if known is not None and part is not None and len(part) != known.size:
            answer = await self._part(known, part)
            if answer is not None:
                return answer
            part = None
        return await self._whole(known, part)

    async def _describe(self) -> Stream | None:
        """Return what is known of the file, None where the source tells that to nobody but with the file itself."""
        try:
            return await self._enter(self._bare.stat())
        except DownloadError as error:
            if not dislikes_head(error):
                raise
        return None

    async def _head(self, known: Stream | None) -> Answer:
        if known is None:
            known = await self._enter(self._bare.stream(hold_back=self._options.hold_back))
            if (failed := self._failed(known)) is not None:
                return failed
        return Answer(200, _fields(known))

    async def _part(self, known: Stream, part: range) -> Answer | None:
        """Answer with *part* of the file, or return None if the file is not the one that was *known*."""
        judged = (known.size or 0) <= self._options.judged_parts and _is_judged(self._download)
        stream = await self._stream_of(self._download if judged else self._bare, part, judged=judged)
        if stream is None:
            return None
        changed = _changed(known, stream)
        if stream.size != known.size or (changed and "If-Range" in self._asked):
            return None
        if changed and (failed := self._failed(stream)) is not None:
            return failed
        return Answer(206, _fields(stream, part), stream)

    async def _stream_of(self, download: Download, part: range, *, judged: bool) -> Stream | None:
        """Enter a stream of *part*; return None if its source gives none, which says nothing of the whole."""
        try:
            return await self._enter(download.stream(part=part, judged=judged, hold_back=self._options.hold_back))
        except DownloadError as error:
            if not refuses_part(error):
                raise
        return None

    async def _beyond_the_end(self, known: Stream) -> Answer:
        """Answer to a range of which the file has nothing, if it is as long as its source says.

        Clients that go on where they ended take a 416 for the word that they have it all. So where there is something
        to judge the file by, its length is proven first, by its last byte; where it is not, all of it is sent.
        """
        size = known.size or 0
        proven = size > 0 and not _is_judged(self._download)
        if not proven and 0 < size <= self._options.judged_parts:
            stream = await self._stream_of(self._download, range(size - 1, size), judged=True)
            proven = stream is not None and stream.size == size
        if not proven:
            whole = await self._whole(None, None)
            if whole.stream is None or whole.stream.size != 0:
                return whole
        fields = (("Content-Range", f"bytes */{size}"), ("Accept-Ranges", "bytes"))
        return self._refusal(416, "The file has none of the bytes that are asked for.", fields)

    async def _whole(self, known: Stream | None, part: range | None) -> Answer:
        """Answer with the whole file, as a *part* if that is all of it: then it is judged, and written, as a whole."""
        stream = await self._enter(self._download.stream(hold_back=self._options.hold_back, join=self._options.join))
        changed = known is None or _changed(known, stream)
        if changed and (failed := self._failed(stream)) is not None:
            return failed
        if stream.size is None and not self._marks_end:
            return self._unmarked()
        if part is None or changed:
            return Answer(200, _fields(stream), stream)
        return Answer(206, _fields(stream, part), stream)

    def _may_be_a_part(self, known: Stream) -> bool:
        """Tell whether If-Range, if there is one, lets a part be sent (section 13.1.5)."""
        text = self._asked.get("If-Range")
        return text is None or if_range_holds(text, known.headers, known.version)

    def _failed(self, stream: Stream) -> Answer | None:
        """Return the answer to a condition that does not hold, or None if all do."""
        status = failed_condition(self._asked, stream.headers)
        if status == 304:  # section 15.4.5
            return Answer(304, tuple(pair for pair in _fields(stream) if pair[0].lower() in _OF_A_304))
        return None if status is None else self._refusal(412, "The file is not as the request wants it to be.")

    def _unmarked(self) -> Answer:
        _log.warning("%s: answered with 502: the client could not tell the end", show(self._download.url))
        return self._refusal(
            502, "The size is unknown, and HTTP/1.0 cannot tell the end of a file from a lost connection."
        )

    def _refusal_for(self, error: DownloadError) -> Answer:
        status, kind = status_of(error), type(error).__name__
        if status >= 500:
            _log.warning("%s: answered with %d: %s: %s", show(self._download.url), status, kind, error)
        return self._refusal(status, f"Not delivered: {kind}.", retry_after(error) if status == 503 else ())

    def _refusal(self, status: int, text: str, fields: Iterable[tuple[str, str]] = ()) -> Answer:
        content = f"{text}\n".encode()
        about = (
            ("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
        )  # fmt: skip
        return Answer(status, (*about, *fields), content=b"" if self._method == "HEAD" else content)


def _is_judged(download: Download) -> bool:
    """Tell whether anybody refuses bad files who must see all of a file; its size is held against a part too."""
    plugins = (*download.plugins, *(() if download.context is None else download.context.plugins))
    hooks = [hook for each in plugins if (hook := getattr(each, "validate", None)) is not None]
    return any(getattr(hook, "__func__", hook) is not Plugin.validate for hook in hooks) or any(
        each.enforced and not isinstance(each, SizeValidation) for each in download.validations
    )


def _changed(known: Stream, stream: Stream) -> bool:
    """Tell whether *stream* shows another file than the one that was *known*."""
    if known.size != stream.size:
        return True
    return known.version is not None and stream.version is not None and known.version.contradicts(stream.version)


def _fields(stream: Stream, part: range | None = None) -> tuple[tuple[str, str], ...]:
    """Return the header fields of an answer with *stream*: those of the file, and what it sends of them."""
    left_out = _SAID_HERE if part is None else _SAID_HERE | _OF_THE_CONTENT
    fields = [
        (name, value)
        for name, value in stream.headers.items()
        if name.lower() not in left_out and _NAME.fullmatch(name) and _VALUE.fullmatch(value)
    ]
    if stream.size is not None:
        fields += ("Content-Length", str(stream.size if part is None else len(part))), ("Accept-Ranges", "bytes")
        if part is not None:
            fields.append(("Content-Range", f"bytes {part.start}-{part.stop - 1}/{stream.size}"))
    return tuple(fields)
