from __future__ import annotations

import asyncio
import hashlib
import logging
import os

import pytest
from tests.servers.nginx import PROGRAM, nginx

from downhaul import TLS, NotFound, RangeRefused, Request, Settings, Timeout, Version
from downhaul_http import HttpOptions

if PROGRAM is None and not os.environ.get("CI"):
    pytest.skip("nginx is not installed", allow_module_level=True)

CONTENT = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The files that nginx serves."""
    root = tmp_path_factory.mktemp("root")
    (root / "file").write_bytes(CONTENT)
    (root / "empty").write_bytes(b"")
    (root / "a b%ü").write_bytes(b"name")
    return root


@pytest.fixture(scope="module", params=["HTTP/1.1", "HTTPS", "HTTP/2"])
def setting(request, root, ca):
    """A running nginx, with settings to reach it."""
    if request.param == "HTTP/2" and not os.environ.get("CI"):
        pytest.importorskip("h2")
    tls = None if request.param == "HTTP/1.1" else ca.issue_cert("localhost")
    options = [HttpOptions(http2=True)] if request.param == "HTTP/2" else []
    settings = Settings(
        tls=TLS(ca_certificate=ca.cert_pem.bytes().decode()), options=options, timeout=Timeout(connect=5, read=5)
    ).complete()
    with nginx(root, tls=tls, http2=request.param == "HTTP/2") as server:
        yield server, settings, request.param


async def test_a_file(setting, fetch):
    """A real server delivers a file, by each protocol, and the access log agrees."""
    server, settings, protocol = setting
    info, content = await fetch(Request(server.url("/file")), settings)
    assert hashlib.sha256(content).digest() == hashlib.sha256(CONTENT).digest()
    assert (info.size, info.resumable, info.proof) == (len(CONTENT), True, "length")
    assert info.version.strong
    assert any(
        f"GET /file {'HTTP/2.0' if protocol == 'HTTP/2' else 'HTTP/1.1'}" in line for line in server.access_log()
    )


async def test_an_empty_file(setting, fetch):
    """An empty file has size 0 and is proven complete."""
    server, settings, _ = setting
    info, content = await fetch(Request(server.url("/empty")), settings)
    assert (content, info.size, info.proof) == (b"", 0, "length")


async def test_names(setting, fetch):
    """Names with blanks, per cent signs and letters of any language find their file."""
    server, settings, _ = setting
    assert (await fetch(Request(server.url("/a b%25ü")), settings))[1] == b"name"


async def test_a_resume(setting, fetch):
    """A range with the version of the first answer continues it; with another version the answer is the whole."""
    server, settings, _ = setting
    first, _ = await fetch(Request(server.url("/file"), verb="stat"), settings)
    info, content = await fetch(Request(server.url("/file"), offset=1_000_000, version=first.version), settings)
    assert (info.start, info.size, info.version) == (1_000_000, len(CONTENT), first.version)
    assert content == CONTENT[1_000_000:]
    other = Version('"other"', None, len(CONTENT), strong=True)
    info, content = await fetch(Request(server.url("/file"), offset=1_000_000, version=other), settings)
    assert (info.start, len(content)) == (0, len(CONTENT))
    info, content = await fetch(Request(server.url("/file"), offset=5, length=7), settings)
    assert content == CONTENT[5:12]


async def test_beyond_the_end(setting, fetch):
    """A range behind the end of the file is refused."""
    server, settings, _ = setting
    with pytest.raises(RangeRefused):
        await fetch(Request(server.url("/file"), offset=len(CONTENT)), settings)


async def test_unchanged(setting, fetch):
    """A file that still has its version is not sent again."""
    server, settings, _ = setting
    first, _ = await fetch(Request(server.url("/file"), verb="stat"), settings)
    info, content = await fetch(Request(server.url("/file"), unless=first.version), settings)
    assert (info.not_modified, content) == (True, b"")


async def test_many_at_once(setting, fetch):
    """Many requests at one time are all answered, and mixed up nowhere."""
    server, settings, _ = setting
    requests = [Request(server.url("/file"), offset=n * 1000, length=1000) for n in range(60)]
    answers = await asyncio.gather(*(fetch(request, settings) for request in requests))
    assert b"".join(content for _, content in answers) == CONTENT[:60_000]


async def test_not_there(setting, fetch):
    """A missing file is NotFound, over and over on one connection."""
    server, settings, _ = setting
    for _ in range(3):
        with pytest.raises(NotFound):
            await fetch(Request(server.url("/nothing")), settings)


@pytest.mark.parametrize("road", ["library"], indirect=True)
async def test_no_secret_in_the_logs(setting, fetch, caplog):
    """No logger shows a credential, the compression of HTTP/2 included."""
    server, settings, _ = setting
    caplog.set_level(logging.DEBUG)
    request = Request(server.url("/empty?sig=canary")).authorized([("Authorization", "Bearer canary")])
    await fetch(request, settings)
    assert caplog.records
    assert "canary" not in caplog.text


async def test_codings_on_the_fly(root, fetch):
    """A server that compresses on the fly is asked not to, and delivers the file as it is."""
    (root / "text.txt").write_bytes(b"hello " * 10_000)
    with nginx(root, server="gzip on; gzip_min_length 1; gzip_types *;") as server:
        info, content = await fetch(Request(server.url("/text.txt")))
    assert content == b"hello " * 10_000
    assert "Content-Encoding" not in info.headers
