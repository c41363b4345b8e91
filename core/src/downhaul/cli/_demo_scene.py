"""What the demonstration downloads, from where, and what will go wrong on the way."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from downhaul import BufferWriter, Context, Download, Retries
from downhaul.plugins import BearerToken, InOrder, MirrorList

from ._demo_servers import Faults, FtpServer, HttpServer, Site, Tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._demo_servers import Server

_MIB: Final = 1024 * 1024
_SEED: Final = 20170101
_DIRECTORIES: Final = ("archive", "pub", "updates", "direct")
_LISTED: Final = ("archive", "pub", "updates")
_EVERY: Final = 3  # of so many files of a directory the first has something to suffer


@dataclass(frozen=True)
class DemoFile:
    """A file to download: its path on the servers, and what must arrive."""

    directory: str
    number: int
    content: memoryview

    @property
    def name(self) -> str:
        """The name under which it is kept."""
        return f"{self.directory}-{self.number:04}.bin"

    @property
    def path(self) -> str:
        """The path on the servers."""
        return f"{self.directory}/{self.name}"

    @property
    def suffers(self) -> bool:
        """Whether something is done to it on the way."""
        return self.number % _EVERY == 0

    @property
    def sha256(self) -> str:
        """The digest that is published with it."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Repair:
    """A failure of one kind, at one server, and the plugin that knew what to do."""

    error: str
    server: str
    plugin: str


class Scene:
    """The servers, the files, and the repairs that are bound to happen.

    ===========  =========================================  =====================================================
    directory    is asked for at                            fails because
    ===========  =========================================  =====================================================
    pub          a dead mirror, a corrupt one, the origin   nobody listens; then some files have a wrong byte
    updates      a mirror that cuts, the origin             some transfers end half-way; the origin continues them
    direct       the origin                                 the same; then the origin itself continues
    archive      a dead mirror, an FTP server               nobody listens; then as before, by REST
    ===========  =========================================  =====================================================

    The origin wants a bearer token, and the first one expires.
    """

    def __init__(self, count: int) -> None:
        self.files = _files(count)
        by_directory = {name: [file for file in self.files if file.directory == name] for name in _DIRECTORIES}
        self._suffering = {name: [file.path for file in files if file.suffers] for name, files in by_directory.items()}
        contents = {name: {file.path: file.content for file in files} for name, files in by_directory.items()}
        failing = {name: len(paths) for name, paths in self._suffering.items()}
        asked = len(by_directory["direct"]) + failing["direct"] + failing["pub"] + failing["updates"]
        self.tokens = Tokens(uses=asked // 2)
        self.office = HttpServer("token office", {}, pages={"token": self.tokens.issue})
        self.corrupt = HttpServer("corrupt mirror", contents["pub"], self._faults(corrupt="pub"))
        self.cutting = HttpServer("cutting mirror", contents["updates"], self._faults(cut="updates"))
        self.origin = HttpServer(
            "origin",
            {**contents["pub"], **contents["updates"], **contents["direct"]},
            self._faults(cut="direct"),
            pages={f"lists/{name}": partial(self._list, name) for name in _LISTED},
            tokens=self.tokens,
        )
        self.ftp = FtpServer("FTP server", contents["archive"], self._faults(cut="archive"))
        self.site = Site(self.origin, self.corrupt, self.cutting, self.office, self.ftp)
        behind_dead = len(by_directory["pub"]) + len(by_directory["archive"])
        self.expected: Mapping[Repair, int] = {
            Repair("ConnectError", "dead mirror", "MirrorList"): behind_dead,
            Repair("DigestMismatch", "corrupt mirror", "MirrorList"): failing["pub"],
            Repair("Truncated", "cutting mirror", "MirrorList"): failing["updates"],
            Repair("Truncated", "origin", "Retries"): failing["direct"],
            Repair("Truncated", "FTP server", "Retries"): failing["archive"],
            Repair("AccessDenied", "origin", "BearerToken"): 1,
        }
        self.resumed: Mapping[str, int] = {
            "origin": failing["updates"] + failing["direct"],
            "FTP server": failing["archive"],
        }

    def url(self, file: DemoFile) -> str:
        """Return the URL under which everybody knows *file*."""
        return self._home(file.directory).url + file.path

    def server_of(self, url: str) -> str:
        """Return the name of the server that *url* leads to."""
        named = {server.url: server.name for server in self.site.servers}
        return next((name for prefix, name in named.items() if url.startswith(prefix)), "dead mirror")

    def context(self, connections: int, plugin: object) -> Context:
        """Return the context for all downloads, at most *connections* to each server; *plugin* is one more of them."""

        async def token() -> str:
            writer = BufferWriter()
            await Download(f"{self.office.url}token", writer, context=context).run()
            return writer.content().decode()

        lists = [
            # In order, whatever happens: every failure is to be seen, and counted.
            MirrorList(f"{self.origin.url}lists/{name}", replaces=f"{self._home(name).url}{name}/", choice=InOrder())
            for name in _LISTED
        ]
        context = Context(
            # A server on loopback need not be given time to recover.
            plugins=[*lists, BearerToken(token, within=self.origin.url), Retries(base=0.1), plugin],
            connections_per_origin=connections,
        )
        return context

    def _home(self, directory: str) -> Server:
        return self.ftp if directory == "archive" else self.origin

    def _faults(self, *, corrupt: str = "", cut: str = "") -> Faults:
        return Faults(set(self._suffering.get(corrupt, ())), set(self._suffering.get(cut, ())))

    def _list(self, directory: str) -> bytes:
        dead = f"{'ftp' if directory == 'archive' else 'http'}://127.0.0.1:{self.site.dead_port}/"
        roots = {
            "pub": (dead, self.corrupt.url, self.origin.url),
            "updates": (self.cutting.url, self.origin.url),
            "archive": (dead, self.ftp.url),
        }
        return "".join(f"{root}{directory}/\n" for root in roots[directory]).encode()


def _files(count: int) -> Sequence[DemoFile]:
    """Return *count* files, a third of them for FTP, from 0 bytes to 1 MiB."""
    chance = random.Random(_SEED)
    pool = memoryview(chance.randbytes(2 * _MIB))
    numbers: Counter[str] = Counter()
    files = []
    for place in range(count):
        directory = "archive" if place % 3 == 0 else _DIRECTORIES[1 + (place - place // 3 - 1) % 3]
        number = numbers[directory]
        numbers[directory] += 1
        start = chance.randrange(_MIB)
        files.append(DemoFile(directory, number, pool[start : start + _size(number, chance)]))
    return files


def _size(number: int, chance: random.Random) -> int:
    """Return a size in bytes: those extremes that must occur first, then many small ones and a few large ones."""
    if number < 2:
        return (_MIB, 0)[number]
    if number % _EVERY == 0:  # large enough to be cut in two
        return chance.randrange(16 * 1024, 256 * 1024)
    return int(2 ** chance.uniform(0, 16))
