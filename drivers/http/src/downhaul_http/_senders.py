"""What the driver hands its requests to: pools of its own, or a client that the user made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from downhaul import IdleConnections, Request, Settings, Timeout

    from ._body import Rest
    from ._heads import Head


class Sender(Protocol):
    """What sends one request."""

    async def exchange(self, request: Request, timeout: Timeout) -> tuple[Head, Rest]:
        """Send *request*; return the head of the answer, and the rest of it. Raises FetchError."""


class Senders(Protocol):
    """What finds the `Sender` for a request."""

    async def take(self, request: Request, settings: Settings, idle: IdleConnections) -> Sender:
        """Return the sender for *request*; it stays open until it is given back, and may wait among *idle* then."""

    async def give_back(self, sender: Sender, *, clean: bool) -> None:
        """Say that *sender* is free again; *clean* says that its last answer was read to the end."""

    async def aclose(self) -> None:
        """Close what was opened here."""
