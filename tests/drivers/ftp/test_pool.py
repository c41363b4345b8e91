"""Control connections: which are used again, which are not, and what becomes of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.servers.ftp import HANG_UP, Fault, FtpServer

from downhaul import (
    TLS,
    AccessDenied,
    ConnectError,
    NotFound,
    RangeRefused,
    Request,
    ServerError,
    Settings,
    Timeout,
    User,
    Version,
)
from downhaul_ftp import FtpOptions

from .conftest import SETTINGS

if TYPE_CHECKING:
    from .conftest import Asker

FILES = {"a": b"alpha", "b": b"beta", "large": bytes(5_000_000)}


async def test_reused(ask: Asker) -> None:
    """One control connection, logged in once, serves one download after another."""
    with FtpServer(FILES) as server:
        for name in ("a", "b", "large", "a"):
            assert (await ask.get(server.url(name)))[1] == FILES[name]
        assert (server.controls, server.sent("PASS"), server.sent("TYPE")) == (1, 1, 1)


async def test_one_each_at_once(ask: Asker) -> None:
    """Downloads at the same time have a connection each, and those are used again."""
    with FtpServer(FILES) as server:
        for _ in range(2):
            await asyncio.gather(*(ask.get(server.url("large")) for _ in range(5)))
        assert server.controls == server.peak_controls == 5


@pytest.mark.parametrize(
    ("fields", "controls"),
    [
        ({}, 1),
        ({"settings": Settings(timeout=Timeout(read=3)).complete()}, 1),
        ({"settings": Settings(tls=TLS(verify=False)).complete()}, 2),
        ({"user": User("elmer", "1")}, 2),
    ],
    ids=["equal", "other time-outs", "other connection settings", "other user"],
)
async def test_shared_by(ask: Asker, fields: dict[str, object], controls: int) -> None:
    """A connection is shared by requests of the same origin, user and connection settings, whatever their time-outs."""
    with FtpServer(FILES) as server:
        await ask.get(server.url("a"))
        await ask.get(server.url("b"), **fields)  # type: ignore[arg-type]
        assert server.controls == controls


async def test_not_shared_with_another_password(ask: Asker) -> None:
    """The same name with another password logs in by itself."""
    with FtpServer(FILES, users={"elmer": "1"}) as server:
        await ask.get(server.url("a"), user=User("elmer", "1"))
        assert (await ask.fails(AccessDenied, server.url("a"), user=User("elmer", "2"))).code == 530


async def test_kept_for_some_seconds(ask: Asker) -> None:
    """An idle connection is closed after `keep_alive` seconds."""
    settings = Settings(options=(FtpOptions(keep_alive=0.05),)).complete()
    with FtpServer(FILES) as server:
        await ask.get(server.url("a"), settings)
        await asyncio.to_thread(server.settle)
        await ask.get(server.url("a"), settings)
        assert server.controls == 2


async def test_busy_is_not_idle(ask: Asker, caplog: pytest.LogCaptureFixture) -> None:
    """The seconds that a connection was to be kept do not run while it is used again."""
    settings = Settings(options=(FtpOptions(keep_alive=0.05),)).complete()
    with FtpServer(FILES, faults={"a": Fault(ends="hold")}) as server:
        await ask.get(server.url("b"), settings)
        async with ask.driver.open(Request(server.url("a")), settings) as payload:
            await asyncio.sleep(0.1)
            server.release()
            assert [block async for block in payload.body] == [b"alpha"]
        assert server.controls == 1
    assert not caplog.records


async def test_not_kept(ask: Asker) -> None:
    """With a `keep_alive` of 0 no connection is kept."""
    settings = Settings(options=(FtpOptions(keep_alive=0),)).complete()
    with FtpServer(FILES) as server:
        for _ in range(2):
            await ask.get(server.url("a"), settings)
            await asyncio.to_thread(server.settle)
        assert server.controls == 2


@pytest.mark.parametrize("farewell", ["", "421 Timeout."])
async def test_closed_by_the_server(ask: Asker, farewell: str) -> None:
    """Idle connections that the server has closed are replaced at once."""
    with FtpServer(FILES) as server:
        await asyncio.gather(*(ask.get(server.url("large")) for _ in range(3)))
        await asyncio.to_thread(server.interject, farewell, hang_up=True)
        await asyncio.to_thread(server.settle)
        assert (await ask.get(server.url("a")))[1] == b"alpha"
        assert server.controls == 4


@pytest.mark.parametrize("last", [HANG_UP, "421 Timeout."])
async def test_dead_at_the_first_command(ask: Asker, last: str) -> None:
    """A connection that turns out to be dead when it is used again is replaced at once."""
    with FtpServer(FILES, replies={"SIZE": ["213 5", last, "213 5"]}) as server:
        await ask.get(server.url("a"))
        assert (await ask.get(server.url("a")))[1] == b"alpha"
        assert server.controls == 2


@pytest.mark.parametrize(("last", "kind"), [(HANG_UP, ConnectError), ("421 Full.", ServerError)])
async def test_dead_when_new(ask: Asker, last: str, kind: type[ConnectError]) -> None:
    """A new connection that dies at once is a failure, and not tried again here."""
    with FtpServer(FILES, replies={"SIZE": last}) as server:
        await ask.fails(kind, server.url("a"))
        assert server.controls == 1


@pytest.mark.parametrize("words", ["226 Done again.", "550 What?", "x"])
async def test_something_unread(ask: Asker, words: str) -> None:
    """A connection on which something was said that nobody has read is not used again."""
    with FtpServer(FILES) as server:
        await ask.get(server.url("a"))
        await asyncio.to_thread(server.interject, words)
        assert (await ask.get(server.url("b")))[1] == b"beta"
        assert server.controls == 2


async def test_dropped_after_an_error(ask: Asker) -> None:
    """A connection on which something failed is closed at once."""
    with FtpServer(FILES) as server:
        await ask.get(server.url("a"))
        await ask.fails(NotFound, server.url("missing"))
        await asyncio.to_thread(server.settle)
        await ask.get(server.url("a"))
        assert server.controls == 2


async def test_kept_after_a_refusal_of_ours(ask: Asker) -> None:
    """A continuation that is refused because the file has changed costs no connection."""
    with FtpServer(FILES) as server:
        await ask.fails(RangeRefused, server.url("a"), version=Version(size=7))
        await ask.get(server.url("a"))
        assert server.controls == 1


@pytest.mark.parametrize("blocks", [0, 1])
async def test_dropped_when_left_early(ask: Asker, blocks: int) -> None:
    """An answer that is left before its end closes data and control connection at once."""
    with FtpServer(FILES) as server:
        async with ask.driver.open(Request(server.url("large")), SETTINGS) as payload:
            body = aiter(payload.body)
            for _ in range(blocks):
                assert await anext(body)
        await asyncio.to_thread(server.settle)


async def test_kept_although_the_consumer_failed(ask: Asker) -> None:
    """What goes wrong at the consumer after the last byte is no doubt about the connection."""
    with FtpServer(FILES) as server:
        with pytest.raises(KeyError):
            await _read_and_fail(ask, server.url("a"))
        await ask.get(server.url("b"))
        assert server.controls == 1


async def test_dropped_after_a_length(ask: Asker) -> None:
    """A part of a file leaves the rest unsent, and the connection is not used again."""
    with FtpServer(FILES) as server:
        assert len((await ask.get(server.url("large"), length=10))[1]) == 10
        await asyncio.to_thread(server.settle)


async def test_cancelled(ask: Asker) -> None:
    """Cancelling at any step of a download leaves no connection open."""
    with FtpServer(FILES, faults={"a": Fault(ends="hold")}) as server:
        for steps in range(0, 80, 3):
            task = asyncio.create_task(ask.get(server.url("a")))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        task = asyncio.create_task(ask.get(server.url("a")))
        await asyncio.to_thread(server.wait, lambda: "RETR a" in server.commands)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(server.settle)


async def test_aclose(ask: Asker) -> None:
    """Closing the driver says good-bye on idle connections and ends those in use."""
    with FtpServer(FILES) as server:
        await asyncio.gather(*(ask.get(server.url("large")) for _ in range(2)))
        async with ask.driver.open(Request(server.url("a")), SETTINGS):
            await ask.driver.aclose()
            await asyncio.to_thread(server.wait, lambda: not server.open_controls)
        await asyncio.to_thread(server.settle)
        assert server.sent("QUIT") == 1


async def _read_and_fail(ask: Asker, url: str) -> None:
    async with ask.driver.open(Request(url), SETTINGS) as payload:
        assert [block async for block in payload.body] == [b"alpha"]
        raise KeyError
