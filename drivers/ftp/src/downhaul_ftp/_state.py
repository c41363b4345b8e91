"""What a server tells about a file, and what can be answered with that alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from downhaul import Headers, Info, RangeRefused, Version

from ._failures import refused
from ._replies import http_date, size_of, time_of

if TYPE_CHECKING:
    from downhaul import Request

    from ._replies import Reply


@dataclass(frozen=True, slots=True)
class State:
    """What the server tells about a file without sending it, and the reply where it tells neither."""

    size: int | None
    modified: str | None
    refusal: Reply | None

    @classmethod
    def of(cls, about_size: Reply, about_time: Reply) -> State:
        """Return what the replies to SIZE and MDTM tell."""
        size, modified = size_of(about_size), time_of(about_time)
        refusal = about_size if about_size.code == 550 else about_time
        return cls(size, modified, refusal if size is None and modified is None else None)

    @property
    def version(self) -> Version | None:
        """What tells this state of the file from another: strong where both are known."""
        if self.size is None and self.modified is None:
            return None
        return Version(modified=self.modified, size=self.size, strong=None not in (self.size, self.modified))


def whole_answer(request: Request, state: State) -> Info | None:
    """Return the answer to *request* where it has no bytes, or None where the file must be retrieved.

    Raises `RangeRefused` where what is asked for cannot be had from this state, `FetchError` where nothing is known.
    """
    version = state.version
    if request.unless is not None and _same(request.unless, version):
        return replace(described(request, state, state.size, None), not_modified=True)
    if request.version is not None and request.version != version:
        raise RangeRefused("the file is not what it was: SIZE or MDTM differ")
    if state.size is not None and request.offset > state.size:
        raise RangeRefused(f"offset {request.offset} is beyond the {state.size} bytes of the file")
    if request.verb == "stat":
        if state.refusal is not None:
            raise refused("the server tells neither size nor time", state.refusal, of_file=True)
        return described(request, state, state.size, state.size)
    if request.length == 0 or (request.offset and request.offset == state.size):
        return described(request, state, state.size, 0)
    return None


def _same(known: Version, version: Version | None) -> bool:
    if version is None or not version.strong:
        return False
    return (known.size, known.modified) == (version.size, version.modified)


def described(request: Request, state: State, size: int | None, length: int | None) -> Info:
    """Return what is known of the file, of *size* bytes, and of a body of *length* bytes."""
    proof = "unproven" if size is None else "150 line" if state.size is None else "SIZE"
    fields = []
    if length is not None:
        fields.append(("Content-Length", str(length)))
    if state.modified is not None and (date := http_date(state.modified)) is not None:
        fields.append(("Last-Modified", date))
    return Info(
        request.url,
        Headers(fields),
        size=size,
        version=state.version,
        start=request.offset,
        resumable=True,
        proof=proof,
    )
