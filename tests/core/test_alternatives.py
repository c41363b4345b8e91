"""Alternatives: where else the bytes can be had in this attempt, each with what it may know; and notes of failures."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace

import pytest
from tests.mem import MemDriver, Reply, context_of

from downhaul import AccessDenied, BufferWriter, ConnectError, Download, Plugin, PluginError, Retry, User, hookimpl

HOME = "mem://home/pub/file"


class Offers(Plugin):
    """Offers *urls*, and aims at *aim*; keeps the alternatives as they are when the answer is asked for."""

    def __init__(self, *urls: str, aim: str | None = None) -> None:
        self.urls, self.aim, self.seen = urls, aim, []

    @hookimpl
    async def prepare(self, transfer):
        transfer.offer(self.urls)

    @hookimpl(tryfirst=True)
    def fetch(self, transfer):
        self.seen.append(transfer.alternatives)


class Grants(Plugin):
    """Gives a header to what is in *scope*."""

    def __init__(self, scope: str, value: str = "secret") -> None:
        self.scope, self.value, self.goes = scope, value, []

    @hookimpl(trylast=True)
    async def prepare(self, transfer):
        self.goes.append(transfer.goes_to(self.scope))
        transfer.authorize(self.scope, [("X-Key", self.value)])


async def run(*plugins: object, **options: object):
    """Download HOME with *plugins*."""
    mem = MemDriver()
    mem.site(HOME, Reply(b"bytes"))
    async with context_of(mem, *plugins) as context:
        return await Download(HOME, BufferWriter(), context=context, **options).run(), mem


async def test_alternatives_are_requests_with_their_own_credentials():
    """Each has the credentials of its own origin and path, those of the home only where it is at home."""
    offers = Offers("mem://a/pub/file", "mem://home/other/file", "mem://u:p@b/file")
    await run(offers, Grants("mem://a/pub/"), headers={"X-Own": "mine"})
    a, home, b = offers.seen[0]
    assert (a.url, a.fields()) == ("mem://a/pub/file", (("X-Key", "secret"),))
    assert (home.url, home.fields()) == ("mem://home/other/file", (("X-Own", "mine"),))
    assert (b.url, b.fields(), b.user) == ("mem://b/file", (), User("u", "p"))


async def test_what_may_not_be_asked_is_no_alternative():
    """A forbidden scheme, one that nobody speaks, and what is no URL are left out."""
    offers = Offers("file:///etc/passwd", "gopher://a/file", "no url", "mem://a/file")
    await run(offers, schemes=["mem", "gopher"])
    assert [each.url for each in offers.seen[0]] == ["mem://a/file"]


async def test_they_are_of_one_attempt():
    """Before each attempt they are emptied, and so are the credentials that were given."""

    class First(Plugin):
        def __init__(self):
            self.seen = []

        @hookimpl
        async def prepare(self, transfer):
            if transfer.attempt == 1:
                transfer.offer(["mem://a/file"])
                transfer.authorize("mem://home", [("X-Key", "first")])

        @hookimpl(tryfirst=True)
        def fetch(self, transfer):
            self.seen.append((transfer.alternatives, transfer.request.fields()))
            if transfer.attempt == 1:
                raise ConnectError("the first is lost")

    plugin = First()
    await run(plugin)
    assert [(len(alternatives), fields) for alternatives, fields in plugin.seen] == [
        (1, (("X-Key", "first"),)),
        (0, ()),
    ]


async def test_a_credential_goes_to_its_scope_only():
    """`authorize` is the one place: what the scope does not cover gets nothing, and `goes_to` tells beforehand."""
    near, path, far = Grants("mem://home/"), Grants("mem://home/private/"), Grants("mem://far/")
    _, mem = await run(near, path, far)
    assert [each.goes for each in (near, path, far)] == [[True], [False], [False]]
    assert mem.log[0].header("X-Key") == "secret"
    for plugin in (path, far):
        _, mem = await run(plugin)
        assert mem.log[0].header("X-Key") is None


@pytest.mark.parametrize("call", ["offer", "authorize"])
async def test_elsewhere_than_in_prepare_they_are_refused(call: str):
    """Later nobody would heed them."""

    class Late(Plugin):
        @hookimpl
        async def validate(self, transfer):
            transfer.offer([]) if call == "offer" else transfer.authorize("mem://home")

    with pytest.raises(PluginError, match="in prepare only"):
        await run(Late())


async def test_a_note_stands_in_the_history():
    """What failed and was made good within an attempt is told like a failed attempt, and is none."""

    class Noting(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            transfer.note(ConnectError("nobody listens"), "mem://a/file")

    result, _ = await run(Noting())
    assert result.attempts == 1
    [note] = result.history
    assert (note.source, str(note.error), note.error.source) == ("mem://a/file", "nobody listens", "mem://a/file")


class Challenged(Plugin):
    """Answers every 401 with another try, and remembers the challenges."""

    def __init__(self):
        self.challenges = []

    @hookimpl(tryfirst=True)
    async def error(self, transfer, error):
        if isinstance(error, AccessDenied):
            self.challenges.append(error.headers.get("WWW-Authenticate"))
            return Retry()
        return None


@pytest.mark.parametrize(
    ("challenges", "tries"),
    [
        (["A", "A", "A", "A"], 2),
        (["A", "B", "B", "B"], 3),
        (["A", "B", "C", "D"], 3),
        ([None, None, None], 2),
    ],
)
async def test_tries_after_a_401(challenges: list[str | None], tries: int):
    """One more after a 401, and a last one after another challenge: a scope may have to be upgraded."""
    mem = MemDriver()
    replies = [
        Reply(error=AccessDenied("401", 401, headers={} if each is None else {"WWW-Authenticate": each}))
        for each in challenges
    ]
    mem.site(HOME, *replies)
    plugin = Challenged()
    async with context_of(mem, plugin) as context:
        with pytest.raises(AccessDenied):
            await Download(HOME, BufferWriter(), context=context).run()
    assert len(mem.log) == tries


async def test_a_403_without_a_challenge_is_the_end():
    """No other credentials will do; with a challenge (insufficient_scope, RFC 6750, section 3.1) they may."""
    for headers, tries in (({}, 1), ({"WWW-Authenticate": 'Bearer error="insufficient_scope"'}, 2)):
        mem = MemDriver()
        mem.site(HOME, Reply(error=AccessDenied("403", 403, headers=headers)))
        async with context_of(mem, Challenged()) as context:
            with pytest.raises(AccessDenied):
                await Download(HOME, BufferWriter(), context=context).run()
        assert len(mem.log) == tries


class Opens(Plugin):
    """Answers by opening *url*, or what was asked for."""

    def __init__(self, url: str | None = None) -> None:
        self.url = url

    @hookimpl(tryfirst=True)
    def fetch(self, transfer):
        return transfer.open(self, replace(transfer.request, url=self.url or transfer.request.url))


class Sees(Plugin):
    """Notes a failure where it is asked, and which alternatives there are."""

    def __init__(self) -> None:
        self.seen = []

    @hookimpl
    def fetch(self, transfer):
        self.seen.append(len(transfer.alternatives))
        transfer.note(ConnectError("nobody listens"), "mem://a/file")


async def test_a_note_from_within_an_answer_stands_in_the_history_too():
    """Who is asked by another plugin notes for the transfer, and has its alternatives only for the file itself."""
    for opened, alternatives in ((None, 1), ("mem://home/pub/other", 0)):
        sees, mem = Sees(), MemDriver()
        for url in (HOME, "mem://home/pub/other"):
            mem.site(url, Reply(b"bytes"))
        async with context_of(mem, Offers("mem://a/file"), Opens(opened), sees) as context:
            result = await Download(HOME, BufferWriter(), context=context).run()
        assert sees.seen == [alternatives]
        assert [each.source for each in result.history] == ["mem://a/file"]


async def test_a_transfer_does_not_hold_itself():
    """When its download has ended it is freed at once, without the collector, and whatever it held with it."""
    held = []

    class Weak(Plugin):
        @hookimpl
        def done(self, transfer, outcome):
            held.append(weakref.ref(transfer))

    gc.collect()
    gc.disable()
    try:
        await run(Weak())
        await asyncio.sleep(0)
        assert held[0]() is None
    finally:
        gc.enable()
