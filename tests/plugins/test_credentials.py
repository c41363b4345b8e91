"""Credentials of every kind: where they go, where they never go, and what third parties build upon."""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from dataclasses import dataclass, replace
from itertools import permutations

import pytest
from tests.mem import Ledger, MemDriver, Reply, context_of
from tests.servers.http import http_server

from downhaul import (
    AccessDenied,
    BufferWriter,
    Context,
    Download,
    Plugin,
    PluginError,
    PreparationError,
    ServerError,
    User,
    hookimpl,
)
from downhaul.plugins import Authorizer, BasicAuth, BearerToken, Grant, HeaderToken, MirrorList, Scoped
from downhaul.plugins._credentials.authority import checked_scope
from downhaul.plugins._hosts import is_loopback

HOME = "mem://home/file"
KINDS = {
    "bearer": (lambda **options: BearerToken("secret", **options), ("Authorization", "Bearer secret")),
    "header": (lambda **options: HeaderToken("X-Key", "secret", **options), ("X-Key", "secret")),
    "basic": (
        lambda **options: BasicAuth("elmer", "secret", **options),
        ("Authorization", f"Basic {b64encode(b'elmer:secret').decode()}"),
    ),
}


async def fetch(context: Context, url: str = HOME, **options):
    """Download, and return the result."""
    return await Download(url, BufferWriter(), context=context, **options).run()


def served(*urls: str) -> MemDriver:
    """Return a driver with a file at each of *urls*."""
    mem = MemDriver()
    for url in urls:
        mem.site(url, Reply(b"bytes"))
    return mem


# Each origin its own


@dataclass(frozen=True)
class Named:
    """A function that gives one token, with a name for the test."""

    token: str

    def __call__(self) -> str:
        return self.token


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
@pytest.mark.parametrize("form", ["context", "download", "first apart", "last apart"])
async def test_in_any_order_each_origin_sees_its_own(order, form):
    """A mirror list, a token for home and one for a mirror: whatever the order, and whoever has them."""
    mem = MemDriver()
    mem.site("mem://lists/list", Reply(b"mem://m1/file\nmem://m2/file\nmem://home/file\n"))
    mem.site("mem://m1/file", Reply(status=404))
    mem.site("mem://m2/file", Reply(status=404))
    mem.site(HOME, Reply(b"bytes"))
    plugins = [
        MirrorList("mem://lists/list"),
        BearerToken(Named("of-home"), within="mem://home"),
        BearerToken(Named("of-m2"), within="mem://m2/"),
    ]
    plugins = [plugins[place] for place in order]
    mine, ours = {
        "context": ([], plugins),
        "download": (plugins, []),
        "first apart": (plugins[:1], plugins[1:]),
        "last apart": (plugins[:2], plugins[2:]),
    }[form]
    async with context_of(mem, *ours) as context:
        await fetch(context, plugins=mine)
    sent = {each.url: each.header("Authorization") for each in mem.log}
    assert sent == {
        "mem://lists/list": None,
        "mem://m1/file": None,
        "mem://m2/file": "Bearer of-m2",
        HOME: "Bearer of-home",
    }


@pytest.mark.parametrize("same", [True, False], ids=["one origin", "two origins"])
async def test_two_remotes_see_no_tokens_of_each_other(same):
    """Two remotes in one context, with many downloads at once, each with its own token, at one origin or at two."""
    urls = [HOME, HOME if same else "mem://other/file"]
    mem = served(*urls)
    async with context_of(mem, connections_per_origin=40) as context:
        remotes = [[BearerToken(Named("one"))], [BearerToken(Named("two"))]]
        work = [
            fetch(context, url, plugins=plugins, headers={"Accept": f"text/{number}"})
            for _ in range(20)
            for number, (url, plugins) in enumerate(zip(urls, remotes, strict=True))
        ]
        await asyncio.gather(*work)
    sent = {(each.url, each.header("Accept"), each.header("Authorization")) for each in mem.log}
    assert sent == {(urls[0], "text/0", "Bearer one"), (urls[1], "text/1", "Bearer two")}


# A prefix


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    ("url", "is_within"),
    [
        ("mem://home/api/file", True),
        ("mem://home/api/a/b?x=/../", True),
        ("mem://home/api", True),
        ("mem://home/apis/file", False),
        ("mem://home/file", False),
        ("mem://home/API/file", False),
        ("mem://home/api/../file", False),
        ("mem://home/api/%2e%2e/file", False),
        ("mem://home/api/..%2ffile", False),
        ("mem://home/file?/api/", False),
        ("mem://home:81/api/file", False),
        ("mem://home.example/api/file", False),
        ("mem://away/api/file", False),
    ],
)
async def test_what_is_below_a_path(kind, slash, url, is_within):
    """“`https://host/api/` is for what is below it”: whole segments, and nothing that could lead out of it."""
    make, _ = KINDS[kind]
    mem = served(url)
    async with context_of(mem, make(within=f"mem://home/api{slash}")) as context:
        await fetch(context, url)
    [asked] = mem.log
    assert (asked.request.entitled is not None) is is_within


@pytest.mark.parametrize("kind", KINDS)
async def test_redirects_on_the_wire(kind):
    """Along within the path; out of it, on the same origin too, and to another port, it is left behind for good."""
    make, (name, value) = KINDS[kind]
    led: dict[str, str] = {}

    async def script(exchange):
        location = led.get(exchange.target)
        await exchange.respond(302 if location else 200, headers=[("Location", location)] if location else [])

    with http_server(script) as home, http_server(script) as away:
        led.update({
            "/api/in": "/api/deeper/file",
            "/api/out": "/open/file",
            "/api/around": "/open/around",
            "/open/around": "/api/file",
            "/api/away": away.url("/api/away2"),
            "/api/away2": home.url("/api/file"),
            "/api/dots": "/api/../secret",
        })  # fmt: skip
        async with Context(plugins=[make(within=home.url("/api/"))]) as context:
            for path in ("in", "out", "around", "away", "dots"):
                await fetch(context, home.url(f"/api/{path}"))
        sent = [(each.target, each.header(name)) for each in home.requests]
        assert [each.header(name) for each in away.requests] == [None]
    assert sent == [
        ("/api/in", value), ("/api/deeper/file", value),
        ("/api/out", value), ("/open/file", None),
        ("/api/around", value), ("/open/around", None), ("/api/file", None),
        ("/api/away", value), ("/api/file", None),
        ("/api/dots", value), ("/secret", None),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
async def test_away_and_back(kind):
    """Without a path, too: what was with another origin comes back with nothing."""
    make, (name, value) = KINDS[kind]

    async def there(exchange):
        await exchange.respond(302, headers=[("Location", home.url("/end"))])

    async def here(exchange):
        away_to = [("Location", away.url("/x"))] if exchange.target == "/begin" else []
        await exchange.respond(302 if away_to else 200, headers=away_to)

    with http_server(here) as home, http_server(there) as away:
        async with Context(plugins=[make()]) as context:
            await fetch(context, home.url("/begin"))
        assert [each.header(name) for each in (*home.requests, *away.requests)] == [value, None, None]


# Constructors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "within",
    [
        "", "host", "host/api", "127.0.0.1:80", "https://", "https://host/?key=canary", "https://host/#top",
        "https://can:ary@host/", "https://host/a/../b", "https://host/%2E%2e/b", "data:text", "https://host:99999/",
        "https://host/\n", " https://host/",
    ],
)  # fmt: skip
def test_what_nothing_can_be_within(kind, within):
    """What is no URL of a host or of a path there is refused at once, and what is secret in it is not repeated."""
    make, _ = KINDS[kind]
    with pytest.raises(ValueError) as caught:
        make(within=within)
    assert not any(secret in str(caught.value) for secret in ("canary", "can:", ":ary"))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_reaches(kind):
    """How an origin is written does not matter; a path does, and an equal plugin is the same one."""
    make, _ = KINDS[kind]
    assert make(within="HTTPS://Host:443") == make(within="https://host")
    assert make(within="https://host/a") != make(within="https://host/b")
    with pytest.raises(TypeError):
        make(within=5)


def test_reaches_are_shown():
    """A refusal names the plugin and its argument; the repr has the reach and no secret."""
    with pytest.raises(ValueError, match=r"BasicAuth\(within=…\) is the URL of a host"):
        BasicAuth("elmer", "secret", within="https://host/?a")
    for make, _ in KINDS.values():
        shown = repr(make(within="https://host/a"))
        assert "https://host/a" in shown
        assert "secret" not in shown
        assert "elmer" not in shown


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://localhost", True), ("http://LOCALHOST.:80/", True), ("http://a.localhost", True),
        ("http://127.0.0.1", True), ("http://127.9.9.9", True), ("http://127.1", True), ("http://2130706433", True),
        ("http://0x7f000001", True), ("http://0.0.0.0", True), ("http://[::1]", True), ("http://[::]", True),
        ("http://[::ffff:127.0.0.1]", True), ("http://example.org", False), ("http://localhost.example.org", False),
        ("http://10.0.0.1", False), ("http://[2001:db8::1]", False), ("http://notlocalhost", False),
    ],
)  # fmt: skip
def test_this_machine(url, here):
    """However this machine is written, it is known."""
    assert is_loopback(url) is here


# For third parties


class Keys:
    """Gives "key 1", "key 2", and so on, or fails."""

    def __init__(self, *failures: Exception) -> None:
        self.given = 0
        self.failures = list(failures)

    def new(self) -> str:
        if self.failures:
            raise self.failures.pop(0)
        self.given += 1
        return f"key{self.given}"


@dataclass(frozen=True)
class QueryKey(Authorizer):
    """A third party's plugin: a key in the query."""

    keys: Keys

    async def obtain(self, transfer, need):
        return Grant(parameters=(("key", self.keys.new()),))


async def test_a_plugin_of_a_third_party():
    """One method is enough: the base class sees to the rest."""
    mem = MemDriver()
    mem.site(HOME, Reply(error=AccessDenied("401", code=401)), Reply(b"bytes"))
    async with context_of(mem, QueryKey(Keys())) as context:
        await fetch(context)
        await fetch(context)
    targets = [each.request.target() for each in mem.log]
    assert targets == [f"{HOME}?key=key1", f"{HOME}?key=key2", f"{HOME}?key=key2"]
    assert mem.urls == [HOME] * 3


def test_what_a_third_party_has_to_write():
    """Without `obtain` there is no plugin."""
    with pytest.raises(TypeError, match="obtain"):
        Authorizer()


async def test_reach_alone():
    """`Scoped` is for who signs requests by themselves: it knows the download's origin, or what is within."""
    reaches = []

    @dataclass(frozen=True)
    class Signer(Scoped):
        @hookimpl
        async def prepare(self, transfer):
            reaches.append(self.reach(transfer))

    mem = served("mem://m1/file")
    mem.site("mem://lists/list", Reply(b"mem://m1/file\n"))
    for plugin in (Signer(), Signer(within="mem://X/y/")):
        async with context_of(mem, MirrorList("mem://lists/list"), plugin) as context:
            await fetch(context)
    assert set(reaches[: len(reaches) // 2]) == {"mem://home"}
    assert set(reaches[len(reaches) // 2 :]) == {"mem://x/y/"}
    assert checked_scope("x", "MEM://X/y/") == "mem://x/y/"


async def test_two_kinds_at_one_origin():
    """Credentials of several plugins for one request add up."""
    mem = served(HOME)
    async with context_of(mem, HeaderToken("X-Key", "one"), BearerToken("two")) as context:
        await fetch(context)
    assert (mem.log[0].header("X-Key"), mem.log[0].header("Authorization")) == ("one", "Bearer two")


async def test_an_own_state_of_a_derived_plugin():
    """What a subclass keeps by `transfer.state` is its own."""

    @dataclass(frozen=True)
    class Counting(QueryKey):
        @hookimpl(trylast=True)
        async def prepare(self, transfer):
            transfer.state(self, list).append(transfer.attempt)
            await super().prepare(transfer)
            seen.append(list(transfer.state(self, list)))

    seen: list[list[int]] = []
    mem = MemDriver()
    mem.site(HOME, Reply(error=AccessDenied("401", code=401)), Reply(b"bytes"))
    async with context_of(mem, Counting(Keys())) as context:
        await fetch(context)
    assert seen == [[1], [1, 2]]


async def test_a_401_is_about_what_was_sent():
    """The refusal of a request that had no credentials of ours, a mirror's that leads home, renews nothing."""
    keys = Keys()
    mem = MemDriver()
    mem.site(HOME, Reply(status=404))
    mem.site("mem://m1/file", Reply(location="mem://home/other"))
    mem.site("mem://home/other", Reply(error=AccessDenied("401", code=401)))
    async with context_of(mem, MirrorList([HOME, "mem://m1/file"]), QueryKey(keys)) as context:
        with pytest.raises(Exception, match="401"):
            await fetch(context)
    assert keys.given == 1
    assert mem.urls == [HOME, "mem://m1/file", "mem://home/other"]


# Alternatives


@dataclass(frozen=True)
class Offers(Plugin):
    """Offers the same at other places, and opens them all when the first is asked."""

    urls: tuple[str, ...]

    @hookimpl
    async def prepare(self, transfer):
        transfer.offer(self.urls)

    @hookimpl
    async def validate(self, transfer):
        for request in transfer.alternatives:
            async with transfer.open(self, request) as payload:
                async for _ in payload.body:
                    pass


@pytest.mark.parametrize("swapped", [False, True])
async def test_alternatives_have_their_own(swapped):
    """What is offered besides the aim is given what is for it, and no more."""
    urls = ("mem://m1/file", "mem://m2/api/file", "mem://m2/file")
    mem = served(HOME, *urls)
    plugins = [Offers(urls), BearerToken("of-home"), BearerToken("of-m2", within="mem://m2/api/")]
    async with context_of(mem, *(reversed(plugins) if swapped else plugins)) as context:
        await fetch(context)
    sent = [each.header("Authorization") for each in mem.log]
    assert sent == ["Bearer of-home", None, "Bearer of-m2", None]


@pytest.mark.parametrize(
    ("failure", "fails"), [(PreparationError("no token"), False), (ServerError("down", code=503), False),
                           (PluginError("broken"), True), (ValueError("broken"), True)], ids=repr,
)  # fmt: skip
async def test_an_alternative_without_credentials_is_no_failure(failure, fails, caplog):
    """Where the aim needs no credentials, it is not given up for an alternative that does; that is told."""
    mem = served(HOME, "mem://m1/file")
    plugins = [Offers(("mem://m1/file",)), QueryKey(Keys(failure), within="mem://m1")]
    async with context_of(mem, *plugins) as context:
        with caplog.at_level(logging.WARNING, "downhaul.tokens"):
            if fails:
                with pytest.raises(PluginError):
                    await fetch(context)
                return
            assert (await fetch(context)).attempts == 1
    [told] = [record.getMessage() for record in caplog.records if record.name == "downhaul.tokens"]
    assert "no credentials for mem://m1" in told
    assert mem.log[1].request.entitled is None


async def test_where_the_aim_needs_them_it_is_a_failure_like_any_other():
    """No token for one mirror: the next one is asked."""
    mem = served(HOME)
    plugins = [MirrorList(["mem://m1/file", HOME]), QueryKey(Keys(PreparationError("no token")), within="mem://m1")]
    async with context_of(mem, *plugins) as context:
        result = await fetch(context)
    assert (result.source, [type(each.error) for each in result.history]) == (HOME, [PreparationError])
    assert mem.urls == [HOME]


# Secrets


@pytest.mark.parametrize("kind", KINDS)
async def test_no_secret_is_told(kind, caplog):
    """In no error, history, repr or log, not where the server repeats what it was sent either."""
    make, (_, value) = KINDS[kind]
    caplog.set_level(0)

    async def script(exchange):
        told = ", ".join(value for _, value in exchange.headers)
        await exchange.respond(401, headers=[("X-Echo", told)])

    ledger = Ledger()
    with http_server(script) as server:
        async with Context(plugins=[make(), ledger]) as context:
            with pytest.raises(AccessDenied) as caught:
                await fetch(context, server.url("/file"))
    told = repr((caught.value, caught.value.history, ledger.errors, ledger.outcomes, make())) + caplog.text
    told += str(caught.value) + repr(dict(caught.value.headers)) + repr(caught.value.__reduce__())
    assert "secret" not in told
    assert value.rpartition(" ")[2] not in told


async def test_a_grant_is_not_told():
    """A `Grant` shows when it expires, and nothing else; no two are equal."""
    grant = Grant((("X", "secret"),), (("k", "secret"),), User("elmer", "secret"), expires=5)
    assert repr(grant) == "Grant(expires=5, renewable=True)"
    assert grant != replace(grant)
