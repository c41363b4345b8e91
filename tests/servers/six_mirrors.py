"""Mirrors that are as bad as mirrors can be, and a good one, each an origin of its own.

=============  =====================================================================================================
``dead``       a port that is taken, and where nobody listens
``missing``    nginx without the files
``slow``       100 bytes per second
``corrupt``    nginx with files of the same sizes, of which one byte is another
``truncating``   announces the length, sends half of what was asked for, and closes the connection; honours ranges
``good``       nginx with the files
``busy``       nginx with the files, that answers 503 where more than two connections ask at once
``away``       nginx that redirects to what is not below it: to the good one
``ftp``        vsftpd with the files
=============  =====================================================================================================

with six_mirrors(tmp_path, files) as mirrors:
... mirrors.url("good", name) ... mirrors.listed(*SIX) ... mirrors.asked("missing") ...
"""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from tests.servers.http import Exchange, head, http_server
from tests.servers.nginx import Nginx, nginx
from tests.servers.vsftpd import Vsftpd, vsftpd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.servers.http import HttpServer

DEAD, MISSING, SLOW, CORRUPT, TRUNCATING, GOOD = "dead", "missing", "slow", "corrupt", "truncating", "good"
BUSY, AWAY, FTP = "busy", "away", "ftp"
SIX: Final = (DEAD, MISSING, SLOW, CORRUPT, TRUNCATING, GOOD)
BAD: Final = SIX[:-1]
SLOW_RATE: Final = 100  # bytes per second
_DRIPS: Final = 10  # per second
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)$")


class Mirrors:
    """Running mirrors: where they are, what they were asked, and the place for lists of them."""

    def __init__(self, lists: Nginx, root: Path, servers: Mapping[str, Nginx | HttpServer | Vsftpd], dead: int) -> None:
        self.prefix = "http://dl.example.org/pub/"
        """What the mirrors take the place of; nobody can be asked there."""
        self.lists = lists
        self.servers = dict(servers)
        self.bases = {kind: server.url("pub/" if kind == FTP else "/pub/") for kind, server in servers.items()}
        self.bases[DEAD] = f"http://127.0.0.1:{dead}/pub/"
        self._root = root

    def url(self, kind: str, name: str = "") -> str:
        """Return the URL of the file *name* at the mirror *kind*."""
        return self.bases[kind] + name

    def kind(self, url: str) -> str:
        """Return which mirror *url* is at."""
        return next(kind for kind, base in self.bases.items() if url.startswith(base))

    def listed(self, *kinds: str) -> str:
        """Return the URL of a text list of the mirrors *kinds*, in that order."""
        return self.publish(f"{'-'.join(kinds)}.txt", "".join(f"{self.bases[kind]}\n" for kind in kinds))

    def publish(self, name: str, text: str | bytes) -> str:
        """Put a list, or a metalink, where lists are; return its URL."""
        (self._root / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return self.lists.url(f"/{name}")

    def asked(self, kind: str) -> list[str]:
        """Return what the HTTP server *kind* was asked so far: target, "|", and the Range, if any.

        nginx takes note of an answer when it was sent, which may be later than it arrived.
        """
        server = self.servers[kind]
        if isinstance(server, Nginx):
            lines = (line.partition(" ")[2].partition("|") for line in server.access_log())
            return [f"{target}|{'' if part == '-' else part}" for target, _, part in lines]
        assert not isinstance(server, Vsftpd)
        return [f"{each.target}|{each.header('Range') or ''}" for each in server.requests]


@contextmanager
def six_mirrors(root: Path, files: Mapping[str, bytes], *more: str) -> Iterator[Mirrors]:
    """Run the six mirrors of *files*, names to bytes, in the new directory *root*; and those of `BUSY`, … in *more*."""
    good, corrupt, empty, lists = (root / name for name in ("good", "corrupt", "empty", "lists"))
    for directory in (good / "pub", corrupt / "pub", empty, lists):
        directory.mkdir(parents=True)
    for directory in (root, good, good / "pub"):
        directory.chmod(0o755)
    for name, content in files.items():
        (good / "pub" / name).write_bytes(content)
        (corrupt / "pub" / name).write_bytes(_spoilt(content))

    async def begin(exchange: Exchange) -> bytes:
        """Send the head of an answer, and return the bytes that it announces: all, or the part that was asked for."""
        content = files.get(exchange.target.removeprefix("/pub/"), b"")
        asked = _RANGE.match(exchange.header("Range") or "")
        start = int(asked[1]) if asked else 0
        stop = int(asked[2]) + 1 if asked and asked[2] else len(content)
        fields = [("Content-Length", str(stop - start)), ("Accept-Ranges", "bytes")]
        if asked:
            fields.append(("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}"))
        await exchange.send(head(206 if asked else 200, fields))
        return content[start:stop]

    async def slow(exchange: Exchange) -> None:
        body, piece = await begin(exchange), SLOW_RATE // _DRIPS
        for place in range(0, len(body), piece):
            await exchange.send(body[place : place + piece])
            await asyncio.sleep(1 / _DRIPS)

    async def truncating(exchange: Exchange) -> None:
        body = await begin(exchange)
        await exchange.send(body[: len(body) // 2])
        await exchange.cut()

    with ExitStack() as running:
        nobody = running.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))  # taken, and nobody listens
        site = running.enter_context(_site(good))
        servers: dict[str, Nginx | HttpServer | Vsftpd] = {
            MISSING: running.enter_context(_site(empty)),
            SLOW: running.enter_context(http_server(slow)),
            CORRUPT: running.enter_context(_site(corrupt)),
            TRUNCATING: running.enter_context(http_server(truncating)),
            GOOD: site,
        }
        if BUSY in more:
            zone = "limit_conn_zone $server_port zone=two:64k; limit_conn_status 503;"
            servers[BUSY] = running.enter_context(_site(good, "limit_conn two 2; limit_rate 16k;", zone))
        if AWAY in more:
            servers[AWAY] = running.enter_context(_site(empty, f"return 302 {site.url('')}$request_uri;"))
        if FTP in more:
            servers[FTP] = running.enter_context(vsftpd(good))
        yield Mirrors(running.enter_context(nginx(lists)), lists, servers, nobody.getsockname()[1])


@contextmanager
def _site(root: Path, server: str = "", http: str = "") -> Iterator[Nginx]:
    log = "log_format asked '$status $request_uri|$http_range';"
    # Of the same name as the default one, so that it is found; a log of its own kind replaces that.
    with nginx(root, server=f"{server} access_log access.log asked;", http=f"{log} {http}") as running:
        yield running


def _spoilt(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1]) if content else content
