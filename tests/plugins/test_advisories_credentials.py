"""What went wrong elsewhere with credentials: redirects, cookies, netrc, protocols; see tests/advisories.csv.

Everything is on the wire: origins of 127.0.0.1 that differ by scheme, host or port, and note all that they are sent.
"""

from __future__ import annotations

import ssl
from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme
from tests.servers.ftp import FtpServer
from tests.servers.http import http_server

from downhaul import (
    TLS,
    AccessDenied,
    BufferWriter,
    Context,
    Download,
    DownloadError,
    Plugin,
    PolicyError,
    User,
    hookimpl,
    origin,
)
from downhaul.plugins import BasicAuth, BearerToken, HeaderToken, MirrorList, Netrc
from downhaul_ftp import FtpDriver
from downhaul_http import DigestAuth, HttpDriver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.http import Exchange, HttpServer

    from downhaul import Result, Transfer

BYTES: Final = b"what was asked for"
SECRET: Final = "c4nary"
BASIC: Final = b64encode(f"elmer:{SECRET}".encode()).decode()
PLAIN: Final = {"host", "user-agent", "accept", "accept-encoding"}
"""The header fields of a request that knows no secret."""


@dataclass
class Sites:
    """Three origins and what they were asked, in order: `home`, `away` at another port, `secure` by TLS.

    `refuse` are the paths that are answered with 401, and `challenge` is what that asks for.
    """

    tls: TLS
    asked: list[Exchange] = field(default_factory=list)
    refuse: set[str] = field(default_factory=set)
    challenge: str = 'Basic realm="home"'
    home: HttpServer = field(init=False)
    away: HttpServer = field(init=False)
    secure: HttpServer = field(init=False)

    async def answer(self, exchange: Exchange) -> None:
        """Redirect to what the query says, refuse, or deliver; try to set a cookie whatever is asked."""
        self.asked.append(exchange)
        path, _, query = exchange.target.partition("?")
        headers = [("Set-Cookie", f"session={SECRET}; Path=/"), ("Set-Cookie", f"all={SECRET}; Domain=localhost")]
        if path == "/to":
            await exchange.respond(302, b"", [("Location", query), *headers])
        elif path in self.refuse and "Authorization" not in dict(exchange.headers):
            await exchange.respond(401, b"", [("WWW-Authenticate", self.challenge), *headers])
        else:
            await exchange.respond(200, BYTES, headers)

    def secret(self) -> list[bool]:
        """Return of each request whether it had anything secret, or anything at all that nobody needs."""
        return [not {name.lower() for name, _ in each.headers} <= PLAIN for each in self.asked]

    def fields(self, name: str) -> list[str | None]:
        """Return that header field of each request."""
        return [each.header(name) for each in self.asked]

    def context(self, **options: Any) -> Context:
        """Return a context that trusts the origin with TLS, and tries once."""
        http = HttpDriver()
        drivers = {"http": http, "https": http, "ftp": FtpDriver()}
        return Context(drivers=drivers, tls=self.tls, retries=0, **options)

    async def run(self, url: str, **options: Any) -> tuple[Result, bytes]:
        """Download *url*; return the result and the bytes."""
        writer = BufferWriter()
        async with self.context() as context:
            return await Download(url, writer, context=context, **options).run(), writer.content()


@pytest.fixture(scope="module")
def running() -> Iterator[Sites]:
    """Run three origins."""
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    sites = Sites(TLS(ca_certificate=authority.cert_pem.bytes().decode()))
    with (
        http_server(sites.answer) as sites.home,
        http_server(sites.answer) as sites.away,
        http_server(sites.answer, tls=tls) as sites.secure,
    ):
        yield sites


@pytest.fixture
def sites(running: Sites) -> Sites:
    """Begin anew: nothing was asked yet, and nothing is refused."""
    running.asked.clear()
    running.refuse = set()
    return running


# Where redirects lead (S1, S2)


class Twice(Plugin):
    """Gives two fields of one name at once."""

    @hookimpl(trylast=True)
    async def prepare(self, transfer: Transfer) -> None:
        twice = [("Authorization", f"Bearer {SECRET}"), ("authorization", f"Bearer {SECRET}-2")]
        transfer.authorize(origin(transfer.url), twice)


def with_user(url: str) -> str:
    """Return *url* with name and password."""
    return url.replace("://", f"://elmer:{SECRET}@", 1)


SECRETS: Final[dict[str, dict[str, Any]]] = {
    "userinfo": {},
    "user": {"user": User("elmer", SECRET)},
    "Authorization": {"headers": {"Authorization": f"Bearer {SECRET}"}},
    "AUTHORIZATION": {"headers": {"AUTHORIZATION": f"Bearer {SECRET}"}},
    "aUTHORIZATION": {"headers": {"aUTHORIZATION": f"Bearer {SECRET}"}},
    "authorization twice": {"headers": {"Authorization": f"Bearer {SECRET}", "authorization": f"Bearer {SECRET}-2"}},
    "twice by a plugin": {"plugins": [Twice()]},
    "user and token": {"user": User("elmer", SECRET), "plugins": [BearerToken(SECRET)]},
    "BearerToken": {"plugins": [BearerToken(SECRET)]},
    "BasicAuth": {"plugins": [BasicAuth("elmer", SECRET)]},
    "Cookie": {"headers": {"Cookie": f"session={SECRET}"}},
    "Proxy-Authorization": {"headers": {"Proxy-Authorization": f"Basic {SECRET}"}},
    "X-API-Key": {"headers": {"X-API-Key": SECRET}},
    "x-api-key": {"headers": {"x-api-key": SECRET}},
    "X-Auth-Token": {"headers": {"X-Auth-Token": SECRET}},
    "any field": {"headers": {"X-Anything": SECRET, "Referer": SECRET, "Origin": SECRET, "DPoP": SECRET}},
    "HeaderToken": {"plugins": [HeaderToken("Private-Token", SECRET)]},
}
"""Ways to give a secret to a download; all but the first are options of `Download`."""

WAYS: Final = ("another port", "there and back", "back by two hops", "another host", "http to https")


def way_of(way: str, sites: Sites) -> list[str]:
    """Return the URLs along a *way* from home to a file: what is asked, in order."""
    home, away, secure = sites.home.url, sites.away.url, sites.secure.url
    return {
        "another port": [home("/to"), away("/file")],
        "there and back": [home("/to"), away("/to"), home("/file")],
        "back by two hops": [home("/to"), away("/to"), away("/to"), home("/file")],
        "another host": [home("/to"), home("/file").replace("127.0.0.1", "localhost")],
        "http to https": [home("/to"), secure("/file")],
    }[way]


def led(*urls: str) -> str:
    """Return the URL that leads from each of *urls* to the next one."""
    return "?".join(urls)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("way", WAYS)
async def test_what_is_secret_goes_nowhere_else(secret: str, way: str, sites: Sites) -> None:
    """A redirect to another port, host or scheme leaves every credential behind, and no way back brings it again."""
    urls = way_of(way, sites)
    url = led(*urls)
    result, content = await sites.run(with_user(url) if secret == "userinfo" else url, **SECRETS[secret])
    assert content == BYTES
    assert sites.secret() == [True, *[False] * (len(urls) - 1)]
    assert sites.asked[0].header(_name_of(secret))
    assert SECRET not in repr(result)


def _name_of(secret: str) -> str:
    options = SECRETS[secret]
    names = {**options.get("headers", {"Authorization": ""})}
    return "Private-Token" if secret == "HeaderToken" else next(iter(names))


@pytest.mark.parametrize("secret", SECRETS)
async def test_what_is_secret_stays_with_its_origin(secret: str, sites: Sites) -> None:
    """Within the origin, however that is written, a redirect keeps it: else the test above would prove nothing."""
    secure = sites.secure.url
    url = led(secure("/to"), secure("/to").replace("https://localhost", "HTTPS://LOCALHOST"), secure("/file"))
    await sites.run(with_user(url) if secret == "userinfo" else url, **SECRETS[secret])
    assert sites.secret() == [True] * 3
    assert len(set(map(str, (sites.fields(_name_of(secret)))))) == 1


@pytest.mark.parametrize(
    ("secret", "scheme"), [*((secret, "hTTp") for secret in SECRETS), ("Authorization", "http"), ("user", "HTTP")]
)
async def test_what_is_secret_is_not_sent_in_the_clear(secret: str, scheme: str, sites: Sites) -> None:
    """A redirect from https to http, of the same host, is refused: nobody is asked there at all."""
    url = sites.secure.url(f"/to?{sites.home.url('/file').replace('http:', f'{scheme}:')}")
    with pytest.raises(PolicyError, match="gives up encryption"):
        await sites.run(with_user(url) if secret == "userinfo" else url, **SECRETS[secret])
    assert sites.secret() == [True]
    assert [each.target for each in sites.asked] == [url.removeprefix(sites.secure.url(""))]


@pytest.mark.parametrize("plugin", [BearerToken(SECRET), HeaderToken("X-API-Key", SECRET), BasicAuth("elmer", SECRET)])
async def test_a_path_is_a_border_too(plugin: Plugin, sites: Sites) -> None:
    """Credentials for a path of an origin do not follow a redirect out of it, nor back into it."""
    plugin = type(plugin)(**{**vars(plugin), "within": sites.home.url("/to")})
    await sites.run(sites.home.url("/to?/other?"), plugins=[plugin])
    assert sites.secret() == [True, False]
    sites.asked.clear()
    await sites.run(sites.home.url("/file"), plugins=[plugin])
    assert sites.secret() == [False]


async def test_userinfo_of_a_redirect_is_for_where_it_leads(sites: Sites) -> None:
    """A server may send somewhere with a user of its own: our user is not mixed with it, and does not go there."""
    url = sites.home.url(f"/to?{sites.away.url('/file').replace('://', '://theirs@')}")
    await sites.run(url, user=User("elmer", SECRET))
    assert sites.fields("Authorization") == [f"Basic {BASIC}", f"Basic {b64encode(b'theirs:').decode()}"]


@pytest.mark.parametrize("challenge", ['Basic realm="home"', 'Bearer realm="http://x/"', 'Digest realm="r", nonce="n"'])
async def test_a_challenge_from_elsewhere_is_not_answered(challenge: str, sites: Sites) -> None:
    """A 401 behind a redirect to another origin is the end: nobody there is told who asks, and no token is renewed."""
    sites.refuse, sites.challenge = {"/file"}, challenge
    providers: list[str] = []

    def provider() -> str:
        providers.append(SECRET)
        return SECRET

    with pytest.raises(AccessDenied):
        await sites.run(
            sites.home.url(f"/to?{sites.away.url('/file')}"),
            user=User("elmer", SECRET),
            plugins=[BearerToken(provider)],
        )
    assert sites.secret() == [True, False]
    assert providers == [SECRET]


@pytest.mark.parametrize("way", WAYS)
async def test_a_path_in_a_url_is_no_referer(way: str, sites: Sites) -> None:
    """Where a redirect leads, nobody hears where it came from: no Referer, no query of the other URL."""
    await sites.run(led(sites.home.url("/to"), *way_of(way, sites)))
    assert sites.fields("Referer") == [None] * len(sites.asked)
    assert sites.secret() == [False] * len(sites.asked)


# Cookies (S3)


@pytest.mark.parametrize("way", WAYS)
async def test_no_cookie_is_kept_or_sent(way: str, sites: Sites) -> None:
    """Whatever sets a cookie, a redirect, a refusal or a file: no request of the context ever has one."""
    sites.refuse, home = {"/refused"}, sites.home.url
    async with sites.context() as context:
        for url in (led(*way_of(way, sites)), home("/refused"), home("/file"), led(*way_of(way, sites))):
            try:
                await context.download(url, BufferWriter()).run()
            except DownloadError:
                assert url.endswith("/refused")
    assert len(sites.asked) == 2 * len(way_of(way, sites)) + 2
    assert sites.fields("Cookie") == [None] * len(sites.asked)


async def test_the_cookie_of_one_download_is_of_no_other(sites: Sites) -> None:
    """A cookie that a download is told to send goes with that one, on one connection with others, and nowhere else."""
    async with sites.context(connections_per_origin=1) as context:
        for headers in ({"Cookie": f"mine={SECRET}"}, {}, {"cookie": "other=1"}, {}):
            url = sites.home.url(f"/to?{sites.away.url('/file')}")
            await Download(url, BufferWriter(), context=context, headers=headers).run()
            await Download(sites.home.url("/file"), BufferWriter(), context=context, headers=headers).run()
    assert sites.fields("Cookie") == [
        f"mine={SECRET}", None, f"mine={SECRET}", None, None, None, "other=1", None, "other=1", None, None, None,
    ]  # fmt: skip
    assert {each.connection for each in sites.asked if each.header("Host") == sites.asked[0].header("Host")} == {
        sites.asked[0].connection
    }


# netrc (S4)


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a netrc file, and be somebody whose home it is in; return the plugin."""

    def write(text: str) -> Netrc:
        path = tmp_path / ".netrc"
        path.write_text(text.format(secret=SECRET))
        path.chmod(0o600)
        return Netrc()

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    return write


MINE: Final = "machine 127.0.0.1 login elmer password {secret}\n"


async def test_netrc_is_off_by_default(
    netrc: Any, sites: Sites, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file in the home directory, or one that the environment names, is read only where the plugin is enabled."""
    plugin = netrc(MINE)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    await sites.run(sites.home.url("/file"), environment=True)
    assert sites.secret() == [False]
    await sites.run(sites.home.url("/file"), plugins=[plugin])
    assert sites.fields("Authorization") == [None, f"Basic {BASIC}"]


@pytest.mark.parametrize(
    "theirs",
    ["", "machine localhost\n", "machine localhost login bob\n", "machine localhost login elmer\n",
     "machine localhost login bob password {secret}-2\n", "default\n", "default login elmer\n",
     "default login anonymous password {secret}-2\n"],
)  # fmt: skip
@pytest.mark.parametrize("way", ["another host", "another port"])
async def test_a_netrc_password_follows_no_redirect(theirs: str, way: str, netrc: Any, sites: Sites) -> None:
    """Where a redirect leads gets no password: not that of the host before, and not that of an entry of its own."""
    await sites.run(led(*way_of(way, sites)), plugins=[netrc(MINE + theirs)])
    assert sites.fields("Authorization") == [f"Basic {BASIC}", None]


@pytest.mark.parametrize("first", [True, False])
async def test_a_bearer_and_netrc_are_never_together(first: bool, netrc: Any, sites: Sites) -> None:
    """Where there is a token, netrc is not used; where a redirect leads, neither of them, entry or no entry."""
    both = [netrc(f"{MINE}machine localhost login bob password {{secret}}-2\n"), BearerToken(SECRET)]
    url = led(*way_of("another host", sites))
    await sites.run(url, plugins=both if first else both[::-1])
    assert len(sites.asked[0].headers) == len(PLAIN) + 1
    await sites.run(url, plugins=both[:1], headers={"authorization": f"Bearer {SECRET}"})
    assert sites.fields("Authorization") == [f"Bearer {SECRET}", None] * 2


@pytest.mark.parametrize("challenge", ['Basic realm="127.0.0.1"', 'Digest realm="127.0.0.1", nonce="n"'])
async def test_netrc_answers_no_challenge_from_elsewhere(challenge: str, netrc: Any, sites: Sites) -> None:
    """A 401 where a redirect leads is not answered with an entry of the file, whatever realm it claims."""
    sites.refuse, sites.challenge = {"/file"}, challenge
    with pytest.raises(AccessDenied):
        await sites.run(
            led(*way_of("another host", sites)), plugins=[netrc(f"{MINE}machine localhost login b password x")]
        )
    assert sites.fields("Authorization") == [f"Basic {BASIC}", None]


@pytest.mark.parametrize("userinfo", ["127.0.0.1:@", "127.0.0.1@", "127.0.0.1:x@", "elmer@", "elmer:@", ":@"])
async def test_netrc_goes_by_the_host_alone(userinfo: str, netrc: Any, sites: Sites) -> None:
    """What stands before the "@" of a URL is no host: an entry for it is not for whoever stands behind."""
    url = sites.home.url("/file").replace("127.0.0.1", f"{userinfo}localhost")
    await sites.run(url, plugins=[netrc(MINE)])
    assert not [sent for sent in sites.fields("Authorization") if sent == f"Basic {BASIC}"]
    assert SECRET not in str([b64_decoded(sent) for sent in sites.fields("Authorization")])


@pytest.mark.parametrize("entry", ["127.0.0.2", "127.0.0", "127.0.0.1.example.org", "host", "27.0.0.1", "1", "*"])
async def test_a_netrc_entry_is_for_its_very_host(entry: str, netrc: Any, sites: Sites) -> None:
    """Neither a part of the name, nor one that contains it, nor a pattern is the host."""
    await sites.run(sites.home.url("/file"), plugins=[netrc(MINE.replace("127.0.0.1", entry))])
    assert sites.fields("Authorization") == [None]


@pytest.mark.parametrize("entry", ["localhost", "LocalHost"])
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST"])
async def test_the_case_of_a_host_does_not_matter(entry: str, host: str, netrc: Any, sites: Sites) -> None:
    """Names of hosts are equal in whatever case they are written: else the tests above would prove little."""
    url = sites.home.url("/file").replace("127.0.0.1", host)
    await sites.run(url, plugins=[netrc(MINE.replace("127.0.0.1", entry))])
    assert sites.fields("Authorization") == [f"Basic {BASIC}"]


@pytest.mark.parametrize(
    ("told", "sent"),
    [("bob", "bob:"), ("bob:mine", "bob:mine"), ("elmer:mine", "elmer:mine"), ("elmer", f"elmer:{SECRET}")],
)
async def test_a_netrc_password_is_for_its_user(told: str, sent: str, netrc: Any, sites: Sites) -> None:
    """Where the URL names somebody else, or a password, the entry is not used, nor a half of it."""
    await sites.run(sites.home.url("/file").replace("://", f"://{told}@"), plugins=[netrc(MINE)])
    assert [b64_decoded(each) for each in sites.fields("Authorization")] == [sent]


async def test_netrc_is_not_for_mirrors(netrc: Any, sites: Sites) -> None:
    """A mirror by http, or at a port of its own, gets nothing, though the file has an entry for its host."""
    plugin = netrc(f"{MINE}machine localhost login bob password {{secret}}-2\n")
    others = [
        sites.home.url("/file").replace("127.0.0.1", "localhost"),
        sites.away.url("/file"),
        sites.secure.url("/x"),
    ]
    for other in others:
        await sites.run(sites.home.url("/file"), plugins=[MirrorList([other]), plugin])
    assert sites.secret() == [False] * 3


def b64_decoded(sent: str | None) -> str:
    """Return name and password of an Authorization."""
    from base64 import b64decode

    return b64decode((sent or "").removeprefix("Basic ")).decode()


# Other protocols, and what is remembered of an origin (S5)


@pytest.mark.parametrize("secret", SECRETS)
async def test_what_is_secret_goes_to_no_other_protocol(secret: str, sites: Sites) -> None:
    """A redirect from http to ftp logs in as nobody; a mirror by http of what is had by ftp is told nothing."""
    options = SECRETS[secret]
    with FtpServer({"file": BYTES}) as ftp:
        url = sites.home.url(f"/to?{ftp.url('file')}")
        await sites.run(with_user(url) if secret == "userinfo" else url, **options)
        assert sites.secret() == [True]
        assert ftp.commands[:2] == ["USER anonymous", "PASS anonymous@"]
        assert SECRET not in str(ftp.commands)
        sites.asked.clear()
        mirrors = MirrorList([ftp.url("none"), sites.home.url("/file")])
        url = with_user(ftp.url("none")) if secret == "userinfo" else ftp.url("none")
        plugins = [mirrors, *options.get("plugins", ())]
        await sites.run(url, **{**options, "plugins": plugins})
        assert sites.secret() == [False]


async def test_a_token_is_cached_for_its_origin(sites: Sites) -> None:
    """Of one context, a token for one scheme, host and port is neither sent nor asked for at any other."""
    calls: list[str] = []

    def provider() -> str:
        calls.append(SECRET)
        return SECRET

    other = sites.home.url("/file").replace("127.0.0.1", "localhost")
    async with sites.context() as context:
        token = BearerToken(provider, within=sites.home.url("/"))
        for url in (sites.home.url("/file"), other, sites.away.url("/file"), sites.secure.url("/file")):
            await Download(url, BufferWriter(), context=context, plugins=[token]).run()
    assert sites.secret() == [True, False, False, False]
    assert calls == [SECRET]


DIGEST: Final = 'Digest realm="home", nonce="abc", qop="auth", algorithm=SHA-256, opaque="5ccc"'


async def test_what_a_digest_is_made_of_stays_with_its_origin(sites: Sites) -> None:
    """A nonce of one origin signs nothing for another one, and the same challenge from there is not answered."""
    sites.refuse, sites.challenge = {"/file"}, DIGEST
    plugin = DigestAuth("elmer", SECRET, within=sites.home.url("/"))
    async with sites.context() as context:

        async def run(url: str) -> None:
            await Download(url, BufferWriter(), context=context, plugins=[plugin]).run()

        await run(sites.home.url("/file"))
        assert sites.secret() == [False, True]
        for url in (sites.away.url("/file"), sites.secure.url("/file"), led(*way_of("another port", sites))):
            sites.asked.clear()
            with pytest.raises(AccessDenied):
                await run(url)
            at_home = [each.target.startswith("/to") for each in sites.asked]
            assert sites.secret() == at_home
    assert all(SECRET not in str(each.headers) for each in sites.asked)
