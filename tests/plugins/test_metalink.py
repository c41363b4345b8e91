"""Metalink: what is published is the file that the metalink describes, from whichever mirror, and never another."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from tests.mem import MemDriver, Reply, context_of, names

from downhaul import (
    BufferWriter,
    Context,
    DigestMismatch,
    Download,
    FileWriter,
    PolicyError,
    PreparationError,
    Retries,
    SizeMismatch,
    SourcesExhausted,
)
from downhaul.plugins import Metalink

if TYPE_CHECKING:
    from pathlib import Path

BYTES = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(BYTES).hexdigest()
LINK = "mem://home/pkg.rpm.meta4"
M1, M2 = "mem://m1/pkg.rpm", "mem://m2/pkg.rpm"


def pieces(content: bytes, length: int) -> str:
    """Return the pieces element of *content*."""
    digests = [hashlib.sha256(content[at : at + length]).hexdigest() for at in range(0, len(content), length)]
    return f'<pieces length="{length}" type="sha-256">{"".join(f"<hash>{each}</hash>" for each in digests)}</pieces>'


def metalink(*urls: str, name: str = "pkg.rpm", size: int = len(BYTES), sha256: str = SHA256, more: str = "") -> bytes:
    """Return a metalink of one file."""
    files = file(*urls, name=name, size=size, sha256=sha256, more=more)
    return f'<metalink xmlns="urn:ietf:params:xml:ns:metalink">{files}</metalink>'.encode()


def file(*urls: str, name: str = "pkg.rpm", size: int = len(BYTES), sha256: str = SHA256, more: str = "") -> str:
    """Return the element of one file; *urls* in the order of their priorities."""
    places = "".join(f'<url priority="{place}">{url}</url>' for place, url in enumerate(urls, 1))
    digest = f'<hash type="sha-256">{sha256}</hash>' if sha256 else ""
    return f'<file name="{name}"><size>{size}</size>{digest}{more}{places}</file>'


def server(link: bytes, **sites: Reply) -> MemDriver:
    """Return a driver with a metalink at LINK, and for each of *sites* the file at its host."""
    mem = MemDriver()
    mem.site(LINK, Reply(link))
    for host, reply in sites.items():
        mem.site(f"mem://{host}/pkg.rpm", reply)
    return mem


async def run(mem: MemDriver, url: str = LINK, plugin: Metalink | None = None, **options: object):
    """Download what the metalink at *url* describes; return the result and the bytes."""
    async with context_of(mem) as context:
        writer = BufferWriter()
        result = await Download(url, writer, plugins=[plugin or Metalink()], context=context, **options).run()
        return result, writer.content()


async def test_the_file_and_not_the_metalink_is_published():
    """The mirrors are asked by priority, and what they send is validated."""
    mem = server(metalink(M1, M2), m2=Reply(BYTES))
    result, content = await run(mem)
    assert content == BYTES
    assert (result.url, result.source, result.digests["sha256"]) == (LINK, M2, SHA256)
    assert mem.urls == [LINK, M1, M2]


async def test_version_3_as_fedora_serves_it():
    """Preferences count down from 100; resources, verification and size are where version 3 has them."""
    text = f"""<?xml version="1.0"?>
    <metalink version="3.0" xmlns="http://www.metalinker.org/" xmlns:mm0="http://fedorahosted.org/mirrormanager">
    <files><file name="pkg.rpm"><mm0:timestamp>1</mm0:timestamp><size>{len(BYTES)}</size>
    <verification><hash type="md5">{hashlib.md5(BYTES).hexdigest()}</hash>
    <hash type="sha256">{SHA256}</hash></verification>
    <resources maxconnections="1"><url protocol="mem" type="http" location="DE" preference="90">{M2}</url>
    <url protocol="mem" type="http" location="US" preference="100">{M1}</url></resources></file></files></metalink>"""
    mem = server(text.encode(), m1=Reply(BYTES))
    assert (await run(mem))[0].source == M1
    assert mem.urls == [LINK, M1]


@pytest.mark.parametrize(
    ("link", "error"),
    [(metalink(M1, M2), DigestMismatch), (metalink(M1, M2, sha256=""), SizeMismatch)],
    ids=["digest", "size"],
)
async def test_another_file_is_refused(link: bytes, error: type[Exception]):
    """Digest and size are required as the metalink has them; the next mirror has the right file."""
    wrong = BYTES[:-1] + b"!" if error is DigestMismatch else BYTES + b"!"
    result, content = await run(server(link, m1=Reply(wrong), m2=Reply(BYTES)))
    assert content == BYTES
    assert [type(each.error) for each in result.history] == [error]


async def test_a_bad_piece_is_found_at_once():
    """Piece digests are required too: the rest of a bad file is not fetched."""
    link = metalink(M1, M2, more=pieces(BYTES, 65_536))
    result, content = await run(server(link, m1=Reply(b"!" + BYTES[1:]), m2=Reply(BYTES)))
    assert content == BYTES
    assert "piece 0" in str(result.history[0].error)


async def test_bytes_are_kept_for_the_next_mirror():
    """The digest will judge the whole, so what came before the connection was lost need not come again."""
    mem = server(metalink(M1, M2), m1=Reply(BYTES, cut=100_000), m2=Reply(BYTES, tag='"other"'))
    assert (await run(mem))[1] == BYTES
    assert [each.offset for each in mem.asked(M2)] == [100_000]


async def test_one_of_several_files():
    """*file* names the one that is wanted; without it, or with another name, the error lists what there is."""
    two = f'<metalink xmlns="urn:ietf:params:xml:ns:metalink">{file(M1)}{file(M2, name="other.rpm")}</metalink>'
    assert (await run(server(two.encode(), m1=Reply(BYTES)), plugin=Metalink("pkg.rpm")))[0].source == M1
    assert (await run(server(two.encode(), m2=Reply(BYTES)), plugin=Metalink("other.rpm")))[0].source == M2
    for plugin in (Metalink(), Metalink("nosuch")):
        with pytest.raises(PreparationError, match=r"has 2 files: pkg\.rpm, other\.rpm"):
            await run(server(two.encode()), plugin=plugin)


async def test_names_decide_nothing(tmp_path: Path):
    """A hostile name is ignored where the caller has a target: the file is there, and nothing else is anywhere."""
    target = tmp_path / "in" / "mine.rpm"
    target.parent.mkdir()
    mem = server(metalink(M1, name="../../etc/passwd"), m1=Reply(BYTES))
    async with context_of(mem) as context:
        await Download(LINK, FileWriter(target), plugins=[Metalink()], context=context).run()
    assert target.read_bytes() == BYTES
    assert (names(tmp_path), names(target.parent)) == (["in"], ["mine.rpm"])


BOMB = (
    b'<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    b'<metalink xmlns="urn:ietf:params:xml:ns:metalink">&b;</metalink>'
)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no metalink"),
        (b"<html><body>Log in</body></html>", "is no metalink"),
        (b"not xml", "is no metalink"),
        (BOMB, "DOCTYPE"),
        (b'<metalink xmlns="urn:ietf:params:xml:ns:metalink"/>', "has 0 files"),
        (metalink(), "names no URL"),
    ],
    ids=["empty", "HTML", "text", "bomb", "no file", "no URL"],
)
async def test_what_is_no_metalink_is_told(content: bytes, told: str):
    """The error names the URL and says what is wrong; nobody else is asked."""
    mem = server(content)
    with pytest.raises(PreparationError, match=told) as caught:
        await run(mem)
    assert LINK in str(caught.value)
    assert mem.urls == [LINK]


async def test_more_than_a_mebibyte_is_refused():
    """A hundred thousand URLs are no metalink that anybody serves."""
    mem = server(metalink(*(f"mem://m{number}/pkg.rpm" for number in range(100_000))))
    with pytest.raises(PreparationError, match="max_size=1048576") as caught:
        await run(mem)
    assert isinstance(caught.value.cause, PolicyError)
    assert mem.urls == [LINK]


async def test_other_schemes_are_never_asked():
    """`file:` and what else is not allowed: refused, told in the history, and the next one asked."""
    mem = server(metalink("file:///etc/passwd", "javascript:alert(1)", "gopher://x/", M1), m1=Reply(BYTES))
    result, content = await run(mem, schemes=["mem"])
    assert content == BYTES
    assert {type(each.error) for each in result.history} <= {PolicyError}
    assert mem.urls == [LINK, M1]


async def test_encryption_is_never_given_up():
    """A mirror without TLS in a metalink that came with TLS is refused."""
    mem = MemDriver()
    mem.site("https://home/x.meta4", Reply(metalink("http://m1/pkg.rpm", "HTTP://m1/pkg.rpm", "https://m2/pkg.rpm")))
    for url in ("http://m1/pkg.rpm", "https://m2/pkg.rpm"):
        mem.site(url, Reply(BYTES))
    async with Context(drivers={"http": mem, "https": mem}, plugins=[Retries(base=0)]) as context:
        download = Download("https://home/x.meta4", BufferWriter(), plugins=[Metalink()], context=context)
        assert (await download.run()).source == "https://m2/pkg.rpm"
    assert mem.urls == ["https://home/x.meta4", "https://m2/pkg.rpm"]


async def test_this_machine_is_not_named_from_elsewhere(caplog: pytest.LogCaptureFixture):
    """Loopback in a metalink of another host is left out, and the log says so; from loopback it is as good as any."""
    local = [f"mem://{host}/pkg.rpm" for host in ("localhost", "127.0.0.1", "127.1", "0x7f000001", "[::1]", "0.0.0.0")]
    mem = server(metalink(*local, M1), m1=Reply(BYTES))
    assert (await run(mem))[0].source == M1
    assert mem.urls == [LINK, M1]
    assert "names mirrors of this machine, which are left out: mem://localhost/pkg.rpm" in caplog.text
    here = "mem://127.0.0.1/x.meta4"
    mem.site(here, Reply(metalink(local[0])))
    mem.site(local[0], Reply(BYTES))
    assert (await run(mem, here))[0].source == local[0]


async def test_when_all_mirrors_fail_all_are_told():
    """The error lists each of them with its reason."""
    mem = server(metalink(M1, M2), m1=Reply(b"wrong"))
    with pytest.raises(SourcesExhausted) as caught:
        await run(mem, retries=0)
    assert {each.source for each in caught.value.errors} == {M1, M2}
    assert M1 in str(caught.value)
    assert M2 in str(caught.value)


async def test_it_is_fetched_once():
    """However many downloads of a context are described by it."""
    mem = server(metalink(M1), m1=Reply(BYTES))
    async with context_of(mem, Metalink()) as context:
        for _ in range(3):
            await Download(LINK, BufferWriter(), context=context).run()
    assert mem.urls.count(LINK) == 1


async def test_a_stream_is_judged_too():
    """What is relayed is the file, and its last bytes wait for the digest of the metalink."""
    mem = server(metalink(M1, M2), m1=Reply(b"!" * len(BYTES)), m2=Reply(BYTES))
    async with (
        context_of(mem) as context,
        Download(LINK, plugins=[Metalink()], context=context).stream(hold_back=len(BYTES)) as stream,
    ):
        assert b"".join([bytes(block) async for block in stream]) == BYTES
