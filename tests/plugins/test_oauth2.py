"""OAuth 2.0: what the token endpoint is told, what is made of its answer, and what nobody is told."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from base64 import b64decode, b64encode
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pytest
from tests.mem import Ledger
from tests.servers.http import http_server

from downhaul import AccessDenied, BufferWriter, Context, Download, PluginError, PreparationError, Retries
from downhaul.plugins import Netrc, OAuth2ClientCredentials, OAuth2RefreshToken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.http import Exchange, HttpServer

pytest.importorskip("authlib", reason="authlib is not installed")

ID, SECRET = "downhaul", "s3cr3t&more=+%"
BASIC = f"Basic {b64encode(f'{ID}:{SECRET}'.encode()).decode()}"


class Service:
    """A token endpoint and a file, on one server or two.

    Tokens are "token1", "token2", and so on, or as *answers* say in turn; the file wants one that is not expired.
    """

    def __init__(self, *answers: dict[str, Any] | bytes | int) -> None:
        self.answers = list(answers)
        self.given = 0
        self.expired: set[str] = set()
        self.posts: list[dict[str, str]] = []
        self.log: list[tuple[str, str, str | None]] = []
        self.headers: list[dict[str, str]] = []
        self.server: HttpServer
        self.endpoint: HttpServer

    async def answer(self, exchange: Exchange) -> None:
        sent = exchange.header("Authorization")
        self.log.append((exchange.method, exchange.target, sent))
        if exchange.target.startswith("/token"):
            await self.token(exchange)
        elif sent is None or not sent.startswith("Bearer token") or sent.removeprefix("Bearer ") in self.expired:
            await exchange.respond(401)
        else:
            await exchange.respond(body=b"bytes")

    async def token(self, exchange: Exchange) -> None:
        content = await exchange.reader.readexactly(int(exchange.header("Content-Length") or 0))
        self.headers.append({name.lower(): value for name, value in exchange.headers})
        self.posts.append(dict(parse_qsl(content.decode(), keep_blank_values=True)))
        answer = self.answers.pop(0) if self.answers else {}
        if isinstance(answer, int):
            await exchange.respond(answer, b'{"error": "invalid_client", "error_description": "told nobody"}')
        elif isinstance(answer, bytes):
            await exchange.respond(body=answer)
        else:
            self.given += 1
            token = {"access_token": f"token{self.given}", "token_type": "Bearer", **answer}
            await exchange.respond(body=json.dumps(token).encode())

    @property
    def token_url(self) -> str:
        return self.endpoint.url("/token?tenant=a")

    def client(self, **options: Any) -> OAuth2ClientCredentials:
        """Return the plugin of a client that the service knows."""
        return OAuth2ClientCredentials(self.token_url, ID, SECRET, **{"within": self.server.url(), **options})

    def refreshing(self, secret: str | None = None, **options: Any) -> OAuth2RefreshToken:
        """Return the plugin of who has a refresh token."""
        options = {"within": self.server.url(), **options}
        return OAuth2RefreshToken(self.token_url, "refresh0", ID, secret, **options)


@contextmanager
def running(service: Service, *, apart: bool = True) -> Iterator[Service]:
    """Run *service*, its endpoint on a server of its own."""
    with http_server(service.answer) as service.server, http_server(service.answer) as service.endpoint:
        if not apart:
            service.endpoint = service.server
        yield service


def context_of(*plugins: object, **options: Any) -> Context:
    """Return a context with these plugins, that does not wait."""
    return Context(plugins=(*plugins, Retries(base=0)), **options)


async def fetch(context: Context, service: Service, **options: Any):
    """Download the file, and return the result."""
    return await Download(service.server.url("/file"), BufferWriter(), context=context, **options).run()


# What the endpoint is told


@pytest.mark.parametrize("apart", [True, False], ids=["elsewhere", "same origin"])
async def test_client_credentials(apart):
    """RFC 6749, section 4.4.2: one POST of a form, then the token; the client's secret goes to the endpoint alone."""
    with running(Service(), apart=apart) as service:
        async with context_of(service.client(scope="read write", audience="files")) as context:
            for _ in range(3):
                assert (await fetch(context, service)).attempts == 1
    assert service.posts == [{"grant_type": "client_credentials", "scope": "read write", "audience": "files"}]
    assert service.log == [("POST", "/token?tenant=a", BASIC), *[("GET", "/file", "Bearer token1")] * 3]
    assert service.headers[0]["content-type"] == "application/x-www-form-urlencoded"
    assert service.headers[0]["accept"] == "application/json"


@pytest.mark.parametrize("secret", [SECRET, "Ünïcode €"])
async def test_client_secret_post(secret):
    """RFC 6749, section 2.3.1: name and secret in the form, and no Authorization."""
    with running(Service()) as service:
        plugin = OAuth2ClientCredentials(
            service.token_url, ID, secret, within=service.server.url(), auth_method="client_secret_post"
        )
        async with context_of(plugin) as context:
            await fetch(context, service)
    assert service.posts == [{"grant_type": "client_credentials", "client_id": ID, "client_secret": secret}]
    assert service.log[0][2] is None


@pytest.mark.parametrize("secret", [None, SECRET], ids=["public client", "confidential client"])
async def test_a_refresh_token(secret):
    """RFC 6749, section 6: the refresh token, and who has it: by a name alone where there is no secret."""
    with running(Service()) as service:
        async with context_of(service.refreshing(secret, scope="read")) as context:
            await fetch(context, service)
    name = {"client_id": ID} if secret is None else {}
    assert service.posts == [{"grant_type": "refresh_token", "refresh_token": "refresh0", "scope": "read", **name}]
    assert service.log[0][2] == (None if secret is None else BASIC)


async def test_a_refresh_token_that_changes():
    """The refresh token of an answer is used the next time, by all, and is told to who wants to keep it."""
    kept: list[tuple[str, bool]] = []
    answers = [{"refresh_token": "refresh1"}, {}, {"refresh_token": "refresh2"}, {"refresh_token": "refresh2"}]
    loop_thread = threading.get_ident()

    def keep(token: str) -> None:
        kept.append((token, threading.get_ident() == loop_thread))

    with running(Service(*answers)) as service:
        async with context_of(service.refreshing(keep=keep)) as context:
            for number in range(1, 6):
                await asyncio.gather(*(fetch(context, service) for _ in range(5)))
                service.expired.add(f"token{number}")
    assert [post["refresh_token"] for post in service.posts] == [
        "refresh0", "refresh1", "refresh1", "refresh2", "refresh2",
    ]  # fmt: skip
    assert kept == [("refresh1", False), ("refresh2", False)]


async def test_a_refresh_token_stays_with_its_plugin():
    """Two that have other tokens do not use each other's."""
    with running(Service({"refresh_token": "refresh1"})) as service:
        other = OAuth2RefreshToken(service.token_url, "theirs", ID, within=service.server.url())
        async with context_of() as context:
            for plugin in (service.refreshing(), other):
                await fetch(context, service, plugins=[plugin])
    assert [post["refresh_token"] for post in service.posts] == ["refresh0", "theirs"]


# Renewal


async def test_one_request_for_a_hundred():
    """A hundred downloads ask for one token, and when it has expired for one more."""
    with running(Service()) as service:
        async with context_of(service.client(), connections_per_origin=20) as context:
            await asyncio.gather(*(fetch(context, service) for _ in range(100)))
            service.expired.add("token1")
            results = await asyncio.gather(*(fetch(context, service) for _ in range(100)))
    assert len(service.posts) == 2
    assert {result.attempts for result in results} == {2}


@pytest.mark.parametrize(
    ("expires", "sent_for"), [(2, 1.5), (300, 240), ("3600", 3540), (None, 10**9), (0, 10**9), (-5, None)]
)
async def test_when_a_token_is_renewed(expires, sent_for, monkeypatch):
    """A little before `expires_in`; without it when it is refused."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def time(self) -> float:
            return 1_000_000.0 + self.now

    clock = Clock()
    monkeypatch.setattr("downhaul._once.time", clock)
    monkeypatch.setattr("downhaul.plugins._credentials.oauth2.time", clock)
    monkeypatch.setattr("authlib.oauth2.rfc6749.wrappers.time", clock)
    answer = {"expires_in": expires}
    with running(Service(answer, answer)) as service:
        async with context_of(service.client()) as context:
            await fetch(context, service)
            if sent_for is not None:
                clock.now += sent_for - 0.01
                await fetch(context, service)
                assert len(service.posts) == 1
            if sent_for != 10**9:
                clock.now += 0.02
                await fetch(context, service)
                assert len(service.posts) == 2
    assert "Bearer token0" not in {sent for *_, sent in service.log}


# When there is no token


@pytest.mark.parametrize("code", [400, 401, 403, 404])
async def test_an_endpoint_that_refuses(code):
    """The status is told; all fail for that reason, and nobody goes on."""
    with running(Service(*[code] * 9)) as service:
        async with context_of(service.client()) as context:
            errors = await asyncio.gather(*(fetch(context, service) for _ in range(20)), return_exceptions=True)
    assert {type(error) for error in errors} == {PreparationError}
    assert all(error.cause.code == code and str(code) in str(error) for error in errors)
    assert len(service.posts) == 1
    assert [entry for entry in service.log if entry[1] == "/file"] == []


@pytest.mark.parametrize("plugin", ["client", "client_secret_post", "refreshing"])
@pytest.mark.parametrize("echoed", [SECRET, "refresh0", BASIC.partition(" ")[2], "token1"])
async def test_an_answer_that_is_an_error(plugin, echoed, caplog):
    """“error” and “error_description” are told, with what is secret in them hidden, and nothing else of the answer."""
    caplog.set_level(0)
    told = {"error": "invalid_grant", "error_description": f"{echoed} is bad", "access_token": "token1", "x": "hush"}
    with running(Service(json.dumps(told).encode())) as service:
        made = {
            "client": service.client,
            "client_secret_post": lambda: service.client(auth_method="client_secret_post"),
            "refreshing": lambda: service.refreshing(SECRET),
        }[plugin]()
        ledger = Ledger()
        async with context_of(made, ledger) as context:
            with pytest.raises(PreparationError, match="refuses: invalid_grant") as caught:
                await fetch(context, service)
    known = {"client": {SECRET, BASIC.partition(" ")[2]}, "client_secret_post": {SECRET},
             "refreshing": {SECRET, BASIC.partition(" ")[2], "refresh0"}}[plugin]  # fmt: skip
    told = repr((caught.value, caught.value.history, ledger.errors, ledger.outcomes, made)) + str(caught.value)
    told += caplog.text
    assert ("*** is bad" in str(caught.value)) is (echoed in known)
    assert not any(secret in told for secret in known)
    assert "hush" not in told


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"<html>", b"[]", b"null", b'"s3cr3t"', b"{}", b'{"access_token": ""}', b'{"access_token": 5}',
        b'{"access_token": "s3c\\nr3t"}', b'{"access_token": "s3c r3t"}',
        b'{"access_token": "s3cr3t", "expires_in": "x"}',
        b'{"access_token": "s3cr3t", "expires_in": [1]}', b'{"access_token": "s3cr3t", "token_type": "mac"}',
        b'{"access_token": "s3cr3t", "expires_in": 1e999}', b'{"access_token": "s3cr3t", "token_type": 5}',
        b"[" * 100_000, b"\xff\xfe",
    ],
    ids=lambda answer: answer[:60],
)  # fmt: skip
async def test_answers_that_hold_no_token(answer):
    """An error that says who answered so, and repeats nothing of it."""
    with running(Service(answer)) as service:
        async with context_of(service.client()) as context:
            with pytest.raises(PreparationError, match=r"holds no token to be sent") as caught:
                await fetch(context, service)
    assert "s3c" not in repr((caught.value, caught.value.history, caught.value.__context__)) + str(caught.value)


@pytest.mark.parametrize("kind", ["bearer", "BEARER", None])
async def test_kinds_of_tokens(kind):
    """However “Bearer” is written, or where it is left out, it is one."""
    with running(Service({"token_type": kind})) as service:
        async with context_of(service.client()) as context:
            await fetch(context, service)
    assert service.log[-1] == ("GET", "/file", "Bearer token1")


async def test_an_answer_is_not_endless():
    """1 MiB is enough for a token."""
    with running(Service(b"{" + b" " * 1024 * 1024 + b"}")) as service:
        async with context_of(service.client()) as context:
            with pytest.raises(PreparationError, match="max_size"):
                await fetch(context, service)


async def test_an_endpoint_that_redirects():
    """What is posted goes nowhere else."""

    async def script(exchange):
        seen.append(exchange.target)
        await exchange.reader.readexactly(int(exchange.header("Content-Length") or 0))
        await exchange.respond(307, headers=[("Location", "/elsewhere")])

    seen: list[str] = []
    with http_server(script) as server:
        plugin = OAuth2ClientCredentials(server.url("/token"), ID, SECRET)
        async with context_of(plugin) as context:
            with pytest.raises(PreparationError, match="redirects what is posted"):
                await Download(server.url("/file"), BufferWriter(), context=context).run()
    assert seen == ["/token"]


async def test_a_token_that_is_never_good():
    """One renewal, and then the refusal is what comes out."""
    with running(Service()) as service:
        service.expired.update(f"token{number}" for number in range(1, 9))
        async with context_of(service.client()) as context:
            with pytest.raises(AccessDenied):
                await fetch(context, service)
    assert len(service.posts) == 2


# Where it goes


async def test_the_token_goes_within_its_reach_only(tmp_path):
    """Not to the endpoint, not to another origin; nor does a netrc file speak for the client."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login nobody password nothing")
    with running(Service()) as service:
        async with context_of(Netrc(tmp_path / "netrc"), service.client(within=service.server.url("/file"))) as context:
            await fetch(context, service)
            with pytest.raises(AccessDenied):
                await Download(service.server.url("/other"), BufferWriter(), context=context).run()
    nobody = f"Basic {b64encode(b'nobody:nothing').decode()}"
    assert service.log == [
        ("POST", "/token?tenant=a", BASIC), ("GET", "/file", "Bearer token1"), ("GET", "/other", nobody),
    ]  # fmt: skip


# The plugins themselves


async def test_without_authlib(monkeypatch):
    """It is needed when a token is asked for, and the error says what to install."""
    for name in list(sys.modules):
        if name.startswith("authlib"):
            monkeypatch.setitem(sys.modules, name, None)
    with running(Service()) as service:
        async with context_of(service.client()) as context:
            with pytest.raises(PluginError, match=r"pip install 'downhaul\[oauth2\]'"):
                await fetch(context, service)
    assert service.log == []


URL = "https://sso.example/token"


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: OAuth2ClientCredentials("http://sso.example/token", ID, SECRET), ValueError, "asked by https"),
        (lambda: OAuth2ClientCredentials("ftp://localhost/token", ID, SECRET), ValueError, "asked by https"),
        (lambda: OAuth2ClientCredentials("token", ID, SECRET), ValueError, "malformed URL"),
        (lambda: OAuth2ClientCredentials("https://s3cr3t&more=+%@sso/t", ID, SECRET), ValueError, "without user"),
        (lambda: OAuth2ClientCredentials("https://sso/a/../t", ID, SECRET), ValueError, "dots"),
        (lambda: OAuth2ClientCredentials("https://sso/t#x", ID, SECRET), ValueError, "fragment"),
        (lambda: OAuth2ClientCredentials(URL, "", SECRET), ValueError, "client_id"),
        (lambda: OAuth2ClientCredentials(URL, ID, ""), ValueError, "client_secret"),
        (lambda: OAuth2ClientCredentials(URL, ID, None), TypeError, "client_secret"),
        (lambda: OAuth2ClientCredentials(URL, 5, SECRET), TypeError, "client_id"),
        (lambda: OAuth2ClientCredentials(URL, ID, SECRET, ["read"]), TypeError, "scope"),
        (lambda: OAuth2ClientCredentials(URL, ID, SECRET, audience=5), TypeError, "audience"),
        (lambda: OAuth2ClientCredentials(URL, ID, SECRET, auth_method="private_key_jwt"), ValueError, "is one of"),
        (lambda: OAuth2ClientCredentials(URL, ID, f"{SECRET}€"), ValueError, "client_secret_post"),
        (lambda: OAuth2ClientCredentials(URL, "a:b", SECRET), ValueError, "client_secret_post"),
        (lambda: OAuth2ClientCredentials(URL, ID, f"{SECRET}\n"), ValueError, "client_secret_post"),
        (lambda: OAuth2RefreshToken("http://sso.example/token", SECRET, ID), ValueError, "asked by https"),
        (lambda: OAuth2RefreshToken(URL, "", ID), ValueError, "refresh_token"),
        (lambda: OAuth2RefreshToken(URL, None, ID), TypeError, "refresh_token"),
        (lambda: OAuth2RefreshToken(URL, SECRET, ID, 5), TypeError, "client_secret"),
        (lambda: OAuth2RefreshToken(URL, SECRET, ID, keep=5), TypeError, "keep"),
        (lambda: OAuth2RefreshToken(URL, SECRET, ID, within="here"), ValueError, "malformed URL"),
    ],
)
def test_what_cannot_be_meant(make, error, text):
    """It is refused at once, and what is secret in it is not repeated."""
    with pytest.raises(error, match=text) as caught:
        make()
    assert "s3cr3t" not in str(caught.value)


def test_values():
    """Equal are plugins that ask for the same, secrets included, which no repr has."""
    one, two = OAuth2ClientCredentials(URL, ID, SECRET), OAuth2ClientCredentials(URL, ID, "another")
    assert one == OAuth2ClientCredentials(URL, ID, SECRET)
    assert one != two
    assert len({one, two, OAuth2RefreshToken(URL, SECRET, ID), OAuth2RefreshToken(URL, "another", ID)}) == 4
    for plugin in (one, OAuth2RefreshToken(URL, "s3cr3t", ID, SECRET, keep=print)):
        assert "s3cr3t" not in repr(plugin)
        assert URL in repr(plugin)
    assert b64decode(BASIC.partition(" ")[2]).decode() == f"{ID}:{SECRET}"
