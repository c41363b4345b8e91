"""MirrorList: its three forms, what a list may hold, and what becomes of mirrors that fail."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from tests.mem import Ledger, MemDriver, Reply, context_of

from downhaul import (
    BufferWriter,
    Context,
    DigestMismatch,
    Download,
    NotFound,
    PolicyError,
    PreparationError,
    Retries,
    SourcesExhausted,
    UnsupportedScheme,
)
from downhaul.plugins import MirrorList

PREFIX, LIST = "mem://dl/pub/", "mem://lists/mirrors.txt"
URL = f"{PREFIX}dir/file"
BYTES = bytes(range(256)) * 1000
DIGEST = {"sha256": hashlib.sha256(BYTES).hexdigest()}


def server(listing: str | bytes, **sites: Reply) -> MemDriver:
    """Return a driver with a list at LIST, and for each of *sites* a file at its host."""
    mem = MemDriver()
    mem.site(LIST, Reply(listing.encode() if isinstance(listing, str) else listing))
    for host, reply in sites.items():
        mem.site(f"mem://{host}/file", reply)
    return mem


def mirrors(*hosts: str) -> str:
    """Return a list of the file at *hosts*."""
    return "".join(f"mem://{host}/file\n" for host in hosts)


async def run(context: Context, url: str = URL, **options: object):
    """Download, and return the result and the bytes."""
    writer = BufferWriter()
    result = await Download(url, writer, context=context, **options).run()
    return result, writer.content()


# The three forms


async def test_a_list_of_prefixes_for_a_context():
    """`MirrorList(url, replaces=prefix)`: the lines take the place of the prefix."""
    mem = MemDriver()
    mem.site(LIST, Reply(b"mem://m1/\nmem://m2/a/b/\n"))
    mem.site("mem://m2/a/b/dir/file", Reply(BYTES))
    async with context_of(mem, MirrorList(LIST, replaces=PREFIX)) as context:
        result, content = await run(context)
    assert content == BYTES
    assert mem.urls == [LIST, "mem://m1/dir/file", "mem://m2/a/b/dir/file"]
    assert (result.url, result.source, result.attempts) == (URL, "mem://m2/a/b/dir/file", 2)
    assert [each.repaired_by for each in result.history] == ["MirrorList"]


async def test_what_does_not_begin_with_the_prefix_is_left_alone():
    """Other downloads of the context are nobody's business, and need no list."""
    mem = MemDriver()
    mem.site("mem://other/file", Reply(BYTES))
    async with context_of(mem, MirrorList(LIST, replaces=PREFIX)) as context:
        assert (await run(context, "mem://other/file"))[1] == BYTES
    assert mem.urls == ["mem://other/file"]


async def test_a_list_of_complete_urls_for_a_download():
    """`MirrorList(url)`: the lines are complete URLs of the file."""
    mem = server(mirrors("m1", "m2"), m2=Reply(BYTES))
    async with context_of(mem) as context:
        assert (await run(context, plugins=[MirrorList(LIST)]))[1] == BYTES
    assert mem.urls == [LIST, "mem://m1/file", "mem://m2/file"]


async def test_a_download_of_a_list():
    """`MirrorList()`: the download's own URL is that of the list, and what is published is the file."""
    mem = server(mirrors("m1", "m2"), m1=Reply(BYTES))
    async with context_of(mem) as context:
        result, content = await run(context, LIST, plugins=[MirrorList()], digests=DIGEST)
    assert content == BYTES
    assert (result.url, result.source) == (LIST, "mem://m1/file")
    assert mem.urls == [LIST, "mem://m1/file"]


async def test_mirrors_that_are_given():
    """`MirrorList([…], replaces=prefix)` and `MirrorList([…])`: the mirrors themselves, and no list to fetch."""
    mem = MemDriver()
    mem.site("mem://m2/dir/file", Reply(BYTES))
    prefixes = MirrorList(["mem://m1/", "mem://m2/"], replaces=PREFIX)
    async with context_of(mem, prefixes) as context:
        assert (await run(context))[0].source == "mem://m2/dir/file"
    async with context_of(mem) as context:
        plugin = MirrorList(iter(["mem://m1/dir/file", "mem://m2/dir/file"]))
        assert (await run(context, plugins=[plugin]))[0].source == "mem://m2/dir/file"
    assert mem.urls == ["mem://m1/dir/file", "mem://m2/dir/file"] * 2
    assert prefixes == MirrorList(("mem://m1/", "mem://m2/"), replaces=PREFIX)


@pytest.mark.parametrize("replaces", ["mem://home/pub", "mem://home/pub/"])
@pytest.mark.parametrize("mirror", ["mem://m1", "mem://m1/", "mem://m1/deep", "mem://m1/deep/"])
async def test_prefixes_are_directories(replaces: str, mirror: str):
    """With or without a slash at its end: what is put behind a mirror is a path, and never a part of its host."""
    mem = MemDriver()
    mem.site(f"{mirror.rstrip('/')}/.evil/x", data=b"from the mirror")
    mem.site("mem://home/public/x", data=b"another directory")
    async with context_of(mem, MirrorList([mirror], replaces=replaces)) as context:
        result = await Download("mem://home/pub/.evil/x", BufferWriter(), context=context).run()
        assert result.source == f"{mirror.rstrip('/')}/.evil/x"
        assert (await Download("mem://home/public/x", BufferWriter(), context=context).run()).attempts == 1


@pytest.mark.parametrize("replaces", ["not a url", "home/pub/", "mem://home/pub/?a=", "mem://home/pub/#a"])
def test_what_can_be_no_prefix(replaces: str):
    """What no URL begins with is refused when the plugin is made."""
    with pytest.raises(ValueError, match="the beginning of URLs"):
        MirrorList(["mem://m1/"], replaces=replaces)


async def test_a_prefix_with_userinfo_replaces_too():
    """Who is told as the user in the prefix, or in the URL, does not matter: the mirrors take the place of both."""
    mem = MemDriver()
    mem.site("mem://m1/file", Reply(b"of the mirror"))
    mirrors = MirrorList(["mem://m1/"], replaces="mem://elmer:secret@home/@scope/")
    assert "secret" not in repr(mirrors)
    async with context_of(mem, mirrors) as context:
        for url in ("mem://home/@scope/file", "mem://elmer:secret@home/@scope/file"):
            writer = BufferWriter()
            await Download(url, writer, context=context).run()
            assert writer.content() == b"of the mirror"


async def test_a_list_under_the_very_prefix_that_it_replaces():
    """The list itself is fetched from where it is said to be."""
    listing = f"{PREFIX}mirrors.txt"
    mem = MemDriver()
    mem.site(listing, Reply(b"mem://m1/"))
    mem.site("mem://m1/dir/file", Reply(BYTES))
    async with context_of(mem, MirrorList(listing, replaces=PREFIX)) as context:
        assert (await run(context))[1] == BYTES
    assert mem.urls == [listing, "mem://m1/dir/file"]


async def test_a_stream_from_mirrors():
    """Streams are mirrored too; before the first byte anything may be retried anywhere."""
    mem = server(mirrors("m1", "m2"), m1=Reply(status=503), m2=Reply(BYTES))
    async with context_of(mem, MirrorList(LIST)) as context:
        stream = Download(URL, context=context, digests=DIGEST).stream()
        async with stream:
            assert b"".join([bytes(block) async for block in stream]) == BYTES
    assert mem.urls == [LIST, "mem://m1/file", "mem://m2/file"]


def test_what_cannot_be_meant_is_refused():
    """A prefix needs a list, and is no empty string."""
    with pytest.raises(ValueError, match="needs the mirrors"):
        MirrorList(replaces=PREFIX)
    with pytest.raises(ValueError, match="beginning of URLs"):
        MirrorList(LIST, replaces="")
    with pytest.raises(ValueError, match="one mirror at least"):
        MirrorList([])
    with pytest.raises(ValueError, match="URL"):
        MirrorList(["mem://m1/", "m2"])


def test_equal_configuration_is_equal():
    """“Plugins are values”."""
    assert MirrorList(LIST, replaces=PREFIX) == MirrorList(LIST, replaces=PREFIX)
    assert len({MirrorList(LIST), MirrorList(LIST), MirrorList(LIST, ttl=5), MirrorList()}) == 3


def test_no_secret_is_shown():
    """The repr shows mirrors without userinfo and without the values of queries."""
    shown = repr(MirrorList(["mem://m1/?key=canary", "mem://u:canary@m2/"], replaces=PREFIX))
    assert "canary" not in shown
    assert "mem://m2/" in shown


# What a list may hold


@pytest.mark.parametrize(
    "listing",
    [
        "mem://m1/file\nmem://m2/file\n",
        "mem://m1/file\nmem://m2/file",
        "mem://m1/file\r\nmem://m2/file\r\n",
        "mem://m1/file\rmem://m2/file\r",
        "\ufeffmem://m1/file\nmem://m2/file\n",
        "# mirrors\n\n  mem://m1/file\t\n   # more\n\n\nmem://m2/file   \n\n",
        "mem://m1/file\nmem://m1/file\nmem://m2/file\nmem://m1/file\n",
        "no url\nmem://m1/file\npath\nmem:\nmem://\nmem://a b/\nmem://[::1\nmem://h:x/\nmem://h:99999/\nmem://m2/file",
        "mem://m1/file\nmem://m\x00/\nmem://\x1b[31m/\nmem://m2/file",
        b"mem://m1/file\n\xff\xfe\xfa\nmem://m2/file\n",
    ],
    ids=["LF", "no end", "CRLF", "CR", "BOM", "comments and blanks", "duplicates", "bad lines", "controls", "no UTF-8"],
)
async def test_what_a_list_may_hold(listing):
    """In the order of the list; whatever is no URL, or stands there twice, does not count."""
    mem = server(listing, m2=Reply(BYTES))
    async with context_of(mem) as context:
        assert (await run(context, plugins=[MirrorList(LIST)]))[1] == BYTES
    assert mem.urls == [LIST, "mem://m1/file", "mem://m2/file"]


PAGE = """<!DOCTYPE html PUBLIC "-//W3C//DTD HTML 4.01//EN"
"http://www.w3.org/TR/html4/strict.dtd">
<html><head><title>Log in</title>
<link rel="stylesheet" href="https://portal.example/style.css">
</head><body>
<a href="https://portal.example/login">Log in</a>
</body></html>
"""


@pytest.mark.parametrize(
    "listing", ["", "\n\n", "# nothing\n", PAGE, "\ufeff"], ids=["empty", "blank", "comment", "HTML", "BOM"]
)
async def test_a_list_without_urls_is_a_preparation_error(listing):
    """A captive portal's page is no list: the download says so, and asks nobody else."""
    mem = server(listing)
    async with context_of(mem) as context:
        with pytest.raises(PreparationError, match=f"{LIST} names no URL"):
            await run(context, plugins=[MirrorList(LIST)])
    assert mem.urls == [LIST]


async def test_a_list_of_more_than_a_mebibyte_is_refused_at_once():
    """2 MiB are no list; it is not asked for again, since it would be as long again."""
    mem = MemDriver()
    mem.site(LIST, Reply(b"mem://m1/file\n" * (2 * 1024 * 1024 // 14)))
    async with context_of(mem) as context:
        with pytest.raises(PreparationError) as caught:
            await run(context, plugins=[MirrorList(LIST)])
    assert isinstance(caught.value.cause, PolicyError)
    assert mem.urls == [LIST]


async def test_a_list_of_a_mebibyte_is_read():
    """Up to the limit a list is a list."""
    mem = server(mirrors("m1").ljust(1024 * 1024, "\n"), m1=Reply(BYTES))
    async with context_of(mem) as context:
        assert (await run(context, plugins=[MirrorList(LIST)]))[1] == BYTES


async def test_a_long_list_is_bounded():
    """No more than 100 attempts, however many mirrors there are."""
    mem = server(mirrors(*(f"m{n}" for n in range(5000))))
    async with context_of(mem) as context:
        with pytest.raises(NotFound):
            await run(context, plugins=[MirrorList(LIST)])
    assert len(mem.log) == 1 + 100


# What becomes of mirrors that fail


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(status=404), id="404"),
        pytest.param(Reply(status=500), id="500"),
        pytest.param(Reply(status=0), id="refused"),
        pytest.param(Reply(token="x"), id="401"),
        pytest.param(Reply(b"wrong"), id="wrong"),
        pytest.param(Reply(BYTES, cut=1000), id="cut"),
        pytest.param(Reply(BYTES, size=False, cut=5), id="cut without length"),
        pytest.param(Reply(location="file:///etc/passwd"), id="redirect to file"),
        pytest.param(Reply(location="mem://nowhere/"), id="redirect to nothing"),
    ],
)
async def test_the_next_one_when_one_fails_however_it_does(reply):
    """“The next one when one fails, however it does”."""
    mem = server(mirrors("m1", "m2"), m1=reply, m2=Reply(BYTES))
    async with context_of(mem) as context:
        result, content = await run(context, plugins=[MirrorList(LIST)], digests=DIGEST)
    assert content == BYTES
    assert result.attempts == 2
    assert result.source == "mem://m2/file"


async def test_a_wrong_digest_starts_the_next_mirror_from_the_beginning():
    """Validation failures take the road of errors, and their bytes are discarded."""
    mem = server(mirrors("m1", "m2"), m1=Reply(bytes(len(BYTES))), m2=Reply(BYTES))
    async with context_of(mem) as context:
        result, _ = await run(context, plugins=[MirrorList(LIST)], digests=DIGEST)
    assert [type(each.error) for each in result.history] == [DigestMismatch]
    assert [each.offset for each in mem.log] == [0, 0, 0]


async def test_with_a_digest_the_next_mirror_continues():
    """“Where an expected digest will judge the whole, then also from another source”."""
    mem = server(mirrors("m1", "m2"), m1=Reply(BYTES, cut=1000), m2=Reply(BYTES, tag='"other"'))
    async with context_of(mem) as context:
        assert (await run(context, plugins=[MirrorList(LIST)], digests=DIGEST))[1] == BYTES
    assert [each.offset for each in mem.log] == [0, 0, 1000]


async def test_without_a_digest_it_does_not():
    """Without proof nothing is continued elsewhere."""
    mem = server(mirrors("m1", "m2"), m1=Reply(BYTES, cut=1000), m2=Reply(BYTES, tag='"other"'))
    async with context_of(mem) as context:
        assert (await run(context, plugins=[MirrorList(LIST)]))[1] == BYTES
    assert [each.offset for each in mem.log] == [0, 0, 0]


async def test_the_next_round_starts_from_the_first():
    """When all have failed and one may come back, the best one is asked first again."""
    mem = MemDriver()
    mem.site(LIST, Reply(mirrors("m1", "m2", "m3").encode()))
    mem.site("mem://m1/file", Reply(status=503), Reply(BYTES))
    mem.site("mem://m3/file", Reply(status=404))
    async with context_of(mem) as context:
        result, _ = await run(context, plugins=[MirrorList(LIST)])
    assert mem.urls == [LIST, *(f"mem://m{n}/file" for n in (1, 2, 3, 1))]
    assert [each.repaired_by for each in result.history] == ["MirrorList", "MirrorList", "Retries"]
    assert [each.round for each in result.history] == [1, 1, 1]


async def test_when_all_fail_the_error_tells_of_all():
    """A 404 behind a 503 is no NotFound of the file; who has not got it is not asked again."""
    mem = server(mirrors("m1", "m2"), m1=Reply(status=503))
    async with context_of(mem, retries=1) as context:
        with pytest.raises(SourcesExhausted) as caught:
            await run(context, plugins=[MirrorList(LIST)], attachment="mine")
    assert caught.value.attachment == "mine"
    assert caught.value.url == URL
    assert mem.urls == [LIST, "mem://m1/file", "mem://m2/file", "mem://m1/file"]


async def test_when_no_mirror_has_it_it_is_not_found():
    """The same reason everywhere is the reason."""
    mem = server(mirrors("m1", "m2"))
    async with context_of(mem) as context:
        with pytest.raises(NotFound):
            await run(context, plugins=[MirrorList(LIST)])
    assert len(mem.log) == 3


async def test_unsupported_schemes_are_skipped():
    """Other schemes, rsync and such, are common in lists; nobody speaks them, so the next is asked."""
    listing = "rsync://m0/file\nfile:///etc/passwd\nhttp://m0/file\n" + mirrors("m1")
    mem = server(listing, m1=Reply(BYTES))
    async with context_of(mem, schemes=["mem"]) as context:
        result, _ = await run(context, plugins=[MirrorList(LIST)])
    assert {type(each.error) for each in result.history} == {PolicyError}
    assert mem.urls == [LIST, "mem://m1/file"]


async def test_an_allowed_scheme_without_a_driver_is_skipped():
    """An allowed scheme that no installed driver speaks is no end either."""
    mem = server("gopher://m0/file\n" + mirrors("m1"), m1=Reply(BYTES))
    async with context_of(mem, schemes=["gopher"]) as context:
        result, _ = await run(context, plugins=[MirrorList(LIST)])
    assert [type(each.error) for each in result.history] == [UnsupportedScheme]


async def test_encryption_is_never_given_up():
    """“https never becomes http”: a plain mirror of an https download is refused, and the next one asked."""
    mem = MemDriver()
    url, listing = "https://dl/file", "https://dl/list"
    mem.site(listing, Reply(b"http://m1/file\nftp://m1/file\nHTTP://m1/file\nhttps://m2/file\n"))
    for mirror in ("http://m1/file", "ftp://m1/file", "https://m2/file"):
        mem.site(mirror, Reply(BYTES))
    everything = {"http": mem, "https": mem, "ftp": mem}
    async with Context(drivers=everything, plugins=[Retries(base=0), MirrorList(listing)]) as context:
        result, _ = await run(context, url)
    assert [type(each.error) for each in result.history] == [PolicyError] * 3
    assert mem.urls == [listing, "https://m2/file"]


async def test_credentials_of_the_download_go_to_no_mirror():
    """Neither to mirrors nor to a list of another origin."""
    mem = server(mirrors("m1"), m1=Reply(BYTES))
    async with context_of(mem) as context:
        await run(context, plugins=[MirrorList(LIST)], headers={"X-Api-Key": "secret"})
    assert [each.header("X-Api-Key") for each in mem.log] == [None, None]


# The list itself


async def test_the_list_is_fetched_once_per_context():
    """“The list is fetched once per context”, however many downloads begin at once."""
    mem = MemDriver()
    mem.site(LIST, Reply(b"mem://m1/"))
    for number in range(50):
        mem.site(f"mem://m1/{number}", Reply(b"bytes"))
    async with context_of(mem, MirrorList(LIST, replaces=PREFIX)) as context:
        await asyncio.gather(*(run(context, f"{PREFIX}{number}") for number in range(50)))
    assert mem.urls.count(LIST) == 1


async def test_the_list_is_fetched_again_after_its_time():
    """“… and again after *ttl* seconds”."""
    mem = server(mirrors("m1"), m1=Reply(BYTES))
    async with context_of(mem, MirrorList(LIST, ttl=0)) as context:
        await run(context)
        await run(context)
    assert mem.urls.count(LIST) == 2


async def test_a_list_that_shrinks_meanwhile_is_no_fault_of_the_plugin():
    """The list may be fetched anew between two mirrors, and be shorter: then there is no next one."""
    mem = MemDriver()
    mem.site(LIST, Reply(mirrors("m1", "m2", "m3").encode()), Reply(mirrors("m1").encode()))
    async with context_of(mem, MirrorList(LIST, ttl=0)) as context:
        with pytest.raises(NotFound):
            await run(context)
    assert "mem://m2/file" not in mem.urls


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (503, 3)])
async def test_a_list_that_cannot_be_had_is_a_preparation_error(status, asked):
    """A list's 404 is not the file's; a 503 is asked `retries` + 1 times in all."""
    mem, ledger = MemDriver(), Ledger()
    mem.site(LIST, Reply(status=status))
    async with context_of(mem, MirrorList(LIST), ledger, retries=2) as context:
        with pytest.raises(PreparationError) as caught:
            await run(context)
    assert not isinstance(caught.value, NotFound)
    assert not caught.value.transient
    assert mem.urls == [LIST] * asked


async def test_two_lists_are_kept_apart():
    """Plugins with other lists share nothing."""
    mem = server(mirrors("m1"), m1=Reply(b"one"), m2=Reply(b"two"))
    mem.site("mem://lists/other.txt", Reply(mirrors("m2").encode()))
    async with context_of(mem) as context:
        assert (await run(context, plugins=[MirrorList(LIST)]))[1] == b"one"
        assert (await run(context, plugins=[MirrorList("mem://lists/other.txt")]))[1] == b"two"


async def test_with_one_connection():
    """No slot is held while the list is fetched."""
    mem = server(mirrors("m1", "m2"), m2=Reply(BYTES))
    async with context_of(mem, MirrorList(LIST), connections=1) as context:
        await asyncio.wait_for(asyncio.gather(*(run(context) for _ in range(10))), 10)
    assert mem.peak == 1


@pytest.mark.parametrize(
    "host",
    ["localhost", "a.localhost.", "127.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0",
     "169.254.169.254", "[fe80::1]", "127\u30020\u30020\u30021", "127\uff0e0\uff0e0\uff0e1",
     "\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54", "\u24dbocalhost"],
)  # fmt: skip
async def test_this_machine_in_whatever_spelling(host: str):
    """A list from elsewhere names it in vain; one that was asked for here may."""
    mem = server(f"mem://{host}/file\nmem://m1/file\n", m1=Reply(BYTES))
    mem.site("mem://127.0.0.1/list", Reply(f"mem://{host}/file\nmem://m1/file\n".encode()))
    async with context_of(mem) as context:
        assert (await run(context, plugins=[MirrorList(LIST)]))[0].attempts == 1
        assert (await run(context, plugins=[MirrorList("mem://127.0.0.1/list")]))[0].attempts == 2


async def test_a_list_that_redirects_to_this_machine_names_nothing_here():
    """Who was asked counts, not where that led."""
    mem = server("", m1=Reply(BYTES))
    mem.site(LIST, Reply(location="mem://127.0.0.1/list"))
    mem.site("mem://127.0.0.1/list", Reply(b"mem://127.0.0.1/file\nmem://m1/file\n"))
    async with context_of(mem) as context:
        assert (await run(context, plugins=[MirrorList(LIST)]))[0].source == "mem://m1/file"
    assert "mem://127.0.0.1/file" not in mem.urls


async def test_a_fragment_of_an_entry_is_no_part_of_the_directory():
    """What is put behind it is a path."""
    mem = server("mem://m1/pub#de\n")
    mem.site("mem://m1/pub/dir/file", Reply(BYTES))
    async with context_of(mem, MirrorList(LIST, replaces=PREFIX)) as context:
        assert (await run(context))[0].source == "mem://m1/pub/dir/file"
