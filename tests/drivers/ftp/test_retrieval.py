"""What is known of a file before its bytes, continuations, and what is not asked for."""

from __future__ import annotations

import asyncio
from itertools import product
from typing import TYPE_CHECKING

import pytest
from tests.servers.ftp import SILENCE, Fault, FtpServer

from downhaul import (
    AccessDenied,
    NotFound,
    ProtocolError,
    RangeRefused,
    ServerError,
    StatusError,
    TimeoutExceeded,
    Version,
)

from .conftest import IMPATIENT

if TYPE_CHECKING:
    from .conftest import Asker

CONTENT = bytes(range(256)) * 40
FILES = {"a": CONTENT}
MODIFIED = "20240102030405"
VERSION = Version(modified=MODIFIED, size=len(CONTENT), strong=True)


async def test_info(ask: Asker) -> None:
    """SIZE and MDTM give size, a strong version, the proof, and the headers of HTTP."""
    with FtpServer(FILES) as server:
        info, received = await ask.get(server.url("a"))
        assert received == CONTENT
        assert (info.url, info.size, info.version, info.start) == (server.url("a"), len(CONTENT), VERSION, 0)
        assert info.resumable
        assert info.proof == "SIZE"
        assert dict(info.headers) == {
            "Content-Length": str(len(CONTENT)), "Last-Modified": "Tue, 02 Jan 2024 03:04:05 GMT",
        }  # fmt: skip


@pytest.mark.parametrize(("size", "mdtm", "epsv", "announced"), [*product([True, False], repeat=4)])
async def test_each_is_optional(ask: Asker, size: bool, mdtm: bool, epsv: bool, announced: bool) -> None:
    """Without SIZE, MDTM, EPSV or a size in the opening line the file comes, and the proof says what it rests on."""
    replies = {verb: "502 No." for verb, there in (("SIZE", size), ("MDTM", mdtm), ("EPSV", epsv)) if not there}
    fault = Fault() if announced else Fault(opening="125 Coming.")
    with FtpServer(FILES, replies=replies, faults={"a": fault}) as server:
        info, received = await ask.get(server.url("a"))
        assert received == CONTENT
        assert info.proof == ("SIZE" if size else "150 line" if announced else "unproven")
        assert info.size == (len(CONTENT) if size or announced else None)
        assert ("Last-Modified" in info.headers) == mdtm
        expected = Version(
            modified=MODIFIED if mdtm else None, size=len(CONTENT) if size else None, strong=size and mdtm
        )
        assert info.version == (expected if size or mdtm else None)


async def test_offset(ask: Asker) -> None:
    """A continuation starts where it should, on the same control connection as other downloads."""
    with FtpServer(FILES) as server:
        for offset in (0, 1, 1000, len(CONTENT) - 1, len(CONTENT)):
            info, received = await ask.get(server.url("a"), offset=offset, version=VERSION)
            assert received == CONTENT[offset:]
            assert (info.start, info.size) == (offset, len(CONTENT))
            assert info.headers["Content-Length"] == str(len(received))
        assert server.controls == 1
        assert "REST 1000" in server.commands
        assert server.sent("RETR") == 4, "behind the last byte there is nothing to ask for"


@pytest.mark.parametrize("size", [True, False])
async def test_length(ask: Asker, size: bool) -> None:
    """A length ends the body; so does the end of the file."""
    with FtpServer(FILES, replies={} if size else {"SIZE": "502 No."}) as server:
        for offset, length in ((0, 10), (5, 10), (5, 0), (5, len(CONTENT)), (0, len(CONTENT)), (5, len(CONTENT) - 5)):
            info, received = await ask.get(server.url("a"), offset=offset, length=length)
            assert received == CONTENT[offset:][:length]
            assert not size or info.headers["Content-Length"] == str(len(received))


@pytest.mark.parametrize(
    "replies",
    [
        {"REST": "502 No."},
        {"REST": "200 Whatever."},
        {"RETR": "554 Invalid REST parameter."},
        {"SIZE": "213 10"},
        {"SIZE": "502 No."},
        {"MDTM": "213 20250102030405"},
        {"MDTM": "502 No."},
    ],
    ids=repr,
)
async def test_continuation_refused(ask: Asker, replies: dict[str, str]) -> None:
    """What cannot be started at an offset, or is not the same file any more, is refused before a byte comes."""
    with FtpServer(FILES, replies=replies) as server:
        await ask.fails(RangeRefused, server.url("a"), offset=20, version=VERSION)
        assert server.sent("RETR") == ("RETR" in replies)
        await asyncio.to_thread(server.wait, lambda: not server.open_data)


async def test_offset_beyond_the_end(ask: Asker) -> None:
    """A file that is shorter than what is there already is not continued."""
    with FtpServer(FILES) as server:
        await ask.fails(RangeRefused, server.url("a"), offset=len(CONTENT) + 1)
        assert not server.sent("RETR")


async def test_rest_ignored(ask: Asker) -> None:
    """A server that accepts REST and starts at 0 all the same is found out by the number of bytes."""
    with FtpServer(FILES, faults={"a": Fault(ignores_rest=True)}) as server:
        await ask.fails(RangeRefused, server.url("a"), offset=20, version=VERSION)


async def test_another_version_from_the_start(ask: Asker) -> None:
    """A version guards a whole file too."""
    with FtpServer(FILES) as server:
        await ask.fails(RangeRefused, server.url("a"), version=Version('"tag"', strong=True))
        assert not server.sent("RETR")


async def test_not_modified(ask: Asker) -> None:
    """What has still the version that is known is not sent again; what has not, is."""
    with FtpServer(FILES) as server:
        info, received = await ask.get(server.url("a"), unless=VERSION)
        assert info.not_modified
        assert (info.version, received) == (VERSION, b"")
        assert not server.sent("RETR")
        server.modified = "20250102030405"
        info, received = await ask.get(server.url("a"), unless=VERSION)
        assert not info.not_modified
        assert received == CONTENT


async def test_equal_size_is_not_unmodified(ask: Asker) -> None:
    """Without MDTM an equal size proves nothing."""
    with FtpServer(FILES, replies={"MDTM": "502 No."}) as server:
        known, _ = await ask.get(server.url("a"))
        info, received = await ask.get(server.url("a"), unless=known.version)
        assert not info.not_modified
        assert received == CONTENT


async def test_stat(ask: Asker) -> None:
    """A stat tells what a download would, without one, and leaves the connection for it."""
    with FtpServer(FILES) as server:
        info, received = await ask.get(server.url("a"), verb="stat")
        assert (info.size, info.version, received) == (len(CONTENT), VERSION, b"")
        await ask.get(server.url("a"))
        assert (server.sent("EPSV"), server.sent("RETR"), server.controls) == (1, 1, 1)


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ({}, NotFound),
        ({"SIZE": "502 No."}, NotFound),
        ({"MDTM": "500 No."}, NotFound),
        ({"SIZE": "502 No.", "MDTM": "500 No."}, StatusError),
    ],
    ids=repr,
)
async def test_stat_of_nothing(ask: Asker, replies: dict[str, str], kind: type[StatusError]) -> None:
    """A stat of what is not there, or of a server that tells nothing, fails."""
    with FtpServer(FILES, replies=replies) as server:
        await ask.fails(kind, server.url("missing"), verb="stat")


@pytest.mark.parametrize(
    ("replies", "kind", "code"),
    [
        ({"RETR": "550 Not a plain file."}, NotFound, 550),
        ({"RETR": "553 No such name."}, NotFound, 553),
        ({"RETR": "530 Log in."}, AccessDenied, 530),
        ({"RETR": "450 Busy."}, ServerError, 450),
        ({"RETR": "425 No data connection."}, ServerError, 425),
        ({"RETR": "421 Going down."}, ServerError, 421),
        ({"RETR": "500 What?"}, StatusError, 500),
        ({"RETR": "552 Quota."}, StatusError, 552),
        ({"SIZE": "450 Busy."}, ServerError, 450),
        ({"MDTM": "421 Going down."}, ServerError, 421),
        ({"RETR": "314 bluah you f00l!"}, ProtocolError, None),
        ({"SIZE": "226 Belongs to somebody else."}, ProtocolError, None),
    ],
    ids=repr,
)
async def test_refused(ask: Asker, replies: dict[str, str], kind: type[StatusError], code: int | None) -> None:
    """A refusal is named by its code and reason; nothing stays open."""
    with FtpServer(FILES, replies=replies) as server:
        error = await ask.fails(kind, server.url("a"))
        if code is not None:
            assert error.code == code
            assert error.reason in str(error)
            assert error.reason
            assert error.transient == (code < 500)
        await asyncio.to_thread(server.settle)


@pytest.mark.parametrize("verb", ["SIZE", "MDTM", "EPSV", "REST", "RETR"])
async def test_silence(ask: Asker, verb: str) -> None:
    """A command that is not answered in time is a time-out of the head."""
    with FtpServer(FILES, replies={verb: SILENCE}) as server:
        assert (await ask.fails(TimeoutExceeded, server.url("a"), IMPATIENT, offset=1)).phase == "head"
        await asyncio.to_thread(server.settle)


async def test_names_are_bytes(ask: Asker) -> None:
    """A name is sent byte for byte as the URL says, whatever its encoding."""
    with FtpServer({"gr\xfc\xdfe": b"latin", "gr\xc3\xbc\xc3\x9fe": b"utf-8", "/abs": b"absolute"}) as server:
        assert (await ask.get(server.url("gr%FC%DFe")))[1] == b"latin"
        assert (await ask.get(server.url("gr%C3%BC%C3%9Fe")))[1] == b"utf-8"
        assert (await ask.get(server.url("gr\u00fc\u00dfe")))[1] == b"utf-8"
        assert (await ask.get(server.url("%2Fabs;type=i")))[1] == b"absolute"
