"""How a control connection comes about: aioftp connects and logs in, and gives it away."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import aioftp

from downhaul import ConnectError, User

from ._control import Control, drop
from ._failures import bounded, refused
from ._location import wire
from ._replies import MAX_LINE, Assembly, Reply, no_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from downhaul import Timeout

    from ._location import Location

_T = TypeVar("_T")

ANONYMOUS: Final = User("anonymous", "anonymous@")

_ANY: Final = "xxx"  # aioftp's mask for every code: what a code means is decided here
_KEPT_ALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 8))


class Login(aioftp.BaseClient):
    """aioftp's client, made tolerant in what it reads and bounded in all that it does."""

    def __init__(self, user: User, timeout: Timeout) -> None:
        # Latin-1 is bytes: names go out and texts come in as they are. `limit` is that of asyncio's stream.
        super().__init__(encoding="latin-1", limit=MAX_LINE)
        self._user = user
        self._limit = timeout.connect
        self.secrets = () if user is ANONYMOUS else tuple(filter(None, (wire(user.password), wire(user.name))))
        """What the server may repeat, and nobody may see."""

    async def control(self, location: Location) -> tuple[Control, Reply]:
        """Connect and log in, for bytes as they are (TYPE I); return the connection and the greeting.

        Each step may take ``timeout.connect`` seconds. Raises `FetchError` only.
        """
        ready = False
        try:
            greeting = await self._log_in(location)
            control = await self._within(Control.taken_over(self.stream.reader, self.stream.writer), "login")
            ready = True
            return control, greeting
        finally:
            if not ready and self._stream is not None:
                await drop(self._stream.writer)

    async def _log_in(self, location: Location) -> Reply:
        await self._within(self.connect(location.host, location.port), f"connecting to {location.host}")
        _keep_alive(self.stream.writer.get_extra_info("socket"))
        greeting = await self._within(self._said(), "greeting")
        if not greeting.positive:
            raise refused("greeting", greeting)
        if greeting.code != 230:  # some let everybody in at once
            reply = await self._within(self._tell("USER", self._user.name), "login")
            if reply.intermediate and reply.code != 332:
                reply = await self._within(self._tell("PASS", self._user.password), "login")
            if not reply.positive:
                raise refused("login", reply)
        reply = await self._within(self._said("TYPE I"), "TYPE")
        if not reply.positive:
            raise refused("TYPE I", reply)
        return greeting

    async def _within(self, work: Awaitable[_T], doing: str) -> _T:
        return await bounded(work, self._limit, phase="connect", doing=doing)

    async def _tell(self, verb: str, secret: str) -> Reply:
        """Send a part of the credentials, past aioftp's `command`, which logs what it sends."""
        await self.stream.write(f"{verb} {wire(secret)}\r\n".encode("latin-1"))
        return await self._said()

    async def _said(self, command: str | None = None) -> Reply:
        """Return the next reply; send *command* before."""
        return Reply.of(await self.command(command, _ANY, "1xx"), self.secrets)

    async def parse_response(self) -> tuple[aioftp.Code, list[str]]:
        """Read one reply; called by aioftp."""
        assembly = Assembly()
        answer = None
        while answer is None:
            line = None
            with suppress(ValueError):  # a stream's way to say that the line is longer than its limit
                line = await self.stream.readline()
            if line is None:
                raise no_reply()
            if not line.endswith(b"\n"):
                raise ConnectError("the server closed the control connection")
            answer = assembly.add(line)
        code, lines = answer
        return aioftp.Code(code), lines


def _keep_alive(control: socket.socket) -> None:
    """Let the kernel probe: during a long transfer nothing else passes here, and middleboxes forget silent ones."""
    with suppress(OSError):
        control.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEPT_ALIVE:
            if (option := getattr(socket, name, None)) is not None:
                control.setsockopt(socket.IPPROTO_TCP, option, value)
