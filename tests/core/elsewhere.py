"""What tests of other processes send there: small to import, and made of plain data."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

from downhaul import (
    BufferWriter,
    Download,
    Driver,
    Headers,
    Info,
    NotFound,
    Payload,
    Plugin,
    PluginError,
    ServerError,
    Validation,
    Version,
    Writer,
    hookimpl,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from typing import Any

    from downhaul import Check, Request, Settings, Sink, Transfer


_LOCK: Final = threading.Lock()


def content_of(name: str) -> bytes:
    """Return the bytes of the file *name*."""
    return name.encode() * 5000


class Shelf(Driver):
    """Has every file, save ``missing``; one whose name begins with ``flaky`` comes with the second attempt."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    @contextlib.asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncGenerator[Payload]:
        name = urlsplit(request.url).path.strip("/")
        first = request.url not in self.seen
        self.seen.add(request.url)
        if name.startswith("missing"):
            raise NotFound(f"there is no {request.url}", code=404, headers={"X-Asked": name})
        if name.startswith("flaky") and first:
            raise ServerError("come back", code=503, retry_after=0)
        content = content_of(name)
        version = Version(tag=f'"{name}"', size=len(content), strong=True)
        headers = Headers([("Content-Length", str(len(content))), ("X-Name", name), ("x-name", "again")])
        same = request.unless is not None and request.unless == version
        yield Payload(
            Info(request.url, headers, len(content), version, not_modified=same, proof="length"), self._body(content)
        )

    async def _body(self, content: bytes) -> AsyncIterator[bytes]:
        await asyncio.sleep(0)
        yield content


@dataclass(frozen=True)
class Elsewhere(Plugin):
    """Asks a mirror whose name is in the query of the URL."""

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        mirror = parse_qs(urlsplit(transfer.request.url).query).get("mirror")
        if mirror:
            transfer.request = replace(transfer.request, url=f"mem://{mirror[0]}/secret?sig=hidden")


class Once(Plugin):
    """Adds a field to each request; equal to itself only."""

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        request = transfer.request
        transfer.request = replace(request, headers=(*request.headers, ("X-Once", "1")))


@dataclass(frozen=True)
class Numbered(Plugin):
    """Adds its number to each request."""

    number: int

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        request = transfer.request
        transfer.request = replace(request, headers=(*request.headers, ("X-Number", str(self.number))))


@dataclass(frozen=True)
class Locked(Plugin):
    """Cannot be pickled."""

    lock: Any = _LOCK

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        """Do nothing."""


class LockedWriter(Writer):
    """Cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def open(self, transfer: Transfer) -> Sink:
        raise NotImplementedError


class LockedValidation(Validation):
    """Cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def check(self) -> Check:
        raise NotImplementedError


class LockedDriver(Shelf):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class OneWay:
    """Can be pickled, and not be made again."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise LookupError("it is not here")


class OneWayWriter(BufferWriter):
    """Can be pickled, and not be made again."""

    def __init__(self) -> None:
        super().__init__()
        self.one_way = OneWay()


@dataclass(frozen=True)
class OneWayPlugin(Plugin):
    """Can be pickled, and not be made again."""

    one_way: OneWay = OneWay()  # noqa: RUF009

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        """Do nothing."""


class LockedError(PluginError):
    """Cannot be pickled."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.lock = threading.Lock()


@dataclass(frozen=True)
class Fails(Plugin):
    """Fails in a way that cannot be told, or with the whole process."""

    how: str

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        if self.how == "exit":
            os._exit(3)
        if self.how == "cancel":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)
        if self.how.startswith("hang "):
            Path(self.how.removeprefix("hang ")).touch()  # noqa: ASYNC240
            time.sleep(60)  # noqa: ASYNC251 - it shall block all
        raise LockedError("it failed")


class Shouting(Download):
    """A download of somebody's own."""

    loud = True


@dataclass(frozen=True)
class Told(Plugin):
    """Sends what it can see of the download."""

    @hookimpl
    async def prepare(self, transfer: Transfer) -> None:
        download = transfer.download
        seen = f"{type(download).__name__} {download.loud} {download.attachment} {os.getpid()}"  # type: ignore[attr-defined]
        transfer.request = replace(transfer.request, headers=(("X-Seen", seen),))


def children(parent: int | None = None) -> dict[int, str]:
    """Return the command line of each process that *parent*, or this one, has begun, by its number."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((directory / "stat").read_text().rpartition(")")[2].split()[1]) == (parent or os.getpid()):
                found[int(directory.name)] = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return {number: line for number, line in found.items() if "resource_tracker" not in line}


def is_running(number: int) -> bool:
    """Tell whether the process with that *number* has not ended; of an orphan it is init that should take notice."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
