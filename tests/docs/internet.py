"""The hosts that the documentation speaks of, on loopback.

The pages name hosts below ``example.org`` and ``example.net``, which belong to nobody (RFC 2606). Before a block is
executed each such name is replaced by the address of a server here; what it prints is changed back. So the code of the
pages meets real HTTPS, FTP and proxy servers, and a page that names a host without a server fails. What they do:

==========================  ==========================================================================================
dl.example.org (https)      the project's own server: ``/pub/`` (files), ``/private/`` (wants a bearer token, good for
                            `_TOKEN_USES` requests), ``/keyed/`` (wants ``X-Api-Key``), ``/basic/`` (wants user elmer,
                            password secret), ``/flaky/`` (503 at first), ``/cut/`` (loses the connection at first),
                            ``/busy/`` (429, always), ``/old/`` (redirects to ``/pub/``)
mirror.example.net (https)  the files of ``/pub/``
corrupt.example.net         the same, with a wrong byte
dead.example.net            nobody listens
auth.example.org (https)    ``/token``: a new bearer token
ftp.example.org             the files of ``/pub/`` by FTP, anonymous
gateway.example.org:3128    a proxy that tunnels
==========================  ==========================================================================================
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import re
import socket
import ssl
from base64 import b64encode
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trustme
from tests.docs.pages import localized
from tests.servers.ftp import FtpServer
from tests.servers.http import Exchange, HttpServer, http_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TOKEN_USES: Final = 2
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")
_PACKAGES: Final = {f"pkg-{n}.rpm": f"package {n}\n".encode() * 3000 for n in range(1, 6)}
_FILES: Final = {
    "hello.txt": b"hello, world\n",
    "pkg.rpm": b"a package\n" * 4000,
    "image.iso": bytes(range(256)) * 4096,
    "notes.txt.gz": gzip.compress(b"a note\n" * 100, mtime=0),
    "page.html": b"<p>Please log in.</p>",
    **_PACKAGES,
}
_MIRRORS: Final = """\
https://dead.example.net/pub/
https://corrupt.example.net/pub/
https://mirror.example.net/pub/
"""
_INDEX: Final = {
    "mirrors": [
        {"url": "https://corrupt.example.net/pub/", "priority": 2},
        {"url": "https://dead.example.net/pub/", "priority": 1},
        {"url": "https://mirror.example.net/pub/", "priority": 3},
    ],
    "files": {name: {"sha256": hashlib.sha256(content).hexdigest()} for name, content in _FILES.items()},
}


@dataclass
class Internet:
    """The servers, by the names that the pages know them by."""

    addresses: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    tokens: list[str] = field(default_factory=list)

    async def download_site(self, exchange: Exchange) -> None:
        """Answer as dl.example.org."""
        area, _, name = exchange.target.lstrip("/").partition("/")
        self.seen[exchange.target] += 1
        first = self.seen[exchange.target] == 1
        authorization = exchange.header("Authorization") or ""
        if area == "private" and not self._takes(authorization):
            await exchange.respond(401, headers=[("WWW-Authenticate", "Bearer")])
        elif area == "basic" and authorization != f"Basic {b64encode(b'elmer:secret').decode()}":
            await exchange.respond(401, headers=[("WWW-Authenticate", "Basic")])
        elif area == "keyed" and not exchange.header("X-Api-Key"):
            await exchange.respond(403)
        elif area == "flaky" and first:
            await exchange.respond(503, headers=[("Retry-After", "0")])
        elif area == "busy":
            await exchange.respond(429)
        elif area == "old":
            await exchange.respond(301, headers=[("Location", f"/pub/{name}")])
        else:
            await self._file(exchange, name, cut=area == "cut" and first)

    async def mirror(self, exchange: Exchange) -> None:
        """Answer as mirror.example.net."""
        await self._file(exchange, exchange.target.removeprefix("/pub/"))

    async def corrupt_mirror(self, exchange: Exchange) -> None:
        """Answer as corrupt.example.net."""
        content = self.files.get(exchange.target.removeprefix("/pub/"))
        await (exchange.respond(404) if content is None else exchange.respond(200, b"#" + content[1:]))

    async def authority(self, exchange: Exchange) -> None:
        """Answer as auth.example.org."""
        self.tokens.append(f"token-{len(self.tokens) + 1}")
        await exchange.respond(200, self.tokens[-1].encode())

    def _takes(self, authorization: str) -> bool:
        token = authorization.removeprefix("Bearer ")
        self.seen[token] += 1
        return token in self.tokens and self.seen[token] <= _TOKEN_USES

    async def _file(self, exchange: Exchange, name: str, *, cut: bool = False) -> None:
        content = self.files.get(name)
        if content is None:
            await exchange.respond(404)
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        kind = "text/html" if name.endswith(".html") else "application/octet-stream"
        headers = [("ETag", tag), ("Content-Type", kind), ("Accept-Ranges", "bytes")]
        asked = _RANGE.fullmatch(exchange.header("Range") or "")
        if exchange.header("If-None-Match") == tag:
            await exchange.respond(304, headers=headers, length=False)
        elif asked and exchange.header("If-Range") in {None, tag}:
            start, end = int(asked[1]), int(asked[2] or len(content) - 1)
            part = content[start : end + 1]
            last = start + len(part) - 1
            await exchange.respond(206, part, [*headers, ("Content-Range", f"bytes {start}-{last}/{len(content)}")])
        elif cut:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n{lines}\r\n"
            await exchange.send(head.encode() + content[: len(content) // 2])
            await exchange.cut()
        else:
            await exchange.respond(200, content, headers)


@contextmanager
def internet(directory: Path) -> Iterator[Internet]:
    """Run all the servers; the certificates that the pages speak of are in *directory*."""
    here = Internet()
    with ExitStack() as stack:
        tls = _certificates(directory)
        sites = {
            "dl.example.org": here.download_site,
            "mirror.example.net": here.mirror,
            "corrupt.example.net": here.corrupt_mirror,
            "auth.example.org": here.authority,
        }
        for host, script in sites.items():
            here.addresses[host] = _address(stack.enter_context(http_server(script, tls=tls)))
        here.addresses["gateway.example.org:3128"] = _address(stack.enter_context(http_server(raw=_tunnel)))
        unused = stack.enter_context(socket.socket())
        unused.bind(("127.0.0.1", 0))  # bound, so that nobody else gets the port; not listening
        here.addresses["dead.example.net"] = f"127.0.0.1:{unused.getsockname()[1]}"
        here.files.update(_files(here))
        ftp = stack.enter_context(FtpServer({f"pub/{name}": content for name, content in here.files.items()}))
        here.addresses["ftp.example.org"] = f"127.0.0.1:{ftp.port}"
        yield here


def _files(here: Internet) -> dict[str, bytes]:
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in _PACKAGES.items())
    return {
        **_FILES,
        "SHA256SUMS": sums.encode(),
        "mirrors.txt": localized(_MIRRORS, here.addresses).encode(),
        "pkg.rpm.mirrors": localized(_MIRRORS, here.addresses).replace("/pub/", "/pub/pkg.rpm").encode(),
        "mirrors.json": localized(json.dumps(_INDEX), here.addresses).encode(),
    }


def _address(server: HttpServer) -> str:
    return f"127.0.0.1:{server.port}"


def _certificates(directory: Path) -> ssl.SSLContext:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    client = authority.issue_cert("importer@example.org")
    client.cert_chain_pems[0].write_to_path(directory / "client.pem")
    client.private_key_pem.write_to_path(directory / "client.key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


async def _tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be a proxy for one CONNECT (RFC 9110, section 9.3.6)."""
    head = await reader.readuntil(b"\r\n\r\n")
    host, _, port = head.split(b" ")[1].decode().rpartition(":")
    far_reader, far_writer = await asyncio.open_connection(host, int(port))
    writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while block := await source.read(65536):
                sink.write(block)
                await sink.drain()
        sink.close()

    try:
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
    finally:
        far_writer.close()
