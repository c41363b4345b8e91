"""What a mirror plugin does with what its choice has learned: who is asked first, what is kept, who is given up."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from tests.mem import MemDriver, Reply, context_of, names, until

from downhaul import BufferWriter, Context, Download, LowSpeed, NotFound, Plugin, hookimpl
from downhaul.plugins import Adaptive, BearerToken, Choice, InOrder, Mirror, MirrorList, Mirrors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PREFIX = "mem://dl/pub/"
BYTES = bytes(range(256)) * 1000
DIGEST = {"sha256": hashlib.sha256(BYTES).hexdigest()}
HOSTS = [f"mem://m{number}/" for number in range(1, 4)]


def server(files: int = 20, **sites: Reply) -> MemDriver:
    """Return a driver with *files* at each host of *sites*."""
    mem = MemDriver()
    for host, reply in sites.items():
        for number in range(files):
            mem.site(f"mem://{host}/{number}", reply)
    return mem


async def fetch(context: Context, number: int = 0, **options: object):
    """Download a file by its number."""
    return await Download(f"{PREFIX}{number}", BufferWriter(), context=context, digests=DIGEST, **options).run()


class Watch(Plugin):
    """Notes what each attempt was told."""

    def __init__(self) -> None:
        self.limits: list[LowSpeed | None] = []
        self.alternatives: list[list[str]] = []

    @hookimpl(trylast=True)
    async def prepare(self, transfer):
        self.limits.append(transfer.low_speed)
        self.alternatives.append([request.url for request in transfer.alternatives])


async def test_a_mirror_that_fails_is_soon_asked_last():
    """What one download met with, the next ones know: a bad mirror costs a few of them an attempt, not all."""
    mem = server(m1=Reply(b"!" * len(BYTES)), m2=Reply(BYTES))
    async with context_of(mem, MirrorList(HOSTS[:2], replaces=PREFIX)) as context:
        for number in range(20):
            assert (await fetch(context, number)).source == f"mem://m2/{number}"
    assert 1 <= sum("//m1/" in url for url in mem.urls) <= 5


async def test_a_download_explores_once():
    """Of a thousand mirrors all but one lack the file: who has met that once is sent to the one that has it."""
    mem = server(m1=Reply(BYTES))
    hosts = [f"mem://m{number}/" for number in range(1, 1001)]
    async with context_of(mem, MirrorList(hosts, replaces=PREFIX)) as context:
        for number in range(20):
            assert (await fetch(context, number)).attempts <= 2


async def test_in_order_never_learns():
    """`InOrder()` asks the first one first, whatever it did before."""
    mem = server(m1=Reply(b"!" * len(BYTES)), m2=Reply(BYTES))
    async with context_of(mem, MirrorList(HOSTS[:2], replaces=PREFIX, choice=InOrder())) as context:
        for number in range(20):
            await fetch(context, number)
    assert mem.urls == [f"mem://{host}/{number}" for number in range(20) for host in ("m1", "m2")]


async def test_mirrors_of_one_host_keep_their_order():
    """What is known is known of the host: between two places there, the list decides, however the time passes."""
    mem = MemDriver()
    for place in "ab":
        for number in range(30):
            mem.site(f"mem://m1/{place}/{number}", Reply(BYTES))
    async with context_of(mem, MirrorList(["mem://m1/a/", "mem://m1/b/"], replaces=PREFIX)) as context:
        for number in range(30):
            await fetch(context, number)
    assert {url.split("/")[3] for url in mem.urls} == {"a"}


async def test_a_file_that_is_missing_says_little_of_a_mirror():
    """A 404 drops a mirror for that file: it is not asked again for it, and soon asked for others."""
    mem = server(m1=Reply(BYTES), m2=Reply(BYTES))
    del mem.sites["mem://m1/0"]
    async with context_of(mem, MirrorList(HOSTS[:1], replaces=PREFIX)) as context:
        with pytest.raises(NotFound):
            await fetch(context, 0)
        assert (await fetch(context, 1)).attempts == 1
    assert mem.urls == ["mem://m1/0", "mem://m1/1"]


@dataclass(frozen=True)
class Backwards(Choice):
    """Asks the last one first."""

    def order(self, mirrors: Sequence[Mirror], scores: object, failed: int = 0) -> Sequence[Mirror]:
        return mirrors[::-1]


async def test_a_strategy_of_ones_own():
    """“A strategy object that a third party can replace”."""
    mem = server(m1=Reply(BYTES), m3=Reply(BYTES))
    async with context_of(mem, MirrorList(HOSTS, replaces=PREFIX, choice=Backwards())) as context:
        assert (await fetch(context)).source == "mem://m3/0"


@dataclass(frozen=True)
class Twins(Mirrors):
    """A mirror plugin of one method: each host has a twin."""

    async def sources(self, transfer):
        return [Mirror(transfer.url), Mirror(transfer.url.replace("//dl/", "//twin/"))]


async def test_a_mirror_plugin_of_ones_own_is_one_method():
    """The rest, moving on and learning, comes with the base class."""
    mem = MemDriver()
    mem.site("mem://twin/pub/0", Reply(BYTES))
    async with context_of(mem, Twins()) as context:
        result = await fetch(context)
    assert result.source == "mem://twin/pub/0"
    assert [each.repaired_by for each in result.history] == ["Twins"]


async def test_what_was_learned_is_kept_between_runs(tmp_path: Path):
    """`Adaptive(path=…)`: saved when the context ends, loaded by the next, which asks the good one first."""
    state = tmp_path / "mirrors.json"
    mirrors = MirrorList(HOSTS[:2], replaces=PREFIX, choice=Adaptive(path=state))
    mem = server(m1=Reply(b"!" * len(BYTES)), m2=Reply(BYTES))
    async with context_of(mem, mirrors) as context:
        for number in range(5):
            await fetch(context, number)
        assert not state.exists()
    assert "mem://m2" in state.read_text()
    assert names(tmp_path) == ["mirrors.json"]
    json.loads(state.read_text())
    mem.log.clear()
    async with context_of(mem, mirrors) as context:
        assert (await fetch(context)).attempts == 1
    assert mem.urls == ["mem://m2/0"]


async def test_a_place_where_nothing_can_be_kept_is_no_reason_to_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The downloads are done; the log says that the state is lost."""
    choice = Adaptive(path=tmp_path / "nosuch" / "mirrors.json")
    mem = server(m1=Reply(BYTES))
    async with context_of(mem, MirrorList(HOSTS[:1], replaces=PREFIX, choice=choice)) as context:
        await fetch(context)
    assert "nosuch" in caplog.text


async def test_two_lists_with_one_choice_share_what_they_learn():
    """Equal choices are one, whoever uses them; others are not."""
    mem = server(m1=Reply(b"!" * len(BYTES)), m2=Reply(BYTES))
    lists = [MirrorList(HOSTS[:2], replaces=PREFIX), MirrorList(HOSTS[:2], replaces="mem://other/pub/")]
    async with context_of(mem, *lists) as context:
        for number in range(10):
            await fetch(context, number)
        before = len(mem.log)
        await Download("mem://other/pub/0", BufferWriter(), context=context, digests=DIGEST).run()
        assert mem.urls[before:] == ["mem://m2/0"]


async def test_the_first_ones_are_probed():
    """`Adaptive(probe=n)`: the first n are asked for the head at once, and who answers soonest goes first."""

    class Slow(Plugin):
        @hookimpl(tryfirst=True)
        def fetch(self, transfer):
            return None

    mem = server(m1=Reply(BYTES, hang="open"), m2=Reply(BYTES), m3=Reply(BYTES))
    mirrors = MirrorList(HOSTS, replaces=PREFIX, choice=Adaptive(probe=2))
    async with context_of(mem, mirrors, Slow()) as context:
        results = await asyncio.gather(*(fetch(context, number) for number in range(3)))
    probes = [(each.request.verb, each.url) for each in mem.log if each.request.verb == "stat"]
    assert sorted(url[:9] for _, url in probes) == ["mem://m1/", "mem://m2/"]
    assert all("//m1/" not in result.source for result in results)
    assert all(result.history == () for result in results)  # a probe is no attempt


async def test_a_slow_mirror_is_given_up_while_another_is_left():
    """The plugin turns the limit on while there is another source, and off for the last one."""
    mem = server(m1=Reply(BYTES, cut=1000, hang="body"), m2=Reply(BYTES))
    watch, limit = Watch(), LowSpeed(10_000, 0.05)
    mirrors = MirrorList(HOSTS[:2], replaces=PREFIX, low_speed=limit)
    async with context_of(mem, mirrors, watch) as context:
        result = await fetch(context)
    assert [each.error.phase for each in result.history] == ["low speed"]
    assert [each.offset for each in mem.log] == [0, 1000]
    assert watch.limits == [limit, None]


async def test_a_limit_of_the_settings_is_left_as_it_is():
    """Who has said what is too slow has said it for mirrors, too; and None turns the plugin's off."""
    own = LowSpeed(1, 60)
    for options, plugin, expected in (({"low_speed": own}, {}, own), ({}, {"low_speed": None}, None)):
        mem, watch = server(m1=Reply(BYTES), m2=Reply(BYTES)), Watch()
        async with context_of(mem, MirrorList(HOSTS[:2], replaces=PREFIX, **plugin), watch, **options) as context:
            await fetch(context)
        assert watch.limits == [expected]


async def test_the_others_are_offered():
    """What may be asked besides is offered to whoever fetches segments; after a failure, one less."""
    mem, watch = server(m2=Reply(BYTES), m3=Reply(BYTES)), Watch()
    async with context_of(mem, MirrorList(HOSTS, replaces=PREFIX), watch) as context:
        await fetch(context)
    assert watch.alternatives == [["mem://m2/0", "mem://m3/0"], ["mem://m3/0"]]


async def test_another_plugins_retry_means_the_same_mirror():
    """A token that is renewed is for the mirror that asked for it: it keeps its turn, and is not blamed."""
    tokens = iter(["old", "good"])
    mem = server(m1=Reply(BYTES, token="good"), m2=Reply(BYTES))
    token = BearerToken(lambda: next(tokens), within=HOSTS[0])
    async with context_of(mem, MirrorList(HOSTS[:2], replaces=PREFIX), token) as context:
        result = await fetch(context)
    assert (result.source, result.attempts) == ("mem://m1/0", 2)


async def test_a_download_that_is_cancelled_leaves_its_place():
    """Whoever ends is counted out: afterwards the mirror is as free as it was."""
    mem = server(m1=Reply(BYTES, hang="open"))
    seen = []

    @dataclass(frozen=True)
    class Look(Adaptive):
        def order(self, mirrors, scores, failed=0):
            seen.append(scores.of(mirrors[0].url).in_use)
            return mirrors

    async with context_of(mem, MirrorList(HOSTS[:1], replaces=PREFIX, choice=Look())) as context:
        for _ in range(3):
            task = asyncio.create_task(fetch(context))
            await until(lambda: mem.live)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert seen == [0, 0, 0]


async def test_a_list_that_comes_from_a_function():
    """A function, or a coroutine function, is asked once; what it returns are URLs or mirrors."""
    asked = []

    def plain():
        asked.append("plain")
        return [Mirror("mem://m1/", priority=2), Mirror("mem://m2/", priority=1)]

    async def waits():
        asked.append("waits")
        return ["mem://m2/"]

    for function in (plain, waits):
        mem = server(m1=Reply(BYTES), m2=Reply(BYTES))
        async with context_of(mem, MirrorList(function, replaces=PREFIX)) as context:
            for number in range(3):
                assert (await fetch(context, number)).source == f"mem://m2/{number}" or number
        assert mem.urls[0] == "mem://m2/0"
    assert asked == ["plain", "waits"]


@pytest.mark.parametrize("returned", [[], [5], "mem://m1/", ["no url"]])
async def test_a_function_that_returns_no_mirrors_is_told(returned: object):
    """What cannot be meant is an error that names the plugin, not a mirror fewer."""
    async with context_of(server(m1=Reply(BYTES)), MirrorList(lambda: returned, replaces=PREFIX)) as context:
        with pytest.raises(Exception, match="MirrorList"):
            await fetch(context)
