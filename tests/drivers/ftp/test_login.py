"""Connecting, the greeting, and the login."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.servers.ftp import HANG_UP, SILENCE, FtpServer

from downhaul import (
    AccessDenied,
    ConnectError,
    NameResolutionError,
    NotFound,
    PolicyError,
    ProtocolError,
    ProxyError,
    Request,
    ServerError,
    Settings,
    StatusError,
    TimeoutExceeded,
    User,
)

from .conftest import IMPATIENT, SETTINGS

if TYPE_CHECKING:
    from .conftest import Asker

FILES = {"a": b"alpha"}


async def test_dialogue(ask: Asker) -> None:
    """A download is anonymous, binary and passive, asks for size and time, and nothing else."""
    with FtpServer(FILES) as server:
        assert (await ask.get(server.url("a")))[1] == b"alpha"
        assert server.commands == ["USER anonymous", "PASS anonymous@", "TYPE I", "SIZE a", "MDTM a", "EPSV", "RETR a"]


async def test_name_and_password(ask: Asker) -> None:
    """The credentials of the request are sent, in UTF-8."""
    with FtpServer(FILES, users={"elmer": "gr\xc3\xbcn"}) as server:
        assert (await ask.get(server.url("a"), user=User("elmer", "gr\u00fcn")))[1] == b"alpha"
        assert server.commands[:2] == ["USER elmer", "PASS gr\xc3\xbcn"]


async def test_credentials_of_another_origin_stay(ask: Asker) -> None:
    """Credentials that are bound to another origin are not sent."""
    with FtpServer(FILES) as server:
        elsewhere = Request("ftp://elsewhere/a").authorized(user=User("elmer", "canary"))
        async with ask.driver.open(replace(elsewhere, url=server.url("a")), SETTINGS) as payload:
            assert [block async for block in payload.body] == [b"alpha"]
        assert "USER anonymous" in server.commands


@pytest.mark.parametrize(
    "replies",
    [
        {"USER": "230 Come in."},
        {"USER": "200 fine, proceed without password"},
        {"PASS": "202 Not needed."},
        {"TYPE": "226 Kind of on the positive side!"},
        {"USER": "331-Password\r\n331 please."},
        {"USER": "336 Challenge 42."},
        {"PASS": "230-One\r\n 230 two\r\n550 three\r\n230-four\r\n230 Five."},
    ],
    ids=repr,
)
async def test_positive_is_positive(ask: Asker, replies: dict[str, str]) -> None:
    """Any positive reply to a step of the login lets the download go on."""
    with FtpServer(FILES, replies=replies) as server:
        assert (await ask.get(server.url("a")))[1] == b"alpha"
        assert server.sent("PASS") == (replies.get("USER", "331")[0] == "3")


@pytest.mark.parametrize(
    "greeting",
    [
        "220 Gr\xfc\xdfe aus K\xf6ln",
        "220-One\r\n220-two\r\n  three\r\n221 four\r\n220 Five.",
        "220",
        "\r\n\r\n220 Late.",
        "120 In a minute.\r\n220 Now.",
        "220-" + "x" * 5000 + "\r\n220 Long.",
        "200 Hello.",
    ],
    ids=range(7),
)
async def test_greetings(ask: Asker, greeting: str) -> None:
    """A greeting may be in Latin-1, of several lines, late, or odd."""
    with FtpServer(FILES, greeting=greeting) as server:
        assert (await ask.get(server.url("a")))[1] == b"alpha"


async def test_logged_in_by_the_greeting(ask: Asker) -> None:
    """A greeting of 230 is a login; USER is not sent."""
    with FtpServer(FILES, greeting="230 You are in.") as server:
        assert (await ask.get(server.url("a")))[1] == b"alpha"
        assert server.commands[0] == "TYPE I"


@pytest.mark.parametrize(
    ("replies", "kind", "code"),
    [
        ({"PASS": "530 Login incorrect."}, AccessDenied, 530),
        ({"USER": "530 No."}, AccessDenied, 530),
        ({"USER": "332 Need account."}, AccessDenied, 332),
        ({"PASS": "332 Need account."}, AccessDenied, 332),
        ({"PASS": "532 Need account."}, AccessDenied, 532),
        ({"PASS": "421 Too many."}, ServerError, 421),
        ({"PASS": "450 Later."}, ServerError, 450),
        ({"PASS": "500 OOPS: cannot change directory"}, StatusError, 500),
        ({"PASS": "550 No."}, StatusError, 550),
        ({"TYPE": "504 No."}, StatusError, 504),
    ],
    ids=repr,
)
async def test_login_refused(ask: Asker, replies: dict[str, str], kind: type[StatusError], code: int) -> None:
    """A refused login is named by its code, and the connection is closed."""
    with FtpServer(FILES, replies=replies) as server:
        error = await ask.fails(kind, server.url("a"))
        assert error.code == code
        assert error.transient == (400 <= code < 500)
        await asyncio.to_thread(server.settle)
        assert not server.sent("RETR")


@pytest.mark.parametrize(
    ("replies", "greeting", "kind"),
    [
        ({"PASS": "314 bluah you f00l!"}, "220 Hello.", ProtocolError),
        ({"PASS": "633 XXXXXXXXXXXXXXXX"}, "220 Hello.", ProtocolError),
        ({"PASS": "PWNED"}, "220 Hello.", ProtocolError),
        ({}, "SSH-2.0-OpenSSH_9.2", ProtocolError),
        ({}, "220 " + "x" * 9000, ProtocolError),
        ({}, "220 " + "x" * 200_000, ProtocolError),
        ({}, "220-" + ("x" * 1000 + "\r\n") * 70 + "220 End.", ProtocolError),
        ({}, HANG_UP, ConnectError),
        ({"USER": HANG_UP}, "220 Hello.", ConnectError),
        ({}, "421 Full.", ServerError),
    ],
    ids=range(10),
)
async def test_bad_beginnings(ask: Asker, replies: dict[str, str], greeting: str, kind: type[StatusError]) -> None:
    """What is not FTP, is endless, or ends at once is told apart, and the connection is closed."""
    with FtpServer(FILES, replies=replies, greeting=greeting) as server:
        error = await ask.fails(kind, server.url("a"))
        assert len(str(error)) < 600
        await asyncio.to_thread(server.settle)


async def test_full_for_a_while(ask: Asker) -> None:
    """A server that is full twice is reached the third time."""
    with FtpServer(FILES, greeting=["421 Full.", "421 Full.", "220 Hello."]) as server:
        for _ in range(2):
            assert (await ask.fails(ServerError, server.url("a"))).transient
        assert (await ask.get(server.url("a")))[1] == b"alpha"


@pytest.mark.parametrize("replies", [{"USER": SILENCE}, {"PASS": SILENCE}, {"TYPE": SILENCE}, {"USER": "331-One"}])
async def test_silence_while_connecting(ask: Asker, replies: dict[str, str]) -> None:
    """A step of the login that is not answered in time is a time-out of connecting."""
    with FtpServer(FILES, replies=replies) as server:
        assert (await ask.fails(TimeoutExceeded, server.url("a"), IMPATIENT)).phase == "connect"
        await asyncio.to_thread(server.settle)


async def test_no_greeting(ask: Asker) -> None:
    """A server that does not greet is a time-out of connecting."""
    with FtpServer(FILES, greeting=SILENCE) as server:
        assert (await ask.fails(TimeoutExceeded, server.url("a"), IMPATIENT)).phase == "connect"
        await asyncio.to_thread(server.settle)


async def test_nobody_listens(ask: Asker) -> None:
    """A closed port is a ConnectError that names the host."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        error = await ask.fails(ConnectError, f"ftp://127.0.0.1:{unused.getsockname()[1]}/a")
    assert error.transient
    assert "127.0.0.1" in str(error)


@pytest.mark.parametrize(("code", "transient"), [(socket.EAI_AGAIN, True), (socket.EAI_NONAME, False)])
async def test_no_such_host(ask: Asker, monkeypatch: pytest.MonkeyPatch, code: int, transient: bool) -> None:
    """A name without an address is a NameResolutionError, transient where the resolver says so."""

    async def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(code, "it is not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    error = await ask.fails(NameResolutionError, "ftp://host/a")
    assert error.transient == transient
    assert "it is not known" in str(error)


async def test_impossible_host(ask: Asker) -> None:
    """A name that cannot be one is a NameResolutionError too."""
    await ask.fails(NameResolutionError, f"ftp://{'x' * 70}.example/a")


@pytest.mark.parametrize(
    ("url", "user"),
    [("a%0d%0aDELE%20a", None), ("a%00", None), ("a;type=a", None), ("", None), ("a", User("x\r\nDELE a"))],
    ids=ascii,
)
async def test_refused_before_connecting(ask: Asker, url: str, user: User | None) -> None:
    """What must not be sent is refused before anybody is connected to."""
    with FtpServer(FILES) as server:
        await ask.fails(PolicyError, server.url(url), user=user)
        assert server.controls == 0


async def test_listing_is_not_offered(ask: Asker) -> None:
    """A listing is refused in so many words."""
    with FtpServer(FILES) as server:
        assert "listing" in str(await ask.fails(PolicyError, server.url("dir/"), verb="list"))
        assert server.controls == 0


async def test_proxy_is_refused(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a proxy is wanted nobody is connected to directly; with none, or for another scheme, it works."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    from_environment = Settings(environment=True).complete()
    with FtpServer(FILES) as server:
        await ask.fails(ProxyError, server.url("a"), Settings(proxy="http://127.0.0.1:1").complete())
        exempt = Settings(proxy="http://127.0.0.1:1", no_proxy="127.0.0.0/8").complete()
        assert (await ask.get(server.url("a"), exempt))[1] == b"alpha"
        assert (await ask.get(server.url("a"), from_environment))[1] == b"alpha"
        assert server.controls == 2
        monkeypatch.setenv("ftp_proxy", "http://127.0.0.1:1")
        await ask.fails(ProxyError, server.url("a"), from_environment)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert (await ask.get(server.url("a"), from_environment))[1] == b"alpha"


@pytest.mark.parametrize("denied", [True, False])
async def test_no_secret_is_shown(ask: Asker, caplog: pytest.LogCaptureFixture, denied: bool) -> None:
    """Name and password are in no log at any level, no error and no repr, although the server repeats them."""
    echo = "Name canary-name, password canary-word."
    replies = {"USER": f"331 {echo}", "PASS": f"530 {echo}" if denied else f"230 {echo}", "RETR": f"550 {echo}"}
    user = User("canary-name", "canary-word")
    asyncio.get_running_loop().set_debug(True)
    with caplog.at_level(logging.DEBUG), FtpServer({"a": b"alpha"}, replies=replies) as server:
        error = await ask.fails(AccessDenied if denied else NotFound, server.url("a"), user=user)
        seen = f"{error} {error!r} {vars(error)} {ask.driver!r} {vars(ask.driver)}"
        assert server.commands[:2] == ["USER canary-name", "PASS canary-word"]
    assert "Name ***, password ***." in str(error)
    assert "canary" not in seen
    assert "canary" not in caplog.text


async def test_a_password_of_digits_does_not_disturb(ask: Asker) -> None:
    """Hiding a secret changes what is shown, not what is read: ports and sizes stay."""
    with FtpServer(FILES, replies={"SIZE": "500 No."}) as server:
        info, received = await ask.get(server.url("a"), user=User("1", "5"))
        assert (info.size, received) == (5, b"alpha")
