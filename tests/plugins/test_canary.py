"""A canary in every place that takes a secret: it is used, and nothing that can be read afterwards shows it.

`SCENES` are the ways to configure a secret, `OUTCOMES` what may become of a download, `FORMS` how it is run.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import pickle
import re
import signal
import socket
import ssl
import sys
import tempfile
import threading
import traceback
import warnings
from base64 import b64decode, b64encode, urlsafe_b64encode
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote_plus, urlsplit

import httpx
import pytest
import trustme
from tests.plugins.canary import MARK, Seen, Witness
from tests.servers.ftp import SILENCE, FtpServer
from tests.servers.http import http_server

from downhaul import (
    TLS,
    Attempt,
    Batch,
    Context,
    Credentials,
    Download,
    DownloadError,
    FileWriter,
    Headers,
    Plugin,
    PreparationError,
    Request,
    Result,
    Retries,
    Settings,
    SourcesExhausted,
    Timeout,
    User,
    ValidationError,
    hookimpl,
)
from downhaul.cli import run as run_command
from downhaul.plugins import (
    Adaptive,
    Authorizer,
    BasicAuth,
    BearerToken,
    Grant,
    HeaderToken,
    LinkedMirrors,
    Metalink,
    Mirror,
    MirrorList,
    Netrc,
    OAuth2ClientCredentials,
    OAuth2RefreshToken,
    RegistryToken,
    Segments,
    SrvMirrors,
    Token,
)
from downhaul_ftp import FtpDriver
from downhaul_http import DigestAuth, HttpDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers.http import Exchange, HttpServer

    from downhaul import Transfer

BYTES: Final = b"what was asked for" * 100
USER, TOKEN, QUERY, HEADER, KEY = (f"{MARK}-{name}" for name in ("user", "token", "query", "header", "key"))
PASSWORD: Final = f"{MARK}-p@ss w/örd"
USERINFO: Final = f"{quote(USER)}:{quote(PASSWORD, safe='')}@"
THEIRS: Final = f"{MARK}-theirs"
"""A secret that a server makes up: an access token, a user in a list."""
ISSUED: Final = json.dumps(
    {"access_token": THEIRS, "token": THEIRS, "refresh_token": f"{MARK}-next", "expires_in": 300}
)
SHA256: Final = hashlib.sha256(BYTES).hexdigest()
DIGEST: Final = 'Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256'


@dataclass
class There:
    """The servers of all scenes, what they saw, and how they behave: `mode` for files, `aux` for lists and tokens."""

    directory: Path
    authority: trustme.CA
    mode: str = "success"
    aux: str = "success"
    saw: list[str] = field(default_factory=list)
    pages: dict[str, bytes | Callable[[Exchange], Any]] = field(default_factory=dict)
    headers: list[tuple[str, str]] = field(default_factory=list)
    challenge: str = ""
    home: HttpServer = field(init=False)
    mirror: HttpServer = field(init=False)
    proxy: HttpServer = field(init=False)
    secure: HttpServer = field(init=False)
    ftp: FtpServer = field(init=False)
    stalled: threading.Event = field(default_factory=threading.Event)
    dead: int = 0
    nameserver: str = ""

    def url(self, path: str = "/file", userinfo: str = "", *, at: str = "home") -> str:
        """Return the URL of a file, or of a page; where nobody listens if this is what the mode says."""
        refuses = (self.aux if path.partition("?")[0] in self.pages else self.mode) == "refused"
        if at == "ftp":
            return f"ftp://{userinfo}127.0.0.1:{self.dead if refuses else self.ftp.port}{path}"
        server = getattr(self, at)
        return f"{server.scheme}://{userinfo}{server.host}:{self.dead if refuses else server.port}{path}"

    def page(self, content: str, path: str = "/page") -> str:
        """Publish a list, or what a token server says; return the path."""
        self.pages[path] = content.encode()
        return path

    async def answer(self, exchange: Exchange) -> None:
        """Note all that came, then do what the mode says."""
        body = await exchange.reader.readexactly(int(exchange.header("Content-Length") or 0))
        self.saw.append(readable(exchange, body))
        path = urlsplit(exchange.target).path
        page = self.pages.get(path)
        if callable(page):
            await page(exchange)
            return
        mode = self.mode if page is None else self.aux
        wants = "" if page is not None else self.challenge
        scheme = wants.partition(" ")[0].lower()
        if exchange.method == "CONNECT" and mode in {"success", "401"}:
            mode = "407"
        if wants and (exchange.header("Authorization") or "").partition(" ")[0].lower() != scheme:
            await exchange.respond(401, b"", [("WWW-Authenticate", wants)])
        elif mode == "401":
            await exchange.respond(401, b"", [("WWW-Authenticate", 'Basic realm="r"')])
        elif mode == "407":
            await exchange.respond(407, b"", [("Proxy-Authenticate", 'Basic realm="r"')])
        elif mode == "404" or path == "/none":
            await exchange.respond(404)
        elif mode == "time-out":
            self.stalled.set()
            await exchange.stall()
        elif mode == "repeats":
            await self.repeat(exchange)
        elif mode == "garbage":
            await exchange.respond(200, f'{{"token": "{THEIRS} \\n", "access_token": "{THEIRS} \\n"}}'.encode())
        else:
            await exchange.respond(200, BYTES if page is None else page, self.headers)

    def behave(self, mode: str, aux: str) -> None:
        """Let files and their helpers be so from now on."""
        self.mode, self.aux = mode, aux
        if mode == "401":
            self.ftp.users = {}
        elif mode == "404":
            self.ftp.files = {}
        elif mode == "time-out":
            self.ftp.replies = {"RETR": SILENCE}
        elif mode == "repeats":
            sent = PASSWORD.encode().decode("latin-1")  # byte for byte, as it came
            self.ftp.replies = {"PASS": f"530 {sent} is not the password of {USER}, {sent}."}

    async def repeat(self, exchange: Exchange) -> None:
        """Refuse, and repeat in the reason and in fields what was sent."""
        sent = [value for name, value in exchange.headers if name.lower() in _SECRET_FIELDS]
        pairs = list(filter(None, map(_basic, sent)))
        told = " ".join([*sent, *pairs])
        # The name of a user may stand in a challenge for a good reason: as that of what is asked for.
        challenge = " ".join([*sent, *(pair.partition(":")[2] for pair in pairs)])
        fields = [("X-Sent", value) for value in (*sent, *pairs)]
        fields.append(("WWW-Authenticate", f'Bearer realm="x", error="{challenge}"'))
        lines = [f"HTTP/1.1 403 not with {told}", *(f"{name}: {value}" for name, value in fields), "Content-Length: 0"]
        await exchange.send(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape"))


_SECRET_FIELDS: Final = {"authorization", "x-api-key", "cookie", "private-token", "proxy-authorization", "x-own"}


def readable(exchange: Exchange, body: bytes) -> str:
    """Return what a server can read of a request, whatever it is encoded in."""
    texts = [exchange.method, exchange.target, unquote_plus(exchange.target), unquote_plus(body.decode())]
    for _, value in exchange.headers:
        texts += [value, _basic(value)]
        if value.startswith("Digest "):
            texts.append(_digest(exchange.method, value))
    if exchange.writer.get_extra_info("peercert"):
        texts.append("with a certificate")
    return " ".join(texts)


def _digest(method: str, authorization: str) -> str:
    """Return the password that an answer to `DIGEST` was made of, if it is ours (RFC 7616, section 3.4.1)."""
    told = dict(re.findall(r'(\w+)="?([^",]+)', authorization))

    def hashed(*parts: str) -> str:
        return hashlib.sha256(":".join(parts).encode()).hexdigest()

    secret, what = hashed(USER, "r", PASSWORD), hashed(method, told["uri"])
    right = hashed(secret, "n", told["nc"], told["cnonce"], "auth", what)
    return PASSWORD if told["response"] == right else "another password"


def _basic(value: str) -> str:
    scheme, _, coded = value.partition(" ")
    if scheme.lower() != "basic":
        return ""
    pair = b64decode(coded)
    try:
        return pair.decode()
    except UnicodeDecodeError:
        return pair.decode("latin-1")


def serve_names(there: There, sock: socket.socket) -> None:
    """Answer each question for a service with the mirror."""
    while True:
        try:
            question, client = sock.recvfrom(4096)
        except OSError:
            return
        if not question:
            return
        import dns.message
        import dns.rrset

        query = dns.message.from_wire(question)
        answer = dns.message.make_response(query)
        name = query.question[0].name
        port = there.dead if there.mode == "refused" else there.mirror.port
        answer.answer.append(dns.rrset.from_text(name, 60, "IN", "SRV", f"0 0 {port} localhost."))
        sock.sendto(answer.to_wire(), client)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    """Run all servers."""
    authority = trustme.CA()
    there = There(tmp_path_factory.mktemp("there"), authority)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.configure_trust(tls)
    tls.verify_mode = ssl.CERT_OPTIONAL
    with (
        socket.socket() as dead,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as names,
        http_server(there.answer) as there.home,
        http_server(there.answer) as there.mirror,
        http_server(there.answer) as there.proxy,
        http_server(there.answer, tls=tls) as there.secure,
        FtpServer() as there.ftp,
    ):
        dead.bind(("127.0.0.1", 0))
        names.bind(("127.0.0.1", 0))
        there.dead = dead.getsockname()[1]
        there.nameserver = f"127.0.0.1:{names.getsockname()[1]}"
        thread = threading.Thread(target=serve_names, args=(there, names))
        thread.start()
        yield there
        names.sendto(b"", names.getsockname())
        thread.join()


@pytest.fixture
def there(running: There, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> There:
    """Begin anew."""
    running.directory = tmp_path
    running.mode = running.aux = "success"
    running.challenge = ""
    running.stalled = threading.Event()
    running.saw, running.pages, running.headers = [], {}, []
    running.ftp.files, running.ftp.users, running.ftp.replies = {"file": BYTES}, None, {}
    running.ftp.commands.clear()
    for name in ("NETRC", "http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(running.directory))
    return running


# The scenes


@dataclass
class Scene:
    """A download with a secret: its URL, its options and plugins, and the same for the command.

    `used` are the secrets that some server must have seen where it goes well; with `fails` it never does. `command` are
    arguments besides the URL; None: the command cannot be told so. `more` are further secrets to be searched for.
    `told` are header fields that hold secrets of the server's own: what it says is for the program that asks, in the
    headers of results and errors.
    """

    url: str
    used: tuple[str, ...] = (PASSWORD,)
    options: dict[str, Any] = field(default_factory=dict)
    plugins: tuple[object, ...] = ()
    drivers: dict[str, Any] = field(default_factory=dict)
    fails: bool = False
    command: tuple[str, ...] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    more: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


def userinfo(there: There, at: str = "home") -> Scene:
    """Name and password in the URL."""
    return Scene(there.url("/file", USERINFO, at=at), (USER, PASSWORD), command=())


def user(there: There, at: str = "home") -> Scene:
    """`Settings(user=…)`."""
    return Scene(
        there.url(at=at),
        (USER, PASSWORD),
        {"user": User(USER, PASSWORD)},
        command=("--user", f"{USER}:{PASSWORD}"),
    )


def headers(there: There) -> Scene:
    """`Settings(headers=…)`."""
    fields = {"X-API-Key": HEADER, "Authorization": f"Bearer {TOKEN}", "Cookie": f"session={HEADER}"}
    command = [word for pair in fields.items() for word in ("--header", ": ".join(pair))]
    return Scene(there.url(), (HEADER, TOKEN), {"headers": fields}, command=tuple(command))


def query(there: There, at: str = "home") -> Scene:
    """Signatures in the query of the URL."""
    return Scene(there.url(f"/file?sig={QUERY}&X-Amz-Signature={QUERY}#{0}", at=at), (QUERY,), command=())


def proxy(there: There) -> Scene:
    """The password of a proxy."""
    url = there.url("", USERINFO, at="proxy")
    return Scene("http://host.invalid/file", (USER, PASSWORD), {"proxy": url}, command=("--proxy", url))


def tunnel(there: There) -> Scene:
    """The same for https, where the proxy is asked for a tunnel, and has none."""
    url = there.url("", USERINFO, at="proxy")
    return Scene("https://host.invalid/file", (), {"proxy": url}, fails=True, command=("--proxy", url))


def environment_proxy(there: There) -> Scene:
    """The same from an environment variable."""
    variables = {"http_proxy": there.url("", USERINFO, at="proxy")}
    return Scene("http://host.invalid/file", (USER, PASSWORD), {"environment": True}, command=("--environment",),
                 environment=variables)  # fmt: skip


def client_key(there: There) -> Scene:
    """The key of a client certificate, as PEM text."""
    identity = there.authority.issue_cert("me@example.org")
    key = identity.private_key_pem.bytes().decode()
    chain = "".join(pem.bytes().decode() for pem in identity.cert_chain_pems)
    trust = there.authority.cert_pem.bytes().decode()
    files = {"--cacert": trust, "--cert": chain, "--key": key}
    for name, pem in files.items():
        (there.directory / name).write_text(pem)
    return Scene(
        there.url(at="secure"),
        ("with a certificate",),
        {"tls": TLS(trust, chain, key)},
        command=tuple(word for name in files for word in (name, str(there.directory / name))),
        more=tuple(line for line in key.splitlines() if "-----" not in line),
    )


def broken_key(there: There) -> Scene:
    """A key that is none."""
    pem = f"-----BEGIN PRIVATE KEY-----\n{KEY}\n-----END PRIVATE KEY-----\n"
    return Scene(there.url(at="secure"), (), {"tls": TLS(None, pem, pem)}, fails=True)


def bearer_str(there: There) -> Scene:
    """One token."""
    return Scene(there.url(), (TOKEN,), plugins=(BearerToken(TOKEN),))


def bearer_function(there: There) -> Scene:
    """A token from a function."""
    return Scene(there.url(), (TOKEN,), plugins=(BearerToken(lambda: TOKEN),))


def bearer_partial(there: There) -> Scene:
    """Functions that have the token among their arguments."""
    return Scene(
        there.url(), (TOKEN,), plugins=(BearerToken(partial(str, TOKEN)), HeaderToken("X-Api-Key", partial(str, TOKEN)))
    )


async def _token() -> Token:
    return Token(TOKEN, 300)


def bearer_token(there: There) -> Scene:
    """A token from an async function, with an end, for a given origin."""
    return Scene(there.url(), (TOKEN,), plugins=(BearerToken(_token, within=there.url("/")),))


def header_token(there: There) -> Scene:
    """A token in a field of its own."""
    return Scene(there.url(), (TOKEN,), plugins=(HeaderToken("Private-Token", TOKEN),))


def basic(there: There, at: str = "home") -> Scene:
    """A plugin that sends a user."""
    return Scene(there.url(at=at), (USER, PASSWORD), plugins=(BasicAuth(USER, PASSWORD),))


def digest(there: There) -> Scene:
    """A password that is not sent, but a signature is."""
    there.challenge = DIGEST
    return Scene(there.url(), (USER, PASSWORD), plugins=(DigestAuth(USER, PASSWORD),))


def netrc(there: There, at: str = "home") -> Scene:
    """A user from the file in the home directory."""
    path = there.directory / ".netrc"
    path.write_text(f'machine 127.0.0.1 login {USER} password "{PASSWORD}"\n')
    path.chmod(0o600)
    return Scene(there.url(at=at), (USER, PASSWORD), plugins=(Netrc(),), command=("--plugin", "netrc"))


@dataclass(frozen=True)
class Parameter(Authorizer):
    """A third party's: a secret query parameter, a header field, and a user at the same time."""

    async def obtain(self, transfer: Transfer, need: object) -> Grant:
        return Grant((("X-Own", HEADER),), (("key", QUERY),), User(USER, PASSWORD), 300)


def authorizer(there: There) -> Scene:
    """A plugin of a third party."""
    return Scene(there.url(), (HEADER, QUERY, PASSWORD), plugins=(Parameter(),))


def client_credentials(there: There, method: str = "client_secret_basic") -> Scene:
    """A client secret, which is sent for a token."""
    pytest.importorskip("authlib", reason="authlib is not installed")
    there.challenge = "Bearer"
    token = there.url(f"{there.page(ISSUED)}?key={QUERY}")
    plugin = OAuth2ClientCredentials(token, "me", PASSWORD, scope="read", audience="files", auth_method=method)
    return Scene(there.url(), (PASSWORD, QUERY, THEIRS), plugins=(plugin,))


def refresh_token(there: There) -> Scene:
    """A refresh token, which is changed."""
    pytest.importorskip("authlib", reason="authlib is not installed")
    there.challenge = "Bearer"
    token = there.url(there.page(ISSUED))
    plugin = OAuth2RefreshToken(token, TOKEN, "me", PASSWORD, keep=lambda token: None)
    return Scene(there.url(), (PASSWORD, TOKEN, THEIRS), plugins=(plugin,))


def registry_token(there: There) -> Scene:
    """A user, who is sent for the token of a repository."""
    realm = there.url(f"{there.page(ISSUED)}?key={QUERY}")
    there.challenge = f'Bearer realm="{realm}",service="r",scope="repository:library/files:pull"'
    plugin = RegistryToken(USER, PASSWORD, realm=there.url("/"))
    return Scene(
        there.url("/v2/library/files/blobs/x"),
        (USER, PASSWORD, THEIRS, QUERY),
        plugins=(plugin,),
        told=("WWW-Authenticate",),
    )


def registry_basic(there: There) -> Scene:
    """A user, whom the registry wants to see itself."""
    there.challenge = 'Basic realm="r"'
    return Scene(there.url("/v2/library/files/blobs/x"), (USER, PASSWORD), plugins=(RegistryToken(USER, PASSWORD),))


def own_client(there: There) -> Scene:
    """What one's own httpx client holds."""

    def make() -> httpx.AsyncClient:
        return httpx.AsyncClient(
            auth=httpx.BasicAuth(USER, PASSWORD),
            headers={"X-Own": HEADER},
            cookies={"session": HEADER},
            trust_env=False,
        )

    return Scene(there.url(f"/file?key={QUERY}"), (HEADER, USER, PASSWORD, QUERY), drivers={"http": HttpDriver(make)})


def redirect(there: There) -> Scene:
    """A server that redirects to where there is a user, and a signature."""
    url = there.url(f"/file?sig={THEIRS}", USERINFO, at="mirror")
    there.pages["/moved"] = lambda exchange: exchange.respond(302, b"", [("Location", url)])
    return Scene(there.url("/moved"), (PASSWORD, THEIRS), command=())


# Mirrors


def secret_urls(there: There, at: str = "mirror") -> list[str]:
    """Return two mirrors, of which the first has not the file."""
    query = "" if at == "ftp" else f"?sig={QUERY}"  # which would be a part of the name there
    return [there.url(f"/none{query}", USERINFO, at=at), there.url(f"/file{query}", USERINFO, at=at)]


def kept(there: There) -> Adaptive:
    """Return a choice whose scores are kept in a file."""
    return Adaptive(path=there.directory / "scores.json", probe=2)


def mirror_urls(there: There) -> Scene:
    """Mirrors with users and signatures."""
    mirrors = MirrorList(secret_urls(there), choice=kept(there))
    return Scene(there.url("/file", USERINFO), (USER, PASSWORD, QUERY), plugins=(mirrors,))


def mirror_objects(there: There) -> Scene:
    """The same as `Mirror` objects."""
    mirrors = MirrorList([Mirror(url, priority, "de", 3) for priority, url in enumerate(secret_urls(there), 1)])
    return Scene(there.url(), (USER, PASSWORD, QUERY), plugins=(mirrors,))


def mirror_function(there: There) -> Scene:
    """The same from a function."""
    mirrors = MirrorList(partial(list, secret_urls(there)), choice=kept(there))
    return Scene(there.url(), (USER, PASSWORD, QUERY), plugins=(mirrors,))


def mirror_list(there: There) -> Scene:
    """The same in a list that needs a token."""
    page = there.page("\n".join(secret_urls(there)))
    listing = there.url(f"{page}?token={TOKEN}", f"{THEIRS}:{THEIRS}@")
    mirrors = MirrorList(listing, choice=kept(there))
    return Scene(there.url("/file", USERINFO), (PASSWORD, QUERY, TOKEN, THEIRS), plugins=(mirrors,),
                 command=("--mirrorlist", listing))  # fmt: skip


def mirror_prefixes(there: There) -> Scene:
    """A prefix, a list, and mirrors with a user each."""
    page = there.page(there.url("/", USERINFO, at="mirror"))
    prefix = there.url("/pub/", USERINFO)
    mirrors = MirrorList(there.url(f"{page}?token={TOKEN}", USERINFO), replaces=prefix, choice=kept(there))
    return Scene(f"{prefix}file", (PASSWORD, TOKEN), plugins=(mirrors,))


def segments(there: There) -> Scene:
    """A file from several of them at once."""
    there.page("\n".join(secret_urls(there)))
    plugins = (MirrorList(secret_urls(there), choice=kept(there)), Segments(2, 500))
    return Scene(there.url("/file", USERINFO), (PASSWORD, QUERY), {"digests": {"sha256": SHA256}}, plugins)


def metalink(there: There, at: str = "mirror") -> Scene:
    """The same in a metalink."""
    urls = "".join(f"<url>{url.replace('&', '&amp;')}</url>" for url in secret_urls(there, at))
    text = f'<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="{MARK}">{urls}</file></metalink>'
    page = there.page(text.replace(f'"{MARK}"', '"pkg"'))
    used = (PASSWORD, TOKEN) if at == "ftp" else (PASSWORD, QUERY, TOKEN)
    url = there.url(f"{page}?token={TOKEN}")
    return Scene(url, used, {"user": User(USER, PASSWORD)}, (Metalink(choice=kept(there)),),
                 command=("--plugin", "metalink", "--user", f"{USER}:{PASSWORD}"))  # fmt: skip


def linked(there: There) -> Scene:
    """The same in the header of an answer."""
    links = ", ".join(f"<{url}>; rel=duplicate" for url in secret_urls(there))
    there.headers = [("Link", links), ("Digest", f"SHA-256={b64encode(bytes.fromhex(SHA256)).decode()}")]
    return Scene(there.url(f"/here?sig={QUERY}"), (PASSWORD, QUERY), {"headers": {"X-API-Key": HEADER}},
                 (LinkedMirrors(choice=kept(there)), BearerToken(TOKEN)), told=("Link",))  # fmt: skip


def srv(there: There) -> Scene:
    """A prefix with a user, and mirrors from the DNS."""
    pytest.importorskip("dns", reason="dnspython is not installed")
    prefix = there.url("/pub/", USERINFO)
    plugin = SrvMirrors(prefix, nameserver=there.nameserver, choice=kept(there))
    return Scene(f"{prefix}file?sig={QUERY}", (QUERY,), plugins=(plugin,))


def circle(there: There) -> Scene:
    """Two lists, each of which is to be had from the mirrors in the other one."""
    one, two = there.url("/one/", USERINFO), there.url("/two/", USERINFO)
    first = MirrorList(f"{two}list?key={QUERY}", replaces=one)
    second = MirrorList(f"{one}list?key={QUERY}", replaces=two)
    return Scene(f"{one}file?key={QUERY}", (), plugins=(first, second), fails=True)


def at_ftp(build: Callable[..., Scene]) -> Callable[[There], Scene]:
    """Return a scene by FTP."""
    return partial(build, at="ftp")


SCENES: Final[dict[str, Callable[[There], Scene]]] = {
    "userinfo": userinfo,
    "user": user,
    "headers": headers,
    "query": query,
    "proxy": proxy,
    "proxy of https": tunnel,
    "proxy of the environment": environment_proxy,
    "client key": client_key,
    "broken key": broken_key,
    "BearerToken of a str": bearer_str,
    "BearerToken of a function": bearer_function,
    "tokens of a partial": bearer_partial,
    "BearerToken of a Token": bearer_token,
    "HeaderToken": header_token,
    "BasicAuth": basic,
    "DigestAuth": digest,
    "Netrc": netrc,
    "an Authorizer": authorizer,
    "OAuth2ClientCredentials": client_credentials,
    "OAuth2ClientCredentials in the form": partial(client_credentials, method="client_secret_post"),
    "OAuth2RefreshToken": refresh_token,
    "RegistryToken": registry_token,
    "RegistryToken that wants Basic": registry_basic,
    "one's own client": own_client,
    "redirect": redirect,
    "MirrorList of URLs": mirror_urls,
    "MirrorList of Mirrors": mirror_objects,
    "MirrorList of a function": mirror_function,
    "MirrorList of a list": mirror_list,
    "MirrorList of prefixes": mirror_prefixes,
    "Segments": segments,
    "Metalink": metalink,
    "LinkedMirrors": linked,
    "SrvMirrors": srv,
    "a circle": circle,
    "userinfo by FTP": at_ftp(userinfo),
    "user by FTP": at_ftp(user),
    "BasicAuth by FTP": at_ftp(basic),
    "Netrc by FTP": at_ftp(netrc),
    "Metalink of FTP": at_ftp(metalink),
}
WITH_AUX: Final = frozenset({
    "OAuth2ClientCredentials", "OAuth2ClientCredentials in the form", "OAuth2RefreshToken", "RegistryToken",
    "MirrorList of a list", "MirrorList of prefixes", "Metalink",
})  # fmt: skip
"""Scenes where something is fetched first: a list, or a token."""
BY_COMMAND: Final = frozenset({
    "userinfo", "user", "headers", "query", "proxy", "proxy of https", "proxy of the environment", "client key",
    "Netrc", "redirect", "MirrorList of a list", "Metalink", "userinfo by FTP", "user by FTP", "Netrc by FTP",
    "Metalink of FTP",
})  # fmt: skip


VARIANTS: Final = frozenset({
    "BearerToken of a function", "tokens of a partial", "OAuth2ClientCredentials in the form", "broken key", "a circle",
    "MirrorList of Mirrors", "MirrorList of a function", "RegistryToken that wants Basic", "proxy of the environment",
    "BasicAuth by FTP", "Netrc by FTP", "user by FTP",
})  # fmt: skip
"""Scenes that differ from another one in what is configured, and hardly in what becomes of it."""
WITH_URLS: Final = frozenset({
    "userinfo", "query", "proxy", "an Authorizer", "RegistryToken", "OAuth2ClientCredentials", "redirect",
    "MirrorList of a list", "MirrorList of prefixes", "Segments", "Metalink of FTP", "userinfo by FTP",
})  # fmt: skip
"""Scenes where a plugin that fails knows a URL with a secret in it."""


class Fails(Plugin):
    """Raises what names all URLs that it knows, as a careless plugin does."""

    def __init__(self, hook: str, error: type[Exception] = RuntimeError) -> None:
        self.hook, self.error_type = hook, error

    def fail(self, hook: str, transfer: Transfer) -> None:
        if hook == self.hook and transfer.parent is None:
            urls = f"<{transfer.download.url}> '{transfer.request.url}' {transfer.request.target()!r}"
            try:
                raise LookupError(f"inside: {urls}")
            except LookupError as reason:
                raise self.error_type(f"{urls} cannot be had, {transfer.request!r}") from reason

    @hookimpl(trylast=True)
    async def prepare(self, transfer: Transfer) -> None:
        self.fail("prepare", transfer)

    @hookimpl(wrapper=True)
    def fetch(self, transfer: Transfer) -> Any:
        answer = yield
        return self.answer(transfer, answer)

    @contextlib.asynccontextmanager
    async def answer(self, transfer: Transfer, answer: Any) -> Any:
        async with answer as payload:
            self.fail("fetch", transfer)
            yield payload

    @hookimpl
    async def validate(self, transfer: Transfer) -> None:
        self.fail("validate", transfer)

    @hookimpl(tryfirst=True)
    async def error(self, transfer: Transfer, error: DownloadError) -> None:
        self.fail("error", transfer)

    @hookimpl
    def done(self, transfer: Transfer, outcome: object) -> None:
        self.fail("done", transfer)


@dataclass(frozen=True)
class Outcome:
    """How the servers behave, and what is wrong besides."""

    mode: str = "success"
    aux: str = "success"
    wrong_digest: bool = False
    plugins: tuple[object, ...] = ()
    succeeds: bool = False
    cancelled: bool = False
    total: bool = False


OUTCOMES: Final[dict[str, Outcome]] = {
    "success": Outcome(succeeds=True),
    **{mode: Outcome(mode) for mode in ("401", "404", "refused", "time-out", "repeats")},
    "cancelled": Outcome("time-out", cancelled=True),
    "time-out of all": Outcome("time-out", total=True),
    "wrong digest": Outcome(wrong_digest=True),
    **{f"a plugin fails in {hook}": Outcome(plugins=(Fails(hook),)) for hook in ("prepare", "fetch", "validate")},
    "a plugin fails in error": Outcome("404", plugins=(Fails("error"),)),
    "a plugin fails in done": Outcome(plugins=(Fails("done"),), succeeds=True),
    "a plugin refuses": Outcome(plugins=(Fails("validate", ValidationError),)),
    **{
        f"list or token: {mode}": Outcome(aux=mode)
        for mode in ("401", "404", "refused", "time-out", "repeats", "garbage")
    },
    "list or token: cancelled": Outcome(aux="time-out", cancelled=True),
}
FORMS: Final = ("call", "run", "stream", "batch", "command", "command --json")


def cases() -> Iterator[tuple[str, str, str]]:
    """Yield scene, outcome and form, where these make sense together; where forms differ little, one after another."""
    for scene in SCENES:
        for outcome in OUTCOMES:
            turn = len(scene) + len(outcome)  # of no meaning, but the same tomorrow: tests/advisories.csv has names
            by_plugin, by_aux = outcome.startswith("a plugin"), outcome.startswith("list or token")
            if (by_plugin and scene not in WITH_URLS) or (by_aux and scene not in WITH_AUX):
                continue
            if scene in VARIANTS and outcome not in {"success", "401", "repeats"}:
                continue
            if by_plugin or (outcome == "time-out of all" and scene in WITH_URLS):
                yield scene, outcome, "call"
            if by_plugin or outcome == "time-out of all":
                continue
            if outcome == "success":
                yield scene, outcome, "call"
                yield scene, outcome, "run"
            if outcome in {"success", "wrong digest"}:
                yield scene, outcome, "batch" if turn % 2 else "stream"
            else:
                yield scene, outcome, "run" if turn % 2 or OUTCOMES[outcome].cancelled else "call"
            if scene in BY_COMMAND and outcome in {"success", "401", "repeats", "wrong digest"}:
                yield scene, outcome, "command --json" if turn % 2 else "command"


# How it is run

OF_SETTINGS: Final = frozenset({"user", "headers", "proxy", "environment", "tls", "timeout", "retries"})


def download(
    form: str, scene: Scene, options: dict[str, Any], target: Path, seen: Seen, end: threading.Event | None = None
) -> Result:
    """Run the download of *scene* in a *form*; show all that is made for it. It is cancelled at an *end*."""
    writer = None if form == "stream" else FileWriter(target)
    plugins = (*scene.plugins, *options.pop("plugins"))
    settings = {name: value for name, value in options.items() if name in OF_SETTINGS}
    others = {name: value for name, value in options.items() if name not in OF_SETTINGS}
    shared: dict[str, Any] = {"drivers": DRIVERS | scene.drivers}
    if form == "run":  # by the context, and else by the download
        shared |= {**settings, "plugins": plugins}
        job = Download(scene.url, writer, **others)
    else:
        job = Download(scene.url, writer, plugins=plugins, **settings, **others)
    for thing in (job, job.settings, job.plugins, *job.plugins):
        seen.show("configuration", thing)

    async def work() -> Result:
        asyncio.get_running_loop().slow_callback_duration = 0  # type: ignore[attr-defined]
        async with Context(**shared) as context:
            seen.show("context", context)
            job.context = context
            if end is None:
                return await job.run()
            async with asyncio.timeout(None) as clock:
                stopping = asyncio.create_task(stop(clock, end))
                try:
                    return await job.run()
                finally:
                    await asyncio.wait((stopping,))

    if form == "run":
        return asyncio.run(work(), debug=True)
    with Context(**shared) as context:
        seen.show("context", context)
        job.context = context
        if form == "call":
            return job()
        if form == "stream":
            with job.stream() as stream:
                seen.show("stream", stream)
                for _ in stream:
                    pass
                seen.show("headers of a stream", stream.headers)
                return stream.result()
        with Batch([job], context=context) as batch:
            seen.show("batch", batch)
            [plan] = batch()
            seen.show("plan", plan)
            seen.take("error of a plan", plan.error)
            seen.show("progress", batch.progress)
            return plan.result()


async def stop(clock: asyncio.Timeout, end: threading.Event) -> None:
    """Let the time of *clock* be up at the *end*, or soon after, where a server by FTP is silent."""
    await asyncio.to_thread(end.wait, 0.2)
    clock.reschedule(asyncio.get_running_loop().time())


DRIVERS: Final[dict[str, Any]] = {"http": HttpDriver(), "https": HttpDriver(), "ftp": FtpDriver()}


def command(form: str, scene: Scene, outcome: Outcome, directory: Path) -> int:
    """Run the command for *scene*; return its exit code."""
    assert scene.command is not None
    arguments = ["get", scene.url, "--retries", "0", "-o", str(directory / "file"), *form.split()[1:], *scene.command]
    if outcome.wrong_digest:
        arguments += ["--checksum", f"sha256:{'0' * 64}"]
    if "time-out" in {outcome.mode, outcome.aux}:
        arguments += ["--read-timeout", "0.1"]
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        return run_command(arguments)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(name: str, what: str, form: str, there: There, monkeypatch: pytest.MonkeyPatch) -> tuple[Seen, bool, object]:
    """Run a case; return all that is to be seen, whether it went well, and the outcome."""
    outcome = OUTCOMES[what]
    there.behave(outcome.mode, outcome.aux)
    scene = SCENES[name](there)
    for variable, value in scene.environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(tempfile, "tempdir", str(there.directory))
    before = {*there.directory.iterdir()}
    seen = Seen(scene.more, scene.told)
    witness = Witness(seen, there.directory)
    options: dict[str, Any] = {"retries": 1, **scene.options}
    if outcome.wrong_digest:
        options["digests"] = {"sha256": "0" * 64}
    if "time-out" in {outcome.mode, outcome.aux} and not outcome.cancelled:
        options |= {"timeout": Timeout(total=0.15) if outcome.total else Timeout(read=0.1), "retries": 0}
    options["plugins"] = (witness, *outcome.plugins, Retries(base=0))
    result: object = None
    with seen.listening():
        if form.startswith("command"):
            result = command(form, scene, outcome, there.directory)
        else:
            try:
                end = there.stalled if outcome.cancelled else None
                result = download(form, scene, options, there.directory / "file", seen, end)
            except (DownloadError, TimeoutError) as error:
                result = error
                seen.take("what is raised", error)
            seen.take("result", result)
            assert {"done"} <= set(witness.events)
    assert witness.mistakes == []
    left = {*there.directory.iterdir()} - before
    assert {path.name for path in left} <= {"file", "scores.json"}
    for path in left:
        seen.add(f"content of {path.name}", path.read_bytes())
        seen.add(f"attributes of {path.name}", os.listxattr(path))
    succeeded = isinstance(result, Result) or result == 0
    assert succeeded == (outcome.succeeds and not scene.fails), (result, seen.texts[-2:])
    if succeeded:
        assert form.startswith("command") or {"prepare", "fetch", "open", "done"} <= set(witness.events)
        used = " ".join([*there.saw, " ".join(there.ftp.commands).encode("latin-1").decode()])
        assert [secret for secret in scene.used if secret not in used] == []
    return seen, succeeded, result


@pytest.mark.parametrize(("name", "what", "form"), [pytest.param(*case, id="-".join(case)) for case in cases()])
def test_the_canary_is_never_seen(
    name: str, what: str, form: str, there: There, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret that is configured is used, and is in nothing that is logged, shown, raised, pickled or printed."""
    seen, _, _ = run(name, what, form, there, monkeypatch)
    assert len(seen.texts) > (3 if form.startswith("command") else 50)
    leaks = seen.leaks()
    assert not leaks, "\n".join(f"{where}: {text}" for where, text in leaks)


def netrc_file(there: There, text: str) -> Netrc:
    """Write a netrc file."""
    path = there.directory / "netrc"
    path.write_text(text)
    return Netrc(path)


SECRET_URL: Final = f"http://elmer:{quote(PASSWORD, safe='')}@host/?key={QUERY}"
REFUSED: Final[dict[str, Callable[[], object]]] = {
    "Download: port": lambda: Download(SECRET_URL.replace("host", "host:port")),
    "Download: blank": lambda: Download(f" {SECRET_URL}"),
    "Download: no scheme": lambda: Download(SECRET_URL.removeprefix("http:")),
    "Download: no driver": lambda: Context().download(SECRET_URL.replace("http", "gopher")),
    "proxy": lambda: Settings(proxy=SECRET_URL.removeprefix("http://")),
    "header: break": lambda: Settings(headers={"X-Key": f"{HEADER}\n"}),
    "header: type": lambda: Settings(headers={"X-Key": HEADER.encode()}),  # type: ignore[dict-item]
    "user: type": lambda: User(USER, PASSWORD.encode()),  # type: ignore[arg-type]
    "key without certificate": lambda: TLS(client_key=f"-----BEGIN PRIVATE KEY-----\n{KEY}"),
    "key: type": lambda: TLS(client_certificate="x", client_key=KEY.encode()),  # type: ignore[arg-type]
    "credential": lambda: Credentials("http://host", (("X-Key", f"{HEADER}\r\n"),)),
    "request out of its scope": lambda: Request(f"http://host/?key={QUERY}").authorized(
        [], within=f"http://h/?{QUERY}"
    ),
    "Token": lambda: Token(f"{TOKEN} "),
    "Token: type": lambda: Token(TOKEN.encode()),  # type: ignore[arg-type]
    "BearerToken": lambda: BearerToken(f"{TOKEN} {TOKEN}"),
    "BearerToken: type": lambda: BearerToken(TOKEN.encode()),  # type: ignore[arg-type]
    "BearerToken: within": lambda: BearerToken(TOKEN, within=SECRET_URL),
    "HeaderToken": lambda: HeaderToken("X-Key", f"{TOKEN}\n"),
    "BasicAuth": lambda: BasicAuth(USER, f"{PASSWORD}\n"),
    "BasicAuth: type": lambda: BasicAuth(USER, PASSWORD.encode()),  # type: ignore[arg-type]
    "DigestAuth": lambda: DigestAuth(f'{USER}"', PASSWORD),
    "RegistryToken": lambda: RegistryToken(USER),
    "RegistryToken: realm": lambda: RegistryToken(USER, PASSWORD, realm=SECRET_URL),
    "OAuth2ClientCredentials: user": lambda: OAuth2ClientCredentials(SECRET_URL, "me", PASSWORD),
    "OAuth2ClientCredentials: http": lambda: OAuth2ClientCredentials(f"http://host/?key={QUERY}", "me", PASSWORD),
    "OAuth2ClientCredentials: secret": lambda: OAuth2ClientCredentials("https://host/", "me", f"{PASSWORD}\u20ac"),
    "OAuth2RefreshToken": lambda: OAuth2RefreshToken("https://host/", TOKEN.encode(), "me"),  # type: ignore[arg-type]
    "MirrorList: prefix": lambda: MirrorList([SECRET_URL], replaces=SECRET_URL),
    "MirrorList: no URL": lambda: MirrorList([SECRET_URL, SECRET_URL.replace("host", "host:port")]),
    "MirrorList: list": lambda: MirrorList(SECRET_URL.replace("host", "host:port")),
    "Mirror": lambda: Mirror(SECRET_URL, 0),
    "SrvMirrors": lambda: SrvMirrors(SECRET_URL),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_not_repeated(what: str) -> None:
    """What cannot be meant is a ValueError, a TypeError, or an error of the tree, and that does not show the secret."""
    seen = Seen()
    with pytest.raises((ValueError, TypeError, DownloadError)) as caught:
        REFUSED[what]()
    error = caught.value
    while error is not None:
        seen.add(what, f"{error} {error!r} {error.args} {getattr(error, '__notes__', ())}")
        error = error.__cause__ or error.__context__
    assert not seen.leaks(), seen.leaks()


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_can_be_reported(what: str) -> None:
    """Whoever reports errors with the locals of all frames gets the repr of objects that are half made: none fails."""
    with pytest.raises((ValueError, TypeError, DownloadError)) as caught:
        REFUSED[what]()
    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert [
        frame.name for frame in told.stack if frame.locals and "<local repr() failed>" in frame.locals.values()
    ] == []


@pytest.mark.parametrize(
    "text",
    [
        f"machine 127.0.0.1 login {USER} password {PASSWORD}", f"machine 127.0.0.1 {TOKEN} {USER}",
        f"{TOKEN}", f'machine 127.0.0.1 login "{USER}', f"machine {TOKEN}", f"macdef x\n{TOKEN}",
        f"machine 127.0.0.1 password {TOKEN} {TOKEN}",
    ],
)  # fmt: skip
def test_a_broken_netrc_is_not_repeated(text: str, there: There) -> None:
    """An error about the file names it and the line, and nothing of what stands there."""
    seen = Seen()
    with Context(drivers=DRIVERS, retries=0) as context:
        try:
            context.download(there.url(), FileWriter(there.directory / "f"), plugins=[netrc_file(there, text)])()
        except DownloadError as error:
            seen.take("error", error)
    assert not seen.leaks(), seen.leaks()


# The search itself


@pytest.mark.parametrize(
    ("name", "form", "loggers"),
    [
        ("userinfo", "run", {"asyncio"}),
        ("one's own client", "run", {"httpcore.http11", "httpx", "asyncio"}),
        ("userinfo by FTP", "run", {"aioftp.client", "asyncio"}),
        ("MirrorList of a list", "call", {"downhaul.engine"}),
    ],
)
def test_the_loggers_are_heard(
    name: str,
    form: str,
    loggers: set[str],
    there: There,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """The records of the client libraries, of asyncio and of our own loggers are among what is searched."""
    if request.config.getoption("--road") == "library" and "FTP" not in name:
        loggers = loggers | {"httpcore.http11"}
    seen, _, _ = run(name, "success", form, there, monkeypatch)
    heard = {where.removeprefix("log of ") for where, _ in seen.texts if where.startswith("log of ")}
    assert loggers <= heard


CODINGS: Final[dict[str, Callable[[str], str]]] = {
    "as it is": lambda text: text,
    "hex": lambda text: text.encode().hex(),
    "percent": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "quoted": quote,
    "JSON": json.dumps,
    "repr": repr,
    "bytes": lambda text: repr(text.encode()),
    "UTF-16": lambda text: text.encode("utf-16").decode("latin-1"),
    "repr of UTF-16": lambda text: repr(text.encode("utf-16-be")),
    **{
        f"base64 of a pair, {name}": partial(lambda name, text: b64encode(f"{name}:{text}".encode()).decode(), name)
        for name in ("a", "ab", "abc")
    },
    "base64 for URLs": lambda text: urlsafe_b64encode(f"ü?{text}?".encode()).decode(),
    "pickle": lambda text: pickle.dumps({"a": [text]}).decode("latin-1"),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_the_search_knows_encodings(coding: str) -> None:
    """However a secret is encoded on its way, it is found; without it nothing is."""
    seen = Seen()
    seen.add("nothing", CODINGS[coding]("there is nothing here"))
    assert seen.leaks() == []
    seen.add("here", f"before {CODINGS[coding](PASSWORD)} behind")
    assert [where for where, _ in seen.leaks()] == ["here"]


def raised(code: str, **names: object) -> Exception:
    """Return what *code* raises, which is in no file of the tests."""
    try:
        exec(compile(code, "/elsewhere/module.py", "exec"), names)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def error_with(**changes: object) -> DownloadError:
    """Return an error, changed."""
    error = DownloadError("all is well")
    for name, value in changes.items():
        setattr(error, name, value)
    return error


class Secretive:
    """Shows nothing, but is pickled whole."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __repr__(self) -> str:
        return "Secretive()"


PLANTED: Final[dict[str, Callable[[], object]]] = {
    "str": lambda: MARK,
    "repr": lambda: User(MARK).name,
    "in a container": lambda: {"a": [(MARK,)]},
    "key of a mapping": lambda: Headers([(MARK, "")]),
    "value of headers": lambda: Headers([("X-Sent", MARK)]),
    "message": lambda: DownloadError(MARK),
    "arguments": lambda: error_with(args=(b"1", MARK)),
    "cause": lambda: error_with(__cause__=ValueError(MARK)),
    "context": lambda: error_with(__context__=ValueError({"a": [MARK]})),
    "note": lambda: error_with(__notes__=[MARK]),
    "attribute": lambda: error_with(reason={"deep": (MARK,)}),
    "userinfo of a URL": lambda: error_with(url=f"http://{MARK}@host/?key=value"),
    "history": lambda: error_with(history=(Attempt("x", 1, 0, DownloadError(MARK)),)),
    "source in the history": lambda: error_with(history=(Attempt(f"http://{MARK}@h/", 1, 0, DownloadError()),)),
    "errors of all sources": lambda: SourcesExhausted("", [DownloadError(), DownloadError(MARK)]),
    "cause of a preparation": lambda: PreparationError("", DownloadError(MARK)),
    "pickle": lambda: error_with(state=Secretive(MARK)),
    "locals": lambda: raised("def f(secret): return 1 / 0\nf(secret)", secret=MARK),
    "locals behind a cause": lambda: raised(
        "def f(secret): return 1 / 0\ntry:\n f(secret)\nexcept Exception as e: raise ValueError from e", secret=MARK
    ),
}


@pytest.mark.parametrize("place", PLANTED)
def test_the_search_finds_what_is_planted(place: str) -> None:
    """In whatever holds it, however deep, the canary is found: the test above can fail."""
    seen = Seen()
    seen.take("clean", error_with(url="http://host/?key=" + MARK, __cause__=raised("1 / 0"), history=()))
    assert seen.leaks() == []
    seen.take("planted", PLANTED[place]())
    assert seen.leaks()


LOGGED: Final[dict[str, Callable[[], object]]] = {
    "message": lambda: logging.getLogger("httpx").debug(MARK),
    "argument": lambda: logging.getLogger("aioftp.client").debug("%s", MARK),
    "argument that is shown otherwise": lambda: logging.getLogger("downhaul.tokens").debug("%.3s", MARK),
    "extra": lambda: logging.getLogger("asyncio").info("fine", extra={"more": MARK}),
    "traceback": lambda: logging.getLogger("x.y").error("fine", exc_info=raised("f = lambda s: 1 / 0\nf(s)", s=MARK)),
    "standard output": lambda: sys.stdout.write(MARK),
    "standard error": lambda: sys.stderr.write(MARK),
    "other thread": lambda: asyncio.run(asyncio.to_thread(logging.getLogger("httpcore.http2").debug, MARK)),
}


@pytest.mark.parametrize("way", LOGGED)
def test_the_search_hears_everything(way: str) -> None:
    """What is logged at DEBUG, by whichever logger and on whatever thread, or printed, is searched."""
    seen = Seen()
    with seen.listening():
        LOGGED[way]()
    assert seen.leaks()


def test_a_warning_is_heard_and_refused() -> None:
    """A warning is searched too, and there should be none at all."""
    seen = Seen()
    with pytest.raises(AssertionError), seen.listening():
        warnings.warn(MARK, stacklevel=1)
    assert seen.leaks()


def test_a_hook_that_shows_a_secret_is_seen(there: There) -> None:
    """What a plugin of a scene puts into what others are shown is found: here, a user in a header for all to see."""

    class Careless(Plugin):
        @hookimpl
        async def prepare(self, transfer: Transfer) -> None:
            transfer.request = replace(transfer.request, headers=(("X-Key", TOKEN),))

    seen = Seen()
    witness = Witness(seen)
    with Context(drivers=DRIVERS, plugins=[Careless(), witness]) as context:
        context.download(there.url(), FileWriter(there.directory / "file"))()
    assert witness.mistakes == []
    assert {where for where, _ in seen.leaks()} >= {"repr of Request in prepare", "repr of Request in done"}
