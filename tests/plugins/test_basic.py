"""BasicAuth: one user for one origin, by HTTP and by FTP."""

from __future__ import annotations

from base64 import b64encode

import pytest
from tests.mem import MemDriver, Mirrors, Reply, context_of
from tests.servers.ftp import FtpServer
from tests.servers.http import http_server

from downhaul import AccessDenied, BufferWriter, Context, Download, NotFound, User
from downhaul.plugins import BasicAuth

ELMER = BasicAuth("elmer", "kill-the-wabbit")


async def fetch(context: Context, url: str, **options) -> bytes:
    """Download, and return the bytes."""
    writer = BufferWriter()
    await Download(url, writer, context=context, **options).run()
    return writer.content()


async def test_by_http():
    """As Basic in UTF-8 (RFC 7617), unasked."""

    async def script(exchange):
        await exchange.respond(body=b"bytes")

    with http_server(script) as server:
        async with Context(plugins=[BasicAuth("Zoë", "pass:wörd")]) as context:
            assert await fetch(context, server.url("/file")) == b"bytes"
        [sent] = server.requests
    assert sent.header("Authorization") == f"Basic {b64encode('Zoë:pass:wörd'.encode()).decode()}"


async def test_by_ftp():
    """As USER and PASS (RFC 959, section 4.1.1)."""
    with FtpServer({"a": b"alpha"}, users={"elmer": "kill-the-wabbit"}) as server:
        async with Context(plugins=[ELMER]) as context:
            assert await fetch(context, server.url("a")) == b"alpha"
        assert server.commands[:2] == ["USER elmer", "PASS kill-the-wabbit"]


@pytest.mark.parametrize("code", [401, 530])
async def test_a_refusal_is_final(code):
    """There is no other user to be had, so nobody asks again."""
    mem = MemDriver()
    mem.site("mem://home/file", Reply(error=AccessDenied("refused", code=code)))
    async with context_of(mem, ELMER) as context:
        with pytest.raises(AccessDenied):
            await fetch(context, "mem://home/file")
    assert len(mem.log) == 1


async def test_a_mirror_with_a_user():
    """A user for a mirror goes there, and that of the settings to the download's own origin."""
    mem = MemDriver()
    urls = ("mem://home/file", "mem://m1/file", "mem://m2/file")
    for url in urls:
        mem.site(url, Reply(status=404))
    mirror = BasicAuth("elmer", "of-m1", within="mem://m1")
    async with context_of(mem, mirror, Mirrors(urls)) as context:
        with pytest.raises(NotFound):
            await fetch(context, urls[0], user=User("bugs", "of-home"))
    assert [each.request.user for each in mem.log] == [User("bugs", "of-home"), User("elmer", "of-m1"), None]


@pytest.mark.parametrize(
    ("name", "password", "error"),
    [
        (None, "canary", TypeError), ("canary", None, TypeError), (b"canary", "", TypeError),
        ("canary\r\nX: y", "", ValueError), ("", "canary\n", ValueError), ("", "canary\0", ValueError),
        ("canary\x7f", "", ValueError),
    ],
)  # fmt: skip
def test_what_cannot_be_sent(name, password, error):
    """What would break the request is refused at once, and not repeated."""
    with pytest.raises(error, match=r"BasicAuth\(name, password\)") as caught:
        BasicAuth(name, password)
    assert "canary" not in str(caught.value)


def test_values():
    """Equal are plugins of the same user for the same reach; the repr has neither name nor password."""
    assert BasicAuth("elmer", "kill-the-wabbit") == ELMER
    assert BasicAuth("elmer", "another") != ELMER
    assert BasicAuth("elmer", "kill-the-wabbit", within="https://a") != ELMER
    assert repr(ELMER) == "BasicAuth(within=None)"
