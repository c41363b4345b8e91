"""Tokens: fetched once, sent within one reach, renewed once, before they expire; and together with mirrors."""

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
from downhaul.plugins import BearerToken, HeaderToken, MirrorList, Token

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


async def test_one_refresh_for_a_hundred_401s():
    """“So one expired token is refreshed once”: however many downloads meet the 401."""
    provider = Provider()
    mem = server(home=Reply(BYTES, token="token1"))
    async with context_of(mem, BearerToken(provider), connections=100, connections_per_origin=100) as context:
        await run(context)
        mem.site(URL, Reply(BYTES, token="token2"))
        mem.log.clear()
        results = await asyncio.gather(*(run(context) for _ in range(100)))
    assert provider.calls == 2
    assert [result.attempts for result, _ in results] == [2] * 100
    assert [len(result.history) for result, _ in results] == [1] * 100
    assert len(mem.log) == 200
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


@pytest.mark.parametrize("failure", [ServerError("down", code=503), RuntimeError("down")], ids=repr)
async def test_a_failed_refresh_is_the_failure_of_all(failure):
    """A hundred downloads with one expired token: the provider is asked once more, and all fail for what it said.

    Half of them hear of the 401 when the renewal has failed already.
    """
    outcomes, gate = ["token1", failure], asyncio.Event()

    async def provider() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    mem = server(home=Reply(token="token2"))
    mem.site("mem://home/slow", Reply(token="token2", gate=gate))
    async with context_of(mem, BearerToken(provider), connections_per_origin=100, retries=0) as context:
        late = [asyncio.create_task(run(context, "mem://home/slow")) for _ in range(50)]
        await until(lambda: mem.live == 50)
        early = [asyncio.create_task(run(context)) for _ in range(50)]
        await asyncio.wait(early)
        gate.set()
        errors = await asyncio.gather(*early, *late, return_exceptions=True)
    assert outcomes == []
    if isinstance(failure, ServerError):
        assert {(type(error), str(error)) for error in errors} == {(ServerError, "down")}
    else:
        assert {type(error) for error in errors} == {PluginError}
        assert all("RuntimeError: down" in str(error) for error in errors)
    assert len(set(map(id, errors))) == 100


async def test_a_failed_refresh_does_not_stay():
    """Who comes afterwards asks anew, and then those that come late with the old token have the new one, too."""
    outcomes, gate = ["token1", ServerError("down", code=503), "token3"], asyncio.Event()

    async def provider() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    mem = server(home=Reply(BYTES, token="token3"))
    mem.site("mem://home/slow", Reply(BYTES, token="token3", gate=gate))
    async with context_of(mem, BearerToken(provider), retries=0) as context:
        late = asyncio.create_task(run(context, "mem://home/slow"))
        await until(lambda: mem.live)
        with pytest.raises(ServerError):
            await run(context)
        assert (await run(context))[1] == BYTES
        gate.set()
        assert (await late)[1] == BYTES
    assert outcomes == []


async def test_a_refresh_that_brings_the_same_token_is_one_refresh():
    """A server that has no other token is asked once more, not once for each download, late ones included."""
    calls, gate = [], asyncio.Event()

    def provider() -> str:
        calls.append(1)
        return "same"

    mem = server(home=Reply(token="never"))
    mem.site("mem://home/slow", Reply(token="never", gate=gate))
    async with context_of(mem, BearerToken(provider), connections_per_origin=100) as context:
        late = [asyncio.create_task(run(context, "mem://home/slow")) for _ in range(50)]
        await until(lambda: mem.live == 50)
        early = [asyncio.create_task(run(context)) for _ in range(50)]
        await until(lambda: len(mem.asked(URL)) == 100)
        gate.set()
        errors = await asyncio.gather(*early, *late, return_exceptions=True)
    assert {type(error) for error in errors} == {AccessDenied}
    assert len(calls) == 2


# Expiry


class Clock:
    """The clock of what is shared, to be put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("downhaul._once.time", self)

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(("expires", "sent_for"), [(2, 1.5), (40, 30), (240, 180), (3600, 3540)])
async def test_a_token_is_renewed_before_it_expires(expires, sent_for, monkeypatch):
    """A token is sent until a minute before its end, or a quarter of its life; no 401 is needed to have another."""
    clock, provider = Clock(monkeypatch), Provider()

    async def expiring() -> Token:
        return Token(await provider(), expires)

    mem = server(home=Reply(BYTES))
    async with context_of(mem, BearerToken(expiring)) as context:
        for after in (0, sent_for - 0.01, 0.02):
            clock.now += after
            assert (await run(context))[0].attempts == 1
    assert [each.header("Authorization") for each in mem.log] == ["Bearer token1", "Bearer token1", "Bearer token2"]


async def test_a_token_without_an_end_stays(monkeypatch):
    """“None: until it is refused”."""
    clock, provider = Clock(monkeypatch), Provider()
    mem = server(home=Reply(BYTES))
    async with context_of(mem, BearerToken(provider)) as context:
        for _ in range(3):
            await run(context)
            clock.now += 1e9
    assert provider.calls == 1


async def test_a_token_that_has_expired_already_is_for_those_who_wait():
    """A server whose tokens are good for no time is asked anew each time, and what it gives is sent."""
    provider = Provider()

    async def expired() -> Token:
        return Token(await provider(), 0)

    mem = server(home=Reply(BYTES))
    async with context_of(mem, BearerToken(expired)) as context:
        await asyncio.gather(run(context), run(context))
        await run(context)
    sent = [each.header("Authorization") for each in mem.log]
    assert sent == ["Bearer token1", "Bearer token1", "Bearer token2"]


async def test_one_token_alone():
    """A str in the place of a provider is sent; refused, it is not sent again: there is no other."""
    mem = server(home=Reply(BYTES, token="only"))
    async with context_of(mem, BearerToken("only")) as context:
        assert (await run(context))[1] == BYTES
        mem.site(URL, Reply(token="another"))
        with pytest.raises(AccessDenied):
            await run(context)
    assert [each.header("Authorization") for each in mem.log] == ["Bearer only"] * 2


def test_what_is_no_token():
    """What cannot stand in a header field is refused, and not repeated; so is a time that is none."""
    for value in ("", " secret", "secret\n", "se\x00cret", "se\rcret"):
        for make in (Token, BearerToken, lambda value: HeaderToken("X-Key", value)):
            with pytest.raises(ValueError, match="not empty, and holds no line break") as caught:
                make(value)
            assert "cret" not in str(caught.value)
    with pytest.raises(ValueError, match="no blanks") as caught:
        BearerToken("Bearer secret")
    assert "secret" not in str(caught.value)
    for expires in (-1, float("nan"), True, "60"):
        with pytest.raises(ValueError, match="seconds from now"):
            Token("secret", expires)
    with pytest.raises(TypeError, match="not bytes"):
        Token(b"secret")


def test_values():
    """Equal are plugins with equal tokens; none of them shows one."""
    for make in (Token, BearerToken, lambda value: HeaderToken("X-Key", value)):
        assert make("secret1") == make("secret1")
        assert hash(make("secret1")) == hash(make("secret1"))
        assert make("secret1") != make("secret2")
        assert "secret" not in repr(make("secret1"))
    assert BearerToken("secret", within="https://a") != BearerToken("secret")
    assert repr(HeaderToken("X-Key", "secret", within="https://a/b")) == (
        "HeaderToken(within='https://a/b', name='X-Key')"
    )


# HeaderToken


async def test_a_token_in_a_field_of_its_own():
    """`HeaderToken` sends the value as it is, and has it renewed like any other."""
    provider = Provider()
    mem = server(home=Reply(error=AccessDenied("401", code=401)))
    mem.site(URL, Reply(error=AccessDenied("401", code=401)), Reply(BYTES))
    async with context_of(mem, HeaderToken("PRIVATE-TOKEN", provider)) as context:
        await run(context)
    assert [each.header("private-token") for each in mem.log] == ["token1", "token2"]


async def test_an_authorization_of_another_scheme():
    """Authorization is a field like any other, for schemes that have no plugin; its value may have blanks."""
    mem = server(home=Reply(BYTES))
    async with context_of(mem, HeaderToken("Authorization", "Token secret")) as context:
        await run(context)
    assert mem.log[0].header("Authorization") == "Token secret"


@pytest.mark.parametrize("ours", ["X-Api-Key", "x-api-key", "X-API-KEY"])
@pytest.mark.parametrize("theirs", ["X-Api-Key", "x-aPI-key"])
async def test_the_case_of_a_name_does_not_matter(ours, theirs):
    """A field that the settings have, too, is sent once, with the token; elsewhere neither is."""
    mem = server(home=Reply(location="mem://away/file"), away=Reply(BYTES))
    async with context_of(mem, HeaderToken(ours, "token"), headers={theirs: "setting"}) as context:
        await run(context)
    first, second = ([pair for pair in each.request.fields() if pair[0].lower() == "x-api-key"] for each in mem.log)
    assert first == [(ours, "token")]
    assert second == []


@pytest.mark.parametrize("name", ["", "X Key", "X-Key:", "X-Kéy", "X\r\nEvil", None, 5])
def test_what_is_no_name_of_a_field(name):
    """RFC 9110, section 5.1."""
    with pytest.raises(ValueError, match="the name of a header field"):
        HeaderToken(name, "token")


@pytest.mark.parametrize(
    "name", ["Host", "range", "Content-Length", "TRANSFER-ENCODING", "If-Range", "Accept-Encoding"]
)
def test_fields_that_say_something_else(name):
    """A token there would change what is asked, or how."""
    with pytest.raises(ValueError, match="no place for a token"):
        HeaderToken(name, "token")


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
    """“*within* is the URL of either”: other downloads of the context get none."""
    mem = server(home=Reply(BYTES, token="token1"), away=Reply(BYTES))
    async with context_of(mem, BearerToken(Provider(), within="MEM://Home")) as context:
        await run(context)
        await run(context, "mem://away/file")
    assert [each.header("Authorization") for each in mem.log] == ["Bearer token1", None]


async def test_a_given_origin_may_be_that_of_a_mirror():
    """A token for a mirror goes to the mirror, and not to the download's own origin."""
    mem = server(m1=Reply(BYTES, token="token2"), home=Reply(BYTES))
    token = BearerToken(Provider(), within="mem://m1/")
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


@pytest.mark.parametrize("given", [None, b"secret", 5, Token("secret")], ids=lambda given: type(given).__name__)
def test_a_provider_is_a_function_or_a_token(given):
    """Whatever else is refused at once, and not shown."""
    for make in (BearerToken, lambda token: HeaderToken("X-Key", token)):
        with pytest.raises(TypeError, match="a token as a str, or a function") as caught:
            make(given)
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
    token, mirrors = BearerToken(provider, within=M[1]), MirrorList(LIST)
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
