"""The hosts that the documentation speaks of, on loopback.

The pages name hosts below ``example.org`` and ``example.net``, which belong to nobody (RFC 2606). Before a block is
executed each such name is replaced by the address of a server here; what it prints is changed back. So the code of the
pages meets real HTTPS, FTP and proxy servers, and a page that names a host without a server fails. What they do:

==========================  ==========================================================================================
dl.example.org (https)      the project's own server: ``/pub/`` (files), ``/private/`` (wants a bearer token, good for
                            `_TOKEN_USES` requests), ``/members/`` (wants one, good for ever), ``/keyed/`` (wants
                            ``X-Api-Key``), ``/basic/`` (wants user elmer, password secret), ``/digest/`` (the same by
                            Digest), ``/flaky/`` (503 at first), ``/cut/`` (loses the connection at first), ``/busy/``
                            (429, always), ``/old/`` (redirects to ``/pub/``), ``/linked/`` (names mirrors and a digest
                            in its header)
plain.example.org (http)    ``/pub/``
mirror.example.net (https)  the files of ``/pub/``
corrupt.example.net         the same, with a wrong byte
slow.example.net            the same, a few bytes at a time
cut.example.net (http)      the same, and loses the connection half-way, always
dead.example.net            nobody listens
auth.example.org (https)    ``/token``: a new bearer token; ``/oauth/token``: one for the client importer, whose
                            secret is secret; ``/registry/token``: one for a repository; ``/broken``: 500
registry.example.org        a container registry with one image, acme/tool:1.0; it wants a token
ftp.example.org             the files of ``/pub/`` by FTP, anonymous
gateway.example.org:3128    a proxy that tunnels
==========================  ==========================================================================================
"""

from __future__ import annotations

import asyncio
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
from urllib.parse import parse_qs

import trustme
from tests.docs.contents import MIRRORS, contents
from tests.docs.pages import localized
from tests.servers.ftp import FtpServer
from tests.servers.http import Exchange, HttpServer, http_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_TOKEN_USES: Final = 2
_CLIENT: Final = b"importer:secret"
_FEW: Final = 100  # bytes
_PARAMETER: Final = re.compile(r'(\w+)="?([^",]+)')
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Internet:
    """The servers, by the names that the pages know them by."""

    addresses: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    tokens: list[str] = field(default_factory=list)
    scopes: dict[str, str] = field(default_factory=dict)
    """What each token of the registry is for."""

    async def download_site(self, exchange: Exchange) -> None:
        """Answer as dl.example.org."""
        area, _, name = exchange.target.lstrip("/").partition("/")
        self.seen[exchange.target] += 1
        first = self.seen[exchange.target] == 1
        authorization = exchange.header("Authorization") or ""
        if area in {"private", "members"} and not self._takes(authorization, area):
            await exchange.respond(401, headers=[("WWW-Authenticate", "Bearer")])
        elif area == "digest" and not _is_signed(exchange, authorization):
            challenge = 'Digest realm="dl", qop="auth", algorithm=SHA-256, nonce="20240102"'
            await exchange.respond(401, headers=[("WWW-Authenticate", challenge)])
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
        elif area == "linked":
            await self._file(exchange, name, headers=self._links(name))
        else:
            await self._file(exchange, name, cut=area == "cut" and first)

    async def mirror(self, exchange: Exchange) -> None:
        """Answer as mirror.example.net."""
        await self._file(exchange, exchange.target.removeprefix("/pub/"))

    async def corrupt_mirror(self, exchange: Exchange) -> None:
        """Answer as corrupt.example.net."""
        name = exchange.target.removeprefix("/pub/")
        if name in self.files:
            self.files[f"bad/{name}"] = b"#" + self.files[name][1:]
        await self._file(exchange, f"bad/{name}")

    async def slow_mirror(self, exchange: Exchange) -> None:
        """Answer as slow.example.net."""
        content = self.files[exchange.target.removeprefix("/pub/")]
        await exchange.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode())
        for place in range(0, len(content), _FEW):
            await exchange.send(content[place : place + _FEW])
            await asyncio.sleep(0.1)

    async def cutting_mirror(self, exchange: Exchange) -> None:
        """Answer as cut.example.net."""
        await self._file(exchange, exchange.target.removeprefix("/pub/"), cut=True)

    async def authority(self, exchange: Exchange) -> None:
        """Answer as auth.example.org."""
        place, _, query = exchange.target.partition("?")
        form = parse_qs((await _body(exchange)).decode() or query)
        if place == "/broken":
            await exchange.respond(500)
            return
        if place == "/oauth/token" and exchange.header("Authorization") != f"Basic {b64encode(_CLIENT).decode()}":
            await exchange.respond(401, json.dumps({"error": "invalid_client"}).encode())
            return
        token = f"token-{len(self.tokens) + 1}"
        self.tokens.append(token)
        if place == "/oauth/token":
            answer = {"access_token": token, "expires_in": 3600, **_next(form)}
            await exchange.respond(200, json.dumps(answer).encode())
        elif place == "/registry/token":
            self.scopes[token] = form.get("scope", [""])[0]
            await exchange.respond(200, json.dumps({"token": token, "expires_in": 300}).encode())
        else:
            await exchange.respond(200, token.encode())

    async def registry(self, exchange: Exchange) -> None:
        """Answer as registry.example.org (https://distribution.github.io/distribution/spec/api/)."""
        _, _, name = exchange.target.partition("/v2/acme/tool/")
        scope, token = "repository:acme/tool:pull", (exchange.header("Authorization") or "").removeprefix("Bearer ")
        if self.scopes.get(token) != scope:
            realm = f"https://{self.addresses['auth.example.org']}/registry/token"
            challenge = f'Bearer realm="{realm}",service="registry.example.org",scope="{scope}"'
            await exchange.respond(401, headers=[("WWW-Authenticate", challenge)])
        elif name.startswith("blobs/sha256:"):
            await self._file(exchange, name.partition(":")[2])
        else:
            await self._file(exchange, name)

    def _links(self, name: str) -> list[tuple[str, str]]:
        """Return what /linked/ says of a file (RFC 6249, RFC 9530)."""
        urls = [f"{localized(each, self.addresses)}{name}" for each in MIRRORS]
        links = [("Link", f"<{url}>; rel=duplicate; pri={place}") for place, url in enumerate(urls, 1)]
        digest = b64encode(hashlib.sha256(self.files[name]).digest()).decode()
        return [*links, ("Repr-Digest", f"sha-256=:{digest}:")]

    def _takes(self, authorization: str, area: str) -> bool:
        token = authorization.removeprefix("Bearer ")
        self.seen[token] += 1
        return token in self.tokens and (area == "members" or self.seen[token] <= _TOKEN_USES)

    async def _file(
        self, exchange: Exchange, name: str, *, cut: bool = False, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        content = self.files.get(name)
        if content is None:
            await exchange.respond(404)
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        kind = "text/html" if name.endswith(".html") else "application/octet-stream"
        headers = [("ETag", tag), ("Content-Type", kind), ("Accept-Ranges", "bytes"), *headers]
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
            "slow.example.net": here.slow_mirror,
            "auth.example.org": here.authority,
            "registry.example.org": here.registry,
        }
        for host, script in sites.items():
            here.addresses[host] = _address(stack.enter_context(http_server(script, tls=tls)))
        for host, script in {"plain.example.org": here.mirror, "cut.example.net": here.cutting_mirror}.items():
            here.addresses[host] = _address(stack.enter_context(http_server(script)))
        here.addresses["gateway.example.org:3128"] = _address(stack.enter_context(http_server(raw=_tunnel)))
        unused = stack.enter_context(socket.socket())
        unused.bind(("127.0.0.1", 0))  # bound, so that nobody else gets the port; not listening
        here.addresses["dead.example.net"] = f"127.0.0.1:{unused.getsockname()[1]}"
        here.files.update(contents(here.addresses))
        ftp = stack.enter_context(FtpServer({f"pub/{name}": content for name, content in here.files.items()}))
        here.addresses["ftp.example.org"] = f"127.0.0.1:{ftp.port}"
        yield here


def _next(form: dict[str, list[str]]) -> dict[str, str]:
    """Return the next refresh token, where one was sent."""
    return {"refresh_token": f"{form['refresh_token'][0]}+"} if "refresh_token" in form else {}


def _is_signed(exchange: Exchange, authorization: str) -> bool:
    """Tell whether elmer, whose password is secret, has signed the request (RFC 7616, section 3.4.1)."""
    signed = dict(_PARAMETER.findall(authorization))

    def digest(*parts: str) -> str:
        return hashlib.sha256(":".join(parts).encode()).hexdigest()

    who, what = digest("elmer", "dl", "secret"), digest(exchange.method, exchange.target)
    middle = [signed.get(name, "") for name in ("nonce", "nc", "cnonce", "qop")]
    return signed.get("response") == digest(who, *middle, what)


async def _body(exchange: Exchange) -> bytes:
    return await exchange.reader.readexactly(int(exchange.header("Content-Length") or 0))


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
