"""RegistryToken: what a registry wants, who is asked for it, and where neither token nor password ever goes."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from tests.servers.http import http_server

from downhaul import (
    AccessDenied,
    BufferWriter,
    Context,
    Download,
    Driver,
    Headers,
    Info,
    NotFound,
    Payload,
    PolicyError,
    PreparationError,
    Retries,
    ServerError,
    User,
)
from downhaul.plugins import MirrorList, RegistryToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from downhaul import Request, Settings

HUB, TOKENS = "https://hub", "https://tokens/token"
NAME, PASSWORD = "elmer", "kill-the-wabbit"
FILES = "library/files"
PULL = f"repository:{FILES}:pull"
IMAGE = f"{HUB}/v2/{FILES}/manifests/latest"


def bearer(scope: str | None = PULL, realm: str = TOKENS, **parameters: str) -> str:
    """Return a challenge as registries write them."""
    values = {"realm": realm, "service": "hub", **({} if scope is None else {"scope": scope}), **parameters}
    return "Bearer " + ",".join(f'{name}="{value}"' for name, value in values.items())


class Hub(Driver):
    """A registry at HUB, and a token server wherever the path is that of TOKENS.

    *wants* says how a request is refused, by its path and the scopes of the token that it has (None: it has none); None
    where it is not. The token server gives tokens that name their number and their scopes, or *answers* in turn.
    """

    def __init__(self, wants: Callable[[str, list[str] | None], str | None] | None = None, *answers: Any) -> None:
        self.wants = wants or self.pull
        self.answers = list(answers)
        self.code = 401
        self.expired: set[str] = set()
        self.log: list[Request] = []
        self.headers = Headers()

    @staticmethod
    def pull(path: str, scopes: list[str] | None) -> str | None:
        """Want a token for pulling from the repository of *path*."""
        wanted = f"repository:{path.removeprefix('/v2/').rsplit('/', 2)[0]}:pull"
        return None if scopes is not None and wanted in scopes else bearer(wanted)

    @property
    def asked(self) -> list[str]:
        """What was asked of the registry, with the number of the token that was sent."""
        return [f"{urlsplit(each.url).path} {number(each)}" for each in self.log if "/token" not in each.url]

    @property
    def tokens(self) -> list[Request]:
        """The requests for tokens."""
        return [each for each in self.log if "/token" in each.url]

    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> Iterator[Payload]:
        self.log.append(request)
        await asyncio.sleep(0)
        content = self.token(request) if "/token" in request.url else self.file(request)
        yield Payload(Info(request.url, self.headers, size=len(content), proof="length"), self.body(content))

    def token(self, request: Request) -> bytes:
        answer = self.answers.pop(0) if self.answers else {}
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, bytes):
            return answer
        scopes = [value for name, value in parse_qsl(urlsplit(request.url).query) if name == "scope"]
        return json.dumps({"token": "~".join(("token", str(len(self.tokens)), *scopes)), **answer}).encode()

    def file(self, request: Request) -> bytes:
        sent = Headers(request.fields()).get("Authorization", "")
        good = sent.startswith("Bearer token~") and number(request) not in self.expired
        challenge = self.wants(urlsplit(request.url).path, sent.split("~")[2:] if good else None)
        if challenge is not None:
            raise AccessDenied("refused", code=self.code, headers=Headers([("WWW-Authenticate", challenge)]))
        return b"bytes"

    async def body(self, content: bytes) -> Any:
        yield content


def number(request: Request) -> str:
    """Return the number of the token that *request* has, or what else it has."""
    sent = Headers(request.fields()).get("Authorization", "")
    return sent.split("~")[1] if sent.startswith("Bearer token~") else sent or "-"


def query(request: Request) -> list[tuple[str, str]]:
    """Return the parameters of a request for a token."""
    return parse_qsl(urlsplit(request.url).query)


def context_of(hub: Hub, *plugins: object, **options: Any) -> Context:
    """Return a context where *hub* serves everything."""
    drivers = dict.fromkeys(("http", "https", "mem"), hub)
    return Context(drivers=drivers, plugins=(*(plugins or (RegistryToken(),)), Retries(base=0)), **options)


async def fetch(context: Context, url: str = IMAGE, **options: Any):
    """Download, and return the result."""
    return await Download(url, BufferWriter(), context=context, **options).run()


@pytest.fixture
def clock(monkeypatch):
    """A clock to be put forward by ``clock(seconds)``."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def __call__(self, seconds: float) -> None:
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr("downhaul._once.time", clock)
    return clock


# What a repository wants


@pytest.mark.parametrize("name", ["a", FILES, "a/b/c/d", "blobs/x", "a/manifests", "v2/tags"])
async def test_a_repository_is_asked_bare_once(name):
    """The first request goes without; its refusal tells what is needed, for everything of that repository."""
    hub = Hub()
    places = ["manifests/latest", "blobs/sha256:0123", "tags/list", "manifests/sha256:4567", "referrers/sha256:89"]
    async with context_of(hub) as context:
        for place in places:
            await fetch(context, f"{HUB}/v2/{name}/{place}")
    assert hub.asked == [f"/v2/{name}/{places[0]} -", *(f"/v2/{name}/{place} 1" for place in places)]
    [asked] = hub.tokens
    assert query(asked) == [("service", "hub"), ("scope", f"repository:{name}:pull")]
    assert asked.url.startswith(f"{TOKENS}?")
    assert asked.entitled is None


async def test_each_repository_has_its_own():
    """What one repository wants is not sent to another, nor asked for it."""
    hub = Hub()
    urls = [f"{HUB}/v2/{name}/manifests/1" for name in ("a", "a/b", "ab")]
    async with context_of(hub) as context:
        for url in urls * 2:
            await fetch(context, url)
    assert hub.asked == [
        "/v2/a/manifests/1 -", "/v2/a/manifests/1 1", "/v2/a/b/manifests/1 -", "/v2/a/b/manifests/1 2",
        "/v2/ab/manifests/1 -", "/v2/ab/manifests/1 3",
        "/v2/a/manifests/1 1", "/v2/a/b/manifests/1 2", "/v2/ab/manifests/1 3",
    ]  # fmt: skip


async def test_a_token_for_no_scope_is_for_all_who_want_that():
    """Repositories that want the same share a token."""
    hub = Hub(lambda path, scopes: bearer(None) if scopes is None else None)
    async with context_of(hub) as context:
        await asyncio.gather(*(fetch(context, f"{HUB}/v2/r{each}/manifests/1") for each in range(20)))
    assert [query(asked) for asked in hub.tokens] == [[("service", "hub")]]


async def test_a_registry_that_wants_nothing():
    """Then nobody is asked for anything."""
    hub = Hub(lambda path, scopes: None)
    async with context_of(hub, RegistryToken(NAME, PASSWORD)) as context:
        await fetch(context)
    assert (hub.asked, hub.tokens) == ([f"/v2/{FILES}/manifests/latest -"], [])


async def test_what_is_of_no_repository():
    """The catalogue and the like are each for themselves."""
    hub = Hub(lambda path, scopes: None if scopes is not None else bearer("registry:catalog:*"))
    async with context_of(hub) as context:
        for path in ("/v2/_catalog", "/v2/_catalog", "/v2/"):
            await fetch(context, HUB + path)
    assert hub.asked == ["/v2/_catalog -", "/v2/_catalog 1", "/v2/_catalog 1", "/v2/ -", "/v2/ 1"]


async def test_several_scopes_and_an_account():
    """Each scope is a parameter of its own, who asks is told as the account, and what the realm has stays."""
    challenge = bearer("a:b:pull c:d:pull,push a:b:pull", f"{TOKENS}?x=1#y")
    hub = Hub(lambda path, scopes: None if scopes else challenge)
    async with context_of(hub, RegistryToken(NAME, PASSWORD, realm="https://tokens")) as context:
        await fetch(context)
    [asked] = hub.tokens
    assert query(asked) == [
        ("x", "1"), ("account", NAME), ("service", "hub"), ("scope", "a:b:pull"), ("scope", "c:d:pull,push"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("challenge", "scheme"),
    [
        (f'Basic realm="x", {bearer()}', "Bearer"),
        (f'{bearer()}, Basic realm="x"', "Bearer"),
        (bearer().replace("Bearer", "BEARER"), "Bearer"),
        ('Negotiate, Basic realm="x"', "Basic"),
        ('Bearer error="x", basic realm="x"', "Basic"),
        ("Negotiate", None),
        ("Bearer", None),
        ('Bearer realm=""', None),
        ("", None),
        ('Bearer realm="', None),
    ],
)
async def test_of_several_challenges(challenge, scheme):
    """A token goes before a password; what cannot be given leaves the refusal as it is."""
    wanted = {"Bearer": "Bearer token", "Basic": f"Basic {b64encode(f'{NAME}:{PASSWORD}'.encode()).decode()}"}

    async def script(exchange):
        sent = exchange.header("Authorization")
        if sent is not None and sent.startswith(wanted[scheme]):
            await exchange.respond()
        elif exchange.target.startswith("/token"):
            await exchange.respond(body=b'{"token": "token"}')
        else:
            await exchange.respond(401, headers=[("WWW-Authenticate", challenge.replace(TOKENS, server.url("/token")))])

    with http_server(script) as server:
        async with Context(plugins=[RegistryToken(NAME, PASSWORD)]) as context:
            url = server.url(f"/v2/{FILES}/manifests/latest")
            if scheme is None:
                with pytest.raises(AccessDenied):
                    await fetch(context, url)
                assert len(server.requests) == 1
                return
            await fetch(context, url)
            await fetch(context, url)
        sent = [each.header("Authorization") for each in server.requests if each.target.startswith("/v2")]
    assert sent == [None, wanted[scheme], wanted[scheme]]


async def test_basic_without_a_name():
    """A registry that wants a name gets none where there is none."""
    hub = Hub(lambda path, scopes: 'Basic realm="x"')
    async with context_of(hub) as context:
        with pytest.raises(AccessDenied):
            await fetch(context)
    assert len(hub.log) == 1


async def test_a_wrong_name_by_basic_is_sent_once():
    """Refused, it is not tried again."""
    hub = Hub(lambda path, scopes: 'Basic realm="x"')
    async with context_of(hub, RegistryToken(NAME, PASSWORD)) as context:
        with pytest.raises(AccessDenied):
            await fetch(context)
        assert [each.user for each in hub.log] == [None, User(NAME, PASSWORD)]


# Sharing, renewal, upgrades


async def test_a_hundred_blobs_take_one_token():
    """However many begin at the same time, and meet the refusal by themselves."""
    hub = Hub()
    async with context_of(hub, connections_per_origin=100) as context:
        results = await asyncio.gather(*(fetch(context, f"{HUB}/v2/{FILES}/blobs/{each}") for each in range(100)))
        assert {result.attempts for result in results} == {2}
        assert len(hub.tokens) == 1
        hub.expired.add("1")
        results = await asyncio.gather(*(fetch(context, f"{HUB}/v2/{FILES}/blobs/{each}") for each in range(100)))
    assert {result.attempts for result in results} == {2}
    assert len(hub.tokens) == 2


@pytest.mark.parametrize("code", [401, 403])
async def test_a_wider_scope(code):
    """`insufficient_scope` adds to what is asked for, once for all who come later."""
    push = f"repository:{FILES}:push"

    def wants(path: str, scopes: list[str] | None) -> str | None:
        if scopes is None:
            return bearer(PULL)
        if "blobs" not in path or push in scopes:
            return None
        hub.code = code
        return bearer(push, error="insufficient_scope")

    hub = Hub(wants)
    blob = f"{HUB}/v2/{FILES}/blobs/1"
    async with context_of(hub) as context:
        assert (await fetch(context, blob)).attempts == 3
        assert (await fetch(context, blob)).attempts == 1
        assert (await fetch(context)).attempts == 1
    assert [query(asked)[1:] for asked in hub.tokens] == [[("scope", PULL)], [("scope", PULL), ("scope", push)]]
    assert [each.rpartition(" ")[2] for each in hub.asked] == ["-", "1", "2", "2", "2"]


async def test_a_403_is_no_reason_to_renew():
    """A refusal that is not about the scope is final."""
    hub = Hub(lambda path, scopes: bearer() if scopes is None else bearer(error="denied"))
    async with context_of(hub) as context:
        hub.code = 403
        with pytest.raises(AccessDenied):
            await fetch(context)
    assert (len(hub.log), hub.tokens) == (1, [])


@pytest.mark.parametrize("error", [None, "invalid_token", "insufficient_scope"])
@pytest.mark.parametrize("retries", [0, 3])
async def test_useless_tokens_are_no_loop(error, retries):
    """A server whose tokens are never good ends in the refusal, after one renewal."""
    hub = Hub(lambda path, scopes: bearer(**({} if scopes is None or error is None else {"error": error})))
    async with context_of(hub, retries=retries) as context:
        with pytest.raises(AccessDenied):
            await fetch(context)
    assert len(hub.tokens) <= 2
    assert len(hub.asked) <= 3


async def test_challenges_that_are_always_new_are_no_loop():
    """What changes with each refusal gets three tries, and then it is final."""
    hub = Hub(lambda path, scopes: bearer(f"repository:x:{len(hub.log)}", error="insufficient_scope"))
    async with context_of(hub) as context:
        for _ in range(2):
            with pytest.raises(AccessDenied):
                await fetch(context)
    assert len(hub.asked) == 6
    assert len(hub.tokens) == 5


async def test_scopes_do_not_grow_for_ever():
    """A registry that wants more each time is not asked for everything that it ever wanted."""
    hub = Hub(lambda path, scopes: bearer(f"repository:x:{len(hub.log)}", error="insufficient_scope"))
    async with context_of(hub) as context:
        for _ in range(40):
            with pytest.raises(AccessDenied):
                await fetch(context)
    assert max(len(query(asked)) for asked in hub.tokens) == 21


@pytest.mark.parametrize(
    ("answer", "date", "sent_for"),
    [
        ({}, None, 45),  # 60 seconds, where nothing is said
        ({"expires_in": 300}, None, 240),
        ({"expires_in": 300.5}, None, 240.5),
        ({"expires_in": "20"}, None, 15),
        ({"expires_in": 0}, None, 45),
        ({"expires_in": 300, "issued_at": "2026-11-28T12:00:00Z"}, "Sat, 28 Nov 2026 12:02:00 GMT", 135),
        ({"expires_in": 300, "issued_at": "2026-11-28T12:00:00.123456789Z"}, "Sat, 28 Nov 2026 12:00:00 GMT", 240),
        ({"expires_in": 300, "issued_at": "2026-11-28T14:00:00+02:00"}, "Sat, 28 Nov 2026 12:04:20 GMT", 30),
        ({"expires_in": 300, "issued_at": "2026-11-28T12:00:00Z"}, None, 240),
        ({"expires_in": 300, "issued_at": "2026-11-28T12:00:00"}, "Sat, 28 Nov 2026 12:02:00 GMT", 240),
        ({"expires_in": 300, "issued_at": 5}, "yesterday", 240),
    ],
)
async def test_when_a_token_is_renewed(answer, date, sent_for, clock):
    """A little before its end; its age is told by the clock of its server, not by ours."""
    hub = Hub(None, answer, answer)
    hub.headers = Headers([("Date", date)] if date else [])
    async with context_of(hub) as context:
        await fetch(context)
        clock(sent_for - 0.01)
        await fetch(context)
        assert len(hub.tokens) == 1
        clock(0.02)
        assert (await fetch(context)).attempts == 1
        assert len(hub.tokens) == 2


# The token server


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"<html>", b"[]", b"null", b'"s3cr3t"', b"{}", b'{"token": ""}', b'{"token": 5}', b'{"token": ["s3cr3t"]}',
        b'{"token": "s3cr3t\\r\\nX: y"}', b'{"token": "s3c r3t"}', b'{"token": "s3cr3t", "expires_in": "soon"}',
        b'{"token": "s3cr3t", "expires_in": [1]}', b'{"token": "s3cr3t', b"[" * 100_000, b"\xff\xfe",
    ],
    ids=lambda answer: answer[:40],
)  # fmt: skip
async def test_answers_that_hold_no_token(answer):
    """An error that says who answered so, and repeats nothing of it."""
    hub = Hub(None, answer)
    async with context_of(hub) as context:
        with pytest.raises(PreparationError, match=f"the answer of the token server {TOKENS} holds no token") as caught:
            await fetch(context)
    assert "s3c" not in repr((caught.value, caught.value.history, caught.value.__context__)) + str(caught.value)
    assert len(hub.tokens) == 1


async def test_an_answer_is_not_endless():
    """1 MiB is enough for a token."""
    hub = Hub(None, b"{" + b" " * 1024 * 1024 + b"}")
    async with context_of(hub) as context:
        with pytest.raises(PreparationError, match="max_size") as caught:
            await fetch(context)
    assert isinstance(caught.value.cause, PolicyError)


async def test_a_token_by_its_other_name():
    """“access_token” is as good, and “token” goes before it."""
    hub = Hub(None, {"token": None, "access_token": f"token~other~{PULL}"})
    async with context_of(hub) as context:
        await fetch(context)
    assert hub.asked[-1].endswith(" other")


@pytest.mark.parametrize("expired", [False, True], ids=["cold", "expired"])
async def test_a_token_server_that_is_down(expired):
    """A hundred downloads fail for the same reason, and it is asked once for all of them."""
    hub = Hub()
    async with context_of(hub, connections_per_origin=100, retries=0) as context:
        if expired:
            await fetch(context)
            hub.expired.add("1")
            hub.log.clear()
        hub.answers = [ServerError("down", code=503)]
        work = (fetch(context, f"{HUB}/v2/{FILES}/blobs/{each}") for each in range(100))
        errors = await asyncio.gather(*work, return_exceptions=True)
    assert {(type(error), str(error.cause)) for error in errors} == {(PreparationError, "down")}
    assert len(set(map(id, errors))) == 100
    assert len(hub.tokens) == 1


async def test_a_token_server_that_stumbles():
    """It is asked again like every server; the downloads wait for it."""
    hub = Hub(None, ServerError("busy", code=503))
    async with context_of(hub) as context:
        assert (await fetch(context)).attempts == 2
    assert len(hub.tokens) == 2


# Where name and password go


BASIC = f"Basic {b64encode(f'{NAME}:{PASSWORD}'.encode()).decode()}"


@pytest.mark.parametrize(
    ("realm", "given", "goes"),
    [
        (TOKENS, None, False),
        (TOKENS, "https://tokens/token", True),
        (TOKENS, "https://tokens", True),
        (TOKENS, "HTTPS://Tokens:443/", True),
        (TOKENS, "https://tokens/tok", False),
        (TOKENS, "https://tokens/token/deeper", False),
        (TOKENS, "https://tokens:8443/token", False),
        (f"{HUB}/token", None, True),
        (f"{HUB}:8443/token", None, False),
        ("https://tokens/a/../token", "https://tokens/a", False),
        ("https://tokens.evil/token", "https://tokens", False),
    ],
)
async def test_to_whom_the_password_goes(realm, given, goes):
    """To the registry's own origin, or within what the user has allowed; the refusal says what to add."""
    hub = Hub(lambda path, scopes: None if scopes else bearer(realm=realm))
    async with context_of(hub, RegistryToken(NAME, PASSWORD, realm=given)) as context:
        if goes:
            await fetch(context)
            assert [each.user for each in hub.tokens] == [User(NAME, PASSWORD)]
            assert [each.user for each in hub.log if each not in hub.tokens] == [None, None]
            return
        with pytest.raises(PolicyError, match="realm") as caught:
            await fetch(context)
    assert hub.tokens == []
    assert PASSWORD not in str(caught.value)
    if ".." not in realm:
        assert f"realm={realm!r}" in str(caught.value)


async def test_who_has_no_name_asks_anybody():
    """Without a name there is nothing to be given away: the token server may be elsewhere."""
    hub = Hub()
    async with context_of(hub) as context:
        await fetch(context)
    assert [each.entitled for each in hub.tokens] == [None]


@pytest.mark.parametrize("plugin", [RegistryToken(), RegistryToken(NAME, PASSWORD, realm="https://tokens")], ids=repr)
@pytest.mark.parametrize(
    "realm",
    [
        "http://tokens/token", "http://hub/token", "ftp://tokens/token", "file:///token", "https://localhost/token",
        "https://127.0.0.1/token", "https://127.1:8443/token", "https://[::1]/token", "https://0/token", "/token",
        "token", "https:///token", "https://user:pw@tokens/token",
    ],
)  # fmt: skip
async def test_token_servers_that_are_not_asked(plugin, realm):
    """Less safe than the registry, on this machine, or no URL at all: refused, and nobody is asked."""
    hub = Hub(lambda path, scopes: bearer(realm=realm))
    async with context_of(hub, plugin) as context:
        with pytest.raises(PolicyError, match=f"the registry {HUB} names a token server"):
            await fetch(context)
    assert (len(hub.log), hub.tokens) == (1, [])


async def test_a_registry_on_this_machine_may_have_its_token_server_there():
    """Only who is elsewhere has no business here."""
    hub = Hub(lambda path, scopes: None if scopes else bearer(realm="http://127.0.0.1:5001/token"))
    async with context_of(hub) as context:
        await fetch(context, f"http://localhost:5000/v2/{FILES}/manifests/1")
    assert len(hub.tokens) == 1


async def test_a_token_server_that_redirects():
    """The password does not go along, not on the same origin either; the token that comes is taken."""

    async def script(exchange):
        sent.append((exchange.target.partition("?")[0], exchange.header("Authorization")))
        if exchange.target.startswith("/token"):
            await exchange.respond(307, headers=[("Location", "/other")])
        elif exchange.target == "/other":
            await exchange.respond(body=b'{"token": "token"}')
        elif exchange.header("Authorization") == "Bearer token":
            await exchange.respond()
        else:
            await exchange.respond(401, headers=[("WWW-Authenticate", bearer(realm=server.url("/token")))])

    sent: list[tuple[str, str | None]] = []
    with http_server(script) as server:
        async with Context(plugins=[RegistryToken(NAME, PASSWORD)]) as context:
            await fetch(context, server.url("/v2/a/manifests/1"))
    assert sent == [
        ("/v2/a/manifests/1", None), ("/token", BASIC), ("/other", None), ("/v2/a/manifests/1", "Bearer token"),
    ]  # fmt: skip


async def test_a_wider_scope_on_the_wire():
    """The second refusal answers a request with a token, and can be read like the first."""

    async def script(exchange):
        sent = exchange.header("Authorization")
        if exchange.target.startswith("/token"):
            scopes = [value for name, value in parse_qsl(urlsplit(exchange.target).query) if name == "scope"]
            await exchange.respond(body=json.dumps({"token": "~".join(["token", *scopes])}).encode())
        elif sent is not None and "push" in sent:
            await exchange.respond()
        else:
            challenge = bearer("r:a:push", server.url("/token"), error="insufficient_scope")
            challenge = challenge if sent else bearer("r:a:pull", server.url("/token"))
            await exchange.respond(401, headers=[("WWW-Authenticate", challenge)])

    with http_server(script) as server:
        async with Context(plugins=[RegistryToken()]) as context:
            assert (await fetch(context, server.url("/v2/a/manifests/1"))).attempts == 3


# Where tokens go


async def test_the_storage_sees_no_token():
    """A blob redirects to its storage, on another origin, or out of the repository: neither sees the token."""

    async def script(exchange):
        target, sent = exchange.target, exchange.header("Authorization")
        seen.append((exchange.header("Host") == f"127.0.0.1:{server.port}", target.partition("?")[0], sent))
        if target.startswith("/token"):
            await exchange.respond(body=b'{"token": "token"}')
        elif target.startswith("/store"):
            await exchange.respond()
        elif sent is None:
            await exchange.respond(401, headers=[("WWW-Authenticate", bearer(realm=server.url("/token")))])
        else:
            to = storage.url("/store") if target.endswith("1") else "/store"
            await exchange.respond(307, headers=[("Location", to)])

    seen: list[tuple[bool, str, str | None]] = []
    with http_server(script) as server, http_server(script) as storage:
        async with Context(plugins=[RegistryToken()]) as context:
            for blob in "12":
                await fetch(context, server.url(f"/v2/a/blobs/{blob}"))
    assert seen == [
        (True, "/v2/a/blobs/1", None), (True, "/token", None), (True, "/v2/a/blobs/1", "Bearer token"),
        (False, "/store", None), (True, "/v2/a/blobs/2", "Bearer token"), (True, "/store", None),
    ]  # fmt: skip


async def test_within_a_registry():
    """With *within*, other registries of the context are nobody's business; without, each download has its own."""
    for within, answered in (("https://hub/", [True, False]), ("https://other", [False, True]), (None, [True, True])):
        hub = Hub()
        async with context_of(hub, RegistryToken(within=within)) as context:
            for url, good in zip((IMAGE, IMAGE.replace("hub", "other")), answered, strict=True):
                if good:
                    await fetch(context, url)
                else:
                    with pytest.raises(AccessDenied):
                        await fetch(context, url)


async def test_a_mirror_that_is_a_registry():
    """A plugin for a mirror does nothing at the download's own registry, and pulls from the mirror."""
    hub = Hub()
    mirror = "https://mirror/v2/"
    plugins = [MirrorList([mirror], replaces=f"{HUB}/v2/"), RegistryToken(within="https://mirror")]
    async with context_of(hub, *plugins) as context:
        result = await fetch(context)
    assert result.source == f"{mirror}{FILES}/manifests/latest"
    assert {urlsplit(each.url).hostname for each in hub.log} == {"mirror", "tokens"}


async def test_nobody_has_the_token_of_another():
    """In one context, who has no name does not go in with what another one got."""
    hub = Hub()
    named = RegistryToken(NAME, PASSWORD, realm=TOKENS)
    async with Context(drivers={"https": hub}) as context:
        for plugin in (named, RegistryToken(), named):
            await fetch(context, plugins=[plugin])
    assert [each.rpartition(" ")[2] for each in hub.asked] == ["-", "1", "-", "2", "1"]


async def test_paths_with_dots_are_asked_without():
    """Where dots lead is for the server to say, so no token is for what they are in."""
    hub = Hub()
    async with context_of(hub) as context:
        with pytest.raises(AccessDenied):
            await fetch(context, f"{HUB}/v2/{FILES}/../x/manifests/1")
    assert (len(hub.log), hub.tokens) == (1, [])


async def test_a_404_is_a_404():
    """What is not there is not for a token to change."""

    def wants(path: str, scopes: list[str] | None) -> str | None:
        if scopes is None:
            return bearer()
        raise NotFound("404", code=404)

    hub = Hub(wants)
    async with context_of(hub) as context:
        with pytest.raises(NotFound):
            await fetch(context)
    assert len(hub.tokens) == 1


# The plugin itself


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"name": "canary"}, ValueError, "both, or none"),
        ({"password": "canary"}, ValueError, "both, or none"),
        ({"name": 5, "password": "canary"}, TypeError, "two str"),
        ({"name": "can\nary", "password": "canary"}, ValueError, "control character"),
        ({"realm": "tokens/token"}, ValueError, "malformed URL"),
        ({"realm": "https://can:ary@tokens/token"}, ValueError, r"RegistryToken\(realm=…\)"),
        ({"realm": "https://tokens/token?canary=canary"}, ValueError, r"RegistryToken\(realm=…\)"),
        ({"within": "https://hub?canary=1"}, ValueError, r"RegistryToken\(within=…\)"),
    ],
)
def test_what_cannot_be_meant(arguments, error, text):
    """It is refused at once, and what is secret in it is not repeated."""
    with pytest.raises(error, match=text) as caught:
        RegistryToken(**arguments)
    assert "=canary" not in str(caught.value)
    assert "ary@" not in str(caught.value)


def test_values():
    """Equal are plugins of equal names for equal places; the repr has neither name nor password."""
    plugin = RegistryToken(NAME, PASSWORD, realm="https://auth.example/token")
    assert plugin == RegistryToken(NAME, PASSWORD, realm="HTTPS://auth.example:443/token")
    assert plugin != RegistryToken(NAME, "another", realm="https://auth.example/token")
    assert hash(plugin) == hash(RegistryToken(NAME, PASSWORD, realm="https://auth.example/token"))
    assert repr(plugin) == "RegistryToken(within=None, realm='https://auth.example/token')"


async def test_a_user_who_is_called_like_the_repository():
    """What the settings say of who asks is sent, too, and its name in the challenge is left as it is."""

    async def script(exchange):
        if exchange.target.startswith("/token"):
            asked.append(exchange.target)
            await exchange.respond(body=b'{"token": "token"}')
        elif exchange.header("Authorization") == "Bearer token":
            await exchange.respond()
        else:
            challenge = bearer("repository:elmer/app:pull", server.url("/token"))
            await exchange.respond(401, headers=[("WWW-Authenticate", challenge)])

    asked: list[str] = []
    with http_server(script) as server:
        async with Context(plugins=[RegistryToken(NAME, PASSWORD)], user=User(NAME, PASSWORD)) as context:
            await fetch(context, server.url("/v2/elmer/app/manifests/1"))
    assert parse_qsl(urlsplit(asked[0]).query)[-1] == ("scope", "repository:elmer/app:pull")
