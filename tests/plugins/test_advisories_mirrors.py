"""What went wrong elsewhere with mirrors, lists of them, and metalinks; see tests/advisories.csv.

Everything is on the wire: a home that has lists of every kind, and mirrors that note all that they are sent.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import time
import tracemalloc
from base64 import b64encode
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import escape, quoteattr

import pytest
import trustme
from tests.servers.ftp import FtpServer
from tests.servers.http import head, http_server

from downhaul import (
    TLS,
    BufferWriter,
    Context,
    DigestMismatch,
    Download,
    DownloadError,
    Driver,
    FileWriter,
    Info,
    Payload,
    PreparationError,
    Result,
    Retries,
    SourcesExhausted,
    User,
)
from downhaul.plugins import BearerToken, HeaderToken, InOrder, LinkedMirrors, Metalink, MirrorList, Mirrors
from downhaul_ftp import FtpDriver
from downhaul_http import HttpDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.servers.http import Exchange, HttpServer

    from downhaul import Request, Settings

_T = TypeVar("_T")
BYTES: Final = bytes(range(256)) * 100
WRONG: Final = BYTES[::-1]
SHA256: Final = hashlib.sha256(BYTES).hexdigest()
SECRET: Final = "c4nary"
PLAIN: Final = {"host", "user-agent", "accept", "accept-encoding"}
"""The header fields of a request that knows no secret."""
KINDS: Final = ("list", "list of prefixes", "list itself", "URLs", "function", "metalink 4", "metalink 3", "links",
                "described")  # fmt: skip
LISTED: Final = tuple(kind for kind in KINDS if kind not in {"URLs", "function"})
"""The kinds that come from a server."""
JUDGED: Final = ("metalink 4", "metalink 3", "links", "described")
"""The kinds that have a digest."""


def metalink(*urls: str, name: str = "pkg.rpm", digests: dict[str, str] | None = None) -> bytes:
    """Return a metalink of version 4 for the file at *urls*."""
    told = {"sha-256": SHA256} if digests is None else digests
    hashes = "".join(f"<hash type={quoteattr(kind)}>{escape(value)}</hash>" for kind, value in told.items())
    places = "".join(f'<url priority="{number}">{escape(url)}</url>' for number, url in enumerate(urls, 1))
    text = f"<file name={quoteattr(name)}>{hashes}{places}</file>"
    return f'<metalink xmlns="urn:ietf:params:xml:ns:metalink">{text}</metalink>'.encode()


def metalink_3(*urls: str, name: str = "pkg.rpm", digests: dict[str, str] | None = None) -> bytes:
    """Return the same of version 3."""
    told = {"sha256": SHA256} if digests is None else digests
    hashes = "".join(f"<hash type={quoteattr(kind)}>{escape(value)}</hash>" for kind, value in told.items())
    places = "".join(f'<url preference="{100 - number}">{escape(url)}</url>' for number, url in enumerate(urls))
    text = f"<file name={quoteattr(name)}><verification>{hashes}</verification><resources>{places}</resources></file>"
    return f'<metalink version="3.0" xmlns="http://www.metalinker.org/"><files>{text}</files></metalink>'.encode()


@dataclass
class Site:
    """An origin: `pages` by path, or what makes the answer; it notes what it was asked.

    With `guarded`, who has no secret is refused with a challenge.
    """

    pages: dict[str, bytes | Callable[[Exchange], Any]] = field(default_factory=dict)
    headers: list[tuple[str, str]] = field(default_factory=list)
    guarded: bool = False
    asked: list[Exchange] = field(default_factory=list)
    server: HttpServer = field(init=False)

    async def answer(self, exchange: Exchange) -> None:
        """Answer with a page, a redirect or a refusal."""
        self.asked.append(exchange)
        page = self.pages.get(exchange.target.partition("?")[0])
        if self.guarded and not has_secret(exchange):
            await exchange.respond(401, b"", [("WWW-Authenticate", 'Basic realm="home"')])
        elif page is None:
            await exchange.respond(404)
        elif isinstance(page, bytes):
            await exchange.respond(200, page, self.headers)
        else:
            await page(exchange)

    def url(self, path: str) -> str:
        """Return the URL of *path*."""
        return self.server.url(path)


def has_secret(exchange: Exchange) -> bool:
    """Tell whether a request has a header field that nobody needs."""
    return not {name.lower() for name, _ in exchange.headers} <= PLAIN


def with_user(url: str) -> str:
    """Return *url* with name and password."""
    return url.replace("://", f"://elmer:{SECRET}@", 1)


def redirect(url: str) -> Callable[[Exchange], Any]:
    """Return a page that leads elsewhere."""
    return lambda exchange: exchange.respond(302, b"", [("Location", url)])


@dataclass
class Sites:
    """A home and two mirrors, the same with TLS, and a context that asks them in order."""

    context: Context
    strange: Strange
    home: Site
    one: Site
    two: Site
    secure_home: Site
    secure: Site
    published: int = 0

    def page(self, content: bytes) -> str:
        """Put *content* at home, where nothing was before; return its URL."""
        self.published += 1
        self.home.pages[f"/{self.published}"] = content
        return self.home.url(f"/{self.published}")

    def publish(self, kind: str, *urls: str, home: Site | None = None) -> tuple[str, Mirrors]:
        """Let *home* have a list of a *kind* of *urls*; return the URL to download, and the plugin."""
        home = home or self.home
        self.published += 1
        path, home.headers = f"/{self.published}", []
        links = ", ".join(f"<{quote(url, safe=_AS_IT_IS)}>; rel=duplicate; pri={n}" for n, url in enumerate(urls, 1))
        home.pages |= {
            f"{path}/list": "".join(f"{url}\n" for url in urls).encode(),
            f"{path}/prefixes": "".join(f"{url.removesuffix('pkg.rpm')}\n" for url in urls).encode(),
            f"{path}/4": metalink(*urls),
            f"{path}/3": metalink_3(*urls),
        }
        if kind in {"links", "described"}:
            told = links if kind == "links" else f'<{path}/4>; rel=describedby; type="{_TYPE}"'
            home.headers = [("Link", told), ("Digest", f"SHA-256={b64encode(bytes.fromhex(SHA256)).decode()}")]
            home.pages[f"{path}/pub/pkg.rpm"] = head_only(home)
        plugins: dict[str, Callable[[], Mirrors]] = {
            "list": lambda: MirrorList(home.url(f"{path}/list"), choice=_CHOICE),
            "list of prefixes": lambda: MirrorList(
                home.url(f"{path}/prefixes"), replaces=home.url(f"{path}/pub/"), choice=_CHOICE
            ),
            "list itself": lambda: MirrorList(choice=_CHOICE),
            "URLs": lambda: MirrorList(urls, choice=_CHOICE),
            "function": lambda: MirrorList(lambda: urls, choice=_CHOICE),
            "links": lambda: LinkedMirrors(choice=_CHOICE),
            "described": lambda: LinkedMirrors(choice=_CHOICE),
        }
        name = {"list itself": "list", "metalink 4": "4", "metalink 3": "3"}.get(kind, "pub/pkg.rpm")
        return home.url(f"{path}/{name}"), plugins.get(kind, lambda: _METALINK)()

    async def run(
        self, url: str, *plugins: object, writer: Any = None, **options: Any
    ) -> tuple[Result | DownloadError, bytes]:
        """Download *url*; return what came of it, and the bytes."""
        writer = writer or BufferWriter()
        try:
            result = await Download(url, writer, context=self.context, plugins=plugins, **options).run()
        except DownloadError as error:
            return error, b""
        return result, writer.content() if isinstance(writer, BufferWriter) else writer.path.read_bytes()


def head_only(home: Site) -> Callable[[Exchange], Any]:
    """Return a page that has a head, and no file."""
    return lambda exchange: (
        exchange.respond(200, BYTES, home.headers) if exchange.method == "HEAD" else exchange.respond(404)
    )


_TYPE: Final = "application/metalink4+xml"
_CHOICE: Final = InOrder()
_METALINK: Final = Metalink(choice=_CHOICE)
_AS_IT_IS: Final = "".join(map(chr, range(32, 127)))


STRANGE: Final = ("file", "data", "gopher", "javascript", "jar", "unix", "ldap", "smb", "sftp", "dict", "view-source",
                  "php", "git+ssh")  # fmt: skip
"""Schemes that a driver would answer for, if only it were asked."""


class Strange(Driver):
    """Answers for whatever it is asked, and takes a note of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncIterator[Payload]:
        self.asked.append(request.url)

        async def body() -> AsyncIterator[bytes]:
            yield WRONG

        yield Payload(Info(request.url, size=len(WRONG), proof="length"), body())


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[TLS, dict[str, Site]]]:
    """Run the five origins, and tell whom to trust."""
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    origins = {name: Site() for name in ("home", "one", "two", "secure_home", "secure")}
    with ExitStack() as stack:
        for name, site in origins.items():
            site.server = stack.enter_context(http_server(site.answer, tls=tls if "secure" in name else None))
        yield TLS(ca_certificate=authority.cert_pem.bytes().decode()), origins


@pytest.fixture
async def sites(running: tuple[TLS, dict[str, Site]]) -> AsyncIterator[Sites]:
    """Begin with empty origins, in a context of its own."""
    tls, origins = running
    for site in origins.values():
        vars(site).update(pages={}, headers=[], guarded=False, asked=[])
    http = HttpDriver()
    strange = Strange()
    drivers = {**dict.fromkeys(STRANGE, strange), "http": http, "https": http, "ftp": FtpDriver()}
    async with Context(drivers=drivers, tls=tls, retries=0, plugins=[Retries(base=0)]) as context:
        yield Sites(context, strange, **origins)


# Credentials (S6)

SECRETS: Final[dict[str, dict[str, Any]]] = {
    "userinfo": {},
    "user": {"user": User("elmer", SECRET)},
    "header": {"headers": {"X-API-Key": SECRET}},
    "BearerToken": {"plugins": [BearerToken(SECRET)]},
    "HeaderToken": {"plugins": [HeaderToken("Private-Token", SECRET)]},
}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("kind", KINDS)
async def test_mirrors_see_no_credentials(kind: str, secret: str, sites: Sites) -> None:
    """What the list's host is told, and the download's own, no mirror ever hears, not even one that asks for it."""
    sites.home.guarded = sites.one.guarded = True
    sites.two.pages = {"/pkg.rpm": redirect(sites.two.url("/deep/pkg.rpm")), "/deep/pkg.rpm": BYTES}
    url, plugin = sites.publish(kind, sites.one.url("/pkg.rpm"), sites.two.url("/pkg.rpm"))
    options = dict(SECRETS[secret])
    if secret == "userinfo":
        url = with_user(url)
        if isinstance(plugin, MirrorList) and isinstance(plugin.mirrors, str):
            plugin = replace(plugin, mirrors=with_user(plugin.mirrors))
    outcome, content = await sites.run(url, plugin, *options.pop("plugins", ()), **options)
    assert content == BYTES, outcome
    assert all(map(has_secret, sites.home.asked))
    assert bool(sites.home.asked) == (kind in LISTED)
    assert [has_secret(each) for each in sites.one.asked] == [False]
    assert [has_secret(each) for each in sites.two.asked] == [False, False]


@pytest.mark.parametrize("kind", ["list", "list itself", "metalink 4", "metalink 3"])
async def test_a_list_that_moves_takes_no_credentials_along(kind: str, sites: Sites) -> None:
    """Where the list redirects to another host, neither that host nor its mirrors are told the user of the first."""
    url, plugin = sites.publish(kind, sites.two.url("/pkg.rpm"), home=sites.one)
    path = urlsplit(plugin.mirrors if isinstance(plugin, MirrorList) and plugin.mirrors else url).path
    sites.home.pages, sites.home.guarded = {path: redirect(sites.one.url(path))}, True
    sites.two.pages["/pkg.rpm"] = BYTES
    if kind == "list":
        plugin = replace(plugin, mirrors=with_user(sites.home.url(path)))
    outcome, content = await sites.run(with_user(sites.home.url(path)), plugin)
    assert content == BYTES, outcome
    assert list(map(has_secret, [*sites.home.asked, *sites.one.asked, *sites.two.asked])) == [True, False, False]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("kind", ["list", "list of prefixes", "described"])
async def test_the_host_of_a_list_sees_no_credentials(kind: str, secret: str, sites: Sites) -> None:
    """A list, or a metalink, of another host than the download's is asked for without what that one is told."""
    sites.two.pages["/pkg.rpm"] = BYTES
    url, plugin = sites.publish(kind, sites.two.url("/pkg.rpm"), home=sites.one)
    home = sites.home.url(urlsplit(url).path)
    if kind == "list of prefixes":
        plugin = replace(plugin, replaces=plugin.replaces.replace(sites.one.url(""), sites.home.url("")))
    if kind == "described":
        digest = b64encode(bytes.fromhex(SHA256)).decode()
        link = f'<{sites.one.url(urlsplit(url).path.replace("pub/pkg.rpm", "4"))}>; rel=describedby; type="{_TYPE}"'
        sites.home.pages[urlsplit(url).path] = b"nothing"
        sites.home.headers = [("Link", link), ("Digest", f"SHA-256={digest}")]
    options = dict(SECRETS[secret])
    home = with_user(home) if secret == "userinfo" else home
    outcome, content = await sites.run(home, plugin, *options.pop("plugins", ()), **options)
    assert content == BYTES, outcome
    assert len(sites.one.asked) == 1
    assert not any(map(has_secret, [*sites.one.asked, *sites.two.asked]))
    assert all(map(has_secret, sites.home.asked))


async def test_userinfo_of_a_mirror_is_for_that_mirror(sites: Sites) -> None:
    """A list may have a user for a mirror: it goes there, and neither to the next one nor where the first redirects."""
    sites.one.pages = {"/pkg.rpm": redirect(sites.home.url("/no"))}
    sites.two.pages = {"/pkg.rpm": BYTES}
    url, plugin = sites.publish("metalink 4", with_user(sites.one.url("/pkg.rpm")), sites.two.url("/pkg.rpm"))
    outcome, content = await sites.run(url, plugin)
    assert content == BYTES
    assert [has_secret(each) for each in sites.one.asked] == [True]
    assert [has_secret(each) for each in (*sites.home.asked, *sites.two.asked)] == [False] * 3
    assert SECRET not in f"{outcome!r} {outcome.history}"


# Other schemes, and encryption given up (S16, S17)

OTHERS: Final = (
    "file://{path}", "FILE://{path}", "file:{path}", "file://localhost{path}", "data:text/plain,evil", "gopher://h/x",
    "javascript:alert(1)", "jar:http://h/x!/y", "unix:{path}", "ldap://h/x", "smb://h/share/x", "\\\\h\\share\\x",
    "sftp://h/x", "dict://h/x", "view-source:http://h/", "php://filter/x", "git+ssh://h/x", "{path}",
)  # fmt: skip


@pytest.mark.parametrize("kind", [*LISTED, "redirect"])
async def test_nobody_names_another_scheme(kind: str, sites: Sites, tmp_path: Path) -> None:
    """`file:` and what else is not allowed is not read, whoever names it, and a mirror that may be had is asked."""
    evil = tmp_path / "evil"
    evil.write_bytes(WRONG)
    sites.two.pages["/pkg.rpm"] = BYTES
    for number, other in enumerate(OTHERS):
        named = other.format(path=evil)
        if kind == "redirect":
            sites.one.pages[f"/{number}"] = redirect(named)
            named = sites.one.url(f"/{number}")
        url, plugin = sites.publish("list" if kind == "redirect" else kind, named, sites.two.url("/pkg.rpm"))
        outcome, content = await sites.run(url, plugin)
        assert content == BYTES, (other, outcome)
        url, plugin = sites.publish("list" if kind == "redirect" else kind, named)
        outcome, content = await sites.run(url, plugin)
        assert isinstance(outcome, DownloadError), other
        assert content == b""
    assert len(sites.two.asked) == len(OTHERS)
    assert sites.strange.asked == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_scheme_may_be_left_out(kind: str, sites: Sites) -> None:
    """Where only http is allowed, a mirror by ftp is not even connected to."""
    sites.two.pages["/pkg.rpm"] = BYTES
    with FtpServer({"pkg.rpm": WRONG}) as ftp:
        url, plugin = sites.publish(kind, ftp.url("pkg.rpm"), sites.two.url("/pkg.rpm"))
        outcome, content = await sites.run(url, plugin, schemes=["http"])
        assert content == BYTES, outcome
        assert ftp.controls == 0


@pytest.mark.parametrize("shouted", [False, True], ids=["https", "HTTPS"])
@pytest.mark.parametrize("kind", KINDS)
async def test_encryption_is_not_given_up(kind: str, shouted: bool, sites: Sites) -> None:
    """What is had by https leads to no mirror without, however that is written, at whatever hop: it is not asked."""
    plain = sites.one.url("/pkg.rpm")
    sites.one.pages["/pkg.rpm"] = WRONG
    sites.secure.pages = {"/pkg.rpm": BYTES, "/down/pkg.rpm": redirect(plain.replace("http:", "HTTP:"))}
    named = (plain, plain.replace("http", "HTTP"), sites.secure.url("/down/pkg.rpm"), sites.secure.url("/pkg.rpm"))
    url, plugin = sites.publish(kind, *named, home=sites.secure_home)
    if shouted and isinstance(plugin, MirrorList) and isinstance(plugin.mirrors, str):
        plugin = replace(plugin, mirrors=plugin.mirrors.replace("https://localhost", "HTTPS://LOCALHOST"))
    if shouted and kind != "list of prefixes":  # which is for URLs that are written so
        url = url.replace("https://localhost", "HTTPS://LOCALHOST")
    outcome, content = await sites.run(url, plugin)
    assert content == BYTES, outcome
    assert [each.target for each in sites.secure.asked] == ["/down/pkg.rpm", "/pkg.rpm"]
    assert sites.one.asked == []


async def test_a_host_ends_where_it_ends(sites: Sites) -> None:
    """An encoded delimiter in a host makes no other host of it: such a mirror is not asked, and the next one is."""
    sites.two.pages["/pkg.rpm"] = BYTES
    host = urlsplit(sites.one.url("/")).netloc
    for strange in (f"http://{host}%2fh/pkg.rpm", f"http://{host}%23@h.invalid/x", f"http://{host}\\@h.invalid/x"):
        for kind in LISTED:
            url, plugin = sites.publish(kind, strange, sites.two.url("/pkg.rpm"))
            outcome, content = await sites.run(url, plugin)
            assert content == BYTES, outcome
            assert sites.one.asked == [], strange


# Names of files (S9, S10, S11)

ABSOLUTE: Final = "/tmp/evil-of-downhaul"
NAMES: Final = (
    "../evil", ABSOLUTE, "..", ".", "", "a/../../evil", "..\\evil", "C:\\evil", "C:evil", "\\\\host\\share\\evil",
    "%2e%2e%2fevil", "..%2fevil", "%252e%252e%252fevil", "..%5cevil", "a%00b", ".bashrc", "-rf", "~/evil", "....//evil",
    "CON", "a" * 300, "evil\u202egnp.exe", ".ssh/authorized_keys", "evil;rm -rf", "$(evil)",
)  # fmt: skip


def files_in(directory: Path) -> set[str]:
    """Return the paths of all that is below *directory*."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


@pytest.mark.parametrize("place", ["filename", "filename*", "redirect", "mirror", "metalink 4", "metalink 3"])
async def test_no_name_from_elsewhere_is_used(place: str, sites: Sites, tmp_path: Path) -> None:
    """Whoever names a file, in a header, a redirect, a mirror's URL or a metalink: it is where the caller wanted it."""
    target = tmp_path / "in" / "mine.rpm"
    target.parent.mkdir()
    had = 0
    for name in NAMES:
        path, coded = f"/{quote(name, safe='/%')}", "".join(f"%{byte:02X}" for byte in name.encode())
        sites.one.pages = {path: BYTES, "/pkg.rpm": BYTES}
        sites.one.headers = [
            ("Content-Disposition", f'attachment; filename="{quote(name, safe=_AS_IT_IS)}"')
            if place == "filename"
            else ("Content-Disposition", f"attachment; filename*=UTF-8''{coded}")
        ]
        url, plugin = sites.one.url("/pkg.rpm"), MirrorList([sites.one.url("/pkg.rpm")])
        if place == "redirect":
            url, plugin = sites.publish("list", sites.home.url("/moved"))
            sites.home.pages["/moved"] = redirect(sites.one.url(path))
        elif place == "mirror":
            url, plugin = sites.publish("URLs", sites.one.url(path))
        elif place.startswith("metalink"):
            write = metalink if place == "metalink 4" else metalink_3
            url, plugin = sites.page(write(sites.one.url("/pkg.rpm"), name=name)), _METALINK
        outcome, content = await sites.run(url, plugin, writer=FileWriter(target, parents=True))
        if isinstance(outcome, Result):
            had += 1
            assert content == BYTES
            assert outcome.path == target
        assert files_in(tmp_path) <= {"in", "in/mine.rpm"}, name
        target.unlink(missing_ok=True)
    assert not os.access(ABSOLUTE, os.F_OK)
    assert had >= (len(NAMES) if place in {"filename", "filename*", "metalink 4", "metalink 3"} else 15)


@pytest.mark.parametrize("digits", ["../../evil", "/etc/passwd", "%2e%2e%2f", "a" * 64 + "/../x", "\u0660" * 64])
async def test_a_digest_is_no_path(digits: str, sites: Sites, tmp_path: Path) -> None:
    """What stands for a digest in a metalink, and is none, is neither a name nor a digest."""
    target = tmp_path / "mine.rpm"
    sites.one.pages["/x"] = BYTES
    url = sites.page(metalink(sites.one.url("/x"), digests={"sha-256": digits, digits: SHA256}))
    outcome, _ = await sites.run(url, _METALINK, writer=FileWriter(target))
    assert isinstance(outcome, Result)
    assert outcome.proof == "length"
    assert files_in(tmp_path) == {"mine.rpm"}


# Documents that cost more than they are worth (S22, L5)

ROOT: Final = b'<metalink xmlns="urn:ietf:params:xml:ns:metalink"'


def entities(declared: str, used: str) -> Callable[[str], bytes]:
    """Return what makes a metalink with entities, which may refer to a URL."""
    return lambda url: (
        f"<!DOCTYPE metalink [{declared.replace('URL', url)}]>".encode() + metalink(url).replace(b"pkg", used.encode())
    )


LAUGHS: Final = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(12))
BOMBS: Final[dict[str, Callable[[str], bytes]]] = {
    "billion laughs": entities(LAUGHS, "&a12;"),
    "quadratic": entities(f'<!ENTITY a "{"a" * 50_000}">', "&a;" * 15_000),
    "external": entities('<!ENTITY a SYSTEM "URL">', "&a;"),
    "external file": entities('<!ENTITY a SYSTEM "file:///etc/passwd">', "&a;"),
    "parameter": entities('<!ENTITY % a SYSTEM "URL"> %a;', "x"),
    "external DTD": lambda url: f'<!DOCTYPE metalink SYSTEM "{url}">'.encode() + metalink(url),
    "itself": entities('<!ENTITY a "&b;"><!ENTITY b "&a;">', "&a;"),
    "deep": lambda url: ROOT + b">" + b"<file>" * 150_000,
    "wide": lambda url: ROOT + b">" + b"<file/>" * 30_000,
    "long attribute": lambda url: ROOT + b' a="' + b"x" * 1_000_000 + b'"/>',
    "attributes": lambda url: ROOT + b" ".join(b' a%d="b"' % number for number in range(20_000)) + b"/>",
    "namespaces": lambda url: ROOT + b" ".join(b' xmlns:a%d="b"' % number for number in range(20_000)) + b"/>",
    "comment": lambda url: ROOT + b"><!--" + b"-" * 1_000_000,
    "encoding": lambda url: b'<?xml version="1.0" encoding="cp037"?>' + metalink(url),
    "UTF-7": lambda url: b'<?xml version="1.0" encoding="utf-7"?>+ADw-metalink/+AD4-',
    "UTF-32": lambda url: metalink(url).decode().encode("utf-32"),
    "NUL": lambda url: metalink(url).replace(b"pkg", b"\0"),
    "binary": lambda url: bytes(range(256)) * 4000,
    "HTML": lambda url: b"<!DOCTYPE html><html><body>Log in" + b"<p>" * 100_000,
    "too many URLs": lambda url: metalink(*[f"{url}/{number}" for number in range(100_000)]),
}


async def cost(work: Awaitable[_T]) -> tuple[_T, float, int]:
    """Await *work*; return what it returns, the seconds of the processor, and the bytes of memory at most."""
    tracemalloc.start()
    began = time.process_time()
    try:
        return await work, time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bomb", BOMBS)
async def test_a_bomb_does_not_go_off(bomb: str, sites: Sites) -> None:
    """Entities, DOCTYPEs, depth, width and strange encodings are refused in no time; nothing is fetched for them."""
    url = sites.page(BOMBS[bomb](sites.one.url("/x")))
    (outcome, content), seconds, peak = await cost(sites.run(url, _METALINK))
    assert isinstance(outcome, PreparationError)
    assert content == b""
    assert len(str(outcome)) < 2000
    assert sites.one.asked == []
    assert seconds < 8  # while memory is traced, which takes its time; a bomb takes hours
    assert peak < 32 * 1024 * 1024


@pytest.mark.parametrize("kind", ["metalink 4", "metalink 3", "hashes", "list", "links"])
async def test_a_list_of_very_many_is_bounded(kind: str, sites: Sites) -> None:
    """Ten thousand URLs, digests or lines cost bounded time, memory, and attempts; the file comes nevertheless."""
    sites.two.pages["/pkg.rpm"] = BYTES
    good, many = sites.two.url("/pkg.rpm"), [sites.one.url(f"/{number}") for number in range(3000)]
    if kind == "list":
        url, plugin = sites.publish(kind, good)
        sites.home.pages[urlsplit(str(plugin.mirrors)).path] = (
            b"\n" * 900_000 + good.encode() + b"\n" + b"# no\n" * 20_000
        )
    elif kind == "links":
        url, plugin = sites.publish(kind, good, *many[:1000])
    elif kind == "hashes":
        url, plugin = (
            sites.page(metalink(good, digests={f"sha-{number}": SHA256 for number in range(9_000)})),
            _METALINK,
        )
    else:
        write = metalink if kind == "metalink 4" else metalink_3
        url, plugin = sites.page(write(good, *many)), _METALINK
    (outcome, content), seconds, peak = await cost(sites.run(url, plugin))
    assert content == BYTES, outcome
    assert seconds < 8
    assert peak < 64 * 1024 * 1024
    if kind.startswith("metalink"):
        del sites.two.pages["/pkg.rpm"]
        outcome, _ = await sites.run(url, plugin)
        assert isinstance(outcome, DownloadError)
        assert len(outcome.history) == 100


# What judges the bytes (S24, S25)


@pytest.mark.parametrize("before", [None, b"of an earlier day"], ids=["nothing", "a file"])
@pytest.mark.parametrize("kind", KINDS)
async def test_bytes_with_a_wrong_digest_are_gone(
    kind: str, before: bytes | None, sites: Sites, tmp_path: Path
) -> None:
    """Where no mirror has the right bytes it is an error: no file, nor a part; one that was there is as it was."""
    target = tmp_path / "pkg.rpm"
    if before is not None:
        target.write_bytes(before)
    sites.one.pages["/pkg.rpm"] = sites.two.pages["/pkg.rpm"] = WRONG
    url, plugin = sites.publish(kind, sites.one.url("/pkg.rpm"), sites.two.url("/pkg.rpm"))
    given = {} if kind in JUDGED else {"digests": {"sha256": SHA256}}
    outcome, _ = await sites.run(url, plugin, writer=FileWriter(target), **given)
    assert isinstance(outcome, DigestMismatch | SourcesExhausted)
    assert [type(each.error) for each in outcome.history][:2] == [DigestMismatch] * 2
    assert files_in(tmp_path) == (set() if before is None else {"pkg.rpm"})
    assert before is None or target.read_bytes() == before


async def _cut(exchange: Exchange) -> None:
    await exchange.send(head(200, [("Content-Length", str(len(BYTES)))]), BYTES[:100])
    await exchange.cut()


FAILURES: Final[dict[str, Callable[[Exchange], Any]]] = {
    "404": lambda exchange: exchange.respond(404),
    "503": lambda exchange: exchange.respond(503),
    "reset": lambda exchange: exchange.reset(),
    "cut": _cut,
    "wrong": lambda exchange: exchange.respond(200, WRONG),
    "redirect": redirect("file:///etc/passwd"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("kind", JUDGED)
async def test_the_next_mirror_is_judged_too(kind: str, failure: str, sites: Sites) -> None:
    """However the first mirror fails, the digest is not forgotten over it: wrong bytes of the next one are refused."""
    sites.one.pages["/pkg.rpm"] = FAILURES[failure]
    sites.two.pages["/pkg.rpm"] = WRONG
    url, plugin = sites.publish(kind, sites.one.url("/pkg.rpm"), sites.two.url("/pkg.rpm"))
    outcome, _ = await sites.run(url, plugin)
    assert isinstance(outcome, DownloadError)
    assert [type(each.error) for each in outcome.history if each.source == sites.two.url("/pkg.rpm")] == [
        DigestMismatch
    ]


@pytest.mark.parametrize("kind", JUDGED)
async def test_a_mirror_does_not_name_the_digest(kind: str, sites: Sites) -> None:
    """What a mirror says of its own bytes, in fields or in a redirect that would become some, judges nothing."""
    theirs = b64encode(hashlib.sha256(WRONG).digest()).decode()
    injected = quote(f"/x\r\nDigest: SHA-256={theirs}\r\n\r\n")
    sites.one.pages = {"/pkg.rpm": redirect(injected), injected: WRONG}
    sites.one.headers = [("Digest", f"SHA-256={theirs}"), ("Repr-Digest", f"sha-256=:{theirs}:")]
    sites.two.pages["/pkg.rpm"] = BYTES
    url, plugin = sites.publish(kind, sites.one.url("/pkg.rpm"), sites.two.url("/pkg.rpm"))
    outcome, content = await sites.run(url, plugin)
    assert content == BYTES
    assert [type(each.error) for each in outcome.history] == [DigestMismatch]
    assert [each.target for each in sites.one.asked] == ["/pkg.rpm", injected]


@pytest.mark.parametrize("kind", JUDGED)
async def test_the_digest_of_the_caller_counts(kind: str, sites: Sites) -> None:
    """Who knows the digest is not overruled by a list that names another one: both must be right."""
    sites.one.pages["/pkg.rpm"] = BYTES
    url, plugin = sites.publish(kind, sites.one.url("/pkg.rpm"))
    outcome, _ = await sites.run(url, plugin, digests={"sha256": hashlib.sha256(WRONG).hexdigest()})
    assert isinstance(outcome, DownloadError)
    assert isinstance(outcome.history[0].error, DigestMismatch)
    outcome, content = await sites.run(url, plugin, digests={"sha256": SHA256})
    assert content == BYTES


@pytest.mark.parametrize("algorithm", ["md5", "sha-1"])
@pytest.mark.parametrize("write", [metalink, metalink_3])
async def test_a_weak_digest_joins_nothing(write: Callable[..., bytes], algorithm: str, sites: Sites) -> None:
    """By md5 or sha1 bytes are judged, but they do not let one mirror go on where another one broke off."""
    digits = hashlib.new(algorithm.replace("-", ""), BYTES).hexdigest()
    url = sites.page(write(sites.one.url("/x"), sites.two.url("/x"), digests={algorithm: digits}))
    sites.one.pages["/x"], sites.two.pages["/x"] = _cut, BYTES
    outcome, content = await sites.run(url, _METALINK)
    assert content == BYTES, outcome
    assert [each.header("Range") for each in sites.two.asked] == [None]
    sites.one.pages["/x"] = sites.two.pages["/x"] = WRONG
    assert isinstance((await sites.run(url, _METALINK))[0], DigestMismatch)


@pytest.mark.parametrize("first", ["md5", "sha-1", "sha-256"])
@pytest.mark.parametrize("write", [metalink, metalink_3])
async def test_the_strongest_digest_judges(write: Callable[..., bytes], first: str, sites: Sites) -> None:
    """Of several digests the strongest is required, in whatever order they stand: a right md5 saves no wrong file."""
    digests = {name: hashlib.new(name.replace("-", ""), WRONG).hexdigest() for name in ("md5", "sha-1")}
    digests["sha-256"] = SHA256
    ordered = dict(sorted(digests.items(), key=lambda pair: pair[0] != first))
    sites.one.pages["/x"] = WRONG
    assert isinstance(
        (await sites.run(sites.page(write(sites.one.url("/x"), digests=ordered)), _METALINK))[0], DigestMismatch
    )


@pytest.mark.parametrize("name", ["sha-256", "SHA-256", "sha256", "Sha256"])
async def test_a_digest_has_one_name(name: str, sites: Sites) -> None:
    """However the algorithm is written, it is that one: no spelling leads around it."""
    url = sites.page(metalink(sites.one.url("/x"), digests={name: SHA256.upper()}))
    sites.one.pages["/x"] = WRONG
    assert isinstance((await sites.run(url, _METALINK))[0], DigestMismatch)
    sites.one.pages["/x"] = BYTES
    assert (await sites.run(url, _METALINK))[1] == BYTES


@pytest.mark.parametrize("digits", ["", "0", SHA256[:32], SHA256[:-1], f"{SHA256}0", "*", "0x" + SHA256[2:]])
async def test_half_a_digest_proves_nothing(digits: str, sites: Sites) -> None:
    """A digest that is short, long or empty is none, not one that fits everything that begins so."""
    url = sites.page(metalink(sites.one.url("/x"), digests={"sha-256": digits}))
    sites.one.pages["/x"] = BYTES
    outcome, content = await sites.run(url, _METALINK)
    assert content == BYTES
    assert isinstance(outcome, Result)
    assert (outcome.proof, outcome.digests) == ("length", {})
    failure, _ = await sites.run(url, _METALINK, require_proof=True, digests={"sha256": "0" * 64})
    assert isinstance(failure, DigestMismatch)
