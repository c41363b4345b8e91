"""Commands in one piece: the round trips of a file, and servers and firewalls that do not take that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.servers.ftp import HANG_UP, SILENCE, FtpServer

from downhaul import ConnectError, ProtocolError, Request, ServerError, Settings, Timeout, TimeoutExceeded
from downhaul_ftp import _client

from .conftest import IMPATIENT, SETTINGS

if TYPE_CHECKING:
    from .conftest import Asker

FILES = {"a": b"alpha", "b": b"beta"}
ONE_BY_ONE = ["SIZE", "MDTM", "EPSV", "RETR"]
NO_READ_LIMIT = Settings(timeout=Timeout(read=None)).complete()


async def test_two_round_trips(ask: Asker) -> None:
    """A file on a connection that is used again costs two round trips: what is asked about it, and the transfer."""
    with FtpServer(FILES) as server:
        await ask.get(server.url("a"))
        before = len(server.pieces)
        for name in "abab":
            assert (await ask.get(server.url(name)))[1] == FILES[name]
        assert server.pieces[before:] == ["SIZE MDTM EPSV", "RETR"] * 4


async def test_pasv_in_the_piece(ask: Asker) -> None:
    """Where EPSV is refused, PASV takes its place in the piece."""
    with FtpServer(FILES, replies={"EPSV": "500 What?"}) as server:
        for _ in range(2):
            assert (await ask.get(server.url("a")))[1] == b"alpha"
        assert server.pieces[3:] == ["SIZE MDTM EPSV", "PASV", "RETR", "SIZE MDTM PASV", "RETR"]


@pytest.mark.parametrize("fields", [{"verb": "stat"}, {"length": 0}], ids=repr)
async def test_no_port_without_need(ask: Asker, fields: dict[str, object]) -> None:
    """What brings no bytes has no port opened."""
    with FtpServer(FILES) as server:
        await ask.get(server.url("a"), **fields)  # type: ignore[arg-type]
        assert server.pieces[3:] == ["SIZE MDTM"]


async def test_no_port_for_what_is_known(ask: Asker) -> None:
    """Whether a file is still the same is asked before a port is opened for it."""
    with FtpServer(FILES) as server:
        known, _ = await ask.get(server.url("a"), verb="stat")
        assert (await ask.get(server.url("a"), unless=known.version))[0].not_modified
        assert (await ask.get(server.url("b"), unless=known.version))[1] == b"beta"
        assert server.pieces[3:] == ["SIZE MDTM", "SIZE MDTM", "SIZE MDTM", "EPSV", "RETR"]


@pytest.mark.parametrize("kind", ["Microsoft FTP Service", "MadGoat FTP server", "MikroTik router FTP"])
async def test_known_by_its_greeting(ask: Asker, kind: str) -> None:
    """A server of a kind that is known to lose commands gets one at a time from the start."""
    with FtpServer(FILES, greeting=f"220 host {kind} ready", loses_commands=True) as server:
        for _ in range(2):
            assert (await ask.get(server.url("a")))[1] == b"alpha"
        assert server.pieces[3:] == ONE_BY_ONE * 2
        assert server.controls == 1


@pytest.mark.parametrize("settings", [IMPATIENT, NO_READ_LIMIT], ids=["limit", "no limit"])
async def test_found_out_by_losses(ask: Asker, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that loses commands delivers all the same, and from then on gets one at a time."""
    monkeypatch.setattr(_client, "_LAG", 0.3)
    with FtpServer(FILES, loses_commands=True) as server:
        for name in "abab":
            assert (await ask.get(server.url(name), settings))[1] == FILES[name]
        assert server.controls == 2
        assert server.pieces[6 + 1 :] == ONE_BY_ONE * 4


@pytest.mark.parametrize("reply", [SILENCE, HANG_UP, "What?", "226 Belongs to somebody else."])
@pytest.mark.parametrize(
    ("verb", "fields"),
    [("SIZE", {}), ("MDTM", {}), ("EPSV", {}), ("SIZE", {"verb": "stat"}), ("MDTM", {"verb": "stat"})],
    ids=str,
)
async def test_found_out_by_oddities(ask: Asker, verb: str, reply: str, fields: dict[str, str]) -> None:
    """A piece that is not answered command by command is asked again, one by one, and nothing is mixed up."""
    sound = {"SIZE": "213 5", "MDTM": "213 20240102030405", "EPSV": "500 What?"}
    with FtpServer(FILES, replies={verb: [reply, sound[verb]]}) as server:
        if verb == "SIZE" and reply in {HANG_UP, "What?"}:  # nothing was answered: that need not be the piece's fault
            with pytest.raises((ConnectError, ProtocolError)):
                await ask.get(server.url("a"), IMPATIENT, **fields)
        info, received = await ask.get(server.url("a"), IMPATIENT, **fields)
        assert (info.size, received) == (5, b"" if fields else b"alpha")
        assert info.headers["Last-Modified"] == "Tue, 02 Jan 2024 03:04:05 GMT"
        assert server.controls == (1 if reply.startswith("226") and verb == "EPSV" else 2)
        await ask.get(server.url("a"), IMPATIENT, **fields)
        assert "SIZE MDTM" not in server.pieces[-4:][-1 if fields else 0]
        assert server.pieces[-1] == ("MDTM" if fields else "RETR")


async def test_oddities_that_stay(ask: Asker) -> None:
    """What is odd one by one too is an error, after two tries at most."""
    with FtpServer(FILES, replies={"MDTM": "226 Belongs to somebody else."}) as server:
        for controls in (2, 3):
            await ask.fails(ProtocolError, server.url("a"))
            assert server.controls == controls


async def test_refusals_are_no_oddities(ask: Asker) -> None:
    """A refusal within the piece, or a server that goes away in so many words, leaves the next piece whole."""
    with FtpServer(FILES, replies={"MDTM": ["450 Busy.", "421 Going down.", "550 No."]}) as server:
        for code in (450, 421):
            assert (await ask.fails(ServerError, server.url("a"))).code == code
        assert (await ask.get(server.url("a")))[1] == b"alpha"
        assert server.pieces[3::4] == ["SIZE MDTM EPSV"] * 3


@pytest.mark.parametrize("verb", ["SIZE", "MDTM", "EPSV", "RETR"])
async def test_late(ask: Asker, verb: str) -> None:
    """A server that takes its time is waited for."""
    with FtpServer(FILES, late={verb}) as server:
        download = asyncio.create_task(ask.get(server.url("a")))
        await asyncio.to_thread(server.wait, lambda: any(line.startswith(verb) for line in server.commands))
        await asyncio.sleep(0.1)
        server.release()
        assert (await download)[1] == b"alpha"
        assert server.controls == 1


async def test_too_late(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that comes when its piece was given up already is nobody's."""
    monkeypatch.setattr(_client, "_LAG", 0.1)
    with FtpServer({**FILES, "large": bytes(1000)}, late={"MDTM"}) as server:
        download = asyncio.create_task(ask.get(server.url("a")))
        await asyncio.to_thread(server.wait, lambda: server.controls == 2)
        server.release()
        info, received = await download
        assert (info.size, received) == (5, b"alpha")
        assert server.pieces[6 + 1 :] == ONE_BY_ONE


async def test_silent_from_the_first(ask: Asker) -> None:
    """A piece of which nothing is answered is a time-out, and the next try goes one by one."""
    with FtpServer(
        FILES, replies={"SIZE": [SILENCE, "213 5"], "MDTM": [SILENCE, "550 No."], "EPSV": SILENCE}
    ) as server:
        assert (await ask.fails(TimeoutExceeded, server.url("a"), IMPATIENT)).phase == "head"
        server.replies.clear()
        await ask.get(server.url("a"))
        assert server.pieces[-4:] == ONE_BY_ONE


async def test_port_that_is_not_opened(ask: Asker) -> None:
    """Where the port named in the piece cannot be reached, the next file asks for its port alone."""
    with FtpServer(FILES, dead_epsv=True) as server:
        for name in "ab":
            assert (await ask.get(server.url(name)))[1] == FILES[name]
        assert server.pieces[3:] == ["SIZE MDTM EPSV", "PASV", "RETR", "SIZE", "MDTM", "PASV", "RETR"]


async def test_pasv_port_that_is_not_opened(ask: Asker) -> None:
    """The same where it was PASV's, which nothing follows: that file fails, the next one comes."""
    with FtpServer(FILES, replies={"EPSV": "500 What?"}) as server:
        await ask.get(server.url("a"))
        server.replies["PASV"] = "227 Passive mode (127,0,0,1,0,1)"
        await ask.fails(ConnectError, server.url("a"))
        del server.replies["PASV"]
        assert (await ask.get(server.url("a")))[1] == b"alpha"
        assert server.pieces[-5:] == ["SIZE", "MDTM", "EPSV", "PASV", "RETR"]


async def test_each_host_for_itself(ask: Asker) -> None:
    """What one host does not take is sent to another."""
    with FtpServer(FILES, loses_commands=True) as odd, FtpServer(FILES) as sound:
        await ask.get(odd.url("a"), IMPATIENT)
        await ask.get(sound.url("a"))
        assert "SIZE MDTM EPSV" in sound.pieces


async def test_dead_connection_is_no_loss(ask: Asker) -> None:
    """An idle connection that dies when it is used again says nothing about pieces."""
    with FtpServer(FILES, replies={"SIZE": ["213 5", HANG_UP, "213 5"]}) as server:
        for _ in range(2):
            assert (await ask.get(server.url("a")))[1] == b"alpha"
        assert server.pieces[-2:] == ["SIZE MDTM EPSV", "RETR"]


@pytest.mark.parametrize("words", ["226 Done again.", "22", "226-Done", "\r\n"])
async def test_what_was_just_said_is_noticed(ask: Asker, words: str) -> None:
    """Whether a connection is quiet is known at once, of what the loop has not read yet too."""
    with FtpServer(FILES) as server:
        await ask.get(server.url("a"))
        server.interject(words)  # the loop has no turn until the connection is taken
        assert (await ask.get(server.url("b")))[1] == b"beta"
        assert server.controls == 2


async def test_closed_just_now_is_noticed(ask: Asker) -> None:
    """A connection that was closed is known as such before the loop knows of it."""
    with FtpServer(FILES) as server:
        await ask.get(server.url("a"))
        server.interject("", hang_up=True)
        server.wait(lambda: not server.open_controls)
        assert (await ask.get(server.url("b")))[1] == b"beta"
        assert server.controls == 2
        assert server.sent("SIZE") == 2


@pytest.mark.parametrize("words", ["212 More.", "\r\n".join(["200 More."] * 10_000), "x" * 1_000_000], ids=len)
async def test_flood_while_a_file_comes(ask: Asker, words: str) -> None:
    """What is said unasked while a file comes is bounded and spoils the connection, not the file."""
    with FtpServer({**FILES, "large": bytes(3_000_000)}) as server:
        async with ask.driver.open(Request(server.url("large")), SETTINGS) as payload:
            size = len(await anext(aiter(payload.body)))
            await asyncio.to_thread(server.interject, words)
            async for block in payload.body:
                size += len(block)
        assert size == 3_000_000
        assert (await ask.get(server.url("b")))[1] == b"beta"
        assert server.controls == 2
