"""More bytes for a plugin: `transfer.nested`, another download, and `transfer.open`, another request of this one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.mem import Ledger, MemDriver, Reply, context_of

from downhaul import (
    TLS,
    BufferWriter,
    Credentials,
    Download,
    Headers,
    Info,
    NotFound,
    Payload,
    Plugin,
    PluginError,
    PreparationError,
    Request,
    Result,
    Retry,
    ServerError,
    SizeValidation,
    Timeout,
    User,
    hookimpl,
)

if TYPE_CHECKING:
    from collections.abc import Callable

URL, NEAR, FAR = "mem://home/file", "mem://home/list", "mem://away/list"
BYTES = bytes(range(256)) * 1000


@dataclass(frozen=True, eq=False)
class Asks(Plugin):
    """Runs a nested download before the first attempt."""

    url: str
    got: list[bytes] = field(default_factory=list)

    @hookimpl
    async def prepare(self, transfer):
        if transfer.attempt == 1:
            writer = BufferWriter()
            await transfer.nested(self, self.url, writer).run()
            self.got.append(writer.content())


def server() -> MemDriver:
    """Return a driver that has the file, and two lists."""
    mem = MemDriver()
    mem.site(URL, Reply(BYTES))
    mem.site(NEAR, Reply(b"near"))
    mem.site(FAR, Reply(b"far"))
    return mem


async def test_a_nested_download_runs_and_its_parent_goes_on():
    """“`transfer.nested(self, url, writer)`: another download”."""
    mem, plugin = server(), Asks(NEAR)
    async with context_of(mem, plugin) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert plugin.got == [b"near"]
    assert mem.urls == [NEAR, URL]


async def test_it_works_with_one_connection():
    """No slot is held in prepare, so one connection is enough."""
    mem = server()
    async with context_of(mem, Asks(NEAR), connections=1) as context:
        await asyncio.wait_for(Download(URL, BufferWriter(), context=context).run(), 5)
    assert mem.peak == 1


class Witness(Plugin):
    """Writes down every transfer that it sees."""

    def __init__(self) -> None:
        self.prepared: list[Any] = []
        self.ended: list[tuple[Any, object]] = []

    @hookimpl
    async def prepare(self, transfer):
        self.prepared.append(transfer)

    @hookimpl
    def done(self, transfer, outcome):
        self.ended.append((transfer, outcome))


async def test_it_has_the_plugins_of_both_owners_less_the_asker():
    """“With this one's settings and plugins, … less `self`”: the download's and the context's."""
    mine, ours, mem, asks = Witness(), Witness(), server(), Asks(NEAR)
    async with context_of(mem, ours, asks) as context:
        await Download(URL, BufferWriter(), context=context, plugins=[mine]).run()
    for witness in (mine, ours):
        assert [each.download.url for each in witness.prepared] == [URL, NEAR]
    assert len(asks.got) == 1  # it did not ask for a list of its list


async def test_parent_is_set_and_done_is_called_for_both():
    """“`parent` (of a nested one)”; `done` is called for each transfer, the nested one first."""
    witness = Witness()
    async with context_of(server(), witness, Asks(NEAR)) as context:
        await Download(URL, BufferWriter(), context=context, attachment="mine").run()
    (nested, nested_outcome), (outer, outcome) = witness.ended
    assert nested.parent is outer
    assert outer.parent is None
    assert isinstance(nested_outcome, Result)
    assert isinstance(outcome, Result)
    assert (nested_outcome.attachment, outcome.attachment) == (None, "mine")


async def test_it_has_neither_validations_nor_digests_nor_attachment_nor_condition():
    """“… less validations, attachment”: what is true of the file says nothing of the list."""
    witness, mem = Witness(), server()
    async with context_of(mem, witness, Asks(NEAR)) as context:
        await Download(
            URL, BufferWriter(), context=context, attachment="mine", digests=["sha256"],
            validations=[SizeValidation(len(BYTES))],
        ).run()  # fmt: skip
    nested = witness.ended[0][0].download
    assert (nested.validations, nested.digests, nested.attachment, nested.unless) == ((), (), None, None)


SECRET = {
    "headers": {"X-Api-Key": "secret", "User-Agent": "me", "Accept-Language": "eo"},
    "user": User("elmer", "secret"),
    "tls": TLS(client_certificate="c.pem", client_key="k.pem", verify=False),
    "timeout": Timeout(read=7),
    "retries": 1,
}


async def test_credentials_go_to_the_same_origin():
    """A list at the download's own origin gets what the download's origin gets."""
    mem = server()
    async with context_of(mem, Asks(NEAR)) as context:
        await Download(URL, BufferWriter(), context=context, **SECRET).run()
    for asked in mem.log:
        assert asked.header("X-Api-Key") == "secret"
        assert asked.header("User-Agent") == "me"
        assert asked.request.entitled.user == SECRET["user"]
        assert asked.settings.tls == SECRET["tls"]
        assert asked.settings.timeout == SECRET["timeout"]


async def test_credentials_do_not_go_to_another_origin():
    """“Credentials, tokens, client certificates and every header set by the user (save …) are scoped to the origin”."""
    mem = server()
    async with context_of(mem, Asks(FAR)) as context:
        await Download(URL, BufferWriter(), context=context, **SECRET).run()
    far, home = mem.log
    assert far.url == FAR
    assert far.header("X-Api-Key") is None
    assert far.header("User-Agent") == "me"
    assert far.request.credentials is None
    assert far.settings.user is None
    assert (far.settings.tls.client_certificate, far.settings.tls.client_key) == (None, None)
    assert far.settings.tls.verify is False
    assert far.settings.timeout == SECRET["timeout"]
    assert home.header("X-Api-Key") == "secret"


async def test_userinfo_of_the_url_does_not_go_to_another_origin():
    """Userinfo is a credential of its URL's origin."""
    mem = server()
    async with context_of(mem, Asks(FAR)) as context:
        await Download("mem://elmer:secret@home/file", BufferWriter(), context=context).run()
    assert mem.log[0].request.credentials is None
    assert mem.log[1].request.entitled.user == User("elmer", "secret")


async def test_a_clone_of_a_nested_download_takes_no_credentials_elsewhere():
    """Cloning with another URL is no way around the scope of credentials."""

    class Clones(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            await transfer.nested(self, NEAR, BufferWriter()).clone(url=FAR).run()

    mem = server()
    async with context_of(mem, Clones()) as context:
        await Download(URL, BufferWriter(), context=context, **SECRET).run()
    far = mem.asked(FAR)[0]
    assert far.header("X-Api-Key") is None
    assert far.request.entitled is None or far.request.entitled.user is None
    assert far.settings.tls.client_certificate is None


async def test_its_failure_is_a_preparation_error_and_not_the_downloads():
    """“Its failure reaches the parent as PreparationError(cause)”: the list's 404 is not the file's."""
    mem, ledger = server(), Ledger()
    mem.site(NEAR, Reply(status=404))
    async with context_of(mem, Asks(NEAR), ledger) as context:
        with pytest.raises(PreparationError) as caught:
            await Download(URL, BufferWriter(), context=context, attachment="mine").run()
    error = caught.value
    assert isinstance(error.cause, NotFound)
    assert not isinstance(error, NotFound)
    assert "NotFound" in str(error)
    assert NEAR in str(error)
    assert (error.url, error.attachment, error.transient) == (URL, "mine", False)
    assert (error.cause.url, error.cause.attachment) == (NEAR, None)
    assert [type(each) for each in ledger.outcomes] == [NotFound, PreparationError]
    assert mem.urls == [NEAR]


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_a_list_that_answers_503_is_asked_so_often_and_not_squared(retries):
    """“Never transient”: the nested download has had its rounds, the parent adds none."""
    mem = server()
    mem.site(NEAR, Reply(status=503))
    async with context_of(mem, Asks(NEAR), retries=retries) as context:
        with pytest.raises(PreparationError) as caught:
            await Download(URL, BufferWriter(), context=context).run()
    assert isinstance(caught.value.cause, ServerError)
    assert mem.urls == [NEAR] * (retries + 1)


async def test_its_failure_may_be_repaired():
    """A PreparationError goes the way of errors: a plugin may know a way without."""

    class Without(Plugin):
        @hookimpl
        async def error(self, transfer, error):
            return Retry() if isinstance(error, PreparationError) else None

    mem = server()
    mem.site(NEAR, Reply(status=404))
    async with context_of(mem, Asks(NEAR), Without()) as context:
        result = await Download(URL, BufferWriter(), context=context).run()
    assert [type(each.error) for each in result.history] == [PreparationError]


class Streams(Plugin):
    """Reads a nested download as a stream: no writer is needed."""

    @hookimpl
    async def prepare(self, transfer):
        async with transfer.nested(self, NEAR).stream() as stream:
            self.got = b"".join([bytes(block) async for block in stream])


async def test_it_may_be_streamed():
    """A nested download without a writer is a stream."""
    plugin = Streams()
    async with context_of(server(), plugin) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert plugin.got == b"near"


@pytest.mark.parametrize("status", [404, 503])
async def test_the_failure_of_a_nested_stream_is_a_preparation_error(status):
    """A failure reaches the parent as PreparationError however the nested download is run."""
    mem = server()
    mem.site(NEAR, Reply(status=status))
    async with context_of(mem, Streams(), retries=1) as context:
        with pytest.raises(PreparationError):
            await Download(URL, BufferWriter(), context=context).run()
    assert len(mem.log) == (1 if status == 404 else 2)


async def test_a_list_under_the_prefix_that_it_replaces_works():
    """“Only `self` is left out, not its callers: so a mirror list under the very prefix that it replaces works”."""

    @dataclass(frozen=True)
    class Replaces(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            writer = BufferWriter()
            await transfer.nested(self, NEAR, writer).run()
            mirror = writer.content().decode()
            transfer.request = replace(transfer.request, url=transfer.request.url.replace("mem://home", mirror))

    mem = server()
    mem.site(NEAR, Reply(b"mem://mirror"))
    mem.site("mem://mirror/file", Reply(BYTES))
    async with context_of(mem, Replaces()) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert mem.urls == [NEAR, "mem://mirror/file"]


async def test_callers_callers_take_part_again():
    """Only who asks is left out: in the list of a list, the first asker is there again."""
    inner, log = "mem://home/inner", []

    @dataclass(frozen=True)
    class Once(Plugin):
        name: str
        needs: str
        when: str

        @hookimpl
        async def prepare(self, transfer):
            log.append((self.name, transfer.download.url))
            if transfer.download.url == self.when:
                await transfer.nested(self, self.needs, BufferWriter()).run()

    mem = server()
    mem.site(inner, Reply(b"inner"))
    async with context_of(mem, Once("a", NEAR, URL), Once("b", inner, NEAR)) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert log == [("a", URL), ("b", NEAR), ("a", inner), ("b", URL)]


def around(act: Callable[[Plugin, Any, Payload], Any], where: str) -> Plugin:
    """Return a wrapper that calls *act* inside of the driver's answer."""

    class Inside(Plugin):
        @hookimpl(wrapper=True)
        def fetch(self, transfer):
            return self.around(transfer, (yield))

        @asynccontextmanager
        async def around(self, transfer, answer):
            async with answer as payload:
                if where == "enter":
                    await act(self, transfer, payload)
                yield replace(payload, body=self.pass_on(transfer, payload)) if where == "body" else payload
                if where == "leave":
                    await act(self, transfer, payload)

        async def pass_on(self, transfer, payload):
            async for block in payload.body:
                yield block
                await act(self, transfer, payload)

    return Inside()


async def nest(plugin, transfer, payload):
    """Run a nested download."""
    await transfer.nested(plugin, NEAR, BufferWriter()).run()


async def nest_stream(plugin, transfer, payload):
    """Stream a nested download."""
    async with transfer.nested(plugin, NEAR).stream():
        pass


async def ask(plugin, transfer, payload):
    """Open another request."""
    async with transfer.open(plugin, transfer.request):
        pass


@pytest.mark.parametrize("connections", [1, 10])
@pytest.mark.parametrize("act", [nest, nest_stream, ask])
@pytest.mark.parametrize("where", ["enter", "body", "leave"])
async def test_inside_of_a_drivers_answer_both_are_refused(act, where, connections):
    """“Neither may be called from inside an entered driver answer (PluginError, not a deadlock)”."""
    mem = server()
    async with context_of(mem, around(act, where), connections=connections) as context:
        with pytest.raises(PluginError, match="call it before entering") as caught:
            await asyncio.wait_for(Download(URL, BufferWriter(), context=context).run(), 5)
        assert context.connections_in_use == 0
    assert caught.value.__context__ is None
    assert mem.urls == [URL]


class Beforehand(Plugin):
    """Gets hold of what it wants before the driver's answer is entered, and uses it inside."""

    def __init__(self, what: str) -> None:
        self.what = what

    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        nested = transfer.nested(self, NEAR, BufferWriter())
        opened = transfer.open(self, replace(transfer.request, url=NEAR))
        return self.around((yield), nested, opened)

    @asynccontextmanager
    async def around(self, answer, nested, opened):
        async with answer as payload:
            if self.what == "nested":
                await nested.run()
            elif self.what == "stream":
                async with nested.stream():
                    pass
            else:
                async with opened:
                    pass
            yield payload


@pytest.mark.parametrize("what", ["nested", "open", "stream"])
async def test_calling_beforehand_is_no_way_around(what):
    """Entering it inside of a driver's answer would wait for a second slot: refused, with however many slots."""
    async with context_of(server(), Beforehand(what), connections=1) as context:
        with pytest.raises(PluginError, match="call it before entering"):
            await asyncio.wait_for(Download(URL, BufferWriter(), context=context).run(), 1)


async def test_two_answers_at_once_in_one_task_are_refused():
    """A plugin that holds one slot while it waits for another is told so, whatever the limit is."""

    class Both(Plugin):
        @hookimpl
        def fetch(self, transfer):
            return self.answer([transfer.open(self, transfer.request) for _ in range(2)])

        @asynccontextmanager
        async def answer(self, answers):
            async with AsyncExitStack() as stack:
                payloads = [await stack.enter_async_context(answer) for answer in answers]
                yield payloads[0]

    for connections in (1, 10):
        async with context_of(server(), Both(), connections=connections) as context:
            with pytest.raises(PluginError, match="call it before entering"):
                await asyncio.wait_for(Download(URL, BufferWriter(), context=context).run(), 1)


class Shelf(Plugin):
    """Answers plainly for one URL."""

    def __init__(self, url: str, content: bytes) -> None:
        self.url, self.content = url, content
        self.asked: list[Request] = []

    @hookimpl
    def fetch(self, transfer):
        self.asked.append(transfer.request)
        return self.answer() if transfer.request.url == self.url else None

    @asynccontextmanager
    async def answer(self):
        async def body():
            yield self.content

        yield Payload(Info(self.url, Headers(), len(self.content), proof="length"), body())


class Shouts(Plugin):
    """Wraps every answer."""

    def __init__(self) -> None:
        self.wrapped: list[str] = []

    @hookimpl(wrapper=True)
    def fetch(self, transfer):
        self.wrapped.append(transfer.request.url)
        return (yield)


class Opens(Plugin):
    """Answers with the bytes of another request."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.calls = 0

    @hookimpl(tryfirst=True)
    def fetch(self, transfer):
        self.calls += 1
        return transfer.open(self, replace(transfer.request, url=self.url))


async def test_open_asks_the_other_plugins_and_the_drivers():
    """“Answered by the other plugins' plain `fetch` hooks and the drivers”."""
    shelf, mem = Shelf("mem://shelf/book", b"book"), server()
    writer = BufferWriter()
    async with context_of(mem, shelf, Opens("mem://shelf/book")) as context:
        await Download(URL, writer, context=context).run()
        assert writer.content() == b"book"
        assert mem.log == []
    async with context_of(mem, shelf, Opens(NEAR)) as context:
        await Download(URL, writer, context=context).run()
    assert writer.content() == b"near"


async def test_open_leaves_out_wrappers_and_the_asker():
    """“Without wrappers (they wrap the asker's answer)”: once around the whole, never around the part."""
    shouts, opens = Shouts(), Opens(NEAR)
    async with context_of(server(), shouts, opens) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert shouts.wrapped == [URL]
    assert opens.calls == 1


async def test_open_does_not_retry():
    """“… and without retries”: a failed part is the failed attempt."""
    mem, ledger = server(), Ledger()
    mem.site(NEAR, Reply(status=503), Reply(b"near"))
    async with context_of(mem, Opens(NEAR), ledger, retries=1) as context:
        result = await Download(URL, BufferWriter(), context=context).run()
    assert [type(each) for each in ledger.errors] == [ServerError]
    assert (result.attempts, mem.urls) == (2, [NEAR, NEAR])


async def test_open_leaves_the_transfer_as_it_is():
    """The request of a part is not that of the transfer."""
    seen = []

    class Looks(Plugin):
        @hookimpl
        async def validate(self, transfer):
            seen.append((transfer.request.url, transfer.payload.info.url))

    async with context_of(server(), Looks(), Opens(NEAR)) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert seen == [(URL, NEAR)]


async def test_open_passes_credentials_to_their_origin_only():
    """A part from elsewhere is asked for without what is secret."""
    mem = server()
    for url in (NEAR, FAR):
        async with context_of(mem, Opens(url)) as context:
            await Download(URL, BufferWriter(), context=context, **SECRET).run()
    near, far = mem.log
    assert near.header("X-Api-Key") == "secret"
    assert near.settings.tls.client_certificate == "c.pem"
    assert far.header("X-Api-Key") is None
    assert far.request.entitled is None
    assert far.settings.tls.client_certificate is None


async def test_state_is_shared_between_a_transfer_and_its_parts():
    """`transfer.state` is one for all that belongs to a transfer, and not shared with others."""
    states = []

    class Remembers(Plugin):
        @hookimpl
        def fetch(self, transfer):
            transfer.state(self, list).append(transfer.request.url)
            states.append(transfer.state(self, list))

    async with context_of(server(), Remembers(), Opens(NEAR)) as context:
        for _ in range(2):
            await Download(URL, BufferWriter(), context=context).run()
    assert states == [[NEAR], [NEAR]]


async def test_a_request_may_be_opened_for_other_verbs():
    """`stat` and ranges are requests like any other."""

    class Stats(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            async with transfer.open(self, replace(transfer.request, verb="stat")) as payload:
                self.size = payload.info.size
            async with transfer.open(self, replace(transfer.request, offset=3, length=4)) as payload:
                self.part = b"".join([block async for block in payload.body])

    stats, mem = Stats(), server()
    async with context_of(mem, stats, connections=1) as context:
        await Download(URL, BufferWriter(), context=context).run()
    assert (stats.size, stats.part) == (len(BYTES), BYTES[3:7])
    assert [each.request.verb for each in mem.log] == ["stat", "get", "get"]


async def test_a_credential_for_elsewhere_is_not_sent_by_the_request_itself():
    """A request made by hand cannot carry one origin's credentials to another."""
    request = Request(FAR, credentials=Credentials("mem://home", (("X-Api-Key", "secret"),)))
    assert request.entitled is None
    assert request.fields() == ()


async def test_userinfo_of_the_url_is_for_what_is_needed_first_too():
    """At the same origin a nested download asks as the user of the parent's URL; elsewhere it does not."""
    mem = MemDriver()
    for url in ("mem://home/file", "mem://home/list", "mem://other/list"):
        mem.site(url, data=b"bytes")

    class Lists(Plugin):
        @hookimpl
        async def prepare(self, transfer):
            for url in ("mem://home/list", "mem://other/list"):
                await transfer.nested(self, url, BufferWriter()).run()

    async with context_of(mem, Lists()) as context:
        await Download("mem://elmer:secret@home/file", BufferWriter(), context=context).run()
    users = {each.url: each.request.user for each in mem.log}
    elmer = User("elmer", "secret")
    assert users == {"mem://home/list": elmer, "mem://other/list": None, "mem://home/file": elmer}


@dataclass(frozen=True)
class Through(Plugin):
    """Answers by opening the same request."""

    number: int

    @hookimpl
    def fetch(self, transfer):
        return self.answer(transfer)

    @asynccontextmanager
    async def answer(self, transfer):
        passed.append(self.number)
        async with transfer.open(self, transfer.request) as payload:
            yield payload


passed: list[int] = []


async def test_several_that_open_the_same_are_asked_once_each():
    """Who opens what another one opened does not open it for that one again: none of them is asked twice."""
    passed.clear()
    mem = MemDriver()
    mem.site("mem://home/file", data=b"bytes")
    async with context_of(mem, *map(Through, range(3))) as context:
        writer = BufferWriter()
        await Download("mem://home/file", writer, context=context).run()
    assert (writer.content(), passed) == (b"bytes", [0, 1, 2])
