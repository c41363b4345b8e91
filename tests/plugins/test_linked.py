"""LinkedMirrors: mirrors and digests that a server names in its header (RFC 6249, RFC 9530, RFC 3230)."""

from __future__ import annotations

import base64
import hashlib

import pytest
from tests.mem import MemDriver, Reply, context_of

from downhaul import BufferWriter, ConnectError, Context, DigestMismatch, Download, NotFound, Retries, StatusError
from downhaul.plugins import BearerToken, LinkedMirrors

BYTES = bytes(range(256)) * 1000
URL, M1, M2 = "mem://home/pkg.rpm", "mem://m1/pkg.rpm", "mem://m2/pkg.rpm"
BASE64 = base64.b64encode(hashlib.sha256(BYTES).digest()).decode()
DIGEST = ("Digest", f"SHA-256={BASE64}")
REPR_DIGEST = ("Repr-Digest", f"sha-256=:{BASE64}:")
LINKS = ("Link", f'<{M2}>; rel=duplicate; pri=2; geo=de, <{M1}>; rel="duplicate"; pri=1, <x.torrent>; rel=describedby')


def server(*headers: tuple[str, str], home: Reply | None = None, **sites: Reply) -> MemDriver:
    """Return a driver that tells *headers* at URL, and has *sites*, by host."""
    mem = MemDriver()
    mem.site(URL, home or Reply(BYTES, headers=headers))
    for host, reply in sites.items():
        mem.site(f"mem://{host}/pkg.rpm", reply)
    return mem


async def run(mem: MemDriver, *plugins: object, **options: object):
    """Download URL with linked mirrors; return the result and the bytes."""
    async with context_of(mem, LinkedMirrors(), *plugins) as context:
        writer = BufferWriter()
        result = await Download(URL, writer, context=context, **options).run()
        return result, writer.content()


def verbs(mem: MemDriver) -> list[tuple[str, str]]:
    """Return what was asked for, and how."""
    return [(each.request.verb, each.url) for each in mem.log]


async def test_mirrors_are_asked_by_priority_and_the_server_last():
    """`Link: rel=duplicate` with `pri`: the first that has it delivers."""
    mem = server(LINKS, DIGEST, m2=Reply(BYTES))
    result, content = await run(mem)
    assert content == BYTES
    assert result.source == M2
    assert verbs(mem) == [("stat", URL), ("get", M1), ("get", M2)]
    mem = server(LINKS, DIGEST)
    assert (await run(mem))[0].source == URL
    assert verbs(mem) == [("stat", URL), ("get", M1), ("get", M2), ("get", URL)]


@pytest.mark.parametrize("header", [DIGEST, REPR_DIGEST])
async def test_the_digest_of_the_server_judges_its_mirrors(header: tuple[str, str]):
    """RFC 3230 and RFC 9530: what does not have the digest is refused, from wherever it comes."""
    mem = server(LINKS, header, m1=Reply(b"!" * len(BYTES)), m2=Reply(BYTES))
    result, content = await run(mem)
    assert content == BYTES
    assert [type(each.error) for each in result.history] == [DigestMismatch]


@pytest.mark.parametrize("header", [DIGEST, REPR_DIGEST])
async def test_the_digest_judges_the_server_too(header: tuple[str, str]):
    """Without mirrors it is a validation nevertheless."""
    mem = server(home=Reply(b"!" * len(BYTES), headers=(header,)))
    with pytest.raises(DigestMismatch):
        await run(mem, retries=0)


async def test_bytes_are_kept_for_the_next_mirror():
    """The digest allows it."""
    mem = server(LINKS, DIGEST, m1=Reply(BYTES, cut=100_000), m2=Reply(BYTES, tag='"other"'))
    assert (await run(mem))[1] == BYTES
    assert [each.offset for each in mem.asked(M2)] == [100_000]


async def test_a_metalink_that_describes_the_file_is_read():
    """`rel=describedby` adds mirrors, size and pieces; the server's own digest has the first word."""
    file = f'<file name="x"><size>{len(BYTES)}</size><url>{M1}</url></file>'
    link = f'<metalink xmlns="urn:ietf:params:xml:ns:metalink">{file}</metalink>'
    described = ("Link", '<pkg.rpm.meta4>; rel=describedby; type="application/metalink4+xml"')
    mem = server(described, DIGEST, m1=Reply(BYTES))
    mem.site("mem://home/pkg.rpm.meta4", Reply(link.encode()))
    assert (await run(mem))[0].source == M1
    mem = server(described, DIGEST)  # which is not there: nothing is lost by that
    assert (await run(mem))[0].source == URL


@pytest.mark.parametrize(
    "reply",
    [
        Reply(BYTES),
        Reply(BYTES, headers=(("Link", "garbage <<"), ("Digest", "SHA-256=?"), ("Repr-Digest", "sha-256=:%%%:"))),
        Reply(BYTES, headers=(("Link", '</style.css>; rel="preload"'), ("Content-Digest", f"sha-256=:{'A' * 43}=:"))),
    ],
    ids=["nothing", "garbage", "other links"],
)
async def test_a_server_that_names_no_mirrors_is_asked_itself(reply: Reply):
    """As if nobody had asked before; what cannot be read is no digest and no mirror."""
    mem = server(home=reply)
    result, content = await run(mem)
    assert (content, result.attempts, result.history) == (BYTES, 1, ())


@pytest.mark.parametrize("error", [StatusError("405", 405), ConnectError("reset"), NotFound("404", 404)])
async def test_a_server_that_does_not_answer_a_stat_is_asked_for_the_file(error: Exception):
    """“HEAD first is fragile”: its failure is no failure of the download."""
    mem = server(home=Reply(error=error))
    mem.sites[URL] = [Reply(error=error), Reply(BYTES)]
    assert (await run(mem, retries=0))[1] == BYTES


async def test_links_of_a_redirect_count():
    """A redirector names the mirrors in its redirect, and the digest; what the mirror says there does not count."""
    import httpx
    import respx

    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    with respx.mock:
        told = {"Location": "https://m1/pkg.rpm", "Digest": DIGEST[1], "Link": "<https://m2/pkg.rpm>; rel=duplicate"}
        respx.route(host="home").mock(return_value=httpx.Response(302, headers=told))
        lies = {"Digest": f"SHA-256={wrong}", "Content-Length": "5"}
        respx.head("https://m1/pkg.rpm").mock(return_value=httpx.Response(200, headers=lies))
        respx.get("https://m1/pkg.rpm").mock(return_value=httpx.Response(200, content=b"other"))
        respx.get("https://m2/pkg.rpm").mock(return_value=httpx.Response(200, content=BYTES))
        async with Context(plugins=[LinkedMirrors(), Retries(base=0)]) as context:
            result = await context.download("https://home/pkg.rpm", BufferWriter()).run()
    assert (result.source, result.size) == ("https://m2/pkg.rpm", len(BYTES))


async def test_this_machine_is_not_named_from_elsewhere():
    """A link to loopback by another host is left out."""
    mem = server(("Link", "<mem://localhost/pkg.rpm>; rel=duplicate, <mem://[::1]/x>; rel=duplicate"), DIGEST)
    assert (await run(mem))[0].source == URL
    assert verbs(mem) == [("stat", URL), ("get", URL)]


async def test_a_server_with_a_token_is_asked_with_it():
    """The stat goes through the other plugins, and mirrors do not see the token."""
    mem = server(home=Reply(BYTES, headers=(LINKS, DIGEST), token="good"), m1=Reply(BYTES))
    result, _ = await run(mem, BearerToken("good"))
    assert result.source == M1
    assert [each.header("Authorization") for each in mem.log] == ["Bearer good", None]


async def test_it_is_asked_once():
    """What the server says of a file is good for a while."""
    mem = server(LINKS, DIGEST, m1=Reply(BYTES))
    async with context_of(mem, LinkedMirrors()) as context:
        for _ in range(3):
            await Download(URL, BufferWriter(), context=context).run()
    assert verbs(mem) == [("stat", URL), *[("get", M1)] * 3]


async def test_mirrors_without_a_digest_are_left_out():
    """RFC 6249, section 6: nothing would judge what they send; a digest of the download's own will do as well."""
    mem = server(LINKS, m1=Reply(b"!" * len(BYTES)))
    assert (await run(mem))[0].source == URL
    mem = server(LINKS, m1=Reply(b"!" * len(BYTES)), m2=Reply(BYTES))
    assert (await run(mem, digests={"sha256": hashlib.sha256(BYTES).hexdigest()}))[0].source == M2


async def test_what_a_mirror_says_does_not_count():
    """Where the server redirects to a mirror, the links of that one lead nowhere."""
    mem = server(home=Reply(location=M1), m1=Reply(BYTES, headers=(LINKS, DIGEST)), m2=Reply(BYTES))
    result, _ = await run(mem)
    assert (result.source, M2 in mem.urls) == (M1, False)


async def test_a_described_file_is_not_on_this_machine():
    """A metalink that the header names, and what stands in it, may be on this machine only if the server is."""
    link = '<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="x"><url>mem://localhost/x</url></file></metalink>'
    for described in ("mem://127.0.0.1/x.meta4", "mem://home/x.meta4"):
        told = ("Link", f'<{described}>; rel=describedby; type="application/metalink4+xml"')
        mem = server(told, DIGEST)
        mem.site(described, Reply(link.encode()))
        assert (await run(mem))[0].source == URL
        assert not {"mem://127.0.0.1/x.meta4", "mem://localhost/x"} & set(mem.urls)


async def test_a_digest_that_is_out_of_date_is_asked_for_again():
    """The file and its digest have changed: who finds that out fails, and the next one asks the server anew."""
    new = BYTES[::-1]
    renewed = f"SHA-256={base64.b64encode(hashlib.sha256(new).digest()).decode()}"
    mem = server(DIGEST)
    async with context_of(mem, LinkedMirrors(), retries=0) as context:
        await Download(URL, BufferWriter(), context=context).run()
        mem.site(URL, Reply(new, headers=(("Digest", renewed),)))
        with pytest.raises(DigestMismatch):
            await Download(URL, BufferWriter(), context=context).run()
        await Download(URL, BufferWriter(), context=context).run()
