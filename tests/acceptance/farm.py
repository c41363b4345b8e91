"""A small world to download from: nginx, vsftpd, and an HTTP server that trickles, stalls, or redirects."""

from __future__ import annotations

import asyncio
import random
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.servers import nginx as real_nginx
from tests.servers import vsftpd as real_vsftpd
from tests.servers.http import Exchange, head, http_server

from downhaul import DigestValidation, Download, FileWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.http import HttpServer

FILES: Final = 40
_SIZES: Final = (0, 1, 1000, 20_000, 200_000)


@dataclass
class Farm:
    """The servers, and the SHA-256 of the files that nginx and vsftpd serve."""

    nginx: real_nginx.Nginx
    vsftpd: real_vsftpd.Vsftpd
    scripted: HttpServer
    contents: dict[str, bytes]

    @property
    def ports(self) -> dict[str, int]:
        """The ports of the servers by name."""
        return {"nginx": self.nginx.port, "vsftpd": self.vsftpd.port, "the scripted server": self.scripted.port}

    def urls(self) -> Iterator[tuple[str, str]]:
        """Yield names and URLs of a batch: over HTTP, over FTP, and some that trickle for ever or never answer."""
        for number, name in enumerate(self.contents):
            if number in (3, 11, 20):
                yield f"endless-{number}", self.scripted.url("/stall" if number == 11 else "/trickle")
            yield name, self.nginx.url(f"/{name}") if number % 2 else self.vsftpd.url(name)

    def jobs(self, target: Path) -> Iterator[Download]:
        """Yield the downloads of a batch."""
        for name, url in self.urls():
            yield Download(url, FileWriter(target / name), attachment=name, digests=["sha256"])

    def is_whole(self, path: Path) -> bool:
        """Tell whether a published file is what the servers have."""
        return path.read_bytes() == self.contents[path.name]


async def _script(exchange: Exchange) -> None:
    if exchange.target == "/trickle":
        await exchange.send(head(200, [("Content-Length", "1000000000")]))
        while True:
            await exchange.send(b"x" * 100)
            await asyncio.sleep(0.005)
    await exchange.stall()


@contextmanager
def farm(directory: Path) -> Iterator[Farm]:
    """Run the servers on files below *directory*."""
    chance = random.Random(12)
    contents = {f"file-{number:02}": chance.randbytes(_SIZES[number % len(_SIZES)]) for number in range(FILES)}
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    directory.chmod(0o755)
    with (
        real_nginx.nginx(directory) as nginx,
        real_vsftpd.vsftpd(directory) as vsftpd,
        http_server(_script) as scripted,
    ):
        yield Farm(nginx, vsftpd, scripted, contents)


__all__ = ["DigestValidation", "Farm", "farm"]
