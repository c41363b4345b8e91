"""Downloads of what has changed only, from real servers: by entity tag, by time, over FTP, and between mirrors."""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest
from tests.servers import nginx as real_nginx
from tests.servers import vsftpd as real_vsftpd
from tests.servers.ftp import FtpServer
from tests.servers.http import http_server

from downhaul import BufferWriter, Context, Download, FileWriter, Version
from downhaul.plugins import MirrorList

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers.http import Exchange

    Serve = Callable[[Path], Iterator[tuple[str, Path, Callable[[], list[str]]]]]

OLD, NEW = b"as it was\n", b"as it is\n"
_STATUS = re.compile(r'.*" (\d{3}) ').match
MODIFIED = 1_700_000_000  # seconds since the epoch


def put(root: Path, content: bytes, modified: int = MODIFIED) -> None:
    """Make the file of *root* what is told."""
    (root / "file").write_bytes(content)
    os.utime(root / "file", (modified, modified))


def settled(told: Callable[[], list[str]]) -> list[str]:
    """Return what a log tells once it has not grown for a while: a server writes behind the answer."""
    end, last = time.monotonic() + 0.2, told()
    while time.monotonic() < end:
        time.sleep(0.02)
        if (now := told()) != last:
            end, last = time.monotonic() + 0.2, now
    return last


@contextmanager
def nginx(root: Path, **directives: str) -> Iterator[tuple[str, Path, Callable[[], list[str]]]]:
    """Run nginx; yield its base URL, the directory that it shows, and what tells the statuses of its answers."""
    with real_nginx.nginx(root, **directives) as server:
        yield server.url(), root, lambda: settled(lambda: [_STATUS(line)[1] for line in server.access_log()])


@contextmanager
def nginx_without_tags(root: Path) -> Iterator[tuple[str, Path, Callable[[], list[str]]]]:
    """Run an nginx that knows times alone."""
    with nginx(root, server="etag off;") as running:
        yield running


@contextmanager
def vsftpd(root: Path) -> Iterator[tuple[str, Path, Callable[[], list[str]]]]:
    """Run vsftpd; its answers are told as those of HTTP would be: 200 for a file that was sent, 304 for none."""
    with real_vsftpd.vsftpd(root) as server:
        asked = 'FTP command: Client "127.0.0.1", "SIZE'
        told = lambda: ["200" if '"RETR ' in each else "304" for each in server.log().split(asked)[1:]]  # noqa: E731
        yield server.url(), server.root, lambda: settled(told)


SERVERS = [nginx, nginx_without_tags, vsftpd]


@pytest.mark.parametrize("serve", SERVERS)
def test_only_what_changed(serve, tmp_path) -> None:
    """The second time nothing is sent and the file stays; once it has changed, it comes."""
    root, target = tmp_path / "root", tmp_path / "file"
    root.mkdir()
    put(root, OLD)
    with serve(root) as (base, shown, statuses), Context() as context:
        first = Download(f"{base}file", FileWriter(target), context=context)()
        known = Version(**json.loads(json.dumps(asdict(first.version))))
        target.write_bytes(b"mine")
        again = Download(f"{base}file", FileWriter(target), context=context, unless=known, digests=["sha256"])()
        assert (again.not_modified, again.size, again.digests, again.version) == (True, 0, {}, known)
        assert (again.path, again.proof, target.read_bytes()) == (target, "not modified", b"mine")
        (shown / "file").unlink()
        put(shown, NEW, MODIFIED + 1)
        changed = Download(f"{base}file", FileWriter(target), context=context, unless=known)()
        assert (changed.not_modified, target.read_bytes()) == (False, NEW)
        assert changed.version != known
        assert statuses() == ["200", "304", "200"]


@pytest.mark.parametrize("serve", SERVERS)
async def test_what_is_older_has_changed_too(serve, tmp_path) -> None:
    """A file that was put back to an older state is not the one that is known."""
    put(tmp_path, NEW)
    with serve(tmp_path) as (base, shown, _):
        async with Context() as context:
            known = (await Download(f"{base}file", BufferWriter(), context=context).run()).version
            (shown / "file").unlink()
            put(shown, OLD[:-1], MODIFIED - 100)
            result = await Download(f"{base}file", BufferWriter(), context=context, unless=known).run()
            assert (result.not_modified, result.size) == (False, len(OLD) - 1)


def test_an_older_file_behind_times_that_are_compared_as_such() -> None:
    """A server that calls every file unmodified that is not newer is asked again, where it tells what it has."""
    times = {"If-Modified-Since": "Tue, 14 Nov 2023 22:13:20 GMT", "Last-Modified": "Mon, 13 Nov 2023 22:13:20 GMT"}

    async def script(exchange: Exchange) -> None:
        status = 304 if exchange.header("If-Modified-Since") else 200
        last = [("Last-Modified", times["Last-Modified"])]
        await exchange.respond(status, OLD if status == 200 else b"", last, length=status == 200)

    with http_server(script) as server:
        writer = BufferWriter()
        known = Version(modified=times["If-Modified-Since"])
        result = Download(server.url(), writer, unless=known, retries=0)()
        assert (result.not_modified, result.attempts, writer.content()) == (False, 1, OLD)
        assert len(server.requests) == 2


def test_equal_tags_of_two_mirrors_are_chance(tmp_path) -> None:
    """Two mirrors number their files from 1: each is believed about its own version only, so the new file comes."""

    def numbered(content: bytes) -> Callable[[Exchange], object]:
        async def script(exchange: Exchange) -> None:
            known = exchange.header("If-None-Match") == '"1"'
            await exchange.respond(
                304 if known else 200, b"" if known else content, [("ETag", '"1"')], length=not known
            )

        return script

    with http_server(numbered(OLD)) as first, http_server(numbered(NEW)) as second, Context() as context:
        here, there = first.url("/"), second.url("/")
        known = Download(f"{here}file", BufferWriter(), context=context)().version

        def again(*mirrors: str) -> tuple[bool, str]:
            plugins = [MirrorList(mirrors, replaces=here)]
            result = Download(f"{here}file", BufferWriter(), context=context, unless=known, plugins=plugins)()
            return result.not_modified, result.source

        assert again(here, there) == (True, f"{here}file")
        assert again(there, here) == (False, f"{there}file")


def test_ftp_without_mdtm_proves_nothing() -> None:
    """An equal size is no equal file: it is sent again."""
    with FtpServer({"file": OLD}, replies={"MDTM": "502 No."}) as server, Context() as context:
        known = Download(server.url("file"), BufferWriter(), context=context)().version
        result = Download(server.url("file"), BufferWriter(), context=context, unless=known)()
        assert (result.not_modified, result.size, server.sent("RETR")) == (False, len(OLD), 2)


def test_a_version_of_another_protocol_is_none_of_this_one(tmp_path) -> None:
    """What FTP calls a version says nothing to HTTP, even where the caller claims that it holds everywhere."""
    put(tmp_path, OLD)
    with FtpServer({"file": OLD}) as ftp, nginx(tmp_path) as (base, _, statuses), Context() as context:
        known = Download(ftp.url("file"), BufferWriter(), context=context)().version
        anywhere = Version(known.tag, known.modified, known.size, strong=True)
        assert not Download(f"{base}file", BufferWriter(), context=context, unless=anywhere)().not_modified
        known = Download(f"{base}file", BufferWriter(), context=context)().version
        anywhere = Version(known.tag, known.modified, known.size, strong=True)
        assert not Download(ftp.url("file"), BufferWriter(), context=context, unless=anywhere)().not_modified
        assert statuses() == ["200", "200"]


async def test_a_redirect_leads_to_the_same_source(tmp_path) -> None:
    """A version belongs to the URL that was asked and to where that led, less its query: the condition goes along."""
    put(tmp_path, OLD)
    with nginx(tmp_path) as (base, _, statuses):

        async def script(exchange: Exchange) -> None:
            await exchange.respond(302, headers=[("Location", f"{base}file?signature={len(server.requests)}")])

        with http_server(script) as server:
            async with Context() as context:
                known = (await Download(server.url(), BufferWriter(), context=context).run()).version
                again = await Download(server.url(), BufferWriter(), context=context, unless=known).run()
        assert known.source.startswith(f"{server.url()} ")
        assert again.not_modified
        assert statuses() == ["200", "304"]
