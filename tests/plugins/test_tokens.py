"""BearerToken: fetched once, sent to one origin, renewed once; and together with mirrors."""

from __future__ import annotations

import asyncio
import hashlib
import threading

import pytest
from tests.mem import Ledger, MemDriver, Mirrors, Reply, context_of, until

from downhaul import (
    AccessDenied,
    BufferWriter,
    DigestMismatch,
    Download,
    NotFound,
    PluginError,
    PreparationError,
    Retries,
    ServerError,
    Truncated,
    hookimpl,
)
from downhaul.plugins import BearerToken, MirrorList

URL, LIST = "mem://home/file", "mem://lists/list"
BYTES = bytes(range(256)) * 1000
DIGEST = {"sha256": hashlib.sha256(BYTES).hexdigest()}


class Provider:
    """Gives "token 1", "token 2", and so on."""

    def __init__(self) -> None:
        self.calls = 0
        self.threads: set[int] = set()

    async def __call__(self) -> str:
        self.calls += 1
        self.threads.add(threading.get_ident())
        return f"token{self.calls}"

    def plain(self) -> str:
        self.calls += 1
        self.threads.add(threading.get_ident())
        return f"token{self.calls}"

    async def method(self) -> str:
        return await self()


def server(**sites: Reply) -> MemDriver:
    """Return a driver with a file at each of these hosts."""
    mem = MemDriver()
    for host, reply in sites.items():
        mem.site(f"mem://{host}/file", reply)
    return mem


async def run(context, url: str = URL, **options):
    """Download, and return the result and the bytes."""
    writer = BufferWriter()
    result = await Download(url, writer, context=context, **options).run()
    return result, writer.content()


@pytest.mark.parametrize("form", ["async callable", "async function", "plain function", "function of an awaitable"])
async def test_providers_of_every_kind(form):
    """“*provider* returns the token as a str, or an awaitable of it”."""
    provider = Provider()
    given = {
        "async callable": provider,
        "async function": provider.method,
        "plain function": provider.plain,
        "function of an awaitable": lambda: provider.method(),
    }[form]
    mem = server(home=Reply(BYTES, token="token1"))
    async with context_of(mem, BearerToken(given)) as context:
        assert (await run(context))[1] == BYTES
    assert mem.log[0].header("Authorization") == "Bearer token1"
    assert len(mem.log) == provider.calls == 1


async def test_a_plain_function_may_wait():
    """“A plain function is called in a thread, so it may wait”: the loop goes on."""
    gate = threading.Event()

    def slow() -> str:
        assert gate.wait(5)
        return "token1"

    mem = server(home=Reply(BYTES, token="token1"))
    async with context_of(mem, BearerToken(slow)) as context:
        task = asyncio.create_task(run(context))
        for _ in range(10):
            await asyncio.sleep(0)
        gate.set()
        assert (await task)[1] == BYTES


async def test_the_token_is_fetched_once_for_many():
    """Single-flight: fifty downloads that begin at once ask for one token."""
    provider = Provider()
    mem = server(home=Reply(BYTES, token="token1"))
    async with context_of(mem, BearerToken(provider)) as context:
        await asyncio.gather(*(run(context) for _ in range(50)))
        await run(context)
    assert provider.calls == 1


async def test_one_refresh_for_fifty_401s():
    """“So one expired token is refreshed once”: however many downloads meet the 401."""
    provider = Provider()
    mem = server(home=Reply(BYTES, token="token1"))
    async with context_of(mem, BearerToken(provider), connections=100, connections_per_origin=100) as context:
        await run(context)
        mem.site(URL, Reply(BYTES, token="token2"))
        mem.log.clear()
        results = await asyncio.gather(*(run(context) for _ in range(50)))
    assert provider.calls == 2
    assert [result.attempts for result, _ in results] == [2] * 50
    assert [len(result.history) for result, _ in results] == [1] * 50
    assert len(mem.log) == 100
    assert results[0][0].history[0].repaired_by == "BearerToken"


async def test_a_401_that_comes_late_forgets_no_new_token():
    """Who used the old token and hears of it late takes the new one, and asks for none."""
    provider, gate = Provider(), asyncio.Event()
    slow = "mem://home/slow"
    mem = server(home=Reply(BYTES, token="token2"))
    mem.site(slow, Reply(BYTES, token="token2", gate=gate))
    async with context_of(mem, BearerToken(provider)) as context:
        late = asyncio.create_task(run(context, slow))
        await until(lambda: mem.live)
        await run(context)
        gate.set()
        assert (await late)[1] == BYTES
    assert provider.calls == 2


async def test_a_token_that_is_refused_twice_is_refused():
    """One renewal for each source and round; then the 401 is what comes out."""
    provider = Provider()
    mem = server(home=Reply(token="never"))
    async with context_of(mem, BearerToken(provider)) as context:
        with pytest.raises(AccessDenied) as caught:
            await run(context)
    assert caught.value.code == 401
    assert provider.calls == 2
    assert mem.urls == [URL, URL]


async def test_a_403_is_no_reason_to_renew():
    """403 says that this token will never do."""
    provider = Provider()
    mem = server(home=Reply(error=AccessDenied("403", code=403)))
    async with context_of(mem, BearerToken(provider)) as context:
        with pytest.raises(AccessDenied):
            await run(context)
    assert (provider.calls, len(mem.log)) == (1, 1)


# Scope


async def test_never_to_a_mirror():
    """“Credentials, tokens … never to a redirect target, mirror or proxy of another”."""
    mem = server(m1=Reply(status=404), home=Reply(BYTES, token="token1"))
    async with context_of(mem, BearerToken(Provider()), Mirrors(("mem://m1/file", URL))) as context:
        await run(context)
    assert [each.header("Authorization") for each in mem.log] == [None, "Bearer token1"]


async def test_never_to_a_redirect_target():
    """A redirect to another origin takes no token along."""
    mem = server(home=Reply(location="mem://away/file"), away=Reply(BYTES))
    async with context_of(mem, BearerToken(Provider())) as context:
        await run(context)
    assert [each.header("Authorization") for each in mem.log] == ["Bearer token1", None]


async def test_never_to_the_host_of_a_list():
    """A list of another origin is fetched without it."""
    mem = server(m1=Reply(BYTES))
    mem.site(LIST, Reply(b"mem://m1/file\n"))
    async with context_of(mem, BearerToken(Provider()), MirrorList(LIST)) as context:
        await run(context)
    assert [each.header("Authorization") for each in mem.log] == [None, None]


async def test_to_a_list_of_the_own_origin():
    """A list at the download's own origin needs the same token, and it is fetched once for both."""
    provider, listing = Provider(), "mem://home/list"
    mem = server(home=Reply(BYTES, token="token1"))
    mem.site(listing, Reply(f"{URL}\n".encode(), token="token1"))
    async with context_of(mem, BearerToken(provider), MirrorList(listing)) as context:
        await run(context)
    assert [each.header("Authorization") for each in mem.log] == ["Bearer token1"] * 2
    assert provider.calls == 1


async def test_a_given_origin_is_the_only_one():
    """“*origin* is a URL of the origin that the token is for”: other downloads of the context get none."""
    mem = server(home=Reply(BYTES, token="token1"), away=Reply(BYTES))
    async with context_of(mem, BearerToken(Provider(), origin="mem://home/whatever")) as context:
        await run(context)
        await run(context, "mem://away/file")
    assert [each.header("Authorization") for each in mem.log] == ["Bearer token1", None]


async def test_a_given_origin_may_be_that_of_a_mirror():
    """A token for a mirror goes to the mirror, and not to the download's own origin."""
    mem = server(m1=Reply(BYTES, token="token2"), home=Reply(BYTES))
    token = BearerToken(Provider(), origin="mem://m1/")
    async with context_of(mem, Mirrors((URL.replace("home", "gone"), "mem://m1/file")), token) as context:
        result, _ = await run(context)
    assert [each.header("Authorization") for each in mem.log] == [None, "Bearer token1", "Bearer token2"]
    assert result.attempts == 3


async def test_a_401_of_another_origin_renews_nothing():
    """“Answers errors `tryfirst` for the 401 of its own origin”: a mirror's 401 is the mirror's."""
    provider = Provider()
    mem = server(m1=Reply(token="theirs"), home=Reply(BYTES, token="token1"))
    async with context_of(mem, BearerToken(provider), Mirrors((URL, "mem://m1/file"))) as context:
        mem.site(URL, Reply(status=404))
        with pytest.raises(Exception, match="401"):
            await run(context)
    assert provider.calls == 1
    assert mem.urls == [URL, "mem://m1/file"]


async def test_a_401_behind_a_redirect_renews_nothing():
    """The 401 of a redirect's target of another origin is not for the token of ours."""
    provider = Provider()
    mem = server(home=Reply(location="mem://away/file"), away=Reply(token="theirs"))
    async with context_of(mem, BearerToken(provider)) as context:
        with pytest.raises(AccessDenied):
            await run(context)
    assert provider.calls == 1


async def test_two_remotes_share_no_token():
    """“So that two remotes never share a token by accident”, even at one origin; equal plugins do share."""
    one, two = Provider(), Provider()
    mem = server(home=Reply(BYTES))
    async with context_of(mem) as context:
        for provider in (one, two, one, two):
            await run(context, plugins=[BearerToken(provider)])
    assert (one.calls, two.calls) == (1, 1)


# What a provider may do wrong


class Empty:
    def __repr__(self) -> str:
        return "a thing"


@pytest.mark.parametrize("value", [None, b"token", 5, "", Empty()], ids=repr)
async def test_what_is_no_token_is_refused(value):
    """A provider "returns the token as a str"; what else it returned is told by type, never by value."""
    async with context_of(server(home=Reply(BYTES)), BearerToken(lambda: value)) as context:
        with pytest.raises(PluginError, match=rf"BearerToken\.prepare failed: TypeError.*{type(value).__name__}"):
            await run(context)


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "a\0"])
async def test_a_token_with_a_line_break_is_refused(token):
    """A token cannot smuggle a header in, and is not shown."""
    mem = server(home=Reply(BYTES))
    async with context_of(mem, BearerToken(lambda: token)) as context:
        with pytest.raises(PluginError) as caught:
            await run(context)
    assert "Evil" not in str(caught.value)
    assert mem.log == []


async def test_a_provider_that_fails_is_a_plugin_error_and_asked_again():
    """What it raised is told; the failure is forgotten, so the next download asks again."""
    outcomes = [RuntimeError("no route to the token service"), "token"]

    def provider() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    mem = server(home=Reply(BYTES, token="token"))
    async with context_of(mem, BearerToken(provider)) as context:
        with pytest.raises(PluginError, match=r"BearerToken\.prepare failed: RuntimeError: no route"):
            await run(context)
        await run(context)


async def test_a_provider_may_fail_with_an_error_of_the_tree():
    """A token service that is busy is waited for like any server."""
    outcomes = [ServerError("busy", code=503), "token"]

    async def provider() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    mem = server(home=Reply(BYTES, token="token"))
    async with context_of(mem, BearerToken(provider)) as context:
        result, _ = await run(context)
    assert [type(each.error) for each in result.history] == [ServerError]


def test_a_provider_is_a_function():
    """A token instead of a function that returns it is refused at once, and not shown."""
    with pytest.raises(TypeError, match="takes a function") as caught:
        BearerToken("secret")
    assert "secret" not in str(caught.value)


def test_the_provider_is_in_no_repr():
    """A closure's repr may tell more than is wanted."""
    assert "lambda" not in repr(BearerToken(lambda: "secret"))


async def test_the_token_is_in_nothing_that_is_shown(caplog):
    """“They appear in no repr, log line, exception, pickle or event”."""
    caplog.set_level(0)
    mem, ledger = server(home=Reply(token="never")), Ledger()
    states = []

    class Looks(Ledger):
        @hookimpl
        async def validate(self, transfer):
            states.append(repr(transfer.request))

    async with context_of(mem, BearerToken(lambda: "s3cr3t"), ledger, Looks()) as context:
        with pytest.raises(AccessDenied) as caught:
            await run(context)
        mem.site(URL, Reply(BYTES, token="s3cr3t"))
        result, _ = await run(context)
    told = (caught.value, caught.value.history, result, result.history, ledger.outcomes, states, mem.log[-1].request)
    assert "s3cr3t" not in repr(told) + str(caught.value) + caplog.text


# Together with mirrors

M = [f"mem://m{number}/file" for number in range(1, 6)]


@pytest.mark.parametrize("form", ["download", "context", "both"])
@pytest.mark.parametrize("swapped", [False, True], ids=["token first", "mirrors first"])
@pytest.mark.parametrize("connections", [1, 10])
async def test_both_in_either_order(swapped, form, connections):
    """“So they compose in any order”: m1 404; m2 401, then cut with the new token; m3 reset; m4 wrong; m5 good."""
    provider = Provider()
    token, mirrors = BearerToken(provider, origin=M[1]), MirrorList(LIST)
    plugins = [mirrors, token] if swapped else [token, mirrors]
    mine, ours = {"download": (plugins, []), "context": ([], plugins), "both": (plugins[:1], plugins[1:])}[form]
    mem = MemDriver()
    mem.site(LIST, Reply("\n".join(M).encode()))
    mem.site(M[1], Reply(token="token2"), Reply(BYTES, token="token2", cut=100_000))
    mem.site(M[2], Reply(BYTES, cut=150_000))
    mem.site(M[3], Reply(bytes(len(BYTES))))
    mem.site(M[4], Reply(BYTES))
    async with context_of(mem, *ours, connections=connections) as context:
        result, content = await asyncio.wait_for(run(context, plugins=mine, digests=DIGEST), 10)
        assert context.connections_in_use == 0
    assert content == BYTES
    assert provider.calls == 2
    assert [each.source for each in result.history][:4] == [M[0], M[1], M[1], M[2]]
    assert result.source == M[4]
    errors = [NotFound, AccessDenied, Truncated, Truncated, DigestMismatch]
    assert [type(each.error) for each in result.history] == errors
    assert [each.repaired_by for each in result.history] == [
        "MirrorList", "BearerToken", "MirrorList", "MirrorList", "MirrorList",
    ]  # fmt: skip
    assert [each.kept for each in result.history] == [0, 0, 100_000, 150_000, 0]
    # m4 continues on the digest's word, is wrong, and so is asked once more from 0.
    assert [(each.url, each.offset) for each in mem.log] == [
        (LIST, 0), (M[0], 0), (M[1], 0), (M[1], 0), (M[2], 100_000), (M[3], 150_000), (M[3], 0), (M[4], 0),
    ]  # fmt: skip
    sent = [each.header("Authorization") for each in mem.log]
    assert sent == [None, None, "Bearer token1", "Bearer token2", None, None, None, None]


async def test_a_list_that_needs_the_token_that_needs_the_list():
    """A provider that needs what needs it is told of the circle."""

    class Circular(BearerToken):
        """Fetches its token from beside the file, by a nested download."""

        @hookimpl(trylast=True)
        async def prepare(self, transfer):
            async def load():
                writer = BufferWriter()
                await transfer.nested(self, "mem://home/token", writer).run()
                return writer.content()

            await transfer.context.once(self, "token", load)

    mem = MemDriver()
    mem.site(LIST, Reply(b"mem://m1/"))
    async with context_of(mem, MirrorList(LIST, replaces="mem://home/"), Circular(Provider())) as context:
        with pytest.raises(PluginError, match="circle") as caught:
            await asyncio.wait_for(run(context), 5)
    assert "MirrorList" in str(caught.value)
    assert "Circular" in str(caught.value)
    assert not isinstance(caught.value, PreparationError)


async def test_retries_come_last():
    """A new token is had before anybody waits for another round."""
    provider = Provider()
    mem = server(home=Reply(BYTES, token="token2"))
    async with context_of(mem, Retries(base=1000), BearerToken(provider)) as context:
        result, _ = await asyncio.wait_for(run(context), 5)
    assert [each.round for each in result.history] == [1]
