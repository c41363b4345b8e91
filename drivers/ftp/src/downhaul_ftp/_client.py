"""What is said on a control connection for each file."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final, Self

from downhaul import ConnectError, FetchError, RangeRefused, TimeoutExceeded

from ._data import DataConnection
from ._failures import refused
from ._login import Login
from ._replies import Reply, announced_size, extended_port, passive_port

if TYPE_CHECKING:
    from downhaul import Timeout, User

    from ._control import Control
    from ._location import Location

_LOSES_COMMANDS: Final = re.compile("icrosoft FTP Service|MadGoat|MikroTik")
"""Greetings of servers that lose commands which come in one piece, as lftp's configuration knows them."""

_LAG: Final = 5.0
"""Seconds after which a server that has answered one of several commands must have lost the next."""


class Client:
    """A control connection, logged in, and what is to be known of its server.

    Every method raises `FetchError` only; after one was raised the connection is in doubt and must not be used again.
    """

    def __init__(self, control: Control, secrets: tuple[str, ...], timeout: Timeout, *, loses_commands: bool) -> None:
        self._control = control
        self._secrets = secrets
        self.timeout = timeout
        self.loses_commands = loses_commands
        """Whether the server is of a kind that loses commands which come in one piece."""
        self.answered = False
        """Whether the server has answered anything since this was last set to False."""

    @classmethod
    async def opened(cls, location: Location, user: User, timeout: Timeout) -> Self:
        """Connect and log in, each step within ``timeout.connect`` seconds."""
        login = Login(user, timeout)
        control, greeting = await login.control(location)
        return cls(control, login.secrets, timeout, loses_commands=bool(_LOSES_COMMANDS.search(greeting.text)))

    async def about(self, path: bytes) -> tuple[Reply, Reply, None]:
        """Return the replies to SIZE and to MDTM of *path* (RFC 3659, sections 3 and 4), asked one after the other."""
        about_size = _of_file("SIZE", await self._ask(b"SIZE " + path))
        return about_size, _of_file("MDTM", await self._ask(b"MDTM " + path)), None

    async def about_at_once(self, path: bytes, passive: str | None) -> tuple[Reply, Reply, Reply | None]:
        """Return the same, and the reply to *passive* (EPSV or PASV, or None), asked in one piece: one round trip.

        RFC 959 (section 5.4) wants servers to queue such commands, though it has users wait.
        """
        commands = [b"SIZE " + path, b"MDTM " + path]
        if passive is not None:
            commands.append(passive.encode())
        self._control.send(*commands)
        about_size = _of_file("SIZE", await self._answer("SIZE"))
        about_time = _of_file("MDTM", await self._answer("MDTM", lag=_LAG))
        return about_size, about_time, None if passive is None else await self._answer(passive, lag=_LAG)

    async def open_data(self, asked: Reply | None, *, extended: bool) -> tuple[DataConnection, FetchError | None]:
        """Open a data connection to the host of the control connection, whatever host the server names.

        Tries EPSV first where *extended* is set, then PASV; *asked* is the reply to the first of them, if that was
        asked for already. Returns the connection, and where PASV had to follow EPSV, why.
        """
        failure: FetchError | None = None
        ways = (("EPSV", extended_port), ("PASV", passive_port))
        for verb, port_of in ways if extended else ways[1:]:
            reply, asked = asked or await self._ask(verb.encode()), None
            if reply.transient:
                raise refused(verb, reply)
            port = port_of(reply)
            if port is None:
                failure = failure or refused(verb, reply)
                continue
            try:
                return await DataConnection.open(*self._control.peer(port), self.timeout.connect), failure
            except FetchError as error:
                failure = error.with_traceback(None)
        raise failure or ConnectError("no data connection")

    async def restart(self, offset: int) -> None:
        """Let the next transfer begin at *offset* bytes (RFC 3659, section 5); raises `RangeRefused` if it cannot."""
        reply = await self._ask(b"REST %d" % offset)
        if reply.code == 350:
            return
        if reply.transient:
            raise refused("REST", reply)
        raise RangeRefused(f"the server cannot start at an offset: {reply.code} {reply.shown}")

    async def retrieve(self, path: bytes, offset: int) -> tuple[Reply | None, int | None]:
        """Begin the transfer of *path*; return the final reply, if it is there already, and the announced size."""
        self._control.send(b"RETR " + path)
        reply = await self._answer("RETR", preliminary=True)
        if not reply.preliminary and not reply.positive:
            if offset and reply.code in (551, 554):
                raise RangeRefused(f"the server cannot start at an offset: {reply.code} {reply.shown}")
            raise refused("RETR", reply, of_file=True)
        return None if reply.preliminary else reply, announced_size(reply, path)

    async def final_reply(self, seconds: float) -> Reply:
        """Return the reply that ends a transfer, for which to wait at most *seconds*."""
        return await self._reply("end of the transfer", seconds)

    def is_quiet(self) -> bool:
        """Tell whether an idle connection is still open and nothing was said on it that nobody has read."""
        return self._control.is_quiet()

    def cut(self) -> None:
        """Close at once; the socket is gone after the loop's next turn."""
        self._control.cut()

    async def drop(self) -> None:
        """Close at once, and wait until the socket is gone."""
        await self._control.drop()

    async def leave(self) -> None:
        """Say good-bye without waiting for the answer, and close."""
        await self._control.leave()

    async def _ask(self, command: bytes) -> Reply:
        self._control.send(command)
        return await self._answer(command[:4].decode("latin-1"))

    async def _answer(self, verb: str, *, lag: float = math.inf, preliminary: bool = False) -> Reply:
        """Return the reply to *verb*, for which to wait no longer than *lag* seconds, however patient we are."""
        limit = self.timeout.head or self.timeout.read or math.inf
        reply = await self._reply(verb, min(limit, lag), preliminary=preliminary)
        if reply.code == 421:  # the server hangs up
            raise refused(verb, reply)
        self.answered = True
        return reply

    async def _reply(self, doing: str, seconds: float, *, preliminary: bool = False) -> Reply:
        answer = await self._control.reply(seconds, preliminary=preliminary)
        if answer is None:
            raise TimeoutExceeded(f"{doing}: no answer within {seconds:g} seconds", "head")
        return Reply.of(answer, self._secrets)


def _of_file(verb: str, reply: Reply) -> Reply:
    if reply.transient:
        raise refused(verb, reply, of_file=True)
    if reply.code < 500 and reply.code != 213:
        # Perhaps the answer to something else: better no answer than that of another file.
        raise refused(verb, reply)
    return reply
