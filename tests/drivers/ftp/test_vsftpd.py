"""The driver and the real vsftpd."""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes

import pytest
from tests.servers.vsftpd import Vsftpd, vsftpd

from downhaul import NotFound, PolicyError, RangeRefused, ServerError, StatusError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Asker

CONTENT = bytes(range(256)) * 20_000
NAMES = [
    b" leading", b"trailing ", b"a  b", b"100%25", b"per%41cent", b"q?x=y", b"h#h", b"semi;type=i", b"-dash", b"star*",
    b"[glob]", b"~root", b"tab\t", b"esc\x1b[31m", b"bell\x07", b"\xc3\xbc", b"\xfc latin", b"back\\slash", b'quo"te',
    b"(7 bytes)", b"sub/dir/file", b"\xf0\x9f\x9a\xa2",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vsftpd]:
    """A vsftpd with a few files."""
    root = tmp_path_factory.mktemp("vsftpd")
    (root / "file").write_bytes(CONTENT)
    (root / "empty").touch()
    (root / "sub" / "dir").mkdir(parents=True)
    (root / "secret").write_bytes(b"secret")
    (root / "secret").chmod(0o600)
    for name in NAMES:
        place(root, name).write_bytes(b"I am " + name)
    for number in range(20):
        (root / f"{number}.bin").write_bytes(CONTENT[number : 100_000 * number])
    with vsftpd(root) as running:
        yield running


def place(root: Path, name: bytes) -> Path:
    """Return the path of the file called *name*."""
    return root / os.fsdecode(name)


async def test_whole(ask: Asker, server: Vsftpd) -> None:
    """A file arrives byte for byte, with its size, its time and a proof."""
    info, received = await ask.get(server.url("file"))
    assert received == CONTENT
    assert (info.size, info.proof) == (len(CONTENT), "SIZE")
    assert info.version is not None
    assert info.version.strong
    assert "Last-Modified" in info.headers


async def test_empty(ask: Asker, server: Vsftpd) -> None:
    """An empty file arrives."""
    info, received = await ask.get(server.url("empty"))
    assert (info.size, received) == (0, b"")


async def test_continuation(ask: Asker, server: Vsftpd) -> None:
    """A continuation guarded by the version brings the rest; by another version, nothing."""
    known, _ = await ask.get(server.url("file"), verb="stat")
    info, received = await ask.get(server.url("file"), offset=4_000_000, version=known.version)
    assert received == CONTENT[4_000_000:]
    assert info.version == known.version
    other, _ = await ask.get(server.url("1.bin"), verb="stat")
    await ask.fails(RangeRefused, server.url("file"), offset=10, version=other.version)
    assert (await ask.get(server.url("file"), offset=7, length=9))[1] == CONTENT[7:16]


async def test_not_modified(ask: Asker, server: Vsftpd) -> None:
    """What has its version still is not sent."""
    known, _ = await ask.get(server.url("file"), verb="stat")
    info, received = await ask.get(server.url("file"), unless=known.version)
    assert info.not_modified
    assert received == b""


@pytest.mark.parametrize("name", NAMES, ids=ascii)
async def test_names(ask: Asker, server: Vsftpd, name: bytes) -> None:
    """Every name is reached that a file can have, relative and from the root."""
    for start in ("", "%2F"):
        url = server.url(start + quote_from_bytes(name))
        assert (await ask.get(url))[1] == b"I am " + name


@pytest.mark.parametrize("path", ["missing", "sub", "sub/dir", "..", ".", "sub/missing", "*", "fil*"])
@pytest.mark.parametrize("verb", ["get", "stat"])
async def test_no_file(ask: Asker, server: Vsftpd, path: str, verb: str) -> None:
    """What is no file, a directory included, is NotFound, never a listing."""
    assert (await ask.fails(NotFound, server.url(path), verb=verb)).code == 550


async def test_unreadable(ask: Asker, server: Vsftpd) -> None:
    """What may not be read is NotFound too: vsftpd has one code for both."""
    assert (await ask.fails(NotFound, server.url("secret"))).code == 550


async def test_directory_by_its_slash(ask: Asker, server: Vsftpd) -> None:
    """A URL that ends in a slash is refused without asking."""
    await ask.fails(PolicyError, server.url("sub/"))


async def test_connections_are_reused(ask: Asker, server: Vsftpd) -> None:
    """A hundred files, five at a time, cost five logins."""
    before = server.controls()
    work = iter([number % 20 for number in range(100)])

    async def worker() -> None:
        for number in work:
            assert (await ask.get(server.url(f"{number}.bin")))[1] == CONTENT[number : 100_000 * number]

    await asyncio.gather(*(worker() for _ in range(5)))
    assert server.controls() - before == 5
    assert server.log().count("OK LOGIN") >= 5


async def test_server_full(ask: Asker, tmp_path: Path) -> None:
    """A server that takes two connections at most is a transient ServerError for the third, not for the others."""
    (tmp_path / "file").write_bytes(CONTENT)
    with vsftpd(tmp_path, max_per_ip="2") as small:
        outcomes = await asyncio.gather(*(ask.get(small.url("file")) for _ in range(3)), return_exceptions=True)
        refused = [each for each in outcomes if isinstance(each, BaseException)]
        assert len(refused) == 1
        assert isinstance(refused[0], ServerError)
        assert refused[0].code == 421
        assert small.peak_controls <= 3
        assert (await ask.get(small.url("file")))[1] == CONTENT


async def test_without_epsv(ask: Asker, tmp_path: Path) -> None:
    """A server whose administrator forbids EPSV, SIZE and MDTM delivers, proved by its opening line."""
    (tmp_path / "file").write_bytes(CONTENT)
    with vsftpd(tmp_path, cmds_denied="EPSV,SIZE,MDTM") as strict:
        info, received = await ask.get(strict.url("file"))
        assert received == CONTENT
        assert (info.proof, info.version) == ("150 line", None)


async def test_passive_forbidden(ask: Asker, tmp_path: Path) -> None:
    """A server without passive connections is a StatusError; there is no active one to fall back to."""
    (tmp_path / "file").write_bytes(CONTENT)
    with vsftpd(tmp_path, pasv_enable="NO") as strict:
        await ask.fails(StatusError, strict.url("file"))


async def test_idle_connection_closed_by_the_server(ask: Asker, tmp_path: Path) -> None:
    """A connection that vsftpd closes for idleness is replaced without a failure."""
    (tmp_path / "file").write_bytes(CONTENT)
    with vsftpd(tmp_path, idle_session_timeout="1") as hasty:
        await ask.get(hasty.url("file"))
        while hasty.open_controls():  # noqa: ASYNC110 - another process closes it
            await asyncio.sleep(0.02)
        assert (await ask.get(hasty.url("file")))[1] == CONTENT
        assert hasty.controls() == 2


async def test_into_memory(ask: Asker, server: Vsftpd) -> None:
    """A file, and a part of one, arrive in the memory of who asks."""
    assert await ask.get_into(server.url("file"), 1_000_000) == await ask.get(server.url("file"))
    assert (await ask.get_into(server.url("file"), 1_000, offset=7, length=9_000))[1] == CONTENT[7:9_007]
    assert (await ask.get_into(server.url("empty"), 1_000))[1] == b""


async def test_pieces_are_understood(ask: Asker, tmp_path: Path) -> None:
    """Of commands that come in one piece none is lost, and each file costs four of them."""
    (tmp_path / "file").write_bytes(CONTENT)
    with vsftpd(tmp_path) as running:
        for _ in range(20):
            assert (await ask.get(running.url("file")))[1] == CONTENT
        assert running.controls() == 1
        for verb in ("SIZE", "MDTM", "EPSV", "RETR"):
            assert len(re.findall(f'FTP command: Client "127.0.0.1", "{verb}', running.log())) == 20
